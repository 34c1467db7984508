//! Four machines in two racks, and the supervisor that votes in neither: a whole rack is destroyed with its disks, and
//! all that was promised is there. Labels change in use, and a rebalance moves copies apart.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use blackbox::{Lab, LabOptions, Load, wait_until};
use serde_json::{Value, json};

const BLOCKS: u64 = 512;

fn pool(lab: &Lab) -> Value {
    lab.json(&["pool", "show", "cluster"])
}

/// Four machines with a disk each, the pool made with these labels, and a mounted volume.
fn four_machines(labels: &[&str]) -> Lab {
    let lab = Lab::up(&LabOptions {
        nodes: 4,
        disks: 1,
        size: "512M",
        bare: true,
        ..LabOptions::default()
    });
    lab.wait_for_disks(4);
    let mut create = vec!["pool", "create", "cluster", "e1.0", "e2.0", "e3.0", "e4.0", "--yes"];
    for label in labels {
        create.extend(["--domain", label]);
    }
    lab.cli(&create);
    lab.mount_volume();
    lab
}

/// The rack is destroyed under load and the supervisor killed: the other rack has all of it.
fn destroy_rack(lab: &Lab, machines: [&str; 2]) {
    let load = Load::start(&lab.mount().join("load"), BLOCKS, 3);
    load.wait_for_promises();
    for machine in machines {
        lab.lab(&["destroy", machine]);
    }
    load.wait_for_promises();
    lab.lab(&["kill", "supervisor"]);
    let report = load.stop();
    lab.lab(&["start", "supervisor"]);
    wait_until("the volume is mounted again", || lab.is_mounted());
    report.verify();
    let load = Load::start(&lab.mount().join("load2"), BLOCKS, 7);
    load.wait_for_promises();
    load.stop().verify();
}

#[test]
fn a_rack_of_two_is_destroyed() {
    let lab = four_machines(&["rack=A:n1,n2", "rack=B:e3.0,e4.0"]);
    lab.wait_until_one_may_go(5);
    let report = pool(&lab);
    let disks = report["disks"].as_array().unwrap();
    let of = |name: &str| disks.iter().find(|disk| disk["name"] == name).unwrap()["labels"].clone();
    assert_eq!((of("e2.0"), of("e3.0")), (json!({"rack": "A"}), json!({"rack": "B"})));
    assert_eq!(report["volumes"][0]["survives_labels"], json!({"rack": 1}));
    let shown = lab.show(&["pool", "show", "cluster"]);
    assert!(shown.contains("LABELS") && shown.contains("rack=B"), "{shown}");
    let survives = "copies of hyperspace survive the loss of 1 disk, 1 machine or 1 rack";
    assert!(shown.contains(survives), "{shown}");
    assert!(lab.show(&["disk", "list"]).contains("rack=A"));
    // What two racks can't carry is refused by the labels.
    let more = ["volume", "create", "cluster/more", "--size", "16M", "--layout", "mirror:3"];
    let (code, said) = lab.said(&more);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("one failure domain (rack=A joins e1.0, e2.0)"), "{said}");
    destroy_rack(&lab, ["n1", "n2"]);
}

#[test]
fn machines_are_put_into_racks_in_use_and_copies_move_apart() {
    let lab = four_machines(&[]);
    lab.wait_until_one_may_go(5);
    let (code, said) = lab.said(&["pool", "label", "cluster", "node=1:n1", "--yes"]);
    assert!(code == 2 && said.contains("without any label"), "{said}");
    let labels = ["rack=A:e1.0,n3", "rack=B:n2,e4.0", "batch=7:n1"];
    let label = |more: Option<&'static str>| -> Vec<&'static str> {
        ["pool", "label", "cluster"].into_iter().chain(labels).chain(more).collect()
    };
    let plan = lab.json(&label(Some("--dry-run")));
    assert_eq!((&plan["domains"], &plan["domains_then"]), (&json!(4), &json!(2)));
    let foreseen = plan["shared"][0]["groups"].as_u64().unwrap();
    let (code, said) = lab.said(&label(None));
    assert!(code == 4 && said.contains("rack=A joins e1.0, e3.0"), "{said}");
    assert_eq!(pool(&lab)["disks"][0]["labels"], Value::Null, "nobody confirmed it");
    lab.cli(&label(Some("--yes")));
    let volume = pool(&lab)["volumes"][0].clone();
    assert_eq!(volume["shared_groups"], foreseen);
    assert!(foreseen > 0 && volume["survives_labels"]["rack"] == 0, "{volume}");
    let shown = lab.show(&["pool", "show", "cluster"]);
    assert!(
        shown.contains(&format!("** {foreseen} groups of hyperspace have two copies")),
        "{shown}"
    );
    let plan = lab.json(&["pool", "rebalance", "cluster", "--dry-run"]);
    assert_eq!(
        (&plan["shared_groups"], &plan["shared_groups_then"]),
        (&json!(foreseen), &json!(0))
    );
    lab.cli(&["pool", "rebalance", "cluster", "--wait"]);
    lab.wait_until_one_may_go(5);
    // A label that means nothing more goes, and that joins nothing else.
    lab.cli(&["pool", "label", "cluster", "batch=:e1.0", "--yes"]);
    assert_eq!(pool(&lab)["disks"][0]["labels"], json!({"rack": "A"}));
    let history = lab.cli(&["pool", "history", "cluster"]);
    assert!(history.contains("pool label cluster batch=:e1.0"), "{history}");
    destroy_rack(&lab, ["n2", "n4"]);
}
