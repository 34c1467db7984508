#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use block::Epoch;
use proptest::prelude::*;
use seal::{Digest, KeyPair, SecretKey};

use super::*;
use crate::format::{ConfigNumber, FailureDomain, MIB, RecordNumber};
use crate::metadata::testing::{AreaInMemory, POOL, empty_pool};
use crate::metadata::{
    AreaPosition, CheckpointStamp, MetaRecord, Metadata, choose_copy, encode_checkpoint,
    encode_entry,
};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// An area with a log of long entries; where each entry begins and ends in the area.
fn area_with(
    area_bytes: u64,
    lengths: &[usize],
) -> (AreaLayout, Vec<u8>, Vec<(u64, u64)>, Metadata) {
    signed_area(area_bytes, lengths, None)
}

/// The same, signed with these keys.
fn signed_area(
    area_bytes: u64,
    lengths: &[usize],
    keys: Option<&KeyPair>,
) -> (AreaLayout, Vec<u8>, Vec<(u64, u64)>, Metadata) {
    let layout = AreaLayout::new(area_bytes).unwrap();
    let mut metadata = empty_pool(FailureDomain::Node);
    let stamp = CheckpointStamp { sequence: 2, epoch: Epoch(1), number: RecordNumber(0) };
    let checkpoint = encode_checkpoint(&layout, &metadata, (stamp, keys), None, &[]).unwrap();
    let mut bytes = vec![0; area_bytes as usize];
    bytes[..BLOCK_BYTES].copy_from_slice(&checkpoint.header);
    for (run, placed) in checkpoint.fresh().flat_map(|placed| placed.runs()) {
        bytes[layout.run_offset(&run) as usize..][..placed.len()].copy_from_slice(&placed);
    }
    let (mut position, mut places) = (checkpoint.after, Vec::new());
    for (index, names) in lengths.iter().enumerate() {
        let renamed = |name: usize| MetaRecord::PoolRenamed { name: format!("{index}-{name:060}") };
        let records: Vec<MetaRecord> = (0..*names).map(renamed).collect();
        let entry = encode_entry(&layout, &position, (ConfigNumber(1), keys), &records).unwrap();
        let at = (layout.log_offset(0) + entry.log_at) as usize;
        bytes[at..at + entry.bytes.len()].copy_from_slice(&entry.bytes);
        places.push((at as u64, (at + entry.bytes.len()) as u64));
        metadata.apply_all(&records).unwrap();
        position = entry.after;
    }
    (layout, bytes, places, metadata)
}

#[test]
fn only_what_is_in_use_is_read() {
    let (layout, bytes, places, metadata) = area_with(256 * MIB, &[1, 30_000, 1]);
    let area = AreaInMemory::new(&bytes);
    assert!(area.recover(POOL, &layout).unwrap().metadata == metadata);
    let used = places[2].1 - layout.log_offset(0);
    let most = 3 * BLOCK + used + 2 * layout.entry_bytes_max() + 4 * PIECE_BYTES;
    assert!(area.read.get() <= most, "{} of {most}", area.read.get());
    // What lies beyond may be unreadable; what lies before may not.
    let beyond = places[2].1 + 2 * layout.entry_bytes_max() + PIECE_BYTES;
    for (unreadable, usable) in [
        (beyond..layout.checkpoint_offset(1), true),
        (2 * BLOCK..layout.log_offset(0), true),
        (places[2].1 + BLOCK..places[2].1 + 2 * BLOCK, false),
        (places[1].0..places[1].0 + BLOCK, false),
        (layout.checkpoint_offset(1)..layout.checkpoint_offset(1) + BLOCK, false),
    ] {
        let area = AreaInMemory { unreadable: unreadable.clone(), ..AreaInMemory::new(&bytes) };
        let found = area.recover(POOL, &layout).map(|found| found.metadata == metadata);
        let expected = if usable { Ok(true) } else { Err(CopyUnusable::Unreadable(IoError::Lost)) };
        assert_eq!(found, expected, "{unreadable:?}");
    }
}

#[test]
fn a_copy_is_read_whole_also_where_another_has_the_same_checkpoint() {
    let (layout, bytes, places, metadata) = area_with(8 * MIB, &[3, 2]);
    let (begins, ends) = (BLOCK, layout.log_offset(0));
    let section = (begins..ends).step_by(BLOCK_BYTES);
    let written = |at: &u64| bytes[*at as usize..][..BLOCK_BYTES].iter().any(|byte| *byte != 0);
    let section: Vec<u64> = section.filter(written).collect();
    let shared = SharedHistory::default();
    let recover = |bytes: &[u8]| AreaInMemory::new(bytes).recover_beside(POOL, &layout, &shared);
    let first = recover(&bytes).unwrap();
    assert!(first.metadata == metadata && !section.is_empty());
    // One whose log is shorter has its own end.
    let mut shorter = bytes.clone();
    shorter[places[1].0 as usize..].fill(0);
    let second = recover(&shorter).unwrap();
    assert_eq!((first.position.number.0, second.position.number.0), (2, 1));
    assert!(second.metadata != metadata && recover(&bytes).unwrap().metadata == metadata);
    for at in section {
        let mut damaged = bytes.clone();
        damaged[at as usize] ^= 1;
        let found = recover(&damaged).map(|_| ());
        let expected = Err(AreaFault::NewestDamaged { sequence: 2 }.into());
        assert_eq!(found, expected, "the block at {at}");
    }
}

#[test]
fn the_longest_damaged_entry_hides_none_behind_it() {
    let layout = AreaLayout::new(8 * MIB).unwrap();
    // Records of 64 bytes: as many as an entry may hold.
    let names = (layout.entry_bytes_max() as usize - 4096) / 64;
    let (layout, bytes, places, _) = area_with(8 * MIB, &[1, names, names]);
    assert!(places[1].1 - places[1].0 > layout.entry_bytes_max() - 2 * BLOCK);
    let mut damaged = bytes.clone();
    damaged[places[1].0 as usize..places[1].1 as usize].fill(0);
    let found = AreaInMemory::new(&damaged).recover(POOL, &layout);
    let gap = AreaFault::Gap { after: RecordNumber(1), found: RecordNumber(3) };
    assert_eq!(found.unwrap_err(), CopyUnusable::Fault(gap));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is damaged: what is read is a state that was, or a fault is named; and what a
    /// damaged entry hides within reach is found.
    #[test]
    fn a_damaged_log_is_a_shorter_one_or_a_fault(
        lengths in prop::collection::vec(1_usize..400, 1..12),
        damages in prop::collection::vec((0_usize..12, any::<u64>(), 1_u8..), 1..4),
    ) {
        let (layout, mut bytes, places, _) = area_with(8 * MIB, &lengths);
        // Each once: a second flip might undo the first.
        let damages = damages.into_iter().map(|(entry, at, flip)| (entry % places.len(), (at, flip)));
        let damages: BTreeMap<usize, (u64, u8)> = damages.collect();
        for (entry, (at, flip)) in &damages {
            bytes[(places[*entry].0 + at % 72) as usize] ^= flip;
        }
        match AreaInMemory::new(&bytes).recover(POOL, &layout) {
            Ok(found) => {
                let ends = found.position.number.0 as usize;
                prop_assert_eq!(ends, damages.keys().next().copied().unwrap_or(places.len()));
                prop_assert!((ends..places.len()).all(|entry| damages.contains_key(&entry)));
                let names: Vec<String> = (0..places.len())
                    .map(|index| format!("{index}-{:060}", lengths[index] - 1))
                    .collect();
                let name = ends.checked_sub(1).map_or("cluster", |last| names[last].as_str());
                prop_assert_eq!(&found.metadata.pool().name, name);
            }
            Err(CopyUnusable::Fault(AreaFault::Gap { after, found })) => {
                prop_assert_eq!(Some(&(after.0 as usize)), damages.keys().next());
                prop_assert!(found > after.next());
            }
            Err(CopyUnusable::Fault(AreaFault::EndDamaged { after, begun })) => {
                let after = after.0 as usize;
                prop_assert!((after..places.len()).all(|entry| damages.contains_key(&entry)));
                prop_assert!(begun.0 > after as u64 + 1);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    /// What is read beside others is what is read alone, whoever came first and whatever he has: the same, less, more,
    /// from somewhere on something else, or damage.
    #[test]
    fn a_copy_says_the_same_beside_others(
        lengths in prop::collection::vec(1_usize..9, 0..20),
        copies in prop::collection::vec((0_usize..22, 0_usize..22, prop::option::of(0_usize..20)), 1..6),
    ) {
        let shared = SharedHistory::default();
        for (ends, differs, damaged) in copies {
            let mut lengths: Vec<usize> = lengths.iter().copied().take(ends).collect();
            if let Some(length) = lengths.get_mut(differs) {
                *length += 9;
            }
            let (layout, mut bytes, places, _) = area_with(8 * MIB, &lengths);
            if let Some((at, _)) = damaged.and_then(|entry| places.get(entry)) {
                bytes[*at as usize + 60] ^= 1;
            }
            let area = AreaInMemory::new(&bytes);
            let alone = area.recover(POOL, &layout);
            let beside = area.recover_beside(POOL, &layout, &shared);
            prop_assert_eq!(format!("{beside:?}"), format!("{alone:?}"));
        }
    }

    /// Bytes from anywhere neither panic nor are followed far.
    #[test]
    fn hostile_areas_are_read_within_bounds(
        claims in prop::collection::vec((0_u64..512, any::<u32>(), 0_u64..4), 0..64),
    ) {
        let (layout, mut bytes, places, _) = area_with(8 * MIB, &[1]);
        let entry = bytes[places[0].0 as usize..places[0].1 as usize].to_vec();
        for (block, length, number) in claims {
            let at = (places[0].1 + block * BLOCK) as usize;
            if at + BLOCK_BYTES <= (layout.log_offset(0) + layout.log_bytes()) as usize {
                bytes[at..at + BLOCK_BYTES].copy_from_slice(&entry);
                bytes[at + 48..at + 56].copy_from_slice(&number.to_le_bytes());
                bytes[at + 56..at + 60].copy_from_slice(&length.to_le_bytes());
            }
        }
        let area = AreaInMemory::new(&bytes);
        let is_damaged = |found: &CopyUnusable| {
            matches!(found, CopyUnusable::Fault(AreaFault::EndDamaged { .. }))
        };
        prop_assert!(area.recover(POOL, &layout).err().is_none_or(|error| is_damaged(&error)));
        prop_assert!(area.read.get() <= 3 * layout.entry_bytes_max() + 4 * PIECE_BYTES);
    }
}

fn keys(number: u8) -> KeyPair {
    KeyPair::of(SecretKey::new([number; 32])).unwrap()
}

/// With a CRC that is right: who writes it makes that so.
fn forge(bytes: &mut [u8], at: u64, len: usize, change: impl FnOnce(&mut [u8])) {
    let changed = &mut bytes[at as usize..][..len];
    change(changed);
    changed[8..12].fill(0);
    let crc = block::crc32c(changed);
    changed[8..12].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_copy_counts_by_the_signature_of_one_who_may_have_written_it() {
    let unsigned = area_with(8 * MIB, &[3, 2]);
    let (us, other) = (keys(1), keys(2));
    let signed = signed_area(8 * MIB, &[3, 2], Some(&us));
    let by = |keys: &[&KeyPair]| Signers::of(keys.iter().map(|keys| keys.public()));
    for (area, signers, counts) in [
        (&unsigned, by(&[]), true),
        (&unsigned, by(&[&us]), false),
        (&signed, by(&[]), true),
        (&signed, by(&[&us]), true),
        (&signed, by(&[&other, &us]), true),
        (&signed, by(&[&other]), false),
    ] {
        let (layout, bytes, _, metadata) = area;
        let shared = SharedHistory::default();
        let found = AreaInMemory::new(bytes).recover_signed(POOL, layout, &signers, &shared);
        match counts {
            true => assert!(found.unwrap().metadata == *metadata),
            false => assert!(
                matches!(found, Err(CopyUnusable::Fault(AreaFault::Unproved { .. }))),
                "{found:?}"
            ),
        }
    }
}

#[test]
fn nothing_of_a_signed_copy_can_be_changed() {
    let us = keys(1);
    let (layout, bytes, places, metadata) = signed_area(8 * MIB, &[3, 2], Some(&us));
    let signers = Signers::of([us.public()]);
    let recover = |bytes: &[u8]| {
        AreaInMemory::new(bytes).recover_signed(POOL, &layout, &signers, &SharedHistory::default())
    };
    let header = layout.checkpoint_offset(0);
    for at in (0..8).chain(12..504).chain([4000]) {
        let mut changed = bytes.clone();
        forge(&mut changed, header, BLOCK_BYTES, |bytes| bytes[at] ^= 1);
        assert!(recover(&changed).is_err(), "byte {at} of the header");
    }
    // An entry isn't an entry any more, or is refused; what is before it stays.
    let (begin, end) = places[0];
    let used = entry_claim(&bytes[begin as usize..], POOL).unwrap().bytes;
    for at in (0..8).chain(12..used) {
        let mut changed = bytes.clone();
        forge(&mut changed, begin, used, |bytes| bytes[at] ^= 1);
        match recover(&changed) {
            Ok(found) => assert_eq!(found.position.number, RecordNumber(0), "byte {at}"),
            Err(CopyUnusable::Fault(AreaFault::Unproved { .. } | AreaFault::Gap { .. })) => {}
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    // Nor does one of his own follow, which would end the copy's use for what others have.
    let position = recover(&bytes).unwrap().position;
    for keys in [None, Some(keys(2))] {
        let position = AreaPosition { by: keys.as_ref().map(KeyPair::public), ..position };
        let renamed = [MetaRecord::PoolRenamed { name: "his".into() }];
        let entry = (ConfigNumber(1), keys.as_ref());
        let entry = encode_entry(&layout, &position, entry, &renamed).unwrap();
        for behind in [0, BLOCK] {
            let mut changed = bytes.clone();
            let at = (layout.log_offset(0) + entry.log_at + behind) as usize;
            changed[at..at + entry.bytes.len()].copy_from_slice(&entry.bytes);
            match recover(&changed) {
                Ok(found) => assert!(found.metadata == metadata),
                Err(CopyUnusable::Fault(fault)) => assert_eq!(fault.proves(), None, "{fault}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(end > begin);
}

/// Changes the last four bytes so that the CRC becomes this one: it is linear, each of their bits changes it in its own way.
fn tune(bytes: &mut [u8], crc: u32) {
    let last = bytes.len() - 4;
    let is = block::crc32c(bytes);
    let mut flipped = |bit: usize| {
        bytes[last + bit / 8] ^= 1 << (bit % 8);
        let crc = block::crc32c(bytes);
        bytes[last + bit / 8] ^= 1 << (bit % 8);
        (crc ^ is, 1 << bit)
    };
    let mut rows: Vec<(u32, u32)> = (0..32).map(&mut flipped).collect();
    let (mut left, mut flips) = (is ^ crc, 0_u32);
    for bit in 0..32 {
        let Some(index) = rows.iter().position(|(crc, _)| crc >> bit & 1 == 1) else { continue };
        let (crc, set) = rows.swap_remove(index);
        for row in rows.iter_mut().filter(|(other, _)| other >> bit & 1 == 1) {
            *row = (row.0 ^ crc, row.1 ^ set);
        }
        if left >> bit & 1 == 1 {
            (left, flips) = (left ^ crc, flips ^ set);
        }
    }
    for (byte, flip) in bytes[last..].iter_mut().zip(flips.to_le_bytes()) {
        *byte ^= flip;
    }
    assert_eq!(block::crc32c(bytes), crc);
}

#[test]
fn a_table_with_the_same_crc_is_another_one() {
    let us = keys(1);
    let (layout, bytes, ..) = signed_area(8 * MIB, &[], Some(&us));
    let signers = Signers::of([us.public()]);
    let recover = |bytes: &[u8]| {
        AreaInMemory::new(bytes).recover_signed(POOL, &layout, &signers, &SharedHistory::default())
    };
    let head = recover(&bytes).unwrap().newest.head;
    let at = layout.run_offset(&head.place[0]) as usize;
    let len = head.table_bytes as usize;
    let genuine = &bytes[at..at + len];
    let mut forged = genuine.to_vec();
    forged[0] ^= 1;
    tune(&mut forged, head.crc);
    assert_ne!(forged, genuine);
    let mut changed = bytes.clone();
    changed[at..at + len].copy_from_slice(&forged);
    let found = recover(&changed);
    assert!(
        matches!(found, Err(CopyUnusable::Fault(AreaFault::NewestDamaged { .. }))),
        "{found:?}"
    );
}

/// Who ends as another copy does holds what that one holds: nobody asks who signed what he has in between, and none of it
/// says that the two contradict each other.
#[test]
fn a_log_that_ends_as_a_genuine_one_says_nothing_of_its_own() {
    let us = keys(1);
    let (layout, bytes, places, metadata) = signed_area(8 * MIB, &[1, 2], Some(&us));
    let signers = Signers::of([us.public()]);
    let shared = SharedHistory::default();
    let recover = |bytes: &[u8]| {
        AreaInMemory::new(bytes).recover_signed(POOL, &layout, &signers, &shared).unwrap()
    };
    let genuine = recover(&bytes);
    let (_, blank, ..) = signed_area(8 * MIB, &[], Some(&us));
    let begins = AreaInMemory::new(&blank);
    let begins = begins.recover_signed(POOL, &layout, &signers, &SharedHistory::default());
    let his = keys(2);
    let mut position = AreaPosition { by: Some(his.public()), ..begins.unwrap().position };
    let mut forged = bytes.clone();
    for (index, (at, _)) in places.iter().enumerate() {
        let renamed = MetaRecord::PoolRenamed { name: format!("{index}-{:060}", 9) };
        let by = (ConfigNumber(1), Some(&his));
        let entry = encode_entry(&layout, &position, by, &vec![renamed; index + 1]).unwrap();
        position = entry.after;
        forged[*at as usize..][..entry.bytes.len()].copy_from_slice(&entry.bytes);
    }
    let at = places[1].0 as usize;
    let used = entry_claim(&forged[at..], POOL).unwrap().bytes;
    let last = &mut forged[at..][..used];
    last[8..12].fill(0);
    tune(last, genuine.position.chain);
    last[8..12].copy_from_slice(&genuine.position.chain.to_le_bytes());
    let beside = recover(&forged);
    assert_eq!(beside.position, genuine.position);
    assert!(beside.metadata == metadata);
    assert!(choose_copy(&[genuine, beside]).is_ok());
}

/// It would have all copies come to sequences that nobody reads any more.
#[test]
fn a_header_that_somebody_made_up_says_nothing_of_sequences() {
    let us = keys(1);
    let (layout, bytes, ..) = signed_area(8 * MIB, &[1], Some(&us));
    let head = |sequence, epoch| CheckpointHead {
        stamp: CheckpointStamp { sequence, epoch: Epoch(epoch), number: RecordNumber(0) },
        crc: 0,
        table_bytes: 0,
        place: Vec::new(),
        digest: None,
        by: None,
    };
    let shown = |head: &CheckpointHead, keys: Option<&KeyPair>, signers: &Signers| {
        let mut changed = bytes.clone();
        let digest = keys.map(|_| Digest::of(&[]));
        let header = CheckpointHead { digest, ..head.clone() }.encode(POOL, keys);
        let at = layout.checkpoint_offset(1) as usize;
        changed[at..at + BLOCK_BYTES].copy_from_slice(&header);
        let shared = SharedHistory::default();
        AreaInMemory::new(&changed).recover_signed(POOL, &layout, signers, &shared)
    };
    let ours = Signers::of([us.public()]);
    for sequence in [3, (1 << 62) - 1] {
        let found = shown(&head(sequence, 0), None, &ours).unwrap();
        assert_eq!((found.highest_sequence, found.former), (2, None));
    }
    // Where nobody's signature is asked for, one that is far off says nothing either.
    let anybody = Signers::default();
    assert_eq!(shown(&head((1 << 62) - 1, 0), None, &anybody).unwrap().highest_sequence, 2);
    assert_eq!(shown(&head(3, 0), None, &anybody).unwrap().highest_sequence, 3);
    assert_eq!(shown(&head(3, 0), Some(&us), &ours).unwrap().highest_sequence, 3);
}
