//! The circuit breaker of a cluster or endpoint: closed, it lets requests pass and watches them;
//! open, it refuses them at once; half-open, it lets a few probes pass and believes those.
//!
//! What trips it: the share of failures, failures in a row, or the share of slow answers (which is
//! the same as a quantile of the latency above a bound, and exact). What is answered instead is
//! left to the caller.

use core::time::Duration;

/// Parts of the window, each forgotten as a whole.
const PARTS: usize = 10;

/// Settings of a breaker. What is `None` does not trip it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long a request counts.
    pub window: Duration,
    /// With fewer requests than this in the window, shares say nothing.
    pub requests_min: u32,
    /// Trips at this share of failures, in percent.
    pub error_percent: Option<u32>,
    /// Trips at so many failures in a row.
    pub consecutive_failures: Option<u32>,
    /// Trips when a quantile of the latency is above a bound.
    pub latency: Option<Latency>,
    /// How long it stays open at first; twice as long each time that probes fail.
    pub open: Duration,
    /// It never stays open for longer.
    pub open_max: Duration,
    /// Requests that probe a half-open breaker, all of which must succeed.
    pub probes: u32,
}

/// A bound on a quantile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Which quantile, in percent: 50 is the median.
    pub quantile_percent: u32,
    /// What it must not exceed.
    pub above: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            window: Duration::from_secs(10),
            requests_min: 20,
            error_percent: Some(50),
            consecutive_failures: None,
            latency: None,
            open: Duration::from_secs(10),
            open_max: Duration::from_secs(300),
            probes: 1,
        }
    }
}

/// Whether requests pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// They do.
    Closed,
    /// They do not, until then.
    Open {
        /// When it becomes half-open.
        until: Duration,
    },
    /// Probes do.
    HalfOpen,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// It passes; its result is to be recorded with this.
    Pass(Pass),
    /// It does not; worth another try after this time at the earliest.
    Refuse {
        /// Until probes may pass, or zero while they are under way.
        retry_after: Duration,
    },
}

/// Leave to pass, good for one [`Breaker::record`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// In which closed or half-open time it was given: later ones do not care for the result.
    era: u64,
}

/// How a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Well, in this time.
    Succeeded(Duration),
    /// Badly.
    Failed,
    /// It says nothing: the client went away, for example.
    Unknown,
}

/// One breaker.
#[derive(Debug, Clone)]
pub struct Breaker {
    settings: Settings,
    state: State,
    era: u64,
    parts: [Part; PARTS],
    /// The part that is being filled, counted from the beginning of time.
    part: u64,
    failures_in_row: u32,
    probes_out: u32,
    probes_passed: u32,
    /// Times that it opened since it was last closed.
    openings: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    requests: u32,
    failures: u32,
    slow: u32,
}

impl Breaker {
    /// A closed one.
    pub fn new(settings: Settings) -> Breaker {
        Breaker {
            settings,
            state: State::Closed,
            era: 0,
            parts: [Part::default(); PARTS],
            part: 0,
            failures_in_row: 0,
            probes_out: 0,
            probes_passed: 0,
            openings: 0,
        }
    }

    /// Whether requests pass, as of the last call.
    pub fn state(&self) -> State {
        self.state
    }

    /// Asks for a request to pass.
    pub fn admit(&mut self, now: Duration) -> Admit {
        if let State::Open { until } = self.state {
            if now < until {
                return Admit::Refuse {
                    retry_after: until - now,
                };
            }
            self.enter(State::HalfOpen);
        }
        if self.state == State::HalfOpen {
            if self.probes_out + self.probes_passed >= self.settings.probes.max(1) {
                return Admit::Refuse {
                    retry_after: Duration::ZERO,
                };
            }
            self.probes_out += 1;
        }
        Admit::Pass(Pass { era: self.era })
    }

    /// Takes the result of a request that passed. Returns the new state if it changed.
    pub fn record(&mut self, now: Duration, pass: Pass, outcome: Outcome) -> Option<State> {
        if pass.era != self.era {
            return None;
        }
        let before = self.state;
        match self.state {
            State::Closed => self.watch(now, outcome),
            State::HalfOpen => self.judge_probe(now, outcome),
            State::Open { .. } => {}
        }
        (self.state != before).then_some(self.state)
    }

    fn watch(&mut self, now: Duration, outcome: Outcome) {
        let settings = self.settings;
        let part = self.current_part(now);
        match outcome {
            Outcome::Unknown => return,
            Outcome::Failed => {
                part.requests += 1;
                part.failures += 1;
                self.failures_in_row += 1;
            }
            Outcome::Succeeded(took) => {
                part.requests += 1;
                if settings.latency.is_some_and(|latency| took > latency.above) {
                    part.slow += 1;
                }
                self.failures_in_row = 0;
            }
        }
        if self.is_tripped() {
            self.open(now);
        }
    }

    fn is_tripped(&self) -> bool {
        let settings = &self.settings;
        if settings
            .consecutive_failures
            .is_some_and(|most| self.failures_in_row >= most.max(1))
        {
            return true;
        }
        let sum = |of: fn(&Part) -> u32| {
            self.parts
                .iter()
                .map(|part| u64::from(of(part)))
                .sum::<u64>()
        };
        let requests = sum(|part| part.requests);
        if requests < u64::from(settings.requests_min.max(1)) {
            return false;
        }
        let failures = sum(|part| part.failures);
        let slow = sum(|part| part.slow);
        let answered = requests - failures;
        settings
            .error_percent
            .is_some_and(|percent| failures * 100 >= requests * u64::from(percent) && failures > 0)
            || settings.latency.is_some_and(|latency| {
                slow * 100 > answered * u64::from(100u32.saturating_sub(latency.quantile_percent))
            })
    }

    fn judge_probe(&mut self, now: Duration, outcome: Outcome) {
        self.probes_out = self.probes_out.saturating_sub(1);
        match outcome {
            Outcome::Unknown => {}
            Outcome::Failed => self.open(now),
            Outcome::Succeeded(_) => {
                self.probes_passed += 1;
                if self.probes_passed >= self.settings.probes.max(1) {
                    self.openings = 0;
                    self.enter(State::Closed);
                }
            }
        }
    }

    fn open(&mut self, now: Duration) {
        let factor = 1u32.checked_shl(self.openings).unwrap_or(u32::MAX);
        let long = self.settings.open.saturating_mul(factor);
        self.openings = self.openings.saturating_add(1);
        self.enter(State::Open {
            until: now + long.min(self.settings.open_max),
        });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.era += 1;
        self.parts = [Part::default(); PARTS];
        self.failures_in_row = 0;
        self.probes_out = 0;
        self.probes_passed = 0;
    }

    /// The part of the window that `now` falls in, those since the last one emptied.
    fn current_part(&mut self, now: Duration) -> &mut Part {
        let length = (self.settings.window / PARTS as u32).as_nanos().max(1);
        let number = u64::try_from(now.as_nanos() / length)
            .unwrap_or(u64::MAX)
            .max(self.part);
        for passed in 0..(number - self.part).min(PARTS as u64) {
            self.parts[((number - passed) % PARTS as u64) as usize] = Part::default();
        }
        self.part = number;
        &mut self.parts[(number % PARTS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Generator, seed};

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn pass(breaker: &mut Breaker, now: Duration) -> Pass {
        match breaker.admit(now) {
            Admit::Pass(pass) => pass,
            refused => panic!("{refused:?}"),
        }
    }

    fn send(breaker: &mut Breaker, now: Duration, outcome: Outcome) -> Option<State> {
        let pass = pass(breaker, now);
        breaker.record(now, pass, outcome)
    }

    const GOOD: Outcome = Outcome::Succeeded(Duration::from_millis(5));

    #[test]
    fn opens_at_the_share_of_failures_but_not_on_a_few_requests() {
        let mut breaker = Breaker::new(Settings::default());
        for _ in 0..9 {
            assert_eq!(send(&mut breaker, at(0), Outcome::Failed), None);
        }
        for _ in 0..10 {
            assert_eq!(send(&mut breaker, at(0), GOOD), None);
        }
        assert_eq!(send(&mut breaker, at(50), Outcome::Unknown), None);
        let open = State::Open { until: at(10_100) };
        assert_eq!(send(&mut breaker, at(100), Outcome::Failed), Some(open));
        let refused = Admit::Refuse {
            retry_after: at(10_000),
        };
        assert_eq!(breaker.admit(at(100)), refused);
    }

    #[test]
    fn what_is_long_ago_does_not_count() {
        let mut breaker = Breaker::new(Settings::default());
        for _ in 0..19 {
            send(&mut breaker, at(0), Outcome::Failed);
        }
        assert_eq!(send(&mut breaker, at(10_500), Outcome::Failed), None);
    }

    #[test]
    fn opens_on_failures_in_a_row_and_on_slowness() {
        let mut breaker = Breaker::new(Settings {
            consecutive_failures: Some(3),
            ..Settings::default()
        });
        for outcome in [
            Outcome::Failed,
            Outcome::Failed,
            GOOD,
            Outcome::Failed,
            Outcome::Failed,
        ] {
            assert_eq!(send(&mut breaker, at(0), outcome), None);
        }
        assert!(send(&mut breaker, at(0), Outcome::Failed).is_some());

        let mut breaker = Breaker::new(Settings {
            latency: Some(Latency {
                quantile_percent: 90,
                above: at(100),
            }),
            ..Settings::default()
        });
        for request in 0..100 {
            let took = if request % 10 == 9 { 101 } else { 100 };
            let state = send(&mut breaker, at(0), Outcome::Succeeded(at(took)));
            // Never more than one in ten: exactly the share that is allowed.
            assert_eq!(state, None, "{request}");
        }
        assert!(send(&mut breaker, at(0), Outcome::Succeeded(at(101))).is_some());
    }

    #[test]
    fn probes_decide_and_each_failure_doubles_the_wait() {
        let mut breaker = Breaker::new(Settings {
            consecutive_failures: Some(1),
            probes: 2,
            open: at(1_000),
            open_max: at(3_000),
            ..Settings::default()
        });
        let late = pass(&mut breaker, at(0));
        send(&mut breaker, at(0), Outcome::Failed);
        let mut now = at(1_000);
        for wait in [2_000, 3_000, 3_000] {
            let probe = pass(&mut breaker, now);
            assert_eq!(
                breaker.record(now, late, GOOD),
                None,
                "from before it opened"
            );
            let until = now + at(wait);
            assert_eq!(
                breaker.record(now, probe, Outcome::Failed),
                Some(State::Open { until })
            );
            now = until;
        }
        let first = pass(&mut breaker, now);
        let second = pass(&mut breaker, now);
        assert!(matches!(breaker.admit(now), Admit::Refuse { .. }));
        assert_eq!(breaker.record(now, first, Outcome::Unknown), None);
        let third = pass(&mut breaker, now);
        assert_eq!(breaker.record(now, second, GOOD), None);
        assert!(matches!(breaker.admit(now), Admit::Refuse { .. }));
        assert_eq!(breaker.record(now, third, GOOD), Some(State::Closed));
        let until = now + at(1_000);
        let opened = send(&mut breaker, now, Outcome::Failed);
        assert_eq!(opened, Some(State::Open { until }), "the wait begins anew");
    }

    #[test]
    fn it_never_sticks_and_never_lets_more_probes_pass_than_it_should() {
        let mut random = Generator::new(seed("it_never_sticks"));
        for _ in 0..200 {
            let probes = 1 + random.below(4) as u32;
            let mut breaker = Breaker::new(Settings {
                probes,
                requests_min: 5,
                consecutive_failures: (random.below(2) == 0).then_some(4),
                ..Settings::default()
            });
            let mut now = 0;
            let mut out = std::vec::Vec::new();
            for _ in 0..400 {
                now += random.below(2_000);
                if let Admit::Pass(pass) = breaker.admit(at(now)) {
                    out.push(pass);
                }
                let waiting = out.iter().filter(|pass| pass.era == breaker.era).count();
                if breaker.state() == State::HalfOpen {
                    assert!(waiting as u32 <= probes);
                }
                if random.below(2) == 0 && !out.is_empty() {
                    let pass = out.swap_remove(random.index(out.len()).unwrap());
                    let outcome =
                        [GOOD, Outcome::Failed, Outcome::Unknown][random.below(3) as usize];
                    breaker.record(at(now), pass, outcome);
                }
            }
            // Once all goes well, it closes.
            for pass in out {
                breaker.record(at(now), pass, GOOD);
            }
            for _ in 0..10 {
                now += 300_000;
                if let Admit::Pass(pass) = breaker.admit(at(now)) {
                    breaker.record(at(now), pass, GOOD);
                }
            }
            assert_eq!(breaker.state(), State::Closed);
        }
    }
}
