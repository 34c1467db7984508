//! What one operation on a file consists of: alignment, short transfers, fallbacks. Runs when the
//! order queue has let it.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use block::{
    Access, Answer, Buffer, BufferMut, Durability, IoError, Lba, Operation, SECTOR_BYTES,
    SectorRange,
};

use super::Shared;
use super::errors::translate;
use super::open;
use super::writer::{self, Writer};
use crate::reactor::Part;
use crate::sys::boot_time;

/// Bytes of zeros written at once where the file system can't zero a range itself.
const ZERO_CHUNK_BYTES: u64 = 1 << 20;

impl Shared {
    /// Performs an operation on sectors.
    pub(super) async fn perform(&self, operation: Operation) -> Result<Answer, IoError> {
        let range = operation.range();
        match operation {
            Operation::Read(_) if range.count == 0 => return Ok(Answer::Data(Buffer::empty())),
            _ if range.count == 0 => {}
            Operation::Read(_) => return self.read_range(range).await.map(Answer::Data),
            Operation::Write { data, durability, .. } => {
                self.write_range(range, data, durability).await?;
            }
            Operation::Discard(_) => self.discard_range(range).await?,
            Operation::WriteZeroes { durability, .. } => {
                self.zero_range(range).await?;
                if durability == Durability::Durable {
                    self.syncs.sync().await?;
                }
            }
            Operation::Flush(_) | Operation::Claim(_) | Operation::Renew | Operation::AskHealth => {
                return Err(IoError::Unsupported);
            }
        }
        Ok(Answer::Done)
    }

    /// What the page cache has of `range`, if it has all of it and nothing earlier is to come first.
    pub(super) fn read_cached(&self, range: SectorRange) -> Option<Buffer> {
        if self.direct
            || !range.fits(self.geometry.get().sectors)
            || self.line.holds_up(Access::Read(range))
        {
            return None;
        }
        let mut buffer = BufferMut::for_overwriting(range.len_bytes() as usize);
        let offset_bytes = range.start.byte_offset();
        let flags = if self.here.is_memory() { 0 } else { libc::RWF_NOWAIT };
        let read = crate::sys::read_with(self.fd.as_fd(), &mut buffer, offset_bytes, flags);
        // Part of it may be all that is cached, or all that there is.
        matches!(read, Ok(len) if len == buffer.len()).then(|| buffer.freeze())
    }

    /// Writes `data` to the page cache if that may be done here and now; whether all of it was.
    pub(super) fn write_cached(&self, range: SectorRange, data: &[u8]) -> bool {
        !self.direct
            && self.may_write_here()
            && self.takes_data(range, data)
            && self.is_whole(range)
            && !self.line.holds_up(Access::Write(range))
            && self
                .write_here(data, range.start.byte_offset())
                .is_ok_and(|written| written as usize == data.len())
    }

    /// Whether a range is on the device, and one transfer of whole blocks.
    pub(super) fn is_whole(&self, range: SectorRange) -> bool {
        let geometry = self.geometry.get();
        range.count > 0
            && range.fits(geometry.sectors)
            && range.len_bytes() <= u64::from(geometry.max_transfer_bytes)
            && self.widened(range) == range
    }

    /// Whether the device can be written at all, and these are the range's data.
    pub(super) fn takes_data(&self, range: SectorRange, data: &[u8]) -> bool {
        !self.geometry.get().read_only
            && !self.syncs.has_failed()
            && data.len() as u64 == range.len_bytes()
    }

    async fn read_range(&self, range: SectorRange) -> Result<Buffer, IoError> {
        let wide = self.widened(range);
        let data = self.read_aligned(wide, range).await?;
        let skip = ((range.start.0 - wide.start.0) as usize) * SECTOR_BYTES;
        Ok(data.slice(skip, skip + range.len_bytes() as usize))
    }

    /// Reads `wide`; `asked` is what errors are about.
    async fn read_aligned(&self, wide: SectorRange, asked: SectorRange) -> Result<Buffer, IoError> {
        let offset_bytes = wide.start.byte_offset();
        let mut buffer = BufferMut::zeroed(wide.len_bytes() as usize);
        let mut done = 0;
        while done < buffer.len() {
            let part = Part { start: done, offset_bytes: offset_bytes + done as u64 };
            let (result, (back, _)) = self.handle.read_at(Rc::clone(&self.fd), buffer, part).await;
            buffer = back;
            match result {
                Ok(0) => {
                    // The end came earlier than the size said: the file shrank.
                    let sectors_done = (done / SECTOR_BYTES) as u64;
                    if wide.start.0 + sectors_done >= asked.end().0 {
                        break;
                    }
                    if let Err(error) = self.refresh() {
                        return Err(translate(&error, asked));
                    }
                    return Err(IoError::OutOfRange(asked));
                }
                Ok(len) => {
                    let reached = wide.start.byte_offset() + (done + len as usize) as u64;
                    if reached >= asked.end().byte_offset() {
                        break;
                    }
                    // Direct I/O goes on at an aligned place only.
                    done = self.aligned_progress(done, len as usize, buffer.len());
                }
                Err(error) if is_interruption(&error) => {}
                Err(error) => return Err(translate(&error, asked)),
            }
        }
        Ok(buffer.freeze())
    }

    /// Whether a write is made durable by its own request, not by a sync that others share.
    ///
    /// Through the page cache RWF_DSYNC would also report, and thereby use up, a failed write-back
    /// of writes that were answered before: no space can mean "this write" (nothing was
    /// promised) or "an earlier one" (a promise is broken). Write and sync apart, each failure has
    /// one meaning.
    pub(super) fn is_synced_alone(&self, durability: Durability) -> bool {
        durability == Durability::Durable && self.direct
    }

    /// The `RWF_*` flags of a write.
    pub(super) fn write_flags(&self, durability: Durability) -> i32 {
        if self.is_synced_alone(durability) { libc::RWF_DSYNC } else { 0 }
    }

    async fn write_range(
        &self,
        range: SectorRange,
        data: Buffer,
        durability: Durability,
    ) -> Result<(), IoError> {
        if durability == Durability::Durable && self.syncs.has_failed() {
            return Err(IoError::FlushFailed);
        }
        let alone = self.is_synced_alone(durability);
        let (wide, data) = self.fit_to_blocks(range, data).await?;
        self.write_aligned(wide, data, self.write_flags(durability), range).await?;
        if durability == Durability::Durable && !alone {
            self.syncs.sync().await?;
        }
        Ok(())
    }

    /// Data as the medium takes it: at an aligned address, and filled up with what lies around it
    /// when the medium's blocks are larger than the range. The order queue keeps neighbours out.
    async fn fit_to_blocks(
        &self,
        range: SectorRange,
        data: Buffer,
    ) -> Result<(SectorRange, Buffer), IoError> {
        let wide = self.widened(range);
        if wide != range {
            // All that exists of it must be read: what a short read leaves out would be written back
            // as zeros.
            let end = wide.end().0.min(self.geometry.get().sectors.max(range.end().0));
            let existing = SectorRange::new(wide.start, end - wide.start.0);
            let around = self.read_aligned(wide, existing).await;
            let mut around = around.map_err(|error| about(error, range))?.into_mut();
            let skip = ((range.start.0 - wide.start.0) as usize) * SECTOR_BYTES;
            around[skip..skip + data.len()].copy_from_slice(&data);
            return Ok((wide, around.freeze()));
        }
        if data.is_aligned_to(self.alignment_bytes as usize) {
            return Ok((range, data));
        }
        Ok((range, Buffer::copy_of(&data)))
    }

    async fn write_aligned(
        &self,
        wide: SectorRange,
        mut data: Buffer,
        flags: i32,
        asked: SectorRange,
    ) -> Result<(), IoError> {
        let offset_bytes = wide.start.byte_offset();
        let mut done = 0;
        while done < data.len() {
            let part = Part { start: done, offset_bytes: offset_bytes + done as u64 };
            let (result, back) = self.write_once(data, part, flags).await;
            data = back;
            match result {
                // A write that makes no progress has met the end of the store.
                Ok(0) => return Err(IoError::NoSpace(asked)),
                Ok(len) => done = self.aligned_progress(done, len as usize, data.len()),
                Err(error) if is_interruption(&error) => {}
                Err(error) => return Err(self.write_failed(&error, flags, asked)),
            }
        }
        Ok(())
    }

    /// What a failed write means.
    pub(super) fn write_failed(
        &self,
        error: &io::Error,
        flags: i32,
        asked: SectorRange,
    ) -> IoError {
        let meaning = translate(error, asked);
        if flags & libc::RWF_DSYNC != 0 && !matches!(meaning, IoError::NoSpace(_)) {
            // Whether the data or the cache flush behind it failed can't be told.
            self.syncs.fail(error);
        }
        meaning
    }

    async fn write_once(&self, data: Buffer, part: Part, flags: i32) -> (io::Result<u32>, Buffer) {
        if self.direct {
            let written = self.handle.write_at(Rc::clone(&self.fd), data, part, flags).await;
            return (written.0, written.1.0);
        }
        if self.may_write_here() {
            return (self.write_here(&data[part.start..], part.offset_bytes), data);
        }
        match self.writer() {
            Ok(writer) => writer.write_at(data, part).await,
            Err(error) => (Err(error), data),
        }
    }

    pub(super) fn may_write_here(&self) -> bool {
        // While the thread still writes, it may be stuck, with a lock on the file that all writes need.
        self.here.may_write(self.handle.runtime().now())
            && self.writer.get().is_none_or(Writer::is_idle)
    }

    pub(super) fn write_here(&self, data: &[u8], offset_bytes: u64) -> io::Result<u32> {
        let begun = boot_time();
        let written = writer::write_here(self.fd.as_fd(), data, offset_bytes);
        self.here.note_write(data.len(), begun, boot_time());
        written
    }

    pub(super) fn writer(&self) -> io::Result<&Writer> {
        if self.writer.get().is_none() {
            let started = Writer::start(&self.handle, self.fd.try_clone()?)?;
            // Nothing has come between: the first stays.
            let _ = self.writer.set(started);
        }
        self.writer.get().ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// Where to go on after `len` more bytes: at `total`, or at a block's start.
    fn aligned_progress(&self, done: usize, len: usize, total: usize) -> usize {
        let reached = (done + len).min(total);
        if reached == total {
            return total;
        }
        let unit = (self.alignment_bytes as usize).max(1);
        let aligned = reached / unit * unit;
        // Without a whole block of progress the rest is tried from the unaligned place, whose
        // refusal is an error then instead of an endless loop.
        if aligned > done { aligned } else { reached }
    }

    /// A discard is a hint: a medium that can't leaves everything as it is.
    async fn discard_range(&self, range: SectorRange) -> Result<(), IoError> {
        let result = if self.is_block_device {
            // One at a time: a disk that hangs must not take all threads from the others.
            let _turn = self.discards.acquire(1).await;
            let fd = self.fd.try_clone().map_err(|error| translate(&error, range))?;
            let (start, len) = (range.start.byte_offset(), range.len_bytes());
            self.handle
                .blocking(move || open::discard_blocking(fd.as_fd(), start, len))
                .await
                .and_then(|result| result)
        } else {
            self.fallocate(libc::FALLOC_FL_PUNCH_HOLE, range).await
        };
        match result {
            Err(error) if !is_refusal(&error) => Err(translate(&error, range)),
            _ => Ok(()),
        }
    }

    async fn zero_range(&self, range: SectorRange) -> Result<(), IoError> {
        if self.can_zero.get() && self.widened(range) == range {
            match self.fallocate(libc::FALLOC_FL_ZERO_RANGE, range).await {
                Ok(()) => return Ok(()),
                Err(error) if is_refusal(&error) => self.can_zero.set(false),
                Err(error) => return Err(translate(&error, range)),
            }
        }
        let mut start = range.start;
        while start < range.end() {
            let sectors = (range.end().0 - start.0).min(ZERO_CHUNK_BYTES / SECTOR_BYTES as u64);
            let part = SectorRange::new(start, sectors);
            let zeros = Buffer::zeroed(part.len_bytes() as usize);
            self.write_range(part, zeros, Durability::Volatile).await?;
            start = Lba(start.0 + sectors);
        }
        Ok(())
    }

    async fn fallocate(&self, mode: i32, range: SectorRange) -> io::Result<()> {
        loop {
            let request = self.handle.allocate(
                Rc::clone(&self.fd),
                mode | libc::FALLOC_FL_KEEP_SIZE,
                range.start.byte_offset(),
                range.len_bytes(),
            );
            match request.await.0 {
                Ok(_) => return Ok(()),
                Err(error) if is_interruption(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The same failure, told of the range that was asked for.
fn about(error: IoError, range: SectorRange) -> IoError {
    match error {
        IoError::Medium(_) => IoError::Medium(range),
        IoError::OutOfRange(_) => IoError::OutOfRange(range),
        other => other,
    }
}

pub(super) fn is_interruption(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENOTTY)
    )
}
