//! `[cluster.NAME]`: how endpoints are chosen, and who they are.

use std::ops::Range;
use std::time::Duration;

use evener_policy::balance::{Measure, Method};
use evener_policy::health;

use super::{APP, only, over, sharing, speech};
use crate::error::Findings;
use crate::filters::Fixed;
use crate::model::{
    BalanceKey, Buffering, CheckKind, Cluster, Endpoint, Fallback, HealthCheck, Limits, Resend,
    Speech, Timeouts,
};
use crate::near::nearest;
use crate::template::{Part, Template};
use crate::typed::Section;
use crate::values::{self, Target};

/// The clusters of the file, by name.
pub(super) fn clusters(
    root: &Section,
    limits: &Limits,
    general: &Timeouts,
    findings: &mut Findings,
) -> Vec<Cluster> {
    let mut clusters = Vec::new();
    for (name, span, node) in root.named("cluster") {
        if let Err(error) = values::name(name) {
            findings.add(span, format!("`cluster.{name}`: {error}"));
        }
        // A cluster that was wrong is still one that routes may name.
        let section = node.as_section();
        let app = root.key_span("app").filter(|_| name == APP);
        if let Some(section) = section {
            check_whose(section, span, app, findings);
        }
        let of = |key| section.and_then(|section| section.whole(key));
        let (method, key) = section
            .map(|section| policy(section, app.is_some(), findings))
            .unwrap_or_default();
        let speech = section
            .map(|section| speech::speech(section, findings))
            .unwrap_or_default();
        let health = section
            .and_then(|section| section.section("health_check"))
            .map(|section| health_check(section, &speech, findings));
        let endpoints = section
            .map(|section| endpoints(section, method, &speech, findings))
            .unwrap_or_default();
        if let Some(section) = section {
            speech::refuse(section, &speech, &endpoints, findings);
        }
        let (sticky, binding) = section
            .and_then(|section| section.get("sticky"))
            .map(|node| sharing::sticky(node, findings))
            .unwrap_or_default();
        clusters.push(Cluster {
            name: name.clone(),
            method,
            key,
            sticky,
            binding,
            resend: section
                .filter(|section| app.is_none() || section.has("next_upstream"))
                .map_or(Resend::Safe, sharing::resend),
            fallback: section
                .and_then(|section| section.section("fallback"))
                .map(|section| fallback(section, findings)),
            sharing: section
                .map(|section| sharing::sharing(section, general, findings))
                .unwrap_or_default(),
            health,
            buffering: section
                .map(|section| super::buffering(section, Buffering::default()))
                .unwrap_or_default(),
            endpoints,
            queue_length: of("queue").map_or(limits.queue_length, |n| {
                usize::try_from(n).unwrap_or(usize::MAX)
            }),
            timeouts: over(
                section.and_then(|section| section.section("timeouts")),
                general,
            ),
        });
    }
    clusters.sort_by(|one, other| one.name.cmp(&other.name));
    clusters
}

/// A cluster needs endpoints. Only that of `[app]`, which is at `app`, has none of its own: its
/// workers come and go by themselves, and are spoken to in one way.
fn check_whose(
    section: &Section,
    span: &Range<usize>,
    app: Option<&Range<usize>>,
    findings: &mut Findings,
) {
    let Some(app) = app else {
        if !section.has("endpoints") {
            let message = "[cluster.NAME] needs `endpoints`: a list of addresses";
            findings.add(span, message);
        }
        return;
    };
    for key in [
        "endpoints",
        "protocol",
        "proxy_protocol",
        "tls",
        "health_check",
    ] {
        if let Some(own) = section.key_span(key) {
            let message = format!(
                "`cluster.app` is about the workers of `[app]` and has no `{key}`; other endpoints \
                 need a cluster of another name"
            );
            findings.add_pair(own, message, app, "`[app]` is here");
        }
    }
}

/// What becomes of requests that a cluster does not take.
fn fallback(section: &Section, findings: &mut Findings) -> Fallback {
    let answer = ["status", "body", "type"];
    if let Some(cluster) = section.key_span("cluster") {
        for key in answer {
            if let Some(own) = section.key_span(key) {
                let message = format!("`{key}` goes without `cluster`");
                findings.add_pair(own, message, cluster, "`cluster` is here");
            }
        }
    }
    match section.text("cluster") {
        Some(name) => Fallback::Cluster(name.to_owned()),
        None => Fallback::Answer(Fixed {
            status: section
                .whole("status")
                .and_then(|status| u16::try_from(status).ok())
                .unwrap_or(503),
            body: Template {
                parts: vec![Part::Text(
                    section.text("body").unwrap_or_default().to_owned(),
                )],
            },
            media: section.text("type").unwrap_or_default().to_owned(),
        }),
    }
}

/// Fallbacks name clusters that are there, and others.
pub(super) fn check_fallbacks(root: &Section, has_app: bool, findings: &mut Findings) {
    let names = || {
        let named = root
            .named("cluster")
            .iter()
            .map(|(name, _, _)| name.as_str());
        let app = has_app.then_some(APP);
        named.filter(move |name| app != Some(name)).chain(app)
    };
    for (cluster, _, node) in root.named("cluster") {
        let section = node.as_section().and_then(|one| one.section("fallback"));
        let Some(node) = section.and_then(|section| section.get("cluster")) else {
            continue;
        };
        let name = node.as_text().unwrap_or_default();
        if name == cluster {
            findings.add(&node.span, "a cluster cannot be its own fallback");
        } else if !names().any(|known| known == name) {
            let help = match nearest(name, names()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("there is {}", names().collect::<Vec<_>>().join(", ")),
            };
            findings.add(&node.span, format!("there is no cluster `{name}`; {help}"));
        }
    }
}

/// How a cluster chooses, and by what it tells requests apart.
fn policy(cluster: &Section, of_app: bool, findings: &mut Findings) -> (Method, BalanceKey) {
    let usual = match of_app {
        true => (Method::LeastInFlight, BalanceKey::None),
        false => (Method::RoundRobin, BalanceKey::None),
    };
    let Some(node) = cluster.get("policy").filter(|_| cluster.has("policy")) else {
        return usual;
    };
    let Some(section) = node.as_section() else {
        return match node.as_text().unwrap_or_default() {
            "round_robin" => (Method::RoundRobin, BalanceKey::None),
            "least_conn" => (Method::LeastConn, BalanceKey::None),
            "ip_hash" => (Method::IpHash, BalanceKey::Client),
            "random" => (Method::Random, BalanceKey::None),
            "random_two" => (Method::RandomTwo, BalanceKey::None),
            "least_in_flight" => (Method::LeastInFlight, BalanceKey::None),
            "power_of_two" => (Method::PowerOfTwo, BalanceKey::None),
            "peak_ewma" => (Method::PeakEwma, BalanceKey::None),
            "first_fit" => (Method::FirstFit, BalanceKey::None),
            "least_time" => (least_time("header", false), BalanceKey::None),
            _ => usual,
        };
    };
    let kinds = ["hash", "maglev", "bounded_load", "least_time"];
    let Some(kind) = only(section, &kinds, "policy", findings) else {
        return usual;
    };
    for (key, with) in [
        ("consistent", "hash"),
        ("over_percent", "bounded_load"),
        ("in_flight", "least_time"),
    ] {
        if let (Some(span), true) = (section.key_span(key), kind != with) {
            findings.add(
                span,
                format!("`{key}` goes with `{with}`, not with `{kind}`"),
            );
        }
    }
    let text = section.text(kind).unwrap_or_default();
    if kind == "least_time" {
        return (
            least_time(text, section.flag("in_flight")),
            BalanceKey::None,
        );
    }
    let key = Template::parse(text).map_or(BalanceKey::None, BalanceKey::Text);
    let percent = section
        .whole("over_percent")
        .and_then(|n| u32::try_from(n).ok());
    let method = match (kind, section.flag("consistent")) {
        ("hash", false) => Method::Hash,
        ("hash", true) => Method::HashConsistent,
        ("maglev", _) => Method::Maglev,
        _ => Method::BoundedLoad {
            over_percent: percent.unwrap_or(25),
        },
    };
    (method, key)
}

fn least_time(measure: &str, in_flight: bool) -> Method {
    let measure = match measure {
        "last_byte" => Measure::LastByte,
        _ => Measure::Header,
    };
    Method::LeastTime { measure, in_flight }
}

fn health_check(section: &Section, speech: &Speech, findings: &mut Findings) -> HealthCheck {
    let usual = health::Settings::default();
    let interval = section.time("interval").unwrap_or(usual.interval);
    let count = |key, usual| {
        let number = section.whole(key);
        number.and_then(|n| u32::try_from(n).ok()).unwrap_or(usual)
    };
    if interval.is_zero()
        && let Some(span) = section.key_span("interval")
    {
        findings.add(
            span,
            "`interval`: without a pause nothing but checks would be made",
        );
    }
    let kind = section.text("type").unwrap_or("http");
    for (key, kinds) in [
        ("protocol", "http"),
        ("path", "http"),
        ("host", "http or grpc"),
        ("status", "http"),
        ("header", "http"),
        ("body", "http"),
        ("service", "grpc"),
        ("tls", "http or grpc"),
    ] {
        if let (Some(span), false) = (section.key_span(key), kinds.contains(kind)) {
            findings.add(span, format!("`{key}` goes with `type = \"{kinds}\"`"));
        }
    }
    HealthCheck {
        kind: match kind {
            "tcp" => CheckKind::Tcp,
            "grpc" => CheckKind::Grpc {
                service: section.text("service").unwrap_or_default().to_owned(),
                host: section.text("host").map(str::to_owned),
            },
            _ => CheckKind::Http {
                path: section.text("path").unwrap_or("/").to_owned(),
                host: section.text("host").map(str::to_owned),
                expected: expected(section),
                http2: section
                    .text("protocol")
                    .map_or(speech.http2, |text| text == "h2"),
            },
        },
        settings: health::Settings {
            interval,
            jitter: section.time("jitter").unwrap_or(usual.jitter),
            interval_unhealthy: section.time("interval_unhealthy").unwrap_or(interval),
            interval_changing: section.time("interval_changing").unwrap_or(interval),
            rise: count("rise", usual.rise),
            fall: count("fall", usual.fall),
            hold: section.flag("hold"),
        },
        timeout: section.time("timeout").unwrap_or(Duration::from_secs(5)),
        port: section
            .whole("port")
            .and_then(|port| u16::try_from(port).ok()),
        resend: section.flag("resend"),
        clear_text: section.has("tls") && !section.flag("tls"),
    }
}

/// What passes.
fn expected(check: &Section) -> health::Expected {
    let headers = check.named("header").iter();
    health::Expected {
        statuses: check
            .texts("status")
            .filter_map(|(text, _)| values::statuses(text).ok())
            .collect(),
        headers: headers
            .filter_map(|(name, _, node)| {
                let value = Some(node.as_text()?.to_owned()).filter(|text| !text.is_empty());
                Some((name.to_ascii_lowercase(), value))
            })
            .collect(),
        body: check.text("body").map(str::to_owned),
    }
}

fn endpoints(
    cluster: &Section,
    method: Method,
    speech: &Speech,
    findings: &mut Findings,
) -> Vec<Endpoint> {
    let mut list: Vec<(Endpoint, Range<usize>)> = Vec::new();
    if let Some(node) = cluster.get("endpoints")
        && cluster.list("endpoints").is_empty()
    {
        findings.add(&node.span, "a cluster needs at least one endpoint");
    }
    for node in cluster.list("endpoints") {
        let section = node.as_section();
        let address = match section {
            Some(section) => section.get("address"),
            None => Some(node),
        };
        let Some(address) = address else { continue };
        let Some(Ok(target)) = address.as_text().map(Target::parse) else {
            continue;
        };
        if let Some((_, first)) = list.iter().find(|(other, _)| other.target == target) {
            let message = format!("`{target}` is in this cluster twice");
            findings.add_pair(&address.span, message, first, "here first");
        }
        if let Some(section) = section {
            refuse_backup(cluster, section, method, findings);
        }
        list.push((endpoint(section, target, speech), address.span.clone()));
    }
    if !list.is_empty()
        && list.iter().all(|(endpoint, _)| endpoint.backup)
        && let Some(node) = cluster.get("endpoints")
    {
        findings.add(&node.span, "a cluster needs an endpoint that is no backup");
    }
    list.into_iter().map(|(endpoint, _)| endpoint).collect()
}

fn endpoint(section: Option<&Section>, target: Target, speech: &Speech) -> Endpoint {
    let text = |key| section.and_then(|section| section.text(key));
    let flag = |key| section.is_some_and(|section| section.flag(key));
    let whole = |key| {
        let number = section.and_then(|section| section.whole(key));
        number.and_then(|number| u32::try_from(number).ok())
    };
    Endpoint {
        name: text("name").map_or_else(|| target.to_string(), str::to_owned),
        weight: whole("weight").unwrap_or(1),
        priority: whole("priority").unwrap_or(0),
        backup: flag("backup"),
        down: flag("down"),
        in_flight_max: whole("max_conns").filter(|most| *most > 0),
        connections_max: whole("max_connections").filter(|most| *most > 0),
        max_fails: whole("max_fails").unwrap_or(1),
        fail_timeout: section
            .and_then(|section| section.time("fail_timeout"))
            .unwrap_or(Duration::from_secs(10)),
        route: text("route").unwrap_or_default().to_owned(),
        speech: speech.clone(),
        target,
    }
}

/// nginx refuses backups where requests are bound to endpoints or drawn.
fn refuse_backup(cluster: &Section, section: &Section, method: Method, findings: &mut Findings) {
    let without = matches!(
        method,
        Method::IpHash | Method::Hash | Method::HashConsistent | Method::Random | Method::RandomTwo
    );
    if let (true, true, Some(own), Some(policy)) = (
        without,
        section.flag("backup"),
        section.key_span("backup"),
        cluster.key_span("policy"),
    ) {
        let message = "there is no `backup` with this policy; use `priority`";
        findings.add_pair(own, message, policy, "the policy");
    }
}
