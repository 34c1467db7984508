//! Which disks are a pool's. That is what their labels say, but for a pool that is being split from another one (`split`):
//! its disks name both, and as long as they do they were never used as that of the new one. **If it certainly never was
//! made they are the former one's**, which takes them back when it opens, or when they are there while it is open.
//!
//! It certainly wasn't, where so many of its voters are present and have no vote of it that the others are no majority; a
//! disk that the former one has in use is one of these. Of less nobody knows: what isn't there may have all its votes.
//! Whoever has what is left made a pool of its own says that what isn't there never will be, so for him it wasn't made
//! unless a majority is there. Before the former pool takes the first disk back it records that in its metadata
//! (`take_back`): then it doesn't matter any more who is there.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::observe::Content;
use super::open::SeenDisk;
use super::open_pool::OpenPool;
use super::quorum::Quorum;
use super::slot::{Device, SlotState};
use super::{Engine, NamedDisks};
use crate::error::PoolError;
use crate::forecast::OnlineForecast;
use crate::format::{DiskId, Label, PoolId, has_majority};
use crate::metadata::MetaRecord;

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
        let labelled = self.labelled(pool);
        let contents: Vec<_> = labelled.iter().map(|device| device.content.borrow()).collect();
        let contents: Vec<&Content> = contents.iter().map(|content| &**content).collect();
        let Some(traces) = Traces::of(pool, &contents) else { return false };
        let slot = self.slots.borrow().get(&traces.former).cloned();
        let open = slot.and_then(|slot| match &*slot.state.borrow() {
            SlotState::Open(open) => Some(Rc::clone(open)),
            _ => None,
        });
        let Some(open) = open else { return traces.never_was(|_| false) };
        // Not whatever carries its label: that may be a copy from before.
        let holds =
            |disk| open.pool.member_by_id(disk).is_some_and(|m| m.claimed.get() && m.answers.get());
        let is_recorded = open.pool.meta.borrow().is_undone(pool);
        is_recorded || traces.never_was(holds)
    }

    /// Takes disks back that name a pool which was begun to be split from this one, because somebody says that it never
    /// was, or gives it up; or tells what that would mean. It is recorded like what was found out.
    pub(super) async fn take_back_by_word(
        &self,
        open: &Rc<OpenPool>,
        request: &NamedDisks,
    ) -> Result<OnlineForecast, PoolError> {
        let mut forecast = OnlineForecast::default();
        let mut undone = BTreeSet::new();
        let (id, pool) = (open.pool.id, &open.pool.name);
        for disk in open.all_named(&request.disks)? {
            let named = open.pool.id_of(disk);
            let found = self.devices.borrow().values().find_map(|device| {
                let content = device.content.borrow();
                let new = content.split_from(id)?;
                let is_it = content.label().map(|label| label.disk) == named;
                is_it.then(|| (device.facts.name.clone(), new))
            });
            let Some((name, new)) = found else {
                return Err(PoolError::invalid(
                    format!(
                        "{} isn't in sight as one that was being split from it",
                        open.pool.disk_name(disk)
                    ),
                    format!("see `etherpool pool show {pool}`"),
                ));
            };
            if self.is_made(new) {
                return Err(PoolError::refused(
                    name,
                    format!(
                        "pool {new}, which was split from pool {pool}, was made, and can be opened"
                    ),
                    "decide which of the two is kept: `etherpool pool show` and `pool import` take ids",
                ));
            }
            forecast.missed_bytes += open.pool.dirty_bytes(disk);
            forecast.disks.push(name);
            undone.insert(new);
        }
        if request.dry_run {
            return Ok(forecast);
        }
        let now = open.pool.runtime.calendar().as_secs();
        let records: Vec<MetaRecord> =
            undone.into_iter().map(|new| MetaRecord::split_undone(new, now)).collect();
        open.administer(move |_| Ok((records, ()))).await?;
        self.observe_again(&forecast.disks);
        Ok(forecast)
    }

    /// Whether a pool that was split from another is in sight as one that was: by its votes, or by one that was used.
    fn is_made(&self, pool: PoolId) -> bool {
        let used = |device: &Rc<Device>| {
            !matches!(&*device.content.borrow(), Content::Labelled { split: Some(_), .. })
        };
        let names = |content: &Content| content.label().is_some_and(|label| label.pool == pool);
        self.labelled(pool).iter().any(used) || Quorum::of(&self.seen_as(pool, names)).is_enough()
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
                    taken_back: content.split_from(pool),
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

/// What disks show of a pool that is being split from another one, as long as none of them was used.
struct Traces {
    former: PoolId,
    voters: Vec<DiskId>,
    /// Those that may have a vote of it.
    with: BTreeSet<DiskId>,
    without: BTreeSet<DiskId>,
}

impl Traces {
    /// What these show of it; none if one was used, or if they don't agree.
    fn of(new: PoolId, contents: &[&Content]) -> Option<Traces> {
        let mut found: Option<Traces> = None;
        for content in contents {
            if content.label().is_none_or(|label| label.pool != new) {
                continue;
            }
            let Content::Labelled { label, split: Some(split), .. } = content else { return None };
            let traces = found.get_or_insert_with(|| Traces {
                former: split.former,
                voters: label.label.vote_disks.clone(),
                with: BTreeSet::new(),
                without: BTreeSet::new(),
            });
            if (traces.former, &traces.voters) != (split.former, &label.label.vote_disks) {
                return None;
            }
            let votes = if split.may_have_voted { &mut traces.with } else { &mut traces.without };
            votes.insert(label.label.disk);
        }
        found
    }

    /// Whether those that have no vote of it, and those that the former pool holds, leave no majority.
    fn never_was(&self, holds: impl Fn(DiskId) -> bool) -> bool {
        leaves_no_majority(&self.voters, |disk| {
            !self.with.contains(&disk) && (self.without.contains(&disk) || holds(disk))
        })
    }
}

/// Whether a pool that was to be split from another never was, by what is on disks that the former one has claimed.
pub(super) fn never_was(former: PoolId, new: PoolId, claimed: &[&Content]) -> bool {
    let is_formers = |disk| {
        claimed
            .iter()
            .filter_map(|content| content.label())
            .any(|label| (label.pool, label.disk) == (former, disk))
    };
    Traces::of(new, claimed).is_some_and(|traces| traces.never_was(is_formers))
}

/// Whether voters that never vote leave no majority of a list.
pub(super) fn leaves_no_majority(voters: &[DiskId], never: impl Fn(DiskId) -> bool) -> bool {
    !voters.is_empty() && !has_majority(voters, |disk| !never(disk))
}
