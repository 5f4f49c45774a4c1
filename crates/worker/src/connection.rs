//! One connection: its buffers, its phase, and the claims on its requests.
//!
//! Bytes are read only when someone wants them (the next head, or the application its body), so
//! the kernel's socket buffer is the bound on what a fast sender can make us hold. Which
//! connection does what when is decided in `core`; this file knows one connection at a time.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use evener_http1::{
    BodyDecoder, BodyError, Fields, HeadErrorKind, HeadLimits, HeadScan, RequestHead,
    parse_request, scan_head,
};
use evener_vitals::Preface;
use pyo3::prelude::*;

use crate::output::Output;
use crate::response::{Response, Stage};
use crate::scope::Ends;
use crate::system::{self, Received};
use crate::websocket::handshake;
use crate::websocket::socket::Socket;

/// Bounds on a head: above the edge's own, which adds fields to what it was sent.
const HEAD_LIMITS: HeadLimits = HeadLimits {
    head_bytes: 128 * 1024,
    header_count: 512,
    line_bytes: usize::MAX,
    field_bytes: usize::MAX,
};

/// The most that one receive takes.
pub(crate) const RECEIVE_BYTES: usize = 256 * 1024;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for a request, or reads its head.
    Head,
    /// A request was read; its task has not taken its first step.
    Queued,
    /// The application answers an HTTP request.
    Http,
    /// The response is complete; the rest of the request's body is read and dropped.
    Discard,
    /// The application holds a WebSocket.
    WebSocket,
    /// Nothing more is to be said; closes when everything is sent.
    Closing,
    /// Everything is sent; waits for the other side to close, so that it reads all of it.
    Lingering,
}

/// What reading for a head came to.
pub(crate) enum HeadStep {
    /// More bytes are needed, and none are there.
    Wait,
    /// A request has been read: `head` and `fields` describe it.
    Request,
    /// A request for a WebSocket has been read.
    Socket(Box<Socket>),
    /// The other side has closed, or must be hung up on without a word.
    Close,
    /// The request is refused, with this status and reason.
    Refuse(u16, &'static str),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) fd: Option<OwnedFd>,
    /// Told apart from an earlier connection in the same place by this number.
    pub(crate) epoch: u32,
    pub(crate) ends: Ends,
    pub(crate) phase: Phase,
    /// Number of the current or last exchange.
    pub(crate) exchange: u64,
    /// Whether the run of the current exchange is still going.
    pub(crate) running: bool,
    /// The kernel may have more bytes for us.
    pub(crate) readable: bool,
    /// The kernel has said that the other side ended its sending; bytes may still be unread.
    pub(crate) half_closed: bool,
    /// The end of what the other side sent has been read.
    pub(crate) ended: bool,
    /// The other side is gone: nothing can be sent any more.
    pub(crate) gone: bool,
    /// Bytes received and not used: the head first, while it is being read.
    pub(crate) input: Vec<u8>,
    scanned: usize,
    /// Whether the connection's first bytes have been looked at for a preface.
    prefaced: bool,
    /// The slot on the vitals page, and the sequence of the current request.
    pub(crate) claim: Option<(u32, u64)>,
    pub(crate) queued_ns: u64,
    /// The longest that the current request has held the loop at a stretch, as far as it counts.
    pub(crate) held: Duration,
    pub(crate) head: RequestHead,
    pub(crate) fields: Fields,
    pub(crate) body: BodyDecoder,
    /// The application has been told that the body has ended.
    pub(crate) body_told: bool,
    /// The client waits for `100 Continue`, which has not been sent.
    pub(crate) continue_wanted: bool,
    pub(crate) discarded_bytes: usize,
    pub(crate) keep_alive: bool,
    pub(crate) response: Response,
    pub(crate) socket: Option<Box<Socket>>,
    pub(crate) output: Output,
    /// Whether it is in the list of those to be flushed.
    pub(crate) dirty: bool,
    /// Whether the kernel is asked to say when there is room to send.
    pub(crate) writes_watched: bool,
    /// Futures of those who wait to receive.
    pub(crate) readers: Vec<Py<PyAny>>,
    /// Futures of those who wait until there is room to send.
    pub(crate) writers: Vec<Py<PyAny>>,
    /// When something is due: idle too long, lingered too long, a ping.
    pub(crate) deadline_ns: Option<u64>,
    /// The earliest entry for it in the table of deadlines.
    pub(crate) armed_ns: Option<u64>,
}

impl Connection {
    pub(crate) fn new(fd: OwnedFd, epoch: u32, ends: Ends) -> Connection {
        Connection {
            fd: Some(fd),
            epoch,
            ends,
            phase: Phase::Head,
            exchange: 0,
            running: false,
            // Whoever connects sends at once.
            readable: true,
            half_closed: false,
            ended: false,
            gone: false,
            input: Vec::new(),
            scanned: 0,
            prefaced: false,
            claim: None,
            queued_ns: 0,
            held: Duration::ZERO,
            head: RequestHead::default(),
            fields: Fields::new(),
            body: BodyDecoder::default(),
            body_told: false,
            continue_wanted: false,
            discarded_bytes: 0,
            keep_alive: true,
            response: Response::default(),
            socket: None,
            output: Output::default(),
            dirty: false,
            writes_watched: false,
            readers: Vec::new(),
            writers: Vec::new(),
            deadline_ns: None,
            armed_ns: None,
        }
    }

    pub(crate) fn raw_fd(&self) -> Option<RawFd> {
        self.fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Whether the current exchange still has something to say.
    pub(crate) fn is_answering(&self) -> bool {
        self.response.stage != Stage::Complete
    }

    /// Receives once into `scratch`, which is emptied first; returns whether bytes came.
    pub(crate) fn receive(&mut self, scratch: &mut Vec<u8>) -> bool {
        scratch.clear();
        let Some(fd) = self.raw_fd().filter(|_| self.readable) else {
            return false;
        };
        match system::receive(fd, scratch, RECEIVE_BYTES) {
            Received::Bytes(count) => {
                // A short read has drained the socket: the next bytes will be announced.
                self.readable = count == RECEIVE_BYTES || self.half_closed;
                return true;
            }
            Received::Later => self.readable = false,
            Received::End => {
                self.readable = false;
                self.ended = true;
            }
            Received::Broken => {
                self.readable = false;
                self.ended = true;
                self.gone = true;
            }
        }
        false
    }

    /// Reads for the next request.
    pub(crate) fn read_head(&mut self, scratch: &mut Vec<u8>) -> HeadStep {
        loop {
            if !self.input.is_empty() {
                match self.try_head() {
                    HeadStep::Wait => {}
                    step => return step,
                }
            }
            if !self.receive(scratch) {
                return if self.ended {
                    HeadStep::Close
                } else {
                    HeadStep::Wait
                };
            }
            self.input.extend_from_slice(scratch);
        }
    }

    fn try_head(&mut self) -> HeadStep {
        if !self.prefaced {
            match Preface::parse(&self.input) {
                Ok(None) => return HeadStep::Wait,
                Ok(Some((preface, length))) => {
                    self.claim = Some((preface.slot, preface.seq));
                    self.input.drain(..length);
                }
                Err(None) => {}
                Err(Some(_)) => return HeadStep::Close,
            }
            self.prefaced = true;
        }
        if self.scanned > 0 {
            // Only the new bytes of a head that comes in pieces are looked at.
            if let HeadScan::More(scanned) = scan_head(&self.input, self.scanned) {
                self.scanned = scanned;
                if scanned < HEAD_LIMITS.head_bytes {
                    return HeadStep::Wait;
                }
            }
        }
        match parse_request(&self.input, &mut self.fields, &HEAD_LIMITS) {
            Ok(None) => {
                if let HeadScan::More(scanned) = scan_head(&self.input, self.scanned) {
                    self.scanned = scanned;
                }
                HeadStep::Wait
            }
            Ok(Some(head)) => self.accept_head(head),
            Err(error) => refuse(error.kind),
        }
    }

    fn accept_head(&mut self, head: RequestHead) -> HeadStep {
        self.scanned = 0;
        self.head = head;
        self.body.reset(head.framing);
        self.body_told = false;
        self.continue_wanted = head.expect_continue && !self.body.is_done();
        self.discarded_bytes = 0;
        self.keep_alive = head.keep_alive;
        self.response = Response::default();
        if !handshake::is_wanted(&self.input, &head, &self.fields) {
            return HeadStep::Request;
        }
        match handshake::read(&self.input, &head, &self.fields) {
            Ok(read) => HeadStep::Socket(Box::new(Socket::new(read))),
            Err(refusal) => HeadStep::Refuse(refusal.status, refusal.reason),
        }
    }

    /// Decodes body bytes out of `input`; returns them if they are one piece at the front of it,
    /// else collected in `parts`.
    pub(crate) fn decode_body(
        body: &mut BodyDecoder,
        input: &[u8],
        parts: &mut Vec<u8>,
    ) -> Result<(std::ops::Range<usize>, usize), BodyError> {
        let first = body.decode(input)?;
        let mut used = first.consumed;
        if body.is_done() || used == input.len() {
            return Ok((first.data, used));
        }
        parts.extend_from_slice(&input[first.data]);
        while used < input.len() && !body.is_done() {
            let piece = body.decode(&input[used..])?;
            parts.extend_from_slice(&input[used + piece.data.start..used + piece.data.end]);
            used += piece.consumed;
        }
        Ok((0..0, used))
    }

    /// The first bytes of the input have been used.
    pub(crate) fn consume_input(&mut self, used: usize) {
        if used == self.input.len() {
            self.input.clear();
        } else {
            self.input.drain(..used);
        }
    }

    /// The sequence moves on with each request, on both sides.
    pub(crate) fn next_sequence(&mut self) {
        if let Some((_, sequence)) = &mut self.claim {
            *sequence += 1;
        }
    }

    /// Whether bytes of the other side may still be on their way that nobody will read: closing
    /// on them could take the response's end with it.
    pub(crate) fn must_linger(&self) -> bool {
        let over = self.ended || self.half_closed;
        let failed = self.socket.as_ref().is_some_and(|socket| socket.failed);
        !over && (failed || !self.body.is_done() || !self.input.is_empty() || self.readable)
    }
}

fn refuse(kind: HeadErrorKind) -> HeadStep {
    HeadStep::Refuse(kind.status(), kind.reason())
}
