//! What a process has of a [`Disk`] between opening it and dying.
//!
//! Production reaches a disk in more than one way, and each opening here takes one by luck: effects with
//! the call and answers later ([`Way::Direct`]), answers within the call too, from a cache
//! ([`Way::AtOnce`]), and a thread of the process in between ([`Way::Queued`]), with which what it hadn't
//! begun goes when the process is killed. A disk whose model has a queue has that one alone, whatever the
//! way.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::time::Duration;

use block::{
    Answer, BlockDevice, Buffer, Completion, DeviceEvent, Done, Durability, DurabilityClass,
    Geometry, Instance, Instant, IoError, Operation, Outcome,
};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use rand::Rng;
use runtime::Handle;

use super::service::{Job, Model, Service};
use super::{Disk, Due, Performed};
use crate::steps::{Effect, Kind};

const MAX_TRANSFER_BYTES: u32 = 1 << 20;
/// Longest time that a request lies in the queue of a process's thread.
const QUEUED_MAX: Duration = Duration::from_micros(150);

/// How a process reaches a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Effects happen with the call, answers come later.
    Direct,
    /// What needs no medium is often answered within the call.
    AtOnce,
    /// Operations queue for a thread; effects happen later, in order.
    Queued,
}

/// An open disk.
pub struct SimDisk {
    disk: Rc<Disk>,
    pub(super) instance: Instance,
    way: Way,
    /// Where the process is told of the end.
    handle: Option<Handle>,
    /// When the thread will have begun all that queues.
    queued_until: Cell<Instant>,
    /// Lives as long as the process.
    alive: Rc<()>,
}

impl Disk {
    /// Opens it: a new instance.
    pub fn open(self: &Rc<Self>) -> Rc<SimDisk> {
        self.open_as(Way::Direct, None)
    }

    /// Opens it in a process, in a way by luck.
    pub fn open_in(self: &Rc<Self>, handle: &Handle) -> Rc<SimDisk> {
        let ways = [Way::Direct, Way::AtOnce, Way::Queued];
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

/// Does `operation` and has `done` told when it is answered, unless the power goes before.
fn execute(disk: &Rc<Disk>, operation: Operation, instance: Instance, done: Done) {
    let due = disk.due_of(&operation);
    // One that is stuck is late: whoever gave it up and writes there would lose that.
    let is_late = matches!(operation, Operation::Discard(_)) && disk.are_discards_stuck();
    let (performed, late) =
        if is_late { (None, Some(operation)) } else { (Some(disk.perform(operation)), None) };
    answer_when(disk, due, move |disk| {
        let performed = performed.or_else(|| late.map(|operation| disk.perform(operation)))?;
        let result = disk.complete(performed)?;
        done(result.map(|answer| Completion::new(instance, answer)));
        Some(())
    });
}

/// Calls `answer` when it is due, unless the power goes before.
fn answer_when(disk: &Rc<Disk>, due: Due, answer: impl FnOnce(&Disk) -> Option<()> + 'static) {
    match due {
        Due::After(duration) => answer_after(disk, duration, answer),
        Due::Served(job) => {
            if let Some(service) = disk.service.borrow_mut().as_mut() {
                service.submit(disk.timeline.now(), job, Box::new(answer));
            }
            wake_service(disk);
        }
    }
}

/// Has the queue looked at when something in it ends.
fn wake_service(disk: &Rc<Disk>) {
    let Some(at) = disk.service.borrow().as_ref().and_then(Service::next) else { return };
    if disk.service_wakes.get().is_some_and(|wakes| wakes <= at) {
        return;
    }
    disk.service_wakes.set(Some(at));
    let (timeline, disk) = (Rc::clone(&disk.timeline), Rc::clone(disk));
    timeline.schedule(at, move || {
        // Else something that ends earlier came meanwhile, or the power went.
        if disk.service_wakes.get() != Some(at) {
            return;
        }
        disk.service_wakes.set(None);
        let now = disk.timeline.now();
        let take = || disk.service.borrow_mut().as_mut()?.take_answered(now);
        while let Some(answer) = take() {
            answer_after(&disk, Duration::ZERO, answer);
        }
        wake_service(&disk);
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
    fn start(&self, operation: Operation, done: Done) {
        if self.way != Way::Queued || self.disk.model.get() != Model::Quick {
            return execute(&self.disk, operation, self.instance, done);
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
                execute(&disk, operation, instance, done);
            }
        });
    }

    fn flush(&self, done: Done) {
        self.disk.count(|counters| counters.flushes += 1);
        let (covered, instance) = (self.disk.medium.borrow().answers(), self.instance);
        let Some(due) = self.disk.due_flush(Job::of(&Operation::Flush(instance))) else { return };
        answer_when(&self.disk, due, move |disk| {
            let result = disk.complete_flush(covered)?;
            done(result.map(|()| Completion::new(instance, Answer::Done)));
            Some(())
        });
    }

    /// Why an operation isn't even tried.
    fn refusal<Data: Deref<Target = [u8]>>(&self, operation: &Operation<Data>) -> Option<IoError> {
        let range = operation.range();
        if self.disk.faults.gone.get() {
            return Some(IoError::Lost);
        }
        if !range.fits(self.disk.sectors()) || range.len_bytes() > u64::from(MAX_TRANSFER_BYTES) {
            return Some(IoError::OutOfRange(range));
        }
        match operation {
            Operation::Flush(instance) if *instance != self.instance => {
                Some(IoError::Restarted { now: self.instance })
            }
            operation if operation.is_of_server() => Some(IoError::Unsupported),
            _ => None,
        }
    }

    /// Whether an answer within the call is possible, and luck has it.
    fn is_at_once<Data: Deref<Target = [u8]>>(&self, operation: &Operation<Data>) -> bool {
        let is_moved = match operation {
            Operation::Read(_) => true,
            Operation::Write { durability, .. } => *durability == Durability::Volatile,
            _ => false,
        };
        is_moved
            && self.way == Way::AtOnce
            && self.refusal(operation).is_none()
            && !self.disk.is_silent()
            && self.disk.model.get() == Model::Quick
            && self.disk.random.borrow_mut().random_bool(0.5)
    }

    fn do_at_once(&self, operation: Operation) -> Option<Outcome> {
        let performed = self.disk.perform(operation);
        let result = self.disk.complete(performed)?;
        Some(result.map(|answer| Completion::new(self.instance, answer)))
    }

    /// The process is told in its own time, if it lives.
    fn told_later(&self, done: Done) -> Done {
        let Some(handle) = &self.handle else { return done };
        let (sender, receiver) = oneshot::channel();
        handle.spawn(async move {
            // Else the power went, and the process with it: nobody is left to see an answer.
            if let Ok(outcome) = receiver.await {
                done(outcome);
            }
        });
        Box::new(move |outcome| {
            // A dead process doesn't listen any more; the disk did the work all the same.
            let _ = sender.send(outcome);
        })
    }
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

    fn submit(&self, operation: Operation, done: Done) {
        if self.is_at_once(&operation) {
            // Nothing: a crash strikes before anybody is told.
            if let Some(outcome) = self.do_at_once(operation) {
                done(outcome);
            }
            return;
        }
        let done = self.told_later(done);
        if let Some(error) = self.refusal(&operation) {
            return answer_after(&self.disk, Duration::from_micros(10), move |_| {
                done(Err(error));
                Some(())
            });
        }
        match operation {
            Operation::Flush(_) => self.flush(done),
            operation => self.start(operation, done),
        }
    }

    fn try_submit(&self, operation: Operation<&[u8]>) -> Option<Completion<Answer>> {
        if !self.is_at_once(&operation) {
            return None;
        }
        let operation = match operation {
            Operation::Write { start, data, durability } => {
                Operation::Write { start, data: Buffer::copy_of(data), durability }
            }
            other => Operation::Read(other.range()),
        };
        self.do_at_once(operation)?.ok()
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
    fn complete(&self, performed: Performed) -> Option<Result<Answer, IoError>> {
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
        (!steps.is_void(&self.name)).then_some(Ok(Answer::Done))
    }
}
