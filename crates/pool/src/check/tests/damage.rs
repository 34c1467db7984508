//! One byte at a time.

use super::*;
use crate::format::{DiskGeometry, ExtentNumber, ExtentRange, Label, LabelState, select_label};

/// The damaged disk's findings that aren't notes, with where each is.
fn places(report: &CheckReport) -> Vec<(Kind, String, u64, u64)> {
    let serious = report.all_findings().filter(|found| found.severity != Severity::Note);
    let places = serious.map(|found| {
        let disk = found.disk.clone().unwrap_or_default();
        let at = found.disk_offset_bytes.unwrap_or(u64::MAX);
        (found.kind, disk, at, found.bytes.unwrap_or(0))
    });
    places.collect()
}

/// Flips a byte and expects exactly one finding, of that kind, that covers it.
fn one_flip(images: &[Vec<u8>], disk: usize, at: u64, kind: Kind) -> CheckReport {
    let mut damaged = images.to_vec();
    damaged[disk][at as usize] ^= 0x20;
    let report = look(&damaged, true);
    let found = places(&report);
    assert_eq!(found.len(), 1, "byte {at}: {found:?}");
    let (found_kind, name, from, bytes) = &found[0];
    assert_eq!((*found_kind, name.as_str()), (kind, format!("e{disk}.0").as_str()));
    assert!((*from..*from + *bytes).contains(&at), "byte {at}: {found:?}");
    report
}

#[test]
fn a_flipped_byte_in_each_label_slot_is_named() {
    let images = at_rest(20);
    for (disk, image) in images.iter().enumerate() {
        let slots = DiskGeometry::label_slots(image.len() as u64);
        for slot in slots {
            one_flip(&images, disk, slot.byte_offset() + 70, Kind::LabelSlot);
        }
    }
    let mut damaged = images.clone();
    for slot in [0, 4096, 40 * MIB - MIB] {
        damaged[1][slot as usize + 70] ^= 1;
    }
    let found = serious(&look(&damaged, false));
    assert!(found.contains(&(Severity::Damage, Kind::Label, "e1.0".into())), "{found:?}");
}

/// A whole copy of the metadata, where the metadata has none for that disk.
#[test]
fn a_copy_of_the_metadata_in_another_place_does_not_count() {
    let mut images = at_rest(26);
    let image = &mut images[2];
    let device_bytes = image.len() as u64;
    let slots = DiskGeometry::label_slots(device_bytes).map(|at| at.byte_offset() as usize);
    let read = slots.map(|at| Some(&image[at..at + 4096]));
    let LabelState::Labelled(found) = select_label(read, device_bytes) else { panic!() };
    let area = found.label.area.unwrap();
    let other = ExtentRange::new(ExtentNumber(80), area.count);
    let place = |area| found.label.geometry.run_place(area).unwrap();
    let ((from, bytes), (to, _)) = (place(area), place(other));
    let (from, to) = (from.byte_offset() as usize, to.byte_offset() as usize);
    image.copy_within(from..from + bytes as usize, to);
    let label = Label { area: Some(other), ..found.label.clone() };
    for (slot, at) in slots.into_iter().enumerate() {
        let sequence = found.next_sequence + found.next_sequence % 2 + slot as u64 % 2;
        image[at..at + 4096].copy_from_slice(&label.encode(sequence, slot));
    }
    let report = look(&images, true);
    assert_eq!(serious(&report), [(Severity::Redundancy, Kind::LabelDiffers, "e2.0".into())]);
    let states: Vec<_> = report.pools[0].metadata.iter().map(|copy| copy.state).collect();
    assert_eq!(states, [CopyState::Newest, CopyState::Newest, CopyState::Older]);
    assert_eq!(volume(&report).least.metadata, 2);
}

/// All copies as they were a while ago, each of them sound.
#[test]
fn metadata_that_ends_before_what_was_applied_is_damage() {
    let machines = Machines::new(27);
    machines.write(10, 100, 0xa1);
    machines.quiesce();
    let before = machines.images();
    machines.write(700, 60, 0xb2);
    machines.quiesce();
    let mut images = machines.images();
    let area = MIB as usize..9 * MIB as usize;
    for (image, before) in images.iter_mut().zip(&before) {
        image[area.clone()].copy_from_slice(&before[area.clone()]);
    }
    let found = serious(&look(&images, false));
    assert!(found.contains(&(Severity::Damage, Kind::MetadataLost, String::new())), "{found:?}");
    assert_eq!(serious(&look(&machines.images(), false)), []);
}

#[test]
fn a_flipped_byte_in_a_vote_is_named() {
    let images = at_rest(21);
    let newest = |image: &Vec<u8>| {
        let slots = DiskGeometry::vote_slots().map(|slot| slot.byte_offset() as usize);
        // The configuration's number: byte 72.
        let number = |at: usize| u64::from_le_bytes(image[at + 72..at + 80].try_into().unwrap());
        usize::from(number(slots[1]) > number(slots[0]))
    };
    for (disk, image) in images.iter().enumerate() {
        let places = DiskGeometry::vote_slots().map(|slot| slot.byte_offset());
        one_flip(&images, disk, places[1 - newest(image)] + 5000, Kind::VoteSlot);
        let mut damaged = images.clone();
        damaged[disk][places[newest(image)] as usize + 5000] ^= 1;
        let report = look(&damaged, false);
        let mut kinds = places_of(&report);
        kinds.sort();
        assert_eq!(kinds, [Kind::VoteSlot, Kind::VoteOlder], "{report:#?}");
        assert_eq!((report.pools[0].votes.newest, report.pools[0].votes.sound), (2, 3));
    }
}

fn places_of(report: &CheckReport) -> Vec<Kind> {
    places(report).into_iter().map(|(kind, ..)| kind).collect()
}

#[test]
fn a_damaged_applied_block_is_named_and_its_disk_not_believed() {
    let images = at_rest(22);
    let report = look(&images, false);
    assert!(report.is_well());
    // The third disk has taken nothing yet that it had to record.
    for disk in 0..2 {
        let (mut distrusted, mut believed) = (0, 0);
        for slot in DiskGeometry::applied_slots() {
            let mut damaged = images.clone();
            damaged[disk][slot.byte_offset() as usize + 3000] ^= 1;
            let report = look(&damaged, false);
            let kinds = places_of(&report);
            assert!(kinds.contains(&Kind::AppliedSlot), "{kinds:?}");
            assert_eq!(kinds.contains(&Kind::RolledBack), report.pools[0].disks[disk].distrusted);
            match report.pools[0].disks[disk].distrusted {
                true => distrusted += 1,
                false => believed += 1,
            }
        }
        assert_eq!((distrusted, believed), (1, 1));
    }
}

/// The disk and the place of the newest checkpoint's log, by its magic.
fn metadata_entries(image: &[u8]) -> Vec<usize> {
    (0..image.len() / 4096)
        .map(|block| block * 4096)
        .filter(|at| &image[*at..at + 8] == b"epMETLOG")
        .collect()
}

#[test]
fn a_flipped_byte_in_a_metadata_record_is_named() {
    let images = at_rest(23);
    for disk in 0..3 {
        let entries = metadata_entries(&images[disk]);
        assert!(entries.len() > 4);
        for at in entries[..entries.len() - 1].iter().step_by(6) {
            let mut damaged = images.clone();
            damaged[disk][at + 66] ^= 1;
            let report = look(&damaged, false);
            let found = places(&report);
            let name = format!("e{disk}.0");
            let gap = found.iter().find(|(kind, ..)| *kind == Kind::MetadataGap).unwrap();
            assert_eq!((gap.1.as_str(), gap.2), (name.as_str(), *at as u64));
            assert!(found.iter().any(|(kind, ..)| *kind == Kind::MetadataOlder));
            let copy = &report.pools[0].metadata[disk];
            assert_eq!((copy.current, copy.state), (true, CopyState::Older));
            assert_eq!(report.pools[0].volumes[0].least.metadata, 2);
        }
        // The last one has nothing behind it; the other copies go on.
        let last = *entries.last().unwrap() as u64;
        one_flip(&images, disk, last + 66, Kind::MetadataOlder);
    }
    // The same in all copies: nobody has it.
    let mut damaged = images.clone();
    for image in &mut damaged {
        let at = metadata_entries(image)[2];
        image[at + 66] ^= 1;
    }
    let found = serious(&look(&damaged, false));
    let gaps = found
        .iter()
        .filter(|(severity, kind, _)| (*severity, *kind) == (Severity::Damage, Kind::MetadataGap));
    assert_eq!(gaps.count(), 3, "{found:?}");
}

/// Nothing lies behind the last one; but the log was written since.
#[test]
fn a_log_that_knows_of_newer_metadata_is_named() {
    let machines = Machines::new(31);
    machines.write(10, 100, 0xa1);
    machines.quiesce();
    machines.write(12, 1, 0xa2);
    let images = machines.images();
    assert_eq!(serious(&look(&images, false)), []);
    let mut damaged = images.clone();
    for image in &mut damaged {
        let at = *metadata_entries(image).last().unwrap();
        image[at + 2] ^= 1;
    }
    let report = look(&damaged, false);
    let found = report.all_findings().filter(|found| found.kind == Kind::MetadataLost);
    let of: Vec<_> = found.map(|found| (found.severity, found.volume.as_deref())).collect();
    assert_eq!(of, [(Severity::Damage, Some("v"))], "{report:#?}");
}

#[test]
fn a_damaged_newest_checkpoint_is_named() {
    let images = at_rest(24);
    for disk in 0..3 {
        let at = (0..images[disk].len() / 4096)
            .map(|block| block * 4096)
            .filter(|at| &images[disk][*at..at + 8] == b"epCHECKP")
            .max_by_key(|at| images[disk][at + 32])
            .unwrap();
        for byte in [at + 20, at + 4096 + 10] {
            let mut damaged = images.clone();
            damaged[disk][byte] ^= 1;
            let report = look(&damaged, false);
            let found = places(&report);
            assert_eq!(report.pools[0].metadata[disk].state, CopyState::Lost, "{found:?}");
            assert!(found.iter().any(|(kind, ..)| *kind == Kind::MetadataLost), "{found:?}");
            assert_eq!(report.pools[0].volumes[0].least.metadata, 2);
        }
    }
}

#[test]
fn a_flipped_byte_in_a_log_record_is_named() {
    let machines = Machines::new(25);
    (0..6).for_each(|round| machines.write(round * 20, 4, round as u8));
    let images = machines.images();
    let report = look(&images, true);
    let segment = volume(&report).segments.last().unwrap().clone();
    let before = volume(&report).segments.iter().map(|segment| segment.unreleased).sum::<u64>();
    assert!(before >= 4, "{segment:#?}");
    let disk_of = |name: &str| images_of(&images).iter().position(|i| i.name == name).unwrap();
    let records = |image: &[u8], from: usize| -> Vec<usize> {
        let found = (from..from + (512 << 10)).step_by(512);
        found.filter(|at| &image[*at..at + 4] == b"epLR").collect()
    };
    for copy in &segment.copies {
        let disk = disk_of(&copy.disk);
        let start = copy.disk_offset_bytes as usize;
        let found = records(&images[disk], start);
        // Of a header, and of a row, of a record that others follow.
        for byte in [found[found.len() - 3] + 20, found[found.len() - 3] + 700] {
            let report = one_flip(&images, disk, byte as u64, Kind::LogRecord);
            assert_eq!(volume(&report).least.log_records, Some(1));
        }
        // The last batch may have been under way.
        let mut damaged = images.clone();
        damaged[disk][found[found.len() - 1] + 700] ^= 1;
        let report = look(&damaged, true);
        assert!(report.is_well());
        let tail = report.all_findings().find(|found| found.kind == Kind::LogTail).unwrap();
        assert_eq!(tail.disk_offset_bytes, Some(found[found.len() - 1] as u64));
        assert_eq!(volume(&report).least.log_tail, Some(1));
        // The segment's header.
        let mut damaged = images.clone();
        damaged[disk][start + 3000] ^= 1;
        let report = look(&damaged, true);
        assert!(report.all_findings().any(|found| found.kind == Kind::SegmentHeader));
    }
    // One record in all copies, also the first: those behind it are found, and the gap is named.
    let last = segment.last_record.unwrap();
    for missing in [segment.first_record, last - 2] {
        let mut damaged = images.clone();
        for copy in &segment.copies {
            let disk = disk_of(&copy.disk);
            let found = records(&images[disk], copy.disk_offset_bytes as usize);
            damaged[disk][found[(missing - segment.first_record) as usize] + 20] ^= 1;
        }
        let report = look(&damaged, true);
        let gap = report.all_findings().find(|found| found.kind == Kind::LogGap).unwrap();
        assert_eq!(gap.severity, Severity::Damage);
        let checked = volume(&report).segments.last().unwrap();
        assert_eq!(checked.gaps[..], [(missing, missing)]);
        assert_eq!(checked.first_record, segment.first_record);
        assert_eq!(checked.last_record, segment.last_record);
    }
}

#[test]
fn of_batches_that_were_under_way_together_the_disks_alone_cannot_tell() {
    let machines = Machines::new(30);
    machines.write(0, 4, 1);
    // Each is long enough to leave beside the others, so none of them says that another one is acknowledged.
    let writes = (1..4).map(|round| {
        let data = Buffer::copy_of(&[round; 16 * BLOCK_BYTES]);
        machines.volume.write(Lba(u64::from(round) * 512), data, Durability::Durable)
    });
    machines.bench.run(futures::future::try_join_all(writes)).unwrap();
    let images = machines.images();
    let report = look(&images, true);
    let segment = volume(&report).segments.last().unwrap().clone();
    assert_eq!(segment.records, 4, "{segment:#?}");
    let mut damaged = images.clone();
    for copy in &segment.copies {
        let disk = images_of(&images).iter().position(|image| image.name == copy.disk).unwrap();
        let start = copy.disk_offset_bytes as usize;
        let rows = start..start + (512 << 10);
        let of_first = rows.clone().step_by(512).find(|at| images[disk][*at..at + 512] == [1; 512]);
        let of_second = rows.step_by(512).find(|at| images[disk][*at..at + 512] == [2; 512]);
        damaged[disk][of_second.unwrap()] ^= 1;
        assert!(of_first < of_second);
    }
    let report = look(&damaged, true);
    assert_eq!(serious(&report), []);
    let tail: Vec<_> = report.all_findings().filter(|found| found.kind == Kind::LogTail).collect();
    assert_eq!(tail.len(), segment.copies.len(), "{tail:#?}");
}

/// Where checksum blocks with written rows lie on a disk.
fn checksum_slots(image: &[u8]) -> Vec<usize> {
    (0..image.len() / 4096)
        .map(|block| block * 4096)
        .filter(|at| &image[*at..at + 4] == b"epCS")
        .filter(|at| image[at + 32..at + 156].iter().any(|byte| *byte != 0))
        .collect()
}

#[test]
fn a_flipped_byte_in_a_checksum_slot_is_named() {
    let images = at_rest(26);
    let sequence =
        |image: &[u8], at: usize| u64::from_le_bytes(image[at + 24..at + 32].try_into().unwrap());
    for disk in 0..3 {
        let slots = checksum_slots(&images[disk]);
        for at in &slots {
            let mut damaged = images.clone();
            damaged[disk][at + 200] ^= 0x20;
            let report = look(&damaged, true);
            // What is in the older slot doesn't matter: the next block goes there.
            let is_same = |other: &&usize| {
                images[disk][**other + 8..**other + 20] == images[disk][at + 8..at + 20]
            };
            let newest = slots.iter().filter(is_same).map(|at| sequence(&images[disk], *at)).max();
            let counts = newest == Some(sequence(&images[disk], *at));
            let found = places(&report);
            let expected = (Kind::ChecksumSlot, format!("e{disk}.0"), *at as u64, 4096);
            assert_eq!(found, if counts { vec![expected] } else { vec![] });
            let copies = if counts { 1 } else { 2 };
            assert_eq!(volume(&report).least.checksum_blocks, Some(copies));
            assert_eq!(volume(&report).row_copies_bad, 0);
            assert_eq!(volume(&report).row_copies_read, 320);
        }
    }
    // The newest of every holder: no older one is worth anything.
    let machines = Machines::new(27);
    machines.write(0, 8, 1);
    machines.quiesce();
    machines.write(8, 8, 2);
    machines.quiesce();
    let mut damaged = machines.released();
    for image in &mut damaged {
        let newest = checksum_slots(image);
        if let Some(at) = newest.into_iter().max_by_key(|at| sequence(image, *at)) {
            image[at + 200] ^= 1;
        }
    }
    let report = look(&damaged, true);
    let lost = report.all_findings().find(|found| found.kind == Kind::ChecksumLost).unwrap();
    assert_eq!(lost.severity, Severity::Damage);
    assert_eq!(lost.volume.as_deref(), Some("v"));
    assert_eq!(volume(&report).least.checksum_blocks, Some(0));
}

#[test]
fn a_flipped_byte_in_a_data_row_is_named_with_its_place_in_the_volume() {
    let images = at_rest(28);
    // Logs lie at the end of a disk, and still have what is in place by now.
    let find = |image: &[u8], fill: u8| {
        (0..image.len() / 8192)
            .map(|block| block * 4096)
            .filter(|at| image[*at..at + 4096].iter().all(|byte| *byte == fill))
            .collect::<Vec<_>>()
    };
    let mut holders = Vec::new();
    for disk in 0..3 {
        for row in find(&images[disk], 0xb2).into_iter().take(1) {
            let report = one_flip(&images, disk, row as u64 + 99, Kind::Row);
            let found = report.all_findings().find(|found| found.kind == Kind::Row).unwrap();
            assert_eq!(found.severity, Severity::Redundancy);
            let at = found.volume_offset_bytes.unwrap();
            assert!((700 * 4096..760 * 4096).contains(&at), "{at}");
            assert_eq!(volume(&report).least.data, Some(1));
            holders.push((disk, row));
        }
    }
    // Rows that follow each other are one finding; without a right copy it is damage.
    assert_eq!(holders.len(), 2);
    let mut damaged = images.clone();
    for (disk, row) in &holders {
        damaged[*disk][row + 1] ^= 1;
        damaged[*disk][row + 4096 + 1] ^= 1;
    }
    let report = look(&damaged, true);
    let rows: Vec<_> = report.all_findings().filter(|found| found.kind == Kind::Row).collect();
    assert_eq!(rows.len(), 2, "{rows:#?}");
    assert!(rows.iter().all(|row| row.severity == Severity::Damage && row.bytes == Some(8192)));
    assert_eq!(volume(&report).least.data, Some(0));
    // Without reading data nobody sees it.
    assert!(look(&damaged, false).is_well());
}

#[test]
fn what_cannot_be_read_is_damaged_and_no_more() {
    let images = at_rest(29);
    let row = (0..images[0].len() / 4096)
        .map(|block| block * 4096)
        .find(|at| images[0][*at..at + 4096].iter().all(|byte| *byte == 0xa1))
        .unwrap();
    let bytes = &images[0];
    let read = move |offset: u64, into: &mut [u8]| {
        let (from, end) = (offset as usize, offset as usize + into.len());
        if from < row + 4096 && row < end {
            return Err(Unreadable);
        }
        into.copy_from_slice(&bytes[from..end]);
        Ok(())
    };
    let mut disks = images_of(&images);
    disks[0].read = Box::new(read);
    let report = check(&disks, &CheckOptions { data: true, pool: None });
    let found = places(&report);
    assert_eq!(found, [(Kind::Row, "e0.0".into(), row as u64, 4096)]);
}
