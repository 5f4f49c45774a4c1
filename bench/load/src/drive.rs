//! The loop: sends what is due over connections that are free, and takes what comes back.
//!
//! Closed: a connection that is free sends at once. Open: requests become due by the schedule and
//! wait for a free connection; their latency counts from when they were due. The connection that
//! has been free for longest is used next, so that all are, whichever worker they lead to.

use std::collections::VecDeque;
use std::io;

use serde_json::json;

use crate::clock::{MILLISECOND, from_seconds, now};
use crate::connection::{Connection, Outcome, Phase, Target, Wire};
use crate::plan::{Mode, Plan, Protocol};
use crate::poll::{Poller, Ready};
use crate::record::{Failure, Record};
use crate::schedule::{Arrivals, Mix};

/// How long a connection that could not be made waits before it is tried again.
const PAUSE: u64 = 10 * MILLISECOND;

/// How often requests are looked through for those that take too long.
const SWEEP: u64 = 100 * MILLISECOND;

/// How much is received at once.
const SCRATCH_BYTES: usize = 256 * 1024;

/// A run under way.
struct Drive<'a> {
    plan: &'a Plan,
    target: Target,
    wire: Wire,
    poller: Poller,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    paused: VecDeque<(u64, usize)>,
    waiting: VecDeque<(u64, usize)>,
    arrivals: Option<Arrivals>,
    mix: Mix,
    record: Record,
    scratch: Vec<u8>,
    begin: u64,
    end: u64,
    swept: u64,
}

/// Does what the plan says; prints `begin` and `end` around the window, then the result.
///
/// # Errors
/// If the address is none, or descriptors run out.
pub fn drive(plan: &Plan) -> io::Result<()> {
    let start = now();
    let begin = start + from_seconds(plan.warm_seconds);
    let end = begin + from_seconds(plan.seconds).max(MILLISECOND);
    let names = plan
        .classes
        .iter()
        .map(|class| class.name.clone())
        .collect();
    let shares: Vec<f64> = plan.classes.iter().map(|class| class.share).collect();
    let arrivals = match plan.mode {
        Mode::Open { rate, poisson_seed } => Some(Arrivals::new(start, rate, poisson_seed)),
        Mode::Closed | Mode::Hold => None,
    };
    let seed = match plan.mode {
        Mode::Open { poisson_seed, .. } => poisson_seed.unwrap_or(1),
        Mode::Closed | Mode::Hold => 1,
    };
    let mut drive = Drive {
        plan,
        target: Target::parse(&plan.address)?,
        wire: Wire::new(&plan.classes, plan.protocol, plan.reuse),
        poller: Poller::new()?,
        connections: (0..plan.connections).map(|_| Connection::new()).collect(),
        idle: VecDeque::new(),
        paused: VecDeque::new(),
        waiting: VecDeque::new(),
        arrivals,
        mix: Mix::new(&shares, seed ^ 0x5eed),
        record: Record::new(begin, end, names),
        scratch: vec![0; SCRATCH_BYTES],
        begin,
        end,
        swept: start,
    };
    for index in 0..plan.connections {
        drive.open(index, start)?;
    }
    drive.run()?;
    println!("{}", drive.record.result());
    Ok(())
}

impl Drive<'_> {
    fn run(&mut self) -> io::Result<()> {
        let (mut begun, mut ended) = (false, false);
        loop {
            let at = now();
            if !begun && at >= self.begin {
                begun = true;
                println!("{}", json!({"event": "begin", "at": at}));
            }
            if !ended && at >= self.end {
                ended = true;
                println!("{}", json!({"event": "end", "at": at}));
            }
            if ended && (self.is_quiet() || at > self.end + self.patience()) {
                self.sweep(at.saturating_add(self.patience()));
                return Ok(());
            }
            self.become_due(at);
            self.resume(at)?;
            self.dispatch(at)?;
            if at >= self.swept + SWEEP {
                self.swept = at;
                self.sweep(at);
            }
            for ready in self.poller.wait(Some(self.next_deadline(at)))? {
                self.handle(ready)?;
            }
        }
    }

    fn patience(&self) -> u64 {
        from_seconds(self.plan.patience_seconds)
    }

    fn is_quiet(&self) -> bool {
        let busy = |connection: &Connection| connection.phase == Phase::Busy;
        self.waiting.is_empty() && !self.connections.iter().any(busy)
    }

    /// Nanoseconds until something has to be done without anyone's asking.
    fn next_deadline(&self, at: u64) -> u64 {
        let mut next = self.swept + SWEEP;
        for edge in [self.begin, self.end] {
            if edge > at {
                next = next.min(edge);
            }
        }
        if let Some(arrivals) = &self.arrivals
            && at < self.end
        {
            next = next.min(arrivals.due());
        }
        if let Some((until, _)) = self.paused.front() {
            next = next.min(*until);
        }
        next.saturating_sub(at)
    }

    fn become_due(&mut self, at: u64) {
        let Some(arrivals) = &mut self.arrivals else {
            return;
        };
        while arrivals.due() <= at && arrivals.due() < self.end {
            self.record.lagged(arrivals.due(), at);
            self.waiting.push_back((arrivals.due(), self.mix.pick()));
            arrivals.advance();
        }
    }

    fn resume(&mut self, at: u64) -> io::Result<()> {
        while self.paused.front().is_some_and(|(until, _)| *until <= at) {
            if let Some((_, index)) = self.paused.pop_front() {
                self.open(index, at)?;
            }
        }
        Ok(())
    }

    /// Gives what is due to connections that are free.
    fn dispatch(&mut self, at: u64) -> io::Result<()> {
        if matches!(self.plan.mode, Mode::Closed) {
            while at < self.end
                && let Some(index) = self.idle.pop_front()
            {
                let class = self.mix.pick();
                let connection = &self.connections[index];
                let due = if self.plan.reuse {
                    at
                } else {
                    connection.opened
                };
                self.give(index, class, due, at)?;
            }
            return Ok(());
        }
        while !self.waiting.is_empty()
            && let Some(index) = self.idle.pop_front()
        {
            if let Some((due, class)) = self.waiting.pop_front() {
                self.give(index, class, due, at)?;
            }
        }
        Ok(())
    }

    fn give(&mut self, index: usize, class: usize, due: u64, at: u64) -> io::Result<()> {
        self.connections[index].load(Phase::Busy, class, due, at);
        self.write(index)
    }

    fn open(&mut self, index: usize, at: u64) -> io::Result<()> {
        match self.target.connect() {
            Ok((socket, _)) => {
                self.poller.add(&socket, index as u64, true)?;
                self.connections[index].begin(socket, at);
            }
            Err(_) => self.not_connected(index, at),
        }
        Ok(())
    }

    fn not_connected(&mut self, index: usize, at: u64) {
        self.connections[index] = Connection::new();
        self.paused.push_back((at + PAUSE, index));
        let asked = match self.plan.mode {
            Mode::Closed if at < self.end => Some((at, self.mix.pick())),
            Mode::Closed | Mode::Hold => None,
            Mode::Open { .. } => self.waiting.pop_front(),
        };
        if let Some((due, class)) = asked {
            self.record.failed(class, Failure::Connect, due, at);
        }
    }

    fn reopen(&mut self, index: usize, at: u64) -> io::Result<()> {
        self.connections[index] = Connection::new();
        self.idle.retain(|free| *free != index);
        self.record.reconnected(at);
        if at < self.end || !self.waiting.is_empty() {
            self.open(index, at)?;
        }
        Ok(())
    }

    fn handle(&mut self, ready: Ready) -> io::Result<()> {
        let index = ready.key as usize;
        match self.connections[index].phase {
            Phase::Closed => return Ok(()),
            Phase::Connecting => return self.connected(index),
            Phase::Opening | Phase::Idle | Phase::Busy | Phase::Ending => {}
        }
        if ready.writable && self.connections[index].watches_room {
            self.write(index)?;
        }
        if ready.readable {
            self.receive(index)?;
        }
        Ok(())
    }

    fn connected(&mut self, index: usize) -> io::Result<()> {
        let at = now();
        let connection = &mut self.connections[index];
        let Some(socket) = &connection.socket else {
            return Ok(());
        };
        if !matches!(socket.take_error(), Ok(None)) {
            self.not_connected(index, at);
            return Ok(());
        }
        self.poller.change(socket, index as u64, false)?;
        connection.watches_room = false;
        if self.plan.protocol == Protocol::Websocket {
            connection.load(Phase::Opening, 0, at, at);
            return self.write(index);
        }
        connection.phase = Phase::Idle;
        self.idle.push_back(index);
        self.dispatch(at)
    }

    fn write(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let bytes = match connection.phase {
            Phase::Opening => &self.wire.handshake,
            _ => &self.wire.requests[connection.class],
        };
        // An error is seen again, with whatever answer came before it, by the next receive.
        let more = connection.write(bytes).unwrap_or(false);
        if more != connection.watches_room
            && let Some(socket) = &connection.socket
        {
            self.poller.change(socket, index as u64, more)?;
            connection.watches_room = more;
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let class = &self.plan.classes[connection.class];
        let outcome = connection.receive(&mut self.scratch, class, &self.wire);
        let at = now();
        match outcome {
            Outcome::Pending => Ok(()),
            Outcome::Opened => {
                connection.phase = Phase::Idle;
                self.idle.push_back(index);
                self.dispatch(at)
            }
            Outcome::Answered { closes, failure } => self.answered(index, closes, failure, at),
            Outcome::Failed(failure) => {
                if connection.phase == Phase::Busy {
                    self.record
                        .failed(connection.class, failure, connection.due, at);
                    self.record.answered(at);
                }
                self.reopen(index, at)
            }
            Outcome::Ended => self.reopen(index, at),
        }
    }

    fn answered(
        &mut self,
        index: usize,
        closes: bool,
        failure: Option<Failure>,
        at: u64,
    ) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let (class, due, sent) = (connection.class, connection.due, connection.sent);
        self.record.answered(at);
        match failure {
            None => {
                let by_due = self.arrivals.is_some();
                self.record.right(class, due, sent, at, by_due);
            }
            Some(failure) => self.record.failed(class, failure, due, at),
        }
        if closes || !self.plan.reuse {
            // The server closes first, as it said; so the ports in TIME_WAIT are its own.
            connection.phase = Phase::Ending;
            return Ok(());
        }
        connection.phase = Phase::Idle;
        self.idle.push_back(index);
        self.dispatch(at)
    }

    /// Fails what takes too long, whether it was sent or waits for a connection.
    fn sweep(&mut self, at: u64) {
        let before = at.saturating_sub(self.patience());
        let mut late = Vec::new();
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if connection.phase == Phase::Busy && connection.due <= before {
                self.record
                    .failed(connection.class, Failure::Late, connection.due, at);
                late.push(index);
            }
        }
        for index in late {
            self.connections[index] = Connection::new();
            self.paused.push_back((at + PAUSE, index));
        }
        while self.waiting.front().is_some_and(|(due, _)| *due <= before) {
            if let Some((due, class)) = self.waiting.pop_front() {
                self.record.failed(class, Failure::Late, due, at);
            }
        }
    }
}
