//! Keeps one worker free of requests that hold its event loop.
//!
//! A request that computes, or waits without `await`, holds the loop of its worker, and whatever
//! else that worker has waits for it. When all workers have got such a request at once, everybody
//! waits. Which requests do this is learnt from what workers report, by *class*: the method and the
//! shape of the path. Requests of such a class then begin only while another worker stays free for
//! the rest; they wait for each other instead, for a few times as long as they take themselves.
//! That is Nygard's bulkhead (*Release It!*, 2007), with the parting of short and long work that
//! Harchol-Balter, Crovella and Murta (1999) found best when lengths differ this much.

use core::time::Duration;

/// A class whose requests hold the loop for less, on average, is not kept apart.
const HOLDS: Duration = Duration::from_millis(20);
/// Of a class that is not known yet, holds shorter than this are not remembered.
const REMEMBERED: Duration = Duration::from_millis(20);
/// A class whose average has fallen below this is forgotten.
const FORGOTTEN: Duration = Duration::from_millis(1);
/// The average moves by one part in so many with each request.
const MEMORY: u32 = 4;
/// How many classes are remembered: sets of `WAYS`, by the class's number.
const SETS: usize = 64;
const WAYS: usize = 4;

/// A request waits for so many times what its class holds a loop, and then begins wherever it can.
const PATIENCE: u32 = 4;
const PATIENCE_LEAST: Duration = Duration::from_millis(100);
const PATIENCE_MOST: Duration = Duration::from_secs(2);

/// The share of holding requests moves by one part in so many with each request.
const SHARE_MEMORY: u32 = 64;
const WHOLE: u32 = 1 << 16;

/// What requests are told apart by: their method, and the shape of their path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Class(u64);

impl Class {
    /// Of requests that are not told apart.
    pub const NONE: Class = Class(0);

    /// The class of a request for `target`, whose query does not count. A segment of the path with
    /// a digit in it is taken for an identifier: all such are alike.
    pub fn of(method: &[u8], target: &[u8]) -> Class {
        const PRIME: u64 = 0x0100_0000_01b3;
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        let mut whole = method
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| mix(hash, byte));
        let (mut segment, mut numbered) = (0, false);
        let path = target.iter().take_while(|&&byte| byte != b'?');
        for &byte in path.chain(b"/") {
            if byte == b'/' {
                let shape = if numbered { 1 } else { segment };
                whole = (whole.rotate_left(5) ^ shape).wrapping_mul(PRIME);
                (segment, numbered) = (0, false);
            } else {
                segment = mix(segment, byte);
                numbered |= byte.is_ascii_digit();
            }
        }
        Class(whole.max(1))
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    class: Class,
    mean_us: u32,
}

/// What is known of a cluster's requests.
#[derive(Debug, Clone)]
pub struct Bulkhead {
    known: [[Known; WAYS]; SETS],
    count: usize,
    /// Of the requests of late, how many hold a loop, in parts of `WHOLE`.
    share: u32,
}

impl Default for Bulkhead {
    fn default() -> Self {
        Bulkhead {
            known: [[Known::default(); WAYS]; SETS],
            count: 0,
            share: 0,
        }
    }
}

impl Bulkhead {
    /// Notes a request that has come, and says how long it will hold its worker's loop, if it is of
    /// a class that does.
    pub fn note(&mut self, class: Class) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let expected = self.expected(class);
        self.share -= self.share / SHARE_MEMORY;
        if expected.is_some() {
            self.share += WHOLE / SHARE_MEMORY;
        }
        expected
    }

    /// How long requests of a class hold their worker's loop, if they do.
    pub fn expected(&self, class: Class) -> Option<Duration> {
        let set = &self.known[set_of(class)];
        let known = set.iter().find(|known| known.class == class)?;
        let mean = Duration::from_micros(u64::from(known.mean_us));
        (class != Class::NONE && mean >= HOLDS).then_some(mean)
    }

    /// Learns for how long a request held its worker's loop at a stretch.
    pub fn learn(&mut self, class: Class, held: Duration) {
        if class == Class::NONE || (self.count == 0 && held < REMEMBERED) {
            return;
        }
        let held_us = u32::try_from(held.as_micros()).unwrap_or(u32::MAX);
        let set = &mut self.known[set_of(class)];
        if let Some(known) = set.iter_mut().find(|known| known.class == class) {
            known.mean_us = known.mean_us - known.mean_us / MEMORY + held_us / MEMORY;
            if Duration::from_micros(u64::from(known.mean_us)) < FORGOTTEN {
                *known = Known::default();
                self.count -= 1;
            }
        } else if held >= REMEMBERED {
            let least = set
                .iter_mut()
                .min_by_key(|known| known.mean_us)
                .expect("a set has ways");
            self.count += usize::from(least.class == Class::NONE);
            *least = Known {
                class,
                mean_us: held_us / MEMORY,
            };
        }
    }

    /// Whether some class is known that may hold loops.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a request that will hold a loop for `expected` may begin after it has `waited`,
    /// while `free` of `all` workers have no such request.
    pub fn lets_begin(
        &self,
        expected: Duration,
        waited: Duration,
        free: usize,
        all: usize,
    ) -> bool {
        let patience = (expected * PATIENCE).clamp(PATIENCE_LEAST, PATIENCE_MOST);
        let nobody_gains = all < 2 || self.share > WHOLE / 2;
        free >= 2 || waited >= patience || (nobody_gains && free >= 1)
    }
}

fn set_of(class: Class) -> usize {
    (class.0 >> 32) as usize % SETS
}

#[cfg(test)]
mod tests {
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;

    use super::*;
    use crate::testing::{Generator, seed};

    const SLOW: Duration = ms(200);
    const QUICK: Duration = Duration::from_micros(200);

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn class(target: &str) -> Class {
        Class::of(b"GET", target.as_bytes())
    }

    #[test]
    fn requests_are_told_apart_by_method_and_shape_of_path() {
        let report = class("/reports/17");
        assert_eq!(report, class("/reports/4711"), "identifiers are alike");
        assert_eq!(report, class("/reports/b3f-1?full=1"), "no query counts");
        let others = [
            Class::of(b"POST", b"/reports/17"),
            class("/reports"),
            class("/reports/"),
            class("/reports/all"),
            class("/reports/17/lines"),
            class("/17/reports"),
            class("/"),
            Class::NONE,
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(*other, report, "number {index}");
            assert!(others[..index].iter().all(|before| before != other));
        }
    }

    #[test]
    fn what_a_class_does_is_learnt_and_unlearnt() {
        let (slow, fast) = (class("/report"), class("/item"));
        let mut bulkhead = Bulkhead::default();
        assert_eq!(bulkhead.note(slow), None, "nothing is known yet");
        bulkhead.learn(fast, ms(1));
        bulkhead.learn(slow, SLOW);
        assert_eq!(bulkhead.note(slow), Some(ms(50)), "careful at first");
        for _ in 0..20 {
            bulkhead.learn(slow, SLOW);
            bulkhead.learn(fast, ms(1));
        }
        let expected = bulkhead.note(slow).expect("it is known by now");
        assert!(expected > ms(195) && expected <= SLOW, "{expected:?}");
        assert_eq!(bulkhead.note(fast), None);
        let rounds = (0..100).take_while(|_| {
            bulkhead.learn(slow, Duration::ZERO);
            bulkhead.expected(slow).is_some()
        });
        assert!(rounds.count() < 10, "it is quick to be believed again");
        while bulkhead.count > 0 {
            bulkhead.learn(slow, Duration::ZERO);
        }
        assert_eq!(bulkhead.note(slow), None);
    }

    #[test]
    fn one_accident_of_a_quick_class_changes_nothing_for_long() {
        let mut bulkhead = Bulkhead::default();
        bulkhead.learn(class("/item"), ms(60));
        assert_eq!(bulkhead.note(class("/item")), None);
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let mut bulkhead = Bulkhead::default();
        for number in 0..100_000_u32 {
            bulkhead.learn(
                Class(u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
                SLOW,
            );
        }
        assert!(bulkhead.count <= SETS * WAYS, "{}", bulkhead.count);
        bulkhead.learn(Class::NONE, SLOW);
        assert_eq!(bulkhead.note(Class::NONE), None);
    }

    #[test]
    fn one_worker_is_kept_free_while_others_gain_by_it() {
        let mut bulkhead = Bulkhead::default();
        let begins =
            |bulkhead: &Bulkhead, waited, free, all| bulkhead.lets_begin(SLOW, waited, free, all);
        assert!(begins(&bulkhead, ms(0), 2, 2));
        assert!(
            !begins(&bulkhead, ms(0), 1, 2),
            "the last one is for others"
        );
        assert!(!begins(&bulkhead, ms(799), 1, 2));
        assert!(begins(&bulkhead, ms(800), 1, 2), "patience has an end");
        assert!(begins(&bulkhead, ms(0), 1, 1), "there is nothing to keep");
        // When nearly all are like this, keeping one free would waste it.
        for _ in 0..40 {
            bulkhead.learn(class("/report"), SLOW);
        }
        for _ in 0..200 {
            bulkhead.note(class("/report"));
        }
        assert!(begins(&bulkhead, ms(0), 1, 2));
        assert!(!begins(&bulkhead, ms(0), 0, 2));
        for _ in 0..200 {
            bulkhead.note(class("/item"));
        }
        assert!(!begins(&bulkhead, ms(0), 1, 2));
    }

    /// Latencies of quick and slow requests, sorted, of a cluster that serves in the order of
    /// arrival, with or without a bulkhead.
    fn simulated(seed: u64, workers: usize, rate: u64, kept_apart: bool) -> [Vec<Duration>; 2] {
        let (quick, slow) = (class("/item"), class("/report"));
        let mut dice = Generator::new(seed);
        let mut bulkhead = Bulkhead::default();
        for _ in 0..20 {
            bulkhead.learn(slow, SLOW);
        }
        let mut busy: Vec<(Duration, bool)> = alloc::vec![(Duration::ZERO, false); workers];
        let mut lanes: [VecDeque<(Duration, bool)>; 2] = Default::default();
        let mut latencies: [Vec<Duration>; 2] = Default::default();
        let mean_us = 1_000_000 / rate;
        let (mut now, mut next, mut left) = (Duration::ZERO, Duration::ZERO, 8_000);
        while left > 0 || lanes.iter().any(|lane| !lane.is_empty()) {
            while left > 0 && next <= now {
                let is_slow = dice.below(50) == 0;
                bulkhead.note(if is_slow { slow } else { quick });
                lanes[usize::from(is_slow && kept_apart)].push_back((next, is_slow));
                let uniform = (dice.below(1_000_000) + 1) as f64 / 1_000_000.0;
                let gap = -libm::log(uniform) * mean_us as f64;
                next += Duration::from_micros(gap as u64 + 1);
                left -= 1;
            }
            for (until, holds) in &mut busy {
                *holds &= *until > now;
            }
            for (number, lane) in lanes.iter_mut().enumerate() {
                while let Some(&(came, is_slow)) = lane.front() {
                    let free = busy.iter().filter(|(_, holds)| !holds).count();
                    if number == 1 && !bulkhead.lets_begin(SLOW, now - came, free, workers) {
                        break;
                    }
                    let idle = busy.iter_mut().filter(|(until, _)| *until <= now);
                    let Some(worker) = idle.min_by_key(|(until, _)| *until) else {
                        break;
                    };
                    lane.pop_front();
                    *worker = (now + if is_slow { SLOW } else { QUICK }, is_slow);
                    latencies[usize::from(is_slow)].push(worker.0 - came);
                }
            }
            now += Duration::from_micros(100);
        }
        for of_kind in &mut latencies {
            of_kind.sort_unstable();
        }
        latencies
    }

    #[test]
    fn quick_requests_do_not_wait_for_slow_ones_and_those_wait_no_longer_than_they_are_patient() {
        let seed = seed("quick_requests_do_not_wait_for_slow_ones");
        for (workers, rate) in [(2, 120), (2, 160), (3, 400)] {
            let [mixed, _] = simulated(seed, workers, rate, false);
            let [quick, slow] = simulated(seed, workers, rate, true);
            let p99 = |sorted: &[Duration]| sorted[sorted.len() * 99 / 100];
            assert!(
                p99(&quick) * 10 < p99(&mixed),
                "{workers} workers at {rate}/s: {:?} and {:?}",
                p99(&quick),
                p99(&mixed)
            );
            let last = slow.last().expect("some were slow");
            assert!(*last < SLOW * (PATIENCE + 3), "{workers}, {rate}: {last:?}");
        }
    }
}
