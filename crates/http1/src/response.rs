//! Response heads: status line, header section, and what they mean for the body and connection.

use crate::body::Framing;
use crate::error::{HeadError, HeadErrorKind};
use crate::fields::{Fields, Summary};
use crate::scan::{HeadLimits, value_end};
use crate::{Span, Version};

/// A complete, valid response head.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResponseHead {
    /// The version as sent.
    pub version: Version,
    /// The status code, 100 to 999.
    pub status: u16,
    /// The reason phrase as sent, often empty.
    pub reason: Span,
    /// Bytes from the start of the buffer to the end of the head.
    pub length: usize,
    /// How the body is delimited (RFC 9112, 6.3), given the request's method.
    pub framing: Framing,
    /// The value of `Content-Length`, also when there is no body to go with it (HEAD, 304).
    pub content_length: Option<u64>,
    /// Whether the sender will take another request on this connection.
    pub keep_alive: bool,
}

impl ResponseHead {
    /// Whether this is an interim response (1xx) that another response follows. 101 is final.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// Parses a response head at the start of `buffer` into `fields`. `to_head` says that the request
/// was HEAD, whose response has no body whatever its header says.
///
/// `Ok(None)` means that the head is not complete yet and nothing in it is wrong so far.
pub fn parse_response(
    buffer: &[u8],
    fields: &mut Fields,
    limits: &HeadLimits,
    to_head: bool,
) -> Result<Option<ResponseHead>, HeadError> {
    let bounded = &buffer[..buffer.len().min(limits.head_bytes)];
    let Some((line_end, mut head)) = status_line(bounded)? else {
        return unfinished(bounded, limits);
    };
    let Some(end) = fields.parse(bounded, line_end, limits)? else {
        return unfinished(bounded, limits);
    };
    let summary = Summary::of(bounded, fields, head.version)?;
    head.length = end;
    head.keep_alive = summary.keeps_alive(head.version);
    head.content_length = summary.content_length;
    let bodiless = to_head || matches!(head.status, 100..=199 | 204 | 304);
    head.framing = if bodiless {
        Framing::Length(0)
    } else if summary.chunked {
        Framing::Chunked
    } else if let Some(length) = summary.content_length {
        Framing::Length(length)
    } else {
        head.keep_alive = false;
        Framing::UntilClose
    };
    Ok(Some(head))
}

fn unfinished(bounded: &[u8], limits: &HeadLimits) -> Result<Option<ResponseHead>, HeadError> {
    if bounded.len() == limits.head_bytes {
        return Err(HeadError::new(HeadErrorKind::HeadTooLong, bounded.len()));
    }
    Ok(None)
}

/// `HTTP/1.x SP 3DIGIT [SP reason] CRLF`. The space before an empty reason may be missing, as many
/// servers leave it out.
fn status_line(buffer: &[u8]) -> Result<Option<(usize, ResponseHead)>, HeadError> {
    const PREFIX: &[u8] = b"HTTP/1.";
    let fail = |offset| Err(HeadError::new(HeadErrorKind::StatusLine, offset));
    let seen = buffer.len().min(PREFIX.len());
    if buffer[..seen] != PREFIX[..seen] {
        return fail(0);
    }
    if buffer.len() < 14 {
        return match buffer.iter().position(|&b| b == b'\n') {
            Some(found) => fail(found),
            None => Ok(None),
        };
    }
    let version = match buffer[7] {
        b'0' => Version::H10,
        b'1'..=b'9' => Version::H11,
        _ => return fail(7),
    };
    let digits = &buffer[9..12];
    if buffer[8] != b' ' || !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' {
        return fail(8);
    }
    let status = digits.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
    let reason_start = match buffer[12] {
        b' ' => 13,
        b'\r' => 12,
        _ => return fail(12),
    };
    let reason_end = value_end(buffer, reason_start);
    match (buffer.get(reason_end), buffer.get(reason_end + 1)) {
        (None, _) | (Some(b'\r'), None) => Ok(None),
        (Some(b'\r'), Some(b'\n')) => {
            let reason = Span::new(reason_start, reason_end);
            Ok(Some((
                reason_end + 2,
                ResponseHead {
                    version,
                    status,
                    reason,
                    ..Default::default()
                },
            )))
        }
        _ => fail(reason_end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8], to_head: bool) -> Result<Option<ResponseHead>, HeadErrorKind> {
        parse_response(bytes, &mut Fields::new(), &HeadLimits::default(), to_head)
            .map_err(|e| e.kind)
    }

    #[test]
    fn framing_follows_the_rfc() {
        let framing = |text: &[u8], to_head| parse(text, to_head).unwrap().unwrap().framing;
        let length = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
        assert_eq!(framing(length, false), Framing::Length(7));
        assert_eq!(framing(length, true), Framing::Length(0));
        assert_eq!(
            framing(
                b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
                false
            ),
            Framing::Length(0)
        );
        assert_eq!(
            framing(b"HTTP/1.1 204 No\r\n\r\n", false),
            Framing::Length(0)
        );
        assert_eq!(
            framing(
                b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n",
                false
            ),
            Framing::Chunked
        );
        let until_close = parse(b"HTTP/1.1 200\r\nX: y\r\n\r\n", false)
            .unwrap()
            .unwrap();
        assert_eq!(until_close.framing, Framing::UntilClose);
        assert!(!until_close.keep_alive);
    }

    #[test]
    fn interim_and_final() {
        assert!(
            parse(b"HTTP/1.1 103 Early\r\n\r\n", false)
                .unwrap()
                .unwrap()
                .is_interim()
        );
        assert!(
            !parse(b"HTTP/1.1 101 Up\r\n\r\n", false)
                .unwrap()
                .unwrap()
                .is_interim()
        );
    }

    #[test]
    fn garbage_is_refused() {
        for wrong in [
            &b"HTTX/1.1 200 OK\r\n\r\n"[..],
            b"HTTP/2.0 200 OK\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 099 OK\r\n\r\n",
            b"HTTP/1.1  200 OK\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 200 O\x01K\r\n\r\n",
            b"garbage\r\n",
            b"HTTP/1.1 200 OK\nX: y\n\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(parse(wrong, false).is_err(), "{}", wrong.escape_ascii());
        }
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n";
        for end in 0..whole.len() {
            assert!(matches!(parse(&whole[..end], false), Ok(None)), "{end}");
        }
    }
}
