//! A stream that stays in this thread: what a stream of HTTP/2 is to the stages that serve it.
//!
//! The near end is a [`Socket`](crate::Socket) like any other; the far end is held by whoever
//! carries the stream over a real connection. The kernel reports nothing about it, so either end
//! rings a bell for the other, and the shard looks at the bells after each batch of events.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that may wait for the far end; a write that begins below takes no more than that.
const OUTWARD_BYTES_MAX: usize = 128 * 1024;
/// Bytes that may wait for the near end before the far end should stop.
const INWARD_BYTES_MAX: usize = 64 * 1024;

/// Who is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ring {
    /// A place in a table, as its owner numbers it.
    pub index: usize,
    /// Tells it from earlier users of the place.
    pub serial: u64,
    /// A part of it, if it has several.
    pub part: usize,
    /// Which table.
    pub table: u8,
}

/// What the pipes of a shard have rung for.
#[derive(Debug, Default)]
pub struct Bells {
    rung: Mutex<Vec<Ring>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bells {
    /// Asks for a look at `ring`.
    pub fn ring(&self, ring: Ring) {
        locked(&self.rung).push(ring);
    }

    /// Exchanges what has rung for `into`, which is emptied first.
    pub fn take(&self, into: &mut Vec<Ring>) {
        into.clear();
        std::mem::swap(&mut *locked(&self.rung), into);
    }

    /// Whether nothing has rung.
    pub fn is_silent(&self) -> bool {
        locked(&self.rung).is_empty()
    }
}

#[derive(Debug, Default)]
struct State {
    inward: Vec<u8>,
    inward_read: usize,
    inward_ended: bool,
    outward: Vec<u8>,
    outward_read: usize,
    outward_ended: bool,
    connected: bool,
    broken: Option<ErrorKind>,
    near_gone: bool,
    far_gone: bool,
    far_wants_room: bool,
    near: Option<Ring>,
    far: Ring,
    near_rung: bool,
    far_rung: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    bells: Arc<Bells>,
    tls: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    fn ring_near(&self, state: &mut State) {
        if let (Some(near), false) = (state.near, state.near_rung || state.near_gone) {
            state.near_rung = true;
            self.bells.ring(near);
        }
    }

    fn ring_far(&self, state: &mut State) {
        if !state.far_rung && !state.far_gone {
            state.far_rung = true;
            self.bells.ring(state.far);
        }
    }
}

/// The end that a [`Socket`](crate::Socket) is made of.
#[derive(Debug)]
pub struct PipeEnd {
    shared: Arc<Shared>,
}

/// The end of whoever carries the stream.
#[derive(Debug)]
pub struct FarEnd {
    shared: Arc<Shared>,
}

/// What a look at a pipe shows its near end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) connected: bool,
    pub(crate) ended: bool,
    pub(crate) broken: bool,
}

/// Makes a pipe. `far` is rung when the near end has done something; `tls` says whether the
/// connection that carries the stream is encrypted. The near end's bell is given later, by
/// [`PipeEnd::answer_to`].
pub fn pipe(bells: &Arc<Bells>, far: Ring, tls: bool, connected: bool) -> (PipeEnd, FarEnd) {
    let state = State {
        far,
        connected,
        ..State::default()
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        bells: bells.clone(),
        tls,
    });
    let near = PipeEnd {
        shared: shared.clone(),
    };
    (near, FarEnd { shared })
}

impl PipeEnd {
    /// Rings `near` from now on when the far end has done something.
    pub fn answer_to(&self, near: Ring) {
        self.shared.state().near = Some(near);
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.shared.tls
    }

    /// Takes note of what the bell was rung for.
    pub(crate) fn look(&self) -> Seen {
        let mut state = self.shared.state();
        state.near_rung = false;
        Seen {
            connected: state.connected,
            ended: state.inward_ended,
            broken: state.broken.is_some(),
        }
    }

    pub(crate) fn failure(&self) -> Option<ErrorKind> {
        self.shared.state().broken
    }

    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.state();
        let waiting = &state.inward[state.inward_read..];
        let count = waiting.len().min(buffer.len());
        buffer[..count].copy_from_slice(&waiting[..count]);
        if count == 0 {
            return match (state.broken, state.inward_ended) {
                (Some(kind), _) => Err(kind.into()),
                (None, true) => Ok(0),
                (None, false) => Err(ErrorKind::WouldBlock.into()),
            };
        }
        state.inward_read += count;
        if state.inward_read == state.inward.len() {
            state.inward.clear();
            state.inward_read = 0;
        }
        if state.far_wants_room {
            state.far_wants_room = false;
            self.shared.ring_far(&mut state);
        }
        Ok(count)
    }

    pub(crate) fn write(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.shared.state();
        if let Some(kind) = state.broken {
            return Err(kind.into());
        }
        if state.far_gone || state.outward_ended {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let waiting = state.outward.len() - state.outward_read;
        let mut room = OUTWARD_BYTES_MAX.saturating_sub(waiting);
        if room == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let before = room;
        for slice in slices {
            let count = slice.len().min(room);
            state.outward.extend_from_slice(&slice[..count]);
            room -= count;
        }
        self.shared.ring_far(&mut state);
        Ok(before - room)
    }

    /// Whether the far end has taken everything.
    pub(crate) fn is_flushed(&self) -> bool {
        let state = self.shared.state();
        state.outward_read == state.outward.len()
    }

    pub(crate) fn shutdown_write(&self) {
        let mut state = self.shared.state();
        state.outward_ended = true;
        self.shared.ring_far(&mut state);
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.near_gone = true;
        // Even if it was rung before: the far end may be waiting for somebody else.
        state.far_rung = false;
        self.shared.ring_far(&mut state);
    }
}

/// What the far end finds when it looks.
#[derive(Debug, Clone, Copy)]
pub struct Outward<'a> {
    /// Bytes from the near end.
    pub bytes: &'a [u8],
    /// Nothing will come after them.
    pub ended: bool,
    /// The near end does not exist any more.
    pub gone: bool,
}

impl FarEnd {
    /// Puts bytes in the near end's way by whatever `write` appends, then rings.
    pub fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.shared.state();
        write(&mut state.inward);
        self.shared.ring_near(&mut state);
    }

    /// Whether more should be put in the near end's way. If not, the bell rings when it has taken
    /// something.
    pub fn has_room(&self) -> bool {
        let mut state = self.shared.state();
        let room = state.inward.len() - state.inward_read < INWARD_BYTES_MAX;
        state.far_wants_room = !room;
        room
    }

    /// Whether the connection that carries it is encrypted.
    pub fn is_tls(&self) -> bool {
        self.shared.tls
    }

    /// Takes note of what the bell was rung for; whether the near end does not exist any more.
    pub fn look(&self) -> bool {
        let mut state = self.shared.state();
        state.far_rung = false;
        state.near_gone
    }

    /// The connection that carries the stream is there.
    pub fn connected(&self) {
        let mut state = self.shared.state();
        state.connected = true;
        self.shared.ring_near(&mut state);
    }

    /// Nothing more comes for the near end.
    pub fn end(&self) {
        let mut state = self.shared.state();
        state.inward_ended = true;
        self.shared.ring_near(&mut state);
    }

    /// The stream is broken: for the near end it is as if the connection had been reset.
    pub fn break_off(&self, kind: ErrorKind) {
        let mut state = self.shared.state();
        if state.broken.is_none() {
            state.broken = Some(kind);
            self.shared.ring_near(&mut state);
        }
    }

    /// Shows what the near end has written; `take` returns how many bytes of it are used up.
    pub fn outward<R>(&self, take: impl FnOnce(Outward<'_>) -> (usize, R)) -> R {
        let mut state = self.shared.state();
        state.far_rung = false;
        let start = state.outward_read;
        let shown = Outward {
            bytes: &state.outward[start..],
            ended: state.outward_ended,
            gone: state.near_gone,
        };
        let (used, result) = take(shown);
        if used > 0 {
            state.outward_read += used;
            if state.outward_read == state.outward.len() {
                state.outward.clear();
                state.outward_read = 0;
            } else if state.outward_read >= OUTWARD_BYTES_MAX / 2 {
                let read = state.outward_read;
                state.outward.drain(..read);
                state.outward_read = 0;
            }
            self.shared.ring_near(&mut state);
        }
        result
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.far_gone = true;
        // Whatever the near end had written goes nowhere.
        state.outward.clear();
        state.outward_read = 0;
        if !state.inward_ended && state.broken.is_none() {
            state.broken = Some(ErrorKind::ConnectionReset);
        }
        self.shared.ring_near(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;

    fn ends() -> (Arc<Bells>, PipeEnd, FarEnd) {
        let bells = Arc::new(Bells::default());
        let far = Ring {
            index: 2,
            ..Ring::default()
        };
        let (near, far) = pipe(&bells, far, false, true);
        near.answer_to(Ring {
            index: 1,
            ..Ring::default()
        });
        (bells, near, far)
    }

    fn rung(bells: &Bells) -> Vec<usize> {
        let mut rings = Vec::new();
        bells.take(&mut rings);
        rings.iter().map(|ring| ring.index).collect()
    }

    #[test]
    fn each_end_is_rung_once_until_it_looks() {
        let (bells, near, far) = ends();
        near.write(&[IoSlice::new(b"ab"), IoSlice::new(b"c")])
            .unwrap();
        near.write(&[IoSlice::new(b"d")]).unwrap();
        assert_eq!(rung(&bells), [2]);
        assert!(!near.is_flushed());
        let seen = far.outward(|outward| (outward.bytes.len(), outward.bytes.to_vec()));
        assert_eq!(seen, b"abcd");
        assert!(near.is_flushed());
        assert_eq!(rung(&bells), [1], "it has been taken");
        far.push(|inward| inward.extend_from_slice(b"xyz"));
        assert_eq!(rung(&bells), [0; 0], "the near end has not looked yet");
        assert!(!near.look().ended);
        far.end();
        assert_eq!(rung(&bells), [1]);
        let mut buffer = [0; 2];
        assert_eq!(near.read(&mut buffer).unwrap(), 2);
        assert_eq!(near.read(&mut buffer).unwrap(), 1);
        assert_eq!(near.read(&mut buffer).unwrap(), 0);
        drop(near);
        assert_eq!(rung(&bells), [2]);
        assert!(far.outward(|outward| (0, outward.gone)));
    }

    #[test]
    fn both_directions_are_bounded() {
        let (bells, near, far) = ends();
        let much = vec![7; 3 * OUTWARD_BYTES_MAX];
        let written = near.write(&[IoSlice::new(&much)]).unwrap();
        assert_eq!(written, OUTWARD_BYTES_MAX);
        let blocked = near.write(&[IoSlice::new(&much)]).unwrap_err();
        assert_eq!(blocked.kind(), ErrorKind::WouldBlock);
        assert!(far.has_room());
        far.push(|inward| inward.resize(INWARD_BYTES_MAX, 1));
        assert!(!far.has_room());
        rung(&bells);
        far.outward(|_| (0, ()));
        near.read(&mut [0; 10]).unwrap();
        assert_eq!(rung(&bells), [2], "there is room again");
        assert!(!far.has_room() || !far.look());
        far.push(|inward| inward.resize(2 * INWARD_BYTES_MAX, 1));
        assert!(!far.has_room());
        near.read(&mut [0; 10]).unwrap();
        assert_eq!(rung(&bells), [2], "and again, though nothing was taken");
    }

    #[test]
    fn an_end_that_vanishes_breaks_the_other() {
        let (bells, near, far) = ends();
        drop(far);
        assert_eq!(rung(&bells), [1]);
        assert!(near.look().broken);
        assert!(near.read(&mut [0]).is_err());
        assert!(near.write(&[IoSlice::new(b"x")]).is_err());
        let (_, near, far) = ends();
        far.end();
        drop(far);
        assert!(
            !near.look().broken,
            "what has ended properly stays so for reads"
        );
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
    }
}
