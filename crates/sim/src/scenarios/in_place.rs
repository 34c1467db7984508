//! Large writes that go to their place at once (docs/engine.md, 10): what an INTENT announces is there or not,
//! row by row, until the client is answered, and there from then on.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use futures::future::{join, join_all, join3};
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, OPENING_MAX, Rig, VOLUME, expect};
use super::losses::{
    FAULTS, lose_any, lose_any_with, lose_node, one_fault, power_cut, start_all, trickle,
};
use super::over::verify_meanwhile;
use super::scenario;
use crate::cluster::Plan;
use crate::disk::{Disk, Latency};
use crate::medium::Survival;
use crate::oracle::Change;
use crate::pattern::{self, Content};
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "large-writes",
        "large and small writes and discards, while machines, processes, cables and the power come and go",
        600,
        |stage| large_writes(stage).boxed_local(),
    ),
    scenario(
        "large-write-torn",
        "the power goes while something large is written, where something was or where nothing was, and again \
         while that is opened: each block is old or new",
        600,
        |stage| torn(stage).boxed_local(),
    ),
    scenario(
        "large-write-one-leg",
        "a disk is slower than the others; as soon as a large write is answered a machine is lost for good",
        400,
        |stage| one_leg(stage).boxed_local(),
    ),
    scenario(
        "large-write-held-up",
        "a disk hangs while something large is written to it, the idle log is destaged, and right after the \
         answer the power goes",
        400,
        |stage| held_up(stage).boxed_local(),
    ),
    scenario(
        "large-write-older-leg",
        "a disk that took something large comes back as it was before, and then the other one is lost",
        400,
        |stage| older_leg(stage).boxed_local(),
    ),
    scenario(
        "large-write-undecided",
        "the power goes while the log has all of what says that something large is written, and the disks that \
         it goes to have none or some of it",
        400,
        |stage| undecided(stage).boxed_local(),
    ),
    scenario(
        "large-write-rotten",
        "what was written in place rots everywhere before the log is brought into place, and the power goes: \
         it is an error, and not what was there before",
        400,
        |stage| rotten(stage).boxed_local(),
    ),
    scenario(
        "large-write-refused",
        "a machine goes while something large is written to it: it is answered all the same, and is there",
        400,
        |stage| refused(stage).boxed_local(),
    ),
    scenario(
        "large-write-left",
        "disks restart while something large is written to them, and all power goes while that follows into the \
         log: nothing says that it arrived",
        400,
        |stage| left(stage).boxed_local(),
    ),
];

/// Blocks of the volume.
pub(super) const BLOCKS: usize = 1024;
/// The first of them, for small writes.
pub(super) const SMALL: usize = 64;

/// A pool whose volume has space that was prepared, and nearly nothing in it.
pub(super) async fn primed(stage: &Stage) -> Result<Rc<Rig>, Failure> {
    primed_on(stage, 3).await
}

async fn primed_on(stage: &Stage, nodes: usize) -> Result<Rc<Rig>, Failure> {
    primed_with(stage, Plan::simple(nodes, 64), 2).await
}

/// The same on these machines, with so many copies.
pub(super) async fn primed_with(stage: &Stage, plan: Plan, copies: u8) -> Result<Rc<Rig>, Failure> {
    let plan = Plan { extent_bytes: 1 << 20, ..plan };
    let rig = Rig::start(stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(copies))]).await?;
    trickle(&rig, 1, BLOCK_SECTORS, Duration::ZERO).await?;
    rig.in_place(VOLUME).await?;
    Ok(rig)
}

/// Whole blocks, enough of them to go in place.
pub(super) fn large(rig: &Rig) -> SectorRange {
    let count = 16 + rig.below(100);
    let first = SMALL + rig.below(BLOCKS - SMALL - count);
    SectorRange::new(Lba(first as u64 * BLOCK_SECTORS), count as u64 * BLOCK_SECTORS)
}

pub(super) async fn change(rig: &Rig, change: Change, range: SectorRange) -> Result<(), Failure> {
    let changing =
        move |watched: crate::workload::Watched| async move { watched.change(change, range).await };
    rig.on_volume(VOLUME, changing).await??;
    Ok(())
}

/// Somewhere large where nothing is.
pub(super) async fn free(rig: &Rig) -> Result<SectorRange, Failure> {
    let range = large(rig);
    change(rig, Change::Discard, range).await?;
    rig.in_place(VOLUME).await?;
    // Something in the log, so that it has an open segment.
    trickle(rig, 1, BLOCK_SECTORS, Duration::ZERO).await?;
    Ok(range)
}

/// Whether a sector is what that operation wrote.
pub(super) fn is_of(sector: &[u8], operation: u64) -> bool {
    matches!(pattern::recognise(sector), Content::Written { operation: of, .. } if of == operation)
}

/// Machines of which a disk has something that an operation wrote.
pub(super) fn holders_of(rig: &Rig, operation: u64) -> BTreeSet<usize> {
    machines_with(rig, |sector| is_of(sector, operation))
}

/// Machines of which a disk has something that this finds in its sectors.
fn machines_with(rig: &Rig, is_it: impl Fn(&[u8]) -> bool) -> BTreeSet<usize> {
    let has = |node: &usize| {
        let disk = rig.cluster.node(*node).disks()[0].clone();
        let mut written = disk.written_sectors().into_iter();
        written.any(|at| is_it(&disk.peek(SectorRange::new(Lba(at), 1))))
    };
    (0..rig.cluster.node_count()).filter(|node| has(node)).collect()
}

/// The number of a record whose header this is.
fn record_number(sector: &[u8]) -> Option<u64> {
    let number = sector.starts_with(b"epLR").then(|| sector[32..40].try_into().ok())?;
    number.map(u64::from_le_bytes)
}

/// Kinds of records.
const DATA: u8 = 1;
const INTENT: u8 = 3;

/// The number of the newest record of these kinds on a disk.
fn newest_record(disk: &Disk, is_of: impl Fn(u8) -> bool) -> u64 {
    let number = |at| {
        let sector = disk.peek(SectorRange::new(Lba(at), 1));
        record_number(&sector).filter(|_| is_of(sector[8]))
    };
    disk.written_sectors().into_iter().filter_map(number).max().unwrap_or(0)
}

/// Machines that have the newest record of the log.
pub(super) fn machines_of_log(rig: &Rig) -> BTreeSet<usize> {
    let numbers = rig.cluster.disks().into_iter().map(|(_, disk)| newest_record(&disk, |_| true));
    let newest = numbers.max();
    machines_with(rig, |sector| record_number(sector) == newest)
}

/// Somewhere large where nothing is, and the machines that it is on, which aren't those of the log.
async fn apart(rig: &Rig) -> Result<(SectorRange, BTreeSet<usize>), Failure> {
    apart_with(rig, false).await
}

/// The same, or where something is.
pub(super) async fn apart_with(
    rig: &Rig,
    is_kept: bool,
) -> Result<(SectorRange, BTreeSet<usize>), Failure> {
    for _ in 0..30 {
        let range = free(rig).await?;
        change(rig, Change::Write, range).await?;
        let positions = holders_of(rig, rig.record(VOLUME).oracle().operations());
        if !is_kept {
            change(rig, Change::Discard, range).await?;
        }
        rig.in_place(VOLUME).await?;
        trickle(rig, 1, BLOCK_SECTORS, Duration::ZERO).await?;
        if positions.len() == 2 && positions.is_disjoint(&machines_of_log(rig)) {
            return Ok((range, positions));
        }
    }
    Err(Failure("the log is wherever something large can be".into()))
}

/// Headers of INTENTs on the disks, also of those that are released.
fn intents(rig: &Rig) -> usize {
    intents_of(rig, 2) + overwrites(rig)
}

/// Those of them that are over what was there.
pub(super) fn overwrites(rig: &Rig) -> usize {
    intents_of(rig, 4)
}

fn intents_of(rig: &Rig, flags: u8) -> usize {
    let disks = rig.cluster.disks();
    let count = disks.iter().map(|(_, disk)| {
        let headers = disk.written_sectors().into_iter().filter(|at| {
            let bytes = disk.peek(SectorRange::new(Lba(*at), 1));
            bytes.starts_with(b"epLR") && bytes[8..10] == [INTENT, flags]
        });
        headers.count()
    });
    count.sum()
}

pub(super) async fn read_all(rig: &Rig) -> Result<(), Failure> {
    rig.on_volume(VOLUME, |watched| async move { watched.read_all().await }).await??;
    Ok(())
}

/// What there is can be read as soon as the volume is open, and everything comes to be whole again.
pub(super) async fn read_when_open(rig: &Rig) -> Result<(), Failure> {
    rig.open(VOLUME).await?;
    read_all(rig).await?;
    rig.wait_clean(CONVERGENCE_MAX).await.map(drop)
}

/// A disk is slower than the others while this is written; any machine may be lost for good as soon as it is
/// answered.
pub(super) async fn lose_one_when_answered(rig: &Rig, range: SectorRange) -> Result<(), Failure> {
    let slow = rig.cluster.node(rig.below(3)).disks()[0].clone();
    slow.set_latency(Latency { base: rig.between(5, 60), ..Latency::FAST });
    change(rig, Change::Write, range).await?;
    for node in 0..3 {
        lose_node(rig, node, "right after the answer", Survival::None);
    }
    slow.set_latency(Latency::FAST);
    rig.wait_clean(CONVERGENCE_MAX).await.map(drop)
}

/// Small writes beside what is large: so records follow an INTENT while its rows are written.
pub(super) async fn beside(rig: &Rig) -> Result<(), Failure> {
    let mix = Mix { depth: 3, writes: 100, zeroes: 0, discards: 0, flushes: 0, ..Mix::default() };
    let span_sectors = SMALL as u64 * BLOCK_SECTORS;
    rig.load(Mix { span_sectors, sectors_max: 16, think: Duration::from_millis(2), ..mix }).await
}

async fn large_writes(stage: Stage) -> Result<(), Failure> {
    let rig = primed(&stage).await?;
    let mix = Mix {
        large: 60,
        writes: 50,
        zeroes: 4,
        discards: 30,
        think: Duration::from_millis(20),
        ..Mix::default()
    };
    let (mut in_place, mut rounds) = (0, 0);
    // Luck may have it that for some rounds nothing goes in place.
    while rounds < 4 || in_place == 0 && rounds < 20 {
        rounds += 1;
        rig.load(mix).await?;
        rig.run_for(rig.between(20, 700)).await;
        in_place += intents(&rig);
        let node = rig.below(3);
        let pause = rig.between(1, 3000);
        one_fault(&rig, rig.below(FAULTS), node, pause).await;
        lose_any(&rig, "after a fault");
        start_all(&rig);
        rig.run_for(rig.between(1, 1500)).await;
        lose_any(&rig, "after the return");
        rig.cluster.heal();
        rig.quiet(CONVERGENCE_MAX).await?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
        (0..3).for_each(|node| rig.cluster.node(node).disks()[0].set_latency(Latency::FAST));
    }
    rig.converge().await?;
    expect(in_place > 0, || "nothing went in place".into())
}

/// What was never answered is old or new, and stays so; what was there before isn't touched.
async fn torn(stage: Stage) -> Result<(), Failure> {
    let rig = primed(&stage).await?;
    rig.record(VOLUME).oracle().expect_whole_blocks();
    for _ in 0..4 {
        let range = match rig.below(4) {
            0 => large(&rig),
            1 => {
                let range = free(&rig).await?;
                change(&rig, Change::Write, range).await?;
                rig.in_place(VOLUME).await?;
                trickle(&rig, 1, BLOCK_SECTORS, Duration::ZERO).await?;
                range
            }
            _ => free(&rig).await?,
        };
        let slow = rig.cluster.node(rig.below(3)).disks()[0].clone();
        slow.set_latency([Latency::FAST, Latency::SLOW][rig.below(2)]);
        beside(&rig).await?;
        rig.run_for(rig.between(0, 20)).await;
        let cut = async {
            rig.run_for(rig.between(0, 4)).await;
            lose_any_with(&rig, "while it is written", Survival::Arbitrary);
            rig.forget_clients();
            rig.cluster.cut_all_power();
        };
        // Whether it was answered before the power went is the oracle's to know.
        let (_, ()) = join(change(&rig, Change::Write, range), cut).await;
        start_all(&rig);
        for _ in 0..rig.below(3) {
            rig.run_for(rig.between(0, 1500)).await;
            match rig.below(2) {
                0 => rig.restart_supervisor(rig.between(0, 50)).await,
                _ => {
                    rig.cluster.cut_all_power();
                    start_all(&rig);
                }
            }
        }
        rig.open(VOLUME).await?;
        read_all(&rig).await?;
        lose_any(&rig, "after a torn write");
        slow.set_latency(Latency::FAST);
        rig.wait_clean(CONVERGENCE_MAX).await?;
    }
    rig.converge().await
}

/// A pool that was left while something large was written: its record is durable, and records behind it say
/// so; the machines that it goes to have none or some of it. Tells which those are.
async fn left_undecided(rig: &Rig) -> Result<BTreeSet<usize>, Failure> {
    let (range, positions) = apart(rig).await?;
    let disks = positions.iter().map(|node| rig.cluster.node(*node).disks()[0].clone());
    let disks: Vec<_> = disks.collect();
    // What was answered before it has its record in the log as well.
    let answered = large(rig);
    if answered.end() <= range.start || range.end() <= answered.start {
        change(rig, Change::Write, answered).await?;
    }
    let slow = Latency { base: Duration::from_millis(400), ..Latency::FAST };
    disks.iter().for_each(|disk| disk.set_latency(slow));
    let small = (0..3).map(|_| trickle(rig, 60, SMALL as u64 * BLOCK_SECTORS, Duration::ZERO));
    let cut = async {
        rig.run_for(rig.between(3, 60)).await;
        rig.forget_clients();
        rig.cluster.cut_all_power();
    };
    let _ = join3(change(rig, Change::Write, range), join_all(small), cut).await;
    disks.iter().for_each(|disk| disk.set_latency(Latency::FAST));
    Ok(positions)
}

/// The same, as an opening finds it that is to be crashed.
pub async fn to_be_opened(stage: Stage) -> Result<Rc<Rig>, Failure> {
    let rig = primed_on(&stage, 5).await?;
    left_undecided(&rig).await?;
    (0..rig.cluster.node_count()).for_each(|number| rig.cluster.start_node(number));
    Ok(rig)
}

/// A record that is durable says nothing of its rows.
async fn undecided(stage: Stage) -> Result<(), Failure> {
    let rig = primed_on(&stage, 5).await?;
    for _ in 0..2 {
        let positions = left_undecided(&rig).await?;
        if rig.below(2) == 0 {
            // Nobody can tell, for as long as it takes to give somebody up.
            rig.cluster.start_supervisor(rig.active());
            for node in (0..5).filter(|node| !positions.contains(node)) {
                rig.cluster.start_node(node);
            }
            verify_meanwhile(&rig, rig.between(0, 30_000)).await?;
        }
        start_all(&rig);
        for _ in 0..rig.below(3) {
            verify_meanwhile(&rig, rig.between(0, 700)).await?;
            rig.cluster.cut_all_power();
            start_all(&rig);
        }
        read_when_open(&rig).await?;
    }
    rig.converge().await
}

/// Answered is what all positions have, and the log.
async fn one_leg(stage: Stage) -> Result<(), Failure> {
    let rig = primed(&stage).await?;
    for _ in 0..2 {
        let range = free(&rig).await?;
        lose_one_when_answered(&rig, range).await?;
    }
    expect(intents(&rig) > 0, || "nothing went in place".into())
}

/// Release passes nothing that is being written.
async fn held_up(stage: Stage) -> Result<(), Failure> {
    let rig = primed(&stage).await?;
    for _ in 0..3 {
        let range = free(&rig).await?;
        let stuck = rig.cluster.node(rig.below(3)).disks()[0].clone();
        let hangs = async {
            rig.run_for(rig.between(0, 1)).await;
            stuck.stick_for(rig.between(1000, 1450));
        };
        let (written, ()) = join(change(&rig, Change::Write, range), hangs).await;
        written?;
        rig.run_for(rig.between(0, 20)).await;
        power_cut(&rig);
        read_when_open(&rig).await?;
    }
    rig.converge().await
}

/// What a disk took counts only under the instance that took it.
async fn older_leg(stage: Stage) -> Result<(), Failure> {
    let rig = primed(&stage).await?;
    let range = free(&rig).await?;
    let node = rig.below(3);
    let disk = rig.cluster.node(node).disks()[0].clone();
    let image = disk.snapshot();
    change(&rig, Change::Write, range).await?;
    rig.cluster.kill_node(node);
    disk.roll_back(image);
    rig.cluster.start_node(node);
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.in_place(VOLUME).await?;
    rig.run_for(rig.between(0, 500)).await;
    if rig.report().is_some_and(|report| report.survives >= 1) {
        for other in (0..3).filter(|other| *other != node) {
            lose_node(&rig, other, "once the older one is back", Survival::None);
        }
    }
    rig.converge().await
}

/// What was acknowledged is never what was before it, also where all have lost it.
async fn rotten(stage: Stage) -> Result<(), Failure> {
    let rig = primed_on(&stage, 5).await?;
    // Also where its rows are on all positions only long after its record is in the log.
    let late = rig.below(2) == 0;
    let is_kept = rig.below(2) == 0;
    let (range, positions) = apart_with(&rig, is_kept).await?;
    let nodes: Vec<usize> = positions.into_iter().collect();
    let stuck = rig.cluster.node(nodes[rig.below(2)]).disks()[0].clone();
    let hangs = async {
        if late {
            rig.run_for(rig.between(0, 1)).await;
            stuck.stick_for(rig.between(200, 1200));
        }
    };
    let (written, ()) = join(change(&rig, Change::Write, range), hangs).await;
    written?;
    let operation = rig.record(VOLUME).oracle().operations();
    // Long enough for the log to say that it was answered, and too short to be destaged.
    rig.run_for(rig.between(150, 800)).await;
    rig.forget_clients();
    rig.cluster.cut_all_power();
    let rotten = range.start.0 + rig.below(range.count as usize) as u64;
    for (_, disk) in rig.cluster.disks() {
        for at in disk.written_sectors() {
            let content = pattern::recognise(&disk.peek(SectorRange::new(Lba(at), 1)));
            let is_it = matches!(content, Content::Written { operation: of, sector, .. }
                if of == operation && sector == rotten);
            if is_it {
                disk.flip_byte(at * SECTOR_BYTES as u64 + 77, 4);
            }
        }
    }
    let block = rotten / BLOCK_SECTORS * BLOCK_SECTORS;
    rig.record(VOLUME).expect_unreadable(SectorRange::new(Lba(block), BLOCK_SECTORS));
    start_all(&rig);
    rig.open_within(VOLUME, OPENING_MAX).await?;
    // An error that names it is right; what it was before is not.
    let _ = read_all(&rig).await;
    Ok(())
}

/// A position that doesn't take it: the contents go into the log.
async fn refused(stage: Stage) -> Result<(), Failure> {
    let rig = primed(&stage).await?;
    for _ in 0..3 {
        let range = free(&rig).await?;
        let node = rig.below(3);
        let how = rig.below(4);
        let goes = async {
            rig.run_for(rig.between(0, 3)).await;
            match how {
                0 => rig.cluster.kill_node(node),
                1 => rig.cluster.cut_node_power(node, rig.cluster.any_survival()),
                2 => rig.cluster.cut_link(node, true),
                _ => rig.cluster.node(node).disks()[0].stick_for(rig.between(1500, 6000)),
            }
        };
        let (written, ()) = join(change(&rig, Change::Write, range), goes).await;
        written?;
        lose_any(&rig, "without one machine");
        if rig.below(2) == 0 {
            rig.forget_clients();
            rig.cluster.cut_all_power();
        }
        rig.cluster.cut_link(node, false);
        start_all(&rig);
        read_when_open(&rig).await?;
    }
    rig.converge().await
}

/// As long as the contents of one that was left aren't durable, no record says that it was acknowledged.
async fn left(stage: Stage) -> Result<(), Failure> {
    let rig = primed_on(&stage, 5).await?;
    for _ in 0..3 {
        let (range, positions) = apart(&rig).await?;
        let disk = |node: usize| rig.cluster.node(node).disks()[0].clone();
        let slow = |ms| Latency { base: Duration::from_millis(ms), ..Latency::SLOW };
        (0..5).for_each(|node| {
            disk(node).set_latency(slow(if positions.contains(&node) { 400 } else { 50 }))
        });
        let log = machines_of_log(&rig).first().map(|node| disk(*node));
        let newest = |kind| log.as_ref().map(|disk| newest_record(disk, |of| of == kind));
        let (intent, data) = (newest(INTENT), newest(DATA));
        let cut = async {
            while newest(INTENT) == intent {
                rig.run_for(Duration::from_millis(10)).await;
            }
            // Its record is in the log. Those that it goes to have it in their memory, and lose that.
            for node in &positions {
                rig.cluster.cut_node_power(*node, Survival::None);
                rig.cluster.start_node(*node);
            }
            for _ in (0..150).take_while(|_| newest(DATA) == data) {
                rig.run_for(Duration::from_millis(15)).await;
            }
            rig.run_for(rig.between(0, 60)).await;
            rig.forget_clients();
            rig.cluster.cut_all_power();
        };
        let _ = join(change(&rig, Change::Write, range), cut).await;
        (0..5).for_each(|node| disk(node).set_latency(Latency::FAST));
        start_all(&rig);
        read_when_open(&rig).await?;
    }
    rig.converge().await
}

/// Two large writes where nothing is, and a small one over the first.
pub async fn large_write(rig: Rc<Rig>) -> Result<(), Failure> {
    for (first, count) in [(436, 48), (450, 1), (496, 16)] {
        let range = SectorRange::new(Lba(first * BLOCK_SECTORS), count * BLOCK_SECTORS);
        change(&rig, Change::Write, range).await?;
    }
    rig.in_place(VOLUME).await
}
