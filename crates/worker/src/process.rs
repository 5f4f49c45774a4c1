//! What a forked worker asks of the kernel about itself.

use std::io;

use pyo3::prelude::*;

/// Has this process ended (SIGTERM) when its parent ends, if its parent is `parent`; returns
/// whether it is. A process that was just handed over is not its new parent's child at once.
#[pyfunction]
pub(crate) fn end_with_parent(parent: i32) -> PyResult<bool> {
    // SAFETY: takes no pointer.
    if unsafe { libc::getppid() } != parent {
        return Ok(false);
    }
    // SAFETY: plain numbers.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: takes no pointer. The parent may have ended before the promise was made.
    Ok(unsafe { libc::getppid() } == parent)
}
