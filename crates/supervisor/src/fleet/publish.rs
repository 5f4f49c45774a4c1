//! What is told of the fleet: a snapshot after each turn.

use std::sync::Arc;
use std::time::Duration;

use super::Supervisor;
use crate::status::{Status, WorkerStatus};

impl Supervisor {
    pub(super) fn publish(&self) {
        let instant = |time: Duration| self.base + time;
        let workers = self.workers.iter().map(|worker| WorkerStatus {
            id: worker.id,
            name: worker.name.clone(),
            pid: worker.pid,
            state: worker.life.state(),
            generation: worker.generation,
            started: instant(worker.life.started()),
            ready: worker.life.ready().map(instant),
            leader: worker.leader,
            restarts: worker.restarts,
            page: worker.page.clone(),
        });
        self.status.send_replace(Arc::new(Status {
            target: self.target,
            relief: self.wanted().saturating_sub(self.target),
            workers: workers.collect(),
            generation: self.rollout.generation(),
            rolling: self.rollout.is_running(),
            rollouts: self.rollouts.iter().cloned().collect(),
            deaths: self.deaths,
            crash_loop: self.restarts.is_looping(),
            stopping: self.stopping,
        }));
    }
}
