//! One request by HTTP/2: over TLS as ALPN has it, in clear text with prior knowledge.

use bytes::{Bytes, BytesMut};
use evener_policy::health::Expected;
use h2::RecvStream;
use h2::client::SendRequest;
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

/// Asks on a connection of its own, which ends with the answer.
pub(crate) async fn on<T>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ask: impl AsyncFnOnce(SendRequest<Bytes>) -> Result<T, String>,
) -> Result<T, String> {
    let (sender, connection) = h2::client::handshake(stream).await.map_err(broken)?;
    let driver = tokio::spawn(connection);
    let answer = ask(sender).await;
    driver.abort();
    answer
}

/// Sends a GET and judges the answer. `target` is the whole URI.
pub(crate) async fn get(
    sender: SendRequest<Bytes>,
    target: &str,
    expected: &Expected,
    most: usize,
) -> Result<(), String> {
    let request = Request::get(target)
        .header("user-agent", "Evener health check")
        .header("accept", "*/*")
        .body(())
        .map_err(|error| format!("`{target}` cannot be asked for: {error}"))?;
    let mut sender = sender.ready().await.map_err(broken)?;
    let (response, _) = sender.send_request(request, true).map_err(broken)?;
    let (head, stream) = response.await.map_err(broken)?.into_parts();
    let text = match expected.body {
        Some(_) => body(stream, most).await?.0,
        None => BytesMut::new(),
    };
    let fields = head.headers.iter();
    let fields: Vec<(&str, &[u8])> = fields
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    expected
        .judge(head.status.as_u16(), fields.iter().copied(), &text)
        .map_err(|rejection| rejection.to_string())
}

/// All of a body that has at most so many bytes, and what may still follow it.
pub(crate) async fn body(
    mut stream: RecvStream,
    most: usize,
) -> Result<(BytesMut, RecvStream), String> {
    let mut body = BytesMut::new();
    while let Some(data) = stream.data().await {
        let data = data.map_err(broken)?;
        let _ = stream.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
        if body.len() > most {
            return Err("its answer is too long".to_owned());
        }
    }
    Ok((body, stream))
}

pub(crate) fn broken(error: h2::Error) -> String {
    format!("HTTP/2 failed: {error}")
}
