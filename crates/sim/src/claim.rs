//! What status says of a pool at an instant, and what of it a loss may put to the test.
//!
//! "Survives one more failure" is a promise about machines that are whole. A machine that is cut off,
//! stopped or stuck is failing already, whether or not the engine has noticed: it takes its share of
//! what may fail, for as long as the engine may need to notice and to write down that it does without.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pool::{DiskState, Labels, PoolReport, PoolState};

use crate::cluster::Cluster;

/// A place for a disk: node and slot.
pub type Place = (usize, usize);

/// How long a failure that is over may still have consequences that status doesn't show: the engine's
/// patience with a write, with its probe, and the vote on doing without the disk.
const TROUBLE_LINGERS: Duration = Duration::from_millis(2500);

/// What status says.
#[derive(Clone, Debug)]
pub struct Claim {
    /// How many more machines may fail, each with what labels join it with.
    pub survives: u32,
    /// The pool's state, for people.
    pub state: String,
    /// Whether requests of some volume wait already, or will soon because a majority of votes is away.
    pub waits: bool,
    /// Nodes with a disk that takes part.
    pub there: BTreeSet<usize>,
    /// Disks that don't.
    pub absent: BTreeSet<Place>,
    /// Whether those may stay away while more is lost. A disk that is evicted may still vote, so that
    /// its vote is among those that status counts.
    pub absent_may_stay: bool,
    /// Nodes that take part and are failing, or were a moment ago.
    pub troubled: BTreeSet<usize>,
    /// The identities of disks, by place.
    pub ids: BTreeMap<Place, String>,
    /// The labels of those that have any.
    pub labels: BTreeMap<Place, Labels>,
}

impl Claim {
    /// What the engine of supervisor `number` says now; of a pool that isn't open, nothing, and a process
    /// that is stopped says nothing either.
    pub fn of(cluster: &Cluster, number: usize) -> Option<Claim> {
        let supervisor = cluster.supervisor(number);
        let engine = supervisor
            .engine()
            .filter(|_| supervisor.process().is_some_and(|process| !process.is_paused()))?;
        let report = engine.reports().into_iter().find(|report| report.lease_ok)?;
        let serves = matches!(
            report.state,
            PoolState::Online | PoolState::Degraded | PoolState::Suspended { .. }
        );
        serves.then(|| Claim::from_report(cluster, &report))
    }

    fn from_report(cluster: &Cluster, report: &PoolReport) -> Claim {
        let by_name: BTreeMap<String, Place> = (0..cluster.node_count())
            .flat_map(|number| {
                let node = cluster.node(number);
                let slots = 0..node.disks().len();
                slots.map(move |slot| (format!("e{}.{slot}", node.shelf()), (number, slot)))
            })
            .collect();
        let has_vote = |disk: &&pool::PoolDisk| disk.holds_vote && disk.state == DiskState::Usable;
        let votes_there = report.disks.iter().filter(has_vote).count();
        let majority = report.votes.total as usize / 2 + 1;
        let mut claim = Claim {
            survives: report.survives,
            state: format!("{:?}", report.state),
            waits: report.votes.present * 2 <= report.votes.total
                || report.volumes.iter().any(|volume| volume.suspended().is_some()),
            there: BTreeSet::new(),
            absent: BTreeSet::new(),
            absent_may_stay: votes_there >= majority + report.survives as usize,
            troubled: BTreeSet::new(),
            ids: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        for disk in &report.disks {
            let Some(place) = by_name.get(&disk.name).copied() else { continue };
            claim.ids.insert(place, disk.id.clone());
            if !disk.labels.is_empty() {
                claim.labels.insert(place, disk.labels.clone());
            }
            match disk.state {
                DiskState::Usable => drop(claim.there.insert(place.0)),
                _ => drop(claim.absent.insert(place)),
            }
        }
        let now = cluster.world().timeline().now();
        let is_troubled = |number: &usize| {
            let node = cluster.node(*number);
            let lately = node.last_troubled().is_some_and(|at| now.since(at) < TROUBLE_LINGERS);
            lately || cluster.is_in_trouble(&node)
        };
        claim.troubled = claim.there.iter().copied().filter(is_troubled).collect();
        claim
    }
}
