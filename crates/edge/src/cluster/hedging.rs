//! Another endpoint for a request that has one already, and what it takes to decide that.

use std::sync::Arc;
use std::time::Duration;

use evener_policy::balance::{Pick, Picking, Reluctance, Request};
use evener_policy::budget::{self, Budget};
use evener_policy::hedge::{self, Delay, Latencies};

use super::{Cluster, State};
use crate::admission::{Finished, Marks};
use crate::endpoint::Endpoint;

/// What a cluster knows for its hedges.
pub(super) struct Hedging {
    /// How long answers take to begin, if that decides it.
    latencies: Option<Latencies>,
    /// How many hedges the cluster bears, if it has no budget for retries.
    pub(super) budget: Budget,
}

impl Hedging {
    /// Nothing is known yet.
    pub(super) fn new(settings: hedge::Settings) -> Hedging {
        Hedging {
            latencies: match settings.delay {
                Delay::After(_) => None,
                Delay::Quantile { percent, .. } => Some(Latencies::new(percent)),
            },
            budget: Budget::new(budget::Settings::default()),
        }
    }

    /// An attempt is over.
    pub(super) fn note(&mut self, finished: &Finished, now_ns: u64) {
        let Some(latencies) = &mut self.latencies else {
            return;
        };
        let until_ns = match finished.outrun {
            true => now_ns,
            false => finished.head_ns,
        };
        if until_ns > 0 {
            let took = until_ns.saturating_sub(finished.picked_ns);
            latencies.record(Duration::from_nanos(now_ns), Duration::from_nanos(took));
        }
    }
}

impl Cluster {
    /// Another endpoint for a request that already has one, or several: one that it has not tried
    /// and that is free, if nobody waits for it, the breaker is closed and the budget bears it.
    pub(crate) fn admit_rival(
        &self,
        marks: Marks<'_>,
        picking: &mut Picking,
        now_ns: u64,
    ) -> Option<Arc<Endpoint>> {
        let mut state = self.lock();
        if !state.waiting.is_empty() || !state.guard.is_calm() {
            return None;
        }
        let endpoint = state.pick_rival(marks, picking, now_ns)?;
        if !state.bears_hedge(now_ns) {
            state.finish(endpoint.id.0, &Finished::unjudged(now_ns), now_ns);
            return None;
        }
        picking.note_rival(endpoint.id.0);
        Some(endpoint)
    }

    /// How long an answer of the cluster usually takes to begin: the quantile after which a request
    /// is hedged, if it is known.
    pub(crate) fn usual_latency(&self, now_ns: u64) -> Option<Duration> {
        let mut state = self.lock();
        let latencies = state.hedging.as_mut()?.latencies.as_mut()?;
        latencies.quantile(Duration::from_nanos(now_ns))
    }
}

impl State {
    fn pick_rival(
        &mut self,
        marks: Marks<'_>,
        picking: &Picking,
        now_ns: u64,
    ) -> Option<Arc<Endpoint>> {
        let request = Request {
            client: marks.client.as_slice(),
            key: marks.key,
            ..Request::at(now_ns)
        };
        let reluctance = |endpoint: &Arc<Endpoint>| match endpoint.reluctance(now_ns) {
            Reluctance::None if !picking.has_tried(endpoint.id.0) => Reluctance::None,
            _ => Reluctance::Never,
        };
        if !self.guard.begin(marks.importance, now_ns) {
            return None;
        }
        self.scratch.reset();
        match self.members.pick(&request, &mut self.scratch, reluctance) {
            Pick::Chosen(index) => Some(self.members.at(index).key.clone()),
            Pick::Full | Pick::Nobody => {
                self.guard.undo(now_ns);
                None
            }
        }
    }

    /// Whether the cluster bears one more hedge, which is then counted: with its retries, if it has
    /// a budget for those, else by itself.
    fn bears_hedge(&mut self, now_ns: u64) -> bool {
        let own = self.hedging.as_mut().map(|hedging| &mut hedging.budget);
        let budget = self.budget.as_mut().or(own);
        budget.is_some_and(|budget| budget.try_retry(Duration::from_nanos(now_ns)))
    }
}
