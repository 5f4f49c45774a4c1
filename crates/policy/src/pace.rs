//! How eagerly a shard is to be run beside the workers on the same processors.
//!
//! A thread that sleeps little is run the moment it is woken, before whoever woke it has gone on.
//! For a quiet shard that is right: an answer leaves at once. A busy one is then woken for each
//! answer of a worker that has several, and both pay for the change every time; it does better to
//! let the worker finish and find all of them. Linux has this as a policy for threads, SCHED_BATCH
//! (sched(7)); it changes nothing while a processor is idle.

use core::time::Duration;

/// How often it is decided.
const WINDOW: Duration = Duration::from_millis(50);
/// From so many events in a window on a shard is busy: about 4,000 requests a second.
const BUSY: u32 = 400;
/// Below so many it is quiet again.
const QUIET: u32 = 200;

/// How a thread is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// At once when it is woken.
    #[default]
    Eager,
    /// When those who woke it have had their turn.
    Batch,
}

/// Watches how much a shard has to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pacer {
    pace: Pace,
    since: Duration,
    events: u32,
}

impl Pacer {
    /// Notes so many events; returns how to be run from now on, if that changes.
    pub fn note(&mut self, now: Duration, events: usize) -> Option<Pace> {
        self.events = self
            .events
            .saturating_add(u32::try_from(events).unwrap_or(u32::MAX));
        let elapsed = now.saturating_sub(self.since);
        if elapsed < WINDOW {
            return None;
        }
        // A window that has taken longer, because there was nothing to wake up for, counts as if
        // it had not.
        let windows = u32::try_from(elapsed.as_nanos() / WINDOW.as_nanos()).unwrap_or(u32::MAX);
        let events = self.events / windows.max(1);
        self.since = now;
        self.events = 0;
        let pace = match self.pace {
            Pace::Eager if events >= BUSY => Pace::Batch,
            Pace::Batch if events < QUIET => Pace::Eager,
            _ => return None,
        };
        self.pace = pace;
        Some(pace)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::testing::{Generator, seed};

    /// The paces of a shard that has so many events a second, in steps of `step`.
    fn paces(pacer: &mut Pacer, from: Duration, rate: u32, step: Duration) -> Vec<Pace> {
        let steps = Duration::from_secs(1).as_nanos() / step.as_nanos();
        let each = f64::from(rate) / steps as f64;
        let mut owed = 0.0;
        let mut seen = Vec::new();
        for number in 1..=u32::try_from(steps).expect("a second has fewer steps") {
            owed += each;
            let events = owed as usize;
            owed -= events as f64;
            seen.extend(pacer.note(from + step * number, events));
        }
        seen
    }

    #[test]
    fn a_busy_shard_lets_others_finish_and_a_quiet_one_does_not() {
        let mut pacer = Pacer::default();
        let (at, step) = (Duration::from_secs, Duration::from_micros(500));
        assert_eq!(paces(&mut pacer, at(0), 2_000, step), []);
        assert_eq!(paces(&mut pacer, at(1), 20_000, step), [Pace::Batch]);
        assert_eq!(paces(&mut pacer, at(2), 6_000, step), [], "in between");
        assert_eq!(paces(&mut pacer, at(3), 2_000, step), [Pace::Eager]);
        assert_eq!(paces(&mut pacer, at(4), 6_000, step), []);
    }

    #[test]
    fn one_burst_after_a_long_sleep_is_not_busy() {
        let mut pacer = Pacer::default();
        assert_eq!(pacer.note(Duration::from_secs(60), 300), None);
        let late = Duration::from_secs(90);
        assert_eq!(pacer.note(late, 5_000), None, "in half a minute");
    }

    #[test]
    fn it_changes_at_most_once_in_a_window() {
        let mut dice = Generator::new(seed("it_changes_at_most_once_in_a_window"));
        let (mut pacer, mut now, mut last) = (Pacer::default(), Duration::ZERO, None);
        for _ in 0..10_000 {
            now += Duration::from_micros(dice.below(5_000));
            let events = usize::try_from(dice.below(80)).expect("a small number");
            if pacer.note(now, events).is_some() {
                assert!(last.is_none_or(|last| now - last >= WINDOW));
                last = Some(now);
            }
        }
    }
}
