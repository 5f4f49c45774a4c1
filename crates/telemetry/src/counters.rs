//! One shard's counters, and the sum of all shards' counters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::histogram::{Histogram, HistogramSnapshot};

const STATUS_FIRST: usize = 100;
const STATUS_COUNT: usize = 500;

/// A counter with one writer: the owner adds by a load and a store, anybody reads.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! error_kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $label:literal,)*) => {
        /// Why a request or connection failed; the `kind` label of `evener_errors_total`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorKind { $($(#[doc = $doc])* $name,)* }

        impl ErrorKind {
            /// Every kind, in the order of the counters.
            pub const ALL: &'static [ErrorKind] = &[$(ErrorKind::$name,)*];

            /// The label in metrics and logs.
            pub fn label(self) -> &'static str {
                match self { $(ErrorKind::$name => $label,)* }
            }
        }
    };
}

error_kinds! {
    /// A head or body that is not HTTP/1.1 as RFC 9112 has it.
    BadRequest = "bad_request",
    /// The request line is longer than allowed.
    TargetTooLong = "target_too_long",
    /// The head is larger, or has more fields, than allowed.
    HeadTooLarge = "head_too_large",
    /// The request body is larger than allowed.
    BodyTooLarge = "body_too_large",
    /// A method, coding or expectation that is not implemented.
    NotImplemented = "not_implemented",
    /// The head did not arrive in time.
    HeaderReadTimeout = "header_read_timeout",
    /// The request body stood still for too long.
    BodyGapTimeout = "body_gap_timeout",
    /// The client took none of the response for too long.
    SendGapTimeout = "send_gap_timeout",
    /// The client left before its response was complete.
    ClientGone = "client_gone",
    /// No route is for the request.
    NoRoute = "no_route",
    /// The queue for workers was full.
    QueueFull = "queue_full",
    /// No worker became free in time.
    QueueTimeout = "queue_timeout",
    /// No worker takes traffic.
    NoWorker = "no_worker",
    /// The cluster's circuit breaker was open.
    BreakerOpen = "breaker_open",
    /// Too many requests waited, and others were more important.
    Shed = "shed",
    /// An upstream connection was refused or failed.
    ConnectFailed = "connect_failed",
    /// An upstream connection was not there in time.
    ConnectTimeout = "connect_timeout",
    /// The worker closed the connection before its response was complete.
    UpstreamClosed = "upstream_closed",
    /// The worker's response is not HTTP/1.1.
    UpstreamMalformed = "upstream_malformed",
    /// No endpoint gave an answer that could be passed on.
    UpstreamDeclined = "upstream_declined",
    /// The worker did not begin its response in time.
    FirstByteTimeout = "first_byte_timeout",
    /// The worker's response stood still for too long.
    ResponseGapTimeout = "response_gap_timeout",
    /// The whole request took too long.
    RequestTimeout = "request_timeout",
    /// A body could not be kept on disk.
    SpillFailed = "spill_failed",
    /// Refused while draining.
    Draining = "draining",
    /// A bug of ours.
    Internal = "internal",
}

#[derive(Debug)]
pub(crate) struct ShardCounters {
    pub(crate) connections_accepted: Counter,
    pub(crate) connections_closed: Counter,
    pub(crate) connections_refused: Counter,
    pub(crate) requests_started: Counter,
    pub(crate) requests_finished: Counter,
    statuses: Box<[Counter]>,
    pub(crate) errors: Box<[Counter]>,
    pub(crate) bytes_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) retries: Counter,
    pub(crate) queued: Counter,
    pub(crate) take_backs: Counter,
    pub(crate) hedges: Counter,
    pub(crate) hedges_won: Counter,
    pub(crate) hedges_cancelled: Counter,
    pub(crate) spilled: Counter,
    pub(crate) upstream_opened: Counter,
    pub(crate) upstream_reused: Counter,
    pub(crate) access_lines_dropped: Counter,
    pub(crate) total: Histogram,
    pub(crate) upstream: Histogram,
}

fn counters(length: usize) -> Box<[Counter]> {
    (0..length).map(|_| Counter::default()).collect()
}

impl Default for ShardCounters {
    fn default() -> Self {
        ShardCounters {
            connections_accepted: Counter::default(),
            connections_closed: Counter::default(),
            connections_refused: Counter::default(),
            requests_started: Counter::default(),
            requests_finished: Counter::default(),
            statuses: counters(STATUS_COUNT),
            errors: counters(ErrorKind::ALL.len()),
            bytes_received: Counter::default(),
            bytes_sent: Counter::default(),
            retries: Counter::default(),
            queued: Counter::default(),
            take_backs: Counter::default(),
            hedges: Counter::default(),
            hedges_won: Counter::default(),
            hedges_cancelled: Counter::default(),
            spilled: Counter::default(),
            upstream_opened: Counter::default(),
            upstream_reused: Counter::default(),
            access_lines_dropped: Counter::default(),
            total: Histogram::default(),
            upstream: Histogram::default(),
        }
    }
}

impl ShardCounters {
    pub(crate) fn status(&self, status: u16) {
        if let Some(counter) = self
            .statuses
            .get(usize::from(status).wrapping_sub(STATUS_FIRST))
        {
            counter.add(1);
        }
    }

    pub(crate) fn add_to(&self, sum: &mut Snapshot) {
        // Finished before started: a request that ends in between must not make the number in
        // flight negative.
        sum.requests_finished += self.requests_finished.value();
        sum.requests_started += self.requests_started.value();
        sum.connections_closed += self.connections_closed.value();
        sum.connections_accepted += self.connections_accepted.value();
        sum.connections_refused += self.connections_refused.value();
        sum.bytes_received += self.bytes_received.value();
        sum.bytes_sent += self.bytes_sent.value();
        sum.retries += self.retries.value();
        sum.queued += self.queued.value();
        sum.take_backs += self.take_backs.value();
        sum.hedges += self.hedges.value();
        sum.hedges_won += self.hedges_won.value();
        sum.hedges_cancelled += self.hedges_cancelled.value();
        sum.spilled += self.spilled.value();
        sum.upstream_opened += self.upstream_opened.value();
        sum.upstream_reused += self.upstream_reused.value();
        sum.access_lines_dropped += self.access_lines_dropped.value();
        for (to, from) in sum.statuses.iter_mut().zip(&self.statuses) {
            *to += from.value();
        }
        for (to, from) in sum.errors.iter_mut().zip(&self.errors) {
            *to += from.value();
        }
        self.total.add_to(&mut sum.total);
        self.upstream.add_to(&mut sum.upstream);
    }
}

/// The sum over all shards at one moment. Everything but `uptime` only ever grows.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Since the telemetry was made.
    pub uptime: Duration,
    /// Downstream connections accepted.
    pub connections_accepted: u64,
    /// Downstream connections closed, of those accepted.
    pub connections_closed: u64,
    /// Downstream connections refused by a limit.
    pub connections_refused: u64,
    /// Requests whose head was understood.
    pub requests_started: u64,
    /// Requests that are over.
    pub requests_finished: u64,
    statuses: Vec<u64>,
    errors: Vec<u64>,
    /// Bytes read from clients.
    pub bytes_received: u64,
    /// Bytes written to clients.
    pub bytes_sent: u64,
    /// Requests sent a second time.
    pub retries: u64,
    /// Requests that had to wait for a worker.
    pub queued: u64,
    /// Requests taken back from a worker that had not begun them.
    pub take_backs: u64,
    /// Requests sent to another endpoint as well.
    pub hedges: u64,
    /// Those whose answer came first.
    pub hedges_won: u64,
    /// Attempts cut off because another was first, or nobody waited any more.
    pub hedges_cancelled: u64,
    /// Bytes of bodies written to disk because they were too many for memory.
    pub spilled: u64,
    /// Upstream connections opened.
    pub upstream_opened: u64,
    /// Times an idle upstream connection was used again.
    pub upstream_reused: u64,
    /// Access-log lines dropped because standard output was too slow.
    pub access_lines_dropped: u64,
    /// Time of whole requests.
    pub total: HistogramSnapshot,
    /// Time of the workers' part of requests.
    pub upstream: HistogramSnapshot,
}

impl Default for Snapshot {
    fn default() -> Self {
        Snapshot {
            uptime: Duration::ZERO,
            connections_accepted: 0,
            connections_closed: 0,
            connections_refused: 0,
            requests_started: 0,
            requests_finished: 0,
            statuses: vec![0; STATUS_COUNT],
            errors: vec![0; ErrorKind::ALL.len()],
            bytes_received: 0,
            bytes_sent: 0,
            retries: 0,
            queued: 0,
            take_backs: 0,
            hedges: 0,
            hedges_won: 0,
            hedges_cancelled: 0,
            spilled: 0,
            upstream_opened: 0,
            upstream_reused: 0,
            access_lines_dropped: 0,
            total: HistogramSnapshot::default(),
            upstream: HistogramSnapshot::default(),
        }
    }
}

impl Snapshot {
    /// Nothing counted yet.
    pub(crate) fn at(uptime: Duration) -> Snapshot {
        Snapshot {
            uptime,
            ..Snapshot::default()
        }
    }

    /// Downstream connections open now.
    pub fn connections_open(&self) -> u64 {
        self.connections_accepted
            .saturating_sub(self.connections_closed)
    }

    /// Requests between head and end of response now.
    pub fn requests_in_flight(&self) -> u64 {
        self.requests_started.saturating_sub(self.requests_finished)
    }

    /// Responses with this status.
    pub fn status(&self, status: u16) -> u64 {
        let index = usize::from(status).wrapping_sub(STATUS_FIRST);
        self.statuses.get(index).copied().unwrap_or(0)
    }

    /// Responses of a class: 2 for 2xx.
    pub fn status_class(&self, class: u16) -> u64 {
        (class * 100..class * 100 + 100)
            .map(|status| self.status(status))
            .sum()
    }

    /// Every status that was sent at least once, with its count.
    pub fn statuses(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.statuses
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(index, count)| {
                let status = u16::try_from(index + STATUS_FIRST).expect("the table ends at 599");
                (status, *count)
            })
    }

    /// Failures of this kind.
    pub fn error(&self, kind: ErrorKind) -> u64 {
        self.errors[kind as usize]
    }

    /// What happened since `earlier`, a snapshot of the same telemetry; `uptime` becomes the
    /// time between the two.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let difference = |now: &[u64], then: &[u64]| {
            now.iter()
                .zip(then)
                .map(|(now, then)| now.saturating_sub(*then))
                .collect()
        };
        Snapshot {
            uptime: self.uptime.saturating_sub(earlier.uptime),
            connections_accepted: self.connections_accepted - earlier.connections_accepted,
            connections_closed: self.connections_closed - earlier.connections_closed,
            connections_refused: self.connections_refused - earlier.connections_refused,
            requests_started: self.requests_started - earlier.requests_started,
            requests_finished: self.requests_finished - earlier.requests_finished,
            statuses: difference(&self.statuses, &earlier.statuses),
            errors: difference(&self.errors, &earlier.errors),
            bytes_received: self.bytes_received - earlier.bytes_received,
            bytes_sent: self.bytes_sent - earlier.bytes_sent,
            retries: self.retries - earlier.retries,
            queued: self.queued - earlier.queued,
            take_backs: self.take_backs - earlier.take_backs,
            hedges: self.hedges - earlier.hedges,
            hedges_won: self.hedges_won - earlier.hedges_won,
            hedges_cancelled: self.hedges_cancelled - earlier.hedges_cancelled,
            spilled: self.spilled - earlier.spilled,
            upstream_opened: self.upstream_opened - earlier.upstream_opened,
            upstream_reused: self.upstream_reused - earlier.upstream_reused,
            access_lines_dropped: self.access_lines_dropped - earlier.access_lines_dropped,
            total: self.total.since(&earlier.total),
            upstream: self.upstream.since(&earlier.upstream),
        }
    }
}
