//! What the nursery says about gunicorn's settings, and what they mean on their own.

use std::path::Path;

use evener_config::Config;
use evener_edge::{Http2Terms, Relays, TrustedPeers};
use evener_net::ProxyVersion;
use evener_supervisor::Nursery;
use evener_telemetry::Level;
use serde_json::{Map, Value};

use crate::Failure;
use crate::logs::{Logs, Wanted};
use crate::resolve::Resolved;
use crate::run::config;
use crate::statsd::Statsd;

/// Settings that are read and checked, and that nothing here can obey, with the reason.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    (
        "asgi_disconnect_grace_period",
        "an application is told that its client has left, and is never cancelled for it",
    ),
    ("casefold_http_method", LENIENT),
    (
        "ciphers",
        "TLS is rustls, whose cipher suites are all strong",
    ),
    ("dirty_apps", DIRTY),
    ("dirty_graceful_timeout", DIRTY),
    ("dirty_post_fork", DIRTY),
    ("dirty_threads", DIRTY),
    ("dirty_timeout", DIRTY),
    ("dirty_worker_exit", DIRTY),
    ("dirty_worker_init", DIRTY),
    (
        "do_handshake_on_connect",
        "handshakes never keep others waiting",
    ),
    (
        "forwarder_headers",
        "they are WSGI's: an ASGI application gets every header field as it is",
    ),
    (
        "header_map",
        "it is WSGI's: an ASGI application gets every header field as it is",
    ),
    (
        "http_parser",
        "there is one parser, and it is the strict one",
    ),
    (
        "http2_initial_window_size",
        "windows are as large as buffers, which have bounds of their own",
    ),
    ("http2_max_frame_size", "frames have the size of RFC 9113"),
    (
        "http2_max_header_list_size",
        "fields have the same bounds in every version of HTTP",
    ),
    ("on_dirty_starting", DIRTY),
    ("permit_obsolete_folding", LENIENT),
    ("permit_unconventional_http_method", LENIENT),
    ("permit_unconventional_http_version", LENIENT),
    (
        "raw_paste_global_conf",
        "PasteDeploy applications are WSGI, not ASGI",
    ),
    ("reload_engine", "files are watched by inotify"),
    (
        "reuse_port",
        "workers have sockets of their own behind the one that clients connect to",
    ),
    (
        "secure_scheme_headers",
        "X-Forwarded-Proto tells the scheme, as with uvicorn's worker class",
    ),
    ("sendfile", "ASGI applications send their files themselves"),
    (
        "ssl_context",
        "TLS is rustls, which takes no context of Python's",
    ),
    (
        "ssl_version",
        "TLS 1.2 and 1.3 are spoken, and nothing older",
    ),
    ("strip_header_spaces", LENIENT),
    ("suppress_ragged_eofs", "there are no sockets of Python's"),
    (
        "threads",
        "each worker serves on one event loop, as uvicorn's worker class does",
    ),
    (
        "uwsgi_allow_ips",
        "HTTP is spoken, and not uwsgi's protocol",
    ),
    (
        "worker_tmp_dir",
        "workers are watched through shared memory, not by a file that could be slow",
    ),
];

/// Why what concerns gunicorn's dirty workers is not obeyed.
const DIRTY: &str = "there are no dirty workers here";
/// Why what would let malformed requests in is not obeyed.
const LENIENT: &str = "what is no proper HTTP is refused before any worker sees it";

/// What the nursery says about the settings.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) values: Map<String, Value>,
    pub(super) given: Vec<String>,
    /// Those of them that are not what they are anyway.
    pub(super) changed: Vec<String>,
    pub(super) sources: Map<String, Value>,
    /// What the worker class sets.
    pub(super) kwargs: Map<String, Value>,
    pub(super) logs: Value,
    pub(super) notes: Vec<String>,
    pub(super) target: String,
    pub(super) directory: String,
}

impl Loaded {
    pub(super) fn of(mut loaded: Value) -> Loaded {
        let map = |value: Value| match value {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let texts = |value: &Value| {
            let items = value.as_array().into_iter().flatten();
            items
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect()
        };
        Loaded {
            given: texts(&loaded["given"]),
            changed: texts(&loaded["changed"]),
            notes: texts(&loaded["notes"]),
            target: loaded["target"].as_str().unwrap_or_default().to_owned(),
            directory: loaded["directory"].as_str().unwrap_or(".").to_owned(),
            logs: loaded["logs"].take(),
            values: map(loaded["values"].take()),
            sources: map(loaded["sources"].take()),
            kwargs: map(loaded["kwargs"].take()),
        }
    }

    pub(super) fn value(&self, name: &str) -> &Value {
        self.values.get(name).unwrap_or(&Value::Null)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.value(name).as_str()
    }

    pub(super) fn number(&self, name: &str) -> u64 {
        self.value(name).as_u64().unwrap_or(0)
    }

    /// A bound that was asked for; 0 is none. gunicorn's own bounds are not those of uvicorn's
    /// worker class, which has none.
    pub(super) fn bound(&self, name: &str) -> usize {
        match self.number(name) {
            given if given > 0 && self.has(name) => usize::try_from(given).unwrap_or(usize::MAX),
            _ => usize::MAX,
        }
    }

    /// What the worker class sets.
    pub(super) fn kwarg(&self, name: &str) -> Option<String> {
        match self.kwargs.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Null) | None => None,
            Some(other) => Some(other.to_string()),
        }
    }

    /// A user, group or mask.
    pub(super) fn id(&self, name: &str) -> u32 {
        u32::try_from(self.number(name)).unwrap_or(u32::MAX)
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.value(name).as_bool().unwrap_or(false)
    }

    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        let items = self.value(name).as_array().into_iter().flatten();
        items.filter_map(Value::as_str).collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.given.iter().any(|given| given == name)
    }

    /// An error about a setting, with the place that gave it its value.
    pub(super) fn refuse(&self, name: &str, why: &str) -> Failure {
        Failure::usage(format!("{}: {name}: {why}", self.source(name)))
    }

    /// Where a setting got its value.
    pub(super) fn source(&self, name: &str) -> &str {
        let source = self.sources.get(name).and_then(Value::as_str);
        source.unwrap_or("?")
    }

    /// The data plane. HTTP/2 is spoken as everywhere in Evener, unless the file says which versions
    /// are.
    pub(super) fn config(&self, resolved: &Resolved) -> Config {
        let mut config = config(resolved);
        let named = self.list("http_protocols").contains(&"h2");
        let carried =
            resolved.tls.is_some() || self.text("http2_cleartext") == Some("prior-knowledge");
        let spoken = !self.has("http_protocols") || named && carried;
        let streams = self.number("http2_max_concurrent_streams").max(1);
        for listener in &mut config.listeners {
            listener.http2 = spoken.then(|| match self.has("http2_max_concurrent_streams") {
                true => Http2Terms {
                    streams_max: u32::try_from(streams).unwrap_or(u32::MAX),
                },
                false => Http2Terms::default(),
            });
        }
        config
    }

    /// Who relays connections to us. As in gunicorn, those who may say whose a connection is need
    /// not, and on unix sockets everybody may.
    pub(super) fn relays(&self) -> Result<Option<Relays>, Failure> {
        let version = match self.text("proxy_protocol") {
            None | Some("off") => return Ok(None),
            Some("v1") => Some(ProxyVersion::V1),
            Some("v2") => Some(ProxyVersion::V2),
            Some(_) => None,
        };
        let mut from = self.list("proxy_allow_ips");
        from.push("unix");
        let from = TrustedPeers::parse(&from.join(","));
        Ok(Some(Relays {
            from: from.map_err(|error| self.refuse("proxy_allow_ips", &error.to_string()))?,
            version,
            required: false,
        }))
    }

    /// The logs as they are asked for.
    pub(super) fn logs(&self, nursery: &Nursery, level: Level) -> Result<Logs, String> {
        let said = |name: &str| self.logs[name].as_bool().unwrap_or(false);
        let wanted = Wanted {
            level,
            errors: self.text("errorlog"),
            access: self.text("accesslog"),
            format: self.text("access_log_format").unwrap_or_default(),
            errors_in_python: said("errors_in_python"),
            access_in_python: said("access_in_python"),
            utc_offset: self.logs["utc_offset"]
                .as_i64()
                .and_then(|seconds| i32::try_from(seconds).ok())
                .unwrap_or(0),
            folder: Path::new(&self.directory),
            owner: (self.id("uid"), self.id("gid")),
        };
        Logs::open(&wanted, nursery)
    }

    /// The statsd server, if there is one; one that cannot be found is said, and done without.
    pub(super) fn statsd(&self, notes: &mut Vec<String>) -> Option<Statsd> {
        let address = self.text("statsd_host")?;
        let text = |name| self.text(name).unwrap_or_default();
        let (prefix, tags) = (text("statsd_prefix"), text("dogstatsd_tags"));
        match Statsd::new(address, prefix, tags, self.is("enable_backlog_metric")) {
            Ok(statsd) => Some(statsd),
            Err(error) => {
                let source = self.source("statsd_host");
                notes.push(format!("{source}: statsd_host: {address}: {error}"));
                None
            }
        }
    }

    /// What was asked for and changes nothing, one line each.
    pub(super) fn without_effect(&self) -> Vec<String> {
        let is_changed = |name: &str| self.changed.iter().any(|changed| changed == name);
        let listed = WITHOUT_EFFECT.iter().filter(|(name, _)| is_changed(name));
        listed
            .map(|(name, why)| format!("{}: {name} has no effect: {why}", self.source(name)))
            .collect()
    }
}
