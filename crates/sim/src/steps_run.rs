//! `sim --steps`: a crash at every step of an operation, each run named so that it can be had again.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;

use crate::random::mix;
use crate::runner::{self, Options, Outcome};
use crate::scenarios::nth_step::{self, OPERATIONS, Operation, Point};
use crate::steps::Kind;
use crate::watchdog;

/// Bound of virtual time on a run.
const LIMIT: Duration = Duration::from_secs(400);
/// Points of an operation that is too long for all of them.
const POINTS_BY_SEED: usize = 150;
/// Stack of a thread that runs points.
const STACK_BYTES: usize = 16 << 20;

/// Crashes at one point.
pub fn run_point(point: Point, seed: u64, options: &Options) -> Outcome {
    let _watched = watchdog::watch(seed, &point.to_string());
    let body = move |stage| nth_step::crash_at(stage, point).boxed_local();
    runner::run_body(body, LIMIT, seed, options)
}

/// Crashes at every step of `only`, or of every operation; prints what fails. Whether nothing did.
pub fn run_all(only: Option<&'static Operation>, seed: u64) -> bool {
    let mut fine = true;
    for operation in OPERATIONS {
        if only.is_none_or(|only| only.name == operation.name) {
            fine &= run_operation(operation, seed);
        }
    }
    fine
}

fn run_operation(operation: &'static Operation, seed: u64) -> bool {
    let begin = Instant::now();
    let steps: Rc<RefCell<Vec<Kind>>> = Rc::default();
    let counted = Rc::clone(&steps);
    let body = move |stage| {
        async move {
            *counted.borrow_mut() = nth_step::count(stage, operation).await?;
            Ok(())
        }
        .boxed_local()
    };
    let outcome = runner::run_body(body, LIMIT, seed, &Options::default());
    if let Some(failure) = outcome.failure {
        println!("{} fails without a crash: {failure}", operation.name);
        return false;
    }
    let steps = steps.take();
    let on_disks = steps.iter().filter(|step| step.is_on_disk()).count();
    let mut points = nth_step::points(operation, &steps);
    let all = points.len();
    if !operation.is_short {
        // A draw without repetition that follows from the seed.
        points.sort_by_cached_key(|point| {
            mix(mix(seed) ^ crate::random::fork_seed(seed, &point.to_string()))
        });
        points.truncate(POINTS_BY_SEED);
    }
    println!(
        "{}: {} steps, {on_disks} on disks; {} of {all} crashes to come",
        operation.name,
        steps.len(),
        points.len()
    );
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(0));
    let work = || {
        while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = run_point(*point, seed, &Options::default());
            if let Some(failure) = outcome.failure {
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                *failures += 1;
                let first = failure.lines().next().unwrap_or_default();
                println!("{point}: {first}\nagain: sim --step {point} --seed {seed}");
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
            if let Err(error) = builder.spawn_scoped(scope, work) {
                println!("a thread can't be started: {error}");
            }
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{}: {} crashes, {failures} failures, {:.0} s",
        operation.name,
        points.len(),
        begin.elapsed().as_secs_f64()
    );
    failures == 0
}
