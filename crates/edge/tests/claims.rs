//! Requests on their way to Evener workers, seen from the edge: taken back from a worker that
//! stands still or has died before it claimed them, and never sent twice once claimed. The workers
//! here are threads of the test that speak the protocol by hand, so that they can stop anywhere.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use evener_edge::{
    Cluster, Edge, EdgeConfig, EndpointAddress, EndpointId, EndpointSpec, ListenAddress, Share,
};
use evener_telemetry::{Telemetry, TelemetryConfig};
use evener_vitals::{Page, Preface, monotonic_ns};

/// A worker's socket and page, and what is needed to play the worker.
struct Worker {
    page: Arc<Page>,
    listener: UnixListener,
}

/// One request as the worker sees it.
struct Received {
    stream: BufReader<UnixStream>,
    slot: u32,
    sequence: u64,
    head: String,
}

impl Worker {
    /// Reads the next connection's preface and request, body included.
    fn receive(&self) -> Received {
        let (stream, _) = self.listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let (preface, _) = Preface::parse(line.as_bytes()).unwrap().unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0);
        }
        if head.contains("Content-Length: 4") {
            let mut body = [0; 4];
            stream.read_exact(&mut body).unwrap();
            assert_eq!(&body, b"body");
        }
        Received {
            stream,
            slot: preface.slot,
            sequence: preface.seq,
            head,
        }
    }

    fn claims(&self, received: &Received) -> bool {
        self.page.claim(received.slot, received.sequence)
    }
}

fn answer(received: &mut Received, text: &str) {
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    received
        .stream
        .get_mut()
        .write_all(response.as_bytes())
        .unwrap();
}

/// Two workers behind an edge; the first request goes to the first worker.
fn pair(name: &str) -> (Edge, SocketAddr, [Worker; 2]) {
    let folder = std::env::temp_dir().join(format!("evener-claims-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let cluster = Cluster::new("test", 100);
    let workers = [0, 1].map(|index| {
        let path: PathBuf = folder.join(format!("{index}.sock"));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let (page, _descriptor) = Page::create(16).unwrap();
        let page = Arc::new(page);
        page.writer().tick(monotonic_ns());
        cluster.add(EndpointSpec {
            id: EndpointId(index),
            name: format!("worker {index}"),
            address: EndpointAddress::Unix(path),
            in_flight_max: 100,
            connections_max: None,
            share: Share::default(),
            page: Some(page.clone()),
            terms: evener_edge::UpstreamTerms::default(),
            process: 0,
        });
        Worker { page, listener }
    });
    let listen = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
    let config = EdgeConfig::to_one(listen, cluster);
    let edge = Edge::start(config, &Telemetry::new(TelemetryConfig::default())).unwrap();
    let address = edge.addresses()[0]
        .strip_prefix("http://")
        .unwrap()
        .parse()
        .unwrap();
    (edge, address, workers)
}

/// Posts and returns the status line and the body, on a thread of its own.
fn post(address: SocketAddr) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
            .write_all(
                b"POST /order HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\n\
                body",
            )
            .unwrap();
        let mut whole = String::new();
        stream.read_to_string(&mut whole).unwrap();
        whole
    })
}

#[test]
fn a_standing_worker_loses_what_it_has_not_claimed() {
    let (edge, address, [first, second]) = pair("stall");
    let client = post(address);
    let received = first.receive();
    // The worker works on something else and its loop does not come round.
    first.page.writer().begin();
    first
        .page
        .writer()
        .tick(monotonic_ns().saturating_sub(1_000_000_000));
    let mut elsewhere = second.receive();
    assert!(second.claims(&elsewhere));
    assert!(
        elsewhere.head.starts_with("POST /order"),
        "{}",
        elsewhere.head
    );
    assert!(!first.claims(&received), "taken back for good");
    answer(&mut elsewhere, "second");
    assert!(client.join().unwrap().ends_with("second"));
    edge.stop();
}

#[test]
fn a_worker_that_was_stopped_while_idle_loses_its_requests_too() {
    let (edge, address, [first, second]) = pair("stopped");
    first
        .page
        .writer()
        .tick(monotonic_ns().saturating_sub(60_000_000_000));
    let client = post(address);
    let received = first.receive();
    let mut elsewhere = second.receive();
    assert!(second.claims(&elsewhere) && !first.claims(&received));
    answer(&mut elsewhere, "second");
    assert!(client.join().unwrap().ends_with("second"));
    edge.stop();
}

#[test]
fn a_busy_loop_that_still_ticks_keeps_its_requests() {
    let (edge, address, [first, second]) = pair("ticks");
    let client = post(address);
    let mut received = first.receive();
    first.page.writer().begin();
    // Ticks well ahead of the clock: this thread may itself be kept from running for a while.
    first.page.writer().tick(monotonic_ns() + 60_000_000_000);
    let until = monotonic_ns() + 300_000_000;
    while monotonic_ns() < until {
        thread::yield_now();
    }
    assert!(first.claims(&received), "nobody took it");
    answer(&mut received, "first");
    assert!(client.join().unwrap().ends_with("first"));
    second.listener.set_nonblocking(true).unwrap();
    assert!(
        second.listener.accept().is_err(),
        "the second worker never heard of it"
    );
    edge.stop();
}

#[test]
fn a_dead_worker_loses_what_it_has_not_claimed_and_keeps_what_it_has() {
    let (edge, address, [first, second]) = pair("dead");
    let client = post(address);
    drop(first.receive());
    let mut elsewhere = second.receive();
    assert!(second.claims(&elsewhere));
    answer(&mut elsewhere, "second");
    assert!(
        client.join().unwrap().ends_with("second"),
        "a POST that nobody saw goes again"
    );

    let client = post(address);
    let received = first.receive();
    assert!(first.claims(&received));
    drop(received);
    let answer = client.join().unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 502 "),
        "a POST that was begun does not: {answer}"
    );
    edge.stop();
}
