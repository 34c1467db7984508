//! What isn't mended yet, each hole by a scenario that is `Expected::Failing`. `sim --known-holes` runs
//! them; whoever mends one moves its scenario to the others and takes it off the list in
//! docs/failure-model.md.

use std::time::Duration;

use futures::FutureExt;

use crate::runner::{Expected, Scenario};

pub const SCENARIOS: &[Scenario] = &[hole(
    "half-vanishes",
    "half of the nodes vanish at once: I/O waits, nothing is recorded against them",
    ("new-4", "bytes were copied"),
    |stage| super::shapes::half_vanishes(stage).boxed_local(),
)];

const fn hole(
    name: &'static str,
    about: &'static str,
    (finding, shown_by): (&'static str, &'static str),
    body: crate::runner::Body,
) -> Scenario {
    let expected = Expected::Failing { finding, shown_by };
    Scenario { name, about, limit: Duration::from_secs(400), body, expected }
}
