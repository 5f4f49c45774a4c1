//! Adaptive concurrency: how many requests a cluster can have in flight before they only wait for
//! each other, found by comparing latency with what it is when next to nothing is in flight
//! (Envoy's gradient controller, after Netflix's concurrency-limits).

use alloc::vec::Vec;
use core::time::Duration;

/// Settings of the controller.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Which quantile of the latency is compared, in percent.
    pub quantile_percent: u32,
    /// The limit at first.
    pub limit_first: u32,
    /// It never grows beyond this.
    pub limit_max: u32,
    /// How often it is adjusted.
    pub update: Duration,
    /// How often the least latency is measured anew.
    pub calibrate: Duration,
    /// Up to this share of `calibrate` is added to it, in percent.
    pub jitter_percent: u32,
    /// Requests that are needed to measure the least latency.
    pub calibrate_requests: u32,
    /// The limit while it is measured.
    pub calibrate_limit: u32,
    /// Latency may exceed the least one by so much before the limit sinks, in percent.
    pub buffer_percent: u32,
}

impl Default for Settings {
    /// Envoy's.
    fn default() -> Self {
        Settings {
            quantile_percent: 50,
            limit_first: 3,
            limit_max: 1_000,
            update: Duration::from_millis(100),
            calibrate: Duration::from_secs(60),
            jitter_percent: 15,
            calibrate_requests: 50,
            calibrate_limit: 3,
            buffer_percent: 25,
        }
    }
}

/// Samples kept for one adjustment; the rest are thinned out evenly.
const SAMPLES_MAX: usize = 1_024;

/// The controller of one cluster.
#[derive(Debug, Clone)]
pub struct Gradient {
    settings: Settings,
    limit: u32,
    in_flight: u32,
    samples: Vec<u64>,
    seen: u64,
    least_ns: Option<u64>,
    calibrating: bool,
    /// When the limit is next adjusted, unless the least latency is being measured.
    update_at: Duration,
    calibrate_at: Duration,
    dice: u64,
}

impl Gradient {
    /// The first thing it does is to measure the least latency.
    pub fn new(settings: Settings, seed: u64, now: Duration) -> Gradient {
        Gradient {
            settings,
            limit: settings.limit_first.max(1),
            in_flight: 0,
            samples: Vec::with_capacity(SAMPLES_MAX),
            seen: 0,
            least_ns: None,
            calibrating: true,
            update_at: now + settings.update,
            calibrate_at: now,
            dice: seed,
        }
    }

    /// Requests that may be in flight.
    pub fn limit(&self) -> u32 {
        if self.calibrating {
            self.limit.min(self.settings.calibrate_limit.max(1))
        } else {
            self.limit
        }
    }

    /// Requests that are.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Asks for a request to pass; if it does, [`Gradient::finish`] must follow.
    pub fn admit(&mut self, now: Duration) -> bool {
        self.admit_beyond(now, 0)
    }

    /// As [`Gradient::admit`], with so many slots beyond the limit.
    pub fn admit_beyond(&mut self, now: Duration, beyond: u32) -> bool {
        self.adjust(now);
        if self.in_flight >= self.limit().saturating_add(beyond) {
            return false;
        }
        self.in_flight += 1;
        true
    }

    /// A request has ended, after this time if that says anything.
    pub fn finish(&mut self, now: Duration, took: Option<Duration>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(took) = took {
            self.sample(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
        self.adjust(now);
    }

    fn sample(&mut self, took_ns: u64) {
        self.seen += 1;
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(took_ns);
            return;
        }
        // Algorithm R: every sample is kept with the same chance.
        let place = self.draw(self.seen) as usize;
        if place < SAMPLES_MAX {
            self.samples[place] = took_ns;
        }
    }

    fn adjust(&mut self, now: Duration) {
        if self.calibrating {
            if self.seen >= u64::from(self.settings.calibrate_requests.max(1)) {
                self.least_ns = self.take_quantile();
                self.calibrating = false;
                self.update_at = now + self.settings.update;
                let jitter = self.settings.calibrate * self.settings.jitter_percent / 100;
                let jitter_ns = u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX);
                let added = Duration::from_nanos(self.draw(jitter_ns.max(1)));
                self.calibrate_at = now + self.settings.calibrate + added;
            }
            return;
        }
        if now >= self.calibrate_at {
            self.calibrating = true;
            self.samples.clear();
            self.seen = 0;
            return;
        }
        if now < self.update_at {
            return;
        }
        self.update_at = now + self.settings.update;
        if let (Some(least), Some(sampled)) = (self.least_ns, self.take_quantile()) {
            self.limit = self.next_limit(least, sampled);
        }
    }

    /// The gradient is how much quicker things could be; the square root is room to find out.
    fn next_limit(&self, least_ns: u64, sampled_ns: u64) -> u32 {
        let allowed = least_ns as f64 * (1.0 + f64::from(self.settings.buffer_percent) / 100.0);
        let gradient = (allowed / sampled_ns.max(1) as f64).clamp(0.5, 2.0);
        let limit = f64::from(self.limit) * gradient;
        let grown = limit + libm::sqrt(limit);
        (grown as u32).clamp(1, self.settings.limit_max.max(1))
    }

    fn take_quantile(&mut self) -> Option<u64> {
        let count = self.samples.len();
        if count == 0 {
            return None;
        }
        let place = (count - 1) * self.settings.quantile_percent.min(100) as usize / 100;
        let (_, value, _) = self.samples.select_nth_unstable(place);
        let value = *value;
        self.samples.clear();
        self.seen = 0;
        Some(value)
    }

    /// A random number below `bound` (SplitMix64).
    fn draw(&mut self, bound: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut drawn = self.dice;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        drawn ^= drawn >> 31;
        ((u128::from(drawn) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Generator, seed};

    /// A service that does `width` requests at once in 10 ms each, and queues the others, with as
    /// many clients as it lets in. Returns the limit after so many seconds.
    fn settle(width: u32, seconds: u64, seed: u64) -> (u32, u32) {
        let settings = Settings {
            calibrate: Duration::from_secs(600),
            ..Settings::default()
        };
        let mut gradient = Gradient::new(settings, seed, Duration::ZERO);
        let mut now_ms = 0;
        let mut most = 0;
        while now_ms < seconds * 1_000 {
            let now = Duration::from_millis(now_ms);
            let mut admitted = 0;
            while gradient.admit(now) {
                admitted += 1;
            }
            most = most.max(admitted);
            // All that were let in are done in rounds of `width`.
            for number in 0..admitted {
                let took = 10 * u64::from(1 + number / width);
                let took = Duration::from_millis(took);
                gradient.finish(now + took, Some(took));
            }
            assert_eq!(gradient.in_flight(), 0);
            now_ms += 10 * u64::from(1 + admitted / width);
        }
        (gradient.limit(), most)
    }

    #[test]
    fn the_limit_finds_what_the_service_can_do() {
        for width in [4, 20, 100] {
            let (limit, most) = settle(width, 60, u64::from(width));
            assert!(limit >= width, "{width}: {limit}");
            assert!(most <= width * 5 + 20, "{width}: {most}");
        }
    }

    #[test]
    fn an_idle_fast_service_is_not_held_back_for_ever() {
        let (limit, _) = settle(100_000, 60, 3);
        assert_eq!(limit, Settings::default().limit_max);
    }

    #[test]
    fn it_measures_the_least_latency_with_next_to_nothing_in_flight() {
        let mut gradient = Gradient::new(Settings::default(), 1, Duration::ZERO);
        let mut now = Duration::ZERO;
        let took = Duration::from_millis(10);
        let mut passes = 0;
        for _ in 0..200 {
            while gradient.admit(now) {
                passes += 1;
                if passes <= 50 {
                    assert!(gradient.in_flight() <= 3);
                }
            }
            now += took;
            while gradient.in_flight() > 0 {
                gradient.finish(now, Some(took));
            }
        }
        assert!(gradient.limit() > 3);
        now += Duration::from_secs(70);
        gradient.admit(now);
        assert!(gradient.limit() <= 3, "measured anew after a minute or so");
    }

    #[test]
    fn never_more_than_the_limit_nor_less_than_one() {
        let mut random = Generator::new(seed("never_more_than_the_limit_nor_less_than_one"));
        for _ in 0..50 {
            let mut gradient = Gradient::new(Settings::default(), random.next(), Duration::ZERO);
            let mut now = Duration::ZERO;
            for _ in 0..2_000 {
                now += Duration::from_millis(random.below(30));
                if random.below(2) == 0 {
                    let limit = gradient.limit();
                    if gradient.admit(now) {
                        assert!(gradient.in_flight() <= limit.max(gradient.limit()));
                    }
                } else if gradient.in_flight() > 0 {
                    let took = Duration::from_millis(1 + random.below(5_000));
                    gradient.finish(now, (random.below(5) > 0).then_some(took));
                }
                assert!((1..=1_000).contains(&gradient.limit()));
            }
        }
    }
}
