//! One HTTP response: the order of its messages, its head and its framing.
//!
//! The head is held back until the first body message: only then is it known whether the body is
//! complete, and until then a failing application can still be answered for with a 500. What was
//! written goes into the connection's `Output`; when that is flushed is for `connection`.

use evener_http1::{Method, RequestHead, Version, write};

use crate::errors::SendError;
use crate::message::Start;
use crate::output::{Data, Output};

/// How far the response has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing yet.
    #[default]
    Expected,
    /// `http.response.start` has come; nothing has been written.
    Started,
    /// The head has been written.
    Body,
    /// The body has ended; trailers are awaited.
    Trailers,
    /// Everything has been written.
    Complete,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    /// The message has no body (HEAD, 204, 304): data is dropped.
    #[default]
    None,
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
    UntilClose,
}

/// What the head depends on besides the application's own messages.
pub(crate) struct Setting<'a> {
    pub(crate) request: &'a RequestHead,
    /// The current date as an HTTP date.
    pub(crate) date: &'a [u8],
    /// Whether the connection is to be kept; cleared if the response makes that impossible.
    pub(crate) keep_alive: &'a mut bool,
}

/// The state of one response.
#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) stage: Stage,
    start: Start,
    framing: Framing,
}

impl Response {
    /// Whether bytes of the response have been written.
    pub(crate) fn is_written(&self) -> bool {
        !matches!(self.stage, Stage::Expected | Stage::Started)
    }

    /// Takes `http.response.start`.
    pub(crate) fn start(&mut self, start: Start) -> Result<(), SendError> {
        match self.stage {
            Stage::Expected => {
                self.start = start;
                self.stage = Stage::Started;
                Ok(())
            }
            Stage::Complete => Err(SendError::Rule("the response is already complete")),
            _ => Err(SendError::Rule("the response has already started")),
        }
    }

    /// Takes `http.response.body`; afterwards the stage says whether the response is complete.
    pub(crate) fn body(
        &mut self,
        output: &mut Output,
        setting: Setting<'_>,
        data: &Data<'_>,
        more: bool,
    ) -> Result<(), SendError> {
        match self.stage {
            Stage::Expected => {
                return Err(SendError::Rule("it must come after 'http.response.start'"));
            }
            Stage::Trailers => {
                return Err(SendError::Rule("'http.response.trailers' must come next"));
            }
            Stage::Complete => {
                return Err(SendError::Rule("the response is already complete"));
            }
            Stage::Started => self.head(output, setting, data.as_slice().len(), more),
            Stage::Body => {}
        }
        self.data(output, data)?;
        if more {
            return Ok(());
        }
        match self.framing {
            Framing::Length(0) | Framing::None | Framing::UntilClose => {
                self.stage = Stage::Complete;
            }
            Framing::Length(_) => {
                return Err(SendError::Rule(
                    "the body is shorter than 'content-length' says",
                ));
            }
            Framing::Chunked if self.start.trailers => self.stage = Stage::Trailers,
            Framing::Chunked => {
                output.append(|buffer| write::last_chunk(buffer, b""));
                self.stage = Stage::Complete;
            }
        }
        // Trailers after a body that is not chunked have no place: they are taken and dropped.
        if self.start.trailers && self.framing != Framing::Chunked {
            self.stage = Stage::Trailers;
        }
        Ok(())
    }

    /// Takes `http.response.trailers`.
    pub(crate) fn trailers(
        &mut self,
        output: &mut Output,
        lines: &[u8],
        more: bool,
    ) -> Result<(), SendError> {
        if self.stage != Stage::Trailers {
            return Err(SendError::Rule(
                "it must come after the last 'http.response.body' of a response that was \
                 started with 'trailers': True",
            ));
        }
        self.start.lines.extend_from_slice(lines);
        if more {
            return Ok(());
        }
        if self.framing == Framing::Chunked {
            output.append(|buffer| write::last_chunk(buffer, &self.start.lines));
        }
        self.stage = Stage::Complete;
        Ok(())
    }

    /// Writes the head, now that the first body message shows how the body is to be framed.
    fn head(&mut self, output: &mut Output, setting: Setting<'_>, first: usize, more: bool) {
        let Setting {
            request,
            date,
            keep_alive,
        } = setting;
        let bodiless = request.method == Method::Head || matches!(self.start.status, 204 | 304);
        let whole = !more && !self.start.trailers;
        let known = match self.start.content_length {
            Some(length) => Some(length),
            // A HEAD without a body says nothing about the length of the GET's.
            None if whole && !(bodiless && first == 0) => Some(first as u64),
            None => None,
        };
        self.framing = match known {
            _ if bodiless => Framing::None,
            Some(length) => Framing::Length(length),
            None if request.version == Version::H11 => Framing::Chunked,
            None => Framing::UntilClose,
        };
        *keep_alive &= !self.start.close && self.framing != Framing::UntilClose;
        output.append(|buffer| {
            write::status_line(buffer, self.start.status);
            if !self.start.dated {
                write::field(buffer, b"date", date);
            }
            buffer.extend_from_slice(&self.start.lines);
            if let Some(length) = known.filter(|_| self.start.status != 204) {
                buffer.extend_from_slice(b"content-length: ");
                write::decimal(buffer, length);
                buffer.extend_from_slice(b"\r\n");
            } else if self.framing == Framing::Chunked {
                buffer.extend_from_slice(b"transfer-encoding: chunked\r\n");
            }
            match (*keep_alive, request.version) {
                (false, _) => buffer.extend_from_slice(b"connection: close\r\n"),
                (true, Version::H10) => buffer.extend_from_slice(b"connection: keep-alive\r\n"),
                (true, Version::H11) => {}
            }
            buffer.extend_from_slice(b"\r\n");
        });
        self.start.lines.clear();
        self.stage = Stage::Body;
    }

    fn data(&mut self, output: &mut Output, data: &Data<'_>) -> Result<(), SendError> {
        let length = data.as_slice().len();
        if length == 0 {
            return Ok(());
        }
        match &mut self.framing {
            Framing::None => {}
            Framing::Length(left) => {
                *left = left.checked_sub(length as u64).ok_or(SendError::Rule(
                    "the body is longer than 'content-length' says",
                ))?;
                output.append_data(data);
            }
            Framing::Chunked => {
                output.append(|buffer| write::chunk_start(buffer, length));
                output.append_data(data);
                output.append(|buffer| buffer.extend_from_slice(b"\r\n"));
            }
            Framing::UntilClose => output.append_data(data),
        }
        Ok(())
    }
}
