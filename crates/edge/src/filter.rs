//! What a route does to heads on their way: the request's is changed before it is sent, and what
//! is to be done to the response's is made ready, because the request is gone when it comes. Only
//! requests of routes that do something come here.

use std::mem::take;

use evener_config::{Coding, Filters};
use evener_filters::{Edits, Encoder, Rewritten, choose, cors_fields, rewrite};
use evener_http1::{FieldName, Fields, Method, RequestHead, Version};

use crate::binding;
use crate::core::Core;
use crate::file_body::FileBody;
use crate::local::Answer;
use crate::route::{Asked, push_normal_path, split_query};
use crate::session::{Exchange, Session};
use crate::variables::Facts;

/// What filters keep of a request for its response.
#[derive(Debug, Default)]
pub(crate) struct Filtered {
    /// What is done to the head of the response.
    pub(crate) edits: Edits,
    /// The coding that the client likes best of those the route compresses in.
    pub(crate) coding: Option<Coding>,
    /// The client asks by a weak entity tag, so it may be one that was made weak here.
    pub(crate) by_weak_tag: bool,
    /// Compresses the body of the response, once that has begun.
    pub(crate) encoder: Option<Encoder>,
    /// What the encoder has made ready.
    pub(crate) encoded: Vec<u8>,
    /// The path that was rewritten.
    pub(crate) rewritten: Option<Rewritten>,
    /// The answer that waits for the request to end.
    pub(crate) answer: Option<Answer>,
    /// The file that is being sent.
    pub(crate) file: Option<FileBody>,
}

/// The request id is the one of the route's choice.
pub(crate) fn keep_id(
    session: &Session,
    exchange: &mut Exchange,
    core: &Core,
    bytes: &[u8],
    head: &RequestHead,
    id: &[u8],
) {
    let facts = facts(session, exchange, core, bytes, head, id);
    let mut edits = Edits::default();
    edits.set("X-Request-ID", facts.effective_id());
    edits.apply(&mut exchange.outgoing, 0);
}

/// Changes the head of the request, and makes ready what is done to that of the response.
pub(crate) fn request(
    session: &mut Session,
    core: &Core,
    bytes: &[u8],
    head: &RequestHead,
    id: &[u8],
) {
    let Some(mut exchange) = session.exchange.take() else {
        return;
    };
    let mut outgoing = take(&mut exchange.outgoing);
    let mut filtered = Box::<Filtered>::default();
    if let Some(treatment) = exchange.treatment() {
        let facts = facts(session, &exchange, core, bytes, head, id);
        let filters = &treatment.filters;
        filtered.rewritten = rewritten(filters, &facts);
        if let Some(Rewritten { target, .. }) = &filtered.rewritten {
            let start = head.method_span.of(bytes).len() + 1;
            let end = start + head.path_and_query(bytes).len();
            outgoing.splice(start..end, target.iter().copied());
        }
        let mut edits = Edits::default();
        edits.take_on(&filters.request, &facts);
        edits.apply(&mut outgoing, 0);
        respond(filters, &facts, &mut filtered);
    }
    binding::recall(&mut exchange, core.now_ns);
    exchange.outgoing = outgoing;
    exchange.filtered = Some(filtered);
    session.exchange = Some(exchange);
}

/// What is known of a request while its head is there.
pub(crate) fn facts<'a>(
    session: &Session,
    exchange: &'a Exchange,
    core: &'a Core,
    bytes: &'a [u8],
    head: &'a RequestHead,
    id: &'a [u8],
) -> Facts<'a> {
    Facts {
        asked: Asked {
            listener: session.listener,
            bytes,
            head,
            fields: &core.fields,
        },
        peer: session.peer,
        tls: session.socket.is_tls(),
        trusted: &core.config.trusted,
        request_id: id,
        route: exchange.route.as_deref(),
    }
}

fn rewritten(filters: &Filters, facts: &Facts<'_>) -> Option<Rewritten> {
    if filters.strip_prefix.is_none() && filters.rewrite.is_empty() {
        return None;
    }
    let target = facts.asked.head.path_and_query(facts.asked.bytes);
    let (path, query) = split_query(target);
    let mut normal = Vec::new();
    push_normal_path(path, &mut normal);
    rewrite(filters, path, &normal, query, facts)
}

fn respond(filters: &Filters, facts: &Facts<'_>, filtered: &mut Filtered) {
    let Asked {
        bytes,
        head,
        fields,
        ..
    } = facts.asked;
    for field in &filters.security {
        if facts.tls || !field.tls_only {
            filtered
                .edits
                .unless_there(field.name, field.value.as_bytes());
        }
    }
    if let Some(cors) = &filters.cors {
        let origin = value(bytes, fields, b"origin");
        cors_fields(cors, origin, &mut filtered.edits);
    }
    filtered.edits.take_on(&filters.response, facts);
    if let Some(compress) = &filters.compress
        && head.version == Version::H11
    {
        let accepted = values(bytes, fields, b"accept-encoding");
        filtered.coding = choose(accepted, &compress.codings);
        let mut tags = values(bytes, fields, b"if-none-match");
        let cacheable = matches!(head.method, Method::Get | Method::Head);
        filtered.by_weak_tag =
            cacheable && tags.any(|value| value.windows(3).any(|three| three == b"W/\""));
    }
}

/// The values of a field, by its name in small letters.
pub(crate) fn values<'a>(
    bytes: &'a [u8],
    fields: &'a Fields,
    name: &'static [u8],
) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| {
            field.known == FieldName::Other && field.name.of(bytes).eq_ignore_ascii_case(name)
        })
        .map(move |field| field.value.of(bytes))
}

/// The first value of a field.
pub(crate) fn value<'a>(
    bytes: &'a [u8],
    fields: &'a Fields,
    name: &'static [u8],
) -> Option<&'a [u8]> {
    values(bytes, fields, name).next()
}
