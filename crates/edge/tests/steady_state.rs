//! In steady state a request allocates nothing, and an idle connection keeps next to nothing:
//! counted by the allocator of this test program, in which client and origin allocate nothing
//! either once they run.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

use evener_edge::{
    Cluster, Conduct, Edge, EdgeConfig, EndpointAddress, EndpointId, EndpointSpec, ListenAddress,
    Share,
};
use evener_telemetry::{AccessFormat, AccessTemplate, Log, Telemetry, TelemetryConfig};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);
/// The tests of this file count over the whole process, so they take turns.
static TURN: Mutex<()> = Mutex::new(());

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        LIVE_BYTES.fetch_add(layout.size() as i64, SeqCst);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as i64, SeqCst);
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Answers every request on every connection with `response`, without allocating.
fn origin(response: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                    if stream.write_all(response).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn edge(endpoints: &[SocketAddr]) -> (Edge, SocketAddr) {
    edge_with(endpoints, &Telemetry::new(TelemetryConfig::default()))
}

fn edge_with(endpoints: &[SocketAddr], telemetry: &Telemetry) -> (Edge, SocketAddr) {
    let cluster = Cluster::new("test", 100);
    for (index, address) in endpoints.iter().enumerate() {
        cluster.add(EndpointSpec {
            id: EndpointId(index as u64),
            name: address.to_string(),
            address: EndpointAddress::Tcp(*address),
            in_flight_max: 1000,
            connections_max: None,
            share: Share::default(),
            page: None,
            terms: evener_edge::UpstreamTerms::default(),
            process: 0,
        });
    }
    let listen = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
    let config = EdgeConfig::to_one(listen, cluster);
    let edge = Edge::start(config, telemetry).unwrap();
    let address = edge.addresses()[0]
        .strip_prefix("http://")
        .unwrap()
        .parse()
        .unwrap();
    (edge, address)
}

/// Sends `request` and reads until `expected` bytes have come.
fn exchange(stream: &mut TcpStream, request: &[u8], expected: usize) {
    stream.write_all(request).unwrap();
    let mut buffer = [0; 32 * 1024];
    let mut received = 0;
    while received < expected {
        let count = stream.read(&mut buffer).unwrap();
        assert!(
            count > 0,
            "the connection ended after {received} of {expected} bytes"
        );
        received += count;
    }
    assert_eq!(received, expected);
}

/// Length of the first response, learnt from a connection of its own that closes after it.
fn response_length(address: SocketAddr, request: &str) -> usize {
    let mut stream = TcpStream::connect(address).unwrap();
    let closing = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    stream.write_all(closing.as_bytes()).unwrap();
    let mut whole = Vec::new();
    stream.read_to_end(&mut whole).unwrap();
    whole.len() - b"Connection: close\r\n".len()
}

/// 1 KiB of body.
fn usual_response() -> &'static [u8] {
    const BODY: usize = 1024;
    let mut response = format!("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: {BODY}\r\n\r\n");
    response.extend(std::iter::repeat_n('x', BODY));
    response.leak().as_bytes()
}

/// What the thread that writes the access log may allocate while thousands of lines are written: it
/// looks at its list of shards each time it wakes.
const WRITER_ALLOCATIONS_MAX: u64 = 400;

/// Insists that these requests, one after the other on several connections, allocate nothing.
fn allocate_nothing(address: SocketAddr, requests: &[&str]) {
    allocate_now_and_then(address, requests, 0);
}

/// Insists that they allocate at most so often.
fn allocate_now_and_then(address: SocketAddr, requests: &[&str], most: u64) {
    let expected: Vec<usize> = requests
        .iter()
        .map(|request| response_length(address, request))
        .collect();
    let mut streams: Vec<TcpStream> = (0..8)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let mut round = |rounds: usize| {
        for _ in 0..rounds {
            for stream in &mut streams {
                for (request, expected) in requests.iter().zip(&expected) {
                    exchange(stream, request.as_bytes(), *expected);
                }
            }
        }
    };
    round(200);
    let before = ALLOCATIONS.load(SeqCst);
    round(1000);
    let allocations = ALLOCATIONS.load(SeqCst) - before;
    // The text of Date is made anew once a second into the same buffer; nothing else may happen.
    assert!(allocations <= most, "{allocations} in 8,000 rounds");
}

#[test]
fn requests_allocate_nothing() {
    let _turn = TURN.lock().unwrap();
    let response = usual_response();
    let (edge, address) = edge(&[origin(response), origin(response)]);
    let request = "GET /a/path?with=query HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\
        User-Agent: test\r\nCookie: a=b; c=d\r\n\r\n";
    allocate_nothing(address, &[request]);
    edge.stop();
}

/// An access log that shows header fields of requests and responses, as gunicorn's does.
#[test]
fn logged_requests_allocate_nothing() {
    let _turn = TURN.lock().unwrap();
    let response = usual_response();
    let format = "%(h)s %(t)s \"%(r)s\" %(s)s %(b)s \"%(f)s\" \"%(a)s\" %({date}o)s %(D)s";
    let template = AccessTemplate::parse(format, 3600).unwrap();
    let format = AccessFormat::Template(Arc::new(template));
    let telemetry = Telemetry::with_access_sink(Log::default(), format, Box::new(std::io::sink()));
    let (edge, address) = edge_with(&[origin(response), origin(response)], &telemetry);
    let request = "GET /a/path?with=query HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\
        User-Agent: test\r\nReferer: http://example.com/\r\n\r\n";
    allocate_now_and_then(address, &[request], WRITER_ALLOCATIONS_MAX);
    edge.stop();
    telemetry.finish();
}

/// Two clusters, and routes that look at everything a route can look at.
#[test]
fn routed_requests_allocate_nothing() {
    let _turn = TURN.lock().unwrap();
    let response = usual_response();
    let text = "[[listener]]\naddress = \"127.0.0.1:1\"\n\
        [[route]]\nhost = \"a.test\"\npath = \"/api\"\ncluster = \"a\"\n\
        [[route]]\npath = { regex = \"^/v[0-9]+/(.*)[.]json$\" }\ncluster = \"b\"\n\
        [[route]]\nhost = \"*.test\"\nmethod = \"GET\"\nheader = { X-A = \"1\" }\n\
        query = { q = { regex = \"^x\" } }\ncluster = \"b\"\n\
        [cluster.a]\npolicy = { hash = \"$cookie_user$host\", consistent = true }\nendpoints = [\"127.0.0.1:1\"]\n\
        [cluster.b]\npolicy = \"ip_hash\"\nendpoints = [\"127.0.0.1:1\"]\n";
    let file = evener_config::read("f", text, &|_| None).unwrap();
    let clusters: Vec<_> = file
        .clusters
        .iter()
        .enumerate()
        .map(|(number, settings)| {
            let cluster = Cluster::new(&settings.name, 100);
            let mut conduct = Conduct::WORKERS;
            conduct.balance.method = settings.method;
            cluster.set_conduct(conduct);
            for index in 0..2 {
                cluster.add(EndpointSpec {
                    id: EndpointId(10 * number as u64 + index),
                    name: index.to_string(),
                    address: EndpointAddress::Tcp(origin(response)),
                    in_flight_max: 0,
                    connections_max: None,
                    share: Share::default(),
                    page: None,
                    terms: evener_edge::UpstreamTerms::default(),
                    process: 0,
                });
            }
            cluster
        })
        .collect();
    let listen = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
    let config = EdgeConfig {
        routes: file.routes,
        clusters: clusters.clone(),
        ..EdgeConfig::to_one(listen, clusters[0].clone())
    };
    let edge = Edge::start(config, &Telemetry::new(TelemetryConfig::default())).unwrap();
    let address = edge.addresses()[0]
        .strip_prefix("http://")
        .unwrap()
        .parse()
        .unwrap();
    allocate_nothing(
        address,
        &[
            "GET /x/%2e%2e/api/path HTTP/1.1\r\nHost: A.test:80\r\nCookie: user=me\r\n\r\n",
            "GET /v1/a.json HTTP/1.1\r\nHost: other\r\n\r\n",
            "GET /?q=xy HTTP/1.1\r\nHost: b.test\r\nX-A: 1\r\n\r\n",
        ],
    );
    for cluster in clusters {
        let endpoints = cluster.snapshot().endpoints;
        let requests: u64 = endpoints.iter().map(|endpoint| endpoint.requests).sum();
        assert!(requests > 8_000, "{} got {requests}", cluster.name());
    }
    edge.stop();
}

#[test]
fn idle_connections_keep_little() {
    const COUNT: usize = 5_000;
    let _turn = TURN.lock().unwrap();
    raise_descriptor_limit();
    let response = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok";
    let (edge, address) = edge(&[origin(response)]);
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let expected = response_length(address, request);
    let mut streams = Vec::with_capacity(COUNT);
    let before = LIVE_BYTES.load(SeqCst);
    for _ in 0..COUNT {
        let mut stream = TcpStream::connect(address).unwrap();
        exchange(&mut stream, request.as_bytes(), expected);
        streams.push(stream);
    }
    assert_eq!(edge.connections(), COUNT);
    let each = (LIVE_BYTES.load(SeqCst) - before) / COUNT as i64;
    println!("{each} bytes for each idle keep-alive connection");
    assert!(each <= 1024, "{each} bytes for each idle connection");
    edge.stop();
}

/// Both ends of 5,000 connections live in this process.
fn raise_descriptor_limit() {
    let (soft, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap();
    let wanted = 16_384.min(hard);
    if soft < wanted {
        rlimit::setrlimit(rlimit::Resource::NOFILE, wanted, hard).unwrap();
    }
}
