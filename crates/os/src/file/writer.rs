//! Writes through the page cache, on a thread of the file's own.
//!
//! Most file systems can't write there without the risk of waiting. io_uring gives each such write to
//! a thread of its pool, at several times the price of the write; and where the reactor wrote
//! itself, one medium that hangs would hold up all others. What waits is taken together, and
//! answered together, so that two changes of threads serve many writes.
#![allow(unsafe_code)] // pwrite of shared memory

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use block::Buffer;
use futures::channel::oneshot;

use crate::reactor::{Elsewhere, Part, ReactorHandle};
use crate::sys;

/// Enough for system calls; the process locks its memory.
const STACK_BYTES: usize = 64 * 1024;
/// Writes between two answers: more would let the first wait for the last.
const TOGETHER_MAX: usize = 16;

/// What a write came to: the bytes written, and the data back.
type Written = (io::Result<u32>, Buffer);

/// The thread, as long as this lives.
pub(super) struct Writer {
    shared: Arc<Shared>,
    handle: ReactorHandle,
}

struct Shared {
    fd: OwnedFd,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: Vec<Job>,
    sleeping: bool,
    stopped: bool,
}

struct Job {
    data: Buffer,
    part: Part,
    done: oneshot::Sender<Written>,
}

impl Writer {
    /// Starts a thread that writes to `fd`.
    pub(super) fn start(handle: &ReactorHandle, fd: OwnedFd) -> io::Result<Writer> {
        let shared = Arc::new(Shared { fd, state: Mutex::default(), wake: Condvar::new() });
        let writing = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("writer".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || writing.run())?;
        Ok(Writer { shared, handle: handle.clone() })
    }

    /// Writes `data` from `part.start` to its end, or less.
    pub(super) async fn write_at(&self, data: Buffer, part: Part) -> Written {
        let (done, written) = oneshot::channel();
        let kept = data.clone();
        let _elsewhere: Elsewhere = self.handle.work_elsewhere();
        {
            let mut state = self.shared.lock();
            state.jobs.push(Job { data, part, done });
            if std::mem::take(&mut state.sleeping) {
                self.shared.wake.notify_one();
            }
        }
        // Its end without an answer can only be a panic over there.
        written.await.unwrap_or_else(|_| (Err(io::Error::from_raw_os_error(libc::EIO)), kept))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It ends when it has written what it was given; nobody waits, for a medium may hang.
        self.shared.lock().stopped = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut answers = Vec::with_capacity(TOGETHER_MAX);
        while let Some(jobs) = self.next_jobs() {
            let mut jobs = jobs.into_iter().peekable();
            while let Some(Job { data, part, done }) = jobs.next() {
                answers.push((done, (self.write(&data, part), data)));
                if answers.len() == TOGETHER_MAX || jobs.peek().is_none() {
                    for (done, written) in answers.drain(..) {
                        // Whoever asked may have gone away.
                        let _ = done.send(written);
                    }
                }
            }
        }
    }

    /// All that waits; `None` at the end.
    fn next_jobs(&self) -> Option<Vec<Job>> {
        let mut state = self.lock();
        while state.jobs.is_empty() {
            if state.stopped {
                return None;
            }
            state.sleeping = true;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.sleeping = false;
        Some(std::mem::take(&mut state.jobs))
    }

    fn write(&self, data: &Buffer, part: Part) -> io::Result<u32> {
        let source = &data[part.start..];
        let offset =
            libc::off_t::try_from(part.offset_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: pointer and length describe `source`, which the call only reads.
        let written = sys::check_len(unsafe {
            libc::pwrite(self.fd.as_raw_fd(), source.as_ptr().cast(), source.len(), offset)
        })?;
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }
}
