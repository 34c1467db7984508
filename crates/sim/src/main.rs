//! `sim`: runs seeds, names the first that fails and tells its story.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use sim::runner::{self, Outcome, Scenario};
use sim::scenarios;
use sim::story::Listener;

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
    match arguments.seed {
        Some(seed) => one_seed(seed, only, arguments.verbose),
        None => sweep(&arguments, only),
    }
}

/// What a seed means: the random run, and one of the scenarios in turn.
fn plan(seed: u64, only: Option<Scenario>) -> Vec<Scenario> {
    if let Some(scenario) = only {
        return vec![scenario];
    }
    let named = scenarios::named();
    let mut plan = vec![scenarios::random()];
    if !named.is_empty() {
        plan.push(named[(seed % named.len() as u64) as usize]);
    }
    plan
}

fn one_seed(seed: u64, only: Option<Scenario>, verbose: bool) -> ExitCode {
    for scenario in plan(seed, only) {
        let outcome = runner::run(&scenario, seed, verbose);
        if let Some(failure) = &outcome.failure {
            tell(&scenario, seed, failure, &outcome);
            return ExitCode::FAILURE;
        }
        let (name, seconds) = (scenario.name, outcome.virtual_time.as_secs_f64());
        println!(
            "seed {seed}, {name}: fine; {seconds:.1} s of virtual time, trace {:016x}",
            outcome.hash
        );
    }
    ExitCode::SUCCESS
}

fn sweep(arguments: &Arguments, only: Option<Scenario>) -> ExitCode {
    let count = arguments.seeds.unwrap_or(20);
    let begin = Instant::now();
    let mut simulated = Duration::ZERO;
    let mut failed = 0;
    for seed in arguments.start..arguments.start.saturating_add(count) {
        for scenario in plan(seed, only) {
            let outcome = runner::run(&scenario, seed, arguments.verbose);
            simulated += outcome.virtual_time;
            let Some(failure) = &outcome.failure else { continue };
            failed += 1;
            if arguments.keep_going {
                let first = failure.lines().next().unwrap_or_default();
                println!("seed {seed}, {}: {first}", scenario.name);
                continue;
            }
            tell(&scenario, seed, failure, &outcome);
            return ExitCode::FAILURE;
        }
    }
    let took = begin.elapsed().as_secs_f64().max(1e-9);
    println!(
        "{count} seeds, {failed} failures; {:.0} s of virtual time in {took:.1} s ({:.0} seeds per minute)",
        simulated.as_secs_f64(),
        count as f64 * 60.0 / took,
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(scenario: &Scenario, seed: u64, failure: &str, outcome: &Outcome) {
    println!("seed {seed} FAILS in {}: {}", scenario.name, scenario.about);
    println!("the last events:");
    for line in &outcome.story {
        println!("  {line}");
    }
    println!("{failure}");
    println!("again: cargo run --release -p sim -- --seed {seed} --scenario {}", scenario.name);
}
