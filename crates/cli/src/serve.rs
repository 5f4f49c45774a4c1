//! `evener serve` and `evener check`: from evener.toml to what a program begins with.

use std::io::IsTerminal;

use evener_config::Config;
use evener_telemetry::Level;

use crate::Failure;
use crate::args::{CheckArguments, ServeArguments};
use crate::cpus;
use crate::reread::{Loaded, Reread, load, parse};
use crate::resolve::{AdminSettings, LogSettings};
use crate::site::APP;
use crate::start::{App, Start};
use crate::systemd::Activated;

/// Runs until it is told to stop.
pub(crate) fn serve(typed: &ServeArguments) -> Result<(), Failure> {
    let file = typed.config.clone();
    let Loaded { config, app } = load(&file).map_err(Failure::file)?;
    let shards = match (config.shards, &app) {
        (Some(shards), _) => shards,
        (None, Some(app)) => app.resolved.shards,
        (None, None) => cpus::available().max(1),
    };
    let start = Start {
        shards,
        log: log(&config),
        admin: admin(&config),
        title: file.display().to_string(),
        notes: notes(&config, app.as_ref()),
        reread: Some(Reread {
            file,
            config: config.clone(),
        }),
        config,
        app,
        host: None,
        sockets: None,
        logs: None,
        log_files: Vec::new(),
        statsd: None,
        activated: Activated::default(),
    };
    start.run()
}

/// What should not go unsaid about a configuration that is good.
fn notes(config: &Config, app: Option<&App>) -> Vec<String> {
    let mut notes = app.map_or_else(Vec::new, |app| app.resolved.notes.clone());
    for cluster in &config.clusters {
        let first = cluster.endpoints.first();
        if first
            .and_then(|first| first.speech.tls.as_ref())
            .is_some_and(|tls| !tls.verify)
        {
            notes.push(format!(
                "`cluster.{}.tls`: certificates are not checked (`verify = false`); anybody on the \
                 way can read and change everything",
                cluster.name
            ));
        }
    }
    notes
}

/// Says what is wrong with a file, or that nothing is.
pub(crate) fn check(typed: &CheckArguments) -> Result<String, Failure> {
    let (config, _) = parse(&typed.config).map_err(Failure::file)?;
    let count = |count: usize, one: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    };
    let about_app = config.clusters.iter().any(|cluster| cluster.name == APP);
    let clusters = config.clusters.len() + usize::from(config.app.is_some() && !about_app);
    Ok(format!(
        "{}: good: {}, {}, {}\n",
        typed.config.display(),
        count(config.listeners.len(), "listener"),
        count(config.routes.len(), "route"),
        count(clusters, "cluster"),
    ))
}

fn log(config: &Config) -> LogSettings {
    let level = match config.log.level.as_str() {
        "critical" => Level::Critical,
        "error" => Level::Error,
        "warning" => Level::Warning,
        "debug" => Level::Debug,
        "trace" => Level::Trace,
        _ => Level::Info,
    };
    let terminal = std::io::stderr().is_terminal();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    LogSettings {
        level,
        json: config.log.format == "json",
        colors: config.log.colors.unwrap_or(terminal && !no_color),
        access: config.log.access && level >= Level::Info,
    }
}

fn admin(config: &Config) -> AdminSettings {
    let token = || std::env::var("EVENER_ADMIN_TOKEN").ok();
    AdminSettings {
        name: config.admin.name.clone(),
        socket: config.admin.socket.clone(),
        address: config.admin.address.clone(),
        token: config
            .admin
            .token
            .clone()
            .or_else(token)
            .filter(|token| !token.is_empty()),
        mode: None,
        off: false,
    }
}
