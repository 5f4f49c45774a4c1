//! Flags about the workers: how many, of what kind, and how long they last.

use std::path::PathBuf;

use clap::Args;

use super::WorkerKind;
use crate::values::{ByteSize, Deadline, Time, WorkerCount};

#[derive(Debug, Args)]
#[command(next_help_heading = "Workers")]
pub(crate) struct WorkerArguments {
    /// Worker processes; `auto` is one per CPU that this program may use. With MIN..MAX one more
    /// comes at once when all event loops stand still and requests wait, best with --preload
    /// [default: $WEB_CONCURRENCY, else 1].
    #[arg(long, value_name = "N|auto|MIN..MAX", allow_hyphen_values = true)]
    pub(crate) workers: Option<WorkerCount>,
    /// Kind of worker.
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) worker: Option<WorkerKind>,
    /// Command that serves the application on the unix socket put for `{socket}` (also in
    /// $EVENER_SOCKET), instead of uvicorn. No shell is involved.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) worker_command: Option<String>,
    /// Import the application once and fork the workers from there: they start in milliseconds
    /// and share its memory. What it opens while it is imported is shared as well.
    #[arg(long)]
    pub(crate) preload: bool,
    /// Function that a worker calls when it becomes the leader, of which there is never more than
    /// one: for jobs that must run once. It may take the application; one that is `async` runs
    /// beside the requests and is cancelled when the worker goes.
    #[arg(long, value_name = "MODULE:FUNCTION")]
    pub(crate) leader_hook: Option<String>,
    /// Python interpreter of the workers [default: the one beside this program, that of
    /// $VIRTUAL_ENV, or python3 on the PATH].
    #[arg(long, value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,
    /// Most requests that one worker has in flight; further ones wait in the queue.
    #[arg(long, value_name = "N", default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) worker_in_flight: u32,
    /// Requests that hold their worker's event loop begin only while another worker stays free for
    /// the rest, so that these do not wait for them (the default). Which ones do is learnt, by
    /// method and shape of the path.
    #[arg(long, overrides_with = "no_bulkhead")]
    pub(crate) bulkhead: bool,
    /// They begin wherever the fewest requests are.
    #[arg(long, overrides_with = "bulkhead")]
    pub(crate) no_bulkhead: bool,
    /// The same bound under uvicorn's name. Unlike uvicorn, which answers 503 at once, the excess
    /// waits in the queue first (see --limit-queue, --timeout-queue).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) limit_concurrency: Option<u32>,
    /// Replace a worker after so many requests, without a gap.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit_max_requests: Option<u64>,
    /// Up to so many requests more, drawn for each worker, so that they do not all go together
    /// [default: an eighth of --limit-max-requests].
    #[arg(long, value_name = "N")]
    pub(crate) limit_max_requests_jitter: Option<u64>,
    /// Replace a worker whose resident memory has grown to this, without a gap.
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_rss: Option<ByteSize>,
    /// Replace a worker at this age, without a gap.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "off",
        allow_hyphen_values = true
    )]
    pub(crate) max_age: Deadline,
    /// Up to so much later, drawn for each worker [default: an eighth of --max-age].
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) max_age_jitter: Option<Time>,
    /// A worker whose event loop stands still for so long writes its stacks to the log, is
    /// aborted and replaced. A long `await` is no standstill, and neither is the start
    /// [default: 30s; off with --reload].
    #[arg(long, value_name = "TIME|off", allow_hyphen_values = true)]
    pub(crate) timeout_worker_stall: Option<Deadline>,
    /// With --workers MIN..MAX: an extra worker goes when it has been of no use for so long.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_relief: Time,
    /// A worker that has not answered for so long after its start is ended.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_worker_startup: Time,
    /// From asking a worker to end to killing it, beyond the grace period.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        allow_hyphen_values = true
    )]
    pub(crate) timeout_worker_stop: Time,
}
