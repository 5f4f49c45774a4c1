//! What is sent of a file, read piece by piece: the whole, a part, or several with lines between.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use evener_http1::write;

use crate::core::READ_BYTES;

/// What is still to be sent of a file.
#[derive(Debug)]
pub(crate) struct FileBody {
    file: File,
    /// Pieces in order, the next one first.
    pieces: VecDeque<Piece>,
    /// The length of all of them.
    pub(crate) length: u64,
    /// Goes through the encoder, in chunks.
    pub(crate) encoded: bool,
}

#[derive(Debug)]
enum Piece {
    Text(Vec<u8>),
    Part(Range<u64>),
}

impl FileBody {
    /// Nothing of a file yet.
    pub(crate) fn new(file: File, encoded: bool) -> FileBody {
        FileBody {
            file,
            pieces: VecDeque::new(),
            length: 0,
            encoded,
        }
    }

    /// Whether all of it has been read.
    pub(crate) fn is_over(&self) -> bool {
        self.pieces.is_empty()
    }

    /// These bytes of the file come next.
    pub(crate) fn push_part(&mut self, part: Range<u64>) {
        self.push(Piece::Part(part));
    }

    fn push(&mut self, piece: Piece) {
        self.length += match &piece {
            Piece::Text(text) => text.len() as u64,
            Piece::Part(part) => part.end - part.start,
        };
        self.pieces.push_back(piece);
    }

    /// Several parts with lines between them (RFC 9110, 14.6).
    pub(crate) fn push_multipart(
        &mut self,
        fields: &mut Vec<u8>,
        parts: &[Range<u64>],
        media: &str,
        length: u64,
        id: &[u8],
    ) {
        let boundary = format!("part-{}", String::from_utf8_lossy(id));
        let kind = format!("multipart/byteranges; boundary={boundary}");
        write::field(fields, b"Content-Type", kind.as_bytes());
        for part in parts {
            let (first, last) = (part.start, part.end - 1);
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: {media}\r\n\
                 Content-Range: bytes {first}-{last}/{length}\r\n\r\n"
            );
            self.push(Piece::Text(head.into_bytes()));
            self.push(Piece::Part(part.clone()));
        }
        self.push(Piece::Text(format!("\r\n--{boundary}--\r\n").into_bytes()));
    }

    /// Appends the next bytes to `out`; none at the end. An error is a file that has become
    /// shorter, or cannot be read.
    pub(crate) fn read(&mut self, out: &mut Vec<u8>) -> Result<(), ()> {
        let Some(piece) = self.pieces.front_mut() else {
            return Ok(());
        };
        match piece {
            Piece::Text(text) => {
                out.append(text);
                self.pieces.pop_front();
            }
            Piece::Part(part) => {
                let most = (part.end - part.start).min(READ_BYTES as u64);
                let start = out.len();
                out.resize(start + most as usize, 0);
                let read = self.file.read_at(&mut out[start..], part.start);
                let count = read.unwrap_or(0);
                out.truncate(start + count);
                if count == 0 && most > 0 {
                    return Err(());
                }
                part.start += count as u64;
                if part.start == part.end {
                    self.pieces.pop_front();
                }
            }
        }
        Ok(())
    }
}
