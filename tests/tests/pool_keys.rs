//! The key of a pool: a node speaks with two supervisors, and its disks obey one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use blackbox::{Lab, LabOptions, Rival, VOLUME, key_of, wait_until};
use serde_json::Value;

/// The lab's.
const POOL: &str = "cluster";

/// Lets all nodes speak with these.
fn let_in(lab: &Lab, keys: &[&str]) {
    for node in lab.status()["nodes"].as_array().unwrap() {
        lab.let_in(node["name"].as_str().unwrap(), keys);
    }
}

fn supervisors(report: &Value) -> Vec<&str> {
    report["supervisors"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

fn keys(rival: &Rival) -> Value {
    let (_, text) = rival.cli(&["pool", "key", "list", POOL, "--json"]);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn disks_obey_whom_their_pool_lets_in() {
    let lab = Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() });
    let state = lab.dir().join("supervisor/state");
    let owner = key_of(&state);
    let known = lab.json(&["pool", "key", "list", POOL]);
    assert_eq!((supervisors(&known), &known["unheard"]), (vec![&*owner], &Value::Array(vec![])));
    let file = known["file"].as_str().unwrap();
    assert!(file.starts_with(state.to_str().unwrap()), "{file}");
    let mode = std::fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Whom to believe is remembered where the pool is.
    let records = std::fs::read(state.join("pools.json")).unwrap();
    let records: Value = serde_json::from_slice(&records).unwrap();
    let grants = records["grants"].as_object().unwrap();
    assert_eq!(grants.len(), 1, "{records}");
    let plan = lab.said(&["pool", "import", POOL, "--dry-run"]);
    assert!(plan.1.contains("open here already"), "{plan:?}");

    // Every node speaks with another supervisor. It sees the pool, and gets nothing of it.
    let rival = Rival::start_unknown(&lab);
    let other = key_of(&lab.dir().join("rival/state"));
    let_in(&lab, &[&owner, &other]);
    wait_until("it sees the pool", || {
        rival.must(&["pool", "list", "--json"]).contains(POOL)
            && rival.must(&["disk", "list", "--json"]).matches("\"e").count() >= 3
    });
    let (done, text) = rival.cli(&["pool", "import", POOL, "--force", "--yes"]);
    assert!(!done && text.contains("doesn't let this machine in"), "{text}");
    assert_eq!(keys(&rival)["key"], known["key"]);
    assert_eq!(keys(&rival)["file"], Value::Null);
    std::fs::write(lab.mount().join("words"), vec![b'w'; 4 << 20]).unwrap();
    lab.wait_clean();

    // A copy of the key, which nobody else reads, and which is written over nothing.
    let copy = lab.dir().join("copy");
    let path = copy.to_str().unwrap();
    lab.cli(&["pool", "key", "export", POOL, path]);
    let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (code, text) = lab.said(&["pool", "key", "export", POOL, path]);
    assert!(code != 0 && text.contains("exists"), "{text}");
    let text = std::fs::read_to_string(&copy).unwrap();
    let history = lab.show(&["pool", "history", POOL]);
    assert!(history.contains("pool key export") && !history.contains(text.trim()), "{history}");

    // One disk is away while the pool gets another key, and hears of it when it is back.
    lab.lab(&["kill", "n3"]);
    lab.cli(&["pool", "key", "rotate", POOL, "--yes"]);
    let rotated = lab.json(&["pool", "key", "list", POOL]);
    assert_ne!(rotated["key"], known["key"]);
    assert_eq!(rotated["unheard"].as_array().unwrap().len(), 1, "{rotated}");
    assert!(!Path::new(file).exists(), "a key that is none");
    let (done, text) = rival.cli(&["pool", "import", POOL, "--key", path, "--force", "--yes"]);
    assert!(!done && text.contains("isn't the key"), "{text}");
    lab.lab(&["start", "n3"]);
    // The lab has written its configuration anew.
    let_in(&lab, &[&owner, &other]);
    wait_until("all have heard", || {
        lab.json(&["pool", "key", "list", POOL])["unheard"] == Value::Array(vec![])
    });
    lab.wait_clean();

    // Admitted, the other one takes it, and shuts the first out with a copy of the key.
    lab.cli(&["pool", "admit", POOL, &other, "--yes"]);
    std::fs::remove_file(&copy).unwrap();
    lab.cli(&["pool", "key", "export", POOL, path]);
    rival.must(&["pool", "import", POOL, "--force", "--yes"]);
    // It has no copy of the key, and needs none for another one, if somebody says that it is lost.
    assert_eq!(keys(&rival)["file"], Value::Null);
    let (done, text) = rival.cli(&["pool", "admit", POOL, &owner, "--yes"]);
    assert!(!done && text.contains("secret half"), "{text}");
    let (done, text) = rival.cli(&["pool", "key", "revoke", POOL, &owner, "--yes"]);
    assert!(!done && text.contains("--lost-key"), "{text}");
    rival.must(&["pool", "key", "revoke", POOL, &owner, "--lost-key", "--yes"]);
    wait_until("all have heard", || keys(&rival)["unheard"] == Value::Array(vec![]));
    assert_eq!(supervisors(&keys(&rival)), [&*other]);
    let (code, text) = lab.said(&["pool", "import", POOL, "--force", "--yes"]);
    assert!(code != 0 && text.contains("doesn't let this machine in"), "{text}");
    let (code, text) = lab.said(&["pool", "import", POOL, "--key", path, "--force", "--yes"]);
    assert!(code != 0 && text.contains("isn't the key"), "{text}");

    // The key is lost, as far as the first one is concerned: each node's administrator gives its disk up.
    let theirs = keys(&rival)["key"].as_str().unwrap().to_owned();
    drop(rival);
    for (node, disk) in [("n1", "e1.0"), ("n2", "e2.0")] {
        let run = lab.dir().join(node).join("run");
        let at = ["--force-disk", disk, "--node", run.to_str().unwrap()];
        let reset = [&["disk", "reset-owner", disk][..], &at].concat();
        let plan = lab.cli(&[&reset[..], &["--dry-run"]].concat());
        assert!(plan.contains("would obey nobody"), "{plan}");
        lab.cli(&[&reset[..], &["--yes"]].concat());
        wait_until("who has done so is in its log", || {
            let log = std::fs::read_to_string(lab.dir().join(format!("log/{node}.log"))).unwrap();
            log.contains(&format!("disk reset-owner {disk}"))
        });
    }
    // Of one that nobody logs in to the configuration says so.
    let file = lab.dir().join("n3/node.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("reset-owner = [\"{theirs}\"]\n{text}")).unwrap();
    lab.reload("n3");
    wait_until("its disk obeys nobody", || {
        let log = std::fs::read_to_string(lab.dir().join("log/n3.log")).unwrap();
        log.contains("it obeys nobody any more")
    });
    // What the other one has signed since is nothing to who knows another key, until somebody says that it is right.
    let (code, text) = lab.said(&["pool", "import", POOL, "--force", "--yes"]);
    assert!(code != 0 && text.contains(&theirs) && text.contains("--pool-key KEY"), "{text}");
    lab.cli(&["pool", "import", POOL, "--force", "--yes", "--pool-key", &theirs]);
    assert_eq!(lab.json(&["pool", "key", "list", POOL]), Value::Null);
    lab.cli(&["pool", "key", "rotate", POOL, "--yes"]);
    let anew = lab.json(&["pool", "key", "list", POOL]);
    assert_eq!((supervisors(&anew), &anew["unheard"]), (vec![&*owner], &Value::Array(vec![])));
    lab.wait_clean();
    lab.cli(&["volume", "verify", VOLUME]);
}

/// The supervisor's machine is lost, and with it its state. A copy of the pool's key is all that another machine has of it.
#[test]
fn who_has_a_copy_of_the_key_imports_the_pool_on_another_machine() {
    let lab = Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() });
    let state = lab.dir().join("supervisor/state");
    let owner = key_of(&state);
    std::fs::write(lab.mount().join("words"), vec![b'w'; 1 << 20]).unwrap();
    lab.wait_clean();
    let copy = lab.dir().join("copy");
    let path = copy.to_str().unwrap();
    lab.cli(&["pool", "key", "export", POOL, path]);
    lab.lab(&["kill", "supervisor"]);
    let rival = Rival::start_unknown(&lab);
    let other = key_of(&lab.dir().join("rival/state"));
    let_in(&lab, &[&owner, &other]);
    wait_until("it sees the pool", || rival.must(&["pool", "list", "--json"]).contains(POOL));
    let import = ["pool", "import", POOL, "--force", "--yes"];
    let (done, text) = rival.cli(&import);
    assert!(!done && text.contains("--key"), "{text}");
    // To read what is there takes nothing more, and the disks obey whom they obeyed.
    let read = ["pool", "import", POOL, "--read-only", "--key", path];
    wait_until("the owner is silent for long enough", || {
        rival.cli(&[&read[..], &["--dry-run"]].concat()).0
    });
    rival.must(&[&read[..], &["--yes"]].concat());
    rival.must(&["volume", "verify", VOLUME]);
    let (_, text) = rival.cli(&["pool", "show", POOL]);
    assert!(text.contains("read-only"), "{text}");
    rival.must(&["pool", "release", POOL, "--yes"]);
    assert_eq!(supervisors(&keys(&rival)), [&*owner]);
    rival.must(&[&import[..], &["--key", path]].concat());
    // It is let in by what the key signed, and has the copy, so it can let others in.
    wait_until("all have heard", || keys(&rival)["unheard"] == Value::Array(vec![]));
    assert!(supervisors(&keys(&rival)).contains(&&*other), "{}", keys(&rival));
    assert!(keys(&rival)["file"].as_str().is_some_and(|file| Path::new(file).exists()));
    rival.must(&["pool", "key", "revoke", POOL, &owner, "--yes"]);
    wait_until("all have heard", || keys(&rival)["unheard"] == Value::Array(vec![]));
    rival.must(&["volume", "verify", VOLUME]);
    let (_, text) = rival.cli(&["pool", "history", POOL]);
    assert!(text.contains("import"), "{text}");
}
