//! The supervisor itself: looks at the workers, asks the policy, does what it says.

mod deaths;
mod forks;
mod lead;
mod publish;
mod watch;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evener_policy::leader::Lead;
use evener_policy::lifecycle::{Act, Event, Lifecycle, Patience, State};
use evener_policy::relief::Relief;
use evener_policy::restart::Restarts;
use evener_policy::rollout::{Rollout, Step, Target, View, Why};
use evener_policy::stall::Watch;
use evener_telemetry::Log;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch as snapshots};

use crate::handle::{Command, Handle, ScaleError};
use crate::nursery::Kin;
use crate::output::Output;
use crate::probe::Answer;
use crate::spawn::Place;
use crate::status::{RolloutStatus, Status};
use crate::worker::{Birth, Note, Worker};
use crate::{Balancer, DRAIN_POLL, RunDirectory, Settings, WorkerId, spawn};

use deaths::Death;

/// Rollouts that are remembered.
const ROLLOUTS_KEPT: usize = 8;
/// How often it is looked whether a crash loop is over.
const RECOVERY_POLL: Duration = Duration::from_millis(500);

/// How a supervisor's run ended.
#[derive(Debug)]
pub enum Outcome {
    /// It was asked to stop, and every worker is gone.
    Stopped,
    /// No worker ever became ready.
    NeverStarted(StartupFailure),
    /// A hook raised an exception; every worker was ended. The text has been logged.
    Raised,
}

/// The first worker that failed when no worker ever became ready.
#[derive(Debug, Clone)]
pub struct StartupFailure {
    /// The worker's name.
    pub worker: String,
    /// What happened, in words that follow the name.
    pub reason: String,
    /// The exit status, if it exited by itself.
    pub code: Option<i32>,
    /// The last lines of its standard error; empty when such lines were forwarded already.
    pub unseen: Vec<String>,
    /// The last lines of its standard error, seen or not.
    pub tail: Vec<String>,
}

/// Runs workers until it is told to stop.
pub struct Supervisor {
    settings: Settings,
    balancer: Arc<dyn Balancer>,
    log: Log,
    directory: RunDirectory,
    base: Instant,
    workers: Vec<Worker>,
    restarts: Restarts,
    rollout: Rollout,
    rollouts: VecDeque<RolloutStatus>,
    target: usize,
    relief: Relief,
    lead: Lead,
    /// Rung when every loop stands still.
    alarm: Arc<Notify>,
    /// When memory is looked at next.
    memory_due: Duration,
    grace: Duration,
    stopping: bool,
    next_id: u64,
    deaths: u64,
    /// Restart counts of workers that died and have no successor yet.
    vacated: Vec<u32>,
    first_failure: Option<StartupFailure>,
    given_up: bool,
    /// A process could not be made: the rest of the plan no longer holds.
    unsettled: bool,
    /// A hook raised an exception.
    raised: bool,
    commands: mpsc::Receiver<Command>,
    notes: mpsc::Receiver<Note>,
    notes_sender: mpsc::Sender<Note>,
    status: snapshots::Sender<Arc<Status>>,
    kin: Kin,
    _reserved: Vec<OwnedFd>,
}

impl Supervisor {
    /// Prepares a supervisor; [`Supervisor::run`] starts the workers. Fails only when the
    /// process has no descriptors left.
    pub fn new(
        settings: Settings,
        directory: RunDirectory,
        balancer: Arc<dyn Balancer>,
        log: Log,
    ) -> io::Result<(Supervisor, Handle)> {
        let reserved = spawn::reserve_places()?;
        let kin = settings
            .recipe
            .nursery()
            .map_or_else(Kin::default, |nursery| nursery.kin().clone());
        let (commands_sender, commands) = mpsc::channel(64);
        let (notes_sender, notes) = mpsc::channel(256);
        let alarm = Arc::new(Notify::new());
        let bounds = ScaleError {
            count_max: settings.count_max,
            reason: settings.count_max_reason.clone(),
        };
        let calm = settings.relief.map_or(Duration::ZERO, |relief| relief.calm);
        let (status, status_receiver) = snapshots::channel(Arc::default());
        let supervisor = Supervisor {
            restarts: Restarts::new(settings.restart, settings.seed),
            target: settings.count.max(1),
            relief: Relief::new(calm),
            lead: Lead::new(settings.lead, settings.lead_withheld, settings.oldest_first),
            alarm: Arc::clone(&alarm),
            memory_due: Duration::ZERO,
            grace: settings.patience.grace,
            settings,
            balancer,
            log,
            directory,
            base: Instant::now(),
            workers: Vec::new(),
            rollout: Rollout::new(),
            rollouts: VecDeque::new(),
            stopping: false,
            next_id: 1,
            deaths: 0,
            vacated: Vec::new(),
            first_failure: None,
            given_up: false,
            unsettled: false,
            raised: false,
            commands,
            notes,
            notes_sender,
            status,
            kin: kin.clone(),
            _reserved: reserved,
        };
        Ok((
            supervisor,
            Handle {
                commands: commands_sender,
                status: status_receiver,
                kin,
                alarm,
                bounds: Arc::new(Mutex::new(bounds)),
            },
        ))
    }

    /// Starts the workers and keeps them running; returns when all are gone after a stop, or
    /// when none could be started at all.
    pub async fn run(mut self) -> Outcome {
        let mut ends = signal(SignalKind::child()).ok();
        loop {
            self.turn();
            self.publish();
            if self.workers.is_empty() && (self.stopping || self.given_up) {
                return match self.first_failure.take() {
                    _ if self.raised => Outcome::Raised,
                    Some(failure) if self.given_up => Outcome::NeverStarted(failure),
                    _ => Outcome::Stopped,
                };
            }
            let deadline = self.next_deadline();
            tokio::select! {
                Some(command) = self.commands.recv() => self.handle_command(command),
                Some(note) = self.notes.recv() => self.handle_note(note),
                () = next_end(&mut ends) => self.reap_strangers(),
                () = self.alarm.notified() => {}
                () = sleep_until(deadline.map(|deadline| self.base + deadline)) => {}
            }
            // What else is there belongs into the same turn.
            while let Ok(note) = self.notes.try_recv() {
                self.handle_note(note);
            }
        }
    }

    fn now(&self) -> Duration {
        self.base.elapsed()
    }

    fn views(&self) -> Vec<View> {
        self.workers.iter().map(Worker::view).collect()
    }

    fn starting(&self) -> usize {
        self.workers
            .iter()
            .filter(|worker| worker.life.state() == State::Starting)
            .count()
    }

    /// Observe, plan, act.
    fn turn(&mut self) {
        let now = self.now();
        self.unsettled = false;
        for index in 0..self.workers.len() {
            self.look_at(index, now);
        }
        self.look_after(now);
        self.look_for_leader();
        let ready = self
            .workers
            .iter()
            .filter(|worker| worker.life.state() == State::Ready);
        if self
            .restarts
            .observe(now, ready.filter_map(|worker| worker.life.ready()))
        {
            self.log.info(format_args!(
                "the crash loop is over: a new worker has proved sound"
            ));
        }
        if !self.stopping
            && let Some(end) = self.rollout.handle_inventory(&self.views(), self.wanted())
        {
            self.finish_rollout(end);
        }
        let target = Target {
            count: self.wanted(),
            starts_allowed: self.restarts.starts_allowed(now, self.starting()),
            leaving_max: self.settings.leaving_max,
            oldest_first: self.settings.oldest_first,
            processes_max: self.settings.processes_max,
        };
        for step in self.rollout.plan(&self.views(), target) {
            match step {
                Step::Start { .. } if self.unsettled => {}
                Step::Start { generation, why } => self.start(generation, why),
                Step::Drain { id, why } => self.drain(WorkerId(id), why),
            }
        }
    }

    fn look_at(&mut self, index: usize, now: Duration) {
        let worker = &mut self.workers[index];
        let idle =
            worker.life.state() == State::Draining && self.balancer.in_flight(worker.id) == 0;
        let event = if idle { Event::Idle } else { Event::Tick };
        let was_starting = worker.life.state() == State::Starting;
        let acts = worker.life.handle(now, event);
        if was_starting && !acts.is_empty() && worker.failure.is_none() {
            let patience = self.settings.patience.startup.as_secs_f64();
            worker.failure = Some(format!("did not answer within {patience} s"));
            worker.output.release();
        }
        self.act(index, &acts);
    }

    fn act(&mut self, index: usize, acts: &[Act]) {
        for act in acts {
            let worker = &mut self.workers[index];
            match act {
                Act::Serve => self.balancer.add(&worker.ready()),
                Act::Withdraw => self.balancer.drain(worker.id),
                Act::Terminate => worker.terminate(),
                Act::Kill => {
                    let (name, pid) = (&worker.name, worker.pid);
                    self.log
                        .warning(format_args!("{name} (pid {pid}) did not end: killing it"));
                    worker.kill();
                }
                Act::Forget => {
                    self.balancer.remove(worker.id);
                    worker.clear();
                }
            }
        }
    }

    fn start(&mut self, generation: u32, why: Why) {
        let now = self.now();
        let id = WorkerId(self.next_id);
        self.next_id += 1;
        let name = format!("worker-{}", id.0);
        let socket = self.directory.path().join(format!("w{}.sock", id.0));
        // Several that start together likely fail together: one of them may speak.
        let hold =
            (!self.restarts.ever_ready() && self.starting() > 0) || self.restarts.is_looping();
        let restarts = if why == Why::Missing {
            self.vacated.pop().unwrap_or(0)
        } else {
            0
        };
        let leader = self.marks_leader();
        let place = Place {
            id,
            name: &name,
            socket: &socket,
            environment: self.own_environment(leader),
        };
        match spawn::spawn(&self.settings, &place) {
            Ok(spawned) => {
                if spawned.pid != 0 {
                    self.log
                        .debug(format_args!("{name} (pid {}) started", spawned.pid));
                }
                let birth = Birth {
                    id,
                    output: Output::new(&name, self.log.format(), hold),
                    name,
                    socket,
                    life: Lifecycle::start(now, self.patience()),
                    generation,
                    why,
                    restarts,
                    allowance: self.allowance(now, id),
                    stall: self.settings.stall.map(Watch::new),
                    leader,
                };
                let notes = self.notes_sender.clone();
                self.workers
                    .push(Worker::watched(birth, spawned, &self.log, notes));
            }
            Err(error) => {
                self.unsettled = true;
                let program = self.settings.recipe.program();
                let death = Death {
                    name,
                    reason: format!("could not be started: `{program}`: {error}"),
                    started: now,
                    ready: None,
                    generation,
                    why,
                    restarts,
                    code: None,
                    signal: None,
                    held: false,
                    tail: Vec::new(),
                };
                self.handle_death(death);
            }
        }
    }

    fn patience(&self) -> Patience {
        Patience {
            grace: self.grace,
            ..self.settings.patience
        }
    }

    fn drain(&mut self, id: WorkerId, why: Why) {
        let now = self.now();
        let Some(index) = self.workers.iter().position(|worker| worker.id == id) else {
            return;
        };
        let worker = &mut self.workers[index];
        worker.leaving = true;
        let reason = match why {
            Why::Replacement => "a newer one has taken its place",
            Why::Surplus | Why::Missing if self.stopping => "the program stops",
            Why::Surplus | Why::Missing => "fewer are wanted",
        };
        self.log.debug(format_args!(
            "{} (pid {}) drains: {reason}",
            worker.name, worker.pid
        ));
        let acts = worker.life.handle(now, Event::Drain { grace: self.grace });
        self.act(index, &acts);
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Reload(reply) => {
                if self.stopping {
                    return;
                }
                self.reload(Some(reply));
            }
            Command::Scale(count, reply) => {
                if !self.stopping {
                    self.set_target(count);
                }
                let _ = reply.send(self.target);
            }
            Command::ScaleBy(difference, reply) => {
                if !self.stopping {
                    let count = self.target.saturating_add_signed(difference);
                    self.set_target(count.clamp(1, self.settings.count_max));
                }
                let _ = reply.send(self.target);
            }
            Command::Bounds { count_max, relief } => {
                self.settings.count_max = count_max;
                self.settings.relief = relief;
                let calm = relief.map_or(Duration::ZERO, |relief| relief.calm);
                self.relief.set_calm(calm);
                if relief.is_none() {
                    self.relief = Relief::new(calm);
                }
            }
            Command::Rest if !self.stopping => self.set_target(0),
            Command::Rest => {}
            Command::Lead => self.lead.release(),
            Command::Signal(number) => {
                self.workers.iter().for_each(|worker| worker.tell(number));
            }
            Command::Stop { grace, signal } => {
                self.stopping = true;
                self.target = 0;
                self.grace = grace;
                let now = self.now();
                for index in 0..self.workers.len() {
                    let worker = &mut self.workers[index];
                    worker.leaving = true;
                    if let Some(number) = signal {
                        worker.tell(number);
                    }
                    let acts = worker.life.handle(now, Event::Drain { grace });
                    self.act(index, &acts);
                }
            }
            Command::Hurry => {
                let now = self.now();
                for index in 0..self.workers.len() {
                    let worker = &mut self.workers[index];
                    if worker.leaving {
                        let acts = worker.life.handle(now, Event::Hurry);
                        self.act(index, &acts);
                    }
                }
            }
        }
    }

    fn set_target(&mut self, count: usize) {
        if count != self.target {
            self.log.info(format_args!(
                "scaling from {} to {count} workers",
                self.target
            ));
            self.target = count;
            self.tell_nursery(json!({"do": "count", "count": count}));
        }
    }

    fn handle_note(&mut self, note: Note) {
        let now = self.now();
        let (Note::Answered(id, _) | Note::Exited(id, _)) = note else {
            return self.handle_fork_note(note);
        };
        let Some(index) = self.workers.iter().position(|worker| worker.id == id) else {
            return;
        };
        match note {
            Note::Answered(_, Answer::Ready) => {
                let acts = self.workers[index].life.handle(now, Event::Answered);
                if acts.contains(&Act::Serve) {
                    self.restarts.handle_ready();
                    let worker = &self.workers[index];
                    worker.output.release();
                    let took = (now - worker.life.started()).as_secs_f64();
                    let (name, pid) = (&worker.name, worker.pid);
                    self.log.info(format_args!(
                        "{name} (pid {pid}) is ready after {took:.2} s"
                    ));
                    self.note_rest(index);
                }
                self.act(index, &acts);
            }
            Note::Answered(_, Answer::Failed) => {
                let worker = &mut self.workers[index];
                worker.failure = Some("could not start".to_owned());
                let acts = worker.life.handle(now, Event::Failed);
                self.act(index, &acts);
            }
            Note::Exited(_, status) => self.handle_exit(index, status, now),
            _ => unreachable!("told apart above"),
        }
    }

    /// When something is due by itself.
    fn next_deadline(&self) -> Option<Duration> {
        let now = self.now();
        if self.unsettled {
            return Some(now);
        }
        let lives = self
            .workers
            .iter()
            .filter_map(|worker| worker.life.next_deadline());
        let is = |state| {
            self.workers
                .iter()
                .any(|worker| worker.life.state() == state)
        };
        let polls = [
            is(State::Draining).then_some(DRAIN_POLL),
            self.restarts.is_looping().then_some(RECOVERY_POLL),
        ];
        let polls = polls.into_iter().flatten().map(|poll| now + poll);
        lives
            .chain(polls)
            .chain(self.restarts.next_deadline(now))
            .chain(self.next_look(now))
            .min()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Only when the program goes down in disorder: an orderly end has no workers left.
        for worker in &mut self.workers {
            worker.kill();
        }
    }
}

/// Waits until some child ends.
async fn next_end(ends: &mut Option<Signal>) {
    match ends {
        Some(ends) => drop(ends.recv().await),
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
