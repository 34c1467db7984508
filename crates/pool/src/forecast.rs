//! What changes would mean, told before they are made.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::metadata::Labels;

/// What making disks evenly full would do, or does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RebalanceForecast {
    /// Bytes that would be moved; nothing where all is as it should be.
    pub bytes: u64,
    /// Groups that have two copies in one failure domain.
    #[serde(default)]
    pub shared_groups: u64,
    /// The same when all of that has moved: for those there is no place apart.
    #[serde(default)]
    pub shared_groups_then: u64,
    /// Of these, such as can't move now: they aren't whole, or their disks aren't there.
    #[serde(default)]
    pub shared_groups_held: u64,
    /// How full its disks are, and would be.
    pub disks: Vec<DiskFill>,
    /// What a new volume of each layout could have now.
    pub volumes: Vec<LayoutRoom>,
    /// The same when all of that has moved.
    pub volumes_then: Vec<LayoutRoom>,
    /// The job that does it; none of what was only asked, and where there is nothing to do.
    pub job: Option<u32>,
}

/// How full a disk is with the data of volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskFill {
    /// The disk.
    pub disk: String,
    /// Percent of it now.
    pub percent: u64,
    /// Percent of it then.
    pub percent_then: u64,
}

/// What another layout of a volume would mean, or means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConvertForecast {
    /// The layout that it has.
    pub from: String,
    /// The layout that it would have.
    pub to: String,
    /// Bytes that would be copied.
    pub copied_bytes: u64,
    /// Space that further copies would take.
    pub taken_bytes: u64,
    /// Space that copies which are given up would leave.
    pub freed_bytes: u64,
    /// How many failures of nodes (or disks) the layout that it has survives.
    pub survives: u32,
    /// The same of the one that it would have.
    pub survives_then: u32,
    /// The job that does it; none of what was only asked.
    pub job: Option<u32>,
}

/// What making or extending a pool would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolForecast {
    /// What is lost besides what the named disks are seen to carry, a sentence each.
    pub losses: Vec<String>,
    /// Which labels join which disks into one failure domain, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<String>,
    /// Space for extents that the pool would have.
    pub capacity_bytes: u64,
    /// What a new volume of each layout could have, on the disks that take part then.
    pub volumes: Vec<LayoutRoom>,
    /// Who would vote.
    pub votes: VotesForecast,
}

/// Who would vote in a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VotesForecast {
    /// How many disks would.
    pub votes: usize,
    /// The machines of all disks with data, by their identities: a witness on one of them goes with it.
    pub machines: Vec<Uuid>,
    /// Whether a witness on another machine would vote with them: they are an even number, of which half is no majority,
    /// and have none.
    pub lacks_witness: bool,
    /// How large such a witness would have to be.
    pub witness_bytes: u64,
}

/// What a new volume of a layout could have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LayoutRoom {
    /// The layout (`raid0`, `mirror:2`).
    pub layout: String,
    /// Bytes of volume.
    pub bytes: u64,
}

/// What emptying disks would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EmptyForecast {
    /// The disks, by the names under which they are or were present.
    pub disks: Vec<String>,
    /// Bytes that would be moved.
    pub bytes: u64,
    /// Free space of the other disks afterwards.
    pub free_bytes: u64,
    /// What the pool's spare would lack without these disks, in words, if it is held now or lacks less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare_lacks: Option<String>,
}

/// What taking disks out of use would mean, or means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OfflineForecast {
    /// The disks, by the names under which they are or were present.
    pub disks: Vec<String>,
    /// Those of them whose vote and copy of the metadata other disks get.
    pub votes_move: Vec<String>,
    /// Jobs that are withdrawn, since they rebuild one of the disks.
    pub withdrawn_jobs: Vec<u32>,
    /// What the volumes survive.
    pub volumes: Vec<VolumeSurvival>,
}

/// How many more failures a volume survives now, and without some disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeSurvival {
    /// The volume.
    pub volume: String,
    /// Disks that may fail now.
    pub disks: u32,
    /// Machines that may.
    pub nodes: u32,
    /// Disks that may fail then.
    pub disks_then: u32,
    /// Machines that may.
    pub nodes_then: u32,
}

/// What other labels of disks would mean, or mean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LabelForecast {
    /// The disks of which they change.
    pub disks: Vec<RelabelledDisk>,
    /// Which labels join which disks into one failure domain then, a sentence each.
    pub joined: Vec<String>,
    /// Failure domains with data disks now, and then.
    pub domains: u32,
    /// The same then.
    pub domains_then: u32,
    /// The volumes that have copies in one failure domain then.
    pub shared: Vec<SharedVolume>,
}

/// A disk's labels, and those that it is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RelabelledDisk {
    /// The disk.
    pub disk: String,
    /// Its labels now.
    pub labels: Labels,
    /// Its labels then.
    pub labels_then: Labels,
}

/// A volume with copies in one failure domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedVolume {
    /// The volume.
    pub volume: String,
    /// How many of its groups have two copies in one.
    pub groups: u64,
    /// Of how many.
    pub of: u64,
    /// How many failure domains it may lose then.
    pub survives_then: u32,
}

/// What taking disks into use again means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OnlineForecast {
    /// The disks, by the names under which they are or were present.
    pub disks: Vec<String>,
    /// Those of them that aren't present: they are taken in when they are.
    pub away: Vec<String>,
    /// Bytes that they missed, and that are copied to them.
    pub missed_bytes: u64,
}

/// What making or growing a volume would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeForecast {
    /// The size that it would have.
    pub size_bytes: u64,
    /// What another volume of its layout could have afterwards.
    pub left_bytes: u64,
}
