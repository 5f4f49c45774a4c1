//! The endpoints that all shards balance over, and the queue of requests that found them all full.
//!
//! One short lock holds the exact state of a cluster: counts, turn and queue together, so that a
//! slot that comes free and a request that looks for one can never miss each other. The lock is
//! held for a scan of the members, never for I/O.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use evener_net::Postbox;
use evener_policy::balance::{
    Members, Method, Pick, Picking, Reluctance, Request, Settings, Spill, Terms,
};
use evener_vitals::{Page, monotonic_ns};

use crate::claims::ClaimSlots;
use crate::shard::{Grant, SessionKey, ShardMessage};
use crate::variables::ClientBytes;

/// A worker whose loop has not ticked for so long while requests are in flight stands still.
const STALL_NS: u64 = 25_000_000;
/// An endpoint that refused a connection is left alone for this long.
const SUSPECT_NS: u64 = 100_000_000;

/// The worker with the fewest requests in flight; one that failed a request is asked again only if
/// there is no other.
const SETTINGS: Settings = Settings {
    method: Method::LeastInFlight,
    seed: 1,
    slow_start: None,
    panic_percent: 0,
    spill: Spill::WhenNone,
    again: true,
};

/// Names one endpoint of a cluster; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u64);

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointAddress {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            EndpointAddress::Tcp(address) => address.fmt(f),
        }
    }
}

/// What a cluster is told about an endpoint.
#[derive(Debug)]
pub struct EndpointSpec {
    /// Its name in code.
    pub id: EndpointId,
    /// Its name for people.
    pub name: String,
    /// Where it listens.
    pub address: EndpointAddress,
    /// The most requests it may have in flight; 0 is no bound.
    pub in_flight_max: u32,
    /// Its share of the requests.
    pub share: Share,
    /// Its vitals page, if it is one of Evener's own workers.
    pub page: Option<Arc<Page>>,
}

/// When an endpoint gets requests, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// How many, compared with others; at least 1.
    pub weight: u32,
    /// Endpoints of a higher number serve when those of lower ones cannot.
    pub priority: u32,
    /// Serves only when no other can.
    pub backup: bool,
    /// Switched off.
    pub down: bool,
}

impl Default for Share {
    fn default() -> Self {
        Share {
            weight: 1,
            priority: 0,
            backup: false,
            down: false,
        }
    }
}

/// An endpoint as the shards share it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: EndpointId,
    pub(crate) name: String,
    pub(crate) address: EndpointAddress,
    pub(crate) page: Option<Arc<Page>>,
    pub(crate) claims: Option<ClaimSlots>,
    /// Takes no new requests; its idle connections are closed.
    retired: AtomicBool,
    suspect_until_ns: AtomicU64,
    /// A request waited in vain for its loop to turn; over as soon as the loop does.
    stands: AtomicBool,
    requests: AtomicU64,
    failures: AtomicU64,
}

impl Endpoint {
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Notes that a connection was refused or could not be made.
    pub(crate) fn suspect(&self, now_ns: u64) {
        self.suspect_until_ns.store(now_ns + SUSPECT_NS, Relaxed);
    }

    pub(crate) fn count_request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Whether its event loop stands still: it has not ticked lately, though requests are in
    /// flight or one waits to be claimed. A loop with nothing to do does not tick either.
    pub(crate) fn is_stalled(&self, now_ns: u64) -> bool {
        let Some(page) = &self.page else { return false };
        if now_ns.saturating_sub(page.tick_ns()) <= STALL_NS {
            if self.stands.load(Relaxed) {
                self.stands.store(false, Relaxed);
            }
            return false;
        }
        page.in_flight() > 0 || self.stands.load(Relaxed)
    }

    /// Notes that a request has waited for its loop to turn since `since_ns`, and returns whether
    /// it really stands still.
    pub(crate) fn note_waiting(&self, since_ns: u64, now_ns: u64) -> bool {
        if now_ns.saturating_sub(since_ns) > STALL_NS {
            self.stands.store(true, Relaxed);
        }
        self.is_stalled(now_ns)
    }

    fn reluctance(&self, now_ns: u64) -> Reluctance {
        if self.suspect_until_ns.load(Relaxed) > now_ns {
            Reluctance::Never
        } else if self.is_stalled(now_ns) {
            Reluctance::Unless
        } else {
            Reluctance::None
        }
    }
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
}

#[derive(Default)]
struct State {
    members: Members<Arc<Endpoint>>,
    /// For picks that nothing depends on later.
    scratch: Picking,
    waiting: VecDeque<Waiter>,
    shards: Vec<Postbox<ShardMessage>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster({})", self.name)
    }
}

/// Where a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: usize,
    pub(crate) session: SessionKey,
}

/// What a request is told apart by, when that matters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks<'a> {
    pub(crate) client: ClientBytes,
    pub(crate) key: &'a [u8],
}

/// A request that waits for a slot, first come first served over all shards.
#[derive(Debug)]
struct Waiter {
    place: Place,
    client: ClientBytes,
    key: Vec<u8>,
    picking: Picking,
}

/// What became of a request for an endpoint.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Go ahead; the slot must be released.
    Granted(Arc<Endpoint>),
    /// All are full or gone: a [`ShardMessage::Granted`] follows.
    Queued,
    /// The queue is full as well.
    Refused,
}

/// A cluster as `status` shows it.
#[derive(Debug, Clone)]
pub struct ClusterSnapshot {
    /// Its name.
    pub name: String,
    /// Requests waiting for a slot.
    pub queued: usize,
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
}

impl Cluster {
    /// An empty cluster whose queue holds up to `queue_length` requests.
    pub fn new(name: &str, queue_length: usize) -> Arc<Cluster> {
        Arc::new_cyclic(|own| Cluster {
            name: name.to_owned(),
            own: own.clone(),
            queue_length_max: AtomicUsize::new(queue_length),
            state: Mutex::new(State {
                members: Members::new(SETTINGS),
                ..State::default()
            }),
            queued: AtomicUsize::new(0),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes how an endpoint is chosen.
    pub fn set_method(&self, method: Method) {
        let mut state = self.lock();
        let settings = state.members.settings();
        if settings.method != method {
            let settings = Settings {
                method,
                ..*settings
            };
            state.members.set_settings(settings);
        }
    }

    /// Changes how many requests may wait.
    pub fn set_queue_length(&self, queue_length: usize) {
        self.queue_length_max.store(queue_length, Relaxed);
    }

    /// Adds an endpoint, which takes traffic from now on.
    pub fn add(&self, spec: EndpointSpec) {
        let claims = spec.page.clone().map(ClaimSlots::new);
        let endpoint = Arc::new(Endpoint {
            id: spec.id,
            name: spec.name,
            address: spec.address,
            page: spec.page,
            claims,
            retired: AtomicBool::new(false),
            suspect_until_ns: AtomicU64::new(0),
            stands: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        });
        let mut state = self.lock();
        let server = endpoint.address.to_string();
        let terms = Terms {
            server: &server,
            weight: spec.share.weight,
            priority: spec.share.priority,
            backup: spec.share.backup,
            down: spec.share.down,
            in_flight_max: spec.in_flight_max,
            max_fails: 0,
            ..Terms::default()
        };
        state.members.join(spec.id.0, endpoint, &terms);
        self.serve_waiters(&mut state, monotonic_ns());
    }

    /// Gives an endpoint no new requests; what it has in flight goes on.
    pub fn drain(&self, id: EndpointId) {
        let mut state = self.lock();
        state.members.set_draining(id.0, true);
        if let Some(member) = state.members.find(id.0) {
            member.key.retired.store(true, Relaxed);
            state.tell_shards(|| ShardMessage::EndpointDrained(id));
        }
    }

    /// Gives a drained endpoint requests again.
    pub fn restore(&self, id: EndpointId) {
        let mut state = self.lock();
        state.members.set_draining(id.0, false);
        if let Some(member) = state.members.find(id.0) {
            member.key.retired.store(false, Relaxed);
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
        if let Some(member) = state.members.leave(id.0) {
            member.key.retired.store(true, Relaxed);
            state.tell_shards(|| ShardMessage::EndpointRemoved(id));
        }
    }

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
                requests: member.key.requests.load(Relaxed),
                failures: member.key.failures.load(Relaxed),
                stalled: member.key.is_stalled(now_ns),
                unhealthy: member.is_unhealthy(),
            })
            .collect();
        ClusterSnapshot {
            name: self.name.clone(),
            queued: state.waiting.len(),
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

    /// Whether requests wait.
    pub(crate) fn has_queue(&self) -> bool {
        self.queued.load(Relaxed) > 0
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
        now_ns: u64,
    ) -> Admission {
        let mut state = self.lock();
        if state.waiting.is_empty()
            && let Some(endpoint) = state.pick(marks, picking, now_ns)
        {
            return Admission::Granted(endpoint);
        }
        if state.waiting.len() >= self.queue_length_max.load(Relaxed) {
            return Admission::Refused;
        }
        state.waiting.push_back(Waiter {
            place,
            client: marks.client,
            key: marks.key.to_vec(),
            picking: std::mem::take(picking),
        });
        self.serve_waiters(&mut state, now_ns);
        Admission::Queued
    }

    /// An endpoint for a request whose own stands still: one that does not, and has less to do.
    pub(crate) fn admit_elsewhere(&self, from: &Endpoint, now_ns: u64) -> Option<Arc<Endpoint>> {
        let State {
            members, scratch, ..
        } = &mut *self.lock();
        scratch.reset();
        let reluctance = |endpoint: &Arc<Endpoint>| match endpoint.reluctance(now_ns) {
            Reluctance::None if endpoint.id != from.id => Reluctance::None,
            _ => Reluctance::Never,
        };
        match members.pick(&Request::at(now_ns), scratch, reluctance) {
            Pick::Chosen(index) => Some(members.at(index).key.clone()),
            Pick::Full | Pick::Nobody => None,
        }
    }

    /// Takes a request out of the queue. If it has been granted meanwhile, the grant is on its way
    /// and must be released when it arrives.
    pub(crate) fn cancel(&self, place: Place) {
        let mut state = self.lock();
        state.waiting.retain(|other| other.place != place);
        self.queued.store(state.waiting.len(), Relaxed);
    }

    /// Gives a slot back, to the first request in the queue if there is one.
    pub(crate) fn release(&self, endpoint: &Endpoint, picked_ns: u64, now_ns: u64) {
        let mut state = self.lock();
        state.members.release(endpoint.id.0, picked_ns);
        self.serve_waiters(&mut state, now_ns);
    }

    /// Looks again whether queued requests can go: endpoints that were suspect may be so no more.
    pub(crate) fn revisit_queue(&self, now_ns: u64) {
        if self.queued.load(Relaxed) > 0 {
            self.serve_waiters(&mut self.lock(), now_ns);
        }
    }

    fn serve_waiters(&self, state: &mut State, now_ns: u64) {
        while let Some(mut waiter) = state.waiting.pop_front() {
            let marks = Marks {
                client: waiter.client,
                key: &waiter.key,
            };
            let Some(endpoint) = state.pick(marks, &mut waiter.picking, now_ns) else {
                state.waiting.push_front(waiter);
                break;
            };
            state.shards[waiter.place.shard].post(ShardMessage::Granted(Grant {
                session: waiter.place.session,
                cluster: self.own.clone(),
                endpoint,
                picking: waiter.picking,
            }));
        }
        self.queued.store(state.waiting.len(), Relaxed);
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
    ) -> Option<Arc<Endpoint>> {
        let request = Request {
            client: marks.client.as_slice(),
            key: marks.key,
            ..Request::at(now_ns)
        };
        let reluctance = |endpoint: &Arc<Endpoint>| endpoint.reluctance(now_ns);
        match self.members.pick(&request, picking, reluctance) {
            Pick::Chosen(index) => Some(self.members.at(index).key.clone()),
            Pick::Full | Pick::Nobody => None,
        }
    }

    fn tell_shards(&self, message: impl Fn() -> ShardMessage) {
        for shard in &self.shards {
            shard.post(message());
        }
    }
}
