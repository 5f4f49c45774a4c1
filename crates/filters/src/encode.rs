//! Compression of one body, piece by piece. Nothing is kept back longer than the caller wants:
//! after a flush, all that went in can be read by the client.

use std::io::{self, Write};

use evener_config::Coding;

/// Brotli's and Zstandard's windows, as powers of two: what one response under way costs in memory.
const BROTLI_WINDOW: u32 = 18;
const ZSTD_WINDOW: u32 = 18;
/// What brotli collects before it begins.
const BROTLI_INPUT: usize = 16 * 1024;

/// Compresses one body.
pub struct Encoder {
    kind: Kind,
    /// Whether bytes went in since the last flush.
    pending: bool,
}

enum Kind {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Ended,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.kind {
            Kind::Gzip(_) => "gzip",
            Kind::Brotli(_) => "br",
            Kind::Zstd(_) => "zstd",
            Kind::Ended => "ended",
        })
    }
}

impl Encoder {
    /// For one body, at a level from 1 to 9.
    pub fn new(coding: Coding, level: u32) -> io::Result<Encoder> {
        let level = level.clamp(1, 9);
        let kind = match coding {
            Coding::Gzip => Kind::Gzip(flate2::write::GzEncoder::new(
                Vec::new(),
                flate2::Compression::new(level),
            )),
            Coding::Brotli => Kind::Brotli(Box::new(brotli::CompressorWriter::new(
                Vec::new(),
                BROTLI_INPUT,
                level,
                BROTLI_WINDOW,
            ))),
            Coding::Zstd => {
                let level = i32::try_from(level).unwrap_or(3);
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
                encoder.window_log(ZSTD_WINDOW)?;
                Kind::Zstd(encoder)
            }
        };
        Ok(Encoder {
            kind,
            pending: false,
        })
    }

    /// Takes the next bytes of the body; what is ready is appended to `out`.
    pub fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.pending |= !bytes.is_empty();
        match &mut self.kind {
            Kind::Gzip(encoder) => encoder.write_all(bytes)?,
            Kind::Brotli(encoder) => encoder.write_all(bytes)?,
            Kind::Zstd(encoder) => encoder.write_all(bytes)?,
            Kind::Ended => {}
        }
        self.take(out);
        Ok(())
    }

    /// Whether bytes went in that the client may not be able to read yet.
    pub fn is_pending(&self) -> bool {
        self.pending
    }

    /// Makes everything readable that went in.
    pub fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.pending = false;
        match &mut self.kind {
            Kind::Gzip(encoder) => encoder.flush()?,
            Kind::Brotli(encoder) => encoder.flush()?,
            Kind::Zstd(encoder) => encoder.flush()?,
            Kind::Ended => {}
        }
        self.take(out);
        Ok(())
    }

    /// The body has ended.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.pending = false;
        let rest = match std::mem::replace(&mut self.kind, Kind::Ended) {
            Kind::Gzip(encoder) => encoder.finish()?,
            Kind::Brotli(encoder) => encoder.into_inner(),
            Kind::Zstd(encoder) => encoder.finish()?,
            Kind::Ended => Vec::new(),
        };
        out.extend_from_slice(&rest);
        Ok(())
    }

    fn take(&mut self, out: &mut Vec<u8>) {
        let ready = match &mut self.kind {
            Kind::Gzip(encoder) => encoder.get_mut(),
            Kind::Brotli(encoder) => encoder.get_mut(),
            Kind::Zstd(encoder) => encoder.get_mut(),
            Kind::Ended => return,
        };
        out.append(ready);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        // A body that has not ended yet is read as far as it goes.
        let _ = match coding {
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out),
            Coding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out),
            Coding::Zstd => zstd::stream::read::Decoder::new(bytes)
                .unwrap()
                .read_to_end(&mut out),
        };
        out
    }

    #[test]
    fn bodies_come_out_as_they_went_in() {
        let mut text = Vec::new();
        for number in 0..20_000u32 {
            text.extend_from_slice(number.to_string().as_bytes());
        }
        for coding in Coding::ALL {
            for level in [1, 4, 9] {
                let mut encoder = Encoder::new(coding, level).unwrap();
                let mut out = Vec::new();
                for piece in text.chunks(7001) {
                    encoder.write(piece, &mut out).unwrap();
                }
                encoder.finish(&mut out).unwrap();
                assert!(
                    out.len() < text.len() / 2,
                    "{coding:?} {level}: {}",
                    out.len()
                );
                assert!(decoded(coding, &out) == text, "{coding:?} {level}");
            }
        }
    }

    #[test]
    fn what_was_flushed_can_be_read() {
        for coding in Coding::ALL {
            let mut encoder = Encoder::new(coding, 4).unwrap();
            let (mut out, mut sent) = (Vec::new(), Vec::new());
            for number in 0..5 {
                let event = format!("data: {number}\n\n");
                sent.extend_from_slice(event.as_bytes());
                encoder.write(event.as_bytes(), &mut out).unwrap();
                assert!(encoder.is_pending());
                encoder.flush(&mut out).unwrap();
                assert!(!encoder.is_pending());
                assert_eq!(decoded(coding, &out), sent, "{coding:?}");
            }
            encoder.finish(&mut out).unwrap();
            assert_eq!(decoded(coding, &out), sent, "{coding:?}");
        }
    }
}
