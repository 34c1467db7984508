//! A set of extents of one disk, as intervals: few, because space is taken in runs.

use super::SharedMap;
use crate::format::{ExtentNumber, ExtentRange};

/// Extents, as disjoint intervals that never touch each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentSet {
    /// First extent of an interval to one past its last.
    intervals: SharedMap<u32, u32>,
    len: u32,
}

impl ExtentSet {
    /// The extents 0 to `count`.
    pub fn full(count: u32) -> ExtentSet {
        let intervals = (count > 0).then_some((0, count)).into_iter().collect();
        ExtentSet { intervals, len: count }
    }

    /// Adds a range; `false`, and nothing is changed, when any of it is in already.
    pub fn insert(&mut self, range: ExtentRange) -> bool {
        let Some(end) = range.end().filter(|end| *end > range.first.0) else { return false };
        let mut start = range.first.0;
        let mut joined_end = end;
        if let Some((before, before_end)) = self.intervals.range(..=start).next_back() {
            if *before_end > start {
                return false;
            }
            if *before_end == start {
                start = *before;
            }
        }
        if let Some((after, after_end)) = self.intervals.range(range.first.0..).next() {
            if *after < end {
                return false;
            }
            if *after == end {
                joined_end = *after_end;
            }
        }
        if joined_end > end {
            self.intervals.remove_mut(&end);
        }
        self.intervals.insert_mut(start, joined_end);
        self.len += range.count;
        true
    }

    /// Takes a range out; `false`, and nothing is changed, unless all of it is in.
    pub fn remove(&mut self, range: ExtentRange) -> bool {
        let Some((before, before_end)) = self.interval_of(range) else { return false };
        let (start, end) = (range.first.0, range.first.0 + range.count);
        self.intervals.remove_mut(&before);
        if before < start {
            self.intervals.insert_mut(before, start);
        }
        if end < before_end {
            self.intervals.insert_mut(end, before_end);
        }
        self.len -= range.count;
        true
    }

    /// Whether all of a (non-empty) range is in.
    pub fn contains(&self, range: ExtentRange) -> bool {
        self.interval_of(range).is_some()
    }

    /// The interval that all of a (non-empty) range is in.
    fn interval_of(&self, range: ExtentRange) -> Option<(u32, u32)> {
        let (start, end) = (range.first.0, range.end()?);
        let before = self.intervals.range(..=start).next_back();
        let interval = before.filter(|(_, before_end)| end > start && **before_end >= end);
        interval.map(|(before, before_end)| (*before, *before_end))
    }

    /// How many consecutive extents from this one on are in.
    pub fn count_from(&self, extent: ExtentNumber) -> u32 {
        let before = self.intervals.range(..=extent.0).next_back();
        before.map_or(0, |(_, end)| end.saturating_sub(extent.0))
    }

    /// Number of extents.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first place where `count` consecutive extents are in.
    pub fn first_fit(&self, count: u32) -> Option<ExtentRange> {
        // Nearly always the first interval does, and beginning a search costs more than that.
        let fits = |(start, end): (&u32, &u32)| {
            (end - start >= count).then(|| ExtentRange::new(ExtentNumber(*start), count))
        };
        self.intervals.first().and_then(fits).or_else(|| self.intervals.iter().find_map(fits))
    }

    /// The last place where `count` consecutive extents are in.
    pub fn last_fit(&self, count: u32) -> Option<ExtentRange> {
        let fits = |(start, end): (&u32, &u32)| {
            (end - start >= count).then(|| ExtentRange::new(ExtentNumber(end - count), count))
        };
        self.intervals.last().and_then(fits).or_else(|| self.intervals.iter().rev().find_map(fits))
    }

    /// The intervals, ascending.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = ExtentRange> + '_ {
        self.intervals
            .iter()
            .map(|(start, end)| ExtentRange::new(ExtentNumber(*start), end - start))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(first: u32, count: u32) -> ExtentRange {
        ExtentRange::new(ExtentNumber(first), count)
    }

    proptest! {
        /// The naive twin is a set of numbers.
        #[test]
        fn behaves_like_a_set(steps in prop::collection::vec((any::<bool>(), 0_u32..40, 0_u32..6), 0..80)) {
            let mut set = ExtentSet::default();
            let mut twin = BTreeSet::new();
            for (insert, first, count) in steps {
                let numbers: Vec<u32> = (first..first + count).collect();
                if insert {
                    let fits = count > 0 && numbers.iter().all(|number| !twin.contains(number));
                    prop_assert_eq!(set.insert(range(first, count)), fits);
                    if fits {
                        twin.extend(numbers);
                    }
                } else {
                    let fits = count > 0 && numbers.iter().all(|number| twin.contains(number));
                    prop_assert_eq!(set.remove(range(first, count)), fits);
                    if fits {
                        twin.retain(|number| !numbers.contains(number));
                    }
                }
                prop_assert_eq!(set.len() as usize, twin.len());
                let listed: Vec<u32> = set
                    .ranges()
                    .flat_map(|range| range.first.0..range.first.0 + range.count)
                    .collect();
                for from in 0..46 {
                    let count = (from..).take_while(|number| twin.contains(number)).count();
                    prop_assert_eq!(set.count_from(ExtentNumber(from)) as usize, count);
                }
                prop_assert_eq!(listed, twin.iter().copied().collect::<Vec<_>>());
                let gaps = set.ranges().zip(set.ranges().skip(1));
                for (left, right) in gaps {
                    prop_assert!(left.first.0 + left.count < right.first.0);
                }
            }
        }
    }

    #[test]
    fn fits_are_found_from_either_end() {
        let mut set = ExtentSet::full(20);
        assert!(set.remove(range(2, 1)) && set.remove(range(17, 1)));
        assert_eq!(set.first_fit(2), Some(range(0, 2)));
        assert_eq!(set.first_fit(3), Some(range(3, 3)));
        assert_eq!(set.last_fit(2), Some(range(18, 2)));
        assert_eq!(set.last_fit(3), Some(range(14, 3)));
        assert_eq!(set.first_fit(15), None);
    }

    #[test]
    fn ranges_at_the_end_of_numbers_are_refused() {
        let mut set = ExtentSet::full(u32::MAX);
        assert!(!set.contains(range(u32::MAX, 2)));
        assert!(!set.insert(range(u32::MAX - 1, 5)));
        assert!(!set.remove(range(u32::MAX - 1, 5)));
    }
}
