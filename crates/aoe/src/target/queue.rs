//! The order in which an export's commands run: as they arrived where they overlap, at once where
//! they don't. A barrier waits for all earlier commands and holds back all later ones, but for those that
//! aren't about the device.
//!
//! Both the number of commands and the bytes that they hold are bounded; what doesn't fit isn't
//! taken, and its client asks again.

use std::collections::{BTreeMap, VecDeque};

use block::SectorRange;

/// What a command touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Looks at sectors: may run beside other readers.
    Read(SectorRange),
    /// Changes sectors.
    Write(SectorRange),
    /// Nothing that has an order among commands (a flush covers what was answered before).
    Free,
    /// What clients leave with the export: nothing else waits for it, nor it for anything else.
    Lists,
    /// Everything.
    Barrier,
}

impl Access {
    fn conflicts(self, other: Access) -> bool {
        match (self, other) {
            (Access::Lists, Access::Lists) => true,
            (Access::Lists, _) | (_, Access::Lists) => false,
            (Access::Barrier, _) | (_, Access::Barrier) => true,
            (Access::Write(a), Access::Write(b) | Access::Read(b))
            | (Access::Read(a), Access::Write(b)) => a.overlaps(b),
            _ => false,
        }
    }
}

/// The number of a command in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// How much a queue takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    pub entries_max: usize,
    pub bytes_max: u64,
}

pub(super) struct Queue<T> {
    limits: QueueLimits,
    entries: BTreeMap<Ticket, Entry<T>>,
    /// What each entry touches, close together: every arriving command is compared with all.
    accesses: Vec<(Ticket, Access)>,
    ready: VecDeque<Ticket>,
    next: u64,
    bytes: u64,
}

struct Entry<T> {
    access: Access,
    bytes: u64,
    /// Earlier entries that it waits for.
    blockers: usize,
    /// Later entries that wait for it.
    dependents: Vec<Ticket>,
    work: T,
}

impl<T> Queue<T> {
    pub(super) fn new(limits: QueueLimits) -> Queue<T> {
        Queue {
            limits,
            entries: BTreeMap::new(),
            accesses: Vec::new(),
            ready: VecDeque::new(),
            next: 0,
            bytes: 0,
        }
    }

    /// Other limits from now on; what waits already stays.
    pub(super) fn set_limits(&mut self, limits: QueueLimits) {
        self.limits = limits;
    }

    /// Whether a command that holds `bytes` would be taken.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.entries.len() < self.limits.entries_max
            && self.bytes.saturating_add(bytes) <= self.limits.bytes_max
    }

    /// Whether so much waits that one client's part of it is looked at.
    pub(super) fn is_crowded(&self) -> bool {
        self.entries.len() >= self.limits.entries_max / 4 * 3
            || self.bytes >= self.limits.bytes_max / 4 * 3
    }

    /// As many commands as one of several clients may have in a crowded queue.
    pub(super) fn share(&self) -> usize {
        (self.limits.entries_max / 4).max(1)
    }

    /// Whether something waits for all that came before.
    pub(super) fn has_barrier(&self) -> bool {
        self.accesses.iter().any(|(_, access)| *access == Access::Barrier)
    }

    /// Whether a command would have to wait for others.
    pub(super) fn holds_up(&self, access: Access) -> bool {
        self.accesses.iter().any(|(_, earlier)| earlier.conflicts(access))
    }

    /// Appends a command. Call [`Queue::has_room`] first.
    pub(super) fn push(&mut self, access: Access, bytes: u64, work: T) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        let mut blockers = 0;
        for (earlier, _) in self.accesses.iter().filter(|(_, other)| other.conflicts(access)) {
            if let Some(earlier) = self.entries.get_mut(earlier) {
                earlier.dependents.push(ticket);
                blockers += 1;
            }
        }
        // What touches nothing conflicts with barriers only, but those must see it.
        self.accesses.push((ticket, access));
        if blockers == 0 {
            self.ready.push_back(ticket);
        }
        self.bytes += bytes;
        let entry = Entry { access, bytes, blockers, dependents: Vec::new(), work };
        self.entries.insert(ticket, entry);
        ticket
    }

    /// The next command that may run. It counts as running until [`Queue::finish`].
    pub(super) fn poll_ready(&mut self) -> Option<(Ticket, &T)> {
        let ticket = self.ready.pop_front()?;
        self.entries.get(&ticket).map(|entry| (ticket, &entry.work))
    }

    /// A command and what it touches.
    pub(super) fn get(&self, ticket: Ticket) -> Option<(Access, &T)> {
        self.entries.get(&ticket).map(|entry| (entry.access, &entry.work))
    }

    /// The command of a ticket, until it is finished.
    pub(super) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        self.entries.get_mut(&ticket).map(|entry| &mut entry.work)
    }

    /// All commands, those that run and those that wait.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Ticket, &T)> {
        self.entries.iter().map(|(ticket, entry)| (*ticket, &entry.work))
    }

    /// A command is done: it leaves, and what waited for nothing else may run.
    pub(super) fn finish(&mut self, ticket: Ticket) -> Option<T> {
        let done = self.entries.remove(&ticket)?;
        self.bytes -= done.bytes;
        if let Some(index) = self.accesses.iter().position(|(other, _)| *other == ticket) {
            self.accesses.swap_remove(index);
        }
        for dependent in done.dependents {
            let Some(entry) = self.entries.get_mut(&dependent) else { continue };
            entry.blockers -= 1;
            if entry.blockers == 0 {
                self.ready.push_back(dependent);
            }
        }
        Some(done.work)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use block::Lba;
    use proptest::prelude::*;

    fn queue() -> Queue<usize> {
        Queue::new(QueueLimits { entries_max: 1000, bytes_max: u64::MAX })
    }

    fn access() -> impl Strategy<Value = Access> {
        let range = (0u64..20, 0u64..6).prop_map(|(s, n)| SectorRange::new(Lba(s), n));
        prop_oneof![
            4 => range.clone().prop_map(Access::Read),
            4 => range.prop_map(Access::Write),
            1 => Just(Access::Free),
            1 => Just(Access::Lists),
            1 => Just(Access::Barrier),
        ]
    }

    proptest! {
        /// Against the definition: a command runs beside no earlier unfinished one that it conflicts
        /// with, and nothing that could run waits.
        #[test]
        fn order_of_arrival(
            accesses in prop::collection::vec(access(), 1..60),
            choices in prop::collection::vec(any::<u16>(), 200),
        ) {
            let mut queue = queue();
            let mut unfinished: Vec<usize> = Vec::new();
            let mut running: Vec<(usize, Ticket)> = Vec::new();
            let mut arrived = 0;
            for choice in choices {
                if choice % 2 == 0 && arrived < accesses.len() {
                    queue.push(accesses[arrived], 1, arrived);
                    unfinished.push(arrived);
                    arrived += 1;
                } else if !running.is_empty() {
                    let (index, ticket) = running.remove(usize::from(choice) % running.len());
                    prop_assert_eq!(queue.finish(ticket), Some(index));
                    unfinished.retain(|i| *i != index);
                }
                while let Some((ticket, index)) = queue.poll_ready() {
                    running.push((*index, ticket));
                }
                for index in &unfinished {
                    let blocked = unfinished
                        .iter()
                        .any(|e| e < index && accesses[*e].conflicts(accesses[*index]));
                    let runs = running.iter().any(|(i, _)| i == index);
                    prop_assert_eq!(runs, !blocked);
                }
                prop_assert_eq!(queue.len(), unfinished.len());
                prop_assert_eq!(queue.bytes(), unfinished.len() as u64);
            }
        }
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
