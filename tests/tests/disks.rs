//! Disks that are damaged, foreign, or somebody's.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use blackbox::{Lab, LabOptions, Tree, wait_until};

fn small() -> Lab {
    Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() })
}

/// Flips one byte of a file.
fn flip(file: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
    file.sync_all().unwrap();
}

/// Where `needle` stands in a file, if it does.
fn find(file: &Path, needle: &[u8]) -> Option<u64> {
    let bytes = std::fs::read(file).unwrap();
    let at = bytes.chunks(4096).position(|block| block.starts_with(needle))?;
    Some(at as u64 * 4096)
}

/// Main job, 7.
#[test]
fn a_flipped_byte_is_found_repaired_and_named() {
    let lab = small();
    let marker = b"etherpool-test-marker-of-a-block";
    let mut bytes = vec![0x5a; 1 << 20];
    bytes[512 << 10..(512 << 10) + marker.len()].copy_from_slice(marker);
    std::fs::write(lab.mount().join("f"), &bytes).unwrap();
    // Orderly: what the log holds is destaged into place.
    lab.lab(&["down"]);
    let hits: Vec<_> = ["n1", "n2", "n3"]
        .into_iter()
        .filter_map(|node| find(&lab.disk_file(node, 0), marker).map(|at| (node, at)))
        .collect();
    assert_eq!(hits.len(), 2, "two copies are on two nodes: {hits:?}");
    let before = lab_volume_repaired(&lab, || {
        flip(&lab.disk_file(hits[0].0, 0), hits[0].1 + 1000);
    });
    // A read may be served by the other copy; verifying reads each.
    assert!(std::fs::read(lab.mount().join("f")).unwrap() == bytes, "the right data is read");
    let verify = lab.cli_output(&["volume", "verify", "cluster/hyperspace"]);
    println!("{}", String::from_utf8_lossy(&verify.stdout));
    assert!(lab.volume()["repaired_blocks"].as_u64().unwrap() > before, "a counter tells");
    let log = lab.log("supervisor");
    let disk = format!("e{}.0", &hits[0].0[1..]);
    assert!(
        log.lines().any(|line| line.contains("repaired a block") && line.contains(&disk)),
        "a log line names the disk {disk}"
    );
    for copy in ["0", "1"] {
        lab.cli(&["volume", "verify", "cluster/hyperspace", "--copy", copy]);
    }
    lab.lab(&["down"]);
    assert_eq!(find(&lab.disk_file(hits[0].0, 0), marker), Some(hits[0].1));
    let file = File::open(lab.disk_file(hits[0].0, 0)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, hits[0].1 + 1000).unwrap();
    assert_eq!(byte[0], 0x5a, "the bad copy is repaired on the disk");
}

const SCRUB_SALT: u64 = 0x7363_7275;

/// A block that can be told from all others.
fn block(index: u64) -> Vec<u8> {
    let words = (0..512u64).map(|word| word << 48 ^ index << 32 ^ SCRUB_SALT);
    words.flat_map(u64::to_le_bytes).collect()
}

/// Where a disk holds these blocks.
fn places(disk: &Path, indexes: Range<u64>) -> BTreeMap<u64, u64> {
    let bytes = std::fs::read(disk).unwrap();
    let found = (0..).step_by(4096).zip(bytes.chunks_exact(4096)).filter_map(|(at, found)| {
        let index = (u64::from_le_bytes(found[..8].try_into().unwrap()) ^ SCRUB_SALT) >> 32;
        (indexes.contains(&index) && found == block(index)).then_some((index, at))
    });
    found.collect()
}

/// What rots unseen while everything is in use.
#[test]
fn a_scrub_mends_what_nobody_reads_also_when_it_is_killed() {
    let lab = small();
    let contents: Vec<u8> = (0..4096).flat_map(block).collect();
    std::fs::write(lab.mount().join("f"), &contents).unwrap();
    rustix::fs::syncfs(File::open(lab.mount()).unwrap()).unwrap();
    wait_until("all is in place", || lab.volume()["log_bytes"] == 0);
    let text = lab.cli(&["pool", "scrub", "cluster", "--wait"]);
    assert!(text.contains("is done") && text.contains("all of it right"), "{text}");

    // More than is repaired at once beside reads.
    let disks = ["n1", "n2", "n3"].map(|node| lab.disk_file(node, 0));
    let rotten: Vec<_> = disks.iter().map(|disk| places(disk, 1000..1200)).collect();
    let (disk, rotten) = disks.iter().zip(rotten).max_by_key(|(_, found)| found.len()).unwrap();
    assert!(rotten.len() > 64, "{rotten:?}");
    rotten.values().for_each(|at| flip(disk, at + 1000));
    let text = lab.cli(&["pool", "scrub", "cluster", "--rate", "1M"]);
    assert!(text.contains("are read and compared"), "{text}");
    let begun = lab.pool()["scrub"]["begun_secs"].clone();
    wait_until("it is under way", || lab.pool()["scrub"]["blocks"].as_u64().unwrap() > 0);
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["up"]);
    lab.wait_served();
    assert_eq!(lab.pool()["jobs"][0]["kind"], "scrub");
    lab.cli(&["pool", "set", "cluster", "scrub-rate", "off"]);
    let (code, text) = lab.said(&["pool", "jobs", "cluster", "--wait"]);
    assert_eq!(code, 0, "{text}");
    let found = lab.pool()["scrub"].clone();
    assert_eq!(found["begun_secs"], begun, "it went on");
    // What it read after it had last noted how far it is, it read again, and that was right by then.
    assert!(found["bad_blocks"].as_u64().unwrap() <= rotten.len() as u64, "{found}");
    assert_eq!(found["bad_blocks"], found["repaired_blocks"], "{found}");
    assert_eq!(found["unread_blocks"], 0, "{found}");
    lab.cli(&["pool", "set", "cluster", "scrub-every", "14d"]);
    let text = lab.show(&["pool", "show", "cluster"]);
    assert!(text.contains("done ") && text.contains("the next one in 13 days"), "{text}");
    lab.lab(&["down"]);
    assert_eq!(places(disk, 1000..1200), rotten, "each is as it was, in its place");
}

fn lab_volume_repaired(lab: &Lab, damage: impl FnOnce()) -> u64 {
    damage();
    lab.lab(&["up"]);
    lab.wait_served();
    lab.volume()["repaired_blocks"].as_u64().unwrap()
}

/// Main job, 8: labels.
#[test]
fn damaged_and_foreign_disks_are_refused_by_name() {
    let lab = small();
    std::fs::write(lab.mount().join("kept"), "kept").unwrap();
    lab.lab(&["down"]);

    // One label copy of several is damaged: nobody is bothered. All of them: refused by name.
    flip(&lab.disk_file("n1", 0), 100);
    lab.lab(&["up"]);
    lab.wait_served();
    lab.wait_clean();
    lab.lab(&["down"]);

    let disk = lab.disk_file("n3", 0);
    let size = std::fs::metadata(&disk).unwrap().len();
    let kept = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(&disk, kept.path()).unwrap();
    for base in [0, size - (1 << 20)] {
        flip(&disk, base + 100);
        flip(&disk, base + 4096 + 100);
    }
    lab.lab(&["up"]);
    lab.wait_served();
    assert_eq!(lab.pool_state(), "degraded");
    let list = lab.show(&["disk", "list"]);
    println!("{list}");
    assert!(list.lines().any(|line| line.contains("e3.0") && line.contains("label")), "{list}");
    assert_eq!(std::fs::read(lab.mount().join("kept")).unwrap(), b"kept");
    lab.lab(&["down"]);

    // A disk that was truncated.
    std::fs::copy(kept.path(), &disk).unwrap();
    File::options().write(true).open(&disk).unwrap().set_len(size / 2).unwrap();
    lab.lab(&["up"]);
    lab.wait_served();
    let list = lab.show(&["disk", "list"]);
    println!("{list}");
    assert!(
        list.lines().any(|line| line.contains("e3.0")
            && (line.contains("smaller") || line.contains("truncated"))),
        "{list}"
    );
    lab.lab(&["down"]);

    // The old copy comes back: merely behind, resynced.
    std::fs::copy(kept.path(), &disk).unwrap();
    lab.lab(&["up"]);
    lab.wait_served();
    lab.wait_clean();
    lab.cli(&["volume", "verify", "cluster/hyperspace"]);
}

/// Main job, 8: a disk of another pool.
#[test]
fn a_disk_of_another_pool_is_refused() {
    let lab = Lab::up(&LabOptions { size: "256M", disks: 2, bare: true, ..LabOptions::default() });
    wait_until("all disks are present", || {
        let text = lab.show(&["disk", "list", "--json"]);
        (1..=3).all(|shelf| (0..2).all(|slot| text.contains(&format!("\"e{shelf}.{slot}\""))))
    });
    lab.cli(&["pool", "create", "one", "e1.0", "e2.0", "e3.0", "--yes"]);
    let output = lab.cli_output(&["pool", "create", "two", "e1.1", "e2.0", "e3.1", "--yes"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{message}");
    assert!(!output.status.success());
    assert!(message.contains("e2.0") && message.contains("one"), "{message}");
    lab.cli(&["pool", "create", "two", "e1.1", "e2.1", "e3.1", "--yes"]);
    let output = lab.cli_output(&["pool", "extend", "two", "e3.0", "--yes"]);
    assert!(!output.status.success(), "a disk in use by another pool");
}

/// Main job, 9.
#[test]
fn disks_with_data_are_neither_labelled_nor_exported_unasked() {
    let lab = Lab::up(&LabOptions { size: "256M", disks: 1, bare: true, ..LabOptions::default() });
    lab.lab(&["down"]);
    mkfs("mkfs.ext4", &["-q", "-F"], &lab.disk_file("n1", 0));
    mkfs("mkfs.xfs", &["-q", "-f"], &padded(&lab.disk_file("n2", 0)));
    let table = File::options().write(true).open(lab.disk_file("n3", 0)).unwrap();
    table.write_all_at(b"EFI PART", 512).unwrap();
    table.write_all_at(&[0x55, 0xaa], 510).unwrap();
    let sums: Vec<_> = ["n1", "n2", "n3"].map(|n| checksum(&lab.disk_file(n, 0))).into();

    lab.lab(&["up", "--bare"]);
    wait_until("all disks are present", || {
        let text = lab.show(&["disk", "list", "--json"]);
        (1..=3).all(|shelf| text.contains(&format!("\"e{shelf}.0\"")))
    });
    let list = lab.show(&["disk", "list"]);
    println!("{list}");
    let output = lab.cli_output(&["pool", "create", "p", "e1.0", "e2.0", "e3.0", "--yes"]);
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{message}");
    assert!(message.contains("--force-disk"), "{message}");
    // Each disk must be named, not just one.
    let args = ["pool", "create", "p", "e1.0", "e2.0", "e3.0", "--yes", "--force-disk", "e1.0"];
    assert!(!lab.cli_output(&args).status.success());
    let after: Vec<_> = ["n1", "n2", "n3"].map(|n| checksum(&lab.disk_file(n, 0))).into();
    assert_eq!(sums, after, "a refusal writes nothing");
    let forced = ["--force-disk", "e1.0", "--force-disk", "e2.0", "--force-disk", "e3.0"];
    let mut args = vec!["pool", "create", "p", "e1.0", "e2.0", "e3.0", "--yes"];
    args.extend(forced);
    lab.cli(&args);
}

fn padded(file: &Path) -> std::path::PathBuf {
    // mkfs.xfs wants at least 300 MB.
    File::options().write(true).open(file).unwrap().set_len(320 << 20).unwrap();
    file.to_owned()
}

fn mkfs(program: &str, args: &[&str], file: &Path) {
    let status = Command::new(program).args(args).arg(file).status().expect("mkfs is installed");
    assert!(status.success(), "{program}");
}

fn checksum(file: &Path) -> u32 {
    block::crc32c(&std::fs::read(file).unwrap())
}

/// A whole tree is readable from one node's copies alone, whichever two are left.
#[test]
fn any_two_nodes_hold_everything() {
    let lab = small();
    let tree = Tree::make(&lab.mount(), 100, 140 << 20, 5);
    for node in ["n1", "n2", "n3"] {
        lab.lab(&["down"]);
        lab.lab(&["up"]);
        lab.wait_served();
        lab.lab(&["kill", node]);
        wait_until("the pool says that it is degraded", || lab.pool_state() == "degraded");
        assert_eq!(Tree::read(&lab.mount()), tree, "without {node}");
        lab.lab(&["start", node]);
        lab.wait_clean();
    }
}
