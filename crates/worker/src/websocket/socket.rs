//! One WebSocket between its codec and the application: what may be sent, what is received.
//!
//! Messages that the application has not asked for yet are queued up to a bound; then reading
//! stops, and the sender feels it. Pings are answered here; when to send our own is for
//! `connection`.

use std::collections::VecDeque;

use crate::errors::SendError;
use crate::output::Output;
use crate::websocket::codec::{self, Codec, Event, Violation};
use crate::websocket::handshake::Handshake;

/// Messages held for the application before reading stops.
const QUEUED_MESSAGES_MAX: usize = 32;
/// Bytes of messages held for the application before reading stops.
const QUEUED_BYTES_MAX: usize = 256 * 1024;

/// The stages of a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The application has not answered the handshake.
    Connecting,
    /// It refuses with an HTTP response, which has begun.
    Denying,
    /// Messages flow.
    Open,
    /// A close frame has been sent; the other side's is awaited.
    Closing,
    /// Nothing more will be read or sent.
    Closed,
}

/// What the application receives.
#[derive(Debug)]
pub(crate) enum Delivery {
    Connect,
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Disconnect { code: u16, reason: String },
}

/// The state of one WebSocket.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) stage: Stage,
    pub(crate) handshake: Handshake,
    codec: Option<Codec>,
    connect_told: bool,
    queue: VecDeque<(bool, Vec<u8>)>,
    queued_bytes: usize,
    /// A violation that is answered once the messages before it have been.
    violation: Option<Violation>,
    /// How it ended, once it has.
    end: Option<(u16, String)>,
    /// Whether it ended by a violation, so that the other side may be sending still.
    pub(crate) failed: bool,
    /// Whether it was the application that ended it.
    ended_here: bool,
    /// Whether a pong has come since the last ping.
    pub(crate) pong_seen: bool,
    /// When the last ping was sent, or the WebSocket opened.
    pub(crate) pinged_ns: u64,
}

impl Socket {
    pub(crate) fn new(handshake: Handshake) -> Socket {
        Socket {
            stage: Stage::Connecting,
            handshake,
            codec: None,
            connect_told: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            violation: None,
            end: None,
            failed: false,
            ended_here: false,
            pong_seen: true,
            pinged_ns: 0,
        }
    }

    /// Starts the flow of messages: the handshake has been answered.
    pub(crate) fn open(&mut self, codec: Codec) {
        debug_assert_eq!(self.stage, Stage::Connecting, "a WebSocket opens once");
        self.codec = Some(codec);
        self.stage = Stage::Open;
    }

    /// Whether more bytes should be read for it now.
    pub(crate) fn wants_bytes(&self) -> bool {
        match self.stage {
            Stage::Open => {
                self.queue.len() < QUEUED_MESSAGES_MAX
                    && self.queued_bytes < QUEUED_BYTES_MAX
                    && self.violation.is_none()
            }
            Stage::Closing => true,
            Stage::Connecting | Stage::Denying | Stage::Closed => false,
        }
    }

    /// Takes bytes from the other side until they are used up or the queue is full; returns how
    /// many it took. Answers (pongs, a close) go to `output`.
    pub(crate) fn handle_bytes(&mut self, bytes: &[u8], output: &mut Output) -> usize {
        let mut input = bytes;
        while !input.is_empty() && self.wants_bytes() {
            let Some(codec) = &mut self.codec else { break };
            match codec.decode(&mut input) {
                Ok(Some(event)) => self.handle_event(event, output),
                Ok(None) => {}
                Err(violation) if self.queue.is_empty() => self.fail(violation, output),
                Err(violation) => self.violation = Some(violation),
            }
        }
        if self.stage == Stage::Closed {
            return bytes.len();
        }
        bytes.len() - input.len()
    }

    fn handle_event(&mut self, event: Event, output: &mut Output) {
        match event {
            Event::Text(data) => self.enqueue(true, data),
            Event::Binary(data) => self.enqueue(false, data),
            Event::Ping(payload) if self.stage == Stage::Open => {
                output.append(|buffer| codec::pong(buffer, &payload));
            }
            Event::Ping(_) => {}
            Event::Pong(_) => self.pong_seen = true,
            Event::Close { code, reason } => {
                if self.stage == Stage::Open {
                    output.append(|buffer| codec::close(buffer, code, ""));
                }
                self.finish(code.unwrap_or(1005), reason);
            }
        }
    }

    fn enqueue(&mut self, text: bool, data: Vec<u8>) {
        // After our close nobody waits for messages.
        if self.stage == Stage::Open {
            self.queued_bytes += data.len();
            self.queue.push_back((text, data));
        }
    }

    /// Answers a violation that had to wait for the messages before it; false if there is none.
    pub(crate) fn settle(&mut self, output: &mut Output) -> bool {
        let Some(violation) = self.violation.take() else {
            return false;
        };
        self.fail(violation, output);
        true
    }

    fn fail(&mut self, violation: Violation, output: &mut Output) {
        if self.stage == Stage::Open {
            output.append(|buffer| codec::close(buffer, Some(violation.code), violation.reason));
        }
        self.failed = true;
        self.finish(violation.code, violation.reason.to_owned());
    }

    /// Ends it: by the other side, by a violation, or because the connection is gone.
    pub(crate) fn finish(&mut self, code: u16, reason: String) {
        self.stage = Stage::Closed;
        self.end.get_or_insert((code, reason));
    }

    /// Whether [`Socket::next`] has something.
    pub(crate) fn has_news(&self) -> bool {
        !self.connect_told || !self.queue.is_empty() || self.end.is_some()
    }

    /// Takes the next thing for the application; `None` if it has to wait.
    pub(crate) fn next(&mut self) -> Option<Delivery> {
        if !self.connect_told {
            self.connect_told = true;
            return Some(Delivery::Connect);
        }
        if let Some((text, data)) = self.queue.pop_front() {
            self.queued_bytes -= data.len();
            return Some(if text {
                Delivery::Text(data)
            } else {
                Delivery::Binary(data)
            });
        }
        self.end
            .as_ref()
            .map(|(code, reason)| Delivery::Disconnect {
                code: *code,
                reason: reason.clone(),
            })
    }

    /// Sends a message.
    pub(crate) fn send(
        &mut self,
        output: &mut Output,
        text: bool,
        data: &[u8],
    ) -> Result<(), SendError> {
        self.must_be_open()?;
        if let Some(codec) = &mut self.codec {
            output.append(|buffer| codec.encode(buffer, text, data));
        }
        Ok(())
    }

    /// Sends a close frame; what comes from the other side until its own is dropped. The
    /// application is told of an end that was not its own (`by_application` false).
    pub(crate) fn close(
        &mut self,
        output: &mut Output,
        code: u16,
        reason: &str,
        by_application: bool,
    ) -> Result<(), SendError> {
        self.must_be_open()?;
        output.append(|buffer| codec::close(buffer, Some(code), reason));
        self.stage = Stage::Closing;
        self.ended_here = by_application;
        if by_application {
            self.queue.clear();
            self.queued_bytes = 0;
        }
        self.end = Some((code, reason.to_owned()));
        Ok(())
    }

    /// Sends a ping, and waits for its pong from now on.
    pub(crate) fn ping(&mut self, output: &mut Output) {
        self.pong_seen = false;
        output.append(|buffer| codec::ping(buffer, b"evener"));
    }

    fn must_be_open(&self) -> Result<(), SendError> {
        match self.stage {
            Stage::Open => Ok(()),
            Stage::Connecting | Stage::Denying => {
                Err(SendError::Rule("it must come after 'websocket.accept'"))
            }
            Stage::Closing | Stage::Closed => Err(self.ended()),
        }
    }

    /// Why nothing can be sent any more.
    pub(crate) fn ended(&self) -> SendError {
        if self.ended_here {
            SendError::Rule("the WebSocket has already been closed")
        } else {
            SendError::Disconnected
        }
    }
}
