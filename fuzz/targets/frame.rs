//! The bytes as frames: each begins with its length. Against target and witness.
#![no_main]

#[path = "../../crates/aoe/tests/hostile/corpus.rs"]
#[allow(dead_code)]
mod corpus;
#[path = "../../crates/aoe/tests/hostile/harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "../../crates/aoe/tests/hostile/script.rs"]
#[allow(dead_code)]
mod script;
#[path = "../../crates/aoe/tests/hostile/session.rs"]
#[allow(dead_code)]
mod session;
#[path = "../../crates/aoe/tests/hostile/witness.rs"]
mod witness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut world = harness::World::new();
    let mut rest = bytes;
    while let [high, low, frames @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(frames.len());
        let (frame, next) = frames.split_at(len);
        world.deliver(frame);
        world.settle("after a frame");
        rest = next;
    }
    world.check_disks("at the end");
});
