//! The io_uring itself: set-up with what the kernel offers, a submission queue that never refuses,
//! waiting with a deadline. It knows nothing of tasks.
#![allow(unsafe_code)] // entries for the kernel carry raw pointers; `push` passes the duty on

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::squeue::{Entry, Entry128};
use io_uring::{IoUring, types};

use crate::sys;

/// Sizes to try: on kernels before 5.12 the ring counts against RLIMIT_MEMLOCK.
const ENTRIES: [u32; 3] = [256, 64, 16];
/// Completions that fit before the kernel has to keep a list, per submission entry.
const COMPLETIONS_PER_ENTRY: u32 = 8;
/// IORING_ENTER_GETEVENTS of <linux/io_uring.h>.
const ENTER_GETEVENTS: u32 = 1;
/// Entries that are handed over as soon as there are so many: an idle disk begins while further
/// requests are being handled. The kernel sorts and holds back (plugs) what comes by more than two; with
/// a window of 32 reads handed over at the end of the turn the disk began 150 us later, 57,000 reads a
/// second instead of 66,000.
const ENTRIES_EARLY: usize = 2;
/// How long to wait at most while the kernel refuses submissions for lack of memory.
const REFUSED_WAIT: Duration = Duration::from_millis(1);

/// The kernel's ring, by the length of its entries.
enum Kernel {
    Short(IoUring),
    /// With room for the commands of drivers in each entry: FUSE's don't fit into the short ones.
    Long(IoUring<Entry128>),
}

/// An entry of either length.
#[derive(Clone)]
enum Queued {
    Short(Entry),
    Long(Entry128),
}

/// The same, whatever the entries' length.
macro_rules! each {
    ($kernel:expr, $ring:ident => $do:expr) => {
        match $kernel {
            Kernel::Short($ring) => $do,
            Kernel::Long($ring) => $do,
        }
    };
}

pub(super) struct Ring {
    kernel: Kernel,
    /// Entries that found the submission queue full.
    backlog: VecDeque<Queued>,
    /// The kernel's word that something is finished is of something that has been posted: it adds the
    /// work first and says so afterwards, and another entry may come between. It stands until there is
    /// other work.
    stale: bool,
}

impl Ring {
    pub(super) fn open() -> io::Result<Ring> {
        let mut refusal = io::Error::from(io::ErrorKind::Unsupported);
        for entries in ENTRIES {
            for flags in [Flags::Deferred, Flags::Cooperative, Flags::Plain] {
                match flags.build(entries) {
                    Ok(kernel) => {
                        return Ok(Ring { kernel, backlog: VecDeque::new(), stale: false });
                    }
                    Err(error) => refusal = error,
                }
            }
        }
        Err(io::Error::new(
            refusal.kind(),
            format!(
                "io_uring is not available ({refusal}); it needs Linux 5.10 or later and \
                 kernel.io_uring_disabled=0"
            ),
        ))
    }

    /// Queues an entry for the next submission.
    ///
    /// # Safety
    /// What the entry points to stays valid and unmoved until its completion is reaped.
    pub(super) unsafe fn push(&mut self, entry: Entry) {
        self.queue(Queued::Short(entry));
    }

    /// Whether [`Ring::push_command`] may be called.
    pub(super) fn takes_commands(&self) -> bool {
        matches!(self.kernel, Kernel::Long(_))
    }

    /// Queues a driver's command.
    ///
    /// # Safety
    /// As for [`Ring::push`].
    pub(super) unsafe fn push_command(&mut self, entry: Entry128) {
        debug_assert!(self.takes_commands());
        self.queue(Queued::Long(entry));
    }

    fn queue(&mut self, entry: Queued) {
        self.backlog.push_back(entry);
        self.fill();
        let waiting = self.entries();
        // What is refused now is tried again, and told, at the end of the turn.
        if waiting >= ENTRIES_EARLY && self.enter_now(waiting).is_ok() {
            self.fill();
        }
    }

    fn fill(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: `push` and `push_command` demand validity until completion.
            let pushed = unsafe {
                match (&mut self.kernel, entry) {
                    (Kernel::Short(ring), Queued::Short(entry)) => ring.submission().push(entry),
                    (Kernel::Long(ring), Queued::Short(entry)) => {
                        ring.submission().push(&Entry128::from(entry.clone()))
                    }
                    (Kernel::Long(ring), Queued::Long(entry)) => ring.submission().push(entry),
                    // Nobody may queue such.
                    (Kernel::Short(_), Queued::Long(_)) => Ok(()),
                }
            };
            if pushed.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Entries that the kernel hasn't taken yet.
    fn entries(&mut self) -> usize {
        each!(&mut self.kernel, ring => ring.submission().len())
    }

    fn is_full(&mut self) -> bool {
        each!(&mut self.kernel, ring => ring.submission().is_full())
    }

    fn has_completions(&mut self) -> bool {
        each!(&mut self.kernel, ring => !ring.completion().is_empty())
    }

    /// Whether something can be reaped, or would be after one call into the kernel. Costs no
    /// system call.
    pub(super) fn has_news(&mut self) -> bool {
        if self.has_completions() {
            return true;
        }
        let told = self.is_told_of_work();
        self.stale &= told;
        told && !self.stale
    }

    fn is_told_of_work(&mut self) -> bool {
        each!(&mut self.kernel, ring => {
            let queue = ring.submission();
            queue.taskrun() || queue.cq_overflow()
        })
    }

    /// Whether entries wait to be submitted.
    fn has_entries(&mut self) -> bool {
        !self.backlog.is_empty() || self.entries() > 0
    }

    /// Hands queued entries to the kernel and lets it post what is finished, also where its word of that
    /// may be stale: nothing else would tell.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        loop {
            self.fill();
            let entries = self.entries();
            if entries == 0 && !self.is_told_of_work() {
                return Ok(());
            }
            tolerate(self.enter_now(entries))?;
            self.stale = !self.has_completions() && self.is_told_of_work();
            // A full queue that the kernel didn't take is tried again after completions are reaped.
            if self.backlog.is_empty() || self.is_full() {
                return Ok(());
            }
        }
    }

    /// Submits without waiting. A plain submission leaves what is finished where it is: without
    /// GETEVENTS the kernel posts nothing.
    fn enter_now(&self, entries: usize) -> io::Result<usize> {
        let entries = u32::try_from(entries).unwrap_or(u32::MAX);
        let submitter = each!(&self.kernel, ring => ring.submitter());
        // SAFETY: no argument, and the entries are those that `push` answers for.
        unsafe { submitter.enter::<libc::sigset_t>(entries, 0, ENTER_GETEVENTS, None) }
    }

    /// Submits, then waits for a completion, at most for `limit`: by one system call where the kernel
    /// takes all entries.
    pub(super) fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.fill();
        if self.has_completions() {
            return self.submit();
        }
        if self.backlog.is_empty() && self.has_entries() && self.can_wait(limit) {
            self.enter(limit)?;
            // What the kernel refused is tried again below; it hasn't waited then.
            if !self.has_entries() {
                return Ok(());
            }
        }
        self.submit()?;
        let limit = if self.has_entries() {
            Some(limit.unwrap_or(REFUSED_WAIT).min(REFUSED_WAIT))
        } else {
            limit
        };
        if self.has_completions() {
            return Ok(());
        }
        match limit {
            Some(limit) if !self.can_wait(Some(limit)) => self.poll_descriptor(limit),
            limit => self.enter(limit),
        }
    }

    /// Whether the kernel knows how to wait so.
    fn can_wait(&self, limit: Option<Duration>) -> bool {
        limit.is_none() || each!(&self.kernel, ring => ring.params().is_feature_ext_arg())
    }

    fn enter(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let Some(limit) = limit else {
            return tolerate(each!(&self.kernel, ring => ring.submit_and_wait(1)));
        };
        let limit = types::Timespec::from(limit);
        let arguments = types::SubmitArgs::new().timespec(&limit);
        let submitter = each!(&self.kernel, ring => ring.submitter());
        tolerate(submitter.submit_with_args(1, &arguments))
    }

    /// Before Linux 5.11 waiting takes no deadline, but the ring's descriptor can be polled.
    fn poll_descriptor(&self, limit: Duration) -> io::Result<()> {
        let fd = each!(&self.kernel, ring => ring.as_raw_fd());
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let limit = libc::timespec {
            tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        // SAFETY: one pollfd and one timespec, both alive until the call returns; no signal mask.
        let polled = sys::check(unsafe { libc::ppoll(&mut poll, 1, &limit, std::ptr::null()) });
        tolerate(polled.map(|_| 0))
    }

    /// Takes finished operations (user data and result), at most `into`'s free capacity.
    pub(super) fn reap(&mut self, into: &mut Vec<(u64, i32)>) {
        let room = into.capacity() - into.len();
        let queue = each!(&mut self.kernel, ring => ring.completion());
        into.extend(queue.take(room).map(|entry| (entry.user_data(), entry.result())));
    }
}

/// Refusals that pass: interrupted, timed out, out of memory for requests, completions to reap.
fn tolerate(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => Ok(()),
            _ => Err(error),
        },
    }
}

/// From the cheapest way of completion to what every kernel has.
#[derive(Clone, Copy)]
enum Flags {
    /// Linux 6.1: completions are posted when we ask, by our own thread. Kernels that know FUSE over
    /// io_uring know this.
    Deferred,
    /// Linux 5.19: no interrupt for a completion.
    Cooperative,
    Plain,
}

impl Flags {
    fn build(self, entries: u32) -> io::Result<Kernel> {
        let completions = entries * COMPLETIONS_PER_ENTRY;
        let mut short = IoUring::builder();
        short.dontfork().setup_clamp().setup_cqsize(completions);
        match self {
            Flags::Deferred => {
                let mut long = IoUring::<Entry128>::builder();
                long.dontfork().setup_clamp().setup_cqsize(completions);
                long.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
                return long.build(entries).map(Kernel::Long);
            }
            Flags::Cooperative => {
                short.setup_coop_taskrun().setup_taskrun_flag();
            }
            Flags::Plain => {}
        }
        short.build(entries).map(Kernel::Short)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use io_uring::opcode;

    /// What looking for news finds must be gone after dealing with it, or looking becomes a loop: also
    /// when the kernel tells of it a second time because two processors were at it.
    #[test]
    fn a_submission_posts_what_is_finished() {
        const ROUNDS: u64 = 50_000;
        let mut ring = Ring::open().unwrap();
        let event = Arc::new(sys::event_fd().unwrap());
        let asked = Arc::new(AtomicU64::new(0));
        let (writer, until) = (Arc::clone(&event), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            for round in 1..=ROUNDS {
                while until.load(Ordering::Acquire) < round {
                    std::hint::spin_loop();
                }
                rustix::io::write(&writer, &1u64.to_ne_bytes()).unwrap();
            }
        });
        for round in 1..=ROUNDS {
            let poll = opcode::PollAdd::new(types::Fd(event.as_raw_fd()), libc::POLLIN as u32);
            // SAFETY: no memory; `event` outlives the ring's use.
            unsafe { ring.push(poll.build().user_data(round)) };
            ring.submit().unwrap();
            asked.store(round, Ordering::Release);
            let (mut reaped, mut looks) = (Vec::with_capacity(4), 0);
            while reaped.is_empty() {
                looks += 1;
                // Half of the rounds are in the kernel already when it is about to tell. The others
                // look for a while, and no longer: the kernel may have told too early.
                if round % 2 == 0 || ring.has_news() || looks > 10_000 {
                    ring.enter_now(0).unwrap();
                    ring.reap(&mut reaped);
                }
            }
            assert_eq!(reaped, [(round, i32::from(libc::POLLIN))]);
            rustix::io::read(&event, &mut [0; 8]).unwrap();
            ring.submit().unwrap();
            assert!(!ring.has_news(), "round {round}");
        }
        thread.join().unwrap();
    }
}
