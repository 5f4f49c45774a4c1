//! nginx's `ip_hash` and `hash`: a number in the space of all weights names the member. One that
//! cannot serve is left by hashing on; after too many of those, turns are taken.

use super::Members;
use super::crc32::Crc32;
use super::picking::{Picking, Request};

/// After more misses than this nginx gives up hashing for the rest of the request.
pub(super) const MISSES_MAX: u32 = 20;

const IP_HASH_START: u32 = 89;
const IP_HASH_FACTOR: u32 = 113;
const IP_HASH_SPACE: u32 = 6271;

impl<K> Members<K> {
    pub(super) fn pick_ip_hash(
        &mut self,
        level: usize,
        request: &Request<'_>,
        picking: &mut Picking,
    ) -> Option<usize> {
        if picking.misses > MISSES_MAX || self.levels[level].size < 2 {
            return self.pick_smooth(level);
        }
        let bytes = match request.client.len() {
            4 => &request.client[..3],
            16 => request.client,
            _ => &[0; 3],
        };
        let mut hash = if picking.hashed {
            picking.hash
        } else {
            IP_HASH_START
        };
        loop {
            for byte in bytes {
                hash = (hash * IP_HASH_FACTOR + u32::from(*byte)) % IP_HASH_SPACE;
            }
            let index = self.by_weight(level, u64::from(hash))?;
            if self.list[index].is_open() {
                picking.hash = hash;
                picking.hashed = true;
                return Some(index);
            }
            picking.misses += 1;
            if picking.misses > MISSES_MAX {
                return self.pick_smooth(level);
            }
        }
    }

    pub(super) fn pick_hash(
        &mut self,
        level: usize,
        request: &Request<'_>,
        picking: &mut Picking,
    ) -> Option<usize> {
        if picking.misses > MISSES_MAX || self.levels[level].size < 2 || request.key.is_empty() {
            return self.pick_smooth(level);
        }
        loop {
            let mut digits = [0; 10];
            let prefix = if picking.rehash > 0 {
                decimal(picking.rehash, &mut digits)
            } else {
                &[]
            };
            let checksum = Crc32::new().with(prefix).with(request.key).value();
            picking.hash = picking.hash.wrapping_add((checksum >> 16) & 0x7fff);
            picking.rehash += 1;
            let index = self.by_weight(level, u64::from(picking.hash))?;
            if self.list[index].is_open() {
                return Some(index);
            }
            picking.misses += 1;
            if picking.misses > MISSES_MAX {
                return self.pick_smooth(level);
            }
        }
    }

    /// The member of a level in whose share of the weights `number` falls.
    pub(super) fn by_weight(&self, level: usize, number: u64) -> Option<usize> {
        let mut left = number % self.levels[level].weight;
        for (index, member) in self.list.iter().enumerate() {
            if member.level != level {
                continue;
            }
            let weight = u64::from(member.weight);
            if left < weight {
                return Some(index);
            }
            left -= weight;
        }
        None
    }
}

fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[start..];
        }
    }
}
