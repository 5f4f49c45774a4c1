//! The command line as resolved: what was typed, together with the environment and the machine,
//! becomes settings without gaps. Pure: everything that it depends on is an argument. Finding
//! the application and the interpreter, opening descriptors and names is left to `run`.

mod flags;

use std::path::PathBuf;
use std::time::Duration;

use evener_config::values::ListenAddress;
use evener_config::{HealthPaths, Limits, ListenerTls, Timeouts, TrustedPeers};
use evener_supervisor::{RecycleLimits, ReliefSettings};
use evener_telemetry::Level;

use crate::args::{
    LogFormatName, LogLevel, RunArguments, UvicornArguments, WorkerArguments, WorkerKind,
};
use crate::budget::Shares;
use crate::tls;
use crate::values::{ShardCount, WORKERS_MAX, WorkerCount};
use flags::{evener_flags, uvicorn_flags};

/// What serves the application when nothing else was asked for.
pub(crate) const DEFAULT_WORKER: WorkerKind = WorkerKind::Evener;
/// Workers drain so many at a time during a reload: one, or a quarter of all.
const LEAVING_SHARE: usize = 4;
/// How long a loop may stand still, as in gunicorn.
const STALL: Duration = Duration::from_secs(30);
/// Without a jitter of its own, a bound on a worker's life has this part of it.
const JITTER_SHARE: u32 = 8;
/// One shard serves so many workers.
const WORKERS_PER_SHARD: usize = 4;

/// The world around the command line.
pub(crate) struct Surroundings<'a> {
    /// CPUs that this program may use.
    pub(crate) cpus: usize,
    /// Environment variables.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
    /// Whether standard error is a terminal.
    pub(crate) terminal: bool,
}

/// Settings of one run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Resolved {
    pub(crate) listen: ListenAddress,
    /// How clients speak TLS, if they do.
    pub(crate) tls: Option<ListenerTls>,
    pub(crate) shards: usize,
    pub(crate) backlog: u32,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) trusted: TrustedPeers,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) health: HealthPaths,
    pub(crate) worker: Worker,
    /// Whether workers are forked from a process that has imported the application.
    pub(crate) preload: bool,
    /// Whether a worker that runs can be told that it is the leader now.
    pub(crate) tells_leader: bool,
    /// Requests that hold an event loop leave one worker free.
    pub(crate) bulkhead: bool,
    pub(crate) count: usize,
    /// The most that can be asked for.
    pub(crate) count_max: usize,
    pub(crate) leaving_max: usize,
    pub(crate) in_flight_max: u32,
    /// When a worker has done enough.
    pub(crate) recycle: RecycleLimits,
    /// How long a worker's loop may stand still.
    pub(crate) stall: Option<Duration>,
    /// Whether workers beyond `count` come and go by themselves.
    pub(crate) relief: Option<ReliefSettings>,
    /// What is shared out among the workers, as far as a file says so.
    pub(crate) shares: Option<Shares>,
    pub(crate) startup: Duration,
    pub(crate) grace: Duration,
    pub(crate) stop: Duration,
    /// How long a stop is announced before it begins.
    pub(crate) drain_delay: Duration,
    pub(crate) log: LogSettings,
    pub(crate) admin: AdminSettings,
    pub(crate) reload: Option<ReloadSettings>,
    /// What was asked for and is not done as asked, one line each.
    pub(crate) notes: Vec<String>,
}

/// What serves the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Worker {
    /// Evener's own worker with these flags.
    Evener { flags: Vec<String> },
    /// uvicorn with these flags.
    Uvicorn { flags: Vec<String> },
    /// A command of the user's, split into words.
    Command { words: Vec<String> },
}

/// How the logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) level: Level,
    pub(crate) json: bool,
    pub(crate) colors: bool,
    pub(crate) access: bool,
}

/// Where the admin API is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct AdminSettings {
    pub(crate) name: Option<String>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) address: Option<String>,
    pub(crate) token: Option<String>,
    /// Who may use the socket, as file permissions; the owner alone, if nothing is said.
    pub(crate) mode: Option<u32>,
    /// There is no socket.
    pub(crate) off: bool,
}

/// What is watched for changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReloadSettings {
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) includes: Vec<String>,
    pub(crate) excludes: Vec<String>,
    pub(crate) delay: Duration,
}

/// Resolves the flags of `evener run`; an error is the message for a usage error.
pub(crate) fn resolve(typed: &RunArguments, around: &Surroundings<'_>) -> Result<Resolved, String> {
    let mut notes = refuse_or_note(&typed.uvicorn)?;
    let (count, most) = worker_count(typed.workers.worker_count(around)?, around);
    let relief = relief(typed, count, most, &mut notes);
    let usual_most = relief.map_or(count, |relief| relief.most);
    let shards = match typed.listen.shards {
        ShardCount::Auto => usual_most
            .div_ceil(WORKERS_PER_SHARD)
            .min(around.cpus)
            .max(1),
        ShardCount::Fixed(shards) => shards,
    };
    let worker = worker(typed, &mut notes)?;
    let tls = tls::resolve(&typed.tls, &mut notes)?;
    let concurrency = typed.workers.limit_concurrency;
    let in_flight_max = concurrency.unwrap_or(typed.workers.worker_in_flight);
    Ok(Resolved {
        tls,
        listen: listen(typed),
        shards,
        backlog: typed.listen.backlog,
        limits: limits(typed),
        timeouts: timeouts(typed),
        trusted: trusted(typed, around)?,
        fields: typed
            .clients
            .headers
            .iter()
            .map(|field| (field.0.clone(), field.1.clone()))
            .collect(),
        health: HealthPaths {
            liveness: typed.listen.liveness_path.clone().map(|path| path.0),
            readiness: typed.listen.readiness_path.clone().map(|path| path.0),
            stand_in: true,
        },
        worker,
        preload: typed.workers.preload,
        tells_leader: ours(&typed.workers),
        bulkhead: !typed.workers.no_bulkhead,
        count,
        count_max: most.unwrap_or(WORKERS_MAX),
        leaving_max: (count / LEAVING_SHARE).max(1),
        in_flight_max,
        recycle: recycle(&typed.workers, &mut notes),
        stall: stall(typed),
        relief,
        shares: None,
        startup: typed.workers.timeout_worker_startup.0,
        grace: typed.timeouts.timeout_graceful_shutdown.0,
        stop: typed.workers.timeout_worker_stop.0,
        drain_delay: typed.timeouts.drain_delay.0,
        log: log(typed, around),
        admin: AdminSettings {
            name: name(typed)?,
            socket: typed.admin.admin.clone(),
            address: typed.admin.admin_address.clone(),
            token: typed
                .admin
                .admin_token
                .clone()
                .or_else(|| (around.variable)("EVENER_ADMIN_TOKEN"))
                .filter(|token| !token.is_empty()),
            mode: None,
            off: false,
        },
        reload: reload(typed, &mut notes),
        notes,
    })
}

impl Resolved {
    /// The most workers that are asked for without anybody's doing.
    pub(crate) fn most(&self) -> usize {
        self.relief.map_or(self.count, |relief| relief.most)
    }
}

impl WorkerArguments {
    fn worker_count(&self, around: &Surroundings<'_>) -> Result<WorkerCount, String> {
        if let Some(count) = self.workers {
            return Ok(count);
        }
        match (around.variable)("WEB_CONCURRENCY").filter(|text| !text.is_empty()) {
            Some(text) => text
                .parse()
                .map_err(|error| format!("$WEB_CONCURRENCY: {error}")),
            None => Ok(WorkerCount::Fixed(1)),
        }
    }
}

/// How many workers, and the most of them if there is a range.
fn worker_count(count: WorkerCount, around: &Surroundings<'_>) -> (usize, Option<usize>) {
    match count {
        WorkerCount::Auto => (around.cpus.max(1), None),
        WorkerCount::Fixed(count) => (count, None),
        WorkerCount::Range(least, most) => (least, Some(most)),
    }
}

/// Whether they are Evener's own kind.
fn ours(workers: &WorkerArguments) -> bool {
    workers.worker_command.is_none() && workers.worker != Some(WorkerKind::Command)
}

fn relief(
    typed: &RunArguments,
    count: usize,
    most: Option<usize>,
    notes: &mut Vec<String>,
) -> Option<ReliefSettings> {
    let most = most.filter(|most| *most > count)?;
    let workers = &typed.workers;
    if !ours(workers) {
        notes.push(format!(
            "--workers {count}..{most}: only Evener's own workers tell that their event loops \
             stand still: {count} others run, and `evener scale` changes that by hand"
        ));
        return None;
    }
    if !workers.preload {
        notes.push(format!(
            "--workers {count}..{most}: without --preload an extra worker takes as long to come \
             as the application takes to start"
        ));
    }
    let calm = workers.timeout_relief.0;
    Some(ReliefSettings { most, calm })
}

fn stall(typed: &RunArguments) -> Option<Duration> {
    match typed.workers.timeout_worker_stall {
        Some(timeout) => timeout.0,
        // Whoever works on the application may have it stand still in a debugger.
        None => (!typed.reload.reload).then_some(STALL),
    }
}

fn recycle(workers: &WorkerArguments, notes: &mut Vec<String>) -> RecycleLimits {
    let (requests, age) = (workers.limit_max_requests, workers.max_age.0);
    if workers.limit_max_requests_jitter.is_some_and(|n| n > 0) && requests.is_none() {
        notes.push("--limit-max-requests-jitter does nothing without --limit-max-requests".into());
    }
    if workers.max_age_jitter.is_some() && age.is_none() {
        notes.push("--max-age-jitter does nothing without --max-age".to_owned());
    }
    let usual = requests.unwrap_or(0) / u64::from(JITTER_SHARE);
    RecycleLimits {
        requests,
        requests_jitter: workers.limit_max_requests_jitter.unwrap_or(usual),
        rss_bytes: workers.max_rss.map(|size| size.0),
        age,
        age_jitter: workers
            .max_age_jitter
            .map_or(age.unwrap_or_default() / JITTER_SHARE, |jitter| jitter.0),
    }
}

fn listen(typed: &RunArguments) -> ListenAddress {
    match (&typed.listen.fd, &typed.listen.uds) {
        (Some(descriptor), _) => ListenAddress::Descriptor(*descriptor),
        (None, Some(path)) => ListenAddress::Unix(path.clone()),
        (None, None) => ListenAddress::Tcp {
            host: typed.listen.host.clone(),
            port: typed.listen.port,
        },
    }
}

fn limits(typed: &RunArguments) -> Limits {
    let limits = &typed.limits;
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    Limits {
        head_bytes: bytes(limits.limit_head_bytes.0),
        header_count: count(limits.limit_header_count),
        body_bytes: limits.limit_body_bytes.0,
        connections: count(limits.limit_connections),
        queue_length: count(limits.limit_queue),
        replay_bytes: bytes(limits.limit_replay_bytes.0),
        ..Limits::default()
    }
}

fn timeouts(typed: &RunArguments) -> Timeouts {
    let timeouts = &typed.timeouts;
    Timeouts {
        header_read: timeouts.timeout_header_read.0,
        body_gap: timeouts.timeout_body_gap.0,
        keep_alive: timeouts.timeout_keep_alive.0,
        send_gap: timeouts.timeout_send_gap.0,
        connect: timeouts.timeout_connect.0,
        first_byte: timeouts.timeout_first_byte.0,
        response_gap: timeouts.timeout_response_gap.0,
        per_try: None,
        request: timeouts.timeout_request.0,
        queue_wait: timeouts.timeout_queue.0,
        upstream_idle: timeouts.timeout_upstream_idle.0,
        tunnel_idle: timeouts.timeout_tunnel_idle.0,
    }
}

fn trusted(typed: &RunArguments, around: &Surroundings<'_>) -> Result<TrustedPeers, String> {
    if typed.clients.no_proxy_headers {
        return Ok(TrustedPeers::Networks {
            networks: Vec::new(),
            unix: false,
        });
    }
    let (source, list) = match &typed.clients.forwarded_allow_ips {
        Some(list) => ("--forwarded-allow-ips", list.clone()),
        None => match (around.variable)("FORWARDED_ALLOW_IPS") {
            Some(list) => ("$FORWARDED_ALLOW_IPS", list),
            None => ("--forwarded-allow-ips", "127.0.0.1".to_owned()),
        },
    };
    TrustedPeers::parse(&list).map_err(|error| {
        format!("{source}: {error}; write addresses and networks with commas between, or `*`")
    })
}

fn log(typed: &RunArguments, around: &Surroundings<'_>) -> LogSettings {
    let level = match typed.logging.log_level {
        LogLevel::Critical => Level::Critical,
        LogLevel::Error => Level::Error,
        LogLevel::Warning => Level::Warning,
        LogLevel::Info => Level::Info,
        LogLevel::Debug => Level::Debug,
        LogLevel::Trace => Level::Trace,
    };
    let no_color = (around.variable)("NO_COLOR").is_some_and(|value| !value.is_empty());
    let automatic = around.terminal && !no_color && !typed.logging.no_use_colors;
    LogSettings {
        level,
        json: typed.logging.log_format == LogFormatName::Json,
        colors: typed.logging.use_colors || automatic,
        // As in uvicorn, access lines are of level info.
        access: !typed.logging.no_access_log && level >= Level::Info,
    }
}

fn name(typed: &RunArguments) -> Result<Option<String>, String> {
    let Some(name) = &typed.admin.name else {
        return Ok(None);
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 40 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!(
            "`{name}` cannot be a name (--name): use up to 40 letters, digits, `-`, `_` and `.`"
        ));
    }
    Ok(Some(name.clone()))
}

fn reload(typed: &RunArguments, notes: &mut Vec<String>) -> Option<ReloadSettings> {
    let settings = &typed.reload;
    if !settings.reload {
        let given = [
            !settings.reload_dirs.is_empty(),
            !settings.reload_includes.is_empty(),
            !settings.reload_excludes.is_empty(),
        ];
        if given.contains(&true) {
            notes.push(
                "--reload-dir, --reload-include and --reload-exclude do nothing without \
                        --reload"
                    .to_owned(),
            );
        }
        return None;
    }
    let mut includes = settings.reload_includes.clone();
    if includes.is_empty() {
        includes.push("*.py".to_owned());
    }
    Some(ReloadSettings {
        folders: settings.reload_dirs.clone(),
        includes,
        excludes: settings.reload_excludes.clone(),
        delay: settings.reload_delay.0,
    })
}

fn worker(typed: &RunArguments, notes: &mut Vec<String>) -> Result<Worker, String> {
    if typed.workers.leader_hook.is_some() && !ours(&typed.workers) {
        return Err(
            "--leader-hook needs Evener's own workers (--worker evener); others are told that they \
             lead by EVENER_LEADER=1 when they start"
                .to_owned(),
        );
    }
    if let Some(command) = &typed.workers.worker_command {
        if typed.workers.worker == Some(WorkerKind::Evener) {
            return Err("--worker evener and --worker-command exclude each other".to_owned());
        }
        let words = shlex::split(command)
            .filter(|words| words.first().is_some_and(|word| !word.is_empty()))
            .ok_or_else(|| {
                format!("--worker-command `{command}`: it is empty, or a quote is not closed")
            })?;
        return Ok(Worker::Command { words });
    }
    match typed.workers.worker.unwrap_or(DEFAULT_WORKER) {
        WorkerKind::Evener => {
            if !["auto", "uvloop", "asyncio"].contains(&typed.application.event_loop.as_str()) {
                return Err(format!(
                    "--loop {}: Evener's own worker knows auto, uvloop and asyncio; others need \
                     --worker command",
                    typed.application.event_loop
                ));
            }
            note_uvicorn_only(typed, notes);
            Ok(Worker::Evener {
                flags: evener_flags(typed),
            })
        }
        WorkerKind::Command => Ok(Worker::Uvicorn {
            flags: uvicorn_flags(typed),
        }),
    }
}

/// Flags of uvicorn that have no meaning here: an error when ignoring them would be wrong, a
/// note when it is harmless.
fn refuse_or_note(uvicorn: &UvicornArguments) -> Result<Vec<String>, String> {
    if uvicorn.http2 {
        return Err("--http2 is not there yet: HTTP/1.1 is served".to_owned());
    }
    let mut notes = Vec::new();
    if uvicorn.h11_max_incomplete_event_size.is_some() {
        notes.push(
            "--h11-max-incomplete-event-size is ignored: --limit-head-bytes bounds a \
                    request's head"
                .to_owned(),
        );
    }
    if uvicorn.timeout_worker_healthcheck.is_some() {
        notes.push(
            "--timeout-worker-healthcheck is ignored: workers are watched by what their event \
             loops do (--timeout-worker-stall)"
                .to_owned(),
        );
    }
    Ok(notes)
}

fn note_uvicorn_only(typed: &RunArguments, notes: &mut Vec<String>) {
    let uvicorn = &typed.uvicorn;
    for (flag, given) in [
        ("--http", uvicorn.http.is_some()),
        ("--ws", uvicorn.ws.is_some()),
        ("--ws-max-queue", uvicorn.ws_max_queue.is_some()),
        ("--interface", uvicorn.interface.is_some()),
        ("--log-config", uvicorn.log_config.is_some()),
    ] {
        if given {
            notes.push(format!(
                "{flag} is for uvicorn workers (--worker command) and ignored by Evener's own"
            ));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Command, CommandLine};

    fn with(words: &str, variables: &[(&str, &str)]) -> Result<Resolved, String> {
        let words = format!("evener run {words}");
        let words = shlex::split(&words).unwrap();
        let line = CommandLine::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let Command::Run(typed) = line.command else {
            panic!()
        };
        let find = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        resolve(
            &typed,
            &Surroundings {
                cpus: 6,
                variable: &find,
                terminal: false,
            },
        )
    }

    pub(crate) fn resolved(words: &str) -> Resolved {
        with(words, &[]).unwrap_or_else(|error| panic!("{words}: {error}"))
    }

    #[test]
    fn the_defaults_are_those_of_the_edge() {
        let plain = resolved("");
        assert_eq!(plain.limits, Limits::default());
        assert_eq!(plain.timeouts, Timeouts::default());
        assert_eq!(plain.trusted, TrustedPeers::parse("127.0.0.1").unwrap());
        assert_eq!((plain.count, plain.shards, plain.leaving_max), (1, 1, 1));
        assert_eq!(
            plain.listen,
            ListenAddress::Tcp {
                host: "127.0.0.1".to_owned(),
                port: 8000
            }
        );
        assert_eq!(plain.notes, Vec::<String>::new());
        assert!(plain.log.access && !plain.log.colors && plain.reload.is_none());
    }

    #[test]
    fn workers_come_from_the_flag_the_environment_or_the_machine() {
        assert_eq!(resolved("--workers auto").count, 6);
        assert_eq!(resolved("--workers 9").shards, 3);
        assert_eq!(with("", &[("WEB_CONCURRENCY", "3")]).unwrap().count, 3);
        assert_eq!(
            with("--workers 2", &[("WEB_CONCURRENCY", "3")])
                .unwrap()
                .count,
            2
        );
        assert!(
            with("", &[("WEB_CONCURRENCY", "x")])
                .unwrap_err()
                .contains("$WEB_CONCURRENCY")
        );
        let range = resolved("--workers 2..8");
        assert_eq!((range.count, range.count_max), (2, 8));
        assert_eq!(range.relief.unwrap().most, 8);
        assert!(range.notes[0].contains("--preload"));
        assert!(resolved("--workers 2..8 --preload").notes.is_empty());
        assert_eq!(resolved("--workers 2..2 --preload").relief, None);
        let foreign = resolved("--workers 2..8 --worker command");
        assert_eq!((foreign.relief, foreign.notes.len()), (None, 1));
    }

    #[test]
    fn bounds_reach_the_edge() {
        let set = resolved(
            "--limit-head-bytes 8k --limit-header-count 50 --limit-body-bytes off \
             --limit-connections 7 --limit-queue 0 --limit-replay-bytes 0 \
             --timeout-keep-alive 5 --timeout-first-byte 250ms --timeout-request 1m \
             --timeout-queue off --limit-concurrency 40 --timeout-graceful-shutdown 3",
        );
        assert_eq!((set.limits.head_bytes, set.limits.header_count), (8192, 50));
        assert_eq!((set.limits.body_bytes, set.limits.connections), (None, 7));
        assert_eq!((set.limits.queue_length, set.limits.replay_bytes), (0, 0));
        assert_eq!(set.timeouts.keep_alive, Some(Duration::from_secs(5)));
        assert_eq!(set.timeouts.first_byte, Some(Duration::from_millis(250)));
        assert_eq!(set.timeouts.request, Some(Duration::from_secs(60)));
        assert_eq!(set.timeouts.queue_wait, None);
        assert_eq!((set.in_flight_max, set.grace), (40, Duration::from_secs(3)));
    }

    #[test]
    fn workers_are_replaced_within_a_jitter() {
        assert!(resolved("").recycle.is_none());
        let usual = resolved("--limit-max-requests 800 --max-age 1h --max-rss 512m").recycle;
        assert_eq!((usual.requests, usual.requests_jitter), (Some(800), 100));
        assert_eq!(usual.age, Some(Duration::from_secs(3600)));
        assert_eq!(usual.age_jitter, Duration::from_secs(450));
        assert_eq!(usual.rss_bytes, Some(512 << 20));
        let own = resolved(
            "--limit-max-requests 800 --limit-max-requests-jitter 0 --max-age 10 --max-age-jitter 1",
        )
        .recycle;
        assert_eq!(own.requests_jitter, 0);
        assert_eq!(own.age_jitter, Duration::from_secs(1));
    }

    #[test]
    fn a_loop_may_stand_still_as_in_gunicorn_but_not_under_a_debugger() {
        assert_eq!(resolved("").stall, Some(STALL));
        assert_eq!(resolved("--reload").stall, None);
        let set = resolved("--reload --timeout-worker-stall 5");
        assert_eq!(set.stall, Some(Duration::from_secs(5)));
        assert_eq!(resolved("--timeout-worker-stall off").stall, None);
    }

    #[test]
    fn trust_is_as_in_uvicorn() {
        assert_eq!(
            resolved("--forwarded-allow-ips '*'").trusted,
            TrustedPeers::All
        );
        let from_environment = with("", &[("FORWARDED_ALLOW_IPS", "*")]).unwrap();
        assert_eq!(from_environment.trusted, TrustedPeers::All);
        let none = resolved("--no-proxy-headers --forwarded-allow-ips '*'").trusted;
        assert!(!none.believes(None) && !none.believes(Some([127, 0, 0, 1].into())));
        assert_eq!(
            resolved("--no-proxy-headers --proxy-headers").trusted,
            TrustedPeers::parse("127.0.0.1").unwrap()
        );
        assert!(
            with("--forwarded-allow-ips 10.0.0.0/99", &[])
                .unwrap_err()
                .contains("/99")
        );
    }

    #[test]
    fn uvicorn_workers_get_the_flags_that_matter_to_them() {
        let Worker::Uvicorn { flags } = resolved(
            "--worker command --root-path /api --lifespan on --ws wsproto --ws-max-size 1m --log-level debug \
             --no-server-header --timeout-graceful-shutdown 2.5",
        )
        .worker
        else {
            panic!()
        };
        let line = flags.join(" ");
        for expected in [
            "--root-path /api",
            "--lifespan on",
            "--ws wsproto",
            "--ws-max-size 1048576",
            "--log-level debug",
            "--no-server-header",
            "--timeout-graceful-shutdown 3",
            "--no-access-log",
            "--forwarded-allow-ips *",
        ] {
            assert!(line.contains(expected), "{expected}: {line}");
        }
    }

    #[test]
    fn worker_commands_are_split_like_a_shell_does() {
        let command = resolved("--worker-command \"serve 'a b' --on={socket}\"").worker;
        let words = ["serve", "a b", "--on={socket}"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(command, Worker::Command { words });
        assert!(with("--worker-command \"'open\"", &[]).is_err());
        assert!(with("--worker evener --worker-command x", &[]).is_err());
        assert!(
            with("--worker evener --loop trio", &[])
                .unwrap_err()
                .contains("trio")
        );
        assert!(resolved("--worker evener --ws wsproto").notes[0].contains("--ws"));
    }

    #[test]
    fn what_cannot_be_done_is_refused_or_noted() {
        let unsigned = with("--ssl-certfile x --ssl-cert-reqs 2", &[]).unwrap_err();
        assert!(unsigned.contains("--ssl-ca-certs"));
        let alone = with("--ssl-keyfile x", &[]).unwrap_err();
        assert!(alone.contains("--ssl-certfile"));
        let secret = with("--ssl-certfile x --ssl-keyfile-password y", &[]).unwrap_err();
        assert!(secret.contains("openssl"));
        assert_eq!(resolved("--ssl-certfile x --ssl-version 17").notes.len(), 1);
        assert!(with("--http2", &[]).is_err());
        assert!(with("--name ../x", &[]).unwrap_err().contains("../x"));
        assert_eq!(resolved("--reload-dir x").notes.len(), 1);
        assert_eq!(resolved("--reload --reload-dir x").notes.len(), 0);
        assert_eq!(resolved("--limit-max-requests-jitter 5").notes.len(), 1);
        assert_eq!(resolved("--max-age-jitter 5").notes.len(), 1);
        assert!(!resolved("--log-level warning").log.access, "as in uvicorn");
    }
}
