//! What is counted, for each class and for the whole run, and how it is said in JSON.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::clock::MILLISECOND;

/// How a request failed. Each counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// No connection could be made.
    Connect,
    /// A connection that had served before was closed before the first byte of this answer: a
    /// client may try again if the request is idempotent, but this one counts it.
    Stale,
    /// A new connection was closed or reset before the first byte of the answer.
    Reset,
    /// The answer stopped in the middle.
    Truncated,
    /// The answer could not be understood.
    Malformed,
    /// The answer had the wrong status.
    Status(u16),
    /// The answer's body was not the right one, or not as long.
    Body,
    /// No whole answer in the time that was allowed.
    Late,
}

impl Failure {
    fn name(self) -> String {
        match self {
            Failure::Connect => "connect".into(),
            Failure::Stale => "stale".into(),
            Failure::Reset => "reset".into(),
            Failure::Truncated => "truncated".into(),
            Failure::Malformed => "malformed".into(),
            Failure::Status(status) => format!("status {status}"),
            Failure::Body => "body".into(),
            Failure::Late => "late".into(),
        }
    }
}

/// How many slices of the window are kept at most, each of 100 ms.
const SLICES_MAX: usize = 36_000;

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    done: u64,
    failed: u64,
    worst: u64,
}

/// What one class of requests came to; times are nanoseconds.
#[derive(Debug)]
struct Tally {
    right: u64,
    failed: BTreeMap<Failure, u64>,
    latency: Histogram<u64>,
    service: Histogram<u64>,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Record {
    begin: u64,
    end: u64,
    names: Vec<String>,
    classes: Vec<Tally>,
    slices: Vec<Slice>,
    lag: Histogram<u64>,
    done_in_window: u64,
    reconnects: u64,
    failed_before: u64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1000, 600_000 * MILLISECOND, 3)
        .expect("constant bounds that a histogram allows")
}

impl Record {
    /// Counts what happens from `begin` to `end`, for classes of these names.
    pub fn new(begin: u64, end: u64, names: Vec<String>) -> Record {
        let classes = names
            .iter()
            .map(|_| Tally {
                right: 0,
                failed: BTreeMap::new(),
                latency: histogram(),
                service: histogram(),
            })
            .collect();
        let slices = ((end - begin) / (100 * MILLISECOND)) as usize + 1;
        Record {
            begin,
            end,
            names,
            classes,
            slices: vec![Slice::default(); slices.min(SLICES_MAX)],
            lag: histogram(),
            done_in_window: 0,
            reconnects: 0,
            failed_before: 0,
        }
    }

    fn slice(&mut self, at: u64) -> Option<&mut Slice> {
        let index = at.checked_sub(self.begin)? / (100 * MILLISECOND);
        self.slices.get_mut(usize::try_from(index).ok()?)
    }

    /// Something was answered, rightly or not, at this moment.
    pub fn answered(&mut self, at: u64) {
        if (self.begin..self.end).contains(&at) {
            self.done_in_window += 1;
        }
    }

    /// A right answer: when it was due, sent and whole. `by_due` counts it by when it was due.
    pub fn right(&mut self, class: usize, due: u64, sent: u64, at: u64, by_due: bool) {
        if !(self.begin..self.end).contains(if by_due { &due } else { &at }) {
            return;
        }
        let tally = &mut self.classes[class];
        tally.right += 1;
        tally.latency.saturating_record(at.saturating_sub(due));
        tally.service.saturating_record(at.saturating_sub(sent));
        if let Some(slice) = self.slice(at) {
            slice.done += 1;
            slice.worst = slice.worst.max(at.saturating_sub(due));
        }
    }

    /// A failure of a request that was due then, seen at this moment.
    pub fn failed(&mut self, class: usize, failure: Failure, due: u64, at: u64) {
        if at < self.begin {
            self.failed_before += 1;
            return;
        }
        if due >= self.end {
            return;
        }
        *self.classes[class].failed.entry(failure).or_default() += 1;
        if let Some(slice) = self.slice(at) {
            slice.failed += 1;
        }
    }

    /// How much later than due this generator itself was.
    pub fn lagged(&mut self, due: u64, at: u64) {
        if (self.begin..self.end).contains(&due) {
            self.lag.saturating_record(at.saturating_sub(due));
        }
    }

    /// A connection was opened in place of one that had ended.
    pub fn reconnected(&mut self, at: u64) {
        if (self.begin..self.end).contains(&at) {
            self.reconnects += 1;
        }
    }

    /// All of it. Times in the result are microseconds.
    pub fn result(&self) -> Value {
        let classes: BTreeMap<&str, Value> = self
            .names
            .iter()
            .zip(&self.classes)
            .map(|(name, tally)| (name.as_str(), tally.result()))
            .collect();
        let slices: Vec<Value> = self
            .slices
            .iter()
            .map(|slice| json!([slice.done, slice.failed, slice.worst / 1000]))
            .collect();
        json!({
            "event": "result",
            "seconds": (self.end - self.begin) as f64 / 1e9,
            "done_in_window": self.done_in_window,
            "reconnects": self.reconnects,
            "failed_before_window": self.failed_before,
            "generator_lag_us": quantiles(&self.lag),
            "classes": classes,
            "timeline_100ms": slices,
        })
    }
}

impl Tally {
    fn result(&self) -> Value {
        let kinds: BTreeMap<String, u64> = self
            .failed
            .iter()
            .map(|(failure, count)| (failure.name(), *count))
            .collect();
        json!({
            "right": self.right,
            "failed": self.failed.values().sum::<u64>(),
            "failures": kinds,
            "latency_us": quantiles(&self.latency),
            "service_us": quantiles(&self.service),
        })
    }
}

/// Quantiles in microseconds.
pub fn quantiles(histogram: &Histogram<u64>) -> Value {
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    json!({
        "count": histogram.len(),
        "mean": histogram.mean() / 1000.0,
        "p50": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
        "p99.9": at(0.999),
        "max": at(1.0),
    })
}
