//! permessage-deflate (RFC 7692): negotiation, inflation within a bound, compression.
//!
//! Compression itself is `flate2`'s.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::codec::Violation;

/// RFC 7692, 7.2.1: what ends a compressed message and is not sent.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// How much room the output gets at a time.
const STEP_BYTES: usize = 16 * 1024;
/// Speed over size: this runs on the application's own thread.
const LEVEL: u32 = 3;
/// The window we offer to compress with when the client does not care: a sixteenth of the memory
/// of the largest one, for little loss on messages of the usual size.
const WINDOW_BITS: u8 = 12;

const BAD_DATA: Violation = Violation {
    code: 1007,
    reason: "compressed data is malformed",
};
const TOO_BIG: Violation = Violation {
    code: 1009,
    reason: "message too big",
};

/// The parameters of one offer (RFC 7692, 7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub(crate) server_no_context_takeover: bool,
    pub(crate) client_no_context_takeover: bool,
    pub(crate) server_max_window_bits: Option<u8>,
    /// `Some(None)`: the client takes a hint but gives none itself.
    pub(crate) client_max_window_bits: Option<Option<u8>>,
}

impl Parameters {
    /// The offers in the value of a `Sec-WebSocket-Extensions` field, in the client's order.
    /// Malformed ones and other extensions are left out.
    pub(crate) fn offers(value: &[u8]) -> Vec<Parameters> {
        evener_http1::list_items(value)
            .filter_map(Parameters::offer)
            .collect()
    }

    fn offer(item: &[u8]) -> Option<Parameters> {
        let mut parts = item.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        if !parts.next()?.eq_ignore_ascii_case(b"permessage-deflate") {
            return None;
        }
        let mut parameters = Parameters::default();
        let mut seen = Vec::new();
        for part in parts {
            let mut sides = part.splitn(2, |&byte| byte == b'=').map(<[u8]>::trim_ascii);
            let (name, value) = (sides.next()?, sides.next());
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
            match (name, value) {
                (b"server_no_context_takeover", None) => {
                    parameters.server_no_context_takeover = true;
                }
                (b"client_no_context_takeover", None) => {
                    parameters.client_no_context_takeover = true;
                }
                (b"server_max_window_bits", Some(value)) => {
                    parameters.server_max_window_bits = Some(window_bits(value)?);
                }
                (b"client_max_window_bits", None) => {
                    parameters.client_max_window_bits = Some(None);
                }
                (b"client_max_window_bits", Some(value)) => {
                    parameters.client_max_window_bits = Some(Some(window_bits(value)?));
                }
                _ => return None,
            }
        }
        Some(parameters)
    }
}

fn window_bits(value: &[u8]) -> Option<u8> {
    let value = value
        .strip_prefix(b"\"")
        .and_then(|v| v.strip_suffix(b"\""))
        .unwrap_or(value);
    match value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// The two directions of one connection.
#[derive(Debug)]
pub(crate) struct Deflate {
    compress: Compress,
    decompress: Decompress,
    reset_compress: bool,
    reset_decompress: bool,
    output: Vec<u8>,
}

impl Deflate {
    /// Accepts the first acceptable offer; returns the answer's field value with it.
    pub(crate) fn negotiate(offers: &[Parameters], enabled: bool) -> Option<(Deflate, String)> {
        // A window of 256 bytes (8 bits) is one that zlib cannot compress with.
        let acceptable = |offer: &&Parameters| offer.server_max_window_bits != Some(8);
        let offer = offers.iter().filter(|_| enabled).find(acceptable)?;
        let mut answer = String::from("permessage-deflate");
        let mut bits = WINDOW_BITS;
        if offer.server_no_context_takeover {
            answer.push_str("; server_no_context_takeover");
        }
        if offer.client_no_context_takeover {
            answer.push_str("; client_no_context_takeover");
        }
        if let Some(most) = offer.server_max_window_bits {
            bits = bits.min(most);
        }
        answer.push_str(&format!("; server_max_window_bits={bits}"));
        if let Some(Some(most)) = offer.client_max_window_bits {
            answer.push_str(&format!("; client_max_window_bits={most}"));
        }
        let deflate = Deflate {
            compress: Compress::new_with_window_bits(Compression::new(LEVEL), false, bits),
            // Whatever the client compresses with, the largest window inflates it.
            decompress: Decompress::new_with_window_bits(false, 15),
            reset_compress: offer.server_no_context_takeover,
            reset_decompress: offer.client_no_context_takeover,
            output: Vec::new(),
        };
        Some((deflate, answer))
    }

    /// Appends what `input` inflates to; at the end of the message, all of it.
    pub(crate) fn inflate(
        &mut self,
        input: &[u8],
        ended: bool,
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), Violation> {
        self.inflate_piece(input, out, bytes_max)?;
        if ended {
            self.inflate_piece(&TAIL, out, bytes_max)?;
            if self.reset_decompress {
                self.decompress.reset(false);
            }
        }
        Ok(())
    }

    fn inflate_piece(
        &mut self,
        mut input: &[u8],
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), Violation> {
        loop {
            out.reserve(STEP_BYTES.min(input.len() * 4 + 64));
            let (read_before, written_before) = (self.decompress.total_in(), out.len());
            let status = self
                .decompress
                .decompress_vec(input, out, FlushDecompress::Sync)
                .map_err(|_| BAD_DATA)?;
            if out.len() > bytes_max {
                return Err(TOO_BIG);
            }
            let read = usize::try_from(self.decompress.total_in() - read_before)
                .expect("no more is read than there was");
            input = &input[read..];
            if status == Status::StreamEnd {
                // A block marked as the last one ends the stream, not the message: what follows
                // (at least our own tail) starts a new one.
                self.decompress.reset(false);
            }
            let full = out.len() == out.capacity();
            let moved = read > 0 || out.len() > written_before;
            if input.is_empty() && !full {
                return Ok(());
            }
            if !moved && !full {
                return Err(BAD_DATA);
            }
        }
    }

    /// Compresses one message, without its tail.
    pub(crate) fn compress(&mut self, data: &[u8]) -> &[u8] {
        self.output.clear();
        if self.output.capacity() > 4 * STEP_BYTES {
            self.output = Vec::new();
        }
        let mut input = data;
        loop {
            self.output.reserve(STEP_BYTES.min(input.len() / 2 + 64));
            let before = self.compress.total_in();
            self.compress
                .compress_vec(input, &mut self.output, FlushCompress::Sync)
                .expect("compression without a dictionary cannot fail");
            let read = usize::try_from(self.compress.total_in() - before)
                .expect("no more is read than there was");
            input = &input[read..];
            if input.is_empty() && self.output.len() < self.output.capacity() {
                break;
            }
        }
        if self.reset_compress {
            self.compress.reset();
        }
        self.output.strip_suffix(&TAIL).unwrap_or(&self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_read_and_malformed_ones_left_out() {
        let value = b"foo, permessage-deflate; client_max_window_bits; server_max_window_bits=10, \
            permessage-deflate; server_max_window_bits=7, permessage-deflate; unknown, \
            permessage-deflate; client_max_window_bits=9; client_max_window_bits=9, \
            permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        let expected = [
            Parameters {
                server_max_window_bits: Some(10),
                client_max_window_bits: Some(None),
                ..Parameters::default()
            },
            Parameters {
                server_no_context_takeover: true,
                client_no_context_takeover: true,
                ..Parameters::default()
            },
        ];
        assert_eq!(Parameters::offers(value), expected);
    }

    #[test]
    fn the_first_acceptable_offer_wins() {
        let eight = Parameters {
            server_max_window_bits: Some(8),
            ..Parameters::default()
        };
        let nine = Parameters {
            server_max_window_bits: Some(9),
            client_max_window_bits: Some(Some(11)),
            ..Parameters::default()
        };
        let (_, answer) = Deflate::negotiate(&[eight, nine], true).unwrap();
        let expected = "permessage-deflate; server_max_window_bits=9; client_max_window_bits=11";
        assert_eq!(answer, expected);
        assert!(Deflate::negotiate(&[eight], true).is_none());
        assert!(Deflate::negotiate(&[nine], false).is_none());
    }

    #[test]
    fn a_last_block_does_not_end_the_connection() {
        let (mut deflate, _) = Deflate::negotiate(&[Parameters::default()], true).unwrap();
        // "Hello" as one final block (RFC 7692, 7.2.3.4), then an ordinary message (7.2.3.1).
        let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
        let usual = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        for message in [&last[..], &usual, &usual] {
            let mut out = Vec::new();
            deflate.inflate(message, true, &mut out, 100).unwrap();
            assert_eq!(out, b"Hello", "{}", message.escape_ascii());
        }
    }
}
