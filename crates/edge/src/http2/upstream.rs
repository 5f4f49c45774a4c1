//! Connections of HTTP/2 to endpoints, each shared by many requests of a shard.
//!
//! A request's own end is a pipe, which `connect` takes for the connection that it asked for;
//! what goes in is HTTP/1.1, as for any endpoint. `h2` keeps to the streams that the endpoint
//! allows: what it cannot open yet waits in its pipe.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::mem::take;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use evener_net::{FarEnd, PipeEnd, Ring, Socket, Transfer};
use h2::client::{self, Connection, ResponseFuture, SendRequest};
use mio::event::Event;
use slab::Slab;

use super::body::{Inbound, Outbound};
use super::heads::{self, BodyForm};
use super::wanted::{Wanted, take_head};
use super::websocket::{self, Greeting};
use super::wire::{Wire, WireEnd};
use super::woken::Wakers;
use super::{CONNECTION_WINDOW_BYTES, SEND_BYTES_MAX, STREAM_WINDOW_BYTES, UPSTREAMS};
use crate::core::{Core, Owner, READ_BYTES};
use crate::endpoint::{Endpoint, EndpointId};
use crate::forward::ROUNDS_MAX;

/// Requests that share one connection before another is made.
const STREAMS_MAX: usize = 100;
/// An endpoint that has said nothing for so long while a request waited in vain is given up with
/// its connection.
const SILENT_MS: u64 = 1_000;

/// The connections of a shard.
#[derive(Default)]
pub(crate) struct Upstreams {
    list: Slab<Shared>,
    next_serial: u64,
}

/// One connection.
struct Shared {
    serial: u64,
    endpoint: EndpointId,
    socket: Socket,
    wire: Wire,
    stage: Stage,
    streams: Slab<Stream>,
    wakers: Wakers,
    /// What the endpoint has said first: what it takes is known once that is over.
    greeting: Greeting,
    is_greeted: bool,
    /// The log has heard that it takes no WebSockets.
    told: bool,
    /// By which people know the endpoint.
    name: String,
    tls: bool,
    /// It takes no new requests, and ends with its last.
    leaving: bool,
    idle_since_ms: u64,
    heard_ms: u64,
}

enum Stage {
    Connecting,
    Open {
        ask: SendRequest<Bytes>,
        connection: Box<Connection<WireEnd, Bytes>>,
    },
    Closed(ErrorKind),
}

/// One request on it.
struct Stream {
    far: FarEnd,
    request: Asked,
    response: Answer,
    to_head: bool,
    /// What a 200 is answered with, if it asks for a WebSocket.
    accept: Option<String>,
    /// It asked for a WebSocket, which the endpoint does not take.
    refused: bool,
    opened_ms: u64,
}

enum Asked {
    /// Its head has not come, or cannot be sent yet.
    Awaited(Option<SendRequest<Bytes>>),
    Body(Outbound),
    Sent,
}

enum Answer {
    None,
    Awaited(ResponseFuture),
    Body(Inbound),
}

impl std::fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upstreams({})", self.list.len())
    }
}

/// A stream to `endpoint` for one request, on a connection that is there or on a new one.
pub(crate) fn open(core: &mut Core, endpoint: &Endpoint) -> io::Result<PipeEnd> {
    let usable = |shared: &Shared| {
        shared.endpoint == endpoint.id && !shared.leaving && shared.streams.len() < STREAMS_MAX
    };
    let list = &core.upstreams.list;
    let known = list.iter().find(|(_, shared)| usable(shared));
    let index = match known.map(|(index, _)| index) {
        Some(index) => {
            core.telemetry.upstream_reused();
            index
        }
        None => connect(core, endpoint)?,
    };
    let shared = &mut core.upstreams.list[index];
    let place = shared.streams.vacant_key();
    let ring = shared.ring(index, place);
    let (connected, ask) = match &shared.stage {
        Stage::Open { ask, .. } => (true, Some(ask.clone())),
        Stage::Connecting | Stage::Closed(_) => (false, None),
    };
    let (near, far) = evener_net::pipe(&core.bells, ring, shared.tls, connected);
    shared.streams.insert(Stream {
        far,
        request: Asked::Awaited(ask),
        response: Answer::None,
        to_head: false,
        accept: None,
        refused: false,
        opened_ms: core.now_ns / 1_000_000,
    });
    core.pipes += 1;
    Ok(near)
}

fn connect(core: &mut Core, endpoint: &Endpoint) -> io::Result<usize> {
    let entry = core.upstreams.list.vacant_entry();
    let index = entry.key();
    let token = core.tokens.assign(Owner::Shared(index));
    match endpoint.connect(&core.registry, token, &[]) {
        Ok(socket) => {
            core.upstreams.next_serial += 1;
            entry.insert(Shared {
                serial: core.upstreams.next_serial,
                endpoint: endpoint.id,
                tls: socket.is_tls(),
                socket,
                wire: Wire::default(),
                stage: Stage::Connecting,
                streams: Slab::new(),
                wakers: Wakers::default(),
                greeting: Greeting::default(),
                is_greeted: false,
                told: false,
                name: endpoint.name.clone(),
                leaving: false,
                idle_since_ms: core.now_ns / 1_000_000,
                heard_ms: core.now_ns / 1_000_000,
            });
            core.telemetry.upstream_opened();
            // An endpoint that is connected at once sends no event for it.
            core.pipes += 1;
            come_back(core, index);
            Ok(index)
        }
        Err(error) => {
            core.tokens.free(token);
            Err(error)
        }
    }
}

/// The kernel has something new for a connection.
pub(crate) fn note(core: &mut Core, index: usize, event: &Event) {
    if let Some(shared) = core.upstreams.list.get_mut(index) {
        shared.socket.note(event);
    }
}

/// A pipe has rung; whether there is such a connection.
pub(crate) fn note_ring(core: &mut Core, ring: &Ring) -> bool {
    let shared = core.upstreams.list.get(ring.index);
    let Some(shared) = shared.filter(|shared| shared.serial == ring.serial) else {
        return false;
    };
    shared.wakers.add(ring.part);
    true
}

/// Moves a connection on as far as it goes; whether more could be moved at once.
pub(crate) fn drive(core: &mut Core, index: usize) -> bool {
    let Some(place) = core.upstreams.list.get_mut(index) else {
        return false;
    };
    // Out of the table while it works, with something in its place that nobody finds.
    let socket_token = place.socket.token();
    let mut shared = core.upstreams.list.remove(index);
    let more = shared.advance(core);
    let ends =
        matches!(shared.stage, Stage::Closed(_)) || shared.leaving && shared.streams.is_empty();
    if !ends {
        let entry = core.upstreams.list.vacant_entry();
        debug_assert_eq!(entry.key(), index, "nothing was put in its place");
        entry.insert(shared);
        return more;
    }
    shared.end();
    shared.socket.say_goodbye();
    shared.socket.deregister(&core.registry);
    core.tokens.free(socket_token);
    core.pipes -= 1;
    false
}

/// A connection has had its turn, and asks for another.
pub(crate) fn come_back(core: &Core, index: usize) {
    if let Some(shared) = core.upstreams.list.get(index) {
        core.bells.ring(shared.ring(index, usize::MAX));
    }
}

/// No new requests for connections to this endpoint; those without any end.
pub(crate) fn drain(core: &mut Core, endpoint: EndpointId) {
    let list = core.upstreams.list.iter_mut();
    let of: Vec<usize> = list
        .filter(|(_, shared)| shared.endpoint == endpoint)
        .map(|(index, shared)| {
            shared.leaving = true;
            index
        })
        .collect();
    for index in of {
        drive(core, index);
    }
}

/// Ends connections without requests since before `since_ms`.
pub(crate) fn drain_older(core: &mut Core, since_ms: u64) {
    let list = core.upstreams.list.iter_mut();
    let old: Vec<usize> = list
        .filter(|(_, shared)| shared.streams.is_empty() && shared.idle_since_ms < since_ms)
        .map(|(index, shared)| {
            shared.leaving = true;
            index
        })
        .collect();
    for index in old {
        drive(core, index);
    }
}

impl Upstreams {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl Shared {
    /// What rings for one of its streams.
    fn ring(&self, index: usize, place: usize) -> Ring {
        Ring {
            index,
            serial: self.serial,
            part: place,
            table: UPSTREAMS,
        }
    }

    fn advance(&mut self, core: &mut Core) -> bool {
        if let Stage::Connecting = self.stage {
            match self.socket.connected() {
                None => return false,
                Some(Ok(())) => self.begin(),
                Some(Err(error)) => self.stage = Stage::Closed(error.kind()),
            }
        }
        for _ in 0..ROUNDS_MAX {
            let written = match self.wire.write_to(&mut self.socket, &core.registry) {
                Ok(written) => written,
                Err(kind) => {
                    self.stage = Stage::Closed(kind);
                    return false;
                }
            };
            let read = self.read(core);
            self.poll();
            self.hear_greeting();
            let pumped = self.pump_woken(core);
            self.poll();
            if matches!(self.stage, Stage::Closed(_)) {
                return false;
            }
            let can_write = self.wire.has_output() && self.socket.is_writable();
            if written == 0 && !read && !pumped && !can_write {
                if self.streams.is_empty() {
                    self.wire.shrink();
                }
                return false;
            }
        }
        true
    }

    /// The connection is there: HTTP/2 begins.
    fn begin(&mut self) {
        if self.socket.is_tls() && self.socket.protocol() != Some(b"h2") {
            self.stage = Stage::Closed(ErrorKind::Unsupported);
            return;
        }
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buffer_size(SEND_BYTES_MAX)
            .max_header_list_size(READ_BYTES as u32);
        let handshake = pin!(builder.handshake::<WireEnd, Bytes>(self.wire.end()));
        // It says our preface and waits for nothing.
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok((ask, connection))) = handshake.poll(&mut context) else {
            self.stage = Stage::Closed(ErrorKind::Other);
            return;
        };
        for (place, stream) in &mut self.streams {
            stream.request = Asked::Awaited(Some(ask.clone()));
            stream.far.connected();
            self.wakers.add(place);
        }
        self.stage = Stage::Open {
            ask,
            connection: Box::new(connection),
        };
    }

    fn read(&mut self, core: &mut Core) -> bool {
        if !self.wire.is_drained() {
            return false;
        }
        match self.socket.read(&mut core.scratch[..READ_BYTES]) {
            Transfer::Bytes(count) => {
                if !self.is_greeted {
                    self.greeting.note(&core.scratch[..count]);
                }
                self.wire.put(&core.scratch[..count]);
                self.heard_ms = core.now_ms();
                true
            }
            Transfer::Blocked => false,
            Transfer::End | Transfer::Broken(_) => {
                self.wire.end_input();
                // What came before the end still counts.
                self.leaving = true;
                false
            }
        }
    }

    /// Once it is known what the endpoint takes, those who ask for it go on.
    fn hear_greeting(&mut self) {
        if !self.is_greeted && self.greeting.is_over() && self.wire.is_drained() {
            self.is_greeted = true;
            for (place, _) in &self.streams {
                self.wakers.add(place);
            }
        }
    }

    fn poll(&mut self) {
        let Stage::Open { connection, .. } = &mut self.stage else {
            return;
        };
        // Whoever changes something polls again: there is nobody to wake.
        let mut context = Context::from_waker(Waker::noop());
        if Pin::new(connection.as_mut()).poll(&mut context).is_ready() {
            // The streams have heard how, and are looked at before they go.
            for (place, _) in &self.streams {
                self.wakers.add(place);
            }
            self.leaving = true;
            if self.streams.is_empty() {
                self.stage = Stage::Closed(ErrorKind::ConnectionReset);
            }
        }
    }

    fn pump_woken(&mut self, core: &mut Core) -> bool {
        let mut pumped = false;
        for place in self.wakers.take() {
            let Some(stream) = self.streams.get_mut(place) else {
                continue;
            };
            pumped = true;
            let mut context = Context::from_waker(self.wakers.of(place));
            let goes_on = stream.pump(core, &mut context, self.is_greeted);
            if take(&mut stream.refused) && !self.told {
                self.told = true;
                let name = &self.name;
                core.telemetry.log().warning(format_args!(
                    "a request for a WebSocket was answered with 501: endpoint {name} speaks HTTP/2 \
                     and has not said that it takes WebSockets over it (RFC 8441); send such \
                     requests to a cluster without `protocol = \"h2\"`"
                ));
            }
            if goes_on {
                continue;
            }
            let stream = self.streams.remove(place);
            self.idle_since_ms = core.now_ms();
            let silent = stream.opened_ms > self.heard_ms
                && core.now_ms() - stream.opened_ms > SILENT_MS
                && matches!(stream.response, Answer::Awaited(_));
            self.leaving |= silent;
        }
        pumped
    }

    /// The connection has ended: requests on it have failed.
    fn end(&mut self) {
        let kind = match self.stage {
            Stage::Closed(kind) => kind,
            _ => ErrorKind::ConnectionReset,
        };
        for stream in self.streams.drain() {
            stream.far.break_off(kind);
        }
    }
}

impl Stream {
    /// Moves request and response on; `false` once there is nothing more to do for it.
    fn pump(&mut self, core: &mut Core, context: &mut Context<'_>, is_greeted: bool) -> bool {
        if self.far.look() {
            // Whoever asked has what it wanted, or wants it no more: `h2` cancels what is left.
            return false;
        }
        let moved = match self.ask(core, context, is_greeted) {
            Ok(()) => self.answer(context),
            Err(kind) => Err(kind),
        };
        if let Err(kind) = moved {
            self.far.break_off(kind);
            return false;
        }
        true
    }

    fn ask(
        &mut self,
        core: &mut Core,
        context: &mut Context<'_>,
        is_greeted: bool,
    ) -> Result<(), ErrorKind> {
        if let Asked::Awaited(Some(ask)) = &mut self.request {
            match ask.poll_ready(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Err(kind_of(&error)),
            }
            let tls = self.far.is_tls();
            let takes_sockets = is_greeted.then(|| ask.is_extended_connect_protocol_enabled());
            let taken = self
                .far
                .outward(|outward| take_head(outward, core, tls, takes_sockets));
            let (head, request) = match taken.map_err(|_| ErrorKind::InvalidInput)? {
                None => return Ok(()),
                Some(Wanted::Usual(head, request)) => (head, request),
                Some(Wanted::Socket(request, accept)) => {
                    let sent = ask.send_request(request, false);
                    let (response, stream) = sent.map_err(|error| kind_of(&error))?;
                    self.response = Answer::Awaited(response);
                    self.request = Asked::Body(Outbound::tunnel(stream));
                    self.accept = Some(accept);
                    return Ok(());
                }
                Some(Wanted::Keyless) => {
                    let why = "a WebSocket needs one Sec-WebSocket-Key of sixteen bytes";
                    websocket::refuse(&self.far, 400, why);
                    self.request = Asked::Sent;
                    return Ok(());
                }
                Some(Wanted::Refused) => {
                    let why = "the endpoint takes no WebSockets over HTTP/2";
                    websocket::refuse(&self.far, 501, why);
                    self.request = Asked::Sent;
                    self.refused = true;
                    return Ok(());
                }
            };
            let empty = head.framing == evener_http1::Framing::Length(0);
            self.to_head = head.method == evener_http1::Method::Head;
            let sent = ask.send_request(request, empty);
            let (response, stream) = sent.map_err(|error| kind_of(&error))?;
            self.response = Answer::Awaited(response);
            self.request = match empty {
                true => Asked::Sent,
                false => Asked::Body(Outbound::new(stream, head.framing)),
            };
        }
        if let Asked::Body(body) = &mut self.request {
            // An endpoint that takes no more of the request may still answer it.
            let ended = body.advance(&self.far, context).is_err();
            if ended || body.is_done() {
                self.request = Asked::Sent;
            }
        }
        Ok(())
    }

    fn answer(&mut self, context: &mut Context<'_>) -> Result<(), ErrorKind> {
        if let Answer::Awaited(response) = &mut self.response {
            while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(context) {
                self.far.push(|out| {
                    heads::write_response(out, &interim, true, false);
                });
            }
            match Pin::new(response).poll(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(kind_of(&error)),
                Poll::Ready(Ok(response)) => {
                    let (parts, body) = response.into_parts();
                    let head = http::Response::from_parts(parts, ());
                    if let Some(accept) = &self.accept
                        && head.status().is_success()
                    {
                        let write = |out: &mut Vec<u8>| {
                            websocket::write_switching(out, &head, accept);
                        };
                        self.far.push(write);
                        self.response = Answer::Body(Inbound::new(body, BodyForm::Tunnel));
                        return self.answer(context);
                    }
                    let ends = body.is_end_stream();
                    let to_head = self.to_head;
                    let mut form = BodyForm::Empty;
                    self.far
                        .push(|out| form = heads::write_response(out, &head, ends, to_head));
                    self.response = Answer::Body(Inbound::new(body, form));
                }
            }
        }
        if let Answer::Body(body) = &mut self.response {
            let moved = body.advance(&self.far, context);
            moved.map_err(|_| ErrorKind::ConnectionReset)?;
            if body.is_done() {
                self.far.end();
            }
        }
        Ok(())
    }
}

/// How the stages see it. A request that the endpoint says it has not looked at was never there.
fn kind_of(error: &h2::Error) -> ErrorKind {
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => ErrorKind::ConnectionRefused,
        // A GOAWAY without fault is for requests that were not begun (RFC 9113, 6.8).
        Some(h2::Reason::NO_ERROR) if error.is_go_away() => ErrorKind::ConnectionRefused,
        _ => ErrorKind::ConnectionReset,
    }
}
