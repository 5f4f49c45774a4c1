//! WebSocket frames (RFC 6455 section 5.2) and the handshake, as far as an echo needs them:
//! unfragmented messages, no extensions, one fixed key.

/// The key that every handshake here sends: the RFC's own example.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The answer that the RFC gives for it.
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The mask of every frame sent from here; its value does not matter to a server.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A whole frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// 1 text, 2 binary, 8 close, 9 ping, 10 pong.
    pub opcode: u8,
    /// Unmasked.
    pub payload: Vec<u8>,
}

/// A frame as bytes; clients mask, servers do not.
pub fn encode(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    let mask_bit = if masked { 0x80 } else { 0 };
    match payload.len() {
        n if n < 126 => bytes.push(mask_bit | n as u8),
        n if n <= usize::from(u16::MAX) => {
            bytes.push(mask_bit | 126);
            bytes.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            bytes.push(mask_bit | 127);
            bytes.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    if masked {
        bytes.extend_from_slice(&MASK);
        bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
    } else {
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// Frames out of a stream of bytes.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// Takes what came.
    pub fn take(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a frame has begun and is not over.
    pub fn has_begun(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next whole frame.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let bytes = &self.buffer;
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (length, mut at) = match second & 0x7f {
            126 => (
                u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
                4,
            ),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
            short => (u64::from(short), 2),
        };
        let mut mask = [0; 4];
        if second & 0x80 != 0 {
            mask.copy_from_slice(bytes.get(at..at + 4)?);
            at += 4;
        }
        let end = at.checked_add(usize::try_from(length).ok()?)?;
        let payload = bytes.get(at..end)?;
        let payload = payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(b, m)| b ^ m)
            .collect();
        self.buffer.drain(..end);
        Some(Frame {
            opcode: first & 0x0f,
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_form_come_back_in_any_pieces() {
        for length in [0, 5, 125, 126, 65_535, 65_536] {
            for masked in [true, false] {
                let payload = vec![b'y'; length];
                let mut wire = encode(1, &payload, masked);
                wire.extend(encode(2, b"next", masked));
                let mut frames = Frames::default();
                let mut seen = Vec::new();
                for part in wire.chunks(7) {
                    frames.take(part);
                    seen.extend(std::iter::from_fn(|| frames.next_frame()));
                }
                assert_eq!(seen.len(), 2);
                assert_eq!(seen[0], Frame { opcode: 1, payload });
                assert_eq!(seen[1].payload, b"next");
                assert!(!frames.has_begun());
            }
        }
    }
}
