//! Records about what members miss.

use std::collections::{BTreeMap, BTreeSet};

use super::Inconsistent;
use crate::format::BirthId;
use crate::metadata::{Metadata, MissChange};

impl Metadata {
    pub(super) fn set_misses(&mut self, changes: &[MissChange]) -> Result<(), Inconsistent> {
        self.check_members(changes)?;
        let mut masks: BTreeMap<(BirthId, u8), u64> = BTreeMap::new();
        for change in changes {
            let key = (change.group, change.member);
            *masks.entry(key).or_insert_with(|| self.missed(key.0, key.1)) |= change.mask;
        }
        let groups: BTreeSet<BirthId> = changes.iter().map(|change| change.group).collect();
        for birth in groups {
            let members = self.group_by_birth(birth).map_or(0, |group| group.run.members.len());
            let nobody_has = (0..members as u8).fold(u64::MAX, |all, member| {
                let known = masks.get(&(birth, member)).copied();
                all & known.unwrap_or_else(|| self.missed(birth, member))
            });
            if nobody_has != 0 {
                return Err(Inconsistent::NoRightMember(birth));
            }
        }
        for (key, mask) in masks.into_iter().filter(|(_, mask)| *mask != 0) {
            self.misses.insert_mut(key, mask);
        }
        Ok(())
    }

    pub(super) fn clear_misses(&mut self, changes: &[MissChange]) -> Result<(), Inconsistent> {
        self.check_members(changes)?;
        for change in changes {
            let key = (change.group, change.member);
            if let Some(mask) = self.misses.get_mut(&key) {
                *mask &= !change.mask;
                if *mask == 0 {
                    self.misses.remove_mut(&key);
                }
            }
        }
        Ok(())
    }

    fn check_members(&self, changes: &[MissChange]) -> Result<(), Inconsistent> {
        for change in changes {
            let group = self.group_by_birth(change.group);
            if group.is_none_or(|group| usize::from(change.member) >= group.run.members.len()) {
                return Err(Inconsistent::UnknownGroup(change.group));
            }
        }
        Ok(())
    }
}
