//! The power, a machine or a process goes right before, right after or in the middle of the n-th step
//! of an operation. A run of this is a [`Point`] and a seed: `sim --step create/17/middle/power`; all
//! n of an operation one after the other are `sim --steps create`, and a sweep takes some by seed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use pool::engine::ImportOptions;
use pool::metadata::Layout;
use pool::{ExtendPool, PoolState};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME};
pub use super::crash_point::{Point, What, points};
use super::crash_point::{WHATS, WHENS};
use super::damage::mend_every_copy;
use super::losses::start_all;
use super::operations::{
    ADDED, base, base_of, create, disk_names, extend, import, plan, prepare_create,
    prepare_destage, prepare_extend, prepare_import, prepare_takeover, properties, read_all,
    remove, rotten, switch, takeover, verify, write_some,
};
use super::scenario;
use crate::cluster::Plan;
use crate::fork::{Judgement, Loss, Owner};
use crate::runner::{Failure, Scenario, Stage};
use crate::steps::{Kind, Nth, When};

/// A crash at some step, by seed.
pub const SCENARIOS: &[Scenario] = &[
    scenario("crash-in-create", "a crash at any step of making a pool", 400, |stage| {
        by_luck(stage, &CREATE).boxed_local()
    }),
    scenario("crash-in-extend", "a crash at any step of extending pool and volume", 400, |stage| {
        by_luck(stage, &EXTEND).boxed_local()
    }),
    scenario("crash-in-import", "a crash at any step of an import", 400, |stage| {
        by_luck(stage, &IMPORT).boxed_local()
    }),
    scenario(
        "crash-in-takeover",
        "a crash at any step of opening what a crash left",
        400,
        |stage| by_luck(stage, &TAKEOVER).boxed_local(),
    ),
    scenario(
        "crash-in-destage",
        "a crash at any step of bringing the log into place",
        400,
        |stage| by_luck(stage, &DESTAGE).boxed_local(),
    ),
    scenario(
        "crash-in-switch",
        "a crash at any step of the log's way to a new segment",
        400,
        |stage| by_luck(stage, &SWITCH).boxed_local(),
    ),
    scenario(
        "crash-in-re-add",
        "a crash at any step of a disk's return and resync",
        400,
        |stage| by_luck(stage, &READD).boxed_local(),
    ),
    scenario("crash-in-evacuate", "a crash at any step of emptying a disk", 400, |stage| {
        by_luck(stage, &EVACUATE).boxed_local()
    }),
    scenario("crash-in-rebuild", "a crash at any step of a rebuild", 400, |stage| {
        by_luck(stage, &REBUILD).boxed_local()
    }),
    scenario("crash-in-convert", "a crash at any step of getting a copy more", 400, |stage| {
        by_luck(stage, &CONVERT).boxed_local()
    }),
    scenario("crash-in-thinning", "a crash at any step of giving up a copy", 400, |stage| {
        by_luck(stage, &THIN).boxed_local()
    }),
    scenario(
        "crash-in-rebalance",
        "a crash at any step of making free space usable",
        400,
        |stage| by_luck(stage, &REBALANCE).boxed_local(),
    ),
    scenario(
        "crash-in-offline",
        "a crash at any step of taking a disk out of use, and into use again",
        400,
        |stage| by_luck(stage, &OFFLINE).boxed_local(),
    ),
    scenario(
        "crash-in-removal",
        "a crash at any step of removing a disk with a vote",
        400,
        |stage| by_luck(stage, &REMOVAL).boxed_local(),
    ),
    scenario("crash-in-repair", "a crash at any step of reading and mending rot", 400, |stage| {
        by_luck(stage, &REPAIR).boxed_local()
    }),
    scenario("crash-in-verify", "a crash at any step of a verification", 400, |stage| {
        by_luck(stage, &VERIFY).boxed_local()
    }),
    scenario(
        "crash-in-large-write",
        "a crash at any step of writing to places where nothing was",
        400,
        |stage| by_luck(stage, &LARGE_WRITE).boxed_local(),
    ),
    scenario(
        "crash-in-undecided",
        "a crash at any step of opening what was left while something large was written",
        400,
        |stage| by_luck(stage, &UNDECIDED).boxed_local(),
    ),
    scenario("crash-in-remove", "a crash at any step of removing a volume", 400, |stage| {
        by_luck(stage, &REMOVE).boxed_local()
    }),
    scenario("crash-in-reduce", "a crash at any step of reducing a volume", 400, |stage| {
        by_luck(stage, &REDUCE).boxed_local()
    }),
    scenario(
        "crash-in-checkpoint",
        "a crash at any step around a metadata checkpoint",
        400,
        |stage| by_luck(stage, &CHECKPOINT).boxed_local(),
    ),
];

type Prepare = fn(Stage) -> LocalBoxFuture<'static, Result<Rc<Rig>, Failure>>;
type Act = fn(Rc<Rig>) -> LocalBoxFuture<'static, Result<(), Failure>>;

/// What a crash is to come into.
pub struct Operation {
    /// Its name in points.
    pub name: &'static str,
    /// Whether it is short enough to crash at every one of its steps.
    pub is_short: bool,
    /// About how many steps it has.
    steps: u64,
    /// About how many of them are on disks.
    on_disks: u64,
    prepare: Prepare,
    act: Act,
}

/// Every operation.
pub const OPERATIONS: &[Operation] = &[
    CREATE,
    EXTEND,
    IMPORT,
    TAKEOVER,
    DESTAGE,
    SWITCH,
    READD,
    REPAIR,
    VERIFY,
    REMOVE,
    CHECKPOINT,
    LARGE_WRITE,
    UNDECIDED,
    EVACUATE,
    CONVERT,
    THIN,
    REBALANCE,
    REBUILD,
    REMOVAL,
    OFFLINE,
    REDUCE,
];

const CREATE: Operation = Operation {
    name: "create",
    is_short: true,
    steps: 3768,
    on_disks: 266,
    prepare: |stage| prepare_create(stage).boxed_local(),
    act: |rig| create(rig).boxed_local(),
};
const EXTEND: Operation = Operation {
    name: "extend",
    is_short: true,
    steps: 418,
    on_disks: 88,
    prepare: |stage| prepare_extend(stage).boxed_local(),
    act: |rig| extend(rig).boxed_local(),
};
const IMPORT: Operation = Operation {
    name: "import",
    is_short: true,
    steps: 3066,
    on_disks: 54,
    prepare: |stage| prepare_import(stage).boxed_local(),
    act: |rig| import(rig).boxed_local(),
};
const TAKEOVER: Operation = Operation {
    name: "takeover",
    is_short: true,
    steps: 3189,
    on_disks: 84,
    prepare: |stage| prepare_takeover(stage).boxed_local(),
    act: |rig| takeover(rig).boxed_local(),
};
const DESTAGE: Operation = Operation {
    name: "destage",
    is_short: true,
    steps: 70,
    on_disks: 25,
    prepare: |stage| prepare_destage(stage).boxed_local(),
    act: |rig| async move { rig.in_place(VOLUME).await }.boxed_local(),
};
const SWITCH: Operation = Operation {
    name: "switch",
    is_short: false,
    steps: 1095,
    on_disks: 356,
    prepare: |stage| base_of(stage, Plan { in_place: false, ..plan() }).boxed_local(),
    act: |rig| switch(rig).boxed_local(),
};
const READD: Operation = Operation {
    name: "re-add",
    is_short: true,
    steps: 319,
    on_disks: 102,
    prepare: |stage| super::disks::to_be_re_added(stage).boxed_local(),
    act: |rig| super::disks::re_added(rig).boxed_local(),
};
const REPAIR: Operation = Operation {
    name: "repair",
    is_short: true,
    steps: 110,
    on_disks: 10,
    prepare: |stage| rotten(stage).boxed_local(),
    act: |rig| read_all(rig).boxed_local(),
};
const VERIFY: Operation = Operation {
    name: "verify",
    is_short: true,
    steps: 800,
    on_disks: 14,
    prepare: |stage| rotten(stage).boxed_local(),
    act: |rig| verify(rig).boxed_local(),
};
const LARGE_WRITE: Operation = Operation {
    name: "large-write",
    is_short: true,
    steps: 300,
    on_disks: 60,
    prepare: |stage| base(stage).boxed_local(),
    act: |rig| super::in_place::large_write(rig).boxed_local(),
};
const UNDECIDED: Operation = Operation {
    name: "undecided",
    is_short: true,
    steps: 2000,
    on_disks: 100,
    prepare: |stage| super::in_place::to_be_opened(stage).boxed_local(),
    act: |rig| takeover(rig).boxed_local(),
};
const EVACUATE: Operation = Operation {
    name: "evacuate",
    is_short: true,
    steps: 1500,
    on_disks: 300,
    prepare: |stage| super::jobs::to_be_emptied(stage).boxed_local(),
    act: |rig| super::jobs::emptied(rig).boxed_local(),
};
const CONVERT: Operation = Operation {
    name: "convert",
    is_short: true,
    steps: 2000,
    on_disks: 400,
    prepare: |stage| super::layouts::to_be_converted(stage).boxed_local(),
    act: |rig| super::layouts::converted(rig).boxed_local(),
};
const THIN: Operation = Operation {
    name: "thin",
    is_short: true,
    steps: 2000,
    on_disks: 200,
    prepare: |stage| super::layouts::to_be_thinned(stage).boxed_local(),
    act: |rig| super::layouts::thinned(rig).boxed_local(),
};
const REBALANCE: Operation = Operation {
    name: "rebalance",
    is_short: true,
    steps: 4000,
    on_disks: 800,
    prepare: |stage| super::layouts::to_be_rebalanced(stage).boxed_local(),
    act: |rig| super::layouts::rebalanced(rig).boxed_local(),
};
const REBUILD: Operation = Operation {
    name: "rebuild",
    is_short: true,
    steps: 1500,
    on_disks: 300,
    prepare: |stage| super::jobs::to_be_rebuilt(stage).boxed_local(),
    act: |rig| super::jobs::rebuilt(rig).boxed_local(),
};
const REMOVAL: Operation = Operation {
    name: "removal",
    is_short: true,
    steps: 3000,
    on_disks: 400,
    prepare: |stage| super::removal::to_be_removed(stage).boxed_local(),
    act: |rig| super::removal::removed(rig).boxed_local(),
};
const OFFLINE: Operation = Operation {
    name: "offline",
    is_short: true,
    steps: 280,
    on_disks: 100,
    prepare: |stage| super::offline::to_be_offline(stage).boxed_local(),
    act: |rig| super::offline::offline_and_online(rig).boxed_local(),
};
const REMOVE: Operation = Operation {
    name: "remove",
    is_short: true,
    steps: 24,
    on_disks: 12,
    prepare: |stage| base(stage).boxed_local(),
    act: |rig| remove(rig).boxed_local(),
};
const REDUCE: Operation = Operation {
    name: "reduce",
    is_short: true,
    steps: 400,
    on_disks: 100,
    prepare: |stage| base(stage).boxed_local(),
    act: |rig| super::reduce::there_and_back(rig).boxed_local(),
};
const CHECKPOINT: Operation = Operation {
    name: "checkpoint",
    is_short: false,
    steps: 3668,
    on_disks: 1828,
    prepare: |stage| base(stage).boxed_local(),
    act: |rig| properties(rig).boxed_local(),
};

/// The operation of this name.
pub fn operation_of(name: &str) -> Result<&'static Operation, String> {
    let names: Vec<&str> = OPERATIONS.iter().map(|operation| operation.name).collect();
    OPERATIONS
        .iter()
        .find(|operation| operation.name == name)
        .ok_or_else(|| format!("there is no operation `{name}`; there are {}", names.join(", ")))
}

/// The steps that an operation has with the stage's seed, without a crash.
pub async fn count(stage: Stage, operation: &'static Operation) -> Result<Vec<Kind>, Failure> {
    let rig = (operation.prepare)(stage).await?;
    let steps = || rig.cluster.world().timeline().steps();
    steps().begin();
    (operation.act)(Rc::clone(&rig)).await?;
    Ok(steps().end())
}

async fn by_luck(stage: Stage, operation: &'static Operation) -> Result<(), Failure> {
    let mut luck = crate::random::fork(stage.world.seed(), "point");
    // Most of what leaves a process is frames, and reads.
    let nth = match rand::Rng::random_range(&mut luck, 0..4) {
        0 => Nth::Step(rand::Rng::random_range(&mut luck, 0..operation.steps)),
        _ => Nth::OnDisk(rand::Rng::random_range(&mut luck, 0..operation.on_disks)),
    };
    let (when, _) = WHENS[rand::Rng::random_range(&mut luck, 0..WHENS.len())];
    let (what, _) = WHATS[rand::Rng::random_range(&mut luck, 0..WHATS.len())];
    crash_at(stage, Point { operation, nth, when, what }).await
}

/// The crash, and the judgement: all is healed, all that was acknowledged is there, also when one
/// more machine is lost where status says that this is survived.
pub async fn crash_at(stage: Stage, point: Point) -> Result<(), Failure> {
    let rig = (point.operation.prepare)(stage).await?;
    rig.cluster.tell(&format!("to crash at {point}"));
    let struck = arm(&rig, point.nth, point.when, point.what);
    let outcome: Rc<RefCell<Option<Result<(), Failure>>>> = Rc::default();
    rig.cluster.director().spawn({
        let (rig, outcome) = (Rc::clone(&rig), Rc::clone(&outcome));
        async move {
            let result = (point.operation.act)(rig).await;
            *outcome.borrow_mut() = Some(result);
        }
    });
    let over = || outcome.borrow().is_some() || struck.get();
    rig.cluster.wait_for("the operation or its crash", Duration::from_secs(120), over).await?;
    if !struck.get() {
        rig.cluster.world().timeline().steps().end();
        if let Some(result) = outcome.borrow().clone() {
            result?;
        }
        rig.cluster.tell("over before that step");
    } else {
        rig.run_for(rig.between(1, 3000)).await;
    }
    start_all(&rig);
    // A command that goes on without the machine, or is refused.
    rig.cluster
        .wait_for("the operation ends", Duration::from_secs(120), || outcome.borrow().is_some())
        .await
        .or_else(|failure| if struck.get() { Ok(Duration::ZERO) } else { Err(failure) })?;
    recover(&rig, point.operation).await?;
    let is_rotten = ["repair", "verify"].contains(&point.operation.name);
    // With one copy rotten the other one mustn't be lost too.
    if rig.below(4) == 0 && !is_rotten {
        lose_one(&rig);
    }
    if is_rotten {
        // What a machine that is out has isn't looked at.
        rig.wait_clean(CONVERGENCE_MAX).await?;
        rig.record(VOLUME).expect_readable();
        mend_every_copy(&rig).await?;
    }
    write_some(&rig, 4).await?;
    rig.converge().await?;
    if rig.below(4) == 0 {
        lose_one(&rig);
    }
    Ok(())
}

/// Has `what` go at a step; whether it did.
pub(super) fn arm(rig: &Rc<Rig>, nth: Nth, when: When, what: What) -> Rc<Cell<bool>> {
    let struck = Rc::new(Cell::new(false));
    let (weak, strikes) = (Rc::downgrade(rig), Rc::clone(&struck));
    let number = match nth {
        Nth::Step(number) | Nth::OnDisk(number) => number as usize,
        Nth::Named(at) => at.passings as usize,
    };
    let nodes = rig.cluster.node_count();
    let victim = move |place: &str| machine_of(place).unwrap_or(number % nodes);
    let dies = move |at: &str, place: &str| match what {
        What::Process => place.starts_with("super-"),
        What::Power => true,
        What::Machine => machine_of(place) == Some(victim(at)),
    };
    let crash = move |step: &str| {
        let Some(rig) = weak.upgrade() else { return };
        strikes.set(true);
        rig.forget_clients();
        let cluster = &rig.cluster;
        cluster.tell(&format!("{what:?} goes: {step}"));
        match what {
            What::Process => cluster.kill_supervisor(rig.active()),
            What::Power => cluster.cut_all_power(),
            What::Machine => {
                let node = victim(step.rsplit(' ').next().unwrap_or_default());
                cluster.cut_node_power(node, cluster.any_survival());
            }
        }
    };
    rig.cluster.world().timeline().steps().arm(nth, when, dies, crash);
    struck
}

/// The node that a disk or station is of.
fn machine_of(place: &str) -> Option<usize> {
    let number = place.strip_prefix("node-")?.split('.').next()?;
    number.parse::<usize>().ok()?.checked_sub(1)
}

pub(super) fn is_open(rig: &Rig) -> bool {
    rig.report().is_some_and(|report| {
        report.lease_ok && matches!(report.state, PoolState::Online | PoolState::Degraded)
    })
}

/// What an administrator does whose command died: looks, and gives it again.
async fn recover(rig: &Rc<Rig>, operation: &Operation) -> Result<(), Failure> {
    let begin = rig.cluster.world().timeline().now();
    let mut refused = String::new();
    while !is_open(rig) {
        if rig.cluster.world().timeline().now().since(begin) > CONVERGENCE_MAX {
            let report = rig.report();
            return Err(Failure(format!("not open after a crash: {refused}; {report:#?}")));
        }
        rig.run_for(Duration::from_secs(8)).await;
        if is_open(rig) || !["create", "import"].contains(&operation.name) {
            continue;
        }
        let options = ImportOptions { force: true, ..ImportOptions::default() };
        let imported = rig.with(|engine| async move { engine.import_pool(POOL, options).await });
        let Err(no_pool) = imported.await else { continue };
        refused = no_pool.0;
        if operation.name == "create" {
            let disks = disk_names(rig);
            if let Err(again) =
                rig.make_pool(disks.clone(), Some(rig.cluster.plan().extent_bytes), disks).await
            {
                refused = format!("{refused}; {}", again.0);
            }
        }
    }
    let added = || {
        let disks = rig.report().map(|report| report.disks).unwrap_or_default();
        ADDED.iter().filter(|name| disks.iter().any(|disk| disk.name == **name)).count()
    };
    if operation.name == "extend" && ![0, ADDED.len()].contains(&added()) {
        return Err(Failure(format!("{} of {ADDED:?} were added", added())));
    }
    // Their machine may have been the one that went: a person tries again.
    while operation.name == "extend" && added() == 0 {
        let mut added = ExtendPool::of(&ADDED.map(str::to_owned));
        added.force_disks = added.disks.clone();
        let extended = rig
            .with(|engine| async move { engine.extend_pool(POOL, &added).await.map(drop) })
            .await;
        if rig.cluster.world().timeline().now().since(begin) > CONVERGENCE_MAX {
            extended?;
        }
        rig.run_for(Duration::from_secs(1)).await;
    }
    if operation.name == "offline" {
        rig.all_online().await?;
    }
    if operation.name == "reduce" {
        super::reduce::to_full_size(rig).await?;
    }
    rig.adopt_volumes()?;
    if !rig.volumes().iter().any(|name| name == VOLUME) {
        rig.create_volume(VOLUME, 2 << 20, Layout::Mirror(2)).await?;
    }
    Ok(())
}

/// In a fork one machine is lost for good, if status says that this is survived.
fn lose_one(rig: &Rig) {
    let Some(report) = rig.report().filter(|report| report.lease_ok && report.survives >= 1) else {
        return;
    };
    let node = rig.below(rig.cluster.node_count());
    let slots = 0..rig.cluster.node(node).disks().len();
    rig.fork(Loss {
        what: format!("status: {:?}, survives {}", report.state, report.survives),
        lost: slots.map(|slot| (node, slot)).collect(),
        away: BTreeSet::new(),
        survival: None,
        owners: vec![[Owner::Same, Owner::New][rig.below(2)]],
        judgement: Judgement::Readable,
    });
}
