//! Taking off a disk what says that it is one of a pool: by removal, destruction of its pool, or because somebody
//! asks. Data stays where it is.
//!
//! A crash at any step leaves a disk that shows what it showed before, or nothing. So of two votes the older one goes
//! first: alone it would pass for the newest, and with others that missed as much it would open a pool that is no
//! more. The newest goes last, after the labels, since it may be what proves that the pool was destroyed.

use block::{BlockDevice, Durability, Instance, IoError, Lba, SectorRange, write_durably};
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt};

use super::config::vote_place;
use super::observe::{read_slots, read_vote};
use super::stops::{StopPoint, Stops};
use crate::format::{
    APPLIED_BYTES, Configuration, DiskGeometry, DiskId, LABEL_BYTES, PoolId, Signer, VOTE_BYTES,
    VOTE_MAGIC,
};

const LABEL_SECTORS: u64 = (LABEL_BYTES / block::SECTOR_BYTES) as u64;

/// A disk that is to lose its labels, as it was looked at: by the instance that answered then and no other, behind
/// which another drive may be.
pub(super) struct Unlabelled<'a> {
    pub(super) device: &'a dyn BlockDevice,
    pub(super) instance: Option<Instance>,
    /// Its size, by its label or without one by the device.
    pub(super) labelled_bytes: u64,
    /// The slot of its newest vote, if it has one.
    pub(super) newest_vote: Option<usize>,
}

impl Unlabelled<'_> {
    /// Takes off labels, votes and applied blocks.
    pub(super) async fn wipe(&self, stops: &Stops) -> Result<(), IoError> {
        let votes = DiskGeometry::vote_slots().map(|slot| (slot, VOTE_BYTES));
        let newest = self.newest_vote.unwrap_or(0);
        self.zero(&[votes[1 - newest]]).await?;
        stops.pass(StopPoint::WipeOlderVote).await;
        self.zero(&DiskGeometry::applied_slots().map(|slot| (slot, APPLIED_BYTES))).await?;
        // A disk that was cut short has those at its end no more.
        let sectors = self.device.geometry().sectors;
        let labels = DiskGeometry::label_slots(self.labelled_bytes).into_iter();
        let labels = labels.filter(|slot| SectorRange::new(*slot, LABEL_SECTORS).fits(sectors));
        self.zero(&labels.map(|slot| (slot, LABEL_BYTES)).collect::<Vec<_>>()).await?;
        stops.pass(StopPoint::WipeLabels).await;
        self.zero(&[votes[newest]]).await?;
        stops.pass(StopPoint::WipeNewestVote).await;
        Ok(())
    }

    /// Makes zeros of some places, durably.
    async fn zero(&self, places: &[(Lba, usize)]) -> Result<(), IoError> {
        let writes = places.iter().map(|(start, bytes)| {
            let from = start.byte_offset();
            wipe(self.device, self.instance, from, from + *bytes as u64)
        });
        try_join_all(writes).await.map(drop)
    }
}

/// Shows a configuration in a vote's slot of a disk: of the instance that was looked at.
pub(super) async fn show(
    device: &dyn BlockDevice,
    instance: Instance,
    (pool, disk): (PoolId, DiskId),
    config: &Configuration,
    (slot, signer): (usize, Option<&Signer>),
) -> Result<(), IoError> {
    let record = config.encode(&vote_place(pool, disk), slot, signer);
    let record = record.map_err(|_| IoError::Unsupported)?;
    let write = write_durably(device, DiskGeometry::vote_slots()[slot], record);
    is_from(write.await?.instance, Some(instance))
}

/// The slot of the newest vote of a disk of which the label can't be used.
pub(super) async fn newest_slot_of(
    device: &dyn BlockDevice,
    pool: PoolId,
    disk: DiskId,
) -> Result<Option<usize>, IoError> {
    let (slots, _) = read_vote(device, &vote_place(pool, disk), &[]).await?;
    Ok(slots.newest_slot())
}

/// Whether the vote's places of a disk without a label hold what a wiping that was cut short left there.
pub(super) async fn is_left_over(device: &dyn BlockDevice) -> Result<bool, IoError> {
    const MAGIC_SECTORS: u64 = 1;
    let slots = read_slots(device, DiskGeometry::vote_slots(), MAGIC_SECTORS).await?;
    Ok(slots.iter().flatten().any(|slot| slot.starts_with(VOTE_MAGIC)))
}

/// Makes zeros, durably; with an instance only as long as that one answers.
pub(super) async fn wipe(
    device: &dyn BlockDevice,
    instance: Option<Instance>,
    from: u64,
    to: u64,
) -> Result<(), IoError> {
    const PIECE_SECTORS: u64 = 256;
    // One after the other each would wait for the platter to come round. But of a drive that is in another one's place,
    // as the first answer tells, no more is to be lost than one.
    let pieces_at_once = if instance.is_some() { 1 } else { 8 };
    let bytes = SectorRange::new(
        Lba(from / block::SECTOR_BYTES as u64),
        to.saturating_sub(from) / block::SECTOR_BYTES as u64,
    );
    let pieces = bytes.pieces(PIECE_SECTORS).map(|range| async move {
        let answered = match device.write_zeroes(range, Durability::Durable).await {
            Err(IoError::Unsupported) => {
                let zeros = block::Buffer::zeroed(range.len_bytes() as usize);
                write_durably(device, range.start, zeros).await
            }
            answered => answered,
        };
        is_from(answered?.instance, instance)
    });
    futures::stream::iter(pieces).buffer_unordered(pieces_at_once).try_collect().await
}

fn is_from(answered: Instance, expected: Option<Instance>) -> Result<(), IoError> {
    match expected {
        Some(expected) if expected != answered => Err(IoError::Restarted { now: answered }),
        _ => Ok(()),
    }
}
