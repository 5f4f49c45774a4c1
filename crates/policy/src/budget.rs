//! How many retries a cluster bears: a share of its requests of late, and a few in any case. So a
//! cluster that is overloaded is not asked for twice as much (Envoy's and Finagle's retry budget).

use core::time::Duration;

/// Seconds that are looked back on.
const SECONDS: usize = 10;

/// Settings of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Retries for each hundred requests.
    pub percent: u32,
    /// Retries that are allowed each second however few requests there are.
    pub least_per_second: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            percent: 20,
            least_per_second: 3,
        }
    }
}

/// What was spent of late.
#[derive(Debug, Clone)]
pub struct Budget {
    settings: Settings,
    slots: [Slot; SECONDS],
    second: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    requests: u32,
    retries: u32,
}

impl Budget {
    /// Nothing is spent yet.
    pub fn new(settings: Settings) -> Budget {
        Budget {
            settings,
            slots: [Slot::default(); SECONDS],
            second: 0,
        }
    }

    /// Counts a request; not its retries.
    pub fn note_request(&mut self, now: Duration) {
        let slot = self.slot(now);
        slot.requests = slot.requests.saturating_add(1);
    }

    /// Whether one more retry is within the budget; if so it is spent.
    pub fn try_retry(&mut self, now: Duration) -> bool {
        let slot = *self.slot(now);
        let sum = |of: fn(&Slot) -> u32| {
            self.slots
                .iter()
                .map(|slot| u64::from(of(slot)))
                .sum::<u64>()
        };
        let earned = sum(|slot| slot.requests) * u64::from(self.settings.percent) / 100;
        let allowed =
            slot.retries < self.settings.least_per_second || sum(|slot| slot.retries) < earned;
        if allowed {
            self.slot(now).retries += 1;
        }
        allowed
    }

    /// The slot of this second, those since the last one emptied.
    fn slot(&mut self, now: Duration) -> &mut Slot {
        let second = now.as_secs().max(self.second);
        for passed in 0..(second - self.second).min(SECONDS as u64) {
            self.slots[((second - passed) % SECONDS as u64) as usize] = Slot::default();
        }
        self.second = second;
        &mut self.slots[(second % SECONDS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Generator, seed};

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_few_are_free_and_the_rest_must_be_earned() {
        let mut budget = Budget::new(Settings::default());
        let retries =
            |budget: &mut Budget, now| (0..1_000).filter(|_| budget.try_retry(now)).count();
        assert_eq!(retries(&mut budget, at(0)), 3);
        assert_eq!(retries(&mut budget, at(999)), 0);
        assert_eq!(retries(&mut budget, at(1_000)), 3, "each second");
        for _ in 0..100 {
            budget.note_request(at(2_000));
        }
        assert_eq!(
            retries(&mut budget, at(2_000)),
            14,
            "20, less the 6 of before"
        );
        assert_eq!(
            retries(&mut budget, at(60_000)),
            3,
            "what was earned is forgotten"
        );
    }

    #[test]
    fn retries_never_exceed_their_share_by_more_than_the_free_ones() {
        let mut random = Generator::new(seed("retries_never_exceed_their_share"));
        let settings = Settings::default();
        for _ in 0..50 {
            let mut budget = Budget::new(settings);
            let (mut now, mut requests, mut retries) = (0, 0u64, 0u64);
            for _ in 0..3_000 {
                now += random.below(20);
                if random.below(3) == 0 {
                    budget.note_request(at(now));
                    requests += 1;
                } else if budget.try_retry(at(now)) {
                    retries += 1;
                }
            }
            let seconds = now / 1_000 + 1;
            // What is earned may be spent while it is remembered, which is ten times over at worst
            // only if nothing of what was spent were: it is counted just as long.
            let most = requests * u64::from(settings.percent) / 100 * 2
                + seconds * u64::from(settings.least_per_second);
            assert!(retries <= most, "{retries} of {requests} in {seconds} s");
        }
    }
}
