//! Body framing (RFC 9112, 6 and 7): where a body ends, and which of its bytes are data.
//!
//! A [`BodyDecoder`] is fed the bytes as they come and hands back ranges of data; it never copies.
//! Trailer fields are collected, because they are few and bounded.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::fields::{FieldName, field_line};

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes; zero means no body.
    Length(u64),
    /// After the last chunk and the trailer section.
    Chunked,
    /// When the sender closes the connection (responses only).
    UntilClose,
}

impl Default for Framing {
    fn default() -> Self {
        Framing::Length(0)
    }
}

/// Largest length of one chunk extension, in bytes.
const EXTENSION_BYTES_MAX: u32 = 256;
/// Largest sum of chunk extensions over one body: they carry nothing, so they may not cost much.
const EXTENSIONS_BYTES_MAX: u32 = 16 * 1024;
/// Largest trailer section.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// 15 hex digits: 2^60 bytes.
const SIZE_DIGITS_MAX: u8 = 15;

/// One step of decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Range of the input that is data; may be empty.
    pub data: Range<usize>,
    /// Bytes of the input used up, framing included. The rest is for the next call.
    pub consumed: usize,
    /// Whether the body ended within the consumed bytes.
    pub done: bool,
}

/// Why a chunked body was refused. Always the sender's fault; there is no way on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyError {
    /// The chunk size is not 1 to 15 hex digits.
    ChunkSize,
    /// A chunk extension is too long or holds control bytes.
    ChunkExtension,
    /// A chunk line or chunk data does not end in CRLF.
    ChunkEnd,
    /// The trailer section is malformed or too long.
    Trailer,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BodyError::ChunkSize => "a chunk size is malformed",
            BodyError::ChunkExtension => "a chunk extension is malformed or too long",
            BodyError::ChunkEnd => "a chunk does not end in CRLF",
            BodyError::Trailer => "the trailer section is malformed or too long",
        })
    }
}

impl core::error::Error for BodyError {}

/// Decodes one body.
#[derive(Debug, Clone, Default)]
pub struct BodyDecoder {
    state: State,
    trailer: Vec<u8>,
    extensions_bytes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    Length(u64),
    UntilClose,
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
        bytes: u32,
    },
    SizeLineFeed {
        size: u64,
    },
    Data(u64),
    DataReturn,
    DataLineFeed,
    Trailer {
        line_start: usize,
    },
    #[default]
    Done,
}

impl BodyDecoder {
    /// A decoder for a body framed so.
    pub fn new(framing: Framing) -> BodyDecoder {
        let mut decoder = BodyDecoder::default();
        decoder.reset(framing);
        decoder
    }

    /// Starts over for another body, keeping what was allocated.
    pub fn reset(&mut self, framing: Framing) {
        self.trailer.clear();
        self.extensions_bytes = 0;
        self.state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::UntilClose => State::UntilClose,
            Framing::Chunked => State::Size { size: 0, digits: 0 },
        };
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether only the end of the connection ends this body.
    pub fn is_until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Data bytes known to come before the next framing: a hint for the size of reads.
    pub fn expected_bytes(&self) -> u64 {
        match self.state {
            State::Length(left) | State::Data(left) => left,
            State::UntilClose => u64::MAX,
            _ => 0,
        }
    }

    /// The trailer section of a chunked body that has ended: complete, valid field lines, without
    /// the empty line after them.
    pub fn trailer(&self) -> &[u8] {
        &self.trailer
    }

    /// Takes the next bytes. Returns after one range of data, at the end of the body, or when
    /// `input` is used up; call again with the rest while it is not empty and not done.
    pub fn decode(&mut self, input: &[u8]) -> Result<Piece, BodyError> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            let taken = match self.state {
                State::Length(left) => {
                    self.take_data(input.len() - at, left, State::Done, State::Length)
                }
                State::Data(left) => {
                    self.take_data(input.len() - at, left, State::DataReturn, State::Data)
                }
                State::UntilClose => input.len() - at,
                _ => {
                    at += self.framing_bytes(&input[at..])?;
                    continue;
                }
            };
            let end = at + taken;
            return Ok(Piece {
                data: at..end,
                consumed: end,
                done: self.is_done(),
            });
        }
        Ok(Piece {
            data: at..at,
            consumed: at,
            done: self.is_done(),
        })
    }

    fn take_data(
        &mut self,
        available: usize,
        left: u64,
        after: State,
        during: fn(u64) -> State,
    ) -> usize {
        let taken = left.min(available as u64);
        self.state = if taken == left {
            after
        } else {
            during(left - taken)
        };
        taken as usize
    }

    /// Takes framing bytes: at least one, at most up to where data begins.
    fn framing_bytes(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        let byte = input[0];
        self.state = match (self.state, byte) {
            (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(BodyError::ChunkSize);
                }
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                State::Size {
                    size: size << 4 | digit,
                    digits: digits + 1,
                }
            }
            (State::Size { digits: 0, .. }, _) => return Err(BodyError::ChunkSize),
            (State::Size { size, .. }, b'\r') => State::SizeLineFeed { size },
            (State::Size { size, .. }, b';') => State::Extension { size, bytes: 0 },
            (State::Size { .. }, _) => return Err(BodyError::ChunkSize),
            (State::Extension { size, .. }, b'\r') => State::SizeLineFeed { size },
            (State::Extension { size, bytes }, _) => {
                self.extensions_bytes += 1;
                let fits =
                    bytes < EXTENSION_BYTES_MAX && self.extensions_bytes < EXTENSIONS_BYTES_MAX;
                if !fits || (byte < 0x20 && byte != b'\t') || byte == 0x7f {
                    return Err(BodyError::ChunkExtension);
                }
                State::Extension {
                    size,
                    bytes: bytes + 1,
                }
            }
            (State::SizeLineFeed { size: 0 }, b'\n') => State::Trailer { line_start: 0 },
            (State::SizeLineFeed { size }, b'\n') => State::Data(size),
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::Size { size: 0, digits: 0 },
            (State::Trailer { line_start }, _) => self.trailer_byte(line_start, byte)?,
            _ => return Err(BodyError::ChunkEnd),
        };
        Ok(1)
    }

    fn trailer_byte(&mut self, line_start: usize, byte: u8) -> Result<State, BodyError> {
        if self.trailer.len() == TRAILER_BYTES_MAX {
            return Err(BodyError::Trailer);
        }
        self.trailer.push(byte);
        if byte != b'\n' {
            return Ok(State::Trailer { line_start });
        }
        if &self.trailer[line_start..] == b"\r\n" {
            self.trailer.truncate(line_start);
            return Ok(State::Done);
        }
        let field = match field_line(&self.trailer, line_start) {
            Ok(Some(field)) if field.line.end() == self.trailer.len() => field,
            _ => return Err(BodyError::Trailer),
        };
        // Fields that say how a message is framed, routed or understood have no place after the
        // body (RFC 9110, 6.5.1): they are dropped rather than passed on to a reader that might
        // believe them.
        if field.known != FieldName::Other {
            self.trailer.truncate(line_start);
        }
        Ok(State::Trailer {
            line_start: self.trailer.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `input` cut into pieces of `step` bytes; returns the data and the bytes left over.
    fn decode(
        framing: Framing,
        input: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, usize, bool), BodyError> {
        let mut decoder = BodyDecoder::new(framing);
        let (mut data, mut used) = (Vec::new(), 0);
        for piece in input.chunks(step) {
            let mut at = 0;
            while at < piece.len() && !decoder.is_done() {
                let step = decoder.decode(&piece[at..])?;
                data.extend_from_slice(&piece[at + step.data.start..at + step.data.end]);
                at += step.consumed;
            }
            used += at;
        }
        Ok((data, input.len() - used, decoder.is_done()))
    }

    #[test]
    fn lengths_and_leftovers() {
        for step in 1..8 {
            let (data, left, done) = decode(Framing::Length(5), b"hellorest", step).unwrap();
            assert_eq!(
                (&data[..], left, done),
                (&b"hello"[..], 4, true),
                "step {step}"
            );
        }
        assert!(BodyDecoder::new(Framing::Length(0)).is_done());
    }

    #[test]
    fn chunks_in_any_pieces() {
        let input = b"5;a=b\r\nhello\r\n00C\r\n and goodbye\r\n0\r\nX-Sum: 1\r\n\
            Content-Length: 9\r\n\r\nNEXT";
        for step in 1..input.len() {
            let (data, left, done) = decode(Framing::Chunked, input, step).unwrap();
            assert_eq!(data, b"hello and goodbye", "step {step}");
            assert_eq!((left, done), (4, true), "step {step}");
        }
        let mut decoder = BodyDecoder::new(Framing::Chunked);
        let mut rest = &input[..];
        while !decoder.is_done() {
            rest = &rest[decoder.decode(rest).unwrap().consumed..];
        }
        assert_eq!(
            decoder.trailer(),
            b"X-Sum: 1\r\n",
            "framing fields are dropped"
        );
    }

    #[test]
    fn bad_chunks_are_refused() {
        use BodyError as E;
        for (input, error) in [
            (&b"\r\n"[..], E::ChunkSize),
            (b"g\r\n", E::ChunkSize),
            (b"-1\r\n", E::ChunkSize),
            (b"0x5\r\n", E::ChunkSize),
            (b"5 \r\n", E::ChunkSize),
            (b"5\n", E::ChunkSize),
            (b"1000000000000000\r\n", E::ChunkSize),
            (b"5\rhello", E::ChunkEnd),
            (b"5;\x01\r\n", E::ChunkExtension),
            (b"5;a\nhello\r\n", E::ChunkExtension),
            (b"5\r\nhelloX\r\n", E::ChunkEnd),
            (b"5\r\nhello\n", E::ChunkEnd),
            (b"0\r\nbad line\r\n\r\n", E::Trailer),
            (b"0\r\nX: y\n\r\n", E::Trailer),
            (b"0\r\n folded: y\r\n\r\n", E::Trailer),
        ] {
            for step in 1..4 {
                assert_eq!(
                    decode(Framing::Chunked, input, step).unwrap_err(),
                    error,
                    "{} by {step}",
                    input.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let mut long = Vec::from(&b"1;"[..]);
        long.resize(400, b'x');
        assert_eq!(
            decode(Framing::Chunked, &long, 64).unwrap_err(),
            BodyError::ChunkExtension
        );
        let mut many = Vec::new();
        for _ in 0..200 {
            many.extend_from_slice(b"1;");
            many.resize(many.len() + 200, b'x');
            many.extend_from_slice(b"\r\na\r\n");
        }
        assert_eq!(
            decode(Framing::Chunked, &many, 512).unwrap_err(),
            BodyError::ChunkExtension
        );
        let mut trailer = Vec::from(&b"0\r\n"[..]);
        for _ in 0..2000 {
            trailer.extend_from_slice(b"X: yyyy\r\n");
        }
        assert_eq!(
            decode(Framing::Chunked, &trailer, 512).unwrap_err(),
            BodyError::Trailer
        );
    }
}
