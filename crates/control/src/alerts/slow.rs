//! Disks that are slow against their peers: what a pool's disks took for the same work in the same minutes.

use std::collections::BTreeMap;

use block::Histogram;
use pool::DiskOperations;
use serde::{Deserialize, Serialize};

/// A disk that is slow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slow {
    /// Its pool.
    pub pool: String,
    /// Its name.
    pub disk: String,
    /// Its machine.
    pub node: String,
    /// What nine of ten of its operations took at most.
    pub p90_ms: u64,
    /// The same for the one in the middle of its peers.
    pub peers_p90_ms: u64,
}

/// Fewer operations say nothing.
const OPERATIONS_MIN: u64 = 100;
/// Disks of a pool that must have worked for one to be slow against them.
const DISKS_MIN: usize = 3;
/// So many times as long as its peers is slow. Times are ends of buckets, powers of two.
const TIMES: u64 = 8;
/// What takes less isn't slow, whatever others take.
const SLOW_MS_MIN: u64 = 50;
/// Times beyond the last bucket.
const ENDLESS_MS: u64 = 67_000;

/// What was seen of disks before.
#[derive(Clone, Debug, Default)]
pub struct SlowDisks {
    before: BTreeMap<(String, String), Histogram>,
}

impl SlowDisks {
    /// Takes what each disk, by pool and name with its machine, did since it was opened; returns those that were
    /// slow since the last time.
    pub fn judge(
        &mut self,
        disks: &BTreeMap<(String, String), (String, DiskOperations)>,
    ) -> Vec<Slow> {
        let now: BTreeMap<_, _> =
            disks.iter().map(|(key, (_, done))| (key.clone(), times(done))).collect();
        let mut by_pool: BTreeMap<&String, Vec<(&String, u64)>> = BTreeMap::new();
        for (key @ (pool, disk), times) in &now {
            let Some(before) = self.before.get(key) else { continue };
            // Counted anew since.
            if times.count() < before.count() {
                continue;
            }
            let lately = times.since(before);
            if lately.count() >= OPERATIONS_MIN {
                let p90 = lately.percentile(90).map_or(ENDLESS_MS, |time| time.as_millis() as u64);
                by_pool.entry(pool).or_default().push((disk, p90));
            }
        }
        let mut slow = Vec::new();
        for (pool, disks_there) in by_pool.iter().filter(|(_, there)| there.len() >= DISKS_MIN) {
            let mut sorted: Vec<u64> = disks_there.iter().map(|(_, p90)| *p90).collect();
            sorted.sort_unstable();
            let peers_p90_ms = sorted[(sorted.len() - 1) / 2];
            for (disk, p90_ms) in disks_there.iter().copied() {
                if p90_ms >= SLOW_MS_MIN && p90_ms >= peers_p90_ms.max(1) * TIMES {
                    let (pool, disk) = ((*pool).clone(), disk.clone());
                    let node = disks.get(&(pool.clone(), disk.clone()));
                    let node = node.map(|(node, _)| node.clone()).unwrap_or_default();
                    slow.push(Slow { pool, disk, node, p90_ms, peers_p90_ms });
                }
            }
        }
        self.before = now;
        slow
    }
}

fn times(done: &DiskOperations) -> Histogram {
    let mut times = done.read.total;
    times.add(&done.log.total);
    times.add(&done.write.total);
    times
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    type Disks = BTreeMap<(String, String), (String, DiskOperations)>;

    fn work(disks: &mut Disks, disk: &str, count: u64, took_ms: u64) {
        let key = ("tank".to_owned(), disk.to_owned());
        let (_, done) =
            disks.entry(key).or_insert_with(|| ("n1".to_owned(), DiskOperations::default()));
        (0..count).for_each(|_| done.read.total.note(Duration::from_millis(took_ms)));
    }

    #[test]
    fn one_among_fast_ones_is_slow_and_all_slow_ones_are_not() {
        let (mut judge, mut disks) = (SlowDisks::default(), Disks::new());
        for disk in ["a", "b", "c", "d"] {
            work(&mut disks, disk, 200, 4);
        }
        assert_eq!(judge.judge(&disks), [], "nothing to compare with yet");
        for (disk, took) in [("a", 4), ("b", 6), ("c", 5), ("d", 300)] {
            work(&mut disks, disk, 200, took);
        }
        let slow = judge.judge(&disks);
        assert_eq!(slow.len(), 1);
        assert_eq!((slow[0].disk.as_str(), slow[0].node.as_str()), ("d", "n1"));
        for disk in ["a", "b", "c", "d"] {
            work(&mut disks, disk, 200, 300);
        }
        assert_eq!(judge.judge(&disks), [], "what is slow for all has another reason");
        for (disk, count) in [("a", 200), ("b", 200), ("c", 200), ("d", 99)] {
            work(&mut disks, disk, count, if disk == "d" { 900 } else { 1 });
        }
        assert_eq!(judge.judge(&disks), [], "too few to tell");
        assert_eq!(judge.judge(&Disks::new()), []);
        assert_eq!(judge.judge(&disks), [], "opened anew");
    }
}
