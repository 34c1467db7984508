//! Copies of a log that are away, can't be written, or are damaged, when they are the ones that count.

use std::collections::BTreeSet;
use std::time::Duration;

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, OPENING_MAX, Rig, VOLUME, expect};
use super::losses::{lose_node, status, trickle};
use super::scenario;
use crate::cluster::Plan;
use crate::disk::{Latency, Part, WriteFault};
use crate::fork::{Judgement, Loss, Owner};
use crate::medium::Survival;
use crate::oracle::Change;
use crate::pattern::{self, Content};
use crate::runner::{Failure, Scenario, Stage};

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "last-copy-away",
        "the copies of a log go one after the other, and the first one is back alone: the volume waits \
         for the last one, which has more",
        400,
        |stage| last_copy_away(stage).boxed_local(),
    ),
    scenario(
        "last-copy-full",
        "one copy of a log is lost for good, and the other one takes no more: what it holds counts",
        400,
        |stage| last_copy_full(stage).boxed_local(),
    ),
    scenario(
        "rotten-tail",
        "the newest record rots in one copy of the log before anything says that it was acknowledged, and \
         the power cuts the next opening short: the other copy counts until it is appended again",
        400,
        |stage| rotten_tail(stage).boxed_local(),
    ),
    scenario(
        "rotten-and-stuck",
        "raid0: rows rot in the log while the disk that they belong to is away: they stay an error until \
         they are written anew",
        400,
        |stage| rotten_and_stuck(stage).boxed_local(),
    ),
    scenario(
        "older-log-while-opening",
        "raid0: a disk begins anew with older contents between the look at it and the look at the log that it \
         alone has: the volume waits for the newest ones",
        400,
        |stage| older_log_while_opening(stage).boxed_local(),
    ),
    scenario(
        "full-for-logs",
        "a disk takes what it has in place and nothing new: writes go on without it",
        400,
        |stage| full_for_logs(stage).boxed_local(),
    ),
];

/// Blocks that are written.
const SPAN: u64 = 512;
/// What takes longer waits for a disk.
const READ_MAX: Duration = Duration::from_millis(500);
/// Longest that a write may wait for a log that does without a disk, on disks that are slow.
const SWITCHED_MAX: Duration = Duration::from_secs(10);

/// The nodes whose disks have the newest write: those with the log, as long as it isn't in place.
pub(super) fn holders_of_newest(rig: &Rig) -> Vec<usize> {
    let newest = rig.record(VOLUME).oracle().operations();
    let holds = |node: &usize| {
        let disk = &rig.cluster.node(*node).disks()[0];
        disk.written_sectors().into_iter().any(|sector| {
            let bytes = disk.peek(SectorRange::new(Lba(sector), 1));
            matches!(pattern::recognise(&bytes), Content::Written { operation, .. } if operation == newest)
        })
    };
    (0..rig.cluster.node_count()).filter(holds).collect()
}

/// The two nodes with the log's copies, in any order.
pub(super) fn copies_of_log(rig: &Rig) -> Result<(usize, usize), Failure> {
    match holders_of_newest(rig)[..] {
        [one, other] if rig.below(2) == 0 => Ok((one, other)),
        [one, other] => Ok((other, one)),
        ref holders => Err(Failure(format!("the newest record is on the nodes {holders:?}"))),
    }
}

/// What was in flight when the first copy was evicted is acknowledged by the other one alone. The power
/// goes before that is in place or anything else says it.
async fn last_copy_away(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let count = 1 + rig.below(6);
    trickle(&rig, count, SPAN, Duration::ZERO).await?;
    let (first, last) = copies_of_log(&rig)?;
    rig.cluster.kill_node(first);
    trickle(&rig, 1, SPAN, Duration::ZERO).await?;
    rig.run_for(rig.between(0, 6)).await;
    rig.cluster.cut_all_power();
    rig.forget_clients();
    (0..3).filter(|node| *node != last).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(rig.active());
    rig.run_for(rig.between(1000, 15_000)).await;
    if rig.volume_report(VOLUME).is_some_and(|volume| volume.suspended().is_none()) {
        let read =
            |range| rig.on_volume(VOLUME, move |watched| async move { watched.read(range).await });
        read(SectorRange::new(Lba(0), SPAN)).await??;
    }
    rig.cluster.start_node(last);
    rig.converge().await
}

/// A copy that can't be written leaves the list only if another one, which answers, has what was
/// acknowledged: the one that doesn't answer may never come back.
async fn last_copy_full(stage: Stage) -> Result<(), Failure> {
    let volumes = [(VOLUME, 4 << 20, Layout::Mirror(2))];
    let rig = Rig::start(&stage, Plan::simple(5, 32), &volumes).await?;
    for _ in 0..2 {
        trickle(&rig, 1 + rig.below(8), SPAN, Duration::ZERO).await?;
        let (gone, full) = copies_of_log(&rig)?;
        // What is to come into place takes long meanwhile.
        let base = rig.between(100, 400);
        for node in (0..5).filter(|node| *node != full) {
            let slow = Latency { base, spread: Duration::from_millis(50), ..Latency::SLOW };
            rig.cluster.node(node).disks()[0].set_latency(slow);
        }
        rig.cluster.kill_node(gone);
        let disk = rig.cluster.node(full).disks()[0].clone();
        (0..1 + rig.below(3))
            .for_each(|_| disk.spoil_next_write(Part::Extents, WriteFault::NoSpace));
        let write = trickle(&rig, 1, SPAN, Duration::ZERO);
        let look = async {
            rig.wait_out(gone, CONVERGENCE_MAX).await?;
            for _ in 0..3 {
                lose_node(&rig, gone, "while the other copy can't be written", Survival::None);
                rig.run_for(rig.between(10, 500)).await;
            }
            Ok::<(), Failure>(())
        };
        let (written, looked) = futures::future::join(write, look).await;
        written.and(looked)?;
        rig.cluster.heal();
        rig.wait_clean(CONVERGENCE_MAX).await?;
        rig.in_place(VOLUME).await?;
    }
    rig.converge().await
}

/// An opening can't tell what only one copy shows from what was never acknowledged. Up to where it is valid
/// is decided before it is appended again, so that mustn't be before it.
async fn rotten_tail(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let count = 1 + rig.below(6);
    trickle(&rig, count, SPAN, Duration::ZERO).await?;
    let (rotten, _) = copies_of_log(&rig)?;
    rig.cluster.cut_all_power();
    rig.forget_clients();
    let newest = rig.record(VOLUME).oracle().operations();
    rot(&rig, rotten, &BTreeSet::from([newest]));
    (0..3).for_each(|number| rig.cluster.start_node(number));
    rig.cluster.start_supervisor(rig.active());
    let opens = || rig.report().is_some_and(|report| !report.volumes.is_empty());
    rig.cluster.wait_for("the pool is open", OPENING_MAX, opens).await?;
    rig.run_for(Duration::from_micros(rig.below(400) as u64)).await;
    for _ in 0..8 {
        rig.fork(Loss {
            what: format!("while the log is replayed; status: {}", status(&rig)),
            lost: BTreeSet::new(),
            away: BTreeSet::new(),
            survival: None,
            owners: vec![Owner::Same],
            judgement: Judgement::Readable,
        });
        rig.run_for(Duration::from_micros(100 + rig.below(400) as u64)).await;
    }
    rig.converge().await
}

/// What these operations wrote rots wherever a node's disk has it.
fn rot(rig: &Rig, node: usize, operations: &BTreeSet<u64>) {
    let disk = rig.cluster.node(node).disks()[0].clone();
    for sector in disk.written_sectors() {
        let bytes = disk.peek(SectorRange::new(Lba(sector), 1));
        let content = pattern::recognise(&bytes);
        if matches!(content, Content::Written { operation, .. } if operations.contains(&operation))
        {
            disk.flip_byte(sector * SECTOR_BYTES as u64 + 77, 4);
        }
    }
}

/// What is damaged in the log is known by its checksum alone, however often it is appended again.
async fn rotten_and_stuck(stage: Stage) -> Result<(), Failure> {
    let volumes = [(VOLUME, 4 << 20, Layout::Raid0)];
    let rig = Rig::start(&stage, Plan::simple(3, 32), &volumes).await?;
    let (span, whole) = (384, SectorRange::new(Lba(0), 384));
    let change = |range| {
        rig.on_volume(
            VOLUME,
            move |watched| async move { watched.change(Change::Write, range).await },
        )
    };
    change(whole).await??;
    rig.in_place(VOLUME).await?;
    let mut written = BTreeSet::new();
    for _ in 0..4 + rig.below(12) {
        let at = rig.below((span / BLOCK_SECTORS) as usize) as u64 * BLOCK_SECTORS;
        change(SectorRange::new(Lba(at), BLOCK_SECTORS)).await??;
        written.insert(at);
    }
    let holders = holders_of_newest(&rig);
    let [holder] = holders[..] else {
        return Err(Failure(format!("the newest record is on the nodes {holders:?}")));
    };
    rig.run_for(rig.between(150, 800)).await;
    rig.cluster.cut_all_power();
    let newest = rig.record(VOLUME).oracle().operations();
    let mut rotten = BTreeSet::new();
    for _ in 0..3 {
        rotten.insert(newest - rig.below(written.len()) as u64);
    }
    rot(&rig, holder, &rotten);
    rig.cluster.tell(&format!("operations {rotten:?} rot"));
    rig.record(VOLUME).expect_unreadable(whole);
    let away = (holder + 1 + rig.below(2)) % 3;
    for round in 0..2 + rig.below(2) {
        (0..3).filter(|node| *node != away).for_each(|node| rig.cluster.start_node(node));
        rig.cluster.start_supervisor(rig.active());
        rig.open_within(VOLUME, OPENING_MAX).await?;
        look_at(&rig, &written).await?;
        rig.run_for(rig.between(0, 3000)).await;
        look_at(&rig, &written).await?;
        rig.cluster.tell(&format!("round {round} is over"));
        rig.cluster.cut_all_power();
    }
    (0..3).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(rig.active());
    look_at(&rig, &written).await?;
    rig.in_place(VOLUME).await?;
    look_at(&rig, &written).await?;
    change(whole).await??;
    rig.in_place(VOLUME).await?;
    rig.record(VOLUME).expect_readable();
    rig.converge().await
}

/// Reads blocks of which some may be errors, and others wait for their disk.
async fn look_at(rig: &Rig, blocks: &BTreeSet<u64>) -> Result<(), Failure> {
    let (blocks, director) = (blocks.clone(), rig.cluster.director());
    rig.on_volume(VOLUME, move |watched| async move {
        let reads = blocks.iter().map(|block| {
            let range = SectorRange::new(Lba(*block), BLOCK_SECTORS);
            runtime::timeout(&director, READ_MAX, watched.read(range))
        });
        futures::future::join_all(reads).await;
    })
    .await
}

/// What was looked at when a disk was taken in is another instance's from the moment that it began anew.
async fn older_log_while_opening(stage: Stage) -> Result<(), Failure> {
    let volumes = [(VOLUME, 4 << 20, Layout::Raid0)];
    let rig = Rig::start(&stage, Plan::simple(3, 32), &volumes).await?;
    trickle(&rig, 8, SPAN, Duration::ZERO).await?;
    let disk = |node: usize| rig.cluster.node(node).disks()[0].clone();
    let older: Vec<_> = (0..3).map(|node| disk(node).snapshot()).collect();
    // Whoever has an older image has applied less.
    rig.in_place(VOLUME).await?;
    trickle(&rig, 1 + rig.below(6), SPAN, Duration::ZERO).await?;
    let holders = holders_of_newest(&rig);
    let [holder] = holders[..] else {
        return Err(Failure(format!("the newest record is on the nodes {holders:?}")));
    };
    rig.restart_supervisor(Duration::from_millis(50)).await;
    rig.run_for(rig.between(0, 80)).await;
    if rig.volume_report(VOLUME).is_some() {
        // Its log is being read.
        return rig.converge().await;
    }
    let change_to = |image| {
        rig.cluster.kill_node(holder);
        let before = disk(holder).snapshot();
        disk(holder).roll_back(image);
        rig.cluster.start_node(holder);
        before
    };
    let newest = change_to(older[holder].clone());
    rig.run_for(rig.between(1000, 8000)).await;
    change_to(newest);
    rig.converge().await
}

/// Disks that refuse each new segment aren't asked again and again, and leave nothing of them behind.
async fn full_for_logs(stage: Stage) -> Result<(), Failure> {
    let volumes = [(VOLUME, 4 << 20, Layout::Mirror(2))];
    let rig = Rig::start(&stage, Plan::simple(5, 32), &volumes).await?;
    for _ in 0..2 {
        let whole = SectorRange::new(Lba(0), SPAN);
        rig.on_volume(
            VOLUME,
            move |watched| async move { watched.change(Change::Write, whole).await },
        )
        .await??;
        rig.in_place(VOLUME).await?;
    }
    let count = 1 + rig.below(8);
    trickle(&rig, count, SPAN, Duration::ZERO).await?;
    let (gone, holder) = copies_of_log(&rig)?;
    let others = (0..5).filter(|node| ![gone, holder].contains(node));
    let full = others.filter(|_| rig.below(4) > 0).collect::<BTreeSet<_>>();
    // What is to come into place takes long meanwhile.
    let base = rig.between(50, 200);
    for node in 0..5 {
        let slow = Latency { base, spread: Duration::from_millis(20), ..Latency::SLOW };
        let disk = rig.cluster.node(node).disks()[0].clone();
        disk.set_latency(if node == holder { Latency::FAST } else { slow });
        disk.set_full(full.contains(&node));
    }
    rig.record(VOLUME).forget_waits();
    rig.cluster.kill_node(gone);
    let write = trickle(&rig, 4, SPAN, Duration::ZERO);
    let look = async {
        for _ in 0..40 {
            rig.run_for(Duration::from_millis(100)).await;
            rig.count_now()?;
        }
        Ok::<(), Failure>(())
    };
    let (written, looked) = futures::future::join(write, look).await;
    written.and(looked)?;
    let wait = rig.record(VOLUME).longest_wait();
    expect(wait < SWITCHED_MAX, || format!("an operation waited {wait:?}"))?;
    rig.run_for(rig.between(0, 3000)).await;
    rig.converge().await
}
