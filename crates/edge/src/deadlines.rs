//! Every deadline of a connection, as one table: which one is next, and what happens when it is
//! over.

use crate::admit;
use crate::answer;
use crate::config::Timeouts;
use crate::core::Core;
use crate::error::{Kind, ProxyError, Stage};
use crate::hedge;
use crate::http2;
use crate::respond;
use crate::retry;
use crate::session::{Exchange, Flow, Phase, Session};

/// An idle connection that has not asked for anything yet gets this long once we drain.
pub(crate) const DRAIN_IDLE_MS: u64 = 1_000;
/// One that has been served, and was not told that it would be closed, gets this long since then:
/// a client that asks one thing after the other has its next question on the way, and would find the
/// connection gone.
pub(crate) const DRAIN_SERVED_MS: u64 = 500;
/// A client that has its answer gets this long to close.
const LINGER_MS: u64 = 2_000;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    HeadRead,
    KeepAlive,
    QueueWait,
    Connect,
    ConnectAgain,
    BodyGap,
    FirstByte,
    ResponseGap,
    SendGap,
    Hold,
    Probe,
    Try,
    TryAgain,
    Hedge,
    Request,
    TunnelIdle,
    Linger,
    /// Streams of HTTP/2 whose client takes nothing.
    StuckStreams,
}

/// Whether a connection has nothing to wait for any more, because we drain.
pub(crate) fn is_left_behind(session: &Session, core: &Core) -> bool {
    core.draining
        && session.is_idle()
        && session.served
        && core.now_ms() >= left_behind_ms(session, core)
}

/// When a connection that is idle while we drain is given up: some time after its last answer, and
/// not before the drain has lingered.
fn left_behind_ms(session: &Session, core: &Core) -> u64 {
    core.idle_until_ms.max(session.since_ms + DRAIN_SERVED_MS)
}

/// The earliest deadline, in milliseconds.
pub(crate) fn next(session: &Session, core: &Core) -> Option<(u64, Timer)> {
    let general = &core.config.timeouts;
    let timeouts = session
        .exchange
        .as_ref()
        .map_or(general, |exchange| exchange.timeouts(general));
    let since = session.since_ms;
    let of = |from, duration, timer| Core::after(from, duration).map(|at| (at, timer));
    let taken = session.output_moved_ms.max(since);
    match session.phase {
        Phase::Proxied => of(since, timeouts.header_read, Timer::KeepAlive),
        Phase::Head if session.is_idle() && session.served && core.draining => {
            Some((left_behind_ms(session, core), Timer::KeepAlive))
        }
        Phase::Head if session.is_idle() && session.served => {
            of(since, timeouts.keep_alive, Timer::KeepAlive)
        }
        Phase::Head if session.is_idle() && core.draining => {
            Some((since + DRAIN_IDLE_MS, Timer::KeepAlive))
        }
        Phase::Head => of(since, timeouts.header_read, Timer::HeadRead),
        Phase::Taking => earliest([
            of(upload_moved_ms(session), timeouts.body_gap, Timer::BodyGap),
            whole_request(session, core),
        ]),
        Phase::Waiting => earliest([
            of(since, timeouts.queue_wait, Timer::QueueWait),
            session
                .exchange
                .as_ref()
                .and_then(|exchange| held_or_probing(exchange)),
            whole_request(session, core),
        ]),
        Phase::Backoff => session.exchange.as_ref().and_then(|exchange| {
            earliest([
                Some((exchange.try_again_ms, Timer::TryAgain)),
                held_or_probing(exchange),
                whole_request(session, core),
            ])
        }),
        Phase::Connecting => session.exchange.as_ref().and_then(|exchange| {
            let again = exchange.connect_again_ms;
            earliest([
                of(since, timeouts.connect, Timer::Connect),
                (again > 0).then_some((again, Timer::ConnectAgain)),
                this_attempt(session, exchange, core),
            ])
        }),
        Phase::Exchange => session.exchange.as_ref().and_then(|exchange| {
            earliest([
                exchange_deadline(session, exchange, core),
                held_or_probing(exchange),
                this_attempt(session, exchange, core),
            ])
        }),
        Phase::Tunnel => {
            let moved = session.exchange.as_ref().map_or(since, |exchange| {
                exchange.upload_moved_ms.max(exchange.response_moved_ms)
            });
            of(moved, timeouts.tunnel_idle, Timer::TunnelIdle)
        }
        Phase::Local => earliest([
            of(taken, timeouts.send_gap, Timer::SendGap),
            whole_request(session, core),
        ]),
        Phase::Flush => of(taken, timeouts.send_gap, Timer::SendGap),
        Phase::Http2 => http2::next_deadline(session, core),
        Phase::Linger => Some((since + LINGER_MS, Timer::Linger)),
    }
}

/// When bytes of a request body last moved.
fn upload_moved_ms(session: &Session) -> u64 {
    let exchange = session.exchange.as_ref();
    exchange.map_or(session.since_ms, |exchange| exchange.upload_moved_ms)
}

/// What is due to an attempt whatever it is doing.
fn this_attempt(session: &Session, exchange: &Exchange, core: &Core) -> Option<(u64, Timer)> {
    earliest([
        this_try(exchange, exchange.timeouts(&core.config.timeouts)),
        hedge::next_ms(exchange).map(|at| (at, Timer::Hedge)),
        whole_request(session, core),
    ])
}

/// The deadline of an attempt, until it is answered.
fn this_try(exchange: &Exchange, timeouts: &Timeouts) -> Option<(u64, Timer)> {
    if exchange.answering {
        return None;
    }
    let picked_ms = exchange.picking.picked_ns() / 1_000_000;
    Core::after(picked_ms, timeouts.per_try).map(|at| (at, Timer::Try))
}

fn whole_request(session: &Session, core: &Core) -> Option<(u64, Timer)> {
    let exchange = session.exchange.as_ref()?;
    let timeouts = exchange.timeouts(&core.config.timeouts);
    Core::after(exchange.started_ns / 1_000_000, timeouts.request).map(|at| (at, Timer::Request))
}

fn exchange_deadline(session: &Session, exchange: &Exchange, core: &Core) -> Option<(u64, Timer)> {
    let timeouts = exchange.timeouts(&core.config.timeouts);
    let (from, duration, timer) = if session.awaits_client() {
        (session.output_moved_ms, timeouts.send_gap, Timer::SendGap)
    } else if exchange.answering {
        (
            exchange.response_moved_ms,
            timeouts.response_gap,
            Timer::ResponseGap,
        )
    } else if exchange.unsent().is_empty() && !exchange.request_body.is_done() {
        (exchange.upload_moved_ms, timeouts.body_gap, Timer::BodyGap)
    } else {
        let moved = exchange.upload_moved_ms.max(exchange.response_moved_ms);
        (moved, timeouts.first_byte, Timer::FirstByte)
    };
    Core::after(from, duration).map(|at| (at, timer))
}

fn held_or_probing(exchange: &Exchange) -> Option<(u64, Timer)> {
    if !exchange.answering && !exchange.incoming.is_empty() && exchange.hold_until_ms > 1 {
        return Some((exchange.hold_until_ms, Timer::Hold));
    }
    let probing = exchange.probe_at_ms > 0 && !exchange.probed && !exchange.answering;
    probing.then_some((exchange.probe_at_ms, Timer::Probe))
}

fn earliest<const N: usize>(candidates: [Option<(u64, Timer)>; N]) -> Option<(u64, Timer)> {
    candidates.into_iter().flatten().min_by_key(|(at, _)| *at)
}

/// A deadline is over.
pub(crate) fn expired(session: &mut Session, core: &mut Core, timer: Timer) -> Flow {
    match timer {
        Timer::KeepAlive if session.phase == Phase::Http2 => http2::close_idle(session, core),
        Timer::StuckStreams => http2::give_up_stuck(session, core),
        Timer::KeepAlive | Timer::TunnelIdle | Timer::Linger => close(session, core),
        Timer::SendGap => {
            core.telemetry
                .error(evener_telemetry::ErrorKind::SendGapTimeout);
            close(session, core)
        }
        Timer::HeadRead if session.is_idle() => Flow::Close,
        Timer::HeadRead => {
            let error = ProxyError::downstream(Stage::Decode, Kind::HeadTimeout);
            answer::refuse(session, core, &error)
        }
        Timer::QueueWait => {
            admit::leave_queue(session, core);
            let error = ProxyError::edge(Stage::Admit, Kind::QueueTimeout);
            admit::give_up(session, core, error)
        }
        Timer::Try => {
            let error = ProxyError::upstream(Stage::Respond, Kind::TryTimeout);
            retry::fail(session, core, error)
        }
        Timer::TryAgain => admit::admit(session, core),
        Timer::Hedge => hedge::send(session, core),
        Timer::Connect => retry::fail(
            session,
            core,
            ProxyError::upstream(Stage::Connect, Kind::ConnectTimeout),
        ),
        Timer::ConnectAgain => Flow::Continue,
        Timer::BodyGap => retry::fail(
            session,
            core,
            ProxyError::downstream(Stage::Forward, Kind::BodyTimeout),
        ),
        Timer::FirstByte => retry::fail(
            session,
            core,
            ProxyError::upstream(Stage::Respond, Kind::FirstByteTimeout),
        ),
        Timer::ResponseGap => {
            let error = ProxyError::upstream(Stage::Respond, Kind::ResponseGapTimeout);
            retry::fail(session, core, error)
        }
        Timer::Request => {
            if session.phase == Phase::Waiting {
                admit::leave_queue(session, core);
            }
            retry::fail(
                session,
                core,
                ProxyError::edge(Stage::Respond, Kind::RequestTimeout),
            )
        }
        Timer::Hold => match respond::stop_holding(session, core) {
            Ok(()) => Flow::Continue,
            Err(error) => retry::fail(session, core, error),
        },
        Timer::Probe => probe(session, core),
    }
}

fn close(session: &mut Session, core: &mut Core) -> Flow {
    if session.exchange.is_some() {
        retry::abandon(session, core)
    } else {
        Flow::Close
    }
}

/// Finds out whether a client that has closed its sending side still reads. One that was closed
/// altogether answers anything we send with a reset, one that only finished sending reads it; an
/// interim response is something that every HTTP/1.1 client must be able to skip (RFC 9110, 15.2).
fn probe(session: &mut Session, core: &mut Core) -> Flow {
    let exchange = session
        .exchange
        .as_mut()
        .expect("a probe is about a request");
    exchange.probed = true;
    core.buffers.furnish(&mut session.output);
    session
        .output
        .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    Flow::Continue
}
