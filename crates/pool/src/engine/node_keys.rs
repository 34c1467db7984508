//! Which machine has which disk, where machines prove who they are (docs/engine.md 7.9). A machine that is let in answers
//! for its own disks, and for no other's: it could show older contents of them, or what it likes. So the pool remembers
//! the key of the machine that had each disk, and does without one that another machine has until somebody says that it
//! was moved there.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

use seal::PublicKey;

use super::commit::CommitError;
use super::lease::Ended;
use super::member::Member;
use super::observe::Content;
use super::open::OpenRequest;
use super::pool::Pool;
use super::slot::{Device, KnownDisks, Slot};
use super::{DiskPlace, Engine};
use crate::error::PoolError;
use crate::format::{DiskId, PoolId};
use crate::metadata::{MetaRecord, Metadata};
use crate::report::MovedDisk;

/// Disks that are named in a sentence, at most.
const NAMED_MAX: usize = 4;

/// Which machines are the supervisor's own: from others no disk is taken whose machine the pool doesn't know.
#[derive(Clone, Default)]
pub struct OwnNodes(Option<Rc<AreOwn>>);

type AreOwn = dyn Fn(&PublicKey) -> bool;

impl OwnNodes {
    /// Those whose keys this says, at any time; without it all are.
    pub fn those(are: impl Fn(&PublicKey) -> bool + 'static) -> OwnNodes {
        OwnNodes(Some(Rc::new(are)))
    }

    fn has(&self, key: &PublicKey) -> bool {
        self.0.as_ref().is_none_or(|are| are(key))
    }
}

impl fmt::Debug for OwnNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "OwnNodes(some)" } else { "OwnNodes(all)" })
    }
}

/// Where a pool's disks belong, as far as that is known: at first by our own records, then by the metadata.
pub(crate) struct Homes {
    own: OwnNodes,
    /// The metadata has been read: what it doesn't know isn't known.
    is_read: Cell<bool>,
    /// The machine that each disk was on last, by its name and its key.
    machines: RefCell<BTreeMap<DiskId, (String, PublicKey)>>,
    /// Those of which somebody said that they have it now. It counts until the metadata has it.
    accepted: RefCell<BTreeMap<DiskId, PublicKey>>,
}

impl Homes {
    /// What our own records say.
    pub(super) fn of(known: Option<&KnownDisks>, own: OwnNodes) -> Homes {
        let machines = known
            .into_iter()
            .flatten()
            .filter_map(|(disk, place)| Some((*disk, (place.node_name.clone(), place.node_key?))));
        Homes {
            own,
            is_read: Cell::new(false),
            machines: RefCell::new(machines.collect()),
            accepted: RefCell::default(),
        }
    }

    /// What the metadata says, and nothing else any more.
    pub(super) fn know(&self, metadata: &Metadata) {
        let machines = metadata.disks().values().filter_map(|disk| {
            let node_key = metadata.node_key(disk.number)?;
            Some((disk.id, (disk.node_name.clone(), node_key)))
        });
        self.machines.replace(machines.collect());
        self.is_read.set(true);
    }

    /// Nothing: somebody else had the pool, and moved its disks as he liked.
    pub(super) fn forget(&self) {
        self.machines.borrow_mut().clear();
        self.is_read.set(false);
    }

    /// What is to be accepted before a disk is taken from where it is now, if it isn't where it belongs.
    pub(super) fn moved(&self, disk: DiskId, now: &DiskPlace) -> Option<MovedDisk> {
        let to_key = now.node_key?;
        let machines = self.machines.borrow();
        let home = machines.get(&disk);
        // Whoever comes first would have it for good.
        let is_right = match home {
            Some((_, from_key)) => *from_key == to_key,
            None => self.own.has(&to_key) || !self.is_read.get() && machines.is_empty(),
        };
        let is_right = is_right || self.accepted.borrow().get(&disk) == Some(&to_key);
        (!is_right).then(|| MovedDisk {
            disk: now.name.clone(),
            device_name: now.device_name.clone(),
            serial: now.serial.clone(),
            from: home.map(|(from, _)| from.clone()).unwrap_or_default(),
            from_key: home.map(|(_, from_key)| *from_key),
            to: now.node_name.clone(),
            to_key,
            id: disk.to_string(),
        })
    }

    fn accept(&self, disk: DiskId, node_key: PublicKey) {
        self.accepted.borrow_mut().insert(disk, node_key);
    }

    /// The metadata has it.
    fn learn(&self, disk: DiskId, node_name: String, node_key: PublicKey) {
        self.machines.borrow_mut().insert(disk, (node_name, node_key));
        self.accepted.borrow_mut().remove(&disk);
    }
}

/// Why a disk isn't taken from where it is.
fn explain(pool: &str, moved: &MovedDisk) -> String {
    let MovedDisk { disk, from, from_key, to, to_key, .. } = moved;
    let Some(from_key) = from_key else {
        let remedy = format!(
            "have it join: etherpool token create here, and etherpool join there; or, if you know that key, etherpool pool accept \
             {pool} {disk}"
        );
        return format!(
            "{to}, which proves the key {to_key}, has it, and hasn't joined this machine, nor does the pool know where it was; {remedy}"
        );
    };
    let remedy = format!(
        "if you moved the disk, or the machine has another key: etherpool pool accept {pool} {disk}; else find out why \
         that machine shows it"
    );
    format!(
        "{to}, which proves the key {to_key}, has it, but it was on {from} with the key {from_key}; {remedy}"
    )
}

/// Several of them, in short.
pub(super) fn explain_all(pool: &str, moved: &[MovedDisk]) -> Option<String> {
    let named = moved.iter().take(NAMED_MAX);
    let mut named: Vec<String> =
        named.map(|one| format!("{}: {}", one.disk, explain(pool, one))).collect();
    let others = moved.len().saturating_sub(NAMED_MAX);
    if others > 0 {
        named.push(format!("{others} others are on other machines than they were, too"));
    }
    (!named.is_empty()).then(|| named.join("; "))
}

impl Engine {
    /// What is to be accepted before a device is taken for the disk that its label names.
    fn moved(&self, device: &Device) -> Option<MovedDisk> {
        // Where machines prove nothing, that is all.
        device.facts.node_key?;
        let content = device.content.borrow();
        let label = content.label()?;
        let slot = self.slots.borrow().get(&label.pool).cloned()?;
        slot.homes.moved(label.disk, &device.facts.place())
    }

    /// Whether another machine has a device than had the disk that its label names.
    pub(super) fn is_elsewhere(&self, device: &Device) -> bool {
        self.moved(device).is_some()
    }

    /// Why a labelled device isn't taken for the disk that its label names, if that is why.
    pub(super) fn why_elsewhere(&self, device: &Device) -> Option<String> {
        let moved = self.moved(device)?;
        let content = device.content.borrow();
        Some(explain(&content.label()?.pool_name, &moved))
    }

    /// Disks of a pool that other machines have than had them.
    pub fn moved_disks(&self, pool: &str) -> Result<Vec<MovedDisk>, PoolError> {
        Ok(self.moved_of(self.importable(pool)?.id))
    }

    pub(super) fn moved_of(&self, pool: PoolId) -> Vec<MovedDisk> {
        let devices = self.devices.borrow();
        let of_pool = devices.values().filter(|device| device.is_of(pool));
        of_pool.filter_map(|device| self.moved(device)).collect()
    }

    /// Takes these disks for the pool's where they are now: what somebody was shown, and nothing else.
    pub fn accept_disks(&self, pool: &str, shown: &[MovedDisk]) -> Result<(), PoolError> {
        let slot = self.importable(pool)?;
        let moved = self.moved_of(slot.id);
        // A command of version 0.1 doesn't say which disk it is but by its name.
        let is_as_shown = |shown: &MovedDisk, one: &MovedDisk| {
            let id = if shown.id.is_empty() { String::new() } else { one.id.clone() };
            *shown == MovedDisk { id, ..one.clone() }
        };
        let is_there = |shown: &&MovedDisk| moved.iter().any(|one| is_as_shown(shown, one));
        if let Some(other) = shown.iter().find(|shown| !is_there(shown)) {
            return Err(PoolError::invalid(
                format!("{} isn't any more where it was when it was shown", other.disk),
                "look at it again: etherpool pool accept POOL --dry-run",
            ));
        }
        for one in shown {
            let device = self.devices.borrow().get(&one.disk).cloned();
            let disk = device.and_then(|device| Some(device.content.borrow().label()?.disk));
            disk.into_iter().for_each(|disk| slot.homes.accept(disk, one.to_key));
        }
        let names: Vec<String> = shown.iter().map(|one| one.disk.clone()).collect();
        self.observe_again(&names);
        self.changed.notify_all();
        Ok(())
    }

    /// Of a pool that isn't ours by any vote in sight, be that elsewhere, nothing is known from before: whoever had it
    /// may have moved its disks. Votes count by what is known here, whatever somebody wants to see who only looks.
    pub(super) fn forget_others_homes(&self, slot: &Slot) {
        let devices = self.devices.borrow();
        let of_pool = devices.values().filter(|device| device.is_of(slot.id));
        let shown = of_pool.map(|device| self.content_of(device));
        let votes = shown.filter_map(|content| match content {
            Content::Labelled { vote: Some(vote), .. } if vote.counts => {
                Some((vote.newest.rank(), vote.newest.owner))
            }
            _ => None,
        });
        let owner = votes.max_by_key(|(rank, _)| *rank).map(|(_, owner)| owner);
        if owner.is_some_and(|owner| owner != self.config.owner) {
            slot.homes.forget();
        }
    }
}

impl OpenRequest {
    /// The disks that other machines have than the metadata says, which counts from now on.
    pub(super) fn elsewhere(&mut self, metadata: &Metadata) -> BTreeSet<DiskId> {
        self.homes.know(metadata);
        let moved = self.disks.iter().filter_map(|seen| {
            Some((seen.label.disk, self.homes.moved(seen.label.disk, &seen.place)?))
        });
        let moved: BTreeMap<DiskId, MovedDisk> = moved.collect();
        self.moved.extend(moved.values().cloned());
        moved.into_keys().collect()
    }
}

impl Pool {
    /// Why a disk isn't taken in from where it is.
    pub(super) fn why_elsewhere(&self, member: &Member) -> Option<String> {
        let moved = self.homes.moved(member.id, &member.place.borrow())?;
        Some(explain(&self.name, &moved))
    }

    /// The record of the machine that has a disk which is taken in, if it isn't kept.
    pub(super) fn node_key_record(&self, member: &Member) -> Option<MetaRecord> {
        let node_key = member.place.borrow().node_key?;
        let meta = self.meta.borrow();
        let is_new = meta.node_key(member.number) != Some(node_key);
        let is_known = meta.disks().contains_key(&member.number);
        (is_known && is_new).then(|| MetaRecord::node_key(member.number, node_key))
    }

    /// What such a record said is committed.
    pub(super) fn learn_home(&self, member: &Member) {
        let place = member.place.borrow();
        if let Some(node_key) = place.node_key {
            self.homes.learn(member.id, place.node_name.clone(), node_key);
        }
    }

    /// Keeps the machines of these disks in one commit: of a pool that is opened with keys for the first time that is
    /// all of them. Where there is no room they aren't kept now. The caller holds `meta_lock`.
    pub(super) async fn keep_node_keys<'a>(
        self: &Rc<Self>,
        members: impl Iterator<Item = &'a Rc<Member>>,
    ) -> Result<(), Ended> {
        let new = members.filter_map(|member| Some((member, self.node_key_record(member)?)));
        let (new, records): (Vec<&Rc<Member>>, Vec<MetaRecord>) = new.unzip();
        if records.is_empty() {
            return Ok(());
        }
        match self.try_commit_locked(&records).await {
            Ok(()) => new.into_iter().for_each(|member| self.learn_home(member)),
            Err(CommitError::Ended(ended)) => return Err(ended),
            Err(error) => {
                tracing::warn!(pool = %self.name, ?error, "which machines have its disks isn't kept");
            }
        }
        Ok(())
    }
}
