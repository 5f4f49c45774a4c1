//! Listening sockets: bound once, before any shard runs, then shared out to the shards.
//!
//! A TCP address gets one `SO_REUSEPORT` listener per shard, and the kernel spreads connections by
//! their addresses. Unix sockets and inherited descriptors exist once; the shards share them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use rustls::ServerConfig;
use socket2::{Domain, SockAddr, Type};

use crate::certificates::ServerTls;
use crate::tcp_options;

/// A listening socket that no shard has taken yet.
#[derive(Debug)]
pub struct BoundListener {
    socket: socket2::Socket,
    unix_path: Option<PathBuf>,
    tls: Option<Arc<ServerTls>>,
    inherited: bool,
}

/// A listening socket of one shard.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    token: Token,
    tls: Option<Arc<ServerTls>>,
    /// Somebody else opened it, and clients may have come before it got our options.
    inherited: bool,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// One accepted connection.
#[derive(Debug)]
pub enum Accepted {
    /// Over TCP, with the client's address.
    Tcp(TcpStream, SocketAddr),
    /// Over TCP, with the client's address; the client will speak TLS on these terms.
    Tls(TcpStream, SocketAddr, Arc<ServerConfig>),
    /// Over a unix socket.
    Unix(UnixStream),
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub struct ListenError {
    /// The address as people write it.
    pub address: String,
    /// What the system said.
    pub cause: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.cause)?;
        match self.cause.kind() {
            io::ErrorKind::AddrInUse => {
                f.write_str("; stop the program that uses it, or choose another port")
            }
            io::ErrorKind::PermissionDenied => {
                f.write_str("; ports below 1024 need root or CAP_NET_BIND_SERVICE")
            }
            io::ErrorKind::AddrNotAvailable => {
                f.write_str("; no interface of this machine has that address")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ListenError {}

impl BoundListener {
    /// Listens on a TCP address. With `shared`, several listeners of this process can have it.
    pub fn tcp(address: SocketAddr, backlog: u32, shared: bool) -> Result<Self, ListenError> {
        let listen = || {
            let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(shared)?;
            if address.is_ipv6() {
                socket.set_only_v6(false)?;
            }
            socket.bind(&SockAddr::from(address))?;
            // Before any client comes: Linux hands them on to accepted connections, which saves
            // system calls for each.
            tcp_options::set(&socket, address)?;
            socket.listen(backlog.min(i32::MAX as u32) as i32)?;
            Ok(socket)
        };
        match listen() {
            Ok(socket) => Ok(BoundListener {
                socket,
                unix_path: None,
                tls: None,
                inherited: false,
            }),
            Err(cause) => Err(ListenError {
                address: address.to_string(),
                cause,
            }),
        }
    }

    /// Listens on a unix socket path, open to every user of the machine as uvicorn's is. A socket
    /// file that nobody listens on any more is replaced; anything else in its place is an error.
    pub fn unix(path: &Path, backlog: u32) -> Result<Self, ListenError> {
        let listen = || {
            remove_stale_socket(path)?;
            let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            std::fs::set_permissions(path, open)?;
            socket.listen(backlog.min(i32::MAX as u32) as i32)?;
            Ok(socket)
        };
        match listen() {
            Ok(socket) => Ok(BoundListener {
                socket,
                unix_path: Some(path.to_owned()),
                tls: None,
                inherited: false,
            }),
            Err(cause) => Err(ListenError {
                address: format!("unix:{}", path.display()),
                cause,
            }),
        }
    }

    /// Takes over a descriptor that listens already.
    pub fn inherited(descriptor: OwnedFd) -> Result<Self, ListenError> {
        let number = descriptor.as_raw_fd();
        let socket = socket2::Socket::from(descriptor);
        let check = || {
            if socket.is_listener()? {
                return Ok(());
            }
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a listening socket",
            ))
        };
        match check() {
            Ok(()) => Ok(BoundListener {
                socket,
                unix_path: None,
                tls: None,
                inherited: true,
            }),
            Err(cause) => Err(ListenError {
                address: format!("fd:{number}"),
                cause,
            }),
        }
    }

    /// The same, for clients that speak TLS. Over unix sockets nobody does; there it changes
    /// nothing.
    #[must_use]
    pub fn with_tls(mut self, tls: Arc<ServerTls>) -> BoundListener {
        self.tls = Some(tls);
        self
    }

    /// Whether its clients speak TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The TCP address, with the port that was given for port 0; `None` for a unix socket.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.socket
            .local_addr()
            .ok()
            .and_then(|address| address.as_socket())
    }

    /// The path that this process bound, for removing it at the end.
    pub fn unix_path(&self) -> Option<&Path> {
        self.unix_path.as_deref()
    }

    /// A second handle on the same listening socket, for another shard.
    pub fn try_clone(&self) -> io::Result<BoundListener> {
        let socket = self.socket.try_clone()?;
        Ok(BoundListener {
            socket,
            unix_path: self.unix_path.clone(),
            tls: self.tls.clone(),
            inherited: self.inherited,
        })
    }

    /// Hands the socket to a shard.
    pub fn register(self, registry: &Registry, token: Token) -> io::Result<Listener> {
        self.socket.set_nonblocking(true)?;
        let address = self.tcp_address();
        if let Some(address) = address {
            tcp_options::set(&self.socket, address)?;
        }
        let descriptor = OwnedFd::from(self.socket);
        let mut kind = if address.is_some() {
            Kind::Tcp(TcpListener::from_std(descriptor.into()))
        } else {
            Kind::Unix(UnixListener::from_std(descriptor.into()))
        };
        kind.source()
            .register(registry, token, Interest::READABLE)?;
        Ok(Listener {
            kind,
            token,
            tls: self.tls,
            inherited: self.inherited,
        })
    }
}

impl Listener {
    /// The token its events carry.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Has no more events. Closing is not enough: another process, or another part of this one, may
    /// have the same socket, for whose sake the system would go on telling us.
    pub fn deregister(mut self, registry: &Registry) {
        // A registry that is gone has nothing to tell.
        let _ = registry.deregister(self.kind.source());
    }

    /// The next waiting connection; `WouldBlock` when there is none.
    pub fn accept(&self) -> io::Result<Accepted> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                if self.inherited {
                    tcp_options::set(&stream, address)?;
                }
                Ok(match &self.tls {
                    None => Accepted::Tcp(stream, address),
                    Some(tls) => Accepted::Tls(stream, address, tls.config()),
                })
            }
            Kind::Unix(listener) => listener.accept().map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

impl Kind {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Kind::Tcp(listener) => listener,
            Kind::Unix(listener) => listener,
        }
    }
}

fn remove_stale_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is no socket is in its place",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(_) => std::fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_said_plainly() {
        let first = BoundListener::tcp("127.0.0.1:0".parse().unwrap(), 16, false).unwrap();
        let address = first.tcp_address().unwrap();
        let error = BoundListener::tcp(address, 16, false).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(error.to_string().contains("another port"), "{error}");
    }

    #[test]
    fn stale_socket_files_are_replaced_and_live_ones_are_not() {
        let folder = std::env::temp_dir().join(format!("evener-net-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s");
        drop(BoundListener::unix(&path, 16).unwrap());
        let live = BoundListener::unix(&path, 16).unwrap();
        assert!(
            BoundListener::unix(&path, 16).is_err(),
            "somebody listens there"
        );
        drop(live);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(BoundListener::unix(&path, 16).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn only_listening_descriptors_are_inherited() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(BoundListener::inherited(one.into()).is_err());
    }
}
