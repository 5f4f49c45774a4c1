//! What is done about a worker whose event loop stands still: first its stacks are shown, so that
//! people can see why, then it is aborted, then killed. That it gets no requests meanwhile is the
//! balancer's affair, whether its loop stands still its observer's: a loop that waits turns, and
//! one that has never served (it imports, it starts up) is not watched.

use core::time::Duration;

/// Between showing the stacks and aborting: a loop that turns again meanwhile is spared.
const SHOWN_FOR: Duration = Duration::from_millis(500);
/// Between aborting and killing, as long as gunicorn takes.
const ABORTED_FOR: Duration = Duration::from_secs(1);

/// What must be done with the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Have it write its stacks to the log.
    Show,
    /// It turns again; nothing else will happen to it.
    Spare,
    /// Give it no more requests and abort it (SIGABRT).
    Abort,
    /// Kill it (SIGKILL).
    Kill,
}

/// The watch over one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    timeout: Duration,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Turning,
    Shown { since: Duration },
    Aborted { since: Duration },
    Killed,
}

impl Watch {
    /// Over a worker that may stand still for `timeout`.
    pub fn new(timeout: Duration) -> Watch {
        Watch {
            timeout,
            stage: Stage::Turning,
        }
    }

    /// Looks at the worker, whose loop stands still for `still` now, if it does.
    pub fn observe(&mut self, now: Duration, still: Option<Duration>) -> Option<Act> {
        let stands = still.is_some_and(|still| still >= self.timeout);
        let (stage, act) = match self.stage {
            Stage::Turning if stands => (Stage::Shown { since: now }, Act::Show),
            Stage::Shown { .. } if !stands => (Stage::Turning, Act::Spare),
            Stage::Shown { since } if now >= since + SHOWN_FOR => {
                (Stage::Aborted { since: now }, Act::Abort)
            }
            // Once it is aborted there is no way back: its memory may be in any state.
            Stage::Aborted { since } if now >= since + ABORTED_FOR => (Stage::Killed, Act::Kill),
            _ => return None,
        };
        self.stage = stage;
        Some(act)
    }

    /// When the next step is due by itself.
    pub fn next_deadline(&self) -> Option<Duration> {
        match self.stage {
            Stage::Shown { since } => Some(since + SHOWN_FOR),
            Stage::Aborted { since } => Some(since + ABORTED_FOR),
            Stage::Turning | Stage::Killed => None,
        }
    }

    /// How long the loop may stand still.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether it has been given up.
    pub fn has_ended_it(&self) -> bool {
        matches!(self.stage, Stage::Aborted { .. } | Stage::Killed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_loop_that_turns_or_stands_shortly_is_left_alone() {
        let mut watch = Watch::new(at(30_000));
        for still in [None, Some(at(25)), Some(at(29_999))] {
            assert_eq!(watch.observe(at(1), still), None);
            assert_eq!(watch.next_deadline(), None);
        }
    }

    #[test]
    fn one_that_stands_still_is_shown_aborted_and_killed() {
        let mut watch = Watch::new(at(30_000));
        assert_eq!(watch.observe(at(0), Some(at(30_000))), Some(Act::Show));
        assert_eq!(watch.next_deadline(), Some(at(500)));
        assert_eq!(watch.observe(at(499), Some(at(30_499))), None);
        assert!(!watch.has_ended_it());
        assert_eq!(watch.observe(at(500), Some(at(30_500))), Some(Act::Abort));
        assert!(watch.has_ended_it());
        assert_eq!(watch.next_deadline(), Some(at(1500)));
        assert_eq!(watch.observe(at(1499), None), None, "there is no way back");
        assert_eq!(watch.observe(at(1500), None), Some(Act::Kill));
        assert_eq!(watch.observe(at(9999), Some(at(40_000))), None);
        assert_eq!(watch.next_deadline(), None);
    }

    #[test]
    fn one_that_turns_again_is_spared_and_watched_on() {
        let mut watch = Watch::new(at(1000));
        assert_eq!(watch.observe(at(0), Some(at(1000))), Some(Act::Show));
        assert_eq!(watch.observe(at(200), Some(at(3))), Some(Act::Spare));
        assert_eq!(watch.observe(at(600), None), None);
        assert_eq!(watch.observe(at(2000), Some(at(1000))), Some(Act::Show));
    }
}
