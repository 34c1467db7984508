//! Sealed messages that the bytes change, repeat and send elsewhere.
#![no_main]

#[path = "../../crates/aoe-wire/tests/hostile/harness.rs"]
#[allow(dead_code)]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    harness::messages_of(bytes);
});
