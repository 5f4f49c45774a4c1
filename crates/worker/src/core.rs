//! The state of one server: its connections, its runs, and what one pass of the loop does.
//!
//! Everything here happens under the server's lock and calls no Python code; what has to be done
//! in Python is left in `Effects`. How a request's own messages are served is in `http` and
//! `socket_messages`, which extend `Core`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use evener_vitals::monotonic_ns;
use pyo3::prelude::*;
use slab::Slab;

use crate::connection::{Connection, HeadStep, Phase, RECEIVE_BYTES};
use crate::effects::{Effects, Place, StartRun};
use crate::scope::Ends;
use crate::system::{self, Epoll, LEVEL, READ, READ_WRITE, Timer};
use crate::vitals::Pulse;
use crate::websocket::socket::{Socket, Stage};

const EVENTS_MAX: usize = 256;
pub(crate) const LISTENER: u64 = u64::MAX;
const PULSE: u64 = u64::MAX - 1;
const DEADLINES: u64 = u64::MAX - 2;

/// With several requests in one turn, responses leave together, but none waits longer than this
/// for the others.
const BATCH_NS: u64 = 500_000;

/// How long a closed connection waits for the other side to read what was sent.
const LINGER_NS: u64 = 2_000_000_000;

/// How much of an unwanted request body is read to keep the connection.
const DISCARD_BYTES_MAX: usize = 1024 * 1024;

/// How much may be queued for sending before the application is made to wait.
pub(crate) const QUEUED_BYTES_HIGH: usize = 64 * 1024;
/// When it may go on.
const QUEUED_BYTES_LOW: usize = 16 * 1024;

/// Settings that the core itself needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Idle time after which a connection is closed; zero: never.
    pub(crate) keep_alive_ns: u64,
    /// After so many requests and WebSockets the server asks to be replaced; zero: never.
    pub(crate) requests_max: u64,
    pub(crate) message_bytes_max: usize,
    pub(crate) deflate: bool,
    /// Time between pings; zero: none.
    pub(crate) ping_interval_ns: u64,
    /// How long a pong may take; zero: for ever.
    pub(crate) ping_timeout_ns: u64,
}

/// A task that runs the application for one request or WebSocket.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) place: Place,
    /// The task, once it has been made.
    pub(crate) task: Option<Py<PyAny>>,
}

/// The state.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) epoll: Epoll,
    pub(crate) listener: Option<OwnedFd>,
    pub(crate) connections: Slab<Connection>,
    pub(crate) runs: Slab<Running>,
    pub(crate) pulse: Pulse,
    pub(crate) limits: Limits,
    events: Vec<libc::epoll_event>,
    pub(crate) scratch: Vec<u8>,
    dirty: Vec<usize>,
    /// Connections to be looked at without a readiness event.
    resume: Vec<usize>,
    /// Since when responses are held back to leave together.
    pub(crate) batch_ns: Option<u64>,
    pub(crate) date: Date,
    pub(crate) deadlines: BinaryHeap<Reverse<(u64, usize, u32)>>,
    pub(crate) deadline_timer: Timer,
    pub(crate) timer_ns: Option<u64>,
    pub(crate) accept_again_ns: Option<u64>,
    next_epoch: u32,
    next_exchange: u64,
    pub(crate) started: u64,
    pub(crate) draining: bool,
}

impl Core {
    pub(crate) fn new(
        listener: Option<OwnedFd>,
        pulse: Pulse,
        limits: Limits,
    ) -> std::io::Result<Core> {
        let epoll = Epoll::new()?;
        let deadline_timer = Timer::new()?;
        epoll.add(pulse.timer().raw(), PULSE, LEVEL)?;
        epoll.add(deadline_timer.raw(), DEADLINES, LEVEL)?;
        if let Some(listener) = &listener {
            epoll.add(listener.as_raw_fd(), LISTENER, LEVEL)?;
        }
        Ok(Core {
            epoll,
            listener,
            connections: Slab::new(),
            runs: Slab::new(),
            pulse,
            limits,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX],
            scratch: Vec::with_capacity(RECEIVE_BYTES),
            dirty: Vec::new(),
            resume: Vec::new(),
            batch_ns: None,
            date: Date::default(),
            deadlines: BinaryHeap::new(),
            deadline_timer,
            timer_ns: None,
            accept_again_ns: None,
            next_epoch: 0,
            next_exchange: 0,
            started: 0,
            draining: false,
        })
    }

    /// One pass: serves everything that is ready.
    pub(crate) fn pass(&mut self, py: Python<'_>, effects: &mut Effects) {
        self.pulse.tick();
        let mut events = std::mem::take(&mut self.events);
        let count = self.epoll.ready(&mut events);
        for event in &events[..count] {
            match event.u64 {
                LISTENER => effects.accept = true,
                PULSE => self.pulse.beat(),
                DEADLINES => self.handle_deadlines(py, effects),
                token => self.handle_event(py, token, event.events, effects),
            }
        }
        self.events = events;
        while let Some(key) = self.resume.pop() {
            self.serve(py, key, effects);
        }
    }

    fn handle_event(&mut self, py: Python<'_>, token: u64, flags: u32, effects: &mut Effects) {
        let (key, epoch) = ((token & 0xffff_ffff) as usize, (token >> 32) as u32);
        // The descriptor may have been closed, and its place taken, earlier in this pass.
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.epoch != epoch || connection.fd.is_none() {
            return;
        }
        let has = |flag: i32| flags & flag as u32 != 0;
        connection.readable |= has(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP);
        connection.half_closed |= has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR);
        // TCP cannot tell a client that has only ended its sending from one that is gone; for an
        // application that waits to hear of it, the second is what matters, unless the end came
        // with the request. A unix socket can tell.
        let waits = connection.phase != Phase::Head;
        let gone = has(libc::EPOLLHUP | libc::EPOLLERR)
            || (has(libc::EPOLLRDHUP) && waits && !connection.ends.unix);
        connection.gone |= gone;
        if has(libc::EPOLLOUT) {
            self.flush(py, key, effects);
        }
        self.serve(py, key, effects);
    }

    /// Does what the connection's phase asks for now.
    pub(crate) fn serve(&mut self, py: Python<'_>, key: usize, effects: &mut Effects) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match connection.phase {
            Phase::Head => self.read_requests(py, key, effects),
            Phase::Queued | Phase::Http => {
                if connection.gone {
                    self.lose(key, effects);
                } else if connection.readable {
                    effects.wake.append(&mut connection.readers);
                }
            }
            Phase::Discard => self.discard(py, key, effects),
            Phase::WebSocket => self.read_socket(py, key, effects),
            Phase::Closing if connection.gone => self.lose(key, effects),
            Phase::Closing => {}
            Phase::Lingering => {
                while connection.receive(&mut self.scratch) {}
                if connection.ended || connection.gone {
                    self.lose(key, effects);
                }
            }
        }
    }

    /// Reads the next head, and queues the request for its task.
    fn read_requests(&mut self, py: Python<'_>, key: usize, effects: &mut Effects) {
        let connection = &mut self.connections[key];
        match connection.read_head(&mut self.scratch) {
            HeadStep::Wait => {}
            HeadStep::Close => self.lose(key, effects),
            HeadStep::Refuse(status, reason) => {
                self.refuse(py, key, status, reason, effects);
            }
            HeadStep::Request => self.queue(key, None, effects),
            HeadStep::Socket(socket) => self.queue(key, Some(socket), effects),
        }
    }

    fn queue(&mut self, key: usize, socket: Option<Box<Socket>>, effects: &mut Effects) {
        let connection = &mut self.connections[key];
        if connection.exchange != 0 {
            connection.next_sequence();
        }
        self.next_exchange += 1;
        connection.exchange = self.next_exchange;
        connection.phase = Phase::Queued;
        connection.running = true;
        connection.deadline_ns = None;
        connection.socket = socket;
        connection.held = Duration::ZERO;
        connection.queued_ns = self.pulse.begin();
        let place = Place {
            key,
            exchange: connection.exchange,
        };
        let run = self.runs.insert(Running { place, task: None });
        effects.starts.push(StartRun { place, run });
        self.started += 1;
        effects.limit_reached |= self.started == self.limits.requests_max;
    }

    /// Answers without the application, and closes.
    pub(crate) fn refuse(
        &mut self,
        py: Python<'_>,
        key: usize,
        status: u16,
        reason: &str,
        effects: &mut Effects,
    ) {
        use evener_http1::write;
        let date = self.date.now();
        let connection = &mut self.connections[key];
        connection.output.append(|buffer| {
            write::status_line(buffer, status);
            write::field(buffer, b"date", date);
            write::field(buffer, b"content-type", b"text/plain; charset=utf-8");
            if status == 426 {
                write::field(buffer, b"upgrade", b"websocket");
                write::field(buffer, b"sec-websocket-version", b"13");
            }
            buffer.extend_from_slice(b"content-length: ");
            write::decimal(buffer, reason.len() as u64);
            buffer.extend_from_slice(b"\r\nconnection: close\r\n\r\n");
            if connection.head.method != evener_http1::Method::Head {
                buffer.extend_from_slice(reason.as_bytes());
            }
        });
        connection.phase = Phase::Closing;
        self.flush(py, key, effects);
    }

    /// The response is complete: what becomes of the connection.
    pub(crate) fn complete(&mut self, py: Python<'_>, key: usize, effects: &mut Effects) {
        let connection = &mut self.connections[key];
        effects.wake.append(&mut connection.readers);
        if !connection.keep_alive || self.draining {
            connection.phase = Phase::Closing;
        } else if connection.body.is_done() {
            self.await_request(key, effects);
        } else {
            connection.phase = Phase::Discard;
            self.discard(py, key, effects);
        }
    }

    fn await_request(&mut self, key: usize, effects: &mut Effects) {
        let connection = &mut self.connections[key];
        connection.phase = Phase::Head;
        if self.limits.keep_alive_ns > 0 {
            let due = monotonic_ns() + self.limits.keep_alive_ns;
            self.set_deadline(key, due);
        }
        let connection = &self.connections[key];
        if connection.readable || !connection.input.is_empty() || connection.half_closed {
            // Not now: this may be the application's own step, and in its context.
            self.resume.push(key);
            effects.pass_wanted = true;
        }
    }

    /// Reads and drops what is left of a request's body.
    fn discard(&mut self, py: Python<'_>, key: usize, effects: &mut Effects) {
        let connection = &mut self.connections[key];
        loop {
            if connection.input.is_empty() {
                if !connection.receive(&mut self.scratch) {
                    break;
                }
                std::mem::swap(&mut connection.input, &mut self.scratch);
            }
            let input = std::mem::take(&mut connection.input);
            let mut dropped = Vec::new();
            let used = Connection::decode_body(&mut connection.body, &input, &mut dropped);
            connection.input = input;
            let Ok((_, used)) = used else {
                connection.gone = true;
                break;
            };
            connection.discarded_bytes += used;
            connection.consume_input(used);
            if connection.body.is_done() {
                return self.await_request(key, effects);
            }
            if connection.discarded_bytes > DISCARD_BYTES_MAX {
                connection.phase = Phase::Closing;
                return self.flush(py, key, effects);
            }
        }
        if connection.ended || connection.gone {
            self.lose(key, effects);
        }
    }

    /// Marks a connection whose queue is to be sent at the end of this turn of the loop.
    pub(crate) fn flush_later(&mut self, key: usize, effects: &mut Effects) {
        let connection = &mut self.connections[key];
        if !connection.dirty {
            connection.dirty = true;
            if self.dirty.is_empty() && self.batch_ns.is_none() {
                effects.flush_wanted = true;
            }
            self.dirty.push(key);
        }
    }

    /// Sends a finished response: at once, or with the others of this turn if there are several.
    pub(crate) fn flush_finished(&mut self, py: Python<'_>, key: usize, effects: &mut Effects) {
        let Some(since) = self.batch_ns else {
            return self.flush(py, key, effects);
        };
        self.flush_later(key, effects);
        let now = monotonic_ns();
        if now.saturating_sub(since) > BATCH_NS {
            self.flush_dirty(py, effects);
            self.batch_ns = Some(now);
        }
    }

    /// Sends everything that was left for the end of the turn.
    pub(crate) fn flush_dirty(&mut self, py: Python<'_>, effects: &mut Effects) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            if self
                .connections
                .get(key)
                .is_some_and(|connection| connection.dirty)
            {
                self.flush(py, key, effects);
            }
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// Sends what the socket takes of a connection's queue, and what follows from that.
    pub(crate) fn flush(&mut self, py: Python<'_>, key: usize, effects: &mut Effects) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.dirty = false;
        let Some(fd) = connection.raw_fd() else {
            return;
        };
        if connection.output.flush(py, fd).is_err() {
            return self.lose(key, effects);
        }
        let watch = !connection.output.is_empty();
        if watch != connection.writes_watched {
            let flags = if watch { READ_WRITE } else { READ };
            let changed = self.epoll.modify(fd, token(key, connection.epoch), flags);
            debug_assert!(changed.is_ok(), "an open connection is in the epoll set");
            connection.writes_watched = watch;
        }
        if connection.output.len() <= QUEUED_BYTES_LOW {
            effects.wake.append(&mut connection.writers);
            if connection.phase == Phase::WebSocket && connection.readable && watch {
                // Reading had stopped because our answers were not taken.
                self.resume.push(key);
                effects.pass_wanted = true;
            }
        }
        let connection = &self.connections[key];
        if connection.output.is_empty() && connection.phase == Phase::Closing {
            self.close(key, effects);
        }
    }

    /// Everything has been sent: closes, or waits until the other side has read it.
    fn close(&mut self, key: usize, effects: &mut Effects) {
        let connection = &mut self.connections[key];
        let Some(fd) = connection.raw_fd() else {
            return;
        };
        if !connection.must_linger() {
            return self.lose(key, effects);
        }
        system::shut_down_sending(fd);
        connection.phase = Phase::Lingering;
        connection.input.clear();
        self.set_deadline(key, monotonic_ns() + LINGER_NS);
        self.resume.push(key);
        effects.pass_wanted = true;
    }

    /// The connection is over: closes it at once, and tells whoever waits for it.
    pub(crate) fn lose(&mut self, key: usize, effects: &mut Effects) {
        let connection = &mut self.connections[key];
        connection.gone = true;
        if let Some(fd) = connection.fd.take() {
            // Closing takes it out of the epoll set, unless a child process has inherited it.
            let _ = self.epoll.remove(fd.as_raw_fd());
        }
        if let Some(socket) = &mut connection.socket {
            socket.finish(1006, String::new());
        }
        effects.wake.append(&mut connection.readers);
        effects.wake.append(&mut connection.writers);
        if !connection.running {
            effects.dropped.push(self.connections.remove(key));
        }
        effects.drained |= self.draining;
    }

    /// A new connection. It is read from when it is announced as readable, which also tells
    /// whether the other side has gone already.
    pub(crate) fn accepted(&mut self, fd: OwnedFd, ends: Ends, effects: &mut Effects) {
        self.next_epoch = self.next_epoch.wrapping_add(1);
        let (raw, epoch) = (fd.as_raw_fd(), self.next_epoch);
        let key = self.connections.insert(Connection::new(fd, epoch, ends));
        if self.epoll.add(raw, token(key, epoch), READ).is_err() {
            return self.lose(key, effects);
        }
        if self.limits.keep_alive_ns > 0 {
            self.set_deadline(key, monotonic_ns() + self.limits.keep_alive_ns);
        }
    }

    /// The listener, to accept from without the lock.
    pub(crate) fn listener(&self) -> Option<i32> {
        self.listener.as_ref().map(AsRawFd::as_raw_fd)
    }

    pub(crate) fn stop_listening(&mut self) {
        if let Some(listener) = self.listener.take() {
            let _ = self.epoll.remove(listener.as_raw_fd());
        }
    }

    /// The exchange at `place`, if its connection has not moved on.
    pub(crate) fn at(&mut self, place: Place) -> Option<&mut Connection> {
        self.connections
            .get_mut(place.key)
            .filter(|connection| connection.exchange == place.exchange)
    }

    /// The run at `place` is over; afterwards the connection is on its own.
    /// Returns what was known of it, to be dropped without the lock.
    pub(crate) fn end_run(
        &mut self,
        run: usize,
        place: Place,
        ran: bool,
        effects: &mut Effects,
    ) -> Option<Running> {
        let running = self.runs.try_remove(run);
        self.pulse.end(ran);
        if let Some(connection) = self.at(place) {
            connection.running = false;
            if connection.fd.is_none() {
                effects.dropped.push(self.connections.remove(place.key));
            }
        }
        effects.drained |= self.draining;
        running
    }

    /// Requests that run, and connections that still send.
    pub(crate) fn busy(&self) -> usize {
        let sending = |connection: &Connection| {
            connection.fd.is_some() && !connection.running && !connection.output.is_empty()
        };
        self.runs.len()
            + self
                .connections
                .iter()
                .filter(|(_, held)| sending(held))
                .count()
    }

    /// Stops taking new requests: idle connections are closed, the others after what they do.
    pub(crate) fn drain(&mut self, py: Python<'_>, effects: &mut Effects) {
        self.draining = true;
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            // A request that has come just now is still served.
            self.serve(py, key, effects);
            let Some(connection) = self.connections.get_mut(key) else {
                continue;
            };
            if connection.phase == Phase::Head {
                connection.phase = Phase::Closing;
                self.flush(py, key, effects);
            }
        }
        effects.drained = true;
    }

    /// Ends whatever is left: to each application it looks as if its client had gone.
    pub(crate) fn disconnect_all(&mut self, effects: &mut Effects) {
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.lose(key, effects);
        }
    }

    /// The WebSockets that are open, oldest place first.
    pub(crate) fn open_sockets(&self) -> Vec<Place> {
        let open = |connection: &Connection| {
            connection
                .socket
                .as_ref()
                .is_some_and(|socket| socket.stage == Stage::Open)
        };
        self.connections
            .iter()
            .filter(|(_, connection)| connection.fd.is_some() && open(connection))
            .map(|(key, connection)| Place {
                key,
                exchange: connection.exchange,
            })
            .collect()
    }
}

fn token(key: usize, epoch: u32) -> u64 {
    u64::from(epoch) << 32 | key as u64
}

/// The current date as an HTTP date, written once a second.
#[derive(Debug, Default)]
pub(crate) struct Date {
    second: u64,
    text: Vec<u8>,
}

impl Date {
    pub(crate) fn now(&mut self) -> &[u8] {
        let second = system::unix_seconds();
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text.clear();
            evener_http1::write::http_date(&mut self.text, second);
        }
        &self.text
    }
}
