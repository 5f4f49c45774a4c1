//! Active checks of endpoints: asks each one again and again, and tells when it changes.
//!
//! When a check is due and what its results mean is decided by `policy::health`; here they are
//! made, on the control thread's runtime. The shards never wait for it.

#![forbid(unsafe_code)]

mod grpc;
mod http2;
mod probe;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use evener_config::HealthCheck;
use evener_net::{ClientTls, ProxyVersion, ServerName};
use evener_policy::health::{Checks, State};
use evener_telemetry::Log;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// An endpoint to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its number, which results carry.
    pub id: u64,
    /// Its name for people, with its cluster's.
    pub name: String,
    /// Where it takes requests.
    pub place: Place,
    /// How it is checked.
    pub check: Arc<HealthCheck>,
    /// How it is spoken to.
    pub speech: Speech,
}

/// How checks speak to an endpoint: in clear text, unless something else is said.
#[derive(Debug, Clone, Default)]
pub struct Speech {
    /// By TLS, and the name that its certificate must have.
    pub tls: Option<(Arc<ClientTls>, ServerName<'static>)>,
    /// Each connection begins with a header of the PROXY protocol. It speaks for nobody.
    pub proxy: Option<ProxyVersion>,
}

impl PartialEq for Speech {
    fn eq(&self, other: &Speech) -> bool {
        let same_tls = match (&self.tls, &other.tls) {
            (None, None) => true,
            // What the files say may change; it is looked up for each check.
            (Some((own, name)), Some((others, other_name))) => {
                Arc::ptr_eq(own, others) && name == other_name
            }
            _ => false,
        };
        same_tls && self.proxy == other.proxy
    }
}

impl Eq for Speech {}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(address) => address.fmt(f),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What checks have found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// The endpoint's number.
    pub id: u64,
    /// Whether it can take requests.
    pub usable: bool,
}

/// The checks of all endpoints.
#[derive(Debug)]
pub struct Checker {
    tasks: HashMap<u64, (Wanted, JoinHandle<()>)>,
    results: mpsc::Sender<Checked>,
    log: Log,
}

impl Checker {
    /// Checks nothing yet. Changes come out of the receiver.
    pub fn new(log: Log) -> (Checker, mpsc::Receiver<Checked>) {
        let (results, receiver) = mpsc::channel(64);
        let checker = Checker {
            tasks: HashMap::new(),
            results,
            log,
        };
        (checker, receiver)
    }

    /// Checks these endpoints and no others. Those that are checked already in the same way go on.
    pub fn watch(&mut self, wanted: Vec<Wanted>) {
        self.tasks.retain(|_, (known, task)| {
            let stays = wanted.contains(known);
            if !stays {
                task.abort();
            }
            stays
        });
        for one in wanted {
            if self.tasks.contains_key(&one.id) {
                continue;
            }
            let task = watch(one.clone(), self.results.clone(), self.log.clone());
            self.tasks.insert(one.id, (one, tokio::spawn(task)));
        }
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        for (_, task) in self.tasks.values() {
            task.abort();
        }
    }
}

async fn watch(wanted: Wanted, results: mpsc::Sender<Checked>, log: Log) {
    let started = Instant::now();
    // Endpoints that were made together must not be checked together.
    let seed = wanted.id.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(std::process::id());
    let mut checks = Checks::new(wanted.check.settings, seed, Duration::ZERO);
    let id = wanted.id;
    let usable = checks.state().is_usable();
    if results.send(Checked { id, usable }).await.is_err() {
        return;
    }
    loop {
        if let Some(due) = checks.next_deadline() {
            tokio::time::sleep_until(started + due).await;
        }
        if !checks.poll_check(started.elapsed()) {
            continue;
        }
        let result = probe::probe(&wanted).await;
        let Some(state) = checks.handle_result(started.elapsed(), result.is_ok()) else {
            continue;
        };
        let name = &wanted.name;
        match (state, result) {
            (State::Healthy, _) => log.info(format_args!("{name} is healthy")),
            (_, Err(reason)) => log.warning(format_args!("{name} is unhealthy: {reason}")),
            (_, Ok(())) => {}
        }
        let usable = state.is_usable();
        if results.send(Checked { id, usable }).await.is_err() {
            return;
        }
    }
}
