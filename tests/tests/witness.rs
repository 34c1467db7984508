//! Two machines with data and a third with a witness: any one of them is destroyed with its disks. The pool goes
//! on, a new machine takes its place, and then another one may go.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use blackbox::{Lab, LabOptions, Load, wait_until};
use serde_json::{Value, json};

const BLOCKS: u64 = 512;
const VOLUME: &str = "cluster/hyperspace";

fn pool(lab: &Lab) -> Value {
    lab.json(&["pool", "show", "cluster"])
}

/// A pool of three machines, one of which only votes, with a mounted volume. What is lost is made anew at once.
fn two_and_a_witness() -> Lab {
    let options =
        LabOptions { disks: 1, size: "512M,512M,64M", bare: true, ..LabOptions::default() };
    let lab = Lab::up(&options);
    wait_until("the disks are present", || {
        lab.json(&["disk", "list"]).as_array().map_or(0, Vec::len) == 3
    });
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "--witness", "e3.0", "--yes"]);
    lab.cli(&["pool", "set", "cluster", "rebuild-delay", "2s"]);
    lab.cli(&["volume", "create", VOLUME, "--size", "128M", "--layout", "mirror:2"]);
    lab.cli(&["volume", "mkfs", VOLUME, "--yes"]);
    std::fs::create_dir_all(lab.mount()).unwrap();
    lab.cli(&["volume", "mount", VOLUME, lab.mount().to_str().unwrap()]);
    lab
}

/// By the supervisor's word, which may not answer yet: what a dead engine left mounted is there for a moment more.
fn is_mounted(lab: &Lab) -> bool {
    let output = lab.cli_output(&["status", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let mut services = answer["services"].as_array().into_iter().flatten();
    services.any(|one| one["volume"] == VOLUME && one["mount"] == "on")
}

fn wait_whole(lab: &Lab) {
    wait_until("any machine may go", || {
        let pool = pool(lab);
        let volume = &pool["volumes"][0];
        pool["votes"] == json!({"total": 3, "present": 3})
            && pool["survives"] == 1
            && pool["jobs"].as_array().is_some_and(Vec::is_empty)
            && volume["degraded"] == false
            && volume["dirty_bytes"] == 0
    });
}

/// `lost` is destroyed under load, a new machine takes its place; then `next` is destroyed.
fn any_may_go(lost: usize, next: &str) {
    let lab = two_and_a_witness();
    wait_whole(&lab);
    let load = Load::start(&lab.mount().join("load"), BLOCKS, lost as u64);
    load.wait_for_promises();
    lab.lab(&["destroy", &format!("n{lost}")]);
    load.wait_for_promises();
    assert!(!lab.disk_file(&format!("n{lost}"), 0).exists());
    let is_witness = lost == 3;
    // The supervisor alone finds what is left of the pool, too.
    lab.lab(&["kill", "supervisor"]);
    let before = load.stop();
    lab.lab(&["start", "supervisor"]);
    wait_until("the volume is mounted again", || is_mounted(&lab));
    let load = Load::start(&lab.mount().join("load2"), BLOCKS, lost as u64 + 7);
    load.wait_for_promises();

    lab.lab(&["add-node", "--disks", "1", "--size", if is_witness { "64M" } else { "512M" }]);
    match is_witness {
        true => lab.cli(&["pool", "extend", "cluster", "--witness", "e4.0", "--yes"]),
        false => lab.cli(&["pool", "extend", "cluster", "e4.0", "--yes"]),
    };
    // Nobody has to say that what was lost is made anew, and who votes instead.
    wait_whole(&lab);
    let gone = format!("e{lost}.0");
    lab.cli(&["pool", "remove", "cluster", &gone, "--yes", "--wait"]);
    wait_whole(&lab);
    let disks = pool(&lab)["disks"].as_array().unwrap().len();
    assert_eq!(disks, 3, "{}", pool(&lab));
    lab.cli(&["volume", "verify", VOLUME]);
    load.wait_for_promises();

    lab.lab(&["destroy", next]);
    load.wait_for_promises();
    let report = load.stop();
    // From the disks that are left, past the page cache.
    lab.cli(&["volume", "unmount", VOLUME]);
    lab.cli(&["volume", "mount", VOLUME, lab.mount().to_str().unwrap()]);
    before.verify();
    report.verify();
    wait_until("the loss is told", || lab.pool_state() == "degraded");
}

#[test]
fn the_first_machine_is_destroyed_then_the_second() {
    any_may_go(1, "n2");
}

#[test]
fn the_second_machine_is_destroyed_then_the_witness() {
    any_may_go(2, "n3");
}

#[test]
fn the_witness_is_destroyed_then_a_machine_with_data() {
    any_may_go(3, "n1");
}

/// Nobody can decide anything without the other machine's vote, and it will never come: somebody says so.
#[test]
fn what_is_left_of_two_machines_becomes_a_pool_of_its_own() {
    let lab = Lab::up(&LabOptions { nodes: 2, disks: 1, size: "256M", ..LabOptions::default() });
    let file = lab.mount().join("file");
    std::fs::write(&file, vec![0x5a; 3 << 20]).unwrap();
    std::fs::File::open(&file).unwrap().sync_all().unwrap();
    let former = lab.pool()["id"].clone();
    let (code, said) = lab.said(&["pool", "import", "cluster", "--without-majority", "--yes"]);
    assert!(code != 0 && said.contains("nothing of it need be given up"), "{said}");
    assert_eq!(lab.pool()["id"], former);
    lab.lab(&["destroy", "n1"]);
    wait_until("it waits for votes", || lab.pool_state() == "suspended");
    let (_, why) = lab.said(&["pool", "show", "cluster"]);
    assert!(why.contains("etherpool pool import cluster --without-majority"), "{why}");

    let (code, said) = lab.said(&["pool", "import", "cluster", "--without-majority", "--dry-run"]);
    assert!(code == 0 && said.contains("left out") && said.contains("e1.0"), "{said}");
    let (code, said) = lab.said(&["pool", "import", "cluster", "--without-majority"]);
    assert!(code != 0 && said.contains("--yes"), "nobody was there to be asked: {said}");
    assert_eq!(lab.pool_state(), "suspended");
    lab.cli(&["pool", "import", "cluster", "--without-majority", "--yes"]);
    wait_until("it is mounted again", || is_mounted(&lab));
    assert!(std::fs::read(&file).unwrap() == vec![0x5a; 3 << 20], "the file is another one");
    let more = lab.mount().join("more");
    std::fs::write(&more, b"more").unwrap();
    std::fs::File::open(&more).unwrap().sync_all().unwrap();

    // Without a word from then on.
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    wait_until("it is mounted again", || is_mounted(&lab));
    assert_eq!(std::fs::read(&more).unwrap(), b"more");
    let pool = lab.pool();
    let mut disks = pool["disks"].as_array().unwrap().iter();
    assert!(disks.any(|disk| disk["state"]["is"] == "missing" && disk["node"] == "n1"), "{pool:#}");
    assert_ne!(pool["id"], former);
}

/// They were only away. By its records this supervisor has the pool that it made of what was left, and not the former one,
/// which would have a majority of its votes again.
#[test]
fn what_is_left_stays_in_use_when_the_others_come_back() {
    let options = LabOptions { disks: 1, size: "256M", bare: true, ..LabOptions::default() };
    let lab = Lab::up(&options);
    wait_until("the disks are present", || {
        lab.json(&["disk", "list"]).as_array().map_or(0, Vec::len) == 3
    });
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "e3.0", "--yes"]);
    lab.cli(&["volume", "create", VOLUME, "--size", "64M", "--layout", "mirror:3"]);
    lab.cli(&["volume", "mkfs", VOLUME, "--yes"]);
    std::fs::create_dir_all(lab.mount()).unwrap();
    lab.cli(&["volume", "mount", VOLUME, lab.mount().to_str().unwrap()]);
    let file = lab.mount().join("file");
    std::fs::write(&file, b"before").unwrap();
    std::fs::File::open(&file).unwrap().sync_all().unwrap();
    let former = lab.pool()["id"].as_str().unwrap().to_owned();
    lab.lab(&["kill", "n2"]);
    lab.lab(&["kill", "n3"]);
    wait_until("it waits for votes", || lab.pool_state() == "suspended");
    let (code, said) = lab.said(&["pool", "import", "cluster", "--without-majority", "--dry-run"]);
    let used = format!("{VOLUME} is mounted at {}", lab.mount().display());
    assert!(code == 0 && said.contains(&used), "{said}");
    lab.cli(&["pool", "import", "cluster", "--without-majority", "--yes"]);
    wait_until("it is mounted again", || is_mounted(&lab));
    let new = lab.pool()["id"].as_str().unwrap().to_owned();
    assert_ne!(new, former);
    std::fs::write(&file, b"since").unwrap();
    std::fs::File::open(&file).unwrap().sync_all().unwrap();
    let history = lab.show(&["pool", "history", "cluster"]);
    assert!(history.contains(&former), "{history}");

    // They are back before it is.
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "n2"]);
    lab.lab(&["start", "n3"]);
    std::thread::sleep(std::time::Duration::from_secs(2));
    lab.lab(&["start", "supervisor"]);
    let states = || {
        let pools = lab.cli_output(&["pool", "list", "--json"]);
        let pools: Value = serde_json::from_slice(&pools.stdout).unwrap_or_default();
        let state = |id: &str| {
            let mut pools = pools.as_array().into_iter().flatten();
            let pool = pools.find(|pool| pool["id"] == id);
            pool.map(|pool| pool["state"]["is"].as_str().unwrap_or_default().to_owned())
        };
        (state(&new), state(&former))
    };
    wait_until("the others are in sight", || states().1.is_some());
    wait_until("it is mounted again", || is_mounted(&lab));
    std::thread::sleep(std::time::Duration::from_secs(20));
    let (new, former) = states();
    assert_eq!(new.as_deref(), Some("degraded"));
    assert!(matches!(former.as_deref(), Some("foreign" | "released")), "{former:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"since");
}
