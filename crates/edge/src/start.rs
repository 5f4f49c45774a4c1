//! Binds the listeners, starts the shards, and is the handle by which the rest of the program
//! gives them another configuration, drains and stops them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{Acquire, Relaxed},
};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use evener_net::{BoundListener, ListenError, Postbox, ServerTls, TlsError, mailbox};
use evener_telemetry::Telemetry;
use mio::Poll;

use crate::cluster::Cluster;
use crate::config::{EdgeConfig, ListenAddress, ListenerSpec};
use crate::core::{Core, ListenerTerms, Listeners, Owner, Progress};
use crate::shard::{MAILBOX, Shard, ShardMessage};

/// A running data plane.
#[derive(Debug)]
pub struct Edge {
    shards: Vec<RunningShard>,
    listeners: Vec<RunningListener>,
    /// Places of listeners are never used again.
    next_place: usize,
    clusters: Vec<Weak<Cluster>>,
    backlog: u32,
    connections: Arc<AtomicUsize>,
    /// What the shards have done of what they were told.
    progress: Arc<Progress>,
    /// Questions whether the shards are there.
    asked: usize,
}

#[derive(Debug)]
struct RunningShard {
    postbox: Postbox<ShardMessage>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct RunningListener {
    place: usize,
    /// What was asked for.
    asked: Asked,
    tls: Option<Arc<ServerTls>>,
    /// As people write it.
    address: String,
    unix_path: Option<PathBuf>,
}

/// An address as it was asked for: what tells whether a listener stays.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Inherited(i32),
}

/// Why the data plane cannot start.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be listened on.
    Listen(ListenError),
    /// The system refused a thread, a descriptor or memory.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(error) => error.fmt(f),
            StartError::System(error) => write!(f, "cannot start the data plane: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<ListenError> for StartError {
    fn from(error: ListenError) -> Self {
        StartError::Listen(error)
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        StartError::System(error)
    }
}

impl Edge {
    /// Binds every listener, then starts the shards. Clients can connect once this returns.
    pub fn start(mut config: EdgeConfig, telemetry: &Telemetry) -> Result<Edge, StartError> {
        let count = config.shards.max(1);
        let mut edge = Edge {
            shards: Vec::with_capacity(count),
            listeners: Vec::new(),
            next_place: 0,
            clusters: Vec::new(),
            backlog: config.backlog,
            connections: Arc::new(AtomicUsize::new(0)),
            progress: Arc::default(),
            asked: 0,
        };
        let bound = edge.bind_new(&mut config, count)?;
        let listeners = bound.listeners();
        let config = Arc::new(config);
        for index in 0..count {
            let counts = (&edge.connections, &edge.progress);
            let shard = start_shard(&config, &listeners, telemetry, counts, index)?;
            edge.shards.push(shard);
        }
        edge.attach(&config.clusters);
        edge.listen(bound);
        Ok(edge)
    }

    /// Works by another configuration from the next request on. Listeners that stay keep their
    /// sockets, new ones are opened first, and those that are gone are closed after what waits in
    /// their backlog; connections and requests go on. If a new address cannot be listened on,
    /// nothing changes. The number of shards stays.
    pub fn reconfigure(&mut self, mut config: EdgeConfig) -> Result<(), StartError> {
        let bound = self.bind_new(&mut config, self.shards.len())?;
        let listeners = Arc::new(bound.listeners());
        let config = Arc::new(config);
        self.attach(&config.clusters);
        for shard in &self.shards {
            shard.postbox.post(ShardMessage::Configure {
                config: config.clone(),
                listeners: listeners.clone(),
            });
        }
        self.listen(bound);
        Ok(())
    }

    /// Reads the certificates of all listeners anew; one that cannot be used changes nothing for
    /// its listener.
    pub fn reload_certificates(&self) -> Result<(), TlsError> {
        let secured = self.listeners.iter().filter_map(|l| l.tls.as_ref());
        secured.map(|tls| tls.reload()).fold(Ok(()), Result::and)
    }

    /// Binds what is not listened on yet, and takes the list of listeners out of `config`.
    fn bind_new(&self, config: &mut EdgeConfig, count: usize) -> Result<Bound, StartError> {
        let mut kept: Vec<&RunningListener> = self.listeners.iter().collect();
        let mut bound = Bound {
            stay: Vec::new(),
            certificates: Vec::new(),
            new: Vec::new(),
            next_place: self.next_place,
        };
        for spec in config.listeners.drain(..) {
            let asked = asked(&spec.address);
            let terms = ListenerTerms {
                http2: spec.http2,
                relays: spec.relays.clone(),
            };
            let same = |running: &&RunningListener| {
                running.asked == asked && running.tls.is_some() == spec.tls.is_some()
            };
            if let Some(index) = kept.iter().position(same) {
                let running = kept.swap_remove(index);
                if let (Some(old), Some(new)) = (&running.tls, spec.tls) {
                    bound.certificates.push((old.clone(), new));
                }
                bound.stay.push((spec.name, running.place, terms));
                continue;
            }
            let mut sockets = bind(spec.address, count, config.backlog)?;
            if let Some(tls) = &spec.tls {
                let secured = |bound: BoundListener| bound.with_tls(tls.clone());
                sockets = sockets.into_iter().map(secured).collect();
            }
            let first = sockets.first();
            let running = RunningListener {
                place: bound.next_place,
                asked,
                tls: spec.tls,
                address: first.map(describe).unwrap_or_default(),
                unix_path: first.and_then(|b| b.unix_path()).map(PathBuf::from),
            };
            bound.next_place += 1;
            bound.new.push((spec.name, running, terms, sockets));
        }
        Ok(bound)
    }

    /// Lets the shards listen where they should, and nowhere else.
    fn listen(&mut self, bound: Bound) {
        self.next_place = bound.next_place;
        for (old, new) in &bound.certificates {
            old.replace_by(new);
        }
        let stays = |running: &RunningListener| {
            bound
                .stay
                .iter()
                .any(|(_, place, _)| *place == running.place)
        };
        let (stay, gone): (Vec<_>, Vec<_>) = self.listeners.drain(..).partition(stays);
        self.listeners = stay;
        for (_, running, _, sockets) in bound.new {
            for (shard, listener) in self.shards.iter().zip(sockets) {
                let place = running.place;
                shard.postbox.post(ShardMessage::Listen { place, listener });
            }
            self.listeners.push(running);
        }
        for running in gone {
            for shard in &self.shards {
                shard.postbox.post(ShardMessage::Unlisten(running.place));
            }
            if let Some(path) = running.unix_path {
                // It may have been removed or replaced by somebody else.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Makes the shards known to clusters that do not know them.
    fn attach(&mut self, clusters: &[Arc<Cluster>]) {
        self.clusters.retain(|cluster| cluster.strong_count() > 0);
        for cluster in clusters {
            let known = Arc::downgrade(cluster);
            if self.clusters.iter().any(|other| other.ptr_eq(&known)) {
                continue;
            }
            for (index, shard) in self.shards.iter().enumerate() {
                let number = cluster.attach(shard.postbox.clone());
                assert_eq!(number, index, "a cluster belongs to one edge only");
            }
            self.clusters.push(known);
        }
    }

    /// Where clients can connect, as people write it.
    pub fn addresses(&self) -> Vec<String> {
        self.listeners
            .iter()
            .map(|listener| listener.address.clone())
            .collect()
    }

    /// Open connections of clients.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Whether, after [`Edge::drain`], every connection is among [`Edge::connections`]: none waits
    /// in a backlog any more.
    pub fn is_closed(&self) -> bool {
        self.progress.closed.load(Acquire) >= self.shards.len()
    }

    /// Whether all shards have answered what was asked here last time; asks again if they have.
    pub fn is_alive(&mut self) -> bool {
        let alive = self.progress.answered.load(Acquire) >= self.asked;
        if alive {
            self.asked += self.shards.len();
            for shard in &self.shards {
                shard.postbox.post(ShardMessage::Answer);
            }
        }
        alive
    }

    /// Answers on the readiness path that it is not ready, and serves as before.
    pub fn leave(&self) {
        for shard in &self.shards {
            shard.postbox.post(ShardMessage::Leave);
        }
    }

    /// Takes no new connections after those already in the backlog; finishes what is under way
    /// and closes each connection after its response. Those without a request are closed after
    /// `linger`: when somebody else serves here, a client that uses one just then loses nothing.
    pub fn drain(&self, linger: Duration) {
        for shard in &self.shards {
            shard.postbox.post(ShardMessage::Drain { linger });
        }
    }

    /// Takes connections again after [`Edge::drain`], on these sockets, one for each listener that
    /// there was, in the same order.
    pub fn resume(&self, listeners: Vec<ListenerSpec>) -> Result<(), StartError> {
        let mut bound = Vec::new();
        for (running, spec) in self.listeners.iter().zip(listeners) {
            let mut sockets = bind(spec.address, self.shards.len(), self.backlog)?;
            if let Some(tls) = &running.tls {
                let secured = |socket: BoundListener| socket.with_tls(tls.clone());
                sockets = sockets.into_iter().map(secured).collect();
            }
            bound.push((running.place, sockets));
        }
        for shard in &self.shards {
            shard.postbox.post(ShardMessage::Resume);
        }
        for (place, sockets) in bound {
            for (shard, listener) in self.shards.iter().zip(sockets) {
                shard.postbox.post(ShardMessage::Listen { place, listener });
            }
        }
        Ok(())
    }

    /// Cuts what is left and waits for the threads to end.
    pub fn stop(self) {
        for shard in &self.shards {
            shard.postbox.post(ShardMessage::Stop);
        }
        for shard in self.shards {
            // A shard that panicked has told so on its own.
            let _ = shard.thread.join();
        }
        for path in self
            .listeners
            .iter()
            .filter_map(|listener| listener.unix_path.as_ref())
        {
            // It may have been removed or replaced by somebody else.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Listeners as they should be.
struct Bound {
    /// Those that are there already: name and place.
    stay: Vec<(String, usize, ListenerTerms)>,
    /// Their certificates, old and new.
    certificates: Vec<(Arc<ServerTls>, Arc<ServerTls>)>,
    /// New ones, with a socket for each shard.
    new: Vec<(String, RunningListener, ListenerTerms, Vec<BoundListener>)>,
    next_place: usize,
}

impl Bound {
    fn listeners(&self) -> Listeners {
        let new = self.new.iter();
        let new = new.map(|(name, running, terms, _)| (name, running.place, terms));
        let stay = self
            .stay
            .iter()
            .map(|(name, place, terms)| (name, *place, terms));
        let mut listeners = Listeners::default();
        for (name, place, terms) in stay.chain(new) {
            listeners.names.push((name.clone(), place));
            if listeners.terms.len() <= place {
                listeners.terms.resize(place + 1, None);
            }
            listeners.terms[place] = Some(terms.clone());
        }
        listeners
    }
}

fn asked(address: &ListenAddress) -> Asked {
    match address {
        ListenAddress::Tcp(address) => Asked::Tcp(*address),
        ListenAddress::Unix(path) => Asked::Unix(path.clone()),
        ListenAddress::Inherited { number, .. } => Asked::Inherited(*number),
    }
}

/// One listener for each shard.
fn bind(
    address: ListenAddress,
    count: usize,
    backlog: u32,
) -> Result<Vec<BoundListener>, StartError> {
    let first = match address {
        ListenAddress::Tcp(address) => {
            // A plain bind first: with SO_REUSEPORT alone, a second program of the same user on
            // the same port would go unnoticed and get half of the connections.
            drop(BoundListener::tcp(address, backlog, false)?);
            let first = BoundListener::tcp(address, backlog, true)?;
            let address = first.tcp_address().unwrap_or(address);
            let mut all = vec![first];
            for _ in 1..count {
                all.push(BoundListener::tcp(address, backlog, true)?);
            }
            return Ok(all);
        }
        ListenAddress::Unix(path) => BoundListener::unix(&path, backlog)?,
        ListenAddress::Inherited { number, descriptor } => match descriptor {
            Some(descriptor) => BoundListener::inherited(descriptor)?,
            None => {
                return Err(StartError::Listen(ListenError {
                    address: format!("fd:{number}"),
                    cause: io::Error::other("descriptors are taken over at the start only"),
                }));
            }
        },
    };
    let mut all = Vec::with_capacity(count);
    for _ in 1..count {
        all.push(first.try_clone()?);
    }
    all.insert(0, first);
    Ok(all)
}

fn describe(listener: &BoundListener) -> String {
    match (listener.tcp_address(), listener.unix_path()) {
        (Some(address), _) if listener.is_tls() => format!("https://{address}"),
        (Some(address), _) => format!("http://{address}"),
        (None, Some(path)) => format!("unix:{}", path.display()),
        (None, None) => "an inherited unix socket".to_owned(),
    }
}

fn start_shard(
    config: &Arc<EdgeConfig>,
    listeners: &Listeners,
    telemetry: &Telemetry,
    (connections, progress): (&Arc<AtomicUsize>, &Arc<Progress>),
    index: usize,
) -> Result<RunningShard, StartError> {
    let poll = Poll::new()?;
    let (mailbox, postbox) = mailbox(poll.registry(), MAILBOX)?;
    let mut core = Core::new(
        index,
        poll.registry().try_clone()?,
        config.clone(),
        listeners,
        telemetry.shard(),
        connections.clone(),
        progress.clone(),
    );
    let reserved = core.tokens.assign(Owner::Free);
    assert_eq!(reserved, MAILBOX, "the first token is the mailbox's");
    let shard = Shard::new(poll, core, mailbox);
    let thread = std::thread::Builder::new()
        .name(format!("shard-{index}"))
        .spawn(move || shard.run())?;
    Ok(RunningShard { postbox, thread })
}
