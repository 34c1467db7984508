//! What the engine costs by itself: a volume on devices in memory that count, without network, FUSE or
//! threads, on the production executor. `make bench-engine` runs it; docs/benchmarks.md says how to read it.
//!
//! A device answers when nothing else can run any more, 100 us of virtual time later, so that all that was
//! submitted until then is under way together, as on a real disk. So operations and bytes are the same in
//! each run of the same program; only processor time differs.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use block::{
    BLOCK_BYTES, BLOCK_SECTORS, BlockDevice, Buffer, Done, Durability, Geometry, Instant, IoError,
    Lba, MemoryDevice, Operation, Outcome, OwnerId, SECTOR_BYTES, SectorRange,
};
use pool::{
    CreatePool, DiskFacts, Engine, EngineConfig, Layout, Limits, OwnNodes, Stops, VolumeSize,
};
use runtime::{Executor, Order};
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As scripts/bench has it, so that bytes can be compared.
const DISKS: usize = 3;
const DISK_BYTES: u64 = 768 << 20;
const VOLUME_BYTES: u64 = 512 << 20;
/// Of the volume, used.
const RANGE_BYTES: u64 = 256 << 20;
/// What a large request carries.
const LARGE_BYTES: u64 = 1 << 20;
/// How long a device takes.
const DEVICE_LATENCY: Duration = Duration::from_micros(100);
/// Runs of each kind of work, unless `BENCH_RUNS` says otherwise.
const RUNS: usize = 5;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let runs = match std::env::var("BENCH_RUNS") {
        Ok(text) => text.parse().map_err(|error| format!("BENCH_RUNS={text}: {error}"))?,
        Err(_) => RUNS,
    };
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let works: Vec<&Work> = WORKS.iter().filter(|work| work.name.contains(&only)).collect();
    if works.is_empty() || runs == 0 {
        return Err(format!("nothing to do: BENCH_RUNS={runs}, BENCH_ONLY={only}").into());
    }
    let bench = Bench::start()?;
    let mut measured: Vec<Vec<Cost>> = vec![Vec::new(); works.len()];
    // In turns, and once without looking: memory that is used for the first time costs more.
    for run in 0..=runs {
        for (work, costs) in works.iter().zip(&mut measured) {
            let cost = bench.measure(work)?;
            if run > 0 {
                costs.push(cost);
            }
        }
    }
    print_table(&works, &measured);
    Ok(())
}

/// A kind of work.
struct Work {
    name: &'static str,
    kind: Kind,
    order: Place,
    bytes: u64,
    depth: usize,
    requests: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    DurableWrite,
    /// A volatile write, then a flush.
    WriteAndFlush,
    /// A durable write where nothing is: what was there is discarded before.
    WriteFree,
    Discard,
}

/// Which blocks.
#[derive(Clone, Copy)]
enum Place {
    Random,
    Sequential,
    TheSame,
}

const SMALL: u64 = BLOCK_BYTES as u64;

const WORKS: &[Work] = &[
    work("random 4 KiB durable write, depth 1", Kind::DurableWrite, Place::Random, SMALL, 1),
    work("random 4 KiB durable write, depth 32", Kind::DurableWrite, Place::Random, SMALL, 32),
    work("random 4 KiB write and flush, depth 1", Kind::WriteAndFlush, Place::Random, SMALL, 1),
    work("the same 4 KiB again, durable, depth 1", Kind::DurableWrite, Place::TheSame, SMALL, 1),
    work("sequential 1 MiB write, depth 4", Kind::DurableWrite, Place::Sequential, LARGE_BYTES, 4),
    work(
        "1 MiB write into free space, depth 4",
        Kind::WriteFree,
        Place::Sequential,
        LARGE_BYTES,
        4,
    ),
    work("random 4 KiB read, depth 1", Kind::Read, Place::Random, SMALL, 1),
    work("random 4 KiB read, depth 32", Kind::Read, Place::Random, SMALL, 32),
    work("sequential 1 MiB read, depth 4", Kind::Read, Place::Sequential, LARGE_BYTES, 4),
    work("1 MiB discard, depth 1", Kind::Discard, Place::Sequential, LARGE_BYTES, 1),
];

const EMPTY: Work = work("empty", Kind::Discard, Place::Sequential, LARGE_BYTES, 4);
const FILL: Work = work("fill", Kind::DurableWrite, Place::Sequential, LARGE_BYTES, 4);

const fn work(name: &'static str, kind: Kind, order: Place, bytes: u64, depth: usize) -> Work {
    let requests = if bytes == SMALL { 16 << 10 } else { RANGE_BYTES / bytes };
    Work { name, kind, order, bytes, depth, requests }
}

/// What a run of a kind of work cost, of all requests together.
#[derive(Clone)]
struct Cost {
    cpu_us: f64,
    /// Of it inside of the devices: mostly copying.
    device_us: f64,
    disks: Vec<Counts>,
}

// ---- devices ------------------------------------------------------------------------------------

/// Operations and bytes of a device so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    reads: u64,
    writes: u64,
    /// Of the writes, those that are answered only once they are on stable storage.
    durable_writes: u64,
    flushes: u64,
    others: u64,
    read_bytes: u64,
    written_bytes: u64,
}

impl Counts {
    fn add(&mut self, operation: &Operation) {
        let bytes = operation.range().len_bytes();
        match operation {
            Operation::Read(_) => {
                self.reads += 1;
                self.read_bytes += bytes;
            }
            Operation::Write { durability, .. } | Operation::WriteZeroes { durability, .. } => {
                self.writes += 1;
                self.durable_writes += u64::from(*durability == Durability::Durable);
                self.written_bytes += bytes;
            }
            Operation::Flush(_) => self.flushes += 1,
            Operation::Discard(_)
            | Operation::Claim(_)
            | Operation::Renew
            | Operation::AskHealth => self.others += 1,
        }
    }

    fn since(self, begun: Counts) -> Counts {
        Counts {
            reads: self.reads - begun.reads,
            writes: self.writes - begun.writes,
            durable_writes: self.durable_writes - begun.durable_writes,
            flushes: self.flushes - begun.flushes,
            others: self.others - begun.others,
            read_bytes: self.read_bytes - begun.read_bytes,
            written_bytes: self.written_bytes - begun.written_bytes,
        }
    }

    fn operations(&self) -> u64 {
        self.reads + self.writes + self.flushes + self.others
    }
}

/// What all devices have in common.
#[derive(Default)]
struct Answers {
    /// Done, and not told yet.
    waiting: RefCell<Vec<(Done, Outcome)>>,
    /// Time inside of the devices, by a clock that goes on when others have the processor.
    busy: Cell<Duration>,
}

/// A device in memory that counts.
struct CountingDevice {
    memory: MemoryDevice,
    counts: Rc<Cell<Counts>>,
    answers: Rc<Answers>,
}

impl BlockDevice for CountingDevice {
    fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }

    fn submit(&self, operation: Operation, done: Done) {
        let mut counts = self.counts.get();
        counts.add(&operation);
        self.counts.set(counts);
        let begun = std::time::Instant::now();
        let answers = Rc::clone(&self.answers);
        let later = move |outcome| answers.waiting.borrow_mut().push((done, outcome));
        self.memory.submit(operation, Box::new(later));
        self.answers.busy.set(self.answers.busy.get() + begun.elapsed());
    }
}

// ---- the machine --------------------------------------------------------------------------------

/// An engine, its devices, and a volume.
struct Bench {
    executor: Executor,
    answers: Rc<Answers>,
    counts: Vec<Rc<Cell<Counts>>>,
    engine: Rc<Engine>,
    volume: Rc<dyn BlockDevice>,
}

const POOL: &str = "bench";
const VOLUME: &str = "volume";

impl Bench {
    fn start() -> Result<Bench, Failure> {
        let executor = Executor::new(Instant::from_nanos(1_000_000_000), 1, Order::Fifo, || {});
        let config = EngineConfig {
            owner: OwnerId(Uuid::from_u128(1)),
            owner_name: "bench".into(),
            keys: None,
            grants: Vec::new(),
            own_nodes: OwnNodes::default(),
            pools: Vec::new(),
            limits: Limits::default(),
            stops: Stops::default(),
        };
        let engine = Engine::new(executor.handle(), config);
        let answers = Rc::new(Answers::default());
        let mut counts = Vec::new();
        let mut disks = Vec::new();
        for number in 0..DISKS {
            let name = format!("e{number}.0");
            let device = CountingDevice {
                memory: MemoryDevice::new(DISK_BYTES / SECTOR_BYTES as u64),
                counts: Rc::default(),
                answers: Rc::clone(&answers),
            };
            counts.push(Rc::clone(&device.counts));
            let facts = DiskFacts {
                name: name.clone(),
                node: Uuid::from_u128(1000 + number as u128),
                node_name: format!("n{number}"),
                device_name: format!("/dev/{name}"),
                serial: String::new(),
                node_key: None,
            };
            engine.add_device(facts, Rc::new(device));
            disks.push(name);
        }
        let maker = Rc::clone(&engine);
        let made = async move {
            let request = CreatePool::of(POOL, &disks);
            maker.create_pool(request).await?;
            let (size, layout) = (VolumeSize::Bytes(VOLUME_BYTES), Layout::Mirror(2));
            maker.create_volume(POOL, VOLUME, size, layout).await?;
            maker.open_volume(POOL, VOLUME)
        };
        let slot = Rc::new(RefCell::new(None));
        let result = Rc::clone(&slot);
        executor.handle().spawn(async move {
            let volume = made.await;
            *result.borrow_mut() = Some(volume);
        });
        let volume = loop {
            if let Some(volume) = slot.borrow_mut().take() {
                break volume?;
            }
            turn(&executor, &answers)?;
        };
        let bench = Bench { executor, answers, counts, engine, volume };
        bench.measure(&FILL)?;
        Ok(bench)
    }

    /// Does the work, and waits until all of it is in place.
    fn measure(&self, work: &Work) -> Result<Cost, Failure> {
        if work.kind == Kind::WriteFree {
            self.run(&EMPTY)?;
            while self.log_bytes()? > 0 {
                turn(&self.executor, &self.answers)?;
            }
        }
        let begun: Vec<Counts> = self.counts.iter().map(|counts| counts.get()).collect();
        self.answers.busy.set(Duration::ZERO);
        let (cpu, wall) = (cpu_time(), std::time::Instant::now());
        self.run(work)?;
        while self.log_bytes()? > 0 {
            turn(&self.executor, &self.answers)?;
        }
        let (cpu, wall) = (cpu_time().saturating_sub(cpu), wall.elapsed());
        // Others had the processor as often here as elsewhere.
        let share = self.answers.busy.get().as_secs_f64() / wall.as_secs_f64();
        let disks = self.counts.iter().zip(begun);
        let cost = Cost {
            cpu_us: cpu.as_secs_f64() * 1e6,
            device_us: cpu.as_secs_f64() * 1e6 * share,
            disks: disks.map(|(counts, begun)| counts.get().since(begun)).collect(),
        };
        if work.kind == Kind::Discard {
            // The next work finds what the others found.
            self.run(&FILL)?;
            while self.log_bytes()? > 0 {
                turn(&self.executor, &self.answers)?;
            }
        }
        Ok(cost)
    }

    fn run(&self, work: &Work) -> Result<(), Failure> {
        let data = Buffer::copy_of(&vec![0xa5; work.bytes as usize]);
        let ended = Rc::new(Ended::default());
        let mut begun = 0;
        while ended.count.get() < work.requests {
            while begun < work.requests && begun - ended.count.get() < work.depth as u64 {
                self.begin(work, begun, &data, &ended);
                begun += 1;
            }
            turn(&self.executor, &self.answers)?;
            if let Some(error) = ended.failed.take() {
                return Err(format!("{}: {error}", work.name).into());
            }
        }
        Ok(())
    }

    fn begin(&self, work: &Work, number: u64, data: &Buffer, ended: &Rc<Ended>) {
        let blocks = work.bytes / BLOCK_BYTES as u64;
        let places = RANGE_BYTES / work.bytes;
        let place = match work.order {
            Place::Random => self.executor.handle().random_below(places),
            Place::Sequential => number % places,
            Place::TheSame => places / 2,
        };
        let start = Lba(place * blocks * BLOCK_SECTORS);
        let range = SectorRange::new(start, blocks * BLOCK_SECTORS);
        let write = |durability| Operation::Write { start, data: data.clone(), durability };
        let operation = match work.kind {
            Kind::Read => Operation::Read(range),
            Kind::DurableWrite | Kind::WriteFree => write(Durability::Durable),
            Kind::WriteAndFlush => write(Durability::Volatile),
            Kind::Discard => Operation::Discard(range),
        };
        let last = ended.teller();
        let done: Done = match work.kind {
            Kind::WriteAndFlush => {
                let volume = Rc::clone(&self.volume);
                Box::new(move |outcome| match outcome {
                    Ok(written) => volume.submit(Operation::Flush(written.instance), last),
                    Err(error) => last(Err(error)),
                })
            }
            Kind::Read | Kind::DurableWrite | Kind::WriteFree | Kind::Discard => last,
        };
        self.volume.submit(operation, done);
    }

    fn log_bytes(&self) -> Result<u64, Failure> {
        let pools = self.engine.reports();
        let volume =
            pools.iter().flat_map(|pool| &pool.volumes).find(|volume| volume.name == VOLUME);
        Ok(volume.ok_or("the volume is gone")?.log_bytes)
    }
}

/// Requests that were answered.
#[derive(Default)]
struct Ended {
    count: Cell<u64>,
    failed: Cell<Option<IoError>>,
}

impl Ended {
    fn teller(self: &Rc<Self>) -> Done {
        let ended = Rc::clone(self);
        Box::new(move |outcome| {
            ended.count.set(ended.count.get() + 1);
            if let Err(error) = outcome {
                ended.failed.set(Some(error));
            }
        })
    }
}

/// Runs what is ready; if nothing is, lets the devices answer or the next timer come.
fn turn(executor: &Executor, answers: &Answers) -> Result<(), Failure> {
    if executor.run_ready(usize::MAX) > 0 {
        return Ok(());
    }
    let waiting = std::mem::take(&mut *answers.waiting.borrow_mut());
    let now = executor.handle().now();
    if waiting.is_empty() {
        executor.set_now(executor.next_deadline().ok_or("the engine waits for nothing")?);
    } else {
        executor.set_now(now + DEVICE_LATENCY);
    }
    waiting.into_iter().for_each(|(done, outcome)| done(outcome));
    Ok(())
}

/// Processor time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

// ---- the table ----------------------------------------------------------------------------------

fn print_table(works: &[&Work], measured: &[Vec<Cost>]) {
    println!(
        "| | CPU us per request | without devices | reads | writes (durable) | flushes | by disk \
         | bytes read per byte | bytes written per byte |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (work, costs) in works.iter().zip(measured) {
        let Some(last) = costs.last() else { continue };
        let requests = work.requests as f64;
        let each = |counter: fn(&Counts) -> u64| {
            let sums = costs.iter().map(|cost| cost.disks.iter().map(counter).sum::<u64>());
            median(sums.map(|sum| sum as f64).collect()) / requests
        };
        let of_byte = |counter| each(counter) / work.bytes as f64;
        let by_disk =
            last.disks.iter().map(|disk| format!("{:.2}", disk.operations() as f64 / requests));
        println!(
            "| {} | {} | {} | {:.2} | {:.2} ({:.2}) | {:.2} | {} | {:.2} | {:.2} |",
            work.name,
            spread(costs.iter().map(|cost| cost.cpu_us / requests)),
            spread(costs.iter().map(|cost| (cost.cpu_us - cost.device_us) / requests)),
            each(|counts| counts.reads),
            each(|counts| counts.writes),
            each(|counts| counts.durable_writes),
            each(|counts| counts.flushes),
            by_disk.collect::<Vec<_>>().join(", "),
            of_byte(|counts| counts.read_bytes),
            of_byte(|counts| counts.written_bytes),
        );
    }
    println!();
    println!(
        "A volume `mirror:2` on {DISKS} devices in memory. Median of {} runs (lowest..highest) until the \
         log is empty; operations per request, by disk all kinds together.",
        measured.first().map_or(0, Vec::len),
    );
}

fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.first().copied(), values.last().copied());
    let (low, high) = (low.unwrap_or_default(), high.unwrap_or_default());
    format!("{:.2} ({low:.2}..{high:.2})", median(values))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() % 2 {
        0 => values.get(half.wrapping_sub(1)..=half).map_or(0.0, |pair| (pair[0] + pair[1]) / 2.0),
        _ => values[half],
    }
}
