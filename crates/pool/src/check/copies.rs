//! The copies of the metadata together: which is newest, which lack what, and what the newest says.

use std::rc::Rc;

use seal::{Grant, PublicKey};

use super::area::{Copy, Entry, place_bytes, read_copy};
use super::disks::Disk;
use super::findings::{Findings, finding};
use super::report::{CopyState, Finding, Kind, MetadataCheck, Severity};
use super::space::tell_refused;
use crate::format::{Configuration, PoolId, RecordNumber, Signers};
use crate::metadata::{Inconsistent, MetaRecord, Metadata, Restoring, check_entry, decode_records};

/// The metadata and how many copies have it.
pub(super) struct Chosen {
    pub(super) metadata: Option<Metadata>,
    /// The record that the newest copy ends at.
    pub(super) newest: RecordNumber,
    /// Current copies that have the newest record.
    pub(super) holders: u32,
    pub(super) copies: Vec<MetadataCheck>,
}

/// Whose metadata counts, and whose word on what was committed.
struct Authors {
    signers: Signers,
    /// Under which the newest vote is signed.
    grant: Option<Rc<Grant>>,
}

impl Authors {
    /// By what the newest vote says, as an engine goes by it: where no vote is signed, everybody's counts.
    fn of(disks: &[Disk<'_>], config: Option<&Configuration>) -> Authors {
        let has_newest = |disk: &&Disk<'_>| config.is_some() && disk.vote.as_ref() == config;
        let grant = disks
            .iter()
            .filter(has_newest)
            .find_map(|disk| Some(Rc::clone(&disk.signed.as_ref()?.grant)));
        let named = config.filter(|_| disks.iter().any(|disk| disk.signed.is_some()));
        Authors { signers: named.map(|named| named.metadata_by.clone()).unwrap_or_default(), grant }
    }

    /// Also those who are let in now: they may have had the pool since the votes in sight were written.
    fn is_witness(&self, by: Option<PublicKey>) -> bool {
        let is_let_in = |grant: &Rc<Grant>| by.is_some_and(|by| grant.names(&by));
        self.signers.admit(by) || self.grant.as_ref().is_some_and(is_let_in)
    }
}

/// Reads all copies, compares them and loads the newest.
pub(super) fn read_metadata(
    pool: PoolId,
    disks: &[Disk<'_>],
    config: Option<&Configuration>,
    findings: &mut Findings,
) -> Chosen {
    let released = config.is_some_and(|config| config.released);
    let authors = Authors::of(disks, config);
    let mut copies: Vec<(&Disk<'_>, bool, Copy)> = Vec::new();
    let mut checks = Vec::new();
    // Without a vote, whoever has a copy may have the one that counts.
    let voters = match config {
        Some(config) => config.voters.all(),
        None => disks.iter().filter(|disk| disk.label.area.is_some()).map(Disk::id).collect(),
    };
    for voter in &voters {
        let current = config.is_some_and(|config| config.copies.contains(voter));
        let disk = disks.iter().find(|disk| disk.id() == *voter);
        let read = disk.map(|disk| (disk, read_copy(pool, disk, released, findings)));
        let (name, state, copy) = match read {
            None => (voter.to_string(), CopyState::Missing, None),
            Some((disk, None)) => (disk.name().to_owned(), CopyState::Lost, None),
            Some((disk, Some(copy))) if !authors.signers.admit(copy.by) => {
                let by = copy.by.map_or("nobody".to_owned(), |by| by.to_string());
                let what = format!(
                    "its copy of the metadata is signed by {by}, whom the votes don't name"
                );
                let means =
                    "an engine doesn't use it, and writes it anew: somebody may have made it up";
                let found = finding(Severity::Redundancy, Kind::MetadataLost, what, means);
                findings.add(found.on(disk.name()));
                (disk.name().to_owned(), CopyState::Lost, None)
            }
            Some((disk, Some(copy))) => {
                (disk.name().to_owned(), CopyState::Older, Some((disk, copy)))
            }
        };
        checks.push(MetadataCheck {
            disk: name,
            current,
            state,
            epoch: copy.as_ref().map(|(_, copy)| copy.stamp.epoch.0),
            sequence: copy.as_ref().map(|(_, copy)| copy.stamp.sequence),
            entries: copy.as_ref().map_or(0, |(_, copy)| copy.entries.len() as u64),
            record: copy.as_ref().map(|(_, copy)| copy.number().0),
        });
        if let Some((disk, copy)) = copy {
            copies.push((disk, current, copy));
        }
    }
    let best = copies.iter().filter(|(_, current, _)| *current).max_by_key(|(.., c)| c.rank());
    let fallback = copies.iter().max_by_key(|(.., copy)| copy.rank());
    let Some((best_disk, _, best)) = best.or(fallback) else {
        let (what, means) =
            ("no copy of the metadata can be used", "maps, logs and checksums are not checked");
        findings.add(finding(Severity::Damage, Kind::MetadataLost, what, means));
        return Chosen { metadata: None, newest: RecordNumber(0), holders: 0, copies: checks };
    };
    if !copies.iter().any(|(_, current, _)| *current) {
        let what = "no current copy of the metadata is among the disks given";
        let means = "what is checked below is by a copy that may be out of date";
        findings.add(finding(Severity::Damage, Kind::MetadataLost, what, means));
    }
    tell_of_witnesses(disks, (config, &authors), best, findings);
    let mut holders = 0;
    for (disk, current, copy) in &copies {
        if !current && config.is_some() {
            // Nobody expects it to go on where the current ones do.
            let what =
                format!("its copy of the metadata isn't current; it ends at {}", copy.number());
            let means = "an engine that has the disk writes the metadata to it anew";
            let found = finding(Severity::Redundancy, Kind::MetadataOlder, what, means);
            findings.add(found.on(disk.name()));
            continue;
        }
        if std::ptr::eq(copy, best) || compare(disk, copy, best_disk, best, released, findings) {
            let check = checks.iter_mut().find(|check| check.disk == disk.name());
            if let Some(check) = check {
                check.state = CopyState::Newest;
            }
            holders += u32::from(*current);
        }
        tell_of_itself(disk, copy, best, released, findings);
    }
    let metadata = load(pool, best_disk, best, findings);
    for (disk, current, _) in
        copies.iter().filter(|(disk, ..)| is_elsewhere(metadata.as_ref(), disk))
    {
        let what = "its label and the metadata name different places for its metadata";
        let means = "it was rolled back, or the label is wrong; an engine writes both anew";
        let found = finding(Severity::Redundancy, Kind::LabelDiffers, what, means);
        findings.add(found.on(disk.name()));
        let check = checks.iter_mut().find(|check| check.disk == disk.name());
        if let Some(check) = check.filter(|check| check.state == CopyState::Newest) {
            check.state = CopyState::Older;
            holders -= u32::from(*current);
        }
    }
    Chosen { metadata, newest: best.number(), holders, copies: checks }
}

/// Whether a disk's copy was read where the metadata has none for it.
fn is_elsewhere(metadata: Option<&Metadata>, disk: &Disk<'_>) -> bool {
    let member = metadata.and_then(|metadata| metadata.disk_by_id(disk.id()));
    member.is_some_and(|member| !member.agrees_on_area(disk.label.area))
}

/// Whether something knows of a record that was committed and that the newest copy hasn't. A log whose end
/// was lost looks as if it had ended there.
fn tell_of_witnesses(
    disks: &[Disk<'_>],
    (config, authors): (Option<&Configuration>, &Authors),
    best: &Copy,
    findings: &mut Findings,
) {
    let applied = disks.iter().flat_map(|disk| {
        let both = [disk.applied, disk.applied_before].into_iter().flatten();
        let counts = both.filter(|applied| authors.is_witness(applied.by));
        counts.map(|applied| (applied.record, format!("the applied block of {}", disk.name())))
    });
    let voted = config.map(|config| (config.record, "a vote".to_owned()));
    let newest = applied.chain(voted).max_by_key(|(record, _)| *record);
    if let Some((record, who)) = newest.filter(|(record, _)| *record > best.number()) {
        let what = format!("the metadata ends at {}, {who} knows of {record}", best.number());
        let means = "committed metadata is lost, or on a disk that wasn't given; an engine doesn't open \
                     the pool unless it is told to do without";
        findings.add(finding(Severity::Damage, Kind::MetadataLost, what, means));
    }
}

/// What is wrong with a copy's log whatever the others hold.
fn tell_of_itself(
    disk: &Disk<'_>,
    copy: &Copy,
    best: &Copy,
    released: bool,
    findings: &mut Findings,
) {
    if let Some(behind) = copy.gap {
        // Another copy that goes on has what this one lost.
        let lost = best.number() <= copy.number() || best.rank() <= copy.rank();
        let severity = if lost { Severity::Damage } else { Severity::Redundancy };
        let what = format!(
            "the entry after {} of its metadata log is damaged; {} lies behind it",
            copy.number(),
            behind.number
        );
        let means = match lost {
            true => "committed metadata is lost: an engine takes the gap for the log's end",
            false => "another copy has what this one lost",
        };
        let found = finding(severity, Kind::MetadataGap, what, means);
        findings.add(found.on(disk.name()).at(copy.end, behind.at.saturating_sub(copy.end)));
    } else if copy.torn && best.number() <= copy.number() {
        let what = format!("the entry after {} of its metadata log is not whole", copy.number());
        let (severity, means) = match released {
            true => (Severity::Damage, "the owner ended in order, so it was whole once"),
            false => {
                (Severity::Note, "it was being written when the owner ended, or it is damaged")
            }
        };
        let found = finding(severity, Kind::LogTail, what, means);
        findings.add(found.on(disk.name()).at(copy.end, block::BLOCK_BYTES as u64));
    }
}

/// Compares a copy with the newest; tells whether it has the newest record.
fn compare(
    disk: &Disk<'_>,
    copy: &Copy,
    best_disk: &Disk<'_>,
    best: &Copy,
    released: bool,
    findings: &mut Findings,
) -> bool {
    let histories = |number: RecordNumber| {
        let what = format!("its metadata and that of {} differ in {number}", best_disk.name());
        let means = "two histories of the metadata; neither can be believed";
        let found = finding(Severity::Damage, Kind::MetadataHistories, what, means);
        found.on(disk.name()).at(copy.checkpoint, copy.end.saturating_sub(copy.checkpoint))
    };
    let last = copy.number();
    let same_log =
        (copy.stamp.epoch, copy.stamp.sequence) == (best.stamp.epoch, best.stamp.sequence);
    if same_log {
        if (copy.stamp.number, copy.crc) != (best.stamp.number, best.crc) {
            findings.add(histories(best.stamp.number));
            return false;
        }
        let differ = copy.entries.iter().zip(&best.entries).find(|(a, b)| a.crc != b.crc);
        if let Some((entry, _)) = differ {
            findings.add(histories(entry.number));
            return false;
        }
    } else if copy.stamp.epoch == best.stamp.epoch && last > best.stamp.number {
        findings.add(histories(best.stamp.number.next()));
        return false;
    }
    if last >= best.number() {
        if same_log {
            return true;
        }
        let what = format!("it lacks the newest checkpoint, of sequence {}", best.stamp.sequence);
        let (severity, means) = under_way(released);
        let found = finding(severity, Kind::MetadataOlder, what, means);
        findings.add(found.on(disk.name()).at(copy.checkpoint, block::BLOCK_BYTES as u64));
        return true;
    }
    let behind = best.number().0 - last.0;
    let what = format!("its metadata ends at {last}, the newest is {}", best.number());
    // A checkpoint is written once everything before it is on all copies, and one entry at a time. It
    // may contain a transaction that no entry has.
    let checkpoint = best.stamp.number;
    let plausible = (same_log && behind == 1)
        || (!same_log && last.next() >= checkpoint && best.entries.is_empty());
    let (severity, means) = match plausible {
        true => under_way(released),
        false => (Severity::Redundancy, "it lost them, or it was away and still counts as current"),
    };
    let found = finding(severity, Kind::MetadataOlder, what, means);
    findings.add(found.on(disk.name()).at(copy.end, block::BLOCK_BYTES as u64));
    false
}

fn under_way(released: bool) -> (Severity, &'static str) {
    match released {
        true => (Severity::Redundancy, "the owner ended in order, so it had the newest once"),
        false => (Severity::Note, "it was being written when the owner ended, or it is damaged"),
    }
}

/// Decodes a copy. A record that contradicts what precedes it is told and left out, so that the rest
/// can be checked too.
fn load(pool: PoolId, disk: &Disk<'_>, copy: &Copy, findings: &mut Findings) -> Option<Metadata> {
    let malformed = |number: RecordNumber, at: u64, bytes: usize| {
        let what = format!("the metadata at {number} is not what an encoder yields");
        let means = "its checksum is right, so it was written like that: it is no rot";
        let found = finding(Severity::Damage, Kind::MetadataContradiction, what, means);
        found.on(disk.name()).at(at, bytes as u64)
    };
    let number = copy.stamp.number;
    let table = copy.table.as_ref();
    let begun = table.and_then(|table| Restoring::new(table.identity.clone()).ok());
    let (Some(table), Some(mut restoring)) = (table, begun) else {
        findings.add(malformed(number, copy.checkpoint, block::BLOCK_BYTES));
        return None;
    };
    let (start, layout) = (copy.area.0, &copy.area.1);
    for section in &table.sections {
        let at = section.place.first().map_or(start, |run| start + layout.run_offset(run));
        let bytes = place_bytes(disk, (start, layout), &section.place, section.sum());
        let len = section.bytes as usize;
        let Some(records) = bytes.and_then(|bytes| decode_records(&bytes).ok()) else {
            findings.add(malformed(number, at, len));
            return None;
        };
        for record in &records {
            if let Err(fault) = restoring.take(record) {
                let place = (number, at, len);
                tell_refused(disk.name(), restoring.metadata(), record, fault, place, findings);
            }
        }
    }
    let (mut metadata, refused) = restoring.finish(table.counters);
    for fault in refused {
        findings.add(does_not_fit(disk.name(), copy, fault));
    }
    let apply =
        |metadata: &mut Metadata, records: &[MetaRecord], place, findings: &mut Findings| {
            for record in records {
                if let Err(fault) = metadata.apply(record) {
                    tell_refused(disk.name(), metadata, record, fault, place, findings);
                }
            }
        };
    for Entry { number, at, bytes, .. } in copy.entries.iter().copied() {
        let whole = disk.image.bytes_at(at, bytes).ok();
        let entry = whole.as_deref().and_then(|whole| check_entry(whole, pool));
        match entry.and_then(|entry| decode_records(entry.payload).ok()) {
            Some(records) => apply(&mut metadata, &records, (number, at, bytes), findings),
            None => findings.add(malformed(number, at, bytes)),
        }
    }
    Some(metadata)
}

/// What of a checkpoint doesn't fit the rest of it.
fn does_not_fit(name: &str, copy: &Copy, fault: Inconsistent) -> Finding {
    let what = format!("the metadata at {} contradicts itself: {fault}", copy.stamp.number);
    let means = "an engine refuses this metadata";
    let found = finding(Severity::Damage, Kind::MetadataContradiction, what, means);
    found.on(name).at(copy.checkpoint, block::BLOCK_BYTES as u64)
}
