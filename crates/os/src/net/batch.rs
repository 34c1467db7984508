//! Arriving frames in batches: many per system call.
#![allow(unsafe_code)] // recvmmsg takes arrays of raw pointers

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::sys;

/// Frames per system call.
pub(super) const BATCH: usize = 64;

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

pub(super) fn empty_message() -> libc::mmsghdr {
    // SAFETY: null pointers and zero lengths are a valid header without parts.
    unsafe { std::mem::zeroed() }
}
