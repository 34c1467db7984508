//! What moving data and other layouts would mean, told before it is done.

use serde::{Deserialize, Serialize};

use crate::report::LayoutRoom;

/// What making disks evenly full would do, or does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceForecast {
    /// Bytes that would be moved; nothing where all is as it should be.
    pub bytes: u64,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFill {
    /// The disk.
    pub disk: String,
    /// Percent of it now.
    pub percent: u64,
    /// Percent of it then.
    pub percent_then: u64,
}

/// What another layout of a volume would mean, or means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
