//! Reading the metadata back: from one copy, and choosing among several.

use std::collections::BTreeMap;

use block::{BLOCK_BYTES, Epoch};

use super::area::{CheckpointSlot, check_checkpoint, check_entry, entry_claim, split_payload};
use super::{AreaLayout, AreaPosition, Inconsistent, Metadata, decode_records};
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
    /// The older checkpoint is sound, but the newer one's log has entries: it was complete once, and
    /// what the older one says is out of date.
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

/// Reads the area of one copy, given whole.
pub fn recover_copy(
    pool: PoolId,
    layout: &AreaLayout,
    area: &[u8],
) -> Result<Recovered, AreaFault> {
    let slice = |at: u64, len: u64| {
        let (at, len) = (usize::try_from(at).ok()?, usize::try_from(len).ok()?);
        area.get(at..at.checked_add(len)?)
    };
    let mut slots = [(&[][..], CheckpointSlot::Empty, &[][..]); 2];
    for (slot, found) in slots.iter_mut().enumerate() {
        let bytes = slice(layout.checkpoint_offset(slot), layout.checkpoint_bytes());
        let log = slice(layout.log_offset(slot), layout.log_bytes());
        let (Some(bytes), Some(log)) = (bytes, log) else { return Err(AreaFault::Empty) };
        *found = (bytes, check_checkpoint(bytes, pool, slot), log);
    }
    let ranks = slots.map(|(_, found, _)| match found {
        CheckpointSlot::Sound { stamp, .. } => Some((stamp.epoch, stamp.generation)),
        _ => None,
    });
    let slot = usize::from(ranks[1] > ranks[0]);
    let (_, found, log) = slots[slot];
    let CheckpointSlot::Sound { stamp, crc, payload } = found else {
        let both_empty = slots.iter().all(|(_, found, _)| *found == CheckpointSlot::Empty);
        return Err(if both_empty { AreaFault::Empty } else { AreaFault::Damaged });
    };
    let (_, other, other_log) = slots[1 - slot];
    if !matches!(other, CheckpointSlot::Sound { .. }) {
        // A torn checkpoint has an older generation's entries behind it, or none.
        let rank = (stamp.epoch, stamp.generation);
        let orphan = check_entry(other_log, pool);
        if let Some(orphan) = orphan.filter(|entry| (entry.epoch, entry.generation) > rank) {
            return Err(AreaFault::NewestDamaged { generation: orphan.generation });
        }
    }
    let generations = ranks.iter().flatten().map(|(_, generation)| *generation);
    let highest_generation = generations.max().unwrap_or(stamp.generation);
    let position = AreaPosition {
        pool,
        generation: stamp.generation,
        epoch: stamp.epoch,
        number: stamp.number,
        chain: crc,
        log_at: 0,
    };
    let mut recovered = Recovered {
        metadata: decode_checkpoint(pool, stamp.number, payload)?,
        position,
        slot,
        highest_generation,
        config: ConfigNumber(0),
        checkpoint: (stamp.number, crc),
        entries: BTreeMap::new(),
    };
    recovered.replay(log)?;
    Ok(recovered)
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

    fn replay(&mut self, log: &[u8]) -> Result<(), AreaFault> {
        loop {
            let at = usize::try_from(self.position.log_at).unwrap_or(usize::MAX);
            let rest = log.get(at..).unwrap_or_default();
            let number = self.position.number;
            let Some(entry) = self.position.entry_here(rest) else {
                return self.look_behind(rest);
            };
            let records = decode_records(entry.payload)
                .map_err(|fault| AreaFault::Malformed { number, fault })?;
            self.metadata
                .apply_all(&records)
                .map_err(|fault| AreaFault::Inconsistent { number, fault })?;
            self.position = self.position.after(&entry);
            self.config = self.config.max(entry.config);
            self.entries.insert(entry.number, entry.crc);
        }
    }

    /// Whether this is the log's end: a later entry of it anywhere behind says that one is damaged.
    fn look_behind(&self, rest: &[u8]) -> Result<(), AreaFault> {
        let position = &self.position;
        // What only claims to be an entry may claim to be long: such claims are not followed for ever.
        let mut budget = rest.len().saturating_mul(4);
        for at in (0..rest.len()).step_by(BLOCK_BYTES) {
            let here = rest.get(at..).unwrap_or_default();
            let Some(claim) = entry_claim(here, position.pool) else { continue };
            let later = (claim.generation, claim.epoch) == (position.generation, position.epoch)
                && claim.number > position.number;
            if !later || claim.bytes > budget {
                continue;
            }
            budget -= claim.bytes;
            if let Some(entry) = check_entry(here, position.pool)
                && entry.number > position.number.next()
            {
                return Err(AreaFault::Gap { after: position.number, found: entry.number });
            }
        }
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
