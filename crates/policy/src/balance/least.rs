//! Methods that choose the member with the least to do.

use super::Members;

impl<K> Members<K> {
    /// The fewest requests for its weight, equals in turn.
    pub(super) fn pick_least_in_flight(&mut self, level: usize) -> Option<usize> {
        let count = self.list.len();
        let mut best: Option<usize> = None;
        for step in 0..count {
            let index = (self.turn + step) % count;
            let member = &self.list[index];
            if member.level != level || !member.is_open() {
                continue;
            }
            if best.is_none_or(|best| self.is_less_busy(index, best)) {
                best = Some(index);
            }
        }
        self.turn = (best? + 1) % count;
        best
    }

    /// nginx's `least_conn`.
    pub(super) fn pick_least_conn(&mut self, level: usize) -> Option<usize> {
        for member in &mut self.list {
            member.score = u64::from(member.in_flight);
        }
        self.pick_least_scored(level)
    }

    /// The least score for its weight; several are told apart by smooth round robin over those
    /// alone, as nginx does.
    pub(super) fn pick_least_scored(&mut self, level: usize) -> Option<usize> {
        let mut best: Option<usize> = None;
        let mut many = false;
        for index in self.open_in(level) {
            let Some(least) = best else {
                best = Some(index);
                continue;
            };
            let (member, least) = (&self.list[index], &self.list[least]);
            let here = u128::from(member.score) * u128::from(least.weight);
            let there = u128::from(least.score) * u128::from(member.weight);
            if here < there {
                best = Some(index);
                many = false;
            } else if here == there {
                many = true;
            }
        }
        let first = best?;
        if !many {
            return best;
        }
        let (score, weight) = (self.list[first].score, self.list[first].weight);
        self.smooth(first, |member| {
            member.level == level
                && member.is_open()
                && u128::from(member.score) * u128::from(weight)
                    == u128::from(score) * u128::from(member.weight)
        })
    }

    /// Whether one more request would load `this` less for its weight than `other`.
    pub(super) fn is_less_busy(&self, this: usize, other: usize) -> bool {
        let (this, other) = (&self.list[this], &self.list[other]);
        (u64::from(this.in_flight) + 1) * other.scaled
            < (u64::from(other.in_flight) + 1) * this.scaled
    }
}
