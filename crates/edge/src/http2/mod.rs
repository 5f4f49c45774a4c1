//! HTTP/2 (RFC 9113), by the `h2` crate, on the shard's own sockets.
//!
//! A connection on which a client speaks it stays a [`Session`], whose phase is
//! [`Phase::Http2`]: it *carries* streams. Each stream is a session of its own, whose socket is a
//! pipe, and goes through the same stages as a request of HTTP/1.1; `heads` and `body` translate
//! between the two forms. The kernel wakes the carrier, the pipes ring for the rest, and nothing
//! waits for anything but a bell or a deadline.

mod body;
mod flood;
mod heads;
mod stream;
pub(crate) mod upstream;
mod wanted;
mod websocket;
mod wire;
mod woken;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use evener_config::Http2Terms;
use evener_net::{Peer, PipeEnd, Ring, Transfer};
use h2::server::{self, Connection, Handshake};
use h2::{Reason, RecvStream};
use slab::Slab;

use crate::core::{Core, READ_BYTES};
use crate::deadlines::{DRAIN_IDLE_MS, Timer};
use crate::forward::ROUNDS_MAX;
use crate::session::{Flow, Phase, Session};
use crate::shard::SessionKey;
use flood::Meter;
use stream::{Pumped, Stream};
use wire::{Wire, WireEnd};
use woken::Wakers;

/// What a client says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// As much of it as tells HTTP/2 from HTTP/1.
const PREFACE_HEAD_BYTES: usize = 18;
/// Bytes of a request body that may be under way before the worker takes them, on one stream and
/// on one connection.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of a response that wait inside `h2` for their turn, on one stream.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// Faulty streams of a client before its connection is closed.
const FAULTY_STREAMS_MAX: usize = 256;
/// How often streams are looked at that nothing happens on.
const LOOK_MS: u64 = 1_000;
/// The table of rings that carriers and the sessions of streams answer to.
pub(crate) const SESSIONS: u8 = 0;
/// The table of rings that connections to endpoints answer to.
pub(crate) const UPSTREAMS: u8 = 1;

/// A stream that the shard is to make a session of.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) end: PipeEnd,
    pub(crate) listener: usize,
    pub(crate) peer: Peer,
    /// What the client's certificate says.
    pub(crate) claims: Option<Arc<[u8]>>,
}

/// What a carrier has beside its session.
pub(crate) struct Http2 {
    key: SessionKey,
    wire: Wire,
    connection: Stage,
    streams: Slab<Stream>,
    wakers: Wakers,
    meter: Meter,
    draining: bool,
    /// The connection has ended; what is encoded still goes out.
    ended: bool,
    /// It is about to be driven, because pipes have rung.
    pub(crate) rung: bool,
    /// When the streams were last looked at for clients that do not take what they asked for.
    looked_ms: u64,
}

impl std::fmt::Debug for Http2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2")
            .field("streams", &self.streams.len())
            .field("draining", &self.draining)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

enum Stage {
    Handshake(Handshake<WireEnd, Bytes>),
    Open(Connection<WireEnd, Bytes>),
    Closed,
}

/// What the first bytes of a connection mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// HTTP/2, which the session speaks from now on.
    Http2,
    /// Too few bytes to tell.
    More,
    /// Something else.
    Other,
}

/// Looks whether bytes that are no request of HTTP/1 begin a connection of HTTP/2, and begins it.
pub(crate) fn begin(session: &mut Session, core: &mut Core, bytes: &[u8]) -> Opened {
    let first = !session.served && !session.socket.is_pipe();
    let seen = bytes.len().min(PREFACE_HEAD_BYTES);
    if !first || bytes[..seen] != PREFACE[..seen] {
        return Opened::Other;
    }
    let Some(terms) = core.http2_terms(session.listener) else {
        return Opened::Other;
    };
    if seen < PREFACE_HEAD_BYTES {
        return Opened::More;
    }
    let mut http2 = Http2::new(session.key, core, terms);
    // Within the allowance of a connection that has just begun, whatever it is.
    http2.take_input(bytes, core.now_ms());
    session.learn_claims();
    core.pipes += 1;
    session.http2 = Some(Box::new(http2));
    session.phase = Phase::Http2;
    session.since_ms = core.now_ms();
    session.output_moved_ms = core.now_ms();
    Opened::Http2
}

/// Moves everything on a carrier on, as far as it goes.
pub(crate) fn advance(session: &mut Session, core: &mut Core) -> Flow {
    let Some(mut http2) = session.http2.take() else {
        return Flow::Close;
    };
    let flow = http2.advance(session, core);
    session.http2 = Some(http2);
    flow
}

/// Tells a client that no further streams are taken; those that are open go on.
pub(crate) fn drain(session: &mut Session) {
    if let Some(http2) = &mut session.http2 {
        http2.drain();
    }
}

/// The deadline of a carrier. Its streams have their own, in their sessions.
pub(crate) fn next_deadline(session: &Session, core: &Core) -> Option<(u64, Timer)> {
    let http2 = session.http2.as_ref()?;
    let timeouts = &core.config.timeouts;
    let of = |from, duration, timer| Core::after(from, duration).map(|at| (at, timer));
    let since = session.since_ms;
    if http2.wire.has_output() || !session.socket.is_flushed() {
        of(session.output_moved_ms, timeouts.send_gap, Timer::SendGap)
    } else if !http2.streams.is_empty() {
        timeouts.send_gap?;
        Some((http2.looked_ms + LOOK_MS, Timer::StuckStreams))
    } else if core.draining {
        Some((since + DRAIN_IDLE_MS, Timer::KeepAlive))
    } else if matches!(http2.connection, Stage::Open(_)) {
        of(since, timeouts.keep_alive, Timer::KeepAlive)
    } else {
        of(since, timeouts.header_read, Timer::KeepAlive)
    }
}

/// Gives up streams whose client has not opened its window for too long.
pub(crate) fn give_up_stuck(session: &mut Session, core: &mut Core) -> Flow {
    let Some(http2) = &mut session.http2 else {
        return Flow::Close;
    };
    http2.looked_ms = core.now_ms();
    if let Some(gap) = core.config.timeouts.send_gap {
        let since_ms = core.now_ms().saturating_sub(gap.as_millis() as u64);
        let before = http2.streams.len();
        http2
            .streams
            .retain(|_, stream| !stream.give_up_if_stuck(since_ms));
        for _ in http2.streams.len()..before {
            core.telemetry
                .error(evener_telemetry::ErrorKind::SendGapTimeout);
        }
    }
    Flow::Continue
}

/// Ends a carrier that was idle for too long, and says so to its client.
pub(crate) fn close_idle(session: &mut Session, core: &mut Core) -> Flow {
    if let Some(http2) = &mut session.http2 {
        http2.shut_down(Reason::NO_ERROR);
    }
    match advance(session, core) {
        // Nobody waits for a client that does not take the news.
        Flow::Wait | Flow::Yield => Flow::Close,
        flow => flow,
    }
}

impl Http2 {
    fn new(key: SessionKey, core: &Core, terms: Http2Terms) -> Http2 {
        let wire = Wire::default();
        let handshake = server::Builder::new()
            .max_concurrent_streams(terms.streams_max)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(u32::try_from(core.head_limits.head_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BYTES_MAX)
            // Their number is bounded by the meter, whether they were seen or not.
            .max_pending_accept_reset_streams(flood::resets_max(terms.streams_max) as usize)
            .max_local_error_reset_streams(Some(FAULTY_STREAMS_MAX))
            .enable_connect_protocol()
            .handshake(wire.end());
        Http2 {
            key,
            wire,
            connection: Stage::Handshake(handshake),
            streams: Slab::new(),
            wakers: Wakers::default(),
            meter: Meter::new(terms.streams_max, core.now_ms()),
            draining: false,
            ended: false,
            rung: false,
            looked_ms: core.now_ms(),
        }
    }

    /// A pipe has rung for one of the streams; whether that is the first since the last look.
    pub(crate) fn note_ring(&mut self, part: usize) -> bool {
        self.wakers.add(part);
        !std::mem::replace(&mut self.rung, true)
    }

    fn advance(&mut self, session: &mut Session, core: &mut Core) -> Flow {
        self.rung = false;
        for _ in 0..ROUNDS_MAX {
            let Ok(written) = self.wire.write_to(&mut session.socket, &core.registry) else {
                return Flow::Close;
            };
            if written > 0 {
                session.output_moved_ms = core.now_ms();
            }
            if self.ended {
                return self.leave(session, core);
            }
            let read = self.read(session, core);
            let accepted = self.poll(session, core);
            let pumped = self.pump_woken(session, core);
            // What the streams said is encoded before it is written.
            let accepted = self.poll(session, core) || accepted;
            let can_write = self.wire.has_output() && session.socket.is_writable();
            if written == 0 && !read && !accepted && !pumped && !can_write && !self.ended {
                self.rest();
                return Flow::Wait;
            }
        }
        Flow::Yield
    }

    /// The connection is over: the last words go out, then it is closed gently.
    fn leave(&mut self, session: &mut Session, core: &mut Core) -> Flow {
        // Requests that are still on their way are abandoned.
        self.streams.clear();
        if self.wire.has_output() || !session.socket.is_flushed() {
            return Flow::Wait;
        }
        session.socket.shutdown_write();
        session.phase = Phase::Linger;
        session.since_ms = core.now_ms();
        Flow::Continue
    }

    /// One read from the socket, if `h2` has read what there was.
    fn read(&mut self, session: &mut Session, core: &mut Core) -> bool {
        if !self.wire.is_drained() {
            return false;
        }
        match session.socket.read(&mut core.scratch[..READ_BYTES]) {
            Transfer::Bytes(count) => {
                let now_ms = core.now_ms();
                self.take_input(&core.scratch[..count], now_ms);
                true
            }
            Transfer::Blocked => false,
            Transfer::End | Transfer::Broken(_) => {
                self.wire.end_input();
                // A client that has closed its side may still read, but HTTP/2 has no use for that.
                !std::mem::replace(&mut self.ended, true)
            }
        }
    }

    fn take_input(&mut self, bytes: &[u8], now_ms: u64) {
        self.wire.put(bytes);
        if self.meter.note_input(bytes, now_ms).is_err() {
            self.shut_down(Reason::ENHANCE_YOUR_CALM);
        }
    }

    /// Ends the connection with a GOAWAY of this reason.
    fn shut_down(&mut self, reason: Reason) {
        match &mut self.connection {
            Stage::Open(connection) => connection.abrupt_shutdown(reason),
            Stage::Handshake(_) | Stage::Closed => self.ended = true,
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        if let Stage::Open(connection) = &mut self.connection {
            connection.graceful_shutdown();
        }
    }

    /// Lets `h2` read and write, and takes the streams that clients have opened.
    fn poll(&mut self, session: &mut Session, core: &mut Core) -> bool {
        // Whoever changes something polls again: there is nobody to wake.
        let mut context = Context::from_waker(Waker::noop());
        let mut accepted = false;
        loop {
            let polled = match &mut self.connection {
                Stage::Closed => return accepted,
                Stage::Handshake(handshake) => match Pin::new(handshake).poll(&mut context) {
                    Poll::Pending => return accepted,
                    Poll::Ready(Ok(connection)) => {
                        self.connection = Stage::Open(connection);
                        accepted = true;
                        if core.draining {
                            self.drain();
                        }
                        continue;
                    }
                    Poll::Ready(Err(_)) => Poll::Ready(None),
                },
                Stage::Open(connection) => connection.poll_accept(&mut context),
            };
            match polled {
                Poll::Pending => return accepted,
                Poll::Ready(Some(Ok((request, respond)))) => {
                    accepted = true;
                    session.served = true;
                    self.open(request, respond, session, core);
                }
                Poll::Ready(Some(Err(_)) | None) => {
                    self.connection = Stage::Closed;
                    self.ended = true;
                    return true;
                }
            }
        }
    }

    /// A client has opened a stream.
    fn open(
        &mut self,
        request: http::Request<RecvStream>,
        respond: server::SendResponse<Bytes>,
        session: &Session,
        core: &mut Core,
    ) {
        let place = self.streams.vacant_key();
        let ring = Ring {
            index: self.key.index,
            serial: self.key.serial,
            part: place,
            table: SESSIONS,
        };
        let tls = session.socket.is_tls();
        let (near, far) = evener_net::pipe(&core.bells, ring, tls, true);
        let stream = match Stream::new(request, far, respond) {
            Ok(stream) => stream,
            Err((_, mut respond)) => return respond.send_reset(Reason::PROTOCOL_ERROR),
        };
        core.opening.push(Opening {
            end: near,
            listener: session.listener,
            peer: session.peer,
            claims: session.claims.clone(),
        });
        self.streams.insert(stream);
        // The rest of its request may be here already.
        self.wakers.add(place);
    }

    /// Moves the streams on that have something new.
    fn pump_woken(&mut self, session: &mut Session, core: &mut Core) -> bool {
        let mut pumped = false;
        for place in self.wakers.take() {
            let Some(stream) = self.streams.get_mut(place) else {
                continue;
            };
            pumped = true;
            let mut context = Context::from_waker(self.wakers.of(place));
            match stream.pump(core, &mut context) {
                Pumped::Open { bytes } => self.meter.note_body(bytes),
                Pumped::Answered { bytes } => {
                    self.meter.note_body(bytes);
                    self.meter.note_answered();
                    self.streams.remove(place);
                }
                Pumped::Cut => {
                    self.streams.remove(place);
                }
            }
            if self.streams.is_empty() {
                session.since_ms = core.now_ms();
            }
        }
        pumped
    }

    /// Nothing to do for now: an idle connection keeps little.
    fn rest(&mut self) {
        if self.streams.is_empty() {
            self.wire.shrink();
            self.wakers.clear();
            self.streams = Slab::new();
        }
    }
}
