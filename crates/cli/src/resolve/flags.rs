//! The command lines of Python workers, Evener's own and uvicorn's.

use evener_config::values::ListenAddress;

use super::listen;
use crate::args::{LogLevel, RunArguments};

pub(super) fn evener_flags(typed: &RunArguments) -> Vec<String> {
    let uvicorn = &typed.uvicorn;
    let mut flags = application_flags(typed);
    if let Some(hook) = &typed.workers.leader_hook {
        flags.extend(["--leader-hook".to_owned(), hook.clone()]);
    }
    flags.extend([
        "--log-level".to_owned(),
        level_name(typed.logging.log_level).to_owned(),
    ]);
    // What the application takes for its server's address is the edge's.
    let server = match listen(typed) {
        ListenAddress::Tcp { host, port } if port != 0 => Some(format!("{host}:{port}")),
        _ => None,
    };
    let number = |value: Option<f64>| value.map(|value| value.to_string());
    for (flag, value) in [
        ("--server", server),
        (
            "--ws-max-size",
            uvicorn.ws_max_size.map(|size| size.0.to_string()),
        ),
        ("--ws-ping-interval", number(uvicorn.ws_ping_interval)),
        ("--ws-ping-timeout", number(uvicorn.ws_ping_timeout)),
        (
            "--ws-per-message-deflate",
            uvicorn.ws_per_message_deflate.clone(),
        ),
    ] {
        if let Some(value) = value {
            flags.extend([flag.to_owned(), value]);
        }
    }
    flags
}

/// Flags that both kinds of Python worker know.
fn application_flags(typed: &RunArguments) -> Vec<String> {
    let application = &typed.application;
    let mut flags = Vec::new();
    let mut add = |flag: &str, value: &str| flags.extend([flag.to_owned(), value.to_owned()]);
    add("--lifespan", application.lifespan.name());
    add("--loop", &application.event_loop);
    if !application.root_path.is_empty() {
        add("--root-path", &application.root_path);
    }
    let grace = typed
        .timeouts
        .timeout_graceful_shutdown
        .0
        .as_secs_f64()
        .ceil();
    add("--timeout-graceful-shutdown", &format!("{grace:.0}"));
    flags
}

pub(super) fn uvicorn_flags(typed: &RunArguments) -> Vec<String> {
    let uvicorn = &typed.uvicorn;
    let mut flags = application_flags(typed);
    let mut add = |words: &[&str]| flags.extend(words.iter().map(|word| (*word).to_owned()));
    // The edge keeps the connections, writes the access log and tells who the client is.
    add(&[
        "--workers",
        "1",
        "--no-access-log",
        "--timeout-keep-alive",
        "3600",
    ]);
    add(&["--proxy-headers", "--forwarded-allow-ips", "*"]);
    // At level info uvicorn would announce a socket that is nobody's business.
    let level = match typed.logging.log_level {
        LogLevel::Info => LogLevel::Warning,
        other => other,
    };
    add(&["--log-level", level_name(level)]);
    if typed.clients.no_server_header {
        add(&["--no-server-header"]);
    }
    if typed.clients.no_date_header {
        add(&["--no-date-header"]);
    }
    if uvicorn.reset_contextvars {
        add(&["--reset-contextvars"]);
    }
    let number = |value: Option<f64>| value.map(|value| value.to_string());
    for (flag, value) in [
        ("--http", uvicorn.http.clone()),
        ("--ws", uvicorn.ws.clone()),
        (
            "--ws-max-size",
            uvicorn.ws_max_size.map(|size| size.0.to_string()),
        ),
        (
            "--ws-max-queue",
            uvicorn.ws_max_queue.map(|count| count.to_string()),
        ),
        ("--ws-ping-interval", number(uvicorn.ws_ping_interval)),
        ("--ws-ping-timeout", number(uvicorn.ws_ping_timeout)),
        (
            "--ws-per-message-deflate",
            uvicorn.ws_per_message_deflate.clone(),
        ),
        ("--interface", uvicorn.interface.clone()),
        (
            "--log-config",
            uvicorn
                .log_config
                .as_ref()
                .map(|path| path.display().to_string()),
        ),
    ] {
        if let Some(value) = value {
            add(&[flag, &value]);
        }
    }
    flags
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Critical => "critical",
        LogLevel::Error => "error",
        LogLevel::Warning => "warning",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}
