//! The structures at fixed places of a disk: labels, votes, applied blocks.

use block::Lba;

use super::findings::{Findings, finding};
use super::report::{Kind, Severity};
use super::source::DiskImage;
use crate::format::{
    APPLIED_BYTES, Applied, Configuration, DiskGeometry, DiskId, LABEL_BYTES, Label, LabelError,
    LabelState, PoolId, Signed, VOTE_BYTES, VotePlace, end_of_labelled, select_applied,
    select_label, select_vote,
};

/// A disk of a pool.
pub(super) struct Disk<'a> {
    pub(super) image: &'a DiskImage<'a>,
    pub(super) label: Label,
    /// What its two vote slots hold.
    pub(super) vote: Option<Configuration>,
    /// By whose word that is the pool's, if it is signed.
    pub(super) signed: Option<Signed>,
    /// What its two applied slots hold.
    pub(super) applied: Option<Applied>,
    /// The older of them.
    pub(super) applied_before: Option<Applied>,
    /// Faults of its slots, told once it is known whether the owner ended in order.
    slots: Vec<SlotFault>,
    /// Whether what is on it counts: it is what the metadata means, and no older.
    pub(super) trusted: bool,
}

struct SlotFault {
    kind: Kind,
    slot: usize,
    at: u64,
    bytes: u64,
}

impl Disk<'_> {
    pub(super) fn name(&self) -> &str {
        &self.image.name
    }

    pub(super) fn id(&self) -> DiskId {
        self.label.disk
    }
}

/// Reads what is at fixed places; `None` when the disk belongs to no pool that could be told.
pub(super) fn read_disk<'a>(
    image: &'a DiskImage<'a>,
    findings: &mut Findings,
) -> Option<(PoolId, Disk<'a>)> {
    let slot = |sector: Lba| image.bytes_at(sector.byte_offset(), LABEL_BYTES).ok();
    let [first, second, ..] = DiskGeometry::label_slots(image.bytes).map(slot);
    let labelled_bytes = end_of_labelled([first.as_deref(), second.as_deref()], image.bytes);
    let places = DiskGeometry::label_slots(labelled_bytes);
    let (third, fourth) = (slot(places[2]), slot(places[3]));
    let slots = [first.as_deref(), second.as_deref(), third.as_deref(), fourth.as_deref()];
    let selected = match select_label(slots, image.bytes) {
        LabelState::Labelled(selected) => *selected,
        LabelState::Blank => {
            let (what, means) = ("it carries no label", "it is no pool disk, or it was wiped");
            findings.add(finding(Severity::Damage, Kind::Label, what, means).on(&image.name));
            return None;
        }
        LabelState::Refused(error) => {
            let means = match error {
                LabelError::Damaged { left: Some(_), .. } => {
                    "no label of which two copies agree is left: an engine takes this disk in only where it was last"
                }
                LabelError::Damaged { .. } => {
                    "no label of which two copies agree is left: no engine takes this disk in"
                }
                LabelError::Truncated { .. } => {
                    "the end of the disk is missing, with labels and perhaps data"
                }
                LabelError::NewerVersion { .. } | LabelError::UnknownFeatures { .. } => {
                    "it can't be checked by this etherpool; use a newer one"
                }
            };
            let found = finding(Severity::Damage, Kind::Label, error.to_string(), means);
            findings.add(found.on(&image.name));
            return None;
        }
    };
    let label = selected.label;
    let (pool, id) = (label.pool, label.disk);
    let damaged = places.iter().enumerate().filter(|(slot, _)| selected.faults.damaged[*slot]);
    let fault = |(slot, place): (usize, &Lba)| SlotFault {
        kind: Kind::LabelSlot,
        slot,
        at: place.byte_offset(),
        bytes: LABEL_BYTES as u64,
    };
    let mut slots: Vec<SlotFault> = damaged.map(fault).collect();
    let place = VotePlace { pool, disk: id, witness: None };
    let check = |slots: [Option<&[u8]>; 2]| {
        let found = select_vote(&place, slots, &label.vote_disks);
        found.newest.map(|vote| (vote, found.signed))
    };
    let places = (Kind::VoteSlot, DiskGeometry::vote_slots(), VOTE_BYTES);
    let vote = newest(read_slots(image, places, &mut slots, check), |(vote, _)| vote.rank());
    let (vote, signed) = vote.unzip();
    let signed = signed.flatten();
    let check = |slots: [Option<&[u8]>; 2]| select_applied(pool, id, slots).newest;
    let places = (Kind::AppliedSlot, DiskGeometry::applied_slots(), APPLIED_BYTES);
    let found = read_slots(image, places, &mut slots, check);
    let applied = newest(found, |applied| applied.sequence);
    let applied_before = found.into_iter().flatten().find(|found| Some(*found) != applied);
    let trusted = true;
    Some((pool, Disk { image, label, vote, signed, applied, applied_before, slots, trusted }))
}

/// Of two that are as new as each other the first one.
fn newest<T, R: Ord>(found: [Option<T>; 2], rank: impl Fn(&T) -> R) -> Option<T> {
    found.into_iter().flatten().rev().max_by_key(rank)
}

/// What each of two slots holds for itself, if it is sound.
fn read_slots<T>(
    image: &DiskImage<'_>,
    (kind, places, bytes): (Kind, [Lba; 2], usize),
    faults: &mut Vec<SlotFault>,
    check: impl Fn([Option<&[u8]>; 2]) -> Option<T>,
) -> [Option<T>; 2] {
    [0, 1].map(|slot| {
        let at = places[slot].byte_offset();
        let found = image.bytes_at(at, bytes).ok();
        let mut slots = [None, None];
        slots[slot] = found.as_deref();
        let sound = check(slots);
        // One that was never written is none, and no fault.
        let blank = found.is_some_and(|found| found.iter().all(|byte| *byte == 0));
        if sound.is_none() && !blank {
            faults.push(SlotFault { kind, slot, at, bytes: bytes as u64 });
        }
        sound
    })
}

/// Tells of damaged slots of votes and applied blocks. While the owner hasn't ended in order, one may
/// have been torn by its end.
pub(super) fn tell_slots(disk: &Disk<'_>, config: Option<&Configuration>, findings: &mut Findings) {
    let released = config.is_some_and(|config| config.released);
    let votes = config.is_none_or(|config| config.voters.contains(disk.id()));
    // Nobody needs the slots of a vote that the disk doesn't have.
    for fault in disk.slots.iter().filter(|fault| votes || fault.kind != Kind::VoteSlot) {
        if fault.kind == Kind::LabelSlot {
            let what = format!("label slot {} holds no sound label", fault.slot);
            let means = "the label's other copies count; the next engine writes it anew";
            let found = finding(Severity::Redundancy, fault.kind, what, means);
            findings.add(found.on(disk.name()).at(fault.at, fault.bytes));
            continue;
        }
        let what = match fault.kind {
            Kind::VoteSlot => "vote",
            _ => "applied block",
        };
        let alone = disk.slots.iter().filter(|other| other.kind == fault.kind).count() == 1;
        let (severity, means) = match (alone, released) {
            (false, _) => (Severity::Damage, "neither slot is sound"),
            (true, true) => {
                (Severity::Redundancy, "the other slot counts; if this one was newer, it is lost")
            }
            (true, false) => (
                Severity::Note,
                "the other slot counts; a write that the owner's end cut short leaves this too",
            ),
        };
        let what = format!("slot {} of the {what} is damaged", fault.slot);
        let found = finding(severity, fault.kind, what, means);
        findings.add(found.on(disk.name()).at(fault.at, fault.bytes));
    }
}

/// Of disks that say that they are the same member, only the one that applied most counts.
pub(super) fn part_twins<'a>(disks: Vec<Disk<'a>>, findings: &mut Findings) -> Vec<Disk<'a>> {
    let mut members: Vec<Disk<'a>> = Vec::new();
    let rank = |disk: &Disk<'_>| {
        let release = disk.applied.map(|applied| (applied.release, applied.sequence));
        (release, disk.vote.as_ref().map(Configuration::rank))
    };
    for disk in disks {
        let Some(twin) = members.iter_mut().find(|other| other.id() == disk.id()) else {
            members.push(disk);
            continue;
        };
        let (kept, left) = if rank(&disk) > rank(twin) {
            let older = std::mem::replace(twin, disk);
            (twin.name().to_owned(), older.name().to_owned())
        } else {
            (twin.name().to_owned(), disk.name().to_owned())
        };
        let what = format!("it says that it is the same member as {kept}");
        let means = "one is a clone or an older copy of the other; the one that applied more is \
                     checked, this one is not";
        findings.add(finding(Severity::Damage, Kind::Twin, what, means).on(&left));
    }
    members
}
