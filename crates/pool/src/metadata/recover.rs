//! What the copies of the metadata hold, and choosing among them.

use std::collections::BTreeMap;

use block::Epoch;

use super::area::{CheckedEntry, CheckpointHead, split_payload};
use super::{AreaPosition, Inconsistent, MetaRecord, Metadata, decode_records};
use crate::format::{ConfigNumber, Malformed, PoolId, RecordNumber};

/// Why a copy can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AreaFault {
    /// No checkpoint was ever written, or the area is shorter than its layout says.
    #[error("the metadata area holds no checkpoint")]
    Empty,
    /// No checkpoint is sound.
    #[error("the metadata area's checkpoints are damaged")]
    Damaged,
    /// The newer checkpoint's header is sound, or its log has entries: it was complete once, and what
    /// the older one says is out of date.
    #[error("the newest checkpoint of the metadata is damaged; generation {generation} was in use")]
    NewestDamaged {
        /// Generation of the damaged one.
        generation: u64,
    },
    /// An entry is damaged that was committed: one behind it was written.
    #[error("the metadata log is damaged after {after}, though it goes on to {found}")]
    Gap {
        /// The last record before it.
        after: RecordNumber,
        /// The first one behind it.
        found: RecordNumber,
    },
    /// Bytes with a sound CRC that aren't what the encoder yields.
    #[error("the metadata up to {number} is {fault}")]
    Malformed {
        /// The last record before it.
        number: RecordNumber,
        /// Where.
        fault: Malformed,
    },
    /// A record that doesn't fit what precedes it.
    #[error("the metadata after {number} contradicts itself: {fault}")]
    Inconsistent {
        /// The last record before it.
        number: RecordNumber,
        /// How.
        fault: Inconsistent,
    },
}

impl AreaFault {
    /// The last record of which a damaged copy proves that it was committed.
    pub fn proves(&self) -> Option<RecordNumber> {
        match self {
            AreaFault::Gap { found, .. } => Some(RecordNumber(found.0.saturating_sub(1))),
            _ => None,
        }
    }
}

/// What a copy holds.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The metadata up to the last sound entry.
    pub metadata: Metadata,
    /// Where this copy's log ends.
    pub position: AreaPosition,
    /// The slot of its newest checkpoint: the next one goes to the other.
    pub slot: usize,
    /// The highest generation in either slot.
    pub highest_generation: u64,
    /// The newest configuration that its entries know of.
    pub config: ConfigNumber,
    checkpoint: (RecordNumber, u32),
    entries: BTreeMap<RecordNumber, u32>,
}

/// Two current copies contradict each other, or there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// No copies were given.
    #[error("no metadata copy can be read")]
    None,
    /// Two copies hold different histories; neither is chosen.
    #[error("metadata copies {first} and {second} hold different histories from {number} on")]
    Contradiction {
        /// Index of one.
        first: usize,
        /// Index of the other.
        second: usize,
        /// The first record that differs.
        number: RecordNumber,
    },
}

fn decode_checkpoint(
    pool: PoolId,
    number: RecordNumber,
    payload: &[u8],
) -> Result<Metadata, AreaFault> {
    let malformed = |fault| AreaFault::Malformed { number, fault };
    let (identity, records) = split_payload(pool, payload).map_err(malformed)?;
    let records = decode_records(records).map_err(malformed)?;
    Metadata::restore(identity, &records).map_err(|fault| AreaFault::Inconsistent { number, fault })
}

impl Recovered {
    /// Newer copies are greater: first by owner, then by checkpoint, then by how far the log goes.
    fn rank(&self) -> (Epoch, u64, RecordNumber) {
        (self.position.epoch, self.position.generation, self.position.number)
    }

    /// A copy without its log.
    pub(super) fn of_checkpoint(
        pool: PoolId,
        head: &CheckpointHead,
        payload: &[u8],
        slot: usize,
        highest_generation: u64,
    ) -> Result<Recovered, AreaFault> {
        let (stamp, crc) = (head.stamp, head.crc);
        let position = AreaPosition {
            pool,
            generation: stamp.generation,
            epoch: stamp.epoch,
            number: stamp.number,
            chain: crc,
            log_at: 0,
        };
        Ok(Recovered {
            metadata: decode_checkpoint(pool, stamp.number, payload)?,
            position,
            slot,
            highest_generation,
            config: ConfigNumber(0),
            checkpoint: (stamp.number, crc),
            entries: BTreeMap::new(),
        })
    }

    /// Takes the next entry of its log.
    pub(super) fn take(
        &mut self,
        entry: &CheckedEntry<'_>,
        records: &[MetaRecord],
    ) -> Result<(), AreaFault> {
        let number = self.position.number;
        let inconsistent = |fault| AreaFault::Inconsistent { number, fault };
        self.metadata.apply_all(records).map_err(inconsistent)?;
        self.position = self.position.after(entry);
        self.config = self.config.max(entry.config);
        self.entries.insert(entry.number, entry.crc);
        Ok(())
    }

    /// The first record in which two copies tell different histories.
    fn contradicts(&self, other: &Recovered) -> Option<RecordNumber> {
        if self.position.epoch != other.position.epoch {
            // Whoever took over has decided what counts of the former owner's history.
            return None;
        }
        let (newer, older) = if self.rank() > other.rank() { (self, other) } else { (other, self) };
        if newer.position.generation != older.position.generation {
            // An owner commits nothing to a log once it has begun its successor.
            return (older.position.number > newer.checkpoint.0).then(|| newer.checkpoint.0.next());
        }
        if newer.checkpoint != older.checkpoint {
            return Some(newer.checkpoint.0);
        }
        let mut common = older.entries.iter();
        common
            .find(|(number, crc)| newer.entries.get(*number) != Some(*crc))
            .map(|(number, _)| *number)
    }
}

/// Chooses among the copies that the newest configuration names current: the one whose sound tail is
/// the longest. Everything that was committed is on all of them.
pub fn choose_copy(copies: &[Recovered]) -> Result<usize, ChooseError> {
    let best = (0..copies.len()).max_by_key(|index| copies[*index].rank());
    let Some(best) = best else { return Err(ChooseError::None) };
    for (index, copy) in copies.iter().enumerate() {
        if let Some(number) = copies[best].contradicts(copy) {
            return Err(ChooseError::Contradiction { first: best, second: index, number });
        }
    }
    Ok(best)
}
