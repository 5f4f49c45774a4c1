//! Heads and trailers between the two forms they have: lines of HTTP/1.1, which the stages work
//! on, and the fields of HTTP/2 (RFC 9113, 8).

use bytes::Bytes;
use evener_http1::{FieldName, Fields, RequestHead, ResponseHead, Span, TargetForm, write};
use h2::ext::Protocol;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri};

/// The key of a WebSocket handshake that HTTP/2 does without (RFC 8441, 5): the worker answers to
/// it, and nobody looks at the answer. Base64 of sixteen bytes.
const WEBSOCKET_KEY: &[u8] = b"RXZlbmVyL1JGQyA4NDQxIQ==";

/// How the body of a message is told from what follows it in HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyForm {
    /// There is none.
    Empty,
    /// By its length.
    Length,
    /// In chunks.
    Chunks,
    /// It is no body: bytes of another protocol.
    Tunnel,
}

/// A head that cannot be put in the other form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Appends a request as HTTP/1.1. `ends` says that no body follows.
pub(super) fn write_request(
    out: &mut Vec<u8>,
    parts: &Parts,
    ends: bool,
) -> Result<BodyForm, Malformed> {
    let protocol = parts.extensions.get::<Protocol>();
    let tunnel = match (&parts.method, protocol) {
        (&Method::CONNECT, Some(protocol)) if protocol.as_str() == "websocket" => true,
        // Refused by the stages as what it is.
        (&Method::CONNECT, Some(_)) => {
            out.extend_from_slice(b"CONNECT ");
            out.extend_from_slice(authority(parts)?.unwrap_or_default());
            out.extend_from_slice(b" HTTP/1.1\r\nHost: \r\n\r\n");
            return Ok(BodyForm::Empty);
        }
        _ => false,
    };
    let method = if tunnel { "GET" } else { parts.method.as_str() };
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    match parts.uri.path_and_query() {
        Some(target) if parts.method != Method::CONNECT || tunnel => {
            out.extend_from_slice(target.as_str().as_bytes());
        }
        _ if parts.method == Method::CONNECT => {
            out.extend_from_slice(authority(parts)?.unwrap_or_default());
        }
        _ => out.push(b'/'),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(authority) = authority(parts)? {
        write::field(out, b"Host", authority);
    }
    let mut sized = false;
    for (name, value) in &parts.headers {
        match *name {
            header::HOST | header::COOKIE => continue,
            header::CONTENT_LENGTH => sized = true,
            _ => {}
        }
        write::field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    write_cookies(out, &parts.headers);
    if tunnel {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
        write::field(out, b"Sec-WebSocket-Key", WEBSOCKET_KEY);
    }
    let form = match (tunnel, ends, sized) {
        (true, ..) => BodyForm::Tunnel,
        (_, true, _) => BodyForm::Empty,
        (_, _, true) => BodyForm::Length,
        _ => BodyForm::Chunks,
    };
    if form == BodyForm::Chunks {
        write::field(out, b"Transfer-Encoding", b"chunked");
    }
    out.extend_from_slice(b"\r\n");
    Ok(form)
}

/// What the request is for: `:authority`, or `Host` from what was HTTP/1.1 before. Both must mean
/// the same (RFC 9113, 8.3.1).
fn authority(parts: &Parts) -> Result<Option<&[u8]>, Malformed> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return Err(Malformed);
    }
    match (parts.uri.authority(), host) {
        (Some(authority), Some(host))
            if !authority.as_str().as_bytes().eq_ignore_ascii_case(host) =>
        {
            Err(Malformed)
        }
        // Credentials in it are for nobody (RFC 9113, 8.3.1).
        (Some(authority), _) if authority.as_str().contains('@') => Err(Malformed),
        (Some(authority), _) => Ok(Some(authority.as_str().as_bytes())),
        (None, host) => Ok(host),
    }
}

/// Cookies that came in several fields are one field in HTTP/1.1 (RFC 9113, 8.2.3).
fn write_cookies(out: &mut Vec<u8>, headers: &HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    let Some(first) = cookies.next() else {
        return;
    };
    out.extend_from_slice(b"Cookie: ");
    out.extend_from_slice(first.as_bytes());
    for cookie in cookies {
        out.extend_from_slice(b"; ");
        out.extend_from_slice(cookie.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// A response of HTTP/1.1 as HTTP/2 has it. `tunnel` makes 101 the 200 of RFC 8441.
pub(super) fn response(
    bytes: &[u8],
    head: &ResponseHead,
    fields: &Fields,
    tunnel: bool,
) -> Result<Response<()>, Malformed> {
    let status = if tunnel { 200 } else { head.status };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| Malformed)?;
    let headers = response.headers_mut();
    headers.reserve(fields.len());
    copy_fields(
        headers,
        bytes,
        head.length,
        fields,
        |field, name| match field {
            FieldName::Connection
            | FieldName::KeepAlive
            | FieldName::ProxyConnection
            | FieldName::TransferEncoding
            | FieldName::Upgrade => false,
            // It answers to a key that the client does not know of.
            _ => !tunnel || !name.eq_ignore_ascii_case(b"sec-websocket-accept"),
        },
    );
    Ok(response)
}

/// A request of HTTP/1.1 as an endpoint of HTTP/2 gets it.
pub(super) fn request(
    bytes: &[u8],
    head: &RequestHead,
    fields: &Fields,
    tls: bool,
) -> Result<Request<()>, Malformed> {
    let method = Method::from_bytes(head.method_span.of(bytes)).map_err(|_| Malformed)?;
    let authority = match (head.form, head.host) {
        (TargetForm::Absolute { authority, .. }, _) => authority.of(bytes),
        (_, Some(host)) => host.of(bytes),
        _ => b"",
    };
    let mut uri = Uri::builder()
        .scheme(if tls { Scheme::HTTPS } else { Scheme::HTTP })
        .path_and_query(PathAndQuery::try_from(head.path_and_query(bytes)).map_err(|_| Malformed)?);
    uri = match Authority::try_from(authority) {
        Ok(authority) => uri.authority(authority),
        // HTTP/1.1 allows an empty Host; the other form needs something.
        Err(_) if authority.is_empty() => uri.authority("localhost"),
        Err(_) => return Err(Malformed),
    };
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri.build().map_err(|_| Malformed)?;
    let headers = request.headers_mut();
    headers.reserve(fields.len() + 1);
    copy_fields(headers, bytes, head.length, fields, |field, _| {
        !matches!(
            field,
            FieldName::Connection
                | FieldName::KeepAlive
                | FieldName::ProxyConnection
                | FieldName::TransferEncoding
                | FieldName::Te
                | FieldName::Upgrade
                | FieldName::Host
        )
    });
    // We pass trailers on, whoever asked for them; gRPC insists on being told.
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    Ok(request)
}

/// Appends a response as HTTP/1.1. The stream is used for one exchange only.
pub(super) fn write_response(
    out: &mut Vec<u8>,
    response: &Response<()>,
    ends: bool,
    to_head: bool,
) -> BodyForm {
    let interim = response.status().is_informational();
    write::status_line(out, response.status().as_u16());
    // gRPC says how a call went in the trailers, for which HTTP/1.1 has a place only after chunks.
    let is_grpc = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|media| media.as_bytes().starts_with(b"application/grpc"));
    let bodiless = matches!(response.status().as_u16(), 204 | 304) || to_head;
    let mut sized = false;
    for (name, value) in response.headers() {
        if *name == header::CONTENT_LENGTH {
            if is_grpc && !ends && !bodiless {
                continue;
            }
            sized = true;
        }
        write::field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    let form = match (ends || bodiless, sized) {
        (true, _) => BodyForm::Empty,
        (_, true) => BodyForm::Length,
        _ => BodyForm::Chunks,
    };
    if !interim {
        if form == BodyForm::Chunks {
            write::field(out, b"Transfer-Encoding", b"chunked");
        } else if !sized && !bodiless {
            write::field(out, b"Content-Length", b"0");
        }
        write::field(out, b"Connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
    form
}

fn copy_fields(
    headers: &mut HeaderMap,
    bytes: &[u8],
    length: usize,
    fields: &Fields,
    keep: impl Fn(FieldName, &[u8]) -> bool,
) {
    // One piece of memory for all values.
    let shared = Bytes::copy_from_slice(&bytes[..length]);
    for field in fields.iter() {
        let name = field.name.of(bytes);
        if keep(field.known, name) {
            append(headers, name, &shared, field.value);
        }
    }
}

fn append(headers: &mut HeaderMap, name: &[u8], shared: &Bytes, value: Span) {
    let value = shared.slice(value.start()..value.end());
    // Names and values were checked when they were parsed; what `http` would not have is not sent.
    if let (Ok(name), Ok(value)) = (
        HeaderName::from_bytes(name),
        HeaderValue::from_maybe_shared(value),
    ) {
        headers.append(name, value);
    }
}

/// A trailer section as fields.
pub(super) fn trailers(section: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in section.split(|&byte| byte == b'\n') {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    headers
}

/// Appends the last chunk of a body, with its trailer section. Fields that would change what was
/// said before are left out (RFC 9110, 6.5.1).
pub(super) fn write_last_chunk(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        let framing = matches!(
            *name,
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::HOST | header::CONNECTION
        );
        if !framing {
            write::field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use evener_http1::{HeadLimits, parse_request, parse_response};

    use super::*;

    fn written(request: Request<()>, ends: bool) -> Result<(String, BodyForm), Malformed> {
        let mut out = Vec::new();
        let form = write_request(&mut out, &request.into_parts().0, ends)?;
        Ok((String::from_utf8(out).unwrap().replace("\r\n", "\n"), form))
    }

    #[test]
    fn requests_become_lines() {
        let request = Request::post("http://a.test:8/x?y=1")
            .header("cookie", "a=1")
            .header("x-one", "1")
            .header("cookie", "b=2")
            .body(())
            .unwrap();
        let (text, form) = written(request, false).unwrap();
        assert_eq!(form, BodyForm::Chunks);
        assert!(
            text.starts_with("POST /x?y=1 HTTP/1.1\nHost: a.test:8\n"),
            "{text}"
        );
        assert!(text.contains("\nCookie: a=1; b=2\n"), "{text}");
        assert!(text.ends_with("Transfer-Encoding: chunked\n\n"), "{text}");
        let sized = Request::put("http://a/")
            .header("content-length", "3")
            .body(())
            .unwrap();
        assert_eq!(written(sized, false).unwrap().1, BodyForm::Length);
        let plain = Request::get("http://a/").body(()).unwrap();
        let (text, form) = written(plain, true).unwrap();
        assert_eq!(
            (text.as_str(), form),
            ("GET / HTTP/1.1\nHost: a\n\n", BodyForm::Empty)
        );
    }

    #[test]
    fn websockets_ask_for_an_upgrade() {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = "https://a.test/chat".parse().unwrap();
        request
            .extensions_mut()
            .insert(Protocol::from_static("websocket"));
        let (text, form) = written(request, false).unwrap();
        assert_eq!(form, BodyForm::Tunnel);
        assert!(
            text.starts_with("GET /chat HTTP/1.1\nHost: a.test\n"),
            "{text}"
        );
        assert!(
            text.contains("\nConnection: Upgrade\nUpgrade: websocket\n"),
            "{text}"
        );
    }

    #[test]
    fn two_hosts_are_refused() {
        for request in [
            Request::get("http://a/").header("host", "b"),
            Request::get("http://a/")
                .header("host", "a")
                .header("host", "a"),
            Request::get("http://u:p@a/"),
        ] {
            assert_eq!(written(request.body(()).unwrap(), true), Err(Malformed));
        }
        let same = Request::get("http://a.test/")
            .header("host", "A.test")
            .body(())
            .unwrap();
        assert!(written(same, true).is_ok());
    }

    #[test]
    fn responses_cross_both_ways() {
        let bytes = b"HTTP/1.1 200 OK\r\nX-One: 1\r\nConnection: close\r\n\
            Transfer-Encoding: chunked\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n";
        let mut fields = Fields::new();
        let limits = HeadLimits::default();
        let head = parse_response(bytes, &mut fields, &limits, false)
            .unwrap()
            .unwrap();
        let response = response(bytes, &head, &fields, false).unwrap();
        assert_eq!(response.headers().len(), 3);
        assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
        let mut out = Vec::new();
        assert_eq!(
            write_response(&mut out, &response, false, false),
            BodyForm::Chunks
        );
        let again = parse_response(&out, &mut fields, &limits, false)
            .unwrap()
            .unwrap();
        assert_eq!(again.framing, evener_http1::Framing::Chunked);
        assert!(!again.keep_alive);
        let mut out = Vec::new();
        assert_eq!(
            write_response(&mut out, &response, true, false),
            BodyForm::Empty
        );
        let again = parse_response(&out, &mut fields, &limits, false)
            .unwrap()
            .unwrap();
        assert_eq!(again.framing, evener_http1::Framing::Length(0));
    }

    #[test]
    fn requests_for_endpoints_lose_what_belongs_to_a_connection() {
        let bytes =
            b"POST /p?q HTTP/1.1\r\nHost: a.test\r\nTE: gzip\r\nTransfer-Encoding: chunked\r\n\
            X-One: 1\r\n\r\n";
        let mut fields = Fields::new();
        let head = parse_request(bytes, &mut fields, &HeadLimits::default())
            .unwrap()
            .unwrap();
        let request = request(bytes, &head, &fields, false).unwrap();
        assert_eq!(request.uri().to_string(), "http://a.test/p?q");
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(request.headers().len(), 2);
    }

    #[test]
    fn trailers_are_kept_and_cannot_change_the_framing() {
        let map = trailers(b"grpc-status: 0\r\nX-Sum: a b \r\n");
        assert_eq!(map.len(), 2);
        assert_eq!(map["x-sum"], "a b");
        let mut with_framing = map.clone();
        with_framing.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
        let mut out = Vec::new();
        write_last_chunk(&mut out, Some(&with_framing));
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("0\r\n") && text.ends_with("\r\n\r\n"),
            "{text}"
        );
        assert!(text.contains("grpc-status: 0\r\n") && !text.contains("content-length"));
    }
}
