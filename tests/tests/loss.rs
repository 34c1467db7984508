//! A machine is away for a while and is back; then everything is killed and another machine's disks
//! are gone for good: what was promised is there, because the pool called itself whole.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::os::unix::fs::FileExt;
use std::time::Duration;

use blackbox::{Lab, LabOptions, Load, LoadReport, wait_until};

const BLOCKS: u64 = 512;
/// Each in turn is away, and the next is lost: one pair of them has the two copies of the log.
const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn small() -> Lab {
    Lab::up(&LabOptions { size: "256M", disks: 1, ..LabOptions::default() })
}

fn others(node: &str) -> impl Iterator<Item = &'static str> {
    NODES.into_iter().filter(move |other| *other != node)
}

/// Everything is killed, `lost` with its disk for ever; the rest is started again.
fn kill_all_and_lose(lab: &Lab, load: Load, lost: &str) -> LoadReport {
    assert_eq!(lab.pool()["survives"], 1, "the test shows nothing where one loss is too many");
    for who in NODES.into_iter().chain(["supervisor"]) {
        lab.lab(&["kill", who]);
    }
    let report = load.stop();
    std::fs::remove_file(lab.disk_file(lost, 0)).unwrap();
    for who in others(lost).chain(["supervisor"]) {
        lab.lab(&["start", who]);
    }
    lab.wait_served();
    report
}

/// While nothing is written to the log, a machine goes; whoever notices that isn't the log.
#[test]
fn what_trickles_in_after_a_blip_survives_the_other_machine() {
    for (away, lost) in NODES.into_iter().zip(NODES.into_iter().cycle().skip(1)) {
        println!("{away} is away, {lost} is lost");
        let lab = small();
        let load = Load::paced(&lab.mount().join("load"), BLOCKS, 3, Duration::from_secs(4));
        load.wait_for(1);
        // Before what was written is brought into place, which is what finds the machine gone.
        lab.lab(&["kill", away]);
        wait_until("the pool says that it is degraded", || lab.pool_state() == "degraded");
        lab.lab(&["start", away]);
        lab.wait_clean();
        load.set_pause(Duration::from_millis(200));
        load.wait_for(30);
        lab.wait_clean();
        kill_all_and_lose(&lab, load, lost).verify();
    }
}

/// A machine that is being taken in goes away again at that moment, under load.
#[test]
fn a_machine_that_goes_while_it_is_taken_in_counts_for_nothing() {
    for (turn, (away, lost)) in NODES.into_iter().zip(NODES.into_iter().cycle().skip(1)).enumerate()
    {
        println!("{away} is away, {lost} is lost");
        let lab = small();
        let load = Load::start(&lab.mount().join("load"), BLOCKS, 11);
        load.wait_for_promises();
        lab.lab(&["kill", away]);
        wait_until("the pool says that it is degraded", || lab.pool_state() == "degraded");
        for pause in [40, 160, 400] {
            lab.lab(&["start", away]);
            std::thread::sleep(Duration::from_millis(pause + 30 * turn as u64));
            lab.lab(&["kill", away]);
            load.wait_for_promises();
        }
        lab.lab(&["start", away]);
        lab.wait_clean();
        load.wait_for_promises();
        wait_until("one loss is survived", || lab.pool()["survives"] == 1);
        kill_all_and_lose(&lab, load, lost).verify();
    }
}

/// Where the records of logs lie in a disk's file, by number.
fn log_records(disk: &std::path::Path) -> Vec<(u64, usize)> {
    let image = std::fs::read(disk).unwrap();
    let heads = (0..image.len() - 512).step_by(512).filter(|at| image[*at..].starts_with(b"epLR"));
    heads.map(|at| (u64::from_le_bytes(image[at + 32..at + 40].try_into().unwrap()), at)).collect()
}

fn damage(disk: &std::path::Path, offset: usize) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(disk).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], offset as u64).unwrap();
}

/// A lab whose volume waits for acknowledged records that rotted in every copy while all machines were
/// off; `None` where all of them were in place already.
fn rotten_log() -> Option<Lab> {
    let lab = small();
    let load = Load::start(&lab.mount().join("load"), BLOCKS, 17);
    load.wait_for_promises();
    for who in NODES.into_iter().chain(["supervisor"]) {
        lab.lab(&["kill", who]);
    }
    drop(load.stop());
    let disks = NODES.map(|node| lab.disk_file(node, 0));
    let records = disks.each_ref().map(|disk| log_records(disk));
    let last = records.iter().flatten().map(|(number, _)| *number).max().unwrap();
    for (disk, records) in disks.iter().zip(&records) {
        let some = records.iter().filter(|(number, _)| (last - 6..last - 3).contains(number));
        some.for_each(|(_, at)| damage(disk, at + 100));
    }
    for who in NODES.into_iter().chain(["supervisor"]) {
        lab.lab(&["start", who]);
    }
    let mut waits = false;
    wait_until("the volume waits for its log, or serves", || {
        let state = lab.pool_state();
        waits = state == "suspended"
            && lab.volume()["why"].as_str().unwrap_or_default().contains("is damaged");
        waits || state == "online"
    });
    waits.then_some(lab)
}

/// The volume waits and says so; nothing but a command that asks goes on without the records.
#[test]
fn acknowledged_records_that_no_disk_has_are_given_up_by_command_only() {
    let lab = (0..8).find_map(|_| rotten_log()).expect("a record that is only in the log");
    let volume = "cluster/hyperspace";
    let (code, why) = lab.said(&["volume", "show", volume]);
    assert_eq!(code, 5, "{why}");
    assert!(why.contains(&format!("etherpool volume accept-loss {volume}")), "{why}");

    let (code, said) = lab.said(&["volume", "accept-loss", volume, "--dry-run"]);
    assert!(code == 0 && said.contains("were acknowledged"), "{said}");
    let (code, said) = lab.said(&["volume", "accept-loss", volume]);
    assert!(code != 0 && said.contains("--yes"), "nobody was there to be asked: {said}");
    assert_eq!(lab.volume()["state"], "suspended");

    lab.cli(&["volume", "accept-loss", volume, "--yes"]);
    wait_until("the volume serves", || lab.volume()["state"] != "suspended");
    let (code, said) = lab.said(&["volume", "accept-loss", volume, "--yes"]);
    assert!(code != 0 && said.contains("not damaged"), "{said}");
}
