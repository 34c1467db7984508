//! Disks that tell different stories: stale ones, clones, and maps that contradict themselves.

use super::*;
use crate::format::{DiskNumber, ExtentNumber, GenerationId, VolumeId};
use crate::metadata::testing::recover_bytes;
use crate::metadata::{
    AreaLayout, AreaPosition, ExtentRange, GroupRun, Member, MetaRecord, Roots, RunKey, Segment,
    SegmentCopyPlace, SegmentState, encode_entry,
};

#[test]
fn an_older_copy_of_a_disk_is_not_believed() {
    let machines = Machines::new(40);
    machines.write(0, 64, 1);
    machines.quiesce();
    let before = machines.images();
    machines.write(0, 64, 2);
    machines.write(300, 64, 3);
    machines.quiesce();
    let after = machines.released();
    assert!(look(&after, true).is_well());
    let mut noticed = 0;
    for stale in 0..3 {
        let mut images = after.clone();
        images[stale].clone_from(&before[stale]);
        let report = look(&images, true);
        let found = serious(&report);
        let name = format!("e{stale}.0");
        // A disk that took part in no destage since can't be told by what it applied.
        let rolled_back = (Severity::Redundancy, Kind::RolledBack, name.clone());
        let distrusted = report.pools[0].disks[stale].distrusted;
        assert_eq!(found.contains(&rolled_back), distrusted, "{found:?}");
        noticed += usize::from(distrusted);
        assert!(found.contains(&(Severity::Redundancy, Kind::VoteOlder, name.clone())));
        assert!(found.contains(&(Severity::Redundancy, Kind::MetadataOlder, name)));
        assert!(found.iter().all(|(severity, ..)| *severity == Severity::Redundancy), "{found:?}");
        assert_eq!(volume(&report).row_copies_bad, 0);
        // Both at once: they are the same member.
        let mut both = after.clone();
        both.push(before[stale].clone());
        let found = serious(&look(&both, true));
        assert_eq!(found, [(Severity::Damage, Kind::Twin, "e3.0".into())]);
    }
    assert_eq!(noticed, 2);
}

/// Appends a transaction to every copy of the metadata, as an engine would that had gone mad.
fn commit(images: &mut [Vec<u8>], records: &[MetaRecord]) -> Vec<u64> {
    let mut at = Vec::new();
    for image in images {
        let (place, entry) = {
            let mut findings = Findings::default();
            let disk = DiskImage::of_bytes("d", image);
            let (pool, disk) = read_disk(&disk, &mut findings).unwrap();
            let (start, bytes) = disk.label.geometry.run_place(disk.label.area.unwrap()).unwrap();
            let layout = AreaLayout::new(bytes).unwrap();
            let from = start.byte_offset() as usize;
            let area = &image[from..from + bytes as usize];
            let recovered = recover_bytes(pool, &layout, area).unwrap();
            let position: AreaPosition = recovered.position;
            let entry =
                encode_entry(&layout, &position, (crate::format::ConfigNumber(1), None), records);
            let entry = entry.unwrap();
            let place = from + (layout.log_offset(position.slot()) + entry.log_at) as usize;
            (place, entry)
        };
        image[place..place + entry.bytes.len()].copy_from_slice(&entry.bytes);
        at.push(place as u64);
    }
    at
}

fn mad_run(first_set: u64, generation: u64, members: &[(u32, u32)]) -> MetaRecord {
    let members = members
        .iter()
        .map(|(disk, first)| Member { disk: DiskNumber(*disk), first: ExtentNumber(*first) });
    MetaRecord::RunAdded {
        volume: VolumeId(1),
        run: GroupRun {
            key: RunKey { lane: 0, first_set },
            count: 2,
            generation: GenerationId(generation),
            members: members.collect(),
            incoming: None,
            roots: Roots::default(),
        },
    }
}

#[test]
fn an_extent_with_two_owners_is_named() {
    let mut images = at_rest(41);
    assert_eq!(look(&images, false).pools[0].volumes[0].id, 1);
    let at = commit(&mut images, &[mad_run(5000, 9000, &[(0, 0), (1, 0)])]);
    let report = look(&images, true);
    let twice: Vec<_> =
        report.all_findings().filter(|found| found.kind == Kind::ExtentTwice).collect();
    assert!(!twice.is_empty(), "{report:#?}");
    assert!(twice.iter().all(|found| found.severity == Severity::Damage));
    assert!(at.contains(&twice[0].disk_offset_bytes.unwrap()));
    assert!(twice.iter().any(|found| found.what.contains("volume v")), "{twice:#?}");
    // Everything else is checked all the same.
    assert_eq!(volume(&report).row_copies_read, 320);
}

#[test]
fn an_extent_of_a_log_segment_and_one_beyond_the_disk_are_named() {
    let mut images = at_rest(42);
    let segment = Segment {
        number: crate::format::SegmentNumber(900),
        epoch: block::Epoch(1000),
        generation: GenerationId(9100),
        copies: vec![SegmentCopyPlace {
            disk: DiskNumber(0),
            extents: ExtentRange::new(ExtentNumber(0), 2),
        }],
        wanted: 1,
        state: SegmentState::Open,
        key: 1,
        high_water_blocks: None,
    };
    let opened = MetaRecord::SegmentOpened { volume: VolumeId(1), segment };
    commit(&mut images, &[opened, mad_run(6000, 9200, &[(1, 5_000_000), (2, 100)])]);
    let report = look(&images, false);
    let found: Vec<_> = serious(&report).into_iter().map(|(_, kind, _)| kind).collect();
    assert!(found.contains(&Kind::ExtentTwice), "{found:?}");
    assert!(found.contains(&Kind::ExtentOutside), "{found:?}");
}

#[test]
fn members_in_one_failure_domain_are_named() {
    let mut images = at_rest(43);
    let node = uuid::Uuid::from_u128(1000);
    let moved = MetaRecord::DiskMoved { number: DiskNumber(1), node, node_name: "node-0".into() };
    commit(&mut images, &[moved]);
    let report = look(&images, false);
    let domain: Vec<_> = report.all_findings().filter(|f| f.kind == Kind::Domain).collect();
    assert!(!domain.is_empty());
    assert!(domain.iter().all(|found| found.severity == Severity::Redundancy));
    assert!(domain[0].what.contains("node-0") && domain[0].volume.as_deref() == Some("v"));
}

#[test]
fn metadata_copies_with_different_histories_are_named() {
    let mut images = at_rest(44);
    let rename = |name: &str| [MetaRecord::PoolRenamed { name: name.into() }];
    commit(&mut images[..2], &rename("left"));
    commit(&mut images[2..], &rename("right"));
    let found = serious(&look(&images, false));
    let histories = found.iter().filter(|(severity, kind, _)| {
        (*severity, *kind) == (Severity::Damage, Kind::MetadataHistories)
    });
    assert!(histories.count() >= 1, "{found:?}");
}

#[test]
fn a_segment_that_lost_a_copy_is_thin_as_long_as_it_is_needed() {
    let machines = Machines::new(45);
    machines.write(0, 4, 1);
    machines.write(9, 4, 2);
    let mut images = machines.images();
    let report = look(&images, false);
    let segment = volume(&report).segments.last().unwrap();
    let disk = segment.copies[0].disk.as_bytes()[1] - b'0';
    let dropped = MetaRecord::SegmentCopyDropped {
        volume: VolumeId(1),
        number: crate::format::SegmentNumber(segment.number),
        disk: DiskNumber(u32::from(disk)),
    };
    commit(&mut images, &[dropped]);
    let report = look(&images, false);
    let found = serious(&report);
    assert_eq!(found, [(Severity::Redundancy, Kind::SegmentCopy, String::new())]);
    assert_eq!(volume(&report).least.log_records, Some(1));
}
