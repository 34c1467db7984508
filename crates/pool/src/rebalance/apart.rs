//! Moves of positions that share a failure domain with another one of their group.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{Fill, Part, PlannedMove, Rebalancing, fullness};
use crate::allocate::halvings;
use crate::format::DiskNumber;
use crate::metadata::{ExtentRange, Member};

impl Rebalancing<'_> {
    /// The positions of a part that have another one in their failure domain.
    pub(super) fn sharing(&self, part: &Part) -> Vec<Member> {
        let domain = |member: &Member| self.disks.get(&member.disk).map(|disk| disk.domain);
        let shares = |one: &&Member| {
            let others = part.members.iter().filter(|other| other.disk != one.disk);
            domain(one).is_some() && others.map(domain).any(|other| other == domain(one))
        };
        part.members.iter().filter(shares).copied().collect()
    }

    /// Groups that have two positions in one failure domain.
    pub fn shared_groups(&self) -> u64 {
        self.shared.iter().map(|index| u64::from(self.parts[*index].count)).sum()
    }

    /// Of these, such as can't move now: they lack something, or are moving or being converted already.
    pub fn shared_groups_held(&self) -> u64 {
        let parts = self.shared.iter().map(|index| &self.parts[*index]);
        parts.filter(|part| !part.may_move).map(|part| u64::from(part.count)).sum()
    }

    /// A move of a position that shares its failure domain with another one of its group, to the emptiest disk of a
    /// domain where the group has none.
    pub(super) fn move_apart(&mut self) -> Option<PlannedMove> {
        if self.apart.is_empty() {
            return None;
        }
        let mut disks: Vec<(DiskNumber, Fill)> =
            self.disks.iter().map(|(number, fill)| (*number, *fill)).collect();
        disks.sort_by(|(_, one), (_, other)| fullness(one, other));
        let ranks: BTreeMap<DiskNumber, usize> =
            disks.iter().enumerate().map(|(rank, (disk, _))| (*disk, rank)).collect();
        let roomy = self.space.domains().into_iter().filter(|(_, free)| *free > 0);
        let roomy: BTreeSet<Uuid> = roomy.map(|(domain, _)| domain).collect();
        while let Some(index) = self.apart.first().copied() {
            if let Some((count, source, to)) = self.place_apart(index, &disks, &ranks, &roomy) {
                return Some(self.move_part(index, count, source, to));
            }
            // There may be a hundred thousand of these: none is looked at again at each move.
            self.apart.remove(&index);
        }
        None
    }

    /// Where a position of a part may go from a domain that it shares with another: how many groups, from where, and
    /// the place.
    fn place_apart(
        &mut self,
        index: usize,
        disks: &[(DiskNumber, Fill)],
        ranks: &BTreeMap<DiskNumber, usize>,
        roomy: &BTreeSet<Uuid>,
    ) -> Option<(u32, DiskNumber, (DiskNumber, ExtentRange))> {
        let part = &self.parts[index];
        let taken: Vec<Uuid> = part
            .members
            .iter()
            .filter_map(|member| self.disks.get(&member.disk).map(|disk| disk.domain))
            .collect();
        if roomy.iter().all(|domain| taken.contains(domain)) {
            return None;
        }
        let mut sources = self.sharing(part);
        sources.sort_by_key(|member| std::cmp::Reverse(ranks.get(&member.disk)));
        for source in sources {
            let open = disks.iter().filter(|(_, fill)| roomy.contains(&fill.domain));
            for (target, fill) in open {
                if !self.may_move(part, source.disk, (*target, fill.domain)) {
                    continue;
                }
                let taken = halvings(part.count).find_map(|count| {
                    self.space.take_first(*target, count).map(|extents| (count, extents))
                });
                if let Some((count, extents)) = taken {
                    return Some((count, source.disk, (*target, extents)));
                }
            }
        }
        None
    }
}
