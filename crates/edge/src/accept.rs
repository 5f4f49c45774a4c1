//! Stage 1: connections from clients, up to the limit. Those above it stay in the listen backlog.

use std::io::ErrorKind;
use std::sync::atomic::Ordering::Relaxed;

use evener_net::{Accepted, Listener, Peer, Socket};

use crate::core::{Core, Owner};
use crate::proxied;
use crate::session::{Phase, Session};
use crate::shard::{SessionKey, Sessions};

/// Connections taken from one listener before others get their turn.
const ACCEPTS_MAX: usize = 64;

/// What is left at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backlog {
    /// Nothing.
    Empty,
    /// Perhaps more; come back soon.
    More,
    /// No more connections can be taken for now: the limit, or descriptors.
    Full,
}

/// Accepts what waits at `listener`, which is the one at `place`.
pub(crate) fn accept(
    listener: &Listener,
    place: usize,
    sessions: &mut Sessions,
    core: &mut Core,
) -> Backlog {
    for _ in 0..ACCEPTS_MAX {
        if core.connections.fetch_add(1, Relaxed) >= core.config.limits.connections {
            core.connections.fetch_sub(1, Relaxed);
            return Backlog::Full;
        }
        let accepted = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                core.connections.fetch_sub(1, Relaxed);
                match error.kind() {
                    ErrorKind::WouldBlock => return Backlog::Empty,
                    // The client left while it waited, or a signal came.
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => continue,
                    // Out of descriptors or memory: some connection has to end first.
                    _ => return Backlog::Full,
                }
            }
        };
        if open(accepted, place, sessions, core).is_err() {
            core.connections.fetch_sub(1, Relaxed);
            core.telemetry.connection_refused();
        }
    }
    Backlog::More
}

fn open(
    accepted: Accepted,
    place: usize,
    sessions: &mut Sessions,
    core: &mut Core,
) -> std::io::Result<()> {
    let entry = sessions.vacant();
    let key: SessionKey = entry.1;
    let token = core.tokens.assign(Owner::Downstream(key.index));
    let (socket, peer) = match accepted {
        Accepted::Tcp(stream, address) => (
            Socket::accepted_tcp(stream, &core.registry, token),
            Peer::Tcp(address),
        ),
        Accepted::Tls(stream, address, config) => (
            Socket::accepted_tls(stream, config, &core.registry, token),
            Peer::Tcp(address),
        ),
        Accepted::Unix(stream) => (
            Socket::accepted_unix(stream, &core.registry, token),
            Peer::Unix,
        ),
    };
    match socket {
        Ok(socket) => {
            let session = Session::new(key, place, socket, peer, core.now_ms());
            let session = entry.0.insert(session);
            if proxied::is_expected(core, place, peer) {
                session.phase = Phase::Proxied;
            }
            core.accepted.push(key.index);
            core.telemetry.connection_accepted();
            Ok(())
        }
        Err(error) => {
            core.tokens.free(token);
            Err(error)
        }
    }
}
