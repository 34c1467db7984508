//! The order of operations on sectors: as they came where they overlap and one of them changes sectors,
//! at once where not. A barrier waits for all before it and holds back all after it.
//!
//! [`Order`] is the table, for those who know who runs; [`Line`] has places in it that one awaits. Limits,
//! rates and fairness are the business of those who have one.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::ops::Deref;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::{Lba, Operation, SectorRange};

/// What an operation touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Looks at sectors: may run beside other readers.
    Read(SectorRange),
    /// Changes sectors.
    Write(SectorRange),
    /// Nothing that has an order among operations: it waits for barriers only.
    Free,
    /// Everything.
    Barrier,
}

impl<Data: Deref<Target = [u8]>> From<&Operation<Data>> for Access {
    /// A flush covers what was answered before, so it has no order; no operation runs under another
    /// epoch than the one at its call, so a claim is a barrier.
    fn from(operation: &Operation<Data>) -> Access {
        match operation {
            Operation::Read(range) => Access::Read(*range),
            Operation::Flush(_) | Operation::Renew | Operation::AskHealth => Access::Free,
            Operation::Claim(_) => Access::Barrier,
            _ => Access::Write(operation.range()),
        }
    }
}

impl Access {
    /// The sectors, and whether they are changed.
    fn sectors(self) -> Option<(SectorRange, bool)> {
        match self {
            Access::Read(range) => Some((range, false)),
            Access::Write(range) => Some((range, true)),
            Access::Free | Access::Barrier => None,
        }
    }
}

/// Operations between arrival and end, by keys that grow from the default on.
pub struct Order<Key> {
    entries: BTreeMap<Key, Entry<Key>>,
    /// Where the entries with sectors start, to find overlaps.
    starts: BTreeSet<(Lba, Key)>,
    /// No present entry is longer: how far before a range an overlapping one may start.
    longest_sectors: u64,
    /// Those that run and those that wait. That a later operation waits for a barrier isn't relied on for
    /// what came before that: it may give up.
    barriers: BTreeSet<Key>,
}

struct Entry<Key> {
    access: Access,
    /// Earlier entries that it waits for.
    blockers: usize,
    /// Later entries that wait for it.
    waiters: Vec<Key>,
}

impl<Key> Default for Order<Key> {
    fn default() -> Order<Key> {
        Order {
            entries: BTreeMap::new(),
            starts: BTreeSet::new(),
            longest_sectors: 0,
            barriers: BTreeSet::new(),
        }
    }
}

impl<Key: Copy + Ord + Default> Order<Key> {
    /// Whether what arrives now would have to wait for others.
    pub fn holds_up(&self, access: Access) -> bool {
        match access {
            Access::Barrier => !self.entries.is_empty(),
            _ => !self.barriers.is_empty() || self.overlapping(access).next().is_some(),
        }
    }

    /// Appends an operation, by a key higher than all before; whether it may run at once.
    pub fn enter(&mut self, key: Key, access: Access) -> bool {
        let blocking: Vec<Key> = match access {
            Access::Barrier => self.entries.keys().copied().collect(),
            _ => self.barriers.iter().copied().chain(self.overlapping(access)).collect(),
        };
        for blocker in &blocking {
            if let Some(entry) = self.entries.get_mut(blocker) {
                entry.waiters.push(key);
            }
        }
        if let Some((range, _)) = access.sectors() {
            self.starts.insert((range.start, key));
            self.longest_sectors = self.longest_sectors.max(range.count);
        }
        if access == Access::Barrier {
            self.barriers.insert(key);
        }
        let blockers = blocking.len();
        self.entries.insert(key, Entry { access, blockers, waiters: Vec::new() });
        blockers == 0
    }

    /// Takes an operation out, whether or not it ran; those that may run now.
    pub fn leave(&mut self, key: Key) -> Vec<Key> {
        let Some(entry) = self.entries.remove(&key) else { return Vec::new() };
        if let Some((range, _)) = entry.access.sectors() {
            self.starts.remove(&(range.start, key));
        }
        self.barriers.remove(&key);
        if self.entries.is_empty() {
            self.longest_sectors = 0;
        }
        let mut freed = entry.waiters;
        freed.retain(|waiter| {
            self.entries.get_mut(waiter).is_some_and(|waiting| {
                waiting.blockers -= 1;
                waiting.blockers == 0
            })
        });
        freed
    }

    /// Whether there is a barrier that runs or waits.
    pub fn has_barrier(&self) -> bool {
        !self.barriers.is_empty()
    }

    /// Whether an operation hasn't left yet.
    pub fn contains(&self, key: Key) -> bool {
        self.entries.contains_key(&key)
    }

    /// Present entries that the operation must not run beside, apart from barriers.
    fn overlapping(&self, access: Access) -> impl Iterator<Item = Key> + '_ {
        let (range, changes) = access.sectors().unwrap_or_default();
        let from = Lba(range.start.0.saturating_sub(self.longest_sectors));
        let near = self.starts.range((from, Key::default())..(range.end(), Key::default()));
        near.map(|(_, key)| *key).filter(move |key| {
            self.entries.get(key).and_then(|entry| entry.access.sectors()).is_some_and(
                |(other, other_changes)| (changes || other_changes) && other.overlaps(range),
            )
        })
    }
}

/// A line in which places are awaited, of as many operations at once as it allows.
pub struct Line {
    state: RefCell<State>,
}

struct State {
    order: Order<u64>,
    next: u64,
    /// Places that nobody is in the way of, and that wait for a free slot.
    runnable: VecDeque<u64>,
    running: BTreeSet<u64>,
    running_max: usize,
    wakers: BTreeMap<u64, Waker>,
}

/// A place in a line; given up when dropped.
pub struct Place {
    line: Rc<Line>,
    number: u64,
}

impl Line {
    /// A line of which at most `running_max` have their turn at once.
    pub fn new(running_max: usize) -> Rc<Line> {
        let state = State {
            order: Order::default(),
            next: 0,
            runnable: VecDeque::new(),
            running: BTreeSet::new(),
            running_max,
            wakers: BTreeMap::new(),
        };
        Rc::new(Line { state: RefCell::new(state) })
    }

    /// Whether an operation would have to wait for its turn.
    pub fn holds_up(&self, access: Access) -> bool {
        let state = self.state.borrow();
        state.running.len() >= state.running_max || state.order.holds_up(access)
    }

    /// Takes the next place: now, not when its turn is first awaited.
    pub fn enter(self: &Rc<Self>, access: Access) -> Place {
        let mut state = self.state.borrow_mut();
        let number = state.next;
        state.next += 1;
        if state.order.enter(number, access) {
            state.runnable.push_back(number);
        }
        let woken = state.start_runnable();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        Place { line: Rc::clone(self), number }
    }
}

impl State {
    /// Gives places their turn while there are slots; whom to wake.
    fn start_runnable(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while self.running.len() < self.running_max {
            let Some(number) = self.runnable.pop_front() else { break };
            if self.order.contains(number) {
                self.running.insert(number);
                woken.extend(self.wakers.remove(&number));
            }
        }
        woken
    }
}

impl Place {
    /// Completes when the operation may run.
    pub async fn turn(&self) {
        poll_fn(|context| {
            let mut state = self.line.state.borrow_mut();
            if state.running.contains(&self.number) {
                return Poll::Ready(());
            }
            state.wakers.insert(self.number, context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.line.state.borrow_mut();
        let freed = state.order.leave(self.number);
        state.runnable.extend(freed);
        state.running.remove(&self.number);
        state.wakers.remove(&self.number);
        let woken = state.start_runnable();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;

    fn range(start: u64, count: u64) -> SectorRange {
        SectorRange::new(Lba(start), count)
    }

    fn conflict(one: Access, other: Access) -> bool {
        match (one.sectors(), other.sectors()) {
            _ if one == Access::Barrier || other == Access::Barrier => true,
            (Some((a, writes)), Some((b, also))) => (writes || also) && a.overlaps(b),
            _ => false,
        }
    }

    fn access() -> impl Strategy<Value = Access> {
        let range = (0u64..20, 0u64..6).prop_map(|(start, count)| range(start, count));
        prop_oneof![
            4 => range.clone().prop_map(Access::Read),
            4 => range.prop_map(Access::Write),
            1 => Just(Access::Free),
            1 => Just(Access::Barrier),
        ]
    }

    proptest! {
        /// Against the definition: an operation runs beside no earlier unfinished one that it conflicts
        /// with, and nothing that could run waits; also where some give up while they wait.
        #[test]
        fn order_of_arrival(
            accesses in prop::collection::vec(access(), 1..60),
            choices in prop::collection::vec(any::<u16>(), 200),
        ) {
            let mut order = Order::default();
            let mut present: Vec<usize> = Vec::new();
            let mut running: BTreeSet<usize> = BTreeSet::new();
            let mut arrived = 0;
            for choice in choices {
                if choice % 2 == 0 && arrived < accesses.len() {
                    let waits = order.holds_up(accesses[arrived]);
                    let runs = order.enter(arrived, accesses[arrived]);
                    prop_assert_eq!(runs, !waits);
                    running.extend(runs.then_some(arrived));
                    present.push(arrived);
                    arrived += 1;
                } else if !present.is_empty() {
                    let any = present[usize::from(choice) % present.len()];
                    let first = running.first().copied().unwrap_or(any);
                    let gone = if choice % 8 == 1 { any } else { first };
                    running.extend(order.leave(gone));
                    running.remove(&gone);
                    present.retain(|number| *number != gone);
                }
                for number in &present {
                    let blocked = present
                        .iter()
                        .any(|other| other < number && conflict(accesses[*other], accesses[*number]));
                    prop_assert_eq!(running.contains(number), !blocked);
                }
                let barrier = present.iter().any(|number| accesses[*number] == Access::Barrier);
                prop_assert_eq!(order.has_barrier(), barrier);
            }
        }
    }

    fn has_turn(place: &Place) -> bool {
        place.turn().now_or_never().is_some()
    }

    #[test]
    fn overlaps_wait_for_all_earlier_ones() {
        let line = Line::new(16);
        let first = line.enter(Access::Write(range(0, 8)));
        let read = line.enter(Access::Read(range(4, 2)));
        let other_read = line.enter(Access::Read(range(5, 2)));
        let elsewhere = line.enter(Access::Write(range(8, 8)));
        let last = line.enter(Access::Write(range(5, 6)));
        assert!(has_turn(&first) && has_turn(&elsewhere));
        assert!(!has_turn(&read) && !has_turn(&last));
        drop(first);
        assert!(has_turn(&read) && has_turn(&other_read), "reads don't wait for reads");
        drop((read, elsewhere));
        assert!(!has_turn(&last));
        drop(other_read);
        assert!(has_turn(&last));
    }

    #[test]
    fn slots_are_bounded_and_passed_on() {
        let line = Line::new(2);
        let mut places: VecDeque<Place> =
            (0..5).map(|at| line.enter(Access::Write(range(at, 1)))).collect();
        assert_eq!(places.iter().filter(|place| has_turn(place)).count(), 2);
        places.pop_front();
        assert_eq!(places.iter().filter(|place| has_turn(place)).count(), 2);
        // One that gives up before its turn takes no slot with it.
        places.pop_back();
        places.clear();
        assert!(has_turn(&line.enter(Access::Write(range(0, 1)))));
    }

    #[test]
    fn a_place_given_up_while_waiting_frees_those_behind() {
        let line = Line::new(usize::MAX);
        let first = line.enter(Access::Write(range(0, 1)));
        let second = line.enter(Access::Write(range(0, 1)));
        let third = line.enter(Access::Write(range(0, 1)));
        drop(second);
        assert!(!has_turn(&third));
        drop(first);
        assert!(has_turn(&third));
    }
}
