//! Stage 3: which route a request takes, and so which cluster it goes to.
//!
//! Of the routes whose conditions all hold, the most specific is taken: by host (exact, then the
//! longest `*.`, then any), by path (exact, then expressions, then the longest prefix), by the
//! number of other conditions, by the order in which they were written. Finding it allocates
//! nothing. Paths are compared in their normal form, so that a route cannot be got round by writing
//! its path in another way (nginx compares so too); what is sent on is the path as it came.

use std::collections::HashMap;
use std::sync::Arc;

use evener_config::{
    Action, Backoff, BalanceKey, Binding, Buffering, Fallback, Filters, Fixed, HostPattern,
    Matcher, PathPattern, Resend, Route, Template, Timeouts, ValuePattern,
};
use evener_http1::{Fields, RequestHead, TargetForm};
use evener_policy::hedge;
use evener_policy::shed::Importance;

use crate::cluster::Cluster;

/// Routes, the most specific first.
type Routes = Vec<Arc<ActiveRoute>>;

/// The routes of one shard. Each shard makes its own, so that counting who uses a route, and the
/// memory that expressions work in, is no business between shards.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    /// Before all others.
    first: Routes,
    exact: HashMap<Box<[u8]>, Routes>,
    /// By what a host ends in, longest first.
    below: Vec<(Box<[u8]>, Routes)>,
    any: Routes,
    /// The host in small letters, and the path in its normal form, when they did not come so.
    host: Vec<u8>,
    path: Vec<u8>,
}

/// A route as requests are held to it.
#[derive(Debug)]
pub(crate) struct ActiveRoute {
    /// Where requests go, if they do.
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) body_bytes: Option<u64>,
    pub(crate) timeouts: Timeouts,
    /// What the cluster's method tells requests apart by.
    pub(crate) key: BalanceKey,
    /// What a request carries that is bound to an endpoint.
    pub(crate) sticky: Option<Template>,
    /// When a request may go to another endpoint.
    pub(crate) resend: Resend,
    /// How long a request waits before another try.
    pub(crate) backoff: Option<Backoff>,
    /// When a request goes to another endpoint as well.
    pub(crate) hedge: Option<hedge::Settings>,
    /// What becomes of requests that the cluster does not take.
    pub(crate) fallback: Option<ActiveFallback>,
    /// How important its requests are to the cluster.
    pub(crate) importance: Importance,
    /// What of bodies is kept.
    pub(crate) buffering: Buffering,
    /// What is done besides passing requests on, if anything is.
    pub(crate) treatment: Option<Box<Treatment>>,
    conditions: Conditions,
}

/// What becomes of requests that a cluster does not take.
#[derive(Debug)]
pub(crate) enum ActiveFallback {
    Cluster(Arc<Cluster>),
    Answer(Fixed),
}

/// What a route does besides passing requests on.
#[derive(Debug)]
pub(crate) struct Treatment {
    pub(crate) action: Action,
    pub(crate) filters: Filters,
    pub(crate) binding: Option<Binding>,
}

impl Treatment {
    fn of(route: &Route) -> Option<Box<Treatment>> {
        let plain = matches!(route.action, Action::Cluster(_))
            && route.filters.is_empty()
            && route.binding.is_none();
        (!plain).then(|| {
            Box::new(Treatment {
                action: route.action.clone(),
                filters: route.filters.clone(),
                binding: route.binding.clone(),
            })
        })
    }
}

#[derive(Debug)]
struct Conditions {
    listeners: Vec<usize>,
    path: PathPattern,
    methods: Vec<String>,
    headers: Vec<(String, ValuePattern)>,
    query: Vec<(String, ValuePattern)>,
}

/// What of a request decides about its route.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) listener: usize,
    pub(crate) bytes: &'a [u8],
    pub(crate) head: &'a RequestHead,
    pub(crate) fields: &'a Fields,
}

/// Where a listener's name is in the table of listeners.
pub(crate) type ListenerNames = [(String, usize)];

impl RouteTable {
    /// Makes the routes ready. A route to a cluster that is not there is left out.
    pub(crate) fn new(
        routes: &[Route],
        clusters: &[Arc<Cluster>],
        listeners: &ListenerNames,
    ) -> RouteTable {
        let mut ordered: Vec<&Route> = routes.iter().collect();
        ordered.sort_by_key(|route| specificity(&route.matcher));
        let mut table = RouteTable::default();
        for route in ordered {
            let named = |name: &str| clusters.iter().find(|cluster| cluster.name() == name);
            let cluster = match route.action.cluster() {
                Some(name) => match named(name) {
                    Some(cluster) => Some(cluster.clone()),
                    None => continue,
                },
                None => None,
            };
            let active = Arc::new(ActiveRoute {
                cluster,
                body_bytes: route.body_bytes,
                timeouts: route.timeouts.clone(),
                key: route.key.clone(),
                sticky: route.sticky.clone(),
                resend: route.resend,
                backoff: route.backoff,
                hedge: route.hedge,
                fallback: match &route.fallback {
                    Some(Fallback::Cluster(name)) => {
                        named(name).cloned().map(ActiveFallback::Cluster)
                    }
                    Some(Fallback::Answer(fixed)) => Some(ActiveFallback::Answer(fixed.clone())),
                    None => None,
                },
                importance: route.importance,
                buffering: route.buffering,
                treatment: Treatment::of(route),
                conditions: Conditions::new(&route.matcher, listeners),
            });
            if route.first {
                table.first.push(active);
            } else {
                table.insert(&route.matcher.hosts, &active);
            }
        }
        table
            .below
            .sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        table
    }

    fn insert(&mut self, hosts: &[HostPattern], route: &Arc<ActiveRoute>) {
        if hosts.is_empty() {
            self.any.push(route.clone());
        }
        for host in hosts {
            match host {
                HostPattern::Exact(name) => {
                    let list = self.exact.entry(name.as_bytes().into()).or_default();
                    list.push(route.clone());
                }
                HostPattern::Below(suffix) => {
                    let known = self.below.iter_mut();
                    let mut known = known.filter(|(other, _)| **other == *suffix.as_bytes());
                    match known.next() {
                        Some((_, list)) => list.push(route.clone()),
                        None => self
                            .below
                            .push((suffix.as_bytes().into(), vec![route.clone()])),
                    }
                }
            }
        }
    }

    /// The route of a request.
    pub(crate) fn find(&mut self, asked: &Asked<'_>) -> Option<&Arc<ActiveRoute>> {
        let target = asked.head.path_and_query(asked.bytes);
        let (path, query) = split_query(target);
        let path = normal_path(path, &mut self.path);
        let holds = |route: &&Arc<ActiveRoute>| route.conditions.hold(asked, path, query);
        if !self.first.is_empty()
            && let Some(route) = self.first.iter().find(holds)
        {
            return Some(route);
        }
        if self.exact.is_empty() && self.below.is_empty() {
            return self.any.iter().find(holds);
        }
        let host = normal_host(asked, &mut self.host);
        let below = self
            .below
            .iter()
            .filter(|(suffix, _)| host.ends_with(suffix));
        self.exact
            .get(host)
            .into_iter()
            .chain(below.map(|(_, list)| list))
            .chain([&self.any])
            .flatten()
            .find(holds)
    }
}

impl ActiveRoute {
    /// The expression that its paths are held to.
    pub(crate) fn expression(&self) -> Option<&regex::bytes::Regex> {
        match &self.conditions.path {
            PathPattern::Regex(regex) => Some(regex),
            _ => None,
        }
    }
}

impl Conditions {
    fn new(matcher: &Matcher, listeners: &ListenerNames) -> Conditions {
        let places = listeners
            .iter()
            .filter(|(name, _)| matcher.listeners.contains(name))
            .map(|(_, place)| *place);
        let mut places: Vec<usize> = places.collect();
        if places.is_empty() && !matcher.listeners.is_empty() {
            // It names listeners that are not there: nothing may come to it.
            places.push(usize::MAX);
        }
        Conditions {
            listeners: places,
            path: matcher.path.clone(),
            methods: matcher.methods.clone(),
            headers: matcher.headers.clone(),
            query: matcher.query.clone(),
        }
    }

    fn hold(&self, asked: &Asked<'_>, path: &[u8], query: &[u8]) -> bool {
        let method = asked.head.method_span.of(asked.bytes);
        (self.listeners.is_empty() || self.listeners.contains(&asked.listener))
            && path_fits(&self.path, path)
            && (self.methods.is_empty() || self.methods.iter().any(|one| one.as_bytes() == method))
            && self.headers.iter().all(|(name, pattern)| {
                asked.fields.iter().any(|field| {
                    let value = field.value.of(asked.bytes);
                    field
                        .name
                        .of(asked.bytes)
                        .eq_ignore_ascii_case(name.as_bytes())
                        && value_fits(pattern, value)
                })
            })
            && self.query.iter().all(|(name, pattern)| {
                arguments(query)
                    .any(|(key, value)| key == name.as_bytes() && value_fits(pattern, value))
            })
    }
}

/// What sorts before is tried before; the sort is stable, so that the order of writing decides
/// between equals.
fn specificity(matcher: &Matcher) -> (u8, usize, usize) {
    let (class, length) = match &matcher.path {
        PathPattern::Exact(_) => (0, 0),
        PathPattern::Regex(_) => (1, 0),
        PathPattern::Prefix(prefix) | PathPattern::StartsWith(prefix) => (2, prefix.len()),
    };
    let others = [matcher.listeners.is_empty(), matcher.methods.is_empty()];
    let others = others.iter().filter(|empty| !**empty).count();
    let conditions = others + matcher.headers.len() + matcher.query.len();
    (class, usize::MAX - length, usize::MAX - conditions)
}

fn path_fits(pattern: &PathPattern, path: &[u8]) -> bool {
    match pattern {
        PathPattern::Exact(exact) => exact.as_bytes() == path,
        PathPattern::Regex(regex) => regex.is_match(path),
        PathPattern::StartsWith(prefix) => path.starts_with(prefix.as_bytes()),
        PathPattern::Prefix(prefix) => {
            path.starts_with(prefix.as_bytes())
                && (prefix.ends_with('/') || matches!(path.get(prefix.len()), None | Some(b'/')))
        }
    }
}

fn value_fits(pattern: &ValuePattern, value: &[u8]) -> bool {
    match pattern {
        ValuePattern::Present => true,
        ValuePattern::Exact(exact) => exact.as_bytes() == value,
        ValuePattern::Regex(regex) => regex.is_match(value),
    }
}

/// A target as path and query, which may be empty.
pub(crate) fn split_query(target: &[u8]) -> (&[u8], &[u8]) {
    match target.iter().position(|&byte| byte == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, b""),
    }
}

/// Names and values in a query, as they were written.
pub(crate) fn arguments(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    query
        .split(|&byte| byte == b'&')
        .filter(|item| !item.is_empty())
        .map(|item| match item.iter().position(|&byte| byte == b'=') {
            Some(at) => (&item[..at], &item[at + 1..]),
            None => (item, &b""[..]),
        })
}

/// Appends the host that a request is for, as [`Variable::Host`] has it.
///
/// [`Variable::Host`]: evener_config::Variable::Host
pub(crate) fn push_host(asked: &Asked<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(host_name(asked));
    out[start..].make_ascii_lowercase();
}

/// The host that a request is for, without port and final dot, in small letters.
fn normal_host<'a>(asked: &Asked<'a>, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let name = host_name(asked);
    if !name.iter().any(u8::is_ascii_uppercase) {
        return name;
    }
    scratch.clear();
    scratch.extend(name.iter().map(u8::to_ascii_lowercase));
    scratch
}

fn host_name<'a>(asked: &Asked<'a>) -> &'a [u8] {
    let authority = match (asked.head.form, asked.head.host) {
        (TargetForm::Absolute { authority, .. }, _) => authority.of(asked.bytes),
        (_, Some(host)) => host.of(asked.bytes),
        _ => b"",
    };
    let name_end = match authority.iter().rposition(|&byte| byte == b':') {
        Some(at) if authority[at + 1..].iter().all(u8::is_ascii_digit) => at,
        _ => authority.len(),
    };
    let name = &authority[..name_end];
    name.strip_suffix(b".").unwrap_or(name)
}

/// A path with its escapes decoded, without `.` and `..` segments and doubled slashes. Most paths
/// are so already, and are returned as they are.
pub(crate) fn normal_path<'a>(path: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    if is_normal(path) {
        return path;
    }
    scratch.clear();
    push_normal_path(path, scratch);
    scratch
}

fn is_normal(path: &[u8]) -> bool {
    let mut before = b'x';
    !path.iter().any(|&byte| {
        let odd = byte == b'%' || before == b'/' && matches!(byte, b'/' | b'.');
        before = byte;
        odd
    })
}

/// Appends a path in its normal form.
pub(crate) fn push_normal_path(path: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let mut rest = path;
    loop {
        let (byte, used) = match rest {
            [] => break,
            [b'%', high, low, ..] => match (hexadecimal(*high), hexadecimal(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'%', 1),
            },
            [byte, ..] => (*byte, 1),
        };
        rest = &rest[used..];
        if byte == b'/' {
            end_segment(out, start);
            if out.len() > start && out.last() == Some(&b'/') {
                continue;
            }
        }
        out.push(byte);
    }
    end_segment(out, start);
}

/// A segment of the path that begins at `start` is complete: `.` and `..` are resolved.
fn end_segment(out: &mut Vec<u8>, start: usize) {
    let after_slash = |path: &[u8]| {
        let slash = path.iter().rposition(|&byte| byte == b'/');
        slash.map_or(0, |at| at + 1)
    };
    let segment = start + after_slash(&out[start..]);
    match &out[segment..] {
        b"." => out.truncate(segment),
        b".." => {
            out.truncate(segment);
            if segment > start + 1 {
                let parent = start + after_slash(&out[start..segment - 1]);
                out.truncate(parent);
            }
        }
        _ => {}
    }
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use evener_http1::{HeadLimits, parse_request};

    use super::*;

    fn normal(path: &str) -> String {
        let mut scratch = Vec::new();
        String::from_utf8(normal_path(path.as_bytes(), &mut scratch).to_vec()).unwrap()
    }

    #[test]
    fn a_path_has_one_normal_form_however_it_is_written() {
        for (path, expected) in [
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/%61dmin", "/admin"),
            ("/a%2Fb", "/a/b"),
            ("//a///b", "/a/b"),
            ("/a/./b/.", "/a/b/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/../../a", "/a"),
            ("/..", "/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/..%2fb", "/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
            ("/%zz%4", "/%zz%4"),
            ("*", "*"),
        ] {
            assert_eq!(normal(path), expected, "{path}");
        }
    }

    /// The cluster that a request for `target` at `host` goes to.
    fn taken(file: &str, listener: usize, request: &str) -> Option<String> {
        let head = "[[listener]]\naddress = \"127.0.0.1:1\"\nname = \"out\"\n\
            [[listener]]\naddress = \"127.0.0.1:2\"\nname = \"in\"\n";
        let names = ["a", "b", "c", "d", "e"];
        let clusters =
            names.map(|name| format!("[cluster.{name}]\nendpoints = [\"unix:/{name}\"]\n"));
        let text = format!("{head}{}{file}", clusters.concat());
        let config = evener_config::read("f", &text, &|_| None).unwrap_or_else(|e| panic!("{e}"));
        let clusters: Vec<_> = names.iter().map(|name| Cluster::new(name, 1)).collect();
        let listeners = [("out".to_owned(), 0), ("in".to_owned(), 1)];
        let mut table = RouteTable::new(&config.routes, &clusters, &listeners);
        let bytes = format!("{request}\r\n\r\n")
            .replace('\n', "\r\n")
            .replace("\r\r", "\r");
        let mut fields = Fields::new();
        let limits = HeadLimits::default();
        let head = parse_request(bytes.as_bytes(), &mut fields, &limits)
            .unwrap()
            .unwrap();
        let asked = Asked {
            listener,
            bytes: bytes.as_bytes(),
            head: &head,
            fields: &fields,
        };
        table
            .find(&asked)
            .and_then(|route| Some(route.cluster.as_ref()?.name().to_owned()))
    }

    #[test]
    fn the_most_specific_route_is_taken() {
        let file = "[[route]]\ncluster = \"a\"\n\
            [[route]]\npath = \"/api\"\ncluster = \"b\"\n\
            [[route]]\npath = { regex = \"[.]png$\" }\ncluster = \"c\"\n\
            [[route]]\npath = { exact = \"/api/x.png\" }\ncluster = \"d\"\n\
            [[route]]\npath = \"/api\"\nmethod = \"POST\"\ncluster = \"e\"\n";
        for (request, cluster) in [
            ("GET / HTTP/1.1\nHost: h", "a"),
            ("GET /apix HTTP/1.1\nHost: h", "a"),
            ("GET /api HTTP/1.1\nHost: h", "b"),
            ("GET /api?x HTTP/1.1\nHost: h", "b"),
            ("GET /api/y HTTP/1.1\nHost: h", "b"),
            ("GET /x/%2e%2e/ap%69/y HTTP/1.1\nHost: h", "b"),
            ("POST /api/y HTTP/1.1\nHost: h\nContent-Length: 0", "e"),
            ("GET /api/z.png HTTP/1.1\nHost: h", "c"),
            ("GET /api/x.png HTTP/1.1\nHost: h", "d"),
        ] {
            assert_eq!(
                taken(file, 0, request).as_deref(),
                Some(cluster),
                "{request}"
            );
        }
    }

    #[test]
    fn hosts_come_before_paths() {
        let file = "[[route]]\ncluster = \"a\"\nhost = \"*.example.com\"\n\
            [[route]]\ncluster = \"b\"\nhost = \"*.dev.example.com\"\n\
            [[route]]\ncluster = \"c\"\nhost = [\"example.com\", \"www.example.com\"]\n\
            [[route]]\ncluster = \"d\"\npath = \"/health\"\n";
        for (host, path, cluster) in [
            ("x.example.com", "/health", Some("a")),
            ("x.dev.Example.COM:8080", "/", Some("b")),
            ("www.example.com.", "/", Some("c")),
            ("example.com", "/", Some("c")),
            ("notexample.com", "/", None),
            ("other", "/health", Some("d")),
            ("[::1]:80", "/health", Some("d")),
        ] {
            let request = format!("GET {path} HTTP/1.1\nHost: {host}");
            assert_eq!(taken(file, 0, &request).as_deref(), cluster, "{request}");
        }
        let absolute = "GET http://example.com/ HTTP/1.1\nHost: example.com";
        assert_eq!(taken(file, 0, absolute).as_deref(), Some("c"));
    }

    #[test]
    fn listeners_header_fields_and_arguments() {
        let file = "[[route]]\ncluster = \"a\"\n\
            [[route]]\ncluster = \"b\"\nlistener = \"in\"\n\
            [[route]]\ncluster = \"c\"\nlistener = \"in\"\nheader = { x-version = \"2\" }\n\
            [[route]]\ncluster = \"d\"\nheader = { X-Any = { present = true }, X-V = { regex = \"^[0-9]+$\" } }\n\
            [[route]]\ncluster = \"e\"\nquery = { q = \"1\", r = { present = true } }\n";
        for (listener, request, cluster) in [
            (0, "GET / HTTP/1.1\nHost: h", "a"),
            (1, "GET / HTTP/1.1\nHost: h", "b"),
            (0, "GET / HTTP/1.1\nHost: h\nX-Version: 2", "a"),
            (1, "GET / HTTP/1.1\nHost: h\nX-Version: 2", "c"),
            (1, "GET / HTTP/1.1\nHost: h\nX-Version: 22", "b"),
            (0, "GET / HTTP/1.1\nHost: h\nX-Any: \nX-V: 12", "d"),
            (0, "GET / HTTP/1.1\nHost: h\nX-Any: \nX-V: 1a", "a"),
            (0, "GET /?r&q=1 HTTP/1.1\nHost: h", "e"),
            (0, "GET /?r&q=12 HTTP/1.1\nHost: h", "a"),
        ] {
            assert_eq!(
                taken(file, listener, request).as_deref(),
                Some(cluster),
                "{request}"
            );
        }
    }
}
