//! Virtual time, and the processes that live in it.
//!
//! Each simulated process has an executor of its own: killing the process drops all of its tasks at
//! once, between two steps of any of them, and nothing else. What a process leaves behind (frames on
//! the wire, requests in a disk's queue, the disk's contents) is hardware, and hardware is events on
//! the [`Timeline`]. The *director* is one more executor: it runs the scenario and never dies.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use block::Instant;
use futures::channel::oneshot;
use rand::Rng;
use rand::rngs::SmallRng;
use runtime::{Executor, Handle, Order};

use crate::network::Sealed;
use crate::random::{fork, fork_seed};
use crate::steps::Steps;
use crate::story::Story;
use crate::watchdog;

/// Steps of tasks that a process takes before others have their turn.
const STEPS_PER_TURN: u32 = 16;
/// Steps of tasks at one instant after which the run counts as turning in circles.
const STEPS_PER_INSTANT_MAX: u64 = 3_000_000;

type Event = Box<dyn FnOnce()>;

/// The one clock, and what hardware does when.
pub struct Timeline {
    now: Cell<Instant>,
    events: RefCell<BTreeMap<(Instant, u64), Event>>,
    next_event: Cell<u64>,
    steps: Steps,
}

impl Timeline {
    /// What leaves processes and lasts, counted.
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// The present.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// Does `event` at `at`, or next if that is past.
    pub fn schedule(&self, at: Instant, event: impl FnOnce() + 'static) {
        let number = self.next_event.get();
        self.next_event.set(number + 1);
        let at = at.max(self.now());
        self.events.borrow_mut().insert((at, number), Box::new(event));
    }

    /// Does `event` after `delay`.
    pub fn after(&self, delay: Duration, event: impl FnOnce() + 'static) {
        self.schedule(self.now() + delay, event);
    }

    fn next(&self) -> Option<Instant> {
        self.events.borrow().first_key_value().map(|((at, _), _)| *at)
    }

    fn run_due(&self) {
        loop {
            let event = {
                let mut events = self.events.borrow_mut();
                match events.first_entry() {
                    Some(first) if first.key().0 <= self.now() => first.remove(),
                    _ => return,
                }
            };
            event();
            if self.steps.holds_still() {
                return;
            }
        }
    }
}

/// How a machine's clock runs against the world's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// World time at which the machine booted: its clock starts there at zero.
    pub booted: Instant,
    /// How much faster (or, negative, slower) it runs, in parts per million.
    pub drift_ppm: i64,
}

impl Clock {
    fn local(self, world: Instant) -> Instant {
        let elapsed = world.as_nanos().saturating_sub(self.booted.as_nanos());
        let rate = (1_000_000 + self.drift_ppm).max(1) as u64;
        // At each moment for each process: nearly always short numbers do.
        Instant::from_nanos(match elapsed.checked_mul(rate) {
            Some(parts) => parts / 1_000_000,
            None => (u128::from(elapsed) * u128::from(rate) / 1_000_000) as u64,
        })
    }

    /// The first moment of the world at which this clock shows at least `local`.
    fn world(self, local: Instant) -> Instant {
        let rate = (1_000_000 + self.drift_ppm).max(1) as u128;
        let elapsed = (u128::from(local.as_nanos()) * 1_000_000).div_ceil(rate);
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        Instant::from_nanos(self.booted.as_nanos().saturating_add(elapsed))
    }
}

/// The processes, by number, that may have something to do: each that was woken or continued, until it was looked at
/// and had nothing. (Wakers may be anywhere, so it is shared between threads as far as the compiler knows.)
#[derive(Default)]
struct Woken(Mutex<BTreeSet<u64>>);

impl Woken {
    fn add(&self, process: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(process);
    }

    fn take(&self) -> BTreeSet<u64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A simulated process.
pub struct Process {
    number: u64,
    name: String,
    woken: Arc<Woken>,
    clock: Clock,
    executor: RefCell<Option<Rc<Executor>>>,
    /// Its earliest timer by its own clock and by the world's: asked for at each moment, of each process.
    deadline: Cell<Option<(Instant, Instant)>>,
    paused: Cell<bool>,
    /// It is to be stopped after so many steps of its tasks, wherever in a turn that is.
    stops_after: Cell<Option<u32>>,
    /// Steps that remain of a turn in which it was stopped: they still see the time of its beginning.
    rest_of_turn: Cell<u32>,
    story: Rc<Story>,
}

/// The process died before it finished what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Killed;

impl Process {
    /// What its tasks are given; `None` once it is dead.
    pub fn handle(&self) -> Option<Handle> {
        self.executor.borrow().as_ref().map(|executor| executor.handle())
    }

    /// Its name in stories.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it hasn't been killed.
    pub fn is_alive(&self) -> bool {
        self.executor.borrow().is_some()
    }

    /// SIGKILL: every task vanishes where it stands.
    pub fn kill(&self) {
        let executor = self.executor.borrow_mut().take();
        if let Some(executor) = executor {
            self.story.tell(&self.name, "killed");
            executor.clear();
        }
    }

    /// SIGSTOP: it doesn't run, but time does, and what is sent to it queues.
    pub fn pause(&self) {
        self.story.tell(&self.name, "stopped");
        self.paused.set(true);
    }

    /// SIGSTOP in the middle of a turn, after so many more steps of its tasks: once continued, it goes
    /// on in that turn with what it took for the time then.
    pub fn pause_in_turn(&self, after_steps: u32) {
        self.stops_after.set(Some(after_steps));
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.story.tell(&self.name, "continues");
        self.paused.set(false);
        self.stops_after.set(None);
        self.woken.add(self.number);
    }

    /// Whether it is stopped.
    pub fn is_paused(&self) -> bool {
        self.paused.get()
    }

    /// Runs `future` inside the process and waits for its result.
    pub fn run<T: 'static>(
        &self,
        future: impl Future<Output = T> + 'static,
    ) -> impl Future<Output = Result<T, Killed>> + 'static {
        let (sender, receiver) = oneshot::channel();
        if let Some(handle) = self.handle() {
            handle.spawn(async move {
                // Nobody may be waiting any more; that is the caller's choice.
                let _ = sender.send(future.await);
            });
        }
        async move { receiver.await.map_err(|_| Killed) }
    }

    fn runnable(&self) -> Option<Rc<Executor>> {
        if self.paused.get() { None } else { self.executor.borrow().clone() }
    }

    /// When it has something to do by itself, by the world's clock.
    fn next_moment(&self) -> Option<Instant> {
        if self.paused.get() {
            return None;
        }
        let local = self.executor.borrow().as_ref()?.next_deadline()?;
        let known = self.deadline.get().filter(|known| known.0 == local);
        let (_, world) = known.unwrap_or_else(|| (local, self.clock.world(local)));
        self.deadline.set(Some((local, world)));
        Some(world)
    }

    /// Tells the time at the beginning of a moment.
    fn begin_moment(&self, now: Instant) {
        if self.paused.get() {
            return;
        }
        if let Some(executor) = &*self.executor.borrow() {
            self.learn_time(executor, now);
        }
    }

    /// Tells the time, unless it is in the middle of a turn.
    fn learn_time(&self, executor: &Executor, now: Instant) {
        if self.rest_of_turn.get() > 0 && executor.has_ready() {
            return;
        }
        self.rest_of_turn.set(0);
        executor.set_now(self.clock.local(now));
    }

    /// Takes steps until the turn is over, it is stopped, or the world holds still; tells how many.
    fn take_turn(&self, executor: &Executor, steps: &Steps) -> u64 {
        let whole = match self.rest_of_turn.replace(0) {
            0 => STEPS_PER_TURN,
            rest => rest,
        };
        for taken in 0..whole {
            if !executor.run_one() {
                return u64::from(taken);
            }
            if steps.holds_still() {
                return u64::from(taken) + 1;
            }
            if let Some(left) = self.stops_after.get() {
                self.stops_after.set(left.checked_sub(1));
                if left == 0 {
                    self.story.tell(&self.name, "stopped in the middle of a turn");
                    self.paused.set(true);
                    self.rest_of_turn.set(whole - taken - 1);
                    return u64::from(taken) + 1;
                }
            }
        }
        u64::from(whole)
    }
}

/// Why a run ended without a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stalled {
    /// The limit of virtual time passed.
    TimeLimit(Duration),
    /// Tasks keep waking each other without time passing.
    Livelock,
    /// Nothing will ever happen again.
    Deadlock,
}

/// Everything that exists in a run.
pub struct World {
    timeline: Rc<Timeline>,
    story: Rc<Story>,
    seed: u64,
    /// In the order in which they were started, which is that of their numbers.
    processes: RefCell<Vec<Rc<Process>>>,
    started: Cell<u64>,
    woken: Arc<Woken>,
    director: Executor,
    random: RefCell<SmallRng>,
    sealed: Rc<Sealed>,
}

impl World {
    /// An empty world at a time after zero, so that "earlier than now" exists.
    pub fn new(seed: u64, verbose: bool) -> Rc<World> {
        let start = Instant::from_nanos(1_000_000_000);
        let timeline = Timeline {
            now: Cell::new(start),
            events: RefCell::default(),
            next_event: Cell::new(0),
            steps: Steps::default(),
        };
        let story = Story::new(verbose);
        story.make_current();
        story.set_now(start);
        Rc::new(World {
            timeline: Rc::new(timeline),
            story,
            seed,
            processes: RefCell::default(),
            started: Cell::new(0),
            woken: Arc::default(),
            director: Executor::new(start, fork_seed(seed, "director"), Order::Fifo, || {}),
            random: RefCell::new(fork(seed, "world")),
            sealed: Rc::default(),
        })
    }

    /// The seed that all of this follows from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The clock.
    pub fn timeline(&self) -> &Rc<Timeline> {
        &self.timeline
    }

    /// What its machines have sealed.
    pub fn sealed(&self) -> &Rc<Sealed> {
        &self.sealed
    }

    /// The record.
    pub fn story(&self) -> &Rc<Story> {
        &self.story
    }

    /// The director's handle: scenario code sleeps and spawns with it.
    pub fn director(&self) -> Handle {
        self.director.handle()
    }

    /// Starts a process whose machine has `clock`.
    pub fn start_process(&self, name: &str, clock: Clock) -> Rc<Process> {
        let number = self.started.get();
        self.started.set(number + 1);
        self.story.tell(name, "starts");
        let seed = fork_seed(self.seed, &format!("{name}#{number}"));
        let now = clock.local(self.timeline.now());
        let woken = Arc::clone(&self.woken);
        let executor = Executor::new(now, seed, Order::Seeded, move || woken.add(number));
        let process = Rc::new(Process {
            number,
            name: name.to_string(),
            woken: Arc::clone(&self.woken),
            clock,
            executor: RefCell::new(Some(Rc::new(executor))),
            deadline: Cell::default(),
            paused: Cell::new(false),
            stops_after: Cell::new(None),
            rest_of_turn: Cell::new(0),
            story: Rc::clone(&self.story),
        });
        let mut processes = self.processes.borrow_mut();
        processes.retain(|process| process.is_alive());
        processes.push(Rc::clone(&process));
        process
    }

    /// Lets time pass until `scenario` is finished, for at most `limit` of virtual time.
    pub fn run<T: 'static>(
        &self,
        limit: Duration,
        scenario: impl Future<Output = T> + 'static,
    ) -> Result<T, Stalled> {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        self.director.handle().spawn(async move {
            let value = scenario.await;
            *slot.borrow_mut() = Some(value);
        });
        let end = self.timeline.now() + limit;
        loop {
            self.settle(&|| result.borrow().is_some())?;
            if let Some(value) = result.borrow_mut().take() {
                return Ok(value);
            }
            let next = self.next_moment().ok_or(Stalled::Deadlock)?;
            if next > end {
                return Err(Stalled::TimeLimit(limit));
            }
            self.timeline.now.set(next);
            self.story.set_now(next);
        }
    }

    /// Ends every process, so that nothing of this run survives it.
    pub fn end(&self) {
        for process in self.processes.take() {
            let executor = process.executor.borrow_mut().take();
            if let Some(executor) = executor {
                executor.clear();
            }
        }
        self.director.clear();
        let events = self.timeline.events.take();
        drop(events);
    }

    /// Runs all that can run at this instant, in an order that the seed decides.
    fn settle(&self, finished: &dyn Fn() -> bool) -> Result<(), Stalled> {
        let now = self.timeline.now();
        self.timeline.run_due();
        self.timeline.steps.strike();
        self.director.set_now(now);
        self.processes.borrow().iter().for_each(|process| process.begin_moment(now));
        let mut steps = 0;
        loop {
            while self.director.run_one() {
                self.timeline.steps.strike();
                if finished() {
                    return Ok(());
                }
            }
            self.timeline.run_due();
            self.timeline.steps.strike();
            let ready = self.ready(now);
            if ready.is_empty() {
                if self.director.has_ready() {
                    continue;
                }
                return Ok(());
            }
            let chosen = self.random.borrow_mut().random_range(0..ready.len());
            let (process, executor) = &ready[chosen];
            steps += process.take_turn(executor, &self.timeline.steps);
            watchdog::turn();
            self.timeline.steps.strike();
            if steps > STEPS_PER_INSTANT_MAX {
                return Err(Stalled::Livelock);
            }
        }
    }

    /// The processes that have something to do, in the order in which they were started.
    fn ready(&self, now: Instant) -> Vec<(Rc<Process>, Rc<Executor>)> {
        let processes = self.processes.borrow();
        let woken = self.woken.take();
        let ready = woken.into_iter().filter_map(|number| {
            let place = processes.binary_search_by_key(&number, |process| process.number).ok()?;
            let process = processes.get(place)?;
            if process.is_paused() {
                self.woken.add(number);
                return None;
            }
            let executor = process.runnable()?;
            // A process that was continued at this instant, or has ended a turn of before, learns the time here.
            process.learn_time(&executor, now);
            if !executor.has_ready() {
                return None;
            }
            self.woken.add(number);
            Some((Rc::clone(process), executor))
        });
        ready.collect()
    }

    fn next_moment(&self) -> Option<Instant> {
        let processes = self.processes.borrow();
        let deadlines = processes.iter().filter_map(|process| process.next_moment());
        deadlines
            .chain(self.timeline.next())
            .chain(self.director.next_deadline())
            .min()
            .map(|at| at.max(self.timeline.now()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_takes_the_process_and_nothing_else() {
        let world = World::new(1, false);
        let process = world.start_process("victim", Clock::default());
        let counted = Rc::new(Cell::new(0));
        let (handle, count) = (process.handle().unwrap(), Rc::clone(&counted));
        handle.clone().spawn(async move {
            loop {
                handle.sleep(Duration::from_millis(1)).await;
                count.set(count.get() + 1);
            }
        });
        let director = world.director();
        let victim = Rc::clone(&process);
        let asked = world.run(Duration::from_secs(1), async move {
            director.sleep(Duration::from_micros(5500)).await;
            let answer = victim.run(std::future::pending::<()>());
            victim.kill();
            director.sleep(Duration::from_millis(5)).await;
            answer.await
        });
        assert_eq!(asked, Ok(Err(Killed)));
        assert_eq!(counted.get(), 5);
    }

    #[test]
    fn clocks_drift_and_timers_still_fire_in_time() {
        let world = World::new(1, false);
        let clock = Clock { booted: Instant::from_nanos(7), drift_ppm: -9_999 };
        let process = world.start_process("slow", clock);
        let handle = process.handle().unwrap();
        let waited = process.run(async move { handle.sleep(Duration::from_secs(1)).await });
        let before = world.timeline().now();
        assert_eq!(world.run(Duration::from_secs(2), waited), Ok(Ok(())));
        let took = world.timeline().now().since(before);
        assert!(
            took > Duration::from_millis(1009) && took < Duration::from_millis(1011),
            "{took:?}"
        );
    }

    #[test]
    fn a_stopped_process_waits() {
        let world = World::new(1, false);
        let process = world.start_process("stopped", Clock::default());
        let handle = process.handle().unwrap();
        let waited = process.run(async move {
            handle.sleep(Duration::from_millis(10)).await;
            handle.now()
        });
        let (director, stopped) = (world.director(), Rc::clone(&process));
        let woke = world.run(Duration::from_secs(2), async move {
            director.sleep(Duration::from_millis(1)).await;
            stopped.pause();
            director.sleep(Duration::from_secs(1)).await;
            stopped.resume();
            waited.await
        });
        assert_eq!(woke, Ok(Ok(Instant::from_nanos(2_001_000_000))));
    }

    /// Stopped between two steps of a turn, it takes the second one with the time of the first.
    #[test]
    fn stopped_in_a_turn_it_goes_on_with_the_time_that_it_had() {
        let world = World::new(1, false);
        let process = world.start_process("stopped", Clock::default());
        let handle = process.handle().unwrap();
        let seen = process.run(async move {
            let first = handle.now();
            handle.yield_now().await;
            let second = handle.now();
            handle.sleep(Duration::from_millis(1)).await;
            (first, second, handle.now())
        });
        process.pause_in_turn(0);
        let (director, stopped) = (world.director(), Rc::clone(&process));
        let (first, second, third) = world
            .run(Duration::from_secs(20), async move {
                director.sleep(Duration::from_secs(9)).await;
                assert!(stopped.is_paused());
                stopped.resume();
                seen.await.unwrap()
            })
            .unwrap();
        assert_eq!(first, second);
        assert!(third.since(first) >= Duration::from_secs(9));
    }

    #[test]
    fn nothing_left_to_do_is_named() {
        let world = World::new(1, false);
        let stalled = world.run(Duration::from_secs(1), std::future::pending::<()>());
        assert_eq!(stalled, Err(Stalled::Deadlock));
    }
}
