//! nginx's smooth weighted round robin, which its other methods fall back to.

use super::Members;
use super::member::Member;

impl<K> Members<K> {
    /// One step of smooth weighted round robin over those of a level that may serve.
    pub(super) fn pick_smooth(&mut self, level: usize) -> Option<usize> {
        self.smooth(0, |member| member.level == level && member.is_open())
    }

    /// One step over the members from `first` on that take part. The largest current weight wins,
    /// the earlier of equals.
    pub(super) fn smooth(
        &mut self,
        first: usize,
        takes_part: impl Fn(&Member<K>) -> bool,
    ) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (index, member) in self.list.iter_mut().enumerate().skip(first) {
            if !takes_part(member) {
                continue;
            }
            total += member.step();
            if best.is_none_or(|(_, current)| member.current > current) {
                best = Some((index, member.current));
            }
        }
        let (index, _) = best?;
        self.list[index].current -= total;
        Some(index)
    }
}

impl<K> Member<K> {
    /// Raises the current weight by the effective one, which it returns and then lets recover.
    pub(super) fn step(&mut self) -> i64 {
        let effective = self.effective;
        self.current += effective;
        if effective < i64::from(self.weight) {
            self.effective += 1;
        }
        effective
    }
}
