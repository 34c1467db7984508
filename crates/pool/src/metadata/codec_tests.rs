#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::format::{DiskId, ExtentNumber, RecordNumber, ReleaseNumber, VolumeId};
use crate::metadata::testing::history;

#[test]
fn every_kind_of_record_round_trips() {
    let records = history();
    let bytes = encode_records(&records);
    assert_eq!(decode_records(&bytes), Ok(records.clone()));
    for record in records {
        let bytes = encode_records(std::slice::from_ref(&record));
        assert_eq!(decode_records(&bytes), Ok(vec![record.clone()]));
        for end in 1..bytes.len() {
            assert!(decode_records(&bytes[..end]).is_err(), "{record:?} cut at {end}");
        }
    }
}

#[test]
fn golden_bytes() {
    let released = MetaRecord::Released {
        volume: VolumeId(1),
        log: RecordNumber(300),
        release: ReleaseNumber(7),
        touched: vec![DiskNumber(2)],
        dirty_regions: [((GenerationId(9), DiskNumber(1)), 0x0102_0304_0506_0708)].into(),
        roots: vec![RootChange { group: GenerationId(9), root: 0x1112_1314_1516_1718 }],
    };
    let resized = MetaRecord::VolumeResized { id: VolumeId(1), bytes: 4096 };
    assert_eq!(
        encode_records(&[released, resized]),
        [
            17, 1, 0xac, 2, 7, 1, 2, 1, 9, 1, 8, 7, 6, 5, 4, 3, 2, 1, 1, 9, 0x18, 0x17, 0x16, 0x15,
            0x14, 0x13, 0x12, 0x11, 5, 1, 0x80, 0x20
        ]
    );
    let extents = ExtentRange::new(ExtentNumber(5), 300);
    let begun = MetaRecord::AreaBegun { disk: DiskNumber(2), extents };
    let switched = MetaRecord::AreaSwitched { disk: DiskNumber(2) };
    let cancelled = MetaRecord::AreaCancelled { disk: DiskNumber(2) };
    let bytes = encode_records(&[begun, switched, cancelled]);
    assert_eq!(bytes, [25, 2, 5, 0xac, 2, 26, 2, 27, 2]);
    let added = |area| MetaRecord::DiskAdded {
        number: DiskNumber(2),
        id: DiskId::default(),
        node: uuid::Uuid::nil(),
        node_name: String::new(),
        bytes: 4096,
        area,
    };
    let (with, without) = (encode_records(&[added(Some(extents))]), encode_records(&[added(None)]));
    assert_eq!(with[34..], [0, 0x80, 0x20, 0xac, 2, 5]);
    assert_eq!(without[34..], [0, 0x80, 0x20, 0]);
}

#[test]
fn unknown_tags_and_states_are_malformed() {
    for bytes in [&[0_u8][..], &[99], &[255], &[3, 0, 3], &[8, 1, 0, 2]] {
        assert!(decode_records(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn dirty_regions_are_ascending_and_neighbours_take_a_byte_for_their_group() {
    let bytes = |entries: &[(u8, u8)]| {
        let mut bytes = vec![15, entries.len() as u8];
        for (further, disk) in entries {
            bytes.extend([*further, *disk, 1, 0, 0, 0, 0, 0, 0, 0x80]);
        }
        bytes
    };
    for entries in [&[(9, 1), (0, 1)][..], &[(9, 2), (0, 1)]] {
        assert!(decode_records(&bytes(entries)).is_err(), "{entries:?}");
    }
    assert!(decode_records(&bytes(&[(9, 1), (0, 2), (1, 0)])).is_ok());
    let last = [((GenerationId(u64::MAX), DiskNumber(0)), 1)].into();
    let mut beyond = encode_records(&[MetaRecord::RegionsDirtied(last)]);
    beyond[1] = 2;
    beyond.extend([1, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert!(decode_records(&beyond).is_err());
    let neighbours =
        (0..1000).map(|index| ((GenerationId(1 << 40 | index), DiskNumber(77)), u64::MAX));
    let bytes = encode_records(&[MetaRecord::RegionsDirtied(neighbours.collect())]);
    assert!(bytes.len() < 10 * 1000 + 16, "{}", bytes.len());
}

proptest! {
    #[test]
    fn any_dirty_regions_round_trip(
        dirty_regions in prop::collection::btree_map((any::<u64>(), any::<u32>()), any::<u64>(), 0..20)
    ) {
        let dirty_regions = dirty_regions.into_iter().map(|((group, disk), mask)| ((GenerationId(group), DiskNumber(disk)), mask));
        let records = [MetaRecord::RegionsCleaned(dirty_regions.collect())];
        prop_assert_eq!(decode_records(&encode_records(&records)), Ok(records.to_vec()));
    }

    /// What decodes is what would be encoded: there is one encoding of everything.
    #[test]
    fn hostile_bytes_neither_panic_nor_have_a_second_meaning(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        if let Ok(records) = decode_records(&bytes) {
            prop_assert_eq!(encode_records(&records), bytes);
        }
        let mut sound = encode_records(&history());
        let at = at.index(sound.len());
        sound[at] ^= flip;
        if let Ok(records) = decode_records(&sound) {
            prop_assert_eq!(encode_records(&records), sound);
        }
    }
}
