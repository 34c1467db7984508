#![allow(clippy::unwrap_used)]

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
        geometry: DiskGeometry::new(SIZE, 8 * MIB, 4 * MIB).unwrap(),
        failure_domain: FailureDomain::Node,
        node: Uuid::from_u128(0x33),
        node_name: "attic".into(),
        birth_owner: OwnerId(Uuid::from_u128(0x44)),
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
    assert!(found.label.holds_vote());
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

#[test]
fn what_is_no_label_is_blank_and_what_was_one_is_damaged() {
    assert_eq!(Slots::blank().select(), LabelState::Blank);
    assert!(matches!(select_label([None; 4], SIZE), LabelState::Refused(_)));
    let mut slots = Slots::blank();
    slots.0[2] = label().encode(8, 2).to_vec();
    let damaged = [true, true, false, true];
    let named = Some((label().pool, label().disk));
    let expected = LabelError::Damaged { faults: LabelFaults { damaged }, named };
    assert_eq!(slots.select(), LabelState::Refused(expected));
    slots.0[2][100] ^= 1;
    let expected = LabelError::Damaged { faults: LabelFaults { damaged: [true; 4] }, named: None };
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
    assert!(features.forbid_writing() && !Features::default().forbid_writing());
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

#[test]
fn impossible_geometry_is_damage() {
    let mut slots = two();
    for slot in 0..4 {
        let bytes = &mut slots.0[slot];
        EXTENT.put_number(bytes, 12345);
        let crc = crc_without(bytes, CRC);
        CRC.put_number(bytes, u64::from(crc));
    }
    assert!(matches!(slots.select(), LabelState::Refused(LabelError::Damaged { named: None, .. })));
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
    assert_eq!(&bytes[104..120], &[0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[120..128], &[0, 0, 0x90, 0, 0, 0, 0, 0]);
    assert_eq!((bytes[143], bytes[159], bytes[175], bytes[191]), (0x33, 0x44, 0x22, 0x55));
    assert_eq!(&bytes[240..248], b"cluster\0");
    assert_eq!(&bytes[304..310], b"attic\0");
    assert!(bytes[368..].iter().all(|byte| *byte == 0));
}
