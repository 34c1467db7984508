//! That the copies of the metadata are what they count as: each is read back behind the owner, one that
//! lacks something leaves the list of current copies, and one that isn't on it, though its disk takes part,
//! is written anew.
//!
//! Otherwise nothing reads a copy before the pool is opened again, and a disk that answered a write and
//! didn't do it, or failed one once, is missed only when the other copies are gone.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block::{
    BLOCK_BYTES, BLOCK_SECTORS, BlockDevice, Buffer, Instance, Instant, IoError, SECTOR_BYTES,
    SectorRange, write_durably,
};

use super::areas::AreaPlace;
use super::commit::{CommitError, CopyFault, CopyState, LastEntry};
use super::disk_work::instance_now;
use super::lease::Ended;
use super::member::Member;
use super::pool::Pool;
use super::underway::Awaited;
use crate::format::{Applied, DiskGeometry, DiskId, DiskNumber};
use crate::metadata::{
    AreaBytes, AreaLayout, AreaPosition, BlockRun, CheckpointHead, Section, Sum, entry_claim,
    read_placed,
};
use crate::report::PoolEvent;

/// What is read back at once.
const PIECE_BYTES: u64 = 1 << 20;
/// About so much is read back of the sections at one look.
const LOOK_BYTES: u64 = 4 << 20;
/// A copy that can't be written is tried again after at most so many times the usual pause.
const PAUSES_MAX: u32 = 6;

/// What a look at a current copy found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    Whole,
    /// It lacks something.
    Unfit,
    /// Its disk, or another one in its place, didn't show it.
    Silent,
}

/// When copies that couldn't be written are tried again, and the pause before that.
type Pauses = BTreeMap<DiskNumber, (Instant, Duration)>;

impl Pool {
    /// Whether a disk's metadata area has all that is committed.
    pub(crate) fn has_metadata(&self, disk: DiskId) -> bool {
        self.area.borrow().copies.contains_key(&disk)
    }

    /// Members with a current copy of the metadata.
    pub(crate) fn whole_metadata_copies(&self) -> Vec<Rc<Member>> {
        let mut members = self.metadata_members();
        members.retain(|member| self.has_metadata(member.id));
        members
    }

    /// Looks after the copies for as long as the pool is open.
    pub(crate) async fn run_metadata_copies(self: Rc<Self>) {
        let mut pauses = Pauses::new();
        let mut committed = None;
        loop {
            let pause = self.runtime.sleep(self.limits.metadata_check);
            if self.unless_over(pause).await.is_err() {
                return;
            }
            let now = Some(self.area.borrow().committed());
            // While more is committed all the time, disks are told with what they apply.
            let is_settled = std::mem::replace(&mut committed, now) == now;
            for disk in self.all_voters() {
                if self.look_after_copy(disk, is_settled, &mut pauses).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Reads a current copy back, and brings one back that isn't current.
    async fn look_after_copy(
        self: &Rc<Self>,
        disk: DiskId,
        is_settled: bool,
        pauses: &mut Pauses,
    ) -> Result<(), Ended> {
        let member = self.member_by_id(disk);
        let takes_part = |member: &Rc<Member>| {
            member.is_usable() && member.claimed.get() && !member.joining.get()
        };
        let Some(member) = member.filter(takes_part) else { return Ok(()) };
        let is_current = || self.config.borrow().copies.contains(&disk) && self.has_metadata(disk);
        if is_current() {
            let found = self.look_at(&member).await?;
            if found != Looked::Unfit {
                pauses.remove(&member.number);
                if found == Looked::Whole && is_settled {
                    let told = self.within(self.limits.eviction, self.tell_committed(&member));
                    // If it can't be told, it is at the next look.
                    let _ = self.unless_over(told).await?;
                }
                return Ok(());
            }
        } else {
            let (again_at, _) = pauses.get(&member.number).copied().unwrap_or_default();
            if self.runtime.now() < again_at {
                return Ok(());
            }
        }
        let _meta = self.meta_lock.acquire(1).await;
        if self.awaits_area(&member) {
            return Ok(());
        }
        if is_current() {
            // The last one stays, and gets everything anew.
            self.give_up_copies(&[disk]).await?;
        }
        if !self.write_copy(&member).await? {
            let (_, last) = pauses.get(&member.number).copied().unwrap_or_default();
            let usual = self.limits.metadata_check;
            let pause = (last * 2).clamp(usual, usual * PAUSES_MAX);
            pauses.insert(member.number, (self.runtime.now() + pause, pause));
            return Ok(());
        }
        self.events.tell(PoolEvent::StructureRepaired {
            pool: self.name.clone(),
            disk: member.display_name(),
            what: "copy of the metadata".into(),
            disk_offset_bytes: self
                .area_place(&member)
                .map_or(0, |area| area.sector_at(0).byte_offset()),
        });
        self.changed.notify_all();
        Ok(())
    }

    /// Writes a copy anew; tells whether it has everything. The caller holds `meta_lock`.
    pub(super) async fn fill_copy(self: &Rc<Self>, member: &Rc<Member>) -> Result<bool, Ended> {
        if !self.config.borrow().copies.contains(&member.id) {
            // What it had when it left the list isn't what it has now.
            self.area.borrow_mut().copies.remove(&member.id);
        }
        // Behind another instance another disk may be.
        let looked_at = async {
            let device = member.device().ok_or(IoError::Lost)?;
            self.expect_instance(member, instance_now(&*device).await?)
        };
        if self.within(self.limits.eviction, looked_at).await.is_err() {
            return Ok(false);
        }
        match self.write_checkpoint(Some(member)).await {
            Ok(()) => {}
            Err(CommitError::Ended(ended)) => return Err(ended),
            Err(error) => tracing::error!(pool = %self.name, ?error, "checkpoint"),
        }
        Ok(self.has_metadata(member.id))
    }

    /// The same, and makes it a current one.
    pub(super) async fn write_copy(self: &Rc<Self>, member: &Rc<Member>) -> Result<bool, Ended> {
        if !self.fill_copy(member).await? {
            return Ok(false);
        }
        self.change_configuration(|config| {
            let joins = !config.is_out(member.number) && config.voters.contains(member.id);
            joins && config.copies.insert(member.id)
        })
        .await?;
        Ok(true)
    }

    /// Whether a current copy has what it should have; it is unfit if it lacks something twice in a row. A disk that
    /// doesn't answer is another's business.
    async fn look_at(self: &Rc<Self>, member: &Rc<Member>) -> Result<Looked, Ended> {
        for _ in 0..2 {
            match self.unless_over(self.read_back(member)).await? {
                Err(fault) if fault.is_unfit() => {}
                Err(CopyFault::Io(IoError::Restarted { .. })) => {
                    // Who it is is looked at first, if nobody does that yet.
                    self.re_add_soon(member);
                    return Ok(Looked::Silent);
                }
                Ok(()) => return Ok(Looked::Whole),
                Err(_) => return Ok(Looked::Silent),
            }
        }
        Ok(Looked::Unfit)
    }

    /// Has the disk of a current copy name the last committed record in its applied block, if we didn't yet. Whoever sees
    /// it and a copy that ends before knows that this one lacks something, and wasn't just being written to. All else that
    /// it says stays, so this is no release and takes no lock of releases.
    async fn tell_committed(&self, member: &Rc<Member>) -> Result<(), IoError> {
        let committed = || self.area.borrow().committed();
        if member.told_record.get() >= committed() {
            return Ok(());
        }
        let checked = member.checked_instance.get();
        let device = member.usable_device().ok_or(IoError::Lost)?;
        let _recording = member.recording_applied.acquire(1).await;
        let _awaited = Awaited::new(member);
        let slots = self.applied_on(member, &*device).await?;
        if !slots.is_whole {
            // What can't be read may be newer.
            return Err(IoError::Lost);
        }
        let instance = device.renew().await?.instance;
        let is_it = checked == Some(instance) && member.checked_instance.get() == checked;
        if !is_it || !self.has_metadata(member.id) || !member.is_usable() {
            return Err(IoError::Lost);
        }
        let record = committed();
        let applied = Applied {
            pool: self.id,
            disk: member.id,
            sequence: slots.next_sequence,
            release: slots.newest.map(|newest| newest.release).unwrap_or_default(),
            record,
            by: None,
        };
        let place = DiskGeometry::applied_slots()[applied.slot()];
        let now = write_durably(&*device, place, applied.encode(self.keys.as_ref())).await?;
        if now.instance != instance {
            return Err(IoError::Restarted { now: now.instance });
        }
        member.applied_sequence.set(applied.sequence + 1);
        member.told_record.set(record);
        Ok(())
    }

    /// Reads what a copy took since it was read back last, and some of what it has had for longer.
    async fn read_back(&self, member: &Member) -> Result<(), CopyFault> {
        // What another instance shows may be another disk's.
        let reader = CopyReader { of: member.checked_instance.get(), ..self.copy_reader(member)? };
        let (mut state, stored, header, begin, end) = {
            let area = self.area.borrow();
            let (Some(state), Some(checkpoint)) =
                (area.copies.get(&member.id), area.checkpoint.as_ref())
            else {
                return Ok(());
            };
            let header = checkpoint.header.clone();
            (state.clone(), area.base.clone(), header, checkpoint.after, area.position)
        };
        let due = sections_due(&stored.table.sections, &state);
        let done = async {
            let mut at = match state.read_back.filter(|at| at.sequence == end.sequence) {
                Some(at) => at,
                None => {
                    reader.checkpoint(&header, &stored.head).await?;
                    begin
                }
            };
            while at.log_at < end.log_at {
                at = reader.entries(at, &end).await?;
            }
            if at != end {
                return Err(CopyFault::Older);
            }
            for (_, section) in &due {
                reader.placed(&section.place, section.sum()).await?;
            }
            Ok(())
        };
        let done = done.await;
        let mut area = self.area.borrow_mut();
        if area.position.sequence != end.sequence {
            // A checkpoint came between, and what was read may have been overwritten.
            return Ok(());
        }
        if done.is_ok()
            && let Some(known) = area.copies.get_mut(&member.id)
        {
            state.read_back = Some(end);
            for (at, _) in &due {
                state.unread.remove(at);
                if state.kept_unread.remove(at) {
                    state.reads_from = at + 1;
                }
            }
            *known = CopyState { checked: known.checked, ..state };
        }
        done
    }

    pub(super) fn copy_reader(&self, member: &Member) -> Result<CopyReader<'_>, CopyFault> {
        let device = member.device().ok_or(IoError::Lost)?;
        let area = self.area_place(member).ok_or(CopyFault::Older)?;
        Ok(CopyReader { pool: self, device, area, of: None })
    }

    /// Whether the copy on a disk that is taken in has all that is committed. One that hasn't leaves
    /// the list, if it isn't the last on it. The caller holds `meta_lock`.
    pub(crate) async fn check_copy(self: &Rc<Self>, member: &Rc<Member>) -> Result<bool, Ended> {
        if !self.config.borrow().copies.contains(&member.id) || !self.has_metadata(member.id) {
            return Ok(false);
        }
        let shown = self.within(self.limits.claim, self.shows_tail(member)).await;
        match shown {
            Ok(instance) => {
                if let Some(state) = self.area.borrow_mut().copies.get_mut(&member.id) {
                    state.checked = Some(instance);
                }
                Ok(true)
            }
            Err(CopyFault::Older) => {
                self.give_up_copies(&[member.id]).await?;
                Ok(false)
            }
            // A disk that doesn't answer is another's business; the next entry asks again.
            Err(CopyFault::Io(_)) => Ok(true),
        }
    }

    /// Takes copies that lack something off the current list, unless no other would be left; tells which.
    /// The last one stays on it, and like the others gets nothing more that builds on what it lacks.
    pub(super) async fn give_up_copies(self: &Rc<Self>, older: &[DiskId]) -> Result<bool, Ended> {
        let others = self.leave_older(older).await?;
        older.iter().for_each(|disk| drop(self.area.borrow_mut().copies.remove(disk)));
        Ok(others)
    }

    /// Takes older copies off the current list, unless no other would be left; tells which.
    pub(super) async fn leave_older(self: &Rc<Self>, older: &[DiskId]) -> Result<bool, Ended> {
        self.change_configuration(|config| config.leave_copies(older)).await?;
        Ok(!older.iter().any(|disk| self.config.borrow().copies.contains(disk)))
    }

    /// The instance under which a copy shows the last thing that was committed.
    pub(super) async fn shows_tail(&self, member: &Member) -> Result<Instance, CopyFault> {
        let device = member.device().ok_or(IoError::Lost)?;
        let place = self.area_place(member).ok_or(CopyFault::Older)?;
        let (at, expected) = {
            let area = self.area.borrow();
            let slot = area.position.slot();
            let checkpoint = area.checkpoint.as_ref().ok_or(CopyFault::Older)?;
            match &area.last_entry {
                _ if !area.copies.contains_key(&member.id) => return Err(CopyFault::Older),
                None => (place.layout.checkpoint_offset(slot), checkpoint.header.clone()),
                Some(LastEntry { log_at, head }) => {
                    (place.layout.log_offset(slot) + log_at, head.clone())
                }
            }
        };
        let read = device.read(SectorRange::new(place.sector_at(at), BLOCK_SECTORS)).await;
        match read {
            Ok(read) if *read.value == *expected => Ok(read.instance),
            Ok(_) | Err(IoError::Medium(_)) => Err(CopyFault::Older),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads a copy of the metadata in pieces, each in its time.
pub(super) struct CopyReader<'a> {
    pool: &'a Pool,
    device: Rc<dyn BlockDevice>,
    area: AreaPlace,
    /// Only what this instance answers counts.
    of: Option<Instance>,
}

impl AreaBytes for CopyReader<'_> {
    async fn read(&self, at: u64, len: u64) -> Result<Buffer, IoError> {
        let range = SectorRange::new(self.area.sector_at(at), len / SECTOR_BYTES as u64);
        let read = self.pool.within(self.pool.limits.background, self.device.read(range)).await?;
        match self.of.is_none_or(|of| of == read.instance) {
            true => Ok(read.value),
            false => Err(IoError::Restarted { now: read.instance }),
        }
    }
}

impl CopyReader<'_> {
    pub(super) fn layout(&self) -> AreaLayout {
        self.area.layout
    }

    /// The header of a checkpoint, and its table by the CRC.
    async fn checkpoint(&self, header: &Buffer, head: &CheckpointHead) -> Result<(), CopyFault> {
        let at = self.area.layout.checkpoint_offset(head.slot());
        if *self.read(at, BLOCK_BYTES as u64).await? != **header {
            return Err(CopyFault::Older);
        }
        self.placed(&head.place, head.table_sum()).await
    }

    /// What is in a place, if it is what should be there.
    async fn placed(&self, place: &[BlockRun], sum: Sum) -> Result<(), CopyFault> {
        let found = read_placed(&self.area.layout, self, place, sum).await?;
        found.map(drop).ok_or(CopyFault::Older)
    }

    /// The entries from `at` on, as many as a piece holds, none behind `end`.
    async fn entries(
        &self,
        mut at: AreaPosition,
        end: &AreaPosition,
    ) -> Result<AreaPosition, CopyFault> {
        let (begin, rest) = (at.log_at, end.log_at - at.log_at);
        let log = self.area.layout.log_offset(at.slot());
        let mut bytes = self.read(log + begin, rest.min(PIECE_BYTES)).await?;
        if let Some(claim) = entry_claim(&bytes, at.pool).filter(|c| c.bytes > bytes.len()) {
            let len = (claim.bytes as u64).next_multiple_of(BLOCK_BYTES as u64);
            bytes = self.read(log + begin, len.min(rest)).await?;
        }
        while let Some(entry) =
            at.entry_here(bytes.get((at.log_at - begin) as usize..).unwrap_or_default())
        {
            at = at.after(&entry);
        }
        if at.log_at == begin { Err(CopyFault::Older) } else { Ok(at) }
    }
}

/// The sections that are read back next: those that were written since, then those that the newest
/// checkpoint kept, in turn, about as many bytes as a look may take.
fn sections_due<'a>(sections: &'a [Section], state: &CopyState) -> Vec<(u32, &'a Section)> {
    let places =
        sections.iter().filter_map(|section| Some((section.place.first()?.first, section)));
    let is_due = |at: &u32| state.unread.contains(at) || state.kept_unread.contains(at);
    let mut places: Vec<(u32, &Section)> = places.filter(|(at, _)| is_due(at)).collect();
    // Unread ones first; then from where the last look ended.
    let turn = |at: u32| (!state.unread.contains(&at), at < state.reads_from, at);
    places.sort_unstable_by_key(|(at, _)| turn(*at));
    let mut bytes = 0;
    places
        .into_iter()
        .take_while(|(_, section)| {
            let before = bytes;
            bytes += section.bytes;
            before == 0 || bytes <= LOOK_BYTES
        })
        .collect()
}

#[cfg(test)]
#[path = "metadata_copies_tests.rs"]
mod tests;
