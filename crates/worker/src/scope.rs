//! Builds the ASGI scope of one request or WebSocket from its head.
//!
//! The dictionary is copied from a template that holds every key already, so that it never grows;
//! only what differs from request to request is set. Keys follow the ASGI specification, HTTP and
//! WebSocket, version 2.4. Nothing is decided here about the request: `connection` has read it,
//! `run` hands it to the application.

use std::borrow::Cow;
use std::sync::Mutex;

use evener_http1::{Field, FieldName, Fields, RequestHead, Version};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::lock;
use crate::names::HeaderNames;

/// The version of the ASGI specification's HTTP and WebSocket parts that this server follows:
/// with 2.4 a send after a disconnect raises `OSError`.
const SPEC_VERSION: &str = "2.4";

/// The port of the client as the edge tells it.
const CLIENT_PORT: &[u8] = b"x-evener-client-port";

/// Who is at the ends of a connection, as the scope shows it.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Whether the other end is the edge, whose header fields are believed.
    pub(crate) edge: bool,
    /// Whether it is a unix socket.
    pub(crate) unix: bool,
    /// `(host, port)` of the other end, or None.
    pub(crate) client: Py<PyAny>,
    /// `(host, port)` or `(path, None)` of this end.
    pub(crate) server: Py<PyAny>,
}

impl Ends {
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Ends {
        Ends {
            edge: self.edge,
            unix: self.unix,
            client: self.client.clone_ref(py),
            server: self.server.clone_ref(py),
        }
    }
}

/// What a scope is built from.
pub(crate) struct Request<'a> {
    /// The bytes that the head was parsed from.
    pub(crate) bytes: &'a [u8],
    pub(crate) head: &'a RequestHead,
    pub(crate) fields: &'a Fields,
    pub(crate) ends: &'a Ends,
    /// The client speaks HTTP/2; what has come is HTTP/1.1.
    pub(crate) over_http2: bool,
}

/// Everything about scopes that does not change while the server runs.
#[derive(Debug)]
pub(crate) struct Scopes {
    http: Py<PyDict>,
    websocket: Py<PyDict>,
    asgi: Py<PyDict>,
    http_extensions: Py<PyDict>,
    websocket_extensions: Py<PyDict>,
    /// What the lifespan left for the requests; copied for each of them.
    state: Option<Py<PyDict>>,
    root_path: String,
    names: Mutex<HeaderNames>,
}

impl Scopes {
    pub(crate) fn new(
        py: Python<'_>,
        root_path: String,
        state: Option<Py<PyDict>>,
    ) -> PyResult<Scopes> {
        let asgi = PyDict::new(py);
        asgi.set_item("version", "3.0")?;
        asgi.set_item("spec_version", SPEC_VERSION)?;
        let http_extensions = PyDict::new(py);
        http_extensions.set_item("http.response.trailers", PyDict::new(py))?;
        http_extensions.set_item("http.response.early_hint", PyDict::new(py))?;
        let websocket_extensions = PyDict::new(py);
        websocket_extensions.set_item("websocket.http.response", PyDict::new(py))?;
        Ok(Scopes {
            http: template(py, "http", &root_path, state.is_some())?,
            websocket: template(py, "websocket", &root_path, state.is_some())?,
            asgi: asgi.unbind(),
            http_extensions: http_extensions.unbind(),
            websocket_extensions: websocket_extensions.unbind(),
            state,
            root_path,
            names: Mutex::new(HeaderNames::new()),
        })
    }

    /// The scope of an HTTP request.
    pub(crate) fn http<'py>(
        &self,
        py: Python<'py>,
        request: &Request<'_>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let scope = self.http.bind(py).copy()?;
        let method = request.head.method_span.of(request.bytes);
        scope.set_item(intern!(py, "method"), method_name(py, method))?;
        scope.set_item(
            intern!(py, "extensions"),
            self.http_extensions.bind(py).copy()?,
        )?;
        let scheme = self.fill(py, &scope, request)?;
        if scheme == Scheme::Secure {
            scope.set_item(intern!(py, "scheme"), intern!(py, "https"))?;
        }
        Ok(scope)
    }

    /// The scope of a WebSocket; `subprotocols` as the client listed them.
    pub(crate) fn websocket<'py>(
        &self,
        py: Python<'py>,
        request: &Request<'_>,
        subprotocols: &[String],
    ) -> PyResult<Bound<'py, PyDict>> {
        let scope = self.websocket.bind(py).copy()?;
        scope.set_item(intern!(py, "subprotocols"), PyList::new(py, subprotocols)?)?;
        scope.set_item(
            intern!(py, "extensions"),
            self.websocket_extensions.bind(py).copy()?,
        )?;
        let scheme = self.fill(py, &scope, request)?;
        if scheme == Scheme::Secure {
            scope.set_item(intern!(py, "scheme"), intern!(py, "wss"))?;
        }
        Ok(scope)
    }

    fn fill(
        &self,
        py: Python<'_>,
        scope: &Bound<'_, PyDict>,
        request: &Request<'_>,
    ) -> PyResult<Scheme> {
        let target = request.head.path_and_query(request.bytes);
        let query_at = target.iter().position(|&byte| byte == b'?');
        let (raw_path, query) = match query_at {
            Some(at) => (&target[..at], &target[at + 1..]),
            None => (target, &[][..]),
        };
        self.set_path(py, scope, raw_path)?;
        scope.set_item(intern!(py, "query_string"), PyBytes::new(py, query))?;
        if request.over_http2 {
            scope.set_item(intern!(py, "http_version"), intern!(py, "2"))?;
        } else if request.head.version == Version::H10 {
            scope.set_item(intern!(py, "http_version"), intern!(py, "1.0"))?;
        }
        scope.set_item(intern!(py, "asgi"), self.asgi.bind(py).copy()?)?;
        scope.set_item(intern!(py, "headers"), self.headers(py, request)?)?;
        if let Some(state) = &self.state {
            scope.set_item(intern!(py, "state"), state.bind(py).copy()?)?;
        }
        let ends = request.ends;
        scope.set_item(intern!(py, "server"), ends.server.bind(py))?;
        if !ends.edge {
            scope.set_item(intern!(py, "client"), ends.client.bind(py))?;
            return Ok(Scheme::Plain);
        }
        match request.fields.first(FieldName::XRealIp) {
            Some(field) => {
                let host = text(py, field.value.of(request.bytes));
                scope.set_item(intern!(py, "client"), (host, client_port(request)))?;
            }
            None => scope.set_item(intern!(py, "client"), ends.client.bind(py))?,
        }
        Ok(request
            .fields
            .first(FieldName::XForwardedProto)
            .map_or(Scheme::Plain, |field| {
                Scheme::of(field.value.of(request.bytes))
            }))
    }

    fn set_path(&self, py: Python<'_>, scope: &Bound<'_, PyDict>, raw: &[u8]) -> PyResult<()> {
        let raw = if self.root_path.is_empty() {
            Cow::Borrowed(raw)
        } else {
            Cow::Owned([self.root_path.as_bytes(), raw].concat())
        };
        let path = match percent_decoded(&raw) {
            // The head's target is visible ASCII, and the root path came as a string.
            None => text(py, &raw),
            Some(decoded) => PyString::new(py, &String::from_utf8_lossy(&decoded)),
        };
        scope.set_item(intern!(py, "path"), path)?;
        scope.set_item(intern!(py, "raw_path"), PyBytes::new(py, &raw))
    }

    fn headers<'py>(&self, py: Python<'py>, request: &Request<'_>) -> PyResult<Bound<'py, PyList>> {
        let mut names = lock(&self.names);
        let mut failed = None;
        let pairs = request.fields.iter().map(|field: &Field| {
            let name = names.lowered(py, field.name.of(request.bytes));
            let value = PyBytes::new(py, field.value.of(request.bytes));
            let pair = PyTuple::new(py, [name, value]);
            pair.unwrap_or_else(|error| {
                failed = Some(error);
                PyTuple::empty(py)
            })
        });
        let list = PyList::new(py, pairs)?;
        failed.map_or(Ok(list), Err)
    }

    /// The Python objects held, for the garbage collector.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Py<PyDict>> {
        [
            &self.http,
            &self.websocket,
            &self.asgi,
            &self.http_extensions,
            &self.websocket_extensions,
        ]
        .into_iter()
        .chain(&self.state)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Plain,
    Secure,
}

impl Scheme {
    fn of(value: &[u8]) -> Scheme {
        let secure = value.eq_ignore_ascii_case(b"https") || value.eq_ignore_ascii_case(b"wss");
        if secure {
            Scheme::Secure
        } else {
            Scheme::Plain
        }
    }
}

/// A scope with every key, and the values that rarely differ.
fn template(py: Python<'_>, kind: &str, root_path: &str, state: bool) -> PyResult<Py<PyDict>> {
    let scope = PyDict::new(py);
    let none = py.None();
    scope.set_item(intern!(py, "type"), kind)?;
    scope.set_item(intern!(py, "asgi"), &none)?;
    scope.set_item(intern!(py, "http_version"), intern!(py, "1.1"))?;
    scope.set_item(intern!(py, "server"), &none)?;
    scope.set_item(intern!(py, "client"), &none)?;
    if kind == "http" {
        scope.set_item(intern!(py, "scheme"), intern!(py, "http"))?;
        scope.set_item(intern!(py, "method"), &none)?;
    } else {
        scope.set_item(intern!(py, "scheme"), intern!(py, "ws"))?;
        scope.set_item(intern!(py, "subprotocols"), &none)?;
    }
    scope.set_item(intern!(py, "root_path"), root_path)?;
    scope.set_item(intern!(py, "path"), &none)?;
    scope.set_item(intern!(py, "raw_path"), &none)?;
    scope.set_item(intern!(py, "query_string"), &none)?;
    scope.set_item(intern!(py, "headers"), &none)?;
    scope.set_item(intern!(py, "extensions"), &none)?;
    if state {
        scope.set_item(intern!(py, "state"), &none)?;
    }
    Ok(scope.unbind())
}

fn method_name<'py>(py: Python<'py>, method: &[u8]) -> Bound<'py, PyString> {
    match method {
        b"GET" => intern!(py, "GET").clone(),
        b"POST" => intern!(py, "POST").clone(),
        b"PUT" => intern!(py, "PUT").clone(),
        b"PATCH" => intern!(py, "PATCH").clone(),
        b"DELETE" => intern!(py, "DELETE").clone(),
        b"HEAD" => intern!(py, "HEAD").clone(),
        b"OPTIONS" => intern!(py, "OPTIONS").clone(),
        // The specification wants it in upper case; a token is ASCII.
        other => text(py, &other.to_ascii_uppercase()),
    }
}

fn client_port(request: &Request<'_>) -> u16 {
    request
        .fields
        .iter()
        .filter(|field| field.known == FieldName::Other)
        .find(|field| {
            field
                .name
                .of(request.bytes)
                .eq_ignore_ascii_case(CLIENT_PORT)
        })
        .and_then(|field| std::str::from_utf8(field.value.of(request.bytes)).ok())
        .and_then(|port| port.parse().ok())
        .unwrap_or(0)
}

/// Bytes that are ASCII in practice, as a string; anything else is replaced.
fn text<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    match std::str::from_utf8(bytes) {
        Ok(text) => PyString::new(py, text),
        Err(_) => PyString::new(py, &String::from_utf8_lossy(bytes)),
    }
}

/// Decodes `%XX`; `None` when there is nothing to decode. What is not two hex digits stays.
fn percent_decoded(raw: &[u8]) -> Option<Vec<u8>> {
    let first = raw.iter().position(|&byte| byte == b'%')?;
    let mut decoded = Vec::with_capacity(raw.len());
    decoded.extend_from_slice(&raw[..first]);
    let mut rest = &raw[first..];
    while let [byte, after @ ..] = rest {
        rest = after;
        if let (b'%', [high, low, after @ ..]) = (byte, after)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            decoded.push(high << 4 | low);
            rest = after;
            continue;
        }
        decoded.push(*byte);
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::percent_decoded;

    #[test]
    fn percent_decoding() {
        assert_eq!(percent_decoded(b"/plain"), None);
        assert_eq!(percent_decoded(b"/a%20b%2Fc").unwrap(), b"/a b/c");
        assert_eq!(
            percent_decoded(b"/%e2%82%AC").unwrap(),
            "/\u{20ac}".as_bytes()
        );
        for odd in [&b"%"[..], b"%4", b"%zz", b"100%", b"%%41"] {
            let decoded = percent_decoded(odd).unwrap();
            assert!(
                decoded.starts_with(b"%") || odd == b"100%",
                "{}",
                odd.escape_ascii()
            );
        }
        assert_eq!(percent_decoded(b"%%41").unwrap(), b"%A");
    }
}
