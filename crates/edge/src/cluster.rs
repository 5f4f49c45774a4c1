//! The endpoints that all shards balance over, and the queue of requests that found them all full.
//!
//! One short lock holds the exact state of a cluster: counts, turn and queue together, so that a
//! slot that comes free and a request that looks for one can never miss each other. The lock is
//! held for a scan of the members, never for I/O.

mod hedging;
mod pressure;
mod queue;
mod snapshot;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use evener_net::Postbox;
use evener_policy::balance::{
    Members, Method, Outcome, Pick, Picking, Reluctance, Request, Settings, Spill,
};
use evener_policy::breaker::Pass;
use evener_policy::budget::{self, Budget};
use evener_policy::bulkhead::Bulkhead;
use evener_policy::hedge;
use evener_policy::outlier::{self, Action, Detector, Observed};
use evener_policy::shed::Importance;
use evener_vitals::monotonic_ns;

use crate::admission::{Admission, Finished, Marks, Place};
use crate::binding::Learned;
use crate::endpoint::{Endpoint, EndpointId, EndpointSpec};
use crate::guard::{Entry, Guard, Queue};
use crate::shard::ShardMessage;

use hedging::Hedging;
pub use pressure::Alarm;
use pressure::Pressure;
use queue::Waiter;
pub use snapshot::{ClusterSnapshot, EndpointSnapshot};

/// How a cluster's endpoints share its requests, and what is held against them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conduct {
    /// Who gets a request.
    pub balance: Settings,
    /// Ejects those that answer worse than they should.
    pub outlier: Option<outlier::Settings>,
    /// How many retries the cluster bears.
    pub budget: Option<budget::Settings>,
    /// When a request goes to two endpoints.
    pub hedge: Option<hedge::Settings>,
    /// What protects it from more than it can do.
    pub guard: evener_config::Guard,
    /// Requests known to hold their worker's event loop leave one worker free for the others.
    pub bulkhead: bool,
    /// When nobody is left who could serve, requests wait for somebody who can.
    pub waits: bool,
}

impl Conduct {
    /// Of the local workers: the one with the fewest requests in flight; one that failed a request
    /// is asked again only if there is no other.
    pub const WORKERS: Conduct = Conduct {
        balance: Settings {
            method: Method::LeastInFlight,
            seed: 1,
            slow_start: None,
            panic_percent: 0,
            spill: Spill::WhenNone,
            again: true,
        },
        outlier: None,
        budget: None,
        hedge: None,
        guard: evener_config::Guard {
            requests_max: None,
            breaker: None,
            concurrency: None,
            shed: None,
            waited_max_ms: 0,
        },
        bulkhead: true,
        waits: true,
    };
}

/// A named set of endpoints.
pub struct Cluster {
    name: String,
    /// For those who are told of a grant and have nobody to give it to.
    own: Weak<Cluster>,
    queue_length_max: AtomicUsize,
    state: Mutex<State>,
    /// Length of the queue, readable without the lock.
    queued: AtomicUsize,
    /// Who is bound to which endpoint by a cookie of the application.
    learned: Learned,
    /// How many endpoints have joined, counted from one.
    joins: AtomicU32,
    /// For each health check: `joins` when the application was last seen to have nothing there.
    lacks: [AtomicU32; 2],
    pressure: Pressure,
    /// `Conduct::bulkhead`, where endpoints say who holds their loops; readable without the lock.
    keeps_apart: AtomicBool,
}

struct State {
    members: Members<Arc<Endpoint>>,
    /// For picks that nothing depends on later.
    scratch: Picking,
    outlier: Option<Detector>,
    budget: Option<Budget>,
    hedging: Option<Hedging>,
    guard: Guard,
    conduct: Conduct,
    waiting: VecDeque<Waiter>,
    bulkhead: Bulkhead,
    /// Requests that would hold the last free worker's event loop.
    held_back: VecDeque<Waiter>,
    shards: Vec<Postbox<ShardMessage>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster({})", self.name)
    }
}

impl Cluster {
    /// An empty cluster whose queue holds up to `queue_length` requests.
    pub fn new(name: &str, queue_length: usize) -> Arc<Cluster> {
        Arc::new_cyclic(|own| Cluster {
            name: name.to_owned(),
            own: own.clone(),
            queue_length_max: AtomicUsize::new(queue_length),
            state: Mutex::new(State {
                members: Members::new(Conduct::WORKERS.balance),
                scratch: Picking::default(),
                outlier: None,
                budget: None,
                hedging: None,
                guard: Guard::default(),
                conduct: Conduct::WORKERS,
                waiting: VecDeque::new(),
                bulkhead: Bulkhead::default(),
                held_back: VecDeque::new(),
                shards: Vec::new(),
            }),
            queued: AtomicUsize::new(0),
            learned: Learned::default(),
            joins: AtomicU32::new(1),
            lacks: [const { AtomicU32::new(0) }; 2],
            pressure: Pressure::default(),
            keeps_apart: AtomicBool::new(false),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes how the requests are shared. What is known of the endpoints stays known as far as it
    /// still has a meaning.
    pub fn set_conduct(&self, conduct: Conduct) {
        let mut state = self.lock();
        if state.conduct == conduct {
            return;
        }
        if state.conduct.balance != conduct.balance {
            state.members.set_settings(conduct.balance);
        }
        if state.conduct.outlier != conduct.outlier {
            state.set_outlier(conduct.outlier, monotonic_ns());
        }
        if state.conduct.budget != conduct.budget {
            state.budget = conduct.budget.map(Budget::new);
        }
        if state.conduct.hedge != conduct.hedge {
            state.hedging = conduct.hedge.map(Hedging::new);
        }
        if state.conduct.guard != conduct.guard {
            let now_ns = monotonic_ns();
            state.guard.set(conduct.guard, now_ns, now_ns);
        }
        state.conduct = conduct;
        self.note_whether_apart(&state);
        self.serve_waiters(&mut state, monotonic_ns());
    }

    /// Changes how many requests may wait.
    pub fn set_queue_length(&self, queue_length: usize) {
        self.queue_length_max.store(queue_length, Relaxed);
    }

    /// Adds an endpoint, which takes traffic from now on.
    pub fn add(&self, spec: EndpointSpec) {
        let id = spec.id.0;
        self.joins.fetch_add(1, Relaxed);
        let mut state = self.lock();
        spec.admit(|endpoint, terms| state.members.join(id, endpoint, terms));
        self.note_whether_apart(&state);
        if let Some(outlier) = &mut state.outlier {
            outlier.join(id);
        }
        self.serve_waiters(&mut state, monotonic_ns());
    }

    /// Gives an endpoint no new requests; what it has in flight goes on.
    pub fn drain(&self, id: EndpointId) {
        let mut state = self.lock();
        state.members.set_draining(id.0, true);
        if let Some(member) = state.members.find(id.0) {
            member.key.retire();
            state.tell_shards(|| ShardMessage::EndpointDrained(id));
        }
    }

    /// Gives a drained endpoint requests again.
    pub fn restore(&self, id: EndpointId) {
        let mut state = self.lock();
        state.members.set_draining(id.0, false);
        if let Some(member) = state.members.find(id.0) {
            member.key.unretire();
        }
        self.serve_waiters(&mut state, monotonic_ns());
    }

    /// Says whether an endpoint is healthy; one that is not gets requests only if hardly any is.
    pub fn set_healthy(&self, id: EndpointId, healthy: bool) {
        let now_ns = monotonic_ns();
        let mut state = self.lock();
        state.members.set_healthy(id.0, healthy, now_ns);
        self.serve_waiters(&mut state, now_ns);
    }

    /// Has requests that wait for this endpoint's answer go to another one, where they may.
    pub fn pass_on(&self, id: EndpointId) {
        self.lock()
            .tell_shards(|| ShardMessage::EndpointUnhealthy(id));
    }

    /// Switches an endpoint off or on.
    pub fn set_down(&self, id: EndpointId, down: bool) {
        let mut state = self.lock();
        state.members.set_down(id.0, down);
        self.serve_waiters(&mut state, monotonic_ns());
    }

    /// Requests and tunnels that an endpoint has in flight; `None` if there is no such endpoint.
    pub fn in_flight(&self, id: EndpointId) -> Option<u32> {
        self.lock()
            .members
            .find(id.0)
            .map(|member| member.in_flight())
    }

    /// Forgets an endpoint. Requests that it still has are sent elsewhere where that is safe.
    pub fn remove(&self, id: EndpointId) {
        let mut state = self.lock();
        if let Some(outlier) = &mut state.outlier {
            outlier.leave(id.0);
        }
        if let Some(member) = state.members.leave(id.0) {
            member.key.retire();
            state.tell_shards(|| ShardMessage::EndpointRemoved(id));
        }
    }

    /// Who is bound to which endpoint by a cookie of the application.
    pub(crate) fn learned(&self) -> &Learned {
        &self.learned
    }

    /// Makes a shard known, so that it can be told of grants and retirements.
    pub(crate) fn attach(&self, postbox: Postbox<ShardMessage>) -> usize {
        let mut state = self.lock();
        state.shards.push(postbox);
        state.shards.len() - 1
    }

    /// Finds an endpoint for a request, or a place in the queue.
    pub(crate) fn admit(
        &self,
        place: Place,
        marks: Marks<'_>,
        picking: &mut Picking,
        pass: &mut Option<Pass>,
        now_ns: u64,
    ) -> Admission {
        let mut state = self.lock();
        if state.is_guarded() {
            let queue = Queue {
                length: state.waiting.len(),
                length_max: self.queue_length_max.load(Relaxed),
                since_ns: state.waiting.front().map(|waiter| waiter.since_ns),
            };
            let first = picking.is_first();
            match state.guard.enter(marks.importance, first, queue, now_ns) {
                Entry::Open(given) => *pass = given,
                Entry::Broken => return Admission::Broken,
                Entry::Shed => return Admission::Shed,
            }
        }
        if let Some(budget) = &mut state.budget
            && picking.is_first()
        {
            budget.note_request(Duration::from_nanos(now_ns));
        }
        if let Some(hedging) = &mut state.hedging
            && picking.is_first()
        {
            hedging.budget.note_request(Duration::from_nanos(now_ns));
        }
        state.sweep(now_ns);
        let critical = marks.importance == Importance::Critical;
        let held_back = state.holds_back(marks.class, now_ns) && !critical;
        if !held_back && (state.waiting.is_empty() || critical) {
            match state.pick(marks, picking, now_ns) {
                Ok(endpoint) => return Admission::Granted(endpoint),
                Err(Pick::Full) => {}
                // Endpoints that are not known yet, or not checked yet, are worth waiting for.
                Err(_) if state.conduct.waits || state.members.tries() == 0 => {}
                Err(_) => {
                    state.give_back(pass, now_ns);
                    return Admission::Nobody;
                }
            }
        }
        if state.queued() >= self.queue_length_max.load(Relaxed) {
            state.give_back(pass, now_ns);
            return Admission::Refused;
        }
        let waiter = Waiter::new(place, marks, picking, now_ns);
        match (held_back, critical) {
            (true, _) => state.held_back.push_back(waiter),
            (false, true) => state.waiting.push_front(waiter),
            (false, false) => state.waiting.push_back(waiter),
        }
        self.serve_waiters(&mut state, now_ns);
        Admission::Queued
    }

    /// An endpoint for a request whose own stands still: one that does not, and has less to do.
    pub(crate) fn admit_elsewhere(&self, from: &Endpoint, now_ns: u64) -> Option<Arc<Endpoint>> {
        let State {
            members,
            scratch,
            guard,
            ..
        } = &mut *self.lock();
        scratch.reset();
        let reluctance = |endpoint: &Arc<Endpoint>| match endpoint.reluctance(now_ns) {
            Reluctance::None if endpoint.id != from.id => Reluctance::None,
            _ => Reluctance::Never,
        };
        match members.pick(&Request::at(now_ns), scratch, reluctance) {
            Pick::Chosen(index) => {
                guard.begin_anyway();
                Some(members.at(index).key.clone())
            }
            Pick::Full | Pick::Nobody => None,
        }
    }

    /// Whether another endpoint than `from`, one that the request has not tried, is all right.
    pub(crate) fn has_other(&self, from: EndpointId, picking: &Picking, now_ns: u64) -> bool {
        self.lock().members.has_other(from.0, picking, now_ns)
    }

    /// Has the shards close idle connections to an endpoint: one each, if they have one.
    pub(crate) fn make_room(&self, id: EndpointId) {
        self.lock().tell_shards(|| ShardMessage::CloseIdle(id));
    }

    /// Gives a slot back, to the first request in the queue if there is one.
    pub(crate) fn release(&self, endpoint: &Endpoint, finished: &Finished, now_ns: u64) {
        let mut state = self.lock();
        state.learn(endpoint, finished.hold);
        state.finish(endpoint.id.0, finished, now_ns);
        self.serve_waiters(&mut state, now_ns);
    }

    /// Tries that a request has by nginx's count, and whether there is but one endpoint.
    pub(crate) fn tries(&self) -> (u32, bool) {
        let state = self.lock();
        let tries = u32::try_from(state.members.tries()).unwrap_or(u32::MAX);
        (tries, state.members.iter().len() == 1)
    }

    /// Whether the cluster bears one more retry, which is then counted.
    pub(crate) fn may_retry(&self, now_ns: u64) -> bool {
        let mut state = self.lock();
        let budget = state.budget.as_mut();
        budget.is_none_or(|budget| budget.try_retry(Duration::from_nanos(now_ns)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pick(
        &mut self,
        marks: Marks<'_>,
        picking: &mut Picking,
        now_ns: u64,
    ) -> Result<Arc<Endpoint>, Pick> {
        let request = Request {
            client: marks.client.as_slice(),
            key: marks.key,
            bound_to: (!marks.bound_to.is_empty()).then_some(marks.bound_to),
            ..Request::at(now_ns)
        };
        let reluctance = |endpoint: &Arc<Endpoint>| endpoint.reluctance(now_ns);
        if !self.guard.begin(marks.importance, now_ns) {
            return Err(Pick::Full);
        }
        match self.members.pick(&request, picking, reluctance) {
            Pick::Chosen(index) => {
                let endpoint = self.members.at(index).key.clone();
                if let Some(expected) = self.bulkhead.expected(marks.class) {
                    endpoint.expect_hold(expected, now_ns);
                }
                Ok(endpoint)
            }
            nobody => {
                self.guard.undo(now_ns);
                Err(nobody)
            }
        }
    }

    /// Whether requests may be refused though endpoints could serve.
    fn is_guarded(&self) -> bool {
        self.conduct.guard.breaker.is_some() || self.conduct.guard.shed.is_some()
    }

    /// A request that passed the breaker is not tried.
    fn give_back(&mut self, pass: &mut Option<Pass>, now_ns: u64) {
        if let Some(pass) = pass.take() {
            self.guard.give_back(pass, now_ns);
        }
    }

    fn finish(&mut self, id: u64, finished: &Finished, now_ns: u64) {
        self.guard.end(finished, now_ns);
        let picked_ns = finished.picked_ns;
        if let Some(hedging) = &mut self.hedging {
            hedging.note(finished, now_ns);
        }
        let Some(verdict) = finished.verdict else {
            self.members.release(id, picked_ns);
            return self.observe(id, finished.observed, now_ns);
        };
        let since = |at_ns: u64| Duration::from_nanos(at_ns.saturating_sub(picked_ns));
        let outcome = Outcome {
            verdict,
            picked_ns,
            header: (finished.head_ns > 0).then(|| since(finished.head_ns)),
            last_byte: (finished.head_ns > 0).then(|| since(now_ns)),
        };
        self.members.finish(id, &outcome, now_ns);
        self.observe(id, finished.observed, now_ns);
    }

    fn observe(&mut self, id: u64, observed: Option<Observed>, now_ns: u64) {
        if let (Some(outlier), Some(observed)) = (&mut self.outlier, observed)
            && let Some(action) = outlier.record(Duration::from_nanos(now_ns), id, observed)
        {
            self.carry_out(action, now_ns);
        }
    }

    /// Lets outlier detection end and begin ejections, when it is time.
    fn sweep(&mut self, now_ns: u64) {
        let now = Duration::from_nanos(now_ns);
        if let Some(outlier) = &mut self.outlier
            && outlier.next_deadline() <= now
        {
            for action in outlier.sweep(now) {
                self.carry_out(action, now_ns);
            }
        }
    }

    fn carry_out(&mut self, action: Action, now_ns: u64) {
        match action {
            Action::Eject { id, .. } => self.members.set_ejected(id, true, now_ns),
            Action::Restore { id } => self.members.set_ejected(id, false, now_ns),
        };
    }

    fn set_outlier(&mut self, settings: Option<outlier::Settings>, now_ns: u64) {
        let ids: Vec<u64> = self.members.iter().map(|member| member.id()).collect();
        let now = Duration::from_nanos(now_ns);
        self.outlier = settings.map(|settings| Detector::new(settings, now_ns, now));
        for id in ids {
            self.members.set_ejected(id, false, now_ns);
            if let Some(outlier) = &mut self.outlier {
                outlier.join(id);
            }
        }
    }

    fn tell_shards(&self, message: impl Fn() -> ShardMessage) {
        for shard in &self.shards {
            shard.post(message());
        }
    }
}
