//! The admin API and the dashboard: snapshots in, commands out.
//!
//! It asks a [`Source`] for what it shows and sends [`Order`]s for what it is told to do; who
//! answers is left to `cli`, so this crate knows neither the data plane nor the supervisor. It
//! serves a unix socket that only its owner may use, and, when configured, a TCP address:
//! loopback, or guarded by a token.
#![forbid(unsafe_code)]

mod access;
mod report;
mod route;
mod server;
mod socket;

pub use access::{Access, AccessError};
pub use report::{
    ClusterReport, EndpointReport, Receipt, RolloutReport, StatusReport, TrafficReport,
    WorkerReport, WorkersReport,
};
pub use route::{Command, EndpointChange, EndpointOrder, NewEndpoint, Order, Source};
pub use server::{Server, serve_tcp, serve_unix};
pub use socket::{AdminSocket, SocketError, socket_directory, socket_path};
