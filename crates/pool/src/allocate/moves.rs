//! Where positions of groups that there are may go, and further ones: for whatever empties disks, and for layouts that
//! change. Nothing is moved by it.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::free::Choice;
use super::{Space, Usable, halvings};
use crate::format::DiskNumber;
use crate::metadata::{ExtentRange, GroupRun, Member, Metadata, Volume};
use crate::spare::Standing;

/// Work of a group that is read or written; divisible by how many may share it.
const WORK_OF_GROUP: u64 = 12;
/// Shares are compared in such parts.
const WHOLE_SHARE: u64 = 1 << 20;

/// Where positions of runs may move to, one after the other.
pub struct MovePlan<'a> {
    metadata: &'a Metadata,
    space: Space,
    /// What each disk has to give and to take, by moves that are under way or expected.
    gives: BTreeMap<DiskNumber, u64>,
    takes: BTreeMap<DiskNumber, u64>,
    /// All that is to be given, and to be taken, whoever does it.
    given: u64,
    taken: u64,
    disks: u64,
    /// Where what waits just fits, places are chosen as they were when that was found.
    choice: Choice,
}

impl MovePlan<'_> {
    /// Plans on these disks, and leaves what logs may need.
    pub fn new<'a>(metadata: &'a Metadata, usable: &Usable) -> MovePlan<'a> {
        let mut plan = MovePlan::on(metadata, Space::new(metadata, usable));
        if plan.has_room_in_any_order() {
            plan.choice = Choice::AnyDomain;
        }
        plan
    }

    /// The same once all moves to these disks are done, and all others given up.
    pub fn forecast<'a>(metadata: &'a Metadata, usable: &Usable) -> MovePlan<'a> {
        let mut space = Space::new(metadata, usable);
        let moving = metadata.volumes().values().flat_map(|volume| volume.runs.moving());
        for run in moving {
            let (Some(incoming), Some(left)) = (run.incoming, run.outgoing()) else { continue };
            if space.has(incoming.member.disk) {
                space.give_back(left.disk, ExtentRange::new(left.first, run.count));
            }
        }
        MovePlan::on(metadata, space)
    }

    fn on(metadata: &Metadata, mut space: Space) -> MovePlan<'_> {
        space.reserve_for_logs(metadata, false);
        let disks = space.disks().count() as u64;
        let (gives, takes, choice) = (BTreeMap::new(), BTreeMap::new(), Choice::MostFree);
        let mut plan =
            MovePlan { metadata, space, gives, takes, given: 0, taken: 0, disks, choice };
        for run in metadata.volumes().values().flat_map(|volume| volume.runs.moving()) {
            if let Some(incoming) = run.incoming {
                let left = metadata.groups_lacking(run, incoming.member.disk);
                plan.expect(run, left);
                plan.add_taking(incoming.member.disk, left);
            }
        }
        plan
    }

    /// Whether all that waits for a place finds one in whatever order, and wherever it may be: the first rule of
    /// `crate::spare`.
    fn has_room_in_any_order(&self) -> bool {
        let (waiting, copies) = self.waiting();
        let mut free: Vec<u64> = self.space.domains().into_values().collect();
        free.sort_unstable_by_key(|free| std::cmp::Reverse(*free));
        free.iter().skip(copies - 1).sum::<u64>() >= waiting
    }

    /// How many positions of groups wait for a place, by the counts that are kept with the runs; and how many of one
    /// group there are to be at most.
    pub(crate) fn waiting(&self) -> (u64, usize) {
        let (mut waiting, mut there, mut copies) = (0, 0, 1);
        let of_members = |members: &[Member]| {
            members.iter().filter(|member| self.space.has(member.disk)).count() as u64
        };
        for volume in self.metadata.volumes().values() {
            let wanted = usize::from(volume.wanted_layout().copies());
            for (members, groups) in volume.runs.groups_by_copies() {
                waiting += groups * members.max(wanted) as u64;
                copies = copies.max(members).max(wanted);
            }
            let on_disks = volume.runs.groups_on_disks();
            there += on_disks
                .filter(|(disk, _)| self.space.has(*disk))
                .map(|(_, groups)| groups)
                .sum::<u64>();
            // What moves counts where it is going to be.
            for run in volume.runs.moving() {
                let (groups, foreseen) = (u64::from(run.count), self.foreseen(run).members);
                waiting += groups * foreseen.len().max(wanted) as u64;
                waiting -= groups * run.members.len().max(wanted) as u64;
                there += groups * of_members(&foreseen);
                there -= groups * of_members(&run.members);
                copies = copies.max(foreseen.len());
            }
        }
        (waiting - there, copies)
    }

    /// Whether positions may be planned in any order. Otherwise it is to be that in which they were found to fit: those
    /// first that have the fewest members there, and all parts of one before the next.
    pub fn is_any_order_right(&self) -> bool {
        self.choice == Choice::AnyDomain
    }

    /// A position of so many groups of a run waits for a place, or for its contents: those who have them are to give
    /// them, each a part, whoever takes them.
    pub fn expect(&mut self, run: &GroupRun, groups: u32) {
        let of = run.members.iter().map(|member| member.disk);
        let from: Vec<DiskNumber> = of.filter(|disk| self.space.has(*disk)).collect();
        let work = u64::from(groups) * WORK_OF_GROUP;
        for disk in &from {
            *self.gives.entry(*disk).or_default() += work / from.len() as u64;
            self.given += work / from.len() as u64;
        }
        self.taken += work;
    }

    fn add_taking(&mut self, disk: DiskNumber, count: u32) {
        *self.takes.entry(disk).or_default() += u64::from(count) * WORK_OF_GROUP;
    }

    /// How much of its share a disk would take. Who has less to give than others is to take more, and all the time: so
    /// all have something to do until the end.
    fn part_of_share(&self, disk: DiskNumber) -> u64 {
        let each = (self.given + self.taken) / self.disks.max(1);
        let gives = self.gives.get(&disk).copied().unwrap_or(0);
        let takes = self.takes.get(&disk).copied().unwrap_or(0) + WORK_OF_GROUP;
        takes.saturating_mul(WHOLE_SHARE) / each.saturating_sub(gives).max(1)
    }

    /// A run once its move is done or given up.
    fn foreseen(&self, run: &GroupRun) -> GroupRun {
        let arrives = run.incoming.is_some_and(|to| self.space.has(to.member.disk));
        let members = if arrives { run.members_once_moved() } else { run.members.clone() };
        GroupRun { members, incoming: None, ..run.clone() }
    }

    /// Takes a place for `count` groups of a run's position, or of a further one: on a disk that has none of its
    /// others, in another failure domain than they; on `to`, if that is told.
    fn take(
        &mut self,
        run: &GroupRun,
        position: u8,
        count: u32,
        to: Option<DiskNumber>,
    ) -> Option<Member> {
        let others = run.members.iter().enumerate();
        let others = others.filter(|(index, _)| *index != usize::from(position));
        let disks = others.filter_map(|(_, member)| self.metadata.disks().get(&member.disk));
        let domains: BTreeSet<Uuid> = disks.map(|disk| self.metadata.domain_of(disk)).collect();
        let accept = |number: DiskNumber, domain: Uuid| {
            !domains.contains(&domain) && run.holders().all(|member| member.disk != number)
        };
        let disk = match to {
            Some(to) => Some(to).filter(|to| self.space.fits(*to, count, accept)),
            None => {
                self.space.choose(self.choice, count, accept, |disk| self.part_of_share(disk), 0)
            }
        }?;
        let first = self.space.take_first(disk, count)?.first;
        self.add_taking(disk, count);
        Some(Member { disk, first })
    }

    /// The same for as many groups as there is a place for, `most` or the half of that and so on; tells how many.
    /// Where there is room in any order it is the disk that has the least of its share to take.
    pub fn take_some(
        &mut self,
        run: &GroupRun,
        position: u8,
        most: u32,
        to: Option<DiskNumber>,
    ) -> Option<(u32, Member)> {
        halvings(most).find_map(|count| Some((count, self.take(run, position, count, to)?)))
    }

    /// How many extents of a disk find no place elsewhere. What finds one is counted.
    pub(crate) fn homeless(
        &mut self,
        disk: DiskNumber,
        to: Option<DiskNumber>,
        mut standing: Option<&mut Standing>,
    ) -> u64 {
        let volumes = self.metadata.volumes().values();
        let runs = volumes.flat_map(|volume| volume.runs.values()).map(|run| self.foreseen(run));
        let mut runs: Vec<GroupRun> = runs.filter(|run| run.position_on(disk).is_some()).collect();
        // In the order in which they begin to move.
        let there = |run: &GroupRun| run.members.iter().filter(|m| self.space.has(m.disk)).count();
        runs.sort_by_cached_key(there);
        let mut homeless = 0;
        for run in runs {
            let Some(position) = run.position_on(disk) else { continue };
            let mut left = run.count;
            while let Some((count, to)) = self.take_some(&run, position, left, to) {
                left -= count;
                if let Some(standing) = &mut standing {
                    standing.place(to.disk, count);
                }
            }
            homeless += u64::from(left);
        }
        homeless
    }

    /// How many extents find no place that a volume needs to have so many copies, besides what is on its way. What
    /// finds one is counted.
    pub(crate) fn homeless_copies(
        &mut self,
        volume: &Volume,
        copies: u8,
        mut standing: Option<&mut Standing>,
    ) -> u64 {
        let mut homeless = 0;
        for run in volume.runs.values() {
            let mut parts = vec![self.foreseen(run)];
            while let Some(mut part) = parts.pop() {
                if part.members.len() >= usize::from(copies) || part.count == 0 {
                    continue;
                }
                let position = part.members.len() as u8;
                let Some((count, to)) = self.take_some(&part, position, part.count, None) else {
                    homeless += u64::from(part.count) * (u64::from(copies) - u64::from(position));
                    continue;
                };
                parts.push(GroupRun { count: part.count - count, ..part.clone() });
                part.count = count;
                if let Some(standing) = &mut standing {
                    standing.take(to.disk, count);
                }
                part.members.push(to);
                parts.push(part);
            }
        }
        homeless
    }
}
