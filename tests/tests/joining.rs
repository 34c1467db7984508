//! How machines come to know each other: blank disks are for supervisors whom a node joined by a token, and pools take disks
//! of nodes that joined. Everybody else may look, and gets nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::{Command, Output};

use blackbox::{Lab, LabOptions, Rival, etherpool, key_of, text_of, wait_until};
use serde_json::Value;

fn join(lab: &Lab, node: &str, token: &str) -> Output {
    let file = lab.dir().join("a-token");
    std::fs::write(&file, token).unwrap();
    let mut command: Command = etherpool();
    command.args(["join", "--file"]).arg(&file).arg("--node").arg(lab.dir().join(node).join("run"));
    command.output().unwrap()
}

/// The keys that joined a node.
fn members(lab: &Lab, node: &str) -> Vec<String> {
    let mut command: Command = etherpool();
    command.args(["key", "list", "--json", "--node"]).arg(lab.dir().join(node).join("run"));
    // One that was just started answers nothing yet.
    let shown = serde_json::from_slice(&command.output().unwrap().stdout).unwrap_or(Value::Null);
    let keys = shown["members"].as_array().into_iter().flatten();
    keys.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn sees(rival: &Rival, disks: &[&str]) -> bool {
    let listed = rival.must(&["disk", "list", "--json"]);
    disks.iter().all(|disk| listed.contains(disk))
}

#[test]
fn blank_disks_are_for_those_whom_their_node_joined() {
    let lab = Lab::up(&LabOptions {
        nodes: 2,
        size: "512M",
        disks: 1,
        bare: true,
        ..LabOptions::default()
    });
    let owner = key_of(&lab.dir().join("supervisor/state"));
    let token_file = lab.dir().join("supervisor/token");
    wait_until("both nodes have joined", || {
        ["n1", "n2"].iter().all(|node| members(&lab, node) == [owner.clone()])
    });
    for (path, has_token) in [
        ("n1/state/node-members.json", false),
        ("supervisor/state/supervisor-members.json", true),
        ("supervisor/token", true),
    ] {
        let path = lab.dir().join(path);
        wait_until("a token is used up where somebody joined, and there only", || {
            std::fs::read_to_string(&path).is_ok_and(|text| text.contains("epj1-") == has_token)
        });
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let shown = lab.json(&["key", "list"]);
    assert_eq!(shown["members"].as_array().unwrap().len(), 2, "{shown}");
    let token = std::fs::read_to_string(&token_file).unwrap();
    for text in [lab.show(&["key", "list"]), lab.show(&["token", "list"])] {
        assert!(!text.contains(token.trim()), "{text}");
    }

    // A supervisor that nobody knows sees the disks, and takes none: it doesn't know the nodes itself ...
    let mut rival = Rival::start_unknown(&lab);
    wait_until("it sees both", || sees(&rival, &["e1.0", "e2.0"]));
    let create = ["pool", "create", "theirs", "e1.0", "e2.0", "--no-witness", "--yes"];
    let (done, text) = rival.cli(&create);
    assert!(!done && text.contains("hasn't joined this one"), "{text}");
    // ... and when it does, they don't know it.
    let keys = ["n1", "n2"].map(|node| key_of(&lab.dir().join(node).join("state")));
    rival.restart_with(&lab, &format!("nodes = {keys:?}"));
    wait_until("it sees both again", || sees(&rival, &["e1.0", "e2.0"]));
    let (done, text) = rival.cli(&create);
    assert!(!done && text.contains("etherpool join"), "{text}");
    assert_eq!(first_block(&lab, "n1"), [0; 4096]);
    assert_eq!(first_block(&lab, "n2"), [0; 4096]);

    // A token of the one isn't one of the other, nor one with a letter changed, nor one that was given up.
    let theirs = rival.must(&["token", "create", "--valid", "1h"]).trim().to_owned();
    let flipped = if theirs.ends_with('A') { 'B' } else { 'A' };
    let mistyped = format!("{}{flipped}", &theirs[..theirs.len() - 1]);
    let said = join(&lab, "n1", &mistyped);
    assert!(!said.status.success() && text_of(&said).contains("a token is"), "{}", text_of(&said));
    let given_up = rival.must(&["token", "create", "--valid", "1h"]);
    let tokens: Value = serde_json::from_str(&rival.must(&["token", "list", "--json"])).unwrap();
    rival.must(&["token", "revoke", tokens[1]["id"].as_str().unwrap()]);
    let said = join(&lab, "n2", &given_up);
    assert!(!said.status.success() && text_of(&said).contains("is kept"), "{}", text_of(&said));
    assert_eq!(members(&lab, "n2"), *std::slice::from_ref(&owner));

    // Who joins is known from then on, also after a restart without the token.
    let other = key_of(&lab.dir().join("rival/state"));
    let said = join(&lab, "n1", &theirs);
    assert!(said.status.success() && text_of(&said).contains("Joined"), "{}", text_of(&said));
    assert!(members(&lab, "n1").contains(&other));
    lab.lab(&["kill", "n1"]);
    lab.lab(&["start", "n1"]);
    wait_until("it is known still", || members(&lab, "n1").contains(&other));
    let create_one = ["pool", "create", "theirs", "e1.0", "--no-witness", "--yes"];
    wait_until("it may have the disk", || rival.cli(&create_one).0);
    let (done, text) = rival.cli(&["pool", "extend", "theirs", "e2.0", "--yes"]);
    assert!(!done && text.contains("etherpool join"), "{text}");

    // Its configuration still names the token of the first one, which does nothing: it is forgotten, too.
    let said = forget(&lab, "n1", &owner);
    assert!(said.status.success(), "{}", text_of(&said));
    lab.reload("n1");
    // A stranger again: the pool's disk obeys the pool, but a blank one isn't had.
    let said = forget(&lab, "n1", &other);
    assert!(said.status.success(), "{}", text_of(&said));
    assert!(!members(&lab, "n1").contains(&other));
    rival.must(&["pool", "destroy", "theirs", "--yes"]);
    let (done, text) = rival.cli(&create_one);
    assert!(!done, "{text}");
    assert!(members(&lab, "n1").is_empty());
    // Who did that is in its log, and what it waits for once it starts again.
    for command in ["join ", "key forget "] {
        assert!(lab.log("n1").contains(command), "{command}");
    }
    // As it did before it had joined: until it does so again it reads its configuration, which is written below.
    let said = || lab.log("n1").matches("until it joins a supervisor").count();
    let before = said();
    lab.lab(&["kill", "n1"]);
    lab.lab(&["start", "n1"]);
    wait_until("it says so again", || said() > before);

    // Of one whose configuration says so anyone has what is blank.
    let file = lab.dir().join("n1/node.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("claim = \"anyone\"\n{text}")).unwrap();
    lab.reload("n1");
    wait_until("anyone has it", || rival.cli(&create_one).0);
}

fn forget(lab: &Lab, node: &str, key: &str) -> Output {
    let mut command: Command = etherpool();
    let run_dir = lab.dir().join(node).join("run");
    command.args(["key", "forget", key, "--node"]).arg(&run_dir).output().unwrap()
}

/// How a node's only disk begins.
fn first_block(lab: &Lab, node: &str) -> [u8; 4096] {
    let text = std::fs::read_to_string(lab.dir().join(node).join("node.toml")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("path = ")).unwrap();
    let mut block = [0; 4096];
    let disk = std::fs::File::open(line.trim_matches('"')).unwrap();
    disk.read_exact_at(&mut block, 0).unwrap();
    block
}
