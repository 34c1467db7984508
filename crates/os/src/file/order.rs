//! Lets overlapping operations run in the order of their calls. io_uring starts requests in
//! whatever order suits it, so an operation is given to it only once no earlier one that overlaps
//! it still runs. Also bounds how many run at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use block::SectorRange;

/// The operations of one device between call and completion.
pub(super) struct OrderQueue {
    state: RefCell<State>,
}

struct State {
    entries: BTreeMap<u64, Entry>,
    /// Entries without blockers that wait for a free slot.
    runnable: VecDeque<u64>,
    running: usize,
    running_max: usize,
    next_number: u64,
}

struct Entry {
    range: SectorRange,
    writes: bool,
    /// Earlier overlapping operations that have not completed.
    blockers: usize,
    started: bool,
    waker: Option<Waker>,
}

/// A place in the queue; dropping it lets successors run.
pub(super) struct Ticket {
    queue: Rc<OrderQueue>,
    number: u64,
}

impl OrderQueue {
    /// At most `running_max` operations run at once.
    pub(super) fn new(running_max: usize) -> Rc<OrderQueue> {
        let state = State {
            entries: BTreeMap::new(),
            runnable: VecDeque::new(),
            running: 0,
            running_max,
            next_number: 0,
        };
        Rc::new(OrderQueue { state: RefCell::new(state) })
    }

    /// Whether an operation would have to wait for its turn.
    pub(super) fn holds_up(&self, range: SectorRange, writes: bool) -> bool {
        let state = self.state.borrow();
        state.running >= state.running_max
            || state.entries.values().any(|entry| entry.conflicts(range, writes))
    }

    /// Takes the next place. Reads may overlap each other.
    pub(super) fn enter(self: &Rc<Self>, range: SectorRange, writes: bool) -> Ticket {
        let mut state = self.state.borrow_mut();
        let number = state.next_number;
        state.next_number += 1;
        let blockers =
            state.entries.values().filter(|other| other.conflicts(range, writes)).count();
        state
            .entries
            .insert(number, Entry { range, writes, blockers, started: false, waker: None });
        if blockers == 0 {
            state.runnable.push_back(number);
        }
        state.start_runnable();
        Ticket { queue: Rc::clone(self), number }
    }
}

impl Entry {
    fn conflicts(&self, range: SectorRange, writes: bool) -> bool {
        (self.writes || writes) && self.range.overlaps(range)
    }
}

impl State {
    fn start_runnable(&mut self) {
        while self.running < self.running_max {
            let Some(number) = self.runnable.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&number) else { continue };
            entry.started = true;
            self.running += 1;
            if let Some(waker) = entry.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Ticket {
    /// Completes when the operation may run.
    pub(super) async fn turn(&self) {
        poll_fn(|context| {
            let mut state = self.queue.state.borrow_mut();
            match state.entries.get_mut(&self.number) {
                Some(entry) if !entry.started => {
                    entry.waker = Some(context.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut guard = self.queue.state.borrow_mut();
        let state = &mut *guard;
        let Some(done) = state.entries.remove(&self.number) else { return };
        if done.started {
            state.running -= 1;
        }
        for (&number, entry) in state.entries.range_mut(self.number..) {
            if entry.conflicts(done.range, done.writes) {
                entry.blockers -= 1;
                if entry.blockers == 0 {
                    state.runnable.push_back(number);
                }
            }
        }
        state.start_runnable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::Lba;
    use futures::FutureExt;

    fn may_run(ticket: &Ticket) -> bool {
        ticket.turn().now_or_never().is_some()
    }

    #[test]
    fn overlaps_wait_for_all_earlier_ones() {
        let queue = OrderQueue::new(16);
        let range = |start, count| SectorRange::new(Lba(start), count);
        let first = queue.enter(range(0, 8), true);
        let read = queue.enter(range(4, 2), false);
        let other_read = queue.enter(range(5, 2), false);
        let elsewhere = queue.enter(range(8, 8), true);
        let last = queue.enter(range(5, 6), true);
        assert!(may_run(&first) && may_run(&elsewhere));
        assert!(!may_run(&read) && !may_run(&last));
        drop(first);
        assert!(may_run(&read) && may_run(&other_read), "reads don't wait for reads");
        drop(read);
        drop(elsewhere);
        assert!(!may_run(&last));
        drop(other_read);
        assert!(may_run(&last));
    }

    #[test]
    fn the_depth_is_bounded_and_slots_are_passed_on() {
        let queue = OrderQueue::new(2);
        let mut tickets: VecDeque<Ticket> =
            (0..5).map(|i| queue.enter(SectorRange::new(Lba(i), 1), true)).collect();
        assert_eq!(tickets.iter().filter(|ticket| may_run(ticket)).count(), 2);
        tickets.pop_front();
        assert_eq!(tickets.iter().filter(|ticket| may_run(ticket)).count(), 2);
        // One that gives up before its turn takes no slot with it.
        tickets.pop_back();
        tickets.clear();
        assert!(may_run(&queue.enter(SectorRange::new(Lba(0), 1), true)));
    }
}
