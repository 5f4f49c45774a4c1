//! Methods that draw: nginx's `random` and `random two`, and the power of two choices.

use super::Members;
use super::hashed::MISSES_MAX;
use super::picking::Picking;

/// SplitMix64 (Steele, Lea, Flood 2014): quick, and even enough for drawing members.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `bound`, which is not 0. The bias is less than `bound` in 2^64.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// SplitMix64's finish: every bit of the input changes every bit of the output.
pub(super) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

impl<K> Members<K> {
    pub(super) fn pick_random(&mut self, level: usize, picking: &mut Picking) -> Option<usize> {
        if self.levels[level].size < 2 {
            return self.pick_smooth(level);
        }
        while picking.misses <= MISSES_MAX {
            let index = self.draw_by_weight(level)?;
            if self.list[index].is_open() {
                return Some(index);
            }
            picking.misses += 1;
        }
        self.pick_smooth(level)
    }

    pub(super) fn pick_random_two(&mut self, level: usize, picking: &mut Picking) -> Option<usize> {
        if self.levels[level].size < 2 {
            return self.pick_smooth(level);
        }
        let mut first: Option<usize> = None;
        while picking.misses <= MISSES_MAX {
            let index = self.draw_by_weight(level)?;
            if first == Some(index) || !self.list[index].is_open() {
                picking.misses += 1;
                continue;
            }
            let Some(other) = first else {
                first = Some(index);
                continue;
            };
            let (second, other_member) = (&self.list[index], &self.list[other]);
            let here = u64::from(second.in_flight) * u64::from(other_member.weight);
            let there = u64::from(other_member.in_flight) * u64::from(second.weight);
            return Some(if here > there { other } else { index });
        }
        self.pick_smooth(level)
    }

    fn draw_by_weight(&mut self, level: usize) -> Option<usize> {
        let drawn = self.dice.below(self.levels[level].weight);
        self.by_weight(level, drawn)
    }

    pub(super) fn pick_power_of_two(&mut self, level: usize) -> Option<usize> {
        let (first, second) = self.draw_two(level)?;
        Some(if self.is_less_busy(second, first) {
            second
        } else {
            first
        })
    }

    /// Two members that may serve, drawn evenly; twice the same one if there is no other.
    pub(super) fn draw_two(&mut self, level: usize) -> Option<(usize, usize)> {
        let count = self.open_in(level).count() as u64;
        if count == 0 {
            return None;
        }
        let first = self.dice.below(count);
        let second = if count > 1 {
            (first + 1 + self.dice.below(count - 1)) % count
        } else {
            first
        };
        let nth = |n: u64| self.open_in(level).nth(n as usize);
        Some((nth(first)?, nth(second)?))
    }
}
