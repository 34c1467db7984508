//! Disks and machines that leave for good, and votes that move before them: whatever is lost, cut or back
//! meanwhile, who opens what is left finds the newest configuration, or says what he needs.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use pool::metadata::Layout;
use pool::{CreatePool, ExtendPool, PoolState};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, disk_of, expect};
use super::jobs::{disturb, disturb_some, lose_one_of};
use super::losses::{disks_of, lose_node, power_cut, status};
use super::operations::{base_of, write_some};
use super::scenario;
use crate::cluster::{Cluster, Plan};
use crate::fork::{Judgement, Loss, Owner};
use crate::medium::Survival;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "remove-disk",
        "a disk with a vote is removed under load, machines and processes go meanwhile; then it is added again",
        600,
        |stage| remove_disk(stage).boxed_local(),
    ),
    scenario(
        "one-after-the-other",
        "machines are lost for good one after the other, each is removed; of five two are left, then one comes",
        900,
        |stage| one_after_the_other(stage).boxed_local(),
    ),
    scenario(
        "votes-move",
        "most votes move at once; in forks only who had them is in sight, or only who has them now",
        600,
        |stage| votes_move(stage).boxed_local(),
    ),
    scenario(
        "votes-follow",
        "voters are gone for long, and others vote in their place; then as many more are lost",
        600,
        |stage| votes_follow(stage).boxed_local(),
    ),
    scenario(
        "votes-out-of-reach",
        "all who vote are out of reach for long, then the only other one goes; they come back, and do without it",
        600,
        |stage| votes_out_of_reach(stage).boxed_local(),
    ),
    scenario(
        "few-voters",
        "machines come to a pool of one to three, one leaves while another is away; the power goes as votes move",
        600,
        |stage| few_voters(stage).boxed_local(),
    ),
    scenario(
        "witness",
        "of two machines with data and a third that only votes one is lost for good, any; another takes its place",
        600,
        |stage| witness(stage).boxed_local(),
    ),
];

impl Rig {
    /// The machines whose disks vote.
    pub(super) fn voters(&self) -> BTreeSet<usize> {
        let report = self.report();
        let disks = report.iter().flat_map(|report| &report.disks).filter(|disk| disk.holds_vote);
        let nodes = 0..self.cluster.node_count();
        disks.filter_map(|disk| nodes.clone().find(|node| disk_of(*node) == disk.name)).collect()
    }

    pub(super) async fn wait_until(
        &self,
        what: &str,
        is_so: impl Fn(&pool::PoolReport) -> bool,
    ) -> Result<(), Failure> {
        let holds = || self.report().is_some_and(|report| is_so(&report));
        let waited = self.cluster.wait_for(what, CONVERGENCE_MAX, holds).await;
        waited
            .map(drop)
            .map_err(|failure| Failure(format!("{}\nlast report: {:#?}", failure.0, self.report())))
    }

    pub(super) async fn wait_removed(&self, disk: &str) -> Result<(), Failure> {
        self.wait_until("the disk is removed", |report| {
            report.jobs.is_empty() && report.disks.iter().all(|other| other.name != disk)
        })
        .await
    }

    async fn extend(&self, disk: &str) -> Result<(), Failure> {
        self.extend_by(ExtendPool::of(&[disk.to_owned()])).await
    }

    /// Adds a disk that was removed.
    pub(super) async fn extend_again(&self, disk: &str) -> Result<(), Failure> {
        if self.extend(disk).await.is_ok() {
            return Ok(());
        }
        // What was being wiped when the power went may still say what it was.
        let mut added = ExtendPool::of(&[disk.to_owned()]);
        added.force_disks = added.disks.clone();
        self.extend_by(added).await
    }

    pub(super) async fn extend_by(&self, added: ExtendPool) -> Result<(), Failure> {
        self.with(|engine| async move { engine.extend_pool(POOL, &added).await }).await.map(drop)
    }
}

async fn remove_disk(stage: Stage) -> Result<(), Failure> {
    let nodes = 4 + usize::from(stage.world.seed().is_multiple_of(2));
    let plan = Plan { supervisors: 2, ..Plan::simple(nodes, 32) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 6 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 3000)).await;
    let leaves = rig.below(nodes);
    let disk = disk_of(leaves);
    rig.remove(std::slice::from_ref(&disk)).await?;
    disturb_some(&rig, 3000, "while it is removed").await?;
    rig.cluster.heal();
    rig.wait_removed(&disk).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    lose_node(&rig, leaves, "its disk was removed", Survival::None);
    if rig.below(2) == 0 {
        rig.run_for(Duration::from_secs(10)).await;
        rig.extend_again(&disk).await?;
        rig.run_for(rig.between(1, 8000)).await;
        lose_one_of(&rig, nodes, "it is added again");
    }
    rig.converge().await?;
    lose_one_of(&rig, nodes, "at rest");
    Ok(())
}

async fn one_after_the_other(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(5, 32), &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::BUSY).await?;
    let mut left: Vec<usize> = (0..5).collect();
    while left.len() > 2 {
        rig.run_for(rig.between(500, 3000)).await;
        let lost = left.remove(rig.below(left.len()));
        rig.cluster.kill_node(lost);
        rig.wait_out(lost, Duration::from_secs(20)).await?;
        rig.remove(&[disk_of(lost)]).await?;
        if rig.below(3) == 0 {
            rig.run_for(rig.between(1, 1500)).await;
            rig.restart_supervisor(rig.between(1, 1000)).await;
            rig.load(Mix::BUSY).await?;
        }
        rig.wait_removed(&disk_of(lost)).await?;
        // As if that one had never been.
        let spare = u32::from(left.len() > 2);
        rig.wait_until("all is as it was", |report| {
            let whole = |volume: &pool::VolumeReport| !volume.degraded && volume.dirty_bytes == 0;
            report.state == PoolState::Online
                && report.survives >= spare
                && report.volumes.iter().all(whole)
        })
        .await?;
        let voters = rig.voters();
        expect(voters == left.iter().copied().collect(), || format!("{voters:?} vote"))?;
        let next = left[rig.below(left.len())];
        if spare > 0 {
            lose_node(&rig, next, &format!("{left:?} are left"), Survival::None);
        }
    }
    rig.on_volume(VOLUME, |watched| async move { watched.read_all().await }).await??;
    rig.cluster.add_node(&[32 << 20]);
    rig.run_for(Duration::from_secs(3)).await;
    rig.extend("e6.0").await?;
    rig.wait_until("three vote", |report| report.votes.present == 3 && report.survives >= 1)
        .await?;
    left.push(5);
    lose_node(&rig, left[rig.below(3)], "three vote", Survival::None);
    // Those that were removed come back: they are none of the pool's.
    rig.converge().await?;
    expect(rig.report().is_some_and(|report| report.disks.len() == 3), || {
        format!("a disk that was removed is in the pool: {:#?}", rig.report())
    })
}

/// In a fork, only the disks of these machines are left; nothing is quietly wrong.
fn leave_only(rig: &Rig, nodes: &BTreeSet<usize>, what: &str) {
    // Of disks that were removed nothing says any more that there was a pool.
    let report = rig.report();
    let mut disks = report.iter().flat_map(|report| &report.disks);
    if !disks.any(|disk| nodes.iter().any(|node| disk_of(*node) == disk.name)) {
        return;
    }
    let gone = (0..rig.cluster.node_count()).filter(|node| !nodes.contains(node));
    let lost = gone.flat_map(|node| disks_of(rig, node)).collect();
    rig.fork(Loss {
        what: format!("{what}; status: {}", status(rig)),
        lost,
        away: BTreeSet::new(),
        survival: Some(Survival::None),
        owners: vec![Owner::Same, Owner::New],
        judgement: Judgement::RightOrNamed,
    });
}

async fn votes_move(stage: Stage) -> Result<(), Failure> {
    let plan = Plan { supervisors: 2, ..Plan::simple(8, 24) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(3))]).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 2000)).await;
    let before = rig.voters();
    expect(before.len() == 5, || format!("{before:?} vote"))?;
    let leave: Vec<usize> = before.iter().copied().take(3).collect();
    let disks: Vec<String> = leave.iter().map(|node| disk_of(*node)).collect();
    rig.remove(&disks).await?;
    let mut is_quiet = true;
    for _ in 0..3 + rig.below(4) {
        rig.run_for(rig.between(1, 1500)).await;
        let survives = || rig.report().map_or(0, |report| report.survives);
        if is_quiet && survives() < 2 {
            // What a majority has accepted a moment ago reaches the other votes in the next one.
            rig.run_for(Duration::from_millis(100)).await;
        }
        let survives = survives();
        expect(!is_quiet || survives >= 2, || format!("nothing failed, and {survives} may go"))?;
        leave_only(&rig, &before, "only who voted at first is in sight");
        leave_only(
            &rig,
            &leave.iter().copied().collect(),
            "only who voted at first and leaves is in sight",
        );
        leave_only(&rig, &rig.voters(), "only who votes now is in sight");
        lose_one_of(&rig, 8, "votes move");
        if rig.below(3) == 0 {
            disturb(&rig, Mix::BUSY).await?;
            is_quiet = false;
        }
    }
    rig.cluster.heal();
    for disk in &disks {
        rig.wait_removed(disk).await?;
    }
    rig.wait_until("five vote", |report| report.votes.present == 5).await?;
    let after = rig.voters();
    expect(leave.iter().all(|node| !after.contains(node)), || format!("{after:?} vote"))?;
    rig.converge().await?;
    lose_one_of(&rig, 8, "at rest");
    Ok(())
}

async fn votes_follow(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(7, 24), &[(VOLUME, 4 << 20, Layout::Mirror(3))]).await?;
    rig.set_rebuild_delay(1 + rig.below(4) as u64).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 2000)).await;
    let voters: Vec<usize> = rig.voters().into_iter().collect();
    let first = rig.below(5);
    let gone = [voters[first], voters[(first + 1 + rig.below(4)) % 5]];
    for node in gone {
        rig.cluster.kill_node(node);
        rig.run_for(rig.between(1, 3000)).await;
    }
    let others = |report: &pool::PoolReport| {
        let votes = |disk: &pool::PoolDisk| disk.holds_vote;
        let names = gone.map(disk_of);
        let voters = report.disks.iter().filter(|disk| votes(disk));
        report.votes.present == 5 && voters.clone().all(|disk| !names.contains(&disk.name))
    };
    rig.wait_until("others vote", others).await?;
    rig.jobs_done(CONVERGENCE_MAX).await?;
    rig.wait_until("two more may go", |report| report.survives >= 2).await?;
    let there: Vec<usize> = (0..7).filter(|node| !gone.contains(node)).collect();
    let second = rig.below(5);
    let lost = [there[second], there[(second + 1 + rig.below(4)) % 5]];
    let lost = lost.iter().flat_map(|node| disks_of(&rig, *node)).collect();
    let away = gone.iter().flat_map(|node| disks_of(&rig, *node)).collect();
    rig.fork(Loss {
        what: format!("{gone:?} are away; status: {}", status(&rig)),
        lost,
        away,
        survival: Some(Survival::None),
        owners: vec![Owner::Same, Owner::New],
        judgement: Judgement::Readable,
    });
    rig.converge().await?;
    lose_one_of(&rig, 7, "at rest");
    Ok(())
}

async fn votes_out_of_reach(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(6, 24), &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.set_rebuild_delay(1 + rig.below(4) as u64).await?;
    rig.load(Mix::BUSY).await?;
    // One that voted before may vote again at once.
    let other = rig.voters().first().copied().unwrap_or(0);
    rig.cluster.kill_node(other);
    let others_vote = |report: &pool::PoolReport| {
        let votes = |disk: &pool::PoolDisk| disk.holds_vote && disk.name == disk_of(other);
        report.votes.present == 5 && !report.disks.iter().any(votes)
    };
    rig.wait_until("others vote", others_vote).await?;
    rig.cluster.start_node(other);
    rig.wait_clean(CONVERGENCE_MAX).await?;
    let voters = rig.voters();
    voters.iter().for_each(|node| rig.cluster.kill_node(*node));
    rig.run_for(rig.between(1, 20_000)).await;
    rig.cluster.kill_node(other);
    rig.run_for(rig.between(1, 3000)).await;
    let restarts = rig.below(2) == 0;
    if restarts && rig.below(2) == 0 {
        rig.restart_supervisor(rig.between(1, 1000)).await;
    }
    voters.iter().for_each(|node| rig.cluster.start_node(*node));
    let all_vote = |report: &pool::PoolReport| {
        report.lease_ok && (5, 5) == (report.votes.present, report.votes.total)
    };
    rig.wait_until("who votes goes on", all_vote).await?;
    if restarts {
        rig.restart_supervisor(rig.between(1, 2000)).await;
        rig.wait_until("the pool is opened again", all_vote).await?;
    }
    rig.load(Mix::BUSY).await?;
    rig.wait_out(other, Duration::from_secs(60)).await?;
    rig.converge().await
}

async fn few_voters(stage: Stage) -> Result<(), Failure> {
    let nodes = 5;
    let rig = Rig::on(Cluster::start(&stage, Plan::simple(nodes, 24)));
    rig.see_disks(nodes).await?;
    let mut members = 1 + rig.below(3);
    rig.create_pool((0..members).map(disk_of).collect()).await?;
    let layout = if members == 1 { Layout::Raid0 } else { Layout::Mirror(2) };
    rig.create_volume(VOLUME, 2 << 20, layout).await?;
    rig.load(Mix::BUSY).await?;
    while members < nodes {
        rig.run_for(rig.between(1, 3000)).await;
        // Of four or five votes one may be away.
        let away = (members >= 3 && rig.below(2) == 0).then(|| rig.below(members));
        if let Some(node) = away {
            rig.cluster.kill_node(node);
            rig.run_for(rig.between(1, 4000)).await;
        }
        rig.extend(&disk_of(members)).await?;
        members += 1;
        rig.run_for(rig.between(1, 2500)).await;
        power_cut(&rig);
        rig.load(Mix::BUSY).await?;
        let all = members as u32;
        rig.wait_until("all machines vote", |report| report.votes.present == all).await?;
    }
    rig.wait_clean(CONVERGENCE_MAX).await?;
    leave_while_one_is_away(&rig, nodes).await?;
    rig.converge().await
}

/// All leave but three; then one more while another is away, which lets nothing wait.
async fn leave_while_one_is_away(rig: &Rc<Rig>, nodes: usize) -> Result<(), Failure> {
    for node in 3..nodes {
        rig.remove(&[disk_of(node)]).await?;
        rig.wait_removed(&disk_of(node)).await?;
    }
    rig.wait_clean(CONVERGENCE_MAX).await?;
    let away = rig.below(3);
    let leaves = disk_of((away + 1 + rig.below(2)) % 3);
    rig.cluster.kill_node(away);
    rig.wait_out(away, CONVERGENCE_MAX).await?;
    // Of raid0 what was on the one that is away is waited for.
    if rig.remove(std::slice::from_ref(&leaves)).await.is_err() {
        rig.cluster.start_node(away);
        return Ok(());
    }
    rig.run_for(rig.between(1, 20_000)).await;
    let report = rig.report();
    expect(report.as_ref().is_some_and(|report| report.lease_ok), || format!("{report:#?}"))?;
    if rig.below(2) == 0 {
        rig.restart_supervisor(rig.between(1, 2000)).await;
        rig.load(Mix::BUSY).await?;
    }
    rig.cluster.start_node(away);
    rig.wait_removed(&leaves).await
}

/// The machine of the witness.
const WITNESS: usize = 2;

async fn witness(stage: Stage) -> Result<(), Failure> {
    let (data, small) = (vec![32 << 20], vec![12 << 20]);
    let nodes = vec![data.clone(), data.clone(), small.clone()];
    let plan = Plan { nodes, supervisors: 2, ..Plan::simple(3, 32) };
    let rig = Rig::on(Cluster::start(&stage, plan));
    rig.see_disks(3).await?;
    let joins_later = rig.below(2) == 0;
    let of = |is_now: bool| if is_now { vec![disk_of(WITNESS)] } else { Vec::new() };
    let extent_bytes = Some(rig.cluster.plan().extent_bytes);
    let disks = vec![disk_of(0), disk_of(1)];
    let request = CreatePool { witnesses: of(!joins_later), ..rig.pool_of(disks, extent_bytes) };
    rig.with(|engine| async move { engine.create_pool(request).await }).await?;
    rig.create_volume(VOLUME, 4 << 20, Layout::Mirror(2)).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(1, 2000)).await;
    if joins_later {
        rig.extend_by(ExtendPool { witnesses: of(true), ..ExtendPool::default() }).await?;
    }
    let is_whole = |report: &pool::PoolReport| {
        (report.votes.present, report.votes.total) == (3, 3) && report.survives == 1
    };
    rig.wait_until("any may go", is_whole).await?;
    for _ in 0..3 {
        lose_one_of(&rig, 3, "all three are there");
        rig.run_for(rig.between(1, 500)).await;
    }
    disturb_some(&rig, 2000, "while a witness votes").await?;
    rig.cluster.heal();
    rig.load(Mix::BUSY).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.wait_until("any may go", is_whole).await?;
    // One goes for good, and the two others go on: with all that was written, and able to change who votes.
    let gone = rig.below(3);
    rig.cluster.kill_node(gone);
    rig.run_for(rig.between(1, 40_000)).await;
    if rig.below(2) == 0 {
        rig.restart_supervisor(rig.between(1, 2000)).await;
        rig.load(Mix::BUSY).await?;
    }
    let is_witness = gone == WITNESS;
    let newcomer = rig.cluster.add_node(if is_witness { &small } else { &data });
    rig.run_for(Duration::from_secs(3)).await;
    rig.wait_until("it goes on", |report| report.lease_ok).await?;
    let disks = vec![disk_of(newcomer)];
    rig.extend_by(match is_witness {
        true => ExtendPool { witnesses: disks, ..ExtendPool::default() },
        false => ExtendPool::of(&disks),
    })
    .await?;
    rig.remove(&[disk_of(gone)]).await?;
    rig.wait_removed(&disk_of(gone)).await?;
    rig.wait_until("any may go again", is_whole).await?;
    rig.converge().await?;
    let there: Vec<usize> = (0..4).filter(|node| *node != gone).collect();
    let lost = there[rig.below(there.len())];
    lose_node(&rig, lost, "another one took its place", rig.cluster.any_survival());
    Ok(())
}

/// A pool of which a voter is about to be removed, and a machine has no vote yet.
pub(super) async fn to_be_removed(stage: Stage) -> Result<Rc<Rig>, Failure> {
    base_of(stage, Plan { supervisors: 2, ..Plan::simple(6, 24) }).await
}

pub(super) async fn removed(rig: Rc<Rig>) -> Result<(), Failure> {
    let voter = rig.voters().first().map_or(0, |node| *node);
    rig.remove(&[disk_of(voter)]).await?;
    write_some(&rig, 3).await?;
    rig.wait_removed(&disk_of(voter)).await
}
