//! Keys: a lab whose machines demand them of each other, and those who have none, or the wrong one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use blackbox::{Lab, LabOptions, Rival, VOLUME, key_of, wait_until};

fn up() -> Lab {
    let security = "encrypt";
    Lab::up(&LabOptions { size: "512M", disks: 1, security, ..LabOptions::default() })
}

/// The key of the machine that has its state there.
/// Lets a node read its configuration again, with more keys or fewer that may open sessions.
fn let_in(lab: &Lab, node: &str, keys: &[&str]) {
    let file = lab.dir().join(node).join("node.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let lines = text.lines().map(|line| match line.starts_with("supervisors = ") {
        true => format!("supervisors = {keys:?}\n"),
        false => format!("{line}\n"),
    });
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let status = lab.status();
    let nodes = status["nodes"].as_array().unwrap();
    let pid = nodes.iter().find(|one| one["name"] == node).unwrap()["pid"].to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
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

    // Another supervisor, with a key of its own that nobody knows.
    let rival = Rival::start(&lab);
    wait_until("it hears that it isn't spoken with", || sees(&rival, "e1.0").1.contains("refuse"));
    assert_eq!(rival.must(&["disk", "list", "--json"]).trim(), "[]");
    assert!(!rival.cli(&["pool", "import", "cluster", "--force", "--yes"]).0);

    // One node takes it, and then doesn't any more.
    let owner = key_of(&state);
    let other = key_of(&lab.dir().join("rival/state"));
    let_in(&lab, "n1", &[&owner, &other]);
    wait_until("it sees a disk", || rival.must(&["disk", "list", "--json"]).contains("e1.0"));
    let_in(&lab, "n1", &[&owner]);
    wait_until("it is shut out", || sees(&rival, "e1.0").1.contains("refuse"));
    lab.wait_clean();
    let (code, text) = lab.said(&["volume", "verify", VOLUME]);
    assert_eq!(code, 0, "{text}");
}
