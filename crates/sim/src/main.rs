//! `sim`: runs seeds, names the first that fails and tells its story.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::Parser;
use sim::fork::Luck;
use sim::runner::{self, Options, Outcome, Scenario};
use sim::scenarios::{self, nth_step};
use sim::speed::pool::Settings;
use sim::story::Listener;
use sim::{speed, steps_run};

/// A quarter of a run's time went into the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Of so many seeds one has the random run with lulls, which takes several times as long.
const LULLS_EVERY: u64 = 8;
/// Stack of a thread that runs seeds.
const STACK_BYTES: usize = 16 << 20;

/// Simulates whole clusters on virtual time. A run is its seed.
#[derive(Parser)]
struct Arguments {
    /// Runs this one seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Runs so many seeds: the random run of each, and the named scenarios in turn.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed of a sweep.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Runs this scenario only; see --list.
    #[arg(long)]
    scenario: Option<String>,
    /// Lists the scenarios.
    #[arg(long)]
    list: bool,
    /// Prints every event as it happens, the engine's log included.
    #[arg(long, short)]
    verbose: bool,
    /// Goes on after a failing seed, and prints a line for each.
    #[arg(long)]
    keep_going: bool,
    /// Loses disks for good at many random instants, in copies of the world beside the random run,
    /// instead of at one.
    #[arg(long)]
    fork: bool,
    /// Makes a failing seed's story shorter: leaves out each fault without which it fails all the same.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seed", "seeds"])]
    minimise: Option<u64>,
    /// Leaves out these faults of a random run, by the numbers that its story gives them.
    #[arg(long, value_delimiter = ',', value_name = "FAULTS")]
    without: Vec<u32>,
    /// Lets the power, a machine or a process go at every step of this operation, or of all.
    #[arg(long, value_name = "OPERATION", conflicts_with_all = ["seeds", "scenario"])]
    steps: Option<Option<String>>,
    /// One such crash, as OPERATION/NUMBER/WHEN/WHAT.
    #[arg(long, value_name = "POINT", conflicts_with_all = ["seeds", "scenario", "steps"])]
    step: Option<String>,
    /// Measures in virtual time: a pool on disks and cables with limits, or the models of disks alone.
    #[arg(long, value_name = "WHAT", num_args = 0..=1, default_missing_value = "pool",
          conflicts_with_all = ["seeds", "scenario", "steps", "step", "minimise"])]
    speed: Option<Speed>,
    /// With --speed: only hardware whose name has this in it.
    #[arg(long, default_value = "", requires = "speed", value_name = "NAME")]
    hardware: String,
    /// With --speed: size of the volume that is streamed, or of an eighth of each disk of a rebuild.
    #[arg(long, default_value_t = 128, requires = "speed", value_parser = clap::value_parser!(u64).range(16..=16384))]
    mib: u64,
    /// With --speed rebuild: requests come at so many percent of the rate that the degraded pool answers; 0: only without
    /// others who use the pool, which takes a small part of the time.
    #[arg(long, default_value_t = 50, requires = "speed", value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..=100))]
    load: u32,
    /// With --speed scale: no pools of more machines than this (100 take some minutes).
    #[arg(long, default_value_t = 20, requires = "speed", value_name = "COUNT")]
    machines: usize,
}

/// What is measured.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Speed {
    /// A volume with two copies on three machines.
    Pool,
    /// A disk of twelve is lost for good, with and without others who use the pool.
    Rebuild,
    /// Large pools are made, extended and opened.
    Scale,
    /// Each model of a disk beside the real one.
    Disks,
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            verbose: self.verbose,
            forks: if self.fork { Luck::Often } else { Luck::Seldom },
            without: self.without.iter().copied().collect(),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for scenario in scenarios::all() {
            println!("{:<34} {}", scenario.name, scenario.about);
        }
        return ExitCode::SUCCESS;
    }
    let only = match &arguments.scenario {
        None => None,
        Some(name) => match scenarios::find(name) {
            Some(scenario) => Some(scenario),
            None => {
                eprintln!("there is no scenario `{name}`; `sim --list` names them");
                return ExitCode::from(2);
            }
        },
    };
    let level = if arguments.verbose { tracing::Level::DEBUG } else { tracing::Level::INFO };
    // Only a second subscriber could make this fail, and there is none.
    let _ = tracing::subscriber::set_global_default(Listener { level });
    runner::catch_panics();
    if let Some(what) = arguments.speed {
        return measure(what, &arguments);
    }
    if arguments.steps.is_some() || arguments.step.is_some() {
        return steps(&arguments).unwrap_or_else(|error| {
            eprintln!("{error}");
            ExitCode::from(2)
        });
    }
    if let Some(seed) = arguments.minimise {
        return minimise(seed, only, &arguments.options());
    }
    match arguments.seed {
        Some(seed) => one_seed(seed, only, &arguments.options()),
        None => sweep(&arguments, only),
    }
}

/// Prints what `what` measures.
fn measure(what: Speed, arguments: &Arguments) -> ExitCode {
    let settings = Settings {
        volume_bytes: arguments.mib << 20,
        disk_bytes: arguments.mib << 23,
        load_percent: arguments.load,
        seed: arguments.seed.unwrap_or(0),
        verbose: arguments.verbose,
        ..Settings::default()
    };
    let measured = match what {
        Speed::Disks => Ok(speed::disks::report()),
        Speed::Pool => speed::pool::report(&arguments.hardware, settings),
        Speed::Scale => speed::scale::report(arguments.machines, settings),
        Speed::Rebuild => speed::rebuild::report(&arguments.hardware, settings),
    };
    match measured {
        Ok(tables) => {
            print!("{tables}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{}", failure.0);
            ExitCode::FAILURE
        }
    }
}

/// Crashes at steps of operations.
fn steps(arguments: &Arguments) -> Result<ExitCode, String> {
    let seed = arguments.seed.unwrap_or(0);
    let exit = |fine| if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let Some(point) = &arguments.step else {
        let name = arguments.steps.as_ref().and_then(Option::as_ref);
        let only = name.map(|name| nth_step::operation_of(name)).transpose()?;
        return Ok(exit(steps_run::run_all(only, seed)));
    };
    let outcome = steps_run::run_point(point.parse()?, seed, &arguments.options());
    for line in outcome.story.iter().filter(|_| outcome.failure.is_some()) {
        println!("  {line}");
    }
    match &outcome.failure {
        Some(failure) => println!("{point} with seed {seed} FAILS: {failure}"),
        None => println!("{point} with seed {seed}: fine, trace {:016x}", outcome.hash),
    }
    Ok(exit(outcome.failure.is_none()))
}

/// What a seed means: the random run, and one of the scenarios in turn; with forks the random runs.
fn plan(seed: u64, only: Option<Scenario>, options: &Options) -> Vec<Scenario> {
    if let Some(scenario) = only {
        return vec![scenario];
    }
    if options.forks == Luck::Often {
        return vec![scenarios::random(), scenarios::random_lulls()];
    }
    let named = scenarios::named();
    let mut plan = match seed % LULLS_EVERY {
        0 => vec![scenarios::random_lulls()],
        _ => vec![scenarios::random()],
    };
    if !named.is_empty() {
        plan.push(named[(seed % named.len() as u64) as usize]);
    }
    plan
}

fn one_seed(seed: u64, only: Option<Scenario>, options: &Options) -> ExitCode {
    for scenario in plan(seed, only, options) {
        let outcome = runner::run(&scenario, seed, options);
        if let Some(failure) = &outcome.failure {
            tell(&scenario, seed, failure, &outcome, options);
            return ExitCode::FAILURE;
        }
        let (name, seconds) = (scenario.name, outcome.virtual_time.as_secs_f64());
        println!(
            "seed {seed}, {name}: fine; {seconds:.1} s of virtual time, trace {:016x}{}",
            outcome.hash,
            match outcome.forks {
                0 => String::new(),
                count => format!("; {count} forks, trace {:016x}", outcome.fork_hash),
            }
        );
    }
    ExitCode::SUCCESS
}

/// Runs of a sweep that went wrong, by seed and place in the seed's plan.
type Failures = BTreeMap<(u64, usize), (Scenario, Outcome)>;

/// Each run has a thread to itself; the order in which threads take seeds changes nothing in a run.
fn sweep(arguments: &Arguments, only: Option<Scenario>) -> ExitCode {
    let count = arguments.seeds.unwrap_or(20);
    let end = arguments.start.saturating_add(count);
    let begin = Instant::now();
    let next = AtomicU64::new(arguments.start);
    let simulated_ms = AtomicU64::new(0);
    let (forks, losses) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures: Mutex<Failures> = Mutex::default();
    let options = arguments.options();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let failed = !failures.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
            if seed >= end || failed && !arguments.keep_going {
                return;
            }
            for (place, scenario) in plan(seed, only, &options).into_iter().enumerate() {
                let outcome = runner::run(&scenario, seed, &options);
                let ms = outcome.virtual_time.as_millis() as u64;
                simulated_ms.fetch_add(ms, Ordering::Relaxed);
                forks.fetch_add(outcome.forks, Ordering::Relaxed);
                losses.fetch_add(outcome.losses, Ordering::Relaxed);
                if let Some(failure) = &outcome.failure {
                    if arguments.keep_going {
                        let first = failure.lines().next().unwrap_or_default();
                        println!("seed {seed}, {}: {first}", scenario.name);
                    }
                    let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                    failures.insert((seed, place), (scenario, outcome));
                }
            }
        }
    };
    let threads = match arguments.verbose {
        true => 1,
        false => std::thread::available_parallelism().map_or(1, usize::from),
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let started =
                std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
            if let Err(error) = started {
                eprintln!("a thread can't be started: {error}");
            }
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let (Some(((seed, _), (scenario, outcome))), false) =
        (failures.first_key_value(), arguments.keep_going)
    {
        tell(scenario, *seed, outcome.failure.as_deref().unwrap_or_default(), outcome, &options);
        return ExitCode::FAILURE;
    }
    let took = begin.elapsed().as_secs_f64().max(1e-9);
    println!(
        "{count} seeds, {} failures; {:.0} s of virtual time in {took:.1} s ({:.0} seeds per minute)",
        failures.len(),
        simulated_ms.into_inner() as f64 / 1000.0,
        count as f64 * 60.0 / took,
    );
    let (forks, losses) = (forks.into_inner(), losses.into_inner());
    if forks > 0 {
        println!("{forks} forks, in {losses} of them a loss that status claims to survive");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Leaves out one fault after the other, the last first, and keeps it out where the run fails all the
/// same; until each that is left matters.
fn minimise(seed: u64, only: Option<Scenario>, options: &Options) -> ExitCode {
    let failing = plan(seed, only, options).into_iter().find_map(|scenario| {
        let outcome = runner::run(&scenario, seed, options);
        outcome.failure.is_some().then_some((scenario, outcome))
    });
    let Some((scenario, mut shortest)) = failing else {
        println!("seed {seed} doesn't fail");
        return ExitCode::from(2);
    };
    let mut options = options.clone();
    loop {
        let kept: BTreeSet<u32> =
            (0..shortest.faults).filter(|fault| !options.without.contains(fault)).collect();
        let mut shorter = false;
        for fault in kept.into_iter().rev() {
            options.without.insert(fault);
            let outcome = runner::run(&scenario, seed, &options);
            if outcome.failure.is_some() {
                println!("without fault {fault} it fails, too");
                shorter = true;
                shortest = outcome;
            } else {
                options.without.remove(&fault);
            }
        }
        if !shorter {
            break;
        }
    }
    let left = shortest.faults - options.without.len() as u32;
    println!("{left} of {} faults matter", shortest.faults);
    let failure = shortest.failure.clone().unwrap_or_default();
    tell(&scenario, seed, &failure, &shortest, &options);
    ExitCode::FAILURE
}

fn tell(scenario: &Scenario, seed: u64, failure: &str, outcome: &Outcome, options: &Options) {
    println!("seed {seed} FAILS in {}: {}", scenario.name, scenario.about);
    println!("the last events:");
    for line in &outcome.story {
        println!("  {line}");
    }
    println!("{failure}");
    let without: Vec<String> = options.without.iter().map(u32::to_string).collect();
    let without = match without.is_empty() {
        true => String::new(),
        false => format!(" --without {}", without.join(",")),
    };
    println!(
        "again: cargo run --profile quick -p sim -- --seed {seed} --scenario {}{}{without}",
        scenario.name,
        if options.forks == Luck::Often { " --fork" } else { "" }
    );
}
