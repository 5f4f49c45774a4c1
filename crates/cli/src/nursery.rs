//! The nursery of one run: started before anything else, told what to do at each step of the
//! program's life, and what gunicorn's hooks and files need besides.

use std::path::PathBuf;
use std::time::Duration;

use evener_config::Config;
use evener_edge::Relays;
use evener_supervisor::{Nursery, NurseryError, NurserySettings, NurseryStart, SetUp};
use evener_telemetry::Log;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::Failure;
use crate::pidfile::Pidfile;
use crate::upgrade::Upgrade;

/// A nursery, and what the program does on its behalf.
pub(crate) struct Host {
    pub(crate) nursery: Nursery,
    /// Numbers of workers that hooks ask for.
    pub(crate) asked: mpsc::Receiver<usize>,
    /// Set for `evener gunicorn`.
    pub(crate) manners: Option<Manners>,
}

/// What is done as gunicorn does it.
pub(crate) struct Manners {
    /// Where the process id is written.
    pub(crate) pidfile: Option<Pidfile>,
    /// Where it is written once no older program has that place.
    pub(crate) pidfile_path: Option<PathBuf>,
    /// A newer program can take over.
    pub(crate) upgrade: Upgrade,
    /// It runs in the background, where SIGWINCH is not a terminal's.
    pub(crate) daemon: bool,
    /// What the file says when it was read again.
    pub(crate) renewed: mpsc::UnboundedReceiver<Box<Renewed>>,
}

/// Settings of the data plane, read again for a reload.
pub(crate) struct Renewed {
    pub(crate) config: Config,
    pub(crate) relays: Option<Relays>,
}

/// Starts a nursery; also what it says about gunicorn's settings.
pub(crate) async fn start(
    settings: NurserySettings,
    log: Log,
) -> Result<(Host, Value), NurseryStart> {
    let (sender, asked) = mpsc::channel(16);
    let (nursery, loaded) = Nursery::start(settings, log, sender).await?;
    let host = Host {
        nursery,
        asked,
        manners: None,
    };
    Ok((host, loaded))
}

/// What a nursery that could not be started means for the program.
pub(crate) fn failure(error: NurseryStart) -> Failure {
    match error {
        NurseryStart::System(error) => {
            Failure::system(format!("cannot start the nursery: {error}"))
        }
        // It has said why.
        NurseryStart::Ended(status) => Failure::said(status.code().unwrap_or(1)),
    }
}

/// What the outside has to say to a program in between.
pub(crate) enum Heard {
    /// A hook wants so many workers.
    Count(usize),
    /// The settings were read again, and are good.
    Renewed(Box<Renewed>),
    /// The newer program with this process id has ended, and how.
    NewerEnded(u32, String),
}

impl Host {
    /// Waits for the next thing.
    pub(crate) async fn heard(&mut self) -> Heard {
        let Some(manners) = &mut self.manners else {
            return match self.asked.recv().await {
                Some(count) => Heard::Count(count),
                None => std::future::pending().await,
            };
        };
        tokio::select! {
            Some(count) = self.asked.recv() => Heard::Count(count),
            Some(renewed) = manners.renewed.recv() => Heard::Renewed(renewed),
            (pid, status) = manners.upgrade.ended() => {
                let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                Heard::NewerEnded(pid, format!("has ended: {how}"))
            }
        }
    }

    /// Has it import the application, if it is to, and get ready to fork.
    pub(crate) async fn set_up(&self, set_up: SetUp) -> Result<(), Failure> {
        self.nursery
            .set_up(set_up)
            .await
            .map_err(|error| match error {
                NurseryError::Refused {
                    text,
                    raised: false,
                } => Failure::application(text),
                error => Failure::system(error.to_string()),
            })
    }

    /// Before anybody can connect.
    pub(crate) async fn before_listening(&mut self) -> Result<(), Failure> {
        if let Some(manners) = &mut self.manners {
            if let Some(pidfile) = &mut manners.pidfile {
                pidfile.create().map_err(Failure::system)?;
            }
            self.hook("on_starting").await?;
        }
        Ok(())
    }

    /// Clients can connect; no worker is there yet.
    pub(crate) async fn listening(&self, addresses: &[String]) -> Result<(), Failure> {
        if self.manners.is_none() {
            return Ok(());
        }
        let message = json!({"do": "listening", "addresses": addresses});
        self.nursery
            .tell(message)
            .await
            .map_err(|error| Failure::system(error.to_string()))?;
        self.hook("when_ready").await
    }

    /// The workers are gone; nothing comes after this. As in gunicorn, an exception that a hook has
    /// raised ends the program without `on_exit`.
    pub(crate) async fn over(&mut self, raised: bool) -> Result<(), Failure> {
        let mut ended = Ok(());
        if let Some(manners) = &mut self.manners {
            drop(manners.pidfile.take());
            if !raised {
                ended = self.hook("on_exit").await;
            }
        }
        let _ = tokio::time::timeout(Duration::from_secs(3), self.nursery.quit()).await;
        ended
    }

    /// Lets hooks see that something about the server has changed.
    pub(crate) async fn note(&self, what: Value) -> Result<(), NurseryError> {
        self.nursery
            .tell(json!({"do": "note", "server": what}))
            .await
    }

    async fn hook(&self, name: &str) -> Result<(), Failure> {
        self.nursery
            .call(name)
            .await
            .map_err(|error| Failure::system(format!("{name}: {error}")))
    }
}
