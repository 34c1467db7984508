//! A regular file or a block device as a [`BlockDevice`], through io_uring.
//!
//! Promises: exclusive use, overlapping operations in the order of their calls, no acknowledgement
//! of a durable write before stable storage has it, and no flush that succeeds after one failed.
//! Claims are another layer's: `aoe_target` keeps epochs on the medium.
//!
//! Durable writes of 4 KiB at random, direct, on a file on ext4 over a virtio disk whose flush is
//! cheap (2 s per run, best of three, sparse and grouped: one run, two cores with foreign load; single runs
//! at depth 1 vary between 270/s and 10,000/s with that load, so only ratios of CPU time are worth much):
//!
//! | file | depth | each with RWF_DSYNC | then one sync for all that wait |
//! |---|---|---|---|
//! | written before | 1 | 10.0 k/s, 18 us CPU each | 9.5 k/s, 68 us |
//! | written before | 32 | 32.7 k/s, 9 us | 28.5 k/s, 15 us |
//! | sparse | 1 | 0.3 k/s, 53 us | 0.4 k/s, 117 us |
//! | sparse | 32 | 13.3 k/s, 21 us | 5.4 k/s, 52 us |
//!
//! So past the page cache each is durable on its own.

mod calls;
mod errors;
mod here;
mod open;
mod operations;
mod reference;
mod sync;
mod writer;

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use block::{
    Access, Answer, BlockDevice, Completion, DeviceEvent, Done, DurabilityClass, Geometry,
    Instance, IoError, Lba, Line, Operation, SECTOR_BYTES, SectorRange,
};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use runtime::{EventQueue, Semaphore};

pub use open::{FileOptions, OpenError};
pub use reference::FileReference;

use crate::reactor::ReactorHandle;
use here::Here;
use sync::SyncGroup;
use writer::Writer;

/// Largest transfer of one operation.
const TRANSFER_MAX_BYTES: u32 = 1 << 20;
/// Requests in the kernel's hands at once.
const DEPTH_MAX: usize = 128;
/// Hints that wait for a listener; more would say nothing new.
const EVENTS_MAX: usize = 8;

/// A file or block device.
pub struct FileDevice {
    shared: Rc<Shared>,
}

struct Shared {
    path: PathBuf,
    handle: ReactorHandle,
    fd: Rc<OwnedFd>,
    /// The same descriptor with the standard library's methods.
    file: File,
    is_block_device: bool,
    direct: bool,
    /// Whether writes through the page cache are done at once.
    here: Here,
    /// For those that are not; started by the first.
    writer: OnceCell<Writer>,
    alignment_bytes: u32,
    geometry: Cell<Geometry>,
    instance: Instance,
    /// io_uring starts requests in whatever order suits it: one goes there when it has its turn.
    line: Rc<Line>,
    syncs: Rc<SyncGroup>,
    /// The right to discard on a block device, which blocks a thread.
    discards: Rc<Semaphore>,
    /// Whether the file system once refused to zero or punch a range.
    can_zero: Cell<bool>,
    events: EventQueue<DeviceEvent, EVENTS_MAX>,
}

impl FileDevice {
    /// Opens `path` under a new instance. Opening may block, with a dead disk for good.
    pub fn open(
        handle: &ReactorHandle,
        path: &Path,
        options: FileOptions,
    ) -> Result<FileDevice, OpenError> {
        FileDevice::take(handle, path, open::open(path, options)?)
    }

    /// The same on another thread, so that a disk that hangs holds up nobody but the caller.
    pub async fn open_apart(
        handle: &ReactorHandle,
        path: &Path,
        options: FileOptions,
    ) -> Result<FileDevice, OpenError> {
        let named = path.to_owned();
        let opened = handle.blocking(move || open::open(&named, options)).await;
        let system = |error| OpenError::System { path: path.to_owned(), error };
        FileDevice::take(handle, path, opened.map_err(system)??)
    }

    fn take(
        handle: &ReactorHandle,
        path: &Path,
        medium: open::Medium,
    ) -> Result<FileDevice, OpenError> {
        let system = |error| OpenError::System { path: path.to_owned(), error };
        let size_bytes = open::size_bytes(&medium.file, medium.is_block_device).map_err(system)?;
        let instance = Instance(crate::sys::random_u64().map_err(system)?.max(1));
        let fd: Rc<OwnedFd> = Rc::new(medium.file.as_fd().try_clone_to_owned().map_err(system)?);
        let name = path.display().to_string();
        let shared = Shared {
            path: path.to_owned(),
            handle: handle.clone(),
            syncs: SyncGroup::new(handle.clone(), Rc::clone(&fd), name),
            fd,
            is_block_device: medium.is_block_device,
            direct: medium.direct,
            here: Here::new(medium.place),
            writer: OnceCell::new(),
            alignment_bytes: medium.alignment_bytes,
            geometry: Cell::new(Geometry {
                sectors: size_bytes / SECTOR_BYTES as u64,
                physical_block_bytes: medium.physical_block_bytes,
                max_transfer_bytes: TRANSFER_MAX_BYTES,
                read_only: medium.read_only,
                class: DurabilityClass::Durable,
            }),
            file: medium.file,
            instance,
            line: Line::new(DEPTH_MAX),
            discards: Semaphore::new(1),
            can_zero: Cell::new(true),
            events: EventQueue::default(),
        };
        Ok(FileDevice { shared: Rc::new(shared) })
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The instance that this opening began.
    pub fn instance(&self) -> Instance {
        self.shared.instance
    }

    /// Whether requests go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.shared.direct
    }

    /// Another hold on the open file, for calls that may hang with the disk.
    pub fn reference(&self) -> io::Result<FileReference> {
        Ok(FileReference::new(self.shared.file.try_clone()?, self.shared.is_block_device))
    }

    /// Takes note of a size that was looked at elsewhere; true when it changed, which is also told as
    /// an event.
    pub fn note_size(&self, bytes: u64) -> bool {
        self.shared.note_size(bytes)
    }

    /// Looks at the size again; true when it changed, which is also told as an event.
    pub fn refresh(&self) -> io::Result<bool> {
        self.shared.refresh()
    }

    /// Queues `operation` now and runs it in a task.
    fn run(&self, operation: Operation, done: Done) {
        if let Err(error) = self.shared.validate(&operation) {
            return done(Err(error));
        }
        let shared = Rc::clone(&self.shared);
        let range = shared.widened(operation.range());
        let place = shared.line.enter(access(range, operation.changes_sectors()));
        self.shared.handle.runtime().spawn(async move {
            place.turn().await;
            let result = shared.carry_out(operation).await;
            drop(place);
            done(result.map(|answer| Completion::new(shared.instance, answer)));
        });
    }

    fn sync(&self, instance: Instance, done: Done) {
        if instance != self.shared.instance {
            return done(Err(IoError::Restarted { now: self.shared.instance }));
        }
        // The sync must begin after this call and not later than a successor's, so it is asked for
        // now; writes answered before have left the queue.
        let syncs = Rc::clone(&self.shared.syncs);
        let mut sync = async move { syncs.sync().await }.boxed_local();
        let end = move |result: Result<(), IoError>| {
            done(result.map(|()| Completion::new(instance, Answer::Done)));
        };
        match (&mut sync).now_or_never() {
            Some(result) => end(result),
            None => self.shared.handle.runtime().spawn(async move { end(sync.await) }),
        }
    }
}

fn access(range: SectorRange, writes: bool) -> Access {
    if writes { Access::Write(range) } else { Access::Read(range) }
}

impl Shared {
    /// Performs an operation whose turn has come, and tells when the medium turns out to be gone.
    async fn carry_out(&self, operation: Operation) -> Result<Answer, IoError> {
        let result = self.perform(operation).await;
        if result == Err(IoError::Lost) {
            self.announce(DeviceEvent::Lost);
        }
        result
    }

    fn validate(&self, operation: &Operation) -> Result<(), IoError> {
        let (range, geometry) = (operation.range(), self.geometry.get());
        if operation.changes_sectors() && geometry.read_only {
            return Err(IoError::ReadOnly);
        }
        let fits = || range.fits(self.geometry.get().sectors);
        // A file that grew is noticed when somebody needs it.
        let on_device = fits() || (matches!(self.refresh(), Ok(true)) && fits());
        if !on_device {
            return Err(IoError::OutOfRange(range));
        }
        let transfers = matches!(operation, Operation::Read(_) | Operation::Write { .. });
        if transfers && range.len_bytes() > u64::from(geometry.max_transfer_bytes) {
            return Err(IoError::Unsupported);
        }
        if let Operation::Write { data, .. } = operation
            && data.len() as u64 != range.len_bytes()
        {
            return Err(IoError::Unsupported);
        }
        Ok(())
    }

    /// The range that an operation touches on a medium whose blocks are larger than a sector.
    fn widened(&self, range: SectorRange) -> SectorRange {
        let unit = (u64::from(self.alignment_bytes) / SECTOR_BYTES as u64).max(1);
        let start = range.start.0 / unit * unit;
        let end = range.end().0.div_ceil(unit).saturating_mul(unit);
        SectorRange::new(Lba(start), end.saturating_sub(start))
    }

    fn refresh(&self) -> io::Result<bool> {
        Ok(self.note_size(open::size_bytes(&self.file, self.is_block_device)?))
    }

    fn note_size(&self, bytes: u64) -> bool {
        let mut geometry = self.geometry.get();
        let sectors = bytes / SECTOR_BYTES as u64;
        let changed = sectors != geometry.sectors;
        if changed {
            geometry.sectors = sectors;
            self.geometry.set(geometry);
            self.announce(DeviceEvent::Resized);
        }
        changed
    }

    fn announce(&self, event: DeviceEvent) {
        self.events.push(event);
    }
}

impl BlockDevice for FileDevice {
    fn geometry(&self) -> Geometry {
        self.shared.geometry.get()
    }

    fn submit(&self, operation: Operation, done: Done) {
        match operation {
            Operation::Flush(instance) => self.sync(instance, done),
            operation if operation.is_of_server() => done(Err(IoError::Unsupported)),
            operation if self.shared.is_one_call(&operation) => {
                calls::begin(&self.shared, operation, done);
            }
            operation => self.run(operation, done),
        }
    }

    fn try_submit(&self, operation: Operation<&[u8]>) -> Option<Completion<Answer>> {
        let range = operation.range();
        let answer = match operation {
            Operation::Read(_) => Answer::Data(self.shared.read_cached(range)?),
            Operation::Write { data, .. } if self.shared.write_cached(range, data) => Answer::Done,
            _ => return None,
        };
        Some(Completion::new(self.shared.instance, answer))
    }

    fn next_event(&self) -> LocalBoxFuture<'static, DeviceEvent> {
        let shared = Rc::clone(&self.shared);
        async move { shared.events.next().await }.boxed_local()
    }
}

#[cfg(test)]
mod tests;
