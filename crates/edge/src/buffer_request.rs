//! Before stage 4, where a route asks for it: the whole body of a request is taken before an
//! endpoint is asked for. Up to a bound it lies in memory, after the head in `outgoing`; what is
//! beyond it lies in a file, from which it is sent as often as there are attempts.

use std::io;

use evener_config::RequestBuffer;
use evener_filters::Edits;
use evener_http1::{RequestHead, write};
use evener_net::Transfer;

use crate::admit;
use crate::core::{Core, READ_BYTES};
use crate::error::{Kind, ProxyError, Stage};
use crate::forward::{self, Upload};
use crate::respond;
use crate::retry;
use crate::session::{Exchange, Flow, Phase, Session};
use crate::spill::{PIECE_BYTES, PIECES_MAX, SpillFile};

/// A body that is taken before an endpoint is asked for.
#[derive(Debug)]
pub(crate) struct Whole {
    terms: RequestBuffer,
    /// What is beyond the bound.
    file: Option<SpillFile>,
    /// How much of the file the endpoint has taken.
    sent: u64,
    /// The client waits to be told to go on.
    is_awaited: bool,
}

impl Whole {
    /// Whether the endpoint has all that lies in the file.
    pub(crate) fn is_sent(&self) -> bool {
        self.file
            .as_ref()
            .is_none_or(|file| self.sent == file.length())
    }

    /// The next attempt sends it from the beginning.
    pub(crate) fn rewind(&mut self) {
        self.sent = 0;
    }
}

/// Makes the exchange keep its body, as its route asks for; `has_begun` says that bytes of it have
/// come with the head.
pub(crate) fn prepare(
    exchange: &mut Exchange,
    terms: RequestBuffer,
    head: &RequestHead,
    has_begun: bool,
) {
    if exchange.request_body.is_done() {
        return;
    }
    exchange.whole = Some(Box::new(Whole {
        terms,
        file: None,
        sent: 0,
        is_awaited: head.expect_continue && !has_begun,
    }));
    if head.expect_continue {
        let mut edits = Edits::default();
        edits.remove("Expect");
        edits.apply(&mut exchange.outgoing, 0);
    }
}

/// The request goes on to an endpoint as soon as its body is there.
pub(crate) fn begin(session: &mut Session, core: &mut Core) -> Flow {
    let exchange = session.exchange.as_mut();
    let Some(whole) = exchange.and_then(|exchange| exchange.whole.as_mut()) else {
        return admit::admit(session, core);
    };
    if std::mem::take(&mut whole.is_awaited) {
        // Who keeps the body is who asks for it (RFC 9110, 10.1.1).
        core.buffers.furnish(&mut session.output);
        session
            .output
            .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    session.phase = Phase::Taking;
    session.since_ms = core.now_ms();
    Flow::Continue
}

/// Takes what has come of the body.
pub(crate) fn advance(session: &mut Session, core: &mut Core) -> Flow {
    if let Err(error) = respond::flush(session, core) {
        return retry::fail(session, core, error);
    }
    for _ in 0..PIECES_MAX {
        let Some(exchange) = session.exchange.as_mut() else {
            return Flow::Close;
        };
        if exchange.request_body.is_done() {
            return match complete(exchange, core) {
                Ok(()) => admit::admit(session, core),
                Err(error) => retry::fail(session, core, error),
            };
        }
        match forward::receive(session, core) {
            Ok(true) => {}
            Ok(false) => return Flow::Wait,
            Err(error) => return retry::fail(session, core, error),
        }
    }
    Flow::Yield
}

/// Decodes body bytes and keeps them. Returns how many bytes belonged to the body.
pub(crate) fn take(
    exchange: &mut Exchange,
    core: &mut Core,
    bytes: &[u8],
) -> Result<usize, ProxyError> {
    let mut at = 0;
    let mut text = std::mem::take(&mut core.scratch_text);
    text.clear();
    while at < bytes.len() && !exchange.request_body.is_done() {
        let piece = match forward::decode_piece(exchange, &bytes[at..]) {
            Ok(piece) => piece,
            Err(error) => {
                core.scratch_text = text;
                return Err(error);
            }
        };
        // Chunks may be tiny: what they hold is put together first.
        text.extend_from_slice(&bytes[at + piece.data.start..at + piece.data.end]);
        at += piece.consumed;
    }
    let kept = keep(exchange, core, &text);
    core.scratch_text = text;
    kept.map(|()| at)
}

fn keep(exchange: &mut Exchange, core: &mut Core, data: &[u8]) -> Result<(), ProxyError> {
    let Some(whole) = exchange.whole.as_mut() else {
        return Ok(());
    };
    // Counted already.
    let in_memory = exchange.request_body_bytes - data.len() as u64;
    let memory = whole.terms.memory as u64;
    let room = usize::try_from(memory.saturating_sub(in_memory)).unwrap_or(usize::MAX);
    let room = if whole.file.is_some() { 0 } else { room };
    let (near, far) = data.split_at(room.min(data.len()));
    exchange.outgoing.extend_from_slice(near);
    if far.is_empty() {
        return Ok(());
    }
    let file = match whole.file.as_mut() {
        Some(file) => file,
        None => {
            let made = SpillFile::new(&core.config.spill);
            whole
                .file
                .insert(made.map_err(|error| not_kept(core, error))?)
        }
    };
    for piece in far.chunks(PIECE_BYTES) {
        file.append(piece).map_err(|error| not_kept(core, error))?;
        core.telemetry.spilled(piece.len() as u64);
    }
    Ok(())
}

fn not_kept(core: &mut Core, error: io::Error) -> ProxyError {
    core.tell_of_spill(error.kind(), "a request body");
    ProxyError::edge(Stage::Forward, Kind::Spill(error.kind()))
}

/// The body is there: its head says how long it is, and what does not need the file gives it up.
fn complete(exchange: &mut Exchange, core: &mut Core) -> Result<(), ProxyError> {
    let Some(whole) = exchange.whole.as_mut() else {
        return Ok(());
    };
    if std::mem::take(&mut exchange.chunked) {
        let length = exchange.request_body_bytes;
        let trailer = exchange.request_body.trailer();
        if trailer.is_empty() {
            let mut text = Vec::new();
            write::decimal(&mut text, length);
            let mut edits = Edits::default();
            edits.remove("Transfer-Encoding");
            edits.set("Content-Length", &text);
            edits.apply(&mut exchange.outgoing, 0);
        } else {
            // Only chunks can have trailers: the whole is one.
            let mut end = Vec::new();
            if length > 0 {
                let head = exchange.outgoing.windows(4).position(|w| w == b"\r\n\r\n");
                let at = head.map_or(exchange.outgoing.len(), |at| at + 4);
                let mut start = Vec::new();
                write::chunk_start(&mut start, usize::try_from(length).unwrap_or(usize::MAX));
                exchange.outgoing.splice(at..at, start);
                end.extend_from_slice(b"\r\n");
            }
            write::last_chunk(&mut end, trailer);
            match whole.file.as_mut() {
                Some(file) => file.append(&end).map_err(|error| not_kept(core, error))?,
                None => exchange.outgoing.extend_from_slice(&end),
            }
        }
    }
    if whole.file.is_none() {
        exchange.whole = None;
    }
    Ok(())
}

/// Sends on what lies in the file, as fast as the endpoint takes it.
pub(crate) fn send_on(session: &mut Session, core: &mut Core) -> Result<Upload, ProxyError> {
    let exchange = session
        .exchange
        .as_mut()
        .expect("an upload is of a request");
    let Exchange {
        whole,
        upstream,
        upload_ended,
        upload_moved_ms,
        response_moved_ms,
        ..
    } = &mut **exchange;
    let (Some(whole), Some(upstream)) = (whole, upstream) else {
        return Ok(Upload::Rests);
    };
    let Some(file) = &whole.file else {
        return Ok(Upload::Rests);
    };
    let now_ms = core.now_ns / 1_000_000;
    for _ in 0..PIECES_MAX {
        if whole.sent == file.length() || *upload_ended {
            return Ok(Upload::Rests);
        }
        // Before a socket that takes little, little is read.
        let most = if upstream.socket.is_pipe() {
            READ_BYTES
        } else {
            PIECE_BYTES
        };
        if !upstream.socket.is_writable() {
            // Without the registration the deadline ends the wait.
            let _ = upstream.socket.await_writable(&core.registry);
            return Ok(Upload::Rests);
        }
        let count = match file.read(&mut core.scratch[..most], whole.sent) {
            Ok(count) => count,
            Err(error) => return Err(not_kept(core, error)),
        };
        match upstream.socket.write(&core.scratch[..count]) {
            Transfer::Bytes(count) => {
                whole.sent += count as u64;
                *upload_moved_ms = now_ms;
                *response_moved_ms = now_ms.max(*response_moved_ms);
            }
            Transfer::Blocked | Transfer::End => {
                let _ = upstream.socket.await_writable(&core.registry);
                return Ok(Upload::Rests);
            }
            // The endpoint may have answered before it went: that is looked for next.
            Transfer::Broken(_) => *upload_ended = true,
        }
    }
    Ok(Upload::Yields)
}
