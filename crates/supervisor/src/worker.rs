//! One worker process as the supervisor knows it, and the task that watches it.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use evener_policy::lifecycle::{Lifecycle, State};
use evener_policy::rollout::{Phase, View, Why};
use evener_telemetry::Log;
use evener_vitals::Page;
use tokio::process::Child;
use tokio::sync::mpsc;

use crate::output::{Destination, Output};
use crate::probe::{self, Answer};
use crate::spawn::{self, Spawned};
use crate::{ReadyWorker, WorkerId};

/// How long the last output of a process that is over is waited for: a descendant may hold the
/// pipe open.
const LAST_OUTPUT: Duration = Duration::from_millis(300);

/// What the watching task tells the supervisor.
#[derive(Debug)]
pub(crate) enum Note {
    /// The worker has said that it is ready, or that it cannot start.
    Answered(WorkerId, Answer),
    /// The process is over.
    Exited(WorkerId, ExitStatus),
}

/// One worker process.
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) socket: PathBuf,
    pub(crate) page: Option<Arc<Page>>,
    pub(crate) life: Lifecycle,
    pub(crate) generation: u32,
    pub(crate) why: Why,
    /// It was told to go; its end is no surprise.
    pub(crate) leaving: bool,
    /// Why it was ended while it started.
    pub(crate) failure: Option<String>,
    pub(crate) output: Output,
    pub(crate) restarts: u32,
    pub(crate) requests_max: Option<u64>,
    pub(crate) expired: bool,
    alive: Arc<AtomicBool>,
}

/// What is known about a worker before its process exists.
pub(crate) struct Birth {
    pub(crate) id: WorkerId,
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    pub(crate) life: Lifecycle,
    pub(crate) generation: u32,
    pub(crate) why: Why,
    pub(crate) output: Output,
    pub(crate) restarts: u32,
    pub(crate) requests_max: Option<u64>,
}

impl Worker {
    /// A worker whose process runs; begins to watch it.
    pub(crate) fn watched(
        birth: Birth,
        spawned: Spawned,
        log: &Log,
        notes: mpsc::Sender<Note>,
    ) -> Worker {
        let alive = Arc::new(AtomicBool::new(true));
        let watch = Watch {
            id: birth.id,
            pid: spawned.pid,
            child: spawned.child,
            output: birth.output.clone(),
            log: log.clone(),
            alive: Arc::clone(&alive),
            notes,
        };
        let socket = birth.socket.clone();
        match spawned.ready {
            Some(pipe) => tokio::spawn(watch.run(probe::pipe(pipe))),
            None => tokio::spawn(watch.run(async move { probe::command(&socket).await })),
        };
        Worker {
            id: birth.id,
            name: birth.name,
            pid: spawned.pid,
            socket: birth.socket,
            page: spawned.page,
            life: birth.life,
            generation: birth.generation,
            why: birth.why,
            leaving: false,
            failure: None,
            output: birth.output,
            restarts: birth.restarts,
            requests_max: birth.requests_max,
            expired: false,
            alive,
        }
    }

    /// As planning sees it.
    pub(crate) fn view(&self) -> View {
        let phase = match self.life.state() {
            State::Starting => Phase::Starting,
            State::Ready => Phase::Ready,
            // It failed; until its death has been judged, its place is not free.
            State::Stopping if !self.leaving => Phase::Starting,
            State::Draining | State::Stopping | State::Gone => Phase::Leaving,
        };
        View {
            id: self.id.0,
            generation: self.generation,
            phase,
            expired: self.expired,
        }
    }

    /// As the balancer sees it.
    pub(crate) fn ready(&self) -> ReadyWorker {
        ReadyWorker {
            id: self.id,
            name: self.name.clone(),
            socket: self.socket.clone(),
            page: self.page.clone(),
        }
    }

    /// Asks the process to end.
    pub(crate) fn terminate(&self) {
        if self.alive.load(Ordering::Relaxed) {
            spawn::signal(self.pid, false, libc::SIGTERM);
        }
    }

    /// Ends the process and all that it started.
    pub(crate) fn kill(&self) {
        if self.alive.load(Ordering::Relaxed) {
            spawn::signal(self.pid, true, libc::SIGKILL);
        }
    }

    /// Removes what it left in the file system.
    pub(crate) fn clear(&self) {
        // A socket that is not there was never made, or was removed by the worker.
        let _ = fs::remove_file(&self.socket);
    }
}

/// How a process ended, in words that follow its name.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => {
            let name = match signal {
                libc::SIGKILL => " (SIGKILL; the kernel does this when memory runs out)",
                libc::SIGTERM => " (SIGTERM)",
                libc::SIGSEGV => " (SIGSEGV)",
                libc::SIGABRT => " (SIGABRT)",
                libc::SIGBUS => " (SIGBUS)",
                libc::SIGILL => " (SIGILL)",
                libc::SIGINT => " (SIGINT)",
                _ => "",
            };
            format!("was killed by signal {signal}{name}")
        }
        (None, None) => "ended".to_owned(),
    }
}

/// The task that watches one process.
struct Watch {
    id: WorkerId,
    pid: u32,
    child: Child,
    output: Output,
    log: Log,
    alive: Arc<AtomicBool>,
    notes: mpsc::Sender<Note>,
}

impl Watch {
    async fn run(mut self, probe: impl Future<Output = Answer>) {
        let stdout = self.child.stdout.take().map(|stream| {
            tokio::spawn(
                self.output
                    .clone()
                    .forward(stream, Destination::Stdout, false),
            )
        });
        let stderr = self.child.stderr.take().map(|stream| {
            let destination = Destination::Log(self.log.clone());
            tokio::spawn(self.output.clone().forward(stream, destination, true))
        });
        let mut probe = std::pin::pin!(probe);
        let mut answered = false;
        let status = loop {
            tokio::select! {
                biased;
                status = self.child.wait() => break status,
                answer = &mut probe, if !answered => {
                    answered = true;
                    // The supervisor listens as long as a worker lives.
                    let _ = self.notes.send(Note::Answered(self.id, answer)).await;
                }
            }
        };
        // Set before anything else runs on this thread: from here on the number may be another
        // process's.
        self.alive.store(false, Ordering::Relaxed);
        // What the worker started must not outlive it.
        spawn::signal(self.pid, true, libc::SIGTERM);
        for reader in [stdout, stderr].into_iter().flatten() {
            let abort = reader.abort_handle();
            if tokio::time::timeout(LAST_OUTPUT, reader).await.is_err() {
                abort.abort();
            }
        }
        let status = status.unwrap_or_else(|error| {
            self.log.error(format_args!(
                "cannot wait for process {}: {error}",
                self.pid
            ));
            ExitStatus::from_raw(0)
        });
        let _ = self.notes.send(Note::Exited(self.id, status)).await;
    }
}
