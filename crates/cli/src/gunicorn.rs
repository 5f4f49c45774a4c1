//! `evener gunicorn`: gunicorn's settings, as the nursery has read them, become a run of ours.
//!
//! The nursery holds the command line, the configuration file and the hooks; here is what the
//! values mean for listeners, limits, logs and workers.

mod loaded;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use evener_edge::{Limits, Timeouts};
use evener_supervisor::{
    Nursery, NurseryRecipe, NurserySettings, Recipe, Reconfigure, Reconfigured, SetUp,
};
use evener_telemetry::{Level, Log, LogFormat};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::Failure;
use crate::args::{Command, CommandLine};
use crate::nursery::{self, Host, Manners, Renewed};
use crate::pidfile::Pidfile;
use crate::resolve::{Resolved, Surroundings, Worker, resolve};
use crate::sockets::{Address, Owner, Sockets};
use crate::start::{App, OpenSockets, Start, runtime};
use crate::systemd::Activated;
use crate::upgrade::Upgrade;
use crate::{cpus, python};
use loaded::Loaded;

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
        return background(settings.is("enable_stdio_inheritance"));
    }
    // Begun inside of the runtime: the nursery is told things on the way.
    let start = runtime.block_on(async { begin(host, settings) })?;
    start.run_on(&runtime, Vec::new())
}

/// Goes on in a process of its own session, without a terminal.
fn background(keeps_output: bool) -> Result<(), Failure> {
    let system =
        |error: std::io::Error| Failure::system(format!("cannot go on as a daemon: {error}"));
    let program = std::env::current_exe().map_err(system)?;
    let mut command = Process::new(program);
    command
        .args(std::env::args_os().skip(1))
        .env(BACKGROUND, "1")
        .stdin(Stdio::null());
    if !keeps_output {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    // SAFETY: between fork and exec only `setsid` is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| match libc::setsid() {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    command.spawn().map(drop).map_err(system)
}

/// Everything that the run begins with.
fn begin(mut host: Host, settings: Loaded) -> Result<Start, Failure> {
    refuse(&settings)?;
    let mut resolved = resolved(&settings)?;
    resolved.notes.extend(settings.notes.iter().cloned());
    resolved.notes.extend(settings.without_effect());
    let upgrade = Upgrade::prepare()
        .map_err(|error| Failure::system(format!("cannot find this program: {error}")))?;
    let sockets = sockets(&settings)?;
    let name = settings.text("proc_name").unwrap_or("gunicorn").to_owned();
    // The name in listings of processes; nothing depends on it.
    let _ = std::fs::write("/proc/self/comm", &name);
    let set_up = SetUp {
        arguments: worker_arguments(&settings, &resolved),
        preload: settings.is("preload_app"),
        title: Some(format!("gunicorn: nursery [{name}]")),
        upgraded_from: upgrade.older().unwrap_or(0),
    };
    let logs = settings
        .logs(&host.nursery, resolved.log.level)
        .map_err(Failure::usage)?;
    let log = logs.log().clone();
    host.nursery.tell_to(log.clone());
    let (sender, renewed) = mpsc::unbounded_channel();
    let reconfigure = reconfigure(&settings, host.nursery.clone(), log, sender);
    let statsd = settings.statsd(&mut resolved.notes);
    let leads_later = upgrade.older().is_some();
    host.manners = Some(manners(&settings, upgrade, renewed));
    let recipe = Recipe::Nursery(NurseryRecipe {
        nursery: host.nursery.clone(),
        output_is_ours: true,
        title: Some(format!("gunicorn: worker [{name}]")),
    });
    Ok(Start {
        config: settings.config(&resolved),
        shards: resolved.shards,
        log: resolved.log,
        admin: resolved.admin.clone(),
        reread: None,
        logs: Some(logs),
        log_files: Vec::new(),
        statsd,
        title: settings.target.clone(),
        notes: resolved.notes.clone(),
        host: Some(host),
        activated: Activated::default(),
        sockets: Some(sockets),
        app: Some(App {
            application: None,
            recipe,
            set_up: Some(set_up),
            reconfigure: Some(reconfigure),
            as_gunicorn: true,
            leads_later,
            resolved,
        }),
    })
}

/// Makes the sockets that clients connect to.
fn sockets(settings: &Loaded) -> Result<OpenSockets, Failure> {
    let addresses = settings
        .list("bind")
        .into_iter()
        .map(Address::parse)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| settings.refuse("bind", &error))?;
    let owner = Owner {
        uid: settings.id("uid"),
        gid: settings.id("gid"),
        umask: settings.id("umask"),
    };
    let relays = settings.relays()?;
    Ok(Box::new(move |backlog| {
        let mut sockets = Sockets::open(&addresses, backlog, owner).map_err(Failure::system)?;
        sockets.set_relays(relays);
        Ok(sockets)
    }))
}

/// What the workers are told on their command line.
fn worker_arguments(settings: &Loaded, resolved: &Resolved) -> Vec<String> {
    let Worker::Evener { flags } = &resolved.worker else {
        unreachable!("no other kind of worker can be asked for");
    };
    let mut arguments = flags.clone();
    arguments.extend(["--app-dir".to_owned(), settings.directory.clone()]);
    arguments.push(settings.target.clone());
    arguments
}

fn manners(
    settings: &Loaded,
    upgrade: Upgrade,
    renewed: mpsc::UnboundedReceiver<Box<Renewed>>,
) -> Manners {
    let path = settings.text("pidfile");
    let beside = upgrade.older().map_or("", |_| ".2");
    let pidfile = path.map(|path| Pidfile::new(PathBuf::from(format!("{path}{beside}"))));
    Manners {
        pidfile,
        pidfile_path: path.map(PathBuf::from),
        upgrade,
        daemon: settings.is("daemon"),
        renewed,
    }
}

/// Settings that a reload does not take up: they are of what the program begins with.
const OF_THE_START: &[&str] = &[
    "access_log_format",
    "accesslog",
    "backlog",
    "control_socket",
    "daemon",
    "dogstatsd_tags",
    "enable_backlog_metric",
    "errorlog",
    "pidfile",
    "preload_app",
    "reload",
    "reload_extra_files",
    "statsd_host",
    "statsd_prefix",
    "umask",
    "worker_connections",
];

/// What settings that were read again mean: for the workers, which are replaced after this, and for
/// the data plane. Those that need a new program are said.
fn reconfigure(
    before: &Loaded,
    nursery: Nursery,
    log: Log,
    renewed: mpsc::UnboundedSender<Box<Renewed>>,
) -> Reconfigure {
    let last = Mutex::new(before.clone());
    Reconfigure(Arc::new(move |loaded| {
        let settings = Loaded::of(loaded.clone());
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        refuse(&settings).map_err(|failure| failure.message)?;
        if settings.value("bind") != last.value("bind") {
            return Err("bind has changed: new addresses need a restart".to_owned());
        }
        let resolved = resolved(&settings).map_err(|failure| failure.message)?;
        let relays = settings.relays().map_err(|failure| failure.message)?;
        log.set_level(resolved.log.level);
        for note in settings
            .notes
            .iter()
            .filter(|note| !last.notes.contains(note))
        {
            log.warning(format_args!("{note}"));
        }
        let changed = |name: &&&str| settings.value(name) != last.value(name);
        for name in OF_THE_START.iter().filter(changed) {
            let source = settings.source(name);
            log.warning(format_args!(
                "{source}: {name} has changed: that takes effect at the next start"
            ));
        }
        nursery.use_arguments(worker_arguments(&settings, &resolved));
        let config = settings.config(&resolved);
        // A program that is over takes up nothing.
        let _ = renewed.send(Box::new(Renewed { config, relays }));
        *last = settings;
        let settings = &*last;
        Ok(Reconfigured {
            recycle: Some(resolved.recycle),
            stall: Some(resolved.stall),
            count: usize::try_from(settings.number("workers")).ok(),
            grace: Some(Duration::from_secs(settings.number("graceful_timeout"))),
        })
    }))
}

/// Settings that ask for what is not there: ignoring them would be wrong.
fn refuse(settings: &Loaded) -> Result<(), Failure> {
    if settings.text("protocol") == Some("uwsgi") {
        return Err(settings.refuse("protocol", "HTTP is spoken, and not uwsgi's protocol"));
    }
    if matches!(settings.text("http2_cleartext"), Some("upgrade" | "both")) {
        let why = "HTTP/2 in clear text is spoken with those who begin with it (prior-knowledge); \
                   an upgrade from HTTP/1.1, which RFC 9113 has given up, is not there";
        return Err(settings.refuse("http2_cleartext", why));
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
    resolved.admin.off = settings.is("control_socket_disable");
    resolved.admin.mode = Some(settings.id("control_socket_mode") & 0o777);
    resolved.limits = Limits {
        // As with uvicorn behind gunicorn, what a request may take is the application's affair.
        body_bytes: None,
        line_bytes: settings.bound("limit_request_line"),
        field_bytes: settings.bound("limit_request_field_size"),
        ..resolved.limits
    };
    // gunicorn answers nothing that the application does not.
    resolved.health.stand_in = false;
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
    let kwargs = |name: &str| settings.kwarg(name);
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
    let stall = match settings.number("timeout") {
        0 => "off".to_owned(),
        seconds => seconds.to_string(),
    };
    add("timeout-worker-stall", stall);
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
    flags.push(match settings.text("accesslog") {
        Some(_) => "--access-log".to_owned(),
        None => "--no-access-log".to_owned(),
    });
    if settings.is("reload") {
        flags.extend(reload_flags(settings));
    }
    if let Some(path) = settings.text("control_socket") {
        let path = Path::new(&settings.directory).join(path);
        flags.push(format!("--admin={}", path.display()));
    }
    if settings.has("default_proc_name") {
        flags.push(settings.target.clone());
    }
    flags.extend(application_flags(settings));
    flags.extend(tls_flags(settings));
    flags
}

/// What the application sees, which uvicorn's worker class can set as well.
fn application_flags(settings: &Loaded) -> Vec<String> {
    let mut flags = Vec::new();
    let mut add = |flag: &str, value: String| flags.push(format!("--{flag}={value}"));
    let kwargs = |name: &str| settings.kwarg(name);
    let root = kwargs("root_path").or_else(|| settings.text("root_path").map(str::to_owned));
    add("root-path", root.unwrap_or_default());
    let lifespan = kwargs("lifespan").or_else(|| settings.text("asgi_lifespan").map(str::to_owned));
    add("lifespan", lifespan.unwrap_or_else(|| "auto".to_owned()));
    let event_loop = kwargs("loop").or_else(|| settings.text("asgi_loop").map(str::to_owned));
    let event_loop = event_loop.filter(|name| ["uvloop", "asyncio"].contains(&name.as_str()));
    add("loop", event_loop.unwrap_or_else(|| "auto".to_owned()));
    let longest = settings.number("websocket_max_message_size").to_string();
    let longest = kwargs("ws_max_size").unwrap_or(longest);
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
    if settings.kwargs.get("proxy_headers") == Some(&Value::Bool(false)) {
        flags.push("--no-proxy-headers".to_owned());
    }
    flags
}

/// The folder of the application, and extra files with their folders.
fn reload_flags(settings: &Loaded) -> Vec<String> {
    let mut flags = vec![
        "--reload".to_owned(),
        "--reload-include=*.py".to_owned(),
        format!("--reload-dir={}", settings.directory),
    ];
    for name in settings.list("reload_extra_files") {
        let path = Path::new(&settings.directory).join(name);
        flags.push(format!("--reload-include={}", path.display()));
        let pattern = |folder: &&Path| folder.to_string_lossy().contains(['*', '?', '[']);
        let folder = path.ancestors().skip(1).find(|folder| !pattern(folder));
        if let Some(folder) = folder.filter(|folder| !folder.starts_with(&settings.directory)) {
            flags.push(format!("--reload-dir={}", folder.display()));
        }
    }
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
