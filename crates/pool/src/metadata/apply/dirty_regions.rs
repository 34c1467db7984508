//! Records about dirty regions.

use std::collections::BTreeSet;

use super::Inconsistent;
use crate::format::GenerationId;
use crate::metadata::{DirtyRegions, Metadata};

impl Metadata {
    pub(super) fn mark_dirty(&mut self, dirty_regions: &DirtyRegions) -> Result<(), Inconsistent> {
        self.check_positions(dirty_regions)?;
        let dirty = |key: (GenerationId, _)| {
            self.dirty(key.0, key.1) | dirty_regions.get(&key).copied().unwrap_or(0)
        };
        let generations: BTreeSet<GenerationId> =
            dirty_regions.keys().map(|(generation, _)| *generation).collect();
        for group in
            generations.into_iter().filter_map(|generation| self.group_by_generation(generation))
        {
            let generation = group.generation();
            let masks = group.members().map(|(disk, _)| dirty((generation, disk)));
            if masks.fold(u64::MAX, |nobody_has, mask| nobody_has & mask) != 0 {
                return Err(Inconsistent::NoRightMember(generation));
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
        for (generation, disk) in dirty_regions.keys() {
            let group = self
                .group_by_generation(*generation)
                .ok_or(Inconsistent::UnknownGroup(*generation))?;
            if !group.is_on(*disk) {
                return Err(Inconsistent::UnknownPosition(*generation, *disk));
            }
        }
        Ok(())
    }
}
