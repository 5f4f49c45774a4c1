//! How many workers run, and of which generation: filling up, scaling, and replacing all of them
//! one by one, a new one ready before an old one drains. The inventory goes in, a plan comes out
//! that leaves its executor no choices. When a start is allowed is left to `restart`, what
//! happens to a worker on its way out to `lifecycle`.

use alloc::string::String;
use alloc::vec::Vec;

/// How far a worker is, as far as planning cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not ready yet.
    Starting,
    /// Takes traffic.
    Ready,
    /// On its way out, draining or stopping.
    Leaving,
}

/// One worker of the inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Identifies it; later workers have greater numbers.
    pub id: u64,
    /// The rollout it was started for.
    pub generation: u32,
    /// How far it is.
    pub phase: Phase,
    /// It has done enough and is to be replaced, whatever its generation.
    pub expired: bool,
    /// Jobs that must run once run there: of a surplus it goes last.
    pub leader: bool,
}

/// What is wanted and allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// How many workers should serve.
    pub count: usize,
    /// How many may be started now.
    pub starts_allowed: usize,
    /// While this many are on their way out no further replacement is begun, so that a slow
    /// drain does not double the memory in use.
    pub leaving_max: usize,
    /// How many processes there may be at once, those on their way out included.
    pub processes_max: usize,
}

/// Why a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Fewer workers serve than wanted.
    Missing,
    /// An older generation is being replaced.
    Replacement,
    /// More workers serve than wanted.
    Surplus,
}

/// One step of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Start a worker.
    Start {
        /// The generation it belongs to.
        generation: u32,
        /// Why.
        why: Why,
    },
    /// Drain a worker that is ready, or end one that is still starting.
    Drain {
        /// Which.
        id: u64,
        /// Why.
        why: Why,
    },
}

/// How a rollout went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every worker is of its generation.
    Done,
    /// It was given up; the workers that had not been replaced stay.
    Failed(String),
}

/// How many replacements may be killed from outside before a rollout is given up.
const KILLED_MAX: u32 = 5;

/// The current generation, and the replacement that is under way.
#[derive(Debug, Clone, Default)]
pub struct Rollout {
    generation: u32,
    running: bool,
    again: bool,
    killed: u32,
}

impl Rollout {
    /// Nothing to replace; the first workers are of generation 0.
    pub fn new() -> Rollout {
        Rollout::default()
    }

    /// The generation that new workers belong to.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether workers are being replaced.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// All workers are to be replaced. Returns the generation that answers the request: requests
    /// made during a rollout share the next one.
    pub fn request(&mut self) -> u32 {
        if self.running {
            self.again = true;
            self.generation + 1
        } else {
            self.begin();
            self.generation
        }
    }

    /// A replacement failed by its own fault: it ended, or did not become ready in time. The
    /// rollout is given up; what it had replaced stays replaced.
    pub fn handle_failure(&mut self, reason: &str) -> Option<(u32, Outcome)> {
        if !self.running {
            return None;
        }
        let failed = self.generation;
        self.running = false;
        self.next();
        Some((failed, Outcome::Failed(String::from(reason))))
    }

    /// A replacement was killed from outside before it was ready: tried again, a few times.
    pub fn handle_killed(&mut self, reason: &str) -> Option<(u32, Outcome)> {
        self.killed += 1;
        if self.killed >= KILLED_MAX {
            self.handle_failure(reason)
        } else {
            None
        }
    }

    /// Notices that the rollout is complete; begins the next one if it was asked for.
    pub fn handle_inventory(&mut self, workers: &[View], count: usize) -> Option<(u32, Outcome)> {
        let current = |view: &&View| view.generation == self.generation;
        let serving = |view: &&View| view.phase != Phase::Leaving;
        let old = workers
            .iter()
            .filter(serving)
            .filter(|view| !current(view))
            .count();
        let ready = workers
            .iter()
            .filter(current)
            .filter(|view| view.phase == Phase::Ready);
        if !self.running || old > 0 || ready.count() < count {
            return None;
        }
        let done = self.generation;
        self.running = false;
        self.next();
        Some((done, Outcome::Done))
    }

    /// What to do now. Deterministic: the same inventory and target give the same plan.
    pub fn plan(&self, workers: &[View], target: Target) -> Vec<Step> {
        let mut serving: Vec<View> = Vec::new();
        serving.extend(workers.iter().filter(|view| view.phase != Phase::Leaving));
        let mut plan = self.plan_drains(&mut serving, target.count);
        let missing = target.count.saturating_sub(serving.len());
        let start = |why| Step::Start {
            generation: self.generation,
            why,
        };
        let room = target.processes_max.saturating_sub(workers.len());
        let starts_allowed = target.starts_allowed.min(room);
        for _ in 0..missing.min(starts_allowed) {
            plan.push(start(Why::Missing));
        }
        let starting = serving
            .iter()
            .any(|view| view.phase == Phase::Starting && !self.is_old(view));
        let leaving = workers.len() - serving.len();
        if serving.len() == target.count
            && serving.iter().any(|view| self.is_old(view))
            && !starting
            && starts_allowed > 0
            && leaving < target.leaving_max.max(1)
        {
            plan.push(start(Why::Replacement));
        }
        plan
    }

    /// Drains what is too much, old generations first, and takes it out of `serving`. A ready
    /// worker goes only if enough ready ones remain without it.
    fn plan_drains(&self, serving: &mut Vec<View>, count: usize) -> Vec<Step> {
        let mut plan = Vec::new();
        while serving.len() > count {
            let any_old = serving.iter().any(|view| self.is_old(view));
            let victim = serving
                .iter()
                .filter(|view| !any_old || self.is_old(view))
                .min_by_key(|view| {
                    // Old ones go in the order of their age; of a surplus, the youngest goes.
                    let order = if any_old { view.id } else { u64::MAX - view.id };
                    (view.phase == Phase::Ready, view.leader && !any_old, order)
                })
                .copied();
            let Some(victim) = victim else { break };
            let ready = serving
                .iter()
                .filter(|view| view.phase == Phase::Ready)
                .count();
            if victim.phase == Phase::Ready && ready <= count {
                break;
            }
            serving.retain(|view| view.id != victim.id);
            let why = if any_old {
                Why::Replacement
            } else {
                Why::Surplus
            };
            plan.push(Step::Drain { id: victim.id, why });
        }
        plan
    }

    fn is_old(&self, view: &View) -> bool {
        view.expired || (self.running && view.generation != self.generation)
    }

    fn begin(&mut self) {
        self.generation += 1;
        self.running = true;
        self.killed = 0;
    }

    fn next(&mut self) {
        if core::mem::take(&mut self.again) {
            self.begin();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Generator, seed};

    fn view(id: u64, generation: u32, phase: Phase) -> View {
        View {
            id,
            generation,
            phase,
            expired: false,
            leader: false,
        }
    }

    fn target(count: usize) -> Target {
        Target {
            count,
            starts_allowed: usize::MAX,
            leaving_max: 1,
            processes_max: usize::MAX,
        }
    }

    #[test]
    fn workers_are_replaced_one_by_one() {
        let mut rollout = Rollout::new();
        let start = |why| Step::Start { generation: 0, why };
        assert_eq!(
            rollout.plan(&[], target(2)),
            [start(Why::Missing), start(Why::Missing)]
        );
        let mut workers = [view(1, 0, Phase::Ready), view(2, 0, Phase::Ready)].to_vec();
        assert_eq!(rollout.plan(&workers, target(2)), []);
        assert_eq!(rollout.request(), 1);
        let replace = [Step::Start {
            generation: 1,
            why: Why::Replacement,
        }];
        assert_eq!(rollout.plan(&workers, target(2)), replace);
        workers.push(view(3, 1, Phase::Starting));
        assert_eq!(
            rollout.plan(&workers, target(2)),
            [],
            "nobody drains before it is ready"
        );
        workers[2].phase = Phase::Ready;
        let drain = |id| {
            [Step::Drain {
                id,
                why: Why::Replacement,
            }]
        };
        assert_eq!(rollout.plan(&workers, target(2)), drain(1));
        workers[0].phase = Phase::Leaving;
        assert_eq!(rollout.plan(&workers, target(2)), [], "one at a time");
        workers.remove(0);
        assert_eq!(rollout.plan(&workers, target(2)), replace);
        workers.push(view(4, 1, Phase::Ready));
        assert_eq!(rollout.plan(&workers, target(2)), drain(2));
        workers.remove(0);
        assert_eq!(
            rollout.handle_inventory(&workers, 2),
            Some((1, Outcome::Done))
        );
        assert_eq!(rollout.plan(&workers, target(2)), []);
    }

    #[test]
    fn requests_during_a_rollout_share_the_next_one() {
        let mut rollout = Rollout::new();
        assert_eq!(rollout.request(), 1);
        assert_eq!(rollout.request(), 2);
        assert_eq!(rollout.request(), 2);
        let workers = [view(1, 1, Phase::Ready)];
        assert_eq!(
            rollout.handle_inventory(&workers, 1),
            Some((1, Outcome::Done))
        );
        assert!(rollout.is_running());
        assert_eq!(rollout.generation(), 2);
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_workers_alone() {
        let mut rollout = Rollout::new();
        rollout.request();
        let workers = [view(1, 0, Phase::Ready), view(2, 0, Phase::Ready)];
        assert_eq!(
            rollout.handle_failure("it raised ImportError"),
            Some((1, Outcome::Failed(String::from("it raised ImportError"))))
        );
        assert_eq!(rollout.plan(&workers, target(2)), []);
        assert_eq!(rollout.handle_failure("again"), None);
        rollout.request();
        for _ in 1..KILLED_MAX {
            assert_eq!(rollout.handle_killed("killed"), None);
        }
        assert!(rollout.handle_killed("killed").is_some());
    }

    #[test]
    fn an_expired_worker_is_replaced_without_a_rollout() {
        let rollout = Rollout::new();
        let mut workers = [view(1, 0, Phase::Ready), view(2, 0, Phase::Ready)].to_vec();
        workers[1].expired = true;
        let start = Step::Start {
            generation: 0,
            why: Why::Replacement,
        };
        assert_eq!(rollout.plan(&workers, target(2)), [start]);
        workers.push(view(3, 0, Phase::Ready));
        let drain = Step::Drain {
            id: 2,
            why: Why::Replacement,
        };
        assert_eq!(rollout.plan(&workers, target(2)), [drain]);
    }

    #[test]
    fn scaling_down_ends_starting_workers_first_and_all_go_for_zero() {
        let rollout = Rollout::new();
        let workers = [
            view(1, 0, Phase::Ready),
            view(2, 0, Phase::Ready),
            view(3, 0, Phase::Starting),
        ];
        let drain = |id| Step::Drain {
            id,
            why: Why::Surplus,
        };
        assert_eq!(rollout.plan(&workers, target(2)), [drain(3)]);
        assert_eq!(rollout.plan(&workers, target(1)), [drain(3), drain(2)]);
        assert_eq!(
            rollout.plan(&workers, target(0)),
            [drain(3), drain(2), drain(1)]
        );
    }

    #[test]
    fn of_a_surplus_the_leader_goes_last() {
        let rollout = Rollout::new();
        let mut workers = [view(1, 0, Phase::Ready), view(2, 0, Phase::Ready)];
        workers[1].leader = true;
        let drain = |id| Step::Drain {
            id,
            why: Why::Surplus,
        };
        assert_eq!(rollout.plan(&workers, target(1)), [drain(1)]);
        assert_eq!(rollout.plan(&workers, target(0)), [drain(1), drain(2)]);
    }

    #[test]
    fn those_on_their_way_out_count_against_the_most_processes() {
        let mut rollout = Rollout::new();
        let mut workers = [
            view(1, 0, Phase::Ready),
            view(2, 0, Phase::Leaving),
            view(3, 0, Phase::Leaving),
        ]
        .to_vec();
        let bounded = |count| Target {
            processes_max: 4,
            leaving_max: 3,
            ..target(count)
        };
        assert_eq!(rollout.plan(&workers, bounded(3)).len(), 1);
        workers.push(view(4, 0, Phase::Starting));
        assert_eq!(rollout.plan(&workers, bounded(3)), []);
        rollout.request();
        workers[3].phase = Phase::Ready;
        assert_eq!(rollout.plan(&workers, bounded(2)), [], "no room");
        workers.remove(1);
        assert_eq!(rollout.plan(&workers, bounded(2)).len(), 1);
    }

    /// Random reloads, scalings, deaths and failures: a plan never takes capacity below what is
    /// wanted, never runs more than one surplus start, and the fleet arrives once faults cease.
    #[test]
    fn a_fleet_under_faults_keeps_its_capacity_and_arrives() {
        let seed = seed("rollout");
        for case in 0..300 {
            let mut random = Generator::new(seed ^ case);
            let mut rollout = Rollout::new();
            let mut workers: Vec<View> = Vec::new();
            let (mut next_id, mut count) = (1, 4);
            for step in 0..400 {
                let faults = step < 250;
                let context = std::format!("seed {seed}, case {case}, step {step}: {workers:?}");
                if faults && random.below(40) == 0 {
                    rollout.request();
                }
                if faults && random.below(60) == 0 {
                    count = 1 + usize::try_from(random.below(6)).unwrap();
                }
                let allowed = if random.below(4) == 0 { 0 } else { usize::MAX };
                let target = Target {
                    count,
                    starts_allowed: allowed,
                    leaving_max: 2,
                    processes_max: 8,
                };
                for step in rollout.plan(&workers, target) {
                    match step {
                        Step::Start { generation, .. } => {
                            assert!(allowed > 0, "{context}");
                            assert!(workers.len() < 8, "{context}");
                            workers.push(view(next_id, generation, Phase::Starting));
                            next_id += 1;
                        }
                        Step::Drain { id, .. } => {
                            let found = workers.iter_mut().find(|view| view.id == id);
                            let victim = found.unwrap_or_else(|| panic!("{context}"));
                            assert_ne!(victim.phase, Phase::Leaving, "{context}");
                            let ready = victim.phase == Phase::Ready;
                            victim.phase = Phase::Leaving;
                            let left = workers.iter().filter(|view| view.phase == Phase::Ready);
                            assert!(!ready || left.count() >= count, "{context}");
                        }
                    }
                }
                let serving = workers.iter().filter(|view| view.phase != Phase::Leaving);
                assert!(serving.count() <= 7, "{context}");
                assert!(
                    rollout.plan(&workers, target).is_empty() || allowed > 0,
                    "{context}"
                );
                if let Some(index) = random.index(workers.len()) {
                    match (workers[index].phase, random.below(3)) {
                        (Phase::Starting, 0) if faults => {
                            let generation = workers.remove(index).generation;
                            if generation == rollout.generation() && rollout.is_running() {
                                rollout.handle_failure("it failed");
                            }
                        }
                        (Phase::Starting, _) => workers[index].phase = Phase::Ready,
                        (Phase::Ready, 0) if faults => {
                            workers.remove(index);
                        }
                        (Phase::Ready, _) => {}
                        (Phase::Leaving, _) => {
                            workers.remove(index);
                        }
                    }
                }
                rollout.handle_inventory(&workers, count);
            }
            let context = std::format!("seed {seed}, case {case}: {workers:?} {rollout:?}");
            assert!(!rollout.is_running(), "{context}");
            let ready = workers
                .iter()
                .filter(|view| view.phase == Phase::Ready)
                .count();
            assert_eq!(ready, count, "{context}");
        }
    }
}
