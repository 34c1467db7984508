//! What is believed of checksums: lost and rotten slots, holders that are slow, away, behind or rolled
//! back, and attempts that a crash cut short.

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, Rig, VOLUME, expect};
use super::damage::newest_checksum_slots;
use super::losses::lose_node;
use super::scenario;
use crate::cluster::Plan;
use crate::disk::{Disk, Latency};
use crate::medium::{Image, Survival};
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::{Mix, Watched};

/// Sectors between the first blocks of neighbouring areas that these scenarios write.
pub(super) const STEP: u64 = 128;
/// Sectors that they write in.
pub(super) const SPAN: u64 = 4096;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "slow-holder",
        "a disk answers the newest checksums without writing them, and after a restart the disk that \
         has them is slow: nobody believes the older ones",
        400,
        |stage| slow_holder(stage).boxed_local(),
    ),
    scenario(
        "rotten-slot",
        "raid0: the newest checksums rot while a row of theirs is in the log only: the rows that \
         they were first to name are errors, not zeros",
        400,
        |stage| rotten_slot(stage).boxed_local(),
    ),
    scenario(
        "stale-holder-alone",
        "a disk lost the newest checksums and the one that has them is away: errors by name, and once \
         it is back everything is right",
        400,
        |stage| stale_holder_alone(stage).boxed_local(),
    ),
    scenario(
        "write-while-doubtful",
        "the newest checksums rot on one disk while the other one is away: writes wait or are there, and \
         once it is back everything is right",
        400,
        |stage| write_while_doubtful(stage).boxed_local(),
    ),
    scenario(
        "lagging-holder-cut",
        "a disk lost a write of checksums; while newer ones are written the power goes, and the disk \
         that had them is lost for good: all is there",
        400,
        |stage| lagging_holder_cut(stage).boxed_local(),
    ),
    scenario(
        "rolled-back-raid0",
        "raid0: a disk comes back as it was a while ago: what is in its place serves, the rest are \
         errors, and with its newest contents everything is there",
        400,
        |stage| rolled_back_raid0(stage).boxed_local(),
    ),
    scenario(
        "rolled-back-while-behind",
        "a disk comes back as it was a while ago, and the other one missed something: it is taken in \
         all the same, and with its newest contents everything is there",
        400,
        |stage| rolled_back_while_behind(stage).boxed_local(),
    ),
    scenario(
        "rolled-back-after-resync",
        "a disk that has resynced comes back as it was before: it is noticed",
        400,
        |stage| rolled_back_after_resync(stage).boxed_local(),
    ),
    scenario(
        "torn-checksums",
        "the power goes while checksums are written, again and again: every row is old or new",
        400,
        |stage| torn_checksums(stage, 256 << 10).boxed_local(),
    ),
    scenario(
        "torn-checksums-of-large-extents",
        "the same with extents of several checksum blocks, of which some are ahead and some are not",
        400,
        |stage| torn_checksums(stage, 4 << 20).boxed_local(),
    ),
    scenario(
        "older-attempt",
        "a disk has checksums that a crash cut short, others went on under another epoch; it is alone \
         for a while: never believed",
        400,
        |stage| older_attempt(stage).boxed_local(),
    ),
];

/// Writes a block in every area, so that each checksum block goes into its other slot.
pub(super) async fn write_each_area(rig: &Rig, sectors: u64) -> Result<(), Failure> {
    rig.on_volume(VOLUME, move |watched| async move {
        for start in (0..SPAN).step_by(STEP as usize) {
            watched.change(Change::Write, SectorRange::new(Lba(start), sectors)).await?;
        }
        Ok::<(), block::IoError>(())
    })
    .await??;
    rig.in_place(VOLUME).await
}

/// Writes rows that were never written before, somewhere, and waits until they are in place.
pub(super) async fn write_fresh_rows(rig: &Rig) -> Result<(), Failure> {
    let areas = (SPAN / STEP) as usize;
    let fresh = SectorRange::new(Lba(rig.below(areas) as u64 * STEP + STEP / 2), 32);
    rig.on_volume(VOLUME, move |watched| async move { watched.change(Change::Write, fresh).await })
        .await??;
    rig.in_place(VOLUME).await
}

/// Reads block by block; what is read is compared with what was written, and errors are counted.
pub(super) async fn read_blocks(rig: &Rig) -> Result<u64, Failure> {
    rig.on_volume(VOLUME, |watched| async move {
        let mut failed = 0;
        for start in (0..SPAN).step_by(BLOCK_SECTORS as usize) {
            let read = watched.read(SectorRange::new(Lba(start), BLOCK_SECTORS)).await;
            failed += u64::from(read.is_err());
        }
        failed
    })
    .await
}

pub(super) async fn read_all(rig: &Rig) -> Result<(), Failure> {
    let read = rig.on_volume(VOLUME, |watched: Watched| async move { watched.read_all().await });
    read.await?.map_err(|error| Failure(format!("a read says {error:?}")))
}

/// A holder that answers quickly has two sound slots and lacks the newest checksums: if it were believed
/// because the other one is slow, what was first written since would read as zeros, and the good block
/// be overwritten.
async fn slow_holder(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let loser = rig.below(3);
    // Two destages of every group: then both slots of each checksum block are sound.
    for _ in 0..2 {
        rig.on_volume(VOLUME, |watched| async move {
            for start in (0..4096).step_by(128) {
                watched.change(Change::Write, SectorRange::new(Lba(start), BLOCK_SECTORS)).await?;
            }
            Ok::<(), block::IoError>(())
        })
        .await??;
        rig.in_place(VOLUME).await?;
    }
    // Rows that are written for the first time, in one destage: one lost write.
    let disk = Rc::clone(&rig.cluster.node(loser).disks()[0]);
    disk.lose_next_blocks(*b"epCS", 1);
    let fresh = SectorRange::new(Lba(rig.below(32) as u64 * 128 + 64), 32);
    rig.on_volume(VOLUME, move |watched| async move { watched.change(Change::Write, fresh).await })
        .await??;
    rig.in_place(VOLUME).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    disk.heal();
    rig.restart_supervisor(rig.between(1, 500)).await;
    rig.open(VOLUME).await?;
    let served = || rig.volume_report(VOLUME).is_some_and(|volume| volume.suspended().is_none());
    rig.cluster.wait_for("it serves", CONVERGENCE_MAX, served).await?;
    let slow = Latency { base: Duration::from_millis(400), ..Latency::SLOW };
    for node in (0..3).filter(|node| *node != loser) {
        rig.cluster.node(node).disks()[0].set_latency(slow);
    }
    rig.cluster.tell("the others are slow");
    rig.on_volume(VOLUME, |watched| async move {
        for start in (0..4096).step_by(64) {
            watched.read(SectorRange::new(Lba(start), 64)).await?;
        }
        Ok::<(), block::IoError>(())
    })
    .await??;
    rig.converge().await
}

/// One row is in the log: if the damaged slot passed for that of an interrupted destage, the older one
/// would be believed for all of its rows.
async fn rotten_slot(stage: Stage) -> Result<(), Failure> {
    let span = 4096;
    let rig = written_raid0(&stage, span, 128).await?;
    let at = rig.below(32) as u64 * 128;
    for fresh in [SectorRange::new(Lba(at + 64), 32), SectorRange::new(Lba(at), BLOCK_SECTORS)] {
        rig.on_volume(
            VOLUME,
            move |watched| async move { watched.change(Change::Write, fresh).await },
        )
        .await??;
        if fresh.count > BLOCK_SECTORS {
            rig.in_place(VOLUME).await?;
        }
    }
    let which = rig.below(3);
    let damage = |disk: &Disk, _: &Rig| {
        for slot in newest_checksum_slots(disk) {
            disk.flip_byte(slot * SECTOR_BYTES as u64 + 1000, 4);
        }
    };
    damaged_and_read(&rig, span, damage, which).await
}

/// A volume without redundancy, each block of `span` sectors written twice and in place.
pub(super) async fn written_raid0(
    stage: &Stage,
    span: u64,
    step: usize,
) -> Result<Rc<Rig>, Failure> {
    let rig = Rig::start(stage, Plan::simple(3, 32), &[(VOLUME, 4 << 20, Layout::Raid0)]).await?;
    for _ in 0..2 {
        rig.on_volume(VOLUME, move |watched| async move {
            for start in (0..span).step_by(step) {
                watched.change(Change::Write, SectorRange::new(Lba(start), BLOCK_SECTORS)).await?;
            }
            Ok::<(), block::IoError>(())
        })
        .await??;
        rig.in_place(VOLUME).await?;
    }
    Ok(rig)
}

/// Everything off, `damage` done, everything on; then each block is right or an error.
async fn damaged_and_read(
    rig: &Rig,
    span: u64,
    damage: impl FnOnce(&Disk, &Rig),
    which: usize,
) -> Result<(), Failure> {
    rig.forget_clients();
    rig.cluster.cut_all_power();
    damage(&rig.cluster.node(which).disks()[0], rig);
    (0..3).for_each(|number| rig.cluster.start_node(number));
    rig.cluster.start_supervisor(rig.active());
    rig.record(VOLUME).expect_unreadable(SectorRange::new(Lba(0), span));
    let reading = rig.on_volume(VOLUME, move |watched| async move {
        for start in (0..span).step_by(BLOCK_SECTORS as usize) {
            // What is read is compared with what was written; errors are allowed.
            let _ = watched.read(SectorRange::new(Lba(start), BLOCK_SECTORS)).await;
        }
    });
    // A volume that waits is right; whether it says for what is another question.
    let _ = runtime::timeout(&rig.cluster.director(), Duration::from_secs(40), reading).await;
    Ok(())
}

/// A lone slot, sound and old, proves nothing, whoever is away.
async fn stale_holder_alone(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    for _ in 0..2 {
        write_each_area(&rig, BLOCK_SECTORS).await?;
    }
    let loser = rig.below(3);
    let disk = Rc::clone(&rig.cluster.node(loser).disks()[0]);
    disk.lose_next_blocks(*b"epCS", 1);
    write_fresh_rows(&rig).await?;
    disk.heal();
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.forget_clients();
    rig.cluster.cut_all_power();
    let away = (loser + 1 + rig.below(2)) % 3;
    (0..3).filter(|node| *node != away).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(rig.active());
    rig.record(VOLUME).expect_unreadable(SectorRange::new(Lba(0), SPAN));
    let reading = read_blocks(&rig);
    // A volume may also wait for the disk that is away.
    let _ = runtime::timeout(&rig.cluster.director(), Duration::from_secs(40), reading).await;
    rig.cluster.start_node(away);
    rig.wait_clean(CONVERGENCE_MAX).await?;
    read_all(&rig).await
}

/// As long as a disk that is away may have what nobody else has, nothing is built on its loss.
async fn write_while_doubtful(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    for _ in 0..2 {
        write_each_area(&rig, BLOCK_SECTORS).await?;
    }
    write_fresh_rows(&rig).await?;
    rig.forget_clients();
    rig.cluster.cut_all_power();
    let away = rig.below(3);
    let rotten = rig.cluster.node((away + 1 + rig.below(2)) % 3);
    for disk in rotten.disks() {
        for slot in newest_checksum_slots(&disk) {
            disk.flip_byte(slot * SECTOR_BYTES as u64 + 1000, 4);
        }
    }
    (0..3).filter(|node| *node != away).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(rig.active());
    // Writes of parts of blocks read the rest, which may be doubtful.
    rig.record(VOLUME).expect_unreadable(SectorRange::new(Lba(0), 2 * SPAN));
    rig.load(Mix { depth: 4, writes: 100, zeroes: 0, discards: 0, ..Mix::default() }).await?;
    rig.run_for(rig.between(1500, 5000)).await;
    rig.cluster.start_node(away);
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    read_all(&rig).await
}

/// Before a newer version takes a slot, each holder has what counts in the other one.
async fn lagging_holder_cut(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    for _ in 0..2 {
        write_each_area(&rig, BLOCK_SECTORS).await?;
    }
    let disk_of = |node: usize| Rc::clone(&rig.cluster.node(node).disks()[0]);
    let has_some = |node: &usize| !newest_checksum_slots(&disk_of(*node)).is_empty();
    let holders: Vec<usize> = (0..3).filter(has_some).collect();
    let lagging = holders[rig.below(holders.len())];
    let disk = disk_of(lagging);
    let area = rig.below((SPAN / STEP) as usize) as u64 * STEP;
    let write = |sectors| {
        let range = SectorRange::new(Lba(area), sectors);
        rig.on_volume(
            VOLUME,
            move |watched| async move { watched.change(Change::Write, range).await },
        )
    };
    // One destage, so that nothing newer comes over what is lost.
    disk.lose_next_blocks(*b"epCS", 1);
    write(2 * BLOCK_SECTORS).await??;
    rig.in_place(VOLUME).await?;
    disk.heal();
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.restart_supervisor(rig.between(1, 500)).await;
    rig.open(VOLUME).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    let sequences = |disk: &Disk| -> u64 {
        let sequence = |sector: u64| {
            let bytes = disk.peek(SectorRange::new(Lba(sector), 1));
            u64::from_le_bytes(bytes[24..32].try_into().unwrap_or_default())
        };
        newest_checksum_slots(disk).into_iter().map(sequence).sum()
    };
    let before = sequences(&disk);
    write(BLOCK_SECTORS).await??;
    // Until newer ones are on their way to the disk, and not durable. What it lacks is one ahead of it.
    for _ in 0..40_000 {
        if !disk.is_stable() && sequences(&disk) > before + 1 {
            break;
        }
        rig.run_for(Duration::from_micros(50)).await;
    }
    for node in (0..3).filter(|node| *node != lagging) {
        lose_node(&rig, node, "while newer checksums are written", Survival::None);
    }
    rig.converge().await
}

/// Off, one disk as in `image`, and on again; returns what the disk was before.
fn off_with(rig: &Rig, node: usize, image: Image) -> Image {
    rig.forget_clients();
    rig.cluster.cut_all_power();
    let disk = Rc::clone(&rig.cluster.node(node).disks()[0]);
    let before = disk.snapshot();
    disk.roll_back(image);
    (0..3).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(rig.active());
    before
}

/// A sole holder that went back can't deceive, and nothing is given up while it may come forward.
async fn rolled_back_raid0(stage: Stage) -> Result<(), Failure> {
    let rig = written_raid0(&stage, SPAN, STEP as usize).await?;
    let node = rig.below(3);
    let image = rig.cluster.node(node).disks()[0].snapshot();
    for _ in 0..1 + rig.below(3) {
        write_fresh_rows(&rig).await?;
        write_each_area(&rig, BLOCK_SECTORS).await?;
    }
    let newest = off_with(&rig, node, image);
    rig.record(VOLUME).expect_unreadable(SectorRange::new(Lba(0), SPAN));
    // With the only copy of the log it isn't taken in, and what lies there waits.
    let reading = read_blocks(&rig);
    let _ = runtime::timeout(&rig.cluster.director(), Duration::from_secs(40), reading).await;
    off_with(&rig, node, newest);
    rig.open(VOLUME).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    read_all(&rig).await
}

/// Of what no other disk has, the one that went back has the best there is.
async fn rolled_back_while_behind(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    write_each_area(&rig, BLOCK_SECTORS).await?;
    let back = rig.below(3);
    let disk = Rc::clone(&rig.cluster.node(back).disks()[0]);
    let image = disk.snapshot();
    let behind = (back + 1 + rig.below(2)) % 3;
    rig.cluster.kill_node(behind);
    for _ in 0..2 {
        write_each_area(&rig, 2 * BLOCK_SECTORS).await?;
    }
    rig.wait_out(behind, Duration::from_secs(20)).await?;
    let newest = off_with(&rig, back, image);
    rig.record(VOLUME).expect_unreadable(SectorRange::new(Lba(0), SPAN));
    let refused = || {
        rig.report().is_some_and(|report| {
            report.disks.iter().any(|disk| matches!(disk.state, pool::DiskState::Refused { .. }))
        })
    };
    let reading = read_blocks(&rig);
    let _ = runtime::timeout(&rig.cluster.director(), Duration::from_secs(40), reading).await;
    expect(!refused(), || format!("a disk is refused: {:#?}", rig.report()))?;
    off_with(&rig, back, newest);
    rig.open(VOLUME).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    read_all(&rig).await?;
    rig.converge().await
}

/// What a disk is credited with after a resync, its applied number tells.
async fn rolled_back_after_resync(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    write_each_area(&rig, BLOCK_SECTORS).await?;
    let node = rig.below(3);
    rig.cluster.kill_node(node);
    for _ in 0..2 {
        write_each_area(&rig, 2 * BLOCK_SECTORS).await?;
    }
    rig.wait_out(node, Duration::from_secs(20)).await?;
    let disk = Rc::clone(&rig.cluster.node(node).disks()[0]);
    let image = disk.snapshot();
    rig.cluster.start_node(node);
    rig.wait_clean(CONVERGENCE_MAX).await?;
    match rig.below(2) {
        0 => {
            rig.cluster.kill_node(node);
            disk.roll_back(image);
            rig.cluster.start_node(node);
            rig.run_for(rig.between(100, 3000)).await;
        }
        _ => drop(off_with(&rig, node, image)),
    }
    rig.open(VOLUME).await?;
    rig.converge().await
}

/// The root picks what counts, whichever slots the crash left.
async fn torn_checksums(stage: Stage, extent_bytes: u64) -> Result<(), Failure> {
    let mib = if extent_bytes > 1 << 20 { 128 } else { 32 };
    let rig = Rig::on(crate::cluster::Cluster::start(&stage, Plan::simple(3, mib)));
    let names = rig.cluster.disks().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    rig.create_pool_of(names, Some(extent_bytes)).await?;
    let layout = if rig.below(3) == 0 { Layout::Raid0 } else { Layout::Mirror(2) };
    rig.create_volume(VOLUME, 12 << 20, layout).await?;
    for _ in 0..6 {
        rig.load(Mix { depth: 4, writes: 80, discards: 10, ..Mix::default() }).await?;
        rig.run_for(rig.between(50, 900)).await;
        let begin = rig.cluster.world().timeline().now();
        let unstable = |slot: &(String, Rc<Disk>)| !slot.1.is_stable();
        // In the middle of a destage, if one comes.
        while rig.cluster.world().timeline().now().since(begin) < Duration::from_millis(1500) {
            rig.run_for(Duration::from_micros(100 + rig.below(400) as u64)).await;
            if rig.cluster.disks().iter().any(unstable) && rig.below(4) == 0 {
                break;
            }
        }
        rig.forget_clients();
        rig.cluster.cut_all_power();
        (0..3).for_each(|node| rig.cluster.start_node(node));
        rig.cluster.start_supervisor(rig.active());
        rig.open(VOLUME).await?;
    }
    rig.converge().await
}

/// Attempts of different epochs have the same sequence and other contents.
async fn older_attempt(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    write_each_area(&rig, BLOCK_SECTORS).await?;
    rig.load(Mix { depth: 4, writes: 90, discards: 5, ..Mix::default() }).await?;
    rig.run_for(rig.between(100, 600)).await;
    let begin = rig.cluster.world().timeline().now();
    let victim = rig.below(3);
    let disk = Rc::clone(&rig.cluster.node(victim).disks()[0]);
    while disk.is_stable()
        && rig.cluster.world().timeline().now().since(begin) < Duration::from_secs(2)
    {
        rig.run_for(Duration::from_micros(100)).await;
    }
    rig.forget_clients();
    rig.cluster.cut_all_power();
    (0..3).filter(|node| *node != victim).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(rig.active());
    // With one log copy away it may have to wait; then there is nothing to go on with.
    let going_on = async {
        write_each_area(&rig, BLOCK_SECTORS).await?;
        write_fresh_rows(&rig).await
    };
    let _ = runtime::timeout(&rig.cluster.director(), Duration::from_secs(60), going_on).await;
    rig.forget_clients();
    rig.cluster.cut_all_power();
    let away = (victim + 1 + rig.below(2)) % 3;
    (0..3).filter(|node| *node != away).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(rig.active());
    rig.record(VOLUME).expect_unreadable(SectorRange::new(Lba(0), SPAN));
    let reading = read_blocks(&rig);
    let _ = runtime::timeout(&rig.cluster.director(), Duration::from_secs(40), reading).await;
    rig.cluster.start_node(away);
    rig.wait_clean(CONVERGENCE_MAX).await?;
    read_all(&rig).await
}
