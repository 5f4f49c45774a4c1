//! A shard: one thread, its listeners, its connections, and the loop that serves them.

mod bells;
mod mail;
mod sessions;

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use evener_net::{BoundListener, Listener, Mailbox, Ring, TimerKey, Timers};
use evener_policy::balance::Picking;
use evener_policy::pace::{Pace, Pacer};
use evener_vitals::{monotonic_ns, set_batch};
use mio::event::Event;
use mio::{Events, Poll, Token};

use crate::accept::{self, Backlog};
use crate::answer;
use crate::buffer_request;
use crate::cluster::Cluster;
use crate::config::EdgeConfig;
use crate::connect;
use crate::core::{Core, Listeners, Owner};
use crate::deadlines;
use crate::decode;
use crate::endpoint::{Endpoint, EndpointId};
use crate::exchange;
use crate::hedge;
use crate::http2::{self, upstream};
use crate::local;
use crate::proxied;
use crate::retry::{self, OfferState};
use crate::session::{Flow, Phase, Session};
use crate::tunnel;

pub(crate) use sessions::{SessionKey, Sessions};

/// Token of the shard's mailbox; assigned before all others.
pub(crate) const MAILBOX: Token = Token(0);
/// How often things without an event of their own are looked at while there are any: offers,
/// the queue, a full listener.
const SWEEP_MS: u64 = 5;
/// How often idle upstream connections are looked at for their age.
const POOL_SWEEP_MS: u64 = 1_000;
/// Phases a connection may go through in one turn.
const STEPS_MAX: usize = 64;

/// What other threads tell a shard.
#[derive(Debug)]
pub(crate) enum ShardMessage {
    /// A queued request has a slot.
    Granted(Grant),
    /// An endpoint takes no more requests: its idle connections are of no use.
    EndpointDrained(EndpointId),
    /// Checks say that an endpoint does not answer: what waits for it goes elsewhere, if it may.
    EndpointUnhealthy(EndpointId),
    /// An endpoint has all the connections that it may have, and one is needed elsewhere.
    CloseIdle(EndpointId),
    /// An endpoint is gone: requests on it have failed.
    EndpointRemoved(EndpointId),
    /// Accept what comes here.
    Listen {
        place: usize,
        listener: BoundListener,
    },
    /// Take what waits at this listener, then close it.
    Unlisten(usize),
    /// Work by this configuration from the next request on.
    Configure {
        config: Arc<EdgeConfig>,
        listeners: Arc<Listeners>,
    },
    /// Answer that we are not ready, so that no new clients are sent here; serve as before.
    Leave,
    /// Say that you are there.
    Answer,
    /// Take no new connections, finish the rest.
    Drain { linger: Duration },
    /// A drain is over: new connections are welcome again.
    Resume,
    /// Cut everything and end.
    Stop,
}

/// A slot for a request that waited.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) session: SessionKey,
    /// For giving the slot back, if the request is gone.
    pub(crate) cluster: Weak<Cluster>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) picking: Picking,
}

pub(crate) struct Shard {
    poll: Poll,
    core: Core,
    mailbox: Mailbox<ShardMessage>,
    listeners: Vec<Option<Listener>>,
    sessions: Sessions,
    timers: Timers,
    /// Connections that gave way to others and go on without an event.
    yielded: Vec<SessionKey>,
    /// Listeners with connections that could not be taken yet.
    backlogged: Vec<usize>,
    /// What the bells have rung for, while it is looked at.
    rung: Vec<Ring>,
    /// Bells have rung that had to wait for others.
    rung_left: bool,
    next_sweep_ms: u64,
    next_pool_sweep_ms: u64,
    pacer: Pacer,
    stopping: bool,
}

impl Shard {
    pub(crate) fn new(poll: Poll, core: Core, mailbox: Mailbox<ShardMessage>) -> Shard {
        let now_ms = core.now_ms();
        Shard {
            poll,
            core,
            mailbox,
            listeners: Vec::new(),
            sessions: Sessions::default(),
            timers: Timers::new(now_ms),
            yielded: Vec::new(),
            backlogged: Vec::new(),
            rung: Vec::new(),
            rung_left: false,
            next_sweep_ms: 0,
            next_pool_sweep_ms: 0,
            pacer: Pacer::default(),
            stopping: false,
        }
    }

    /// Serves until told to stop.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        let mut due = Vec::with_capacity(256);
        while !self.stopping {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The readiness queue itself is broken: nothing can be served any more.
                Err(error) => panic!("waiting for events failed: {error}"),
            }
            let mut count = 0;
            for event in &events {
                self.core.now_ns = monotonic_ns();
                self.dispatch(event);
                count += 1;
            }
            self.core.now_ns = monotonic_ns();
            self.keep_pace(count);
            self.go_on_with_yielded();
            self.handle_timers(&mut due);
            self.sweep();
            if self.core.pipes > 0 {
                self.answer_bells();
            }
            self.core.tokens.batch_done();
            self.core.telemetry.flush();
        }
        self.close_all();
    }

    /// Lets workers on the same processor finish what they are at, while there is much to do.
    fn keep_pace(&mut self, events: usize) {
        let now = Duration::from_nanos(self.core.now_ns);
        if let Some(pace) = self.pacer.note(now, events) {
            // Where a sandbox forbids it, all goes on as before.
            let _ = set_batch(pace == Pace::Batch);
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.yielded.is_empty() || self.rung_left {
            return Some(Duration::ZERO);
        }
        let sweep = self.needs_sweep().then_some(self.next_sweep_ms);
        let pools = self.core.pools.len() > 0 || !self.core.upstreams.is_empty();
        let pools = pools.then_some(self.next_pool_sweep_ms);
        let at = [self.timers.next_ms(), sweep, pools]
            .into_iter()
            .flatten()
            .min()?;
        let wait_ns = (at * 1_000_000).saturating_sub(self.core.now_ns);
        Some(Duration::from_nanos(wait_ns))
    }

    fn dispatch(&mut self, event: &Event) {
        let token = event.token();
        if token == MAILBOX {
            return self.read_mail();
        }
        match self.core.tokens.owner(token) {
            Owner::Free => {}
            Owner::Listener(index) => self.accept(index),
            Owner::Downstream(index) => {
                let Some(session) = self.sessions.slab.get_mut(index) else {
                    return;
                };
                session.socket.note(event);
                if event.is_writable() {
                    // Asked for only while the client does not keep up: it has taken something.
                    session.output_moved_ms = self.core.now_ns / 1_000_000;
                }
                self.drive(index);
            }
            Owner::Upstream(index) => {
                let session = self.sessions.slab.get_mut(index);
                let exchange = session.and_then(|session| session.exchange.as_mut());
                let Some(upstream) = exchange.and_then(|e| e.upstream.as_mut()) else {
                    return;
                };
                upstream.socket.note(event);
                self.drive(index);
            }
            Owner::Rival(index) => {
                let session = self.sessions.slab.get_mut(index);
                let exchange = session.and_then(|session| session.exchange.as_mut());
                if exchange.is_some_and(|exchange| hedge::note(exchange, token, event)) {
                    self.drive(index);
                }
            }
            Owner::Shared(index) => {
                upstream::note(&mut self.core, index, event);
                self.drive_shared(index);
            }
            Owner::Idle(endpoint) => {
                if !self.core.pools.note(endpoint, event)
                    && let Some(upstream) = self.core.pools.take_by_token(endpoint, token)
                {
                    self.core.close_upstream(upstream);
                }
            }
        }
    }

    fn accept(&mut self, index: usize) {
        let Some(Some(listener)) = self.listeners.get(index) else {
            return;
        };
        match accept::accept(listener, index, &mut self.sessions, &mut self.core) {
            Backlog::Empty => {}
            Backlog::More | Backlog::Full => {
                if !self.backlogged.contains(&index) {
                    self.backlogged.push(index);
                }
            }
        }
        self.arm_accepted();
    }

    /// Gives the connections that were just accepted their deadlines.
    fn arm_accepted(&mut self) {
        while let Some(index) = self.core.accepted.pop() {
            self.arm(index);
        }
    }

    /// Lets a connection go through its phases until it has to wait.
    fn drive(&mut self, index: usize) {
        let Some(session) = self.sessions.slab.get_mut(index) else {
            return;
        };
        let flow = step_through(session, &mut self.core);
        self.settle(index, flow);
    }

    fn settle(&mut self, index: usize, flow: Flow) {
        match flow {
            Flow::Close => self.close(index),
            Flow::Yield | Flow::Continue => {
                self.yielded.push(self.sessions.slab[index].key);
                self.arm(index);
            }
            Flow::Wait => self.arm(index),
        }
    }

    /// Makes sure that the wheel will come round before the connection's next deadline.
    fn arm(&mut self, index: usize) {
        let session = &mut self.sessions.slab[index];
        let Some((at, _)) = deadlines::next(session, &self.core) else {
            return;
        };
        if session.reminder_ms == 0 || at < session.reminder_ms {
            let key = TimerKey {
                index,
                serial: session.key.serial,
            };
            session.reminder_ms = self.timers.remind(key, at);
        }
    }

    fn close(&mut self, index: usize) {
        let mut session = self.sessions.slab.remove(index);
        let own_connection = !session.socket.is_pipe();
        if session.http2.is_some() || !own_connection {
            self.core.pipes -= 1;
        }
        debug_assert!(session.exchange.is_none(), "a request was forgotten");
        session.socket.say_goodbye();
        session.socket.deregister(&self.core.registry);
        self.core.tokens.free(session.socket.token());
        self.core.buffers.give(session.input);
        self.core.buffers.give(session.output);
        if own_connection {
            self.core
                .connections
                .fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            self.core.telemetry.connection_closed();
        }
    }

    fn go_on_with_yielded(&mut self) {
        for key in std::mem::take(&mut self.yielded) {
            if self.sessions.by_key(key).is_some() {
                self.drive(key.index);
            }
        }
    }

    fn handle_timers(&mut self, due: &mut Vec<TimerKey>) {
        self.timers.take_due(self.core.now_ms(), due);
        for key in due.drain(..) {
            let session_key = SessionKey {
                index: key.index,
                serial: key.serial,
            };
            let Some(session) = self.sessions.by_key(session_key) else {
                continue;
            };
            if session.reminder_ms > self.core.now_ms() {
                continue; // An earlier reminder that a later one has replaced.
            }
            session.reminder_ms = 0;
            let flow = match deadlines::next(session, &self.core) {
                Some((at, timer)) if at <= self.core.now_ms() => {
                    match deadlines::expired(session, &mut self.core, timer) {
                        Flow::Continue => step_through(session, &mut self.core),
                        flow => flow,
                    }
                }
                _ => Flow::Wait,
            };
            self.settle(key.index, flow);
        }
    }

    fn needs_sweep(&self) -> bool {
        !self.core.offers.is_empty() || self.core.waiting > 0 || !self.backlogged.is_empty()
    }

    /// Looks at what has no event of its own.
    fn sweep(&mut self) {
        let now_ms = self.core.now_ms();
        if now_ms >= self.next_pool_sweep_ms {
            self.next_pool_sweep_ms = now_ms + POOL_SWEEP_MS;
            if let Some(idle) = self.core.config.timeouts.upstream_idle {
                let since = now_ms.saturating_sub(idle.as_millis() as u64);
                for upstream in self.core.pools.drain_older(since) {
                    self.core.close_upstream(upstream);
                }
                upstream::drain_older(&mut self.core, since);
            }
        }
        if now_ms < self.next_sweep_ms || !self.needs_sweep() {
            return;
        }
        self.next_sweep_ms = now_ms + SWEEP_MS;
        for cluster in &self.core.clusters {
            cluster.revisit_queue(self.core.now_ns);
        }
        for index in std::mem::take(&mut self.backlogged) {
            self.accept(index);
        }
        self.review_offers();
    }

    fn review_offers(&mut self) {
        let mut offers = std::mem::take(&mut self.core.offers);
        let mut taken_back = Vec::new();
        offers.retain(|offer| {
            let Some(session) = self.sessions.by_key(offer.session) else {
                return false;
            };
            match retry::review_offer(session, &mut self.core, offer) {
                OfferState::Settled => false,
                OfferState::Open => true,
                OfferState::TakenBack => {
                    taken_back.push(offer.session.index);
                    false
                }
            }
        });
        offers.append(&mut self.core.offers);
        self.core.offers = offers;
        for index in taken_back {
            self.drive(index);
        }
    }

    fn close_all(&mut self) {
        let all: Vec<usize> = self.sessions.slab.iter().map(|(index, _)| index).collect();
        for index in all {
            let _ = retry::abandon(&mut self.sessions.slab[index], &mut self.core);
            self.close(index);
        }
        self.core.telemetry.flush();
    }
}

/// Phase after phase, until the connection waits, ends, or has had its turn.
fn step_through(session: &mut Session, core: &mut Core) -> Flow {
    for _ in 0..STEPS_MAX {
        if session.socket.is_hung_up() && session.exchange.is_some() {
            return retry::abandon(session, core);
        }
        let flow = match session.phase {
            Phase::Proxied => proxied::read_header(session, core),
            Phase::Head => read_next_head(session, core),
            Phase::Taking => buffer_request::advance(session, core),
            Phase::Waiting | Phase::Backoff => exchange::wait(session, core),
            Phase::Connecting => match hedge::advance(session, core) {
                Some(flow) => flow,
                None => connect::poll_connected(session, core),
            },
            Phase::Exchange => exchange::advance(session, core),
            Phase::Tunnel => tunnel::advance(session, core),
            Phase::Local => local::advance(session, core),
            Phase::Flush => answer::flush_own(session, core),
            Phase::Http2 => http2::advance(session, core),
            Phase::Linger => answer::linger(session, core),
        };
        if flow != Flow::Continue {
            return flow;
        }
    }
    Flow::Yield
}

fn read_next_head(session: &mut Session, core: &mut Core) -> Flow {
    let flow = decode::read_head(session, core);
    if flow == Flow::Wait && deadlines::is_left_behind(session, core) {
        return Flow::Close;
    }
    flow
}
