//! What isn't mended yet, each hole by a scenario that is `Expected::Failing`. `sim --known-holes` runs
//! them; whoever mends one moves its scenario to the others and takes it off the list in
//! docs/failure-model.md.

use crate::runner::Scenario;

pub const SCENARIOS: &[Scenario] = &[];
