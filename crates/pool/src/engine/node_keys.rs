//! Which machine has which disk, where machines prove who they are (docs/engine.md 7.9). A machine that is let in answers
//! for its own disks, and for no other's: it could show older contents of them, or what it likes. So the pool remembers
//! the key of the machine that had each disk, and does without one that another machine has until somebody says that it
//! was moved there.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use seal::PublicKey;

use super::lease::Ended;
use super::member::Member;
use super::open::{Claimed, OpenRequest};
use super::pool::Pool;
use super::slot::{Device, Slot, SlotState};
use super::{DiskPlace, Engine};
use crate::error::PoolError;
use crate::format::{DiskId, PoolId};
use crate::metadata::{MetaRecord, Metadata};
use crate::report::{MovedDisk, PoolEvent};

/// The machine that has each disk, by its name and its key.
pub(super) type Machines = BTreeMap<DiskId, (String, PublicKey)>;

/// The key of the machine that somebody said is right.
pub(super) type Accepted = BTreeMap<DiskId, PublicKey>;

/// Whether a disk is where it was: on a machine with that key, or one that somebody said is right.
fn is_at_home(now: PublicKey, known: Option<PublicKey>, accepted: Option<PublicKey>) -> bool {
    accepted == Some(now) || known.is_none_or(|known| known == now)
}

impl Engine {
    /// Why a labelled device isn't taken for the disk that its label names: another machine has it than had it last.
    pub(super) fn why_elsewhere(&self, device: &Device) -> Option<String> {
        let label = device.content.borrow().label().cloned()?;
        let moved = self.moved(device)?;
        let MovedDisk { disk, from, from_key, to, to_key, .. } = &moved;
        let remedy = format!(
            "if you moved the disk, or the machine has another key: etherpool pool accept {} {disk}; else find out why \
             that machine shows it",
            label.pool_name
        );
        Some(format!(
            "{to}, which proves the key {to_key}, has it, but it was on {from} with the key {from_key}; {remedy}"
        ))
    }

    /// Tells once that it isn't.
    pub(super) fn tell_elsewhere(&self, device: &Device) {
        let why = self.why_elsewhere(device);
        if device.is_elsewhere.replace(why.is_some()) {
            return;
        }
        if let Some(why) = why {
            let label = device.content.borrow().label().cloned();
            self.events.tell(PoolEvent::DiskRefused {
                pool: label.map(|label| label.pool_name),
                disk: device.facts.name.clone(),
                why,
            });
        }
    }

    /// What is to be accepted before a device is taken for the disk that its label names.
    fn moved(&self, device: &Device) -> Option<MovedDisk> {
        self.config.key?;
        let to_key = device.facts.node_key?;
        let content = device.content.borrow();
        let label = content.label()?;
        let known = self.known_place(label.pool, label.disk);
        let from_key = known.node_key?;
        let accepted = self.accepted.borrow().get(&(label.pool, label.disk)).copied();
        (!is_at_home(to_key, Some(from_key), accepted)).then(|| MovedDisk {
            disk: device.facts.name.clone(),
            device_name: device.facts.device_name.clone(),
            serial: device.facts.serial.clone(),
            from: known.node_name,
            from_key,
            to: device.facts.node_name.clone(),
            to_key,
        })
    }

    /// Where a disk is known to be: by the pool's metadata, or before that could be read by our own records.
    fn known_place(&self, pool: PoolId, disk: DiskId) -> DiskPlace {
        let slot = self.slots.borrow().get(&pool).cloned();
        let state = slot.as_ref().map(|slot| slot.state.borrow().clone());
        if let Some(SlotState::Open(open)) = state {
            let meta = open.pool.meta.borrow();
            let mut disks = meta.disks().values();
            let known = disks.find(|known| known.id == disk);
            return known.map_or_else(DiskPlace::default, |known| DiskPlace {
                node_name: known.node_name.clone(),
                node_key: meta.node_key(known.number),
                ..DiskPlace::default()
            });
        }
        let kept = self.known.borrow().get(&pool).and_then(|disks| disks.get(&disk).cloned());
        let kept = kept.unwrap_or_default();
        let told = slot.and_then(|slot| slot.machines.borrow().get(&disk).cloned());
        told.map_or(kept, |(node_name, node_key)| DiskPlace {
            node_name,
            node_key: Some(node_key),
            ..DiskPlace::default()
        })
    }

    /// Disks of a pool that other machines have than had them.
    pub fn moved_disks(&self, pool: &str) -> Result<Vec<MovedDisk>, PoolError> {
        Ok(self.moved_of(self.importable(pool)?.id))
    }

    fn moved_of(&self, pool: PoolId) -> Vec<MovedDisk> {
        let devices = self.devices.borrow();
        let of_pool = devices.values().filter(|device| device.is_of(pool));
        of_pool.filter_map(|device| self.moved(device)).collect()
    }

    /// Takes these disks for the pool's where they are now: what somebody was shown, and nothing else.
    pub fn accept_disks(&self, pool: &str, shown: &[MovedDisk]) -> Result<(), PoolError> {
        let slot = self.importable(pool)?;
        let moved = self.moved_of(slot.id);
        if let Some(other) = shown.iter().find(|shown| !moved.contains(shown)) {
            return Err(PoolError::invalid(
                format!("{} isn't any more where it was when it was shown", other.disk),
                "look at it again: etherpool pool accept POOL --dry-run",
            ));
        }
        for one in shown {
            let device = self.devices.borrow().get(&one.disk).cloned();
            let label = device.and_then(|device| device.content.borrow().label().cloned());
            if let Some(label) = label.filter(|label| label.pool == slot.id) {
                self.accepted.borrow_mut().insert((label.pool, label.disk), one.to_key);
            }
        }
        let names: Vec<String> = shown.iter().map(|one| one.disk.clone()).collect();
        self.observe_again(&names);
        self.changed.notify_all();
        Ok(())
    }

    /// Those of a pool whose machine somebody said is right.
    pub(super) fn accepted_of(&self, slot: &Slot) -> Accepted {
        let accepted = self.accepted.borrow();
        let of_pool = accepted.iter().filter(|((pool, _), _)| *pool == slot.id);
        of_pool.map(|((_, disk), node_key)| (*disk, *node_key)).collect()
    }

    /// What of a pool is present and doesn't count, for people.
    pub(super) fn elsewhere_of(&self, pool: PoolId) -> Vec<String> {
        let devices = self.devices.borrow();
        let of_pool = devices.values().filter(|device| device.is_of(pool));
        let told = |device: &Rc<Device>| {
            Some(format!("{}: {}", device.facts.name, self.why_elsewhere(device)?))
        };
        of_pool.filter_map(told).collect()
    }
}

impl OpenRequest {
    /// Of the disks that were claimed those that other machines have than the metadata says. It is kept who has which.
    pub(super) fn elsewhere(&self, metadata: &Metadata, claimed: &[Claimed]) -> BTreeSet<DiskId> {
        let known = metadata.disks().values().filter_map(|disk| {
            let node_key = metadata.node_key(disk.number)?;
            Some((disk.id, (disk.node_name.clone(), node_key)))
        });
        let known: Machines = known.collect();
        self.machines.replace(known.clone());
        if self.config.key.is_none() {
            return BTreeSet::new();
        }
        let is_elsewhere = |claimed: &&Claimed| {
            let disk = claimed.disk.label.disk;
            let known = known.get(&disk).map(|(_, node_key)| *node_key);
            let accepted = self.accepted.get(&disk).copied();
            let now = claimed.disk.place.node_key;
            now.is_some_and(|now| !is_at_home(now, known, accepted))
        };
        claimed.iter().filter(is_elsewhere).map(|claimed| claimed.disk.label.disk).collect()
    }
}

impl Pool {
    /// The record of the machine that has a disk which is taken in, if it isn't kept.
    pub(super) fn node_key_record(&self, member: &Member) -> Option<MetaRecord> {
        self.key?;
        let node_key = member.place.borrow().node_key?;
        let meta = self.meta.borrow();
        let is_new = meta.node_key(member.number) != Some(node_key);
        let is_known = meta.disks().contains_key(&member.number);
        (is_known && is_new).then(|| MetaRecord::node_key(member.number, Some(node_key)))
    }

    /// Keeps the machines of these disks in one commit: of a pool that is opened with keys for the first time that is
    /// all of them. The caller holds `meta_lock`.
    pub(super) async fn keep_node_keys<'a>(
        self: &Rc<Self>,
        members: impl Iterator<Item = &'a Rc<Member>>,
    ) -> Result<(), Ended> {
        let records: Vec<_> = members.filter_map(|member| self.node_key_record(member)).collect();
        if records.is_empty() { Ok(()) } else { self.commit_locked(&records).await }
    }
}
