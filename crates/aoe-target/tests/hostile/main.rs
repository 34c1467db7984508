//! Hostile frames against the whole target: sequences of valid, mutated and random frames, whose every
//! effect and every answer is foretold by an independent reader of the protocol ([`witness`]).
//!
//! What a sequence is follows from bytes ([`script`]), so the same code runs under `cargo test` on
//! random bytes and in `fuzz/` on those that a coverage-guided fuzzer finds. `HOSTILE_SCRIPTS` says how
//! many random sequences (of about forty frames each) are tried, `HOSTILE_SEED` where they begin.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod corpus;
mod harness;
mod script;
mod session;
mod witness;

use harness::Tally;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

const SCRIPTS_DEFAULT: u64 = 5_000;
const SCRIPT_BYTES: usize = 640;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn every_effect_and_every_answer_is_foretold() {
    let (count, seed) = (number("HOSTILE_SCRIPTS", SCRIPTS_DEFAULT), number("HOSTILE_SEED", 1));
    let mut tally = Tally::default();
    for seed in seed..seed + count {
        let mut bytes = [0; SCRIPT_BYTES];
        SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
        let ran = std::panic::catch_unwind(|| harness::run(&bytes));
        match ran {
            Ok(ran) => tally.add(ran),
            Err(panic) => {
                eprintln!(
                    "sequence {seed} failed: HOSTILE_SEED={seed} HOSTILE_SCRIPTS=1 repeats it"
                );
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{tally:?}");
    if count >= SCRIPTS_DEFAULT {
        // A generator that hits nothing would pass.
        let Tally { frames, replies, writes, denied, session_writes, withheld, heard, .. } = tally;
        assert!(replies * 4 > frames && writes * 50 > frames, "{tally:?}");
        assert!(denied > 100 && session_writes > 100, "{tally:?}");
        assert!(withheld > 100 && heard > 100, "{tally:?}");
        assert!(tally.assembled > 100 && tally.incomplete > 100, "{tally:?}");
        assert!(tally.together > 100, "{tally:?}");
    }
}

/// Frames that brought other targets down, as they were sent.
#[test]
fn known_killers_are_answered_as_the_protocol_says() {
    for (name, frames) in corpus::killers() {
        let mut world = harness::World::new();
        for frame in frames {
            world.deliver(&frame);
            world.settle(&name);
        }
        world.check_disks(&name);
    }
}

/// What fuzzing has found, and where it begins.
#[test]
fn what_fuzzing_found_stays_found() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let files = |target: &str| {
        let files = std::fs::read_dir(seeds.join(target)).unwrap();
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect::<Vec<_>>()
    };
    let (sequences, frames) = (files("sequence"), files("frame"));
    assert!(!sequences.is_empty() && frames.len() > 10);
    for bytes in &sequences {
        harness::run(bytes);
    }
    for bytes in &frames {
        harness::run_frames(bytes);
    }
}
