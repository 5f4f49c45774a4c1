//! What all connections of a shard share: the clock, buffers, pools, tokens and counters. The
//! stages get it beside the connection they work on.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evener_config::Http2Terms;
use evener_http1::{Fields, HeadLimits, write};
use evener_net::{Bells, BufferStore, Gather};
use evener_telemetry::ShardTelemetry;
use evener_vitals::monotonic_ns;
use mio::{Registry, Token};

use crate::admission::Place;
use crate::cluster::Cluster;
use crate::config::{EdgeConfig, Relays};
use crate::endpoint::EndpointId;
use crate::hedge;
use crate::http2::Opening;
use crate::http2::upstream::Upstreams;
use crate::pool::{Pools, Upstream};
use crate::route::RouteTable;
use crate::session::{Exchange, Session};
use crate::shard::SessionKey;
use crate::spill::is_full;

/// Bytes read at once for a head, a small body, or when nothing is known.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// Bytes left free before a response that is read: the head as the client gets it is put there when
/// it is longer than the one it replaces, so that head and body leave in one piece.
pub(crate) const HEADROOM: usize = 1024;
/// Bytes read at once for a body known to be large.
pub(crate) const READ_BYTES_LARGE: usize = 256 * 1024;

/// How often the log is told that nothing can be kept on disk.
const TELL_OF_SPILL_MS: u64 = 10_000;

/// The shared part of a shard.
pub(crate) struct Core {
    pub(crate) shard: usize,
    pub(crate) registry: Registry,
    pub(crate) config: Arc<EdgeConfig>,
    pub(crate) head_limits: HeadLimits,
    pub(crate) routes: RouteTable,
    /// Whose queues are looked after: those of the configuration, and those that left it while
    /// requests of ours waited in them.
    pub(crate) clusters: Vec<Arc<Cluster>>,
    pub(crate) telemetry: ShardTelemetry,
    /// Downstream connections over all shards.
    pub(crate) connections: Arc<AtomicUsize>,
    /// What the shards have done of what they were told.
    pub(crate) progress: Arc<Progress>,
    pub(crate) tokens: Tokens,
    pub(crate) pools: Pools,
    /// Connections to endpoints that many requests share.
    pub(crate) upstreams: Upstreams,
    pub(crate) buffers: BufferStore,
    /// Boxed, because they move in and out of sessions as they are.
    #[allow(clippy::vec_box)]
    exchanges: Vec<Box<Exchange>>,
    /// The one read buffer; taken out while its bytes are looked at.
    pub(crate) scratch: Vec<u8>,
    /// A buffer for pieces that do not go out as they are.
    pub(crate) scratch_text: Vec<u8>,
    pub(crate) fields: Fields,
    pub(crate) gather: Gather,
    /// Field lines added to every response.
    pub(crate) response_fields: Vec<u8>,
    /// Requests sent to an Evener worker that it had not claimed when last looked at.
    pub(crate) offers: Vec<Offer>,
    /// Requests of this shard that wait in the cluster's queue.
    pub(crate) waiting: usize,
    /// Still serves, and says on the readiness path that it will not for long.
    pub(crate) leaving: bool,
    pub(crate) draining: bool,
    /// While it drains: until when connections without a request are kept.
    pub(crate) idle_until_ms: u64,
    /// Connections that were just accepted and have no deadline yet.
    pub(crate) accepted: Vec<usize>,
    pub(crate) now_ns: u64,
    /// Which pipes have something new at either end.
    pub(crate) bells: Arc<Bells>,
    /// Streams of HTTP/2 that have no session yet.
    pub(crate) opening: Vec<Opening>,
    /// Connections that carry streams, and the streams: without any, no bell can ring.
    pub(crate) pipes: usize,
    /// What is agreed on with the clients of each listener, by its place.
    listener_terms: Vec<Option<ListenerTerms>>,
    request_ids: RequestIds,
    date: DateText,
    /// Bodies that could not be kept on disk since the log was told.
    spills_failed: u64,
    /// When the log is told again.
    tell_of_spill_ms: u64,
}

/// What the shards have done of what they were told, counted over all of them.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Those that have taken the last connections from their listeners.
    pub(crate) closed: AtomicUsize,
    /// Questions whether they are there that they have answered.
    pub(crate) answered: AtomicUsize,
}

/// What is agreed on with the clients of a listener.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListenerTerms {
    /// On what terms HTTP/2 is spoken, if it is.
    pub(crate) http2: Option<Http2Terms>,
    /// Whose connections begin with a header of the PROXY protocol.
    pub(crate) relays: Option<Relays>,
}

/// The listeners of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// By which routes call them, with their places.
    pub(crate) names: Vec<(String, usize)>,
    /// By place.
    pub(crate) terms: Vec<Option<ListenerTerms>>,
}

/// A request that can be taken back if its worker stands still.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer {
    pub(crate) session: SessionKey,
    pub(crate) sequence: u64,
    pub(crate) at_ns: u64,
}

impl Core {
    pub(crate) fn new(
        shard: usize,
        registry: Registry,
        config: Arc<EdgeConfig>,
        listeners: &Listeners,
        telemetry: ShardTelemetry,
        connections: Arc<AtomicUsize>,
        progress: Arc<Progress>,
    ) -> Core {
        let mut core = Core {
            shard,
            registry,
            head_limits: HeadLimits::default(),
            config: config.clone(),
            routes: RouteTable::default(),
            clusters: Vec::new(),
            telemetry,
            connections,
            progress,
            tokens: Tokens::default(),
            pools: Pools::default(),
            upstreams: Upstreams::default(),
            buffers: BufferStore::new(1024, 128 * 1024),
            exchanges: Vec::new(),
            // A held response and a large read behind it fit together.
            scratch: vec![0; HEADROOM + READ_BYTES_LARGE + 2 * READ_BYTES],
            scratch_text: Vec::new(),
            fields: Fields::new(),
            gather: Gather::new(),
            response_fields: Vec::new(),
            offers: Vec::new(),
            waiting: 0,
            leaving: false,
            draining: false,
            idle_until_ms: 0,
            accepted: Vec::new(),
            now_ns: monotonic_ns(),
            bells: Arc::default(),
            opening: Vec::new(),
            pipes: 0,
            listener_terms: Vec::new(),
            request_ids: RequestIds::new(),
            date: DateText::default(),
            spills_failed: 0,
            tell_of_spill_ms: 0,
        };
        core.configure(config, listeners);
        core
    }

    /// Works by this configuration from the next request on; those under way keep their route.
    pub(crate) fn configure(&mut self, config: Arc<EdgeConfig>, listeners: &Listeners) {
        self.response_fields.clear();
        for (name, value) in &config.response_fields {
            write::field(&mut self.response_fields, name.as_bytes(), value.as_bytes());
        }
        self.head_limits = HeadLimits {
            head_bytes: config.limits.head_bytes.min(READ_BYTES),
            header_count: config.limits.header_count,
            line_bytes: config.limits.line_bytes,
            field_bytes: config.limits.field_bytes,
        };
        self.routes = RouteTable::new(&config.routes, &config.clusters, &listeners.names);
        self.listener_terms.clone_from(&listeners.terms);
        let known =
            |cluster: &Arc<Cluster>| config.clusters.iter().any(|one| Arc::ptr_eq(one, cluster));
        self.clusters.retain(|old| !known(old) && old.has_queue());
        self.clusters.extend(config.clusters.iter().cloned());
        self.config = config;
    }

    /// On what terms HTTP/2 is spoken at a listener, if it is.
    pub(crate) fn http2_terms(&self, listener: usize) -> Option<Http2Terms> {
        self.listener_terms.get(listener)?.as_ref()?.http2
    }

    /// Whose connections at a listener begin with a header of the PROXY protocol.
    pub(crate) fn relays(&self, listener: usize) -> Option<&Relays> {
        self.listener_terms.get(listener)?.as_ref()?.relays.as_ref()
    }

    /// Milliseconds on the shard's clock, as of the last batch of events.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ns / 1_000_000
    }

    /// An exchange to fill in.
    pub(crate) fn take_exchange(&mut self) -> Box<Exchange> {
        self.exchanges.pop().unwrap_or_default()
    }

    /// Takes an exchange back; its buffers go to the store.
    pub(crate) fn give_exchange(&mut self, mut exchange: Box<Exchange>) {
        if exchange.race.is_some() {
            hedge::cancel(&mut exchange, self);
        }
        self.buffers.give(std::mem::take(&mut exchange.outgoing));
        self.buffers.give(std::mem::take(&mut exchange.incoming));
        self.buffers.give(std::mem::take(&mut exchange.key));
        // A route that left the configuration is not kept alive by what is over.
        exchange.route = None;
        exchange.filtered = None;
        exchange.whole = None;
        exchange.backlog = None;
        if self.exchanges.len() < 1024 {
            self.exchanges.push(exchange);
        }
    }

    /// This session in the cluster's queue.
    pub(crate) fn place(&self, session: &Session) -> Place {
        Place {
            shard: self.shard,
            session: session.key,
        }
    }

    /// Closes an upstream connection.
    pub(crate) fn close_upstream(&mut self, upstream: Upstream) {
        if upstream.socket.is_pipe() {
            self.pipes -= 1;
        }
        let token = upstream.close(&self.registry);
        self.tokens.free(token);
    }

    /// An id for the next request: 16 hexadecimal digits.
    pub(crate) fn next_request_id(&mut self) -> [u8; 16] {
        self.request_ids.next()
    }

    /// A random number up to `most`.
    pub(crate) fn draw(&mut self, most: u64) -> u64 {
        let drawn = self.request_ids.draw();
        ((u128::from(drawn) * (u128::from(most) + 1)) >> 64) as u64
    }

    /// Brings the text of `Date` up to now.
    pub(crate) fn refresh_date(&mut self) {
        self.date.refresh(self.now_ns);
    }

    /// The value of `Date`, as of the last refresh.
    pub(crate) fn date(&self) -> &[u8] {
        &self.date.text
    }

    /// Says in the log that something could not be kept on disk; now and then, however often it
    /// happens.
    pub(crate) fn tell_of_spill(&mut self, kind: std::io::ErrorKind, what: &str) {
        let now_ms = self.now_ms();
        self.spills_failed += 1;
        if now_ms < self.tell_of_spill_ms {
            return;
        }
        self.tell_of_spill_ms = now_ms + TELL_OF_SPILL_MS;
        let times = std::mem::take(&mut self.spills_failed);
        let terms = self.config.spill.terms();
        let (directory, used) = (terms.directory.display(), self.config.spill.used());
        let help = match kind {
            std::io::ErrorKind::QuotaExceeded => "raise `total` in [spill], or the disk quota",
            kind if is_full(kind) => "make place there, or name another `directory` in [spill]",
            _ => "see to the folder, or name another `directory` in [spill]",
        };
        self.telemetry.log().error(format_args!(
            "{what} cannot be kept in {directory}: {kind} (`[spill]` holds {used} bytes; \
             {times} times since this was last said); {help}"
        ));
    }

    /// A duration of the configuration in milliseconds from `from_ms`.
    pub(crate) fn after(from_ms: u64, duration: Option<Duration>) -> Option<u64> {
        duration.map(|duration| from_ms.saturating_add(duration.as_millis() as u64))
    }
}

/// Who gets the events of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody.
    Free,
    /// The listener at this place.
    Listener(usize),
    /// The connection at this place, for its own socket.
    Downstream(usize),
    /// The connection of HTTP/2 to an endpoint at this place.
    Shared(usize),
    /// The connection at this place, for its upstream socket.
    Upstream(usize),
    /// The connection at this place, for the socket of an attempt beside the present one.
    Rival(usize),
    /// The pool of this endpoint.
    Idle(EndpointId),
}

/// Tokens and their owners. A freed token is not given out again before the batch of events that
/// may still mention it is over.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    owners: Vec<Owner>,
    free: Vec<usize>,
    freed: Vec<usize>,
}

impl Tokens {
    /// A token for `owner`.
    pub(crate) fn assign(&mut self, owner: Owner) -> Token {
        match self.free.pop() {
            Some(index) => {
                self.owners[index] = owner;
                Token(index)
            }
            None => {
                self.owners.push(owner);
                Token(self.owners.len() - 1)
            }
        }
    }

    /// Gives a token another owner.
    pub(crate) fn reassign(&mut self, token: Token, owner: Owner) {
        self.owners[token.0] = owner;
    }

    /// Who owns a token.
    pub(crate) fn owner(&self, token: Token) -> Owner {
        self.owners.get(token.0).copied().unwrap_or(Owner::Free)
    }

    /// Takes a token back.
    pub(crate) fn free(&mut self, token: Token) {
        self.owners[token.0] = Owner::Free;
        self.freed.push(token.0);
    }

    /// Between two batches of events: freed tokens may be used again.
    pub(crate) fn batch_done(&mut self) {
        self.free.append(&mut self.freed);
    }
}

/// Request ids: a counter, mixed so that ids of different shards, processes and runs differ
/// (SplitMix64, Steele et al. 2014).
#[derive(Debug)]
struct RequestIds {
    state: u64,
}

impl RequestIds {
    fn new() -> RequestIds {
        use std::hash::{BuildHasher, RandomState};
        RequestIds {
            state: RandomState::new().hash_one(monotonic_ns()),
        }
    }

    fn next(&mut self) -> [u8; 16] {
        let mixed = self.draw();
        std::array::from_fn(|index| b"0123456789abcdef"[(mixed >> (60 - 4 * index) & 15) as usize])
    }

    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The text of `Date`, made once a second.
#[derive(Debug, Default)]
struct DateText {
    valid_until_ns: u64,
    text: Vec<u8>,
}

impl DateText {
    fn refresh(&mut self, now_ns: u64) {
        if now_ns >= self.valid_until_ns {
            let since_epoch = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            self.text.clear();
            write::http_date(&mut self.text, since_epoch.as_secs());
            let rest = 1_000_000_000 - u64::from(since_epoch.subsec_nanos());
            self.valid_until_ns = now_ns + rest;
        }
    }
}
