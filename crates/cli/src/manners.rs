//! What a program that is run as gunicorn does at signals that mean something there: stopping at
//! once, opening logs again, a newer program beside it, going on without workers.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::nursery::{Manners, Renewed};
use crate::running::{Resting, Running, Stopping};
use crate::start::listening_terms;

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

    /// Whether it is run as gunicorn in the background.
    pub(crate) fn is_daemon(&self) -> bool {
        let manners = self.host.as_ref().and_then(|host| host.manners.as_ref());
        manners.is_some_and(|manners| manners.daemon)
    }

    /// Opens log files again, after they were moved away.
    pub(crate) async fn reopen(&mut self, why: &str) -> Result<String, String> {
        if !self.is_gunicorn() {
            return Err(
                "it writes to standard output and error, and has no log files of its own"
                    .to_owned(),
            );
        }
        let mut wrong = Vec::new();
        self.log
            .info(format_args!("{why}: opening log files again"));
        for file in &self.log_files {
            if let Err(error) = file.reopen() {
                wrong.push(error);
            }
        }
        if let Some(host) = &self.host
            && let Err(error) = host.nursery.tell(json!({"do": "reopen"})).await
        {
            wrong.push(format!("opening log files again: {error}"));
        }
        if let Some(fleet) = &self.fleet {
            fleet.handle.signal(libc::SIGUSR1).await;
        }
        for error in &wrong {
            self.log.error(format_args!("{error}"));
        }
        match wrong.is_empty() {
            true => Ok("log files were opened again".to_owned()),
            false => Err(wrong.join("\n")),
        }
    }

    /// Starts a newer program on the same sockets.
    pub(crate) async fn upgrade(&mut self, why: &str) -> Result<String, String> {
        let stops = self.stopping.is_some();
        let Some(manners) = self.manners() else {
            return Err("only `evener gunicorn` can be upgraded in place".to_owned());
        };
        if let Some(reason) = manners.upgrade.refusal() {
            return Err(reason);
        }
        if stops {
            return Err("it is stopping".to_owned());
        }
        let begun = self
            .begin_upgrade()
            .await
            .map_err(|error| format!("no newer program was started, this one goes on: {error}"));
        let pid = begun?;
        let own = std::process::id();
        let message = format!(
            "a newer program (process {pid}) starts on the same sockets; SIGTERM to process {own} \
             leaves the service to it"
        );
        self.log.info(format_args!("{why}: {message}"));
        self.note(json!({"reexec_pid": pid})).await;
        Ok(message)
    }

    async fn begin_upgrade(&mut self) -> Result<u32, String> {
        let nothing = || "it has no sockets to hand on".to_owned();
        let (Some(host), Some(sockets)) = (&mut self.host, &self.sockets) else {
            return Err(nothing());
        };
        let rehearsal = json!({"do": "rehearse", "hook": "pre_exec"});
        let rehearsed = host.nursery.tell(rehearsal).await;
        rehearsed.map_err(|error| error.to_string())?;
        let manners = host.manners.as_mut().ok_or_else(nothing)?;
        let begun = manners.upgrade.begin(sockets);
        let pid = begun.map_err(|error| error.to_string())?;
        host.nursery.kin().add(pid);
        Ok(pid)
    }

    /// Takes up settings of the data plane that were read again.
    pub(crate) fn handle_renewed(&mut self, renewed: Renewed) {
        if let Err(error) = self.renew(renewed) {
            self.log.error(format_args!(
                "the data plane goes on with the settings it had: {error}"
            ));
        }
    }

    fn renew(&mut self, renewed: Renewed) -> Result<(), String> {
        let Renewed { config, relays } = renewed;
        let Some(sockets) = &mut self.sockets else {
            return Ok(());
        };
        let terms = listening_terms(&config)?;
        sockets.set_relays(relays);
        let listeners = sockets.specs(terms.0.as_ref(), terms.1);
        let listeners = listeners.map_err(|error| error.to_string())?;
        let (edge, plan) = self.program.site.plan(&config, listeners, self.shards)?;
        let reconfigured = self.edge.reconfigure(edge);
        reconfigured.map_err(|error| error.to_string())?;
        self.program.site.take_on(plan);
        self.grace = config.graceful_shutdown;
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
        let administration = &mut self.administration;
        if let (Some(place), Some(socket)) =
            (administration.place.take(), &mut administration.socket)
            && let Err(error) = socket.rename(place)
        {
            self.log.error(format_args!("the admin socket: {error}"));
        }
        if let Some(sockets) = &mut self.sockets {
            sockets.adopt();
        }
        if let Some(fleet) = &self.fleet {
            fleet.handle.lead().await;
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

    /// Ends the workers and takes no connections, as a program does that is to make way for a newer
    /// one. A reload wakes it.
    pub(crate) fn rest(&mut self, why: &str) -> Result<String, String> {
        if !self.is_gunicorn() {
            return Err("only `evener gunicorn` can go on without workers".to_owned());
        }
        if self.stopping.is_some() {
            return Err("it is stopping".to_owned());
        }
        if self.resting.is_some() {
            return Err("it rests already".to_owned());
        }
        self.log.info(format_args!(
            "{why}: ending the workers, taking no connections until SIGHUP"
        ));
        self.close_edge();
        let deadline = Instant::now() + self.grace;
        self.resting = Some(Resting {
            deadline: Some(deadline),
        });
        Ok("ending the workers, taking no connections until `evener reload`".to_owned())
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
