//! What is counted, sent to a statsd server once a second under gunicorn's names (`statsd_host`).
//!
//! Requests are counted where they are served; here only the sums are sent, a duration with how
//! often it occurred as its sampling rate, so that no request waits for a datagram.

use std::fmt::Write;
use std::io;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;

use evener_telemetry::{Snapshot, Telemetry};

/// Several metrics go into one datagram of at most this many bytes, which fits every network.
const DATAGRAM_BYTES_MAX: usize = 1200;
const STATUSES: std::ops::Range<u16> = 100..600;

/// A statsd server, and what it was told.
#[derive(Debug)]
pub(crate) struct Statsd {
    socket: Socket,
    prefix: String,
    /// Added to every metric, as DogStatsD has it.
    tags: String,
    /// Whether the length of the queue is told.
    backlog: bool,
    told: Option<Snapshot>,
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

/// What is not counted but looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Levels {
    pub(crate) workers: usize,
    pub(crate) queued: usize,
}

impl Statsd {
    /// To `HOST:PORT` or `unix://PATH`; an error if there is no such address.
    pub(crate) fn new(address: &str, prefix: &str, tags: &str, backlog: bool) -> io::Result<Self> {
        let socket = match address.strip_prefix("unix://") {
            Some(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_nonblocking(true)?;
                Socket::Unix(socket)
            }
            None => Socket::Udp(udp(address)?),
        };
        let prefix = match prefix.trim_end_matches('.') {
            "" => String::new(),
            prefix => format!("{prefix}."),
        };
        let tags = match tags {
            "" => String::new(),
            tags => format!("|#{tags}"),
        };
        Ok(Statsd {
            socket,
            prefix,
            tags,
            backlog,
            told: None,
        })
    }

    /// Tells what has happened since the last time.
    pub(crate) fn tell(&mut self, telemetry: &Telemetry, levels: Levels) {
        let now = telemetry.snapshot();
        let since = match &self.told {
            Some(told) => now.since(told),
            None => now.clone(),
        };
        self.told = Some(now);
        let mut lines = Vec::new();
        if since.requests_finished > 0 {
            lines.push(format!(
                "gunicorn.requests:{}|c|@1.0",
                since.requests_finished
            ));
        }
        for status in STATUSES {
            let count = since.status(status);
            if count > 0 {
                lines.push(format!("gunicorn.request.status.{status}:{count}|c|@1.0"));
            }
        }
        for (duration, count) in since.total.values() {
            let mut line = format!(
                "gunicorn.request.duration:{:.3}|ms",
                duration.as_secs_f64() * 1e3
            );
            if count > 1 {
                #[expect(clippy::cast_precision_loss)]
                let rate = 1.0 / count as f64;
                // A `String` takes every write.
                let _ = write!(line, "|@{rate:.9}");
            }
            lines.push(line);
        }
        lines.push(format!("gunicorn.workers:{}|g", levels.workers));
        if self.backlog {
            lines.push(format!("gunicorn.backlog:{}|h", levels.queued));
        }
        self.send(&lines);
    }

    fn send(&self, lines: &[String]) {
        let mut datagram = String::new();
        for line in lines {
            let (prefix, tags) = (&self.prefix, &self.tags);
            if datagram.len() + prefix.len() + line.len() + tags.len() > DATAGRAM_BYTES_MAX {
                self.send_datagram(&datagram);
                datagram.clear();
            }
            if !datagram.is_empty() {
                datagram.push('\n');
            }
            let _ = write!(datagram, "{prefix}{line}{tags}");
        }
        self.send_datagram(&datagram);
    }

    fn send_datagram(&self, datagram: &str) {
        // Nobody may listen: statsd is told into the void.
        let _ = match &self.socket {
            Socket::Udp(socket) => socket.send(datagram.as_bytes()),
            Socket::Unix(socket) => socket.send(datagram.as_bytes()),
        };
    }
}

fn udp(address: &str) -> io::Result<UdpSocket> {
    use std::net::ToSocketAddrs;
    let address = address
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::other("the name has no address"))?;
    let from = if address.is_ipv6() {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(from)?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use evener_telemetry::TelemetryConfig;

    use super::*;

    #[test]
    fn sums_are_told_once_and_under_gunicorns_names() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let address = server.local_addr().unwrap().to_string();
        let mut statsd = Statsd::new(&address, "shop..", "a:b", true).unwrap();
        let telemetry = Telemetry::new(TelemetryConfig::default());
        let mut shard = telemetry.shard();
        for _ in 0..4 {
            shard.request_started();
            shard.request_finished(Some(200), Duration::from_micros(7), None);
        }
        let levels = Levels {
            workers: 2,
            queued: 3,
        };
        let heard = |statsd: &mut Statsd| {
            statsd.tell(&telemetry, levels);
            let mut buffer = [0; 2000];
            let length = server.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!(
            heard(&mut statsd),
            "shop.gunicorn.requests:4|c|@1.0|#a:b\n\
             shop.gunicorn.request.status.200:4|c|@1.0|#a:b\n\
             shop.gunicorn.request.duration:0.008|ms|@0.250000000|#a:b\n\
             shop.gunicorn.workers:2|g|#a:b\n\
             shop.gunicorn.backlog:3|h|#a:b"
        );
        assert_eq!(
            heard(&mut statsd),
            "shop.gunicorn.workers:2|g|#a:b\nshop.gunicorn.backlog:3|h|#a:b"
        );
    }
}
