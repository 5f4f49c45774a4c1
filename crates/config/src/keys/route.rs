//! `[[route]]` and what belongs to it.

use super::buffer::{BUFFER_REQUESTS, BUFFER_RESPONSES};
use super::filters::{
    COMPRESS, CORS, FILES, REDIRECT, REQUEST_FIELDS, RESPOND, RESPONSE_FIELDS, REWRITE, SECURITY,
};
use super::{HOST, METHOD, PATH, REGEX, TEMPLATE, key};
use crate::definition::Default::{Absent, Said, Value};
use crate::definition::Kind::{
    Deadline, Either, Flag, Formed, Map, OneOrMore, SizeLimit, Table as TableOf, Text, Whole, Word,
};
use crate::definition::Table;

pub(super) static ROUTE: Table = Table {
    title: "[[route]]",
    doc: "Which requests, and what becomes of them. All conditions of a route must hold. Of the routes \
whose conditions hold, the most specific is taken: by host (exact before `*.`, longer before shorter, before \
none), then by path (`exact`, then `regex`, then prefixes, longer before shorter), then by the number of other \
conditions, then by their order in the file. A request for which there is no route gets 404.\n\n\
Paths are compared after decoding (`%41` is `A`), without `.` and `..` segments and doubled slashes, so that a \
route cannot be got round by writing its path in another way; what is sent on is the path as the client wrote it.",
    keys: &[
        key(
            "cluster",
            Text,
            Said("`app`, with `[app]`"),
            "Where the requests go. Instead of it: `redirect`, `respond`, `files`.",
        ),
        key(
            "redirect",
            Either(&[Formed(&TEMPLATE), TableOf(&REDIRECT)]),
            Absent,
            "The client is sent to this URL: `https://$host$request_uri`.",
        ),
        key(
            "respond",
            Either(&[Whole(200, 599), TableOf(&RESPOND)]),
            Absent,
            "Answers with this status, or with what the table says.",
        ),
        key(
            "files",
            Either(&[Text, TableOf(&FILES)]),
            Absent,
            "Serves this folder. With `cluster`, what is not there goes to the cluster.",
        ),
        key(
            "listener",
            OneOrMore(&Text),
            Absent,
            "Only what came in by this listener.",
        ),
        key(
            "host",
            OneOrMore(&Formed(&HOST)),
            Absent,
            "Only these hosts; `*.example.com` is for every name below it.",
        ),
        key(
            "path",
            Either(&[Formed(&PATH), TableOf(&PATHS)]),
            Value("\"/\""),
            "Only this path and what is below it: `/api` is for `/api` and `/api/x`, not for `/apix`. Or a table with another rule.",
        ),
        key(
            "method",
            OneOrMore(&Formed(&METHOD)),
            Absent,
            "Only these methods.",
        ),
        key(
            "header",
            Map(&Either(&[Text, TableOf(&VALUES)])),
            Absent,
            "Only with these header fields; each name with the value it must have.",
        ),
        key(
            "query",
            Map(&Either(&[Text, TableOf(&VALUES)])),
            Absent,
            "Only with these arguments in the query; each name with the value it must have.",
        ),
        key(
            "importance",
            Word(&["low", "normal", "high", "critical"]),
            Value("\"normal\""),
            "How important the requests are to the cluster's `shed`.",
        ),
        key(
            "strip_prefix",
            Formed(&PATH),
            Absent,
            "Taken off the front of the path that the cluster gets; a path without it stays.",
        ),
        key(
            "rewrite",
            OneOrMore(&TableOf(&REWRITE)),
            Absent,
            "Rewrites the path that the cluster gets.",
        ),
        key(
            "request_id",
            Word(&["trusted", "keep", "new"]),
            Value("\"trusted\""),
            "Whose `X-Request-ID` is kept: that of trusted clients, everybody's, or nobody's. Requests without one get a new one.",
        ),
        key(
            "request_fields",
            TableOf(&REQUEST_FIELDS),
            Absent,
            "Changes to the header fields of requests.",
        ),
        key(
            "response_fields",
            TableOf(&RESPONSE_FIELDS),
            Absent,
            "Changes to the header fields of responses.",
        ),
        key(
            "security_headers",
            Either(&[Flag, TableOf(&SECURITY)]),
            Value("false"),
            "Adds fields that tell browsers to be careful.",
        ),
        key(
            "cors",
            TableOf(&CORS),
            Absent,
            "Which other origins may read responses.",
        ),
        key(
            "compress",
            Either(&[Flag, TableOf(&COMPRESS)]),
            Value("false"),
            "Compresses responses.",
        ),
        key(
            "buffer_requests",
            Either(&[Flag, TableOf(&BUFFER_REQUESTS)]),
            Said("that of the cluster"),
            "Takes the whole body of a request before an endpoint is asked for.",
        ),
        key(
            "buffer_responses",
            Either(&[Flag, TableOf(&BUFFER_RESPONSES)]),
            Said("that of the cluster"),
            "Takes responses off their endpoints as fast as they come.",
        ),
        key(
            "limits",
            TableOf(&ROUTE_LIMITS),
            Absent,
            "Bounds for these requests.",
        ),
        key(
            "timeouts",
            TableOf(&ROUTE_TIMEOUTS),
            Absent,
            "Deadlines for these requests, before those of the cluster.",
        ),
    ],
};

static PATHS: Table = Table {
    title: "path",
    doc: "Another rule for the path of a route; one of these.",
    keys: &[
        key(
            "prefix",
            Formed(&PATH),
            Absent,
            "This path and what is below it, as without a table.",
        ),
        key(
            "starts_with",
            Formed(&PATH),
            Absent,
            "Whatever begins with these characters: `/api` is for `/apix` too.",
        ),
        key("exact", Formed(&PATH), Absent, "This path and no other."),
        key(
            "regex",
            Formed(&REGEX),
            Absent,
            "Whatever this expression finds something in; `^` and `$` bind it to the ends.",
        ),
    ],
};

static VALUES: Table = Table {
    title: "header, query",
    doc: "Another rule for a value; one of these.",
    keys: &[
        key("exact", Text, Absent, "It is this, as without a table."),
        key(
            "regex",
            Formed(&REGEX),
            Absent,
            "This expression finds something in it.",
        ),
        key("present", Flag, Absent, "It is there, whatever it is."),
    ],
};

static ROUTE_LIMITS: Table = Table {
    title: "[route.limits]",
    doc: "Bounds for the requests of one route.",
    keys: &[key(
        "body",
        SizeLimit,
        Said("that of `[limits]`"),
        "Request body (413).",
    )],
};

static ROUTE_TIMEOUTS: Table = Table {
    title: "[route.timeouts]",
    doc: "Deadlines for the requests of one route.",
    keys: &[
        key(
            "first_byte",
            Deadline,
            Said("that of the cluster"),
            "Until a response begins (504).",
        ),
        key(
            "response_gap",
            Deadline,
            Said("that of the cluster"),
            "Between two pieces of a response (504).",
        ),
        key(
            "body_gap",
            Deadline,
            Said("that of `[timeouts]`"),
            "Between two pieces of a request body (408).",
        ),
        key(
            "request",
            Deadline,
            Said("that of the cluster"),
            "The whole request (504).",
        ),
        key(
            "tunnel_idle",
            Deadline,
            Said("that of the cluster"),
            "A WebSocket that carries nothing for so long is closed.",
        ),
    ],
};
