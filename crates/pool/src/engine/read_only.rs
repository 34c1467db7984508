//! Importing a pool read-only: opened as ever, over disks with private layers ([`Overlay`]), so that nothing of it
//! reaches a disk and nobody is fenced. It needs no majority: in the layers, the votes that are present are made
//! all that there are. What it shows is what those present know, which may be older than what was acknowledged.
//!
//! It ends when its owner speaks to any of the votes that it reads. What runs beside requests in an open pool doesn't
//! run, logs stay as they are once they were replayed, volumes refuse writes, and disks that appear later
//! stay out: their layers would lack what the others' have.

use std::collections::BTreeSet;
use std::rc::Rc;

use block::size::Human;
use block::{BlockDevice, Durability, Holder};
use futures::future::join_all;

use super::Engine;
use super::config::vote_place;
use super::import::owner_lives;
use super::lease::Ended;
use super::member::{Member, Standing};
use super::observe::Vote;
use super::open::{Failed, OpenRequest, SeenDisk};
use super::open_pool::OpenPool;
use super::overlay::Overlay;
use super::pool::{GroupPlace, Pool};
use super::quorum::Quorum;
use super::slot::Slot;
use super::trusted::Trusted;
use super::whose::{ALIVE_WITHIN, owner_name};
use crate::error::PoolError;
use crate::format::{
    ConfigNumber, Configuration, DiskGeometry, DiskId, DiskNumber, Signers, VOTE_DISKS_MAX, Voters,
};
use crate::metadata::{MetaRecord, Volume as VolumeMeta};
use crate::report::VotesReport;

/// So often an owner is waited for to be silent: one that was released or ended a moment ago is, after the first.
const SILENCE_TRIES: u32 = 3;

/// A pool's disks with layers over them, and what they said before.
struct LaidOver {
    disks: Vec<SeenDisk>,
    votes: VotesReport,
    found: ConfigNumber,
}

impl Engine {
    /// Opens a pool over layers. They stay if it fails: [`Engine::lift_layers`].
    pub(super) async fn open_read_only(
        &self,
        slot: &Slot,
        request: OpenRequest,
    ) -> Result<Rc<OpenPool>, PoolError> {
        let refusals = self.private_room.refusals();
        let opened = self.open_laid_over(slot, request).await;
        if self.private_room.refusals() == refusals {
            return opened;
        }
        opened.map_err(|_| PoolError::Suspended {
            name: slot.name.borrow().clone(),
            reason: format!(
                "opening it takes more memory than the {} that there are for pools that are only read",
                Human(self.private_room.bytes())
            ),
        })
    }

    async fn open_laid_over(
        &self,
        slot: &Slot,
        request: OpenRequest,
    ) -> Result<Rc<OpenPool>, PoolError> {
        let (open, votes) = loop {
            let LaidOver { disks, votes, found } = self.lay_over(slot, request.outdated).await?;
            // The votes in its layers are of our own making.
            let trusted = Trusted::default();
            let mut over = OpenRequest { disks, found: Some(found), trusted, ..request.clone() };
            match over.open_once().await {
                Ok(open) => break (open, votes),
                // They aren't seen any more, and the others are votes without them.
                Err(Failed::Elsewhere(_)) => {}
                Err(Failed::Error(error)) => return Err(error),
            }
        };
        open.votes_before.set(Some(votes));
        match open.forget_properties().await {
            Ok(()) => Ok(open),
            Err(error) => {
                open.pool.lease.end(Ended::Closed);
                Err(error)
            }
        }
    }

    /// Of a pool that has just been opened: nobody told it of devices that went meanwhile.
    pub(super) fn detach_gone(&self, open: &OpenPool) {
        let devices = self.devices.borrow();
        for member in open.pool.members() {
            let Some(held) = member.device() else { continue };
            if !devices.values().any(|device| device.is_held(&held)) {
                member.detach();
            }
        }
    }

    /// The disks of a closed pool that are present, with layers over them in which their votes are all that there are.
    async fn lay_over(&self, slot: &Slot, outdated: bool) -> Result<LaidOver, PoolError> {
        self.lift_layers(slot);
        let owners = self.silent_owners(slot).await?;
        let grant = slot.grant.borrow().clone();
        let mut disks = Vec::new();
        for (seen, owner) in owners {
            let device = self.devices.borrow().get(&seen.place.name).cloned();
            let Some(device) = device else { continue };
            let base = Rc::clone(&device.device);
            base.look_inside(true);
            let layer: Rc<dyn BlockDevice> =
                Overlay::over(base, owner, &self.private_room, &self.runtime, grant.clone());
            *device.overlay.borrow_mut() = Some((slot.id, Rc::clone(&layer)));
            slot.laid_over.borrow_mut().push(device);
            disks.push(SeenDisk { device: layer, ..seen });
        }
        let quorum = Quorum::of(&disks);
        let newest = quorum.newest.clone();
        let config = newest.and_then(|newest| alone(newest, &disks, outdated));
        let config = config.ok_or_else(|| self.request(slot).no_quorum(&quorum))?;
        for disk in &mut disks {
            // Also where another's would be read that doesn't count.
            if config.voters.contains(disk.label.disk) || disk.vote.is_some() {
                disk.vote = Some(self.put_votes(slot, disk, &config).await?);
            }
        }
        Ok(LaidOver { disks, votes: quorum.votes(), found: config.number })
    }

    /// Takes the layers off a pool's disks, and with them what was written there; whatever these carry by now.
    pub(super) fn lift_layers(&self, slot: &Slot) {
        for device in slot.laid_over.take() {
            *device.overlay.borrow_mut() = None;
            device.device.look_inside(false);
        }
    }

    /// The disks present that answer, each with who had it: waits until that was silent for as long as targets want
    /// to be sure that it answers nobody any more.
    async fn silent_owners(&self, slot: &Slot) -> Result<Vec<(SeenDisk, Holder)>, PoolError> {
        let mut tries = 0;
        loop {
            let disks = self.free_disks(slot.id);
            let asked = disks.iter().map(|disk| {
                let renewed = disk.device.renew();
                runtime::timeout(&self.runtime, self.config.limits.claim, renewed)
            });
            let asked = join_all(asked).await;
            let quorum = Quorum::of(&disks);
            let told = disks.into_iter().zip(asked);
            let told = told.filter_map(|(disk, told)| Some((disk, told.ok()?.ok()?.value)));
            let told: Vec<(SeenDisk, Holder)> = told.collect();
            let heard = told.iter().filter_map(|(_, holder)| holder.heard).min();
            let heard = heard.filter(|heard| *heard < ALIVE_WITHIN);
            let Some(heard) = heard else { return Ok(told) };
            if tries == SILENCE_TRIES {
                return Err(owner_lives(&slot.name.borrow(), &owner_name(&quorum), heard));
            }
            tries += 1;
            self.runtime.sleep(ALIVE_WITHIN.saturating_sub(heard)).await;
        }
    }

    /// Writes a configuration into both slots of a vote: nothing older hides behind one that can't be read.
    async fn put_votes(
        &self,
        slot: &Slot,
        disk: &SeenDisk,
        config: &Configuration,
    ) -> Result<Vote, PoolError> {
        let place = vote_place(slot.id, disk.label.disk);
        let (mut newest, mut slot_of_newest) = (config.clone(), 0);
        for (index, at) in DiskGeometry::vote_slots().into_iter().enumerate() {
            newest.number = newest.number.next();
            slot_of_newest = index;
            let record = newest.encode(&place, index, None);
            let record = record.map_err(|error| PoolError::Suspended {
                name: slot.name.borrow().clone(),
                reason: error.to_string(),
            })?;
            let written = disk.device.write(at, record, Durability::Durable).await;
            written.map_err(|error| PoolError::io("opening it", &disk.place.name, error))?;
        }
        Ok(Vote { newest, slot: slot_of_newest, is_whole: true, signed: None, counts: true })
    }
}

/// The configuration by which these disks are a pool's votes, all of them; none without a copy of its metadata.
fn alone(newest: Configuration, disks: &[SeenDisk], outdated: bool) -> Option<Configuration> {
    let shows = disks.iter().filter(|disk| disk.vote.is_some()).map(|disk| disk.label.disk);
    let present: Vec<DiskId> = shows.collect();
    let of_all = |is_wanted: &dyn Fn(&DiskId) -> bool| -> Vec<DiskId> {
        present.iter().filter(|disk| is_wanted(disk)).copied().collect()
    };
    let current = of_all(&|disk| newest.copies.contains(disk));
    let copies = match current.is_empty() && outdated {
        true => present.clone(),
        false => current,
    };
    if copies.is_empty() {
        return None;
    }
    // Copies are written to disks that vote.
    let voting = of_all(&|disk| !copies.contains(disk) && newest.voters.contains(*disk));
    let voters: Vec<DiskId> = copies.iter().copied().chain(voting).take(VOTE_DISKS_MAX).collect();
    let copies: BTreeSet<DiskId> = voters.iter().copied().filter(|d| copies.contains(d)).collect();
    // Who signed one that isn't current nobody says any more.
    let metadata_by = match copies.is_subset(&newest.copies) {
        true => newest.metadata_by.clone(),
        false => Signers::default(),
    };
    let voters = Voters::of(voters);
    Some(Configuration { voters, copies, released: true, metadata_by, ..newest })
}

impl Pool {
    /// Whether a disk gives no answer as long as the pool is open: it wasn't there when that was imported read-only, or
    /// can't be taken in.
    pub(crate) fn stays_away(&self, disk: DiskNumber) -> bool {
        let is_no_use = |member: Rc<Member>| {
            member.device().is_none() || matches!(member.standing(), Standing::Refused(_))
        };
        self.read_only && self.member(disk).is_none_or(is_no_use)
    }

    /// Whether all that should have some regions of a group stay away.
    pub(crate) fn all_stay_away(&self, group: &GroupPlace, mask: u64) -> bool {
        let mut members = group.members.iter().enumerate();
        self.read_only
            && members.all(|(index, (disk, _))| {
                self.stays_away(*disk) || !self.has_all(group, index, mask)
            })
    }
}

impl OpenPool {
    /// Forgets what services remember of volumes: it was for who owned the pool, and isn't to be done here.
    pub(super) async fn forget_properties(self: &Rc<Self>) -> Result<(), PoolError> {
        self.administer(|meta| {
            let of_volume = |volume: &VolumeMeta| {
                let id = volume.id;
                let forgotten = move |key: &String| {
                    let (key, value) = (key.clone(), None);
                    MetaRecord::PropertySet { id, key, value }
                };
                volume.properties.keys().map(forgotten).collect::<Vec<_>>()
            };
            Ok((meta.volumes().values().flat_map(of_volume).collect(), ()))
        })
        .await
    }

    /// That it isn't changed.
    pub(super) fn check_writable(&self) -> Result<(), PoolError> {
        match self.pool.read_only {
            true => Err(PoolError::ReadOnly { pool: self.pool.name.clone() }),
            false => Ok(()),
        }
    }
}
