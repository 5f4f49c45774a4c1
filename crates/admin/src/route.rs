//! What each path answers.

use std::sync::Arc;

use evener_telemetry::Exposition;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::access::Access;
use crate::report::{ClusterReport, Receipt, StatusReport, WorkersReport};

const OPENAPI: &str = include_str!("openapi.json");
const DASHBOARD: &str = include_str!("dashboard.html");
/// Bodies of commands are tiny.
const BODY_BYTES_MAX: usize = 4096;
/// The page is whole in itself: nothing from elsewhere may run in it, nor may it be framed.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Who knows the state of the program. Called on the control thread; must not block.
pub trait Source: Send + Sync + 'static {
    /// The answer of `/api/v1/status`.
    fn status(&self) -> StatusReport;
    /// The answer of `/api/v1/clusters`.
    fn clusters(&self) -> Vec<ClusterReport>;
    /// The answer of `/metrics`, in the Prometheus text format.
    fn metrics(&self) -> String;
    /// Whether a worker can take a request.
    fn is_ready(&self) -> bool;
}

/// What the program may be told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Replace all workers one by one.
    Reload,
    /// Finish what is under way, then stop the program.
    Drain,
    /// Stop the program without waiting for what is under way.
    Quit,
    /// Run so many workers.
    Scale(usize),
    /// Run so many workers more, or fewer.
    ScaleBy(isize),
    /// Open log files again.
    Reopen,
    /// Start a newer program on the same sockets.
    Upgrade,
    /// End the workers and take no connections until a reload.
    Rest,
    /// Change the endpoints of a cluster, until the configuration is read again.
    Endpoint(EndpointOrder),
}

/// A change of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointOrder {
    /// The name of the cluster.
    pub cluster: String,
    /// The name or address of the endpoint.
    pub endpoint: String,
    /// What becomes of it.
    pub change: EndpointChange,
}

/// What becomes of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointChange {
    /// It joins.
    Add(NewEndpoint),
    /// It gets no new requests, and leaves after its last one.
    Remove,
    /// It gets no new requests, and stays.
    Drain,
    /// It gets requests again.
    Restore,
}

/// The settings of an endpoint that joins, as in the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewEndpoint {
    /// Its name; the address, if there is none.
    pub name: Option<String>,
    /// Its share of the requests.
    pub weight: Option<u32>,
    /// Serves only when no other can.
    pub backup: bool,
    /// Switched off.
    pub down: bool,
    /// Endpoints of a higher number serve when those of lower ones cannot.
    pub priority: u32,
    /// The most requests it may have in flight; 0 is no bound.
    pub max_conns: u32,
}

/// A command and where its answer goes; an error is a message for the one who asked.
#[derive(Debug)]
pub struct Order {
    /// What to do.
    pub command: Command,
    /// Who waits for the receipt.
    pub reply: oneshot::Sender<Result<Receipt, String>>,
}

/// What a connection's requests are answered from.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) access: Access,
    /// Whether the dashboard is served.
    pub(crate) dashboard: bool,
}

/// So many workers, or so many more or fewer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleBody {
    workers: Option<usize>,
    by: Option<isize>,
}

/// The body of a drain; it may be left out.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DrainBody {
    quick: bool,
}

/// The body of a change: cluster and endpoint, and for one that joins its settings.
#[derive(Deserialize)]
struct EndpointBody {
    cluster: String,
    endpoint: String,
    #[serde(flatten)]
    settings: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct Problem<'a> {
    error: &'a str,
}

type Answer = Response<Full<Bytes>>;

impl Api {
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if let Err(status) = self.access.check(&method, &path, request.headers()) {
            return refused(status);
        }
        let command = matches!(
            path.as_str(),
            "/api/v1/reload"
                | "/api/v1/drain"
                | "/api/v1/scale"
                | "/api/v1/reopen"
                | "/api/v1/upgrade"
                | "/api/v1/rest"
                | "/api/v1/endpoints/add"
                | "/api/v1/endpoints/remove"
                | "/api/v1/endpoints/drain"
                | "/api/v1/endpoints/restore"
        );
        let reading = method == Method::GET || method == Method::HEAD;
        match (command, reading, method == Method::POST) {
            (true, _, true) => self.obey(&path, request).await,
            (true, ..) => not_allowed("POST"),
            (false, true, _) => self.show(&path),
            (false, ..) if self.show(&path).status() == StatusCode::NOT_FOUND => missing(&path),
            (false, ..) => not_allowed("GET, HEAD"),
        }
    }

    fn show(&self, path: &str) -> Answer {
        match path {
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/readyz" if self.source.is_ready() => plain(StatusCode::OK, "ready\n"),
            "/readyz" => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "no worker can take a request\n",
            ),
            "/metrics" => text(
                StatusCode::OK,
                Exposition::CONTENT_TYPE,
                self.source.metrics(),
            ),
            "/api/v1/status" => json(StatusCode::OK, &self.source.status()),
            "/api/v1/workers" => {
                let workers = self.source.status().workers;
                json(StatusCode::OK, &WorkersReport { workers })
            }
            "/api/v1/clusters" => json(StatusCode::OK, &self.source.clusters()),
            "/api/v1/openapi.json" => text(StatusCode::OK, "application/json", OPENAPI),
            "/" if self.dashboard => {
                let mut page = text(StatusCode::OK, "text/html; charset=utf-8", DASHBOARD);
                let policy = HeaderValue::from_static(POLICY);
                page.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
                page
            }
            _ => missing(path),
        }
    }

    async fn obey(&self, path: &str, request: Request<Incoming>) -> Answer {
        let body = match Limited::new(request.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
        {
            Ok(body) => body.to_bytes(),
            Err(_) => return problem(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        };
        let command = match path {
            "/api/v1/reload" => Command::Reload,
            "/api/v1/reopen" => Command::Reopen,
            "/api/v1/upgrade" => Command::Upgrade,
            "/api/v1/rest" => Command::Rest,
            "/api/v1/drain" => match drain_order(&body) {
                Ok(command) => command,
                Err(message) => return problem(StatusCode::UNPROCESSABLE_ENTITY, &message),
            },
            "/api/v1/endpoints/add"
            | "/api/v1/endpoints/remove"
            | "/api/v1/endpoints/drain"
            | "/api/v1/endpoints/restore" => match endpoint_order(path, &body) {
                Ok(order) => Command::Endpoint(order),
                Err(message) => return problem(StatusCode::UNPROCESSABLE_ENTITY, &message),
            },
            _ => match scale_order(&body) {
                Ok(command) => command,
                Err(message) => return problem(StatusCode::UNPROCESSABLE_ENTITY, &message),
            },
        };
        let (reply, answer) = oneshot::channel();
        let stopping = "the program is stopping";
        if self.orders.send(Order { command, reply }).await.is_err() {
            return problem(StatusCode::SERVICE_UNAVAILABLE, stopping);
        }
        match answer.await {
            Ok(Ok(receipt)) => json(StatusCode::ACCEPTED, &receipt),
            Ok(Err(message)) => problem(StatusCode::CONFLICT, &message),
            Err(_) => problem(StatusCode::SERVICE_UNAVAILABLE, stopping),
        }
    }
}

fn scale_order(body: &[u8]) -> Result<Command, String> {
    let wrong = |error: &str| {
        Err(format!(
            "the body must be {{\"workers\": N}} or {{\"by\": N}}: {error}"
        ))
    };
    match serde_json::from_slice(body) {
        Ok(ScaleBody {
            workers: Some(count),
            by: None,
        }) => Ok(Command::Scale(count)),
        Ok(ScaleBody {
            workers: None,
            by: Some(difference),
        }) => Ok(Command::ScaleBy(difference)),
        Ok(_) => wrong("one of them"),
        Err(error) => wrong(&error.to_string()),
    }
}

fn drain_order(body: &[u8]) -> Result<Command, String> {
    if body.is_empty() {
        return Ok(Command::Drain);
    }
    match serde_json::from_slice(body) {
        Ok(DrainBody { quick: true }) => Ok(Command::Quit),
        Ok(DrainBody { quick: false }) => Ok(Command::Drain),
        Err(error) => Err(format!(
            "the body must be empty, or {{\"quick\": true}}: {error}"
        )),
    }
}

fn endpoint_order(path: &str, body: &[u8]) -> Result<EndpointOrder, String> {
    let wrong = |error: serde_json::Error| {
        format!("the body must be {{\"cluster\": NAME, \"endpoint\": ADDRESS}}: {error}")
    };
    let body: EndpointBody = serde_json::from_slice(body).map_err(wrong)?;
    let change = match path {
        "/api/v1/endpoints/add" => {
            let settings = serde_json::Value::Object(body.settings);
            EndpointChange::Add(serde_json::from_value(settings).map_err(wrong)?)
        }
        _ => {
            if let Some(name) = body.settings.keys().next() {
                return Err(format!("`{name}` is for endpoints that are added"));
            }
            match path {
                "/api/v1/endpoints/remove" => EndpointChange::Remove,
                "/api/v1/endpoints/drain" => EndpointChange::Drain,
                _ => EndpointChange::Restore,
            }
        }
    };
    Ok(EndpointOrder {
        cluster: body.cluster,
        endpoint: body.endpoint,
        change,
    })
}

fn refused(status: StatusCode) -> Answer {
    if status != StatusCode::UNAUTHORIZED {
        return problem(status, "requests of other hosts and origins are refused");
    }
    let mut answer = problem(status, "a token is needed: Authorization: Bearer TOKEN");
    answer
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

fn missing(path: &str) -> Answer {
    problem(
        StatusCode::NOT_FOUND,
        &format!("there is no {path}; see /api/v1/openapi.json"),
    )
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, &format!("use {allowed}"));
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn problem(status: StatusCode, error: &str) -> Answer {
    json(status, &Problem { error })
}

fn plain(status: StatusCode, words: &'static str) -> Answer {
    text(status, "text/plain; charset=utf-8", words)
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut body = serde_json::to_vec(value).expect("reports have string keys and finite numbers");
    body.push(b'\n');
    text(status, "application/json", body)
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let fields = answer.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
