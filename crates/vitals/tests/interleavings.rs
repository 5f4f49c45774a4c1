//! The claim protocol, run through every interleaving of its steps.
//!
//! The world below is the protocol as the edge and two workers follow it, each step one atomic
//! action (a claim-word operation, a message on a socket, a death). A depth-first search tries
//! every order of the steps that are possible, with the victim killed at any point, and checks at
//! each end: the request ran at most once, and it ran exactly once unless the worker that had
//! claimed it was killed. The claim words are the real ones.

use evener_vitals::{ClaimState, ClaimWord};

/// What a worker is doing about the request that was sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worker {
    /// Has not read anything.
    Idle,
    /// Has read the request's head; claims next.
    Read,
    /// Has won the claim; runs next.
    Claimed,
    /// Has run the application; answers next.
    Ran,
    Answered,
    /// Lost the claim and closed the connection.
    Dropped,
    Dead,
}

/// What the edge is doing about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    /// Offers, then sends, on the slot of `worker`.
    Offering(usize),
    Sending(usize),
    Waiting(usize),
    /// Ended: the client has its answer, or an error because the claimed request died.
    Answered,
    Failed,
}

#[derive(Clone, Debug)]
struct World {
    words: [(u64, ClaimState); 2],
    sent: [bool; 2],
    workers: [Worker; 2],
    edge: Edge,
    runs: u32,
    kills_left: u32,
    stalls_left: u32,
    killed_after_claim: bool,
}

/// Records one world that a step leads to.
type Step<'a> = dyn FnMut(&dyn Fn(&mut World)) + 'a;

const SEQ: u64 = 9;

impl World {
    fn new(kills_left: u32, stalls_left: u32) -> World {
        World {
            words: [(SEQ - 1, ClaimState::Claimed); 2],
            sent: [false; 2],
            workers: [Worker::Idle; 2],
            edge: Edge::Offering(0),
            runs: 0,
            kills_left,
            stalls_left,
            killed_after_claim: false,
        }
    }

    /// Runs one operation on the real claim word that holds the modelled value.
    fn with_word<T>(&mut self, slot: usize, operation: impl FnOnce(&ClaimWord) -> T) -> T {
        let word = ClaimWord::new();
        let (seq, state) = self.words[slot];
        word.offer(seq);
        match state {
            ClaimState::Free | ClaimState::Offered => {}
            ClaimState::Claimed => assert!(word.claim(seq)),
            ClaimState::Revoked => assert!(word.take_back(seq)),
        }
        let result = operation(&word);
        self.words[slot] = word.load();
        result
    }

    /// All worlds that one step leads to.
    fn next(&self) -> Vec<World> {
        let mut worlds = Vec::new();
        let mut step = |change: &dyn Fn(&mut World)| {
            let mut world = self.clone();
            change(&mut world);
            worlds.push(world);
        };
        for index in 0..2 {
            match self.workers[index] {
                Worker::Idle if self.sent[index] => step(&|w| w.workers[index] = Worker::Read),
                Worker::Read => step(&|w| {
                    let won = w.with_word(index, |word| word.claim(SEQ));
                    w.workers[index] = if won {
                        Worker::Claimed
                    } else {
                        Worker::Dropped
                    };
                }),
                Worker::Claimed => step(&|w| {
                    w.runs += 1;
                    w.workers[index] = Worker::Ran;
                }),
                Worker::Ran => step(&|w| w.workers[index] = Worker::Answered),
                _ => {}
            }
            // (An answer that was written outlives its worker: it lies in the edge's socket.)
            let alive = !matches!(self.workers[index], Worker::Dead | Worker::Answered);
            if alive && self.kills_left > 0 {
                step(&|w| {
                    w.kills_left -= 1;
                    w.killed_after_claim |=
                        matches!(w.workers[index], Worker::Claimed | Worker::Ran);
                    w.workers[index] = Worker::Dead;
                });
            }
        }
        match self.edge {
            Edge::Offering(to) => step(&|w| {
                w.with_word(to, |word| word.offer(SEQ));
                w.edge = Edge::Sending(to);
            }),
            Edge::Sending(to) => step(&|w| {
                w.sent[to] = w.workers[to] != Worker::Dead;
                w.edge = Edge::Waiting(to);
            }),
            Edge::Waiting(on) => self.edge_waits(on, &mut step),
            Edge::Answered | Edge::Failed => {}
        }
        worlds
    }

    fn edge_waits(&self, on: usize, step: &mut Step<'_>) {
        match self.workers[on] {
            Worker::Answered => step(&|w| w.edge = Edge::Answered),
            // The connection closed: it may be sent elsewhere only if it can be taken back, or
            // had been taken back before (then the edge no longer waits here).
            Worker::Dead | Worker::Dropped => step(&|w| w.give_up_on(on)),
            // The loop seems to stand still (it may wake up at any later step).
            _ if self.stalls_left > 0 && self.words[1 - on].0 < SEQ => step(&|w| {
                w.stalls_left -= 1;
                if w.with_word(on, |word| word.take_back(SEQ)) {
                    w.edge = Edge::Offering(1 - on);
                }
            }),
            _ => {}
        }
    }

    fn give_up_on(&mut self, on: usize) {
        let free = self.with_word(on, |word| word.take_back(SEQ));
        let other_untouched = self.words[1 - on].0 < SEQ;
        self.edge = if free && other_untouched {
            Edge::Offering(1 - on)
        } else {
            Edge::Failed
        };
    }
}

/// Visits every end of every interleaving; returns how many there were.
fn explore(world: &World, check: &mut dyn FnMut(&World)) -> u64 {
    assert!(world.runs <= 1, "ran twice: {world:?}");
    let next = world.next();
    if next.is_empty() {
        check(world);
        return 1;
    }
    next.iter().map(|world| explore(world, check)).sum()
}

#[test]
fn without_faults_it_runs_once_and_is_answered() {
    let ends = explore(&World::new(0, 0), &mut |end| {
        assert_eq!((end.runs, end.edge), (1, Edge::Answered), "{end:?}");
    });
    assert!(ends > 0);
}

#[test]
fn a_stalled_loop_loses_nothing_and_runs_nothing_twice() {
    let ends = explore(&World::new(0, 1), &mut |end| {
        assert_eq!((end.runs, end.edge), (1, Edge::Answered), "{end:?}");
    });
    assert!(ends > 10, "only {ends} interleavings");
}

#[test]
fn a_worker_killed_at_any_point_costs_only_what_it_had_claimed() {
    let ends = explore(&World::new(1, 1), &mut |end| {
        // The second worker may be the victim after the first was taken back from: then no
        // third one is left in this small world, and the request fails without having run.
        let no_one_left = end.workers[1] == Worker::Dead && end.words[0].1 == ClaimState::Revoked;
        match end.edge {
            Edge::Answered => assert_eq!(end.runs, 1, "{end:?}"),
            Edge::Failed => assert!(end.killed_after_claim || no_one_left, "{end:?}"),
            _ => panic!("the request was forgotten: {end:?}"),
        }
    });
    assert!(ends > 100, "only {ends} interleavings");
}

#[test]
fn two_deaths_never_run_it_twice() {
    let ends = explore(&World::new(2, 2), &mut |end| {
        assert!(end.runs <= 1, "{end:?}")
    });
    assert!(ends > 1000, "only {ends} interleavings");
}

/// The same race on real threads: one winner each time.
#[test]
fn threads_agree_on_one_winner() {
    use std::sync::Barrier;
    let word = ClaimWord::new();
    let barrier = Barrier::new(2);
    let rounds = 20_000_u64;
    let (claimed, taken) = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut won = Vec::new();
            for seq in 1..=rounds {
                barrier.wait();
                won.push(word.claim(seq));
                barrier.wait();
            }
            won
        });
        let mut taken = Vec::new();
        for seq in 1..=rounds {
            word.offer(seq);
            barrier.wait();
            taken.push(word.take_back(seq));
            barrier.wait();
        }
        (worker.join().unwrap(), taken)
    });
    for (index, (claimed, taken)) in claimed.iter().zip(&taken).enumerate() {
        assert!(
            claimed ^ taken,
            "round {index}: claimed {claimed}, taken back {taken}"
        );
    }
}
