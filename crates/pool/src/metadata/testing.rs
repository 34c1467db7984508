//! Pools to test with: small ones by hand, and any number of steps of a random one.

use block::{Buffer, Epoch, IoError};
use futures::FutureExt;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::format::{
    DiskGeometry, DiskId, DiskNumber, ExtentNumber, FailureDomain, GenerationId, JobNumber, MIB,
    PoolId, RecordNumber, ReleaseNumber, SegmentNumber, Signers, VolumeId,
};

/// The pool of all tests here.
pub(crate) const POOL: PoolId = PoolId(Uuid::from_u128(0x900));

/// An empty pool with extents of 4 MiB.
pub(crate) fn empty_pool(failure_domain: FailureDomain) -> Metadata {
    let identity =
        PoolIdentity { id: POOL, name: "cluster".into(), extent_bytes: 4 * MIB, failure_domain };
    Metadata::new(identity).expect("4 MiB is an extent size")
}

/// The record that adds a disk on a machine, with so many bytes of metadata area in its last extents.
pub(crate) fn disk_added(number: u32, node: u32, bytes: u64, area_bytes: u64) -> MetaRecord {
    let extents = DiskGeometry::new(bytes, 4 * MIB).map_or(0, |geometry| geometry.extents());
    let count = (area_bytes / (4 * MIB)) as u32;
    let first = extents.saturating_sub(count);
    MetaRecord::DiskAdded {
        number: DiskNumber(number),
        id: DiskId(Uuid::from_u128(0x100 + u128::from(number))),
        node: Uuid::from_u128(0x200 + u128::from(node)),
        node_name: format!("node-{node}"),
        bytes,
        area: (count > 0).then(|| ExtentRange::new(ExtentNumber(first), count)),
    }
}

/// A pool of disks given as (machine, MiB), each with a metadata area of 8 MiB.
pub(crate) fn pool_of(failure_domain: FailureDomain, disks: &[(u32, u64)]) -> Metadata {
    let mut metadata = empty_pool(failure_domain);
    for (number, (node, mib)) in disks.iter().enumerate() {
        let record = disk_added(number as u32, *node, mib * MIB, 8 * MIB);
        metadata.apply(&record).expect("a new disk");
    }
    metadata
}

/// A run of a mirror in lane 0.
pub(crate) fn run(first_set: u64, count: u32, generation: u64, members: &[(u32, u32)]) -> GroupRun {
    let members = members
        .iter()
        .map(|(disk, first)| Member { disk: DiskNumber(*disk), first: ExtentNumber(*first) });
    GroupRun {
        key: RunKey { lane: 0, first_set },
        count,
        generation: GenerationId(generation),
        members: members.collect(),
        incoming: None,
        roots: Roots::default(),
    }
}

/// A segment of two extents per copy.
pub(crate) fn segment(number: u64, generation: u64, copies: &[(u32, u32)]) -> Segment {
    let copies = copies.iter().map(|(disk, first)| SegmentCopyPlace {
        disk: DiskNumber(*disk),
        extents: ExtentRange::new(ExtentNumber(*first), 2),
    });
    Segment {
        number: SegmentNumber(number),
        epoch: Epoch(1),
        generation: GenerationId(generation),
        copies: copies.collect(),
        wanted: 2,
        state: SegmentState::Open,
        key: 0x0123_4567_89ab_cdef + number,
        high_water_blocks: None,
    }
}

/// Every kind of record, in an order in which all apply to a pool without disks.
pub(crate) fn history() -> Vec<MetaRecord> {
    let (volume, other) = (VolumeId(1), VolumeId(3));
    let conversion = |to| Conversion { to, job: JobNumber(9), extents: 2 };
    let miss = |group, disk, mask| ((GenerationId(group), DiskNumber(disk)), mask);
    let ended =
        |number, state| MetaRecord::SegmentEnded { volume, number: SegmentNumber(number), state };
    let at = |first_set| RunKey { lane: 0, first_set };
    let to = |disk, first| Member { disk: DiskNumber(disk), first: ExtentNumber(first) };
    let begun = |disk, first, count| {
        let extents = ExtentRange::new(ExtentNumber(first), count);
        MetaRecord::AreaBegun { disk: DiskNumber(disk), extents }
    };
    vec![
        disk_added(0, 0, 1 << 30, 8 * MIB),
        disk_added(1, 1, 1 << 30, 8 * MIB),
        disk_added(2, 2, 1 << 30, 0),
        disk_added(3, 3, 1 << 30, 0),
        MetaRecord::VolumeCreated {
            id: volume,
            name: "hyperspace".into(),
            layout: Layout::Mirror(2),
            width: 1,
        },
        MetaRecord::RunAdded { volume, run: run(0, 16, 1, &[(0, 0), (1, 0)]) },
        MetaRecord::SegmentOpened { volume, segment: segment(1, 17, &[(0, 100), (2, 100)]) },
        MetaRecord::RunAdded { volume, run: run(16, 4, 18, &[(1, 16), (2, 0)]) },
        MetaRecord::VolumeResized { id: volume, bytes: 20 * 1020 * 4096 },
        MetaRecord::PropertySet { id: volume, key: "mount".into(), value: Some("/srv".into()) },
        MetaRecord::PropertySet { id: volume, key: "ftp".into(), value: Some("on".into()) },
        MetaRecord::PropertySet { id: volume, key: "ftp".into(), value: None },
        MetaRecord::RunInitialised { volume, key: RunKey { lane: 0, first_set: 0 }, count: 8 },
        MetaRecord::RegionsDirtied(
            [miss(2, 0, 0xf0), miss(2, 1, 0x0f), miss(19, 2, u64::MAX)].into(),
        ),
        ended(1, SegmentState::Closed(RecordNumber(39))),
        MetaRecord::SegmentOpened { volume, segment: segment(2, 22, &[(0, 102), (2, 102)]) },
        MetaRecord::SegmentHighWater { volume, number: SegmentNumber(2), blocks: 256 },
        MetaRecord::SegmentCopyDropped { volume, number: SegmentNumber(1), disk: DiskNumber(2) },
        MetaRecord::Released {
            volume,
            log: RecordNumber(39),
            release: ReleaseNumber(1),
            touched: vec![DiskNumber(0), DiskNumber(1)],
            dirty_regions: [miss(18, 2, 1)].into(),
            roots: vec![RootChange { group: GenerationId(2), root: 0xfeed_f00d_0000_0001 }],
        },
        MetaRecord::SegmentFreed { volume, number: SegmentNumber(1) },
        MetaRecord::Applied { release: ReleaseNumber(2), disks: vec![DiskNumber(1)] },
        MetaRecord::RegionsCleaned([miss(19, 2, u64::MAX), miss(2, 0, 0x30)].into()),
        ended(2, SegmentState::Bounded(RecordNumber(44))),
        MetaRecord::VolumeCreated {
            id: VolumeId(2),
            name: "scratch".into(),
            layout: Layout::Raid0,
            width: 2,
        },
        MetaRecord::RunAdded { volume: VolumeId(2), run: run(0, 3, 23, &[(2, 50)]) },
        MetaRecord::VolumeRenamed { id: VolumeId(2), name: "spare".into() },
        MetaRecord::VolumeRemoved { id: VolumeId(2) },
        MetaRecord::PendingFreed {
            disk: DiskNumber(2),
            extents: ExtentRange::new(ExtentNumber(51), 1),
        },
        MetaRecord::DiskMoved {
            number: DiskNumber(1),
            node: Uuid::from_u128(0x300),
            node_name: "cellar".into(),
        },
        begun(2, 200, 2),
        MetaRecord::AreaSwitched { disk: DiskNumber(2) },
        begun(2, 210, 4),
        MetaRecord::AreaSwitched { disk: DiskNumber(2) },
        begun(2, 204, 4),
        MetaRecord::AreaCancelled { disk: DiskNumber(2) },
        begun(1, 204, 4),
        MetaRecord::PoolRenamed { name: "pond".into() },
        MetaRecord::DiskRestored {
            number: DiskNumber(0),
            expected_release: ReleaseNumber(2),
            pending: vec![ExtentRange::new(ExtentNumber(60), 5)],
        },
        MetaRecord::LogRestored {
            volume,
            next_segment: SegmentNumber(9),
            released: RecordNumber(44),
        },
        MetaRecord::RootsRestored {
            volume,
            key: RunKey { lane: 0, first_set: 0 },
            first: 8,
            roots: vec![0x0123_4567_89ab_cdef, 7],
        },
        MetaRecord::RunSplit { volume, key: at(0), count: 6 },
        MetaRecord::MoveBegun { volume, key: at(6), position: 0, to: to(3, 0) },
        MetaRecord::RegionsCleaned((7..11).map(|group| miss(group, 3, u64::MAX)).collect()),
        MetaRecord::MoveSwitched { volume, key: at(6) },
        MetaRecord::MoveBegun { volume, key: at(6), position: 1, to: to(2, 20) },
        MetaRecord::MoveCancelled { volume, key: at(6) },
        MetaRecord::MoveBegun { volume, key: at(6), position: 1, to: to(0, 20) },
        MetaRecord::MoveRestored { volume, key: at(16), position: 1, to: to(3, 40) },
        MetaRecord::RunSplit { volume, key: at(16), count: 3 },
        MetaRecord::JobSet { number: JobNumber(1), job: job(JobKind::Evacuate, &[0]) },
        MetaRecord::JobSet { number: JobNumber(2), job: job(JobKind::Replace, &[1, 2]) },
        MetaRecord::JobSet { number: JobNumber(3), job: job(JobKind::Other(77), &[1, 2, 3]) },
        MetaRecord::JobRemoved { number: JobNumber(1) },
        MetaRecord::JobSet { number: JobNumber(1), job: job(JobKind::Scrub, &[]) },
        MetaRecord::PoolPropertySet { key: "rebuild-delay".into(), value: Some("600".into()) },
        MetaRecord::PoolPropertySet { key: "owner".into(), value: Some("x".into()) },
        MetaRecord::PoolPropertySet { key: "owner".into(), value: None },
        MetaRecord::PoolPropertySet { key: "domain-0".into(), value: Some("rack=A".into()) },
        MetaRecord::PoolPropertySet {
            key: "domain-1".into(),
            value: Some("batch=7 rack=A".into()),
        },
        MetaRecord::PoolPropertySet { key: "domain-1".into(), value: None },
        disk_added(4, 4, 1 << 30, 8 * MIB),
        MetaRecord::JobSet { number: JobNumber(4), job: job(JobKind::Remove, &[4]) },
        MetaRecord::JobRemoved { number: JobNumber(4) },
        MetaRecord::DiskRemoved { number: DiskNumber(4) },
        MetaRecord::VolumeReduced { id: volume, bytes: (18 * 1020 + 1) * 4096 },
        MetaRecord::JobSet { number: JobNumber(4), job: job(JobKind::Rebalance, &[]) },
        MetaRecord::VolumeCreated {
            id: other,
            name: "third".into(),
            layout: Layout::Mirror(2),
            width: 1,
        },
        MetaRecord::RunAdded { volume: other, run: run(0, 2, 40, &[(0, 70), (1, 70)]) },
        MetaRecord::LayoutChanging { id: other, to: conversion(Layout::Mirror(3)) },
        MetaRecord::MoveBegun { volume: other, key: at(0), position: 2, to: to(3, 70) },
        MetaRecord::MoveSwitched { volume: other, key: at(0) },
        MetaRecord::LayoutChanged { id: other },
        MetaRecord::LayoutChanging { id: other, to: conversion(Layout::Raid0) },
        MetaRecord::PositionDropped { volume: other, key: at(0), position: 0 },
        MetaRecord::PositionDropped { volume: other, key: at(0), position: 1 },
        MetaRecord::LayoutChanged { id: other },
        MetaRecord::LayoutChanging { id: other, to: conversion(Layout::Mirror(4)) },
        MetaRecord::MoveBegun { volume: other, key: at(0), position: 1, to: to(3, 80) },
    ]
}

/// A job that is about these disks.
pub(crate) fn job(kind: JobKind, disks: &[u32]) -> Job {
    Job { kind, disks: disks.iter().copied().map(DiskNumber).collect(), extents: 300 }
}

/// Some record, rarely one that fits.
pub(crate) fn any_record() -> impl Strategy<Value = MetaRecord> {
    let disk = (0_u32..5).prop_map(DiskNumber);
    let volume = (1_u32..4).prop_map(VolumeId);
    let extents = (0_u32..30, 1_u32..4)
        .prop_map(|(first, count)| ExtentRange::new(ExtentNumber(first), count));
    let members = prop::collection::vec((0_u32..5, 0_u32..30), 1..3);
    let missing =
        (1_u64..30, 0_u32..5).prop_map(|(group, disk)| (GenerationId(group), DiskNumber(disk)));
    let dirty_regions = prop::collection::btree_map(missing, 0_u64..0x100, 0..3);
    prop_oneof![
        (0_u32..6, 0_u32..3, 0_u64..3).prop_map(|(number, node, area)| {
            disk_added(number, node, 128 * MIB, area * 4 * MIB)
        }),
        disk.clone().prop_map(|number| MetaRecord::DiskRemoved { number }),
        (disk.clone(), extents.clone())
            .prop_map(|(disk, extents)| MetaRecord::AreaBegun { disk, extents }),
        disk.clone().prop_map(|disk| MetaRecord::AreaSwitched { disk }),
        disk.clone().prop_map(|disk| MetaRecord::AreaCancelled { disk }),
        (volume.clone(), "[ab]", 0_u8..3, 0_u16..3).prop_map(|(id, name, copies, width)| {
            let layout = if copies == 0 { Layout::Raid0 } else { Layout::Mirror(copies) };
            MetaRecord::VolumeCreated { id, name, layout, width }
        }),
        volume.clone().prop_map(|id| MetaRecord::VolumeRemoved { id }),
        (volume.clone(), "[ab]").prop_map(|(id, name)| MetaRecord::VolumeRenamed { id, name }),
        (volume.clone(), 0_u64..9)
            .prop_map(|(id, sets)| MetaRecord::VolumeResized { id, bytes: sets * 1020 * 4096 }),
        (volume.clone(), 0_u64..9000)
            .prop_map(|(id, blocks)| MetaRecord::VolumeReduced { id, bytes: blocks * 4096 }),
        (volume.clone(), 0_u16..2, 0_u64..9, 0_u32..4, 1_u64..30, members.clone()).prop_map(
            |(volume, lane, set, count, generation, members)| {
                let mut run = run(set, count, generation, &members);
                run.key.lane = lane;
                MetaRecord::RunAdded { volume, run }
            }
        ),
        (volume.clone(), 1_u64..6, 1_u64..30, members).prop_map(
            |(volume, number, generation, copies)| MetaRecord::SegmentOpened {
                volume,
                segment: segment(number, generation, &copies),
            }
        ),
        (volume.clone(), 1_u64..6, 0_u64..9, any::<bool>()).prop_map(
            |(volume, number, end, proven)| {
                let end = RecordNumber(end);
                let state =
                    if proven { SegmentState::Closed(end) } else { SegmentState::Bounded(end) };
                MetaRecord::SegmentEnded { volume, number: SegmentNumber(number), state }
            }
        ),
        (volume.clone(), 1_u64..6, 0_u32..9).prop_map(|(volume, number, blocks)| {
            MetaRecord::SegmentHighWater { volume, number: SegmentNumber(number), blocks }
        }),
        (volume.clone(), 0_u64..9, 0_u32..5).prop_map(|(volume, first_set, count)| {
            MetaRecord::RunSplit { volume, key: RunKey { lane: 0, first_set }, count }
        }),
        (volume.clone(), 0_u64..9, 0_u8..3, 0_u32..5, 0_u32..30).prop_map(
            |(volume, first_set, position, disk, first)| {
                let key = RunKey { lane: 0, first_set };
                let to = Member { disk: DiskNumber(disk), first: ExtentNumber(first) };
                MetaRecord::MoveBegun { volume, key, position, to }
            }
        ),
        (volume.clone(), 0_u64..9, any::<bool>()).prop_map(|(volume, first_set, switches)| {
            let key = RunKey { lane: 0, first_set };
            match switches {
                true => MetaRecord::MoveSwitched { volume, key },
                false => MetaRecord::MoveCancelled { volume, key },
            }
        }),
        (1_u32..4, 0_u8..8, prop::collection::vec(0_u32..6, 0..3)).prop_map(
            |(number, kind, disks)| {
                let kind = match kind {
                    1 => JobKind::Rebuild,
                    2 => JobKind::Evacuate,
                    3 => JobKind::Replace,
                    4 => JobKind::Remove,
                    5 => JobKind::Scrub,
                    6 => JobKind::Rebalance,
                    other => JobKind::Other(other),
                };
                MetaRecord::JobSet { number: JobNumber(number), job: job(kind, &disks) }
            }
        ),
        (volume.clone(), 0_u8..4, 1_u32..6, 0_u64..9).prop_map(|(id, copies, job, extents)| {
            let layout = if copies == 0 { Layout::Raid0 } else { Layout::Mirror(copies) };
            let to = Conversion { to: layout, job: JobNumber(job), extents };
            MetaRecord::LayoutChanging { id, to }
        }),
        volume.clone().prop_map(|id| MetaRecord::LayoutChanged { id }),
        (volume.clone(), 0_u64..9, 0_u8..3).prop_map(|(volume, first_set, position)| {
            let key = RunKey { lane: 0, first_set };
            MetaRecord::PositionDropped { volume, key, position }
        }),
        (volume.clone(), 1_u64..6).prop_map(|(volume, number)| MetaRecord::SegmentFreed {
            volume,
            number: SegmentNumber(number),
        }),
        (volume.clone(), 1_u64..6, disk.clone()).prop_map(|(volume, number, disk)| {
            MetaRecord::SegmentCopyDropped { volume, number: SegmentNumber(number), disk }
        }),
        dirty_regions.clone().prop_map(MetaRecord::RegionsDirtied),
        dirty_regions.clone().prop_map(MetaRecord::RegionsCleaned),
        (volume, 0_u64..9, 0_u64..9, dirty_regions).prop_map(
            |(volume, log, release, dirty_regions)| {
                MetaRecord::Released {
                    volume,
                    log: RecordNumber(log),
                    release: ReleaseNumber(release),
                    touched: vec![DiskNumber(0)],
                    dirty_regions,
                    roots: vec![],
                }
            }
        ),
        (disk.clone(), extents.clone())
            .prop_map(|(disk, extents)| MetaRecord::PendingFreed { disk, extents }),
        (disk, 0_u64..4, extents).prop_map(|(number, release, extents)| {
            MetaRecord::DiskRestored {
                number,
                expected_release: ReleaseNumber(release),
                pending: vec![extents],
            }
        }),
    ]
}

/// Everything that a checkpoint holds but the table.
pub(crate) fn whole(metadata: &Metadata) -> Vec<u8> {
    let kinds = SectionKind::ALL.into_iter();
    kinds
        .flat_map(|kind| metadata.encode_section(kind, SectionKey::default(), None).bytes)
        .collect()
}

/// The metadata, by way of what a checkpoint holds.
pub(crate) fn restored(metadata: &Metadata) -> Result<Metadata, Inconsistent> {
    let mut restoring = Restoring::new(metadata.pool().clone())?;
    let records = decode_records(&whole(metadata)).expect("we encoded it");
    records.iter().try_for_each(|record| restoring.take(record))?;
    let (metadata, refused) = restoring.finish(metadata.counters());
    refused.first().map_or(Ok(metadata), |fault| Err(*fault))
}

/// An area in memory that counts what is read of it.
pub(crate) struct AreaInMemory<'a> {
    pub(crate) bytes: &'a [u8],
    /// Nothing of this can be read.
    pub(crate) unreadable: std::ops::Range<u64>,
    pub(crate) read: std::cell::Cell<u64>,
}

impl<'a> AreaInMemory<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> AreaInMemory<'a> {
        AreaInMemory { bytes, unreadable: 0..0, read: Default::default() }
    }

    pub(crate) fn recover(
        &self,
        pool: PoolId,
        layout: &AreaLayout,
    ) -> Result<Recovered, CopyUnusable> {
        self.recover_beside(pool, layout, &SharedHistory::default())
    }

    /// The same, where another copy may have been read before.
    pub(crate) fn recover_beside(
        &self,
        pool: PoolId,
        layout: &AreaLayout,
        shared: &SharedHistory,
    ) -> Result<Recovered, CopyUnusable> {
        self.recover_signed(pool, layout, &Signers::default(), shared)
    }

    /// The same, where one of these signed it.
    pub(crate) fn recover_signed(
        &self,
        pool: PoolId,
        layout: &AreaLayout,
        signers: &Signers,
        shared: &SharedHistory,
    ) -> Result<Recovered, CopyUnusable> {
        let recovered = recover_copy((pool, signers), layout, self, shared);
        recovered.now_or_never().expect("memory answers at once")
    }
}

impl AreaBytes for AreaInMemory<'_> {
    async fn read(&self, at: u64, len: u64) -> Result<Buffer, IoError> {
        self.read.set(self.read.get() + len);
        if at < self.unreadable.end && self.unreadable.start < at + len {
            return Err(IoError::Lost);
        }
        Ok(Buffer::copy_of(&self.bytes[at as usize..(at + len) as usize]))
    }
}

/// Reads a copy from its area in memory.
pub(crate) fn recover_bytes(
    pool: PoolId,
    layout: &AreaLayout,
    area: &[u8],
) -> Result<Recovered, AreaFault> {
    AreaInMemory::new(area).recover(pool, layout).map_err(|error| match error {
        CopyUnusable::Fault(fault) => fault,
        CopyUnusable::Unreadable(error) => panic!("{error}"),
    })
}
