//! What the data plane is told: addresses, bounds and deadlines, already resolved and checked.
//! Reading flags and files is left to `cli` and `evener-config`, whose types are used here.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use evener_net::{ProxyVersion, ServerTls};

pub(crate) use evener_config::Resend;
pub use evener_config::values::Network;
pub use evener_config::{HealthPaths, Http2Terms, Limits, Route, Timeouts, TrustedPeers};

use crate::cluster::Cluster;
use crate::spill::SpillSpace;

/// Everything a running edge needs to know. All but the number of shards can be changed while it
/// runs, by [`crate::Edge::reconfigure`].
#[derive(Debug)]
pub struct EdgeConfig {
    /// Where clients connect. At least one.
    pub listeners: Vec<ListenerSpec>,
    /// Data-plane threads, each with its own `SO_REUSEPORT` listener; at least 1.
    pub shards: usize,
    /// Length of each listener's queue of connections not yet accepted.
    pub backlog: u32,
    /// Which request goes where, in order of writing; see [`crate::route`].
    pub routes: Vec<Route>,
    /// The clusters that routes name.
    pub clusters: Vec<Arc<Cluster>>,
    /// Sizes and counts that bound what one client or all of them can hold.
    pub limits: Limits,
    /// Deadlines of every phase of a connection.
    pub timeouts: Timeouts,
    /// Whose `X-Forwarded-*` header fields are believed.
    pub trusted: TrustedPeers,
    /// Header fields added to every response, as uvicorn's `--header`.
    pub response_fields: Vec<(String, String)>,
    /// Where bodies lie that are kept and do not fit in memory.
    pub spill: Arc<SpillSpace>,
    /// Paths that the edge answers itself; see [`HealthPaths`].
    pub health: HealthPaths,
}

impl EdgeConfig {
    /// Everything at `address` goes to one cluster, with the usual bounds, by one shard.
    pub fn to_one(address: ListenAddress, cluster: Arc<Cluster>) -> EdgeConfig {
        let (limits, timeouts) = (Limits::default(), Timeouts::default());
        EdgeConfig {
            listeners: vec![ListenerSpec {
                name: "listener".to_owned(),
                address,
                tls: None,
                http2: Some(Http2Terms::default()),
                relays: None,
            }],
            shards: 1,
            backlog: 2048,
            routes: vec![Route::to_cluster(cluster.name(), &limits, &timeouts)],
            clusters: vec![cluster],
            limits,
            timeouts,
            trusted: TrustedPeers::Networks {
                networks: Vec::new(),
                unix: false,
            },
            response_fields: Vec::new(),
            spill: Arc::default(),
            health: HealthPaths::default(),
        }
    }
}

/// One place to listen.
#[derive(Debug)]
pub struct ListenerSpec {
    /// By which routes call it; several addresses may share it.
    pub name: String,
    /// Where it is.
    pub address: ListenAddress,
    /// How its clients speak TLS, if they do.
    pub tls: Option<Arc<ServerTls>>,
    /// On what terms HTTP/2 is spoken, if it is.
    pub http2: Option<Http2Terms>,
    /// Whose connections begin with a header of the PROXY protocol, if anybody's do.
    pub relays: Option<Relays>,
}

/// Those who relay connections, and say first whose they are (PROXY protocol).
#[derive(Debug, Clone, PartialEq)]
pub struct Relays {
    /// From where they connect; anybody else's header is no request.
    pub from: TrustedPeers,
    /// The version that they speak; any, if there is none.
    pub version: Option<ProxyVersion>,
    /// Whether they must say so. If not, what is no header is a request, as in gunicorn.
    pub required: bool,
}

/// One address to listen on.
#[derive(Debug)]
pub enum ListenAddress {
    /// A TCP address; port 0 takes any free one.
    Tcp(SocketAddr),
    /// A unix socket path. A socket file left over by a dead process is replaced.
    Unix(PathBuf),
    /// A descriptor that is already listening (socket activation, `--fd`).
    Inherited {
        /// Its number when this program was started.
        number: i32,
        /// The descriptor, once: later mentions of the number mean the same listener.
        descriptor: Option<OwnedFd>,
    },
}
