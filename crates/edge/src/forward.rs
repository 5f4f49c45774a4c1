//! Stage 7, first half: the request on its way to the endpoint.
//!
//! A request is held from its first byte while it is short enough, so that it can be sent again.
//! A longer one goes through piece by piece: nothing more is read from the client until the
//! endpoint has taken what is there.

use std::mem::take;

use evener_http1::{Piece, write};
use evener_net::Transfer;

use crate::buffer_request;
use crate::core::{Core, READ_BYTES, READ_BYTES_LARGE};
use crate::error::{Kind, ProxyError, Stage};
use crate::session::{Exchange, Session};

/// Reads and writes of one direction before others get their turn.
pub(crate) const ROUNDS_MAX: usize = 16;

/// How far the upload got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upload {
    /// Nothing more can be moved now, or at all.
    Rests,
    /// More could be moved at once.
    Yields,
}

/// Moves the request body on, as far as both sides let it.
pub(crate) fn upload(session: &mut Session, core: &mut Core) -> Result<Upload, ProxyError> {
    for _ in 0..ROUNDS_MAX {
        let exchange = session
            .exchange
            .as_mut()
            .expect("an upload is of a request");
        if !write_unsent(exchange, core) || exchange.upload_ended {
            return Ok(Upload::Rests);
        }
        if exchange.request_body.is_done() {
            return match exchange.whole {
                None => Ok(Upload::Rests),
                Some(_) => buffer_request::send_on(session, core),
            };
        }
        if !receive(session, core)? {
            return Ok(Upload::Rests);
        }
    }
    Ok(Upload::Yields)
}

/// Takes the next piece of the request body that has come from the client; false if none has.
pub(crate) fn receive(session: &mut Session, core: &mut Core) -> Result<bool, ProxyError> {
    let exchange = session
        .exchange
        .as_mut()
        .expect("an upload is of a request");
    if !session.input.is_empty() {
        let mut input = take(&mut session.input);
        let used = take_body(session, core, &input);
        input.drain(..*used.as_ref().unwrap_or(&0));
        session.input = input;
        core.buffers.reclaim(&mut session.input);
        return used.map(|_| true);
    }
    let large = exchange.request_body.expected_bytes() > READ_BYTES as u64;
    let size = if large { READ_BYTES_LARGE } else { READ_BYTES };
    let mut scratch = take(&mut core.scratch);
    let moved = read_body(session, core, &mut scratch[..size]);
    core.scratch = scratch;
    moved
}

fn read_body(
    session: &mut Session,
    core: &mut Core,
    scratch: &mut [u8],
) -> Result<bool, ProxyError> {
    let count = match session.socket.read(scratch) {
        Transfer::Bytes(count) => count,
        Transfer::Blocked => return Ok(false),
        Transfer::End | Transfer::Broken(_) => {
            return Err(ProxyError::downstream(Stage::Forward, Kind::ClientGone));
        }
    };
    core.telemetry.bytes_received(count as u64);
    let used = take_body(session, core, &scratch[..count])?;
    if used < count {
        core.buffers.furnish(&mut session.input);
        session.input.extend_from_slice(&scratch[used..count]);
    }
    Ok(true)
}

/// Decodes body bytes and passes them on: straight to the endpoint if nothing is before them and
/// they need not be held, else by way of `outgoing`. Returns how many bytes belonged to the body.
pub(crate) fn take_body(
    session: &mut Session,
    core: &mut Core,
    bytes: &[u8],
) -> Result<usize, ProxyError> {
    let exchange = session
        .exchange
        .as_mut()
        .expect("a body belongs to a request");
    if exchange.request_body.is_done() || bytes.is_empty() {
        return Ok(0);
    }
    exchange.upload_moved_ms = core.now_ns / 1_000_000;
    if exchange.whole.is_some() {
        return buffer_request::take(exchange, core, bytes);
    }
    let mut gather = take(&mut core.gather);
    gather.clear();
    let used = decode_into(exchange, bytes, &mut gather);
    if used.is_ok() {
        let fits = exchange.outgoing.len() + gather.len() <= core.config.limits.replay_bytes;
        if exchange.held && !fits && exchange.upstream.is_some() && exchange.unsent().is_empty() {
            exchange.held = false;
        }
        let mut written = 0;
        if !exchange.held && exchange.unsent().is_empty() {
            exchange.outgoing.clear();
            exchange.sent = 0;
            exchange.preface_bytes = 0;
            if let Some(upstream) = exchange.upstream.as_mut() {
                match upstream.socket.write_gather(&gather, bytes) {
                    Transfer::Bytes(count) => written = count,
                    Transfer::Blocked | Transfer::End => {}
                    Transfer::Broken(_) => {
                        // The endpoint may have answered before it went: that is looked for next.
                        exchange.upload_ended = true;
                    }
                }
            }
        }
        gather.copy_rest(bytes, written, &mut exchange.outgoing);
    }
    core.gather = gather;
    used
}

fn decode_into(
    exchange: &mut Exchange,
    bytes: &[u8],
    gather: &mut evener_net::Gather,
) -> Result<usize, ProxyError> {
    let mut at = 0;
    while at < bytes.len() && !exchange.request_body.is_done() && !gather.is_full() {
        let piece = decode_piece(exchange, &bytes[at..])?;
        let (start, end) = (at + piece.data.start, at + piece.data.end);
        if start < end {
            if exchange.chunked {
                gather.own(|own| write::chunk_start(own, end - start));
            }
            gather.input(bytes, start, end);
            if exchange.chunked {
                gather.own(|own| own.extend_from_slice(b"\r\n"));
            }
        }
        at += piece.consumed;
    }
    if exchange.request_body.is_done() && exchange.chunked {
        gather.own(|own| write::last_chunk(own, exchange.request_body.trailer()));
    }
    Ok(at)
}

/// Decodes the next piece of the request body, which is counted and held to its bound.
#[inline]
pub(crate) fn decode_piece(exchange: &mut Exchange, bytes: &[u8]) -> Result<Piece, ProxyError> {
    let bad = |kind| ProxyError::downstream(Stage::Forward, kind);
    let piece = exchange
        .request_body
        .decode(bytes)
        .map_err(|error| bad(Kind::Body(error)))?;
    exchange.request_body_bytes += piece.data.len() as u64;
    let most = exchange.route.as_ref().and_then(|route| route.body_bytes);
    if most.is_some_and(|most| exchange.request_body_bytes > most) {
        return Err(bad(Kind::BodyTooLarge));
    }
    Ok(piece)
}

/// Writes what waits for the endpoint; returns whether it took everything.
fn write_unsent(exchange: &mut Exchange, core: &mut Core) -> bool {
    let Some(upstream) = exchange.upstream.as_mut() else {
        return false;
    };
    while exchange.sent < exchange.outgoing.len() && !exchange.upload_ended {
        match upstream.socket.write(&exchange.outgoing[exchange.sent..]) {
            Transfer::Bytes(count) => {
                exchange.sent += count;
                exchange.upload_moved_ms = core.now_ns / 1_000_000;
            }
            Transfer::Blocked | Transfer::End => {
                // Without the registration the deadline on the upload ends the wait.
                let _ = upstream.socket.await_writable(&core.registry);
                return false;
            }
            Transfer::Broken(_) => exchange.upload_ended = true,
        }
    }
    exchange.response_moved_ms = exchange.response_moved_ms.max(exchange.upload_moved_ms);
    true
}
