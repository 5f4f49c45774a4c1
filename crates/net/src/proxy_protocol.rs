//! The PROXY protocol: what goes ahead of a connection that somebody relays, to say whose it is
//! (haproxy.org, proxy-protocol.txt, 2020). Both versions, read and written; nothing here waits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The most bytes of a header of version 1, its CRLF included.
const TEXT_BYTES_MAX: usize = 107;
/// The most bytes of a header of version 2 that are taken: addresses, and some further values.
const BINARY_BYTES_MAX: usize = 1024;
/// What a header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header that is taken.
pub const PROXY_BYTES_MAX: usize = BINARY_BYTES_MAX;

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// A header that has come in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its length in bytes.
    pub length: usize,
    /// Whose connection it is; `None` if whoever relays speaks for itself, or does not know.
    pub client: Option<SocketAddr>,
}

/// It is no header of either version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadProxyHeader;

/// Reads a header at the start of `bytes`; `None` while it is not complete.
pub fn parse_proxy_header(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadProxyHeader> {
    let seen = bytes.len().min(SIGNATURE.len());
    if seen > 0 && bytes[..seen] == SIGNATURE[..seen] {
        return binary(bytes);
    }
    let begins = bytes.len().min(6);
    if bytes[..begins] != b"PROXY "[..begins] {
        return Err(BadProxyHeader);
    }
    text(bytes)
}

/// Whether these bytes begin as a header does, or may once there are more: of one version, or of
/// any. For those who take connections with and without one.
pub fn begins_proxy_header(bytes: &[u8], version: Option<ProxyVersion>) -> bool {
    let begins = |word: &[u8]| {
        let seen = bytes.len().min(word.len());
        bytes[..seen] == word[..seen]
    };
    version != Some(ProxyVersion::V2) && begins(b"PROXY ")
        || version != Some(ProxyVersion::V1) && begins(SIGNATURE)
}

fn text(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadProxyHeader> {
    let bounded = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    let Some(end) = bounded.windows(2).position(|two| two == b"\r\n") else {
        let full = bounded.len() == TEXT_BYTES_MAX;
        return if full { Err(BadProxyHeader) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&bounded[..end]).map_err(|_| BadProxyHeader)?;
    let length = end + 2;
    let mut words = line.split(' ').skip(1);
    let mut next = || words.next().ok_or(BadProxyHeader);
    let family = next()?;
    if family == "UNKNOWN" {
        // Whatever follows means nothing.
        return Ok(Some(ProxyHeader {
            length,
            client: None,
        }));
    }
    let (source, target) = (address(family, next()?)?, address(family, next()?)?);
    let (source_port, target_port) = (port(next()?)?, port(next()?)?);
    let _ = (target, target_port);
    if words.next().is_some() {
        return Err(BadProxyHeader);
    }
    Ok(Some(ProxyHeader {
        length,
        client: Some(SocketAddr::new(source, source_port)),
    }))
}

fn address(family: &str, word: &str) -> Result<IpAddr, BadProxyHeader> {
    match family {
        "TCP4" => word.parse().map(IpAddr::V4).map_err(|_| BadProxyHeader),
        "TCP6" => word.parse().map(IpAddr::V6).map_err(|_| BadProxyHeader),
        _ => Err(BadProxyHeader),
    }
}

fn port(word: &str) -> Result<u16, BadProxyHeader> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    let leads = word.len() > 1 && word.starts_with('0');
    match word.parse() {
        Ok(port) if plain && !leads => Ok(port),
        _ => Err(BadProxyHeader),
    }
}

fn binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadProxyHeader> {
    let Some(head) = bytes.get(12..16) else {
        return Ok(None);
    };
    let (command, family) = (head[0], head[1]);
    let size = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let length = 16 + size;
    if command >> 4 != 2 || command & 15 > 1 || length > BINARY_BYTES_MAX {
        return Err(BadProxyHeader);
    }
    let Some(body) = bytes.get(16..length) else {
        return Ok(None);
    };
    let local = command & 15 == 0;
    let client = match family {
        _ if local => None,
        // Further values may follow the addresses.
        0x11 => {
            let body: &[u8; 12] = body.first_chunk().ok_or(BadProxyHeader)?;
            let ip = Ipv4Addr::new(body[0], body[1], body[2], body[3]);
            let port = u16::from_be_bytes([body[8], body[9]]);
            Some(SocketAddr::new(ip.into(), port))
        }
        0x21 => {
            let body: &[u8; 36] = body.first_chunk().ok_or(BadProxyHeader)?;
            let mut octets = [0; 16];
            octets.copy_from_slice(&body[..16]);
            let port = u16::from_be_bytes([body[32], body[33]]);
            Some(SocketAddr::new(Ipv6Addr::from(octets).into(), port))
        }
        // Unknown, datagrams and unix sockets say nothing that could be used.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => None,
        _ => return Err(BadProxyHeader),
    };
    Ok(Some(ProxyHeader { length, client }))
}

/// Appends a header for a connection of `client` to `target`. Without both, or with addresses of
/// different families, it says that it does not know.
pub fn push_proxy_header(
    out: &mut Vec<u8>,
    version: ProxyVersion,
    client: Option<SocketAddr>,
    target: Option<SocketAddr>,
) {
    let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    let known = client.map(canonical).zip(target.map(canonical));
    match version {
        ProxyVersion::V1 => push_text(out, known),
        ProxyVersion::V2 => push_binary(out, known),
    }
}

type Ends = Option<((IpAddr, u16), (IpAddr, u16))>;

fn push_text(out: &mut Vec<u8>, known: Ends) {
    use std::io::Write;
    // Writing to a Vec cannot fail.
    let _ = match known {
        Some(((source @ IpAddr::V4(_), one), (target @ IpAddr::V4(_), two))) => {
            write!(out, "PROXY TCP4 {source} {target} {one} {two}\r\n")
        }
        Some(((source @ IpAddr::V6(_), one), (target @ IpAddr::V6(_), two))) => {
            write!(out, "PROXY TCP6 {source} {target} {one} {two}\r\n")
        }
        _ => out.write_all(b"PROXY UNKNOWN\r\n"),
    };
}

fn push_binary(out: &mut Vec<u8>, known: Ends) {
    out.extend_from_slice(SIGNATURE);
    match known {
        Some(((IpAddr::V4(source), one), (IpAddr::V4(target), two))) => {
            out.extend_from_slice(&[0x21, 0x11, 0, 12]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&target.octets());
            out.extend_from_slice(&one.to_be_bytes());
            out.extend_from_slice(&two.to_be_bytes());
        }
        Some(((IpAddr::V6(source), one), (IpAddr::V6(target), two))) => {
            out.extend_from_slice(&[0x21, 0x21, 0, 36]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&target.octets());
            out.extend_from_slice(&one.to_be_bytes());
            out.extend_from_slice(&two.to_be_bytes());
        }
        // It speaks for itself.
        _ => out.extend_from_slice(&[0x20, 0x00, 0, 0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(version: ProxyVersion, client: &str, target: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let (client, target) = (client.parse().ok(), target.parse().ok());
        push_proxy_header(&mut out, version, client, target);
        out
    }

    #[test]
    fn what_is_written_is_read_however_it_is_cut() {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            for (client, target) in [
                ("1.2.3.4:5", "6.7.8.9:80"),
                ("[2001:db8::1]:65535", "[::1]:443"),
                ("", "[::1]:443"),
                ("1.2.3.4:5", "[::1]:443"),
                ("[::ffff:1.2.3.4]:5", "6.7.8.9:80"),
            ] {
                let bytes = written(version, client, target);
                for cut in 0..bytes.len() {
                    assert_eq!(
                        parse_proxy_header(&bytes[..cut]),
                        Ok(None),
                        "{version:?} {cut}"
                    );
                }
                let mut more = bytes.clone();
                more.extend_from_slice(b"GET / HTTP/1.1\r\n");
                let header = parse_proxy_header(&more).unwrap().unwrap();
                assert_eq!(header.length, bytes.len());
                let expected = match (client, target) {
                    ("", _) | ("1.2.3.4:5", "[::1]:443") => None,
                    ("[::ffff:1.2.3.4]:5", _) => Some("1.2.3.4:5".parse().unwrap()),
                    _ => Some(client.parse().unwrap()),
                };
                assert_eq!(header.client, expected, "{version:?} {client}");
            }
        }
        let text = written(ProxyVersion::V1, "1.2.3.4:5", "6.7.8.9:80");
        assert_eq!(text, b"PROXY TCP4 1.2.3.4 6.7.8.9 5 80\r\n");
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        for bad in [
            "GET / HTTP/1.1\r\n",
            "PROXY\r\n",
            "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
            "PROXY TCP4 ::1 1.2.3.4 1 2\r\n",
            "PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
            "PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
            &long,
        ] {
            assert_eq!(
                parse_proxy_header(bad.as_bytes()),
                Err(BadProxyHeader),
                "{bad:?}"
            );
        }
        let good = written(ProxyVersion::V2, "1.2.3.4:5", "6.7.8.9:80");
        for (at, byte) in [
            (4, 1),
            (12, 0x11),
            (12, 0x22),
            (13, 0x55),
            (14, 0xff),
            (15, 11),
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(parse_proxy_header(&bad), Err(BadProxyHeader), "{at} {byte}");
        }
    }

    #[test]
    fn what_speaks_for_itself_names_nobody() {
        let mut local = SIGNATURE.to_vec();
        local.extend_from_slice(&[0x20, 0x11, 0, 12]);
        local.extend_from_slice(&[9; 12]);
        let header = parse_proxy_header(&local).unwrap().unwrap();
        assert_eq!((header.length, header.client), (28, None));
        let unknown = b"PROXY UNKNOWN ff:: 1 whatever\r\n";
        assert_eq!(parse_proxy_header(unknown).unwrap().unwrap().client, None);
    }
}
