//! The trait that everything with sectors implements.

use std::time::Duration;

use futures::future::LocalBoxFuture;

use crate::{Buffer, Epoch, Instance, IoError, Lba, OwnerId, SECTOR_BYTES, SectorRange};

/// The future of an operation. Dropping it doesn't undo the operation: a write may still happen.
pub type IoFuture<'a, T> = LocalBoxFuture<'a, Result<Completion<T>, IoError>>;

/// What a device answered, with the instance that answered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion<T> {
    /// The instance that did the work.
    pub instance: Instance,
    /// The answer.
    pub value: T,
}

impl<T> Completion<T> {
    /// `value`, answered by `instance`.
    pub fn new(instance: Instance, value: T) -> Completion<T> {
        Completion { instance, value }
    }
}

/// When a write may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// At once; durable only after a completed flush of the same instance.
    Volatile,
    /// When it is on stable storage (FUA).
    Durable,
}

/// How much a device's word is worth (design section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DurabilityClass {
    /// A device that may acknowledge from a volatile cache and ignore flush.
    Unknown,
    /// The operator states that it acknowledges only what is stable.
    Declared,
    /// Our own session or a local medium: promises hold in full.
    Durable,
}

/// Size and habits of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// Smallest write that causes no read-modify-write inside the medium, in bytes.
    pub physical_block_bytes: u32,
    /// Largest transfer that one operation may carry, in bytes; a multiple of 4 KiB. Callers split.
    pub max_transfer_bytes: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// What its acknowledgements are worth.
    pub class: DurabilityClass,
}

/// Sectors to be moved.
#[derive(Clone, Debug)]
pub enum Transfer {
    /// From the device.
    Read(SectorRange),
    /// To the device.
    Write {
        /// First sector.
        start: Lba,
        /// Whole sectors.
        data: Buffer,
        /// When to answer.
        durability: Durability,
    },
}

impl Transfer {
    /// Which sectors.
    pub fn range(&self) -> SectorRange {
        match self {
            Transfer::Read(range) => *range,
            Transfer::Write { start, data, .. } => {
                SectorRange::new(*start, (data.len() / SECTOR_BYTES) as u64)
            }
        }
    }
}

/// Told what became of a transfer: the data of a read, no bytes for a write.
pub type TransferDone = Box<dyn FnOnce(Result<Completion<Buffer>, IoError>)>;

/// Who claims a medium, and under which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The claimer's epoch; not [`Epoch::OBSERVER`].
    pub epoch: Epoch,
    /// The claimer.
    pub owner: OwnerId,
    /// Claim a medium even if it carries something that isn't etherpool's (`--force-disk`), or an
    /// ownership that can't be read any more.
    pub force: bool,
}

/// Who holds a medium, as its server has it on record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Highest epoch ever accepted; [`Epoch::OBSERVER`] when nobody has claimed the medium yet.
    pub epoch: Epoch,
    /// Who brought that epoch.
    pub owner: OwnerId,
    /// How long before the answer the server last heard a request under that epoch: an owner that
    /// lives is heard every two seconds by the disks that hold its votes. `None`: not since the server began to serve the medium.
    pub heard: Option<Duration>,
}

impl Holder {
    /// `owner` under `epoch`, never heard.
    pub fn new(epoch: Epoch, owner: OwnerId) -> Holder {
        Holder { epoch, owner, heard: None }
    }

    /// Whether both name the same owner under the same epoch, whenever each was heard.
    pub fn is_same(self, other: Holder) -> bool {
        (self.epoch, self.owner) == (other.epoch, other.owner)
    }
}

/// A hint that something about a device changed. Hints may be lost or late; completions and their
/// instances are what counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// It answers again, or for the first time, under this instance.
    Back(Instance),
    /// It does not answer.
    Lost,
    /// Its size changed.
    Resized,
}

/// A device with sectors.
///
/// Operations may be issued concurrently. Overlapping operations are executed in the order in which
/// they were issued (the order of the calls, not of the first polls: an implementation queues the
/// operation before it returns the future). A buffer belongs to its operation until that completes.
///
/// Ranges and buffers are whole sectors, at most [`Geometry::max_transfer_bytes`] long; what lies
/// beyond the end is [`IoError::OutOfRange`], never a panic.
pub trait BlockDevice {
    /// Size and habits, as last known.
    fn geometry(&self) -> Geometry;

    /// Reads `range`.
    fn read(&self, range: SectorRange) -> IoFuture<'static, Buffer>;

    /// Reads `range` if the answer is at hand: without waiting, and in order with the operations
    /// issued before. `None` tells nothing about the range.
    fn read_at_once(&self, range: SectorRange) -> Option<Completion<Buffer>> {
        let _ = range;
        None
    }

    /// Writes `data` from `start` on, volatile, if that needs no waiting, and in order with the
    /// operations issued before. `None` tells nothing: to be written the ordinary way then, also where
    /// part of it has been written or has failed.
    fn write_at_once(&self, start: Lba, data: &[u8]) -> Option<Completion<()>> {
        let _ = (start, data);
        None
    }

    /// Whether [`BlockDevice::begin`] takes this transfer now; else it goes the ordinary way.
    fn begins(&self, transfer: &Transfer) -> bool {
        let _ = transfer;
        false
    }

    /// Begins a transfer that [`BlockDevice::begins`] has just agreed to. As [`BlockDevice::read`] and
    /// [`BlockDevice::write`], but its end is told by a call, perhaps before this returns: for those
    /// who have many under way, since a future and its task cost more than the transfer.
    fn begin(&self, transfer: Transfer, done: TransferDone) {
        drop(transfer);
        done(Err(IoError::Unsupported));
    }

    /// Writes `data` from `start` on.
    fn write(&self, start: Lba, data: Buffer, durability: Durability) -> IoFuture<'static, ()>;

    /// Makes durable all writes that `instance` answered before this call. Fails with
    /// [`IoError::Restarted`] when another instance answers, and with [`IoError::FlushFailed`] for
    /// every later call once a write-back failed.
    fn flush(&self, instance: Instance) -> IoFuture<'static, ()>;

    /// Tells that the contents of `range` don't matter any more. What is read afterwards is
    /// undefined until written.
    fn discard(&self, range: SectorRange) -> IoFuture<'static, ()>;

    /// Makes `range` read as zeros.
    fn write_zeroes(&self, range: SectorRange, durability: Durability) -> IoFuture<'static, ()>;

    /// Claims the medium: its server records the epoch on the medium before it answers, has
    /// completed and flushed all that it accepted before, and refuses lower epochs from then on.
    /// Every later operation of this device carries the epoch, also after a reconnection.
    ///
    /// A device without that ability answers [`IoError::Unsupported`].
    fn claim(&self, claim: Claim) -> IoFuture<'static, Holder>;

    /// Asks the server whether the claimed epoch still is the highest: success means that it was at
    /// a moment between call and answer. The lease is renewed by this.
    fn renew(&self) -> IoFuture<'static, Holder>;

    /// Gives the claim up: every later operation is an observer's again. For who was deposed, since
    /// under the epoch that it had it would be refused even a look at who owns the medium now. The
    /// server's record stays as it is.
    fn disown(&self) {}

    /// The next hint; pending for ever on a device that never has one. One listener at a time.
    fn next_event(&self) -> LocalBoxFuture<'static, DeviceEvent>;
}
