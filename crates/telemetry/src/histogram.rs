//! Latency histograms with log-linear buckets, as HdrHistogram has them: 32 buckets per power of
//! two of a microsecond, so a value is known to within 3.2 %, from 1 µs to about 38 hours.
//! Recording is one index computation and one store; nothing is allocated.

use std::time::Duration;

use crate::counters::Counter;

const SUB_BITS: u32 = 5;
const SUB: u64 = 1 << SUB_BITS;
const TOP_BIT: u32 = 37;
const BUCKETS: usize = ((TOP_BIT - SUB_BITS + 1) as usize + 1) * SUB as usize;

/// The bucket a value in microseconds falls into.
fn index(micros: u64) -> usize {
    let micros = micros.min((1 << (TOP_BIT + 1)) - 1);
    if micros < SUB {
        return usize::try_from(micros).expect("below 32");
    }
    let shift = 63 - micros.leading_zeros() - SUB_BITS;
    let within = (micros >> shift) - SUB;
    usize::try_from(u64::from(shift + 1) * SUB + within).expect("a bucket index is below 1100")
}

/// The smallest value, in microseconds, that lies above bucket `index`.
fn upper_bound(index: usize) -> u64 {
    let (row, within) = (index as u64 / SUB, index as u64 % SUB);
    if row == 0 {
        within + 1
    } else {
        (SUB + within + 1) << (row - 1)
    }
}

#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: Box<[Counter]>,
    sum_micros: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| Counter::default()).collect();
        Histogram {
            buckets,
            sum_micros: Counter::default(),
        }
    }
}

impl Histogram {
    pub(crate) fn record(&self, value: Duration) {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.buckets[index(micros)].add(1);
        self.sum_micros.add(micros);
    }

    pub(crate) fn add_to(&self, sum: &mut HistogramSnapshot) {
        for (to, from) in sum.buckets.iter_mut().zip(&self.buckets) {
            *to += from.value();
        }
        sum.sum_micros = sum.sum_micros.wrapping_add(self.sum_micros.value());
    }
}

/// The values recorded up to a moment.
#[derive(Debug, Clone)]
pub struct HistogramSnapshot {
    buckets: Vec<u64>,
    sum_micros: u64,
}

impl Default for HistogramSnapshot {
    fn default() -> Self {
        HistogramSnapshot {
            buckets: vec![0; BUCKETS],
            sum_micros: 0,
        }
    }
}

impl HistogramSnapshot {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all values.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros)
    }

    /// The value that a share `quantile` (0 to 1) of all values do not exceed, rounded up to the
    /// end of its bucket; `None` when nothing was recorded.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        #[expect(clippy::cast_precision_loss)]
        let rank = ((count as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += bucket;
            if seen >= rank {
                return Some(Duration::from_micros(upper_bound(index)));
            }
        }
        None
    }

    /// How many values are below `2^exponent` microseconds: exact, because every power of two is
    /// a bucket's edge.
    pub fn count_below_power(&self, exponent: u32) -> u64 {
        let end = index(1 << exponent.min(TOP_BIT));
        self.buckets[..end].iter().sum()
    }

    /// The values, each rounded up to the end of its bucket, and how often each was recorded.
    pub fn values(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let counted = self.buckets.iter().enumerate();
        counted
            .filter(|(_, count)| **count > 0)
            .map(|(index, count)| (Duration::from_micros(upper_bound(index)), *count))
    }

    pub(crate) fn since(&self, earlier: &HistogramSnapshot) -> HistogramSnapshot {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        HistogramSnapshot {
            buckets: pairs.map(|(now, then)| now.saturating_sub(*then)).collect(),
            sum_micros: self.sum_micros.wrapping_sub(earlier.sum_micros),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        assert_eq!(index(0), 0);
        assert_eq!(index(u64::MAX), BUCKETS - 1);
        let mut lower = 0;
        for bucket in 0..BUCKETS {
            let upper = upper_bound(bucket);
            assert_eq!(index(lower), bucket, "the first value of bucket {bucket}");
            assert_eq!(
                index(upper - 1),
                bucket,
                "the last value of bucket {bucket}"
            );
            assert!(
                (upper - lower) * SUB <= lower.max(SUB),
                "bucket {bucket} is at most 1/32 wide"
            );
            lower = upper;
        }
    }

    #[test]
    fn quantiles_are_right_to_within_a_bucket() {
        let histogram = Histogram::default();
        for millis in 1..=1000 {
            histogram.record(Duration::from_millis(millis));
        }
        let mut snapshot = HistogramSnapshot::default();
        assert_eq!(snapshot.quantile(0.5), None);
        histogram.add_to(&mut snapshot);
        assert_eq!(snapshot.count(), 1000);
        assert_eq!(snapshot.sum(), Duration::from_millis(500_500));
        for (quantile, exact) in [(0.0, 1.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let millis = snapshot.quantile(quantile).unwrap().as_secs_f64() * 1e3;
            assert!(
                millis > exact * 0.999 && millis < exact * 1.04,
                "{quantile}: {millis}"
            );
        }
        assert_eq!(snapshot.count_below_power(20), 1000);
        assert_eq!(
            snapshot.count_below_power(10),
            1,
            "1000 µs is below 1024 µs"
        );
        assert_eq!(snapshot.count_below_power(9), 0);
    }
}
