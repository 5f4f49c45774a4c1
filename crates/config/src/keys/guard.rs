//! What protects a cluster from more than it can do, what stands in for it, and what keeps clients
//! at their endpoint.

use super::{COOKIE, FIELD_VALUE, HOST, PATH, key};
use crate::definition::Default::{Absent, Value};
use crate::definition::Kind::{Flag, Formed, List, Text, Time, Whole, Word};
use crate::definition::Table;

pub(super) static RETRY_BACKOFF: Table = Table {
    title: "[cluster.NAME.retry_backoff]",
    doc: "A random time up to a bound that doubles with each try.",
    keys: &[
        key(
            "base",
            Time,
            Value("\"25ms\""),
            "The bound before the second try.",
        ),
        key(
            "max",
            Time,
            Value("\"250ms\""),
            "It does not grow beyond this.",
        ),
    ],
};

pub(super) static HEDGE: Table = Table {
    title: "[cluster.NAME.hedge]",
    doc: "A request that has no answer after a while goes to another endpoint as well; the first answer counts, and the \
other attempt is cut off. Only requests that read (`GET`, `HEAD`, `OPTIONS`, `TRACE`), have no body, ask for no upgrade \
and are not bound to an endpoint by `sticky`. Hedges are counted with the retries of `retry_budget`; without one there are \
at most 20 for each hundred requests of the last ten seconds, and three each second in any case. While requests wait for \
an endpoint, or the breaker is not closed, there are none.",
    keys: &[
        key(
            "after",
            Time,
            Absent,
            "How long an answer is waited for. This or `quantile`.",
        ),
        key(
            "quantile",
            Whole(1, 99),
            Absent,
            "An answer is waited for as long as this percentage of the answers of the last minute took at most; until a \
hundred have come, there are no hedges.",
        ),
        key(
            "least",
            Time,
            Value("\"1ms\""),
            "With `quantile`: at least so long.",
        ),
        key(
            "max",
            Whole(1, 8),
            Value("1"),
            "Hedges of one request, each after the same time as the one before.",
        ),
    ],
};

pub(super) static BREAKER: Table = Table {
    title: "[cluster.NAME.breaker]",
    doc: "The circuit breaker of a cluster. Open, it refuses requests (503, or the `fallback`); after a while it lets a \
few pass, and by them it closes or stays open for longer. Every try counts; it fails when there is no answer or one of 5xx.",
    keys: &[
        key(
            "error_percent",
            Whole(0, 100),
            Value("50"),
            "Opens when this percentage of the tries fails; 0 is never.",
        ),
        key(
            "consecutive_failures",
            Whole(0, 1_000_000),
            Value("0"),
            "Opens after so many failures in a row; 0 is never.",
        ),
        key(
            "latency",
            Time,
            Absent,
            "Opens when the `latency_quantile` of the times until an answer begins is above this.",
        ),
        key(
            "latency_quantile",
            Whole(1, 99),
            Value("95"),
            "In percent; 50 is the median.",
        ),
        key("window", Time, Value("\"10s\""), "How long a try counts."),
        key(
            "requests_min",
            Whole(1, 1_000_000),
            Value("20"),
            "With fewer tries in the window, percentages and quantiles say nothing.",
        ),
        key(
            "open",
            Time,
            Value("\"10s\""),
            "How long it stays open at first; twice as long each time that the probes fail.",
        ),
        key(
            "open_max",
            Time,
            Value("\"300s\""),
            "It never stays open for longer.",
        ),
        key(
            "probes",
            Whole(1, 1_000),
            Value("1"),
            "Requests that pass then, all of which must succeed.",
        ),
    ],
};

pub(super) static CONCURRENCY: Table = Table {
    title: "[cluster.NAME.concurrency]",
    doc: "Adaptive concurrency: the limit sinks when answers take longer than they do with next to nothing in flight, and \
grows as long as they do not. The defaults are Envoy's gradient controller's, but for `first`.",
    keys: &[
        key(
            "first",
            Whole(1, 1_000_000),
            Value("20"),
            "The limit at first.",
        ),
        key(
            "max",
            Whole(1, 1_000_000),
            Value("1000"),
            "The limit does not grow beyond this.",
        ),
        key(
            "update",
            Time,
            Value("\"100ms\""),
            "How often the limit is adjusted.",
        ),
        key(
            "calibrate",
            Time,
            Value("\"60s\""),
            "How often the least latency is measured anew; the limit is `calibrate_limit` meanwhile.",
        ),
        key(
            "calibrate_requests",
            Whole(1, 1_000_000),
            Value("50"),
            "Requests that are needed for it.",
        ),
        key(
            "calibrate_limit",
            Whole(1, 1_000_000),
            Value("3"),
            "The limit while it is measured.",
        ),
        key(
            "buffer_percent",
            Whole(0, 1_000),
            Value("25"),
            "By so much latency may be above the least one.",
        ),
    ],
};

pub(super) static SHED: Table = Table {
    title: "[cluster.NAME.shed]",
    doc: "Load shedding, by the `importance` of routes. The pressure is the used part of the queue, or of the time that \
requests may wait in it, in percent. At the first number of each importance shedding begins, at the second all are refused (503).",
    keys: &[
        key(
            "low",
            List(&Whole(0, 100)),
            Value("[70, 90]"),
            "For requests of low importance.",
        ),
        key(
            "normal",
            List(&Whole(0, 100)),
            Value("[90, 100]"),
            "For most.",
        ),
        key(
            "high",
            List(&Whole(0, 100)),
            Value("[98, 100]"),
            "For important ones.",
        ),
        key(
            "critical_slots",
            Whole(0, 1_000_000),
            Value("16"),
            "Requests of critical importance that may go beyond `max_requests` and `concurrency`; they are never shed before.",
        ),
    ],
};

pub(super) static FALLBACK: Table = Table {
    title: "[cluster.NAME.fallback]",
    doc: "Another cluster, or an answer.",
    keys: &[
        key("cluster", Text, Absent, "They go to this cluster."),
        key(
            "status",
            Whole(200, 599),
            Value("503"),
            "The answer's status.",
        ),
        key("body", Text, Value("\"\""), "The answer's body."),
        key(
            "type",
            Formed(&FIELD_VALUE),
            Value("\"text/plain; charset=utf-8\""),
            "The answer's `Content-Type`.",
        ),
    ],
};

pub(super) static STICKY: Table = Table {
    title: "sticky",
    doc: "Keeps clients at their endpoint by a cookie: one of Evener's own (`cookie`), or one that the application sets \
(`learn`). When the endpoint cannot serve, another one does, and the client stays there.",
    keys: &[
        key(
            "cookie",
            Formed(&COOKIE),
            Absent,
            "Evener sets this cookie; its value names the endpoint.",
        ),
        key(
            "learn",
            Formed(&COOKIE),
            Absent,
            "The application sets this cookie; which endpoint it came from is remembered until Evener ends.",
        ),
        key(
            "ttl",
            Time,
            Absent,
            "With `cookie`: how long browsers keep it, from the last response on; without it, until they are closed. With \
`learn`: how long a value is remembered after its last use, ten minutes if it is left out.",
        ),
        key(
            "sessions_max",
            Whole(1, 10_000_000),
            Value("65536"),
            "With `learn`: values that are remembered; beyond it, the one used longest ago is forgotten.",
        ),
        key(
            "path",
            Formed(&PATH),
            Value("\"/\""),
            "The cookie's `Path`.",
        ),
        key("domain", Formed(&HOST), Absent, "The cookie's `Domain`."),
        key(
            "secure",
            Flag,
            Value("false"),
            "The cookie goes over TLS only.",
        ),
        key(
            "http_only",
            Flag,
            Value("true"),
            "Scripts cannot read the cookie.",
        ),
        key(
            "same_site",
            Word(&["strict", "lax", "none"]),
            Value("\"lax\""),
            "Whether other sites' requests carry the cookie; `none` needs `secure`.",
        ),
    ],
};
