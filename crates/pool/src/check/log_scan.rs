//! The records of one log segment, read from all of its copies side by side, with a look behind every
//! gap.

use block::{BLOCK_BYTES, SECTOR_BYTES};

use super::disks::Disk;
use super::findings::{Findings, finding};
use super::report::{Kind, Severity};
use crate::format::{
    CheckedHeader, CheckedKind, RecordBody, RecordNumber, Role, Row, RowRange,
    SEGMENT_HEADER_BYTES, SegmentSeal, check_header, claimed_header_len, row_checksum,
};

/// Bytes read at once where records are looked for, and of a record's rows.
const PIECE_BYTES: usize = 1 << 20;
/// Records of a segment that are remembered. A segment of an engine has at most one for each sector;
/// more come from a wreck.
const RECORDS_MAX: usize = 1 << 20;

/// A copy of the segment that can be read.
pub(super) struct CopyPlace<'d, 'a> {
    pub(super) disk: &'d Disk<'a>,
    /// Byte offset of the segment on it.
    pub(super) start: u64,
    /// Whether it counts.
    pub(super) current: bool,
}

/// A record that some copy has.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) number: RecordNumber,
    /// Byte offset in the segment, and the bytes that it takes.
    pub(super) at: u64,
    pub(super) bytes: u64,
    pub(super) header_bytes: u64,
    pub(super) rows: Option<RowRange>,
    /// The number before the first one of the segment, as it says.
    pub(super) after: RecordNumber,
    /// Up to here all was durable on all current copies, as it says.
    pub(super) durable: RecordNumber,
    /// Up to here all was acknowledged, as it says.
    pub(super) acknowledged: RecordNumber,
    /// The metadata had come to this record, as it says.
    pub(super) metadata: RecordNumber,
    /// Of DATA, INTENT and LOST: for each row.
    pub(super) checksums: Vec<u32>,
    /// It says that nobody has its rows.
    pub(super) is_lost: bool,
    /// It says that its rows are in their place.
    pub(super) is_intent: bool,
    /// Of an INTENT over what was written: for each sector.
    pub(super) sectors: Vec<u32>,
    /// By copy: whether it has the header.
    pub(super) headers: Vec<bool>,
    /// By copy: whether it holds all of the record.
    pub(super) holders: Vec<bool>,
    /// The least number of current copies that any part of it has.
    pub(super) copies: u32,
}

/// Missing records with others behind them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    pub(super) first: RecordNumber,
    pub(super) last: RecordNumber,
    /// Where in the segment the first should be, and where the next sound one is.
    pub(super) from: u64,
    pub(super) to: u64,
}

/// What a segment holds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) records: Vec<Found>,
    pub(super) gaps: Vec<Gap>,
    /// Byte offset in the segment behind the last record.
    pub(super) end: u64,
}

/// A segment being read.
pub(super) struct Scanner<'s, 'd, 'a> {
    pub(super) volume: &'s str,
    pub(super) seal: SegmentSeal,
    pub(super) copies: &'s [CopyPlace<'d, 'a>],
    /// Bytes of the segment.
    pub(super) bytes: u64,
    /// Its last record that counts, where the metadata says it.
    pub(super) end: Option<RecordNumber>,
}

impl Scanner<'_, '_, '_> {
    /// Reads all of it.
    pub(super) fn scan(&self, findings: &mut Findings) -> Scan {
        let mut scan = Scan { end: SEGMENT_HEADER_BYTES as u64, ..Scan::default() };
        let mut at = SEGMENT_HEADER_BYTES as u64;
        // Where it begins is said by its first record.
        let mut expected: Option<RecordNumber> = None;
        let mut chain: Option<u32> = None;
        while at < self.bytes && scan.records.len() < RECORDS_MAX {
            let is_void = |number| self.end.is_some_and(|end| number > end);
            if expected.is_some_and(is_void) {
                break;
            }
            let here = self.headers_at(at, expected, findings);
            if let Some((header, holders)) = here.filter(|(header, _)| !is_void(header.number)) {
                let number = header.number;
                if chain.is_some_and(|chain| chain != header.previous_crc) {
                    let what = format!("{number} does not follow the record before it");
                    let means = "two histories of the log are in one place";
                    self.tell(
                        Kind::LogHistories,
                        Severity::Damage,
                        what,
                        means,
                        &holders,
                        at,
                        findings,
                    );
                }
                chain = Some(header.crc);
                let found = self.judge(at, header, holders);
                at = at.saturating_add(found.bytes);
                scan.end = at;
                expected = Some(number.next());
                scan.records.push(found);
                continue;
            }
            let block = BLOCK_BYTES as u64;
            if !at.is_multiple_of(block) {
                at = at.next_multiple_of(block);
                continue;
            }
            let least = expected.unwrap_or_default();
            let Some((to, number)) = self.find_behind(at, least) else { break };
            if let Some(first) = expected.filter(|expected| number > *expected) {
                let last = RecordNumber(number.0 - 1);
                scan.gaps.push(Gap { first, last, from: at, to });
            }
            (at, expected, chain) = (to, Some(number), None);
        }
        scan
    }

    /// The header of a record at a place, and which copies have it.
    fn headers_at(
        &self,
        at: u64,
        number: Option<RecordNumber>,
        findings: &mut Findings,
    ) -> Option<(CheckedHeader, Vec<bool>)> {
        let mut found: Option<(usize, CheckedHeader)> = None;
        let mut holders = vec![false; self.copies.len()];
        for (index, copy) in self.copies.iter().enumerate() {
            let Some(header) = self.header_of(copy, at) else { continue };
            if number.is_some_and(|number| number != header.number) {
                continue;
            }
            let number = header.number;
            match &found {
                // A copy that doesn't count may hold what was never acknowledged.
                Some((first, other)) if *other != header => {
                    if self.copies[*first].current && copy.current {
                        let one = self.copies[*first].disk.name();
                        let what = format!("{number} differs from that on {one}");
                        let means = "two histories of the log; neither can be chosen";
                        let mut only = vec![false; self.copies.len()];
                        only[index] = true;
                        self.tell(
                            Kind::LogHistories,
                            Severity::Damage,
                            what,
                            means,
                            &only,
                            at,
                            findings,
                        );
                    } else if copy.current {
                        holders.fill(false);
                        holders[index] = true;
                        found = Some((index, header));
                    }
                }
                Some(_) => holders[index] = true,
                None => {
                    holders[index] = true;
                    found = Some((index, header));
                }
            }
        }
        found.map(|(_, header)| (header, holders))
    }

    #[allow(clippy::too_many_arguments)]
    fn tell(
        &self,
        kind: Kind,
        severity: Severity,
        what: String,
        means: &str,
        on: &[bool],
        at: u64,
        findings: &mut Findings,
    ) {
        for (copy, _) in self.copies.iter().zip(on).filter(|(_, on)| **on) {
            let found = finding(severity, kind, what.clone(), means).of(self.volume);
            findings.add(found.on(copy.disk.name()).at(copy.start + at, SECTOR_BYTES as u64));
        }
    }

    /// A sound record header of this segment at a place of one copy.
    fn header_of(&self, copy: &CopyPlace<'_, '_>, at: u64) -> Option<CheckedHeader> {
        let place = copy.start.checked_add(at)?;
        let sector = copy.disk.image.bytes_at(place, SECTOR_BYTES).ok()?;
        let len = claimed_header_len(&sector)?;
        if at.checked_add(len as u64).is_none_or(|end| end > self.bytes) {
            return None;
        }
        check_header(&copy.disk.image.bytes_at(place, len).ok()?, &self.seal)
    }

    /// Which copies hold a record with its rows.
    fn judge(&self, at: u64, header: CheckedHeader, mut holders: Vec<bool>) -> Found {
        let is_current = |(index, holds): &(usize, &bool)| **holds && self.copies[*index].current;
        let headers = holders.clone();
        let header_bytes = header.len as u64;
        let mut found = Found {
            number: header.number,
            at,
            bytes: header_bytes,
            header_bytes,
            rows: None,
            after: header.after,
            durable: header.witness.durable,
            acknowledged: header.witness.acknowledged,
            metadata: header.witness.metadata,
            checksums: Vec::new(),
            is_lost: false,
            is_intent: false,
            sectors: Vec::new(),
            headers,
            holders: Vec::new(),
            copies: 0,
        };
        match header.kind {
            CheckedKind::Whole(body) => {
                found.rows = body.rows();
                found.copies = holders.iter().enumerate().filter(is_current).count() as u32;
                match body {
                    RecordBody::Lost { checksums, .. } => {
                        (found.checksums, found.is_lost) = (checksums, true);
                    }
                    RecordBody::Intent { checksums, sectors, .. } => {
                        (found.checksums, found.is_intent) = (checksums, true);
                        found.sectors = sectors;
                    }
                    RecordBody::Data { .. } | RecordBody::Zero { .. } | RecordBody::Mark => {}
                }
            }
            CheckedKind::Data(rows, checksums) => {
                let start = at.saturating_add(header_bytes);
                let mut sound = vec![0_u32; checksums.len()];
                for (index, copy) in self.copies.iter().enumerate() {
                    if !holders[index] {
                        continue;
                    }
                    let bad = self.count_rows(copy, start, &rows, &checksums, &mut sound);
                    holders[index] = bad == 0;
                }
                found.rows = Some(rows);
                found.bytes += checksums.len() as u64 * BLOCK_BYTES as u64;
                found.copies = sound.iter().copied().min().unwrap_or(0);
                found.checksums = checksums;
            }
        }
        found.holders = holders;
        found
    }

    /// Counts the sound rows of a DATA record in one copy, if it is current, and tells how many aren't.
    fn count_rows(
        &self,
        copy: &CopyPlace<'_, '_>,
        start: u64,
        rows: &RowRange,
        checksums: &[u32],
        sound: &mut [u32],
    ) -> usize {
        let mut bad = 0;
        let rows_a_piece = PIECE_BYTES / BLOCK_BYTES;
        for (piece, crcs) in checksums.chunks(rows_a_piece).enumerate() {
            let at = start.saturating_add((piece * PIECE_BYTES) as u64);
            let len = crcs.len() * BLOCK_BYTES;
            let inside = at.checked_add(len as u64).is_some_and(|end| end <= self.bytes);
            if !inside {
                bad += crcs.len();
                continue;
            }
            let place = copy.start.saturating_add(at);
            let (bytes, unreadable) = copy.disk.image.blocks_at(place, len);
            for (index, (block, crc)) in bytes.chunks(BLOCK_BYTES).zip(crcs).enumerate() {
                let row = piece * rows_a_piece + index;
                let place = Row(rows.first.0.saturating_add(row as u32));
                let matches = row_checksum(rows.group, place, Role::Data(0), block) == *crc;
                if matches && !unreadable.contains(&index) {
                    sound[row] += u32::from(copy.current);
                } else {
                    bad += 1;
                }
            }
        }
        bad
    }

    /// The first sound record from a place on, in any copy, with the expected number or a later one.
    fn find_behind(&self, from: u64, expected: RecordNumber) -> Option<(u64, RecordNumber)> {
        // Side by side, a little at first: after a small gap no copy is read to its end.
        let (mut at, mut piece_bytes) = (from, PIECE_BYTES / 64);
        while at < self.bytes {
            let len = usize::try_from((self.bytes - at).min(piece_bytes as u64)).ok()?;
            let firsts =
                self.copies.iter().filter_map(|copy| self.find_in(copy, at, len, expected));
            if let Some(first) = firsts.min() {
                return Some(first);
            }
            at += len as u64;
            piece_bytes = (2 * piece_bytes).min(PIECE_BYTES);
        }
        None
    }

    /// The first of them in a piece of one copy.
    fn find_in(
        &self,
        copy: &CopyPlace<'_, '_>,
        at: u64,
        len: usize,
        expected: RecordNumber,
    ) -> Option<(u64, RecordNumber)> {
        let (piece, _) = copy.disk.image.blocks_at(copy.start.saturating_add(at), len);
        piece.chunks(SECTOR_BYTES).enumerate().find_map(|(index, sector)| {
            claimed_header_len(sector)?;
            let here = at + (index * SECTOR_BYTES) as u64;
            let number = self.header_of(copy, here)?.number;
            let counts = number >= expected && self.end.is_none_or(|end| number <= end);
            counts.then_some((here, number))
        })
    }
}
