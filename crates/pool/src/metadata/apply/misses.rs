//! Records about what disks miss.

use std::collections::BTreeSet;

use super::Inconsistent;
use crate::format::BirthId;
use crate::metadata::{Metadata, Misses};

impl Metadata {
    pub(super) fn set_misses(&mut self, misses: &Misses) -> Result<(), Inconsistent> {
        self.check_positions(misses)?;
        let missed =
            |key: (BirthId, _)| self.missed(key.0, key.1) | misses.get(&key).copied().unwrap_or(0);
        let births: BTreeSet<BirthId> = misses.keys().map(|(birth, _)| *birth).collect();
        for group in births.into_iter().filter_map(|birth| self.group_by_birth(birth)) {
            let birth = group.birth();
            let masks = group.members().map(|(disk, _)| missed((birth, disk)));
            if masks.fold(u64::MAX, |nobody_has, mask| nobody_has & mask) != 0 {
                return Err(Inconsistent::NoRightMember(birth));
            }
        }
        for (key, mask) in misses.iter().filter(|(_, mask)| **mask != 0) {
            let missed = self.misses.get(key).copied().unwrap_or(0);
            self.misses.insert_mut(*key, missed | mask);
        }
        Ok(())
    }

    pub(super) fn clear_misses(&mut self, misses: &Misses) -> Result<(), Inconsistent> {
        self.check_positions(misses)?;
        for (key, mask) in misses {
            if let Some(missed) = self.misses.get_mut(key) {
                *missed &= !mask;
                if *missed == 0 {
                    self.misses.remove_mut(key);
                }
            }
        }
        Ok(())
    }

    fn check_positions(&self, misses: &Misses) -> Result<(), Inconsistent> {
        for (birth, disk) in misses.keys() {
            let group = self.group_by_birth(*birth).ok_or(Inconsistent::UnknownGroup(*birth))?;
            if !group.is_on(*disk) {
                return Err(Inconsistent::UnknownPosition(*birth, *disk));
            }
        }
        Ok(())
    }
}
