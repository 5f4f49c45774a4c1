//! One worker process as the supervisor knows it, and the task that watches it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use evener_policy::lifecycle::{Lifecycle, State};
use evener_policy::recycle::Allowance;
use evener_policy::rollout::{Phase, View, Why};
use evener_policy::stall::Watch as StallWatch;
use evener_telemetry::Log;
use evener_vitals::Page;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, Interest};
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};

use crate::nursery::NurseryError;
use crate::output::{Destination, Output};
use crate::probe::{self, Answer};
use crate::spawn::{self, Process, Spawned};
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
    /// The nursery has forked the process.
    Forked(WorkerId, u32),
    /// There is no process: the nursery went away before it forked one.
    Unborn(WorkerId),
    /// The nursery could not fork it.
    Refused(WorkerId, NurseryError),
    /// A hook has raised an exception, which ends the program as it ends gunicorn.
    Raised(String),
    /// The nursery has taken up what has changed, or not; then the workers are replaced.
    Renewed {
        answer: Result<serde_json::Value, NurseryError>,
        reply: Option<oneshot::Sender<u32>>,
    },
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
    /// What it may do before it is replaced.
    pub(crate) allowance: Allowance,
    /// Over its loop, when that may not stand still for ever.
    pub(crate) stall: Option<StallWatch>,
    /// Whether it was told that it is the one for jobs that must run once.
    pub(crate) leader: bool,
    pub(crate) expired: bool,
    alive: Arc<AtomicBool>,
    /// It was told to go before it had a number.
    doomed: bool,
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
    /// What it may do before it is replaced.
    pub(crate) allowance: Allowance,
    /// Over its loop, when that may not stand still for ever.
    pub(crate) stall: Option<StallWatch>,
    pub(crate) leader: bool,
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
            output: birth.output.clone(),
            log: log.clone(),
            alive: Arc::clone(&alive),
            notes,
        };
        let socket = birth.socket.clone();
        let process = spawned.process;
        match spawned.ready {
            Some(pipe) => tokio::spawn(watch.begin(process, probe::pipe(pipe))),
            None => {
                let probe = async move { probe::command(&socket).await };
                tokio::spawn(watch.begin(process, probe))
            }
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
            allowance: birth.allowance,
            stall: birth.stall,
            leader: birth.leader,
            expired: false,
            alive,
            doomed: false,
        }
    }

    /// The process exists now.
    pub(crate) fn born(&mut self, pid: u32) {
        self.pid = pid;
        if self.doomed {
            self.kill();
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
            leader: self.leader,
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
    pub(crate) fn terminate(&mut self) {
        self.send(false, libc::SIGTERM);
    }

    /// Ends the process and all that it started.
    pub(crate) fn kill(&mut self) {
        self.send(true, libc::SIGKILL);
    }

    /// Sends a signal to the process, or to all that it started as well. One that does not exist
    /// yet is ended as soon as it does.
    pub(crate) fn send(&mut self, group: bool, signal: i32) {
        if self.pid == 0 {
            self.doomed = true;
        } else if self.alive.load(Ordering::Relaxed) {
            spawn::signal(self.pid, group, signal);
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
    output: Output,
    log: Log,
    alive: Arc<AtomicBool>,
    notes: mpsc::Sender<Note>,
}

/// A process that can be waited for.
enum Waited {
    Child(Child),
    Forked { pid: u32, end: AsyncFd<OwnedFd> },
}

impl Waited {
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        match self {
            Waited::Child(child) => child.wait().await,
            Waited::Forked { pid, end } => loop {
                let mut guard = end.readable().await?;
                if let Some(status) = spawn::reap(*pid)? {
                    return Ok(status);
                }
                guard.clear_ready();
            },
        }
    }
}

impl Watch {
    async fn begin(mut self, process: Process, probe: impl Future<Output = Answer>) {
        match process {
            Process::Started(mut child) => {
                let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
                self.run(Waited::Child(child), stdout, stderr, probe).await;
            }
            Process::Ordered { answer, output } => {
                let forked = match answer.await {
                    Ok(Ok(answer)) => answer["pid"].as_u64().and_then(|pid| pid.try_into().ok()),
                    Ok(Err(error @ NurseryError::Refused { .. })) => {
                        let _ = self.notes.send(Note::Refused(self.id, error)).await;
                        return;
                    }
                    Ok(Err(NurseryError::Gone)) | Err(_) => None,
                };
                let end = forked.and_then(|pid| {
                    let descriptor = spawn::watch(pid).ok()?;
                    // SAFETY: an owned descriptor stands for the same open file all its life.
                    let end =
                        unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
                    Some((pid, end.ok()?))
                });
                let Some((pid, end)) = end else {
                    let _ = self.notes.send(Note::Unborn(self.id)).await;
                    return;
                };
                self.pid = pid;
                let _ = self.notes.send(Note::Forked(self.id, pid)).await;
                let (stdout, stderr) = output.unzip();
                self.run(Waited::Forked { pid, end }, stdout, stderr, probe)
                    .await;
            }
        }
    }

    async fn run(
        self,
        mut process: Waited,
        stdout: Option<impl AsyncRead + Unpin + Send + 'static>,
        stderr: Option<impl AsyncRead + Unpin + Send + 'static>,
        probe: impl Future<Output = Answer>,
    ) {
        let stdout = stdout.map(|stream| {
            tokio::spawn(
                self.output
                    .clone()
                    .forward(stream, Destination::Stdout, false),
            )
        });
        let stderr = stderr.map(|stream| {
            let destination = Destination::Log(self.log.clone());
            tokio::spawn(self.output.clone().forward(stream, destination, true))
        });
        let mut probe = std::pin::pin!(probe);
        let mut answered = false;
        let status = loop {
            tokio::select! {
                biased;
                status = process.wait() => break status,
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
