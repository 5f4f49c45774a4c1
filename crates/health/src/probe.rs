//! One check: a connection, or a request and its answer.

use std::net::SocketAddr;
use std::sync::Arc;

use evener_config::{CheckKind, HealthCheck};
use evener_http1::{BodyDecoder, Fields, Framing, HeadLimits, ResponseHead, parse_response};
use evener_net::push_proxy_header;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use crate::{Place, Wanted, grpc, http2};

/// Bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Makes a check; an error says in a few words why it has not passed.
pub(crate) async fn probe(wanted: &Wanted) -> Result<(), String> {
    let timeout = wanted.check.timeout;
    match tokio::time::timeout(timeout, ask(wanted)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", timeout.as_secs_f64())),
    }
}

async fn ask(wanted: &Wanted) -> Result<(), String> {
    let refused = |error: std::io::Error| format!("no connection: {error}");
    let check = &wanted.check;
    match &wanted.place {
        Place::Tcp(address) => {
            let port = check.port.unwrap_or(address.port());
            let address = SocketAddr::new(address.ip(), port);
            let stream = TcpStream::connect(address).await.map_err(refused)?;
            secure(stream, wanted, &address.to_string()).await
        }
        Place::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(refused)?;
            secure(stream, wanted, "localhost").await
        }
    }
}

/// Says what has to be said before the check, speaks TLS if the endpoint does, and checks.
async fn secure(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    wanted: &Wanted,
    authority: &str,
) -> Result<(), String> {
    let check = &wanted.check;
    if let Some(version) = wanted.speech.proxy {
        let mut header = Vec::new();
        push_proxy_header(&mut header, version, None, None);
        let broken = |error: std::io::Error| format!("the connection broke: {error}");
        stream.write_all(&header).await.map_err(broken)?;
    }
    let protocol = match check.kind {
        CheckKind::Tcp => return Ok(()),
        CheckKind::Http { http2: false, .. } => b"http/1.1".to_vec(),
        CheckKind::Http { http2: true, .. } | CheckKind::Grpc { .. } => b"h2".to_vec(),
    };
    let Some((tls, name)) = wanted.speech.tls.as_ref().filter(|_| !check.clear_text) else {
        return talk(stream, check, "http", authority).await;
    };
    let mut config = ClientConfig::clone(&tls.config());
    config.alpn_protocols = vec![protocol];
    let connected = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream);
    let failed = |error: std::io::Error| format!("TLS failed: {error}");
    talk(connected.await.map_err(failed)?, check, "https", authority).await
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    check: &HealthCheck,
    scheme: &str,
    authority: &str,
) -> Result<(), String> {
    let (path, host, expected) = match &check.kind {
        CheckKind::Tcp => return Ok(()),
        CheckKind::Grpc { service, host } => {
            return grpc::ask(stream, host.as_deref().unwrap_or(authority), service).await;
        }
        CheckKind::Http {
            path,
            host,
            expected,
            http2: true,
        } => {
            let host = host.as_deref().unwrap_or(authority);
            let target = format!("{scheme}://{host}{path}");
            let ask = async |sender| http2::get(sender, &target, expected, ANSWER_BYTES_MAX).await;
            return http2::on(stream, ask).await;
        }
        CheckKind::Http {
            path,
            host,
            expected,
            http2: false,
        } => (path, host, expected),
    };
    let host = host.as_deref().unwrap_or(authority);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Evener health check\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    let broken = |error: std::io::Error| format!("the connection broke: {error}");
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut fields = Fields::new();
    let mut answer = Vec::new();
    let head = loop {
        let ended = !read_more(&mut stream, &mut answer).await.map_err(broken)?;
        match next_head(&mut answer, &mut fields)? {
            Some(head) => break head,
            None if ended => return Err("it closed without an answer".to_owned()),
            None => {}
        }
    };
    let body = match expected.body {
        Some(_) => body(&mut stream, &head, &answer).await?,
        None => Vec::new(),
    };
    let list = fields.iter().filter_map(|field| {
        let name = std::str::from_utf8(field.name.of(&answer)).ok()?;
        Some((name, field.value.of(&answer)))
    });
    expected
        .judge(head.status, list, &body)
        .map_err(|rejection| rejection.to_string())
}

/// The final head, once it is complete; interim ones are dropped.
fn next_head(answer: &mut Vec<u8>, fields: &mut Fields) -> Result<Option<ResponseHead>, String> {
    loop {
        let head = parse_response(answer, fields, &HeadLimits::default(), false)
            .map_err(|_| "its answer is not valid HTTP".to_owned())?;
        match head {
            Some(head) if head.is_interim() => {
                answer.drain(..head.length);
            }
            head => return Ok(head),
        }
    }
}

async fn read_more(
    stream: &mut (impl AsyncRead + Unpin),
    out: &mut Vec<u8>,
) -> std::io::Result<bool> {
    let mut piece = [0; 8 * 1024];
    let count = stream.read(&mut piece).await?;
    out.extend_from_slice(&piece[..count]);
    if out.len() > ANSWER_BYTES_MAX {
        return Err(std::io::Error::other("the answer is too long"));
    }
    Ok(count > 0)
}

/// The body, or as much of it as is looked at.
async fn body(
    stream: &mut (impl AsyncRead + Unpin),
    head: &ResponseHead,
    answer: &[u8],
) -> Result<Vec<u8>, String> {
    let mut decoder = BodyDecoder::default();
    decoder.reset(head.framing);
    let mut body = Vec::new();
    let mut raw = answer[head.length..].to_vec();
    loop {
        let mut at = 0;
        while at < raw.len() && !decoder.is_done() {
            let piece = decoder
                .decode(&raw[at..])
                .map_err(|_| "its body is not valid HTTP".to_owned())?;
            body.extend_from_slice(&raw[at + piece.data.start..at + piece.data.end]);
            at += piece.consumed;
        }
        if decoder.is_done() || body.len() >= ANSWER_BYTES_MAX {
            return Ok(body);
        }
        raw.clear();
        let more = read_more(stream, &mut raw).await;
        match more {
            Ok(true) => {}
            Ok(false) if head.framing == Framing::UntilClose => return Ok(body),
            Ok(false) => return Err("its body was cut short".to_owned()),
            Err(error) => return Err(format!("the connection broke: {error}")),
        }
    }
}
