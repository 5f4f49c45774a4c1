//! One exchange as the application sees it: the `receive` and `send` of its ASGI call.
//!
//! An exchange names its place in the server's tables and holds nothing itself, so it stays
//! harmless however long the application keeps it.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use crate::awaitable::{Awaited, Waiting};
use crate::core::QUEUED_BYTES_HIGH;
use crate::effects::{Effects, Place};
use crate::errors::{SendError, broken};
use crate::http::{Received, Sent};
use crate::lock;
use crate::message;
use crate::server::Server;
use crate::websocket::socket::Delivery;

/// An HTTP request or a WebSocket.
#[pyclass(frozen, module = "evener._worker")]
#[derive(Debug)]
pub struct Exchange {
    pub(crate) server: Py<Server>,
    pub(crate) place: Place,
    pub(crate) websocket: bool,
}

#[pymethods]
impl Exchange {
    /// The ASGI `receive`: awaitable for the next message.
    fn receive(slf: Py<Self>) -> Waiting {
        Waiting {
            exchange: slf,
            awaited: Awaited::Message,
        }
    }

    /// The ASGI `send`: takes the message at once; awaitable until there is room for more.
    fn send<'py>(
        slf: &Bound<'py, Self>,
        message: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let exchange = slf.get();
        let server = exchange.server.bind(py);
        let mut effects = Effects::default();
        let (name, sent) = if exchange.websocket {
            let (name, message) = message::socket(message)?;
            let mut core = lock(&server.get().core);
            (
                name,
                core.send_socket(py, exchange.place, message, &mut effects),
            )
        } else {
            let (name, message) = message::http(message)?;
            let mut core = lock(&server.get().core);
            (
                name,
                core.send_http(py, exchange.place, message, &mut effects),
            )
        };
        Server::apply(server, effects)?;
        match sent {
            Ok(Sent::Done) => Ok(server.get().done.bind(py).as_any().clone()),
            Ok(Sent::Wait) => {
                let waiting = Waiting {
                    exchange: slf.clone().unbind(),
                    awaited: Awaited::Room,
                };
                Ok(Bound::new(py, waiting)?.into_any())
            }
            Err(error) => Err(error.into_exception(name)),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.server)
    }
}

impl Exchange {
    /// The next message, if there is one.
    pub(crate) fn poll_message<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let server = self.server.bind(py);
        let mut effects = Effects::default();
        if self.websocket {
            let delivery = lock(&server.get().core).receive_socket(py, self.place, &mut effects);
            Server::apply(server, effects)?;
            return delivery
                .map(|delivery| socket_message(py, delivery))
                .transpose();
        }
        let received = lock(&server.get().core).receive_http(py, self.place, &mut effects);
        Server::apply(server, effects)?;
        match received {
            Received::Wait => Ok(None),
            Received::Body { data, more } => body_message(py, &data, more).map(Some),
            Received::Disconnect => disconnect_message(py).map(Some),
        }
    }

    /// Whether there is room to send again.
    pub(crate) fn poll_room(&self) -> PyResult<bool> {
        let server = self.server.get();
        let mut core = lock(&server.core);
        match core.at(self.place) {
            // Complete, and the connection has moved on.
            None => Ok(true),
            Some(connection) if connection.gone => {
                let name = if self.websocket {
                    "websocket.send"
                } else {
                    "http.response.body"
                };
                Err(SendError::Disconnected.into_exception(name))
            }
            Some(connection) => Ok(connection.output.len() <= QUEUED_BYTES_HIGH),
        }
    }

    /// A future that is resolved when it is worth looking again, ready to be yielded to the task.
    pub(crate) fn wait(&self, py: Python<'_>, awaited: Awaited) -> PyResult<Py<PyAny>> {
        let server = self.server.get();
        let future = server.new_future(py)?;
        // What `Future.__await__` does before it yields the future.
        future.setattr(intern!(py, "_asyncio_future_blocking"), true)?;
        let kept = future.clone().unbind();
        let mut core = lock(&server.core);
        if let Some(connection) = core.at(self.place) {
            let waiting = match awaited {
                Awaited::Message => &mut connection.readers,
                Awaited::Room => &mut connection.writers,
            };
            waiting.push(kept);
        }
        Ok(future.unbind())
    }
}

fn body_message<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyBytes>,
    more: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let message = PyDict::new(py);
    message.set_item(intern!(py, "type"), intern!(py, "http.request"))?;
    message.set_item(intern!(py, "body"), data)?;
    message.set_item(intern!(py, "more_body"), more)?;
    Ok(message)
}

fn disconnect_message(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let message = PyDict::new(py);
    message.set_item(intern!(py, "type"), intern!(py, "http.disconnect"))?;
    Ok(message)
}

fn socket_message(py: Python<'_>, delivery: Delivery) -> PyResult<Bound<'_, PyDict>> {
    let message = PyDict::new(py);
    let kind = intern!(py, "type");
    match delivery {
        Delivery::Connect => message.set_item(kind, intern!(py, "websocket.connect"))?,
        Delivery::Text(text) => {
            message.set_item(kind, intern!(py, "websocket.receive"))?;
            // The codec has checked it.
            message.set_item(intern!(py, "text"), PyString::from_bytes(py, &text)?)?;
        }
        Delivery::Binary(bytes) => {
            message.set_item(kind, intern!(py, "websocket.receive"))?;
            message.set_item(intern!(py, "bytes"), PyBytes::new(py, &bytes))?;
        }
        Delivery::Disconnect { code, reason } => {
            message.set_item(kind, intern!(py, "websocket.disconnect"))?;
            message.set_item(intern!(py, "code"), code)?;
            message.set_item(intern!(py, "reason"), reason)?;
        }
    }
    Ok(message)
}

/// The error for an application that ended without doing what it owed.
pub(crate) fn owed(websocket: bool) -> PyErr {
    if websocket {
        broken(
            "websocket.accept",
            "the application ended without answering the handshake",
        )
    } else {
        broken(
            "http.response.body",
            "the application ended without completing the response",
        )
    }
}
