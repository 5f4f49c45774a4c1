//! Server-sent events: many connections receive the same stream; every event is checked against
//! the one before it, and its age taken from the stamp of its origin.
//!
//! An event is `data: SEQUENCE NANOSECONDS PADDING`, as the origin beside this writes it.

use std::io::{self, ErrorKind, Read, Write};

use hdrhistogram::Histogram;
use serde_json::json;

use crate::clock::{MILLISECOND, from_seconds, now};
use crate::connection::{Target, Wire};
use crate::plan::Plan;
use crate::poll::Poller;
use crate::record::quantiles;
use crate::reply::Reply;

/// Longest line of an event.
const LINE_BYTES_MAX: usize = 64 * 1024;

struct Stream {
    socket: socket2::Socket,
    reply: Reply,
    line: Vec<u8>,
    last: Option<u64>,
    asked: bool,
    over: bool,
}

struct Tally {
    begin: u64,
    end: u64,
    events: u64,
    lost: u64,
    age: Histogram<u64>,
}

impl Tally {
    fn line(&mut self, last: &mut Option<u64>, line: &[u8], at: u64) {
        let mut words = line
            .strip_prefix(b"data: ")
            .unwrap_or(b"")
            .split(|b| *b == b' ');
        let mut number =
            || -> Option<u64> { std::str::from_utf8(words.next()?).ok()?.parse().ok() };
        let (Some(sequence), Some(stamp)) = (number(), number()) else {
            return;
        };
        let inside = (self.begin..self.end).contains(&at);
        if inside {
            self.events += 1;
            self.age.saturating_record(at.saturating_sub(stamp));
            self.lost += u64::from(last.is_some_and(|last| sequence != last + 1));
        }
        *last = Some(sequence);
    }
}

/// Receives for as long as the plan says; prints `begin`, `end` and the result.
///
/// # Errors
/// If a connection cannot be made.
pub fn receive(plan: &Plan) -> io::Result<()> {
    let target = Target::parse(&plan.address)?;
    let wire = Wire::new(&plan.classes, plan.protocol, true);
    let mut poller = Poller::new()?;
    let mut streams = Vec::new();
    for index in 0..plan.connections {
        let (socket, _) = target.connect()?;
        poller.add(&socket, index as u64, true)?;
        streams.push(Stream {
            socket,
            reply: Reply::new(),
            line: Vec::new(),
            last: None,
            asked: false,
            over: false,
        });
    }
    let begin = now() + from_seconds(plan.warm_seconds);
    let mut tally = Tally {
        begin,
        end: begin + from_seconds(plan.seconds),
        events: 0,
        lost: 0,
        age: Histogram::new_with_bounds(1000, 600_000 * MILLISECOND, 3)
            .expect("constant bounds that a histogram allows"),
    };
    let mut broken = 0u64;
    let mut begun = false;
    let mut scratch = vec![0; 256 * 1024];
    loop {
        let at = now();
        if !begun && at >= tally.begin {
            begun = true;
            println!("{}", json!({"event": "begin", "at": at}));
        }
        if at >= tally.end {
            break;
        }
        let next = if begun { tally.end } else { tally.begin };
        for ready in poller.wait(Some(next - at))? {
            let stream = &mut streams[ready.key as usize];
            if ready.writable && !stream.asked {
                stream.asked = true;
                stream.socket.write_all(&wire.requests[0])?;
                poller.change(&stream.socket, ready.key, false)?;
            }
            if ready.readable && !stream.over && !take(stream, plan, &mut tally, &mut scratch) {
                stream.over = true;
                stream.socket.shutdown(std::net::Shutdown::Both).ok();
                poller.remove(&stream.socket)?;
                broken += 1;
            }
        }
    }
    println!("{}", json!({"event": "end", "at": now()}));
    println!(
        "{}",
        json!({
            "event": "result", "seconds": plan.seconds, "done_in_window": tally.events,
            "lost": tally.lost, "broken": broken, "age_us": quantiles(&tally.age),
        })
    );
    Ok(())
}

/// Takes what has come; false if the stream is broken.
fn take(stream: &mut Stream, plan: &Plan, tally: &mut Tally, scratch: &mut [u8]) -> bool {
    let n = match stream.socket.read(scratch) {
        Ok(0) => return false,
        Ok(n) => n,
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    };
    let at = now();
    let (line, last) = (&mut stream.line, &mut stream.last);
    let progress = stream
        .reply
        .take_with(&scratch[..n], &plan.classes[0], |body| {
            for byte in body {
                if *byte == b'\n' {
                    tally.line(last, line, at);
                    line.clear();
                } else if line.len() < LINE_BYTES_MAX {
                    line.push(*byte);
                }
            }
        });
    matches!(progress, Ok(crate::reply::Progress::More))
}
