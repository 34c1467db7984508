//! Frames in batches: many per system call, headers and data from where they lie.
#![allow(unsafe_code)] // recvmmsg and sendmmsg take arrays of raw pointers

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::sys;
use aoe::wire::Frame;

/// Frames per system call.
pub(super) const BATCH: usize = 64;
/// The least that Ethernet carries, without the checksum.
const FRAME_MIN_BYTES: usize = 60;
static PADDING: [u8; FRAME_MIN_BYTES] = [0; FRAME_MIN_BYTES];

/// Room for a batch of arriving frames.
pub(super) struct ReceiveBatch {
    memory: Vec<u8>,
    frame_bytes: usize,
}

/// How a batch of frames was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// Messages taken from the socket.
    pub(super) taken: usize,
    /// Of these, larger than the room for them, and dropped.
    pub(super) truncated: usize,
    /// Of these, empty: on a stream of messages its end.
    pub(super) empty: usize,
}

impl ReceiveBatch {
    /// Room for frames of up to `frame_bytes`.
    pub(super) fn new(frame_bytes: usize) -> ReceiveBatch {
        ReceiveBatch { memory: vec![0; frame_bytes * BATCH], frame_bytes }
    }

    /// Takes what waits on `fd`, at most a batch, without blocking.
    pub(super) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        sink: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Received> {
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        let mut messages = [empty_message(); BATCH];
        let chunks = self.memory.chunks_exact_mut(self.frame_bytes);
        for ((part, message), chunk) in parts.iter_mut().zip(&mut messages).zip(chunks) {
            *part = libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: BATCH headers, each with one part that describes a chunk of `memory` of its own;
        // all of it outlives the call.
        let taken = sys::check(unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        })?;
        let mut received = Received { taken: taken as usize, ..Received::default() };
        let chunks = self.memory.chunks_exact(self.frame_bytes);
        for (message, chunk) in messages.iter().take(taken as usize).zip(chunks) {
            let len = message.msg_len as usize;
            if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 || len > chunk.len() {
                received.truncated += 1;
            } else if len == 0 {
                received.empty += 1;
            } else {
                sink(&chunk[..len]);
            }
        }
        Ok(received)
    }
}

/// Sends `frames` (at most a batch) without blocking; returns how many the socket took.
pub(super) fn send(fd: BorrowedFd<'_>, frames: &[Frame]) -> io::Result<usize> {
    let mut parts = [[libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; 3]; BATCH];
    let mut messages = [empty_message(); BATCH];
    let count = frames.len().min(BATCH);
    for ((part, message), frame) in parts.iter_mut().zip(&mut messages).zip(frames) {
        let padding = FRAME_MIN_BYTES.saturating_sub(frame.len_bytes());
        // Each part costs; few frames have all three.
        let all = [frame.head.as_slice(), &frame.payload, &PADDING[..padding]];
        let mut count = 0;
        for bytes in all.into_iter().filter(|bytes| !bytes.is_empty()) {
            part[count] = bytes_of(bytes);
            count += 1;
        }
        message.msg_hdr.msg_iov = part.as_mut_ptr();
        message.msg_hdr.msg_iovlen = count;
    }
    // SAFETY: `count` headers, each with three parts that describe memory of `frames` or of the
    // padding; sending only reads it, and all of it outlives the call.
    let sent = sys::check(unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr(),
            count as libc::c_uint,
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    })?;
    Ok(sent as usize)
}

fn bytes_of(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn empty_message() -> libc::mmsghdr {
    // SAFETY: null pointers and zero lengths are a valid header without parts.
    unsafe { std::mem::zeroed() }
}
