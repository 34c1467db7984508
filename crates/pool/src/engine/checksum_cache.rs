//! Checksum blocks in memory, of all volumes of an engine together, since any of them may be the one that is
//! busy: as many as fit into what was set aside. A random read of a block whose checksum isn't here costs a
//! second read.
//!
//! Who goes when it is full is found as by a clock's hand: it passes by what was used since it last came, so
//! that using a block changes no order.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::format::{CHECKSUM_ENTRIES, ChecksumBlock, GenerationId};

/// What one takes: its entries, its bits, and what finds it.
const MEMORY_BYTES: usize = 4 * CHECKSUM_ENTRIES + CHECKSUM_ENTRIES.div_ceil(8) + 192;
/// An operation needs some at once.
const BLOCKS_MIN: usize = 16;

/// The cache of an engine.
pub(crate) struct ChecksumCache {
    blocks_max: usize,
    next_user: Cell<u64>,
    state: RefCell<State>,
}

/// A user's part of the cache: no other finds what is in it. What one leaves behind nobody uses, so it is
/// replaced by and by: to look for it would hold up everybody, since there may be millions.
pub(crate) struct CachePart {
    cache: Rc<ChecksumCache>,
    user: u64,
}

#[derive(Default)]
struct State {
    places: BTreeMap<Key, usize>,
    kept: Vec<Kept>,
    hand: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    user: u64,
    group: GenerationId,
    index: u32,
}

struct Kept {
    key: Key,
    block: Rc<ChecksumBlock>,
    /// Since the hand came by.
    was_used: bool,
}

impl ChecksumCache {
    /// A cache that takes so much memory.
    pub(crate) fn new(bytes: usize) -> Rc<ChecksumCache> {
        Rc::new(ChecksumCache {
            blocks_max: (bytes / MEMORY_BYTES).max(BLOCKS_MIN),
            next_user: Cell::new(0),
            state: RefCell::default(),
        })
    }

    /// A part for one more user.
    pub(crate) fn part(self: &Rc<Self>) -> CachePart {
        let user = self.next_user.replace(self.next_user.get() + 1);
        CachePart { cache: Rc::clone(self), user }
    }
}

impl CachePart {
    /// A block, if it is there.
    pub(crate) fn get(&self, group: GenerationId, index: u32) -> Option<Rc<ChecksumBlock>> {
        let state = &mut *self.cache.state.borrow_mut();
        let place = state.places.get(&self.key(group, index))?;
        let kept = state.kept.get_mut(*place)?;
        kept.was_used = true;
        Some(Rc::clone(&kept.block))
    }

    /// Keeps a block, in the place of another version of it.
    pub(crate) fn put(&self, block: &Rc<ChecksumBlock>) {
        let key = self.key(block.group, block.index);
        let kept = Kept { key, block: Rc::clone(block), was_used: false };
        self.cache.state.borrow_mut().put(kept, self.cache.blocks_max);
    }

    /// Forgets a block.
    pub(crate) fn remove(&self, group: GenerationId, index: u32) {
        let mut state = self.cache.state.borrow_mut();
        if let Some(place) = state.places.remove(&self.key(group, index)) {
            state.leave(place);
        }
    }

    fn key(&self, group: GenerationId, index: u32) -> Key {
        Key { user: self.user, group, index }
    }
}

impl State {
    fn put(&mut self, kept: Kept, blocks_max: usize) {
        let place = match self.places.get(&kept.key) {
            Some(place) => *place,
            None if self.kept.len() < blocks_max => {
                self.places.insert(kept.key, self.kept.len());
                return self.kept.push(kept);
            }
            None => {
                let place = self.unused();
                self.places.remove(&self.kept[place].key);
                self.places.insert(kept.key, place);
                place
            }
        };
        self.kept[place] = kept;
    }

    /// The next one that wasn't used since the hand came by.
    fn unused(&mut self) -> usize {
        loop {
            let place = self.hand % self.kept.len();
            self.hand = place + 1;
            if !std::mem::take(&mut self.kept[place].was_used) {
                return place;
            }
        }
    }

    /// One that nobody finds any more goes, and the last one takes its place.
    fn leave(&mut self, place: usize) {
        self.kept.swap_remove(place);
        if let Some(moved) = self.kept.get(place) {
            self.places.insert(moved.key, place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ChecksumVersion;

    fn block(group: u64, index: u32) -> Rc<ChecksumBlock> {
        Rc::new(ChecksumBlock::unwritten(GenerationId(group), index, ChecksumVersion::INITIAL))
    }

    fn has(part: &CachePart, group: u64, index: u32) -> bool {
        part.get(GenerationId(group), index).is_some()
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let cache = ChecksumCache::new(100 * MEMORY_BYTES);
        let part = cache.part();
        for index in 0..1000 {
            part.put(&block(7, index));
            assert!(has(&part, 7, 0), "it is used all the time");
        }
        assert!(has(&part, 7, 999));
        let there = (0..1000).filter(|index| has(&part, 7, *index)).count();
        assert_eq!(there, 100);
        assert_eq!(cache.state.borrow().places.len(), 100);
    }

    #[test]
    fn parts_are_apart_and_what_is_left_behind_is_replaced() {
        let cache = ChecksumCache::new(0);
        let (one, other) = (cache.part(), cache.part());
        for index in 0..8 {
            one.put(&block(7, index));
            other.put(&block(7, index));
        }
        one.remove(GenerationId(7), 3);
        one.remove(GenerationId(7), 3);
        assert!(!has(&one, 7, 3) && has(&one, 7, 2) && has(&other, 7, 3));
        drop(one);
        for index in 8..64 {
            other.put(&block(7, index));
            assert!((0..8).all(|index| has(&other, 7, index)));
        }
        let state = cache.state.borrow();
        assert_eq!((state.kept.len(), state.places.len()), (BLOCKS_MIN, BLOCKS_MIN));
        assert!(state.kept.iter().all(|kept| kept.key.user == other.user));
    }

    #[test]
    fn a_newer_version_takes_the_place_of_the_older() {
        let part = ChecksumCache::new(0).part();
        part.put(&block(7, 0));
        let version = ChecksumVersion { epoch: 3, sequence: 5 };
        part.put(&Rc::new(ChecksumBlock::unwritten(GenerationId(7), 0, version)));
        let found = part.get(GenerationId(7), 0);
        assert_eq!(found.map(|block| block.version), Some(version));
    }
}
