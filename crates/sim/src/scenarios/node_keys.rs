//! Who has which disk, where machines prove who they are: a machine of the cluster that shows another one's disk isn't
//! believed, whether that one is there or not, and whoever opens the pool.

use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use pool::metadata::Layout;
use pool::{DiskState, PoolDisk, PoolError, PoolState};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, expect};
use super::metadata::{add_copy, move_disk};
use super::owners::import_of;
use super::scenario;
use crate::cluster::Plan;
use crate::medium::Survival;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[scenario(
    "impostors",
    "a machine of the cluster shows an older copy of another one's disk, with that one there or gone, over restarts and \
     takeovers, and isn't believed; a disk that was really moved is taken once somebody has said so",
    400,
    |stage| impostors(stage).boxed_local(),
)];

/// Says that disks which are elsewhere were moved; waits until there are so many, where the pool knows whose they were.
pub(super) async fn accept(rig: &Rig, disks: usize) -> Result<(), Failure> {
    if !rig.cluster.is_granted() || disks == 0 {
        return Ok(());
    }
    let begin = rig.cluster.world().timeline().now();
    loop {
        // An engine that has just begun has seen no disk.
        let moved = rig.with(|engine| async move {
            Ok::<_, PoolError>(engine.moved_disks(POOL).unwrap_or_default())
        });
        let moved = moved.await?;
        if moved.len() >= disks {
            return rig.with(|engine| async move { engine.accept_disks(POOL, &moved) }).await;
        }
        let took = rig.cluster.world().timeline().now().since(begin);
        expect(took < CONVERGENCE_MAX, || format!("{moved:?} are elsewhere, not {disks}"))?;
        rig.run_for(Duration::from_millis(500)).await;
    }
}

async fn impostors(stage: Stage) -> Result<(), Failure> {
    let plan = Plan { supervisors: 2, granted: true, ..Plan::simple(4, 32) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let victim = rig.below(4);
    let impostor = (victim + 1 + rig.below(3)) % 4;
    let disk = Rc::clone(&rig.cluster.node(victim).disks()[0]);
    let copy = rig.cluster.luck(|random| disk.remains(Survival::None, random));
    rig.run_for(rig.between(1, 3000)).await;
    // Before the copy is there or after, the machine that has the disk goes.
    let first = rig.below(2) == 0;
    if first {
        rig.cluster.kill_node(victim);
    }
    add_copy(&rig, &copy, impostor);
    rig.run_for(rig.between(1, 6000)).await;
    if !first {
        rig.cluster.kill_node(victim);
    }
    let mut active = 0;
    for _ in 0..1 + rig.below(3) {
        rig.run_for(rig.between(5000, 15_000)).await;
        is_not_used(&rig, victim)?;
        match rig.below(3) {
            0 => rig.restart_supervisor(rig.between(1, 3000)).await,
            1 => {
                rig.cluster.kill_supervisor(active);
                rig.forget_clients();
                active = 1 - active;
                rig.cluster.start_supervisor(active);
                // That machine is gone, and another one shows its disk.
                import_of(&rig, active, 4).await?;
                rig.load(Mix::default()).await?;
            }
            _ => {}
        }
    }
    rig.cluster.start_node(victim);
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.load(Mix::default()).await?;
    if rig.below(2) == 0 {
        rig.cluster.tell("the copy is taken away, and the disk goes there");
        rig.cluster.kill_node(impostor);
        rig.cluster.node(impostor).slots().borrow_mut().pop();
        move_disk(&rig, (victim, 0), impostor);
        rig.run_for(rig.between(3000, 9000)).await;
        is_not_used(&rig, victim)?;
        accept(&rig, 1).await?;
        // Until it is looked at again what was read of a device that is gone counts.
        rig.run_for(Duration::from_secs(40)).await;
        let moved = rig.with(|engine| async move { engine.moved_disks(POOL) }).await?;
        expect(moved.is_empty(), || format!("{moved:?} are still elsewhere"))?;
        let report = rig.report();
        let used = |disk: &PoolDisk| disk.state == DiskState::Usable;
        let all = report.as_ref().is_some_and(|report| report.disks.iter().all(used));
        expect(all, || format!("the disk that was moved isn't used: {report:#?}"))?;
        move_disk(&rig, (impostor, 1), victim);
        accept(&rig, 1).await?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
    } else {
        rig.cluster.kill_node(impostor);
        rig.cluster.node(impostor).slots().borrow_mut().pop();
        rig.cluster.start_node(impostor);
        rig.wait_clean(CONVERGENCE_MAX).await?;
    }
    rig.converge().await
}

/// The disk of a machine that is gone isn't used, whoever shows it.
fn is_not_used(rig: &Rig, victim: usize) -> Result<(), Failure> {
    let Some(report) = rig.report() else { return Ok(()) };
    if !matches!(report.state, PoolState::Online | PoolState::Degraded) {
        return Ok(());
    }
    let used = report.disks.iter().filter(|disk| disk.state == DiskState::Usable).count();
    expect(used <= 3, || format!("the disk of node {} is used: {report:#?}", victim + 1))
}
