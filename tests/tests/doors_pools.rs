//! Whose pools and disks are: nothing of another's is opened, taken or overwritten by itself or by a
//! slip, and there is a way back.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use blackbox::{Lab, LabOptions, Rival, etherpool, wait_until};

fn small() -> Lab {
    Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() })
}

/// Finding 5.1: the pool's owner is written on its disks for everybody to read. That it names this
/// supervisor opens and mounts nothing; its own records do.
#[test]
fn a_pool_that_is_not_in_the_records_is_left_alone() {
    let lab = small();
    std::fs::write(lab.mount().join("kept"), "kept").unwrap();
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();
    let records = lab.dir().join("supervisor/state/pools.json");
    assert!(std::fs::read_to_string(&records).unwrap().contains("cluster"));
    lab.lab(&["kill", "supervisor"]);
    std::fs::remove_file(&records).unwrap();
    lab.lab(&["start", "supervisor"]);
    wait_until("the pool is present", || lab.pool_state() == "foreign");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(lab.pool_state(), "foreign", "it is not opened by itself");
    assert!(lab.status()["mount"].is_null(), "and not mounted");
    lab.cli(&["pool", "import", "cluster", "--yes"]);
    lab.wait_served();
    assert_eq!(std::fs::read(lab.mount().join("kept")).unwrap(), b"kept");
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    lab.wait_served();
}

/// Finding 5.1, as it was found: a pool that names this supervisor as its owner, with a mount of its own,
/// is brought to the Ethernet.
#[test]
fn a_pool_that_a_stranger_made_in_our_name_gets_nothing() {
    made_in_our_name("none");
}

/// With keys nobody makes a pool of our disks; but a node's owner may have it join somebody else, too.
#[test]
fn a_pool_with_keys_that_a_stranger_made_in_our_name_gets_nothing() {
    made_in_our_name("encrypt");
}

fn made_in_our_name(security: &'static str) {
    let lab = Lab::up(&LabOptions { size: "512M", disks: 1, security, ..LabOptions::default() });
    lab.lab(&["add-node"]);
    let owner = std::fs::read_to_string(lab.dir().join("supervisor/state/owner-id")).unwrap();
    let forger = Rival::start_as(&lab, Some(&owner));
    let run = |line: &str| {
        let (code, text) = forger.code(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(code, 0, "{line}: {text}");
    };
    wait_until("the forger sees the disk", || forger.cli(&["disk", "list"]).1.contains("e4.0"));
    if security != "none" {
        let token = lab.dir().join("theirs");
        std::fs::write(&token, forger.must(&["token", "create"])).unwrap();
        let mut join = etherpool();
        join.args(["join", "--file"]).arg(token).arg("--node").arg(lab.dir().join("n4/run"));
        assert!(join.output().unwrap().status.success());
        wait_until("it may have the disk", || {
            let create = "pool create evil e4.0 --failure-domain disk --dry-run";
            forger.code(&create.split(' ').collect::<Vec<_>>()).0 == 0
        });
    }
    run("pool create evil e4.0 --failure-domain disk --yes");
    run("volume create evil/x --size 16M --layout raid0");
    run("volume mkfs evil/x --yes");
    let mount_point = forger.mounts().join("x");
    std::fs::create_dir_all(&mount_point).unwrap();
    run(&format!("volume mount evil/x {}", mount_point.display()));
    let path = mount_point.display().to_string();
    let is_mounted =
        || std::fs::read_to_string("/proc/self/mounts").unwrap().contains(&format!(" {path} "));
    assert!(is_mounted());
    drop(forger);
    let state = || {
        let pools = lab.json(&["pool", "list"]);
        let evil = pools.as_array().unwrap().iter().find(|pool| pool["name"] == "evil").cloned();
        evil.map_or(String::new(), |pool| pool["state"].as_str().unwrap().to_owned())
    };
    wait_until("the pool is present", || state() == "foreign");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(state(), "foreign");
    assert!(!is_mounted(), "nothing of it is mounted");
    let (code, text) = lab.said(&["pool", "import", "evil", "--yes"]);
    if security != "none" {
        assert!(code != 0 && text.contains("let this machine in"), "{code}: {text}");
        assert_eq!(state(), "foreign");
        return;
    }
    // Imported by a person: what came with it is shown, and its mount lies outside of the roots.
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(&path) && text.contains("stays out"), "{text}");
    std::thread::sleep(Duration::from_secs(3));
    assert!(!is_mounted(), "nothing of it is mounted");
    assert_eq!(lab.pool_state(), "online");
}

/// Finding 5.3.
#[test]
fn a_disk_belongs_to_one_pool() {
    let lab = Lab::up(&LabOptions {
        size: "256M",
        bare: true,
        security: "none",
        ..LabOptions::default()
    });
    lab.wait_for_disks(6);
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "e3.0", "--yes"]);
    lab.cli(&["pool", "create", "other", "e1.1", "e2.1", "--no-witness", "--yes"]);
    for line in [
        "pool extend cluster e1.1 --yes",
        "pool extend cluster e1.1 --force-disk e1.1 --yes",
        "pool extend cluster e1.1 --force-disk e1.1 --dry-run",
        "pool create third e3.1 e2.0 --force-disk e2.0 --yes",
        "pool create third e3.1 e2.0 --force-disk e2.0 --dry-run",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let (code, text) = lab.said(&args);
        assert_eq!(code, 4, "{line}: {text}");
        assert!(text.contains("already"), "{line}: {text}");
        assert!(!text.contains("--force-disk"), "no option does it, so none is advised: {text}");
    }
    let pools = lab.json(&["pool", "list"]);
    let disks = |name: &str| {
        let pool = pools.as_array().unwrap().iter().find(|pool| pool["name"] == name).unwrap();
        pool["disks"].as_array().unwrap().len()
    };
    assert_eq!((disks("cluster"), disks("other")), (3, 2));
    let (status, forecast) = lab.said(&["pool", "extend", "cluster", "e3.1", "--dry-run"]);
    assert_eq!(status, 0, "{forecast}");
    assert!(forecast.contains("mirror:2"), "a dry run says what could be had: {forecast}");

    // Another supervisor: not while the owner lives, by no option; later by naming the disk.
    let rival = Rival::start(&lab);
    wait_until("the rival sees the disks", || rival.pool_state() == "foreign");
    for force in [&["--yes"][..], &["--force-disk", "e2.0", "--yes"]] {
        let args = [&["pool", "create", "theirs", "e2.0"], force].concat();
        let (code, text) = rival.code(&args);
        assert_eq!(code, 4, "{text}");
        assert!(text.contains("heard") && !text.contains("--force-disk"), "{text}");
    }
    lab.lab(&["kill", "supervisor"]);
    wait_until("the owner's lease is over", || {
        let args = ["pool", "create", "theirs", "e2.0", "--force-disk", "e2.0", "--dry-run"];
        rival.code(&args).0 == 0
    });
    let (code, text) = rival.code(&["pool", "create", "theirs", "e2.0", "--yes"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("pool cluster") && text.contains("for good"), "{text}");
    let args = ["pool", "create", "theirs", "e2.0", "--force-disk", "e2.0", "--dry-run"];
    let (_, text) = rival.code(&args);
    assert!(text.contains("pool cluster") && text.contains("votes"), "{text}");
}

/// Findings 5.4 and 5.5.
#[test]
fn import_asks_and_leads_back() {
    let lab = small();
    std::fs::write(lab.mount().join("kept"), "kept").unwrap();
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();
    let rival = Rival::start(&lab);
    wait_until("the rival sees whose pool it is", || rival.pool_state() == "foreign");
    for line in [
        "pool import cluster",
        "pool import cluster --yes",
        "pool import cluster --dry-run",
        "pool import cluster --force",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let (code, text) = rival.code(&args);
        assert_eq!(code, 4, "{line}: {text}");
        let host = lab.json(&["status"])["host"].as_str().unwrap().to_owned();
        assert!(text.contains(&host) && text.contains(" ago"), "who, and when: {line}: {text}");
    }
    let (code, text) = rival.code(&["pool", "import", "--all", "--yes"]);
    assert_ne!(code, 0, "{text}");
    assert_eq!(rival.pool_state(), "foreign", "{text}");
    assert_eq!(std::fs::read(lab.mount().join("kept")).unwrap(), b"kept");

    // Back and forth without a restart of anything.
    let (code, text) = rival.code(&["pool", "import", "cluster", "--yes", "--force"]);
    assert_eq!(code, 0, "{text}");
    wait_until("the rival has it", || rival.pool_state() == "online");
    wait_until("the former owner knows", || {
        matches!(lab.pool_state().as_str(), "fenced" | "foreign")
    });
    wait_until("and sees by whom", || {
        let (_, text) = lab.said(&["pool", "import", "cluster", "--dry-run"]);
        text.contains("e1.0") || text.contains(" ago")
    });
    let (code, text) = rival.code(&["pool", "release", "cluster", "--yes"]);
    assert_eq!(code, 0, "{text}");
    lab.cli(&["pool", "import", "cluster", "--yes"]);
    lab.wait_served();
    assert_eq!(std::fs::read(lab.mount().join("kept")).unwrap(), b"kept");
    std::fs::write(lab.mount().join("more"), "more").unwrap();
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();
    // From one that lives.
    let (code, text) = rival.code(&["pool", "import", "cluster", "--yes", "--force"]);
    assert_eq!(code, 0, "{text}");
    lab.cli(&["pool", "import", "cluster", "--yes", "--force"]);
    lab.wait_served();
    assert_eq!(std::fs::read(lab.mount().join("more")).unwrap(), b"more");
    assert_eq!(lab.pool_state(), "online");
    wait_until("the rival knows", || matches!(rival.pool_state().as_str(), "fenced" | "foreign"));
}

/// Section 1, last line: one holder of data is away, the other behind.
#[test]
fn the_disk_to_bring_back_is_named() {
    let lab = small();
    lab.lab(&["kill", "n2"]);
    wait_until("the pool goes on without it", || lab.pool_state() == "degraded");
    std::fs::write(lab.mount().join("new"), vec![7; 24 << 20]).unwrap();
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();
    wait_until("what was written is missed by n2", || {
        lab.volume()["dirty_bytes"].as_u64().unwrap() > 0
    });
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["kill", "n1"]);
    lab.lab(&["start", "n2"]);
    lab.lab(&["start", "supervisor"]);
    let path = lab.disk_file("n1", 0).display().to_string();
    wait_until("the disk of n1 is named", || {
        let (code, text) = lab.said(&["pool", "show", "cluster"]);
        code == 5 && text.contains("e1.0") && text.contains("n1") && text.contains(&path)
    });
    let (status, text) = lab.said(&["status"]);
    assert!(status == 5 && text.contains("e1.0") && text.contains("bring back"), "{text}");
    for line in ["volume mkfs cluster/hyperspace --yes", "volume check cluster/hyperspace"] {
        let args: Vec<&str> = line.split(' ').collect();
        // It may be opening still, and isn't without the volume for that.
        wait_until("it says what it waits for", || {
            let (status, text) = lab.said(&args);
            assert_eq!(status, 8, "{line}: {text}");
            text.contains("e1.0") || text.contains("mounted")
        });
    }
    // Without a mount of its own: what it waits for is the answer.
    lab.cli(&["volume", "unmount", "cluster/hyperspace"]);
    let path = lab.mount().display().to_string();
    let (status, text) = lab.said(&["volume", "mount", "cluster/hyperspace", &path]);
    assert!(status == 8 && text.contains("e1.0") && text.contains("bring back"), "{text}");
    lab.lab(&["start", "n1"]);
    wait_until("all of it is there", || lab.volume()["state"] != "suspended");
    lab.cli(&["volume", "mount", "cluster/hyperspace", &path]);
    assert_eq!(std::fs::read(lab.mount().join("new")).unwrap(), vec![7; 24 << 20]);
}

/// Finding 5.15: a dry run is refused where the command is refused, and does nothing.
#[test]
fn a_dry_run_answers_as_the_command_would() {
    let lab = small();
    for line in [
        "volume remove cluster/hyperspace",
        "volume mkfs cluster/hyperspace",
        "volume create cluster/more --size 900G --layout mirror:2",
        "volume create cluster/hyperspace --size 16M --layout mirror:2",
        "volume extend cluster/hyperspace --size 900G",
        "disk reset-epoch e1.0 --force-disk e1.0",
        "pool create cluster e1.0",
    ] {
        let said = |more: &str| {
            let args: Vec<&str> = line.split(' ').chain([more]).collect();
            lab.said(&args)
        };
        let dry = said("--dry-run");
        let create = line.starts_with("volume create");
        let real =
            if create { lab.said(&line.split(' ').collect::<Vec<_>>()) } else { said("--yes") };
        assert_ne!(dry.0, 0, "{line}: {}", dry.1);
        assert_eq!(dry, real, "{line}");
    }
    let (status, text) =
        lab.said(&["volume", "create", "cluster/more", "--size", "900G", "--layout", "mirror:2"]);
    assert_eq!(status, 1, "{text}");
    for part in ["n1", "n2", "n3", "e1.0", "one more machine"] {
        assert!(text.contains(part), "what is free where: {part}: {text}");
    }
    assert_eq!(lab.pool_state(), "online");
    lab.wait_served();
    drop(lab);

    // What would be done is said and not done.
    let lab = Lab::up(&LabOptions { size: "256M", disks: 1, bare: true, ..LabOptions::default() });
    lab.wait_for_disks(3);
    let sees = |what: &str, count: usize| {
        let seen = lab.json(&[what, "list"]).as_array().map_or(0, Vec::len);
        assert_eq!(seen, count, "{what}");
    };
    let run = |line: &str| lab.cli(&line.split(' ').collect::<Vec<_>>());
    run("pool create cluster e1.0 e2.0 e3.0 --dry-run");
    sees("pool", 0);
    run("pool create cluster e1.0 e2.0 e3.0 --yes");
    run("volume create cluster/v --size 16M --layout mirror:2 --dry-run");
    sees("volume", 0);
    run("volume create cluster/v --size 16M --layout mirror:2");
    run("volume mkfs cluster/v --dry-run");
    run("volume mkfs cluster/v --yes");
    let (status, text) = lab.said(&["volume", "mkfs", "cluster/v", "--dry-run"]);
    assert!(status == 4 && text.contains("ext"), "it carries a file system now: {text}");
    // Programs are told the same, as JSON, by each command that would ask people.
    let all = || {
        let volume = lab.json(&["volume", "show", "cluster/v"]);
        let volume = ["name", "size_bytes", "layout", "properties"].map(|of| volume[of].clone());
        assert!(volume.iter().all(|of| !of.is_null()), "{volume:?}");
        (lab.json(&["pool", "show", "cluster"])["disks"].clone(), volume)
    };
    let before = all();
    for line in [
        "disk wipe e1.0",
        "disk offline cluster e1.0",
        "pool destroy cluster",
        "pool evacuate cluster e1.0",
        "pool extend cluster e1.0 --force-disk e1.0",
        "pool import --all",
        "pool label cluster rack=A:e1.0",
        "pool rebalance cluster",
        "pool release cluster",
        "pool remove cluster e1.0",
        "volume convert cluster/v --layout raid0",
        "volume export cluster/v aoe:e7.0",
        "volume extend cluster/v --size +16M",
        "volume mkfs cluster/v --force",
        "volume mount cluster/v /mnt/none",
        "volume reduce cluster/v --size -4M --resizefs",
        "volume remove cluster/v",
    ] {
        let args: Vec<&str> = line.split(' ').chain(["--dry-run", "--json"]).collect();
        let (code, text) = lab.said(&args);
        let refused = line.starts_with("disk wipe") || line.contains("--force-disk");
        let plan: Result<serde_json::Value, _> = serde_json::from_str(&text);
        let is_told = plan.is_ok_and(|plan| plan.is_object() || plan.is_array());
        assert!(is_told && (code == 0) != refused, "{line}: {code}: {text}");
    }
    assert_eq!(before, all(), "something was done");
    run("volume remove cluster/v --dry-run");
    sees("volume", 1);
    run("volume remove cluster/v --yes");
    sees("volume", 0);
}
