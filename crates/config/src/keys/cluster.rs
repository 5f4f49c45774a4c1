//! `[cluster.NAME]` and what belongs to it.

use super::buffer::{BUFFER_REQUESTS, BUFFER_RESPONSES};
use super::guard::{BREAKER, CONCURRENCY, FALLBACK, HEDGE, RETRY_BACKOFF, SHED, STICKY};
use super::health_check::HEALTH_CHECK;
use super::{NAME, TARGET, TEMPLATE, key};
use crate::definition::Default::{Absent, Required, Said, Value};
use crate::definition::Kind::{
    Deadline, Either, Flag, Formed, List, OneOrMore, Table as TableOf, Text, Time, Whole, Word,
};
use crate::definition::Table;

pub(super) static CLUSTER: Table = Table {
    title: "[cluster.NAME]",
    doc: "A named set of endpoints. `[cluster.app]` beside `[app]` says how the requests for its workers are shared among \
them, and what protects them; the workers are its endpoints.",
    keys: &[
        key(
            "endpoints",
            List(&Either(&[Formed(&TARGET), TableOf(&ENDPOINT)])),
            Said("must be given, except for the workers of `[app]`"),
            "The endpoints: addresses, or tables with an `address`.",
        ),
        key(
            "policy",
            Either(&[Word(POLICIES), TableOf(&POLICY)]),
            Value("\"round_robin\""),
            "How an endpoint is chosen; a table for those that need to know more. `round_robin`, `least_conn`, `ip_hash`, \
`random`, `random_two` and `least_time` choose as nginx does. `least_in_flight` takes the one with the fewest requests \
for its weight, equals in turn; `power_of_two` the less busy of two that are drawn; `peak_ewma`, of two that are drawn, \
the one with the least latency times requests; `first_fit` the first that is not full. Without it, `[cluster.app]` takes \
`least_in_flight`.",
        ),
        key(
            "next_upstream",
            OneOrMore(&Word(NEXT_UPSTREAM)),
            Value("[\"error\", \"timeout\"]"),
            "What makes a request go to another endpoint, as nginx's `proxy_next_upstream`. A request that was sent and is not idempotent does so only with `non_idempotent`. Without it, a request of `[cluster.app]` does so as long as no worker has begun it, and after that if it is idempotent.",
        ),
        key(
            "next_upstream_tries",
            Whole(0, 1_000),
            Value("0"),
            "The most endpoints that a request goes to; 0 is all of them.",
        ),
        key(
            "next_upstream_timeout",
            Time,
            Value("\"0s\""),
            "Time from the first try in which a request may go to another endpoint; 0 is no limit.",
        ),
        key(
            "retry_budget",
            TableOf(&RETRY_BUDGET),
            Absent,
            "How many retries the cluster bears; without it, as many as there are.",
        ),
        key(
            "retry_backoff",
            TableOf(&RETRY_BACKOFF),
            Absent,
            "How long a request waits before it goes to another endpoint; without it, not at all.",
        ),
        key(
            "hedge",
            TableOf(&HEDGE),
            Absent,
            "When a request that has no answer goes to another endpoint as well.",
        ),
        key(
            "max_requests",
            Whole(1, 1_000_000),
            Absent,
            "Requests that all endpoints together have in flight; others wait in the queue.",
        ),
        key(
            "breaker",
            TableOf(&BREAKER),
            Absent,
            "Refuses requests for a while when too many fail or are slow.",
        ),
        key(
            "concurrency",
            TableOf(&CONCURRENCY),
            Absent,
            "Finds out how many requests in flight are good for the endpoints; others wait in the queue.",
        ),
        key(
            "shed",
            Either(&[Flag, TableOf(&SHED)]),
            Value("false"),
            "Refuses the least important requests when too many wait, more of them the longer the queue is.",
        ),
        key(
            "fallback",
            TableOf(&FALLBACK),
            Absent,
            "What becomes of requests that the cluster does not answer: its breaker is open, they are shed, the queue is full \
or takes too long, or no endpoint that may be tried gives an answer.",
        ),
        key(
            "outlier",
            TableOf(&OUTLIER),
            Absent,
            "Ejects endpoints that answer worse than they should, as Envoy does.",
        ),
        key(
            "panic_percent",
            Whole(0, 100),
            Value("0"),
            "When fewer endpoints than this percentage are healthy and not ejected, all are used; 0 is never.",
        ),
        key(
            "slow_start",
            Time,
            Absent,
            "How long an endpoint that comes back gets less than its share.",
        ),
        key(
            "sticky",
            Either(&[Formed(&TEMPLATE), TableOf(&STICKY)]),
            Absent,
            "Keeps clients at their endpoint; a table by cookies. With a text, requests for which this text is the `route` of an endpoint go to that endpoint, if it can serve (nginx's `sticky route`).",
        ),
        key(
            "protocol",
            Word(&["http1", "h2"]),
            Value("\"http1\""),
            "What endpoints speak. `h2` is HTTP/2, in clear text with prior knowledge, which gRPC needs; requests share its connections.",
        ),
        key(
            "proxy_protocol",
            Word(&["v1", "v2"]),
            Absent,
            "Each connection begins with a header of the PROXY protocol that names the client; it then serves one request.",
        ),
        key(
            "tls",
            TableOf(&CLUSTER_TLS),
            Absent,
            "Endpoints speak TLS; `{}` has the usual settings.",
        ),
        key(
            "buffer_requests",
            Either(&[Flag, TableOf(&BUFFER_REQUESTS)]),
            Value("false"),
            "Takes the whole body of a request before an endpoint is asked for.",
        ),
        key(
            "buffer_responses",
            Either(&[Flag, TableOf(&BUFFER_RESPONSES)]),
            Value("false"),
            "Takes responses off their endpoints as fast as they come.",
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

static CLUSTER_TLS: Table = Table {
    title: "[cluster.NAME.tls]",
    doc: "How endpoints speak TLS: 1.2 and 1.3. The files are PEM, and read again at every reload.",
    keys: &[
        key(
            "ca",
            Text,
            Said("the system's authorities"),
            "File of the authorities that sign the endpoints' certificates.",
        ),
        key(
            "server_name",
            Text,
            Said("the host or address of the endpoint"),
            "The name that their certificates must have, and that is asked for (SNI).",
        ),
        key(
            "cert",
            Text,
            Absent,
            "File of a certificate that is shown to endpoints that ask for one.",
        ),
        key(
            "key",
            Text,
            Said("the file of `cert`"),
            "File of its private key, without a passphrase.",
        ),
        key(
            "verify",
            Flag,
            Value("true"),
            "Whether their certificates are checked. Without it, anybody on the way can read and change everything.",
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

const NEXT_UPSTREAM: &[&str] = &[
    "error",
    "timeout",
    "invalid_header",
    "http_500",
    "http_502",
    "http_503",
    "http_504",
    "http_403",
    "http_404",
    "http_429",
    "non_idempotent",
    "off",
];

static RETRY_BUDGET: Table = Table {
    title: "[cluster.NAME.retry_budget]",
    doc: "How many retries a cluster bears.",
    keys: &[
        key(
            "percent",
            Whole(0, 1_000),
            Value("20"),
            "Retries for each hundred requests of the last ten seconds.",
        ),
        key(
            "least_per_second",
            Whole(0, 1_000_000),
            Value("3"),
            "Retries that are allowed each second in any case.",
        ),
    ],
};

static OUTLIER: Table = Table {
    title: "[cluster.NAME.outlier]",
    doc: "When an endpoint is ejected. The defaults are Envoy's; what they do not say is as there.",
    keys: &[
        key(
            "consecutive_5xx",
            Whole(0, 1_000_000),
            Value("5"),
            "Answers 5xx or failures in a row; 0 is never.",
        ),
        key(
            "consecutive_gateway",
            Whole(0, 1_000_000),
            Value("0"),
            "Failures to answer, or 502, 503, 504, in a row; 0 is never.",
        ),
        key(
            "interval",
            Time,
            Value("\"10s\""),
            "How often success rates are compared and ejections end.",
        ),
        key(
            "ejection",
            Time,
            Value("\"30s\""),
            "How long the first ejection lasts; the second lasts twice as long, and so on.",
        ),
        key(
            "ejection_max",
            Time,
            Value("\"300s\""),
            "No ejection lasts longer.",
        ),
        key(
            "ejected_percent_max",
            Whole(0, 100),
            Value("10"),
            "No more than this percentage are ejected at once.",
        ),
        key(
            "always_one",
            Flag,
            Value("true"),
            "One endpoint may be ejected whatever the percentage says.",
        ),
        key(
            "success_rate",
            Flag,
            Value("true"),
            "Ejects endpoints whose share of successes is far below that of the others.",
        ),
        key(
            "failure_percent",
            Whole(0, 100),
            Value("0"),
            "Ejects endpoints of whose requests this percentage fails; 0 is never.",
        ),
    ],
};

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
            "per_try",
            Deadline,
            Value("\"off\""),
            "From the choice of an endpoint until its response begins; then the next endpoint is tried, if `next_upstream` says so (504).",
        ),
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
            Value("1"),
            "Failures within `fail_timeout` after which it is left alone for as long, as nginx counts them; 0 is never. The only endpoint of a cluster is never left alone.",
        ),
        key(
            "fail_timeout",
            Time,
            Value("\"10s\""),
            "See `max_fails`; whole seconds count.",
        ),
        key(
            "route",
            Text,
            Absent,
            "With the cluster's `sticky`: requests that carry this text come to this endpoint. Without it, a text is made of the endpoint's address.",
        ),
        key(
            "max_connections",
            Whole(0, 1_000_000),
            Value("0"),
            "The most connections it may have from here, idle ones included; requests beyond it wait in the queue. Checks do not count. 0 is no bound.",
        ),
        key(
            "max_conns",
            Whole(0, 1_000_000),
            Value("0"),
            "The most requests it may have in flight; 0 is no bound.",
        ),
    ],
};
