//! A pool with something of everything on its disks, as a power cut leaves it at a busy moment.

use std::collections::BTreeMap;

use block::{Instant, SECTOR_BYTES, SectorRange};

use super::super::*;
use super::{TestDisk, structures};
use crate::engine::KnownPool;
use crate::engine::testing::Journal;

/// Volumes of the pool.
pub(super) const VOLUMES: [(&str, Layout); 2] = [("m", Layout::Mirror(2)), ("r", Layout::Raid0)];
pub(super) const VOLUME_BYTES: u64 = 2 * MIB;
const DISK_MIB: usize = 24;
const EXTENT_BYTES: u64 = 256 << 10;

/// What a volume's blocks may hold.
#[derive(Clone, Default)]
pub(super) struct Contents {
    /// By block: the version that was acknowledged last. None are zeros.
    acknowledged: BTreeMap<u64, u64>,
    /// Versions that were being written when the power went. Sectors may be old or new.
    under_way: BTreeMap<u64, u64>,
    /// Blocks that nobody can tell any more.
    pub(super) lost: BTreeMap<u64, ()>,
}

impl Contents {
    /// What it may be after so many of the disks' writes.
    pub(super) fn after(before: &Contents, story: &[Told], writes: usize) -> Contents {
        let mut contents = before.clone();
        for told in story {
            let versions = told.blocks.clone().map(|block| (block, told.version));
            if told.answered <= writes {
                contents.acknowledged.extend(versions);
            } else if told.begun <= writes {
                contents.under_way.extend(versions);
            }
        }
        contents
    }

    /// Whether a block may be read like that.
    pub(super) fn allow(&self, block: u64, found: &[u8]) -> bool {
        let version = |versions: &BTreeMap<u64, u64>| versions.get(&block).copied();
        let before = contents_of(block, version(&self.acknowledged).unwrap_or(0));
        let after = version(&self.under_way).map(|version| contents_of(block, version));
        let sectors = found.chunks(SECTOR_BYTES).enumerate();
        found.len() == BLOCK_BYTES
            && sectors.into_iter().all(|(index, sector)| {
                let is = |whole: &[u8]| sector == &whole[index * SECTOR_BYTES..][..SECTOR_BYTES];
                is(&before) || after.as_ref().is_some_and(|after| is(after))
            })
    }
}

/// Recognisable contents of a block; of version 0 zeros.
fn contents_of(block: u64, version: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES];
    if version > 0 {
        for (index, word) in bytes.chunks_exact_mut(16).enumerate() {
            word[..8].copy_from_slice(&(block << 16 | index as u64).to_le_bytes());
            word[8..].copy_from_slice(&version.to_le_bytes());
        }
    }
    bytes
}

/// Disks after the power cut, and what they should hold.
pub(super) struct Busy {
    pub(super) disks: Vec<Rc<TestDisk>>,
    pub(super) base: Rc<Vec<Vec<u8>>>,
    pub(super) pools: Vec<KnownPool>,
    pub(super) now: Instant,
    pub(super) contents: BTreeMap<&'static str, Contents>,
}

/// A pool at work.
pub(super) struct Pond {
    pub(super) bench: Bench,
    pub(super) volumes: BTreeMap<&'static str, Rc<dyn BlockDevice>>,
    pub(super) contents: BTreeMap<&'static str, Contents>,
    versions: u64,
    journal: Journal,
    pub(super) story: Vec<Told>,
}

/// A change of both volumes, in a journal of the disks' writes.
pub(super) struct Told {
    pub(super) blocks: std::ops::Range<u64>,
    pub(super) version: u64,
    pub(super) begun: usize,
    pub(super) answered: usize,
}

impl Pond {
    pub(super) fn new(seed: u64) -> Pond {
        let bench = Bench::new(seed, 3, DISK_MIB);
        let disks: Vec<String> = bench.disks.iter().map(|disk| disk.name.clone()).collect();
        let request = CreatePool {
            extent_bytes: Some(EXTENT_BYTES),
            // They join nothing, and are read all the same.
            domains: ["rack=A:e0.0", "batch=7:e1.0"].map(|label| label.parse().unwrap()).to_vec(),
            ..CreatePool::of("pond", &disks)
        };
        let engine = Rc::clone(&bench.engine);
        bench.run(async move { engine.create_pool(request).await }).unwrap();
        for (name, layout) in VOLUMES {
            let (engine, size) = (Rc::clone(&bench.engine), VolumeSize::Bytes(VOLUME_BYTES));
            bench
                .run(async move { engine.create_volume("pond", name, size, layout).await })
                .unwrap();
        }
        let opened =
            VOLUMES.map(|(name, _)| (name, bench.engine.open_volume("pond", name).unwrap()));
        let contents = VOLUMES.map(|(name, _)| (name, Contents::default())).into();
        let (journal, story) = (Journal::default(), Vec::new());
        Pond { bench, volumes: opened.into(), contents, versions: 0, journal, story }
    }

    /// From here on the disks' writes are noted, and when each write of a volume began and was answered.
    pub(super) fn begin_journal(&mut self) -> Vec<Vec<u8>> {
        for disk in &self.bench.disks {
            disk.journal.replace(Some(Rc::clone(&self.journal)));
        }
        self.bench.disks.iter().map(|disk| disk.image()).collect()
    }

    /// A write of both volumes that isn't waited for.
    pub(super) fn begin(&mut self, block: u64, count: u64) {
        self.versions += 1;
        let version = self.versions;
        for (name, volume) in &self.volumes {
            let blocks = block..block + count;
            let data: Vec<u8> = blocks.clone().flat_map(|at| contents_of(at, version)).collect();
            let done = volume.write(Lba(block * 8), Buffer::copy_of(&data), Durability::Durable);
            self.bench.executor.handle().spawn(async move {
                let _ = done.await;
            });
            let under_way = &mut self.contents.get_mut(name).unwrap().under_way;
            under_way.extend(blocks.map(|block| (block, version)));
        }
    }

    /// A write of both that is acknowledged.
    pub(super) fn write(&mut self, block: u64, count: u64) {
        self.versions += 1;
        let begun = self.journal.borrow().len();
        let version = self.versions;
        for (name, volume) in &self.volumes {
            let blocks = block..block + count;
            let data: Vec<u8> = blocks.clone().flat_map(|at| contents_of(at, version)).collect();
            let done = volume.write(Lba(block * 8), Buffer::copy_of(&data), Durability::Durable);
            self.bench.run(done).unwrap();
            let acknowledged = &mut self.contents.get_mut(name).unwrap().acknowledged;
            acknowledged.extend(blocks.map(|block| (block, version)));
        }
        let answered = self.journal.borrow().len();
        self.story.push(Told { blocks: block..block + count, version, begun, answered });
    }

    /// Blocks of both become zeros.
    pub(super) fn clear(&mut self, block: u64, count: u64) {
        for (name, volume) in &self.volumes {
            let range = SectorRange::new(Lba(block * 8), count * 8);
            let done = volume.write_zeroes(range, Durability::Durable);
            self.bench.run(done).unwrap();
            let acknowledged = &mut self.contents.get_mut(name).unwrap().acknowledged;
            acknowledged.extend((block..block + count).map(|block| (block, 0)));
        }
    }

    pub(super) fn pass(&self, time: Duration) {
        self.bench.pass(time);
    }

    /// The writes that were noted.
    pub(super) fn end_journal(&self) -> Vec<(String, Lba, Buffer)> {
        for disk in &self.bench.disks {
            disk.journal.replace(None);
        }
        self.journal.take()
    }

    /// The engine's process dies, and another one opens the pool.
    pub(super) fn again(self) -> Pond {
        let Pond { bench, contents, versions, journal, story, volumes } = self;
        drop(volumes);
        let bench = bench.crash_engine();
        for _ in 0..600 {
            bench.pass(Duration::from_millis(100));
            let open =
                VOLUMES.map(|(name, _)| Some((name, bench.engine.open_volume("pond", name).ok()?)));
            if let [Some(first), Some(second)] = open {
                let volumes = [first, second].into();
                return Pond { bench, volumes, contents, versions, journal, story };
            }
        }
        panic!("it never opens: {:#?}", bench.engine.reports());
    }

    /// Disks as they were at one time in this pool.
    pub(super) fn on(&self, base: &[Vec<u8>]) -> Busy {
        let bench = &self.bench;
        Busy::made_of(base, &bench.engine.known_pools(), bench.executor.handle().now())
    }

    /// The power goes.
    pub(super) fn cut(self) -> Busy {
        let Pond { bench, contents, volumes, .. } = self;
        drop(volumes);
        for disk in &bench.disks {
            disk.crash(&bench.executor.handle());
        }
        Busy::of(bench, contents)
    }
}

impl Busy {
    /// Such disks, of which nothing is known but what is on them.
    pub(super) fn made_of(base: &[Vec<u8>], pools: &[KnownPool], now: Instant) -> Busy {
        let disk = |(node, image): (u8, &Vec<u8>)| {
            let disk = TestDisk::new(&format!("e{node}.0"), node, image.len());
            disk.set_image(image);
            disk
        };
        let disks = (0..).zip(base).map(disk).collect();
        let (base, pools) = (Rc::new(base.to_vec()), pools.to_vec());
        Busy { disks, base, pools, now, contents: BTreeMap::new() }
    }

    fn of(bench: Bench, contents: BTreeMap<&'static str, Contents>) -> Busy {
        let now = bench.executor.handle().now();
        let pools = bench.engine.known_pools();
        bench.executor.clear();
        let base: Vec<Vec<u8>> = bench.disks.iter().map(|disk| disk.image()).collect();
        let disks = bench.disks.clone();
        drop(bench);
        // Nothing but what is on them is left of the former life.
        for (disk, image) in disks.iter().zip(&base) {
            disk.restore(image);
            disk.set_image(image);
        }
        Busy { disks, base: Rc::new(base), pools, now, contents }
    }

    /// Something of everything: in place, in the log, written in place over nothing and over something, and
    /// writes of all kinds under way. What was acknowledged is witnessed by a mark.
    pub(super) fn at_work() -> Busy {
        let mut pond = Pond::new(7001);
        for round in 0..3 {
            pond.write(20 * round, 12);
            pond.write(400, 2);
            pond.pass(Duration::from_millis(1500));
        }
        // Where nothing was, and then over that: in its place only once the log has let go of the first.
        pond.write(130, 1);
        pond.write(140, 40);
        pond.pass(Duration::from_secs(3));
        pond.clear(25, 3);
        pond.write(140, 40);
        pond.write(5, 2);
        pond.pass(Duration::from_millis(120));
        pond.write(30, 1);
        pond.pass(Duration::from_millis(150));
        pond.begin(31, 2);
        pond.begin(200, 40);
        pond.begin(145, 30);
        pond.pass(Duration::from_micros(250));
        pond.cut()
    }

    /// With a record of what is lost: of a record in the log every copy has a damaged row, and the disk is away that it
    /// should be brought to, so that an opening appends what is known of it again.
    pub(super) fn with_lost_row() -> Busy {
        (0..3).find_map(Busy::with_lost_row_without).expect("a disk that has the block of a group")
    }

    /// The same with this disk away, if that is the one.
    fn with_lost_row_without(away: usize) -> Option<Busy> {
        let mut pond = Pond::new(7002);
        pond.write(10, 8);
        pond.pass(Duration::from_secs(3));
        pond.write(12, 1);
        pond.write(14, 3);
        pond.pass(Duration::from_millis(150));
        let mut busy = pond.cut();
        let data = structures(&busy.images()).into_iter().filter(|structure| {
            structure.kind == StructureKind::DataRecord
                && structure.says.get("rows") == Some(&Value::Number(1))
        });
        for record in data {
            let disk = busy.disk_of(&record.disk);
            let at = record.disk_offset_bytes + record.bytes + 77;
            busy.disks[disk].damage(at as usize, |byte| *byte ^= 4);
        }
        for contents in busy.contents.values_mut() {
            contents.lost.insert(12, ());
        }
        let bench = busy.open(3);
        bench.set_mode(away, Mode::Lost);
        let journal = Journal::default();
        for disk in &bench.disks {
            disk.journal.replace(Some(Rc::clone(&journal)));
        }
        let mut found = false;
        for _ in 0..60_000 {
            bench.pass(Duration::from_millis(1));
            let is_lost = |sector: &[u8]| sector.starts_with(b"epLR") && sector[8] == 6;
            let has_lost = |(.., data): &(_, _, Buffer)| data.chunks(SECTOR_BYTES).any(is_lost);
            found = journal.take().iter().any(has_lost);
            if found {
                // Until a mark tells that it is durable. What rots before that is taken for what was being written.
                bench.pass(Duration::from_millis(200));
                break;
            }
        }
        for disk in &bench.disks {
            disk.journal.replace(None);
            disk.set_mode(Mode::Well);
        }
        found.then(|| Busy::of(bench, busy.contents.clone()))
    }

    /// The same disks, of which both volumes should hold this.
    pub(super) fn with(&self, contents: &Contents) -> Busy {
        Busy {
            disks: self.disks.clone(),
            base: Rc::clone(&self.base),
            pools: self.pools.clone(),
            now: self.now,
            contents: VOLUMES.map(|(name, _)| (name, contents.clone())).into(),
        }
    }

    /// Another engine of the same owner over the disks.
    pub(super) fn open(&self, seed: u64) -> Bench {
        Bench::again(seed, self.disks.clone(), self.now, 1, self.pools.clone())
    }

    pub(super) fn images(&self) -> Vec<DiskImage<'_>> {
        let image = |disk: &'_ Rc<TestDisk>| {
            let (disk, bytes) = (Rc::clone(disk), DISK_MIB << 20);
            let name = disk.name.clone();
            let read = move |offset: u64, into: &mut [u8]| {
                let from = offset as usize;
                disk.with_image(|image| into.copy_from_slice(&image[from..from + into.len()]));
                Ok(())
            };
            DiskImage { name, bytes: bytes as u64, read: Box::new(read) }
        };
        self.disks.iter().map(image).collect()
    }

    pub(super) fn disk_of(&self, name: &str) -> usize {
        self.disks.iter().position(|disk| disk.name == name).expect("one of its disks")
    }

    /// Makes the disks what they were when the power went.
    pub(super) fn restore(&self) {
        for (disk, image) in self.disks.iter().zip(self.base.iter()) {
            disk.restore(image);
        }
    }
}
