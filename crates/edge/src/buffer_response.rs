//! Part of stage 9, where a route asks for it: a response is read as fast as its endpoint sends
//! it, and the client takes it at its own pace. What the client is behind lies in memory, then in
//! a file, up to a bound each; then the endpoint waits for the client, as it does everywhere else.
//!
//! Nothing is held back from a client that keeps up.

use std::io;
use std::mem::take;

use evener_config::ResponseBuffer;
use evener_net::Gather;

use crate::core::{Core, READ_BYTES};
use crate::error::{Kind, ProxyError, Stage};
use crate::session::{Exchange, Session};
use crate::spill::{PIECE_BYTES, SpillFile};

/// What the client is behind, beyond what lies in the session's output.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    file: Option<SpillFile>,
    /// How much of the file has gone to the output.
    read: u64,
    /// Comes after what lies in the file: there was no place for it there.
    tail: Vec<u8>,
    /// Files are of no use: the endpoint waits for the client.
    failed: bool,
}

impl Backlog {
    /// Whether bytes wait behind the output.
    fn has_more(&self) -> bool {
        !self.tail.is_empty() || self.in_file() > 0
    }

    fn in_file(&self) -> u64 {
        let length = self.file.as_ref().map_or(0, SpillFile::length);
        length - self.read
    }
}

/// By which bounds the response that is under way is kept, if it is.
pub(crate) fn terms(exchange: &Exchange) -> Option<ResponseBuffer> {
    let tunnel = exchange.terms.is_some_and(|terms| terms.tunnel);
    if !exchange.answering || tunnel {
        return None;
    }
    exchange.route.as_ref()?.buffering.responses
}

/// Whether to read on though the client has not taken what is there.
pub(crate) fn reads_ahead(session: &Session) -> bool {
    let Some(exchange) = &session.exchange else {
        return false;
    };
    let Some(terms) = terms(exchange) else {
        return false;
    };
    let behind = session.output.len() - session.output_sent;
    let Some(backlog) = &exchange.backlog else {
        return behind < terms.memory || terms.file > 0;
    };
    if backlog.failed {
        return !backlog.has_more() && behind < terms.memory;
    }
    backlog.file.as_ref().map_or(0, SpillFile::length) < terms.file
}

/// Whether the client is so far behind that a file is used.
pub(crate) fn spills(session: &Session) -> bool {
    let exchange = session.exchange.as_ref();
    let backlog = exchange.and_then(|exchange| exchange.backlog.as_ref());
    backlog.is_some_and(|backlog| backlog.has_more())
}

/// Keeps what was gathered from `written` on, after what the client has not taken yet.
pub(crate) fn keep(
    session: &mut Session,
    core: &mut Core,
    terms: ResponseBuffer,
    gather: &Gather,
    input: &[u8],
    written: usize,
) {
    // What was taken makes place for what comes.
    if session.output_sent > session.output.len() / 2 {
        session.output.drain(..session.output_sent);
        session.output_sent = 0;
    }
    let behind = session.output.len() - session.output_sent;
    let rest = gather.len() - written;
    let Some(exchange) = session.exchange.as_mut() else {
        return;
    };
    let more = exchange.backlog.as_ref().is_some_and(|b| b.has_more());
    let fits = behind == 0 || behind + rest <= terms.memory || terms.file == 0;
    if !more && fits {
        core.buffers.furnish(&mut session.output);
        gather.copy_rest(input, written, &mut session.output);
        return;
    }
    let backlog = exchange.backlog.get_or_insert_default();
    let mut text = take(&mut core.scratch_text);
    text.clear();
    gather.copy_rest(input, written, &mut text);
    if backlog.failed || !backlog.tail.is_empty() {
        backlog.tail.extend_from_slice(&text);
    } else if let Err(error) = append(backlog, core, &text) {
        // Nothing is lost by it, but from now on the endpoint waits for the client.
        core.tell_of_spill(error.kind(), "a response");
        backlog.failed = true;
        backlog.tail.extend_from_slice(&text);
    }
    core.scratch_text = text;
}

/// Adds all of `bytes` to the file, or nothing.
fn append(backlog: &mut Backlog, core: &mut Core, bytes: &[u8]) -> io::Result<()> {
    let file = match backlog.file.as_mut() {
        Some(file) => file,
        None => backlog.file.insert(SpillFile::new(&core.config.spill)?),
    };
    file.append(bytes)?;
    core.telemetry.spilled(bytes.len() as u64);
    Ok(())
}

/// The client has taken all of the output: what waits behind it comes next. Says whether there was
/// anything.
pub(crate) fn refill(session: &mut Session, core: &mut Core) -> Result<bool, ProxyError> {
    let exchange = session.exchange.as_mut();
    let Some(backlog) = exchange.and_then(|exchange| exchange.backlog.as_mut()) else {
        return Ok(false);
    };
    if !backlog.has_more() {
        return Ok(false);
    }
    if backlog.in_file() == 0 {
        core.buffers.give(take(&mut session.output));
        session.output = take(&mut backlog.tail);
        session.output_sent = 0;
        return Ok(true);
    }
    let Some(file) = backlog.file.as_mut() else {
        return Ok(false);
    };
    let most = if session.socket.is_pipe() {
        READ_BYTES
    } else {
        PIECE_BYTES
    };
    let count = file
        .read(&mut core.scratch[..most], backlog.read)
        .map_err(|error| {
            core.telemetry.log().error(format_args!(
                "a response that lay on disk cannot be read: {error}; its client is cut off"
            ));
            ProxyError::edge(Stage::Respond, Kind::Spill(error.kind()))
        })?;
    core.buffers.furnish(&mut session.output);
    session.output.extend_from_slice(&core.scratch[..count]);
    backlog.read += count as u64;
    if backlog.read == file.length() {
        file.clear();
        backlog.read = 0;
    }
    Ok(true)
}
