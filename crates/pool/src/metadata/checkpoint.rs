//! What a checkpoint writes, and where: the sections that changed and the table, into blocks that are out
//! of use.
//!
//! In use is what the newest checkpoint names, what the former one names (its header is in the slot that
//! this one will take), and what attempts wrote that weren't seen to succeed: their headers may be there.
//! A place that a valid header names is never written to. Each checkpoint takes a third of the space at
//! most, so that there is room for the next one beside those two, wherever they lie: a section need not be
//! in one run.
//!
//! A section that grew beyond 1 MiB is cut; neighbours that are less than 256 KiB together become one.

use block::{BLOCK_BYTES, Buffer, BufferMut};
use seal::{KeyPair, PublicKey};

use super::area::TABLE_RUNS_MAX;
use super::changes::{SectionKey, SectionKind};
use super::table::Sum;
use super::{
    AreaLayout, AreaPosition, BlockRun, CheckpointHead, CheckpointStamp, LogFull, Metadata,
    Section, Table,
};
use crate::format::PoolId;

/// How long sections become.
struct Lengths {
    /// One that is longer is cut, unless it has one key only;
    max: usize,
    /// into pieces of about so many bytes, so that they can grow.
    cut: usize,
    /// Neighbours that have fewer together become one.
    min: usize,
}

const LENGTHS: Lengths = Lengths { max: 1 << 20, cut: 512 << 10, min: 256 << 10 };

/// A checkpoint that is on disks: what the next one builds on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Its header.
    pub head: CheckpointHead,
    /// Its table.
    pub table: Table,
}

impl StoredCheckpoint {
    /// All blocks that it names.
    pub fn in_use(&self) -> Vec<BlockRun> {
        let sections = self.table.sections.iter().flat_map(|section| &section.place);
        self.head.place.iter().chain(sections).copied().collect()
    }

    /// Bytes of everything that it names.
    pub fn bytes(&self) -> u64 {
        self.in_use().iter().map(BlockRun::bytes).sum()
    }
}

/// What is written to a place, in order; whole blocks.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Where.
    pub place: Vec<BlockRun>,
    /// What.
    pub bytes: Buffer,
}

impl Placed {
    fn new(place: Vec<BlockRun>, bytes: &[u8]) -> Placed {
        let mut padded = BufferMut::zeroed(bytes.len().next_multiple_of(BLOCK_BYTES));
        padded[..bytes.len()].copy_from_slice(bytes);
        Placed { place, bytes: padded.freeze() }
    }

    /// Its runs, each with its bytes.
    pub fn runs(&self) -> impl Iterator<Item = (BlockRun, Buffer)> + '_ {
        let mut at = 0;
        self.place.iter().map(move |run| {
            let from = at;
            at += run.bytes() as usize;
            (*run, self.bytes.slice(from, at))
        })
    }
}

/// A checkpoint ready to be written: sections and table, and once they are durable the header.
#[derive(Clone, Debug)]
pub struct EncodedCheckpoint {
    /// The sections that changed.
    pub sections: Vec<Placed>,
    /// The table.
    pub table: Placed,
    /// The header, for the slot of its sequence.
    pub header: Buffer,
    /// What is on a disk that has all of it.
    pub stored: StoredCheckpoint,
    /// Where the log continues once this is durable.
    pub after: AreaPosition,
}

impl EncodedCheckpoint {
    /// What every copy gets before the header.
    pub fn fresh(&self) -> impl Iterator<Item = &Placed> {
        self.sections.iter().chain([&self.table])
    }

    /// What was in use stays so until this is known to be everywhere.
    pub fn places(&self) -> impl Iterator<Item = BlockRun> + '_ {
        self.fresh().flat_map(|placed| placed.place.iter().copied())
    }

    /// All sections in turn, for a copy that has none: those that didn't change are encoded anew. `None`
    /// for one that comes out otherwise than it was: then something changed that nobody told of.
    pub fn all_sections<'a>(
        &'a self,
        metadata: &'a Metadata,
    ) -> impl Iterator<Item = Option<Placed>> + 'a {
        let sections = &self.stored.table.sections;
        let fresh = |section: &Section| self.sections.iter().find(|f| f.place == section.place);
        sections.iter().enumerate().map(move |(index, section)| {
            if let Some(fresh) = fresh(section) {
                return Some(fresh.clone());
            }
            let of_kind = |index: usize| sections.get(index).filter(|s| s.kind == section.kind);
            let before = index.checked_sub(1).and_then(of_kind);
            let from = before.map_or(SectionKey::default(), |_| section.first);
            let end = of_kind(index + 1).map(|next| next.first);
            let encoded = metadata.encode_section(section.kind, from, end).bytes;
            section.sum().is_of(&encoded).then(|| Placed::new(section.place.clone(), &encoded))
        })
    }
}

/// What a checkpoint of this metadata writes, signed with these keys. It builds on `newest`, which has all but what
/// changed since, and keeps off what that names and off `in_use`; without one it is whole.
pub fn encode_checkpoint(
    layout: &AreaLayout,
    metadata: &Metadata,
    (stamp, keys): (CheckpointStamp, Option<&KeyPair>),
    newest: Option<&StoredCheckpoint>,
    in_use: &[BlockRun],
) -> Result<EncodedCheckpoint, LogFull> {
    encode_cut(layout, (metadata, stamp, keys), newest, in_use, &LENGTHS)
}

fn encode_cut(
    layout: &AreaLayout,
    (metadata, stamp, keys): (&Metadata, CheckpointStamp, Option<&KeyPair>),
    newest: Option<&StoredCheckpoint>,
    in_use: &[BlockRun],
    lengths: &Lengths,
) -> Result<EncodedCheckpoint, LogFull> {
    let taken = newest.map(StoredCheckpoint::in_use).unwrap_or_default();
    let mut free = FreeBlocks::of(layout, taken.iter().chain(in_use));
    let parts = SectionKind::ALL.map(|kind| {
        join_small(metadata, parts_of(layout, metadata, kind, (newest, lengths)), lengths)
    });
    let blocks = |bytes: usize| bytes.div_ceil(BLOCK_BYTES) as u64;
    let mut live: u64 = parts.iter().flatten().map(|part| blocks(part.len)).sum();
    let (mut sections, mut fresh) = (Vec::new(), Vec::new());
    let too_small = |live: u64| LogFull::AreaTooSmall { needed_bytes: live * BLOCK_BYTES as u64 };
    if live > layout.checkpoint_blocks_max() {
        return Err(too_small(live));
    }
    for part in parts.into_iter().flatten() {
        let bytes = match part.content {
            Content::Kept(section) => {
                sections.push(section);
                continue;
            }
            Content::Fresh(bytes) => bytes,
        };
        let place = free.take(blocks(bytes.len())).ok_or(too_small(live))?;
        fresh.push(Placed::new(place.clone(), &bytes));
        let Sum { bytes, crc, digest } = Sum::of(&bytes);
        sections.push(Section { kind: part.kind, first: part.first, bytes, crc, place, digest });
    }
    let identity = metadata.pool().clone();
    let table = Table { identity, counters: metadata.counters(), sections };
    let bytes = table.encode();
    live += blocks(bytes.len());
    let place = free.take(blocks(bytes.len())).filter(|place| place.len() <= TABLE_RUNS_MAX);
    let place = place.filter(|_| live <= layout.checkpoint_blocks_max()).ok_or(too_small(live))?;
    let Sum { bytes: table_bytes, crc, digest } = Sum::of(&bytes);
    let by: Option<PublicKey> = keys.map(KeyPair::public);
    let head = CheckpointHead { stamp, crc, table_bytes, place: place.clone(), digest, by };
    let pool: PoolId = metadata.pool().id;
    let after = head.log_begins(pool);
    Ok(EncodedCheckpoint {
        sections: fresh,
        table: Placed::new(place, &bytes),
        header: head.encode(pool, keys),
        stored: StoredCheckpoint { head, table },
        after,
    })
}

impl CheckpointHead {
    /// What its table's place should hold.
    pub(crate) fn table_sum(&self) -> Sum {
        Sum { bytes: self.table_bytes, crc: self.crc, digest: self.digest }
    }

    /// Where the log behind it begins.
    pub fn log_begins(&self, pool: PoolId) -> AreaPosition {
        let CheckpointStamp { sequence, epoch, number } = self.stamp;
        AreaPosition { pool, sequence, epoch, number, chain: self.crc, log_at: 0, by: self.by }
    }
}

/// A section of the next checkpoint.
struct Part {
    kind: SectionKind,
    /// What it holds begins here, or what it is to hold.
    first: SectionKey,
    len: usize,
    content: Content,
}

enum Content {
    /// As it is, where it is.
    Kept(Section),
    /// Its bytes.
    Fresh(Vec<u8>),
}

impl Part {
    fn is_fresh(&self) -> bool {
        matches!(self.content, Content::Fresh(_))
    }
}

/// The sections of a kind, in order, those that changed encoded anew.
fn parts_of(
    layout: &AreaLayout,
    metadata: &Metadata,
    kind: SectionKind,
    (newest, lengths): (Option<&StoredCheckpoint>, &Lengths),
) -> Vec<Part> {
    let sections = newest.map(|newest| newest.table.sections.as_slice()).unwrap_or_default();
    let sections: Vec<&Section> = sections.iter().filter(|section| section.kind == kind).collect();
    // What lies before the first section, or where there is none, is the first one's.
    let mut begins: Vec<SectionKey> = sections.iter().map(|section| section.first).collect();
    match begins.first_mut() {
        Some(first) => *first = SectionKey::default(),
        None => begins.push(SectionKey::default()),
    }
    let end_of = |index: usize| begins.get(index + 1).copied();
    let mut changed = vec![newest.is_none() || metadata.changes().is_everything(); begins.len()];
    for (first, last) in metadata.changes().of(kind) {
        let holds_first = begins.partition_point(|begin| *begin <= first) - 1;
        let behind_last = begins.partition_point(|begin| *begin <= last);
        changed[holds_first..behind_last].fill(true);
    }
    let mut parts: Vec<Part> = Vec::new();
    for (index, begin) in begins.iter().enumerate() {
        // A shorter area may not have its place, nor a table of a former version its digest.
        let kept = sections.get(index).filter(|section| {
            !changed[index]
                && section.digest.is_some()
                && section.place.iter().all(|run| layout.has_run(run))
        });
        match kept {
            Some(section) => parts.push(Part {
                kind,
                first: section.first,
                len: section.bytes as usize,
                content: Content::Kept((*section).clone()),
            }),
            None => parts.extend(fresh_parts(metadata, kind, (*begin, end_of(index)), lengths)),
        }
    }
    parts
}

/// What a kind has from one key to before another, cut into sections.
fn fresh_parts(
    metadata: &Metadata,
    kind: SectionKind,
    (from, end): (SectionKey, Option<SectionKey>),
    lengths: &Lengths,
) -> Vec<Part> {
    let encoded = metadata.encode_section(kind, from, end);
    let whole = encoded.bytes;
    let mut cuts: Vec<(SectionKey, usize)> = Vec::new();
    if whole.len() > lengths.max {
        let pieces = whole.len().div_ceil(lengths.cut);
        let least = whole.len().div_ceil(pieces);
        for (key, at) in encoded.cuts {
            if cuts.last().is_none_or(|(_, last)| at - last >= least) {
                cuts.push((key, at));
            }
        }
    } else {
        cuts.extend(encoded.cuts.first());
    }
    let ends = cuts.iter().skip(1).map(|(_, at)| *at).chain([whole.len()]);
    let pieces = cuts.iter().zip(ends);
    pieces
        .map(|((first, at), end)| {
            let bytes = whole[*at..end].to_vec();
            Part { kind, first: *first, len: bytes.len(), content: Content::Fresh(bytes) }
        })
        .collect()
}

/// Makes one of neighbours that are small, where one of them is written anyway.
fn join_small(metadata: &Metadata, mut parts: Vec<Part>, lengths: &Lengths) -> Vec<Part> {
    let mut index = 0;
    while index + 1 < parts.len() {
        let (here, next) = (&parts[index], &parts[index + 1]);
        let small = here.len + next.len < lengths.min;
        if !small || !(here.is_fresh() || next.is_fresh()) {
            index += 1;
            continue;
        }
        let from = if index == 0 { SectionKey::default() } else { here.first };
        let end = parts.get(index + 2).map(|behind| behind.first);
        let joined = fresh_parts(metadata, here.kind, (from, end), lengths);
        let is_one = joined.len();
        parts.splice(index..index + 2, joined);
        index += usize::from(is_one != 1);
    }
    parts
}

/// Blocks that nothing names.
struct FreeBlocks(Vec<BlockRun>);

impl FreeBlocks {
    fn of<'a>(
        layout: &AreaLayout,
        in_use: impl Iterator<Item = &'a BlockRun> + Clone,
    ) -> FreeBlocks {
        let mut in_use: Vec<BlockRun> = in_use.copied().collect();
        in_use.sort_unstable();
        let mut free = Vec::new();
        for space in layout.section_space() {
            let mut at = u64::from(space.first);
            let within = in_use.iter().filter(|run| {
                run.end() > u64::from(space.first) && u64::from(run.first) < space.end()
            });
            let ends = BlockRun { first: space.end() as u32, count: 0 };
            for run in within.chain([&ends]) {
                if u64::from(run.first) > at {
                    let count = (u64::from(run.first) - at) as u32;
                    free.push(BlockRun { first: at as u32, count });
                }
                at = at.max(run.end());
            }
        }
        FreeBlocks(free)
    }

    /// Takes so many: the first run that has them, else as few as there need be.
    fn take(&mut self, blocks: u64) -> Option<Vec<BlockRun>> {
        let mut left = u32::try_from(blocks).ok()?;
        let mut place = Vec::new();
        while left > 0 {
            let fits = self.0.iter().position(|run| run.count >= left);
            let largest = || (0..self.0.len()).max_by_key(|index| self.0[*index].count);
            let index = fits.or_else(largest)?;
            let run = &mut self.0[index];
            let count = run.count.min(left);
            place.push(BlockRun { first: run.first, count });
            run.first += count;
            run.count -= count;
            left -= count;
            if run.count == 0 {
                self.0.remove(index);
            }
        }
        Some(place)
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
