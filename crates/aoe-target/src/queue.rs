//! The commands of an export, in their order ([`block::Order`]). What clients leave with the export isn't
//! about the device: those commands wait for each other, and for nothing else.
//!
//! Both the number of commands and the bytes that they hold are bounded; what doesn't fit isn't
//! taken, and its client asks again.

use std::collections::{BTreeMap, VecDeque};

use block::{Access, Instant, Order};

use crate::export::Export;
use crate::io::Work;
use crate::plain::change::ChangeWork;

/// The number of a command in its queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(crate) u64);

/// How much a queue takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub entries_max: usize,
    pub bytes_max: u64,
}

pub(crate) struct Queue<T> {
    limits: QueueLimits,
    entries: BTreeMap<Ticket, Entry<T>>,
    order: Order<Ticket>,
    /// The order of changes of what clients left, each a barrier.
    lists: Order<Ticket>,
    ready: VecDeque<Ticket>,
    next: u64,
    bytes: u64,
}

struct Entry<T> {
    access: Access,
    bytes: u64,
    work: T,
}

impl<T> Queue<T> {
    pub(crate) fn new(limits: QueueLimits) -> Queue<T> {
        Queue {
            limits,
            entries: BTreeMap::new(),
            order: Order::default(),
            lists: Order::default(),
            ready: VecDeque::new(),
            next: 0,
            bytes: 0,
        }
    }

    /// Other limits from now on; what waits already stays.
    pub(crate) fn set_limits(&mut self, limits: QueueLimits) {
        self.limits = limits;
    }

    /// Whether a command that holds `bytes` would be taken.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.entries.len() < self.limits.entries_max
            && self.bytes.saturating_add(bytes) <= self.limits.bytes_max
    }

    /// Whether so much waits that one client's part of it is looked at.
    pub(crate) fn is_crowded(&self) -> bool {
        self.entries.len() >= self.limits.entries_max / 4 * 3
            || self.bytes >= self.limits.bytes_max / 4 * 3
    }

    /// As much as one of several clients may have in a crowded queue, either way: a quarter of the commands
    /// may be all of the bytes.
    pub(crate) fn share(&self) -> QueueLimits {
        let QueueLimits { entries_max, bytes_max } = self.limits;
        QueueLimits { entries_max: (entries_max / 4).max(1), bytes_max: bytes_max / 4 }
    }

    /// Whether something waits for all that came before.
    pub(crate) fn has_barrier(&self) -> bool {
        self.order.has_barrier()
    }

    /// Whether a command would have to wait for others.
    pub(crate) fn holds_up(&self, access: Access) -> bool {
        self.order.holds_up(access)
    }

    /// Appends a command. Call [`Queue::has_room`] first.
    pub(crate) fn push(&mut self, access: Access, bytes: u64, work: T) -> Ticket {
        let ticket = self.next_ticket();
        let may_run = self.order.enter(ticket, access);
        self.append(ticket, Entry { access, bytes, work }, may_run)
    }

    /// Appends a change of what clients left with the export.
    pub(crate) fn push_lists(&mut self, work: T) -> Ticket {
        let ticket = self.next_ticket();
        let may_run = self.lists.enter(ticket, Access::Barrier);
        self.append(ticket, Entry { access: Access::Free, bytes: 0, work }, may_run)
    }

    fn next_ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }

    fn append(&mut self, ticket: Ticket, entry: Entry<T>, may_run: bool) -> Ticket {
        if may_run {
            self.ready.push_back(ticket);
        }
        self.bytes += entry.bytes;
        self.entries.insert(ticket, entry);
        ticket
    }

    /// The next command that may run. It counts as running until [`Queue::finish`].
    pub(crate) fn poll_ready(&mut self) -> Option<(Ticket, &T)> {
        let ticket = self.ready.pop_front()?;
        self.entries.get(&ticket).map(|entry| (ticket, &entry.work))
    }

    /// A command and what it touches.
    pub(crate) fn get(&self, ticket: Ticket) -> Option<(Access, &T)> {
        self.entries.get(&ticket).map(|entry| (entry.access, &entry.work))
    }

    /// The command of a ticket, until it is finished.
    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        self.entries.get_mut(&ticket).map(|entry| &mut entry.work)
    }

    /// All commands, those that run and those that wait.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ticket, &T)> {
        self.entries.iter().map(|(ticket, entry)| (*ticket, &entry.work))
    }

    /// A command is done: it leaves, with the bytes that it held, and what waited for nothing else may run.
    pub(crate) fn finish(&mut self, ticket: Ticket) -> Option<(T, u64)> {
        let done = self.entries.remove(&ticket)?;
        self.bytes -= done.bytes;
        self.ready.extend(self.order.leave(ticket));
        self.ready.extend(self.lists.leave(ticket));
        Some((done.work, done.bytes))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Export {
    /// Whether a command of the present client would be taken. One that takes too much of a full queue
    /// leaves the rest to others: else whoever floods an export would have it for himself.
    pub(crate) fn has_room(&mut self, bytes: u64, now: Instant) -> bool {
        self.queue.has_room(bytes)
            && !(self.queue.is_crowded() && self.meter.is_greedy(self.queue.share(), now))
    }

    /// Appends a command to the queue. Ask whether it has room first.
    pub(crate) fn enqueue(&mut self, access: Access, bytes: u64, work: Work) {
        self.queue.push(access, bytes, work);
        self.note_queued(bytes);
    }

    /// Takes in a change of what clients left: in a line of its own.
    pub(crate) fn enqueue_change(&mut self, change: ChangeWork) {
        self.queue.push_lists(Work::Change(change));
        self.note_queued(0);
    }

    fn note_queued(&mut self, bytes: u64) {
        self.meter.enters(bytes);
        self.meter.queued_max = self.meter.queued_max.max(self.queue.len());
    }

    /// The next command that may start, as far as order and rates go.
    pub(crate) fn next_turn(&mut self, now: Instant) -> Option<Ticket> {
        while let Some((ticket, work)) = self.queue.poll_ready() {
            let cost = if self.throttle.is_off() { None } else { work.cost() };
            let Some((client, bytes)) = cost else { return Some(ticket) };
            self.throttle.line_up(now, client, ticket, bytes);
        }
        let hurry = !self.throttle.is_off() && self.queue.has_barrier();
        self.throttle.poll(now, hurry)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use block::{Lba, SectorRange};

    #[test]
    fn lists_wait_for_lists_only() {
        let mut queue = Queue::new(QueueLimits { entries_max: 1000, bytes_max: u64::MAX });
        let ready = |queue: &mut Queue<u8>| -> Vec<u8> {
            std::iter::from_fn(|| queue.poll_ready().map(|(_, work)| *work)).collect()
        };
        let first = queue.push(Access::Free, 1, 0);
        let barrier = queue.push(Access::Barrier, 1, 1);
        let list = queue.push_lists(2);
        queue.push_lists(3);
        queue.push(Access::Read(SectorRange::new(Lba(0), 1)), 1, 4);
        assert_eq!(ready(&mut queue), [0, 2]);
        assert!(queue.has_barrier() && queue.len() == 5 && queue.bytes() == 3);
        queue.finish(list);
        assert_eq!(ready(&mut queue), [3]);
        queue.finish(first);
        assert_eq!(ready(&mut queue), [1]);
        queue.finish(barrier);
        assert_eq!(ready(&mut queue), [4]);
    }

    #[test]
    fn bounded() {
        let mut queue = Queue::new(QueueLimits { entries_max: 2, bytes_max: 100 });
        assert!(queue.has_room(100) && !queue.has_room(101) && !queue.has_room(u64::MAX));
        let first = queue.push(Access::Free, 60, 0);
        assert!(!queue.has_room(41));
        queue.push(Access::Free, 40, 1);
        assert!(!queue.has_room(0), "two are in");
        queue.finish(first).unwrap();
        assert!(queue.has_room(60));
        assert_eq!(queue.finish(first), None);
    }
}
