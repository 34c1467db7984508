//! Runs one scenario with one seed and says how it went.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, LocalBoxFuture, select};

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

/// Runs `scenario` with `seed`.
pub fn run(scenario: &Scenario, seed: u64, verbose: bool) -> Outcome {
    let world = World::new(seed, verbose);
    let begin = world.timeline().now();
    let verdict = Verdict::new();
    let stage = Stage { world: Rc::clone(&world), verdict: Rc::clone(&verdict) };
    let body = (scenario.body)(stage);
    let judged = async move {
        let failed = Box::pin(verdict.failed());
        match select(body, failed).await {
            Either::Left((Ok(()), _)) => None,
            Either::Left((Err(failure), _)) => Some(failure.0),
            Either::Right((failure, _)) => Some(failure),
        }
    };
    let result = catch_unwind(AssertUnwindSafe(|| world.run(scenario.limit, judged)));
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
