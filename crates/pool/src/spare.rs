//! Spare capacity: so much of a pool is kept free that a disk, or a machine, can be made anew on the others. No
//! volume may take it; rebuilding may. It is the pool's property `spare`, and none unless somebody asks.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::metadata::{Metadata, PROPERTY_OFF};

/// The pool's property.
pub(crate) const SPARE: &str = "spare";

/// What could be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spare {
    /// The largest disk.
    Disk,
    /// The machine with the largest disks together.
    Node,
    /// So many bytes of disks.
    Bytes(u64),
}

impl std::fmt::Display for Spare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Spare::Disk => f.write_str("disk"),
            Spare::Node => f.write_str("node"),
            Spare::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl std::str::FromStr for Spare {
    type Err = InvalidSpare;

    fn from_str(text: &str) -> Result<Spare, InvalidSpare> {
        match text.trim() {
            "disk" => Ok(Spare::Disk),
            "node" => Ok(Spare::Node),
            size => block::size::parse_size(size)
                .map(Spare::Bytes)
                .map_err(|_| InvalidSpare(text.to_owned())),
        }
    }
}

block::serde_as_text!(Spare);

/// Nothing that can be kept as spare.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' can't be kept as spare: use disk, node, or a size such as 2T")]
pub struct InvalidSpare(pub String);

impl Spare {
    /// What is to be kept in a pool, if anything.
    pub(crate) fn of(meta: &Metadata) -> Option<Spare> {
        let value = meta.properties().get(SPARE).filter(|value| *value != PROPERTY_OFF)?;
        value.parse().ok()
    }

    /// How many extents are to be kept in each failure domain, where groups have up to so many copies. Whatever is
    /// lost, what is kept in the domains that have no other copy takes it in. Where each domain has a copy that is the
    /// lost one's own, with its other disks; where it has none, nothing can be kept for it.
    pub(crate) fn shares(self, meta: &Metadata, copies: u8) -> BTreeMap<Uuid, u64> {
        let (mut domains, mut machines) = (BTreeMap::new(), BTreeMap::new());
        for disk in meta.data_disks() {
            let disks: &mut Vec<u64> = domains.entry(meta.domain_of(disk)).or_default();
            disks.push(disk.room().into());
            *machines.entry(disk.node).or_default() += u64::from(disk.room());
        }
        let lost: u64 = match self {
            Spare::Disk => domains.values().flatten().max().copied().unwrap_or(0),
            Spare::Node => machines.into_values().max().unwrap_or(0),
            Spare::Bytes(bytes) => {
                let share = bytes.div_ceil(meta.shape().extent_bytes());
                let each = share.div_ceil(domains.len().max(1) as u64);
                return domains.into_keys().map(|domain| (domain, each)).collect();
            }
        };
        let others = (domains.len() as u64).saturating_sub(copies.into());
        let share = |disks: Vec<u64>| match (others, disks.len() as u64) {
            (0, 0 | 1) => 0,
            (0, _) if self == Spare::Node => 0,
            // A part of it goes with the disk that is lost.
            (0, count) => (lost * count).div_ceil(count - 1),
            (others, _) => lost.div_ceil(others),
        };
        domains.into_iter().map(|(domain, disks)| (domain, share(disks))).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::format::FailureDomain;
    use crate::metadata::testing::pool_of;

    fn shares(domain: FailureDomain, disks: &[(u32, u64)], spare: Spare, copies: u8) -> Vec<u64> {
        let meta = pool_of(domain, disks);
        let rooms: Vec<u64> = meta.disks().values().map(|disk| disk.room().into()).collect();
        let share = spare.shares(&meta, copies).into_values();
        share.map(|share| share * 100 / rooms.iter().max().unwrap()).collect()
    }

    #[test]
    fn what_is_kept_takes_in_the_largest() {
        let node = FailureDomain::Node;
        let four = [(0, 512), (1, 512), (2, 512), (3, 512)];
        assert_eq!(shares(node, &four, Spare::Disk, 2), [50; 4]);
        assert_eq!(shares(node, &four, Spare::Node, 3), [100; 4]);
        // Only another disk of its machine may take it in.
        let two = [(0, 512), (0, 512), (0, 512), (1, 512), (1, 512), (1, 512)];
        assert_eq!(shares(node, &two, Spare::Disk, 2), [150; 2]);
        assert_eq!(shares(node, &two, Spare::Node, 2), [0; 2]);
        assert_eq!(shares(node, &two[..4], Spare::Disk, 2), [150, 0]);
        assert_eq!(shares(FailureDomain::Disk, &two, Spare::Disk, 2), [25; 6]);
    }

    #[test]
    fn it_is_read_as_it_is_written() {
        for spare in [Spare::Disk, Spare::Node, Spare::Bytes(3 << 30)] {
            assert_eq!(spare.to_string().parse(), Ok(spare));
        }
        assert_eq!("2T".parse(), Ok(Spare::Bytes(2 << 40)));
        for wrong in ["", "disks", "off", "-1G", "0", "50%"] {
            assert!(wrong.parse::<Spare>().is_err(), "{wrong}");
        }
    }
}
