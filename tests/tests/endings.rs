//! Pools that are destroyed, and disks that are freed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::os::unix::fs::FileExt;

use blackbox::{Lab, LabOptions, wait_until};

/// What `disk list` says of each disk; nothing while the supervisor is starting.
fn states(lab: &Lab) -> Vec<(String, String)> {
    let output = lab.cli_output(&["disk", "list", "--json"]);
    let disks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let disks = disks.as_array().into_iter().flatten();
    disks.map(|disk| (text(&disk["name"]), text(&disk["state"]))).collect()
}

fn all_free(lab: &Lab, count: usize) -> bool {
    let states = states(lab);
    states.len() == count && states.iter().all(|(_, state)| state == "free")
}

#[test]
fn a_pool_whose_machines_are_gone_for_good_is_given_up() {
    let lab = Lab::up(&LabOptions { size: "200M", disks: 1, bare: true, ..LabOptions::default() });
    lab.wait_for_disks(3);
    // Of the one the witness is left, of the other nothing.
    lab.cli(&["pool", "create", "wreck", "e1.0", "e2.0", "--witness", "supervisor", "--yes"]);
    lab.cli(&["pool", "create", "gone", "e3.0", "--yes"]);
    let (code, text) = lab.said(&["pool", "release", "gone", "--dry-run"]);
    assert!(code == 0 && text.contains("is closed and nobody's"), "an open one: {text}");
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["destroy", "n1"]);
    lab.lab(&["destroy", "n2"]);
    lab.lab(&["kill", "n3"]);
    lab.lab(&["start", "supervisor"]);
    let mut said = (0, String::new());
    wait_until("both pools are told of", || {
        said = lab.said(&["status"]);
        said.1.contains("pool wreck can't be opened") && said.1.contains("pool gone is not there")
    });
    let (code, text) = said;
    assert_eq!(code, 5, "{text}");
    for name in ["wreck", "gone"] {
        assert!(text.contains(&format!("for good: etherpool pool release {name}")), "{text}");
        // One of which nothing is there may be found yet.
        wait_until("it can be given up", || lab.said(&["pool", "release", name]).0 == 4);
        let (code, text) = lab.said(&["pool", "release", name, "--dry-run"]);
        assert!(code == 0 && text.contains("also if its disks are back"), "{text}");
        let (code, text) = lab.said(&["status"]);
        assert!(code == 5 && text.contains(&format!("pool {name}")), "nothing was done: {text}");
        let said = lab.cli(&["pool", "release", name, "--yes"]);
        assert!(said.contains("is given up"), "{said}");
        let (code, text) = lab.said(&["pool", "release", name, "--yes"]);
        assert_eq!(code, if name == "gone" { 3 } else { 8 }, "it isn't ours any more: {text}");
    }
    wait_until("nothing is wrong", || lab.said(&["status"]).0 == 0);
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    wait_until("nothing is wrong after a restart", || lab.said(&["status"]).0 == 0);

    // One of the machines wasn't gone for good.
    lab.lab(&["start", "n3"]);
    let state = || {
        let pools = lab.json(&["pool", "list"]);
        let gone = pools.as_array().unwrap().iter().find(|pool| pool["name"] == "gone").cloned();
        gone.map(|pool| pool["state"].as_str().unwrap().to_owned()).unwrap_or_default()
    };
    wait_until("it is there, and isn't opened", || state() == "foreign");
    assert_eq!(lab.said(&["status"]).0, 0);
    lab.cli(&["pool", "import", "gone", "--yes"]);
    wait_until("it is open", || state() == "online");
}

#[test]
fn a_pool_is_destroyed_and_its_disks_are_free() {
    let lab = Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() });
    for args in
        [&["pool", "destroy", "cluster", "--yes"][..], &["pool", "destroy", "cluster", "--dry-run"]]
    {
        let (code, text) = lab.said(args);
        assert_eq!(code, 8, "it is used: {text}");
        assert!(text.contains("is mounted at") && text.contains("served by FTP"), "{text}");
    }
    let (code, text) = lab.said(&["disk", "wipe", "e1.0", "--yes"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("disk of pool cluster"), "{text}");
    lab.cli(&["volume", "unmount", "cluster/hyperspace"]);
    // Elsewhere a file is made for whoever uses it from now on.
    lab.cli(&["volume", "attach", "cluster/hyperspace"]);
    let (code, text) = lab.said(&["pool", "destroy", "cluster", "--yes"]);
    assert_eq!(code, 8, "{text}");
    assert!(text.contains("is attached"), "{text}");
    lab.cli(&["volume", "detach", "cluster/hyperspace"]);

    let (code, text) = lab.said(&["pool", "destroy", "cluster", "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("volume cluster/hyperspace") && text.contains("Nothing was done"),
        "{text}"
    );
    let (code, text) = lab.said(&["pool", "destroy", "cluster"]);
    assert_eq!(code, 4, "unasked: {text}");
    let (code, text) = lab.said(&["pool", "destroy", "nowhere", "--yes"]);
    assert_eq!(code, 3, "{text}");

    lab.lab(&["kill", "n3"]);
    wait_until("a disk is missing", || {
        let plan = lab.json(&["pool", "destroy", "cluster", "--dry-run"]);
        plan["away"].as_array().unwrap().len() == 1
    });
    let done = lab.json(&["pool", "destroy", "cluster", "--yes"]);
    // As they are done, which may be in any order.
    let mut wiped: Vec<_> = done["wiped"].as_array().unwrap().iter().collect();
    wiped.sort_by_key(|disk| disk.as_str());
    assert_eq!(wiped, ["e1.0", "e2.0"], "{done}");
    assert_eq!(done["away"].as_array().unwrap().len(), 1, "{done}");
    wait_until("two disks are free", || {
        states(&lab).iter().filter(|(_, state)| state == "free").count() == 2
    });
    assert_eq!(lab.json(&["pool", "list"]), serde_json::json!([]));

    // The one that was away, also to a supervisor that has it from its records alone.
    lab.lab(&["start", "n3"]);
    let is_known = || states(&lab).contains(&("e3.0".into(), "destroyed".into()));
    wait_until("the disk is of a destroyed pool", is_known);
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    wait_until("the disk is of a destroyed pool after a restart", is_known);
    let (_, text) = lab.said(&["disk", "list"]);
    assert!(text.contains("`disk wipe` frees it"), "{text}");
    let (code, text) = lab.said(&["pool", "import", "cluster", "--yes"]);
    assert_ne!(code, 0, "{text}");
    let (code, text) = lab.said(&["disk", "wipe", "e3.0"]);
    assert_eq!(code, 4, "unasked: {text}");
    let (code, text) = lab.said(&["disk", "wipe", "e3.0", "--yes"]);
    assert_eq!(code, 0, "{text}");
    wait_until("all disks are free", || all_free(&lab, 3));

    // What isn't etherpool's is only taken off where that is asked for.
    let disk = std::fs::File::options().write(true).open(lab.disk_file("n1", 0)).unwrap();
    disk.write_all_at(b"XFSB", 0).unwrap();
    disk.sync_all().unwrap();
    wait_until("something is on the disk", || !all_free(&lab, 3));
    let (code, text) = lab.said(&["disk", "wipe", "e1.0", "--yes"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("XFS file system") && text.contains("--signatures"), "{text}");
    let (code, text) = lab.said(&["disk", "wipe", "e1.0", "--signatures", "--yes"]);
    assert_eq!(code, 0, "{text}");
    wait_until("all disks are free again", || all_free(&lab, 3));
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "e3.0", "--yes"]);
}
