//! Keys: a lab whose machines demand them of each other, and those who have none, or the wrong one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use blackbox::{Lab, LabOptions, Rival, VOLUME, key_of, wait_until};

fn up() -> Lab {
    Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() })
}

fn sees(rival: &Rival, address: &str) -> (String, String) {
    let (done, text) = rival.cli(&["aoe", "discover", "--json"]);
    assert!(done, "{text}");
    let seen: serde_json::Value = serde_json::from_str(&text).unwrap();
    let one = seen.as_array().unwrap().iter().find(|one| one["address"] == address);
    let text = |key: &str| one.and_then(|one| one[key].as_str()).unwrap_or_default().to_owned();
    (text("name"), text("trouble"))
}

#[test]
fn a_cluster_with_keys_serves_and_lets_nobody_else_in() {
    let lab = up();
    let state = lab.dir().join("supervisor/state");
    let mode = std::fs::metadata(state.join("identity.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let file = lab.mount().join("words");
    std::fs::write(&file, vec![b'w'; 8 << 20]).unwrap();
    assert!(Command::new("sync").arg("-f").arg(&file).status().unwrap().success());

    // A machine is away, forgets all its sessions, and is back.
    lab.lab(&["kill", "n2"]);
    std::fs::write(lab.mount().join("more"), vec![b'm'; 8 << 20]).unwrap();
    lab.lab(&["start", "n2"]);
    lab.wait_clean();
    assert_eq!(std::fs::read(&file).unwrap(), vec![b'w'; 8 << 20]);

    // Nodes whose administrator names supervisors speak with no others.
    let owner = key_of(&state);
    ["n1", "n2", "n3"].iter().for_each(|node| lab.let_in(node, &[&owner]));
    // Another supervisor, with a key of its own that nobody knows.
    let rival = Rival::start_unknown(&lab);
    wait_until("it hears that it isn't spoken with", || sees(&rival, "e1.0").1.contains("refuse"));
    assert_eq!(rival.must(&["disk", "list", "--json"]).trim(), "[]");
    assert!(!rival.cli(&["pool", "import", "cluster", "--force", "--yes"]).0);

    // One node takes it, and then doesn't any more.
    let other = key_of(&lab.dir().join("rival/state"));
    lab.let_in("n1", &[&owner, &other]);
    wait_until("it sees a disk", || rival.must(&["disk", "list", "--json"]).contains("e1.0"));
    lab.let_in("n1", &[&owner]);
    wait_until("it is shut out", || sees(&rival, "e1.0").1.contains("refuse"));
    lab.wait_clean();
    let (code, text) = lab.said(&["volume", "verify", VOLUME]);
    assert_eq!(code, 0, "{text}");
}
