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
//! | – kind | 1 disks, 2 volumes, 3 runs, 4 roots, 5 dirty regions |
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
//! | volumes | of each: VolumeCreated, PropertySet, SegmentOpened, LogRestored, VolumeResized |
//! | runs | RunAdded |
//! | roots | RootsRestored |
//! | dirty regions | RegionsDirtied |
//!
//! Protects against: a section that is rotten, lost or misdirected (its CRC), another table in the same
//! place (its CRC is in the header, and the log's chain begins with it), two that name the same place.

use block::BLOCK_BYTES;

use super::changes::{SectionKey, SectionKind};
use super::{AreaLayout, Counters, PoolIdentity};
use crate::format::{
    DiskNumber, FailureDomain, GenerationId, Malformed, PoolId, Reader, ReleaseNumber, VolumeId,
    Writer,
};

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
        w.number(self.identity.extent_bytes);
        w.byte(match self.identity.failure_domain {
            FailureDomain::Node => 1,
            FailureDomain::Disk => 2,
        });
        let counters = self.counters;
        w.text(&self.identity.name).number(counters.generation.0).number(counters.volume.0.into());
        w.number(counters.disk.0.into()).number(counters.release.0);
        w.number(self.sections.len() as u64);
        for section in &self.sections {
            let SectionKey { volume, lane, at } = section.first;
            w.byte(section.kind as u8).number(volume.0.into()).number(lane.into()).number(at);
            w.number(section.bytes).number(section.crc.into());
            w.number(section.place.len() as u64);
            for run in &section.place {
                w.number(run.first.into()).number(run.count.into());
            }
        }
        w.into_bytes()
    }

    /// Takes a sound table apart. It accepts what encoding yields, in an area of this layout.
    pub(crate) fn decode(
        pool: PoolId,
        bytes: &[u8],
        layout: &AreaLayout,
    ) -> Result<Table, Malformed> {
        let mut r = Reader::new(bytes);
        let extent_bytes = r.number()?;
        let failure_domain = match r.byte()? {
            1 => FailureDomain::Node,
            2 => FailureDomain::Disk,
            _ => return Err(r.malformed()),
        };
        let identity = PoolIdentity { id: pool, name: r.text()?, extent_bytes, failure_domain };
        let counters = Counters {
            generation: GenerationId(r.number()?),
            volume: VolumeId(r.number32()?),
            disk: DiskNumber(r.number32()?),
            release: ReleaseNumber(r.number()?),
        };
        let mut sections: Vec<Section> = Vec::new();
        for _ in 0..r.count()? {
            let section = take_section(&mut r, layout)?;
            let rank = |section: &Section| (section.kind, section.first);
            if sections.last().is_some_and(|last| rank(last) >= rank(&section)) {
                return Err(r.malformed());
            }
            sections.push(section);
        }
        let mut runs: Vec<BlockRun> =
            sections.iter().flat_map(|s| s.place.iter().copied()).collect();
        runs.sort_unstable();
        let overlap = runs.windows(2).any(|pair| pair[0].end() > u64::from(pair[1].first));
        if overlap || !r.is_empty() {
            return Err(r.malformed());
        }
        Ok(Table { identity, counters, sections })
    }
}

fn take_section(r: &mut Reader<'_>, layout: &AreaLayout) -> Result<Section, Malformed> {
    let code = r.byte()?;
    let kind = SectionKind::ALL.into_iter().find(|kind| *kind as u8 == code);
    let kind = kind.ok_or(r.malformed())?;
    let first =
        SectionKey { volume: VolumeId(r.number32()?), lane: r.number16()?, at: r.number()? };
    let (bytes, crc, runs) = (r.number()?, r.number32()?, r.count()?);
    let mut place = Vec::new();
    for _ in 0..runs {
        place.push(BlockRun { first: r.number32()?, count: r.number32()? });
    }
    match bytes > 0 && is_place(layout, &place, bytes) {
        true => Ok(Section { kind, first, bytes, crc, place }),
        false => Err(r.malformed()),
    }
}

/// Whether so many bytes, padded, fill exactly these runs, and an area has them.
pub(super) fn is_place(layout: &AreaLayout, place: &[BlockRun], bytes: u64) -> bool {
    let blocks: u64 = place.iter().map(|run| u64::from(run.count)).sum();
    blocks == bytes.div_ceil(BLOCK_BYTES as u64) && place.iter().all(|run| layout.has_run(run))
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
