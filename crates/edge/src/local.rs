//! Requests that are answered without an endpoint: redirects, answers that are always the same,
//! preflight requests, files. The rest of a file is read piece by piece as the client takes it.

use std::mem::take;

use evener_config::{Action, Coding, Files, Fixed, Redirect};
use evener_filters::files::{Found, Opened, find};
use evener_filters::{
    Asked as Conditions, Fill, Preflight, Resource, Verdict, choose, evaluate, preflight,
    push_location, push_path,
};
use evener_http1::{Method, RequestHead, Version, write};
use evener_net::Transfer;

use crate::answer;
use crate::buffer_request;
use crate::compress;
use crate::core::{Core, READ_BYTES};
use crate::error::{Kind, ProxyError, Stage};
use crate::file_body::FileBody;
use crate::filter::{self, value, values};
use crate::forward::ROUNDS_MAX;
use crate::head::ResponseTerms;
use crate::respond;
use crate::retry;
use crate::route::{Asked, push_normal_path, split_query};
use crate::session::{Exchange, Flow, Phase, Session};
use crate::variables::Facts;

/// The longest request body that is waited for where none is needed.
const DISCARD_BYTES_MAX: u64 = 64 * 1024;

/// An answer, before it is written.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    status: u16,
    /// Field lines of its own.
    fields: Vec<u8>,
    body: Body,
}

#[derive(Debug, Default)]
enum Body {
    /// There is none, and no length of one.
    #[default]
    None,
    Bytes(Vec<u8>),
    File(FileBody),
}

/// Answers the request, if its route does so by itself; otherwise it goes to the cluster.
pub(crate) fn begin(
    session: &mut Session,
    core: &mut Core,
    bytes: &[u8],
    head: &RequestHead,
    id: &[u8],
) -> Flow {
    let Some(mut exchange) = session.exchange.take() else {
        return Flow::Close;
    };
    let mut filtered = exchange.filtered.take().unwrap_or_default();
    let facts = filter::facts(session, &exchange, core, bytes, head, id);
    let outcome = decide(&exchange, &facts, &mut filtered);
    exchange.filtered = Some(filtered);
    session.exchange = Some(exchange);
    match outcome {
        Outcome::Answer(answer) if head.expect_continue => start(session, core, answer),
        Outcome::Answer(answer) => after_body(session, core, answer),
        Outcome::Missing => {
            let error = ProxyError::edge(Stage::Route, Kind::NoFile);
            answer::refuse(session, core, &error)
        }
        Outcome::Cluster => buffer_request::begin(session, core),
    }
}

enum Outcome {
    Answer(Answer),
    Missing,
    Cluster,
}

fn decide(exchange: &Exchange, facts: &Facts<'_>, filtered: &mut filter::Filtered) -> Outcome {
    let Some(treatment) = exchange.treatment() else {
        return Outcome::Cluster;
    };
    let Asked { bytes, fields, .. } = facts.asked;
    if let Some(cors) = &treatment.filters.cors
        && exchange.method == Method::Options
    {
        let field = |name| value(bytes, fields, name);
        let asked = preflight(
            cors,
            field(b"origin"),
            field(b"access-control-request-method"),
            field(b"access-control-request-headers"),
        );
        match asked {
            Preflight::No => {}
            Preflight::Refused(why) => return Outcome::Answer(refused(why)),
            Preflight::Granted(granted) => {
                // They take the place of what other responses say.
                filtered.edits.remove("Access-Control-Expose-Headers");
                for (name, value) in granted {
                    filtered.edits.replace(name, &value);
                }
                filtered.edits.vary("Access-Control-Request-Method");
                filtered.edits.vary("Access-Control-Request-Headers");
                return Outcome::Answer(Answer {
                    status: 204,
                    ..Answer::default()
                });
            }
        }
    }
    match &treatment.action {
        Action::Cluster(_) => Outcome::Cluster,
        Action::Redirect(to) => Outcome::Answer(redirect(to, facts)),
        Action::Respond(fixed) => {
            let mut body = Vec::new();
            Fill::fill(facts, &fixed.body, &mut body);
            Outcome::Answer(fixed_answer(fixed, body))
        }
        Action::Files { files, otherwise } => {
            let other_method = !matches!(exchange.method, Method::Get | Method::Head);
            match (other_method, otherwise.is_some()) {
                (true, true) => Outcome::Cluster,
                (true, false) => Outcome::Answer(not_allowed()),
                (false, has_cluster) => match file(files, treatment, exchange, facts, filtered) {
                    None if has_cluster => Outcome::Cluster,
                    None => Outcome::Missing,
                    Some(answer) => Outcome::Answer(answer),
                },
            }
        }
    }
}

fn refused(why: &str) -> Answer {
    let mut answer = Answer {
        status: 403,
        body: Body::Bytes(format!("403 Forbidden: {why}\n").into_bytes()),
        ..Answer::default()
    };
    write::field(
        &mut answer.fields,
        b"Content-Type",
        b"text/plain; charset=utf-8",
    );
    answer
}

fn not_allowed() -> Answer {
    let mut answer = Answer {
        status: 405,
        body: Body::Bytes(b"405 Method Not Allowed: files can only be read\n".to_vec()),
        ..Answer::default()
    };
    write::field(
        &mut answer.fields,
        b"Content-Type",
        b"text/plain; charset=utf-8",
    );
    write::field(&mut answer.fields, b"Allow", b"GET, HEAD");
    answer
}

fn redirect(to: &Redirect, facts: &Facts<'_>) -> Answer {
    let mut url = Vec::new();
    Fill::fill(facts, &to.to, &mut url);
    let mut location = Vec::new();
    push_location(&url, &mut location);
    let mut answer = Answer {
        status: to.status,
        body: Body::Bytes(Vec::new()),
        ..Answer::default()
    };
    write::field(&mut answer.fields, b"Location", &location);
    answer
}

fn fixed_answer(fixed: &Fixed, body: Vec<u8>) -> Answer {
    let mut answer = Answer {
        status: fixed.status,
        ..Answer::default()
    };
    if !matches!(fixed.status, 204 | 304) {
        if !body.is_empty() {
            write::field(&mut answer.fields, b"Content-Type", fixed.media.as_bytes());
        }
        answer.body = Body::Bytes(body);
    }
    answer
}

/// Answers a request in place of its cluster; variables mean nothing there.
pub(crate) fn instead(session: &mut Session, core: &mut Core, fixed: &Fixed) -> Flow {
    let body = fixed.body.as_text().unwrap_or_default().as_bytes().to_vec();
    start(session, core, fixed_answer(fixed, body))
}

/// The answer to a request for a file; `None` if there is none.
fn file(
    files: &Files,
    treatment: &crate::route::Treatment,
    exchange: &Exchange,
    facts: &Facts<'_>,
    filtered: &mut filter::Filtered,
) -> Option<Answer> {
    let Asked {
        bytes,
        head,
        fields,
        ..
    } = facts.asked;
    let (path, query) = split_query(head.path_and_query(bytes));
    let mut normal = Vec::new();
    push_normal_path(path, &mut normal);
    let meant = filtered.rewritten.as_ref();
    let meant = meant.map_or(&normal[..], |rewritten| &rewritten.normal);
    let mut likes = |codings: &[Coding]| choose(values(bytes, fields, b"accept-encoding"), codings);
    let opened = match find(files, meant, &mut likes) {
        Found::Missing => return None,
        Found::Folder => return Some(to_folder(&normal, query)),
        Found::File(opened) => opened,
    };
    let field = |name| value(bytes, fields, name);
    let asked = Conditions {
        if_match: field(b"if-match"),
        if_none_match: field(b"if-none-match"),
        if_modified_since: field(b"if-modified-since"),
        if_unmodified_since: field(b"if-unmodified-since"),
        if_range: field(b"if-range"),
        // Ranges are defined for GET alone.
        range: field(b"range").filter(|_| exchange.method == Method::Get),
    };
    let verdict = evaluate(
        &Resource {
            tag: &opened.tag,
            modified: opened.modified,
            length: opened.length,
        },
        &asked,
    );
    let compress = treatment.filters.compress.as_ref().filter(|compress| {
        let media = Some(opened.media.as_bytes());
        compress::is_worth_it(compress, media, Some(opened.length))
    });
    let encoded = opened.coding.is_none()
        && verdict == Verdict::Whole
        && compress.is_some_and(|compress| compress::set_out(filtered, compress));
    if filtered.by_weak_tag && verdict == Verdict::NotModified {
        filtered.edits.weaken_tag();
    }
    if opened.is_negotiated || compress.is_some() {
        filtered.edits.vary("Accept-Encoding");
    }
    Some(file_answer(
        files,
        opened,
        verdict,
        encoded,
        facts.request_id,
    ))
}

/// A folder is asked for without its final `/`: what its page refers to would not be found. The
/// path is written anew, lest `//host` be taken for another host.
fn to_folder(normal: &[u8], query: &[u8]) -> Answer {
    let mut location = Vec::new();
    push_path(normal, &mut location);
    location.push(b'/');
    if !query.is_empty() {
        location.push(b'?');
        push_location(query, &mut location);
    }
    let mut answer = Answer {
        status: 308,
        body: Body::Bytes(Vec::new()),
        ..Answer::default()
    };
    write::field(&mut answer.fields, b"Location", &location);
    answer
}

fn file_answer(
    files: &Files,
    opened: Opened,
    verdict: Verdict,
    encoded: bool,
    id: &[u8],
) -> Answer {
    let mut answer = Answer::default();
    let out = &mut answer.fields;
    write::field(out, b"ETag", &opened.tag);
    out.extend_from_slice(b"Last-Modified: ");
    write::http_date(out, opened.modified);
    out.extend_from_slice(b"\r\n");
    if let Some(cache_control) = &files.cache_control {
        write::field(out, b"Cache-Control", cache_control.as_bytes());
    }
    let length = opened.length;
    let parts = match verdict {
        Verdict::NotModified | Verdict::Failed => {
            answer.status = if verdict == Verdict::Failed { 412 } else { 304 };
            if verdict == Verdict::Failed {
                answer.body = Body::Bytes(Vec::new());
            }
            return answer;
        }
        Verdict::Unsatisfiable => {
            let range = format!("bytes */{length}");
            write::field(out, b"Content-Range", range.as_bytes());
            answer.status = 416;
            answer.body = Body::Bytes(Vec::new());
            return answer;
        }
        Verdict::Whole => std::iter::once(0..length).collect(),
        Verdict::Parts(parts) => {
            answer.status = 206;
            parts
        }
    };
    write::field(out, b"Accept-Ranges", b"bytes");
    if let Some(coding) = opened.coding {
        write::field(out, b"Content-Encoding", coding.token().as_bytes());
    }
    let mut body = FileBody::new(opened.file, encoded);
    if parts.len() > 1 {
        body.push_multipart(out, &parts, &opened.media, length, id);
    } else {
        write::field(out, b"Content-Type", opened.media.as_bytes());
        if answer.status == 206
            && let Some(part) = parts.first()
        {
            let range = format!("bytes {}-{}/{length}", part.start, part.end - 1);
            write::field(out, b"Content-Range", range.as_bytes());
        }
        for part in parts {
            body.push_part(part);
        }
    }
    answer.status = answer.status.max(200);
    answer.body = Body::File(body);
    answer
}

/// Answers once the request has ended, if that is soon: a client that is cut off while it sends may
/// never look at the answer, and the connection could not go on.
fn after_body(session: &mut Session, core: &mut Core, answer: Answer) -> Flow {
    let Some(exchange) = session.exchange.as_mut() else {
        return Flow::Close;
    };
    if exchange.request_body.is_done() {
        return start(session, core, answer);
    }
    if let Some(filtered) = exchange.filtered.as_deref_mut() {
        filtered.answer = Some(answer);
    }
    session.phase = Phase::Local;
    session.since_ms = core.now_ms();
    session.output_moved_ms = core.now_ms();
    Flow::Continue
}

/// Reads and forgets the body of a request that needs none; says whether the answer may go.
fn discard_body(session: &mut Session, core: &mut Core) -> Result<bool, ()> {
    for _ in 0..ROUNDS_MAX {
        let Some(exchange) = session.exchange.as_mut() else {
            return Err(());
        };
        let body = &mut exchange.request_body;
        if body.is_done()
            || body.expected_bytes() > DISCARD_BYTES_MAX
            || exchange.request_body_bytes > DISCARD_BYTES_MAX
        {
            return Ok(true);
        }
        if !session.input.is_empty() {
            let Ok(piece) = body.decode(&session.input) else {
                return Ok(true);
            };
            exchange.request_body_bytes += piece.data.len() as u64;
            session.input.drain(..piece.consumed);
            core.buffers.reclaim(&mut session.input);
            continue;
        }
        match session.socket.read(&mut core.scratch[..READ_BYTES]) {
            Transfer::Bytes(count) => {
                core.telemetry.bytes_received(count as u64);
                core.buffers.furnish(&mut session.input);
                session.input.extend_from_slice(&core.scratch[..count]);
            }
            Transfer::Blocked => return Ok(false),
            Transfer::End | Transfer::Broken(_) => return Err(()),
        }
    }
    // There is more than can be waited for.
    Ok(true)
}

/// Writes the head, and the body if it is short; the rest follows as the client takes it.
fn start(session: &mut Session, core: &mut Core, answer: Answer) -> Flow {
    let Some(mut exchange) = session.exchange.take() else {
        return Flow::Close;
    };
    let to_head = exchange.method == Method::Head;
    let encoded = matches!(&answer.body, Body::File(file) if file.encoded);
    let terms = ResponseTerms {
        version: exchange.version,
        chunked: encoded,
        keep_alive: exchange.keep_alive && exchange.request_body.is_done() && !core.draining,
        tunnel: false,
    };
    exchange.terms = Some(terms);
    exchange.status = answer.status;
    exchange.answering = true;
    exchange.head_ns = core.now_ns;
    core.buffers.furnish(&mut session.output);
    let from = session.output.len();
    write_head(&mut session.output, core, &answer, terms);
    if let Some(filtered) = exchange.filtered.as_deref_mut() {
        filtered.edits.apply(&mut session.output, from);
    }
    match answer.body {
        _ if to_head => {}
        Body::None => {}
        Body::Bytes(bytes) => {
            exchange.response_bytes = bytes.len() as u64;
            session.output.extend_from_slice(&bytes);
        }
        Body::File(file) => {
            if let Some(filtered) = exchange.filtered.as_deref_mut() {
                filtered.file = Some(file);
            }
        }
    }
    session.exchange = Some(exchange);
    session.phase = Phase::Local;
    session.since_ms = core.now_ms();
    session.output_moved_ms = core.now_ms();
    Flow::Continue
}

fn write_head(out: &mut Vec<u8>, core: &mut Core, answer: &Answer, terms: ResponseTerms) {
    core.refresh_date();
    write::status_line(out, answer.status);
    out.extend_from_slice(&answer.fields);
    write::field(out, b"Date", core.date());
    let length = match &answer.body {
        Body::None => None,
        Body::Bytes(bytes) => Some(bytes.len() as u64),
        Body::File(file) => Some(file.length),
    };
    if let (Some(length), false) = (length, terms.chunked) {
        out.extend_from_slice(b"Content-Length: ");
        write::decimal(out, length);
        out.extend_from_slice(b"\r\n");
    }
    if terms.chunked {
        write::field(out, b"Transfer-Encoding", b"chunked");
    }
    out.extend_from_slice(&core.response_fields);
    match (terms.keep_alive, terms.version) {
        (false, _) => write::field(out, b"Connection", b"close"),
        (true, Version::H10) => write::field(out, b"Connection", b"keep-alive"),
        (true, Version::H11) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Goes on with an answer, as far as the client takes it.
pub(crate) fn advance(session: &mut Session, core: &mut Core) -> Flow {
    let filtered = session.exchange.as_mut().and_then(|e| e.filtered.as_mut());
    if filtered.is_some_and(|filtered| filtered.answer.is_some()) {
        match discard_body(session, core) {
            Err(()) => return retry::abandon(session, core),
            Ok(false) => return Flow::Wait,
            Ok(true) => {}
        }
        let filtered = session.exchange.as_mut().and_then(|e| e.filtered.as_mut());
        if let Some(answer) = filtered.and_then(|filtered| filtered.answer.take()) {
            return start(session, core, answer);
        }
    }
    for _ in 0..ROUNDS_MAX {
        match respond::flush(session, core) {
            Err(_) => return retry::abandon(session, core),
            Ok(false) => return Flow::Wait,
            Ok(true) => {}
        }
        let exchange = session.exchange.as_mut().expect("it is being answered");
        let filtered = exchange.filtered.as_deref_mut();
        let Some(file) = filtered.and_then(|filtered| filtered.file.as_mut()) else {
            return respond::finish(session, core);
        };
        core.buffers.furnish(&mut session.output);
        let done = file.is_over();
        let sent = if file.encoded {
            let mut piece = take(&mut core.scratch_text);
            piece.clear();
            let read = file.read(&mut piece);
            let sent = read.and_then(|()| {
                compress::local(exchange, &piece, done, &mut session.output).map_err(drop)
            });
            core.scratch_text = piece;
            sent
        } else {
            let before = session.output.len();
            let read = file.read(&mut session.output);
            exchange.response_bytes += (session.output.len() - before) as u64;
            read
        };
        if sent.is_err() {
            // Only an early end can tell the client.
            return retry::abandon(session, core);
        }
        if done && let Some(filtered) = exchange.filtered.as_deref_mut() {
            filtered.file = None;
        }
    }
    Flow::Yield
}
