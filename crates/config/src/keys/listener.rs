//! The keys of `[[listener]]`.

use super::{LISTEN, NAME, PEERS, key};
use crate::definition::Default::{Absent, Required, Said, Value};
use crate::definition::Kind::{
    Either, Flag, Formed, List, OneOrMore, Table as TableOf, Text, Whole, Word,
};
use crate::definition::Table;

pub(super) static LISTENER: Table = Table {
    title: "[[listener]]",
    doc: "One place where clients connect.",
    keys: &[
        key(
            "address",
            Formed(&LISTEN),
            Required,
            "`host:port`, `[::]:port`, `unix:/path`, or `fd:N` for a descriptor that listens already. Port 0 takes any free one.",
        ),
        key(
            "name",
            Formed(&NAME),
            Said("its address"),
            "By which routes call it.",
        ),
        key("tls", TableOf(&LISTENER_TLS), Absent, "Clients speak TLS."),
        key(
            "https_redirect",
            Either(&[Flag, Whole(1, 65_535)]),
            Value("false"),
            "Every client is sent to `https`, to port 443 or this one, by 308; only the health paths are answered.",
        ),
        key(
            "proxy_protocol",
            OneOrMore(&Formed(&PEERS)),
            Absent,
            "Connections from these begin with a header of the PROXY protocol, version 1 or 2, which names the client. Others must not send one. For a unix socket: `unix`.",
        ),
        key(
            "http2",
            Flag,
            Value("true"),
            "Clients may speak HTTP/2: over TLS they are offered it (ALPN), in clear text they begin with it.",
        ),
        key(
            "http2_streams",
            Whole(1, 65_535),
            Value("128"),
            "Requests that one connection of HTTP/2 may have under way.",
        ),
    ],
};

static LISTENER_TLS: Table = Table {
    title: "tls",
    doc: "How the clients of a listener speak TLS: 1.2 and 1.3, by rustls. The files are PEM, and read again at \
every reload; if one cannot be used, nothing changes. Paths are relative to the folder that Evener was started in.",
    keys: &[
        key(
            "cert",
            Text,
            Required,
            "File of the certificate, and after it those that signed it.",
        ),
        key(
            "key",
            Text,
            Said("the file of `cert`"),
            "File of its private key, without a passphrase.",
        ),
        key(
            "ocsp",
            Text,
            Absent,
            "File of a response of the authority's that says the certificate is good, in DER, as `openssl ocsp -respout` and certbot's hooks write it: it goes to clients that ask (OCSP stapling). Nothing is fetched.",
        ),
        key(
            "more",
            List(&TableOf(&CERTIFICATE)),
            Absent,
            "Further certificates. A client gets the one that has the name it asks for, else the first.",
        ),
        key(
            "client_ca",
            Text,
            Absent,
            "File of the authorities whose certificates clients must show. What a certificate says goes to the application as `X-Forwarded-Client-Cert`: `Hash`, `Subject`, `URI`, `DNS` and `Cert`, as Envoy has them.",
        ),
        key(
            "client_optional",
            Flag,
            Value("false"),
            "With `client_ca`: a client may also show none.",
        ),
        key(
            "version_min",
            Word(&["1.2", "1.3"]),
            Value("\"1.2\""),
            "The oldest version of TLS.",
        ),
    ],
};

static CERTIFICATE: Table = Table {
    title: "more",
    doc: "One further certificate.",
    keys: &[
        key("cert", Text, Required, "File of the certificate."),
        key(
            "key",
            Text,
            Said("the file of `cert`"),
            "File of its private key.",
        ),
        key(
            "ocsp",
            Text,
            Absent,
            "File of the authority's response about it, in DER.",
        ),
    ],
};
