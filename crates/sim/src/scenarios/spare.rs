//! A pool that keeps space free for a loss is filled with all that it gives, and then there is that loss, for good.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use pool::engine::{ExtendPool, PoolSettings, VolumeSize};
use pool::metadata::Layout;
use pool::{FailureDomain, PoolReport, Spare};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, disk_of, expect};
use super::scenario;
use crate::cluster::Plan;
use crate::disk::Latency;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[scenario(
    "spare",
    "a pool with a spare is filled to the last group, also while it is rebalanced; a disk or machine is lost for good \
     under load, also amid the moves, and everything that was on it finds a place",
    900,
    |stage| spare(stage).boxed_local(),
)];

const MIB: u64 = 1 << 20;
/// Rebuilds of what was lost have begun by then: their delay is 3 s at most.
const REBUILDS_BEGIN_MAX: Duration = Duration::from_secs(5);

impl Rig {
    /// Space is kept free for such a loss.
    pub async fn keep_spare(&self, spare: Option<Spare>) -> Result<(), Failure> {
        let settings = PoolSettings { spare: Some(spare), ..PoolSettings::default() };
        self.with(|engine| async move { engine.set_pool(POOL, &settings).await }).await
    }

    fn holds_spare(&self) -> bool {
        let spare = self.report().and_then(|report| report.spare);
        spare.is_some_and(|spare| spare.is_held())
    }

    /// Nothing worth mentioning can be had any more.
    async fn is_full(&self) -> bool {
        let size = self.volume_report(VOLUME).map_or(0, |volume| volume.size_bytes);
        let more = VolumeSize::Bytes(size.next_multiple_of(MIB) + 4 * MIB);
        let grown =
            self.with(|engine| async move { engine.extend_volume(POOL, VOLUME, more).await });
        grown.await.is_err_and(|Failure(why)| why.contains("spare"))
    }

    /// Gives a volume all that is left.
    async fn grow_to_the_end(&self) -> Result<(), Failure> {
        let all = VolumeSize::PercentFree(100);
        let grown =
            self.with(|engine| async move { engine.extend_volume(POOL, VOLUME, all).await }).await;
        grown.map(drop)
    }
}

/// What is kept, and the machines; of two disks each in some runs, of all sizes.
fn shape(rig_seed: u64, sizes: &[u64]) -> (Spare, Plan) {
    let by_disk = rig_seed % 8 == 7;
    let spare = match rig_seed % 4 {
        0 | 2 => Spare::Node,
        1 => Spare::Bytes(64 * MIB),
        _ => Spare::Disk,
    };
    let nodes = 4 + (rig_seed / 4 % 2) as usize;
    let disks = 1 + usize::from(spare != Spare::Node || rig_seed % 4 == 2);
    let nodes = (0..nodes).map(|node| {
        (0..disks).map(|disk| sizes[(node * disks + disk) % sizes.len()] * MIB).collect()
    });
    let failure_domain = if by_disk { FailureDomain::Disk } else { FailureDomain::Node };
    (spare, Plan { nodes: nodes.collect(), failure_domain, ..Plan::simple(1, 0) })
}

async fn spare(stage: Stage) -> Result<(), Failure> {
    let seed = stage.world.seed();
    let sizes: Vec<u64> =
        (0..7).map(|turn| 30 + (seed.wrapping_mul(2_654_435_761) >> (turn * 4)) % 23).collect();
    let (keeps, plan) = shape(seed, &sizes);
    let rig = Rig::start(&stage, plan, &[]).await?;
    rig.keep_spare(Some(keeps)).await?;
    rig.set_rebuild_delay(1 + rig.below(3) as u64).await?;
    let has_three = rig.below(2) == 0;
    if has_three {
        rig.create_volume("three", 2 * MIB, Layout::Mirror(3)).await?;
    }
    let all = VolumeSize::PercentFree(100);
    rig.with(
        |engine| async move { engine.create_volume(POOL, VOLUME, all, Layout::Mirror(2)).await },
    )
    .await?;
    rig.adopt_volumes()?;
    let report = rig.report().ok_or(Failure("no pool".into()))?;
    let had = rig.volume_report(VOLUME).map_or(0, |volume| volume.size_bytes);
    // In so small a pool a copy of the metadata is a fifth of a machine. Three copies leave fewer places to go to.
    let part = if has_three { 16 } else { 4 };
    expect(had * 2 * part >= report.capacity_bytes, || {
        format!("a spare takes too much: {had} of {}", report.capacity_bytes)
    })?;
    expect(rig.holds_spare(), || format!("filled, it isn't held: {report:#?}"))?;
    expect(rig.is_full().await, || "there was more to be had".to_owned())?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 2000)).await;
    if rig.below(2) == 0 {
        more_machines(&rig).await?;
    }
    let lost = lose(&rig, keeps, Vec::new()).await?;
    if keeps != Spare::Node && rig.holds_spare() {
        // What was lost was little, and there is room for the next one.
        lose(&rig, keeps, lost).await?;
    }
    rig.converge().await
}

/// One more machine comes, groups move until what it brings can be had, and that is taken as well; in some runs before
/// they have all moved, as they count as if they had.
async fn more_machines(rig: &Rc<Rig>) -> Result<(), Failure> {
    let number = rig.cluster.add_node(&[48 * MIB]);
    rig.see_disks(rig.cluster.disks().len()).await?;
    let added = [disk_of(number)];
    rig.with(|engine| async move { engine.extend_pool(POOL, &ExtendPool::of(&added)).await })
        .await?;
    rig.with(|engine| async move { engine.rebalance_pool(POOL, false).await }).await?;
    let size = || rig.volume_report(VOLUME).map_or(0, |volume| volume.size_bytes);
    let before = size();
    let looks_max = if rig.below(2) == 0 { usize::MAX } else { rig.below(8) };
    if looks_max < usize::MAX {
        // So groups are on their way there when something is lost, and when its rebuild is to begin.
        let slow = Latency { base: Duration::from_millis(40), ..Latency::SLOW };
        rig.cluster.node(number).disks()[0].set_latency(slow);
    }
    for _ in 0..looks_max {
        if !rig.has_job() {
            break;
        }
        expect(rig.holds_spare(), || format!("groups move into the spare: {:#?}", rig.report()))?;
        rig.run_for(rig.between(1, 500)).await;
    }
    let is_amid = rig.has_job();
    // So soon there may be nothing yet.
    let had_nothing = |Failure(why): &Failure| is_amid && why.contains("spare");
    rig.grow_to_the_end().await.or_else(|why| if had_nothing(&why) { Ok(()) } else { Err(why) })?;
    let gained = size() - before;
    expect(is_amid || gained >= 4 * MIB, || format!("of 48 MiB more {gained} bytes can be had"))?;
    expect(rig.holds_spare(), || "grown, it isn't held".to_owned())?;
    rig.run_for(rig.between(100, 1000)).await;
    Ok(())
}

/// The loss that the spare is for, which is for good; of another machine than before. Tells all that is lost then.
async fn lose(rig: &Rc<Rig>, keeps: Spare, mut lost: Vec<String>) -> Result<Vec<String>, Failure> {
    // Votes have moved after the loss before, and a disk that was too slow is in again.
    let survives = || rig.report().is_some_and(|report| report.survives >= 1);
    rig.cluster.wait_for("one more loss is survived", CONVERGENCE_MAX, survives).await?;
    let is_lost =
        |node: &usize| lost.iter().any(|disk| disk.starts_with(&format!("e{}.", node + 1)));
    let others: Vec<usize> = (0..rig.cluster.node_count()).filter(|node| !is_lost(node)).collect();
    let victim = others[rig.below(others.len())];
    let disks = rig.cluster.node(victim).disks();
    match keeps {
        Spare::Node => {
            rig.cluster.kill_node(victim);
            lost.extend((0..disks.len()).map(|disk| format!("e{}.{disk}", victim + 1)));
        }
        Spare::Disk | Spare::Bytes(_) => {
            let disk = rig.below(disks.len());
            disks[disk].set_gone(true);
            lost.push(format!("e{}.{disk}", victim + 1));
        }
    }
    rig.cluster.tell(&format!("{lost:?} are lost for good"));
    let refused = RefCell::new(None);
    let is_over = || {
        let Some(report) = rig.report() else { return false };
        *refused.borrow_mut() = refused.take().or_else(|| finds_no_place(&report, &lost));
        refused.borrow().is_some() || is_whole_without(&report, &lost)
    };
    for _ in 0..rig.below(3) {
        rig.run_for(rig.between(1, 4000)).await;
        if rig.below(3) == 0 {
            rig.restart_supervisor(rig.between(1, 1000)).await;
            rig.load(Mix::BUSY).await?;
        }
    }
    // Rebuilds have begun by then, and disks that were slow needn't be any longer.
    let _ = rig.cluster.wait_for("rebuilds have begun", REBUILDS_BEGIN_MAX, &is_over).await;
    rig.cluster.disks().iter().for_each(|(_, disk)| disk.set_latency(Latency::FAST));
    rig.cluster
        .wait_for("all that was lost has found a place", CONVERGENCE_MAX, is_over)
        .await
        .map_err(|failure| Failure(format!("{}\nlast report: {:#?}", failure.0, rig.report())))?;
    refused
        .into_inner()
        .map_or(Ok(()), |why| Err(Failure(format!("{why}: {:#?}", rig.report()))))?;
    let may_have_more = rig.holds_spare();
    expect(may_have_more || rig.is_full().await, || "what isn't held is given out".to_owned())?;
    Ok(lost)
}

/// What is said of one of these whose rebuild is refused for lack of space.
fn finds_no_place(report: &PoolReport, lost: &[String]) -> Option<String> {
    let waiting = report.disks.iter().filter(|disk| lost.contains(&disk.name));
    let mut refused = waiting.filter_map(|disk| disk.rebuild_waits.clone());
    refused.find(|why| why.contains("find no place"))
}

/// Nothing is under way, and no volume needs these disks.
fn is_whole_without(report: &PoolReport, lost: &[String]) -> bool {
    let is_usable = |name: &String| {
        let disk = report.disks.iter().find(|disk| disk.name == *name);
        disk.is_none_or(|disk| disk.state == pool::DiskState::Usable)
    };
    let whole = |volume: &pool::VolumeReport| {
        let promised = volume.promised_copies().saturating_sub(1);
        !volume.degraded && volume.dirty_bytes == 0 && volume.survives_disks >= promised
    };
    !lost.iter().any(is_usable) && report.jobs.is_empty() && report.volumes.iter().all(whole)
}
