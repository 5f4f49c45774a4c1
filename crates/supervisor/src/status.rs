//! What the supervisor tells others about itself: immutable snapshots.

use std::sync::Arc;
use std::time::Instant;

use evener_policy::lifecycle::State;
use evener_policy::rollout::Outcome;
use evener_vitals::Page;

use crate::WorkerId;

/// The fleet at one moment.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// How many workers are wanted.
    pub target: usize,
    /// How many more are wanted for now, because every loop stood still.
    pub relief: usize,
    /// Every worker process, in the order of their start.
    pub workers: Vec<WorkerStatus>,
    /// The generation that new workers belong to.
    pub generation: u32,
    /// Whether workers are being replaced.
    pub rolling: bool,
    /// The latest rollouts that are over, oldest first; a handful.
    pub rollouts: Vec<RolloutStatus>,
    /// Workers that ended without being told to.
    pub deaths: u64,
    /// Whether a crash loop is going on.
    pub crash_loop: bool,
    /// Whether the fleet is being stopped.
    pub stopping: bool,
}

/// One worker at one moment.
#[derive(Debug, Clone)]
pub struct WorkerStatus {
    /// Who it is.
    pub id: WorkerId,
    /// Its name in logs and tables.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Where it is in its life.
    pub state: State,
    /// The rollout it was started for.
    pub generation: u32,
    /// When the process was started.
    pub started: Instant,
    /// When it first took traffic.
    pub ready: Option<Instant>,
    /// It does the jobs that must run once.
    pub leader: bool,
    /// How many predecessors in its place ended without being told to.
    pub restarts: u32,
    /// Where it tells about itself, when it is a worker of Evener's own kind.
    pub page: Option<Arc<Page>>,
}

/// How a rollout ended.
#[derive(Debug, Clone)]
pub struct RolloutStatus {
    /// Its generation.
    pub generation: u32,
    /// How it went.
    pub outcome: Outcome,
}

impl Status {
    /// How many workers take traffic.
    pub fn ready(&self) -> usize {
        self.workers
            .iter()
            .filter(|worker| worker.state == State::Ready)
            .count()
    }
}

/// Resident memory of a process in bytes, from `/proc`; `None` when it is gone.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
