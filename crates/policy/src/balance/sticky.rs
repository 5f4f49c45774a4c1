//! Requests that are bound to one member, as nginx's `sticky` has it.

use super::Members;
use super::member::Mark;
use super::picking::{Picking, Request};

impl<K> Members<K> {
    /// The member that the request is bound to, if it can serve.
    pub(super) fn pick_bound(
        &mut self,
        request: &Request<'_>,
        picking: &mut Picking,
    ) -> Option<usize> {
        let route = request.bound_to.filter(|route| !route.is_empty())?;
        let wanted = self.list.iter().position(|member| {
            member.mark != Mark::Closed && *member.route == *route && !picking.has_tried(member.id)
        })?;
        let level = self.list[wanted].level;
        picking.level = level;
        self.charge(wanted, level);
        Some(wanted)
    }

    /// Charges a bound request to the weights, so that unbound ones keep away from busy members;
    /// not without end, or a member with many bound clients would never get another one.
    fn charge(&mut self, wanted: usize, level: usize) {
        let member = &self.list[wanted];
        let others = self.levels[level].weight as i64 - i64::from(member.weight);
        if member.current <= -others {
            return;
        }
        let mut total = 0;
        for (index, member) in self.list.iter_mut().enumerate() {
            if member.level == level && (member.is_open() || index == wanted) {
                total += member.step();
            }
        }
        self.list[wanted].current -= total;
    }
}
