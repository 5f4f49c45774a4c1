//! WebSockets to endpoints that speak HTTP/2: what the stages have as a request of HTTP/1.1 with an
//! `Upgrade` goes as an extended CONNECT (RFC 8441), and its 200 comes back as the 101 that they
//! wait for. An endpoint must have said in its first SETTINGS that it takes such requests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use evener_http1::{FieldName, Fields, Method, RequestHead, list_items, write};
use evener_net::FarEnd;
use h2::ext::Protocol;
use http::{Request, Response};
use sha1::{Digest, Sha1};

use super::heads::{self, Malformed};

/// RFC 6455, 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The head of a frame (RFC 9113, 4.1).
const FRAME_HEAD_BYTES: usize = 9;

/// Tells when the first frame of an endpoint has come, which must be SETTINGS (RFC 9113, 3.4):
/// `h2` does not say.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    head: [u8; FRAME_HEAD_BYTES],
    received: usize,
}

impl Greeting {
    /// Bytes have come.
    pub(super) fn note(&mut self, bytes: &[u8]) {
        if self.received < FRAME_HEAD_BYTES {
            let count = bytes.len().min(FRAME_HEAD_BYTES - self.received);
            self.head[self.received..][..count].copy_from_slice(&bytes[..count]);
        }
        self.received = self.received.saturating_add(bytes.len());
    }

    /// Whether the first frame is there, to its end.
    pub(super) fn is_over(&self) -> bool {
        let [first, second, third, ..] = self.head;
        let payload = u32::from_be_bytes([0, first, second, third]) as usize;
        self.received >= FRAME_HEAD_BYTES + payload
    }
}

/// The key of a request for a WebSocket, as its client has sent it; `None` if the request is for
/// something else. An empty key is one that is none.
pub(super) fn key<'a>(bytes: &'a [u8], head: &RequestHead, fields: &'a Fields) -> Option<&'a [u8]> {
    let asks = |value| list_items(value).any(|item| item.eq_ignore_ascii_case(b"websocket"));
    let mut upgrades = fields
        .iter()
        .filter(|field| field.known == FieldName::Upgrade);
    let wanted = head.upgrade
        && head.method == Method::Get
        && upgrades.any(|field| asks(field.value.of(bytes)));
    if !wanted {
        return None;
    }
    let keys = fields.iter().filter(|field| {
        let name = field.name.of(bytes);
        name.eq_ignore_ascii_case(b"sec-websocket-key")
    });
    let mut keys = keys.map(|field| field.value.of(bytes));
    Some(match (keys.next(), keys.next()) {
        (Some(key), None) if STANDARD.decode(key).is_ok_and(|key| key.len() == 16) => key,
        _ => b"",
    })
}

/// The answer to a key (RFC 6455, 4.2.2).
pub(super) fn accept(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(GUID);
    STANDARD.encode(hash.finalize())
}

/// The request as an endpoint of HTTP/2 gets it. It has no key: there is nothing to prove.
pub(super) fn request(
    bytes: &[u8],
    head: &RequestHead,
    fields: &Fields,
    tls: bool,
) -> Result<Request<()>, Malformed> {
    let mut request = heads::request(bytes, head, fields, tls)?;
    *request.method_mut() = http::Method::CONNECT;
    let protocol = Protocol::from_static("websocket");
    request.extensions_mut().insert(protocol);
    let headers = request.headers_mut();
    for name in ["sec-websocket-key", "te", "content-length"] {
        headers.remove(name);
    }
    Ok(request)
}

/// Appends the response that the stages wait for.
pub(super) fn write_switching(out: &mut Vec<u8>, response: &Response<()>, accept: &str) {
    write::status_line(out, 101);
    for (name, value) in response.headers() {
        let name = name.as_str();
        if !matches!(name, "content-length" | "sec-websocket-accept") {
            write::field(out, name.as_bytes(), value.as_bytes());
        }
    }
    write::field(out, b"Connection", b"upgrade");
    write::field(out, b"Upgrade", b"websocket");
    write::field(out, b"Sec-WebSocket-Accept", accept.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Answers in place of the endpoint, which does not get the request.
pub(super) fn refuse(far: &FarEnd, status: u16, why: &str) {
    let reason = write::reason_phrase(status);
    let body = format!("{status} {reason}: {why}\n");
    far.push(|out| {
        write::status_line(out, status);
        write::field(out, b"Content-Type", b"text/plain; charset=utf-8");
        write::field(out, b"Content-Length", body.len().to_string().as_bytes());
        write::field(out, b"Connection", b"close");
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body.as_bytes());
    });
    far.end();
}

#[cfg(test)]
mod tests {
    use evener_http1::{HeadLimits, parse_request, parse_response};

    use super::*;

    fn asked(lines: &str) -> (Vec<u8>, RequestHead, Fields) {
        let bytes = format!("GET /chat?x=1 HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n").into_bytes();
        let mut fields = Fields::new();
        let head = parse_request(&bytes, &mut fields, &HeadLimits::default())
            .unwrap()
            .unwrap();
        (bytes, head, fields)
    }

    const ASKS: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: a, b\r\n";

    #[test]
    fn a_websocket_is_told_from_other_requests() {
        let key_of = |lines: &str| {
            let (bytes, head, fields) = asked(lines);
            key(&bytes, &head, &fields).map(|key| String::from_utf8(key.to_vec()).unwrap())
        };
        let good = "dGhlIHNhbXBsZSBub25jZQ==";
        let with = |key: &str| format!("{ASKS}Sec-WebSocket-Key: {key}\r\n");
        assert_eq!(key_of(&with(good)).as_deref(), Some(good));
        assert_eq!(key_of(ASKS).as_deref(), Some(""), "no key");
        assert_eq!(key_of(&with("short")).as_deref(), Some(""));
        let twice = format!("{}Sec-WebSocket-Key: {good}\r\n", with(good));
        assert_eq!(key_of(&twice).as_deref(), Some(""));
        assert_eq!(key_of("Connection: upgrade\r\nUpgrade: h2c\r\n"), None);
        assert_eq!(key_of(""), None);
    }

    #[test]
    fn the_request_is_an_extended_connect_and_its_answer_a_switch() {
        let (bytes, head, fields) = asked(&format!(
            "{ASKS}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-One: 1\r\n"
        ));
        let request = request(&bytes, &head, &fields, false).unwrap();
        assert_eq!(request.method(), http::Method::CONNECT);
        assert_eq!(request.uri().to_string(), "http://a.test/chat?x=1");
        let protocol = request.extensions().get::<Protocol>().unwrap();
        assert_eq!(protocol.as_str(), "websocket");
        let names: Vec<&str> = request.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        // The pair of RFC 6455, 1.3.
        let accept = accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let response = Response::builder()
            .header("sec-websocket-protocol", "b")
            .body(())
            .unwrap();
        let mut out = Vec::new();
        write_switching(&mut out, &response, &accept);
        let mut fields = Fields::new();
        let head = parse_response(&out, &mut fields, &HeadLimits::default(), false)
            .unwrap()
            .unwrap();
        assert_eq!((head.status, head.length), (101, out.len()));
        assert_eq!(fields.len(), 4);
    }

    #[test]
    fn the_first_frame_is_seen_however_it_is_cut() {
        let frame = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1];
        for size in 1..=frame.len() {
            let mut greeting = Greeting::default();
            assert!(!greeting.is_over());
            let mut received = 0;
            for piece in frame.chunks(size) {
                greeting.note(piece);
                received += piece.len();
                assert_eq!(greeting.is_over(), received == frame.len(), "{size}");
            }
        }
    }
}
