//! systemd's side of things: telling it how the program is doing (`Type=notify`, the watchdog), and
//! the listening sockets that it has opened for us. What the words mean is said in `sd_notify(3)` and
//! `sd_listen_fds(3)`; without systemd nothing here does anything.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use evener_edge::{ListenAddress, ListenerSpec};

use crate::sockets;

/// A way to tell systemd how we are doing.
pub(crate) struct Notifier {
    socket: UnixDatagram,
    address: UnixAddress,
    /// How often it wants to hear from us.
    watchdog: Option<Duration>,
    heard: Instant,
    ready: bool,
    reloading: bool,
    stopping: bool,
    said: String,
}

/// How the program is doing.
pub(crate) struct Condition {
    /// Requests can be served.
    pub(crate) serves: bool,
    /// Workers are being replaced.
    pub(crate) rolling: bool,
    /// The data plane answers.
    pub(crate) alive: bool,
    /// In words.
    pub(crate) status: String,
}

impl Notifier {
    /// If whoever started us wants to be told.
    pub(crate) fn from_environment() -> Option<Notifier> {
        let place = std::env::var_os("NOTIFY_SOCKET")?;
        let watchdog = std::env::var("WATCHDOG_USEC").ok();
        let watched = std::env::var("WATCHDOG_PID").ok();
        let ours = watched.is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = watchdog
            .filter(|_| ours)
            .and_then(|text| text.parse().ok())
            .filter(|micros| *micros > 0)
            // Twice as often as it must be.
            .map(|micros: u64| Duration::from_micros(micros) / 2);
        Some(Notifier {
            socket: UnixDatagram::unbound().ok()?,
            address: address(&place)?,
            watchdog,
            heard: Instant::now(),
            ready: false,
            reloading: false,
            stopping: false,
            said: String::new(),
        })
    }

    /// Tells what has changed; called a few times a second.
    pub(crate) fn look(&mut self, now: Instant, condition: &Condition) {
        if !self.ready && condition.serves {
            self.ready = true;
            self.send("READY=1");
        }
        if self.reloading && !condition.rolling {
            self.reloading = false;
            self.send("READY=1");
        }
        if condition.status != self.said {
            self.said.clone_from(&condition.status);
            self.send(&format!("STATUS={}", condition.status));
        }
        // A data plane that hangs is restarted as one that has ended.
        if condition.alive && self.is_due(now) {
            self.heard = now;
            self.send("WATCHDOG=1");
        }
    }

    /// Whether the watchdog wants to hear from us.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.watchdog.is_some_and(|every| now >= self.heard + every)
    }

    /// A reload begins.
    pub(crate) fn reloading(&mut self) {
        self.reloading = true;
        let micros = evener_vitals::monotonic_ns() / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The program stops.
    pub(crate) fn stopping(&mut self) {
        if !self.stopping {
            self.stopping = true;
            self.send("STOPPING=1");
        }
    }

    fn send(&self, words: &str) {
        // Whoever listened may have gone: that is no reason not to serve.
        let _ = self.socket.send_to_addr(words.as_bytes(), &self.address);
    }
}

/// The address of the socket: a path, or `@` and an abstract name.
fn address(place: &OsStr) -> Option<UnixAddress> {
    match place.as_bytes() {
        [b'@', name @ ..] => UnixAddress::from_abstract_name(name).ok(),
        _ => UnixAddress::from_pathname(place).ok(),
    }
}

/// Listening sockets that were opened for us.
#[derive(Default)]
pub(crate) struct Activated {
    sockets: Vec<Given>,
}

struct Given {
    number: RawFd,
    place: Place,
    /// Until it is taken.
    socket: Option<OwnedFd>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Other,
}

impl Activated {
    /// What whoever started us has opened for this process; an error is the message.
    pub(crate) fn take() -> Result<Activated, String> {
        let given = |socket: OwnedFd| Given {
            number: socket.as_raw_fd(),
            place: place(&socket),
            socket: Some(socket),
        };
        Ok(Activated {
            sockets: sockets::given()?
                .into_iter()
                .flat_map(|(sockets, _)| sockets)
                .map(given)
                .collect(),
        })
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// All of them, in the place of the listeners that a command line names.
    pub(crate) fn in_place_of(&mut self, wanted: Vec<ListenerSpec>) -> Vec<ListenerSpec> {
        let Some(first) = wanted.first().filter(|_| !self.sockets.is_empty()) else {
            return wanted;
        };
        let (name, tls) = (first.name.clone(), first.tls.clone());
        let (http2, relays) = (first.http2, first.relays.clone());
        let spec = |given: &mut Given| ListenerSpec {
            name: name.clone(),
            address: given.take(),
            tls: tls.clone(),
            http2,
            relays: relays.clone(),
        };
        self.sockets.iter_mut().map(spec).collect()
    }

    /// Has listeners of a file use the sockets on their addresses.
    pub(crate) fn lend(&mut self, wanted: &mut [ListenerSpec]) {
        for spec in wanted {
            let place = match &spec.address {
                ListenAddress::Tcp(address) => Place::Tcp(*address),
                ListenAddress::Unix(path) => Place::Unix(path.clone()),
                ListenAddress::Inherited { .. } => continue,
            };
            let given = self
                .sockets
                .iter_mut()
                .find(|given| given.place.serves(&place));
            if let Some(given) = given {
                spec.address = given.take();
            }
        }
    }

    /// Those that nobody has asked for.
    pub(crate) fn unused(&self, wanted: &[ListenerSpec]) -> Vec<String> {
        let named = |number| {
            wanted.iter().any(|spec| {
                matches!(&spec.address, ListenAddress::Inherited { number: other, .. } if *other == number)
            })
        };
        let unused = self.sockets.iter().filter(|given| !named(given.number));
        unused
            .map(|given| match &given.place {
                Place::Tcp(address) => format!("{address} (descriptor {})", given.number),
                Place::Unix(path) => {
                    format!("unix:{} (descriptor {})", path.display(), given.number)
                }
                Place::Other => format!("descriptor {}", given.number),
            })
            .collect()
    }
}

impl Place {
    /// Whether a socket here takes the connections that are wanted there. systemd listens for
    /// `ListenStream=80` on `[::]:80`, which takes those of IPv4 as well.
    fn serves(&self, wanted: &Place) -> bool {
        match (self, wanted) {
            (Place::Tcp(here), Place::Tcp(there)) => {
                here == there
                    || here.port() == there.port()
                        && here.ip().is_unspecified()
                        && here.is_ipv6()
                        && there.ip().is_unspecified()
            }
            _ => self == wanted,
        }
    }
}

impl Given {
    fn take(&mut self) -> ListenAddress {
        ListenAddress::Inherited {
            number: self.number,
            descriptor: self.socket.take(),
        }
    }
}

fn place(socket: &OwnedFd) -> Place {
    let Ok(copy) = socket.try_clone() else {
        return Place::Other;
    };
    let listener = std::net::TcpListener::from(copy);
    if let Ok(address) = listener.local_addr() {
        return Place::Tcp(address);
    }
    let listener = UnixListener::from(OwnedFd::from(listener));
    let path = listener
        .local_addr()
        .ok()
        .and_then(|address| address.as_pathname().map(PathBuf::from));
    path.map_or(Place::Other, Place::Unix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notifier(watchdog: Option<Duration>) -> (Notifier, UnixDatagram) {
        let name = format!("evener-notify-{}-{watchdog:?}", std::process::id());
        let address = address(OsStr::new(&format!("@{name}"))).unwrap();
        let theirs = UnixDatagram::bind_addr(&address).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let ours = Notifier {
            socket: UnixDatagram::unbound().unwrap(),
            address,
            watchdog,
            heard: Instant::now(),
            ready: false,
            reloading: false,
            stopping: false,
            said: String::new(),
        };
        (ours, theirs)
    }

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 256];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec()))
            .map(|bytes| String::from_utf8(bytes).unwrap())
            .collect()
    }

    fn condition(serves: bool, rolling: bool, alive: bool) -> Condition {
        Condition {
            serves,
            rolling,
            alive,
            status: "all is well".to_owned(),
        }
    }

    #[test]
    fn a_socket_for_both_families_serves_each() {
        let tcp = |text: &str| Place::Tcp(text.parse().unwrap());
        assert!(tcp("[::]:80").serves(&tcp("0.0.0.0:80")));
        assert!(!tcp("[::]:80").serves(&tcp("0.0.0.0:81")));
        assert!(!tcp("0.0.0.0:80").serves(&tcp("[::]:80")));
        assert!(tcp("127.0.0.1:80").serves(&tcp("127.0.0.1:80")));
        let unix = |path| Place::Unix(PathBuf::from(path));
        assert!(unix("/a").serves(&unix("/a")) && !unix("/a").serves(&unix("/b")));
    }

    #[test]
    fn readiness_is_told_once_and_a_reload_from_beginning_to_end() {
        let (mut notifier, socket) = notifier(None);
        let now = Instant::now();
        notifier.look(now, &condition(false, false, true));
        assert_eq!(heard(&socket), ["STATUS=all is well"]);
        notifier.look(now, &condition(true, false, true));
        notifier.look(now, &condition(true, false, true));
        assert_eq!(heard(&socket), ["READY=1"]);
        notifier.reloading();
        notifier.look(now, &condition(true, true, true));
        let words = heard(&socket);
        assert_eq!(words.len(), 1);
        assert!(words[0].starts_with("RELOADING=1\nMONOTONIC_USEC="));
        notifier.look(now, &condition(true, false, true));
        notifier.stopping();
        notifier.stopping();
        assert_eq!(heard(&socket), ["READY=1", "STOPPING=1"]);
    }

    #[test]
    fn the_watchdog_hears_of_a_data_plane_that_answers() {
        let every = Duration::from_secs(1);
        let (mut notifier, socket) = notifier(Some(every));
        let start = notifier.heard;
        notifier.look(start, &condition(true, false, true));
        heard(&socket);
        notifier.look(start + every, &condition(true, false, false));
        assert_eq!(heard(&socket), [""; 0], "it hangs");
        notifier.look(start + every, &condition(true, false, true));
        notifier.look(start + every, &condition(true, false, true));
        assert_eq!(heard(&socket), ["WATCHDOG=1"]);
    }
}
