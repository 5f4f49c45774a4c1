//! The downstream connections of a shard, by keys that never mean another one.

use slab::{Slab, VacantEntry};

use crate::session::Session;

/// Names a connection for as long as it lives, and nothing after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionKey {
    pub(crate) index: usize,
    pub(crate) serial: u64,
}

/// The connections of a shard.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(super) slab: Slab<Session>,
    next_serial: u64,
}

impl Sessions {
    /// A place for a new connection, and its key.
    pub(crate) fn vacant(&mut self) -> (VacantEntry<'_, Session>, SessionKey) {
        self.next_serial += 1;
        let entry = self.slab.vacant_entry();
        let key = SessionKey {
            index: entry.key(),
            serial: self.next_serial,
        };
        (entry, key)
    }

    pub(super) fn by_key(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.slab
            .get_mut(key.index)
            .filter(|session| session.key == key)
    }
}
