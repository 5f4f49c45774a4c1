//! What has to be done once the server's lock is free: everything that runs Python code.

use pyo3::prelude::*;

use crate::connection::Connection;

/// Which exchange on which connection: stays valid, and harmless, when the connection moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Key of the connection.
    pub(crate) key: usize,
    /// Number of the exchange; unique over the server's life.
    pub(crate) exchange: u64,
}

/// A request that is to be started as a task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartRun {
    pub(crate) place: Place,
    /// Key in the table of runs.
    pub(crate) run: usize,
}

/// Collected under the lock, done after it.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Futures to be resolved.
    pub(crate) wake: Vec<Py<PyAny>>,
    /// Requests to be started.
    pub(crate) starts: Vec<StartRun>,
    /// Objects whose end may run Python code.
    pub(crate) dropped: Vec<Connection>,
    /// A connection has something to do that no readiness will announce: another pass is due.
    pub(crate) pass_wanted: bool,
    /// Something lies in the queues that is to leave at the end of this turn of the loop.
    pub(crate) flush_wanted: bool,
    /// A listener is ready.
    pub(crate) accept: bool,
    /// The limit of requests has been reached just now.
    pub(crate) limit_reached: bool,
    /// The last run has ended while the server drains.
    pub(crate) drained: bool,
}
