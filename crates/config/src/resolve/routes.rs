//! `[[route]]`: which requests, and what becomes of them.

use std::ops::Range;

use evener_policy::shed::Importance;

use super::{APP, filters, only, over};
use crate::error::Findings;
use crate::filters::Redirect;
use crate::model::{
    Action, Cluster, HostPattern, Limits, Listener, Matcher, PathPattern, Route, Timeouts,
    ValuePattern,
};
use crate::near::nearest;
use crate::template::Template;
use crate::typed::{Node, Section};
use crate::values;

/// What routes are resolved against.
pub(super) struct Routes<'a> {
    pub(super) clusters: &'a [Cluster],
    pub(super) has_app: bool,
    pub(super) listeners: &'a [Listener],
    pub(super) limits: &'a Limits,
    pub(super) timeouts: &'a Timeouts,
    pub(super) findings: &'a mut Findings,
}

impl Routes<'_> {
    /// The routes of the file, in its order.
    pub(super) fn resolve(mut self, root: &Section) -> Vec<Route> {
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
        routes.extend(
            self.listeners
                .iter()
                .filter_map(|listener| self.to_https(listener)),
        );
        let everything = format!("{:?}", Matcher::default());
        if self.has_app && seen.iter().all(|(conditions, _)| *conditions != everything) {
            routes.push(self.to(Action::Cluster(APP.to_owned())));
        }
        if routes.is_empty() && !root.has("route") {
            let message = "the file has no `[[route]]` and no `[app]`: nothing would be served";
            self.findings.add(&(0..0), message);
        }
        routes
    }

    fn route(&mut self, section: &Section) -> Route {
        let action = self.action(section);
        let filters = filters::filters(section, self.findings);
        self.refuse_idle_filters(section, &action);
        let limits = section.section("limits");
        let all = self.to(action);
        Route {
            matcher: self.matcher(section),
            body_bytes: limits
                .and_then(|limits| limits.size_limit("body"))
                .unwrap_or(all.body_bytes),
            timeouts: over(section.section("timeouts"), &all.timeouts),
            importance: match section.text("importance") {
                Some("low") => Importance::Low,
                Some("high") => Importance::High,
                Some("critical") => Importance::Critical,
                _ => Importance::Normal,
            },
            buffering: super::buffering(section, all.buffering),
            filters,
            ..all
        }
    }

    /// The route of all requests, by the terms of the cluster that they go to.
    fn to(&self, action: Action) -> Route {
        let usual = Route::to_cluster("", self.limits, self.timeouts);
        let goes_to = action.cluster();
        let goes_to = goes_to.and_then(|name| self.clusters.iter().find(|one| one.name == name));
        let Some(cluster) = goes_to else {
            return Route { action, ..usual };
        };
        Route {
            action,
            timeouts: cluster.timeouts.clone(),
            key: cluster.key.clone(),
            sticky: cluster.sticky.clone(),
            binding: cluster.binding.clone(),
            resend: cluster.resend,
            backoff: cluster.sharing.backoff,
            hedge: cluster.sharing.hedge,
            fallback: cluster.fallback.clone(),
            buffering: cluster.buffering,
            ..usual
        }
    }

    /// The route of a listener that sends everybody to `https`.
    fn to_https(&self, listener: &Listener) -> Option<Route> {
        let to = match listener.https_redirect? {
            443 => "https://$host$request_uri".to_owned(),
            port => format!("https://$host:{port}$request_uri"),
        };
        Some(Route {
            matcher: Matcher {
                listeners: vec![listener.name.clone()],
                ..Matcher::default()
            },
            action: Action::Redirect(Redirect {
                to: Template::parse(&to).ok()?,
                status: 308,
            }),
            first: true,
            ..Route::to_cluster("", self.limits, self.timeouts)
        })
    }

    fn action(&mut self, section: &Section) -> Action {
        let own = ["redirect", "respond", "files"];
        let given: Vec<&str> = own.into_iter().filter(|key| section.has(key)).collect();
        let with_cluster = section.key_span("cluster").map(|span| ("cluster", span));
        let other = match given[..] {
            [] | ["files"] => None,
            [one] => with_cluster.map(|cluster| (one, cluster)),
            [first, second, ..] => section.key_span(first).map(|span| (second, (first, span))),
        };
        if let Some((one, (name, span))) = other
            && let Some(own) = section.key_span(one)
        {
            let message = format!("a route has only one of `{name}` and `{one}`");
            self.findings
                .add_pair(own, message, span, "the other is here");
        }
        match given.first() {
            Some(&"redirect") => filters::redirect(section),
            Some(&"respond") => filters::respond(section),
            Some(_) => Action::Files {
                otherwise: section.has("cluster").then(|| self.cluster(section)),
                files: filters::files(section, self.findings),
            },
            None => Action::Cluster(self.cluster(section)),
        }
    }

    /// Keys that are about what a cluster gets mean nothing where there is none.
    fn refuse_idle_filters(&mut self, section: &Section, action: &Action) {
        let local = matches!(action, Action::Redirect(_) | Action::Respond(_));
        let keys: &[&str] = match (local, action.cluster()) {
            (true, _) => &[
                "strip_prefix",
                "rewrite",
                "request_fields",
                "compress",
                "buffer_requests",
                "buffer_responses",
            ],
            (false, None) => &["request_fields", "buffer_requests", "buffer_responses"],
            (false, Some(_)) => &[],
        };
        for key in keys {
            if let Some(span) = section.key_span(key) {
                let message = format!("`{key}` has no effect here: nothing is sent to a cluster");
                self.findings.add(span, message);
            }
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
        if self.has_app && !names.contains(&APP) {
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
        let rule = only(
            section,
            &["prefix", "starts_with", "exact", "regex"],
            "path",
            self.findings,
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
        match only(section, &["exact", "regex", "present"], key, self.findings)? {
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
}
