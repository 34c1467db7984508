//! Whom reads ask, and how often.

use super::super::testing::Bench;
use super::pattern;
use crate::metadata::Layout;

fn reads(bench: &Bench) -> Vec<u64> {
    bench.disks.iter().map(|disk| disk.reads.get()).collect()
}

#[test]
fn whoever_reads_in_sequence_has_the_checksums_of_a_span_by_one_read() {
    let bench = Bench::new(250, 2, 160);
    bench.create_with(8 << 20);
    let volume = bench.create_volume(8, Layout::Mirror(2));
    let blocks: Vec<u64> = (0..2040).step_by(8).collect();
    for block in &blocks {
        bench.write(&volume, *block, pattern(*block, 1, 1)).unwrap();
    }
    bench.until(|report| report.volumes[0].log_bytes == 0);
    let serving = bench.serving();
    let group = {
        let meta = serving.pool.meta.borrow();
        meta.volumes().values().flat_map(|volume| volume.groups()).next().unwrap().generation()
    };
    assert_eq!(serving.pool.shape().checksum_blocks(), 3);
    let forget = || (0..3).for_each(|index| serving.checksums.evict(group, index));
    let known = || (0..3).map(|index| serving.checksums.in_memory(group, index).is_some());

    forget();
    bench.read(&volume, 400, 1).unwrap();
    assert!(known().eq([true, false, false]), "nobody asked for the others");

    forget();
    let before = reads(&bench).iter().sum::<u64>();
    bench.read(&volume, 0, 1).unwrap();
    assert!(known().eq([true, true, true]));
    for block in &blocks {
        assert_eq!(bench.read(&volume, *block, 1).unwrap(), pattern(*block, 1, 1));
    }
    let count = reads(&bench).iter().sum::<u64>() - before;
    assert_eq!(count, 2 + blocks.len() as u64);
}

#[test]
fn whoever_reads_in_sequence_stays_with_a_disk() {
    let bench = Bench::new(251, 2, 48);
    bench.create();
    let volume = bench.create_volume(8, Layout::Mirror(2));
    bench.write(&volume, 0, pattern(0, 32, 1)).unwrap();
    bench.until(|report| report.volumes[0].log_bytes == 0);
    let asked = |blocks: &[u64]| {
        let before = reads(&bench);
        for block in blocks {
            bench.read(&volume, *block, 1).unwrap();
        }
        let asked = reads(&bench);
        let mut asked: Vec<u64> = asked.iter().zip(before).map(|(now, then)| now - then).collect();
        asked.sort_unstable();
        asked
    };
    asked(&[0]);
    let behind: Vec<u64> = (1..32).collect();
    assert_eq!(asked(&behind), [0, 31]);
    let backwards: Vec<u64> = (0..32).rev().collect();
    assert!(asked(&backwards)[0] > 0, "both have their turns");
}
