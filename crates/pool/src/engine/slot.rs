//! Which devices and pools are present, and when a pool is opened: one task per device looks at it,
//! one per pool decides.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{BlockDevice, DriveHealth, Epoch, HealthState, Instant, IoError};
use futures::future::{join_all, select};
use runtime::{Handle, Notify};
use seal::Grant;

use super::cable::{Load, side_by_side};
use super::checksum_cache::ChecksumCache;
use super::events::Events;
use super::lease::Ended;
use super::looks::Turns;
use super::node_keys::Homes;
use super::observe::{Content, explain};
use super::open::{OpenRequest, SeenDisk};
use super::open_pool::OpenPool;
use super::overlay::Room;
use super::quorum::Quorum;
use super::taken::Taken;
use super::trusted::{Decided, Trusted};
use super::{DiskFacts, DiskPlace, EngineConfig, VotesOf};
use crate::error::PoolError;
use crate::format::{Destruction, DiskId, PoolId};
use crate::report::PoolEvent;

/// The engine. Its tasks share it.
pub struct Engine {
    pub(crate) runtime: Handle,
    pub(crate) config: EngineConfig,
    pub(crate) events: Rc<Events>,
    checksum_cache: Rc<ChecksumCache>,
    pub(super) devices: RefCell<BTreeMap<String, Rc<Device>>>,
    pub(super) slots: RefCell<BTreeMap<PoolId, Rc<Slot>>>,
    /// The pools that are opened without being asked for: those that the supervisor's records name, or
    /// that were made or imported since. Their disks as they were last present.
    pub(super) known: RefCell<BTreeMap<PoolId, KnownDisks>>,
    /// By which pools were open here last: who says that a configuration is theirs.
    pub(super) grants: RefCell<BTreeMap<PoolId, Rc<Grant>>>,
    /// Whose votes count, as it was decided last.
    pub(super) trusts: RefCell<BTreeMap<PoolId, Decided>>,
    /// How often a vote was looked at, a device went, or something came to be known of a pool's key.
    pub(super) looks: Cell<u64>,
    /// Pools that are no more, with their names: disks of theirs that were away come back.
    pub(super) destroyed: RefCell<BTreeMap<PoolId, String>>,
    /// What was told of the drives of pools' disks.
    pub(super) told_health: RefCell<BTreeMap<DiskId, HealthState>>,
    /// What commands under way are about to use.
    pub(super) taken: Taken,
    /// For what pools that were imported read-only have for themselves.
    pub(super) private_room: Rc<Room>,
    /// For what mounts of their volumes write, so that these don't use that up.
    pub(super) mounts_room: Rc<Room>,
    /// A device was looked at, or a pool changed its state.
    pub(super) changed: Notify,
    /// Devices that are in no open pool have turns to be looked at.
    pub(super) look_turns: Turns,
    pub(super) glance_turns: Turns,
    pub(super) closing: Cell<bool>,
}

/// Where the disks of a known pool were last present.
pub(super) type KnownDisks = BTreeMap<DiskId, DiskPlace>;

/// A device that is present.
pub(super) struct Device {
    pub(super) facts: DiskFacts,
    pub(super) device: Rc<dyn BlockDevice>,
    /// The layer over it, while that pool is imported read-only.
    pub(super) overlay: RefCell<Option<(PoolId, Rc<dyn BlockDevice>)>>,
    pub(super) content: RefCell<Content>,
    /// The epoch of the reservation on it, when it was last looked at.
    pub(super) epoch: Cell<Epoch>,
    /// It waits for the disk that it passes for to be gone (`twins`).
    pub(super) parted: Cell<bool>,
    /// Why it isn't used, as it was told: that another machine has it than should (`node_keys`), or that its label
    /// can't be used.
    pub(super) told_refused: RefCell<Option<String>>,
    pub(super) gone: Cell<bool>,
    /// How its drive is, as far as that is known.
    pub(super) health: RefCell<Option<DriveHealth>>,
    /// It went, or shall be looked at again.
    pub(super) poked: Notify,
}

/// A pool that is present.
pub(super) struct Slot {
    pub(super) id: PoolId,
    pub(super) name: RefCell<String>,
    pub(super) state: RefCell<SlotState>,
    /// An import was asked for.
    pub(super) import: Cell<Option<Import>>,
    pub(super) error: RefCell<Option<PoolError>>,
    /// The devices that have layers, while it is imported read-only.
    pub(super) laid_over: RefCell<Vec<Rc<Device>>>,
    /// Disks of it were wiped here, or it was given up: it is shown as long as any is present.
    pub(super) only_if_present: Cell<bool>,
    /// A command ends it here for a moment: it is still ours.
    pub(super) between: Cell<bool>,
    /// What a majority of votes said of the owner, when it was last looked at.
    pub(super) owner: RefCell<Option<KnownOwner>>,
    /// Its next opening is above this: a disk that it is to have was used so by another pool.
    pub(super) epoch_floor: Cell<Epoch>,
    /// By which it was imported.
    pub(super) grant: RefCell<Option<Rc<Grant>>>,
    /// Where its disks belong.
    pub(super) homes: Rc<Homes>,
}

/// An import that was asked for and isn't done.
#[derive(Clone, Copy)]
pub(super) struct Import {
    /// How long to wait for missing disks.
    pub(super) grace: Duration,
    /// Also from an owner that lives.
    pub(super) force: bool,
    /// Also with older metadata than is known of.
    pub(super) outdated: bool,
    /// Without any change of its disks, and without a majority.
    pub(super) read_only: bool,
    /// Whose votes count for it.
    pub(super) votes: VotesOf,
}

/// A pool's owner by its votes.
#[derive(Clone, Debug)]
pub(super) struct KnownOwner {
    pub(super) name: String,
    pub(super) epoch: u64,
    pub(super) at: Instant,
}

impl Device {
    /// What a pool has of it. It may carry another one's label by now than when a layer was put over it.
    pub(super) fn held_for(&self, pool: PoolId) -> Rc<dyn BlockDevice> {
        match &*self.overlay.borrow() {
            Some((of, layer)) if *of == pool => Rc::clone(layer),
            _ => Rc::clone(&self.device),
        }
    }

    /// Whether it is what an open pool holds.
    pub(super) fn is_held(&self, held: &Rc<dyn BlockDevice>) -> bool {
        let overlay = self.overlay.borrow();
        let is_layer = overlay.as_ref().is_some_and(|(_, layer)| Rc::ptr_eq(layer, held));
        is_layer || Rc::ptr_eq(&self.device, held)
    }

    /// Whether it carries a label of a pool.
    pub(super) fn is_of(&self, pool: PoolId) -> bool {
        self.content.borrow().label().is_some_and(|label| label.pool == pool)
    }
}

#[derive(Clone)]
pub(super) enum SlotState {
    Closed,
    Opening,
    Open(Rc<OpenPool>),
    /// Open once, and then taken away or given up.
    Ended(Ended),
}

impl Engine {
    /// An engine without devices. It spawns its tasks on `runtime`.
    pub fn new(runtime: Handle, config: EngineConfig) -> Rc<Engine> {
        let known = config.pools.iter().map(|pool| {
            let disks = pool.disks.iter().map(|disk| (DiskId(disk.id), disk.place.clone()));
            (PoolId(pool.id), disks.collect())
        });
        let grants = config.grants.iter();
        let grants = grants.map(|(pool, grant)| (PoolId(*pool), Rc::new(grant.clone())));
        Rc::new(Engine {
            known: RefCell::new(known.collect()),
            grants: RefCell::new(grants.collect()),
            trusts: RefCell::default(),
            looks: Cell::new(0),
            checksum_cache: ChecksumCache::new(config.limits.checksum_bytes),
            private_room: Room::new(config.limits.private_bytes),
            mounts_room: Room::new(config.limits.private_bytes),
            config,
            events: Rc::new(Events::new(runtime.clone())),
            runtime,
            devices: RefCell::default(),
            slots: RefCell::default(),
            destroyed: RefCell::default(),
            told_health: RefCell::default(),
            taken: Taken::default(),
            changed: Notify::new(),
            look_turns: Turns::to_look(),
            glance_turns: Turns::to_glance(),
            closing: Cell::new(false),
        })
    }

    /// A device was discovered. Known names are replaced.
    pub fn add_device(self: &Rc<Self>, facts: DiskFacts, device: Rc<dyn BlockDevice>) {
        let name = facts.name.clone();
        if self.devices.borrow().contains_key(&name) {
            self.remove_device(&name);
        }
        let device = Rc::new(Device {
            facts,
            device,
            overlay: RefCell::default(),
            content: RefCell::new(Content::Unread),
            epoch: Cell::default(),
            parted: Cell::new(false),
            told_refused: RefCell::default(),
            gone: Cell::new(false),
            health: RefCell::default(),
            poked: Notify::new(),
        });
        self.devices.borrow_mut().insert(name, Rc::clone(&device));
        self.runtime.spawn(Rc::clone(self).watch_health(Rc::clone(&device)));
        self.runtime.spawn(Rc::clone(self).watch(device));
    }

    /// A device disappeared.
    pub fn remove_device(&self, name: &str) {
        let Some(device) = self.devices.borrow_mut().remove(name) else { return };
        self.note_look();
        device.gone.set(true);
        device.poked.notify_all();
        if let Some((open, member)) = self.member_on(&device) {
            member.detach();
            open.pool.changed.notify_all();
        }
        self.changed.notify_all();
    }

    /// Whether nobody misses a device that doesn't answer: no open pool has it, and no command is about to.
    pub fn is_lost_stranger(&self, name: &str) -> bool {
        let device = self.devices.borrow().get(name).cloned();
        device.is_some_and(|device| {
            matches!(*device.content.borrow(), Content::Unreadable(IoError::Lost))
                && self.member_on(&device).is_none()
                && !self.taken.has_disk(name)
        })
    }

    /// A device was looked at.
    pub(super) fn discovered(self: &Rc<Self>, device: &Rc<Device>) {
        match self.content_of(device) {
            Content::Labelled { label, .. } => {
                let label = label.label;
                self.tell_refused(device, self.why_elsewhere(device));
                if let Some((open, disk)) = self.open_pool_of(device) {
                    if let Some(member) = open.pool.member_labelled(label.number, disk) {
                        self.take_or_part(&open, &member, device);
                    }
                } else {
                    self.slot_of(label.pool, &label.pool_name);
                }
            }
            Content::Destroyed { label, .. } => {
                self.slot_of(label.label.pool, &label.label.pool_name);
            }
            Content::Refused(error) => self.tell_refused(device, Some(explain(&error))),
            _ => self.tell_refused(device, None),
        }
        self.changed.notify_all();
    }

    /// The slot of a pool; new ones get their task.
    pub(super) fn slot_of(self: &Rc<Self>, id: PoolId, name: &str) -> Rc<Slot> {
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.get(&id) {
            return Rc::clone(slot);
        }
        let slot = Rc::new(Slot {
            id,
            name: RefCell::new(name.to_string()),
            state: RefCell::new(SlotState::Closed),
            import: Cell::new(None),
            error: RefCell::new(None),
            laid_over: RefCell::default(),
            only_if_present: Cell::new(false),
            between: Cell::new(false),
            owner: RefCell::new(None),
            epoch_floor: Cell::default(),
            grant: RefCell::default(),
            homes: Rc::new(Homes::of(self.known.borrow().get(&id), self.config.own_nodes.clone())),
        });
        slots.insert(id, Rc::clone(&slot));
        self.runtime.spawn(Rc::clone(self).run_slot(Rc::clone(&slot)));
        slot
    }

    /// The open pool that a device is labelled for, and the disk that it is.
    pub(super) fn open_pool_of(&self, device: &Device) -> Option<(Rc<OpenPool>, DiskId)> {
        let (pool, disk) = self.identity_of(device)?;
        let slot = self.slots.borrow().get(&pool).cloned()?;
        let state = slot.state.borrow().clone();
        match state {
            SlotState::Open(open) => Some((open, disk)),
            _ => None,
        }
    }

    /// Opens a pool when it should be, and notices its end.
    async fn run_slot(self: Rc<Self>, slot: Rc<Slot>) {
        let mut could_since = None;
        loop {
            let changed = self.changed.notified();
            let state = slot.state.borrow().clone();
            match state {
                SlotState::Open(open) => {
                    let ended = open.pool.lease.over().await;
                    self.ended(&slot, &open, ended).await;
                    could_since = None;
                    continue;
                }
                SlotState::Ended(_) if slot.import.get().is_none() => {
                    self.note_owner(&slot);
                    changed.await;
                    continue;
                }
                _ => {}
            }
            let wanted = self.is_wanted(&slot);
            if !wanted || self.closing.get() {
                could_since = None;
                self.note_owner(&slot);
                changed.await;
                self.runtime.sleep(self.pause_between_changes()).await;
                continue;
            }
            let now = self.runtime.now();
            let since = *could_since.get_or_insert(now);
            let import = slot.import.get();
            let grace = import.map_or(self.config.limits.grace, |import| import.grace);
            if now < since + grace && !self.all_present(&slot) {
                let timer = self.runtime.sleep(self.config.limits.retry);
                select(std::pin::pin!(changed), timer).await;
                self.runtime.sleep(self.pause_between_changes()).await;
                continue;
            }
            self.try_open(&slot).await;
            if matches!(*slot.state.borrow(), SlotState::Closed) {
                could_since = None;
                self.runtime.sleep(self.config.limits.rejoin).await;
            }
        }
    }

    /// Whatever changes, all devices are gone over, of which thousands may come at once: that is to take a small part of
    /// the time.
    fn pause_between_changes(&self) -> Duration {
        Duration::from_micros(self.devices.borrow().len() as u64 * 10)
    }

    /// An open pool is over. Its disks are looked at as a stranger's from now on: under the epoch that
    /// they were claimed with they wouldn't even tell who has them.
    async fn ended(&self, slot: &Slot, open: &OpenPool, ended: Ended) {
        self.events.end_history(&open.pool.name);
        if open.pool.read_only {
            self.lift_layers(slot);
            let told = (ended == Ended::Fenced).then(|| PoolError::Suspended {
                name: open.pool.name.clone(),
                reason: "it was only read here, and somebody uses it again".into(),
            });
            told.iter().for_each(|error| tracing::warn!(pool = %open.pool.name, %error, "closed"));
            *slot.error.borrow_mut() = told;
            return self.set_state(slot, SlotState::Closed);
        }
        self.remember_grant(open);
        if ended == Ended::Fenced {
            self.known.borrow_mut().remove(&slot.id);
        } else if self.known.borrow().contains_key(&slot.id) {
            self.remember_disks(open);
        }
        for device in open.pool.members().iter().filter_map(|member| member.device()) {
            device.disown();
        }
        self.set_state(slot, SlotState::Ended(ended));
        self.look_again(slot.id).await;
        self.note_owner(slot);
        self.changed.notify_all();
    }

    /// Takes note of what a majority of votes says of the owner.
    fn note_owner(&self, slot: &Slot) {
        let quorum = Quorum::of(&self.seen_disks(slot.id));
        let (true, Some(newest)) = (quorum.suffices(), quorum.newest.as_ref()) else { return };
        *slot.owner.borrow_mut() = Some(KnownOwner {
            name: newest.owner_name.clone(),
            epoch: newest.epoch.0,
            at: self.runtime.now(),
        });
    }

    pub(super) fn set_state(&self, slot: &Slot, state: SlotState) {
        *slot.state.borrow_mut() = state;
        if let Some(report) = self.report_slot(slot) {
            let (pool, state) = (report.name, report.state);
            self.events.tell(PoolEvent::PoolState { pool, state });
        }
        self.changed.notify_all();
    }

    /// Whether a pool can and shall be opened: an import was asked for, or it is ours by our own
    /// records as well as by its votes.
    pub(super) fn is_wanted(&self, slot: &Slot) -> bool {
        let quorum = Quorum::of(&self.free_disks(slot.id));
        let owner = quorum.newest.as_ref().map(|newest| newest.owner);
        let ours = owner == Some(self.config.owner) && self.known.borrow().contains_key(&slot.id);
        let name_taken = self.namesake(slot).is_some() && slot.error.borrow().is_some();
        let stays = quorum.destruction() == Destruction::None;
        let import = slot.import.get();
        let is_enough = match import {
            Some(import) if import.read_only => quorum.newest.is_some(),
            _ => quorum.suffices(),
        };
        is_enough && stays && !name_taken && (import.is_some() || ours)
    }

    /// The disks of a pool present, without those that aren't who they say (`twins`).
    pub(super) fn seen_disks(&self, pool: PoolId) -> Vec<SeenDisk> {
        self.seen_disks_by(pool, &self.trusted(pool))
    }

    /// The same, where these votes count.
    pub(super) fn seen_disks_by(&self, pool: PoolId, trusted: &Trusted) -> Vec<SeenDisk> {
        let mut seen: BTreeMap<DiskId, SeenDisk> = BTreeMap::new();
        let devices = self.devices.borrow();
        let of_pool: Vec<_> = devices.values().filter(|device| device.is_of(pool)).collect();
        let identities = self.identities(of_pool.iter().copied());
        for device in of_pool {
            let content = trusted.judge(device.content.borrow().clone());
            let Content::Labelled { label, vote } = content else { continue };
            if self.why_not_itself(device, &identities).is_none() {
                seen.entry(label.label.disk).or_insert_with(|| SeenDisk {
                    place: device.facts.place(),
                    machine: device.facts.node,
                    device: device.held_for(pool),
                    label: label.label,
                    vote,
                });
            }
        }
        seen.into_values().collect()
    }

    /// Whether a device present has a label of it.
    pub(super) fn is_present(&self, pool: PoolId) -> bool {
        let devices = self.devices.borrow();
        devices.values().any(|device| device.is_of(pool))
    }

    /// Those of them that no command is making another pool's.
    pub(super) fn free_disks(&self, pool: PoolId) -> Vec<SeenDisk> {
        let mut disks = self.seen_disks(pool);
        disks.retain(|disk| !self.taken.has_disk(&disk.place.name));
        disks
    }

    pub(super) fn request(&self, slot: &Slot) -> OpenRequest {
        OpenRequest {
            runtime: self.runtime.clone(),
            config: self.config.clone(),
            events: Rc::clone(&self.events),
            checksum_cache: Rc::clone(&self.checksum_cache),
            id: slot.id,
            name: slot.name.borrow().clone(),
            disks: self.free_disks(slot.id),
            known: self.known.borrow().get(&slot.id).cloned().unwrap_or_default(),
            import: slot.import.get().is_some(),
            outdated: slot.import.get().is_some_and(|import| import.outdated),
            read_only: slot.import.get().is_some_and(|import| import.read_only),
            found: None,
            epoch_floor: slot.epoch_floor.get(),
            grant: slot.grant.borrow().clone(),
            trusted: self.trusted(slot.id),
            below: self.trusted(slot.id),
            homes: Rc::clone(&slot.homes),
            moved: self.moved_of(slot.id),
        }
    }

    /// Whether all disks are present that a known pool had. Of another's pool they aren't known.
    fn all_present(&self, slot: &Slot) -> bool {
        let known = self.known.borrow();
        let Some(known) = known.get(&slot.id).filter(|known| !known.is_empty()) else {
            return false;
        };
        {
            // Until then nothing else about them matters, and each that comes asks.
            let devices = self.devices.borrow();
            let contents = devices.values().map(|device| device.content.borrow());
            let labelled = |content: std::cell::Ref<'_, Content>| {
                content.label().filter(|label| label.pool == slot.id).map(|label| label.disk)
            };
            let labelled: BTreeSet<DiskId> = contents.filter_map(labelled).collect();
            if !known.keys().all(|disk| labelled.contains(disk)) {
                return false;
            }
        }
        let seen = self.seen_disks(slot.id);
        let seen: BTreeSet<DiskId> = seen.iter().map(|disk| disk.label.disk).collect();
        known.keys().all(|disk| seen.contains(disk))
    }

    /// Takes note of where an open pool's disks are.
    pub(super) fn remember_disks(&self, open: &OpenPool) {
        let members = open.pool.members();
        let places = members.iter().map(|member| (member.id, member.place.borrow().clone()));
        self.known.borrow_mut().insert(open.pool.id, places.collect());
        self.remember_grant(open);
    }

    pub(super) async fn look_again(&self, pool: PoolId) {
        let devices: Vec<Rc<Device>> = self.devices.borrow().values().cloned().collect();
        let of_pool: Vec<_> = devices.into_iter().filter(|device| device.is_of(pool)).collect();
        let looks = of_pool.iter().map(|device| self.read_device(device));
        let contents = side_by_side(&self.runtime, Load::Labels, looks).await;
        let looks = of_pool.into_iter().zip(contents).map(|(device, mut content)| async move {
            // A disk that was given up a moment ago is just opened anew as a stranger's.
            let until = self.runtime.now() + self.config.limits.grace;
            while let Err(IoError::Lost | IoError::Restarted { .. }) = content
                && !device.gone.get()
                && self.runtime.now() < until
            {
                self.runtime.sleep(self.config.limits.rejoin).await;
                content = self.read_device(&device).await;
            }
            self.set_content(&device, content.unwrap_or_else(Content::Unreadable));
            if matches!(&*device.content.borrow(), Content::Unreadable(_)) {
                device.poked.notify_all();
            }
        });
        join_all(looks).await;
    }

    /// Looks at devices again, in the background.
    pub(crate) fn observe_again(&self, names: &[String]) {
        for name in names {
            if let Some(device) = self.devices.borrow().get(name) {
                device.poked.notify_all();
            }
        }
    }
}
