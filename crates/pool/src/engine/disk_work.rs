//! Volatile writes to one disk that become durable together: written, recorded as applied, and flushed under
//! the instance that took them. When the disk began anew in between, all of it is done again.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block::{
    BLOCK_SECTORS, BlockDevice, Buffer, Durability, Instance, IoError, Lba, SECTOR_BYTES,
    SectorRange,
};
use futures::StreamExt;
use futures::future::{Either, join_all, select};

use super::member::Member;
use super::pool::{GroupPlace, Pool};
use super::underway::{Awaited, Underway};
use crate::format::{Applied, DiskGeometry, DiskNumber, GenerationId, RecordNumber, ReleaseNumber};
use crate::metadata::DirtyRegions;
use crate::stats::Purpose;
use block::{read_seen, write_run};

/// Writes to one disk that are under way at once.
const WRITES: usize = 16;

/// The regions of a group that a write touches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touched {
    pub(crate) group: GenerationId,
    pub(crate) mask: u64,
}

/// When what is written becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durable {
    /// By a flush after it.
    Flushed,
    /// Each write by itself: what is relied upon beside it was flushed before.
    Written,
    /// Somebody else flushes it.
    Later,
}

/// Writes to one disk.
pub(crate) struct DiskWork {
    member: Rc<Member>,
    device: Rc<dyn BlockDevice>,
    writes: Vec<(Lba, Buffer, Touched)>,
    /// The instance that must take them: what it holds was looked at.
    shown: Option<Instance>,
    /// Nobody else can do what is done here.
    is_alone: bool,
    /// When it becomes durable.
    durable: Durable,
    beside: Beside,
}

/// Who does the same at the time.
enum Beside {
    /// Of the works that are run with this one, those that aren't done.
    Together(Rc<Cell<usize>>),
    /// Flushes that begin and end when they like; this is the number of this one, and how many had succeeded then.
    Flushes { of: Rc<Flushes>, number: u64, done: u64 },
}

/// Flushes of several disks, each for itself.
#[derive(Debug, Default)]
pub(crate) struct Flushes {
    begun: Cell<u64>,
    under_way: Cell<u64>,
    done: Cell<u64>,
    /// The last one to begin of those that succeeded.
    newest_done: Cell<u64>,
}

/// What became of them.
#[derive(Debug, Default)]
pub(crate) struct WorkResult {
    /// The disk as a whole failed: nothing on it counts.
    pub(crate) failed: Option<IoError>,
    /// Sectors that it can't take: these regions of groups are missed.
    pub(crate) dirty: BTreeMap<GenerationId, u64>,
    /// The instance that took them.
    pub(crate) instance: Option<Instance>,
    /// It began anew since what it holds was looked at: that must be done again first.
    pub(crate) began_anew: bool,
}

impl WorkResult {
    /// Whether the disk took all of it, and by the instance that was to take it.
    pub(super) fn is_done(&self) -> bool {
        self.failed.is_none() && !self.began_anew
    }
}

/// Those of several disks that failed as a whole.
pub(super) fn failures(
    results: &BTreeMap<DiskNumber, WorkResult>,
) -> BTreeMap<DiskNumber, IoError> {
    let failed = results.iter().filter_map(|(disk, result)| Some((*disk, result.failed?)));
    failed.collect()
}

impl DiskWork {
    pub(crate) fn new(member: Rc<Member>, device: Rc<dyn BlockDevice>) -> DiskWork {
        let (writes, beside) = (Vec::new(), Beside::Together(Rc::default()));
        let (shown, is_alone, durable) = (None, false, Durable::Flushed);
        DiskWork { member, device, writes, shown, is_alone, durable, beside }
    }

    /// Whose work it is.
    pub(crate) fn disk(&self) -> DiskNumber {
        self.member.number
    }

    /// The instance that must take it, if only one may.
    pub(crate) fn shown(&self) -> Option<Instance> {
        self.shown
    }

    /// Only this instance may take it.
    pub(crate) fn only_by(mut self, instance: Option<Instance>) -> DiskWork {
        self.shown = instance;
        self
    }

    /// Only the instance that was seen last may take it.
    pub(crate) fn only_as_shown(self) -> DiskWork {
        let seen = self.member.seen_instance.get();
        self.only_by(seen)
    }

    /// Nobody else can do what is done here, so it is waited for as long as background work may take.
    pub(crate) fn set_alone(&mut self) {
        self.is_alone = true;
    }

    /// It counts for nothing before somebody has flushed it under the instance that took it, together with other
    /// works.
    pub(crate) fn stay_volatile(self) -> DiskWork {
        DiskWork { durable: Durable::Later, ..self }
    }

    /// Whether the others have done what is done here, and can do without it.
    fn is_last(&self) -> bool {
        let others_are_done = match &self.beside {
            Beside::Together(unfinished) => unfinished.get() == 1,
            // Who began later is done, or nobody else has anything to flush; disks that are all slow take turns.
            Beside::Flushes { of, number, done } => {
                of.newest_done.get() > *number || of.under_way.get() == 1 && of.done.get() == *done
            }
        };
        !self.is_alone && others_are_done
    }

    /// Adds a write.
    pub(crate) fn write(&mut self, start: Lba, data: Buffer, touched: Touched) {
        self.writes.push((start, data, touched));
    }
}

/// What disks miss after such work, of groups and what it touches of each: all of it where a disk got
/// none, else what it couldn't take.
pub(crate) fn dirty_after<'a>(
    groups: impl Iterator<Item = (&'a GroupPlace, u64)>,
    results: &BTreeMap<DiskNumber, WorkResult>,
) -> DirtyRegions {
    let mut dirty_regions = DirtyRegions::new();
    for (group, touched) in groups {
        for (disk, _) in &group.members {
            let dirty = match results.get(disk) {
                None => touched,
                Some(result) => result.dirty.get(&group.generation).copied().unwrap_or(0),
            };
            if dirty != 0 {
                dirty_regions.insert((group.generation, *disk), dirty);
            }
        }
    }
    dirty_regions
}

impl Pool {
    /// Does the work of several disks at once; with a release number, each records it as applied.
    pub(crate) async fn run_works(
        &self,
        works: BTreeMap<DiskNumber, DiskWork>,
        release: Option<ReleaseNumber>,
    ) -> BTreeMap<DiskNumber, WorkResult> {
        let unfinished = Rc::new(Cell::new(works.len()));
        let runs = works.into_iter().map(|(disk, mut work)| {
            let unfinished = Rc::clone(&unfinished);
            work.beside = Beside::Together(Rc::clone(&unfinished));
            async move {
                let result = self.run_work(&work, release).await;
                // Who failed has done nothing that another one could be done without for.
                if result.is_done() {
                    unfinished.update(|count| count - 1);
                }
                (disk, result)
            }
        });
        join_all(runs).await.into_iter().collect()
    }

    /// Flushes a disk under the instance that took what is to be durable, beside others; nothing if it doesn't take
    /// part, also if it is out meanwhile: whoever took it out did so for his own reasons.
    pub(crate) async fn flush_disk(
        &self,
        disk: DiskNumber,
        instance: Instance,
        beside: &Rc<Flushes>,
    ) -> Option<WorkResult> {
        let (_, mut work) = self.work_by(disk, Some(instance))?;
        let number = beside.begun.get() + 1;
        beside.begun.set(number);
        beside.under_way.update(|count| count + 1);
        work.beside = Beside::Flushes { of: Rc::clone(beside), number, done: beside.done.get() };
        let result = self.run_work(&work, None).await;
        beside.under_way.update(|count| count - 1);
        if result.is_done() {
            beside.done.update(|count| count + 1);
            beside.newest_done.update(|newest| newest.max(number));
        }
        (!self.is_out(disk)).then_some(result)
    }

    /// Has disks record a release number as applied, each under the instance that took what is to be credited to it and
    /// has it durable by now. The caller holds the lock of releases.
    pub(crate) async fn record_applied(
        &self,
        took: BTreeMap<DiskNumber, Option<Instance>>,
        release: ReleaseNumber,
    ) -> BTreeMap<DiskNumber, WorkResult> {
        let works = took.into_iter().filter_map(|(disk, instance)| self.work_by(disk, instance));
        // Not by a flush: it would wait for what was copied since. (With a drive without FUA it does all the same.)
        let works =
            works.map(|(disk, work)| (disk, DiskWork { durable: Durable::Written, ..work }));
        self.run_works(works.collect(), Some(release)).await
    }

    /// Work of a disk that takes part, to be done by this instance if one is named.
    fn work_by(&self, disk: DiskNumber, by: Option<Instance>) -> Option<(DiskNumber, DiskWork)> {
        let member = self.member(disk)?;
        let device = member.usable_device()?;
        Some((disk, DiskWork::new(member, device).only_by(by)))
    }

    /// Reads from a member, under the instance that was looked at when it was taken in: what another
    /// one answers is no answer, since its contents may be older.
    pub(crate) async fn read_member(
        self: &Rc<Self>,
        member: &Rc<Member>,
        device: &dyn BlockDevice,
        start: Lba,
        sectors: u64,
    ) -> Result<Buffer, IoError> {
        let bytes = sectors * SECTOR_BYTES as u64;
        let _underway = Underway::new(&self.runtime, member, Purpose::Read, bytes);
        let seen = read_seen(device, start, sectors).await?;
        self.expect_instance(member, seen.instance)?;
        Ok(seen.value)
    }

    /// Fails unless it was this instance of a member that was looked at; then that is done soon.
    pub(crate) fn expect_instance(
        self: &Rc<Self>,
        member: &Rc<Member>,
        now: Instance,
    ) -> Result<(), IoError> {
        if member.checked_instance.get() == Some(now) {
            return Ok(());
        }
        if !member.joining.get() {
            self.re_add_soon(member);
        }
        Err(IoError::Restarted { now })
    }

    /// Ends with the work, or when others evict the disk meanwhile: whoever waits for this
    /// work has no reason to wait for a disk that doesn't count any more.
    async fn run_work(&self, work: &DiskWork, release: Option<ReleaseNumber>) -> WorkResult {
        let done = self.while_in(work.member.number, self.do_work(work, release)).await;
        let lost = WorkResult { failed: Some(IoError::Lost), ..WorkResult::default() };
        done.unwrap_or(lost)
    }

    /// Work on one disk, at most for `limit`; over at once when the disk is evicted, since whoever
    /// waits for the work (perhaps with a lock held) must not wait for a disk that doesn't count.
    pub(crate) async fn within_while_in<T>(
        &self,
        disk: DiskNumber,
        limit: Duration,
        work: impl Future<Output = Result<T, IoError>>,
    ) -> Result<T, IoError> {
        self.while_in(disk, self.within(limit, work)).await.unwrap_or(Err(IoError::Lost))
    }

    /// Work on one disk; `None` as soon as the disk is out.
    pub(crate) async fn while_in<T>(
        &self,
        disk: DiskNumber,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        match select(std::pin::pin!(work), std::pin::pin!(self.until_out(disk))).await {
            Either::Left((result, _)) => Some(result),
            Either::Right(_) => None,
        }
    }

    async fn until_out(&self, disk: DiskNumber) {
        loop {
            let changed = self.changed.notified();
            if self.is_out(disk) {
                return;
            }
            changed.await;
        }
    }

    async fn do_work(&self, work: &DiskWork, release: Option<ReleaseNumber>) -> WorkResult {
        // One applied block at a time; whatever else is done runs beside it.
        let _recording = match release {
            Some(_) => Some(work.member.recording_applied.acquire(1).await),
            None => None,
        };
        match self.try_work(work, release).await {
            Ok((dirty, instance)) => WorkResult { dirty, instance, ..WorkResult::default() },
            Err(IoError::Restarted { now }) if work.shown.is_some() => {
                work.member.seen_instance.set(Some(now));
                WorkResult { began_anew: true, ..WorkResult::default() }
            }
            Err(error) => WorkResult { failed: Some(error), ..WorkResult::default() },
        }
    }

    async fn try_work(
        &self,
        work: &DiskWork,
        release: Option<ReleaseNumber>,
    ) -> Result<(BTreeMap<GenerationId, u64>, Option<Instance>), IoError> {
        let mut taken_by = work.shown;
        if release.is_some() {
            let now = self.within_patience(work, self.checked_now(work)).await?;
            if taken_by.is_some_and(|instance| instance != now) {
                return Err(IoError::Restarted { now });
            }
            taken_by = Some(now);
        }
        let durability = match work.durable {
            Durable::Written => Durability::Durable,
            Durable::Flushed | Durable::Later => Durability::Volatile,
        };
        let _awaited = (work.durable == Durable::Written).then(|| Awaited::new(&work.member));
        let mut dirty = BTreeMap::new();
        let record = self.area.borrow().committed();
        let applied = release.map(|release| self.applied_write(work, release, record));
        let writes =
            work.writes.iter().map(|(start, data, touched)| (*start, data.clone(), Some(*touched)));
        let writes = writes.chain(applied.map(|(start, data)| (start, data, None)));
        let writes = writes.map(|(start, data, touched)| async move {
            let bytes = data.len() as u64;
            let write = write_run(&*work.device, start, data, durability);
            let _underway = Underway::new(&self.runtime, &work.member, Purpose::Write, bytes);
            (touched, self.within_patience(work, write).await)
        });
        let mut writes = futures::stream::iter(writes).buffer_unordered(WRITES);
        while let Some((touched, answer)) = writes.next().await {
            match (answer, touched) {
                (Ok(answer), _) => {
                    let now = answer.instance;
                    if taken_by.is_some_and(|instance| instance != now) {
                        return Err(IoError::Restarted { now });
                    }
                    taken_by = Some(now);
                }
                (
                    Err(IoError::Medium(_) | IoError::NoSpace(_) | IoError::OutOfRange(_)),
                    Some(touched),
                ) => *dirty.entry(touched.group).or_default() |= touched.mask,
                (Err(error), _) => return Err(error),
            }
        }
        if let Some(instance) = taken_by {
            // A flush alone is for one that was seen some time ago.
            if release.is_some() || !work.writes.is_empty() {
                work.member.seen_instance.set(Some(instance));
            }
            if work.durable == Durable::Flushed {
                let _underway = Underway::new(&self.runtime, &work.member, Purpose::Flush, 0);
                self.within_patience(work, work.device.flush(instance)).await?;
            }
        }
        if release.is_some() {
            // Only now: an applied block that may be torn is written again in the same slot.
            work.member.applied_sequence.set(work.member.applied_sequence.get() + 1);
            work.member.told_record.set(record);
        }
        Ok((dirty, taken_by))
    }

    /// Background work on a disk may take long, unless somebody waits for room in a log meanwhile, and the
    /// others who do the same have done it: he must not wait longer for the one that holds up destaging than
    /// for one that is to have his record. Disks that are all slow are no reason to lose any.
    async fn within_patience<T>(
        &self,
        work: &DiskWork,
        operation: impl Future<Output = Result<T, IoError>>,
    ) -> Result<T, IoError> {
        match select(std::pin::pin!(operation), std::pin::pin!(self.end_of_patience(work))).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(IoError::Lost),
        }
    }

    async fn end_of_patience(&self, work: &DiskWork) {
        let mut left = self.limits.background;
        while !left.is_zero() {
            let piece = self.limits.eviction.min(left);
            self.runtime.sleep(piece).await;
            left -= piece;
            if work.is_last() && self.is_room_awaited() {
                return;
            }
        }
    }

    /// The instance that answers now, which has all that the disk ever applied. A disk that began
    /// anew with older contents must not get a newer applied number before somebody has looked at
    /// the old one: it would pass for a disk that has everything.
    async fn checked_now(&self, work: &DiskWork) -> Result<Instance, IoError> {
        let member = &work.member;
        // Not by a read, for which an arm that copies would have to leave its place.
        let instance = work.device.renew().await?.instance;
        if member.checked_instance.get() == Some(instance) {
            return Ok(instance);
        }
        let applied = self.applied_on(member, &*work.device).await?;
        if self.is_rolled_back(member.number, &applied) {
            return Err(IoError::Lost);
        }
        Ok(instance)
    }

    fn applied_write(
        &self,
        work: &DiskWork,
        release: ReleaseNumber,
        record: RecordNumber,
    ) -> (Lba, Buffer) {
        let member = &work.member;
        let sequence = member.applied_sequence.get();
        let applied =
            Applied { pool: self.id, disk: member.id, sequence, release, record, by: None };
        (DiskGeometry::applied_slots()[applied.slot()], applied.encode(self.keys.as_ref()))
    }
}

/// The instance that answers now, by whichever applied block can be read, or label: writing an applied
/// block anew makes it readable.
pub(super) async fn instance_now(device: &dyn BlockDevice) -> Result<Instance, IoError> {
    let [first, second, ..] =
        DiskGeometry::label_slots(device.geometry().sectors * SECTOR_BYTES as u64);
    let mut unreadable = IoError::Lost;
    for place in DiskGeometry::applied_slots().into_iter().chain([first, second]) {
        match device.read(SectorRange::new(place, BLOCK_SECTORS)).await {
            Err(error @ IoError::Medium(_)) => unreadable = error,
            answer => return Ok(answer?.instance),
        }
    }
    Err(unreadable)
}
