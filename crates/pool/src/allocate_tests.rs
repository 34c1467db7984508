#![allow(clippy::unwrap_used)]

use block::Epoch;
use proptest::prelude::*;

use super::*;
use crate::format::{FailureDomain, MIB, SegmentNumber};
use crate::metadata::testing::pool_of;
use crate::metadata::{MetaRecord, Segment, SegmentState};

fn all(metadata: &Metadata) -> Usable {
    metadata.disks().keys().copied().collect()
}

fn without(metadata: &Metadata, disk: u32) -> Usable {
    all(metadata).into_iter().filter(|number| number.0 != disk).collect()
}

/// Creates a volume, as the engine would.
fn create(metadata: &mut Metadata, layout: Layout) -> VolumeId {
    let id = metadata.counters().volume;
    let width = stripe_width(metadata, &all(metadata), layout);
    let name = format!("volume-{}", id.0);
    metadata.apply(&MetaRecord::VolumeCreated { id, name, layout, width }).unwrap();
    id
}

/// Lets a volume grow to `bytes`, as the engine would.
fn grow(
    metadata: &mut Metadata,
    usable: &Usable,
    volume: VolumeId,
    bytes: u64,
) -> Result<Vec<GroupRun>, NoSpace> {
    let runs = plan_groups(metadata, usable, volume, bytes)?;
    for run in &runs {
        metadata.apply(&MetaRecord::RunAdded { volume, run: run.clone() }).unwrap();
    }
    metadata.apply(&MetaRecord::VolumeResized { id: volume, bytes }).unwrap();
    Ok(runs)
}

/// Opens a log segment, as the engine would; yields how many copies it has.
fn open_segment(metadata: &mut Metadata, usable: &Usable, volume: VolumeId, copies: u8) -> usize {
    let places = plan_segment(metadata, usable, copies).unwrap();
    let count = places.len();
    let segment = Segment {
        number: metadata.volumes()[&volume].log.next_segment,
        epoch: Epoch(1),
        generation: metadata.counters().generation,
        copies: places,
        wanted: copies,
        state: SegmentState::Open,
        key: 1,
        high_water_blocks: None,
    };
    metadata.apply(&MetaRecord::SegmentOpened { volume, segment }).unwrap();
    count
}

/// Every group's members lie in different domains, and each group's in as many as it has copies.
fn assert_domains_differ(metadata: &Metadata) {
    for volume in metadata.volumes().values() {
        for group in volume.groups() {
            let domains: BTreeSet<_> = group
                .members()
                .map(|(disk, _)| metadata.domain_of(&metadata.disks()[&disk]))
                .collect();
            assert_eq!(domains.len(), usize::from(volume.layout.copies()));
        }
    }
}

#[test]
fn disks_of_1_2_and_3_gib_are_used_to_95_percent() {
    // The ideal is what two copies on different nodes could use of the bare disks. Where three small
    // disks are all needed the metadata areas and logs weigh more.
    for (disks, ideal_mib, share) in [
        (&[(0, 1024), (1, 2048), (2, 3072)][..], 3072, 0.95),
        (&[(0, 3072), (1, 1024), (2, 2048)], 3072, 0.95),
        (&[(0, 1024), (1, 1024), (2, 1024)], 1536, 0.94),
        (&[(0, 1024), (0, 1024), (1, 1024), (1, 1024), (2, 1024), (2, 1024)], 3072, 0.94),
        (&[(0, 1024), (1, 9 * 1024)], 1024, 0.94),
    ] {
        let mut metadata = pool_of(FailureDomain::Node, disks);
        let usable = all(&metadata);
        let promised = usable_bytes(&metadata, &usable, Layout::Mirror(2), None);
        let volume = create(&mut metadata, Layout::Mirror(2));
        grow(&mut metadata, &usable, volume, promised).unwrap();
        assert_domains_differ(&metadata);
        let used = promised as f64 / (ideal_mib * MIB) as f64;
        assert!(used >= share && used < 1.0, "{disks:?}: {used}");
        // The full pool can still write, and so it can when any one disk is gone.
        for disk in 0..disks.len() as u32 {
            let mut degraded = metadata.clone();
            let usable = without(&degraded, disk);
            for _ in 0..segments_per_log(&metadata, &all(&metadata)) {
                open_segment(&mut degraded, &usable, volume, 2);
            }
        }
    }
}

#[test]
fn a_full_pool_gives_its_log_all_segments_with_all_copies() {
    let mut metadata = pool_of(FailureDomain::Node, &[(0, 1024), (1, 2048), (2, 3072)]);
    let usable = all(&metadata);
    let volume = create(&mut metadata, Layout::Mirror(2));
    let bytes = usable_bytes(&metadata, &usable, Layout::Mirror(2), Some(volume));
    grow(&mut metadata, &usable, volume, bytes).unwrap();
    for _ in 0..segments_per_log(&metadata, &usable) {
        assert_eq!(open_segment(&mut metadata, &usable, volume, 2), 2);
    }
    // Live segments count against what is kept, so nothing more is free than before.
    let more = metadata.volumes()[&volume].bytes + 1;
    assert_eq!(plan_groups(&metadata, &usable, volume, more).unwrap_err().available_bytes, 0);
}

#[test]
fn a_request_beyond_the_space_is_told_what_there_is() {
    let mut metadata = pool_of(FailureDomain::Node, &[(0, 1024), (1, 1024)]);
    let usable = all(&metadata);
    let volume = create(&mut metadata, Layout::Mirror(2));
    let available_bytes = usable_bytes(&metadata, &usable, Layout::Mirror(2), Some(volume));
    let refused = grow(&mut metadata, &usable, volume, available_bytes + 1);
    assert_eq!(refused, Err(NoSpace { available_bytes }));
    grow(&mut metadata, &usable, volume, available_bytes).unwrap();
    assert_eq!(plan_groups(&metadata, &usable, volume, available_bytes), Ok(vec![]));
    let three = usable_bytes(&metadata, &usable, Layout::Mirror(3), None);
    assert_eq!(three, 0);
}

#[test]
fn growing_takes_up_new_disks_and_moves_nothing() {
    let mut metadata = pool_of(FailureDomain::Node, &[(0, 512), (1, 512)]);
    let usable = all(&metadata);
    let volume = create(&mut metadata, Layout::Mirror(2));
    let first = usable_bytes(&metadata, &usable, Layout::Mirror(2), Some(volume));
    grow(&mut metadata, &usable, volume, first).unwrap();
    let runs = metadata.volumes()[&volume].runs.clone();
    for number in [2, 3] {
        let record = crate::metadata::testing::disk_added(number, number, 512 * MIB, 8 * MIB);
        metadata.apply(&record).unwrap();
    }
    let usable = all(&metadata);
    let more = usable_bytes(&metadata, &usable, Layout::Mirror(2), Some(volume));
    assert!(more > first * 9 / 10);
    grow(&mut metadata, &usable, volume, first + more).unwrap();
    for (key, run) in &runs {
        assert_eq!(metadata.volumes()[&volume].runs.get(key), Some(run));
    }
    assert_domains_differ(&metadata);
}

#[test]
fn runs_are_long_and_sets_rotate() {
    let mut metadata = pool_of(FailureDomain::Node, &[(0, 2048), (1, 2048), (2, 2048), (3, 2048)]);
    let usable = all(&metadata);
    let volume = create(&mut metadata, Layout::Mirror(2));
    let runs = grow(&mut metadata, &usable, volume, 64 * 1020 * 4096).unwrap();
    assert!(runs.iter().all(|run| run.count == 16));
    let pairs: BTreeSet<Vec<u32>> =
        runs.iter().map(|run| run.members.iter().map(|member| member.disk.0).collect()).collect();
    assert!(pairs.len() > 1, "{pairs:?}");
    let everything = usable_bytes(&metadata, &usable, Layout::Mirror(2), Some(volume));
    let bytes = metadata.volumes()[&volume].bytes + everything;
    let runs = grow(&mut metadata, &usable, volume, bytes).unwrap();
    let groups: u32 = runs.iter().map(|run| run.count).sum();
    assert!(runs.len() <= groups as usize / 8, "{} runs of {groups} groups", runs.len());
}

#[test]
fn striped_volumes_use_all_disks_at_once_and_all_space() {
    let mut metadata = pool_of(FailureDomain::Node, &[(0, 1024), (0, 2048), (1, 3072)]);
    let usable = all(&metadata);
    let raw: u64 = metadata.disks().values().map(|disk| u64::from(disk.extents)).sum();
    let volume = create(&mut metadata, Layout::Raid0);
    assert_eq!(metadata.volumes()[&volume].width, 3);
    let bytes = usable_bytes(&metadata, &usable, Layout::Raid0, Some(volume));
    grow(&mut metadata, &usable, volume, bytes).unwrap();
    assert!(bytes / (1020 * 4096) >= raw * 95 / 100);
    let found = &metadata.volumes()[&volume];
    for set in 0..found.whole_sets().min(200) {
        let disks: BTreeSet<_> = (0..3)
            .map(|lane| found.group(set, lane).unwrap().members().next().unwrap().0)
            .collect();
        assert_eq!(disks.len(), 3, "set {set}");
    }
    let last = found.whole_sets() - 1;
    assert!((0..3).all(|lane| found.group(last, lane).is_some()));
}

#[test]
fn disks_that_are_out_get_nothing() {
    let mut metadata = pool_of(FailureDomain::Disk, &[(0, 512), (0, 512), (0, 512), (0, 512)]);
    let mut usable = without(&metadata, 0);
    usable.remove(&DiskNumber(3));
    let volume = create(&mut metadata, Layout::Mirror(2));
    let bytes = usable_bytes(&metadata, &usable, Layout::Mirror(2), Some(volume));
    let runs = grow(&mut metadata, &usable, volume, bytes).unwrap();
    let disks: BTreeSet<u32> =
        runs.iter().flat_map(|run| run.members.iter().map(|member| member.disk.0)).collect();
    assert_eq!(disks, BTreeSet::from([1, 2]));
    assert_eq!(open_segment(&mut metadata, &usable, volume, 3), 2);
    assert!(plan_segment(&metadata, &Usable::new(), 2).is_err());
    let segment = &metadata.volumes()[&volume].log.segments[&SegmentNumber(1)];
    assert!(segment.copies.iter().all(|copy| matches!(copy.disk.0, 1 | 2)));
}

#[test]
fn removed_volumes_give_their_space_back() {
    let mut metadata = pool_of(FailureDomain::Node, &[(0, 512), (1, 512)]);
    let usable = all(&metadata);
    let before = usable_bytes(&metadata, &usable, Layout::Mirror(2), None);
    let volume = create(&mut metadata, Layout::Mirror(2));
    grow(&mut metadata, &usable, volume, before).unwrap();
    metadata.apply(&MetaRecord::VolumeRemoved { id: volume }).unwrap();
    assert_eq!(usable_bytes(&metadata, &usable, Layout::Mirror(2), None), 0);
    for disk in [DiskNumber(0), DiskNumber(1)] {
        let pending: Vec<_> = metadata.disks()[&disk].pending.ranges().collect();
        for extents in pending {
            metadata.apply(&MetaRecord::PendingFreed { disk, extents }).unwrap();
        }
    }
    assert_eq!(usable_bytes(&metadata, &usable, Layout::Mirror(2), None), before);
}

/// The best possible, by trying every choice: small pools only.
fn best_by_trying(frees: &mut [u64], copies: usize) -> u64 {
    fn choose(frees: &mut [u64], from: usize, left: usize, copies: usize) -> u64 {
        if left == 0 {
            return 1 + choose(frees, 0, copies, copies);
        }
        let mut best = 0;
        for index in from..frees.len() {
            if frees[index] > 0 && left <= frees.len() - index {
                frees[index] -= 1;
                let rest = choose(frees, index + 1, left - 1, copies);
                frees[index] += 1;
                best = best.max(rest);
            }
        }
        best
    }
    choose(frees, 0, copies, copies)
}

/// Four machines of three disks, of which the first is lost: the runs that have a position on it.
fn twelve_disks_without_one() -> (Metadata, Vec<GroupRun>) {
    let disks: Vec<(u32, u64)> = (0..12).map(|disk| (disk / 3, 8192)).collect();
    let mut metadata = pool_of(FailureDomain::Node, &disks);
    let volume = create(&mut metadata, Layout::Mirror(2));
    let usable = all(&metadata);
    grow(&mut metadata, &usable, volume, 24_576 * MIB).unwrap();
    let runs = metadata.volumes()[&volume].runs.values();
    let runs = runs.filter(|run| run.position_on(DiskNumber(0)).is_some()).cloned().collect();
    (metadata, runs)
}

/// What each disk gives and takes of these runs, in groups, where they move in parts of two.
fn work_of(metadata: &Metadata, runs: &[GroupRun]) -> BTreeMap<DiskNumber, u32> {
    let lost = DiskNumber(0);
    let mut plan = MovePlan::new(metadata, &without(metadata, 0));
    assert!(plan.is_any_order_right());
    runs.iter().for_each(|run| plan.expect(run, run.count));
    let mut work: BTreeMap<DiskNumber, u32> = BTreeMap::new();
    for run in runs {
        let mut left = run.count;
        while left > 0 {
            let of = (run.position_on(lost).unwrap(), left.min(2));
            let (count, to) = plan.take_some(run, of.0, of.1, None).unwrap();
            *work.entry(to.disk).or_default() += count;
            left -= count;
        }
        let gives = run.members.iter().find(|member| member.disk != lost).unwrap();
        *work.entry(gives.disk).or_default() += run.count;
    }
    work
}

/// Its copies lie on nine others, which give, and all eleven take as much less as they give more.
#[test]
fn who_gives_less_takes_more_of_what_is_rebuilt() {
    let (metadata, runs) = twelve_disks_without_one();
    let work = work_of(&metadata, &runs);
    let each = 2 * runs.iter().map(|run| run.count).sum::<u32>() / 11;
    assert_eq!(work.len(), 11);
    assert!(work.values().all(|work| work.abs_diff(each) <= each / 10), "{each}: {work:?}");
}

/// Nothing was written to what moves here, so its disks have nothing to do for it.
#[test]
fn what_arrived_is_no_work_any_more() {
    let (mut metadata, mut runs) = twelve_disks_without_one();
    let fits = |run: &GroupRun| run.members.iter().all(|member| member.disk.0 < 6);
    let moved = runs.remove(runs.iter().position(fits).unwrap());
    let before = work_of(&metadata, &runs);
    let position = moved.position_on(DiskNumber(0)).unwrap();
    let mut plan = MovePlan::new(&metadata, &without(&metadata, 0));
    let to = plan.take_some(&moved, position, moved.count, Some(DiskNumber(11)));
    let (_, to) = to.filter(|(count, _)| *count == moved.count).unwrap();
    let volume = *metadata.volumes().keys().next().unwrap();
    let begun = MetaRecord::MoveBegun { volume, key: moved.key, position, to };
    metadata = metadata.with(&[begun]).unwrap();
    let after = work_of(&metadata, &runs);
    let is_close = |(disk, work): (&DiskNumber, &u32)| work.abs_diff(before[disk]) <= 4;
    assert!(moved.count > 8 && after.iter().all(is_close), "{before:?} {after:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The formula is what trying every choice finds.
    #[test]
    fn the_most_groups_are_the_most(frees in prop::collection::vec(0_u64..4, 1..4), copies in 1_u8..4) {
        let domains = frees
            .iter()
            .enumerate()
            .map(|(index, free)| (Uuid::from_u128(index as u128), *free))
            .collect();
        let mut frees = frees;
        let best = best_by_trying(&mut frees, usize::from(copies));
        prop_assert_eq!(most_groups(&domains, copies), best);
    }

    /// What `usable_bytes` promises can be had, to the last group, also in a fragmented pool, and
    /// nothing more.
    #[test]
    fn promises_are_kept(
        disks in prop::collection::vec((0_u32..4, 100_u64..700), 1..7),
        copies in 0_u8..4,
        holes in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..150, 1_u32..9), 0..12),
        parts in prop::collection::vec(1_u64..100, 0..3),
    ) {
        let mut metadata = pool_of(FailureDomain::Node, &disks);
        let usable = all(&metadata);
        for (disk, first, count) in holes {
            // Space that another volume holds, anywhere.
            let number = DiskNumber(disk.index(disks.len()) as u32);
            let pending = vec![ExtentRange::new(crate::format::ExtentNumber(first), count)];
            let release = metadata.disks()[&number].expected_release;
            let _ = metadata.apply(&MetaRecord::DiskRestored {
                number,
                expected_release: release,
                pending,
            });
        }
        let layout = if copies == 0 { Layout::Raid0 } else { Layout::Mirror(copies) };
        let promised = usable_bytes(&metadata, &usable, layout, None);
        let volume = create(&mut metadata, layout);
        prop_assert_eq!(usable_bytes(&metadata, &usable, layout, Some(volume)), promised);
        for part in parts {
            let bytes = (promised / 100 * part).next_multiple_of(4096).min(promised);
            if bytes >= metadata.volumes()[&volume].bytes {
                grow(&mut metadata, &usable, volume, bytes).unwrap();
            }
        }
        prop_assert!(grow(&mut metadata, &usable, volume, promised).is_ok());
        assert_domains_differ(&metadata);
        let stripes = metadata.volumes()[&volume].stripes(metadata.shape()).unwrap();
        let set_bytes = stripes.set_blocks() * 4096;
        prop_assert!(grow(&mut metadata, &usable, volume, promised + set_bytes).is_err());
    }
}
