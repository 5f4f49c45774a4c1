//! How much work a client may cause that asks for nothing: frames are counted as they come in, by
//! kind, and each kind that costs us more than its sender has an allowance that grows with time and
//! with what is really asked for.
//!
//! The `h2` crate bounds what it keeps (header lists, CONTINUATION frames, streams that were reset
//! before they were accepted, empty DATA); here is bounded what it merely does, and what it cannot
//! see the cost of: a stream that is reset has sent a request to a worker.

/// Control frames that may come at once.
const CONTROL_MAX: u64 = 2_000;
/// Further control frames for each millisecond.
const CONTROL_PER_MS: u64 = 1;
/// A byte of a body, either way, earns its frames: one WINDOW_UPDATE or PING for each so many.
const BYTES_PER_CONTROL: u64 = 256;
/// Streams that may be reset at once, beyond those that a client may have open.
const RESETS_MAX: u64 = 100;
/// A further reset for each so many milliseconds.
const MS_PER_RESET: u64 = 50;

/// Length of a frame's head (RFC 9113, 4.1).
const FRAME_HEAD_BYTES: usize = 9;
/// Length of what a client says first (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// What a client has done too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flood {
    /// Frames that ask for nothing.
    Control,
    /// Streams opened and reset.
    Resets,
}

/// Streams that a client may reset at once.
pub(super) fn resets_max(streams_max: u32) -> u64 {
    RESETS_MAX + u64::from(streams_max)
}

/// Counts the frames of one connection.
#[derive(Debug)]
pub(super) struct Meter {
    /// The head of the next frame, as far as it has come.
    head: [u8; FRAME_HEAD_BYTES],
    head_bytes: usize,
    /// Bytes before the next frame's head.
    skip: usize,
    control: u64,
    resets: u64,
    resets_max: u64,
    /// Body bytes that have not earned a frame yet.
    bytes: u64,
    since_ms: u64,
}

impl Meter {
    /// For a connection on which `streams_max` streams can be open.
    pub(super) fn new(streams_max: u32, now_ms: u64) -> Meter {
        let resets_max = resets_max(streams_max);
        Meter {
            head: [0; FRAME_HEAD_BYTES],
            head_bytes: 0,
            skip: PREFACE_BYTES,
            control: CONTROL_MAX,
            resets: resets_max,
            resets_max,
            bytes: 0,
            since_ms: now_ms,
        }
    }

    /// Notes bytes of bodies that went either way.
    pub(super) fn note_body(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        let earned = self.bytes / BYTES_PER_CONTROL;
        self.bytes %= BYTES_PER_CONTROL;
        self.control = (self.control + earned).min(CONTROL_MAX);
    }

    /// Notes that a request was answered in full.
    pub(super) fn note_answered(&mut self) {
        self.resets = (self.resets + 1).min(self.resets_max);
        self.control = (self.control + 4).min(CONTROL_MAX);
    }

    /// Notes bytes that came from the client.
    pub(super) fn note_input(&mut self, mut bytes: &[u8], now_ms: u64) -> Result<(), Flood> {
        self.refill(now_ms);
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let wanted = (FRAME_HEAD_BYTES - self.head_bytes).min(bytes.len());
            self.head[self.head_bytes..self.head_bytes + wanted].copy_from_slice(&bytes[..wanted]);
            self.head_bytes += wanted;
            bytes = &bytes[wanted..];
            if self.head_bytes == FRAME_HEAD_BYTES {
                self.head_bytes = 0;
                self.note_frame()?;
            }
        }
        Ok(())
    }

    fn refill(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.since_ms);
        if passed < MS_PER_RESET {
            return;
        }
        self.since_ms = now_ms - passed % MS_PER_RESET;
        self.resets = (self.resets + passed / MS_PER_RESET).min(self.resets_max);
        let whole_ms = passed - passed % MS_PER_RESET;
        self.control = (self.control + whole_ms * CONTROL_PER_MS).min(CONTROL_MAX);
    }

    fn note_frame(&mut self) -> Result<(), Flood> {
        let length = usize::from(self.head[0]) << 16
            | usize::from(self.head[1]) << 8
            | usize::from(self.head[2]);
        self.skip = length;
        let (kind, flags) = (self.head[3], self.head[4]);
        match kind {
            // A request is bounded by the streams that may be open.
            HEADERS => return Ok(()),
            DATA if length > 0 => {
                self.note_body(length);
                return Ok(());
            }
            DATA if flags & END_STREAM != 0 => return Ok(()),
            RST_STREAM => {
                self.resets = self.resets.checked_sub(1).ok_or(Flood::Resets)?;
            }
            _ => {}
        }
        self.control = self.control.checked_sub(1).ok_or(Flood::Control)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let size = (length as u32).to_be_bytes();
        let mut bytes = vec![size[1], size[2], size[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(FRAME_HEAD_BYTES + length, 0x55);
        bytes
    }

    fn opened() -> Meter {
        let mut meter = Meter::new(10, 0);
        meter.note_input(&[0; PREFACE_BYTES], 0).unwrap();
        meter
    }

    #[test]
    fn a_flood_of_pings_is_seen_however_it_is_cut() {
        for cut in [1, 5, 9, 17, 1000] {
            let mut meter = opened();
            let flood = frame(PING, 0, 8).repeat(CONTROL_MAX as usize);
            for piece in flood.chunks(cut) {
                assert_eq!(meter.note_input(piece, 1), Ok(()));
            }
            let seen = meter.note_input(&frame(PING, 0, 8), 1);
            assert_eq!(seen, Err(Flood::Control), "pieces of {cut}");
        }
    }

    #[test]
    fn time_and_bodies_earn_control_frames() {
        let mut meter = opened();
        for second in 1..100 {
            let pings = frame(PING, 0, 8).repeat(1_000);
            assert_eq!(meter.note_input(&pings, second * 1_000), Ok(()));
        }
        let mut meter = opened();
        for _ in 0..100 * CONTROL_MAX {
            let mut both = frame(DATA, 0, 1024);
            both.extend(frame(8, 0, 4));
            assert_eq!(meter.note_input(&both, 1), Ok(()));
        }
    }

    #[test]
    fn streams_opened_and_reset_are_a_flood_and_answered_ones_are_none() {
        let mut both = frame(HEADERS, 5, 10);
        both.extend(frame(RST_STREAM, 0, 4));
        let mut meter = opened();
        for _ in 0..RESETS_MAX + 10 {
            assert_eq!(meter.note_input(&both, 1), Ok(()));
        }
        assert_eq!(meter.note_input(&both, 1), Err(Flood::Resets));
        let mut meter = opened();
        for _ in 0..10_000 {
            assert_eq!(meter.note_input(&both, 1), Ok(()));
            meter.note_answered();
        }
    }

    #[test]
    fn empty_data_counts_unless_it_ends_a_stream() {
        let mut meter = opened();
        let ends = frame(DATA, END_STREAM, 0).repeat(2 * CONTROL_MAX as usize);
        assert_eq!(meter.note_input(&ends, 1), Ok(()));
        let empty = frame(DATA, 0, 0).repeat(1 + CONTROL_MAX as usize);
        assert_eq!(meter.note_input(&empty, 1), Err(Flood::Control));
    }
}
