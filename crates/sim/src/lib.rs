//! Whole clusters in one thread, on virtual time, from one seed.
//!
//! The simulator runs the production code of `aoe` and `pool` on the production executor and
//! replaces only what lies below: disks, cables and clocks. A run is its seed: the same seed yields
//! the same run, event by event. [`oracle`] knows which contents each sector may have, [`scenarios`]
//! break things in every way that the rules of docs/engine.md answer, and random runs break them in
//! the ways that nobody thought of. [`count`] compares the disks themselves with both. A [`fork`] copies the disks at an instant and loses some of them
//! for good, beside the run that goes on. [`speed`] asks how fast all of that is on disks and cables that have
//! limits.

pub mod claim;
pub mod cluster;
pub mod count;
pub mod disk;
pub mod drivers;
pub mod fork;
pub mod medium;
pub mod network;
pub mod oracle;
pub mod pattern;
pub mod random;
pub mod runner;
pub mod scenarios;
pub mod speed;
pub mod steps;
pub mod steps_run;
pub mod story;
pub mod watchdog;
pub mod workload;
pub mod world;
