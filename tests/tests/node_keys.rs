//! Which machine has which disk: a node that the supervisor speaks with shows a disk of another one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use blackbox::{Lab, LabOptions, VOLUME, key_of, wait_until};
use serde_json::Value;

const POOL: &str = "cluster";

/// Gives a machine, which is off, the key of another one: as good as having put its disk into that.
fn pass_for(lab: &Lab, machine: &str, other: &str) {
    let key = |machine: &str| lab.dir().join(machine).join("state/identity.key");
    std::fs::copy(key(other), key(machine)).unwrap();
}

fn disk(lab: &Lab, name: &str) -> Value {
    let pool = lab.json(&["pool", "show", POOL]);
    let disks = pool["disks"].as_array().unwrap();
    disks.iter().find(|disk| disk["name"] == name).unwrap().clone()
}

fn is_refused(lab: &Lab, name: &str) -> bool {
    disk(lab, name)["why"].to_string().contains("etherpool pool accept cluster")
}

#[test]
fn a_disk_is_its_machines() {
    let lab = Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() });
    let keys = ["n1", "n2", "n3"].map(|node| key_of(&lab.dir().join(node).join("state")));
    for (name, key) in ["e1.0", "e2.0", "e3.0"].iter().zip(&keys) {
        assert_eq!(disk(&lab, name)["node_key"], **key);
    }
    let (code, text) = lab.said(&["pool", "accept", POOL]);
    assert!(code == 0 && text.contains("no disk that is present is known"), "{text}");

    // Its disk is as it was, and another machine has it.
    lab.lab(&["kill", "n1"]);
    pass_for(&lab, "n1", "n2");
    lab.lab(&["start", "n1"]);
    wait_until("the disk is refused", || is_refused(&lab, "e1.0"));
    let words = vec![b'w'; 4 << 20];
    std::fs::write(lab.mount().join("words"), &words).unwrap();
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();
    assert!(lab.show(&["disk", "list"]).contains("pool accept"));
    wait_until("somebody is told", || lab.said(&["alert", "list"]).1.contains("e1.0"));
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    lab.wait_served();
    wait_until("the disk is refused by the next one", || is_refused(&lab, "e1.0"));

    let text = lab.cli(&["pool", "accept", POOL, "--dry-run"]);
    assert!(text.contains("e1.0") && text.contains(&keys[0]) && text.contains(&keys[1]), "{text}");
    assert!(is_refused(&lab, "e1.0"), "it was only asked for");
    let (code, text) = lab.said(&["pool", "accept", POOL, "n3", "--yes"]);
    assert!(code == 3 && text.contains("n3 is no disk"), "{code} {text}");
    lab.cli(&["pool", "accept", POOL, "n1", "--yes"]);
    lab.wait_clean();
    assert_eq!(disk(&lab, "e1.0")["node_key"], *keys[1]);
    assert!(lab.show(&["pool", "history", POOL]).contains("pool accept cluster n1 --yes: done"));

    // Now most of them, before the pool is opened.
    ["supervisor", "n2", "n3"].iter().for_each(|machine| drop(lab.lab(&["kill", machine])));
    pass_for(&lab, "n2", "n3");
    lab.lab(&["kill", "n1"]);
    pass_for(&lab, "n1", "n3");
    ["n1", "n2", "n3", "supervisor"].iter().for_each(|machine| drop(lab.lab(&["start", machine])));
    wait_until("it can't be opened, and says why", || {
        let (_, text) = lab.said(&["pool", "show", POOL]);
        text.contains("1 of 3 votes answer") && text.contains("pool accept cluster e1.0")
    });
    lab.cli(&["pool", "accept", POOL, "--yes"]);
    lab.wait_served();
    lab.wait_clean();
    assert!(std::fs::read(lab.mount().join("words")).unwrap() == words, "they are there");
    lab.cli(&["volume", "verify", VOLUME]);
    for name in ["e1.0", "e2.0", "e3.0"] {
        assert_eq!(disk(&lab, name)["node_key"], *keys[2]);
    }
}
