//! Brings a program to life from what it begins with: listeners, data plane, workers, admin API.
//! What happens to it then is left to `running`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evener_admin::Server;
use evener_config::values::ListenAddress as Wanted;
use evener_config::{Config, Listener};
use evener_edge::{Cluster, Edge, Http2Terms, ListenAddress, ListenerSpec, Relays};
use evener_net::ServerTls;
use evener_supervisor::{
    Handle, LeadManner, NurseryRecipe, NurserySettings, Outcome, Patience, Recipe, Reconfigure,
    RestartPolicy, RunDirectory, ScaleError, SetUp, Settings, Supervisor,
};
use evener_telemetry::{AccessFormat, Log, LogFile, LogFormat, Telemetry, TelemetryConfig};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::Failure;
use crate::administration::Administration;
use crate::application::Application;
use crate::balancer::ClusterBalancer;
use crate::changes::Changes;
use crate::failure;
use crate::logs::Logs;
use crate::nursery::{self, Host};
use crate::reread::Reread;
use crate::resolve::{AdminSettings, LogSettings, Resolved, Worker};
use crate::running::{Ended, Fleet, Running};
use crate::signals::Signals;
use crate::site::Site;
use crate::sockets::{Sockets, inherit};
use crate::source::{Program, Window};
use crate::statsd::Statsd;
use crate::systemd::{Activated, Notifier};
use crate::tls;
use crate::upkeep::Upkeep;

/// The name of a program that was given none.
pub(crate) const DEFAULT_NAME: &str = "evener";
/// Pause before a worker that drains itself is asked to: requests that were just sent arrive.
const SETTLE: Duration = Duration::from_millis(200);

/// Everything that a program begins with.
pub(crate) struct Start {
    pub(crate) config: Config,
    pub(crate) shards: usize,
    pub(crate) log: LogSettings,
    pub(crate) admin: AdminSettings,
    /// The local application, if there is one.
    pub(crate) app: Option<App>,
    /// The file to read again on a reload, if there is one.
    pub(crate) reread: Option<Reread>,
    /// What is served, for people.
    pub(crate) title: String,
    /// What was asked for and is not done as asked.
    pub(crate) notes: Vec<String>,
    /// The nursery, if it is there already.
    pub(crate) host: Option<Host>,
    /// Makes the sockets that clients connect to, in the place of what the configuration says.
    pub(crate) sockets: Option<OpenSockets>,
    /// Logs in the place of what `log` says.
    pub(crate) logs: Option<Logs>,
    /// Files of theirs that are opened again when asked for.
    pub(crate) log_files: Vec<LogFile>,
    /// Sends what is counted elsewhere, if that is asked for.
    pub(crate) statsd: Option<Statsd>,
    /// Sockets that were opened for us, in the place of what we would open.
    pub(crate) activated: Activated,
}

/// Makes sockets, given the length of their queues.
pub(crate) type OpenSockets = Box<dyn FnOnce(u32) -> Result<Sockets, Failure>>;

/// The local application and how it is run.
pub(crate) struct App {
    pub(crate) resolved: Resolved,
    /// Known unless a command of the user's is run.
    pub(crate) application: Option<Application>,
    pub(crate) recipe: Recipe,
    /// What the nursery is told before it forks, if workers are forked.
    pub(crate) set_up: Option<SetUp>,
    /// Judges settings that the nursery has read anew.
    pub(crate) reconfigure: Option<Reconfigure>,
    /// Whether it is run as gunicorn runs it.
    pub(crate) as_gunicorn: bool,
    /// Whether an older program, that this one takes over from, has the leader.
    pub(crate) leads_later: bool,
}

impl App {
    /// Starts a nursery in the place of an interpreter of its own for each worker.
    async fn preload(&mut self, log: &Log) -> Result<Host, Failure> {
        let Recipe::Python(python) = &self.recipe else {
            return Err(Failure::usage(
                "--preload needs Evener's own workers (--worker evener)".to_owned(),
            ));
        };
        let arguments = python.arguments.iter();
        let arguments = arguments.map(|word| word.to_string_lossy().into_owned());
        self.set_up = Some(SetUp {
            arguments: arguments.collect(),
            preload: true,
            title: None,
            upgraded_from: 0,
        });
        let settings = NurserySettings {
            interpreter: python.interpreter.clone(),
            gunicorn: None,
            environment: python.environment.clone(),
        };
        let (host, _) = nursery::start(settings, log.clone())
            .await
            .map_err(nursery::failure)?;
        self.recipe = Recipe::Nursery(NurseryRecipe {
            nursery: host.nursery.clone(),
            output_is_ours: false,
            title: None,
        });
        Ok(host)
    }
}

/// What the control thread runs on.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::system(format!("cannot start: {error}")))
}

impl Start {
    /// Runs until the program is told to stop.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        let mut wanted = listeners(&self.config.listeners, true).map_err(Failure::usage)?;
        let mut activated = Activated::take().map_err(Failure::usage)?;
        if self.reread.is_none() {
            wanted = activated.in_place_of(wanted);
        } else {
            activated.lend(&mut wanted);
            let unused = activated.unused(&wanted);
            if !unused.is_empty() {
                return Err(Failure::usage(format!(
                    "sockets were opened for this program that no `[[listener]]` of {} names: {}; \
                     give each an address there, or take it out of the socket unit",
                    self.title,
                    unused.join(", ")
                )));
            }
        }
        self.activated = activated;
        self.run_on(&runtime()?, wanted)
    }

    /// The same on a runtime that is there already, with these listeners.
    pub(crate) fn run_on(
        mut self,
        runtime: &Runtime,
        listeners: Vec<ListenerSpec>,
    ) -> Result<(), Failure> {
        let telemetry = match self.logs.take() {
            Some(logs) => {
                self.log_files.clone_from(&logs.files);
                logs.telemetry()
            }
            None => telemetry(self.log),
        };
        for note in &self.notes {
            telemetry.log().warning(format_args!("{note}"));
        }
        let ended = runtime.block_on(self.serve(listeners, telemetry.clone()));
        telemetry.finish();
        ended
    }

    /// Everything that comes before the listeners: the nursery, and the sockets themselves.
    async fn before_listening(
        &mut self,
        listeners: &mut Vec<ListenerSpec>,
        log: &Log,
    ) -> Result<Option<Sockets>, Failure> {
        if let Some(app) = &mut self.app {
            if app.resolved.preload && self.host.is_none() {
                self.host = Some(app.preload(log).await?);
            }
            if let (Some(host), Some(set_up)) = (&mut self.host, app.set_up.take()) {
                host.set_up(set_up).await?;
                host.before_listening().await?;
            }
        }
        let Some(open) = self.sockets.take() else {
            return Ok(None);
        };
        let (tls, http2) = listening_terms(&self.config).map_err(Failure::usage)?;
        let sockets = open(self.config.backlog)?;
        *listeners = sockets
            .specs(tls.as_ref(), http2)
            .map_err(|error| Failure::system(error.to_string()))?;
        Ok(Some(sockets))
    }

    /// The data plane, with the clusters of `site` behind it.
    fn start_edge(
        &self,
        site: &Site,
        listeners: Vec<ListenerSpec>,
        telemetry: &Telemetry,
    ) -> Result<Edge, Failure> {
        let planned = site.plan(&self.config, listeners, self.shards);
        let (config, plan) = planned.map_err(Failure::usage)?;
        let edge = Edge::start(config, telemetry);
        let edge = edge.map_err(|error| Failure::system(error.to_string()))?;
        site.take_on(plan);
        Ok(edge)
    }

    async fn serve(
        mut self,
        mut listeners: Vec<ListenerSpec>,
        telemetry: Telemetry,
    ) -> Result<(), Failure> {
        let log = telemetry.log().clone();
        let signals = Signals::listen()
            .map_err(|error| Failure::system(format!("cannot listen to signals: {error}")))?;
        let sockets = self.before_listening(&mut listeners, &log).await?;
        let older = self.app.as_ref().is_some_and(|app| app.leads_later);
        let mut administration = Administration::open(&self.admin, older, &log).await?;
        let changes = self.app.as_ref().map(watch_changes).transpose()?.flatten();
        let site = Arc::new(Site::default());
        site.set_bulkhead(self.app.as_ref().is_some_and(|app| app.resolved.bulkhead));
        let edge = self.start_edge(&site, listeners, &telemetry)?;
        if let Some(host) = &self.host {
            host.listening(&edge.addresses()).await?;
        }
        let upkeep = Upkeep::begin(Arc::clone(&site), &self.config.dns, &log);
        let app = self.app.as_ref().zip(site.app());
        let workers = app.map(|(app, cluster)| supervisor(app, &cluster, &log));
        let workers = workers.transpose()?;
        let program = Arc::new(Program {
            name: administration.name.clone(),
            app: self.title.clone(),
            addresses: Mutex::new(edge.addresses()),
            handle: workers.as_ref().map(|(_, handle)| handle.clone()),
            site,
            telemetry,
            window: Window::default(),
            draining: AtomicBool::new(false),
        });
        let (orders, received) = mpsc::channel(16);
        let server = Server::new(Arc::clone(&program) as _, orders);
        let admin = administration.begin(server)?;
        banner(&log, &self, &program, &admin);
        let running = Running {
            grace: self.config.graceful_shutdown,
            drain_delay: self.config.drain_delay,
            shards: self.shards,
            edge,
            program,
            log: log.clone(),
            signals,
            orders: received,
            upkeep,
            activated: self.activated,
            notifier: Notifier::from_environment(),
            changes,
            reread: self.reread,
            stopping: None,
            host: self.host,
            sockets,
            resting: None,
            log_files: self.log_files,
            statsd: self.statsd,
            administration,
            fleet: workers.map(|(supervisor, handle)| Fleet {
                handle,
                workers: tokio::spawn(supervisor.run()),
            }),
        };
        let end = running.run().await;
        let outcome = put_away(end).await?;
        ended(outcome, self.app, self.title)
    }
}

/// Ends what was begun before the program served.
async fn put_away(end: Ended) -> Result<Outcome, Failure> {
    let manners = end.host.as_ref().and_then(|host| host.manners.as_ref());
    let handed_on = manners.is_some_and(|manners| manners.upgrade.has_newer());
    if let Some(sockets) = end.sockets.filter(|_| !handed_on) {
        sockets.clear();
    }
    if let Some(mut host) = end.host {
        let raised = matches!(end.outcome, Outcome::Raised);
        host.over(raised).await?;
    }
    Ok(end.outcome)
}

/// How the program ends after its workers have.
fn ended(outcome: Outcome, app: Option<App>, title: String) -> Result<(), Failure> {
    match outcome {
        Outcome::Stopped => Ok(()),
        Outcome::Raised => Err(Failure::said(255)),
        Outcome::NeverStarted(reason) => {
            let application = app.and_then(|app| app.application);
            let title = application.map_or(title, |application| application.target);
            Err(Failure::application(failure::describe(&title, &reason)))
        }
    }
}

/// What is agreed on with the clients of the first listener.
pub(crate) fn listening_terms(
    config: &Config,
) -> Result<(Option<Arc<ServerTls>>, Option<Http2Terms>), String> {
    let Some(listener) = config.listeners.first() else {
        return Ok((None, None));
    };
    let tls = listener.tls.as_ref();
    let tls = tls.map(|tls| tls::read(tls, listener.http2.is_some()));
    Ok((tls.transpose()?, listener.http2))
}

/// Every address of every listener. Descriptors are taken over at the `start` only.
pub(crate) fn listeners(wanted: &[Listener], start: bool) -> Result<Vec<ListenerSpec>, String> {
    let mut specs = Vec::new();
    for listener in wanted {
        let http2 = listener.http2;
        let tls = listener.tls.as_ref();
        let tls = tls.map(|tls| tls::read(tls, http2.is_some())).transpose()?;
        let mut add = |address| {
            let (name, tls) = (listener.name.clone(), tls.clone());
            specs.push(ListenerSpec {
                name,
                address,
                tls,
                http2,
                relays: listener.proxied.clone().map(|from| Relays {
                    from,
                    version: None,
                    required: true,
                }),
            });
        };
        match &listener.address {
            Wanted::Unix(path) => add(ListenAddress::Unix(path.clone())),
            Wanted::Descriptor(number) => add(ListenAddress::Inherited {
                number: *number,
                descriptor: start.then(|| inherit(*number)).transpose()?,
            }),
            Wanted::Tcp { host, port } => {
                let mut addresses: Vec<SocketAddr> = (host.as_str(), *port)
                    .to_socket_addrs()
                    .map_err(|error| format!("cannot listen on {host}: no such address: {error}"))?
                    .collect();
                addresses.sort();
                addresses.dedup();
                if addresses.is_empty() {
                    return Err(format!("cannot listen on {host}: the name has no address"));
                }
                addresses.into_iter().map(ListenAddress::Tcp).for_each(add);
            }
        }
    }
    Ok(specs)
}

fn telemetry(settings: LogSettings) -> Telemetry {
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

fn watch_changes(app: &App) -> Result<Option<Changes>, Failure> {
    let application = app.application.as_ref();
    let Some(reload) = &app.resolved.reload else {
        return Ok(None);
    };
    let folder = application.map_or(PathBuf::from("."), |application| application.folder.clone());
    Changes::watch(reload.clone(), &folder)
        .map(Some)
        .map_err(Failure::system)
}

fn supervisor(
    app: &App,
    cluster: &Arc<Cluster>,
    log: &Log,
) -> Result<(Supervisor, Handle), Failure> {
    let resolved = &app.resolved;
    let shares = resolved.shares.as_ref();
    let parent = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let parent = parent
        .filter(|path| path.is_dir())
        .unwrap_or_else(|| PathBuf::from("/tmp"));
    let directory =
        RunDirectory::create(&parent).map_err(|error| Failure::system(error.to_string()))?;
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let bounds = bounds(resolved);
    let settings = Settings {
        recipe: app.recipe.clone(),
        count: resolved.count,
        count_max: bounds.count_max,
        count_max_reason: bounds.reason,
        processes_max: shares.map_or(usize::MAX, |shares| shares.processes_max),
        relief: resolved.relief,
        patience: Patience {
            startup: resolved.startup,
            grace: resolved.grace,
            stop: resolved.stop,
            // A command of the user's may end at once when it is asked to.
            settle: (!matches!(resolved.worker, Worker::Command { .. })).then_some(SETTLE),
        },
        restart: RestartPolicy::default(),
        recycle: resolved.recycle,
        stall: resolved.stall,
        page_slots: resolved.in_flight_max,
        backlog: i32::try_from(resolved.backlog).unwrap_or(i32::MAX),
        leaving_max: resolved.leaving_max,
        oldest_first: app.as_gunicorn,
        lead: lead_manner(resolved.tells_leader),
        lead_withheld: app.leads_later,
        waits_when_broken: resolved.reload.is_some(),
        environment: shares.map_or_else(Vec::new, |shares| shares.environment.clone()),
        reconfigure: app.reconfigure.clone(),
        seed: u64::from(since.subsec_nanos()) ^ u64::from(std::process::id()) << 32,
    };
    let balancer = ClusterBalancer {
        cluster: Arc::clone(cluster),
        in_flight_max: resolved.in_flight_max,
    };
    let (supervisor, handle) =
        Supervisor::new(settings, directory, Arc::new(balancer), log.clone())
            .map_err(|error| Failure::system(format!("cannot start the supervisor: {error}")))?;
    if resolved.relief.is_some() {
        ring(cluster, &handle);
    }
    Ok((supervisor, handle))
}

/// Has the workers looked at when requests wait and every loop stands still.
pub(crate) fn ring(cluster: &Cluster, handle: &Handle) {
    let alarmed = handle.clone();
    cluster.set_alarm(Box::new(move || alarmed.alarm()));
}

/// How many workers can be asked for.
pub(crate) fn bounds(resolved: &Resolved) -> ScaleError {
    let shares = resolved.shares.as_ref();
    ScaleError {
        count_max: shares.map_or(resolved.count_max, |shares| shares.count_max),
        reason: shares.map(|shares| shares.reason.clone()),
    }
}

/// How workers learn that they lead: ours at any time, others only by what they are started with.
fn lead_manner(tells: bool) -> LeadManner {
    match tells {
        true => LeadManner::Told,
        false => LeadManner::AtStart,
    }
}

fn banner(log: &Log, start: &Start, program: &Program, admin: &str) {
    let (version, app) = (env!("CARGO_PKG_VERSION"), &program.app);
    let addresses = edge_addresses(program);
    log.info(format_args!("Evener {version} serves {app} on {addresses}"));
    if let Some(app) = &start.app {
        let count = app.resolved.count;
        let workers = if count == 1 { "worker" } else { "workers" };
        let kind = match &app.resolved.worker {
            Worker::Evener { .. } => "Evener's own",
            Worker::Uvicorn { .. } => "uvicorn",
            Worker::Command { .. } => "from a command",
        };
        log.info(format_args!(
            "starting {count} {workers} ({kind}); admin at {admin}"
        ));
    } else {
        log.info(format_args!("admin at {admin}"));
    }
    let reload = start
        .app
        .as_ref()
        .and_then(|app| app.resolved.reload.as_ref());
    let again = reload.map_or("", |_| ", reloads when files change");
    log.info(format_args!(
        "stops on Ctrl-C or SIGTERM, reloads on SIGHUP or `evener reload`{again} (process {})",
        std::process::id()
    ));
}

fn edge_addresses(program: &Program) -> String {
    program.addresses().join(" and ")
}
