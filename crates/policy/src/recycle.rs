//! When a worker has done enough and is to be replaced: after some number of requests, at some
//! amount of memory, at some age. Replacing it, the new one ready before the old one drains, is
//! left to `rollout`.
//!
//! Each worker draws its own bounds within the jitter, so that workers that were started together
//! do not go together.

use core::time::Duration;

/// What a worker may do before it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Requests that it may be given.
    pub requests: Option<u64>,
    /// Up to so many more.
    pub requests_jitter: u64,
    /// Resident memory, in bytes.
    pub rss_bytes: Option<u64>,
    /// Time since its start.
    pub age: Option<Duration>,
    /// Up to so much more.
    pub age_jitter: Duration,
}

/// What one worker may do before it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    requests: Option<u64>,
    rss_bytes: Option<u64>,
    until: Option<Duration>,
    born: Duration,
}

/// What a worker has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Requests that it was given.
    pub requests: u64,
    /// Its resident memory, when that was looked at.
    pub rss_bytes: Option<u64>,
}

/// Why a worker is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It has had so many requests.
    Requests(u64),
    /// It holds so many bytes.
    Memory(u64),
    /// It is so old.
    Age(Duration),
}

impl Limits {
    /// Whether workers stay for ever.
    pub fn is_none(&self) -> bool {
        self.requests.is_none() && self.rss_bytes.is_none() && self.age.is_none()
    }

    /// What the worker born now may do; `seed` is its own.
    pub fn allowance(&self, born: Duration, seed: u64) -> Allowance {
        let requests = self
            .requests
            .map(|requests| requests.saturating_add(below(mix(seed), self.requests_jitter)));
        let jitter = u64::try_from(self.age_jitter.as_millis()).unwrap_or(u64::MAX - 1);
        let later = Duration::from_millis(below(mix(seed ^ 1), jitter));
        Allowance {
            requests,
            rss_bytes: self.rss_bytes,
            until: self
                .age
                .map(|age| born.saturating_add(age).saturating_add(later)),
            born,
        }
    }
}

impl Allowance {
    /// Takes note of what a worker holds that has done nothing yet. False when that is too much
    /// already: then memory is no reason to replace it, for its successor would hold as much.
    #[must_use]
    pub fn note_rest(&mut self, rss_bytes: u64) -> bool {
        let bearable = self.rss_bytes.is_none_or(|most| rss_bytes < most);
        if !bearable {
            self.rss_bytes = None;
        }
        bearable
    }

    /// Whether the worker has done enough, and of what.
    pub fn spent(&self, now: Duration, usage: Usage) -> Option<Reason> {
        if self.requests.is_some_and(|most| usage.requests >= most) {
            return Some(Reason::Requests(usage.requests));
        }
        if let (Some(most), Some(rss_bytes)) = (self.rss_bytes, usage.rss_bytes)
            && rss_bytes >= most
        {
            return Some(Reason::Memory(rss_bytes));
        }
        self.until
            .filter(|until| now >= *until)
            .map(|_| Reason::Age(now.saturating_sub(self.born)))
    }

    /// When it is too old, if ever.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.until
    }
}

/// A number from 0 to `most`.
fn below(random: u64, most: u64) -> u64 {
    match most.checked_add(1) {
        Some(bound) => random % bound,
        None => random,
    }
}

/// The first number of SplitMix64 (Steele, Lea, Flood 2014) from this seed.
fn mix(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::testing::seed;

    const BORN: Duration = Duration::from_secs(100);

    fn requests(requests: u64) -> Usage {
        Usage {
            requests,
            rss_bytes: None,
        }
    }

    #[test]
    fn without_limits_a_worker_stays() {
        let allowance = Limits::default().allowance(BORN, 1);
        assert!(Limits::default().is_none());
        let usage = Usage {
            requests: u64::MAX,
            rss_bytes: Some(u64::MAX),
        };
        assert_eq!(allowance.spent(Duration::from_secs(1 << 30), usage), None);
        assert_eq!(allowance.next_deadline(), None);
    }

    #[test]
    fn requests_are_spread_over_the_jitter_and_exact_without_one() {
        let seed = seed("recycle");
        let limits = Limits {
            requests: Some(200),
            requests_jitter: 40,
            ..Limits::default()
        };
        let mut drawn = [false; 41];
        for worker in 0..2000 {
            let allowance = limits.allowance(BORN, seed.wrapping_add(worker));
            assert_eq!(allowance.spent(BORN, requests(199)), None, "seed {seed}");
            let most = (200..=240).find(|n| allowance.spent(BORN, requests(*n)).is_some());
            let most = most.unwrap_or_else(|| panic!("seed {seed}: more than the jitter"));
            drawn[usize::try_from(most - 200).unwrap()] = true;
        }
        assert!(drawn.iter().all(|seen| *seen), "seed {seed}: {drawn:?}");
        let exact = Limits {
            requests_jitter: 0,
            ..limits
        };
        let allowance = exact.allowance(BORN, seed);
        assert_eq!(allowance.spent(BORN, requests(199)), None);
        assert_eq!(
            allowance.spent(BORN, requests(200)),
            Some(Reason::Requests(200))
        );
    }

    #[test]
    fn age_counts_from_birth_and_says_when_it_is_due() {
        let limits = Limits {
            age: Some(Duration::from_secs(60)),
            age_jitter: Duration::from_secs(10),
            ..Limits::default()
        };
        let mut due: Vec<Duration> = (0..100)
            .map(|seed| limits.allowance(BORN, seed).next_deadline().unwrap())
            .collect();
        due.sort();
        assert!(due[0] >= BORN + Duration::from_secs(60));
        assert!(due[99] <= BORN + Duration::from_secs(70));
        assert!(due[99] - due[0] > Duration::from_secs(8), "they spread");
        let allowance = limits.allowance(BORN, 7);
        let end = allowance.next_deadline().unwrap();
        let early = end - Duration::from_millis(1);
        assert_eq!(allowance.spent(early, requests(0)), None);
        let reason = Some(Reason::Age(end - BORN));
        assert_eq!(allowance.spent(end, requests(0)), reason);
    }

    #[test]
    fn memory_counts_unless_a_new_worker_holds_as_much() {
        let limits = Limits {
            rss_bytes: Some(1000),
            ..Limits::default()
        };
        let holds = |bytes| Usage {
            requests: 5,
            rss_bytes: Some(bytes),
        };
        let mut allowance = limits.allowance(BORN, 1);
        assert!(allowance.note_rest(900));
        assert_eq!(allowance.spent(BORN, holds(999)), None);
        assert_eq!(allowance.spent(BORN, requests(5)), None, "not looked at");
        let reason = Some(Reason::Memory(1000));
        assert_eq!(allowance.spent(BORN, holds(1000)), reason);
        let mut hopeless = limits.allowance(BORN, 1);
        assert!(!hopeless.note_rest(1000));
        assert_eq!(hopeless.spent(BORN, holds(5000)), None);
    }
}
