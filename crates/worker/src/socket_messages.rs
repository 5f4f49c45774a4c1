//! One WebSocket between its connection and the application's `receive` and `send`: opening,
//! messages, closing, pings.

use pyo3::prelude::*;
use pyo3::types::PyStringMethods;

use evener_vitals::monotonic_ns;

use crate::connection::Phase;
use crate::core::{Core, QUEUED_BYTES_HIGH};
use crate::effects::{Effects, Place};
use crate::errors::SendError;
use crate::http::{Abandoned, Sent};
use crate::message::SocketMessage;
use crate::response::Stage as ResponseStage;
use crate::websocket::codec::Codec;
use crate::websocket::deflate::Deflate;
use crate::websocket::handshake;
use crate::websocket::socket::{Delivery, Stage};

/// How long the other side may take to answer a close frame.
const CLOSE_NS: u64 = 10_000_000_000;

impl Core {
    /// What `receive` has now; `None` if the application has to wait.
    pub(crate) fn receive_socket(
        &mut self,
        py: Python<'_>,
        place: Place,
        effects: &mut Effects,
    ) -> Option<Delivery> {
        let gone = || Delivery::Disconnect {
            code: 1006,
            reason: String::new(),
        };
        loop {
            let Some(connection) = self.at(place) else {
                return Some(gone());
            };
            let Some(socket) = &mut connection.socket else {
                return Some(gone());
            };
            let readable = connection.readable || !connection.input.is_empty();
            match socket.next() {
                Some(delivery) => return Some(delivery),
                None if socket.settle(&mut connection.output) => {
                    connection.phase = Phase::Closing;
                    self.flush(py, place.key, effects);
                    continue;
                }
                None if readable && socket.stage == Stage::Open => {}
                None => return None,
            }
            self.read_socket(py, place.key, effects);
            let progress = self.at(place).is_some_and(|connection| {
                connection
                    .socket
                    .as_ref()
                    .is_some_and(|socket| socket.has_news())
            });
            if !progress {
                return None;
            }
        }
    }

    /// Reads and handles frames while they are wanted.
    pub(crate) fn read_socket(&mut self, py: Python<'_>, key: usize, effects: &mut Effects) {
        let connection = &mut self.connections[key];
        let Some(socket) = &mut connection.socket else {
            return;
        };
        if connection.gone {
            return self.lose(key, effects);
        }
        let stage_before = socket.stage;
        while connection.output.len() <= QUEUED_BYTES_HIGH {
            let Some(socket) = &mut connection.socket else {
                return;
            };
            if !socket.wants_bytes() {
                break;
            }
            if !connection.input.is_empty() {
                let used = socket.handle_bytes(&connection.input, &mut connection.output);
                connection.consume_input(used);
            } else if connection.receive(&mut self.scratch) {
                let Some(socket) = &mut connection.socket else {
                    return;
                };
                let used = socket.handle_bytes(&self.scratch, &mut connection.output);
                connection.input.extend_from_slice(&self.scratch[used..]);
            } else {
                break;
            }
        }
        let Some(socket) = &mut connection.socket else {
            return;
        };
        if connection.ended && connection.input.is_empty() && socket.stage != Stage::Closed {
            return self.lose(key, effects);
        }
        if socket.has_news() {
            effects.wake.append(&mut connection.readers);
        }
        if socket.stage == Stage::Closed && stage_before != Stage::Closed {
            effects.wake.append(&mut connection.writers);
            connection.phase = Phase::Closing;
        }
        if !connection.output.is_empty() || connection.phase == Phase::Closing {
            self.flush(py, key, effects);
        }
    }

    /// Takes a message on `send`.
    pub(crate) fn send_socket(
        &mut self,
        py: Python<'_>,
        place: Place,
        message: SocketMessage<'_>,
        effects: &mut Effects,
    ) -> Result<Sent, SendError> {
        let connection = self.at(place).ok_or(SendError::Disconnected)?;
        let Some(socket) = &mut connection.socket else {
            return Err(SendError::Disconnected);
        };
        if connection.gone && socket.stage != Stage::Denying {
            socket.finish(1006, String::new());
            return Err(socket.ended());
        }
        let output = &mut connection.output;
        match message {
            SocketMessage::Accept { subprotocol, lines } => {
                self.accept_socket(py, place.key, subprotocol.as_deref(), &lines, effects)?;
            }
            SocketMessage::Text(text) => {
                let rule = SendError::Rule("'text' must not hold lone surrogates");
                let text = text.to_str().map_err(|_| rule)?;
                socket.send(output, true, text.as_bytes())?;
            }
            SocketMessage::Bytes(data) => socket.send(output, false, data.as_slice())?,
            SocketMessage::Close { .. } if socket.stage == Stage::Connecting => {
                socket.finish(1006, String::new());
                self.refuse(py, place.key, 403, "Forbidden", effects);
                return Ok(Sent::Done);
            }
            SocketMessage::Close { code, reason } => {
                socket.close(output, code, &reason, true)?;
                self.closing(py, place.key, effects);
                return Ok(Sent::Done);
            }
            SocketMessage::DenialStart(start) => {
                if socket.stage != Stage::Connecting {
                    return Err(SendError::Rule("the handshake has already been answered"));
                }
                connection.response.start(start)?;
                connection.keep_alive = false;
                socket.stage = Stage::Denying;
                return Ok(Sent::Done);
            }
            SocketMessage::DenialBody { data, more } => {
                if socket.stage != Stage::Denying {
                    let rule = "it must come after 'websocket.http.response.start'";
                    return Err(SendError::Rule(rule));
                }
                let sent = self.send_body(py, place, &data, more, effects)?;
                if let Some(socket) = self.at(place).and_then(|held| held.socket.as_mut())
                    && !more
                {
                    socket.finish(1006, String::new());
                }
                return Ok(sent);
            }
        }
        Ok(self.socket_sent(py, place.key, effects))
    }

    fn socket_sent(&mut self, py: Python<'_>, key: usize, effects: &mut Effects) -> Sent {
        if self.connections[key].output.len() <= QUEUED_BYTES_HIGH {
            self.flush_later(key, effects);
            return Sent::Done;
        }
        self.flush(py, key, effects);
        match self.connections.get(key) {
            Some(held) if held.output.len() > QUEUED_BYTES_HIGH => Sent::Wait,
            _ => Sent::Done,
        }
    }

    fn accept_socket(
        &mut self,
        py: Python<'_>,
        key: usize,
        subprotocol: Option<&str>,
        lines: &[u8],
        effects: &mut Effects,
    ) -> Result<(), SendError> {
        let limits = self.limits;
        let connection = &mut self.connections[key];
        let Some(socket) = &mut connection.socket else {
            return Err(SendError::Disconnected);
        };
        if socket.stage != Stage::Connecting {
            return Err(SendError::Rule("the handshake has already been answered"));
        }
        let deflate = Deflate::negotiate(&socket.handshake.offers, limits.deflate);
        let (deflate, extension) = deflate.unzip();
        connection.output.append(|out| {
            let accept = &socket.handshake.accept;
            handshake::write(out, accept, subprotocol, extension.as_deref(), lines);
        });
        socket.open(Codec::new(limits.message_bytes_max, deflate));
        if limits.ping_interval_ns > 0 {
            let now = monotonic_ns();
            socket.pinged_ns = now;
            self.set_deadline(key, now + limits.ping_interval_ns);
        }
        self.flush(py, key, effects);
        if self.connections.get(key).is_some_and(|held| !held.gone) {
            self.read_socket(py, key, effects);
        }
        Ok(())
    }

    /// A close frame is on its way; the other side's is awaited, but not for ever.
    fn closing(&mut self, py: Python<'_>, key: usize, effects: &mut Effects) {
        effects.wake.append(&mut self.connections[key].readers);
        self.set_deadline(key, monotonic_ns() + CLOSE_NS);
        self.flush(py, key, effects);
        if self
            .connections
            .get(key)
            .is_some_and(|held| held.fd.is_some())
        {
            self.read_socket(py, key, effects);
        }
    }

    /// Closes a WebSocket from the server's side.
    pub(crate) fn close_socket(
        &mut self,
        py: Python<'_>,
        place: Place,
        code: u16,
        reason: &str,
        effects: &mut Effects,
    ) {
        let Some(connection) = self.at(place) else {
            return;
        };
        let Some(socket) = &mut connection.socket else {
            return;
        };
        if socket
            .close(&mut connection.output, code, reason, false)
            .is_ok()
        {
            self.closing(py, place.key, effects);
        }
    }

    /// A ping is due, or a pong is overdue, or the other side has not answered our close frame.
    pub(crate) fn socket_deadline(
        &mut self,
        py: Python<'_>,
        key: usize,
        now: u64,
        effects: &mut Effects,
    ) {
        let (interval, timeout) = (self.limits.ping_interval_ns, self.limits.ping_timeout_ns);
        let connection = &mut self.connections[key];
        let Some(socket) = &mut connection.socket else {
            return;
        };
        if socket.stage != Stage::Open {
            return self.lose(key, effects);
        }
        let waited = now.saturating_sub(socket.pinged_ns);
        if !socket.pong_seen && timeout > 0 && waited >= timeout {
            let place = Place {
                key,
                exchange: connection.exchange,
            };
            return self.close_socket(py, place, 1011, "keepalive ping timeout", effects);
        }
        if socket.pong_seen && waited >= interval {
            socket.ping(&mut connection.output);
            socket.pinged_ns = now;
        }
        let next = if socket.pong_seen || timeout == 0 {
            interval
        } else {
            timeout
        };
        let due = (socket.pinged_ns + next).max(now + 1);
        self.set_deadline(key, due);
        self.flush(py, key, effects);
    }

    /// The application is done with the WebSocket; `failed` if by an exception.
    pub(crate) fn abandon_socket(
        &mut self,
        py: Python<'_>,
        place: Place,
        failed: bool,
        effects: &mut Effects,
    ) -> Abandoned {
        let Some(connection) = self.at(place) else {
            return Abandoned::Nothing;
        };
        let Some(socket) = &mut connection.socket else {
            return Abandoned::Nothing;
        };
        if connection.gone {
            return Abandoned::Nothing;
        }
        match socket.stage {
            Stage::Closing | Stage::Closed => Abandoned::Nothing,
            Stage::Open => {
                let code = if failed { 1011 } else { 1000 };
                self.close_socket(py, place, code, "", effects);
                Abandoned::Nothing
            }
            Stage::Denying if connection.response.stage == ResponseStage::Complete => {
                Abandoned::Nothing
            }
            Stage::Denying if connection.response.is_written() => {
                self.lose(place.key, effects);
                Abandoned::Cut
            }
            Stage::Connecting | Stage::Denying => {
                socket.finish(1006, String::new());
                self.refuse(py, place.key, 500, "Internal Server Error", effects);
                Abandoned::Answered
            }
        }
    }
}
