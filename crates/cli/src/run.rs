//! `evener run`: brings data plane, supervisor and admin API to life, listens to signals, and
//! takes everything down in order.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use evener_admin::{
    Access, AdminSocket, Command as AdminCommand, Order, Receipt, Server, serve_tcp, serve_unix,
    socket_path,
};
use evener_edge::{Cluster, Edge, EdgeConfig, ListenerSpec};
use evener_net::ServerTls;
use evener_supervisor::{
    Handle, Outcome, Patience, Recipe, RestartPolicy, RunDirectory, Settings, Supervisor,
};
use evener_telemetry::{AccessFormat, Log, LogFormat, Telemetry, TelemetryConfig};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::Failure;
use crate::application::{self, Application};
use crate::args::RunArguments;
use crate::balancer::ClusterBalancer;
use crate::changes::Changes;
use crate::resolve::{AdminSettings, Listen, Resolved, Surroundings, Worker, resolve};
use crate::signals::{Signal, Signals};
use crate::source::{Program, Window};
use crate::values::WORKERS_MAX;
use crate::{cpus, env_file, failure, python, recipe, tls};

/// The name of a program that was given none.
pub(crate) const DEFAULT_NAME: &str = "evener";
/// Pause before a worker that drains itself is asked to: requests that were just sent arrive.
const SETTLE: Duration = Duration::from_millis(200);
/// How often it is looked whether clients are done, while stopping.
const STOP_POLL: Duration = Duration::from_millis(10);

/// Runs until it is told to stop.
pub(crate) fn run(typed: &RunArguments) -> Result<(), Failure> {
    let variable = |name: &str| std::env::var(name).ok();
    let terminal = std::io::stderr().is_terminal();
    let around = Surroundings {
        cpus: cpus::available(),
        variable: &variable,
        terminal,
    };
    let resolved = resolve(typed, &around).map_err(Failure::usage)?;
    let application = find_application(typed, &resolved).map_err(Failure::usage)?;
    let environment = environment(typed).map_err(Failure::usage)?;
    let recipe = recipe::recipe(
        &resolved,
        application.as_ref(),
        || find_python(typed),
        environment,
    )
    .map_err(Failure::usage)?;
    let tls = resolved.tls.as_ref().map(tls::read).transpose();
    let tls = tls.map_err(Failure::usage)?;
    let listeners = listeners(&resolved.listen, tls.as_ref()).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::system(format!("cannot start: {error}")))?;
    let telemetry = telemetry(&resolved);
    for note in &resolved.notes {
        telemetry.log().warning(format_args!("{note}"));
    }
    if let (None, Some(found)) = (&typed.app, &application) {
        let (target, folder) = (&found.target, found.folder.display());
        telemetry.log().info(format_args!(
            "no application was named: found {target} in {folder}"
        ));
    }
    let title = title(typed, application.as_ref(), &resolved);
    let start = Start {
        resolved,
        application,
        recipe,
        listeners,
        tls,
        title,
        telemetry,
    };
    let telemetry = start.telemetry.clone();
    let ended = runtime.block_on(start.serve());
    telemetry.finish();
    ended
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
fn title(typed: &RunArguments, application: Option<&Application>, resolved: &Resolved) -> String {
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

fn listeners(listen: &Listen, tls: Option<&Arc<ServerTls>>) -> Result<Vec<ListenerSpec>, String> {
    let plain = plain_listeners(listen)?;
    Ok(match tls {
        None => plain,
        Some(tls) => plain
            .into_iter()
            .map(|listener| ListenerSpec::Tls(Box::new(listener), Arc::clone(tls)))
            .collect(),
    })
}

fn plain_listeners(listen: &Listen) -> Result<Vec<ListenerSpec>, String> {
    match listen {
        Listen::Unix(path) => Ok(vec![ListenerSpec::Unix(path.clone())]),
        Listen::Descriptor(number) => inherit(*number).map(|fd| vec![ListenerSpec::Inherited(fd)]),
        Listen::Tcp { host, port } => {
            let host = host.trim_matches(['[', ']']);
            let mut addresses: Vec<SocketAddr> = (host, *port)
                .to_socket_addrs()
                .map_err(|error| format!("--host {host}: no such address: {error}"))?
                .collect();
            addresses.sort();
            addresses.dedup();
            if addresses.is_empty() {
                return Err(format!("--host {host}: the name has no address"));
            }
            Ok(addresses.into_iter().map(ListenerSpec::Tcp).collect())
        }
    }
}

/// Takes over a descriptor that this program was started with.
fn inherit(number: i32) -> Result<OwnedFd, String> {
    // SAFETY: plain numbers; the flag keeps the descriptor out of the workers.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        let error = std::io::Error::last_os_error();
        return Err(format!(
            "--fd {number}: this program was started without it: {error}"
        ));
    }
    // SAFETY: it is open, as was just seen, and nothing of ours has been opened yet that could
    // own it: this runs before the runtime and the data plane exist.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn telemetry(resolved: &Resolved) -> Telemetry {
    let settings = resolved.log;
    let format = match settings.json {
        true => LogFormat::Json,
        false => LogFormat::Text {
            colors: settings.colors,
        },
    };
    let access = settings.access.then_some(match settings.json {
        true => AccessFormat::Json,
        false => AccessFormat::Text {
            colors: settings.colors,
        },
    });
    Telemetry::new(TelemetryConfig {
        log: Log::new(settings.level, format),
        access,
    })
}

/// Everything that a run begins with.
struct Start {
    resolved: Resolved,
    application: Option<Application>,
    recipe: Recipe,
    listeners: Vec<ListenerSpec>,
    tls: Option<Arc<ServerTls>>,
    title: String,
    telemetry: Telemetry,
}

impl Start {
    async fn serve(self) -> Result<(), Failure> {
        let Start {
            resolved,
            application,
            recipe,
            listeners,
            tls,
            title,
            telemetry,
        } = self;
        let log = telemetry.log().clone();
        let signals = Signals::listen()
            .map_err(|error| Failure::system(format!("cannot listen to signals: {error}")))?;
        let (socket, name, listener) = admin_socket(&resolved.admin, &log).await?;
        let admin_address = admin_address(&resolved.admin).await?;
        let changes = watch_changes(&resolved, application.as_ref())?;
        let cluster = Cluster::new("app", resolved.limits.queue_length);
        let edge = Edge::start(
            edge_config(&resolved, listeners),
            Arc::clone(&cluster),
            telemetry.clone(),
        )
        .map_err(|error| Failure::system(error.to_string()))?;
        let (supervisor, handle) = supervisor(&resolved, recipe, &cluster, &log)?;
        let program = Arc::new(Program {
            name,
            app: title.clone(),
            addresses: edge.addresses(),
            handle: handle.clone(),
            cluster,
            telemetry,
            window: Window::default(),
            draining: AtomicBool::new(false),
        });
        let (orders, received) = mpsc::channel(16);
        let server = Server::new(Arc::clone(&program) as _, orders);
        tokio::spawn(serve_unix(server.clone(), listener));
        let mut admin = format!("unix:{}", socket.path().display());
        if let Some((listener, access)) = admin_address {
            let address = listener
                .local_addr()
                .map_err(|e| Failure::system(e.to_string()))?;
            admin.push_str(&format!(" and http://{address}/"));
            tokio::spawn(serve_tcp(server, listener, access));
        }
        banner(&log, &resolved, &program, &admin);
        let running = Running {
            grace: resolved.grace,
            tls,
            edge,
            handle,
            program,
            log,
            signals,
            orders: received,
            changes,
            stopping: None,
            workers: tokio::spawn(supervisor.run()),
        };
        let outcome = running.run().await;
        drop(socket);
        match outcome {
            Outcome::Stopped => Ok(()),
            Outcome::NeverStarted(reason) => {
                Err(Failure::application(failure::describe(&title, &reason)))
            }
        }
    }
}

fn watch_changes(
    resolved: &Resolved,
    application: Option<&Application>,
) -> Result<Option<Changes>, Failure> {
    let Some(reload) = &resolved.reload else {
        return Ok(None);
    };
    let folder = application.map_or(PathBuf::from("."), |application| application.folder.clone());
    Changes::watch(reload.clone(), &folder)
        .map(Some)
        .map_err(Failure::system)
}

fn edge_config(resolved: &Resolved, listeners: Vec<ListenerSpec>) -> EdgeConfig {
    EdgeConfig {
        listeners,
        shards: resolved.shards,
        backlog: resolved.backlog,
        limits: resolved.limits.clone(),
        timeouts: resolved.timeouts.clone(),
        trusted: resolved.trusted.clone(),
        response_fields: resolved.fields.clone(),
        health: resolved.health.clone(),
    }
}

fn supervisor(
    resolved: &Resolved,
    recipe: Recipe,
    cluster: &Arc<Cluster>,
    log: &Log,
) -> Result<(Supervisor, Handle), Failure> {
    let parent = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let parent = parent
        .filter(|path| path.is_dir())
        .unwrap_or_else(|| PathBuf::from("/tmp"));
    let directory =
        RunDirectory::create(&parent).map_err(|error| Failure::system(error.to_string()))?;
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let settings = Settings {
        recipe,
        count: resolved.count,
        count_max: WORKERS_MAX,
        patience: Patience {
            startup: resolved.startup,
            grace: resolved.grace,
            stop: resolved.stop,
            // A command of the user's may end at once when it is asked to.
            settle: (!matches!(resolved.worker, Worker::Command { .. })).then_some(SETTLE),
        },
        restart: RestartPolicy::default(),
        requests_max: resolved.requests_max,
        page_slots: resolved.in_flight_max,
        backlog: i32::try_from(resolved.backlog).unwrap_or(i32::MAX),
        leaving_max: resolved.leaving_max,
        waits_when_broken: resolved.reload.is_some(),
        seed: u64::from(since.subsec_nanos()) ^ u64::from(std::process::id()) << 32,
    };
    let balancer = ClusterBalancer {
        cluster: Arc::clone(cluster),
        in_flight_max: resolved.in_flight_max,
    };
    Supervisor::new(settings, directory, Arc::new(balancer), log.clone())
        .map_err(|error| Failure::system(format!("cannot start the supervisor: {error}")))
}

/// The admin socket and the name it is found by. A program that was given no name makes way for
/// one that runs already.
async fn admin_socket(
    settings: &AdminSettings,
    log: &Log,
) -> Result<(AdminSocket, String, UnixListener), Failure> {
    let system = |error: evener_admin::SocketError| Failure::system(error.to_string());
    let named = settings.name.clone();
    if let Some(path) = &settings.socket {
        let name = named.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let (socket, listener) = AdminSocket::bind(path, false).await.map_err(system)?;
        return Ok((socket, name, listener));
    }
    let name = named.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned());
    match AdminSocket::bind(&socket_path(&name), true).await {
        Ok((socket, listener)) => Ok((socket, name, listener)),
        Err(evener_admin::SocketError::InUse { .. }) if named.is_none() => {
            let name = format!("{DEFAULT_NAME}-{}", std::process::id());
            log.info(format_args!(
                "another evener has the name `{DEFAULT_NAME}`; this one is called `{name}` \
                 (--name gives it another)"
            ));
            let (socket, listener) = AdminSocket::bind(&socket_path(&name), true)
                .await
                .map_err(system)?;
            Ok((socket, name, listener))
        }
        Err(error) => Err(system(error)),
    }
}

async fn admin_address(settings: &AdminSettings) -> Result<Option<(TcpListener, Access)>, Failure> {
    let Some(text) = &settings.address else {
        return Ok(None);
    };
    let wrong = |error: &dyn std::fmt::Display| format!("--admin-address {text}: {error}");
    let address = text
        .to_socket_addrs()
        .map_err(|error| Failure::usage(wrong(&format!("write HOST:PORT; {error}"))))?
        .next()
        .ok_or_else(|| Failure::usage(wrong(&"the name has no address")))?;
    let access = Access::tcp(address, settings.token.clone())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| Failure::system(wrong(&error)))?;
    Ok(Some((listener, access)))
}

fn banner(log: &Log, resolved: &Resolved, program: &Program, admin: &str) {
    let (version, app) = (env!("CARGO_PKG_VERSION"), &program.app);
    let addresses = program.addresses.join(" and ");
    let count = resolved.count;
    let workers = if count == 1 { "worker" } else { "workers" };
    log.info(format_args!("Evener {version} serves {app} on {addresses}"));
    let kind = match &resolved.worker {
        Worker::Evener { .. } => "Evener's own",
        Worker::Uvicorn { .. } => "uvicorn",
        Worker::Command { .. } => "from a command",
    };
    log.info(format_args!(
        "starting {count} {workers} ({kind}); admin at {admin}"
    ));
    let again = if resolved.reload.is_some() {
        ", reloads when files change"
    } else {
        ""
    };
    log.info(format_args!(
        "stops on Ctrl-C or SIGTERM, reloads on SIGHUP or `evener reload`{again} (process {})",
        std::process::id()
    ));
}

/// A running program.
struct Running {
    tls: Option<Arc<ServerTls>>,
    grace: Duration,
    edge: Edge,
    handle: Handle,
    program: Arc<Program>,
    log: Log,
    signals: Signals,
    orders: mpsc::Receiver<Order>,
    changes: Option<Changes>,
    /// Set while it stops.
    stopping: Option<Stopping>,
    workers: JoinHandle<Outcome>,
}

/// How far a stop has come.
struct Stopping {
    /// When what is under way is given up.
    deadline: Instant,
    /// Whether the workers were told.
    workers_told: bool,
}

impl Running {
    async fn run(mut self) -> Outcome {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let mut looks = tokio::time::interval(STOP_POLL);
        let outcome = loop {
            let waiting = self
                .stopping
                .as_ref()
                .is_some_and(|stopping| !stopping.workers_told);
            let changes = async {
                match &mut self.changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = &mut self.workers => break ended,
                signal = self.signals.next() => self.handle_signal(signal).await,
                Some(order) = self.orders.recv() => self.handle_order(order).await,
                changed = changes => self.handle_changes(&changed).await,
                _ = looks.tick(), if waiting => self.look_whether_clients_are_done().await,
                _ = seconds.tick() => self.program.window.tick(&self.program.telemetry),
            }
        };
        self.edge.stop();
        match outcome {
            Ok(outcome) => {
                if matches!(outcome, Outcome::Stopped) {
                    self.log.info(format_args!("stopped"));
                }
                outcome
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Reads the certificates anew, then replaces the workers; `None` while stopping.
    async fn reload(&mut self) -> Option<u32> {
        if let Some(Err(error)) = self.tls.as_ref().map(|tls| tls.reload()) {
            self.log.error(format_args!(
                "{error}; the certificates that were read before stay in use"
            ));
        }
        self.handle.reload().await
    }

    async fn handle_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Stop(name) => self.stop(name).await,
            Signal::Reload => {
                self.log
                    .info(format_args!("SIGHUP: replacing the workers one by one"));
                self.reload().await;
            }
            Signal::More => self.handle.scale_by(1).await,
            Signal::Fewer => self.handle.scale_by(-1).await,
        }
    }

    /// Begins to stop; asked again, hurries.
    async fn stop(&mut self, why: &str) {
        if let Some(stopping) = &mut self.stopping {
            stopping.workers_told = true;
            self.log.warning(format_args!(
                "{why} again: not waiting for what is under way"
            ));
            self.handle.stop(Duration::ZERO).await;
            self.handle.hurry().await;
            return;
        }
        self.program.draining.store(true, Ordering::Relaxed);
        self.edge.drain();
        let grace = self.grace.as_secs_f64();
        self.log.info(format_args!(
            "{why}: finishing what is under way, for {grace} s at most (again: at once)"
        ));
        let deadline = Instant::now() + self.grace;
        self.stopping = Some(Stopping {
            deadline,
            workers_told: false,
        });
    }

    /// Workers are told to stop once no client can bring another request: every connection that
    /// is left has its last one at a worker. Time that is left then is the workers'.
    async fn look_whether_clients_are_done(&mut self) {
        let Some(stopping) = &mut self.stopping else {
            return;
        };
        let cluster = self.program.cluster.snapshot();
        let in_flight: usize = cluster
            .endpoints
            .iter()
            .map(|endpoint| endpoint.in_flight as usize)
            .sum();
        let now = Instant::now();
        let done = self.edge.connections() <= in_flight && cluster.queued == 0;
        if done || now >= stopping.deadline {
            stopping.workers_told = true;
            self.handle
                .stop(stopping.deadline.saturating_duration_since(now))
                .await;
        }
    }

    async fn handle_order(&mut self, order: Order) {
        let answer = match order.command {
            AdminCommand::Reload => {
                let reloading = "replacing the workers one by one".to_owned();
                self.log.info(format_args!("admin: {reloading}"));
                match self.reload().await {
                    None => Err("the program is stopping".to_owned()),
                    generation => Ok(Receipt {
                        message: reloading,
                        generation,
                    }),
                }
            }
            AdminCommand::Scale(count) => match self.handle.scale(count).await {
                Ok(count) => Ok(Receipt {
                    message: format!("{count} workers wanted"),
                    generation: None,
                }),
                Err(error) => Err(error.to_string()),
            },
            AdminCommand::Drain => {
                if self.stopping.is_none() {
                    self.stop("evener drain").await;
                }
                let message = "stopping after what is under way".to_owned();
                Ok(Receipt {
                    message,
                    generation: None,
                })
            }
        };
        // The one who asked may have left.
        let _ = order.reply.send(answer);
    }

    async fn handle_changes(&mut self, changed: &[PathBuf]) {
        let here = std::env::current_dir().unwrap_or_default();
        let short = |path: &PathBuf| {
            path.strip_prefix(&here)
                .unwrap_or(path)
                .display()
                .to_string()
        };
        let mut names: Vec<String> = changed.iter().take(3).map(short).collect();
        if changed.len() > names.len() {
            names.push(format!("{} more", changed.len() - names.len()));
        }
        let names = names.join(", ");
        self.log
            .info(format_args!("changed: {names}; replacing the workers"));
        self.handle.reload().await;
    }
}
