//! Runs the worker processes: observe → plan → spawn → watch → drain → reap.
//!
//! What should happen is decided by the pure `policy` crate (`lifecycle`, `restart`, `rollout`);
//! this crate holds the clock, the processes and the pipes, and does what the plan says. It runs
//! on the control thread's tokio runtime and must be polled there: a worker is told to end when
//! the *thread* that started it ends.
//!
//! How requests reach a worker is left to the implementation of [`Balancer`]; signals and the
//! admin API are left to `cli`, which turns them into calls of [`Handle`].

mod fleet;
mod handle;
mod nursery;
mod output;
mod probe;
mod recipe;
mod run_directory;
mod spawn;
mod status;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use evener_vitals::Page;

pub use evener_policy::leader::Manner as LeadManner;
pub use evener_policy::lifecycle::{Patience, State};
pub use evener_policy::recycle::Limits as RecycleLimits;
pub use evener_policy::restart::RestartPolicy;
pub use evener_policy::rollout::Outcome as RolloutOutcome;
pub use fleet::{Outcome, StartupFailure, Supervisor};
pub use handle::{Handle, ScaleError};
pub use nursery::{Kin, Nursery, NurseryError, NurserySettings, NurseryStart, SetUp};
pub use recipe::{CommandRecipe, NurseryRecipe, PythonRecipe, Recipe, RecipeError};
pub use run_directory::RunDirectory;
pub use status::{RolloutStatus, Status, WorkerStatus, resident_bytes};

/// Identifies a worker process for as long as the program runs; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u64);

/// A worker that can take traffic.
#[derive(Debug, Clone)]
pub struct ReadyWorker {
    /// Who it is.
    pub id: WorkerId,
    /// Its name in logs and tables.
    pub name: String,
    /// The unix socket it listens on.
    pub socket: PathBuf,
    /// Its vitals, when it is a worker of Evener's own kind.
    pub page: Option<Arc<Page>>,
    /// Its process id.
    pub pid: u32,
}

/// Who sends requests to the workers. Called on the control thread; must not block.
pub trait Balancer: Send + Sync {
    /// The worker takes traffic from now on.
    fn add(&self, worker: &ReadyWorker);
    /// The worker gets no new requests.
    fn drain(&self, id: WorkerId);
    /// Requests and tunnels the worker has in flight; 0 when it is unknown.
    fn in_flight(&self, id: WorkerId) -> u32;
    /// Requests the worker was ever given; 0 when it is unknown.
    fn requests(&self, id: WorkerId) -> u64;
    /// The worker is gone; what it still had in flight is lost.
    fn remove(&self, id: WorkerId);
    /// Workers that take requests and whose loops stand still right now.
    fn stalled(&self) -> Vec<WorkerId>;
    /// Whether requests wait that no worker has begun.
    fn is_pressed(&self) -> bool;
}

/// What the supervisor is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How a worker is started.
    pub recipe: Recipe,
    /// How many workers serve; at least 1.
    pub count: usize,
    /// The most that may be asked for later.
    pub count_max: usize,
    /// Why it is not more, in words that follow the number.
    pub count_max_reason: Option<String>,
    /// The most processes at once, those on their way out included.
    pub processes_max: usize,
    /// Workers beyond `count` that come and go by themselves, if they may.
    pub relief: Option<ReliefSettings>,
    /// How long each phase of a worker's life may last.
    pub patience: Patience,
    /// Restarts and crash loops.
    pub restart: RestartPolicy,
    /// When a worker has done enough and is replaced.
    pub recycle: RecycleLimits,
    /// A worker whose loop stands still for so long is aborted and replaced.
    pub stall: Option<Duration>,
    /// Request slots on a vitals page; the most requests a worker is given at once.
    pub page_slots: u32,
    /// Length of a worker's queue of connections, when the supervisor makes its socket.
    pub backlog: i32,
    /// While this many workers drain, no further replacement begins.
    pub leaving_max: usize,
    /// When fewer workers are wanted the oldest go, as in gunicorn, and not the youngest.
    pub oldest_first: bool,
    /// How a worker learns that it does the jobs that must run once. One that is started as the
    /// leader has `EVENER_LEADER=1` in its environment; [`LeadManner::Told`] is for workers that
    /// know [`LEAD_SIGNAL_OFFSET`].
    pub lead: LeadManner,
    /// Whether nobody leads before [`Handle::lead`]: a program that this one takes over from does.
    pub lead_withheld: bool,
    /// An application that does not start ends the program, unless this is set: then a new
    /// attempt is made when a reload is asked for (`--reload`).
    pub waits_when_broken: bool,
    /// Variables in every worker's environment.
    pub environment: Vec<(String, String)>,
    /// Told the settings that a nursery has read anew for a reload; says what of them changes
    /// the workers, or why they are refused.
    pub reconfigure: Option<Reconfigure>,
    /// Seed of the jitter in delays.
    pub seed: u64,
}

/// One more worker at once when every loop stands still and requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReliefSettings {
    /// The most workers, the usual ones included.
    pub most: usize,
    /// An extra worker goes when it has been of no use for so long.
    pub calm: Duration,
}

/// What new settings mean for the workers.
#[derive(Debug, Clone, Default)]
pub struct Reconfigured {
    /// How many there are to be.
    pub count: Option<usize>,
    /// How long what is under way may take when one goes.
    pub grace: Option<Duration>,
    /// When those that are started from now on have done enough.
    pub recycle: Option<RecycleLimits>,
    /// How long their loops may stand still; `Some(None)` is for ever.
    pub stall: Option<Option<Duration>>,
}

/// Judges settings that a nursery has read; an error is the message.
#[derive(Clone)]
pub struct Reconfigure(pub Arc<Judge>);

/// See [`Reconfigure`].
pub type Judge = dyn Fn(&serde_json::Value) -> Result<Reconfigured, String> + Send + Sync;

impl std::fmt::Debug for Reconfigure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Reconfigure")
    }
}

/// A Python worker of ours is told that it leads by SIGRTMIN and this; `LEAD_SIGNAL` in
/// `evener.worker`.
pub const LEAD_SIGNAL_OFFSET: i32 = 2;
/// How often requests in flight are looked at while a worker drains.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// How often requests served are looked at when workers are replaced after some number of them.
const EXPIRY_POLL: Duration = Duration::from_millis(100);
/// How often memory is looked at when workers are replaced at some amount of it.
const MEMORY_POLL: Duration = Duration::from_secs(1);
/// How often it is looked whether extra workers are of use.
const RELIEF_POLL: Duration = Duration::from_millis(50);
/// How often it is looked whether loops stand still: an eighth of what they may, within these.
const STALL_POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
