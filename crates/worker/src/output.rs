//! What a connection still has to send: a queue of pieces, small ones copied, large ones lent.
//!
//! A body larger than [`LEND_BYTES_MIN`] is not copied: the queue keeps a reference to the
//! application's own `bytes` until the socket has taken them. When to flush, and what a full
//! queue means for the application, is for `connection` and `exchange`.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::system;

/// From this size on a body is lent rather than copied.
pub(crate) const LEND_BYTES_MIN: usize = 8 * 1024;

/// A copy buffer that grew beyond this is not kept for reuse.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Most pieces that one system call takes.
const PIECES_MAX: usize = 16;

#[derive(Debug)]
enum Piece {
    Copied(Vec<u8>),
    Lent(Py<PyBytes>),
}

impl Piece {
    fn bytes<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        match self {
            Piece::Copied(bytes) => bytes,
            Piece::Lent(bytes) => bytes.as_bytes(py),
        }
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that were sent.
    sent: usize,
    /// Bytes in all pieces that were not sent.
    left: usize,
    /// An empty buffer kept for the next piece.
    spare: Vec<u8>,
}

impl Output {
    /// Bytes waiting to be sent.
    pub(crate) fn len(&self) -> usize {
        self.left
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Lets `write` append bytes.
    pub(crate) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.pieces.back(), Some(Piece::Copied(_))) {
            let buffer = std::mem::take(&mut self.spare);
            self.pieces.push_back(Piece::Copied(buffer));
        }
        let Some(Piece::Copied(buffer)) = self.pieces.back_mut() else {
            unreachable!("a copied piece was just made sure of");
        };
        let before = buffer.len();
        write(buffer);
        self.left += buffer.len() - before;
    }

    /// Appends data of the application: copied if small, else lent.
    pub(crate) fn append_data(&mut self, data: &Data<'_>) {
        match data {
            Data::Bytes(bytes) if bytes.as_bytes().len() >= LEND_BYTES_MIN => {
                self.left += bytes.as_bytes().len();
                self.pieces.push_back(Piece::Lent(bytes.clone().unbind()));
            }
            data => self.append(|buffer| buffer.extend_from_slice(data.as_slice())),
        }
    }

    /// Sends what the socket takes. Afterwards the queue is empty, or the socket is full.
    ///
    /// # Errors
    /// The socket's, when the connection is broken.
    pub(crate) fn flush(&mut self, py: Python<'_>, fd: RawFd) -> io::Result<()> {
        while self.left > 0 {
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            let mut offered = 0;
            let mut count = 0;
            for (index, piece) in self.pieces.iter().take(PIECES_MAX).enumerate() {
                let skip = if index == 0 { self.sent } else { 0 };
                let bytes = &piece.bytes(py)[skip..];
                slices[index] = IoSlice::new(bytes);
                offered += bytes.len();
                count = index + 1;
            }
            let taken = system::send(fd, &slices[..count])?;
            self.advance(py, taken);
            if taken < offered {
                return Ok(());
            }
        }
        Ok(())
    }

    fn advance(&mut self, py: Python<'_>, mut taken: usize) {
        self.left -= taken;
        while let Some(first) = self.pieces.front() {
            let rest = first.bytes(py).len() - self.sent;
            if taken < rest {
                self.sent += taken;
                return;
            }
            taken -= rest;
            self.sent = 0;
            if let Some(Piece::Copied(mut buffer)) = self.pieces.pop_front()
                && buffer.capacity() <= KEPT_BYTES_MAX
            {
                buffer.clear();
                self.spare = buffer;
            }
        }
    }
}

/// Bytes from the application on their way out.
#[derive(Debug)]
pub(crate) enum Data<'py> {
    /// Exactly `bytes`: immutable, so it can be lent.
    Bytes(Bound<'py, PyBytes>),
    /// Anything else that holds bytes, copied at once because it may change.
    Copied(Vec<u8>),
    /// None at all.
    Empty,
}

impl Data<'_> {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Data::Bytes(bytes) => bytes.as_bytes(),
            Data::Copied(bytes) => bytes,
            Data::Empty => &[],
        }
    }
}
