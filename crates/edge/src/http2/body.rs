//! Bodies between a pipe, where they are framed as in HTTP/1.1, and a stream of HTTP/2. Nothing is
//! taken from the one side before the other has room for it, so that a slow reader is felt by
//! whoever writes.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use evener_http1::{BodyDecoder, Framing, write};
use evener_net::{FarEnd, Outward};
use h2::{RecvStream, SendStream};

use super::heads::{self, BodyForm};

/// Bytes put into one DATA frame at most (RFC 9113, 4.2: what every peer takes).
const FRAME_BYTES: usize = 16 * 1024;

/// The stream has ended before its time.
#[derive(Debug)]
pub(super) struct Cut;

/// From a stream into a pipe.
#[derive(Debug)]
pub(super) struct Inbound {
    stream: Option<RecvStream>,
    form: BodyForm,
}

impl Inbound {
    pub(super) fn new(stream: RecvStream, form: BodyForm) -> Inbound {
        let stream = (form != BodyForm::Empty).then_some(stream);
        Inbound { stream, form }
    }

    /// Whether all of it is in the pipe.
    pub(super) fn is_done(&self) -> bool {
        self.stream.is_none()
    }

    /// Moves what can be moved; how many bytes of body that were.
    pub(super) fn advance(
        &mut self,
        far: &FarEnd,
        context: &mut Context<'_>,
    ) -> Result<usize, Cut> {
        let mut moved = 0;
        while let Some(stream) = &mut self.stream {
            if !far.has_room() {
                break;
            }
            match stream.poll_data(context) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(data))) => {
                    moved += data.len();
                    far.push(|out| push_data(out, &data, self.form));
                    // It fails on a stream that is over, whose window nobody needs.
                    let _ = stream.flow_control().release_capacity(data.len());
                }
                Poll::Ready(Some(Err(_))) => return Err(Cut),
                Poll::Ready(None) => match stream.poll_trailers(context) {
                    Poll::Pending => break,
                    Poll::Ready(Err(_)) => return Err(Cut),
                    Poll::Ready(Ok(trailers)) => {
                        if self.form == BodyForm::Chunks {
                            far.push(|out| heads::write_last_chunk(out, trailers.as_ref()));
                        }
                        if self.form == BodyForm::Tunnel {
                            far.end();
                        }
                        self.stream = None;
                    }
                },
            }
        }
        Ok(moved)
    }
}

fn push_data(out: &mut Vec<u8>, data: &[u8], form: BodyForm) {
    if data.is_empty() {
        return;
    }
    if form == BodyForm::Chunks {
        write::chunk_start(out, data.len());
    }
    out.extend_from_slice(data);
    if form == BodyForm::Chunks {
        out.extend_from_slice(b"\r\n");
    }
}

/// From a pipe into a stream.
#[derive(Debug)]
pub(super) struct Outbound {
    stream: SendStream<Bytes>,
    /// `None` for a tunnel, whose bytes go as they are.
    decoder: Option<BodyDecoder>,
    /// Taken from the pipe, and not sent for want of window.
    pending: Bytes,
    /// `pending` is the last of it.
    last: bool,
    done: bool,
}

impl Outbound {
    pub(super) fn new(stream: SendStream<Bytes>, framing: Framing) -> Outbound {
        Outbound {
            stream,
            decoder: Some(BodyDecoder::new(framing)),
            pending: Bytes::new(),
            last: false,
            done: false,
        }
    }

    /// Whatever comes goes on as it is.
    pub(super) fn tunnel(stream: SendStream<Bytes>) -> Outbound {
        Outbound {
            decoder: None,
            ..Outbound::new(stream, Framing::Length(0))
        }
    }

    /// Whether the other side does not take what is there for it.
    pub(super) fn is_held_up(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether the end of it has been sent.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Ends the stream before its time.
    pub(super) fn reset(&mut self, reason: h2::Reason) {
        self.stream.send_reset(reason);
    }

    /// Whether the other side has given the stream up, and why.
    pub(super) fn poll_reset(&mut self, context: &mut Context<'_>) -> bool {
        self.stream.poll_reset(context).is_ready()
    }

    /// Moves what can be moved; how many bytes of body that were.
    pub(super) fn advance(
        &mut self,
        far: &FarEnd,
        context: &mut Context<'_>,
    ) -> Result<usize, Cut> {
        let mut moved = 0;
        while !self.done {
            if self.pending.is_empty() && !self.last {
                match far.outward(|outward| self.take(outward)) {
                    Ok(true) => {}
                    Ok(false) => return Ok(moved),
                    Err(cut) => return Err(cut),
                }
            }
            if self.pending.is_empty() {
                self.finish()?;
                break;
            }
            let Some(room) = self.poll_room(context)? else {
                // Whoever should write the rest may have gone in the meantime.
                let cut = !self.last && far.look();
                return if cut { Err(Cut) } else { Ok(moved) };
            };
            let data = self.pending.split_to(room.min(self.pending.len()));
            moved += data.len();
            let ends = self.last && self.pending.is_empty() && self.trailer().is_empty();
            self.stream.send_data(data, ends).map_err(|_| Cut)?;
            self.done = ends;
        }
        Ok(moved)
    }

    fn trailer(&self) -> &[u8] {
        self.decoder.as_ref().map_or(&[], BodyDecoder::trailer)
    }

    fn finish(&mut self) -> Result<(), Cut> {
        let trailers = heads::trailers(self.trailer());
        let sent = if trailers.is_empty() {
            self.stream.send_data(Bytes::new(), true)
        } else {
            self.stream.send_trailers(trailers)
        };
        self.done = true;
        sent.map_err(|_| Cut)
    }

    /// How many bytes the other side takes now.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Result<Option<usize>, Cut> {
        self.stream.reserve_capacity(self.pending.len());
        loop {
            match self.stream.capacity() {
                0 => {}
                room => return Ok(Some(room)),
            }
            match self.stream.poll_capacity(context) {
                Poll::Pending => return Ok(None),
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Err(Cut),
            }
        }
    }

    /// Takes up to a frame's worth from the pipe; `false` if there is nothing to take.
    fn take(&mut self, outward: Outward<'_>) -> (usize, Result<bool, Cut>) {
        let bytes = outward.bytes;
        let Some(decoder) = &mut self.decoder else {
            let count = bytes.len().min(FRAME_BYTES);
            self.pending = Bytes::copy_from_slice(&bytes[..count]);
            self.last = outward.ended && count == bytes.len();
            return match (count, self.last, outward.gone) {
                (0, false, true) => (0, Err(Cut)),
                _ => (count, Ok(count > 0 || self.last)),
            };
        };
        let mut at = 0;
        let mut frame = BytesMut::new();
        while at < bytes.len() && !decoder.is_done() && frame.len() < FRAME_BYTES {
            let until = bytes.len().min(at + FRAME_BYTES - frame.len());
            let Ok(piece) = decoder.decode(&bytes[at..until]) else {
                return (at, Err(Cut));
            };
            frame.extend_from_slice(&bytes[at + piece.data.start..at + piece.data.end]);
            at += piece.consumed;
        }
        self.last = decoder.is_done();
        let until_close = decoder.is_until_close() && outward.ended && at == bytes.len();
        self.last |= until_close;
        self.pending = frame.freeze();
        if self.pending.is_empty() && !self.last {
            let cut = outward.gone && at == bytes.len();
            return (at, if cut { Err(Cut) } else { Ok(false) });
        }
        (at, Ok(true))
    }
}
