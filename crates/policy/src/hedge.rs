//! Hedging: a request that has no answer after a while is sent to another endpoint as well, and the
//! first answer counts (Dean and Barroso, "The Tail at Scale", 2013). What it costs is bounded:
//! hedges of one request are counted here, those of all requests by [`crate::budget`].
//!
//! How long to wait is said, or it is a quantile of the times until an answer began. An attempt that
//! was outrun would have taken longer than it was given: it counts with the time it had, which is
//! at least the quantile of then. Were it left out, the quantile would sink from hedge to hedge.

use core::time::Duration;

/// Settings of a cluster's hedges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// When to send one.
    pub delay: Delay,
    /// Hedges of one request.
    pub most: u32,
}

/// How long an answer is waited for before another endpoint is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// So long.
    After(Duration),
    /// As long as this percentage of the answers of late took, once enough is known.
    Quantile {
        /// In percent, below 100.
        percent: u32,
        /// At least so long, however quick answers are.
        least: Duration,
    },
}

/// What decides whether a request may be in two places at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Its method only reads (RFC 9110, 9.2.1).
    pub safe: bool,
    /// It has no body.
    pub bodiless: bool,
    /// It asks for another protocol, which only one endpoint can speak.
    pub upgrade: bool,
    /// It belongs to one endpoint.
    pub bound: bool,
}

impl Asked {
    /// Whether it may be hedged.
    pub fn may_hedge(&self) -> bool {
        self.safe && self.bodiless && !self.upgrade && !self.bound
    }
}

/// When the hedges of one request are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    delay: Duration,
    left: u32,
    next: Option<Duration>,
}

impl Plan {
    /// The first attempt begins now.
    pub fn begin(settings: &Settings, delay: Duration, now: Duration) -> Plan {
        let mut plan = Plan {
            delay,
            left: settings.most,
            next: None,
        };
        plan.restart(now);
        plan
    }

    /// An attempt begins that takes the place of a failed one: it is given its time.
    pub fn restart(&mut self, now: Duration) {
        self.next = (self.left > 0).then(|| now.saturating_add(self.delay));
    }

    /// When the next hedge is due, if there is to be one.
    pub fn next(&self) -> Option<Duration> {
        self.next
    }

    /// Whether a hedge is due.
    pub fn is_due(&self, now: Duration) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    /// A hedge was sent.
    pub fn sent(&mut self, now: Duration) {
        self.left = self.left.saturating_sub(1);
        self.restart(now);
    }

    /// None can be sent: the budget is spent, or nobody else is there. It is left at that.
    pub fn give_up(&mut self) {
        self.left = 0;
        self.next = None;
    }
}

/// Parts of each doubling of a time: what is read is at most a thirty-second above the truth.
const PARTS: usize = 32;
/// From one microsecond to more than an hour.
const BUCKETS: usize = 32 * PARTS;
/// How long a time is looked back on, at least; at most twice as long.
const WINDOW: Duration = Duration::from_secs(30);
/// With fewer times than this, none is a quantile.
const TIMES_MIN: u32 = 100;
/// How often the quantile is worked out.
const FRESH: Duration = Duration::from_millis(100);

/// How long answers took of late.
#[derive(Debug, Clone)]
pub struct Latencies {
    percent: u32,
    now: Window,
    before: Window,
    began: Duration,
    known: Option<Duration>,
    known_until: Duration,
}

#[derive(Debug, Clone)]
struct Window {
    counts: [u32; BUCKETS],
    sum: u32,
}

impl Window {
    const EMPTY: Window = Window {
        counts: [0; BUCKETS],
        sum: 0,
    };
}

impl Latencies {
    /// Nothing is known yet of this quantile, in percent.
    pub fn new(percent: u32) -> Latencies {
        Latencies {
            percent: percent.min(100),
            now: Window::EMPTY,
            before: Window::EMPTY,
            began: Duration::ZERO,
            known: None,
            known_until: Duration::ZERO,
        }
    }

    /// An answer took so long, or an attempt was given up after so long because of another's.
    pub fn record(&mut self, now: Duration, took: Duration) {
        self.turn(now);
        let count = &mut self.now.counts[bucket(took)];
        *count = count.saturating_add(1);
        self.now.sum = self.now.sum.saturating_add(1);
    }

    /// The quantile, if enough is known.
    pub fn quantile(&mut self, now: Duration) -> Option<Duration> {
        self.turn(now);
        if now >= self.known_until {
            self.known_until = now.saturating_add(FRESH);
            self.known = self.work_out();
        }
        self.known
    }

    fn work_out(&self) -> Option<Duration> {
        let sum = u64::from(self.now.sum) + u64::from(self.before.sum);
        if sum < u64::from(TIMES_MIN) {
            return None;
        }
        let rank = (sum * u64::from(self.percent)).div_ceil(100).max(1);
        let mut seen = 0;
        let both = self.now.counts.iter().zip(&self.before.counts);
        for (index, (one, other)) in both.enumerate() {
            seen += u64::from(*one) + u64::from(*other);
            if seen >= rank {
                return Some(upper_end(index));
            }
        }
        None
    }

    /// Forgets what is too long ago.
    fn turn(&mut self, now: Duration) {
        let age = now.saturating_sub(self.began);
        if age < WINDOW {
            return;
        }
        self.before = match age < WINDOW * 2 {
            true => core::mem::replace(&mut self.now, Window::EMPTY),
            false => Window::EMPTY,
        };
        self.now = Window::EMPTY;
        self.began = now;
    }
}

/// Which bucket a time falls into: the first microseconds have one each, then each doubling has as
/// many together.
fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let parts = PARTS as u64;
    if micros < parts {
        return micros as usize;
    }
    let doubling = micros.ilog2() - parts.ilog2();
    let part = (micros >> doubling) as usize - PARTS;
    ((doubling as usize + 1) * PARTS + part).min(BUCKETS - 1)
}

/// The longest time of a bucket, and a little more.
fn upper_end(bucket: usize) -> Duration {
    let (row, part) = (bucket / PARTS, bucket % PARTS);
    let micros = match row {
        0 => part as u64 + 1,
        row => ((PARTS + part + 1) as u64) << (row - 1),
    };
    Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::testing::{Generator, seed};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn only_what_reads_and_belongs_nowhere_is_hedged() {
        let asked = Asked {
            safe: true,
            bodiless: true,
            upgrade: false,
            bound: false,
        };
        assert!(asked.may_hedge());
        assert!(
            !Asked {
                safe: false,
                ..asked
            }
            .may_hedge()
        );
        assert!(
            !Asked {
                bodiless: false,
                ..asked
            }
            .may_hedge()
        );
        assert!(
            !Asked {
                upgrade: true,
                ..asked
            }
            .may_hedge()
        );
        assert!(
            !Asked {
                bound: true,
                ..asked
            }
            .may_hedge()
        );
    }

    #[test]
    fn hedges_come_one_after_the_other_and_never_too_many() {
        let mut random = Generator::new(seed("hedges_come_one_after_the_other"));
        for _ in 0..2_000 {
            let most = random.below(5) as u32;
            let delay = ms(random.below(50));
            let settings = Settings {
                delay: Delay::After(delay),
                most,
            };
            let mut now = ms(random.below(1_000));
            let mut plan = Plan::begin(&settings, delay, now);
            let (mut sent, mut last, mut gave_up) = (0, now, false);
            for _ in 0..40 {
                now += ms(random.below(20));
                assert_eq!(
                    plan.is_due(now),
                    plan.next().is_some_and(|next| next <= now)
                );
                match random.below(12) {
                    0 => {
                        plan.restart(now);
                        last = now;
                    }
                    1 if plan.is_due(now) => {
                        plan.give_up();
                        gave_up = true;
                    }
                    _ if plan.is_due(now) => {
                        assert!(now - last >= delay, "each attempt is given its time");
                        assert!(!gave_up);
                        plan.sent(now);
                        sent += 1;
                        last = now;
                    }
                    _ => {}
                }
                assert!(sent <= most);
                assert_eq!(plan.next().is_none(), sent == most || gave_up);
            }
        }
    }

    #[test]
    fn a_quantile_is_never_too_short_and_hardly_too_long() {
        let mut random = Generator::new(seed("a_quantile_is_never_too_short"));
        for _ in 0..200 {
            let percent = 1 + random.below(99) as u32;
            let mut latencies = Latencies::new(percent);
            let scale = 10 + random.below(5_000_000);
            let mut all: Vec<u64> = Vec::new();
            for _ in 0..100 + random.below(400) {
                let took = random.below(scale);
                all.push(took);
                latencies.record(ms(1), Duration::from_micros(took));
            }
            all.sort_unstable();
            let rank = (all.len() * percent as usize).div_ceil(100);
            let exact = all[rank - 1];
            let found = latencies
                .quantile(ms(2))
                .expect("enough is known")
                .as_micros() as u64;
            assert!(found > exact, "{found} {exact}");
            assert!(found <= exact + exact / 32 + 1, "{found} {exact}");
        }
    }

    #[test]
    fn little_is_not_enough_and_old_times_are_forgotten() {
        let mut latencies = Latencies::new(50);
        for _ in 0..99 {
            latencies.record(ms(0), ms(100));
        }
        assert_eq!(latencies.quantile(ms(0)), None);
        latencies.record(ms(0), ms(100));
        assert_eq!(
            latencies.quantile(ms(50)),
            None,
            "it was worked out a moment ago"
        );
        assert!(
            latencies
                .quantile(ms(100))
                .is_some_and(|time| time >= ms(100))
        );
        // Half a minute later they still count, a minute later they do not.
        assert!(latencies.quantile(ms(31_000)).is_some());
        for _ in 0..300 {
            latencies.record(ms(32_000), ms(1));
        }
        assert!(
            latencies
                .quantile(ms(32_200))
                .is_some_and(|time| time < ms(2))
        );
        assert_eq!(latencies.quantile(ms(200_000)), None);
        let longest = Duration::from_secs(1 << 40);
        latencies.record(ms(200_000), longest);
        assert_eq!(latencies.now.sum, 1, "however long");
    }

    #[test]
    fn hedging_does_not_make_itself_more_frequent() {
        let mut random = Generator::new(seed("hedging_does_not_make_itself"));
        let mut latencies = Latencies::new(90);
        let (mut hedged, mut requests) = (0u32, 0u32);
        for step in 0..60_000u64 {
            let now = ms(step);
            let draw = |random: &mut Generator| Duration::from_micros(random.below(100_000));
            let took = draw(&mut random);
            match latencies.quantile(now) {
                Some(delay) if took > delay => {
                    let other = draw(&mut random);
                    hedged += u32::from(step > 30_000);
                    if delay + other < took {
                        latencies.record(now, delay + other);
                        latencies.record(now, other);
                    } else {
                        latencies.record(now, took);
                    }
                }
                _ => latencies.record(now, took),
            }
            requests += u32::from(step > 30_000);
        }
        let percent = hedged * 100 / requests;
        assert!((4..=16).contains(&percent), "{percent} % instead of 10");
    }
}
