//! A whole machine that is lost for good, and the trickle of writes that shows it.

use std::collections::BTreeSet;
use std::time::Duration;

use block::{BLOCK_SECTORS, Lba, SectorRange};

use super::common::{Rig, VOLUME};
use crate::claim::Place;
use crate::disk::Latency;
use crate::fork::{Judgement, Loss, Owner};
use crate::medium::Survival;
use crate::oracle::Change;
use crate::runner::Failure;

/// Every disk of a node.
pub fn disks_of(rig: &Rig, node: usize) -> BTreeSet<Place> {
    (0..rig.cluster.node(node).disks().len()).map(|slot| (node, slot)).collect()
}

/// In a fork, `node` is destroyed with all its disks and everything else comes back after a power
/// cut: all is readable, by the same and by a new owner.
pub fn lose_node(rig: &Rig, node: usize, what: &str, survival: Survival) {
    lose_disks(rig, disks_of(rig, node), what, survival);
}

/// The same where these disks are destroyed.
pub fn lose_disks(rig: &Rig, lost: BTreeSet<Place>, what: &str, survival: Survival) {
    rig.fork(Loss {
        what: format!("{what}; status: {}", status(rig)),
        lost,
        away: BTreeSet::new(),
        survival: Some(survival),
        owners: match rig.below(2) {
            0 => vec![Owner::Same, Owner::New],
            _ => vec![Owner::New, Owner::Same],
        },
        judgement: Judgement::Readable,
    });
}

/// All power goes, and is back at once.
pub fn power_cut(rig: &Rig) {
    rig.forget_clients();
    rig.cluster.cut_all_power();
    start_all(rig);
}

/// Kinds of [`one_fault`].
pub const FAULTS: usize = 7;

/// Something goes wrong with the supervisor, everything, or a node: for so long, or until somebody mends it.
pub async fn one_fault(rig: &Rig, fault: usize, node: usize, pause: Duration) {
    let cluster = &rig.cluster;
    match fault {
        0 => rig.restart_supervisor(rig.between(0, 500)).await,
        1 => power_cut(rig),
        2 => {
            cluster.cut_node_power(node, cluster.any_survival());
            rig.run_for(pause).await;
        }
        3 => {
            cluster.kill_node(node);
            rig.run_for(pause).await;
        }
        4 => cluster.node(node).disks()[0].stick_for(pause),
        5 => {
            cluster.cut_link(node, true);
            rig.run_for(pause).await;
            cluster.cut_link(node, false);
        }
        _ => cluster.node(node).disks()[0].set_latency(Latency::SLOW),
    }
}

/// Starts whatever doesn't run.
pub fn start_all(rig: &Rig) {
    (0..rig.cluster.node_count()).for_each(|number| rig.cluster.start_node(number));
    rig.cluster.start_supervisor(rig.active());
}

pub fn status(rig: &Rig) -> String {
    rig.report()
        .map_or("none".into(), |report| format!("{:?}, survives {}", report.state, report.survives))
}

/// Writes `count` whole blocks one after the other, somewhere below sector `span`.
pub async fn trickle(rig: &Rig, count: usize, span: u64, pause: Duration) -> Result<(), Failure> {
    for _ in 0..count {
        let at = rig.below((span / BLOCK_SECTORS) as usize) as u64 * BLOCK_SECTORS;
        let range = SectorRange::new(Lba(at), BLOCK_SECTORS);
        rig.on_volume(
            VOLUME,
            move |watched| async move { watched.change(Change::Write, range).await },
        )
        .await??;
        rig.run_for(pause).await;
    }
    Ok(())
}

/// One of three machines, if status says that everything survives that.
pub(super) fn lose_any(rig: &Rig, what: &str) {
    lose_any_with(rig, what, Survival::None);
}

pub(super) fn lose_any_with(rig: &Rig, what: &str, survival: Survival) {
    if rig.report().is_some_and(|report| report.lease_ok && report.survives >= 1) {
        lose_node(rig, rig.below(3), what, survival);
    }
}
