//! What a process has of a [`Disk`] between opening it and dying.
//!
//! Production reaches a disk in more than one way, and each opening here takes one by luck: futures
//! ([`Way::Called`]), transfers that are begun and tell their end by a call ([`Way::Begun`]), the same
//! with answers at once from a cache ([`Way::AtOnce`]), and a thread of the process in between
//! ([`Way::Queued`]), with which what it hadn't begun goes when the process is killed.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use block::{
    BlockDevice, Buffer, BufferMut, Claim, Completion, DeviceEvent, Durability, DurabilityClass,
    Geometry, Holder, Instance, Instant, IoError, IoFuture, Lba, SECTOR_BYTES, SectorRange,
    Transfer, TransferDone,
};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use rand::Rng;
use runtime::Handle;

use super::{Disk, Performed, Work};
use crate::steps::{Effect, Kind};

const MAX_TRANSFER_BYTES: u32 = 1 << 20;
/// Longest time that a request lies in the queue of a process's thread.
const QUEUED_MAX: Duration = Duration::from_micros(150);

/// How a process reaches a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By futures only; effects happen with the call.
    Called,
    /// Transfers are begun; effects happen with the call.
    Begun,
    /// As [`Way::Begun`], and what needs no medium is often answered within the call.
    AtOnce,
    /// Transfers are begun and queue for a thread; effects happen later, in order.
    Queued,
}

type Answer = Result<Completion<Buffer>, IoError>;
type Done = Box<dyn FnOnce(Answer)>;

/// An open disk.
pub struct SimDisk {
    disk: Rc<Disk>,
    pub(super) instance: Instance,
    way: Way,
    /// For those who begin transfers: where they are told of the end.
    handle: Option<Handle>,
    /// When the thread will have begun all that queues.
    queued_until: Cell<Instant>,
    /// Lives as long as the process.
    alive: Rc<()>,
}

impl Disk {
    /// Opens it: a new instance. Futures only.
    pub fn open(self: &Rc<Self>) -> Rc<SimDisk> {
        self.open_as(Way::Called, None)
    }

    /// Opens it in a process, in a way by luck.
    pub fn open_in(self: &Rc<Self>, handle: &Handle) -> Rc<SimDisk> {
        let ways = [Way::Called, Way::Begun, Way::AtOnce, Way::Queued];
        let way = ways[self.random.borrow_mut().random_range(0..ways.len())];
        self.open_as(way, Some(handle.clone()))
    }

    /// Opens it in a given way.
    pub fn open_as(self: &Rc<Self>, way: Way, handle: Option<Handle>) -> Rc<SimDisk> {
        let instance = Instance(self.random.borrow_mut().random::<u64>() | 1);
        self.to_be_reopened.set(false);
        Rc::new(SimDisk {
            disk: Rc::clone(self),
            instance,
            way,
            handle,
            queued_until: Cell::default(),
            alive: Rc::new(()),
        })
    }
}

/// Does `work` and has `done` told when it is answered, unless the power goes before.
fn execute(disk: &Rc<Disk>, work: Work, instance: Instance, done: Done) {
    let duration = disk.duration(matches!(&work, Work::Write(_, _, Durability::Durable)));
    let performed = disk.perform(work);
    answer_after(disk, duration, move |disk| {
        let result = disk.complete(performed)?;
        done(result.map(|data| Completion::new(instance, data)));
        Some(())
    });
}

/// Calls `answer` after `duration`, unless the power goes before.
fn answer_after(
    disk: &Rc<Disk>,
    duration: Duration,
    answer: impl FnOnce(&Disk) -> Option<()> + 'static,
) {
    let cycle = disk.power_cycle.get();
    let at = (disk.timeline.now() + duration).max(disk.stuck_until.get());
    let (timeline, disk) = (Rc::clone(&disk.timeline), Rc::clone(disk));
    timeline.schedule(at, move || {
        if disk.power_cycle.get() == cycle {
            disk.story.mix(disk.timeline.now().as_nanos() ^ disk.next_write.get() << 40);
            // Nothing: a crash came in between, and nobody is left to see an answer.
            let _ = answer(&disk);
        }
    });
}

impl SimDisk {
    fn start(&self, work: Work, done: Done) {
        if let Some(error) = self.refusal(work.range()) {
            return answer_after(&self.disk, Duration::from_micros(10), move |_| {
                done(Err(error));
                Some(())
            });
        }
        if self.way != Way::Queued {
            return execute(&self.disk, work, self.instance, done);
        }
        let (disk, instance) = (Rc::clone(&self.disk), self.instance);
        let wait = disk.random.borrow_mut().random_range(0..QUEUED_MAX.as_nanos() as u64);
        let begin = disk.timeline.now() + Duration::from_nanos(wait);
        let begin = begin.max(self.queued_until.get());
        self.queued_until.set(begin);
        let (alive, cycle): (Weak<()>, u64) = (Rc::downgrade(&self.alive), disk.power_cycle.get());
        let timeline = Rc::clone(&disk.timeline);
        timeline.schedule(begin, move || {
            // The thread dies with its process, the medium with the power.
            if alive.upgrade().is_some() && disk.power_cycle.get() == cycle {
                execute(&disk, work, instance, done);
            }
        });
    }

    fn call(&self, work: Work) -> IoFuture<'static, Buffer> {
        let (sender, receiver) = oneshot::channel();
        self.start(
            work,
            Box::new(move |result| {
                // A dead process doesn't listen any more; the disk did the work all the same.
                let _ = sender.send(result);
            }),
        );
        heard(receiver)
    }

    fn call_write(&self, work: Work) -> IoFuture<'static, ()> {
        let called = self.call(work);
        async move { called.await.map(|done| Completion::new(done.instance, ())) }.boxed_local()
    }

    fn refusal(&self, range: SectorRange) -> Option<IoError> {
        if self.disk.faults.gone.get() {
            Some(IoError::Lost)
        } else if !range.fits(self.disk.sectors())
            || range.len_bytes() > u64::from(MAX_TRANSFER_BYTES)
        {
            Some(IoError::OutOfRange(range))
        } else {
            None
        }
    }

    fn fails<T: 'static>(&self, error: IoError) -> IoFuture<'static, T> {
        let (sender, receiver) = oneshot::channel();
        answer_after(&self.disk, Duration::from_micros(10), move |_| {
            let _ = sender.send(Err(error));
            Some(())
        });
        heard(receiver)
    }

    /// Whether an answer within the call is possible, and luck has it.
    fn is_at_once(&self, range: SectorRange) -> bool {
        self.way == Way::AtOnce
            && self.refusal(range).is_none()
            && !self.disk.is_silent()
            && self.disk.random.borrow_mut().random_bool(0.5)
    }

    fn do_at_once(&self, work: Work) -> Option<Answer> {
        let performed = self.disk.perform(work);
        let result = self.disk.complete(performed)?;
        Some(result.map(|data| Completion::new(self.instance, data)))
    }
}

/// The answer, when it comes.
fn heard<T: 'static>(
    receiver: oneshot::Receiver<Result<Completion<T>, IoError>>,
) -> IoFuture<'static, T> {
    async move {
        match receiver.await {
            Ok(result) => result,
            // The power went, and the process with it: nobody is left to see an answer.
            Err(oneshot::Canceled) => std::future::pending().await,
        }
    }
    .boxed_local()
}

impl BlockDevice for SimDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.disk.sectors(),
            physical_block_bytes: 4096,
            max_transfer_bytes: MAX_TRANSFER_BYTES,
            read_only: false,
            class: DurabilityClass::Durable,
        }
    }

    fn read(&self, range: SectorRange) -> IoFuture<'static, Buffer> {
        self.call(Work::Read(range))
    }

    fn read_at_once(&self, range: SectorRange) -> Option<Completion<Buffer>> {
        self.is_at_once(range).then(|| self.do_at_once(Work::Read(range)))??.ok()
    }

    fn write_at_once(&self, start: Lba, data: &[u8]) -> Option<Completion<()>> {
        let range = SectorRange::new(start, (data.len() / SECTOR_BYTES) as u64);
        if !self.is_at_once(range) {
            return None;
        }
        let work = Work::Write(start, Buffer::copy_of(data), Durability::Volatile);
        self.do_at_once(work)?.ok().map(|done| Completion::new(done.instance, ()))
    }

    fn begins(&self, _: &Transfer) -> bool {
        self.way != Way::Called && self.handle.is_some()
    }

    fn begin(&self, transfer: Transfer, done: TransferDone) {
        let at_once = !matches!(transfer, Transfer::Write { durability: Durability::Durable, .. })
            && self.is_at_once(transfer.range());
        let work = match transfer {
            Transfer::Read(range) => Work::Read(range),
            Transfer::Write { start, data, durability } => Work::Write(start, data, durability),
        };
        if at_once {
            // Nothing: a crash strikes before anybody is told.
            if let Some(answer) = self.do_at_once(work) {
                done(answer);
            }
            return;
        }
        let Some(handle) = &self.handle else { return done(Err(IoError::Unsupported)) };
        let answered = self.call(work);
        // The process is told in its own time, if it lives.
        handle.spawn(async move { done(answered.await) });
    }

    fn write(&self, start: Lba, data: Buffer, durability: Durability) -> IoFuture<'static, ()> {
        self.call_write(Work::Write(start, data, durability))
    }

    fn flush(&self, instance: Instance) -> IoFuture<'static, ()> {
        if let Some(error) = self.refusal(SectorRange::default()) {
            return self.fails(error);
        }
        self.disk.count(|counters| counters.flushes += 1);
        if instance != self.instance {
            return self.fails(IoError::Restarted { now: self.instance });
        }
        let covered = self.disk.medium.borrow().answers();
        let (sender, receiver) = oneshot::channel();
        answer_after(&self.disk, self.disk.duration(true), move |disk| {
            let result = disk.complete_flush(covered)?;
            let _ = sender.send(result.map(|()| Completion::new(instance, ())));
            Some(())
        });
        heard(receiver)
    }

    fn discard(&self, range: SectorRange) -> IoFuture<'static, ()> {
        // Undefined contents: sometimes zeros, sometimes what was there.
        let zeros = self.disk.random.borrow_mut().random_bool(0.5);
        match zeros {
            true => self.write_zeroes(range, Durability::Volatile),
            false => self.call_write(Work::Nothing(range)),
        }
    }

    fn write_zeroes(&self, range: SectorRange, durability: Durability) -> IoFuture<'static, ()> {
        if let Some(error) = self.refusal(range) {
            return self.fails(error);
        }
        let zeros = BufferMut::zeroed(range.len_bytes() as usize).freeze();
        self.call_write(Work::Write(range.start, zeros, durability))
    }

    fn claim(&self, _: Claim) -> IoFuture<'static, Holder> {
        self.fails(IoError::Unsupported)
    }

    fn renew(&self) -> IoFuture<'static, Holder> {
        self.fails(IoError::Unsupported)
    }

    fn next_event(&self) -> LocalBoxFuture<'static, DeviceEvent> {
        let disk = Rc::clone(&self.disk);
        let seen = disk.sectors();
        async move {
            loop {
                let resized = disk.resized.notified();
                if disk.sectors() != seen {
                    return DeviceEvent::Resized;
                }
                resized.await;
            }
        }
        .boxed_local()
    }
}

impl Disk {
    /// What a flush that covers the first `covered` answers ends with; `None` when a crash comes first.
    fn complete_flush(&self, covered: u64) -> Option<Result<(), IoError>> {
        let effect = self.timeline.steps().take(Kind::Flush, &self.name);
        if effect == Effect::Nothing {
            return None;
        }
        if self.faults.take_flush(&self.random) {
            self.story.tell(&self.name, "a flush fails");
            // As with fsync, the failure is told once, and what was to be written back is dropped: a
            // later flush succeeds. Remembering it is the business of those above.
            self.medium.borrow_mut().fail_write_back(&mut self.random.borrow_mut());
            self.to_be_reopened.set(true);
            return Some(Err(IoError::FlushFailed));
        }
        if self.faults.lies.get() {
            return Some(Ok(()));
        }
        match effect {
            Effect::Half => {
                let mut random = self.random.borrow_mut();
                self.medium.borrow_mut().flush_partly(covered, &mut random);
            }
            _ => self.medium.borrow_mut().flush(covered),
        }
        (!self.timeline.steps().is_void(&self.name)).then_some(Ok(()))
    }

    /// What a performed operation is answered with when its time has come; `None` when a crash comes
    /// first.
    fn complete(&self, performed: Performed) -> Option<Result<Buffer, IoError>> {
        let steps = self.timeline.steps();
        match performed {
            Performed::Never => return None,
            Performed::Answered(result) => {
                return (!steps.is_void(&self.name)).then_some(result);
            }
            Performed::Written { number, .. } if self.faults.lies.get() => {
                self.medium.borrow_mut().answer(number);
            }
            Performed::Written { number, durability: Durability::Volatile, .. } => {
                self.medium.borrow_mut().answer(number);
            }
            Performed::Written { number, at, .. } => {
                let mut medium = self.medium.borrow_mut();
                match steps.take(Kind::Stable, &self.name) {
                    Effect::Nothing => {}
                    Effect::Half => {
                        let half = at.start.0 + at.count / 2;
                        medium.make_stable(number, at.start.0..half);
                    }
                    Effect::All => medium.make_stable(number, at.start.0..at.end().0),
                }
            }
        }
        (!steps.is_void(&self.name)).then(|| Ok(Buffer::empty()))
    }
}
