//! Which runs have a position on a disk that is to be emptied. A volume may have a million, of which a disk has a few
//! thousand, and jobs are looked at as often as something of theirs is done: so they are found once, and looked up
//! where they were found from then on.

use std::collections::BTreeSet;

use crate::format::DiskNumber;
use crate::metadata::{GroupRun, RunKey, Volume};

/// Those of a volume that were found.
#[derive(Default)]
pub(super) struct RunsToEmpty {
    /// The disks that they were looked for on.
    disks: BTreeSet<DiskNumber>,
    /// Where one was: from its key to before another one. It may have been split since, or be gone.
    found: Vec<(RunKey, RunKey)>,
}

impl RunsToEmpty {
    /// The runs of a volume that have a position on one of these disks, in order. Nothing is given out on such disks;
    /// should one have got something all the same, it is found once all else is done.
    pub(super) fn look<'a>(
        &mut self,
        volume: &'a Volume,
        disks: &BTreeSet<DiskNumber>,
    ) -> Vec<&'a GroupRun> {
        if self.disks == *disks {
            let runs = self.look_up(volume);
            if !runs.is_empty() || !disks.iter().any(|disk| volume.runs.is_on(*disk)) {
                return runs;
            }
        }
        self.disks.clone_from(disks);
        let runs = volume.runs.values().filter(|run| is_on(run, disks));
        self.found = runs.map(|run| (run.key, end_of(run))).collect();
        self.look_up(volume)
    }

    fn look_up<'a>(&mut self, volume: &'a Volume) -> Vec<&'a GroupRun> {
        let mut runs = Vec::new();
        self.found.retain(|(first, end)| {
            let before = runs.len();
            let here = volume.runs.range(*first..*end).map(|(_, run)| run);
            runs.extend(here.filter(|run| is_on(run, &self.disks)));
            runs.len() > before
        });
        runs
    }
}

fn is_on(run: &GroupRun, disks: &BTreeSet<DiskNumber>) -> bool {
    run.members.iter().any(|member| disks.contains(&member.disk))
}

/// Where another run may begin behind it.
fn end_of(run: &GroupRun) -> RunKey {
    RunKey { first_set: run.key.first_set.saturating_add(run.count.into()), ..run.key }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::allocate::{MovePlan, plan_groups, stripe_width};
    use crate::format::{ExtentRange, FailureDomain, VolumeId};
    use crate::metadata::testing::pool_of;
    use crate::metadata::{Layout, MetaRecord, Metadata};

    fn freed(run: &GroupRun, member: crate::metadata::Member) -> MetaRecord {
        let extents = ExtentRange::new(member.first, run.count);
        MetaRecord::PendingFreed { disk: member.disk, extents }
    }

    /// What a job does next with one of the runs: divides it, begins its move, ends or cancels that.
    fn step(
        metadata: &Metadata,
        id: VolumeId,
        disk: DiskNumber,
        what: u8,
        nth: usize,
    ) -> Vec<MetaRecord> {
        let runs = &metadata.volumes()[&id].runs;
        let of: Vec<&GroupRun> =
            runs.values().filter(|run| run.position_on(disk).is_some()).collect();
        let Some(run) = of.get(nth % of.len().max(1)) else { return Vec::new() };
        let (volume, key) = (id, run.key);
        let Some(incoming) = run.incoming else {
            if what == 0 && run.count > 1 {
                return vec![MetaRecord::RunSplit {
                    volume,
                    key,
                    count: 1 + nth as u32 % (run.count - 1),
                }];
            }
            let usable = metadata.disks().keys().copied().filter(|other| *other != disk).collect();
            let position = run.position_on(disk).unwrap();
            let place = MovePlan::new(metadata, &usable).take_some(run, position, run.count, None);
            let (count, to) = place.unwrap();
            return match count == run.count {
                true => vec![MetaRecord::MoveBegun { volume, key, position, to }],
                false => vec![MetaRecord::RunSplit { volume, key, count }],
            };
        };
        match what {
            1 => vec![MetaRecord::MoveCancelled { volume, key }, freed(run, incoming.member)],
            _ => {
                vec![MetaRecord::MoveSwitched { volume, key }, freed(run, run.outgoing().unwrap())]
            }
        }
    }

    proptest! {
        /// What is kept finds what looking at all runs finds, whatever a job does with them.
        #[test]
        fn what_was_found_once_is_what_is_there(
            steps in prop::collection::vec((0_u8..4, any::<u8>()), 0..60),
        ) {
            let disk = DiskNumber(0);
            let disks: Vec<(u32, u64)> = (0..5).map(|node| (node, 512)).collect();
            let mut metadata = pool_of(FailureDomain::Node, &disks);
            let usable = metadata.disks().keys().copied().collect();
            let (id, layout) = (metadata.counters().volume, Layout::Mirror(2));
            let width = stripe_width(&metadata, &usable, layout);
            metadata.apply(&MetaRecord::VolumeCreated { id, name: "v".into(), layout, width }).unwrap();
            for run in plan_groups(&metadata, &usable, id, 64 * 300 * 4096).unwrap() {
                metadata.apply(&MetaRecord::RunAdded { volume: id, run }).unwrap();
            }
            let (mut kept, emptied) = (RunsToEmpty::default(), BTreeSet::from([disk]));
            for (what, nth) in steps {
                let volume = &metadata.volumes()[&id];
                let there: Vec<&GroupRun> =
                    volume.runs.values().filter(|run| is_on(run, &emptied)).collect();
                prop_assert_eq!(kept.look(volume, &emptied), there);
                for record in step(&metadata, id, disk, what, nth.into()) {
                    metadata.apply(&record).unwrap();
                }
            }
            // What came there all the same is found once nothing else is left.
            let other = BTreeSet::from([DiskNumber(1)]);
            let volume = &metadata.volumes()[&id];
            let there = volume.runs.values().filter(|run| is_on(run, &other)).count();
            prop_assert_eq!(kept.look(volume, &other).len(), there);
            kept.found.clear();
            prop_assert_eq!(kept.look(volume, &other).len(), there);
        }
    }
}
