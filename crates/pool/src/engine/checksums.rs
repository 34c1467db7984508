//! What is known of a volume's checksum blocks: its part of the cache, and of each span that was verified the
//! versions that count and who was shown to hold them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use block::Instance;

use super::belief::{Belief, Doubt, LoadError, believe, gather};
use super::checksum_cache::CachePart;
use super::pool::{GroupPlace, Pool};
use crate::format::{ChecksumBlock, ChecksumVersion, DiskNumber, ExtentShape, GenerationId};

/// A checksum block.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) block: Rc<ChecksumBlock>,
    /// A member that should have it answered with something else.
    pub(crate) lagging: bool,
}

/// What is known of a span that was verified.
struct Span {
    versions: Vec<ChecksumVersion>,
    /// Disks that were seen to hold all of these versions, and under which instance. Before a newer
    /// version takes the other slot, each member that it goes to must be: a crash would else take the
    /// only useful slot of one that lags.
    shown: BTreeMap<DiskNumber, Instance>,
}

/// The checksum blocks of one volume.
pub(crate) struct Checksums {
    cache: CachePart,
    spans: RefCell<BTreeMap<GenerationId, Span>>,
    /// Counts commits: what was being read meanwhile may be older, and isn't kept.
    commits: Cell<u64>,
    /// The highest sequence that was given to each block under our epoch. A version must never name
    /// two contents, and an attempt that was given up may be on some disk.
    given: RefCell<BTreeMap<(GenerationId, u32), u64>>,
}

impl Checksums {
    pub(crate) fn new(cache: CachePart) -> Checksums {
        Checksums {
            cache,
            spans: RefCell::default(),
            commits: Cell::new(0),
            given: RefCell::default(),
        }
    }

    /// The believed block at the start of `indexes` in a group's extent. The others are wanted soon: if it must
    /// be read, the same read brings them.
    pub(crate) async fn load(
        &self,
        pool: &Rc<Pool>,
        group: &GroupPlace,
        indexes: Range<u32>,
    ) -> Result<Loaded, LoadError> {
        let index = indexes.start;
        if let Some(block) = self.cache.get(group.generation, index) {
            return Ok(Loaded { block, lagging: false });
        }
        let commits = self.commits.get();
        if let Some(version) = self.version(group.generation, index) {
            let others = self.not_in_memory(group.generation, index + 1..indexes.end);
            let mut found = load_version(pool, group, (index, version), &others).await;
            if found.is_none() && !others.is_empty() {
                // A medium may take long for what isn't wanted yet.
                found = load_version(pool, group, (index, version), &[]).await;
            }
            if let Some((loaded, others)) = found {
                if commits == self.commits.get() {
                    self.cache.put(&loaded.block);
                    others.iter().for_each(|block| self.cache.put(block));
                }
                return Ok(loaded);
            }
            // The disks changed behind our back: all of the span is looked at again.
            self.forget(group.generation, pool.shape());
        }
        let Belief { blocks, heard } = believe(pool, group).await?;
        let wanted = blocks.get(index as usize).cloned();
        let known: Result<Vec<Rc<ChecksumBlock>>, Doubt> = blocks.into_iter().collect();
        let mut lagging = false;
        if let Ok(known) = known {
            let shape = pool.shape();
            let mut shown = BTreeMap::new();
            for heard in heard {
                let has = |block: &Rc<ChecksumBlock>| {
                    heard.find(shape, block.index, block.version).is_some()
                };
                if known.iter().all(has) {
                    shown.insert(group.members[heard.member].0, heard.instance);
                } else {
                    let mask = ExtentShape::CHECKSUMS;
                    lagging |= pool.has_all(group, heard.member, mask);
                }
            }
            if commits == self.commits.get() {
                known.iter().for_each(|block| self.cache.put(block));
                let versions = known.iter().map(|block| block.version).collect();
                self.spans.borrow_mut().insert(group.generation, Span { versions, shown });
            }
        }
        match wanted {
            Some(Ok(block)) => Ok(Loaded { block, lagging }),
            Some(Err(doubt)) => Err(LoadError::Doubtful(doubt)),
            None => Err(LoadError::Unreachable(Vec::new())),
        }
    }

    /// Those of a span whose versions are known, but not they.
    fn not_in_memory(
        &self,
        group: GenerationId,
        indexes: Range<u32>,
    ) -> Vec<(u32, ChecksumVersion)> {
        let spans = self.spans.borrow();
        let Some(span) = spans.get(&group) else { return Vec::new() };
        let versions = (0..).zip(&span.versions).skip(indexes.start as usize).take(indexes.len());
        let known = |index| self.cache.get(group, index).is_some();
        let lacking = versions.filter(|(index, version)| !version.is_initial() && !known(*index));
        lacking.map(|(index, version)| (index, *version)).collect()
    }

    /// The same if it is in memory.
    pub(crate) fn in_memory(&self, group: GenerationId, index: u32) -> Option<Rc<ChecksumBlock>> {
        let known = self.cache.get(group, index);
        known.or_else(|| initial(group, index, self.version(group, index)?))
    }

    /// The version that counts, of a span that was verified.
    pub(crate) fn version(&self, group: GenerationId, index: u32) -> Option<ChecksumVersion> {
        self.spans.borrow().get(&group)?.versions.get(index as usize).copied()
    }

    /// All versions that count, of a span that was verified.
    pub(crate) fn versions(&self, group: GenerationId) -> Option<Vec<ChecksumVersion>> {
        self.spans.borrow().get(&group).map(|span| span.versions.clone())
    }

    /// Whether a member was seen to hold what counts, under this instance.
    pub(crate) fn is_shown(
        &self,
        group: GenerationId,
        disk: DiskNumber,
        instance: Option<Instance>,
    ) -> bool {
        let spans = self.spans.borrow();
        let shown = spans.get(&group).and_then(|span| span.shown.get(&disk));
        shown.is_some() && shown.copied() == instance
    }

    /// A member was seen to hold what counts.
    pub(crate) fn set_shown(&self, group: GenerationId, disk: DiskNumber, instance: Instance) {
        if let Some(span) = self.spans.borrow_mut().get_mut(&group) {
            span.shown.insert(disk, instance);
        }
    }

    /// A group was initialised; these members hold it.
    pub(crate) fn initialised(
        &self,
        group: GenerationId,
        blocks: u32,
        shown: BTreeMap<DiskNumber, Instance>,
    ) {
        let versions = vec![ChecksumVersion::INITIAL; blocks as usize];
        self.spans.borrow_mut().insert(group, Span { versions, shown });
    }

    /// The next version for the slot that `now` doesn't lie in.
    pub(crate) fn next_version(
        &self,
        (group, index): (GenerationId, u32),
        now: ChecksumVersion,
        epoch: u32,
    ) -> ChecksumVersion {
        let mut given = self.given.borrow_mut();
        let before = given.entry((group, index)).or_insert(0);
        let mut sequence = now.sequence + 1;
        if sequence <= *before {
            sequence = *before + 1 + (*before + 1 - sequence) % 2;
        }
        *before = sequence;
        ChecksumVersion { epoch, sequence }
    }

    /// A release with these blocks is committed; only `reached` disks have them.
    pub(crate) fn committed(&self, block: ChecksumBlock, reached: &[DiskNumber]) {
        self.commits.set(self.commits.get() + 1);
        let block = Rc::new(block);
        if let Some(span) = self.spans.borrow_mut().get_mut(&block.group) {
            if let Some(version) = span.versions.get_mut(block.index as usize) {
                *version = block.version;
            }
            span.shown.retain(|disk, _| reached.contains(disk));
        }
        self.cache.put(&block);
    }

    /// Makes room for others in memory.
    #[cfg(test)]
    pub(crate) fn evict(&self, group: GenerationId, index: u32) {
        self.cache.remove(group, index);
    }

    /// Forgets what was seen of a span, so that it is read anew.
    pub(crate) fn forget(&self, group: GenerationId, shape: ExtentShape) {
        self.spans.borrow_mut().remove(&group);
        (0..shape.checksum_blocks()).for_each(|index| self.cache.remove(group, index));
    }
}

/// A block into which nothing was ever written.
fn initial(group: GenerationId, index: u32, version: ChecksumVersion) -> Option<Rc<ChecksumBlock>> {
    version.is_initial().then(|| Rc::new(ChecksumBlock::unwritten(group, index, version)))
}

/// A block whose version is known: one slot of whoever has it, and with the same read what is there of others.
async fn load_version(
    pool: &Rc<Pool>,
    group: &GroupPlace,
    (index, version): (u32, ChecksumVersion),
    others: &[(u32, ChecksumVersion)],
) -> Option<(Loaded, Vec<Rc<ChecksumBlock>>)> {
    if let Some(block) = initial(group.generation, index, version) {
        return Some((Loaded { block, lagging: false }, Vec::new()));
    }
    let shape = pool.shape();
    let place = |(index, version): &(u32, ChecksumVersion)| {
        version.slot() * shape.checksum_blocks() + index
    };
    let own = place(&(index, version));
    let (first, last) =
        others.iter().map(place).fold((own, own), |(a, b), at| (a.min(at), b.max(at)));
    let mut found = None;
    let gathered = gather(pool, group, first..last + 1, |heard| {
        let last = heard.last().and_then(|heard| heard.find(shape, index, version));
        found = last.map(Rc::clone);
        found.is_some()
    });
    let gathered = gathered.await;
    let lagging = gathered.heard.iter().any(|heard| {
        let mask = ExtentShape::CHECKSUMS;
        heard.find(shape, index, version).is_none() && pool.has_all(group, heard.member, mask)
    });
    let all = |(index, version): &(u32, ChecksumVersion)| {
        gathered.heard.iter().find_map(|heard| heard.find(shape, *index, *version)).cloned()
    };
    Some((Loaded { block: found?, lagging }, others.iter().filter_map(all).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::checksum_cache::ChecksumCache;

    #[test]
    fn a_version_never_names_two_contents() {
        let checksums = Checksums::new(ChecksumCache::new(0).part());
        let key = (GenerationId(7), 0);
        let next = |epoch, sequence| {
            let now = ChecksumVersion { epoch, sequence };
            let next = checksums.next_version(key, now, 5);
            assert_ne!(next.slot(), now.slot(), "it would overwrite what counts");
            next.sequence
        };
        assert_eq!(next(4, 10), 11);
        // That attempt was given up; what counts is still the same.
        assert_eq!(next(4, 10), 13);
        assert_eq!(next(5, 13), 14);
        // Blocks are told apart.
        let other = ChecksumVersion { epoch: 4, sequence: 10 };
        assert_eq!(checksums.next_version((GenerationId(7), 1), other, 5).sequence, 11);
        assert_eq!(checksums.next_version((GenerationId(8), 0), other, 5).sequence, 11);
    }
}
