//! Finding the versions that sum to a root: one candidate per checksum block of a span.
//!
//! Mostly the newest of one holder fits at once. After a crash some blocks of the span are one version
//! ahead of the root and some are not, in any mixture, so each block of a span of 17 may be either: the
//! search meets in the middle, and gives up beyond a number of combinations that only damage makes.

/// Combinations of one half, at most. Two halves of so many make a wrong match as likely as one in
/// 2^28, once per span whose newest slots don't fit.
const COMBINATIONS_MAX: usize = 1 << 18;

/// One candidate of each block such that they sum to `root`; the first ones are tried first. `None`
/// also when there are too many combinations.
pub(super) fn find(root: u64, candidates: &[Vec<u64>]) -> Option<Vec<usize>> {
    if candidates.iter().any(Vec::is_empty) {
        return None;
    }
    let first = candidates.iter().map(|of_block| of_block[0]).fold(0, u64::wrapping_add);
    if first == root {
        return Some(vec![0; candidates.len()]);
    }
    let (low, high) = candidates.split_at(middle(candidates)?);
    let mut sums: Vec<(u64, usize)> = all_sums(low)?.into_iter().zip(0..).collect();
    sums.sort_unstable();
    for (code, sum) in all_sums(high)?.into_iter().enumerate() {
        let missing = root.wrapping_sub(sum);
        let at = sums.partition_point(|(sum, _)| *sum < missing);
        if let Some((_, low_code)) = sums.get(at).filter(|(sum, _)| *sum == missing) {
            return Some([choices(low, *low_code), choices(high, code)].concat());
        }
    }
    None
}

/// Where to part the blocks so that the larger half has the fewest combinations; `None` if these are
/// too many.
fn middle(candidates: &[Vec<u64>]) -> Option<usize> {
    let product = |part: &[Vec<u64>]| {
        part.iter().map(Vec::len).try_fold(1_usize, |all, len| all.checked_mul(len))
    };
    let halves = (0..=candidates.len()).filter_map(|at| {
        let (low, high) = candidates.split_at(at);
        Some((product(low)?.max(product(high)?), at))
    });
    halves.min().filter(|(most, _)| *most <= COMBINATIONS_MAX).map(|(_, at)| at)
}

/// The sums of all combinations; a combination's place is its number in mixed radix.
fn all_sums(candidates: &[Vec<u64>]) -> Option<Vec<u64>> {
    let mut sums = vec![0_u64];
    for of_block in candidates {
        let next: Vec<u64> = sums
            .iter()
            .flat_map(|sum| of_block.iter().map(|hash| sum.wrapping_add(*hash)))
            .collect();
        sums = next;
        if sums.len() > COMBINATIONS_MAX {
            return None;
        }
    }
    Some(sums)
}

/// Which candidates the combination of this number consists of.
fn choices(candidates: &[Vec<u64>], mut code: usize) -> Vec<usize> {
    let mut choices = vec![0; candidates.len()];
    for (choice, of_block) in choices.iter_mut().zip(candidates).rev() {
        *choice = code % of_block.len();
        code /= of_block.len();
    }
    choices
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hash(block: usize, version: usize) -> u64 {
        let mut mixed = (block as u64) << 32 | version as u64 | 1 << 60;
        for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb_u64] {
            mixed = (mixed ^ mixed >> 30).wrapping_mul(factor);
        }
        mixed ^ mixed >> 31
    }

    #[test]
    fn every_mixture_of_two_versions_is_found() {
        let candidates: Vec<Vec<u64>> = (0..17).map(|b| vec![hash(b, 1), hash(b, 0)]).collect();
        for mixture in [0_usize, 1, 0x1_ffff, 0x0_5555, 0x1_0000, 0x1234] {
            let wanted: Vec<usize> = (0..17).map(|block| mixture >> block & 1).collect();
            let chosen = wanted.iter().zip(&candidates).map(|(choice, hashes)| hashes[*choice]);
            let root = chosen.fold(0, u64::wrapping_add);
            assert_eq!(find(root, &candidates), Some(wanted));
        }
        assert_eq!(find(1, &candidates), None);
    }

    #[test]
    fn blocks_may_have_different_numbers_of_candidates() {
        let candidates: Vec<Vec<u64>> = [1, 4, 2, 1, 3]
            .iter()
            .enumerate()
            .map(|(b, n)| (0..*n).map(|v| hash(b, v)).collect())
            .collect();
        let root = [0, 3, 1, 0, 2].iter().zip(&candidates).map(|(choice, hashes)| hashes[*choice]);
        let root = root.fold(0, u64::wrapping_add);
        assert_eq!(find(root, &candidates), Some(vec![0, 3, 1, 0, 2]));
        assert_eq!(find(0, &[]), Some(Vec::new()));
        assert_eq!(find(0, &[vec![0], vec![]]), None);
    }

    #[test]
    fn too_many_combinations_are_given_up() {
        let candidates: Vec<Vec<u64>> = (0..64).map(|b| vec![hash(b, 1), hash(b, 0)]).collect();
        assert_eq!(find(7, &candidates), None);
        let root = candidates.iter().map(|hashes| hashes[0]).fold(0, u64::wrapping_add);
        assert_eq!(find(root, &candidates), Some(vec![0; 64]));
    }
}
