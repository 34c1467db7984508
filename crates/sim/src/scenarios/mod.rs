//! The named courses of events, one file per group, and the random one.

mod common;
mod damage;
mod flushes;
mod frames;
mod nodes;
mod owners;
mod random;
mod sessions;
mod space;

use std::time::Duration;

use crate::runner::{Body, Scenario};

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    let mut all = named();
    all.push(random());
    all
}

/// The named scenarios, which rotate in by seed.
pub fn named() -> Vec<Scenario> {
    [
        sessions::SCENARIOS,
        nodes::SCENARIOS,
        owners::SCENARIOS,
        damage::SCENARIOS,
        flushes::SCENARIOS,
        frames::SCENARIOS,
        space::SCENARIOS,
    ]
    .concat()
}

/// The run whose topology, faults and workload all follow from the seed.
pub fn random() -> Scenario {
    random::SCENARIO
}

/// The scenario of this name.
pub fn find(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

/// A scenario of at most `seconds` of virtual time.
const fn scenario(name: &'static str, about: &'static str, seconds: u64, body: Body) -> Scenario {
    Scenario { name, about, limit: Duration::from_secs(seconds), body }
}
