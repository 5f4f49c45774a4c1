//! Idle connections: one request on each, one after the other, then they stay open until standard
//! input ends. What they cost the server is the driver's to measure.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::connection::Wire;
use crate::plan::Plan;
use crate::reply::{Progress, Reply};

/// Opens them, says `held`, waits, and says how many the server has closed meanwhile.
///
/// # Errors
/// If one cannot be opened, or its request fails.
pub fn hold(plan: &Plan) -> io::Result<()> {
    let wire = Wire::new(&plan.classes, plan.protocol, true);
    let mut held = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        held.push(open(plan, &wire)?);
    }
    println!("{}", json!({"event": "held", "connections": held.len()}));
    io::stdin().read_to_end(&mut Vec::new())?;
    let mut closed = 0;
    for connection in &mut held {
        connection.set_nonblocking(true)?;
        if !matches!(connection.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        {
            closed += 1;
        }
    }
    println!("{}", json!({"event": "result", "closed": closed}));
    Ok(())
}

fn open(plan: &Plan, wire: &Wire) -> io::Result<TcpStream> {
    let wrong = |what: String| io::Error::other(format!("idle connection: {what}"));
    let mut stream = TcpStream::connect(&plan.address)?;
    stream.set_read_timeout(Some(Duration::from_secs_f64(plan.patience_seconds)))?;
    stream.write_all(&wire.requests[0])?;
    let mut reply = Reply::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Err(wrong("closed before its answer".into()));
        }
        match reply.take(&buffer[..n], &plan.classes[0]) {
            Ok(Progress::More) => {}
            Ok(Progress::Whole { wrong: None, .. }) => return Ok(stream),
            Ok(Progress::Whole {
                wrong: Some(failure),
                ..
            })
            | Err(failure) => return Err(wrong(format!("{failure:?}"))),
        }
    }
}
