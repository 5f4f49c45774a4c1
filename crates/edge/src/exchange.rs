//! Drives one request and its response together: both directions move whenever they can, so that a
//! response can begin before the request has ended.

use evener_http1::Version;

use crate::core::Core;
use crate::forward::{self, Upload};
use crate::hedge;
use crate::respond::{self, Download};
use crate::retry;
use crate::session::{Flow, Phase, Session};

/// How long a client that closed its sending side waits for its answer before it is asked whether
/// it is still there.
const PROBE_AFTER_MS: u64 = 1_000;

/// Moves request and response on.
pub(crate) fn advance(session: &mut Session, core: &mut Core) -> Flow {
    let upload = match forward::upload(session, core) {
        Ok(upload) => upload,
        Err(error) => return retry::fail(session, core, error),
    };
    let download = match respond::download(session, core) {
        Ok(download) => download,
        Err(error) => return retry::fail(session, core, error),
    };
    match download {
        Download::Done => return respond::finish(session, core),
        Download::Tunnel => {
            session.phase = Phase::Tunnel;
            let exchange = session.exchange.as_mut().expect("a tunnel is an exchange");
            exchange.held = false;
            return Flow::Continue;
        }
        Download::Rests | Download::Yields => {}
    }
    if session.exchange.as_ref().is_some_and(|e| e.race.is_some())
        && let Some(flow) = hedge::advance(session, core)
    {
        return flow;
    }
    note_half_close(session, core);
    if upload == Upload::Yields || download == Download::Yields {
        Flow::Yield
    } else {
        Flow::Wait
    }
}

/// A request waits in the queue: all there is to do is to notice a client that leaves.
pub(crate) fn wait(session: &mut Session, core: &mut Core) -> Flow {
    note_half_close(session, core);
    match respond::flush(session, core) {
        Ok(_) => Flow::Wait,
        Err(_) => retry::abandon(session, core),
    }
}

/// A client that has sent all and closed its sending side has either finished or gone.
fn note_half_close(session: &mut Session, core: &Core) {
    let exchange = session.exchange.as_mut().expect("a request is under way");
    let asks = session.socket.is_read_closed()
        && exchange.request_body.is_done()
        && exchange.version == Version::H11
        && exchange.probe_at_ms == 0;
    if asks {
        exchange.probe_at_ms = core.now_ms() + PROBE_AFTER_MS;
    }
}
