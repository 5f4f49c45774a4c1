//! Binds the listeners, starts the shards, and is the handle by which the rest of the program
//! drains and stops them.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use evener_net::{BoundListener, ListenError, Postbox, mailbox};
use evener_telemetry::Telemetry;
use mio::Poll;

use crate::cluster::Cluster;
use crate::config::{EdgeConfig, ListenerSpec};
use crate::core::{Core, Owner};
use crate::shard::{MAILBOX, Shard, ShardMessage};

/// A running data plane.
#[derive(Debug)]
pub struct Edge {
    shards: Vec<RunningShard>,
    addresses: Vec<String>,
    unix_paths: Vec<PathBuf>,
    connections: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct RunningShard {
    postbox: Postbox<ShardMessage>,
    thread: JoinHandle<()>,
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
    pub fn start(
        mut config: EdgeConfig,
        cluster: Arc<Cluster>,
        telemetry: Telemetry,
    ) -> Result<Edge, StartError> {
        let count = config.shards.max(1);
        let mut addresses = Vec::new();
        let mut unix_paths = Vec::new();
        let mut listeners: Vec<Vec<BoundListener>> = (0..count).map(|_| Vec::new()).collect();
        for spec in config.listeners.drain(..) {
            let bound = bind(spec, count, config.backlog)?;
            addresses.push(bound.first().map(describe).unwrap_or_default());
            unix_paths.extend(bound.first().and_then(|b| b.unix_path()).map(PathBuf::from));
            for (shard, listener) in listeners.iter_mut().zip(bound) {
                shard.push(listener);
            }
        }
        let config = Arc::new(config);
        let connections = Arc::new(AtomicUsize::new(0));
        let mut shards = Vec::with_capacity(count);
        for listeners in listeners {
            let shard = start_shard(&config, &cluster, &telemetry, &connections, listeners)?;
            shards.push(shard);
        }
        Ok(Edge {
            shards,
            addresses,
            unix_paths,
            connections,
        })
    }

    /// Where clients can connect, as people write it.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.clone()
    }

    /// Open connections of clients.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Takes no new connections after those already in the backlog; finishes what is under way
    /// and closes each connection after its response.
    pub fn drain(&self) {
        for shard in &self.shards {
            shard.postbox.post(ShardMessage::Drain);
        }
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
        for path in &self.unix_paths {
            // It may have been removed or replaced by somebody else.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// One listener for each shard.
fn bind(spec: ListenerSpec, count: usize, backlog: u32) -> Result<Vec<BoundListener>, StartError> {
    let first = match spec {
        ListenerSpec::Tcp(address) => {
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
        ListenerSpec::Tls(spec, tls) => {
            let plain = bind(*spec, count, backlog)?;
            return Ok(plain
                .into_iter()
                .map(|bound| bound.with_tls(tls.clone()))
                .collect());
        }
        ListenerSpec::Unix(path) => BoundListener::unix(&path, backlog)?,
        ListenerSpec::Inherited(descriptor) => BoundListener::inherited(descriptor)?,
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
    cluster: &Arc<Cluster>,
    telemetry: &Telemetry,
    connections: &Arc<AtomicUsize>,
    bound: Vec<BoundListener>,
) -> Result<RunningShard, StartError> {
    let poll = Poll::new()?;
    let (mailbox, postbox) = mailbox(poll.registry(), MAILBOX)?;
    let index = cluster.attach(postbox.clone());
    let mut core = Core::new(
        index,
        poll.registry().try_clone()?,
        config.clone(),
        cluster.clone(),
        telemetry.shard(),
        connections.clone(),
    );
    let reserved = core.tokens.assign(Owner::Free);
    assert_eq!(reserved, MAILBOX, "the first token is the mailbox's");
    let mut listeners = Vec::with_capacity(bound.len());
    for (place, listener) in bound.into_iter().enumerate() {
        let token = core.tokens.assign(Owner::Listener(place));
        listeners.push(listener.register(poll.registry(), token)?);
    }
    let shard = Shard::new(poll, core, mailbox, listeners);
    let thread = std::thread::Builder::new()
        .name(format!("shard-{index}"))
        .spawn(move || shard.run())?;
    Ok(RunningShard { postbox, thread })
}
