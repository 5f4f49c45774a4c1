//! A running program: obeys signals, admin commands and changed files until it is told to stop,
//! and takes everything down in order.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use evener_admin::{Command as AdminCommand, EndpointOrder, Order, Receipt};
use evener_edge::Edge;
use evener_supervisor::{Handle, Outcome, State, WorkerStatus};
use evener_telemetry::{Log, LogFile};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};

use crate::administration::Administration;
use crate::changes::Changes;
use crate::nursery::{Heard, Host};
use crate::reread::{Loaded, Reread};
use crate::signals::{Signal, Signals};
use crate::sockets::Sockets;
use crate::source::Program;
use crate::start;
use crate::statsd::{Levels, Statsd};
use crate::systemd::{Activated, Notifier};
use crate::upkeep::Upkeep;

/// How often it is looked whether clients are done, while stopping.
const STOP_POLL: Duration = Duration::from_millis(10);
/// How long connections without a request are kept when somebody else takes new ones.
const LINGER: Duration = Duration::from_secs(1);
/// How often it is looked whether what left the configuration has finished its last request.
const TIDY_POLL: Duration = Duration::from_millis(100);

/// A running program.
pub(crate) struct Running {
    pub(crate) grace: Duration,
    /// How long a stop is announced before it begins.
    pub(crate) drain_delay: Duration,
    pub(crate) shards: usize,
    pub(crate) edge: Edge,
    pub(crate) program: Arc<Program>,
    pub(crate) log: Log,
    pub(crate) signals: Signals,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) upkeep: Upkeep,
    /// Sockets that were opened for us.
    pub(crate) activated: Activated,
    /// Told how we are doing, if somebody wants to be.
    pub(crate) notifier: Option<Notifier>,
    pub(crate) changes: Option<Changes>,
    /// The file it works by, if there is one.
    pub(crate) reread: Option<Reread>,
    /// Set while it stops.
    pub(crate) stopping: Option<Stopping>,
    /// The workers of the local application, if there is one.
    pub(crate) fleet: Option<Fleet>,
    /// The nursery that workers are forked from, if they are.
    pub(crate) host: Option<Host>,
    /// Sockets that can be handed on to a newer program.
    pub(crate) sockets: Option<Sockets>,
    /// Set while it goes on without workers.
    pub(crate) resting: Option<Resting>,
    /// Told once a second what was counted.
    pub(crate) statsd: Option<Statsd>,
    /// Files that are opened again when asked for.
    pub(crate) log_files: Vec<LogFile>,
    /// Where orders come in.
    pub(crate) administration: Administration,
}

/// A program that goes on without workers.
pub(crate) struct Resting {
    /// When the workers are told at the latest; `None` once they were.
    pub(crate) deadline: Option<Instant>,
}

/// Worker processes and who looks after them.
pub(crate) struct Fleet {
    pub(crate) handle: Handle,
    pub(crate) workers: JoinHandle<Outcome>,
}

/// How far a stop has come.
pub(crate) struct Stopping {
    /// Until when everything is served as before; `None` once that is over.
    pub(crate) announced: Option<Instant>,
    /// When what is under way is given up.
    pub(crate) deadline: Instant,
    /// Whether the workers were told.
    pub(crate) workers_told: bool,
}

/// What is left when a program is over.
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) host: Option<Host>,
    pub(crate) sockets: Option<Sockets>,
}

impl Running {
    pub(crate) async fn run(mut self) -> Ended {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let mut looks = tokio::time::interval(STOP_POLL);
        let mut tidying = tokio::time::interval(TIDY_POLL);
        let outcome = loop {
            let waiting = self.waits_for_clients();
            let ended = async {
                match &mut self.fleet {
                    Some(fleet) => (&mut fleet.workers).await,
                    None => std::future::pending().await,
                }
            };
            let changes = async {
                match &mut self.changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            let asked = async {
                match &mut self.host {
                    Some(host) => host.heard().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = ended => break ended,
                heard = asked => match heard {
                    Heard::Count(count) => drop(self.scale(count).await),
                    Heard::Renewed(renewed) => self.handle_renewed(*renewed),
                    Heard::NewerEnded(pid, how) => self.handle_newer_ended(pid, &how).await,
                },
                signal = self.signals.next() => self.handle_signal(signal).await,
                () = self.upkeep.work() => {}
                Some(order) = self.orders.recv() => self.handle_order(order).await,
                changed = changes => self.handle_changes(&changed).await,
                _ = looks.tick(), if waiting => {
                    self.look_whether_workers_may_rest().await;
                    if self.look_whether_clients_are_done().await {
                        break Ok(Outcome::Stopped);
                    }
                }
                _ = seconds.tick() => self.handle_second().await,
                _ = tidying.tick() => {
                    self.program.site.tidy();
                    self.notify();
                }
            }
        };
        self.end(outcome)
    }

    fn end(self, outcome: Result<Outcome, JoinError>) -> Ended {
        self.edge.stop();
        match outcome {
            Ok(outcome) => {
                if matches!(outcome, Outcome::Stopped) {
                    self.log.info(format_args!("stopped"));
                }
                Ended {
                    outcome,
                    host: self.host,
                    sockets: self.sockets,
                }
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Whether the workers will be told something once clients are done.
    fn waits_for_clients(&self) -> bool {
        let stopping = self.stopping.as_ref();
        let resting = self.resting.as_ref();
        stopping.is_some_and(|stopping| !stopping.workers_told || self.fleet.is_none())
            || resting.is_some_and(|resting| resting.deadline.is_some())
    }

    async fn handle_second(&mut self) {
        self.program.window.tick(&self.program.telemetry);
        self.tell_statsd();
        self.look_whether_promoted().await;
    }

    async fn handle_signal(&mut self, signal: Signal) {
        match signal {
            // As in gunicorn, whose supervisors are used to it.
            Signal::Terminate if self.is_gunicorn() && self.stopping.is_some() => {
                self.log
                    .info(format_args!("SIGTERM again: SIGINT or SIGQUIT would hurry"));
            }
            Signal::Terminate => self.stop("SIGTERM").await,
            Signal::Interrupt if self.is_gunicorn() => self.quit("SIGINT").await,
            Signal::Interrupt => self.stop("SIGINT").await,
            Signal::Quit => self.stop_at_once("SIGQUIT").await,
            Signal::Reopen => {
                if let Err(error) = self.reopen("SIGUSR1").await {
                    self.log.debug(format_args!("SIGUSR1: {error}"));
                }
            }
            Signal::Upgrade => {
                if let Err(error) = self.upgrade("SIGUSR2").await {
                    self.log
                        .warning(format_args!("SIGUSR2 is ignored: {error}"));
                }
            }
            // A terminal that changes its size sends it too.
            Signal::Rest if !self.is_daemon() => self
                .log
                .debug(format_args!("SIGWINCH is a terminal's: nothing to do")),
            Signal::Rest => {
                if let Err(error) = self.rest("SIGWINCH") {
                    self.log.debug(format_args!("SIGWINCH: {error}"));
                }
            }
            Signal::Reload => {
                // What is wrong has been logged.
                let _ = self.reload("SIGHUP").await;
            }
            Signal::More | Signal::Fewer => {
                if let Some(fleet) = &self.fleet {
                    let difference = if signal == Signal::More { 1 } else { -1 };
                    let _ = fleet.handle.scale_by(difference).await;
                }
            }
        }
    }

    fn tell_statsd(&mut self) {
        let Some(statsd) = &mut self.statsd else {
            return;
        };
        let workers = self.fleet.as_ref().map_or(0, |fleet| {
            let status = fleet.handle.status();
            let ready = |worker: &&WorkerStatus| worker.state == State::Ready;
            status.workers.iter().filter(ready).count()
        });
        let (_, queued) = self.program.site.busy();
        statsd.tell(&self.program.telemetry, Levels { workers, queued });
    }

    /// Reads the file again, if there is one, and replaces the workers, if there are any.
    async fn reload(&mut self, why: &str) -> Result<Receipt, String> {
        let mut done = Vec::new();
        if self.stopping.is_some() {
            return Err("the program is stopping".to_owned());
        }
        if let Some(notifier) = &mut self.notifier {
            notifier.reloading();
        }
        let read = match self.reread.is_some() {
            true => self.reread().await,
            false => self
                .edge
                .reload_certificates()
                .map_err(|e| format!("TLS: {e}")),
        };
        if let Err(error) = read {
            let message = format!("{error}\nnothing was changed");
            self.log.error(format_args!("{why}: {message}"));
            return Err(message);
        }
        if self.reread.is_some() {
            done.push("the configuration was read again");
        }
        if let Err(error) = self.wake() {
            self.log.error(format_args!("{why}: {error}"));
            return Err(error);
        }
        let mut generation = None;
        if let Some(fleet) = &self.fleet {
            done.push("replacing the workers one by one");
            generation = fleet.handle.reload().await;
            if generation.is_none() {
                return Err("the program is stopping".to_owned());
            }
        }
        let message = done.join("; ");
        self.log.info(format_args!("{why}: {message}"));
        Ok(Receipt {
            message,
            generation,
        })
    }

    /// Builds all that the file asks for, then swaps; an error has changed nothing.
    async fn reread(&mut self) -> Result<(), String> {
        let Some(reread) = &mut self.reread else {
            return Ok(());
        };
        let Loaded { config, app } = reread.read()?;
        // What is shared out stays as it is until the next start, and with it the most workers.
        let shared = app
            .as_ref()
            .is_some_and(|app| app.resolved.shares.is_some());
        if let (Some(fleet), Some(app), true) = (&self.fleet, &app, shared) {
            let may = fleet.handle.may_scale(app.resolved.count);
            may.map_err(|error| error.to_string())?;
        }
        let mut listeners = start::listeners(&config.listeners, false)?;
        self.activated.lend(&mut listeners);
        let (edge, plan) = self.program.site.plan(&config, listeners, self.shards)?;
        self.edge
            .reconfigure(edge)
            .map_err(|error| error.to_string())?;
        self.program.site.take_on(plan);
        self.upkeep.set_dns(&config.dns);
        self.program.set_addresses(self.edge.addresses());
        self.grace = config.graceful_shutdown;
        self.drain_delay = config.drain_delay;
        let waits = reread.left_for_the_next_start(&config);
        if !waits.is_empty() {
            let waits = waits.join(", ");
            self.log.warning(format_args!(
                "changes of {waits} take effect at the next start"
            ));
        }
        reread.config = config;
        self.upkeep.review();
        let (Some(fleet), Some(app)) = (&self.fleet, app) else {
            return Ok(());
        };
        if !shared {
            let bounds = start::bounds(&app.resolved);
            fleet.handle.set_bounds(bounds, app.resolved.relief).await;
            if let (Some(_), Some(cluster)) = (app.resolved.relief, self.program.site.app()) {
                start::ring(&cluster, &fleet.handle);
            }
        }
        if fleet.handle.status().target != app.resolved.count {
            let scaled = fleet.handle.scale(app.resolved.count).await;
            scaled.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Tells whoever started us how we are doing.
    fn notify(&mut self) {
        let Some(notifier) = &mut self.notifier else {
            return;
        };
        let now = Instant::now();
        let alive = notifier.is_due(now) && self.edge.is_alive();
        notifier.look(now, &self.program.condition(alive));
    }

    /// Stops without waiting for what is under way.
    async fn stop_at_once(&mut self, why: &str) {
        if self.is_gunicorn() {
            return self.quit(why).await;
        }
        if self.stopping.is_none() {
            self.stop(why).await;
        }
        self.stop(why).await;
    }

    /// Begins to stop; asked again, hurries.
    async fn stop(&mut self, why: &str) {
        if let Some(stopping) = &mut self.stopping {
            let announced = stopping.announced.take().is_some();
            stopping.workers_told = true;
            self.log.warning(format_args!(
                "{why} again: not waiting for what is under way"
            ));
            stopping.deadline = Instant::now();
            if announced {
                self.close_edge();
            }
            if let Some(fleet) = &self.fleet {
                fleet.handle.stop(Duration::ZERO).await;
                fleet.handle.hurry().await;
            }
            return;
        }
        self.program.draining.store(true, Ordering::Relaxed);
        if let Some(notifier) = &mut self.notifier {
            notifier.stopping();
        }
        let now = Instant::now();
        let (grace, delay) = (self.grace.as_secs_f64(), self.drain_delay.as_secs_f64());
        let announced = (!self.drain_delay.is_zero()).then(|| now + self.drain_delay);
        let first = match announced {
            Some(_) => {
                self.edge.leave();
                format!("not ready any more; serving for another {delay} s, then ")
            }
            None => {
                self.close_edge();
                String::new()
            }
        };
        self.log.info(format_args!(
            "{why}: {first}finishing what is under way, for {grace} s at most (again: at once)"
        ));
        self.stopping = Some(Stopping {
            announced,
            deadline: now + self.drain_delay + self.grace,
            workers_told: false,
        });
    }

    /// Takes no connections any more. Where somebody else takes them, those without a request are
    /// kept for a moment: a client may be about to use one.
    pub(crate) fn close_edge(&self) {
        let manners = self.host.as_ref().and_then(|host| host.manners.as_ref());
        let upgraded = manners.is_some_and(|manners| manners.upgrade.has_newer());
        let linger = match upgraded || !self.activated.is_empty() {
            true => LINGER,
            false => Duration::ZERO,
        };
        self.edge.drain(linger);
    }

    /// Nobody new may come.
    pub(crate) fn begin_to_stop(&mut self) {
        self.program.draining.store(true, Ordering::Relaxed);
        if let Some(notifier) = &mut self.notifier {
            notifier.stopping();
        }
        self.close_edge();
    }

    /// Workers are told to stop once no client can bring another request: every connection that
    /// is left has its last one at a worker. Time that is left then is the workers'. Returns
    /// whether the program is done, which the end of the workers decides when there are any.
    async fn look_whether_clients_are_done(&mut self) -> bool {
        let Some(stopping) = &mut self.stopping else {
            return false;
        };
        if let Some(until) = stopping.announced {
            if Instant::now() < until {
                return false;
            }
            stopping.announced = None;
            self.close_edge();
            return false;
        }
        // In this order: what is in flight later than the connections were counted is on them.
        let (now, closed) = (Instant::now(), self.edge.is_closed());
        let connections = self.edge.connections();
        let (in_flight, queued) = self.program.site.busy();
        let late = now >= stopping.deadline;
        let Some(fleet) = &self.fleet else {
            return late || closed && connections == 0;
        };
        if late || closed && connections <= in_flight && queued == 0 {
            stopping.workers_told = true;
            let rest = stopping.deadline.saturating_duration_since(now);
            fleet.handle.stop(rest).await;
        }
        false
    }

    async fn handle_order(&mut self, order: Order) {
        let answer = match order.command {
            AdminCommand::Reload => self.reload("admin").await,
            AdminCommand::Scale(count) => self.scale(count).await,
            AdminCommand::ScaleBy(difference) => self.scale_by(difference).await,
            AdminCommand::Reopen => self.reopen("evener reopen").await.map(receipt),
            AdminCommand::Upgrade => self.upgrade("evener upgrade").await.map(receipt),
            AdminCommand::Rest => self.rest("evener rest").map(receipt),
            AdminCommand::Quit => {
                self.stop_at_once("evener drain --quick").await;
                Ok(receipt(
                    "stopping without waiting for what is under way".to_owned(),
                ))
            }
            AdminCommand::Endpoint(order) => self.change_endpoint(&order),
            AdminCommand::Drain => {
                if self.stopping.is_none() {
                    self.stop("evener drain").await;
                }
                Ok(receipt("stopping after what is under way".to_owned()))
            }
        };
        // The one who asked may have left.
        let _ = order.reply.send(answer);
    }

    fn change_endpoint(&mut self, order: &EndpointOrder) -> Result<Receipt, String> {
        let message = self.program.site.change(order)?;
        self.upkeep.review();
        self.log.info(format_args!("admin: {message}"));
        Ok(receipt(message))
    }

    fn workers(&self) -> Result<&Fleet, String> {
        let none = || "there are no workers here: the configuration has no `[app]`".to_owned();
        self.fleet.as_ref().ok_or_else(none)
    }

    async fn scale(&self, count: usize) -> Result<Receipt, String> {
        let scaled = self.workers()?.handle.scale(count).await;
        let count = scaled.map_err(|error| error.to_string())?;
        Ok(receipt(format!("{count} workers wanted")))
    }

    async fn scale_by(&self, difference: isize) -> Result<Receipt, String> {
        let scaled = self.workers()?.handle.scale_by(difference).await;
        let count = scaled.ok_or("the program is stopping")?;
        Ok(receipt(format!("{count} workers wanted")))
    }

    async fn handle_changes(&mut self, changed: &[PathBuf]) {
        let here = std::env::current_dir().unwrap_or_default();
        let short = |path: &PathBuf| {
            path.strip_prefix(&here)
                .unwrap_or(path)
                .display()
                .to_string()
        };
        let mut names: Vec<String> = changed.iter().take(3).map(short).collect();
        if changed.len() > names.len() {
            names.push(format!("{} more", changed.len() - names.len()));
        }
        let names = names.join(", ");
        self.log
            .info(format_args!("changed: {names}; replacing the workers"));
        if let Some(fleet) = &self.fleet {
            fleet.handle.reload().await;
        }
    }
}

fn receipt(message: String) -> Receipt {
    Receipt {
        message,
        generation: None,
    }
}
