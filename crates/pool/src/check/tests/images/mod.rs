//! Pools as former versions of the format left them, kept in `tests/images`: each is opened, read, written to and
//! given up in order by the engine of today, and checked before and after. So is one that says of itself what this
//! version doesn't know.
//!
//! A new image is made when the format changes, and before that: `POOL_IMAGE=NAME cargo test -p pool --lib
//! images_of_today` writes `NAME.img` (what comes next is in `sparse`), and `NAME.txt`, which says what the volumes
//! hold: volume, first block, count, and the byte that they are full of, one line each; and the same of a pool with
//! large extents as `NAME-large-extents`. Former ones stay as they are.

mod sparse;

use std::path::{Path, PathBuf};

use block::{Instant, SectorRange};

use self::sparse::{decode, encode};
use super::*;
use crate::engine::KnownPool;
use crate::engine::testing::TestDisk;
use crate::report::{DiskState, PoolState};

/// Blocks of a volume and the byte that they are full of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Filled {
    volume: String,
    first: u64,
    count: u64,
    fill: u8,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images")
}

/// A pool with something in place, something in the log, and a former checkpoint, as a power cut leaves it.
fn make(mib: usize, extent_bytes: u64) -> (Vec<(String, Vec<u8>)>, Vec<Filled>) {
    let machines = Machines::with(8001, 3, mib, Layout::Mirror(2), extent_bytes);
    let engine = Rc::clone(&machines.bench.engine);
    let size = VolumeSize::Bytes(MIB);
    machines
        .bench
        .run(async move { engine.create_volume("pond", "r", size, Layout::Raid0).await })
        .unwrap();
    let striped = machines.bench.engine.open_volume("pond", "r").unwrap();
    let mut filled = Vec::new();
    let mut write = |volume: &str, first: u64, count: u64, fill: u8| {
        let device = if volume == "v" { &machines.volume } else { &striped };
        let data = Buffer::copy_of(&vec![fill; count as usize * BLOCK_BYTES]);
        machines.bench.run(device.write(Lba(first * 8), data, Durability::Durable)).unwrap();
        filled.push(Filled { volume: volume.into(), first, count, fill });
    };
    write("v", 3, 5, 0xa1);
    write("r", 1, 4, 0xb2);
    machines.bench.pass(Duration::from_secs(3));
    // Large enough to go in place.
    write("v", 70, 40, 0xc3);
    write("v", 4, 2, 0xd4);
    write("r", 9, 2, 0xe5);
    machines.bench.pass(Duration::from_millis(200));
    let disks = machines.bench.disks.iter();
    let images = disks.map(|disk| (disk.name.clone(), disk.image())).collect();
    (images, filled)
}

fn describe(filled: &[Filled]) -> String {
    let line = |f: &Filled| format!("{} {} {} {}\n", f.volume, f.first, f.count, f.fill);
    filled.iter().map(line).collect()
}

fn described(text: &str) -> Vec<Filled> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| words[index].parse().expect("a number");
        let fill = words[3].parse().expect("a byte");
        Filled { volume: words[0].into(), first: number(1), count: number(2), fill }
    };
    text.lines().map(line).collect()
}

/// What a volume of so many blocks holds after these writes.
fn expected(filled: &[Filled], volume: &str, blocks: u64) -> Vec<u8> {
    let mut bytes = vec![0; blocks as usize];
    for write in filled.iter().filter(|write| write.volume == volume) {
        bytes[write.first as usize..][..write.count as usize].fill(write.fill);
    }
    bytes
}

/// An engine of the pool's owner over such disks.
fn open(names: &[String], bytes: &[Vec<u8>]) -> Bench {
    let disks: Vec<Rc<TestDisk>> = names
        .iter()
        .zip(bytes)
        .zip(0..)
        .map(|((name, bytes), node)| {
            let disk = TestDisk::new(name, node, bytes.len());
            disk.set_image(bytes);
            disk
        })
        .collect();
    let ids = look(bytes, false).pools.into_iter().map(|pool| pool.id.parse().unwrap());
    let pools = ids.map(|id| KnownPool { id, disks: Vec::new() }).collect();
    let now = Instant::from_nanos(1_000_000_000_000);
    Bench::again(8100, disks, now, 1, pools)
}

fn read(bench: &Bench, volume: &str, blocks: u64) -> Vec<u8> {
    let device = bench.engine.open_volume("pond", volume).unwrap();
    let mut bytes = Vec::new();
    for first in (0..blocks).step_by(64) {
        let range = SectorRange::new(Lba(first * 8), 64.min(blocks - first) * 8);
        let found = bench.run(device.read(range)).unwrap().value;
        for block in found.chunks(BLOCK_BYTES) {
            assert!(block.iter().all(|byte| *byte == block[0]), "{volume}: a mixed block");
            bytes.push(block[0]);
        }
    }
    bytes
}

/// Opens a pool, compares what its volumes hold, writes to them and ends in order.
fn go_through(name: &str, images: Vec<(String, Vec<u8>)>, filled: &[Filled]) {
    let (names, bytes): (Vec<String>, Vec<Vec<u8>>) = images.into_iter().unzip();
    assert_eq!(serious(&look(&bytes, true)), [], "{name}, as it was kept");
    let bench = open(&names, &bytes);
    // Of large disks each set takes more than a GiB.
    drop(bytes);
    for _ in 0..600 {
        bench.pass(Duration::from_millis(100));
        if bench.engine.reports().first().is_some_and(|report| report.state == PoolState::Online) {
            break;
        }
    }
    let report = bench.engine.reports().remove(0);
    assert_eq!(report.state, PoolState::Online, "{name}: {report:#?}");
    assert!(!report.volumes.is_empty(), "{name}");
    for volume in &report.volumes {
        let blocks = volume.size_bytes / BLOCK_BYTES as u64;
        let mut should = expected(filled, &volume.name, blocks);
        assert_eq!(read(&bench, &volume.name, blocks), should, "{name}: {}", volume.name);
        let device = bench.engine.open_volume("pond", &volume.name).unwrap();
        let data = Buffer::copy_of(&[0x77; 3 * BLOCK_BYTES]);
        bench.run(device.write(Lba(5 * 8), data, Durability::Durable)).unwrap();
        should[5..8].fill(0x77);
        bench.pass(Duration::from_secs(3));
        assert_eq!(
            read(&bench, &volume.name, blocks),
            should,
            "{name}: {} after a write",
            volume.name
        );
    }
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.shutdown().await });
    let after: Vec<Vec<u8>> = bench.disks.iter().map(|disk| disk.image()).collect();
    let report = look(&after, true);
    assert_eq!(
        report.all_findings().collect::<Vec<_>>(),
        Vec::<&Finding>::new(),
        "{name}, given up"
    );
}

#[test]
fn pools_of_former_versions_are_opened_read_and_written_to() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory()).expect("the images") {
        let path = entry.expect("the images").path();
        if path.extension().is_none_or(|extension| extension != "img") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let images = decode(&std::fs::read(&path).unwrap()).expect("an image");
        let filled = described(&std::fs::read_to_string(path.with_extension("txt")).unwrap());
        go_through(&name, images, &filled);
        names.push(name);
    }
    assert!(!names.is_empty(), "no image is kept");
}

#[test]
fn images_of_today_are_opened_too() {
    let name = std::env::var("POOL_IMAGE").ok();
    // Log segments of two extents, and of a part of one: that takes GiB, and the images kept have it too.
    let kinds = [("", 24, 256 << 10), ("-large-extents", 384, 32 * MIB)];
    for (kind, mib, extent_bytes) in kinds.into_iter().take(1 + usize::from(name.is_some())) {
        let (images, filled) = make(mib, extent_bytes);
        let encoded = encode(&images);
        assert!(encoded.len() < 128 << 10, "{} bytes are too many to keep", encoded.len());
        assert!(decode(&encoded).is_some_and(|decoded| decoded == images));
        assert_eq!(described(&describe(&filled)), filled);
        go_through("today", images, &filled);
        if let Some(name) = &name {
            let path = directory().join(format!("{name}{kind}")).with_extension("img");
            assert!(!path.exists(), "{} is kept as it is", path.display());
            std::fs::write(&path, encoded).unwrap();
            std::fs::write(path.with_extension("txt"), describe(&filled)).unwrap();
        }
    }
}

/// Changes all labels of the disks, with their CRC made right.
fn relabel(images: &mut [(String, Vec<u8>)], change: impl Fn(&mut [u8])) {
    for (_, image) in images {
        for slot in crate::format::DiskGeometry::label_slots(image.len() as u64) {
            let at = slot.byte_offset() as usize;
            let label = &mut image[at..at + BLOCK_BYTES];
            if label.starts_with(b"EPLABEL") {
                change(label);
                label[8..12].fill(0);
                let crc = block::crc32c(label);
                label[8..12].copy_from_slice(&crc.to_le_bytes());
            }
        }
    }
}

/// What an engine and a check say of a pool whose labels were changed: nothing of it was written to.
fn refusal(change: impl Fn(&mut [u8])) -> (Vec<String>, Vec<String>) {
    let mut images = make(24, 256 << 10).0;
    relabel(&mut images, change);
    let (names, bytes): (Vec<String>, Vec<Vec<u8>>) = images.into_iter().unzip();
    let found = look(&bytes, false);
    let found = found.all_findings().filter(|found| found.severity == Severity::Damage);
    let found = found.map(|found| format!("{}; {}", found.what, found.means)).collect();
    let bench = open(&names, &bytes);
    bench.pass(Duration::from_secs(60));
    let engine = Rc::clone(&bench.engine);
    let disks = bench.run(async move { engine.disks().await });
    let refused = disks.into_iter().filter_map(|disk| match disk.state {
        DiskState::Refused { why } => Some(why),
        _ => None,
    });
    let refused = refused.collect();
    for (disk, image) in bench.disks.iter().zip(&bytes) {
        assert!(disk.image() == *image, "{} was written to", disk.name);
    }
    (refused, found)
}

#[test]
fn what_this_version_does_not_know_is_refused_with_what_to_do() {
    // A version, and a feature that keeps off who doesn't know it.
    for (offset, value, says) in [(14, 1, "newer"), (32 + 7, 0x80, "feature 63"), (32, 1, "parity")]
    {
        let (refused, found) = refusal(|label| label[offset] |= value);
        assert_eq!(refused.len(), 3, "{refused:?}");
        assert!(
            refused.iter().all(|why| why.contains(says) && why.contains("update etherpool")),
            "{refused:?}"
        );
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found.iter().all(|what| what.contains(says) && what.contains("newer one")),
            "{found:?}"
        );
    }
    // One that lets who doesn't know it read: an engine writes, a check doesn't.
    let (refused, found) = refusal(|label| label[24] |= 4);
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert!(
        refused.iter().all(|why| why.contains("only be read") && why.contains("update etherpool")),
        "{refused:?}"
    );
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_feature_that_may_be_ignored_is_ignored_and_kept() {
    let (mut images, filled) = make(24, 256 << 10);
    relabel(&mut images, |label| label[16] |= 0x10);
    go_through("a compatible feature", images.clone(), &filled);
    let (names, bytes): (Vec<String>, Vec<Vec<u8>>) = images.into_iter().unzip();
    let bench = open(&names, &bytes);
    bench.pass(Duration::from_secs(60));
    for disk in &bench.disks {
        assert_eq!(disk.image()[16], 0x10, "{}: who doesn't know it took it away", disk.name);
    }
}
