//! The Prometheus text format, version 0.0.4: families with help, type and escaped labels, and
//! the families of a [`Snapshot`]. Families about workers and clusters are left to `cli`, which
//! knows them.

use std::fmt::{Display, Write};

use crate::counters::{ErrorKind, Snapshot};
use crate::histogram::HistogramSnapshot;

/// What a family's numbers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets, a sum and a count.
    Histogram,
}

/// A page of metrics in the making.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// The `Content-Type` of a page.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a family; its samples follow.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.text.push_str("# HELP ");
        self.text.push_str(name);
        self.text.push(' ');
        escape(&mut self.text, help, false);
        // A `String` takes every write.
        let _ = write!(self.text, "\n# TYPE {name} {kind}\n");
    }

    /// Adds a sample of the current family.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (index, (label, content)) in labels.iter().enumerate() {
            let _ = write!(
                self.text,
                "{}{label}=\"",
                if index == 0 { '{' } else { ',' }
            );
            escape(&mut self.text, content, true);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// A family with one sample without labels.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The families of the data plane.
    pub fn snapshot(&mut self, snapshot: &Snapshot) {
        use Kind::{Counter, Gauge};
        let uptime = snapshot.uptime.as_secs_f64();
        self.single(
            "evener_uptime_seconds",
            Gauge,
            "Time since the start.",
            uptime,
        );
        self.family("evener_responses_total", Counter, "Responses by status.");
        for (status, count) in snapshot.statuses() {
            self.sample(
                "evener_responses_total",
                &[("status", &status.to_string())],
                count,
            );
        }
        self.family("evener_errors_total", Counter, "Failures by kind.");
        for kind in ErrorKind::ALL {
            self.sample(
                "evener_errors_total",
                &[("kind", kind.label())],
                snapshot.error(*kind),
            );
        }
        self.totals(snapshot);
        let open = snapshot.connections_open();
        self.single(
            "evener_connections_open",
            Gauge,
            "Connections open now.",
            open,
        );
        let in_flight = snapshot.requests_in_flight();
        self.single(
            "evener_requests_in_flight",
            Gauge,
            "Requests in flight now.",
            in_flight,
        );
        let total = "Time from a request's head to the end of its response.";
        self.histogram("evener_request_duration_seconds", total, &snapshot.total);
        let upstream = "The workers' part of the request time.";
        self.histogram(
            "evener_upstream_duration_seconds",
            upstream,
            &snapshot.upstream,
        );
    }

    /// The counters that have one sample each.
    fn totals(&mut self, snapshot: &Snapshot) {
        for (name, help, value) in [
            (
                "evener_connections_accepted_total",
                "Connections.",
                snapshot.connections_accepted,
            ),
            (
                "evener_connections_refused_total",
                "Connections refused by a limit.",
                snapshot.connections_refused,
            ),
            (
                "evener_requests_total",
                "Requests understood.",
                snapshot.requests_started,
            ),
            (
                "evener_received_bytes_total",
                "Bytes from clients.",
                snapshot.bytes_received,
            ),
            (
                "evener_sent_bytes_total",
                "Bytes to clients.",
                snapshot.bytes_sent,
            ),
            (
                "evener_retries_total",
                "Requests sent a second time.",
                snapshot.retries,
            ),
            (
                "evener_queued_total",
                "Requests that waited for a worker.",
                snapshot.queued,
            ),
            (
                "evener_take_backs_total",
                "Requests taken back from a worker that had not begun them.",
                snapshot.take_backs,
            ),
            (
                "evener_upstream_connections_opened_total",
                "Connections opened to workers.",
                snapshot.upstream_opened,
            ),
            (
                "evener_upstream_connections_reused_total",
                "Requests on a worker connection used before.",
                snapshot.upstream_reused,
            ),
            (
                "evener_access_log_dropped_total",
                "Access-log lines dropped because standard output was too slow.",
                snapshot.access_lines_dropped,
            ),
        ] {
            self.single(name, Kind::Counter, help, value);
        }
        self.extras(snapshot);
    }

    /// Those of what routes and clusters have to ask for.
    fn extras(&mut self, snapshot: &Snapshot) {
        for (name, help, value) in [
            (
                "evener_hedges_total",
                "Requests sent to another endpoint as well because no answer had come.",
                snapshot.hedges,
            ),
            (
                "evener_hedges_won_total",
                "Hedges whose answer came first.",
                snapshot.hedges_won,
            ),
            (
                "evener_hedges_cancelled_total",
                "Attempts cut off because another was first, or nobody waited any more.",
                snapshot.hedges_cancelled,
            ),
            (
                "evener_spilled_bytes_total",
                "Bytes of bodies written to disk because they were too many for memory.",
                snapshot.spilled,
            ),
        ] {
            self.single(name, Kind::Counter, help, value);
        }
    }

    /// A histogram with buckets at powers of two of a microsecond, from 64 µs to 67 s, where the
    /// counts are exact.
    pub fn histogram(&mut self, name: &str, help: &str, values: &HistogramSnapshot) {
        self.family(name, Kind::Histogram, help);
        let bucket = format!("{name}_bucket");
        for exponent in 6..=26 {
            #[expect(clippy::cast_precision_loss)]
            let bound = ((1u64 << exponent) as f64 / 1e6).to_string();
            self.sample(
                &bucket,
                &[("le", &bound)],
                values.count_below_power(exponent),
            );
        }
        self.sample(&bucket, &[("le", "+Inf")], values.count());
        self.sample(&format!("{name}_sum"), &[], values.sum().as_secs_f64());
        self.sample(&format!("{name}_count"), &[], values.count());
    }

    /// The finished page.
    pub fn finish(self) -> String {
        self.text
    }
}

fn escape(out: &mut String, text: &str, quoted: bool) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quoted => out.push_str("\\\""),
            _ => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_help_are_escaped() {
        let mut page = Exposition::default();
        page.family("a_total", Kind::Counter, "One\nline \\ \"quoted\".");
        page.sample("a_total", &[("x", "a\"b\\c\nd"), ("y", "")], 3);
        assert_eq!(
            page.finish(),
            "# HELP a_total One\\nline \\\\ \"quoted\".\n# TYPE a_total counter\n\
             a_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 3\n"
        );
    }

    #[test]
    fn a_snapshot_makes_well_formed_families() {
        let mut page = Exposition::default();
        page.snapshot(&Snapshot::default());
        let text = page.finish();
        let mut families = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let name = rest.split(' ').next().unwrap();
                assert!(families.insert(name.to_owned()), "{name} is there once");
            } else if !line.starts_with('#') {
                let (_, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(text.contains("evener_request_duration_seconds_bucket{le=\"+Inf\"} 0\n"));
    }
}
