//! Roots: which version of each checksum block of a group counts, as one number in the metadata.
//!
//! A span's root is the wrapping sum, over its blocks, of SipHash-2-4 (key: the pool's lineage, as two
//! little-endian numbers) of
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 8 | generation id of the group |
//! | 8 | 4 | index of the block |
//! | 12 | 4 | epoch of its version |
//! | 16 | 8 | sequence of its version |
//!
//! It is committed with each release. What disks hold is believed only if one version per block can be
//! found on them that sum to it. That a slot is the newest present, that holders agree, or that nobody
//! else answers proves nothing: a write may be lost, a disk rolled back, a slot rotten, a holder away.
//!
//! A sum, so that a release needs to know only the blocks that it changes; of keyed hashes, so that
//! versions that differ by one here and one there don't make the same sum.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::{ChecksumVersion, GenerationId, Lineage};

/// What a checksum block of this version adds to its span's root.
pub fn version_hash(
    lineage: Lineage,
    group: GenerationId,
    index: u32,
    version: ChecksumVersion,
) -> u64 {
    let mut message = [0; 24];
    message[..8].copy_from_slice(&group.0.to_le_bytes());
    message[8..12].copy_from_slice(&index.to_le_bytes());
    message[12..16].copy_from_slice(&version.epoch.to_le_bytes());
    message[16..].copy_from_slice(&version.sequence.to_le_bytes());
    let mut hasher = SipHasher24::new_with_key(lineage.0.as_bytes());
    hasher.write(&message);
    hasher.finish()
}

/// The root of a group that was just initialised, with `blocks` checksum blocks.
pub fn initial_root(lineage: Lineage, group: GenerationId, blocks: u32) -> u64 {
    let hashes =
        (0..blocks).map(|index| version_hash(lineage, group, index, ChecksumVersion::INITIAL));
    hashes.fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// The first ones of the vectors that the authors of SipHash published: key 00 01 .. 0f, message
    /// 00 01 .. of each length.
    #[test]
    fn it_is_siphash_2_4() {
        let key: [u8; 16] = std::array::from_fn(|index| index as u8);
        let message: [u8; 24] = std::array::from_fn(|index| index as u8);
        let hash = |length: usize| {
            let mut hasher = SipHasher24::new_with_key(&key);
            hasher.write(&message[..length]);
            hasher.finish()
        };
        assert_eq!(hash(0), 0x726f_db47_dd0e_0e31);
        assert_eq!(hash(1), 0x74f8_39c5_93dc_67fd);
        assert_eq!(hash(8), 0x93f5_f579_9a93_2462);
        assert_eq!(hash(15), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn every_field_counts() {
        let (lineage, other) = (Lineage(Uuid::from_u128(1)), Lineage(Uuid::from_u128(2)));
        let version = |epoch, sequence| ChecksumVersion { epoch, sequence };
        let hashes = [
            version_hash(lineage, GenerationId(1), 2, version(3, 4)),
            version_hash(other, GenerationId(1), 2, version(3, 4)),
            version_hash(lineage, GenerationId(2), 2, version(3, 4)),
            version_hash(lineage, GenerationId(1), 3, version(3, 4)),
            version_hash(lineage, GenerationId(1), 2, version(4, 4)),
            version_hash(lineage, GenerationId(1), 2, version(3, 5)),
        ];
        let different: std::collections::BTreeSet<u64> = hashes.into_iter().collect();
        assert_eq!(different.len(), hashes.len());
    }

    /// One block ahead and another one behind don't make up for each other.
    #[test]
    fn the_sum_tells_which_block_is_which() {
        let lineage = Lineage(Uuid::from_u128(1));
        let root = |sequences: [u64; 2]| {
            (0_u32..2)
                .map(|index| {
                    let sequence = sequences[index as usize];
                    version_hash(
                        lineage,
                        GenerationId(7),
                        index,
                        ChecksumVersion { epoch: 1, sequence },
                    )
                })
                .fold(0, u64::wrapping_add)
        };
        assert_ne!(root([5, 5]), root([6, 4]));
        assert_ne!(root([5, 6]), root([6, 5]));
    }
}
