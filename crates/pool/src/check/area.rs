//! One copy of the metadata: which checkpoints and entries are there, read piece by piece. Nothing is
//! decoded here but headers and tables, so that several copies can be compared without holding any.

use block::{BLOCK_BYTES, Epoch};
use seal::PublicKey;

use super::disks::Disk;
use super::findings::{Findings, finding};
use super::report::{Kind, Severity};
use crate::format::{PoolId, RecordNumber};
use crate::metadata::{
    AreaLayout, BlockRun, CheckedEntry, CheckpointHead, CheckpointSlot, CheckpointStamp,
    ENTRY_HEAD_BYTES, Sum, Table, check_entry, check_header, entry_claim,
};

/// Bytes read at once where a log is searched.
const PIECE_BYTES: u64 = 1 << 20;

/// An entry of a copy's log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) number: RecordNumber,
    pub(super) crc: u32,
    /// Byte offset on the disk.
    pub(super) at: u64,
    /// Header, signature and payload.
    pub(super) bytes: usize,
}

impl Entry {
    fn new(entry: &CheckedEntry<'_>, at: u64) -> Entry {
        Entry { number: entry.number, crc: entry.crc, at, bytes: entry.bytes() }
    }
}

/// What a copy holds.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) stamp: CheckpointStamp,
    pub(super) crc: u32,
    /// Who signed it, if anybody did.
    pub(super) by: Option<PublicKey>,
    /// Where the header of its newest checkpoint is on the disk.
    pub(super) checkpoint: u64,
    /// The area's byte offset on the disk, and its layout.
    pub(super) area: (u64, AreaLayout),
    /// What the checkpoint holds; `None` where its bytes, though sound, are no table.
    pub(super) table: Option<Table>,
    pub(super) entries: Vec<Entry>,
    /// Byte offset on the disk behind the last entry.
    pub(super) end: u64,
    /// Whether something that claims to be the next entry is there, and isn't sound.
    pub(super) torn: bool,
    /// The last record before a gap, and the first entry behind it.
    pub(super) gap: Option<Entry>,
}

impl Copy {
    /// The last record that it has.
    pub(super) fn number(&self) -> RecordNumber {
        self.entries.last().map_or(self.stamp.number, |entry| entry.number)
    }

    /// Newer copies are greater.
    pub(super) fn rank(&self) -> (Epoch, u64, RecordNumber) {
        (self.stamp.epoch, self.stamp.sequence, self.number())
    }
}

/// What is in a checkpoint's slot.
enum Slot {
    Empty,
    Damaged,
    /// The header is sound, which is written last; something that it names isn't: where that is.
    Rotten(CheckpointStamp, u64, u64),
    Sound(CheckpointHead, Option<Table>),
}

/// Reads the copy of a disk; `None` when there is none to be used.
pub(super) fn read_copy(
    pool: PoolId,
    disk: &Disk<'_>,
    released: bool,
    findings: &mut Findings,
) -> Option<Copy> {
    let area = disk.label.area.and_then(|area| {
        let (start, bytes) = disk.label.geometry.run_place(area)?;
        Some((start.byte_offset(), bytes))
    });
    let (start, bytes) = area.unwrap_or_default();
    let lost = |what: &str, means: &str| {
        let found = finding(Severity::Redundancy, Kind::MetadataLost, what, means);
        found.on(disk.name()).at(start, bytes)
    };
    let Some(layout) = AreaLayout::new(bytes) else {
        findings.add(lost("it holds a vote and has no area for metadata", "its label is wrong"));
        return None;
    };
    let mut slots = [0, 1].map(|slot| read_slot(pool, disk, (start, &layout), slot));
    let rank = |slot: &Slot| match slot {
        Slot::Sound(CheckpointHead { stamp, .. }, _) | Slot::Rotten(stamp, ..) => {
            Some((stamp.epoch, stamp.sequence))
        }
        Slot::Empty | Slot::Damaged => None,
    };
    let slot = usize::from(rank(&slots[1]) > rank(&slots[0]));
    let other = 1 - slot;
    let orphan = first_entry(pool, disk, (start, &layout), other)
        .filter(|(epoch, sequence)| Some((*epoch, *sequence)) > rank(&slots[slot]));
    let newest_damaged = |(at, bytes): (u64, u64), sequence: u64, how: &str| {
        let what = format!("its newest checkpoint, of sequence {sequence}, is damaged");
        let means = format!(
            "{how} that it was in use: what the older checkpoint says is out of date, and this copy \
             of no use"
        );
        let found = finding(Severity::Redundancy, Kind::MetadataLost, what, means);
        found.on(disk.name()).at(at, bytes)
    };
    if let Slot::Rotten(stamp, at, bytes) = slots[slot] {
        findings.add(newest_damaged((at, bytes), stamp.sequence, "its header shows"));
        return None;
    }
    let newest = std::mem::replace(&mut slots[slot], Slot::Empty);
    let Slot::Sound(CheckpointHead { stamp, crc, by, .. }, table) = newest else {
        slots[slot] = newest;
        let empty = slots.iter().all(|slot| matches!(slot, Slot::Empty));
        let what = if empty { "its metadata area is empty" } else { "no checkpoint is sound" };
        findings.add(lost(what, "this copy of the metadata is of no use"));
        return None;
    };
    let other_at = start + layout.checkpoint_offset(other);
    if let (Slot::Damaged | Slot::Empty, Some((_, sequence))) = (&slots[other], orphan) {
        let place = (other_at, BLOCK_BYTES as u64);
        findings.add(newest_damaged(place, sequence, "entries behind it show"));
        return None;
    }
    if matches!(slots[other], Slot::Damaged | Slot::Rotten(..)) {
        let what =
            format!("checkpoint slot {other} is damaged, the newer one in slot {slot} is sound");
        let (severity, means) = match released {
            true => (Severity::Redundancy, "if it was the newer one, other copies tell"),
            false => {
                (Severity::Note, "a checkpoint that the owner's end cut short leaves this too")
            }
        };
        let found = finding(severity, Kind::Checkpoint, what, means);
        findings.add(found.on(disk.name()).at(other_at, BLOCK_BYTES as u64));
    }
    let log = start + layout.log_offset(slot);
    let mut copy = Copy {
        stamp,
        crc,
        by,
        checkpoint: start + layout.checkpoint_offset(slot),
        area: (start, layout),
        table,
        entries: Vec::new(),
        end: log,
        torn: false,
        gap: None,
    };
    let log_end = log + layout.log_bytes();
    read_entries(pool, disk, &mut copy, log_end);
    copy.gap = find_behind(pool, disk, &copy, log_end);
    Some(copy)
}

fn read_slot(
    pool: PoolId,
    disk: &Disk<'_>,
    (start, layout): (u64, &AreaLayout),
    slot: usize,
) -> Slot {
    let at = start + layout.checkpoint_offset(slot);
    let Ok(header) = disk.image.bytes_at(at, BLOCK_BYTES) else { return Slot::Damaged };
    let head = match check_header(&header, pool, slot, layout) {
        CheckpointSlot::Sound(head) => head,
        CheckpointSlot::Empty if header.iter().all(|byte| *byte == 0) => return Slot::Empty,
        CheckpointSlot::Empty | CheckpointSlot::Damaged => return Slot::Damaged,
    };
    let sound = |place: &[BlockRun], sum| place_bytes(disk, (start, layout), place, sum);
    let rotten = |place: &[BlockRun], bytes: u64| {
        let at = place.first().map_or(at, |run| start + layout.run_offset(run));
        Slot::Rotten(head.stamp, at, bytes)
    };
    let Some(table) = sound(&head.place, head.table_sum()) else {
        return rotten(&head.place, head.table_bytes);
    };
    let table = Table::decode(pool, &table, layout).ok();
    let mut sections = table.iter().flat_map(|table| &table.sections);
    let lost = sections.find(|s| sound(&s.place, s.sum()).is_none());
    match lost {
        Some(section) => rotten(&section.place, section.bytes),
        None => Slot::Sound(head, table),
    }
}

/// What a place in an area should hold, without the padding; `None` where it holds something else.
pub(super) fn place_bytes(
    disk: &Disk<'_>,
    (start, layout): (u64, &AreaLayout),
    place: &[BlockRun],
    sum: Sum,
) -> Option<Vec<u8>> {
    let mut found = Vec::new();
    for run in place {
        let len = usize::try_from(run.bytes()).ok()?;
        found.extend(disk.image.bytes_at(start + layout.run_offset(run), len).ok()?);
    }
    found.truncate(usize::try_from(sum.bytes).ok()?);
    sum.is_of(&found).then_some(found)
}

/// Epoch and sequence of the first entry behind a checkpoint slot.
fn first_entry(
    pool: PoolId,
    disk: &Disk<'_>,
    (start, layout): (u64, &AreaLayout),
    slot: usize,
) -> Option<(Epoch, u64)> {
    let at = start + layout.log_offset(slot);
    let bytes = entry_bytes(pool, disk, at, at.checked_add(layout.log_bytes())?)?;
    let entry = check_entry(&bytes, pool)?;
    Some((entry.epoch, entry.sequence))
}

/// All bytes of what claims to be an entry there; bounded by the log's end.
fn entry_bytes(pool: PoolId, disk: &Disk<'_>, at: u64, log_end: u64) -> Option<Vec<u8>> {
    let head = disk.image.bytes_at(at, ENTRY_HEAD_BYTES).ok()?;
    let claim = entry_claim(&head, pool)?;
    let fits = at.checked_add(claim.bytes as u64).is_some_and(|end| end <= log_end);
    if !fits {
        return None;
    }
    disk.image.bytes_at(at, claim.bytes).ok()
}

fn read_entries(pool: PoolId, disk: &Disk<'_>, copy: &mut Copy, log_end: u64) {
    let mut chain = copy.crc;
    while copy.end < log_end {
        let next = copy.number().next();
        let bytes = entry_bytes(pool, disk, copy.end, log_end);
        let entry = bytes.as_deref().and_then(|bytes| check_entry(bytes, pool)).filter(|entry| {
            (entry.epoch, entry.sequence) == (copy.stamp.epoch, copy.stamp.sequence)
                && entry.number == next
                && entry.previous == chain
                && entry.is_by(copy.by)
        });
        let Some(entry) = entry else {
            let head = disk.image.bytes_at(copy.end, ENTRY_HEAD_BYTES).ok();
            let claim = head.and_then(|head| entry_claim(&head, pool));
            copy.torn = claim.is_some_and(|claim| {
                (claim.epoch, claim.sequence) == (copy.stamp.epoch, copy.stamp.sequence)
                    && claim.number == next
            });
            return;
        };
        copy.entries.push(Entry::new(&entry, copy.end));
        chain = entry.crc;
        copy.end = copy.end.saturating_add(entry.len as u64);
    }
}

/// The first sound entry of the same log that lies behind its end: something between is lost.
fn find_behind(pool: PoolId, disk: &Disk<'_>, copy: &Copy, log_end: u64) -> Option<Entry> {
    let mut at = copy.end;
    // What only claims to be an entry may claim to be long: such claims are not followed for ever.
    let mut budget = log_end.saturating_sub(at).saturating_mul(4);
    while at < log_end {
        let len = usize::try_from((log_end - at).min(PIECE_BYTES)).ok()?;
        let (piece, _) = disk.image.blocks_at(at, len);
        for (index, block) in piece.chunks(BLOCK_BYTES).enumerate() {
            let claim = entry_claim(block.get(..ENTRY_HEAD_BYTES).unwrap_or_default(), pool);
            let ours = claim.is_some_and(|claim| {
                (claim.epoch, claim.sequence) == (copy.stamp.epoch, copy.stamp.sequence)
                    && claim.number > copy.number()
            });
            if !ours {
                continue;
            }
            let here = at + (index * BLOCK_BYTES) as u64;
            let claimed = claim.map_or(0, |claim| claim.bytes as u64);
            budget = budget.checked_sub(claimed)?;
            let bytes = entry_bytes(pool, disk, here, log_end);
            if let Some(entry) = bytes.as_deref().and_then(|bytes| check_entry(bytes, pool)) {
                return Some(Entry::new(&entry, here));
            }
        }
        at += len as u64;
    }
    None
}
