//! Which checksum blocks to believe. A group's blocks are a span, and its root in the metadata says
//! which version of each counts: what is read from disks is believed only if one sound slot per block
//! can be chosen so that their versions sum to it. One holder's slots suffice, also alone; being the
//! newest present, agreement, or silence of the others prove nothing.
//!
//! What can't be found is **doubtful**: it is never kept, copied or used to mend anything. A disk that
//! isn't present may have it. Only when all disks of the group have answered, none of them with older
//! contents than it had applied, may a block be written anew, with all of its rows lost.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use block::{BLOCK_BYTES, BLOCK_SECTORS, BlockDevice, Buffer, Instance, IoError, Lba};

use super::disk_work::instance_now;
use super::limits::LOOKS_MAX;
use super::pool::{GroupPlace, Pool};
use super::version_search;
use crate::format::{
    ChecksumBlock, ChecksumVersion, DiskNumber, ExtentShape, UncheckedChecksumBlock, version_hash,
};
use block::read_seen;

/// Versions that a block is looked for under when no disk has it: so many sequences after the newest
/// sound one (one, or three after an attempt that was given up).
const LATER_SEQUENCES: u64 = 3;
/// Epochs that it is looked for under, the latest ones.
const LATER_EPOCHS: u32 = 8;
/// Sequences that a block is looked for under of which no slot is sound.
const UNKNOWN_SEQUENCES: u64 = 64;

/// Why a checksum block isn't known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LoadError {
    /// Nobody who may have it answers now. Named are those who take part and don't answer.
    Unreachable(Vec<DiskNumber>),
    /// All who take part answered, and nobody has it.
    Doubtful(Doubt),
}

/// What is known of a checksum block that nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// Every disk of the group has answered, and the rest of the span is known: nothing is left to
    /// wait for.
    pub(crate) is_lost: bool,
    /// Some slots couldn't be read: it may be in one of them.
    pub(crate) is_unread: bool,
    /// What the root has of it.
    pub(crate) hash: u64,
    /// The highest sequence of it that was seen.
    pub(crate) newest_sequence: u64,
}

/// What one member's checksum blocks are: by position, slot 0 of all, then slot 1.
pub(super) struct Heard {
    pub(super) member: usize,
    pub(super) instance: Instance,
    /// Some slots of it couldn't be read.
    is_unread: bool,
    first: u32,
    blocks: Vec<Option<Rc<ChecksumBlock>>>,
}

impl Heard {
    /// Whether it has a block of this version.
    pub(super) fn find(
        &self,
        shape: ExtentShape,
        index: u32,
        version: ChecksumVersion,
    ) -> Option<&Rc<ChecksumBlock>> {
        let position = version.slot() * shape.checksum_blocks() + index;
        let block = self.blocks.get(position.checked_sub(self.first)? as usize)?.as_ref();
        block.filter(|block| block.version == version)
    }

    /// Its sound slots of a block.
    fn slots(&self, shape: ExtentShape, index: u32) -> impl Iterator<Item = &Rc<ChecksumBlock>> {
        let positions = [index, shape.checksum_blocks() + index];
        let blocks =
            positions.map(|position| position.checked_sub(self.first).map(|at| at as usize));
        blocks.into_iter().filter_map(|at| self.blocks.get(at?)?.as_ref())
    }
}

/// What the members of a group answered.
pub(super) struct Gathered {
    pub(super) heard: Vec<Heard>,
    /// Members that take part and should have it, and didn't answer.
    silent: Vec<DiskNumber>,
    /// A member that should have it is among those heard.
    holder: bool,
    /// Every member was heard.
    everyone: bool,
}

/// What a span is, block by block.
pub(super) struct Belief {
    pub(super) blocks: Vec<Result<Rc<ChecksumBlock>, Doubt>>,
    pub(super) heard: Vec<Heard>,
}

/// Reads a group's checksum blocks until those that the root names are found.
pub(super) async fn believe(pool: &Rc<Pool>, group: &GroupPlace) -> Result<Belief, LoadError> {
    let (begun, mut looks) = (pool.runtime.now(), 0);
    loop {
        let root = pool.root_of(group.generation).ok_or(LoadError::Unreachable(Vec::new()))?;
        let believed = believe_under(pool, group, root).await;
        looks += 1;
        let doubt = match &believed {
            Ok(belief) => belief.blocks.iter().find_map(|block| block.as_ref().err()),
            Err(LoadError::Doubtful(doubt)) => Some(doubt),
            Err(LoadError::Unreachable(_)) => None,
        };
        // Unless a look took long because somebody hangs.
        let is_quick = pool.runtime.now().since(begun) < pool.limits.eviction;
        if doubt.is_some_and(|doubt| !doubt.is_unread) && looks < LOOKS_MAX && is_quick {
            continue;
        }
        // A release that was committed meanwhile, and a later one under way, may have overwritten what
        // this root names.
        if believed.is_ok() || pool.root_of(group.generation) == Some(root) {
            return believed;
        }
    }
}

async fn believe_under(
    pool: &Rc<Pool>,
    group: &GroupPlace,
    root: u64,
) -> Result<Belief, LoadError> {
    let mut found = None;
    let blocks = pool.shape().checksum_blocks();
    let gathered = gather(pool, group, 0..2 * blocks, |heard| {
        found = choose(pool, group, root, heard);
        found.is_some()
    });
    let gathered = gathered.await;
    if let Some(blocks) = found {
        let blocks = blocks.into_iter().map(Ok).collect();
        return Ok(Belief { blocks, heard: gathered.heard });
    }
    if !gathered.holder || !gathered.silent.is_empty() {
        return Err(LoadError::Unreachable(gathered.silent));
    }
    doubt(pool, group, root, gathered).map_err(LoadError::Doubtful)
}

/// The members' slots at `positions`: those that should have them first, one after the other, until
/// `is_enough`; at last those that missed something.
pub(super) async fn gather(
    pool: &Rc<Pool>,
    group: &GroupPlace,
    positions: Range<u32>,
    mut is_enough: impl FnMut(&[Heard]) -> bool,
) -> Gathered {
    let members = group.members.len();
    let has = |member: &usize| pool.has_all(group, *member, ExtentShape::CHECKSUMS);
    // Groups begin with different members, so that no disk answers for all.
    let turn = group.generation.0 as usize;
    let all = || (0..members).map(|member| (member + turn) % members);
    let order = all().filter(has).chain(all().filter(|member| !has(member)));
    let asks = order.filter_map(|member| {
        let (disk, device, start) = pool.extent_of(group, member)?;
        let positions = positions.clone();
        Some(async move {
            let heard = hear(pool.shape(), group, member, &*device, start, positions).await?;
            pool.expect_instance(&disk, heard.instance).map(|()| heard)
        })
    });
    let mut heard: Vec<Heard> = Vec::new();
    let asking = pool.ask_in_turn(asks, |answer: Result<Heard, IoError>| {
        answer.is_ok_and(|answer| {
            heard.push(answer);
            is_enough(&heard)
        })
    });
    asking.await;
    let answered: BTreeSet<usize> = heard.iter().map(|heard| heard.member).collect();
    let silent = (0..members).filter(|member| has(member) && !answered.contains(member));
    let silent = silent.map(|member| group.members[member].0);
    let holder = answered.iter().any(has);
    Gathered {
        silent: silent.filter(|disk| !pool.is_out(*disk)).collect(),
        holder,
        everyone: answered.len() == members,
        heard,
    }
}

/// Reads checksum slots of one member.
pub(super) async fn hear(
    shape: ExtentShape,
    group: &GroupPlace,
    member: usize,
    device: &dyn BlockDevice,
    start: Lba,
    positions: Range<u32>,
) -> Result<Heard, IoError> {
    let sector = Lba(start.0 + u64::from(positions.start) * BLOCK_SECTORS);
    let (instance, bytes) = read_slots(device, sector, positions.len()).await?;
    let is_unread = bytes.iter().any(Option::is_none);
    let blocks = positions.clone().zip(bytes).map(|(position, bytes)| {
        let (slot, index) =
            (position / shape.checksum_blocks(), position % shape.checksum_blocks());
        UncheckedChecksumBlock(&bytes?).check(group.generation, index, slot).ok().map(Rc::new)
    });
    let blocks = blocks.collect();
    Ok(Heard { member, instance, is_unread, first: positions.start, blocks })
}

/// Blocks one after the other; `None` for those that can't be read.
async fn read_slots(
    device: &dyn BlockDevice,
    start: Lba,
    count: usize,
) -> Result<(Instance, Vec<Option<Buffer>>), IoError> {
    match read_seen(device, start, count as u64 * BLOCK_SECTORS).await {
        Ok(seen) => {
            let bytes = seen.value;
            let block = |at: usize| bytes.slice(at * BLOCK_BYTES, (at + 1) * BLOCK_BYTES);
            return Ok((seen.instance, (0..count).map(|at| Some(block(at))).collect()));
        }
        Err(IoError::Medium(_)) => {}
        Err(error) => return Err(error),
    }
    let (mut instance, mut blocks) = (None, Vec::with_capacity(count));
    for at in 0..count {
        let sector = Lba(start.0 + at as u64 * BLOCK_SECTORS);
        match read_seen(device, sector, BLOCK_SECTORS).await {
            Ok(seen) => {
                if instance.is_some_and(|instance| instance != seen.instance) {
                    return Err(IoError::Restarted { now: seen.instance });
                }
                instance = Some(seen.instance);
                blocks.push(Some(seen.value));
            }
            Err(IoError::Medium(_)) => blocks.push(None),
            Err(error) => return Err(error),
        }
    }
    // Errors don't tell whose they are: where no block could be read, something else is.
    let instance = match instance {
        Some(instance) => instance,
        None => instance_now(device).await?,
    };
    Ok((instance, blocks))
}

/// One sound slot per block, of whoever was heard, that sum to the root.
fn choose(
    pool: &Rc<Pool>,
    group: &GroupPlace,
    root: u64,
    heard: &[Heard],
) -> Option<Vec<Rc<ChecksumBlock>>> {
    let shape = pool.shape();
    let candidates: Vec<Vec<Rc<ChecksumBlock>>> =
        (0..shape.checksum_blocks()).map(|index| sound(shape, heard, index)).collect();
    let hashes: Vec<Vec<u64>> = candidates
        .iter()
        .map(|blocks| {
            blocks.iter().map(|block| hash_of(pool, group, block.index, block.version)).collect()
        })
        .collect();
    let choice = version_search::find(root, &hashes)?;
    Some(choice.iter().zip(&candidates).map(|(at, blocks)| Rc::clone(&blocks[*at])).collect())
}

/// The sound slots of a block, newest first, each version once.
fn sound(shape: ExtentShape, heard: &[Heard], index: u32) -> Vec<Rc<ChecksumBlock>> {
    let slots = heard.iter().flat_map(|heard| heard.slots(shape, index));
    let mut blocks: Vec<Rc<ChecksumBlock>> = slots.map(Rc::clone).collect();
    blocks.sort_by_key(|block| std::cmp::Reverse(block.version));
    blocks.dedup_by_key(|block| block.version);
    blocks
}

fn hash_of(pool: &Rc<Pool>, group: &GroupPlace, index: u32, version: ChecksumVersion) -> u64 {
    version_hash(pool.lineage, group.generation, index, version)
}

/// Which blocks of a span nobody has: those in whose place a later version makes the sum right. If
/// there are none such, the whole span is doubtful.
fn doubt(
    pool: &Rc<Pool>,
    group: &GroupPlace,
    root: u64,
    gathered: Gathered,
) -> Result<Belief, Doubt> {
    let shape = pool.shape();
    let count = shape.checksum_blocks();
    let candidates: Vec<Vec<Rc<ChecksumBlock>>> =
        (0..count).map(|index| sound(shape, &gathered.heard, index)).collect();
    let newest = |index: u32| candidates[index as usize].first().map(|block| block.version);
    let hashes: Vec<Vec<u64>> = (0..count)
        .map(|index| {
            let known = candidates[index as usize].iter().map(|block| block.version);
            let all = known.chain(later_versions(newest(index), pool.epoch.0 as u32));
            all.map(|version| hash_of(pool, group, index, version)).collect()
        })
        .collect();
    let is_unread = gathered.heard.iter().any(|heard| heard.is_unread);
    let seen = |index: u32| newest(index).map_or(0, |version| version.sequence);
    let rolled_back = |(disk, _): &(DiskNumber, _)| {
        pool.member(*disk).is_none_or(|member| member.rolled_back.get())
    };
    let all_heard = gathered.everyone && !group.members.iter().any(rolled_back);
    let choice = version_search::find(root, &hashes);
    let Some(choice) = choice else {
        let newest_sequence = (0..count).map(seen).max().unwrap_or(0);
        // A span of one block, of which no slot is sound, needs no search.
        let is_lost = all_heard && count == 1 && candidates[0].is_empty();
        return Err(Doubt { is_lost, is_unread, hash: root, newest_sequence });
    };
    let blocks = (0..count).zip(choice).map(|(index, at)| {
        let doubt = Doubt {
            is_lost: all_heard,
            is_unread,
            hash: hashes[index as usize][at],
            newest_sequence: seen(index) + LATER_SEQUENCES.max(UNKNOWN_SEQUENCES),
        };
        candidates[index as usize].get(at).map(Rc::clone).ok_or(doubt)
    });
    Ok(Belief { blocks: blocks.collect(), heard: gathered.heard })
}

/// Versions that a block may have whose newest sound one is `newest`.
fn later_versions(
    newest: Option<ChecksumVersion>,
    epoch: u32,
) -> impl Iterator<Item = ChecksumVersion> {
    let (sequence, more) = match newest {
        Some(newest) => (newest.sequence, LATER_SEQUENCES),
        None => (0, UNKNOWN_SEQUENCES),
    };
    let oldest = newest.map_or(0, |newest| newest.epoch);
    let latest = epoch.saturating_sub(LATER_EPOCHS).max(oldest)..=epoch;
    let epochs: BTreeSet<u32> = latest.chain([oldest]).collect();
    epochs.into_iter().flat_map(move |epoch| {
        (1..=more).map(move |later| ChecksumVersion { epoch, sequence: sequence + later })
    })
}
