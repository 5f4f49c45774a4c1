//! One connection of the generator: its socket, what is being sent, what is coming back. When it
//! is given something to send is `drive`'s affair.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::frame::{Frames, KEY, encode};
use crate::plan::{Class, Protocol};
use crate::record::Failure;
use crate::reply::{Progress, Reply};

/// Where to.
#[derive(Clone, Debug)]
pub struct Target {
    domain: Domain,
    address: SockAddr,
}

impl Target {
    /// From `host:port` or `unix:PATH`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn parse(text: &str) -> io::Result<Target> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Target {
                domain: Domain::UNIX,
                address: SockAddr::unix(path)?,
            });
        }
        let address: SocketAddr = text
            .parse()
            .map_err(|_| io::Error::new(ErrorKind::InvalidInput, format!("no address: {text}")))?;
        Ok(Target {
            domain: Domain::for_address(address),
            address: address.into(),
        })
    }

    /// A socket whose connect has begun; whether it is over already.
    ///
    /// # Errors
    /// The kernel's: refused, or a full backlog.
    pub fn connect(&self) -> io::Result<(Socket, bool)> {
        let socket = Socket::new(self.domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        if self.domain != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        match socket.connect(&self.address) {
            Ok(()) => Ok((socket, true)),
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
            {
                Ok((socket, false))
            }
            Err(error) => Err(error),
        }
    }
}

/// The bytes of each class's request or message.
#[derive(Debug)]
pub struct Wire {
    /// By class.
    pub requests: Vec<Vec<u8>>,
    /// The payload that a message comes back with, by class.
    pub echoes: Vec<Vec<u8>>,
    /// What opens a WebSocket.
    pub handshake: Vec<u8>,
    /// Whether messages are sent, or requests.
    pub websocket: bool,
}

impl Wire {
    /// Writes them once.
    pub fn new(classes: &[Class], protocol: Protocol, reuse: bool) -> Wire {
        let echoes: Vec<Vec<u8>> = classes.iter().map(body).collect();
        let requests = classes.iter().zip(&echoes);
        let requests = requests
            .map(|(class, body)| match protocol {
                Protocol::Websocket => encode(1, body, true),
                Protocol::Http | Protocol::Events => request(class, body, reuse),
            })
            .collect();
        let path = classes.first().map_or("/", |class| class.path.as_str());
        let handshake = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        Wire {
            requests,
            echoes,
            handshake: handshake.into_bytes(),
            websocket: protocol == Protocol::Websocket,
        }
    }
}

fn body(class: &Class) -> Vec<u8> {
    match &class.body {
        Some(text) => text.clone().into_bytes(),
        None => vec![b'x'; class.body_bytes],
    }
}

fn request(class: &Class, body: &[u8], reuse: bool) -> Vec<u8> {
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        class.method, class.path
    );
    for (name, value) in &class.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !reuse {
        head += "Connection: close\r\n";
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has no socket.
    Closed,
    /// The connect is under way.
    Connecting,
    /// The WebSocket is being opened.
    Opening,
    /// It could send.
    Idle,
    /// It waits for an answer.
    Busy,
    /// It has the answer, and waits for the server to close.
    Ending,
}

/// What became of the request in hand.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    Pending,
    /// The WebSocket is open.
    Opened,
    /// The answer is whole; `failure` says what is wrong with it, if anything.
    Answered {
        /// The connection can carry no other.
        closes: bool,
        /// What is wrong.
        failure: Option<Failure>,
    },
    /// There will be no answer.
    Failed(Failure),
    /// The connection ended, and nobody waited for an answer.
    Ended,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// The socket, unless the phase is closed.
    pub socket: Option<Socket>,
    /// What it is doing.
    pub phase: Phase,
    /// The class of the request in hand.
    pub class: usize,
    /// When that request was due, in the clock's nanoseconds.
    pub due: u64,
    /// When it was sent.
    pub sent: u64,
    /// When the connect began.
    pub opened: u64,
    /// Whether the socket is watched for room to write.
    pub watches_room: bool,
    written: usize,
    used: bool,
    reply: Reply,
    frames: Frames,
}

impl Connection {
    /// Without a socket yet.
    pub fn new() -> Connection {
        Connection {
            socket: None,
            phase: Phase::Closed,
            class: 0,
            due: 0,
            sent: 0,
            opened: 0,
            watches_room: false,
            written: 0,
            used: false,
            reply: Reply::new(),
            frames: Frames::default(),
        }
    }

    /// Takes a new socket.
    pub fn begin(&mut self, socket: Socket, now: u64) {
        *self = Connection::new();
        self.socket = Some(socket);
        self.phase = Phase::Connecting;
        self.watches_room = true;
        self.opened = now;
    }

    /// Takes something to send; `write` sends it.
    pub fn load(&mut self, phase: Phase, class: usize, due: u64, now: u64) {
        self.phase = phase;
        self.class = class;
        self.due = due;
        self.sent = now;
        self.written = 0;
        self.reply = Reply::new();
    }

    /// Sends what is left of `bytes`; whether some is still left.
    ///
    /// # Errors
    /// The kernel's. Even then an answer may have come already.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let Some(socket) = &mut self.socket else {
            return Ok(false);
        };
        while self.written < bytes.len() {
            match socket.write(&bytes[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Receives what there is, and says what it means.
    pub fn receive(&mut self, scratch: &mut [u8], class: &Class, wire: &Wire) -> Outcome {
        loop {
            let Some(socket) = &mut self.socket else {
                return Outcome::Ended;
            };
            let n = match socket.read(scratch) {
                Ok(0) => return self.ended(class, Failure::Reset),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Outcome::Pending,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.ended(class, Failure::Reset),
            };
            let outcome = self.take(&scratch[..n], class, wire);
            if outcome != Outcome::Pending || n < scratch.len() {
                return outcome;
            }
        }
    }

    /// The outcome when the socket has ended.
    pub fn ended(&mut self, class: &Class, without_answer: Failure) -> Outcome {
        match self.phase {
            Phase::Busy | Phase::Opening => {}
            Phase::Closed | Phase::Connecting | Phase::Idle | Phase::Ending => {
                return Outcome::Ended;
            }
        }
        if let Some(Progress::Whole { wrong, .. }) = self.reply.end(class) {
            return Outcome::Answered {
                closes: true,
                failure: wrong,
            };
        }
        Outcome::Failed(if self.reply.has_begun() || self.frames.has_begun() {
            Failure::Truncated
        } else if self.used {
            Failure::Stale
        } else {
            without_answer
        })
    }

    fn take(&mut self, bytes: &[u8], class: &Class, wire: &Wire) -> Outcome {
        match self.phase {
            Phase::Opening => self.take_handshake(bytes, class),
            Phase::Busy if wire.websocket => self.take_frames(bytes, &wire.echoes[self.class]),
            Phase::Busy => match self.reply.take(bytes, class) {
                Ok(Progress::More) => Outcome::Pending,
                Ok(Progress::Whole { closes, wrong }) => self.answered(closes, wrong),
                Err(failure) => Outcome::Failed(failure),
            },
            // Nobody asked: a ping, or a last word before the server closes.
            Phase::Closed | Phase::Connecting | Phase::Idle | Phase::Ending => Outcome::Pending,
        }
    }

    fn take_handshake(&mut self, bytes: &[u8], class: &Class) -> Outcome {
        match self.reply.take(bytes, class) {
            Ok(Progress::More) => Outcome::Pending,
            Ok(Progress::Whole { .. }) if self.reply.status() == 101 => {
                self.used = true;
                Outcome::Opened
            }
            Ok(Progress::Whole { .. }) => Outcome::Failed(Failure::Status(self.reply.status())),
            Err(failure) => Outcome::Failed(failure),
        }
    }

    fn take_frames(&mut self, bytes: &[u8], echo: &[u8]) -> Outcome {
        self.frames.take(bytes);
        while let Some(frame) = self.frames.next_frame() {
            match frame.opcode {
                1 | 2 => {
                    let wrong = (frame.payload != echo).then_some(Failure::Body);
                    return self.answered(false, wrong);
                }
                8 => return Outcome::Failed(Failure::Truncated),
                _ => {}
            }
        }
        Outcome::Pending
    }

    fn answered(&mut self, closes: bool, failure: Option<Failure>) -> Outcome {
        self.used = true;
        Outcome::Answered { closes, failure }
    }
}

impl Default for Connection {
    fn default() -> Connection {
        Connection::new()
    }
}
