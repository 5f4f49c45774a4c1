//! What every method must keep to, whatever happens: who is never picked, shares, bounds, counts.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::*;
use crate::testing::{Generator, seed};

const METHODS: [Method; 16] = [
    Method::LeastInFlight,
    Method::RoundRobin,
    Method::LeastConn,
    Method::IpHash,
    Method::Hash,
    Method::HashConsistent,
    Method::Random,
    Method::RandomTwo,
    Method::PowerOfTwo,
    Method::PeakEwma,
    Method::Maglev,
    Method::BoundedLoad { over_percent: 25 },
    Method::FirstFit,
    Method::LeastTime {
        measure: Measure::Header,
        in_flight: false,
    },
    Method::LeastTime {
        measure: Measure::LastByte,
        in_flight: true,
    },
    Method::BoundedLoad { over_percent: 0 },
];

const SECOND: u64 = 1_000_000_000;

fn settings(method: Method) -> Settings {
    Settings {
        method,
        ..Settings::default()
    }
}

/// Members 0, 1, … of these weights.
fn weighted(method: Method, weights: &[u32]) -> Members<u64> {
    let mut members = Members::new(settings(method));
    for (id, weight) in (0u64..).zip(weights) {
        let terms = Terms {
            server: &format!("10.0.0.{id}:80"),
            weight: *weight,
            max_fails: 0,
            ..Terms::default()
        };
        members.join(id, id, &terms);
    }
    members
}

fn chosen(members: &mut Members<u64>, request: &Request<'_>) -> u64 {
    match members.pick(request, &mut Picking::default(), |_| Reluctance::None) {
        Pick::Chosen(index) => members.at(index).id(),
        other => panic!("{other:?}"),
    }
}

fn answered(took_ms: u64, picked_ns: u64) -> Outcome {
    Outcome {
        verdict: Verdict::Succeeded,
        picked_ns,
        header: Some(Duration::from_millis(took_ms)),
        last_byte: Some(Duration::from_millis(took_ms)),
    }
}

#[test]
fn equals_are_served_in_turn() {
    let mut members = weighted(Method::LeastInFlight, &[1, 1, 1]);
    let picks: Vec<u64> = (0..6)
        .map(|_| {
            let id = chosen(&mut members, &Request::at(0));
            members.release(id, 0);
            id
        })
        .collect();
    assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn caps_reluctance_and_draining() {
    let mut members = weighted(Method::LeastInFlight, &[1, 1]);
    members.set_in_flight_max(0, 1);
    members.set_in_flight_max(1, 1);
    let mut pick = |reluctance: fn(&u64) -> Reluctance| {
        members.pick(&Request::at(0), &mut Picking::default(), reluctance)
    };
    let not_0 = |key: &u64| match key {
        0 => Reluctance::Unless,
        _ => Reluctance::None,
    };
    assert_eq!(pick(|_| Reluctance::Never), Pick::Nobody);
    assert_eq!(pick(not_0), Pick::Chosen(1));
    assert_eq!(
        pick(not_0),
        Pick::Chosen(0),
        "better a reluctant one than none"
    );
    assert_eq!(pick(|_| Reluctance::None), Pick::Full);
    members.set_draining(0, true);
    members.set_draining(1, true);
    let pick = members.pick(&Request::at(0), &mut Picking::default(), |_| {
        Reluctance::None
    });
    assert_eq!(pick, Pick::Nobody);
}

#[test]
fn smooth_round_robin_holds_weights_within_one_round() {
    for weights in [&[5, 1, 1][..], &[3, 2, 1], &[1], &[7, 7, 2, 9]] {
        let mut members = weighted(Method::RoundRobin, weights);
        let total: u32 = weights.iter().sum();
        for round in 0..3 {
            let mut counts = vec![0u32; weights.len()];
            for _ in 0..total {
                counts[chosen(&mut members, &Request::at(0)) as usize] += 1;
            }
            assert_eq!(counts, weights, "round {round}");
        }
    }
}

#[test]
fn drawing_and_hashing_hold_weights_over_many() {
    let seed = seed("drawing_and_hashing_hold_weights_over_many");
    for (method, tolerance) in [
        (Method::Random, 0.05),
        (Method::Hash, 0.05),
        (Method::HashConsistent, 0.25),
        (Method::Maglev, 0.05),
    ] {
        let weights = [1, 2, 3, 4];
        let mut members = weighted(method, &weights);
        members.dice = Dice::new(seed);
        let mut counts = [0u32; 4];
        for number in 0..40_000 {
            let key = format!("user {number}");
            let request = Request {
                key: key.as_bytes(),
                ..Request::at(0)
            };
            let id = chosen(&mut members, &request);
            members.release(id, 0);
            counts[id as usize] += 1;
        }
        for (count, weight) in counts.iter().zip(weights) {
            let wanted = 4_000.0 * f64::from(weight);
            let off = (f64::from(*count) - wanted).abs() / wanted;
            assert!(off < tolerance, "{method:?}: {counts:?}");
        }
    }
}

#[test]
fn consistent_methods_move_only_the_keys_of_who_left() {
    for method in [Method::HashConsistent, Method::Maglev] {
        let mut members = weighted(method, &[1, 1, 1, 1, 1]);
        let keys: Vec<String> = (0..2_000).map(|n| format!("key {n}")).collect();
        let place = |members: &mut Members<u64>| -> Vec<u64> {
            let each = keys.iter().map(|key| {
                let request = Request {
                    key: key.as_bytes(),
                    ..Request::at(0)
                };
                chosen(members, &request)
            });
            each.collect()
        };
        let before = place(&mut members);
        members.set_down(2, true);
        let without = place(&mut members);
        members.set_down(2, false);
        assert_eq!(before, place(&mut members), "{method:?}: all return");
        for (before, without) in before.iter().zip(&without) {
            assert!(*before == 2 || before == without, "{method:?}");
        }
        let inherited = |id| {
            before
                .iter()
                .zip(&without)
                .filter(|(b, w)| **b == 2 && **w == id)
                .count()
        };
        for id in [0, 1, 3, 4] {
            assert!(
                inherited(id) > 20,
                "{method:?}: the lost keys are shared out"
            );
        }
        members.leave(2);
        let moved = before
            .iter()
            .zip(place(&mut members))
            .filter(|(b, a)| **b != 2 && *b != a);
        assert!(
            moved.count() < 100,
            "{method:?}: leaving disturbs the others little"
        );
    }
}

#[test]
fn bounded_load_holds_its_bound() {
    let seed = seed("bounded_load_holds_its_bound");
    let mut random = Generator::new(seed);
    for over_percent in [0, 25, 100] {
        let weights = [1, 1, 2, 3, 5];
        let total_weight = 12;
        let mut members = weighted(Method::BoundedLoad { over_percent }, &weights);
        let mut taken = Vec::new();
        for _ in 0..2_000 {
            // Few keys, so that plain hashing would heap them on few members.
            let key = [random.below(3) as u8];
            let request = Request {
                key: &key,
                ..Request::at(0)
            };
            taken.push(chosen(&mut members, &request));
            let in_flight = taken.len() as u64;
            for member in members.iter() {
                let share = in_flight * u64::from(100 + over_percent) * u64::from(member.weight());
                let bound = share.div_ceil(100 * total_weight);
                assert!(
                    member.id() != taken[taken.len() - 1] || u64::from(member.in_flight()) <= bound,
                    "{over_percent} %: {} of {in_flight}",
                    member.in_flight()
                );
            }
            while taken.len() as u64 > random.below(60) + 1 {
                let index = random.index(taken.len()).unwrap();
                members.release(taken.swap_remove(index), 0);
            }
        }
    }
}

#[test]
fn first_fit_keeps_as_few_busy_as_it_can() {
    let mut members = weighted(Method::FirstFit, &[1, 1, 1]);
    for id in 0..3 {
        members.set_in_flight_max(id, 2);
    }
    let picks: Vec<u64> = (0..5)
        .map(|_| chosen(&mut members, &Request::at(0)))
        .collect();
    assert_eq!(picks, [0, 0, 1, 1, 2]);
    members.release(0, 0);
    assert_eq!(chosen(&mut members, &Request::at(0)), 0);
}

#[test]
fn the_quicker_member_gets_more() {
    let least_time = Method::LeastTime {
        measure: Measure::Header,
        in_flight: true,
    };
    for method in [Method::PeakEwma, least_time] {
        let mut members = weighted(method, &[1, 1]);
        let mut counts = [0u32; 2];
        let mut now_ns = SECOND;
        for _ in 0..1_000 {
            let id = chosen(&mut members, &Request::at(now_ns));
            let took_ms = if id == 0 { 100 } else { 10 };
            let picked_ns = now_ns;
            now_ns += took_ms * 1_000_000;
            members.finish(id, &answered(took_ms, picked_ns), now_ns);
            counts[id as usize] += 1;
        }
        assert!(counts[1] > 9 * counts[0], "{method:?}: {counts:?}");
    }
}

#[test]
fn peak_ewma_shuns_who_fails_and_forgives_it() {
    let mut members = weighted(Method::PeakEwma, &[1, 1]);
    let now_ns = SECOND;
    for (id, verdict) in [(0, Verdict::Failed), (1, Verdict::Succeeded)] {
        let only = |key: &u64| match *key == id {
            true => Reluctance::None,
            false => Reluctance::Never,
        };
        members.pick(&Request::at(now_ns), &mut Picking::default(), only);
        let outcome = Outcome {
            verdict,
            ..answered(5, now_ns)
        };
        members.finish(id, &outcome, now_ns);
    }
    for _ in 0..50 {
        assert_eq!(chosen(&mut members, &Request::at(now_ns)), 1);
        members.release(1, now_ns);
    }
    let later = now_ns + 120 * SECOND;
    let again = (0..50).any(|_| {
        let id = chosen(&mut members, &Request::at(later));
        members.finish(id, &answered(5, later), later);
        id == 0
    });
    assert!(again, "after a while it is asked again");
}

#[test]
fn bound_requests_stay_where_they_belong() {
    let mut members = Members::new(settings(Method::RoundRobin));
    for id in 0..3u64 {
        let route = format!("r{id}");
        let terms = Terms {
            route: route.as_bytes(),
            ..Terms::default()
        };
        members.join(id, id, &terms);
    }
    let bound = Request {
        bound_to: Some(b"r1"),
        ..Request::at(SECOND)
    };
    for _ in 0..10 {
        assert_eq!(chosen(&mut members, &bound), 1);
    }
    // They are charged, up to a point: unbound ones keep away, but not for ever.
    let picks: Vec<u64> = (0..9)
        .map(|_| chosen(&mut members, &Request::at(SECOND)))
        .collect();
    assert_ne!(picks[0], 1);
    assert!(picks.contains(&1), "{picks:?}");
    members.set_bound_only(1, true);
    assert_eq!(chosen(&mut members, &bound), 1);
    for _ in 0..6 {
        assert_ne!(chosen(&mut members, &Request::at(SECOND)), 1);
    }
    members.set_down(1, true);
    assert_ne!(
        chosen(&mut members, &bound),
        1,
        "better elsewhere than nowhere"
    );
    let unknown = Request {
        bound_to: Some(b"r9"),
        ..Request::at(SECOND)
    };
    assert_ne!(chosen(&mut members, &unknown), 1);
}

#[test]
fn a_bound_request_that_failed_goes_elsewhere() {
    let mut members = Members::new(settings(Method::LeastConn));
    for id in 0..2u64 {
        let terms = Terms {
            route: &[id as u8 + 1],
            ..Terms::default()
        };
        members.join(id, id, &terms);
    }
    let request = Request {
        bound_to: Some(&[1]),
        ..Request::at(0)
    };
    let mut picking = Picking::default();
    assert_eq!(
        members.pick(&request, &mut picking, |_| Reluctance::None),
        Pick::Chosen(0)
    );
    assert_eq!(
        members.pick(&request, &mut picking, |_| Reluctance::None),
        Pick::Chosen(1)
    );
    assert_eq!(
        members.pick(&request, &mut picking, |_| Reluctance::None),
        Pick::Nobody
    );
}

fn with_priorities(spill: Spill) -> Members<u64> {
    let mut members = Members::new(Settings {
        method: Method::LeastInFlight,
        spill,
        ..Settings::default()
    });
    for id in 0..8u64 {
        let terms = Terms {
            priority: u32::from(id >= 4),
            backup: id >= 6,
            ..Terms::default()
        };
        members.join(id, id, &terms);
    }
    members
}

#[test]
fn priorities_serve_one_after_the_other() {
    let mut members = with_priorities(Spill::WhenNone);
    for _ in 0..20 {
        assert!(chosen(&mut members, &Request::at(0)) < 4);
    }
    for id in 0..4 {
        members.set_healthy(id, false, 0);
    }
    for _ in 0..20 {
        assert!((4..6).contains(&chosen(&mut members, &Request::at(0))));
    }
    members.set_ejected(4, true, 0);
    members.set_draining(5, true);
    assert!(chosen(&mut members, &Request::at(0)) >= 6);
}

#[test]
fn traffic_spills_over_as_health_falls() {
    let spill = Spill::ByHealth {
        overprovisioning_percent: 140,
    };
    let mut members = with_priorities(spill);
    let shares = |members: &mut Members<u64>| {
        let mut first = 0;
        for _ in 0..2_000 {
            let id = chosen(members, &Request::at(0));
            members.release(id, 0);
            first += u32::from(id < 4);
        }
        f64::from(first) / 2_000.0
    };
    assert_eq!(shares(&mut members), 1.0);
    members.set_healthy(0, false, 0);
    assert_eq!(shares(&mut members), 1.0, "three of four carry all of it");
    members.set_healthy(1, false, 0);
    assert!(
        (shares(&mut members) - 0.7).abs() < 0.05,
        "half of them carry 70 %"
    );
    members.set_healthy(2, false, 0);
    members.set_healthy(3, false, 0);
    assert_eq!(shares(&mut members), 0.0);
}

#[test]
fn panic_uses_everybody_but_who_is_down() {
    let mut members = weighted(Method::RoundRobin, &[1, 1, 1, 1]);
    let percent = Settings {
        method: Method::RoundRobin,
        panic_percent: 50,
        ..Settings::default()
    };
    members.set_settings(percent);
    members.set_ejected(0, true, 0);
    members.set_healthy(1, false, 0);
    for _ in 0..8 {
        assert!(chosen(&mut members, &Request::at(0)) >= 2, "half are well");
    }
    members.set_ejected(2, true, 0);
    let picks: Vec<u64> = (0..8)
        .map(|_| chosen(&mut members, &Request::at(0)))
        .collect();
    for id in 0..4 {
        assert_eq!(picks.iter().filter(|pick| **pick == id).count(), 2);
    }
    members.set_down(2, true);
    members.set_settings(Settings {
        panic_percent: 0,
        ..percent
    });
    for _ in 0..4 {
        assert_eq!(chosen(&mut members, &Request::at(0)), 3);
    }
}

#[test]
fn who_comes_back_starts_slowly() {
    for method in [
        Method::RoundRobin,
        Method::PowerOfTwo,
        Method::LeastInFlight,
    ] {
        let mut members = weighted(method, &[1, 1]);
        members.set_settings(Settings {
            method,
            slow_start: Some(SlowStart {
                window: Duration::from_secs(10),
                ..SlowStart::default()
            }),
            ..Settings::default()
        });
        members.set_healthy(1, false, 0);
        members.set_healthy(1, true, 100 * SECOND);
        let share = |members: &mut Members<u64>, now_ns| {
            // Every request stays for twenty more: so there is a load to compare.
            let mut taken: Vec<u64> = Vec::new();
            let mut count = 0;
            for _ in 0..1_000 {
                let id = chosen(members, &Request::at(now_ns));
                taken.push(id);
                count += u32::from(id == 1);
                if taken.len() > 20 {
                    members.release(taken.remove(0), now_ns);
                }
            }
            for id in taken {
                members.release(id, now_ns);
            }
            f64::from(count) / 1_000.0
        };
        let shares = [101, 104, 107, 110].map(|at_s| share(&mut members, at_s * SECOND));
        assert!(shares[0] < 0.2, "{method:?}: {shares:?}");
        assert!(shares.is_sorted(), "{method:?}: {shares:?}");
        assert!((shares[3] - 0.5).abs() < 0.02, "{method:?}: {shares:?}");
    }
}

/// A world in which members come, go, fail, fill up and recover, and what must hold at every pick.
struct World {
    members: Members<u64>,
    random: Generator,
    /// Member, when it was picked.
    taken: Vec<(u64, u64)>,
    next_id: u64,
    now_ns: u64,
}

impl World {
    fn step(&mut self, context: &dyn Fn() -> String) {
        self.now_ns += self.random.below(SECOND);
        let someone = self
            .random
            .index(self.members.list.len())
            .map(|index| self.members.list[index].id);
        let flag = self.random.below(2) == 0;
        match (self.random.below(14), someone) {
            (0, _) | (_, None) => self.join(),
            (1, Some(id)) if self.members.list.len() > 1 => {
                self.members.leave(id);
                self.taken.retain(|(taken, _)| *taken != id);
            }
            (2, Some(id)) => assert!(self.members.set_draining(id, flag)),
            (3, Some(id)) => assert!(self.members.set_down(id, flag)),
            (4, Some(id)) => assert!(self.members.set_ejected(id, flag, self.now_ns)),
            (5, Some(id)) => assert!(self.members.set_healthy(id, flag, self.now_ns)),
            (6, Some(id)) => assert!(self.members.set_weight(id, 1 + self.random.below(5) as u32)),
            (7..10, _) => self.give_back(),
            _ => self.request(context),
        }
        for member in self.members.iter() {
            let taken = self
                .taken
                .iter()
                .filter(|(id, _)| *id == member.id())
                .count();
            assert_eq!(
                member.in_flight() as usize,
                taken,
                "{}: a count leaks",
                context()
            );
        }
    }

    fn join(&mut self) {
        if self.members.list.len() >= 7 {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let terms = Terms {
            server: &format!("10.0.0.{}:80", id % 5),
            route: &[id as u8 % 4],
            weight: 1 + self.random.below(4) as u32,
            priority: self.random.below(2) as u32,
            backup: self.random.below(5) == 0,
            in_flight_max: self.random.below(4) as u32,
            max_fails: self.random.below(3) as u32,
            ..Terms::default()
        };
        self.members.join(id, id, &terms);
    }

    fn give_back(&mut self) {
        let Some(index) = self.random.index(self.taken.len()) else {
            return;
        };
        let (id, picked_ns) = self.taken.swap_remove(index);
        let outcome = Outcome {
            verdict: if self.random.below(3) == 0 {
                Verdict::Failed
            } else {
                Verdict::Succeeded
            },
            ..answered(self.random.below(3_000), picked_ns)
        };
        assert!(if self.random.below(5) == 0 {
            self.members.release(id, picked_ns)
        } else {
            self.members.finish(id, &outcome, self.now_ns)
        });
    }

    /// One request and its retries.
    fn request(&mut self, context: &dyn Fn() -> String) {
        let mut picking = Picking::default();
        let key = [self.random.below(20) as u8; 16];
        let route = [self.random.below(8) as u8];
        let request = Request {
            now_ns: self.now_ns,
            client: &key[..[0, 4, 16][self.random.below(3) as usize]],
            key: &key[..self.random.below(17) as usize],
            bound_to: Some(&route[..self.random.below(2) as usize]),
        };
        let never = self.random.below(10);
        let reluctance = |key: &u64| match (key + never) % 10 {
            0 => Reluctance::Never,
            1 => Reluctance::Unless,
            _ => Reluctance::None,
        };
        for _ in 0..1 + self.random.below(4) {
            let before = self.members.clone();
            let tried = picking.clone();
            let panics = before.panics();
            let alone = before.list.len() == 1;
            let may = |m: &Member<u64>| {
                !m.down
                    && !m.draining
                    && (panics || (!m.unhealthy && !m.ejected))
                    && (alone || !m.is_failing(self.now_ns))
                    && !m.is_full()
                    && reluctance(&m.key) != Reluctance::Never
            };
            let fresh = |m: &Member<u64>| may(m) && (alone || !tried.has_tried(m.id));
            let able = before.iter().filter(|m| fresh(m)).count();
            match self.members.pick(&request, &mut picking, reluctance) {
                Pick::Chosen(index) => {
                    let member = before.at(index);
                    assert!(may(member), "{}: {member:?}", context());
                    if able > 0 {
                        assert!(fresh(member), "{}: tried: {member:?}", context());
                    } else {
                        assert!(before.settings.again, "{}", context());
                    }
                    let bound = request.bound_to == Some(&*member.route);
                    let willing = before
                        .iter()
                        .any(|m| fresh(m) && reluctance(&m.key) == Reluctance::None);
                    if willing && !bound {
                        let slow = before.iter().any(|m| m.ramp_since_ns.is_some());
                        assert!(
                            slow || reluctance(&member.key) == Reluctance::None,
                            "{}",
                            context()
                        );
                    }
                    self.taken.push((member.id, self.now_ns));
                }
                nobody => {
                    assert_eq!(able, 0, "{}: {nobody:?}", context());
                    break;
                }
            }
        }
    }
}

#[test]
fn nobody_is_picked_who_must_not_be_and_no_count_leaks() {
    let seed = seed("nobody_is_picked_who_must_not_be_and_no_count_leaks");
    for (number, method) in (0u64..).zip(METHODS).cycle().take(320) {
        let mut random = Generator::new(seed.wrapping_add(number.wrapping_mul(0x1234_5679)));
        let settings = Settings {
            method,
            seed: random.next(),
            slow_start: (random.below(2) == 0).then(SlowStart::default),
            panic_percent: random.below(2) as u32 * 50,
            spill: if random.below(2) == 0 {
                Spill::WhenNone
            } else {
                Spill::ByHealth {
                    overprovisioning_percent: 140,
                }
            },
            again: random.below(2) == 0,
        };
        let mut world = World {
            members: Members::new(settings),
            random,
            taken: Vec::new(),
            next_id: 0,
            now_ns: SECOND,
        };
        for step in 0..150 {
            world.step(&|| format!("{method:?}, world {number}, step {step}"));
        }
    }
}

#[test]
fn a_passed_check_forgives_failures() {
    let mut members = Members::new(settings(Method::RoundRobin));
    for id in 0..2u64 {
        members.join(id, id, &Terms::default());
    }
    let now_ns = 100 * SECOND;
    let failed = Outcome {
        verdict: Verdict::Failed,
        ..answered(1, now_ns)
    };
    assert_eq!(chosen(&mut members, &Request::at(now_ns)), 0);
    members.finish(0, &failed, now_ns);
    members.set_healthy(0, false, now_ns);
    assert!(members.at(0).is_failing(now_ns));
    members.set_healthy(0, true, now_ns);
    assert!(!members.at(0).is_failing(now_ns));
    let picks = [(); 2].map(|()| chosen(&mut members, &Request::at(now_ns)));
    assert!(picks.contains(&0));
}

#[test]
fn whoever_is_promised_another_member_gets_it() {
    let seed = seed("whoever_is_promised_another_member_gets_it");
    let mut random = Generator::new(seed);
    let (mut promised, mut alone) = (0, 0);
    for _ in 0..4_000 {
        let method = METHODS[random.index(METHODS.len()).unwrap()];
        let count = 1 + random.below(4);
        let mut members = Members::new(settings(method));
        for id in 0..count {
            let terms = Terms {
                server: &format!("10.0.0.{id}:80"),
                weight: 1 + random.below(3) as u32,
                backup: random.below(4) == 0,
                down: random.below(6) == 0,
                in_flight_max: random.below(3) as u32,
                ..Terms::default()
            };
            members.join(id, id, &terms);
            members.set_draining(id, random.below(6) == 0);
            members.set_healthy(id, random.below(3) > 0, 0);
            members.set_ejected(id, random.below(6) == 0, 0);
        }
        let request = Request {
            client: &[10, 0, 0, random.below(256) as u8],
            key: b"key",
            ..Request::at(SECOND)
        };
        let mut picking = Picking::default();
        let pick = members.pick(&request, &mut picking, |_| Reluctance::None);
        let Pick::Chosen(index) = pick else { continue };
        let from = members.at(index).id();
        members.set_healthy(from, false, SECOND);
        if !members.has_other(from, &picking, SECOND) {
            alone += 1;
            continue;
        }
        promised += 1;
        members.release(from, SECOND);
        match members.pick(&request, &mut picking, |_| Reluctance::None) {
            Pick::Chosen(other) => assert_ne!(members.at(other).id(), from, "{method:?}"),
            Pick::Full => {}
            Pick::Nobody => panic!("{method:?}: nobody, though another was promised"),
        }
    }
    assert!(promised > 500 && alone > 500, "{promised} {alone}");
}
