//! Collects what goes out in one write: pieces of the read buffer as they lie, and small pieces
//! (heads, chunk lines) serialised beside them.

use std::io::IoSlice;

/// Spans shorter than this are copied beside the framing instead of becoming a part of their own:
/// one slice goes out by `send`, which costs the kernel less than `writev` does.
const COPY_BYTES_MAX: usize = 4096;
/// The most parts of one write; Linux takes 1,024, fewer keep the stack small.
const PARTS_MAX: usize = 64;

#[derive(Debug, Clone, Copy)]
enum Part {
    Own { start: usize, end: usize },
    Input { start: usize, end: usize },
}

/// An ordered list of byte ranges, some in its own buffer, some in one input buffer.
#[derive(Debug, Default)]
pub struct Gather {
    own: Vec<u8>,
    parts: Vec<Part>,
    bytes: usize,
}

impl Gather {
    /// An empty list.
    pub fn new() -> Gather {
        Gather::default()
    }

    /// Forgets everything, keeping what was allocated.
    pub fn clear(&mut self) {
        self.own.clear();
        self.parts.clear();
        self.bytes = 0;
    }

    /// Total length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether another data span might not fit in one write any more.
    pub fn is_full(&self) -> bool {
        self.parts.len() + 2 > PARTS_MAX
    }

    /// Appends whatever `write` pushes onto the buffer it is given.
    pub fn own(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.own.len();
        write(&mut self.own);
        let end = self.own.len();
        self.bytes += end - start;
        match self.parts.last_mut() {
            Some(Part::Own { end: last, .. }) if *last == start => *last = end,
            _ if start == end => {}
            _ => self.parts.push(Part::Own { start, end }),
        }
    }

    /// Appends `input[start..end]`. Every call up to the next `clear` must mean the same input.
    pub fn input(&mut self, input: &[u8], start: usize, end: usize) {
        match self.parts.last_mut() {
            Some(Part::Input { end: last, .. }) if *last == start => {
                *last = end;
                self.bytes += end - start;
            }
            _ if end - start < COPY_BYTES_MAX => {
                self.own(|own| own.extend_from_slice(&input[start..end]));
            }
            _ => {
                self.bytes += end - start;
                self.parts.push(Part::Input { start, end });
            }
        }
    }

    /// Moves a head that was just written to where it ends at `input[at]`, so that it leaves in one
    /// slice with what follows there. Does nothing if there is not so much room before it. What
    /// lay there is lost: in a buffer that was read into, the head that the new one replaces.
    pub fn place_before(&mut self, input: &mut [u8], at: usize) {
        if let [Part::Own { start, end }] = self.parts[..]
            && let Some(from) = at.checked_sub(end - start)
        {
            input[from..at].copy_from_slice(&self.own[start..end]);
            self.parts[0] = Part::Input {
                start: from,
                end: at,
            };
        }
    }

    /// Calls `write` with the parts as I/O slices.
    pub fn with_slices<R>(&self, input: &[u8], write: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        let mut slices = [IoSlice::new(&[]); PARTS_MAX];
        let count = self.parts.len().min(PARTS_MAX);
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(self.bytes_of(*part, input));
        }
        write(&slices[..count])
    }

    /// Appends what is left after the first `written` bytes to `out`.
    pub fn copy_rest(&self, input: &[u8], mut written: usize, out: &mut Vec<u8>) {
        for part in &self.parts {
            let bytes = self.bytes_of(*part, input);
            let skipped = written.min(bytes.len());
            written -= skipped;
            out.extend_from_slice(&bytes[skipped..]);
        }
    }

    fn bytes_of<'a>(&'a self, part: Part, input: &'a [u8]) -> &'a [u8] {
        match part {
            Part::Own { start, end } => &self.own[start..end],
            Part::Input { start, end } => &input[start..end],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_goes_before_the_body_where_there_is_room() {
        let mut input = *b"old head|body";
        let sent = |gather: &Gather, input: &[u8]| {
            gather.with_slices(input, |slices| {
                let parts: Vec<Vec<u8>> = slices.iter().map(|slice| slice.to_vec()).collect();
                parts
            })
        };
        let mut gather = Gather::new();
        gather.own(|own| own.extend_from_slice(b"a longer head|"));
        gather.place_before(&mut input, 9);
        gather.input(&input, 9, 13);
        assert_eq!(sent(&gather, &input), [b"a longer head|body"], "no room");
        assert_eq!(&input, b"old head|body");

        gather.clear();
        gather.own(|own| own.extend_from_slice(b"head|"));
        gather.place_before(&mut input, 9);
        gather.input(&input, 9, 11);
        gather.input(&input, 11, 13);
        assert_eq!(sent(&gather, &input), [b"head|body"]);
        assert_eq!(gather.len(), 9);
        let mut rest = Vec::new();
        gather.copy_rest(&input, 3, &mut rest);
        assert_eq!(rest, b"d|body");
    }

    #[test]
    fn parts_keep_their_order_and_the_rest_is_what_was_not_written() {
        let input = vec![b'x'; 9000];
        let mut gather = Gather::new();
        gather.own(|own| own.extend_from_slice(b"head"));
        gather.input(&input, 0, 10);
        gather.input(&input, 10, 8010);
        gather.own(|own| own.extend_from_slice(b"tail"));
        let whole = [&b"head"[..], &[b'x'; 8010], b"tail"].concat();
        assert_eq!(gather.len(), whole.len());
        let slices = gather.with_slices(&input, |slices| {
            slices
                .iter()
                .flat_map(|slice| slice.to_vec())
                .collect::<Vec<u8>>()
        });
        assert_eq!(slices, whole);
        for written in [0, 3, 4, 14, 500, 8014, 8018] {
            let mut rest = Vec::new();
            gather.copy_rest(&input, written, &mut rest);
            assert_eq!(rest, whole[written..], "after {written}");
        }
    }
}
