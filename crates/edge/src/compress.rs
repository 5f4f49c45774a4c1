//! The body of a response compressed on its way. What the endpoint sends is passed on at the
//! latest when it pauses, so that events arrive when they were sent.

use std::mem::take;

use evener_config::Compress;
use evener_filters::Encoder;
use evener_http1::{Fields, Framing, ResponseHead, list_items, write};
use evener_net::Gather;

use crate::core::Core;
use crate::error::{Kind, ProxyError, Stage};
use crate::filter::{Filtered, values};
use crate::respond;
use crate::session::{Exchange, Session};

/// Decides whether the response that begins is compressed, and says what that does to its head.
pub(crate) fn begin(
    exchange: &mut Exchange,
    core: &Core,
    bytes: &[u8],
    head: &ResponseHead,
) -> bool {
    let Exchange {
        route, filtered, ..
    } = exchange;
    let (Some(route), Some(filtered)) = (route, filtered) else {
        return false;
    };
    let treatment = route.treatment.as_deref();
    let Some(compress) = treatment.and_then(|treatment| treatment.filters.compress.as_ref()) else {
        return false;
    };
    let fields = &core.fields;
    if head.status == 304 {
        // The response that it stands for may be one whose tag was made weak.
        filtered.edits.vary("Accept-Encoding");
        if filtered.by_weak_tag {
            filtered.edits.weaken_tag();
        }
        return false;
    }
    let length = match head.framing {
        // The answer to HEAD says how long the one to GET is.
        Framing::Length(0) => head.content_length,
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::UntilClose => None,
    };
    let media = values_of(bytes, fields, b"content-type").next();
    let encoded = values_of(bytes, fields, b"content-encoding")
        .flat_map(list_items)
        .any(|item| !item.eq_ignore_ascii_case(b"identity"));
    let fixed = values(bytes, fields, b"cache-control")
        .flat_map(list_items)
        .any(|item| item.eq_ignore_ascii_case(b"no-transform"));
    let bodiless = head.status < 200 || matches!(head.status, 204..=206);
    if bodiless || encoded || fixed || !is_worth_it(compress, media, length) {
        return false;
    }
    set_out(filtered, compress)
}

/// Whether a body of this type and length, if that is known, is compressed at all.
pub(crate) fn is_worth_it(compress: &Compress, media: Option<&[u8]>, length: Option<u64>) -> bool {
    let media = media.unwrap_or_default().split(|&byte| byte == b';').next();
    let media = media.unwrap_or_default().trim_ascii();
    length.is_none_or(|length| length >= compress.min_bytes.max(1))
        && compress.types.iter().any(|pattern| fits(pattern, media))
}

/// Gets the encoder ready, if the client wants one. The head says in any case that it was asked.
pub(crate) fn set_out(filtered: &mut Filtered, compress: &Compress) -> bool {
    filtered.edits.vary("Accept-Encoding");
    let Some(coding) = filtered.coding else {
        return false;
    };
    let Ok(encoder) = Encoder::new(coding, compress.level) else {
        return false;
    };
    filtered.encoder = Some(encoder);
    let edits = &mut filtered.edits;
    edits.set("Content-Encoding", coding.token().as_bytes());
    edits.weaken_tag();
    for name in [
        "Content-Length",
        "Accept-Ranges",
        "Content-MD5",
        "Content-Digest",
    ] {
        edits.remove(name);
    }
    true
}

fn fits(pattern: &str, media: &[u8]) -> bool {
    match pattern.split_once('*') {
        _ if pattern == "*/*" => !media.is_empty(),
        Some((start, end)) => {
            let lower = media.to_ascii_lowercase();
            lower.len() >= start.len() + end.len()
                && lower.starts_with(start.as_bytes())
                && lower.ends_with(end.as_bytes())
        }
        None => media.eq_ignore_ascii_case(pattern.as_bytes()),
    }
}

/// The values of a field whose name the codec may know.
fn values_of<'a>(
    bytes: &'a [u8],
    fields: &'a Fields,
    name: &'static [u8],
) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.of(bytes).eq_ignore_ascii_case(name))
        .map(move |field| field.value.of(bytes))
}

/// Whether the body that is under way is compressed.
pub(crate) fn is_on(session: &Session) -> bool {
    let exchange = session.exchange.as_ref();
    let filtered = exchange.and_then(|exchange| exchange.filtered.as_deref());
    filtered.is_some_and(|filtered| filtered.encoder.is_some())
}

/// Decodes the endpoint's body bytes from `at` on and sends what the encoder makes of them, after
/// what `core.gather` already holds of `bytes`.
pub(crate) fn send_body(
    session: &mut Session,
    core: &mut Core,
    bytes: &[u8],
    mut at: usize,
) -> Result<(), ProxyError> {
    let exchange = session
        .exchange
        .as_mut()
        .expect("a body belongs to a request");
    let was_done = exchange.response_body.is_done();
    while at < bytes.len() && !exchange.response_body.is_done() {
        let piece = exchange
            .response_body
            .decode(&bytes[at..])
            .map_err(|_| ProxyError::upstream(Stage::Respond, Kind::Garbage))?;
        let data = &bytes[at + piece.data.start..at + piece.data.end];
        at += piece.consumed;
        encode(exchange, |encoder, out| encoder.write(data, out))?;
    }
    if at < bytes.len() {
        // Bytes after the end of the response answer nothing that was asked.
        exchange.upstream_persists = false;
    }
    let mut gather = take(&mut core.gather);
    let ended = !was_done && exchange.response_body.is_done();
    let result = if ended {
        finish(exchange, &mut gather)
    } else {
        gather_encoded(exchange, &mut gather);
        Ok(())
    };
    if ended {
        gather.own(|own| write::last_chunk(own, exchange.response_body.trailer()));
    }
    let result = result.and_then(|()| respond::send(session, core, &gather, bytes));
    core.gather = gather;
    result
}

/// The endpoint pauses: whatever it has sent goes out.
pub(crate) fn pause(session: &mut Session, core: &mut Core) -> Result<(), ProxyError> {
    let exchange = session
        .exchange
        .as_mut()
        .expect("a body belongs to a request");
    let encoder = exchange
        .filtered
        .as_ref()
        .and_then(|filtered| filtered.encoder.as_ref());
    if !encoder.is_some_and(Encoder::is_pending) {
        return Ok(());
    }
    encode(exchange, Encoder::flush)?;
    let mut gather = take(&mut core.gather);
    gather.clear();
    gather_encoded(exchange, &mut gather);
    let sent = respond::send(session, core, &gather, b"");
    core.gather = gather;
    sent
}

/// Appends what the encoder makes of a piece of our own, as a chunk; at the end also what ends the
/// body.
pub(crate) fn local(
    exchange: &mut Exchange,
    piece: &[u8],
    done: bool,
    out: &mut Vec<u8>,
) -> Result<(), ProxyError> {
    encode(exchange, |encoder, encoded| match done {
        true => encoder.finish(encoded),
        false => encoder.write(piece, encoded),
    })?;
    let mut gather = Gather::new();
    gather_encoded(exchange, &mut gather);
    gather.copy_rest(b"", 0, out);
    if done {
        write::last_chunk(out, b"");
    }
    Ok(())
}

/// Ends the encoder's work, if there is one; what it still had is gathered.
pub(crate) fn finish(exchange: &mut Exchange, gather: &mut Gather) -> Result<(), ProxyError> {
    encode(exchange, Encoder::finish)?;
    gather_encoded(exchange, gather);
    Ok(())
}

/// Lets the encoder work, if there is one.
fn encode(
    exchange: &mut Exchange,
    work: impl FnOnce(&mut Encoder, &mut Vec<u8>) -> std::io::Result<()>,
) -> Result<(), ProxyError> {
    let Some(filtered) = exchange.filtered.as_deref_mut() else {
        return Ok(());
    };
    let Some(encoder) = filtered.encoder.as_mut() else {
        return Ok(());
    };
    // Writing to memory fails only if the coding itself does.
    work(encoder, &mut filtered.encoded)
        .map_err(|error| ProxyError::edge(Stage::Respond, Kind::Encoding(error.kind())))
}

/// Gathers what the encoder has made ready, as one chunk.
fn gather_encoded(exchange: &mut Exchange, gather: &mut Gather) {
    let Some(filtered) = exchange.filtered.as_deref_mut() else {
        return;
    };
    let encoded = &mut filtered.encoded;
    if !encoded.is_empty() {
        exchange.response_bytes += encoded.len() as u64;
        gather.own(|own| {
            write::chunk_start(own, encoded.len());
            own.extend_from_slice(encoded);
            own.extend_from_slice(b"\r\n");
        });
        encoded.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_by_pattern() {
        let compress = Compress::default();
        for (media, length, worth) in [
            ("text/html; charset=utf-8", Some(1024), true),
            ("text/html", None, true),
            ("text/html", Some(1023), false),
            ("TEXT/EVENT-STREAM", None, true),
            ("application/problem+json", None, true),
            ("application/json", Some(5000), true),
            ("image/png", Some(5000), false),
            ("", None, false),
        ] {
            let media_bytes = Some(media.as_bytes());
            assert_eq!(
                is_worth_it(&compress, media_bytes, length),
                worth,
                "{media}"
            );
        }
        let all = Compress {
            min_bytes: 0,
            types: vec!["*/*".to_owned()],
            ..compress
        };
        assert!(
            !is_worth_it(&all, Some(b"a/b"), Some(0)),
            "nothing stays nothing"
        );
        assert!(is_worth_it(&all, Some(b"a/b"), Some(1)));
    }
}
