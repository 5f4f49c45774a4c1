//! Stage 6: a connection to the chosen endpoint, from the pool or new.

use std::io::ErrorKind;
use std::sync::Arc;

use evener_net::{Peer, Ring, Socket, push_proxy_header};
use evener_vitals::OVER_HTTP2;

use crate::core::{Core, Offer, Owner};
use crate::endpoint::{ConnectionSlot, Endpoint, EndpointAddress};
use crate::error::{Kind, ProxyError, Stage};
use crate::http2::{self, upstream};
use crate::pool::Upstream;
use crate::retry;
use crate::session::{Exchange, Flow, Phase, Session};

/// A request that must not run twice takes only a connection that was in use so recently that its
/// endpoint cannot have closed it for idleness: gunicorn does after 2 s, uvicorn after 5 s.
const FRESH_MS: u64 = 1_000;
/// How soon an endpoint whose backlog was full is asked again, until the connect deadline.
const CONNECT_AGAIN_MS: u64 = 4;

/// Takes an idle connection or starts a new one.
pub(crate) fn connect(session: &mut Session, core: &mut Core) -> Flow {
    let exchange = session
        .exchange
        .as_mut()
        .expect("a connection is for a request");
    let endpoint = exchange
        .endpoint
        .clone()
        .expect("the request has an endpoint");
    if endpoint.terms.http2 {
        return join_shared(session, core, &endpoint);
    }
    let patient = exchange.method.is_idempotent() || endpoint.page.is_some();
    let since_ms = if patient {
        0
    } else {
        core.now_ms().saturating_sub(FRESH_MS)
    };
    while exchange.attempts == 1
        && let Some(mut upstream) = core.pools.take(endpoint.id, since_ms)
    {
        if !upstream.is_quiet() {
            core.close_upstream(upstream);
            continue;
        }
        let token = upstream.socket.token();
        core.tokens
            .reassign(token, Owner::Upstream(session.key.index));
        core.telemetry.upstream_reused();
        exchange.upstream = Some(upstream);
        return established(session, core);
    }
    exchange.connect_again_ms = 0;
    let Some(slot) = room(core, &endpoint) else {
        // Connections that other shards keep idle; there are some, because requests in flight have
        // the same bound.
        exchange.cluster().make_room(endpoint.id);
        exchange.connect_again_ms = core.now_ms() + CONNECT_AGAIN_MS;
        return Flow::Wait;
    };
    let token = core.tokens.assign(Owner::Upstream(session.key.index));
    let Exchange {
        outgoing,
        preface_bytes,
        ..
    } = &mut **exchange;
    let before = say_whose(outgoing, preface_bytes, &endpoint, session.peer);
    match endpoint.connect(&core.registry, token, &before) {
        Ok(socket) => {
            core.telemetry.upstream_opened();
            exchange.upstream = Some(open(socket, endpoint, slot));
            poll_connected(session, core)
        }
        Err(error) => {
            core.tokens.free(token);
            if error.kind() == ErrorKind::WouldBlock {
                // The endpoint's backlog is full: it is alive and behind.
                exchange.connect_again_ms = core.now_ms() + CONNECT_AGAIN_MS;
                return Flow::Wait;
            }
            let error = ProxyError::upstream(Stage::Connect, Kind::ConnectFailed(error.kind()));
            retry::fail(session, core, error)
        }
    }
}

/// A stream of a connection to an endpoint that speaks HTTP/2.
fn join_shared(session: &mut Session, core: &mut Core, endpoint: &Arc<Endpoint>) -> Flow {
    let exchange = session
        .exchange
        .as_mut()
        .expect("a connection is for a request");
    match upstream::open(core, endpoint) {
        Ok(end) => {
            end.answer_to(Ring {
                index: session.key.index,
                serial: session.key.serial,
                part: 0,
                table: http2::SESSIONS,
            });
            let token = core.tokens.assign(Owner::Upstream(session.key.index));
            exchange.upstream = Some(open(Socket::piped(end, token), endpoint.clone(), None));
            poll_connected(session, core)
        }
        Err(error) => {
            let error = ProxyError::upstream(Stage::Connect, Kind::ConnectFailed(error.kind()));
            retry::fail(session, core, error)
        }
    }
}

/// Makes the header that says whose connection it is, if the endpoint wants one. In clear text it
/// goes with the request, else it is returned, to go ahead of TLS.
pub(crate) fn say_whose(
    outgoing: &mut Vec<u8>,
    preface_bytes: &mut usize,
    endpoint: &Endpoint,
    peer: Peer,
) -> Vec<u8> {
    let mut header = Vec::new();
    let Some(version) = endpoint.terms.proxy else {
        return header;
    };
    if *preface_bytes > 0 {
        // It is there from the time when the endpoint's backlog was full.
        return header;
    }
    let client = match peer {
        Peer::Tcp(address) => Some(address),
        Peer::Unix => None,
    };
    let target = match endpoint.address {
        EndpointAddress::Tcp(address) => Some(address),
        EndpointAddress::Unix(_) => None,
    };
    push_proxy_header(&mut header, version, client, target);
    if endpoint.terms.tls.is_some() {
        return header;
    }
    // The connection's, not the request's: a later attempt must not repeat it.
    *preface_bytes = header.len();
    outgoing.splice(..0, header);
    Vec::new()
}

/// The right to one more connection, at the cost of an idle one of ours if it must be; `None` if
/// the endpoint has all that it may have.
pub(crate) fn room(core: &mut Core, endpoint: &Endpoint) -> Option<Option<ConnectionSlot>> {
    if let Ok(slot) = endpoint.take_connection() {
        return Some(slot);
    }
    let idle = core.pools.take(endpoint.id, 0)?;
    core.close_upstream(idle);
    endpoint.take_connection().ok()
}

/// A connection on which nothing was asked yet.
pub(crate) fn open(
    socket: Socket,
    endpoint: Arc<Endpoint>,
    slot: Option<ConnectionSlot>,
) -> Upstream {
    let claims = endpoint.claims.as_ref().and_then(|slots| slots.take());
    Upstream {
        socket,
        endpoint,
        claims,
        idle_since_ms: 0,
        reused: false,
        _slot: slot,
    }
}

/// Goes on once the connection is there.
pub(crate) fn poll_connected(session: &mut Session, core: &mut Core) -> Flow {
    let exchange = session
        .exchange
        .as_mut()
        .expect("a connection is for a request");
    let Some(upstream) = exchange.upstream.as_mut() else {
        return connect(session, core);
    };
    match upstream.socket.connected() {
        None => Flow::Wait,
        Some(Ok(())) => established(session, core),
        Some(Err(error)) => {
            let error = ProxyError::upstream(Stage::Connect, Kind::ConnectFailed(error.kind()));
            retry::fail(session, core, error)
        }
    }
}

/// Offers the request on the connection's claim slot, if it has one, and starts the exchange.
fn established(session: &mut Session, core: &mut Core) -> Flow {
    let exchange = session
        .exchange
        .as_mut()
        .expect("a connection is for a request");
    let Exchange {
        upstream,
        outgoing,
        preface_bytes,
        over_http2,
        ..
    } = &mut **exchange;
    let upstream = upstream.as_mut().expect("the connection was just made");
    if let Some(sequence) = offer(upstream, outgoing, preface_bytes, *over_http2, core) {
        exchange.offered = Some(sequence);
        core.offers.push(Offer {
            session: session.key,
            sequence,
            at_ns: core.now_ns,
        });
    }
    session.phase = Phase::Exchange;
    session.since_ms = core.now_ms();
    exchange.upload_moved_ms = core.now_ms();
    exchange.response_moved_ms = core.now_ms();
    Flow::Continue
}

/// Offers a request on its connection's claim slot, if that has one; returns its number there. What
/// the worker is to know beside the request goes before it, in the same write; a later attempt must
/// not repeat it.
pub(crate) fn offer(
    upstream: &mut Upstream,
    outgoing: &mut Vec<u8>,
    preface_bytes: &mut usize,
    over_http2: bool,
    core: &mut Core,
) -> Option<u64> {
    let claims = upstream.claims.as_mut()?;
    if !upstream.reused || over_http2 {
        let mut with_preface = core.buffers.take();
        if !upstream.reused {
            claims.preface(&mut with_preface);
        }
        if over_http2 {
            with_preface.extend_from_slice(OVER_HTTP2);
        }
        *preface_bytes = with_preface.len();
        with_preface.extend_from_slice(outgoing);
        core.buffers.give(std::mem::replace(outgoing, with_preface));
    }
    Some(claims.offer())
}
