//! Request heads: request line, header section, and what they mean.

use crate::body::Framing;
use crate::error::{HeadError, HeadErrorKind};
use crate::fields::{Fields, Summary};
use crate::scan::{
    CLASS, EMPTY_LINES_BYTES_MAX, HeadLimits, NAME, skip_empty_lines, target_end, token_end,
};
use crate::{Span, Version};

/// Request methods; what matters here is whether a request may be sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Trace,
    Patch,
    Other,
}

impl Method {
    fn of(name: &[u8]) -> Method {
        match name {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"TRACE" => Method::Trace,
            b"PATCH" => Method::Patch,
            _ => Method::Other,
        }
    }

    /// Whether the same request twice means the same as once (RFC 9110, 9.2.2). Unknown methods
    /// are not.
    pub fn is_idempotent(self) -> bool {
        matches!(
            self,
            Method::Get
                | Method::Head
                | Method::Put
                | Method::Delete
                | Method::Options
                | Method::Trace
        )
    }
}

/// The forms of a request target that are served (RFC 9112, 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetForm {
    /// `/path?query`
    #[default]
    Origin,
    /// `http://authority/path?query`; `path` starts at the given span.
    Absolute {
        /// The authority, which stands for `Host`.
        authority: Span,
        /// Path and query; may be empty, which means `/`.
        path: Span,
    },
    /// `*`, for OPTIONS.
    Asterisk,
}

/// A complete, valid request head.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The method as sent.
    pub method_span: Span,
    /// The target as sent.
    pub target: Span,
    /// Its form.
    pub form: TargetForm,
    /// The version as sent.
    pub version: Version,
    /// Bytes from the start of the buffer to the end of the head.
    pub length: usize,
    /// How the body is delimited.
    pub framing: Framing,
    /// Whether the sender wants to go on with this connection.
    pub keep_alive: bool,
    /// Whether the sender waits for `100 Continue`.
    pub expect_continue: bool,
    /// Whether it asks for another protocol (`Upgrade` named in `Connection`, HTTP/1.1 only).
    pub upgrade: bool,
    /// The value of `Host`.
    pub host: Option<Span>,
}

impl RequestHead {
    /// The target in origin form (or `*`): the path and query as the application sees them.
    pub fn path_and_query<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        match self.form {
            TargetForm::Origin | TargetForm::Asterisk => self.target.of(buffer),
            TargetForm::Absolute { path, .. } if path.is_empty() => b"/",
            TargetForm::Absolute { path, .. } => path.of(buffer),
        }
    }
}

/// Parses a request head at the start of `buffer` into `fields`.
///
/// `Ok(None)` means that the head is not complete yet and nothing in it is wrong so far.
pub fn parse_request(
    buffer: &[u8],
    fields: &mut Fields,
    limits: &HeadLimits,
) -> Result<Option<RequestHead>, HeadError> {
    let bounded = &buffer[..buffer.len().min(limits.head_bytes)];
    let parsed = parse_bounded(bounded, fields, limits)?;
    if parsed.is_none() && bounded.len() == limits.head_bytes {
        let line_done = bounded
            .windows(2)
            .skip(skip_empty_lines(bounded))
            .any(|w| w == b"\r\n");
        let kind = if line_done {
            HeadErrorKind::HeadTooLong
        } else {
            HeadErrorKind::TargetTooLong
        };
        return Err(HeadError::new(kind, bounded.len()));
    }
    Ok(parsed)
}

fn parse_bounded(
    buffer: &[u8],
    fields: &mut Fields,
    limits: &HeadLimits,
) -> Result<Option<RequestHead>, HeadError> {
    let start = skip_empty_lines(buffer);
    if start < EMPTY_LINES_BYTES_MAX && &buffer[start..] == b"\r" {
        return Ok(None);
    }
    let Some((line, mut head)) = request_line(buffer, start)? else {
        return Ok(None);
    };
    if line - start - 2 > limits.line_bytes {
        return Err(HeadError::new(HeadErrorKind::TargetTooLong, start));
    }
    let Some(end) = fields.parse(buffer, line, limits)? else {
        return Ok(None);
    };
    let summary = Summary::of(buffer, fields, head.version)?;
    head.length = end;
    head.keep_alive = summary.keeps_alive(head.version);
    head.upgrade = head.version == Version::H11 && summary.upgrade && summary.upgrade_option;
    head.expect_continue = head.version == Version::H11 && summary.expect_continue;
    head.host = summary.host;
    head.framing = match (summary.chunked, summary.content_length) {
        (true, _) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => {
            let has_body = matches!(head.method, Method::Post | Method::Put | Method::Patch);
            if head.version == Version::H10 && has_body {
                return Err(HeadError::new(HeadErrorKind::LengthRequired, 0));
            }
            Framing::Length(0)
        }
    };
    check_host(buffer, &head)?;
    Ok(Some(head))
}

/// `method SP target SP version CRLF`; returns the offset after it.
fn request_line(buffer: &[u8], start: usize) -> Result<Option<(usize, RequestHead)>, HeadError> {
    let method_end = token_end(buffer, start);
    match buffer.get(method_end) {
        None => return Ok(None),
        Some(b' ') if method_end > start => {}
        Some(_) => return Err(HeadError::new(HeadErrorKind::Method, method_end)),
    }
    let target_start = method_end + 1;
    let target_end = target_end(buffer, target_start);
    match buffer.get(target_end) {
        None => return Ok(None),
        Some(b' ') if target_end > target_start => {}
        Some(b'\r' | b'\n' | b' ') => {
            return Err(HeadError::new(HeadErrorKind::RequestLine, target_end));
        }
        Some(_) => return Err(HeadError::new(HeadErrorKind::Target, target_end)),
    }
    let Some((version, line_end)) = version_and_line_end(buffer, target_end + 1)? else {
        return Ok(None);
    };
    let method_span = Span::new(start, method_end);
    let target = Span::new(target_start, target_end);
    let method = Method::of(method_span.of(buffer));
    let form = target_form(buffer, method_span.of(buffer), target)?;
    let head = RequestHead {
        method,
        method_span,
        target,
        form,
        version,
        ..Default::default()
    };
    Ok(Some((line_end, head)))
}

fn version_and_line_end(buffer: &[u8], at: usize) -> Result<Option<(Version, usize)>, HeadError> {
    const PREFIX: &[u8] = b"HTTP/";
    let rest = &buffer[at..];
    let seen = rest.len().min(PREFIX.len());
    if rest[..seen] != PREFIX[..seen] {
        return Err(HeadError::new(HeadErrorKind::Version, at));
    }
    // `HTTP/` DIGIT `.` DIGIT CR LF
    if rest.len() < 10 {
        return match rest.iter().position(|&b| b == b'\n') {
            Some(found) => Err(HeadError::new(HeadErrorKind::Version, at + found)),
            None => Ok(None),
        };
    }
    let version = match (rest[5], rest[6], rest[7]) {
        (b'1', b'.', b'0') => Version::H10,
        (b'1', b'.', b'1'..=b'9') => Version::H11,
        (b'0' | b'2'..=b'9', b'.', b'0'..=b'9') => {
            return Err(HeadError::new(HeadErrorKind::VersionNotSupported, at));
        }
        _ => return Err(HeadError::new(HeadErrorKind::Version, at)),
    };
    match (rest[8], rest[9]) {
        (b'\r', b'\n') => Ok(Some((version, at + 10))),
        (b'\n', _) | (b'\r', _) => Err(HeadError::new(HeadErrorKind::LineEnd, at + 8)),
        _ => Err(HeadError::new(HeadErrorKind::RequestLine, at + 8)),
    }
}

fn target_form(buffer: &[u8], method: &[u8], target: Span) -> Result<TargetForm, HeadError> {
    let bytes = target.of(buffer);
    let fail = |kind| Err(HeadError::new(kind, target.start()));
    if method == b"CONNECT" {
        return fail(HeadErrorKind::Connect);
    }
    if bytes[0] == b'/' {
        return Ok(TargetForm::Origin);
    }
    if bytes == b"*" {
        return if method == b"OPTIONS" {
            Ok(TargetForm::Asterisk)
        } else {
            fail(HeadErrorKind::Target)
        };
    }
    let scheme = [&b"http://"[..], b"https://"].into_iter().find(|scheme| {
        bytes.len() > scheme.len() && bytes[..scheme.len()].eq_ignore_ascii_case(scheme)
    });
    let Some(scheme) = scheme else {
        return fail(HeadErrorKind::Target);
    };
    let start = target.start() + scheme.len();
    let rest = &buffer[start..target.end()];
    let end = start
        + rest
            .iter()
            .position(|&b| matches!(b, b'/' | b'?'))
            .unwrap_or(rest.len());
    let path = Span::new(end, target.end());
    // An empty path with a query has no origin form that needs no new bytes: refused as malformed.
    if end == start || path.of(buffer).first() == Some(&b'?') {
        return fail(HeadErrorKind::Target);
    }
    Ok(TargetForm::Absolute {
        authority: Span::new(start, end),
        path,
    })
}

/// RFC 9112, 3.2: exactly one well-formed `Host` in HTTP/1.1. An absolute target must name the
/// same authority, or nobody could say which of the two was meant.
fn check_host(buffer: &[u8], head: &RequestHead) -> Result<(), HeadError> {
    let fail = |offset| Err(HeadError::new(HeadErrorKind::Host, offset));
    let Some(host) = head.host else {
        return if head.version == Version::H11 {
            fail(head.length)
        } else {
            Ok(())
        };
    };
    if !is_authority(host.of(buffer)) {
        return fail(host.start());
    }
    if let TargetForm::Absolute { authority, .. } = head.form {
        let authority = authority.of(buffer);
        if !is_authority(authority) || !authority.eq_ignore_ascii_case(host.of(buffer)) {
            return fail(host.start());
        }
    }
    Ok(())
}

/// `host[:port]` with the bytes that RFC 3986 allows in a registered name or an IP literal. Empty
/// is allowed (RFC 9110, 7.2), userinfo is not.
fn is_authority(bytes: &[u8]) -> bool {
    let (host_ok, port) = match bytes.strip_prefix(b"[") {
        Some(literal) => {
            let Some(close) = literal.iter().position(|&b| b == b']') else {
                return false;
            };
            let (inside, port) = (&literal[..close], &literal[close + 1..]);
            (
                !inside.is_empty()
                    && inside
                        .iter()
                        .all(|b| b.is_ascii_alphanumeric() || b":.".contains(b)),
                port,
            )
        }
        None => {
            let colon = bytes.iter().position(|&b| b == b':').unwrap_or(bytes.len());
            let name_ok = bytes[..colon]
                .iter()
                .all(|&b| CLASS[b as usize] & NAME != 0);
            (name_ok, &bytes[colon..])
        }
    };
    host_ok
        && match port {
            [] => true,
            [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn parse(bytes: &[u8]) -> Result<Option<RequestHead>, HeadErrorKind> {
        parse_request(bytes, &mut Fields::new(), &HeadLimits::default()).map_err(|e| e.kind)
    }

    #[test]
    fn a_plain_request() {
        let bytes = b"\r\nPOST /a?b HTTP/1.1\r\nHost: x:80\r\nContent-Length: 5\r\n\r\nhello";
        let head = parse(bytes).unwrap().unwrap();
        assert_eq!(head.method, Method::Post);
        assert_eq!(head.target.of(bytes), b"/a?b");
        assert_eq!(head.framing, Framing::Length(5));
        assert_eq!(head.length, bytes.len() - 5);
        assert!(head.keep_alive && !head.upgrade && !head.expect_continue);
        assert_eq!(head.host.unwrap().of(bytes), b"x:80");
    }

    #[test]
    fn every_prefix_is_incomplete_and_never_an_error() {
        let bytes =
            b"\r\n\r\nGET http://a.b:1/x HTTP/1.1\r\nHost: a.b:1\r\nTransfer-Encoding: chunked\r\n\
            Connection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        for end in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..end]), Ok(None)), "{end}");
        }
        let head = parse(bytes).unwrap().unwrap();
        assert!(head.upgrade);
        assert_eq!(head.path_and_query(bytes), b"/x");
    }

    #[test]
    fn versions_decide_what_persists() {
        let keep = |text: &[u8]| parse(text).unwrap().unwrap().keep_alive;
        assert!(keep(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!keep(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n"
        ));
        assert!(!keep(b"GET / HTTP/1.0\r\n\r\n"));
        assert!(keep(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
        assert!(!keep(
            b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"
        ));
    }

    #[test]
    fn what_is_refused_and_how() {
        use HeadErrorKind as K;
        let with = |line: &str| {
            let mut text = Vec::from(&b"GET / HTTP/1.1\r\nHost: a\r\n"[..]);
            text.extend_from_slice(line.as_bytes());
            text.extend_from_slice(b"\r\n\r\n");
            parse(&text).map(|_| ()).unwrap_err()
        };
        for (line, kind) in [
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked",
                K::LengthAndTransferEncoding,
            ),
            ("Content-Length: 1\r\nContent-Length: 1", K::ContentLength),
            ("Content-Length: 1, 1", K::ContentLength),
            ("Content-Length: +1", K::ContentLength),
            ("Content-Length:", K::ContentLength),
            ("Transfer-Encoding: gzip", K::UnknownTransferCoding),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                K::TransferEncoding,
            ),
            ("X: a\r\n b", K::Fold),
            ("X : a", K::FieldName),
            (": a", K::FieldName),
            ("X", K::FieldName),
            ("X: a\u{1}", K::FieldValue),
            ("X: a\u{7f}", K::FieldValue),
            ("X: a\0b", K::FieldValue),
            ("X: a\nY: b", K::LineEnd),
            ("X: a\rY: b", K::LineEnd),
            ("Host: b", K::Host),
            ("X\u{e9}: a", K::FieldName),
        ] {
            assert_eq!(with(line), kind, "{line:?}");
        }
        for (text, kind) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], K::Host),
            (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", K::Host),
            (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", K::Host),
            (b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", K::Host),
            (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", K::Host),
            (b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", K::Host),
            (b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", K::Target),
            (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", K::Target),
            (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", K::Target),
            (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", K::Target),
            (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", K::Connect),
            (b"GET  / HTTP/1.1\r\n", K::RequestLine),
            (b"GET / HTTP/1.1 \r\n", K::RequestLine),
            (b"GET /\r\n", K::RequestLine),
            (b"GET / \r\n", K::Version),
            (b"GET / http/1.1\r\n\r\n", K::Version),
            (b"GET / HTTP/1.\r\n\r\n", K::Version),
            (b"PRI * HTTP/2.0\r\n\r\n", K::VersionNotSupported),
            (b"GET / HTTP/1.1\n\n", K::LineEnd),
            (b"G@T / HTTP/1.1\r\n", K::Method),
            (b" GET / HTTP/1.1\r\n", K::Method),
            (b"\x16\x03\x01", K::Method),
            (b"\r\n\r\n\r\nGET / HTTP/1.1\r\n", K::Method),
            (b"POST / HTTP/1.0\r\n\r\n", K::LengthRequired),
            (
                b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
                K::TransferEncodingInHttp10,
            ),
        ] {
            assert_eq!(
                parse(text).map(|_| ()),
                Err(kind),
                "{}",
                text.escape_ascii()
            );
        }
    }

    #[test]
    fn bounds() {
        let limits = HeadLimits {
            head_bytes: 64,
            header_count: 2,
            line_bytes: 20,
            field_bytes: 20,
        };
        let kind = |text: &[u8]| {
            parse_request(text, &mut Fields::new(), &limits)
                .map(|_| ())
                .unwrap_err()
                .kind
        };
        let long_target = [&b"GET /"[..], &[b'a'; 80], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        assert_eq!(kind(&long_target), HeadErrorKind::TargetTooLong);
        let long_head = [
            &b"GET / HTTP/1.1\r\nHost: a\r\nX: "[..],
            &[b'a'; 80],
            b"\r\n\r\n",
        ]
        .concat();
        assert_eq!(kind(&long_head), HeadErrorKind::HeadTooLong);
        assert_eq!(
            kind(b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\n\r\n"),
            HeadErrorKind::TooManyFields
        );
        // "GET /aaaaaa HTTP/1.1" has 20 bytes, and so has "X: aaaaaaaaaaaaaaa" with its CRLF.
        let fits = b"GET /aaaaaa HTTP/1.1\r\nHost: a\r\nX: aaaaaaaaaaaaaaa\r\n\r\n";
        let parsed = parse_request(fits, &mut Fields::new(), &limits);
        assert!(parsed.unwrap().is_some());
        assert_eq!(
            kind(b"GET /aaaaaaa HTTP/1.1\r\nHost: a\r\n\r\n"),
            HeadErrorKind::TargetTooLong
        );
        assert_eq!(
            kind(b"GET / HTTP/1.1\r\nHost: a\r\nX: aaaaaaaaaaaaaaaa\r\n\r\n"),
            HeadErrorKind::FieldTooLong
        );
    }
}
