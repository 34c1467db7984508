//! Real firmware boots from the target: iPXE, out of the ROM of an emulated network card.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;
use std::process::{Command, Stdio};

use blackbox::{etherpool, require_root, wait_until};

#[path = "../qemu/vm.rs"]
#[allow(dead_code)]
mod vm;

use vm::Switch;

/// Reads eight sectors at 16 by INT 13h, writes them to 64, and ends QEMU with status 33, or 3.
#[rustfmt::skip]
const BOOT_SECTOR: [u8; 72] = [
    0x31, 0xc0,             //         xor  ax, ax
    0x8e, 0xd8,             //         mov  ds, ax
    0x8e, 0xd0,             //         mov  ss, ax
    0xbc, 0x00, 0x7c,       //         mov  sp, 0x7c00
    0xbe, 0x28, 0x7c,       //         mov  si, read
    0xb4, 0x42,             //         mov  ah, 0x42         the drive is in dl
    0xcd, 0x13,             //         int  0x13
    0x72, 0x0e,             //         jc   failed
    0xbe, 0x38, 0x7c,       //         mov  si, write
    0xb8, 0x00, 0x43,       //         mov  ax, 0x4300
    0xcd, 0x13,             //         int  0x13
    0x72, 0x04,             //         jc   failed
    0xb0, 0x10,             //         mov  al, 0x10
    0xeb, 0x02,             //         jmp  done
    0xb0, 0x01,             // failed: mov  al, 0x01
    0xe6, 0xf4,             // done:   out  0xf4, al         isa-debug-exit
    0xf4, 0xeb, 0xfd,       //         hlt, and again
    0x90,
    // read: eight sectors to 0x8000, from sector 16
    0x10, 0, 8, 0, 0x00, 0x80, 0, 0,  16, 0, 0, 0, 0, 0, 0, 0,
    // write: the same, to sector 64
    0x10, 0, 8, 0, 0x00, 0x80, 0, 0,  64, 0, 0, 0, 0, 0, 0, 0,
];
const READ_AND_WROTE: i32 = 0x10 << 1 | 1;
/// Fewer than a cylinder, and iPXE would see no disk.
const SECTORS: usize = 40 << 11;

fn disk() -> Vec<u8> {
    let mut disk: Vec<u8> = (0..SECTORS).flat_map(|lba| [lba as u8; 512]).collect();
    disk[..512].fill(0);
    disk[..BOOT_SECTOR.len()].copy_from_slice(&BOOT_SECTOR);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

#[test]
fn ipxe_boots_from_the_target() {
    require_root();
    vm::require_qemu();
    let rom = Path::new("/usr/lib/ipxe/qemu/pxe-virtio.rom");
    assert!(rom.exists(), "no {}: run scripts/setup-qemu as root", rom.display());
    vm::sweep();
    let (switch, machine) = (Switch::new("ipxe"), Switch::new("target"));
    switch.bridge("br0", 1500);
    switch.cable("br0", &machine, "eth0", 1500);
    vm::ip(&["-n", switch.netns(), "tuntap", "add", "tap0", "mode", "tap"]);
    vm::ip(&["-n", switch.netns(), "link", "set", "tap0", "master", "br0", "up"]);

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("disk"), disk()).unwrap();
    std::fs::create_dir(path("tftp")).unwrap();
    // iPXE takes AoE disks from the network card that was opened last.
    let script = "#!ipxe\nifopen net1\nset net1/ip 10.9.9.9\nsanboot aoe:e1.0\n";
    std::fs::write(path("tftp/boot.ipxe"), script).unwrap();
    let inside = |netns: &Switch| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns.netns(), "setpriv", "--pdeathsig", "KILL"]);
        command.stdin(Stdio::null());
        command
    };
    let log = std::fs::File::create(path("log")).unwrap();
    let mut target = inside(&machine)
        .arg(etherpool().get_program())
        .args(["target", &format!("e1.0={}", path("disk")), "-i", "eth0", "--trace-io"])
        .args(["--run-dir", &path("run"), "--state-dir", &path("state")])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();

    // The first card is only for DHCP and the script, by QEMU's own servers.
    let options = format!(
        "-M q35 -accel tcg -cpu qemu64 -m 128 -nodefaults -display none -no-reboot \
         -device isa-debug-exit,iobase=0xf4,iosize=1 \
         -netdev user,id=n0,restrict=on,tftp={},bootfile=boot.ipxe \
         -device virtio-net-pci,netdev=n0,bootindex=1 \
         -netdev tap,id=n1,ifname=tap0,script=no,downscript=no \
         -device virtio-net-pci,netdev=n1,mac=52:54:00:e7:00:01,romfile=",
        path("tftp")
    );
    let mut qemu =
        inside(&switch).arg("qemu-system-x86_64").args(options.split_whitespace()).spawn().unwrap();
    wait_until("it has read and written", || qemu.try_wait().unwrap().is_some());
    let status = qemu.wait().unwrap();
    target.kill().unwrap();
    target.wait().unwrap();
    let log = std::fs::read_to_string(path("log")).unwrap();
    let requests: Vec<&str> = log.lines().filter(|line| line.contains("tag 0x18ae")).collect();
    requests.iter().for_each(|line| println!("{line}"));
    assert_eq!(status.code(), Some(READ_AND_WROTE), "{log}");
    let disk = std::fs::read(path("disk")).unwrap();
    for sector in 0..8 {
        let at = |lba: usize| &disk[lba * 512..(lba + 1) * 512];
        assert_eq!(at(64 + sector), at(16 + sector));
    }
    assert_eq!(requests.iter().filter(|line| line.contains("WRITE EXT")).count(), 4, "{log}");
}
