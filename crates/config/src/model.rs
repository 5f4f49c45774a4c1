//! A configuration as resolved: no gaps, nothing that refers to nothing. The data plane and the
//! command line work with these types.

mod buffering;
mod cluster;
mod listener;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use evener_policy::hedge;
use evener_policy::next_upstream::Rules;
use evener_policy::shed::Importance;

use crate::budget::Budget;
use crate::filters::{Binding, Files, Filters, Fixed, Redirect};
use crate::template::Template;
use crate::values::Network;

pub use buffering::{Buffering, RequestBuffer, ResponseBuffer, Spill};
pub(crate) use cluster::Sharing;
pub use cluster::{
    Backoff, CheckKind, Cluster, ClusterTls, Endpoint, Guard, HealthCheck, ProxyVersion, Speech,
};
pub use listener::{CertificateFiles, Http2Terms, Listener, ListenerTls};

/// A whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// Which request goes where, in the order of the file.
    pub routes: Vec<Route>,
    /// Endpoints by name, in the order of their names. The one of `[app]` is among them only if the
    /// file says something about it; its endpoints are never.
    pub clusters: Vec<Cluster>,
    /// The local application, if there is one.
    pub app: Option<App>,
    /// Data-plane threads; `None` chooses by the machine.
    pub shards: Option<usize>,
    /// Length of each listener's queue of connections not yet accepted.
    pub backlog: u32,
    /// Sizes and counts that bound what one client or all of them can hold.
    pub limits: Limits,
    /// Deadlines of every phase of a connection.
    pub timeouts: Timeouts,
    /// Time for requests under way when the program or a worker goes.
    pub graceful_shutdown: Duration,
    /// How long a stop is announced on the readiness path before it begins.
    pub drain_delay: Duration,
    /// What all workers of the application share, in the order of their names.
    pub budgets: Vec<Budget>,
    /// Whose `X-Forwarded-*` header fields are believed.
    pub trusted: TrustedPeers,
    /// Header fields added to every response.
    pub response_fields: Vec<(String, String)>,
    /// Paths that the edge answers itself.
    pub health: HealthPaths,
    /// Where bodies lie that are kept and do not fit in memory.
    pub spill: Spill,
    /// How names of endpoints are looked up.
    pub dns: Dns,
    /// How the logs look.
    pub log: Log,
    /// Where the admin API is.
    pub admin: Admin,
}

/// Which requests, and what becomes of them.
#[derive(Debug, Clone)]
pub struct Route {
    /// Which requests it is for.
    pub matcher: Matcher,
    /// What becomes of them.
    pub action: Action,
    /// Request bodies above this are refused; `None` is unlimited.
    pub body_bytes: Option<u64>,
    /// Deadlines, those of the route and its cluster laid over the general ones.
    pub timeouts: Timeouts,
    /// What the cluster's method tells requests apart by.
    pub key: BalanceKey,
    /// What a request carries that is bound to an endpoint: the endpoint's `route`.
    pub sticky: Option<Template>,
    /// How clients come to carry it, if it is a cookie.
    pub binding: Option<Binding>,
    /// When a request may go to another endpoint.
    pub resend: Resend,
    /// How long a request waits before another try.
    pub backoff: Option<Backoff>,
    /// When a request goes to another endpoint as well.
    pub hedge: Option<hedge::Settings>,
    /// What becomes of those that the cluster does not take.
    pub fallback: Option<Fallback>,
    /// How important they are.
    pub importance: Importance,
    /// What of their bodies is kept.
    pub buffering: Buffering,
    /// What is done to them on their way.
    pub filters: Filters,
    /// It is taken before all others, whatever they say.
    pub first: bool,
}

/// When a request whose endpoint failed it may go to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resend {
    /// When it provably did not run, or may run twice.
    Safe,
    /// By nginx's rules.
    NextUpstream(Rules),
}

/// What a method of balancing tells requests apart by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BalanceKey {
    /// Nothing.
    #[default]
    None,
    /// The client's address.
    Client,
    /// This text.
    Text(Template),
}

impl Route {
    /// Everything goes to one cluster.
    pub fn to_cluster(name: &str, limits: &Limits, timeouts: &Timeouts) -> Route {
        Route {
            matcher: Matcher::default(),
            action: Action::Cluster(name.to_owned()),
            body_bytes: limits.body_bytes,
            timeouts: timeouts.clone(),
            key: BalanceKey::None,
            sticky: None,
            binding: None,
            resend: Resend::Safe,
            backoff: None,
            hedge: None,
            fallback: None,
            importance: Importance::Normal,
            buffering: Buffering::default(),
            filters: Filters::default(),
            first: false,
        }
    }
}

/// What becomes of a request that a cluster does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fallback {
    /// It goes to this cluster.
    Cluster(String),
    /// It gets this answer.
    Answer(Fixed),
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It goes to this cluster.
    Cluster(String),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// It gets this answer.
    Respond(Fixed),
    /// It gets a file.
    Files {
        /// Which.
        files: Files,
        /// Where it goes when there is no such file.
        otherwise: Option<String>,
    },
}

impl Action {
    /// The cluster that requests may go to.
    pub fn cluster(&self) -> Option<&str> {
        match self {
            Action::Cluster(name)
            | Action::Files {
                otherwise: Some(name),
                ..
            } => Some(name),
            _ => None,
        }
    }
}

/// The conditions of a route; all must hold. An empty list is no condition.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    /// Names of listeners.
    pub listeners: Vec<String>,
    /// Hosts, in small letters.
    pub hosts: Vec<HostPattern>,
    /// Paths.
    pub path: PathPattern,
    /// Methods.
    pub methods: Vec<String>,
    /// Header fields: name and what its value must be.
    pub headers: Vec<(String, ValuePattern)>,
    /// Arguments in the query: name and what its value must be.
    pub query: Vec<(String, ValuePattern)>,
}

/// A condition on the host of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPattern {
    /// This name.
    Exact(String),
    /// Any name that ends in this, which begins with a dot.
    Below(String),
}

/// A condition on the path of a request.
#[derive(Debug, Clone)]
pub enum PathPattern {
    /// This path, or anything below it: `/api` is for `/api` and `/api/x`, not for `/apix`.
    Prefix(String),
    /// Whatever begins with these characters.
    StartsWith(String),
    /// This path and no other.
    Exact(String),
    /// Whatever this expression finds something in.
    Regex(regex::bytes::Regex),
}

impl Default for PathPattern {
    fn default() -> Self {
        PathPattern::Prefix("/".to_owned())
    }
}

/// A condition on a value.
#[derive(Debug, Clone)]
pub enum ValuePattern {
    /// It is there, whatever it is.
    Present,
    /// It is this.
    Exact(String),
    /// This expression finds something in it.
    Regex(regex::bytes::Regex),
}

/// The local application: the flags of `evener run`, by their names without the dashes in front.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct App {
    /// The application as `module:attribute`; `None` looks for it.
    pub target: Option<String>,
    /// Flags and their values in the order of the reference; a switch has none.
    pub flags: Vec<Flag>,
    /// Where `[app]` was written, as an offset into the file.
    pub offset: Option<usize>,
}

/// A flag of `evener run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Its name without dashes in front.
    pub name: String,
    /// Its value, unless it is a switch.
    pub value: Option<String>,
    /// Where it was written, as an offset into the file.
    pub offset: usize,
}

/// How names of endpoints are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Name servers; the system's when there is none.
    pub servers: Vec<SocketAddr>,
    /// An answer holds at least so long, whatever it says.
    pub ttl_min: Duration,
    /// An answer holds at most so long.
    pub ttl_max: Duration,
    /// How long an answer is waited for.
    pub timeout: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Dns {
            servers: Vec::new(),
            ttl_min: Duration::from_secs(1),
            ttl_max: Duration::from_secs(300),
            timeout: Duration::from_secs(2),
        }
    }
}

/// How the logs look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// What is worth a line: one of uvicorn's levels.
    pub level: String,
    /// `text` or `json`.
    pub format: String,
    /// Whether there is a line for each request.
    pub access: bool,
    /// Colours; `None` if standard error is a terminal.
    pub colors: Option<bool>,
}

/// Where the admin API is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Admin {
    /// By which `evener status` finds the program.
    pub name: Option<String>,
    /// Path of the admin socket.
    pub socket: Option<std::path::PathBuf>,
    /// A TCP address for the API and the dashboard.
    pub address: Option<String>,
    /// What that address asks for.
    pub token: Option<String>,
}

/// Bounds on sizes and counts. Every one has a default and a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Request line and header fields together, in bytes (431; the request line alone: 414).
    pub head_bytes: usize,
    /// Number of header fields in a head (431).
    pub header_count: usize,
    /// The request line alone, in bytes (414).
    pub line_bytes: usize,
    /// One header field, in bytes (431).
    pub field_bytes: usize,
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
            line_bytes: usize::MAX,
            field_bytes: usize::MAX,
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
    /// From the choice of an endpoint to the first byte of its response (504); off by default.
    pub per_try: Option<Duration>,
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
            per_try: None,
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

/// Paths answered by the edge itself, without asking a worker, whatever state the workers are in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthPaths {
    /// Answers 200 as long as the edge runs.
    pub liveness: Option<String>,
    /// Answers 200 when a worker can take a request, 503 when none can or the edge drains.
    pub readiness: Option<String>,
    /// Whether `/health/liveness` and `/health/readiness` are answered in the same way where the
    /// application has nothing there and no other path is set.
    pub stand_in: bool,
}

impl TrustedPeers {
    /// Reads uvicorn's `--forwarded-allow-ips`: `*`, or addresses and CIDR blocks with commas
    /// between them; the word `unix` stands for clients on a unix socket.
    pub fn parse(text: &str) -> Result<TrustedPeers, String> {
        let items = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        TrustedPeers::of(items)
    }

    /// Reads the items of such a list.
    pub fn of<'a>(items: impl IntoIterator<Item = &'a str>) -> Result<TrustedPeers, String> {
        let mut networks = Vec::new();
        let mut unix = false;
        for item in items {
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
    fn trust_lists_are_read_as_uvicorn_reads_them() {
        assert_eq!(TrustedPeers::parse("127.0.0.1, *"), Ok(TrustedPeers::All));
        let list = TrustedPeers::parse("127.0.0.1,10.0.0.0/8, unix").unwrap();
        assert!(list.believes(None));
        assert!(list.believes(Some("10.1.2.3".parse().unwrap())));
        assert!(!list.believes(Some("8.8.8.8".parse().unwrap())));
        assert!(TrustedPeers::parse("nonsense").is_err());
    }
}
