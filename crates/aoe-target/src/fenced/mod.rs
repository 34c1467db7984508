//! A medium with an owner: a [`BlockDevice`] over any other that keeps, on the disk itself, the
//! highest epoch that it has accepted and who brought it.
//!
//! Without that, a supervisor that was deposed while a node was off could write to the node's disks
//! again when it comes back. A diskless node keeps nothing else, so the disk must remember. The
//! record's byte map is in `reservation.rs`.
//!
//! Comparing the epoch of each request is the session target's job ([`crate`]); a medium
//! tells it the [`Ownership`]. What a medium refuses by itself are changes to the record's slots, and
//! claims of disks that carry what isn't etherpool's.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use block::probe::{LABEL_BYTES, LABEL_MAGIC, RESERVATION_MAGIC, Signature, labelled_bytes, probe};
use block::{
    Answer, BlockDevice, Buffer, Claim, Completion, DeviceEvent, Done, Durability, Epoch, Geometry,
    Holder, Instance, IoError, Lba, Operation, Outcome, RefusalReason, SECTOR_BYTES, SectorRange,
    Trust, crc64_nvme,
};
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use runtime::Handle;
use seal::{Grant, PoolKey};

mod gate;
mod reservation;

use gate::{Gate, Passing};
use reservation::{FIRST_SLOT_BYTES, SLOTS, Slot, labelled_sectors, slot_range, slots_of};
pub use reservation::{ReservationRecord, read_reservation};

/// Whose a medium is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Nobody has claimed it.
    Unclaimed {
        /// It carries an etherpool label all the same: plain clients may not touch it.
        labelled: bool,
    },
    /// Claimed.
    Held(Holder),
    /// It was claimed, but by whom can't be read any more: closed until a forced claim.
    Unreadable,
}

impl Ownership {
    /// The highest accepted epoch and its owner, as far as known.
    pub fn holder(self) -> Holder {
        match self {
            Ownership::Held(holder) => holder,
            Ownership::Unclaimed { .. } | Ownership::Unreadable => Holder::default(),
        }
    }

    /// Whether plain AoE clients may do more than ask what it is.
    pub fn is_open_to_plain_clients(self) -> bool {
        self == Ownership::Unclaimed { labelled: false }
    }
}

/// A device with an owner.
pub struct FencedDevice {
    shared: Rc<Shared>,
}

struct Shared {
    handle: Handle,
    gate: Rc<Gate>,
    device: RefCell<Rc<dyn BlockDevice>>,
    ownership: Cell<Ownership>,
    /// Whom it obeys, if that is anybody in particular.
    grant: RefCell<Option<Rc<Grant>>>,
    /// The highest sequence number seen in any slot.
    sequence: Cell<u64>,
    labelled_sectors: Cell<u64>,
    /// The sizes that the labels in the first two slots tell.
    labelled: Cell<[Option<u64>; 2]>,
    /// How often the labels were begun to be read, and the newest of those that ended.
    label_reads: Cell<(u64, u64)>,
    /// Makes the instances of this opening differ from those of all others.
    opening: Cell<u64>,
    /// The device's instance, as last heard.
    device_instance: Cell<Instance>,
    /// The last answer of [`Shared::instance_of`], and to what: it is asked at every operation.
    translated: Cell<((u64, Instance), Instance)>,
    /// A flush failed under the present instance.
    flush_failed: Cell<Option<Instance>>,
}

impl FencedDevice {
    /// Takes a device and reads whose it is.
    ///
    /// # Errors
    /// When the device answers nothing at all. Unreadable fields aren't an error but
    /// [`Ownership::Unreadable`].
    pub async fn open(
        device: Rc<dyn BlockDevice>,
        handle: Handle,
    ) -> Result<FencedDevice, IoError> {
        let shared = Rc::new(Shared {
            gate: Gate::new(handle.clone()),
            handle,
            device: RefCell::new(Rc::clone(&device)),
            ownership: Cell::new(Ownership::Unclaimed { labelled: false }),
            grant: RefCell::default(),
            sequence: Cell::new(0),
            labelled_sectors: Cell::new(0),
            labelled: Cell::default(),
            label_reads: Cell::default(),
            opening: Cell::new(0),
            device_instance: Cell::default(),
            translated: Cell::default(),
            flush_failed: Cell::new(None),
        });
        shared.load(device).await?;
        Ok(FencedDevice { shared })
    }

    /// Takes the device anew (its file was reopened after a failed flush, or replaced) once all
    /// earlier operations have completed: a new instance, ownership read again.
    pub async fn reopen(&self, device: Rc<dyn BlockDevice>) -> Result<(), IoError> {
        let shared = Rc::clone(&self.shared);
        let (sender, loaded) = oneshot::channel();
        self.shared.gate.barrier(async move {
            // Who asked may have gone away.
            let _ = sender.send(shared.load(device).await);
        });
        loaded.await.unwrap_or(Err(IoError::Lost))
    }

    /// Whose it is.
    pub fn ownership(&self) -> Ownership {
        self.shared.ownership.get()
    }

    /// The highest accepted epoch and its owner.
    pub fn holder(&self) -> Holder {
        self.ownership().holder()
    }

    /// Whom it obeys: claims, reads and writes of others are the session target's to refuse. `None` where it is
    /// whoever claims it.
    pub fn grant(&self) -> Option<Rc<Grant>> {
        self.shared.grant.borrow().clone()
    }

    /// Gives up whom it obeys if that is meant, and nothing else: its owner, and all that is on it, stay. Tells the key that
    /// it obeyed. What is meant is asked once nothing else is under way: a claim may hand it on meanwhile.
    ///
    /// # Errors
    /// When that can't be written.
    pub async fn forget_grant(
        &self,
        is_meant: impl FnOnce(PoolKey) -> bool + 'static,
    ) -> Result<Option<PoolKey>, IoError> {
        let shared = Rc::clone(&self.shared);
        let (sender, forgotten) = oneshot::channel();
        self.shared.gate.barrier(async move {
            let device = shared.device();
            let obeyed = shared.grant.borrow().as_ref().map(|grant| grant.key());
            let obeyed = obeyed.filter(|key| is_meant(*key));
            let done = match (shared.ownership.get(), obeyed) {
                (Ownership::Held(holder), Some(key)) => {
                    shared.record(&device, holder, None).await.map(|()| Some(key))
                }
                _ => Ok(None),
            };
            // Who asked may have gone away.
            let _ = sender.send(done);
        });
        forgotten.await.unwrap_or(Err(IoError::Lost))
    }

    /// The disk's size in bytes as the labels in its first two slots have it; where one can't be read, as
    /// the reservation record has it.
    pub fn labelled(&self) -> [Option<u64>; 2] {
        let held = matches!(self.ownership(), Ownership::Held(_));
        let recorded = held.then(|| self.shared.labelled_sectors.get() * SECTOR_BYTES as u64);
        self.shared.labelled.get().map(|label| label.or(recorded))
    }

    /// The instance that answers at present.
    pub fn instance(&self) -> Instance {
        self.shared.instance()
    }
}

impl Shared {
    fn device(&self) -> Rc<dyn BlockDevice> {
        Rc::clone(&self.device.borrow())
    }

    fn instance(&self) -> Instance {
        self.instance_of(self.device_instance.get())
    }

    /// Our instance while the device is in its own: another whenever either of us began anew.
    fn instance_of(&self, device: Instance) -> Instance {
        let asked = (self.opening.get(), device);
        let (known, answer) = self.translated.get();
        if known == asked && answer != Instance::default() {
            return answer;
        }
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&asked.0.to_be_bytes());
        bytes[8..].copy_from_slice(&device.0.to_be_bytes());
        let answer = Instance(crc64_nvme(&bytes).max(1));
        self.translated.set((asked, answer));
        answer
    }

    /// Puts our instance in the place of the device's.
    fn translate<T>(
        &self,
        result: Result<Completion<T>, IoError>,
    ) -> Result<Completion<T>, IoError> {
        match result {
            Ok(completion) => {
                self.device_instance.set(completion.instance);
                Ok(Completion::new(self.instance(), completion.value))
            }
            Err(IoError::Restarted { now }) => {
                self.device_instance.set(now);
                Err(IoError::Restarted { now: self.instance() })
            }
            Err(error) => Err(error),
        }
    }

    async fn load(&self, device: Rc<dyn BlockDevice>) -> Result<(), IoError> {
        self.opening.set(self.handle.random_u64());
        self.device.replace(Rc::clone(&device));
        self.flush_failed.set(None);
        // A flush for an instance that isn't tells which one is, without touching the medium.
        match device.flush(Instance::default()).await {
            Ok(completion) => self.device_instance.set(completion.instance),
            Err(IoError::Restarted { now }) => self.device_instance.set(now),
            Err(IoError::Lost) => return Err(IoError::Lost),
            Err(_) => {}
        }
        self.read_labels(&*device).await?;
        let sectors = device.geometry().sectors;
        let Some(labelled) = labelled_sectors(sectors) else {
            self.labelled_sectors.set(0);
            self.grant.take();
            self.ownership.set(Ownership::Unclaimed { labelled: false });
            return Ok(());
        };
        let mut slots = Vec::new();
        for slot in 0..2 {
            slots.push(read_slot(&*device, slot, labelled).await?);
        }
        // The head knows where the tail was when the disk was claimed; it may have grown since.
        let tail_of = |slot: &Slot| match slot {
            Slot::Valid(record) if record.labelled_sectors <= sectors => {
                Some(record.labelled_sectors)
            }
            _ => None,
        };
        let labelled = slots.iter().find_map(tail_of).unwrap_or(labelled);
        for slot in 2..SLOTS {
            slots.push(read_slot(&*device, slot, labelled).await?);
        }
        self.judge(&device, slots, labelled).await
    }

    async fn judge(
        &self,
        device: &Rc<dyn BlockDevice>,
        slots: Vec<Slot>,
        labelled_sectors: u64,
    ) -> Result<(), IoError> {
        let damaged = slots.contains(&Slot::Damaged);
        let nonzero = slots.iter().any(|slot| *slot != Slot::Zero);
        let newest = slots
            .into_iter()
            .filter_map(|slot| if let Slot::Valid(record) = slot { Some(record) } else { None })
            .max_by_key(|record| record.sequence);
        if let Some(record) = newest {
            self.sequence.set(record.sequence);
            self.labelled_sectors.set(record.labelled_sectors);
            self.ownership.set(Ownership::Held(record.holder));
            self.grant.replace(record.grant);
            return Ok(());
        }
        self.sequence.set(0);
        self.grant.take();
        self.labelled_sectors.set(labelled_sectors);
        let labelled = match probe(&**device).await {
            Ok(found) => found.contains(&Signature::Etherpool),
            // What can't be read might be a label.
            Err(IoError::Lost) => return Err(IoError::Lost),
            Err(_) => true,
        };
        self.ownership.set(if damaged || labelled && nonzero {
            Ownership::Unreadable
        } else {
            Ownership::Unclaimed { labelled }
        });
        Ok(())
    }

    /// Takes note of what the first two labels say. Of two readings at a time the one counts that began
    /// later: the earlier may have been overtaken by a write.
    async fn read_labels(&self, device: &dyn BlockDevice) -> Result<(), IoError> {
        let number = self.label_reads.get().0 + 1;
        self.label_reads.set((number, self.label_reads.get().1));
        let (mut labelled, mut result) = ([None; 2], Ok(()));
        for (slot, labelled) in (0..).zip(&mut labelled) {
            let range = label_range(slot);
            if !range.fits(device.geometry().sectors) {
                break;
            }
            match device.read(range).await {
                Ok(read) => *labelled = labelled_bytes(&read.value, slot),
                Err(IoError::Lost) => result = Err(IoError::Lost),
                Err(_) => {}
            }
        }
        let (begun, newest) = self.label_reads.get();
        if number > newest {
            self.label_reads.set((begun, number));
            self.labelled.set(labelled);
        }
        result
    }

    /// Whether the target keeps something of its own in `range`.
    fn is_protected(&self, range: SectorRange) -> bool {
        !self.ownership.get().is_open_to_plain_clients()
            && (0..SLOTS).any(|slot| slot_range(slot, self.labelled_sectors.get()).overlaps(range))
    }

    /// Whether a change of `range` is to be refused, looked at when its turn has come.
    fn refusal(&self, range: SectorRange) -> Option<IoError> {
        if self.ownership.get() == Ownership::Unreadable {
            return Some(IoError::Refused(RefusalReason::ReservationUnreadable));
        }
        self.is_protected(range).then_some(IoError::Refused(RefusalReason::ProtectedRange))
    }

    /// Whether a change of these sectors may change what the labels say. They are asked of owned media
    /// only, and read when a medium gets an owner.
    fn may_change_labels(&self, range: SectorRange) -> bool {
        !matches!(self.ownership.get(), Ownership::Unclaimed { .. }) && touches_labels(range)
    }

    async fn claim(&self, claim: Claim) -> Result<Holder, IoError> {
        if claim.epoch == Epoch::OBSERVER {
            return Err(IoError::Refused(RefusalReason::ObserverOnly));
        }
        let device = self.device();
        let claimed = Holder::new(claim.epoch, claim.owner);
        let former = self.grant.borrow().clone();
        let grant = obeyed(&former, &claim.trust)?;
        match self.ownership.get() {
            Ownership::Held(holder) if holder.is_same(claimed) && grant == former => {
                return Ok(holder);
            }
            Ownership::Held(holder) if holder.is_same(claimed) => {}
            Ownership::Held(holder) if claim.epoch <= holder.epoch => {
                return Err(IoError::Fenced { highest: holder.epoch });
            }
            Ownership::Held(_) => {}
            Ownership::Unreadable if !claim.force => {
                return Err(IoError::Refused(RefusalReason::ReservationUnreadable));
            }
            Ownership::Unclaimed { .. } if !claim.force => {
                let found = probe(&*device).await?;
                if found.iter().any(|signature| *signature != Signature::Etherpool) {
                    return Err(IoError::Refused(RefusalReason::ForeignContent));
                }
            }
            Ownership::Unreadable | Ownership::Unclaimed { .. } => {}
        }
        if device.geometry().read_only {
            return Err(IoError::ReadOnly);
        }
        let is_new = matches!(self.ownership.get(), Ownership::Unclaimed { .. });
        self.record(&device, claimed, grant).await?;
        if is_new {
            // What can't be read tells nothing; the claim stands.
            let _unread = self.read_labels(&*device).await;
        }
        Ok(claimed)
    }

    /// Everything before is durable first, so that a new owner's reads can't be overtaken by what
    /// was promised to the old one; then the record, durable before anybody hears of it.
    async fn record(
        &self,
        device: &Rc<dyn BlockDevice>,
        holder: Holder,
        grant: Option<Rc<Grant>>,
    ) -> Result<(), IoError> {
        let labelled_sectors = match self.ownership.get() {
            Ownership::Held(_) => self.labelled_sectors.get(),
            _ => labelled_sectors(device.geometry().sectors).ok_or(IoError::Unsupported)?,
        };
        self.flush(device).await?;
        let sequence = self.sequence.get() + 1;
        // Taken even if writing fails half-way: a number is never used for two contents.
        self.sequence.set(sequence);
        let record = ReservationRecord {
            sequence,
            labelled_sectors,
            holder,
            reserved: Vec::new(),
            grant: grant.clone(),
        };
        for slot in slots_of(sequence) {
            let start = slot_range(slot, labelled_sectors).start;
            let data = Buffer::copy_of(&record.emit(slot));
            self.translate(device.write(start, data, Durability::Durable).await)?;
        }
        self.flush(device).await?;
        self.labelled_sectors.set(labelled_sectors);
        self.ownership.set(Ownership::Held(holder));
        self.grant.replace(grant);
        Ok(())
    }

    async fn flush(&self, device: &Rc<dyn BlockDevice>) -> Result<(), IoError> {
        let flushed = self.translate(device.flush(self.device_instance.get()).await);
        self.note_flush(flushed.map(|_| ()))
    }

    /// A failed flush stays failed for its instance, whatever it failed of.
    fn note_flush<T>(&self, result: Result<T, IoError>) -> Result<T, IoError> {
        if matches!(result, Err(IoError::FlushFailed | IoError::Medium(_) | IoError::NoSpace(_))) {
            self.flush_failed.set(Some(self.instance()));
        }
        if self.flush_failed.get() == Some(self.instance()) {
            return Err(IoError::FlushFailed);
        }
        result
    }
}

/// Whom a medium is to obey that obeyed `former`.
fn obeyed(former: &Option<Rc<Grant>>, trust: &Trust) -> Result<Option<Rc<Grant>>, IoError> {
    let read = |bytes: &[u8]| {
        let grant = Grant::parse(bytes).map(Rc::new);
        grant.ok_or(IoError::Refused(RefusalReason::NotAdmitted))
    };
    match (trust, former) {
        (Trust::Unchanged, _) => Ok(former.clone()),
        (Trust::Forget, _) => Ok(None),
        (Trust::Replace(grant), _) | (Trust::Follow(grant), None) => read(grant).map(Some),
        (Trust::Follow(grant), Some(known)) if **grant == *known.bytes() => Ok(former.clone()),
        (Trust::Follow(grant), Some(known)) => {
            let grant = read(grant)?;
            match grant.follows(known) {
                true => Ok(Some(grant)),
                // It comes too late. Of another pool's nobody is to believe that it was heard.
                false if known.version() > grant.version() && known.is_of_pool_of(&grant) => {
                    Ok(former.clone())
                }
                false => Err(IoError::Refused(RefusalReason::NotAdmitted)),
            }
        }
    }
}

/// Whether a write would begin a label or a reservation record where they lie: a medium that nobody has would pass for one
/// of a pool, or for one that obeys somebody.
pub(crate) fn would_pass_for_ours(range: SectorRange, data: &[u8], sectors: u64) -> bool {
    let begins = |at: Lba, magic: [u8; 8]| {
        let offset = at.0.checked_sub(range.start.0).filter(|offset| *offset < range.count);
        let offset = offset.map(|offset| offset as usize * SECTOR_BYTES);
        offset.and_then(|offset| data.get(offset..)).is_some_and(|bytes| bytes.starts_with(&magic))
    };
    let labelled = labelled_sectors(sectors).unwrap_or_default();
    (0..SLOTS).any(|slot| {
        let record = slot_range(slot, labelled).start;
        let label = Lba(record.0.saturating_sub(FIRST_SLOT_BYTES / SECTOR_BYTES as u64));
        begins(label, LABEL_MAGIC) || begins(record, RESERVATION_MAGIC)
    })
}

fn label_range(slot: u8) -> SectorRange {
    let count = (LABEL_BYTES / SECTOR_BYTES) as u64;
    SectorRange::new(Lba(u64::from(slot) * count), count)
}

/// Whether one of the first two labels may be another afterwards.
fn touches_labels(range: SectorRange) -> bool {
    [0, 1].into_iter().any(|slot| label_range(slot).overlaps(range))
}

/// An unreadable slot counts as damaged; a device that isn't there is an error.
async fn read_slot(
    device: &dyn BlockDevice,
    slot: u32,
    labelled_sectors: u64,
) -> Result<Slot, IoError> {
    match device.read(slot_range(slot, labelled_sectors)).await {
        Ok(read) => Ok(Slot::parse(&read.value, slot)),
        Err(IoError::Lost) => Err(IoError::Lost),
        Err(_) => Ok(Slot::Damaged),
    }
}

impl Shared {
    /// Gives the device an operation whose turn has come.
    fn start(self: Rc<Self>, operation: Operation, passing: Passing, done: Done) {
        let (range, changes) = (operation.range(), operation.changes_sectors());
        if let Some(error) = changes.then(|| self.refusal(range)).flatten() {
            return done(Err(error));
        }
        let is_flush = matches!(operation, Operation::Flush(_));
        let operation = match operation {
            Operation::Flush(instance) if instance != self.instance() => {
                return done(self.note_flush(Err(IoError::Restarted { now: self.instance() })));
            }
            Operation::Flush(_) => Operation::Flush(self.device_instance.get()),
            other => other,
        };
        let device = self.device();
        let labels = (changes && self.may_change_labels(range)).then(|| Rc::clone(&device));
        let told = move |outcome| {
            let Some(device) = labels else { return self.end(outcome, is_flush, passing, done) };
            let handle = self.handle.clone();
            handle.spawn(async move {
                // Whether or not the change went well: something may be there. And whether or not this
                // does: what can't be read tells nothing.
                let _unread = self.read_labels(&*device).await;
                self.end(outcome, is_flush, passing, done);
            });
        };
        device.submit(operation, Box::new(told));
    }

    fn end(&self, outcome: Outcome, is_flush: bool, passing: Passing, done: Done) {
        drop(passing);
        let outcome = self.translate(outcome);
        done(if is_flush { self.note_flush(outcome) } else { outcome });
    }
}

impl BlockDevice for FencedDevice {
    fn geometry(&self) -> Geometry {
        self.shared.device().geometry()
    }

    fn submit(&self, operation: Operation, done: Done) {
        let shared = Rc::clone(&self.shared);
        match operation {
            Operation::Claim(claim) => self.shared.gate.barrier(async move {
                let claimed = shared.claim(claim).await;
                done(
                    claimed
                        .map(|holder| Completion::new(shared.instance(), Answer::Holder(holder))),
                );
            }),
            Operation::Renew => done(match self.ownership() {
                Ownership::Unreadable => {
                    Err(IoError::Refused(RefusalReason::ReservationUnreadable))
                }
                ownership => {
                    Ok(Completion::new(self.instance(), Answer::Holder(ownership.holder())))
                }
            }),
            operation => {
                self.shared.gate.pass(move |passing| shared.start(operation, passing, done));
            }
        }
    }

    fn try_submit(&self, operation: Operation<&[u8]>) -> Option<Completion<Answer>> {
        let (shared, range) = (&self.shared, operation.range());
        let is_guarded = operation.changes_sectors()
            && (shared.refusal(range).is_some() || shared.may_change_labels(range));
        if !operation.has_range() || is_guarded || shared.gate.is_closed() {
            return None;
        }
        let done = shared.device.borrow().try_submit(operation)?;
        shared.translate(Ok(done)).ok()
    }

    fn next_event(&self) -> LocalBoxFuture<'static, DeviceEvent> {
        self.shared.device().next_event()
    }
}

#[cfg(test)]
mod tests;
