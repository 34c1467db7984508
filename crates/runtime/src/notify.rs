//! Waiting for each other within one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Wakes everyone who waits. A waiter takes a [`Notify::notified`] future before it looks at the
/// condition, so that no change between look and wait is missed.
#[derive(Default)]
pub struct Notify {
    generation: Cell<u64>,
    next_waiter: Cell<u64>,
    /// In order of the numbers, which is that of the first polls.
    waiters: RefCell<Vec<(u64, Waker)>>,
}

/// Waits for a [`Notify`]. Dropping it takes its waker back.
pub struct Notified<'a> {
    notify: &'a Notify,
    seen: u64,
    /// Its number among the waiters, once it has been polled.
    waiter: Option<u64>,
}

impl Notify {
    /// Nobody waits.
    pub fn new() -> Notify {
        Notify::default()
    }

    /// Wakes all who hold a `notified` future from before this call.
    pub fn notify_all(&self) {
        self.generation.set(self.generation.get() + 1);
        let mut waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        waiters.drain(..).for_each(|(_, waker)| waker.wake());
        // Kept for its memory, unless somebody waits already.
        let mut present = self.waiters.borrow_mut();
        if present.is_empty() {
            *present = waiters;
        }
    }

    /// Completes at the first `notify_all` after this call (not after the first poll).
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, seen: self.generation.get(), waiter: None }
    }

    fn find(waiters: &[(u64, Waker)], waiter: u64) -> Option<usize> {
        waiters.binary_search_by_key(&waiter, |(number, _)| *number).ok()
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let notify = self.notify;
        if notify.generation.get() != self.seen {
            return Poll::Ready(());
        }
        let mut waiters = notify.waiters.borrow_mut();
        match self.waiter.and_then(|waiter| Notify::find(&waiters, waiter)) {
            Some(index) => waiters[index].1.clone_from(context.waker()),
            None => {
                let waiter = notify.next_waiter.get();
                notify.next_waiter.set(waiter + 1);
                waiters.push((waiter, context.waker().clone()));
                self.waiter = Some(waiter);
            }
        }
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter else { return };
        let waker = {
            let mut waiters = self.notify.waiters.borrow_mut();
            Notify::find(&waiters, waiter).map(|index| waiters.remove(index))
        };
        // Outside of the borrow: it may be the last thing that keeps a task.
        drop(waker);
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

    /// Whether somebody waits for a turn.
    pub fn is_wanted(&self) -> bool {
        !self.queue.borrow().is_empty()
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

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

    /// Who gives up waiting (a limit of time passed, another future was faster) used to leave a waker
    /// until the next notification, which may never come: memory that only grew.
    #[test]
    fn a_dropped_waiter_leaves_nothing() {
        let notify = Notify::new();
        let waker = futures::task::noop_waker();
        let mut context = std::task::Context::from_waker(&waker);
        let mut kept = Box::pin(notify.notified());
        assert!(kept.as_mut().poll(&mut context).is_pending());
        for _ in 0..100 {
            let mut dropped = Box::pin(notify.notified());
            assert!(dropped.as_mut().poll(&mut context).is_pending());
            assert!(dropped.as_mut().poll(&mut context).is_pending(), "polled twice, one entry");
            assert_eq!(notify.waiters.borrow().len(), 2);
        }
        assert_eq!(notify.waiters.borrow().len(), 1);
        notify.notify_all();
        // A waiter of the next round isn't taken away by one of the last.
        let mut next = Box::pin(notify.notified());
        assert!(next.as_mut().poll(&mut context).is_pending());
        assert!(kept.as_mut().poll(&mut context).is_ready());
        drop(kept);
        assert_eq!(notify.waiters.borrow().len(), 1);
    }

    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_notification_reaches_a_waiter_that_moved_to_another_task() {
        let notify = Notify::new();
        let counts = [(); 2].map(|()| Arc::new(Count(AtomicU32::new(0))));
        let mut notified = Box::pin(notify.notified());
        for count in &counts {
            let waker = Waker::from(Arc::clone(count));
            let mut context = std::task::Context::from_waker(&waker);
            assert!(notified.as_mut().poll(&mut context).is_pending());
        }
        notify.notify_all();
        assert_eq!(counts.map(|count| count.0.load(Ordering::Relaxed)), [0, 1]);
    }
}
