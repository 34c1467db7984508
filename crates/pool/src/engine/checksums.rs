//! Checksum blocks in memory: a bounded cache of what each group's rows should be.
//!
//! A block is read from every member that has it, both slots, and the newest sequence that any of
//! them holds is believed. A holder that lags (a torn or lost write, a damaged slot) is made equal
//! before a newer block may overwrite the slot that the others rely on: otherwise a crash during
//! that write and the loss of the one good holder would together lose checksums that no log names
//! any more.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use block::{BLOCK_SECTORS, Buffer, IoError, Lba, SectorRange};
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;

use super::pool::{GroupPlace, Pool};
use super::repair::POISON;
use crate::format::{BirthId, ChecksumBlock, UncheckedChecksumBlock};

/// Why a checksum block isn't there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadError {
    /// No member that has it answers now.
    Unreachable,
    /// Every member that has it answered, and none with a sound block.
    Damaged,
}

/// A checksum block and which members lag behind it.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) block: Rc<ChecksumBlock>,
    /// Members (by index in the group) that lack it, or have a damaged slot.
    pub(crate) lagging: Rc<[usize]>,
}

impl Loaded {
    /// What an older slot is worth when the newer is damaged and nobody else has it: nothing. Rows
    /// that were first written since are unwritten there, and rows that were zeroed since still have
    /// their former checksum, which their place still matches.
    fn distrusted(mut self, pool: &Pool) -> Loaded {
        let mut block = (*self.block).clone();
        tracing::error!(
            group = %block.group, index = block.index,
            "the newest checksums of these rows are damaged, and no other disk in sight has them"
        );
        let (_, rows) = pool.shape().rows_of_block(block.index);
        (0..rows as usize).for_each(|entry| block.set(entry, Some(POISON)));
        self.block = Rc::new(block);
        // Nobody is made equal to this: whoever comes back may have the right one.
        self.lagging = Rc::new([]);
        self
    }
}

/// The cache of one volume.
pub(crate) struct Checksums {
    cache: RefCell<BTreeMap<(BirthId, u32), (u64, Loaded)>>,
    by_age: RefCell<BTreeMap<u64, (BirthId, u32)>>,
    next_age: Cell<u64>,
    /// Counts changes by folding: what was being read meanwhile may be older, and isn't kept.
    generation: Cell<u64>,
    blocks_max: usize,
}

/// Whether the block that was read is the newest that was written.
enum Newest {
    Known,
    /// No holder has two sound slots: it may be the older one.
    Damaged,
}

struct SlotRead {
    member: usize,
    slot: u32,
    answer: Result<Buffer, IoError>,
}

impl Checksums {
    pub(crate) fn new(blocks_max: usize) -> Checksums {
        Checksums {
            cache: RefCell::default(),
            by_age: RefCell::default(),
            next_age: Cell::new(0),
            generation: Cell::new(0),
            blocks_max: blocks_max.max(16),
        }
    }

    /// The block at `index` of a group's extent. `interrupted` tells whether a fold of it may have
    /// been cut short by the end of an earlier engine: then a damaged slot is that fold's, and the
    /// log still has all that it was to add.
    pub(crate) async fn load(
        &self,
        pool: &Pool,
        group: &GroupPlace,
        index: u32,
        interrupted: impl Fn() -> bool,
    ) -> Result<Loaded, LoadError> {
        if let Some(found) = self.cached(group.birth, index) {
            return Ok(found);
        }
        self.reload(pool, group, index, interrupted).await
    }

    /// The block as the members have it now, past the cache.
    pub(crate) async fn reload(
        &self,
        pool: &Pool,
        group: &GroupPlace,
        index: u32,
        interrupted: impl Fn() -> bool,
    ) -> Result<Loaded, LoadError> {
        let generation = self.generation.get();
        let loaded = match read_block(pool, group, index).await? {
            (loaded, Newest::Known) => loaded,
            (loaded, Newest::Damaged) if interrupted() => loaded,
            // Not kept: a disk that comes back may have it.
            (loaded, Newest::Damaged) => return Ok(loaded.distrusted(pool)),
        };
        if generation == self.generation.get() {
            self.keep(group.birth, index, loaded.clone());
        }
        Ok(loaded)
    }

    /// Folding brought a newer block into place.
    pub(crate) fn replace(&self, block: ChecksumBlock) {
        self.generation.set(self.generation.get() + 1);
        let key = (block.group, block.index);
        let loaded = Loaded { block: Rc::new(block), lagging: Rc::new([]) };
        self.keep(key.0, key.1, loaded);
    }

    fn cached(&self, group: BirthId, index: u32) -> Option<Loaded> {
        let mut cache = self.cache.borrow_mut();
        let (age, loaded) = cache.get_mut(&(group, index))?;
        let mut by_age = self.by_age.borrow_mut();
        by_age.remove(age);
        *age = self.next_age();
        by_age.insert(*age, (group, index));
        Some(loaded.clone())
    }

    fn keep(&self, group: BirthId, index: u32, loaded: Loaded) {
        let age = self.next_age();
        let mut cache = self.cache.borrow_mut();
        let mut by_age = self.by_age.borrow_mut();
        if let Some((older, _)) = cache.insert((group, index), (age, loaded)) {
            by_age.remove(&older);
        }
        by_age.insert(age, (group, index));
        while cache.len() > self.blocks_max {
            let Some((_, oldest)) = by_age.pop_first() else { break };
            cache.remove(&oldest);
        }
    }

    fn next_age(&self) -> u64 {
        self.next_age.set(self.next_age.get() + 1);
        self.next_age.get()
    }
}

async fn read_block(
    pool: &Pool,
    group: &GroupPlace,
    index: u32,
) -> Result<(Loaded, Newest), LoadError> {
    let shape = pool.shape();
    let mask = shape.checksum_regions(index);
    let mut reads = FuturesUnordered::new();
    let mut holders = Vec::new();
    for member in 0..group.members.len() {
        if !pool.has_all(group.birth, member, mask) {
            continue;
        }
        let Some((_, device, start)) = pool.extent_of(group, member) else { continue };
        holders.push(member);
        for slot in 0..2 {
            let sector = Lba(start.0 + shape.checksum_sector(index, slot));
            let reading = device.read(SectorRange::new(sector, BLOCK_SECTORS));
            reads.push(async move {
                let answer = reading.await.map(|completion| completion.value);
                SlotRead { member, slot, answer }
            });
        }
    }
    let mut newest: Option<ChecksumBlock> = None;
    let mut sequences: BTreeMap<usize, u64> = BTreeMap::new();
    let mut sound: BTreeMap<usize, u32> = BTreeMap::new();
    let (mut pending, mut damaged, mut silent) = (holders.len() * 2, 0, 0);
    let patience = pool.runtime.sleep(pool.limits.hedge);
    let mut patience = std::pin::pin!(patience);
    let mut impatient = false;
    while pending > 0 {
        let read = if impatient {
            let waiting = runtime::timeout(&pool.runtime, pool.limits.exclusion, reads.next());
            waiting.await.ok().flatten()
        } else {
            match select(reads.next(), patience.as_mut()).await {
                Either::Left((read, _)) => read,
                Either::Right(((), _)) => {
                    impatient = true;
                    if is_complete(&sound) {
                        break;
                    }
                    continue;
                }
            }
        };
        let Some(SlotRead { member, slot, answer }) = read else { break };
        pending -= 1;
        match answer {
            Ok(bytes) => match UncheckedChecksumBlock(&bytes).check(group.birth, index, slot) {
                Ok(block) => {
                    let seen = sequences.entry(member).or_insert(block.sequence);
                    *seen = (*seen).max(block.sequence);
                    *sound.entry(member).or_default() += 1;
                    if newest.as_ref().is_none_or(|newest| newest.sequence < block.sequence) {
                        newest = Some(block);
                    }
                }
                Err(_) => damaged += 1,
            },
            Err(IoError::Medium(_) | IoError::OutOfRange(_)) => damaged += 1,
            Err(_) => silent += 1,
        }
        if impatient && is_complete(&sound) {
            break;
        }
    }
    // A lone slot may be the older one, in which what was written since is still unwritten: to
    // believe it would turn data into zeros.
    if !is_complete(&sound) && (pending > 0 || silent > 0) {
        return Err(LoadError::Unreachable);
    }
    let Some(newest) = newest else {
        let all_damaged = !holders.is_empty() && damaged == holders.len() * 2;
        return Err(if all_damaged { LoadError::Damaged } else { LoadError::Unreachable });
    };
    // A slot that gave no answer may lag as well: writing the block there once more does no harm.
    let lags = |member: &usize| {
        sound.get(member) != Some(&2)
            || sequences.get(member).is_some_and(|sequence| *sequence < newest.sequence)
    };
    let lagging = holders.into_iter().filter(lags).collect();
    let known = if is_complete(&sound) { Newest::Known } else { Newest::Damaged };
    Ok((Loaded { block: Rc::new(newest), lagging }, known))
}

/// Whether some holder has shown both of its slots, and so its newest.
fn is_complete(sound: &BTreeMap<usize, u32>) -> bool {
    sound.values().any(|slots| *slots == 2)
}
