//! What is due when: idle and lingering connections, pings, accepting again.
//!
//! Each connection has at most one deadline, which may be put off for free: the table holds an
//! entry that may be too early, and when it comes up the connection says what it really wants.
//! One timer is armed for the earliest entry.

use std::cmp::Reverse;
use std::os::fd::AsRawFd;
use std::time::Duration;

use evener_vitals::monotonic_ns;
use pyo3::prelude::*;

use crate::connection::Phase;
use crate::core::{Core, LISTENER};
use crate::effects::Effects;
use crate::system::LEVEL;

/// After running out of descriptors, accepting is tried again so much later.
const ACCEPT_PAUSE_NS: u64 = 100_000_000;

impl Core {
    /// Accepting failed for want of descriptors or memory: leaves the backlog alone for a while.
    pub(crate) fn pause_accepting(&mut self) {
        if let Some(listener) = &self.listener {
            let _ = self.epoll.remove(listener.as_raw_fd());
            let due = monotonic_ns() + ACCEPT_PAUSE_NS;
            self.accept_again_ns = Some(due);
            self.arm_timer(due);
        }
    }

    /// Asks for [`Core::handle_deadline`] at the given time, unless it is set anew before.
    pub(crate) fn set_deadline(&mut self, key: usize, due_ns: u64) {
        let connection = &mut self.connections[key];
        connection.deadline_ns = Some(due_ns);
        if connection.armed_ns.is_none_or(|armed| armed > due_ns) {
            connection.armed_ns = Some(due_ns);
            self.deadlines
                .push(Reverse((due_ns, key, connection.epoch)));
            self.arm_timer(due_ns);
        }
    }

    fn arm_timer(&mut self, due_ns: u64) {
        if self.timer_ns.is_none_or(|set| set > due_ns) {
            self.timer_ns = Some(due_ns);
            let wait = due_ns.saturating_sub(monotonic_ns()).max(1);
            self.deadline_timer
                .set(Duration::from_nanos(wait), Duration::ZERO);
        }
    }

    pub(crate) fn handle_deadlines(&mut self, py: Python<'_>, effects: &mut Effects) {
        self.deadline_timer.acknowledge();
        self.timer_ns = None;
        let now = monotonic_ns();
        while let Some(&Reverse((due, key, epoch))) = self.deadlines.peek() {
            if due > now {
                self.arm_timer(due);
                break;
            }
            self.deadlines.pop();
            let Some(connection) = self.connections.get_mut(key) else {
                continue;
            };
            if connection.epoch != epoch || connection.armed_ns != Some(due) {
                continue;
            }
            connection.armed_ns = None;
            match connection.deadline_ns {
                Some(wanted) if wanted > now => self.set_deadline(key, wanted),
                Some(_) => {
                    connection.deadline_ns = None;
                    self.handle_deadline(py, key, now, effects);
                }
                None => {}
            }
        }
        self.accept_again(now);
    }

    fn accept_again(&mut self, now: u64) {
        match (self.accept_again_ns, &self.listener) {
            (Some(due), Some(listener)) if due <= now => {
                self.accept_again_ns = None;
                let _ = self.epoll.add(listener.as_raw_fd(), LISTENER, LEVEL);
            }
            (Some(due), Some(_)) => self.arm_timer(due),
            _ => {}
        }
    }

    fn handle_deadline(&mut self, py: Python<'_>, key: usize, now: u64, effects: &mut Effects) {
        match self.connections[key].phase {
            Phase::Head | Phase::Discard | Phase::Lingering => self.lose(key, effects),
            Phase::WebSocket => self.socket_deadline(py, key, now, effects),
            Phase::Queued | Phase::Http | Phase::Closing => {}
        }
    }
}
