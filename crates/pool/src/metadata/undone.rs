//! Pools that were begun to be split from this one and never were: a property of the pool for each, so that whose their
//! disks are doesn't depend on who is in sight. Its value is since when that is known, in seconds since 1970.

use super::{MetaRecord, Metadata};
use crate::format::PoolId;

/// What begins the properties' names; the identity of the other pool follows.
const KEY: &str = "undone-";

impl MetaRecord {
    /// A pool that was begun to be split from this one never was.
    pub fn split_undone(pool: PoolId, since_secs: u64) -> MetaRecord {
        MetaRecord::PoolPropertySet { key: key_of(pool), value: Some(since_secs.to_string()) }
    }
}

impl Metadata {
    /// Whether a pool that was begun to be split from this one is known never to have been.
    pub fn is_undone(&self, pool: PoolId) -> bool {
        self.properties().contains_key(&key_of(pool))
    }
}

fn key_of(pool: PoolId) -> String {
    format!("{KEY}{pool}")
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::format::FailureDomain;
    use crate::metadata::testing::pool_of;
    use crate::metadata::{decode_records, encode_records};

    #[test]
    fn what_never_was_is_kept_and_nothing_else_is_taken_for_it() {
        let (pool, other) = (PoolId(Uuid::from_u128(7)), PoolId(Uuid::from_u128(8)));
        // As former versions left it.
        let old = pool_of(FailureDomain::Node, &[(0, 64 << 20), (1, 64 << 20)]);
        assert!(!old.is_undone(pool));
        let record = MetaRecord::split_undone(pool, 77);
        let named = MetaRecord::PoolPropertySet {
            key: "undone-00000000-0000-0000-0000-000000000007".into(),
            value: Some("77".into()),
        };
        assert_eq!(record, named, "the form on disk");
        let read = decode_records(&encode_records(std::slice::from_ref(&record)));
        assert_eq!(read.expect("it is sound"), std::slice::from_ref(&record));
        let meta = old.with(&[record]).expect("applies");
        assert_eq!((meta.is_undone(pool), meta.is_undone(other)), (true, false));
    }
}
