//! Stage 10: a request is over, and the counters and the access log hear of it.

use std::str::from_utf8;
use std::time::Duration;

use evener_http1::Version;
use evener_telemetry::{AccessRecord, FieldValues};

use crate::core::Core;
use crate::session::Exchange;

/// Counts a request and writes its line. `status` is `None` if the client left unanswered.
pub(crate) fn finished(exchange: &Exchange, core: &mut Core, status: Option<u16>) {
    let since = |from_ns: u64| Duration::from_nanos(core.now_ns.saturating_sub(from_ns));
    let total = since(exchange.started_ns);
    let upstream = (exchange.asked_ns > 0).then(|| since(exchange.asked_ns));
    core.telemetry.request_finished(status, total, upstream);
    if !core.telemetry.has_access_log() {
        return;
    }
    let log = &exchange.log;
    let endpoint = exchange.answered_by.as_ref().or(exchange.endpoint.as_ref());
    core.telemetry.access(&AccessRecord {
        client: from_utf8(&log.text[..log.client_end]).unwrap_or("-"),
        method: &log.text[log.id_end..log.method_end],
        target: &log.text[log.method_end..log.target_end],
        version: match exchange.version {
            _ if exchange.over_http2 => "2.0",
            Version::H10 => "1.0",
            Version::H11 => "1.1",
        },
        status: status.unwrap_or(0),
        bytes: exchange.response_bytes,
        duration: total,
        worker: endpoint.map_or("", |endpoint| endpoint.name.as_str()),
        process: endpoint.map_or(0, |endpoint| endpoint.process),
        fields: FieldValues {
            text: &log.text,
            spans: &log.fields,
        },
        request_id: from_utf8(&log.text[log.client_end..log.id_end]).unwrap_or(""),
    });
}
