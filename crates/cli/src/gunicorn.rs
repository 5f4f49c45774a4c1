//! `evener gunicorn`: gunicorn's settings, as the nursery has read them, become a run of ours.
//!
//! The nursery holds the command line, the configuration file and the hooks; here is what the
//! values mean for listeners, limits, logs and workers.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use evener_edge::{Limits, Timeouts};
use evener_supervisor::{NurseryRecipe, NurserySettings, Recipe, Reconfigure, Reconfigured, SetUp};
use evener_telemetry::{Level, Log, LogFormat};
use serde_json::{Map, Value};

use crate::Failure;
use crate::args::{Command, CommandLine};
use crate::nursery::{self, Host, Manners};
use crate::pidfile::Pidfile;
use crate::resolve::{Resolved, Surroundings, Worker, resolve};
use crate::run::config;
use crate::sockets::{Address, OLDER, Owner, Sockets};
use crate::start::{App, Start, runtime};
use crate::systemd::Activated;
use crate::{cpus, python};

/// Set for the process that a daemon goes on in.
const BACKGROUND: &str = "EVENER_BACKGROUND";

/// Runs until it is told to stop.
pub(crate) fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let runtime = runtime()?;
    let interpreter = python::find().map_err(Failure::usage)?;
    let settings = NurserySettings {
        interpreter,
        gunicorn: Some(arguments.to_vec()),
        environment: Vec::new(),
    };
    let log = Log::new(Level::Info, LogFormat::Text { colors: false });
    let (host, loaded) = runtime
        .block_on(nursery::start(settings, log))
        .map_err(nursery::failure)?;
    let settings = Loaded::of(loaded);
    if settings.is("daemon") && std::env::var_os(BACKGROUND).is_none() {
        return background();
    }
    begin(host, settings)?.run_on(&runtime, Vec::new())
}

/// Goes on in a process of its own session, without a terminal.
fn background() -> Result<(), Failure> {
    let system =
        |error: std::io::Error| Failure::system(format!("cannot go on as a daemon: {error}"));
    let program = std::env::current_exe().map_err(system)?;
    let mut command = Process::new(program);
    command
        .args(std::env::args_os().skip(1))
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec only `setsid` is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| match libc::setsid() {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    command.spawn().map(drop).map_err(system)
}

/// Settings that are read and checked, and that nothing here obeys.
const WITHOUT_EFFECT: &[&str] = &[
    "access_log_format",
    "asgi_disconnect_grace_period",
    "casefold_http_method",
    "control_socket",
    "dogstatsd_tags",
    "enable_backlog_metric",
    "enable_stdio_inheritance",
    "forwarder_headers",
    "header_map",
    "http_protocols",
    "limit_request_field_size",
    "limit_request_line",
    "permit_obsolete_folding",
    "permit_unconventional_http_method",
    "permit_unconventional_http_version",
    "pre_exec",
    "reload_engine",
    "reload_extra_files",
    "reuse_port",
    "spew",
    "ssl_context",
    "statsd_host",
    "statsd_prefix",
    "strip_header_spaces",
    "timeout",
    "worker_tmp_dir",
];

/// What the nursery says about the settings.
#[derive(Debug, Clone)]
struct Loaded {
    values: Map<String, Value>,
    given: Vec<String>,
    sources: Map<String, Value>,
    /// What the worker class sets.
    kwargs: Map<String, Value>,
    notes: Vec<String>,
    target: String,
    directory: String,
}

impl Loaded {
    fn of(mut loaded: Value) -> Loaded {
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
            notes: texts(&loaded["notes"]),
            target: loaded["target"].as_str().unwrap_or_default().to_owned(),
            directory: loaded["directory"].as_str().unwrap_or(".").to_owned(),
            values: map(loaded["values"].take()),
            sources: map(loaded["sources"].take()),
            kwargs: map(loaded["kwargs"].take()),
        }
    }

    fn value(&self, name: &str) -> &Value {
        self.values.get(name).unwrap_or(&Value::Null)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.value(name).as_str()
    }

    fn number(&self, name: &str) -> u64 {
        self.value(name).as_u64().unwrap_or(0)
    }

    fn is(&self, name: &str) -> bool {
        self.value(name).as_bool().unwrap_or(false)
    }

    fn list(&self, name: &str) -> Vec<&str> {
        let items = self.value(name).as_array().into_iter().flatten();
        items.filter_map(Value::as_str).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.given.iter().any(|given| given == name)
    }

    /// An error about a setting, with the place that gave it its value.
    fn refuse(&self, name: &str, why: &str) -> Failure {
        Failure::usage(format!("{}: {name}: {why}", self.source(name)))
    }

    /// Where a setting got its value.
    fn source(&self, name: &str) -> &str {
        let source = self.sources.get(name).and_then(Value::as_str);
        source.unwrap_or("?")
    }

    /// What was asked for and changes nothing, one line each.
    fn without_effect(&self) -> Vec<String> {
        let listed = WITHOUT_EFFECT.iter().filter(|name| self.has(name));
        let to_a_file = |name: &&&str| self.text(name).is_some_and(|file| file != "-");
        let logs = ["accesslog"];
        listed
            .chain(logs.iter().filter(to_a_file))
            .map(|name| format!("{}: {name} has no effect yet", self.source(name)))
            .collect()
    }
}

/// Everything that the run begins with.
fn begin(mut host: Host, settings: Loaded) -> Result<Start, Failure> {
    refuse(&settings)?;
    let mut resolved = resolved(&settings)?;
    resolved.notes.extend(settings.notes.iter().cloned());
    resolved.notes.extend(settings.without_effect());
    let upgraded_from = std::env::var(OLDER).ok().and_then(|pid| pid.parse().ok());
    let addresses = settings
        .list("bind")
        .into_iter()
        .map(Address::parse)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| settings.refuse("bind", &error))?;
    let id = |name| u32::try_from(settings.number(name)).unwrap_or(u32::MAX);
    let owner = Owner {
        uid: id("uid"),
        gid: id("gid"),
        umask: id("umask"),
    };
    let name = settings.text("proc_name").unwrap_or("gunicorn").to_owned();
    let Worker::Evener { flags } = &resolved.worker else {
        unreachable!("no other kind of worker can be asked for");
    };
    let mut arguments = flags.clone();
    arguments.extend(["--app-dir".to_owned(), settings.directory.clone()]);
    arguments.push(settings.target.clone());
    let set_up = SetUp {
        arguments,
        preload: settings.is("preload_app"),
        title: Some(format!("gunicorn: nursery [{name}]")),
        upgraded_from: upgraded_from.unwrap_or(0),
    };
    let pidfile = settings.text("pidfile").map(|path| match upgraded_from {
        Some(_) => PathBuf::from(format!("{path}.2")),
        None => PathBuf::from(path),
    });
    host.manners = Some(Manners {
        pidfile: pidfile.map(Pidfile::new),
    });
    let recipe = Recipe::Nursery(NurseryRecipe {
        nursery: host.nursery.clone(),
        output_is_ours: true,
        title: Some(format!("gunicorn: worker [{name}]")),
    });
    Ok(Start {
        config: config(&resolved),
        shards: resolved.shards,
        log: resolved.log,
        admin: resolved.admin.clone(),
        reread: None,
        title: settings.target.clone(),
        notes: resolved.notes.clone(),
        host: Some(host),
        activated: Activated::default(),
        sockets: Some(Box::new(move |backlog| {
            Sockets::open(&addresses, backlog, owner).map_err(Failure::system)
        })),
        app: Some(App {
            application: None,
            recipe,
            set_up: Some(set_up),
            reconfigure: Some(reconfigure(&settings)),
            resolved,
        }),
    })
}

/// What of changed settings is taken up by a reload; others need a new program.
fn reconfigure(before: &Loaded) -> Reconfigure {
    let bind = before.value("bind").clone();
    Reconfigure(Arc::new(move |loaded| {
        let settings = Loaded::of(loaded.clone());
        refuse(&settings).map_err(|failure| failure.message)?;
        if *settings.value("bind") != bind {
            return Err("bind has changed: new addresses need a restart".to_owned());
        }
        Ok(Reconfigured {
            count: usize::try_from(settings.number("workers")).ok(),
            grace: Some(Duration::from_secs(settings.number("graceful_timeout"))),
        })
    }))
}

/// Settings that ask for what is not there: ignoring them would be wrong.
fn refuse(settings: &Loaded) -> Result<(), Failure> {
    for (name, without) in [
        ("proxy_protocol", "off"),
        ("protocol", "http"),
        ("http2_cleartext", "off"),
    ] {
        if settings.text(name).is_some_and(|value| value != without) {
            return Err(settings.refuse(name, "is not there yet"));
        }
    }
    if settings.text("paste").is_some() {
        return Err(settings.refuse("paste", "PasteDeploy applications are WSGI, not ASGI"));
    }
    if settings.number("dirty_workers") > 0 {
        return Err(settings.refuse("dirty_workers", "there are no dirty workers here"));
    }
    Ok(())
}

/// The settings as flags of `evener run`, resolved, and what no flag says.
fn resolved(settings: &Loaded) -> Result<Resolved, Failure> {
    let flags = flags(settings);
    let line = CommandLine::try_parse_from(&flags)
        .map_err(|error| Failure::usage(format!("a setting is refused: {error}")))?;
    let Command::Run(typed) = line.command else {
        unreachable!("the flags are those of `run`");
    };
    let around = Surroundings {
        cpus: cpus::available(),
        // gunicorn's settings have the environment in them already.
        variable: &|name| (name == "NO_COLOR").then(|| "1".to_owned()),
        terminal: std::io::stderr().is_terminal(),
    };
    let mut resolved = resolve(&typed, &around).map_err(Failure::usage)?;
    // gunicorn answers nothing by itself.
    resolved.health.stand_in = false;
    resolved.limits = Limits {
        // As with uvicorn behind gunicorn, what a request may take is the application's affair.
        body_bytes: None,
        ..resolved.limits
    };
    resolved.timeouts = Timeouts {
        first_byte: None,
        response_gap: None,
        keep_alive: Some(Duration::from_secs(settings.number("keepalive").max(1))),
        ..resolved.timeouts
    };
    Ok(resolved)
}

fn flags(settings: &Loaded) -> Vec<String> {
    let mut flags = vec!["evener".to_owned(), "run".to_owned()];
    let mut add = |flag: &str, value: String| flags.push(format!("--{flag}={value}"));
    let kwargs = |name: &str| match settings.kwargs.get(name) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Null) | None => None,
        Some(other) => Some(other.to_string()),
    };
    let number = |name: &str| settings.number(name).to_string();
    add("workers", settings.number("workers").max(1).to_string());
    add("backlog", settings.number("backlog").max(1).to_string());
    let connections = settings.number("worker_connections").clamp(1, 65_536);
    let concurrency = kwargs("limit_concurrency").unwrap_or(connections.to_string());
    add("worker-in-flight", concurrency);
    if settings.number("max_requests") > 0 {
        add("limit-max-requests", number("max_requests"));
        add("limit-max-requests-jitter", number("max_requests_jitter"));
    }
    let grace = kwargs("timeout_graceful_shutdown").unwrap_or(number("graceful_timeout"));
    add("timeout-graceful-shutdown", grace);
    let level = settings.text("loglevel").unwrap_or("info").to_lowercase();
    let known = ["critical", "error", "warning", "info", "debug", "trace"];
    if known.contains(&level.as_str()) {
        add("log-level", level);
    }
    let trusted = kwargs("forwarded_allow_ips")
        .unwrap_or_else(|| settings.list("forwarded_allow_ips").join(","));
    add("forwarded-allow-ips", trusted);
    add(
        "limit-header-count",
        settings
            .number("limit_request_fields")
            .clamp(1, 10_000)
            .to_string(),
    );
    let root = kwargs("root_path").or_else(|| settings.text("root_path").map(str::to_owned));
    add("root-path", root.unwrap_or_default());
    let lifespan = kwargs("lifespan").or_else(|| settings.text("asgi_lifespan").map(str::to_owned));
    add("lifespan", lifespan.unwrap_or_else(|| "auto".to_owned()));
    let event_loop = kwargs("loop").or_else(|| settings.text("asgi_loop").map(str::to_owned));
    let event_loop = event_loop.filter(|name| ["uvloop", "asyncio"].contains(&name.as_str()));
    add("loop", event_loop.unwrap_or_else(|| "auto".to_owned()));
    let longest = kwargs("ws_max_size").unwrap_or(number("websocket_max_message_size"));
    add("ws-max-size", longest);
    for (name, flag) in [
        ("ws_ping_interval", "ws-ping-interval"),
        ("ws_ping_timeout", "ws-ping-timeout"),
        ("ws_per_message_deflate", "ws-per-message-deflate"),
    ] {
        if let Some(value) = kwargs(name) {
            add(flag, value);
        }
    }
    flags.push(match settings.text("accesslog") {
        Some(_) => "--access-log".to_owned(),
        None => "--no-access-log".to_owned(),
    });
    if settings.kwargs.get("proxy_headers") == Some(&Value::Bool(false)) {
        flags.push("--no-proxy-headers".to_owned());
    }
    if settings.is("reload") {
        flags.push("--reload".to_owned());
    }
    if settings.has("default_proc_name") {
        flags.push(settings.target.clone());
    }
    flags.extend(tls_flags(settings));
    flags
}

fn tls_flags(settings: &Loaded) -> Vec<String> {
    let files = [
        ("certfile", "ssl-certfile"),
        ("keyfile", "ssl-keyfile"),
        ("ca_certs", "ssl-ca-certs"),
    ];
    let given = |(name, flag)| Some(format!("--{flag}={}", settings.text(name)?));
    let mut flags: Vec<String> = files.into_iter().filter_map(given).collect();
    if settings.number("cert_reqs") > 0 {
        flags.push(format!("--ssl-cert-reqs={}", settings.number("cert_reqs")));
    }
    flags
}
