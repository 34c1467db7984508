#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::format::MIB;

const SIZE: u64 = 1 << 30;

fn label() -> Label {
    Label {
        features: Features::default(),
        pool: PoolId(Uuid::from_u128(0x11)),
        pool_name: "cluster".into(),
        disk: DiskId(Uuid::from_u128(0x22)),
        number: DiskNumber(3),
        geometry: DiskGeometry::new(SIZE, 4 * MIB).unwrap(),
        area: Some(ExtentRange::new(ExtentNumber(3), 2)),
        failure_domain: FailureDomain::Node,
        node: Uuid::from_u128(0x33),
        node_name: "attic".into(),
        first_owner: OwnerId(Uuid::from_u128(0x44)),
        vote_disks: vec![DiskId(Uuid::from_u128(0x22)), DiskId(Uuid::from_u128(0x55))],
    }
}

/// The four slots of a disk, as writes leave them.
struct Slots([Vec<u8>; 4]);

impl Slots {
    fn blank() -> Slots {
        Slots(std::array::from_fn(|_| vec![0; LABEL_BYTES]))
    }

    fn with(mut self, sequence: u64, label: &Label) -> Slots {
        for slot in Label::slots_of(sequence) {
            self.0[slot] = label.encode(sequence, slot).to_vec();
        }
        self
    }

    fn select(&self) -> LabelState {
        self.select_on(SIZE)
    }

    fn select_on(&self, device_bytes: u64) -> LabelState {
        select_label(std::array::from_fn(|slot| Some(&self.0[slot][..])), device_bytes)
    }

    fn selected(&self) -> SelectedLabel {
        match self.select() {
            LabelState::Labelled(selected) => *selected,
            other => panic!("{other:?}"),
        }
    }
}

fn two() -> Slots {
    let newer = Label { pool_name: "renamed".into(), ..label() };
    Slots::blank().with(7, &label()).with(8, &newer)
}

#[test]
fn the_newest_with_two_copies_counts() {
    let found = two().selected();
    assert_eq!((found.sequence, found.next_sequence), (8, 9));
    assert_eq!(found.label.pool_name, "renamed");
    assert_eq!(found.faults, LabelFaults::default());
    assert_eq!(found.label.vote_disks.len(), 2);
}

#[test]
fn every_damaged_byte_leaves_the_former_label() {
    for at in 0..LABEL_BYTES {
        let mut slots = two();
        slots.0[0][at] ^= 4;
        let found = slots.selected();
        assert_eq!(found.sequence, 7, "byte {at}");
        assert!(found.faults.damaged[0]);
        // The slots of what counts are never the next to be written.
        assert_eq!(found.next_sequence, 10, "byte {at}");
    }
}

#[test]
fn an_interrupted_update_can_be_interrupted_again() {
    let newer = Label { pool_name: "renamed".into(), ..label() };
    let mut slots = Slots::blank().with(7, &label()).with(8, &label());
    slots.0[1] = newer.encode(9, 1).to_vec();
    let found = slots.selected();
    assert_eq!((found.sequence, found.next_sequence), (8, 11));
    slots.0[1] = newer.encode(11, 1).to_vec();
    let found = slots.selected();
    assert_eq!((found.sequence, found.next_sequence), (8, 13));
    slots.0[3] = newer.encode(11, 3).to_vec();
    assert_eq!(slots.selected().label.pool_name, "renamed");
}

/// The beginning of another disk was copied over this one, or one end was used for something else.
#[test]
fn one_end_alone_is_no_disk() {
    let other = Label { disk: DiskId(uuid::Uuid::from_u128(77)), ..label() };
    for (slots, end) in [([0, 1], &other), ([2, 3], &other), ([0, 1], &label()), ([2, 3], &label())]
    {
        let mut found = Slots::blank().with(7, &label()).with(8, &label());
        for slot in slots {
            found.0[slot] = end.encode(7 + (slot as u64 + 1) % 2, slot).to_vec();
        }
        if *end == label() {
            let gone = 2 - slots[0];
            (gone..gone + 2).for_each(|slot| found.0[slot].fill(0));
        }
        assert!(
            matches!(found.select(), LabelState::Refused(LabelError::Damaged { .. })),
            "{slots:?}"
        );
    }
}

/// Nothing counts without an equal, but who knows the disk finds the newest label in what is left.
#[test]
fn what_is_left_is_the_last_update_whether_it_was_finished_or_not() {
    let newer = Label { pool_name: "renamed".into(), ..label() };
    let left = |slots: &[(u64, usize, &Label)]| {
        let mut found = Slots::blank();
        for (sequence, slot, label) in slots {
            found.0[*slot] = label.encode(*sequence, *slot).to_vec();
        }
        let LabelState::Refused(error) = found.select() else { panic!("{slots:?}") };
        let named = (label().pool, label().disk);
        error.left_of(named).map(|left| (left.sequence, left.next_sequence, left.label.clone()))
    };
    for (older, newest) in [(0, 1), (2, 3), (0, 3), (2, 1)] {
        let slots = [(8, older, &label()), (9, newest, &newer)];
        assert_eq!(left(&slots), Some((9, 10, newer.clone())), "{slots:?}");
    }
    // One update may be behind each of these.
    assert_eq!(left(&[(8, 0, &label())]), None);
    assert_eq!(left(&[(8, 0, &label()), (10, 2, &newer)]), None);
    let other = Label { disk: DiskId(uuid::Uuid::from_u128(77)), ..label() };
    assert_eq!(left(&[(8, 2, &label()), (9, 3, &other)]), None);
    assert_eq!(left(&[(8, 2, &other), (9, 3, &other)]), None);
}

#[test]
fn what_is_no_label_is_blank_and_what_was_one_is_damaged() {
    assert_eq!(Slots::blank().select(), LabelState::Blank);
    assert!(matches!(select_label([None; 4], SIZE), LabelState::Refused(_)));
    let mut slots = Slots::blank();
    slots.0[2] = label().encode(8, 2).to_vec();
    let damaged = [true, true, false, true];
    let named = Some((label().pool, label().disk));
    let expected = LabelError::Damaged { faults: LabelFaults { damaged }, named, left: None };
    assert_eq!(slots.select(), LabelState::Refused(expected));
    slots.0[2][100] ^= 1;
    let faults = LabelFaults { damaged: [true; 4] };
    let expected = LabelError::Damaged { faults, named: None, left: None };
    assert_eq!(expected.to_string(), "the label is damaged (slots 0, 1, 2, 3)");
    assert_eq!(slots.select(), LabelState::Refused(expected));
}

#[test]
fn copies_that_differ_under_one_sequence_are_no_pair() {
    let other = Label { number: DiskNumber(4), ..label() };
    let mut slots = Slots::blank().with(8, &label());
    slots.0[2] = other.encode(8, 2).to_vec();
    assert!(matches!(slots.select(), LabelState::Refused(LabelError::Damaged { .. })));
}

#[test]
fn a_misplaced_copy_does_not_count() {
    let mut slots = two();
    slots.0[2] = slots.0[0].clone();
    assert_eq!(slots.selected().sequence, 7);
}

#[test]
fn a_truncated_disk_is_named_as_such() {
    let slots = two();
    let short = SIZE - 4096;
    let read = [Some(&slots.0[0][..]), Some(&slots.0[1][..]), None, None];
    let LabelState::Refused(error) = select_label(read, short) else { panic!() };
    let (pool, disk) = (label().pool, label().disk);
    let expected = LabelError::Truncated { pool, disk, labelled_bytes: SIZE, device_bytes: short };
    assert_eq!(error, expected);
    assert!(matches!(slots.select_on(SIZE + 4096), LabelState::Labelled(_)));
}

#[test]
fn newer_formats_are_refused_by_name() {
    let features = Features { incompatible: 0b10_0010, ..Features::default() };
    let slots = Slots::blank().with(8, &Label { features, ..label() });
    let LabelState::Refused(error) = slots.select() else { panic!() };
    assert_eq!(
        error.to_string(),
        "the pool uses what this etherpool does not know: thin volumes, feature 5"
    );
    let features = Features { compatible: 1, read_only: 1, incompatible: 0 };
    let slots = Slots::blank().with(8, &Label { features, ..label() });
    assert_eq!(slots.selected().label.features, features);
    assert_eq!(features.unknown_to_writers().len(), 1);
    assert_eq!(Features::default().unknown_to_writers().len(), 0);
    let mut newer = label().encode(8, 0).to_vec();
    VERSION.put_number(&mut newer, 2);
    let crc = crc_without(&newer, CRC);
    CRC.put_number(&mut newer, u64::from(crc));
    let mut slots = two();
    slots.0[0] = newer;
    assert_eq!(slots.select(), LabelState::Refused(LabelError::NewerVersion { version: 2 }));
}

#[test]
fn the_end_is_found_on_a_disk_that_grew() {
    let slots = two();
    let front = [Some(&slots.0[0][..]), Some(&slots.0[1][..])];
    assert_eq!(end_of_labelled(front, SIZE * 2), SIZE);
    assert_eq!(end_of_labelled([None, Some(&[0; 4096])], 10_000_000), 9_998_336);
}

/// The label with some fields changed and the CRC made right.
fn forged(change: impl Fn(&mut [u8])) -> LabelState {
    let mut slots = two();
    for bytes in &mut slots.0 {
        change(bytes);
        let crc = crc_without(bytes, CRC);
        CRC.put_number(bytes, u64::from(crc));
    }
    slots.select()
}

#[test]
fn impossible_geometry_is_damage() {
    let found = forged(|bytes| EXTENT.put_number(bytes, 12345));
    assert!(matches!(found, LabelState::Refused(LabelError::Damaged { named: None, .. })));
}

#[test]
fn an_area_must_lie_within_the_extents() {
    let area = |first: u32, count: u32| {
        forged(move |bytes| {
            AREA_FIRST.put_number(bytes, u64::from(first));
            AREA_COUNT.put_number(bytes, u64::from(count));
        })
    };
    let of = |state| match state {
        LabelState::Labelled(found) => found.label.area,
        other => panic!("{other:?}"),
    };
    assert_eq!(of(area(0, 0)), None);
    assert_eq!(of(area(0, 255)), Some(ExtentRange::new(ExtentNumber(0), 255)));
    // Beyond the last extent are the labels at the end; nothing can be named that lies before the first.
    for (first, count) in [(1, 0), (0, 256), (254, 2), (255, 1), (u32::MAX, 1), (2, u32::MAX)] {
        let found = area(first, count);
        assert!(
            matches!(found, LabelState::Refused(LabelError::Damaged { named: None, .. })),
            "{first} {count}: {found:?}"
        );
    }
}

proptest! {
    /// What is decoded is what would be encoded, whatever the bytes.
    #[test]
    fn decoding_takes_what_encoding_yields(
        changes in prop::collection::vec((12_usize..400, any::<u8>()), 0..6),
    ) {
        let mut bytes = label().encode(8, 0).to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let crc = crc_without(&bytes, CRC);
        CRC.put_number(&mut bytes, u64::from(crc));
        if let Slot::Sound(found, sequence) = Slot::read(&bytes, 0) {
            let again = found.encode(sequence, 0).to_vec();
            let Slot::Sound(twice, _) = Slot::read(&again, 0) else { panic!("{found:?}") };
            prop_assert_eq!(&twice, &found);
            let place = found.area.map(|area| found.geometry.run_place(area));
            if let Some((start, bytes)) = place.map(Option::unwrap) {
                prop_assert!(bytes > 0 && start.byte_offset() >= MIB);
                let end = start.byte_offset() + bytes;
                prop_assert!(end <= found.geometry.labelled_bytes() - MIB);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut slot = label().encode(8, 0).to_vec();
        slot[..bytes.len()].copy_from_slice(&bytes);
        let slots = [Some(&slot[..]), Some(&bytes[..]), None, Some(&slot[..])];
        let _ = select_label(slots, SIZE);
    }
}

#[test]
fn golden_bytes() {
    let bytes = label().encode(8, 2);
    assert_eq!(&bytes[..8], b"EPLABEL\0");
    assert_eq!(&bytes[12..16], &[2, 1, 0, 0]);
    assert_eq!(&bytes[40..48], &[8, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((bytes[63], bytes[79], bytes[80], bytes[84]), (0x11, 0x22, 3, 2));
    assert_eq!(&bytes[88..96], &[0, 0, 0, 0x40, 0, 0, 0, 0]);
    assert_eq!(&bytes[96..104], &[0, 0, 0x40, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[104..112], &[3, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!((bytes[127], bytes[143], bytes[159], bytes[175]), (0x33, 0x44, 0x22, 0x55));
    assert_eq!(&bytes[224..232], b"cluster\0");
    assert_eq!(&bytes[288..294], b"attic\0");
    assert!(bytes[352..].iter().all(|byte| *byte == 0));
}
