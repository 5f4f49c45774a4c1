//! Starting a worker process: its own process group, its output piped, no descriptor leaked but
//! those it is meant to have, and a promise of the kernel to end it when we are killed.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use evener_vitals::Page;
use serde_json::{Map, Value, json};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use crate::nursery::NurseryError;
use crate::recipe::{NurseryRecipe, Recipe};
use crate::{Settings, WorkerId};

/// The first descriptor given to Evener's own worker.
pub(crate) const FIRST_FD: RawFd = 3;

/// A process that was just started, or ordered.
pub(crate) struct Spawned {
    pub(crate) process: Process,
    /// Its number; 0 while it is not known.
    pub(crate) pid: u32,
    pub(crate) page: Option<Arc<Page>>,
    /// Where Evener's own worker says that it is ready; a command is probed instead.
    pub(crate) ready: Option<pipe::Receiver>,
}

/// Where a process comes from.
pub(crate) enum Process {
    /// We have started it.
    Started(Child),
    /// The nursery has been told to fork it.
    Ordered {
        answer: oneshot::Receiver<Result<Value, NurseryError>>,
        /// Its standard output and error, unless it writes to ours.
        output: Option<(pipe::Receiver, pipe::Receiver)>,
    },
}

/// Who a new worker is to be.
pub(crate) struct Place<'a> {
    pub(crate) id: WorkerId,
    pub(crate) name: &'a str,
    pub(crate) socket: &'a Path,
    /// Variables of this worker alone.
    pub(crate) environment: Vec<(String, String)>,
}

/// Starts a worker that is to listen on `socket`. Must be called on the thread that lives as
/// long as the program: the kernel ends the worker when this thread ends.
pub(crate) fn spawn(settings: &Settings, place: &Place<'_>) -> io::Result<Spawned> {
    let socket = place.socket;
    match &settings.recipe {
        Recipe::Nursery(recipe) => order(settings, recipe, place),
        Recipe::Command(recipe) => {
            let arguments = recipe.arguments(socket);
            let (program, arguments) = arguments
                .split_first()
                .expect("a command recipe is not empty");
            let mut command = Command::new(program);
            command.args(arguments);
            let child = start(command, settings, place, Vec::new())?;
            let pid = child
                .id()
                .expect("a process that was not waited for has its pid");
            Ok(Spawned {
                process: Process::Started(child),
                pid,
                page: None,
                ready: None,
            })
        }
        Recipe::Python(recipe) => {
            let listener = listen(socket, settings.backlog)?;
            let (page, page_fd) = Page::create(settings.page_slots)?;
            let (ready_sender, ready) = pipe::pipe()?;
            let ready_fd = ready_sender.into_blocking_fd()?;
            let mut command = Command::new(&recipe.interpreter);
            command.args(["-m", "evener.worker"]);
            for (flag, offset) in [("--socket-fd", 0), ("--page-fd", 1), ("--ready-fd", 2)] {
                command.arg(flag).arg((FIRST_FD + offset).to_string());
            }
            command.args(&recipe.arguments);
            let given = vec![listener.into(), page_fd, ready_fd];
            let child = start(command, settings, place, given)?;
            let pid = child
                .id()
                .expect("a process that was not waited for has its pid");
            Ok(Spawned {
                process: Process::Started(child),
                pid,
                page: Some(Arc::new(page)),
                ready: Some(ready),
            })
        }
    }
}

/// Descriptors that keep 3, 4 and 5 taken in this process. Without them, the pipe on which a
/// failed exec is reported could get one of these numbers, and be overwritten by a worker's.
pub(crate) fn reserve_places() -> io::Result<Vec<OwnedFd>> {
    let mut reserved = Vec::new();
    loop {
        let fd = OwnedFd::from(fs::File::open("/dev/null")?);
        if fd.as_raw_fd() > FIRST_FD + 2 {
            return Ok(reserved);
        }
        reserved.push(fd);
    }
}

/// Sends a signal to a process, or to a process group. A process that is no more is no error.
pub(crate) fn signal(pid: u32, group: bool, signal: i32) {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return;
    };
    let target = if group { -pid } else { pid };
    // SAFETY: `kill` takes plain numbers and touches no memory of ours.
    unsafe { libc::kill(target, signal) };
}

/// A listening unix socket; a file of that name that was left over is replaced.
fn listen(socket: &Path, backlog: i32) -> io::Result<UnixListener> {
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    // SAFETY: the descriptor is open for as long as `listener` lives; listening again only
    // changes the length of the queue.
    if unsafe { libc::listen(listener.as_raw_fd(), backlog) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(listener)
}

/// Orders a worker from the nursery.
fn order(settings: &Settings, recipe: &NurseryRecipe, place: &Place<'_>) -> io::Result<Spawned> {
    let listener = listen(place.socket, settings.backlog)?;
    let (page, page_fd) = Page::create(settings.page_slots)?;
    let (ready_sender, ready) = pipe::pipe()?;
    let mut given = vec![listener.into(), page_fd, ready_sender.into_blocking_fd()?];
    let output = if recipe.output_is_ours {
        given.push(io::stdout().as_fd().try_clone_to_owned()?);
        given.push(io::stderr().as_fd().try_clone_to_owned()?);
        None
    } else {
        let (stdout_sender, stdout) = pipe::pipe()?;
        let (stderr_sender, stderr) = pipe::pipe()?;
        given.push(stdout_sender.into_blocking_fd()?);
        given.push(stderr_sender.into_blocking_fd()?);
        Some((stdout, stderr))
    };
    let mut environment = Map::new();
    for (key, value) in &place.environment {
        environment.insert(key.clone(), json!(value));
    }
    environment.insert("EVENER_SOCKET".to_owned(), json!(place.socket));
    environment.insert("EVENER_WORKER".to_owned(), json!(place.name));
    let message = json!({
        "do": "fork",
        "age": place.id.0,
        "environment": environment,
        "title": recipe.title,
    });
    Ok(Spawned {
        process: Process::Ordered {
            answer: recipe.nursery.fork(message, given),
            output,
        },
        pid: 0,
        page: Some(Arc::new(page)),
        ready: Some(ready),
    })
}

/// What every Python process of ours is started with.
fn prepare_environment(command: &mut Command) {
    if std::env::var_os("PYTHONUNBUFFERED").is_none() {
        // Output goes into a pipe now, and must not wait there for a full buffer.
        command.env("PYTHONUNBUFFERED", "1");
    }
    // Whoever breaks into the application must not find the key to its supervisor.
    command.env_remove("EVENER_ADMIN_TOKEN");
    // What concerns this process alone.
    for name in [
        "EVENER_FD",
        "EVENER_LEADER",
        "EVENER_PID",
        "LISTEN_FDS",
        "LISTEN_PID",
        "NOTIFY_SOCKET",
    ] {
        command.env_remove(name);
    }
}

/// Starts the nursery; `theirs` is its end of the socket. It writes to our own output.
pub(crate) fn start_nursery(
    mut command: Command,
    environment: &[(OsString, OsString)],
    theirs: OwnedFd,
) -> io::Result<Child> {
    prepare_environment(&mut command);
    for (key, value) in environment {
        command.env(key, value);
    }
    // It holds nothing that would have to be put away in order.
    launch(command, libc::SIGKILL, vec![theirs])
}

fn start(
    mut command: Command,
    settings: &Settings,
    place: &Place<'_>,
    given: Vec<OwnedFd>,
) -> io::Result<Child> {
    prepare_environment(&mut command);
    // uvicorn, gunicorn and hypercorn would start this many workers of their own.
    command.env_remove("WEB_CONCURRENCY");
    for (key, value) in settings.recipe.environment() {
        command.env(key, value);
    }
    for (key, value) in &place.environment {
        command.env(key, value);
    }
    command
        .env("EVENER_SOCKET", place.socket)
        .env("EVENER_WORKER", place.name);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    launch(command, libc::SIGTERM, given)
}

/// Starts a process of its own group that gets `last_signal` when we end.
fn launch(mut command: Command, last_signal: i32, given: Vec<OwnedFd>) -> io::Result<Child> {
    command.process_group(0);
    let parent = std::process::id();
    // Moved away from 3, 4, 5 first, so that placing one does not overwrite another.
    let moved = given
        .iter()
        .map(move_up)
        .collect::<io::Result<Vec<OwnedFd>>>()?;
    let raw: Vec<RawFd> = moved.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: between fork and exec only system calls are made (`prctl`, `getppid`, `dup2`,
    // `close_range`), which are async-signal-safe; nothing allocates. `raw` was collected before the fork, and its
    // descriptors live in `moved` until `spawn` has returned.
    unsafe {
        command.pre_exec(move || prepare(parent, last_signal, &raw));
    }
    let child = command.spawn();
    drop(moved);
    child
}

/// Runs in the new process, before it becomes the worker.
fn prepare(parent: u32, last_signal: i32, given: &[RawFd]) -> io::Result<()> {
    // SAFETY: plain numbers; see `start` for what may be called here.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, last_signal) != 0 {
            return Err(io::Error::last_os_error());
        }
        // Our parent may have died before the promise was made.
        if u32::try_from(libc::getppid()) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ECHILD));
        }
        for (place, fd) in (FIRST_FD..).zip(given) {
            if libc::dup2(*fd, place) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // Descriptors that we were started with ourselves are not for the worker. They are not
        // closed but marked, because the pipe that reports a failed exec is among them. Kernels
        // before 5.11 cannot do this; there they stay open, as they do for most programs.
        let first = FIRST_FD + given.len() as RawFd;
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
    Ok(())
}

/// A duplicate with a number of at least 10 that is closed on exec.
fn move_up(fd: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: `fd` is open; the result is a new descriptor that nobody else owns.
    unsafe {
        let moved = libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10);
        if moved < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(moved))
    }
}

/// A descriptor that becomes readable when the process ends. The process is a child of ours that
/// nobody has waited for, so that the number is still its own.
pub(crate) fn watch(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; the result is a new descriptor that nobody else owns.
    unsafe {
        let descriptor = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(descriptor as RawFd))
    }
}

/// Takes note of the end of a child; `None` if it has not ended.
pub(crate) fn reap(pid: u32) -> io::Result<Option<ExitStatus>> {
    let pid = libc::pid_t::try_from(pid).unwrap_or(libc::pid_t::MAX);
    let mut status = 0;
    // SAFETY: `status` is a valid place for one number.
    match unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } {
        0 => Ok(None),
        reaped if reaped > 0 => Ok(Some(ExitStatus::from_raw(status))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Children of ours that have ended and wait to be taken note of.
pub(crate) fn ended_children() -> Vec<u32> {
    let mut ended = Vec::new();
    for task in fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let listed = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let pids = listed
            .split_ascii_whitespace()
            .filter_map(|word| word.parse::<u32>().ok());
        ended.extend(pids.filter(|pid| {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with('Z'))
        }));
    }
    ended
}
