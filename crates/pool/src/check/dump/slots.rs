//! What is at fixed places of a disk, slot by slot.

use std::ops::ControlFlow;

use super::{Fields, Place, ReadReservation, StructureKind, StructureState, Told, Value, unsound};
use crate::check::disks::Disk;
use crate::check::source::DiskImage;
use crate::format::{
    APPLIED_BYTES, Configuration, DiskGeometry, DiskId, LABEL_BYTES, Label, PoolId, VOTE_BYTES,
    VotePlace, end_of_labelled, read_label_slot, select_applied, select_vote,
};

/// Tells the slots of a disk; of one of which no label counts those of the label and the reservation.
pub(super) fn tell_slots(
    image: &DiskImage<'_>,
    disk: Option<&Disk<'_>>,
    reservation: ReadReservation<'_>,
    tell: Told<'_>,
) -> ControlFlow<()> {
    let read = |at: u64, bytes: usize| image.bytes_at(at, bytes).ok();
    let front =
        DiskGeometry::label_slots(image.bytes).map(|at| read(at.byte_offset(), LABEL_BYTES));
    let labelled = end_of_labelled([front[0].as_deref(), front[1].as_deref()], image.bytes);
    for (slot, place) in DiskGeometry::label_slots(labelled).into_iter().enumerate() {
        let place = Place {
            disk: &image.name,
            kind: StructureKind::Label,
            at: place.byte_offset(),
            bytes: LABEL_BYTES as u64,
        };
        let bytes = read(place.at, LABEL_BYTES);
        let says = Fields::default().with("slot", slot);
        tell(match bytes.as_deref().map(|bytes| read_label_slot(bytes, slot)) {
            Some(Ok(Some((label, sequence)))) => {
                place.is(StructureState::Sound, label_fields(says, &label, sequence))
            }
            // It is whole, and says what this program doesn't know.
            Some(Err(error)) => {
                place.is(StructureState::Sound, says.with("refused", error.to_string()))
            }
            Some(Ok(None)) | None => place.is(unsound(bytes.as_deref()), says),
        })?;
    }
    for (slot, place) in DiskGeometry::reservation_slots(labelled).into_iter().enumerate() {
        let place = Place {
            disk: &image.name,
            kind: StructureKind::Reservation,
            at: place.byte_offset(),
            bytes: LABEL_BYTES as u64,
        };
        let bytes = read(place.at, LABEL_BYTES);
        let says = Fields::default().with("slot", slot);
        tell(match bytes.as_deref().and_then(|bytes| reservation(bytes, slot as u32)) {
            Some(found) => place.is(
                StructureState::Sound,
                says.with("sequence", found.sequence)
                    .with("epoch", found.epoch)
                    .with("owner", found.owner)
                    .with("labelled_bytes", found.labelled_bytes)
                    .with(
                        "clients",
                        found.clients.into_iter().map(Value::Text).collect::<Vec<_>>(),
                    ),
            ),
            None => place.is(unsound(bytes.as_deref()), says),
        })?;
    }
    match disk {
        Some(disk) => tell_votes(image, disk, tell),
        None => ControlFlow::Continue(()),
    }
}

fn tell_votes(image: &DiskImage<'_>, disk: &Disk<'_>, tell: Told<'_>) -> ControlFlow<()> {
    let read = |at: u64, bytes: usize| image.bytes_at(at, bytes).ok();
    let (pool, id): (PoolId, DiskId) = (disk.label.pool, disk.label.disk);
    for (slot, place) in DiskGeometry::vote_slots().into_iter().enumerate() {
        let place = Place {
            disk: &image.name,
            kind: StructureKind::Vote,
            at: place.byte_offset(),
            bytes: VOTE_BYTES as u64,
        };
        let bytes = read(place.at, VOTE_BYTES);
        let mut slots = [None, None];
        slots[slot] = bytes.as_deref();
        let of = VotePlace { pool, disk: id, witness: None };
        let says = Fields::default().with("slot", slot);
        let found = select_vote(&of, slots, &disk.label.vote_disks);
        tell(match &found.newest {
            Some(vote) => {
                let signed = found.signed.as_ref();
                let says = vote_fields(says, vote)
                    .with_if("signed_by", signed.map(|signed| signed.by.to_string()))
                    .with_if("pool_key", signed.map(|signed| signed.grant.key().to_string()))
                    .with_if("grant_version", signed.map(|signed| signed.grant.version()));
                place.is(StructureState::Sound, says)
            }
            None => place.is(unsound(bytes.as_deref()), says),
        })?;
    }
    for (slot, place) in DiskGeometry::applied_slots().into_iter().enumerate() {
        let place = Place {
            disk: &image.name,
            kind: StructureKind::Applied,
            at: place.byte_offset(),
            bytes: APPLIED_BYTES as u64,
        };
        let bytes = read(place.at, APPLIED_BYTES);
        let mut slots = [None, None];
        slots[slot] = bytes.as_deref();
        let says = Fields::default().with("slot", slot);
        tell(match select_applied(pool, id, slots).newest {
            Some(applied) => place.is(
                StructureState::Sound,
                says.with("sequence", applied.sequence)
                    .with("release", applied.release.0)
                    .with("metadata_record", applied.record.0)
                    .with_if("signed_by", applied.by.map(|by| by.to_string())),
            ),
            None => place.is(unsound(bytes.as_deref()), says),
        })?;
    }
    ControlFlow::Continue(())
}

fn label_fields(says: Fields, label: &Label, sequence: u64) -> Fields {
    says.with("sequence", sequence)
        .with("pool", label.pool.0)
        .with("pool_name", label.pool_name.as_str())
        .with("disk_id", label.disk.0)
        .with("number", label.number.0)
        .with("labelled_bytes", label.geometry.labelled_bytes())
        .with("extent_bytes", label.geometry.extent_bytes())
        .with("area_first", label.area.map_or(0, |area| area.first.0))
        .with("area_extents", label.area.map_or(0, |area| area.count))
        .with("failure_domain", label.failure_domain.name())
        .with("compatible", label.features.compatible)
        .with("read_only_compatible", label.features.read_only)
        .with("incompatible", label.features.incompatible)
        .with("node", label.node)
        .with("node_name", label.node_name.as_str())
        .with("first_owner", label.first_owner.0)
        .with("vote_disks", ids(&label.vote_disks))
}

fn vote_fields(says: Fields, vote: &Configuration) -> Fields {
    let out = vote
        .out
        .iter()
        .map(|out| Value::Text(format!("disk {} since configuration {}", out.disk.0, out.since.0)));
    let metadata_by = vote.metadata_by.iter().map(|by| Value::Text(by.to_string()));
    let copies: Vec<DiskId> = vote.copies.iter().copied().collect();
    says.with("epoch", vote.epoch.0)
        .with("configuration", vote.number.0)
        .with("owner", vote.owner.0)
        .with("owner_name", vote.owner_name.as_str())
        .with("released", vote.released)
        .with("metadata_record", vote.record.0)
        .with("voters", ids(&vote.voters.now))
        .with_if("next_voters", vote.voters.next.as_deref().map(ids))
        .with("metadata_copies", ids(&copies))
        .with("metadata_by", metadata_by.collect::<Vec<_>>())
        .with("out", out.collect::<Vec<_>>())
}

fn ids(ids: &[DiskId]) -> Vec<Value> {
    ids.iter().map(|id| id.0.into()).collect()
}
