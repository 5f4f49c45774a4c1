//! From a file as written to settings without gaps: what refers to what, what excludes what, what
//! is inherited from where. All errors are noted, none ends the work.

use std::ops::Range;
use std::path::PathBuf;

use crate::error::Findings;
use crate::model::{
    Action, Admin, App, Cluster, Config, Endpoint, Flag, HealthPaths, HostPattern, Limits,
    Listener, ListenerTls, Log, Matcher, PathPattern, Policy, Route, Timeouts, TrustedPeers,
    ValuePattern,
};
use crate::near::nearest;
use crate::typed::{Node, Section, Value};
use crate::values::{self, ListenAddress, Target};

/// The name of the local application's cluster.
const APP: &str = "app";
/// Where `[app]` listens when the file says nothing.
const APP_LISTENER: (&str, u16) = ("127.0.0.1", 8000);

/// Settings, as far as they could be made out; they are good only if nothing was found wrong.
pub(crate) fn resolve(root: &Section, findings: &mut Findings) -> Config {
    let limits = root.section("limits").map(limits).unwrap_or_default();
    let timeouts = root.section("timeouts").map(timeouts).unwrap_or_default();
    let app = root.section("app").map(app);
    let listeners = listeners(root, app.is_some(), findings);
    let clusters = clusters(root, &limits, &timeouts, findings);
    let routes = Routes {
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
        // Each was looked at when it was read.
        trusted: TrustedPeers::of(peers).unwrap_or(TrustedPeers::Networks {
            networks: Vec::new(),
            unix: false,
        }),
        response_fields: response_fields(root, findings),
        health: HealthPaths {
            liveness: root.text("liveness_path").map(str::to_owned),
            readiness: root.text("readiness_path").map(str::to_owned),
        },
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
        request: of("request", below.request),
        queue_wait: of("queue", below.queue_wait),
        upstream_idle: of("upstream_idle", below.upstream_idle),
        tunnel_idle: of("tunnel_idle", below.tunnel_idle),
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

fn admin(section: &Section) -> Admin {
    let text = |key| section.text(key).map(str::to_owned);
    Admin {
        name: text("name"),
        socket: text("socket").map(Into::into),
        address: text("address"),
        token: text("token"),
    }
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

fn listeners(root: &Section, has_app: bool, findings: &mut Findings) -> Vec<Listener> {
    let mut list: Vec<(Listener, Range<usize>)> = Vec::new();
    for section in root.list("listener").iter().filter_map(Node::as_section) {
        let Some(node) = section.get("address") else {
            continue;
        };
        let Some(Ok(address)) = node.as_text().map(ListenAddress::parse) else {
            continue;
        };
        let any_port = matches!(address, ListenAddress::Tcp { port: 0, .. });
        let name = section
            .text("name")
            .map_or_else(|| address.to_string(), str::to_owned);
        for (other, span) in &list {
            if other.address == address && !any_port {
                let message = format!("`{address}` is listened on twice");
                findings.add_pair(&node.span, message, span, "here first");
            } else if other.name == name && section.has("name") {
                let message = format!("two listeners are called `{name}`");
                let own = section.key_span("name").unwrap_or(&node.span);
                findings.add_pair(own, message, span, "this is the first");
            }
        }
        let tls = section.section("tls").map(listener_tls);
        if let (Some(_), ListenAddress::Unix(_)) = (&tls, &address) {
            let own = section.key_span("tls").unwrap_or(&node.span);
            findings.add(own, "`tls` is for TCP: over a unix socket nobody speaks it");
        }
        let listener = Listener { name, address, tls };
        list.push((listener, node.span.clone()));
    }
    if !root.has("listener") {
        if has_app {
            let (host, port) = APP_LISTENER;
            let address = ListenAddress::Tcp {
                host: host.to_owned(),
                port,
            };
            return vec![Listener {
                name: address.to_string(),
                address,
                tls: None,
            }];
        }
        findings.add(
            &(0..0),
            "the file has no `[[listener]]`: nobody could connect; add one with an `address`",
        );
    }
    list.into_iter().map(|(listener, _)| listener).collect()
}

fn listener_tls(section: &Section) -> ListenerTls {
    let files = |section: &Section| {
        let certificate = PathBuf::from(section.text("cert").unwrap_or_default());
        let key = section.text("key").map(PathBuf::from);
        let key = key.unwrap_or_else(|| certificate.clone());
        (certificate, key)
    };
    let more = section.list("more").iter().filter_map(Node::as_section);
    ListenerTls {
        certificates: std::iter::once(section).chain(more).map(files).collect(),
        client_ca: section.text("client_ca").map(PathBuf::from),
        client_optional: section.flag("client_optional"),
        only_13: section.text("version_min") == Some("1.3"),
    }
}

fn clusters(
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
        if name == APP
            && let Some(app) = root.key_span("app")
        {
            let message = "`app` is the cluster of `[app]`; give this one another name";
            findings.add_pair(span, message, app, "`[app]` is here");
        }
        // A cluster that was wrong is still one that routes may name.
        let section = node.as_section();
        let of = |key| section.and_then(|section| section.whole(key));
        clusters.push(Cluster {
            name: name.clone(),
            policy: Policy::LeastInFlight,
            endpoints: section
                .map(|section| endpoints(section, findings))
                .unwrap_or_default(),
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

fn endpoints(cluster: &Section, findings: &mut Findings) -> Vec<Endpoint> {
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
        let text = |key| section.and_then(|section| section.text(key));
        let whole = |key| section.and_then(|section| section.whole(key));
        let endpoint = Endpoint {
            name: text("name").map_or_else(|| target.to_string(), str::to_owned),
            target,
            in_flight_max: whole("max_conns")
                .filter(|n| *n > 0)
                .and_then(|n| u32::try_from(n).ok()),
        };
        list.push((endpoint, address.span.clone()));
    }
    list.into_iter().map(|(endpoint, _)| endpoint).collect()
}

struct Routes<'a> {
    clusters: &'a [Cluster],
    has_app: bool,
    listeners: &'a [Listener],
    limits: &'a Limits,
    timeouts: &'a Timeouts,
    findings: &'a mut Findings,
}

impl Routes<'_> {
    fn resolve(mut self, root: &Section) -> Vec<Route> {
        let mut routes: Vec<Route> = Vec::new();
        let mut seen: Vec<(String, Range<usize>)> = Vec::new();
        for node in root.list("route") {
            let Some(section) = node.as_section() else {
                continue;
            };
            let route = self.route(section);
            // Expressions are shown as they were written.
            let conditions = format!("{:?}", route.matcher);
            match seen.iter().find(|(other, _)| *other == conditions) {
                Some((_, first)) => {
                    let message =
                        "this route has the conditions of an earlier one and would never be taken";
                    self.findings
                        .add_pair(&node.span, message, first, "the earlier one");
                }
                None => seen.push((conditions, node.span.clone())),
            }
            routes.push(route);
        }
        let everything = format!("{:?}", Matcher::default());
        if self.has_app && seen.iter().all(|(conditions, _)| *conditions != everything) {
            routes.push(Route::to_cluster(APP, self.limits, self.timeouts));
        }
        if routes.is_empty() && !root.has("route") {
            let message = "the file has no `[[route]]` and no `[app]`: nothing would be served";
            self.findings.add(&(0..0), message);
        }
        routes
    }

    fn route(&mut self, section: &Section) -> Route {
        let cluster = self.cluster(section);
        let below = self.clusters.iter().find(|other| other.name == cluster);
        let below = below.map_or(self.timeouts, |cluster| &cluster.timeouts);
        let limits = section.section("limits");
        Route {
            matcher: self.matcher(section),
            action: Action::Cluster(cluster),
            body_bytes: limits
                .and_then(|limits| limits.size_limit("body"))
                .unwrap_or(self.limits.body_bytes),
            timeouts: over(section.section("timeouts"), below),
        }
    }

    fn cluster(&mut self, section: &Section) -> String {
        let Some(node) = section.get("cluster") else {
            if !self.has_app && !section.has("cluster") {
                self.findings.add(
                    &section.span,
                    "[[route]] needs `cluster`: the name of a `[cluster.NAME]`",
                );
            }
            return APP.to_owned();
        };
        let name = node.as_text().unwrap_or_default();
        let mut names: Vec<&str> = self
            .clusters
            .iter()
            .map(|cluster| cluster.name.as_str())
            .collect();
        if self.has_app {
            names.push(APP);
        }
        if !names.contains(&name) {
            let help = match (nearest(name, names.iter().copied()), names.is_empty()) {
                (Some(meant), _) => format!("did you mean `{meant}`?"),
                (None, true) => format!("add `[cluster.{name}]` with `endpoints`"),
                (None, false) => format!("there is {}", names.join(", ")),
            };
            self.findings
                .add(&node.span, format!("there is no cluster `{name}`; {help}"));
        }
        name.to_owned()
    }

    fn matcher(&mut self, section: &Section) -> Matcher {
        let mut listeners = Vec::new();
        for (name, span) in section.texts("listener") {
            if !self.listeners.iter().any(|listener| listener.name == name) {
                let names = || self.listeners.iter().map(|listener| listener.name.as_str());
                let help = match nearest(name, names()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("there is {}", names().collect::<Vec<_>>().join(", ")),
                };
                self.findings
                    .add(span, format!("there is no listener `{name}`; {help}"));
            }
            listeners.push(name.to_owned());
        }
        let hosts = section.texts("host").filter_map(|(text, _)| {
            let host = values::host(text).ok()?;
            Some(match host.strip_prefix('*') {
                Some(below) => HostPattern::Below(below.to_owned()),
                None => HostPattern::Exact(host),
            })
        });
        Matcher {
            listeners,
            hosts: hosts.collect(),
            path: section
                .get("path")
                .and_then(|node| self.path(node))
                .unwrap_or_default(),
            methods: section
                .texts("method")
                .map(|(text, _)| text.to_owned())
                .collect(),
            headers: self.patterns(section, "header"),
            query: self.patterns(section, "query"),
        }
    }

    fn path(&mut self, node: &Node) -> Option<PathPattern> {
        if let Some(text) = node.as_text() {
            return Some(PathPattern::Prefix(text.to_owned()));
        }
        let section = node.as_section()?;
        let rule = self.only(
            section,
            &["prefix", "starts_with", "exact", "regex"],
            "path",
        )?;
        let text = section.text(rule)?.to_owned();
        Some(match rule {
            "prefix" => PathPattern::Prefix(text),
            "starts_with" => PathPattern::StartsWith(text),
            "exact" => PathPattern::Exact(text),
            _ => PathPattern::Regex(regex::bytes::Regex::new(&text).ok()?),
        })
    }

    fn patterns(&mut self, section: &Section, key: &'static str) -> Vec<(String, ValuePattern)> {
        let mut patterns = Vec::new();
        for (name, span, node) in section.named(key) {
            if key == "header"
                && let Err(error) = values::field_name(name)
            {
                self.findings.add(span, format!("`header`: {error}"));
            }
            if let Some(pattern) = self.pattern(node, key) {
                patterns.push((name.clone(), pattern));
            }
        }
        patterns
    }

    fn pattern(&mut self, node: &Node, key: &'static str) -> Option<ValuePattern> {
        if let Some(text) = node.as_text() {
            return Some(ValuePattern::Exact(text.to_owned()));
        }
        let section = node.as_section()?;
        match self.only(section, &["exact", "regex", "present"], key)? {
            "exact" => section
                .text("exact")
                .map(|text| ValuePattern::Exact(text.to_owned())),
            "regex" => regex::bytes::Regex::new(section.text("regex")?)
                .ok()
                .map(ValuePattern::Regex),
            _ if section.flag("present") => Some(ValuePattern::Present),
            _ => {
                let message = "`present` can only be `true`; leave it out otherwise";
                self.findings.add(&node.span, message);
                None
            }
        }
    }

    /// The one of several keys that a table has.
    fn only(
        &mut self,
        section: &Section,
        keys: &[&'static str],
        what: &str,
    ) -> Option<&'static str> {
        let given: Vec<&'static str> = keys
            .iter()
            .copied()
            .filter(|key| section.has(key))
            .collect();
        match given[..] {
            [one] => Some(one),
            [] => {
                let message = format!("`{what}` needs one of {}", keys.join(", "));
                self.findings.add(&section.span, message);
                None
            }
            [first, second, ..] => {
                let (one, other) = (section.key_span(first)?, section.key_span(second)?);
                let message =
                    format!("`{what}` has only one rule, not both `{first}` and `{second}`");
                self.findings.add_pair(
                    one.max_by_start(other),
                    message,
                    one.min_by_start(other),
                    "the first is here",
                );
                None
            }
        }
    }
}

trait ByStart {
    fn max_by_start<'a>(&'a self, other: &'a Self) -> &'a Self;
    fn min_by_start<'a>(&'a self, other: &'a Self) -> &'a Self;
}

impl ByStart for Range<usize> {
    fn max_by_start<'a>(&'a self, other: &'a Self) -> &'a Self {
        if self.start > other.start {
            self
        } else {
            other
        }
    }

    fn min_by_start<'a>(&'a self, other: &'a Self) -> &'a Self {
        if self.start > other.start {
            other
        } else {
            self
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
            Value::Time(time) => add(name, Some(time.as_secs_f64().to_string())),
            _ => {}
        }
    }
    App {
        target: section.text("target").map(str::to_owned),
        flags,
        offset: Some(section.span.start),
    }
}
