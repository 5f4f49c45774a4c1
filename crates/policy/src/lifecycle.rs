//! One worker's life: starting, ready, draining, stopping, gone. Events and the time go in, what
//! must be done comes out. Which worker is started or drained when is left to `rollout`, how
//! soon a dead one is replaced to `restart`, doing it to the supervisor.
//!
//! Times are durations since any fixed moment, the same one for all calls.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

/// How long each phase may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the start of the process until it is ready.
    pub startup: Duration,
    /// From the beginning of a drain until its last request is over.
    pub grace: Duration,
    /// From the polite signal to the killing one, beyond what is left of the grace period (a
    /// worker may still have background tasks to finish).
    pub stop: Duration,
    /// For a worker that itself finishes what it has when it is asked to end: it is asked so
    /// long after its last request was sent, and has the grace period from then on. Others are
    /// asked when nothing is in flight any more.
    pub settle: Option<Duration>,
}

/// Where a worker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The process runs; it has not answered yet.
    Starting,
    /// It takes traffic.
    Ready,
    /// It takes no new requests and finishes those it has.
    Draining,
    /// It was asked to end, or killed.
    Stopping,
    /// The process is over.
    Gone,
}

impl State {
    /// The name in tables and metrics.
    pub fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Ready => "ready",
            State::Draining => "draining",
            State::Stopping => "stopping",
            State::Gone => "gone",
        }
    }
}

/// What happened to a worker, or is wanted of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It has answered for the first time.
    Answered,
    /// It said itself that it cannot start.
    Failed,
    /// It is to finish and go; the grace period may be shorter than the usual one.
    Drain {
        /// The grace period of this drain.
        grace: Duration,
    },
    /// None of its requests is in flight any more.
    Idle,
    /// Somebody is in a hurry: the next step is taken at once.
    Hurry,
    /// The process is over.
    Exited,
    /// Time has passed.
    Tick,
}

/// What must be done, in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Give it traffic.
    Serve,
    /// Give it no new requests.
    Withdraw,
    /// Ask the process to end (SIGTERM).
    Terminate,
    /// End it (SIGKILL).
    Kill,
    /// Forget it: its connections, its socket, its page.
    Forget,
}

/// The state machine of one worker.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    patience: Patience,
    state: State,
    since: Duration,
    started: Duration,
    ready: Option<Duration>,
    deadline: Option<Duration>,
    /// While it drains: when its requests are given up.
    grace_end: Duration,
}

impl Lifecycle {
    /// A process that was started at `now`.
    pub fn start(now: Duration, patience: Patience) -> Lifecycle {
        Lifecycle {
            patience,
            state: State::Starting,
            since: now,
            started: now,
            ready: None,
            deadline: Some(now + patience.startup),
            grace_end: now,
        }
    }

    /// Where it is now.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when it is there.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// When the process was started.
    pub fn started(&self) -> Duration {
        self.started
    }

    /// When it first took traffic, if it ever did.
    pub fn ready(&self) -> Option<Duration> {
        self.ready
    }

    /// When [`Event::Tick`] is due, at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Takes an event and says what must be done. Events that mean nothing in the present state
    /// are ignored: they were on their way when it changed.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Act> {
        if event == Event::Tick && self.deadline.is_none_or(|deadline| now < deadline) {
            return vec![];
        }
        match (self.state, event) {
            (State::Gone, _) => vec![],
            (_, Event::Exited) => {
                self.enter(State::Gone, now, None);
                vec![Act::Forget]
            }
            (State::Starting, Event::Answered) => {
                self.ready = Some(now);
                self.enter(State::Ready, now, None);
                vec![Act::Serve]
            }
            (State::Starting, Event::Idle) => vec![],
            (State::Starting, _) => self.stop(now, now),
            (State::Ready, Event::Drain { grace }) => {
                self.grace_end = now + grace;
                let patience = self
                    .patience
                    .settle
                    .map_or(grace, |settle| settle.min(grace));
                self.enter(State::Draining, now, Some(now + patience));
                vec![Act::Withdraw]
            }
            (State::Ready, Event::Hurry) => {
                let mut acts = vec![Act::Withdraw];
                acts.extend(self.stop(now, now));
                acts
            }
            (State::Ready, _) => vec![],
            (State::Draining, Event::Drain { grace }) => {
                // A second drain can only shorten the first.
                self.grace_end = self.grace_end.min(now + grace);
                self.deadline = self.deadline.map(|old| old.min(self.grace_end));
                vec![]
            }
            (State::Draining, Event::Idle | Event::Tick) => self.stop(now, self.grace_end),
            (State::Draining, Event::Hurry) => self.stop(now, now),
            (State::Draining, Event::Answered | Event::Failed) => vec![],
            (State::Stopping, Event::Tick | Event::Hurry) => {
                self.deadline = None;
                vec![Act::Kill]
            }
            (State::Stopping, Event::Drain { grace }) => {
                let sooner = now + grace + self.patience.stop;
                self.deadline = self.deadline.map(|old| old.min(sooner));
                vec![]
            }
            (State::Stopping, Event::Answered | Event::Failed | Event::Idle) => vec![],
        }
    }

    /// Asks the process to end; it is killed `stop` after the grace period, or after `now` when
    /// that is later.
    fn stop(&mut self, now: Duration, grace_end: Duration) -> Vec<Act> {
        let kill = grace_end.max(now) + self.patience.stop;
        self.enter(State::Stopping, now, Some(kill));
        vec![Act::Terminate]
    }

    fn enter(&mut self, state: State, now: Duration, deadline: Option<Duration>) {
        self.state = state;
        self.since = now;
        self.deadline = deadline;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Generator, seed};

    const PATIENCE: Patience = Patience {
        startup: Duration::from_secs(60),
        grace: Duration::from_secs(30),
        stop: Duration::from_secs(5),
        settle: None,
    };
    const DRAIN: Event = Event::Drain {
        grace: PATIENCE.grace,
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_ordinary_life() {
        let mut life = Lifecycle::start(at(0), PATIENCE);
        assert_eq!(life.handle(at(1), Event::Answered), [Act::Serve]);
        assert_eq!(life.handle(at(2), Event::Idle), []);
        assert_eq!(life.handle(at(10), DRAIN), [Act::Withdraw]);
        assert_eq!(life.handle(at(12), Event::Idle), [Act::Terminate]);
        assert_eq!(
            life.next_deadline(),
            Some(at(45)),
            "background tasks have the rest of it"
        );
        assert_eq!(life.handle(at(13), Event::Exited), [Act::Forget]);
        assert_eq!(life.state(), State::Gone);
        assert_eq!(life.next_deadline(), None);
    }

    #[test]
    fn a_worker_that_does_not_end_is_killed_after_its_grace() {
        let mut life = Lifecycle::start(at(0), PATIENCE);
        life.handle(at(1), Event::Answered);
        life.handle(at(10), DRAIN);
        assert_eq!(life.handle(at(39), Event::Tick), []);
        assert_eq!(life.handle(at(40), Event::Tick), [Act::Terminate]);
        assert_eq!(life.handle(at(45), Event::Tick), [Act::Kill]);
        assert_eq!(life.handle(at(46), Event::Tick), []);
    }

    #[test]
    fn a_worker_that_drains_itself_is_asked_soon_and_has_its_grace() {
        let settle = Some(Duration::from_millis(200));
        let mut life = Lifecycle::start(at(0), Patience { settle, ..PATIENCE });
        life.handle(at(1), Event::Answered);
        assert_eq!(life.handle(at(10), DRAIN), [Act::Withdraw]);
        assert_eq!(life.handle(at(11), Event::Tick), [Act::Terminate]);
        assert_eq!(life.next_deadline(), Some(at(45)));
    }

    #[test]
    fn a_worker_that_never_answers_is_stopped() {
        let mut life = Lifecycle::start(at(0), PATIENCE);
        assert_eq!(life.handle(at(60), Event::Tick), [Act::Terminate]);
        assert_eq!(life.handle(at(61), Event::Answered), [], "too late");
        assert_eq!(life.handle(at(65), Event::Tick), [Act::Kill]);
    }

    #[test]
    fn hurry_takes_the_next_step_at_once() {
        let mut life = Lifecycle::start(at(0), PATIENCE);
        life.handle(at(1), Event::Answered);
        assert_eq!(
            life.handle(at(2), Event::Hurry),
            [Act::Withdraw, Act::Terminate]
        );
        assert_eq!(life.handle(at(2), Event::Hurry), [Act::Kill]);
    }

    /// Whatever happens in whatever order, the acts make sense, and a worker that was told to go
    /// is killed in bounded time.
    #[test]
    fn any_sequence_of_events_is_answered_sensibly() {
        let seed = seed("lifecycle");
        for case in 0..2000 {
            let mut random = Generator::new(seed ^ case);
            let mut now = Duration::ZERO;
            let settle = (case % 2 == 0).then_some(Duration::from_millis(200));
            let mut life = Lifecycle::start(now, Patience { settle, ..PATIENCE });
            let (mut served, mut withdrawn, mut terminated) = (0, 0, 0);
            let (mut killed, mut forgotten, mut told) = (false, 0, None);
            for _ in 0..40 {
                now += Duration::from_millis(random.below(20_000));
                let event = match random.below(12) {
                    0..=1 => Event::Answered,
                    2 => Event::Failed,
                    3 => Event::Drain {
                        grace: Duration::from_secs(random.below(31)),
                    },
                    4..=5 => Event::Idle,
                    6 if random.below(8) == 0 => Event::Hurry,
                    7 if random.below(8) == 0 => Event::Exited,
                    _ => Event::Tick,
                };
                let alive = life.state() != State::Gone;
                if alive && matches!(event, Event::Drain { .. }) && told.is_none() {
                    told = Some(now);
                }
                let context = std::format!("seed {seed}, case {case}, {event:?} at {now:?}");
                let acts = life.handle(now, event);
                assert!(alive || acts.is_empty(), "{context}: nothing after the end");
                for act in acts {
                    match act {
                        Act::Serve => {
                            served += 1;
                            assert!(withdrawn == 0 && terminated == 0, "{context}");
                        }
                        Act::Withdraw => {
                            withdrawn += 1;
                            assert_eq!(served, 1, "{context}");
                        }
                        Act::Terminate => {
                            terminated += 1;
                            assert_eq!(withdrawn, served, "{context}: no traffic while it ends");
                        }
                        Act::Kill => {
                            assert_eq!(terminated, 1, "{context}");
                            assert!(!killed || event == Event::Hurry, "{context}");
                            killed = true;
                        }
                        Act::Forget => {
                            forgotten += 1;
                            assert_eq!(event, Event::Exited, "{context}");
                        }
                    }
                }
                assert!(served <= 1 && withdrawn <= 1 && terminated <= 1 && forgotten <= 1);
                if let Some(told) = told {
                    let latest = told + PATIENCE.grace + PATIENCE.stop + PATIENCE.stop;
                    if let Some(deadline) = life.next_deadline() {
                        assert!(deadline <= latest.max(now + PATIENCE.stop), "{context}");
                    }
                }
            }
        }
    }
}
