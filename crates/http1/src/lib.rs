//! HTTP/1.1 messages as RFC 9112 defines them, read strictly and written plainly.
//!
//! Pure code: bytes in, decisions out. No sockets, no clock, no allocation per message once the
//! reused tables have grown. What a head means for a connection (keep-alive, upgrade, body
//! framing) is decided here once, so that no two readers of the same bytes can disagree; what to
//! do about it is left to `edge` and `worker`.
//!
//! Heads are parsed in place: a [`Span`] is a pair of offsets into the caller's buffer, so the
//! parsed form borrows nothing and can be kept beside the bytes.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod body;
mod error;
mod fields;
mod request;
mod response;
mod scan;
mod word;
pub mod write;

pub use body::{BodyDecoder, BodyError, Framing, Piece};
pub use error::{HeadError, HeadErrorKind};
pub use fields::{Field, FieldName, Fields, list_items};
pub use request::{Method, RequestHead, TargetForm, parse_request};
pub use response::{ResponseHead, parse_response};
pub use scan::{HeadLimits, HeadScan, scan_head};

/// Offsets of a slice of the buffer that a head was parsed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The span from `start` to `end`, in bytes. Heads are bounded far below 4 GiB.
    pub fn new(start: usize, end: usize) -> Span {
        debug_assert!(start <= end && end <= u32::MAX as usize);
        Span {
            start: start as u32,
            end: end as u32,
        }
    }

    /// The bytes this span stands for in `buffer`, which must be the one it was parsed from.
    pub fn of<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        &buffer[self.start as usize..self.end as usize]
    }

    /// Offset of the first byte.
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// Offset after the last byte.
    pub fn end(&self) -> usize {
        self.end as usize
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// The two versions of HTTP/1 (RFC 9112, section 2.3). Any `HTTP/1.x` above 1.1 is read as 1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Version {
    /// HTTP/1.0
    H10,
    /// HTTP/1.1
    #[default]
    H11,
}
