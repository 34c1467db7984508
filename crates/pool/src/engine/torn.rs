//! Rows of which the power may have gone in the middle of an overwrite (docs/engine.md, 10.20): each of their
//! sectors is old or new, on each position.

use block::{BLOCK_BYTES, SECTOR_BYTES};

use crate::format::ROW_SECTORS;

/// Composes a row of what positions have that should have all of it, none of which has it whole; `first` of them
/// is the one that was written before the others, if it is there. `is_new` tells of a sector whether it is what
/// was being written, `is_old` of a row whether it is what was there before.
///
/// What has nothing new wasn't torn. What is new anywhere is new. What is new nowhere is old, if all positions
/// have the same; where they differ somebody is rotten. If the first one is torn, the others weren't begun, and
/// must be whole: who isn't is rotten, and the first one counts as it is. If another one was begun, the first
/// one was whole, and what isn't new there is rotten. Where neither shows, the checksum of the old row may.
pub(super) fn compose(
    copies: &[&[u8]],
    first: Option<usize>,
    is_new: impl Fn(usize, &[u8]) -> bool,
    is_old: impl Fn(&[u8]) -> bool,
) -> Option<Vec<u8>> {
    let sector = |copy: usize, at: usize| &copies[copy][at * SECTOR_BYTES..(at + 1) * SECTOR_BYTES];
    let has_new = |copy: usize, at: usize| is_new(at, sector(copy, at));
    let all = || 0..copies.len();
    let row = |from: &dyn Fn(usize) -> Option<usize>| {
        let mut row = Vec::with_capacity(BLOCK_BYTES);
        for at in 0..ROW_SECTORS {
            row.extend_from_slice(sector(from(at)?, at));
        }
        Some(row)
    };
    let new_at = |at: usize| all().find(|copy| has_new(*copy, at));
    if !(0..ROW_SECTORS).any(|at| new_at(at).is_some()) {
        return None;
    }
    // What is new nowhere, as these have it.
    let agreed = |among: &[usize], at: usize| {
        let one = *among.first()?;
        among.iter().all(|copy| sector(*copy, at) == sector(one, at)).then_some(one)
    };
    let every: Vec<usize> = all().collect();
    let whole = row(&|at| new_at(at).or_else(|| agreed(&every, at)));
    if whole.is_some() {
        return whole;
    }
    // What a position has of the old row, and of the others what it doesn't have.
    let old = all().find_map(|one| {
        let old = row(&|at| {
            let mut order = std::iter::once(one).chain(all());
            order.find(|copy| !has_new(*copy, at)).or(Some(one))
        });
        old.filter(|old| is_old(old))
    });
    if old.is_some() {
        return old;
    }
    let first = first?;
    let others: Vec<usize> = all().filter(|copy| *copy != first).collect();
    let begun = |at: usize| others.iter().any(|copy| has_new(*copy, at));
    match (0..ROW_SECTORS).any(|at| begun(at) && !has_new(first, at)) {
        true => row(&|at| new_at(at).or_else(|| agreed(&others, at))),
        false if (0..ROW_SECTORS).any(begun) => None,
        false => Some(copies[first].to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of which sector `i` is `row[i]`.
    fn row(sectors: [u8; ROW_SECTORS]) -> Vec<u8> {
        sectors.iter().flat_map(|byte| [*byte; SECTOR_BYTES]).collect()
    }

    /// Composes where 1 is old and 2 is new.
    fn composed(copies: &[[u8; ROW_SECTORS]]) -> Option<[u8; ROW_SECTORS]> {
        let copies: Vec<Vec<u8>> = copies.iter().copied().map(row).collect();
        let copies: Vec<&[u8]> = copies.iter().map(Vec::as_slice).collect();
        let is_old = |row: &[u8]| row.iter().all(|byte| *byte == 1);
        let found = compose(&copies, Some(0), |_, sector| sector[0] == 2, is_old);
        found.map(|found| std::array::from_fn(|at| found[at * SECTOR_BYTES]))
    }

    #[test]
    fn the_only_one_in_sight_is_taken_as_it_is_if_something_is_new() {
        let torn = [1, 2, 2, 1, 1, 2, 1, 1];
        assert_eq!(composed(&[torn]), Some(torn));
        assert_eq!(composed(&[[1, 1, 9, 1, 1, 1, 1, 1]]), None);
        assert_eq!(composed(&[]), None);
    }

    #[test]
    fn two_that_are_torn_make_one() {
        let copies = [[1, 2, 1, 1, 1, 2, 1, 1], [1, 1, 2, 1, 1, 1, 1, 1]];
        assert_eq!(composed(&copies), Some([1, 2, 2, 1, 1, 2, 1, 1]));
    }

    #[test]
    fn rot_is_never_taken_from_one_where_the_other_is_torn() {
        let rotten = [1, 1, 1, 9, 1, 1, 1, 1];
        // Where it rotted the other one is new.
        assert_eq!(composed(&[[1, 1, 1, 2, 1, 1, 1, 1], rotten]), Some([1, 1, 1, 2, 1, 1, 1, 1]));
        // Where it rotted the other one is old.
        assert_eq!(composed(&[[2, 1, 1, 1, 1, 1, 1, 1], rotten]), Some([1; ROW_SECTORS]));
        assert_eq!(composed(&[rotten, [2, 1, 1, 1, 1, 1, 2, 1]]), Some([1; ROW_SECTORS]));
        // It rotted everywhere, and the one that was written first is torn.
        let torn = [1, 2, 2, 1, 1, 2, 1, 1];
        assert_eq!(composed(&[torn, [9; ROW_SECTORS]]), Some(torn));
        // The first one had all of it, and rotted then.
        let rotten = [2, 2, 2, 9, 2, 2, 9, 2];
        let second = [1, 1, 1, 1, 1, 1, 2, 1];
        assert_eq!(composed(&[rotten, second]), Some([2, 2, 2, 1, 2, 2, 2, 2]));
        // The same, and nobody can tell: what is new on the second one may be what was there before.
        assert_eq!(composed(&[[2, 2, 2, 9, 2, 2, 2, 2], [2, 1, 1, 1, 1, 1, 1, 1]]), None);
    }
}
