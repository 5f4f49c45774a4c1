//! What a request, written to a pipe as HTTP/1.1, wants of an endpoint that speaks HTTP/2.

use evener_http1::{HeadLimits, RequestHead, parse_request};
use evener_net::Outward;
use http::Request;

use super::heads::{self, Malformed};
use super::websocket;
use crate::core::{Core, READ_BYTES_LARGE};

/// What a head asks for.
pub(super) enum Wanted {
    /// What HTTP/2 has as it is.
    Usual(RequestHead, Request<()>),
    /// A WebSocket, with what a 200 is answered with.
    Socket(Request<()>, String),
    /// A WebSocket, without a key.
    Keyless,
    /// A WebSocket, and the endpoint takes none.
    Refused,
}

/// The head of the request, once all of it has come, and it is known what the endpoint takes if
/// that matters.
pub(super) fn take_head(
    outward: Outward<'_>,
    core: &mut Core,
    tls: bool,
    takes_sockets: Option<bool>,
) -> (usize, Result<Option<Wanted>, Malformed>) {
    let limits = HeadLimits {
        // The client's head was held to its limits, and added to.
        head_bytes: READ_BYTES_LARGE,
        header_count: usize::MAX,
        ..HeadLimits::default()
    };
    match parse_request(outward.bytes, &mut core.fields, &limits) {
        Ok(None) => (0, Ok(None)),
        Err(_) => (0, Err(Malformed)),
        Ok(Some(head)) => {
            let (bytes, fields) = (outward.bytes, &core.fields);
            let wanted = match (websocket::key(bytes, &head, fields), takes_sockets) {
                (None, _) => heads::request(bytes, &head, fields, tls)
                    .map(|request| Wanted::Usual(head, request)),
                // Whether it does is about to be known.
                (Some(_), None) => return (0, Ok(None)),
                (Some(_), Some(false)) => Ok(Wanted::Refused),
                (Some(b""), Some(true)) => Ok(Wanted::Keyless),
                (Some(key), Some(true)) => websocket::request(bytes, &head, fields, tls)
                    .map(|request| Wanted::Socket(request, websocket::accept(key))),
            };
            (head.length, wanted.map(Some))
        }
    }
}
