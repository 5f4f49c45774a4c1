//! Relief: one more worker at once when every loop stands still and requests wait, and one fewer
//! when that has not been needed for a while. This is the quickest part of scaling: it knows
//! nothing of load, only that nobody is left who could begin a request now. How many workers there
//! are otherwise is an argument, so that an autoscaler can decide it.

use core::time::Duration;

/// The workers at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Those that take requests.
    pub ready: usize,
    /// Of these, those whose loops stand still.
    pub stalled: usize,
    /// Those that are on their way.
    pub starting: usize,
    /// Whether requests wait that no worker has begun.
    pub waiting: bool,
    /// Workers that are wanted without relief.
    pub base: usize,
    /// The most that may be wanted with it.
    pub most: usize,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// One more is wanted.
    More,
    /// One fewer is wanted.
    Fewer,
}

/// Workers that are wanted beyond the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relief {
    calm: Duration,
    extra: usize,
    /// When an extra worker was last of use.
    useful: Duration,
}

impl Relief {
    /// No extra workers; one goes when it has been of no use for `calm`.
    pub fn new(calm: Duration) -> Relief {
        Relief {
            calm,
            extra: 0,
            useful: Duration::ZERO,
        }
    }

    /// From now on an extra worker goes when it has been of no use for so long.
    pub fn set_calm(&mut self, calm: Duration) {
        self.calm = calm;
    }

    /// Workers wanted beyond the base.
    pub fn extra(&self) -> usize {
        self.extra
    }

    /// Looks at the workers. One at a time is added: while one is on its way, for whatever
    /// reason, it is waited for.
    pub fn observe(&mut self, now: Duration, sight: Sight) -> Option<Change> {
        let room = sight.most.saturating_sub(sight.base);
        if self.extra > room {
            // The base has grown: what was extra belongs to it now.
            self.extra = room;
        }
        let stuck = sight.ready > 0 && sight.stalled >= sight.ready;
        if stuck && sight.waiting && sight.starting == 0 && self.extra < room {
            self.extra += 1;
            self.useful = now;
            return Some(Change::More);
        }
        if self.extra == 0 {
            return None;
        }
        // Of use is an extra worker as long as all others stand still, be it for a moment.
        if sight.stalled > 0 && sight.stalled + 1 >= sight.ready || sight.starting > 0 {
            self.useful = now;
        } else if now >= self.useful + self.calm {
            self.extra -= 1;
            self.useful = now;
            return Some(Change::Fewer);
        }
        None
    }

    /// When an extra worker goes if nothing happens until then.
    pub fn next_deadline(&self) -> Option<Duration> {
        (self.extra > 0).then(|| self.useful + self.calm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Generator, seed};

    const CALM: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn sight(ready: usize, stalled: usize) -> Sight {
        Sight {
            ready,
            stalled,
            starting: 0,
            waiting: true,
            base: 2,
            most: 4,
        }
    }

    #[test]
    fn one_more_comes_when_all_stand_still_and_requests_wait() {
        let mut relief = Relief::new(CALM);
        assert_eq!(relief.observe(at(1), sight(2, 1)), None, "one is free");
        let idle = Sight {
            waiting: false,
            ..sight(2, 2)
        };
        assert_eq!(relief.observe(at(1), idle), None, "nobody waits");
        assert_eq!(relief.observe(at(1), sight(0, 0)), None, "none was ready");
        assert_eq!(relief.observe(at(1), sight(2, 2)), Some(Change::More));
        assert_eq!(relief.extra(), 1);
        let coming = Sight {
            starting: 1,
            ..sight(2, 2)
        };
        assert_eq!(relief.observe(at(1), coming), None, "one at a time");
        assert_eq!(relief.observe(at(2), sight(3, 3)), Some(Change::More));
        assert_eq!(
            relief.observe(at(3), sight(4, 4)),
            None,
            "within the maximum"
        );
        assert_eq!(relief.extra(), 2);
    }

    #[test]
    fn one_at_a_time_goes_when_it_has_been_of_no_use_for_a_while() {
        let mut relief = Relief::new(CALM);
        relief.observe(at(0), sight(2, 2));
        assert_eq!(relief.next_deadline(), Some(at(30)));
        assert_eq!(relief.observe(at(20), sight(3, 2)), None, "it is of use");
        assert_eq!(relief.next_deadline(), Some(at(50)));
        assert_eq!(relief.observe(at(49), sight(3, 1)), None);
        assert_eq!(relief.observe(at(50), sight(3, 1)), Some(Change::Fewer));
        assert_eq!((relief.extra(), relief.next_deadline()), (0, None));
        assert_eq!(relief.observe(at(200), sight(2, 0)), None);
    }

    #[test]
    fn a_base_that_grows_takes_the_extra_ones_in() {
        let mut relief = Relief::new(CALM);
        relief.observe(at(0), sight(2, 2));
        relief.observe(at(1), sight(3, 3));
        let grown = Sight {
            base: 4,
            ..sight(4, 4)
        };
        assert_eq!(relief.observe(at(2), grown), None);
        assert_eq!(relief.extra(), 0);
    }

    /// Whatever is seen, the bounds hold; and once all is calm the extra workers go.
    #[test]
    fn the_bounds_hold_and_calm_ends_it() {
        let seed = seed("relief");
        for case in 0..300 {
            let mut random = Generator::new(seed ^ case);
            let mut relief = Relief::new(CALM);
            let mut now = Duration::ZERO;
            for _ in 0..200 {
                now += Duration::from_millis(random.below(20_000));
                let size = |n: u64| usize::try_from(n).unwrap();
                let ready = size(random.below(6));
                let sight = Sight {
                    ready,
                    stalled: size(random.below(6)).min(ready),
                    starting: size(random.below(2)),
                    waiting: random.below(2) == 0,
                    base: 1 + size(random.below(4)),
                    most: 4,
                };
                let before = relief.extra();
                let change = relief.observe(now, sight);
                assert!(sight.base + relief.extra() <= 4, "seed {seed}, {case}");
                match change {
                    Some(Change::More) => assert!(sight.stalled == ready && sight.waiting),
                    Some(Change::Fewer) => {
                        assert_eq!(relief.extra() + 1, before.min(4 - sight.base));
                    }
                    None => {}
                }
            }
            for _ in 0..4 {
                now += CALM;
                relief.observe(now, sight(2, 0));
            }
            assert_eq!(relief.extra(), 0, "seed {seed}, case {case}");
        }
    }
}
