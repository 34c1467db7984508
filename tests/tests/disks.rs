//! Disks that are damaged, foreign, or somebody's.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::File;
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
