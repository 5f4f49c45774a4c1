//! The leader: the one worker that does the jobs that must run once. Who it is is `policy`'s to
//! say; here it is told.

use evener_policy::leader::{Act, Member, Phase};
use evener_policy::lifecycle::State;

use super::Supervisor;
use crate::LEAD_SIGNAL_OFFSET;
use crate::worker::Worker;

impl Supervisor {
    fn members(&self) -> Vec<Member> {
        let (rolling, current) = (self.rollout.is_running(), self.rollout.generation());
        let member = |worker: &Worker| Member {
            id: worker.id.0,
            phase: match worker.life.state() {
                _ if worker.leaving => Phase::Leaving,
                State::Starting => Phase::Starting,
                State::Ready => Phase::Ready,
                // One that failed is as good as gone, and not gone.
                State::Draining | State::Stopping | State::Gone => Phase::Leaving,
            },
            leads: worker.leader,
            outgoing: worker.expired || (rolling && worker.generation != current),
        };
        self.workers.iter().map(member).collect()
    }

    /// Whether the next worker is started as the leader.
    pub(super) fn marks_leader(&self) -> bool {
        self.lead.marks_next(&self.members())
    }

    /// Sees to it that there is a leader.
    pub(super) fn look_for_leader(&mut self) {
        if self.stopping || self.given_up {
            return;
        }
        let Some(act) = self.lead.observe(&self.members(), self.wanted()) else {
            return;
        };
        let (Act::Tell(id) | Act::Replace(id)) = act;
        let Some(worker) = self.workers.iter_mut().find(|worker| worker.id.0 == id) else {
            return;
        };
        let (name, pid) = (&worker.name, worker.pid);
        if let Act::Replace(_) = act {
            self.log.info(format_args!(
                "{name} (pid {pid}) is replaced: its successor is started as the leader, which \
                 there is none of now"
            ));
            worker.expired = true;
            return;
        }
        self.log
            .info(format_args!("{name} (pid {pid}) is the leader now"));
        worker.leader = true;
        worker.tell(libc::SIGRTMIN() + LEAD_SIGNAL_OFFSET);
    }

    /// The environment that one worker has beyond that of all.
    pub(super) fn own_environment(&self, leader: bool) -> Vec<(String, String)> {
        let mut environment = self.settings.environment.clone();
        if leader {
            environment.push(("EVENER_LEADER".to_owned(), "1".to_owned()));
        }
        environment
    }
}
