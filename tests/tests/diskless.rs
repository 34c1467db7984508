//! A machine without disks boots Linux from a volume: firmware, boot server, the volume's AoE export, and Linux's own driver.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use blackbox::{LabOptions, VOLUME, etherpool, manual};
use serde_json::{Value, json};

#[path = "../qemu/segment.rs"]
#[allow(dead_code)]
mod segment;
#[path = "../qemu/vm.rs"]
#[allow(dead_code)]
mod vm;

use segment::{Segment, inside};
use vm::{DisklessOptions, DriverHung, Nic, Vm, twice_if_driver_hangs};

const PAGE: &str = include_str!("../../docs/diskless.md");
const MAC: &str = "52:54:00:e7:66:10";
const ADDRESS: &str = "e100.0";
const MEBIBYTES: usize = 96;
/// What ends a test that hangs: each byte of kernel and initramfs comes through emulated firmware, twice.
const LIMIT: Duration = Duration::from_secs(1200);

#[test]
fn a_machine_without_disks_boots_from_a_volume() {
    let boot_loader = Path::new("/usr/lib/grub/i386-pc/boot.img");
    assert!(boot_loader.exists(), "no {}: run scripts/setup-qemu as root", boot_loader.display());
    twice_if_driver_hangs(boot_from_a_volume);
}

fn boot_from_a_volume() -> Result<(), DriverHung> {
    let lab = LabOptions { disks: 1, size: "256M", mtu: 1500, bare: true, ..LabOptions::default() };
    let mut segment = Segment::new(&lab);
    segment.lab.wait_for_disks(3);
    segment.lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "e3.0", "--yes"]);
    let size = format!("{MEBIBYTES}M");
    segment.lab.cli(&["volume", "create", VOLUME, "--size", &size, "--layout", "mirror:2"]);
    install(&segment);
    let export = format!("aoe:{ADDRESS}");
    segment.lab.cli(&["volume", "export", VOLUME, &export, "--allow", MAC, "--yes"]);
    segment.cli(&["boot", "assign", MAC, "volume", VOLUME, "--name", "pc"]);
    segment.start_server();

    let begun = Instant::now();
    let mut pc = Vm::switch_on(&DisklessOptions {
        name: "pc",
        netns: &segment.lab_netns,
        nic: Nic { bridge: "br0", mtu: 1500 },
        mac: MAC,
        memory_mb: 256,
        limit: LIMIT,
    });
    let wrote = pc.wait_for("WROTE")?;
    assert_eq!(pc.wait_for("FOUND")?, wrote);
    println!("it has booted twice: {:.1} s", begun.elapsed().as_secs_f64());
    let listed = listed(&segment);
    let seen = [&listed["name"], &listed["assigned"], &listed["result"]];
    let volume = format!("volume {VOLUME} at {ADDRESS}");
    let script = format!("has the script ({volume})");
    assert_eq!(seen, [&json!("pc"), &json!(volume), &json!(script)], "{listed}");
    assert!(listed["asked"].as_u64() >= Some(2), "{listed}");

    pc.wait_for("WRITING")?;
    segment.lab.lab(&["kill", "supervisor"]);
    // It waits for an answer while nobody is there to give one.
    std::thread::sleep(Duration::from_secs(3));
    segment.lab.lab(&["start", "supervisor"]);
    pc.tell("restarted");
    pc.wait_for("WROTE")?;
    pc.finish()?;
    for copy in ["0", "1"] {
        segment.lab.cli(&["volume", "verify", VOLUME, "--copy", copy]);
    }
    Ok(())
}

/// Roots of which some come only after the script that waits for others.
#[test]
fn what_is_put_together_of_disks_is_left_to_who_does_that() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/try-hook");
    let status = Command::new(script).status().expect("try-hook can be run");
    assert!(status.success(), "try-hook: {status}");
}

/// Linux goes onto the volume as onto any disk.
fn install(segment: &Segment) {
    let image = segment.path("disk");
    let words = format!(
        "root=/dev/etherd/{ADDRESS}p1 etherpool.links={MAC} console=ttyS0 panic=-1 quiet no_timer_check net.ifnames=0 \
         random.trust_cpu=on VM_NAME=pc VM_MTUS=1500 VM_SECONDS={} VM_DISK={ADDRESS}",
        LIMIT.as_secs() - 20
    );
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu");
    let mut command = Command::new(here.join("mkdisk"));
    command.arg(&image).arg(MEBIBYTES.to_string()).arg(words);
    command.arg(here.join("guest/diskless.sh")).arg(env!("CARGO_BIN_EXE_verified-writer"));
    let status = command.status().expect("mkdisk can be run");
    assert!(status.success(), "mkdisk: {status}");

    let attached = segment.lab.json(&["volume", "attach", VOLUME]);
    let mut device =
        File::options().write(true).open(attached["device"].as_str().unwrap()).unwrap();
    std::io::copy(&mut File::open(&image).unwrap(), &mut device).unwrap();
    device.flush().unwrap();
    device.sync_all().unwrap();
    drop(device);
    segment.lab.cli(&["volume", "detach", VOLUME]);
}

/// What the boot server says of the machine.
fn listed(segment: &Segment) -> Value {
    let all: Value = serde_json::from_str(&segment.cli(&["boot", "list", "--json"])).unwrap();
    let found = all.as_array().unwrap().iter().find(|one| one["mac"] == MAC);
    found.unwrap_or_else(|| panic!("the machine isn't listed: {all}")).clone()
}

/// Every command of docs/diskless.md, as it stands there, but for answers to what a terminal would be asked.
#[test]
#[ignore = "takes long, and needs apt's mirror: make test-long"]
fn the_page_on_machines_without_disks() {
    let lab = LabOptions { disks: 1, size: "6G", mtu: 1500, bare: true, ..LabOptions::default() };
    let mut segment = Segment::new(&lab);
    segment.lab.wait_for_disks(3);
    segment.lab.cli(&["pool", "create", "tank", "e1.0", "e2.0", "e3.0", "--yes"]);
    let page = Page::new(&segment);
    let begun = Instant::now();
    page.run_on_supervisor(&manual::scripts(PAGE, "supervisor").join("\n"));
    println!("Debian is on the volume: {:.0} s", begun.elapsed().as_secs_f64());

    segment.start_server();
    let begun = Instant::now();
    let _pc = Vm::switch_on(&DisklessOptions {
        name: "pc7",
        netns: &segment.lab_netns,
        nic: Nic { bridge: "br0", mtu: 1500 },
        mac: "02:00:00:00:00:07",
        memory_mb: 1024,
        limit: Duration::from_secs(3600),
    });
    let mut started = page.wait_until_it_has_started("");
    println!("it has started: {:.0} s", begun.elapsed().as_secs_f64());
    let blocks = manual::scripts(PAGE, "client");
    let [(last, others)] = [blocks.split_last().unwrap()];
    for block in others {
        let shown = page.run_on_client(block);
        assert!(shown.status.success(), "{shown:?}");
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains("/dev/etherd/"), "{shown}");
    }
    // Its last command takes the connection away.
    let (last, reboot) = last.rsplit_once('\n').unwrap();
    let shown = page.run_on_client(last);
    assert!(shown.status.success(), "{shown:?}");
    let begun = Instant::now();
    page.run_on_client(reboot);
    started = page.wait_until_it_has_started(&started);
    println!("it has started anew: {:.0} s", begun.elapsed().as_secs_f64());
    let kept =
        page.run_on_client("cat /root/file; systemctl is-system-running || systemctl --failed");
    let kept = String::from_utf8(kept.stdout).unwrap();
    println!("{started}: {kept}");
    assert_eq!(kept, "kept\nrunning\n");

    segment.lab.lab(&["kill", "supervisor"]);
    std::thread::sleep(Duration::from_secs(3));
    segment.lab.lab(&["start", "supervisor"]);
    let begun = Instant::now();
    let wrote = page.run_on_client("dd if=/dev/zero of=/root/more bs=1M count=16 conv=fsync");
    assert!(wrote.status.success(), "{wrote:?}");
    println!("it writes again: {:.0} s", begun.elapsed().as_secs_f64());
}

/// Where the page's commands are run.
struct Page {
    home: PathBuf,
    boot_netns: String,
    socket: PathBuf,
    devices: PathBuf,
    state: PathBuf,
}

impl Page {
    fn new(segment: &Segment) -> Page {
        let (home, state) = (segment.path("home"), segment.path("state"));
        let supervisor = segment.lab.dir().join("supervisor");
        let config = std::fs::read_to_string(supervisor.join("supervisor.toml")).unwrap();
        let devices = config.lines().find_map(|line| line.strip_prefix("device-dir = "));
        let devices = PathBuf::from(devices.expect("a device-dir").trim_matches('"'));
        for directory in [&home.join("bin"), &home.join(".ssh"), &state, &devices] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let program = std::path::absolute(etherpool().get_program()).unwrap();
        std::os::unix::fs::symlink(program, home.join("bin/etherpool")).unwrap();
        let boot_netns = segment.machine.netns().to_owned();
        Page { home, boot_netns, socket: supervisor.join("run/api.sock"), devices, state }
    }

    /// In a mount namespace where the lab's directories are at their usual places.
    fn run_on_supervisor(&self, script: &str) {
        let script = script
            .lines()
            .map(|line| match line.starts_with("etherpool volume export ") {
                true => format!("{line} --yes\n"),
                false => format!("{line}\n"),
            })
            .collect::<String>();
        let places = "mkdir -p /dev/etherpool /var/lib/etherpool /mnt\n\
            mount --bind \"$DEVICES\" /dev/etherpool\n\
            mount -t tmpfs tmpfs /var/lib/etherpool\n\
            mkdir /var/lib/etherpool/boot\n\
            mount --bind \"$STATE\" /var/lib/etherpool/boot\n";
        let path = std::env::var("PATH").unwrap();
        let status = Command::new("unshare")
            .args(["--mount", "bash", "-euxo", "pipefail", "-c", &format!("{places}{script}")])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", self.home.join("bin").display()))
            .env("HOME", &self.home)
            .env("ETHERPOOL_SOCKET", &self.socket)
            .env("DEVICES", &self.devices)
            .env("STATE", &self.state)
            .stdin(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "a command of the page failed: see above");
    }

    fn run_on_client(&self, script: &str) -> Output {
        let mut command = inside(&self.boot_netns);
        command.args([
            "ssh",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]);
        command.args(["-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes"]);
        command.args(["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=12", "-i"]);
        command.arg(self.home.join(".ssh/id_ed25519")).arg("root@10.0.0.7");
        command.arg(format!("set -eu\n{script}"));
        let output = command.output().expect("ssh (openssh-client)");
        println!("{}", String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()));
        output
    }

    /// Which start it is, once it isn't `former` any more.
    fn wait_until_it_has_started(&self, former: &str) -> String {
        let end = Instant::now() + Duration::from_secs(900);
        loop {
            let output = self.run_on_client("cat /proc/sys/kernel/random/boot_id");
            let id = String::from_utf8(output.stdout).unwrap();
            if output.status.success() && id.trim() != former {
                return id.trim().to_owned();
            }
            assert!(Instant::now() < end, "it doesn't start");
            std::thread::sleep(Duration::from_secs(5));
        }
    }
}
