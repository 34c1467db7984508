//! Writes through the page cache, on a thread of the file's own.
//!
//! Most file systems can't write there without the risk of waiting. io_uring gives each such write to
//! a thread of its pool, at several times the price of the write; and where the reactor wrote
//! itself, one medium that hangs would hold up all others. What waits is taken together, and
//! answered together, so that two changes of threads serve many writes.
#![allow(unsafe_code)] // pwrite of shared memory

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use block::Buffer;
use futures::channel::oneshot;
use futures::task::AtomicWaker;

use crate::reactor::{Part, ReactorHandle};
use crate::sys;

/// Enough for system calls; the process locks its memory.
const STACK_BYTES: usize = 64 * 1024;
/// Writes between two answers: more would let the first wait for the last.
const TOGETHER_MAX: usize = 16;

/// What a write came to: the bytes written, and the data back.
type Written = (io::Result<u32>, Buffer);

/// The thread, as long as this lives.
pub(super) struct Writer {
    handle: ReactorHandle,
    shared: Arc<Shared>,
    waiting: Rc<RefCell<BTreeMap<u64, Done>>>,
    next_number: Cell<u64>,
    /// The thread will be told at the end of this turn.
    telling: Rc<Cell<bool>>,
}

/// Called with what a write came to.
type Done = Box<dyn FnOnce(Written)>;

struct Shared {
    fd: OwnedFd,
    state: Mutex<State>,
    wake: Condvar,
    /// Of the task that hands out the answers.
    answered: AtomicWaker,
}

#[derive(Default)]
struct State {
    jobs: Vec<Job>,
    answers: Vec<(u64, Written)>,
    sleeping: bool,
    stopped: bool,
}

struct Job {
    number: u64,
    data: Buffer,
    part: Part,
}

impl Writer {
    /// Starts a thread that writes to `fd`.
    pub(super) fn start(handle: &ReactorHandle, fd: OwnedFd) -> io::Result<Writer> {
        let shared = Arc::new(Shared {
            fd,
            state: Mutex::default(),
            wake: Condvar::new(),
            answered: AtomicWaker::new(),
        });
        let writing = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("writer".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || writing.run())
            // No more threads (EAGAIN) is not what EAGAIN is for a write: it wouldn't pass at once.
            .map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let waiting = Rc::default();
        handle.runtime().spawn(hand_out(Arc::clone(&shared), Rc::clone(&waiting)));
        Ok(Writer {
            handle: handle.clone(),
            shared,
            waiting,
            next_number: Cell::new(0),
            telling: Rc::default(),
        })
    }

    /// Whether it has written all that it was given.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Writes `data` from `part.start` to its end, or less.
    pub(super) async fn write_at(&self, data: Buffer, part: Part) -> Written {
        let (sender, written) = oneshot::channel();
        // Whoever asked may have gone away.
        self.begin(data, part, move |written| drop(sender.send(written)));
        let nothing = || (Err(io::Error::from_raw_os_error(libc::ECANCELED)), Buffer::empty());
        written.await.unwrap_or_else(|_| nothing())
    }

    /// The same, told by a call.
    pub(super) fn begin(&self, data: Buffer, part: Part, done: impl FnOnce(Written) + 'static) {
        let number = self.next_number.replace(self.next_number.get() + 1);
        let elsewhere = self.handle.work_elsewhere();
        let done = move |written| {
            drop(elsewhere);
            done(written);
        };
        self.waiting.borrow_mut().insert(number, Box::new(done));
        self.shared.lock().jobs.push(Job { number, data, part });
        self.tell_at_end_of_turn();
    }

    /// Once for all writes of a turn: each wake-up would change threads.
    fn tell_at_end_of_turn(&self) {
        if self.telling.replace(true) {
            return;
        }
        let (shared, telling) = (Arc::clone(&self.shared), Rc::clone(&self.telling));
        self.handle.at_end_of_turn(move || {
            telling.set(false);
            if std::mem::take(&mut shared.lock().sleeping) {
                shared.wake.notify_one();
            }
        });
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It ends when it has written what it was given; nobody waits, for a medium may hang.
        self.shared.lock().stopped = true;
        self.shared.wake.notify_one();
        self.shared.answered.wake();
    }
}

/// Gives answers to those who wait for them, until the writer is gone.
async fn hand_out(shared: Arc<Shared>, waiting: Rc<RefCell<BTreeMap<u64, Done>>>) {
    poll_fn(|context| {
        shared.answered.register(context.waker());
        let (answers, stopped) = {
            let mut state = shared.lock();
            (std::mem::take(&mut state.answers), state.stopped)
        };
        for (number, written) in answers {
            let done = waiting.borrow_mut().remove(&number);
            if let Some(done) = done {
                done(written);
            }
        }
        if stopped { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some(jobs) = self.next_jobs() {
            let mut answers = Vec::with_capacity(jobs.len());
            for Job { number, data, part } in jobs {
                let written = write_here(self.fd.as_fd(), &data[part.start..], part.offset_bytes);
                answers.push((number, (written, data)));
                if answers.len() == TOGETHER_MAX {
                    self.answer(&mut answers);
                }
            }
            self.answer(&mut answers);
        }
    }

    fn answer(&self, answers: &mut Vec<(u64, Written)>) {
        if !answers.is_empty() {
            self.lock().answers.append(answers);
            self.answered.wake();
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
}

/// Writes `data`, or a part of it, and waits for that.
pub(super) fn write_here(fd: BorrowedFd<'_>, data: &[u8], offset_bytes: u64) -> io::Result<u32> {
    let offset = libc::off_t::try_from(offset_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: pointer and length describe `data`, which the call only reads.
    let written = sys::check_len(unsafe {
        libc::pwrite(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), offset)
    })?;
    Ok(u32::try_from(written).unwrap_or(u32::MAX))
}
