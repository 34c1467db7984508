//! Machines in racks, by labels that join their failure domains (docs/engine.md, 18): a whole rack is lost for good,
//! and labels change while the pool is used.

use std::collections::BTreeSet;
use std::rc::Rc;

use futures::FutureExt;
use pool::engine::{CreatePool, ExtendPool};
use pool::metadata::{DomainLabel, Layout};
use pool::{LabelDisks, PoolReport};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, disk_of, expect};
use super::jobs::{disturb, disturb_some};
use super::losses::{disks_of, lose_disks};
use super::scenario;
use crate::claim::Place;
use crate::cluster::{Cluster, Plan};
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "racks",
        "machines stand in racks, and change them while the pool is used; a rebalance moves copies apart, and at any \
         moment at which status says so a whole rack is lost for good",
        900,
        |stage| racks(stage).boxed_local(),
    ),
    scenario(
        "rack-lost-in-rebalance",
        "labels change, and while copies move apart a rack loses its power; in forks it never comes back, and another \
         owner opens the pool with what is left",
        900,
        |stage| lost_in_rebalance(stage).boxed_local(),
    ),
    scenario(
        "batches",
        "disks of several machines, each of which may fail by itself, are of purchases; all of a purchase are lost \
         for good",
        600,
        |stage| batches(stage).boxed_local(),
    ),
];

/// Which disks are in which rack, by its number; the rest is in none.
type Racks = Vec<BTreeSet<Place>>;

fn name_of((node, slot): Place) -> String {
    format!("e{}.{slot}", node + 1)
}

/// The labels that say so.
fn labels_of(kind: &str, racks: &Racks) -> Result<Vec<DomainLabel>, Failure> {
    let label = |(number, rack): (usize, &BTreeSet<Place>)| {
        let names: Vec<String> = rack.iter().map(|place| name_of(*place)).collect();
        let label = format!("{kind}={number}:{}", names.join(","));
        label.parse().map_err(|error| Failure(format!("{label}: {error}")))
    };
    racks.iter().enumerate().filter(|(_, rack)| !rack.is_empty()).map(label).collect()
}

/// Machines by luck in so many racks, about as many in each.
fn any_racks(rig: &Rig, machines: usize, count: usize) -> Racks {
    let mut left: Vec<usize> = (0..machines).collect();
    let mut racks = vec![BTreeSet::new(); count];
    let first = rig.below(count);
    for turn in 0..machines {
        let node = left.swap_remove(rig.below(left.len()));
        racks[(first + turn) % count].extend(disks_of(rig, node));
    }
    racks
}

fn survives_one(report: &PoolReport) -> bool {
    report.lease_ok && report.survives >= 1
}

/// In a fork all of a rack is destroyed, if status says that everything survives that.
fn lose_a_rack(rig: &Rig, racks: &Racks, what: &str) {
    if rig.report().is_some_and(|report| survives_one(&report)) {
        let rack = racks[rig.below(racks.len())].clone();
        lose_disks(rig, rack, what, rig.cluster.any_survival());
    }
}

impl Rig {
    async fn label(&self, kind: &str, racks: &Racks) -> Result<(), Failure> {
        let request = LabelDisks { labels: labels_of(kind, racks)?, dry_run: false };
        self.with(|engine| async move { engine.label_disks(POOL, &request).await }).await.map(drop)
    }

    async fn move_apart(&self) -> Result<(), Failure> {
        self.with(|engine| async move { engine.rebalance_pool(POOL, false).await }).await.map(drop)
    }

    /// A pool whose disks have these labels from the beginning on, with a volume under load.
    async fn in_racks(
        self: &Rc<Self>,
        kind: &str,
        racks: &Racks,
        witnesses: Vec<String>,
    ) -> Result<(), Failure> {
        let disks = racks.iter().flatten().map(|place| name_of(*place)).collect();
        let plan = self.cluster.plan().extent_bytes;
        let domains = labels_of(kind, racks)?;
        let request = CreatePool { witnesses, domains, ..self.pool_of(disks, Some(plan)) };
        self.with(|engine| async move { engine.create_pool(request).await }).await?;
        let copies = 2 + u8::from(racks.len() > 2 && self.below(2) == 0);
        self.create_volume(VOLUME, 6 << 20, Layout::Mirror(copies)).await?;
        self.load(Mix::BUSY).await?;
        self.wait_until("a rack may go", survives_one).await
    }
}

/// Two racks of two or three machines each and one more machine that only votes, or three racks.
async fn any_pool(stage: &Stage) -> Result<(Rc<Rig>, Racks, usize), Failure> {
    let seed = stage.world.seed();
    let count = if seed.is_multiple_of(3) { 3 } else { 2 };
    let machines =
        count * 2 - usize::from(seed.is_multiple_of(2) && count == 3) + (seed % 2) as usize;
    let mut nodes = vec![vec![24 << 20]; machines];
    nodes.extend((count == 2).then(|| vec![12 << 20]));
    let plan = Plan { nodes, supervisors: 2, ..Plan::simple(machines, 24) };
    let rig = Rig::on(Cluster::start(stage, plan));
    rig.see_disks(rig.cluster.node_count()).await?;
    let racks = any_racks(&rig, machines, count);
    let witnesses = if count == 2 { vec![disk_of(machines)] } else { Vec::new() };
    // One of a rack that has others comes later, with its label.
    let mut at_first = racks.clone();
    let joins = (0..count).find(|rack| racks[*rack].len() > 1 && rig.below(2) == 0);
    let joins = joins.and_then(|rack| Some((rack, at_first[rack].pop_last()?)));
    rig.in_racks("rack", &at_first, witnesses).await?;
    if let Some((rack, place)) = joins {
        rig.run_for(rig.between(1, 1500)).await;
        let mut only = vec![BTreeSet::new(); count];
        only[rack].insert(place);
        let domains = labels_of("rack", &only)?;
        let added = ExtendPool { domains, ..ExtendPool::of(&[name_of(place)]) };
        rig.extend_by(added).await?;
        // What is new goes there too.
        rig.create_volume("later", 2 << 20, Layout::Mirror(2)).await?;
        lose_a_rack(&rig, &racks, "a machine came");
        rig.wait_until("a rack may go", survives_one).await?;
    }
    Ok((rig, racks, machines))
}

async fn racks(stage: Stage) -> Result<(), Failure> {
    let (rig, mut racks, machines) = any_pool(&stage).await?;
    for _ in 0..2 {
        lose_a_rack(&rig, &racks, "all is there");
        rig.run_for(rig.between(1, 1500)).await;
    }
    disturb_some(&rig, 2000, "in racks").await?;
    rig.cluster.heal();
    rig.wait_clean(CONVERGENCE_MAX).await?;
    lose_a_rack(&rig, &racks, "all is there again");
    for _ in 0..2 {
        racks = any_racks(&rig, machines, racks.len());
        // A log that nobody writes to has to move as well.
        let is_idle = rig.below(2) == 0;
        if is_idle {
            rig.quiet(CONVERGENCE_MAX).await?;
        }
        rig.label("rack", &racks).await?;
        for _ in 0..2 {
            lose_a_rack(&rig, &racks, "machines are in other racks");
            rig.run_for(rig.between(1, 2500)).await;
        }
        rig.move_apart().await?;
        for _ in 0..2 + rig.below(4) {
            rig.run_for(rig.between(1, 1000)).await;
            lose_a_rack(&rig, &racks, "while copies move apart");
            if !is_idle && rig.below(3) == 0 {
                disturb(&rig, Mix::BUSY).await?;
            }
        }
        rig.cluster.heal();
        rig.jobs_done(CONVERGENCE_MAX).await?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
        rig.wait_until("a rack may go", survives_one).await?;
        lose_a_rack(&rig, &racks, "copies are apart");
        if is_idle {
            rig.load(Mix::BUSY).await?;
        }
    }
    rig.converge().await?;
    lose_a_rack(&rig, &racks, "at rest");
    Ok(())
}

async fn lost_in_rebalance(stage: Stage) -> Result<(), Failure> {
    let (rig, racks, machines) = any_pool(&stage).await?;
    let racks = any_racks(&rig, machines, racks.len());
    rig.label("rack", &racks).await?;
    rig.move_apart().await?;
    rig.run_for(rig.between(1, 4000)).await;
    let gone = racks[rig.below(racks.len())].clone();
    let is_covered = rig.report().is_some_and(|report| survives_one(&report));
    lose_disks_if(&rig, is_covered, &gone, "its power is about to go");
    for (node, _) in &gone {
        rig.cluster.cut_node_power(*node, rig.cluster.any_survival());
    }
    rig.run_for(rig.between(1, 30_000)).await;
    if is_covered {
        if rig.below(2) == 0 {
            rig.restart_supervisor(rig.between(1, 2000)).await;
            rig.load(Mix::BUSY).await?;
        }
        let goes_on = |report: &PoolReport| {
            report.lease_ok && report.volumes.iter().all(|volume| volume.suspended().is_none())
        };
        rig.wait_until("the other racks go on", goes_on).await?;
        rig.run_for(rig.between(1, 3000)).await;
        lose_disks_if(&rig, true, &gone, "it doesn't come back");
    }
    for (node, _) in &gone {
        rig.cluster.start_node(*node);
    }
    rig.cluster.heal();
    rig.jobs_done(CONVERGENCE_MAX).await?;
    // Somebody may have given it up for lack of what was gone.
    rig.move_apart().await?;
    rig.jobs_done(CONVERGENCE_MAX).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.wait_until("a rack may go", survives_one).await?;
    lose_a_rack(&rig, &racks, "it is back");
    rig.converge().await
}

fn lose_disks_if(rig: &Rig, is_covered: bool, gone: &BTreeSet<Place>, what: &str) {
    if is_covered {
        lose_disks(rig, gone.clone(), what, rig.cluster.any_survival());
    }
}

/// Of each machine one disk is of one purchase and one of another, or any.
async fn batches(stage: Stage) -> Result<(), Failure> {
    let machines = 2 + (stage.world.seed() % 2) as usize;
    let nodes = vec![vec![16 << 20; 3]; machines];
    let failure_domain = pool::FailureDomain::Disk;
    let plan = Plan { nodes, supervisors: 2, failure_domain, ..Plan::simple(machines, 16) };
    let rig = Rig::on(Cluster::start(&stage, plan));
    let places: Vec<Place> =
        (0..machines).flat_map(|node| (0..3).map(move |slot| (node, slot))).collect();
    rig.see_disks(places.len()).await?;
    let any_batches = || {
        let mut batches = vec![BTreeSet::new(); 3];
        let by_slot = rig.below(2) == 0;
        for (turn, place) in places.iter().enumerate() {
            let batch = if by_slot { place.1 } else { turn / machines };
            batches[batch].insert(*place);
        }
        batches
    };
    let mut bought = any_batches();
    rig.in_racks("batch", &bought, Vec::new()).await?;
    for turn in 0..3 {
        rig.run_for(rig.between(1, 2000)).await;
        lose_a_rack(&rig, &bought, "of one purchase");
        if turn == 1 {
            bought = any_batches();
            rig.label("batch", &bought).await?;
            lose_a_rack(&rig, &bought, "it turned out otherwise");
            rig.move_apart().await?;
            rig.run_for(rig.between(1, 1500)).await;
            lose_a_rack(&rig, &bought, "while copies move apart");
            disturb(&rig, Mix::BUSY).await?;
            rig.cluster.heal();
            rig.jobs_done(CONVERGENCE_MAX).await?;
            rig.wait_clean(CONVERGENCE_MAX).await?;
            rig.wait_until("a purchase may go", survives_one).await?;
        }
    }
    rig.converge().await?;
    expect(rig.report().is_some_and(|report| report.survives >= 1), || "at rest".into())?;
    lose_a_rack(&rig, &bought, "at rest");
    Ok(())
}
