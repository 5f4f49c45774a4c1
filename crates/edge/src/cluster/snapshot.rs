//! What can be seen of a cluster from outside.

use std::sync::atomic::Ordering::Relaxed;

use evener_policy::breaker;
use evener_vitals::monotonic_ns;

use super::Cluster;
use crate::endpoint::EndpointId;
use crate::health_paths::Check;

/// A cluster as `status` shows it.
#[derive(Debug, Clone)]
pub struct ClusterSnapshot {
    /// Its name.
    pub name: String,
    /// Requests waiting for a slot.
    pub queued: usize,
    /// The state of its circuit breaker, if it has one.
    pub breaker: Option<breaker::State>,
    /// Requests that adaptive concurrency lets it have in flight, if it is on.
    pub concurrency_limit: Option<u32>,
    /// Its endpoints in the order they joined.
    pub endpoints: Vec<EndpointSnapshot>,
}

/// An endpoint as `status` shows it.
#[derive(Debug, Clone)]
pub struct EndpointSnapshot {
    /// Its name in code.
    pub id: EndpointId,
    /// Its name for people.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Requests and tunnels in flight.
    pub in_flight: u32,
    /// The most it may have.
    pub in_flight_max: u32,
    /// Takes no new requests.
    pub draining: bool,
    /// Requests sent to it since it joined.
    pub requests: u64,
    /// Attempts that it failed.
    pub failures: u64,
    /// Its event loop stands still right now.
    pub stalled: bool,
    /// Active checks say that it cannot take requests.
    pub unhealthy: bool,
    /// Left alone for now because it failed too often.
    pub failing: bool,
    /// Ejected by outlier detection.
    pub ejected: bool,
}

impl Cluster {
    /// The state of every endpoint.
    pub fn snapshot(&self) -> ClusterSnapshot {
        let now_ns = monotonic_ns();
        let state = self.lock();
        let endpoints = state
            .members
            .iter()
            .map(|member| EndpointSnapshot {
                id: member.key.id,
                name: member.key.name.clone(),
                address: member.key.address.to_string(),
                in_flight: member.in_flight(),
                in_flight_max: member.in_flight_max(),
                draining: member.is_draining(),
                requests: member.key.requests(),
                failures: member.key.failures(),
                stalled: member.key.is_stalled(now_ns),
                unhealthy: member.is_unhealthy(),
                failing: member.is_failing(now_ns),
                ejected: member.is_ejected(),
            })
            .collect();
        let (breaker, concurrency_limit) = state.guard.report();
        ClusterSnapshot {
            name: self.name.clone(),
            breaker,
            concurrency_limit,
            queued: state.queued(),
            endpoints,
        }
    }

    /// Whether some endpoint takes requests.
    pub(crate) fn is_ready(&self) -> bool {
        self.lock()
            .members
            .iter()
            .any(|member| !member.is_draining())
    }

    /// How many endpoints have joined so far: the last one may run other code than the others.
    pub(crate) fn joins(&self) -> u32 {
        self.joins.load(Relaxed)
    }

    /// Whether the application is known to have nothing at the usual path of this health check.
    pub(crate) fn lacks(&self, check: Check) -> bool {
        self.lacks[check as usize].load(Relaxed) == self.joins()
    }

    /// An endpoint has said so, asked when `joins` had joined.
    pub(crate) fn note_lack(&self, check: Check, joins: u32) {
        self.lacks[check as usize].store(joins, Relaxed);
    }
}
