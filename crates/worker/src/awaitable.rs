//! What `receive` and `send` return: awaitables that cost no future when there is nothing to wait
//! for.
//!
//! Both classes are coroutines in the sense of `collections.abc.Coroutine`, so that
//! `asyncio.create_task(receive())` works as it does with a coroutine function.

use pyo3::exceptions::{PyStopIteration, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::exchange::Exchange;

/// An awaitable that is done: its result is None.
#[pyclass(frozen, module = "evener._worker")]
#[derive(Debug)]
pub struct Done;

#[pymethods]
impl Done {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[expect(clippy::unused_self, reason = "Python calls it on the object")]
    fn __next__(&self) -> Option<Py<PyAny>> {
        None
    }

    #[expect(clippy::unused_self, reason = "Python calls it on the object")]
    fn send(&self, _value: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyStopIteration::new_err(()))
    }

    #[pyo3(signature = (kind, value=None, traceback=None))]
    #[expect(clippy::unused_self, reason = "Python calls it on the object")]
    fn throw(
        &self,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _ = traceback;
        Err(thrown(kind, value)?)
    }

    #[expect(clippy::unused_self, reason = "Python calls it on the object")]
    fn close(&self) {}
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// The next message from the other side.
    Message,
    /// Room to send.
    Room,
}

/// An awaitable that looks for its result when it is awaited, and waits if there is none.
#[pyclass(frozen, module = "evener._worker")]
#[derive(Debug)]
pub struct Waiting {
    pub(crate) exchange: Py<Exchange>,
    pub(crate) awaited: Awaited,
}

#[pymethods]
impl Waiting {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let exchange = self.exchange.get();
        match self.awaited {
            Awaited::Message => match exchange.poll_message(py)? {
                Some(message) => Err(PyStopIteration::new_err((message.unbind(),))),
                None => exchange.wait(py, Awaited::Message).map(Some),
            },
            Awaited::Room => {
                if exchange.poll_room()? {
                    return Ok(None);
                }
                exchange.wait(py, Awaited::Room).map(Some)
            }
        }
    }

    fn send(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.__next__(py)?
            .ok_or_else(|| PyStopIteration::new_err(()))
    }

    #[pyo3(signature = (kind, value=None, traceback=None))]
    #[expect(clippy::unused_self, reason = "Python calls it on the object")]
    fn throw(
        &self,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _ = traceback;
        Err(thrown(kind, value)?)
    }

    #[expect(clippy::unused_self, reason = "Python calls it on the object")]
    fn close(&self) {}

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.exchange)
    }
}

/// The exception that `throw` was given, in any of the three forms that it takes.
pub(crate) fn thrown(kind: &Bound<'_, PyAny>, value: Option<&Bound<'_, PyAny>>) -> PyResult<PyErr> {
    let is_exception =
        |object: &Bound<'_, PyAny>| object.is_instance_of::<pyo3::exceptions::PyBaseException>();
    if let Some(value) = value.filter(|value| is_exception(value)) {
        return Ok(PyErr::from_value(value.clone()));
    }
    if is_exception(kind) {
        return Ok(PyErr::from_value(kind.clone()));
    }
    let kind = kind
        .cast::<PyType>()
        .map_err(|_| PyTypeError::new_err("throw() takes an exception or its class"))?;
    let made = match value.filter(|value| !value.is_none()) {
        Some(value) => kind.call1((value,))?,
        None => kind.call0()?,
    };
    Ok(PyErr::from_value(made))
}
