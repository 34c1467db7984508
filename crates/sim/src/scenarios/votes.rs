//! Majorities that aren't there, votes cut in the middle, and copies of the metadata that a vote names
//! and that lack something.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use block::{Lba, SectorRange};
use futures::FutureExt;
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, OPENING_MAX, Rig, VOLUME};
use super::copies::copies_of_log;
use super::losses::{disks_of, lose_node, status, trickle};
use super::scenario;
use crate::cluster::Plan;
use crate::disk::{Disk, Latency, Part, ReadFault, WriteFault};
use crate::fork::{Judgement, Loss, Owner};
use crate::medium::Survival;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "minority-goes-on",
        "two of three machines vanish, then the power, and only these two come back: what the third one \
         may have answered alone isn't missing",
        400,
        |stage| minority_goes_on(stage).boxed_local(),
    ),
    scenario(
        "one-vote-present",
        "after a power cut only a machine that was evicted is there, with its vote and its copy of the \
         metadata: the pool isn't opened by them",
        400,
        |stage| one_vote_present(stage).boxed_local(),
    ),
    scenario(
        "unread-vote",
        "after a power cut only one machine that takes part and one that was evicted are there, and the \
         former's newest vote can't be read for a while: its older one doesn't count",
        400,
        |stage| unread_vote(stage).boxed_local(),
    ),
    scenario(
        "cut-in-vote",
        "the power goes while votes are written: their former records are there",
        400,
        |stage| cut_in_vote(stage).boxed_local(),
    ),
    scenario(
        "older-copy-present",
        "the current copies of the metadata can't be read for a while, an older one can: it isn't adopted",
        400,
        |stage| older_copy_present(stage).boxed_local(),
    ),
    scenario(
        "metadata-ends-early",
        "a disk loses all that is written to the metadata's log, and applies data; it is the only current \
         copy present: it isn't adopted",
        400,
        |stage| metadata_ends_early(stage).boxed_local(),
    ),
    scenario(
        "metadata-copy-returns",
        "one of two current copies of the metadata was away, or lost its newest entries: status counts it \
         when it has everything",
        400,
        |stage| metadata_copy_returns(stage).boxed_local(),
    ),
];

/// Where the two slots of a vote begin.
pub(super) const VOTE_SLOTS: [u64; 2] = [32, 64];
/// So many faults in a row that they last until all is healed.
const LASTING: usize = 300;
/// How long a pool that mustn't be opened is asked.
const ASKED: Duration = Duration::from_secs(10);

fn disk(rig: &Rig, node: usize) -> Rc<Disk> {
    Rc::clone(&rig.cluster.node(node).disks()[0])
}

/// Reads everything, if the pool is open: nothing may be older than what was acknowledged.
async fn look(rig: &Rig) -> Result<(), Failure> {
    rig.run_for(OPENING_MAX).await;
    let reading = rig.on_volume(VOLUME, |watched| async move { watched.read_all().await });
    match runtime::timeout(&rig.cluster.director(), ASKED, reading).await {
        Ok(read) => read?.map_err(|error| Failure(format!("can't be read: {error}"))),
        Err(_) => Ok(()),
    }
}

/// Waits until a machine's vote is written; the sector at which its newest record begins.
async fn until_it_votes(rig: &Rig, node: usize) -> Option<u64> {
    let disk = disk(rig, node);
    let votes = || VOTE_SLOTS.map(|at| disk.peek(SectorRange::new(Lba(at), 1)));
    let before = votes();
    for _ in 0..50_000 {
        if let Some(slot) = (0..2).find(|slot| votes()[*slot] != before[*slot]) {
            return Some(VOTE_SLOTS[slot]);
        }
        rig.run_for(Duration::from_micros(100)).await;
    }
    None
}

/// The owner's lease outlives the two by some seconds; or one of the two answers, and takes no votes.
/// Whatever the owner decides meanwhile, a majority that never heard of it opens the pool.
async fn minority_goes_on(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    trickle(&rig, 1 + rig.below(6), 512, Duration::ZERO).await?;
    let (first, alone) = copies_of_log(&rig)?;
    let second = 3 - alone - first;
    let mix = Mix { writes: 90, think: Duration::from_millis(5), ..Mix::default() };
    rig.load(Mix { span_sectors: 512, sectors_max: 16, ..mix }).await?;
    rig.cluster.kill_node(first);
    if rig.below(2) == 0 {
        rig.run_for(rig.between(0, 1000)).await;
        rig.cluster.kill_node(second);
        rig.run_for(rig.between(1000, 6000)).await;
    } else {
        // What is committed elsewhere takes longer than what was in flight.
        disk(&rig, second).set_latency(Latency { base: rig.between(5, 30), ..Latency::FAST });
        let refusing = disk(&rig, second);
        (0..LASTING).for_each(|_| refusing.spoil_next_write(Part::Votes, WriteFault::Error));
        until_it_votes(&rig, alone).await;
        rig.run_for(rig.between(0, 20)).await;
    }
    rig.cluster.cut_all_power();
    rig.forget_clients();
    disk(&rig, second).heal();
    rig.cluster.start_node(first);
    rig.cluster.start_node(second);
    rig.cluster.start_supervisor(rig.active());
    look(&rig).await?;
    rig.cluster.start_node(alone);
    rig.converge().await
}

async fn one_vote_present(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix { think: Duration::from_millis(10), ..Mix::default() }).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let alone = rig.below(3);
    rig.cluster.kill_node(alone);
    rig.wait_out(alone, Duration::from_secs(10)).await?;
    rig.run_for(rig.between(1, 3000)).await;
    rig.cluster.cut_all_power();
    rig.forget_clients();
    rig.cluster.start_node(alone);
    rig.cluster.start_supervisor(rig.active());
    look(&rig).await?;
    (0..3).for_each(|node| rig.cluster.start_node(node));
    rig.converge().await
}

/// An older vote of those present names the disk as taking part that was evicted since, and for which
/// nothing waited.
async fn unread_vote(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    trickle(&rig, 1 + rig.below(6), 512, Duration::ZERO).await?;
    let (evicted, alone) = copies_of_log(&rig)?;
    let witness = 3 - alone - evicted;
    let mix = Mix { writes: 90, think: Duration::from_millis(5), ..Mix::default() };
    rig.load(Mix { span_sectors: 512, sectors_max: 16, ..mix }).await?;
    rig.run_for(rig.between(0, 300)).await;
    rig.cluster.kill_node(evicted);
    let newest = until_it_votes(&rig, witness).await;
    rig.run_for(Duration::from_micros(rig.below(3000) as u64)).await;
    rig.cluster.cut_all_power();
    rig.forget_clients();
    if let Some(slot) = newest {
        let slot = SectorRange::new(Lba(slot), 32);
        (0..LASTING).for_each(|_| disk(&rig, witness).spoil_read_of(&[slot], ReadFault::Error));
    }
    rig.cluster.start_node(witness);
    rig.cluster.start_node(evicted);
    rig.cluster.start_supervisor(rig.active());
    look(&rig).await?;
    rig.cluster.start_node(alone);
    rig.converge().await
}

/// A vote has two slots, so that one of them is whole whenever the power goes: the newer one of the two
/// that were. A record is torn where it is longer than a sector, with so many disks out.
async fn cut_in_vote(stage: Stage) -> Result<(), Failure> {
    let mut plan = Plan::simple(3, 32);
    plan.nodes[0] = vec![12 << 20; 36];
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    for _ in 0..2 {
        rig.load(Mix::default()).await?;
        rig.run_for(rig.between(300, 1500)).await;
        let slow = Latency { base: Duration::from_millis(2), ..Latency::FAST };
        let others: Vec<_> = (1..3).map(|node| disk(&rig, node)).collect();
        others.iter().for_each(|disk| disk.set_latency(slow));
        rig.cluster.kill_node(0);
        let second_sectors = || {
            let slots = VOTE_SLOTS.map(|at| SectorRange::new(Lba(at + 1), 1));
            others.iter().map(|disk| slots.map(|at| disk.peek(at))).collect::<Vec<_>>()
        };
        let before = second_sectors();
        for _ in 0..60_000 {
            if second_sectors().iter().zip(&before).all(|(now, then)| now != then) {
                break;
            }
            rig.run_for(Duration::from_micros(100)).await;
        }
        rig.run_for(Duration::from_micros(rig.below(400) as u64)).await;
        rig.cluster.kill_supervisor(rig.active());
        rig.forget_clients();
        for node in 1..3 {
            rig.cluster.cut_node_power(node, Survival::Arbitrary);
            rig.cluster.start_node(node);
        }
        others.iter().for_each(|disk| disk.set_latency(Latency::FAST));
        rig.cluster.start_supervisor(rig.active());
        rig.open(VOLUME).await?;
        rig.cluster.start_node(0);
        rig.wait_clean(CONVERGENCE_MAX).await?;
    }
    rig.converge().await
}

/// The votes know which copies are current. One that isn't ends before what was committed since, of
/// which no vote and no applied block need know.
async fn older_copy_present(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    trickle(&rig, 1 + rig.below(20), 4096, Duration::ZERO).await?;
    rig.in_place(VOLUME).await?;
    let older = rig.below(3);
    rig.cluster.kill_node(older);
    rig.wait_out(older, Duration::from_secs(10)).await?;
    rig.create_volume("later", 1 << 20, Layout::Mirror(2)).await?;
    rig.cluster.cut_all_power();
    rig.forget_clients();
    for node in (0..3).filter(|node| *node != older) {
        let disk = disk(&rig, node);
        (0..LASTING).for_each(|_| disk.spoil_next_read(Part::Metadata, ReadFault::Error));
    }
    (0..3).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(rig.active());
    rig.run_for(rig.between(1000, 15_000)).await;
    rig.converge().await
}

/// Where a log ends nothing tells that it went on, but for those who were told what had been committed.
async fn metadata_ends_early(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    trickle(&rig, 1 + rig.below(8), 4096, Duration::ZERO).await?;
    rig.in_place(VOLUME).await?;
    let lagging = rig.below(3);
    rig.cluster.kill_node(lagging);
    rig.wait_out(lagging, Duration::from_secs(10)).await?;
    let loses = (lagging + 1 + rig.below(2)) % 3;
    let losing = disk(&rig, loses);
    let applied = || {
        let places = Part::Applied.ranges(&losing);
        places.into_iter().map(|place| losing.peek(place)).collect::<Vec<_>>()
    };
    losing.lose_next_blocks(*b"epME", u32::MAX);
    rig.create_volume("later", 1 << 20, Layout::Mirror(2)).await?;
    let before = applied();
    trickle(&rig, 1 + rig.below(8), 4096, Duration::ZERO).await?;
    rig.in_place(VOLUME).await?;
    // Where it had no part in that, nobody present would know.
    if applied() != before {
        rig.fork(Loss {
            what: format!("the metadata present ends early; status: {}", status(&rig)),
            lost: BTreeSet::new(),
            away: disks_of(&rig, 3 - lagging - loses),
            survival: Some(Survival::None),
            owners: vec![if rig.below(2) == 0 { Owner::Same } else { Owner::New }],
            judgement: Judgement::RightOrNamed,
        });
    }
    losing.heal();
    rig.converge().await
}

/// With one more machine whose disk takes no metadata, the loss of the other copy's machine is survived
/// if the returned copy has everything: so status mustn't say so before.
async fn metadata_copy_returns(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    trickle(&rig, 1 + rig.below(8), 4096, Duration::ZERO).await?;
    rig.in_place(VOLUME).await?;
    let refuses = rig.below(3);
    let returns = (refuses + 1 + rig.below(2)) % 3;
    let other = 3 - refuses - returns;
    let refusing = disk(&rig, refuses);
    (0..LASTING).for_each(|_| refusing.spoil_next_write(Part::Metadata, WriteFault::Error));
    rig.create_volume("first", 1 << 20, Layout::Mirror(2)).await?;
    rig.run_for(rig.between(0, 6000)).await;
    let (victim, is_quick) = (disk(&rig, returns), rig.below(2) == 0);
    if is_quick {
        // It says that it has what a power cut takes from it.
        victim.set_lying(true);
        rig.create_volume("lost", 1 << 20, Layout::Mirror(2)).await?;
        rig.cluster.cut_node_power(returns, Survival::None);
        victim.set_lying(false);
        rig.run_for(rig.between(1, 300)).await;
    } else {
        rig.cluster.kill_node(returns);
        rig.wait_out(returns, Duration::from_secs(10)).await?;
        rig.create_volume("missed", 1 << 20, Layout::Mirror(2)).await?;
    }
    rig.cluster.start_node(returns);
    rig.run_for(rig.between(100, 1500)).await;
    rig.create_volume("last", 1 << 20, Layout::Mirror(2)).await?;
    for _ in 0..6 {
        if rig.report().is_some_and(|report| report.survives > 0) {
            lose_node(&rig, other, "where the other copy of the metadata is", Survival::None);
        }
        rig.run_for(rig.between(50, 1000)).await;
    }
    rig.cluster.heal();
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.converge().await
}
