//! A disk of twelve is lost for good: how fast its copies are made anew on the others, and what that costs those
//! who use the pool meanwhile.
//!
//! What the disks allow: each byte that was lost is read once and written once, evenly by all that are left, each
//! of which reads and writes one after the other as fast as its model streams. What the cables allow: all of it
//! passes through the owner's once in each direction. Requests under a rebuild come at a part of the rate that the
//! degraded pool can answer, half of it if not told otherwise, whatever becomes of those before: who waits doesn't make others come later.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use block::{BlockDevice, Buffer, Durability, Instant, IoError, Lba, SECTOR_BYTES, SectorRange};
use futures::future::{LocalBoxFuture, join_all};
use futures::{FutureExt, StreamExt};
use pool::engine::PoolSettings;
use pool::metadata::Layout;
use rand::Rng;

use super::disks::{self, Pattern};
use super::{Hardware, Rate, chosen, run, side_by_side, table};
use crate::cluster::Plan;
use crate::disk::service::{Model, Usage, Work};
use crate::random::fork;
use crate::runner::{Failure, Stage};
use crate::scenarios::{POOL, Rig};
use crate::speed::pool::Settings;

const MACHINES: usize = 4;
const DISKS_EACH: usize = 3;
/// Those that are left.
const LEFT: f64 = (MACHINES * DISKS_EACH - 1) as f64;
const MIB: u64 = 1 << 20;
const VOLUME: &str = "v";
/// So much of the pool's room is the volume's.
const FILLED_PERCENT: u64 = 75;
/// Longest that any step takes in virtual time.
const STEP_MAX: Duration = Duration::from_secs(3600);
/// After that long nobody passes for somebody who asks for something.
const REST: Duration = Duration::from_secs(3);
/// How long the load is measured without a rebuild.
const ALONE: Duration = Duration::from_secs(8);
/// How long it is judged what the pool can do.
const JUDGED: Duration = Duration::from_secs(4);
/// Requests under way while that is judged.
const JUDGED_DEPTH: usize = 64;
/// Of a hundred requests so many are reads.
const READS_PERCENT: u64 = 70;
/// A disk has so many extents, where they aren't the smallest or largest ones: fewer have their copies on few others,
/// and what is copied lies in smaller parts than on real disks where they are smaller.
const EXTENTS: u64 = 512;
/// Which disk goes.
const GONE: usize = 0;

/// A rebuild and how fast it was.
#[derive(Clone, Debug)]
pub struct Row {
    /// On what, and beside what.
    pub name: String,
    /// Copies made anew.
    pub rate: Rate,
    /// How fast the disks would have done it.
    pub disks_allow: Rate,
    /// How fast the cables would have carried it.
    pub cable_allows: Rate,
    /// The part of the time that the busiest disk and an average one were at work.
    pub disk_busy: (f64, f64),
    /// The part of the time that the arm of an average one was on the way.
    pub positioning: f64,
    /// Requests a second, and how long they took before and beside the rebuild.
    pub load: Option<(f64, Latencies, Latencies)>,
}

/// The median, and what one of a hundred requests exceeds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latencies {
    /// Half of them are quicker.
    pub half: Duration,
    /// All but one of a hundred are.
    pub most: Duration,
}

impl Row {
    /// The rate as a part of the lesser of what disks and cables allow.
    pub fn part(&self) -> f64 {
        self.rate.part_of(self.disks_allow, self.cable_allows)
    }

    fn cells(&self, disk: Model) -> Vec<String> {
        let percent = |part: f64| format!("{:.0} %", part * 100.0);
        let one = disks::rate(disk, Pattern::sequential(Work::Write, 4));
        let one = one.map_or(0.0, Rate::bytes_per_second);
        let times = self.rate.bytes_per_second() / one;
        let mut cells = vec![
            self.name.clone(),
            self.rate.to_string(),
            self.disks_allow.to_string(),
            self.cable_allows.to_string(),
            percent(self.part()),
            format!("{times:.1}"),
            percent(self.disk_busy.0),
            percent(self.disk_busy.1),
            percent(self.positioning),
        ];
        let milliseconds = |took: Duration| format!("{:.2}", took.as_secs_f64() * 1000.0);
        match &self.load {
            None => cells.extend(["-", "-", "-", "-"].map(String::from)),
            Some((rate, alone, beside)) => {
                let times = beside.most.as_secs_f64() / alone.most.as_secs_f64().max(1e-9);
                let pair = |of: &Latencies| {
                    format!("{} / {}", milliseconds(of.half), milliseconds(of.most))
                };
                cells.extend([
                    format!("{rate:.0}/s"),
                    pair(alone),
                    pair(beside),
                    format!("{times:.1}"),
                ]);
            }
        }
        cells
    }
}

/// A table for each kind of hardware whose name has `only` in it.
pub fn report(only: &str, settings: Settings) -> Result<String, Failure> {
    let chosen = chosen(only)?;
    let loads = [0, settings.load_percent];
    let loads = if settings.load_percent == 0 { &loads[..1] } else { &loads };
    let work = chosen.iter().flat_map(|hardware| loads.iter().map(|load| (*hardware, *load)));
    let work = work.map(|(hardware, load)| move || measure(hardware, settings, load));
    let mut rows = side_by_side(work.collect()).into_iter();
    let texts = chosen.iter().map(|hardware| {
        let head = [
            hardware.name,
            "rate",
            "disks allow",
            "cable allows",
            "of the lesser",
            "disks' speed",
            "busiest disk",
            "average disk",
            "of it positioning",
            "requests",
            "p50 / p99 alone, ms",
            "beside it, ms",
            "p99 times",
        ];
        let rows = rows.by_ref().take(loads.len()).map(|row| Ok(row?.cells(hardware.disk)));
        Ok(table(&head, &rows.collect::<Result<Vec<_>, Failure>>()?))
    });
    Ok(texts.collect::<Result<Vec<_>, Failure>>()?.join("\n"))
}

/// A rebuild on one kind of hardware, beside requests at so many percent of what the pool answers.
pub fn measure(hardware: Hardware, settings: Settings, load_percent: u32) -> Result<Row, Failure> {
    let found: Rc<RefCell<Option<Row>>> = Rc::default();
    let row = Rc::clone(&found);
    let body = move |stage: Stage| -> LocalBoxFuture<'static, Result<(), Failure>> {
        async move {
            let bench = Bench::start(&stage, hardware, settings).await?;
            *row.borrow_mut() = Some(bench.rebuild(load_percent).await?);
            Ok(())
        }
        .boxed_local()
    };
    run(hardware, settings, body)?;
    found.take().ok_or_else(|| Failure(format!("{}: it told nothing", hardware.name)))
}

struct Bench {
    rig: Rc<Rig>,
    hardware: Hardware,
    volume_bytes: u64,
}

/// What disks had done at an instant.
struct Mark {
    at: Instant,
    usage: Vec<Usage>,
}

/// Requests that come at a rate.
struct Load {
    until: Rc<Cell<bool>>,
    took: Rc<RefCell<Vec<Duration>>>,
}

impl Bench {
    /// A pool that is filled; time counts only from then on.
    async fn start(
        stage: &Stage,
        hardware: Hardware,
        settings: Settings,
    ) -> Result<Bench, Failure> {
        let disk_bytes = settings.disk_bytes;
        let volume_bytes = disk_bytes * (MACHINES * DISKS_EACH) as u64 / 2 * FILLED_PERCENT / 100;
        let plan = Plan {
            nodes: vec![vec![disk_bytes; DISKS_EACH]; MACHINES],
            extent_bytes: (disk_bytes / EXTENTS).clamp(4 * MIB, 64 * MIB),
            ..Plan::simple(MACHINES, 0)
        };
        let rig = Rig::start(stage, plan, &[(VOLUME, volume_bytes, Layout::Mirror(2))]).await?;
        let bench = Bench { rig, hardware, volume_bytes };
        bench.fill().await?;
        let cluster = &bench.rig.cluster;
        cluster.disks().iter().for_each(|(_, disk)| disk.set_model(hardware.disk));
        let nodes: Vec<_> = (0..cluster.node_count()).map(|number| cluster.node(number)).collect();
        nodes.iter().for_each(|node| node.station().set_line(Some(hardware.line)));
        cluster.supervisor(0).station().set_line(Some(hardware.line));
        Ok(bench)
    }

    async fn rebuild(&self, load_percent: u32) -> Result<Row, Failure> {
        self.set_delay(None).await?;
        let disks = self.rig.cluster.disks();
        let (name, disk) = &disks[GONE];
        disk.set_gone(true);
        self.wait_out(name).await?;
        self.rest().await?;
        let rate = match load_percent {
            0 => None,
            percent => Some(self.most_a_second().await? * f64::from(percent) / 100.0),
        };
        let alone = match rate {
            Some(rate) => {
                let load = self.begin_load(rate)?;
                self.rig.run_for(ALONE).await;
                let alone = load.end();
                self.rest().await?;
                Some(alone)
            }
            None => None,
        };
        let load = rate.map(|rate| self.begin_load(rate)).transpose()?;
        self.set_delay(Some(0)).await?;
        self.rig.cluster.wait_for("a rebuild begins", STEP_MAX, || self.rig.has_job()).await?;
        let lost_bytes = self.rig.report().map_or(0, |report| report.jobs[0].total_bytes);
        let begin = self.mark();
        self.rig.cluster.wait_for("it is done", STEP_MAX, || !self.rig.has_job()).await?;
        let end = self.mark();
        let beside = load.map(|load| load.end());
        let seconds = end.at.since(begin.at).as_secs_f64().max(1e-9);
        let part_of = |what: fn(&Usage) -> Duration| {
            let pairs = begin.usage.iter().zip(&end.usage);
            let part = |(begin, end)| what(end).saturating_sub(what(begin)).as_secs_f64() / seconds;
            pairs.map(part).collect::<Vec<f64>>()
        };
        let busy = part_of(|usage| usage.busy);
        let positioning = part_of(|usage| usage.positioning);
        let line = self.hardware.line.bytes_per_second as f64;
        let of_bytes = |bytes: f64| Rate { per_second: bytes / MIB as f64, len_bytes: MIB };
        let load = rate.zip(alone).zip(beside);
        Ok(Row {
            name: match load_percent {
                0 => format!("rebuild of {} MiB", lost_bytes / MIB),
                percent => {
                    format!("rebuild of {} MiB, {percent} % of requests", lost_bytes / MIB)
                }
            },
            rate: of_bytes(lost_bytes as f64 / seconds),
            disks_allow: of_bytes(self.disks_allow()),
            cable_allows: of_bytes(line),
            disk_busy: (busy.iter().copied().fold(0.0, f64::max), busy.iter().sum::<f64>() / LEFT),
            positioning: positioning.iter().sum::<f64>() / LEFT,
            load: load.map(|((rate, alone), beside)| (rate, alone, beside)),
        })
    }

    /// Until nothing is left to do of what was asked, and the pool knows that nobody asks for anything.
    async fn rest(&self) -> Result<(), Failure> {
        self.rig.in_place(VOLUME).await?;
        self.rig.run_for(REST).await;
        Ok(())
    }

    fn disks_allow(&self) -> f64 {
        let stream = |work| {
            let alone = disks::rate(self.hardware.disk, Pattern::sequential(work, 4));
            alone.map_or(f64::NAN, Rate::bytes_per_second)
        };
        LEFT / (1.0 / stream(Work::Read) + 1.0 / stream(Work::Write))
    }

    async fn set_delay(&self, secs: Option<u64>) -> Result<(), Failure> {
        let settings = PoolSettings { rebuild_delay_secs: Some(secs), ..PoolSettings::default() };
        self.rig.with(|engine| async move { engine.set_pool(POOL, &settings).await }).await
    }

    async fn wait_out(&self, name: &str) -> Result<(), Failure> {
        let is_out = || {
            let disks = self.rig.report().map_or_else(Vec::new, |report| report.disks);
            disks.iter().any(|disk| disk.name == name && disk.state != pool::DiskState::Usable)
        };
        // Somebody has to ask it something.
        let begin = self.mark().at;
        while !is_out() {
            self.do_some(64, READS_PERCENT).await?;
            if self.mark().at.since(begin) > STEP_MAX {
                return Err(Failure("the disk that is gone isn't out".into()));
            }
        }
        Ok(())
    }

    fn mark(&self) -> Mark {
        let disks = self.rig.cluster.disks();
        Mark {
            at: self.rig.cluster.world().timeline().now(),
            usage: disks.iter().map(|(_, disk)| disk.usage()).collect(),
        }
    }

    async fn fill(&self) -> Result<(), Failure> {
        let sectors = MIB / SECTOR_BYTES as u64;
        let parts = self.volume_bytes / MIB;
        let device = self.device().await?;
        let written = self.rig.cluster.supervisor(0).with(move |_| async move {
            let data = Buffer::copy_of(&[0x5a; MIB as usize]);
            let writes = (0..parts)
                .map(|part| device.write(Lba(part * sectors), data.clone(), Durability::Durable));
            let mut writes = futures::stream::iter(writes).buffer_unordered(4);
            while let Some(written) = writes.next().await {
                written?;
            }
            Ok::<(), IoError>(())
        });
        written.await.map_err(|_| Failure::from("killed"))??;
        self.rig.in_place(VOLUME).await
    }

    async fn device(&self) -> Result<Rc<dyn BlockDevice>, Failure> {
        let open =
            |engine: Rc<pool::engine::Engine>| async move { engine.open_volume(POOL, VOLUME) };
        let opened = self.rig.cluster.supervisor(0).with(open).await;
        Ok(opened.map_err(|_| Failure::from("killed"))??)
    }

    /// Does so many requests, and waits for them.
    async fn do_some(&self, count: usize, reads_percent: u64) -> Result<(), Failure> {
        let (device, blocks) = (self.device().await?, self.volume_bytes / 4096);
        let mut random = fork(self.rig.cluster.world().seed(), "some");
        let done = self.rig.cluster.supervisor(0).with(move |_| async move {
            let data = Buffer::copy_of(&[0x5b; 4096]);
            let requests =
                (0..count).map(|_| one_of(&device, &data, blocks, reads_percent, &mut random));
            join_all(requests.collect::<Vec<_>>())
                .await
                .into_iter()
                .collect::<Result<(), IoError>>()
        });
        Ok(done.await.map_err(|_| Failure::from("killed"))??)
    }

    /// Requests a second that the pool answers when it always has many to answer.
    async fn most_a_second(&self) -> Result<f64, Failure> {
        let (device, blocks) = (self.device().await?, self.volume_bytes / 4096);
        let seed = self.rig.cluster.world().seed();
        let process = self.rig.cluster.supervisor(0).process();
        let handle = process.and_then(|process| process.handle());
        let handle = handle.ok_or_else(|| Failure::from("killed"))?;
        let begin = self.mark().at;
        let done = self.rig.cluster.supervisor(0).with(move |_| async move {
            let data = Buffer::copy_of(&[0x5b; 4096]);
            let (begin, count) = (handle.now(), Rc::new(Cell::new(0_u64)));
            let clients = (0..JUDGED_DEPTH).map(|client| {
                let (device, data, handle) = (Rc::clone(&device), data.clone(), handle.clone());
                let mut random = fork(seed, &format!("client-{client}"));
                let count = Rc::clone(&count);
                async move {
                    while handle.now().since(begin) < JUDGED {
                        one_of(&device, &data, blocks, READS_PERCENT, &mut random).await?;
                        count.update(|count| count + 1);
                    }
                    Ok::<(), IoError>(())
                }
            });
            for done in join_all(clients).await {
                done?;
            }
            Ok::<u64, IoError>(count.get())
        });
        let count = done.await.map_err(|_| Failure::from("killed"))??;
        // What only the log has by then is work as well.
        self.rig.in_place(VOLUME).await?;
        Ok(count as f64 / self.mark().at.since(begin).as_secs_f64())
    }

    /// Requests come at a rate from now on.
    fn begin_load(&self, rate: f64) -> Result<Load, Failure> {
        let cluster = &self.rig.cluster;
        let killed = || Failure::from("killed");
        let process = cluster.supervisor(0).process().ok_or_else(killed)?;
        let engine = cluster.supervisor(0).engine().ok_or_else(killed)?;
        let handle = process.handle().ok_or_else(killed)?;
        let device = engine.open_volume(POOL, VOLUME)?;
        let load = Load { until: Rc::default(), took: Rc::default() };
        let (over, took) = (Rc::clone(&load.until), Rc::clone(&load.took));
        let (blocks, mut random) = (self.volume_bytes / 4096, fork(cluster.world().seed(), "load"));
        let data = Buffer::copy_of(&[0x5c; 4096]);
        let spawner = handle.clone();
        spawner.spawn(async move {
            let mut next = handle.now();
            while !over.get() {
                let request = one_of(&device, &data, blocks, READS_PERCENT, &mut random);
                let (took, timer, began) = (Rc::clone(&took), handle.clone(), handle.now());
                handle.spawn(async move {
                    if request.await.is_ok() {
                        took.borrow_mut().push(timer.now().since(began));
                    }
                });
                // As they come where each comes by itself.
                let pause = -(1.0 - random.random::<f64>()).ln() / rate;
                next = next + Duration::from_secs_f64(pause);
                handle.sleep_until(next).await;
            }
        });
        Ok(load)
    }
}

impl Load {
    fn end(self) -> Latencies {
        self.until.set(true);
        let mut took = self.took.take();
        took.sort_unstable();
        let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
        Latencies { half: at(50), most: at(99) }
    }
}

/// A read or a write of 4 KiB anywhere.
fn one_of(
    device: &Rc<dyn BlockDevice>,
    data: &Buffer,
    blocks: u64,
    reads_percent: u64,
    random: &mut impl Rng,
) -> LocalBoxFuture<'static, Result<(), IoError>> {
    let count = 4096 / SECTOR_BYTES as u64;
    let start = Lba(random.random_range(0..blocks) * count);
    let (device, data) = (Rc::clone(device), data.clone());
    match random.random_range(0..100) < reads_percent {
        true => {
            async move { device.read(SectorRange::new(start, count)).await.map(drop) }.boxed_local()
        }
        false => async move { device.write(start, data, Durability::Durable).await.map(drop) }
            .boxed_local(),
    }
}
