//! Generators that follow from the run's seed. Each part of the world draws from a generator of its
//! own, so that one more draw in the network doesn't change what the disks do: a story stays
//! recognisable while a failure is being narrowed down.

use rand::SeedableRng;
use rand::rngs::SmallRng;

/// A generator for the part called `label` of the run `seed`.
pub fn fork(seed: u64, label: &str) -> SmallRng {
    SmallRng::seed_from_u64(fork_seed(seed, label))
}

/// A seed for the part called `label` of the run `seed`.
pub fn fork_seed(seed: u64, label: &str) -> u64 {
    label.bytes().fold(mix(seed), |state, byte| mix(state ^ u64::from(byte)))
}

/// One step of splitmix64: neighbouring inputs yield unrelated outputs.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_seeds_both_count() {
        assert_eq!(fork_seed(1, "disk"), fork_seed(1, "disk"));
        assert_ne!(fork_seed(1, "disk"), fork_seed(2, "disk"));
        assert_ne!(fork_seed(1, "disk"), fork_seed(1, "link"));
    }
}
