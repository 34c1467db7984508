//! Disks that are emptied: because they are to go, because another one is to take their place, because they are
//! gone for good.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};

use blackbox::{Lab, LabOptions, Load, votes, wait_until};
use serde_json::{Value, json};

/// A lab with a pool of one disk of each of five machines, and a mounted volume with a file.
struct Filled {
    lab: Lab,
    file: PathBuf,
    contents: Vec<u8>,
}

impl Filled {
    fn new() -> Filled {
        let options =
            LabOptions { nodes: 5, disks: 2, size: "512M", bare: true, ..LabOptions::default() };
        let lab = Lab::up(&options);
        lab.wait_for_disks(10);
        lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "e3.0", "e4.0", "e5.0", "--yes"]);
        let create = ["volume", "create", "cluster/hyperspace", "--size", "256M"];
        lab.cli(&[&create[..], &["--layout", "mirror:2"]].concat());
        lab.cli(&["volume", "mkfs", "cluster/hyperspace", "--yes"]);
        std::fs::create_dir_all(lab.mount()).unwrap();
        lab.cli(&["volume", "mount", "cluster/hyperspace", lab.mount().to_str().unwrap()]);
        let file = lab.mount().join("kept");
        let contents: Vec<u8> = (0..96u32 << 18).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&file, &contents).unwrap();
        sync(&lab);
        Filled { lab, file, contents }
    }

    /// Whether somebody serves the pool.
    fn is_open(&self) -> bool {
        let (code, text) = self.lab.said(&["pool", "show", "cluster", "--json"]);
        let report = serde_json::from_str::<Value>(&text).unwrap_or_default();
        code != 6 && (report["state"] == "online" || report["state"] == "degraded")
    }

    fn pool(&self) -> Value {
        self.lab.json(&["pool", "show", "cluster"])
    }

    fn jobs(&self) -> Vec<Value> {
        self.pool()["jobs"].as_array().unwrap().clone()
    }

    fn disk(&self, name: &str) -> Value {
        let pool = self.pool();
        let mut disks = pool["disks"].as_array().unwrap().iter();
        disks.find(|disk| disk["name"] == name).cloned().unwrap_or_else(|| panic!("{name}: {pool}"))
    }

    fn has(&self, name: &str) -> bool {
        let pool = self.pool();
        pool["disks"].as_array().unwrap().iter().any(|disk| disk["name"] == name)
    }

    /// From the disks, past the page cache.
    fn read_back(&self) {
        let mount = self.lab.mount();
        self.lab.cli(&["volume", "unmount", "cluster/hyperspace"]);
        self.lab.cli(&["volume", "mount", "cluster/hyperspace", mount.to_str().unwrap()]);
        assert!(std::fs::read(&self.file).unwrap() == self.contents, "the file is as it was");
    }
}

fn sync(lab: &Lab) {
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();
}

/// Zeroes a disk: what was there can't be read from it any more.
fn wipe(disk: &Path) {
    let bytes = std::fs::metadata(disk).unwrap().len();
    let file = std::fs::File::options().write(true).open(disk).unwrap();
    file.set_len(0).unwrap();
    file.set_len(bytes).unwrap();
}

#[test]
fn a_disk_is_emptied_and_taken_out() {
    let filled = Filled::new();
    let lab = &filled.lab;
    let (code, text) = lab.said(&["pool", "evacuate", "cluster", "e1.0", "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("would be emptied") && text.contains("Nothing was done"), "{text}");
    assert!(text.contains("e1.0 has a vote, which moves"), "{text}");
    let (code, text) = lab.said(&["pool", "evacuate", "cluster", "e1.0"]);
    assert_eq!(code, 4, "unasked: {text}");
    assert!(filled.jobs().is_empty());
    let (code, text) = lab.said(&["pool", "evacuate", "cluster", "e7.0", "--yes"]);
    assert_eq!(code, 3, "{text}");

    let full = filled.disk("e1.0")["free_bytes"].as_u64().unwrap();
    let text = lab.cli(&["pool", "evacuate", "cluster", "n1", "--wait", "--yes"]);
    assert!(text.contains("may be pulled"), "{text}");
    let disk = filled.disk("e1.0");
    assert!(disk["free_bytes"].as_u64().unwrap() > full, "{disk}");
    let jobs = filled.jobs();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert_eq!(jobs[0]["state"], "done");
    assert_eq!(jobs[0]["left_bytes"], 0);
    assert_eq!(disk["holds_vote"], false, "{disk}");
    assert_eq!(votes(&filled.pool()), (4, 4));
    let text = lab.cli(&["pool", "jobs"]);
    assert!(text.contains("evacuate") && text.contains("100%") && text.contains("done"), "{text}");
    assert!(lab.show(&["pool", "show", "cluster"]).contains("KIND"));

    // Pulled: nothing is missed.
    lab.lab(&["kill", "n1"]);
    wait_until("the disk is missing", || filled.disk("e1.0")["state"] != "usable");
    std::fs::write(lab.mount().join("more"), vec![7; 8 << 20]).unwrap();
    sync(lab);
    let pool = filled.pool();
    assert_eq!(pool["survives"], 1, "{pool}");
    assert_eq!(pool["volumes"][0]["degraded"], false, "{pool}");
    assert_eq!(pool["volumes"][0]["dirty_bytes"], 0, "{pool}");
    filled.read_back();
    lab.lab(&["start", "n1"]);
    wait_until("the disk is back", || filled.disk("e1.0")["state"] == "usable");

    // It is used again once nobody keeps it empty.
    let number = jobs[0]["number"].to_string();
    lab.cli(&["pool", "cancel", "cluster", &number, "--yes"]);
    assert!(filled.jobs().is_empty());
    let (code, text) = lab.said(&["pool", "cancel", "cluster", &number, "--yes"]);
    assert_eq!(code, 3, "{text}");
}

#[test]
fn a_disk_is_removed_and_is_free_again() {
    let filled = Filled::new();
    let lab = &filled.lab;
    let (code, text) = lab.said(&["pool", "remove", "cluster", "e1.0", "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("It belongs to the pool no more then, and its labels"), "{text}");
    let (code, text) = lab.said(&["pool", "remove", "cluster", "e1.0"]);
    assert_eq!(code, 4, "unasked: {text}");
    assert!(filled.jobs().is_empty());

    let text = lab.cli(&["pool", "remove", "cluster", "e1.0", "--wait", "--yes"]);
    assert_eq!(text, "e1.0 belongs to pool cluster no more\n");
    assert!(!filled.has("e1.0") && filled.jobs().is_empty());
    let pool = filled.pool();
    assert_eq!(votes(&pool), (4, 4));
    assert_eq!(pool["volumes"][0]["degraded"], false, "{pool}");
    lab.wait_clean();
    filled.read_back();
    wait_until("the disk is free", || {
        let disks = lab.json(&["disk", "list"]);
        let mut disks = disks.as_array().unwrap().iter();
        disks.any(|disk| disk["name"] == "e1.0" && disk["state"] == "free")
    });

    lab.cli(&["pool", "extend", "cluster", "e1.0", "--yes"]);
    assert_eq!(filled.disk("e1.0")["state"], "usable");
    wait_until("its machine votes again", || filled.pool()["votes"]["total"] == 5);

    // What is empty already, and one of which nobody says so.
    lab.cli(&["pool", "evacuate", "cluster", "e1.0", "--wait", "--yes"]);
    let text = lab.cli(&["pool", "remove", "cluster", "e1.0", "e2.0", "--wait", "--yes"]);
    assert_eq!(text, "e1.0, e2.0 belong to pool cluster no more\n");
    assert_eq!(filled.pool()["disks"].as_array().unwrap().len(), 3);
    filled.read_back();
    lab.cli(&["volume", "verify", "cluster/hyperspace"]);
}

#[test]
fn a_pool_with_a_spare_is_filled_and_a_node_that_is_lost_finds_a_place() {
    let options =
        LabOptions { nodes: 4, disks: 1, size: "512M", bare: true, ..LabOptions::default() };
    let lab = Lab::up(&options);
    lab.wait_for_disks(4);
    let create = ["pool", "create", "cluster", "e1.0", "e2.0", "e3.0", "e4.0", "--yes"];
    lab.cli(&[&create[..], &["--spare", "node"]].concat());
    let pool = || lab.json(&["pool", "show", "cluster"]);
    assert_eq!(pool()["spare"]["keeps"], "node");
    let create = ["volume", "create", "cluster/v", "--size", "100%FREE", "--layout", "mirror:2"];
    lab.cli(&create);
    assert_eq!(pool()["spare"]["lacks_bytes"], 0, "{}", pool());
    let (_, text) = lab.said(&["pool", "show", "cluster"]);
    assert!(text.contains("free besides the spare"), "{text}");
    let (code, text) = lab.said(&["volume", "extend", "cluster/v", "--size", "+256M"]);
    assert!(code == 1 && text.contains("for the pool's spare"), "{code}: {text}");
    lab.cli(&["volume", "mkfs", "cluster/v", "--yes"]);
    std::fs::create_dir_all(lab.mount()).unwrap();
    lab.cli(&["volume", "mount", "cluster/v", lab.mount().to_str().unwrap()]);
    std::fs::write(lab.mount().join("kept"), vec![7; 64 << 20]).unwrap();
    lab.cli(&["pool", "set", "cluster", "rebuild-delay", "2s"]);
    lab.lab(&["kill", "n2"]);
    wipe(&lab.disk_file("n2", 0));
    std::fs::write(lab.mount().join("more"), vec![8; 8 << 20]).unwrap();
    sync(&lab);
    wait_until("all has found a place", || {
        let pool = pool();
        let is_whole = pool["volumes"][0]["degraded"] == false && pool["survives"] == 1;
        pool["jobs"].as_array().unwrap().is_empty() && is_whole
    });
    assert_ne!(pool()["spare"]["lacks_bytes"], 0, "it is used");
    let text = lab.cli(&["pool", "set", "cluster", "spare", "disk"]);
    assert!(text.contains("It isn't held now"), "{text}");
    lab.cli(&["pool", "set", "cluster", "spare", "off"]);
    assert!(pool()["spare"].is_null());
    assert!(std::fs::read(lab.mount().join("kept")).unwrap() == vec![7; 64 << 20]);
}

#[test]
fn a_node_that_is_gone_for_good_is_removed() {
    let filled = Filled::new();
    let lab = &filled.lab;
    lab.lab(&["kill", "n2"]);
    // The pool notices by what it writes.
    std::fs::write(lab.mount().join("more"), vec![7; 8 << 20]).unwrap();
    sync(lab);
    wait_until("the disk is missing", || filled.disk("e2.0")["state"] == "missing");
    assert_eq!(lab.pool_state(), "degraded");
    let (_, text) = lab.said(&["pool", "remove", "cluster", "n2", "--dry-run"]);
    assert!(text.contains("e2.0 can't be read: what it had is made anew"), "{text}");
    let text = lab.cli(&["pool", "remove", "cluster", "e2.0", "--yes", "--wait"]);
    assert!(text.contains("e2.0 belongs to pool cluster no more"), "{text}");
    lab.wait_clean();
    let pool = filled.pool();
    assert_eq!(pool["disks"].as_array().unwrap().len(), 4, "{pool}");
    assert_eq!(votes(&pool), (4, 4));
    assert_eq!(pool["survives"], 1, "{pool}");
    filled.read_back();

    // It is back with its label, and nobody's until it is taken back.
    lab.lab(&["start", "n2"]);
    let other = || lab.said(&["pool", "create", "other", "e2.0", "--dry-run"]);
    wait_until("it is seen", || other().1.contains("which doesn't have it any more"));
    assert_eq!(other().0, 4);
    assert_eq!(filled.pool()["disks"].as_array().unwrap().len(), 4);
    lab.cli(&["pool", "extend", "cluster", "e2.0", "--yes"]);
    wait_until("its machine votes again", || votes(&filled.pool()) == (5, 5));
    filled.read_back();
    assert_eq!(lab.pool_state(), "online");
}

#[test]
fn a_node_that_is_gone_for_good_is_rebuilt_on_the_others() {
    let filled = Filled::new();
    let lab = &filled.lab;
    lab.cli(&["pool", "set", "cluster", "rebuild-delay", "2s"]);
    lab.lab(&["kill", "n2"]);
    wipe(&lab.disk_file("n2", 0));
    // The pool notices by what it writes.
    std::fs::write(lab.mount().join("more"), vec![7; 8 << 20]).unwrap();
    sync(lab);
    let is_whole = || {
        let pool = filled.pool();
        let rests = pool["jobs"].as_array().unwrap().is_empty();
        let rebuilt = pool["volumes"][0]["degraded"] == false;
        rests && rebuilt && pool["survives"] == 1
    };
    wait_until("all copies are there again", is_whole);
    // Whoever looks for it on the shelf finds it.
    let path = lab.disk_file("n2", 0).display().to_string();
    for command in [&["pool", "show", "cluster"][..], &["disk", "list"]] {
        let (_, text) = lab.said(command);
        let line = text.lines().find(|line| line.contains("missing") && line.contains(&path));
        let line = line.unwrap_or_else(|| panic!("{command:?} doesn't say where e2.0 was: {text}"));
        assert!(line.contains("e2.0") && line.contains("n2"), "{line}");
        assert!(line.contains("last seen 20"), "{line}");
    }
    let log = lab.log("supervisor");
    for part in ["rebuild of disk e2.0 begins", "rebuild of disk e2.0 is done"] {
        assert!(log.contains(part), "{part}");
    }
    lab.lab(&["kill", "n3"]);
    wipe(&lab.disk_file("n3", 0));
    filled.read_back();
    assert!(std::fs::read(lab.mount().join("more")).unwrap() == vec![7; 8 << 20]);
    // Two of five are gone, but not at once: the first had nothing any more.
    wait_until("all copies are there once more", is_whole);
    filled.read_back();
}

#[test]
fn what_is_lost_with_its_only_copy_holds_up_no_other_volume() {
    let filled = Filled::new();
    let lab = &filled.lab;
    lab.cli(&["volume", "create", "cluster/scratch", "--size", "64M", "--layout", "raid0"]);
    lab.lab(&["kill", "n2"]);
    wipe(&lab.disk_file("n2", 0));
    std::fs::write(lab.mount().join("more"), vec![7; 8 << 20]).unwrap();
    sync(lab);
    wait_until("the other volume waits", || lab.pool_state() == "suspended");
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    // Who is told that it is mounted finds his files.
    let mount = lab.mount();
    let mount = ["volume", "mount", "cluster/hyperspace", mount.to_str().unwrap()];
    wait_until("it is mounted again", || lab.said(&mount).0 == 0);
    filled.read_back();
}

#[test]
fn a_free_disk_takes_the_place_of_another() {
    let filled = Filled::new();
    let lab = &filled.lab;
    let (code, text) = lab.said(&["pool", "replace", "cluster", "e4.0", "e4.1", "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("would be added") && text.contains("what they carry lost"), "{text}");
    assert!(text.contains("e4.1 would take the place of e4.0"), "{text}");
    assert_eq!(filled.pool()["disks"].as_array().unwrap().len(), 5, "nothing was added");

    let empty = filled.disk("e4.0")["free_bytes"].as_u64().unwrap();
    let text = lab.cli(&["pool", "replace", "cluster", "e4.0", "e4.1", "--wait", "--yes"]);
    assert!(text.contains("may be pulled"), "{text}");
    let jobs = filled.jobs();
    assert_eq!(jobs[0]["state"], "done", "{jobs:?}");
    assert!(filled.disk("e4.0")["free_bytes"].as_u64().unwrap() > empty);
    assert_eq!(filled.disk("e4.1")["state"], "usable");

    // Back, between disks of the pool, once it may get something again.
    let (code, text) = lab.said(&["pool", "replace", "cluster", "e4.1", "e4.0", "--yes"]);
    assert!(code != 0 && text.contains("to be emptied itself"), "{text}");
    lab.cli(&["pool", "cancel", "cluster", &jobs[0]["number"].to_string(), "--yes"]);
    lab.cli(&["pool", "replace", "cluster", "e4.1", "e4.0", "--wait", "--yes"]);
    filled.read_back();
    lab.cli(&["volume", "verify", "cluster/hyperspace"]);
}

#[test]
fn a_volume_gets_a_copy_more_and_a_copy_less_while_it_is_mounted() {
    let filled = Filled::new();
    let lab = &filled.lab;
    let convert = ["volume", "convert", "cluster/hyperspace", "--layout"];
    let (code, text) = lab.said(&[&convert[..], &["mirror:3", "--dry-run"]].concat());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("would become mirror:3") && text.contains("Nothing was done"), "{text}");
    let (code, text) = lab.said(&[&convert[..], &["mirror:3"]].concat());
    assert_eq!(code, 4, "unasked: {text}");
    assert!(filled.jobs().is_empty());
    let text = lab.cli(&[&convert[..], &["mirror:3", "--wait", "--yes"]].concat());
    assert!(text.contains("is mirror:3 now"), "{text}");
    std::fs::write(lab.mount().join("more"), vec![7; 8 << 20]).unwrap();
    let survives = || filled.pool()["survives"].as_u64().unwrap();
    wait_until("two machines may be lost", || survives() == 2);
    // Its supervisor dies in the middle of the way back.
    lab.cli(&[&convert[..], &["mirror:2", "--yes"]].concat());
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    wait_until("the pool is open again", || filled.is_open());
    let layout = || {
        let volume = lab.json(&["volume", "show", "cluster/hyperspace"]);
        (volume["layout"].clone(), volume["converting_to"].clone())
    };
    wait_until("it is a mirror of two", || layout() == (json!("mirror:2"), Value::Null));
    assert!(filled.jobs().is_empty());
    wait_until("it is mounted again", || filled.file.exists());
    filled.read_back();
    let plan = lab.json(&["pool", "rebalance", "cluster", "--dry-run"]);
    assert!(plan["disks"].as_array().is_some_and(|disks| disks.len() == 5), "{plan}");
}

#[test]
fn a_disk_is_taken_out_of_use_while_its_machine_is_started_anew() {
    let filled = Filled::new();
    let lab = &filled.lab;
    let load = Load::start(&lab.mount().join("load"), 2048, 7);
    load.wait_for_promises();
    let (code, text) = lab.said(&["disk", "offline", "cluster", "e2.0", "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    let asked = "Volume hyperspace would survive no failure then";
    assert!(text.contains(asked) && text.contains("Nothing was done"), "{text}");
    let (code, text) = lab.said(&["disk", "offline", "cluster", "e2.0"]);
    assert_eq!(code, 4, "unasked: {text}");
    assert_eq!(filled.disk("e2.0")["state"], "usable");
    // A rebuild would begin at once.
    lab.cli(&["pool", "set", "cluster", "rebuild-delay", "1s"]);
    let text = lab.cli(&["disk", "offline", "cluster", "n2", "--yes"]);
    assert!(text.contains("disk online cluster e2.0"), "{text}");
    let offline = filled.disk("e2.0");
    assert_eq!(offline["state"], "offline");
    assert!(offline["offline"]["since_secs"].as_u64().unwrap() > 0);
    lab.lab(&["kill", "n2"]);
    load.wait_for_promises();
    let (code, text) =
        lab.said(&["disk", "offline", "cluster", "e1.0", "e3.0", "e4.0", "e5.0", "--yes"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("the last right copy of some blocks of volume hyperspace"), "{text}");
    lab.lab(&["start", "n2"]);
    let listed = || {
        let disks = lab.json(&["disk", "list"]);
        let disk = disks.as_array().unwrap().iter().find(|disk| disk["name"] == "e2.0").cloned();
        disk.map(|disk| disk["state"].clone())
    };
    wait_until("its machine is back", || listed() == Some(json!("offline")));
    load.wait_for_promises();
    let report = load.stop();
    assert!(report.error.is_none(), "{:?}", report.error);
    report.verify();
    let history = || lab.said(&["pool", "history", "cluster"]).1;
    for expected in ["disk offline cluster n2", "disk e2.0 is offline, as somebody wants"] {
        assert!(history().contains(expected), "{expected}: {}", history());
    }
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    wait_until("the pool is open again", || filled.is_open());
    assert_eq!(filled.disk("e2.0")["state"], "offline");
    let text = lab.said(&["pool", "show", "cluster"]).1;
    assert!(text.contains("e2.0 is offline since") && text.contains("degraded"), "{text}");
    assert!(filled.jobs().is_empty(), "nothing is rebuilt");
    let text = lab.cli(&["disk", "online", "cluster", "e2.0", "--wait"]);
    assert!(text.contains("in use again"), "{text}");
    wait_until("all is whole", || filled.pool()["state"] == "online");
    assert!(filled.disk("e2.0").get("offline").is_none());
    wait_until("it is mounted again", || filled.file.exists());
    filled.read_back();
    lab.cli(&["volume", "verify", "cluster/hyperspace"]);
    assert!(history().contains("disk e2.0 is to take part again"), "{}", history());
}
