//! Machines of the manual's pages at one switch: namespaces, and some that are emulated.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use blackbox::manual::{self, Deed};
use blackbox::{Machine, MachineDisk, require_root, wait_until};
use tempfile::TempDir;

#[path = "vm.rs"]
#[allow(dead_code)]
pub mod vm;

use vm::{DriverHung, Nic, Switch, Vm, VmOptions, require_qemu};

/// Disks by their names, in MiB.
pub type Disks<'a> = &'a [(&'a str, u64)];

/// Machines at one switch, which are off.
pub struct Rack {
    machines: BTreeMap<String, Machine>,
    /// Disks that were taken out of machines.
    out: BTreeMap<String, MachineDisk>,
    /// Machines with a kernel of their own.
    pub emulated: BTreeMap<String, Vm>,
    /// Of these the ones with a Debian, which may be off.
    debians: BTreeMap<String, Debian>,
    switch: Switch,
}

/// A machine with a whole Debian, in a directory of its own.
struct Debian {
    address: String,
    /// The AoE disk that it will have.
    aoe: &'static str,
    dir: TempDir,
}

impl Rack {
    /// Machines by their names, each with the last number of its address and its disks.
    pub fn new(machines: &[(&str, u8, Disks)]) -> Rack {
        require_root();
        vm::sweep();
        let switch = Switch::new("sw");
        switch.bridge("br0", 1500);
        let systemctl = Path::new(env!("CARGO_BIN_EXE_stand-in-systemctl"));
        let make = |&(name, number, disks): &(&str, u8, Disks)| {
            let address = format!("192.168.7.{number}/24");
            let mut machine = Machine::new(name, switch.netns(), &address, systemctl);
            disks.iter().for_each(|(disk, mebibytes)| machine.put(disk, *mebibytes));
            (name.to_owned(), machine)
        };
        let machines = machines.iter().map(make).collect();
        let (out, emulated, debians) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Rack { machines, out, emulated, debians, switch }
    }

    /// One that is made of namespaces.
    pub fn machine(&mut self, name: &str) -> &mut Machine {
        self.machines.get_mut(name).unwrap_or_else(|| panic!("there is no machine {name}"))
    }

    /// Switches them on.
    pub fn on(&mut self, names: &[&str]) {
        names.iter().for_each(|name| self.machine(name).on());
    }

    /// Puts a machine with a stock kernel at the switch, 192.168.7.9.
    pub fn set_desk(&mut self) {
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
        self.emulated.insert("desk".to_owned(), desk);
    }

    /// The machine of `guest/alone.sh`, 192.168.7.1, with four disks that are used already.
    pub fn set_alone(&mut self, dir: &Path) {
        require_qemu();
        let units = dir.join("units");
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
        let mut pack = Command::new("tar");
        pack.arg("-C").arg(packaging).arg("-cf").arg(&units).arg(".");
        assert!(pack.status().expect("tar can be run").success());
        let disks = ["vdb", "vdc", "vdd"].map(|name| {
            let path = dir.join(name);
            std::fs::File::create(&path).unwrap().set_len(256 << 20).unwrap();
            path
        });
        let drives = disks.iter().chain([&units]).flat_map(|path| {
            let drive = format!("file={},format=raw,if=virtio,cache=unsafe", path.display());
            ["-drive".to_owned(), drive]
        });
        let find = |program: &str| -> PathBuf {
            let found = ["/usr/sbin", "/sbin", "/usr/bin"].map(|dir| Path::new(dir).join(program));
            found.into_iter().find(|path| path.exists()).expect("scripts/setup-qemu installs it")
        };
        // A network of its own.
        self.switch.bridge("br1", 1500);
        let options = VmOptions {
            name: "alone",
            netns: self.switch.netns(),
            nics: &[Nic { bridge: "br1", mtu: 1500 }],
            script: "alone.sh",
            programs: &[
                blackbox::program(),
                env!("CARGO_BIN_EXE_stand-in-systemctl").into(),
                find("mdadm"),
                find("lvm"),
                find("wipefs"),
            ],
            variables: &[("VM_ADDRESS", "192.168.7.1/24")],
            memory_mb: 1024,
            disk_mb: Some(256),
            limit: Duration::from_secs(600),
        };
        let mut alone = Vm::start_with(&options, &drives.collect::<Vec<_>>());
        alone.wait_for("BOOTED").unwrap();
        self.emulated.insert("alone".to_owned(), alone);
    }

    /// Puts machines with a whole Debian at the switch, each with the last number of its address, an empty /dev/vda and
    /// our package, which isn't installed; and switches them on. What they will have of AoE disks (one or none) is watched:
    /// their driver may hang.
    pub fn set_debians(&mut self, machines: &[(&str, u8)], aoe: &'static str) {
        require_qemu();
        for (name, number) in machines {
            let dir = tempfile::Builder::new().prefix("etherpool-debian").tempdir_in("/var/tmp");
            let (dir, address) = (dir.unwrap(), format!("192.168.7.{number}/24"));
            vm::given_package(dir.path());
            self.debians.insert((*name).to_owned(), Debian { address, aoe, dir });
        }
        machines.iter().for_each(|(name, _)| self.start_debian(name));
        for (name, _) in machines {
            self.emulated.get_mut(*name).unwrap().wait_for("BOOTED").unwrap();
        }
    }

    fn start_debian(&mut self, name: &str) {
        let Debian { address, aoe, dir } = &self.debians[name];
        let options = VmOptions {
            name,
            netns: self.switch.netns(),
            nics: &[Nic { bridge: "br0", mtu: 1500 }],
            script: "newcomer.sh",
            programs: &[],
            variables: &[("VM_ADDRESS", address), ("VM_AOE", aoe)],
            memory_mb: 1024,
            disk_mb: Some(512),
            limit: Duration::from_secs(2400),
        };
        let (root, given) = (dir.path().join("root"), dir.path().join("given"));
        self.emulated.insert(name.to_owned(), Vm::start_cluster(&options, &root, &given));
    }

    /// Types something at an emulated machine; fails the test where it fails. What it printed.
    pub fn must(&mut self, name: &str, typed: &str) -> String {
        let (status, printed) = self.emulated.get_mut(name).expect("it is on").run(typed).unwrap();
        assert_eq!(status, 0, "{name}# {typed}\n{printed}");
        printed
    }

    /// Goes through a page.
    pub fn follow(&mut self, name: &str, page: &str) -> Result<(), DriverHung> {
        manual::follow(name, page, |step| match &step.deed {
            Deed::Type { typed, .. } => match self.emulated.get_mut(&step.machine) {
                Some(machine) => machine.run(typed),
                None => Ok(self.machine(&step.machine).run(typed)),
            },
            Deed::ByHand(deed) => {
                self.by_hand(&step.machine, &deed.split(' ').collect::<Vec<_>>());
                Ok((0, String::new()))
            }
        })
    }

    fn by_hand(&mut self, machine: &str, deed: &[&str]) {
        match *deed {
            ["on"] if self.debians.contains_key(machine) => {
                self.start_debian(machine);
                self.emulated.get_mut(machine).unwrap().wait_for("BOOTED").unwrap();
            }
            ["off"] if self.debians.contains_key(machine) => {
                drop(self.emulated.remove(machine).expect("it is on"));
            }
            ["on"] => self.machine(machine).on(),
            ["off"] => self.machine(machine).off(),
            ["loses", disk] => {
                let taken = self.machine(machine).take(disk);
                self.out.insert(format!("{machine} {disk}"), taken);
            }
            ["gets", disk, mebibytes] => {
                self.machine(machine).put(disk, mebibytes.parse().expect("MiB"));
            }
            ["gets", disk, "from", other, other_disk] => {
                let found = self.out.remove(&format!("{other} {other_disk}"));
                let found = found.unwrap_or_else(|| self.machine(other).take(other_disk));
                self.machine(machine).put_back(disk, found);
            }
            ["gets", file, "of", other] if self.emulated.contains_key(other) => {
                let content = self.must(other, &format!("base64 -w 0 {file}"));
                self.must(machine, &format!("echo {content} | base64 -d >{file}"));
            }
            ["gets", file, "of", other] => {
                let (from, to) = (self.machine(other).home(), self.machine(machine).home());
                std::fs::copy(from.join(file), to.join(file)).expect("it is there");
            }
            _ => panic!("nobody knows how to do {deed:?}"),
        }
    }

    /// A pool of these disks, and its volumes (name, size, layout), mounted.
    pub fn make_pool(&mut self, disks: &str, volumes: &[(&str, &str, &str)]) {
        let one = self.machine("one");
        wait_until("the disks are there", || {
            let (_, list) = one.run("etherpool disk list");
            list.matches(" free").count() == disks.split(' ').count()
        });
        one.must(&format!("etherpool pool create tank {disks} --yes"));
        for (name, size, layout) in volumes {
            one.must(&format!(
                "etherpool volume create tank/{name} --size {size} --layout {layout}
                etherpool volume mkfs tank/{name} --yes
                etherpool volume mount tank/{name} /srv/{name}"
            ));
        }
        wait_until("it is whole", || one.run("etherpool status -x") == (0, String::new()));
    }

    /// What the page on two machines comes to, on machines that have joined; `one` has the supervisor.
    pub fn set_up(&mut self, names: &[&str]) {
        self.on(names);
        self.join("one", names);
    }

    /// The supervisor on `supervisor`, and nodes that it knows; all are on.
    pub fn join(&mut self, supervisor: &str, names: &[&str]) {
        for name in names {
            let node = "echo 'ETHERPOOL_NODE_OPTIONS=\"-i eth0\"' >>/etc/default/etherpool-node
                systemctl enable --now etherpool-node";
            self.machine(name).must(node);
        }
        let configured = "printf '[[interfaces]]\nname = \"eth0\"\n[alerts]\nnobody = true\n' >/etc/etherpool/supervisor.toml
            systemctl enable --now etherpool-supervisor";
        self.machine(supervisor).must(configured);
        let token = self.machine(supervisor).must("etherpool token create");
        let token = token.lines().next().unwrap().to_owned();
        for name in names.iter().filter(|name| **name != supervisor) {
            self.machine(name).must(&format!("etherpool join <<END\n{token}\nEND"));
        }
    }
}
