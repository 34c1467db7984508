//! What a disk lacks of a run's groups, by the regions that are out of date there.

use super::{GroupRun, Metadata};
use crate::format::DiskNumber;

impl Metadata {
    /// Whether a disk has all of a run's groups.
    pub fn lacks_nothing(&self, run: &GroupRun, disk: DiskNumber) -> bool {
        run.generations(run.count).all(|group| self.dirty(group, disk) == 0)
    }

    /// Groups of a run of which a disk lacks something.
    pub fn groups_lacking(&self, run: &GroupRun, disk: DiskNumber) -> u32 {
        let groups = run.generations(run.initialised());
        groups.filter(|group| self.dirty(*group, disk) != 0).count() as u32
    }

    /// Regions that a disk lacks of what was written to in a run.
    pub fn regions_lacking(&self, run: &GroupRun, disk: DiskNumber) -> u64 {
        let groups = run.generations(run.initialised());
        groups.map(|group| u64::from(self.dirty(group, disk).count_ones())).sum()
    }
}
