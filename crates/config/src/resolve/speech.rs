//! `[cluster.NAME]`: how its endpoints are spoken to.

use std::path::PathBuf;

use crate::error::Findings;
use crate::model::{ClusterTls, Endpoint, ProxyVersion, Speech};
use crate::typed::Section;
use crate::values::{self, Target};

/// What protocol, in what wrapping.
pub(super) fn speech(cluster: &Section, findings: &mut Findings) -> Speech {
    let speech = Speech {
        http2: cluster.text("protocol") == Some("h2"),
        proxy: match cluster.text("proxy_protocol") {
            Some("v1") => Some(ProxyVersion::V1),
            Some(_) => Some(ProxyVersion::V2),
            None => None,
        },
        tls: cluster.section("tls").map(|section| tls(section, findings)),
    };
    if let (true, Some(_), Some(own), Some(other)) = (
        speech.http2,
        speech.proxy,
        cluster.key_span("proxy_protocol"),
        cluster.key_span("protocol"),
    ) {
        let message = "`proxy_protocol` names one client for each connection, and those of \
                       `protocol = \"h2\"` are shared";
        findings.add_pair(own, message, other, "the protocol");
    }
    speech
}

fn tls(section: &Section, findings: &mut Findings) -> ClusterTls {
    let path = |key| section.text(key).map(PathBuf::from);
    if let (Some(span), None) = (section.key_span("key"), section.text("cert")) {
        findings.add(span, "`key` goes with `cert`, which is missing");
    }
    let verify = section.flag("verify");
    if let (false, Some(span)) = (verify, section.key_span("ca")) {
        findings.add(span, "`ca` has no effect with `verify = false`");
    }
    let server_name = section.text("server_name");
    if let (Some(name), Some(span)) = (server_name, section.key_span("server_name"))
        && let Err(error) = values::host(name)
    {
        findings.add(span, format!("`server_name`: {error}"));
    }
    let cert = path("cert");
    ClusterTls {
        ca: path("ca"),
        server_name: server_name.map(str::to_owned),
        certificate: cert.map(|cert| (cert.clone(), path("key").unwrap_or(cert))),
        verify,
    }
}

/// What does not go together: TLS and unix sockets, checks and what endpoints do not speak.
pub(super) fn refuse(
    cluster: &Section,
    speech: &Speech,
    endpoints: &[Endpoint],
    findings: &mut Findings,
) {
    if let (true, Some(span)) = (
        speech.http2
            && endpoints
                .iter()
                .any(|endpoint| endpoint.connections_max.is_some()),
        cluster.key_span("protocol"),
    ) {
        let message = "`max_connections` is for HTTP/1.1: requests of `protocol = \"h2\"` share \
                       one connection of each shard";
        findings.add(span, message);
    }
    let over_unix = |endpoint: &Endpoint| matches!(endpoint.target, Target::Unix(_));
    if let (Some(_), Some(span), true) = (
        &speech.tls,
        cluster.key_span("tls"),
        endpoints.iter().any(over_unix),
    ) {
        findings.add(span, "`tls` is for TCP, and an endpoint is a unix socket");
    }
    let service = |endpoint: &Endpoint| matches!(endpoint.target, Target::Service(_));
    let unnamed = speech
        .tls
        .as_ref()
        .is_some_and(|tls| tls.server_name.is_none() && tls.verify);
    if let (true, true, Some(span)) = (
        unnamed,
        endpoints.iter().any(service),
        cluster.key_span("tls"),
    ) {
        let message = "`tls` needs a `server_name`: the endpoints behind a service have none";
        findings.add(span, message);
    }
    let own = cluster.section("health_check");
    let own = own.and_then(|section| section.key_span("tls"));
    if let (Some(span), None) = (own, &speech.tls) {
        let message = "`tls` of a check goes with `tls` of the cluster, which is missing";
        findings.add(span, message);
    }
}
