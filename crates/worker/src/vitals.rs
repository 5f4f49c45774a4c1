//! The worker's side of the vitals page: the heartbeat, and what is counted.
//!
//! The loop ticks at every pass and at every request it starts, and by a timer while requests are
//! in flight: an idle worker does not wake up. Without a page (a worker run by hand) everything
//! here does nothing but count.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use evener_vitals::{Page, State, monotonic_ns};

use crate::system::Timer;

/// How often the loop ticks while requests are in flight.
const BEAT: Duration = Duration::from_millis(10);
/// A request that holds the loop for less at a stretch is not worth a report.
const HELD_NS: u64 = 10_000_000;
const RSS_EVERY_NS: u64 = 1_000_000_000;

/// The heartbeat and the counters.
#[derive(Debug)]
pub(crate) struct Pulse {
    page: Option<Page>,
    timer: Timer,
    /// When the next beat is due; `None` while the timer is off.
    due_ns: Option<u64>,
    /// Whether anything began since the last beat.
    stirred: bool,
    rss_ns: u64,
    statm: Option<File>,
    in_flight: u32,
    /// When the application was entered last; 0 without a page.
    entered_ns: u64,
}

impl Pulse {
    pub(crate) fn new(page: Option<Page>) -> std::io::Result<Pulse> {
        // Only a page has a reader for it.
        let statm = page
            .as_ref()
            .and_then(|_| File::open("/proc/self/statm").ok());
        let timer = Timer::new()?;
        Ok(Pulse {
            page,
            timer,
            due_ns: None,
            stirred: false,
            rss_ns: 0,
            statm,
            in_flight: 0,
            entered_ns: 0,
        })
    }

    pub(crate) fn timer(&self) -> &Timer {
        &self.timer
    }

    /// Requests and WebSockets in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(crate) fn set_state(&mut self, state: State) {
        if let Some(page) = &self.page {
            page.writer().tick(monotonic_ns());
            page.writer().set_state(state);
        }
        self.sample_rss(monotonic_ns());
    }

    /// The loop has turned.
    pub(crate) fn tick(&self) {
        if let Some(page) = &self.page {
            page.writer().tick(monotonic_ns());
        }
    }

    /// A request has been read. Returns when, for its wait in the queue.
    pub(crate) fn begin(&mut self) -> u64 {
        self.in_flight += 1;
        self.stirred = true;
        let Some(page) = &self.page else { return 0 };
        let now = monotonic_ns();
        page.writer().begin();
        page.writer().tick(now);
        if self.due_ns.is_none() {
            self.timer.set(BEAT, BEAT);
            self.due_ns = Some(now + BEAT.as_nanos() as u64);
        }
        now
    }

    /// Claims the request, as its first step is about to run; false: it must be dropped.
    pub(crate) fn claim(&mut self, slot: Option<(u32, u64)>, queued_ns: u64) -> bool {
        let Some(page) = &self.page else { return true };
        let now = monotonic_ns();
        self.entered_ns = now;
        page.writer().tick(now);
        page.writer()
            .set_queue_wait_us(now.saturating_sub(queued_ns) / 1000);
        slot.is_none_or(|(slot, seq)| page.claim(slot, seq))
    }

    /// A later step of a request's task is about to run.
    pub(crate) fn enter(&mut self) {
        if self.page.is_some() {
            self.entered_ns = monotonic_ns();
        }
    }

    /// For how long the present step has held the loop, if that is worth a report.
    pub(crate) fn held(&self) -> Option<Duration> {
        if self.entered_ns == 0 {
            return None;
        }
        let held = monotonic_ns().saturating_sub(self.entered_ns);
        (held >= HELD_NS).then(|| Duration::from_nanos(held))
    }

    /// Tells the edge for how long a request has held the loop at a stretch.
    pub(crate) fn report_hold(&self, slot: Option<(u32, u64)>, held: Duration) {
        if let (Some(page), Some((slot, seq))) = (&self.page, slot) {
            page.report_hold(slot, seq, held);
        }
    }

    /// A request that was begun is over; `ran` is false if the application never saw it.
    pub(crate) fn end(&mut self, ran: bool) {
        self.in_flight -= 1;
        if let Some(page) = &self.page {
            page.writer().end(ran);
        }
    }

    /// The timer fired.
    pub(crate) fn beat(&mut self) {
        self.timer.acknowledge();
        let now = monotonic_ns();
        if let (Some(page), Some(due)) = (&self.page, self.due_ns) {
            page.writer().tick(now);
            page.writer().set_lag_us(now.saturating_sub(due) / 1000);
        }
        self.sample_rss(now);
        if self.in_flight == 0 && !self.stirred {
            self.timer.disarm();
            self.due_ns = None;
        } else {
            // The timer is periodic: the next beat is a period after the last due time, and
            // beats that were missed are not made up for.
            let period = BEAT.as_nanos() as u64;
            let due = self.due_ns.unwrap_or(now);
            self.due_ns = Some(due + period * (now.saturating_sub(due) / period + 1));
        }
        self.stirred = false;
    }

    fn sample_rss(&mut self, now: u64) {
        let (Some(page), Some(statm)) = (&self.page, &self.statm) else {
            return;
        };
        if self.rss_ns != 0 && now < self.rss_ns + RSS_EVERY_NS {
            return;
        }
        self.rss_ns = now;
        let mut text = [0; 128];
        let Ok(length) = statm.read_at(&mut text, 0) else {
            return;
        };
        // Fields in pages: size, resident, …
        let resident = text[..length]
            .split(|&byte| byte == b' ')
            .nth(1)
            .and_then(|field| std::str::from_utf8(field).ok())
            .and_then(|field| field.parse::<u64>().ok());
        if let Some(pages) = resident {
            // SAFETY: takes no pointer.
            let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            page.writer()
                .set_rss_bytes(pages * u64::try_from(page_bytes).unwrap_or(4096));
        }
    }
}
