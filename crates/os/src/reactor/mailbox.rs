//! A queue from other threads into a reactor. Bounded: a sender that outruns the reactor is told so
//! instead of filling the memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// The receiving end, on the reactor's thread.
pub struct Mailbox<T> {
    shared: Arc<Mutex<State<T>>>,
}

/// The sending end, for any thread.
pub struct MailSender<T> {
    shared: Arc<Mutex<State<T>>>,
}

/// The letter comes back: the mailbox is full, or nobody will ever empty it.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError<T> {
    /// As many letters wait as may wait.
    Full(T),
    /// The mailbox is gone.
    Closed(T),
}

struct State<T> {
    letters: VecDeque<T>,
    capacity: usize,
    senders: usize,
    closed: bool,
    waker: Option<Waker>,
}

/// A mailbox in which at most `capacity` letters wait.
pub fn mailbox<T>(capacity: usize) -> (MailSender<T>, Mailbox<T>) {
    let state =
        State { letters: VecDeque::new(), capacity, senders: 1, closed: false, waker: None };
    let shared = Arc::new(Mutex::new(state));
    (MailSender { shared: Arc::clone(&shared) }, Mailbox { shared })
}

fn lock<T>(shared: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> MailSender<T> {
    /// Sends; never waits.
    pub fn send(&self, letter: T) -> Result<(), SendError<T>> {
        let waker = {
            let mut state = lock(&self.shared);
            if state.closed {
                return Err(SendError::Closed(letter));
            }
            if state.letters.len() >= state.capacity {
                return Err(SendError::Full(letter));
            }
            state.letters.push_back(letter);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

impl<T> Clone for MailSender<T> {
    fn clone(&self) -> MailSender<T> {
        lock(&self.shared).senders += 1;
        MailSender { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for MailSender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = lock(&self.shared);
            state.senders -= 1;
            if state.senders == 0 { state.waker.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Mailbox<T> {
    /// The next letter; `None` when all senders are gone and nothing waits.
    pub fn receive(&mut self) -> impl Future<Output = Option<T>> + '_ {
        std::future::poll_fn(|context| {
            let mut state = lock(&self.shared);
            if let Some(letter) = state.letters.pop_front() {
                return Poll::Ready(Some(letter));
            }
            if state.senders == 0 {
                return Poll::Ready(None);
            }
            state.waker = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        let letters = {
            let mut state = lock(&self.shared);
            state.closed = true;
            std::mem::take(&mut state.letters)
        };
        drop(letters);
    }
}
