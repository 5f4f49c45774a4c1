//! The vitals proper: what a worker says about itself, word by word.
//!
//! Every word is its own atomic with one writer; a snapshot is not taken in one instant and does
//! not need to be. Only one order matters: the worker raises `in_flight` *before* it claims or
//! runs anything, and ticks after, so "in flight, and no tick for 25 ms" always means that the
//! loop stands still.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The phase of its life that a worker is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum State {
    /// Importing the application, or in its lifespan startup.
    #[default]
    Starting = 0,
    /// Takes requests.
    Ready = 1,
    /// Finishes what it has and takes nothing new.
    Draining = 2,
    /// Has stopped serving for good.
    Gone = 3,
}

impl State {
    pub(crate) fn from_word(word: u32) -> State {
        match word {
            0 => State::Starting,
            1 => State::Ready,
            2 => State::Draining,
            _ => State::Gone,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Starting => "starting",
            State::Ready => "ready",
            State::Draining => "draining",
            State::Gone => "gone",
        })
    }
}

/// One snapshot of a worker's vitals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// When the event loop last turned, in nanoseconds of `CLOCK_MONOTONIC`. It moves only while
    /// requests are in flight.
    pub tick_ns: u64,
    /// How late the last heartbeat timer came, in microseconds.
    pub lag_us: u64,
    /// Requests and WebSockets that have been read and not yet finished.
    pub in_flight: u32,
    /// How long the last request lay ready before the application started on it, in microseconds
    /// (from the pass of the loop that found it to the first step of its task).
    pub queue_wait_us: u64,
    /// Requests and WebSockets finished since the worker started.
    pub done: u64,
    /// Resident set size in bytes; sampled at most once a second.
    pub rss_bytes: u64,
    /// The phase of its life.
    pub state: State,
}

/// The words in shared memory. One cache line: the edge reads all of them at pick time.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct VitalWords {
    pub(crate) tick_ns: AtomicU64,
    pub(crate) in_flight: AtomicU32,
    pub(crate) state: AtomicU32,
    pub(crate) lag_us: AtomicU64,
    pub(crate) queue_wait_us: AtomicU64,
    pub(crate) done: AtomicU64,
    pub(crate) rss_bytes: AtomicU64,
    pub(crate) reserved: [AtomicU64; 2],
}

impl VitalWords {
    pub(crate) fn snapshot(&self) -> Vitals {
        Vitals {
            tick_ns: self.tick_ns.load(Ordering::Acquire),
            lag_us: self.lag_us.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Acquire),
            queue_wait_us: self.queue_wait_us.load(Ordering::Relaxed),
            done: self.done.load(Ordering::Relaxed),
            rss_bytes: self.rss_bytes.load(Ordering::Relaxed),
            state: State::from_word(self.state.load(Ordering::Acquire)),
        }
    }
}

/// The worker's side of the vitals: setters, one system call at most (none for most).
#[derive(Clone, Copy, Debug)]
pub struct Writer<'page> {
    pub(crate) words: &'page VitalWords,
}

impl Writer<'_> {
    /// The loop has turned, at `now_ns` ([`monotonic_ns`]).
    pub fn tick(&self, now_ns: u64) {
        self.words.tick_ns.store(now_ns, Ordering::Release);
    }

    /// How late the heartbeat timer came.
    pub fn set_lag_us(&self, lag_us: u64) {
        self.words.lag_us.store(lag_us, Ordering::Relaxed);
    }

    /// One more request is in flight. To be called before the request is claimed.
    pub fn begin(&self) {
        // The worker is the only writer: a load and a store do, and cost no locked instruction.
        let now = self.words.in_flight.load(Ordering::Relaxed);
        self.words.in_flight.store(now + 1, Ordering::Release);
    }

    /// A request that was begun is finished; `counted` is false for one that was never run.
    pub fn end(&self, counted: bool) {
        let now = self.words.in_flight.load(Ordering::Relaxed);
        debug_assert!(now > 0, "end() without begin()");
        self.words
            .in_flight
            .store(now.saturating_sub(1), Ordering::Release);
        if counted {
            let done = self.words.done.load(Ordering::Relaxed);
            self.words.done.store(done + 1, Ordering::Relaxed);
        }
    }

    /// How long the last request waited for its first step.
    pub fn set_queue_wait_us(&self, wait_us: u64) {
        self.words.queue_wait_us.store(wait_us, Ordering::Relaxed);
    }

    /// The resident set size, in bytes.
    pub fn set_rss_bytes(&self, bytes: u64) {
        self.words.rss_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The phase of the worker's life.
    pub fn set_state(&self, state: State) {
        self.words.state.store(state as u32, Ordering::Release);
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock that both sides of the page use. (A vDSO call, no
/// system call on any platform that this runs on.)
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for one timespec.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    debug_assert_eq!(status, 0, "CLOCK_MONOTONIC exists on every Linux");
    // Neither field is ever negative on this clock.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
