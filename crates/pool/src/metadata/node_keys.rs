//! Which machine has which disk, by the key that it proves: a property of the pool for each disk whose machine has one.

use seal::PublicKey;

use super::disk_property::key_of;
use super::{MetaRecord, Metadata};
use crate::format::DiskNumber;

/// What begins the properties' names; the disk's number follows.
pub(super) const KEY: &str = "node-key-";

impl MetaRecord {
    /// The machine with this key has a disk.
    pub fn node_key(disk: DiskNumber, node_key: PublicKey) -> MetaRecord {
        let value = Some(node_key.to_string());
        MetaRecord::PoolPropertySet { key: key_of(KEY, disk), value }
    }
}

impl Metadata {
    /// The key of the machine that has a disk, if that is kept. What can't be read as one is none.
    pub fn node_key(&self, disk: DiskNumber) -> Option<PublicKey> {
        self.properties().get(&key_of(KEY, disk))?.parse().ok()
    }
}
