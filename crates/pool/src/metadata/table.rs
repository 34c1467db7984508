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
//! | digests | SHA-256 of each section's bytes, in their order, 32 bytes; none in tables of former versions |
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
//! place (its CRC is in the header, and the log's chain begins with it), two that name the same place; and, by the
//! digests and that of the table, which is in the signed header, a section or table that somebody made up.

use block::{BLOCK_BYTES, crc32c};
use seal::Digest;

use super::changes::{SectionKey, SectionKind};
use super::{AreaLayout, Counters, PoolIdentity};
use crate::format::{Coded, FailureDomain, Listed, Malformed, PoolId, Reader, Writer, coded};

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
    /// SHA-256 of its bytes; former versions didn't write that.
    pub digest: Option<Digest>,
}

impl Section {
    /// What its place should hold.
    pub(crate) fn sum(&self) -> Sum {
        Sum { bytes: self.bytes, crc: self.crc, digest: self.digest }
    }

    /// What tells it from another.
    pub(super) fn content(&self) -> (SectionKind, SectionKey, Sum, &[BlockRun]) {
        (self.kind, self.first, self.sum(), &self.place)
    }
}

/// By what bytes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sum {
    /// How many.
    pub(crate) bytes: u64,
    /// Their CRC32C.
    pub(crate) crc: u32,
    /// Their SHA-256, where it is known.
    pub(crate) digest: Option<Digest>,
}

impl Sum {
    /// That of these.
    pub(crate) fn of(bytes: &[u8]) -> Sum {
        let digest = Some(Digest::of(bytes));
        Sum { bytes: bytes.len() as u64, crc: crc32c(bytes), digest }
    }

    /// Whether these are they.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.bytes
            && crc32c(bytes) == self.crc
            && self.digest.is_none_or(|digest| digest == Digest::of(bytes))
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
        self.sections.iter().filter_map(|section| section.digest).for_each(|digest| {
            w.fixed(&digest.0);
        });
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
        let (counters, mut sections): (Counters, Vec<Section>) = (r.take()?, r.take()?);
        if !r.is_empty() {
            for section in &mut sections {
                section.digest = Some(Digest(r.fixed()?));
            }
        }
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

/// All but the digest, which is behind the others.
impl Coded for Section {
    fn put(&self, w: &mut Writer) {
        w.put(&self.kind).put(&self.first).put(&self.bytes).put(&self.crc).put(&self.place);
    }

    fn take(r: &mut Reader<'_>) -> Result<Section, Malformed> {
        let (kind, first, bytes) = (r.take()?, r.take()?, r.take()?);
        Ok(Section { kind, first, bytes, crc: r.take()?, place: r.take()?, digest: None })
    }
}

impl Listed for Section {}

/// Whether so many bytes, padded, fill exactly these runs, and an area has them.
pub(super) fn is_place(layout: &AreaLayout, place: &[BlockRun], bytes: u64) -> bool {
    let blocks: u64 = place.iter().map(|run| u64::from(run.count)).sum();
    blocks <= layout.checkpoint_blocks_max()
        && blocks == bytes.div_ceil(BLOCK_BYTES as u64)
        && place.iter().all(|run| layout.has_run(run))
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
