//! One check by gRPC: the standard service `grpc.health.v1.Health` is asked for its status, over
//! HTTP/2 in clear text with prior knowledge. Its messages are small enough to be read by hand.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http2::{self, broken};

/// What a server answers that serves (`HealthCheckResponse.ServingStatus`).
const SERVING: u64 = 1;
/// Bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: usize = 4096;

/// Asks for the status of `service`; empty is all of the server.
pub(crate) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    authority: &str,
    service: &str,
) -> Result<(), String> {
    http2::on(stream, async |ask| call(ask, authority, service).await).await
}

async fn call(
    ask: h2::client::SendRequest<Bytes>,
    authority: &str,
    service: &str,
) -> Result<(), String> {
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "evener-health-check")
        .body(())
        .map_err(|error| format!("`{authority}` cannot be asked for: {error}"))?;
    let mut ask = ask.ready().await.map_err(broken)?;
    let (response, mut body) = ask.send_request(request, false).map_err(broken)?;
    body.send_data(message(service), true).map_err(broken)?;
    let response = response.await.map_err(broken)?;
    if response.status() != 200 {
        return Err(format!("it answered {}", response.status().as_u16()));
    }
    // A call that fails at once has its trailers in the head.
    succeeded(response.headers())?;
    let (answer, mut stream) = http2::body(response.into_body(), ANSWER_BYTES_MAX).await?;
    if let Some(trailers) = stream.trailers().await.map_err(broken)? {
        succeeded(&trailers)?;
    }
    match status(&answer) {
        Some(SERVING) => Ok(()),
        Some(2) => Err("it says NOT_SERVING".to_owned()),
        Some(other) => Err(format!("it says status {other}")),
        None => Err("its answer is no HealthCheckResponse".to_owned()),
    }
}

/// `grpc-status`, where it stands; 0 is success.
fn succeeded(fields: &HeaderMap) -> Result<(), String> {
    match fields.get("grpc-status").map(|code| code.as_bytes()) {
        None | Some(b"0") => Ok(()),
        Some(code) => Err(format!("gRPC status {}", String::from_utf8_lossy(code))),
    }
}

/// `HealthCheckRequest { service }`, framed: no compression, length, field 1 as text.
fn message(service: &str) -> Bytes {
    let mut inner = BytesMut::new();
    if !service.is_empty() {
        inner.put_u8(0x0a);
        let mut size = service.len();
        while size >= 0x80 {
            inner.put_u8((size as u8) | 0x80);
            size >>= 7;
        }
        inner.put_u8(size as u8);
        inner.extend_from_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(inner.len() as u32);
    framed.extend_from_slice(&inner);
    framed.freeze()
}

/// The status in a framed `HealthCheckResponse`; a field that is not there is 0.
fn status(framed: &[u8]) -> Option<u64> {
    let (&[0, a, b, c, d], rest) = framed.split_first_chunk::<5>()? else {
        return None;
    };
    let mut rest = rest.get(..u32::from_be_bytes([a, b, c, d]) as usize)?;
    let mut status = 0;
    while !rest.is_empty() {
        let key = number(&mut rest)?;
        match key & 7 {
            0 => {
                let value = number(&mut rest)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            2 => {
                let size = usize::try_from(number(&mut rest)?).ok()?;
                rest = rest.get(size..)?;
            }
            _ => return None,
        }
    }
    Some(status)
}

/// A variable-length number at the start of `rest`.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_service() {
        assert_eq!(&message("")[..], b"\0\0\0\0\0");
        assert_eq!(&message("shop")[..], b"\0\0\0\0\x06\x0a\x04shop");
        let long = message(&"x".repeat(300));
        assert_eq!(&long[..8], b"\0\0\0\x01\x2f\x0a\xac\x02");
    }

    #[test]
    fn answers_are_read_and_nonsense_is_refused() {
        assert_eq!(status(b"\0\0\0\0\x02\x08\x01"), Some(SERVING));
        assert_eq!(status(b"\0\0\0\0\x00"), Some(0));
        assert_eq!(status(b"\0\0\0\0\x05\x12\x01x\x08\x02"), Some(2));
        for bad in [
            &b""[..],
            b"\x01\0\0\0\x02\x08\x01",
            b"\0\0\0\0\x09\x08\x01",
            b"\0\0\0\0\x01\x08",
            b"\0\0\0\0\x03\x12\x09x",
            b"\0\0\0\0\x01\x0d",
        ] {
            assert_eq!(status(bad), None, "{bad:?}");
        }
    }
}
