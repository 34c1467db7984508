//! What one reader is told of, in order: hints, events, records of requests. Whoever tells never waits,
//! and a reader that is slow or not there costs bounded memory.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::Notify;

/// A queue in which at most `LIMIT` events wait. When another comes the oldest is lost, which is
/// counted: the reader learns that it doesn't know everything.
pub struct EventQueue<T, const LIMIT: usize> {
    waiting: RefCell<VecDeque<T>>,
    lost: Cell<u64>,
    arrived: Notify,
}

impl<T, const LIMIT: usize> Default for EventQueue<T, LIMIT> {
    fn default() -> EventQueue<T, LIMIT> {
        EventQueue { waiting: RefCell::default(), lost: Cell::new(0), arrived: Notify::new() }
    }
}

impl<T, const LIMIT: usize> EventQueue<T, LIMIT> {
    /// Tells the reader of something.
    pub fn push(&self, event: T) {
        let mut waiting = self.waiting.borrow_mut();
        let oldest = if waiting.len() < LIMIT { None } else { waiting.pop_front() };
        waiting.push_back(event);
        drop(waiting);
        self.note_lost(oldest.iter().len() as u64);
        self.arrived.notify_all();
    }

    /// The next event, if one waits.
    pub fn pop(&self) -> Option<T> {
        self.waiting.borrow_mut().pop_front()
    }

    /// The next event.
    pub async fn next(&self) -> T {
        loop {
            let arrived = self.arrived.notified();
            if let Some(event) = self.pop() {
                return event;
            }
            arrived.await;
        }
    }

    /// Counts events that were lost on their way here.
    pub fn note_lost(&self, count: u64) {
        self.lost.set(self.lost.get() + count);
    }

    /// How many events were lost since the last question: all of them before what waits now.
    pub fn take_lost(&self) -> u64 {
        self.lost.take()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::{Executor, Order};

    #[test]
    fn a_slow_reader_loses_the_oldest_and_learns_how_many() {
        let queue = EventQueue::<u32, 3>::default();
        (0..3).for_each(|event| queue.push(event));
        assert_eq!(queue.take_lost(), 0);
        (3..5).for_each(|event| queue.push(event));
        queue.note_lost(7);
        assert_eq!((queue.take_lost(), queue.take_lost()), (9, 0));
        assert_eq!(std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn a_reader_is_woken() {
        let executor = Executor::new(block::Instant::default(), 0, Order::Fifo, || {});
        let queue = Rc::new(EventQueue::<u32, 3>::default());
        let read = Rc::new(Cell::new(None));
        let (reader, place) = (Rc::clone(&queue), Rc::clone(&read));
        executor.handle().spawn(async move { place.set(Some(reader.next().await)) });
        executor.run_ready(10);
        assert_eq!(read.get(), None);
        queue.push(4);
        executor.run_ready(10);
        assert_eq!(read.get(), Some(4));
    }
}
