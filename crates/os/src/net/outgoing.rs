//! Frames on their way out of a packet socket, and those that it doesn't take at once.
//!
//! A burst of answers is easily longer than the interface's queue. What was refused waits here, in
//! order, until there is room: its client would notice the loss only after a timeout.
#![allow(unsafe_code)] // sendmmsg takes arrays of raw pointers

use runtime::{Notify, timeout};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

use super::batch::{BATCH, empty_message};
use crate::reactor::ReactorHandle;
use crate::sys;
use aoe_wire::Frame;

/// The least that Ethernet carries, without the checksum.
const FRAME_MIN_BYTES: usize = 60;
static PADDING: [u8; FRAME_MIN_BYTES] = [0; FRAME_MIN_BYTES];
/// Frames that wait before more are dropped: an answer to each command that the queue of an export
/// takes by default.
pub(super) const WAITING_MAX: usize = 2048;
/// And their bytes: with large frames those would be too many.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// Between attempts while the interface's queue is full, of which nobody tells when it has room. Long
/// queues last longer than that, so the wire doesn't fall idle.
const PAUSE: Duration = Duration::from_millis(1);
/// How long nothing may be taken before frames are given up: behind a link that is paused their clients
/// have long asked again. Some are never taken: those that are longer than a traffic shaper's bucket is
/// deep.
const SEND_TIMEOUT: Duration = Duration::from_millis(250);

/// Why frames wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The socket's own memory is spent (EAGAIN); poll tells when there is some.
    Socket,
    /// The interface's queue is full (ENOBUFS); poll knows nothing of it.
    Interface,
}

/// The sending half of a packet socket.
pub(super) struct Outgoing {
    socket: Rc<OwnedFd>,
    waiting: RefCell<VecDeque<Frame>>,
    /// Why; `None` when nothing waits.
    refusal: Cell<Option<Refusal>>,
    refused: Notify,
    sent: Cell<u64>,
    dropped: Cell<u64>,
}

/// What became of a list of frames.
struct Attempt {
    /// How many of the first ones need no more attention: sent, or never to be sent.
    handled: usize,
    refusal: Option<Refusal>,
}

impl Outgoing {
    pub(super) fn new(socket: Rc<OwnedFd>) -> Outgoing {
        Outgoing {
            socket,
            waiting: RefCell::default(),
            refusal: Cell::new(None),
            refused: Notify::new(),
            sent: Cell::new(0),
            dropped: Cell::new(0),
        }
    }

    /// Frames that the kernel took.
    pub(super) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Frames that nobody will see.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Sends `frames` and empties the list, behind those that wait.
    pub(super) fn transmit(&self, frames: &mut Vec<Frame>) {
        if self.refusal.get().is_some() {
            self.keep(frames.drain(..));
            return self.flush();
        }
        let attempt = self.send(frames);
        if attempt.refusal.is_some() {
            self.refusal.set(attempt.refusal);
            self.keep(frames.drain(attempt.handled..));
            self.refused.notify_all();
        }
        frames.clear();
    }

    /// Sends of what waits as much as is taken now.
    pub(super) fn flush(&self) {
        if self.refusal.get().is_none() {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        while !waiting.is_empty() {
            let attempt = self.send(waiting.as_slices().0);
            waiting.drain(..attempt.handled);
            if attempt.refusal.is_some() {
                return self.refusal.set(attempt.refusal);
            }
        }
        self.refusal.set(None);
    }

    /// Looks after what waits, for as long as there is a port.
    pub(super) async fn tend(&self, handle: &ReactorHandle) {
        loop {
            let refused = self.refused.notified();
            self.persist(handle).await;
            refused.await;
        }
    }

    async fn persist(&self, handle: &ReactorHandle) {
        let (mut sent, mut moved) = (self.sent.get(), handle.runtime().now());
        while let Some(refusal) = self.refusal.get() {
            match refusal {
                Refusal::Socket => {
                    let writable = handle.poll(Rc::clone(&self.socket), libc::POLLOUT);
                    let polled = timeout(handle.runtime(), SEND_TIMEOUT, writable).await;
                    if polled.is_ok_and(|(polled, _)| polled.is_err()) {
                        handle.runtime().sleep(PAUSE).await;
                    }
                }
                Refusal::Interface => handle.runtime().sleep(PAUSE).await,
            }
            self.flush();
            let now = handle.runtime().now();
            if self.sent.get() != sent || self.refusal.get().is_none() {
                (sent, moved) = (self.sent.get(), now);
            } else if now.since(moved) > SEND_TIMEOUT {
                self.give_up_first();
            }
        }
    }

    /// Drops frames until one is taken.
    fn give_up_first(&self) {
        let sent = self.sent.get();
        while self.sent.get() == sent && self.waiting.borrow_mut().pop_front().is_some() {
            self.count_dropped(1);
            self.flush();
        }
    }

    fn keep(&self, frames: impl Iterator<Item = Frame>) {
        let mut waiting = self.waiting.borrow_mut();
        let mut bytes: usize = waiting.iter().map(Frame::len_bytes).sum();
        for frame in frames {
            let with_it = bytes + frame.len_bytes();
            if waiting.len() < WAITING_MAX && with_it <= WAITING_BYTES_MAX {
                waiting.push_back(frame);
                bytes = with_it;
            } else {
                self.count_dropped(1);
            }
        }
    }

    fn send(&self, frames: &[Frame]) -> Attempt {
        let mut handled = 0;
        while handled < frames.len() {
            let end = frames.len().min(handled + BATCH);
            match send(self.socket.as_fd(), &frames[handled..end]) {
                // Can't be; but it must not become a loop.
                Ok(0) => break,
                Ok(count) => {
                    handled += count;
                    self.sent.set(self.sent.get() + count as u64);
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // This one is too long; the next may not be.
                    Some(libc::EMSGSIZE | libc::EINVAL) => {
                        handled += 1;
                        self.count_dropped(1);
                    }
                    Some(libc::EAGAIN) => {
                        return Attempt { handled, refusal: Some(Refusal::Socket) };
                    }
                    Some(libc::ENOBUFS) => {
                        return Attempt { handled, refusal: Some(Refusal::Interface) };
                    }
                    // The interface is down or gone: what remains is lost as on a wire, and sent
                    // again by those who care.
                    _ => break,
                },
            }
        }
        self.count_dropped(frames.len() - handled);
        Attempt { handled: frames.len(), refusal: None }
    }

    fn count_dropped(&self, count: usize) {
        self.dropped.set(self.dropped.get() + count as u64);
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
