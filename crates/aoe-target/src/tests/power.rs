//! A disk that loses power: of the writes after the last completed flush any subset is gone. What was
//! acknowledged with the write cache off never is, and nothing that was acknowledged before an
//! acknowledged flush.

use block::{Answer, Durability, Lba};
use proptest::prelude::*;

use super::*;

const DISK_SECTORS: usize = 8;

/// A disk with a volatile cache.
struct Cached {
    stable: Vec<u8>,
    /// Writes in the order in which it took them, one byte for a sector.
    cache: Vec<(usize, u8)>,
}

impl Cached {
    fn write(&mut self, sector: usize, fill: u8, durability: Durability) {
        if durability == Durability::Durable {
            // Of the sector: the others in the cache stay there.
            self.cache.retain(|(cached, _)| *cached != sector);
            self.stable[sector] = fill;
        } else {
            self.cache.push((sector, fill));
        }
    }

    fn flush(&mut self) {
        for (sector, fill) in self.cache.drain(..) {
            self.stable[sector] = fill;
        }
    }

    /// What is there after the cut: each cached write has come through or not.
    fn cut(&mut self, survives: &[bool]) {
        for (n, (sector, fill)) in self.cache.drain(..).enumerate() {
            if survives[n % survives.len()] {
                self.stable[sector] = fill;
            }
        }
    }
}

/// What a sector may hold after a cut.
#[derive(Clone, Default)]
struct Promise {
    /// What it has held since the last thing that was promised to stay, that included.
    possible: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(usize),
    Flush,
    CacheOn,
    CacheOff,
    /// The administrator switches the cache.
    Set(bool),
    /// The disk does one of the things that it was asked for.
    Serve(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..DISK_SECTORS).prop_map(Step::Write),
        2 => Just(Step::Flush),
        1 => Just(Step::CacheOn),
        1 => Just(Step::CacheOff),
        1 => any::<bool>().prop_map(Step::Set),
        8 => (0usize..10).prop_map(Step::Serve),
    ]
}

fn request(command: AtaCommand, feature: u8, tag: u32, lba: usize) -> AtaRequest {
    let header = Header { tag, ..header(Command::Ata) };
    let count = u8::from(command == AtaCommand::WRITE_EXT);
    AtaRequest { feature, ..AtaRequest::new(header, command, Lba(lba as u64), count) }
}

/// One run: what clients were told, against what the disk has kept.
struct Run {
    bench: Bench,
    disk: Cached,
    promises: Vec<Promise>,
    /// Writes on their way: tag, sector, contents.
    writes: Vec<(u32, usize, u8)>,
    /// Flushes on their way, and what had been acknowledged when they were sent.
    flushes: Vec<(u32, Vec<Option<u8>>)>,
    /// The last acknowledged contents.
    acknowledged: Vec<Option<u8>>,
    /// The client's switches of the cache that aren't answered yet; whether they are to be off.
    switches: Vec<(u32, bool)>,
    /// The administrator has switched the cache off, and not all that waited then is done.
    settling: bool,
}

impl Run {
    fn new(write_cache: bool) -> Run {
        let bench = Bench::new(OPEN, |options| {
            options.write_cache = write_cache;
            options.write_cache_switchable = true;
        });
        Run {
            bench,
            disk: Cached { stable: vec![0; DISK_SECTORS], cache: Vec::new() },
            promises: vec![Promise { possible: vec![0] }; DISK_SECTORS],
            writes: Vec::new(),
            flushes: Vec::new(),
            acknowledged: vec![None; DISK_SECTORS],
            switches: Vec::new(),
            settling: false,
        }
    }

    fn step(&mut self, n: u32, step: Step) {
        match step {
            Step::Write(sector) => {
                // One at a time on a sector, so that what is acknowledged is the latest.
                if self.writes.iter().any(|(_, busy, _)| *busy == sector) {
                    return;
                }
                let fill = (n % 250) as u8 + 1;
                self.writes.push((n, sector, fill));
                self.promises[sector].possible.push(fill);
                let write = request(AtaCommand::WRITE_EXT, 0, n, sector);
                self.bench.send(&write.emit(Buffer::copy_of(&[fill; 512])));
            }
            Step::Flush => {
                self.flushes.push((n, self.acknowledged.clone()));
                let flush = request(AtaCommand::FLUSH_CACHE_EXT, 0, n, 0);
                self.bench.send(&flush.emit(Buffer::empty()));
            }
            Step::CacheOn | Step::CacheOff => {
                let feature = if matches!(step, Step::CacheOn) { 0x02 } else { 0x82 };
                self.switches.push((n, feature == 0x82));
                let switch = request(AtaCommand::SET_FEATURES, feature, n, 0);
                self.bench.send(&switch.emit(Buffer::empty()));
            }
            Step::Set(write_cache) => {
                let options = ExportOptions {
                    write_cache,
                    write_cache_switchable: true,
                    announce: false,
                    ..ExportOptions::new(ADDRESS, "disk")
                };
                self.settling |= !write_cache;
                self.bench.target.set_options(self.bench.export, options).unwrap();
                self.bench.collect();
            }
            Step::Serve(which) => self.serve(which),
        }
        self.hear();
    }

    fn serve(&mut self, which: usize) {
        if self.bench.io.is_empty() {
            return;
        }
        let index = which % self.bench.io.len();
        let asked = self.bench.io.remove(index).unwrap();
        match asked.operation {
            IoOperation::Device(block::Operation::Write { start, data, durability }) => {
                for (n, sector) in data.chunks(512).enumerate() {
                    self.disk.write(start.0 as usize + n, sector[0], durability);
                }
            }
            IoOperation::Device(block::Operation::Flush(_)) => self.disk.flush(),
            other => panic!("{other:?}"),
        }
        self.bench.complete(asked.id, Ok(Answer::Done));
    }

    /// Takes the answers, and what they promise.
    fn hear(&mut self) {
        let cached = self.bench.target.export_status(self.bench.export).unwrap().write_cache;
        for bytes in std::mem::take(&mut self.bench.sent) {
            let (reply, _) = AtaReply::parse(&bytes).unwrap();
            assert!(!reply.is_failure());
            let tag = reply.header.tag;
            if let Some(at) = self.writes.iter().position(|(write, _, _)| *write == tag) {
                let (_, sector, fill) = self.writes.remove(at);
                self.acknowledged[sector] = Some(fill);
                // Once the cache is known to be off, nothing but what was acknowledged.
                if !cached && !self.settling && self.switches.iter().all(|(_, off)| !off) {
                    self.promises[sector].possible = vec![fill];
                }
            } else if let Some(at) = self.switches.iter().position(|(switch, _)| *switch == tag) {
                let (_, off) = self.switches.remove(at);
                let all = self.acknowledged.clone();
                if off {
                    self.stable(&all);
                }
            } else if let Some(at) = self.flushes.iter().position(|(flush, _)| *flush == tag) {
                let (_, before) = self.flushes.remove(at);
                self.stable(&before);
            }
        }
        let status = self.bench.target.export_status(self.bench.export).unwrap();
        if self.settling && status.queued == 0 {
            self.settling = false;
            let all = self.acknowledged.clone();
            if !status.write_cache {
                self.stable(&all);
            }
        }
    }

    /// What is older than this may not come back.
    fn stable(&mut self, contents: &[Option<u8>]) {
        for (sector, fill) in contents.iter().enumerate() {
            let possible = &mut self.promises[sector].possible;
            let known = fill.and_then(|fill| possible.iter().rposition(|p| *p == fill));
            if let Some(from) = known {
                possible.drain(..from);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_was_promised_is_there(
        write_cache in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
        survives in prop::collection::vec(any::<bool>(), 1..20),
    ) {
        let mut run = Run::new(write_cache);
        for (n, step) in (1u32..).zip(steps) {
            run.step(n, step);
        }
        run.disk.cut(&survives);
        for (sector, promise) in run.promises.iter().enumerate() {
            let found = run.disk.stable[sector];
            prop_assert!(
                promise.possible.contains(&found),
                "sector {} holds {}, may hold {:?}", sector, found, promise.possible
            );
        }
    }

    /// With the cache off from the beginning, it is simple: each acknowledged write is there.
    #[test]
    fn with_the_cache_off_acknowledged_means_stable(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut run = Run::new(false);
        for (n, step) in (1u32..).zip(steps) {
            if matches!(step, Step::Write(_) | Step::Serve(_) | Step::Flush) {
                run.step(n, step);
            }
        }
        prop_assert!(run.disk.cache.is_empty());
        for (sector, fill) in run.acknowledged.iter().enumerate() {
            let busy = run.writes.iter().find(|(_, at, _)| *at == sector).map(|(_, _, new)| *new);
            let found = run.disk.stable[sector];
            prop_assert!(Some(found) == *fill || fill.is_none() && found == 0 || Some(found) == busy);
        }
    }
}
