//! What every TCP socket of the data plane is set to, whichever side opened it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::SockRef;

/// The congestion control of connections within this machine. Nothing there is lost, shared with
/// strangers or far away, so the best is the one that costs least for each segment. BBR, which many
/// servers have as their default for the sake of remote clients, also paces: a large body between
/// two processes would wait for timers. Linux has Reno always, and lets everybody choose it.
const WITHIN_MACHINE: &[u8] = b"reno";

/// Sets the options of a socket that is connected to `address`, or listens there. Nagle's algorithm
/// is off: every write of the data plane is complete in itself.
pub(crate) fn set(socket: &impl AsFd, address: SocketAddr) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    if address.ip().to_canonical().is_loopback() {
        // Where it is not allowed, the system's default does as well, only slower.
        let _ = socket.set_tcp_congestion(WITHIN_MACHINE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its congestion control.
    fn congestion(socket: &impl AsFd) -> Vec<u8> {
        let mut name = SockRef::from(socket).tcp_congestion().unwrap();
        name.truncate(
            name.iter()
                .position(|byte| *byte == 0)
                .unwrap_or(name.len()),
        );
        name
    }

    #[test]
    fn accepted_connections_have_the_options_of_their_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        set(&listener, address).unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
        assert_eq!(congestion(&accepted), WITHIN_MACHINE);
        assert!(!client.nodelay().unwrap());
        set(&client, address).unwrap();
        assert!(client.nodelay().unwrap());
        assert_eq!(congestion(&client), WITHIN_MACHINE);
    }

    #[test]
    fn what_leaves_the_machine_keeps_the_choice_of_its_administrator() {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let before = congestion(&listener);
        set(&listener, listener.local_addr().unwrap()).unwrap();
        assert_eq!(congestion(&listener), before);
        assert!(SockRef::from(&listener).tcp_nodelay().unwrap());
    }
}
