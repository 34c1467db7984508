//! How much is read and written.

use std::collections::BTreeMap;

use block::VolumeName;
use block::size::Human;
use pool::{DiskOperations, VolumeStats};
use serde::Serialize;

use super::{lines, section, table};

/// What was done in a second, on the average.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    volumes: Vec<Rate>,
    disks: Vec<Rate>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Rate {
    pool: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    reads_per_sec: f64,
    writes_per_sec: f64,
    read_bytes_per_sec: f64,
    written_bytes_per_sec: f64,
}

impl Rates {
    /// Of what was counted.
    pub fn of(counted: &BTreeMap<VolumeName, VolumeStats>) -> Rates {
        let (mut volumes, mut disks) = (Vec::new(), BTreeMap::<_, (f64, Rate)>::new());
        for (name, stats) in counted {
            let secs = stats.now_ms.saturating_sub(stats.began_ms).max(1) as f64 / 1000.0;
            volumes.push(Rate {
                pool: name.pool().to_owned(),
                name: name.volume().to_owned(),
                node: None,
                reads_per_sec: stats.read.total.count() as f64 / secs,
                writes_per_sec: stats.write.total.count() as f64 / secs,
                read_bytes_per_sec: stats.read.bytes as f64 / secs,
                written_bytes_per_sec: stats.write.bytes as f64 / secs,
            });
            // What a disk did for all volumes of its pool is told with each of them, also with one that was made after
            // most of it was done: the longest time is that of the counters.
            for disk in &stats.disks {
                let key = (name.pool().to_owned(), disk.name.clone());
                if disks.get(&key).is_none_or(|(longest, _)| *longest < secs) {
                    let rate = of_disk(name.pool(), &disk.name, &disk.node, &disk.operations, secs);
                    disks.insert(key, (secs, rate));
                }
            }
        }
        Rates { volumes, disks: disks.into_values().map(|(_, rate)| rate).collect() }
    }
}

fn of_disk(pool: &str, name: &str, node: &str, done: &DiskOperations, secs: f64) -> Rate {
    let written = [&done.log, &done.write];
    let writes: u64 = written.iter().map(|one| one.total.count()).sum();
    let bytes: u64 = written.iter().map(|one| one.bytes).sum();
    Rate {
        pool: pool.to_owned(),
        name: name.to_owned(),
        node: Some(node.to_owned()),
        reads_per_sec: done.read.total.count() as f64 / secs,
        writes_per_sec: writes as f64 / secs,
        read_bytes_per_sec: done.read.bytes as f64 / secs,
        written_bytes_per_sec: bytes as f64 / secs,
    }
}

/// `pool iostat`.
pub fn rates(rates: &Rates) -> String {
    const HEADS: [&str; 4] = ["READS/s", "WRITES/s", "READ/s", "WRITTEN/s"];
    let mut volumes = table(&[&["VOLUME"][..], &HEADS].concat());
    for rate in &rates.volumes {
        let name = format!("{}/{}", rate.pool, rate.name);
        volumes.add_row([name].into_iter().chain(cells(rate)));
    }
    let mut disks = table(&[&["POOL", "DISK", "NODE"][..], &HEADS].concat());
    for rate in &rates.disks {
        let node = rate.node.clone().unwrap_or_default();
        disks.add_row([rate.pool.clone(), rate.name.clone(), node].into_iter().chain(cells(rate)));
    }
    let mut text = lines(&volumes);
    section(&mut text, &disks, !rates.disks.is_empty());
    text
}

fn cells(rate: &Rate) -> [String; 4] {
    let count = |rate: f64| match rate {
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    };
    let bytes = |rate: f64| Human(rate as u64).to_string();
    [
        count(rate.reads_per_sec),
        count(rate.writes_per_sec),
        bytes(rate.read_bytes_per_sec),
        bytes(rate.written_bytes_per_sec),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::samples;
    use super::*;

    #[test]
    fn each_volume_and_each_disk_has_its_rates() {
        let mut stats = samples::volume_stats();
        (stats.began_ms, stats.now_ms) = (1000, 3000);
        let name = |name| VolumeName::new("cluster", name).unwrap();
        let counted = BTreeMap::from([(name("v"), stats.clone()), (name("w"), stats)]);
        let text = rates(&Rates::of(&counted));
        let expected = "\
VOLUME     READS/s  WRITES/s  READ/s    WRITTEN/s
cluster/v  1.0      1.0       4.00 KiB  32.0 KiB
cluster/w  1.0      1.0       4.00 KiB  32.0 KiB

POOL     DISK  NODE  READS/s  WRITES/s  READ/s    WRITTEN/s
cluster  e1.0  n1    1.0      0.0       4.00 KiB  0 B
";
        assert_eq!(text, expected, "\n{text}");
        let nothing = rates(&Rates::of(&BTreeMap::new()));
        assert_eq!(nothing, "VOLUME  READS/s  WRITES/s  READ/s  WRITTEN/s\n");
    }
}
