//! What to do, as the driver says it in JSON. Times are seconds.

use serde::Deserialize;

/// One run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// `host:port`, or `unix:PATH`.
    pub address: String,
    /// How many connections are kept.
    pub connections: usize,
    /// Whether a connection carries more than one request.
    #[serde(default = "yes")]
    pub reuse: bool,
    /// Load before the window that is measured.
    pub warm_seconds: f64,
    /// The window.
    pub seconds: f64,
    /// A request that takes longer has failed.
    #[serde(default = "ten")]
    pub patience_seconds: f64,
    /// When requests are sent.
    pub mode: Mode,
    /// What is spoken.
    #[serde(default)]
    pub protocol: Protocol,
    /// What is sent.
    pub classes: Vec<Class>,
}

/// When requests are sent.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mode {
    /// Each connection sends its next request as soon as it has the answer to the last.
    Closed,
    /// At moments fixed beforehand, whatever the server does; latency counts from that moment, so
    /// that a server which stalls is charged for everyone who had to wait.
    Open {
        /// Requests a second.
        rate: f64,
        /// Poisson arrivals by this seed; without one they are equally spaced.
        poisson_seed: Option<u64>,
    },
    /// One request on each connection, which then stays open until standard input ends.
    Hold,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1 requests and their responses.
    #[default]
    Http,
    /// WebSocket messages that come back as they were sent.
    Websocket,
    /// Server-sent events, each stamped by its origin.
    Events,
}

/// One kind of request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Its name in the result.
    pub name: String,
    /// Its share of all requests; shares are relative to their sum.
    #[serde(default = "one")]
    pub share: f64,
    /// The method.
    #[serde(default = "get")]
    pub method: String,
    /// The path, with any query.
    pub path: String,
    /// Further fields.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The request's body; of a WebSocket message, its text.
    #[serde(default)]
    pub body: Option<String>,
    /// A body of so many bytes instead.
    #[serde(default)]
    pub body_bytes: usize,
    /// The status that is right.
    #[serde(default = "ok")]
    pub status: u16,
    /// The body that is right.
    #[serde(default)]
    pub expect: Expect,
}

/// The body that is right.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Whatever comes, if it comes whole.
    #[default]
    Any,
    /// Exactly this.
    Text(String),
    /// So many times the letter x.
    Filled(u64),
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

fn ten() -> f64 {
    10.0
}

fn get() -> String {
    "GET".to_owned()
}

fn ok() -> u16 {
    200
}
