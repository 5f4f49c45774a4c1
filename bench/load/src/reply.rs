//! An HTTP/1.1 response as it comes in: whole or not, right or not.

use crate::body::{Check, Chunk, Framing};
use crate::plan::Class;
use crate::record::Failure;

/// More fields than this are malformed here.
const FIELDS_MAX: usize = 64;

/// How far a response is.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More is to come.
    More,
    /// It is whole.
    Whole {
        /// The connection can carry no other.
        closes: bool,
        /// What is wrong with it, if anything.
        wrong: Option<Failure>,
    },
}

#[derive(Debug)]
enum State {
    Head,
    Body(Framing),
}

/// A response, while it comes in.
#[derive(Debug)]
pub struct Reply {
    partial: Vec<u8>,
    state: State,
    status: u16,
    check: Check,
    closes: bool,
}

impl Reply {
    /// Of which nothing has come yet.
    pub fn new() -> Reply {
        Reply {
            partial: Vec::new(),
            state: State::Head,
            status: 0,
            check: Check::default(),
            closes: false,
        }
    }

    /// The status, once the head is there.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether any byte of it has come.
    pub fn has_begun(&self) -> bool {
        !self.partial.is_empty() || matches!(self.state, State::Body(_))
    }

    /// Takes what came.
    ///
    /// # Errors
    /// [`Failure::Malformed`], also for bytes behind the end.
    pub fn take(&mut self, bytes: &[u8], class: &Class) -> Result<Progress, Failure> {
        self.take_with(bytes, class, |_| ())
    }

    /// As [`Reply::take`], and hands the body's bytes on.
    ///
    /// # Errors
    /// As there.
    pub fn take_with(
        &mut self,
        bytes: &[u8],
        class: &Class,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<Progress, Failure> {
        let held;
        let mut rest = bytes;
        if matches!(self.state, State::Head) {
            if !self.partial.is_empty() {
                self.partial.extend_from_slice(bytes);
                held = std::mem::take(&mut self.partial);
                rest = &held;
            }
            match self.head(rest)? {
                Some(n) => rest = &rest[n..],
                None => {
                    self.partial = rest.to_vec();
                    return Ok(Progress::More);
                }
            }
        }
        let State::Body(framing) = &mut self.state else {
            return Ok(Progress::More);
        };
        let check = &mut self.check;
        let taken = framing
            .take(rest, |body| {
                check.take(body, &class.expect);
                sink(body);
            })
            .map_err(|_| Failure::Malformed)?;
        if taken < rest.len() {
            return Err(Failure::Malformed);
        }
        if framing.is_over() {
            return Ok(self.whole(class));
        }
        Ok(Progress::More)
    }

    /// The connection ended: the response is whole only if it said that it would end so.
    pub fn end(&mut self, class: &Class) -> Option<Progress> {
        match self.state {
            State::Body(Framing::UntilClose) => Some(self.whole(class)),
            _ => None,
        }
    }

    fn whole(&self, class: &Class) -> Progress {
        let wrong = if self.status != class.status {
            Some(Failure::Status(self.status))
        } else if !self.check.is_right(&class.expect) {
            Some(Failure::Body)
        } else {
            None
        };
        Progress::Whole {
            closes: self.closes,
            wrong,
        }
    }

    /// Parses heads up to the final one's end; gives where the body begins.
    fn head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Failure> {
        let mut from = 0;
        loop {
            let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
            let mut head = httparse::Response::new(&mut fields);
            let n = match head.parse(&bytes[from..]) {
                Ok(httparse::Status::Complete(n)) => n,
                Ok(httparse::Status::Partial) => return Ok(None),
                Err(_) => return Err(Failure::Malformed),
            };
            from += n;
            let status = head.code.ok_or(Failure::Malformed)?;
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            self.status = status;
            let framing = self.framing(&head, status)?;
            self.state = State::Body(framing);
            return Ok(Some(from));
        }
    }

    fn framing(&mut self, head: &httparse::Response, status: u16) -> Result<Framing, Failure> {
        let mut length = None;
        let mut chunked = false;
        self.closes = head.version == Some(0);
        for field in head.headers.iter() {
            if field.name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(field.value).map_err(|_| Failure::Malformed)?;
                length = Some(text.trim().parse().map_err(|_| Failure::Malformed)?);
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = field.value.eq_ignore_ascii_case(b"chunked");
            } else if field.name.eq_ignore_ascii_case("connection") {
                if field.value.eq_ignore_ascii_case(b"close") {
                    self.closes = true;
                } else if field.value.eq_ignore_ascii_case(b"keep-alive") {
                    self.closes = false;
                }
            }
        }
        Ok(match (status, chunked, length) {
            (101 | 204 | 304, ..) => Framing::Length(0),
            (_, true, _) => Framing::Chunked(Chunk::START),
            (_, false, Some(length)) => Framing::Length(length),
            (_, false, None) => {
                self.closes = true;
                Framing::UntilClose
            }
        })
    }
}

impl Default for Reply {
    fn default() -> Reply {
        Reply::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(expect: &str) -> Class {
        let text = format!(r#"{{"name":"a","path":"/","expect":{expect}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn feed(wire: &str, piece: usize, class: &Class) -> Result<Progress, Failure> {
        let mut reply = Reply::new();
        let mut last = Ok(Progress::More);
        for part in wire.as_bytes().chunks(piece) {
            last = reply.take(part, class);
        }
        last
    }

    const RIGHT: Result<Progress, Failure> = Ok(Progress::Whole {
        closes: false,
        wrong: None,
    });

    #[test]
    fn a_response_in_any_pieces_is_the_same() {
        let class = class(r#"{"text":"hello"}"#);
        let wires = [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ];
        for wire in wires {
            for piece in 1..=wire.len() {
                assert_eq!(feed(wire, piece, &class), RIGHT, "{wire:?} by {piece}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let class = class(r#"{"text":"hello"}"#);
        let wrong = |wire: &str| match feed(wire, wire.len(), &class) {
            Ok(Progress::Whole { wrong, .. }) => wrong,
            Ok(Progress::More) => None,
            Err(failure) => Some(failure),
        };
        let status = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(wrong(status), Some(Failure::Status(503)));
        let body = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhallo";
        assert_eq!(wrong(body), Some(Failure::Body));
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhell";
        assert_eq!(wrong(length), Some(Failure::Body));
        let behind = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello?";
        assert_eq!(wrong(behind), Some(Failure::Malformed));
        assert_eq!(wrong("HTTX\r\n\r\n"), Some(Failure::Malformed));
    }

    #[test]
    fn an_unframed_body_ends_with_the_connection() {
        let class = class(r#"{"filled":3}"#);
        let mut reply = Reply::new();
        let begun = reply.take(b"HTTP/1.1 200 OK\r\n\r\nxxx", &class);
        assert_eq!(begun, Ok(Progress::More));
        let whole = Progress::Whole {
            closes: true,
            wrong: None,
        };
        assert_eq!(reply.end(&class), Some(whole));
        let mut framed = Reply::new();
        let begun = framed.take(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nxxx", &class);
        assert_eq!(begun, Ok(Progress::More));
        assert_eq!(framed.end(&class), None);
    }
}
