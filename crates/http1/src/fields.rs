//! Header fields: the reused table they are parsed into, the names this codec knows, and lists in
//! values.

use alloc::vec::Vec;

use crate::error::{HeadError, HeadErrorKind};
use crate::scan::{CLASS, HeadLimits, TOKEN, token_end, value_end};
use crate::word::Word;
use crate::{Span, Version};

/// Names that the codec or its callers act on; all others are [`FieldName::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum FieldName {
    #[default]
    Other,
    Accept,
    Connection,
    ContentLength,
    ContentType,
    Date,
    Expect,
    Forwarded,
    Host,
    KeepAlive,
    ProxyConnection,
    Server,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    XForwardedClientCert,
    XForwardedFor,
    XForwardedHost,
    XForwardedPort,
    XForwardedProto,
    XRealIp,
    XRequestId,
}

impl FieldName {
    /// Recognises a name, which must be a token, in any case.
    pub fn of(name: &[u8]) -> FieldName {
        let (candidate, known): (&[u8], FieldName) = match name.len() {
            2 => (b"te", FieldName::Te),
            4 => match name[0] | 0x20 {
                b'h' => (b"host", FieldName::Host),
                _ => (b"date", FieldName::Date),
            },
            6 => match name[0] | 0x20 {
                b'a' => (b"accept", FieldName::Accept),
                b'e' => (b"expect", FieldName::Expect),
                _ => (b"server", FieldName::Server),
            },
            7 => match name[0] | 0x20 {
                b'u' => (b"upgrade", FieldName::Upgrade),
                _ => (b"trailer", FieldName::Trailer),
            },
            9 => match name[0] | 0x20 {
                b'x' => (b"x-real-ip", FieldName::XRealIp),
                _ => (b"forwarded", FieldName::Forwarded),
            },
            10 => match name[0] | 0x20 {
                b'c' => (b"connection", FieldName::Connection),
                _ => (b"keep-alive", FieldName::KeepAlive),
            },
            12 => match name[0] | 0x20 {
                b'c' => (b"content-type", FieldName::ContentType),
                _ => (b"x-request-id", FieldName::XRequestId),
            },
            14 => (b"content-length", FieldName::ContentLength),
            15 => (b"x-forwarded-for", FieldName::XForwardedFor),
            16 => match name[12] | 0x20 {
                b'p' => (b"x-forwarded-port", FieldName::XForwardedPort),
                b't' => (b"proxy-connection", FieldName::ProxyConnection),
                _ => (b"x-forwarded-host", FieldName::XForwardedHost),
            },
            17 => match name[0] | 0x20 {
                b't' => (b"transfer-encoding", FieldName::TransferEncoding),
                _ => (b"x-forwarded-proto", FieldName::XForwardedProto),
            },
            23 => (b"x-forwarded-client-cert", FieldName::XForwardedClientCert),
            _ => return FieldName::Other,
        };
        if is_name(name, candidate) {
            known
        } else {
            FieldName::Other
        }
    }
}

/// Whether `name` is `lower`, in any case. The candidate has the same length.
#[inline]
fn is_name(name: &[u8], lower: &[u8]) -> bool {
    let same = |one: Word, other: Word| one.folded() == other.folded();
    let ends = match (name.last_chunk(), lower.last_chunk()) {
        (Some(end), Some(lower_end)) => Some((Word::of(*end), Word::of(*lower_end))),
        _ => Word::of_short(name).zip(Word::of_short(lower)),
    };
    let Some((end, lower_end)) = ends else {
        return name.eq_ignore_ascii_case(lower);
    };
    let (words, lower_words) = (name.as_chunks().0, lower.as_chunks().0);
    let mut pairs = words.iter().zip(lower_words);
    same(end, lower_end) && pairs.all(|(one, other)| same(Word::of(*one), Word::of(*other)))
}

/// One header field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Field {
    /// Which of the known names it is.
    pub known: FieldName,
    /// The name as sent.
    pub name: Span,
    /// The value without the spaces and tabs around it.
    pub value: Span,
    /// The whole line with its CRLF, for copying it as it stands.
    pub line: Span,
}

/// The header section of one message, in order; reused from message to message.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    list: Vec<Field>,
}

impl Fields {
    /// An empty table.
    pub fn new() -> Fields {
        Fields::default()
    }

    /// The fields in the order sent.
    pub fn iter(&self) -> core::slice::Iter<'_, Field> {
        self.list.iter()
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The first field with this known name.
    pub fn first(&self, known: FieldName) -> Option<&Field> {
        self.list.iter().find(|field| field.known == known)
    }

    /// Parses field lines from `from` up to and including the empty line; returns the offset
    /// after it, or `None` when the section is not complete yet.
    pub(crate) fn parse(
        &mut self,
        buffer: &[u8],
        from: usize,
        limits: &HeadLimits,
    ) -> Result<Option<usize>, HeadError> {
        self.list.clear();
        let mut at = from;
        loop {
            match line_start(buffer, at)? {
                LineStart::Incomplete => return Ok(None),
                LineStart::End(end) => return Ok(Some(end)),
                LineStart::Field => {}
            }
            if self.list.len() == limits.header_count {
                return Err(HeadError::new(HeadErrorKind::TooManyFields, at));
            }
            match field_line(buffer, at)? {
                None => return Ok(None),
                Some(field) => {
                    if field.line.end() - at > limits.field_bytes {
                        return Err(HeadError::new(HeadErrorKind::FieldTooLong, at));
                    }
                    at = field.line.end();
                    self.list.push(field);
                }
            }
        }
    }
}

enum LineStart {
    Incomplete,
    End(usize),
    Field,
}

fn line_start(buffer: &[u8], at: usize) -> Result<LineStart, HeadError> {
    match buffer.get(at) {
        None => Ok(LineStart::Incomplete),
        Some(b'\r') => match buffer.get(at + 1) {
            None => Ok(LineStart::Incomplete),
            Some(b'\n') => Ok(LineStart::End(at + 2)),
            Some(_) => Err(HeadError::new(HeadErrorKind::LineEnd, at)),
        },
        Some(b'\n') => Err(HeadError::new(HeadErrorKind::LineEnd, at)),
        Some(b' ' | b'\t') => Err(HeadError::new(HeadErrorKind::Fold, at)),
        Some(_) => Ok(LineStart::Field),
    }
}

/// Parses one complete field line at `at`; `None` when it is not complete yet.
pub(crate) fn field_line(buffer: &[u8], at: usize) -> Result<Option<Field>, HeadError> {
    let name_end = token_end(buffer, at);
    match buffer.get(name_end) {
        None => return Ok(None),
        Some(b':') if name_end > at => {}
        Some(_) => return Err(HeadError::new(HeadErrorKind::FieldName, name_end)),
    }
    let value_end = value_end(buffer, name_end + 1);
    match (buffer.get(value_end), buffer.get(value_end + 1)) {
        (None, _) | (Some(b'\r'), None) => return Ok(None),
        (Some(b'\r'), Some(b'\n')) => {}
        (Some(b'\r' | b'\n'), _) => return Err(HeadError::new(HeadErrorKind::LineEnd, value_end)),
        (Some(_), _) => return Err(HeadError::new(HeadErrorKind::FieldValue, value_end)),
    }
    Ok(Some(Field {
        known: FieldName::of(&buffer[at..name_end]),
        name: Span::new(at, name_end),
        value: trim(buffer, name_end + 1, value_end),
        line: Span::new(at, value_end + 2),
    }))
}

fn trim(buffer: &[u8], mut start: usize, mut end: usize) -> Span {
    while start < end && matches!(buffer[start], b' ' | b'\t') {
        start += 1;
    }
    while end > start && matches!(buffer[end - 1], b' ' | b'\t') {
        end -= 1;
    }
    Span::new(start, end)
}

/// The items of a comma-separated list (RFC 9110, 5.6.1), trimmed, empty ones left out.
pub fn list_items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|item| !item.is_empty())
}

/// What the fields together say about the connection and the body. Filled by one walk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Summary {
    pub(crate) content_length: Option<u64>,
    pub(crate) chunked: bool,
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade_option: bool,
    pub(crate) upgrade: bool,
    pub(crate) expect_continue: bool,
    pub(crate) host: Option<Span>,
}

impl Summary {
    pub(crate) fn of(
        buffer: &[u8],
        fields: &Fields,
        version: Version,
    ) -> Result<Summary, HeadError> {
        let mut summary = Summary::default();
        let mut transfer_encoding = None;
        for field in fields.iter() {
            let value = field.value.of(buffer);
            let fail = |kind| Err(HeadError::new(kind, field.line.start()));
            match field.known {
                FieldName::ContentLength => match parse_length(value) {
                    Some(length) if summary.content_length.is_none() => {
                        summary.content_length = Some(length);
                    }
                    _ => return fail(HeadErrorKind::ContentLength),
                },
                FieldName::TransferEncoding => {
                    if transfer_encoding.replace(field.line.start()).is_some() {
                        return fail(HeadErrorKind::TransferEncoding);
                    }
                    check_codings(value)
                        .map_err(|kind| HeadError::new(kind, field.line.start()))?;
                    summary.chunked = true;
                }
                FieldName::Connection => {
                    for option in list_items(value) {
                        summary.close |= option.eq_ignore_ascii_case(b"close");
                        summary.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                        summary.upgrade_option |= option.eq_ignore_ascii_case(b"upgrade");
                    }
                }
                FieldName::Upgrade => summary.upgrade = !value.is_empty(),
                FieldName::Expect => {
                    summary.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
                }
                FieldName::Host if summary.host.is_some() => return fail(HeadErrorKind::Host),
                FieldName::Host => summary.host = Some(field.value),
                _ => {}
            }
        }
        if let Some(offset) = transfer_encoding {
            if summary.content_length.is_some() {
                return Err(HeadError::new(
                    HeadErrorKind::LengthAndTransferEncoding,
                    offset,
                ));
            }
            if version == Version::H10 {
                return Err(HeadError::new(
                    HeadErrorKind::TransferEncodingInHttp10,
                    offset,
                ));
            }
        }
        Ok(summary)
    }

    pub(crate) fn keeps_alive(&self, version: Version) -> bool {
        match version {
            Version::H11 => !self.close,
            Version::H10 => self.keep_alive && !self.close,
        }
    }
}

/// `1*DIGIT` that fits in 63 bits (RFC 9110, 8.6); lists of equal values are refused.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0u64, |length, &byte| {
        byte.is_ascii_digit()
            .then(|| length * 10 + u64::from(byte - b'0'))
    })
}

/// Only `chunked`, once, is understood. Other codings before a final `chunked`, or alone, are not
/// known (501); `chunked` anywhere but last is an error (400).
fn check_codings(value: &[u8]) -> Result<(), HeadErrorKind> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut unknown = false;
    let mut chunked_seen = false;
    for coding in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        let malformed =
            coding.is_empty() || !coding.iter().all(|&b| CLASS[b as usize] & TOKEN != 0);
        if malformed || chunked_seen {
            return Err(HeadErrorKind::TransferEncoding);
        }
        if coding.eq_ignore_ascii_case(b"chunked") {
            chunked_seen = true;
        } else {
            unknown = true;
        }
    }
    if unknown {
        Err(HeadErrorKind::UnknownTransferCoding)
    } else {
        Err(HeadErrorKind::TransferEncoding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_known_in_any_case() {
        for (name, known) in [
            (&b"HOST"[..], FieldName::Host),
            (b"date", FieldName::Date),
            (b"Content-Length", FieldName::ContentLength),
            (b"Transfer-Encoding", FieldName::TransferEncoding),
            (b"x-forwarded-PROTO", FieldName::XForwardedProto),
            (b"X-Forwarded-Host", FieldName::XForwardedHost),
            (b"X-Forwarded-Port", FieldName::XForwardedPort),
            (b"Proxy-Connection", FieldName::ProxyConnection),
            (b"X-Forwarded-For", FieldName::XForwardedFor),
            (b"x-real-ip", FieldName::XRealIp),
            (b"forwarded", FieldName::Forwarded),
            (b"keep-alive", FieldName::KeepAlive),
            (b"TE", FieldName::Te),
            (b"trailer", FieldName::Trailer),
            (b"upgrade", FieldName::Upgrade),
            (b"X-Request-Id", FieldName::XRequestId),
            (b"Content-Type", FieldName::ContentType),
            (b"expect", FieldName::Expect),
            (b"server", FieldName::Server),
            (b"accept", FieldName::Accept),
            (b"x", FieldName::Other),
            (b"hose", FieldName::Other),
            (b"content-lengthy", FieldName::Other),
        ] {
            assert_eq!(FieldName::of(name), known, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn lengths_are_plain_digits() {
        assert_eq!(parse_length(b"0"), Some(0));
        assert_eq!(parse_length(b"000012"), Some(12));
        assert_eq!(
            parse_length(b"999999999999999999"),
            Some(999_999_999_999_999_999)
        );
        for wrong in [
            &b""[..],
            b"+1",
            b"-1",
            b"1 1",
            b"1,1",
            b"0x1",
            b"1a",
            b"9999999999999999999",
        ] {
            assert_eq!(parse_length(wrong), None, "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn codings() {
        assert_eq!(check_codings(b"Chunked"), Ok(()));
        for (value, kind) in [
            (&b"gzip"[..], HeadErrorKind::UnknownTransferCoding),
            (b"gzip, chunked", HeadErrorKind::UnknownTransferCoding),
            (b"identity", HeadErrorKind::UnknownTransferCoding),
            (b"xchunked", HeadErrorKind::UnknownTransferCoding),
            (b"chunked, chunked", HeadErrorKind::TransferEncoding),
            (b"chunked, gzip", HeadErrorKind::TransferEncoding),
            (b"", HeadErrorKind::TransferEncoding),
            (b"chunked,", HeadErrorKind::TransferEncoding),
            (b",chunked", HeadErrorKind::TransferEncoding),
            (b"chun ked", HeadErrorKind::TransferEncoding),
            (b"chunked;q=1", HeadErrorKind::TransferEncoding),
        ] {
            assert_eq!(check_codings(value), Err(kind), "{}", value.escape_ascii());
        }
    }
}
