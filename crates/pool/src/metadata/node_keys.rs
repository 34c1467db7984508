//! Which machine has which disk, by the key that it proves: a property of the pool for each disk whose machine has one.

use seal::PublicKey;

use super::{MetaRecord, Metadata};
use crate::format::DiskNumber;

/// What begins the properties' names; the disk's number follows.
const KEY: &str = "node-key-";

impl MetaRecord {
    /// The machine with this key has a disk; or, with none, that is forgotten.
    pub fn node_key(disk: DiskNumber, node_key: Option<PublicKey>) -> MetaRecord {
        let value = node_key.map(|node_key| node_key.to_string());
        MetaRecord::PoolPropertySet { key: key_of(disk), value }
    }
}

impl Metadata {
    /// The key of the machine that has a disk, if that is kept. What can't be read as one is none.
    pub fn node_key(&self, disk: DiskNumber) -> Option<PublicKey> {
        self.properties().get(&key_of(disk))?.parse().ok()
    }
}

fn key_of(disk: DiskNumber) -> String {
    format!("{KEY}{}", disk.0)
}
