//! When requests wait and the loop of every endpoint stands still: somebody is told, who may do
//! something about it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use evener_vitals::monotonic_ns;

use super::{Cluster, State};
use crate::endpoint::EndpointId;

/// Called when requests wait and the loop of every endpoint stands still; must not block.
pub type Alarm = dyn Fn() + Send + Sync;

/// How long a request that found every loop standing still counts as waiting.
const PRESSED_NS: u64 = 100_000_000;
/// The alarm is not raised again within this.
const ALARM_NS: u64 = 2_000_000;

/// What is known of it, and who is told.
#[derive(Default)]
pub(super) struct Pressure {
    /// When a request was last seen waiting while every loop stood still.
    pressed_ns: AtomicU64,
    alarm: OnceLock<Box<Alarm>>,
}

impl Cluster {
    /// Endpoints that take requests and whose loops stand still right now.
    pub fn stalled(&self) -> Vec<EndpointId> {
        let now_ns = monotonic_ns();
        let state = self.lock();
        let takes = state.members.iter().filter(|member| !member.is_draining());
        takes
            .filter(|member| member.key.is_stalled(now_ns))
            .map(|member| member.key.id)
            .collect()
    }

    /// Whether requests have been waiting lately that no endpoint could begin.
    pub fn is_pressed(&self) -> bool {
        let pressed_ns = self.pressure.pressed_ns.load(Relaxed);
        self.has_queue() || pressed_ns > 0 && monotonic_ns() < pressed_ns + PRESSED_NS
    }

    /// Has this called when requests wait and every loop stands still. Only the first one counts.
    pub fn set_alarm(&self, alarm: Box<Alarm>) {
        let _ = self.pressure.alarm.set(alarm);
    }

    /// Notes that a request waits for a loop that stands still, and that no other is free.
    pub(crate) fn press(&self, now_ns: u64) {
        let Some(alarm) = self.pressure.alarm.get() else {
            return;
        };
        if now_ns.saturating_sub(self.pressure.pressed_ns.load(Relaxed)) >= ALARM_NS {
            self.pressure.pressed_ns.store(now_ns, Relaxed);
            alarm();
        }
    }
}

impl State {
    /// Whether the loop of every endpoint that takes requests stands still.
    pub(super) fn is_stuck(&self, now_ns: u64) -> bool {
        let mut takes = self.members.iter().filter(|member| !member.is_draining());
        takes.all(|member| member.key.is_stalled(now_ns))
    }
}
