//! Maglev hashing (Eisenbud and others, NSDI 2016): a table in which every member has its share of
//! entries, found by one lookup and hardly disturbed by others that come or go.

use alloc::vec;
use alloc::vec::Vec;

use super::Members;
use super::levels::Table;
use super::member::Member;
use super::picking::Request;
use super::random::mix;

/// Entries of a table; a prime.
const ENTRIES: u64 = 65_537;
/// Entries looked at before all members are compared instead.
const STEPS_MAX: u64 = 64;

/// The table of one level: indices of members.
pub(super) fn build<K>(list: &[Member<K>], level: usize) -> Vec<u32> {
    struct Place {
        member: u32,
        weight: u64,
        credit: u64,
        next: u64,
        skip: u64,
    }
    let within = list.iter().enumerate().filter(|(_, m)| m.level == level);
    let mut places: Vec<Place> = within
        .map(|(index, member)| {
            let hash = hash(1, identity(member));
            Place {
                member: index as u32,
                weight: u64::from(member.weight),
                credit: 0,
                next: hash % ENTRIES,
                skip: mix(hash) % (ENTRIES - 1) + 1,
            }
        })
        .collect();
    let heaviest = places.iter().map(|place| place.weight).max().unwrap_or(0);
    let mut table = vec![u32::MAX; ENTRIES as usize];
    let mut left = if places.is_empty() { 0 } else { ENTRIES };
    while left > 0 {
        for place in &mut places {
            place.credit += place.weight;
            if place.credit < heaviest {
                continue;
            }
            place.credit -= heaviest;
            while table[place.next as usize] != u32::MAX {
                place.next = (place.next + place.skip) % ENTRIES;
            }
            table[place.next as usize] = place.member;
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    table
}

/// What a member is hashed by: its server, or its id if it has none.
fn identity<K>(member: &Member<K>) -> (&[u8], u64) {
    if member.server.is_empty() {
        (&[], member.id)
    } else {
        // Members that share a server are told apart by their order only, as they must be.
        (member.server.as_bytes(), 0)
    }
}

/// FNV-1a with a finish that spreads it over all bits.
fn hash(seed: u64, (bytes, number): (&[u8], u64)) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ mix(seed.wrapping_add(number));
    let step = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(start, step))
}

impl<K> Members<K> {
    pub(super) fn pick_maglev(&mut self, level: usize, request: &Request<'_>) -> Option<usize> {
        if request.key.is_empty() {
            return self.pick_smooth(level);
        }
        let Table::Maglev(table) = &self.levels[level].table else {
            return self.pick_smooth(level);
        };
        let key = hash(2, (request.key, 0));
        // Keys of one member that is out go on differently, so that no other gets all of them.
        let skip = mix(key) % (ENTRIES - 1) + 1;
        for step in 0..STEPS_MAX {
            let entry = (key % ENTRIES + step * skip) % ENTRIES;
            let index = table[entry as usize] as usize;
            if self.list[index].is_open() {
                return Some(index);
            }
        }
        self.pick_rendezvous(level, key)
    }

    /// Weighted rendezvous hashing (Thaler and Ravishankar 1998): the highest score of all.
    fn pick_rendezvous(&self, level: usize, key: u64) -> Option<usize> {
        let score = |index: usize| {
            let member = &self.list[index];
            let drawn = mix(key ^ hash(3, identity(member)).wrapping_add(index as u64));
            let uniform = ((drawn >> 11) + 1) as f64 / ((1u64 << 53) + 1) as f64;
            -f64::from(member.weight) / libm::log(uniform)
        };
        self.open_in(level)
            .max_by(|a, b| score(*a).total_cmp(&score(*b)))
    }
}
