//! The records of one log segment, read from all of its copies side by side. Unlike an engine, which
//! takes the first missing record for the end, this looks behind every gap.

use block::{BLOCK_BYTES, SECTOR_BYTES};

use super::disks::Disk;
use super::findings::{Findings, finding};
use super::report::{Kind, Severity};
use crate::format::{
    CheckedHeader, CheckedKind, RecordBody, RecordNumber, Role, Row, RowRange,
    SEGMENT_HEADER_BYTES, SegmentHeader, check_header, record_claim, row_checksum,
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
    pub(super) is_intent: bool,
    /// Of DATA: for each row.
    pub(super) checksums: Vec<u32>,
    /// By copy: whether it has the header.
    pub(super) headers: Vec<bool>,
    /// By copy: whether it holds all of the record.
    pub(super) holders: Vec<bool>,
    /// The least number of current copies that any part of it has.
    pub(super) copies: u32,
    /// Whether a batch certainly begins with it: padding precedes it, or the segment's header.
    pub(super) begins_batch: bool,
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
    pub(super) header: &'s SegmentHeader,
    pub(super) copies: &'s [CopyPlace<'d, 'a>],
    /// Bytes of the segment.
    pub(super) bytes: u64,
    /// The first number that belongs to the next segment.
    pub(super) bound: Option<RecordNumber>,
}

impl Scanner<'_, '_, '_> {
    /// Reads all of it.
    pub(super) fn scan(&self, findings: &mut Findings) -> Scan {
        let mut scan = Scan { end: SEGMENT_HEADER_BYTES as u64, ..Scan::default() };
        let mut at = SEGMENT_HEADER_BYTES as u64;
        let mut expected = self.header.first_record;
        let mut chain: Option<u32> = None;
        let mut begins_batch = true;
        while at < self.bytes && scan.records.len() < RECORDS_MAX {
            if self.bound.is_some_and(|bound| expected >= bound) {
                break;
            }
            if let Some((header, holders)) = self.headers_at(at, expected, findings) {
                if chain.is_some_and(|chain| chain != header.previous_crc) {
                    let what = format!("{expected} does not follow the record before it");
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
                let found = self.judge(at, expected, header, holders, begins_batch);
                at = at.saturating_add(found.bytes);
                scan.end = at;
                expected = expected.next();
                begins_batch = false;
                scan.records.push(found);
                continue;
            }
            let block = BLOCK_BYTES as u64;
            if !at.is_multiple_of(block) {
                at = at.next_multiple_of(block);
                begins_batch = true;
                continue;
            }
            let Some((to, number)) = self.find_behind(at, expected) else { break };
            if number > expected {
                let last = RecordNumber(number.0 - 1);
                scan.gaps.push(Gap { first: expected, last, from: at, to });
            }
            (at, expected, chain, begins_batch) = (to, number, None, false);
        }
        scan
    }

    /// The header of a record at a place, and which copies have it.
    fn headers_at(
        &self,
        at: u64,
        number: RecordNumber,
        findings: &mut Findings,
    ) -> Option<(CheckedHeader, Vec<bool>)> {
        let mut found: Option<(usize, CheckedHeader)> = None;
        let mut holders = vec![false; self.copies.len()];
        for (index, copy) in self.copies.iter().enumerate() {
            let Some(header) = self.header_of(copy, at, Some(number)).map(|(_, header)| header)
            else {
                continue;
            };
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

    /// A sound record header of this segment at a place of one copy; of any number when none is asked.
    fn header_of(
        &self,
        copy: &CopyPlace<'_, '_>,
        at: u64,
        number: Option<RecordNumber>,
    ) -> Option<(RecordNumber, CheckedHeader)> {
        let place = copy.start.checked_add(at)?;
        let sector = copy.disk.image.bytes_at(place, SECTOR_BYTES).ok()?;
        let (claimed, len) = record_claim(&sector)?;
        let inside = at.checked_add(len as u64).is_some_and(|end| end <= self.bytes);
        if !inside || number.is_some_and(|number| number != claimed) {
            return None;
        }
        let bytes = copy.disk.image.bytes_at(place, len).ok()?;
        let header = check_header(&bytes, self.header.birth, self.header.epoch, claimed)?;
        Some((claimed, header))
    }

    /// Which copies hold a record with its rows.
    fn judge(
        &self,
        at: u64,
        number: RecordNumber,
        header: CheckedHeader,
        mut holders: Vec<bool>,
        begins_batch: bool,
    ) -> Found {
        let is_current = |(index, holds): &(usize, &bool)| **holds && self.copies[*index].current;
        let headers = holders.clone();
        let header_bytes = header.len as u64;
        let mut found = Found {
            number,
            at,
            bytes: header_bytes,
            header_bytes,
            rows: None,
            is_intent: false,
            checksums: Vec::new(),
            headers,
            holders: Vec::new(),
            copies: 0,
            begins_batch,
        };
        match header.kind {
            CheckedKind::Whole(body) => {
                found.rows = body.rows();
                found.is_intent = matches!(body, RecordBody::Intent { .. });
                found.copies = holders.iter().enumerate().filter(is_current).count() as u32;
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
            record_claim(sector).filter(|(number, _)| *number >= expected)?;
            let here = at + (index * SECTOR_BYTES) as u64;
            let (number, _) = self.header_of(copy, here, None)?;
            self.bound.is_none_or(|bound| number < bound).then_some((here, number))
        })
    }
}
