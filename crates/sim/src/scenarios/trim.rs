//! What is freed or discarded is discarded on the disks, which may hold anything there then; and it is never anything
//! else.

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use pool::engine::PoolSettings;
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, disk_of, expect};
use super::in_place::{change, large};
use super::losses::{FAULTS, lose_any, one_fault, start_all, trickle};
use super::scenario;
use crate::cluster::Plan;
use crate::disk::Latency;
use crate::network::Quality;
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "trim",
        "much is discarded and written again, volumes come and go and groups move, while disks are told to forget \
         it, and machines, processes, cables and the power come and go",
        900,
        |stage| trim(stage).boxed_local(),
    ),
    scenario(
        "trim-hanging",
        "a disk takes long to forget something: nobody waits longer for that than for a disk of which a write hangs",
        400,
        |stage| hanging(stage).boxed_local(),
    ),
];

const OTHER: &str = "w";
const OTHER_BYTES: u64 = 2 << 20;
const VOLUME_BYTES: u64 = 4 << 20;
const PIECE_BYTES: u64 = 512 << 10;

async fn start(stage: &Stage, nodes: usize, trim_after: Duration) -> Result<Rc<Rig>, Failure> {
    let plan = Plan { trim_after: Some(trim_after), ..Plan::simple(nodes, 40) };
    let extent_bytes = stage.world.seed() % 2 * (768 << 10) + (256 << 10);
    let plan = Plan { extent_bytes, ..plan };
    let rig = Rig::start(stage, plan, &[(VOLUME, VOLUME_BYTES, Layout::Mirror(2))]).await?;
    trickle(&rig, 1, BLOCK_SECTORS, Duration::ZERO).await?;
    rig.in_place(VOLUME).await?;
    Ok(rig)
}

fn discarded_bytes(rig: &Rig) -> u64 {
    rig.cluster.disks().iter().map(|(_, disk)| disk.counters().discarded_bytes).sum()
}

async fn trim(stage: Stage) -> Result<(), Failure> {
    let after = Duration::from_millis([0, 50, 400][stage.world.seed() as usize % 3]);
    let rig = start(&stage, 4, after).await?;
    let mix = Mix {
        depth: 6,
        large: 50,
        writes: 50,
        zeroes: 5,
        discards: 30,
        think: Duration::from_millis(15),
        ..Mix::default()
    };
    for round in 0..4 {
        rig.load(mix).await?;
        rig.run_for(rig.between(20, 900)).await;
        let node = rig.below(4);
        let pause = rig.between(1, 3000);
        let fault = rig.below(FAULTS + 3);
        let station = |node| rig.cluster.node(node).station().clone();
        match fault.checked_sub(FAULTS) {
            None => one_fault(&rig, fault, node, pause).await,
            Some(0) => (0..4).for_each(|node| station(node).set_quality(Quality::BAD)),
            Some(1) => {
                rig.empty(&disk_of(node), None).await?;
                rig.run_for(pause).await;
            }
            Some(_) => rig.run_for(pause).await,
        }
        lose_any(&rig, "after a fault");
        start_all(&rig);
        rig.run_for(rig.between(1, 1500)).await;
        rig.cluster.heal();
        rig.quiet(CONVERGENCE_MAX).await?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
        for node in 0..4 {
            rig.cluster.node(node).disks()[0].set_latency(Latency::FAST);
            rig.cluster.node(node).station().set_quality(Quality::GOOD);
        }
        rig.cancel_jobs().await?;
        // What was given up is another one's soon.
        if rig.volumes().len() > 1 {
            rig.remove_volume(OTHER).await?;
        }
        rig.run_for(rig.between(0, 600)).await;
        if round < 3 {
            let layout = [Layout::Mirror(2), Layout::Raid0][rig.below(2)];
            rig.create_volume(OTHER, OTHER_BYTES, layout).await?;
        }
        lose_any(&rig, "after the return");
    }
    rig.converge().await?;
    // A disk that was stuck with a discard is left alone for a while by whoever saw that.
    rig.restart_supervisor(Duration::ZERO).await;
    rig.converge().await?;
    is_forgotten(&rig, after).await
}

/// What is freed and what is discarded now reaches the disks; and doesn't, where that is switched off.
async fn is_forgotten(rig: &Rc<Rig>, after: Duration) -> Result<(), Failure> {
    let settled = after + Duration::from_secs(3);
    for on in [true, false] {
        rig.run_for(settled).await;
        let settings = PoolSettings { trim: Some(on), ..PoolSettings::default() };
        rig.with(|engine| async move { engine.set_pool(POOL, &settings).await }).await?;
        let before = discarded_bytes(rig);
        for what in [Change::Write, Change::Discard] {
            for first in (0..VOLUME_BYTES).step_by(PIECE_BYTES as usize) {
                let [first, count] = [first, PIECE_BYTES].map(|bytes| bytes / SECTOR_BYTES as u64);
                change(rig, what, SectorRange::new(Lba(first), count)).await?;
            }
        }
        rig.in_place(VOLUME).await?;
        rig.run_for(settled).await;
        let rows = discarded_bytes(rig) - before;
        let is_so = if on { rows >= VOLUME_BYTES } else { rows == 0 };
        expect(is_so, || format!("{rows} bytes of rows were discarded, switched on: {on}"))?;
        let before = discarded_bytes(rig);
        if rig.volumes().len() == 1 {
            rig.create_volume(OTHER, OTHER_BYTES, Layout::Mirror(2)).await?;
        }
        rig.remove_volume(OTHER).await?;
        rig.run_for(settled).await;
        let freed = discarded_bytes(rig) - before;
        // A rebalance may have taken some at once.
        let is_so = on == (freed > 0);
        expect(is_so, || format!("{freed} bytes of extents were discarded, switched on: {on}"))?;
    }
    rig.verify_all().await
}

/// A discard that isn't answered ends in what any request ends in.
async fn hanging(stage: Stage) -> Result<(), Failure> {
    let rig = start(&stage, 3, Duration::from_millis(100)).await?;
    let range = large(&rig);
    change(&rig, Change::Write, range).await?;
    let disk = rig.cluster.node(rig.below(3)).disks()[0].clone();
    disk.stick_discards_for(Duration::from_secs(12));
    change(&rig, Change::Discard, range).await?;
    rig.in_place(VOLUME).await?;
    rig.run_for(Duration::from_secs(1)).await;
    rig.load(Mix { span_sectors: range.start.0.max(64), ..Mix::BUSY }).await?;
    rig.run_for(rig.between(500, 4000)).await;
    // It answers a probe once.
    rig.quiet(Duration::from_secs(4)).await?;
    rig.run_for(Duration::from_secs(8)).await;
    rig.converge().await
}
