//! The body of a message: where it ends (RFC 9112 section 6), and whether it is the right one.

use crate::plan::Expect;

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many more bytes.
    Length(u64),
    /// By chunks.
    Chunked(Chunk),
    /// With the connection.
    UntilClose,
}

/// Where the chunk decoder stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// In the size line, with what it says so far; `ended` once a digit can no longer come.
    Size {
        /// The number so far.
        bytes: u64,
        /// Its digits are over.
        ended: bool,
    },
    /// In the data.
    Data(u64),
    /// In the line end after the data.
    DataEnd,
    /// In the trailers; so many bytes in this line.
    Trailer(u32),
    /// Behind the last line.
    Done,
}

impl Chunk {
    /// Before the first chunk.
    pub const START: Chunk = Chunk::Size {
        bytes: 0,
        ended: false,
    };
}

/// A chunk size that is none.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

impl Framing {
    /// Nothing more belongs to this body.
    pub fn is_over(self) -> bool {
        matches!(self, Framing::Length(0) | Framing::Chunked(Chunk::Done))
    }

    /// Takes bytes, hands the body's own to `sink`, and says how many were taken.
    ///
    /// # Errors
    /// [`Malformed`] if chunks are expected and there are none.
    pub fn take(&mut self, bytes: &[u8], mut sink: impl FnMut(&[u8])) -> Result<usize, Malformed> {
        match self {
            Framing::UntilClose => {
                sink(bytes);
                Ok(bytes.len())
            }
            Framing::Length(left) => {
                let n = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                sink(&bytes[..n]);
                *left -= n as u64;
                Ok(n)
            }
            Framing::Chunked(state) => chunks(state, bytes, sink),
        }
    }
}

fn chunks(
    state: &mut Chunk,
    bytes: &[u8],
    mut sink: impl FnMut(&[u8]),
) -> Result<usize, Malformed> {
    let mut at = 0;
    while at < bytes.len() && *state != Chunk::Done {
        if let Chunk::Data(left) = state {
            let n = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
            sink(&bytes[at..at + n]);
            at += n;
            *left -= n as u64;
            if *left == 0 {
                *state = Chunk::DataEnd;
            }
            continue;
        }
        *state = step(*state, bytes[at])?;
        at += 1;
    }
    Ok(at)
}

fn step(state: Chunk, byte: u8) -> Result<Chunk, Malformed> {
    Ok(match (state, byte) {
        (Chunk::Size { bytes: 0, .. }, b'\n') => Chunk::Trailer(0),
        (Chunk::Size { bytes, .. }, b'\n') => Chunk::Data(bytes),
        (
            Chunk::Size {
                bytes,
                ended: false,
            },
            digit,
        ) if digit.is_ascii_hexdigit() => {
            let value = (digit as char).to_digit(16).map_or(0, u64::from);
            let bytes = bytes.checked_mul(16).ok_or(Malformed)? + value;
            Chunk::Size {
                bytes,
                ended: false,
            }
        }
        (Chunk::Size { bytes, ended }, other) => {
            if !ended && !matches!(other, b'\r' | b';' | b' ') {
                return Err(Malformed);
            }
            Chunk::Size { bytes, ended: true }
        }
        (Chunk::DataEnd, b'\r') => Chunk::DataEnd,
        (Chunk::DataEnd, b'\n') => Chunk::START,
        (Chunk::DataEnd, _) => return Err(Malformed),
        (Chunk::Trailer(0), b'\n') => Chunk::Done,
        (Chunk::Trailer(_), b'\n') => Chunk::Trailer(0),
        (Chunk::Trailer(n), b'\r') => Chunk::Trailer(n),
        (Chunk::Trailer(n), _) => Chunk::Trailer(n + 1),
        (Chunk::Data(_) | Chunk::Done, _) => return Err(Malformed),
    })
}

/// Compares a body with the one that is right, as it comes.
#[derive(Debug, Default)]
pub struct Check {
    seen: u64,
    wrong: bool,
}

impl Check {
    /// The next bytes of the body.
    pub fn take(&mut self, bytes: &[u8], expect: &Expect) {
        match expect {
            Expect::Any => {}
            // Without an early end, so that the compiler looks at many bytes at once.
            Expect::Filled(_) => {
                self.wrong |= bytes.iter().fold(0, |seen, byte| seen | (byte ^ b'x')) != 0;
            }
            Expect::Text(text) => {
                let from = usize::try_from(self.seen).unwrap_or(usize::MAX);
                let part = text.as_bytes().get(from..from.saturating_add(bytes.len()));
                self.wrong |= part != Some(bytes);
            }
        }
        self.seen += bytes.len() as u64;
    }

    /// Whether the whole body, now over, was the right one.
    pub fn is_right(&self, expect: &Expect) -> bool {
        let length = match expect {
            Expect::Any => self.seen,
            Expect::Filled(bytes) => *bytes,
            Expect::Text(text) => text.len() as u64,
        };
        !self.wrong && self.seen == length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(wire: &[u8], piece: usize) -> (Vec<u8>, bool) {
        let mut framing = Framing::Chunked(Chunk::START);
        let mut body = Vec::new();
        for part in wire.chunks(piece) {
            let taken = framing.take(part, |data| body.extend_from_slice(data));
            assert_eq!(taken, Ok(part.len()));
        }
        (body, framing.is_over())
    }

    #[test]
    fn chunks_in_any_pieces_give_the_same_body() {
        let wire = b"5;ext=1\r\nhello\r\nA \r\n, 10 bytes\r\n0\r\nTrailer: x\r\n\r\n";
        for piece in 1..wire.len() {
            assert_eq!(decode(wire, piece), (b"hello, 10 bytes".to_vec(), true));
        }
    }

    #[test]
    fn a_body_that_stops_early_is_not_over() {
        assert!(!decode(b"5\r\nhello\r\n0\r\n", 3).1);
        assert!(!decode(b"5\r\nhel", 3).1);
    }

    #[test]
    fn no_chunk_size_is_malformed() {
        let mut framing = Framing::Chunked(Chunk::START);
        assert_eq!(framing.take(b"hello", |_| ()), Err(Malformed));
    }

    #[test]
    fn a_wrong_byte_and_a_wrong_length_are_seen() {
        let filled = Expect::Filled(4);
        for (body, right) in [
            ("xxxx", true),
            ("xxyx", false),
            ("xxx", false),
            ("xxxxx", false),
        ] {
            let mut check = Check::default();
            check.take(body.as_bytes(), &filled);
            assert_eq!(check.is_right(&filled), right, "{body}");
        }
        let text = Expect::Text("abc".into());
        let mut check = Check::default();
        check.take(b"ab", &text);
        check.take(b"c", &text);
        assert!(check.is_right(&text));
        check.take(b"d", &text);
        assert!(!check.is_right(&text));
    }
}
