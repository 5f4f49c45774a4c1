//! The opening handshake (RFC 6455, section 4.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use evener_http1::{FieldName, Fields, Method, RequestHead, list_items};
use sha1::{Digest, Sha1};

use super::deflate::Parameters;

/// RFC 6455, 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A valid request for a WebSocket.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// The value of `Sec-WebSocket-Accept`.
    pub(crate) accept: String,
    /// As the client listed them.
    pub(crate) subprotocols: Vec<String>,
    /// The client's offers of permessage-deflate, in its order.
    pub(crate) offers: Vec<Parameters>,
}

/// Why a request for a WebSocket is refused, with the status that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
}

/// Whether the request asks for a WebSocket (and not for another protocol, which is ignored).
pub(crate) fn is_wanted(bytes: &[u8], head: &RequestHead, fields: &Fields) -> bool {
    let named =
        |value: &[u8]| list_items(value).any(|item| item.eq_ignore_ascii_case(b"websocket"));
    head.upgrade
        && fields
            .iter()
            .any(|field| field.known == FieldName::Upgrade && named(field.value.of(bytes)))
}

/// Checks the request.
pub(crate) fn read(
    bytes: &[u8],
    head: &RequestHead,
    fields: &Fields,
) -> Result<Handshake, Refusal> {
    if head.method != Method::Get {
        return Err(Refusal {
            status: 405,
            reason: "a WebSocket is opened with GET",
        });
    }
    let (mut keys, mut versions) = (Vec::new(), Vec::new());
    let (mut subprotocols, mut offers) = (Vec::new(), Vec::new());
    for field in fields
        .iter()
        .filter(|field| field.known == FieldName::Other)
    {
        let (name, value) = (field.name.of(bytes), field.value.of(bytes));
        if name.len() < 17 || !name[..14].eq_ignore_ascii_case(b"sec-websocket-") {
            continue;
        }
        match name[14..].to_ascii_lowercase().as_slice() {
            b"key" => keys.push(value),
            b"version" => versions.push(value),
            b"protocol" => subprotocols
                .extend(list_items(value).map(|item| String::from_utf8_lossy(item).into_owned())),
            b"extensions" => offers.extend(Parameters::offers(value)),
            _ => {}
        }
    }
    if versions != [b"13"] {
        return Err(Refusal {
            status: 426,
            reason: "only WebSocket version 13 is spoken here",
        });
    }
    let valid = |key: &[u8]| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16);
    match keys[..] {
        [key] if valid(key) => Ok(Handshake {
            accept: accept_value(key),
            subprotocols,
            offers,
        }),
        _ => Err(Refusal {
            status: 400,
            reason: "Sec-WebSocket-Key is missing or malformed",
        }),
    }
}

fn accept_value(key: &[u8]) -> String {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    STANDARD.encode(digest)
}

/// Appends the `101` head.
pub(crate) fn write(
    out: &mut Vec<u8>,
    handshake_accept: &str,
    subprotocol: Option<&str>,
    extension: Option<&str>,
    lines: &[u8],
) {
    use evener_http1::write;
    write::status_line(out, 101);
    write::field(out, b"upgrade", b"websocket");
    write::field(out, b"connection", b"Upgrade");
    write::field(out, b"sec-websocket-accept", handshake_accept.as_bytes());
    if let Some(subprotocol) = subprotocol {
        write::field(out, b"sec-websocket-protocol", subprotocol.as_bytes());
    }
    if let Some(extension) = extension {
        write::field(out, b"sec-websocket-extensions", extension.as_bytes());
    }
    out.extend_from_slice(lines);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use evener_http1::{HeadLimits, parse_request};

    fn request(lines: &str) -> Result<Handshake, Refusal> {
        let text = format!(
            "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n{lines}\r\n"
        );
        let mut fields = Fields::new();
        let head = parse_request(text.as_bytes(), &mut fields, &HeadLimits::default());
        let head = head.unwrap().unwrap();
        assert!(is_wanted(text.as_bytes(), &head, &fields));
        read(text.as_bytes(), &head, &fields)
    }

    #[test]
    fn the_example_of_the_rfc() {
        let handshake = request(
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: chat, superchat\r\n",
        );
        let handshake = handshake.unwrap();
        assert_eq!(handshake.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(handshake.subprotocols, ["chat", "superchat"]);
    }

    #[test]
    fn refusals() {
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let version = "Sec-WebSocket-Version: 13\r\n";
        let status = |lines: &str| request(lines).unwrap_err().status;
        assert_eq!(status(key), 426);
        assert_eq!(status(&format!("{key}Sec-WebSocket-Version: 8\r\n")), 426);
        assert_eq!(status(version), 400);
        assert_eq!(
            status(&format!("{version}Sec-WebSocket-Key: c2hvcnQ=\r\n")),
            400
        );
        assert_eq!(status(&format!("{version}{key}{key}")), 400);
    }
}
