//! `etherpool pool check`: what it says of disks as they lie there, and that it changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use blackbox::{Lab, LabOptions, etherpool};
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// The exit code and the report.
fn check(disks: &[PathBuf], more: &[&str]) -> (i32, Value) {
    let output = etherpool()
        .args(["pool", "check", "--json"])
        .args(more)
        .args(disks)
        // A supervisor isn't asked, so none needs to be there.
        .env("ETHERPOOL_SOCKET", "/nonexistent/api.sock")
        .output()
        .expect("the program can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|_| String::from_utf8_lossy(&output.stderr).into_owned().into());
    (output.status.code().unwrap(), report)
}

fn findings(report: &Value) -> Vec<Value> {
    let pools = report["pools"].as_array().unwrap();
    let of_pools = pools.iter().flat_map(|pool| pool["findings"].as_array().unwrap());
    of_pools.chain(report["findings"].as_array().unwrap()).cloned().collect()
}

/// Contents and times: all that a reader could change.
fn state_of(path: &Path) -> (Vec<u8>, i64, i64, i64, i64, i64) {
    // First, so that the access that this is itself is in the times.
    let contents = std::fs::read(path).unwrap();
    let about = std::fs::metadata(path).unwrap();
    let times =
        (about.atime(), about.atime_nsec(), about.mtime(), about.ctime(), about.ctime_nsec());
    (contents, times.0, times.1, times.2, times.3, times.4)
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

#[test]
fn a_pools_disks_are_checked_without_a_supervisor_and_without_a_change() {
    let lab = Lab::up(&LabOptions { size: "256M", disks: 1, ..LabOptions::default() });
    let disks: Vec<PathBuf> = NODES.iter().map(|node| lab.disk_file(node, 0)).collect();
    for index in 0..8 {
        std::fs::write(lab.mount().join(format!("f{index}")), vec![index; 700_000]).unwrap();
    }
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();

    // Running: the disks are read, and it is said that somebody uses them.
    let (_, report) = check(&disks, &[]);
    let in_use = findings(&report).into_iter().filter(|found| found["kind"] == "in-use");
    assert_eq!(in_use.count(), 3, "{report:#}");
    assert_eq!(report["pools"][0]["released"], false);

    lab.lab(&["down"]);
    let before: Vec<_> = disks.iter().map(|disk| state_of(disk)).collect();
    let (code, report) = check(&disks, &["--data"]);
    assert_eq!((code, findings(&report)), (0, Vec::new()), "{report:#}");
    let pool = &report["pools"][0];
    assert_eq!((&pool["name"], &pool["released"]), (&"cluster".into(), &true.into()));
    let volume = &pool["volumes"][0];
    assert_eq!(volume["least"]["data"], 2);
    assert_eq!(volume["least"]["checksum_blocks"], 2);
    assert_eq!(volume["row_copies_bad"], 0);
    assert!(volume["rows_written"].as_u64().unwrap() > 8 * 170);
    assert_eq!(check(&disks, &["cluster"]).0, 0);
    let after: Vec<_> = disks.iter().map(|disk| state_of(disk)).collect();
    assert!(before == after, "a check changed a disk");

    // A disk that isn't there costs redundancy and is named.
    let (code, report) = check(&disks[..2], &[]);
    assert_eq!(code, 5);
    assert!(findings(&report).iter().any(|found| found["kind"] == "disk-missing"), "{report:#}");
    assert!(findings(&report).iter().all(|found| found["severity"] != "damage"), "{report:#}");

    // A byte of a row, and one of a label: each is named where it is.
    let (disk, row) = first_row(&disks);
    flip(&disks[disk], row + 1234);
    flip(&disks[1], 4096 + 500);
    // The place of a log segment is in the report.
    let copy = &volume["segments"][0]["copies"][0];
    let (segment, segment_at) =
        (copy["disk"].as_str().unwrap(), copy["disk_offset_bytes"].as_u64().unwrap());
    flip(Path::new(segment), segment_at + 2000);
    let (code, report) = check(&disks, &["--data"]);
    assert_eq!(code, 5);
    let found = findings(&report);
    assert_eq!(found.len(), 3, "{report:#}");
    let of = |kind: &str| found.iter().find(|found| found["kind"] == kind).unwrap().clone();
    let bad = of("row");
    assert_eq!((&bad["severity"], &bad["volume"]), (&"redundancy".into(), &"hyperspace".into()));
    assert_eq!(bad["disk"], disks[disk].display().to_string());
    assert_eq!(bad["disk_offset_bytes"], row);
    assert!(bad["volume_offset_bytes"].is_u64());
    let label = of("label-slot");
    assert_eq!(label["disk"], disks[1].display().to_string());
    assert_eq!((&label["disk_offset_bytes"], &label["bytes"]), (&4096.into(), &4096.into()));
    let header = of("segment-header");
    assert_eq!(
        (&header["disk"], &header["disk_offset_bytes"]),
        (&segment.into(), &segment_at.into())
    );

    // What people see names the same places.
    let output = etherpool().args(["pool", "check", "--data"]).args(&disks).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains(&format!("{} at {row}", disks[disk].display())), "{text}");
    assert!(text.contains("Found: 0 of damage, 3 of lost redundancy, 0 worth knowing."), "{text}");

    // Wrong arguments.
    assert_eq!(check(&[lab.dir().join("disks/n9d0.img")], &[]).0, 3);
    assert_eq!(check(&disks, &["puddle"]).0, 3);
    assert_eq!(check(&[], &["cluster"]).0, 2);
    assert_eq!(check(&[], &[]).0, 2);
}

#[test]
fn all_that_a_pools_disks_say_is_told_without_a_supervisor_and_without_a_change() {
    let lab = Lab::up(&LabOptions { size: "256M", disks: 1, ..LabOptions::default() });
    let disks: Vec<PathBuf> = NODES.iter().map(|node| lab.disk_file(node, 0)).collect();
    std::fs::write(lab.mount().join("f"), vec![7; 700_000]).unwrap();
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();
    lab.lab(&["down"]);
    let before: Vec<_> = disks.iter().map(|disk| state_of(disk)).collect();
    let dump = |more: &[&str]| {
        let mut command = etherpool();
        command.args(["pool", "dump"]).args(more).args(&disks);
        command.env("ETHERPOOL_SOCKET", "/nonexistent/api.sock").output().unwrap()
    };
    let output = dump(&["--json", "--checksums"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let items: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| items.iter().filter(|item| item["kind"] == kind).collect::<Vec<_>>();
    // Whose a disk is stands in a record that only targets write.
    let reservations = of("reservation");
    assert_eq!(reservations.len(), 12);
    let sound = reservations.iter().filter(|item| item["state"] == "sound");
    assert!(sound.clone().count() >= 6, "{reservations:#?}");
    assert!(sound.clone().all(|item| item["epoch"].as_u64().unwrap() > 0));
    for (kind, least) in [("label", 12), ("vote", 3), ("applied", 1), ("checkpoint-header", 3)] {
        let sound = of(kind).into_iter().filter(|item| item["state"] == "sound").count();
        assert!(sound >= least, "{sound} of {kind}");
    }
    assert!(!of("segment-header").is_empty() && !of("checksum-block").is_empty());
    let pool = items.iter().find(|item| item["about"] == "pool").unwrap();
    assert_eq!(pool["name"], "cluster");
    assert!(items.iter().any(|item| item["about"] == "volume" && item["name"] == "hyperspace"));

    let text = String::from_utf8(dump(&["cluster"]).stdout).unwrap();
    let label =
        text.lines().find(|line| line.contains(" label ") && line.contains("slot=3")).unwrap();
    assert!(label.contains("sound") && label.contains("pool_name=cluster"), "{label}");
    assert!(
        text.lines().any(|line| line.starts_with("volume") && line.contains("name=hyperspace"))
    );
    assert_eq!(dump(&["puddle"]).status.code(), Some(3));
    let after: Vec<_> = disks.iter().map(|disk| state_of(disk)).collect();
    assert!(before == after, "a dump changed a disk");
}

/// Everything ends while files are written: what an interrupted write leaves is no damage.
#[test]
fn what_a_kill_of_everything_leaves_is_well() {
    let lab = Lab::up(&LabOptions { size: "256M", disks: 1, ..LabOptions::default() });
    let disks: Vec<PathBuf> = NODES.iter().map(|node| lab.disk_file(node, 0)).collect();
    let write = |index: u32| -> std::io::Result<()> {
        let mut file = std::fs::File::create(lab.mount().join(format!("f{index}")))?;
        file.write_all(&vec![index as u8; 300_000])?;
        file.sync_all()
    };
    std::thread::scope(|scope| {
        let (sender, written) = std::sync::mpsc::channel();
        scope.spawn(move || {
            // Ends with the first error: the device is gone.
            (0..10_000).take_while(|index| write(*index).is_ok()).for_each(|index| {
                let _ = sender.send(index);
            });
        });
        while written.recv().unwrap() < 20 {}
        for who in ["supervisor", "n1", "n2", "n3"] {
            lab.lab(&["kill", who]);
        }
    });
    let (code, report) = check(&disks, &["--data"]);
    assert_eq!(code, 0, "{report:#}");
    let pool = &report["pools"][0];
    assert_eq!(pool["released"], false);
    let least = &pool["volumes"][0]["least"];
    assert!(least["log_records"].is_null() || least["log_records"] == 2, "{report:#}");
    assert!(least["data"].is_null() || least["data"] == 2, "{report:#}");
    assert_eq!(least["votes"], 3);
    // The kill may find one record on its way; all before it are on all copies.
    let copies = pool["metadata"].as_array().unwrap();
    let records = copies.iter().map(|copy| copy["record"].as_u64().unwrap());
    let newest = records.clone().max().unwrap();
    assert!(records.clone().all(|record| record + 1 >= newest), "{report:#}");
    let holders = records.filter(|record| *record == newest).count() as u64;
    assert_eq!(least["metadata"], holders, "{report:#}");
}

/// A disk and the place on it of a block of one of the files.
fn first_row(disks: &[PathBuf]) -> (usize, u64) {
    for (index, disk) in disks.iter().enumerate() {
        let bytes = std::fs::read(disk).unwrap();
        let is_row = |at: &usize| {
            let block = &bytes[*at..*at + 4096];
            block[0] != 0 && block[0] < 8 && block.iter().all(|byte| *byte == block[0])
        };
        // Logs lie at the end of a disk, and still have what is in place by now.
        if let Some(at) = (2 << 20..bytes.len() / 4 * 3).step_by(4096).find(is_row) {
            return (index, at as u64);
        }
    }
    panic!("no disk has a block of a file");
}
