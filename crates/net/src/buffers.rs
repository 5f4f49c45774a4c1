//! Byte buffers that are used again, so that a busy shard stops allocating.

/// A bounded last-in first-out store of empty buffers.
#[derive(Debug)]
pub struct BufferStore {
    free: Vec<Vec<u8>>,
    count_max: usize,
    capacity_max: usize,
}

impl BufferStore {
    /// Keeps up to `count_max` buffers, none with a capacity above `capacity_max` bytes.
    pub fn new(count_max: usize, capacity_max: usize) -> BufferStore {
        BufferStore {
            free: Vec::with_capacity(count_max),
            count_max,
            capacity_max,
        }
    }

    /// An empty buffer, with capacity if one was given back.
    pub fn take(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_default()
    }

    /// Gives a buffer back; its bytes are forgotten.
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        let keep = self.free.len() < self.count_max
            && buffer.capacity() > 0
            && buffer.capacity() <= self.capacity_max;
        if keep {
            buffer.clear();
            self.free.push(buffer);
        }
    }

    /// Makes sure that `buffer` came from this store before bytes are put into it.
    pub fn furnish(&mut self, buffer: &mut Vec<u8>) {
        if buffer.capacity() == 0 {
            *buffer = self.take();
        }
    }

    /// Takes `buffer` back if it has become empty.
    pub fn reclaim(&mut self, buffer: &mut Vec<u8>) {
        if buffer.is_empty() && buffer.capacity() > 0 {
            self.give(core::mem::take(buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_within_bounds() {
        let mut store = BufferStore::new(1, 100);
        store.give(Vec::with_capacity(101));
        assert_eq!(store.take().capacity(), 0, "too large to keep");
        store.give(Vec::with_capacity(50));
        store.give(Vec::with_capacity(60));
        assert!(store.take().capacity() >= 50);
        assert_eq!(store.take().capacity(), 0, "only one was kept");
    }
}
