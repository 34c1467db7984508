#![allow(clippy::unwrap_used)]

use block::Epoch;
use proptest::prelude::*;

use super::*;
use crate::format::{FailureDomain, MIB, RecordNumber, ReleaseNumber};
use crate::metadata::testing::{
    any_record, disk_added, empty_pool, history, pool_of, restored, run, segment, whole,
};
use crate::metadata::{
    DirtyRegions, ExtentSet, GroupRun, JobKind, Layout, Member, SegmentCopyPlace, SegmentState,
};

fn after_history() -> Metadata {
    let mut metadata = empty_pool(FailureDomain::Node);
    for record in history() {
        metadata.apply(&record).unwrap_or_else(|error| panic!("{record:?}: {error}"));
    }
    metadata
}

/// A pool of three disks with one volume of 16 groups on disks 0 and 1.
fn small() -> Metadata {
    let mut metadata = pool_of(FailureDomain::Node, &[(0, 512), (1, 512), (2, 512)]);
    let volume = VolumeId(1);
    metadata
        .apply_all(&[
            MetaRecord::VolumeCreated {
                id: volume,
                name: "v".into(),
                layout: Layout::Mirror(2),
                width: 1,
            },
            MetaRecord::RunAdded { volume, run: run(0, 16, 1, &[(0, 0), (1, 4)]) },
        ])
        .unwrap();
    metadata
}

/// Applies a record that must be refused, and shows that nothing changed.
fn refused(metadata: &Metadata, record: MetaRecord) -> Inconsistent {
    let mut changed = metadata.clone();
    let error = changed.apply(&record).unwrap_err();
    assert_eq!(changed, *metadata, "{record:?} changed something");
    error
}

/// Each extent of each disk is free, pending or owned once.
fn assert_every_extent_has_one_owner(metadata: &Metadata) {
    let mut sets: std::collections::BTreeMap<DiskNumber, ExtentSet> = Default::default();
    for disk in metadata.disks().values() {
        let mut set = disk.free.clone();
        for extents in disk.pending.ranges() {
            assert!(set.insert(extents), "{extents:?} of {} is pending and free", disk.number);
        }
        for extents in disk.areas() {
            assert!(set.insert(extents), "{extents:?} of {} twice", disk.number);
        }
        sets.insert(disk.number, set);
    }
    for volume in metadata.volumes().values() {
        for (disk, extents) in owned_by(volume) {
            assert!(sets.get_mut(&disk).unwrap().insert(extents), "{extents:?} of {disk} twice");
        }
    }
    for disk in metadata.disks().values() {
        assert_eq!(sets[&disk.number], ExtentSet::full(disk.extents), "{}", disk.number);
    }
}

#[test]
fn every_kind_of_record_applies_and_a_snapshot_restores_all_of_it() {
    let mut metadata = empty_pool(FailureDomain::Node);
    for record in history() {
        metadata.apply(&record).unwrap_or_else(|error| panic!("{record:?}: {error}"));
        assert_every_extent_has_one_owner(&metadata);
        let restored = restored(&metadata);
        assert_eq!(restored.as_ref(), Ok(&metadata), "after {record:?}");
    }
    let volume = &metadata.volumes()[&VolumeId(1)];
    assert_eq!(volume.name, "hyperspace");
    assert_eq!(volume.properties.keys().collect::<Vec<_>>(), ["mount"]);
    assert_eq!(metadata.dirty(GenerationId(2), DiskNumber(0)), 0xc0);
    assert_eq!(metadata.dirty(GenerationId(18), DiskNumber(2)), 1);
    assert_eq!(metadata.dirty(GenerationId(19), DiskNumber(2)), 0);
    let behind = metadata.groups_behind(volume).map(|group| group.generation());
    assert_eq!(behind.map(|group| group.0).collect::<Vec<_>>(), [2, 7, 8, 9, 10, 18]);
    assert_eq!(metadata.pool().name, "pond");
}

#[test]
fn metadata_areas_are_extents_that_nobody_else_has() {
    let disk = DiskNumber(0);
    let range = |first, count| ExtentRange::new(ExtentNumber(first), count);
    let begun = |first, count| MetaRecord::AreaBegun { disk, extents: range(first, count) };
    // 127 extents, the last two of them the first area.
    let mut metadata = small();
    assert_eq!(metadata.disks()[&disk].room(), 125);
    for (first, count) in [(0, 2), (15, 2), (124, 2), (125, 2)] {
        assert_eq!(refused(&metadata, begun(first, count)), Inconsistent::NotFree(disk));
    }
    for (first, count) in [(20, 0), (126, 2), (127, 1), (u32::MAX, 1), (20, u32::MAX)] {
        assert_eq!(refused(&metadata, begun(first, count)), Inconsistent::BadGeometry(disk));
    }
    let unknown = MetaRecord::AreaBegun { disk: DiskNumber(9), extents: range(20, 2) };
    assert_eq!(refused(&metadata, unknown), Inconsistent::UnknownDisk(DiskNumber(9)));
    for ended in [MetaRecord::AreaSwitched { disk }, MetaRecord::AreaCancelled { disk }] {
        assert_eq!(refused(&metadata, ended), Inconsistent::BadShape);
    }
    metadata.apply(&begun(20, 4)).unwrap();
    assert_eq!(refused(&metadata, begun(40, 4)), Inconsistent::BadShape);
    let now = &metadata.disks()[&disk];
    assert_eq!((now.area, now.incoming_area), (Some(range(125, 2)), Some(range(20, 4))));
    assert!(now.agrees_on_area(now.area) && now.agrees_on_area(now.incoming_area));
    assert!(!now.agrees_on_area(None) && !now.agrees_on_area(Some(range(20, 2))));
    assert_every_extent_has_one_owner(&metadata);
    let mut cancelled = metadata.clone();
    cancelled.apply(&MetaRecord::AreaCancelled { disk }).unwrap();
    let now = &cancelled.disks()[&disk];
    assert_eq!((now.area, now.incoming_area), (Some(range(125, 2)), None));
    assert!(now.pending.contains(range(20, 4)) && !now.agrees_on_area(Some(range(20, 4))));
    assert_every_extent_has_one_owner(&cancelled);
    metadata.apply(&MetaRecord::AreaSwitched { disk }).unwrap();
    let now = &metadata.disks()[&disk];
    assert_eq!((now.area, now.incoming_area), (Some(range(20, 4)), None));
    assert!(now.pending.contains(range(125, 2)) && !now.agrees_on_area(Some(range(125, 2))));
    assert_every_extent_has_one_owner(&metadata);
}

#[test]
fn a_disk_joins_with_an_area_that_it_can_have() {
    let metadata = small();
    let added = |area| {
        let MetaRecord::DiskAdded { number, id, node, node_name, bytes, .. } =
            disk_added(3, 3, 512 * MIB, 0)
        else {
            unreachable!()
        };
        MetaRecord::DiskAdded { number, id, node, node_name, bytes, area: Some(area) }
    };
    for (first, count) in [(0, 0), (126, 2), (127, 1), (u32::MAX, u32::MAX)] {
        let area = ExtentRange::new(ExtentNumber(first), count);
        let fault = refused(&metadata, added(area));
        assert_eq!(fault, Inconsistent::BadGeometry(DiskNumber(3)), "{first} {count}");
    }
    let mut metadata = metadata;
    metadata.apply(&added(ExtentRange::new(ExtentNumber(125), 2))).unwrap();
    assert_every_extent_has_one_owner(&metadata);
}

#[test]
fn groups_are_found_by_generation_and_by_place() {
    let metadata = after_history();
    let volume = &metadata.volumes()[&VolumeId(1)];
    for group in volume.groups() {
        let by_generation = metadata.group_by_generation(group.generation()).unwrap();
        assert_eq!((by_generation.run, by_generation.index), (group.run, group.index));
        let by_place = volume.group(group.set(), group.lane()).unwrap();
        assert_eq!((by_place.run, by_place.index), (group.run, group.index));
    }
    assert_eq!(volume.groups().count(), 20);
    let group = metadata.group_by_generation(GenerationId(20)).unwrap();
    let members: Vec<_> = group.members().map(|(disk, extent)| (disk.0, extent.0)).collect();
    // At last where one of them moves to.
    assert_eq!(members, [(1, 18), (2, 2), (3, 42)]);
    assert!(metadata.group_by_generation(GenerationId(10)).unwrap().is_initialised());
    assert!(!metadata.group_by_generation(GenerationId(11)).unwrap().is_initialised());
    for absent in [0, 17, 22, 23, 24, 499, u64::MAX] {
        assert!(metadata.group_by_generation(GenerationId(absent)).is_none(), "{absent}");
    }
    assert!(volume.group(20, 0).is_none() && volume.group(0, 1).is_none());
}

#[test]
fn extents_have_one_owner() {
    let metadata = small();
    let volume = VolumeId(1);
    let add = |run: GroupRun| refused(&metadata, MetaRecord::RunAdded { volume, run });
    let disk = DiskNumber;
    assert_eq!(add(run(16, 4, 17, &[(2, 0), (1, 19)])), Inconsistent::NotFree(disk(1)));
    assert_eq!(add(run(16, 4, 17, &[(2, 0), (1, 2)])), Inconsistent::NotFree(disk(1)));
    assert_eq!(add(run(16, 4, 17, &[(2, 0), (1, u32::MAX)])), Inconsistent::NotFree(disk(1)));
    assert_eq!(add(run(16, 4, 17, &[(2, 0), (2, 9)])), Inconsistent::BadShape);
    assert_eq!(add(run(16, 4, 17, &[(2, 0), (7, 9)])), Inconsistent::UnknownDisk(disk(7)));
    let open = |segment| refused(&metadata, MetaRecord::SegmentOpened { volume, segment });
    assert_eq!(open(segment(1, 17, &[(2, 0), (0, 15)])), Inconsistent::NotFree(disk(0)));
    assert_eq!(open(segment(1, 17, &[])), Inconsistent::BadShape);
}

#[test]
fn generations_and_numbers_are_given_once() {
    let metadata = small();
    let volume = VolumeId(1);
    for generation in [0, 1, 16] {
        let run = run(16, 4, generation, &[(2, 0), (1, 30)]);
        let error = refused(&metadata, MetaRecord::RunAdded { volume, run });
        assert_eq!(error, Inconsistent::NumberReused);
    }
    let overflowing = run(16, 4, u64::MAX - 2, &[(2, 0), (1, 30)]);
    let error = refused(&metadata, MetaRecord::RunAdded { volume, run: overflowing });
    assert_eq!(error, Inconsistent::BadShape);
    let again = disk_added(2, 2, 512 * MIB, 0);
    assert_eq!(refused(&metadata, again), Inconsistent::NumberReused);
    let mut metadata = metadata;
    metadata.apply(&MetaRecord::VolumeRemoved { id: volume }).unwrap();
    let (name, layout) = ("v".to_string(), Layout::Raid0);
    let again = MetaRecord::VolumeCreated { id: volume, name, layout, width: 1 };
    assert_eq!(refused(&metadata, again), Inconsistent::NumberReused);
    let lower = Counters { generation: GenerationId(3), ..metadata.counters() };
    assert_eq!(metadata.set_counters(lower), Err(Inconsistent::Backwards));
}

#[test]
fn groups_of_a_volume_do_not_overlap() {
    let metadata = small();
    let volume = VolumeId(1);
    for first_set in [0, 15, 8] {
        let run = run(first_set, 4, 17, &[(2, 0), (1, 30)]);
        let error = refused(&metadata, MetaRecord::RunAdded { volume, run });
        assert_eq!(error, Inconsistent::Overlap(volume));
    }
    let mut lane = run(16, 4, 17, &[(2, 0), (1, 30)]);
    lane.key.lane = 1;
    let error = refused(&metadata, MetaRecord::RunAdded { volume, run: lane });
    assert_eq!(error, Inconsistent::BadShape);
}

#[test]
fn a_size_is_covered_by_groups_without_a_hole() {
    let mut metadata = small();
    let volume = VolumeId(1);
    let resize = |sets: u64| MetaRecord::VolumeResized { id: volume, bytes: sets * 1020 * 4096 };
    metadata.apply(&resize(16)).unwrap();
    assert_eq!(refused(&metadata, resize(17)), Inconsistent::NotCovered(volume));
    let beyond_a_hole = run(17, 4, 17, &[(2, 0), (1, 30)]);
    metadata.apply(&MetaRecord::RunAdded { volume, run: beyond_a_hole }).unwrap();
    assert_eq!(refused(&metadata, resize(17)), Inconsistent::NotCovered(volume));
    metadata
        .apply(&MetaRecord::RunAdded { volume, run: run(16, 1, 21, &[(2, 10), (1, 40)]) })
        .unwrap();
    metadata.apply(&resize(21)).unwrap();
    let odd = MetaRecord::VolumeResized { id: volume, bytes: 5000 };
    assert_eq!(refused(&metadata, odd), Inconsistent::NotCovered(volume));
}

#[test]
fn every_region_keeps_a_member_that_has_it() {
    let mut metadata = small();
    let miss = |disk, mask| ((GenerationId(3), DiskNumber(disk)), mask);
    metadata.apply(&MetaRecord::RegionsDirtied([miss(0, 0b11)].into())).unwrap();
    let no_right_member = Inconsistent::NoRightMember(GenerationId(3));
    let error = refused(&metadata, MetaRecord::RegionsDirtied([miss(1, 0b10)].into()));
    assert_eq!(error, no_right_member);
    let both = [miss(1, 0b1000), miss(0, 0b1000)].into();
    let error = refused(&metadata, MetaRecord::RegionsDirtied(both));
    assert_eq!(error, no_right_member);
    let released = MetaRecord::Released {
        volume: VolumeId(1),
        log: RecordNumber(4),
        release: ReleaseNumber(1),
        touched: vec![DiskNumber(0)],
        dirty_regions: [miss(1, 0b1)].into(),
        roots: vec![],
    };
    assert_eq!(refused(&metadata, released), no_right_member);
    metadata.apply(&MetaRecord::RegionsDirtied([miss(1, 0b100)].into())).unwrap();
    let unknown = [((GenerationId(17), DiskNumber(0)), 1)].into();
    let error = refused(&metadata, MetaRecord::RegionsDirtied(unknown));
    assert_eq!(error, Inconsistent::UnknownGroup(GenerationId(17)));
}

#[test]
fn only_a_disk_with_a_position_in_a_group_has_dirty_regions_of_it() {
    let mut metadata = small();
    let volume = VolumeId(1);
    metadata
        .apply(&MetaRecord::RunAdded { volume, run: run(16, 4, 17, &[(1, 30), (2, 0)]) })
        .unwrap();
    let miss =
        |generation, disk| DirtyRegions::from([((GenerationId(generation), DiskNumber(disk)), 1)]);
    for (generation, disk) in [(1, 2), (16, 2), (17, 0), (20, 0), (3, 9)] {
        let nowhere = Inconsistent::UnknownPosition(GenerationId(generation), DiskNumber(disk));
        for record in [MetaRecord::RegionsDirtied, MetaRecord::RegionsCleaned] {
            assert_eq!(refused(&metadata, record(miss(generation, disk))), nowhere);
        }
    }
    // The same position of two runs is two disks'.
    metadata
        .apply_all(&[(16, 1), (17, 2)].map(|(b, d)| MetaRecord::RegionsDirtied(miss(b, d))))
        .unwrap();
    let volume = &metadata.volumes()[&volume];
    let dirty: Vec<_> = metadata.dirty_regions_of(volume).collect();
    let key = |generation, disk| (GenerationId(generation), DiskNumber(disk));
    assert_eq!(dirty, [(key(16, 1), 1), (key(17, 2), 1)]);
    assert_eq!(metadata.dirty(GenerationId(17), DiskNumber(1)), 0);
}

#[test]
fn a_segment_keeps_its_last_copy_and_unreleased_records() {
    let mut metadata = small();
    let volume = VolumeId(1);
    let ended =
        |number, state| MetaRecord::SegmentEnded { volume, number: SegmentNumber(number), state };
    let (closed, bounded) = (SegmentState::Closed, SegmentState::Bounded);
    let freed = |number| MetaRecord::SegmentFreed { volume, number: SegmentNumber(number) };
    let still_needed = |number| Inconsistent::StillNeeded(volume, SegmentNumber(number));
    metadata
        .apply_all(&[
            MetaRecord::SegmentOpened { volume, segment: segment(1, 17, &[(0, 60), (2, 60)]) },
            MetaRecord::SegmentCopyDropped {
                volume,
                number: SegmentNumber(1),
                disk: DiskNumber(0),
            },
        ])
        .unwrap();
    let number = SegmentNumber(1);
    let last = MetaRecord::SegmentCopyDropped { volume, number, disk: DiskNumber(2) };
    assert_eq!(refused(&metadata, last), still_needed(1));
    assert_eq!(refused(&metadata, freed(1)), still_needed(1));
    metadata.apply(&ended(1, closed(RecordNumber(8)))).unwrap();
    for state in [closed(RecordNumber(7)), bounded(RecordNumber(9)), SegmentState::Open] {
        assert_eq!(refused(&metadata, ended(1, state)), Inconsistent::Backwards);
    }
    let opened = MetaRecord::SegmentOpened { volume, segment: segment(2, 18, &[(0, 62), (2, 62)]) };
    metadata.apply(&opened).unwrap();
    let released = |log| MetaRecord::Released {
        volume,
        log: RecordNumber(log),
        release: ReleaseNumber(log),
        touched: vec![],
        dirty_regions: DirtyRegions::new(),
        roots: vec![],
    };
    metadata.apply(&released(7)).unwrap();
    assert_eq!(refused(&metadata, freed(1)), still_needed(1));
    // A segment that holds nothing but what an older one has goes before that.
    let mut copied = metadata.clone();
    copied.apply_all(&[ended(2, bounded(RecordNumber(8))), freed(2)]).unwrap();
    let longer = ended(2, bounded(RecordNumber(9)));
    copied = metadata.clone();
    copied.apply(&longer).unwrap();
    assert_eq!(refused(&copied, freed(2)), still_needed(2));
    metadata.apply(&released(8)).unwrap();
    metadata.apply(&freed(1)).unwrap();
    assert_eq!(refused(&metadata, released(7)), Inconsistent::NumberReused);
    let mut earlier = segment(3, 19, &[(0, 64)]);
    earlier.epoch = Epoch(0);
    let error = refused(&metadata, MetaRecord::SegmentOpened { volume, segment: earlier });
    assert_eq!(error, Inconsistent::Backwards);
    assert_every_extent_has_one_owner(&metadata);
}

#[test]
fn a_removed_volume_leaves_pending_extents_and_no_trace() {
    let mut metadata = small();
    let volume = VolumeId(1);
    let (first, last) = ((GenerationId(1), DiskNumber(1)), (GenerationId(16), DiskNumber(0)));
    metadata.apply(&MetaRecord::RegionsDirtied([(first, 1), (last, 1)].into())).unwrap();
    metadata
        .apply(&MetaRecord::SegmentOpened { volume, segment: segment(1, 17, &[(0, 60)]) })
        .unwrap();
    metadata.apply(&MetaRecord::VolumeRemoved { id: volume }).unwrap();
    assert!(metadata.dirty_regions().is_empty());
    assert!(metadata.group_by_generation(GenerationId(3)).is_none());
    let disk = &metadata.disks()[&DiskNumber(0)];
    assert_eq!(disk.pending.len(), 18);
    assert_every_extent_has_one_owner(&metadata);
    let free = |first, count| MetaRecord::PendingFreed {
        disk: DiskNumber(0),
        extents: ExtentRange::new(ExtentNumber(first), count),
    };
    let error = refused(&metadata, free(0, 17));
    assert_eq!(error, Inconsistent::NotPending(DiskNumber(0)));
    metadata.apply_all(&[free(0, 16), free(60, 2)]).unwrap();
}

proptest! {
    /// Whatever comes: a refused record changes nothing, each extent has one owner, each region a
    /// member that has it, and a snapshot restores everything.
    #[test]
    fn no_history_breaks_an_invariant(records in prop::collection::vec(any_record(), 0..120)) {
        let mut metadata = pool_of(FailureDomain::Node, &[(0, 128), (1, 128)]);
        for record in records {
            let before = metadata.clone();
            if metadata.apply(&record).is_err() {
                prop_assert_eq!(&metadata, &before);
            }
        }
        assert_every_extent_has_one_owner(&metadata);
        for ((generation, disk), mask) in metadata.dirty_regions() {
            prop_assert_ne!(*mask, 0);
            let group = metadata.group_by_generation(*generation).unwrap();
            prop_assert!(group.is_on(*disk));
            let dirty = group.members().map(|(disk, _)| metadata.dirty(*generation, disk));
            prop_assert_eq!(dirty.fold(u64::MAX, |nobody, dirty| nobody & dirty), 0);
        }
        let restored = restored(&metadata);
        prop_assert_eq!(restored.as_ref(), Ok(&metadata));
        prop_assert!(whole(&metadata).len() < 20_000);
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let metadata = small();
    let create = |layout, width| {
        let (id, name) = (VolumeId(2), "w".to_string());
        refused(&metadata, MetaRecord::VolumeCreated { id, name, layout, width })
    };
    assert_eq!(create(Layout::Mirror(0), 1), Inconsistent::BadShape);
    assert_eq!(create(Layout::Mirror(COPIES_MAX + 1), 1), Inconsistent::BadShape);
    assert_eq!(create(Layout::Raid0, 0), Inconsistent::BadShape);
    assert_eq!(create(Layout::Raid0, WIDTH_MAX + 1), Inconsistent::BadShape);
    let mut short = run(16, 4, 17, &[(2, 0)]);
    let volume = VolumeId(1);
    let add = |run| refused(&metadata, MetaRecord::RunAdded { volume, run });
    assert_eq!(add(short.clone()), Inconsistent::BadShape);
    short.members.push(Member { disk: DiskNumber(1), first: ExtentNumber(40) });
    short.count = 0;
    assert_eq!(add(short), Inconsistent::BadShape);
    let mut uneven = segment(1, 17, &[(0, 60), (2, 60)]);
    uneven.copies[1] =
        SegmentCopyPlace { disk: DiskNumber(2), extents: ExtentRange::new(ExtentNumber(60), 3) };
    let error = refused(&metadata, MetaRecord::SegmentOpened { volume, segment: uneven });
    assert_eq!(error, Inconsistent::BadShape);
    let long = MetaRecord::PoolRenamed { name: "x".repeat(65) };
    assert_eq!(refused(&metadata, long), Inconsistent::BadName);
    let long = MetaRecord::VolumeRenamed { id: volume, name: "x".repeat(65) };
    assert_eq!(refused(&metadata, long), Inconsistent::BadName);
    let tiny = disk_added(3, 3, MIB, 0);
    assert_eq!(refused(&metadata, tiny), Inconsistent::BadGeometry(DiskNumber(3)));
}

/// However large the metadata is, a transaction shares with what was before all that it doesn't change.
#[test]
fn a_planned_change_leaves_the_metadata_as_it_was() {
    let before = after_history();
    let kept = whole(&before);
    let changes = [
        MetaRecord::PoolRenamed { name: "ocean".into() },
        MetaRecord::RegionsDirtied([((GenerationId(3), DiskNumber(0)), 4)].into()),
        MetaRecord::VolumeResized { id: VolumeId(1), bytes: 4096 },
        MetaRecord::VolumeRenamed { id: VolumeId(1), name: "other".into() },
        MetaRecord::RunInitialised {
            volume: VolumeId(1),
            key: RunKey { lane: 0, first_set: 6 },
            count: 5,
        },
        MetaRecord::VolumeRemoved { id: VolumeId(1) },
    ];
    for change in changes {
        let after = before.with(std::slice::from_ref(&change)).unwrap();
        assert_ne!(after, before, "{change:?}");
        assert_eq!(whole(&before), kept, "{change:?}");
    }
}

/// The record that moves position 1 of the small pool's run to disk 2.
fn moving() -> (VolumeId, RunKey, MetaRecord) {
    let (volume, key) = (VolumeId(1), RunKey { lane: 0, first_set: 0 });
    let to = Member { disk: DiskNumber(2), first: ExtentNumber(8) };
    (volume, key, MetaRecord::MoveBegun { volume, key, position: 1, to })
}

#[test]
fn a_position_moves_once_its_new_disk_lacks_nothing() {
    let (volume, key, begun) = moving();
    let switched = MetaRecord::MoveSwitched { volume, key };
    let mut metadata = small();
    metadata.apply(&MetaRecord::RunInitialised { volume, key, count: 3 }).unwrap();
    assert_eq!(refused(&metadata, switched.clone()), Inconsistent::Moving(volume, key));
    metadata.apply(&begun).unwrap();
    assert_every_extent_has_one_owner(&metadata);
    // Of groups that nothing was ever written to it lacks nothing.
    let lacks = |metadata: &Metadata| -> Vec<_> {
        metadata.dirty_regions().iter().map(|(key, mask)| (key.0.0, key.1.0, *mask)).collect()
    };
    assert_eq!(lacks(&metadata), [(1, 2, u64::MAX), (2, 2, u64::MAX), (3, 2, u64::MAX)]);
    let group = metadata.group_by_generation(GenerationId(3)).unwrap();
    let members: Vec<_> = group.members().map(|(disk, extent)| (disk.0, extent.0)).collect();
    assert_eq!(members, [(0, 2), (1, 6), (2, 10)]);
    assert_eq!(refused(&metadata, begun), Inconsistent::Moving(volume, key));
    let lacking = Inconsistent::NoRightMember(GenerationId(1));
    assert_eq!(refused(&metadata, switched.clone()), lacking);
    // Whoever is to go may be the only one that is right somewhere.
    let mut alone = metadata.clone();
    let dirty = |disk, mask| [((GenerationId(2), DiskNumber(disk)), mask)].into();
    alone.apply(&MetaRecord::RegionsCleaned(dirty(2, 1))).unwrap();
    alone.apply(&MetaRecord::RegionsDirtied(dirty(0, 1))).unwrap();
    alone.apply(&MetaRecord::RegionsDirtied(dirty(1, 1))).unwrap();
    let cancelled = MetaRecord::MoveCancelled { volume, key };
    let lacking = Inconsistent::NoRightMember(GenerationId(2));
    assert_eq!(refused(&alone, cancelled.clone()), lacking);
    for group in 1..=3 {
        let all = [((GenerationId(group), DiskNumber(2)), u64::MAX)].into();
        metadata.apply(&MetaRecord::RegionsCleaned(all)).unwrap();
    }
    // What the one that goes lacks goes with it.
    metadata.apply(&MetaRecord::RegionsDirtied(dirty(1, 7))).unwrap();
    metadata.apply(&switched).unwrap();
    assert!(metadata.dirty_regions().is_empty());
    let run = metadata.run(volume, key).unwrap();
    assert_eq!((run.members[1].disk, run.incoming), (DiskNumber(2), None));
    let pending: Vec<_> = metadata.disks()[&DiskNumber(1)].pending.ranges().collect();
    assert_eq!(pending, [ExtentRange::new(ExtentNumber(4), 16)]);
    assert_every_extent_has_one_owner(&metadata);
    assert_eq!(refused(&metadata, cancelled), Inconsistent::Moving(volume, key));
}

#[test]
fn a_move_goes_to_free_extents_of_a_disk_without_a_position() {
    let (volume, key, begun) = moving();
    let metadata = small();
    let to = |disk, first| Member { disk: DiskNumber(disk), first: ExtentNumber(first) };
    let wrong = |position, to| MetaRecord::MoveBegun { volume, key, position, to };
    assert_eq!(refused(&metadata, wrong(2, to(2, 0))), Inconsistent::BadShape);
    assert_eq!(refused(&metadata, wrong(0, to(1, 40))), Inconsistent::BadShape);
    assert_eq!(refused(&metadata, wrong(0, to(2, 120))), Inconsistent::NotFree(DiskNumber(2)));
    assert_eq!(refused(&metadata, wrong(0, to(9, 0))), Inconsistent::UnknownDisk(DiskNumber(9)));
    let mut cancelled = metadata.clone();
    cancelled.apply(&begun).unwrap();
    cancelled.apply(&MetaRecord::MoveCancelled { volume, key }).unwrap();
    assert!(cancelled.run(volume, key).unwrap().incoming.is_none());
    assert_eq!(cancelled.disks()[&DiskNumber(2)].pending.ranges().count(), 1);
    assert_every_extent_has_one_owner(&cancelled);
    // Who removes the volume gives up both places.
    let mut removed = metadata;
    removed.apply(&begun).unwrap();
    removed.apply(&MetaRecord::VolumeRemoved { id: volume }).unwrap();
    assert_every_extent_has_one_owner(&removed);
}

#[test]
fn a_run_is_split_and_its_groups_are_what_they_were() {
    let (volume, key, begun) = moving();
    let mut metadata = small();
    metadata.apply(&MetaRecord::RunInitialised { volume, key, count: 9 }).unwrap();
    metadata.apply(&begun).unwrap();
    let groups = |metadata: &Metadata| -> Vec<_> {
        let volume = &metadata.volumes()[&volume];
        let groups = volume.groups().map(|group| {
            (group.generation(), group.set(), group.root(), group.members().collect::<Vec<_>>())
        });
        groups.collect()
    };
    let before = groups(&metadata);
    let split = |first_set, count| {
        let key = RunKey { lane: 0, first_set };
        MetaRecord::RunSplit { volume, key, count }
    };
    for count in [0, 16, 17] {
        assert_eq!(refused(&metadata, split(0, count)), Inconsistent::BadShape);
    }
    metadata.apply(&split(0, 12)).unwrap();
    metadata.apply(&split(0, 5)).unwrap();
    assert_eq!(groups(&metadata), before);
    let runs = metadata.volumes()[&volume].runs.values();
    assert_eq!(runs.map(|run| run.initialised()).collect::<Vec<_>>(), [5, 4, 0]);
    for generation in 1..=16 {
        let group = metadata.group_by_generation(GenerationId(generation)).unwrap();
        assert_eq!(group.generation(), GenerationId(generation));
    }
    assert_every_extent_has_one_owner(&metadata);
    // One of them moves for itself.
    let key = RunKey { lane: 0, first_set: 12 };
    metadata.apply(&MetaRecord::MoveSwitched { volume, key }).unwrap();
    assert_eq!(restored(&metadata).as_ref(), Ok(&metadata));
    assert_every_extent_has_one_owner(&metadata);
}

#[test]
fn a_volume_ends_earlier_and_nothing_of_its_tail_stays() {
    let (volume, key, begun) = moving();
    let mut metadata = small();
    let set_bytes = 1020 * 4096;
    let reduced = |bytes| MetaRecord::VolumeReduced { id: volume, bytes };
    metadata.apply(&MetaRecord::VolumeResized { id: volume, bytes: 16 * set_bytes }).unwrap();
    metadata.apply(&MetaRecord::RunInitialised { volume, key, count: 9 }).unwrap();
    metadata.apply(&begun).unwrap();
    let dirty = |group| ((GenerationId(group), DiskNumber(0)), 7);
    let cleaned = (1..=9).map(|group| ((GenerationId(group), DiskNumber(2)), 7)).collect();
    metadata.apply(&MetaRecord::RegionsCleaned(cleaned)).unwrap();
    metadata.apply(&MetaRecord::RegionsDirtied([dirty(5), dirty(6)].into())).unwrap();
    assert_eq!(refused(&metadata, reduced(17 * set_bytes)), Inconsistent::Backwards);
    assert_eq!(refused(&metadata, reduced(set_bytes + 1)), Inconsistent::NotCovered(volume));
    let unknown = Inconsistent::UnknownVolume(VolumeId(9));
    let other = MetaRecord::VolumeReduced { id: VolumeId(9), bytes: 0 };
    assert_eq!(refused(&metadata, other), unknown);
    // A block of the fifth set keeps all of that set.
    metadata.apply(&reduced(4 * set_bytes + 4096)).unwrap();
    let of = &metadata.volumes()[&volume];
    assert_eq!((of.bytes, of.whole_sets()), (4 * set_bytes + 4096, 5));
    assert_eq!(metadata.run(volume, key).unwrap().initialised(), 5);
    let lacking: Vec<u64> = metadata.dirty_regions().keys().map(|(group, _)| group.0).collect();
    assert!(lacking.contains(&5) && lacking.iter().all(|group| *group <= 5), "{lacking:?}");
    assert!(metadata.group_by_generation(GenerationId(5)).is_some());
    assert!(metadata.group_by_generation(GenerationId(6)).is_none());
    // Also where a position was to move to.
    for (disk, first) in [(0, 5), (1, 9), (2, 13)] {
        let pending: Vec<_> = metadata.disks()[&DiskNumber(disk)].pending.ranges().collect();
        assert_eq!(pending, [ExtentRange::new(ExtentNumber(first), 11)]);
    }
    assert_every_extent_has_one_owner(&metadata);
    assert_eq!(restored(&metadata).as_ref(), Ok(&metadata));
    metadata.apply(&reduced(4 * set_bytes + 4096)).unwrap();
    metadata.apply(&reduced(2 * set_bytes)).unwrap();
    assert_eq!(metadata.volumes()[&volume].whole_sets(), 2);
    assert_every_extent_has_one_owner(&metadata);
    // What grows there again is new.
    metadata
        .apply(&MetaRecord::RunAdded { volume, run: run(2, 2, 17, &[(0, 40), (1, 40)]) })
        .unwrap();
    assert_every_extent_has_one_owner(&metadata);
}

#[test]
fn a_disk_has_one_job() {
    let mut metadata = small();
    let set = |number, kind, disks: &[u32]| MetaRecord::JobSet {
        number: JobNumber(number),
        job: crate::metadata::testing::job(kind, disks),
    };
    metadata.apply(&set(1, JobKind::Evacuate, &[0])).unwrap();
    metadata.apply(&set(1, JobKind::Replace, &[0, 2])).unwrap();
    let taken = Inconsistent::UnknownJob(JobNumber(2));
    assert_eq!(refused(&metadata, set(2, JobKind::Rebuild, &[0])), taken);
    for (kind, disks) in [
        (JobKind::Evacuate, &[][..]),
        (JobKind::Rebuild, &[1, 2]),
        (JobKind::Replace, &[1]),
        (JobKind::Replace, &[1, 1]),
    ] {
        assert_eq!(refused(&metadata, set(2, kind, disks)), Inconsistent::BadShape);
    }
    let unknown = Inconsistent::UnknownDisk(DiskNumber(7));
    assert_eq!(refused(&metadata, set(2, JobKind::Evacuate, &[7])), unknown);
    metadata.apply(&set(3, JobKind::Other(200), &[1])).unwrap();
    assert_eq!(metadata.leaving(), [DiskNumber(0)].into(), "nobody works on what isn't known");
    assert_eq!(restored(&metadata).as_ref(), Ok(&metadata));
    metadata.apply(&MetaRecord::JobRemoved { number: JobNumber(1) }).unwrap();
    let unknown = Inconsistent::UnknownJob(JobNumber(1));
    assert_eq!(refused(&metadata, MetaRecord::JobRemoved { number: JobNumber(1) }), unknown);
}
