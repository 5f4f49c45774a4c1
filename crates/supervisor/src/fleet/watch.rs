//! Looking after workers that serve: whether one has done enough, whether a loop stands still, and
//! whether one more is needed because all do. What follows is `policy`'s to say.

use std::time::Duration;

use evener_policy::lifecycle::State;
use evener_policy::recycle::{Allowance, Reason, Usage};
use evener_policy::relief::{Change, Sight};
use evener_policy::stall::Act;
use evener_vitals::monotonic_ns;

use super::Supervisor;
use crate::status::resident_bytes;
use crate::{EXPIRY_POLL, MEMORY_POLL, RELIEF_POLL, STALL_POLL, WorkerId};

impl Supervisor {
    /// How many workers are to serve.
    pub(super) fn wanted(&self) -> usize {
        match self.target {
            // It stops, or has given up.
            0 => 0,
            target => target + self.relief.extra(),
        }
    }

    /// What a worker that is started now may do before it is replaced.
    pub(super) fn allowance(&self, now: Duration, id: WorkerId) -> Allowance {
        let own = self.settings.seed ^ id.0.rotate_left(32);
        self.settings.recycle.allowance(now, own)
    }

    /// A worker that has just become ready holds as little memory as it ever will.
    pub(super) fn note_rest(&mut self, index: usize) {
        let Some(most) = self.settings.recycle.rss_bytes else {
            return;
        };
        let worker = &mut self.workers[index];
        let Some(held) = resident_bytes(worker.pid) else {
            return;
        };
        if !worker.allowance.note_rest(held) {
            let (name, held, most) = (&worker.name, megabytes(held), megabytes(most));
            self.log.warning(format_args!(
                "{name} holds {held} MB before its first request: the bound of {most} MB \
                 (--max-rss) is no reason to replace it"
            ));
        }
    }

    /// Looks at all workers that serve.
    pub(super) fn look_after(&mut self, now: Duration) {
        if self.stopping {
            return;
        }
        if !self.settings.recycle.is_none() {
            let look_at_memory =
                self.settings.recycle.rss_bytes.is_some() && now >= self.memory_due;
            if look_at_memory {
                self.memory_due = now + MEMORY_POLL;
            }
            for index in 0..self.workers.len() {
                self.look_whether_it_is_spent(index, now, look_at_memory);
            }
        }
        if self.settings.stall.is_some() || self.settings.relief.is_some() {
            let stalled = self.balancer.stalled();
            if self.settings.stall.is_some() {
                for index in 0..self.workers.len() {
                    self.look_at_loop(index, now, &stalled);
                }
            }
            self.look_for_relief(now, stalled.len());
        }
    }

    fn look_whether_it_is_spent(&mut self, index: usize, now: Duration, memory: bool) {
        let worker = &mut self.workers[index];
        if worker.life.state() != State::Ready || worker.expired {
            return;
        }
        let usage = Usage {
            requests: self.balancer.requests(worker.id),
            rss_bytes: memory.then(|| resident_bytes(worker.pid)).flatten(),
        };
        let Some(reason) = worker.allowance.spent(now, usage) else {
            return;
        };
        worker.expired = true;
        let (name, pid) = (&worker.name, worker.pid);
        let why = match reason {
            Reason::Requests(requests) => format!("has had {requests} requests"),
            Reason::Memory(bytes) => format!("holds {} MB", megabytes(bytes)),
            Reason::Age(age) => format!("is {:.0} s old", age.as_secs_f64()),
        };
        self.log
            .info(format_args!("{name} (pid {pid}) {why} and is replaced"));
    }

    fn look_at_loop(&mut self, index: usize, now: Duration, stalled: &[WorkerId]) {
        let worker = &mut self.workers[index];
        let (Some(watch), Some(page)) = (&mut worker.stall, &worker.page) else {
            return;
        };
        if worker.life.state() != State::Ready {
            return;
        }
        let still = stalled
            .contains(&worker.id)
            .then(|| Duration::from_nanos(monotonic_ns().saturating_sub(page.tick_ns())));
        let Some(act) = watch.observe(now, still) else {
            return;
        };
        let (name, pid) = (&worker.name, worker.pid);
        let seconds = still.unwrap_or_default().as_secs_f64();
        match act {
            Act::Show => {
                self.log.error(format_args!(
                    "{name} (pid {pid}): its event loop has stood still for {seconds:.1} s; this \
                     is where its threads are:"
                ));
                worker.send(false, stack_signal());
            }
            Act::Spare => self.log.warning(format_args!(
                "{name} (pid {pid}): its event loop turns again"
            )),
            Act::Abort => {
                self.log.error(format_args!(
                    "{name} (pid {pid}): aborting it, because its event loop still stands still \
                     (--timeout-worker-stall)"
                ));
                worker.failure = Some(format!(
                    "was aborted, its event loop having stood still for {seconds:.1} s"
                ));
                self.balancer.drain(worker.id);
                worker.send(false, libc::SIGABRT);
            }
            Act::Kill => worker.kill(),
        }
    }

    fn look_for_relief(&mut self, now: Duration, stalled: usize) {
        let Some(settings) = self.settings.relief else {
            return;
        };
        let in_state = |state| {
            let workers = self.workers.iter();
            workers
                .filter(|worker| worker.life.state() == state)
                .count()
        };
        let sight = Sight {
            ready: in_state(State::Ready),
            stalled,
            starting: in_state(State::Starting),
            waiting: self.balancer.is_pressed(),
            base: self.target,
            most: settings.most,
        };
        let calm = settings.calm.as_secs_f64();
        match self.relief.observe(now, sight) {
            Some(Change::More) => self.log.info(format_args!(
                "relief: requests wait and all {stalled} event loops stand still: starting one \
                 more worker, {} of at most {}",
                self.wanted(),
                settings.most,
            )),
            Some(Change::Fewer) => self.log.info(format_args!(
                "relief: not needed for {calm} s: going back to {} workers",
                self.wanted(),
            )),
            None => {}
        }
    }

    /// When workers that serve have to be looked at again.
    pub(super) fn next_look(&self, now: Duration) -> Option<Duration> {
        let mut ready = self
            .workers
            .iter()
            .filter(|worker| worker.life.state() == State::Ready)
            .peekable();
        if self.stopping || ready.peek().is_none() {
            return None;
        }
        let recycle = &self.settings.recycle;
        let stall = self.settings.stall;
        let polls = [
            recycle.requests.map(|_| now + EXPIRY_POLL),
            recycle.rss_bytes.map(|_| self.memory_due.max(now)),
            stall.map(|timeout| now + (timeout / 8).clamp(STALL_POLL.0, STALL_POLL.1)),
            (self.relief.extra() > 0).then_some(now + RELIEF_POLL),
        ];
        let own = ready.flat_map(|worker| {
            let age = worker.allowance.next_deadline().filter(|_| !worker.expired);
            let stall = worker
                .stall
                .as_ref()
                .and_then(|watch| watch.next_deadline());
            [age, stall]
        });
        own.chain(polls).flatten().min()
    }
}

/// Has a Python worker of ours write the stacks of its threads to its standard error; the same
/// number as `STACK_SIGNAL` in `evener.worker`.
fn stack_signal() -> i32 {
    libc::SIGRTMIN() + 1
}

fn megabytes(bytes: u64) -> u64 {
    bytes / (1024 * 1024)
}
