//! Machines die, hang and lose their cable under a load that remembers what was promised.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use blackbox::{Lab, LabOptions, Load, LoadReport, wait_until};

const BLOCKS: u64 = 2048;
const REGION_BYTES: u64 = 64 * 1024;

fn small() -> Lab {
    Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() })
}

fn load(lab: &Lab) -> Load {
    Load::start(&lab.mount().join("load"), BLOCKS, 7)
}

/// Writes go on: some were promised since now.
fn let_it_write(lab: &Lab) {
    let log = || lab.volume()["written_bytes"].as_u64().unwrap_or(0);
    let before = log();
    wait_until("writes go on", || log() >= before + (1 << 20));
}

fn check_copies(lab: &Lab, report: &LoadReport) {
    if let Some(error) = &report.error {
        panic!("the load met an error: {error}");
    }
    report.verify();
    for copy in ["0", "1"] {
        lab.cli(&["volume", "verify", "cluster/hyperspace", "--copy", copy]);
    }
}

/// What one absence costs: at most the distinct regions of the file, of its journal and of the
/// metadata around, all of which lie within what was written meanwhile.
fn check_caught_up(lab: &Lab, before: u64, written_during: u64) {
    let volume = lab.volume();
    let copied = volume["caught_up_bytes"].as_u64().unwrap() - before;
    println!("{copied} bytes copied after {written_during} bytes written");
    assert!(copied <= written_during / 4096 * REGION_BYTES, "more was copied than was missed");
    assert!(copied < volume["size_bytes"].as_u64().unwrap() / 4, "nearly everything was copied");
}

fn written(lab: &Lab) -> u64 {
    lab.volume()["written_bytes"].as_u64().unwrap()
}

/// Main job, 2.
#[test]
fn a_node_is_killed_and_comes_back() {
    let lab = small();
    let load = load(&lab);
    let_it_write(&lab);
    let (copied, before) = (lab.volume()["caught_up_bytes"].as_u64().unwrap(), written(&lab));
    lab.lab(&["kill", "n2"]);
    wait_until("the pool says that it is degraded", || lab.pool_state() == "degraded");
    assert_eq!(lab.pool()["survives"].as_u64(), Some(0));
    let_it_write(&lab);
    lab.lab(&["start", "n2"]);
    lab.wait_clean();
    check_caught_up(&lab, copied, written(&lab) - before);
    let report = load.stop();
    check_copies(&lab, &report);
}

/// Main job, 3, first half.
#[test]
fn a_cable_is_cut_for_thirty_seconds() {
    let lab = small();
    let load = load(&lab);
    let_it_write(&lab);
    lab.lab(&["cut", "n3"]);
    wait_until("the pool says that it is degraded", || lab.pool_state() == "degraded");
    std::thread::sleep(Duration::from_secs(30));
    let_it_write(&lab);
    lab.lab(&["join", "n3"]);
    lab.wait_clean();
    let report = load.stop();
    check_copies(&lab, &report);
}

/// Main job, 3, second half.
#[test]
fn a_node_hangs_and_goes_on() {
    let lab = small();
    let load = load(&lab);
    let_it_write(&lab);
    for node in ["n1", "n2"] {
        lab.lab(&["pause", node]);
        wait_until("the pool says that it is degraded", || lab.pool_state() == "degraded");
        let_it_write(&lab);
        lab.lab(&["resume", node]);
        lab.wait_clean();
    }
    let report = load.stop();
    check_copies(&lab, &report);
}

/// Main job, 4: all of the supervisor.
#[test]
fn the_supervisor_is_killed_under_load() {
    let lab = small();
    for _ in 0..2 {
        let load = load(&lab);
        let_it_write(&lab);
        lab.lab(&["kill", "supervisor"]);
        let report = load.stop();
        lab.lab(&["start", "supervisor"]);
        lab.wait_served();
        report.verify();
        let settled = lab.volume()["settled"].clone();
        println!("settled: {settled}");
        assert!(settled["blocks"].as_u64().unwrap() <= 64 << 8, "more than the log was compared");
    }
    fsck(&lab);
}

/// Main job, 4: the engine alone.
#[test]
fn the_engine_is_killed_under_load() {
    let lab = small();
    let load = load(&lab);
    let_it_write(&lab);
    let engine = lab.status()["supervisor"]["engine"].clone();
    lab.lab(&["kill", "engine"]);
    let report = load.stop();
    wait_until("there is a new engine", || {
        let now = lab.status()["supervisor"]["engine"].clone();
        now.is_number() && now != engine
    });
    wait_until("the file is there again", || lab.mount().join("load").exists());
    lab.wait_served();
    report.verify();
    fsck(&lab);
}

/// The services alone: nothing is lost, FTP is back.
#[test]
fn the_services_are_killed() {
    let lab = small();
    std::fs::write(lab.mount().join("kept"), "kept").unwrap();
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();
    let services = lab.status()["supervisor"]["services"].clone();
    lab.lab(&["kill", "services"]);
    wait_until("there are new services", || {
        let now = lab.status()["supervisor"]["services"].clone();
        now.is_number() && now != services
    });
    lab.wait_served();
    assert_eq!(std::fs::read(lab.mount().join("kept")).unwrap(), b"kept");
}

/// Everything loses power; then everything is started, the supervisor first.
#[test]
fn everything_is_killed_at_once() {
    let lab = small();
    let load = load(&lab);
    let_it_write(&lab);
    for who in ["n1", "n2", "n3", "supervisor"] {
        lab.lab(&["kill", who]);
    }
    let report = load.stop();
    for who in ["supervisor", "n3", "n1", "n2"] {
        lab.lab(&["start", who]);
    }
    lab.wait_served();
    lab.wait_clean();
    report.verify();
    fsck(&lab);
}

/// Main job, 5.
#[test]
fn the_pool_grows_under_load() {
    let lab = small();
    let load = load(&lab);
    let_it_write(&lab);
    let before = lab.volume();
    lab.lab(&["add-node"]);
    lab.cli(&["pool", "extend", "cluster", "e4.0", "--yes"]);
    lab.cli(&["volume", "extend", "cluster/hyperspace", "--size", "100%FREE", "--resizefs"]);
    let after = lab.volume();
    println!("{} -> {} bytes", before["size_bytes"], after["size_bytes"]);
    assert!(after["size_bytes"].as_u64() > before["size_bytes"].as_u64());
    assert_eq!(before["caught_up_bytes"], after["caught_up_bytes"], "nothing is copied");
    let space = rustix::fs::statvfs(lab.mount()).unwrap();
    let bytes = space.f_blocks * space.f_frsize;
    assert!(
        bytes as f64 > after["size_bytes"].as_u64().unwrap() as f64 * 0.9,
        "the file system grew: {bytes}"
    );
    let_it_write(&lab);
    let report = load.stop();
    check_copies(&lab, &report);
}

fn fsck(lab: &Lab) {
    lab.cli(&["volume", "unmount", "cluster/hyperspace"]);
    lab.cli(&["volume", "check", "cluster/hyperspace"]);
    lab.cli(&["volume", "mount", "cluster/hyperspace", lab.mount().to_str().unwrap()]);
}
