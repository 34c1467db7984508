//! Which devices and pools are in sight, and when a pool is opened: one task per device looks at it,
//! one per pool decides.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{BlockDevice, DeviceEvent, IoError};
use futures::future::{Either, join_all, select};
use runtime::{Handle, Notify};

use super::create::{Creation, check_name, check_once};
use super::events::Events;
use super::format_disk::{Candidate, Known};
use super::lease::Ended;
use super::observe::{Content, explain, read_content};
use super::open::{OpenRequest, Quorum, SeenDisk};
use super::open_pool::OpenPool;
use super::{CreatePool, DiskFacts, EngineConfig, ImportOptions};
use crate::error::PoolError;
use crate::format::{DiskId, PoolId};
use crate::report::{PoolEvent, PoolReport, PoolState};

/// The engine's inside, shared by its tasks.
pub(crate) struct Inner {
    pub(crate) runtime: Handle,
    pub(crate) config: EngineConfig,
    pub(crate) events: Rc<Events>,
    pub(super) devices: RefCell<BTreeMap<String, Rc<Device>>>,
    pub(super) slots: RefCell<BTreeMap<PoolId, Rc<Slot>>>,
    /// A device was looked at, or a pool changed its state.
    changed: Notify,
    closing: Cell<bool>,
}

/// A device in sight.
pub(super) struct Device {
    pub(super) facts: DiskFacts,
    pub(super) device: Rc<dyn BlockDevice>,
    pub(super) content: RefCell<Content>,
    gone: Cell<bool>,
    /// It went, or shall be looked at again.
    poked: Notify,
}

/// A pool in sight.
pub(super) struct Slot {
    pub(super) id: PoolId,
    pub(super) name: RefCell<String>,
    pub(super) state: RefCell<SlotState>,
    /// An import was asked for: how long to wait for missing disks.
    import: Cell<Option<Duration>>,
    pub(super) error: RefCell<Option<PoolError>>,
}

#[derive(Clone)]
pub(super) enum SlotState {
    Closed,
    Opening,
    Open(Rc<OpenPool>),
    /// Open once, and then taken away or given up.
    Ended(Ended),
}

impl Inner {
    pub(crate) fn new(runtime: Handle, config: EngineConfig) -> Rc<Inner> {
        Rc::new(Inner {
            runtime,
            config,
            events: Rc::default(),
            devices: RefCell::default(),
            slots: RefCell::default(),
            changed: Notify::new(),
            closing: Cell::new(false),
        })
    }

    pub(crate) fn add_device(self: &Rc<Self>, facts: DiskFacts, device: Rc<dyn BlockDevice>) {
        let name = facts.name.clone();
        if self.devices.borrow().contains_key(&name) {
            self.remove_device(&name);
        }
        let device = Rc::new(Device {
            facts,
            device,
            content: RefCell::new(Content::Unread),
            gone: Cell::new(false),
            poked: Notify::new(),
        });
        self.devices.borrow_mut().insert(name, Rc::clone(&device));
        self.runtime.spawn(Rc::clone(self).watch(device));
    }

    pub(crate) fn remove_device(&self, name: &str) {
        let Some(device) = self.devices.borrow_mut().remove(name) else { return };
        device.gone.set(true);
        device.poked.notify_all();
        if let Some((open, disk)) = self.open_pool_of(&device)
            && let Some(member) = open.pool.member_by_id(disk)
            && member.device().is_some_and(|held| Rc::ptr_eq(&held, &device.device))
        {
            member.detach();
            open.pool.changed.notify_all();
        }
        self.changed.notify_all();
    }

    /// Looks at a device whenever it comes back, and passes its hints on.
    async fn watch(self: Rc<Self>, device: Rc<Device>) {
        self.look_at(&device).await;
        while !device.gone.get() {
            let poked = device.poked.notified();
            let event = device.device.next_event();
            match select(event, std::pin::pin!(poked)).await {
                Either::Left((event, _)) => {
                    if let Some((open, disk)) = self.open_pool_of(&device)
                        && let Some(member) = open.pool.member_by_id(disk)
                    {
                        open.hint(&member, event);
                    } else if !matches!(event, DeviceEvent::Lost) {
                        self.look_at(&device).await;
                    }
                }
                Either::Right(_) if !device.gone.get() => self.look_at(&device).await,
                Either::Right(_) => {}
            }
        }
    }

    /// Reads what is on a device; one that doesn't answer is tried again.
    async fn look_at(self: &Rc<Self>, device: &Rc<Device>) {
        while !device.gone.get() {
            let limit = self.config.limits.claim;
            let reading = read_content(&*device.device, true);
            let content = runtime::timeout(&self.runtime, limit, reading).await;
            let content = match content.unwrap_or(Err(IoError::Lost)) {
                Ok(content) => content,
                Err(IoError::Lost | IoError::Restarted { .. }) => {
                    *device.content.borrow_mut() = Content::Unreadable(IoError::Lost);
                    self.runtime.sleep(self.config.limits.rejoin).await;
                    continue;
                }
                Err(error) => Content::Unreadable(error),
            };
            *device.content.borrow_mut() = content;
            self.sighted(device);
            return;
        }
    }

    /// A device was looked at.
    fn sighted(self: &Rc<Self>, device: &Rc<Device>) {
        let content = device.content.borrow().clone();
        match content {
            Content::Labelled { label, .. } => {
                let label = label.label;
                if let Some((open, disk)) = self.open_pool_of(device) {
                    if let Some(member) = open.pool.member_by_id(disk) {
                        let held = member.device();
                        if !held.is_some_and(|held| Rc::ptr_eq(&held, &device.device)) {
                            open.attach(&member, &device.facts.name, Rc::clone(&device.device));
                        }
                    }
                } else {
                    self.slot_of(label.pool, &label.pool_name);
                }
            }
            Content::Refused(error) => self.events.tell(PoolEvent::DiskRefused {
                pool: None,
                disk: device.facts.name.clone(),
                why: explain(&error),
            }),
            _ => {}
        }
        self.changed.notify_all();
    }

    /// The slot of a pool; new ones get their task.
    fn slot_of(self: &Rc<Self>, id: PoolId, name: &str) -> Rc<Slot> {
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
        });
        slots.insert(id, Rc::clone(&slot));
        self.runtime.spawn(Rc::clone(self).run_slot(Rc::clone(&slot)));
        slot
    }

    /// The open pool that a device is labelled for, and the disk that it is.
    fn open_pool_of(&self, device: &Device) -> Option<(Rc<OpenPool>, DiskId)> {
        let content = device.content.borrow();
        let Content::Labelled { label, .. } = &*content else { return None };
        let slot = self.slots.borrow().get(&label.label.pool).cloned()?;
        let state = slot.state.borrow().clone();
        match state {
            SlotState::Open(open) => Some((open, label.label.disk)),
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
                    self.set_state(&slot, SlotState::Ended(ended));
                    could_since = None;
                    continue;
                }
                SlotState::Ended(_) if slot.import.get().is_none() => {
                    changed.await;
                    continue;
                }
                _ => {}
            }
            let wanted = self.is_wanted(&slot);
            if !wanted || self.closing.get() {
                could_since = None;
                changed.await;
                continue;
            }
            let now = self.runtime.now();
            let since = *could_since.get_or_insert(now);
            let grace = slot.import.get().unwrap_or(self.config.limits.grace);
            if now < since + grace && !self.all_in_sight(&slot).await {
                let timer = self.runtime.sleep(self.config.limits.retry);
                select(std::pin::pin!(changed), timer).await;
                continue;
            }
            self.try_open(&slot).await;
            if matches!(*slot.state.borrow(), SlotState::Closed) {
                could_since = None;
                self.runtime.sleep(self.config.limits.rejoin).await;
            }
        }
    }

    fn set_state(&self, slot: &Slot, state: SlotState) {
        *slot.state.borrow_mut() = state;
        if let Some(report) = self.report_slot(slot) {
            let (pool, state) = (report.name, report.state);
            self.events.tell(PoolEvent::PoolState { pool, state });
        }
        self.changed.notify_all();
    }

    /// Whether a pool can and shall be opened.
    fn is_wanted(&self, slot: &Slot) -> bool {
        let quorum = Quorum::of(&self.seen_disks(slot.id));
        let owner = quorum.newest.as_ref().map(|newest| newest.owner);
        quorum.suffices() && (slot.import.get().is_some() || owner == Some(self.config.owner))
    }

    /// The disks of a pool in sight. Of two devices with one identity neither can be told to be the
    /// right one; the first by name is taken, and the checks of opening judge it.
    pub(super) fn seen_disks(&self, pool: PoolId) -> Vec<SeenDisk> {
        let mut seen: BTreeMap<DiskId, SeenDisk> = BTreeMap::new();
        for device in self.devices.borrow().values() {
            let content = device.content.borrow();
            let Content::Labelled { label, vote } = &*content else { continue };
            if label.label.pool == pool {
                seen.entry(label.label.disk).or_insert_with(|| SeenDisk {
                    name: device.facts.name.clone(),
                    device: Rc::clone(&device.device),
                    label: label.label.clone(),
                    vote: vote.clone(),
                });
            }
        }
        seen.into_values().collect()
    }

    pub(super) fn request(&self, slot: &Slot) -> OpenRequest {
        OpenRequest {
            runtime: self.runtime.clone(),
            config: self.config.clone(),
            events: Rc::clone(&self.events),
            id: slot.id,
            name: slot.name.borrow().clone(),
            disks: self.seen_disks(slot.id),
            import: slot.import.get().is_some(),
        }
    }

    async fn all_in_sight(&self, slot: &Slot) -> bool {
        let request = self.request(slot);
        let Some(known) = request.known_disks().await else { return false };
        let seen: BTreeSet<DiskId> = request.disks.iter().map(|disk| disk.label.disk).collect();
        known.is_subset(&seen)
    }

    async fn try_open(self: &Rc<Self>, slot: &Rc<Slot>) {
        // What was seen may be long ago: another supervisor may have imported the pool since.
        self.look_again(slot.id).await;
        if !self.is_wanted(slot) {
            return;
        }
        *slot.state.borrow_mut() = SlotState::Opening;
        self.changed.notify_all();
        let opened = self.request(slot).open().await;
        match opened {
            Ok(open) => {
                *slot.error.borrow_mut() = None;
                slot.import.set(None);
                *slot.name.borrow_mut() = open.pool.name.clone();
                open.start();
                self.set_state(slot, SlotState::Open(Rc::clone(&open)));
                self.attach_late(&open);
            }
            Err(error) => {
                tracing::warn!(pool = %slot.name.borrow(), %error, "not opened");
                *slot.error.borrow_mut() = Some(error);
                if slot.import.take().is_some() {
                    self.look_again(slot.id).await;
                }
                self.set_state(slot, SlotState::Closed);
            }
        }
    }

    /// Devices that came in sight while the pool was being opened.
    fn attach_late(self: &Rc<Self>, open: &Rc<OpenPool>) {
        for seen in self.seen_disks(open.pool.id) {
            let Some(member) = open.pool.member_by_id(seen.label.disk) else { continue };
            let held = member.device();
            if !held.is_some_and(|held| Rc::ptr_eq(&held, &seen.device)) {
                open.attach(&member, &seen.name, seen.device);
            } else if !member.is_usable() {
                open.pool.readmit_soon(&member);
            }
        }
    }

    async fn look_again(&self, pool: PoolId) {
        let devices: Vec<Rc<Device>> = self.devices.borrow().values().cloned().collect();
        let of_pool = devices.into_iter().filter(|device| {
            matches!(&*device.content.borrow(), Content::Labelled { label, .. } if label.label.pool == pool)
        });
        let looks = of_pool.map(|device| async move {
            let reading = read_content(&*device.device, true);
            let content = runtime::timeout(&self.runtime, self.config.limits.claim, reading).await;
            let content = content.unwrap_or(Err(IoError::Lost));
            *device.content.borrow_mut() = content.unwrap_or_else(Content::Unreadable);
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

    fn find_slot(&self, name_or_id: &str) -> Option<Rc<Slot>> {
        let slots = self.slots.borrow();
        let mut found: Vec<_> = slots
            .values()
            .filter(|slot| *slot.name.borrow() == name_or_id || slot.id.to_string() == name_or_id)
            .collect();
        // Of several pools of one name the open one is meant.
        found.sort_by_key(|slot| !matches!(*slot.state.borrow(), SlotState::Open(_)));
        found.first().map(|slot| Rc::clone(slot))
    }

    /// An open pool, or why it isn't.
    pub(crate) fn open_pool(&self, name: &str) -> Result<Rc<OpenPool>, PoolError> {
        let slot = self.find_slot(name).ok_or_else(|| PoolError::no_pool(name))?;
        let state = slot.state.borrow().clone();
        match state {
            SlotState::Open(open) => Ok(open),
            SlotState::Opening => {
                Err(PoolError::Suspended { name: name.into(), reason: "it is being opened".into() })
            }
            SlotState::Closed | SlotState::Ended(_) => Err(self.why_closed(&slot)),
        }
    }

    fn why_closed(&self, slot: &Slot) -> PoolError {
        let name = slot.name.borrow().clone();
        if let Some(error) = slot.error.borrow().clone() {
            return error;
        }
        match self.report_slot(slot).map(|report| report.state) {
            Some(PoolState::Foreign { owner, .. }) => PoolError::NotOwner {
                pool: name,
                owner,
                remedy: "take it over with pool import".into(),
            },
            Some(PoolState::Fenced) => PoolError::NotOwner {
                pool: name,
                owner: "another supervisor".into(),
                remedy: "it was taken over; take it back with pool import".into(),
            },
            Some(PoolState::Incomplete { missing }) => {
                PoolError::NoQuorum { pool: name, why: missing, missing: Vec::new() }
            }
            _ => PoolError::Suspended { name, reason: "it is not open; see pool import".into() },
        }
    }

    pub(crate) fn closed_pools(&self) -> Vec<(String, String)> {
        let slots = self.slots.borrow();
        let closed =
            slots.values().filter(|slot| !matches!(*slot.state.borrow(), SlotState::Open(_)));
        closed.map(|slot| (slot.id.to_string(), slot.name.borrow().clone())).collect()
    }

    pub(crate) async fn import_pool(
        self: &Rc<Self>,
        name: &str,
        options: ImportOptions,
    ) -> Result<PoolReport, PoolError> {
        let slot = self.find_slot(name).ok_or_else(|| PoolError::no_pool(name))?;
        if let SlotState::Open(open) = &*slot.state.borrow() {
            return Ok(open.report());
        }
        self.look_again(slot.id).await;
        let quorum = Quorum::of(&self.seen_disks(slot.id));
        if !quorum.suffices() {
            return Err(self.request(&slot).no_quorum(&quorum));
        }
        *slot.error.borrow_mut() = None;
        if matches!(*slot.state.borrow(), SlotState::Ended(_)) {
            *slot.state.borrow_mut() = SlotState::Closed;
        }
        slot.import.set(Some(options.grace.unwrap_or(self.config.limits.grace)));
        self.changed.notify_all();
        self.wait_open(&slot).await
    }

    /// Waits until a pool that is being opened is open or failed to.
    async fn wait_open(self: &Rc<Self>, slot: &Rc<Slot>) -> Result<PoolReport, PoolError> {
        let limit = self.config.limits.administer + super::lease::TAKEOVER_WAIT;
        let opened = async {
            loop {
                let changed = self.changed.notified();
                let state = slot.state.borrow().clone();
                if let SlotState::Open(open) = state {
                    return Ok(open.report());
                }
                let error = slot.error.borrow().clone();
                if let (SlotState::Closed, Some(error)) = (state, error) {
                    return Err(error);
                }
                changed.await;
            }
        };
        runtime::timeout(&self.runtime, limit, opened).await.unwrap_or_else(|_| {
            let reason = "it takes longer than expected to open it".into();
            Err(PoolError::Suspended { name: slot.name.borrow().clone(), reason })
        })
    }

    pub(crate) fn candidates(
        &self,
        names: &[String],
        force: &[String],
    ) -> Result<Vec<Candidate>, PoolError> {
        let devices = self.devices.borrow();
        let candidate = |name: &String| {
            let device = devices.get(name).ok_or_else(|| PoolError::NotFound {
                what: "disk".into(),
                name: name.clone(),
                remedy: "see `etherpool disk list`".into(),
            })?;
            Ok(Candidate {
                name: name.clone(),
                node: device.facts.node,
                node_name: device.facts.node_name.clone(),
                device: Rc::clone(&device.device),
                forced: force.contains(name),
            })
        };
        names.iter().map(candidate).collect()
    }

    pub(crate) async fn create_pool(
        self: &Rc<Self>,
        request: CreatePool,
    ) -> Result<PoolReport, PoolError> {
        check_name("pool", &request.name)?;
        check_once(&request.disks)?;
        if self.find_slot(&request.name).is_some() {
            return Err(PoolError::Exists { what: "pool".into(), name: request.name });
        }
        let candidates = self.candidates(&request.disks, &request.force_disks)?;
        for candidate in &candidates {
            candidate.check(|pool, _| self.whose(pool)).await?;
        }
        let creation = Creation {
            config: &self.config,
            runtime: &self.runtime,
            request: &request,
            candidates,
        };
        let id = creation.run().await?;
        let slot = self.slot_of(id, &request.name);
        self.observe_again(&request.disks);
        self.wait_open(&slot).await
    }

    fn whose(&self, pool: PoolId) -> Known {
        let slot = self.slots.borrow().get(&pool).cloned();
        let open = slot.is_some_and(|slot| matches!(*slot.state.borrow(), SlotState::Open(_)));
        if open { Known::Member } else { Known::Not }
    }

    pub(crate) async fn release_pool(self: &Rc<Self>, name: &str) -> Result<(), PoolError> {
        let open = self.open_pool(name)?;
        let closed = open.close(true).await;
        self.look_again(open.pool.id).await;
        self.changed.notify_all();
        closed.map_err(|_| PoolError::Suspended {
            name: name.into(),
            reason: "it is closed here, but a majority of its votes could not be told; import it \
                     to take it over"
                .into(),
        })
    }

    pub(crate) async fn shutdown(self: &Rc<Self>) {
        self.closing.set(true);
        let slots: Vec<Rc<Slot>> = self.slots.borrow().values().cloned().collect();
        for slot in slots {
            let state = slot.state.borrow().clone();
            if let SlotState::Open(open) = state {
                // What isn't folded stays in the log; without a majority there is nobody to tell.
                let _ = open.close(false).await;
            }
        }
    }
}
