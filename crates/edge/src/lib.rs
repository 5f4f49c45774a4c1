//! The data plane: takes connections, understands requests, chooses a worker for each, moves bytes
//! both ways, and keeps the promise that no request is lost that could be answered.
//!
//! A request crosses the files in this order: `accept`, `decode`, `route`, `admit` (and pick),
//! `connect`, `forward` and `respond` (driven together by `exchange`), `retry`, `record`. A shard
//! (`shard`) is one thread with its own listeners, connections and pools; shards share a
//! [`Cluster`] and nothing else. Who runs the workers is not known here: they join and leave the
//! cluster by way of `cli`.

#![forbid(unsafe_code)]

mod accept;
mod admission;
mod admit;
mod answer;
mod binding;
mod buffer_request;
mod buffer_response;
mod claims;
mod cluster;
mod compress;
mod config;
mod connect;
mod core;
mod deadlines;
mod decode;
mod endpoint;
mod error;
mod exchange;
mod file_body;
mod filter;
mod forward;
mod guard;
mod head;
mod health_paths;
mod hedge;
mod http2;
mod local;
mod pool;
mod proxied;
mod record;
mod respond;
mod retry;
mod route;
mod session;
mod shard;
mod spill;
mod start;
mod tunnel;
mod variables;

pub use cluster::{Alarm, Cluster, ClusterSnapshot, Conduct, EndpointSnapshot};
pub use config::{
    EdgeConfig, HealthPaths, Http2Terms, Limits, ListenAddress, ListenerSpec, Network, Relays,
    Route, Timeouts, TrustedPeers,
};
pub use endpoint::{EndpointAddress, EndpointId, EndpointSpec, Share, UpstreamTerms};
pub use spill::SpillSpace;
pub use start::{Edge, StartError};
