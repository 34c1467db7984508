//! Order among overlapping requests of a volume.
//!
//! A request takes its place in line **when it is called**, not when it is first polled, and waits
//! for every earlier request that overlaps it unless both only read. So overlapping operations run
//! in the order of their calls, and only the newest write of a block can be unacknowledged.
//!
//! Destaging takes no place here: it moves what is already acknowledged. So a request may hold its
//! place while it waits for log credit, which destaging frees.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The line of one volume.
#[derive(Default)]
pub(crate) struct RangeLock {
    entries: RefCell<BTreeMap<u64, Entry>>,
    next_ticket: Cell<u64>,
}

struct Entry {
    blocks: Range<u64>,
    exclusive: bool,
    /// Earlier entries still in line that conflict with this one.
    waits_for: usize,
    waker: Option<Waker>,
}

/// A place in line, given up when dropped.
pub(crate) struct Place {
    line: Rc<RangeLock>,
    ticket: u64,
}

impl Entry {
    fn conflicts(&self, other: &Entry) -> bool {
        (self.exclusive || other.exclusive)
            && self.blocks.start < other.blocks.end
            && other.blocks.start < self.blocks.end
    }
}

impl RangeLock {
    /// Takes a place for `blocks`.
    pub(crate) fn enter(self: &Rc<Self>, blocks: Range<u64>, exclusive: bool) -> Place {
        let mut entries = self.entries.borrow_mut();
        let mut entry = Entry { blocks, exclusive, waits_for: 0, waker: None };
        entry.waits_for = entries.values().filter(|earlier| earlier.conflicts(&entry)).count();
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        entries.insert(ticket, entry);
        Place { line: Rc::clone(self), ticket }
    }
}

impl Place {
    /// Completes when nobody before this place is in its way.
    pub(crate) fn granted(&self) -> impl Future<Output = ()> + '_ {
        std::future::poll_fn(|context| {
            let mut entries = self.line.entries.borrow_mut();
            match entries.get_mut(&self.ticket) {
                Some(entry) if entry.waits_for > 0 => {
                    entry.waker = Some(context.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut woken = Vec::new();
        {
            let mut entries = self.line.entries.borrow_mut();
            let Some(gone) = entries.remove(&self.ticket) else { return };
            for (_, later) in entries.range_mut(self.ticket..) {
                if later.conflicts(&gone) {
                    later.waits_for -= 1;
                    if later.waits_for == 0 {
                        woken.extend(later.waker.take());
                    }
                }
            }
        }
        woken.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn granted(place: &Place) -> bool {
        place.granted().now_or_never().is_some()
    }

    #[test]
    fn overlapping_requests_run_in_order_of_calls() {
        let line = Rc::new(RangeLock::default());
        let write = line.enter(0..4, true);
        let read = line.enter(3..5, false);
        let other_read = line.enter(4..8, false);
        let second = line.enter(4..5, true);
        assert!(granted(&write) && !granted(&read) && granted(&other_read) && !granted(&second));
        drop(write);
        assert!(granted(&read) && !granted(&second));
        drop(read);
        assert!(!granted(&second), "the other read still holds block 4");
        drop(other_read);
        assert!(granted(&second));
        drop(second);
        assert!(line.entries.borrow().is_empty());
    }

    #[test]
    fn a_place_given_up_while_waiting_frees_those_behind() {
        let line = Rc::new(RangeLock::default());
        let first = line.enter(0..1, true);
        let second = line.enter(0..1, true);
        let third = line.enter(0..1, true);
        drop(second);
        assert!(!granted(&third));
        drop(first);
        assert!(granted(&third));
    }
}
