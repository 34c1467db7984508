//! Reads the kernel's requests from the descriptor, answers what concerns no data, and hands on
//! what does.
//!
//! One thread: measured, two were no faster. Requests in flight are bounded in number and bytes;
//! beyond that the rest waits in the kernel.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

use block::{BLOCK_BYTES, Buffer, BufferMut, Lba, SECTOR_BYTES, SectorRange};

use super::errno::errno_of;
use super::namespace::{self, FILE_NODE, ROOT_NODE};
use super::request::{Answer, Reply, VolumeRequest};
use super::wire::{self, InHeader, Opcode, OutHeader, TRANSFER_BYTES_MAX, WRITE_HEADER_BYTES};

/// Requests handed on and not answered yet: four times the queue of a loop device is no use.
const REQUESTS_MAX: usize = 128;
/// Bytes of writes handed on and not answered yet.
const WRITE_BYTES_MAX: usize = 32 << 20;
/// Writes at least this long keep the memory that they arrived in; shorter ones are copied out.
const KEPT_BYTES_MIN: usize = TRANSFER_BYTES_MAX / 2;

/// How a volume's file is served.
pub struct Options {
    /// Size of the volume.
    pub sectors: u64,
    /// Refuses writes.
    pub read_only: bool,
    /// Called first thing on the serving thread (which must be a memory-flushing one).
    pub on_thread_start: fn(),
    /// Called last thing on the serving thread, when the kernel has let go of the file or the
    /// [`VolumeFile`] was dropped.
    pub on_end: Box<dyn FnOnce() + Send>,
}

/// A volume's file being served. Dropping it fails all requests, also those in flight, and all
/// later ones.
pub struct VolumeFile {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl VolumeFile {
    /// Serves `fuse`, a mounted `/dev/fuse` descriptor of which nobody else keeps a copy. `handler`
    /// is called on the serving thread with each request; it hands them on and doesn't block.
    pub fn serve(
        fuse: OwnedFd,
        options: Options,
        handler: impl FnMut(VolumeRequest, Reply) + Send + 'static,
    ) -> io::Result<VolumeFile> {
        let flags = rustix::fs::fcntl_getfl(&fuse)?;
        rustix::fs::fcntl_setfl(&fuse, flags | OFlags::NONBLOCK)?;
        rustix::io::fcntl_setfd(&fuse, rustix::io::FdFlags::CLOEXEC)?;
        let flight =
            Flight { fuse: Some(Arc::new(fuse)), pending: BTreeMap::new(), write_bytes: 0 };
        let shared = Arc::new(Shared {
            flight: Mutex::new(flight),
            landed: Condvar::new(),
            sectors: AtomicU64::new(options.sectors),
            served: AtomicBool::new(true),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let server = Server {
            shared: Arc::clone(&shared),
            read_only: options.read_only,
            head: [0; WRITE_HEADER_BYTES],
            data: BufferMut::zeroed(TRANSFER_BYTES_MAX + BLOCK_BYTES),
            handler,
        };
        let (on_thread_start, on_end) = (options.on_thread_start, options.on_end);
        let thread =
            std::thread::Builder::new().name("volume-file".to_owned()).spawn(move || {
                let _ending = Ending { shared: Arc::clone(&server.shared), on_end: Some(on_end) };
                on_thread_start();
                server.run();
            })?;
        Ok(VolumeFile { shared, thread: Some(thread) })
    }

    /// The volume has another size now. The loop device sees it after `attach::resize`.
    pub fn set_sectors(&self, sectors: u64) {
        self.shared.sectors.store(sectors, Ordering::Release);
    }

    /// False once the kernel has let go of the file (unmounted, aborted).
    pub fn is_served(&self) -> bool {
        self.shared.served.load(Ordering::Acquire)
    }
}

impl Drop for VolumeFile {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic of the handler ends the service like everything else does.
            let _ = thread.join();
        }
    }
}

/// What the end of the serving thread brings, also when a handler panics: a descriptor that nobody
/// reads would let the kernel wait for ever.
struct Ending {
    shared: Arc<Shared>,
    on_end: Option<Box<dyn FnOnce() + Send>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(on_end) = self.on_end.take() {
            on_end();
        }
    }
}

#[derive(Debug)]
struct Shared {
    flight: Mutex<Flight>,
    /// A request was answered, or the service stops.
    landed: Condvar,
    sectors: AtomicU64,
    served: AtomicBool,
    wake: OwnedFd,
}

/// Requests that were handed on. Whoever takes one out of here answers it: nobody answers twice.
#[derive(Debug)]
struct Flight {
    /// `None` once stopped. The last copy of the descriptor to go makes the kernel abort.
    fuse: Option<Arc<OwnedFd>>,
    /// Bytes of data by the kernel's number of the request.
    pending: BTreeMap<u64, usize>,
    write_bytes: usize,
}

impl Shared {
    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn size_bytes(&self) -> u64 {
        self.sectors.load(Ordering::Acquire).saturating_mul(SECTOR_BYTES as u64)
    }

    /// The descriptor, once there is room for another request; `None` when stopped.
    fn descriptor_with_room(&self) -> Option<Arc<OwnedFd>> {
        let mut flight = self.flight();
        while flight.fuse.is_some()
            && (flight.pending.len() >= REQUESTS_MAX || flight.write_bytes >= WRITE_BYTES_MAX)
        {
            flight = self.landed.wait(flight).unwrap_or_else(PoisonError::into_inner);
        }
        flight.fuse.clone()
    }

    fn stop(&self) {
        let (fuse, pending) = {
            let mut flight = self.flight();
            flight.write_bytes = 0;
            (flight.fuse.take(), std::mem::take(&mut flight.pending))
        };
        if let Some(fuse) = fuse {
            for unique in pending.into_keys() {
                send(&fuse, unique, -libc::EIO, &[]);
            }
        }
        self.served.store(false, Ordering::Release);
        self.landed.notify_all();
        // Fails only when the counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// A request that was handed on.
#[derive(Debug)]
pub(super) struct Pending {
    shared: Arc<Shared>,
    unique: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The bytes wanted of the sectors that were asked for.
    Read {
        skip: usize,
        len: usize,
    },
    Write {
        len: u32,
    },
    Plain,
}

impl Pending {
    pub(super) fn finish(self, answer: Answer) {
        let fuse = {
            let mut flight = self.shared.flight();
            let Some(bytes) = flight.pending.remove(&self.unique) else { return };
            flight.write_bytes -= bytes;
            flight.fuse.clone()
        };
        self.shared.landed.notify_one();
        let Some(fuse) = fuse else { return };
        match (answer, self.kind) {
            (Err(error), _) => send(&fuse, self.unique, -errno_of(error), &[]),
            (Ok(data), Kind::Read { skip, len }) => match data.get(skip..skip + len) {
                Some(wanted) => send(&fuse, self.unique, 0, wanted),
                None => send(&fuse, self.unique, -libc::EIO, &[]),
            },
            (Ok(_), Kind::Write { len }) => {
                let written = wire::WriteOut { size: len, padding: 0 };
                send(&fuse, self.unique, 0, written.as_bytes());
            }
            (Ok(_), Kind::Plain) => send(&fuse, self.unique, 0, &[]),
        }
    }
}

/// Answers `unique`. Errors mean that nobody waits any more: interrupted, aborted or unmounted.
fn send(fuse: &OwnedFd, unique: u64, error: i32, body: &[u8]) {
    let len = (size_of::<OutHeader>() + body.len()) as u32;
    let head = OutHeader { len, error, unique };
    let parts = [IoSlice::new(head.as_bytes()), IoSlice::new(body)];
    if let Err(error) = rustix::io::retry_on_intr(|| rustix::io::writev(fuse, &parts))
        && !matches!(error, Errno::NOENT | Errno::NODEV | Errno::NOTCONN)
    {
        tracing::warn!(%error, "the kernel did not take an answer");
    }
}

struct Server<H> {
    shared: Arc<Shared>,
    read_only: bool,
    head: [u8; WRITE_HEADER_BYTES],
    /// Where the data of a write arrives, aligned.
    data: BufferMut,
    handler: H,
}

impl<H: FnMut(VolumeRequest, Reply)> Server<H> {
    fn run(mut self) {
        while let Some(fuse) = self.shared.descriptor_with_room() {
            let mut parts = [IoSliceMut::new(&mut self.head), IoSliceMut::new(&mut self.data)];
            match rustix::io::readv(&*fuse, &mut parts) {
                Ok(received) => self.handle(&fuse, received),
                // The request was taken back before it was read.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut ready = [
                        PollFd::new(&*fuse, PollFlags::IN),
                        PollFd::new(&self.shared.wake, PollFlags::IN),
                    ];
                    if let Err(error) = poll(&mut ready, None)
                        && error != Errno::INTR
                    {
                        tracing::error!(%error, "waiting for the kernel's requests failed");
                        break;
                    }
                }
                Err(Errno::NODEV) => break,
                Err(error) => {
                    tracing::error!(%error, "reading the kernel's requests failed");
                    break;
                }
            }
        }
    }

    fn handle(&mut self, fuse: &OwnedFd, received: usize) {
        let Some(header) = wire::head::<InHeader>(&self.head[..received.min(WRITE_HEADER_BYTES)])
        else {
            return;
        };
        let opcode = Opcode::from_raw(header.opcode);
        let unique = header.unique;
        let size_bytes = self.shared.size_bytes();
        match opcode {
            Opcode::Read | Opcode::Write | Opcode::Fallocate => {
                if let Err(errno) = self.hand_on(opcode, header, received, size_bytes) {
                    send(fuse, unique, -errno, &[]);
                }
            }
            // These want no answer.
            Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt => {}
            Opcode::Init => self.init(fuse, unique),
            Opcode::Lookup => {
                let found = namespace::look_up(header.node, &self.body(received), size_bytes);
                send_or(fuse, unique, found, libc::ENOENT);
            }
            Opcode::GetAttr => {
                let found = namespace::get_attributes(header.node, size_bytes);
                send_or(fuse, unique, found, libc::ENOENT);
            }
            Opcode::Open if header.node == FILE_NODE => {
                let flags = wire::open_flag::DIRECT_IO | wire::open_flag::PARALLEL_DIRECT_WRITES;
                send(fuse, unique, 0, wire::OpenOut { flags, ..Default::default() }.as_bytes());
            }
            Opcode::OpenDir if header.node == ROOT_NODE => {
                send(fuse, unique, 0, wire::OpenOut::default().as_bytes());
            }
            Opcode::ReadDir => match wire::head::<wire::ReadIn>(&self.body(received)) {
                Some(read) => {
                    let limit = read.size.min(BLOCK_BYTES as u32);
                    send(fuse, unique, 0, &namespace::read_directory(read.offset, limit));
                }
                None => send(fuse, unique, -libc::EINVAL, &[]),
            },
            Opcode::StatFs => {
                send(fuse, unique, 0, namespace::stat_file_system(size_bytes).as_bytes());
            }
            Opcode::Release
            | Opcode::ReleaseDir
            | Opcode::Flush
            | Opcode::Access
            | Opcode::Destroy => send(fuse, unique, 0, &[]),
            Opcode::Open | Opcode::OpenDir | Opcode::SetAttr => {
                send(fuse, unique, -libc::EPERM, &[])
            }
            // A volume's writes are durable when they are answered. The kernel takes this answer for success,
            // and asks no more (fs/fuse/file.c, `no_fsync`): the loop device's flushes end there. Its cache
            // could be declared write-through as well, but that outlives the volume: the next user of the
            // same loop device would lose his flushes.
            Opcode::Fsync | Opcode::FsyncDir | Opcode::Unknown => {
                send(fuse, unique, -libc::ENOSYS, &[])
            }
        }
    }

    /// Hands an operation on data on, or says with which error number it is refused.
    fn hand_on(
        &mut self,
        opcode: Opcode,
        header: InHeader,
        received: usize,
        size_bytes: u64,
    ) -> Result<(), i32> {
        if header.node != FILE_NODE {
            return Err(libc::EISDIR);
        }
        let (request, kind, bytes) = match opcode {
            Opcode::Read => match read_request(&self.body(received), size_bytes)? {
                Some((range, skip, len)) => {
                    (VolumeRequest::Read(range), Kind::Read { skip, len }, 0)
                }
                None => return self.answer_end_of_file(header.unique),
            },
            Opcode::Write => {
                let (start, data) = self.write_request(received, size_bytes)?;
                let len = data.len();
                (VolumeRequest::Write { start, data }, Kind::Write { len: len as u32 }, len)
            }
            _ => {
                let (range, unmap) = zero_request(&self.body(received), size_bytes)?;
                if self.read_only {
                    return Err(libc::EROFS);
                }
                (VolumeRequest::Zero { range, unmap }, Kind::Plain, 0)
            }
        };
        {
            let mut flight = self.shared.flight();
            flight.pending.insert(header.unique, bytes);
            flight.write_bytes += bytes;
        }
        let shared = Arc::clone(&self.shared);
        (self.handler)(request, Reply::new(Pending { shared, unique: header.unique, kind }));
        Ok(())
    }

    fn answer_end_of_file(&self, unique: u64) -> Result<(), i32> {
        if let Some(fuse) = self.shared.flight().fuse.clone() {
            send(&fuse, unique, 0, &[]);
        }
        Ok(())
    }

    fn write_request(&mut self, received: usize, size_bytes: u64) -> Result<(Lba, Buffer), i32> {
        if self.read_only {
            return Err(libc::EROFS);
        }
        let write: wire::WriteIn =
            wire::head(&self.head[size_of::<InHeader>()..]).ok_or(libc::EINVAL)?;
        let len = write.size as usize;
        if received != WRITE_HEADER_BYTES + len || len > TRANSFER_BYTES_MAX {
            return Err(libc::EINVAL);
        }
        let range = whole_sectors(write.offset, len as u64, size_bytes)?;
        let data = if len < KEPT_BYTES_MIN {
            Buffer::copy_of(&self.data[..len])
        } else {
            let next = BufferMut::zeroed(TRANSFER_BYTES_MAX + BLOCK_BYTES);
            std::mem::replace(&mut self.data, next).freeze().slice(0, len)
        };
        Ok((range.start, data))
    }

    /// The request behind its header, as far as it is looked at.
    fn body(&self, received: usize) -> Vec<u8> {
        let in_head = received.min(WRITE_HEADER_BYTES);
        let in_data = (received - in_head).min(wire::BODY_BYTES_MAX);
        let mut body = Vec::with_capacity(in_head + in_data);
        body.extend_from_slice(self.head.get(size_of::<InHeader>()..in_head).unwrap_or_default());
        body.extend_from_slice(&self.data[..in_data]);
        body
    }

    fn init(&self, fuse: &OwnedFd, unique: u64) {
        use wire::init_flag as flag;
        let Some(init) = wire::head::<wire::InitIn>(&self.head[size_of::<InHeader>()..]) else {
            return send(fuse, unique, -libc::EPROTO, &[]);
        };
        let too_old = init.major == wire::PROTOCOL_MAJOR && init.minor < wire::PROTOCOL_MINOR_MIN;
        if init.major < wire::PROTOCOL_MAJOR || too_old {
            tracing::error!(init.major, init.minor, "the kernel's FUSE protocol is too old");
            return send(fuse, unique, -libc::EPROTO, &[]);
        }
        let wanted = flag::ASYNC_READ
            | flag::BIG_WRITES
            | flag::ASYNC_DIO
            | flag::PARALLEL_DIROPS
            | flag::MAX_PAGES;
        let out = wire::InitOut {
            major: wire::PROTOCOL_MAJOR,
            minor: wire::PROTOCOL_MINOR,
            max_readahead: init.max_readahead,
            flags: init.flags & wanted,
            max_background: REQUESTS_MAX as u16,
            congestion_threshold: (REQUESTS_MAX / 4 * 3) as u16,
            max_write: TRANSFER_BYTES_MAX as u32,
            time_granularity: 1,
            max_pages: (TRANSFER_BYTES_MAX / BLOCK_BYTES) as u16,
            ..Default::default()
        };
        send(fuse, unique, 0, out.as_bytes());
    }
}

fn send_or<T: IntoBytes + Immutable>(fuse: &OwnedFd, unique: u64, body: Option<T>, errno: i32) {
    match body {
        Some(body) => send(fuse, unique, 0, body.as_bytes()),
        None => send(fuse, unique, -errno, &[]),
    }
}

/// The sectors that cover what is to be read, and where in them it lies; `None` behind the end.
/// People may read the file in any piece; only the loop device does so in sectors.
fn read_request(body: &[u8], size_bytes: u64) -> Result<Option<(SectorRange, usize, usize)>, i32> {
    const SECTOR: u64 = SECTOR_BYTES as u64;
    let read: wire::ReadIn = wire::head(body).ok_or(libc::EINVAL)?;
    let wanted = u64::from(read.size).min(TRANSFER_BYTES_MAX as u64);
    let len = wanted.min(size_bytes.saturating_sub(read.offset));
    if len == 0 {
        return Ok(None);
    }
    let first = read.offset / SECTOR;
    let count = (read.offset + len).div_ceil(SECTOR) - first;
    let skip = (read.offset % SECTOR) as usize;
    Ok(Some((SectorRange::new(Lba(first), count), skip, len as usize)))
}

fn zero_request(body: &[u8], size_bytes: u64) -> Result<(SectorRange, bool), i32> {
    const PUNCH: u32 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;
    const ZERO: u32 = libc::FALLOC_FL_ZERO_RANGE as u32;
    const ZERO_KEEP: u32 = ZERO | libc::FALLOC_FL_KEEP_SIZE as u32;
    let request: wire::FallocateIn = wire::head(body).ok_or(libc::EINVAL)?;
    let unmap = match request.mode {
        PUNCH => true,
        ZERO | ZERO_KEEP => false,
        _ => return Err(libc::EOPNOTSUPP),
    };
    Ok((whole_sectors(request.offset, request.length, size_bytes)?, unmap))
}

fn whole_sectors(offset: u64, len: u64, size_bytes: u64) -> Result<SectorRange, i32> {
    let end = offset.checked_add(len).ok_or(libc::EINVAL)?;
    let start = Lba::from_byte_offset(offset).ok_or(libc::EINVAL)?;
    if !len.is_multiple_of(SECTOR_BYTES as u64) || len == 0 {
        return Err(libc::EINVAL);
    }
    if end > size_bytes {
        return Err(libc::ENOSPC);
    }
    Ok(SectorRange::new(start, len / SECTOR_BYTES as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(offset: u64, size: u32) -> Vec<u8> {
        let read = wire::ReadIn {
            handle: 0,
            offset,
            size,
            read_flags: 0,
            lock_owner: 0,
            flags: 0,
            padding: 0,
        };
        read.as_bytes().to_vec()
    }

    #[test]
    fn reads_of_any_piece_become_whole_sectors_within_the_file() {
        let sectors = |start, count| SectorRange::new(Lba(start), count);
        assert_eq!(read_request(&read(0, 4096), 8192), Ok(Some((sectors(0, 8), 0, 4096))));
        assert_eq!(read_request(&read(513, 600), 8192), Ok(Some((sectors(1, 2), 1, 600))));
        assert_eq!(read_request(&read(8000, 600), 8192), Ok(Some((sectors(15, 1), 320, 192))));
        assert_eq!(read_request(&read(8192, 1), 8192), Ok(None));
        assert_eq!(read_request(&read(u64::MAX, u32::MAX), 8192), Ok(None));
        assert_eq!(read_request(&[0; 20], 8192), Err(libc::EINVAL));
    }

    #[test]
    fn writes_and_zeroing_are_whole_sectors_or_refused() {
        assert_eq!(whole_sectors(512, 1024, 4096), Ok(SectorRange::new(Lba(1), 2)));
        assert_eq!(whole_sectors(100, 512, 4096), Err(libc::EINVAL));
        assert_eq!(whole_sectors(0, 100, 4096), Err(libc::EINVAL));
        assert_eq!(whole_sectors(0, 0, 4096), Err(libc::EINVAL));
        assert_eq!(whole_sectors(4096, 512, 4096), Err(libc::ENOSPC));
        assert_eq!(whole_sectors(u64::MAX - 511, 512, 4096), Err(libc::EINVAL));
        let zero = |mode: u32| {
            let request = wire::FallocateIn { handle: 0, offset: 0, length: 512, mode, padding: 0 };
            zero_request(request.as_bytes(), 4096).map(|(_, unmap)| unmap)
        };
        assert_eq!(zero(3), Ok(true));
        assert_eq!(zero(0x10), Ok(false));
        assert_eq!(zero(0x11), Ok(false));
        assert_eq!(zero(0), Err(libc::EOPNOTSUPP));
        assert_eq!(zero(0x20), Err(libc::EOPNOTSUPP));
    }
}
