//! One claim word: the agreement on who owns a request that was sent but may not have started.
//!
//! The word is `sequence << 2 | state`. The sequence of a slot only grows, so whoever acts on an
//! old sequence (a stale connection, a worker that wakes up late) fails its compare-and-swap and
//! does nothing. The word is pure: it knows nothing of mappings, so the same code is driven by
//! the exhaustive interleaving test in `tests/interleavings.rs`.

use core::sync::atomic::{AtomicU64, Ordering};

/// The largest sequence a claim word can hold; at a million requests a second on one slot it
/// lasts for more than a hundred thousand years.
pub const CLAIM_SEQUENCE_MAX: u64 = u64::MAX >> 2;

/// What a slot says about the request with its current sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum ClaimState {
    /// Nothing was ever offered on the slot.
    Free = 0,
    /// The edge has sent the request, or is about to; the worker may start it.
    Offered = 1,
    /// The worker has started it, or is about to; it must not be sent anywhere else.
    Claimed = 2,
    /// The edge has taken it back; the worker must drop it.
    Revoked = 3,
}

impl ClaimState {
    fn of(word: u64) -> Self {
        match word & 3 {
            0 => ClaimState::Free,
            1 => ClaimState::Offered,
            2 => ClaimState::Claimed,
            _ => ClaimState::Revoked,
        }
    }
}

/// One slot's word, in shared memory.
#[derive(Debug)]
#[repr(transparent)]
pub struct ClaimWord(AtomicU64);

impl ClaimWord {
    /// A free word, sequence 0.
    #[must_use]
    pub const fn new() -> Self {
        ClaimWord(AtomicU64::new(0))
    }

    /// The edge offers request `seq`. To be called before the first byte of the request is sent,
    /// and only by the one connection that holds the slot, with a sequence above every earlier
    /// one.
    ///
    /// A plain store is enough: the worker compares against `Offered(seq)` only after it has read
    /// the request from the socket, and never writes a word it has not found in that state.
    ///
    /// # Panics
    /// In debug builds, if the sequence does not grow.
    pub fn offer(&self, seq: u64) {
        debug_assert!(
            seq <= CLAIM_SEQUENCE_MAX,
            "claim sequence {seq} out of range"
        );
        debug_assert!(
            self.0.load(Ordering::Relaxed) >> 2 < seq || self.0.load(Ordering::Relaxed) == 0,
            "a slot's sequence must grow: {seq} after {}",
            self.0.load(Ordering::Relaxed) >> 2
        );
        self.0
            .store(word(seq, ClaimState::Offered), Ordering::Release);
    }

    /// The edge takes request `seq` back. True: the worker has not started it and never will.
    /// False: it has been claimed (or the slot has moved on); the request must not be re-sent.
    #[must_use]
    pub fn take_back(&self, seq: u64) -> bool {
        self.swap(seq, ClaimState::Revoked)
    }

    /// The worker claims request `seq`, before it builds the scope. False: drop the request.
    #[must_use]
    pub fn claim(&self, seq: u64) -> bool {
        self.swap(seq, ClaimState::Claimed)
    }

    /// Whether request `seq` has been claimed by the worker.
    #[must_use]
    pub fn is_claimed(&self, seq: u64) -> bool {
        self.0.load(Ordering::Acquire) == word(seq, ClaimState::Claimed)
    }

    /// The sequence and state as they are now.
    #[must_use]
    pub fn load(&self) -> (u64, ClaimState) {
        let word = self.0.load(Ordering::Acquire);
        (word >> 2, ClaimState::of(word))
    }

    fn swap(&self, seq: u64, to: ClaimState) -> bool {
        self.0
            .compare_exchange(
                word(seq, ClaimState::Offered),
                word(seq, to),
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .is_ok()
    }
}

impl Default for ClaimWord {
    fn default() -> Self {
        Self::new()
    }
}

const fn word(seq: u64, state: ClaimState) -> u64 {
    seq << 2 | state as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_side_wins() {
        let claimed_first = ClaimWord::new();
        claimed_first.offer(1);
        assert!(claimed_first.claim(1));
        assert!(!claimed_first.take_back(1));
        assert!(claimed_first.is_claimed(1));

        let taken_first = ClaimWord::new();
        taken_first.offer(1);
        assert!(taken_first.take_back(1));
        assert!(!taken_first.claim(1));
        assert!(!taken_first.is_claimed(1));
    }

    #[test]
    fn old_and_future_sequences_never_match() {
        let word = ClaimWord::new();
        assert!(!word.claim(0), "a free slot cannot be claimed");
        assert!(!word.take_back(0));
        word.offer(7);
        assert!(!word.claim(6));
        assert!(!word.claim(8));
        assert!(!word.take_back(6));
        assert_eq!(word.load(), (7, ClaimState::Offered));
    }

    #[test]
    fn a_request_is_claimed_once() {
        let word = ClaimWord::new();
        word.offer(1);
        assert!(word.claim(1));
        assert!(!word.claim(1));
    }

    #[test]
    fn the_whole_range_of_sequences_fits() {
        let word = ClaimWord::new();
        word.offer(CLAIM_SEQUENCE_MAX);
        assert_eq!(word.load(), (CLAIM_SEQUENCE_MAX, ClaimState::Offered));
        assert!(word.claim(CLAIM_SEQUENCE_MAX));
    }
}
