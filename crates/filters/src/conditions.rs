//! Conditional requests and ranges (RFC 9110, 13 and 14), for a resource that is there.

use std::ops::Range;

use evener_http1::list_items;

use crate::date;

/// More ranges than this are taken for none: the whole is sent.
const RANGES_MAX: usize = 32;

/// The resource, as it would be sent.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    /// Its entity tag, quotes and all; a strong one.
    pub tag: &'a [u8],
    /// When it was changed, in seconds since 1970.
    pub modified: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// The fields of a request that ask for something special. The first of each is meant.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// `If-Match`
    pub if_match: Option<&'a [u8]>,
    /// `If-None-Match`
    pub if_none_match: Option<&'a [u8]>,
    /// `If-Modified-Since`
    pub if_modified_since: Option<&'a [u8]>,
    /// `If-Unmodified-Since`
    pub if_unmodified_since: Option<&'a [u8]>,
    /// `If-Range`
    pub if_range: Option<&'a [u8]>,
    /// `Range`
    pub range: Option<&'a [u8]>,
}

/// What is to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// 200 and everything.
    Whole,
    /// 206 and these parts, in the order that was asked for; at least one.
    Parts(Vec<Range<u64>>),
    /// 304.
    NotModified,
    /// 412.
    Failed,
    /// 416.
    Unsatisfiable,
}

/// Decides over a GET or HEAD, in the order of RFC 9110, 13.2.2.
pub fn evaluate(resource: &Resource<'_>, asked: &Asked<'_>) -> Verdict {
    if let Some(tags) = asked.if_match {
        if !has_tag(tags, resource.tag, true) {
            return Verdict::Failed;
        }
    } else if let Some(since) = asked.if_unmodified_since.and_then(date::parse)
        && resource.modified > since
    {
        return Verdict::Failed;
    }
    if let Some(tags) = asked.if_none_match {
        if has_tag(tags, resource.tag, false) {
            return Verdict::NotModified;
        }
    } else if let Some(since) = asked.if_modified_since.and_then(date::parse)
        && resource.modified <= since
    {
        return Verdict::NotModified;
    }
    let Some(range) = asked.range else {
        return Verdict::Whole;
    };
    let is_same = asked.if_range.is_none_or(|value| match value {
        [b'"', ..] => value == resource.tag,
        _ => date::parse(value) == Some(resource.modified),
    });
    if !is_same {
        return Verdict::Whole;
    }
    ranges(range, resource.length)
}

/// Whether a list of entity tags has this one. Weak ones are equal only in the weak comparison.
fn has_tag(tags: &[u8], tag: &[u8], strong: bool) -> bool {
    list_items(tags).any(|item| {
        let (weak, opaque) = match item.strip_prefix(b"W/") {
            Some(opaque) => (true, opaque),
            None => (false, item),
        };
        item == b"*" || opaque == tag && !(strong && weak)
    })
}

/// What a `Range` asks of so many bytes.
fn ranges(range: &[u8], length: u64) -> Verdict {
    let unit = range.get(..6).unwrap_or_default();
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return Verdict::Whole;
    }
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut asked = 0;
    for item in list_items(&range[6..]) {
        asked += 1;
        let Some(part) = part(item, length) else {
            // What is malformed is ignored as a whole.
            return Verdict::Whole;
        };
        if asked > RANGES_MAX {
            return Verdict::Whole;
        }
        parts.extend(part);
    }
    let total: u64 = parts.iter().map(|part| part.end - part.start).sum();
    match (asked, &parts[..]) {
        (0, _) => Verdict::Whole,
        (_, []) => Verdict::Unsatisfiable,
        // Nobody gets the same bytes many times over for one request.
        _ if parts.len() > 1 && total >= length => Verdict::Whole,
        _ => Verdict::Parts(parts),
    }
}

/// One range; the inner `None` is one of which there is nothing, the outer one that is malformed.
fn part(item: &[u8], length: u64) -> Option<Option<Range<u64>>> {
    let text = std::str::from_utf8(item).ok()?;
    let (first, last) = text.split_once('-')?;
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        // What does not fit is beyond any end.
        true if !text.is_empty() => Some(text.parse::<u64>().unwrap_or(u64::MAX)),
        _ => None,
    };
    let part = match (number(first), number(last)) {
        (None, Some(suffix)) if first.is_empty() => length.saturating_sub(suffix)..length,
        (Some(first), None) if last.is_empty() => first..length,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
        _ => return None,
    };
    Some((part.start < part.end).then_some(part))
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use Verdict::{Failed, NotModified, Parts, Unsatisfiable, Whole};

    const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &[u8] = b"Sun, 06 Nov 1994 08:49:36 GMT";

    fn decide(asked: Asked<'_>) -> Verdict {
        let resource = Resource {
            tag: b"\"a\"",
            modified: 784_111_777,
            length: 100,
        };
        evaluate(&resource, &asked)
    }

    #[test]
    fn conditions_are_evaluated_in_their_order() {
        for (tags, verdict) in [
            (&b"\"a\""[..], NotModified),
            (b"W/\"a\"", NotModified),
            (b"\"b\", \"a\"", NotModified),
            (b"*", NotModified),
            (b"\"b\"", Whole),
        ] {
            let asked = Asked {
                if_none_match: Some(tags),
                // Counts only without If-None-Match.
                if_modified_since: Some(DATE),
                ..Asked::default()
            };
            assert_eq!(decide(asked), verdict);
        }
        for (since, verdict) in [(DATE, NotModified), (BEFORE, Whole), (&b"x"[..], Whole)] {
            let asked = Asked {
                if_modified_since: Some(since),
                ..Asked::default()
            };
            assert_eq!(decide(asked), verdict);
        }
        for (tags, verdict) in [
            (&b"\"a\""[..], Whole),
            (b"*", Whole),
            (b"W/\"a\"", Failed),
            (b"\"b\"", Failed),
        ] {
            let asked = Asked {
                if_match: Some(tags),
                if_unmodified_since: Some(BEFORE),
                ..Asked::default()
            };
            assert_eq!(decide(asked), verdict);
        }
        let asked = Asked {
            if_unmodified_since: Some(BEFORE),
            if_none_match: Some(b"*"),
            ..Asked::default()
        };
        assert_eq!(decide(asked), Failed);
    }

    #[test]
    fn ranges_of_all_kinds() {
        let of = |range: &str| {
            decide(Asked {
                range: Some(range.as_bytes()),
                ..Asked::default()
            })
        };
        for (range, verdict) in [
            ("bytes=0-9", Parts(vec![0..10])),
            ("Bytes=90-", Parts(vec![90..100])),
            ("bytes=90-1000", Parts(vec![90..100])),
            ("bytes=-10", Parts(vec![90..100])),
            ("bytes=-1000", Parts(vec![0..100])),
            ("bytes=0-99999999999999999999", Parts(vec![0..100])),
            ("bytes=5-5, 10-12", Parts(vec![5..6, 10..13])),
            ("bytes=20-29,0-9", Parts(vec![20..30, 0..10])),
            ("bytes=200-,0-0", Parts(vec![0..1])),
            ("bytes=100-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=99999999999999999999-", Unsatisfiable),
            ("bytes=0-,0-", Whole),
            ("bytes=9-0", Whole),
            ("bytes=", Whole),
            ("bytes=a-b", Whole),
            ("bytes=0-9,x", Whole),
            ("bytes=+1-2", Whole),
            ("lines=0-9", Whole),
            ("bytes", Whole),
        ] {
            assert_eq!(of(range), verdict, "{range}");
        }
        let many = format!("bytes={}", vec!["0-0"; RANGES_MAX + 1].join(","));
        assert_eq!(of(&many), Whole);
    }

    #[test]
    fn a_range_of_something_else_is_the_whole() {
        for (value, verdict) in [
            (&b"\"a\""[..], Parts(vec![0..1])),
            (b"W/\"a\"", Whole),
            (b"\"b\"", Whole),
            (DATE, Parts(vec![0..1])),
            (BEFORE, Whole),
        ] {
            let asked = Asked {
                range: Some(b"bytes=0-0"),
                if_range: Some(value),
                ..Asked::default()
            };
            assert_eq!(decide(asked), verdict);
        }
    }
}
