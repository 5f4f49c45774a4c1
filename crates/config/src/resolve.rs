//! From a file as written to settings without gaps: what refers to what, what excludes what, what
//! is inherited from where. All errors are noted, none ends the work.

mod clusters;
mod filters;
mod listeners;
mod routes;
mod sharing;
mod speech;

use crate::budget::Budget;
use crate::error::Findings;
use crate::model::{
    Admin, App, Buffering, Config, Dns, Flag, HealthPaths, Limits, Log, RequestBuffer,
    ResponseBuffer, Spill, Timeouts, TrustedPeers,
};
use crate::typed::{Node, Section, Value};
use crate::values;

/// The name of the local application's cluster.
const APP: &str = "app";

/// Settings, as far as they could be made out; they are good only if nothing was found wrong.
pub(crate) fn resolve(root: &Section, findings: &mut Findings) -> Config {
    let limits = root.section("limits").map(limits).unwrap_or_default();
    let timeouts = root.section("timeouts").map(timeouts).unwrap_or_default();
    let app = root.section("app").map(app);
    let listeners = listeners::listeners(root, app.is_some(), findings);
    let clusters = clusters::clusters(root, &limits, &timeouts, findings);
    clusters::check_fallbacks(root, app.is_some(), findings);
    let routes = routes::Routes {
        clusters: &clusters,
        has_app: app.is_some(),
        listeners: &listeners,
        limits: &limits,
        timeouts: &timeouts,
        findings,
    }
    .resolve(root);
    let peers = root.texts("trusted").map(|(text, _)| text);
    Config {
        shards: root.text("shards").and_then(|text| text.parse().ok()),
        backlog: root
            .whole("backlog")
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(2048),
        graceful_shutdown: root
            .section("timeouts")
            .and_then(|section| section.time("graceful_shutdown"))
            .unwrap_or(std::time::Duration::from_secs(30)),
        drain_delay: root
            .section("timeouts")
            .and_then(|section| section.time("drain_delay"))
            .unwrap_or_default(),
        budgets: budgets(root, app.is_some(), findings),
        // Each was looked at when it was read.
        trusted: TrustedPeers::of(peers).unwrap_or(TrustedPeers::Networks {
            networks: Vec::new(),
            unix: false,
        }),
        response_fields: response_fields(root, findings),
        health: HealthPaths {
            liveness: root.text("liveness_path").map(str::to_owned),
            readiness: root.text("readiness_path").map(str::to_owned),
            stand_in: false,
        },
        spill: root.section("spill").map(spill).unwrap_or_default(),
        dns: root.section("dns").map(dns).unwrap_or_default(),
        log: root.section("log").map_or_else(Log::default, log),
        admin: root.section("admin").map(admin).unwrap_or_default(),
        listeners,
        routes,
        clusters,
        app,
        limits,
        timeouts,
    }
}

fn limits(section: &Section) -> Limits {
    let usual = Limits::default();
    let count = |key, usual| {
        section
            .whole(key)
            .map_or(usual, |n| usize::try_from(n).unwrap_or(usize::MAX))
    };
    let bytes = |key, usual| {
        section
            .size(key)
            .map_or(usual, |n| usize::try_from(n).unwrap_or(usize::MAX))
    };
    Limits {
        head_bytes: bytes("head", usual.head_bytes),
        header_count: count("header_count", usual.header_count),
        body_bytes: section.size_limit("body").unwrap_or(usual.body_bytes),
        connections: count("connections", usual.connections),
        queue_length: count("queue", usual.queue_length),
        replay_bytes: bytes("replay", usual.replay_bytes),
        ..usual
    }
}

fn timeouts(section: &Section) -> Timeouts {
    over(Some(section), &Timeouts::default())
}

/// The deadlines of a table laid over others.
fn over(section: Option<&Section>, below: &Timeouts) -> Timeouts {
    let Some(section) = section else {
        return below.clone();
    };
    let of = |key, below| section.deadline(key).unwrap_or(below);
    Timeouts {
        header_read: of("header_read", below.header_read),
        body_gap: of("body_gap", below.body_gap),
        keep_alive: of("keep_alive", below.keep_alive),
        send_gap: of("send_gap", below.send_gap),
        connect: of("connect", below.connect),
        first_byte: of("first_byte", below.first_byte),
        response_gap: of("response_gap", below.response_gap),
        per_try: of("per_try", below.per_try),
        request: of("request", below.request),
        queue_wait: of("queue", below.queue_wait),
        upstream_idle: of("upstream_idle", below.upstream_idle),
        tunnel_idle: of("tunnel_idle", below.tunnel_idle),
    }
}

/// What of bodies is kept; what a table does not say is as `below`.
fn buffering(section: &Section, below: Buffering) -> Buffering {
    let memory =
        |bytes: Option<u64>| usize::try_from(bytes.unwrap_or(64 * 1024)).unwrap_or(usize::MAX);
    let requests = |table: Option<&Section>| RequestBuffer {
        memory: memory(table.and_then(|table| table.size("memory"))),
    };
    let responses = |table: Option<&Section>| ResponseBuffer {
        memory: memory(table.and_then(|table| table.size("memory"))),
        file: table
            .and_then(|table| table.size("file"))
            .unwrap_or(1 << 30),
    };
    let asked = |key: &str| {
        let table = section.section(key);
        section
            .has(key)
            .then(|| (table.is_some() || section.flag(key)).then_some(table))
    };
    Buffering {
        requests: match asked("buffer_requests") {
            Some(asked) => asked.map(requests),
            None => below.requests,
        },
        responses: match asked("buffer_responses") {
            Some(asked) => asked.map(responses),
            None => below.responses,
        },
    }
}

fn spill(section: &Section) -> Spill {
    let usual = Spill::default();
    Spill {
        directory: section
            .text("directory")
            .map_or(usual.directory, Into::into),
        total: section.size_limit("total").unwrap_or(usual.total),
    }
}

fn log(section: &Section) -> Log {
    let usual = Log::default();
    Log {
        level: section.text("level").map_or(usual.level, str::to_owned),
        format: section.text("format").map_or(usual.format, str::to_owned),
        access: section.flag("access"),
        colors: section.has("colors").then(|| section.flag("colors")),
    }
}

impl Default for Log {
    fn default() -> Self {
        Log {
            level: "info".to_owned(),
            format: "text".to_owned(),
            access: true,
            colors: None,
        }
    }
}

fn dns(section: &Section) -> Dns {
    let usual = Dns::default();
    let servers = section.texts("servers");
    Dns {
        servers: servers
            .filter_map(|(text, _)| values::name_server(text).ok())
            .collect(),
        ttl_min: section.time("ttl_min").unwrap_or(usual.ttl_min),
        ttl_max: section.time("ttl_max").unwrap_or(usual.ttl_max),
        timeout: section.time("timeout").unwrap_or(usual.timeout),
    }
}

fn admin(section: &Section) -> Admin {
    let text = |key| section.text(key).map(str::to_owned);
    Admin {
        name: text("name"),
        socket: text("socket").map(Into::into),
        address: text("address"),
        token: text("token"),
    }
}

fn budgets(root: &Section, has_app: bool, findings: &mut Findings) -> Vec<Budget> {
    let mut budgets: Vec<Budget> = Vec::new();
    for (name, span, node) in root.named("budget") {
        if !has_app {
            let message = format!("`budget.{name}` is shared by workers, and there is no `[app]`");
            findings.add(span, message);
        }
        let Some(section) = node.as_section() else {
            continue;
        };
        budgets.push(Budget {
            name: name.clone(),
            connections: section.whole("connections").unwrap_or(0),
            offset: section
                .key_span("connections")
                .map_or(span.start, |key| key.start),
        });
    }
    budgets
}

fn response_fields(root: &Section, findings: &mut Findings) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    for (name, span, node) in root.named("response_fields") {
        if let Err(error) = response_field_name(name) {
            findings.add(span, format!("`response_fields`: {error}"));
        }
        if let Some(value) = node.as_text() {
            fields.push((name.clone(), value.trim().to_owned()));
        }
    }
    fields
}

/// A header field that can be set on a response: not one that frames it.
pub(crate) fn response_field_name(name: &str) -> Result<(), String> {
    values::field_name(name)?;
    let framing = [
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
    ];
    match framing.contains(&name.to_ascii_lowercase().as_str()) {
        true => Err(format!(
            "`{name}` belongs to the connection and cannot be set"
        )),
        false => Ok(()),
    }
}

/// The one of several keys that a table has.
fn only(
    section: &Section,
    keys: &[&'static str],
    what: &str,
    findings: &mut Findings,
) -> Option<&'static str> {
    let given = keys.iter().copied().filter(|key| section.has(key));
    let given: Vec<&'static str> = given.collect();
    match given[..] {
        [one] => Some(one),
        [] => {
            let message = format!("`{what}` needs one of {}", keys.join(", "));
            findings.add(&section.span, message);
            None
        }
        [first, second, ..] => {
            let (one, other) = (section.key_span(first)?, section.key_span(second)?);
            let in_order = one.start < other.start;
            let (earlier, later) = if in_order { (one, other) } else { (other, one) };
            let message = format!("`{what}` has only one of `{first}` and `{second}`");
            findings.add_pair(later, message, earlier, "the first is here");
            None
        }
    }
}

/// The settings of the application as flags of `evener run`.
fn app(section: &Section) -> App {
    let mut flags = Vec::new();
    for key in crate::keys::app_keys() {
        let (Some(span), Some(node)) = (section.key_span(key), section.get(key)) else {
            continue;
        };
        if key == "target" {
            continue;
        }
        let name = key.replace('_', "-");
        let mut add = |name: String, value| {
            flags.push(Flag {
                name,
                value,
                offset: span.start,
            });
        };
        match &node.value {
            Value::Flag(value) if key.starts_with("ws_") => add(name, Some(value.to_string())),
            Value::Flag(true) => add(name, None),
            Value::Flag(false) if key.ends_with("_header") => add(format!("no-{name}"), None),
            Value::List(list) => {
                for text in list.iter().filter_map(Node::as_text) {
                    add(name.clone(), Some(text.to_owned()));
                }
            }
            Value::Text(text) => add(name, Some(text.clone())),
            Value::Whole(number) | Value::Size(number) => add(name, Some(number.to_string())),
            Value::Fraction(number) => add(name, Some(number.to_string())),
            Value::Time(time) | Value::Deadline(Some(time)) => {
                add(name, Some(time.as_secs_f64().to_string()));
            }
            Value::Deadline(None) => add(name, Some("off".to_owned())),
            _ => {}
        }
    }
    App {
        target: section.text("target").map(str::to_owned),
        flags,
        offset: Some(section.span.start),
    }
}
