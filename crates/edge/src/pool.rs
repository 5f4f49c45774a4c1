//! Upstream connections, and the idle ones kept for the next request, last in first out.

use std::sync::Arc;

use evener_net::{Socket, Transfer};
use mio::event::Event;
use mio::{Registry, Token};

use crate::claims::Claims;
use crate::endpoint::{ConnectionSlot, Endpoint, EndpointId};

/// Idle connections kept for each endpoint and shard.
const IDLE_MAX: usize = 512;

/// A connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) socket: Socket,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) claims: Option<Claims>,
    pub(crate) idle_since_ms: u64,
    /// Whether a request was answered on it before.
    pub(crate) reused: bool,
    /// Counted as long as the connection is there, where connections are counted.
    pub(crate) _slot: Option<ConnectionSlot>,
}

/// The idle connections of a shard.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    list: Vec<Pool>,
}

#[derive(Debug)]
struct Pool {
    endpoint: EndpointId,
    idle: Vec<Upstream>,
}

impl Pools {
    /// The connection to `endpoint` that was idle for the shortest time, if that was after
    /// `since_ms` and nothing has happened on it.
    pub(crate) fn take(&mut self, endpoint: EndpointId, since_ms: u64) -> Option<Upstream> {
        let pool = self
            .list
            .iter_mut()
            .find(|pool| pool.endpoint == endpoint)?;
        pool.idle
            .pop_if(|upstream| upstream.idle_since_ms >= since_ms)
    }

    /// Keeps a connection; hands it back if there is no place for it.
    pub(crate) fn give(&mut self, mut upstream: Upstream, now_ms: u64) -> Option<Upstream> {
        let id = upstream.endpoint.id;
        upstream.idle_since_ms = now_ms;
        upstream.reused = true;
        let index = match self.list.iter().position(|pool| pool.endpoint == id) {
            Some(index) => index,
            None => {
                self.list.push(Pool {
                    endpoint: id,
                    idle: Vec::new(),
                });
                self.list.len() - 1
            }
        };
        let idle = &mut self.list[index].idle;
        if idle.len() >= IDLE_MAX || upstream.endpoint.is_retired() {
            return Some(upstream);
        }
        idle.push(upstream);
        None
    }

    /// Remembers an event of an idle connection; false if it says that the connection has ended.
    /// Others are mostly late news of bytes that were read already: [`Upstream::is_quiet`] tells.
    pub(crate) fn note(&mut self, endpoint: EndpointId, event: &Event) -> bool {
        let pool = self.list.iter_mut().find(|pool| pool.endpoint == endpoint);
        let idle = pool.and_then(|pool| {
            pool.idle
                .iter_mut()
                .find(|upstream| upstream.socket.token() == event.token())
        });
        idle.is_none_or(|upstream| {
            upstream.socket.note(event);
            !upstream.socket.is_read_closed() && !upstream.socket.is_hung_up()
        })
    }

    /// Takes out the connection with this token, on which something has happened: the endpoint
    /// closed it, or sent what nobody asked for.
    pub(crate) fn take_by_token(&mut self, endpoint: EndpointId, token: Token) -> Option<Upstream> {
        let pool = self
            .list
            .iter_mut()
            .find(|pool| pool.endpoint == endpoint)?;
        let index = pool
            .idle
            .iter()
            .position(|upstream| upstream.socket.token() == token)?;
        Some(pool.idle.remove(index))
    }

    /// Takes out all connections to an endpoint.
    pub(crate) fn drain(&mut self, endpoint: EndpointId) -> Vec<Upstream> {
        let index = self.list.iter().position(|pool| pool.endpoint == endpoint);
        index
            .map(|index| self.list.swap_remove(index).idle)
            .unwrap_or_default()
    }

    /// Takes out the connections that were idle since before `since_ms`.
    pub(crate) fn drain_older(&mut self, since_ms: u64) -> Vec<Upstream> {
        let mut old = Vec::new();
        for pool in &mut self.list {
            let count = pool
                .idle
                .iter()
                .take_while(|u| u.idle_since_ms < since_ms)
                .count();
            old.extend(pool.idle.drain(..count));
        }
        old
    }

    /// Number of idle connections.
    pub(crate) fn len(&self) -> usize {
        self.list.iter().map(|pool| pool.idle.len()).sum()
    }
}

impl Upstream {
    /// Whether nothing has come on this idle connection. Bytes that nobody asked for must never be
    /// taken for the answer to the next request.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.socket.read(&mut [0]) == Transfer::Blocked
    }

    /// Closes the connection: out of the readiness queue first, so that no late event can be taken
    /// for one of the token's next owner.
    pub(crate) fn close(mut self, registry: &Registry) -> Token {
        self.socket.deregister(registry);
        self.socket.token()
    }
}
