//! What the program says about itself: counters and histograms of the data plane, the access
//! log, the operational log, and the Prometheus text of all of it.
//!
//! A [`Telemetry`] is a cheap handle; each shard thread takes one [`ShardTelemetry`] from it and
//! is the only writer of it, so recording costs a plain load and store. [`Telemetry::snapshot`]
//! adds the shards up. Serving the numbers is left to `admin`, deciding by them to `policy`.
#![forbid(unsafe_code)]

mod access;
mod clock;
mod counters;
mod file;
mod histogram;
mod log;
mod prometheus;
mod template;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use access::{AccessFormat, AccessRecord};
pub use counters::{ErrorKind, Snapshot};
pub use file::LogFile;
pub use histogram::HistogramSnapshot;
pub use log::{Level, Log, LogFormat, Receiver};
pub use prometheus::{Exposition, Kind};
pub use template::{AccessTemplate, FieldValues};

use access::{AccessBuffer, AccessWriter};
use counters::ShardCounters;

/// Handle on everything that is measured; clones share it.
#[derive(Clone, Debug)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    started: Instant,
    log: Log,
    shards: Mutex<Vec<Arc<ShardCounters>>>,
    access: Option<AccessWriter>,
}

/// Settings of [`Telemetry::new`].
#[derive(Debug, Clone, Default)]
pub struct TelemetryConfig {
    /// Where and how operational events are logged.
    pub log: Log,
    /// The access log's format; `None` switches it off, at no cost per request.
    pub access: Option<AccessFormat>,
}

impl Telemetry {
    /// Starts the access log's writer thread when an access log is wanted.
    pub fn new(config: TelemetryConfig) -> Telemetry {
        let access = config.access.map(|format| {
            AccessWriter::start(format, Box::new(std::io::stdout()), config.log.clone())
        });
        Telemetry::with(config.log, access)
    }

    /// As [`Telemetry::new`] with an access log, written to `sink` instead of standard output.
    pub fn with_access_sink(
        log: Log,
        format: AccessFormat,
        sink: Box<dyn std::io::Write + Send>,
    ) -> Telemetry {
        let access = AccessWriter::start(format, sink, log.clone());
        Telemetry::with(log, Some(access))
    }

    fn with(log: Log, access: Option<AccessWriter>) -> Telemetry {
        Telemetry {
            inner: Arc::new(Inner {
                started: Instant::now(),
                log,
                shards: Mutex::new(Vec::new()),
                access,
            }),
        }
    }

    /// The operational log.
    pub fn log(&self) -> &Log {
        &self.inner.log
    }

    /// A new shard's recorder. Counters of a dropped recorder stay in the sums.
    pub fn shard(&self) -> ShardTelemetry {
        let counters = Arc::new(ShardCounters::default());
        let mut shards = self
            .inner
            .shards
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shards.push(Arc::clone(&counters));
        ShardTelemetry {
            counters,
            log: self.inner.log.clone(),
            access: self.inner.access.as_ref().map(AccessWriter::buffer),
        }
    }

    /// The sum over all shards, now.
    pub fn snapshot(&self) -> Snapshot {
        let mut sum = Snapshot::at(self.inner.started.elapsed());
        let shards = self
            .inner
            .shards
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for shard in shards.iter() {
            shard.add_to(&mut sum);
        }
        sum
    }

    /// Writes out what the access log still holds. Called once, after the shards have stopped.
    pub fn finish(&self) {
        if let Some(access) = &self.inner.access {
            access.finish();
        }
    }
}

/// One shard's recorder: written by its thread only, read by [`Telemetry::snapshot`].
///
/// It is `Send` but not shared: a second writer would lose counts.
#[derive(Debug)]
pub struct ShardTelemetry {
    counters: Arc<ShardCounters>,
    log: Log,
    access: Option<AccessBuffer>,
}

impl ShardTelemetry {
    /// A downstream connection was accepted.
    pub fn connection_accepted(&mut self) {
        self.counters.connections_accepted.add(1);
    }

    /// A downstream connection that had been accepted is closed.
    pub fn connection_closed(&mut self) {
        self.counters.connections_closed.add(1);
    }

    /// A downstream connection was refused because of a limit.
    pub fn connection_refused(&mut self) {
        self.counters.connections_refused.add(1);
    }

    /// A request's head was understood. Pair it with [`ShardTelemetry::request_finished`].
    pub fn request_started(&mut self) {
        self.counters.requests_started.add(1);
    }

    /// A request is over. `status` is what the client was sent, `None` when it left before an
    /// answer; `total` runs from the end of the request's head, `upstream` from the moment an
    /// upstream connection was asked for, when one was.
    pub fn request_finished(
        &mut self,
        status: Option<u16>,
        total: Duration,
        upstream: Option<Duration>,
    ) {
        self.counters.requests_finished.add(1);
        if let Some(status) = status {
            self.counters.status(status);
        }
        self.counters.total.record(total);
        if let Some(upstream) = upstream {
            self.counters.upstream.record(upstream);
        }
    }

    /// A response that belongs to no request that was understood (400 for a malformed head).
    pub fn response_without_request(&mut self, status: u16) {
        self.counters.status(status);
    }

    /// Something failed.
    pub fn error(&mut self, kind: ErrorKind) {
        self.counters.errors[kind as usize].add(1);
    }

    /// Bytes read from clients.
    pub fn bytes_received(&mut self, bytes: u64) {
        self.counters.bytes_received.add(bytes);
    }

    /// Bytes written to clients.
    pub fn bytes_sent(&mut self, bytes: u64) {
        self.counters.bytes_sent.add(bytes);
    }

    /// A request was sent a second time.
    pub fn retried(&mut self) {
        self.counters.retries.add(1);
    }

    /// A request had to wait for a worker.
    pub fn queued(&mut self) {
        self.counters.queued.add(1);
    }

    /// A request was taken back from a worker that had not begun it.
    pub fn taken_back(&mut self) {
        self.counters.take_backs.add(1);
    }

    /// A request was sent to another endpoint as well.
    pub fn hedged(&mut self) {
        self.counters.hedges.add(1);
    }

    /// The answer of an attempt beside the first one came first.
    pub fn hedge_won(&mut self) {
        self.counters.hedges_won.add(1);
    }

    /// An attempt was cut off because another was first, or nobody waited any more.
    pub fn hedge_cancelled(&mut self) {
        self.counters.hedges_cancelled.add(1);
    }

    /// Bytes of a body were written to disk because they were too many for memory.
    pub fn spilled(&mut self, bytes: u64) {
        self.counters.spilled.add(bytes);
    }

    /// The operational log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// A new upstream connection was opened.
    pub fn upstream_opened(&mut self) {
        self.counters.upstream_opened.add(1);
    }

    /// An idle upstream connection was used again.
    pub fn upstream_reused(&mut self) {
        self.counters.upstream_reused.add(1);
    }

    /// Whether an access log is kept, so that callers can spare themselves the record.
    pub fn has_access_log(&self) -> bool {
        self.access.is_some()
    }

    /// The template of the access log, if it has one: callers keep the header fields it shows.
    pub fn access_template(&self) -> Option<&Arc<AccessTemplate>> {
        self.access.as_ref().and_then(AccessBuffer::template)
    }

    /// Adds a line to the access log. Never blocks: a line that finds the buffer full is dropped
    /// and counted.
    pub fn access(&mut self, record: &AccessRecord<'_>) {
        if let Some(buffer) = &mut self.access
            && !buffer.write(record)
        {
            self.counters.access_lines_dropped.add(1);
        }
    }

    /// Hands over lines that were held back because the writer was taking the buffer at that
    /// moment. Cheap; call it before the shard sleeps.
    pub fn flush(&mut self) {
        if let Some(buffer) = &mut self.access {
            buffer.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up_and_differences_can_be_taken() {
        let telemetry = Telemetry::new(TelemetryConfig::default());
        let mut one = telemetry.shard();
        let mut two = telemetry.shard();
        one.connection_accepted();
        one.connection_accepted();
        one.connection_closed();
        two.connection_accepted();
        one.request_started();
        one.request_finished(
            Some(200),
            Duration::from_millis(2),
            Some(Duration::from_millis(1)),
        );
        let before = telemetry.snapshot();
        two.request_started();
        two.request_finished(Some(503), Duration::from_millis(40), None);
        two.request_started();
        two.error(ErrorKind::QueueFull);
        drop(one);
        let snapshot = telemetry.snapshot();
        assert_eq!(snapshot.connections_accepted, 3);
        assert_eq!(snapshot.connections_open(), 2);
        assert_eq!(snapshot.requests_in_flight(), 1);
        assert_eq!(snapshot.status(200), 1);
        assert_eq!(snapshot.status(503), 1);
        assert_eq!(snapshot.status_class(5), 1);
        assert_eq!(snapshot.error(ErrorKind::QueueFull), 1);
        assert_eq!(snapshot.total.count(), 2);
        assert_eq!(snapshot.upstream.count(), 1);
        let window = snapshot.since(&before);
        assert_eq!(window.requests_finished, 1);
        assert_eq!(window.status(200), 0);
        assert_eq!(window.total.count(), 1);
    }
}
