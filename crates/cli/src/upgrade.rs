//! A newer program beside this one, on the same sockets (SIGUSR2), as gunicorn has it: both serve
//! until one of them is told to stop. When the older one has gone, the newer takes its place.

use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};

use crate::sockets::{INHERITED, OLDER, Sockets};

/// What concerns one process alone.
const OWN: [&str; 4] = [INHERITED, OLDER, "LISTEN_FDS", "LISTEN_PID"];

/// How this program was started, and who else of its kind there is.
#[derive(Debug)]
pub(crate) struct Upgrade {
    program: PathBuf,
    arguments: Vec<OsString>,
    folder: PathBuf,
    environment: Vec<(OsString, OsString)>,
    newer: Option<Child>,
    /// Whom we take over from, as long as it runs.
    older: Option<u32>,
}

impl Upgrade {
    /// To be called at the start: a program file that is replaced later has no path any more.
    pub(crate) fn prepare() -> io::Result<Upgrade> {
        let environment = std::env::vars_os();
        let own = |name: &OsString| OWN.iter().any(|own| name == own);
        let older = std::env::var(OLDER).ok().and_then(|pid| pid.parse().ok());
        Ok(Upgrade {
            program: std::env::current_exe()?,
            arguments: std::env::args_os().skip(1).collect(),
            folder: std::env::current_dir()?,
            environment: environment.filter(|(name, _)| !own(name)).collect(),
            newer: None,
            older,
        })
    }

    /// Whom this program takes over from, as long as it runs.
    pub(crate) fn older(&self) -> Option<u32> {
        self.older
    }

    /// Whether a newer program runs.
    pub(crate) fn has_newer(&self) -> bool {
        self.newer.is_some()
    }

    /// Why no newer program is started now.
    pub(crate) fn refusal(&self) -> Option<String> {
        match (&self.newer, self.older) {
            (Some(newer), _) => {
                let pid = newer.id().unwrap_or_default();
                Some(format!("a newer program (process {pid}) runs already"))
            }
            (None, Some(pid)) => Some(format!("the older program (process {pid}) still runs")),
            (None, None) => None,
        }
    }

    /// Starts it; returns its process id.
    pub(crate) fn begin(&mut self, sockets: &Sockets) -> io::Result<u32> {
        let descriptors = sockets.descriptors();
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .current_dir(&self.folder)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .env(INHERITED, sockets.inheritance())
            .env(OLDER, std::process::id().to_string())
            .stdin(Stdio::null());
        // SAFETY: between fork and exec only `fcntl` is called, which is async-signal-safe, on
        // descriptors that stay open as long as the sockets, which outlive this call.
        unsafe {
            command.pre_exec(move || descriptors.iter().try_for_each(|fd| keep_on_exec(*fd)));
        }
        let child = command.spawn()?;
        let pid = child.id().unwrap_or_default();
        self.newer = Some(child);
        Ok(pid)
    }

    /// Waits for the end of the newer program; never comes back if there is none.
    pub(crate) async fn ended(&mut self) -> (u32, io::Result<ExitStatus>) {
        let Some(newer) = &mut self.newer else {
            return std::future::pending().await;
        };
        let pid = newer.id().unwrap_or_default();
        let status = newer.wait().await;
        self.newer = None;
        (pid, status)
    }

    /// Whether the older program has just been found gone.
    pub(crate) fn is_promoted(&mut self) -> bool {
        let gone = self.older.is_some_and(|older| older != parent_id());
        if gone {
            self.older = None;
        }
        gone
    }
}

fn keep_on_exec(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: plain numbers.
    match unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
