//! The policy against a real nginx: `nginx.txt` is what one did with every case of
//! `tests/balancing.py`, written by `tests/nginx_transcripts.py`. Each case is done again here with
//! the pure policy, which must try the same members in the same order and end with the same status.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use evener_policy::balance::{
    Members, Method, Outcome, Pick, Picking, Reluctance, Request, Settings, Terms, Verdict,
};
use evener_policy::next_upstream::{Attempt, Blame, Conditions, Ended, Next, Rules};

const TRANSCRIPTS: &str = include_str!("nginx.txt");

/// The members of one case, and how their servers are said to behave.
struct World {
    members: Members<()>,
    rules: Rules,
    stopped: BTreeSet<u64>,
    statuses: BTreeMap<u64, u16>,
    /// Requests that are kept: by name, whom they are with and when they came.
    kept: BTreeMap<String, (u64, u64)>,
    keyed: bool,
}

/// What became of one request.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    tried: Vec<u64>,
    status: u16,
    from: u64,
}

fn method(words: &str) -> Method {
    match words {
        "round_robin" => Method::RoundRobin,
        "least_conn" => Method::LeastConn,
        "ip_hash" => Method::IpHash,
        "hash $http_x_key" => Method::Hash,
        "hash $http_x_key consistent" => Method::HashConsistent,
        other => panic!("no such method: {other}"),
    }
}

impl World {
    fn new(header: &[&str]) -> World {
        let mut world = World {
            members: Members::default(),
            rules: Rules::default(),
            stopped: BTreeSet::new(),
            statuses: BTreeMap::new(),
            kept: BTreeMap::new(),
            keyed: false,
        };
        let mut next_id = 0;
        for line in header {
            let (word, rest) = line.split_once(' ').unwrap();
            match word {
                "method" => {
                    world.keyed = rest.contains("key");
                    world.members.set_settings(Settings {
                        method: method(rest),
                        ..Settings::default()
                    });
                }
                "next" => {
                    let (conditions, tries) = rest.split_once("; tries=").unwrap();
                    let named = conditions
                        .split(' ')
                        .map(|name| Conditions::named(name).unwrap());
                    world.rules = Rules {
                        conditions: named.fold(Conditions::OFF, Conditions::and),
                        tries: tries.parse().unwrap(),
                        timeout: Duration::ZERO,
                    };
                }
                "server" => {
                    next_id += 1;
                    let mut words = rest.split(' ');
                    let mut terms = Terms {
                        server: words.next().unwrap(),
                        ..Terms::default()
                    };
                    for word in words {
                        let (name, value) = word.split_once('=').unwrap_or((word, "0"));
                        let value: u32 = value.parse().unwrap();
                        match name {
                            "weight" => terms.weight = value,
                            "max_fails" => terms.max_fails = value,
                            "fail_timeout" => {
                                terms.fail_timeout = Duration::from_secs(value.into());
                            }
                            "max_conns" => terms.in_flight_max = value,
                            "backup" => terms.backup = true,
                            "down" => terms.down = true,
                            other => panic!("no such parameter: {other}"),
                        }
                    }
                    world.members.join(next_id, (), &terms);
                }
                other => panic!("no such line: {other}"),
            }
        }
        world
    }

    fn pick(&mut self, step: &str, picking: &mut Picking, now_ns: u64) -> Option<u64> {
        let word = |name: &str| step.split(' ').find_map(|word| word.strip_prefix(name));
        let client: IpAddr = word("client=").unwrap_or("127.0.0.1").parse().unwrap();
        let client = match client {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let request = Request {
            now_ns,
            client: &client,
            key: word("key=").filter(|_| self.keyed).unwrap_or("").as_bytes(),
            bound_to: None,
        };
        match self.members.pick(&request, picking, |()| Reluctance::None) {
            Pick::Chosen(index) => Some(self.members.at(index).id()),
            Pick::Full | Pick::Nobody => None,
        }
    }

    fn finish(&mut self, id: u64, verdict: Verdict, picked_ns: u64, now_ns: u64) {
        let outcome = Outcome {
            verdict,
            picked_ns,
            header: None,
            last_byte: None,
        };
        assert!(self.members.finish(id, &outcome, now_ns));
    }

    /// A request and its tries.
    fn request(&mut self, step: &str, now_ns: u64) -> Answer {
        let mut picking = Picking::default();
        let mut tried = Vec::new();
        let mut tries = self.rules.tries_of(self.members.tries() as u32);
        loop {
            let Some(id) = self.pick(step, &mut picking, now_ns) else {
                return Answer {
                    tried,
                    status: 502,
                    from: 0,
                };
            };
            tried.push(id);
            let sent = !self.stopped.contains(&id);
            let told = self.statuses.get(&id).copied().unwrap_or(200);
            let ended = if !sent || step.starts_with("reset") {
                Ended::Error
            } else {
                Ended::Status(told)
            };
            let (next, blame) = self.rules.decide(&Attempt {
                ended,
                tries,
                alone: self.members.iter().count() == 1,
                reused: false,
                sent,
                non_idempotent: step.contains("POST"),
                held: true,
                answered: false,
                elapsed: Duration::ZERO,
            });
            let verdict = match blame {
                Blame::Succeeded => Verdict::Succeeded,
                Blame::Failed => Verdict::Failed,
            };
            self.finish(id, verdict, now_ns, now_ns);
            let (status, from) = match next {
                Next::Again { tries: left } => {
                    tries = left;
                    continue;
                }
                Next::PassOn => (told, id),
                Next::End { status } => (status, 0),
            };
            return Answer {
                tried,
                status,
                from,
            };
        }
    }

    /// Keeps a request at the first member that accepts it.
    fn hold(&mut self, step: &str, now_ns: u64) -> u64 {
        let mut picking = Picking::default();
        loop {
            let id = self.pick(step, &mut picking, now_ns).expect("it was kept");
            if !self.stopped.contains(&id) {
                let name = step.split(' ').nth(1).unwrap().to_owned();
                self.kept.insert(name, (id, now_ns));
                return id;
            }
            self.finish(id, Verdict::Failed, now_ns, now_ns);
        }
    }

    fn step(&mut self, line: &str) {
        let (second, rest) = line.split_once(' ').unwrap();
        let (rest, status) = match rest.split_once(" = ") {
            Some((rest, status)) => (rest, Some(status)),
            None => (rest, None),
        };
        let (step, tried) = match rest.split_once(" -> ") {
            Some((step, tried)) => (step, tried),
            None => (rest, ""),
        };
        let tried: Vec<u64> = tried
            .split_terminator(',')
            .map(|n| n.parse().unwrap())
            .collect();
        let now_ns = 1_000_000_000 * (1_000_000 + second.parse::<u64>().unwrap());
        let mut words = step.split(' ');
        let verb = words.next().unwrap();
        let argument = words.next().unwrap_or("");
        match verb {
            "get" | "reset" => {
                let (status, from) = status.unwrap().split_once(" from ").unwrap();
                let seen = Answer {
                    tried,
                    status: status.parse().unwrap(),
                    from: from.parse().unwrap(),
                };
                assert_eq!(self.request(step, now_ns), seen);
            }
            "hold" => assert_eq!([self.hold(step, now_ns)], *tried),
            "end" => {
                let (id, picked_ns) = self.kept.remove(argument).unwrap();
                self.finish(id, Verdict::Succeeded, picked_ns, now_ns);
            }
            "stop" => assert!(self.stopped.insert(argument.parse().unwrap())),
            "start" => assert!(self.stopped.remove(&argument.parse().unwrap())),
            "status" => {
                let status = words.next().unwrap().parse().unwrap();
                self.statuses.insert(argument.parse().unwrap(), status);
            }
            other => panic!("no such step: {other}"),
        }
    }
}

#[test]
fn every_case_goes_as_it_went_with_nginx() {
    let mut cases = 0;
    let mut requests = 0;
    for case in TRANSCRIPTS.split("\ncase ").skip(1) {
        let mut lines: Vec<&str> = case.lines().collect();
        lines.retain(|line| !line.is_empty());
        let name = lines.remove(0);
        let begin = lines
            .iter()
            .position(|line| line.starts_with(|first: char| first.is_ascii_digit()))
            .unwrap();
        let (header, steps) = lines.split_at(begin);
        let mut world = World::new(header);
        for step in steps {
            println!("{name}: {step}");
            world.step(step);
            requests += usize::from(step.contains(" = "));
        }
        cases += 1;
    }
    assert!(cases > 50 && requests > 1_500, "{cases}, {requests}");
}
