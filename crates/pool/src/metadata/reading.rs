//! Reading a copy of the metadata: the headers of its checkpoints, the newest one's payload, its log to
//! the end, and behind the end as far as a damaged entry can hide a later one. In pieces, since an area
//! is long, most of it out of use, and a reader's patience is for one answer of a disk.

use block::{BLOCK_BYTES, Buffer, IoError, crc32c};

use super::area::{CheckpointHead, CheckpointSlot, check_entry, check_header, entry_claim};
use super::recover::Recovered;
use super::{AreaFault, AreaLayout, AreaPosition, decode_records};
use crate::format::PoolId;

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

/// Reads a copy.
pub async fn recover_copy(
    pool: PoolId,
    layout: &AreaLayout,
    area: &impl AreaBytes,
) -> Result<Recovered, CopyUnusable> {
    let mut found = [CheckpointSlot::Empty; 2];
    for (slot, found) in found.iter_mut().enumerate() {
        let header = area.read(layout.checkpoint_offset(slot), BLOCK_BYTES as u64).await?;
        *found = check_header(&header, pool, slot, layout);
    }
    let rank =
        |slot: usize| found[slot].head().map(|head| (head.stamp.epoch, head.stamp.generation));
    let slot = usize::from(rank(1) > rank(0));
    let other = 1 - slot;
    let CheckpointSlot::Sound(head) = found[slot] else {
        let empty = found.iter().all(|slot| *slot == CheckpointSlot::Empty);
        return Err(if empty { AreaFault::Empty } else { AreaFault::Damaged }.into());
    };
    let generation = head.stamp.generation;
    let payload = read_payload(layout, area, slot, &head).await?;
    let payload = payload.ok_or(AreaFault::NewestDamaged { generation })?;
    if found[other].head().is_none() {
        // A torn checkpoint has an older generation's entries behind it, or none.
        let mut log = Log::new(layout, area, other);
        let orphan = log.entry(0, pool).await?.and_then(|bytes| check_entry(bytes, pool));
        let later = orphan.filter(|entry| Some((entry.epoch, entry.generation)) > rank(slot));
        if let Some(orphan) = later {
            return Err(AreaFault::NewestDamaged { generation: orphan.generation }.into());
        }
    }
    let generations = (0..2).filter_map(rank).map(|(_, generation)| generation);
    let highest_generation = generations.max().unwrap_or(generation);
    let mut recovered = Recovered::of_checkpoint(pool, &head, &payload, slot, highest_generation)?;
    drop(payload);
    let mut log = Log::new(layout, area, slot);
    replay(&mut recovered, &mut log).await?;
    look_behind(&recovered.position, &mut log).await?;
    Ok(recovered)
}

/// A checkpoint's payload; `None` unless it is sound.
async fn read_payload(
    layout: &AreaLayout,
    area: &impl AreaBytes,
    slot: usize,
    head: &CheckpointHead,
) -> Result<Option<Vec<u8>>, IoError> {
    let at = layout.checkpoint_offset(slot) + BLOCK_BYTES as u64;
    let padded = head.payload_bytes.next_multiple_of(BLOCK_BYTES as u64);
    let mut payload = Vec::new();
    while (payload.len() as u64) < padded {
        let done = payload.len() as u64;
        payload.extend_from_slice(&area.read(at + done, PIECE_BYTES.min(padded - done)).await?);
    }
    payload.truncate(usize::try_from(head.payload_bytes).unwrap_or(usize::MAX));
    Ok((crc32c(&payload) == head.crc).then_some(payload))
}

async fn replay<A: AreaBytes>(
    recovered: &mut Recovered,
    log: &mut Log<'_, A>,
) -> Result<(), CopyUnusable> {
    loop {
        let position = recovered.position;
        let Some(bytes) = log.entry(position.log_at, position.pool).await? else { return Ok(()) };
        let Some(entry) = position.entry_here(bytes) else { return Ok(()) };
        let number = position.number;
        let records = decode_records(entry.payload)
            .map_err(|fault| AreaFault::Malformed { number, fault })?;
        recovered.take(&entry, &records)?;
    }
}

/// Whether this is the log's end: a later entry of it behind says that one is damaged. The damaged one
/// may be as long as an entry may be, and the one behind it too.
async fn look_behind<A: AreaBytes>(
    position: &AreaPosition,
    log: &mut Log<'_, A>,
) -> Result<(), CopyUnusable> {
    let longest = log.layout.entry_bytes_max();
    let end = log.layout.log_bytes().min(position.log_at.saturating_add(2 * longest));
    // What only claims to be an entry may claim to be long: such claims are not followed for ever.
    let mut budget = (end - position.log_at).saturating_mul(4);
    for at in (position.log_at..end).step_by(BLOCK_BYTES) {
        let Some(claim) = entry_claim(log.bytes(at, BLOCK_BYTES as u64).await?, position.pool)
        else {
            continue;
        };
        let later = (claim.generation, claim.epoch) == (position.generation, position.epoch)
            && claim.number > position.number;
        if !later || claim.bytes as u64 > budget {
            continue;
        }
        budget -= claim.bytes as u64;
        let bytes = log.entry(at, position.pool).await?;
        if let Some(entry) = bytes.and_then(|bytes| check_entry(bytes, position.pool))
            && entry.number > position.number.next()
        {
            return Err(AreaFault::Gap { after: position.number, found: entry.number }.into());
        }
    }
    Ok(())
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
