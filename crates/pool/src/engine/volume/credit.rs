//! Room in the log, counted in bytes.
//!
//! A writer takes its turn **when it is called** and gets its bytes in that order, so that of two
//! overlapping writes the later one never holds the room that the earlier one waits for. Room comes
//! back when a segment is freed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The room of one log.
pub(crate) struct Credit {
    free_bytes: Cell<u64>,
    capacity_bytes: u64,
    turns: RefCell<BTreeMap<u64, Option<Waker>>>,
    /// Of all that are in line.
    wanted_bytes: Cell<u64>,
    /// A new segment waits for the room of older ones.
    pub(crate) wants_segment: Cell<bool>,
    next_turn: Cell<u64>,
}

/// A place in line for room; given up when dropped.
pub(crate) struct Turn {
    credit: Rc<Credit>,
    number: u64,
    bytes: u64,
    taken: Cell<bool>,
}

impl Credit {
    /// A log with room for `capacity_bytes`.
    pub(crate) fn new(capacity_bytes: u64) -> Rc<Credit> {
        Rc::new(Credit {
            free_bytes: Cell::new(capacity_bytes),
            capacity_bytes,
            turns: RefCell::default(),
            wanted_bytes: Cell::new(0),
            wants_segment: Cell::new(false),
            next_turn: Cell::new(0),
        })
    }

    /// Bytes in use.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.capacity_bytes - self.free_bytes.get()
    }

    /// Bytes in all.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Whether there is too little room for those in line. Who merely was called, and takes what is there
    /// when its task runs, waits for nothing.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted_bytes.get() > self.free_bytes.get()
    }

    /// Whether somebody waits for what only destaging gives back.
    pub(crate) fn is_awaited(&self) -> bool {
        self.is_wanted() || self.wants_segment.get()
    }

    /// Takes a place in line for `bytes`. More than the log ever has is cut to that: such a request
    /// waits for an empty log and no longer.
    pub(crate) fn line_up(self: &Rc<Self>, bytes: u64) -> Turn {
        let number = self.next_turn.get();
        self.next_turn.set(number + 1);
        self.turns.borrow_mut().insert(number, None);
        let bytes = bytes.min(self.capacity_bytes);
        self.wanted_bytes.set(self.wanted_bytes.get() + bytes);
        Turn { credit: Rc::clone(self), number, bytes, taken: Cell::new(false) }
    }

    /// Gives `bytes` back.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.free_bytes.set((self.free_bytes.get() + bytes).min(self.capacity_bytes));
        self.wake_first();
    }

    fn leave(&self, turn: &Turn) {
        self.turns.borrow_mut().remove(&turn.number);
        self.wanted_bytes.set(self.wanted_bytes.get() - turn.bytes);
    }

    fn wake_first(&self) {
        let waker =
            self.turns.borrow_mut().first_entry().and_then(|mut first| first.get_mut().take());
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Turn {
    /// Completes with the bytes taken, which are the log's from then on: only
    /// [`Credit::give_back`] returns them.
    pub(crate) fn take(&self) -> impl Future<Output = u64> + '_ {
        std::future::poll_fn(|context| {
            if self.taken.get() {
                return Poll::Ready(self.bytes);
            }
            let credit = &self.credit;
            {
                let mut turns = credit.turns.borrow_mut();
                let first = turns.first_key_value().is_some_and(|(first, _)| *first == self.number);
                if !first || credit.free_bytes.get() < self.bytes {
                    turns.insert(self.number, Some(context.waker().clone()));
                    return Poll::Pending;
                }
            }
            credit.leave(self);
            self.taken.set(true);
            credit.free_bytes.set(credit.free_bytes.get() - self.bytes);
            credit.wake_first();
            Poll::Ready(self.bytes)
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.taken.get() {
            self.credit.leave(self);
            self.credit.wake_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn room_goes_in_order_of_calls_and_comes_back() {
        let credit = Credit::new(10);
        let large = credit.line_up(8);
        assert!(!credit.is_wanted(), "it only has to take it");
        let small = credit.line_up(4);
        let tiny = credit.line_up(1);
        assert!(small.take().now_or_never().is_none(), "not its turn");
        assert_eq!(large.take().now_or_never(), Some(8));
        assert!(small.take().now_or_never().is_none());
        assert!(tiny.take().now_or_never().is_none(), "must not overtake");
        assert!(credit.is_wanted());
        drop(small);
        assert!(!credit.is_wanted());
        assert_eq!(tiny.take().now_or_never(), Some(1));
        assert_eq!(credit.used_bytes(), 9);
        drop(large);
        assert_eq!(credit.used_bytes(), 9, "taken room is the log's");
        credit.give_back(9);
        assert_eq!(credit.used_bytes(), 0);
        assert_eq!(credit.line_up(100).take().now_or_never(), Some(10));
    }
}
