//! A connected stream socket, TCP or unix, with its readiness remembered between events.
//!
//! `epoll` is edge-triggered here: an event says that something changed, and the socket keeps that
//! in mind until an operation finds it used up. A short read means that the kernel's buffer is
//! empty, so that the usual request needs no second `recv` to learn it (epoll(7), "Questions and
//! answers", 9). Interest in writing is registered only after a write has blocked: a unix socket
//! reports every read of its peer as writability, which would wake us once per request for nothing.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use mio::event::{Event, Source};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::net::{RecvFlags, recv};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use crate::client_certificate::claims;
use crate::gather::Gather;
use crate::pipe::PipeEnd;
use crate::tcp_options;
use crate::tls::TlsStream;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// An address over TCP.
    Tcp(SocketAddr),
    /// Some process of this machine.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix => f.write_str("unix:"),
        }
    }
}

/// What became of a read or a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// So many bytes went over, at least one.
    Bytes(usize),
    /// Nothing for now; an event will tell.
    Blocked,
    /// The other end sends no more (reads only).
    End,
    /// The connection is broken.
    Broken(ErrorKind),
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    // Boxed: most sockets are clear text, and idle ones should stay small.
    Tls(Box<TlsStream>),
    Pipe(PipeEnd),
}

/// A non-blocking stream socket, registered under one token for as long as it lives.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    token: Token,
    readable: bool,
    writable: bool,
    read_closed: bool,
    hung_up: bool,
    write_interest: bool,
}

impl Socket {
    /// Takes over an accepted TCP connection, which has its options from the listener
    /// (`tcp_options`).
    pub fn accepted_tcp(stream: TcpStream, registry: &Registry, token: Token) -> io::Result<Self> {
        Socket::new(Stream::Tcp(stream), registry, token, true)
    }

    /// Takes over an accepted unix connection.
    pub fn accepted_unix(
        stream: UnixStream,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        Socket::new(Stream::Unix(stream), registry, token, true)
    }

    /// Connects to a unix socket, which succeeds or fails at once. `WouldBlock` means that the
    /// listener's backlog is full.
    pub fn connect_unix(path: &Path, registry: &Registry, token: Token) -> io::Result<Self> {
        Socket::new(
            Stream::Unix(UnixStream::connect(path)?),
            registry,
            token,
            true,
        )
    }

    /// Starts to connect over TCP; the connection is there when [`Socket::connected`] says so.
    pub fn connect_tcp(address: SocketAddr, registry: &Registry, token: Token) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        tcp_options::set(&stream, address)?;
        Socket::new(Stream::Tcp(stream), registry, token, false)
    }

    /// Takes over an accepted TCP connection whose client will speak TLS.
    pub fn accepted_tls(
        stream: TcpStream,
        config: Arc<ServerConfig>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let stream = TlsStream::server(stream, config)?;
        Socket::new(Stream::Tls(Box::new(stream)), registry, token, true)
    }

    /// Copies what the kernel has into `buffer` and leaves it there, encrypted or not: what comes
    /// ahead of everything else.
    pub fn peek(&mut self, buffer: &mut [u8]) -> Transfer {
        let result = match &self.stream {
            Stream::Tcp(tcp) => tcp.peek(buffer),
            Stream::Tls(tls) => tls.tcp.peek(buffer),
            Stream::Unix(unix) => recv(unix, &mut *buffer, RecvFlags::PEEK)
                .map(|(count, _)| count)
                .map_err(io::Error::from),
            Stream::Pipe(_) => Err(ErrorKind::Unsupported.into()),
        };
        match result {
            Ok(0) => Transfer::End,
            Ok(count) => Transfer::Bytes(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Transfer::Blocked,
            Err(error) => self.broken(error),
        }
    }

    /// Forgets bytes that [`Socket::peek`] has shown; whether all of them were still there.
    pub fn skip(&mut self, bytes: &mut [u8]) -> bool {
        let result = match &mut self.stream {
            Stream::Tcp(tcp) => tcp.read(bytes),
            Stream::Tls(tls) => tls.tcp.read(bytes),
            Stream::Unix(unix) => unix.read(bytes),
            Stream::Pipe(_) => Ok(0),
        };
        result.is_ok_and(|count| count == bytes.len())
    }

    /// The near end of a pipe. The kernel knows nothing of it: `token` names it, but no event
    /// carries it; [`Socket::note_ring`] takes the place of [`Socket::note`].
    pub fn piped(end: PipeEnd, token: Token) -> Self {
        let mut socket = Socket {
            stream: Stream::Pipe(end),
            token,
            readable: false,
            writable: false,
            read_closed: false,
            hung_up: false,
            write_interest: true,
        };
        socket.note_ring();
        socket
    }

    /// Starts to connect over TCP and to speak TLS; the connection is there when
    /// [`Socket::connected`] says so, which is after the handshake. `before` goes ahead of it, in
    /// clear text.
    pub fn connect_tls(
        address: SocketAddr,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        before: &[u8],
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        tcp_options::set(&stream, address)?;
        let stream = TlsStream::client(stream, config, name, before)?;
        Socket::new(Stream::Tls(Box::new(stream)), registry, token, false)
    }

    fn new(
        mut stream: Stream,
        registry: &Registry,
        token: Token,
        connected: bool,
    ) -> io::Result<Self> {
        // TLS may have something to send when nobody writes: its own messages, and what it has
        // encrypted already. Only after a full buffer does TCP report that it can be written to.
        let both = !connected || matches!(stream, Stream::Tls(_));
        let interest = if both {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        if let Some(source) = stream.source() {
            source.register(registry, token, interest)?;
        }
        Ok(Socket {
            stream,
            token,
            readable: false,
            writable: connected,
            read_closed: false,
            hung_up: false,
            write_interest: both,
        })
    }

    /// The token this socket's events carry.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Remembers what an event says.
    pub fn note(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        self.read_closed |= event.is_read_closed();
        self.hung_up |= event.is_write_closed() || event.is_error();
        if let Stream::Tls(tls) = &mut self.stream {
            tls.refilled();
            if event.is_writable() {
                self.writable = tls.flush().unwrap_or(true);
            }
        }
    }

    /// Remembers what the other end of a pipe has done, after its bell was rung.
    pub fn note_ring(&mut self) {
        if let Stream::Pipe(pipe) = &self.stream {
            let seen = pipe.look();
            self.readable = true;
            self.writable = seen.connected || seen.broken;
            self.read_closed |= seen.ended;
            self.hung_up |= seen.broken;
        }
    }

    /// Whether it is the end of a pipe, and so carried by another connection.
    pub fn is_pipe(&self) -> bool {
        matches!(self.stream, Stream::Pipe(_))
    }

    /// Whether a read might give something.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether a write might get somewhere.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether the peer is not known to have sent anything that was not read. Encrypted, it may
    /// have, and what a pipe carries ends as the pipe does.
    pub fn is_drained(&self) -> bool {
        !self.readable && matches!(self.stream, Stream::Tcp(_) | Stream::Unix(_))
    }

    /// Whether the peer has closed its sending side; bytes may still be unread.
    pub fn is_read_closed(&self) -> bool {
        self.read_closed
    }

    /// Whether the connection is broken, or closed in both directions.
    pub fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    /// For a socket from [`Socket::connect_tcp`]: `None` while connecting, then the outcome.
    pub fn connected(&mut self) -> Option<io::Result<()>> {
        if !self.writable {
            return None;
        }
        let stream = match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Unix(_) => return Some(Ok(())),
            Stream::Pipe(pipe) => {
                return Some(pipe.failure().map_or(Ok(()), |kind| Err(kind.into())));
            }
            Stream::Tls(tls) => &tls.tcp,
        };
        match stream.take_error() {
            Ok(Some(error)) | Err(error) => Some(Err(error)),
            Ok(None) => match stream.peer_addr() {
                Ok(_) => self.shake_hands(),
                Err(error) if error.kind() == ErrorKind::NotConnected => {
                    self.writable = false;
                    None
                }
                Err(error) => Some(Err(error)),
            },
        }
    }

    /// The client's part of a handshake, as far as it goes now.
    fn shake_hands(&mut self) -> Option<io::Result<()>> {
        let Stream::Tls(tls) = &mut self.stream else {
            return Some(Ok(()));
        };
        match tls.shake_hands() {
            Ok(done) => {
                self.writable = tls.is_flushed();
                done.then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// The protocol that TLS has agreed on (ALPN); `None` in clear text, before the handshake is
    /// over, and when nothing was offered.
    pub fn protocol(&self) -> Option<&[u8]> {
        match &self.stream {
            Stream::Tls(tls) => tls.protocol(),
            _ => None,
        }
    }

    /// Whether bytes go over it encrypted.
    pub fn is_tls(&self) -> bool {
        match &self.stream {
            Stream::Tls(_) => true,
            Stream::Pipe(pipe) => pipe.is_tls(),
            Stream::Tcp(_) | Stream::Unix(_) => false,
        }
    }

    /// What the certificate says that a TLS client has shown, as the value of
    /// `X-Forwarded-Client-Cert`; empty if it has shown none.
    pub fn client_claims(&self) -> Vec<u8> {
        match &self.stream {
            Stream::Tls(tls) => claims(tls.peer_certificates()),
            _ => Vec::new(),
        }
    }

    /// Whether everything that was written has gone to the kernel.
    pub fn is_flushed(&self) -> bool {
        match &self.stream {
            Stream::Tls(tls) => tls.is_flushed(),
            Stream::Pipe(pipe) => pipe.is_flushed(),
            _ => true,
        }
    }

    /// Reads into `buffer`, which must not be empty.
    pub fn read(&mut self, buffer: &mut [u8]) -> Transfer {
        if !self.readable {
            return Transfer::Blocked;
        }
        loop {
            let result = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(buffer),
                Stream::Unix(stream) => stream.read(buffer),
                Stream::Tls(tls) => tls.read(buffer),
                Stream::Pipe(pipe) => pipe.read(buffer),
            };
            return match result {
                Ok(0) => {
                    self.read_closed = true;
                    Transfer::End
                }
                Ok(count) => {
                    let more = match &self.stream {
                        Stream::Tls(tls) => tls.may_have_more(),
                        _ => count == buffer.len(),
                    };
                    self.readable = more || self.read_closed;
                    Transfer::Bytes(count)
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    Transfer::Blocked
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => self.broken(error),
            };
        }
    }

    /// Writes one slice.
    pub fn write(&mut self, bytes: &[u8]) -> Transfer {
        self.write_with(bytes.len(), |stream| match stream {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
            Stream::Tls(tls) => tls.write(&[IoSlice::new(bytes)]),
            Stream::Pipe(pipe) => pipe.write(&[IoSlice::new(bytes)]),
        })
    }

    /// Writes what was gathered, in one system call.
    pub fn write_gather(&mut self, gather: &Gather, input: &[u8]) -> Transfer {
        self.write_with(gather.len(), |stream| {
            gather.with_slices(input, |slices| match (slices, stream) {
                ([one], Stream::Tcp(stream)) => stream.write(one),
                ([one], Stream::Unix(stream)) => stream.write(one),
                (slices, Stream::Tls(tls)) => tls.write(slices),
                (slices, Stream::Pipe(pipe)) => pipe.write(slices),
                (many, Stream::Tcp(stream)) => stream.write_vectored(many),
                (many, Stream::Unix(stream)) => stream.write_vectored(many),
            })
        })
    }

    fn write_with(
        &mut self,
        wanted: usize,
        mut write: impl FnMut(&mut Stream) -> io::Result<usize>,
    ) -> Transfer {
        if !self.writable {
            return Transfer::Blocked;
        }
        loop {
            return match write(&mut self.stream) {
                Ok(count) => {
                    // A pipe takes more until it is full, whatever its other end has taken.
                    self.writable = count == wanted && (self.is_pipe() || self.is_flushed());
                    if count == 0 {
                        Transfer::Blocked
                    } else {
                        Transfer::Bytes(count)
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.writable = false;
                    Transfer::Blocked
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => self.broken(error),
            };
        }
    }

    /// Asks for an event when writing is possible again, after a write has blocked. The event
    /// comes at once if it already is.
    pub fn await_writable(&mut self, registry: &Registry) -> io::Result<()> {
        if !self.writable && !self.write_interest {
            self.write_interest = true;
            let both = Interest::READABLE | Interest::WRITABLE;
            if let Some(source) = self.stream.source() {
                source.reregister(registry, self.token, both)?;
            }
        }
        Ok(())
    }

    /// Ends our sending side; the peer reads an end of stream.
    pub fn shutdown_write(&mut self) {
        // An error means that the connection is gone already, which reads will tell.
        let _ = match &mut self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tls(tls) => {
                tls.send_close_notify();
                tls.tcp.shutdown(Shutdown::Write)
            }
            Stream::Pipe(pipe) => {
                pipe.shutdown_write();
                Ok(())
            }
        };
    }

    /// Says something in clear text to a peer that speaks no TLS where it should: a read was
    /// `Broken(Unsupported)`. Short enough to be taken at once, or lost.
    pub fn write_clear(&mut self, bytes: &[u8]) {
        if let Stream::Tls(tls) = &mut self.stream {
            // Nothing can be done for a peer that does not take it.
            let _ = tls.write_clear(bytes);
        }
    }

    /// Tells a TLS peer that the connection ends here, so that it need not suspect a cut.
    pub fn say_goodbye(&mut self) {
        if let Stream::Tls(tls) = &mut self.stream {
            tls.send_close_notify();
        }
    }

    /// Takes the socket out of the readiness queue before it is dropped.
    pub fn deregister(&mut self, registry: &Registry) {
        // Closing the descriptor does the same; an error here changes nothing.
        let _ = self.stream.source().map(|s| s.deregister(registry));
    }

    fn broken(&mut self, error: io::Error) -> Transfer {
        self.hung_up = true;
        Transfer::Broken(error.kind())
    }
}

impl Stream {
    fn source(&mut self) -> Option<&mut dyn Source> {
        match self {
            Stream::Tcp(stream) => Some(stream),
            Stream::Unix(stream) => Some(stream),
            Stream::Tls(tls) => Some(&mut tls.tcp),
            Stream::Pipe(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    /// Polls until `done` holds for the socket, for at most ten seconds.
    fn wait(poll: &mut Poll, socket: &mut Socket, done: impl Fn(&Socket) -> bool) {
        let mut events = Events::with_capacity(8);
        for _ in 0..100 {
            if done(socket) {
                return;
            }
            poll.poll(&mut events, Some(Duration::from_millis(100)))
                .unwrap();
            for event in &events {
                socket.note(event);
            }
        }
        panic!("the socket never got there: {socket:?}");
    }

    #[test]
    fn a_short_read_means_drained_and_an_end_is_still_seen() {
        let mut poll = Poll::new().unwrap();
        let (mut theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = UnixStream::from_std(ours);
        let mut socket = Socket::accepted_unix(stream, poll.registry(), Token(1)).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(
            socket.read(&mut buffer),
            Transfer::Blocked,
            "nothing was reported yet"
        );

        theirs.write_all(b"hello").unwrap();
        wait(&mut poll, &mut socket, Socket::is_readable);
        assert_eq!(socket.read(&mut buffer), Transfer::Bytes(5));
        assert!(!socket.is_readable());

        theirs.write_all(b"more").unwrap();
        drop(theirs);
        wait(&mut poll, &mut socket, Socket::is_read_closed);
        assert_eq!(socket.read(&mut buffer), Transfer::Bytes(4));
        assert_eq!(
            socket.read(&mut buffer),
            Transfer::End,
            "the end came with the last bytes"
        );
    }

    #[test]
    fn a_blocked_write_is_woken_when_the_peer_reads() {
        let mut poll = Poll::new().unwrap();
        let (mut theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = UnixStream::from_std(ours);
        let mut socket = Socket::accepted_unix(stream, poll.registry(), Token(1)).unwrap();
        let chunk = vec![7; 1 << 20];
        let mut sent = 0;
        while let Transfer::Bytes(count) = socket.write(&chunk) {
            sent += count;
        }
        socket.await_writable(poll.registry()).unwrap();
        let mut received = vec![0; sent];
        theirs.read_exact(&mut received).unwrap();
        wait(&mut poll, &mut socket, Socket::is_writable);
        assert!(matches!(socket.write(&chunk), Transfer::Bytes(_)));
    }
}
