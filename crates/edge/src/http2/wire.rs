//! The bytes of one HTTP/2 connection on their way between its socket, which the shard moves, and
//! the `h2` crate, which reads and writes here as if this were the socket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use evener_net::{Socket, Transfer};
use mio::Registry;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Encoded bytes that may wait for the socket before nothing more is encoded.
const OUTBOUND_BYTES_MAX: usize = 128 * 1024;

#[derive(Debug, Default)]
struct Buffers {
    inbound: Vec<u8>,
    inbound_read: usize,
    inbound_ended: bool,
    outbound: Vec<u8>,
}

/// Our end: the shard puts in what the socket gave, and takes out what it is to get.
#[derive(Debug, Default)]
pub(super) struct Wire {
    buffers: Arc<Mutex<Buffers>>,
    /// Taken out and not written yet, from `sent` on.
    output: Vec<u8>,
    sent: usize,
}

/// The `h2` crate's end.
#[derive(Debug)]
pub(super) struct WireEnd {
    buffers: Arc<Mutex<Buffers>>,
}

fn locked(buffers: &Mutex<Buffers>) -> MutexGuard<'_, Buffers> {
    buffers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    /// The end for the `h2` crate.
    pub(super) fn end(&self) -> WireEnd {
        WireEnd {
            buffers: self.buffers.clone(),
        }
    }

    /// Bytes that the socket gave.
    pub(super) fn put(&self, bytes: &[u8]) {
        locked(&self.buffers).inbound.extend_from_slice(bytes);
    }

    /// The socket gives no more.
    pub(super) fn end_input(&self) {
        locked(&self.buffers).inbound_ended = true;
    }

    /// Whether the `h2` crate has read everything that was put in.
    pub(super) fn is_drained(&self) -> bool {
        let buffers = locked(&self.buffers);
        buffers.inbound_read == buffers.inbound.len()
    }

    /// Whether bytes wait for the socket.
    pub(super) fn has_output(&self) -> bool {
        self.sent < self.output.len() || !locked(&self.buffers).outbound.is_empty()
    }

    /// Gives memory back that an idle connection does not need.
    pub(super) fn shrink(&mut self) {
        let mut buffers = locked(&self.buffers);
        if !buffers.inbound.is_empty() || !buffers.outbound.is_empty() || !self.output.is_empty() {
            return;
        }
        buffers.inbound = Vec::new();
        buffers.outbound = Vec::new();
        self.output = Vec::new();
    }

    /// Gives the socket what waits for it: how many bytes it took, or how it broke.
    pub(super) fn write_to(
        &mut self,
        socket: &mut Socket,
        registry: &Registry,
    ) -> Result<usize, io::ErrorKind> {
        let mut written = 0;
        loop {
            if self.sent == self.output.len() {
                self.output.clear();
                self.sent = 0;
                std::mem::swap(&mut self.output, &mut locked(&self.buffers).outbound);
                if self.output.is_empty() {
                    return Ok(written);
                }
            }
            match socket.write(&self.output[self.sent..]) {
                Transfer::Bytes(count) => {
                    self.sent += count;
                    written += count;
                }
                Transfer::Blocked | Transfer::End => {
                    // Without the registration the deadline on the client ends the wait.
                    let _ = socket.await_writable(registry);
                    return Ok(written);
                }
                Transfer::Broken(kind) => return Err(kind),
            }
        }
    }
}

impl AsyncRead for WireEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut buffers = locked(&self.buffers);
        let waiting = &buffers.inbound[buffers.inbound_read..];
        let count = waiting.len().min(buffer.remaining());
        if count == 0 && !buffers.inbound_ended {
            // Whoever puts something in polls again.
            return Poll::Pending;
        }
        buffer.put_slice(&waiting[..count]);
        buffers.inbound_read += count;
        if buffers.inbound_read == buffers.inbound.len() {
            buffers.inbound.clear();
            buffers.inbound_read = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WireEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut buffers = locked(&self.buffers);
        if buffers.outbound.len() >= OUTBOUND_BYTES_MAX {
            // Whoever takes something out polls again.
            return Poll::Pending;
        }
        let before = buffers.outbound.len();
        for slice in slices {
            buffers.outbound.extend_from_slice(slice);
        }
        Poll::Ready(Ok(buffers.outbound.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
