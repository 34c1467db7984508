//! Properties of the pool that are about one of its disks: what begins the name says which, the disk's number follows.
//! They end with the disk, all in one place.

use super::{MetaRecord, Metadata, labels, node_keys, offline, places};
use crate::format::DiskNumber;

/// What begins the names of all that there are.
const KINDS: [&str; 4] = [labels::KEY, node_keys::KEY, offline::KEY, places::KEY];

/// The name of a disk's property of this kind.
pub(super) fn key_of(kind: &str, disk: DiskNumber) -> String {
    format!("{kind}{}", disk.0)
}

impl Metadata {
    /// The records by which all is forgotten that properties say of a disk.
    pub fn without_properties_of(&self, disk: DiskNumber) -> impl Iterator<Item = MetaRecord> + '_ {
        let keys = KINDS.into_iter().map(move |kind| key_of(kind, disk));
        let kept = keys.filter(|key| self.properties().contains_key(key));
        kept.map(|key| MetaRecord::PoolPropertySet { key, value: None })
    }
}
