//! One downstream connection and the request it is working on: the data that the stages share.
//!
//! A connection that waits for its next request keeps only [`Session`]; everything that belongs to
//! a request lives in an [`Exchange`], which is boxed and used again.

use std::sync::Arc;
use std::time::Duration;

use evener_http1::{BodyDecoder, Fields, Method, RequestHead, Version};
use evener_net::{Peer, Socket};
use evener_policy::balance::Picking;
use evener_policy::breaker::Pass;
use evener_policy::bulkhead::Class;

use crate::buffer_request::Whole;
use crate::buffer_response::Backlog;
use crate::cluster::Cluster;
use crate::config::{Resend, Timeouts};
use crate::endpoint::Endpoint;
use crate::filter::Filtered;
use crate::head::ResponseTerms;
use crate::health_paths::Asked;
use crate::hedge::Race;
use crate::http2::Http2;
use crate::pool::Upstream;
use crate::route::{ActiveFallback, ActiveRoute, Treatment};
use crate::shard::SessionKey;
use crate::variables::ClientBytes;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waiting for the header of the PROXY protocol that says whose connection it is.
    Proxied,
    /// Reading the head of the next request, or waiting for it.
    Head,
    /// Taking the body of a request before an endpoint is asked for.
    Taking,
    /// In the cluster's queue.
    Waiting,
    /// Waiting a little before another try.
    Backoff,
    /// Waiting for an upstream connection.
    Connecting,
    /// Request and response under way.
    Exchange,
    /// Bytes both ways after 101.
    Tunnel,
    /// A request is being answered without an endpoint.
    Local,
    /// Writing the rest of an answer of our own.
    Flush,
    /// Carrying streams of HTTP/2, each of which is a session of its own.
    Http2,
    /// Our side is closed; reading what the client still sends, so that it can read our answer.
    Linger,
}

/// What a stage wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// The phase may have changed: go on.
    Continue,
    /// Nothing to do until an event, a message or a deadline.
    Wait,
    /// More could be done at once, but others come first.
    Yield,
    /// Close the connection.
    Close,
}

/// A downstream connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) key: SessionKey,
    /// The listener it came in by.
    pub(crate) listener: usize,
    pub(crate) socket: Socket,
    pub(crate) peer: Peer,
    pub(crate) phase: Phase,
    /// Whether the connection goes on after [`Phase::Flush`].
    pub(crate) persists: bool,
    /// Whether the client has said that no request follows, and has sent nothing after it.
    pub(crate) last: bool,
    /// Whether a request was answered on it.
    pub(crate) served: bool,
    /// Bytes received and not used yet: the beginning of a request.
    pub(crate) input: Vec<u8>,
    /// How much of `input` was searched for the end of a head.
    pub(crate) scanned: usize,
    /// Bytes for the client that its socket has not taken, from `output_sent` on.
    pub(crate) output: Vec<u8>,
    pub(crate) output_sent: usize,
    /// When the phase began, or last moved on, in milliseconds.
    pub(crate) since_ms: u64,
    /// When the client last took bytes of a response.
    pub(crate) output_moved_ms: u64,
    /// When the wheel will remind us; 0 for never.
    pub(crate) reminder_ms: u64,
    pub(crate) exchange: Option<Box<Exchange>>,
    /// What the client's certificate says, once it is known; empty if it has shown none.
    pub(crate) claims: Option<Arc<[u8]>>,
    /// What it has in [`Phase::Http2`].
    pub(crate) http2: Option<Box<Http2>>,
}

impl Session {
    pub(crate) fn new(
        key: SessionKey,
        listener: usize,
        socket: Socket,
        peer: Peer,
        now_ms: u64,
    ) -> Session {
        Session {
            key,
            listener,
            socket,
            peer,
            phase: Phase::Head,
            persists: true,
            last: false,
            served: false,
            input: Vec::new(),
            scanned: 0,
            output: Vec::new(),
            output_sent: 0,
            since_ms: now_ms,
            output_moved_ms: now_ms,
            reminder_ms: 0,
            exchange: None,
            claims: None,
            http2: None,
        }
    }

    /// Finds out what the client's certificate says; after the handshake, once.
    pub(crate) fn learn_claims(&mut self) {
        if self.claims.is_none() && self.socket.is_tls() {
            self.claims = Some(self.socket.client_claims().into());
        }
    }

    /// Whether bytes wait for the client.
    pub(crate) fn has_output(&self) -> bool {
        self.output_sent < self.output.len()
    }

    /// Whether the client has not taken all that was written, be it that TLS still holds it.
    pub(crate) fn awaits_client(&self) -> bool {
        self.has_output() || !self.socket.is_flushed()
    }

    /// Whether nothing of a request has arrived.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Head && self.input.is_empty() && !self.awaits_client()
    }
}

/// One request and its response.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    // The request.
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// It came on a stream of HTTP/2.
    pub(crate) over_http2: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
    pub(crate) chunked: bool,
    pub(crate) wants_json: bool,
    pub(crate) started_ns: u64,
    /// Where it goes, and by which bounds; `None` if the edge answers by itself.
    pub(crate) route: Option<Arc<ActiveRoute>>,
    /// What the filters of the route keep for the response; `None` if it has none.
    pub(crate) filtered: Option<Box<Filtered>>,
    pub(crate) request_body: BodyDecoder,
    pub(crate) request_body_bytes: u64,
    /// The request as the endpoint gets it: head and body, unsent from `sent` on.
    pub(crate) outgoing: Vec<u8>,
    pub(crate) sent: usize,
    /// Length of the claim preface at the start of `outgoing`; it is not part of the request.
    pub(crate) preface_bytes: usize,
    /// Whether `outgoing` still begins with the head, so that it can be sent again.
    pub(crate) held: bool,
    /// The endpoint takes no more of the request, but may still answer.
    pub(crate) upload_ended: bool,
    pub(crate) upload_moved_ms: u64,
    /// The body, where it is taken before an endpoint is asked for: while it comes, and then if
    /// part of it lies on disk.
    pub(crate) whole: Option<Box<Whole>>,
    /// What the access log wants to know; empty without one.
    pub(crate) log: LogLine,

    /// The health check that the edge answers if the application does not.
    pub(crate) stand_in: Option<Asked>,

    // The attempt.
    /// The endpoint whose slot this request holds.
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    /// The endpoint that answered, once its slot is given back.
    pub(crate) answered_by: Option<Arc<Endpoint>>,
    pub(crate) upstream: Option<Upstream>,
    /// The client, if the cluster's method asks for it.
    pub(crate) client: ClientBytes,
    /// The text that the cluster's method tells requests apart by.
    pub(crate) key: Vec<u8>,
    /// What tells it from requests that hold a worker's event loop, if the cluster cares.
    pub(crate) class: Class,
    /// For how long it has held the loop, once it is answered.
    pub(crate) loop_held: Option<Duration>,
    /// What its picks remember: above all, who has been tried.
    pub(crate) picking: Picking,
    /// The attempts beside this one, and when there are to be more; `None` where there are none.
    pub(crate) race: Option<Box<Race>>,
    /// By which the breaker let the attempt pass.
    pub(crate) pass: Option<Pass>,
    /// The cluster did not take it: it goes to the one that stands in.
    pub(crate) fallen: bool,
    /// When the next attempt may be made.
    pub(crate) try_again_ms: u64,
    pub(crate) attempts: u32,
    /// Attempts that cost no try: their connection was stale.
    pub(crate) free_tries: u32,
    /// The route of the endpoint that it is bound to; empty if it is not.
    pub(crate) bound_to: Vec<u8>,
    pub(crate) asked_ns: u64,
    /// When to try again to connect to an endpoint whose backlog was full; 0 while connecting.
    pub(crate) connect_again_ms: u64,
    /// The request's sequence number on its connection's claim slot.
    pub(crate) offered: Option<u64>,

    // The response.
    pub(crate) answering: bool,
    pub(crate) status: u16,
    /// When the head of the response came.
    pub(crate) head_ns: u64,
    pub(crate) terms: Option<ResponseTerms>,
    pub(crate) response_body: BodyDecoder,
    pub(crate) response_bytes: u64,
    pub(crate) upstream_persists: bool,
    /// Bytes of a response that cannot go out yet: an incomplete head, or a short response of
    /// which the rest is about to come.
    pub(crate) incoming: Vec<u8>,
    /// When to stop waiting for the rest of a short response; 0 while there is none.
    pub(crate) hold_until_ms: u64,
    pub(crate) response_moved_ms: u64,
    /// What a slow client is behind, where responses are kept for it.
    pub(crate) backlog: Option<Box<Backlog>>,
    /// When to find out whether a client that closed its sending side is still there.
    pub(crate) probe_at_ms: u64,
    pub(crate) probed: bool,
    /// Ends seen and passed on in a tunnel.
    pub(crate) tunnel: TunnelEnds,
}

/// Which directions of a tunnel have ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TunnelEnds {
    pub(crate) downstream: bool,
    pub(crate) downstream_passed: bool,
    pub(crate) upstream: bool,
    pub(crate) upstream_passed: bool,
}

/// What the access log will say, kept as text in one buffer.
#[derive(Debug, Default)]
pub(crate) struct LogLine {
    pub(crate) text: Vec<u8>,
    pub(crate) client_end: usize,
    pub(crate) id_end: usize,
    pub(crate) method_end: usize,
    pub(crate) target_end: usize,
    /// Where the header fields are that the log's template asks for: those of the request, then
    /// those of the response.
    pub(crate) fields: Vec<(u32, u32)>,
    /// How many of them are of the request.
    pub(crate) request_fields: usize,
}

impl LogLine {
    /// Keeps the values of named header fields; the first of several of a name counts.
    pub(crate) fn keep(&mut self, names: &[String], bytes: &[u8], fields: &Fields) {
        for name in names {
            let found = fields
                .iter()
                .find(|field| field.name.of(bytes).eq_ignore_ascii_case(name.as_bytes()));
            let place = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
            let start = place(self.text.len());
            match found {
                Some(field) => {
                    self.text.extend_from_slice(field.value.of(bytes));
                    self.fields.push((start, place(self.text.len())));
                }
                None => self.fields.push((u32::MAX, 0)),
            }
        }
    }

    /// Keeps those of a response, in the place of those of an earlier attempt.
    pub(crate) fn keep_response(&mut self, names: &[String], bytes: &[u8], fields: &Fields) {
        self.fields.truncate(self.request_fields);
        self.keep(names, bytes, fields);
    }
}

impl Exchange {
    /// Starts over for another request, keeping what was allocated.
    pub(crate) fn reset(&mut self, head: &RequestHead, now_ns: u64) {
        self.method = head.method;
        self.version = head.version;
        self.keep_alive = head.keep_alive;
        self.upgrade = head.upgrade;
        self.chunked = head.framing == evener_http1::Framing::Chunked;
        self.wants_json = false;
        self.started_ns = now_ns;
        self.route = None;
        self.filtered = None;
        self.request_body.reset(head.framing);
        self.request_body_bytes = 0;
        self.outgoing.clear();
        self.preface_bytes = 0;
        self.held = true;
        self.upload_moved_ms = now_ns / 1_000_000;
        self.whole = None;
        self.backlog = None;
        self.log.text.clear();
        self.log.fields.clear();
        self.log.request_fields = 0;
        self.stand_in = None;
        self.endpoint = None;
        self.answered_by = None;
        self.upstream = None;
        self.client = ClientBytes::default();
        self.key.clear();
        self.class = Class::NONE;
        self.picking.reset();
        self.race = None;
        self.pass = None;
        self.fallen = false;
        self.attempts = 0;
        self.free_tries = 0;
        self.bound_to.clear();
        self.asked_ns = 0;
        self.connect_again_ms = 0;
        self.probe_at_ms = 0;
        self.probed = false;
        self.tunnel = TunnelEnds::default();
        self.status = 0;
        self.response_bytes = 0;
        self.reset_attempt();
    }

    /// Forgets the last attempt, so that the request can be sent again from its first byte.
    pub(crate) fn reset_attempt(&mut self) {
        self.outgoing.drain(..self.preface_bytes);
        self.preface_bytes = 0;
        self.sent = 0;
        if let Some(whole) = &mut self.whole {
            whole.rewind();
        }
        self.upload_ended = false;
        self.offered = None;
        self.loop_held = None;
        self.answering = false;
        self.head_ns = 0;
        self.terms = None;
        self.response_body.reset(evener_http1::Framing::Length(0));
        self.upstream_persists = false;
        self.incoming.clear();
        self.hold_until_ms = 0;
        self.response_moved_ms = 0;
    }

    /// The deadlines of this request.
    pub(crate) fn timeouts<'a>(&'a self, general: &'a Timeouts) -> &'a Timeouts {
        self.route.as_ref().map_or(general, |route| &route.timeouts)
    }

    /// The cluster it goes to.
    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        let route = self.route.as_ref();
        route
            .and_then(|route| match &route.fallback {
                Some(ActiveFallback::Cluster(other)) if self.fallen => Some(other),
                _ => route.cluster.as_ref(),
            })
            .expect("only a request with a cluster has an endpoint")
    }

    /// What its route does besides passing it on.
    pub(crate) fn treatment(&self) -> Option<&Treatment> {
        self.route.as_ref()?.treatment.as_deref()
    }

    /// When it may go to another endpoint.
    pub(crate) fn resend(&self) -> Resend {
        self.route
            .as_ref()
            .map_or(Resend::Safe, |route| route.resend)
    }

    /// Bytes of the request that the endpoint has not taken.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// Whether the whole request went to the endpoint.
    pub(crate) fn is_sent(&self) -> bool {
        self.request_body.is_done()
            && self.sent == self.outgoing.len()
            && self.whole.as_ref().is_none_or(|whole| whole.is_sent())
    }

    /// Whether the whole response came from the endpoint.
    pub(crate) fn is_answered(&self) -> bool {
        self.answering && self.response_body.is_done()
    }
}
