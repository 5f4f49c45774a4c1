//! Who of the workers leads: does the jobs that must run once, and not once in each worker.
//!
//! There is never more than one leader. As long as the process of one exists, even on its way out,
//! no other is made: what it has begun may still be under way. Then the lead goes on at once, where
//! a worker that runs can be told that it leads; where only the environment at its start can tell
//! it, a worker is replaced for that. What being told means is left to `supervisor`.

/// How a worker learns that it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// At any time.
    Told,
    /// By its environment, when it is started.
    AtStart,
}

/// How far a worker is, as far as leading cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not ready yet.
    Starting,
    /// Takes traffic.
    Ready,
    /// On its way out; its process still exists.
    Leaving,
}

/// One worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Identifies it; later workers have greater numbers.
    pub id: u64,
    /// How far it is.
    pub phase: Phase,
    /// It leads, or was started to.
    pub leads: bool,
    /// It is about to be replaced.
    pub outgoing: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// This worker is to be told that it leads.
    Tell(u64),
    /// This worker is to be replaced: its successor is started as the leader.
    Replace(u64),
}

/// The rules of one fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lead {
    manner: Manner,
    /// Whether somebody else leads: a program that this one takes over from.
    withheld: bool,
    /// Of a surplus the oldest go, and not the youngest.
    oldest_first: bool,
}

impl Lead {
    /// `withheld`: nobody leads before [`Lead::release`]. `oldest_first`: as for a rollout, so that
    /// the lead goes to a worker that stays.
    pub fn new(manner: Manner, withheld: bool, oldest_first: bool) -> Lead {
        Lead {
            manner,
            withheld,
            oldest_first,
        }
    }

    /// Nobody outside leads any more.
    pub fn release(&mut self) {
        self.withheld = false;
    }

    /// Whether a worker that is started now is started as the leader.
    pub fn marks_next(&self, members: &[Member]) -> bool {
        let vacant = !self.withheld && members.iter().all(|member| !member.leads);
        let ready = || {
            let mut members = members.iter();
            members.any(|member| member.phase == Phase::Ready)
        };
        vacant && (self.manner == Manner::AtStart || !ready())
    }

    /// What to do now, with `wanted` workers to serve. Deterministic.
    pub fn observe(&self, members: &[Member], wanted: usize) -> Option<Act> {
        if self.withheld || members.iter().any(|member| member.leads) {
            return None;
        }
        let ready = || {
            let members = members.iter();
            members.filter(|member| member.phase == Phase::Ready)
        };
        match self.manner {
            Manner::Told => {
                let last_to_go = |member: &&Member| match self.oldest_first {
                    true => member.id,
                    false => u64::MAX - member.id,
                };
                let heir = ready().max_by_key(|member| (!member.outgoing, last_to_go(member)))?;
                Some(Act::Tell(heir.id))
            }
            Manner::AtStart => {
                let serving = members
                    .iter()
                    .filter(|member| member.phase != Phase::Leaving);
                // One that is started anyway leads. One that has begun to start does not know of
                // it, and may have to be waited for.
                let starts = serving.clone().count() < wanted
                    || serving
                        .clone()
                        .any(|member| member.outgoing || member.phase == Phase::Starting);
                if starts {
                    return None;
                }
                let youngest = ready().max_by_key(|member| member.id)?;
                Some(Act::Replace(youngest.id))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::testing::{Generator, seed};

    fn member(id: u64, phase: Phase) -> Member {
        Member {
            id,
            phase,
            leads: false,
            outgoing: false,
        }
    }

    fn told() -> Lead {
        Lead::new(Manner::Told, false, false)
    }

    #[test]
    fn the_first_worker_is_started_as_the_leader_and_no_other() {
        for manner in [Manner::Told, Manner::AtStart] {
            let lead = Lead::new(manner, false, false);
            assert!(lead.marks_next(&[]));
            let mut first = member(1, Phase::Starting);
            first.leads = true;
            assert!(!lead.marks_next(&[first]));
            assert_eq!(lead.observe(&[first], 1), None);
        }
    }

    #[test]
    fn one_on_its_way_out_still_leads() {
        let mut old = member(1, Phase::Leaving);
        old.leads = true;
        let members = [old, member(2, Phase::Ready)];
        for manner in [Manner::Told, Manner::AtStart] {
            let lead = Lead::new(manner, false, false);
            assert!(!lead.marks_next(&members));
            assert_eq!(lead.observe(&members, 1), None);
        }
        assert_eq!(told().observe(&members[1..], 1), Some(Act::Tell(2)));
    }

    #[test]
    fn the_lead_goes_to_one_that_stays() {
        let mut members = [1, 2, 3].map(|id| member(id, Phase::Ready));
        assert_eq!(told().observe(&members, 3), Some(Act::Tell(1)));
        let as_gunicorn = Lead::new(Manner::Told, false, true);
        assert_eq!(as_gunicorn.observe(&members, 3), Some(Act::Tell(3)));
        members[0].outgoing = true;
        assert_eq!(told().observe(&members, 3), Some(Act::Tell(2)));
        members[1].outgoing = true;
        members[2].phase = Phase::Starting;
        assert_eq!(
            told().observe(&members, 3),
            Some(Act::Tell(1)),
            "rather one that goes than none"
        );
    }

    #[test]
    fn without_a_ready_worker_the_next_one_is_started_as_the_leader() {
        let members = [member(1, Phase::Starting)];
        assert_eq!(told().observe(&members, 1), None);
        assert!(told().marks_next(&members));
        assert!(!told().marks_next(&[member(1, Phase::Ready)]), "it is told");
    }

    #[test]
    fn where_only_the_environment_tells_one_worker_is_replaced() {
        let lead = Lead::new(Manner::AtStart, false, false);
        let mut members = [1, 2].map(|id| member(id, Phase::Ready)).to_vec();
        assert_eq!(lead.observe(&members, 2), Some(Act::Replace(2)));
        assert_eq!(lead.observe(&members, 3), None, "one is started anyway");
        assert!(lead.marks_next(&members));
        members[1].outgoing = true;
        assert_eq!(lead.observe(&members, 2), None, "its successor leads");
        members[1] = member(2, Phase::Starting);
        assert_eq!(lead.observe(&members, 2), None);
    }

    #[test]
    fn nobody_leads_while_an_older_program_does() {
        let mut lead = Lead::new(Manner::Told, true, false);
        let members = [member(1, Phase::Ready)];
        assert!(!lead.marks_next(&[]));
        assert_eq!(lead.observe(&members, 1), None);
        lead.release();
        assert_eq!(lead.observe(&members, 1), Some(Act::Tell(1)));
    }

    /// A fleet in which anything may happen to any worker: there are never two leaders, and when
    /// nothing happens any more there is one.
    #[test]
    fn never_two_and_in_the_end_one() {
        let seed = seed("never_two_and_in_the_end_one");
        let mut random = Generator::new(seed);
        for round in 0..300 {
            let manner = match round % 2 {
                0 => Manner::Told,
                _ => Manner::AtStart,
            };
            let lead = Lead::new(manner, false, round % 3 == 0);
            let mut fleet: Vec<Member> = Vec::new();
            let mut next = 1;
            let mut wanted = 3;
            for step in 0..120 {
                if step < 80 {
                    match (random.below(6), random.index(fleet.len())) {
                        (0, Some(index)) => drop(fleet.remove(index)),
                        (1, Some(index)) => fleet[index].phase = Phase::Leaving,
                        (2, Some(index)) => fleet[index].outgoing = true,
                        (3, _) => wanted = 1 + random.index(4).unwrap_or(0),
                        _ => {}
                    }
                } else if let Some(index) = fleet.iter().position(|one| one.phase == Phase::Leaving)
                {
                    fleet.remove(index);
                }
                match lead.observe(&fleet, wanted) {
                    Some(Act::Tell(id)) => {
                        let heir = fleet.iter_mut().find(|one| one.id == id);
                        let heir = heir.expect("it is one of them");
                        assert_eq!(heir.phase, Phase::Ready);
                        heir.leads = true;
                    }
                    Some(Act::Replace(id)) => {
                        let one = fleet.iter_mut().find(|one| one.id == id);
                        one.expect("it is one of them").outgoing = true;
                    }
                    None => {}
                }
                advance(&mut fleet, &lead, wanted, &mut next);
                let leaders = fleet.iter().filter(|one| one.leads).count();
                assert!(leaders <= 1, "seed {seed}, round {round}, step {step}");
            }
            let leaders = fleet.iter().filter(|one| one.leads).count();
            assert_eq!(leaders, 1, "seed {seed}, round {round}");
        }
    }

    /// What a rollout does: fills up, replaces one at a time, takes away.
    fn advance(fleet: &mut Vec<Member>, lead: &Lead, wanted: usize, next: &mut u64) {
        for one in fleet.iter_mut() {
            if one.phase == Phase::Starting {
                one.phase = Phase::Ready;
            }
        }
        let serving = |fleet: &[Member]| {
            let serving = fleet.iter().filter(|one| one.phase != Phase::Leaving);
            serving.count()
        };
        let replaces = fleet
            .iter()
            .any(|one| one.outgoing && one.phase != Phase::Leaving);
        let count = serving(fleet);
        if count > wanted {
            let victim = fleet
                .iter_mut()
                .filter(|one| one.phase == Phase::Ready)
                .min_by_key(|one| (!one.outgoing, one.leads, one.id));
            if let Some(victim) = victim {
                victim.phase = Phase::Leaving;
            }
        } else if count < wanted || replaces {
            let mut born = member(*next, Phase::Starting);
            born.leads = lead.marks_next(fleet);
            *next += 1;
            fleet.push(born);
        }
    }
}
