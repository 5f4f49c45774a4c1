//! The signals that a running program obeys.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM, SIGINT (named): finish and stop; a second one: stop at once.
    Stop(&'static str),
    /// SIGHUP: replace the workers.
    Reload,
    /// SIGTTIN: one more worker, as in gunicorn.
    More,
    /// SIGTTOU: one worker less.
    Fewer,
}

/// Streams of all of them.
pub(crate) struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
    more: Stream,
    fewer: Stream,
}

impl Signals {
    /// From now on these signals do not end the program by themselves.
    pub(crate) fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            more: signal(SignalKind::from_raw(libc::SIGTTIN))?,
            fewer: signal(SignalKind::from_raw(libc::SIGTTOU))?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.terminate.recv() => Signal::Stop("SIGTERM"),
            Some(()) = self.interrupt.recv() => Signal::Stop("SIGINT"),
            Some(()) = self.hangup.recv() => Signal::Reload,
            Some(()) = self.more.recv() => Signal::More,
            Some(()) = self.fewer.recv() => Signal::Fewer,
            else => std::future::pending().await,
        }
    }
}
