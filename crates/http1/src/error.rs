//! Why a message head was refused, and the status code that says so.

use core::fmt;

/// A refused head: what was wrong and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadError {
    /// The rule that was broken.
    pub kind: HeadErrorKind,
    /// Offset of the offending byte or line in the head.
    pub offset: usize,
}

/// The rules a head can break. Each carries the status that a server answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeadErrorKind {
    /// The method is not a token (RFC 9110, 5.6.2).
    Method,
    /// The request target holds bytes that RFC 3986 does not allow, or has no known form.
    Target,
    /// The request line is not `method SP target SP version`.
    RequestLine,
    /// The version is not HTTP/1.0 or HTTP/1.1.
    Version,
    /// A well-formed version that is not HTTP/1.
    VersionNotSupported,
    /// The status line is malformed.
    StatusLine,
    /// A line ends in LF without CR, or holds a CR that no LF follows.
    LineEnd,
    /// A field line is continued on the next line (obs-fold).
    Fold,
    /// A field name is empty, not a token, or followed by a space.
    FieldName,
    /// A field value holds a control byte.
    FieldValue,
    /// `Content-Length` is malformed, repeated or too large.
    ContentLength,
    /// `Transfer-Encoding` is malformed, repeated, or does not end in `chunked`.
    TransferEncoding,
    /// A transfer coding other than `chunked`.
    UnknownTransferCoding,
    /// Both `Content-Length` and `Transfer-Encoding`.
    LengthAndTransferEncoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    TransferEncodingInHttp10,
    /// `Host` is missing, repeated, malformed, or differs from an absolute target's authority.
    Host,
    /// An HTTP/1.0 request whose method has a body, without a length.
    LengthRequired,
    /// CONNECT: this is no forward proxy.
    Connect,
    /// The request line alone is longer than the head may be.
    TargetTooLong,
    /// The head is longer than allowed.
    HeadTooLong,
    /// More header fields than allowed.
    TooManyFields,
    /// One header field is longer than allowed.
    FieldTooLong,
}

impl HeadErrorKind {
    /// The status a server answers a request with that broke this rule.
    pub fn status(self) -> u16 {
        match self {
            HeadErrorKind::UnknownTransferCoding | HeadErrorKind::Connect => 501,
            HeadErrorKind::VersionNotSupported => 505,
            HeadErrorKind::LengthRequired => 411,
            HeadErrorKind::TargetTooLong => 414,
            HeadErrorKind::HeadTooLong
            | HeadErrorKind::TooManyFields
            | HeadErrorKind::FieldTooLong => 431,
            _ => 400,
        }
    }

    /// One phrase for people: what is wrong.
    pub fn reason(self) -> &'static str {
        match self {
            HeadErrorKind::Method => "the method is not a token",
            HeadErrorKind::Target => "the request target is malformed",
            HeadErrorKind::RequestLine => "the request line is malformed",
            HeadErrorKind::Version => "the protocol version is malformed",
            HeadErrorKind::VersionNotSupported => "only HTTP/1.0 and HTTP/1.1 are spoken here",
            HeadErrorKind::StatusLine => "the status line is malformed",
            HeadErrorKind::LineEnd => "a line does not end in CRLF",
            HeadErrorKind::Fold => "a header field is folded over several lines",
            HeadErrorKind::FieldName => "a header field name is malformed",
            HeadErrorKind::FieldValue => "a header field value holds a control byte",
            HeadErrorKind::ContentLength => "Content-Length is malformed or repeated",
            HeadErrorKind::TransferEncoding => "Transfer-Encoding is malformed or repeated",
            HeadErrorKind::UnknownTransferCoding => "the transfer coding is not known",
            HeadErrorKind::LengthAndTransferEncoding => {
                "both Content-Length and Transfer-Encoding are given"
            }
            HeadErrorKind::TransferEncodingInHttp10 => "HTTP/1.0 has no Transfer-Encoding",
            HeadErrorKind::Host => "Host is missing, repeated or malformed",
            HeadErrorKind::LengthRequired => "the request needs a Content-Length",
            HeadErrorKind::Connect => "CONNECT is not served here",
            HeadErrorKind::TargetTooLong => "the request target is too long",
            HeadErrorKind::HeadTooLong => "the header section is too long",
            HeadErrorKind::TooManyFields => "there are too many header fields",
            HeadErrorKind::FieldTooLong => "a header field is too long",
        }
    }
}

impl HeadError {
    pub(crate) fn new(kind: HeadErrorKind, offset: usize) -> HeadError {
        HeadError { kind, offset }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (byte {})", self.kind.reason(), self.offset)
    }
}

impl core::error::Error for HeadError {}
