//! FUSE over io_uring (Linux 6.14): the kernel's requests arrive as completions on the reactor's ring, and
//! an answer is one of its entries. What requests mean is known elsewhere; here are the commands, and the
//! memory that the kernel reads and writes.
//!
//! The kernel has a queue for each processor. A request goes to that of the processor it is made on, and
//! waits there for a free slot: memory of ours with a command in the kernel's hands. The completion of the
//! command gives us the slot with a request in it; the next command, on the same slot, gives it back with
//! the answer. So the rule of the reactor's other requests holds here too: while the command is in the
//! table of operations the memory is the kernel's, and it is kept.
//!
//! A command without a request can't be taken back one by one. It ends with its connection, which whoever
//! serves must be able to end ([`FuseServer::end`]); closing our descriptor doesn't do that, because each
//! command holds it.
#![allow(unsafe_code)] // memory that the kernel writes to, and commands that name it

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use io_uring::squeue::Entry128;
use io_uring::{opcode, types};

use super::ReactorHandle;
use super::ops::Complete;
use super::ring::Ring;
use crate::sys;

// Of <linux/fuse.h>.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;
/// `struct fuse_uring_req_header`: the head of request and answer, the operation's own, and what is said of
/// the payload.
const HEAD_BYTES: usize = 128;
const OPERATION_AT: usize = 128;
const OPERATION_BYTES: usize = 128;
const COMMIT_ID_AT: usize = 256 + 8;
const PAYLOAD_LEN_AT: usize = 256 + 16;
const HEADER_BYTES: usize = 288;

/// The payload begins here in a slot's memory, on a page of its own.
const PAYLOAD_AT: usize = 4096;
/// Where `len` lies in an entry: the library has no word for it in a command.
const ENTRY_LEN_AT: usize = 24;

/// Slots of all processors together, about: more requests at once than this are no use.
const SLOTS_WANTED: usize = 256;
/// Slots of one processor. A loop device makes all of its requests on one at a time, so that each needs as
/// many as a device that is kept busy.
const DEPTH_MAX: usize = 32;
const DEPTH_MIN: usize = 8;

/// Who answers the kernel's requests.
pub trait FuseServer {
    /// Takes a request. Doesn't block.
    fn serve(&self, request: FuseRequest);

    /// The kernel doesn't serve this any more, or the reactor ends: the connection must end, and all
    /// commands with it. Called more than once.
    fn end(&self);
}

/// Memory for a connection's requests, before the kernel knows of it.
///
/// It is large and mostly untouched. The kernel uses the slot first that came back last, so that of each
/// processor's slots as many have memory behind them as requests were under way there at once, and a
/// slot has as much as its longest request.
pub struct FuseQueues {
    handle: ReactorHandle,
    payload_bytes: usize,
    slots: Vec<(u16, Memory)>,
}

impl ReactorHandle {
    /// Memory for requests with payloads of so many bytes; fails also where this kernel's ring has no room
    /// for commands.
    pub fn fuse_queues(&self, payload_bytes: usize) -> io::Result<FuseQueues> {
        if !self.shared.ring.borrow().as_ref().is_some_and(Ring::takes_commands) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (possible, online) = (processors("possible")?, processors("online")?);
        let depth = (SLOTS_WANTED / online.len().max(1)).clamp(DEPTH_MIN, DEPTH_MAX);
        let mut slots = Vec::new();
        for queue in 0..possible.len() as u32 {
            // All queues must have one before the kernel uses any.
            let depth = if online.contains(&queue) { depth } else { 1 };
            for _ in 0..depth {
                slots.push((queue as u16, Memory::reserve(PAYLOAD_AT + payload_bytes)?));
            }
        }
        Ok(FuseQueues { handle: self.clone(), payload_bytes, slots })
    }
}

fn processors(which: &str) -> io::Result<Vec<u32>> {
    let list = std::fs::read_to_string(format!("/sys/devices/system/cpu/{which}"))?;
    sys::parse_list(&list).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

impl FuseQueues {
    /// Has the kernel send the requests of a connection here: `fuse` is a `/dev/fuse` descriptor for which
    /// that was agreed upon when it was initialised.
    pub fn serve(self, fuse: Arc<OwnedFd>, server: Rc<dyn FuseServer>) {
        let FuseQueues { handle, payload_bytes, slots } = self;
        let link = Rc::new(Link { handle, fuse, server, payload_bytes });
        for (queue, memory) in slots {
            let slot = Rc::new_cyclic(|me| Slot {
                me: me.clone(),
                link: Rc::clone(&link),
                queue,
                parts: [
                    libc::iovec { iov_base: memory.at(0).cast(), iov_len: HEADER_BYTES },
                    libc::iovec { iov_base: memory.at(PAYLOAD_AT).cast(), iov_len: payload_bytes },
                ],
                memory,
            });
            slot.register();
        }
    }
}

/// What the slots of a connection share.
struct Link {
    handle: ReactorHandle,
    fuse: Arc<OwnedFd>,
    server: Rc<dyn FuseServer>,
    payload_bytes: usize,
}

struct Slot {
    me: Weak<Slot>,
    link: Rc<Link>,
    queue: u16,
    /// Header and payload, for the registration.
    parts: [libc::iovec; 2],
    memory: Memory,
}

impl Slot {
    fn register(self: &Rc<Self>) {
        let mut entry = self.command(REGISTER, 0, Some(self.parts.as_ptr() as u64));
        // SAFETY: an entry is 128 bytes in the kernel's layout, in which `len` lies there, aligned.
        unsafe {
            (&raw mut entry).cast::<u8>().add(ENTRY_LEN_AT).cast::<u32>().write(2);
        }
        self.submit(entry);
    }

    /// `struct fuse_uring_cmd_req` in an entry.
    fn command(&self, operation: u32, commit_id: u64, parts: Option<u64>) -> Entry128 {
        let mut command = [0; 80];
        command[8..16].copy_from_slice(&commit_id.to_ne_bytes());
        command[16..18].copy_from_slice(&self.queue.to_ne_bytes());
        let fd = types::Fd(self.link.fuse.as_raw_fd());
        opcode::UringCmd80::new(fd, operation).cmd(command).addr(parts).build()
    }

    fn submit(self: &Rc<Self>, entry: Entry128) {
        let handle = &self.link.handle;
        if handle.is_closed() {
            return;
        }
        let this: Rc<dyn Complete> = Rc::clone(self) as Rc<dyn Complete>;
        let key = handle.shared.ops.borrow_mut().insert(this, false);
        // SAFETY: the entry points to `parts`, which name `memory`; the kernel uses both at most until the
        // completion is reaped, and until then the table has a share of this slot, which has the
        // descriptor too.
        unsafe { handle.shared.push_command(entry.user_data(key)) };
    }

    /// A copy of what the kernel wrote into the header.
    fn number<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.bytes(at, N));
        bytes
    }

    /// Part of the memory. Only while no command is under way.
    fn bytes(&self, at: usize, len: usize) -> &[u8] {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.memory.len));
        // SAFETY: within the mapping, which lives as long as this slot. The kernel doesn't write to it: only
        // a `FuseRequest` gets here, and that exists between a completion and the next command. The bytes
        // are initialised, because fresh memory is zero.
        unsafe { std::slice::from_raw_parts(self.memory.at(at), len) }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at.checked_add(bytes.len()).is_some_and(|end| end <= self.memory.len));
        // SAFETY: within the mapping; as above nobody else uses it, and the slices that `bytes` lent have
        // ended with the borrow of the request that is being answered.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory.at(at), bytes.len());
        }
    }
}

impl Complete for Slot {
    fn complete(&self, result: i32) {
        let Some(slot) = self.me.upgrade() else { return };
        if result != 0 {
            // Aborted or unmounted. For anything else: a queue without slots would let its requests wait
            // for ever, so all of them fail.
            if !matches!(-result, libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED) {
                let error = io::Error::from_raw_os_error(result.saturating_neg());
                tracing::error!(%error, queue = self.queue, "the kernel refuses a command of FUSE");
            }
            return self.link.server.end();
        }
        if !self.link.handle.is_closed() {
            self.link.server.serve(FuseRequest { slot: Some(slot) });
        }
    }

    fn abandon(&self) {
        self.link.server.end();
    }
}

/// A request of the kernel's. Dropped without an answer it is answered with an I/O error.
pub struct FuseRequest {
    slot: Option<Rc<Slot>>,
}

impl FuseRequest {
    /// The head of the request, and what comes behind it up to 128 bytes.
    pub fn head(&self) -> &[u8] {
        self.bytes(0, HEAD_BYTES)
    }

    /// The operation's own head, 128 bytes of which it uses some.
    pub fn operation(&self) -> &[u8] {
        self.bytes(OPERATION_AT, OPERATION_BYTES)
    }

    /// What comes behind that.
    pub fn payload(&self) -> &[u8] {
        let Some(slot) = &self.slot else { return &[] };
        let len = u32::from_ne_bytes(slot.number(PAYLOAD_LEN_AT)) as usize;
        self.bytes(PAYLOAD_AT, len.min(slot.link.payload_bytes))
    }

    fn bytes(&self, at: usize, len: usize) -> &[u8] {
        self.slot.as_ref().map_or(&[], |slot| slot.bytes(at, len))
    }

    /// Answers, with zero or a negative error number. It goes to the kernel with this turn's other
    /// entries.
    pub fn answer(mut self, error: i32, body: &[u8]) {
        self.give_back(error, body);
    }

    fn give_back(&mut self, error: i32, body: &[u8]) {
        let Some(slot) = self.slot.take() else { return };
        let fits = body.len() <= slot.link.payload_bytes;
        let (error, body) = if fits { (error, body) } else { (-libc::EIO, &[][..]) };
        let commit_id: [u8; 8] = slot.number(COMMIT_ID_AT);
        // `struct fuse_out_header`, whose number is that of the request.
        const OUT_BYTES: usize = 16;
        let mut head = [0; OUT_BYTES];
        head[..4].copy_from_slice(&((OUT_BYTES + body.len()) as u32).to_ne_bytes());
        head[4..8].copy_from_slice(&error.to_ne_bytes());
        head[8..].copy_from_slice(&commit_id);
        slot.write(PAYLOAD_AT, body);
        slot.write(PAYLOAD_LEN_AT, &(body.len() as u32).to_ne_bytes());
        slot.write(0, &head);
        slot.submit(slot.command(COMMIT_AND_FETCH, u64::from_ne_bytes(commit_id), None));
    }
}

impl Drop for FuseRequest {
    fn drop(&mut self) {
        self.give_back(-libc::EIO, &[]);
    }
}

/// Pages that get memory when they are first written to.
struct Memory {
    base: NonNull<u8>,
    len: usize,
}

impl Memory {
    fn reserve(len: usize) -> io::Result<Memory> {
        // SAFETY: a new mapping, of no file.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), len, rights, flags, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = Memory { base, len };
        // A child that is forked would inherit it; and the first word of a huge page would take all of it.
        // SAFETY: our own mapping. The second is refused by a kernel that has no huge pages.
        unsafe {
            sys::check(libc::madvise(base.as_ptr().cast(), len, libc::MADV_DONTFORK))?;
            libc::madvise(base.as_ptr().cast(), len, libc::MADV_NOHUGEPAGE);
        }
        Ok(memory)
    }

    fn at(&self, at: usize) -> *mut u8 {
        debug_assert!(at <= self.len);
        // SAFETY: within the mapping, or at its end.
        unsafe { self.base.as_ptr().add(at) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping; who has it is the last to use it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
