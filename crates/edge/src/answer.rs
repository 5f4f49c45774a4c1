//! The edge's own answers (refusals and health checks), and the end of a connection after one.

use evener_http1::{Method, Version, write};
use evener_net::Transfer;

use crate::core::{Core, READ_BYTES};
use crate::error::{ProxyError, Side};
use crate::forward::ROUNDS_MAX;
use crate::record;
use crate::respond::{flush, release_upstream};
use crate::session::{Flow, Phase, Session};

/// Answers a request, or what should have been one, with an error of our own.
pub(crate) fn refuse(session: &mut Session, core: &mut Core, error: &ProxyError) -> Flow {
    let status = error.status();
    core.telemetry.error(error.counter());
    let exchange = session.exchange.take();
    let mut body = Vec::new();
    let (json, to_head, reusable) = match &exchange {
        Some(exchange) => (
            exchange.wants_json,
            exchange.method == Method::Head,
            exchange.keep_alive && exchange.request_body.is_done(),
        ),
        None => (false, false, false),
    };
    write_error_body(&mut body, status, error.detail(), json);
    session.persists = reusable && error.side != Side::Downstream && !core.draining;
    let version = exchange
        .as_ref()
        .map_or(Version::H11, |exchange| exchange.version);
    let answer_start = session.output.len();
    write_answer(session, core, status, &body, json, to_head, version);
    match exchange {
        Some(mut exchange) => {
            if let Some(filtered) = exchange.filtered.as_deref_mut() {
                filtered.edits.apply(&mut session.output, answer_start);
            }
            release_upstream(&mut exchange, core);
            exchange.response_bytes = body.len() as u64;
            record::finished(&exchange, core, Some(status));
            core.give_exchange(exchange);
        }
        None => core.telemetry.response_without_request(status),
    }
    session.phase = Phase::Flush;
    Flow::Continue
}

/// Answers a health check.
pub(crate) fn health(session: &mut Session, core: &mut Core, healthy: bool) -> Flow {
    let exchange = session
        .exchange
        .take()
        .expect("a health check is a request");
    let (status, body) = if healthy {
        (200, &b"ok\n"[..])
    } else {
        (503, &b"not ready\n"[..])
    };
    session.persists = exchange.keep_alive && exchange.request_body.is_done() && !core.draining;
    write_answer(
        session,
        core,
        status,
        body,
        false,
        exchange.method == Method::Head,
        exchange.version,
    );
    record::finished(&exchange, core, Some(status));
    core.give_exchange(exchange);
    session.phase = Phase::Flush;
    Flow::Continue
}

fn write_error_body(out: &mut Vec<u8>, status: u16, detail: &str, json: bool) {
    // The details are our own words without quotes or control bytes: no escaping is needed.
    if json {
        out.extend_from_slice(b"{\"status\":");
        write::decimal(out, u64::from(status));
        out.extend_from_slice(b",\"detail\":\"");
        out.extend_from_slice(detail.as_bytes());
        out.extend_from_slice(b"\"}\n");
    } else {
        write::decimal(out, u64::from(status));
        out.push(b' ');
        out.extend_from_slice(write::reason_phrase(status).as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(detail.as_bytes());
        out.push(b'\n');
    }
}

fn write_answer(
    session: &mut Session,
    core: &mut Core,
    status: u16,
    body: &[u8],
    json: bool,
    to_head: bool,
    version: Version,
) {
    core.buffers.furnish(&mut session.output);
    core.refresh_date();
    let out = &mut session.output;
    write::status_line(out, status);
    let media: &[u8] = if json {
        b"application/json"
    } else {
        b"text/plain; charset=utf-8"
    };
    write::field(out, b"Content-Type", media);
    out.extend_from_slice(b"Content-Length: ");
    write::decimal(out, body.len() as u64);
    out.extend_from_slice(b"\r\n");
    write::field(out, b"Date", core.date());
    if status == 503 {
        write::field(out, b"Retry-After", b"1");
    }
    out.extend_from_slice(&core.response_fields);
    match (session.persists, version) {
        (false, _) => write::field(out, b"Connection", b"close"),
        (true, Version::H10) => write::field(out, b"Connection", b"keep-alive"),
        (true, Version::H11) => {}
    }
    out.extend_from_slice(b"\r\n");
    if !to_head {
        out.extend_from_slice(body);
    }
}

/// Writes the rest of our own answer, then goes on with the connection or closes it: gently, unless
/// the client is known to send nothing more.
pub(crate) fn flush_own(session: &mut Session, core: &mut Core) -> Flow {
    match flush(session, core) {
        Err(_) => Flow::Close,
        Ok(false) => Flow::Wait,
        Ok(true) if session.persists => {
            session.phase = Phase::Head;
            session.since_ms = core.now_ms();
            Flow::Continue
        }
        Ok(true) if session.last && session.input.is_empty() && session.socket.is_drained() => {
            Flow::Close
        }
        Ok(true) => {
            session.socket.shutdown_write();
            session.phase = Phase::Linger;
            session.since_ms = core.now_ms();
            Flow::Continue
        }
    }
}

/// Reads and forgets what the client still sends. Closing with unread bytes would make the system
/// reset the connection, and the client might lose our answer (RFC 9112, 9.6).
pub(crate) fn linger(session: &mut Session, core: &mut Core) -> Flow {
    for _ in 0..ROUNDS_MAX {
        match session.socket.read(&mut core.scratch[..READ_BYTES]) {
            Transfer::Bytes(_) => {}
            Transfer::Blocked => return Flow::Wait,
            Transfer::End | Transfer::Broken(_) => return Flow::Close,
        }
    }
    Flow::Yield
}
