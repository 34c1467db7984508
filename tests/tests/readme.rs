//! Every command of the README is run: a reader must be able to type what stands there.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;
use std::process::Command;

use blackbox::{Lab, LabOptions, manual, require_root, wait_until};

const README: &str = include_str!("../../README.md");

/// What the README has typed at one place, as one script.
fn script(place: &str) -> String {
    manual::scripts(README, place).join("\n")
}

/// Runs a script with `etherpool` in its path; each command must succeed.
fn run(script: &str, environment: &[(&str, &str)]) {
    let bin = tempfile::tempdir().unwrap();
    let program = std::env::var("ETHERPOOL_BIN")
        .unwrap_or_else(|_| format!("{}/../target/release/etherpool", env!("CARGO_MANIFEST_DIR")));
    std::os::unix::fs::symlink(program, bin.path().join("etherpool")).unwrap();
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euxo", "pipefail", "-c", script])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env("PATH", path)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "a command of the README failed: see above");
}

/// What `make lab` starts, and what people are told to type then; at the paths of the page.
#[test]
fn the_lab_of_the_readme() {
    require_root();
    if Path::new("/var/lib/etherpool/lab/lab.json").exists() {
        panic!(
            "a lab is at the default place; `etherpool lab down --wipe` first: this test ends with that"
        );
    }
    run(&format!("etherpool lab up\n{}", script("lab")), &[]);
}

/// Exports of disks that aren't here: what the commands mean is checked.
#[test]
fn the_exports_of_the_readme() {
    let commands = [script("node"), script("target")].join("\n");
    for command in commands.lines() {
        run(&format!("{command} --check"), &[]);
    }
}

/// The commands for real machines, on machines of a lab whose disks have the page's addresses.
#[test]
fn the_real_machines_of_the_readme() {
    let lab = Lab::up(&LabOptions {
        nodes: 9,
        disks: 2,
        size: "256M",
        bare: true,
        ..LabOptions::default()
    });
    wait_until("all disks are present", || {
        let text = lab.cli(&["disk", "list", "--json"]);
        (7..=9).all(|shelf| (0..2).all(|slot| text.contains(&format!("\"e{shelf}.{slot}\""))))
    });
    // Node and supervisor run already; a terminal would be asked where there is none here.
    let script_of = script;
    let script = script("supervisor")
        .lines()
        .filter(|line| !line.starts_with("etherpool supervisor"))
        .map(|line| match line.split_whitespace().nth(2) {
            Some("create" | "extend") if line.contains(" pool ") => format!("{line} --yes"),
            Some("mkfs") => format!("{line} --yes"),
            Some("extend") if line.ends_with("--resizefs") => format!("{line} --yes"),
            _ => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n");
    let mount = lab.dir().join("files");
    std::fs::create_dir(&mount).unwrap();
    let script = script.replace("/srv/files", mount.to_str().unwrap());
    let socket = lab.dir().join("supervisor/run/api.sock");
    let socket = [("ETHERPOOL_SOCKET", socket.to_str().unwrap())];
    // Its machines have joined; one does so again, by a token that is made as the page says.
    let (token, node) = (lab.dir().join("readme-token"), lab.dir().join("n7/run"));
    run(&format!("etherpool token create > {}", token.display()), &socket);
    let join = script_of("join").replace(
        "etherpool join",
        &format!("etherpool join --node {} < {}", node.display(), token.display()),
    );
    run(&join, &[]);
    run(&script, &socket);
    std::fs::write(mount.join("file"), "written").unwrap();
    assert_eq!(std::fs::read(mount.join("file")).unwrap(), b"written");
}
