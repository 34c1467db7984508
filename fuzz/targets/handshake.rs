//! Handshakes and grants that the bytes change, and what else may be read of them.
#![no_main]

#[path = "../../crates/aoe-wire/tests/hostile/harness.rs"]
#[allow(dead_code)]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    harness::handshake(bytes);
});
