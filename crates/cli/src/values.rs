//! Values as people type them on the command line: sizes, durations, numbers of workers, header
//! fields. Each says what is wrong with a value that it cannot take.

use std::str::FromStr;
use std::time::Duration;

use evener_config::values;

/// A number of bytes: `4096`, `64k`, `1m`, `2g` (powers of 1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        values::size(text).map(ByteSize)
    }
}

/// A size that may be `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SizeLimit(pub(crate) Option<u64>);

impl FromStr for SizeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        values::size_limit(text).map(SizeLimit)
    }
}

/// A time: bare seconds, or with a unit: `500ms`, `10s`, `2m`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        values::time(text).map(Time)
    }
}

/// A deadline: a time above zero, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline(pub(crate) Option<Duration>);

impl FromStr for Deadline {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        values::deadline(text).map(Deadline)
    }
}

/// How many workers: a number, `auto`, or a range for a scaler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkerCount {
    /// As many as there are CPUs.
    Auto,
    /// So many.
    Fixed(usize),
    /// Between two numbers.
    Range(usize, usize),
}

/// The most workers that can be asked for.
pub(crate) const WORKERS_MAX: usize = 1024;

impl FromStr for WorkerCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| -> Result<usize, String> {
            let count: usize = part.trim().parse().map_err(|_| {
                format!("`{text}` is not a number of workers: write 4, auto or 2..8")
            })?;
            if (1..=WORKERS_MAX).contains(&count) {
                Ok(count)
            } else {
                Err(format!(
                    "the number of workers must be between 1 and {WORKERS_MAX}"
                ))
            }
        };
        if text.trim().eq_ignore_ascii_case("auto") {
            return Ok(WorkerCount::Auto);
        }
        let Some((least, most)) = text.split_once("..") else {
            return number(text).map(WorkerCount::Fixed);
        };
        let (least, most) = (number(least)?, number(most)?);
        if least > most {
            return Err(format!("`{text}`: the smaller number comes first"));
        }
        Ok(WorkerCount::Range(least, most))
    }
}

/// What becomes of the number of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scaling {
    /// So many.
    To(usize),
    /// So many more, or fewer.
    By(isize),
}

impl FromStr for Scaling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        let count = digits.parse().unwrap_or(0);
        if !(1..=WORKERS_MAX).contains(&count) || !digits.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Err(format!(
                "`{text}` is not a number of workers: write 4, +1 or -1, at most {WORKERS_MAX}"
            ));
        }
        let difference = isize::try_from(count).unwrap_or(isize::MAX);
        Ok(match text.as_bytes()[0] {
            b'+' => Scaling::By(difference),
            b'-' => Scaling::By(-difference),
            _ => Scaling::To(count),
        })
    }
}

/// How many data-plane threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShardCount {
    /// As many as the workers need.
    Auto,
    /// So many.
    Fixed(usize),
}

impl FromStr for ShardCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().eq_ignore_ascii_case("auto") {
            return Ok(ShardCount::Auto);
        }
        match text.trim().parse() {
            Ok(count @ 1..=256) => Ok(ShardCount::Fixed(count)),
            _ => Err(format!(
                "`{text}` is not a number of shards: write auto, or 1 to 256"
            )),
        }
    }
}

/// A response header field: `Name: value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field(pub(crate) String, pub(crate) String);

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, value)) = text.split_once(':') else {
            return Err(format!("`{text}` has no colon: write `Name: value`"));
        };
        let (name, value) = (name.trim(), value.trim());
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) {
            return Err(format!("`{name}` cannot be the name of a header field"));
        }
        if value.chars().any(|c| c.is_control() && c != '\t') {
            return Err(format!("the value of `{name}` has control characters"));
        }
        let framing = [
            "content-length",
            "transfer-encoding",
            "connection",
            "upgrade",
        ];
        if framing.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(format!(
                "`{name}` belongs to the connection and cannot be added"
            ));
        }
        Ok(Field(name.to_owned(), value.to_owned()))
    }
}

/// A path that the edge answers itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UrlPath(pub(crate) String);

impl FromStr for UrlPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_graphic() && !"?#\"<>".contains(c);
        if text.starts_with('/') && text.chars().all(plain) {
            Ok(UrlPath(text.to_owned()))
        } else {
            Err(format!(
                "`{text}` is not a path: it begins with `/` and has no `?`"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_workers() {
        assert_eq!("auto".parse(), Ok(WorkerCount::Auto));
        assert_eq!("4".parse(), Ok(WorkerCount::Fixed(4)));
        assert_eq!("2..8".parse(), Ok(WorkerCount::Range(2, 8)));
        for wrong in ["0", "many", "-1", "8..2", "0..3", "1..", "1025", ""] {
            assert!(wrong.parse::<WorkerCount>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn changes_of_the_number_of_workers() {
        assert_eq!("4".parse(), Ok(Scaling::To(4)));
        assert_eq!("+2".parse(), Ok(Scaling::By(2)));
        assert_eq!("-1".parse(), Ok(Scaling::By(-1)));
        for wrong in ["", "0", "+", "-0", "+-1", "++1", "1025", "many", "1.5"] {
            assert!(wrong.parse::<Scaling>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn header_fields_cannot_break_a_response() {
        assert_eq!("X-A: b: c ".parse(), Ok(Field("X-A".into(), "b: c".into())));
        for wrong in [
            "no colon",
            ": x",
            "a b: c",
            "a: b\r\nc: d",
            "Content-Length: 3",
        ] {
            assert!(wrong.parse::<Field>().is_err(), "{wrong}");
        }
    }
}
