//! `evener run`: from the command line to what a program begins with.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

use evener_config::{Admin, Config, Dns, Http2Terms, Listener, Log, Route};

use crate::Failure;
use crate::application::{self, Application};
use crate::args::RunArguments;
use crate::resolve::{Resolved, Surroundings, Worker, resolve};
use crate::site::APP;
use crate::start::{App, Start};
use crate::systemd::Activated;
use crate::{cpus, env_file, python, recipe};

/// Runs until it is told to stop.
pub(crate) fn run(typed: &RunArguments) -> Result<(), Failure> {
    let app = app(typed).map_err(Failure::usage)?;
    let resolved = &app.resolved;
    let mut notes = resolved.notes.clone();
    if let (None, Some(found)) = (&typed.app, &app.application) {
        let (target, folder) = (&found.target, found.folder.display());
        notes.push(format!(
            "no application was named: found {target} in {folder}"
        ));
    }
    let start = Start {
        config: config(resolved),
        shards: resolved.shards,
        log: resolved.log,
        admin: resolved.admin.clone(),
        reread: None,
        title: title(typed, app.application.as_ref(), resolved),
        notes,
        app: Some(app),
        host: None,
        sockets: None,
        logs: None,
        log_files: Vec::new(),
        statsd: None,
        activated: Activated::default(),
    };
    start.run()
}

/// What the command line says about the application and its workers.
pub(crate) fn app(typed: &RunArguments) -> Result<App, String> {
    let resolved = settings(typed)?;
    let application = find_application(typed, &resolved)?;
    let environment = environment(typed)?;
    let recipe = recipe::recipe(
        &resolved,
        application.as_ref(),
        || find_python(typed),
        environment,
    )?;
    Ok(App {
        resolved,
        application,
        recipe,
        set_up: None,
        reconfigure: None,
        as_gunicorn: false,
        leads_later: false,
    })
}

/// What the command line says, here and now.
pub(crate) fn settings(typed: &RunArguments) -> Result<Resolved, String> {
    let variable = |name: &str| std::env::var(name).ok();
    let around = Surroundings {
        cpus: cpus::available(),
        variable: &variable,
        terminal: std::io::stderr().is_terminal(),
    };
    resolve(typed, &around)
}

/// One listener, and everything to the application.
pub(crate) fn config(resolved: &Resolved) -> Config {
    Config {
        listeners: vec![Listener {
            name: resolved.listen.to_string(),
            address: resolved.listen.clone(),
            tls: resolved.tls.clone(),
            https_redirect: None,
            proxied: None,
            http2: Some(Http2Terms::default()),
        }],
        routes: vec![Route::to_cluster(APP, &resolved.limits, &resolved.timeouts)],
        clusters: Vec::new(),
        app: Some(evener_config::App::default()),
        shards: Some(resolved.shards),
        backlog: resolved.backlog,
        limits: resolved.limits.clone(),
        timeouts: resolved.timeouts.clone(),
        graceful_shutdown: resolved.grace,
        drain_delay: resolved.drain_delay,
        budgets: Vec::new(),
        trusted: resolved.trusted.clone(),
        response_fields: resolved.fields.clone(),
        health: resolved.health.clone(),
        spill: evener_config::Spill::default(),
        dns: Dns::default(),
        log: Log::default(),
        admin: Admin::default(),
    }
}

fn find_application(
    typed: &RunArguments,
    resolved: &Resolved,
) -> Result<Option<Application>, String> {
    if matches!(resolved.worker, Worker::Command { .. }) {
        return Ok(None);
    }
    let folder = typed
        .application
        .app_dir
        .clone()
        .unwrap_or_else(|| PathBuf::from("."));
    let folder = std::path::absolute(&folder)
        .and_then(|folder| folder.canonicalize())
        .map_err(|error| format!("--app-dir {}: {error}", folder.display()))?;
    match &typed.app {
        Some(target) => application::check(target, typed.application.factory, &folder).map(Some),
        None => application::find(&folder).map(Some),
    }
}

/// What is served, for people.
pub(crate) fn title(
    typed: &RunArguments,
    application: Option<&Application>,
    resolved: &Resolved,
) -> String {
    match (application, &resolved.worker, &typed.app) {
        (Some(application), ..) => application.target.clone(),
        (None, _, Some(app)) => app.clone(),
        (None, Worker::Command { words }, None) => words.join(" "),
        (None, ..) => String::new(),
    }
}

/// The variables of `--env-file` that are not set already.
fn environment(typed: &RunArguments) -> Result<Vec<(OsString, OsString)>, String> {
    let Some(path) = &typed.application.env_file else {
        return Ok(Vec::new());
    };
    let wrong = |what: String| format!("--env-file {}: {what}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let variables = env_file::parse(&text).map_err(wrong)?;
    let unset = variables
        .into_iter()
        .filter(|(name, _)| std::env::var_os(name).is_none());
    Ok(unset
        .map(|(name, value)| (name.into(), value.into()))
        .collect())
}

fn find_python(typed: &RunArguments) -> Result<PathBuf, String> {
    typed.workers.python.clone().map_or_else(python::find, Ok)
}
