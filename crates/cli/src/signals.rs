//! The signals that a running program obeys.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM: finish and stop.
    Terminate,
    /// SIGINT: the same for `evener run`, stop at once for gunicorn.
    Interrupt,
    /// SIGQUIT: stop at once.
    Quit,
    /// SIGHUP: replace the workers.
    Reload,
    /// SIGTTIN: one more worker, as in gunicorn.
    More,
    /// SIGTTOU: one worker less.
    Fewer,
    /// SIGUSR1: open log files again.
    Reopen,
    /// SIGUSR2: start a newer program beside this one.
    Upgrade,
    /// SIGWINCH: go on without workers, if in the background.
    Rest,
}

/// Streams of all of them.
pub(crate) struct Signals {
    terminate: Stream,
    interrupt: Stream,
    quit: Stream,
    hangup: Stream,
    more: Stream,
    fewer: Stream,
    reopen: Stream,
    upgrade: Stream,
    rest: Stream,
}

impl Signals {
    /// From now on these signals do not end the program by themselves.
    pub(crate) fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            more: signal(SignalKind::from_raw(libc::SIGTTIN))?,
            fewer: signal(SignalKind::from_raw(libc::SIGTTOU))?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
            rest: signal(SignalKind::window_change())?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.terminate.recv() => Signal::Terminate,
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.quit.recv() => Signal::Quit,
            Some(()) = self.hangup.recv() => Signal::Reload,
            Some(()) = self.more.recv() => Signal::More,
            Some(()) = self.fewer.recv() => Signal::Fewer,
            Some(()) = self.reopen.recv() => Signal::Reopen,
            Some(()) = self.upgrade.recv() => Signal::Upgrade,
            Some(()) = self.rest.recv() => Signal::Rest,
            else => std::future::pending().await,
        }
    }
}
