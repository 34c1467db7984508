//! What most scenarios need: a cluster with a pool and volumes under load, and the final judgement
//! that everything converged and is right.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::IoError;
use pool::engine::{CreatePool, VolumeSize};
use pool::metadata::Layout;
use pool::{DiskState, PoolReport, VerifyReport, VolumeReport};
use rand::Rng;

use super::grants;
use crate::claim::Claim;
pub use crate::cluster::EXTENT_BYTES;
use crate::cluster::{Cluster, Plan, is_clean};
use crate::count::Count;
use crate::fork::Loss;
use crate::oracle::Oracle;
use crate::random::fork_seed;
use crate::runner::{Failure, Stage};
use crate::workload::{Clients, Mix, Record, Watched};

/// The one pool of a scenario.
pub const POOL: &str = "p";
/// The volume of scenarios that need only one.
pub const VOLUME: &str = "v";
/// Longest that a takeover or a restart may take until volumes serve: lease, margin, replay.
pub const OPENING_MAX: Duration = Duration::from_secs(25);
/// Longest that it may take until all is clean once nothing is broken any more.
pub const CONVERGENCE_MAX: Duration = Duration::from_secs(90);
/// Longest that a pool at rest may take until nothing is under way on its disks any more.
const SETTLED_MAX: Duration = Duration::from_secs(20);
/// Longest that status may go on claiming what the disks don't hold: what is being changed is noticed
/// and written down meanwhile.
const CLAIM_LAG: Duration = Duration::from_secs(4);
/// Longest that a fork waits for a client's answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How often a copy is verified again that may not have been whole at that moment.
pub const VERIFIED_AGAIN: usize = 4;
/// Longest that a command, or a look at a whole volume, may take.
const COMMAND_MAX: Duration = Duration::from_secs(100);

/// The name of a machine's first disk.
pub fn disk_of(node: usize) -> String {
    format!("e{}.0", node + 1)
}

/// A cluster with a pool under load.
pub struct Rig {
    /// The machines.
    pub cluster: Rc<Cluster>,
    records: RefCell<BTreeMap<String, Rc<Record>>>,
    clients: RefCell<Vec<Clients>>,
    /// Volumes that may be gone: whoever was to remove them died.
    uncertain: RefCell<BTreeSet<String>>,
    /// The supervisor that should own the pool.
    active: std::cell::Cell<usize>,
}

impl Rig {
    /// Builds and starts a cluster, makes a pool of all its disks and `volumes` in it.
    pub async fn start(
        stage: &Stage,
        plan: Plan,
        volumes: &[(&str, u64, Layout)],
    ) -> Result<Rc<Rig>, Failure> {
        let rig = Rig::on(Cluster::start(stage, plan));
        let names = rig.cluster.disks().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        rig.create_pool(names).await?;
        for (name, size_bytes, layout) in volumes {
            rig.create_volume(name, *size_bytes, *layout).await?;
        }
        Ok(rig)
    }

    /// A pool on three nodes with one mirrored volume of 4 MiB.
    pub async fn mirror(stage: &Stage) -> Result<Rc<Rig>, Failure> {
        Rig::start(stage, Plan::simple(3, 32), &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await
    }

    /// Without a pool yet.
    pub fn on(cluster: Rc<Cluster>) -> Rc<Rig> {
        Rc::new(Rig {
            cluster,
            records: RefCell::default(),
            clients: RefCell::default(),
            uncertain: RefCell::default(),
            active: std::cell::Cell::new(0),
        })
    }

    /// Makes the pool, as soon as its disks are present.
    pub async fn create_pool(&self, disks: Vec<String>) -> Result<(), Failure> {
        self.create_pool_of(disks, Some(self.cluster.plan().extent_bytes)).await
    }

    /// Makes the pool with extents of another size, or of the engine's choice.
    pub async fn create_pool_of(
        &self,
        disks: Vec<String>,
        extent_bytes: Option<u64>,
    ) -> Result<(), Failure> {
        self.see_disks(disks.len()).await?;
        self.make_pool(disks, extent_bytes, Vec::new()).await
    }

    /// Makes the pool of disks present, of which some may carry something.
    pub async fn make_pool(
        &self,
        disks: Vec<String>,
        extent_bytes: Option<u64>,
        force_disks: Vec<String>,
    ) -> Result<(), Failure> {
        let request = CreatePool { force_disks, ..self.pool_of(disks, extent_bytes) };
        let created = grants::create(self, request).await?;
        self.cluster.tell(&format!("pool of {} bytes", created.capacity_bytes));
        Ok(())
    }

    /// What is asked of an engine that is to make the pool.
    pub fn pool_of(&self, disks: Vec<String>, extent_bytes: Option<u64>) -> CreatePool {
        let failure_domain = self.cluster.plan().failure_domain;
        CreatePool { failure_domain, extent_bytes, ..CreatePool::of(POOL, &disks) }
    }

    /// Waits until so many disks are present.
    pub async fn see_disks(&self, count: usize) -> Result<(), Failure> {
        self.see_disks_within(count, Duration::from_secs(10)).await
    }

    /// The same where that may take long.
    pub async fn see_disks_within(&self, count: usize, limit: Duration) -> Result<(), Failure> {
        let pause = Duration::from_millis(20);
        let mut seen = 0;
        for _ in 0..limit.as_millis() / pause.as_millis() {
            seen = self
                .with(|engine| async move { Ok::<_, String>(engine.disks().await.len()) })
                .await?;
            if seen >= count {
                return Ok(());
            }
            self.cluster.sleep(pause).await;
        }
        Err(Failure(format!("{seen} of {count} disks are present within {limit:?}")))
    }

    /// Makes a volume with an oracle of its own.
    pub async fn create_volume(
        &self,
        name: &str,
        size_bytes: u64,
        layout: Layout,
    ) -> Result<VolumeReport, Failure> {
        let owned = name.to_string();
        let report = self
            .with(|engine| async move {
                engine.create_volume(POOL, &owned, VolumeSize::Bytes(size_bytes), layout).await
            })
            .await?;
        self.adopt_volume(name, &report.id);
        Ok(report)
    }

    fn adopt_volume(&self, name: &str, id: &str) {
        let number = fork_seed(self.cluster.world().seed(), id);
        let oracle = Oracle::new(name, number);
        let record =
            Record::new(self.cluster.world(), oracle, Rc::clone(&self.cluster.stage().verdict));
        self.records.borrow_mut().insert(name.to_string(), record);
    }

    /// Whether this volume is still there isn't known from now on.
    pub fn uncertain_volume(&self, name: &str) {
        self.uncertain.borrow_mut().insert(name.to_string());
    }

    /// Brings the oracles into line with the volumes that there are, after a command whose answer
    /// nobody heard.
    pub fn adopt_volumes(&self) -> Result<(), Failure> {
        let report = self.report().ok_or_else(|| Failure("no pool".to_string()))?;
        for volume in &report.volumes {
            if !self.records.borrow().contains_key(&volume.name) {
                self.adopt_volume(&volume.name, &volume.id);
            }
        }
        let there = |name: &String| report.volumes.iter().any(|volume| volume.name == *name);
        for name in self.uncertain.take().into_iter().filter(|name| !there(name)) {
            self.records.borrow_mut().remove(&name);
        }
        match self.volumes().into_iter().find(|name| !there(name)) {
            Some(lost) => Err(Failure(format!("volume {lost} is gone"))),
            None => Ok(()),
        }
    }

    /// Removes a volume and its oracle.
    pub async fn remove_volume(&self, name: &str) -> Result<(), Failure> {
        let owned = name.to_string();
        if let Some(record) = self.records.borrow().get(name) {
            record.is_removed();
        }
        self.with(|engine| async move { engine.remove_volume(POOL, &owned).await }).await?;
        self.records.borrow_mut().remove(name);
        Ok(())
    }

    /// Forgets all volumes: their pool is no more.
    pub fn forget_volumes(&self) {
        self.forget_clients();
        let records = self.records.take();
        records.values().for_each(|record| record.is_removed());
    }

    /// Runs `work` with the active supervisor's engine.
    pub async fn with<T: 'static, E: std::fmt::Display + 'static, F>(
        &self,
        work: impl FnOnce(Rc<pool::engine::Engine>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, E>> + 'static,
    {
        let supervisor = Rc::clone(self.cluster.supervisor(self.active.get()));
        let asked = supervisor.with(work);
        match runtime::timeout(&self.cluster.director(), COMMAND_MAX, asked).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(error))) => Err(Failure(error.to_string())),
            Ok(Err(_)) => Err(Failure("the supervisor died".to_string())),
            Err(_) => {
                let report = self.report();
                Err(Failure(format!("a command hangs for {COMMAND_MAX:?}; {report:#?}")))
            }
        }
    }

    /// The supervisor that should own the pool.
    pub fn active(&self) -> usize {
        self.active.get()
    }

    /// Another supervisor should own the pool from now on.
    pub fn set_active(&self, number: usize) {
        self.active.set(number);
    }

    /// What the active supervisor says.
    pub fn report(&self) -> Option<PoolReport> {
        self.cluster.supervisor(self.active.get()).report(POOL)
    }

    /// What the active supervisor says of a volume.
    pub fn volume_report(&self, name: &str) -> Option<VolumeReport> {
        self.report()?.volumes.into_iter().find(|volume| volume.name == name)
    }

    /// What clients of a volume have seen.
    pub fn record(&self, name: &str) -> Rc<Record> {
        Rc::clone(&self.records.borrow()[name])
    }

    /// All volumes by name.
    pub fn volumes(&self) -> Vec<String> {
        self.records.borrow().keys().cloned().collect()
    }

    /// A volume, as soon as the active supervisor serves it.
    pub async fn open(&self, name: &str) -> Result<Watched, Failure> {
        self.open_within(name, OPENING_MAX).await
    }

    /// A volume, as soon as the active supervisor serves it, within `limit`.
    pub async fn open_within(&self, name: &str, limit: Duration) -> Result<Watched, Failure> {
        let supervisor = Rc::clone(self.cluster.supervisor(self.active.get()));
        let opened = RefCell::new(None);
        self.cluster
            .wait_for(&format!("volume {name} is served"), limit, || {
                let Some(engine) = supervisor.engine() else { return false };
                let device = engine.open_volume(POOL, name).ok();
                *opened.borrow_mut() = device;
                opened.borrow().is_some()
            })
            .await?;
        match opened.into_inner() {
            Some(device) => Ok(Watched::new(device, self.record(name))),
            None => Err(Failure(format!("volume {name} is not served"))),
        }
    }

    /// Runs `work` on a volume inside the active supervisor's process.
    pub async fn on_volume<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(Watched) -> F,
    ) -> Result<T, Failure> {
        let watched = self.open(name).await?;
        let process = self.cluster.supervisor(self.active.get()).process();
        let process = process.ok_or_else(|| Failure("the supervisor is dead".to_string()))?;
        let done = process.run(work(watched));
        match runtime::timeout(&self.cluster.director(), COMMAND_MAX, done).await {
            Ok(result) => result.map_err(|_| Failure("the supervisor died".to_string())),
            Err(_) => {
                let report = self.report();
                Err(Failure(format!("operations hang for {COMMAND_MAX:?}; {report:#?}")))
            }
        }
    }

    /// Starts clients on every volume as soon as it is served.
    pub async fn load(&self, mix: Mix) -> Result<(), Failure> {
        for name in self.volumes() {
            let watched = self.open(&name).await?;
            let Some(process) = self.cluster.supervisor(self.active.get()).process() else {
                return Err(Failure("the supervisor is dead".to_string()));
            };
            let clients = Clients::start(self.cluster.world(), &process, &watched, mix, &name);
            self.clients.borrow_mut().push(clients);
        }
        Ok(())
    }

    /// Lets the load run for `duration`.
    pub async fn run_for(&self, duration: Duration) {
        self.cluster.sleep(duration).await;
    }

    /// Stops the clients and waits for their last answers, at most for `limit`.
    pub async fn quiet(&self, limit: Duration) -> Result<(), Failure> {
        for clients in self.clients.take() {
            let stopped = clients.stop();
            if runtime::timeout(&self.cluster.director(), limit, stopped).await.is_err() {
                let report = self.report();
                return Err(Failure(format!("an operation hangs for {limit:?}; {report:#?}")));
            }
        }
        Ok(())
    }

    /// Forgets the clients of a supervisor that died.
    pub fn forget_clients(&self) {
        self.clients.borrow_mut().clear();
    }

    /// The active supervisor dies and starts again after `pause`.
    pub async fn restart_supervisor(&self, pause: Duration) {
        self.cluster.kill_supervisor(self.active.get());
        self.forget_clients();
        self.cluster.sleep(pause).await;
        self.cluster.start_supervisor(self.active.get());
    }

    /// Waits until everything is there and nobody is behind.
    pub async fn wait_clean(&self, limit: Duration) -> Result<Duration, Failure> {
        let waited = self
            .cluster
            .wait_for("everything is clean", limit, || self.report().is_some_and(|r| is_clean(&r)))
            .await;
        waited
            .map_err(|failure| Failure(format!("{}\nlast report: {:#?}", failure.0, self.report())))
    }

    /// Waits until nothing is left in a volume's log.
    pub async fn in_place(&self, name: &str) -> Result<(), Failure> {
        let destaged = || self.volume_report(name).is_some_and(|volume| volume.log_bytes == 0);
        self.cluster
            .wait_for("the log is destaged", Duration::from_secs(20), destaged)
            .await
            .map(drop)
    }

    /// Waits until the pool knows that the disks of a node are out.
    pub async fn wait_out(&self, node: usize, limit: Duration) -> Result<Duration, Failure> {
        self.wait_for_disks(node, "out", limit, |state| *state != DiskState::Usable).await
    }

    /// Waits until the disks of a node take part.
    pub async fn wait_in(&self, node: usize, limit: Duration) -> Result<Duration, Failure> {
        self.wait_for_disks(node, "in", limit, |state| *state == DiskState::Usable).await
    }

    async fn wait_for_disks(
        &self,
        node: usize,
        what: &str,
        limit: Duration,
        is_so: impl Fn(&DiskState) -> bool,
    ) -> Result<Duration, Failure> {
        let prefix = format!("e{}.", node + 1);
        self.cluster
            .wait_for(&format!("node {} is {what}", node + 1), limit, || {
                self.report().is_some_and(|report| {
                    let mut disks = report.disks.iter().filter(|d| d.name.starts_with(&prefix));
                    disks.all(|disk| is_so(&disk.state))
                })
            })
            .await
    }

    /// The judgement: once nothing is broken any more, all becomes clean within a bound, every
    /// sector reads as the oracle allows, and every copy verifies by itself.
    pub async fn converge(&self) -> Result<(), Failure> {
        self.cluster.heal();
        self.cluster.start_supervisor(self.active.get());
        self.quiet(CONVERGENCE_MAX).await?;
        self.wait_clean(CONVERGENCE_MAX).await?;
        self.verify_all().await
    }

    /// Every sector reads as the oracle allows, and every copy of every volume verifies by itself.
    pub async fn verify_all(&self) -> Result<(), Failure> {
        for name in self.volumes() {
            let read = self.on_volume(&name, |watched| async move { watched.read_all().await });
            match read.await? {
                // Those that nothing explains are told where they are met.
                Ok(()) | Err(IoError::Medium(_)) => {}
                Err(error) => return Err(Failure(format!("{name} can't be read: {error}"))),
            }
            let copies = self.copies_of(&name)?;
            for copy in 0..copies {
                self.verify_copy(&name, copy).await?;
            }
        }
        self.count_at_rest().await
    }

    /// The disks hold what was acknowledged, as often as the layout promises, and status claims no more
    /// than that. What is still being brought into place is waited for.
    pub async fn count_at_rest(&self) -> Result<(), Failure> {
        let begin = self.cluster.world().timeline().now();
        loop {
            let count = Count::of(&self.cluster, &self.oracles());
            count.wrong().map_err(Failure)?;
            let claim = Claim::of(&self.cluster, self.active.get());
            let covered = claim.map_or(Ok(()), |claim| count.covers(&claim));
            match count.at_rest().and(covered) {
                Ok(()) => return Ok(()),
                Err(why) if self.cluster.world().timeline().now().since(begin) > SETTLED_MAX => {
                    return Err(Failure(format!("at rest for {SETTLED_MAX:?}: {why}")));
                }
                Err(_) => self.cluster.sleep(Duration::from_millis(500)).await,
            }
        }
    }

    /// What was acknowledged is on the disks, as a power cut would leave them now.
    pub fn count_now(&self) -> Result<(), Failure> {
        Count::of(&self.cluster, &self.oracles()).wrong().map_err(Failure)
    }

    /// And so is what the metadata says of its disks.
    pub fn count_members_now(&self) -> Result<(), Failure> {
        Count::of(&self.cluster, &self.oracles()).members_are_known().map_err(Failure)
    }

    /// Where nobody writes and nothing has rotted: whoever isn't said to lack something has it, as a power cut would
    /// leave it now.
    pub fn count_credited_now(&self) -> Result<(), Failure> {
        Count::of(&self.cluster, &self.oracles()).credits_are_durable().map_err(Failure)
    }

    /// At some moment of the next `most_ms`: what was acknowledged is on the disks, and status goes on
    /// claiming no more than they hold.
    pub fn count_by_luck(self: &Rc<Self>, most_ms: u64) {
        let forks = Rc::clone(&self.cluster.stage().forks);
        if !forks.by_luck() {
            return;
        }
        let delay = Duration::from_micros(forks.luck(|luck| luck.random_range(0..most_ms * 1000)));
        let rig = Rc::clone(self);
        self.cluster.director().spawn(async move {
            rig.cluster.sleep(delay).await;
            let begin = rig.cluster.world().timeline().now();
            while forks.by_luck() {
                let count = Count::of(&rig.cluster, &rig.oracles());
                let claim = Claim::of(&rig.cluster, rig.active.get());
                let claimed = match (count.wrong(), claim) {
                    (Err(wrong), _) => Err((true, wrong)),
                    (Ok(()), Some(claim)) => count.covers(&claim).map_err(|why| (false, why)),
                    (Ok(()), None) => Ok(()),
                };
                let Err((at_once, why)) = claimed else { return };
                if at_once || rig.cluster.world().timeline().now().since(begin) > CLAIM_LAG {
                    rig.cluster.stage().verdict.fail(why);
                    return;
                }
                rig.cluster.sleep(Duration::from_millis(500)).await;
            }
        });
    }

    /// Every written block of one copy matches its checksum. A destage that began before the last disk
    /// was taken in again may mark regions dirty after everything looked clean, and that a machine restarted a
    /// moment ago isn't noticed yet: then it is waited for.
    pub async fn verify_copy(&self, name: &str, copy: u8) -> Result<(), Failure> {
        let mut report = self.try_verify_copy(name, copy).await?;
        for _ in 0..VERIFIED_AGAIN {
            if !report.bad.is_empty() || report.dirty == 0 {
                break;
            }
            self.run_for(Duration::from_millis(500)).await;
            self.wait_clean(CONVERGENCE_MAX).await?;
            report = self.try_verify_copy(name, copy).await?;
        }
        if report.bad.is_empty() && report.dirty == 0 {
            return Ok(());
        }
        Err(Failure(format!("copy {copy} of {name} doesn't verify: {report:?}")))
    }

    async fn try_verify_copy(&self, name: &str, copy: u8) -> Result<VerifyReport, Failure> {
        let volume = name.to_string();
        self.with(
            |engine| async move { engine.verify_volume(POOL, &volume, Some(copy), &|_| ()).await },
        )
        .await
    }

    fn copies_of(&self, name: &str) -> Result<u8, Failure> {
        let report =
            self.volume_report(name).ok_or_else(|| Failure(format!("{name} is not reported")))?;
        match report.layout.strip_prefix("mirror:") {
            Some(copies) => copies.parse().map_err(|_| Failure(report.layout.clone())),
            None => Ok(1),
        }
    }

    /// Copies the world at this instant and loses `loss` of the copy for good; judged once the run
    /// is over.
    pub fn fork(&self, loss: Loss) {
        let claim = Claim::of(&self.cluster, self.active.get());
        let forks = &self.cluster.stage().forks;
        forks.take(&self.cluster, self.active.get(), self.oracles(), claim.as_ref(), loss);
    }

    /// Does the same with a loss by luck at some moment of the next `most_ms`, if forks by luck are
    /// wanted: at once, while the engine notices a fault, while it goes on without, when what failed
    /// is back; often just after a client was answered.
    pub fn fork_by_luck(self: &Rc<Self>, most_ms: u64) {
        let forks = Rc::clone(&self.cluster.stage().forks);
        if !forks.is_time() {
            return;
        }
        let bound_ms = forks.luck(|luck| [1, 50, 1500, 6000, 15_000][luck.random_range(0..5)]);
        let bound_us = most_ms.min(bound_ms) * 1000;
        let delay = Duration::from_micros(forks.luck(|luck| luck.random_range(0..bound_us)));
        let after_answer = forks.luck(|luck| luck.random_bool(0.5));
        let rig = Rc::clone(self);
        self.cluster.director().spawn(async move {
            rig.cluster.sleep(delay).await;
            let (begin, before) = (rig.cluster.world().timeline().now(), rig.answers());
            while after_answer && rig.answers() == before {
                if rig.cluster.world().timeline().now().since(begin) > ANSWER_MAX {
                    break;
                }
                rig.cluster.sleep(Duration::from_millis(10)).await;
            }
            forks.take_by_luck(&rig.cluster, rig.active.get(), rig.oracles());
        });
    }

    fn answers(&self) -> u64 {
        self.records.borrow().values().map(|record| record.answers()).sum()
    }

    /// Keeps in mind which nodes fail when, as far as forks by luck need it.
    pub fn watch_trouble(self: &Rc<Self>) {
        if !self.cluster.stage().forks.by_luck() {
            return;
        }
        let rig = Rc::clone(self);
        self.cluster.director().spawn(async move {
            while rig.cluster.stage().forks.by_luck() {
                rig.cluster.note_trouble();
                rig.cluster.sleep(Duration::from_millis(50)).await;
            }
        });
    }

    pub fn oracles(&self) -> Vec<Rc<Oracle>> {
        self.records.borrow().values().map(|record| Rc::clone(record.oracle())).collect()
    }

    /// A duration between `least` and `most`, by luck.
    pub fn between(&self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_micros(
            self.cluster.luck(|random| random.random_range(least_ms * 1000..=most_ms * 1000)),
        )
    }

    /// A number below `bound`, by luck.
    pub fn below(&self, bound: usize) -> usize {
        self.cluster.luck(|random| random.random_range(0..bound.max(1)))
    }
}

/// A failed expectation, unless it holds.
pub fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure(what())) }
}
