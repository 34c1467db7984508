//! What destroying a pool, or wiping disks, would end and has ended. A plan is shown to whoever agrees, who hands it
//! back: so each is a plain value that can be compared.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What destroying a pool would end, as it is shown to whoever agrees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DestroyPlan {
    /// The pool.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// The name of another supervisor that owned it last, if one did.
    pub owner: Option<String>,
    /// Its volumes, with all that is in them; not known of a pool that isn't open here.
    pub volumes: Option<Vec<DoomedVolume>>,
    /// Its disks that are present and would be wiped.
    pub disks: Vec<DoomedDisk>,
    /// Those that aren't present, as far as they are known: they would be left as they are.
    pub away: Vec<DoomedDisk>,
}

/// A volume that would be no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DoomedVolume {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
}

/// A disk of a pool that would be no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DoomedDisk {
    /// The name under which it is or was present.
    pub name: String,
    /// Its identity in the pool.
    pub id: String,
    /// Its machine.
    pub node: String,
    /// Its path on that machine, as far as it is known.
    pub device_name: String,
    /// Its size by its label; 0 where that isn't known.
    pub size_bytes: u64,
}

impl DoomedDisk {
    /// For people: where it is or was.
    pub fn describe(&self) -> String {
        match (self.name.is_empty(), self.device_name.is_empty()) {
            (false, false) => format!("{} ({} on {})", self.name, self.device_name, self.node),
            (false, true) => format!("{} (on {})", self.name, self.node),
            (true, _) => format!("the disk {} of {}", self.id, self.node),
        }
    }
}

/// What became of a pool's disks. The pool is no more, whatever is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DestroyReport {
    /// The pool.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// The disks that are free now.
    pub wiped: Vec<String>,
    /// Those that couldn't be wiped.
    pub left: Vec<LeftDisk>,
    /// Those that weren't present, for people: when they are back, `disk wipe` frees them.
    pub away: Vec<String>,
}

/// A disk that couldn't be wiped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftDisk {
    /// The disk.
    pub disk: String,
    /// Why, and what to do.
    pub why: String,
}

/// What wiping disks would take off, as it is shown to whoever agrees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WipePlan {
    /// The disks.
    pub disks: Vec<WipedDisk>,
    /// Also what isn't etherpool's.
    pub signatures: bool,
}

/// A disk that would be wiped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WipedDisk {
    /// The disk.
    pub name: String,
    /// Its machine.
    pub node: String,
    /// Its path on that machine.
    pub device_name: String,
    /// Size as the device tells it.
    pub size_bytes: u64,
    /// Nothing is on it, and nothing is done to it.
    pub is_blank: bool,
    /// What would be taken off.
    pub carries: String,
    /// The pool whose label it carries.
    pub pool: Option<String>,
    /// What that pool loses for good, a sentence; none where nothing can be lost.
    pub loss: Option<String>,
}

/// What became of disks that were to be wiped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WipeReport {
    /// Those that are free now.
    pub wiped: Vec<String>,
    /// Those that aren't.
    pub left: Vec<LeftDisk>,
}
