//! Stage 9, and the second half of 7: the response on its way to the client, and what happens to
//! both connections afterwards.
//!
//! Responses are not buffered unless the route asks for it (`buffer_response`), with one exception. A response that fits in one write and whose end
//! is on its way (a head of which the short body follows in the endpoint's next write) is held for
//! a moment: it then leaves in one write, and if the endpoint dies in between, the request can
//! still be answered by another one, or with an error that can be read.

use std::mem::take;

use evener_http1::{Framing, Method, ResponseHead, Version, parse_response, write};
use evener_net::Transfer;

use crate::admission::Finished;
use crate::binding;
use crate::buffer_response;
use crate::compress;
use crate::core::{Core, HEADROOM, Owner, READ_BYTES, READ_BYTES_LARGE};
use crate::error::{Kind, ProxyError, Stage};
use crate::forward::ROUNDS_MAX;
use crate::head::{self, ResponseTerms};
use crate::hedge;
use crate::record;
use crate::retry;
use crate::session::{Exchange, Flow, Phase, Session};
use crate::spill::PIECES_MAX;

/// The longest response body that is waited for.
const HOLD_BYTES_MAX: u64 = 64 * 1024;
/// How long the rest of a body of known length is waited for: longer than a busy machine keeps a
/// worker from its second write.
const HOLD_LENGTH_MS: u64 = 250;
/// How long the first chunk is waited for after a head that announces chunks.
const HOLD_CHUNK_MS: u64 = 10;

/// How far the download got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Download {
    /// Nothing more can be moved now.
    Rests,
    /// More could be moved at once.
    Yields,
    /// The response is with the client.
    Done,
    /// The endpoint has switched protocols.
    Tunnel,
}

/// Moves the response on, as far as both sides let it.
pub(crate) fn download(session: &mut Session, core: &mut Core) -> Result<Download, ProxyError> {
    for round in 0..ROUNDS_MAX {
        if !flush(session, core)? {
            match behind(session, core, round) {
                None => {}
                Some(download) => return Ok(download),
            }
        } else if session
            .exchange
            .as_ref()
            .is_some_and(|e| e.backlog.is_some())
            && buffer_response::refill(session, core)?
        {
            continue;
        }
        let exchange = session
            .exchange
            .as_mut()
            .expect("a download is of a request");
        if exchange.terms.is_some_and(|terms| terms.tunnel) {
            return Ok(Download::Tunnel);
        }
        if exchange.is_answered() {
            return Ok(Download::Done);
        }
        let Some(upstream) = exchange.upstream.as_mut() else {
            return Ok(Download::Rests);
        };
        let large = exchange.response_body.expected_bytes() > READ_BYTES as u64;
        let size = if exchange.answering && large {
            READ_BYTES_LARGE
        } else {
            READ_BYTES
        };
        // Bytes that were kept go before the new ones, so that both can be looked at as one.
        let kept = HEADROOM + exchange.incoming.len();
        core.scratch[HEADROOM..kept].copy_from_slice(&exchange.incoming);
        match upstream.socket.read(&mut core.scratch[kept..kept + size]) {
            Transfer::Bytes(count) => {
                exchange.response_moved_ms = core.now_ns / 1_000_000;
                exchange.incoming.clear();
                let mut scratch = take(&mut core.scratch);
                let moved = received(session, core, &mut scratch[..kept + count], HEADROOM);
                core.scratch = scratch;
                moved?;
            }
            Transfer::Blocked => {
                if exchange.filtered.is_some() {
                    compress::pause(session, core)?;
                }
                return Ok(Download::Rests);
            }
            Transfer::End => upstream_ended(session, core)?,
            Transfer::Broken(kind) => {
                return Err(ProxyError::upstream(Stage::Respond, Kind::Broken(kind)));
            }
        }
    }
    Ok(Download::Yields)
}

/// The client has not taken what is there: whether the download ends for now.
fn behind(session: &mut Session, core: &mut Core, round: usize) -> Option<Download> {
    let exchange = session
        .exchange
        .as_mut()
        .expect("a download is of a request");
    // After 101 the endpoint has only begun.
    if exchange.is_answered() && !exchange.terms.is_some_and(|terms| terms.tunnel) {
        release_upstream(exchange, core);
        return Some(Download::Rests);
    }
    if !buffer_response::reads_ahead(session) {
        return Some(Download::Rests);
    }
    (round >= PIECES_MAX && buffer_response::spills(session)).then_some(Download::Yields)
}

/// Bytes came from the endpoint: those of `buffer` from `at` on.
fn received(
    session: &mut Session,
    core: &mut Core,
    buffer: &mut [u8],
    at: usize,
) -> Result<(), ProxyError> {
    let exchange = session
        .exchange
        .as_mut()
        .expect("bytes belong to a request");
    if exchange.answering {
        core.gather.clear();
        return send_body(session, core, buffer, at);
    }
    take_head(session, core, buffer, at)
}

/// The time for the rest of a short response is over: what is there goes out.
pub(crate) fn stop_holding(session: &mut Session, core: &mut Core) -> Result<(), ProxyError> {
    let exchange = session
        .exchange
        .as_mut()
        .expect("a response is held for a request");
    exchange.hold_until_ms = 1;
    let kept = take(&mut exchange.incoming);
    take_kept(session, core, kept)
}

/// Goes on with bytes of an answer that were kept.
pub(crate) fn take_kept(
    session: &mut Session,
    core: &mut Core,
    mut kept: Vec<u8>,
) -> Result<(), ProxyError> {
    let result = take_head(session, core, &mut kept, 0);
    core.buffers.give(kept);
    result
}

/// Parses heads in `buffer` from `at` on: interim ones are passed on, the final one starts the
/// response, and what is not complete is kept.
fn take_head(
    session: &mut Session,
    core: &mut Core,
    buffer: &mut [u8],
    mut at: usize,
) -> Result<(), ProxyError> {
    loop {
        let exchange = session
            .exchange
            .as_mut()
            .expect("a head belongs to a request");
        let to_head = exchange.method == Method::Head;
        let rest = &buffer[at..];
        let head = parse_response(rest, &mut core.fields, &core.head_limits, to_head)
            .map_err(|_| ProxyError::upstream(Stage::Respond, Kind::Garbage))?;
        match head {
            Some(head) if head.is_interim() => {
                at += head.length;
                send_interim(session, core, rest, &head)?;
            }
            Some(head) if !is_held(exchange, core, rest, &head) => {
                return start_response(session, core, buffer, at, &head);
            }
            _ => {
                core.buffers.furnish(&mut exchange.incoming);
                exchange.incoming.extend_from_slice(rest);
                return Ok(());
            }
        }
    }
}

/// Whether to wait for the rest of a response.
fn is_held(exchange: &mut Exchange, core: &Core, bytes: &[u8], head: &ResponseHead) -> bool {
    let present = (bytes.len() - head.length) as u64;
    let patience_ms = match head.framing {
        Framing::Length(length) if length <= HOLD_BYTES_MAX && present < length => HOLD_LENGTH_MS,
        Framing::Chunked if present == 0 => HOLD_CHUNK_MS,
        _ => return false,
    };
    let now_ms = core.now_ns / 1_000_000;
    if exchange.hold_until_ms == 0 {
        exchange.hold_until_ms = now_ms + patience_ms;
    }
    now_ms < exchange.hold_until_ms
}

fn send_interim(
    session: &mut Session,
    core: &mut Core,
    bytes: &[u8],
    head: &ResponseHead,
) -> Result<(), ProxyError> {
    let exchange = session
        .exchange
        .as_ref()
        .expect("a head belongs to a request");
    // RFC 9110, 15.2: never to an HTTP/1.0 client.
    if exchange.version == Version::H10 {
        return Ok(());
    }
    let terms = ResponseTerms {
        version: exchange.version,
        chunked: false,
        keep_alive: true,
        tunnel: false,
    };
    let mut gather = take(&mut core.gather);
    gather.clear();
    gather.own(|own| head::response(own, bytes, head, &core.fields, terms, b"", b""));
    let sent = send(session, core, &gather, bytes);
    core.gather = gather;
    sent
}

/// Passes on the head in `buffer` at `at`, and as much of the body as is there.
fn start_response(
    session: &mut Session,
    core: &mut Core,
    buffer: &mut [u8],
    at: usize,
    head: &ResponseHead,
) -> Result<(), ProxyError> {
    let exchange = session
        .exchange
        .as_mut()
        .expect("a head belongs to a request");
    let tunnel = head.status == 101;
    if tunnel && !exchange.upgrade {
        return Err(ProxyError::upstream(Stage::Respond, Kind::Garbage));
    }
    if retry::declines(exchange, core, head.status) {
        let declined = Kind::Declined(head.status);
        return Err(ProxyError::upstream(Stage::Respond, declined));
    }
    if exchange.race.is_some() {
        hedge::cancel(exchange, core);
    }
    let modern = exchange.version == Version::H11;
    let delimited = matches!(head.framing, Framing::Length(_));
    let bytes = &buffer[at..];
    keep_for_log(exchange, core, bytes);
    let encoded = exchange.filtered.is_some() && {
        binding::note(exchange, bytes, &core.fields, core.now_ns);
        compress::begin(exchange, core, bytes, head)
    };
    let chunked = modern && (!delimited || encoded);
    // A client that is still sending is told to stop: what it sends after our answer is not read.
    let keep_alive = exchange.keep_alive
        && exchange.request_body.is_done()
        && !core.draining
        && (delimited || chunked);
    let terms = ResponseTerms {
        version: exchange.version,
        chunked,
        keep_alive,
        tunnel,
    };
    exchange.terms = Some(terms);
    exchange.status = head.status;
    exchange.answering = true;
    exchange.head_ns = core.now_ns;
    exchange.upstream_persists = head.keep_alive && !tunnel;
    exchange.response_body.reset(head.framing);
    let mut gather = take(&mut core.gather);
    gather.clear();
    core.refresh_date();
    let (fields, date, extra) = (&core.fields, core.date(), &core.response_fields);
    gather.own(|own| {
        head::response(own, bytes, head, fields, terms, date, extra);
        if let Some(filtered) = exchange.filtered.as_deref_mut() {
            filtered.edits.apply(own, 0);
        }
    });
    let body = at + head.length;
    gather.place_before(buffer, body);
    if tunnel {
        gather.input(buffer, body, buffer.len());
        let sent = send(session, core, &gather, buffer);
        core.gather = gather;
        return sent;
    }
    core.gather = gather;
    send_body(session, core, buffer, body)
}

/// Keeps what the access log will say about a response.
fn keep_for_log(exchange: &mut Exchange, core: &Core, bytes: &[u8]) {
    if let Some(template) = core.telemetry.access_template() {
        let names = template.response_fields();
        exchange.log.keep_response(names, bytes, &core.fields);
    }
}

/// Decodes the body bytes of `buffer` from `at` on, and sends them after what `core.gather` already
/// holds.
fn send_body(
    session: &mut Session,
    core: &mut Core,
    bytes: &[u8],
    mut at: usize,
) -> Result<(), ProxyError> {
    if session
        .exchange
        .as_ref()
        .is_some_and(|e| e.filtered.is_some())
        && compress::is_on(session)
    {
        return compress::send_body(session, core, bytes, at);
    }
    let mut gather = take(&mut core.gather);
    let result = (|| {
        loop {
            let exchange = session
                .exchange
                .as_mut()
                .expect("a body belongs to a request");
            at += gather_body(exchange, bytes, at, &mut gather)?;
            let more = at < bytes.len() && !exchange.response_body.is_done();
            send(session, core, &gather, bytes)?;
            if !more {
                break;
            }
            gather.clear();
        }
        if at < bytes.len() {
            // Bytes after the end of the response answer nothing that was asked.
            let exchange = session
                .exchange
                .as_mut()
                .expect("a body belongs to a request");
            exchange.upstream_persists = false;
        }
        Ok(())
    })();
    core.gather = gather;
    result
}

fn gather_body(
    exchange: &mut Exchange,
    bytes: &[u8],
    from: usize,
    gather: &mut evener_net::Gather,
) -> Result<usize, ProxyError> {
    let chunked = exchange.terms.is_some_and(|terms| terms.chunked);
    let was_done = exchange.response_body.is_done();
    let mut at = from;
    while at < bytes.len() && !exchange.response_body.is_done() && !gather.is_full() {
        let piece = exchange
            .response_body
            .decode(&bytes[at..])
            .map_err(|_| ProxyError::upstream(Stage::Respond, Kind::Garbage))?;
        let (start, end) = (at + piece.data.start, at + piece.data.end);
        if start < end {
            exchange.response_bytes += (end - start) as u64;
            if chunked {
                gather.own(|own| write::chunk_start(own, end - start));
            }
            gather.input(bytes, start, end);
            if chunked {
                gather.own(|own| own.extend_from_slice(b"\r\n"));
            }
        }
        at += piece.consumed;
    }
    if chunked && !was_done && exchange.response_body.is_done() {
        gather.own(|own| write::last_chunk(own, exchange.response_body.trailer()));
    }
    Ok(at - from)
}

/// Sends what was gathered; what the client does not take is kept for later.
pub(crate) fn send(
    session: &mut Session,
    core: &mut Core,
    gather: &evener_net::Gather,
    input: &[u8],
) -> Result<(), ProxyError> {
    let mut written = 0;
    if !session.has_output() && !gather.is_empty() {
        match session.socket.write_gather(gather, input) {
            Transfer::Bytes(count) => {
                core.telemetry.bytes_sent(count as u64);
                session.output_moved_ms = core.now_ms();
                written = count;
            }
            Transfer::Blocked | Transfer::End => session.output_moved_ms = core.now_ms(),
            Transfer::Broken(_) => {
                return Err(ProxyError::downstream(Stage::Respond, Kind::ClientGone));
            }
        }
    }
    if written < gather.len() {
        match session.exchange.as_deref().and_then(buffer_response::terms) {
            Some(terms) => buffer_response::keep(session, core, terms, gather, input, written),
            None => {
                core.buffers.furnish(&mut session.output);
                gather.copy_rest(input, written, &mut session.output);
            }
        }
        // Without the registration the deadline on the client ends the wait.
        let _ = session.socket.await_writable(&core.registry);
    }
    Ok(())
}

/// Writes what waits for the client; true when all of it is gone.
pub(crate) fn flush(session: &mut Session, core: &mut Core) -> Result<bool, ProxyError> {
    while session.has_output() {
        match session.socket.write(&session.output[session.output_sent..]) {
            Transfer::Bytes(count) => {
                core.telemetry.bytes_sent(count as u64);
                session.output_sent += count;
                session.output_moved_ms = core.now_ms();
            }
            Transfer::Blocked | Transfer::End => {
                let _ = session.socket.await_writable(&core.registry);
                return Ok(false);
            }
            Transfer::Broken(_) => {
                return Err(ProxyError::downstream(Stage::Respond, Kind::ClientGone));
            }
        }
    }
    session.output.clear();
    session.output_sent = 0;
    core.buffers.reclaim(&mut session.output);
    // TLS may hold encrypted bytes that the kernel has not taken; an event sends them on.
    Ok(session.socket.is_flushed())
}

/// The endpoint closed its side: the proper end of a body that only this ends, else a failure.
fn upstream_ended(session: &mut Session, core: &mut Core) -> Result<(), ProxyError> {
    let exchange = session
        .exchange
        .as_mut()
        .expect("bytes belong to a request");
    if !exchange.answering || !exchange.response_body.is_until_close() {
        return Err(ProxyError::upstream(Stage::Respond, Kind::Closed));
    }
    exchange.upstream_persists = false;
    exchange.response_body.reset(Framing::Length(0));
    release_upstream(exchange, core);
    if !exchange.terms.is_some_and(|terms| terms.chunked) {
        return Ok(());
    }
    let mut gather = take(&mut core.gather);
    gather.clear();
    if exchange.filtered.is_some() {
        compress::finish(exchange, &mut gather)?;
    }
    gather.own(|own| write::last_chunk(own, b""));
    let sent = send(session, core, &gather, b"");
    core.gather = gather;
    sent
}

/// Gives the connection back to the pool, or closes it, and the slot back to the cluster. The rest
/// of the response may still be on its way to a slow client, which is no business of the endpoint.
pub(crate) fn release_upstream(exchange: &mut Exchange, core: &mut Core) {
    if let Some(upstream) = exchange.upstream.take() {
        if let (Some(claims), Some(sequence)) = (&upstream.claims, exchange.offered) {
            exchange.loop_held = Some(claims.hold(sequence).unwrap_or_default());
        }
        let reusable = exchange.upstream_persists && exchange.is_sent() && !upstream.socket.is_read_closed()
            // A connection that began with somebody's address is nobody else's.
            && upstream.endpoint.terms.proxy.is_none();
        let token = upstream.socket.token();
        let id = upstream.endpoint.id;
        let rejected = if reusable {
            let now_ms = core.now_ms();
            core.tokens.reassign(token, Owner::Idle(id));
            core.pools.give(upstream, now_ms)
        } else {
            Some(upstream)
        };
        if let Some(upstream) = rejected {
            core.close_upstream(upstream);
        }
    }
    if let Some(endpoint) = exchange.endpoint.take() {
        let finished = Finished::of_answer(exchange);
        exchange.pass = None;
        exchange
            .cluster()
            .release(&endpoint, &finished, core.now_ns);
        exchange.answered_by = Some(endpoint);
    }
}

/// The response is with the client: the books are closed and the connection goes on, or not.
pub(crate) fn finish(session: &mut Session, core: &mut Core) -> Flow {
    let mut exchange = session.exchange.take().expect("a request has ended");
    release_upstream(&mut exchange, core);
    record::finished(&exchange, core, Some(exchange.status));
    let received = exchange.request_body.is_done();
    let keep = received && exchange.terms.is_some_and(|terms| terms.keep_alive);
    // Some clients send a stray CRLF after a body (RFC 9112, 2.2).
    session.last = received && !exchange.keep_alive && exchange.request_body_bytes == 0;
    core.give_exchange(exchange);
    session.since_ms = core.now_ms();
    if keep {
        session.phase = Phase::Head;
        return Flow::Continue;
    }
    session.persists = false;
    session.phase = Phase::Flush;
    Flow::Continue
}

/// Both directions of a tunnel have ended.
pub(crate) fn finish_tunnel(session: &mut Session, core: &mut Core) -> Flow {
    let mut exchange = session.exchange.take().expect("a tunnel is an exchange");
    release_upstream(&mut exchange, core);
    record::finished(&exchange, core, Some(exchange.status));
    core.give_exchange(exchange);
    Flow::Close
}
