//! The named courses of events, one file per group, and the random one.

mod attacker;
mod besieged;
mod booting;
mod checksums;
mod common;
mod copies;
mod crash_point;
mod damage;
mod disks;
mod endings;
mod flushes;
mod forgers;
mod fragments;
mod frames;
mod grants;
mod history;
mod in_place;
mod jobs;
mod joining;
mod layouts;
mod leases;
mod logs;
mod losses;
mod metadata;
mod node_keys;
mod nodes;
mod notes;
pub mod nth_step;
mod offline;
mod operations;
mod over;
mod owners;
mod racks;
mod random;
mod read_only;
mod reduce;
mod removal;
mod resync;
mod rows;
mod scrub;
mod sessions;
mod shapes;
mod slots;
mod space;
mod spare;
mod stops;
mod target_rules;
mod trim;
mod votes;

use std::time::Duration;

use crate::runner::{Body, Scenario};
pub use common::POOL;
pub(crate) use common::Rig;

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    let mut all = named();
    all.push(random());
    all.push(random_lulls());
    all
}

/// The named scenarios, which rotate in by seed.
pub fn named() -> Vec<Scenario> {
    [
        sessions::SCENARIOS,
        fragments::SCENARIOS,
        attacker::SCENARIOS,
        booting::SCENARIOS,
        shapes::SCENARIOS,
        nodes::SCENARIOS,
        owners::SCENARIOS,
        read_only::SCENARIOS,
        damage::SCENARIOS,
        disks::SCENARIOS,
        flushes::SCENARIOS,
        forgers::SCENARIOS,
        frames::SCENARIOS,
        grants::SCENARIOS,
        node_keys::SCENARIOS,
        space::SCENARIOS,
        spare::SCENARIOS,
        checksums::SCENARIOS,
        slots::SCENARIOS,
        rows::SCENARIOS,
        logs::SCENARIOS,
        copies::SCENARIOS,
        notes::SCENARIOS,
        besieged::SCENARIOS,
        nth_step::SCENARIOS,
        metadata::SCENARIOS,
        votes::SCENARIOS,
        target_rules::SCENARIOS,
        leases::SCENARIOS,
        in_place::SCENARIOS,
        trim::SCENARIOS,
        over::SCENARIOS,
        jobs::SCENARIOS,
        joining::SCENARIOS,
        stops::SCENARIOS,
        layouts::SCENARIOS,
        offline::SCENARIOS,
        removal::SCENARIOS,
        resync::SCENARIOS,
        reduce::SCENARIOS,
        scrub::SCENARIOS,
        endings::SCENARIOS,
        history::SCENARIOS,
        racks::SCENARIOS,
    ]
    .concat()
}

/// The run whose topology, faults and workload all follow from the seed.
pub fn random() -> Scenario {
    random::SCENARIO
}

/// The random run that is for forks only.
pub fn random_lulls() -> Scenario {
    random::LULLS
}

/// The scenario of this name.
pub fn find(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

/// A scenario of at most `seconds` of virtual time.
const fn scenario(name: &'static str, about: &'static str, seconds: u64, body: Body) -> Scenario {
    let limit = Duration::from_secs(seconds);
    Scenario { name, about, limit, body }
}
