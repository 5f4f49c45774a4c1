//! The command line as typed. What it means, with defaults that depend on the surroundings, is
//! left to `resolve`; flags of uvicorn keep their names and meanings where they have one here.

mod generate;
mod workers;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::values::{ByteSize, Deadline, Field, Scaling, ShardCount, SizeLimit, Time, UrlPath};

pub(crate) use generate::{GenerateArguments, Generated, SystemdArguments};
pub(crate) use workers::WorkerArguments;

/// Serves, balances and supervises FastAPI (ASGI) applications.
#[derive(Debug, Parser)]
#[command(name = "evener", version, disable_help_subcommand = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve an application from one or more worker processes.
    Run(Box<RunArguments>),
    /// Serve what a configuration file says.
    Serve(ServeArguments),
    /// Say what is wrong with a configuration file; the status is 0 if nothing is, else 1.
    Check(CheckArguments),
    /// Serve an application as gunicorn's command line and configuration file say.
    #[command(disable_help_flag = true)]
    Gunicorn(GunicornArguments),
    /// Say how the running program is doing.
    Status(ClientArguments),
    /// List the workers of the running program.
    Workers(ClientArguments),
    /// Replace all workers one by one, each new one ready before an old one goes.
    Reload(ReloadArguments),
    /// Change the number of workers.
    Scale(ScaleArguments),
    /// Open log files again, after they were moved away (SIGUSR1).
    Reopen(ClientArguments),
    /// Start a newer program beside the running one, on the same sockets; `evener drain` of the
    /// older one leaves the service to it (SIGUSR2).
    Upgrade(ClientArguments),
    /// End the workers and take no connections until `evener reload` (SIGWINCH).
    Rest(ClientArguments),
    /// Stop the running program after finishing what is under way; or give one endpoint no new
    /// requests.
    Drain(DrainArguments),
    /// Write files for what runs this program.
    Generate(GenerateArguments),
    /// Say which version this is.
    Version,
}

/// Which running program is meant.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct ClientArguments {
    /// Its name, when several run.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Its admin socket, when it was given with `--admin`.
    #[arg(long, value_name = "PATH")]
    pub(crate) admin: Option<PathBuf>,
    /// Answer in JSON, for machines.
    #[arg(long)]
    pub(crate) json: bool,
}

/// gunicorn's own command line, which its settings' own reader reads.
#[derive(Debug, Args)]
pub(crate) struct GunicornArguments {
    /// gunicorn's options and the application, as MODULE:ATTRIBUTE.
    #[arg(
        value_name = "ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) arguments: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// The file.
    #[arg(short, long, value_name = "FILE", default_value = "evener.toml")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// The file.
    #[arg(short, long, value_name = "FILE", default_value = "evener.toml")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ReloadArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// Return at once instead of waiting until all workers have been replaced.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArguments {
    /// Only this endpoint, as CLUSTER/ENDPOINT with its name or address; the program goes on.
    #[arg(value_name = "ENDPOINT")]
    pub(crate) endpoint: Option<String>,
    /// Without waiting for what is under way (SIGQUIT).
    #[arg(long, conflicts_with = "endpoint")]
    pub(crate) quick: bool,
    /// Give the endpoint requests again.
    #[arg(long, requires = "endpoint")]
    pub(crate) undo: bool,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ScaleArguments {
    /// How many workers there should be; with a sign, how many more or fewer (SIGTTIN, SIGTTOU).
    #[arg(value_name = "N|+N|-N", allow_hyphen_values = true)]
    pub(crate) count: Scaling,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}

#[derive(Debug, Args)]
#[command(next_line_help = true, args_override_self = true)]
pub(crate) struct RunArguments {
    /// The application as MODULE:ATTRIBUTE, such as `main:app`. Left out: looked for in main.py,
    /// app.py, app/main.py, src/main.py and the like.
    #[arg(value_name = "APP")]
    pub(crate) app: Option<String>,
    #[command(flatten)]
    pub(crate) listen: ListenArguments,
    #[command(flatten)]
    pub(crate) application: ApplicationArguments,
    #[command(flatten)]
    pub(crate) workers: WorkerArguments,
    #[command(flatten)]
    pub(crate) clients: ClientTrustArguments,
    #[command(flatten)]
    pub(crate) limits: LimitArguments,
    #[command(flatten)]
    pub(crate) timeouts: TimeoutArguments,
    #[command(flatten)]
    pub(crate) logging: LogArguments,
    #[command(flatten)]
    pub(crate) admin: AdminArguments,
    #[command(flatten)]
    pub(crate) reload: ReloadOnChange,
    #[command(flatten)]
    pub(crate) tls: TlsArguments,
    #[command(flatten)]
    pub(crate) uvicorn: UvicornArguments,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Where to listen")]
pub(crate) struct ListenArguments {
    /// Address or name of the interface to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port to listen on; 0 takes any free one.
    #[arg(long, default_value_t = 8000)]
    pub(crate) port: u16,
    /// Listen on this unix socket instead of a port.
    #[arg(long, value_name = "PATH")]
    pub(crate) uds: Option<PathBuf>,
    /// Listen on this inherited descriptor instead of a port.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub(crate) fd: Option<i32>,
    /// Connections that may wait to be accepted.
    #[arg(long, value_name = "N", default_value_t = 2048,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) backlog: u32,
    /// Data-plane threads; `auto` is one for each four workers, at most one per CPU.
    #[arg(long, value_name = "N|auto", default_value = "auto")]
    pub(crate) shards: ShardCount,
    /// Path that the edge answers with 200 as long as it runs [default: /health/liveness, if the
    /// application has nothing there].
    #[arg(long, value_name = "PATH")]
    pub(crate) liveness_path: Option<UrlPath>,
    /// Path that the edge answers with 200 when a worker can take a request, else with 503
    /// [default: /health/readiness, if the application has nothing there].
    #[arg(long, value_name = "PATH")]
    pub(crate) readiness_path: Option<UrlPath>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The application")]
pub(crate) struct ApplicationArguments {
    /// Folder that the application is imported from [default: the current one].
    #[arg(long, value_name = "DIR")]
    pub(crate) app_dir: Option<PathBuf>,
    /// APP names a function that returns the application.
    #[arg(long)]
    pub(crate) factory: bool,
    /// File of NAME=VALUE lines for the workers' environment; what is set already stays.
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
    /// The path below which the application is reachable (ASGI `root_path`).
    #[arg(long, value_name = "PATH", default_value = "")]
    pub(crate) root_path: String,
    /// Whether the application has lifespan events.
    #[arg(long, value_enum, default_value_t = Lifespan::Auto)]
    pub(crate) lifespan: Lifespan,
    /// Event loop of the workers: auto, uvloop or asyncio; command workers take any of
    /// uvicorn's.
    #[arg(long = "loop", value_name = "LOOP", default_value = "auto")]
    pub(crate) event_loop: String,
}

/// Whether the application has lifespan events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lifespan {
    /// Tries, and goes on without when it has none.
    Auto,
    /// It has; a failure ends the worker.
    On,
    /// It has none.
    Off,
}

impl Lifespan {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Lifespan::Auto => "auto",
            Lifespan::On => "on",
            Lifespan::Off => "off",
        }
    }
}

/// What kind of process serves the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WorkerKind {
    /// Evener's own ASGI server.
    Evener,
    /// uvicorn, or what `--worker-command` says.
    Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Clients and headers")]
pub(crate) struct ClientTrustArguments {
    /// Believe X-Forwarded-* header fields from trusted addresses (the default).
    #[arg(long, overrides_with = "no_proxy_headers")]
    pub(crate) proxy_headers: bool,
    /// Believe nobody's X-Forwarded-* header fields.
    #[arg(long, overrides_with = "proxy_headers")]
    pub(crate) no_proxy_headers: bool,
    /// Trusted addresses and networks with commas between them, `unix` for unix-socket clients,
    /// `*` for all [default: $FORWARDED_ALLOW_IPS, else 127.0.0.1].
    #[arg(long, value_name = "LIST")]
    pub(crate) forwarded_allow_ips: Option<String>,
    /// Header field added to every response, as `Name: value`; may be repeated.
    #[arg(long = "header", value_name = "FIELD")]
    pub(crate) headers: Vec<Field>,
    /// The worker sends a Server header field (the default).
    #[arg(long, overrides_with = "no_server_header")]
    pub(crate) server_header: bool,
    /// The worker sends no Server header field.
    #[arg(long, overrides_with = "server_header")]
    pub(crate) no_server_header: bool,
    /// The worker sends a Date header field (the default).
    #[arg(long, overrides_with = "no_date_header")]
    pub(crate) date_header: bool,
    /// The worker sends no Date header field.
    #[arg(long, overrides_with = "date_header")]
    pub(crate) no_date_header: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Bounds on sizes and counts (`64k`, `1m`)")]
pub(crate) struct LimitArguments {
    /// Request line and header fields together (431; the request line alone: 414).
    #[arg(long, value_name = "SIZE", default_value = "32k")]
    pub(crate) limit_head_bytes: ByteSize,
    /// Header fields of a request (431).
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit_header_count: u32,
    /// Request body (413); `off` for no bound.
    #[arg(long, value_name = "SIZE|off", default_value = "1g")]
    pub(crate) limit_body_bytes: SizeLimit,
    /// Client connections; further ones wait to be accepted.
    #[arg(long, value_name = "N", default_value_t = 20_000,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit_connections: u32,
    /// Requests that may wait for a worker (503 beyond it).
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) limit_queue: u32,
    /// Request bytes kept so that a request can be sent to another worker.
    #[arg(long, value_name = "SIZE", default_value = "64k")]
    pub(crate) limit_replay_bytes: ByteSize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Deadlines (`500ms`, `10s`, `2m`, bare seconds, or `off`)")]
pub(crate) struct TimeoutArguments {
    /// A connection without a request is closed after this.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "65s",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_keep_alive: Deadline,
    /// Until a request's head is complete (408).
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_header_read: Deadline,
    /// Between two pieces of a request body (408).
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_body_gap: Deadline,
    /// A client that takes none of its response for so long is cut off.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_send_gap: Deadline,
    /// Until a connection to a worker is there (504).
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_connect: Deadline,
    /// Until a response begins (504).
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_first_byte: Deadline,
    /// Between two pieces of a response (504).
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5m",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_response_gap: Deadline,
    /// The whole request (504).
    #[arg(
        long,
        value_name = "TIME",
        default_value = "off",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_request: Deadline,
    /// Waiting for a worker (503).
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_queue: Deadline,
    /// An idle connection to a worker is closed after this.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_upstream_idle: Deadline,
    /// A WebSocket that carries nothing for so long is closed.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "off",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_tunnel_idle: Deadline,
    /// Time for requests under way when a worker or the program goes.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_graceful_shutdown: Time,
    /// After SIGTERM, so long the readiness path says no and all is served as before, so that
    /// load balancers can look elsewhere first.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "0",
        allow_hyphen_values = true
    )]
    pub(crate) drain_delay: Time,
}

/// uvicorn's log levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Critical,
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormatName {
    /// As uvicorn writes them.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Logs")]
pub(crate) struct LogArguments {
    /// What is worth a line on standard error.
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    pub(crate) log_level: LogLevel,
    /// Form of the logs.
    #[arg(long, value_enum, default_value_t = LogFormatName::Text)]
    pub(crate) log_format: LogFormatName,
    /// A line on standard output for each request (the default).
    #[arg(long, overrides_with = "no_access_log")]
    pub(crate) access_log: bool,
    /// No line for each request.
    #[arg(long, overrides_with = "access_log")]
    pub(crate) no_access_log: bool,
    /// Colours in the logs, also without a terminal.
    #[arg(long, overrides_with = "no_use_colors")]
    pub(crate) use_colors: bool,
    /// No colours in the logs.
    #[arg(long, overrides_with = "use_colors")]
    pub(crate) no_use_colors: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Administration")]
pub(crate) struct AdminArguments {
    /// Name by which `evener status` and its like find this program.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Path of the admin socket [default: by the name, in $XDG_RUNTIME_DIR/evener, /run/evener
    /// or /tmp].
    #[arg(long, value_name = "PATH")]
    pub(crate) admin: Option<PathBuf>,
    /// Serve the admin API and the dashboard on this address too.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin_address: Option<String>,
    /// Token that the admin address asks for (or $EVENER_ADMIN_TOKEN); needed unless the address
    /// is a loopback one.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) admin_token: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Reload on change")]
pub(crate) struct ReloadOnChange {
    /// Replace the workers when the application's files change.
    #[arg(long)]
    pub(crate) reload: bool,
    /// Folder to watch; may be repeated [default: that of the application].
    #[arg(long = "reload-dir", value_name = "DIR")]
    pub(crate) reload_dirs: Vec<PathBuf>,
    /// Names of files to watch; may be repeated [default: *.py].
    #[arg(long = "reload-include", value_name = "GLOB")]
    pub(crate) reload_includes: Vec<String>,
    /// Names of files not to watch; may be repeated.
    #[arg(long = "reload-exclude", value_name = "GLOB")]
    pub(crate) reload_excludes: Vec<String>,
    /// Quiet time after a change before the workers are replaced.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "0.25",
        allow_hyphen_values = true
    )]
    pub(crate) reload_delay: Time,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsArguments {
    /// PEM file with the certificate and those that signed it; given, clients speak TLS. Read
    /// again at every reload.
    #[arg(long, value_name = "FILE")]
    pub(crate) ssl_certfile: Option<PathBuf>,
    /// PEM file with its private key [default: it is in --ssl-certfile].
    #[arg(long, value_name = "FILE")]
    pub(crate) ssl_keyfile: Option<PathBuf>,
    /// PEM file of the authorities that sign the certificates of clients.
    #[arg(long, value_name = "FILE")]
    pub(crate) ssl_ca_certs: Option<PathBuf>,
    /// Whether clients show a certificate: 0 no, 1 if they like, 2 they must.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) ssl_cert_reqs: Option<u8>,
    /// Refused: a passphrase on the command line is one that everybody reads.
    #[arg(long, value_name = "TEXT", hide = true)]
    pub(crate) ssl_keyfile_password: Option<String>,
    /// Without meaning here.
    #[arg(long, value_name = "N", hide = true)]
    pub(crate) ssl_version: Option<String>,
    /// Without meaning here.
    #[arg(long, value_name = "TEXT", hide = true)]
    pub(crate) ssl_ciphers: Option<String>,
}

/// Flags of uvicorn that go to the workers, or that mean nothing here.
#[derive(Debug, Args)]
#[command(next_help_heading = "Other flags of uvicorn")]
pub(crate) struct UvicornArguments {
    /// HTTP implementation of uvicorn workers.
    #[arg(long = "http", value_name = "NAME")]
    pub(crate) http: Option<String>,
    /// WebSocket implementation of uvicorn workers.
    #[arg(long, value_name = "NAME")]
    pub(crate) ws: Option<String>,
    /// Longest WebSocket message.
    #[arg(long, value_name = "SIZE")]
    pub(crate) ws_max_size: Option<ByteSize>,
    /// WebSocket messages that uvicorn workers queue.
    #[arg(long, value_name = "N")]
    pub(crate) ws_max_queue: Option<u32>,
    /// Seconds between WebSocket pings.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ws_ping_interval: Option<f64>,
    /// Seconds to wait for a WebSocket pong.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ws_ping_timeout: Option<f64>,
    /// Whether WebSocket messages are compressed.
    #[arg(long, value_name = "BOOLEAN")]
    pub(crate) ws_per_message_deflate: Option<String>,
    /// ASGI version of uvicorn workers.
    #[arg(long, value_name = "NAME")]
    pub(crate) interface: Option<String>,
    /// Logging configuration of uvicorn workers.
    #[arg(long, value_name = "FILE")]
    pub(crate) log_config: Option<PathBuf>,
    /// Whether uvicorn workers run each request in a fresh context.
    #[arg(long)]
    pub(crate) reset_contextvars: bool,
    /// Not yet.
    #[arg(long, hide = true)]
    pub(crate) http2: bool,
    /// See --limit-head-bytes.
    #[arg(long, value_name = "N", hide = true)]
    pub(crate) h11_max_incomplete_event_size: Option<u32>,
    /// Workers are watched in another way here.
    #[arg(long, value_name = "SECONDS", hide = true)]
    pub(crate) timeout_worker_healthcheck: Option<u32>,
}
