//! The exceptions that the application may see from `receive` and `send`.

use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;

create_exception!(
    evener,
    MessageError,
    PyRuntimeError,
    "The application sent a message that breaks a rule of the ASGI specification."
);

create_exception!(
    evener,
    ClientDisconnected,
    PyOSError,
    "The client is gone: what was sent can no longer reach it."
);

/// Why a message could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// The client is gone.
    Disconnected,
    /// The message breaks this rule.
    Rule(&'static str),
}

impl SendError {
    /// The exception for the application; `message` is the message's type.
    pub(crate) fn into_exception(self, message: &str) -> PyErr {
        match self {
            SendError::Disconnected => {
                ClientDisconnected::new_err(format!("{message}: the client has disconnected"))
            }
            SendError::Rule(rule) => broken(message, rule),
        }
    }
}

/// A broken rule, with the message that broke it.
pub(crate) fn broken(message: &str, rule: impl std::fmt::Display) -> PyErr {
    MessageError::new_err(format!("ASGI message '{message}': {rule}"))
}

/// Whether an exception says that the client is gone, itself or through what it was raised from
/// (Starlette raises its own exception from our `OSError`).
pub(crate) fn tells_of_disconnect(py: Python<'_>, error: &PyErr) -> bool {
    let mut next = Some(error.clone_ref(py));
    // The chain is bounded: a cycle in it must not hold us.
    for _ in 0..16 {
        let Some(error) = next else { return false };
        if error.is_instance_of::<ClientDisconnected>(py) {
            return true;
        }
        let value = error.value(py);
        let linked = value
            .getattr("__cause__")
            .ok()
            .filter(|cause| !cause.is_none())
            .or_else(|| {
                value
                    .getattr("__context__")
                    .ok()
                    .filter(|context| !context.is_none())
            });
        next = linked.map(PyErr::from_value);
    }
    false
}
