//! A writer that remembers what was acknowledged.
//!
//! It overwrites blocks of one file at random; each block says which block it is and which version.
//! After an `fdatasync` returned, all versions written before are promises. Whatever dies meanwhile:
//! what is read later must be at least the last promised version, and nothing that was never written.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const BLOCK: usize = 4096;

/// A load in the background.
pub struct Load {
    stop: Arc<AtomicBool>,
    promises: Arc<AtomicU64>,
    /// Milliseconds after each promise.
    pause: Arc<AtomicU64>,
    thread: JoinHandle<LoadReport>,
}

/// What was written, and what of it was promised.
pub struct LoadReport {
    file: PathBuf,
    /// Newest version written per block, acknowledged or not.
    written: Vec<u64>,
    /// Newest version per block that a completed fdatasync covers.
    promised: Vec<u64>,
    /// The longest that one write with its fdatasync took.
    pub longest: Duration,
    /// Writes that were promised.
    pub writes: u64,
    /// The error that ended it, if one did.
    pub error: Option<std::io::Error>,
}

impl Load {
    /// Starts to overwrite a file of `blocks` blocks.
    pub fn start(file: &Path, blocks: u64, seed: u64) -> Load {
        Load::paced(file, blocks, seed, Duration::ZERO)
    }

    /// The same with a pause after each promise.
    pub fn paced(file: &Path, blocks: u64, seed: u64, pause: Duration) -> Load {
        let pause = Arc::new(AtomicU64::new(pause.as_millis() as u64));
        let paused = Arc::clone(&pause);
        let stop = Arc::new(AtomicBool::new(false));
        let promises = Arc::new(AtomicU64::new(0));
        let (path, stopped, counted) = (file.to_owned(), Arc::clone(&stop), Arc::clone(&promises));
        let thread = std::thread::spawn(move || {
            write_until(&path, blocks, (seed, &paused), &stopped, &counted)
        });
        Load { stop, promises, pause, thread }
    }

    /// Waits until more of its writes were promised than now, if it doesn't fail.
    pub fn wait_for_promises(&self) {
        self.wait_for(51);
    }

    /// Waits until so many more of its writes were promised than now, if it doesn't fail.
    pub fn wait_for(&self, promises: u64) {
        let seen = self.promises.load(Ordering::Relaxed);
        crate::wait_until("writes are promised", || {
            self.promises.load(Ordering::Relaxed) >= seen + promises || self.thread.is_finished()
        });
    }

    /// Changes the pause after each promise, from the next one on.
    pub fn set_pause(&self, pause: Duration) {
        self.pause.store(pause.as_millis() as u64, Ordering::Relaxed);
    }

    /// Ends it and tells what was written.
    pub fn stop(self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load's thread")
    }
}

impl LoadReport {
    /// Reads everything back past the page cache of the file and checks each block.
    pub fn verify(&self) {
        self.verify_at(&self.file);
    }

    /// The same where the file is elsewhere by now.
    pub fn verify_at(&self, file: &Path) {
        assert!(self.writes > 0, "nothing was promised: the test shows nothing");
        let file = File::open(file).unwrap_or_else(|e| panic!("open {}: {e}", file.display()));
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
        let mut block = vec![0; BLOCK];
        for (index, promised) in self.promised.iter().enumerate() {
            file.read_exact_at(&mut block, (index * BLOCK) as u64)
                .unwrap_or_else(|error| panic!("reading block {index}: {error}"));
            let version = version_of(&block, index as u64)
                .unwrap_or_else(|| panic!("block {index} has contents that were never written"));
            assert!(
                (*promised..=self.written[index]).contains(&version),
                "block {index} has version {version}; promised was {promised}, written {}",
                self.written[index]
            );
        }
        println!(
            "{} blocks verified, {} writes were promised, the longest took {:.2} s",
            self.promised.len(),
            self.writes,
            self.longest.as_secs_f64()
        );
    }

    /// Distinct blocks written, for bounds on what may be copied.
    pub fn blocks(&self) -> u64 {
        self.written.len() as u64
    }
}

fn write_until(
    path: &Path,
    blocks: u64,
    pace: (u64, &AtomicU64),
    stop: &AtomicBool,
    promises: &AtomicU64,
) -> LoadReport {
    let mut report = LoadReport {
        file: path.to_owned(),
        written: vec![0; blocks as usize],
        promised: vec![0; blocks as usize],
        longest: Duration::ZERO,
        writes: 0,
        error: None,
    };
    if let Err(error) = fill(path, &mut report)
        .and_then(|file| overwrite(&file, pace, (stop, promises), &mut report))
    {
        report.error = Some(error);
    }
    report
}

fn fill(path: &Path, report: &mut LoadReport) -> std::io::Result<File> {
    let file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
    for index in 0..report.written.len() {
        report.written[index] = 1;
        file.write_all_at(&block(index as u64, 1), (index * BLOCK) as u64)?;
    }
    file.sync_all()?;
    report.promised.clone_from(&report.written);
    Ok(file)
}

fn overwrite(
    file: &File,
    (seed, pause): (u64, &AtomicU64),
    (stop, promises): (&AtomicBool, &AtomicU64),
    report: &mut LoadReport,
) -> std::io::Result<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let count = random.random_range(1..=8);
        let mut touched = Vec::with_capacity(count);
        for _ in 0..count {
            let index = random.random_range(0..report.written.len());
            report.written[index] += 1;
            file.write_all_at(&block(index as u64, report.written[index]), (index * BLOCK) as u64)?;
            touched.push(index);
        }
        file.sync_data()?;
        for index in touched {
            report.promised[index] = report.written[index];
            report.writes += 1;
            promises.fetch_add(1, Ordering::Relaxed);
        }
        report.longest = report.longest.max(start.elapsed());
        std::thread::sleep(Duration::from_millis(pause.load(Ordering::Relaxed)));
    }
    Ok(())
}

fn block(index: u64, version: u64) -> Vec<u8> {
    let mut random = SmallRng::seed_from_u64(index ^ version.rotate_left(32));
    let mut bytes = vec![0; BLOCK];
    random.fill(&mut bytes[20..]);
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    bytes[8..16].copy_from_slice(&version.to_le_bytes());
    let crc = block::crc32c(&[&bytes[..16], &bytes[20..]].concat());
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn version_of(bytes: &[u8], index: u64) -> Option<u64> {
    let version = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    (bytes == block(index, version)).then_some(version)
}
