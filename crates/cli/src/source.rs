//! The state of the program for the admin API: the supervisor's, the cluster's and the
//! telemetry's, put together.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use evener_admin::{
    ClusterReport, EndpointReport, RolloutReport, Source, StatusReport, TrafficReport, WorkerReport,
};
use evener_edge::{ClusterSnapshot, EndpointSnapshot};
use evener_policy::breaker;
use evener_supervisor::{Handle, RolloutOutcome, State, Status, WorkerStatus, resident_bytes};
use evener_telemetry::{Exposition, Kind, Snapshot, Telemetry};

use crate::site::{APP, Site};
use crate::systemd::Condition;

/// Seconds that rates and times are taken over.
const WINDOW_SECONDS: usize = 10;

/// Snapshots of the last seconds.
#[derive(Default)]
pub(crate) struct Window {
    snapshots: Mutex<VecDeque<Snapshot>>,
}

impl Window {
    /// Adds the present; called once a second.
    pub(crate) fn tick(&self, telemetry: &Telemetry) {
        let mut snapshots = self
            .snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if snapshots.len() > WINDOW_SECONDS {
            snapshots.pop_front();
        }
        snapshots.push_back(telemetry.snapshot());
    }

    /// What happened since the oldest of them.
    fn recent(&self, now: &Snapshot) -> Snapshot {
        let snapshots = self
            .snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        snapshots
            .front()
            .map_or_else(|| now.clone(), |oldest| now.since(oldest))
    }
}

/// Everything that reports are made of.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) app: String,
    pub(crate) addresses: Mutex<Vec<String>>,
    /// The workers of the local application, if there is one.
    pub(crate) handle: Option<Handle>,
    pub(crate) site: Arc<Site>,
    pub(crate) telemetry: Telemetry,
    pub(crate) window: Window,
    pub(crate) draining: AtomicBool,
}

impl Program {
    /// Where clients can connect.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Clients can connect elsewhere now.
    pub(crate) fn set_addresses(&self, addresses: Vec<String>) {
        *self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    fn workers(&self) -> Arc<Status> {
        self.handle.as_ref().map(Handle::status).unwrap_or_default()
    }

    /// Whether every cluster has an endpoint that takes requests.
    fn serves(&self) -> bool {
        let clusters = self.site.snapshots();
        clusters.iter().all(|cluster| {
            cluster
                .endpoints
                .iter()
                .any(|endpoint| !endpoint.draining && !endpoint.unhealthy)
        })
    }

    fn state(&self, status: &Status) -> &'static str {
        let any_was_ready = status.workers.iter().any(|worker| worker.ready.is_some());
        if self.draining.load(Ordering::Relaxed) || status.stopping {
            "draining"
        } else if self.serves() {
            "ready"
        } else if any_was_ready || status.deaths > 0 || self.handle.is_none() {
            "unavailable"
        } else {
            "starting"
        }
    }

    /// For whoever started us.
    pub(crate) fn condition(&self, alive: bool) -> Condition {
        let status = self.workers();
        let (state, ready) = (self.state(&status), status.ready());
        let wanted = status.target + status.relief;
        Condition {
            serves: self.serves(),
            rolling: status.rolling,
            alive,
            status: match &self.handle {
                Some(_) => format!("{state}: {ready} of {wanted} workers"),
                None => state.to_owned(),
            },
        }
    }

    fn traffic(&self, queued: usize) -> TrafficReport {
        let now = self.telemetry.snapshot();
        let recent = self.window.recent(&now);
        let seconds = recent.uptime.as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss)]
        let rate = |count: u64| count as f64 / seconds;
        let millis = |quantile| {
            recent
                .total
                .quantile(quantile)
                .map(|time: std::time::Duration| time.as_secs_f64() * 1e3)
        };
        TrafficReport {
            requests: now.requests_started,
            requests_per_second: rate(recent.requests_finished),
            errors_per_second: rate(recent.status_class(5)),
            p50_ms: millis(0.5),
            p99_ms: millis(0.99),
            in_flight: now.requests_in_flight(),
            queued,
            connections: now.connections_open(),
            retries: now.retries,
            take_backs: now.take_backs,
        }
    }
}

fn worker_report(worker: &WorkerStatus, endpoint: Option<&EndpointSnapshot>) -> WorkerReport {
    let vitals = worker.page.as_ref().map(|page| page.vitals());
    #[expect(clippy::cast_precision_loss)]
    let lag_ms = vitals.as_ref().map(|vitals| vitals.lag_us as f64 / 1e3);
    WorkerReport {
        name: worker.name.clone(),
        pid: worker.pid,
        state: worker.state.name().to_owned(),
        age_seconds: Instant::now()
            .saturating_duration_since(worker.started)
            .as_secs_f64(),
        startup_ms: worker.ready.map(|ready| {
            let took = ready.saturating_duration_since(worker.started);
            took.as_secs_f64() * 1e3
        }),
        generation: worker.generation,
        leader: worker.leader,
        restarts: worker.restarts,
        in_flight: endpoint.map_or(0, |endpoint| endpoint.in_flight),
        in_flight_max: endpoint.map_or(0, |endpoint| endpoint.in_flight_max),
        requests: endpoint.map_or(0, |endpoint| endpoint.requests),
        failures: endpoint.map_or(0, |endpoint| endpoint.failures),
        rss_bytes: resident_bytes(worker.pid),
        stalled: endpoint.is_some_and(|endpoint| endpoint.stalled),
        lag_ms,
    }
}

fn endpoint_report(endpoint: EndpointSnapshot) -> EndpointReport {
    EndpointReport {
        name: endpoint.name,
        address: endpoint.address,
        in_flight: endpoint.in_flight,
        in_flight_max: endpoint.in_flight_max,
        draining: endpoint.draining,
        unhealthy: endpoint.unhealthy,
        stalled: endpoint.stalled,
        requests: endpoint.requests,
        failures: endpoint.failures,
    }
}

impl Source for Program {
    fn status(&self) -> StatusReport {
        let status = self.workers();
        let clusters = self.site.snapshots();
        let app = clusters.iter().find(|cluster| cluster.name == APP);
        let endpoint = |worker: &WorkerStatus| {
            let mut endpoints = app.into_iter().flat_map(|app| &app.endpoints);
            endpoints.find(|endpoint| endpoint.id.0 == worker.id.0)
        };
        let queued = clusters.iter().map(|cluster| cluster.queued).sum();
        StatusReport {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            app: self.app.clone(),
            addresses: self.addresses(),
            state: self.state(&status).to_owned(),
            uptime_seconds: self.telemetry.snapshot().uptime.as_secs_f64(),
            target: status.target,
            relief: status.relief,
            workers: status
                .workers
                .iter()
                .map(|worker| worker_report(worker, endpoint(worker)))
                .collect(),
            generation: status.generation,
            rolling: status.rolling,
            rollouts: status
                .rollouts
                .iter()
                .map(|rollout| RolloutReport {
                    generation: rollout.generation,
                    done: rollout.outcome == RolloutOutcome::Done,
                    reason: match &rollout.outcome {
                        RolloutOutcome::Done => None,
                        RolloutOutcome::Failed(reason) => Some(reason.clone()),
                    },
                })
                .collect(),
            deaths: status.deaths,
            crash_loop: status.crash_loop,
            traffic: self.traffic(queued),
        }
    }

    fn clusters(&self) -> Vec<ClusterReport> {
        let report = |cluster: ClusterSnapshot| ClusterReport {
            name: cluster.name,
            queued: cluster.queued,
            breaker: cluster.breaker.map(|state| {
                let word = match state {
                    breaker::State::Closed => "closed",
                    breaker::State::Open { .. } => "open",
                    breaker::State::HalfOpen => "half_open",
                };
                word.to_owned()
            }),
            concurrency_limit: cluster.concurrency_limit,
            endpoints: cluster.endpoints.into_iter().map(endpoint_report).collect(),
        };
        self.site.snapshots().into_iter().map(report).collect()
    }

    fn metrics(&self) -> String {
        let status = self.status();
        let mut page = Exposition::default();
        page.snapshot(&self.telemetry.snapshot());
        let queued = status.traffic.queued;
        page.single(
            "evener_queue_length",
            Kind::Gauge,
            "Requests waiting for a worker.",
            queued,
        );
        let help = "Workers wanted.";
        page.single("evener_workers_target", Kind::Gauge, help, status.target);
        let help = "Workers wanted beyond the target, because every event loop stood still.";
        page.single("evener_workers_relief", Kind::Gauge, help, status.relief);
        page.family("evener_workers", Kind::Gauge, "Workers by state.");
        for state in [
            State::Starting,
            State::Ready,
            State::Draining,
            State::Stopping,
        ] {
            let name = state.name();
            let count = status
                .workers
                .iter()
                .filter(|worker| worker.state == name)
                .count();
            page.sample("evener_workers", &[("state", name)], count);
        }
        let help = "Workers that ended without being told to.";
        page.single(
            "evener_worker_deaths_total",
            Kind::Counter,
            help,
            status.deaths,
        );
        page.family(
            "evener_worker_requests_in_flight",
            Kind::Gauge,
            "Requests in flight.",
        );
        for worker in &status.workers {
            let labels = [("worker", worker.name.as_str())];
            page.sample(
                "evener_worker_requests_in_flight",
                &labels,
                worker.in_flight,
            );
        }
        page.family(
            "evener_worker_resident_memory_bytes",
            Kind::Gauge,
            "Resident memory.",
        );
        for worker in &status.workers {
            if let Some(bytes) = worker.rss_bytes {
                let labels = [("worker", worker.name.as_str())];
                page.sample("evener_worker_resident_memory_bytes", &labels, bytes);
            }
        }
        page.finish()
    }

    fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed) && self.serves()
    }
}
