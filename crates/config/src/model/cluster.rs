//! Sets of endpoints: who they are, how they share requests, what is held against them.

use std::path::PathBuf;
use std::time::Duration;

use evener_policy::balance::Method;
use evener_policy::{breaker, budget, gradient, health, hedge, outlier, shed};

use super::{BalanceKey, Buffering, Fallback, Resend, Timeouts};
use crate::filters::Binding;
use crate::template::Template;
use crate::values::Target;

/// A named set of endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// How an endpoint is chosen.
    pub method: Method,
    /// The endpoints, in the order of the file.
    pub endpoints: Vec<Endpoint>,
    /// What the method tells requests apart by.
    pub key: BalanceKey,
    /// What a request carries that is bound to an endpoint: the endpoint's `route`.
    pub sticky: Option<Template>,
    /// How clients come to carry it, if it is a cookie.
    pub binding: Option<Binding>,
    /// When a request may go to another endpoint.
    pub resend: Resend,
    /// What becomes of requests that it does not take.
    pub fallback: Option<Fallback>,
    /// What is held against endpoints, and for how long.
    pub sharing: Sharing,
    /// How its endpoints are checked, if they are.
    pub health: Option<HealthCheck>,
    /// What of bodies is kept.
    pub buffering: Buffering,
    /// Requests that may wait for an endpoint (503 beyond it).
    pub queue_length: usize,
    /// Deadlines, those of the cluster laid over the general ones.
    pub timeouts: Timeouts,
}

/// What is held against the endpoints of a cluster, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sharing {
    /// How long one that comes back gets less than its share.
    pub slow_start: Option<Duration>,
    /// With fewer usable endpoints than this percentage, all are used; 0 is never.
    pub panic_percent: u32,
    /// Ejects those that answer worse than they should.
    pub outlier: Option<outlier::Settings>,
    /// How many retries the cluster bears.
    pub budget: Option<budget::Settings>,
    /// How long a request waits before another try.
    pub backoff: Option<Backoff>,
    /// When a request goes to another endpoint as well.
    pub hedge: Option<hedge::Settings>,
    /// What protects the endpoints from more than they can do.
    pub guard: Guard,
}

/// A random time up to a bound that doubles with each try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound before the second try.
    pub base: Duration,
    /// It does not grow beyond this.
    pub max: Duration,
}

/// What protects a cluster from more than it can do.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Guard {
    /// Requests that it has in flight at most.
    pub requests_max: Option<u32>,
    /// When it is asked nothing for a while.
    pub breaker: Option<breaker::Settings>,
    /// How many requests in flight are good for it.
    pub concurrency: Option<gradient::Settings>,
    /// Which requests are refused when too many wait.
    pub shed: Option<shed::Settings>,
    /// How long a request may wait, in milliseconds; 0 is no bound.
    pub waited_max_ms: u32,
}

/// Active checks of a cluster's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// When, and what results mean.
    pub settings: health::Settings,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// Another port than that of the endpoint.
    pub port: Option<u16>,
    /// Asked in clear text, though requests go by TLS.
    pub clear_text: bool,
    /// Requests that wait for an endpoint that becomes unhealthy go to another one, if they may.
    pub resend: bool,
}

/// What a check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// Whether it takes a connection.
    Tcp,
    /// What its service of `grpc.health.v1` says.
    Grpc {
        /// The service asked for; empty for all of the server.
        service: String,
        /// The value of `:authority`; the address, if there is none.
        host: Option<String>,
    },
    /// What it answers.
    Http {
        /// The path, perhaps with a query.
        path: String,
        /// The value of `Host`; the address, if there is none.
        host: Option<String>,
        /// What passes.
        expected: health::Expected,
        /// By HTTP/2.
        http2: bool,
    },
}

/// One endpoint, or as many as its name has addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name for people; the address, if none was given.
    pub name: String,
    /// Where it listens.
    pub target: Target,
    /// Its share; at least 1.
    pub weight: u32,
    /// Endpoints of a higher number serve when those of lower ones cannot.
    pub priority: u32,
    /// Serves only when no other can.
    pub backup: bool,
    /// Switched off by its owner.
    pub down: bool,
    /// The most requests it may have in flight.
    pub in_flight_max: Option<u32>,
    /// The most connections it may have, idle ones included.
    pub connections_max: Option<u32>,
    /// Failures within `fail_timeout` after which it is left alone for as long; 0 is never.
    pub max_fails: u32,
    /// See `max_fails`.
    pub fail_timeout: Duration,
    /// What requests that are bound to it carry.
    pub route: String,
    /// How it is spoken to; the same for all endpoints of a cluster.
    pub speech: Speech,
}

/// How endpoints are spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Speech {
    /// By HTTP/2; without TLS, with prior knowledge.
    pub http2: bool,
    /// Each connection begins with a header of the PROXY protocol.
    pub proxy: Option<ProxyVersion>,
    /// By TLS.
    pub tls: Option<ClusterTls>,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// How the endpoints of a cluster speak TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterTls {
    /// PEM file of the authorities that sign their certificates; the system's if `None`.
    pub ca: Option<PathBuf>,
    /// The name that their certificates must have; if `None`, what their address names.
    pub server_name: Option<String>,
    /// PEM files of the certificate that they are shown, and of its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whether their certificates are checked.
    pub verify: bool,
}
