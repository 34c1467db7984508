//! Which disks are a pool's. That is what their labels say, but for a pool that is being split from another one (`split`):
//! its disks name both, and as long as they do they were never used as that of the new one. **If it certainly never was
//! made they are the former one's**, which takes them back when it opens, or when they are there while it is open.
//!
//! It certainly wasn't, where so many of its voters are present and have no vote of it that the others are no majority.
//! Of less nobody knows: what isn't there may have all its votes. Whoever has what is left made a pool of its own says
//! that what isn't there never will be, so for him it wasn't made unless a majority is there.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::Engine;
use super::observe::Content;
use super::open::SeenDisk;
use super::quorum::Quorum;
use super::slot::Device;
use crate::format::{DiskId, Label, PoolId, has_majority};

impl Engine {
    /// The pool that a device is a disk of.
    pub(super) fn pool_of(&self, content: &Content) -> Option<PoolId> {
        let named = content.label()?.pool;
        match content {
            Content::Labelled { split: Some(split), .. } if self.is_undone(named) => {
                Some(split.former)
            }
            _ => Some(named),
        }
    }

    /// The same, with its label.
    pub(super) fn label_of(&self, device: &Device) -> Option<(PoolId, Label)> {
        let content = device.content.borrow();
        Some((self.pool_of(&content)?, content.label()?.clone()))
    }

    /// Whether a device is a disk of a pool.
    pub(super) fn is_of(&self, device: &Device, pool: PoolId) -> bool {
        self.pool_of(&device.content.borrow()) == Some(pool)
    }

    /// Whether a device present is a disk of it.
    pub(super) fn is_present(&self, pool: PoolId) -> bool {
        self.devices.borrow().values().any(|device| self.is_of(device, pool))
    }

    /// The devices that carry the label of a pool.
    pub(super) fn labelled(&self, pool: PoolId) -> Vec<Rc<Device>> {
        let devices = self.devices.borrow();
        let names = |device: &&Rc<Device>| {
            device.content.borrow().label().is_some_and(|label| label.pool == pool)
        };
        devices.values().filter(names).cloned().collect()
    }

    /// Whether a pool that is being split from another certainly never was.
    pub(super) fn is_undone(&self, pool: PoolId) -> bool {
        let mut voters: Vec<DiskId> = Vec::new();
        let (mut with, mut without) = (BTreeSet::new(), BTreeSet::new());
        for device in self.labelled(pool) {
            let content = device.content.borrow();
            let Content::Labelled { label, split, .. } = &*content else { return false };
            // One that was used.
            let Some(split) = split else { return false };
            voters.clone_from(&label.label.vote_disks);
            let votes = if split.may_have_voted { &mut with } else { &mut without };
            votes.insert(label.label.disk);
        }
        let may = |disk: DiskId| with.contains(&disk) || !without.contains(&disk);
        !voters.is_empty() && !has_majority(&voters, may)
    }

    /// The pool that the disks of one are being split from, if no majority of its votes is in sight.
    pub(super) fn unfinished(&self, pool: PoolId) -> Option<PoolId> {
        let disks =
            self.seen_as(pool, |content| content.label().is_some_and(|label| label.pool == pool));
        let former = disks.first()?.label.splits_from?;
        let all = disks.iter().all(|disk| disk.label.splits_from == Some(former));
        (all && !Quorum::of(&disks).is_enough()).then_some(former)
    }

    /// Whether what is left of a pool has this: its disks present, and those that only began to be split from it.
    fn is_left_of(&self, content: &Content, pool: PoolId) -> bool {
        let began = |label: &Label| {
            label.splits_from == Some(pool) && self.unfinished(label.pool).is_some()
        };
        self.pool_of(content) == Some(pool) || content.label().is_some_and(began)
    }

    /// What is left of a pool, as disks of that.
    pub(super) fn left_of(&self, pool: PoolId) -> Vec<SeenDisk> {
        self.seen_as(pool, |content| self.is_left_of(content, pool))
    }

    /// Devices among what is left of a pool that pass for one disk.
    pub(super) fn clones_left(&self, pool: PoolId) -> Vec<String> {
        let mut names: BTreeMap<DiskId, Vec<String>> = BTreeMap::new();
        for device in self.devices.borrow().values() {
            let content = device.content.borrow();
            let is_left = self.is_left_of(&content, pool);
            if let Some(label) = content.label().filter(|_| is_left) {
                names.entry(label.disk).or_default().push(device.facts.name.clone());
            }
        }
        names.into_values().filter(|names| names.len() > 1).flatten().collect()
    }

    /// The disks of a pool present, without those that aren't who they say (`twins`).
    pub(super) fn seen_disks(&self, pool: PoolId) -> Vec<SeenDisk> {
        self.seen_as(pool, |content| self.pool_of(content) == Some(pool))
    }

    /// Those with these contents, as disks of a pool.
    fn seen_as(&self, pool: PoolId, is_one: impl Fn(&Content) -> bool) -> Vec<SeenDisk> {
        let mut seen: BTreeMap<DiskId, SeenDisk> = BTreeMap::new();
        for device in self.devices.borrow().values() {
            let content = device.content.borrow();
            if !matches!(&*content, Content::Labelled { .. }) || !is_one(&content) {
                continue;
            }
            let Some((label, vote)) = content.as_of(pool) else { continue };
            if self.why_not_itself(device).is_none() {
                seen.entry(label.disk).or_insert_with(|| SeenDisk {
                    place: device.facts.place(),
                    machine: device.facts.node,
                    device: Rc::clone(&device.device),
                    label,
                    vote,
                });
            }
        }
        seen.into_values().collect()
    }

    /// Those of a pool's that no command is making another's.
    pub(super) fn free_disks(&self, pool: PoolId) -> Vec<SeenDisk> {
        let mut disks = self.seen_disks(pool);
        disks.retain(|disk| !self.taken.has_disk(&disk.place.name));
        disks
    }
}
