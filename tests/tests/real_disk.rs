//! Commands to a disk that speaks ATA: an emulated one, behind Linux's own drivers. What only real
//! ones have (SCT, standby timers) is refused by it, and that is told.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use aoe_wire::ShelfSlot;
use blackbox::frames::{Client, header};
use blackbox::{etherpool, require_root, wait_until};
use os::net::InterfaceSpec;

#[path = "../qemu/vm.rs"]
#[allow(dead_code)]
mod vm;

use vm::{Nic, Switch, Vm, VmOptions, require_qemu};

const SMART: u8 = 0xb0;

/// A SMART command: status, error, count and address registers of the answer, and its data.
fn smart(client: &mut Client, feature: u8, count: u8, low: u8, data: &[u8]) -> ([u8; 6], Vec<u8>) {
    let (to, own, address) = (client.target(), client.mac(), client.address());
    let mut request = header(to, own, address, 0, client.tag());
    let write = if data.is_empty() { 0x00 } else { 0x01 };
    request.extend([write, feature, count, SMART, low, 0x4f, 0xc2, 0, 0, 0, 0, 0]);
    request.extend(data);
    let reply = client.ask(&request, 100).unwrap().expect("an answer");
    assert_eq!(reply[14] & 0x04, 0, "an AoE error");
    let registers = [reply[27], reply[25], reply[26], reply[28], reply[29], reply[30]];
    (registers, reply[36..].to_vec())
}

/// `aoeping -S`, as it is.
fn aoeping(outside: &Switch, command: &str) -> Output {
    Command::new("ip")
        .args(["netns", "exec", outside.netns(), "aoeping", "-s", "60", "-S", command])
        .args(["1", "0", "eth0"])
        .stdin(Stdio::null())
        .output()
        .expect("aoeping is installed (aoetools)")
}

fn sum(sector: &[u8]) -> u8 {
    sector.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

#[test]
fn a_disk_is_set_up_and_asked_for_its_health() {
    require_root();
    require_qemu();
    vm::sweep();
    let (switch, outside) = (Switch::new("sw"), Switch::new("cl"));
    switch.bridge("br0", 1500);
    switch.cable("br0", &outside, "eth0", 1500);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk");
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    // Its cache is on at first.
    let words = [
        "-drive".to_owned(),
        format!("file={},format=raw,if=none,id=sata,cache=writeback", image.display()),
        "-device".to_owned(),
        "ide-hd,drive=sata,bus=ide.0,serial=ATA-TEST-1".to_owned(),
    ];
    let options = VmOptions {
        name: "disk",
        netns: switch.netns(),
        nics: &[Nic { bridge: "br0", mtu: 1500 }],
        script: "disk.sh",
        programs: &[etherpool().get_program().into()],
        variables: &[("VM_CACHE", "false")],
        memory_mb: 768,
        disk_mb: None,
        limit: Duration::from_secs(150),
    };
    let mut machine = Vm::start_with(&options, &words);
    assert_eq!(machine.wait_for("BEFORE").unwrap(), "write back");
    let drive = machine.wait_for("DRIVE").unwrap();
    // Said for what it hasn't, and for that only.
    assert!(drive.contains("spin-down: ") && drive.contains("error-recovery: "), "{drive}");
    assert!(!drive.contains("write-cache") && !drive.contains("read-ahead"), "{drive}");
    assert_eq!(machine.wait_for("AFTER").unwrap(), "write through, read ahead 4");
    assert_eq!(machine.wait_for("DISK").unwrap(), "write through");

    let interface = InterfaceSpec { name: "eth0".into(), netns: Some(outside.netns().to_owned()) };
    let address = ShelfSlot::new(1, 0);
    wait_until("the target answers", || Client::probe(&interface, address));
    let mut client = Client::connect(&interface, address).unwrap();
    // Healthy: the registers say so by staying as they were.
    let (registers, _) = smart(&mut client, 0xda, 0, 0, &[]);
    assert_eq!((registers[0] & 0x21, registers[4], registers[5]), (0, 0x4f, 0xc2));
    // The attributes, and their thresholds: pages whose bytes add up to zero.
    for feature in [0xd0, 0xd1] {
        let (registers, data) = smart(&mut client, feature, 1, 0, &[]);
        assert_eq!(registers[0] & 0x21, 0, "{feature:02x}");
        assert!(
            data[..512].iter().any(|byte| *byte != 0) && sum(&data[..512]) == 0,
            "{feature:02x}"
        );
    }
    // The log of self-tests; a log that the disk doesn't have; a self-test beside the work.
    assert_eq!(smart(&mut client, 0xd5, 1, 6, &[]).0[0] & 0x21, 0);
    let refused = smart(&mut client, 0xd5, 1, 0x99, &[]).0;
    assert_eq!((refused[0] & 0x01, refused[1] & 0x04), (0x01, 0x04), "ABRT of the disk");
    assert_eq!(smart(&mut client, 0xd4, 0, 1, &[]).0[0] & 0x21, 0);
    // What administrators have.
    for (command, works) in [
        ("read_data", true),
        ("return_status", true),
        ("read_log:6", true),
        ("read_log:153", false),
        ("disable", true),
        ("read_data", false),
        ("enable", true),
        ("read_data", true),
    ] {
        let output = aoeping(&outside, command);
        assert_eq!(output.status.success(), works, "aoeping -S {command}: {output:?}");
    }
    // What could overwrite the disk doesn't get there.
    let refused = smart(&mut client, 0xd6, 1, 0xe0, &[0; 512]).0;
    assert_eq!((refused[0] & 0x01, refused[1] & 0x04), (0x01, 0x04));
    client.write(0, &[0x77; 512]).unwrap();
    assert_eq!(client.read(0, 1).unwrap(), [0x77; 512]);
    machine.tell("AGAIN");
    let back = machine.wait_for("CAME-BACK").unwrap();
    assert!(back.ends_with("write through"), "{back}");
    machine.finish().unwrap();
}
