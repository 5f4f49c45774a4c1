//! What the API answers, in JSON. These types are the contract with `evener status` and others;
//! the types that the program works with are not these.

use serde::{Deserialize, Serialize};

/// The answer of `/api/v1/status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The name of this program, as in `--name`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// What it serves, as `module:attribute` or a command.
    pub app: String,
    /// Where clients connect.
    pub addresses: Vec<String>,
    /// `starting`, `ready`, `unavailable` (no worker can take a request) or `draining`.
    pub state: String,
    /// Time since the start.
    pub uptime_seconds: f64,
    /// How many workers are wanted.
    pub target: usize,
    /// How many more are wanted for now, because every event loop stood still.
    #[serde(default)]
    pub relief: usize,
    /// Every worker process.
    pub workers: Vec<WorkerReport>,
    /// The generation that new workers belong to; each reload makes one.
    pub generation: u32,
    /// Whether workers are being replaced.
    pub rolling: bool,
    /// The latest reloads that are over, oldest first.
    pub rollouts: Vec<RolloutReport>,
    /// Workers that ended without being told to.
    pub deaths: u64,
    /// Whether workers crash in a loop.
    pub crash_loop: bool,
    /// What happens to requests.
    pub traffic: TrafficReport,
}

/// The answer of `/api/v1/workers`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkersReport {
    /// Every worker process.
    pub workers: Vec<WorkerReport>,
}

/// One worker process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// `starting`, `ready`, `draining` or `stopping`.
    pub state: String,
    /// Time since the process was started.
    pub age_seconds: f64,
    /// From the decision to start it until it was ready; absent while it is not.
    #[serde(default)]
    pub startup_ms: Option<f64>,
    /// The generation it belongs to.
    pub generation: u32,
    /// It is the one that does the jobs that must run once.
    #[serde(default)]
    pub leader: bool,
    /// How many predecessors in its place ended without being told to.
    pub restarts: u32,
    /// Requests and WebSockets it has in flight.
    pub in_flight: u32,
    /// The most it may have.
    pub in_flight_max: u32,
    /// Requests it was given.
    pub requests: u64,
    /// Requests that it failed.
    pub failures: u64,
    /// Resident memory; absent when it is not known.
    pub rss_bytes: Option<u64>,
    /// Its event loop stands still right now.
    pub stalled: bool,
    /// How late its event loop runs; only Evener's own workers say so.
    pub lag_ms: Option<f64>,
}

/// A reload that is over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RolloutReport {
    /// Its generation.
    pub generation: u32,
    /// Whether all workers were replaced.
    pub done: bool,
    /// Why it was given up, if it was.
    pub reason: Option<String>,
}

/// What happens to requests. Rates and times are of the last seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// Requests since the start.
    pub requests: u64,
    /// Requests per second.
    pub requests_per_second: f64,
    /// Responses with a 5xx status per second.
    pub errors_per_second: f64,
    /// Half of all requests took at most this long; absent without requests.
    pub p50_ms: Option<f64>,
    /// 99 of 100 requests took at most this long; absent without requests.
    pub p99_ms: Option<f64>,
    /// Requests in flight now.
    pub in_flight: u64,
    /// Requests waiting for a worker now.
    pub queued: usize,
    /// Client connections open now.
    pub connections: u64,
    /// Requests sent a second time, since the start.
    pub retries: u64,
    /// Requests taken back from a worker that had not begun them, since the start.
    pub take_backs: u64,
}

/// One cluster, in the answer of `/api/v1/clusters`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// Its name.
    pub name: String,
    /// Requests waiting for an endpoint.
    pub queued: usize,
    /// Its circuit breaker is `closed`, `open` or `half_open`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// Requests that adaptive concurrency lets it have in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<u32>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointReport>,
}

/// One endpoint of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointReport {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Requests and WebSockets in flight.
    pub in_flight: u32,
    /// The most it may have.
    pub in_flight_max: u32,
    /// It takes no new requests.
    pub draining: bool,
    /// Active checks say that it cannot take requests.
    pub unhealthy: bool,
    /// Its event loop stands still right now.
    pub stalled: bool,
    /// Requests it was given.
    pub requests: u64,
    /// Requests that it failed.
    pub failures: u64,
}

/// The answer to a command.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// What will be done.
    pub message: String,
    /// The generation that answers a reload; it is over when it, or a later one, is among the
    /// status's rollouts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
}
