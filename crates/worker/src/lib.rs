//! `evener._worker`: the ASGI server that a Python worker runs, as an extension module.
//!
//! One `Server` serves on one event loop, in the thread of that loop and with no other thread.
//! It owns an epoll descriptor in which all its sockets and timers are; the loop (uvloop's or
//! asyncio's) watches that one descriptor. One callback serves everything that is ready: it
//! receives, parses and starts a task per request; responses leave by direct sends.
//!
//! | module | concern |
//! |---|---|
//! | `server` | the Python object: the callback, tasks, waking futures |
//! | `core` | the state behind one lock: the tables of connections and runs, one pass |
//! | `deadlines` | what is due when |
//! | `connection` | one connection: reading heads, flushing, closing |
//! | `http`, `response` | one HTTP request's `receive` and `send` |
//! | `websocket` | RFC 6455 and RFC 7692, and the WebSocket's `receive` and `send` |
//! | `run`, `exchange`, `awaitable` | what Python sees: the task's coroutine, `receive`, `send` |
//! | `scope`, `names`, `message`, `errors` | between Python objects and bytes |
//! | `output`, `system`, `vitals` | send queues, system calls, the vitals page |
//! | `process` | what a worker that was forked asks of the kernel |
//!
//! Importing the application, the lifespan, signals and the command line are Python's
//! (`python/evener`). What a request may cost and who may connect is the edge's.
//!
//! # The lock
//!
//! All mutable state of a server lies behind one mutex, which is never held while Python code can
//! run: nothing is called, no object that the garbage collector tracks is made or dropped. What
//! has to happen afterwards is collected in `Effects` and done when the lock is free.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

mod awaitable;
mod connection;
mod core;
mod deadlines;
mod effects;
mod errors;
mod exchange;
mod http;
mod message;
mod names;
mod output;
mod process;
mod response;
mod run;
mod scope;
mod server;
mod socket_messages;
mod step;
mod system;
mod vitals;
mod websocket;

/// Locks; a panic elsewhere does not make the state unusable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ASGI server behind `evener.worker`.
#[pymodule(name = "_worker", gil_used = true)]
mod module {
    #[pymodule_export]
    use crate::awaitable::{Done, Waiting};
    #[pymodule_export]
    use crate::errors::{ClientDisconnected, MessageError};
    #[pymodule_export]
    use crate::exchange::Exchange;
    #[pymodule_export]
    use crate::process::end_with_parent;
    #[pymodule_export]
    use crate::run::Run;
    #[pymodule_export]
    use crate::server::Server;
}
