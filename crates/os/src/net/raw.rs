//! A packet socket without a reactor, for tools that load a target or attack it.
//!
//! A load generator must not be measured along with what it measures: it has a core for itself, looks
//! for answers without ever sleeping if it likes, and stays as it is while the port of the target
//! changes. And a test of hostile frames must be able to send what no port would: any bytes, from any
//! address.
#![allow(unsafe_code)] // recvmmsg and sendmmsg take arrays of raw pointers

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use aoe_wire::MacAddr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::batch::{BATCH, ReceiveBatch};
use super::packet::{self, InterfaceSpec, PacketPortError, Role};
use super::{link, netns};
use crate::sys;

/// Room for the frames of a few hundred answers, each of which counts as more than it is.
const BUFFER_BYTES: i32 = 16 << 20;

/// Frames, by hand.
pub struct FrameSocket {
    socket: OwnedFd,
    mac: MacAddr,
    mtu_bytes: usize,
    room: ReceiveBatch,
}

impl FrameSocket {
    /// Opens a socket on an interface that is there. `role` says what to hear; `None` hears every
    /// AoE frame, also those that are for others.
    pub fn open(
        interface: &InterfaceSpec,
        role: Option<Role>,
    ) -> Result<FrameSocket, PacketPortError> {
        let failed = |error| PacketPortError { interface: interface.clone(), error };
        let opened = netns::run_in(interface.netns.as_deref(), || {
            let socket = packet::open_socket(role)?;
            let link = link::query(socket.as_fd(), &interface.name)?;
            packet::bind(socket.as_fd(), link.index)?;
            // No ring as ports have it: what arrives while its owner doesn't run waits here.
            sys::enlarge_buffers(socket.as_fd(), BUFFER_BYTES, BUFFER_BYTES);
            Ok((socket, link))
        });
        let (socket, link) = opened.map_err(failed)?;
        let room = ReceiveBatch::new(link.mtu_bytes + packet::FRAME_EXTRA_BYTES);
        Ok(FrameSocket { socket, mac: link.mac, mtu_bytes: link.mtu_bytes, room })
    }

    /// The interface's address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// The interface's largest payload.
    pub fn mtu_bytes(&self) -> usize {
        self.mtu_bytes
    }

    /// Hands out what waits, at most a batch; returns how many frames that were.
    pub fn receive(&mut self, sink: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        match self.room.receive(self.socket.as_fd(), sink) {
            Ok(received) => Ok(received.taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Waits until something can be received, at most for `limit`; returns whether it can.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut watched = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut watched, Some(&limit)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends `frames` as they are, without padding; returns how many of the first ones the kernel
    /// took (none when its queue is full).
    pub fn send(&self, frames: &[&[u8]]) -> io::Result<usize> {
        let mut sent = 0;
        for batch in frames.chunks(BATCH) {
            let taken = match self.send_batch(batch) {
                Ok(taken) => taken,
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR)
                    ) =>
                {
                    0
                }
                // What was sent before was sent.
                Err(error) if sent == 0 => return Err(error),
                Err(_) => 0,
            };
            sent += taken;
            if taken < batch.len() {
                break;
            }
        }
        Ok(sent)
    }

    fn send_batch(&self, frames: &[&[u8]]) -> io::Result<usize> {
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        // SAFETY: null pointers and zero lengths are a valid header without parts.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for ((part, message), frame) in parts.iter_mut().zip(&mut messages).zip(frames) {
            *part =
                libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
        }
        let count = frames.len().min(BATCH);
        // SAFETY: `count` headers, each with one part that describes a frame; sending only reads
        // it, and all of it outlives the call.
        let sent = sys::check(unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        })?;
        Ok(sent as usize)
    }
}
