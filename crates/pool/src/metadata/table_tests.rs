#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::format::{MIB, VolumeId};
use crate::metadata::testing::{POOL, empty_pool};

fn layout() -> AreaLayout {
    AreaLayout::new(8 * MIB).unwrap()
}

fn section(kind: SectionKind, at: u64, bytes: u64, place: &[(u32, u32)]) -> Section {
    let place = place.iter().map(|(first, count)| BlockRun { first: *first, count: *count });
    let first = SectionKey { volume: VolumeId(3), lane: 1, at };
    Section { kind, first, bytes, crc: 0x0102_0304, place: place.collect(), digest: None }
}

fn table(sections: Vec<Section>) -> Table {
    let metadata = empty_pool(FailureDomain::Node);
    Table { identity: metadata.pool().clone(), counters: metadata.counters(), sections }
}

fn sound() -> Table {
    table(vec![
        section(SectionKind::Disks, 0, 5000, &[(1, 2)]),
        section(SectionKind::Runs, 4, 4096, &[(65537, 1)]),
        section(SectionKind::Runs, 5, 9000, &[(7, 1), (3, 2)]),
    ])
}

#[test]
fn a_table_round_trips() {
    let mut digested = sound();
    for (index, section) in digested.sections.iter_mut().enumerate() {
        section.digest = Some(Digest::of(&[index as u8]));
    }
    let without_digests = sound().encode().len();
    for table in [table(Vec::new()), sound(), digested] {
        let bytes = table.encode();
        assert_eq!(Table::decode(POOL, &bytes, &layout()), Ok(table));
        for end in (0..bytes.len()).filter(|end| *end != without_digests) {
            assert!(Table::decode(POOL, &bytes[..end], &layout()).is_err(), "cut at {end}");
        }
    }
}

#[test]
fn golden_bytes() {
    let bytes = table(vec![section(SectionKind::Runs, 300, 5000, &[(65537, 2)])]).encode();
    let head = b"\x80\x80\x80\x02\x01\x07cluster\x01\x01\x00\x01";
    assert_eq!(&bytes[..head.len()], head);
    assert_eq!(
        bytes[head.len()..],
        [1, 3, 3, 1, 0xac, 2, 0x88, 0x27, 0x84, 0x86, 0x88, 8, 1, 0x81, 0x80, 4, 2]
    );
}

#[test]
fn tables_that_do_not_fit_are_refused() {
    let disks = SectionKind::Disks;
    for sections in [
        // Out of order, or twice.
        vec![section(SectionKind::Runs, 0, 1, &[(1, 1)]), section(disks, 0, 1, &[(2, 1)])],
        vec![section(disks, 7, 1, &[(1, 1)]), section(disks, 7, 1, &[(2, 1)])],
        // The same block twice, within one and in two.
        vec![section(disks, 0, 8192, &[(1, 1), (1, 1)])],
        vec![section(disks, 0, 8192, &[(1, 2)]), section(disks, 1, 1, &[(2, 1)])],
        // Nothing, too many blocks, too few, the header, beyond the quarter and the area.
        vec![section(disks, 0, 0, &[])],
        vec![section(disks, 0, 4096, &[(1, 2)])],
        vec![section(disks, 0, 4097, &[(1, 1)])],
        vec![section(disks, 0, 4096, &[(0, 1)])],
        vec![section(disks, 0, 8192, &[(511, 2)])],
        vec![section(disks, 0, 4096, &[(u32::MAX, 1)])],
        vec![section(disks, 0, u64::MAX, &[(1, u32::MAX)])],
    ] {
        let table = table(sections);
        assert!(Table::decode(POOL, &table.encode(), &layout()).is_err(), "{table:?}");
    }
}

proptest! {
    /// What decodes is what would be encoded.
    #[test]
    fn hostile_bytes_neither_panic_nor_have_a_second_meaning(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        if let Ok(table) = Table::decode(POOL, &bytes, &layout()) {
            prop_assert_eq!(table.encode(), bytes);
        }
        let mut bytes = sound().encode();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(table) = Table::decode(POOL, &bytes, &layout()) {
            prop_assert_eq!(table.encode(), bytes);
        }
    }
}

/// Who reads a place keeps all of it: a header that somebody made up names no more than there is.
#[test]
fn a_place_is_no_larger_than_a_checkpoint_may_be() {
    let most = layout().checkpoint_blocks_max();
    let place = |blocks: u64| {
        let run = BlockRun { first: 1, count: 1 };
        is_place(&layout(), &vec![run; blocks as usize], blocks * BLOCK_BYTES as u64)
    };
    assert!(place(most) && !place(most + 1));
}
