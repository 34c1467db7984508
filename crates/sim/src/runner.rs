//! Runs one scenario with one seed and says how it went.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, LocalBoxFuture, select};

use crate::fork::{FORK_MAX, Fork, Forks, Luck};
use crate::random::mix;
use crate::watchdog;
use crate::workload::Verdict;
use crate::world::{Stalled, World};

/// Why a scenario stops early: a promise was broken, or a bound of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl<T: std::fmt::Display> From<T> for Failure {
    fn from(what: T) -> Failure {
        Failure(what.to_string())
    }
}

/// The body of a scenario, run by the director.
pub type Body = fn(Stage) -> LocalBoxFuture<'static, Result<(), Failure>>;

/// A named course of events.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What `--scenario` takes.
    pub name: &'static str,
    /// The rule that it shows, in a line.
    pub about: &'static str,
    /// Bound of virtual time on all of it.
    pub limit: Duration,
    /// What happens.
    pub body: Body,
}

/// What a scenario is given.
#[derive(Clone)]
pub struct Stage {
    /// Time, processes, story.
    pub world: Rc<World>,
    /// Where anything that watches reports the first broken promise.
    pub verdict: Rc<Verdict>,
    /// Copies of the world in which disks are lost for good.
    pub forks: Rc<Forks>,
    /// What breaks.
    pub faults: Rc<Faults>,
}

/// The faults of a random run, by number, of which some may be left out: so that a long story is told
/// again with those alone that matter.
#[derive(Default)]
pub struct Faults {
    without: BTreeSet<u32>,
    count: Cell<u32>,
}

impl Faults {
    fn new(without: &BTreeSet<u32>) -> Rc<Faults> {
        Rc::new(Faults { without: without.clone(), count: Cell::new(0) })
    }

    /// The number of the next one, and whether it happens. What it draws must come from a generator of
    /// its own, or leaving it out would change all that follow.
    pub fn next(&self) -> (u32, bool) {
        let number = self.count.get();
        self.count.set(number + 1);
        (number, !self.without.contains(&number))
    }
}

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Every event is printed as it happens.
    pub verbose: bool,
    /// How often disks are lost for good in forks at random instants.
    pub forks: Luck,
    /// Faults that are left out.
    pub without: BTreeSet<u32>,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What went wrong.
    pub failure: Option<String>,
    /// The hash of everything that happened.
    pub hash: u64,
    /// How long it took in virtual time.
    pub virtual_time: Duration,
    /// The last significant events.
    pub story: Vec<String>,
    /// Forks that were looked at.
    pub forks: u64,
    /// Those among them in which something was lost that status claimed to survive.
    pub losses: u64,
    /// The hash of everything that happened in them.
    pub fork_hash: u64,
    /// Faults that the run had, with those that were left out.
    pub faults: u32,
}

thread_local! {
    /// Where and why the run on this thread panicked.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps panics for the story instead of printing them. Call once per process.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let backtrace = std::backtrace::Backtrace::capture();
        let what = match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("{info}\n{backtrace}"),
            _ => info.to_string(),
        };
        PANIC.with(|panic| *panic.borrow_mut() = Some(what));
    }));
}

/// Runs `scenario` with `seed`, then the forks that were taken of it.
pub fn run(scenario: &Scenario, seed: u64, options: &Options) -> Outcome {
    let _watched = watchdog::watch(seed, scenario.name);
    run_body(scenario.body, scenario.limit, seed, options)
}

/// Runs a course of events that has no name of its own.
pub fn run_body(
    body: impl FnOnce(Stage) -> LocalBoxFuture<'static, Result<(), Failure>>,
    limit: Duration,
    seed: u64,
    options: &Options,
) -> Outcome {
    let forks = Forks::new(seed, options.forks);
    let faults = Faults::new(&options.without);
    let world = World::new(seed, options.verbose);
    let parts = (Rc::clone(&forks), Rc::clone(&faults));
    let mut outcome = simulate(&world, parts, limit, body);
    outcome.faults = faults.count.get();
    let taken = forks.take_all();
    if outcome.failure.is_some() {
        return outcome;
    }
    for fork in taken {
        outcome.losses += u64::from(fork.is_covered_loss());
        let judged = run_fork(fork, options.verbose);
        outcome.forks += 1;
        outcome.fork_hash = mix(outcome.fork_hash ^ judged.hash);
        outcome.virtual_time += judged.virtual_time;
        if judged.failure.is_some() {
            outcome.failure = judged.failure;
            outcome.story = judged.story;
            break;
        }
    }
    outcome
}

fn run_fork(fork: Fork, verbose: bool) -> Outcome {
    let fork = Rc::new(fork);
    let world = World::new(fork.seed(), verbose);
    world.story().tell("director", &fork.title());
    let judged = Rc::clone(&fork);
    let none = (Forks::new(fork.seed(), Luck::Never), Rc::default());
    let outcome = simulate(&world, none, FORK_MAX, move |stage| judged.judge(stage).boxed_local());
    let mut story = fork.story().to_vec();
    story.push(format!("---- {}", fork.title()));
    story.extend(outcome.story);
    let failure = outcome.failure.map(|failure| format!("{failure}\nin the {}", fork.title()));
    Outcome { failure, story, ..outcome }
}

fn simulate(
    world: &Rc<World>,
    (forks, faults): (Rc<Forks>, Rc<Faults>),
    limit: Duration,
    body: impl FnOnce(Stage) -> LocalBoxFuture<'static, Result<(), Failure>>,
) -> Outcome {
    let begin = world.timeline().now();
    let verdict = Verdict::new();
    let stage = Stage { world: Rc::clone(world), verdict: Rc::clone(&verdict), forks, faults };
    let body = body(stage);
    let judged = async move {
        let failed = Box::pin(verdict.failed());
        match select(body, failed).await {
            Either::Left((Ok(()), _)) => None,
            Either::Left((Err(failure), _)) => Some(failure.0),
            Either::Right((failure, _)) => Some(failure),
        }
    };
    let result = catch_unwind(AssertUnwindSafe(|| world.run(limit, judged)));
    let failure = match result {
        Ok(Ok(failure)) => failure,
        Ok(Err(Stalled::TimeLimit(limit))) => {
            Some(format!("not finished after {limit:?} of virtual time"))
        }
        Ok(Err(Stalled::Livelock)) => Some("tasks turn in circles without time passing".into()),
        Ok(Err(Stalled::Deadlock)) => Some("everything waits and nothing will ever happen".into()),
        Err(_) => {
            let what = PANIC.with(|panic| panic.borrow_mut().take());
            Some(format!("panic: {}", what.unwrap_or_default()))
        }
    };
    let outcome = Outcome {
        failure,
        hash: world.story().hash(),
        virtual_time: world.timeline().now().since(begin),
        story: world.story().last(60),
        forks: 0,
        losses: 0,
        fork_hash: 0,
        faults: 0,
    };
    // A task that panicked may panic again while it is dropped; the outcome is known by now.
    let ended = catch_unwind(AssertUnwindSafe(|| world.end()));
    match ended {
        Ok(()) => outcome,
        Err(_) => Outcome {
            failure: outcome.failure.or(Some("panic while processes were ended".into())),
            ..outcome
        },
    }
}
