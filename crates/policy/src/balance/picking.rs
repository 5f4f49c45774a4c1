//! What goes into a pick and what comes out of it.

use alloc::vec::Vec;
use core::time::Duration;

/// A request, as far as choosing a member for it is concerned.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// The time, in nanoseconds since any epoch.
    pub now_ns: u64,
    /// The client's address: 4 bytes (IPv4), 16 (IPv6), or none (a unix socket).
    pub client: &'a [u8],
    /// What the hashing methods hash; without one they take turns.
    pub key: &'a [u8],
    /// The route of the member that it is bound to.
    pub bound_to: Option<&'a [u8]>,
}

impl Request<'_> {
    /// A request of which nothing matters but when it came.
    pub fn at(now_ns: u64) -> Request<'static> {
        Request {
            now_ns,
            ..Request::default()
        }
    }
}

/// What the picks of one request remember, over its retries.
#[derive(Debug, Clone, Default)]
pub struct Picking {
    tried: Vec<u64>,
    /// Something was picked.
    pub(super) started: bool,
    /// The level of the last pick.
    pub(super) level: usize,
    /// nginx's accumulator: of `ip_hash` and `hash`, or the point of the ring.
    pub(super) hash: u32,
    /// Whether `hash` was begun.
    pub(super) hashed: bool,
    /// Times that `hash` was fed again.
    pub(super) rehash: u32,
    /// Members found unusable by hashing or drawing.
    pub(super) misses: u32,
    pub(super) picked_ns: u64,
}

impl Picking {
    /// Starts over for another request, keeping what was allocated.
    pub fn reset(&mut self) {
        let mut tried = core::mem::take(&mut self.tried);
        tried.clear();
        *self = Picking {
            tried,
            ..Picking::default()
        };
    }

    /// Whether the request has been to this member.
    pub fn has_tried(&self, id: u64) -> bool {
        self.tried.contains(&id)
    }

    /// Notes what was picked; to be called only for a pick that was made with another value of
    /// this type.
    pub fn note_picked(&mut self, id: u64, picked_ns: u64) {
        self.started = true;
        self.picked_ns = picked_ns;
        if !self.has_tried(id) {
            self.tried.push(id);
        }
    }

    /// Notes a member that has the request beside the one that was picked.
    pub fn note_rival(&mut self, id: u64) {
        if !self.has_tried(id) {
            self.tried.push(id);
        }
    }

    /// Whether nothing has been picked yet.
    pub fn is_first(&self) -> bool {
        !self.started
    }

    /// When the last pick was made; an [`Outcome`] needs it.
    pub fn picked_ns(&self) -> u64 {
        self.picked_ns
    }
}

/// How much the caller would rather not use a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reluctance {
    /// Nothing speaks against it.
    None,
    /// Only if no other can: it stands still, for example.
    Unless,
    /// Not at all.
    Never,
}

/// The outcome of a pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// This member, whose count was raised.
    Chosen(usize),
    /// Some member could serve later: all that are wanted are at their caps.
    Full,
    /// No member is wanted and alive.
    Nobody,
}

/// What a request says about the member that had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It answered.
    Succeeded,
    /// It failed the request.
    Failed,
}

/// How a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the member did its part.
    pub verdict: Verdict,
    /// When it was picked ([`Picking::picked_ns`]).
    pub picked_ns: u64,
    /// From the pick to the head of the response.
    pub header: Option<Duration>,
    /// From the pick to the response's last byte.
    pub last_byte: Option<Duration>,
}
