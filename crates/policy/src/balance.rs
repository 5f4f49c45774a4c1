//! Which endpoint gets the next request: the one with the fewest requests in flight, ties in turn.
//!
//! Knows nothing about sockets or health checks: the caller says which members it does not want
//! (already tried, standing still) and the members know their caps. Counting happens here, so that
//! whoever holds the lock around a [`Members`] sees one exact state.

use alloc::vec::Vec;

/// The endpoints of one cluster, as far as balancing is concerned.
#[derive(Debug, Clone)]
pub struct Members<K> {
    list: Vec<Member<K>>,
    /// Where the next search starts, so that equals are served in turn.
    turn: usize,
}

/// One endpoint.
#[derive(Debug, Clone)]
pub struct Member<K> {
    /// Who it is.
    pub key: K,
    /// Requests it has in flight.
    pub in_flight: u32,
    /// The most requests it may have in flight.
    pub in_flight_max: u32,
    /// Takes no new requests.
    pub draining: bool,
}

/// How much the caller would rather not use a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reluctance {
    /// Nothing speaks against it.
    None,
    /// Only if no other can: it stands still, or failed this very request.
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

impl<K> Default for Members<K> {
    fn default() -> Self {
        Members {
            list: Vec::new(),
            turn: 0,
        }
    }
}

impl<K> Members<K> {
    /// The members in the order they joined.
    pub fn iter(&self) -> core::slice::Iter<'_, Member<K>> {
        self.list.iter()
    }

    /// The member at `index`, as returned by a pick under the same lock.
    pub fn at(&self, index: usize) -> &Member<K> {
        &self.list[index]
    }

    /// Adds a member with nothing in flight.
    pub fn join(&mut self, key: K, in_flight_max: u32) {
        self.list.push(Member {
            key,
            in_flight: 0,
            in_flight_max,
            draining: false,
        });
    }

    /// Removes the member that `is` points out, and returns it.
    pub fn leave(&mut self, is: impl Fn(&K) -> bool) -> Option<Member<K>> {
        let index = self.list.iter().position(|member| is(&member.key))?;
        if self.turn > index {
            self.turn -= 1;
        }
        Some(self.list.remove(index))
    }

    /// The member that `is` points out.
    pub fn find_mut(&mut self, is: impl Fn(&K) -> bool) -> Option<&mut Member<K>> {
        self.list.iter_mut().find(|member| is(&member.key))
    }

    /// Chooses the member with the fewest requests in flight among those with the least
    /// reluctance, ties in turn, and counts the request.
    pub fn pick(&mut self, reluctance: impl Fn(&K) -> Reluctance) -> Pick {
        let count = self.list.len();
        let mut best: Option<(Reluctance, u32, usize)> = None;
        let mut full = false;
        for step in 0..count {
            let index = (self.turn + step) % count;
            let member = &self.list[index];
            if member.draining {
                continue;
            }
            let reluctance = reluctance(&member.key);
            if reluctance == Reluctance::Never {
                continue;
            }
            if member.in_flight >= member.in_flight_max {
                full = true;
                continue;
            }
            let better = best.is_none_or(|(best_reluctance, best_in_flight, _)| {
                (reluctance, member.in_flight) < (best_reluctance, best_in_flight)
            });
            if better {
                best = Some((reluctance, member.in_flight, index));
            }
        }
        match best {
            Some((_, _, index)) => {
                self.list[index].in_flight += 1;
                self.turn = (index + 1) % count;
                Pick::Chosen(index)
            }
            None if full => Pick::Full,
            None => Pick::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(caps: &[u32]) -> Members<usize> {
        let mut members = Members::default();
        for (key, cap) in caps.iter().enumerate() {
            members.join(key, *cap);
        }
        members
    }

    fn chosen(members: &mut Members<usize>) -> usize {
        match members.pick(|_| Reluctance::None) {
            Pick::Chosen(index) => members.at(index).key,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn equals_are_served_in_turn() {
        let mut members = members(&[10, 10, 10]);
        let picks: Vec<usize> = (0..6)
            .map(|_| {
                let key = chosen(&mut members);
                members.find_mut(|k| *k == key).unwrap().in_flight -= 1;
                key
            })
            .collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn caps_reluctance_and_draining() {
        let mut members = members(&[1, 1]);
        assert_eq!(members.pick(|_| Reluctance::Never), Pick::Nobody);
        let first = members.pick(|k| {
            if *k == 0 {
                Reluctance::Unless
            } else {
                Reluctance::None
            }
        });
        assert_eq!(first, Pick::Chosen(1));
        let second = members.pick(|k| {
            if *k == 0 {
                Reluctance::Unless
            } else {
                Reluctance::None
            }
        });
        assert_eq!(second, Pick::Chosen(0), "better a reluctant one than none");
        assert_eq!(members.pick(|_| Reluctance::None), Pick::Full);
        members.find_mut(|k| *k == 0).unwrap().draining = true;
        members.find_mut(|k| *k == 1).unwrap().draining = true;
        assert_eq!(members.pick(|_| Reluctance::None), Pick::Nobody);
    }

    /// A small generator with a printed seed (Marsaglia's xorshift64).
    struct Seeded(u64);

    impl Seeded {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % bound
        }
    }

    #[test]
    fn never_one_that_is_full_draining_or_unwanted_and_always_the_least_loaded() {
        for seed in 1..200u64 {
            let mut random = Seeded(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut members = Members::default();
            let mut next_key = 0u64;
            for step in 0..200 {
                let context = || alloc::format!("seed {seed}, step {step}");
                match random.below(6) {
                    0 => {
                        members.join(next_key, 1 + random.below(4) as u32);
                        next_key += 1;
                    }
                    1 if members.list.len() > 1 => {
                        let key =
                            members.list[random.below(members.list.len() as u64) as usize].key;
                        members.leave(|k| *k == key);
                    }
                    2 if !members.list.is_empty() => {
                        let at = random.below(members.list.len() as u64) as usize;
                        members.list[at].draining ^= true;
                    }
                    3 if !members.list.is_empty() => {
                        let at = random.below(members.list.len() as u64) as usize;
                        let member = &mut members.list[at];
                        member.in_flight = member.in_flight.saturating_sub(1);
                    }
                    _ => {
                        let unwanted = random.below(4);
                        let reluctance = |key: &u64| match (key + unwanted) % 4 {
                            0 => Reluctance::Never,
                            1 => Reluctance::Unless,
                            _ => Reluctance::None,
                        };
                        let before = members.clone();
                        let able: Vec<&Member<u64>> = before
                            .iter()
                            .filter(|m| {
                                !m.draining
                                    && m.in_flight < m.in_flight_max
                                    && reluctance(&m.key) != Reluctance::Never
                            })
                            .collect();
                        match members.pick(reluctance) {
                            Pick::Chosen(index) => {
                                let was = before.at(index);
                                let least = able
                                    .iter()
                                    .map(|m| (reluctance(&m.key), m.in_flight))
                                    .min()
                                    .unwrap_or_else(|| panic!("{}: nobody was able", context()));
                                assert_eq!(
                                    (reluctance(&was.key), was.in_flight),
                                    least,
                                    "{}",
                                    context()
                                );
                                assert!(able.iter().any(|m| m.key == was.key), "{}", context());
                                assert_eq!(members.at(index).in_flight, was.in_flight + 1);
                            }
                            _ => assert!(able.is_empty(), "{}: somebody was able", context()),
                        }
                    }
                }
            }
        }
    }
}
