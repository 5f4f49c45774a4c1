//! Active checks of one endpoint: when the next one is due, and what the results make of it. How a
//! check is carried out is left to the caller; what passes is [`Expected`].

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::time::Duration;

/// When and how often checks are made, and how many count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// From the end of one check to the next.
    pub interval: Duration,
    /// Up to so much is added to each interval, so that many endpoints are not checked at once.
    pub jitter: Duration,
    /// The interval while the endpoint is unhealthy.
    pub interval_unhealthy: Duration,
    /// The interval while a change of state is under way; rises and falls are then soon known.
    pub interval_changing: Duration,
    /// Passed checks in a row after which it is healthy.
    pub rise: u32,
    /// Failed checks in a row after which it is not.
    pub fall: u32,
    /// It takes no requests until its first check has passed (nginx's `mandatory`).
    pub hold: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            interval: Duration::from_secs(5),
            jitter: Duration::ZERO,
            interval_unhealthy: Duration::from_secs(5),
            interval_changing: Duration::from_secs(5),
            rise: 1,
            fall: 1,
            hold: false,
        }
    }
}

/// What checks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing yet, and it is held back until they do.
    Checking,
    /// It takes requests.
    Healthy,
    /// It does not.
    Unhealthy,
}

impl State {
    /// Whether it takes requests.
    pub fn is_usable(self) -> bool {
        self == State::Healthy
    }
}

/// The checks of one endpoint.
#[derive(Debug, Clone)]
pub struct Checks {
    settings: Settings,
    state: State,
    /// Results in a row that speak against the state.
    against: u32,
    /// No result has come yet: the first one decides.
    fresh: bool,
    due: Duration,
    under_way: bool,
    dice: u64,
}

impl Checks {
    /// The first check is due at once if the endpoint is held back for it, else at a random time
    /// within an interval.
    pub fn new(settings: Settings, seed: u64, now: Duration) -> Checks {
        let mut checks = Checks {
            settings,
            state: if settings.hold {
                State::Checking
            } else {
                State::Healthy
            },
            against: 0,
            fresh: true,
            due: now,
            under_way: false,
            dice: seed,
        };
        if !settings.hold {
            checks.due = now + checks.draw(settings.interval);
        }
        checks
    }

    /// What the checks say so far.
    pub fn state(&self) -> State {
        self.state
    }

    /// When [`Checks::poll_check`] is worth asking; `None` while a check is under way.
    pub fn next_deadline(&self) -> Option<Duration> {
        (!self.under_way).then_some(self.due)
    }

    /// Whether a check is to be made now; its result must follow.
    pub fn poll_check(&mut self, now: Duration) -> bool {
        if self.under_way || now < self.due {
            return false;
        }
        self.under_way = true;
        true
    }

    /// Makes the next check due at once: something else says that the endpoint has changed.
    pub fn hasten(&mut self, now: Duration) {
        self.due = self.due.min(now);
    }

    /// Takes a result. Returns the new state if it changed.
    pub fn handle_result(&mut self, now: Duration, passed: bool) -> Option<State> {
        self.under_way = false;
        let before = self.state;
        let agrees = match self.state {
            State::Healthy => passed,
            State::Unhealthy => !passed,
            State::Checking => false,
        };
        if agrees {
            self.against = 0;
        } else {
            self.against += 1;
            let enough = if passed {
                self.settings.rise.max(1)
            } else {
                self.settings.fall.max(1)
            };
            let first = self.fresh && self.state == State::Checking;
            if first || self.against >= enough {
                self.state = if passed {
                    State::Healthy
                } else {
                    State::Unhealthy
                };
                self.against = 0;
            }
        }
        self.fresh = false;
        let interval = if self.against > 0 {
            self.settings.interval_changing
        } else if self.state == State::Unhealthy {
            self.settings.interval_unhealthy
        } else {
            self.settings.interval
        };
        self.due = now + interval + self.draw(self.settings.jitter);
        (self.state != before).then_some(self.state)
    }

    /// A random time below `bound`.
    fn draw(&mut self, bound: Duration) -> Duration {
        // SplitMix64.
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut drawn = self.dice;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        drawn ^= drawn >> 31;
        let bound_ns = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(((u128::from(drawn) * u128::from(bound_ns)) >> 64) as u64)
    }
}

/// What an answer to an HTTP check must be. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its status lies in one of these.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// Header fields: name in small letters, and what its value must contain, if anything.
    pub headers: Vec<(String, Option<String>)>,
    /// What its body must contain.
    pub body: Option<String>,
}

impl Default for Expected {
    fn default() -> Self {
        Expected {
            statuses: alloc::vec![200..=399],
            headers: Vec::new(),
            body: None,
        }
    }
}

impl Expected {
    /// Whether an answer passes; else why not, in a few words.
    pub fn judge<'a>(
        &self,
        status: u16,
        headers: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
        body: &[u8],
    ) -> Result<(), Rejection<'_>> {
        if !self.statuses.iter().any(|range| range.contains(&status)) {
            return Err(Rejection::Status(status));
        }
        for (name, wanted) in &self.headers {
            let mut fields = headers.clone();
            let found = fields.any(|(field, value)| {
                field.eq_ignore_ascii_case(name)
                    && wanted
                        .as_ref()
                        .is_none_or(|wanted| contains(value, wanted.as_bytes()))
            });
            if !found {
                return Err(Rejection::Header(name));
            }
        }
        match &self.body {
            Some(wanted) if !contains(body, wanted.as_bytes()) => Err(Rejection::Body(wanted)),
            _ => Ok(()),
        }
    }
}

/// Why an answer does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection<'a> {
    /// This status is not expected.
    Status(u16),
    /// This header field is missing, or its value is another.
    Header(&'a str),
    /// This is not in the body.
    Body(&'a str),
}

impl core::fmt::Display for Rejection<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Rejection::Status(status) => write!(f, "it answered {status}"),
            Rejection::Header(name) => write!(f, "its answer lacks the expected `{name}`"),
            Rejection::Body(wanted) => write!(f, "its body does not contain `{wanted}`"),
        }
    }
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || text.windows(wanted.len()).any(|part| part == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Generator, seed};

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_that_is_held_serves_only_after_its_first_pass() {
        let settings = Settings {
            hold: true,
            rise: 3,
            fall: 2,
            interval_unhealthy: at(20_000),
            interval_changing: at(1_000),
            ..Settings::default()
        };
        let mut checks = Checks::new(settings, 1, at(0));
        assert_eq!(checks.state(), State::Checking);
        assert!(checks.poll_check(at(0)), "at once");
        assert!(!checks.poll_check(at(0)), "one at a time");
        assert_eq!(checks.next_deadline(), None);
        assert_eq!(checks.handle_result(at(10), true), Some(State::Healthy));
        assert_eq!(checks.next_deadline(), Some(at(5_010)));
        assert_eq!(checks.handle_result(at(5_010), false), None);
        assert_eq!(
            checks.next_deadline(),
            Some(at(6_010)),
            "sooner: is it falling?"
        );
        assert_eq!(
            checks.handle_result(at(6_010), false),
            Some(State::Unhealthy)
        );
        assert_eq!(checks.next_deadline(), Some(at(26_010)), "slower when down");
        assert_eq!(checks.handle_result(at(26_010), true), None);
        assert_eq!(checks.handle_result(at(27_010), true), None);
        assert_eq!(
            checks.handle_result(at(28_010), false),
            None,
            "not in a row"
        );
        for now in [29_000, 30_000] {
            assert_eq!(checks.handle_result(at(now), true), None);
        }
        assert_eq!(checks.handle_result(at(31_000), true), Some(State::Healthy));
    }

    #[test]
    fn one_that_is_not_held_serves_until_checks_say_otherwise() {
        let mut checks = Checks::new(Settings::default(), 7, at(0));
        assert!(checks.state().is_usable());
        let first = checks.next_deadline().unwrap();
        assert!(first < at(5_000));
        assert!(checks.poll_check(first));
        assert_eq!(checks.handle_result(first, false), Some(State::Unhealthy));
        checks.hasten(first);
        assert!(checks.poll_check(first));
    }

    #[test]
    fn state_changes_need_their_results_in_a_row_and_deadlines_are_kept() {
        let mut random = Generator::new(seed("state_changes_need_their_results_in_a_row"));
        for world in 0..200 {
            let settings = Settings {
                jitter: at(random.below(1_000)),
                rise: 1 + random.below(3) as u32,
                fall: 1 + random.below(3) as u32,
                hold: random.below(2) == 0,
                ..Settings::default()
            };
            let mut checks = Checks::new(settings, random.next(), at(0));
            let mut results = std::vec::Vec::new();
            for _ in 0..100 {
                let now = checks.next_deadline().unwrap();
                assert!(checks.poll_check(now));
                let passed = random.below(2) == 0;
                results.push(passed);
                let was = checks.state();
                let changed = checks.handle_result(now, passed);
                let wait = checks.next_deadline().unwrap() - now;
                assert!(wait >= at(5_000) && wait <= at(5_000) + settings.jitter);
                let needed = if passed { settings.rise } else { settings.fall } as usize;
                let alike = results.iter().rev().take_while(|r| **r == passed).count();
                if changed.is_some() {
                    assert!(alike >= needed || was == State::Checking, "world {world}");
                } else if alike >= needed {
                    assert_eq!(checks.state().is_usable(), passed, "world {world}");
                }
            }
        }
    }

    #[test]
    fn answers_are_judged_by_all_conditions() {
        let expected = Expected {
            statuses: alloc::vec![200..=299, 404..=404],
            headers: alloc::vec![
                ("content-type".into(), Some("json".into())),
                ("etag".into(), None)
            ],
            body: Some("\"up\"".into()),
        };
        let fields = [("Content-Type", &b"application/json"[..]), ("ETag", b"x")];
        let judge = |status, fields: &[(&'static str, &'static [u8])], body: &str| {
            expected.judge(status, fields.iter().copied(), body.as_bytes())
        };
        assert_eq!(judge(204, &fields, "is \"up\""), Ok(()));
        assert_eq!(judge(404, &fields, "\"up\""), Ok(()));
        assert_eq!(judge(302, &fields, "\"up\""), Err(Rejection::Status(302)));
        assert_eq!(
            judge(200, &fields[..1], "\"up\""),
            Err(Rejection::Header("etag"))
        );
        assert_eq!(judge(200, &fields, "down"), Err(Rejection::Body("\"up\"")));
    }
}
