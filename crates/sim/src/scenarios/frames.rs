//! Frames that are lost, doubled, reordered, damaged, or minutes late.

use std::time::Duration;

use futures::FutureExt;
use pool::metadata::Layout;

use super::common::{Rig, VOLUME, expect};
use super::scenario;
use crate::cluster::Plan;
use crate::network::Quality;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "bad-cables",
        "loss, duplication, reordering and damage on all cables: slower, never wrong, nobody out for good",
        300,
        |stage| bad_cables(stage).boxed_local(),
    ),
    scenario(
        "late-frames",
        "single frames arrive minutes late, across restarts of nodes and of the supervisor: void",
        900,
        |stage| late_frames(stage).boxed_local(),
    ),
    scenario(
        "small-frames",
        "MTU 1500 on lossy cables: a block takes several frames",
        300,
        |stage| small_frames(stage).boxed_local(),
    ),
];

fn set_all(rig: &Rig, quality: Quality) {
    for number in 0..rig.cluster.node_count() {
        rig.cluster.node(number).station().set_quality(quality);
    }
    for number in 0..rig.cluster.supervisor_count() {
        rig.cluster.supervisor(number).station().set_quality(quality);
    }
}

async fn bad_cables(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix { think: Duration::from_millis(60), ..Mix::default() }).await?;
    set_all(&rig, Quality { stragglers: 0.0, ..Quality::BAD });
    let before = rig.record(VOLUME).answers();
    rig.run_for(Duration::from_secs(15)).await;
    let answers = rig.record(VOLUME).answers() - before;
    expect(answers > 100, || format!("only {answers} answers in 15 s over bad cables"))?;
    rig.converge().await
}

async fn late_frames(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let mix = Mix { depth: 2, think: Duration::from_millis(150), ..Mix::default() };
    rig.load(mix).await?;
    set_all(&rig, Quality { stragglers: 0.03, duplication: 0.02, ..Quality::GOOD });
    for _ in 0..4 {
        rig.run_for(rig.between(2000, 12_000)).await;
        let victim = rig.below(3);
        rig.cluster.kill_node(victim);
        rig.run_for(rig.between(1, 3000)).await;
        rig.cluster.start_node(victim);
        if rig.below(2) == 0 {
            rig.restart_supervisor(rig.between(1, 3000)).await;
            rig.load(mix).await?;
        }
    }
    set_all(&rig, Quality::GOOD);
    // The last of them arrive in this time.
    rig.run_for(Duration::from_secs(200)).await;
    rig.converge().await
}

async fn small_frames(stage: Stage) -> Result<(), Failure> {
    let plan = Plan { mtu_bytes: 1500, ..Plan::simple(3, 32) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    set_all(&rig, Quality { loss: 0.005, ..Quality::GOOD });
    rig.load(Mix { think: Duration::from_millis(60), ..Mix::default() }).await?;
    rig.run_for(rig.between(1000, 3000)).await;
    rig.restart_supervisor(rig.between(1, 500)).await;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(100, 1000)).await;
    rig.converge().await
}
