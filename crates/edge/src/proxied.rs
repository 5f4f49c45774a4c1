//! Before stage 2, where a listener asks for it: whoever relays a connection says first whose it is,
//! by the PROXY protocol. From then on the connection counts as that client's.

use evener_net::{PROXY_BYTES_MAX, Peer, Transfer, parse_proxy_header};

use crate::core::Core;
use crate::error::{Kind, ProxyError, Stage};
use crate::session::{Flow, Phase, Session};

/// Whether a connection at this listener begins with such a header.
pub(crate) fn is_expected(core: &Core, listener: usize, peer: Peer) -> bool {
    let address = match peer {
        Peer::Tcp(address) => Some(address.ip()),
        Peer::Unix => None,
    };
    let relays = core.relays(listener);
    relays.is_some_and(|relays| relays.believes(address))
}

/// Reads the header, once it is there in full.
pub(crate) fn read_header(session: &mut Session, core: &mut Core) -> Flow {
    let mut bytes = [0; PROXY_BYTES_MAX];
    let count = match session.socket.peek(&mut bytes) {
        Transfer::Bytes(count) => count,
        Transfer::Blocked => return Flow::Wait,
        Transfer::End | Transfer::Broken(_) => return Flow::Close,
    };
    match parse_proxy_header(&bytes[..count]) {
        Ok(None) if count < bytes.len() => Flow::Wait,
        Ok(Some(header)) if session.socket.skip(&mut bytes[..header.length]) => {
            if let Some(client) = header.client {
                session.peer = Peer::Tcp(client);
            }
            session.phase = Phase::Head;
            session.since_ms = core.now_ms();
            Flow::Continue
        }
        // Whoever speaks another protocol would not understand an answer of ours either.
        _ => {
            let error = ProxyError::downstream(Stage::Decode, Kind::NotProxied);
            core.telemetry.error(error.counter());
            Flow::Close
        }
    }
}
