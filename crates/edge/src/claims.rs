//! Slots on a worker's vitals page, one for each upstream connection to it.
//!
//! A request travels with a sequence number on its connection's slot: the worker claims it before
//! it starts it, or the edge takes it back; exactly one of them wins. Sequence numbers of a slot
//! only grow, so whatever still lies in the socket of a connection that was given up can never be
//! claimed under the slot's next use.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evener_vitals::Page;

/// The free slots of one worker's page.
#[derive(Debug)]
pub(crate) struct ClaimSlots {
    page: Arc<Page>,
    free: Arc<Mutex<Vec<FreeSlot>>>,
}

#[derive(Debug, Clone, Copy)]
struct FreeSlot {
    slot: u32,
    next_sequence: u64,
}

/// One connection's slot; goes back when dropped.
#[derive(Debug)]
pub(crate) struct Claims {
    page: Arc<Page>,
    free: Arc<Mutex<Vec<FreeSlot>>>,
    slot: u32,
    next_sequence: u64,
}

impl ClaimSlots {
    pub(crate) fn new(page: Arc<Page>) -> ClaimSlots {
        let free = (0..page.slots())
            .rev()
            .map(|slot| FreeSlot {
                slot,
                next_sequence: 1,
            })
            .collect();
        ClaimSlots {
            page,
            free: Arc::new(Mutex::new(free)),
        }
    }

    /// A slot for a new connection; `None` when all are taken, and the connection does without.
    pub(crate) fn take(&self) -> Option<Claims> {
        let free = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()?;
        Some(Claims {
            page: self.page.clone(),
            free: self.free.clone(),
            slot: free.slot,
            next_sequence: free.next_sequence,
        })
    }
}

impl Claims {
    /// The line that opens the connection: which slot, and the first sequence number on it.
    pub(crate) fn preface(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"EVENER/1 slot=");
        evener_http1::write::decimal(out, u64::from(self.slot));
        out.extend_from_slice(b" seq=");
        evener_http1::write::decimal(out, self.next_sequence);
        out.extend_from_slice(b"\r\n");
    }

    /// Offers the next request on this connection; returns its sequence number.
    pub(crate) fn offer(&mut self) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.page.offer(self.slot, sequence);
        sequence
    }

    /// Takes a request back; true means that the worker has not started it and never will.
    pub(crate) fn take_back(&self, sequence: u64) -> bool {
        self.page.take_back(self.slot, sequence)
    }

    /// Whether the worker has started it.
    pub(crate) fn is_claimed(&self, sequence: u64) -> bool {
        self.page.is_claimed(self.slot, sequence)
    }

    /// For how long a request has held its worker's event loop, if that is worth a word.
    pub(crate) fn hold(&self, sequence: u64) -> Option<Duration> {
        self.page.hold(self.slot, sequence)
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        let free = FreeSlot {
            slot: self.slot,
            next_sequence: self.next_sequence,
        };
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(free);
    }
}
