//! Notices a run that never comes back: a task that goes round without ever waiting ends neither its turn
//! nor, by virtual time, the run. It is a failure like any other, but there is no way on from it: the first
//! one is printed and ends the program.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// A turn that isn't over after so many looks never ends: they take milliseconds.
const LOOKS_MAX: u32 = 120;

/// Turns that a run has taken, and what it is.
struct Run {
    what: String,
    turns: AtomicU64,
}

static RUNS: Mutex<Vec<Arc<Run>>> = Mutex::new(Vec::new());
static STARTED: Once = Once::new();

thread_local! {
    static OWN: RefCell<Option<Arc<Run>>> = const { RefCell::new(None) };
}

/// As long as it is kept, the thread's run is watched.
pub struct Watched(Arc<Run>);

impl Drop for Watched {
    fn drop(&mut self) {
        OWN.with(|own| own.take());
        runs(|runs| runs.retain(|run| !Arc::ptr_eq(run, &self.0)));
    }
}

/// Watches what this thread runs: `seed` in the scenario `name`.
pub fn watch(seed: u64, name: &str) -> Watched {
    STARTED.call_once(|| drop(std::thread::Builder::new().spawn(look)));
    let what = format!("seed {seed} FAILS in {name}");
    let run = Arc::new(Run { what, turns: AtomicU64::new(0) });
    OWN.with(|own| own.replace(Some(Arc::clone(&run))));
    runs(|runs| runs.push(Arc::clone(&run)));
    Watched(run)
}

/// A turn is over.
pub fn turn() {
    OWN.with(|own| {
        if let Some(run) = &*own.borrow() {
            run.turns.fetch_add(1, Ordering::Relaxed);
        }
    });
}

fn runs<T>(with: impl FnOnce(&mut Vec<Arc<Run>>) -> T) -> T {
    with(&mut RUNS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn look() {
    let mut seen: BTreeMap<String, (u64, u32)> = BTreeMap::new();
    loop {
        std::thread::sleep(EVERY);
        let now: BTreeMap<String, u64> = runs(|runs| {
            let turns = |run: &Arc<Run>| (run.what.clone(), run.turns.load(Ordering::Relaxed));
            runs.iter().map(turns).collect()
        });
        seen.retain(|what, _| now.contains_key(what));
        for (what, turns) in now {
            let (before, looks) = seen.entry(what.clone()).or_insert((turns, 0));
            *looks = if *before == turns { *looks + 1 } else { 0 };
            *before = turns;
            if *looks > LOOKS_MAX {
                println!("{what}: a task goes round without waiting; its turn doesn't end");
                std::process::exit(1);
            }
        }
    }
}
