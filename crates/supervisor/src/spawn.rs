//! Starting a worker process: its own process group, its output piped, no descriptor leaked but
//! those it is meant to have, and a promise of the kernel to end it when we are killed.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use evener_vitals::Page;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use crate::Settings;
use crate::recipe::Recipe;

/// The first descriptor given to Evener's own worker.
const FIRST_FD: RawFd = 3;

/// A process that was just started.
pub(crate) struct Spawned {
    pub(crate) child: Child,
    pub(crate) pid: u32,
    pub(crate) page: Option<Arc<Page>>,
    /// Where Evener's own worker says that it is ready; a command is probed instead.
    pub(crate) ready: Option<pipe::Receiver>,
}

/// Starts a worker that is to listen on `socket`. Must be called on the thread that lives as
/// long as the program: the kernel ends the worker when this thread ends.
pub(crate) fn spawn(settings: &Settings, name: &str, socket: &Path) -> io::Result<Spawned> {
    match &settings.recipe {
        Recipe::Command(recipe) => {
            let arguments = recipe.arguments(socket);
            let (program, arguments) = arguments
                .split_first()
                .expect("a command recipe is not empty");
            let mut command = Command::new(program);
            command.args(arguments);
            let child = start(command, settings, name, socket, Vec::new())?;
            let pid = child
                .id()
                .expect("a process that was not waited for has its pid");
            Ok(Spawned {
                child,
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
            let child = start(command, settings, name, socket, given)?;
            let pid = child
                .id()
                .expect("a process that was not waited for has its pid");
            Ok(Spawned {
                child,
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

fn start(
    mut command: Command,
    settings: &Settings,
    name: &str,
    socket: &Path,
    given: Vec<OwnedFd>,
) -> io::Result<Child> {
    if std::env::var_os("PYTHONUNBUFFERED").is_none() {
        // Output goes into a pipe now, and must not wait there for a full buffer.
        command.env("PYTHONUNBUFFERED", "1");
    }
    // uvicorn, gunicorn and hypercorn would start this many workers of their own.
    command.env_remove("WEB_CONCURRENCY");
    // Whoever breaks into the application must not find the key to its supervisor.
    command.env_remove("EVENER_ADMIN_TOKEN");
    for (key, value) in settings.recipe.environment() {
        command.env(key, value);
    }
    command
        .env("EVENER_SOCKET", socket)
        .env("EVENER_WORKER", name);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
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
        command.pre_exec(move || prepare(parent, &raw));
    }
    let child = command.spawn();
    drop(moved);
    child
}

/// Runs in the new process, before it becomes the worker.
fn prepare(parent: u32, given: &[RawFd]) -> io::Result<()> {
    // SAFETY: plain numbers; see `start` for what may be called here.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
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
