//! One stream between a client of HTTP/2 and the session that serves it.

use std::io::ErrorKind;
use std::task::Context;

use bytes::Bytes;
use evener_http1::{HeadLimits, ResponseHead, parse_response};
use evener_net::{FarEnd, Outward};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, Request};

use super::body::{Inbound, Outbound};
use super::heads::{self, BodyForm, Malformed};
use crate::core::{Core, READ_BYTES_LARGE};

/// A stream whose request is on its way to a session.
#[derive(Debug)]
pub(super) struct Stream {
    far: FarEnd,
    request: Inbound,
    response: Response,
    to_head: bool,
    tunnel: bool,
    /// When the client last took something of the response.
    moved_ms: u64,
}

#[derive(Debug)]
enum Response {
    /// Not begun.
    Awaited(SendResponse<Bytes>),
    /// Under way.
    Body(Outbound),
    /// All of it was in the head.
    Sent,
}

/// What became of a stream that had something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pumped {
    /// It goes on; so many bytes of bodies have moved.
    Open {
        /// Either way.
        bytes: usize,
    },
    /// The response is with `h2`.
    Answered {
        /// As above.
        bytes: usize,
    },
    /// One of the two sides has given it up.
    Cut,
}

/// What a session has said so far.
enum Said {
    Nothing,
    Interim(http::Response<()>),
    Final(ResponseHead, http::Response<()>),
    Garbage,
}

impl Stream {
    /// Puts the head of `request` in the session's way.
    pub(super) fn new(
        request: Request<RecvStream>,
        far: FarEnd,
        respond: SendResponse<Bytes>,
    ) -> Result<Stream, (Malformed, SendResponse<Bytes>)> {
        let (parts, body) = request.into_parts();
        let mut written = Ok(BodyForm::Empty);
        far.push(|out| written = heads::write_request(out, &parts, body.is_end_stream()));
        match written {
            Err(malformed) => Err((malformed, respond)),
            Ok(form) => Ok(Stream {
                far,
                request: Inbound::new(body, form),
                response: Response::Awaited(respond),
                to_head: parts.method == Method::HEAD,
                tunnel: form == BodyForm::Tunnel,
                moved_ms: 0,
            }),
        }
    }

    /// Moves both directions on.
    pub(super) fn pump(&mut self, core: &mut Core, context: &mut Context<'_>) -> Pumped {
        // What it was rung for is all looked at below.
        self.far.look();
        let given_up = match &mut self.response {
            Response::Awaited(respond) => respond.poll_reset(context).is_ready(),
            Response::Body(body) => body.poll_reset(context),
            Response::Sent => false,
        };
        if given_up {
            return Pumped::Cut;
        }
        let Ok(mut bytes) = self.request.advance(&self.far, context) else {
            return Pumped::Cut;
        };
        if let Response::Awaited(_) = &self.response
            && self.take_heads(core).is_err()
        {
            return self.fail(Reason::INTERNAL_ERROR);
        }
        match &mut self.response {
            Response::Awaited(_) => Pumped::Open { bytes },
            Response::Sent => self.answered(bytes),
            Response::Body(body) => match body.advance(&self.far, context) {
                Err(_) => self.fail(Reason::INTERNAL_ERROR),
                Ok(sent) => {
                    bytes += sent;
                    if sent > 0 || !body.is_held_up() {
                        self.moved_ms = core.now_ms();
                    }
                    // A tunnel is over when both directions are.
                    match body.is_done() && (!self.tunnel || self.request.is_done()) {
                        true => self.answered(bytes),
                        false => Pumped::Open { bytes },
                    }
                }
            },
        }
    }

    /// Whether the client has taken nothing of what waits for it since `since_ms`; then it is given
    /// up.
    pub(super) fn give_up_if_stuck(&mut self, since_ms: u64) -> bool {
        match &mut self.response {
            Response::Body(body) if body.is_held_up() && self.moved_ms < since_ms => {
                body.reset(Reason::CANCEL);
                true
            }
            _ => false,
        }
    }

    /// The session may go. What its client still sends is told to stop, by `h2`.
    fn answered(&mut self, bytes: usize) -> Pumped {
        self.far.end();
        Pumped::Answered { bytes }
    }

    /// The session has gone before it had answered, or has answered nonsense.
    fn fail(&mut self, reason: Reason) -> Pumped {
        match &mut self.response {
            Response::Awaited(respond) => respond.send_reset(reason),
            Response::Body(body) => body.reset(reason),
            Response::Sent => {}
        }
        self.far.break_off(ErrorKind::ConnectionReset);
        Pumped::Cut
    }

    /// Sends heads that the session has written.
    fn take_heads(&mut self, core: &mut Core) -> Result<(), Malformed> {
        while let Response::Awaited(respond) = &mut self.response {
            let (to_head, tunnel) = (self.to_head, self.tunnel);
            match self
                .far
                .outward(|outward| said(outward, core, to_head, tunnel))
            {
                Said::Nothing => return Ok(()),
                Said::Garbage => return Err(Malformed),
                // A client that has gone in the meantime is noticed at the next look.
                Said::Interim(response) => drop(respond.send_informational(response)),
                Said::Final(head, response) => {
                    let switched = tunnel && head.status == 101;
                    let empty = head.framing == evener_http1::Framing::Length(0) && !switched;
                    let stream = respond.send_response(response, empty);
                    let stream = stream.map_err(|_| Malformed)?;
                    self.tunnel = switched;
                    self.response = match (empty, switched) {
                        (true, _) => Response::Sent,
                        (_, true) => Response::Body(Outbound::tunnel(stream)),
                        _ => Response::Body(Outbound::new(stream, head.framing)),
                    };
                }
            }
        }
        Ok(())
    }
}

/// The next head in what a session has written.
fn said(outward: Outward<'_>, core: &mut Core, to_head: bool, tunnel: bool) -> (usize, Said) {
    let limits = HeadLimits {
        // The session has held the worker's head to its limits, and added to it.
        head_bytes: READ_BYTES_LARGE,
        header_count: usize::MAX,
        ..HeadLimits::default()
    };
    let bytes = outward.bytes;
    let parsed = parse_response(bytes, &mut core.fields, &limits, to_head);
    let head = match parsed {
        Ok(Some(head)) => head,
        Ok(None) if !outward.gone => return (0, Said::Nothing),
        _ => return (0, Said::Garbage),
    };
    let switched = tunnel && head.status == 101;
    match heads::response(bytes, &head, &core.fields, switched) {
        Err(_) => (head.length, Said::Garbage),
        Ok(response) if head.is_interim() => (head.length, Said::Interim(response)),
        Ok(response) => (head.length, Said::Final(head, response)),
    }
}
