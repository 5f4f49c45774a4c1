//! One step of a coroutine, by CPython's own entry point: no exception is made for its end.
//!
//! `PyIter_Send` is what `await` and asyncio's tasks use themselves. PyO3 offers it for iterators
//! only, which coroutines are not; by `coroutine.send(None)` every request would cost a
//! `StopIteration` and an attribute look-up.

use pyo3::prelude::*;
use pyo3::{ffi, intern};

/// What a step came to.
pub(crate) enum Step<'py> {
    /// It waits for this.
    Yielded(Bound<'py, PyAny>),
    /// It has returned.
    Returned,
}

/// Takes the next step of a coroutine or iterator.
pub(crate) fn step<'py>(coroutine: &Bound<'py, PyAny>) -> PyResult<Step<'py>> {
    let py = coroutine.py();
    let mut result = std::ptr::null_mut();
    // SAFETY: both objects are alive for the call, `result` is a valid place for its answer, and
    // the interpreter is attached, as `py` shows.
    let outcome = unsafe { ffi::PyIter_Send(coroutine.as_ptr(), ffi::Py_None(), &raw mut result) };
    match outcome {
        ffi::PySendResult::PYGEN_ERROR => Err(PyErr::fetch(py)),
        ffi::PySendResult::PYGEN_NEXT => {
            // SAFETY: with this outcome `result` is a new reference.
            Ok(Step::Yielded(unsafe { Bound::from_owned_ptr(py, result) }))
        }
        ffi::PySendResult::PYGEN_RETURN => {
            // SAFETY: as above.
            drop(unsafe { Bound::from_owned_ptr(py, result) });
            Ok(Step::Returned)
        }
    }
}

/// The object whose steps are taken when `awaitable` is awaited: a coroutine itself, else what
/// its `__await__` gives.
pub(crate) fn steps_of<'py>(awaitable: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the object is alive; the check reads its type.
    if unsafe { ffi::PyCoro_CheckExact(awaitable.as_ptr()) } != 0 {
        return Ok(awaitable);
    }
    awaitable.call_method0(intern!(awaitable.py(), "__await__"))
}
