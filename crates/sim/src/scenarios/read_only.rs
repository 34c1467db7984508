//! Imports that change nothing: another supervisor looks at what an owner that died has left, whole or in parts, and
//! the owner comes back.

use std::rc::Rc;
use std::time::Duration;

use block::{
    BLOCK_BYTES, BLOCK_SECTORS, BlockDevice, Buffer, Durability, IoError, Lba, SectorRange,
};
use futures::FutureExt;
use pool::engine::ImportOptions;
use pool::metadata::Layout;

use super::common::{OPENING_MAX, POOL, Rig, VOLUME, expect};
use super::scenario;
use crate::cluster::Plan;
use crate::fork::{READS_IT, digests};
use crate::pattern::{self, Content};
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::{Mix, Record, Watched};

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "read-only",
        "a pool is read by another supervisor while its owner is away: nothing is written, and it ends when \
         the owner is back",
        300,
        |stage| read_only(stage).boxed_local(),
    ),
    scenario(
        "read-only-rest",
        "one machine is left of a pool: what it has is read, what it hasn't is an error, nothing waits for ever",
        300,
        |stage| read_only_rest(stage).boxed_local(),
    ),
];

const SIZE_BYTES: u64 = 4 << 20;
/// Longest that it may take until a reader knows that the owner is back: a round of renewals, and its answer.
const NOTICED_MAX: Duration = Duration::from_secs(6);
/// So often, with a second in between, a reader asks before it takes no for an answer.
const IMPORT_TRIES: usize = 19;

async fn start(stage: &Stage) -> Result<Rc<Rig>, Failure> {
    let layout = Layout::Mirror(2);
    let plan = Plan { supervisors: 2, ..Plan::simple(3, 32) };
    let rig = Rig::start(stage, plan, &[(VOLUME, SIZE_BYTES, layout)]).await?;
    rig.load(Mix { think: Duration::from_millis(20), ..Mix::default() }).await?;
    rig.run_for(rig.between(300, 3000)).await;
    Ok(rig)
}

/// Has a supervisor that is off read the pool, and with it all of the volume, which is as it was left.
pub(super) async fn read_by(rig: &Rig, reader: usize) -> Result<(), Failure> {
    rig.cluster.start_supervisor(reader);
    rig.set_active(reader);
    import(rig, READS_IT).await?;
    let report = rig.report().ok_or_else(|| Failure("the reader has no pool".into()))?;
    expect(report.read_only, || format!("it isn't read-only: {report:#?}"))?;
    let serves = || rig.volume_report(VOLUME).is_some_and(|volume| volume.suspended().is_none());
    rig.cluster.wait_for("the reader serves", OPENING_MAX, serves).await?;
    let watched = look(rig)?;
    in_time(rig, async move { watched.read_all().await }).await
}

/// What doesn't depend on machines that are away is done soon.
async fn in_time(
    rig: &Rig,
    work: impl Future<Output = Result<(), IoError>> + 'static,
) -> Result<(), Failure> {
    let (director, limit) = (rig.cluster.director(), Duration::from_secs(60));
    let done = runtime::timeout(&director, limit, rig.with(|_| work)).await;
    done.map_err(|_| Failure("reading, or a write that must be refused, hangs".into()))?
}

/// Has the supervisor read the pool, as soon as that lets it.
async fn import(rig: &Rig, options: ImportOptions) -> Result<(), Failure> {
    let import = || rig.with(|engine| async move { engine.import_pool(POOL, options).await });
    for _ in 0..IMPORT_TRIES {
        if import().await.is_ok() {
            return Ok(());
        }
        rig.run_for(Duration::from_secs(1)).await;
    }
    import().await.map(drop)
}

/// The volume as the reader has it.
fn device(rig: &Rig) -> Result<Rc<dyn BlockDevice>, Failure> {
    let reader = rig.cluster.supervisor(rig.active()).engine();
    let engine = reader.ok_or_else(|| Failure("the reader is dead".into()))?;
    engine.open_volume(POOL, VOLUME).map_err(|error| Failure(error.to_string()))
}

/// The volume, with what the oracle knows now: what a reader saw of a write that nobody was told of may come to
/// nothing.
fn look(rig: &Rig) -> Result<Watched, Failure> {
    let oracle = rig.record(VOLUME).oracle().fork();
    let verdict = Rc::clone(&rig.cluster.stage().verdict);
    Ok(Watched::new(device(rig)?, Record::new(rig.cluster.world(), oracle, verdict)))
}

async fn read_only(stage: Stage) -> Result<(), Failure> {
    let rig = start(&stage).await?;
    let first = rig.cluster.supervisor(0).process();
    // Dead, stopped, cut off, or gone with all power; perhaps a machine is away as well.
    let how = rig.below(4);
    match how {
        0 => {
            rig.cluster.kill_supervisor(0);
            rig.forget_clients();
        }
        1 => first.iter().for_each(|process| process.pause()),
        2 => rig.cluster.supervisor(0).station().set_cut(true, true),
        _ => {
            rig.cluster.cut_all_power();
            rig.forget_clients();
            (0..3).for_each(|number| rig.cluster.start_node(number));
        }
    }
    let away = (rig.below(3) == 0).then(|| rig.below(3));
    away.iter().for_each(|node| rig.cluster.kill_node(*node));
    rig.run_for(rig.between(0, 9000)).await;
    // What was under way on the disks is over.
    rig.run_for(Duration::from_secs(8)).await;
    let before = digests(&rig.cluster);
    read_by(&rig, 1).await?;
    let device = device(&rig)?;
    let write = async move {
        let data = Buffer::zeroed(BLOCK_BYTES);
        match device.write(Lba(0), data, Durability::Durable).await {
            Err(IoError::ReadOnly) => Ok(()),
            other => Err(other.err().unwrap_or(IoError::Unsupported)),
        }
    };
    in_time(&rig, write).await?;
    // Machines come and go under it.
    if rig.below(2) == 0 {
        let node = rig.below(3);
        rig.cluster.kill_node(node);
        rig.run_for(rig.between(100, 4000)).await;
        rig.cluster.start_node(node);
        rig.run_for(rig.between(100, 4000)).await;
    }
    expect(digests(&rig.cluster) == before, || "a reader has written".into())?;
    let releases = rig.below(3) == 0;
    if releases {
        rig.with(|engine| async move { engine.release_pool(POOL).await }).await?;
    }
    rig.cluster.tell("the owner is back");
    away.iter().for_each(|node| rig.cluster.start_node(*node));
    rig.set_active(0);
    match how {
        0 | 3 => rig.cluster.start_supervisor(0),
        1 => first.iter().for_each(|process| process.resume()),
        _ => rig.cluster.supervisor(0).station().set_cut(false, false),
    }
    let opened = || rig.report().is_some_and(|report| report.lease_ok && !report.read_only);
    rig.cluster.wait_for("the owner has its pool", OPENING_MAX, opened).await?;
    let over = || {
        let report = rig.cluster.supervisor(1).report(POOL);
        report.is_none_or(|report| !report.read_only)
    };
    rig.cluster.wait_for("the reader knows that it is over", NOTICED_MAX, over).await?;
    rig.cluster.kill_supervisor(1);
    rig.load(Mix::default()).await?;
    rig.run_for(Duration::from_millis(500)).await;
    rig.converge().await
}

async fn read_only_rest(stage: Stage) -> Result<(), Failure> {
    let rig = start(&stage).await?;
    rig.cluster.stage().forks.close();
    // One after the other, so that the last one may have missed something, or knows what the others miss.
    let mut gone: Vec<usize> = vec![0, 1, 2];
    let left = gone.swap_remove(rig.below(3));
    for node in &gone {
        rig.cluster.kill_node(*node);
        rig.run_for(rig.between(0, 4000)).await;
    }
    rig.cluster.kill_supervisor(0);
    rig.forget_clients();
    rig.run_for(Duration::from_secs(8)).await;
    let before = digests(&rig.cluster);
    rig.cluster.start_supervisor(1);
    rig.set_active(1);
    let refused = rig.with(|engine| async move {
        engine.import_pool(POOL, ImportOptions { read_only: false, ..READS_IT }).await
    });
    expect(refused.await.is_err(), || "a pool is opened without a majority".into())?;
    import(&rig, ImportOptions { outdated_metadata: true, ..READS_IT }).await?;
    rig.run_for(Duration::from_secs(5)).await;
    let settled = || {
        let engine = rig.cluster.supervisor(1).engine();
        let suspended = rig.volume_report(VOLUME).map(|volume| volume.suspended().is_some());
        if let (Some(engine), Some(true)) = (engine, suspended) {
            // What its log had is given up for the time being.
            let _ = engine.accept_log_loss(POOL, VOLUME, false);
        }
        suspended == Some(false)
    };
    rig.cluster.wait_for("what is left serves", OPENING_MAX, settled).await?;
    let device = device(&rig)?;
    let operations = rig.record(VOLUME).oracle().operations();
    let work = async move {
        let sectors = device.geometry().sectors;
        for start in (0..sectors).step_by(BLOCK_SECTORS as usize) {
            let range = SectorRange::new(Lba(start), BLOCK_SECTORS);
            let data = match device.read(range).await {
                Ok(data) => data.value,
                Err(IoError::Medium(_)) => continue,
                Err(error) => return Err(format!("a read of {range} says {error}")),
            };
            for (sector, bytes) in pattern::sectors(range.start, &data) {
                match pattern::recognise(bytes) {
                    Content::Zero => {}
                    Content::Written { operation, sector: of, .. }
                        if of == sector && operation <= operations => {}
                    other => return Err(format!("sector {sector} is {other:?}")),
                }
            }
        }
        Ok(())
    };
    rig.with(|_| work).await?;
    expect(digests(&rig.cluster) == before, || "a reader has written".into())?;
    // The others are back, under the reader's feet: it goes on with what it has.
    gone.iter().for_each(|node| rig.cluster.start_node(*node));
    rig.run_for(rig.between(0, 9000)).await;
    expect(digests(&rig.cluster) == before, || "a reader has written to what came back".into())?;
    let votes = rig.report().map(|report| report.votes.present);
    expect(votes == Some(1), || format!("of node {left} alone {votes:?} votes were present"))?;
    rig.set_active(0);
    rig.cluster.start_supervisor(0);
    let opened = || rig.report().is_some_and(|report| report.lease_ok);
    rig.cluster.wait_for("the owner has its pool", OPENING_MAX, opened).await?;
    rig.cluster.kill_supervisor(1);
    rig.load(Mix::default()).await?;
    rig.run_for(Duration::from_millis(500)).await;
    rig.converge().await
}
