//! The cheapest endpoint there is, for measurements: answers every request with as many bytes as
//! its path says (`/1024`), in one write, on one thread. Understands bodyless requests only.
//!
//! `origin ADDRESS…`, addresses as `host:port` or `unix:PATH`.

use std::collections::HashMap;
use std::error::Error;
use std::io::{ErrorKind, Read, Write};

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

struct Connection {
    stream: Stream,
    output: Vec<u8>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut poll = Poll::new()?;
    let mut listeners = Vec::new();
    for (index, address) in std::env::args().skip(1).enumerate() {
        let token = Token(index);
        listeners.push(match address.strip_prefix("unix:") {
            Some(path) => {
                let _ = std::fs::remove_file(path);
                let mut listener = UnixListener::bind(path)?;
                poll.registry()
                    .register(&mut listener, token, Interest::READABLE)?;
                Listener::Unix(listener)
            }
            None => {
                let mut listener = TcpListener::bind(address.parse()?)?;
                poll.registry()
                    .register(&mut listener, token, Interest::READABLE)?;
                Listener::Tcp(listener)
            }
        });
    }
    let mut connections: HashMap<usize, Connection> = HashMap::new();
    let mut next = listeners.len();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            let Token(index) = event.token();
            if let Some(listener) = listeners.get(index) {
                while let Some(mut stream) = accept(listener)? {
                    let both = Interest::READABLE | Interest::WRITABLE;
                    match &mut stream {
                        Stream::Tcp(s) => poll.registry().register(s, Token(next), both)?,
                        Stream::Unix(s) => poll.registry().register(s, Token(next), both)?,
                    }
                    connections.insert(
                        next,
                        Connection {
                            stream,
                            output: Vec::new(),
                        },
                    );
                    next += 1;
                }
            } else if let Some(connection) = connections.get_mut(&index)
                && !serve(connection, &mut buffer)
            {
                connections.remove(&index);
            }
        }
    }
}

fn accept(listener: &Listener) -> std::io::Result<Option<Stream>> {
    let accepted = match listener {
        Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
        Listener::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
    };
    match accepted {
        Ok(stream) => {
            if let Stream::Tcp(stream) = &stream {
                stream.set_nodelay(true)?;
            }
            Ok(Some(stream))
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads and answers what is there; false when the connection is over.
fn serve(connection: &mut Connection, buffer: &mut [u8]) -> bool {
    let (read, write): (&mut dyn Read, &mut dyn Write) = match &mut connection.stream {
        Stream::Tcp(stream) => (&mut &*stream, &mut &*stream),
        Stream::Unix(stream) => (&mut &*stream, &mut &*stream),
    };
    match read.read(buffer) {
        Ok(0) => return false,
        Ok(count) => {
            let target = buffer[..count]
                .split(|b| *b == b' ')
                .nth(1)
                .unwrap_or_default();
            let length = std::str::from_utf8(target.get(1..).unwrap_or_default())
                .ok()
                .and_then(|digits| digits.parse().ok())
                .unwrap_or(0);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                 Content-Length: {length}\r\n\r\n"
            );
            connection.output.extend_from_slice(head.as_bytes());
            connection
                .output
                .resize(connection.output.len() + length, b'x');
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(_) => return false,
    }
    if !connection.output.is_empty() {
        match write.write(&connection.output) {
            Ok(count) => drop(connection.output.drain(..count)),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
    true
}
