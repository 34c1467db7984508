//! Records about dirty regions.

use std::collections::BTreeSet;

use super::Inconsistent;
use crate::format::BirthId;
use crate::metadata::{DirtyRegions, Metadata};

impl Metadata {
    pub(super) fn mark_dirty(&mut self, dirty_regions: &DirtyRegions) -> Result<(), Inconsistent> {
        self.check_positions(dirty_regions)?;
        let dirty = |key: (BirthId, _)| {
            self.dirty(key.0, key.1) | dirty_regions.get(&key).copied().unwrap_or(0)
        };
        let births: BTreeSet<BirthId> = dirty_regions.keys().map(|(birth, _)| *birth).collect();
        for group in births.into_iter().filter_map(|birth| self.group_by_birth(birth)) {
            let birth = group.birth();
            let masks = group.members().map(|(disk, _)| dirty((birth, disk)));
            if masks.fold(u64::MAX, |nobody_has, mask| nobody_has & mask) != 0 {
                return Err(Inconsistent::NoRightMember(birth));
            }
        }
        for (key, mask) in dirty_regions.iter().filter(|(_, mask)| **mask != 0) {
            let dirty = self.dirty_regions.get(key).copied().unwrap_or(0);
            self.dirty_regions.insert_mut(*key, dirty | mask);
        }
        Ok(())
    }

    pub(super) fn mark_clean(&mut self, dirty_regions: &DirtyRegions) -> Result<(), Inconsistent> {
        self.check_positions(dirty_regions)?;
        for (key, mask) in dirty_regions {
            if let Some(dirty) = self.dirty_regions.get_mut(key) {
                *dirty &= !mask;
                if *dirty == 0 {
                    self.dirty_regions.remove_mut(key);
                }
            }
        }
        Ok(())
    }

    fn check_positions(&self, dirty_regions: &DirtyRegions) -> Result<(), Inconsistent> {
        for (birth, disk) in dirty_regions.keys() {
            let group = self.group_by_birth(*birth).ok_or(Inconsistent::UnknownGroup(*birth))?;
            if !group.is_on(*disk) {
                return Err(Inconsistent::UnknownPosition(*birth, *disk));
            }
        }
        Ok(())
    }
}
