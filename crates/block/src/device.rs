//! The trait that everything with sectors implements.

use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{Either, LocalBoxFuture, join_all};
use futures::{FutureExt, TryFutureExt};

use crate::{
    Answer, BLOCK_BYTES, Buffer, BufferMut, Done, DriveHealth, Epoch, Instance, IoError, Lba,
    Operation, OwnerId, SECTOR_BYTES, SectorRange,
};

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

    /// The same instance's answer in another form.
    pub fn map<U>(self, form: impl FnOnce(T) -> U) -> Completion<U> {
        Completion::new(self.instance, form(self.value))
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

/// Size and block limits of a device.
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

/// Who claims a medium, and under which epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The claimer's epoch; not [`Epoch::OBSERVER`].
    pub epoch: Epoch,
    /// The claimer.
    pub owner: OwnerId,
    /// Claim a medium even if it carries something that isn't etherpool's (`--force-disk`), or an
    /// ownership that can't be read any more.
    pub force: bool,
    /// Whom the medium obeys from then on.
    pub trust: Trust,
}

impl Claim {
    /// The claim of `owner` under `epoch`, without force, of a medium that obeys whomever it obeys.
    pub fn new(epoch: Epoch, owner: OwnerId) -> Claim {
        Claim { epoch, owner, force: false, trust: Trust::Unchanged }
    }

    /// The same for whoever hears of it once more: force was for the contents that were there, and whom it obeys the
    /// medium that was meant knows. Another one may be in its place.
    pub fn to_repeat(self) -> Claim {
        Claim { force: false, trust: Trust::Unchanged, ..self }
    }
}

/// What a claim says of whom its medium obeys: of its grant, which to this crate is nothing but bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Whomever it obeys.
    #[default]
    Unchanged,
    /// This grant, if it follows the one that it has; of a medium that has none in any case.
    Follow(Buffer),
    /// This grant, whatever it has: another pool begins.
    Replace(Buffer),
    /// Nobody: any claim will do.
    Forget,
}

/// Who holds a medium, as its server has it on record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Highest epoch ever accepted; [`Epoch::OBSERVER`] when nobody has claimed the medium yet.
    pub epoch: Epoch,
    /// Who brought that epoch.
    pub owner: OwnerId,
    /// How long before the answer the server last heard a request under that epoch: an owner that
    /// lives is heard every two seconds by the disks that hold its votes. `None`: not since the server began to serve the
    /// medium. In the answer to a claim: how long before it whoever held the medium until then was heard.
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
/// they were submitted. A buffer belongs to its operation until that is answered. Ranges and buffers are
/// whole sectors, those with data at most [`Geometry::max_transfer_bytes`] long; what lies beyond the end is
/// [`IoError::OutOfRange`], never a panic.
pub trait BlockDevice {
    /// Size and block limits, as last known.
    fn geometry(&self) -> Geometry;

    /// Begins `operation`; `done` is called at its end, perhaps before this returns. Of a device
    /// that goes away `done` may be dropped instead.
    ///
    /// A flush fails with [`IoError::Restarted`] when another instance answers than the one it is for,
    /// and with [`IoError::FlushFailed`] for good once a write-back failed.
    ///
    /// A claim is answered when the medium's server has recorded the epoch on the medium, and has
    /// completed and flushed all that it accepted before; it refuses lower epochs from then on. Every
    /// later operation carries the epoch, also after a reconnection. A renewal's success means that the
    /// claimed epoch was the highest at a moment between call and answer: it renews the lease. A device
    /// that can't be claimed answers both with [`IoError::Unsupported`].
    fn submit(&self, operation: Operation, done: Done);

    /// Does `operation` if that needs no waiting, in order with those submitted before; a write is
    /// volatile, whatever it says. `None` tells nothing: it is to be submitted then, also where part of it
    /// has been done or has failed. (What Linux calls `NOWAIT`.)
    fn try_submit(&self, operation: Operation<&[u8]>) -> Option<Completion<Answer>> {
        let _ = operation;
        None
    }

    /// Gives the claim up: every later operation is an observer's again. For who was deposed, since
    /// under the epoch that it had it would be refused even a look at who owns the medium now. The
    /// server's record stays as it is.
    fn disown(&self) {}

    /// Whether an observer's reads are of everything on a medium whose owner is silent, not only of what
    /// every medium shows: for who reads what an owner that died has left, and changes nothing. While the owner is
    /// heard such reads are refused ([`RefusalReason::Owned`](crate::RefusalReason)) like any others.
    fn look_inside(&self, looks: bool) {
        let _ = looks;
    }

    /// The next hint; pending for ever on a device that never has one. One listener at a time.
    fn next_event(&self) -> LocalBoxFuture<'static, DeviceEvent> {
        futures::future::pending().boxed_local()
    }

    /// Reads `range`. This and the following submit when they are called, not when they are first polled.
    fn read(&self, range: SectorRange) -> IoFuture<'static, Buffer> {
        submitted(self, Operation::Read(range), |answer| match answer {
            Answer::Data(data) => Some(data),
            _ => None,
        })
    }

    /// Writes `data` from `start` on.
    fn write(&self, start: Lba, data: Buffer, durability: Durability) -> IoFuture<'static, ()> {
        submitted(self, Operation::Write { start, data, durability }, nothing)
    }

    /// Makes durable all writes that `instance` answered before this call.
    fn flush(&self, instance: Instance) -> IoFuture<'static, ()> {
        submitted(self, Operation::Flush(instance), nothing)
    }

    /// Tells that the contents of `range` don't matter any more.
    fn discard(&self, range: SectorRange) -> IoFuture<'static, ()> {
        submitted(self, Operation::Discard(range), nothing)
    }

    /// Makes `range` read as zeros.
    fn write_zeroes(&self, range: SectorRange, durability: Durability) -> IoFuture<'static, ()> {
        submitted(self, Operation::WriteZeroes { range, durability }, nothing)
    }

    /// Claims the medium.
    fn claim(&self, claim: Claim) -> IoFuture<'static, Holder> {
        submitted(self, Operation::Claim(claim), holder)
    }

    /// Asks whether the claimed epoch still is the highest.
    fn renew(&self) -> IoFuture<'static, Holder> {
        submitted(self, Operation::Renew, holder)
    }

    /// Asks how the drive is, as its machine knows. [`IoError::Unsupported`] where that isn't known.
    fn health(&self) -> IoFuture<'static, DriveHealth> {
        submitted(self, Operation::AskHealth, |answer| match answer {
            Answer::Health(health) => Some(*health),
            _ => None,
        })
    }
}

fn submitted<T: 'static>(
    device: &(impl BlockDevice + ?Sized),
    operation: Operation,
    value: fn(Answer) -> Option<T>,
) -> IoFuture<'static, T> {
    let (sender, receiver) = oneshot::channel();
    // Whoever asked may have gone away.
    device.submit(operation, Box::new(move |outcome| drop(sender.send(outcome))));
    async move {
        let Completion { instance, value: answer } =
            receiver.await.unwrap_or(Err(IoError::Lost))?;
        // What was answered to another question is no answer.
        Ok(Completion::new(instance, value(answer).ok_or(IoError::Unsupported)?))
    }
    .boxed_local()
}

fn nothing(answer: Answer) -> Option<()> {
    (answer == Answer::Done).then_some(())
}

fn holder(answer: Answer) -> Option<Holder> {
    match answer {
        Answer::Holder(holder) => Some(holder),
        _ => None,
    }
}

/// Reads `sectors` from `start`, in parallel pieces, all asked for before this returns.
pub fn read_run(
    device: &dyn BlockDevice,
    start: Lba,
    sectors: u64,
) -> impl Future<Output = Result<Buffer, IoError>> + use<> {
    read_seen(device, start, sectors).map_ok(|seen| seen.value)
}

/// The same, with the instance that answered: one, otherwise `Restarted`.
pub fn read_seen(
    device: &dyn BlockDevice,
    start: Lba,
    sectors: u64,
) -> impl Future<Output = Result<Completion<Buffer>, IoError>> + use<> {
    let range = SectorRange::new(start, sectors);
    let has_length = |(range, data): (SectorRange, &Buffer)| data.len() as u64 == range.len_bytes();
    // A device that answers with another length than asked for has not read this range.
    let wrong_length = Err(IoError::Medium(range));
    let most = most_sectors(device);
    if sectors <= most {
        let checked = move |seen: Completion<Buffer>| {
            if has_length((range, &seen.value)) { Ok(seen) } else { wrong_length }
        };
        return Either::Left(device.read(range).map(|seen| seen.and_then(checked)));
    }
    let pieces = range.pieces(most);
    let reads: Vec<_> = pieces.clone().map(|piece| device.read(piece)).collect();
    Either::Right(async move {
        let Completion { instance, value: read, .. } = of_one_instance(join_all(reads).await)?;
        if !pieces.zip(&read).all(has_length) {
            return wrong_length;
        }
        let mut whole = BufferMut::for_overwriting(range.len_bytes() as usize);
        let mut rest = &mut whole[..];
        for data in &read {
            let (piece, after) = rest.split_at_mut(data.len());
            piece.copy_from_slice(data);
            rest = after;
        }
        Ok(Completion::new(instance, whole.freeze()))
    })
}

/// Writes `data` from `start`, in parallel pieces, all asked for before this returns and answered by one
/// instance: otherwise `Restarted`, since what the earlier one took may be gone.
pub fn write_run(
    device: &dyn BlockDevice,
    start: Lba,
    data: Buffer,
    durability: Durability,
) -> impl Future<Output = Result<Completion<()>, IoError>> + use<> {
    let range = SectorRange::new(start, (data.len() / SECTOR_BYTES) as u64);
    let most = most_sectors(device);
    if range.count <= most {
        return Either::Left(device.write(start, data, durability));
    }
    let writes = range.pieces(most).map(|piece| {
        let offset = (piece.start.0 - start.0) as usize * SECTOR_BYTES;
        let data = data.slice(offset, offset + piece.len_bytes() as usize);
        device.write(piece.start, data, durability)
    });
    let writes = join_all(writes.collect::<Vec<_>>());
    Either::Right(
        writes.map(|written| of_one_instance(written).map(|all| Completion::new(all.instance, ()))),
    )
}

/// What all pieces brought, if all of them were done under one instance.
fn of_one_instance<T>(
    pieces: Vec<Result<Completion<T>, IoError>>,
) -> Result<Completion<Vec<T>>, IoError> {
    let mut values = Vec::with_capacity(pieces.len());
    let mut instance: Option<Instance> = None;
    for piece in pieces {
        let Completion { instance: now, value, .. } = piece?;
        if instance.is_some_and(|instance| instance != now) {
            return Err(IoError::Restarted { now });
        }
        instance = Some(now);
        values.push(value);
    }
    Ok(Completion::new(instance.unwrap_or_default(), values))
}

/// As [`write_run`], durable.
pub fn write_durably(
    device: &dyn BlockDevice,
    start: Lba,
    data: Buffer,
) -> impl Future<Output = Result<Completion<()>, IoError>> + use<> {
    write_run(device, start, data, Durability::Durable)
}

/// Sectors of the longest operation that a device takes, in whole blocks.
pub fn most_sectors(device: &dyn BlockDevice) -> u64 {
    let bytes = device.geometry().max_transfer_bytes as usize;
    ((bytes - bytes % BLOCK_BYTES).max(BLOCK_BYTES) / SECTOR_BYTES) as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::MemoryDevice;
    use futures::FutureExt;

    use super::*;

    #[test]
    fn long_runs_go_in_pieces_and_come_back_whole() {
        let device = MemoryDevice::new(8192);
        let data: Vec<u8> = (0..3 << 20).map(|i| (i / 4096 % 251) as u8).collect();
        let data = Buffer::copy_of(&data);
        write_run(&device, Lba(8), data.clone(), Durability::Durable)
            .now_or_never()
            .unwrap()
            .unwrap();
        let read = |start, count| read_run(&device, start, count).now_or_never().unwrap();
        assert_eq!(read(Lba(8), 6144).unwrap(), data);
        assert!(read(Lba(8000), 6144).is_err());
    }
}
