//! Levels: members of the same priority, backups last. Who may serve a request at all is marked
//! here, and from which level it is served.

use alloc::vec::Vec;

use super::member::{Mark, SCALE};
use super::picking::{Picking, Reluctance, Request};
use super::{Members, Method, Ramp, Seen, maglev, ring};

/// When members of a later priority take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spill {
    /// When none of the earlier ones can serve, as nginx's backups do.
    WhenNone,
    /// As Envoy's priorities: a level is given as much of the traffic as its share of healthy
    /// members, times this percentage (Envoy has 140), and the next one what is left.
    ByHealth {
        /// More than 100 lets a level lose some members before any traffic leaves it.
        overprovisioning_percent: u32,
    },
}

/// What is known of one level.
#[derive(Debug, Clone)]
pub(super) struct Level {
    /// Backups come after all priorities.
    place: (bool, u32),
    /// How many belong to it, whatever their state.
    pub(super) size: usize,
    /// Of all that belong to it, whatever their state: so mappings outlast a member's absence.
    pub(super) weight: u64,
    pub(super) table: Table,
    /// Members that nothing is known against, as of the last pick.
    healthy: usize,
}

/// The lookup table of a hashing method.
#[derive(Debug, Clone, Default)]
pub(super) enum Table {
    #[default]
    None,
    Ring(Vec<ring::Point>),
    Maglev(Vec<u32>),
}

impl<K> Members<K> {
    /// Sorts the members into levels and builds the method's tables.
    pub(super) fn build_levels(&mut self) {
        self.stale = false;
        let mut places: Vec<(bool, u32)> = self.list.iter().map(place).collect();
        places.sort_unstable();
        places.dedup();
        for index in 0..self.list.len() {
            let member = &self.list[index];
            let level = places
                .binary_search(&place(member))
                .expect("every member's place is listed");
            let twin = self.list[..index]
                .iter()
                .position(|other| other.level == level && other.server == member.server)
                .unwrap_or(index);
            self.list[index].level = level;
            self.list[index].twin = twin;
        }
        self.levels.clear();
        for (index, place) in places.into_iter().enumerate() {
            let within = || self.list.iter().filter(|member| member.level == index);
            let table = match self.settings.method {
                Method::HashConsistent | Method::BoundedLoad { .. } => {
                    Table::Ring(ring::build(&self.list, index))
                }
                Method::Maglev => Table::Maglev(maglev::build(&self.list, index)),
                _ => Table::None,
            };
            self.levels.push(Level {
                place,
                size: within().count(),
                weight: within().map(|member| u64::from(member.weight)).sum(),
                table,
                healthy: 0,
            });
        }
        debug_assert!(self.levels.is_sorted_by_key(|level| level.place));
    }

    /// Marks who may serve this request.
    pub(super) fn mark(
        &mut self,
        request: &Request<'_>,
        picking: &Picking,
        reluctance: impl Fn(&K) -> Reluctance,
    ) -> Seen {
        let panics = self.panics();
        let alone = self.list.len() == 1;
        let ramp = self.settings.method.ramp();
        let slow_start = self.settings.slow_start.as_ref();
        for level in &mut self.levels {
            level.healthy = 0;
        }
        let mut seen = Seen::default();
        for member in &mut self.list {
            member.mark = Mark::Closed;
            let failing = !alone && member.is_failing(request.now_ns);
            if member.down || member.draining || failing {
                continue;
            }
            if member.unhealthy || member.ejected {
                if !panics {
                    continue;
                }
            } else {
                self.levels[member.level].healthy += 1;
            }
            let mut reluctant = match reluctance(&member.key) {
                Reluctance::None => false,
                Reluctance::Unless => true,
                Reluctance::Never => continue,
            };
            let tried = !alone && picking.has_tried(member.id);
            if tried && !self.settings.again {
                continue;
            }
            if member.is_full() {
                seen.full |= !member.bound_only;
                continue;
            }
            if let Some(share) = member.scale(slow_start, request.now_ns)
                && ramp == Ramp::Abstain
            {
                member.credit += share;
                if member.credit >= SCALE {
                    member.credit -= SCALE;
                } else {
                    reluctant = true;
                }
            }
            member.mark = if member.bound_only {
                Mark::Bound
            } else if tried {
                seen.tried += 1;
                Mark::Tried
            } else if reluctant {
                seen.reluctant += 1;
                Mark::Reluctant
            } else {
                seen.open += 1;
                Mark::Open
            };
        }
        seen
    }

    /// Whether so many members are out of use that their state is better ignored.
    pub(super) fn panics(&self) -> bool {
        let percent = self.settings.panic_percent as usize;
        if percent == 0 {
            return false;
        }
        let owned = || self.list.iter().filter(|m| !m.down && !m.draining);
        let healthy = owned().filter(|m| !m.unhealthy && !m.ejected).count();
        healthy * 100 < owned().count() * percent
    }

    /// The level that a request is served from if it can.
    pub(super) fn first_level(&mut self) -> usize {
        let Spill::ByHealth {
            overprovisioning_percent,
        } = self.settings.spill
        else {
            return 0;
        };
        let share = |level: &Level| {
            let percent =
                level.healthy as u64 * u64::from(overprovisioning_percent) / level.size as u64;
            percent.min(100)
        };
        let total: u64 = self.levels.iter().map(share).sum::<u64>().min(100);
        if total == 0 {
            return 0;
        }
        let mut drawn = self.dice.below(total);
        for (index, level) in self.levels.iter().enumerate() {
            let share = share(level);
            if drawn < share {
                return index;
            }
            drawn -= share;
        }
        0
    }

    /// The levels in the order in which they are asked, the one of the last pick first. nginx never
    /// returns to an earlier one; but a member of that may have come back, or have room, since.
    pub(super) fn levels_from(&self, first: usize) -> impl Iterator<Item = usize> + use<K> {
        // The last pick may have been made over other members.
        let first = first.min(self.levels.len());
        (first..self.levels.len()).chain(0..first)
    }

    /// Who may serve, of one level, in the order they joined.
    pub(super) fn open_in(&self, level: usize) -> impl Iterator<Item = usize> + '_ {
        let open = move |index: &usize| {
            let member = &self.list[*index];
            member.level == level && member.is_open()
        };
        (0..self.list.len()).filter(open)
    }
}

fn place<K>(member: &super::Member<K>) -> (bool, u32) {
    (member.backup, member.priority)
}
