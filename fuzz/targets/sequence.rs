//! Sequences of requests that the bytes describe, valid and mutated, against target and witness.
#![no_main]

#[path = "../../crates/aoe-target/tests/hostile/corpus.rs"]
#[allow(dead_code)]
mod corpus;
#[path = "../../crates/aoe-target/tests/hostile/harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "../../crates/aoe-target/tests/hostile/script.rs"]
#[allow(dead_code)]
mod script;
#[path = "../../crates/aoe-target/tests/hostile/session.rs"]
#[allow(dead_code)]
mod session;
#[path = "../../crates/aoe-target/tests/hostile/witness.rs"]
mod witness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    harness::run(bytes);
});
