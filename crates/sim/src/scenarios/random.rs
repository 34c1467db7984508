//! The random run: topology, workload and faults follow from the seed.
//!
//! Processes, machines, cables and power may fail in any number, and disks in every way that they
//! admit: then I/O waits, and nothing may be lost. Contents are lost or wrong on one disk of the run
//! only, the *victim*, and only while nobody else is away: that is what two copies cover.

use std::rc::Rc;
use std::time::Duration;

use block::{Lba, SectorRange};
use futures::FutureExt;
use pool::engine::{EmptyDisks, VolumeSize};
use pool::format::{FailureDomain, MIB};
use pool::metadata::Layout;
use rand::Rng;

use super::common::{CONVERGENCE_MAX, EXTENT_BYTES, POOL, Rig};
use super::node_keys::accept;
use crate::cluster::{Plan, is_clean};
use crate::disk::{Chances, Disk, Latency, Part, ReadFault, WriteFault};
use crate::network::Quality;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIO: Scenario = Scenario {
    name: "random",
    about: "topology, workload and faults by luck",
    limit: Duration::from_secs(900),
    body: |stage| run(stage).boxed_local(),
};

/// Runs seldom without `--fork`: most of what a loss shows needs a log that has nothing to
/// do for a while, so that something else than its own batch meets the fault.
pub const LULLS: Scenario = Scenario {
    name: "random-lulls",
    about: "topology and faults by luck under a trickle of writes",
    limit: Duration::from_secs(900),
    body: |stage| run_lulls(stage).boxed_local(),
};

/// Longest wait of an administrator's command while things break.
const COMMAND_MAX: Duration = Duration::from_secs(20);

async fn run(stage: Stage) -> Result<(), Failure> {
    let rig = build(&stage).await?;
    if rig.volumes().is_empty() {
        return Ok(());
    }
    let faults = 2 + rig.below(7);
    let mix = random_mix(&rig);
    // Luck of its own, so that the other runs stay as they are.
    let mut luck = crate::random::fork(stage.world.seed(), "jobs");
    let has_jobs = luck.random_bool(0.3);
    if has_jobs {
        rig.set_rebuild_delay(luck.random_range(1..15)).await?;
    }
    rig.load(mix).await?;
    rig.watch_trouble();
    for _ in 0..faults {
        next_fault(&rig, 1200, mix).await?;
        rig.fork_by_luck(15_000);
        rig.count_by_luck(3000);
        let (number, happens) = stage.faults.next();
        rig.cluster.part_luck(&format!("command {number}"));
        if rig.below(3) == 0 && happens {
            one_command(&rig).await?;
        }
        if has_jobs && happens && luck.random_bool(0.6) {
            one_job(&rig, &mut luck).await;
        }
    }
    rig.cluster.part_luck("end");
    rig.run_for(rig.between(10, 1500)).await;
    rig.fork_by_luck(15_000);
    if has_jobs {
        end_jobs(&rig).await?;
    }
    rig.converge().await?;
    // What is damaged from here on takes the place of a loss.
    stage.forks.close();
    if has_mirrors_only(&rig) && rig.below(2) == 0 {
        damage(&rig, mix).await?;
    }
    Ok(())
}

async fn run_lulls(stage: Stage) -> Result<(), Failure> {
    let rig = build(&stage).await?;
    if rig.volumes().is_empty() {
        return Ok(());
    }
    // Longer than destaging waits for a disk, in most runs.
    let think = if rig.below(3) == 0 { rig.between(100, 3000) } else { rig.between(6000, 20_000) };
    let mix = Mix { depth: 1 + rig.below(2) as u32, writes: 90, think, ..random_mix(&rig) };
    rig.load(mix).await?;
    rig.watch_trouble();
    for _ in 0..2 + rig.below(3) {
        next_fault(&rig, 3000, mix).await?;
        rig.fork_by_luck(15_000);
        rig.count_by_luck(3000);
        rig.run_for(rig.between(500, 12_000)).await;
        // Redundancy that is missing once all is said to be well is missing for long.
        rig.cluster.heal();
        rig.wait_clean(CONVERGENCE_MAX).await?;
        (0..3).for_each(|_| rig.fork_by_luck(4000));
        rig.count_by_luck(2000);
        rig.run_for(rig.between(3000, 15_000)).await;
    }
    rig.converge().await
}

async fn build(stage: &Stage) -> Result<Rc<Rig>, Failure> {
    let mut luck = crate::random::fork(stage.world.seed(), "topology");
    let nodes = luck.random_range(2..=5);
    // Most runs are small in everything; some have production's extents, and what comes with them.
    let extent_bytes =
        [EXTENT_BYTES, EXTENT_BYTES, EXTENT_BYTES, 1 << 20, 4 << 20][luck.random_range(0..5)];
    let scale = extent_bytes / EXTENT_BYTES;
    let mut sizes: Vec<Vec<u64>> = (0..nodes)
        .map(|_| {
            let disks = if luck.random_bool(0.7) { 1 } else { luck.random_range(2..=3) };
            (0..disks).map(|_| (luck.random_range(12..=40) * scale) << 20).collect()
        })
        .collect();
    // Some runs are of few machines with many disks, each of which may fail by itself.
    let mut other = crate::random::fork(stage.world.seed(), "failure domain");
    let failure_domain = match other.random_bool(0.15) {
        true => FailureDomain::Disk,
        false => FailureDomain::Node,
    };
    if failure_domain == FailureDomain::Disk {
        sizes.truncate(other.random_range(1..=3));
        for disks in &mut sizes {
            let count = other.random_range(2..=4);
            disks.resize_with(count, || (other.random_range(12..=40) * scale) << 20);
        }
    }
    let domains = match failure_domain {
        FailureDomain::Node => sizes.len(),
        FailureDomain::Disk => sizes.iter().map(Vec::len).sum(),
    };
    let mut trims = crate::random::fork(stage.world.seed(), "trim");
    let plan = Plan {
        trim_after: [None, Some(Duration::ZERO), Some(Duration::from_millis(300))]
            [trims.random_range(0..3)],
        nodes: sizes,
        failure_domain,
        mtu_bytes: if luck.random_bool(0.8) { 9000 } else { 1500 },
        paths: if luck.random_bool(0.2) { 2 } else { 1 },
        extent_bytes,
        checksum_bytes: luck.random_bool(0.3).then_some(64 << 10),
        ..Plan::simple(0, 0)
    };
    let count = luck.random_range(1..=2);
    let names = ["a", "b"];
    let volumes: Vec<(&str, u64, Layout)> = names[..count]
        .iter()
        .map(|name| {
            let layout = match luck.random_range(0..10) {
                0 => Layout::Raid0,
                1..=3 if domains >= 3 => Layout::Mirror(3),
                _ => Layout::Mirror(2),
            };
            (*name, luck.random_range(4..=40) * scale * (64 << 10), layout)
        })
        .collect();
    let rig = Rig::start(stage, plan, &[]).await?;
    for (name, size_bytes, layout) in volumes {
        match rig.create_volume(name, size_bytes, layout).await {
            Ok(_) => {}
            // Disks by luck may be too uneven for so many copies.
            Err(refused) if refused.0.starts_with("not enough space") => {
                rig.cluster.tell(&refused.0)
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(rig)
}

fn random_mix(rig: &Rig) -> Mix {
    Mix {
        depth: 1 + rig.below(5) as u32,
        writes: 30 + rig.below(50) as u32,
        sectors_max: 8 << rig.below(6),
        span_sectors: if rig.below(2) == 0 { u64::MAX } else { 256 << rig.below(4) },
        think: rig.between(15, 90),
        large: [0, 8, 40][rig.below(3)],
        discards: 3 + 9 * rig.below(2) as u32,
        ..Mix::default()
    }
}

/// The next fault of the run after a while, unless it is left out.
async fn next_fault(rig: &Rc<Rig>, most_ms: u64, mix: Mix) -> Result<(), Failure> {
    let (number, happens) = rig.cluster.stage().faults.next();
    rig.cluster.part_luck(&format!("fault {number}"));
    rig.run_for(rig.between(10, most_ms)).await;
    if happens {
        rig.cluster.tell(&format!("fault {number}"));
        one_fault(rig, mix).await?;
    }
    Ok(())
}

async fn one_fault(rig: &Rc<Rig>, mix: Mix) -> Result<(), Failure> {
    let number = rig.below(rig.cluster.node_count());
    let node = rig.cluster.node(number);
    let disks = node.disks();
    let disk: &Rc<Disk> = &disks[rig.below(disks.len())];
    let back = later(rig);
    match rig.below(18) {
        12.. => disk_fault(rig, number, disk, back),
        0 | 1 => {
            rig.cluster.kill_node(number);
            again(rig, back, move |rig| rig.cluster.start_node(number));
        }
        2 => {
            let survival = rig.cluster.any_survival();
            rig.cluster.cut_node_power(number, survival);
            again(rig, back, move |rig| rig.cluster.start_node(number));
        }
        3 => {
            let owner = rig.cluster.supervisor(rig.active()).process();
            let stopped = if rig.below(3) == 0 { owner } else { node.process() };
            if let Some(process) = stopped {
                match rig.below(2) {
                    0 => process.pause(),
                    _ => process.pause_in_turn(rig.below(100) as u32),
                }
                again(rig, back, move |_| process.resume());
            }
        }
        4 => {
            rig.cluster.cut_link(number, true);
            again(rig, back, move |rig| rig.cluster.cut_link(number, false));
        }
        5 if rig.below(2) == 0 => {
            let paths = rig.cluster.networks().len();
            let path = rig.below(paths);
            let network = Rc::clone(&rig.cluster.networks()[path]);
            let owner = Rc::clone(&rig.cluster.supervisor(rig.active()).stations()[path]);
            let other = Rc::clone(&node.stations()[path]);
            network.part(&owner, &other, true);
            again(rig, back, move |_| network.part(&owner, &other, false));
        }
        5 => {
            let out = rig.below(2) == 0;
            rig.cluster.tell(&format!("half of the cable of {} is cut", node.name()));
            node.station().set_cut(out, !out);
            again(rig, back, move |_| node.station().set_cut(false, false));
        }
        6 => {
            rig.cluster.tell(&format!("the cable of {} is bad", node.name()));
            node.station().set_quality(Quality::BAD);
            again(rig, back, move |_| node.station().set_quality(Quality::GOOD));
        }
        7 => {
            let disk = Rc::clone(disk);
            disk.set_latency(Latency::SLOW);
            rig.cluster.tell(&format!("{} is slow", disk.name()));
            again(rig, back, move |_| disk.set_latency(Latency::FAST));
        }
        8 => disk.stick_for(rig.between(10, 6000)),
        9 | 10 => {
            rig.restart_supervisor(rig.between(1, 3000)).await;
            load_when_served(rig, mix);
        }
        _ => {
            rig.cluster.cut_all_power();
            rig.forget_clients();
            for number in 0..rig.cluster.node_count() {
                let (start, rig_then) = (rig.between(1, 4000), Rc::clone(rig));
                again(&rig_then, start, move |rig| rig.cluster.start_node(number));
            }
            rig.run_for(rig.between(1, 3000)).await;
            rig.cluster.start_supervisor(0);
            load_when_served(rig, mix);
        }
    }
    Ok(())
}

/// A disk that can't be read may have the only right copy, of a volume with one or while another machine is
/// away: from now on blocks may be errors that name them, and never anything else.
fn expect_errors(rig: &Rig) {
    for name in rig.volumes() {
        rig.record(&name).expect_unreadable(SectorRange::new(Lba(0), u64::MAX / 2));
    }
}

/// What a disk does wrong and admits.
fn disk_fault(rig: &Rc<Rig>, node: usize, disk: &Rc<Disk>, back: Duration) {
    let part = Part::STRUCTURES[rig.below(Part::STRUCTURES.len())];
    match rig.below(7) {
        0 | 1 => {
            let fault = [WriteFault::Error, WriteFault::NoSpace][rig.below(2)];
            let count = 1 + rig.below(4);
            rig.cluster.tell(&format!("{count} times {fault:?} in {part:?} of {}", disk.name()));
            (0..count).for_each(|_| disk.spoil_next_write(part, fault));
        }
        2 => {
            expect_errors(rig);
            let count = 1 + rig.below(4);
            rig.cluster.tell(&format!("{count} read errors in {part:?} of {}", disk.name()));
            (0..count).for_each(|_| disk.spoil_next_read(part, ReadFault::Error));
        }
        3 => {
            disk.set_full(true);
            let disk = Rc::clone(disk);
            again(rig, back, move |_| disk.set_full(false));
        }
        4 => {
            let chance = [0.001, 0.02, 0.3][rig.below(3)];
            let flush_error = if rig.below(3) == 0 { chance / 4.0 } else { 0.0 };
            expect_errors(rig);
            let errors = Chances { write_error: chance, read_error: chance, ..Chances::default() };
            disk.set_chances(Chances { flush_error, ..errors });
            let disk = Rc::clone(disk);
            again(rig, back, move |rig| {
                disk.set_chances(Chances::default());
                reopen(rig, node);
            });
        }
        5 => {
            disk.fail_flushes(1 + rig.below(3) as u32);
            again(rig, back, move |rig| reopen(rig, node));
        }
        _ if rig.below(2) == 0 => {
            let bytes = (disk.sectors() << 9) + ((1 + rig.below(8) as u64) << 20);
            disk.grow(bytes);
        }
        _ => {
            disk.set_gone(true);
            let disk = Rc::clone(disk);
            again(rig, back, move |_| disk.set_gone(false));
        }
    }
}

/// What an administrator does about a disk whose flush failed: the node is started anew.
fn reopen(rig: &Rig, node: usize) {
    let disks = rig.cluster.node(node).disks();
    if rig.cluster.node(node).process().is_some() && disks.iter().any(|d| d.is_to_be_reopened()) {
        rig.cluster.kill_node(node);
        rig.cluster.start_node(node);
    }
}

/// How long something stays broken: mostly shorter than it takes to be evicted, or much longer.
fn later(rig: &Rig) -> Duration {
    match rig.below(3) {
        0 => rig.between(1, 1000),
        1 => rig.between(1000, 4000),
        _ => rig.between(4000, 15_000),
    }
}

/// Does `repair` after `delay`, beside everything else.
fn again(rig: &Rc<Rig>, delay: Duration, repair: impl FnOnce(&Rig) + 'static) {
    let rig = Rc::clone(rig);
    rig.cluster.director().spawn({
        let rig = Rc::clone(&rig);
        async move {
            rig.cluster.sleep(delay).await;
            repair(&rig);
        }
    });
}

/// Starts clients as soon as volumes are served, beside everything else; if that takes too long
/// because too much is broken, there are none.
fn load_when_served(rig: &Rc<Rig>, mix: Mix) {
    let rig = Rc::clone(rig);
    rig.cluster.director().spawn({
        let rig = Rc::clone(&rig);
        async move {
            // Whether it must have been served by now is for the final judgement to say.
            let _ = rig.load(mix).await;
        }
    });
}

/// What administrators do, whatever is broken: it may be refused, but neither hang nor harm.
async fn one_command(rig: &Rig) -> Result<(), Failure> {
    let names = rig.volumes();
    let name = names[rig.below(names.len())].clone();
    let Some(report) = rig.volume_report(&name) else { return Ok(()) };
    let supervisor = Rc::clone(rig.cluster.supervisor(rig.active()));
    let size = report.size_bytes + (64 << 10) * (1 + rig.below(6) as u64);
    rig.cluster.tell(&format!("volume {name} shall have {size} bytes"));
    let asked = supervisor.with(|engine| async move {
        engine.extend_volume(POOL, &name, VolumeSize::Bytes(size)).await.map(drop)
    });
    match runtime::timeout(&rig.cluster.director(), COMMAND_MAX, asked).await {
        Ok(Ok(Err(refused))) => rig.cluster.tell(&format!("refused: {refused}")),
        Ok(_) => {}
        Err(_) => rig.cluster.tell("no answer yet"),
    }
    Ok(())
}

/// A disk is to be emptied, or that is withdrawn.
async fn one_job(rig: &Rig, luck: &mut impl Rng) {
    let Some(report) = rig.report() else { return };
    if report.disks.is_empty() {
        return;
    }
    let supervisor = Rc::clone(rig.cluster.supervisor(rig.active()));
    let job = report.jobs.first().filter(|_| luck.random_bool(0.4)).map(|job| job.number);
    let mut names: Vec<String> = report.disks.into_iter().map(|disk| disk.name).collect();
    let disk = names.swap_remove(luck.random_range(0..names.len()));
    let to = (luck.random_bool(0.3) && !names.is_empty())
        .then(|| names.swap_remove(luck.random_range(0..names.len())));
    rig.cluster.tell(&format!("{disk} shall be emptied to {to:?}, or job {job:?} withdrawn"));
    let asked = supervisor.with(|engine| async move {
        match job {
            Some(job) => engine.cancel_job(POOL, job).await,
            None => {
                let request = EmptyDisks { disks: vec![disk], to, ..EmptyDisks::default() };
                engine.empty_disks(POOL, &request).await.map(drop)
            }
        }
    });
    match runtime::timeout(&rig.cluster.director(), COMMAND_MAX, asked).await {
        Ok(Ok(Err(refused))) => rig.cluster.tell(&format!("refused: {refused}")),
        Ok(_) => {}
        Err(_) => rig.cluster.tell("no answer yet"),
    }
}

/// Jobs may lack room by now: what they moved stays where it is.
async fn end_jobs(rig: &Rc<Rig>) -> Result<(), Failure> {
    rig.cluster.heal();
    rig.cluster.start_supervisor(rig.active());
    let is_open = || rig.report().is_some_and(|report| report.lease_ok);
    rig.cluster.wait_for("the pool is open", CONVERGENCE_MAX, is_open).await?;
    if rig.below(2) == 0 {
        rig.run_for(rig.between(1, 8000)).await;
    }
    // Nobody is out for long from here on.
    rig.set_rebuild_delay(3600).await?;
    rig.cancel_jobs().await
}

fn has_mirrors_only(rig: &Rig) -> bool {
    rig.report().is_some_and(|report| {
        is_clean(&report) && report.volumes.iter().all(|volume| volume.layout != "raid0")
    })
}

/// Damages the victim while nobody else is away; nothing else breaks but processes and power.
async fn damage(rig: &Rc<Rig>, mix: Mix) -> Result<(), Failure> {
    let disks = rig.cluster.disks();
    let victim = Rc::clone(&disks[rig.below(disks.len())].1);
    let mut image = victim.snapshot();
    // Two votes need both: what becomes of a pool that lost one, or the labels that name it, isn't judged
    // here. They are in front of the extents.
    let has_spare_vote = rig.report().is_some_and(|report| report.votes.total > 2);
    let rots_from = if has_spare_vote { 0 } else { MIB };
    rig.load(mix).await?;
    rig.run_for(rig.between(200, 1500)).await;
    if rig.below(3) == 0 {
        // As it is at some moment of its resync.
        let holds = |number: &usize| {
            rig.cluster.node(*number).disks().iter().any(|d| Rc::ptr_eq(d, &victim))
        };
        let node = (0..rig.cluster.node_count()).find(holds).unwrap_or(0);
        rig.cluster.kill_node(node);
        rig.run_for(rig.between(100, 6000)).await;
        rig.cluster.start_node(node);
        rig.run_for(rig.between(1, 3000)).await;
        image = victim.snapshot();
    }
    let mut moved = 0;
    match rig.below(4) {
        0 => {
            spoil(rig, &victim);
            rig.run_for(rig.between(200, 2500)).await;
        }
        1 => {
            // Rot while others write, and while they read.
            rot(rig, &victim, rots_from);
            rig.run_for(rig.between(200, 1500)).await;
        }
        _ => {
            rig.quiet(CONVERGENCE_MAX).await?;
            rig.wait_clean(CONVERGENCE_MAX).await?;
            let off = rig.below(2) == 0;
            if off {
                rig.cluster.cut_all_power();
            }
            match rig.below(4) {
                0 if off => victim.roll_back(image),
                1 if off => {
                    let (name, other) = &disks[rig.below(disks.len())];
                    victim.swap(other);
                    let at = disks.iter().find(|(_, disk)| Rc::ptr_eq(disk, &victim));
                    let shelf = |name: &str| name.split('.').next().map(str::to_owned);
                    let is_elsewhere = at.is_some_and(|(at, _)| shelf(at) != shelf(name));
                    moved = if is_elsewhere { 2 } else { 0 };
                }
                _ => rot(rig, &victim, rots_from),
            }
        }
    }
    for number in 0..rig.cluster.node_count() {
        rig.cluster.start_node(number);
    }
    rig.cluster.start_supervisor(0);
    accept(rig, moved).await?;
    rig.load(mix).await?;
    rig.run_for(rig.between(500, 2000)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    for name in rig.volumes() {
        rig.on_volume(&name, |watched| async move { watched.read_all().await }).await??;
    }
    Ok(())
}

fn rot(rig: &Rig, victim: &Disk, begin: u64) {
    let bytes = victim.sectors() * block::SECTOR_BYTES as u64;
    for _ in 0..1 + rig.below(60) {
        let end = if rig.below(3) == 0 { 2 << 20 } else { bytes };
        let at = rig.cluster.luck(|random| random.random_range(begin..end));
        victim.flip_byte(at, 1 << rig.below(8));
    }
}

/// What a disk does wrong and tells nobody.
fn spoil(rig: &Rig, victim: &Disk) {
    victim.remember();
    let count = 1 + rig.below(6);
    match rig.below(4) {
        0 => {
            let mut chances = [0.0; 5];
            chances[rig.below(5)] = 0.05;
            let [lost_write, misdirected_write, stale_read, misdirected_read, flipped_read] =
                chances;
            victim.set_chances(Chances {
                lost_write,
                misdirected_write,
                stale_read,
                misdirected_read,
                flipped_read,
                ..Chances::default()
            });
        }
        1 => {
            let part = Part::STRUCTURES[rig.below(Part::STRUCTURES.len())];
            let away = 8 * (1 + rig.below(400) as i64) * if rig.below(2) == 0 { 1 } else { -1 };
            let fault = [WriteFault::Lost, WriteFault::Misdirected(away)][rig.below(2)];
            rig.cluster.tell(&format!("{count} times {fault:?} in {part:?} of {}", victim.name()));
            (0..count).for_each(|_| victim.spoil_next_write(part, fault));
        }
        2 => {
            let part = Part::STRUCTURES[rig.below(Part::STRUCTURES.len())];
            let away = 8 * (1 + rig.below(400) as i64);
            let faults = [ReadFault::Stale, ReadFault::Misdirected(away), ReadFault::Flipped];
            let fault = faults[rig.below(faults.len())];
            rig.cluster.tell(&format!("{count} times {fault:?} in {part:?} of {}", victim.name()));
            (0..count).for_each(|_| victim.spoil_next_read(part, fault));
        }
        _ => victim.set_lying(true),
    }
}
