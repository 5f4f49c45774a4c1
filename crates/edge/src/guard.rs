//! What protects a cluster from more than it can do: its circuit breaker, its caps, and which
//! requests are refused when too many wait. The decisions are `policy`'s; here they get what they
//! decide by. Part of a cluster's state, under its lock.

use std::time::Duration;

use evener_config::Guard as Settings;
use evener_policy::breaker::{self, Admit, Breaker, Pass};
use evener_policy::gradient::Gradient;
use evener_policy::outlier::Observed;
use evener_policy::shed::{Decision, Importance, Load};

use crate::admission::Finished;

/// The guard of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    settings: Settings,
    breaker: Option<Breaker>,
    concurrency: Option<Gradient>,
    /// Requests that the endpoints have.
    in_flight: u32,
    dice: u64,
}

/// What waits, when a request comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue {
    pub(crate) length: usize,
    pub(crate) length_max: usize,
    /// When the one that has waited longest came; `None` if nobody waits.
    pub(crate) since_ns: Option<u64>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It goes on; the result of its try is to be recorded with this.
    Open(Option<Pass>),
    /// The breaker is open.
    Broken,
    /// Others are more important.
    Shed,
}

impl Guard {
    /// Works by other settings. What is in flight stays counted.
    pub(crate) fn set(&mut self, settings: Settings, seed: u64, now_ns: u64) {
        let now = Duration::from_nanos(now_ns);
        if self.settings.breaker != settings.breaker {
            self.breaker = settings.breaker.map(Breaker::new);
        }
        if self.settings.concurrency != settings.concurrency {
            self.concurrency = settings
                .concurrency
                .map(|settings| Gradient::new(settings, seed, now));
        }
        self.settings = settings;
        self.dice = seed;
    }

    /// A request asks for its first try, or for another one.
    pub(crate) fn enter(
        &mut self,
        importance: Importance,
        first: bool,
        queue: Queue,
        now_ns: u64,
    ) -> Entry {
        if first
            && let Some(shed) = self.settings.shed
            && importance != Importance::Critical
        {
            let load = self.load(queue, now_ns);
            let drawn = self.draw();
            if shed.decide(&load, importance, drawn) == Decision::Shed {
                return Entry::Shed;
            }
        }
        match self.breaker.as_mut() {
            None => Entry::Open(None),
            Some(breaker) => match breaker.admit(Duration::from_nanos(now_ns)) {
                Admit::Pass(pass) => Entry::Open(Some(pass)),
                Admit::Refuse { .. } => Entry::Broken,
            },
        }
    }

    /// Whether nothing speaks against asking for more than has to be: the breaker is closed.
    pub(crate) fn is_calm(&self) -> bool {
        let breaker = self.breaker.as_ref();
        breaker.is_none_or(|breaker| breaker.state() == breaker::State::Closed)
    }

    /// Asks for one more request in flight; if it may be, [`Guard::end`] must follow.
    pub(crate) fn begin(&mut self, importance: Importance, now_ns: u64) -> bool {
        let beyond = match self.settings.shed {
            Some(shed) if importance == Importance::Critical => shed.critical_slots,
            _ => 0,
        };
        let capped = |most: u32| self.in_flight >= most.saturating_add(beyond);
        if self.settings.requests_max.is_some_and(capped) {
            return false;
        }
        let now = Duration::from_nanos(now_ns);
        if let Some(gradient) = &mut self.concurrency
            && !gradient.admit_beyond(now, beyond)
        {
            return false;
        }
        self.in_flight += 1;
        true
    }

    /// A request is in flight that did not ask: it comes from another endpoint.
    pub(crate) fn begin_anyway(&mut self) {
        self.in_flight += 1;
    }

    /// Nothing came of [`Guard::begin`].
    pub(crate) fn undo(&mut self, now_ns: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(gradient) = &mut self.concurrency {
            gradient.finish(Duration::from_nanos(now_ns), None);
        }
    }

    /// A request is no longer in flight.
    pub(crate) fn end(&mut self, finished: &Finished, now_ns: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let answered = finished.head_ns > 0 && finished.observed == Some(Observed::Success);
        let took = Duration::from_nanos(finished.head_ns.saturating_sub(finished.picked_ns));
        if let Some(gradient) = &mut self.concurrency {
            gradient.finish(Duration::from_nanos(now_ns), answered.then_some(took));
        }
        if let Some(pass) = finished.pass {
            let outcome = match finished.observed {
                None => breaker::Outcome::Unknown,
                Some(Observed::Success) => breaker::Outcome::Succeeded(took),
                Some(Observed::ServerError(_) | Observed::Silence) => breaker::Outcome::Failed,
            };
            self.record(pass, outcome, now_ns);
        }
    }

    /// A request that passed the breaker was not tried.
    pub(crate) fn give_back(&mut self, pass: Pass, now_ns: u64) {
        self.record(pass, breaker::Outcome::Unknown, now_ns);
    }

    /// Whether the breaker lets requests pass, if there is one, and how many may be in flight.
    pub(crate) fn report(&self) -> (Option<breaker::State>, Option<u32>) {
        (
            self.breaker.as_ref().map(Breaker::state),
            self.concurrency.as_ref().map(Gradient::limit),
        )
    }

    fn record(&mut self, pass: Pass, outcome: breaker::Outcome, now_ns: u64) {
        if let Some(breaker) = &mut self.breaker {
            breaker.record(Duration::from_nanos(now_ns), pass, outcome);
        }
    }

    fn load(&self, queue: Queue, now_ns: u64) -> Load {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let waited_ns = queue
            .since_ns
            .map_or(0, |since_ns| now_ns.saturating_sub(since_ns));
        Load {
            in_flight: self.in_flight,
            in_flight_max: self.settings.requests_max.unwrap_or(0),
            queued: count(queue.length),
            queued_max: count(queue.length_max),
            waited_ms: u32::try_from(waited_ns / 1_000_000).unwrap_or(u32::MAX),
            waited_max_ms: self.settings.waited_max_ms,
        }
    }

    /// A random number (SplitMix64).
    fn draw(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut drawn = self.dice;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        drawn ^ (drawn >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Queue = Queue {
        length: 0,
        length_max: 100,
        since_ns: None,
    };
    const SECOND: u64 = 1_000_000_000;

    fn guard(settings: Settings) -> Guard {
        let mut guard = Guard::default();
        guard.set(settings, 1, 0);
        guard
    }

    fn finished(pass: Option<Pass>, observed: Option<Observed>) -> Finished {
        Finished {
            observed,
            pass,
            head_ns: 1,
            ..Finished::unjudged(0)
        }
    }

    #[test]
    fn caps_hold_and_what_is_critical_has_slots_of_its_own() {
        let mut guard = guard(Settings {
            requests_max: Some(2),
            shed: Some(evener_policy::shed::Settings {
                critical_slots: 1,
                ..Default::default()
            }),
            ..Settings::default()
        });
        let normal = Importance::Normal;
        assert!(guard.begin(normal, 0) && guard.begin(normal, 0) && !guard.begin(normal, 0));
        assert!(guard.begin(Importance::Critical, 0) && !guard.begin(Importance::Critical, 0));
        guard.end(&finished(None, None), 0);
        assert!(!guard.begin(normal, 0), "the critical one counts too");
        guard.end(&finished(None, None), 0);
        assert!(guard.begin(normal, 0));
    }

    #[test]
    fn a_long_queue_sheds_by_importance() {
        let mut guard = guard(Settings {
            shed: Some(evener_policy::shed::Settings::default()),
            waited_max_ms: 1000,
            ..Settings::default()
        });
        let queue = |length, since_ns| Queue {
            length,
            since_ns,
            ..EMPTY
        };
        let mut entered =
            |importance, queue| guard.enter(importance, true, queue, SECOND) == Entry::Open(None);
        assert!(entered(Importance::Low, queue(60, None)));
        assert!(!entered(Importance::Low, queue(95, None)));
        assert!(entered(Importance::Normal, queue(89, None)));
        assert!(
            !entered(Importance::Normal, queue(1, Some(0))),
            "it waits for too long"
        );
        assert!(entered(Importance::Critical, queue(100, Some(0))));
    }

    #[test]
    fn the_breaker_is_told_of_every_try() {
        let settings = breaker::Settings {
            consecutive_failures: Some(2),
            open: Duration::from_secs(1),
            ..breaker::Settings::default()
        };
        let mut guard = guard(Settings {
            breaker: Some(settings),
            ..Settings::default()
        });
        let mut attempt =
            |observed, now_ns| match guard.enter(Importance::Normal, true, EMPTY, now_ns) {
                Entry::Open(pass) => {
                    assert!(pass.is_some() && guard.begin(Importance::Normal, now_ns));
                    guard.end(&finished(pass, observed), now_ns);
                    true
                }
                _ => false,
            };
        assert!(attempt(Some(Observed::Silence), 0));
        assert!(attempt(None, 0), "it says nothing");
        assert!(attempt(Some(Observed::ServerError(500)), 0));
        assert!(!attempt(Some(Observed::Success), SECOND / 2));
        assert!(attempt(Some(Observed::Success), SECOND), "a probe");
        assert!(attempt(Some(Observed::Success), SECOND));
        assert_eq!(guard.report().0, Some(breaker::State::Closed));
    }
}
