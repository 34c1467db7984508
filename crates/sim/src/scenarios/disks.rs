//! Disks that fail in the ways they admit, and those that lie about what they did: errors and full
//! stores in every structure, wrong reads, rollbacks in the middle of a resync, rot while nobody looks.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use futures::future::try_join;
use pool::DiskState;
use pool::engine::Engine;
use pool::metadata::Layout;
use rand::Rng;

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, disk_of, expect};
use super::copies::copies_of_log;
use super::damage::{mend_every_copy, places_of};
use super::losses::trickle;
use super::operations::{base, write_some};
use super::scenario;
use crate::cluster::Plan;
use crate::disk::{Chances, Disk, Part, ReadFault, WriteFault};
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

/// How often a disk that takes nothing is evicted at most, in three lives of the engine or of its node.
const RETURNS_MAX: u64 = 24;

/// How long a disk hangs whenever it is there, and how often it is evicted at most in that time: less and
/// less often. At once each time would be about twenty times.
const COMES_AND_GOES: Duration = Duration::from_secs(60);
const RETURNS_IN_A_MINUTE: u64 = 12;

/// Longest that clients wait when a disk hangs, whoever holds which lock at that moment.
const HUNG_MAX: Duration = Duration::from_millis(3000);

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "write-errors",
        "writes to one disk fail, in every structure that it has: the pool goes on, and takes it back",
        400,
        |stage| write_errors(stage).boxed_local(),
    ),
    scenario(
        "full-store",
        "one disk's store is full for a while: the pool goes on, and takes it back",
        400,
        |stage| full_store(stage).boxed_local(),
    ),
    scenario(
        "comes-and-goes",
        "a disk hangs each time that it is taken in: clients don't pause for it all the time",
        400,
        |stage| comes_and_goes(stage).boxed_local(),
    ),
    scenario(
        "unreadable-for-a-moment",
        "a disk's labels can't be read at the moment of its return: it is looked at again",
        400,
        |stage| unreadable_for_a_moment(stage).boxed_local(),
    ),
    scenario(
        "wrong-reads",
        "reads of one disk are old, of another place or wrong once: nothing wrong is ever answered",
        400,
        |stage| wrong_reads(stage).boxed_local(),
    ),
    scenario(
        "wrong-reads-raid0",
        "reads of every disk are wrong now and then, and no other disk has what is on it: all are right in the end",
        300,
        |stage| wrong_reads_of_one_copy(stage).boxed_local(),
    ),
    scenario(
        "rot-while-away",
        "a node's disk rots while the node is away and others write: found when it is back",
        400,
        |stage| rot_while_away(stage).boxed_local(),
    ),
    scenario(
        "grown-disk",
        "a disk grows while it serves and over a restart: everything stays where it is",
        400,
        |stage| grown_disk(stage).boxed_local(),
    ),
    scenario(
        "hung-under-locks",
        "a disk hangs for 10 s at any moment of destage, resync and checkpoints: clients wait for \
         its eviction, not for the disk",
        400,
        |stage| hung_under_locks(stage).boxed_local(),
    ),
    scenario(
        "hung-while-verified",
        "a disk hangs for 10 s while a volume is verified: clients wait for its eviction, not for the disk",
        400,
        |stage| hung_while_verified(stage).boxed_local(),
    ),
    scenario(
        "away-while-verified",
        "two nodes are away while a volume is verified: the verification waits for them, and writes \
         elsewhere don't",
        400,
        |stage| away_while_verified(stage).boxed_local(),
    ),
];

fn victim(rig: &Rig) -> (usize, Rc<Disk>) {
    let number = rig.below(rig.cluster.node_count());
    (number, Rc::clone(&rig.cluster.node(number).disks()[0]))
}

/// The node begins anew: its disk is claimed and checked again.
async fn restart(rig: &Rig, node: usize, pause: Duration) {
    rig.cluster.kill_node(node);
    rig.run_for(pause).await;
    rig.cluster.start_node(node);
}

async fn write_errors(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    let (node, disk) = victim(&rig);
    for _ in 0..3 {
        rig.run_for(rig.between(10, 600)).await;
        let part = Part::STRUCTURES[rig.below(Part::STRUCTURES.len())];
        let fault = [WriteFault::Error, WriteFault::NoSpace][rig.below(2)];
        let count = 1 + rig.below(6);
        rig.cluster.tell(&format!("{count} times {fault:?} in {part:?} of {}", disk.name()));
        (0..count).for_each(|_| disk.spoil_next_write(part, fault));
        match rig.below(4) {
            0 => {
                rig.restart_supervisor(rig.between(1, 500)).await;
                rig.load(Mix::default()).await?;
            }
            1 => restart(&rig, node, rig.between(1, 3000)).await,
            _ => rig.run_for(rig.between(500, 2500)).await,
        }
    }
    rig.converge().await
}

async fn full_store(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(10, 1500)).await;
    let (node, disk) = victim(&rig);
    rig.record(VOLUME).forget_waits();
    let before = rig.cluster.times_evicted();
    disk.set_full(true);
    rig.run_for(rig.between(500, 6000)).await;
    match rig.below(3) {
        0 => {
            rig.restart_supervisor(rig.between(1, 500)).await;
            rig.load(Mix::default()).await?;
        }
        1 => restart(&rig, node, rig.between(1, 3000)).await,
        _ => {}
    }
    rig.run_for(rig.between(500, 3000)).await;
    // It answers and takes nothing: each time that it is taken in costs a segment and two commits.
    let times = rig.cluster.times_evicted() - before;
    expect(times <= RETURNS_MAX, || format!("it was evicted {times} times"))?;
    disk.set_full(false);
    rig.run_for(rig.between(10, 2000)).await;
    rig.converge().await
}

/// Each time costs clients a pause: one that was taken in a moment ago stays out the longer the more often.
async fn comes_and_goes(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    trickle(&rig, 1, 4096, Duration::ZERO).await?;
    let (node, _) = copies_of_log(&rig)?;
    let disk = Rc::clone(&rig.cluster.node(node).disks()[0]);
    rig.load(Mix { writes: 80, ..Mix::default() }).await?;
    rig.run_for(rig.between(100, 1000)).await;
    let (begin, before) = (rig.cluster.world().timeline().now(), rig.cluster.times_evicted());
    let name = disk_of(node);
    while rig.cluster.world().timeline().now().since(begin) < COMES_AND_GOES {
        let is_in = rig.report().is_some_and(|report| {
            let mut disks = report.disks.iter();
            disks.any(|disk| disk.name == name && disk.state == DiskState::Usable)
        });
        if is_in && !disk.is_silent() {
            disk.stick_for(Duration::from_millis(2000));
        }
        rig.run_for(Duration::from_millis(50)).await;
    }
    let times = rig.cluster.times_evicted() - before;
    rig.cluster.tell(&format!("it was evicted {times} times"));
    expect(times <= RETURNS_IN_A_MINUTE, || format!("it was evicted {times} times in a minute"))?;
    rig.converge().await
}

async fn unreadable_for_a_moment(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(10, 800)).await;
    let (node, disk) = victim(&rig);
    rig.cluster.kill_node(node);
    rig.wait_out(node, Duration::from_secs(20)).await?;
    rig.cluster.start_node(node);
    let count = 3 + rig.below(20);
    rig.cluster.tell(&format!("{count} read errors in the labels of {}", disk.name()));
    (0..count).for_each(|_| disk.spoil_next_read(Part::Labels, ReadFault::Error));
    rig.run_for(rig.between(200, 4000)).await;
    // Now the drive reads again, and nobody does anything about it.
    disk.heal();
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.converge().await
}

async fn wrong_reads(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let mix = Mix { writes: 35, ..Mix::default() };
    rig.load(mix).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let (_, disk) = victim(&rig);
    for _ in 0..3 {
        disk.remember();
        rig.run_for(rig.between(100, 1500)).await;
        let mut chances = [0.0; 3];
        chances[rig.below(3)] = [0.01, 0.1][rig.below(2)];
        let [stale_read, misdirected_read, flipped_read] = chances;
        disk.set_chances(Chances {
            stale_read,
            misdirected_read,
            flipped_read,
            ..Chances::default()
        });
        // Nothing is cached afterwards.
        if rig.below(2) == 0 {
            rig.quiet(CONVERGENCE_MAX).await?;
            rig.restart_supervisor(rig.between(1, 300)).await;
            rig.load(mix).await?;
        }
        rig.run_for(rig.between(300, 2000)).await;
        disk.heal();
    }
    rig.quiet(CONVERGENCE_MAX).await?;
    // What a disk answered wrongly may have been mended by writing it anew, elsewhere too.
    mend_every_copy(&rig).await?;
    rig.converge().await
}

/// Every disk has the only copy of what is on it, and answers wrongly now and then: nobody hears of it.
async fn wrong_reads_of_one_copy(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::start(&stage, Plan::simple(3, 32), &[(VOLUME, 2 << 20, Layout::Raid0)]).await?;
    rig.cluster.disks().iter().for_each(|(_, disk)| disk.remember());
    rig.load(Mix { writes: 60, ..Mix::default() }).await?;
    rig.run_for(rig.between(300, 2000)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.in_place(VOLUME).await?;
    for (_, disk) in rig.cluster.disks() {
        let mut chances = [0.0; 3];
        chances[rig.below(3)] = 0.02;
        let [stale_read, misdirected_read, flipped_read] = chances;
        let chances = Chances { stale_read, misdirected_read, flipped_read, ..Chances::default() };
        disk.set_chances(chances);
    }
    for _ in 0..4 {
        rig.on_volume(VOLUME, |watched| async move { watched.read_all().await }).await??;
    }
    rig.converge().await
}

async fn rot_while_away(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.in_place(VOLUME).await?;
    let (node, disk) = victim(&rig);
    let sectors = rig.record(VOLUME).oracle().written_sectors();
    rig.cluster.kill_node(node);
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(10, 4000)).await;
    for _ in 0..8 {
        for place in places_of(&disk, sectors[rig.below(sectors.len())]) {
            let offset = place * SECTOR_BYTES as u64 + rig.below(SECTOR_BYTES) as u64;
            disk.flip_byte(offset, 1 << rig.below(8));
        }
    }
    rig.cluster.start_node(node);
    rig.run_for(rig.between(10, 3000)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    mend_every_copy(&rig).await?;
    rig.converge().await
}

async fn grown_disk(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    let (node, disk) = victim(&rig);
    for _ in 0..3 {
        rig.run_for(rig.between(100, 1000)).await;
        let more = rig.cluster.luck(|luck| luck.random_range(1..=4 << 20)) / 512 * 512;
        disk.grow(disk.sectors() * SECTOR_BYTES as u64 + more);
        match rig.below(3) {
            0 => restart(&rig, node, rig.between(1, 2500)).await,
            1 => {
                rig.restart_supervisor(rig.between(1, 500)).await;
                rig.load(Mix::default()).await?;
            }
            _ => {}
        }
    }
    rig.converge().await
}

async fn hung_under_locks(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix { writes: 70, ..Mix::default() }).await?;
    rig.run_for(rig.between(300, 1500)).await;
    for _ in 0..2 {
        let (node, disk) = victim(&rig);
        // While its return is under way, or while nothing is.
        let away = rig.below(2) == 0;
        if away {
            rig.cluster.kill_node(node);
            rig.wait_out(node, Duration::from_secs(10)).await?;
            rig.run_for(rig.between(500, 3000)).await;
            rig.cluster.start_node(node);
            rig.run_for(rig.between(1, 1500)).await;
        }
        rig.record(VOLUME).forget_waits();
        disk.stick_for(Duration::from_secs(10));
        rig.run_for(rig.between(4000, 9000)).await;
        let pause = rig.record(VOLUME).longest_wait();
        expect(pause < HUNG_MAX, || format!("clients waited {pause:?}"))?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
    }
    rig.converge().await
}

async fn verify(rig: &Rig) -> Result<(), Failure> {
    let verifying =
        |engine: Rc<Engine>| async move { engine.verify_volume(POOL, VOLUME, None, &|_| ()).await };
    rig.with(verifying).await.map(drop)
}

async fn hung_while_verified(stage: Stage) -> Result<(), Failure> {
    let volumes = [(VOLUME, 4 << 20, Layout::Mirror(2))];
    let rig = Rig::start(&stage, Plan::simple(8, 32), &volumes).await?;
    rig.load(Mix { writes: 70, ..Mix::default() }).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let is_over = Cell::new(false);
    let verifying = async {
        while !is_over.get() {
            verify(&rig).await?;
            rig.run_for(rig.between(0, 400)).await;
        }
        Ok::<(), Failure>(())
    };
    let hanging = async {
        for _ in 0..2 {
            let (_, disk) = victim(&rig);
            rig.record(VOLUME).forget_waits();
            disk.stick_for(Duration::from_secs(10));
            rig.run_for(rig.between(4000, 9000)).await;
            let pause = rig.record(VOLUME).longest_wait();
            expect(pause < HUNG_MAX, || format!("clients waited {pause:?}"))?;
            rig.wait_clean(CONVERGENCE_MAX).await?;
        }
        is_over.set(true);
        Ok::<(), Failure>(())
    };
    try_join(verifying, hanging).await?;
    rig.converge().await
}

/// More than the log holds is written, and what belongs on both nodes stays in it meanwhile: a block or two
/// of each group, so that it is less than an eighth of the log.
async fn away_while_verified(stage: Stage) -> Result<(), Failure> {
    let size_bytes = 8 << 20;
    let volumes = [(VOLUME, size_bytes, Layout::Mirror(2))];
    let rig = Rig::start(&stage, Plan::simple(6, 32), &volumes).await?;
    let write_all = || {
        rig.on_volume(VOLUME, move |watched| async move {
            for start in (0..size_bytes / SECTOR_BYTES as u64).step_by(640) {
                watched.change(Change::Write, SectorRange::new(Lba(start), BLOCK_SECTORS)).await?;
            }
            Ok::<(), block::IoError>(())
        })
    };
    write_all().await??;
    rig.in_place(VOLUME).await?;
    let first = rig.below(6);
    let away = [first, (first + 1 + rig.below(5)) % 6];
    let writing = async {
        rig.run_for(rig.between(0, 100)).await;
        away.iter().for_each(|node| rig.cluster.kill_node(*node));
        for _ in 0..30 {
            write_all().await??;
        }
        away.iter().for_each(|node| rig.cluster.start_node(*node));
        Ok::<(), Failure>(())
    };
    try_join(verify(&rig), writing).await?;
    rig.converge().await
}

/// A machine that is away and has missed something.
pub(super) async fn to_be_re_added(stage: Stage) -> Result<Rc<Rig>, Failure> {
    let rig = base(stage).await?;
    let away = rig.below(3);
    rig.cluster.kill_node(away);
    rig.wait_out(away, Duration::from_secs(20)).await?;
    write_some(&rig, 3).await?;
    rig.in_place(VOLUME).await?;
    write_some(&rig, 2).await?;
    Ok(rig)
}

/// It is back, and whole.
pub(super) async fn re_added(rig: Rc<Rig>) -> Result<(), Failure> {
    (0..3).for_each(|number| rig.cluster.start_node(number));
    rig.wait_clean(CONVERGENCE_MAX).await.map(drop)
}
