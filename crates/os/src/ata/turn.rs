//! Calls that may hang in the kernel for minutes, one at a time for each disk: a disk that doesn't
//! answer costs one thread, and its callers hear so in time.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures::channel::oneshot;
use runtime::{Semaphore, timeout};

use crate::ReactorHandle;

/// Enough for system calls; the process locks its memory.
const STACK_BYTES: usize = 256 * 1024;
/// Callers that may wait for their turn.
const WAITING_MAX: u32 = 8;

/// The turn at a disk. Cheap to clone: all clones are the same turn.
#[derive(Clone)]
pub struct Turn {
    handle: ReactorHandle,
    turn: Rc<Semaphore>,
    waiting: Rc<Cell<u32>>,
}

/// Why a call has no result.
#[derive(Debug)]
pub enum TurnError {
    /// Too many wait already.
    Busy,
    /// It took too long. It may still happen.
    TimedOut,
    /// No thread to be had.
    System(io::Error),
}

/// Counts a caller for as long as it waits, also when it gives up.
struct Waiting(Rc<Cell<u32>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Turn {
    /// Of a disk that nobody uses yet.
    pub fn new(handle: &ReactorHandle) -> Turn {
        Turn { handle: handle.clone(), turn: Semaphore::new(1), waiting: Rc::default() }
    }

    /// Runs `call` on a thread when all earlier calls have ended, those included whose callers have
    /// given up. `limit` is for waiting and running together.
    pub async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TurnError> {
        if self.waiting.get() >= WAITING_MAX {
            return Err(TurnError::Busy);
        }
        self.waiting.set(self.waiting.get() + 1);
        let waiting = Waiting(Rc::clone(&self.waiting));
        let both = async {
            let permit = self.turn.acquire(1).await;
            drop(waiting);
            let (sender, receiver) = oneshot::channel();
            std::thread::Builder::new()
                .name("disk-call".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    let _ = sender.send(call());
                })
                .map_err(TurnError::System)?;
            let (answer, answered) = oneshot::channel();
            // The turn ends with the call, not with the caller's patience.
            self.handle.runtime().spawn(async move {
                let result = receiver.await;
                drop(permit);
                let _ = answer.send(result);
            });
            match answered.await {
                Ok(Ok(value)) => Ok(value),
                _ => Err(TurnError::System(io::Error::other("a call to a disk panicked"))),
            }
        };
        match timeout(self.handle.runtime(), limit, both).await {
            Ok(result) => result,
            Err(_) => Err(TurnError::TimedOut),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Reactor;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_call_that_hangs_keeps_the_turn_and_not_its_caller() {
        let (mut reactor, handle) = Reactor::new().unwrap();
        let turn = Turn::new(&handle);
        let (release, released) = mpsc::channel::<()>();
        let result = reactor.run_until(async move {
            let short = Duration::from_millis(1);
            let hung = turn.run(short, move || released.recv().is_ok()).await;
            assert!(matches!(hung, Err(TurnError::TimedOut)));
            // Not started while the first runs: this would be noticed by its sender's end.
            let (started, starts) = mpsc::channel();
            let second = turn.run(short, move || started.send(())).await;
            assert!(matches!(second, Err(TurnError::TimedOut)));
            assert!(starts.recv().is_err(), "two calls at once");
            release.send(()).unwrap();
            turn.run(LONG, || 7).await.unwrap()
        });
        assert_eq!(result.unwrap(), 7);
    }

    #[test]
    fn few_may_wait() {
        let (mut reactor, handle) = Reactor::new().unwrap();
        let turn = Turn::new(&handle);
        let (release, released) = mpsc::channel::<()>();
        reactor
            .run_until(async move {
                let first = turn.run(LONG, move || released.recv().is_ok());
                let others = (0..=WAITING_MAX).map(|_| turn.run(LONG, || true));
                let mut all: Vec<_> = vec![Box::pin(first) as futures::future::LocalBoxFuture<_>];
                all.extend(others.map(|other| Box::pin(other) as _));
                // Polled in order: the first has the turn, eight wait, the last is turned away.
                let last = all.pop().unwrap();
                let rest = futures::future::join_all(all);
                let turned_away = async {
                    let refused = last.await;
                    release.send(()).unwrap();
                    refused
                };
                let (rest, refused) = futures::join!(rest, turned_away);
                assert!(matches!(refused, Err(TurnError::Busy)));
                assert!(rest.iter().all(|result| matches!(result, Ok(true))));
            })
            .unwrap();
    }

    #[test]
    fn a_call_that_panics_gives_the_turn_back() {
        let (mut reactor, handle) = Reactor::new().unwrap();
        let turn = Turn::new(&handle);
        let after = reactor.run_until(async move {
            let failed = turn.run(LONG, || panic!("on purpose")).await;
            assert!(matches!(failed, Err::<(), _>(TurnError::System(_))));
            turn.run(LONG, || 1).await.unwrap()
        });
        assert_eq!(after.unwrap(), 1);
    }
}
