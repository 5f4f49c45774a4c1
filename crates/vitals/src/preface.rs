//! The preface: the line that ties an upstream connection to a slot of the vitals page.
//!
//! `EVENER/1 slot=<decimal> seq=<decimal>\r\n` are the very first bytes on a connection from the
//! edge to an Evener worker, in the same write as the first request. That request has sequence
//! `seq`, the next one on the connection `seq + 1`, and so on: both sides count. A connection
//! that does not begin so is plain HTTP without claims.
//!
//! On a connection that does, [`OVER_HTTP2`] goes before each request whose client speaks HTTP/2:
//! the request itself is HTTP/1.1 by then.

use core::fmt;

/// The longest preface there is, in bytes.
pub const PREFACE_BYTES_MAX: usize = 9 + 5 + 10 + 1 + 4 + 20 + 2;

/// The line before a request whose client speaks HTTP/2.
pub const OVER_HTTP2: &[u8] = b"EVENER/1 http=2\r\n";

const MAGIC: &[u8] = b"EVENER/1 ";

/// A parsed preface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    /// The slot on the vitals page that belongs to this connection.
    pub slot: u32,
    /// The sequence of the first request on the connection.
    pub seq: u64,
}

/// Why the bytes that began like a preface are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefaceError;

impl fmt::Display for PrefaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed preface: expected `EVENER/1 slot=<decimal> seq=<decimal>` and CRLF")
    }
}

impl core::error::Error for PrefaceError {}

impl Preface {
    /// Looks for a preface at the start of a connection's bytes.
    ///
    /// `Ok(Some((preface, length)))`: found, it takes `length` bytes. `Ok(None)`: more bytes are
    /// needed to tell. `Err(None)`: this is no preface but something else (plain HTTP).
    ///
    /// # Errors
    /// `Err(Some(_))` if the bytes begin like a preface and then break its form.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Preface, usize)>, Option<PrefaceError>> {
        let shared = bytes.len().min(MAGIC.len());
        if bytes[..shared] != MAGIC[..shared] {
            return Err(None);
        }
        let window = &bytes[..bytes.len().min(PREFACE_BYTES_MAX)];
        let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
            let full = window.len() == PREFACE_BYTES_MAX;
            return if full {
                Err(Some(PrefaceError))
            } else {
                Ok(None)
            };
        };
        let line = window[..end]
            .strip_suffix(b"\r")
            .and_then(|line| line.strip_prefix(MAGIC));
        line.and_then(Preface::fields)
            .map(|preface| Some((preface, end + 1)))
            .ok_or(Some(PrefaceError))
    }

    fn fields(line: &[u8]) -> Option<Preface> {
        let space = line.iter().position(|&byte| byte == b' ')?;
        let slot = decimal(line[..space].strip_prefix(b"slot=")?)?;
        let seq = decimal(line[space + 1..].strip_prefix(b"seq=")?)?;
        Some(Preface {
            slot: u32::try_from(slot).ok()?,
            seq,
        })
    }

    /// Writes the preface to the front of `out` and returns its length in bytes.
    ///
    /// # Panics
    /// If `out` is shorter than [`PREFACE_BYTES_MAX`].
    pub fn write(&self, out: &mut [u8]) -> usize {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        let mut digits = [0; 20];
        put(MAGIC);
        put(b"slot=");
        put(digits_of(u64::from(self.slot), &mut digits));
        put(b" seq=");
        put(digits_of(self.seq, &mut digits));
        put(b"\r\n");
        at
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(digits).ok()?.parse().ok()
}

fn digits_of(mut number: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &buffer[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_it_parses() {
        for preface in [
            Preface { slot: 0, seq: 0 },
            Preface { slot: 17, seq: 42 },
            Preface {
                slot: u32::MAX,
                seq: u64::MAX,
            },
        ] {
            let mut out = [0; PREFACE_BYTES_MAX];
            let length = preface.write(&mut out);
            assert_eq!(Preface::parse(&out[..length]), Ok(Some((preface, length))));
            for cut in 0..length {
                assert_eq!(Preface::parse(&out[..cut]), Ok(None), "cut at {cut}");
            }
        }
    }

    #[test]
    fn tells_plain_http_from_a_preface() {
        assert_eq!(Preface::parse(b"GET / HTTP/1.1\r\n"), Err(None));
        assert_eq!(Preface::parse(b"EVENT / HTTP/1.1\r\n"), Err(None));
    }

    #[test]
    fn refuses_malformed_prefaces() {
        for bad in [
            &b"EVENER/1 slot=1 seq=2\n"[..],
            b"EVENER/1 slot=1\r\n",
            b"EVENER/1 slot= seq=2\r\n",
            b"EVENER/1 slot=-1 seq=2\r\n",
            b"EVENER/1 slot=4294967296 seq=2\r\n",
            b"EVENER/1 slot=1 seq=99999999999999999999999\r\n",
            b"EVENER/1 slot=1 seq=2 \r\n",
            b"EVENER/1 slot=00000000000000000000000000000000000000000000000000",
        ] {
            assert_eq!(
                Preface::parse(bad),
                Err(Some(PrefaceError)),
                "{}",
                bad.escape_ascii()
            );
        }
    }
}
