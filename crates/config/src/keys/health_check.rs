//! `[cluster.NAME.health_check]`.

use super::{STATUSES, TARGET_PATH, key};
use crate::definition::Default::{Absent, Said, Value};
use crate::definition::Kind::{Flag, Formed, Map, OneOrMore, Text, Time, Whole, Word};
use crate::definition::Table;

pub(super) static HEALTH_CHECK: Table = Table {
    title: "[cluster.NAME.health_check]",
    doc: "Active checks of each endpoint. One that does not pass gets no requests until it passes again.",
    keys: &[
        key(
            "type",
            Word(&["http", "tcp", "grpc"]),
            Value("\"http\""),
            "What is asked: `http` for an answer to a GET, `tcp` whether a connection is taken, `grpc` the service `grpc.health.v1`.",
        ),
        key(
            "service",
            Text,
            Said("all of the server"),
            "With `grpc`: the service that is asked about.",
        ),
        key(
            "protocol",
            Word(&["http1", "h2"]),
            Said("that of the cluster"),
            "With `http`: what is spoken, if another port speaks something else.",
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
            "The `Host` of the request, or its `:authority`.",
        ),
        key(
            "port",
            Whole(1, 65_535),
            Said("that of the endpoint"),
            "Another port to ask.",
        ),
        key(
            "tls",
            Flag,
            Said("whether the cluster has `tls`"),
            "`false` asks in clear text, as another port may want it; otherwise checks speak TLS as requests do.",
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
            "resend",
            Flag,
            Value("true"),
            "When it becomes unhealthy, requests that wait for its answer go to another endpoint that is healthy, if `next_upstream` has `timeout` and lets them.",
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
