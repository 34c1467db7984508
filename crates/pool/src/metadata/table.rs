//! The table of a checkpoint: what the pool is, its counters, and where the sections are. It is encoded
//! as the records are (`codec`: numbers in groups of seven bits, texts behind their length):
//!
//! | field | form |
//! |---|---|
//! | bytes of an extent | number |
//! | failure domain | 1 node, 2 disk |
//! | name of the pool | text |
//! | next generation, volume, disk, release | numbers |
//! | sections | their number, then each: |
//! | – kind | 1 disks, 2 volumes, 3 runs, 4 roots, 5 dirty regions, 6 the pool |
//! | – first key: volume, lane, place | numbers |
//! | – bytes | number |
//! | – CRC32C of the bytes | number |
//! | – place | number of runs, then first block and count of each |
//!
//! Sections are in the order of kind and key. One holds what its kind has from its first key up to that
//! of the next one; the first of a kind what comes before, too. A block of the section space is numbered by
//! the checkpoint quarter that it is in, times 65536, and its index there; index 0 is the header. So a
//! place means the same in a longer area, and all copies have everything in the same places.
//!
//! A section is records (`codec`), padded to whole blocks:
//!
//! | kind | records |
//! |---|---|
//! | disks | of each: DiskAdded, AreaBegun, DiskRestored |
//! | volumes | of each: VolumeCreated, PropertySet, SegmentOpened, SegmentHighWater, LogRestored, VolumeResized |
//! | runs | of each: RunAdded, MoveRestored |
//! | roots | RootsRestored |
//! | dirty regions | RegionsDirtied |
//! | the pool | JobSet, PoolPropertySet |
//!
//! Protects against: a section that is rotten, lost or misdirected (its CRC), another table in the same
//! place (its CRC is in the header, and the log's chain begins with it), two that name the same place.

use block::BLOCK_BYTES;

use super::changes::{SectionKey, SectionKind};
use super::{AreaLayout, Counters, PoolIdentity};
use crate::format::{FailureDomain, Malformed, PoolId, Reader, Writer, coded};

/// Consecutive blocks of the section space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockRun {
    /// The first one.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl BlockRun {
    /// One past its last block.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.first) + u64::from(self.count)
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        u64::from(self.count) * BLOCK_BYTES as u64
    }
}

/// A section and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it is about.
    pub kind: SectionKind,
    /// It begins with this key.
    pub first: SectionKey,
    /// Its length.
    pub bytes: u64,
    /// CRC32C of its bytes.
    pub crc: u32,
    /// Where it is, in order; padded.
    pub place: Vec<BlockRun>,
}

impl Section {
    /// What tells it from another.
    pub(super) fn content(&self) -> (SectionKind, SectionKey, u32, &[BlockRun]) {
        (self.kind, self.first, self.crc, &self.place)
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What the pool is.
    pub identity: PoolIdentity,
    /// The counters.
    pub counters: Counters,
    /// All sections.
    pub sections: Vec<Section>,
}

impl Table {
    /// Its bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.put(&self.identity.extent_bytes).put(&self.identity.failure_domain);
        w.put(&self.identity.name).put(&self.counters).put(&self.sections);
        w.into_bytes()
    }

    /// Takes a sound table apart. It accepts what encoding yields, in an area of this layout.
    pub(crate) fn decode(
        pool: PoolId,
        bytes: &[u8],
        layout: &AreaLayout,
    ) -> Result<Table, Malformed> {
        let mut r = Reader::new(bytes);
        let (extent_bytes, failure_domain) = (r.take()?, r.take()?);
        let identity = PoolIdentity { id: pool, name: r.take()?, extent_bytes, failure_domain };
        let (counters, sections): (Counters, Vec<Section>) = (r.take()?, r.take()?);
        let rank = |section: &Section| (section.kind, section.first);
        let in_order = sections.windows(2).all(|pair| rank(&pair[0]) < rank(&pair[1]));
        let placed = |s: &Section| s.bytes > 0 && is_place(layout, &s.place, s.bytes);
        let mut runs: Vec<BlockRun> =
            sections.iter().flat_map(|s| s.place.iter().copied()).collect();
        runs.sort_unstable();
        let overlap = runs.windows(2).any(|pair| pair[0].end() > u64::from(pair[1].first));
        if !in_order || !sections.iter().all(placed) || overlap || !r.is_empty() {
            return Err(r.malformed());
        }
        Ok(Table { identity, counters, sections })
    }
}

coded!(enum FailureDomain {
    1 => Node,
    2 => Disk,
});

coded!(enum SectionKind {
    1 => Disks,
    2 => Volumes,
    3 => Runs,
    4 => Roots,
    5 => DirtyRegions,
    6 => Pool,
});

coded!(struct Counters { generation, volume, disk, release });
coded!(struct SectionKey { volume, lane, at });
coded!(struct BlockRun { first, count });
coded!(struct Section { kind, first, bytes, crc, place });

/// Whether so many bytes, padded, fill exactly these runs, and an area has them.
pub(super) fn is_place(layout: &AreaLayout, place: &[BlockRun], bytes: u64) -> bool {
    let blocks: u64 = place.iter().map(|run| u64::from(run.count)).sum();
    blocks == bytes.div_ceil(BLOCK_BYTES as u64) && place.iter().all(|run| layout.has_run(run))
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
