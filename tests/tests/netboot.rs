//! Empty machines are switched on, boot from the network by firmware of different kinds, and become nodes of a pool; what
//! they and the boot server do when one of them is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use blackbox::{LabOptions, Load, Rival, key_of};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

#[path = "../qemu/segment.rs"]
mod segment;
#[path = "../qemu/vm.rs"]
#[allow(dead_code)]
mod vm;

use segment::{SERVER, Segment, inside};

/// Of each machine.
const DISKS: usize = 2;
/// Of kernel and initramfs.
const IMAGE_BYTES_MAX: u64 = 60 << 20;
/// On disks before one of them misses something. Of that nothing is to be copied.
const FILLER_BYTES: usize = 64 << 20;
const UUIDS: [&str; 3] = [
    "5a1e77e5-0000-4000-8000-000000000001",
    "5a1e77e5-0000-4000-8000-000000000002",
    "5a1e77e5-0000-4000-8000-000000000003",
];

impl Segment {
    /// With a cable for each machine.
    fn with_machines() -> Segment {
        let segment = Segment::new(&LabOptions {
            nodes: 1,
            disks: 1,
            size: "256M",
            mtu: 1500,
            bare: true,
            ..LabOptions::default()
        });
        for port in 0..UUIDS.len() {
            let tap = format!("tap{port}");
            vm::ip(&["-n", &segment.lab_netns, "tuntap", "add", &tap, "mode", "tap"]);
            vm::ip(&["-n", &segment.lab_netns, "link", "set", &tap, "master", "br0", "up"]);
        }
        segment
    }

    fn build_image(&self) {
        let parts = vm::parts_of_image("vmlinuz-").map(|path| path.display().to_string());
        let [kernel, modules] = &parts;
        let words = [
            "boot",
            "image",
            "build",
            "--level",
            "1",
            "--kernel-image",
            kernel,
            "--modules-dir",
            modules,
            "--json",
        ];
        let about: Value = serde_json::from_str(&self.cli(&words)).unwrap();
        println!("{about}");
        let bytes = |part: &str| about[part].as_u64().unwrap();
        // Packed as little as it can be: as it is by default it has less.
        assert!(bytes("vmlinuz_bytes") + bytes("initrd_bytes") < IMAGE_BYTES_MAX, "{about}");
    }

    /// What of the volume was copied to disks that had missed it.
    fn resynced_bytes(&self) -> u64 {
        let volumes = self.lab.json(&["volume", "list"]);
        let all = volumes.as_array().unwrap().iter();
        all.map(|volume| volume["resynced_bytes"].as_u64().unwrap()).sum()
    }

    /// The nodes that wait, by UUID, with their keys.
    fn pending(&self) -> Vec<(String, String)> {
        let all: Value = serde_json::from_str(&self.cli(&["node", "pending", "--json"])).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let one = |said: &Value| {
            let hello = &said["hello"];
            (text(&hello["uuid"]), text(&hello["identity"]["public"]))
        };
        all.as_array().unwrap().iter().map(one).collect()
    }

    /// Addresses of the booted nodes' disks that the supervisor sees.
    fn disks(&self) -> Vec<String> {
        let output = self.lab.cli_output(&["disk", "list", "--json"]);
        let Ok(all) = serde_json::from_slice::<Value>(&output.stdout) else { return Vec::new() };
        let names = all
            .as_array()
            .into_iter()
            .flatten()
            .map(|disk| disk["name"].as_str().unwrap().to_owned());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("e7")).collect();
        names.sort_unstable();
        names
    }

    /// Check sums of what a machine's disks have.
    fn contents(&self, of: usize) -> [u32; DISKS] {
        let disk = |number| self.path(&format!("disk{of}.{number}"));
        std::array::from_fn(|number| block::crc32c(&std::fs::read(disk(number)).unwrap()))
    }

    fn is_online(&self) -> bool {
        self.lab.pool_state() == "online"
    }

    /// Which disk of the pool is at which address of a machine.
    fn places(&self, of: usize) -> BTreeMap<String, String> {
        let pools = self.lab.json(&["pool", "show", "cluster"]);
        let text = |disk: &Value, field: &str| disk[field].as_str().unwrap().to_owned();
        let pool = pools.as_array().map_or(&pools, |pools| &pools[0]);
        let disks = pool["disks"].as_array().unwrap().iter();
        let places = disks.map(|disk| (text(disk, "name"), text(disk, "id")));
        places.filter(|(name, _)| name.starts_with(&format!("e7{of}."))).collect()
    }

    /// `order`: in which its disks are plugged in.
    fn switch_on(&self, of: usize, order: [usize; DISKS]) -> Pc {
        let mut command = inside(&self.lab_netns);
        let options = format!(
            "qemu-system-x86_64 -M q35 -accel tcg -cpu qemu64,+rdrand -m 512 -nodefaults -display none \
             -uuid {} -netdev tap,id=n0,ifname=tap{of},script=no,downscript=no -device virtio-rng-pci",
            UUIDS[of]
        );
        command.args(options.split_whitespace());
        let nic = format!("netdev=n0,mac=52:54:00:e7:66:0{of}");
        let disk = |number: usize| {
            let path = self.path(&format!("disk{of}.{number}"));
            if !path.exists() {
                // Of two sizes: who takes one for the other notices it at the end, too.
                File::create(&path).unwrap().set_len((512 + 128 * number as u64) << 20).unwrap();
            }
            format!("file={},format=raw,cache=unsafe", path.display())
        };
        let disks = order.map(disk);
        match of {
            // iPXE in the card, and virtio disks, which have no serial number: by their paths alone they are told apart.
            0 => {
                command.args(["-device", &format!("virtio-net-pci,{nic},bootindex=1")]);
                for disk in disks {
                    command.args(["-drive", &format!("{disk},if=virtio")]);
                }
            }
            // UEFI's own PXE, and SATA disks, which have one.
            1 => {
                let variables = self.path("variables");
                std::fs::copy("/usr/share/OVMF/OVMF_VARS.fd", &variables).unwrap();
                let code = "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd";
                command.args(["-drive", code]);
                command.args([
                    "-drive",
                    &format!("if=pflash,format=raw,file={}", variables.display()),
                ]);
                command.args(["-device", &format!("virtio-net-pci,{nic},bootindex=1,romfile=")]);
                for (place, disk) in disks.iter().enumerate() {
                    let serial = format!("SATA-{}", order[place]);
                    command.args(["-drive", &format!("{disk},if=none,id=d{place}")]);
                    let device = format!("ide-hd,drive=d{place},bus=ide.{place},serial={serial}");
                    command.args(["-device", &device]);
                }
            }
            // An iPXE that was begun elsewhere, an old card, and virtio disks.
            _ => {
                let script = self.path("chain.ipxe");
                let text = format!(
                    "#!ipxe\ndhcp || reboot\nchain http://{SERVER}:8069/boot.ipxe || reboot\n"
                );
                std::fs::write(&script, text).unwrap();
                command.arg("-kernel").arg("/usr/lib/ipxe/ipxe.lkrn").arg("-initrd").arg(&script);
                command.args(["-device", &format!("e1000,{nic},romfile=")]);
                for disk in disks {
                    command.args(["-drive", &format!("{disk},if=virtio")]);
                }
            }
        }
        let console = self.path(&format!("console{of}"));
        command.arg("-serial").arg(format!("file:{}", console.display()));
        let log = File::create(self.path(&format!("qemu{of}.log"))).unwrap();
        Pc { qemu: command.stdout(Stdio::null()).stderr(log).spawn().unwrap(), console }
    }
}

/// A machine; its power is cut when it is dropped.
struct Pc {
    qemu: Child,
    console: PathBuf,
}

impl Drop for Pc {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if std::thread::panicking() {
            let console = std::fs::read(&self.console).unwrap_or_default();
            let text = String::from_utf8_lossy(&console);
            let tail: Vec<&str> = text.lines().rev().take(40).collect();
            eprintln!("--- {}", self.console.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// What is switched on.
#[derive(Clone, Copy, Debug)]
enum Part {
    Machine(usize),
    Supervisor,
    BootServer,
}

/// Another one each time; that of `ETHERPOOL_SEED` again, as it was printed.
fn any_order() -> Vec<Part> {
    let seed = std::env::var("ETHERPOOL_SEED").map(|seed| seed.parse().unwrap());
    let seed = seed.unwrap_or_else(|_| os::random_u64().unwrap());
    let all = [0, 1, 2].map(Part::Machine).into_iter();
    let mut order: Vec<Part> = all.chain([Part::Supervisor, Part::BootServer]).collect();
    order.shuffle(&mut SmallRng::seed_from_u64(seed));
    println!("switched on: {order:?} (ETHERPOOL_SEED={seed})");
    order
}

#[test]
fn empty_machines_become_a_pool_that_outlives_each_of_them() {
    for file in
        ["/usr/lib/ipxe/ipxe.lkrn", "/usr/lib/ipxe/snponly.efi", "/usr/share/OVMF/OVMF_CODE.fd"]
    {
        assert!(Path::new(file).exists(), "no {file}: run scripts/setup-qemu as root");
    }
    let mut segment = Segment::with_machines();
    segment.build_image();
    segment.cli(&["boot", "assign", "default", "node", "--yes"]);
    segment.start_server();
    let mut pcs: Vec<Option<Pc>> =
        (0..UUIDS.len()).map(|of| Some(segment.switch_on(of, [0, 1]))).collect();
    segment.until("all three wait for being accepted", |all| {
        all.pending()
            .iter()
            .filter(|(uuid, key)| UUIDS.contains(&uuid.as_str()) && !key.is_empty())
            .count()
            == 3
    });
    assert!(
        segment.disks().is_empty(),
        "blank disks of machines that nobody has accepted: {:?}",
        segment.disks()
    );
    let keys = segment.pending();
    for (of, uuid) in UUIDS.iter().enumerate() {
        let (_, key) = keys.iter().find(|(waiting, _)| waiting == uuid).unwrap();
        let (name, shelf) = (format!("pc{of}"), format!("7{of}"));
        segment.cli(&[
            "node", "accept", uuid, "--key", key, "--name", &name, "--shelf", &shelf, "--yes",
        ]);
    }
    let disks = ["e70.0", "e70.1", "e71.0", "e71.1", "e72.0", "e72.1"];
    segment.until("their disks are there", |all| all.disks() == disks);
    segment
        .lab
        .cli(&[&["pool", "create", "cluster"][..], &disks, &["--no-witness", "--yes"]].concat());
    segment.lab.mount_volume();
    let file = segment.lab.mount().join("written");

    // The power of one is cut while it is written to: it is who it was, and gets what it missed. Its disks are found in
    // another order, and have the addresses that they had.
    let places = segment.places(1);
    assert_eq!(places.len(), DISKS);
    let filler = segment.lab.mount().join("filler");
    std::fs::write(&filler, vec![0x5a; FILLER_BYTES]).unwrap();
    File::open(&filler).unwrap().sync_all().unwrap();
    // A disk that was too slow for so much has what its machine's neighbours have, or one of those can't be missed.
    segment.until("all disks are in step", Segment::is_online);
    let load = Load::paced(&file, 512, 66, Duration::from_millis(20));
    load.wait_for(50);
    pcs[1] = None;
    load.wait_for(100);
    pcs[1] = Some(segment.switch_on(1, [1, 0]));
    segment.until("the machine is back, and in step", Segment::is_online);
    assert_eq!(segment.places(1), places);
    load.wait_for(50);
    // Nobody notices that the boot server is gone, but who begins anew, and that one waits. Its disks answer at each other's
    // address then, as nothing but where they are tells them apart: the pool knows which they are.
    let places = segment.places(0);
    segment.kill_server();
    load.wait_for(50);
    let resynced = segment.resynced_bytes();
    pcs[0] = None;
    pcs[0] = Some(segment.switch_on(0, [1, 0]));
    segment.until("it is missed", |all| !all.is_online());
    load.wait_for(50);
    assert!(!segment.is_online(), "it has booted without a boot server");
    segment.start_server();
    segment.until("it boots when there is one again", Segment::is_online);
    let resynced = segment.resynced_bytes() - resynced;
    println!("{resynced} bytes were copied to it");
    assert!((1..FILLER_BYTES as u64 / 4).contains(&resynced), "{resynced}: not what it missed");
    let other = places.into_iter().rev().map(|(_, id)| id);
    assert!(segment.places(0).into_values().eq(other), "the disks haven't changed places");
    let report = load.stop();
    assert!(report.error.is_none(), "{:?}", report.error);
    report.verify();
    assert!(segment.pending().is_empty(), "{:?}", segment.pending());

    // Another supervisor is let in, by the pool, and by the nodes from their next boot on.
    let rival = Rival::start(&segment.lab);
    let key = key_of(&segment.lab.dir().join("rival/state"));
    let configuration = segment.path("node.toml");
    std::fs::write(&configuration, format!("supervisors = [\"{key}\"]\n")).unwrap();
    for of in 0..UUIDS.len() {
        let file = configuration.to_str().unwrap();
        segment.cli(&["node", "config", &format!("pc{of}"), "--file", file]);
    }

    // Everything is off, and on again in any order: no command is needed.
    segment.lab.lab(&["kill", "supervisor"]);
    segment.kill_server();
    pcs.fill_with(|| None);
    for part in any_order() {
        match part {
            Part::Machine(of) => pcs[of] = Some(segment.switch_on(of, [0, 1])),
            Part::Supervisor => drop(segment.lab.lab(&["start", "supervisor"])),
            Part::BootServer => segment.start_server(),
        }
    }
    segment.until("the pool is whole again", Segment::is_online);
    segment.until("the volume is mounted again", |all| all.lab.is_mounted());
    report.verify();

    // A supervisor hangs, and another one takes its pool while one machine is off. That one remembers nothing, and reads on its
    // disks whom it obeys, and whom no more: nobody else is there to say it when the former owner goes on.
    segment.until("the rival sees whose pool it is", |_| rival.pool_state() == "foreign");
    let engine = segment.lab.status()["supervisor"]["engine"].as_i64().unwrap();
    let engine = Pid::from_raw(i32::try_from(engine).unwrap()).unwrap();
    kill_process(engine, Signal::STOP).unwrap();
    // What is under way there when it goes on.
    let late = segment.lab.mount().join("late");
    let late = std::thread::spawn(move || {
        let mut file = File::create(late)?;
        file.write_all(&[0xe7; 1 << 20])?;
        file.sync_all()
    });
    pcs[2] = None;
    rival.must(&["pool", "import", "cluster", "--yes", "--force"]);
    pcs[2] = Some(segment.switch_on(2, [1, 0]));
    segment.until("the rival has all of it", |_| rival.pool_state() == "online");
    rival.kill();
    pcs[..2].fill_with(|| None);
    let mut disks = segment.contents(2);
    let mut same = 0;
    segment.until("nobody writes any more", |all| {
        let before = std::mem::replace(&mut disks, all.contents(2));
        same = if before == disks { same + 1 } else { 0 };
        same == 10
    });
    kill_process(engine, Signal::CONT).unwrap();
    segment.until("the machine refuses the former owner", |all| {
        let disks = all.lab.cli_output(&["disk", "list", "--json"]).stdout;
        let refused = "another owner has claimed it";
        String::from_utf8_lossy(&disks).matches(refused).count() == DISKS
    });
    segment.until("who wrote there is told so", |_| late.is_finished());
    assert!(late.join().unwrap().is_err());
    assert_eq!(segment.contents(2), disks, "the former owner has written there");
}
