//! Waiting for each other within one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Wakes everyone who waits. A waiter takes a [`Notify::notified`] future before it looks at the
/// condition, so that no change between look and wait is missed.
#[derive(Default)]
pub struct Notify {
    generation: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl Notify {
    /// Nobody waits.
    pub fn new() -> Notify {
        Notify::default()
    }

    /// Wakes all who hold a `notified` future from before this call.
    pub fn notify_all(&self) {
        self.generation.set(self.generation.get() + 1);
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Completes at the first `notify_all` after this call (not after the first poll).
    pub fn notified(&self) -> impl Future<Output = ()> + '_ {
        let seen = self.generation.get();
        std::future::poll_fn(move |context| {
            if self.generation.get() != seen {
                return Poll::Ready(());
            }
            let mut waiters = self.waiters.borrow_mut();
            if !waiters.iter().any(|waiter| waiter.will_wake(context.waker())) {
                waiters.push(context.waker().clone());
            }
            Poll::Pending
        })
    }
}

/// A counted resource; waiters are served in order of arrival, so a large request isn't starved by
/// small ones.
pub struct Semaphore {
    free: Cell<u64>,
    queue: RefCell<VecDeque<u64>>,
    next_ticket: Cell<u64>,
    changed: Notify,
}

/// A share of a [`Semaphore`], given back when dropped.
pub struct Permit {
    semaphore: Rc<Semaphore>,
    amount: u64,
}

impl Semaphore {
    /// A resource of which `amount` is free.
    pub fn new(amount: u64) -> Rc<Semaphore> {
        Rc::new(Semaphore {
            free: Cell::new(amount),
            queue: RefCell::default(),
            next_ticket: Cell::new(0),
            changed: Notify::new(),
        })
    }

    /// Takes `amount`, waiting for its turn.
    pub async fn acquire(self: &Rc<Self>, amount: u64) -> Permit {
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        self.queue.borrow_mut().push_back(ticket);
        let turn = Turn { semaphore: self, ticket };
        loop {
            let changed = self.changed.notified();
            let first = self.queue.borrow().front() == Some(&ticket);
            if first && self.free.get() >= amount {
                self.free.set(self.free.get() - amount);
                drop(turn);
                return Permit { semaphore: Rc::clone(self), amount };
            }
            changed.await;
        }
    }

    /// How much is free.
    pub fn available(&self) -> u64 {
        self.free.get()
    }

    /// Adds to the resource.
    pub fn add(&self, amount: u64) {
        self.free.set(self.free.get() + amount);
        self.changed.notify_all();
    }
}

/// A place in the queue that is given up when its waiter goes away.
struct Turn<'a> {
    semaphore: &'a Semaphore,
    ticket: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.semaphore.queue.borrow_mut().retain(|ticket| *ticket != self.ticket);
        self.semaphore.changed.notify_all();
    }
}

impl Permit {
    /// Keeps the amount for good: nothing is given back.
    pub fn forget(mut self) {
        self.amount = 0;
    }

    /// How much this permit holds.
    pub fn amount(&self) -> u64 {
        self.amount
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.semaphore.add(self.amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Executor, Order};
    use block::Instant;

    #[test]
    fn semaphore_serves_in_order_of_arrival() {
        let executor = Executor::new(Instant::default(), 3, Order::Seeded, || {});
        let semaphore = Semaphore::new(2);
        let seen = Rc::new(RefCell::new(Vec::new()));
        let held = Rc::new(RefCell::new(None));
        {
            let (semaphore, held) = (Rc::clone(&semaphore), Rc::clone(&held));
            executor.handle().spawn(async move {
                *held.borrow_mut() = Some(semaphore.acquire(1).await);
            });
        }
        executor.run_ready(100);
        for (name, amount) in [("large", 2), ("small", 1)] {
            let (semaphore, seen) = (Rc::clone(&semaphore), Rc::clone(&seen));
            executor.handle().spawn(async move {
                let permit = semaphore.acquire(amount).await;
                seen.borrow_mut().push(name);
                drop(permit);
            });
            executor.run_ready(100);
        }
        assert!(seen.borrow().is_empty(), "the small one must not overtake");
        held.borrow_mut().take();
        executor.run_ready(100);
        assert_eq!(*seen.borrow(), ["large", "small"]);
        assert_eq!(semaphore.available(), 2);
    }

    #[test]
    fn a_notification_between_look_and_wait_is_not_missed() {
        let notify = Notify::new();
        let notified = notify.notified();
        notify.notify_all();
        let executor = Executor::new(Instant::default(), 0, Order::Fifo, || {});
        let mut notified = Box::pin(notified);
        let waker = futures::task::noop_waker();
        let polled = notified.as_mut().poll(&mut std::task::Context::from_waker(&waker));
        assert!(polled.is_ready());
        assert!(!executor.has_ready());
    }
}
