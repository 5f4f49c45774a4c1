//! How soon a dead worker is replaced, and what a series of deaths means: backoff with jitter,
//! crash-loop detection, and giving up when no worker ever started. How many workers there
//! should be is left to `rollout`.
//!
//! Deaths of workers that were started before the last one that counted belong to the same
//! incident: four workers that fail together over one bug are one crash, not four.

use core::time::Duration;

/// Settings of the backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// A worker that was ready for this long was a sound one: its death is not held against its
    /// successor.
    pub stable_after: Duration,
    /// Delay before the second restart in a row (the first is immediate); doubles each time.
    pub delay_first: Duration,
    /// The delay never grows beyond this.
    pub delay_max: Duration,
    /// This many crashes in a row are a crash loop.
    pub loop_after: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        RestartPolicy {
            stable_after: Duration::from_secs(5),
            delay_first: Duration::from_millis(500),
            delay_max: Duration::from_secs(30),
            loop_after: 5,
        }
    }
}

/// How a worker died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// When its process was started.
    pub started: Duration,
    /// When it became ready, if it ever did.
    pub ready: Option<Duration>,
    /// By SIGKILL, which no application sends itself: once it had been ready, this says nothing
    /// against its successor.
    pub killed: bool,
}

/// What a death means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Replace it as soon as [`Restarts::starts_allowed`] says so; `delay` is how long that is.
    Restart {
        /// Time until the next start.
        delay: Duration,
    },
    /// As `Restart`, and from now on the series counts as a crash loop: said once per loop.
    CrashLoop {
        /// Time until the next start.
        delay: Duration,
    },
    /// No worker ever was ready and none is left that could be: the application cannot start.
    GiveUp,
}

/// Memory of the recent deaths.
#[derive(Debug, Clone)]
pub struct Restarts {
    policy: RestartPolicy,
    random: u64,
    streak: u32,
    last_crash: Option<Duration>,
    next_start: Duration,
    looping: bool,
    ever_ready: bool,
}

impl Restarts {
    /// No deaths yet. The seed is for the jitter.
    pub fn new(policy: RestartPolicy, seed: u64) -> Restarts {
        Restarts {
            policy,
            random: seed,
            streak: 0,
            last_crash: None,
            next_start: Duration::ZERO,
            looping: false,
            ever_ready: false,
        }
    }

    /// Whether a crash loop is going on.
    pub fn is_looping(&self) -> bool {
        self.looping
    }

    /// Whether any worker was ever ready.
    pub fn ever_ready(&self) -> bool {
        self.ever_ready
    }

    /// A worker has become ready.
    pub fn handle_ready(&mut self) {
        self.ever_ready = true;
    }

    /// A worker died that was not told to; `others_starting` counts the workers that may still
    /// become ready.
    pub fn handle_death(&mut self, now: Duration, death: Death, others_starting: usize) -> Verdict {
        if !self.ever_ready && others_starting == 0 {
            self.streak = self.streak.saturating_add(1);
            return Verdict::GiveUp;
        }
        let sound = death.ready.is_some_and(|ready| {
            death.killed || now.saturating_sub(ready) >= self.policy.stable_after
        });
        if sound || self.last_crash.is_some_and(|last| death.started < last) {
            return Verdict::Restart {
                delay: self.next_start.saturating_sub(now),
            };
        }
        self.streak = self.streak.saturating_add(1);
        self.last_crash = Some(now);
        let delay = self.delay();
        self.next_start = now + delay;
        if self.streak >= self.policy.loop_after && !self.looping {
            self.looping = true;
            return Verdict::CrashLoop { delay };
        }
        Verdict::Restart { delay }
    }

    /// Looks at the times at which the living workers became ready. True when that ends a crash
    /// loop: a worker started after the last crash has proved sound.
    pub fn observe(&mut self, now: Duration, ready: impl IntoIterator<Item = Duration>) -> bool {
        let Some(last_crash) = self.last_crash else {
            return false;
        };
        let sound = |since: Duration| {
            since >= last_crash && now.saturating_sub(since) >= self.policy.stable_after
        };
        if !ready.into_iter().any(sound) {
            return false;
        }
        self.streak = 0;
        self.last_crash = None;
        core::mem::take(&mut self.looping)
    }

    /// Somebody asked for new workers: what happened before is not held against them.
    pub fn forgive(&mut self) {
        self.streak = 0;
        self.last_crash = None;
        self.next_start = Duration::ZERO;
        self.looping = false;
    }

    /// How many workers may be started now, with `starting` of them on their way. During a crash
    /// loop one at a time tries; before any worker was ready nothing is retried.
    pub fn starts_allowed(&self, now: Duration, starting: usize) -> usize {
        if now < self.next_start || (!self.ever_ready && self.streak > 0) {
            0
        } else if self.looping {
            1_usize.saturating_sub(starting)
        } else {
            usize::MAX
        }
    }

    /// When the answer of [`Restarts::starts_allowed`] changes by itself.
    pub fn next_deadline(&self, now: Duration) -> Option<Duration> {
        (self.next_start > now).then_some(self.next_start)
    }

    /// The delay for the present streak, shortened at random by up to a half so that many
    /// supervisors do not act in step.
    fn delay(&mut self) -> Duration {
        let Some(doublings) = self.streak.checked_sub(2) else {
            return Duration::ZERO;
        };
        let full = self
            .policy
            .delay_first
            .saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX))
            .min(self.policy.delay_max);
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let share = u32::try_from((mixed ^ (mixed >> 31)) % 1024).unwrap_or(0);
        full / 2 + full / 2 * share / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn died(started: Duration, ready: Option<Duration>) -> Death {
        Death {
            started,
            ready,
            killed: false,
        }
    }

    fn running() -> Restarts {
        let mut restarts = Restarts::new(RestartPolicy::default(), 7);
        restarts.handle_ready();
        restarts
    }

    #[test]
    fn a_sound_worker_is_replaced_at_once() {
        let mut restarts = running();
        for round in 1..20 {
            let now = at(round * 10_000);
            let verdict = restarts.handle_death(now, died(now - at(6000), Some(now - at(5500))), 0);
            assert_eq!(
                verdict,
                Verdict::Restart {
                    delay: Duration::ZERO
                }
            );
            assert_eq!(restarts.starts_allowed(now, 0), usize::MAX);
        }
    }

    #[test]
    fn a_crash_loop_is_said_once_and_slows_down() {
        let mut restarts = running();
        let mut now = at(0);
        let mut loops = 0;
        let mut longest = Duration::ZERO;
        for crash in 1..=20 {
            let verdict = restarts.handle_death(now + at(100), died(now, None), 0);
            let delay = match verdict {
                Verdict::Restart { delay } => delay,
                Verdict::CrashLoop { delay } => {
                    loops += 1;
                    assert_eq!(crash, 5);
                    delay
                }
                Verdict::GiveUp => panic!("a worker was ready once"),
            };
            assert_eq!(delay.is_zero(), crash == 1);
            assert!(delay <= Duration::from_secs(30));
            longest = longest.max(delay);
            now += at(100);
            assert_eq!(restarts.starts_allowed(now, 0) == 0, crash != 1);
            now += delay;
            let allowed = restarts.starts_allowed(now, 0);
            assert_eq!(allowed, if crash < 5 { usize::MAX } else { 1 });
            assert_eq!(
                restarts.starts_allowed(now, 1).min(1),
                usize::from(crash < 5)
            );
        }
        assert_eq!(loops, 1);
        assert!(longest >= Duration::from_secs(15));
        assert!(
            !restarts.observe(now, [at(0)]),
            "ready before the crash proves nothing"
        );
        assert!(!restarts.observe(now + at(4999), [now]));
        assert!(restarts.observe(now + at(5000), [now]));
        assert!(!restarts.observe(now + at(5000), [now]), "said once");
        assert_eq!(restarts.starts_allowed(now + at(5000), 0), usize::MAX);
    }

    #[test]
    fn kills_from_outside_are_not_held_against_an_application() {
        let mut restarts = running();
        for kill in 1..20 {
            let death = Death {
                started: at(kill * 100),
                ready: Some(at(kill * 100 + 1)),
                killed: true,
            };
            let verdict = restarts.handle_death(at(kill * 100 + 2), death, 0);
            assert_eq!(
                verdict,
                Verdict::Restart {
                    delay: Duration::ZERO
                }
            );
        }
        let never_ready = Death {
            started: at(5000),
            ready: None,
            killed: true,
        };
        restarts.handle_death(at(5001), never_ready, 0);
        let never_ready = Death {
            started: at(5002),
            ready: None,
            killed: true,
        };
        let verdict = restarts.handle_death(at(5003), never_ready, 0);
        assert_ne!(
            verdict,
            Verdict::Restart {
                delay: Duration::ZERO
            }
        );
    }

    #[test]
    fn workers_that_die_together_are_one_incident() {
        let mut restarts = running();
        for worker in 0..8 {
            let verdict = restarts.handle_death(at(100 + worker), died(at(0), None), 0);
            assert_eq!(
                verdict,
                Verdict::Restart {
                    delay: Duration::ZERO
                }
            );
        }
    }

    #[test]
    fn an_application_that_never_starts_is_given_up() {
        let mut restarts = Restarts::new(RestartPolicy::default(), 7);
        assert_eq!(restarts.starts_allowed(at(0), 0), usize::MAX);
        assert!(matches!(
            restarts.handle_death(at(50), died(at(0), None), 1),
            Verdict::Restart { .. }
        ));
        assert_eq!(
            restarts.starts_allowed(at(60), 1),
            0,
            "the other one decides"
        );
        assert_eq!(
            restarts.handle_death(at(70), died(at(0), None), 0),
            Verdict::GiveUp
        );
        let mut restarts = Restarts::new(RestartPolicy::default(), 7);
        restarts.handle_death(at(50), died(at(0), None), 1);
        restarts.handle_ready();
        assert_eq!(restarts.starts_allowed(at(60), 0), usize::MAX);
    }
}
