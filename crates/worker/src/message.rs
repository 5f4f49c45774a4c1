//! Reads the messages that the application sends: dictionaries in, checked values out.
//!
//! Every rule that a single message can break is checked here, and the error names the message
//! and the rule. Rules about the order of messages are for `response` and `websocket`. Reading
//! may run Python code (any iterable may be a list of headers), so no lock is held meanwhile.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use crate::errors::{MessageError, broken};
use crate::output::Data;

/// The fixed part of a response, ready to be written.
#[derive(Debug, Default)]
pub(crate) struct Start {
    pub(crate) status: u16,
    /// Complete field lines, without those that frame the message.
    pub(crate) lines: Vec<u8>,
    pub(crate) content_length: Option<u64>,
    /// Whether the application set a date itself.
    pub(crate) dated: bool,
    /// Whether it wants the connection closed afterwards.
    pub(crate) close: bool,
    /// Whether it announced trailers.
    pub(crate) trailers: bool,
}

/// A message on an HTTP request's `send`.
#[derive(Debug)]
pub(crate) enum HttpMessage<'py> {
    Start(Start),
    Body { data: Data<'py>, more: bool },
    Trailers { lines: Vec<u8>, more: bool },
    EarlyHint { lines: Vec<u8> },
}

/// A message on a WebSocket's `send`.
#[derive(Debug)]
pub(crate) enum SocketMessage<'py> {
    Accept {
        subprotocol: Option<String>,
        lines: Vec<u8>,
    },
    Text(Bound<'py, PyString>),
    Bytes(Data<'py>),
    Close {
        code: u16,
        reason: String,
    },
    DenialStart(Start),
    DenialBody {
        data: Data<'py>,
        more: bool,
    },
}

/// A message and its type's name, for errors.
type Named<T> = (&'static str, T);

/// Reads a message on an HTTP request's `send`.
pub(crate) fn http<'py>(message: &Bound<'py, PyAny>) -> PyResult<Named<HttpMessage<'py>>> {
    let message = dictionary(message)?;
    let kind = kind_of(message)?;
    Ok(match kind.to_str()? {
        "http.response.body" => {
            let name = "http.response.body";
            (
                name,
                HttpMessage::Body {
                    data: body(message, name)?,
                    more: more_body(message)?,
                },
            )
        }
        "http.response.start" => {
            let name = "http.response.start";
            (name, HttpMessage::Start(start(message, name)?))
        }
        "http.response.trailers" => {
            let name = "http.response.trailers";
            let lines = fields(message, name, &mut Start::default())?;
            let more = flag(message, intern!(message.py(), "more_trailers"))?;
            (name, HttpMessage::Trailers { lines, more })
        }
        "http.response.early_hint" => {
            let name = "http.response.early_hint";
            (
                name,
                HttpMessage::EarlyHint {
                    lines: links(message, name)?,
                },
            )
        }
        other => return Err(unknown(other, "an HTTP request")),
    })
}

/// Reads a message on a WebSocket's `send`.
pub(crate) fn socket<'py>(message: &Bound<'py, PyAny>) -> PyResult<Named<SocketMessage<'py>>> {
    let message = dictionary(message)?;
    let kind = kind_of(message)?;
    Ok(match kind.to_str()? {
        "websocket.send" => ("websocket.send", payload(message)?),
        "websocket.accept" => ("websocket.accept", accept(message)?),
        "websocket.close" => ("websocket.close", close(message)?),
        "websocket.http.response.start" => {
            let name = "websocket.http.response.start";
            (name, SocketMessage::DenialStart(start(message, name)?))
        }
        "websocket.http.response.body" => {
            let name = "websocket.http.response.body";
            let (data, more) = (body(message, name)?, more_body(message)?);
            (name, SocketMessage::DenialBody { data, more })
        }
        other => return Err(unknown(other, "a WebSocket")),
    })
}

fn dictionary<'a, 'py>(message: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyDict>> {
    message.cast::<PyDict>().map_err(|_| {
        let found = type_name(message);
        MessageError::new_err(format!("an ASGI message must be a dict, not {found}"))
    })
}

fn kind_of<'py>(message: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyString>> {
    let kind = message.get_item(intern!(message.py(), "type"))?;
    kind.and_then(|kind| kind.cast_into::<PyString>().ok())
        .ok_or_else(|| MessageError::new_err("an ASGI message must have a 'type' that is a str"))
}

fn unknown(kind: &str, on: &str) -> PyErr {
    broken(kind, format_args!("no such message may be sent on {on}"))
}

fn start(message: &Bound<'_, PyDict>, name: &str) -> PyResult<Start> {
    let py = message.py();
    let status = message.get_item(intern!(py, "status"))?;
    let status = status.ok_or_else(|| broken(name, "'status' is missing"))?;
    let number = status
        .extract::<u16>()
        .ok()
        .filter(|number| (100..=999).contains(number));
    let number = number.ok_or_else(|| {
        broken(
            name,
            format_args!("'status' must be an int from 200 to 999, not {status}"),
        )
    })?;
    if number < 200 {
        return Err(broken(name, "'status' must not be informational (1xx)"));
    }
    let mut start = Start {
        status: number,
        ..Start::default()
    };
    start.lines = fields(message, name, &mut start)?;
    start.trailers = flag(message, intern!(py, "trailers"))?;
    Ok(start)
}

/// Writes the message's header fields as lines, and notes in `start` what they say about framing.
fn fields(message: &Bound<'_, PyDict>, name: &str, start: &mut Start) -> PyResult<Vec<u8>> {
    let Some(headers) = message.get_item(intern!(message.py(), "headers"))? else {
        return Ok(Vec::new());
    };
    let mut lines = Vec::with_capacity(256);
    let iterator = headers.try_iter().map_err(|_| {
        broken(
            name,
            "'headers' must be an iterable of [name, value] pairs of bytes",
        )
    })?;
    for pair in iterator {
        let pair = pair?;
        let wrong = || {
            broken(
                name,
                "each of 'headers' must be a [name, value] pair of bytes",
            )
        };
        let (field, value) = pair_of(&pair).ok_or_else(wrong)?;
        let field = field.cast::<PyBytes>().map_err(|_| wrong())?.as_bytes();
        let value = value.cast::<PyBytes>().map_err(|_| wrong())?.as_bytes();
        if field.is_empty() || !field.iter().all(|&byte| is_token(byte)) {
            let shown = field.escape_ascii();
            return Err(broken(
                name,
                format_args!("header name b'{shown}' is not a token"),
            ));
        }
        if value
            .iter()
            .any(|&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f)
        {
            let shown = field.escape_ascii();
            let rule = format_args!("the value of header b'{shown}' holds a control byte");
            return Err(broken(name, rule));
        }
        if note(field, value, name, start)? {
            evener_http1::write::field(&mut lines, field, value);
        }
    }
    Ok(lines)
}

fn pair_of<'py>(pair: &Bound<'py, PyAny>) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    if let Ok(pair) = pair.cast::<pyo3::types::PyTuple>() {
        return match pair.len() {
            2 => Some((pair.get_item(0).ok()?, pair.get_item(1).ok()?)),
            _ => None,
        };
    }
    let mut items = pair.try_iter().ok()?;
    let (name, value) = (items.next()?.ok()?, items.next()?.ok()?);
    items.next().is_none().then_some((name, value))
}

/// Notes what a field says about framing; false if the server writes that field itself.
fn note(field: &[u8], value: &[u8], name: &str, start: &mut Start) -> PyResult<bool> {
    match field.len() {
        4 if field.eq_ignore_ascii_case(b"date") => start.dated = true,
        10 if field.eq_ignore_ascii_case(b"connection") => {
            let is = |option: &[u8], known: &[&[u8]]| {
                known.iter().any(|name| option.eq_ignore_ascii_case(name))
            };
            start.close |= evener_http1::list_items(value).any(|option| is(option, &[b"close"]));
            // Whether the connection goes on is ours to say. Fields that the application names as
            // being for this connection only are not: the edge has to know them, to remove them.
            let usual: &[&[u8]] = &[b"close", b"keep-alive", b"upgrade"];
            return Ok(evener_http1::list_items(value).any(|option| !is(option, usual)));
        }
        14 if field.eq_ignore_ascii_case(b"content-length") => {
            let length = std::str::from_utf8(value)
                .ok()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse::<u64>().ok())
                .filter(|&length| start.content_length.is_none_or(|before| before == length));
            let rule = "header b'content-length' must be one decimal number";
            start.content_length = Some(length.ok_or_else(|| broken(name, rule))?);
            return Ok(false);
        }
        // How a message is framed is for the server to say: hop by hop, it is not the app's.
        10 if field.eq_ignore_ascii_case(b"keep-alive") => return Ok(false),
        17 if field.eq_ignore_ascii_case(b"transfer-encoding") => return Ok(false),
        _ => {}
    }
    Ok(true)
}

fn body<'py>(message: &Bound<'py, PyDict>, name: &str) -> PyResult<Data<'py>> {
    match message.get_item(intern!(message.py(), "body"))? {
        None => Ok(Data::Empty),
        Some(body) => bytes_like(body)
            .map_err(|found| broken(name, format_args!("'body' must be bytes, not {found}"))),
    }
}

fn bytes_like(value: Bound<'_, PyAny>) -> Result<Data<'_>, String> {
    let value = match value.cast_into_exact::<PyBytes>() {
        Ok(bytes) => return Ok(Data::Bytes(bytes)),
        Err(error) => error.into_inner(),
    };
    let py = value.py();
    let copied = pyo3::buffer::PyBuffer::<u8>::get(&value).and_then(|buffer| buffer.to_vec(py));
    // `str` has no buffer, so it is refused here like anything else that is not bytes.
    copied.map(Data::Copied).map_err(|_| type_name(&value))
}

fn more_body(message: &Bound<'_, PyDict>) -> PyResult<bool> {
    flag(message, intern!(message.py(), "more_body"))
}

fn flag(message: &Bound<'_, PyDict>, key: &Bound<'_, PyString>) -> PyResult<bool> {
    message
        .get_item(key)?
        .map_or(Ok(false), |value| value.is_truthy())
}

fn links(message: &Bound<'_, PyDict>, name: &str) -> PyResult<Vec<u8>> {
    let rule = "'links' must be an iterable of bytes without control bytes";
    let links = message.get_item(intern!(message.py(), "links"))?;
    let links = links.ok_or_else(|| broken(name, "'links' is missing"))?;
    let mut lines = Vec::new();
    for link in links.try_iter().map_err(|_| broken(name, rule))? {
        let link = link?;
        let link = link
            .cast::<PyBytes>()
            .map_err(|_| broken(name, rule))?
            .as_bytes();
        if link.iter().any(|&byte| byte < 0x20 || byte == 0x7f) {
            return Err(broken(name, rule));
        }
        evener_http1::write::field(&mut lines, b"link", link);
    }
    Ok(lines)
}

fn payload<'py>(message: &Bound<'py, PyDict>) -> PyResult<SocketMessage<'py>> {
    let name = "websocket.send";
    let py = message.py();
    let present = |key| PyResult::Ok(message.get_item(key)?.filter(|value| !value.is_none()));
    let (bytes, text) = (
        present(intern!(py, "bytes"))?,
        present(intern!(py, "text"))?,
    );
    match (bytes, text) {
        (None, Some(text)) => {
            let found = type_name(&text);
            let text = text.cast_into::<PyString>();
            let wrong = |_| broken(name, format_args!("'text' must be a str, not {found}"));
            Ok(SocketMessage::Text(text.map_err(wrong)?))
        }
        (Some(bytes), None) => bytes_like(bytes)
            .map(SocketMessage::Bytes)
            .map_err(|found| broken(name, format_args!("'bytes' must be bytes, not {found}"))),
        (None, None) => Err(broken(name, "one of 'bytes' and 'text' must be given")),
        (Some(_), Some(_)) => Err(broken(name, "only one of 'bytes' and 'text' may be given")),
    }
}

fn accept<'py>(message: &Bound<'py, PyDict>) -> PyResult<SocketMessage<'py>> {
    let name = "websocket.accept";
    let py = message.py();
    let subprotocol = match message.get_item(intern!(py, "subprotocol"))? {
        Some(value) if !value.is_none() => {
            let text = value.extract::<String>().ok();
            let text = text.filter(|text| !text.is_empty() && text.bytes().all(is_token));
            let rule = "'subprotocol' must be a str that is a token";
            Some(text.ok_or_else(|| broken(name, rule))?)
        }
        _ => None,
    };
    let lines = fields(message, name, &mut Start::default())?;
    for line in lines.split(|&byte| byte == b'\n') {
        let field = line.split(|&byte| byte == b':').next().unwrap_or_default();
        if field.len() > 14 && field[..14].eq_ignore_ascii_case(b"sec-websocket-") {
            let shown = field.escape_ascii();
            let rule = format_args!("header b'{shown}' is for the server to set");
            return Err(broken(name, rule));
        }
    }
    Ok(SocketMessage::Accept { subprotocol, lines })
}

fn close<'py>(message: &Bound<'py, PyDict>) -> PyResult<SocketMessage<'py>> {
    let name = "websocket.close";
    let py = message.py();
    let code = match message.get_item(intern!(py, "code"))? {
        Some(code) if !code.is_none() => code.extract::<u16>().ok().filter(|&code| {
            tungstenite::protocol::frame::coding::CloseCode::from(code).is_allowed()
        }),
        _ => Some(1000),
    };
    let code = code.ok_or_else(|| {
        broken(
            name,
            "'code' must be an int that RFC 6455 lets a server send (1000, 3000 to 4999 …)",
        )
    })?;
    let reason = match message.get_item(intern!(py, "reason"))? {
        Some(reason) if !reason.is_none() => reason
            .extract::<String>()
            .map_err(|_| broken(name, "'reason' must be a str"))?,
        _ => String::new(),
    };
    // RFC 6455, 5.5: a control frame holds at most 125 bytes, two of which are the code.
    if reason.len() > 123 {
        return Err(broken(name, "'reason' must be at most 123 bytes of UTF-8"));
    }
    Ok(SocketMessage::Close { code, reason })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    value
        .get_type()
        .name()
        .map_or_else(|_| "something else".to_owned(), |name| name.to_string())
}
