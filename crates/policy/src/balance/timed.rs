//! Methods that choose by how long answers take: nginx's `least_time`, and peak EWMA.

use super::member::Member;
use super::picking::{Outcome, Verdict};
use super::{Measure, Members, nanoseconds, seconds};

/// What an answer of a member costs that has given none yet.
const UNKNOWN_NS: f64 = 30_000_000.0;
/// What a failure costs: as much as an answer that took so long.
const PENALTY_NS: f64 = 5_000_000_000.0;
/// In this time the weight of an observation falls to 1/e.
const DECAY_NS: f64 = 10_000_000_000.0;

/// Averages above this count as this.
const LEAST_TIME_MAX_MS: u64 = 5_000;
/// Averages are compared in steps of this.
const LEAST_TIME_STEP_MS: u64 = 20;

/// How long a member takes to answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Times {
    /// When its requests in flight were picked, summed up.
    picked_sum_ns: u128,
    /// nginx's moving average; 0 is none.
    average_ms: u64,
    /// When the average was last renewed or halved, in seconds.
    aged_s: u64,
    /// Peak EWMA: the estimate as of `seen_ns`.
    peak_ns: f64,
    /// 0 if there is no estimate.
    seen_ns: u64,
}

impl Times {
    pub(super) fn count_in(&mut self, now_ns: u64) {
        self.picked_sum_ns += u128::from(now_ns);
    }

    pub(super) fn count_out(&mut self, picked_ns: u64) {
        self.picked_sum_ns = self.picked_sum_ns.saturating_sub(u128::from(picked_ns));
    }

    /// Peak EWMA's estimate, which sinks while nothing is seen, so that a slow member is tried
    /// again.
    fn peak_at(&self, now_ns: u64) -> f64 {
        if self.seen_ns == 0 {
            return UNKNOWN_NS;
        }
        let elapsed = now_ns.saturating_sub(self.seen_ns) as f64;
        self.peak_ns * libm::exp(-elapsed / DECAY_NS)
    }

    fn note_peak(&mut self, sample_ns: f64, now_ns: u64) {
        if self.seen_ns == 0 || sample_ns > self.peak_ns {
            self.peak_ns = sample_ns;
        } else {
            let elapsed = now_ns.saturating_sub(self.seen_ns) as f64;
            let kept = libm::exp(-elapsed / DECAY_NS);
            self.peak_ns = self.peak_ns * kept + sample_ns * (1.0 - kept);
        }
        self.seen_ns = now_ns.max(1);
    }

    fn note_average(&mut self, sample_ms: u64, now_ns: u64) {
        self.average_ms = if self.average_ms == 0 {
            sample_ms
        } else {
            // 0.5 + 0.05 of the sample + 0.95 of what was.
            (10 + sample_ms + 19 * self.average_ms) / 20
        };
        self.aged_s = seconds(now_ns);
    }
}

impl<K> Member<K> {
    pub(super) fn note_time(&mut self, outcome: &Outcome, measure: Measure, now_ns: u64) {
        if outcome.verdict == Verdict::Failed {
            let took = now_ns.saturating_sub(outcome.picked_ns) as f64;
            self.times.note_peak(took.max(PENALTY_NS), now_ns);
            return;
        }
        let measured = match measure {
            Measure::Header => outcome.header,
            Measure::LastByte => outcome.last_byte,
        };
        if let Some(took) = measured {
            let took_ns = nanoseconds(took);
            self.times.note_peak(took_ns as f64, now_ns);
            self.times.note_average(took_ns / 1_000_000, now_ns);
        }
    }

    /// nginx's score: the average in steps, for each request that it would then have.
    fn time_score(&mut self, in_flight: bool, now_ns: u64) -> u64 {
        let idle_s = seconds(now_ns).saturating_sub(self.times.aged_s);
        let step_s = self.fail_timeout_s() + 1;
        let halvings = idle_s / step_s;
        if halvings > 0 {
            let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
            self.times.average_ms = self.times.average_ms.checked_shr(halvings).unwrap_or(0);
            self.times.aged_s += u64::from(halvings) * step_s;
        }
        let mut time_ms = self.times.average_ms;
        if in_flight && self.in_flight > 0 {
            let count = u128::from(self.in_flight);
            let ages_ns = (u128::from(now_ns) * count).saturating_sub(self.times.picked_sum_ns);
            let age_ms = u64::try_from(ages_ns / count / 1_000_000).unwrap_or(u64::MAX);
            time_ms = time_ms.max(age_ms);
        }
        let stepped = if time_ms > LEAST_TIME_MAX_MS {
            LEAST_TIME_MAX_MS
        } else {
            time_ms.next_multiple_of(LEAST_TIME_STEP_MS)
        };
        stepped * (1 + u64::from(self.in_flight))
    }
}

impl<K> Members<K> {
    pub(super) fn pick_least_time(
        &mut self,
        level: usize,
        in_flight: bool,
        now_ns: u64,
    ) -> Option<usize> {
        for member in &mut self.list {
            member.score = member.time_score(in_flight, now_ns);
        }
        self.pick_least_scored(level)
    }

    pub(super) fn pick_peak_ewma(&mut self, level: usize, now_ns: u64) -> Option<usize> {
        let (first, second) = self.draw_two(level)?;
        let cost = |index: usize| {
            let member = &self.list[index];
            let requests = f64::from(member.in_flight) + 1.0;
            member.times.peak_at(now_ns) * requests / member.scaled as f64
        };
        Some(if cost(second) < cost(first) {
            second
        } else {
            first
        })
    }
}
