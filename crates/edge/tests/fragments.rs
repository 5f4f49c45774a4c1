//! Requests and responses of every framing, cut into pieces at random places on both sides and
//! pipelined at random, come through whole and in order. Every run prints its seed on failure.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use evener_edge::{
    Cluster, Edge, EdgeConfig, EndpointAddress, EndpointId, EndpointSpec, ListenAddress, Share,
};
use evener_http1::{
    BodyDecoder, Fields, Framing, HeadLimits, parse_request, parse_response, write,
};
use evener_telemetry::{Telemetry, TelemetryConfig};

/// SplitMix64.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    /// Mostly small, sometimes larger than any buffer of the edge.
    fn body_length(&mut self) -> usize {
        match self.below(12) {
            0 => 0,
            1 => 200_000 + self.below(700_000),
            2 | 3 => 10_000 + self.below(80_000),
            _ => self.below(3_000),
        }
    }

    /// Writes `bytes` in pieces.
    fn write(&mut self, stream: &mut TcpStream, bytes: &[u8]) {
        let mut rest = bytes;
        let whole = self.below(3) == 0;
        while !rest.is_empty() {
            let most = if whole {
                rest.len()
            } else {
                1 + self.below(rest.len().min(20_000))
            };
            stream.write_all(&rest[..most]).unwrap();
            rest = &rest[most..];
            if self.below(4) == 0 {
                thread::yield_now();
            }
        }
    }
}

/// The body that belongs to a number: both sides can tell whether it came through.
fn body(number: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index * 31 + number * 7 + index / 251) as u8)
        .collect()
}

fn push_chunked(random: &mut Seeded, out: &mut Vec<u8>, body: &[u8]) {
    let mut rest = body;
    while !rest.is_empty() {
        let length = 1 + random.below(rest.len().min(9_000));
        write::chunk_start(out, length);
        out.extend_from_slice(&rest[..length]);
        out.extend_from_slice(b"\r\n");
        rest = &rest[length..];
    }
    write::last_chunk(out, b"X-Trailer: yes\r\n");
}

/// Reads one message body from `stream` and the bytes already `read`.
fn read_body(stream: &mut TcpStream, read: &mut Vec<u8>, framing: Framing) -> Vec<u8> {
    let mut decoder = BodyDecoder::new(framing);
    let mut data = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while !decoder.is_done() {
        if read.is_empty() {
            let count = stream.read(&mut buffer).unwrap();
            if count == 0 {
                assert!(decoder.is_until_close(), "the body was cut short");
                break;
            }
            read.extend_from_slice(&buffer[..count]);
        }
        let piece = decoder.decode(read).unwrap();
        data.extend_from_slice(&read[piece.data.clone()]);
        read.drain(..piece.consumed);
    }
    data
}

/// Answers `POST /NUMBER/LENGTH` with the body of that number, after checking the request's body.
fn origin(seed: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (connection, stream) in listener.incoming().enumerate() {
            let random = Seeded(seed ^ (connection as u64) << 32);
            thread::spawn(move || serve(stream.unwrap(), random));
        }
    });
    address
}

fn serve(mut stream: TcpStream, mut random: Seeded) {
    stream.set_nodelay(true).unwrap();
    let mut read = Vec::new();
    let mut buffer = [0; 8192];
    let mut fields = Fields::new();
    loop {
        let head = loop {
            if let Some(head) =
                parse_request(&read, &mut fields, &HeadLimits::default()).expect("a valid head")
            {
                break head;
            }
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => read.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        };
        let target = String::from_utf8(head.target.of(&read).to_vec()).unwrap();
        read.drain(..head.length);
        let numbers: Vec<usize> = target[1..].split('/').map(|n| n.parse().unwrap()).collect();
        let received = read_body(&mut stream, &mut read, head.framing);
        assert!(
            received == body(numbers[0], received.len()),
            "request {target} was mangled"
        );
        assert_eq!(received.len(), numbers[1], "request {target}");
        let answer = body(numbers[0] + 1, numbers[2]);
        let mut out = Vec::new();
        if random.below(8) == 0 {
            out.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        }
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        let close = match random.below(6) {
            0 => {
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(&answer);
                true
            }
            1 | 2 => {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                push_chunked(&mut random, &mut out, &answer);
                false
            }
            _ => {
                write::field(
                    &mut out,
                    b"Content-Length",
                    answer.len().to_string().as_bytes(),
                );
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(&answer);
                false
            }
        };
        random.write(&mut stream, &out);
        if close {
            return;
        }
    }
}

fn run(seed: u64, edge: SocketAddr) {
    let mut random = Seeded(seed);
    let mut stream = TcpStream::connect(edge).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut number = 0;
    for _ in 0..6 {
        let mut requests = Vec::new();
        let mut wanted = Vec::new();
        for _ in 0..1 + random.below(3) {
            number += 1;
            let (sent, answered) = (random.body_length(), random.body_length());
            let content = body(number, sent);
            let line = format!("POST /{number}/{sent}/{answered} HTTP/1.1\r\nHost: a\r\n");
            requests.extend_from_slice(line.as_bytes());
            if random.below(2) == 0 {
                requests.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                push_chunked(&mut random, &mut requests, &content);
            } else {
                requests.extend_from_slice(format!("Content-Length: {sent}\r\n\r\n").as_bytes());
                requests.extend_from_slice(&content);
            }
            wanted.push((number, answered));
        }
        let mut writer = stream.try_clone().unwrap();
        let write_seed = random.below(usize::MAX) as u64;
        let sender = thread::spawn(move || Seeded(write_seed).write(&mut writer, &requests));
        let mut read = Vec::new();
        for (number, answered) in wanted {
            let received = read_response(&mut stream, &mut read, seed);
            assert_eq!(received.len(), answered, "seed {seed}, request {number}");
            assert!(
                received == body(number + 1, answered),
                "seed {seed}, request {number}"
            );
        }
        assert!(read.is_empty(), "seed {seed}: bytes that answer nothing");
        sender.join().unwrap();
    }
}

fn read_response(stream: &mut TcpStream, read: &mut Vec<u8>, seed: u64) -> Vec<u8> {
    let mut fields = Fields::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match parse_response(read, &mut fields, &HeadLimits::default(), false) {
            Ok(Some(head)) => {
                read.drain(..head.length);
                if head.is_interim() {
                    continue;
                }
                assert_eq!(head.status, 200, "seed {seed}: {}", read.escape_ascii());
                assert!(head.keep_alive, "seed {seed}");
                return read_body(stream, read, head.framing);
            }
            Ok(None) => {
                let count = stream.read(&mut buffer).unwrap();
                assert!(count > 0, "seed {seed}: the connection ended");
                read.extend_from_slice(&buffer[..count]);
            }
            Err(error) => panic!("seed {seed}: {error} in {}", read.escape_ascii()),
        }
    }
}

#[test]
fn every_framing_survives_every_fragmentation() {
    let cluster = Cluster::new("test", 100);
    for index in 0..2 {
        cluster.add(EndpointSpec {
            id: EndpointId(index),
            name: format!("origin {index}"),
            address: EndpointAddress::Tcp(origin(index + 1)),
            in_flight_max: 3,
            connections_max: None,
            share: Share::default(),
            page: None,
            terms: evener_edge::UpstreamTerms::default(),
            process: 0,
        });
    }
    let listen = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
    let config = EdgeConfig {
        shards: 2,
        ..EdgeConfig::to_one(listen, cluster.clone())
    };
    let telemetry = Telemetry::new(TelemetryConfig::default());
    let edge = Edge::start(config, &telemetry).unwrap();
    let address: SocketAddr = edge.addresses()[0]
        .strip_prefix("http://")
        .unwrap()
        .parse()
        .unwrap();
    for batch in 0..5 {
        let clients: Vec<_> = (0..16)
            .map(|client| thread::spawn(move || run(1 + batch * 100 + client, address)))
            .collect();
        for client in clients {
            client.join().unwrap();
        }
    }
    // A client has its last byte a moment before the edge closes its books.
    let in_flight = || {
        cluster
            .snapshot()
            .endpoints
            .iter()
            .map(|e| e.in_flight)
            .sum::<u32>()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while in_flight() > 0 {
        assert!(
            Instant::now() < deadline,
            "{} slots were not given back",
            in_flight()
        );
        thread::yield_now();
    }
    edge.stop();
}
