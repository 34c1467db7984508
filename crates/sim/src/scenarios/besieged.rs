//! A whole pool beside somebody on its segment, over crashes, cut power and takeovers: all that he heard, changes and forges
//! ([`Attacker`]) takes nothing from its clients and changes nothing of theirs.

use futures::FutureExt;
use pool::metadata::Layout;

use super::attacker::Attacker;
use super::common::{CONVERGENCE_MAX, Rig, VOLUME};
use super::jobs::disturb;
use super::notes::taken_over;
use super::scenario;
use crate::cluster::Plan;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[scenario(
    "besieged",
    "a pool with keys whose supervisors and machines crash and follow each other, beside somebody who hears all frames, \
     replays, changes and forges them",
    900,
    |stage| besieged(stage).boxed_local(),
)];

async fn besieged(stage: Stage) -> Result<(), Failure> {
    let plan = Plan { supervisors: 2, granted: true, demanding: true, ..Plan::simple(4, 32) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    let attacker = Attacker::sparing_plain(&stage, rig.cluster.network());
    rig.load(Mix::default()).await?;
    for _ in 0..3 + rig.below(3) {
        for _ in 0..rig.below(300) {
            attacker.act();
            rig.run_for(rig.between(0, 10)).await;
        }
        match rig.below(4) {
            0 => taken_over(&rig).await?,
            1 => disturb(&rig, Mix::default()).await?,
            _ => {}
        }
        // He goes on while they find each other again.
        for _ in 0..rig.below(200) {
            attacker.act();
            rig.run_for(rig.between(0, 10)).await;
        }
        rig.wait_clean(CONVERGENCE_MAX).await?;
    }
    rig.converge().await
}
