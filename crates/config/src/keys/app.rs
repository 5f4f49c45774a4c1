//! `[app]`: the settings of `evener run`, by the names of its flags.

use super::{WORKERS, key};
use crate::definition::Default::{Absent, Required, Said, Value};
use crate::definition::Kind::{
    Deadline, Flag, Formed, Fraction, OneOrMore, Size, Text, Time, Whole, Word,
};
use crate::definition::Table;

pub(super) static APP: Table = Table {
    title: "[app]",
    doc: "The local application, with the settings of `evener run`.",
    keys: &[
        key(
            "target",
            Text,
            Said("looked for in main.py, app.py, app/main.py and the like"),
            "The application as `module:attribute`.",
        ),
        key(
            "workers",
            Formed(&WORKERS),
            Said("`$WEB_CONCURRENCY`, else 1"),
            "Worker processes; `auto` is one per CPU. With `MIN..MAX` one more comes at once when all event loops stand still and requests wait.",
        ),
        key(
            "preload",
            Flag,
            Value("false"),
            "Import the application once and fork the workers from there: they start in milliseconds and share its memory.",
        ),
        key(
            "leader_hook",
            Text,
            Absent,
            "Function, as `module:function`, that a worker calls when it becomes the leader, of which there is never more than one: for jobs that must run once. It may take the application; one that is `async` runs beside the requests and is cancelled when the worker goes.",
        ),
        key(
            "app_dir",
            Text,
            Said("the current folder"),
            "Folder that the application is imported from.",
        ),
        key(
            "factory",
            Flag,
            Value("false"),
            "`target` names a function that returns the application.",
        ),
        key(
            "env_file",
            Text,
            Absent,
            "File of NAME=VALUE lines for the workers' environment.",
        ),
        key(
            "root_path",
            Text,
            Value("\"\""),
            "The path below which the application is reachable (ASGI `root_path`).",
        ),
        key(
            "lifespan",
            Word(&["auto", "on", "off"]),
            Value("\"auto\""),
            "Whether the application has lifespan events.",
        ),
        key(
            "loop",
            Text,
            Value("\"auto\""),
            "Event loop of the workers: auto, uvloop or asyncio; command workers take any of uvicorn's.",
        ),
        key(
            "worker",
            Word(&["evener", "command"]),
            Value("\"evener\""),
            "Kind of worker: Evener's own, or uvicorn or what `worker_command` says.",
        ),
        key(
            "worker_command",
            Text,
            Absent,
            "Command that serves the application on the unix socket put for `{socket}`.",
        ),
        key(
            "python",
            Text,
            Said("the one beside this program, that of `$VIRTUAL_ENV`, or python3"),
            "Python interpreter of the workers.",
        ),
        key(
            "worker_in_flight",
            Whole(1, 65_536),
            Value("1000"),
            "Most requests that one worker has in flight; further ones wait in the queue.",
        ),
        key(
            "bulkhead",
            Flag,
            Value("true"),
            "Requests that hold their worker's event loop begin only while another worker stays free for the rest. Which ones do is learnt, by method and shape of the path.",
        ),
        key(
            "limit_max_requests",
            Whole(1, u64::MAX),
            Absent,
            "Replace a worker after so many requests, without a gap.",
        ),
        key(
            "limit_max_requests_jitter",
            Whole(0, u64::MAX),
            Said("an eighth of `limit_max_requests`"),
            "Up to so many requests more, drawn for each worker.",
        ),
        key(
            "max_rss",
            Size,
            Absent,
            "Replace a worker whose resident memory has grown to this, without a gap.",
        ),
        key(
            "max_age",
            Deadline,
            Value("\"off\""),
            "Replace a worker at this age, without a gap.",
        ),
        key(
            "max_age_jitter",
            Time,
            Said("an eighth of `max_age`"),
            "Up to so much later, drawn for each worker.",
        ),
        key(
            "timeout_worker_stall",
            Deadline,
            Said("`30s`; `off` with `reload`"),
            "A worker whose event loop stands still for so long writes its stacks to the log, is aborted and replaced.",
        ),
        key(
            "timeout_relief",
            Time,
            Value("\"30s\""),
            "An extra worker of `MIN..MAX` goes when it has been of no use for so long.",
        ),
        key(
            "timeout_worker_startup",
            Time,
            Value("\"60s\""),
            "A worker that has not answered for so long after its start is ended.",
        ),
        key(
            "timeout_worker_stop",
            Time,
            Value("\"5s\""),
            "From asking a worker to end to killing it, beyond the grace period.",
        ),
        key(
            "server_header",
            Flag,
            Value("true"),
            "The worker sends a Server header field.",
        ),
        key(
            "date_header",
            Flag,
            Value("true"),
            "The worker sends a Date header field.",
        ),
        key(
            "reload",
            Flag,
            Value("false"),
            "Replace the workers when the application's files change.",
        ),
        key("reload_dir", OneOrMore(&Text), Absent, "Folders to watch."),
        key(
            "reload_include",
            OneOrMore(&Text),
            Absent,
            "Names of files to watch.",
        ),
        key(
            "reload_exclude",
            OneOrMore(&Text),
            Absent,
            "Names of files not to watch.",
        ),
        key(
            "reload_delay",
            Time,
            Value("\"250ms\""),
            "Quiet time after a change before the workers are replaced.",
        ),
        key(
            "http",
            Text,
            Absent,
            "HTTP implementation of uvicorn workers.",
        ),
        key(
            "ws",
            Text,
            Absent,
            "WebSocket implementation of uvicorn workers.",
        ),
        key("ws_max_size", Size, Absent, "Longest WebSocket message."),
        key(
            "ws_max_queue",
            Whole(1, 1_000_000),
            Absent,
            "WebSocket messages that uvicorn workers queue.",
        ),
        key(
            "ws_ping_interval",
            Fraction(0.0, 1e6),
            Absent,
            "Seconds between WebSocket pings.",
        ),
        key(
            "ws_ping_timeout",
            Fraction(0.0, 1e6),
            Absent,
            "Seconds to wait for a WebSocket pong.",
        ),
        key(
            "ws_per_message_deflate",
            Flag,
            Absent,
            "Whether WebSocket messages are compressed.",
        ),
        key(
            "interface",
            Text,
            Absent,
            "ASGI version of uvicorn workers.",
        ),
        key(
            "log_config",
            Text,
            Absent,
            "Logging configuration of uvicorn workers.",
        ),
    ],
};

pub(super) static BUDGET: Table = Table {
    title: "[budget.NAME]",
    doc: "Something outside, such as a database, that bears only so many connections. Each worker is told its share \
in the variable `EVENER_BUDGET_NAME`, and there are never so many workers at once that the shares exceed the budget: \
those that drain and those that replace them count.",
    keys: &[key(
        "connections",
        Whole(1, 10_000_000),
        Required,
        "Connections for all workers together.",
    )],
};

/// The keys of `[app]`.
pub(crate) fn app_keys() -> impl Iterator<Item = &'static str> {
    APP.keys.iter().map(|key| key.name)
}
