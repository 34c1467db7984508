//! Pages of the manual, as people go through them: what a page has typed is typed on machines that are namespaces, and what
//! that prints is compared with what the page says.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use blackbox::manual::{self, Deed};
use blackbox::{LoopDisk, Machine, require_root};

#[path = "../qemu/vm.rs"]
#[allow(dead_code)]
mod vm;

use vm::{Nic, Switch, Vm, VmOptions, require_qemu};

/// Machines at one switch, which are off.
struct Rack {
    machines: BTreeMap<String, Machine>,
    /// Disks that were taken out of machines.
    out: BTreeMap<String, LoopDisk>,
    /// A machine with a kernel of its own, for those who use what the others serve.
    desk: Option<Vm>,
    switch: Switch,
}

impl Rack {
    /// Machines by their names, each with the last number of its address and its disks in MiB.
    fn new(machines: &[(&str, u8, &[(&str, u64)])]) -> Rack {
        require_root();
        vm::sweep();
        let switch = Switch::new("sw");
        switch.bridge("br0", 1500);
        let systemctl = Path::new(env!("CARGO_BIN_EXE_stand-in-systemctl"));
        let make = |&(name, number, disks): &(&str, u8, &[(&str, u64)])| {
            let address = format!("192.168.7.{number}/24");
            let mut machine = Machine::new(name, switch.netns(), &address, systemctl);
            disks.iter().for_each(|(disk, mebibytes)| machine.put(disk, *mebibytes));
            (name.to_owned(), machine)
        };
        let machines = machines.iter().map(make).collect();
        Rack { machines, out: BTreeMap::new(), desk: None, switch }
    }

    fn machine(&mut self, name: &str) -> &mut Machine {
        self.machines.get_mut(name).unwrap_or_else(|| panic!("there is no machine {name}"))
    }

    fn on(&mut self, names: &[&str]) {
        names.iter().for_each(|name| self.machine(name).on());
    }

    /// Puts a machine with a stock kernel at the switch, 192.168.7.9.
    fn set_desk(&mut self) {
        require_qemu();
        let options = VmOptions {
            name: "desk",
            netns: self.switch.netns(),
            nics: &[Nic { bridge: "br0", mtu: 1500 }],
            script: "desk.sh",
            programs: &[],
            variables: &[("VM_ADDRESS", "192.168.7.9/24")],
            memory_mb: 512,
            disk_mb: None,
            limit: Duration::from_secs(600),
        };
        let mut desk = Vm::start(&options);
        desk.wait_for("BOOTED").unwrap();
        self.desk = Some(desk);
    }

    fn follow(&mut self, name: &str, page: &str) {
        manual::follow(name, page, |step| match &step.deed {
            Deed::Type { typed, .. } if step.machine == "desk" => {
                self.desk.as_mut().expect("somebody at the desk").run(typed)
            }
            Deed::Type { typed, .. } => self.machine(&step.machine).run(typed),
            Deed::ByHand(deed) => {
                self.by_hand(&step.machine, &deed.split(' ').collect::<Vec<_>>());
                (0, String::new())
            }
        });
    }

    fn by_hand(&mut self, machine: &str, deed: &[&str]) {
        match *deed {
            ["on"] => self.machine(machine).on(),
            ["off"] => self.machine(machine).off(),
            ["loses", disk] => {
                let taken = self.machine(machine).take(disk);
                self.out.insert(format!("{machine} {disk}"), taken);
            }
            ["gets", disk, mebibytes] => {
                self.machine(machine).put(disk, mebibytes.parse().expect("MiB"));
            }
            _ => panic!("nobody knows how to do {deed:?}"),
        }
    }
}

#[test]
fn a_pool_of_five_old_servers() {
    let mut rack = Rack::new(&[
        ("one", 1, &[("sdb", 1024)]),
        ("two", 2, &[("sdb", 1024), ("sdc", 512)]),
        ("three", 3, &[("sdb", 2048)]),
        ("four", 4, &[("sdb", 512), ("sdc", 512)]),
        ("five", 5, &[("sdb", 1536)]),
        ("six", 6, &[("sdb", 1024)]),
    ]);
    rack.on(&["one", "two", "three", "four", "five"]);
    rack.set_desk();
    rack.follow("docs/five-machines.md", include_str!("../../docs/five-machines.md"));
}
