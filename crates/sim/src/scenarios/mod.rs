//! The named courses of events, one file per group, and the random one.

mod sessions;

use std::time::Duration;

use crate::runner::{Body, Scenario};

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    named()
}

/// The named scenarios, which rotate in by seed.
pub fn named() -> Vec<Scenario> {
    [sessions::SCENARIOS].concat()
}

/// The scenario of this name.
pub fn find(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

/// A scenario of at most `seconds` of virtual time.
const fn scenario(name: &'static str, about: &'static str, seconds: u64, body: Body) -> Scenario {
    Scenario { name, about, limit: Duration::from_secs(seconds), body }
}
