//! What making or extending a pool would do, and did.

use std::path::PathBuf;

use pool::{PoolForecast, PoolReport};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The answer to `POST /v2/plan/pool` and `POST /v2/pools/POOL/extend/plan`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolPlan {
    /// What the pool would be like.
    #[serde(flatten)]
    pub forecast: PoolForecast,
    /// What becomes of the supervisor's own vote; nothing where it is neither asked for nor would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<WitnessPlan>,
}

/// The answer to `POST /v2/pools` and `POST /v2/pools/POOL/extend`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GrownPool {
    /// What the pool is like.
    #[serde(flatten)]
    pub report: PoolReport,
    /// What became of the supervisor's own vote, as in the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<WitnessPlan>,
    /// Where the secret half of its key is kept, of a pool that was made with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
}

/// Whether the supervisor would be, or is, a witness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum WitnessPlan {
    /// A file would be made for that.
    Kept {
        /// The supervisor's machine.
        host: String,
        /// Where the file would be.
        directory: PathBuf,
        /// Its size.
        bytes: u64,
        /// Its machine has disks of the pool, and goes with them: only other machines may be lost.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        beside_data: bool,
    },
    /// None would be made, though one would help.
    Lacking {
        /// Why.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_plan_is_a_forecast_and_what_it_says_of_the_witness() {
        let plan = PoolPlan {
            forecast: PoolForecast { capacity_bytes: 7, ..PoolForecast::default() },
            witness: Some(WitnessPlan::Lacking { why: "it was declined".into() }),
        };
        let said = serde_json::to_value(&plan).unwrap();
        assert_eq!(said["capacity_bytes"], 7);
        assert_eq!(said["witness"]["state"], "lacking");
        assert_eq!(serde_json::from_value::<PoolPlan>(said).unwrap(), plan);
    }
}
