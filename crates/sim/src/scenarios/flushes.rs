//! Writes that were answered and aren't stable: restarts between write and flush, flushes that fail,
//! errors whose answer is lost, disks that lie.

use std::time::Duration;

use futures::FutureExt;

use pool::DiskState;

use super::common::{Rig, disk_of, expect};
use super::scenario;
use crate::medium::Survival;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "restart-before-flush",
        "a node loses power between write and flush and is back at once: what was lost is redone",
        300,
        |stage| restart_before_flush(stage).boxed_local(),
    ),
    scenario(
        "flush-fails",
        "flushes of a disk fail: it is out until reopened, nothing acknowledged is lost",
        300,
        |stage| async move { flush_fails(stage, false).await }.boxed_local(),
    ),
    scenario(
        "flush-error-lost",
        "a flush fails and the answer is lost on the way: the repetition doesn't say all is well",
        300,
        |stage| async move { flush_fails(stage, true).await }.boxed_local(),
    ),
    scenario(
        "lying-flush",
        "one disk answers flushes without flushing and loses power: the other copies have it all",
        300,
        |stage| lying_flush(stage).boxed_local(),
    ),
];

async fn restart_before_flush(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix { think: Duration::from_millis(15), ..Mix::default() }).await?;
    for _ in 0..6 {
        rig.run_for(rig.between(20, 1200)).await;
        let victim = rig.below(3);
        rig.cluster.cut_node_power(victim, Survival::None);
        rig.run_for(rig.between(0, 300)).await;
        rig.cluster.start_node(victim);
        rig.run_for(rig.between(100, 3000)).await;
        if rig.below(3) == 0 {
            rig.restart_supervisor(rig.between(0, 200)).await;
            rig.load(Mix::default()).await?;
        }
    }
    rig.converge().await
}

async fn flush_fails(stage: Stage, answer_lost: bool) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix { think: Duration::from_millis(15), ..Mix::default() }).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let victim = rig.below(3);
    let node = rig.cluster.node(victim);
    let disk = node.disks()[0].clone();
    disk.fail_flushes(1 + rig.below(3) as u32);
    if answer_lost {
        node.station().set_cut(true, false);
        rig.run_for(rig.between(20, 900)).await;
        node.station().set_cut(false, false);
    }
    let time = rig.between(1000, 5000);
    match answer_lost {
        // The engine need not have heard of it; the target knows.
        true => rig.run_for(time).await,
        false => stays_out(&rig, victim, time).await?,
    }
    if rig.below(2) == 0 {
        rig.restart_supervisor(rig.between(1, 500)).await;
        rig.load(Mix::default()).await?;
        rig.run_for(rig.between(100, 1000)).await;
    }
    // Reopening the medium is what an administrator does by starting the node anew.
    rig.cluster.kill_node(victim);
    disk.heal();
    rig.cluster.start_node(victim);
    rig.converge().await
}

/// A disk that lost what it had answered is asked no more until its medium is opened anew: the next
/// flush would say that all is well.
async fn stays_out(rig: &Rig, node: usize, time: Duration) -> Result<(), Failure> {
    let end = rig.cluster.world().timeline().now() + time;
    let name = disk_of(node);
    let mut was_out = false;
    while rig.cluster.world().timeline().now() < end {
        let report = rig.report();
        let disk = report.iter().flat_map(|report| &report.disks).find(|disk| disk.name == name);
        if let Some(disk) = disk {
            let is_out = disk.state != DiskState::Usable;
            expect(is_out || !was_out, || format!("{name} takes part again after a flush failed"))?;
            was_out |= is_out;
        }
        rig.run_for(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn lying_flush(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix { think: Duration::from_millis(15), ..Mix::default() }).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let victim = rig.below(3);
    let disk = rig.cluster.node(victim).disks()[0].clone();
    disk.set_lying(true);
    rig.run_for(rig.between(1000, 4000)).await;
    rig.cluster.cut_node_power(victim, Survival::None);
    disk.set_lying(false);
    rig.run_for(rig.between(0, 3000)).await;
    rig.cluster.start_node(victim);
    rig.run_for(rig.between(500, 2000)).await;
    rig.converge().await
}
