//! One member: its terms, what is known of it, and nginx's `max_fails` state machine.

use alloc::boxed::Box;
use core::time::Duration;

use super::picking::Verdict;
use super::timed::Times;
use super::{nanoseconds, seconds};

/// One part in so many is the unit of scaled weights.
pub(super) const SCALE: u64 = 1024;

/// On what terms a member joins.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Its name as the configuration has it (`host:port`, `unix:/path`): what the consistent
    /// hashing methods hash.
    pub server: &'a str,
    /// What requests that are bound to it carry.
    pub route: &'a [u8],
    /// Its share; at least 1.
    pub weight: u32,
    /// Members of a higher number serve when those of lower ones cannot.
    pub priority: u32,
    /// Serves only when no other can, of whatever priority.
    pub backup: bool,
    /// Switched off by its owner.
    pub down: bool,
    /// The most requests it may have in flight; 0 is no bound.
    pub in_flight_max: u32,
    /// Failures within `fail_timeout` after which it is left alone for as long; 0 switches it off.
    pub max_fails: u32,
    /// See `max_fails`; whole seconds count.
    pub fail_timeout: Duration,
}

impl Default for Terms<'_> {
    /// nginx's defaults.
    fn default() -> Self {
        Terms {
            server: "",
            route: &[],
            weight: 1,
            priority: 0,
            backup: false,
            down: false,
            in_flight_max: 0,
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
        }
    }
}

/// How a member that comes back gets its share step by step: `max(least, (t/window)^(1/aggression))`
/// of its weight, which is Envoy's formula.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// Until it has its whole share.
    pub window: Duration,
    /// 1 is linear; more is quicker at first.
    pub aggression: f64,
    /// The share it starts with, in percent.
    pub least_percent: u32,
}

impl Default for SlowStart {
    fn default() -> Self {
        SlowStart {
            window: Duration::from_secs(30),
            aggression: 1.0,
            least_percent: 10,
        }
    }
}

impl SlowStart {
    /// The share of its weight, of [`SCALE`], that a member has so long after it came back; `None`
    /// when it has all of it.
    fn share(&self, elapsed_ns: u64) -> Option<u64> {
        let window = nanoseconds(self.window);
        if elapsed_ns >= window {
            return None;
        }
        let time = elapsed_ns as f64 / window as f64;
        let grown = libm::pow(time, 1.0 / self.aggression.max(0.01));
        let share = grown.max(f64::from(self.least_percent.min(100)) / 100.0);
        Some(((share * SCALE as f64) as u64).clamp(1, SCALE))
    }
}

/// Who may serve the request that is being picked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mark {
    /// Not this one.
    #[default]
    Closed,
    /// Only if the request is bound to it.
    Bound,
    /// Only if no other can: the request has been to it.
    Tried,
    /// Only if no other can that it has not tried.
    Reluctant,
    /// This one may.
    Open,
}

/// One endpoint.
#[derive(Debug, Clone)]
pub struct Member<K> {
    /// Who it is to the caller.
    pub key: K,
    pub(super) id: u64,
    pub(super) server: Box<str>,
    pub(super) route: Box<[u8]>,
    pub(super) weight: u32,
    pub(super) priority: u32,
    pub(super) backup: bool,
    pub(super) in_flight: u32,
    pub(super) in_flight_max: u32,
    pub(super) down: bool,
    pub(super) draining: bool,
    pub(super) bound_only: bool,
    pub(super) unhealthy: bool,
    pub(super) ejected: bool,
    max_fails: u32,
    fail_timeout_s: u64,
    fails: u32,
    /// When it failed last, in seconds.
    accessed_s: u64,
    /// When it failed last or was first tried after its window, in seconds.
    checked_s: u64,
    /// nginx's effective weight: lowered by failures, recovering by picks.
    pub(super) effective: i64,
    /// nginx's current weight.
    pub(super) current: i64,
    pub(super) times: Times,
    pub(super) ramp_since_ns: Option<u64>,
    /// What a member that abstains from picks has saved up towards taking part.
    pub(super) credit: u64,
    /// Its place among the levels.
    pub(super) level: usize,
    /// The first member of its level with the same `server`.
    pub(super) twin: usize,
    // What follows is good for one pick.
    pub(super) mark: Mark,
    pub(super) score: u64,
    /// The weight in parts of [`SCALE`], less while it starts slowly.
    pub(super) scaled: u64,
}

impl<K> Member<K> {
    pub(super) fn new(id: u64, key: K, terms: &Terms<'_>) -> Member<K> {
        let weight = terms.weight.max(1);
        Member {
            key,
            id,
            server: terms.server.into(),
            route: terms.route.into(),
            weight,
            priority: terms.priority,
            backup: terms.backup,
            in_flight: 0,
            in_flight_max: bound(terms.in_flight_max),
            down: terms.down,
            draining: false,
            bound_only: false,
            unhealthy: false,
            ejected: false,
            max_fails: terms.max_fails,
            fail_timeout_s: terms.fail_timeout.as_secs(),
            fails: 0,
            accessed_s: 0,
            checked_s: 0,
            effective: i64::from(weight),
            current: 0,
            times: Times::default(),
            ramp_since_ns: None,
            credit: 0,
            level: 0,
            twin: 0,
            mark: Mark::Closed,
            score: 0,
            scaled: 0,
        }
    }

    /// Its name in picks and outcomes.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name as the configuration has it.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// What requests that are bound to it carry.
    pub fn route(&self) -> &[u8] {
        &self.route
    }

    /// Its share.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Requests it has in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The most requests it may have in flight; 0 is no bound.
    pub fn in_flight_max(&self) -> u32 {
        if self.in_flight_max == u32::MAX {
            0
        } else {
            self.in_flight_max
        }
    }

    /// Takes no new requests.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Switched off by its owner.
    pub fn is_down(&self) -> bool {
        self.down
    }

    /// Serves only when no other can.
    pub fn is_backup(&self) -> bool {
        self.backup
    }

    /// Failed its active checks.
    pub fn is_unhealthy(&self) -> bool {
        self.unhealthy
    }

    /// Ejected by outlier detection.
    pub fn is_ejected(&self) -> bool {
        self.ejected
    }

    /// Left alone because it reached `max_fails`.
    pub fn is_failing(&self, now_ns: u64) -> bool {
        self.max_fails > 0
            && self.fails >= self.max_fails
            && seconds(now_ns).saturating_sub(self.checked_s) <= self.fail_timeout_s
    }

    pub(super) fn fail_timeout_s(&self) -> u64 {
        self.fail_timeout_s
    }

    /// Failures that count towards `max_fails`.
    pub fn fails(&self) -> u32 {
        self.fails
    }

    pub(super) fn set_weight(&mut self, weight: u32) {
        self.weight = weight.max(1);
        self.effective = i64::from(self.weight);
    }

    pub(super) fn set_in_flight_max(&mut self, in_flight_max: u32) {
        self.in_flight_max = bound(in_flight_max);
    }

    pub(super) fn is_full(&self) -> bool {
        self.in_flight >= self.in_flight_max
    }

    pub(super) fn is_open(&self) -> bool {
        self.mark == Mark::Open
    }

    pub(super) fn count_in(&mut self, now_ns: u64) {
        self.in_flight += 1;
        self.times.count_in(now_ns);
    }

    pub(super) fn count_out(&mut self, picked_ns: u64) {
        debug_assert!(self.in_flight > 0, "a request was given back twice");
        self.in_flight = self.in_flight.saturating_sub(1);
        self.times.count_out(picked_ns);
    }

    /// The first pick after its window makes others wait for the result.
    pub(super) fn note_probe(&mut self, now_ns: u64) {
        let now_s = seconds(now_ns);
        if now_s.saturating_sub(self.checked_s) > self.fail_timeout_s {
            self.checked_s = now_s;
        }
    }

    /// Forgets its failures.
    pub(super) fn forgive(&mut self) {
        self.fails = 0;
        self.effective = i64::from(self.weight);
    }

    pub(super) fn note_passive(&mut self, verdict: Verdict, now_ns: u64) {
        let now_s = seconds(now_ns);
        match verdict {
            Verdict::Failed => {
                self.fails = self.fails.saturating_add(1);
                self.accessed_s = now_s;
                self.checked_s = now_s;
                let lost = self.weight.checked_div(self.max_fails).unwrap_or(0);
                self.effective = (self.effective - i64::from(lost)).max(0);
            }
            Verdict::Succeeded => {
                if self.accessed_s < self.checked_s {
                    if self.max_fails > 0 && self.fails >= self.max_fails {
                        self.ramp_since_ns = Some(now_ns);
                    }
                    self.fails = 0;
                }
            }
        }
    }

    /// Sets its weight for this pick, and says whether it takes its whole share.
    pub(super) fn scale(&mut self, slow_start: Option<&SlowStart>, now_ns: u64) -> Option<u64> {
        let weight = u64::from(self.weight);
        self.scaled = weight * SCALE;
        let since_ns = self.ramp_since_ns?;
        let share = slow_start.and_then(|s| s.share(now_ns.saturating_sub(since_ns)));
        match share {
            Some(share) => {
                self.scaled = weight * share;
                Some(share)
            }
            None => {
                self.ramp_since_ns = None;
                self.credit = 0;
                None
            }
        }
    }
}

fn bound(in_flight_max: u32) -> u32 {
    if in_flight_max == 0 {
        u32::MAX
    } else {
        in_flight_max
    }
}
