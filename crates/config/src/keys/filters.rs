//! What a route does besides passing a request on: `redirect`, `respond`, `files`, rewriting,
//! CORS, compression.

use super::{FIELD_NAME, FIELD_VALUE, METHOD, ORIGIN, PATH, REGEX, TEMPLATE, key};
use crate::definition::Default::{Absent, Required, Value};
use crate::definition::Kind::{Flag, Formed, Map, OneOrMore, Size, Text, Time, Whole, Word};
use crate::definition::{Key, Table};

pub(super) static REDIRECT: Table = Table {
    title: "redirect",
    doc: "Sends the client elsewhere.",
    keys: &[
        key("to", Formed(&TEMPLATE), Required, "Where to."),
        key(
            "status",
            Word(&["301", "302", "303", "307", "308"]),
            Value("\"307\""),
            "301 and 308 are for good and remembered; 307 and 308 keep the method.",
        ),
    ],
};

pub(super) static RESPOND: Table = Table {
    title: "respond",
    doc: "An answer of Evener's own.",
    keys: &[
        key("status", Whole(200, 599), Value("200"), "Its status."),
        key("body", Formed(&TEMPLATE), Value("\"\""), "Its body."),
        key(
            "type",
            Formed(&FIELD_VALUE),
            Value("\"text/plain; charset=utf-8\""),
            "Its `Content-Type`.",
        ),
    ],
};

pub(super) static FILES: Table = Table {
    title: "files",
    doc: "A folder that is served without asking an application: ranges, conditional requests, `HEAD`. The file is \
the path of the request below `root`, after `strip_prefix` and `rewrite`. Where there is no such file, the request \
goes to the route's `cluster`, if it names one. Nothing outside the folder is served.",
    keys: &[
        key("root", Text, Required, "The folder."),
        key(
            "index",
            OneOrMore(&Text),
            Value("[\"index.html\"]"),
            "What stands for a folder, the first that is there. A folder is asked for with a final `/`; without it, the client is told to.",
        ),
        key(
            "fallback",
            Formed(&PATH),
            Absent,
            "A file below `root` that is served where there is none, with status 200: what single-page applications need.",
        ),
        key(
            "symlinks",
            Word(&["within", "never", "follow"]),
            Value("\"within\""),
            "Symbolic links may lead anywhere within the folder, nowhere, or anywhere at all.",
        ),
        key(
            "hidden",
            Flag,
            Value("false"),
            "Names that begin with a dot are served too; `.well-known` is always.",
        ),
        key(
            "precompressed",
            OneOrMore(&Word(&["br", "zstd", "gzip", "off"])),
            Value("[\"br\", \"zstd\", \"gzip\"]"),
            "Codings that are looked for beside a file, as `.br`, `.zst` and `.gz`; the first that the client likes best is sent.",
        ),
        key(
            "cache_control",
            Formed(&FIELD_VALUE),
            Absent,
            "The `Cache-Control` of files.",
        ),
        key(
            "types",
            Map(&Formed(&FIELD_VALUE)),
            Absent,
            "Media types by extension, before those that are known.",
        ),
    ],
};

pub(super) static REWRITE: Table = Table {
    title: "rewrite",
    doc: "Another path for the cluster. Of several, the first that fits is taken.",
    keys: &[
        key(
            "regex",
            Formed(&REGEX),
            Required,
            "Where this finds something in the path (in its normal form, see `[[route]]`).",
        ),
        key(
            "to",
            Formed(&TEMPLATE),
            Required,
            "The new path; `$1` to `$9` are what the groups of the expression found. The query stays; what stands behind a \
`?` here goes before it; a `?` at the end drops it.",
        ),
    ],
};

pub(super) static REQUEST_FIELDS: Table = Table {
    title: "request_fields",
    doc: "Changes to the header fields that the cluster gets. In this order: `rename`, `remove`, `set`, `add`. \
Variables mean the request as it came.",
    keys: &FIELDS,
};

pub(super) static RESPONSE_FIELDS: Table = Table {
    title: "route.response_fields",
    doc: "Changes to the header fields that the client gets, with answers of Evener's own too. In this order: \
`rename`, `remove`, `set`, `add`. Variables mean the request as it came.",
    keys: &FIELDS,
};

static FIELDS: [Key; 4] = [
    key(
        "set",
        Map(&Formed(&TEMPLATE)),
        Absent,
        "Fields that get this value, whatever they had.",
    ),
    key(
        "add",
        Map(&Formed(&TEMPLATE)),
        Absent,
        "Fields that are added to what is there.",
    ),
    key(
        "remove",
        OneOrMore(&Formed(&FIELD_NAME)),
        Absent,
        "Fields that are taken away.",
    ),
    key(
        "rename",
        Map(&Formed(&FIELD_NAME)),
        Absent,
        "Old names, each with the new one.",
    ),
];

pub(super) static SECURITY: Table = Table {
    title: "security_headers",
    doc: "Fields that tell browsers to be careful. A response that has one of its own keeps it; `\"off\"` sends none.",
    keys: &[
        key(
            "hsts",
            Formed(&FIELD_VALUE),
            Value("\"max-age=31536000\""),
            "`Strict-Transport-Security`; over TLS only.",
        ),
        key(
            "content_type_options",
            Formed(&FIELD_VALUE),
            Value("\"nosniff\""),
            "`X-Content-Type-Options`.",
        ),
        key(
            "frame_options",
            Formed(&FIELD_VALUE),
            Value("\"SAMEORIGIN\""),
            "`X-Frame-Options`.",
        ),
        key(
            "referrer_policy",
            Formed(&FIELD_VALUE),
            Value("\"strict-origin-when-cross-origin\""),
            "`Referrer-Policy`.",
        ),
        key(
            "content_security_policy",
            Formed(&FIELD_VALUE),
            Value("\"off\""),
            "`Content-Security-Policy`.",
        ),
        key(
            "permissions_policy",
            Formed(&FIELD_VALUE),
            Value("\"off\""),
            "`Permissions-Policy`.",
        ),
        key(
            "cross_origin_opener_policy",
            Formed(&FIELD_VALUE),
            Value("\"off\""),
            "`Cross-Origin-Opener-Policy`.",
        ),
    ],
};

pub(super) static CORS: Table = Table {
    title: "cors",
    doc: "Which other origins may read responses. Preflight requests are answered by Evener; what the application \
says about it is replaced.",
    keys: &[
        key(
            "origins",
            OneOrMore(&Formed(&ORIGIN)),
            Required,
            "The origins; `https://*.example.com` is for every host below it, `*` for all.",
        ),
        key(
            "methods",
            OneOrMore(&Formed(&METHOD)),
            Value("[\"GET\", \"HEAD\", \"POST\"]"),
            "Methods that may be used.",
        ),
        key(
            "headers",
            OneOrMore(&Formed(&FIELD_NAME)),
            Value("[]"),
            "Request fields that may be sent besides those that always may; `*` is any.",
        ),
        key(
            "expose",
            OneOrMore(&Formed(&FIELD_NAME)),
            Value("[]"),
            "Response fields that may be read besides those that always may.",
        ),
        key(
            "credentials",
            Flag,
            Value("false"),
            "Cookies and other credentials may be sent; the origins must then be named.",
        ),
        key(
            "max_age",
            Time,
            Value("\"10m\""),
            "How long a browser may remember the answer to a preflight request.",
        ),
    ],
};

pub(super) static COMPRESS: Table = Table {
    title: "compress",
    doc: "Compresses responses as the client's `Accept-Encoding` asks. A response that is encoded already, is a part, \
or says `no-transform` goes as it is. What an application sends piece by piece also arrives so.",
    keys: &[
        key(
            "codings",
            OneOrMore(&Word(&["br", "zstd", "gzip"])),
            Value("[\"zstd\", \"br\", \"gzip\"]"),
            "In what, the favourite first; the client's preference goes before it.",
        ),
        key(
            "types",
            OneOrMore(&Text),
            Value(
                "[\"text/*\", \"application/json\", \"application/*+json\", \"application/javascript\", \
\"application/xml\", \"application/*+xml\", \"application/wasm\", \"application/manifest+json\", \"application/x-ndjson\", \
\"image/svg+xml\", \"font/ttf\", \"font/otf\"]",
            ),
            "Media types; `text/*` is all of a kind, `application/*+json` all that end so.",
        ),
        key(
            "min",
            Size,
            Value("\"1k\""),
            "Responses that are known to be shorter go as they are.",
        ),
        key("level", Whole(1, 9), Value("4"), "1 is quick, 9 is small."),
    ],
};
