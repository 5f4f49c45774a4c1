//! Addresses behind names: looked up, and again when their time to live is over, for as long as
//! somebody wants to know. Works on the control thread's runtime; the shards never wait for it.
//!
//! An answer that does not come, or that names no address, changes nothing: what was known last
//! goes on, for a name server that fails must not take the endpoints with it.

#![forbid(unsafe_code)]

mod lookup;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use evener_config::Dns;
use evener_config::values::Target;
use evener_telemetry::Log;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use lookup::{Answer, Lookups};

/// The first pause after a lookup that failed; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(500);
/// The longest pause after a lookup that failed.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What a name stands for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name.
    pub target: Target,
    /// Its addresses, each once, in order; never empty.
    pub addresses: Vec<Address>,
}

/// One address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Addresses of a higher number are for when those of lower ones cannot serve: the priorities
    /// of SRV records, counted from 0.
    pub rank: u32,
    /// Where to connect.
    pub address: SocketAddr,
    /// Its share among those of its rank; 1 without SRV records.
    pub weight: u32,
}

/// Names that are watched.
#[derive(Debug)]
pub struct Discovery {
    watches: HashMap<Target, JoinHandle<()>>,
    settings: Dns,
    found: mpsc::Sender<Found>,
    log: Log,
}

impl Discovery {
    /// Watches nothing yet. What is found comes out of the receiver.
    pub fn new(settings: Dns, log: Log) -> (Discovery, mpsc::Receiver<Found>) {
        let (found, receiver) = mpsc::channel(64);
        let discovery = Discovery {
            watches: HashMap::new(),
            settings,
            found,
            log,
        };
        (discovery, receiver)
    }

    /// Watches these names and no others. Those that are watched already go on, unless the
    /// settings have changed.
    pub fn watch(&mut self, settings: &Dns, targets: impl IntoIterator<Item = Target>) {
        let wanted: Vec<Target> = targets.into_iter().collect();
        let fresh = self.settings != *settings;
        self.settings = settings.clone();
        self.watches.retain(|target, task| {
            let stays = !fresh && wanted.contains(target);
            if !stays {
                task.abort();
            }
            stays
        });
        for target in wanted {
            if self.watches.contains_key(&target) {
                continue;
            }
            let watch = Watch {
                target: target.clone(),
                settings: self.settings.clone(),
                found: self.found.clone(),
                log: self.log.clone(),
            };
            self.watches.insert(target, tokio::spawn(watch.run()));
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        for task in self.watches.values() {
            task.abort();
        }
    }
}

/// One name.
struct Watch {
    target: Target,
    settings: Dns,
    found: mpsc::Sender<Found>,
    log: Log,
}

impl Watch {
    async fn run(self) {
        let mut known: Vec<Address> = Vec::new();
        let mut retry = RETRY_MIN;
        let mut failing = false;
        loop {
            // The system's settings may have changed since the last time.
            let answer = match Lookups::new(&self.settings) {
                Ok(lookups) => lookups.find(&self.target).await,
                Err(error) => Err(error),
            };
            let pause = match answer {
                Ok(answer) => {
                    if failing {
                        let target = &self.target;
                        self.log
                            .info(format_args!("{target} can be looked up again"));
                    }
                    (failing, retry) = (false, RETRY_MIN);
                    let pause = self.lifetime(&answer);
                    if answer.addresses != known && !self.tell(&answer).await {
                        return;
                    }
                    known = answer.addresses;
                    pause
                }
                Err(error) => {
                    if !failing {
                        self.complain(&error, !known.is_empty());
                    }
                    failing = true;
                    let pause = retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// How long an answer holds.
    fn lifetime(&self, answer: &Answer) -> Duration {
        let told = answer.valid_until.saturating_duration_since(Instant::now());
        let most = self.settings.ttl_max.max(self.settings.ttl_min);
        told.clamp(self.settings.ttl_min, most)
    }

    /// Says what was found; false when nobody wants to know any more.
    async fn tell(&self, answer: &Answer) -> bool {
        let list: Vec<String> = answer
            .addresses
            .iter()
            .map(|one| one.address.to_string())
            .collect();
        let (target, list) = (&self.target, list.join(", "));
        self.log.info(format_args!("{target} is {list}"));
        let found = Found {
            target: self.target.clone(),
            addresses: answer.addresses.clone(),
        };
        self.found.send(found).await.is_ok()
    }

    fn complain(&self, error: &str, known: bool) {
        let goes_on = if known {
            "what was known last goes on"
        } else {
            "it has no address yet"
        };
        let target = &self.target;
        self.log.warning(format_args!(
            "{target} cannot be looked up: {error}; {goes_on}"
        ));
    }
}
