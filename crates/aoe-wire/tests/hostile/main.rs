//! Handshakes, sealed messages and grants that somebody changed, repeated or made up. What is tried follows from bytes
//! ([`harness`]), so the same code runs here on random ones and in `fuzz/` on those that a coverage-guided fuzzer
//! finds. `SEALED_SCRIPTS` says how many are tried, `SEALED_SEED` where they begin.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod harness;

use harness::Tally;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

const SCRIPTS_DEFAULT: u64 = 2_000;
const SCRIPT_BYTES: usize = 640;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

fn try_all(run: fn(&[u8]) -> Tally) -> Tally {
    let (count, seed) = (number("SEALED_SCRIPTS", SCRIPTS_DEFAULT), number("SEALED_SEED", 1));
    let mut tally = Tally::default();
    for seed in seed..seed + count {
        let mut from = [0; 32];
        from[..8].copy_from_slice(&seed.to_le_bytes());
        let mut bytes = [0; SCRIPT_BYTES];
        TestRng::from_seed(RngAlgorithm::ChaCha, &from).fill_bytes(&mut bytes);
        match std::panic::catch_unwind(|| run(&bytes)) {
            Ok(ran) => tally.add(ran),
            Err(panic) => {
                eprintln!("script {seed} failed: SEALED_SEED={seed} SEALED_SCRIPTS=1 repeats it");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{tally:?}");
    tally
}

#[test]
fn a_message_is_taken_once_as_it_was_said_and_by_who_was_spoken_to() {
    let Tally { taken, forged, repeated, unread, .. } = try_all(harness::messages_of);
    if number("SEALED_SCRIPTS", SCRIPTS_DEFAULT) >= SCRIPTS_DEFAULT {
        // A generator that hits nothing would pass.
        assert!(taken > 1000 && forged > 1000 && repeated > 1000 && unread > 100);
    }
}

#[test]
fn what_was_changed_opens_nothing_and_lets_nobody_in() {
    let Tally { handshakes_refused, grants_refused, .. } = try_all(harness::handshake);
    if number("SEALED_SCRIPTS", SCRIPTS_DEFAULT) >= SCRIPTS_DEFAULT {
        assert!(handshakes_refused > 1000 && grants_refused > 1000);
    }
}
