//! Reading a copy of the metadata: the headers of its checkpoints, the newest one's table and sections, one
//! after the other, its log to the end, and behind the end as far as a damaged entry can hide a later one.
//! Of the former checkpoint the table, which tells what must not be written to. In pieces, since an area
//! is long, most of it out of use, and a reader's patience is for one answer of a disk.

use std::collections::VecDeque;

use block::{BLOCK_BYTES, Buffer, IoError};
use futures::lock::Mutex;

use super::area::{CheckedEntry, CheckpointSlot, check_entry, check_header, entry_claim};
use super::recover::{KnownState, Recovered};
use super::restore::Restoring;
use super::table::Sum;
use super::{
    AreaFault, AreaLayout, AreaPosition, BlockRun, CheckpointHead, Metadata, StoredCheckpoint,
    Table, decode_records,
};
use crate::format::{PoolId, Signers};

/// Attempts that failed one after the other are fewer.
const SEQUENCES_SKIPPED: u64 = 1 << 16;
/// Read at once.
const PIECE_BYTES: u64 = 1 << 20;

/// The metadata area of a disk.
pub trait AreaBytes {
    /// So many bytes from an offset in the area on: whole blocks, a piece at most.
    fn read(&self, at: u64, len: u64) -> impl Future<Output = Result<Buffer, IoError>>;
}

/// Why a copy is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyUnusable {
    /// By what it holds.
    #[error(transparent)]
    Fault(#[from] AreaFault),
    /// It can't be read.
    #[error(transparent)]
    Unreadable(#[from] IoError),
}

/// After how many of a log's last entries the metadata is kept for others. Their logs end where it does, or with what
/// was under way when the owner ended.
const KNOWN_STATES: usize = 8;

/// What a copy was found to hold, for the others to share: all hold the same, as a rule, it may be of hundreds of
/// megabytes, and making sense of it takes far longer than reading it. Each is read and compared with its CRCs all the
/// same. A checkpoint with the same header can't say anything else, as that has the digest of the table, which has the
/// sections'; nor can a log up to an entry with the same CRC, which covers that of the one before, unless somebody made
/// it up: then what counts is still what was read of an entry with the right signature.
#[derive(Debug, Default)]
pub struct SharedHistory {
    checkpoint: Mutex<Option<(CheckpointHead, Metadata)>>,
    log: Mutex<Option<SharedLog>>,
}

/// What the entries behind a checkpoint lead to.
#[derive(Debug)]
struct SharedLog {
    head: CheckpointHead,
    /// After the last of them, ascending.
    states: VecDeque<KnownState>,
}

/// Reads a copy, which one of these may have signed.
pub async fn recover_copy(
    (pool, signers): (PoolId, &Signers),
    layout: &AreaLayout,
    area: &impl AreaBytes,
    shared: &SharedHistory,
) -> Result<Recovered, CopyUnusable> {
    let mut found = [CheckpointSlot::Empty, CheckpointSlot::Empty];
    for (slot, found) in found.iter_mut().enumerate() {
        let header = area.read(layout.checkpoint_offset(slot), BLOCK_BYTES as u64).await?;
        *found = check_header(&header, pool, slot, layout);
    }
    let rank = |slot: usize| found[slot].head().map(|head| (head.stamp.epoch, head.stamp.sequence));
    let slot = usize::from(rank(1) > rank(0));
    let other = 1 - slot;
    let CheckpointSlot::Sound(head) = found[slot].clone() else {
        let empty = found.iter().all(|slot| *slot == CheckpointSlot::Empty);
        return Err(if empty { AreaFault::Empty } else { AreaFault::Damaged }.into());
    };
    if !signers.admit(head.by) {
        return Err(AreaFault::Unproved { number: head.stamp.number }.into());
    }
    let sequence = head.stamp.sequence;
    let table = read_table(pool, layout, area, &head).await?;
    let metadata = read_sections(layout, area, &head, &table, shared).await?;
    if found[other].head().is_none() {
        // A torn checkpoint has an older sequence's entries behind it, or none.
        let mut log = Log::new(layout, area, other);
        let orphan = log.entry(0, pool).await?.and_then(|bytes| check_entry(bytes, pool));
        let later = orphan.filter(|entry| Some((entry.epoch, entry.sequence)) > rank(slot));
        if let Some(orphan) = later {
            return Err(AreaFault::NewestDamaged { sequence: orphan.sequence }.into());
        }
    }
    // Whoever made one up would have all copies come to sequences that nobody reads any more, or to no room.
    let former = found[other].head().filter(|former| is_credible(former, signers, sequence));
    let highest_sequence = former.map_or(sequence, |former| former.stamp.sequence.max(sequence));
    let former = match former {
        // Nobody goes back to one whose table is of no use.
        Some(head) => read_table(pool, layout, area, head)
            .await
            .ok()
            .map(|table| StoredCheckpoint { head: head.clone(), table }),
        None => None,
    };
    let newest = StoredCheckpoint { head, table };
    let mut recovered = Recovered::of_checkpoint(metadata, newest, former, highest_sequence);
    let mut log = Log::new(layout, area, slot);
    replay(&mut recovered, &mut log, shared).await?;
    look_behind(&recovered.position, &mut log).await?;
    Ok(recovered)
}

/// Whether a header beside the newest one, or attempts, of this sequence is one of the pool's.
pub(crate) fn is_credible(head: &CheckpointHead, signers: &Signers, sequence: u64) -> bool {
    signers.admit(head.by) && head.stamp.sequence <= sequence.saturating_add(SEQUENCES_SKIPPED)
}

/// The table of a checkpoint.
pub(crate) async fn read_table(
    pool: PoolId,
    layout: &AreaLayout,
    area: &impl AreaBytes,
    head: &CheckpointHead,
) -> Result<Table, CopyUnusable> {
    let bytes = read_placed(layout, area, &head.place, head.table_sum()).await?;
    let number = head.stamp.number;
    let bytes = bytes.ok_or(AreaFault::NewestDamaged { sequence: head.stamp.sequence })?;
    let table = Table::decode(pool, &bytes, layout);
    let table = table.map_err(|fault| AreaFault::Malformed { number, fault })?;
    // Nobody signs a table of a former version.
    if head.by.is_some() && table.sections.iter().any(|section| section.digest.is_none()) {
        return Err(AreaFault::Unproved { number }.into());
    }
    Ok(table)
}

/// What the sections of a checkpoint say.
async fn read_sections(
    layout: &AreaLayout,
    area: &impl AreaBytes,
    head: &CheckpointHead,
    table: &Table,
    shared: &SharedHistory,
) -> Result<Metadata, CopyUnusable> {
    // Held meanwhile: who comes second is to find it.
    let mut shared = shared.checkpoint.lock().await;
    let known = shared.as_ref().filter(|(known, _)| known == head);
    let known = known.map(|(_, metadata)| metadata.clone());
    let number = head.stamp.number;
    let inconsistent = |fault| AreaFault::Inconsistent { number, fault };
    let mut restoring = Restoring::new(table.identity.clone()).map_err(inconsistent)?;
    for section in &table.sections {
        let bytes = read_placed(layout, area, &section.place, section.sum()).await?;
        let bytes = bytes.ok_or(AreaFault::NewestDamaged { sequence: head.stamp.sequence })?;
        if known.is_some() {
            continue;
        }
        let records = decode_records(&bytes);
        let records = records.map_err(|fault| AreaFault::Malformed { number, fault })?;
        records.iter().try_for_each(|record| restoring.take(record)).map_err(inconsistent)?;
    }
    if let Some(known) = known {
        return Ok(known);
    }
    let (metadata, refused) = restoring.finish(table.counters);
    if let Some(fault) = refused.first() {
        return Err(inconsistent(*fault).into());
    }
    *shared = Some((head.clone(), metadata.clone()));
    Ok(metadata)
}

/// What a place should hold, without the padding; `None` where it holds something else.
pub(crate) async fn read_placed(
    layout: &AreaLayout,
    area: &impl AreaBytes,
    place: &[BlockRun],
    sum: Sum,
) -> Result<Option<Vec<u8>>, IoError> {
    let mut found = Vec::new();
    for run in place {
        let (at, mut done) = (layout.run_offset(run), 0);
        while done < run.bytes() {
            let piece = PIECE_BYTES.min(run.bytes() - done);
            found.extend_from_slice(&area.read(at + done, piece).await?);
            done += piece;
        }
    }
    found.truncate(usize::try_from(sum.bytes).unwrap_or(usize::MAX));
    Ok(sum.is_of(&found).then_some(found))
}

/// Applies the log to the checkpoint. Who comes first does so; the others read what they have, and go on from where
/// he came to.
async fn replay<A: AreaBytes>(
    recovered: &mut Recovered,
    log: &mut Log<'_, A>,
    shared: &SharedHistory,
) -> Result<(), CopyUnusable> {
    let mut first = shared.log.try_lock().filter(|known| known.is_none());
    if first.is_none() {
        let (mut position, mut entries) = (recovered.position, Vec::new());
        while let Some(entry) = log.entry_behind(&position).await? {
            position = position.after(&entry);
            entries.push(position);
        }
        let known = shared.log.lock().await;
        match &*known {
            Some(known) if known.head == recovered.newest.head => {
                recovered.go_on_from(&entries, known.states.iter().rev());
            }
            Some(_) => {}
            // Whoever was first found his of no use.
            None => first = Some(known),
        }
        if recovered.position == position {
            return Ok(());
        }
        *log = Log::new(log.layout, log.area, log.slot);
    }
    let mut states = VecDeque::new();
    while let Some(entry) = log.entry_behind(&recovered.position).await? {
        let number = recovered.position.number;
        if !entry.is_by(recovered.position.by) {
            return Err(AreaFault::Unproved { number: entry.number }.into());
        }
        let records = decode_records(entry.payload)
            .map_err(|fault| AreaFault::Malformed { number, fault })?;
        recovered.take(&entry, &records)?;
        if first.is_some() {
            states.push_back(recovered.state());
            states.drain(..states.len().saturating_sub(KNOWN_STATES));
        }
    }
    if let Some(mut first) = first {
        *first = Some(SharedLog { head: recovered.newest.head.clone(), states });
    }
    Ok(())
}

/// Whether this is the log's end: a later entry of it behind says that one is damaged, and so does what only claims to be
/// one and isn't the next: its write was begun once the next one was on all current copies. The damaged one may be as long
/// as an entry may be, and the one behind it too.
async fn look_behind<A: AreaBytes>(
    position: &AreaPosition,
    log: &mut Log<'_, A>,
) -> Result<(), CopyUnusable> {
    let longest = log.layout.entry_bytes_max();
    let end = log.layout.log_bytes().min(position.log_at.saturating_add(2 * longest));
    // What only claims to be an entry may claim to be long: such claims are not followed for ever.
    let mut budget = (end - position.log_at).saturating_mul(4);
    let mut begun = None;
    for at in (position.log_at..end).step_by(BLOCK_BYTES) {
        let Some(claim) = entry_claim(log.bytes(at, BLOCK_BYTES as u64).await?, position.pool)
        else {
            continue;
        };
        let later = (claim.sequence, claim.epoch) == (position.sequence, position.epoch)
            && claim.number > position.number;
        if !later {
            continue;
        }
        // Right behind the last sound one is the next, whatever it claims.
        if claim.number > position.number.next() && at > position.log_at {
            begun = begun.or(Some(claim.number));
        }
        if claim.bytes as u64 > budget {
            continue;
        }
        budget -= claim.bytes as u64;
        let bytes = log.entry(at, position.pool).await?;
        if let Some(entry) = bytes.and_then(|bytes| check_entry(bytes, position.pool))
            && entry.number > position.number.next()
        {
            if !entry.is_by(position.by) {
                return Err(AreaFault::Unproved { number: entry.number }.into());
            }
            return Err(AreaFault::Gap { after: position.number, found: entry.number }.into());
        }
    }
    match begun {
        Some(begun) => Err(AreaFault::EndDamaged { after: position.number, begun }.into()),
        None => Ok(()),
    }
}

/// A log that is read forwards, in pieces.
struct Log<'a, A> {
    layout: &'a AreaLayout,
    area: &'a A,
    slot: usize,
    /// What was read, and from which offset of the log on.
    window: Vec<u8>,
    begin: u64,
}

impl<'a, A: AreaBytes> Log<'a, A> {
    fn new(layout: &'a AreaLayout, area: &'a A, slot: usize) -> Log<'a, A> {
        Log { layout, area, slot, window: Vec::new(), begin: 0 }
    }

    /// The entry that follows here, if there is a sound one.
    async fn entry_behind(
        &mut self,
        position: &AreaPosition,
    ) -> Result<Option<CheckedEntry<'_>>, IoError> {
        let bytes = self.entry(position.log_at, position.pool).await?;
        Ok(bytes.and_then(|bytes| position.entry_here(bytes)))
    }

    /// All bytes of what claims to be an entry there; `None` where nothing can be one.
    async fn entry(&mut self, at: u64, pool: PoolId) -> Result<Option<&[u8]>, IoError> {
        let claim = entry_claim(self.bytes(at, BLOCK_BYTES as u64).await?, pool);
        let fits = |bytes: &u64| *bytes <= self.layout.entry_bytes_max();
        match claim.map(|claim| claim.bytes as u64).filter(fits) {
            Some(bytes) => self.bytes(at, bytes).await.map(Some),
            None => Ok(None),
        }
    }

    /// These bytes, as far as the log goes. What lies before them isn't asked for again.
    async fn bytes(&mut self, at: u64, len: u64) -> Result<&[u8], IoError> {
        let log_bytes = self.layout.log_bytes();
        let end = at.saturating_add(len).min(log_bytes);
        if end > self.begin + self.window.len() as u64 {
            let passed = usize::try_from(at.saturating_sub(self.begin)).unwrap_or(usize::MAX);
            self.window.drain(..passed.min(self.window.len()));
            self.begin = at;
        }
        while end > self.begin + self.window.len() as u64 {
            let from = self.begin + self.window.len() as u64;
            let piece = PIECE_BYTES.min(log_bytes - from);
            let bytes = self.area.read(self.layout.log_offset(self.slot) + from, piece).await?;
            if bytes.len() as u64 != piece {
                return Err(IoError::Lost);
            }
            self.window.extend_from_slice(&bytes);
        }
        let from = usize::try_from(at - self.begin).unwrap_or(usize::MAX);
        let to = usize::try_from(end.saturating_sub(self.begin)).unwrap_or(usize::MAX);
        Ok(self.window.get(from..to).unwrap_or_default())
    }
}

#[cfg(test)]
#[path = "reading_tests.rs"]
mod tests;
