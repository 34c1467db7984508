//! What files give back, and what a volume had that is removed, the files behind the nodes' exports give back too.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use blackbox::{Lab, LabOptions};

const VOLUME: &str = "cluster/hyperspace";
const FILE_BYTES: u64 = 48 << 20;
/// Both copies of nearly all of it.
const GIVEN_BACK: u64 = 2 * (FILE_BYTES - (8 << 20));

/// What the disks' files take on their file system.
fn used(lab: &Lab) -> u64 {
    let nodes = (1..=3).map(|node| format!("n{node}"));
    let files = nodes.map(|node| lab.disk_file(&node, 0));
    files.map(|file| std::fs::metadata(file).unwrap().blocks() * 512).sum()
}

fn wait_until_used_is_below(lab: &Lab, bytes: u64, what: &str) {
    let until = Instant::now() + Duration::from_secs(60);
    while used(lab) > bytes {
        assert!(Instant::now() < until, "{what}: {} bytes are used, not {bytes}", used(lab));
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn files_behind_a_pool_get_smaller_with_what_is_in_it() {
    let lab = Lab::up(&LabOptions { disks: 1, size: "512M", ..LabOptions::default() });
    let file = lab.mount().join("large");
    let contents: Vec<u8> = (0..FILE_BYTES).map(|at| ((at * 31) >> 3) as u8 | 1).collect();
    let write = || {
        std::fs::write(&file, &contents).unwrap();
        assert!(Command::new("sync").arg("-f").arg(&file).status().unwrap().success());
    };
    write();
    let full = used(&lab);
    std::fs::remove_file(&file).unwrap();
    let fstrim = || {
        // What was removed is free once the journal says so.
        assert!(Command::new("sync").arg("-f").arg(lab.mount()).status().unwrap().success());
        let trimmed = Command::new("fstrim").arg(lab.mount()).status().unwrap();
        assert!(trimmed.success());
    };
    fstrim();
    wait_until_used_is_below(&lab, full - GIVEN_BACK, "after fstrim");

    lab.cli(&["pool", "set", "cluster", "trim", "off"]);
    write();
    let full = used(&lab);
    std::fs::remove_file(&file).unwrap();
    fstrim();
    std::thread::sleep(Duration::from_secs(12));
    assert!(used(&lab) > full - (FILE_BYTES / 2), "it was switched off");

    lab.cli(&["pool", "set", "cluster", "trim", "on"]);
    write();
    let full = used(&lab);
    lab.cli(&["volume", "serve", VOLUME, "ftp", "--stop"]);
    lab.cli(&["volume", "unmount", VOLUME]);
    lab.cli(&["volume", "remove", VOLUME, "--yes"]);
    wait_until_used_is_below(&lab, full - GIVEN_BACK, "after the volume was removed");
}
