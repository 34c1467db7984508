//! Disks whose contents are wrong: rot, lost and misdirected writes, rollbacks, swaps, broken labels.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use pool::PoolState;
use pool::metadata::Layout;
use rand::Rng;

use super::common::{CONVERGENCE_MAX, POOL, Rig, VERIFIED_AGAIN, VOLUME, expect};
use super::copies::holders_of_newest;
use super::losses::start_all;
use super::node_keys::accept;
use super::scenario;
use crate::cluster::Plan;
use crate::disk::{Disk, Part, ReadFault, WriteFault};
use crate::oracle::Change;
use crate::pattern::{self, Content};
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::{Mix, Watched};

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "bit-rot",
        "blocks of one node's disk rot: reads are right, the bad copies are repaired and counted",
        300,
        |stage| bit_rot(stage).boxed_local(),
    ),
    scenario(
        "both-copies-lost",
        "both copies of a block rot: an error for exactly that block, everything else is readable",
        300,
        |stage| both_copies_lost(stage).boxed_local(),
    ),
    scenario(
        "unreadable-sectors",
        "sectors of one disk can't be read: the other copy serves, and they are written anew",
        300,
        |stage| unreadable_sectors(stage).boxed_local(),
    ),
    scenario(
        "lost-write",
        "a disk answers writes that it never does: reads are right all the same",
        300,
        |stage| async move { spoiled_writes(stage, false).await }.boxed_local(),
    ),
    scenario(
        "misdirected-write",
        "a disk writes to a wrong place: reads of both places are right all the same",
        300,
        |stage| async move { spoiled_writes(stage, true).await }.boxed_local(),
    ),
    scenario(
        "rolled-back-disk",
        "a disk comes back as it was a while ago: recognised as behind, and resynced",
        300,
        |stage| rolled_back(stage).boxed_local(),
    ),
    scenario(
        "unread-applied",
        "a disk comes back and what it has applied can't be read for a while, or for good: it doesn't \
         pass for one with older contents",
        300,
        |stage| unread_applied(stage, Layout::Mirror(2)).boxed_local(),
    ),
    scenario(
        "unread-applied-raid0",
        "the same where no other disk has what is on it",
        300,
        |stage| unread_applied(stage, Layout::Raid0).boxed_local(),
    ),
    scenario(
        "unread-log",
        "sectors of the log can't be read for a while when it is replayed: nothing passes for lost",
        300,
        |stage| badly_read_log(stage, Layout::Mirror(2), unread).boxed_local(),
    ),
    scenario("unread-log-raid0", "the same with one copy of the log", 300, |stage| {
        badly_read_log(stage, Layout::Raid0, unread).boxed_local()
    }),
    scenario(
        "wrong-log-reads-raid0",
        "the only copy of a log is answered wrongly once when it is replayed: nothing passes for lost",
        300,
        |stage| badly_read_log(stage, Layout::Raid0, wrong_once).boxed_local(),
    ),
    scenario(
        "broken-labels",
        "some or all labels of a disk are damaged: used, or refused by name; the pool opens",
        300,
        |stage| broken_labels(stage).boxed_local(),
    ),
    scenario(
        "rot-anywhere",
        "bytes anywhere on one disk rot while everything is off: nothing wrong is ever read",
        300,
        |stage| rot_anywhere(stage).boxed_local(),
    ),
    scenario(
        "newest-checksums-lost",
        "a node is away and the newest checksums on another are rotten: errors, nothing wrong",
        300,
        |stage| newest_checksums_lost(stage).boxed_local(),
    ),
    scenario(
        "swapped-disks",
        "two disks change places between nodes while everything is off",
        300,
        |stage| swapped_disks(stage).boxed_local(),
    ),
    scenario(
        "late-log-copy",
        "a log copy returns with a tail that was never acknowledged: the tail is void",
        400,
        |stage| late_log_copy(stage).boxed_local(),
    ),
];

/// Where on `disk` client data of this volume sector lies, in place or in old log segments.
pub(super) fn places_of(disk: &Disk, volume_sector: u64) -> Vec<u64> {
    let places = disk.written_sectors().into_iter().filter(|sector| {
        let bytes = disk.peek(SectorRange::new(Lba(*sector), 1));
        matches!(pattern::recognise(&bytes), Content::Written { sector, .. } if sector == volume_sector)
    });
    places.collect()
}

/// Writes whole blocks all over the volume, and waits until they are in place.
pub(super) async fn written_and_in_place(rig: &Rig) -> Result<(), Failure> {
    rig.on_volume(VOLUME, |watched| async move {
        for piece in 0..40 {
            watched.change(Change::Write, SectorRange::new(Lba(piece * 200 / 8 * 8), 64)).await?;
        }
        Ok::<(), block::IoError>(())
    })
    .await??;
    rig.in_place(VOLUME).await
}

/// Stops everything in an orderly way and starts it again: whatever was cached is gone.
pub(super) async fn off_and_on(rig: &Rig, meanwhile: impl FnOnce()) -> Result<(), Failure> {
    off_and_begun(rig, meanwhile).await?;
    rig.open(VOLUME).await.map(drop)
}

/// The same, and nobody has waited for anything yet.
async fn off_and_begun(rig: &Rig, meanwhile: impl FnOnce()) -> Result<(), Failure> {
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.cluster.cut_all_power();
    meanwhile();
    start_all(rig);
    Ok(())
}

fn victim(rig: &Rig) -> (usize, Rc<Disk>) {
    let number = rig.below(rig.cluster.node_count());
    (number, rig.cluster.node(number).disks()[0].clone())
}

async fn bit_rot(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    written_and_in_place(&rig).await?;
    let (_, disk) = victim(&rig);
    let sectors = rig.record(VOLUME).oracle().written_sectors();
    let mut rotten = 0;
    off_and_on(&rig, || {
        for _ in 0..12 {
            let sector = sectors[rig.below(sectors.len())];
            for place in places_of(&disk, sector) {
                let offset = place * SECTOR_BYTES as u64 + rig.below(SECTOR_BYTES) as u64;
                disk.flip_byte(offset, 1 << rig.below(8));
                rotten += 1;
            }
        }
    })
    .await?;
    rig.load(Mix { writes: 10, zeroes: 0, discards: 0, ..Mix::default() }).await?;
    rig.run_for(Duration::from_secs(1)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    repaired_by_verifying(&rig).await?;
    let repaired = rig.volume_report(VOLUME).map_or(0, |volume| volume.repaired_blocks);
    // Rot in segments that were released is never seen.
    rig.cluster.tell(&format!("{rotten} sectors rotted, {repaired} blocks repaired"));
    rig.converge().await
}

/// Only one disk was bad: what is found bad is repaired from the others, without anybody writing it anew.
pub(super) async fn repaired_by_verifying(rig: &Rig) -> Result<(), Failure> {
    let mut bad = Vec::new();
    for _ in 0..=VERIFIED_AGAIN {
        let report = rig
            .with(|engine| async move { engine.verify_volume(POOL, VOLUME, None, &|_| ()).await })
            .await?;
        bad = report.bad;
        if bad.is_empty() && report.dirty == 0 {
            break;
        }
        rig.run_for(Duration::from_secs(1)).await;
    }
    expect(bad.is_empty(), || format!("what was bad on one disk stays so: {bad:?}"))
}

/// Verifies every copy, and writes anew what is bad. That a machine restarted a moment ago may not be
/// noticed yet; then what it has is looked at again.
pub(super) async fn mend_every_copy(rig: &Rig) -> Result<(), Failure> {
    for _ in 0..=VERIFIED_AGAIN {
        let report = rig
            .with(|engine| async move { engine.verify_volume(POOL, VOLUME, None, &|_| ()).await })
            .await?;
        for bad in report.bad {
            let start = Lba(bad.volume_offset_bytes / SECTOR_BYTES as u64);
            let range = SectorRange::new(start, BLOCK_SECTORS);
            rig.on_volume(VOLUME, move |watched| async move {
                // Reading looks at one copy; writing the same place anew settles all of them.
                watched.read(range).await?;
                watched.change(Change::Write, range).await
            })
            .await??;
        }
        if report.dirty == 0 {
            break;
        }
        rig.run_for(Duration::from_millis(500)).await;
    }
    rig.in_place(VOLUME).await
}

async fn both_copies_lost(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    written_and_in_place(&rig).await?;
    let sectors = rig.record(VOLUME).oracle().written_sectors();
    let lost = sectors[rig.below(sectors.len())] / BLOCK_SECTORS * BLOCK_SECTORS;
    let range = SectorRange::new(Lba(lost), BLOCK_SECTORS);
    off_and_on(&rig, || {
        for (_, disk) in rig.cluster.disks() {
            for place in places_of(&disk, lost) {
                disk.flip_byte(place * SECTOR_BYTES as u64 + 100, 4);
            }
        }
    })
    .await?;
    rig.record(VOLUME).expect_unreadable(range);
    let (of_it, around) = rig
        .on_volume(VOLUME, move |watched| async move {
            let of_it = watched.read(range).await;
            let mut around = Vec::new();
            for start in (0..lost + 256).step_by(8).filter(|start| *start != lost) {
                around.push(watched.read(SectorRange::new(Lba(start), BLOCK_SECTORS)).await);
            }
            (of_it, around)
        })
        .await?;
    expect(matches!(of_it, Err(block::IoError::Medium(_))), || {
        format!("both copies of {range} are lost and a read says {of_it:?}")
    })?;
    expect(around.iter().all(Result::is_ok), || "neighbours can't be read".to_string())?;
    for named in rig.record(VOLUME).medium_errors() {
        let inside = named.start >= range.start && named.end() <= range.end();
        expect(inside, || format!("the error names {named}, lost is {range}"))?;
    }
    rig.load(Mix::default()).await?;
    rig.run_for(Duration::from_millis(500)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    // Whoever writes it anew can read it again.
    rig.on_volume(VOLUME, move |watched| async move {
        watched.change(Change::Write, range).await?;
        watched.read(range).await
    })
    .await??;
    rig.converge().await
}

async fn unreadable_sectors(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    written_and_in_place(&rig).await?;
    let (_, disk) = victim(&rig);
    let sectors = rig.record(VOLUME).oracle().written_sectors();
    off_and_on(&rig, || {
        for _ in 0..8 {
            let sector = sectors[rig.below(sectors.len())];
            for place in places_of(&disk, sector) {
                disk.set_bad(SectorRange::new(Lba(place), 1));
            }
        }
    })
    .await?;
    rig.load(Mix::default()).await?;
    rig.run_for(Duration::from_secs(1)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    repaired_by_verifying(&rig).await?;
    rig.converge().await
}

async fn spoiled_writes(stage: Stage, misdirected: bool) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let (_, disk) = victim(&rig);
    rig.load(Mix::default()).await?;
    for _ in 0..4 {
        rig.run_for(rig.between(50, 600)).await;
        let by = (1 + rig.below(400) as i64) * if rig.below(2) == 0 { 8 } else { -8 };
        let fault = if misdirected { WriteFault::Misdirected(by) } else { WriteFault::Lost };
        disk.spoil_next_write(Part::Extents, fault);
    }
    rig.run_for(rig.between(500, 2500)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    disk.heal();
    if rig.below(2) == 0 {
        off_and_on(&rig, || ()).await?;
    }
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.on_volume(VOLUME, |watched: Watched| async move { watched.read_all().await }).await??;
    mend_every_copy(&rig).await?;
    rig.converge().await
}

async fn rolled_back(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(500, 3000)).await;
    let (number, disk) = victim(&rig);
    let image = disk.snapshot();
    rig.run_for(rig.between(1500, 4000)).await;
    let way = rig.below(3);
    match way {
        // The node restarts quickly with the old disk.
        0 => {
            rig.cluster.kill_node(number);
            disk.roll_back(image);
            rig.cluster.start_node(number);
        }
        // It is away long enough to be evicted.
        1 => {
            rig.cluster.kill_node(number);
            rig.run_for(rig.between(2000, 6000)).await;
            disk.roll_back(image);
            rig.cluster.start_node(number);
        }
        // Everything was off.
        _ => {
            rig.forget_clients();
            rig.cluster.cut_all_power();
            disk.roll_back(image);
            (0..3).for_each(|number| rig.cluster.start_node(number));
            rig.cluster.start_supervisor(0);
            rig.load(Mix::default()).await?;
        }
    }
    rig.run_for(rig.between(500, 3000)).await;
    rig.converge().await
}

/// Whether a disk has everything, its applied blocks say. While they can't be read nobody knows.
async fn unread_applied(stage: Stage, layout: Layout) -> Result<(), Failure> {
    let rig = Rig::start(&stage, Plan::simple(3, 32), &[(VOLUME, 4 << 20, layout)]).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(500, 3000)).await;
    let (number, disk) = victim(&rig);
    rig.cluster.kill_node(number);
    rig.run_for(rig.between(0, 4000)).await;
    // What can't be read for good is written anew, where other disks have what is on this one.
    if layout != Layout::Raid0 && rig.below(2) == 0 {
        Part::Applied.ranges(&disk).into_iter().for_each(|slot| disk.set_bad(slot));
    } else {
        for _ in 0..1 + rig.below(8) {
            let by = if rig.below(2) == 0 { 8 } else { -8 };
            let faults = [ReadFault::Error, ReadFault::Flipped, ReadFault::Misdirected(by)];
            disk.spoil_next_read(Part::Applied, faults[rig.below(3)]);
        }
    }
    if rig.below(2) == 0 {
        rig.restart_supervisor(rig.between(0, 1000)).await;
    }
    rig.cluster.start_node(number);
    rig.run_for(rig.between(500, 5000)).await;
    rig.count_now()?;
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.converge().await
}

/// While a log is read badly nobody knows what it holds: not that it ends there, either.
async fn badly_read_log(stage: Stage, layout: Layout, spoil: fn(&Rig)) -> Result<(), Failure> {
    let rig = Rig::start(&stage, Plan::simple(3, 32), &[(VOLUME, 4 << 20, layout)]).await?;
    let mix = Mix { writes: 90, sectors_max: 64, ..Mix::default() };
    rig.load(mix).await?;
    rig.run_for(rig.between(100, 1000)).await;
    rig.cluster.disks().iter().for_each(|(_, disk)| disk.remember());
    rig.run_for(rig.between(100, 1000)).await;
    rig.cluster.kill_supervisor(rig.active());
    rig.forget_clients();
    spoil(&rig);
    rig.cluster.start_supervisor(rig.active());
    for _ in 0..4 {
        rig.run_for(rig.between(100, 2000)).await;
        rig.count_now()?;
    }
    rig.converge().await
}

/// Many reads say that sectors can't be read: of records so many that the smaller reads that follow fail as
/// well; of whatever a disk holds fewer than the reads of its checksums in the four seconds after which
/// these are given up.
fn unread(rig: &Rig) {
    let holders = holders_of_newest(rig);
    for node in 0..rig.cluster.node_count() {
        for disk in rig.cluster.node(node).disks() {
            (0..2 + rig.below(19))
                .for_each(|_| disk.spoil_next_read(Part::Extents, ReadFault::Error));
            if holders.contains(&node) {
                let records = records_on(&disk);
                (0..rig.below(80)).for_each(|_| disk.spoil_read_of(&records, ReadFault::Error));
            }
        }
    }
}

/// The sectors where a record of a log begins.
fn records_on(disk: &Disk) -> Vec<SectorRange> {
    let sectors = disk.written_sectors().into_iter().map(|sector| SectorRange::new(Lba(sector), 1));
    sectors.filter(|sector| disk.peek(*sector).starts_with(b"epLR")).collect()
}

/// One read of each disk is answered with something else.
fn wrong_once(rig: &Rig) {
    for (_, disk) in rig.cluster.disks() {
        let by = if rig.below(2) == 0 { 8 } else { -8 };
        let faults = [ReadFault::Stale, ReadFault::Flipped, ReadFault::Misdirected(by)];
        disk.spoil_next_read(Part::Extents, faults[rig.below(3)]);
    }
}

async fn broken_labels(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(500, 1500)).await;
    let (number, disk) = victim(&rig);
    let end = disk.sectors() * SECTOR_BYTES as u64 - (1 << 20);
    let slots = [0, BLOCK_BYTES as u64, end, end + BLOCK_BYTES as u64];
    let all = rig.below(3) == 0;
    let spared = rig.below(slots.len());
    off_and_on(&rig, || {
        for (index, slot) in slots.iter().enumerate() {
            if all || index != spared {
                (0..20).for_each(|at| disk.flip_byte(slot + 13 * at, 0x55));
            }
        }
    })
    .await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(500, 1500)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.on_volume(VOLUME, |watched| async move { watched.read_all().await }).await??;
    let state = rig.report().map(|report| report.state);
    rig.cluster.tell(&format!("node {} with broken labels (all: {all}): {state:?}", number + 1));
    match state {
        Some(PoolState::Online) => rig.converge().await,
        // Nobody repairs a disk that can't be recognised; the rest serves.
        Some(PoolState::Degraded) => Ok(()),
        other => Err(Failure(format!("the pool should serve without one disk: {other:?}"))),
    }
}

async fn rot_anywhere(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(500, 2500)).await;
    let (_, disk) = victim(&rig);
    let bytes = disk.sectors() * SECTOR_BYTES as u64;
    off_and_on(&rig, || {
        for _ in 0..40 {
            // Half of it where structures are: at the beginning.
            let end = if rig.below(2) == 0 { bytes } else { 4 << 20 };
            let offset = rig.cluster.luck(|random| random.random_range(0..end));
            disk.flip_byte(offset, 1 << rig.below(8));
        }
    })
    .await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(500, 1500)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.on_volume(VOLUME, |watched| async move { watched.read_all().await })
        .await?
        .map_err(Failure::from)
}

/// Each checksum block has two slots; what was first written since the older one is unwritten in it.
async fn newest_checksums_lost(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    written_and_in_place(&rig).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.in_place(VOLUME).await?;
    let away = rig.below(3);
    rig.cluster.cut_all_power();
    let rotten = (away + 1 + rig.below(2)) % 3;
    for disk in rig.cluster.node(rotten).disks() {
        for place in newest_checksum_slots(&disk) {
            disk.flip_byte(place * SECTOR_BYTES as u64 + 1000, 4);
        }
    }
    (0..3).filter(|number| *number != away).for_each(|number| rig.cluster.start_node(number));
    rig.cluster.start_supervisor(rig.active());
    let sectors = rig.record(VOLUME).oracle().written_sectors();
    let end = sectors.last().map_or(0, |last| last + 1).next_multiple_of(BLOCK_SECTORS);
    rig.record(VOLUME).expect_unreadable(SectorRange::new(Lba(0), end));
    let failed = rig
        .on_volume(VOLUME, move |watched| async move {
            let mut failed = 0;
            for start in (0..end).step_by(BLOCK_SECTORS as usize) {
                // What is read is compared with what was written.
                let read = watched.read(SectorRange::new(Lba(start), BLOCK_SECTORS)).await;
                failed += u64::from(read.is_err());
            }
            failed
        })
        .await?;
    rig.cluster.tell(&format!("{failed} blocks can't be read without the node that is away"));
    rig.cluster.start_node(away);
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.on_volume(VOLUME, |watched| async move { watched.read_all().await })
        .await?
        .map_err(|error| Failure(format!("with all nodes back a read says {error:?}")))
}

/// First sectors of the slots with the highest sequence number of each checksum block on a disk.
pub(super) fn newest_checksum_slots(disk: &Disk) -> Vec<u64> {
    let mut newest: BTreeMap<(u64, u32), (u64, u64)> = BTreeMap::new();
    // What was written in single sectors stands between them.
    let sectors = disk.written_sectors().into_iter();
    for sector in sectors.filter(|sector| sector.is_multiple_of(BLOCK_SECTORS)) {
        let bytes = disk.peek(SectorRange::new(Lba(sector), BLOCK_SECTORS));
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        if bytes[..4] == *b"epCS" {
            let slot = newest.entry((word(8), word(16) as u32)).or_default();
            *slot = (*slot).max((word(24), sector));
        }
    }
    newest.into_values().map(|(_, sector)| sector).collect()
}

async fn swapped_disks(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(500, 2500)).await;
    let disks = rig.cluster.disks();
    off_and_begun(&rig, || disks[0].1.swap(&disks[1 + rig.below(2)].1)).await?;
    accept(&rig, 2).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(500, 1500)).await;
    rig.converge().await
}

/// The supervisor dies while a batch is on its way and only one node gets it. It starts again
/// without that node, goes on, and then the node returns with its longer log.
async fn late_log_copy(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let mix = Mix { depth: 8, think: Duration::from_millis(20), ..Mix::default() };
    rig.load(mix).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let reconciler = rig.below(3);
    for number in (0..3).filter(|number| *number != reconciler) {
        rig.cluster.cut_link(number, true);
    }
    rig.run_for(Duration::from_micros(rig.below(3000) as u64)).await;
    rig.cluster.kill_supervisor(0);
    rig.forget_clients();
    rig.cluster.cut_link(reconciler, true);
    for number in (0..3).filter(|number| *number != reconciler) {
        rig.cluster.cut_link(number, false);
    }
    rig.cluster.start_supervisor(0);
    // With the log's other copies on the nodes that are there, the volume serves; else it waits.
    if rig.load(mix).await.is_ok() {
        rig.run_for(rig.between(100, 3000)).await;
    }
    rig.cluster.cut_link(reconciler, false);
    if rig.below(2) == 0 {
        rig.restart_supervisor(rig.between(1, 500)).await;
    }
    rig.converge().await
}
