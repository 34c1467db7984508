//! The manual's page for two machines, as a newcomer goes through it: two clean Debians, emulated, in which everything
//! that the page has typed is typed, and what that prints is compared with what the page says.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use blackbox::{etherpool, require_root};

#[path = "../qemu/vm.rs"]
#[allow(dead_code)]
mod vm;

use vm::{Nic, Switch, Vm, VmOptions, require_qemu};

/// What is typed on the page, and what it says that this prints.
#[derive(Debug, PartialEq)]
struct Step {
    machine: String,
    typed: String,
    printed: Vec<String>,
}

/// The steps of a page, with the headings that they are below.
fn steps_of(page: &str) -> Vec<(String, Step)> {
    let (mut steps, mut heading, mut is_console) = (Vec::<(String, Step)>::new(), "", false);
    for line in page.lines() {
        match line {
            "```console" => is_console = true,
            "```" => is_console = false,
            _ if !is_console => heading = line.strip_prefix("## ").unwrap_or(heading),
            _ => {
                let prompt = line.split_once("# ").filter(|(machine, _)| {
                    !machine.is_empty() && machine.bytes().all(|byte| byte.is_ascii_lowercase())
                });
                match (prompt, steps.last_mut()) {
                    (Some((machine, typed)), _) => {
                        let (machine, typed) = (machine.to_owned(), typed.to_owned());
                        steps.push((heading.to_owned(), Step { machine, typed, printed: vec![] }));
                    }
                    (None, Some((_, step))) => match line.strip_prefix('>') {
                        Some(more) if step.printed.is_empty() => {
                            write!(step.typed, "\n{}", more.strip_prefix(' ').unwrap_or(more))
                                .unwrap();
                        }
                        _ => step.printed.push(line.to_owned()),
                    },
                    (None, None) => panic!("nobody is to type '{line}'"),
                }
            }
        }
    }
    steps
}

/// Whether what was printed is what the page says: `...` is anything within a line, and alone in one any lines.
fn is_as_said(said: &[String], printed: &[&str]) -> bool {
    match (said.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((any, rest)), _) if any == "..." => {
            (0..=printed.len()).any(|skipped| is_as_said(rest, &printed[skipped..]))
        }
        (Some((said, rest)), Some((printed, others))) => {
            is_line(said, printed) && is_as_said(rest, others)
        }
        _ => false,
    }
}

fn is_line(said: &str, printed: &str) -> bool {
    let Some((before, after)) = said.split_once("...") else { return said == printed };
    printed.strip_prefix(before).is_some_and(|rest| {
        rest.char_indices()
            .map(|(at, _)| at)
            .chain([rest.len()])
            .any(|at| is_line(after, &rest[at..]))
    })
}

#[test]
fn a_page_is_read_as_people_read_it() {
    let page = "# A\n## B\n```console\none# cat <<END\n> a\n>\n> END\na\n\ntwo# ls\n...\nx ... z\n```\ntext\n";
    let step = |machine: &str, typed: &str, printed: &[&str]| {
        let printed = printed.iter().map(ToString::to_string).collect();
        ("B".to_owned(), Step { machine: machine.into(), typed: typed.into(), printed })
    };
    let steps = steps_of(page);
    assert_eq!(steps[0], step("one", "cat <<END\na\n\nEND", &["a", ""]));
    assert_eq!(steps[1], step("two", "ls", &["...", "x ... z"]));
    let said = &steps[1].1.printed;
    assert!(is_as_said(said, &["x y z"]) && is_as_said(said, &["1", "2", "x  z"]));
    assert!(!is_as_said(said, &["x y z", "more"]) && !is_as_said(said, &["x y"]));
    assert!(!is_as_said(&[], &["what nobody said"]));
}

/// Has a machine do something; what it prints, and how it ends.
fn run_on(machine: &mut Vm, typed: &str) -> (i32, String) {
    machine.tell(&BASE64.encode(typed));
    let did = machine.wait_for("DID").unwrap();
    let (status, printed) = did.split_once(' ').unwrap_or((&did, ""));
    let printed = String::from_utf8_lossy(&BASE64.decode(printed).unwrap()).into_owned();
    (status.parse().unwrap(), printed)
}

fn run_at_the_desk(switch: &Switch, typed: &str) -> (i32, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", switch.netns(), "sh", "-c", typed]).current_dir(root);
    let output = command.output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&printed).into_owned())
}

#[test]
fn two_machines_become_a_mounted_redundant_file_system() {
    require_root();
    require_qemu();
    vm::sweep();
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/deb");
    let mut make = Command::new(script);
    // Emulated instructions would unpack it.
    make.arg(etherpool().get_program()).arg(dir.path()).env("DEB_COMPRESSION", "none");
    let made = make.output().expect("scripts/deb can be run");
    assert!(made.status.success(), "scripts/deb: {}", String::from_utf8_lossy(&made.stderr));
    let package = String::from_utf8(made.stdout).unwrap();
    let package = Path::new(package.trim_end()).file_name().unwrap().to_owned();
    let given = dir.path().join("given");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(dir.path()).arg("-cf").arg(&given).arg(package);
    assert!(pack.status().expect("tar can be run").success());

    let switch = Switch::new("sw");
    switch.bridge("br0", 1500);
    vm::ip(&["-n", switch.netns(), "address", "add", "192.168.7.9/24", "dev", "br0"]);
    let start = |name: &'static str, address: &str| {
        let options = VmOptions {
            name,
            netns: switch.netns(),
            nics: &[Nic { bridge: "br0", mtu: 1500 }],
            script: "newcomer.sh",
            programs: &[],
            variables: &[("VM_NAME", name), ("VM_ADDRESS", address)],
            memory_mb: 1024,
            disk_mb: Some(512),
            limit: Duration::from_secs(900),
        };
        (name, Vm::start_debian(&options, &given))
    };
    let mut machines =
        BTreeMap::from([start("one", "192.168.7.1/24"), start("two", "192.168.7.2/24")]);
    machines.values_mut().for_each(|machine| drop(machine.wait_for("BOOTED").unwrap()));

    let begun = Instant::now();
    let (mut typed, mut wrong, mut token) = (0, String::new(), String::new());
    for (heading, step) in steps_of(include_str!("../../docs/two-machines.md")) {
        if heading == "Pull a plug" && machines.remove("two").is_some() {
            println!("{typed} commands in {} s to a served file system", begun.elapsed().as_secs());
        }
        println!("{}# {}", step.machine, step.typed);
        let (status, printed) = match (step.machine.as_str(), step.typed.as_str()) {
            ("desk", typed) => run_at_the_desk(&switch, typed),
            // It is asked for on a terminal.
            (machine, "etherpool join") => {
                let typed = format!("etherpool join <<END\n{token}\nEND");
                run_on(machines.get_mut(machine).unwrap(), &typed)
            }
            (machine, typed) => run_on(machines.get_mut(machine).unwrap(), typed),
        };
        print!("{printed}");
        typed += 1;
        if step.typed == "etherpool token create" {
            token = printed.lines().next().unwrap_or_default().to_owned();
        }
        // What this one is asked is whether something is wrong.
        let is_wrong = step.typed == "etherpool status" && step.printed[0] != "all is well";
        let is_well = status == if is_wrong { 5 } else { 0 };
        if !is_well || !is_as_said(&step.printed, &printed.lines().collect::<Vec<_>>()) {
            let said = step.printed.join("\n");
            let printed = format!("{printed}(code {status})");
            write!(
                wrong,
                "\n{}# {}\n{printed}--- and the page says:\n{said}\n",
                step.machine, step.typed
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "docs/two-machines.md:{wrong}");
    machines.get_mut("one").unwrap().tell("THAT-IS-ALL");
    machines.remove("one").unwrap().finish().unwrap();
}
