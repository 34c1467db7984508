//! Disks that people want to take no part: a property of the pool for each, so that it outlives whoever owns the pool.
//! Its value is since when, in seconds since 1970.

use super::disk_property::key_of;
use super::{MetaRecord, Metadata};
use crate::format::DiskNumber;

/// What begins the properties' names; the disk's number follows.
pub(super) const KEY: &str = "offline-";

impl MetaRecord {
    /// A disk is to take no part from now on; or, with none, nobody wants that any more.
    pub fn offline(disk: DiskNumber, since_secs: Option<u64>) -> MetaRecord {
        let value = since_secs.map(|since_secs| since_secs.to_string());
        MetaRecord::PoolPropertySet { key: key_of(KEY, disk), value }
    }
}

impl Metadata {
    /// The disks that are to take no part, and since when: seconds since 1970. What can't be read of that is zero, since
    /// the wish is there.
    pub fn offline(&self) -> impl Iterator<Item = (DiskNumber, u64)> + '_ {
        let properties = self.properties().range(KEY.to_owned()..);
        let ours = properties.map_while(|(key, value)| Some((key.strip_prefix(KEY)?, value)));
        ours.filter_map(|(number, value)| {
            let disk = DiskNumber(number.parse().ok()?);
            self.disks().contains_key(&disk).then(|| (disk, value.parse().unwrap_or(0)))
        })
    }

    /// Since when a disk is to take no part, if it is.
    pub fn offline_since(&self, disk: DiskNumber) -> Option<u64> {
        let value = self.properties().get(&key_of(KEY, disk))?;
        Some(value.parse().unwrap_or(0))
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::format::FailureDomain;
    use crate::metadata::testing::pool_of;

    #[test]
    fn a_wish_is_kept_until_it_is_withdrawn() {
        let (disk, other) = (DiskNumber(1), DiskNumber(0));
        let with = |meta: &Metadata, record| meta.with(&[record]).expect("applies");
        let meta = with(
            &pool_of(FailureDomain::Node, &[(0, 64 << 20), (1, 64 << 20)]),
            MetaRecord::offline(disk, Some(77)),
        );
        // Neighbours in the order of the names, and numbers that nobody has, are nobody's wish.
        let set = |key: &str| MetaRecord::PoolPropertySet {
            key: key.to_owned(),
            value: Some("1".to_owned()),
        };
        let meta = with(&with(&meta, set("offline-")), set("offline-9"));
        let meta = with(&with(&meta, set("offline")), set("owner"));
        assert_eq!(meta.offline().collect::<Vec<_>>(), [(disk, 77)]);
        assert_eq!((meta.offline_since(disk), meta.offline_since(other)), (Some(77), None));
        assert!(meta.leaving().contains(&disk), "it gets nothing new");
        let meta = with(&meta, MetaRecord::offline(disk, None));
        assert_eq!(meta.offline().count(), 0);
    }
}
