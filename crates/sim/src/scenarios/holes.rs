//! What isn't mended yet, each hole by a scenario that fails. `sim --known-holes` runs them; whoever
//! mends one moves its scenario to the others and takes it off the list in docs/failure-model.md.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, Rig, VOLUME};
use super::losses::{disks_of, status, trickle};
use crate::cluster::Plan;
use crate::fork::{Judgement, Loss, Owner};
use crate::medium::Survival;
use crate::runner::{Expected, Failure, Scenario, Stage};
use crate::workload::Mix;

/// What a fork's failure says of itself.
const BY_FORK: &str = "in the fork at";

pub const SCENARIOS: &[Scenario] = &[hole(
    "rolled-back-metadata",
    "a node restarts quickly with an older disk; later its metadata copy is the only current one \
         in sight: the old maps aren't adopted",
    ("1.6", BY_FORK),
    |stage| rolled_back_metadata(stage).boxed_local(),
)];

const fn hole(
    name: &'static str,
    about: &'static str,
    (finding, shown_by): (&'static str, &'static str),
    body: crate::runner::Body,
) -> Scenario {
    let expected = Expected::Failing { finding, shown_by };
    Scenario { name, about, limit: Duration::from_secs(400), body, expected }
}

/// Finding 1.6: the rollback is noticed and the data caught up, but a metadata copy that is current
/// and there is left as it is: new entries follow a hole, behind which they are never found.
async fn rolled_back_metadata(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(3, 32), &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let victim = rig.below(3);
    let disk = Rc::clone(&rig.cluster.node(victim).disks()[0]);
    let image = disk.snapshot();
    rig.run_for(rig.between(1500, 3000)).await;
    rig.create_volume("later", 1 << 20, Layout::Mirror(2)).await?;
    rig.cluster.kill_node(victim);
    disk.roll_back(image);
    rig.cluster.start_node(victim);
    rig.run_for(rig.between(500, 1500)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    trickle(&rig, 3, 4096, Duration::ZERO).await?;
    let second = (victim + 1 + rig.below(2)) % 3;
    rig.cluster.kill_node(second);
    trickle(&rig, 3, 4096, Duration::ZERO).await?;
    rig.wait_out(second, Duration::from_secs(10)).await?;
    // Of the two copies that are current one is away: what is left must not pass for everything.
    let third = 3 - victim - second;
    rig.fork(Loss {
        what: format!("only a copy that was rolled back; status: {}", status(&rig)),
        lost: BTreeSet::new(),
        away: disks_of(&rig, third),
        survival: Some(Survival::None),
        owners: vec![Owner::Same],
        judgement: Judgement::RightOrNamed,
    });
    Ok(())
}
