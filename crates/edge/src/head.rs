//! Heads on their way through: what a proxy removes, what it adds, and everything else untouched.
//!
//! Fields that are kept are copied line by line as they came, neighbours in one piece. What is
//! removed is what belongs to one connection only (RFC 9110, 7.6.1) and, from clients that are not
//! trusted, every claim about who they forward for.

use std::net::IpAddr;

use evener_http1::{
    FieldName, Fields, Framing, RequestHead, ResponseHead, TargetForm, Version, list_items, write,
};
use evener_net::Peer;

use crate::config::TrustedPeers;

/// Who a request comes from.
pub(crate) struct Origin<'a> {
    pub(crate) peer: Peer,
    pub(crate) tls: bool,
    /// What the client's certificate says; empty if it has shown none.
    pub(crate) claims: &'a [u8],
    pub(crate) trusted: &'a TrustedPeers,
    /// An id for the request, unless a trusted peer brought one.
    pub(crate) request_id: &'a [u8],
}

/// Appends the head of `head` as the endpoint gets it.
pub(crate) fn request(
    out: &mut Vec<u8>,
    bytes: &[u8],
    head: &RequestHead,
    fields: &Fields,
    origin: &Origin<'_>,
) {
    out.extend_from_slice(head.method_span.of(bytes));
    out.push(b' ');
    out.extend_from_slice(head.path_and_query(bytes));
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let believed = match origin.peer {
        Peer::Tcp(address) => origin.trusted.believes(Some(address.ip())),
        Peer::Unix => origin.trusted.believes(None),
    };
    if head.host.is_none() {
        let authority = match head.form {
            TargetForm::Absolute { authority, .. } => authority.of(bytes),
            _ => b"",
        };
        write::field(out, b"Host", authority);
    }
    let nominated = Nominated::of(bytes, fields);
    copy_fields(out, bytes, fields, |field| match field.known {
        FieldName::Connection
        | FieldName::KeepAlive
        | FieldName::ProxyConnection
        | FieldName::Te
        | FieldName::TransferEncoding
        | FieldName::Upgrade
        | FieldName::XForwardedFor
        | FieldName::XRealIp => false,
        FieldName::XForwardedHost
        | FieldName::XForwardedProto
        | FieldName::XForwardedPort
        | FieldName::Forwarded
        | FieldName::XRequestId => believed,
        // Of two, nobody could tell which to believe.
        FieldName::XForwardedClientCert => believed && origin.claims.is_empty(),
        // Naming these in Connection would let a client take away what others rely on.
        FieldName::Host | FieldName::ContentLength => true,
        _ => !nominated.names(field.name.of(bytes)),
    });
    forwarding_fields(out, bytes, head, fields, origin, believed);
    if head.framing == Framing::Chunked {
        write::field(out, b"Transfer-Encoding", b"chunked");
    }
    if head.upgrade {
        write::field(out, b"Connection", b"upgrade");
        for field in fields
            .iter()
            .filter(|field| field.known == FieldName::Upgrade)
        {
            out.extend_from_slice(field.line.of(bytes));
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// `X-Forwarded-*`, `X-Real-IP` and the request id. From the chain of addresses only the part is
/// kept that trusted peers vouch for, so that its first address is the client's, whoever reads it.
fn forwarding_fields(
    out: &mut Vec<u8>,
    bytes: &[u8],
    head: &RequestHead,
    fields: &Fields,
    origin: &Origin<'_>,
    believed: bool,
) {
    let has = |name| believed && fields.first(name).is_some();
    out.extend_from_slice(b"X-Forwarded-For: ");
    let chain_start = out.len();
    forwarded_for(out, bytes, fields, origin.peer, origin.trusted);
    let chain_end = out.len();
    out.extend_from_slice(b"\r\nX-Real-IP: ");
    let first_end = out[chain_start..chain_end]
        .iter()
        .position(|&byte| byte == b',')
        .map_or(chain_end, |comma| chain_start + comma);
    out.extend_from_within(chain_start..first_end);
    out.extend_from_slice(b"\r\n");
    if !has(FieldName::XForwardedProto) {
        let scheme: &[u8] = if origin.tls { b"https" } else { b"http" };
        write::field(out, b"X-Forwarded-Proto", scheme);
    }
    if !origin.claims.is_empty() {
        write::field(out, b"X-Forwarded-Client-Cert", origin.claims);
    }
    if let (false, Some(host)) = (has(FieldName::XForwardedHost), head.host) {
        write::field(out, b"X-Forwarded-Host", host.of(bytes));
    }
    if !has(FieldName::XRequestId) {
        write::field(out, b"X-Request-ID", origin.request_id);
    }
}

/// Appends the chain of addresses as it is sent on: what trusted peers vouch for, and the peer.
pub(crate) fn forwarded_for(
    out: &mut Vec<u8>,
    bytes: &[u8],
    fields: &Fields,
    peer: Peer,
    trusted: &TrustedPeers,
) {
    let start = out.len();
    let own = match peer {
        Peer::Tcp(address) => Some(address.ip()),
        Peer::Unix => None,
    };
    if trusted.believes(own) {
        push_vouched_chain(out, bytes, fields, trusted);
    }
    if let Some(ip) = own {
        if out.len() > start {
            out.extend_from_slice(b", ");
        }
        push_ip(out, ip);
    }
}

/// The first address that trusted peers vouch for, if they name any.
pub(crate) fn vouched_client<'a>(
    bytes: &'a [u8],
    fields: &'a Fields,
    trusted: &TrustedPeers,
) -> Option<&'a [u8]> {
    let start = vouched_from(bytes, fields, trusted);
    chain(bytes, fields).nth(start)
}

/// The addresses that a request says it was forwarded for.
fn chain<'a>(bytes: &'a [u8], fields: &'a Fields) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(|field| field.known == FieldName::XForwardedFor)
        .flat_map(|field| list_items(field.value.of(bytes)))
}

/// Where the trusted tail of the chain, with the one address before it, which is the client's,
/// begins.
fn vouched_from(bytes: &[u8], fields: &Fields, trusted: &TrustedPeers) -> usize {
    let address = |item: &[u8]| std::str::from_utf8(item).ok()?.parse::<IpAddr>().ok();
    let at = |index| chain(bytes, fields).nth(index).and_then(address);
    let count = chain(bytes, fields).count();
    let untrusted_at = (0..count)
        .rev()
        .find(|index| !at(*index).is_some_and(|ip| trusted.believes(Some(ip))));
    // An item that is no address says nothing; the chain begins after it.
    match untrusted_at {
        Some(index) if at(index).is_some() => index,
        Some(index) => index + 1,
        None => 0,
    }
}

fn push_vouched_chain(out: &mut Vec<u8>, bytes: &[u8], fields: &Fields, trusted: &TrustedPeers) {
    let start = vouched_from(bytes, fields, trusted);
    for (index, item) in chain(bytes, fields).enumerate().skip(start) {
        if index > start {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(item);
    }
}

/// Appends an address in its usual text form.
pub(crate) fn push_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            for (index, octet) in ip.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                write::decimal(out, u64::from(octet));
            }
        }
        IpAddr::V6(ip) => {
            use std::io::Write;
            // Writing to a Vec cannot fail.
            let _ = write!(out, "{ip}");
        }
    }
}

/// How a response goes out to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResponseTerms {
    /// The client's version.
    pub(crate) version: Version,
    /// The body goes out in chunks.
    pub(crate) chunked: bool,
    /// The connection goes on after the response.
    pub(crate) keep_alive: bool,
    /// The connection becomes a tunnel.
    pub(crate) tunnel: bool,
}

/// Appends the head of a response as the client gets it. `date` is the field value to use if the
/// endpoint sent none; `extra` are complete field lines.
pub(crate) fn response(
    out: &mut Vec<u8>,
    bytes: &[u8],
    head: &ResponseHead,
    fields: &Fields,
    terms: ResponseTerms,
    date: &[u8],
    extra: &[u8],
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write::decimal(out, u64::from(head.status));
    out.push(b' ');
    out.extend_from_slice(head.reason.of(bytes));
    out.extend_from_slice(b"\r\n");
    let nominated = Nominated::of(bytes, fields);
    let mut dated = head.is_interim();
    copy_fields(out, bytes, fields, |field| match field.known {
        FieldName::Connection
        | FieldName::KeepAlive
        | FieldName::ProxyConnection
        | FieldName::Te
        | FieldName::TransferEncoding => false,
        FieldName::Upgrade => terms.tunnel,
        FieldName::ContentLength => true,
        FieldName::Date => {
            dated = true;
            true
        }
        _ => !nominated.names(field.name.of(bytes)),
    });
    if !dated {
        write::field(out, b"Date", date);
    }
    if terms.chunked {
        write::field(out, b"Transfer-Encoding", b"chunked");
    }
    if !head.is_interim() {
        out.extend_from_slice(extra);
        match (terms.tunnel, terms.keep_alive, terms.version) {
            (true, _, _) => write::field(out, b"Connection", b"upgrade"),
            (_, false, _) => write::field(out, b"Connection", b"close"),
            (_, true, Version::H10) => write::field(out, b"Connection", b"keep-alive"),
            (_, true, Version::H11) => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Copies the lines of the fields that `keep` keeps, neighbours in one piece.
fn copy_fields(
    out: &mut Vec<u8>,
    bytes: &[u8],
    fields: &Fields,
    mut keep: impl FnMut(&evener_http1::Field) -> bool,
) {
    let mut run = None;
    for field in fields.iter() {
        let (start, end) = (field.line.start(), field.line.end());
        if keep(field) {
            run = Some((run.map_or(start, |(first, _)| first), end));
        } else if let Some((first, last)) = run.take() {
            out.extend_from_slice(&bytes[first..last]);
        }
    }
    if let Some((first, last)) = run {
        out.extend_from_slice(&bytes[first..last]);
    }
}

/// The fields that `Connection` names besides its usual options.
struct Nominated<'a> {
    bytes: &'a [u8],
    fields: &'a Fields,
    any: bool,
}

impl<'a> Nominated<'a> {
    fn of(bytes: &'a [u8], fields: &'a Fields) -> Nominated<'a> {
        let mut nominated = Nominated {
            bytes,
            fields,
            any: false,
        };
        let any = nominated.options().any(|option| {
            ![&b"close"[..], b"keep-alive", b"upgrade", b"te"]
                .iter()
                .any(|usual| option.eq_ignore_ascii_case(usual))
        });
        nominated.any = any;
        nominated
    }

    fn options(&self) -> impl Iterator<Item = &'a [u8]> {
        let bytes = self.bytes;
        self.fields
            .iter()
            .filter(|field| field.known == FieldName::Connection)
            .flat_map(move |field| list_items(field.value.of(bytes)))
    }

    fn names(&self, name: &[u8]) -> bool {
        self.any
            && self
                .options()
                .any(|option| option.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use evener_http1::{HeadLimits, parse_request, parse_response};

    use super::*;

    fn forwarded(text: &str, peer: &str, trusted: &str) -> String {
        let bytes = text.replace('\n', "\r\n").into_bytes();
        let mut fields = Fields::new();
        let head = parse_request(&bytes, &mut fields, &HeadLimits::default())
            .unwrap()
            .unwrap();
        let mut out = Vec::new();
        let origin = Origin {
            claims: b"",
            tls: false,
            peer: if peer.is_empty() {
                Peer::Unix
            } else {
                Peer::Tcp(peer.parse().unwrap())
            },
            trusted: &TrustedPeers::parse(trusted).unwrap(),
            request_id: b"id1",
        };
        request(&mut out, &bytes, &head, &fields, &origin);
        String::from_utf8(out).unwrap().replace("\r\n", "\n")
    }

    #[test]
    fn nothing_of_one_connection_and_no_claims_of_strangers_are_passed_on() {
        let out = forwarded(
            "GET http://a/x HTTP/1.1\nHost: a\nConnection: keep-alive, X-Mine, Host\nX-Mine: 1\n\
             Keep-Alive: 5\nTE: trailers\nProxy-Connection: x\nX-Forwarded-For: 1.1.1.1\n\
             X-Forwarded-Proto: https\nX-Real-IP: 2.2.2.2\nForwarded: for=3.3.3.3\n\
             X-Request-ID: forged\nX-Forwarded-Client-Cert: Hash=00\nUpgrade: h2c\nAccept: */*\n\n",
            "9.9.9.9:1",
            "127.0.0.1",
        );
        assert_eq!(
            out,
            "GET /x HTTP/1.1\nHost: a\nAccept: */*\nX-Forwarded-For: 9.9.9.9\n\
             X-Real-IP: 9.9.9.9\nX-Forwarded-Proto: http\nX-Forwarded-Host: a\n\
             X-Request-ID: id1\n\n"
        );
    }

    #[test]
    fn trusted_peers_are_believed_as_far_as_they_can_vouch() {
        for (chain, sent, client) in [
            ("8.8.8.8", "8.8.8.8, 10.0.0.1", "8.8.8.8"),
            ("6.6.6.6, 8.8.8.8", "8.8.8.8, 10.0.0.1", "8.8.8.8"),
            (
                "6.6.6.6, 8.8.8.8, 10.0.0.2",
                "8.8.8.8, 10.0.0.2, 10.0.0.1",
                "8.8.8.8",
            ),
            (
                "10.0.0.3, 10.0.0.2",
                "10.0.0.3, 10.0.0.2, 10.0.0.1",
                "10.0.0.3",
            ),
            ("unknown, 10.0.0.2", "10.0.0.2, 10.0.0.1", "10.0.0.2"),
            ("", "10.0.0.1", "10.0.0.1"),
        ] {
            let out = forwarded(
                &format!(
                    "GET / HTTP/1.1\nHost: a\nX-Forwarded-For: {chain}\nX-Forwarded-Proto: https\n\
                     X-Forwarded-Host: b\nX-Request-ID: theirs\n\n"
                ),
                "10.0.0.1:1",
                "10.0.0.0/8",
            );
            assert_eq!(
                out,
                format!(
                    "GET / HTTP/1.1\nHost: a\nX-Forwarded-Proto: https\nX-Forwarded-Host: b\n\
                     X-Request-ID: theirs\nX-Forwarded-For: {sent}\nX-Real-IP: {client}\n\n"
                ),
                "{chain:?}"
            );
        }
        let unix = forwarded("GET / HTTP/1.0\nX-Forwarded-For: 5.5.5.5\n\n", "", "*");
        assert!(unix.contains("X-Real-IP: 5.5.5.5\n"), "{unix}");
        assert!(unix.contains("\nHost: \n"), "{unix}");
    }

    #[test]
    fn upgrades_and_chunks_are_announced_anew() {
        let out = forwarded(
            "POST / HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: websocket\n\
             Transfer-Encoding: Chunked\n\n",
            "[::ffff:1.2.3.4]:1",
            "127.0.0.1",
        );
        assert!(
            out.contains("Transfer-Encoding: chunked\nConnection: upgrade\nUpgrade: websocket\n\n")
        );
        assert!(out.contains("X-Real-IP: 1.2.3.4\n"), "{out}");
    }

    #[test]
    fn responses_lose_what_was_between_us_and_the_worker() {
        let bytes =
            b"HTTP/1.1 200 Fine\r\nServer: u\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n\
            Transfer-Encoding: chunked\r\nX: y\r\n\r\n";
        let mut fields = Fields::new();
        let head = parse_response(bytes, &mut fields, &HeadLimits::default(), false)
            .unwrap()
            .unwrap();
        let written = |terms| {
            let mut out = Vec::new();
            response(&mut out, bytes, &head, &fields, terms, b"now", b"A: b\r\n");
            String::from_utf8(out).unwrap().replace("\r\n", "\n")
        };
        let terms = ResponseTerms {
            version: Version::H11,
            chunked: true,
            keep_alive: true,
            tunnel: false,
        };
        assert_eq!(
            written(terms),
            "HTTP/1.1 200 Fine\nServer: u\nX: y\nDate: now\nTransfer-Encoding: chunked\nA: b\n\n"
        );
        let old = ResponseTerms {
            version: Version::H10,
            chunked: false,
            ..terms
        };
        assert!(written(old).ends_with("A: b\nConnection: keep-alive\n\n"));
        let last = ResponseTerms {
            keep_alive: false,
            ..terms
        };
        assert!(written(last).ends_with("A: b\nConnection: close\n\n"));
    }
}
