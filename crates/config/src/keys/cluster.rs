//! `[cluster.NAME]` and what belongs to it.

use super::{NAME, STATUSES, TARGET, TARGET_PATH, TEMPLATE, key};
use crate::definition::Default::{Absent, NotYet, Required, Said, Value};
use crate::definition::Kind::{
    Deadline, Either, Flag, Formed, List, Map, OneOrMore, Table as TableOf, Text, Time, Whole, Word,
};
use crate::definition::Table;

pub(super) static CLUSTER: Table = Table {
    title: "[cluster.NAME]",
    doc: "A named set of endpoints.",
    keys: &[
        key(
            "endpoints",
            List(&Either(&[Formed(&TARGET), TableOf(&ENDPOINT)])),
            Required,
            "The endpoints: addresses, or tables with an `address`.",
        ),
        key(
            "policy",
            Either(&[Word(POLICIES), TableOf(&POLICY)]),
            Value("\"round_robin\""),
            "How an endpoint is chosen; a table for those that need to know more. `round_robin`, `least_conn`, `ip_hash`, \
`random`, `random_two` and `least_time` choose as nginx does. `least_in_flight` takes the one with the fewest requests \
for its weight, equals in turn; `power_of_two` the less busy of two that are drawn; `peak_ewma`, of two that are drawn, \
the one with the least latency times requests; `first_fit` the first that is not full.",
        ),
        key(
            "queue",
            Whole(0, 1_000_000),
            Said("that of `[limits]`"),
            "Requests that may wait for an endpoint (503 beyond it).",
        ),
        key(
            "timeouts",
            TableOf(&CLUSTER_TIMEOUTS),
            Absent,
            "Deadlines for the requests of this cluster.",
        ),
        key(
            "health_check",
            TableOf(&HEALTH_CHECK),
            Absent,
            "Active checks: every endpoint is asked again and again.",
        ),
    ],
};

const POLICIES: &[&str] = &[
    "round_robin",
    "least_conn",
    "ip_hash",
    "random",
    "random_two",
    "least_in_flight",
    "power_of_two",
    "peak_ewma",
    "first_fit",
    "least_time",
];

static POLICY: Table = Table {
    title: "policy",
    doc: "A way to choose an endpoint that needs to know more; one of the first four.",
    keys: &[
        key(
            "hash",
            Formed(&TEMPLATE),
            Absent,
            "By this text, as nginx's `hash`: requests with the same text go to the same endpoint.",
        ),
        key(
            "maglev",
            Formed(&TEMPLATE),
            Absent,
            "By this text, with a table of Maglev's kind.",
        ),
        key(
            "bounded_load",
            Formed(&TEMPLATE),
            Absent,
            "By this text, but no endpoint gets more than `over_percent` above the mean.",
        ),
        key(
            "least_time",
            Word(&["header", "last_byte"]),
            Absent,
            "The quickest, by this time, as nginx's `least_time`.",
        ),
        key(
            "consistent",
            Flag,
            Value("false"),
            "With `hash`: an endpoint more or less moves few requests (ketama, as nginx's `consistent`).",
        ),
        key(
            "over_percent",
            Whole(1, 1_000),
            Value("25"),
            "With `bounded_load`.",
        ),
        key(
            "in_flight",
            Flag,
            Value("false"),
            "With `least_time`: requests still in flight count with their age, as nginx's `inflight`.",
        ),
    ],
};

static CLUSTER_TIMEOUTS: Table = Table {
    title: "[cluster.NAME.timeouts]",
    doc: "Deadlines for the requests of one cluster.",
    keys: &[
        key(
            "connect",
            Deadline,
            Said("that of `[timeouts]`"),
            "Until a connection to an endpoint is there (504).",
        ),
        key(
            "first_byte",
            Deadline,
            Said("that of `[timeouts]`"),
            "Until a response begins (504).",
        ),
        key(
            "response_gap",
            Deadline,
            Said("that of `[timeouts]`"),
            "Between two pieces of a response (504).",
        ),
        key(
            "request",
            Deadline,
            Said("that of `[timeouts]`"),
            "The whole request (504).",
        ),
        key(
            "queue",
            Deadline,
            Said("that of `[timeouts]`"),
            "Waiting for an endpoint (503).",
        ),
        key(
            "tunnel_idle",
            Deadline,
            Said("that of `[timeouts]`"),
            "A WebSocket that carries nothing for so long is closed.",
        ),
    ],
};

static HEALTH_CHECK: Table = Table {
    title: "[cluster.NAME.health_check]",
    doc: "Active checks of each endpoint. One that does not pass gets no requests until it passes again.",
    keys: &[
        key(
            "type",
            Word(&["http", "tcp"]),
            Value("\"http\""),
            "What is asked: `http` for an answer to a GET, `tcp` whether a connection is taken.",
        ),
        key(
            "path",
            Formed(&TARGET_PATH),
            Value("\"/\""),
            "What is asked for, with `http`; it may have a query.",
        ),
        key(
            "host",
            Text,
            Said("the endpoint's address"),
            "The `Host` of the request.",
        ),
        key(
            "port",
            Whole(1, 65_535),
            Said("that of the endpoint"),
            "Another port to ask.",
        ),
        key(
            "interval",
            Time,
            Value("\"5s\""),
            "From the end of one check to the next.",
        ),
        key(
            "jitter",
            Time,
            Value("\"0s\""),
            "Up to so much is added to each interval.",
        ),
        key(
            "interval_unhealthy",
            Time,
            Said("`interval`"),
            "The interval while it is unhealthy.",
        ),
        key(
            "interval_changing",
            Time,
            Said("`interval`"),
            "The interval while results speak for a change.",
        ),
        key(
            "timeout",
            Time,
            Value("\"5s\""),
            "How long an answer is waited for.",
        ),
        key(
            "rise",
            Whole(1, 1_000),
            Value("1"),
            "Passed checks in a row after which it is healthy.",
        ),
        key(
            "fall",
            Whole(1, 1_000),
            Value("1"),
            "Failed checks in a row after which it is not.",
        ),
        key(
            "hold",
            Flag,
            Value("false"),
            "It gets no requests until its first check has passed.",
        ),
        key(
            "status",
            OneOrMore(&Formed(&STATUSES)),
            Value("[\"200-399\"]"),
            "What the answer's status must be.",
        ),
        key(
            "header",
            Map(&Text),
            Absent,
            "What these fields of the answer must contain; an empty text asks only that the field be there.",
        ),
        key("body", Text, Absent, "What the answer's body must contain."),
    ],
};

static ENDPOINT: Table = Table {
    title: "endpoints",
    doc: "One endpoint of a cluster.",
    keys: &[
        key(
            "address",
            Formed(&TARGET),
            Required,
            "`host:port`, `[::1]:port`, `unix:/path`, or `srv:NAME` for SRV records. A name stands for one endpoint for each of its addresses; the priorities of SRV records are added to `priority`, their weights are multiplied with `weight`.",
        ),
        key(
            "name",
            Formed(&NAME),
            Said("its address"),
            "Its name in reports and logs.",
        ),
        key(
            "weight",
            Whole(1, 65_535),
            Value("1"),
            "Its share of the requests.",
        ),
        key(
            "backup",
            Flag,
            Value("false"),
            "Serves only when no other can.",
        ),
        key(
            "down",
            Flag,
            Value("false"),
            "Switched off; hashing counts it as if it were there.",
        ),
        key(
            "priority",
            Whole(0, 255),
            Value("0"),
            "Endpoints of a higher number serve when those of lower ones cannot.",
        ),
        key(
            "max_fails",
            Whole(0, 1_000_000),
            NotYet,
            "Failures within `fail_timeout` after which it is left alone for as long.",
        ),
        key("fail_timeout", Time, NotYet, "See `max_fails`."),
        key(
            "max_conns",
            Whole(0, 1_000_000),
            Value("0"),
            "The most requests it may have in flight; 0 is no bound.",
        ),
    ],
};
