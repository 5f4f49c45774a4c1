//! The listening sockets of one run, made before the data plane so that they can be handed on: to
//! a newer program (SIGUSR2), or from whoever started this one (systemd, an older program).

use std::ffi::CString;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use evener_edge::{Http2Terms, ListenAddress, ListenerSpec, Relays};
use evener_net::ServerTls;

/// The variable by which a newer program learns of its descriptors.
pub(crate) const INHERITED: &str = "EVENER_FD";
/// The variable by which it learns whom it takes over from.
pub(crate) const OLDER: &str = "EVENER_PID";
/// systemd's first descriptor.
const FIRST_GIVEN: RawFd = 3;

/// Where to listen, as gunicorn's `bind` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
    Descriptor(RawFd),
}

/// Who owns a unix socket, and who may use it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) umask: u32,
}

/// The sockets of a run.
#[derive(Debug)]
pub(crate) struct Sockets {
    sockets: Vec<OwnedFd>,
    /// Files of unix sockets that we have made.
    paths: Vec<PathBuf>,
    origin: Origin,
    /// Whose connections begin with a header of the PROXY protocol.
    relays: Option<Relays>,
}

/// Where the sockets come from, which decides who removes the files of unix sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Made,
    /// From an older program: its affair until it is gone.
    Older,
    /// From whoever started us, who keeps them.
    Given,
}

/// Marks descriptors, among those of an older program, that it was given itself.
const GIVEN: &str = "given:";

impl Address {
    /// Reads one address; an error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(Address::Unix(PathBuf::from(path)));
        }
        if let Some(number) = text.strip_prefix("fd://") {
            let number = number
                .parse()
                .map_err(|_| format!("`{text}` names no descriptor"))?;
            return Ok(Address::Descriptor(number));
        }
        let text = text.strip_prefix("tcp://").unwrap_or(text);
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':').unwrap_or("8000")),
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => ("0.0.0.0", text),
            None => text.split_once(':').unwrap_or((text, "8000")),
        };
        let port = port
            .parse()
            .map_err(|_| format!("`{text}` has no valid port"))?;
        let host = if host.is_empty() { "0.0.0.0" } else { host }.to_owned();
        Ok(Address::Tcp { host, port })
    }
}

impl Sockets {
    /// Takes over what we were started with, or makes new ones.
    pub(crate) fn open(
        addresses: &[Address],
        backlog: u32,
        owner: Owner,
    ) -> Result<Sockets, String> {
        let file = |address: &Address| match address {
            Address::Unix(path) => Some(path.clone()),
            Address::Tcp { .. } | Address::Descriptor(_) => None,
        };
        let paths = addresses.iter().filter_map(file).collect();
        if let Some((sockets, origin)) = given()? {
            return Ok(Sockets {
                sockets,
                paths,
                origin,
                relays: None,
            });
        }
        let mut sockets = Vec::new();
        for address in addresses {
            match address {
                Address::Descriptor(number) => sockets.push(inherit(*number)?),
                Address::Unix(path) => {
                    sockets.push(unix(path, backlog, owner).map_err(|error| {
                        format!("cannot listen on unix:{}: {error}", path.display())
                    })?);
                }
                Address::Tcp { host, port } => {
                    for address in resolve(host, *port)? {
                        sockets.push(tcp(address, backlog)?);
                    }
                }
            }
        }
        Ok(Sockets {
            sockets,
            paths,
            origin: Origin::Made,
            relays: None,
        })
    }

    /// Whose connections begin with a header of the PROXY protocol from now on.
    pub(crate) fn set_relays(&mut self, relays: Option<Relays>) {
        self.relays = relays;
    }

    /// For the data plane: handles of its own, on which clients speak TLS if they should.
    pub(crate) fn specs(
        &self,
        tls: Option<&Arc<ServerTls>>,
        http2: Option<Http2Terms>,
    ) -> io::Result<Vec<ListenerSpec>> {
        let duplicate = |socket: &OwnedFd| {
            Ok(ListenerSpec {
                name: "listener".to_owned(),
                address: ListenAddress::Inherited {
                    number: socket.as_raw_fd(),
                    descriptor: Some(socket.try_clone()?),
                },
                tls: tls.cloned(),
                http2,
                relays: self.relays.clone(),
            })
        };
        self.sockets.iter().map(duplicate).collect()
    }

    /// Their numbers.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        self.sockets.iter().map(AsRawFd::as_raw_fd).collect()
    }

    /// What a newer program is told about them.
    pub(crate) fn inheritance(&self) -> String {
        let numbers: Vec<String> = self.descriptors().iter().map(RawFd::to_string).collect();
        let given = if self.origin == Origin::Given {
            GIVEN
        } else {
            ""
        };
        format!("{given}{}", numbers.join(","))
    }

    /// Whoever had them before is gone: they are ours.
    pub(crate) fn adopt(&mut self) {
        if self.origin == Origin::Older {
            self.origin = Origin::Made;
        }
    }

    /// Removes the files of unix sockets, if they are ours.
    pub(crate) fn clear(&self) {
        if self.origin != Origin::Made {
            return;
        }
        for path in &self.paths {
            // It may have been removed or replaced by somebody else.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Descriptors that whoever started us says we have.
pub(crate) fn given() -> Result<Option<(Vec<OwnedFd>, Origin)>, String> {
    if let Ok(list) = std::env::var(INHERITED) {
        let (numbers, origin) = match list.strip_prefix(GIVEN) {
            Some(numbers) => (numbers, Origin::Given),
            None => (list.as_str(), Origin::Older),
        };
        let wrong = |_| format!("${INHERITED} is `{list}`");
        let taken = numbers
            .split(',')
            .map(|number| inherit(number.parse().map_err(wrong)?));
        return Ok(Some((taken.collect::<Result<_, _>>()?, origin)));
    }
    let ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let count = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|count| count.parse().ok());
    let count: RawFd = if ours { count.unwrap_or(0) } else { 0 };
    if count <= 0 {
        return Ok(None);
    }
    let taken: Result<Vec<OwnedFd>, String> =
        (FIRST_GIVEN..FIRST_GIVEN + count).map(inherit).collect();
    Ok(Some((taken?, Origin::Given)))
}

/// Takes over a descriptor that this program was started with.
pub(crate) fn inherit(number: RawFd) -> Result<OwnedFd, String> {
    // SAFETY: plain numbers; the flag keeps the descriptor out of the workers.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        let error = io::Error::last_os_error();
        return Err(format!(
            "descriptor {number}: this program was started without it: {error}"
        ));
    }
    // SAFETY: it is open, as was just seen, and was given to us by number by whoever started us,
    // so nothing of ours owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let mut addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("cannot listen on {host}:{port}: no such address: {error}"))?
        .collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

fn tcp(address: SocketAddr, backlog: u32) -> Result<OwnedFd, String> {
    let listen = || {
        let listener = TcpListener::bind(address)?;
        relisten(&listener, backlog)?;
        Ok(OwnedFd::from(listener))
    };
    listen().map_err(|error: io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => "; stop the program that uses it, or choose another port",
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 need root or CAP_NET_BIND_SERVICE"
            }
            _ => "",
        };
        format!("cannot listen on {address}: {error}{advice}")
    })
}

fn unix(path: &Path, backlog: u32, owner: Owner) -> io::Result<OwnedFd> {
    use std::os::unix::fs::FileTypeExt;
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket is in its place",
            ));
        }
        // As gunicorn does: whoever listened there has gone, or makes way.
        std::fs::remove_file(path)?;
    }
    // SAFETY: plain numbers; nothing else of ours makes files while the mask is another.
    let before = unsafe { libc::umask(owner.umask as libc::mode_t) };
    let bound = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    let listener = bound?;
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `name` is a string that lives until the call returns. Without the right to give
    // files away it stays ours.
    unsafe { libc::chown(name.as_ptr(), owner.uid, owner.gid) };
    relisten(&listener, backlog)?;
    Ok(OwnedFd::from(listener))
}

/// Changes the length of a listener's queue.
fn relisten(listener: &impl AsRawFd, backlog: u32) -> io::Result<()> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: the descriptor is open for as long as `listener` lives.
    if unsafe { libc::listen(listener.as_raw_fd(), backlog) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_gunicorn_reads_them() {
        let tcp = |host: &str, port| {
            let host = host.to_owned();
            Ok(Address::Tcp { host, port })
        };
        assert_eq!(Address::parse("127.0.0.1:81"), tcp("127.0.0.1", 81));
        assert_eq!(Address::parse("0.0.0.0"), tcp("0.0.0.0", 8000));
        assert_eq!(Address::parse(":81"), tcp("0.0.0.0", 81));
        assert_eq!(Address::parse("81"), tcp("0.0.0.0", 81));
        assert_eq!(Address::parse("[::1]:81"), tcp("::1", 81));
        assert_eq!(Address::parse("[::]"), tcp("::", 8000));
        assert_eq!(Address::parse("tcp://a:81"), tcp("a", 81));
        let unix = |path| Ok(Address::Unix(PathBuf::from(path)));
        assert_eq!(Address::parse("unix:/run/a"), unix("/run/a"));
        assert_eq!(Address::parse("unix:///run/a"), unix("/run/a"));
        assert_eq!(Address::parse("fd://3"), Ok(Address::Descriptor(3)));
        assert!(Address::parse("a:b").is_err());
        assert!(Address::parse("a:99999").is_err());
        assert!(Address::parse("fd://x").is_err());
    }
}
