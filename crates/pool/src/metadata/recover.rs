//! What the copies of the metadata hold, and choosing among them.

use block::Epoch;

use super::area::CheckedEntry;
use super::{
    AreaPosition, BlockRun, CheckpointHead, Inconsistent, MetaRecord, Metadata, SharedMap,
    StoredCheckpoint,
};
use crate::format::{ConfigNumber, Malformed, RecordNumber};

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
    #[error("the newest checkpoint of the metadata is damaged; sequence {sequence} was in use")]
    NewestDamaged {
        /// Sequence of the damaged one.
        sequence: u64,
    },
    /// An entry is damaged that was committed: one behind it was written.
    #[error("the metadata log is damaged after {after}, though it goes on to {found}")]
    Gap {
        /// The last record before it.
        after: RecordNumber,
        /// The first one behind it.
        found: RecordNumber,
    },
    /// All entries from one on are damaged, and more than one was begun. That proves nothing to others: nobody signed what
    /// was read of them.
    #[error("the metadata log is damaged after {after}, though {begun} was begun behind it")]
    EndDamaged {
        /// The last sound record.
        after: RecordNumber,
        /// What one of them claims to be.
        begun: RecordNumber,
    },
    /// It isn't signed by one whose signature counts: somebody made it up.
    #[error(
        "what it says of {number} isn't signed by a supervisor that the pool's votes name for that"
    )]
    Unproved {
        /// The record that isn't proved; its checkpoint's, where that isn't.
        number: RecordNumber,
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
    /// Its newest checkpoint.
    pub newest: StoredCheckpoint,
    /// The one in the other slot.
    pub former: Option<StoredCheckpoint>,
    /// The highest sequence in either slot.
    pub highest_sequence: u64,
    /// The newest configuration that its entries know of.
    pub config: ConfigNumber,
    entries: SharedMap<RecordNumber, u32>,
}

/// The metadata after an entry of a log.
#[derive(Clone, Debug)]
pub(super) struct KnownState {
    position: AreaPosition,
    metadata: Metadata,
    config: ConfigNumber,
    entries: SharedMap<RecordNumber, u32>,
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

impl Recovered {
    /// Newer copies are greater: first by owner, then by checkpoint, then by how far the log goes.
    fn rank(&self) -> (Epoch, u64, RecordNumber) {
        (self.position.epoch, self.position.sequence, self.position.number)
    }

    /// A copy without its log.
    pub(super) fn of_checkpoint(
        metadata: Metadata,
        newest: StoredCheckpoint,
        former: Option<StoredCheckpoint>,
        highest_sequence: u64,
    ) -> Recovered {
        Recovered {
            position: newest.head.log_begins(metadata.pool().id),
            metadata,
            newest,
            former,
            highest_sequence,
            config: ConfigNumber(0),
            entries: SharedMap::default(),
        }
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
        self.entries.insert_mut(entry.number, entry.crc);
        Ok(())
    }

    /// What it holds so far.
    pub(super) fn state(&self) -> KnownState {
        KnownState {
            position: self.position,
            metadata: self.metadata.clone(),
            config: self.config,
            entries: self.entries.clone(),
        }
    }

    /// Takes what one of these states says, the first of which it has the last entry, by where the log goes on behind each of
    /// its own. Nothing else of these counts: nobody looked at their signatures.
    pub(super) fn go_on_from<'a>(
        &mut self,
        entries: &[AreaPosition],
        mut states: impl Iterator<Item = &'a KnownState>,
    ) {
        let has = |state: &&KnownState| {
            let at = entries.binary_search_by_key(&state.position.number, |at| at.number);
            at.is_ok_and(|at| entries[at] == state.position)
        };
        let Some(state) = states.find(has) else { return };
        self.metadata = state.metadata.clone();
        self.position = state.position;
        self.config = state.config;
        self.entries = state.entries.clone();
    }

    /// Whether a checkpoint can build on this one here. On the former one only if the newest has nothing
    /// behind it: that is going to be written over.
    fn has(&self, head: &CheckpointHead) -> bool {
        let former = self.former.as_ref().filter(|_| self.entries.is_empty());
        self.newest.head == *head || former.is_some_and(|former| former.head == *head)
    }

    /// The first record in which two copies tell different histories.
    fn contradicts(&self, other: &Recovered) -> Option<RecordNumber> {
        if self.position.epoch != other.position.epoch {
            // Whoever took over has decided what counts of the former owner's history.
            return None;
        }
        let (newer, older) = if self.rank() > other.rank() { (self, other) } else { (other, self) };
        if newer.position.sequence != older.position.sequence {
            // An owner commits nothing to a log once it has begun its successor.
            let begins = newer.newest.head.stamp.number;
            return (older.position.number > begins).then(|| begins.next());
        }
        if newer.newest.head != older.newest.head {
            return Some(newer.newest.head.stamp.number);
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
    // Of equal ones one that shows what it was written beside.
    let rank = |copy: &Recovered| (copy.rank(), copy.former.is_some());
    let best = (0..copies.len()).max_by_key(|index| rank(&copies[*index]));
    let Some(best) = best else { return Err(ChooseError::None) };
    for (index, copy) in copies.iter().enumerate() {
        if let Some(number) = copies[best].contradicts(copy) {
            return Err(ChooseError::Contradiction { first: best, second: index, number });
        }
    }
    Ok(best)
}

/// What the first checkpoint of a new owner builds on.
#[derive(Clone, Debug)]
pub struct Foundation {
    /// A checkpoint that all of the copies have that are in step.
    pub base: StoredCheckpoint,
    /// What else their headers name.
    pub in_use: Vec<BlockRun>,
    /// The copies, by index. The others can't be written to but whole.
    pub in_step: Vec<usize>,
}

/// Finds that for the copy that was chosen, and marks in its metadata what that checkpoint lacks. It is
/// the newest one, unless an owner ended while he wrote that: then copies that don't have it and those that
/// do have the one before in common, and go on from there together.
pub fn found_on(copies: &mut [Recovered], chosen: usize) -> Option<Foundation> {
    let best = copies.get(chosen)?;
    let common = best.former.as_ref().filter(|former| {
        let has_only_that =
            |copy: &Recovered| copy.has(&former.head) && !copy.has(&best.newest.head);
        best.entries.is_empty() && copies.iter().any(has_only_that)
    });
    let base = common.unwrap_or(&best.newest).clone();
    let in_step: Vec<usize> = (0..copies.len()).filter(|i| copies[*i].has(&base.head)).collect();
    let in_use = in_step.iter().map(|index| &copies[*index]);
    let in_use = in_use.flat_map(|copy| [Some(&copy.newest), copy.former.as_ref()]);
    let in_use = in_use.flatten().filter(|known| known.head != base.head);
    let in_use = in_use.flat_map(StoredCheckpoint::in_use).collect();
    let best = copies.get_mut(chosen)?;
    best.metadata.changed_between(&base.table, &best.newest.table);
    Some(Foundation { base, in_use, in_step })
}
