//! Every key of evener.toml.

use crate::definition::{Default, Form, Key, Kind, Table};
use crate::model::TrustedPeers;
use crate::template::Template;
use crate::values::{self, ListenAddress, Target};

mod app;
mod buffer;
mod cluster;
mod filters;
mod guard;
mod health_check;
mod listener;
mod route;

pub(crate) use app::app_keys;

use app::{APP, BUDGET};
use buffer::SPILL;
use cluster::CLUSTER;
use listener::LISTENER;
use route::ROUTE;

macro_rules! form {
    ($name:ident, $what:literal, $numbers:literal, $examples:expr, $check:expr) => {
        pub(super) static $name: Form = Form {
            name: $what,
            numbers: $numbers,
            examples: &$examples,
            check: |text| $check(text).map(|_| ()),
        };
    };
}

form!(
    LISTEN,
    "an address to listen on",
    false,
    ["127.0.0.1:8080", "[::]:80", "unix:/run/evener.sock", "fd:3"],
    ListenAddress::parse
);
form!(
    TARGET,
    "an address",
    false,
    [
        "127.0.0.1:9001",
        "api.internal:80",
        "unix:/run/app.sock",
        "srv:_http._tcp.api.internal"
    ],
    Target::parse
);
form!(NAME, "a name", false, ["api"], values::name);
form!(
    HOST,
    "a host",
    false,
    ["example.com", "*.example.com"],
    values::host
);
form!(PATH, "a path", false, ["/api"], values::url_path);
form!(METHOD, "a method", false, ["GET", "POST"], values::method);
form!(REGEX, "a regular expression", false, ["^/v[0-9]+/"], regex);
form!(
    PEERS,
    "an address, a network, `unix` or `*`",
    false,
    ["127.0.0.1", "10.0.0.0/8", "unix", "*"],
    |text: &str| TrustedPeers::of([text])
);
form!(
    FIELD_VALUE,
    "the value of a header field",
    false,
    ["nosniff"],
    values::field_value
);
form!(
    FIELD_NAME,
    "the name of a header field",
    false,
    ["X-Api-Version"],
    values::field_name
);
form!(
    COOKIE,
    "the name of a cookie",
    false,
    ["endpoint"],
    values::field_name
);
form!(
    ORIGIN,
    "an origin",
    false,
    ["https://example.com", "https://*.example.com", "*"],
    values::origin
);
form!(
    TEMPLATE,
    "text with variables",
    false,
    ["$cookie_user", "$remote_addr", "$request_uri"],
    Template::parse
);
form!(
    NAME_SERVER,
    "the address of a name server",
    false,
    ["10.0.0.2", "10.0.0.2:53"],
    values::name_server
);
form!(
    TARGET_PATH,
    "a path, perhaps with a query",
    false,
    ["/health", "/health?full=1"],
    values::target_path
);
form!(
    STATUSES,
    "a status, or two with `-` between",
    true,
    ["200", "200-399"],
    values::statuses
);
form!(
    SHARDS,
    "a number of threads from 1 to 256, or `auto`",
    true,
    ["auto", "2"],
    shards
);
form!(
    WORKERS,
    "a number of workers, `auto` or `MIN..MAX`",
    true,
    ["auto", "4", "2..8"],
    workers
);

fn regex(text: &str) -> Result<(), String> {
    regex::bytes::Regex::new(text).map(|_| ()).map_err(|error| {
        let error = error.to_string();
        let last = error.lines().last().unwrap_or("it cannot be read");
        format!(
            "`{text}` is not a regular expression: {}",
            last.trim_start_matches("error: ")
        )
    })
}

fn shards(text: &str) -> Result<(), String> {
    match (text, text.parse::<u32>()) {
        ("auto", _) | (_, Ok(1..=256)) => Ok(()),
        _ => Err(format!("`{text}` is not {}", SHARDS.name)),
    }
}

fn workers(text: &str) -> Result<(), String> {
    let number = |part: &str| {
        let number = part.trim().parse::<u32>().ok();
        number.filter(|number| (1..=1024).contains(number))
    };
    let good = match text.split_once("..") {
        Some((least, most)) => number(least)
            .zip(number(most))
            .is_some_and(|(least, most)| least <= most),
        None => text == "auto" || number(text).is_some(),
    };
    match good {
        true => Ok(()),
        false => Err(format!(
            "`{text}` is not {}, each from 1 to 1024",
            WORKERS.name
        )),
    }
}

const fn key(name: &'static str, kind: Kind, default: Default, doc: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        doc,
    }
}

use Default::{Absent, Said, Value};
use Kind::{
    Deadline, Flag, Formed, Map, Named, OneOrMore, Size, SizeLimit, Table as TableOf, Tables, Text,
    Time, Whole, Word,
};

/// The whole file.
pub static ROOT: Table = Table {
    title: "the file",
    doc: "At the top, before the first `[table]`.",
    keys: &[
        key(
            "listener",
            Tables(&LISTENER),
            Said("none; `[app]` alone listens on 127.0.0.1:8000"),
            "Where clients connect.",
        ),
        key(
            "route",
            Tables(&ROUTE),
            Said("everything to `[app]`"),
            "Which request goes where.",
        ),
        key(
            "cluster",
            Named(&CLUSTER),
            Absent,
            "Sets of endpoints by name.",
        ),
        key(
            "app",
            TableOf(&APP),
            Absent,
            "The local application: a cluster named `app`, to which everything goes that no route names another cluster for.",
        ),
        key(
            "limits",
            TableOf(&LIMITS),
            Value("{}"),
            "Bounds on sizes and counts.",
        ),
        key(
            "timeouts",
            TableOf(&TIMEOUTS),
            Value("{}"),
            "Deadlines of every phase of a connection.",
        ),
        key(
            "spill",
            TableOf(&SPILL),
            Value("{}"),
            "Where bodies lie that are kept and do not fit in memory.",
        ),
        key(
            "dns",
            TableOf(&DNS),
            Value("{}"),
            "How names of endpoints are looked up.",
        ),
        key("log", TableOf(&LOG), Value("{}"), "How the logs look."),
        key(
            "admin",
            TableOf(&ADMIN),
            Value("{}"),
            "Where the admin API is.",
        ),
        key(
            "budget",
            Named(&BUDGET),
            Absent,
            "What all workers of `[app]` share, by name.",
        ),
        key(
            "shards",
            Formed(&SHARDS),
            Value("\"auto\""),
            "Data-plane threads. `auto` is one for each CPU, or, with `[app]`, one for each four workers at most.",
        ),
        key(
            "backlog",
            Whole(1, 65_535),
            Value("2048"),
            "Connections that may wait to be accepted at each listener.",
        ),
        key(
            "trusted",
            OneOrMore(&Formed(&PEERS)),
            Value("[\"127.0.0.1\"]"),
            "Clients whose `X-Forwarded-*` and `X-Request-ID` are believed.",
        ),
        key(
            "response_fields",
            Map(&Formed(&FIELD_VALUE)),
            Absent,
            "Header fields added to every response.",
        ),
        key(
            "liveness_path",
            Formed(&PATH),
            Absent,
            "Answered with 200 as long as Evener runs.",
        ),
        key(
            "readiness_path",
            Formed(&PATH),
            Absent,
            "Answered with 200 when every cluster has an endpoint that takes requests, else with 503.",
        ),
    ],
};

static LIMITS: Table = Table {
    title: "[limits]",
    doc: "Bounds on sizes and counts.",
    keys: &[
        key(
            "head",
            Size,
            Value("\"32k\""),
            "Request line and header fields together (431; the request line alone: 414).",
        ),
        key(
            "header_count",
            Whole(1, 10_000),
            Value("100"),
            "Header fields of a request (431).",
        ),
        key("body", SizeLimit, Value("\"1g\""), "Request body (413)."),
        key(
            "connections",
            Whole(1, 10_000_000),
            Value("20000"),
            "Client connections; further ones wait to be accepted.",
        ),
        key(
            "queue",
            Whole(0, 1_000_000),
            Value("1000"),
            "Requests of a cluster that may wait for an endpoint (503 beyond it).",
        ),
        key(
            "replay",
            Size,
            Value("\"64k\""),
            "Request bytes kept so that a request can be sent to another endpoint.",
        ),
    ],
};

static TIMEOUTS: Table = Table {
    title: "[timeouts]",
    doc: "Deadlines: `500ms`, `10s`, `2m`, bare seconds, or `off`.",
    keys: &[
        key(
            "keep_alive",
            Deadline,
            Value("\"65s\""),
            "A connection without a request is closed after this.",
        ),
        key(
            "header_read",
            Deadline,
            Value("\"10s\""),
            "Until a request's head is complete (408).",
        ),
        key(
            "body_gap",
            Deadline,
            Value("\"30s\""),
            "Between two pieces of a request body (408).",
        ),
        key(
            "send_gap",
            Deadline,
            Value("\"60s\""),
            "A client that takes none of its response for so long is cut off.",
        ),
        key(
            "connect",
            Deadline,
            Value("\"5s\""),
            "Until a connection to an endpoint is there (504).",
        ),
        key(
            "first_byte",
            Deadline,
            Value("\"60s\""),
            "Until a response begins (504).",
        ),
        key(
            "response_gap",
            Deadline,
            Value("\"5m\""),
            "Between two pieces of a response (504).",
        ),
        key(
            "request",
            Deadline,
            Value("\"off\""),
            "The whole request (504).",
        ),
        key(
            "queue",
            Deadline,
            Value("\"10s\""),
            "Waiting for an endpoint (503).",
        ),
        key(
            "upstream_idle",
            Deadline,
            Value("\"60s\""),
            "An idle connection to an endpoint is closed after this.",
        ),
        key(
            "tunnel_idle",
            Deadline,
            Value("\"off\""),
            "A WebSocket that carries nothing for so long is closed.",
        ),
        key(
            "graceful_shutdown",
            Time,
            Value("\"30s\""),
            "Time for requests under way when a worker or the program goes.",
        ),
        key(
            "drain_delay",
            Time,
            Value("\"0s\""),
            "After SIGTERM, so long `readiness_path` answers 503 and all is served as before.",
        ),
    ],
};

static DNS: Table = Table {
    title: "[dns]",
    doc: "How names of endpoints are looked up. A name is looked up again when its time to live is over; \
endpoints join and leave as its addresses do. An answer that does not come, or that names no address, changes nothing.",
    keys: &[
        key(
            "servers",
            OneOrMore(&Formed(&NAME_SERVER)),
            Said("those of the system"),
            "Name servers.",
        ),
        key(
            "ttl_min",
            Time,
            Value("\"1s\""),
            "An answer holds at least so long, whatever it says.",
        ),
        key(
            "ttl_max",
            Time,
            Value("\"5m\""),
            "An answer holds at most so long.",
        ),
        key(
            "timeout",
            Time,
            Value("\"2s\""),
            "How long an answer is waited for.",
        ),
    ],
};

static LOG: Table = Table {
    title: "[log]",
    doc: "How the logs look.",
    keys: &[
        key(
            "level",
            Word(&["critical", "error", "warning", "info", "debug", "trace"]),
            Value("\"info\""),
            "What is worth a line on standard error.",
        ),
        key(
            "format",
            Word(&["text", "json"]),
            Value("\"text\""),
            "Form of the logs.",
        ),
        key(
            "access",
            Flag,
            Value("true"),
            "A line on standard output for each request.",
        ),
        key(
            "colors",
            Flag,
            Said("on a terminal"),
            "Colours in the logs.",
        ),
    ],
};

static ADMIN: Table = Table {
    title: "[admin]",
    doc: "Where the admin API is.",
    keys: &[
        key(
            "name",
            Formed(&NAME),
            Said("`evener`"),
            "By which `evener status` and its like find this program.",
        ),
        key(
            "socket",
            Text,
            Said("by the name"),
            "Path of the admin socket.",
        ),
        key(
            "address",
            Text,
            Absent,
            "Serve the admin API and the dashboard on this `host:port` too.",
        ),
        key(
            "token",
            Text,
            Said("`$EVENER_ADMIN_TOKEN`"),
            "What the admin address asks for; needed unless it is a loopback one.",
        ),
    ],
};
