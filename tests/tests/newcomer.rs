//! The manual's page for two machines, as a newcomer goes through it: two clean Debians, emulated, in which everything
//! that the page has typed is typed, and what that prints is compared with what the page says.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use blackbox::manual::{self, Deed};
use blackbox::require_root;

#[path = "../qemu/vm.rs"]
#[allow(dead_code)]
mod vm;

use vm::{Nic, Switch, Vm, VmOptions, require_qemu};

const PAGE: &str = include_str!("../../docs/two-machines.md");

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
    let given = vm::given_package(dir.path());

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

    let followed = manual::follow("docs/two-machines.md", PAGE, |step| {
        match (step.machine.as_str(), &step.deed) {
            (machine, Deed::ByHand(deed)) if deed == "off" => {
                drop(machines.remove(machine).expect("it is on"));
                Ok((0, String::new()))
            }
            ("desk", Deed::Type { typed, .. }) => Ok(run_at_the_desk(&switch, typed)),
            (machine, Deed::Type { typed, .. }) => machines.get_mut(machine).unwrap().run(typed),
            (_, deed) => panic!("nobody knows how to do {deed:?}"),
        }
    });
    followed.unwrap();
    machines.get_mut("one").unwrap().tell("THAT-IS-ALL");
    machines.remove("one").unwrap().finish().unwrap();
}
