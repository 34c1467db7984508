//! The right to answer, of an owner that doesn't know yet that the pool is another's.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_SECTORS, Lba, SectorRange};
use futures::FutureExt;
use futures::future::join;
use pool::engine::ImportOptions;
use pool::metadata::Layout;
use runtime::Handle;

use super::common::{POOL, Rig, VOLUME, expect};
use super::copies::copies_of_log;
use super::losses::trickle;
use super::scenario;
use crate::cluster::Plan;
use crate::network::Quality;
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Watched;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "cut-off-owner-reads",
        "an owner is cut off from its disks and not from its clients, and another one takes the pool: \
         nothing that it reads from memory is out of date",
        400,
        |stage| cut_off_owner_reads(stage).boxed_local(),
    ),
    scenario(
        "late-renewal",
        "an owner hears the answers to a renewal seconds late: its lease is no longer for that",
        400,
        |stage| late_renewal(stage).boxed_local(),
    ),
    scenario(
        "owner-of-a-minority",
        "an owner keeps the disks with the log and loses most of the votes: it acknowledges nothing once \
         another one has the pool",
        400,
        |stage| owner_of_a_minority(stage).boxed_local(),
    ),
];

/// Sectors that are written and read: few, so that what is read was overwritten.
const SPAN: u64 = 64;
/// How often the former owner is asked.
const ASKED_EVERY: Duration = Duration::from_millis(10);
/// Longer than any lease.
const LEASE_MAX: Duration = Duration::from_secs(16);

async fn two_supervisors(stage: &Stage, nodes: usize) -> Result<Rc<Rig>, Failure> {
    let plan = Plan { supervisors: 2, ..Plan::simple(nodes, 32) };
    let rig = Rig::start(stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.cluster.start_supervisor(1);
    rig.set_active(1);
    rig.see_disks(nodes).await?;
    rig.set_active(0);
    Ok(rig)
}

/// The second supervisor takes the pool from the first one, which lives.
async fn take_over(rig: &Rig) -> Result<(), Failure> {
    rig.set_active(1);
    rig.with(|engine| async move {
        let grace = Some(Duration::ZERO);
        let options = ImportOptions { force: true, grace, ..ImportOptions::default() };
        engine.import_pool(POOL, options).await
    })
    .await
    .map(drop)
}

/// Reads a block again and again, until that isn't answered any more.
async fn read_on(runtime: Handle, watched: Watched, start: u64) {
    while watched.read(SectorRange::new(Lba(start), BLOCK_SECTORS)).await.is_ok() {
        runtime.sleep(ASKED_EVERY).await;
    }
}

/// Clients of the first supervisor that ask for what was just written, and so is in its memory.
async fn ask_the_first(rig: &Rig) -> Result<(), Failure> {
    let watched = rig.open(VOLUME).await?;
    let first = rig.cluster.supervisor(0).process().ok_or(Failure("dead".into()))?;
    let runtime = first.handle().ok_or(Failure("dead".into()))?;
    // Who waits for another disk doesn't keep the others from being asked.
    for start in (0..SPAN).step_by(BLOCK_SECTORS as usize) {
        drop(first.run(read_on(runtime.clone(), watched.clone(), start)));
    }
    Ok(())
}

async fn overwrite(rig: &Rig) -> Result<(), Failure> {
    rig.on_volume(VOLUME, |watched| async move {
        for start in (0..SPAN).step_by(BLOCK_SECTORS as usize) {
            watched.change(Change::Write, SectorRange::new(Lba(start), BLOCK_SECTORS)).await?;
        }
        Ok::<(), block::IoError>(())
    })
    .await?
    .map_err(|error| Failure(format!("not written: {error}")))
}

/// The one that takes over waits until the other one's lease has run out for sure. When it was heard last the targets
/// may tell differently, or not know any more.
async fn cut_off_owner_reads(stage: Stage) -> Result<(), Failure> {
    let rig = two_supervisors(&stage, 3).await?;
    let (is_one_deaf, restart) = (rig.below(3) == 0, rig.below(3) == 0);
    let first = Rc::clone(rig.cluster.supervisor(0).station());
    if is_one_deaf {
        let deaf = rig.cluster.node(rig.below(3));
        rig.cluster.network().part(&first, deaf.station(), true);
        rig.run_for(rig.between(8_000, 12_000)).await;
    }
    overwrite(&rig).await?;
    // Before it is in place: afterwards reads go to the disks, which refuse them.
    rig.run_for(rig.between(0, 900)).await;
    first.set_cut(true, true);
    ask_the_first(&rig).await?;
    if restart {
        for node in 0..3 {
            rig.cluster.kill_node(node);
            rig.cluster.start_node(node);
        }
        rig.see_disks(3).await?;
    }
    rig.run_for(rig.between(0, 300)).await;
    if rig.below(3) == 0 {
        // It dies while it waits, and is no owner by that.
        let dies = async {
            rig.run_for(rig.between(0, 6000)).await;
            rig.cluster.kill_supervisor(1);
        };
        let (_, ()) = join(take_over(&rig), dies).await;
        rig.cluster.start_supervisor(1);
        rig.see_disks(3).await?;
    }
    take_over(&rig).await?;
    overwrite(&rig).await?;
    rig.run_for(LEASE_MAX).await;
    rig.cluster.kill_supervisor(0);
    rig.converge().await
}

/// Stopped after it sent a renewal, and cut off when the answers are there: so they are what it sees when
/// it goes on, and the last that it hears.
async fn late_renewal(stage: Stage) -> Result<(), Failure> {
    let rig = two_supervisors(&stage, 3).await?;
    let station = Rc::clone(rig.cluster.supervisor(0).station());
    let first = rig.cluster.supervisor(0).process().ok_or(Failure("dead".into()))?;
    // Answers are on their way for long, so that it is stopped before they are there.
    let far = Quality { delay: Duration::from_millis(100), ..Quality::GOOD };
    station.set_quality(far);
    let mut caught = false;
    for _ in 0..60 {
        overwrite(&rig).await?;
        // What came of the writes is over, and they aren't in place yet.
        rig.run_for(rig.between(350, 950)).await;
        first.pause();
        rig.run_for(Duration::from_millis(210)).await;
        caught = station.waiting() >= 3;
        if caught {
            break;
        }
        first.resume();
        rig.run_for(rig.between(0, 500)).await;
    }
    if !caught {
        return rig.converge().await;
    }
    station.set_cut(true, true);
    station.set_quality(Quality::GOOD);
    ask_the_first(&rig).await?;
    let stopped = rig.between(1000, 5300);
    let goes_on = async {
        rig.run_for(stopped).await;
        first.resume();
    };
    let (taken, ()) = join(take_over(&rig), goes_on).await;
    taken?;
    overwrite(&rig).await?;
    rig.run_for(LEASE_MAX).await;
    rig.cluster.kill_supervisor(0);
    rig.converge().await
}

/// What it writes is on all copies of the log, and none of the disks that it writes to refuses it. But
/// whoever has the majority may give up what is on the others, and then it was acknowledged for nothing.
async fn owner_of_a_minority(stage: Stage) -> Result<(), Failure> {
    let rig = two_supervisors(&stage, 5).await?;
    trickle(&rig, 1 + rig.below(4), SPAN, Duration::ZERO).await?;
    let (one, other) = copies_of_log(&rig)?;
    for node in 0..5 {
        let sees = usize::from([one, other].contains(&node));
        let blind = rig.cluster.supervisor(sees).station();
        rig.cluster.network().part(blind, rig.cluster.node(node).station(), true);
    }
    let watched = rig.open(VOLUME).await?;
    let first = rig.cluster.supervisor(0).process().ok_or(Failure("dead".into()))?;
    let runtime = first.handle().ok_or(Failure("dead".into()))?;
    let answers = Rc::new(Cell::new(0));
    let (count, pause) = (Rc::clone(&answers), rig.between(50, 400));
    drop(first.run(async move {
        loop {
            for start in (0..SPAN).step_by(BLOCK_SECTORS as usize) {
                let range = SectorRange::new(Lba(start), BLOCK_SECTORS);
                if watched.change(Change::Write, range).await.is_err() {
                    return;
                }
                count.set(count.get() + 1);
                runtime.sleep(pause).await;
            }
        }
    }));
    rig.run_for(rig.between(0, 300)).await;
    take_over(&rig).await?;
    let before = answers.get();
    rig.run_for(rig.between(1000, 6000)).await;
    let more = answers.get() - before;
    expect(more == 0, || format!("{more} writes were acknowledged by who isn't the owner"))?;
    rig.cluster.kill_supervisor(0);
    rig.converge().await
}
