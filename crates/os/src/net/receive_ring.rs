//! Frames arrive in memory that the kernel and we share (PACKET_RX_RING, TPACKET_V2): whether one has
//! come is told by a word there instead of a system call, and what a write carries can go to the
//! page cache from where it lies.
//!
//! Not TPACKET_V3: a block that isn't full waits for its timer, at least a millisecond.
#![allow(unsafe_code)] // memory that is shared with the kernel

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys;

/// Memory of a ring: enough for some milliseconds of 10 Gbit/s.
const RING_BYTES: usize = 16 << 20;
/// Tried where the kernel has no room for more.
const RING_BYTES_MIN: usize = 1 << 20;
/// The kernel allocates in blocks; slots don't cross their borders.
const BLOCK_BYTES_MIN: usize = 64 << 10;
/// Slots begin at multiples of a sector, and with the reserve so does what follows an ATA header.
const SLOT_ALIGNMENT_BYTES: usize = 512;
/// Puts the data of an ATA command at byte 512 of its slot: the kernel leaves 80 bytes (its header,
/// the address and the Ethernet header, rounded up) before the network header, to which this is
/// added, and 22 bytes of AoE header lie between that and the data.
const RESERVE_BYTES: usize = 410;
/// Where the Ethernet header begins then.
const FRAME_AT: usize = 512 - 36;
/// Zero in a tag that only gives a priority.
const VLAN_ID_MASK: u16 = 0x0fff;

/// `struct tpacket_req` of <linux/if_packet.h>.
#[repr(C)]
struct Request {
    block_bytes: libc::c_uint,
    block_count: libc::c_uint,
    slot_bytes: libc::c_uint,
    slot_count: libc::c_uint,
}

/// A frame that was taken, or what was wrong with it.
pub(super) enum Taken {
    /// It was handed out.
    Frame,
    /// It didn't fit into its slot.
    Truncated,
    /// It is of a VLAN, whose tag the kernel has taken off: not for the interface itself.
    Tagged,
    /// Nothing waits.
    Nothing,
}

/// The ring of one socket. The socket must outlive it.
pub(super) struct ReceiveRing {
    memory: NonNull<u8>,
    len_bytes: usize,
    block_bytes: usize,
    slot_bytes: usize,
    slots_per_block: usize,
    slot_count: usize,
    next: usize,
}

impl ReceiveRing {
    /// A ring for frames of up to `frame_bytes`, Ethernet header included.
    pub(super) fn open(fd: BorrowedFd<'_>, frame_bytes: usize) -> io::Result<ReceiveRing> {
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_VERSION, version)?;
        let reserve = RESERVE_BYTES as libc::c_int;
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_RESERVE, reserve)?;
        let mut bytes = RING_BYTES;
        loop {
            match ReceiveRing::of_size(fd, frame_bytes, bytes) {
                Err(error) if sys::is_errno(&error, libc::ENOMEM) && bytes > RING_BYTES_MIN => {
                    bytes /= 2;
                }
                opened => return opened,
            }
        }
    }

    fn of_size(fd: BorrowedFd<'_>, frame_bytes: usize, bytes: usize) -> io::Result<ReceiveRing> {
        #[cfg(test)]
        if frame_bytes > tests::FRAME_BYTES_MAX.get() {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        let slot_bytes = (FRAME_AT + frame_bytes).next_multiple_of(SLOT_ALIGNMENT_BYTES);
        let block_bytes = slot_bytes.next_power_of_two().max(BLOCK_BYTES_MIN);
        let slots_per_block = block_bytes / slot_bytes;
        let blocks = (bytes / block_bytes).max(1);
        let ring = Request {
            block_bytes: block_bytes as libc::c_uint,
            block_count: blocks as libc::c_uint,
            slot_bytes: slot_bytes as libc::c_uint,
            slot_count: (slots_per_block * blocks) as libc::c_uint,
        };
        request(fd, &ring)?;
        let len_bytes = block_bytes * blocks;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            let _ = release(fd);
            return Err(error);
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let slot_count = slots_per_block * blocks;
        Ok(ReceiveRing {
            memory,
            len_bytes,
            block_bytes,
            slot_bytes,
            slots_per_block,
            slot_count,
            next: 0,
        })
    }

    /// The longest frame that fits.
    pub(super) fn frame_bytes(&self) -> usize {
        self.slot_bytes - FRAME_AT
    }

    /// Whether a frame waits. Costs no system call.
    pub(super) fn has_frame(&self) -> bool {
        self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// Hands the next frame out and gives its slot back.
    pub(super) fn take(&mut self, sink: &mut dyn FnMut(&[u8])) -> Taken {
        if !self.has_frame() {
            return Taken::Nothing;
        }
        let slot = self.slot();
        // Another processor wrote the next one: its bytes are on their way while this one is handled.
        prefetch(self.slot_at(self.after(self.next)));
        // SAFETY: the slot is ours while its status says so, and it begins with this header.
        let header = unsafe { slot.cast::<libc::tpacket2_hdr>().as_ref() };
        let (start, len) = (usize::from(header.tp_mac), header.tp_snaplen as usize);
        let tagged = header.tp_status & libc::TP_STATUS_VLAN_VALID != 0
            && header.tp_vlan_tci & VLAN_ID_MASK != 0;
        let whole = header.tp_len as usize == len && start + len <= self.slot_bytes;
        if whole && !tagged {
            // SAFETY: within the slot, as just checked, initialised by the kernel, and nobody else
            // writes to it before the status is given back below.
            let frame = unsafe { std::slice::from_raw_parts(slot.as_ptr().add(start), len) };
            sink(frame);
        }
        self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = self.after(self.next);
        match (whole, tagged) {
            (true, false) => Taken::Frame,
            (true, true) => Taken::Tagged,
            (false, _) => Taken::Truncated,
        }
    }

    /// Gives the memory back. The socket can have another ring then.
    pub(super) fn close(self, fd: BorrowedFd<'_>) -> io::Result<()> {
        drop(self);
        release(fd)
    }

    fn slot(&self) -> NonNull<u8> {
        self.slot_at(self.next)
    }

    /// The slot of a number, which is below the number of slots.
    fn slot_at(&self, number: usize) -> NonNull<u8> {
        let (block, index) = (number / self.slots_per_block, number % self.slots_per_block);
        let offset = block * self.block_bytes + index * self.slot_bytes;
        // SAFETY: all slots lie within the mapping.
        unsafe { self.memory.add(offset) }
    }

    fn after(&self, number: usize) -> usize {
        if number + 1 == self.slot_count { 0 } else { number + 1 }
    }

    /// The word by which slots change hands; the first of the slot's header.
    fn status(&self) -> &AtomicU32 {
        // SAFETY: aligned, within the mapping, and only ever accessed atomically by both sides.
        unsafe { AtomicU32::from_ptr(self.slot().as_ptr().cast()) }
    }
}

impl Drop for ReceiveRing {
    fn drop(&mut self) {
        // SAFETY: the mapping is this ring's alone, and no frame of it is borrowed any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len_bytes) };
    }
}

/// Asks for the bytes that will be looked at first: the slot's status and the frame's headers.
#[cfg(target_arch = "x86_64")]
fn prefetch(slot: NonNull<u8>) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for offset in [0, FRAME_AT] {
        // SAFETY: a hint, and within the slot.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(slot.as_ptr().add(offset).cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_: NonNull<u8>) {}

fn release(fd: BorrowedFd<'_>) -> io::Result<()> {
    request(fd, &Request { block_bytes: 0, block_count: 0, slot_bytes: 0, slot_count: 0 })
}

fn request(fd: BorrowedFd<'_>, ring: &Request) -> io::Result<()> {
    // SAFETY: the kernel reads one `struct tpacket_req`.
    sys::check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_RX_RING,
            ptr::from_ref(ring).cast(),
            size_of::<Request>() as libc::socklen_t,
        )
    })
    .map(drop)
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    thread_local! {
        /// Rings for longer frames find no memory: no kernel can be made to run out of it for one
        /// test alone.
        pub(in super::super) static FRAME_BYTES_MAX: Cell<usize> = const { Cell::new(usize::MAX) };
    }
}
