//! What people are told to do about disks that can't be read as they are. A disk that nothing was read
//! of may be the only one with the newest data: nothing that would overwrite it may be proposed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use blackbox::{Lab, LabOptions, wait_until};

/// Damages a block of both copies at either end of a disk.
fn damage(disk: &Path, first: u64) {
    let file = File::options().write(true).open(disk).unwrap();
    let size = file.metadata().unwrap().len();
    for base in [0, size - (1 << 20)] {
        for block in [first, first + 4096] {
            file.write_all_at(&[0x5a; 200], base + block + 20).unwrap();
        }
    }
    file.sync_all().unwrap();
}

/// Both streams of a command, and how it ended.
fn said(lab: &Lab, args: &str) -> (i32, String) {
    let (code, text) = lab.said(&args.split(' ').collect::<Vec<_>>());
    println!("{args}:\n{text}");
    (code, text)
}

/// Main point 7 (5.8): a damaged label.
#[test]
fn a_damaged_disk_is_kept() {
    let lab = Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() });
    lab.lab(&["down"]);
    let disk = lab.disk_file("n3", 0);
    damage(&disk, 0);
    let before = std::fs::read(&disk).unwrap();
    lab.lab(&["up"]);
    lab.wait_served();
    wait_until("the disk was looked at", || {
        lab.show(&["disk", "list"])
            .lines()
            .any(|line| line.contains("e3.0") && line.contains("damaged"))
    });
    for args in [
        "disk list",
        "pool show cluster",
        "pool extend cluster e3.0 --yes",
        "pool create other e3.0 --yes",
        // No option takes what an open pool misses.
        "pool extend cluster e3.0 --force-disk e3.0 --yes",
        "pool create other e3.0 --force-disk e3.0 --yes",
        "pool create other e3.0 --force-disk e3.0 --dry-run",
        "disk reset-epoch e3.0 --force-disk e3.0 --yes",
    ] {
        let (code, text) = said(&lab, args);
        assert_ne!(code, 0, "{args}");
        for word in ["--force-disk", "reset-epoch", "mkfs", "wipe"] {
            assert!(!text.contains(word), "{args} proposes {word}: {text}");
        }
        assert!(text.contains("keep it") || !text.contains("damaged"), "{args}: {text}");
    }
    assert!(std::fs::read(&disk).unwrap() == before, "nothing was written to it");
}

/// Main point 7 (5.8): `reset-epoch` is for a record of the owner that can't be read, and for nothing else.
#[test]
fn a_reset_is_for_an_unreadable_owner_alone() {
    let lab = Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() });
    let (code, text) = said(&lab, "disk reset-epoch e3.0 --force-disk e3.0 --yes");
    assert!(code == 2 && text.contains("nothing to reset"), "{text}");
    lab.lab(&["down"]);
    damage(&lab.disk_file("n3", 0), 8192);
    lab.lab(&["up"]);
    lab.wait_served();
    wait_until("the disk is refused", || {
        let text = lab.show(&["pool", "show", "cluster"]);
        text.contains("reservation record is unreadable") && text.contains("reset-epoch")
    });
    lab.cli(&["disk", "reset-epoch", "e3.0", "--force-disk", "e3.0", "--yes"]);
    lab.lab(&["down"]);
    lab.lab(&["up"]);
    lab.wait_served();
    lab.wait_clean();
    lab.cli(&["volume", "verify", "cluster/hyperspace"]);
}

/// What has other data and was never anybody's has no record of an owner that could be reset.
#[test]
fn a_reset_takes_no_disk_with_other_data() {
    let lab = Lab::up(&LabOptions { size: "256M", disks: 1, bare: true, ..LabOptions::default() });
    lab.lab(&["down"]);
    let disk = lab.disk_file("n1", 0);
    // ext4's magic number.
    File::options().write(true).open(&disk).unwrap().write_all_at(&[0x53, 0xef], 0x438).unwrap();
    let before = std::fs::read(&disk).unwrap();
    lab.lab(&["up", "--bare"]);
    wait_until("the disk is present", || lab.show(&["disk", "list"]).contains("e1.0"));
    let (code, text) = said(&lab, "disk reset-epoch e1.0 --force-disk e1.0 --yes");
    assert!(code == 2 && text.contains("nothing to reset"), "{text}");
    let (code, text) = said(&lab, "pool create p e1.0 --failure-domain disk --yes");
    assert!(code == 4 && text.contains("ext") && text.contains("--force-disk e1.0"), "{text}");
    assert!(std::fs::read(&disk).unwrap() == before, "nothing was written to it");
}
