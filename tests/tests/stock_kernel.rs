//! Stock Debian kernels in emulated machines: as clients of disks and volumes by their own AoE driver,
//! and as the ground on which a whole lab stands, where a kernel outside may forbid what it needs.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blackbox::frames::{Client, header};
use blackbox::{Lab, LabOptions, LoopDisk, VOLUME, etherpool, require_root, wait_until};

use os::net::InterfaceSpec;

#[path = "../qemu/vm.rs"]
#[allow(dead_code)]
mod vm;

use vm::{DriverHung, Nic, Switch, Vm, VmOptions, require_qemu, twice_if_driver_hangs};

/// Emulation is slow enough alone.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Holds the others off, and says how long the test took.
struct Turn {
    _turn: MutexGuard<'static, ()>,
    what: &'static str,
    start: Instant,
}

fn begin(what: &'static str) -> Turn {
    require_root();
    require_qemu();
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    vm::sweep();
    Turn { _turn: turn, what, start: Instant::now() }
}

impl Drop for Turn {
    fn drop(&mut self) {
        println!("{}: {:.1} s", self.what, self.start.elapsed().as_secs_f64());
    }
}

fn writer() -> PathBuf {
    env!("CARGO_BIN_EXE_verified-writer").into()
}

/// An `etherpool node` in a namespace; killed when it is dropped.
struct Node {
    process: Child,
    log: PathBuf,
}

impl Node {
    fn start(netns: &Switch, config: &Path) -> Node {
        Node::start_as("node", netns, config)
    }

    /// `etherpool node` or `etherpool target`.
    fn start_as(command: &str, netns: &Switch, config: &Path) -> Node {
        let log = config.with_file_name("node.log");
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let process = Command::new("ip")
            .args(["netns", "exec", netns.netns()])
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(etherpool().get_program())
            .args([command, "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .expect("ip is installed (iproute2)");
        Node { process, log }
    }

    /// SIGKILL: no goodbye.
    fn kill(mut self) {
        assert_eq!(self.process.try_wait().unwrap(), None, "the node ended by itself");
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the node\n{}", std::fs::read_to_string(&self.log).unwrap());
        }
    }
}

/// A Linux client, by Ethernet frames of both usual sizes, of a node that is killed under it.
#[test]
fn a_stock_client_uses_an_exported_disk() {
    let _turn = begin("a stock client uses an exported disk");
    twice_if_driver_hangs(use_disks);
}

fn use_disks() -> Result<(), DriverHung> {
    let (switch, machine) = (Switch::new("sw"), Switch::new("node"));
    let dir = tempfile::Builder::new().prefix("etherpool-node").tempdir().unwrap();
    let mut config = format!(
        "name = \"node\"\nshelf = 0\nstate-dir = {:?}\nrun-dir = {:?}\n",
        dir.path().join("state"),
        dir.path().join("run"),
    );
    for (slot, interface, mtu) in [(1, "eth0", 1500), (2, "eth1", 9000)] {
        switch.bridge(&format!("br{slot}"), mtu);
        switch.cable(&format!("br{slot}"), &machine, interface, mtu);
        let disk = dir.path().join(format!("disk{slot}"));
        std::fs::File::create(&disk).unwrap().set_len(96 << 20).unwrap();
        config += &format!(
            "\n[[export]]\naddress = \"e0.{slot}\"\npath = {disk:?}\ninterfaces = [{interface:?}]\n"
        );
    }
    let file = dir.path().join("node.toml");
    std::fs::write(&file, config).unwrap();

    let node = Node::start(&machine, &file);
    let mut client = Vm::start(&VmOptions {
        name: "client",
        netns: switch.netns(),
        nics: &[Nic { bridge: "br1", mtu: 1500 }, Nic { bridge: "br2", mtu: 9000 }],
        script: "client.sh",
        programs: &[writer()],
        variables: &[("VM_DISKS", "e0.1:1024,e0.2:8192"), ("VM_ROUNDS", "restarted")],
        memory_mb: 512,
        disk_mb: None,
        limit: Duration::from_secs(150),
    });
    client.wait_for("WRITING")?;
    node.kill();
    std::thread::sleep(Duration::from_secs(5));
    let _node = Node::start(&machine, &file);
    client.tell("restarted");
    client.finish()
}

/// A Linux client of the target: at both usual sizes of frames, over the target's death, with a disk that
/// grows, one that is read-only, and one that is reserved for somebody else.
#[test]
fn a_stock_client_uses_a_target() {
    let _turn = begin("a stock client uses a target");
    twice_if_driver_hangs(use_target);
}

fn use_target() -> Result<(), DriverHung> {
    let (switch, machine) = (Switch::new("sw"), Switch::new("target"));
    let dir = tempfile::Builder::new().prefix("etherpool-target").tempdir_in("/var/tmp").unwrap();
    let mut config = format!(
        "name = \"target\"\nstate-dir = {:?}\nrun-dir = {:?}\n",
        dir.path().join("state"),
        dir.path().join("run"),
    );
    let disk = |slot: u8| dir.path().join(format!("disk{slot}"));
    for (slot, mtu) in [(1u8, 1500), (2, 9000)] {
        switch.bridge(&format!("br{slot}"), mtu);
        switch.cable(&format!("br{slot}"), &machine, &format!("eth{}", slot - 1), mtu);
    }
    for (slot, interface, more) in
        [(1, "eth0", ""), (2, "eth1", ""), (3, "eth0", "read-only = true"), (4, "eth1", "")]
    {
        std::fs::File::create(disk(slot)).unwrap().set_len(96 << 20).unwrap();
        config += &format!(
            "\n[[export]]\naddress = \"e0.{slot}\"\npath = {:?}\ninterfaces = [{interface:?}]\n{more}\n",
            disk(slot)
        );
    }
    std::fs::File::create(disk(5)).unwrap().set_len(96 << 20).unwrap();
    let counted = LoopDisk::attach(&disk(5));
    if let Some(counted) = &counted {
        config += &format!(
            "\n[[export]]\naddress = \"e0.5\"\npath = {:?}\ninterfaces = [\"eth0\"]\n",
            counted.device()
        );
    }
    let file = dir.path().join("target.toml");
    std::fs::write(&file, config).unwrap();

    let target = Node::start_as("target", &machine, &file);
    let mut client = Vm::start(&VmOptions {
        name: "client",
        netns: switch.netns(),
        nics: &[Nic { bridge: "br1", mtu: 1500 }, Nic { bridge: "br2", mtu: 9000 }],
        script: "client.sh",
        programs: &[writer()],
        variables: &[
            ("VM_DISKS", "e0.1:1024,e0.2:8192"),
            ("VM_ROUNDS", "restarted"),
            ("VM_GROWN", "e0.1,e0.2"),
            ("VM_READ_ONLY", "e0.3"),
            ("VM_RESERVED", "e0.4"),
            ("VM_SEQUENTIAL", if counted.is_some() { "e0.5" } else { "" }),
        ],
        memory_mb: 512,
        disk_mb: None,
        limit: Duration::from_secs(240),
    });
    client.wait_for("WRITING")?;
    target.kill();
    std::thread::sleep(Duration::from_secs(5));
    let _target = Node::start_as("target", &machine, &file);
    client.tell("restarted");
    client.wait_for("GROW")?;
    for slot in [1, 2] {
        let file = std::fs::File::options().write(true).open(disk(slot)).unwrap();
        file.set_len(128 << 20).unwrap();
    }
    client.wait_for("RESERVE")?;
    let interface = InterfaceSpec { name: "br2".into(), netns: Some(switch.netns().to_owned()) };
    reserve(&interface, &[2, 0, 0, 0, 0, 9]);
    client.tell("reserved");
    client.wait_for("RELEASE")?;
    reserve(&interface, &[]);
    client.tell("released");
    if let Some(disk) = &counted {
        client.wait_for("COUNT")?;
        let before = disk.counts();
        client.tell("counting");
        client.wait_for("COUNTED")?;
        let after = disk.counts();
        let (reads, writes) = (after.reads - before.reads, after.writes - before.writes);
        println!(
            "1 MiB in frames of 1 KiB (1024 of them): {writes} writes and {reads} reads of the disk"
        );
        assert_eq!(reads, 0, "an aligned write made the disk read");
        // How many wait beside each other depends on disk and machine; whole blocks of 4 KiB must come
        // together on any.
        assert!(writes <= 1024 / 4, "frames weren't joined");
    }
    client.finish()
}

/// Reserves `e0.4` by force, for one client or (without any) for nobody.
fn reserve(interface: &InterfaceSpec, mac: &[u8]) {
    let mut other = Client::connect(interface, "e0.4".parse().unwrap()).unwrap();
    let head = header(other.target(), other.mac(), other.address(), 3, other.tag());
    let request = [&head[..], &[2, u8::from(!mac.is_empty())], mac].concat();
    let reply = other.ask(&request, 20).unwrap().expect("an answer");
    assert_eq!(reply[14] & 0x04, 0, "AoE error {}", reply[15]);
}

/// A Linux client of a volume, while one of the machines that hold the volume dies and comes back.
#[test]
fn a_stock_client_uses_an_exported_volume() {
    let _turn = begin("a stock client uses an exported volume");
    twice_if_driver_hangs(use_volume);
}

fn use_volume() -> Result<(), DriverHung> {
    let lab = Lab::up(&LabOptions { size: "256M", disks: 1, bare: true, ..LabOptions::default() });
    wait_until("the disks are visible", || {
        let disks = lab.json(&["disk", "list"]).to_string();
        ["e1.0", "e2.0", "e3.0"].iter().all(|disk| disks.contains(disk))
    });
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "e3.0", "--yes"]);
    lab.cli(&["volume", "create", VOLUME, "--size", "128M", "--layout", "mirror:2"]);
    lab.cli(&["volume", "export", VOLUME, "aoe:e100.0", "--interface", "sup0", "--yes"]);

    let mut client = Vm::start(&VmOptions {
        name: "client",
        netns: &switch_of(&lab),
        nics: &[Nic { bridge: "br0", mtu: 9000 }],
        script: "client.sh",
        programs: &[writer()],
        variables: &[
            ("VM_DISKS", "e100.0:8192"),
            ("VM_ROUNDS", "degraded,clean"),
            ("VM_REFUSED", "e1.0,e3.0"),
        ],
        memory_mb: 512,
        disk_mb: None,
        limit: Duration::from_secs(150),
    });
    client.wait_for("WRITING")?;
    lab.lab(&["kill", "n2"]);
    wait_until("the pool says that it is degraded", || lab.pool_state() == "degraded");
    client.tell("degraded");
    // It has written more before it says so.
    client.wait_for("WROTE")?;
    lab.lab(&["start", "n2"]);
    lab.wait_clean();
    client.wait_for("WRITING")?;
    client.tell("clean");
    client.finish()?;
    for copy in ["0", "1"] {
        lab.cli(&["volume", "verify", VOLUME, "--copy", copy]);
    }
    Ok(())
}

/// Main job, 5, with the file system mounted all the time: growing a mounted ext4 needs a capability
/// that containers lack, so the whole lab runs in a machine of its own.
#[test]
fn a_file_system_grows_while_mounted() {
    let _turn = begin("a file system grows while it is mounted");
    let switch = Switch::new("sw");
    let mut machine = Vm::start(&VmOptions {
        name: "lab",
        netns: switch.netns(),
        nics: &[],
        script: "lab.sh",
        programs: &[etherpool().get_program().into(), writer()],
        variables: &[],
        memory_mb: 2048,
        disk_mb: Some(2048),
        limit: Duration::from_secs(600),
    });
    machine.wait_for("WRITING").unwrap();
    let start = Instant::now();
    machine.wait_for("GROWN").unwrap();
    println!("a machine more, and a larger file system: {:.1} s", start.elapsed().as_secs_f64());
    machine.finish().unwrap();
}

/// The namespace with the lab's bridge; its supervisor has an interface in it.
fn switch_of(lab: &Lab) -> String {
    let config = std::fs::read_to_string(lab.dir().join("supervisor/supervisor.toml")).unwrap();
    let line =
        config.lines().find_map(|line| line.strip_prefix("netns = \"")).expect("a namespace");
    line.trim_end_matches('"').to_owned()
}
