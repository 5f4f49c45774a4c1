//! Where clients connect, and what they may speak there.

use std::ops::Range;
use std::path::PathBuf;

use crate::error::Findings;
use crate::model::{CertificateFiles, Http2Terms, Listener, ListenerTls, TrustedPeers};
use crate::typed::{Node, Section, Value};
use crate::values::ListenAddress;

/// Where `[app]` alone is served.
const APP_LISTENER: (&str, u16) = ("127.0.0.1", 8000);
const HTTPS_PORT: u16 = 443;

pub(super) fn listeners(root: &Section, has_app: bool, findings: &mut Findings) -> Vec<Listener> {
    let mut list: Vec<(Listener, Range<usize>)> = Vec::new();
    for section in root.list("listener").iter().filter_map(Node::as_section) {
        let Some(node) = section.get("address") else {
            continue;
        };
        let Some(Ok(address)) = node.as_text().map(ListenAddress::parse) else {
            continue;
        };
        let name = section
            .text("name")
            .map_or_else(|| address.to_string(), str::to_owned);
        refuse_seconds(section, node, (&name, &address), &list, findings);
        let listener = Listener {
            tls: tls(section, &address, node, findings),
            https_redirect: https_redirect(section, findings),
            proxied: proxied(section, &address, findings),
            http2: http2(section, findings),
            name,
            address,
        };
        list.push((listener, node.span.clone()));
    }
    if root.has("listener") {
        return list.into_iter().map(|(listener, _)| listener).collect();
    }
    if has_app {
        return vec![of_app()];
    }
    findings.add(
        &(0..0),
        "the file has no `[[listener]]`: nobody could connect; add one with an `address`",
    );
    Vec::new()
}

fn of_app() -> Listener {
    let (host, port) = APP_LISTENER;
    let address = ListenAddress::Tcp {
        host: host.to_owned(),
        port,
    };
    Listener {
        name: address.to_string(),
        address,
        tls: None,
        https_redirect: None,
        proxied: None,
        http2: Some(Http2Terms::default()),
    }
}

/// Addresses and names are each used once.
fn refuse_seconds(
    section: &Section,
    node: &Node,
    (name, address): (&str, &ListenAddress),
    list: &[(Listener, Range<usize>)],
    findings: &mut Findings,
) {
    let any_port = matches!(address, ListenAddress::Tcp { port: 0, .. });
    for (other, span) in list {
        if other.address == *address && !any_port {
            let message = format!("`{address}` is listened on twice");
            findings.add_pair(&node.span, message, span, "here first");
        } else if other.name == name && section.has("name") {
            let message = format!("two listeners are called `{name}`");
            let own = section.key_span("name").unwrap_or(&node.span);
            findings.add_pair(own, message, span, "this is the first");
        }
    }
}

fn tls(
    section: &Section,
    address: &ListenAddress,
    node: &Node,
    findings: &mut Findings,
) -> Option<ListenerTls> {
    let tls = section.section("tls").map(listener_tls)?;
    if let ListenAddress::Unix(_) = address {
        let own = section.key_span("tls").unwrap_or(&node.span);
        findings.add(own, "`tls` is for TCP: over a unix socket nobody speaks it");
    }
    Some(tls)
}

fn https_redirect(section: &Section, findings: &mut Findings) -> Option<u16> {
    let port = match section.get("https_redirect").map(|node| &node.value) {
        Some(Value::Flag(true)) => HTTPS_PORT,
        Some(Value::Whole(port)) => u16::try_from(*port).ok()?,
        _ => return None,
    };
    if let (true, Some(own)) = (section.has("tls"), section.key_span("https_redirect")) {
        findings.add(own, "`https_redirect` is for listeners without `tls`");
    }
    Some(port)
}

/// Who relays connections. Over a unix socket everybody has the same address: there either all do,
/// or nobody does.
fn proxied(
    section: &Section,
    address: &ListenAddress,
    findings: &mut Findings,
) -> Option<TrustedPeers> {
    let own = section.key_span("proxy_protocol")?;
    let peers = section.texts("proxy_protocol").map(|(text, _)| text);
    let peers = TrustedPeers::of(peers).ok()?;
    if matches!(address, ListenAddress::Unix(_)) && !peers.believes(None) {
        findings.add(
            own,
            "clients of a unix socket have no address: write `\"unix\"`",
        );
    }
    Some(peers)
}

fn http2(section: &Section, findings: &mut Findings) -> Option<Http2Terms> {
    if section.flag("http2") {
        let usual = Http2Terms::default().streams_max;
        let streams_max = section.whole("http2_streams");
        return Some(Http2Terms {
            streams_max: streams_max.map_or(usual, |most| most as u32),
        });
    }
    if let Some(own) = section.key_span("http2_streams") {
        findings.add(own, "`http2_streams` has no effect with `http2 = false`");
    }
    None
}

fn listener_tls(section: &Section) -> ListenerTls {
    let files = |section: &Section| {
        let certificate = PathBuf::from(section.text("cert").unwrap_or_default());
        let key = section.text("key").map(PathBuf::from);
        let key = key.unwrap_or_else(|| certificate.clone());
        CertificateFiles {
            certificate,
            key,
            ocsp: section.text("ocsp").map(PathBuf::from),
        }
    };
    let more = section.list("more").iter().filter_map(Node::as_section);
    ListenerTls {
        certificates: std::iter::once(section).chain(more).map(files).collect(),
        client_ca: section.text("client_ca").map(PathBuf::from),
        client_optional: section.flag("client_optional"),
        only_13: section.text("version_min") == Some("1.3"),
    }
}
