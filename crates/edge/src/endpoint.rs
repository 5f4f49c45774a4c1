//! One endpoint of a cluster: where it is, its share, and what the shards note about it. Who gets
//! a request is left to `cluster`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use evener_net::{ClientTls, ProxyVersion, ServerName, Socket};
use evener_policy::balance::{Reluctance, Terms};
use evener_vitals::Page;
use mio::{Registry, Token};

use crate::claims::ClaimSlots;

/// A worker whose loop has not ticked for so long while requests are in flight stands still.
const STALL_NS: u64 = 25_000_000;
/// An endpoint that refused a connection is left alone for this long.
const SUSPECT_NS: u64 = 100_000_000;

/// Names one endpoint of a cluster; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u64);

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointAddress {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            EndpointAddress::Tcp(address) => address.fmt(f),
        }
    }
}

/// What a cluster is told about an endpoint.
#[derive(Debug)]
pub struct EndpointSpec {
    /// Its name in code.
    pub id: EndpointId,
    /// Its name for people.
    pub name: String,
    /// Where it listens.
    pub address: EndpointAddress,
    /// The most requests it may have in flight; 0 is no bound.
    pub in_flight_max: u32,
    /// Its share of the requests.
    pub share: Share,
    /// Its vitals page, if it is one of Evener's own workers.
    pub page: Option<Arc<Page>>,
    /// How it is spoken to.
    pub terms: UpstreamTerms,
    /// Its process id, for the access log; 0 if it is not known.
    pub process: u32,
}

/// How an endpoint is spoken to: HTTP/1.1 in clear text, unless something else is said.
#[derive(Debug, Clone, Default)]
pub struct UpstreamTerms {
    /// By HTTP/2; in clear text with prior knowledge.
    pub http2: bool,
    /// Each connection begins with a header that says whose it is.
    pub proxy: Option<ProxyVersion>,
    /// By TLS, and the name that its certificate must have.
    pub tls: Option<(Arc<ClientTls>, ServerName<'static>)>,
}

/// When an endpoint gets requests, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// How many, compared with others; at least 1.
    pub weight: u32,
    /// Endpoints of a higher number serve when those of lower ones cannot.
    pub priority: u32,
    /// Serves only when no other can.
    pub backup: bool,
    /// Switched off.
    pub down: bool,
    /// Failures within `fail_timeout` after which it is left alone for as long; 0 is never.
    pub max_fails: u32,
    /// See `max_fails`.
    pub fail_timeout: Duration,
    /// What requests that are bound to it carry.
    pub route: String,
}

impl Default for Share {
    fn default() -> Self {
        Share {
            weight: 1,
            priority: 0,
            backup: false,
            down: false,
            max_fails: 0,
            fail_timeout: Duration::from_secs(10),
            route: String::new(),
        }
    }
}

/// An endpoint as the shards share it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: EndpointId,
    pub(crate) name: String,
    pub(crate) address: EndpointAddress,
    /// What requests that are bound to it carry.
    pub(crate) route: String,
    pub(crate) page: Option<Arc<Page>>,
    pub(crate) process: u32,
    pub(crate) claims: Option<ClaimSlots>,
    pub(crate) terms: UpstreamTerms,
    /// Takes no new requests; its idle connections are closed.
    retired: AtomicBool,
    suspect_until_ns: AtomicU64,
    /// When a request was last found to have waited in vain for its loop to turn; 0 if it has
    /// turned since.
    stands_ns: AtomicU64,
    /// Until when it is expected to be held by a request that is known for that.
    held_until_ns: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
}

impl EndpointSpec {
    /// The endpoint as the shards share it, and on what terms it gets requests.
    pub(crate) fn admit(self, join: impl FnOnce(Arc<Endpoint>, &Terms<'_>)) {
        let server = self.address.to_string();
        let route = match self.share.route.is_empty() {
            true => route_of(&server),
            false => self.share.route,
        };
        let terms = Terms {
            server: &server,
            route: route.as_bytes(),
            weight: self.share.weight,
            priority: self.share.priority,
            backup: self.share.backup,
            down: self.share.down,
            in_flight_max: self.in_flight_max,
            max_fails: self.share.max_fails,
            fail_timeout: self.share.fail_timeout,
        };
        let endpoint = Endpoint {
            id: self.id,
            name: self.name,
            address: self.address,
            route: route.clone(),
            claims: self.page.clone().map(ClaimSlots::new),
            page: self.page,
            terms: self.terms,
            process: self.process,
            retired: AtomicBool::new(false),
            suspect_until_ns: AtomicU64::new(0),
            stands_ns: AtomicU64::new(0),
            held_until_ns: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        };
        join(Arc::new(endpoint), &terms);
    }
}

/// A text that stands for an address and tells nobody what it is at a glance (FNV-1a).
fn route_of(server: &str) -> String {
    let hash = server
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}")
}

impl Endpoint {
    /// Starts to connect. `before` goes ahead of TLS, in clear text.
    pub(crate) fn connect(
        &self,
        registry: &Registry,
        token: Token,
        before: &[u8],
    ) -> io::Result<Socket> {
        match (&self.address, &self.terms.tls) {
            (EndpointAddress::Unix(path), _) => Socket::connect_unix(path, registry, token),
            (EndpointAddress::Tcp(address), None) => Socket::connect_tcp(*address, registry, token),
            (EndpointAddress::Tcp(address), Some((tls, name))) => {
                let name = name.clone();
                Socket::connect_tls(*address, tls.config(), name, before, registry, token)
            }
        }
    }

    /// Gives it no more requests: its idle connections are closed.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// Gives it requests again.
    pub(crate) fn unretire(&self) {
        self.retired.store(false, Relaxed);
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Notes that a connection was refused or could not be made.
    pub(crate) fn suspect(&self, now_ns: u64) {
        self.suspect_until_ns.store(now_ns + SUSPECT_NS, Relaxed);
    }

    pub(crate) fn count_request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Whether its event loop stands still: it has not ticked lately, though requests are in
    /// flight or one waits to be claimed. A loop with nothing to do does not tick either.
    pub(crate) fn is_stalled(&self, now_ns: u64) -> bool {
        let Some(page) = &self.page else { return false };
        let tick_ns = page.tick_ns();
        let stands_ns = self.stands_ns.load(Relaxed);
        // However long ago: one that is idle again does not tick, and gets no request that would
        // make it.
        let stands = stands_ns > 0 && tick_ns <= stands_ns;
        if stands_ns > 0 && !stands {
            self.stands_ns.store(0, Relaxed);
        }
        now_ns.saturating_sub(tick_ns) > STALL_NS && (stands || page.in_flight() > 0)
    }

    /// Notes that a request has waited for its loop to turn since `since_ns`, and returns whether
    /// it really stands still.
    pub(crate) fn note_waiting(&self, since_ns: u64, now_ns: u64) -> bool {
        let tick_ns = self.page.as_ref().map_or(now_ns, |page| page.tick_ns());
        if now_ns.saturating_sub(since_ns.max(tick_ns)) > STALL_NS {
            self.stands_ns.store(now_ns, Relaxed);
        }
        self.is_stalled(now_ns)
    }

    /// Notes that a request was given to it that will hold its event loop for so long. When it
    /// takes longer than that, the vitals page shows it.
    pub(crate) fn expect_hold(&self, expected: Duration, now_ns: u64) {
        let nanoseconds = u64::try_from(expected.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = now_ns.saturating_add(nanoseconds);
        self.held_until_ns.fetch_max(until_ns, Relaxed);
    }

    /// Notes that such a request is over.
    pub(crate) fn end_hold(&self) {
        self.held_until_ns.store(0, Relaxed);
    }

    pub(crate) fn reluctance(&self, now_ns: u64) -> Reluctance {
        if self.suspect_until_ns.load(Relaxed) > now_ns {
            Reluctance::Never
        } else if self.held_until_ns.load(Relaxed) > now_ns || self.is_stalled(now_ns) {
            Reluctance::Unless
        } else {
            Reluctance::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn endpoint(page: Arc<Page>) -> Arc<Endpoint> {
        let mut admitted = None;
        let spec = EndpointSpec {
            id: EndpointId(1),
            name: "worker-1".to_owned(),
            address: EndpointAddress::Unix(PathBuf::from("/w1")),
            in_flight_max: 4,
            share: Share::default(),
            page: Some(page),
            terms: UpstreamTerms::default(),
            process: 1,
        };
        spec.admit(|endpoint, _| admitted = Some(endpoint));
        admitted.unwrap()
    }

    #[test]
    fn a_loop_that_has_turned_since_is_in_balance_however_long_ago_that_was() {
        let (page, _descriptor) = Page::create(4).unwrap();
        let page = Arc::new(page);
        let endpoint = endpoint(page.clone());
        assert!(!endpoint.is_stalled(1000 * MS), "it has had nothing to do");
        page.writer().tick(1000 * MS);
        assert!(!endpoint.note_waiting(1001 * MS, 1020 * MS), "not yet");
        assert!(!endpoint.note_waiting(900 * MS, 1020 * MS), "it has turned");
        assert!(endpoint.note_waiting(1001 * MS, 1030 * MS));
        assert!(endpoint.is_stalled(9000 * MS), "nobody has seen it turn");
        // It finds that what waited for it was taken back, and is idle again.
        page.writer().tick(9001 * MS);
        assert!(!endpoint.is_stalled(9500 * MS));
        assert!(!endpoint.is_stalled(9900 * MS));
    }
}
