//! Reports on what is present: devices, and pools whether open or not.

use std::collections::BTreeMap;
use std::rc::Rc;

use block::OwnerId;

use super::Engine;
use super::lease::Ended;
use super::observe::{Content, explain, explain_io};
use super::open::SeenDisk;
use super::open_pool::OpenPool;
use super::quorum::Quorum;
use super::slot::{Device, Slot, SlotState};
use super::twins::Identities;
use crate::format::PoolId;
use crate::metadata::Labels;
use crate::report::{DiskReport, DiskState, PoolDisk, PoolEvent, PoolReport, PoolState};

/// What a pool says of its disks.
struct InPool {
    owner: String,
    /// By their ids.
    states: BTreeMap<String, (DiskState, Labels)>,
}

impl Engine {
    /// Every device present.
    pub async fn disks(&self) -> Vec<DiskReport> {
        // Of each pool once, however many disks it has.
        let mut pools: BTreeMap<PoolId, Option<InPool>> = BTreeMap::new();
        let devices: Vec<Rc<Device>> = self.devices.borrow().values().cloned().collect();
        let identities = self.identities(&devices);
        devices.iter().map(|device| self.disk_report(device, &mut pools, &identities)).collect()
    }

    fn disk_report(
        &self,
        device: &Device,
        pools: &mut BTreeMap<PoolId, Option<InPool>>,
        identities: &Identities,
    ) -> DiskReport {
        let (content, pool, state) = match &self.content_of(device) {
            Content::Unread => ("not looked at yet".into(), None, DiskState::Seen),
            // What a command makes of it is known when that is over.
            Content::Blank if self.taken.has_disk(&device.facts.name) => {
                ("blank".to_string(), None, DiskState::Seen)
            }
            Content::Blank => ("blank".to_string(), None, DiskState::Free),
            Content::Foreign(found) => {
                let found: Vec<_> = found.iter().map(ToString::to_string).collect();
                (found.join(", "), None, DiskState::InUse)
            }
            Content::Labelled { label, .. } => {
                ("etherpool".to_string(), Some(label.label.clone()), DiskState::Seen)
            }
            Content::Destroyed { label, .. } => {
                ("etherpool".to_string(), Some(label.label.clone()), DiskState::Destroyed)
            }
            Content::Refused(error) => {
                ("etherpool".into(), None, DiskState::Refused { why: explain(error) })
            }
            Content::Unreadable(error) => {
                ("unreadable".into(), None, DiskState::Refused { why: explain_io(*error) })
            }
        };
        let in_pool = pool.as_ref().and_then(|label| {
            let in_pool = pools.entry(label.pool).or_insert_with(|| self.in_pool(label.pool));
            in_pool.as_ref()
        });
        let disk = pool.as_ref().map(|label| label.disk.to_string());
        let there = in_pool.zip(disk).and_then(|(pool, disk)| pool.states.get(&disk).cloned());
        let (state_there, labels) = there.unzip();
        let twin = self.why_not_itself(device, identities);
        let twin = twin.map(|why| DiskState::Refused { why });
        DiskReport {
            name: device.facts.name.clone(),
            node: device.facts.node_name.clone(),
            device_name: device.facts.device_name.clone(),
            serial: device.facts.serial.clone(),
            last_seen_secs: None,
            health: device.health.borrow().clone(),
            size_bytes: device.device.geometry().sectors.saturating_mul(512),
            content,
            pool: pool.map(|label| label.pool_name),
            owner: in_pool.map(|pool| pool.owner.clone()),
            state: twin.or(state_there).unwrap_or(state),
            labels: labels.unwrap_or_default(),
        }
    }

    fn in_pool(&self, pool: PoolId) -> Option<InPool> {
        let slot = self.slots.borrow().get(&pool).cloned()?;
        let open = match &*slot.state.borrow() {
            SlotState::Open(open) => Some((open.owner().0.to_owned(), self.disks_of(&slot, open))),
            _ => None,
        };
        let told = || self.report_slot(&slot).map(|report| (report.owner, report.disks));
        let (owner, disks) = open.or_else(told)?;
        let states = disks.into_iter().map(|disk| (disk.id, (disk.state, disk.labels)));
        Some(InPool { owner, states: states.collect() })
    }

    /// The disks of an open pool, without all else that a report has: that looks at every run of every volume.
    fn disks_of(&self, slot: &Slot, open: &OpenPool) -> Vec<PoolDisk> {
        let mut disks = open.disks();
        self.explain_missing(slot.id, &mut disks);
        disks
    }

    /// Every pool present, open or not, with what keeps it from being open.
    pub fn reports(&self) -> Vec<PoolReport> {
        let mut slots: Vec<Rc<Slot>> = self.slots.borrow().values().cloned().collect();
        // Who looks a pool up by its name finds ours first: anybody may bring one of the same name.
        slots.sort_by_cached_key(|slot| (self.rank(slot), slot.name.borrow().clone()));
        slots.iter().filter_map(|slot| self.report_slot(slot)).collect()
    }

    /// Of disks that are missing, where that can be told, why they are.
    fn explain_missing(&self, pool: PoolId, disks: &mut [PoolDisk]) {
        let is_missing = |disk: &PoolDisk| disk.state == DiskState::Missing;
        if !disks.iter().any(is_missing) {
            return;
        }
        let devices = self.devices.borrow();
        let elsewhere = devices.values().filter(|device| device.is_of(pool)).filter_map(|device| {
            let why = self.why_elsewhere(device)?;
            Some((device.content.borrow().label()?.disk.to_string(), why))
        });
        let elsewhere: BTreeMap<String, String> = elsewhere.collect();
        for disk in disks.iter_mut().filter(|disk| is_missing(disk)) {
            let taken = || why_taken(pool, devices.get(&disk.name)?);
            if let Some(why) = elsewhere.get(&disk.id).cloned().or_else(taken) {
                disk.state = DiskState::Refused { why };
            }
        }
    }

    /// Tells once why a device isn't used.
    pub(super) fn tell_refused(&self, device: &Device, why: Option<String>) {
        let was_told = device.told_refused.replace(why.clone()) == why;
        if let (false, Some(why)) = (was_told, why) {
            let pool = device.content.borrow().label().map(|label| label.pool_name.clone());
            self.events.tell(PoolEvent::DiskRefused { pool, disk: device.facts.name.clone(), why });
        }
    }

    /// A pool as it stands; none of one that is no more, once none of its disks is left.
    pub(super) fn report_slot(&self, slot: &Slot) -> Option<PoolReport> {
        let state = slot.state.borrow().clone();
        if let SlotState::Open(open) = &state {
            let mut report = open.report();
            if !open.pool.read_only {
                self.remember_grant(open);
                report.grant = self.known_grant(slot.id);
            }
            if slot.between.get() {
                report.state = PoolState::Opening;
            }
            self.explain_missing(slot.id, &mut report.disks);
            self.show_health(&mut report);
            return Some(report);
        }
        let is_ended = self.is_ended(slot.id);
        let disks = self.seen_disks(slot.id);
        let quorum = Quorum::of(&disks);
        let disks = [disks, self.remnants(slot.id)].concat();
        let is_known = self.known.borrow().contains_key(&slot.id);
        if disks.is_empty() && (is_ended || slot.only_if_present.get() && !is_known) {
            return None;
        }
        let newest = quorum.newest.as_ref();
        let owner = newest.map_or(OwnerId::NONE, |newest| newest.owner);
        let known = slot.owner.borrow().clone().filter(|_| !quorum.suffices());
        let stale_secs = known.as_ref().map(|known| self.runtime.now().since(known.at).as_secs());
        let (owner_name, epoch) = match (known, newest) {
            (Some(known), _) => (known.name, known.epoch),
            (None, Some(newest)) => (newest.owner_name.clone(), newest.epoch.0),
            (None, None) => (String::new(), 0),
        };
        let state = match state {
            _ if is_ended => PoolState::Destroyed,
            _ if slot.between.get() => PoolState::Opening,
            // Tried again and again by itself, a pool says all the time why it couldn't be opened.
            SlotState::Opening => match (&*slot.error.borrow(), slot.import.get()) {
                (Some(error), None) => PoolState::Suspended { why: error.to_string() },
                _ => PoolState::Opening,
            },
            SlotState::Ended(Ended::Fenced) => PoolState::Fenced,
            SlotState::Ended(Ended::Closed) => PoolState::Released,
            _ if !quorum.suffices() => {
                PoolState::Incomplete { why: self.request(slot).no_quorum(&quorum).to_string() }
            }
            _ if owner == OwnerId::NONE => PoolState::Released,
            _ if owner != self.config.owner || !is_known => PoolState::Foreign,
            _ => match &*slot.error.borrow() {
                Some(error) => PoolState::Suspended { why: error.to_string() },
                None => PoolState::Opening,
            },
        };
        let pool_disk = |disk: &SeenDisk| PoolDisk {
            name: disk.place.name.clone(),
            id: disk.label.disk.to_string(),
            node_key: disk.place.node_key,
            node: disk.label.node_name.clone(),
            device_name: disk.place.device_name.clone(),
            serial: disk.place.serial.clone(),
            last_seen_secs: None,
            health: None,
            size_bytes: disk.label.geometry.labelled_bytes(),
            free_bytes: 0,
            state: if is_ended { DiskState::Destroyed } else { DiskState::Seen },
            dirty_bytes: 0,
            checksum_errors: 0,
            holds_vote: quorum.voters.contains(disk.label.disk),
            is_witness: disk.label.is_witness(),
            rebuild_waits: None,
            offline: None,
            labels: Labels::new(),
        };
        let mut report = PoolReport {
            name: slot.name.borrow().clone(),
            id: slot.id.to_string(),
            state,
            read_only: false,
            ours: is_known,
            owner: owner_name,
            epoch,
            stale_secs,
            capacity_bytes: 0,
            free_bytes: 0,
            survives: 0,
            disks: disks.iter().map(pool_disk).collect(),
            votes: quorum.votes(),
            lease_ok: false,
            volumes: Vec::new(),
            jobs: Vec::new(),
            scrub: None,
            spare: None,
            grant: self.known_grant(slot.id),
        };
        self.show_health(&mut report);
        Some(report)
    }
}

/// Another pool's disk answers at the address of a disk that is missing: a disk belongs to one pool, so what
/// it held of this one is gone. (An earlier version let two pools take the same disk.)
fn why_taken(pool: PoolId, device: &Device) -> Option<String> {
    let content = device.content.borrow();
    let Content::Labelled { label, .. } = &*content else { return None };
    let (name, id) = (&label.label.pool_name, label.label.pool);
    (id != pool).then(|| {
        format!(
            "at its address is a disk of pool {name} ({id}) now; if the same disk was given to that \
             pool, what it held of this one is gone"
        )
    })
}
