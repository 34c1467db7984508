//! A volume with two copies on three machines with a disk each, under the work that people judge speed by, and
//! several that share what it had.
//!
//! What the disks allow is what the same models do alone, under the pattern that this work would be to
//! them if each byte went to its place at once, and of random work on as large a part of the disk. What the
//! cables allow is what passes through the one at the owner. A log may beat the former for a while, until
//! what it holds has to go into place: so each kind of write has a second line that ends when nothing is
//! left in the log, the second of idleness included after which a log is destaged.

use std::rc::Rc;
use std::time::Duration;

use block::{BlockDevice, Buffer, Durability, Instant, IoError, Lba, SECTOR_BYTES, SectorRange};
use futures::future::LocalBoxFuture;
use futures::{FutureExt, StreamExt};
use pool::metadata::Layout;
use rand::Rng;

use super::disks::{self, Pattern};
use super::{Hardware, Rate, chosen, run, side_by_side, table};
use crate::cluster::Plan;
use crate::disk::service::{Model, Usage, Work};
use crate::random::fork;
use crate::runner::{Failure, Stage};
use crate::scenarios::{POOL, Rig};

const MACHINES: usize = 3;
const COPIES: f64 = 2.0;
const MIB: u64 = 1 << 20;
/// Volumes that are written at once.
const VOLUMES: usize = 4;
/// Requests in flight of somebody who streams.
const STREAM_DEPTH: usize = 4;
/// Longest that any step takes in virtual time.
const STEP_MAX: Duration = Duration::from_secs(1800);
/// The machine that goes away.
const AWAY: usize = 2;

/// How much is done, and how.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Size of the volume, what is streamed, and of several together.
    pub volume_bytes: u64,
    /// Size of each disk of a pool that rebuilds one.
    pub disk_bytes: u64,
    /// Requests beside a rebuild come at this part of the rate that the degraded pool answers; 0: it is measured only
    /// without any.
    pub load_percent: u32,
    /// Operations of each random pattern on disks with an arm; ten times as many on others.
    pub operations: usize,
    /// All follows from it.
    pub seed: u64,
    /// Every event is printed as it happens.
    pub verbose: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            volume_bytes: 128 << 20,
            disk_bytes: 1 << 30,
            load_percent: 50,
            operations: 4000,
            seed: 0,
            verbose: false,
        }
    }
}

/// One kind of work and how fast it was.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was done.
    pub name: String,
    /// How fast.
    pub rate: Rate,
    /// How fast the disks would have done it.
    pub disks_allow: Rate,
    /// How fast the cables would have carried it.
    pub cable_allows: Rate,
    /// The part of the time that the busiest disk was at work, and that it was on the way to data.
    pub disk_busy: (f64, f64),
    /// The part of the time that the busiest cable carried something.
    pub cable_busy: f64,
    /// Bytes that disks moved for each byte that was asked for.
    pub amplification: f64,
    /// Frames that found a queue full.
    pub dropped: u64,
}

impl Row {
    /// The rate as a part of the lesser of what disks and cables allow.
    pub fn part(&self) -> f64 {
        self.rate.part_of(self.disks_allow, self.cable_allows)
    }

    fn cells(&self) -> Vec<String> {
        let percent = |part: f64| format!("{:.0} %", part * 100.0);
        vec![
            self.name.clone(),
            self.rate.to_string(),
            self.disks_allow.to_string(),
            self.cable_allows.to_string(),
            percent(self.part()),
            percent(self.disk_busy.0),
            percent(self.disk_busy.1),
            percent(self.cable_busy),
            format!("{:.2}", self.amplification),
            self.dropped.to_string(),
        ]
    }
}

/// A table for each kind of hardware whose name has `only` in it.
pub fn report(only: &str, settings: Settings) -> Result<String, Failure> {
    let chosen = chosen(only)?;
    let work = chosen.iter().map(|hardware| {
        let hardware = *hardware;
        move || measure(hardware, settings)
    });
    let tables = side_by_side(work.collect());
    let texts = chosen.iter().zip(tables).map(|(hardware, rows)| {
        let head = [
            hardware.name,
            "rate",
            "disks allow",
            "cable allows",
            "of the lesser",
            "disk busy",
            "seeking",
            "cable busy",
            "disk bytes per byte",
            "dropped",
        ];
        let rows: Vec<Vec<String>> = rows?.iter().map(Row::cells).collect();
        Ok(table(&head, &rows))
    });
    Ok(texts.collect::<Result<Vec<_>, Failure>>()?.join("\n"))
}

/// All kinds of work on one kind of hardware.
pub fn measure(hardware: Hardware, settings: Settings) -> Result<Vec<Row>, Failure> {
    let mut rows = measure_shared(hardware, settings, 1)?;
    rows.extend(measure_shared(hardware, settings, VOLUMES)?);
    Ok(rows)
}

/// The same for one volume, or what differs where there are several.
fn measure_shared(
    hardware: Hardware,
    settings: Settings,
    volumes: usize,
) -> Result<Vec<Row>, Failure> {
    let rows = Rc::default();
    let measured = Rc::clone(&rows);
    let body = move |stage: Stage| -> LocalBoxFuture<'static, Result<(), Failure>> {
        async move {
            let bench = Bench::start(&stage, hardware, settings, volumes, measured).await?;
            match volumes {
                1 => bench.all().await,
                _ => bench.shared().await,
            }
        }
        .boxed_local()
    };
    run(hardware, settings, body)?;
    Ok(Rc::unwrap_or_clone(rows).into_inner())
}

/// Two copies on three disks fill two thirds of the size of all volumes; the rest is for logs.
fn disk_bytes(settings: Settings, volumes: usize) -> u64 {
    settings.volume_bytes + volumes as u64 * (64 << 20)
}

struct Bench {
    rig: Rc<Rig>,
    hardware: Hardware,
    settings: Settings,
    volumes: Vec<String>,
    rows: Rc<std::cell::RefCell<Vec<Row>>>,
}

/// What was done up to an instant.
struct Mark {
    at: Instant,
    usage: Vec<Usage>,
    read_bytes: u64,
    written_bytes: u64,
    cables: Vec<Duration>,
    dropped: u64,
}

/// What a row says about its work beside the time that it took.
struct Did {
    name: String,
    work: Work,
    count: f64,
    len_bytes: u64,
    disks_allow: f64,
    /// Bytes that pass the owner's cable, in the busier direction, for each byte that was asked for.
    carried: f64,
}

impl Bench {
    async fn start(
        stage: &Stage,
        hardware: Hardware,
        settings: Settings,
        volumes: usize,
        rows: Rc<std::cell::RefCell<Vec<Row>>>,
    ) -> Result<Bench, Failure> {
        let disk_mib = disk_bytes(settings, volumes) / MIB;
        let plan = Plan {
            disk: hardware.disk,
            line: Some(hardware.line),
            extent_bytes: 4 * MIB,
            ..Plan::simple(MACHINES, disk_mib)
        };
        let len_bytes = settings.volume_bytes / volumes as u64;
        let volumes: Vec<String> = (0..volumes).map(|number| format!("v{number}")).collect();
        let created: Vec<_> =
            volumes.iter().map(|name| (&**name, len_bytes, Layout::Mirror(2))).collect();
        let rig = Rig::start(stage, plan, &created).await?;
        Ok(Bench { rig, hardware, settings, volumes, rows })
    }

    async fn all(&self) -> Result<(), Failure> {
        self.writes("sequential 1 MiB write", self.in_sequence(), STREAM_DEPTH).await?;
        self.writes("sequential 1 MiB overwrite", self.in_sequence(), STREAM_DEPTH).await?;
        self.reads("sequential 1 MiB read", self.in_sequence(), STREAM_DEPTH).await?;
        for depth in [1, 32] {
            self.reads(&format!("random 4 KiB read, depth {depth}"), self.anywhere(), depth)
                .await?;
        }
        for depth in [1, 32] {
            let name = format!("random 4 KiB write, depth {depth}");
            self.writes(&name, self.anywhere(), depth).await?;
        }
        self.resync("resync of what was streamed", self.in_sequence()).await?;
        self.resync("resync of 4 KiB here and there", self.anywhere()).await
    }

    async fn shared(&self) -> Result<(), Failure> {
        let name = format!("random 4 KiB write, depth 32, {} volumes", self.volumes.len());
        self.submit(self.in_sequence(), STREAM_DEPTH, Work::DurableWrite).await?;
        self.in_place().await?;
        self.writes(&name, self.anywhere(), 32).await
    }

    fn in_sequence(&self) -> Vec<SectorRange> {
        let count = MIB / SECTOR_BYTES as u64;
        let whole = self.settings.volume_bytes / MIB;
        (0..whole).map(|number| SectorRange::new(Lba(number * count), count)).collect()
    }

    fn anywhere(&self) -> Vec<SectorRange> {
        let count = 4096 / SECTOR_BYTES as u64;
        let label = format!("speed-{}", self.rows.borrow().len());
        let mut random = fork(self.rig.cluster.world().seed(), &label);
        let blocks = self.settings.volume_bytes / 4096;
        let mut place = || SectorRange::new(Lba(random.random_range(0..blocks) * count), count);
        let times = if matches!(self.hardware.disk, Model::Spinning(_)) { 1 } else { 10 };
        (0..self.settings.operations * times).map(|_| place()).collect()
    }

    async fn reads(
        &self,
        name: &str,
        ranges: Vec<SectorRange>,
        depth: usize,
    ) -> Result<(), Failure> {
        let disks = self.disks_allow(Work::Read, ranges[0], depth, 1.0);
        let did = self.did(name, Work::Read, &ranges, disks, 1.0);
        let mark = self.mark();
        self.submit(ranges, depth, Work::Read).await?;
        self.tell(&mark, &did);
        Ok(())
    }

    async fn writes(
        &self,
        name: &str,
        ranges: Vec<SectorRange>,
        depth: usize,
    ) -> Result<(), Failure> {
        let disks = self.disks_allow(Work::DurableWrite, ranges[0], depth, COPIES);
        let did = self.did(name, Work::Write, &ranges, disks, COPIES);
        let mark = self.mark();
        self.submit(ranges, depth, Work::DurableWrite).await?;
        self.tell(&mark, &did);
        self.in_place().await?;
        self.tell(&mark, &Did { name: format!("{name}, in place"), ..did });
        Ok(())
    }

    /// A machine is away while `ranges` are written, and comes back.
    async fn resync(&self, name: &str, ranges: Vec<SectorRange>) -> Result<(), Failure> {
        self.rig.cluster.kill_node(AWAY);
        self.rig.wait_out(AWAY, STEP_MAX).await?;
        self.submit(ranges, 32, Work::DurableWrite).await?;
        self.in_place().await?;
        self.rig.cluster.start_node(AWAY);
        self.rig.wait_in(AWAY, STEP_MAX).await?;
        let behind = self
            .rig
            .report()
            .map_or(0, |report| report.disks.iter().map(|disk| disk.dirty_bytes).sum::<u64>());
        let stream = Pattern::sequential(Work::Write, STREAM_DEPTH);
        let disks = disks::rate(self.hardware.disk, stream).map_or(0.0, Rate::bytes_per_second);
        let did = Did {
            name: format!("{name} ({} MiB)", behind / MIB),
            work: Work::Write,
            count: behind as f64 / MIB as f64,
            len_bytes: MIB,
            disks_allow: disks / MIB as f64,
            carried: 1.0,
        };
        let mark = self.mark();
        self.rig.wait_clean(STEP_MAX).await?;
        self.tell(&mark, &did);
        Ok(())
    }

    /// Does `work` to all of `ranges`, so many at a time.
    async fn submit(
        &self,
        ranges: Vec<SectorRange>,
        depth: usize,
        work: Work,
    ) -> Result<(), Failure> {
        let supervisor = self.rig.cluster.supervisor(0);
        let mut devices: Vec<Rc<dyn BlockDevice>> = Vec::new();
        for name in self.volumes.clone() {
            let device =
                supervisor.with(move |engine| async move { engine.open_volume(POOL, &name) });
            devices.push(device.await.map_err(|_| Failure::from("killed"))??);
        }
        // What is told apart by its place lies in one volume behind the other.
        let sectors = devices[0].geometry().sectors;
        let place = move |range: SectorRange| {
            let device = Rc::clone(&devices[(range.start.0 / sectors) as usize]);
            (device, SectorRange::new(Lba(range.start.0 % sectors), range.count))
        };
        let done = supervisor.with(move |_| async move {
            let data = Buffer::copy_of(&[0x5a; MIB as usize]);
            let each = ranges.into_iter().map(place).map(|(device, range)| match work {
                Work::Read => device.read(range).map(|read| read.map(drop)).boxed_local(),
                _ => {
                    let data = data.slice(0, range.len_bytes() as usize);
                    let write = device.write(range.start, data, Durability::Durable);
                    write.map(|written| written.map(drop)).boxed_local()
                }
            });
            let mut done = futures::stream::iter(each).buffer_unordered(depth);
            while let Some(outcome) = done.next().await {
                outcome?;
            }
            Ok::<(), IoError>(())
        });
        Ok(done.await.map_err(|_| Failure::from("killed"))??)
    }

    /// Waits until the log holds nothing that isn't in place.
    async fn in_place(&self) -> Result<(), Failure> {
        let is_empty = |name: &String| {
            self.rig.volume_report(name).is_some_and(|volume| volume.log_bytes == 0)
        };
        let empty = || self.volumes.iter().all(is_empty);
        self.rig.cluster.wait_for("all is in place", STEP_MAX, empty).await.map(drop)
    }

    /// Operations a second that the disks would do together.
    fn disks_allow(&self, work: Work, range: SectorRange, depth: usize, copies: f64) -> f64 {
        let len_bytes = range.len_bytes();
        // Of a stream the cache is part; one operation at a time keeps one disk busy, or each copy's.
        let in_turn = |depth: usize| match len_bytes {
            4096 => Pattern::random(work, depth),
            _ => Pattern::sequential(if work == Work::Read { work } else { Work::Write }, depth),
        };
        let at_work = (depth as f64 * copies).min(MACHINES as f64);
        let each = ((depth as f64 * copies / MACHINES as f64).round() as usize).max(1);
        let used_bytes = (self.settings.volume_bytes as f64 * COPIES / MACHINES as f64) as u64;
        let disk_bytes = disk_bytes(self.settings, self.volumes.len());
        let alone = disks::rate_within(self.hardware.disk, in_turn(each), disk_bytes, used_bytes);
        alone.map_or(0.0, |alone| alone.per_second) * at_work / copies
    }

    fn did(
        &self,
        name: &str,
        work: Work,
        ranges: &[SectorRange],
        disks_allow: f64,
        carried: f64,
    ) -> Did {
        let (count, len_bytes) = (ranges.len() as f64, ranges[0].len_bytes());
        Did { name: name.to_string(), work, count, len_bytes, disks_allow, carried }
    }

    fn mark(&self) -> Mark {
        let cluster = &self.rig.cluster;
        let disks: Vec<_> = cluster.disks().into_iter().map(|(_, disk)| disk).collect();
        let nodes = (0..cluster.node_count()).map(|number| cluster.node(number));
        let cables = nodes.flat_map(|node| node.station().busy());
        let owner = cluster.supervisor(0).station().busy();
        Mark {
            at: cluster.world().timeline().now(),
            usage: disks.iter().map(|disk| disk.usage()).collect(),
            read_bytes: disks.iter().map(|disk| disk.counters().read_bytes).sum(),
            written_bytes: disks.iter().map(|disk| disk.counters().written_bytes).sum(),
            cables: cables.chain(owner).collect(),
            dropped: cluster.network().counters().overflowed,
        }
    }

    /// A row about what was done since `begin`.
    fn tell(&self, begin: &Mark, did: &Did) {
        let end = self.mark();
        let time = end.at.since(begin.at).max(Duration::from_nanos(1));
        let part = |spent: Duration| spent.as_secs_f64() / time.as_secs_f64();
        let usage = begin.usage.iter().zip(&end.usage).map(|(begin, end)| {
            (
                part(end.busy.saturating_sub(begin.busy)),
                part(end.positioning.saturating_sub(begin.positioning)),
            )
        });
        let cables = begin.cables.iter().zip(&end.cables);
        let cables = cables.map(|(begin, end)| part(end.saturating_sub(*begin)));
        let rate = |per_second| Rate { per_second, len_bytes: did.len_bytes };
        let moved = match did.work {
            Work::Read => end.read_bytes - begin.read_bytes,
            _ => end.written_bytes - begin.written_bytes,
        };
        let line = self.hardware.line.bytes_per_second as f64;
        self.rows.borrow_mut().push(Row {
            name: did.name.clone(),
            rate: rate(did.count / time.as_secs_f64()),
            disks_allow: rate(did.disks_allow),
            cable_allows: rate(line / did.carried / did.len_bytes as f64),
            disk_busy: usage
                .fold((0.0, 0.0), |most, disk| if disk.0 > most.0 { disk } else { most }),
            cable_busy: cables.fold(0.0, f64::max),
            amplification: moved as f64 / (did.count * did.len_bytes as f64),
            dropped: end.dropped - begin.dropped,
        });
    }
}
