//! Random records that mostly fit the metadata that they are made for: generations, sets and extents spread so
//! far that a checkpoint of it has many sections.

use super::testing::{disk_added, job, pool_of, segment};
use super::*;
use crate::format::{
    DiskNumber, ExtentNumber, FailureDomain, GenerationId, JobNumber, MIB, RecordNumber,
    ReleaseNumber, VolumeId,
};

/// A pool of three disks, with room for long runs.
pub(crate) fn begin() -> Metadata {
    pool_of(FailureDomain::Node, &[(0, 400_000), (1, 400_000), (2, 400_000)])
}

/// The next records; `luck` chooses what they are about.
pub(crate) fn records(metadata: &Metadata, what: u8, luck: u64) -> Vec<MetaRecord> {
    let nth = |all: usize| (luck % all.max(1) as u64) as usize;
    let disk = DiskNumber(nth(metadata.disks().size()) as u32);
    let volume = metadata.volumes().values().nth(nth(metadata.volumes().size()));
    let new_volume = || {
        let id = metadata.counters().volume;
        let layout = Layout::Mirror(1 + (luck % 2) as u8);
        let (name, width) = (format!("v{}", id.0), 1 + (luck / 2 % 2) as u16);
        vec![MetaRecord::VolumeCreated { id, name, layout, width }]
    };
    match what % 31 {
        0 => {
            let number = metadata.counters().disk.0;
            vec![disk_added(number, number, 100_000 * MIB, (luck % 2) * 8 * MIB)]
        }
        1 => vec![MetaRecord::DiskMoved {
            number: disk,
            node: uuid::Uuid::from_u128(luck.into()),
            node_name: "n".repeat(nth(40)),
        }],
        2 | 3 => new_volume(),
        4 => vec![MetaRecord::PoolRenamed { name: format!("pool-{luck}") }],
        5 => metadata.disks()[&disk]
            .pending
            .ranges()
            .next()
            .map_or_else(Vec::new, |extents| vec![MetaRecord::PendingFreed { disk, extents }]),
        6 => {
            let extents = metadata.disks()[&disk].free.last_fit(2);
            match metadata.disks()[&disk].incoming_area {
                Some(_) if luck.is_multiple_of(3) => vec![MetaRecord::AreaCancelled { disk }],
                Some(_) => vec![MetaRecord::AreaSwitched { disk }],
                None => extents
                    .map(|extents| MetaRecord::AreaBegun { disk, extents })
                    .into_iter()
                    .collect(),
            }
        }
        7 | 8 => {
            let release = ReleaseNumber(metadata.counters().release.0 + luck % 3);
            vec![MetaRecord::Applied { release, disks: vec![disk] }]
        }
        9 => {
            let number = JobNumber((luck % 4) as u32 + 1);
            match metadata.jobs().contains_key(&number) {
                true => vec![MetaRecord::JobRemoved { number }],
                false => {
                    vec![MetaRecord::JobSet { number, job: job(JobKind::Evacuate, &[disk.0]) }]
                }
            }
        }
        10 => vec![MetaRecord::PoolPropertySet {
            key: format!("key-{}", luck % 3),
            value: (!luck.is_multiple_of(4)).then(|| "y".repeat(nth(300))),
        }],
        what => match volume {
            Some(volume) => of_volume(metadata, volume, what, luck),
            None => new_volume(),
        },
    }
}

fn of_volume(metadata: &Metadata, volume: &Volume, what: u8, luck: u64) -> Vec<MetaRecord> {
    let id = volume.id;
    let nth = |all: usize| (luck % all.max(1) as u64) as usize;
    let run = volume.runs.values().nth(nth(volume.runs.size()));
    let groups = |run: &GroupRun, all: u32| -> Vec<u32> {
        (0..3)
            .map(|turn| (luck.rotate_left(turn * 21) % u64::from(all.max(1))) as u32)
            .filter(|_| run.count > 0)
            .collect()
    };
    match what {
        11..=13 => add_run(metadata, volume, luck),
        14 | 15 => run.map_or_else(Vec::new, |run| {
            let left = u64::from(run.count - run.initialised());
            let count = run.initialised() + (luck % (left + 1)) as u32;
            vec![MetaRecord::RunInitialised { volume: id, key: run.key, count }]
        }),
        16 | 17 => run.map_or_else(Vec::new, |run| {
            let disk = run.members[nth(run.members.len())].disk;
            let generations =
                groups(run, run.count).into_iter().map(|group| run.generation.plus(group.into()));
            let dirty_regions = generations
                .map(|generation: GenerationId| ((generation, disk), 1 << (luck % 64)))
                .collect();
            vec![MetaRecord::RegionsDirtied(dirty_regions)]
        }),
        18 => {
            let dirty_regions =
                metadata.dirty_regions().iter().skip(nth(metadata.dirty_regions().size())).take(2);
            vec![MetaRecord::RegionsCleaned(
                dirty_regions.map(|(key, mask)| (*key, *mask)).collect(),
            )]
        }
        19 => run.map_or_else(Vec::new, |run| {
            let changed = groups(run, run.initialised()).into_iter();
            let roots = changed
                .filter(|_| run.initialised() > 0)
                .map(|group| RootChange { group: run.generation.plus(group.into()), root: luck });
            vec![MetaRecord::Released {
                volume: id,
                log: RecordNumber(volume.log.released.0 + luck % 4),
                release: metadata.counters().release,
                touched: vec![run.members[0].disk],
                dirty_regions: (run.members.len() > 1)
                    .then(|| ((run.generation, run.members[1].disk), luck % 7))
                    .into_iter()
                    .collect(),
                roots: roots.collect(),
            }]
        }),
        20 => vec![MetaRecord::PropertySet {
            id,
            key: format!("key-{}", luck % 3),
            value: (!luck.is_multiple_of(4)).then(|| "x".repeat(nth(2000))),
        }],
        21 => of_log(metadata, volume, luck),
        22 => {
            let sets = luck % (volume.whole_sets() + 1);
            let stripe = u64::from(volume.width) * u64::from(metadata.shape().rows()) * 4096;
            vec![MetaRecord::VolumeResized { id, bytes: sets.saturating_mul(stripe) }]
        }
        23 | 24 => run.map_or_else(Vec::new, |run| of_move(metadata, id, run, luck)),
        25 => vec![MetaRecord::VolumeRenamed { id, name: format!("again-{luck}") }],
        26 => {
            let blocks = volume.bytes / 4096;
            let bytes = blocks.saturating_sub(luck % (blocks / 2 + 1)) * 4096;
            vec![MetaRecord::VolumeReduced { id, bytes }]
        }
        27..=29 => of_conversion(metadata, volume, luck),
        _ => vec![MetaRecord::VolumeRemoved { id }],
    }
}

/// A layout that changes, a position that goes for that (those that come are among the moves), or its end.
fn of_conversion(metadata: &Metadata, volume: &Volume, luck: u64) -> Vec<MetaRecord> {
    let id = volume.id;
    let copies = 1 + (luck / 4 % 3) as u8;
    let changing = |job| {
        let to = Conversion { to: Layout::with_copies(copies), job, extents: luck % 100 };
        vec![MetaRecord::LayoutChanging { id, to }]
    };
    let Some(conversion) = volume.conversion else { return changing(metadata.next_job()) };
    let too_many = volume.runs.values().filter(|run| volume.has_too_many(run.members.len()));
    let dropped: Vec<MetaRecord> = too_many
        .filter(|run| run.incoming.is_none())
        .map(|run| {
            let position = (luck % run.members.len() as u64) as u8;
            MetaRecord::PositionDropped { volume: id, key: run.key, position }
        })
        .take(1 + (luck % 2) as usize)
        .collect();
    match luck % 4 {
        0 => changing(conversion.job),
        1 => vec![MetaRecord::LayoutChanged { id }],
        _ => dropped,
    }
}

fn of_move(metadata: &Metadata, volume: VolumeId, run: &GroupRun, luck: u64) -> Vec<MetaRecord> {
    let key = run.key;
    let Some(incoming) = run.incoming else {
        let mut to = metadata.disks().values().filter_map(|disk| {
            let first = disk.free.first_fit(run.count)?.first;
            Some(Member { disk: disk.number, first })
        });
        let (to, position) = (to.nth((luck % 3) as usize), (luck / 8 % 3) as u8);
        let begun = to.map(|to| MetaRecord::MoveBegun { volume, key, position, to });
        let count = (luck % u64::from(run.count)) as u32;
        let split = luck.is_multiple_of(5).then_some(MetaRecord::RunSplit { volume, key, count });
        return split.into_iter().chain(begun).collect();
    };
    if luck.is_multiple_of(3) {
        return vec![MetaRecord::MoveCancelled { volume, key }];
    }
    let groups = (0..run.count).map(|index| run.generation.plus(index.into()));
    let lacks = groups.map(|generation| ((generation, incoming.member.disk), u64::MAX)).collect();
    vec![MetaRecord::RegionsCleaned(lacks), MetaRecord::MoveSwitched { volume, key }]
}

fn add_run(metadata: &Metadata, volume: &Volume, luck: u64) -> Vec<MetaRecord> {
    let lane = (luck % u64::from(volume.width)) as u16;
    let count = [1, 2, 300, 20_000][(luck / 4 % 4) as usize];
    let free = metadata.disks().values().filter_map(|disk| {
        let fits = disk.free.first_fit(count)?;
        Some(Member { disk: disk.number, first: fits.first })
    });
    let members: Vec<Member> = free.skip((luck / 16 % 2) as usize).collect();
    let copies = usize::from(volume.wanted_layout().copies());
    let run = GroupRun {
        // Sometimes a hole is left.
        key: RunKey { lane, first_set: volume.sets_in_lane(lane) + luck / 32 % 2 },
        count,
        generation: GenerationId(metadata.counters().generation.0 + luck / 64 % 2 * 1000),
        members: members.into_iter().take(copies).collect(),
        incoming: None,
        roots: Roots::default(),
    };
    vec![MetaRecord::RunAdded { volume: volume.id, run }]
}

fn of_log(metadata: &Metadata, volume: &Volume, luck: u64) -> Vec<MetaRecord> {
    let id = volume.id;
    if let Some((number, open)) =
        volume.log.segments.iter().next().filter(|_| !luck.is_multiple_of(3))
    {
        let (volume, number) = (id, *number);
        let state = SegmentState::Closed(RecordNumber(luck % 5));
        let disk = open.copies[0].disk;
        return match (open.state, luck % 2) {
            (SegmentState::Open, 0) => {
                let blocks = open.high_water_blocks.unwrap_or(0) + (luck % 7) as u32;
                vec![MetaRecord::SegmentHighWater { volume, number, blocks }]
            }
            (SegmentState::Open, _) => vec![MetaRecord::SegmentEnded { volume, number, state }],
            (_, 0) => vec![MetaRecord::SegmentCopyDropped { volume, number, disk }],
            _ => vec![MetaRecord::SegmentFreed { volume, number }],
        };
    }
    let free = metadata.disks().values();
    let free = free.filter_map(|disk| Some((disk.number.0, disk.free.first_fit(2)?.first)));
    let copies: Vec<(u32, u32)> =
        free.take(2).map(|(disk, ExtentNumber(first))| (disk, first)).collect();
    let (number, generation) = (volume.log.next_segment.0, metadata.counters().generation.0);
    vec![MetaRecord::SegmentOpened { volume: id, segment: segment(number, generation, &copies) }]
}
