//! After 101: bytes go both ways as they are, until both sides have ended.

use evener_net::Transfer;

use crate::core::{Core, READ_BYTES};
use crate::error::ProxyError;
use crate::forward::ROUNDS_MAX;
use crate::respond;
use crate::retry;
use crate::session::{Flow, Session};

/// Whether a direction moved anything.
type Moved = bool;

/// Moves bytes both ways. A side that ends is passed on as an end of that direction only.
pub(crate) fn advance(session: &mut Session, core: &mut Core) -> Flow {
    for _ in 0..ROUNDS_MAX {
        let moved = match (to_upstream(session, core), to_client(session, core)) {
            (Ok(up), Ok(down)) => up || down,
            _ => return retry::abandon(session, core),
        };
        let exchange = session.exchange.as_ref().expect("a tunnel is an exchange");
        if exchange.tunnel.downstream_passed && exchange.tunnel.upstream_passed {
            return respond::finish_tunnel(session, core);
        }
        if !moved {
            return Flow::Wait;
        }
    }
    Flow::Yield
}

/// One write, or one read and one write, towards the endpoint.
fn to_upstream(session: &mut Session, core: &mut Core) -> Result<Moved, ()> {
    let exchange = session.exchange.as_mut().expect("a tunnel is an exchange");
    let upstream = exchange.upstream.as_mut().ok_or(())?;
    if exchange.sent == exchange.outgoing.len() {
        exchange.outgoing.clear();
        exchange.sent = 0;
        if exchange.tunnel.downstream {
            if !exchange.tunnel.downstream_passed {
                upstream.socket.shutdown_write();
                exchange.tunnel.downstream_passed = true;
            }
            return Ok(false);
        }
        if !session.input.is_empty() {
            exchange.outgoing.append(&mut session.input);
        } else {
            match session.socket.read(&mut core.scratch[..READ_BYTES]) {
                Transfer::Bytes(count) => {
                    core.telemetry.bytes_received(count as u64);
                    exchange.outgoing.extend_from_slice(&core.scratch[..count]);
                }
                Transfer::Blocked => return Ok(false),
                Transfer::End => {
                    exchange.tunnel.downstream = true;
                    return Ok(true);
                }
                Transfer::Broken(_) => return Err(()),
            }
        }
        exchange.upload_moved_ms = core.now_ns / 1_000_000;
    }
    match upstream.socket.write(&exchange.outgoing[exchange.sent..]) {
        Transfer::Bytes(count) => {
            exchange.sent += count;
            Ok(true)
        }
        Transfer::Blocked | Transfer::End => {
            upstream
                .socket
                .await_writable(&core.registry)
                .map_err(drop)?;
            Ok(false)
        }
        Transfer::Broken(_) => Err(()),
    }
}

/// One write, or one read and one write, towards the client.
fn to_client(session: &mut Session, core: &mut Core) -> Result<Moved, ()> {
    let had_output = session.has_output();
    if !respond::flush(session, core).map_err(|_: ProxyError| ())? {
        return Ok(false);
    }
    let exchange = session.exchange.as_mut().expect("a tunnel is an exchange");
    let upstream = exchange.upstream.as_mut().ok_or(())?;
    if exchange.tunnel.upstream {
        if !exchange.tunnel.upstream_passed {
            session.socket.shutdown_write();
            exchange.tunnel.upstream_passed = true;
        }
        return Ok(had_output);
    }
    match upstream.socket.read(&mut core.scratch[..READ_BYTES]) {
        Transfer::Bytes(count) => {
            exchange.response_moved_ms = core.now_ns / 1_000_000;
            exchange.response_bytes += count as u64;
            core.buffers.furnish(&mut session.output);
            session.output.extend_from_slice(&core.scratch[..count]);
            respond::flush(session, core).map_err(drop)?;
            Ok(true)
        }
        Transfer::Blocked => Ok(had_output),
        Transfer::End => {
            exchange.tunnel.upstream = true;
            Ok(true)
        }
        Transfer::Broken(_) => Err(()),
    }
}
