//! Who owns which extent: each is owned once, free, or pending, and lies on its disk; copies of one
//! thing lie in different failure domains. Counted anew from the maps; what the metadata's own sets of
//! free extents say is compared with that.

use std::collections::BTreeMap;

use block::BLOCK_BYTES;

use super::disks::Disk;
use super::findings::{Findings, finding};
use super::report::{Kind, Severity};
use crate::format::{DiskNumber, ExtentNumber, MIB, RecordNumber, Row};
use crate::layout::RowAddress;
use crate::metadata::{
    Disk as MemberDisk, ExtentRange, Inconsistent, MetaRecord, Metadata, RunKey, Volume,
};

/// Extents of one disk that somebody has.
#[derive(Clone, Debug)]
struct Claim {
    first: u64,
    end: u64,
    owner: Owner,
}

/// Who has them. Names are made only for findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Run(u32, RunKey),
    Segment(u32, u64),
    Metadata,
    Free,
    Pending,
}

/// Extents of a disk by what they are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    pub(super) owned: u32,
    pub(super) free: u32,
    pub(super) pending: u32,
}

/// The volume's offset at which a group begins.
pub(super) fn volume_offset(
    metadata: &Metadata,
    volume: &Volume,
    set: u64,
    lane: u16,
    row: Row,
) -> Option<u64> {
    let block = volume.stripes(metadata.shape())?.block_of(RowAddress { set, lane, row })?;
    block.0.checked_mul(BLOCK_BYTES as u64)
}

/// Counts every disk's extents.
pub(super) fn check_space(
    metadata: &Metadata,
    disks: &[Disk<'_>],
    findings: &mut Findings,
) -> BTreeMap<DiskNumber, Use> {
    let mut claims = claims_of(metadata);
    let mut uses = BTreeMap::new();
    for (number, member) in metadata.disks() {
        let claimed = claims.remove(number).unwrap_or_default();
        let name = disk_name(disks, member);
        uses.insert(*number, check_disk(metadata, member, &name, claimed, findings));
    }
    for number in claims.keys() {
        let what = format!("a map names {number}, which the pool doesn't have");
        let means = "blocks that lie there are nowhere";
        findings.add(finding(Severity::Damage, Kind::ExtentOutside, what, means));
    }
    uses
}

/// As it was given, else by the name of its machine.
pub(super) fn disk_name(disks: &[Disk<'_>], member: &MemberDisk) -> String {
    match disks.iter().find(|disk| disk.id() == member.id) {
        Some(disk) => disk.name().to_owned(),
        None => format!("disk {} of {} ({})", member.number.0, member.node_name, member.id),
    }
}

fn claims_of(metadata: &Metadata) -> BTreeMap<DiskNumber, Vec<Claim>> {
    let mut claims: BTreeMap<DiskNumber, Vec<Claim>> = BTreeMap::new();
    let mut add = |disk: DiskNumber, range: ExtentRange, owner: Owner| {
        let first = u64::from(range.first.0);
        let end = first + u64::from(range.count);
        claims.entry(disk).or_default().push(Claim { first, end, owner });
    };
    for volume in metadata.volumes().values() {
        for run in volume.runs.values() {
            for member in run.holders() {
                let owner = Owner::Run(volume.id.0, run.key);
                add(member.disk, ExtentRange::new(member.first, run.count), owner);
            }
        }
        for segment in volume.log.segments.values() {
            for copy in &segment.copies {
                add(copy.disk, copy.extents, Owner::Segment(volume.id.0, segment.number.0));
            }
        }
    }
    for disk in metadata.disks().values() {
        disk.areas().for_each(|range| add(disk.number, range, Owner::Metadata));
        disk.free.ranges().for_each(|range| add(disk.number, range, Owner::Free));
        disk.pending.ranges().for_each(|range| add(disk.number, range, Owner::Pending));
    }
    claims
}

fn check_disk(
    metadata: &Metadata,
    member: &MemberDisk,
    name: &str,
    mut claims: Vec<Claim>,
    findings: &mut Findings,
) -> Use {
    claims.sort_by_key(|claim| (claim.first, claim.end));
    let mut counted = Use::default();
    let mut reached = 0;
    let mut last: Option<Claim> = None;
    let extent_bytes = metadata.shape().extent_bytes();
    let place = |first: u64, end: u64| {
        let at = MIB.saturating_add(first.saturating_mul(extent_bytes));
        (at, end.saturating_sub(first).saturating_mul(extent_bytes))
    };
    for claim in claims {
        let extents = (claim.end - claim.first) as u32;
        match claim.owner {
            Owner::Free => counted.free += extents,
            Owner::Pending => counted.pending += extents,
            Owner::Run(..) | Owner::Segment(..) | Owner::Metadata => {
                counted.owned = counted.owned.saturating_add(extents)
            }
        }
        if claim.end > u64::from(member.extents) {
            let what = format!(
                "extents {} to {} of {} belong to {}",
                claim.first,
                claim.end - 1,
                member.extents,
                owner_name(metadata, claim.owner)
            );
            let means = "they lie beyond the end of the disk";
            findings.add(finding(Severity::Damage, Kind::ExtentOutside, what, means).on(name));
        }
        if claim.first > reached {
            let (at, bytes) = place(reached, claim.first);
            findings.add(nobodys(reached, claim.first).on(name).at(at, bytes));
        }
        if let Some(last) = last.as_ref().filter(|last| claim.first < last.end) {
            let end = claim.end.min(last.end);
            let (at, bytes) = place(claim.first, end);
            let owners = [owner_name(metadata, last.owner), owner_name(metadata, claim.owner)];
            findings.add(twice(claim.first, end, &owners).on(name).at(at, bytes));
        }
        if claim.end > reached {
            reached = claim.end;
            last = Some(claim);
        }
    }
    if reached < u64::from(member.extents) {
        let (at, bytes) = place(reached, u64::from(member.extents));
        findings.add(nobodys(reached, u64::from(member.extents)).on(name).at(at, bytes));
    }
    counted
}

fn nobodys(first: u64, end: u64) -> super::report::Finding {
    let what = format!("extents {first} to {} have no owner and are not free", end - 1);
    finding(Severity::Damage, Kind::ExtentLost, what, "their space is never used again")
}

fn twice(first: u64, end: u64, owners: &[String; 2]) -> super::report::Finding {
    let what = format!(
        "extents {first} to {} belong to {} and to {}",
        end.saturating_sub(1),
        owners[0],
        owners[1]
    );
    finding(Severity::Damage, Kind::ExtentTwice, what, "each overwrites what the other keeps there")
}

fn owner_name(metadata: &Metadata, owner: Owner) -> String {
    let volume = |id: u32| {
        let volume = metadata.volumes().get(&crate::format::VolumeId(id));
        volume.map_or_else(|| format!("volume {id}"), |volume| format!("volume {}", volume.name))
    };
    match owner {
        Owner::Run(id, key) => {
            format!("{} (lane {}, from set {})", volume(id), key.lane, key.first_set)
        }
        Owner::Segment(id, number) => format!("log segment {number} of {}", volume(id)),
        Owner::Metadata => "the metadata".into(),
        Owner::Free => "the free space".into(),
        Owner::Pending => "what is about to be free".into(),
    }
}

/// Tells of a record that doesn't fit the metadata before it: with the extents that it would take, when
/// that is why, else as what it is. `place` is its transaction: number, offset, bytes.
pub(super) fn tell_refused(
    copy: &str,
    metadata: &Metadata,
    record: &MetaRecord,
    fault: Inconsistent,
    place: (RecordNumber, u64, usize),
    findings: &mut Findings,
) {
    let (number, at, bytes) = place;
    let (wanted, by): (Vec<(DiskNumber, ExtentRange)>, String) = match record {
        MetaRecord::RunAdded { volume, run } => {
            let members = run.members.iter();
            let wanted =
                members.map(|member| (member.disk, ExtentRange::new(member.first, run.count)));
            (wanted.collect(), owner_name(metadata, Owner::Run(volume.0, run.key)))
        }
        MetaRecord::SegmentOpened { volume, segment } => {
            let wanted = segment.copies.iter().map(|copy| (copy.disk, copy.extents));
            let owner = Owner::Segment(volume.0, segment.number.0);
            (wanted.collect(), owner_name(metadata, owner))
        }
        MetaRecord::AreaBegun { disk, extents } => {
            (vec![(*disk, *extents)], owner_name(metadata, Owner::Metadata))
        }
        MetaRecord::DiskRestored { number, pending, .. } => {
            let wanted = pending.iter().map(|range| (*number, *range)).collect();
            (wanted, owner_name(metadata, Owner::Pending))
        }
        _ => (Vec::new(), String::new()),
    };
    let mut told = false;
    // Looking for the other owner takes time; of a wreck the first findings are enough.
    let known = [Kind::ExtentTwice, Kind::ExtentOutside, Kind::MetadataContradiction];
    let enough = known.iter().any(|kind| findings.is_full(*kind, Severity::Damage));
    let claims = match wanted.is_empty() || enough {
        true => BTreeMap::new(),
        false => claims_of(metadata),
    };
    for (disk, range) in wanted {
        let first = u64::from(range.first.0);
        let end = first + u64::from(range.count);
        let extents = metadata.disks().get(&disk).map_or(0, |member| u64::from(member.extents));
        if end > extents {
            let what = format!("extents {first} to {} of {disk} belong to {by}", end.max(1) - 1);
            let means = "that disk has no such extents";
            let found = finding(Severity::Damage, Kind::ExtentOutside, what, means);
            findings.add(found.on(copy).at(at, bytes as u64));
            told = true;
        }
        let others = claims.get(&disk).into_iter().flatten();
        for other in others
            .filter(|other| other.owner != Owner::Free && other.first < end && first < other.end)
        {
            let (from, to) = (first.max(other.first), end.min(other.end));
            let owners = [owner_name(metadata, other.owner), by.clone()];
            let mut found = twice(from, to, &owners);
            found.what = format!("{disk}: {} (by {number})", found.what);
            findings.add(found.on(copy).at(at, bytes as u64));
            told = true;
        }
    }
    if !told {
        let what = format!("{number} contradicts what precedes it: {fault}");
        let means = "no engine opens the pool by this copy; the record is left out here";
        let found = finding(Severity::Damage, Kind::MetadataContradiction, what, means);
        findings.add(found.on(copy).at(at, bytes as u64));
    }
}

/// Says where copies of one thing share what may fail as one.
pub(super) fn check_domains(metadata: &Metadata, findings: &mut Findings) {
    let shared = |disks: &mut dyn Iterator<Item = DiskNumber>| {
        let mut seen: Vec<(uuid::Uuid, &crate::metadata::Disk)> = Vec::new();
        for number in disks {
            let Some(disk) = metadata.disks().get(&number) else { continue };
            let domain = metadata.domain_of(disk);
            if let Some((_, other)) = seen.iter().find(|(seen, _)| *seen == domain) {
                let alone = metadata.unjoined_domain_of(disk);
                let why = match alone == metadata.unjoined_domain_of(other) {
                    true => format!("both of {}", disk.node_name),
                    false => "which labels join".to_owned(),
                };
                return Some((other.number, number, why));
            }
            seen.push((domain, disk));
        }
        None
    };
    let mut tell = |what: String, at: Option<u64>, volume: &Volume, shared| {
        let (one, other, why): (DiskNumber, DiskNumber, String) = shared;
        let what = format!("{what} on {one} and {other}, {why}");
        let means = "they fail as one: the redundancy that the layout promises isn't there";
        let found = finding(Severity::Redundancy, Kind::Domain, what, means);
        findings.add(found.of(&volume.name).volume_at(at));
    };
    for volume in metadata.volumes().values() {
        for run in volume.runs.values() {
            if let Some(shared) = shared(&mut run.members.iter().map(|member| member.disk)) {
                let (lane, set) = (run.key.lane, run.key.first_set);
                let at = volume_offset(metadata, volume, set, lane, Row(0));
                tell(format!("{} groups have two members", run.count), at, volume, shared);
            }
        }
        for segment in volume.log.segments.values() {
            if let Some(shared) = shared(&mut segment.copies.iter().map(|copy| copy.disk)) {
                tell(format!("log {} has two copies", segment.number), None, volume, shared);
            }
        }
    }
}

/// First byte of an extent on a member's disk.
pub(super) fn extent_offset(disk: &Disk<'_>, extent: ExtentNumber) -> Option<u64> {
    disk.label.geometry.extent_start(extent).map(block::Lba::byte_offset)
}
