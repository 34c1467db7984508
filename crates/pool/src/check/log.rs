//! The log of a volume: its live segments, and how many durable copies each record has that isn't
//! released yet.
//!
//! Each record says up to where all was durable on every current copy when its batch was sealed, which is what
//! was acknowledged. Several batches are under way at once: of what no record says it of, the disks alone can't
//! tell.

use std::collections::BTreeMap;

use block::BLOCK_BYTES;

use super::contents::LogRows;
use super::disks::Disk;
use super::findings::{Findings, finding};
use super::intents::IntentRows;
use super::log_scan::{CopyPlace, Found, Gap, Scan, Scanner};
use super::report::{Finding, Kind, LeastCopies, SegmentCheck, SegmentCopyCheck, Severity};
use super::space::{disk_name, extent_offset};
use super::view::View;
use crate::format::{
    GenerationId, RecordNumber, Row, RowRange, SEGMENT_HEADER_BYTES, SegmentHeader,
    UncheckedSegmentHeader,
};
use crate::metadata::{Segment, SegmentCopyPlace, SegmentState, Volume};

/// Row ranges that are remembered of a log: far more than any engine leaves.
const NAMED_MAX: usize = 1 << 20;

/// The rows that unreleased records name: what is in place of them is about to be written again.
#[derive(Debug, Default)]
pub(super) struct NamedRows {
    by_group: BTreeMap<GenerationId, Vec<(u32, u32)>>,
    len: usize,
}

impl NamedRows {
    fn add(&mut self, rows: RowRange) {
        if self.len < NAMED_MAX {
            let end = rows.first.0.saturating_add(rows.count);
            self.by_group.entry(rows.group).or_default().push((rows.first.0, end));
            self.len += 1;
        }
    }

    /// Sorts what was added, and joins what touches.
    fn settle(&mut self) {
        for ranges in self.by_group.values_mut() {
            ranges.sort_unstable();
            let mut joined: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
            for (first, end) in ranges.drain(..) {
                match joined.last_mut() {
                    Some((_, last)) if first <= *last => *last = end.max(*last),
                    _ => joined.push((first, end)),
                }
            }
            *ranges = joined;
        }
    }

    /// Whether any of these rows is named.
    pub(super) fn has(&self, group: GenerationId, first: Row, count: u32) -> bool {
        let end = first.0.saturating_add(count);
        self.by_group.get(&group).is_some_and(|ranges| {
            let after = ranges.partition_point(|(_, last)| *last <= first.0);
            ranges.get(after).is_some_and(|(from, _)| *from < end)
        })
    }
}

/// What a log holds.
#[derive(Default)]
pub(super) struct LogCheck<'d, 'a> {
    pub(super) segments: Vec<SegmentCheck>,
    pub(super) named: NamedRows,
    /// Filled when somebody wants contents.
    pub(super) rows: LogRows<'d, 'a>,
    /// What was written in place.
    pub(super) intents: IntentRows,
    /// The newest record of the pool's metadata that a record of what isn't released knows of.
    metadata: RecordNumber,
}

/// The copies of a segment that hold everything that was acknowledged: those on disks that aren't out,
/// or, where all are out, those that were evicted last.
fn is_current(view: &View<'_, '_>, segment: &Segment, copy: &SegmentCopyPlace) -> bool {
    let Some(config) = view.config else { return true };
    let since = |copy: &SegmentCopyPlace| {
        config.out.iter().find(|out| out.disk == copy.disk).map(|out| out.since)
    };
    let inside = segment.copies.iter().any(|copy| since(copy).is_none());
    let last = segment.copies.iter().filter_map(since).max();
    match since(copy) {
        None => true,
        Some(since) => !inside && Some(since) == last,
    }
}

/// Reads all live segments of a volume.
pub(super) fn check_log<'d, 'a>(
    view: &View<'d, 'a>,
    volume: &Volume,
    least: &mut LeastCopies,
    findings: &mut Findings,
) -> LogCheck<'d, 'a> {
    let mut check = LogCheck::default();
    let segments: Vec<&Segment> = volume.log.segments.values().collect();
    let mut next = volume.log.released.next();
    for segment in segments {
        let reader = SegmentReader { view, volume, segment, next, findings };
        let (checked, first, reached) = reader.read(least, &mut check);
        if first > next {
            let last = RecordNumber(first.0 - 1);
            let what = format!("no live segment has the records from {next} to {last}");
            let means = "they were acknowledged and are not in place";
            findings.add(finding(Severity::Damage, Kind::LogGap, what, means).of(&volume.name));
        }
        check.segments.push(checked);
        next = next.max(segment.end().unwrap_or(reached).next());
    }
    tell_unused(volume, findings);
    tell_metadata(view, volume, check.metadata, findings);
    check.named.settle();
    check
}

/// A segment is closed where the next one begins. Two that end alike: nothing got into the second, which
/// goes in the step that closes it.
fn tell_unused(volume: &Volume, findings: &mut Findings) {
    let mut last: Option<RecordNumber> = None;
    for segment in volume.log.segments.values() {
        let SegmentState::Closed(end) = segment.state else { continue };
        if last.is_some_and(|last| end <= last) {
            let what = format!("log {} holds nothing and isn't free", segment.number);
            let means = "it takes room in the log for nothing";
            findings
                .add(finding(Severity::Note, Kind::SegmentUnused, what, means).of(&volume.name));
        }
        last = last.max(Some(end));
    }
}

/// An engine doesn't read a log by metadata that is older than the log.
fn tell_metadata(
    view: &View<'_, '_>,
    volume: &Volume,
    known: RecordNumber,
    findings: &mut Findings,
) {
    if known > view.newest {
        let what = format!("the metadata ends at {}, its log knows of {known}", view.newest);
        let means = "the newest metadata is lost, or on a disk that wasn't given; an engine doesn't serve \
                     the volume without it";
        let found = finding(Severity::Damage, Kind::MetadataLost, what, means);
        findings.add(found.of(&volume.name));
    }
}

struct SegmentReader<'s, 'd, 'a> {
    view: &'s View<'d, 'a>,
    volume: &'s Volume,
    segment: &'s Segment,
    /// The number that should be its first, or is in an older one already.
    next: RecordNumber,
    findings: &'s mut Findings,
}

impl<'d, 'a> SegmentReader<'_, 'd, 'a> {
    /// The segment, and its first and last record.
    fn read(
        mut self,
        least: &mut LeastCopies,
        log: &mut LogCheck<'d, 'a>,
    ) -> (SegmentCheck, RecordNumber, RecordNumber) {
        let segment = self.segment;
        let shape = self.view.metadata.shape();
        let (bytes, header) = (segment.bytes(shape), segment.header(self.volume.id, shape));
        let (mut copies, places) = self.open_copies(&header);
        let scanner = Scanner {
            volume: &self.volume.name,
            seal: segment.seal(),
            copies: &places,
            bytes,
            end: segment.end(),
        };
        let mut scan = scanner.scan(self.findings);
        if segment.is_needed(self.volume.log.released) {
            let known = scan.records.iter().map(|record| record.metadata);
            log.metadata = known.fold(log.metadata, RecordNumber::max);
        }
        for (index, place) in places.iter().enumerate() {
            let held = scan.records.iter().filter(|record| record.holders[index]).count();
            let name = place.disk.name();
            if let Some(copy) = copies.iter_mut().find(|copy| copy.given && copy.disk == name) {
                copy.records = held as u64;
            }
        }
        let first = scan.records.first().map_or(self.next, |record| record.after.next());
        self.tell_first(&scan, first);
        self.tell_beyond(&scan);
        // Which ones are missing before the first that is there only that one says.
        if let Some(found) = scan.records.first().filter(|found| found.number > first) {
            let (last, from) = (RecordNumber(found.number.0 - 1), SEGMENT_HEADER_BYTES as u64);
            scan.gaps.insert(0, Gap { first, last, from, to: found.at });
        }
        let acknowledged = self.acknowledged(&scan, first);
        self.tell_gaps(&scan, first, acknowledged, &places);
        let unreleased = self.judge_records(&scan, acknowledged, &places, least, log);
        self.tell_copies(unreleased, &copies);
        let last = scan.records.last().map(|record| record.number);
        let mut records_by_copies = vec![0; segment.copies.len() + 1];
        for record in scan.records.iter().filter(|record| self.counts(record)) {
            if let Some(count) = records_by_copies.get_mut(record.copies as usize) {
                *count += 1;
            }
        }
        let checked = SegmentCheck {
            number: segment.number.0,
            epoch: segment.epoch.0,
            open: segment.state == SegmentState::Open,
            first_record: first.0,
            last_record: last.map(|last| last.0),
            records: scan.records.len() as u64,
            unreleased,
            records_by_copies,
            copies,
            gaps: scan.gaps.iter().map(|gap| (gap.first.0, gap.last.0)).collect(),
        };
        let before = RecordNumber(first.0.saturating_sub(1));
        (checked, first, last.unwrap_or(before))
    }

    /// The copies for the report, and those of them that can be read.
    fn open_copies(
        &mut self,
        header: &SegmentHeader,
    ) -> (Vec<SegmentCopyCheck>, Vec<CopyPlace<'d, 'a>>) {
        let (mut copies, mut places) = (Vec::new(), Vec::new());
        for copy in &self.segment.copies {
            let member = self.view.metadata.disks().get(&copy.disk);
            let name = member
                .map_or_else(|| copy.disk.to_string(), |member| disk_name(self.view.disks, member));
            let current = is_current(self.view, self.segment, copy);
            let disk: Option<&'d Disk<'a>> = self.view.disk(copy.disk);
            let start = disk.and_then(|disk| extent_offset(disk, copy.extents.first));
            let mut check = SegmentCopyCheck {
                disk: name,
                disk_offset_bytes: start.unwrap_or(0),
                current,
                given: false,
                header_sound: false,
                records: 0,
            };
            if let (Some(disk), Some(start)) = (disk, start) {
                let bytes = disk.image.bytes_at(start, SEGMENT_HEADER_BYTES);
                let bytes = bytes.unwrap_or_default();
                let fault = UncheckedSegmentHeader(&bytes).check(header).err();
                check.given = true;
                check.header_sound = fault.is_none();
                if let Some(fault) = fault.filter(|_| current) {
                    let what = format!("log {}: {fault}", self.segment.number);
                    // An open segment may be named by the metadata before its header is written.
                    let ended = self.segment.end().is_some();
                    let (severity, means) = match self.view.released || ended {
                        true => (
                            Severity::Redundancy,
                            "records name the segment themselves, so \
                                                        nothing else is lost",
                        ),
                        false => (
                            Severity::Note,
                            "it was being written when the owner ended, or it \
                                                   is damaged; records name the segment themselves",
                        ),
                    };
                    let found = finding(severity, Kind::SegmentHeader, what, means);
                    let found = found.on(disk.name()).at(start, SEGMENT_HEADER_BYTES as u64);
                    self.findings.add(found.of(&self.volume.name));
                }
                places.push(CopyPlace { disk, start, current });
            }
            copies.push(check);
        }
        (copies, places)
    }

    /// The record behind the segment's header is the one that all of them say it begins with.
    fn tell_first(&mut self, scan: &Scan, first: RecordNumber) {
        let begins = scan.records.first().filter(|found| found.at == SEGMENT_HEADER_BYTES as u64);
        let begins = begins.map_or(first, |found| found.number);
        let differs = scan.records.iter().find(|found| found.after.next() != begins);
        let Some(differs) = differs else { return };
        let what = format!(
            "it begins with {begins}, and {} says with {}",
            differs.number,
            differs.after.next()
        );
        let means = "whether records are missing before them can't be told";
        self.findings.add(self.of_segment(Severity::Damage, Kind::LogHistories, what, means));
    }

    /// Nothing is written beyond the high-water mark.
    fn tell_beyond(&mut self, scan: &Scan) {
        let mark = self.segment.high_water_bytes(self.view.metadata.shape());
        let beyond = scan.records.iter().find(|found| found.at.saturating_add(found.bytes) > mark);
        let Some(beyond) = beyond else { return };
        let what = format!("{} is beyond its high-water mark of {mark} bytes", beyond.number);
        let means = "an opening reads no further: what of it isn't in place is lost then";
        self.findings.add(self.of_segment(Severity::Damage, Kind::LogRecord, what, means));
    }

    /// Whether a record counts: it isn't released.
    fn counts(&self, record: &Found) -> bool {
        record.number > self.volume.log.released
    }

    /// The last record that certainly was acknowledged.
    fn acknowledged(&self, scan: &Scan, first: RecordNumber) -> RecordNumber {
        if let SegmentState::Closed(end) = self.segment.state {
            return end;
        }
        let before = RecordNumber(first.0.saturating_sub(1));
        scan.records.iter().map(|record| record.durable).fold(before, RecordNumber::max)
    }

    fn of_segment(&self, severity: Severity, kind: Kind, what: String, means: &str) -> Finding {
        let what = format!("log {}: {what}", self.segment.number);
        finding(severity, kind, what, means).of(&self.volume.name)
    }

    /// Missing records: between others, and at the end of a segment that has a successor.
    fn tell_gaps(
        &mut self,
        scan: &Scan,
        first: RecordNumber,
        acknowledged: RecordNumber,
        places: &[CopyPlace<'d, 'a>],
    ) {
        let mut gaps = scan.gaps.clone();
        let next = scan.records.last().map_or(first, |record| record.number.next());
        if next <= acknowledged && !places.is_empty() {
            gaps.push(Gap { first: next, last: acknowledged, from: scan.end, to: scan.end });
        }
        let released = self.volume.log.released;
        for gap in gaps {
            let unreleased_behind =
                scan.records.iter().any(|record| record.number > gap.last && self.counts(record));
            let (severity, kind, means) = if gap.last <= released {
                let severity =
                    if unreleased_behind { Severity::Redundancy } else { Severity::Note };
                (severity, Kind::LogGap, "they are released, so nothing is lost")
            } else if gap.first > acknowledged {
                (Severity::Note, Kind::LogTail, "they were being written when the owner ended")
            } else {
                (Severity::Damage, Kind::LogGap, "they were acknowledged and no copy has them")
            };
            let what = format!("no copy has {} to {}", gap.first, gap.last);
            let found = self.of_segment(severity, kind, what, means);
            let bytes = gap.to.saturating_sub(gap.from).max(BLOCK_BYTES as u64);
            let place = places.iter().find(|place| place.current).or(places.first());
            let found = match place {
                Some(place) => {
                    found.on(place.disk.name()).at(place.start.saturating_add(gap.from), bytes)
                }
                None => found,
            };
            self.findings.add(found);
        }
    }

    /// Counts the copies of each unreleased record and tells which copies lack which.
    fn judge_records(
        &mut self,
        scan: &Scan,
        acknowledged: RecordNumber,
        places: &[CopyPlace<'d, 'a>],
        least: &mut LeastCopies,
        log: &mut LogCheck<'d, 'a>,
    ) -> u64 {
        let mut unreleased = 0;
        for record in &scan.records {
            log.intents.note(record);
            let tail = record.number > acknowledged;
            if self.counts(record) {
                unreleased += 1;
                if record.copies > 0 || !tail {
                    let count = if tail { &mut least.log_tail } else { &mut least.log_records };
                    *count = Some(count.unwrap_or(u32::MAX).min(record.copies));
                }
                // What no copy has as a whole and nobody was told of says nothing about its rows.
                if record.copies > 0 || !tail {
                    if let Some(rows) = record.rows {
                        log.named.add(rows);
                    }
                    if record.is_lost {
                        self.tell_lost(record, places);
                    }
                    let rows_max = self.view.metadata.shape().rows();
                    if self.view.data {
                        log.intents.add(record, rows_max);
                    }
                    if self.view.visit.is_some() {
                        log.rows.add(record, places, rows_max);
                    }
                }
            }
            let missing = places.iter().zip(&record.holders);
            let missing = missing.filter(|(place, holds)| place.current && !**holds);
            for (place, _) in missing {
                let (severity, kind, means) = if !self.counts(record) {
                    (Severity::Note, Kind::LogRecord, "it is in place already")
                } else if tail {
                    (
                        Severity::Note,
                        Kind::LogTail,
                        "it was being written when the owner ended, or \
                                                     it is damaged",
                    )
                } else if record.copies == 0 {
                    (
                        Severity::Damage,
                        Kind::LogRecord,
                        "rows of it that no copy has were \
                                                         acknowledged",
                    )
                } else {
                    (Severity::Redundancy, Kind::LogRecord, "other copies have it")
                };
                let what = format!("the copy lacks {}, or part of it", record.number);
                let found = self.of_segment(severity, kind, what, means);
                let at = place.start.saturating_add(record.at);
                self.findings.add(found.on(place.disk.name()).at(at, record.bytes));
            }
        }
        unreleased
    }

    /// Tells of a record that says that nobody has its rows.
    fn tell_lost(&mut self, record: &Found, places: &[CopyPlace<'d, 'a>]) {
        let count = record.rows.map_or(0, |rows| rows.count);
        let what = format!("{} says of {count} blocks that they are lost", record.number);
        let means = "they were damaged in every copy of the log, and reading them fails until they are \
                     written anew";
        let found = self.of_segment(Severity::Damage, Kind::LogRecord, what, means);
        let place = places.iter().zip(&record.holders).find(|(_, holds)| **holds);
        let found = match place {
            Some((place, _)) => {
                found.on(place.disk.name()).at(place.start.saturating_add(record.at), record.bytes)
            }
            None => found,
        };
        self.findings.add(found);
    }

    /// Tells of copies that aren't there, where there is anything that they should hold.
    fn tell_copies(&mut self, unreleased: u64, copies: &[SegmentCopyCheck]) {
        let wanted = usize::from(self.segment.wanted);
        let there = copies.iter().filter(|copy| copy.given && copy.current).count();
        let names = |given: bool| {
            let copies = copies.iter().filter(|copy| copy.current && copy.given == given);
            copies.map(|copy| copy.disk.as_str()).collect::<Vec<_>>().join(", ")
        };
        let done = !self.segment.is_needed(self.volume.log.released);
        if there == 0 && !done {
            let what = format!("no current copy is there (they are on {})", names(false));
            let means = "what was acknowledged and isn't in place can't be read from these disks";
            let found = self.of_segment(Severity::Damage, Kind::SegmentCopy, what, means);
            self.findings.add(found);
        } else if there < wanted && unreleased > 0 {
            let what = format!("{there} of {wanted} copies are there (on {})", names(true));
            let means = "unreleased records have fewer copies than the layout promises";
            let found = self.of_segment(Severity::Redundancy, Kind::SegmentCopy, what, means);
            self.findings.add(found);
        }
    }
}
