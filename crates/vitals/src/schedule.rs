//! How the kernel schedules the calling thread beside others.

use std::io;

/// Has the calling thread run at once when it is woken (false, as all threads begin), or when those
/// who woke it have had their turn (true): SCHED_OTHER and SCHED_BATCH of sched(7). Takes no
/// privilege.
///
/// # Errors
/// What the system said; a sandbox may forbid it.
pub fn set_batch(batch: bool) -> io::Result<()> {
    let policy = match batch {
        true => libc::SCHED_BATCH,
        false => libc::SCHED_OTHER,
    };
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread; the parameters are alive for the call.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calling_thread_changes_and_no_other() {
        // SAFETY: 0 is the calling thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        set_batch(true).unwrap();
        assert_eq!(policy(), libc::SCHED_BATCH);
        let fresh = std::thread::spawn(|| set_batch(false));
        fresh.join().unwrap().unwrap();
        assert_eq!(policy(), libc::SCHED_BATCH);
        set_batch(false).unwrap();
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
