//! One HTTP request between its connection and the application's `receive` and `send`.
//!
//! The body is read when the application asks for it and not before; the response goes out at
//! the end of the turn while it streams, at once when it ends, and the application waits while
//! the other side does not take what was sent.

use evener_http1::{Fields, RequestHead};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::connection::{Connection, Phase};
use crate::core::{Core, QUEUED_BYTES_HIGH};
use crate::effects::{Effects, Place};
use crate::errors::SendError;
use crate::message::HttpMessage;
use crate::output::Data;
use crate::response::{Setting, Stage};
use crate::scope::Ends;

/// What the scope of a request is built from, lent by its connection.
pub(crate) struct Begun {
    pub(crate) bytes: Vec<u8>,
    pub(crate) head: RequestHead,
    pub(crate) fields: Fields,
    pub(crate) ends: Ends,
    /// The subprotocols that the client listed, if it asks for a WebSocket.
    pub(crate) subprotocols: Option<Vec<String>>,
}

/// What `receive` has for the application.
pub(crate) enum Received<'py> {
    Body {
        data: Bound<'py, PyBytes>,
        more: bool,
    },
    Disconnect,
    /// Nothing yet.
    Wait,
}

/// Whether the application may go on after a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Done,
    /// Too much is queued: it has to wait for the other side.
    Wait,
}

/// What became of a response that the application did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abandoned {
    /// There was nothing to do: it is complete, or the client is gone.
    Nothing,
    /// Nothing had been sent: the client gets a 500.
    Answered,
    /// It had begun: the connection is cut, so that nobody takes it for complete.
    Cut,
}

impl Core {
    /// The first step of a request's task: claims the request and lends out its head. `None`: it
    /// must not run, because the edge has taken it back or the client is gone.
    pub(crate) fn begin(
        &mut self,
        py: Python<'_>,
        place: Place,
        effects: &mut Effects,
    ) -> Option<Begun> {
        let connection = self
            .connections
            .get_mut(place.key)
            .filter(|found| found.exchange == place.exchange && !found.gone)?;
        debug_assert_eq!(connection.phase, Phase::Queued, "a request begins once");
        if !self.pulse.claim(connection.claim, connection.queued_ns) {
            self.lose(place.key, effects);
            return None;
        }
        let subprotocols = connection
            .socket
            .as_ref()
            .map(|socket| socket.handshake.subprotocols.clone());
        connection.phase = if subprotocols.is_some() {
            Phase::WebSocket
        } else {
            Phase::Http
        };
        Some(Begun {
            bytes: std::mem::take(&mut connection.input),
            head: connection.head,
            fields: std::mem::take(&mut connection.fields),
            ends: connection.ends.clone_ref(py),
            subprotocols,
        })
    }

    /// Takes back what `begin` lent.
    pub(crate) fn give_back(&mut self, place: Place, begun: Begun) {
        if let Some(connection) = self.at(place) {
            connection.input = begun.bytes;
            connection.consume_input(begun.head.length);
            connection.fields = begun.fields;
        }
    }

    /// What `receive` has now.
    pub(crate) fn receive_http<'py>(
        &mut self,
        py: Python<'py>,
        place: Place,
        effects: &mut Effects,
    ) -> Received<'py> {
        loop {
            let connection = self
                .connections
                .get_mut(place.key)
                .filter(|found| found.exchange == place.exchange);
            let Some(connection) = connection else {
                return Received::Disconnect;
            };
            if connection.gone || !connection.is_answering() {
                return Received::Disconnect;
            }
            if connection.body_told {
                return Received::Wait;
            }
            if connection.body.is_done() {
                connection.body_told = true;
                return Received::Body {
                    data: PyBytes::new(py, b""),
                    more: false,
                };
            }
            if connection.input.is_empty() && !connection.receive(&mut self.scratch) {
                if connection.ended {
                    self.lose(place.key, effects);
                    return Received::Disconnect;
                }
                self.send_continue(py, place.key, effects);
                return Received::Wait;
            }
            match take_body(py, connection, &self.scratch) {
                Some((data, more)) if more && data.as_bytes().is_empty() => {}
                Some((data, more)) => {
                    connection.continue_wanted = false;
                    connection.body_told = !more;
                    return Received::Body { data, more };
                }
                None => {
                    self.refuse_body(py, place.key, effects);
                    return Received::Disconnect;
                }
            }
        }
    }

    fn send_continue(&mut self, py: Python<'_>, key: usize, effects: &mut Effects) {
        let connection = &mut self.connections[key];
        if connection.continue_wanted && !connection.response.is_written() {
            connection.continue_wanted = false;
            connection
                .output
                .append(|out| out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"));
            self.flush(py, key, effects);
        }
    }

    /// The request's body is malformed: says so if nothing else was said, and hangs up.
    fn refuse_body(&mut self, py: Python<'_>, key: usize, effects: &mut Effects) {
        if !self.connections[key].response.is_written() {
            self.refuse(py, key, 400, "the request's body is malformed", effects);
        }
        if self
            .connections
            .get(key)
            .is_some_and(|held| held.fd.is_some())
        {
            self.lose(key, effects);
        }
    }

    /// Takes a message on `send`.
    pub(crate) fn send_http(
        &mut self,
        py: Python<'_>,
        place: Place,
        message: HttpMessage<'_>,
        effects: &mut Effects,
    ) -> Result<Sent, SendError> {
        let complete = SendError::Rule("the response is already complete");
        let connection = self.at(place).ok_or(complete)?;
        if !connection.is_answering() {
            return Err(complete);
        }
        if connection.gone {
            return Err(SendError::Disconnected);
        }
        match message {
            HttpMessage::Start(start) => connection.response.start(start).map(|()| Sent::Done),
            HttpMessage::Body { data, more } => self.send_body(py, place, &data, more, effects),
            HttpMessage::Trailers { lines, more } => {
                connection
                    .response
                    .trailers(&mut connection.output, &lines, more)?;
                Ok(self.sent(py, place.key, effects))
            }
            HttpMessage::EarlyHint { lines } => {
                if connection.response.is_written() {
                    return Err(SendError::Rule(
                        "it must come before the first body message",
                    ));
                }
                connection.output.append(|out| {
                    out.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\n");
                    out.extend_from_slice(&lines);
                    out.extend_from_slice(b"\r\n");
                });
                self.flush(py, place.key, effects);
                Ok(Sent::Done)
            }
        }
    }

    /// Takes a body message of a response, or of the denial of a WebSocket.
    pub(crate) fn send_body(
        &mut self,
        py: Python<'_>,
        place: Place,
        data: &Data<'_>,
        more: bool,
        effects: &mut Effects,
    ) -> Result<Sent, SendError> {
        let date = self.date.now();
        let connection = &mut self.connections[place.key];
        let mut keep_alive = connection.keep_alive && !connection.continue_wanted && !self.draining;
        let setting = Setting {
            request: &connection.head,
            date,
            keep_alive: &mut keep_alive,
        };
        connection
            .response
            .body(&mut connection.output, setting, data, more)?;
        connection.keep_alive = keep_alive;
        Ok(self.sent(py, place.key, effects))
    }

    /// Something was queued: completes the response, or sends it on its way.
    fn sent(&mut self, py: Python<'_>, key: usize, effects: &mut Effects) -> Sent {
        let connection = &mut self.connections[key];
        if connection.response.stage == Stage::Complete {
            self.note_hold(key);
            self.complete(py, key, effects);
            self.flush_finished(py, key, effects);
            return Sent::Done;
        }
        if connection.output.len() <= QUEUED_BYTES_HIGH {
            if !connection.output.is_empty() {
                self.flush_later(key, effects);
            }
            return Sent::Done;
        }
        self.flush(py, key, effects);
        match self.connections.get(key) {
            Some(held) if held.output.len() > QUEUED_BYTES_HIGH => Sent::Wait,
            _ => Sent::Done,
        }
    }

    /// The application awaits something.
    pub(crate) fn end_step(&mut self, place: Place) {
        if self.at(place).is_some() {
            self.note_hold(place.key);
        }
    }

    /// A step is about to end, or the response to leave: if the application has held the loop for
    /// long since it was entered, the edge hears of it.
    pub(crate) fn note_hold(&mut self, key: usize) {
        let Some(held) = self.pulse.held() else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.held = connection.held.max(held);
            self.pulse.report_hold(connection.claim, connection.held);
        }
    }

    /// The request never ran: hangs up, so that whoever sent it knows.
    pub(crate) fn drop_unstarted(&mut self, place: Place, effects: &mut Effects) -> Abandoned {
        if self
            .at(place)
            .is_some_and(|connection| connection.fd.is_some())
        {
            self.lose(place.key, effects);
        }
        Abandoned::Nothing
    }

    /// The application is done with the request, complete or not.
    pub(crate) fn abandon_http(
        &mut self,
        py: Python<'_>,
        place: Place,
        effects: &mut Effects,
    ) -> Abandoned {
        let Some(connection) = self.at(place) else {
            return Abandoned::Nothing;
        };
        if connection.gone || !connection.is_answering() {
            return Abandoned::Nothing;
        }
        let written = connection.response.is_written();
        connection.response.stage = Stage::Complete;
        effects.wake.append(&mut connection.readers);
        if written {
            self.lose(place.key, effects);
            return Abandoned::Cut;
        }
        self.refuse(py, place.key, 500, "Internal Server Error", effects);
        Abandoned::Answered
    }
}

/// Decodes what came of the body; `None` if it is malformed.
fn take_body<'py>(
    py: Python<'py>,
    connection: &mut Connection,
    scratch: &[u8],
) -> Option<(Bound<'py, PyBytes>, bool)> {
    let mut parts = Vec::new();
    let own = !connection.input.is_empty();
    let input = if own { &connection.input[..] } else { scratch };
    let decoded = Connection::decode_body(&mut connection.body, input, &mut parts);
    let (piece, used) = decoded.ok()?;
    let data = if parts.is_empty() {
        &input[piece]
    } else {
        &parts[..]
    };
    let data = PyBytes::new(py, data);
    if own {
        connection.consume_input(used);
    } else {
        connection.input.extend_from_slice(&scratch[used..]);
    }
    Some((data, !connection.body.is_done()))
}
