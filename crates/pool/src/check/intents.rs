//! Rows that INTENTs of the log name: their contents are in their place and nowhere else, and the checksum
//! blocks don't know of them yet. Up to what some record says was acknowledged they must be on all members;
//! beyond that each is there or is what it was before, and where something was, each of its sectors.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use block::{BLOCK_BYTES, SECTOR_BYTES};

use super::contents::{BlockCopies, Visit};
use super::findings::{Findings, finding};
use super::log_scan::Found;
use super::report::{Kind, Severity, VolumeCheck};
use super::space::{extent_offset, volume_offset};
use super::view::View;
use crate::format::{
    GenerationId, ROW_SECTORS, RecordNumber, Role, Row, row_checksum, sector_checksum,
};
use crate::metadata::Volume;

/// Rows that are remembered of a log: far more than any engine leaves.
const ROWS_MAX: usize = 1 << 20;

/// What an INTENT says of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    crc: u32,
    /// Of each sector, unless nothing was there.
    sectors: Vec<u32>,
    /// What was there, as far as the checksum blocks know.
    was: Option<u32>,
}

/// The newest record of each row that an INTENT names: what it says, unless it isn't one.
#[derive(Default)]
pub(super) struct IntentRows {
    rows: BTreeMap<(GenerationId, u32), (RecordNumber, Option<Said>)>,
    /// The highest number that a record says all up to was acknowledged.
    complete: RecordNumber,
}

/// What became of a row.
pub(super) struct Arrived {
    pub(super) record: RecordNumber,
    /// Right copies in place.
    pub(super) copies: u32,
    contents: Option<Vec<u8>>,
    /// It must have arrived.
    is_complete: bool,
    /// Or it must be what it was, which is in the same place.
    is_over: bool,
}

impl Arrived {
    /// Whether the row is what the INTENT says, rather than what it was before.
    pub(super) fn counts(&self) -> bool {
        self.is_complete || self.is_over || self.copies > 0
    }
}

/// What a disk has in the place of a row; the better the later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    Else,
    /// Some sectors are new.
    Torn,
    Old,
    New,
}

impl Said {
    fn holds(&self, (group, row): (GenerationId, Row), block: &[u8]) -> Holds {
        let crc = row_checksum(group, row, Role::Data(0), block);
        let mut sectors = block.chunks_exact(SECTOR_BYTES).zip(&self.sectors).enumerate();
        if crc == self.crc {
            Holds::New
        } else if Some(crc) == self.was {
            Holds::Old
        } else if sectors.any(|(at, (bytes, is))| sector_checksum(group, row, at, bytes) == *is) {
            Holds::Torn
        } else {
            Holds::Else
        }
    }
}

impl IntentRows {
    /// Takes note of what a record says of those before it.
    pub(super) fn note(&mut self, record: &Found) {
        self.complete = self.complete.max(record.acknowledged);
    }

    /// Adds what a record of the log says. What was appended again may come after what is newer.
    pub(super) fn add(&mut self, record: &Found, rows_max: u32) {
        let Some(rows) = record.rows else { return };
        if !record.is_intent {
            let end = rows.first.0.saturating_add(rows.count);
            let of_rows = (rows.group, rows.first.0)..(rows.group, end);
            for (_, newest) in self.rows.range_mut(of_rows) {
                if newest.0 < record.number {
                    *newest = (record.number, None);
                }
            }
            return;
        }
        let mut sectors = record.sectors.chunks(ROW_SECTORS);
        for (row, crc) in (rows.first.0..rows_max).zip(&record.checksums) {
            if self.rows.len() >= ROWS_MAX {
                return;
            }
            let sectors = sectors.next().unwrap_or_default().to_vec();
            let says = || (record.number, Some(Said { crc: *crc, sectors, was: None }));
            match self.rows.entry((rows.group, row)) {
                Entry::Vacant(vacant) => drop(vacant.insert(says())),
                Entry::Occupied(mut newest) if newest.get().0 < record.number => {
                    newest.insert(says());
                }
                Entry::Occupied(_) => {}
            }
        }
    }

    /// The checksum blocks say this of a row.
    pub(super) fn was(&mut self, group: GenerationId, row: Row, crc: u32) {
        if let Some((_, Some(said))) = self.rows.get_mut(&(group, row.0)) {
            said.was = Some(crc);
        }
    }

    /// What became of each row, in order.
    pub(super) fn look<'s>(
        &'s self,
        view: &'s View<'_, '_>,
        volume: &'s Volume,
    ) -> impl Iterator<Item = ((GenerationId, u32), u64, Arrived)> + 's {
        self.rows.iter().filter_map(move |((generation, row), (record, said))| {
            let said = said.as_ref()?;
            let is_complete = *record <= self.complete;
            let is_over = !is_complete && !said.sectors.is_empty() && said.was.is_some();
            // Records of a group that doesn't exist any more are void.
            let group = view.metadata.group_by_generation(*generation)?;
            let at = Row(*row);
            let offset = volume_offset(view.metadata, volume, group.set(), group.lane(), at);
            let offset = offset.filter(|_| group.volume == volume.id)?;
            let sector = view.metadata.shape().row_sector(at);
            let (mut copies, mut best) = (0, None);
            for (number, extent) in group.members() {
                let Some(disk) = view.disk(number) else { continue };
                let Some(start) = extent_offset(disk, extent) else { continue };
                let place = start.saturating_add(sector.saturating_mul(SECTOR_BYTES as u64));
                let Ok(block) = disk.image.bytes_at(place, BLOCK_BYTES) else { continue };
                let holds = said.holds((*generation, at), &block);
                if holds == Holds::New || is_over && holds > Holds::Else {
                    copies += 1;
                    best = best.max(Some((holds, block)));
                }
            }
            let contents = best.map(|(_, block)| block);
            let arrived = Arrived { record: *record, copies, contents, is_complete, is_over };
            Some(((*generation, *row), offset, arrived))
        })
    }
}

/// Counts rows that fewer members have than should.
#[derive(Default)]
pub(super) struct Lacking {
    thin: u64,
    thin_at: Option<u64>,
    bare: u64,
    bare_at: Option<u64>,
}

impl Lacking {
    /// Takes note of a row that is the newest of its block.
    pub(super) fn note(&mut self, arrived: &Arrived, offset: u64, check: &mut VolumeCheck) {
        if !arrived.is_complete && !arrived.is_over {
            return;
        }
        let least = check.least.data.unwrap_or(u32::MAX).min(arrived.copies);
        check.least.data = Some(least);
        if arrived.copies == 0 {
            self.bare += 1;
            self.bare_at = self.bare_at.or(Some(offset));
        } else if arrived.copies < check.copies {
            self.thin += 1;
            self.thin_at = self.thin_at.or(Some(offset));
        }
    }

    /// Tells of them.
    pub(super) fn tell(&self, check: &VolumeCheck, findings: &mut Findings) {
        if self.bare > 0 {
            let what = format!("{} blocks that were written in place are on no disk", self.bare);
            let means = "they were acknowledged; a disk that wasn't given may have them";
            let found = finding(Severity::Damage, Kind::Row, what, means);
            findings.add(found.of(&check.name).volume_at(self.bare_at));
        }
        if self.thin > 0 {
            let (count, copies) = (self.thin, check.copies);
            let what = format!(
                "{count} blocks that were written in place are on fewer than {copies} disks"
            );
            let means = "an engine writes them to all disks when it brings its log into place";
            let found = finding(Severity::Redundancy, Kind::Row, what, means);
            findings.add(found.of(&check.name).volume_at(self.thin_at));
        }
    }
}

/// Tells who wants to see contents of a row.
pub(super) fn show(
    (view, volume): (&View<'_, '_>, &Volume),
    offset_bytes: u64,
    arrived: &Arrived,
    visit: Visit<'_>,
) {
    visit(&BlockCopies {
        pool: view.metadata.pool().id.0,
        volume: &volume.name,
        offset_bytes,
        contents: arrived.contents.as_deref(),
        copies: arrived.copies,
        record: Some(arrived.record.0),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::RowRange;

    fn found(number: u64, is_intent: bool) -> Found {
        Found {
            number: RecordNumber(number),
            at: 4096,
            bytes: 512,
            header_bytes: 512,
            rows: Some(RowRange { group: GenerationId(3), first: Row(10), count: 2 }),
            after: RecordNumber(0),
            durable: RecordNumber(0),
            acknowledged: RecordNumber(0),
            metadata: RecordNumber(0),
            checksums: vec![7, 8],
            is_lost: false,
            is_intent,
            sectors: Vec::new(),
            headers: Vec::new(),
            holders: Vec::new(),
            copies: 2,
        }
    }

    #[test]
    fn a_repetition_of_what_is_superseded_says_nothing() {
        let mut intents = IntentRows::default();
        let says = |intents: &IntentRows| {
            intents.rows[&(GenerationId(3), 11)].1.as_ref().map(|said| said.crc)
        };
        intents.add(&found(4, true), 100);
        assert_eq!(says(&intents), Some(8));
        intents.add(&found(5, false), 100);
        // An opening appended it again, and was cut short before it came to the next.
        intents.add(&found(4, true), 100);
        assert_eq!(says(&intents), None);
        intents.add(&found(6, true), 100);
        assert_eq!(says(&intents), Some(8));
        assert!(!intents.rows.contains_key(&(GenerationId(3), 12)));
    }
}
