//! What a program that is run as gunicorn does at signals that mean something there: stopping at
//! once, opening logs again, a newer program beside it, going on without workers.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::nursery::Manners;
use crate::running::{Resting, Running, Stopping};

/// How long a stop that was under way may still take when somebody is in a hurry.
const HURRY: Duration = Duration::from_secs(2);

impl Running {
    /// What is done as gunicorn does it, if that is how it is run.
    fn manners(&mut self) -> Option<&mut Manners> {
        self.host.as_mut()?.manners.as_mut()
    }

    /// Whether it is run as gunicorn.
    pub(crate) fn is_gunicorn(&self) -> bool {
        let manners = self.host.as_ref().map(|host| &host.manners);
        matches!(manners, Some(Some(_)))
    }

    /// Stops without waiting for what is under way: workers are told so, and may say goodbye.
    pub(crate) async fn quit(&mut self, why: &str) {
        let now = Instant::now();
        if self.stopping.is_none() {
            self.begin_to_stop();
            self.stopping = Some(Stopping {
                announced: None,
                deadline: now + self.grace,
                workers_told: false,
            });
        } else if let Some(stopping) = &mut self.stopping {
            stopping.deadline = stopping.deadline.min(now + HURRY);
            if stopping.announced.take().is_some() {
                self.close_edge();
            }
        }
        self.log.info(format_args!(
            "{why}: stopping without waiting for what is under way"
        ));
        let Some(stopping) = &mut self.stopping else {
            return;
        };
        stopping.workers_told = true;
        let rest = stopping.deadline.saturating_duration_since(now);
        if let Some(fleet) = &self.fleet {
            fleet.handle.stop_by(libc::SIGQUIT, rest).await;
        }
    }

    /// Opens log files again, after they were moved away.
    pub(crate) async fn reopen(&mut self) {
        if !self.is_gunicorn() {
            return;
        }
        self.log
            .info(format_args!("SIGUSR1: opening log files again"));
        for file in &self.log_files {
            if let Err(error) = file.reopen() {
                self.log.error(format_args!("{error}"));
            }
        }
        if let Some(host) = &self.host
            && let Err(error) = host.nursery.tell(json!({"do": "reopen"})).await
        {
            self.log
                .error(format_args!("opening log files again: {error}"));
        }
        if let Some(fleet) = &self.fleet {
            fleet.handle.signal(libc::SIGUSR1).await;
        }
    }

    /// Starts a newer program on the same sockets.
    pub(crate) async fn upgrade(&mut self) {
        let Some(manners) = self.manners() else {
            self.log.warning(format_args!(
                "SIGUSR2 is ignored: only `evener gunicorn` can be upgraded in place"
            ));
            return;
        };
        let refusal = manners.upgrade.refusal();
        let stops = self.stopping.is_some().then(|| "it is stopping".to_owned());
        if let Some(reason) = refusal.or(stops) {
            self.log
                .warning(format_args!("SIGUSR2 is ignored: {reason}"));
            return;
        }
        if let Err(error) = self.begin_upgrade().await {
            self.log.error(format_args!(
                "SIGUSR2: no newer program was started, this one goes on: {error}"
            ));
        }
    }

    async fn begin_upgrade(&mut self) -> Result<(), String> {
        let (Some(host), Some(sockets)) = (&mut self.host, &self.sockets) else {
            return Err("it has no sockets to hand on".to_owned());
        };
        let rehearsal = json!({"do": "rehearse", "hook": "pre_exec"});
        let rehearsed = host.nursery.tell(rehearsal).await;
        rehearsed.map_err(|error| error.to_string())?;
        let Some(manners) = &mut host.manners else {
            return Ok(());
        };
        let begun = manners.upgrade.begin(sockets);
        let pid = begun.map_err(|error| error.to_string())?;
        host.nursery.kin().add(pid);
        self.log.info(format_args!(
            "SIGUSR2: a newer program (process {pid}) starts on the same sockets; SIGTERM to \
             process {} leaves the service to it",
            std::process::id()
        ));
        self.note(json!({"reexec_pid": pid})).await;
        Ok(())
    }

    /// The newer program has ended, and this one stays.
    pub(crate) async fn handle_newer_ended(&mut self, pid: u32, how: &str) {
        if let Some(host) = &self.host {
            host.nursery.kin().remove(pid);
        }
        self.log.warning(format_args!(
            "the newer program (process {pid}) {how}; this one goes on"
        ));
        self.note(json!({"reexec_pid": 0})).await;
    }

    /// Takes the place of an older program that has gone.
    pub(crate) async fn look_whether_promoted(&mut self) {
        let Some(manners) = self.manners() else {
            return;
        };
        if !manners.upgrade.is_promoted() {
            return;
        }
        let path = manners.pidfile_path.clone();
        let renamed = match (&mut manners.pidfile, path) {
            (Some(pidfile), Some(path)) => pidfile.rename(path),
            _ => Ok(()),
        };
        if let Err(error) = renamed {
            self.log.error(format_args!("{error}"));
        }
        if let Some(sockets) = &mut self.sockets {
            sockets.adopt();
        }
        self.log.info(format_args!(
            "the older program has gone: this one takes its place"
        ));
        self.note(json!({"master_pid": 0, "master_name": "Master"}))
            .await;
    }

    async fn note(&mut self, what: serde_json::Value) {
        if let Some(host) = &self.host
            && let Err(error) = host.note(what).await
        {
            self.log.debug(format_args!("the nursery: {error}"));
        }
    }

    /// Ends the workers and takes no connections, as a program in the background does that is to
    /// make way for a newer one. SIGHUP wakes it.
    pub(crate) async fn rest(&mut self) {
        if !self.manners().is_some_and(|manners| manners.daemon) {
            self.log
                .debug(format_args!("SIGWINCH is a terminal's: nothing to do"));
            return;
        }
        if self.resting.is_some() || self.stopping.is_some() {
            return;
        }
        self.log.info(format_args!(
            "SIGWINCH: ending the workers, taking no connections until SIGHUP"
        ));
        self.close_edge();
        let deadline = Instant::now() + self.grace;
        self.resting = Some(Resting {
            deadline: Some(deadline),
        });
    }

    /// Ends the workers of a resting program once no client can bring another request.
    pub(crate) async fn look_whether_workers_may_rest(&mut self) {
        let Some(Resting {
            deadline: Some(deadline),
        }) = self.resting
        else {
            return;
        };
        // In this order: what is in flight later than the connections were counted is on them.
        let closed = self.edge.is_closed();
        let connections = self.edge.connections();
        let (in_flight, queued) = self.program.site.busy();
        let done = closed && connections <= in_flight && queued == 0;
        if (done || Instant::now() >= deadline)
            && let (Some(fleet), Some(resting)) = (&self.fleet, &mut self.resting)
        {
            resting.deadline = None;
            fleet.handle.rest().await;
        }
    }

    /// Takes connections again, if it rested.
    pub(crate) fn wake(&mut self) -> Result<(), String> {
        if self.resting.take().is_none() {
            return Ok(());
        }
        let Some(sockets) = &self.sockets else {
            return Ok(());
        };
        let specs = sockets
            .specs(None, None)
            .map_err(|error| error.to_string())?;
        let resumed = self.edge.resume(specs);
        resumed.map_err(|error| error.to_string())
    }
}
