//! The nursery: a Python process with one thread that forks workers on our order, after it has
//! imported the application if that was asked for, and that runs gunicorn's server-side hooks.
//!
//! It holds nothing that cannot be made again. A forked worker is *our* child, watched like any
//! other; when the nursery dies a new one is started, and no worker notices. What is forked when is
//! left to the supervisor's plan.

mod driver;
mod link;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use evener_telemetry::Log;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use driver::{Driver, Order};

/// How a nursery is started.
#[derive(Debug, Clone)]
pub struct NurserySettings {
    /// The interpreter.
    pub interpreter: PathBuf,
    /// gunicorn's command line, if its settings and hooks count.
    pub gunicorn: Option<Vec<OsString>>,
    /// Variables set on top of our own environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// What every nursery is told before it forks, the first one and those that follow it.
#[derive(Debug, Clone)]
pub struct SetUp {
    /// The flags and the application of the workers.
    pub arguments: Vec<String>,
    /// Whether the application is imported before workers are forked.
    pub preload: bool,
    /// The nursery's name in listings of processes.
    pub title: Option<String>,
    /// The process that this program takes over from; 0 if there is none.
    pub upgraded_from: u32,
}

/// Why the nursery did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NurseryError {
    /// It ended, or was ended, before it answered.
    Gone,
    /// It says why.
    Refused {
        /// In its words, a traceback perhaps.
        text: String,
        /// A hook raised an exception.
        raised: bool,
    },
}

impl fmt::Display for NurseryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NurseryError::Gone => formatter.write_str("the nursery is gone"),
            NurseryError::Refused { text, .. } => formatter.write_str(text),
        }
    }
}

impl std::error::Error for NurseryError {}

/// Why there is no nursery.
#[derive(Debug)]
pub enum NurseryStart {
    /// The process could not be made.
    System(io::Error),
    /// It ended by itself, as for a configuration that is refused; it has said why.
    Ended(ExitStatus),
}

/// A way to talk to the nursery.
#[derive(Debug, Clone)]
pub struct Nursery {
    orders: mpsc::UnboundedSender<Order>,
    kin: Kin,
}

/// Processes of ours that are no workers; what else ends below us is a stranger and only reaped.
#[derive(Debug, Clone, Default)]
pub struct Kin(Arc<Mutex<HashSet<u32>>>);

impl Kin {
    /// Somebody waits for this process.
    pub fn add(&self, pid: u32) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pid);
    }

    /// Its end has been heard of.
    pub fn remove(&self, pid: u32) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&pid);
    }

    pub(crate) fn has(&self, pid: u32) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&pid)
    }
}

impl Nursery {
    /// Starts a nursery, and returns what it says about gunicorn's settings (`null` without
    /// them). Must be called on the thread that lives as long as the program.
    ///
    /// `asked` hears of numbers of workers that hooks ask for.
    pub async fn start(
        settings: NurserySettings,
        log: Log,
        asked: mpsc::Sender<usize>,
    ) -> Result<(Nursery, Value), NurseryStart> {
        // SAFETY: plain numbers. From now on processes below us whose parent has ended are ours.
        if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) } != 0 {
            return Err(NurseryStart::System(io::Error::last_os_error()));
        }
        let kin = Kin::default();
        let (orders, received) = mpsc::unbounded_channel();
        let (driver, loaded) = Driver::start(settings, log, received, kin.clone(), asked).await?;
        tokio::spawn(driver.run());
        Ok((Nursery { orders, kin }, loaded))
    }

    /// Has it get ready to fork. To be called once, before anything else.
    pub async fn set_up(&self, set_up: SetUp) -> Result<(), NurseryError> {
        self.ask(|reply| Order::SetUp { set_up, reply })
            .await
            .map(drop)
    }

    /// Has it run a hook that takes the server only.
    pub async fn call(&self, hook: &str) -> Result<(), NurseryError> {
        self.tell(json!({"do": "call", "hook": hook, "remember": true}))
            .await
    }

    /// Has it do something else.
    pub async fn tell(&self, message: Value) -> Result<(), NurseryError> {
        self.ask(|reply| Order::Tell {
            message,
            descriptors: Vec::new(),
            reply,
        })
        .await
        .map(drop)
    }

    /// Has it do something, in its own time.
    pub fn post(&self, message: Value) {
        drop(self.fork(message, Vec::new()));
    }

    /// Workers that it forks from now on have these flags.
    pub fn use_arguments(&self, arguments: Vec<String>) {
        // A driver that is over forks no more.
        let _ = self.orders.send(Order::Arguments(arguments));
    }

    /// From now on what happens to it is told to this log.
    pub fn tell_to(&self, log: Log) {
        // A driver that is over has nothing to tell.
        let _ = self.orders.send(Order::Log(log));
    }

    /// Has it take up what has changed: gunicorn's settings, or the application it has imported.
    /// Returns the settings, if it has any. What is refused changes nothing.
    pub async fn reload(&self) -> Result<Value, NurseryError> {
        let mut answer = self.ask(|reply| Order::Reload { reply }).await?;
        Ok(answer["loaded"].take())
    }

    /// Has it end.
    pub async fn quit(&self) {
        let _ = self.ask(|reply| Order::Quit { reply }).await;
    }

    /// Processes that are waited for.
    pub fn kin(&self) -> &Kin {
        &self.kin
    }

    /// Orders a worker; its process id comes later.
    pub(crate) fn fork(
        &self,
        message: Value,
        descriptors: Vec<OwnedFd>,
    ) -> oneshot::Receiver<Result<Value, NurseryError>> {
        let (reply, receiver) = oneshot::channel();
        // A driver that is over drops the reply, which says so.
        let _ = self.orders.send(Order::Tell {
            message,
            descriptors,
            reply,
        });
        receiver
    }

    async fn ask(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<Value, NurseryError>>) -> Order,
    ) -> Result<Value, NurseryError> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.orders.send(order(sender));
        receiver.await.unwrap_or(Err(NurseryError::Gone))
    }
}
