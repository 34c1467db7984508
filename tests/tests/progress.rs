//! How far long work is: a bar with rate and time left on a terminal, nothing on a pipe, and JSON lines on the standard
//! error for programs. The work is slow by its own settings: a scrub that may read little at a time, copying that may copy
//! little, an import that waits for a machine.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use blackbox::{Lab, LabOptions, VOLUME, text_of, wait_until};
use serde_json::Value;

/// What a command says where its standard output and error are one terminal.
fn on_a_terminal(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let mut script = Command::new("script");
    let typed = format!("stty cols 100; {}", quoted.join(" "));
    script.args(["-qefc", &typed, "/dev/null"]).env("TERM", "xterm");
    script.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = script.output().unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The JSON lines on the standard error of a command that ended well, and what it printed.
fn as_a_program(command: &mut Command) -> (Vec<Value>, Value) {
    let output = command.arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    let lines = String::from_utf8(output.stderr).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (lines, serde_json::from_slice(&output.stdout).unwrap())
}

/// What takes long tells programs how far it is, at which rate, and how long it takes yet. Then `quicken` ends its
/// slowness, of which there was enough.
fn is_told(lab: &Lab, command: &[&str], operation: &str, quicken: impl FnOnce()) {
    let mut command = lab.cli_command(command);
    command.arg("--json").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut seen = Vec::new();
    let mut told = lines.map(|line| {
        seen.push(line);
        serde_json::from_str::<Value>(seen.last().unwrap()).unwrap()["progress"].take()
    });
    let first = told.find(|told| !told["left_secs"].is_null());
    quicken();
    told.for_each(drop);
    assert!(child.wait().unwrap().success(), "{operation}: {seen:?}");
    let told = first.unwrap_or_else(|| panic!("{operation}: no time left was told: {seen:?}"));
    assert_eq!(told["operation"], operation);
    let number = |key: &str| told[key].as_u64().unwrap_or_else(|| panic!("no {key} in {told}"));
    assert!(number("done_bytes") <= number("total_bytes") && number("bytes_per_sec") > 0, "{told}");
}

/// States have colours where somebody sees them, and wants them.
fn states_have_colours(lab: &Lab) {
    const ONLINE: &str = "\u{1b}[32monline\u{1b}[0m";
    let list = ["pool", "list"];
    let mut command = lab.cli_command(&list);
    command.env("NO_COLOR", "");
    let shown = on_a_terminal(&command);
    assert!(shown.contains(ONLINE), "{shown:?}");
    command.env("NO_COLOR", "1");
    let shown = on_a_terminal(&command);
    assert!(shown.contains("online") && !shown.contains('\u{1b}'), "{shown:?}");
    let piped = text_of(&lab.cli_output(&list));
    assert!(piped.contains("online") && !piped.contains('\u{1b}'), "{piped:?}");
}

#[test]
fn work_that_takes_long_is_followed() {
    let lab = Lab::up(&LabOptions { nodes: 3, disks: 1, size: "256M", ..LabOptions::default() });
    states_have_colours(&lab);
    std::fs::write(lab.mount().join("file"), vec![7; 16 << 20]).unwrap();
    assert!(Command::new("sync").arg("-f").arg(lab.mount()).status().unwrap().success());
    // Both copies at this rate take at least four seconds.
    let scrub = ["pool", "scrub", "cluster", "--wait"];
    let begin = ["pool", "set", "cluster", "scrub-rate", "8M"];
    lab.cli(&begin);

    let shown = on_a_terminal(&lab.cli_command(&scrub));
    let bar = |text: &str| text.contains("scrub ") && text.contains('%') && text.contains(" left");
    assert!(bar(&shown) && shown.contains("MiB/s"), "{shown}");

    let piped = lab.cli_output(&scrub);
    assert!(piped.status.success() && piped.stderr.is_empty(), "{}", text_of(&piped));
    assert!(!bar(&String::from_utf8_lossy(&piped.stdout)), "{}", text_of(&piped));

    is_told(&lab, &scrub, "scrub", || {
        drop(lab.cli(&["pool", "set", "cluster", "scrub-rate", "off"]))
    });
}

/// Adds or deletes a limit to what reaches the supervisor.
fn slow(lab: &Lab, verb: &str) {
    let netns = lab.status()["netns"].as_str().unwrap().to_owned();
    let limit = format!("qdisc {verb} dev psup root tbf rate 160mbit burst 64kb latency 400ms");
    let mut command = Command::new("tc");
    let done = command.args(["-n", &netns]).args(limit.split(' ')).status().expect("tc (iproute2)");
    assert!(done.success(), "tc {limit}");
}

/// A conversion, a verification by a slow cable, a disk that gets what it missed, and one that is emptied as for a rebuild.
#[test]
fn copying_and_reading_are_followed() {
    let bare = LabOptions { nodes: 3, disks: 1, size: "256M", bare: true, ..LabOptions::default() };
    let lab = Lab::up(&bare);
    lab.wait_for_disks(3);
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "e3.0", "--yes"]);
    lab.cli(&["volume", "create", VOLUME, "--size", "64M", "--layout", "raid0"]);
    let device = lab.json(&["volume", "attach", VOLUME])["device"].as_str().unwrap().to_owned();
    let write = || {
        let mut device = File::options().write(true).open(&device).unwrap();
        device.write_all(&vec![7; 64 << 20]).unwrap();
        device.sync_all().unwrap();
    };
    write();
    let copy_by = |rate: &str| drop(lab.cli(&["pool", "set", "cluster", "rebuild-rate", rate]));
    copy_by("4M");
    let convert = ["volume", "convert", VOLUME, "--layout", "mirror:2", "--wait", "--yes"];
    is_told(&lab, &convert, "convert", || copy_by("off"));
    slow(&lab, "add");
    is_told(&lab, &["volume", "verify", VOLUME], "verifying", || slow(&lab, "del"));
    copy_by("4M");
    lab.cli(&["disk", "offline", "cluster", "e1.0", "--yes"]);
    write();
    lab.cli(&["disk", "online", "cluster", "e1.0"]);
    wait_until("it gets what it missed", || {
        lab.said(&["pool", "jobs", "cluster"]).1.contains("resync")
    });
    is_told(&lab, &["pool", "jobs", "cluster", "--wait"], "jobs", || copy_by("off"));
    copy_by("4M");
    let evacuate = ["pool", "evacuate", "cluster", "e1.0", "--wait", "--yes"];
    is_told(&lab, &evacuate, "evacuate", || copy_by("off"));
}

#[test]
fn an_import_says_what_it_waits_for() {
    let lab = Lab::up(&LabOptions { nodes: 3, disks: 1, size: "256M", ..LabOptions::default() });
    lab.cli(&["pool", "release", "cluster", "--yes"]);
    lab.lab(&["kill", "n3"]);
    wait_until("the disk is gone", || lab.pool()["disks"].as_array().unwrap().len() == 2);
    // A machine may be booting yet: disks that aren't there are waited for so long.
    let import = ["pool", "import", "cluster", "--grace", "6", "--yes"];
    let (lines, report) = as_a_program(&mut lab.cli_command(&import));
    assert_eq!(report["name"], "cluster");
    let waits = |line: &Value| line["waiting"]["operation"] == "import";
    assert!(lines.iter().any(waits), "{lines:?}");
}
