//! Checking a pool from its disks alone: a second reader of everything that the engine writes.
//!
//! An engine that misreads its own structures the same way as it miswrote them looks healthy to
//! itself. So this shares with it how bytes are encoded and decoded (`format`, the metadata's records)
//! and nothing else: which copy is newest, which records count, who owns which extent and how many
//! copies of something there are is decided here once more. It changes nothing, needs no supervisor,
//! and takes whatever disks there are: `etherpool pool check` for people, and an oracle for simulations.
//!
//! Nothing on a disk is trusted: every read is bounded, groups are gone through one at a time, and
//! findings are counted beyond those that are listed, so neither a large pool nor a hostile image takes
//! more memory than the metadata and a few MiB.

mod area;
mod checksums;
mod contents;
mod copies;
mod data;
mod disks;
mod dump;
mod findings;
mod intents;
mod log;
mod log_scan;
mod report;
mod source;
mod space;
mod view;
mod votes;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::disks::{Disk, part_twins, read_disk, tell_slots};
use self::findings::{Findings, finding};
use self::view::View;
use self::votes::judge_votes;
use crate::format::{Configuration, DiskNumber, PoolId};
use crate::metadata::{Disk as MemberDisk, Metadata, Volume};

pub use contents::{BlockCopies, Visit};
pub use dump::{
    DumpItem, DumpOptions, Fields, ReadReservation, Reservation, Structure, StructureKind,
    StructureState, Told, Value, dump,
};
pub use report::{
    CheckReport, CopyState, Counts, DiskCheck, Finding, Kind, LeastCopies, MetadataCheck,
    PoolCheck, SegmentCheck, SegmentCopyCheck, Severity, VolumeCheck, VotesCheck,
};
pub use source::{DiskImage, ReadBytes, Unreadable};

/// What is to be checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Read every written row of every copy, too.
    pub data: bool,
    /// Only the pool with this name or id.
    pub pool: Option<String>,
}

/// Checks the pools that these disks belong to.
///
/// The disks of a pool should be all there; what is missing is a finding. They may be in use, but then
/// what is read at different moments may not go together.
pub fn check(images: &[DiskImage<'_>], options: &CheckOptions) -> CheckReport {
    check_all(images, options, None)
}

/// The same with all data, and tells of the newest contents of each block that was written and how many
/// copies they have: for who knows what they should be.
pub fn check_contents(
    images: &[DiskImage<'_>],
    options: &CheckOptions,
    visit: Visit<'_>,
) -> CheckReport {
    check_all(images, &CheckOptions { data: true, ..options.clone() }, Some(visit))
}

fn check_all(
    images: &[DiskImage<'_>],
    options: &CheckOptions,
    visit: Option<Visit<'_>>,
) -> CheckReport {
    let mut report = CheckReport::default();
    let mut strangers = Findings::default();
    let mut pools: BTreeMap<PoolId, (Vec<Disk<'_>>, Findings)> = BTreeMap::new();
    for image in images {
        let mut findings = Findings::default();
        match read_disk(image, &mut findings) {
            Some((pool, disk)) => {
                let (disks, all) = pools.entry(pool).or_default();
                all.take(findings);
                disks.push(disk);
            }
            None => strangers.take(findings),
        }
    }
    for (id, (disks, findings)) in pools {
        if is_wanted(options.pool.as_deref(), id, &disks) {
            report.pools.push(check_pool(id, disks, findings, options.data, visit));
        }
    }
    report.findings = strangers.into_list().0;
    report
}

/// Whether these are the disks of the pool that was asked for.
fn is_wanted(pool: Option<&str>, id: PoolId, disks: &[Disk<'_>]) -> bool {
    pool.is_none_or(|wanted| {
        wanted == id.to_string() || disks.iter().any(|disk| disk.label.pool_name == wanted)
    })
}

fn check_pool(
    id: PoolId,
    disks: Vec<Disk<'_>>,
    mut findings: Findings,
    data: bool,
    visit: Option<Visit<'_>>,
) -> PoolCheck {
    let mut disks = part_twins(disks, &mut findings);
    let (config, votes) = judge_votes(&mut disks, &mut findings);
    let released = config.as_ref().is_some_and(|config| config.released);
    let chosen = copies::read_metadata(id, &disks, config.as_ref(), &mut findings);
    // One that was removed may be in the middle of being wiped.
    let was_removed = |disk: &&Disk<'_>| {
        let metadata = chosen.metadata.as_ref();
        metadata.is_some_and(|metadata| was_removed(metadata, disk))
    };
    for disk in disks.iter().filter(|disk| !was_removed(disk)) {
        tell_slots(disk, config.as_ref(), &mut findings);
    }
    let label_name = disks.first().map(|disk| disk.label.pool_name.clone());
    let mut pool = PoolCheck {
        name: label_name.unwrap_or_default(),
        id: id.to_string(),
        owner: config.as_ref().map(|config| config.owner_name.clone()),
        released,
        data_read: data,
        disks: Vec::new(),
        votes,
        metadata: chosen.copies,
        volumes: Vec::new(),
        counts: Counts::default(),
        findings: Vec::new(),
    };
    match &chosen.metadata {
        Some(metadata) => {
            pool.name.clone_from(&metadata.pool().name);
            let by_number = match_members(metadata, &mut disks, &mut findings);
            let view = View {
                disks: &disks,
                by_number,
                config: config.as_ref(),
                metadata,
                newest: chosen.newest,
                released,
                data,
                visit,
            };
            pool.disks = check_members(&view, &mut findings);
            space::check_domains(metadata, &mut findings);
            for volume in metadata.volumes().values() {
                let check = check_volume(&view, volume, pool.votes, chosen.holders, &mut findings);
                pool.volumes.push(check);
            }
        }
        None => pool.disks = disks.iter().map(|disk| unknown_member(disk, &config)).collect(),
    }
    (pool.findings, pool.counts) = findings.into_list();
    pool
}

/// Whether a disk was the pool's once: numbers aren't given again.
fn was_removed(metadata: &Metadata, disk: &Disk<'_>) -> bool {
    metadata.disk_by_id(disk.id()).is_none() && disk.label.number < metadata.counters().disk
}

/// Finds the members among the disks, and which of them can be trusted.
fn match_members(
    metadata: &Metadata,
    disks: &mut [Disk<'_>],
    findings: &mut Findings,
) -> BTreeMap<DiskNumber, usize> {
    let mut by_number = BTreeMap::new();
    let extent_bytes = metadata.shape().extent_bytes();
    for (index, disk) in disks.iter_mut().enumerate() {
        let Some(member) = metadata.disk_by_id(disk.id()) else {
            let what = "its label names the pool, and the metadata doesn't know it";
            let (severity, means) = match was_removed(metadata, disk) {
                true => (Severity::Note, "it was removed while it was away; it may be added again"),
                false => (Severity::Redundancy, "it was being added when the owner ended"),
            };
            let found = finding(severity, Kind::LabelDiffers, what, means);
            findings.add(found.on(disk.name()));
            disk.trusted = false;
            continue;
        };
        by_number.insert(member.number, index);
        let label = &disk.label;
        let geometry = label.geometry;
        let same = label.number == member.number
            && geometry.labelled_bytes() == member.bytes
            && geometry.extent_bytes() == extent_bytes
            && label.failure_domain == metadata.pool().failure_domain;
        if !same {
            let what = "its label and the metadata differ in its number, size or layout";
            let means = "its extents may not be where they are looked for; nothing on it counts";
            let found = finding(Severity::Damage, Kind::LabelDiffers, what, means);
            findings.add(found.on(disk.name()));
            disk.trusted = false;
        }
        check_applied(member, disk, findings);
    }
    by_number
}

fn check_applied(member: &MemberDisk, disk: &mut Disk<'_>, findings: &mut Findings) {
    let has = disk.applied.map(|applied| applied.release).unwrap_or_default();
    if has >= member.expected_release {
        return;
    }
    let what = format!("it has applied {has}, and should have {}", member.expected_release);
    let means = "an older copy of it was put back, it lost writes, or its newest applied block is \
                 damaged; nothing on it counts";
    let [place, _] = crate::format::DiskGeometry::applied_slots();
    let bytes = 2 * crate::format::APPLIED_BYTES as u64;
    let found = finding(Severity::Redundancy, Kind::RolledBack, what, means);
    findings.add(found.on(disk.name()).at(place.byte_offset(), bytes));
    disk.trusted = false;
}

/// The pool's disks by its metadata: which are there, which are out, and how their space is used.
fn check_members(view: &View<'_, '_>, findings: &mut Findings) -> Vec<DiskCheck> {
    let uses = space::check_space(view.metadata, view.disks, findings);
    let mut dirty: BTreeMap<DiskNumber, u64> = BTreeMap::new();
    for ((_, disk), mask) in view.metadata.dirty_regions() {
        *dirty.entry(*disk).or_default() += u64::from(mask.count_ones());
    }
    let mut members = Vec::new();
    for (number, member) in view.metadata.disks() {
        let name = space::disk_name(view.disks, member);
        let given = view.by_number.get(number).and_then(|index| view.disks.get(*index));
        let out = view.config.is_some_and(|config| config.is_out(*number));
        if given.is_none() {
            let what = "the disk was not given";
            let means = "copies that lie on it are not counted";
            findings.add(finding(Severity::Redundancy, Kind::DiskMissing, what, means).on(&name));
        }
        if out {
            let what = "the pool goes on without it";
            let means = "it has to be taken in and brought up to date by an engine";
            findings.add(finding(Severity::Redundancy, Kind::DiskOut, what, means).on(&name));
        }
        let counted = uses.get(number).copied().unwrap_or_default();
        members.push(DiskCheck {
            name: given.map(|disk| disk.name().to_owned()),
            number: Some(number.0),
            id: member.id.to_string(),
            node: member.node_name.clone(),
            out,
            distrusted: given.is_some_and(|disk| !disk.trusted),
            owned_extents: counted.owned,
            free_extents: counted.free,
            pending_extents: counted.pending,
            dirty_regions: dirty.get(number).copied().unwrap_or(0),
        });
    }
    members
}

/// A disk of which only the label is known.
fn unknown_member(disk: &Disk<'_>, config: &Option<Configuration>) -> DiskCheck {
    let out = config.as_ref().is_some_and(|config| config.is_out(disk.label.number));
    DiskCheck {
        name: Some(disk.name().to_owned()),
        number: None,
        id: disk.id().to_string(),
        node: disk.label.node_name.clone(),
        out,
        distrusted: false,
        owned_extents: 0,
        free_extents: 0,
        pending_extents: 0,
        dirty_regions: 0,
    }
}

fn check_volume(
    view: &View<'_, '_>,
    volume: &Volume,
    votes: VotesCheck,
    metadata_copies: u32,
    findings: &mut Findings,
) -> VolumeCheck {
    let mut least =
        LeastCopies { metadata: metadata_copies, votes: votes.newest, ..LeastCopies::default() };
    let mut log = log::check_log(view, volume, &mut least, findings);
    let mut check = VolumeCheck {
        name: volume.name.clone(),
        id: volume.id.0,
        layout: volume.layout.to_string(),
        converting_to: volume.conversion.map(|conversion| conversion.to.to_string()),
        size_bytes: volume.bytes,
        copies: u32::from(volume.promised_copies()),
        least,
        released: volume.log.released.0,
        segments: std::mem::take(&mut log.segments),
        groups: 0,
        initialised_groups: 0,
        checksum_blocks: 0,
        rows_written: 0,
        rows_in_log: 0,
        row_copies_read: 0,
        row_copies_bad: 0,
    };
    checksums::check_groups(view, volume, (&log.named, &mut log.intents), &mut check, findings);
    let mut lacking = intents::Lacking::default();
    for (row, offset, arrived) in log.intents.look(view, volume) {
        let is_newest = log.rows.newest(row).is_none_or(|newest| newest < arrived.record);
        if !is_newest || !arrived.counts() {
            continue;
        }
        lacking.note(&arrived, offset, &mut check);
        log.rows.forget(row);
        if let Some(visit) = view.visit {
            intents::show((view, volume), offset, &arrived, visit);
        }
    }
    lacking.tell(&check, findings);
    if let Some(visit) = view.visit {
        log.rows.tell(view, volume, visit);
    }
    check
}
