//! Reads the edge counters that the compiler put into this program, and tells whether an input
//! reached something no input before it did. Hit counts are grouped, as AFL does it.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

static START: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Called by the instrumented program before `main`, once for its section of counters.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    START.store(start, Ordering::Relaxed);
    LENGTH.store(stop as usize - start as usize, Ordering::Relaxed);
}

/// What all inputs so far have reached.
pub(crate) struct Coverage {
    seen: Vec<u8>,
}

impl Coverage {
    /// Nothing reached yet.
    pub(crate) fn new() -> Coverage {
        Coverage {
            seen: vec![0; counters().len()],
        }
    }

    /// Sets all counters to zero.
    pub(crate) fn clear(&mut self) {
        counters().fill(0);
    }

    /// Whether the counters show a new edge, or an old one reached markedly more often.
    pub(crate) fn is_new(&mut self) -> bool {
        let mut new = false;
        for (seen, &count) in self.seen.iter_mut().zip(counters().iter()) {
            if count != 0 && *seen & group(count) == 0 {
                *seen |= group(count);
                new = true;
            }
        }
        new
    }

    /// Number of edges reached.
    pub(crate) fn edges(&self) -> usize {
        self.seen.iter().filter(|&&seen| seen != 0).count()
    }
}

/// One bit for each of 1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128 and more.
fn group(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        128.. => 128,
    }
}

fn counters() -> &'static mut [u8] {
    let start = START.load(Ordering::Relaxed);
    if start.is_null() {
        return &mut [];
    }
    // SAFETY: the range is the program's own counter section, alive for its whole run. The program
    // has one thread, and no two results of this function are alive at once; the increments that
    // the compiler inserted between their uses are plain writes to the same bytes, whose values
    // are only ever used as hints.
    unsafe { std::slice::from_raw_parts_mut(start, LENGTH.load(Ordering::Relaxed)) }
}
