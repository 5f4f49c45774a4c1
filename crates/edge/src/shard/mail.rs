//! What a shard is told by other threads: grants of the clusters, endpoints that leave, listeners
//! that come and go, a new configuration, the end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use evener_net::BoundListener;

use super::{Grant, Shard, ShardMessage, step_through};
use crate::accept::{self, Backlog};
use crate::admission::Finished;
use crate::admit;
use crate::core::Owner;
use crate::deadlines;
use crate::endpoint::EndpointId;
use crate::error::{Kind, ProxyError, Stage};
use crate::http2::{self, upstream};
use crate::retry;
use crate::session::{Flow, Phase};

impl Shard {
    pub(super) fn read_mail(&mut self) {
        while let Some(message) = self.mailbox.take() {
            match message {
                ShardMessage::Granted(grant) => self.grant(grant),
                ShardMessage::EndpointDrained(id) => {
                    for upstream in self.core.pools.drain(id) {
                        self.core.close_upstream(upstream);
                    }
                    upstream::drain(&mut self.core, id);
                }
                ShardMessage::EndpointUnhealthy(id) => self.pass_on(id),
                ShardMessage::CloseIdle(id) => {
                    if let Some(upstream) = self.core.pools.take(id, 0) {
                        self.core.close_upstream(upstream);
                    }
                }
                ShardMessage::EndpointRemoved(id) => self.cut_endpoint(id),
                ShardMessage::Listen { place, listener } => self.listen(place, listener),
                ShardMessage::Unlisten(place) => self.unlisten(place),
                ShardMessage::Configure { config, listeners } => {
                    self.core.configure(config, &listeners);
                }
                ShardMessage::Leave => self.core.leaving = true,
                ShardMessage::Answer => {
                    self.core.progress.answered.fetch_add(1, Ordering::Release);
                }
                ShardMessage::Drain { linger } => self.drain(linger),
                ShardMessage::Resume => self.resume(),
                ShardMessage::Stop => self.stopping = true,
            }
        }
    }

    pub(super) fn listen(&mut self, place: usize, listener: BoundListener) {
        if self.core.draining {
            return;
        }
        let token = self.core.tokens.assign(Owner::Listener(place));
        if self.listeners.len() <= place {
            self.listeners.resize_with(place + 1, || None);
        }
        match listener.register(self.poll.registry(), token) {
            Ok(listener) => self.listeners[place] = Some(listener),
            // Out of memory for one more socket; other shards may still listen there.
            Err(_) => self.core.tokens.free(token),
        }
    }

    /// Takes what waits in a listener's backlog, then closes it.
    pub(super) fn unlisten(&mut self, place: usize) {
        while let Some(Some(listener)) = self.listeners.get(place) {
            if accept::accept(listener, place, &mut self.sessions, &mut self.core) != Backlog::More
            {
                break;
            }
        }
        if let Some(listener) = self.listeners.get_mut(place).and_then(Option::take) {
            self.core.tokens.free(listener.token());
            listener.deregister(self.poll.registry());
        }
        self.backlogged.retain(|index| *index != place);
        self.arm_accepted();
    }

    pub(super) fn grant(&mut self, grant: Grant) {
        let key = grant.session;
        let waiting = self
            .sessions
            .by_key(key)
            .filter(|session| session.phase == Phase::Waiting);
        let Some((session, exchange)) =
            waiting.and_then(|session| Some((session.key, session.exchange.as_mut()?)))
        else {
            // It gave up in the meantime.
            if let Some(cluster) = grant.cluster.upgrade() {
                let finished = Finished::unjudged(grant.picking.picked_ns());
                cluster.release(&grant.endpoint, &finished, self.core.now_ns);
            }
            return;
        };
        self.core.waiting -= 1;
        exchange.picking = grant.picking;
        let Some(session) = self.sessions.by_key(session) else {
            return;
        };
        let endpoint = grant.endpoint;
        let flow = match admit::granted(session, &mut self.core, endpoint) {
            Flow::Continue => step_through(session, &mut self.core),
            flow => flow,
        };
        self.settle(key.index, flow);
    }

    /// The sessions whose request is with this endpoint.
    fn sessions_on(&self, id: EndpointId) -> Vec<usize> {
        self.sessions
            .slab
            .iter()
            .filter(|(_, session)| {
                let endpoint = session.exchange.as_ref().and_then(|e| e.endpoint.as_ref());
                endpoint.is_some_and(|endpoint| endpoint.id == id)
            })
            .map(|(index, _)| index)
            .collect()
    }

    /// Checks say that an endpoint does not answer: what waits for it goes elsewhere, if it may. Its
    /// connections may be as dead as it is: none is used for another request.
    fn pass_on(&mut self, id: EndpointId) {
        for upstream in self.core.pools.drain(id) {
            self.core.close_upstream(upstream);
        }
        upstream::drain(&mut self.core, id);
        for index in self.sessions_on(id) {
            let session = &mut self.sessions.slab[index];
            let flow = match retry::pass_on(session, &mut self.core) {
                None => continue,
                Some(Flow::Continue) => step_through(session, &mut self.core),
                Some(flow) => flow,
            };
            self.settle(index, flow);
        }
    }

    pub(super) fn cut_endpoint(&mut self, id: EndpointId) {
        for upstream in self.core.pools.drain(id) {
            self.core.close_upstream(upstream);
        }
        upstream::drain(&mut self.core, id);
        for index in self.sessions_on(id) {
            let session = &mut self.sessions.slab[index];
            // What the endpoint said last may still lie in the socket.
            let flow = match step_through(session, &mut self.core) {
                Flow::Wait | Flow::Yield if session.phase == Phase::Tunnel => {
                    retry::abandon(session, &mut self.core)
                }
                Flow::Wait | Flow::Yield
                    if session
                        .exchange
                        .as_ref()
                        .and_then(|e| e.endpoint.as_ref())
                        .is_some_and(|endpoint| endpoint.id == id) =>
                {
                    let error = ProxyError::upstream(Stage::Respond, Kind::Closed);
                    match retry::fail(session, &mut self.core, error) {
                        Flow::Continue => step_through(session, &mut self.core),
                        flow => flow,
                    }
                }
                flow => flow,
            };
            self.settle(index, flow);
        }
    }

    /// Takes what waits in the backlog, then closes the listeners and the idle connections.
    pub(super) fn drain(&mut self, linger: Duration) {
        if self.core.draining {
            return;
        }
        self.core.draining = true;
        self.core.idle_until_ms = self.core.now_ms() + linger.as_millis() as u64;
        for place in 0..self.listeners.len() {
            self.unlisten(place);
        }
        let all: Vec<usize> = self.sessions.slab.iter().map(|(index, _)| index).collect();
        for index in all {
            let Some(session) = self.sessions.slab.get_mut(index) else {
                continue;
            };
            if session.phase == Phase::Http2 {
                http2::drain(session);
                self.drive(index);
                continue;
            }
            if !session.is_idle() {
                continue;
            }
            // A request may have arrived a moment ago: it is served, not cut.
            self.drive(index);
            let session = self.sessions.slab.get(index);
            if session.is_some_and(|session| deadlines::is_left_behind(session, &self.core)) {
                self.close(index);
            } else if session.is_some_and(|session| session.is_idle() && session.served) {
                self.arm(index);
            }
        }
        self.core.progress.closed.fetch_add(1, Ordering::Release);
    }

    /// Is open to new connections again, once there are listeners.
    pub(super) fn resume(&mut self) {
        if std::mem::take(&mut self.core.draining) {
            self.core.progress.closed.fetch_sub(1, Ordering::Release);
        }
    }
}
