//! Where a disk's copy of the metadata lies: a run of extents that label and metadata name.
//!
//! The label is for finding it before anything is known, and has the two-copy rule; the metadata makes
//! the extents its own. Which of them is right where they differ is never guessed: a disk gets another
//! area while it has no current copy, in this order, each step durable before the next:
//!
//! 1. It leaves the current copies (a configuration change), and the metadata names the new run as the
//!    incoming one. A disk with an incoming area gets no copy.
//! 2. The new run is wiped: its extents may hold anything, also what looks like a checkpoint.
//! 3. All four slots of the label name it.
//! 4. The metadata switches to it and gives the former one up.
//! 5. It gets a whole checkpoint and is a current copy again.
//!
//! After a crash the label says how far it came: it names the former run (cancelled) or the incoming one
//! (switched), after all four slots have been written anew, so that no older label with two copies can
//! ever come back. A label that names neither is that of a disk that was rolled back: it isn't believed,
//! and is written anew by the metadata, the area wiped before. And a copy counts only if it names, as the
//! area of its disk, the place where it was found.

use std::rc::Rc;

use block::{BlockDevice, IoError, Lba, SECTOR_BYTES};

use super::lease::Ended;
use super::member::Member;
use super::observe;
use super::pool::Pool;
use super::re_add::{NotFit, not_fit};
use super::stops::StopPoint;
use super::unlabel::wipe;
use crate::allocate::plan_area;
use crate::format::{DiskGeometry, DiskId, ExtentRange, Label, LabelState, SelectedLabel};
use crate::metadata::{AreaLayout, MetaRecord, Metadata};
use crate::report::PoolEvent;

/// What is wiped at once.
const PIECE_BYTES: u64 = 1 << 20;

/// Where an area is on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AreaPlace {
    pub(super) layout: AreaLayout,
    start: Lba,
}

impl AreaPlace {
    /// `None` where such an area can't be on such a disk.
    pub(super) fn new(geometry: &DiskGeometry, area: ExtentRange) -> Option<AreaPlace> {
        let layout = AreaLayout::of(geometry, area)?;
        Some(AreaPlace { layout, start: geometry.extent_start(area.first)? })
    }

    /// The sector of a byte offset within the area.
    pub(super) fn sector_at(&self, offset: u64) -> Lba {
        Lba(self.start.0 + offset / SECTOR_BYTES as u64)
    }
}

/// The shortest area of these voters: the metadata must fit all of them.
pub(super) fn shortest_area(meta: &Metadata, voters: &[DiskId]) -> Option<AreaLayout> {
    let extent_bytes = meta.shape().extent_bytes();
    let layouts = voters.iter().filter_map(|voter| {
        let disk = meta.disk_by_id(*voter)?;
        AreaLayout::of(&DiskGeometry::new(disk.bytes, extent_bytes).ok()?, disk.area?)
    });
    layouts.min_by_key(AreaLayout::area_bytes)
}

impl Pool {
    /// Where a disk's copy of the metadata is, or would be; `None` for a disk without an area, or whose
    /// label doesn't name it.
    pub(super) fn area_place(&self, member: &Member) -> Option<AreaPlace> {
        let labelled = member.labelled_area.get()?;
        let meta = self.meta.borrow();
        let agrees = meta.disks().get(&member.number)?.agrees_on_area(Some(labelled));
        if agrees { AreaPlace::new(&member.geometry, labelled) } else { None }
    }

    /// Whether a disk is about to get another area: it gets no copy of the metadata before.
    pub(super) fn awaits_area(&self, member: &Member) -> bool {
        let meta = self.meta.borrow();
        meta.disks().get(&member.number).is_some_and(|disk| disk.incoming_area.is_some())
    }

    /// Makes a disk's label right: damaged slots, all slots where another area was begun or the pool has another
    /// name, and the area that it names where the metadata knows of none there.
    pub(super) async fn resolve_label(
        &self,
        member: &Member,
        device: &dyn BlockDevice,
    ) -> Result<Label, NotFit> {
        let _labelling = member.labelling.acquire(1).await;
        member.label_resolved.set(false);
        let reading = observe::read_label_of(device, (self.id, member.id));
        let found = match self.within(self.limits.claim, reading).await.map_err(not_fit)? {
            LabelState::Labelled(found) => found,
            LabelState::Refused(error) => {
                return Err(NotFit::Unreadable(observe::explain(&error)));
            }
            LabelState::Blank => return Err(NotFit::Lost),
        };
        let (area, agrees, begun, pool_name) = {
            let meta = self.meta.borrow();
            let disk = meta.disks().get(&member.number).ok_or(NotFit::Lost)?;
            let agrees = disk.agrees_on_area(found.label.area);
            (disk.area, agrees, disk.incoming_area.is_some(), meta.pool().name.clone())
        };
        let is_called_so = found.label.pool_name == pool_name;
        let named = Label { pool_name, ..found.label.clone() };
        if agrees {
            member.labelled_area.set(found.label.area);
            if (begun || !is_called_so || found.faults.damaged.contains(&true))
                && self.write_label(device, &found, &named).await.is_ok()
            {
                member.label_resolved.set(true);
                let damaged = (0..4).find(|slot| found.faults.damaged[*slot]);
                damaged.into_iter().for_each(|slot| self.tell_mended(member, &found.label, slot));
            }
            return Ok(named);
        }
        tracing::warn!(
            pool = %self.name, disk = %member.display_name(), labelled = ?found.label.area, ?area,
            "its label names another metadata area than the metadata"
        );
        member.labelled_area.set(None);
        let label = Label { area, ..named };
        if let Some(place) = area.and_then(|area| AreaPlace::new(&member.geometry, area)) {
            self.wipe_area(device, place).await.map_err(not_fit)?;
        }
        self.write_label(device, &found, &label).await.map_err(not_fit)?;
        member.labelled_area.set(area);
        member.label_resolved.set(true);
        self.tell_mended(member, &label, 0);
        Ok(label)
    }

    /// Writes all four slots. Those that don't hold the label that counts first, so that it stays until
    /// the others do.
    pub(super) async fn write_label(
        &self,
        device: &dyn BlockDevice,
        found: &SelectedLabel,
        label: &Label,
    ) -> Result<(), IoError> {
        let slots = DiskGeometry::label_slots(label.geometry.labelled_bytes());
        for sequence in [found.next_sequence, found.next_sequence + 1] {
            for slot in Label::slots_of(sequence) {
                let bytes = label.encode(sequence, slot);
                let write = block::write_durably(device, slots[slot], bytes);
                self.within(self.limits.background, write).await?;
            }
        }
        Ok(())
    }

    pub(super) fn tell_mended(&self, member: &Member, label: &Label, slot: usize) {
        let slots = DiskGeometry::label_slots(label.geometry.labelled_bytes());
        self.events.tell(PoolEvent::StructureRepaired {
            pool: self.name.clone(),
            disk: member.display_name(),
            what: "label".into(),
            disk_offset_bytes: slots[slot].byte_offset(),
        });
    }

    /// Leaves nothing in an area that may be taken for metadata.
    async fn wipe_area(&self, device: &dyn BlockDevice, place: AreaPlace) -> Result<(), IoError> {
        let mut at = place.sector_at(0).byte_offset();
        let end = at + place.layout.area_bytes();
        while at < end {
            let piece = PIECE_BYTES.min(end - at);
            self.within(self.limits.background, wipe(device, None, at, at + piece)).await?;
            at += piece;
        }
        Ok(())
    }

    /// What ends an area that was begun and that nobody works on: by what the label says. Whoever gets the
    /// extents of the one that is given up writes to them after all that was ever sent there.
    pub(super) fn end_of_area(&self, member: &Member) -> Vec<MetaRecord> {
        let meta = self.meta.borrow();
        let disk = meta.disks().get(&member.number);
        let begun = disk.and_then(|disk| Some((disk, disk.incoming_area?)));
        let Some((disk, incoming)) = begun.filter(|_| member.label_resolved.get()) else {
            return Vec::new();
        };
        let number = member.number;
        let labelled = member.labelled_area.get();
        let (end, given_up) = match labelled == Some(incoming) {
            true => (MetaRecord::AreaSwitched { disk: number }, disk.area),
            false if labelled == disk.area => {
                (MetaRecord::AreaCancelled { disk: number }, Some(incoming))
            }
            false => return Vec::new(),
        };
        let freed = given_up.map(|extents| MetaRecord::PendingFreed { disk: number, extents });
        [end].into_iter().chain(freed).collect()
    }

    /// Gives a disk a metadata area of so many extents: its first one, or one in the place of another. A
    /// disk with the only current copy keeps the one that it has.
    pub(super) async fn give_area(
        self: &Rc<Self>,
        member: &Rc<Member>,
        extents: u32,
    ) -> Result<(), AreaError> {
        if member.moving_area.replace(true) {
            return Err(AreaError::UnderWay);
        }
        let moved = self.unless_over(self.move_area(member, extents)).await;
        member.moving_area.set(false);
        let moved = moved?;
        if moved.is_err() && self.awaits_area(member) {
            // It is ended by what the label says, when the disk is looked at again.
            self.re_add_soon(member);
        }
        moved
    }

    async fn move_area(
        self: &Rc<Self>,
        member: &Rc<Member>,
        extents: u32,
    ) -> Result<(), AreaError> {
        let incoming = self.begin_area(member, extents).await?;
        let device = member.usable_device().ok_or(IoError::Lost)?;
        let place = AreaPlace::new(&member.geometry, incoming).ok_or(AreaError::NoSpace)?;
        self.wipe_area(&*device, place).await?;
        let _meta = self.meta_lock.acquire(1).await;
        {
            let _labelling = member.labelling.acquire(1).await;
            let reading = observe::read_label_of(&*device, (self.id, member.id));
            let read = self.within(self.limits.claim, reading).await?;
            let LabelState::Labelled(found) = read else { return Err(IoError::Lost.into()) };
            let label = Label { area: Some(incoming), ..found.label.clone() };
            // From here on only a look at the label tells what it names.
            member.labelled_area.set(None);
            self.write_label(&*device, &found, &label).await?;
            member.labelled_area.set(label.area);
            member.label_resolved.set(true);
        }
        self.stops.pass(StopPoint::AreaLabelled).await;
        self.commit_locked(&self.end_of_area(member)).await?;
        self.measure_areas();
        if self.is_voter(member.id) {
            self.write_copy(member).await?;
        }
        Ok(())
    }

    /// The metadata must fit the shortest area of who votes.
    pub(super) fn measure_areas(&self) {
        let voters: Vec<DiskId> = self.all_voters().into_iter().collect();
        let layout = shortest_area(&self.meta.borrow(), &voters);
        if let Some(layout) = layout {
            self.area.borrow_mut().layout = layout;
        }
    }

    /// Takes the extents; from then on the disk has no current copy.
    async fn begin_area(
        self: &Rc<Self>,
        member: &Rc<Member>,
        extents: u32,
    ) -> Result<ExtentRange, AreaError> {
        let _meta = self.meta_lock.acquire(1).await;
        let planned = plan_area(&self.meta.borrow(), member.number, extents);
        let incoming = planned.ok_or(AreaError::NoSpace)?;
        let place = AreaPlace::new(&member.geometry, incoming).ok_or(AreaError::NoSpace)?;
        if place.layout.area_bytes() < self.area.borrow().layout.area_bytes() {
            return Err(AreaError::TooShort);
        }
        if self.awaits_area(member) {
            return Err(AreaError::UnderWay);
        }
        if self.is_voter(member.id) {
            if !self.leave_older(&[member.id]).await? {
                return Err(AreaError::OnlyCopy);
            }
            self.area.borrow_mut().copies.remove(&member.id);
        }
        member.label_resolved.set(false);
        let begun = MetaRecord::AreaBegun { disk: member.number, extents: incoming };
        self.commit_locked(&[begun]).await?;
        Ok(incoming)
    }
}

/// Why a disk got no other area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AreaError {
    /// The pool is over.
    Ended(Ended),
    /// The disk doesn't have so many free extents in a row, or no area has so many.
    NoSpace,
    /// The metadata may be larger.
    TooShort,
    /// It is being given one already.
    UnderWay,
    /// No other copy is current.
    OnlyCopy,
    /// The disk failed.
    Io(IoError),
}

impl From<Ended> for AreaError {
    fn from(ended: Ended) -> AreaError {
        AreaError::Ended(ended)
    }
}

impl From<IoError> for AreaError {
    fn from(error: IoError) -> AreaError {
        AreaError::Io(error)
    }
}
