//! Which member of a cluster gets the next request.
//!
//! [`Members`] is one exact state: whoever holds the lock around it counts every request in and
//! out, for all shards. It knows nothing about sockets, and of health only what it is told. nginx's
//! methods are exact to the pick (`src/http/ngx_http_upstream_round_robin.c` and
//! `src/http/modules/ngx_http_upstream_{least_conn,ip_hash,hash,random,least_time}_module.c`): the
//! tests beside this file replay what a real nginx chose.
//!
//! A pick first marks who may serve at all ([`Members::pick`]), then asks the method for one of
//! them, level by level. It allocates only after the membership has changed, when the tables of the
//! hashing methods are built anew.

mod crc32;
mod hashed;
mod least;
mod levels;
mod maglev;
mod member;
mod picking;
mod random;
mod ring;
mod smooth;
mod sticky;
#[cfg(test)]
mod tests;
mod timed;

use alloc::vec::Vec;
use core::time::Duration;

pub use levels::Spill;
pub use member::{Member, SlowStart, Terms};
pub use picking::{Outcome, Pick, Picking, Reluctance, Request, Verdict};

use levels::Level;
use member::Mark;
use random::Dice;

/// How a member is chosen among those that may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// The fewest requests in flight for its weight, equals in turn.
    #[default]
    LeastInFlight,
    /// nginx's default: smooth weighted round robin.
    RoundRobin,
    /// nginx's `least_conn`: the fewest requests for its weight, equals by smooth round robin.
    LeastConn,
    /// nginx's `ip_hash`, by the client's address.
    IpHash,
    /// nginx's `hash KEY`.
    Hash,
    /// nginx's `hash KEY consistent` (ketama).
    HashConsistent,
    /// nginx's `random`: by weight.
    Random,
    /// nginx's `random two least_conn`.
    RandomTwo,
    /// The less busy of two that are drawn evenly (Mitzenmacher's power of two choices).
    PowerOfTwo,
    /// The cheaper of two that are drawn evenly; the cost is the latency, quick to rise and slow to
    /// fall, times the requests in flight (Finagle's and Linkerd's peak EWMA).
    PeakEwma,
    /// Maglev's lookup table (Eisenbud and others, NSDI 2016), by key.
    Maglev,
    /// Consistent hashing by key in which nobody has more than so many percent over the mean
    /// (Mirrokni, Thorup, Zadimoghaddam 2018).
    BoundedLoad {
        /// By how much a member may exceed the mean load for its weight; 25 is usual.
        over_percent: u32,
    },
    /// The first in the order they joined that is not full: as few members as possible are busy.
    FirstFit,
    /// nginx's `least_time`.
    LeastTime {
        /// Which time counts.
        measure: Measure,
        /// Whether requests still in flight count with their age.
        in_flight: bool,
    },
}

/// What `least_time` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Until the head of the response.
    Header,
    /// Until the response's last byte.
    LastByte,
}

/// How the members of a cluster share its requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Who is chosen among those that may serve.
    pub method: Method,
    /// Seed of what is drawn.
    pub seed: u64,
    /// Members that come back get their share step by step.
    pub slow_start: Option<SlowStart>,
    /// When fewer members than this percentage are healthy and not ejected, all are used as if they
    /// were: better some failures than the whole load on a few. 0 switches it off.
    pub panic_percent: u32,
    /// When members of a later priority take part.
    pub spill: Spill,
    /// Whether a request may return to a member that it has tried when no other is left.
    pub again: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            method: Method::default(),
            seed: 1,
            slow_start: None,
            panic_percent: 0,
            spill: Spill::WhenNone,
            again: false,
        }
    }
}

/// The members of one cluster, as far as balancing is concerned.
#[derive(Debug, Clone)]
pub struct Members<K> {
    list: Vec<Member<K>>,
    settings: Settings,
    levels: Vec<Level>,
    /// The levels and their tables do not show the membership.
    stale: bool,
    /// Where the next search for the least loaded starts, so that equals are served in turn.
    turn: usize,
    dice: Dice,
}

impl<K> Default for Members<K> {
    fn default() -> Self {
        Members::new(Settings::default())
    }
}

impl<K> Members<K> {
    /// Nobody yet.
    pub fn new(settings: Settings) -> Members<K> {
        Members {
            list: Vec::new(),
            settings,
            levels: Vec::new(),
            stale: false,
            turn: 0,
            dice: Dice::new(settings.seed),
        }
    }

    /// Shares the requests by other rules from now on; what is in flight stays counted.
    pub fn set_settings(&mut self, settings: Settings) {
        self.dice = Dice::new(settings.seed);
        self.settings = settings;
        self.stale = true;
    }

    /// The rules in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The members in the order they joined.
    pub fn iter(&self) -> core::slice::Iter<'_, Member<K>> {
        self.list.iter()
    }

    /// The member at `index`, as returned by a pick under the same lock.
    pub fn at(&self, index: usize) -> &Member<K> {
        &self.list[index]
    }

    /// The member called `id`.
    pub fn find(&self, id: u64) -> Option<&Member<K>> {
        self.list.iter().find(|member| member.id == id)
    }

    /// Adds a member with nothing in flight. `id` names it in picks and outcomes and is never used
    /// again for another.
    pub fn join(&mut self, id: u64, key: K, terms: &Terms<'_>) {
        debug_assert!(self.find(id).is_none(), "two members have the same id");
        self.list.push(Member::new(id, key, terms));
        self.stale = true;
    }

    /// Removes a member, and returns it.
    pub fn leave(&mut self, id: u64) -> Option<Member<K>> {
        let index = self.list.iter().position(|member| member.id == id)?;
        if self.turn > index {
            self.turn -= 1;
        }
        self.stale = true;
        Some(self.list.remove(index))
    }

    /// Gives a member no new requests, or takes that back. False if there is no such member.
    pub fn set_draining(&mut self, id: u64, draining: bool) -> bool {
        self.change(id, |member| member.draining = draining)
    }

    /// Gives a member only requests that are bound to it (nginx's `drain`), or takes that back.
    pub fn set_bound_only(&mut self, id: u64, bound_only: bool) -> bool {
        self.change(id, |member| member.bound_only = bound_only)
    }

    /// Marks a member as switched off by its owner (nginx's `down`): its share of the hashing
    /// methods' space stays its own.
    pub fn set_down(&mut self, id: u64, down: bool) -> bool {
        self.change(id, |member| member.down = down)
    }

    /// Tells what active checks say of a member. One that recovers starts slowly, and what counted
    /// towards its `max_fails` is forgotten.
    pub fn set_healthy(&mut self, id: u64, healthy: bool, now_ns: u64) -> bool {
        self.change(id, |member| {
            if healthy && member.unhealthy {
                member.ramp_since_ns = Some(now_ns);
                member.forgive();
            }
            member.unhealthy = !healthy;
        })
    }

    /// Tells whether outlier detection has ejected a member. One that is restored starts slowly.
    pub fn set_ejected(&mut self, id: u64, ejected: bool, now_ns: u64) -> bool {
        self.change(id, |member| {
            if member.ejected && !ejected {
                member.ramp_since_ns = Some(now_ns);
            }
            member.ejected = ejected;
        })
    }

    /// Starts a member slowly from now on, as one that joined a busy cluster should be.
    pub fn ramp(&mut self, id: u64, now_ns: u64) -> bool {
        self.change(id, |member| member.ramp_since_ns = Some(now_ns))
    }

    /// Changes a member's weight.
    pub fn set_weight(&mut self, id: u64, weight: u32) -> bool {
        self.stale = true;
        self.change(id, |member| member.set_weight(weight))
    }

    /// Changes the most requests a member may have in flight; 0 is no bound.
    pub fn set_in_flight_max(&mut self, id: u64, in_flight_max: u32) -> bool {
        self.change(id, |member| member.set_in_flight_max(in_flight_max))
    }

    fn change(&mut self, id: u64, how: impl FnOnce(&mut Member<K>)) -> bool {
        let member = self.list.iter_mut().find(|member| member.id == id);
        member.map(how).is_some()
    }

    /// Tries that a request has, as nginx counts them: members that are not `down`.
    pub fn tries(&self) -> usize {
        self.list.iter().filter(|member| !member.down).count()
    }

    /// Members that could serve at once and that nothing is known against, and those that could
    /// serve at all.
    pub fn count_free(&self, now_ns: u64, reluctance: impl Fn(&K) -> Reluctance) -> (usize, usize) {
        let alone = self.list.len() == 1;
        let (mut free, mut able) = (0, 0);
        for member in &self.list {
            let failing = !alone && member.is_failing(now_ns);
            let out = member.down || member.draining || member.unhealthy || member.ejected;
            if out || failing {
                continue;
            }
            match reluctance(&member.key) {
                Reluctance::None => {
                    able += 1;
                    free += usize::from(!member.is_full());
                }
                Reluctance::Unless => able += 1,
                Reluctance::Never => {}
            }
        }
        (free, able)
    }

    /// Chooses a member for a request and counts the request. `reluctance` says what the caller
    /// knows of a member and this state does not.
    pub fn pick(
        &mut self,
        request: &Request<'_>,
        picking: &mut Picking,
        reluctance: impl Fn(&K) -> Reluctance,
    ) -> Pick {
        if self.stale {
            self.build_levels();
        }
        let seen = self.mark(request, picking, reluctance);
        if let Some(index) = self.pick_bound(request, picking) {
            return self.choose(index, request, picking);
        }
        if seen.open == 0 {
            let next = match (seen.reluctant, seen.tried) {
                (0, 0) => return if seen.full { Pick::Full } else { Pick::Nobody },
                (0, _) => Mark::Tried,
                _ => Mark::Reluctant,
            };
            for member in &mut self.list {
                if member.mark == next {
                    member.mark = Mark::Open;
                }
            }
        }
        if !picking.started {
            picking.level = self.first_level();
        }
        for level in self.levels_from(picking.level) {
            if self.open_in(level).next().is_none() {
                continue;
            }
            picking.level = level;
            if let Some(index) = self.pick_in(level, request, picking) {
                return self.choose(index, request, picking);
            }
        }
        if seen.full { Pick::Full } else { Pick::Nobody }
    }

    /// Gives a request back that says nothing about the member: it was taken back, or never sent.
    /// False if the member has left.
    pub fn release(&mut self, id: u64, picked_ns: u64) -> bool {
        self.change(id, |member| member.count_out(picked_ns))
    }

    /// Gives a request back and learns from how it went. False if the member has left.
    pub fn finish(&mut self, id: u64, outcome: &Outcome, now_ns: u64) -> bool {
        let alone = self.list.len() == 1;
        let measure = match self.settings.method {
            Method::LeastTime { measure, .. } => Some(measure),
            Method::PeakEwma => Some(Measure::Header),
            _ => None,
        };
        self.change(id, |member| {
            member.count_out(outcome.picked_ns);
            if !alone {
                member.note_passive(outcome.verdict, now_ns);
            }
            if let Some(measure) = measure {
                member.note_time(outcome, measure, now_ns);
            }
        })
    }

    fn choose(&mut self, index: usize, request: &Request<'_>, picking: &mut Picking) -> Pick {
        let alone = self.list.len() == 1;
        let member = &mut self.list[index];
        member.count_in(request.now_ns);
        if !alone {
            member.note_probe(request.now_ns);
        }
        picking.note_picked(member.id, request.now_ns);
        Pick::Chosen(index)
    }

    fn pick_in(
        &mut self,
        level: usize,
        request: &Request<'_>,
        picking: &mut Picking,
    ) -> Option<usize> {
        match self.settings.method {
            Method::LeastInFlight => self.pick_least_in_flight(level),
            Method::RoundRobin => self.pick_smooth(level),
            Method::LeastConn => self.pick_least_conn(level),
            Method::IpHash => self.pick_ip_hash(level, request, picking),
            Method::Hash => self.pick_hash(level, request, picking),
            Method::HashConsistent => self.pick_ring(level, request, picking),
            Method::Random => self.pick_random(level, picking),
            Method::RandomTwo => self.pick_random_two(level, picking),
            Method::PowerOfTwo => self.pick_power_of_two(level),
            Method::PeakEwma => self.pick_peak_ewma(level, request.now_ns),
            Method::Maglev => self.pick_maglev(level, request),
            Method::BoundedLoad { over_percent } => self.pick_bounded(level, request, over_percent),
            Method::FirstFit => self.open_in(level).next(),
            Method::LeastTime { in_flight, .. } => {
                self.pick_least_time(level, in_flight, request.now_ns)
            }
        }
    }
}

impl Method {
    /// How members that start slowly are kept back.
    fn ramp(self) -> Ramp {
        match self {
            Method::RoundRobin
            | Method::LeastConn
            | Method::Random
            | Method::RandomTwo
            | Method::FirstFit
            | Method::LeastTime { .. } => Ramp::Abstain,
            Method::LeastInFlight | Method::PowerOfTwo | Method::PeakEwma => Ramp::Lighten,
            Method::IpHash
            | Method::Hash
            | Method::HashConsistent
            | Method::Maglev
            | Method::BoundedLoad { .. } => Ramp::Ignore,
        }
    }
}

/// What slow start does to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ramp {
    /// It takes part in its share of the picks only, so that exact arithmetic stays exact.
    Abstain,
    /// It weighs less.
    Lighten,
    /// Nothing: a key's place is worth more.
    Ignore,
}

/// Who was found by marking.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    open: usize,
    reluctant: usize,
    tried: usize,
    full: bool,
}

/// Whole seconds, in which nginx counts its windows.
fn seconds(now_ns: u64) -> u64 {
    now_ns / 1_000_000_000
}

/// A duration in nanoseconds, as far as they go.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
