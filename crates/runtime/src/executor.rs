//! Tasks, timers and the seeded generator.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use block::Instant;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// In which order ready tasks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// First woken, first run.
    Fifo,
    /// By the seed: every interleaving that wakers permit can happen.
    Seeded,
}

/// A single-threaded executor that is told the time.
pub struct Executor {
    shared: Rc<Shared>,
    order: Order,
}

/// What tasks are given: time, randomness, and the right to spawn. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Rc<Shared>,
}

struct Shared {
    now: Cell<Instant>,
    /// What `now` is read from now and then, if there is such a thing.
    clock: RefCell<Option<Box<dyn Fn() -> Instant>>>,
    /// Tells people's time, if it isn't `now`.
    calendar: RefCell<Option<Box<dyn Fn() -> Duration>>>,
    tasks: RefCell<Tasks>,
    ready: Arc<ReadyQueue>,
    timers: RefCell<BTreeMap<(Instant, u64), Waker>>,
    /// When the first of them is due: asked for far oftener than it changes.
    earliest: Cell<Option<Instant>>,
    next_timer: Cell<u64>,
    random: RefCell<SmallRng>,
}

/// A spawned future with its one waker: the same at every poll, so that `will_wake` recognises it
/// and a [`crate::Notify`] holds one entry per waiting task however often that task is polled.
struct Task {
    future: LocalBoxFuture<'static, ()>,
    waker: Waker,
}

/// A task's place in the table, and which of the tasks that had that place it is: a waker may outlive its
/// task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TaskId {
    place: u32,
    turn: u32,
}

/// The tasks that haven't ended. Every request is a task, and each step takes one out and puts it back.
#[derive(Default)]
struct Tasks {
    places: Vec<TaskPlace>,
    free: Vec<u32>,
}

struct TaskPlace {
    turn: u32,
    /// `None` while it runs, and while the place is free.
    task: Option<Task>,
}

impl Tasks {
    fn add(&mut self, task: impl FnOnce(TaskId) -> Task) -> TaskId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(TaskPlace { turn: 0, task: None });
            (self.places.len() - 1) as u32
        });
        let slot = &mut self.places[place as usize];
        let id = TaskId { place, turn: slot.turn };
        slot.task = Some(task(id));
        id
    }

    /// Takes a task out, to run it; unless it has ended or runs.
    fn take(&mut self, id: TaskId) -> Option<Task> {
        let place = &mut self.places[id.place as usize];
        if place.turn == id.turn { place.task.take() } else { None }
    }

    /// Puts one back that hasn't ended.
    fn put_back(&mut self, id: TaskId, task: Task) {
        self.places[id.place as usize].task = Some(task);
    }

    /// A task that was taken has ended.
    fn end(&mut self, id: TaskId) {
        let place = &mut self.places[id.place as usize];
        place.turn = place.turn.wrapping_add(1);
        self.free.push(id.place);
    }

    /// Takes out all that are there, which have ended thereby.
    fn end_all(&mut self) -> Vec<Task> {
        let mut ended = Vec::new();
        for (place, number) in self.places.iter_mut().zip(0..) {
            if let Some(task) = place.task.take() {
                place.turn = place.turn.wrapping_add(1);
                self.free.push(number);
                ended.push(task);
            }
        }
        ended
    }
}

/// Woken tasks; the only part that other threads may touch, through wakers.
struct ReadyQueue {
    queue: Mutex<VecDeque<TaskId>>,
    on_wake: Box<dyn Fn() + Send + Sync>,
}

struct TaskWaker {
    task: TaskId,
    ready: Arc<ReadyQueue>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.task);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.push(self.task);
    }
}

impl ReadyQueue {
    fn push(&self, task: TaskId) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(task);
        (self.on_wake)();
    }
}

impl Shared {
    /// After each change of the timers.
    fn note_earliest(&self) {
        let timers = self.timers.borrow();
        self.earliest.set(timers.first_key_value().map(|((at, _), _)| *at));
    }
}

impl Executor {
    /// An executor whose clock stands at `now`. `on_wake` is called at each wake-up, from any
    /// thread, so that a sleeping reactor can be roused.
    pub fn new(
        now: Instant,
        seed: u64,
        order: Order,
        on_wake: impl Fn() + Send + Sync + 'static,
    ) -> Executor {
        let shared = Shared {
            now: Cell::new(now),
            clock: RefCell::default(),
            calendar: RefCell::default(),
            tasks: RefCell::default(),
            ready: Arc::new(ReadyQueue { queue: Mutex::default(), on_wake: Box::new(on_wake) }),
            timers: RefCell::default(),
            earliest: Cell::default(),
            next_timer: Cell::new(0),
            random: RefCell::new(SmallRng::seed_from_u64(seed)),
        };
        Executor { shared: Rc::new(shared), order }
    }

    /// What tasks are given.
    pub fn handle(&self) -> Handle {
        Handle { shared: Rc::clone(&self.shared) }
    }

    /// Gives it a clock to look at between two tellings of the time.
    pub fn set_clock(&self, clock: impl Fn() -> Instant + 'static) {
        *self.shared.clock.borrow_mut() = Some(Box::new(clock));
    }

    /// Gives it people's clock, which tells the time since 1970 began.
    pub fn set_calendar(&self, calendar: impl Fn() -> Duration + 'static) {
        *self.shared.calendar.borrow_mut() = Some(Box::new(calendar));
    }

    /// Tells the time; wakes the timers that are due. Time never goes back.
    pub fn set_now(&self, now: Instant) {
        self.shared.now.set(self.shared.now.get().max(now));
        let now = self.shared.now.get();
        while self.shared.earliest.get().is_some_and(|at| at <= now) {
            let first = self.shared.timers.borrow_mut().pop_first();
            self.shared.note_earliest();
            if let Some((_, due)) = first {
                due.wake();
            }
        }
    }

    /// When the earliest timer is due; `None` while no task waits for time.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.shared.earliest.get()
    }

    /// Whether a task could run now.
    pub fn has_ready(&self) -> bool {
        !self.shared.ready.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Runs one ready task until it waits; false when none was ready.
    pub fn run_one(&self) -> bool {
        let Some(task) = self.take_ready() else { return false };
        // Out of the table while it runs, so that it may spawn and be woken meanwhile.
        let Some(mut running) = self.shared.tasks.borrow_mut().take(task) else { return true };
        let mut context = Context::from_waker(&running.waker);
        match running.future.as_mut().poll(&mut context) {
            Poll::Pending => self.shared.tasks.borrow_mut().put_back(task, running),
            Poll::Ready(()) => self.shared.tasks.borrow_mut().end(task),
        }
        true
    }

    /// Runs ready tasks until all wait, at most `limit` steps; returns the steps taken.
    pub fn run_ready(&self, limit: usize) -> usize {
        (0..limit).take_while(|_| self.run_one()).count()
    }

    /// Drops every task, as the death of the process does. Timers go with them.
    pub fn clear(&self) {
        // A task's drop may spawn or wake: go on until nothing is left.
        loop {
            let tasks = self.shared.tasks.borrow_mut().end_all();
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
        let timers = std::mem::take(&mut *self.shared.timers.borrow_mut());
        self.shared.note_earliest();
        drop(timers);
        self.shared.ready.queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn take_ready(&self) -> Option<TaskId> {
        let mut queue = self.shared.ready.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match self.order {
            Order::Fifo => queue.pop_front(),
            Order::Seeded if queue.len() > 1 => {
                let index = self.shared.random.borrow_mut().random_range(0..queue.len());
                queue.remove(index)
            }
            Order::Seeded => queue.pop_front(),
        }
    }
}

/// Its tasks end with it: they have handles, which have what has the tasks.
impl Drop for Executor {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Handle {
    /// The present.
    pub fn now(&self) -> Instant {
        self.shared.now.get()
    }

    /// The present, looked up: [`now`](Handle::now) may be as old as the process was stopped for in the
    /// middle of its work.
    pub fn look_at_clock(&self) -> Instant {
        let clock = self.shared.clock.borrow();
        clock.as_ref().map_or(self.now(), |clock| clock().max(self.now()))
    }

    /// People's time, since 1970 began. It may be wrong, and jump to and fro: for what happens monthly, and for
    /// telling when something was; never for waiting.
    pub fn calendar(&self) -> Duration {
        let calendar = self.shared.calendar.borrow();
        calendar.as_ref().map_or(self.now().since(Instant::default()), |calendar| calendar())
    }

    /// Runs `future` beside its caller, to its end.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let future = future.boxed_local();
        let task = self.shared.tasks.borrow_mut().add(|task| {
            let ready = Arc::clone(&self.shared.ready);
            Task { future, waker: Waker::from(Arc::new(TaskWaker { task, ready })) }
        });
        self.shared.ready.push(task);
    }

    /// Completes at `deadline`; at once when that is past.
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep { shared: Rc::clone(&self.shared), deadline, timer: None }
    }

    /// Completes after `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Lets other ready tasks run first.
    pub fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        let mut yielded = false;
        std::future::poll_fn(move |context| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// A random number from the executor's generator. Not for secrets.
    pub fn random_u64(&self) -> u64 {
        self.shared.random.borrow_mut().next_u64()
    }

    /// A random number below `bound`; zero for a bound of zero.
    pub fn random_below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.shared.random.borrow_mut().random_range(0..bound) }
    }

    /// Sixteen random bytes, for identities.
    pub fn random_bytes16(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.shared.random.borrow_mut().fill_bytes(&mut bytes);
        bytes
    }
}

/// Waits for a point in time. Dropping it takes its timer back.
pub struct Sleep {
    shared: Rc<Shared>,
    deadline: Instant,
    timer: Option<Timer>,
}

/// A place among the timers, and whom it wakes: most sleeps are polled again and again by the same task,
/// which waits for something else as well.
struct Timer {
    key: (Instant, u64),
    waker: Waker,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.shared.now.get() >= self.deadline {
            return Poll::Ready(());
        }
        let key = match &self.timer {
            Some(timer) if timer.waker.will_wake(context.waker()) => return Poll::Pending,
            Some(timer) => timer.key,
            None => {
                let number = self.shared.next_timer.get();
                self.shared.next_timer.set(number + 1);
                (self.deadline, number)
            }
        };
        let waker = context.waker().clone();
        let former = self.shared.timers.borrow_mut().insert(key, waker.clone());
        self.shared.note_earliest();
        // Outside of the borrow: it may be the last thing that keeps a task.
        drop(former);
        self.timer = Some(Timer { key, waker });
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            let waker = self.shared.timers.borrow_mut().remove(&timer.key);
            self.shared.note_earliest();
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executor(order: Order, seed: u64) -> Executor {
        Executor::new(Instant::default(), seed, order, || {})
    }

    fn order_of(order: Order, seed: u64) -> Vec<u32> {
        let executor = executor(order, seed);
        let handle = executor.handle();
        let seen = Rc::new(RefCell::new(Vec::new()));
        for i in 0..6 {
            let (handle, seen) = (handle.clone(), Rc::clone(&seen));
            handle.clone().spawn(async move {
                handle.sleep(Duration::from_millis(u64::from(i % 2))).await;
                seen.borrow_mut().push(i);
            });
        }
        while executor.run_ready(100) > 0 || executor.next_deadline().is_some() {
            if let Some(at) = executor.next_deadline() {
                executor.set_now(at);
            }
        }
        seen.take()
    }

    #[test]
    fn tasks_end_with_their_executor() {
        let executor = executor(Order::Fifo, 0);
        let (kept, handle) = (Rc::new(()), executor.handle());
        let held = Rc::clone(&kept);
        executor.handle().spawn(async move {
            handle.sleep(Duration::from_secs(1)).await;
            drop(held);
        });
        executor.run_ready(10);
        assert_eq!(Rc::strong_count(&kept), 2);
        drop(executor);
        assert_eq!(Rc::strong_count(&kept), 1);
    }

    #[test]
    fn fifo_keeps_order_and_seeds_replay() {
        assert_eq!(order_of(Order::Fifo, 1), [0, 2, 4, 1, 3, 5]);
        assert_eq!(order_of(Order::Seeded, 7), order_of(Order::Seeded, 7));
        assert!((0..20).any(|seed| order_of(Order::Seeded, seed) != order_of(Order::Seeded, 7)));
    }

    #[test]
    fn a_dropped_sleep_leaves_no_timer() {
        let executor = executor(Order::Fifo, 0);
        let handle = executor.handle();
        executor.handle().spawn(async move {
            let mut sleep = Box::pin(handle.sleep(Duration::from_secs(1)));
            let polled = futures::poll!(sleep.as_mut());
            assert!(polled.is_pending());
        });
        executor.run_ready(10);
        assert_eq!(executor.next_deadline(), None);
    }

    /// A task that is polled again and again beside a notification that never comes used to leave
    /// one waker there per poll: memory that only grew. One waker per task prevents it.
    #[test]
    fn a_tasks_waker_stays_the_same() {
        let executor = executor(Order::Fifo, 0);
        let handle = executor.handle();
        let same = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&same);
        executor.handle().spawn(async move {
            let mut first: Option<Waker> = None;
            for _ in 0..3 {
                std::future::poll_fn(|context| {
                    if let Some(first) = &first {
                        seen.borrow_mut().push(first.will_wake(context.waker()));
                    }
                    first = Some(context.waker().clone());
                    Poll::Ready(())
                })
                .await;
                handle.yield_now().await;
            }
        });
        executor.run_ready(10);
        assert_eq!(*same.borrow(), [true, true]);
    }

    #[test]
    fn a_waker_that_outlives_its_task_wakes_no_other() {
        let executor = executor(Order::Fifo, 0);
        let handle = executor.handle();
        let waker = Rc::new(RefCell::new(None));
        let kept = Rc::clone(&waker);
        handle.spawn(std::future::poll_fn(move |context| {
            *kept.borrow_mut() = Some(context.waker().clone());
            Poll::Ready(())
        }));
        executor.run_ready(10);
        // The next one has the place of the one that ended.
        let polls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&polls);
        handle.spawn(std::future::poll_fn(move |_| {
            counted.set(counted.get() + 1);
            Poll::Pending
        }));
        executor.run_ready(10);
        if let Some(waker) = waker.take() {
            waker.wake();
        }
        executor.run_ready(10);
        assert_eq!(polls.get(), 1);
        executor.clear();
        assert_eq!(executor.run_ready(10), 0);
    }

    /// A sleep that one task has begun to wait for may be waited for by another one.
    #[test]
    fn a_sleep_wakes_who_polled_it_last() {
        let executor = executor(Order::Fifo, 0);
        let handle = executor.handle();
        let sleep = Rc::new(RefCell::new(handle.sleep(Duration::from_secs(1))));
        let done = Rc::new(Cell::new(0));
        for _ in 0..2 {
            let (sleep, done) = (Rc::clone(&sleep), Rc::clone(&done));
            handle.spawn(std::future::poll_fn(move |context| {
                let polled = Pin::new(&mut *sleep.borrow_mut()).poll(context);
                done.set(done.get() + u32::from(polled.is_ready()));
                polled
            }));
        }
        executor.run_ready(10);
        executor.set_now(Instant::from_nanos(1_000_000_000));
        assert_eq!((executor.run_ready(10), done.get()), (1, 1));
        assert_eq!(executor.next_deadline(), None);
    }

    #[test]
    fn clear_drops_tasks() {
        let executor = executor(Order::Fifo, 0);
        let alive = Rc::new(());
        let held = Rc::clone(&alive);
        executor.handle().spawn(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        executor.run_ready(10);
        assert_eq!(Rc::strong_count(&alive), 2);
        executor.clear();
        assert_eq!(Rc::strong_count(&alive), 1);
    }
}
