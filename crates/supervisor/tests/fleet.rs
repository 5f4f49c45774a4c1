//! The supervisor with real processes: tiny Python workers that start, fail, crash, hang and are
//! killed. Every wait is for a condition, with a deadline.

#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evener_supervisor::{
    Balancer, CommandRecipe, Handle, LeadManner, Outcome, Patience, ReadyWorker, Recipe,
    RecycleLimits, ReliefSettings, RestartPolicy, RolloutOutcome, RunDirectory, Settings, State,
    Status, Supervisor, WorkerId,
};
use evener_telemetry::{Level, Log, LogFormat};
use tokio::task::JoinHandle;

/// Notes what it is told, and checks that it makes sense.
#[derive(Default)]
struct Recorder {
    serving: Mutex<HashSet<WorkerId>>,
    draining: Mutex<HashSet<WorkerId>>,
    in_flight: Mutex<HashMap<WorkerId, u32>>,
    requests: Mutex<HashMap<WorkerId, u64>>,
    stalled: Mutex<Vec<WorkerId>>,
    pressed: Mutex<bool>,
    fewest: Mutex<usize>,
}

impl Recorder {
    fn count(&self) -> usize {
        self.serving.lock().unwrap().len()
    }

    /// From now on, notes the fewest workers that ever served at once.
    fn watch_fewest(&self) {
        *self.fewest.lock().unwrap() = self.count();
    }

    fn fewest(&self) -> usize {
        *self.fewest.lock().unwrap()
    }

    fn lost(&self, id: WorkerId) {
        let mut serving = self.serving.lock().unwrap();
        serving.remove(&id);
        let mut fewest = self.fewest.lock().unwrap();
        *fewest = serving.len().min(*fewest);
    }
}

impl Balancer for Recorder {
    fn add(&self, worker: &ReadyWorker) {
        assert!(worker.socket.exists());
        assert!(self.serving.lock().unwrap().insert(worker.id));
    }

    fn drain(&self, id: WorkerId) {
        assert!(
            self.serving.lock().unwrap().contains(&id),
            "only a serving worker drains"
        );
        self.lost(id);
        self.draining.lock().unwrap().insert(id);
    }

    fn in_flight(&self, id: WorkerId) -> u32 {
        self.in_flight
            .lock()
            .unwrap()
            .get(&id)
            .copied()
            .unwrap_or(0)
    }

    fn requests(&self, id: WorkerId) -> u64 {
        self.requests.lock().unwrap().get(&id).copied().unwrap_or(0)
    }

    fn remove(&self, id: WorkerId) {
        self.lost(id);
        self.draining.lock().unwrap().remove(&id);
    }

    fn stalled(&self) -> Vec<WorkerId> {
        self.stalled.lock().unwrap().clone()
    }

    fn is_pressed(&self) -> bool {
        *self.pressed.lock().unwrap()
    }
}

struct World {
    handle: Handle,
    balancer: Arc<Recorder>,
    log: Arc<Mutex<Vec<u8>>>,
    running: JoinHandle<Outcome>,
    directory: PathBuf,
}

fn script(name: &str) -> String {
    format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn settings(environment: &[(&str, &str)]) -> Settings {
    let words = ["python3", "-S", "-E", &script("worker.py"), "{socket}"];
    let environment = environment
        .iter()
        .map(|(key, value)| (key.into(), value.into()))
        .collect();
    let recipe = CommandRecipe::new(words.map(str::to_owned).to_vec(), environment).unwrap();
    Settings {
        recipe: Recipe::Command(recipe),
        count: 2,
        count_max: 8,
        count_max_reason: None,
        processes_max: usize::MAX,
        relief: None,
        patience: Patience {
            startup: Duration::from_secs(20),
            grace: Duration::from_secs(20),
            stop: Duration::from_secs(5),
            settle: None,
        },
        restart: RestartPolicy {
            stable_after: Duration::from_secs(5),
            delay_first: Duration::from_millis(20),
            delay_max: Duration::from_millis(200),
            loop_after: 5,
        },
        recycle: RecycleLimits::default(),
        stall: None,
        page_slots: 16,
        backlog: 64,
        leaving_max: 1,
        oldest_first: false,
        lead: LeadManner::AtStart,
        lead_withheld: false,
        waits_when_broken: false,
        environment: Vec::new(),
        reconfigure: None,
        seed: 1,
    }
}

fn world(settings: Settings) -> World {
    let balancer = Arc::new(Recorder::default());
    let sink = Arc::new(Mutex::new(Vec::new()));
    let log = Log::new(Level::Debug, LogFormat::Text { colors: false }).with_sink(sink.clone());
    let directory = RunDirectory::create(&std::env::temp_dir()).unwrap();
    let path = directory.path().to_owned();
    let (supervisor, handle) =
        Supervisor::new(settings, directory, Arc::clone(&balancer) as _, log).unwrap();
    let running = tokio::spawn(supervisor.run());
    World {
        handle,
        balancer,
        log: sink,
        running,
        directory: path,
    }
}

impl World {
    async fn until(&mut self, what: &str, wanted: impl FnMut(&Status) -> bool) {
        let limit = Duration::from_secs(30);
        match tokio::time::timeout(limit, self.handle.wait(wanted)).await {
            Ok(true) => {}
            Ok(false) => panic!("the supervisor ended before {what}: {}", self.text()),
            Err(_) => panic!(
                "{what}: not in time: {:#?}\n{}",
                self.handle.status(),
                self.text()
            ),
        }
    }

    async fn until_ready(&mut self, count: usize) {
        self.until("workers are ready", |status| {
            status.ready() == count && status.workers.len() == count
        })
        .await;
        assert_eq!(self.balancer.count(), count);
    }

    async fn until_log(&mut self, text: &str) {
        for _ in 0..3000 {
            if self.text().contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("`{text}` was never logged: {}", self.text());
    }

    fn text(&self) -> String {
        String::from_utf8(self.log.lock().unwrap().clone()).unwrap()
    }

    fn pids(&self) -> Vec<u32> {
        self.handle
            .status()
            .workers
            .iter()
            .map(|worker| worker.pid)
            .collect()
    }

    async fn end(self) -> (Outcome, String) {
        let limit = Duration::from_secs(30);
        let outcome = tokio::time::timeout(limit, self.running).await;
        let text = String::from_utf8(self.log.lock().unwrap().clone()).unwrap();
        let outcome = outcome
            .unwrap_or_else(|_| panic!("it does not end: {text}"))
            .unwrap();
        assert!(!self.directory.exists(), "nothing is left behind");
        assert_eq!(self.balancer.count(), 0);
        (outcome, text)
    }

    async fn stop(self) -> String {
        let pids = self.pids();
        self.handle.stop(Duration::from_secs(20)).await;
        let (outcome, text) = self.end().await;
        assert!(matches!(outcome, Outcome::Stopped));
        for pid in pids {
            assert!(
                !std::fs::exists(format!("/proc/{pid}")).unwrap(),
                "{pid} is left"
            );
        }
        text
    }
}

fn kill(pid: u32, signal: i32) {
    let signal = format!("-{signal}");
    let status = std::process::Command::new("kill")
        .arg(signal)
        .arg(pid.to_string())
        .status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn workers_start_serve_and_end() {
    let mut world = world(settings(&[]));
    world.until_ready(2).await;
    let text = world.stop().await;
    assert!(text.contains("worker-1 | hello from worker-1\n"), "{text}");
    assert!(text.contains("worker-2 | hello from worker-2\n"), "{text}");
    assert!(text.contains("is ready after"));
    assert!(!text.contains("WARNING"), "{text}");
}

#[tokio::test]
async fn a_killed_worker_is_replaced() {
    let mut world = world(settings(&[]));
    world.until_ready(2).await;
    let victim = world.pids()[0];
    kill(victim, 9);
    world
        .until("the victim is replaced", |status| {
            status.ready() == 2 && status.workers.iter().all(|worker| worker.pid != victim)
        })
        .await;
    let status = world.handle.status();
    assert_eq!(status.deaths, 1);
    assert_eq!(
        status
            .workers
            .iter()
            .map(|worker| worker.restarts)
            .sum::<u32>(),
        1
    );
    let text = world.stop().await;
    assert!(
        text.contains(&format!("worker-1 (pid {victim}) was killed by signal 9")),
        "{text}"
    );
}

#[tokio::test]
async fn a_reload_replaces_all_and_never_serves_with_fewer() {
    let mut world = world(settings(&[]));
    world.until_ready(2).await;
    let old = world.pids();
    world.balancer.watch_fewest();
    let first = world.handle.reload().await.unwrap();
    let second = world.handle.reload().await.unwrap();
    let third = world.handle.reload().await.unwrap();
    assert_eq!(
        (first, second, third),
        (1, 2, 2),
        "overlapping requests share a rollout"
    );
    world
        .until("both rollouts are over", |status| {
            let done = |generation| {
                status.rollouts.iter().any(|rollout| {
                    rollout.generation == generation && rollout.outcome == RolloutOutcome::Done
                })
            };
            done(1) && done(2) && status.workers.len() == 2
        })
        .await;
    assert!(world.balancer.fewest() >= 2);
    assert!(world.pids().iter().all(|pid| !old.contains(pid)));
    world.stop().await;
}

#[tokio::test]
async fn a_reload_survives_kills_at_any_point() {
    let mut world = world(Settings {
        count: 3,
        ..settings(&[])
    });
    world.until_ready(3).await;
    let generation = world.handle.reload().await.unwrap();
    // One death at each step of the rollout: whoever is the newest, then whoever is the oldest.
    for round in 0..4 {
        let status = world.handle.status();
        let workers = &status.workers;
        let victim = if round % 2 == 0 {
            workers.last()
        } else {
            workers.first()
        };
        let (id, pid) = victim.map(|victim| (victim.id, victim.pid)).unwrap();
        kill(pid, 9);
        world
            .until("the victim is gone", |status| {
                status.workers.iter().all(|worker| worker.id != id)
            })
            .await;
    }
    world
        .until("the rollout is over", |status| {
            let rollout = status
                .rollouts
                .iter()
                .find(|rollout| rollout.generation == generation);
            rollout.is_some_and(|rollout| rollout.outcome == RolloutOutcome::Done)
                && status.ready() == 3
        })
        .await;
    let status = world.handle.status();
    assert!(
        status
            .workers
            .iter()
            .all(|worker| worker.generation == generation || worker.state != State::Ready),
        "{status:#?}"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_broken_replacement_keeps_the_old_workers() {
    let flag = std::env::temp_dir().join(format!("evener-flag-{}", std::process::id()));
    let mut world = world(settings(&[("FLAG", flag.to_str().unwrap())]));
    world.until_ready(2).await;
    let old = world.pids();
    std::fs::write(&flag, "raise").unwrap();
    let generation = world.handle.reload().await.unwrap();
    world
        .until("the rollout is given up", |status| {
            status.rollouts.len() == 1
        })
        .await;
    std::fs::remove_file(&flag).unwrap();
    let status = world.handle.status();
    assert_eq!(status.rollouts[0].generation, generation);
    let RolloutOutcome::Failed(reason) = &status.rollouts[0].outcome else {
        panic!()
    };
    assert!(
        reason.contains("exited with status 1 before it was ready"),
        "{reason}"
    );
    assert_eq!(world.pids(), old);
    assert!(
        world
            .text()
            .contains("RuntimeError: the database is not there")
    );
    assert_eq!(world.balancer.count(), 2);
    // And the next one works again.
    world.handle.reload().await.unwrap();
    world
        .until("the next rollout is done", |status| {
            status
                .rollouts
                .last()
                .is_some_and(|rollout| rollout.outcome == RolloutOutcome::Done)
        })
        .await;
    world.stop().await;
}

#[tokio::test]
async fn an_application_that_cannot_start_is_said_once() {
    let world = world(Settings {
        count: 4,
        ..settings(&[("TROUBLE", "raise")])
    });
    let (outcome, text) = world.end().await;
    let Outcome::NeverStarted(failure) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(failure.code, Some(1));
    assert_eq!(failure.reason, "exited with status 1 before it was ready");
    assert_eq!(
        failure.tail.last().unwrap(),
        "RuntimeError: the database is not there"
    );
    let shown = text.matches("RuntimeError:").count();
    assert_eq!(
        shown + usize::from(!failure.unseen.is_empty()),
        1,
        "{failure:?}\n{text}"
    );
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let recipe = CommandRecipe::new(vec!["/nonexistent/server".to_owned()], Vec::new()).unwrap();
    let world = world(Settings {
        recipe: Recipe::Command(recipe),
        ..settings(&[])
    });
    let (outcome, _) = world.end().await;
    let Outcome::NeverStarted(failure) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        failure
            .reason
            .contains("`/nonexistent/server`: No such file"),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_worker_that_never_answers_is_given_up() {
    let mut settings = settings(&[("TROUBLE", "silent")]);
    settings.patience.startup = Duration::from_millis(300);
    let (outcome, _) = world(settings).end().await;
    let Outcome::NeverStarted(failure) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(failure.reason, "did not answer within 0.3 s");
}

#[tokio::test]
async fn a_crash_loop_is_reported_once_with_the_last_lines() {
    let flag = std::env::temp_dir().join(format!("evener-loop-{}", std::process::id()));
    let mut settings = settings(&[("FLAG", flag.to_str().unwrap())]);
    settings.restart.stable_after = Duration::from_millis(500);
    let mut world = world(settings);
    world.until_ready(2).await;
    std::fs::write(&flag, "raise").unwrap();
    for pid in world.pids() {
        kill(pid, 9);
    }
    world
        .until("a crash loop is seen", |status| status.crash_loop)
        .await;
    world
        .until("it goes on", |status| status.deaths >= 10)
        .await;
    let text = world.text();
    assert_eq!(text.matches("crash loop:").count(), 1, "{text}");
    assert!(
        text.contains("\n    RuntimeError: the database is not there\n"),
        "{text}"
    );
    std::fs::remove_file(&flag).unwrap();
    world
        .until("it is over", |status| {
            !status.crash_loop && status.ready() == 2
        })
        .await;
    world.until_log("the crash loop is over").await;
    world.stop().await;
}

#[tokio::test]
async fn a_drain_waits_for_what_is_in_flight_and_not_for_ever() {
    let mut settings = settings(&[("TROUBLE", "deaf")]);
    settings.patience.grace = Duration::from_millis(400);
    settings.patience.stop = Duration::from_millis(300);
    let mut world = world(settings);
    world.until_ready(2).await;
    let busy = world.handle.status().workers[1].id;
    world.balancer.in_flight.lock().unwrap().insert(busy, 1);
    assert_eq!(world.handle.scale(1).await, Ok(1));
    world
        .until("it drains", |status| {
            status
                .workers
                .iter()
                .any(|worker| worker.state == State::Draining)
        })
        .await;
    // The grace period passes, it is asked to end, does not listen, and is killed.
    world
        .until("it is gone", |status| status.workers.len() == 1)
        .await;
    assert!(world.text().contains("did not end: killing it"));
    assert!(world.handle.scale(0).await.is_err());
    let refused = world.handle.scale(9).await.unwrap_err();
    assert_eq!(refused.count_max, 8);
    world.handle.scale_by(1).await;
    world.until_ready(2).await;
    world.handle.stop(Duration::from_secs(60)).await;
    world.handle.hurry().await;
    world.handle.hurry().await;
    let (outcome, _) = world.end().await;
    assert!(matches!(outcome, Outcome::Stopped));
}

#[tokio::test]
async fn a_worker_is_replaced_after_its_share_of_requests() {
    let mut world = world(Settings {
        recycle: RecycleLimits {
            requests: Some(100),
            ..RecycleLimits::default()
        },
        ..settings(&[])
    });
    world.until_ready(2).await;
    let first = world.handle.status().workers[0].id;
    world.balancer.watch_fewest();
    world.balancer.requests.lock().unwrap().insert(first, 120);
    world
        .until("it is replaced", |status| {
            status.ready() == 2 && status.workers.iter().all(|worker| worker.id != first)
        })
        .await;
    assert!(world.balancer.fewest() >= 2);
    let text = world.stop().await;
    assert!(!text.contains("WARNING"), "{text}");
}

#[tokio::test]
async fn a_worker_is_replaced_at_its_age() {
    let mut world = world(Settings {
        count: 1,
        recycle: RecycleLimits {
            age: Some(Duration::from_millis(500)),
            ..RecycleLimits::default()
        },
        ..settings(&[])
    });
    world.until_ready(1).await;
    let first = world.handle.status().workers[0].id;
    world.balancer.watch_fewest();
    world
        .until("it is replaced", |status| {
            status.workers.iter().all(|worker| worker.id != first)
        })
        .await;
    assert!(world.balancer.fewest() >= 1);
    let text = world.stop().await;
    assert!(text.contains("s old and is replaced"), "{text}");
    assert!(!text.contains("WARNING"), "{text}");
}

#[tokio::test]
async fn memory_that_a_new_worker_holds_is_no_reason_to_replace_it() {
    let mut world = world(Settings {
        recycle: RecycleLimits {
            rss_bytes: Some(1024 * 1024),
            ..RecycleLimits::default()
        },
        ..settings(&[])
    });
    world.until_ready(2).await;
    world.until_log("before its first request").await;
    let before = world.pids();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.pids(), before, "looked at, and left alone");
    world.stop().await;
}

#[tokio::test]
async fn one_more_comes_when_all_stand_still_and_goes_when_they_do_not() {
    let mut world = world(Settings {
        relief: Some(ReliefSettings {
            most: 3,
            calm: Duration::from_millis(200),
        }),
        ..settings(&[])
    });
    world.until_ready(2).await;
    let all: Vec<WorkerId> = world.handle.status().workers.iter().map(|w| w.id).collect();
    world.handle.alarm();
    *world.balancer.stalled.lock().unwrap() = all.clone();
    *world.balancer.pressed.lock().unwrap() = true;
    world.handle.alarm();
    world.until_ready(3).await;
    assert_eq!(
        (world.handle.status().target, world.handle.status().relief),
        (2, 1)
    );
    let third = world.handle.status().workers[2].id;
    world.balancer.stalled.lock().unwrap().push(third);
    world.handle.alarm();
    world.balancer.stalled.lock().unwrap().clear();
    world.until_ready(2).await;
    let left: Vec<WorkerId> = world.handle.status().workers.iter().map(|w| w.id).collect();
    assert_eq!(left, all, "the extra one goes");
    let text = world.stop().await;
    assert!(
        text.contains("3 of at most 3") && text.contains("going back to 2"),
        "{text}"
    );
}

#[tokio::test]
async fn with_reload_a_broken_application_waits_for_a_change() {
    let flag = std::env::temp_dir().join(format!("evener-waits-{}", std::process::id()));
    std::fs::write(&flag, "raise").unwrap();
    let settings = settings(&[("FLAG", flag.to_str().unwrap())]);
    let mut world = world(Settings {
        waits_when_broken: true,
        ..settings
    });
    world.until_log("waiting for a change").await;
    world.handle.reload().await.unwrap();
    world
        .until("the attempt failed", |status| {
            status.rollouts.len() == 1 && status.workers.is_empty()
        })
        .await;
    std::fs::remove_file(&flag).unwrap();
    world.handle.reload().await.unwrap();
    world.until_ready(2).await;
    world.stop().await;
}

/// The environment finds `evener.worker`: a package made for the occasion.
fn python_settings(arguments: &[&str]) -> (Settings, PathBuf) {
    let count = std::sync::atomic::AtomicU32::new(0);
    let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!(
        "evener-package-{}-{}-{number}",
        std::process::id(),
        arguments.len()
    );
    let package = std::env::temp_dir().join(name);
    std::fs::create_dir_all(package.join("evener")).unwrap();
    std::fs::write(package.join("evener/__init__.py"), "").unwrap();
    std::fs::copy(script("python_worker.py"), package.join("evener/worker.py")).unwrap();
    let recipe = evener_supervisor::PythonRecipe {
        interpreter: PathBuf::from("python3"),
        arguments: arguments.iter().map(Into::into).collect(),
        environment: vec![("PYTHONPATH".into(), package.clone().into_os_string())],
    };
    (
        Settings {
            recipe: Recipe::Python(recipe),
            ..settings(&[])
        },
        package,
    )
}

#[tokio::test]
async fn evener_workers_get_their_descriptors_and_say_when_they_are_ready() {
    let (settings, package) = python_settings(&["main:app"]);
    let mut world = world(settings);
    world.until_ready(2).await;
    assert!(
        world
            .handle
            .status()
            .workers
            .iter()
            .all(|worker| worker.page.is_some())
    );
    let victim = world.pids()[1];
    kill(victim, 9);
    world
        .until("it is replaced", |status| {
            status.deaths == 1 && status.ready() == 2
        })
        .await;
    world.stop().await;
    std::fs::remove_dir_all(package).unwrap();
}

#[tokio::test]
async fn an_evener_worker_that_fails_gives_its_own_status() {
    let (settings, package) = python_settings(&["main:app", "--fail"]);
    let (outcome, text) = world(settings).end().await;
    let Outcome::NeverStarted(failure) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        failure.code == Some(3) || failure.reason.contains("could not start"),
        "{failure:?}\n{text}"
    );
    std::fs::remove_dir_all(package).unwrap();
}

#[tokio::test]
async fn resident_memory_is_known() {
    assert!(evener_supervisor::resident_bytes(std::process::id()).unwrap() > 100_000);
    assert_eq!(evener_supervisor::resident_bytes(4_194_999), None);
}
