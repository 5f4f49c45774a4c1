//! The origin that proxies are measured with: as cheap as can be, on one thread.
//!
//! `origin ADDRESS…` (`host:port` or `unix:PATH`). `GET /bytes/N` gives N bytes; `POST /upload`
//! takes a body and says how long it was; `GET /echo` opens a WebSocket that sends every message
//! back; `GET /events` is a stream of numbered, stamped events, 50 a second, the same for all.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};

use evener_bench_load::body::{Chunk, Framing};
use evener_bench_load::clock::{MILLISECOND, now};
use evener_bench_load::frame::{ACCEPT, Frames, KEY, encode};
use evener_bench_load::poll::Poller;
use socket2::{Domain, SockAddr, Socket, Type};

/// Between two events.
const EVENT_GAP: u64 = 20 * MILLISECOND;

/// Letters behind an event's number and stamp.
const EVENT_PADDING: usize = 64;

/// Longest head that is understood.
const HEAD_BYTES_MAX: usize = 64 * 1024;

enum Talk {
    /// Waiting for a head, of which this much has come.
    Head(Vec<u8>),
    /// Taking a body; so many bytes so far.
    Body(Framing, u64),
    /// A WebSocket.
    Echo(Frames),
    /// Receives events.
    Events,
}

struct Connection {
    socket: Socket,
    talk: Talk,
    output: Vec<u8>,
    watches_room: bool,
    /// The client has said that this request is its last.
    closes: bool,
}

struct Origin {
    poller: Poller,
    listeners: Vec<Socket>,
    connections: HashMap<u64, Connection>,
    next_key: u64,
    answers: HashMap<usize, Vec<u8>>,
    scratch: Vec<u8>,
    event_due: u64,
    event_number: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let poller = Poller::new()?;
    let mut listeners = Vec::new();
    for address in std::env::args().skip(1) {
        let listener = listen(&address)?;
        poller.add(&listener, listeners.len() as u64, false)?;
        listeners.push(listener);
    }
    let next_key = listeners.len() as u64;
    Origin {
        poller,
        listeners,
        connections: HashMap::new(),
        next_key,
        answers: HashMap::new(),
        scratch: vec![0; 256 * 1024],
        event_due: now(),
        event_number: 0,
    }
    .run()?;
    Ok(())
}

fn listen(address: &str) -> Result<Socket, Box<dyn Error>> {
    let (domain, address) = match address.strip_prefix("unix:") {
        Some(path) => {
            let _ = std::fs::remove_file(path);
            (Domain::UNIX, SockAddr::unix(path)?)
        }
        None => {
            let address: std::net::SocketAddr = address.parse()?;
            (Domain::for_address(address), address.into())
        }
    };
    let listener = Socket::new(domain, Type::STREAM, None)?;
    if domain != Domain::UNIX {
        listener.set_reuse_address(true)?;
    }
    listener.bind(&address)?;
    listener.listen(4096)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Origin {
    fn run(&mut self) -> io::Result<()> {
        loop {
            let streams = |c: &Connection| matches!(c.talk, Talk::Events);
            let wait = if self.connections.values().any(streams) {
                Some(self.event_due.saturating_sub(now()))
            } else {
                None
            };
            for ready in self.poller.wait(wait)? {
                if (ready.key as usize) < self.listeners.len() {
                    self.accept(ready.key as usize)?;
                } else {
                    self.serve(ready.key, ready.readable);
                }
            }
            if now() >= self.event_due {
                self.tell();
            }
        }
    }

    fn accept(&mut self, index: usize) -> io::Result<()> {
        loop {
            let socket = match self.listeners[index].accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(true)?;
            // Not every listener is TCP, and only TCP has it.
            let _ = socket.set_tcp_nodelay(true);
            let key = self.next_key;
            self.next_key += 1;
            self.poller.add(&socket, key, false)?;
            let connection = Connection {
                socket,
                talk: Talk::Head(Vec::new()),
                output: Vec::new(),
                watches_room: false,
                closes: false,
            };
            self.connections.insert(key, connection);
        }
    }

    fn serve(&mut self, key: u64, readable: bool) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let mut open = true;
        if readable {
            open = match connection.socket.read(&mut self.scratch) {
                Ok(0) => false,
                Ok(n) => connection.take(&self.scratch[..n], &mut self.answers),
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
        }
        open &= connection.flush(key, &self.poller);
        let answered = connection.output.is_empty() && matches!(connection.talk, Talk::Head(_));
        if !open || connection.closes && answered {
            self.connections.remove(&key);
        }
    }

    /// The next event, to everyone.
    fn tell(&mut self) {
        self.event_due = now().max(self.event_due) + EVENT_GAP;
        self.event_number += 1;
        let padding = "x".repeat(EVENT_PADDING);
        let event = format!("data: {} {} {padding}\n\n", self.event_number, now());
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        let mut gone = Vec::new();
        for (key, connection) in &mut self.connections {
            if matches!(connection.talk, Talk::Events) {
                connection.output.extend_from_slice(chunk.as_bytes());
                if !connection.flush(*key, &self.poller) {
                    gone.push(*key);
                }
            }
        }
        for key in gone {
            self.connections.remove(&key);
        }
    }
}

impl Connection {
    /// Takes what came; false if the connection must end.
    fn take(&mut self, mut bytes: &[u8], answers: &mut HashMap<usize, Vec<u8>>) -> bool {
        while !bytes.is_empty() {
            match &mut self.talk {
                Talk::Events => return true,
                Talk::Echo(frames) => {
                    frames.take(bytes);
                    while let Some(frame) = frames.next_frame() {
                        let opcode = if frame.opcode == 9 { 10 } else { frame.opcode };
                        self.output.extend(encode(opcode, &frame.payload, false));
                        if opcode == 8 {
                            return false;
                        }
                    }
                    return true;
                }
                Talk::Body(framing, seen) => {
                    let Ok(taken) = framing.take(bytes, |body| *seen += body.len() as u64) else {
                        return false;
                    };
                    bytes = &bytes[taken..];
                    if framing.is_over() {
                        let text = format!("received {seen}");
                        self.output.extend(answer(text.as_bytes()));
                        self.talk = Talk::Head(Vec::new());
                    }
                }
                Talk::Head(partial) => {
                    let mut held = std::mem::take(partial);
                    let head = if held.is_empty() {
                        bytes
                    } else {
                        held.extend_from_slice(bytes);
                        &held
                    };
                    match self.begin(head, answers) {
                        None => return false,
                        Some(0) if head.len() > HEAD_BYTES_MAX => return false,
                        Some(0) => {
                            self.talk = Talk::Head(head.to_vec());
                            return true;
                        }
                        Some(taken) => {
                            let behind = head.len() - taken;
                            bytes = &bytes[bytes.len() - behind..];
                        }
                    }
                }
            }
        }
        true
    }

    /// Starts on a head: how long it is, 0 if it is not whole, none if it is not understood.
    fn begin(&mut self, bytes: &[u8], answers: &mut HashMap<usize, Vec<u8>>) -> Option<usize> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut fields);
        let httparse::Status::Complete(length) = head.parse(bytes).ok()? else {
            return Some(0);
        };
        let path = head.path?;
        let field = |name: &str| {
            let found = head
                .headers
                .iter()
                .find(|f| f.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(found.value).ok()
        };
        self.closes = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        self.talk = Talk::Head(Vec::new());
        if let Some(size) = path.strip_prefix("/bytes/") {
            let size: usize = size.parse().ok()?;
            let made = answers
                .entry(size)
                .or_insert_with(|| answer(&vec![b'x'; size]));
            self.output.extend_from_slice(made);
        } else if path == "/upload" {
            let framing = match field("content-length") {
                Some(length) => Framing::Length(length.parse().ok()?),
                None => Framing::Chunked(Chunk::START),
            };
            self.talk = Talk::Body(framing, 0);
        } else if path == "/echo" {
            if field("sec-websocket-key")? != KEY {
                return None;
            }
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
            );
            self.output.extend_from_slice(head.as_bytes());
            self.talk = Talk::Echo(Frames::default());
        } else if path == "/events" {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                        Transfer-Encoding: chunked\r\n\r\n";
            self.output.extend_from_slice(head.as_bytes());
            self.talk = Talk::Events;
        } else {
            return None;
        }
        Some(length)
    }

    /// Sends what it can; false if the connection is broken.
    fn flush(&mut self, key: u64, poller: &Poller) -> bool {
        let mut sent = 0;
        while sent < self.output.len() {
            match self.socket.write(&self.output[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        self.output.drain(..sent);
        let more = !self.output.is_empty();
        if more != self.watches_room {
            self.watches_room = more;
            return poller.change(&self.socket, key, more).is_ok();
        }
        true
    }
}

fn answer(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
