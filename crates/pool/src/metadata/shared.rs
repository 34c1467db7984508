//! Maps that share what didn't change: the metadata is cloned to plan a transaction, and a clone costs
//! nothing however large the pool is, a change only the path to what it changes.

use std::rc::Rc;

/// A sorted map. Clones share everything until one of them changes.
pub type SharedMap<K, V> = rpds::RedBlackTreeMap<K, V>;

/// Roots in a chunk: a change copies so many.
const CHUNK: usize = 256;

/// The roots of a run's groups, from the first group on. Clones share their chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// All full but the last.
    chunks: SharedMap<usize, Rc<Vec<u64>>>,
    len: usize,
}

impl Roots {
    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no group has one.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The root of a group.
    pub fn get(&self, index: usize) -> Option<u64> {
        self.chunks.get(&(index / CHUNK))?.get(index % CHUNK).copied()
    }

    /// Changes a root that is there; tells whether it is.
    pub fn set(&mut self, index: usize, root: u64) -> bool {
        let chunk = self.chunks.get_mut(&(index / CHUNK)).map(Rc::make_mut);
        let place = chunk.and_then(|chunk| chunk.get_mut(index % CHUNK));
        place.map(|place| *place = root).is_some()
    }

    /// Those of groups from one to before another, in order.
    pub fn between(&self, from: usize, to: usize) -> impl Iterator<Item = u64> + '_ {
        let chunks = self.chunks.range(from / CHUNK..);
        let roots = chunks.flat_map(|(number, chunk)| {
            chunk.iter().enumerate().map(move |(index, root)| (number * CHUNK + index, *root))
        });
        let roots = roots.skip_while(move |(index, _)| *index < from);
        roots.take_while(move |(index, _)| *index < to).map(|(_, root)| root)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.chunks.values().flat_map(|chunk| chunk.iter().copied())
    }
}

impl Extend<u64> for Roots {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, roots: I) {
        let mut roots = roots.into_iter().peekable();
        while roots.peek().is_some() {
            let (number, room) = (self.len / CHUNK, CHUNK - self.len % CHUNK);
            let more = roots.by_ref().take(room);
            match self.chunks.get_mut(&number) {
                Some(chunk) => Rc::make_mut(chunk).extend(more),
                None => self.chunks.insert_mut(number, Rc::new(more.collect())),
            }
            self.len = number * CHUNK + self.chunks.get(&number).map_or(0, |chunk| chunk.len());
        }
    }
}

impl FromIterator<u64> for Roots {
    fn from_iter<I: IntoIterator<Item = u64>>(roots: I) -> Roots {
        let mut all = Roots::default();
        all.extend(roots);
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The naive twin is a vector; clones taken on the way stay what they were.
        #[test]
        fn roots_behave_like_a_vector(
            steps in prop::collection::vec((0_usize..700, 0_usize..900, any::<u64>()), 0..12),
        ) {
            let (mut roots, mut twin) = (Roots::default(), Vec::new());
            let mut kept = Vec::new();
            for (more, at, root) in steps {
                kept.push((roots.clone(), twin.clone()));
                roots.extend((0..more as u64).map(|index| index ^ root));
                twin.extend((0..more as u64).map(|index| index ^ root));
                prop_assert_eq!(roots.set(at, root), at < twin.len());
                if let Some(place) = twin.get_mut(at) {
                    *place = root;
                }
                prop_assert_eq!(roots.get(at), twin.get(at).copied());
                kept.push((roots.clone(), twin.clone()));
                let (from, to) = (at.min(more), at.max(more));
                let between = twin.iter().copied().take(to).skip(from).collect::<Vec<_>>();
                prop_assert_eq!(roots.between(from, to).collect::<Vec<_>>(), between);
            }
            for (roots, twin) in kept {
                prop_assert_eq!(roots.len(), twin.len());
                prop_assert_eq!(roots.is_empty(), twin.is_empty());
                prop_assert_eq!(roots.iter().collect::<Vec<_>>(), twin.clone());
                prop_assert!(roots == twin.into_iter().collect::<Roots>());
            }
        }
    }
}
