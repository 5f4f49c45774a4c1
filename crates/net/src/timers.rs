//! Coarse timers: a hashed wheel that costs nothing while deadlines only move later.
//!
//! Every connection has one deadline, which moves with every read. An entry in the wheel is only a
//! reminder to look: when it comes up early, the owner is asked for its deadline and entered again.
//! After Varghese and Lauck, "Hashed and hierarchical timing wheels" (1987), scheme 6.

/// Milliseconds of one slot.
const SLOT_MS: u64 = 8;
/// Slots; one turn is about 33 seconds, later deadlines go round again.
const SLOTS: usize = 4096;

/// Names the owner of a reminder: an index, and a serial number that tells reuse of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerKey {
    /// Where the owner is kept.
    pub index: usize,
    /// Which owner of that place it is.
    pub serial: u64,
}

/// The wheel. Times are milliseconds on the caller's clock, which must not go back.
#[derive(Debug)]
pub struct Timers {
    slots: Vec<Vec<TimerKey>>,
    /// First slot that was not handled yet, counted from time zero.
    cursor: u64,
    count: usize,
    /// One bit a slot: whether it holds reminders.
    occupied: [u64; SLOTS / 64],
}

impl Timers {
    /// An empty wheel at time `now_ms`.
    pub fn new(now_ms: u64) -> Timers {
        Timers {
            slots: vec![Vec::new(); SLOTS],
            cursor: now_ms / SLOT_MS,
            count: 0,
            occupied: [0; SLOTS / 64],
        }
    }

    /// Enters a reminder for `deadline_ms`, rounded up to a slot; returns the time at which it
    /// will come up, at most one turn ahead.
    pub fn remind(&mut self, key: TimerKey, deadline_ms: u64) -> u64 {
        let wanted = deadline_ms.div_ceil(SLOT_MS);
        let slot = wanted.clamp(self.cursor, self.cursor + SLOTS as u64 - 1);
        let index = slot as usize % SLOTS;
        self.slots[index].push(key);
        self.occupied[index / 64] |= 1 << (index % 64);
        self.count += 1;
        slot * SLOT_MS
    }

    /// Takes the reminders due at `now_ms` into `due`.
    pub fn take_due(&mut self, now_ms: u64, due: &mut Vec<TimerKey>) {
        let now_slot = now_ms / SLOT_MS;
        if self.count == 0 {
            self.cursor = self.cursor.max(now_slot + 1);
            return;
        }
        let end = now_slot.min(self.cursor + SLOTS as u64 - 1);
        while self.cursor <= end {
            let index = self.cursor as usize % SLOTS;
            self.occupied[index / 64] &= !(1 << (index % 64));
            self.count -= self.slots[index].len();
            due.append(&mut self.slots[index]);
            self.cursor += 1;
        }
    }

    /// When to look next, if there is any reminder.
    pub fn next_ms(&self) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let start = self.cursor as usize % SLOTS;
        // The word that holds the cursor is looked at twice: its upper bits first, the rest last.
        for step in 0..=SLOTS / 64 {
            let word = (start / 64 + step) % (SLOTS / 64);
            let mask = match step {
                0 => u64::MAX << (start % 64),
                _ if step == SLOTS / 64 => !(u64::MAX << (start % 64)),
                _ => u64::MAX,
            };
            let found = self.occupied[word] & mask;
            if found != 0 {
                let index = word * 64 + found.trailing_zeros() as usize;
                let ahead = (index + SLOTS - start) % SLOTS;
                return Some((self.cursor + ahead as u64) * SLOT_MS);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: usize) -> TimerKey {
        TimerKey { index, serial: 7 }
    }

    #[test]
    fn reminders_come_up_when_due_and_never_before() {
        let mut timers = Timers::new(1000);
        let mut due = Vec::new();
        for (index, delay) in [(1, 3), (2, 100), (3, 20_000)] {
            let at = timers.remind(key(index), 1000 + delay);
            assert!(at >= 1000 + delay && at < 1000 + delay + SLOT_MS);
            assert!(
                timers
                    .next_ms()
                    .is_some_and(|next| (1003..1003 + SLOT_MS).contains(&next))
            );
        }
        let mut seen = Vec::new();
        for now in (1000..22_000).step_by(5) {
            timers.take_due(now, &mut due);
            seen.extend(due.drain(..).map(|key| (key.index, now)));
        }
        assert_eq!(seen.len(), 3);
        for ((index, at), (want, earliest)) in seen.iter().zip([(1, 1003), (2, 1100), (3, 21_000)])
        {
            assert_eq!(*index, want);
            assert!(
                *at >= earliest && *at <= earliest + 2 * SLOT_MS + 5,
                "{index} at {at}"
            );
        }
        assert_eq!(timers.next_ms(), None);
    }

    #[test]
    fn a_deadline_beyond_one_turn_comes_up_early_to_be_entered_again() {
        let mut timers = Timers::new(0);
        let at = timers.remind(key(1), 10_000_000);
        assert!(at < 10_000_000);
        let mut due = Vec::new();
        timers.take_due(at, &mut due);
        assert_eq!(due, [key(1)]);
    }

    #[test]
    fn a_long_sleep_handles_every_slot_once() {
        let mut timers = Timers::new(0);
        for index in 0..100 {
            timers.remind(key(index), index as u64 * 200);
        }
        let mut due = Vec::new();
        timers.take_due(1_000_000, &mut due);
        timers.take_due(1_000_001, &mut due);
        assert_eq!(due.len(), 100);
        timers.remind(key(5), 1_000_002);
        due.clear();
        timers.take_due(2_000_000, &mut due);
        timers.take_due(2_000_000, &mut due);
        assert_eq!(due, [key(5)]);
    }
}
