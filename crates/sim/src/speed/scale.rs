//! Large pools: how long they take to be made, extended and opened, of virtual time and of this machine's, and what
//! memory the owner needs.
//!
//! Unlike the other figures some of these depend on the machine: where metadata are large, processors are what it
//! takes, and in virtual time these cost nothing. So each step is told twice, by the cluster's clock (cables of 1
//! Gbit/s and hard disks) and by the processor time of this process, which is the owner's and that of all simulated
//! machines, cables and disks; an owner on hardware of its own needs at most the sum of both.
//!
//! Memory is that of all of them, too. What of it is the owner's shows where it is killed: nothing else of the process
//! gives any back then.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use block::{Buffer, Durability, Instant, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use pool::engine::{EmptyDisks, Engine, ExtendPool, ImportOptions};
use pool::metadata::Layout;
use pool::{DiskState, JobState, PoolError, PoolReport, VolumeSize};
use rustix::time::{ClockId, clock_gettime};

use super::pool::Settings;
use super::{HARDWARE, run, table};
use crate::cluster::{Cluster, Plan};
use crate::runner::{Failure, Stage};
use crate::scenarios::{POOL, Rig};

const DISKS_EACH: usize = 24;
const DISK_BYTES: u64 = 16_000_000_000_000;
const TIB: u64 = 1 << 40;
/// Together they are as large as is said.
const VOLUMES: u64 = 20;
/// Whoever asked for disks and lost the answers asks again within this.
const SEEN_WITHIN: Duration = Duration::from_secs(60);
/// Longest that any step takes in virtual time.
const STEP_MAX: Duration = Duration::from_secs(3600);

/// A pool to be measured.
struct Size {
    machines: usize,
    volume_bytes: u64,
}

const SIZES: [Size; 3] = [
    Size { machines: 5, volume_bytes: 100 * TIB },
    Size { machines: 20, volume_bytes: 1024 * TIB },
    Size { machines: 100, volume_bytes: 1024 * TIB },
];

/// One step and what it took.
struct Step {
    name: &'static str,
    virtual_time: Duration,
    processor: Duration,
    memory_bytes: u64,
    /// The most that it was meanwhile.
    most_bytes: u64,
}

/// A table for each size; with a number of machines only those of no more.
pub fn report(machines_max: usize, settings: Settings) -> Result<String, Failure> {
    let sizes = SIZES.iter().filter(|size| size.machines <= machines_max);
    let texts = sizes.map(|size| {
        let steps = measure(size, settings)?;
        let title = format!(
            "{} x {DISKS_EACH} x 16 TB, {} TiB in {VOLUMES} mirror:2",
            size.machines,
            size.volume_bytes / TIB
        );
        let head = [title.as_str(), "virtual time", "processor", "both", "memory at most", "after"];
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        let rows = steps.iter().map(|step| {
            vec![
                step.name.to_owned(),
                seconds(step.virtual_time),
                seconds(step.processor),
                seconds(step.virtual_time + step.processor),
                format!("{} MiB", step.most_bytes >> 20),
                format!("{} MiB", step.memory_bytes >> 20),
            ]
        });
        Ok(table(&head, &rows.collect::<Vec<_>>()))
    });
    Ok(texts.collect::<Result<Vec<_>, Failure>>()?.join("\n"))
}

fn measure(size: &Size, settings: Settings) -> Result<Vec<Step>, Failure> {
    let hardware = HARDWARE[0];
    let found: Rc<RefCell<Vec<Step>>> = Rc::default();
    let steps = Rc::clone(&found);
    let (machines, volume_bytes) = (size.machines, size.volume_bytes);
    let body = move |stage: Stage| -> LocalBoxFuture<'static, Result<(), Failure>> {
        async move {
            let plan = Plan {
                nodes: vec![vec![DISK_BYTES; DISKS_EACH]; machines],
                supervisors: 2,
                disk: hardware.disk,
                line: Some(hardware.line),
                // Simulated disks keep what a discard leaves, and of a disk that would be terabytes.
                trim_after: Some(STEP_MAX),
                ..Plan::simple(0, 0)
            };
            let bench = Bench::start(&stage, plan, steps).await?;
            bench.run(volume_bytes).await
        }
        .boxed_local()
    };
    run(hardware, settings, body)?;
    Ok(found.take())
}

fn volume(number: u64) -> String {
    format!("v{number}")
}

struct Bench {
    rig: Rc<Rig>,
    steps: Rc<RefCell<Vec<Step>>>,
}

impl Bench {
    async fn start(
        stage: &Stage,
        plan: Plan,
        steps: Rc<RefCell<Vec<Step>>>,
    ) -> Result<Bench, Failure> {
        let disks = plan.nodes.iter().map(Vec::len).sum();
        let rig = Rig::on(Cluster::start(stage, plan));
        let bench = Bench { rig, steps };
        let seen = bench.rig.see_disks_within(disks, SEEN_WITHIN);
        bench.step("see all disks", seen).await?;
        bench.step("look at all disks", bench.looked()).await?;
        Ok(bench)
    }

    /// Until it is known of each disk that nothing is on it.
    async fn looked(&self) -> Result<(), Failure> {
        let supervisor = self.rig.cluster.supervisor(0);
        let begun = self.now();
        while self.now().since(begun) < SEEN_WITHIN {
            let count = |engine: Rc<Engine>| async move {
                let disks = engine.disks().await;
                disks.iter().filter(|disk| disk.state != DiskState::Free).count()
            };
            if supervisor.with(count).await.map_err(|_| Failure::from("killed"))? == 0 {
                return Ok(());
            }
            self.rig.run_for(Duration::from_millis(100)).await;
        }
        Err(Failure::from("disks aren't free"))
    }

    async fn run(&self, volume_bytes: u64) -> Result<(), Failure> {
        let disks: Vec<String> =
            self.rig.cluster.disks().into_iter().map(|(name, _)| name).collect();
        let request = self.rig.pool_of(disks, None);
        let create = |engine: Rc<Engine>| async move { engine.create_pool(request).await };
        self.step("create the pool", self.on(0, create)).await?;
        let create = move |engine: Rc<Engine>| async move {
            for number in 0..VOLUMES {
                let size = VolumeSize::Bytes(volume_bytes / VOLUMES);
                engine.create_volume(POOL, &volume(number), size, Layout::Mirror(2)).await?;
            }
            Ok::<_, PoolError>(())
        };
        self.step("create volumes", self.on(0, create)).await?;
        self.step("ten seconds at rest", self.rest()).await?;
        self.step("ten reports", self.reports()).await?;
        let number = self.rig.cluster.add_node(&[DISK_BYTES; DISKS_EACH]);
        let shelf = self.rig.cluster.node(number).shelf();
        let added = (0..DISKS_EACH).map(|slot| format!("e{shelf}.{slot}")).collect();
        self.rig.see_disks_within(self.rig.cluster.disks().len(), SEEN_WITHIN).await?;
        let request = ExtendPool { disks: added, ..ExtendPool::default() };
        let extend = |engine: Rc<Engine>| async move { engine.extend_pool(POOL, &request).await };
        self.step("extend it by a machine", self.on(0, extend)).await?;
        self.step("empty a disk", self.emptied()).await?;
        self.step("write a block to each", self.write()).await?;
        self.step("its owner is killed", self.killed(0)).await?;
        self.step("started, until it reads", self.started(0)).await?;
        self.step("its owner is killed", self.killed(0)).await?;
        self.step("imported by another, until it reads", self.imported(1)).await?;
        self.step("its owner is killed", self.killed(1)).await
    }

    /// And what was its memory is the system's.
    async fn killed(&self, number: usize) -> Result<(), Failure> {
        self.rig.cluster.kill_supervisor(number);
        self.rig.run_for(Duration::from_millis(100)).await;
        Ok(())
    }

    /// As long as nobody asks for anything: leases, hints, looks at jobs.
    async fn rest(&self) -> Result<(), Failure> {
        self.rig.run_for(Duration::from_secs(10)).await;
        Ok(())
    }

    /// What status is asked for every second.
    async fn reports(&self) -> Result<(), Failure> {
        let report = |engine: Rc<Engine>| async move {
            let volumes =
                (0..10).map(|_| engine.reports().iter().map(|pool| pool.volumes.len()).sum());
            Ok::<Vec<usize>, String>(volumes.collect())
        };
        let volumes = self.on(0, report).await?;
        match volumes.iter().all(|count| *count as u64 == VOLUMES) {
            true => Ok(()),
            false => Err(Failure(format!("of {VOLUMES} volumes reports have {volumes:?}"))),
        }
    }

    /// Of which nothing is written yet: what is left is to plan, begin and end each move, and to move a vote.
    async fn emptied(&self) -> Result<(), Failure> {
        let disk = self.rig.cluster.disks().first().map(|(name, _)| name.clone());
        let request = EmptyDisks { disks: disk.into_iter().collect(), ..EmptyDisks::default() };
        let empty = |engine: Rc<Engine>| async move { engine.empty_disks(POOL, &request).await };
        self.on(0, empty).await?;
        let is_done =
            |report: PoolReport| report.jobs.iter().all(|job| job.state == JobState::Done);
        let begun = self.now();
        while self.now().since(begun) < STEP_MAX {
            if self.rig.report().is_some_and(is_done) {
                return Ok(());
            }
            self.rig.run_for(Duration::from_secs(1)).await;
        }
        Err(Failure::from("it isn't empty"))
    }

    async fn started(&self, number: usize) -> Result<(), Failure> {
        self.rig.cluster.start_supervisor(number);
        self.read(number).await
    }

    async fn imported(&self, number: usize) -> Result<(), Failure> {
        self.rig.cluster.start_supervisor(number);
        let is_seen = || {
            let engine = self.rig.cluster.supervisor(number).engine();
            engine.is_some_and(|engine| !engine.reports().is_empty())
        };
        self.rig.cluster.wait_for("the pool is seen", STEP_MAX, is_seen).await?;
        let begun = self.now();
        loop {
            let import = |engine: Rc<Engine>| async move {
                engine.import_pool(POOL, ImportOptions::default()).await
            };
            // Refused as long as the other one may be alive.
            match self.on(number, import).await {
                Ok(_) => return self.read(number).await,
                Err(why) if self.now().since(begun) > STEP_MAX => return Err(why),
                Err(_) => self.rig.run_for(Duration::from_millis(500)).await,
            }
        }
    }

    async fn write(&self) -> Result<(), Failure> {
        let write = |engine: Rc<Engine>| async move {
            for number in 0..VOLUMES {
                let device = engine.open_volume(POOL, &volume(number));
                let device = device.map_err(|error| error.to_string())?;
                let data = Buffer::copy_of(&[0x5a; 4096]);
                let written = device.write(Lba(0), data, Durability::Durable).await;
                written.map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        };
        self.on(0, write).await
    }

    /// Until each volume answers a read.
    async fn read(&self, owner: usize) -> Result<(), Failure> {
        let supervisor = self.rig.cluster.supervisor(owner);
        for number in 0..VOLUMES {
            let name = volume(number);
            let open = || supervisor.engine().and_then(|e| e.open_volume(POOL, &name).ok());
            let is_open = || open().is_some();
            self.rig.cluster.wait_for("it is served", STEP_MAX, is_open).await?;
            let device = open().ok_or_else(|| Failure::from("killed"))?;
            let range = SectorRange::new(Lba(0), 4096 / SECTOR_BYTES as u64);
            self.on(owner, |_| async move { device.read(range).await }).await?;
        }
        Ok(())
    }

    async fn on<T: 'static, E: std::fmt::Display + 'static, F>(
        &self,
        number: usize,
        work: impl FnOnce(Rc<Engine>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, E>> + 'static,
    {
        let done = self.rig.cluster.supervisor(number).with(work).await;
        done.map_err(|_| Failure::from("killed"))?.map_err(|error| Failure(error.to_string()))
    }

    fn now(&self) -> Instant {
        self.rig.cluster.world().timeline().now()
    }

    async fn step<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<(), Failure> {
        forget_most();
        let (begun, processor) = (self.now(), processor_time());
        work.await?;
        let step = Step {
            name,
            virtual_time: self.now().since(begun),
            processor: processor_time().saturating_sub(processor),
            memory_bytes: memory_bytes("VmRSS:"),
            most_bytes: memory_bytes("VmHWM:"),
        };
        eprintln!(
            "{name}: {:?} {:?} {} MiB of {}",
            step.virtual_time,
            step.processor,
            step.memory_bytes >> 20,
            step.most_bytes >> 20
        );
        self.steps.borrow_mut().push(step);
        Ok(())
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What the process has in memory, now or at most, by the name that this has in proc_pid_status(5); nothing where it can't
/// be read.
fn memory_bytes(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib: Option<u64> =
        line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse().ok());
    kib.unwrap_or(0) << 10
}

/// The most is counted from now on (proc_pid_clear_refs(5)); where that can't be, it is the most of all.
fn forget_most() {
    let _unchanged = std::fs::write("/proc/self/clear_refs", "5");
}
