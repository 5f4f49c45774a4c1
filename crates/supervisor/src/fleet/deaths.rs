//! What follows from a worker that ended without being told to: a restart, the end of a rollout,
//! the report of a crash loop, or giving up.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use evener_policy::lifecycle::Event;
use evener_policy::restart::{Death as RestartDeath, Verdict};
use evener_policy::rollout::{Outcome as RolloutOutcome, Why};
use serde_json::json;

use super::{ROLLOUTS_KEPT, StartupFailure, Supervisor};
use crate::status::RolloutStatus;
use crate::worker::{Worker, describe};

/// What is known about a worker that ended without being told to.
pub(super) struct Death {
    pub(super) name: String,
    pub(super) reason: String,
    pub(super) started: Duration,
    pub(super) ready: Option<Duration>,
    pub(super) generation: u32,
    pub(super) why: Why,
    pub(super) restarts: u32,
    pub(super) code: Option<i32>,
    /// What killed it, perhaps not by its own fault.
    pub(super) signal: Option<i32>,
    pub(super) held: bool,
    pub(super) tail: Vec<String>,
}

impl Supervisor {
    /// A process is over.
    pub(super) fn handle_exit(&mut self, index: usize, status: ExitStatus, now: Duration) {
        let acts = self.workers[index].life.handle(now, Event::Exited);
        self.act(index, &acts);
        let worker = self.workers.remove(index);
        self.tell_nursery(json!({"do": "exited", "pid": worker.pid}));
        if worker.leaving {
            let (name, pid) = (&worker.name, worker.pid);
            self.log
                .debug(format_args!("{name} (pid {pid}) {}", describe(status)));
            self.note_last_words(&worker, status);
            return;
        }
        let killed = status.signal().is_some();
        let reason = match worker.failure {
            Some(failure) if killed => failure,
            _ if worker.life.ready().is_none() => {
                format!("{} before it was ready", describe(status))
            }
            _ => describe(status),
        };
        let held = worker.output.is_held();
        if held && self.restarts.ever_ready() && !self.restarts.is_looping() {
            worker.output.release();
        }
        self.handle_death(Death {
            name: format!("{} (pid {})", worker.name, worker.pid),
            reason,
            started: worker.life.started(),
            ready: worker.life.ready(),
            generation: worker.generation,
            why: worker.why,
            restarts: worker.restarts,
            code: status.code(),
            signal: status.signal(),
            held,
            tail: worker.output.tail(),
        });
    }

    /// A worker ended that was not told to.
    pub(super) fn handle_death(&mut self, death: Death) {
        let now = self.now();
        self.deaths += 1;
        let never_ready = death.ready.is_none();
        // The one that spoke counts, else the first.
        let told = self.first_failure.is_some();
        if !self.restarts.ever_ready() && (!told || !death.held) {
            self.first_failure = Some(StartupFailure {
                worker: death.name.clone(),
                reason: death.reason.clone(),
                code: death.code,
                unseen: death.tail.clone(),
                tail: death.tail.clone(),
            });
        }
        if !death.held
            && !death.tail.is_empty()
            && let Some(failure) = &mut self.first_failure
        {
            failure.unseen.clear();
        }
        let of_rollout = self.rollout.is_running() && death.generation == self.rollout.generation();
        if never_ready && of_rollout {
            let reason = format!("{} {}", death.name, death.reason);
            let end = if death.signal.is_some() && death.why == Why::Replacement {
                self.rollout.handle_killed(&reason)
            } else {
                self.rollout.handle_failure(&reason)
            };
            match end {
                Some(end) => self.finish_rollout(end),
                None => self.log.warning(format_args!("{reason}: starting another")),
            }
            if death.why == Why::Replacement {
                return;
            }
        }
        self.vacated.push(death.restarts + 1);
        let judged = RestartDeath {
            started: death.started,
            ready: death.ready,
            killed: death.signal == Some(libc::SIGKILL),
        };
        match self.restarts.handle_death(now, judged, self.starting()) {
            Verdict::Restart { delay } => self.report_death(&death, now, delay),
            Verdict::CrashLoop { delay } => self.report_loop(&death, delay),
            Verdict::GiveUp if self.settings.waits_when_broken => {
                self.log.error(format_args!(
                    "{} {}: the application did not start; waiting for a change",
                    death.name, death.reason
                ));
                self.first_failure = None;
            }
            Verdict::GiveUp => {
                self.given_up = true;
                self.target = 0;
            }
        }
    }

    /// A worker that was to leave has ended in the same way as the first that failed: it had met
    /// the same failure, and if its output was forwarded, that failure has been seen.
    pub(super) fn note_last_words(&mut self, worker: &Worker, status: ExitStatus) {
        if let Some(failure) = &mut self.first_failure
            && failure.code.is_some_and(|code| code != 0)
            && failure.code == status.code()
            && !worker.output.is_held()
            && !worker.output.tail().is_empty()
        {
            failure.unseen.clear();
        }
    }

    fn report_death(&self, death: &Death, now: Duration, delay: Duration) {
        if !self.restarts.ever_ready() || self.restarts.is_looping() || self.stopping {
            return;
        }
        let lived = (now - death.started).as_secs_f64();
        let next = if delay.is_zero() {
            "starting another".to_owned()
        } else {
            format!("starting another in {:.1} s", delay.as_secs_f64())
        };
        let (name, reason) = (&death.name, &death.reason);
        self.log.warning(format_args!(
            "{name} {reason}, {lived:.1} s after its start: {next}"
        ));
    }

    fn report_loop(&self, death: &Death, delay: Duration) {
        let crashes = self.settings.restart.loop_after;
        let (name, reason) = (&death.name, &death.reason);
        let mut lines = String::new();
        for line in &death.tail {
            lines.push_str("\n    ");
            lines.push_str(line);
        }
        let lines = if lines.is_empty() {
            "it wrote nothing to its standard error".to_owned()
        } else {
            format!("its last lines:{lines}")
        };
        self.log.error(format_args!(
            "crash loop: {crashes} crashes in a row. {name} {reason}; {lines}\n  \
             One worker at a time is tried, next in {:.1} s, then at most every {} s, without \
             repeating its output. Mend the cause, then run `evener reload`.",
            delay.as_secs_f64(),
            self.settings.restart.delay_max.as_secs(),
        ));
    }

    pub(super) fn finish_rollout(&mut self, (generation, outcome): (u32, RolloutOutcome)) {
        match &outcome {
            RolloutOutcome::Done => {
                let count = self.target;
                self.log.info(format_args!(
                    "reload {generation}: {count} new workers serve"
                ));
            }
            RolloutOutcome::Failed(reason) => self.log.error(format_args!(
                "reload {generation} was given up: {reason}. The workers that had not been \
                 replaced keep serving"
            )),
        }
        if self.rollouts.len() == ROLLOUTS_KEPT {
            self.rollouts.pop_front();
        }
        self.rollouts.push_back(RolloutStatus {
            generation,
            outcome,
        });
    }
}
