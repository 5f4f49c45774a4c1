//! One hold word: for how long a request has held its worker's event loop.
//!
//! The word is `sequence << 24 | milliseconds`. The worker writes it only if there is something to
//! tell, so for almost all requests the word is of an earlier one, and its sequence says so. Of the
//! sequence only the low 40 bits are there: a slot would have to see as many requests between two
//! reports as a busy one does in months.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

const TIME_BITS: u32 = 24;
const MILLIS_MAX: u64 = (1 << TIME_BITS) - 1;

/// One slot's word, in shared memory.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct HoldWord(AtomicU64);

impl HoldWord {
    pub(crate) fn report(&self, seq: u64, held: Duration) {
        let millis = u64::try_from(held.as_millis()).map_or(MILLIS_MAX, |ms| ms.min(MILLIS_MAX));
        self.0.store(seq << TIME_BITS | millis, Ordering::Release);
    }

    pub(crate) fn of(&self, seq: u64) -> Option<Duration> {
        let word = self.0.load(Ordering::Acquire);
        let is_its = word >> TIME_BITS == seq << TIME_BITS >> TIME_BITS;
        (is_its && seq > 0).then(|| Duration::from_millis(word & MILLIS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_of_one_request() {
        let word = HoldWord::default();
        assert_eq!(word.of(0), None);
        assert_eq!(word.of(1), None);
        word.report(7, Duration::from_millis(203));
        assert_eq!(word.of(7), Some(Duration::from_millis(203)));
        assert_eq!((word.of(6), word.of(8)), (None, None));
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        let word = HoldWord::default();
        word.report(u64::MAX, Duration::MAX);
        assert_eq!(word.of(u64::MAX), Some(Duration::from_millis(MILLIS_MAX)));
        word.report(1 << 40, Duration::from_micros(1999));
        assert_eq!(word.of(1 << 40), Some(Duration::from_millis(1)));
    }
}
