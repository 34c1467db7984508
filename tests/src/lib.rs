//! Black-box tests: the real program, real frames in network namespaces, real files for disks. This
//! library is what the tests under `tests/` are written with.
//!
//! A test asserts what happens and prints how long it took; no test depends on time. Each test has a
//! lab of its own, which is removed also after failure.

#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod attacker;
pub mod browser;
pub mod dhcp;
pub mod frames;
mod lab;
mod load;
mod loop_disk;
mod machine;
pub mod manual;
mod rival;
mod target;
mod tree;
mod verifier;

pub use lab::{
    Lab, LabOptions, VOLUME, alone, etherpool, former_program, key_of, program, quiet,
    require_root, text_of,
};
pub use load::{Load, LoadReport};
pub use loop_disk::{DiskCounts, LoopDisk};
pub use machine::{Machine, MachineDisk};
pub use rival::Rival;
pub use target::{Target, Wire, export_of, pause};
pub use tree::Tree;
pub use verifier::Verifier;

use std::time::{Duration, Instant};

/// How many votes a pool has by `pool show --json`, and how many of them are present.
pub fn votes(pool: &serde_json::Value) -> (u64, u64) {
    let of = |key: &str| pool["votes"][key].as_u64().unwrap_or(u64::MAX);
    (of("total"), of("present"))
}

/// An address of this machine that was free a moment ago.
pub fn free_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Waits until `done` says so; fails the test with `what` when it doesn't come true within a limit
/// that is far above what it takes anywhere, and only there to end a test that hangs.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(180), "waited 180 s for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = start.elapsed();
    println!("{what}: after {:.2} s", took.as_secs_f64());
    took
}
