#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::allocate::{MovePlan, plan_groups, stripe_width, usable_bytes};
use crate::format::{FailureDomain, VolumeId};
use crate::metadata::testing::pool_of;
use crate::metadata::{ExtentRange, Layout, MetaRecord, RunKey};

fn all(metadata: &Metadata) -> Usable {
    metadata.disks().keys().copied().collect()
}

fn keep(metadata: &mut Metadata, spare: Spare) {
    let (key, value) = (SPARE.to_owned(), Some(spare.to_string()));
    metadata.apply(&MetaRecord::PoolPropertySet { key, value }).unwrap();
}

fn create(metadata: &mut Metadata, usable: &Usable, layout: Layout) -> VolumeId {
    let id = metadata.counters().volume;
    let width = stripe_width(metadata, usable, layout);
    let name = format!("volume-{}", id.0);
    metadata.apply(&MetaRecord::VolumeCreated { id, name, layout, width }).unwrap();
    id
}

/// Fills a percentage of what a layout can have; tells how many groups that is.
fn fill(metadata: &mut Metadata, usable: &Usable, layout: Layout, percent: u64) -> u64 {
    let promised = usable_bytes(metadata, usable, layout, None);
    if promised == 0 {
        return 0;
    }
    let id = create(metadata, usable, layout);
    assert_eq!(usable_bytes(metadata, usable, layout, Some(id)), promised);
    let bytes = (promised / 100 * percent).next_multiple_of(4096).min(promised);
    let bytes = if percent == 100 { promised } else { bytes };
    let runs = plan_groups(metadata, usable, id, bytes).unwrap();
    let groups = runs.iter().map(|run| u64::from(run.count)).sum();
    for run in runs {
        metadata.apply(&MetaRecord::RunAdded { volume: id, run }).unwrap();
    }
    metadata.apply(&MetaRecord::VolumeResized { id, bytes }).unwrap();
    groups
}

/// Loses disks for good and places what was on them, one part after the other, each as the engine does; tells how
/// many extents were lost and how many of these found no place.
fn rebuild(metadata: &Metadata, usable: &Usable, lost: &BTreeSet<DiskNumber>) -> (u64, u64) {
    let mut metadata = metadata.clone();
    let left: Usable = usable.difference(lost).copied().collect();
    let gone: Vec<DiskNumber> = metadata.disks().keys().copied().collect();
    let gone: Vec<DiskNumber> = gone.into_iter().filter(|disk| !left.contains(disk)).collect();
    let (mut extents, mut homeless) = (0, 0);
    for disk in gone {
        let runs = |metadata: &Metadata| -> Vec<(VolumeId, RunKey)> {
            let volumes = metadata.volumes().values();
            let runs = volumes.flat_map(|v| v.runs.values().map(|run| (v.id, run.clone())));
            let here = runs.filter(|(_, run)| run.position_on(disk).is_some());
            here.map(|(id, run)| (id, run.key)).collect()
        };
        let mut todo = runs(&metadata);
        extents +=
            todo.iter().map(|(v, k)| u64::from(metadata.run(*v, *k).unwrap().count)).sum::<u64>();
        while let Some((volume, key)) = todo.pop() {
            let run = metadata.run(volume, key).unwrap().clone();
            let position = run.position_on(disk).unwrap();
            let found = MovePlan::new(&metadata, &left).take_some(&run, position, run.count, None);
            let Some((count, to)) = found else {
                homeless += u64::from(run.count);
                continue;
            };
            if count < run.count {
                metadata.apply(&MetaRecord::RunSplit { volume, key, count }).unwrap();
                let first_set = key.first_set + u64::from(count);
                todo.push((volume, RunKey { first_set, ..key }));
            }
            let freed = ExtentRange::new(run.members[usize::from(position)].first, count);
            for record in [
                MetaRecord::MoveBegun { volume, key, position, to },
                MetaRecord::MoveSwitched { volume, key },
                MetaRecord::PendingFreed { disk, extents: freed },
            ] {
                metadata.apply(&record).unwrap();
            }
        }
    }
    (extents, homeless)
}

/// Every loss that a spare is for.
fn losses(metadata: &Metadata, usable: &Usable, spare: Spare) -> Vec<BTreeSet<DiskNumber>> {
    let disks = usable.iter().map(|disk| BTreeSet::from([*disk]));
    let nodes: BTreeSet<Uuid> = metadata.disks().values().map(|disk| disk.node).collect();
    let of = |node: Uuid| {
        let there = metadata.data_disks().filter(move |disk| disk.node == node);
        there.map(|disk| disk.number).filter(|disk| usable.contains(disk)).collect()
    };
    let nodes = nodes.into_iter().filter(|_| spare == Spare::Node).map(of);
    disks.chain(nodes).collect()
}

/// For each loss the real placement finds a place for what was lost.
fn assert_held(metadata: &Metadata, usable: &Usable, spare: Spare) {
    let extent_bytes = metadata.shape().extent_bytes();
    let already = rebuild(metadata, usable, &BTreeSet::new()).0;
    for lost in losses(metadata, usable, spare) {
        let (extents, homeless) = rebuild(metadata, usable, &lost);
        let most = match spare {
            Spare::Bytes(bytes) => already + bytes.div_ceil(extent_bytes),
            _ => u64::MAX,
        };
        let placed = extents - homeless;
        assert!(placed >= extents.min(most), "{lost:?}: {homeless} of {extents} are homeless");
        if spare != Spare::Node || lost.len() == 1 {
            // As a whole, as it is planned before a rebuild begins.
            let left = usable.difference(&lost).copied().collect();
            let mut plan = MovePlan::new(metadata, &left);
            let homeless: u64 = lost.iter().map(|disk| plan.homeless(*disk, None)).sum();
            assert!(matches!(spare, Spare::Bytes(_)) || homeless == 0, "{lost:?}: {homeless}");
        }
    }
}

#[test]
fn words_are_read_as_they_are_written() {
    for spare in [Spare::Disk, Spare::Node, Spare::Bytes(1 << 30)] {
        assert_eq!(spare.to_string().parse(), Ok(spare));
    }
    for wrong in ["", "0", "-1", "off", "disks", "1G"] {
        assert!(wrong.parse::<Spare>().is_err(), "{wrong}");
    }
}

/// How much of what could be had without a spare, in percent.
fn share_of(domain: FailureDomain, disks: &[(u32, u64)], layout: Layout, spare: Spare) -> u64 {
    let mut metadata = pool_of(domain, disks);
    let usable = all(&metadata);
    let without = usable_bytes(&metadata, &usable, layout, None);
    keep(&mut metadata, spare);
    usable_bytes(&metadata, &usable, layout, None) * 100 / without
}

#[test]
fn a_spare_costs_about_what_it_must() {
    let (node, disk) = (FailureDomain::Node, FailureDomain::Disk);
    let mirror = Layout::Mirror(2);
    let machines = |count: u32| (0..count).map(|node| (node, 4000)).collect::<Vec<_>>();
    let share = |count, spare| share_of(node, &machines(count), mirror, spare);
    // Two thirds of three, and of n machines (n-2)/(n-1).
    assert!((63..=67).contains(&share(3, Spare::Node)), "{}", share(3, Spare::Node));
    assert!((63..=67).contains(&share(4, Spare::Node)), "{}", share(4, Spare::Node));
    assert!((85..=90).contains(&share(10, Spare::Node)), "{}", share(10, Spare::Node));
    // Of two machines nothing that was on one can be elsewhere; of their disks it can.
    assert_eq!(share(2, Spare::Node), 0);
    let four = [(0, 4000), (0, 4000), (1, 4000), (1, 4000)];
    assert!((45..=50).contains(&share_of(node, &four, mirror, Spare::Disk)));
    assert!((60..=67).contains(&share_of(disk, &four, mirror, Spare::Disk)));
    // Without copies as much stays free as the largest disk has.
    assert!((63..=67).contains(&share_of(node, &machines(3), Layout::Raid0, Spare::Disk)));
    let little = share_of(node, &machines(4), mirror, Spare::Bytes(400 << 20));
    assert!((85..=95).contains(&little), "{little}");
}

#[test]
fn what_is_not_held_gives_nothing_more() {
    let mut metadata = pool_of(FailureDomain::Node, &[(0, 1000), (1, 1000), (2, 1000)]);
    let usable = all(&metadata);
    assert!(Ledger::new(&metadata, &usable, 0).is_none(), "nobody asked for one");
    fill(&mut metadata, &usable, Layout::Mirror(2), 90);
    keep(&mut metadata, Spare::Node);
    let shortage = Ledger::new(&metadata, &usable, 0).unwrap().shortage().unwrap();
    assert!(matches!(shortage.loss, Loss::Node(_) | Loss::Disk(_)) && shortage.extents > 0);
    assert_eq!(usable_bytes(&metadata, &usable, Layout::Mirror(2), None), 0);
    assert_eq!(usable_bytes(&metadata, &usable, Layout::Raid0, None), 0);
}

#[test]
fn after_a_loss_it_is_what_is_used() {
    let mut metadata = pool_of(FailureDomain::Node, &[(0, 1000), (1, 1000), (2, 1000)]);
    let usable = all(&metadata);
    keep(&mut metadata, Spare::Node);
    assert!(fill(&mut metadata, &usable, Layout::Mirror(2), 100) > 0);
    let shortage = |usable: &Usable| Ledger::new(&metadata, usable, 0).unwrap().shortage();
    assert_eq!(shortage(&usable), None);
    let two: Usable = usable.iter().copied().filter(|disk| disk.0 != 1).collect();
    assert!(shortage(&two).is_some(), "one more would be too many");
    let lost = BTreeSet::from([DiskNumber(1)]);
    assert_eq!(rebuild(&metadata, &usable, &lost).1, 0);
}

fn spares() -> impl Strategy<Value = Spare> {
    prop_oneof![
        Just(Spare::Disk),
        Just(Spare::Node),
        (1_u64..2000).prop_map(|mib| Spare::Bytes(mib << 20))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// In pools of disks of all sizes, whatever of it is used by whatever layouts, everything finds a place after each
    /// loss, by the placement that rebuilds use; and all that is promised can be had.
    #[test]
    fn whatever_is_lost_finds_a_place(
        disks in prop::collection::vec((0_u32..5, 60_u64..700), 2..9),
        by_disk in any::<bool>(),
        spare in spares(),
        fills in prop::collection::vec((1_u8..4, prop_oneof![Just(100_u64), 1_u64..101]), 1..4),
        away in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let domain = if by_disk { FailureDomain::Disk } else { FailureDomain::Node };
        let mut metadata = pool_of(domain, &disks);
        let mut usable = all(&metadata);
        if let Some((copies, percent)) = fills.first().filter(|_| away.is_some()) {
            // What there was before a disk went, with less than all that it could.
            keep(&mut metadata, Spare::Disk);
            fill(&mut metadata, &usable, Layout::with_copies(*copies), (*percent).min(40));
        }
        if let Some(away) = away {
            usable.remove(&DiskNumber(away.index(disks.len()) as u32));
        }
        keep(&mut metadata, spare);
        for (copies, percent) in fills {
            fill(&mut metadata, &usable, Layout::with_copies(copies), percent);
        }
        if Ledger::new(&metadata, &usable, 0).unwrap().shortage().is_none() {
            assert_held(&metadata, &usable, spare);
        }
    }
}
