//! Large writes that go to their place over what is there (docs/engine.md, 10.15 to 10.22): while they do, each
//! sector is old or new and one position is whole, until the client is answered.

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use futures::future::{Either, join, join3, select};

use super::common::{CONVERGENCE_MAX, OPENING_MAX, POOL, Rig, VOLUME, expect};
use super::in_place::{
    BLOCKS, SMALL, apart_with, beside, change, holders_of, is_of, large, lose_one_when_answered,
    machines_of_log, overwrites, primed, primed_with, read_all, read_when_open,
};
use super::losses::{lose_any, lose_any_with, lose_disks, power_cut, start_all, trickle};
use super::owners::take_over;
use super::scenario;
use crate::cluster::Plan;
use crate::disk::Latency;
use crate::medium::Survival;
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "overwrite-torn",
        "the power goes while something large is written over what is there, and again while that is opened; in \
         forks machines are lost for good at that moment: each sector is old or new",
        600,
        |stage| torn(stage).boxed_local(),
    ),
    scenario(
        "overwrite-rotten",
        "what is there is rotten on one disk, and the power goes while something large is written over it",
        600,
        |stage| rotten(stage).boxed_local(),
    ),
    scenario(
        "overwrite-one-leg",
        "as soon as something large is answered that was written over something a machine is lost for good",
        400,
        |stage| one_leg(stage).boxed_local(),
    ),
    scenario(
        "overwrite-refused",
        "a machine goes, or a disk hangs, while something large is written over what is there, and then the power",
        600,
        |stage| refused(stage).boxed_local(),
    ),
    scenario(
        "overwrite-beside",
        "large and small writes and discards of the same blocks, while all is verified, machines, processes and \
         the power come and go, and what was away is brought up to date",
        900,
        |stage| beside_all(stage).boxed_local(),
    ),
    scenario(
        "overwrite-over-the-log",
        "something large is written over what the log still holds, and the power goes",
        400,
        |stage| over_the_log(stage).boxed_local(),
    ),
    scenario(
        "overwrite-given-up",
        "what was given up in the middle is in the log late, and meanwhile the log is destaged and all is verified",
        600,
        |stage| given_up(stage).boxed_local(),
    ),
    scenario(
        "overwrite-older-leg",
        "something large is answered that was written over something, the power goes, and a disk that took it \
         comes back as it was before",
        400,
        |stage| older_leg(stage).boxed_local(),
    ),
    scenario(
        "overwrite-deposed",
        "a supervisor that writes over what is there is stopped or cut off, deposed, and continues",
        600,
        |stage| deposed(stage).boxed_local(),
    ),
];

/// Somewhere large where something is, in its place and nowhere else, and whose it is.
async fn kept(rig: &Rig) -> Result<(SectorRange, u64), Failure> {
    let range = large(rig);
    change(rig, Change::Write, range).await?;
    let operation = rig.record(VOLUME).oracle().operations();
    rig.in_place(VOLUME).await?;
    // Something in the log, so that it has an open segment.
    trickle(rig, 1, BLOCK_SECTORS, Duration::ZERO).await?;
    Ok((range, operation))
}

async fn write_everything(rig: &Rig) -> Result<(), Failure> {
    for first in (SMALL..BLOCKS).step_by(64) {
        let range = SectorRange::new(Lba(first as u64 * BLOCK_SECTORS), 64 * BLOCK_SECTORS);
        change(rig, Change::Write, range).await?;
    }
    rig.in_place(VOLUME).await
}

/// Machines with one disk each, and how many copies a volume has.
async fn any_mirror(stage: &Stage) -> Result<Rc<Rig>, Failure> {
    let copies = 2 + u8::from(stage.world.seed().is_multiple_of(3));
    primed_with(stage, Plan::simple(3, 64), copies).await
}

fn set_latency(rig: &Rig, latency: Latency) {
    (0..rig.cluster.node_count())
        .for_each(|node| rig.cluster.node(node).disks()[0].set_latency(latency));
}

/// Makes each step of all disks take from `least_us` to twice `below_us` more.
fn slow_all(rig: &Rig, least_us: u64, below_us: usize) {
    let base = Duration::from_micros(least_us + rig.below(below_us) as u64);
    set_latency(rig, Latency { base, spread: base, stable: base });
}

/// As many machines as status says, lost for good.
fn lose_as_many(rig: &Rig, what: &str, survival: Survival) {
    let claimed = rig.report().filter(|report| report.lease_ok).map_or(0, |report| report.survives);
    let first = rig.below(3);
    let lost = (0..3).cycle().skip(first).take(rig.below(claimed as usize + 1));
    lose_disks(rig, lost.map(|node| (node, 0)).collect(), what, survival);
}

/// The power goes at some moment while `range` is written, and comes back.
async fn cut_while_written(rig: &Rig, range: SectorRange, most_ms: u64) -> Result<(), Failure> {
    let cut = async {
        rig.run_for(rig.between(0, most_ms)).await;
        lose_as_many(rig, "while it is written", Survival::Arbitrary);
        rig.run_for(Duration::from_micros(rig.below(1500) as u64)).await;
        lose_as_many(rig, "a little later", Survival::Arbitrary);
        rig.forget_clients();
        rig.cluster.cut_all_power();
    };
    // Whether it was answered before the power went is the oracle's to know.
    let _ = join(change(rig, Change::Write, range), cut).await;
    set_latency(rig, Latency::FAST);
    start_all(rig);
    Ok(())
}

async fn torn(stage: Stage) -> Result<(), Failure> {
    let rig = any_mirror(&stage).await?;
    rig.record(VOLUME).oracle().expect_whole_blocks();
    let mut over = 0;
    for _ in 0..4 {
        let (range, _) = kept(&rig).await?;
        slow_all(&rig, 100, 3000);
        if rig.below(2) == 0 {
            beside(&rig).await?;
            rig.run_for(rig.between(0, 20)).await;
        }
        cut_while_written(&rig, range, 25).await?;
        over += overwrites(&rig);
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
        rig.wait_clean(CONVERGENCE_MAX).await?;
    }
    rig.converge().await?;
    expect(over > 0, || "nothing went in place over something".into())
}

/// Damages one copy of some sectors that an operation wrote.
fn rot(rig: &Rig, operation: u64) {
    let holders = Vec::from_iter(holders_of(rig, operation));
    if holders.is_empty() {
        return;
    }
    let disk = rig.cluster.node(holders[rig.below(holders.len())]).disks()[0].clone();
    let written = disk.written_sectors();
    let its: Vec<u64> = written
        .into_iter()
        .filter(|at| is_of(&disk.peek(SectorRange::new(Lba(*at), 1)), operation))
        .collect();
    for _ in 0..40 {
        disk.flip_byte(its[rig.below(its.len())] * SECTOR_BYTES as u64 + 77, 4);
    }
}

/// A write is answered, or each sector is old or new, whatever one disk had of what was there.
async fn rotten(stage: Stage) -> Result<(), Failure> {
    let rig = primed(&stage).await?;
    for _ in 0..4 {
        let (range, operation) = kept(&rig).await?;
        rot(&rig, operation);
        slow_all(&rig, 100, 1500);
        let cut = async {
            rig.run_for(rig.between(0, 12)).await;
            rig.run_for(Duration::from_micros(rig.below(1000) as u64)).await;
            rig.forget_clients();
            rig.cluster.cut_all_power();
        };
        let _ = join(change(&rig, Change::Write, range), cut).await;
        set_latency(&rig, Latency::FAST);
        start_all(&rig);
        read_when_open(&rig).await?;
        // What is still rotten is found before the next one rots elsewhere.
        change(&rig, Change::Write, range).await?;
        rig.in_place(VOLUME).await?;
    }
    rig.converge().await
}

async fn one_leg(stage: Stage) -> Result<(), Failure> {
    let rig = any_mirror(&stage).await?;
    for _ in 0..3 {
        let (range, _) = kept(&rig).await?;
        lose_one_when_answered(&rig, range).await?;
    }
    expect(overwrites(&rig) > 0, || "nothing went in place over something".into())
}

/// A position that doesn't take it, or loses what it took in its cache: the contents are in the log or in place.
async fn refused(stage: Stage) -> Result<(), Failure> {
    let rig = any_mirror(&stage).await?;
    for _ in 0..3 {
        let (range, _) = kept(&rig).await?;
        let (node, how) = (rig.below(3), rig.below(6));
        slow_all(&rig, 100, 2000);
        let goes = async {
            rig.run_for(rig.between(0, 15)).await;
            match how {
                0 => rig.cluster.kill_node(node),
                1 => rig.cluster.cut_node_power(node, rig.cluster.any_survival()),
                2 => rig.cluster.cut_link(node, true),
                3 => {
                    rig.cluster.cut_node_power(node, rig.cluster.any_survival());
                    rig.run_for(rig.between(0, 400)).await;
                    rig.cluster.start_node(node);
                }
                4 => {
                    rig.cluster.node(node).disks()[0].fail_flushes(1);
                    rig.run_for(rig.between(0, 400)).await;
                    rig.cluster.kill_node(node);
                }
                _ => rig.cluster.node(node).disks()[0].stick_for(rig.between(1500, 6000)),
            }
        };
        let cuts = rig.below(2) == 0;
        let late = async {
            rig.run_for(rig.between(0, 2500)).await;
            lose_any_with(&rig, "while one is away", Survival::Arbitrary);
            if cuts {
                rig.forget_clients();
                rig.cluster.cut_all_power();
            }
        };
        let (written, (), ()) = join3(change(&rig, Change::Write, range), goes, late).await;
        if !cuts {
            written?;
        }
        lose_any(&rig, "without one machine");
        rig.cluster.heal();
        if how == 4 {
            // A disk that couldn't flush is out until it is opened anew.
            rig.cluster.kill_node(node);
        }
        start_all(&rig);
        read_when_open(&rig).await?;
    }
    rig.converge().await
}

/// Nothing that is right passes for wrong, whatever goes on at the same time.
async fn beside_all(stage: Stage) -> Result<(), Failure> {
    let rig = any_mirror(&stage).await?;
    write_everything(&rig).await?;
    let mut over = 0;
    for _ in 0..4 {
        let mix = Mix {
            large: 50,
            writes: 60,
            zeroes: 2,
            discards: 3,
            depth: 1 + rig.below(4) as u32,
            think: Duration::from_millis(20),
            ..Mix::default()
        };
        rig.load(mix).await?;
        for _ in 0..3 {
            rig.run_for(rig.between(20, 400)).await;
            nothing_is_bad(&rig).await?;
        }
        over += overwrites(&rig);
        let node = rig.below(3);
        match rig.below(5) {
            0 => rig.restart_supervisor(rig.between(0, 500)).await,
            1 => {
                power_cut(&rig);
            }
            2 => rig.cluster.cut_node_power(node, rig.cluster.any_survival()),
            3 => rig.cluster.kill_node(node),
            _ => rig.cluster.node(node).disks()[0].stick_for(rig.between(1, 3000)),
        }
        rig.run_for(rig.between(1, 3000)).await;
        lose_any(&rig, "after a fault");
        start_all(&rig);
        rig.run_for(rig.between(1, 1500)).await;
        nothing_is_bad(&rig).await?;
        lose_any(&rig, "after the return");
        rig.cluster.heal();
        rig.quiet(CONVERGENCE_MAX).await?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
    }
    rig.converge().await?;
    expect(over > 0, || "nothing went in place over something".into())
}

/// A verification is asked for, and at most so long later the scenario goes on.
pub(super) async fn verify_meanwhile(rig: &Rig, most: Duration) -> Result<(), Failure> {
    let verified = std::pin::pin!(nothing_is_bad(rig));
    match select(verified, std::pin::pin!(rig.run_for(most))).await {
        Either::Left((verified, rest)) => {
            rest.await;
            verified
        }
        // It waits for a volume that isn't served, and ends with the pool.
        Either::Right(_) => Ok(()),
    }
}

/// A verification in the middle of it finds nothing.
async fn nothing_is_bad(rig: &Rig) -> Result<(), Failure> {
    let verified =
        rig.with(|engine| async move { engine.verify_volume(POOL, VOLUME, None, &|_| ()).await });
    // Where the pool isn't open there is nothing to verify.
    let Ok(report) = verified.await else { return Ok(()) };
    expect(report.bad.is_empty(), || format!("nothing is wrong, and yet: {report:?}"))
}

async fn over_the_log(stage: Stage) -> Result<(), Failure> {
    let rig = any_mirror(&stage).await?;
    rig.record(VOLUME).oracle().expect_whole_blocks();
    for _ in 0..4 {
        let (range, _) = kept(&rig).await?;
        let some = BLOCK_SECTORS * (1 + rig.below(8) as u64);
        let at = range.start.0 + rig.below((range.count - some) as usize + 1) as u64;
        let at = at / BLOCK_SECTORS * BLOCK_SECTORS;
        change(&rig, Change::Write, SectorRange::new(Lba(at), some)).await?;
        slow_all(&rig, 100, 1500);
        // Now and then it is destaged just now: for a verification, whatever is written then.
        if rig.below(2) == 0 {
            let verified = async {
                rig.run_for(Duration::from_micros(rig.below(15_000) as u64)).await;
                nothing_is_bad(&rig).await
            };
            let (written, verified) = join(change(&rig, Change::Write, range), verified).await;
            verified.and(written)?;
            set_latency(&rig, Latency::FAST);
            rig.in_place(VOLUME).await?;
        } else {
            cut_while_written(&rig, range, 12).await?;
        }
        read_when_open(&rig).await?;
    }
    rig.converge().await
}

/// One position goes or hangs until it is evicted. While the log's disk hangs all is verified and destaged; and the
/// power goes while what was given up is on its way into the log.
async fn given_up(stage: Stage) -> Result<(), Failure> {
    match stage.world.seed() % 2 {
        0 => late_in_the_log(stage).await,
        _ => cut_when_given_up(stage).await,
    }
}

async fn cut_when_given_up(stage: Stage) -> Result<(), Failure> {
    let rig = primed(&stage).await?;
    for _ in 0..4 {
        let (range, operation) = kept(&rig).await?;
        let positions = Vec::from_iter(holders_of(&rig, operation));
        let victim = positions[rig.below(positions.len())];
        slow_all(&rig, 500, 2000);
        let hang = async {
            rig.run_for(Duration::from_micros(rig.below(20_000) as u64)).await;
            rig.cluster.node(victim).disks()[0].stick_for(Duration::from_millis(4000));
            rig.run_for(Duration::from_millis(1400)).await;
            rig.wait_out(victim, CONVERGENCE_MAX).await.map(drop)?;
            rig.run_for(Duration::from_micros(rig.below(60_000) as u64)).await;
            rig.forget_clients();
            rig.cluster.cut_all_power();
            Ok::<(), Failure>(())
        };
        let small = trickle(&rig, 400, SMALL as u64 * BLOCK_SECTORS, Duration::from_millis(3));
        let (_, hung, _) = join3(change(&rig, Change::Write, range), hang, small).await;
        rig.cluster.heal();
        start_all(&rig);
        // It may have been answered before anything hung: then nobody is out.
        let _ = hung;
        read_when_open(&rig).await?;
    }
    rig.converge().await
}

async fn late_in_the_log(stage: Stage) -> Result<(), Failure> {
    let rig = primed_with(&stage, Plan::simple(5, 64), 2).await?;
    for _ in 0..3 {
        let (range, positions) = apart_with(&rig, true).await?;
        let positions = Vec::from_iter(positions);
        if rig.below(2) == 0 {
            // A verification has nothing to destage first.
            rig.in_place(VOLUME).await?;
        }
        // One of them holds up what is appended, and the others are a majority.
        let log = machines_of_log(&rig).into_iter().nth(rig.below(2));
        slow_all(&rig, 500, 2000);
        let victim = positions[rig.below(positions.len())];
        let goes = async {
            rig.run_for(Duration::from_micros(rig.below(20_000) as u64)).await;
            rig.cluster.cut_node_power(victim, Survival::Arbitrary);
            // It is given up while the log hangs, which isn't given up for it.
            let hangs = async {
                rig.run_for(rig.between(800, 1450)).await;
                let held = rig.between(300, 1300);
                if let Some(node) = log {
                    rig.cluster.node(node).disks()[0].stick_for(held);
                }
            };
            // One that begins before waits for the group until then.
            let verified = async {
                for _ in 0..rig.below(5) {
                    rig.run_for(rig.between(10, 1400)).await;
                    nothing_is_bad(&rig).await?;
                }
                Ok::<(), Failure>(())
            };
            join(hangs, verified).await.1?;
            rig.run_for(rig.between(1, 1200)).await;
            lose_any_with(&rig, "while it is given up", Survival::Arbitrary);
            rig.forget_clients();
            rig.cluster.cut_all_power();
            Ok::<(), Failure>(())
        };
        let (_, gone) = join(change(&rig, Change::Write, range), goes).await;
        gone?;
        set_latency(&rig, Latency::FAST);
        rig.cluster.heal();
        start_all(&rig);
        read_when_open(&rig).await?;
    }
    rig.converge().await
}

/// What one has that was answered counts, whatever another one has: also for who brings that one up to date while
/// nobody has read the log yet.
async fn older_leg(stage: Stage) -> Result<(), Failure> {
    let rig = primed_with(&stage, Plan::simple(5, 64), 2).await?;
    let (range, positions) = apart_with(&rig, true).await?;
    let older = Vec::from_iter(positions.iter().copied())[rig.below(2)];
    let disk = rig.cluster.node(older).disks()[0].clone();
    let image = disk.snapshot();
    if rig.below(3) > 0 {
        // What it takes afterwards shows that it is older.
        change(&rig, Change::Write, SectorRange::new(range.start, BLOCK_SECTORS)).await?;
        rig.in_place(VOLUME).await?;
        trickle(&rig, 1, BLOCK_SECTORS, Duration::ZERO).await?;
    }
    change(&rig, Change::Write, range).await?;
    rig.run_for(rig.between(0, 400)).await;
    let log = machines_of_log(&rig);
    rig.forget_clients();
    rig.cluster.cut_all_power();
    disk.roll_back(image);
    if rig.below(3) > 0 && log.is_disjoint(&positions) {
        (0..5).filter(|node| !log.contains(node)).for_each(|node| rig.cluster.start_node(node));
        rig.cluster.start_supervisor(rig.active());
        verify_meanwhile(&rig, rig.between(1, 20_000)).await?;
    }
    start_all(&rig);
    rig.open_within(VOLUME, OPENING_MAX).await?;
    read_all(&rig).await?;
    rig.converge().await
}

/// What a deposed owner still has on its way counts nowhere.
async fn deposed(stage: Stage) -> Result<(), Failure> {
    let plan = Plan { supervisors: 2, ..Plan::simple(3, 64) };
    let rig = primed_with(&stage, plan, 2).await?;
    write_everything(&rig).await?;
    let mix = Mix {
        large: 70,
        writes: 70,
        zeroes: 0,
        discards: 1,
        think: Duration::from_millis(10),
        ..Mix::default()
    };
    rig.load(mix).await?;
    rig.run_for(rig.between(30, 600)).await;
    let first = rig.cluster.supervisor(0).process();
    let steps = rig.below(300) as u32;
    match rig.below(4) {
        0 => first.iter().for_each(|process| process.pause()),
        1 => first.iter().for_each(|process| process.pause_in_turn(steps)),
        2 => rig.cluster.supervisor(0).station().set_cut(true, true),
        // It still sends and hears nothing: what it began goes on.
        _ => rig.cluster.supervisor(0).station().set_cut(false, true),
    }
    rig.run_for(rig.between(1, 4000)).await;
    take_over(&rig, mix).await?;
    rig.converge().await
}
