//! Data that says where it belongs, which write it is of, and whose.

use block::SECTOR_BYTES;

/// Fills `data` (whole sectors, the first at `lba`) with version `version` of run `seed`.
pub(super) fn fill(data: &mut [u8], lba: u64, version: u64, seed: u64) {
    for (index, sector) in data.chunks_exact_mut(SECTOR_BYTES).enumerate() {
        let lba = lba + index as u64;
        let words = sector.chunks_exact_mut(8);
        let mut state = mix(seed ^ mix(lba ^ mix(version)));
        for (place, word) in words.enumerate() {
            let value = match place {
                0 => lba,
                1 => version,
                2 => seed,
                _ => {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e);
                    state ^ state >> 29
                }
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// Which version `data` says it is.
pub(super) fn version_of(data: &[u8]) -> u64 {
    data.get(8..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// What is wrong with `data`, if anything is.
pub(super) fn check(data: &[u8], lba: u64, version: u64, seed: u64) -> Option<String> {
    let mut expected = vec![0; data.len()];
    fill(&mut expected, lba, version, seed);
    let at = data.iter().zip(&expected).position(|(read, written)| read != written)?;
    let sector = &data[at / SECTOR_BYTES * SECTOR_BYTES..];
    let word = |place: usize| {
        sector[place * 8..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    Some(format!(
        "sector {} differs at byte {}: it says sector {}, version {}, run {:#x}; expected version {version}, run {seed:#x}",
        lba + (at / SECTOR_BYTES) as u64,
        at % SECTOR_BYTES,
        word(0),
        word(1),
        word(2),
    ))
}

/// Spreads the bits of a number over all of it (splitmix64's last step).
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_seen() {
        let mut data = vec![0; 4 * SECTOR_BYTES];
        fill(&mut data, 100, 7, 9);
        assert_eq!(check(&data, 100, 7, 9), None);
        for (lba, version, seed) in [(101, 7, 9), (100, 8, 9), (100, 7, 8)] {
            assert!(check(&data, lba, version, seed).is_some());
        }
        for at in [0, 23, 24, 511, 512, 2047] {
            data[at] ^= 1;
            assert!(check(&data, 100, 7, 9).is_some_and(|text| text.contains("sector")), "{at}");
            data[at] ^= 1;
        }
    }
}
