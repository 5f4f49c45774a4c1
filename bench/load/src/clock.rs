//! The monotonic clock in nanoseconds, the same for every process of one machine: the origin
//! stamps its events with it, the generator subtracts.

use rustix::time::{ClockId, clock_gettime};

/// A millisecond in the clock's units.
pub const MILLISECOND: u64 = 1_000_000;

/// A second in the clock's units.
pub const SECOND: u64 = 1_000_000_000;

/// Nanoseconds since some moment before the machine's start.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * SECOND + time.tv_nsec.unsigned_abs()
}

/// Seconds as they are written in a plan, in the clock's units.
pub fn from_seconds(seconds: f64) -> u64 {
    (seconds.max(0.0) * SECOND as f64) as u64
}
