//! What isn't mended yet, each hole by a scenario that fails.

use crate::runner::Scenario;

pub const SCENARIOS: &[Scenario] = &[];
