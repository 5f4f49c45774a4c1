//! What the data plane is told at its start: addresses, bounds and deadlines, already resolved
//! and checked. Reading flags and files is left to `cli`.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use evener_net::ServerTls;

/// Everything a running edge needs to know.
#[derive(Debug)]
pub struct EdgeConfig {
    /// Where clients connect. At least one.
    pub listeners: Vec<ListenerSpec>,
    /// Data-plane threads, each with its own `SO_REUSEPORT` listener; at least 1.
    pub shards: usize,
    /// Length of each listener's queue of connections not yet accepted.
    pub backlog: u32,
    /// Sizes and counts that bound what one client or all of them can hold.
    pub limits: Limits,
    /// Deadlines of every phase of a connection.
    pub timeouts: Timeouts,
    /// Whose `X-Forwarded-*` header fields are believed.
    pub trusted: TrustedPeers,
    /// Header fields added to every response, as uvicorn's `--header`.
    pub response_fields: Vec<(String, String)>,
    /// Paths that the edge answers itself; see [`HealthPaths`].
    pub health: HealthPaths,
}

/// One address to listen on.
#[derive(Debug)]
pub enum ListenerSpec {
    /// A TCP address; port 0 takes any free one.
    Tcp(SocketAddr),
    /// A unix socket path. A socket file left over by a dead process is replaced.
    Unix(PathBuf),
    /// A descriptor that is already listening (socket activation, `--fd`).
    Inherited(OwnedFd),
    /// One of the others over TCP, for clients that speak TLS.
    Tls(Box<ListenerSpec>, Arc<ServerTls>),
}

/// Bounds on sizes and counts. Every one has a default and a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Request line and header fields together, in bytes (431; the request line alone: 414).
    pub head_bytes: usize,
    /// Number of header fields in a head (431).
    pub header_count: usize,
    /// Request body in bytes (413); `None` is unlimited.
    pub body_bytes: Option<u64>,
    /// Downstream connections over all shards; further ones wait in the listen backlog.
    pub connections: usize,
    /// Requests that may wait for a worker over all shards (503 beyond it).
    pub queue_length: usize,
    /// Request bytes kept so that a request can be sent again; larger bodies are never replayed.
    pub replay_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_bytes: 32 * 1024,
            header_count: 100,
            body_bytes: Some(1024 * 1024 * 1024),
            connections: 20_000,
            queue_length: 1_000,
            replay_bytes: 64 * 1024,
        }
    }
}

/// Deadlines. `None` switches one off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of a request (or the accept) to the end of its head (408).
    pub header_read: Option<Duration>,
    /// Between two reads of a request body (408).
    pub body_gap: Option<Duration>,
    /// A downstream connection without a request is closed after this.
    pub keep_alive: Option<Duration>,
    /// A client that takes none of a response for this long is closed.
    pub send_gap: Option<Duration>,
    /// Until an upstream connection is there (504).
    pub connect: Option<Duration>,
    /// From the request's last byte sent to the first byte of the response (504).
    pub first_byte: Option<Duration>,
    /// Between two reads of a response (504, or the connection is cut when it had begun).
    pub response_gap: Option<Duration>,
    /// The whole request, from its head to the end of its response (504); off by default.
    pub request: Option<Duration>,
    /// A request that found every worker at its cap waits this long (503).
    pub queue_wait: Option<Duration>,
    /// An idle upstream connection is closed after this.
    pub upstream_idle: Option<Duration>,
    /// A tunnel (WebSocket) that carries nothing for this long is closed.
    pub tunnel_idle: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = |s| Some(Duration::from_secs(s));
        Timeouts {
            header_read: seconds(10),
            body_gap: seconds(30),
            keep_alive: seconds(65),
            send_gap: seconds(60),
            connect: seconds(5),
            first_byte: seconds(60),
            response_gap: seconds(300),
            request: None,
            queue_wait: seconds(10),
            upstream_idle: seconds(60),
            tunnel_idle: None,
        }
    }
}

/// Whose forwarding header fields are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustedPeers {
    /// Everybody's (`--forwarded-allow-ips '*'`).
    All,
    /// Peers inside one of these networks; peers on a unix socket when `unix` is set.
    Networks {
        /// CIDR blocks.
        networks: Vec<Network>,
        /// Whether a client on a unix socket is trusted.
        unix: bool,
    },
}

/// A CIDR block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Paths answered by the edge itself, without asking a worker, whatever state the workers are in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthPaths {
    /// Answers 200 as long as the edge runs.
    pub liveness: Option<String>,
    /// Answers 200 when a worker can take a request, 503 when none can or the edge drains.
    pub readiness: Option<String>,
}

impl Network {
    /// Reads `10.0.0.0/8`, `::1/128` or a bare address.
    pub fn parse(text: &str) -> Result<Network, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("`{text}` is not an IP address or CIDR block"))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) => match digits.parse::<u8>() {
                Ok(prefix) if prefix <= longest => prefix,
                _ => return Err(format!("`{text}`: the prefix must be 0 to {longest}")),
            },
        };
        Ok(Network { address, prefix })
    }

    /// Whether `ip` lies in this block. IPv4-mapped IPv6 addresses count as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix))
                    .unwrap_or(0);
                u32::from(network) & mask == u32::from(ip) & mask
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix))
                    .unwrap_or(0);
                u128::from(network) & mask == u128::from(ip) & mask
            }
            _ => false,
        }
    }
}

impl TrustedPeers {
    /// Reads uvicorn's `--forwarded-allow-ips`: `*`, or addresses and CIDR blocks with commas
    /// between them; the word `unix` stands for clients on a unix socket.
    pub fn parse(text: &str) -> Result<TrustedPeers, String> {
        let mut networks = Vec::new();
        let mut unix = false;
        for item in text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            match item {
                "*" => return Ok(TrustedPeers::All),
                "unix" => unix = true,
                _ => networks.push(Network::parse(item)?),
            }
        }
        Ok(TrustedPeers::Networks { networks, unix })
    }

    /// Whether a peer is believed; `None` is a peer on a unix socket.
    pub fn believes(&self, peer: Option<IpAddr>) -> bool {
        match (self, peer) {
            (TrustedPeers::All, _) => true,
            (TrustedPeers::Networks { networks, .. }, Some(ip)) => {
                networks.iter().any(|network| network.contains(ip))
            }
            (TrustedPeers::Networks { unix, .. }, None) => *unix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses_only() {
        for (block, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.8"),
            ("0.0.0.0/0", "8.8.8.8", "::1"),
            ("::/0", "2001:db8::1", "8.8.8.8"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("127.0.0.1", "::ffff:127.0.0.1", "127.0.0.2"),
        ] {
            let network = Network::parse(block).unwrap();
            assert!(
                network.contains(inside.parse().unwrap()),
                "{block} holds {inside}"
            );
            assert!(
                !network.contains(outside.parse().unwrap()),
                "{block} lacks {outside}"
            );
        }
        for wrong in [
            "",
            "10.0.0.0/33",
            "::/129",
            "host",
            "10.0.0.0/x",
            "10.0.0.0/-1",
        ] {
            assert!(Network::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn trust_lists_are_read_as_uvicorn_reads_them() {
        assert_eq!(TrustedPeers::parse("127.0.0.1, *"), Ok(TrustedPeers::All));
        let list = TrustedPeers::parse("127.0.0.1,10.0.0.0/8, unix").unwrap();
        assert!(list.believes(None));
        assert!(list.believes(Some("10.1.2.3".parse().unwrap())));
        assert!(!list.believes(Some("8.8.8.8".parse().unwrap())));
        assert!(TrustedPeers::parse("nonsense").is_err());
    }
}
