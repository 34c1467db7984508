//! One trial: what the disks hold now is looked at, opened and read.

use std::collections::BTreeSet;

use std::cell::RefCell;

use block::{IoError, SECTOR_BYTES, SectorRange};

use super::super::*;
use super::busy::{Busy, VOLUME_BYTES, VOLUMES};
use crate::report::{PoolReport, PoolState};

/// How long a pool may take to be served, or to say why it isn't.
const PATIENCE: Duration = Duration::from_secs(90);

/// What came of it: everything as it should be, or what was refused, and by which words.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Of the pool as a whole.
    pub(super) pool: Option<String>,
    /// By volume.
    pub(super) volumes: BTreeMap<&'static str, String>,
}

impl Outcome {
    pub(super) fn is_right(&self) -> bool {
        self.pool.is_none() && self.volumes.is_empty()
    }

    /// Whether no more than this volume was refused.
    pub(super) fn is_right_but_for(&self, volume: &str) -> bool {
        self.pool.is_none() && self.volumes.keys().all(|name| *name == volume)
    }
}

impl Busy {
    /// Looks at the disks as they are, opens the pool, reads everything, and makes them what they were.
    ///
    /// # Panics
    /// When something wrong is read, nothing is said, or what one of two readers can't read isn't a finding of
    /// the other.
    pub(super) fn trial(&self, what: &str) -> Outcome {
        let wrong: RefCell<Vec<String>> = RefCell::default();
        let report = {
            let visit = |block: &BlockCopies<'_>| {
                let contents = self.contents.iter().find(|(name, _)| **name == block.volume);
                let (Some((_, contents)), Some(found)) = (contents, block.contents) else { return };
                let at = block.offset_bytes / BLOCK_BYTES as u64;
                if !contents.allow(at, found) {
                    wrong.borrow_mut().push(format!("block {at} of {}", block.volume));
                }
            };
            check_contents(&self.images(), &CheckOptions::default(), &visit)
        };
        let bench = self.open(5);
        let outcome = self.settle(&bench, what);
        let outcome = match outcome {
            Ok(()) => self.read_all(&bench, what),
            Err(refused) => Outcome { pool: Some(refused), ..Outcome::default() },
        };
        // What is refused is a finding, too.
        assert!(
            outcome.is_right() || serious(&report).iter().any(|_| true),
            "{what}: the engine says {outcome:?}, and the check finds nothing"
        );
        // A check shows what would be read if nothing but the disks counted: of what a volume refuses it may
        // show what the engine doesn't dare to give.
        if outcome.is_right() {
            assert_eq!(*wrong.borrow(), Vec::<String>::new(), "{what}: the check shows it so");
        }
        bench.executor.clear();
        drop(bench);
        self.restore();
        outcome
    }

    /// Waits until the pool is served or says why not.
    fn settle(&self, bench: &Bench, what: &str) -> Result<(), String> {
        let is_served = |report: &PoolReport| {
            matches!(report.state, PoolState::Online | PoolState::Degraded)
                && report.volumes.len() == VOLUMES.len()
                && report.volumes.iter().all(|volume| volume.suspended().is_none())
        };
        let end = bench.executor.handle().now() + PATIENCE;
        loop {
            if bench.engine.reports().first().is_some_and(is_served) {
                return Ok(());
            }
            if bench.executor.handle().now() >= end {
                break;
            }
            bench.pass(Duration::from_millis(250));
        }
        let reports = bench.engine.reports();
        match reports.first().map(|report| (&report.state, report)) {
            Some((PoolState::Online | PoolState::Degraded, report))
                if report.volumes.len() == 2 =>
            {
                Ok(())
            }
            // A pool is in the state of its worst volume; the others are served.
            Some((PoolState::Suspended { .. }, report))
                if report.volumes.iter().any(|volume| volume.suspended().is_some()) =>
            {
                Ok(())
            }
            Some((PoolState::Suspended { why } | PoolState::Incomplete { why }, _))
                if !why.is_empty() =>
            {
                Err(why.clone())
            }
            Some((PoolState::Foreign, report)) => Err(format!("it is {}'s", report.owner)),
            other => panic!("{what}: neither served nor refused: {other:#?}"),
        }
    }

    fn read_all(&self, bench: &Bench, what: &str) -> Outcome {
        let mut outcome = Outcome::default();
        for (name, _) in VOLUMES {
            if let Some(why) = self.read_volume(bench, name, what) {
                outcome.volumes.insert(name, why);
            }
        }
        outcome
    }

    /// Why it, or some of it, can't be read.
    fn read_volume(&self, bench: &Bench, name: &'static str, what: &str) -> Option<String> {
        let report = bench.engine.reports().remove(0);
        let volume = report.volumes.iter().find(|volume| volume.name == name);
        let volume = volume.unwrap_or_else(|| panic!("{what}: {name} is gone"));
        if let Some(why) = volume.suspended() {
            assert!(!why.is_empty(), "{what}: {name} is suspended for nothing");
            return Some(why.to_owned());
        }
        let device = bench.engine.open_volume("pond", name).unwrap();
        let contents = &self.contents[name];
        let read = |from: u64, count: u64| -> Result<Buffer, IoError> {
            let done = device.read(SectorRange::new(Lba(from * 8), count * 8));
            let done = bench.run_for(PATIENCE, done);
            done.unwrap_or_else(|| panic!("{what}: {name} block {from} is never read"))
                .map(|d| d.value)
        };
        let mut failed = BTreeSet::new();
        let (blocks, piece) = (VOLUME_BYTES / BLOCK_BYTES as u64, 128);
        for first in (0..blocks).step_by(piece) {
            let whole = read(first, piece as u64);
            for at in first..first + piece as u64 {
                let one = match &whole {
                    Ok(whole) => {
                        let from = (at - first) as usize * BLOCK_BYTES;
                        Ok(whole[from..from + BLOCK_BYTES].to_vec())
                    }
                    Err(_) => read(at, 1).map(|found| found.to_vec()),
                };
                match one {
                    Ok(found) => assert!(
                        contents.allow(at, &found) && !contents.lost.contains_key(&at),
                        "{what}: block {at} of {name} is wrong: {:02x?}",
                        &found[..SECTOR_BYTES.min(48)]
                    ),
                    // Lost before: an error is what is right.
                    Err(_) if contents.lost.contains_key(&at) => {}
                    Err(error) => {
                        failed.insert((at, error.to_string()));
                    }
                }
            }
        }
        (!failed.is_empty()).then(|| format!("{failed:?}"))
    }
}
