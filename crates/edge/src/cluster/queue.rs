//! Requests that wait for a slot, and those that are held back so that one worker stays free.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use evener_policy::balance::Picking;
use evener_policy::breaker::Pass;
use evener_policy::bulkhead::Class;
use evener_policy::shed::Importance;

use super::{Cluster, State};
use crate::admission::{Hold, Marks, Place};
use crate::endpoint::Endpoint;
use crate::shard::{Grant, ShardMessage};
use crate::variables::ClientBytes;

/// A request that waits for a slot, first come first served over all shards.
#[derive(Debug)]
pub(super) struct Waiter {
    place: Place,
    client: ClientBytes,
    key: Vec<u8>,
    bound_to: Vec<u8>,
    importance: Importance,
    class: Class,
    picking: Picking,
    pub(super) since_ns: u64,
}

impl Waiter {
    pub(super) fn new(
        place: Place,
        marks: Marks<'_>,
        picking: &mut Picking,
        now_ns: u64,
    ) -> Waiter {
        Waiter {
            place,
            client: marks.client,
            key: marks.key.to_vec(),
            bound_to: marks.bound_to.to_vec(),
            importance: marks.importance,
            class: marks.class,
            picking: std::mem::take(picking),
            since_ns: now_ns,
        }
    }

    fn marks(&self) -> Marks<'_> {
        Marks {
            client: self.client,
            key: &self.key,
            bound_to: &self.bound_to,
            importance: self.importance,
            class: self.class,
        }
    }
}

impl Cluster {
    /// Whether requests wait.
    pub(crate) fn has_queue(&self) -> bool {
        self.queued.load(Relaxed) > 0
    }

    /// Whether it matters to the cluster which requests hold a worker's event loop.
    pub(crate) fn keeps_apart(&self) -> bool {
        self.keeps_apart.load(Relaxed)
    }

    /// Finds out whether it does.
    pub(super) fn note_whether_apart(&self, state: &State) {
        let tells = state.members.iter().any(|member| member.key.page.is_some());
        let apart = state.conduct.bulkhead && tells;
        self.keeps_apart.store(apart, Relaxed);
    }

    /// Takes a request out of the queue. If it has been granted meanwhile, the grant is on its way
    /// and must be released when it arrives.
    pub(crate) fn cancel(&self, place: Place, pass: &mut Option<Pass>, now_ns: u64) {
        let mut state = self.lock();
        state.give_back(pass, now_ns);
        state.waiting.retain(|other| other.place != place);
        state.held_back.retain(|other| other.place != place);
        self.queued.store(state.queued(), Relaxed);
    }

    /// Looks again whether queued requests can go: endpoints that were suspect may be so no more.
    pub(crate) fn revisit_queue(&self, now_ns: u64) {
        if self.queued.load(Relaxed) > 0 {
            let mut state = self.lock();
            self.serve_waiters(&mut state, now_ns);
            let stuck = !state.waiting.is_empty() && state.is_stuck(now_ns);
            drop(state);
            if stuck {
                self.press(now_ns);
            }
        }
    }

    /// Gives to those who wait what there is for them.
    pub(super) fn serve_waiters(&self, state: &mut State, now_ns: u64) {
        while let Some(waiter) = state.waiting.pop_front() {
            if let Some(waiter) = self.serve(state, waiter, now_ns) {
                state.waiting.push_front(waiter);
                break;
            }
        }
        while let Some(waiter) = state.held_back.pop_front() {
            let expected = state.bulkhead.expected(waiter.class);
            let may =
                expected.is_none_or(|expected| state.lets_begin(expected, waiter.since_ns, now_ns));
            let left = match may {
                true => self.serve(state, waiter, now_ns),
                false => Some(waiter),
            };
            if let Some(waiter) = left {
                state.held_back.push_front(waiter);
                break;
            }
        }
        self.queued.store(state.queued(), Relaxed);
    }

    /// Grants a waiting request an endpoint; gives it back if there is none for it.
    fn serve(&self, state: &mut State, mut waiter: Waiter, now_ns: u64) -> Option<Waiter> {
        let mut picking = std::mem::take(&mut waiter.picking);
        let Ok(endpoint) = state.pick(waiter.marks(), &mut picking, now_ns) else {
            waiter.picking = picking;
            return Some(waiter);
        };
        state.shards[waiter.place.shard].post(ShardMessage::Granted(Grant {
            session: waiter.place.session,
            cluster: self.own.clone(),
            endpoint,
            picking,
        }));
        None
    }
}

impl State {
    /// Notes a request that has come, and says whether it must wait lest it hold the event loop of
    /// the last worker that is free.
    pub(super) fn holds_back(&mut self, class: Class, now_ns: u64) -> bool {
        self.bulkhead.note(class).is_some_and(|expected| {
            !self.held_back.is_empty() || !self.lets_begin(expected, now_ns, now_ns)
        })
    }

    /// Whether a request that will hold a loop for `expected` may begin.
    fn lets_begin(&self, expected: Duration, since_ns: u64, now_ns: u64) -> bool {
        let waited = Duration::from_nanos(now_ns.saturating_sub(since_ns));
        let reluctance = |endpoint: &Arc<Endpoint>| endpoint.reluctance(now_ns);
        let (free, able) = self.members.count_free(now_ns, reluctance);
        self.bulkhead.lets_begin(expected, waited, free, able)
    }

    /// Requests that wait.
    pub(super) fn queued(&self) -> usize {
        self.waiting.len() + self.held_back.len()
    }

    /// Takes note of whether a request has held its worker's event loop.
    pub(super) fn learn(&mut self, endpoint: &Endpoint, hold: Hold) {
        if self.bulkhead.expected(hold.class).is_some() {
            endpoint.end_hold();
        }
        if let Some(held) = hold.held {
            self.bulkhead.learn(hold.class, held);
        }
    }
}
