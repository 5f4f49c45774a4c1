//! Stage 2: bytes from the client become a request head, and the request an [`Exchange`].

use std::io::ErrorKind;
use std::mem::take;

use evener_config::BalanceKey;
use evener_http1::{
    FieldName, Framing, HeadScan, RequestHead, list_items, parse_request, scan_head, write,
};
use evener_net::{Peer, Transfer};
use evener_policy::bulkhead::Class;

use crate::admit;
use crate::answer;
use crate::core::{Core, READ_BYTES};
use crate::error::{Kind, ProxyError, Stage};
use crate::filter;
use crate::forward;
use crate::head::{self, Origin};
use crate::health_paths;
use crate::http2::{self, Opened};
use crate::local;
use crate::route::Asked;
use crate::session::{Exchange, Flow, LogLine, Session};
use crate::variables::{ClientBytes, Facts};

/// What a client is told that speaks clear text to a listener of TLS.
const PLAIN_TO_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
Content-Type: text/plain; charset=utf-8\r\nContent-Length: 53\r\nConnection: close\r\n\r\n\
400 Bad Request: this port speaks TLS; use https://\r\n";

/// Reads until there is a complete head, and starts on it.
pub(crate) fn read_head(session: &mut Session, core: &mut Core) -> Flow {
    loop {
        if session.input.len() > session.scanned {
            match scan_head(&session.input, session.scanned) {
                HeadScan::More(scanned) if session.input.len() < core.head_limits.head_bytes => {
                    session.scanned = scanned;
                }
                _ => {
                    let mut input = take(&mut session.input);
                    session.scanned = input.len();
                    let parsed = parse(session, core, &input);
                    let flow = match parsed {
                        Parsed::More => {
                            session.input = input;
                            continue;
                        }
                        Parsed::Started { used, flow } => {
                            input.drain(..used);
                            session.input = input;
                            flow
                        }
                        Parsed::Refused(flow) => {
                            core.buffers.give(input);
                            flow
                        }
                    };
                    session.scanned = 0;
                    core.buffers.reclaim(&mut session.input);
                    return flow;
                }
            }
        }
        let mut scratch = take(&mut core.scratch);
        let flow = read_more(session, core, &mut scratch[..READ_BYTES]);
        core.scratch = scratch;
        if let Some(flow) = flow {
            return flow;
        }
    }
}

/// One read. A head that is complete in it is used where it lies; otherwise the bytes are kept.
fn read_more(session: &mut Session, core: &mut Core, scratch: &mut [u8]) -> Option<Flow> {
    let count = match session.socket.read(scratch) {
        Transfer::Bytes(count) => count,
        Transfer::Blocked => return Some(Flow::Wait),
        Transfer::Broken(ErrorKind::Unsupported) => {
            session.socket.write_clear(PLAIN_TO_TLS);
            return Some(Flow::Close);
        }
        Transfer::End | Transfer::Broken(_) => return Some(Flow::Close),
    };
    core.telemetry.bytes_received(count as u64);
    if session.input.is_empty() {
        // The head's deadline runs from its first byte.
        session.since_ms = core.now_ms();
        match parse(session, core, &scratch[..count]) {
            Parsed::More => {}
            Parsed::Started { used, flow } => {
                keep(session, core, &scratch[used..count]);
                return Some(flow);
            }
            Parsed::Refused(flow) => return Some(flow),
        }
        session.scanned = match scan_head(&scratch[..count], 0) {
            HeadScan::More(scanned) => scanned,
            HeadScan::Parse => 0,
        };
    }
    keep(session, core, &scratch[..count]);
    None
}

fn keep(session: &mut Session, core: &mut Core, bytes: &[u8]) {
    if !bytes.is_empty() {
        core.buffers.furnish(&mut session.input);
        session.input.extend_from_slice(bytes);
    }
}

enum Parsed {
    More,
    Started {
        used: usize,
        flow: Flow,
    },
    /// It is not a request, and what comes after it is none either.
    Refused(Flow),
}

fn parse(session: &mut Session, core: &mut Core, bytes: &[u8]) -> Parsed {
    match parse_request(bytes, &mut core.fields, &core.head_limits) {
        Ok(None) => Parsed::More,
        Ok(Some(head)) => start(session, core, bytes, &head),
        Err(error) => match http2::begin(session, core, bytes) {
            Opened::Http2 => Parsed::Refused(Flow::Continue),
            Opened::More => Parsed::More,
            Opened::Other => {
                let error = ProxyError::downstream(Stage::Decode, Kind::Head(error));
                Parsed::Refused(answer::refuse(session, core, &error))
            }
        },
    }
}

/// Makes an exchange of a head: the request as the endpoint gets it, with as much of the body as
/// has come.
fn start(session: &mut Session, core: &mut Core, bytes: &[u8], head: &RequestHead) -> Parsed {
    let mut exchange = core.take_exchange();
    exchange.reset(head, core.now_ns);
    exchange.over_http2 = session.socket.is_pipe();
    session.learn_claims();
    let id = core.next_request_id();
    take_route(session, &mut exchange, core, bytes, head, &id);
    core.buffers.furnish(&mut exchange.outgoing);
    let origin = Origin {
        peer: session.peer,
        claims: session.claims.as_deref().unwrap_or_default(),
        tls: session.socket.is_tls(),
        trusted: &core.config.trusted,
        request_id: &id,
    };
    head::request(&mut exchange.outgoing, bytes, head, &core.fields, &origin);
    let treated = exchange.treatment().is_some();
    if treated {
        filter::keep_id(session, &mut exchange, core, bytes, head, &id);
    }
    if core.telemetry.has_access_log() {
        keep_for_log(&mut exchange, core, session.peer, bytes, head);
    }
    session.served = true;
    session.since_ms = core.now_ms();
    let health = health_paths::answer_of(&mut exchange, core, bytes, head);
    session.exchange = Some(exchange);
    if let Some(healthy) = health {
        let used = head.length;
        return Parsed::Started {
            used,
            flow: answer::health(session, core, healthy),
        };
    }
    if treated {
        filter::request(session, core, bytes, head, &id);
    }
    let Some(route) = session.exchange.as_ref().and_then(|e| e.route.as_ref()) else {
        let error = ProxyError::edge(Stage::Route, Kind::NoRoute);
        return Parsed::Started {
            used: head.length,
            flow: answer::refuse(session, core, &error),
        };
    };
    if let (Framing::Length(length), Some(most)) = (head.framing, route.body_bytes)
        && length > most
    {
        let error = ProxyError::downstream(Stage::Admit, Kind::BodyTooLarge);
        return Parsed::Refused(answer::refuse(session, core, &error));
    }
    match forward::take_body(session, core, &bytes[head.length..]) {
        Ok(used) => Parsed::Started {
            used: head.length + used,
            flow: match treated {
                false => admit::admit(session, core),
                true => local::begin(session, core, bytes, head, &id),
            },
        },
        Err(error) => Parsed::Refused(answer::refuse(session, core, &error)),
    }
}

/// Finds the request's route, and what its cluster tells requests apart by.
fn take_route(
    session: &Session,
    exchange: &mut Exchange,
    core: &mut Core,
    bytes: &[u8],
    head: &RequestHead,
    id: &[u8],
) {
    let asked = Asked {
        listener: session.listener,
        bytes,
        head,
        fields: &core.fields,
    };
    exchange.route = core.routes.find(&asked).cloned();
    if let Some(BalanceKey::Text(_)) = exchange.route.as_ref().map(|route| &route.key) {
        core.buffers.furnish(&mut exchange.key);
    }
    let facts = Facts {
        asked,
        peer: session.peer,
        tls: session.socket.is_tls(),
        trusted: &core.config.trusted,
        request_id: id,
        route: exchange.route.as_deref(),
    };
    match exchange.route.as_ref().map(|route| &route.key) {
        None | Some(BalanceKey::None) => {}
        Some(BalanceKey::Client) => exchange.client = ClientBytes::of(facts.client()),
        Some(BalanceKey::Text(template)) => facts.fill(template, &mut exchange.key),
    }
    if let Some(cluster) = exchange.route.as_ref().and_then(|r| r.cluster.as_ref())
        && cluster.keeps_apart()
        && !head.upgrade
    {
        let method = head.method_span.of(bytes);
        exchange.class = Class::of(method, head.path_and_query(bytes));
    }
    if let Some(sticky) = exchange.route.as_ref().and_then(|r| r.sticky.as_ref()) {
        facts.fill(sticky, &mut exchange.bound_to);
    }
    exchange.wants_json = prefers_json(bytes, core);
    core.telemetry.request_started();
}

/// Whether an error is better told in JSON: the client names it, or is a program that takes
/// anything but names no HTML or text.
fn prefers_json(bytes: &[u8], core: &Core) -> bool {
    core.fields
        .iter()
        .filter(|field| field.known == FieldName::Accept)
        .any(|field| {
            list_items(field.value.of(bytes)).any(|item| {
                let media = item
                    .split(|&byte| byte == b';')
                    .next()
                    .unwrap_or(item)
                    .trim_ascii();
                media.eq_ignore_ascii_case(b"application/json")
                    || media.len() > 5 && media[media.len() - 5..].eq_ignore_ascii_case(b"+json")
            })
        })
}

/// Keeps what the access log will say about a request.
fn keep_for_log(
    exchange: &mut Exchange,
    core: &Core,
    peer: Peer,
    bytes: &[u8],
    head: &RequestHead,
) {
    note_for_log(&mut exchange.log, peer, bytes, head, &exchange.outgoing);
    if let Some(template) = core.telemetry.access_template() {
        let names = template.request_fields();
        exchange.log.keep(names, bytes, &core.fields);
        exchange.log.request_fields = names.len();
    }
}

/// Keeps what the access log needs after the bytes are gone. The client's address and the id are
/// read back from the fields that were just written for the endpoint.
fn note_for_log(log: &mut LogLine, peer: Peer, bytes: &[u8], head: &RequestHead, outgoing: &[u8]) {
    let client = written_value(outgoing, b"\r\nX-Real-IP: ");
    log.text.clear();
    match peer {
        Peer::Unix if client.is_empty() => log.text.extend_from_slice(b"unix"),
        _ => log.text.extend_from_slice(client),
    }
    if let Peer::Tcp(address) = peer {
        log.text.push(b':');
        write::decimal(&mut log.text, u64::from(address.port()));
    }
    log.client_end = log.text.len();
    log.text
        .extend_from_slice(written_value(outgoing, b"\r\nX-Request-ID: "));
    log.id_end = log.text.len();
    log.text.extend_from_slice(head.method_span.of(bytes));
    log.method_end = log.text.len();
    log.text.extend_from_slice(head.path_and_query(bytes));
    log.target_end = log.text.len();
}

fn written_value<'a>(outgoing: &'a [u8], before: &[u8]) -> &'a [u8] {
    let Some(start) = outgoing
        .windows(before.len())
        .rposition(|window| window == before)
    else {
        return b"";
    };
    let rest = &outgoing[start + before.len()..];
    &rest[..rest
        .iter()
        .position(|&byte| byte == b'\r')
        .unwrap_or(rest.len())]
}
