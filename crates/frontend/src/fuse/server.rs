//! Reads the kernel's requests from the descriptor, answers what concerns no data, and hands on
//! what does. Where a ring takes the requests ([`super::uring`]) this is left with the beginning of the
//! connection and what wants no answer.
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
use zerocopy::IntoBytes;

use block::{BLOCK_BYTES, Buffer, BufferMut, SECTOR_BYTES};

use super::meaning::{Incoming, Meaning, Operation, meaning_of};
use super::request::{Answer, Finish, Reply, VolumeRequest};
use super::uring::{Offer, RingSide};
use super::wire::{self, InHeader, OutHeader, TRANSFER_BYTES_MAX, WRITE_HEADER_BYTES};

/// Requests handed on and not answered yet: four times the queue of a loop device is no use.
const REQUESTS_MAX: usize = 128;
/// Bytes of writes handed on and not answered yet.
const WRITE_BYTES_MAX: usize = 32 << 20;
/// Writes at least this long keep the memory that they arrived in; shorter ones are copied out.
const KEPT_BYTES_MIN: usize = TRANSFER_BYTES_MAX / 2;

/// A connection to the kernel: a mounted directory that waits for its server.
#[derive(Debug)]
pub struct Connection {
    /// `/dev/fuse`. When nobody has it any more the kernel fails all requests.
    pub fuse: OwnedFd,
    /// What is written to it ends the connection at once, whoever still has the other. Where there is none
    /// no ring takes the requests: its commands keep the descriptor open.
    pub abort: Option<OwnedFd>,
}

/// How a volume's file is served.
pub struct Options {
    /// Size of the volume.
    pub sectors: u64,
    /// Refuses writes.
    pub read_only: bool,
    /// A ring may take the requests where the kernel offers that.
    pub over_ring: bool,
    /// Called last thing on the serving thread, which inherits its maker's mark as one that serves write-back, when the kernel has let go of the file or the
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
    /// Serves a connection of which nobody else keeps a copy. `handler` is called on the serving thread with
    /// each request; it hands them on and doesn't block. If a ring may take them, whoever has one serves the
    /// other part of this: the kernel waits for that.
    pub fn serve(
        connection: Connection,
        options: Options,
        handler: impl FnMut(VolumeRequest, Reply) + Send + 'static,
    ) -> io::Result<(VolumeFile, Option<RingSide>)> {
        let Connection { fuse, abort } = connection;
        let flags = rustix::fs::fcntl_getfl(&fuse)?;
        rustix::fs::fcntl_setfl(&fuse, flags | OFlags::NONBLOCK)?;
        rustix::io::fcntl_setfd(&fuse, rustix::io::FdFlags::CLOEXEC)?;
        let may_ring = options.over_ring && abort.is_some();
        let flight =
            Flight { fuse: Some(Arc::new(fuse)), abort, pending: BTreeMap::new(), write_bytes: 0 };
        let shared = Arc::new(Shared {
            flight: Mutex::new(flight),
            landed: Condvar::new(),
            sectors: AtomicU64::new(options.sectors),
            read_only: options.read_only,
            served: AtomicBool::new(true),
            over_ring: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let (offer, ring) = may_ring.then(|| Offer::new(&shared)).unzip();
        let server = Server {
            shared: Arc::clone(&shared),
            offer,
            head: [0; WRITE_HEADER_BYTES],
            data: BufferMut::zeroed(TRANSFER_BYTES_MAX + BLOCK_BYTES),
            handler,
        };
        let on_end = options.on_end;
        let thread =
            std::thread::Builder::new().name("volume-file".to_owned()).spawn(move || {
                let _ending = Ending { shared: Arc::clone(&server.shared), on_end: Some(on_end) };
                server.run();
            })?;
        Ok((VolumeFile { shared, thread: Some(thread) }, ring))
    }

    /// The volume has another size now. The loop device sees it after `attach::resize`.
    pub fn set_sectors(&self, sectors: u64) {
        self.shared.sectors.store(sectors, Ordering::Release);
    }

    /// False once the kernel has let go of the file (unmounted, aborted).
    pub fn is_served(&self) -> bool {
        self.shared.served.load(Ordering::Acquire)
    }

    /// Whether a ring takes the requests: known once the kernel has begun to send some.
    pub fn is_over_ring(&self) -> bool {
        self.shared.over_ring.load(Ordering::Acquire)
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
pub(super) struct Shared {
    flight: Mutex<Flight>,
    /// A request was answered, or the service stops.
    landed: Condvar,
    sectors: AtomicU64,
    pub(super) read_only: bool,
    served: AtomicBool,
    over_ring: AtomicBool,
    wake: OwnedFd,
}

/// Requests that were handed on. Whoever takes one out of here answers it: nobody answers twice.
#[derive(Debug)]
struct Flight {
    /// `None` once stopped. The last copy of the descriptor to go makes the kernel abort.
    fuse: Option<Arc<OwnedFd>>,
    abort: Option<OwnedFd>,
    /// Bytes of data by the kernel's number of the request.
    pending: BTreeMap<u64, usize>,
    write_bytes: usize,
}

impl Shared {
    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor; `None` when stopped.
    pub(super) fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        self.flight().fuse.clone()
    }

    pub(super) fn size_bytes(&self) -> u64 {
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

    pub(super) fn stop(&self) {
        let (fuse, abort, pending) = {
            let mut flight = self.flight();
            flight.write_bytes = 0;
            (flight.fuse.take(), flight.abort.take(), std::mem::take(&mut flight.pending))
        };
        if let Some(fuse) = fuse {
            for unique in pending.into_keys() {
                send(&fuse, unique, -libc::EIO, &[]);
            }
        }
        if let Some(abort) = abort
            && let Err(error) = rustix::io::retry_on_intr(|| rustix::io::write(&abort, b"1"))
        {
            tracing::error!(%error, "the kernel doesn't end a connection");
        }
        self.served.store(false, Ordering::Release);
        self.landed.notify_all();
        // Fails only when the counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// A request that was handed on.
#[derive(Debug)]
pub struct Pending {
    shared: Arc<Shared>,
    unique: u64,
    operation: Operation,
}

impl Finish for Pending {
    fn finish(self, answer: Answer) {
        let fuse = {
            let mut flight = self.shared.flight();
            let Some(bytes) = flight.pending.remove(&self.unique) else { return };
            flight.write_bytes -= bytes;
            flight.fuse.clone()
        };
        self.shared.landed.notify_one();
        let Some(fuse) = fuse else { return };
        self.operation.tell(&answer, |error, body| send(&fuse, self.unique, error, body));
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
    /// What a ring may take is offered to it.
    offer: Option<Offer>,
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
        let (in_head, in_data) =
            (received.min(WRITE_HEADER_BYTES), received.saturating_sub(WRITE_HEADER_BYTES));
        let Some(header) = wire::head::<InHeader>(&self.head[..in_head]) else { return };
        let incoming = Incoming {
            header,
            front: &self.head[size_of::<InHeader>()..in_head],
            rest: &self.data[..in_data],
        };
        match meaning_of(&incoming, self.shared.size_bytes(), self.shared.read_only) {
            Meaning::Silence => {}
            Meaning::Init => self.init(fuse, header.unique),
            Meaning::Answer(Ok(body)) => send(fuse, header.unique, 0, &body),
            Meaning::Answer(Err(errno)) => send(fuse, header.unique, -errno, &[]),
            Meaning::Perform(operation) => self.hand_on(header.unique, operation),
        }
    }

    fn hand_on(&mut self, unique: u64, operation: Operation) {
        let request = operation.request(|len| self.take_data(len));
        let bytes = if let VolumeRequest::Write { data, .. } = &request { data.len() } else { 0 };
        {
            let mut flight = self.shared.flight();
            flight.pending.insert(unique, bytes);
            flight.write_bytes += bytes;
        }
        let shared = Arc::clone(&self.shared);
        (self.handler)(request, Reply::new(Pending { shared, unique, operation }));
    }

    fn take_data(&mut self, len: usize) -> Buffer {
        if len < KEPT_BYTES_MIN {
            return Buffer::copy_of(&self.data[..len]);
        }
        let next = BufferMut::zeroed(TRANSFER_BYTES_MAX + BLOCK_BYTES);
        std::mem::replace(&mut self.data, next).freeze().slice(0, len)
    }

    fn init(&mut self, fuse: &OwnedFd, unique: u64) {
        use wire::init_flag as flag;
        let body = &self.head[size_of::<InHeader>()..];
        let Some(init) = wire::head::<wire::InitIn>(body) else {
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
        let mut out = wire::InitOut {
            major: wire::PROTOCOL_MAJOR,
            minor: wire::PROTOCOL_MINOR,
            max_readahead: init.max_readahead,
            flags: init.flags & wanted,
            max_background: REQUESTS_MAX as u16,
            congestion_threshold: (REQUESTS_MAX / 4 * 3) as u16,
            max_write: TRANSFER_BYTES_MAX as u32,
            time_granularity: 1,
            max_pages: (TRANSFER_BYTES_MAX / rustix::param::page_size()) as u16,
            ..Default::default()
        };
        let more = wire::head::<u32>(&body[size_of::<wire::InitIn>()..]).unwrap_or(0);
        let offered = init.flags & flag::EXTENDED != 0 && more & flag::OVER_IO_URING != 0;
        // Without the kernel's word it is dropped, and whoever has the ring sees that.
        let offer = self.offer.take().filter(|offer| offered && offer.is_wanted());
        if offer.is_some() {
            out.flags |= flag::EXTENDED;
            out.flags2 = flag::OVER_IO_URING;
            self.shared.over_ring.store(true, Ordering::Release);
        }
        send(fuse, unique, 0, out.as_bytes());
        if let Some(offer) = offer {
            offer.take_over();
        }
    }
}
