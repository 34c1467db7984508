//! The target, end to end: a real process, real frames, real files.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use aoe_wire::{MacAddr, ShelfSlot};
use blackbox::frames::{self, BROADCAST, Client, ata_request, config_request, header};
use blackbox::{LoopDisk, Target, Verifier, export_of, pause, wait_until};

const MIB: u64 = 1 << 20;

/// ATA status and error registers of the answer to a command.
fn registers(client: &mut Client, ata: u8, sectors: u8, lba: u64, data: &[u8]) -> (u8, u8) {
    let reply = client.ata_reply(ata, sectors, lba, data).unwrap();
    assert_eq!(reply[14] & 0x04, 0, "an AoE error");
    (reply[27], reply[25])
}

/// Sends a request of command `command` with this argument; the answer from byte 24 on.
fn ask(client: &mut Client, command: u8, argument: &[u8]) -> Option<Vec<u8>> {
    let tag = client.tag();
    let (to, own, address) = (client.target(), client.mac(), client.address());
    let mut frame = header(to, own, address, command, tag);
    frame.extend(argument);
    let reply = client.ask(&frame, 3).unwrap()?;
    assert!(reply.len() >= 60, "not padded");
    assert_eq!(reply[14] & 0x04, 0, "AoE error {}", reply[15]);
    Some(reply[24..].to_vec())
}

fn set_config(client: &mut Client, string: &[u8]) {
    let len = (string.len() as u16).to_be_bytes();
    let argument = [&[0, 0, 0, 0, 0, 0x14], &len[..], string].concat();
    ask(client, 1, &argument).expect("an answer");
}

#[test]
fn no_acknowledged_write_is_lost_when_the_target_is_killed_under_load() {
    let mut target = Target::start(9000, |t| t.export("e1.0", 16 * MIB, ""));
    target.client("e1.0");
    let load = Verifier::with_patience(&target, "e1.0", 1, frames::RETRY);
    for _ in 0..5 {
        pause(700);
        target.kill();
        pause(300);
        target.run();
        wait_until("it answers again", || target.answers("e1.0"));
    }
    pause(700);
    let report = load.finish();
    assert!(report.retried > 0, "it was away");
}

#[test]
fn what_clients_left_survives_sigkill() {
    let mut target =
        Target::start(1500, |t| t.export("e1.0", MIB, "") + &t.export("e1.1", MIB, ""));
    let mut client = target.client("e1.0");
    set_config(&mut client, b"rack 3, shelf 1");
    let (own, other) = (client.mac().0, [2, 0, 0, 0, 0, 9]);
    // Mask: ourselves and another; reservation: the other.
    let directives = [&[0, 1][..], &own, &[0, 1], &other].concat();
    let edited = ask(&mut client, 2, &[&[0, 1, 0, 2][..], &directives].concat()).unwrap();
    assert_eq!(edited[3], 2, "two entries");
    let reserved = ask(&mut client, 3, &[&[1, 1][..], &other].concat()).unwrap();
    assert_eq!(reserved[..2], [1, 1]);
    let refused = (0x41, 0x04);
    assert_eq!(registers(&mut client, 0x24, 1, 0, &[]), refused);
    target.kill();
    target.run();
    let mut client = target.client("e1.0");
    assert_eq!(client.discover().unwrap().config, b"rack 3, shelf 1");
    let mask = ask(&mut client, 2, &[0, 0, 0, 0]).unwrap();
    assert_eq!(mask[..20], [&[0, 0, 0, 2, 0, 0][..], &own, &[0, 0], &other].concat());
    let reserved = ask(&mut client, 3, &[0, 0]).unwrap();
    assert_eq!(reserved[..8], [&[0, 1][..], &other].concat());
    assert_eq!(registers(&mut client, 0x24, 1, 0, &[]), refused);
    target.client("e1.1").read(0, 1).unwrap();
    // Force; an empty list is everybody.
    ask(&mut client, 3, &[2, 0]).unwrap();
    client.read(0, 1).unwrap();
}

#[test]
fn a_reload_loses_no_request_of_what_stays() {
    let target = Target::start(9000, |t| {
        t.export("e1.0", 16 * MIB, "")
            + &t.export("e1.1", MIB, "")
            + &t.export("e1.2", MIB, "")
            + &t.export("e1.3", 8 * MIB, "")
    });
    let mut changed = target.client("e1.2");
    changed.write(0, &[1; 512]).unwrap();
    let mut grown = target.client("e1.3");
    assert_eq!(grown.sectors().unwrap(), 8 * MIB / 512);
    let (stays, grows) = (Verifier::start(&target, "e1.0", 1), Verifier::start(&target, "e1.3", 2));
    pause(300);

    let kept = export_of("e1.0", &target.path("e1.0"), "");
    let read_only = export_of("e1.2", &target.path("e1.2"), "read-only = true");
    let large = export_of("e1.3", &target.path("e1.3"), "");
    let added = target.export("e1.4", MIB, "");
    let file = File::options().write(true).open(target.path("e1.3")).unwrap();
    file.set_len(12 * MIB).unwrap();
    target.configure(&[kept.clone(), read_only, large, added].concat());
    target.reload();
    target.client("e1.4").write(0, &[4; 512]).unwrap();
    wait_until("the removed export is silent", || !target.answers("e1.1"));
    wait_until("writes are refused", || {
        registers(&mut changed, 0x34, 1, 0, &[2; 512]) == (0x41, 0x04)
    });
    assert_eq!(changed.read(0, 1).unwrap(), [1; 512]);
    wait_until("the export has grown", || grown.sectors().unwrap() == 12 * MIB / 512);
    grown.write(12 * MIB / 512 - 1, &[3; 512]).unwrap();
    for _ in 0..10 {
        target.reload();
        pause(50);
    }

    // Wrong anywhere: refused as a whole, with the line; everything goes on as it was.
    target.configure(&(kept + "[[export]]\naddress = \"e1.9\"\npaht = \"/x\"\n"));
    target.reload();
    let said = target.wait_for_log(&["line", "paht"]);
    println!("{said}");
    let text = std::fs::read_to_string(target.path("target.toml")).unwrap();
    let line = 1 + text.lines().position(|line| line.starts_with("paht")).unwrap();
    assert!(said.contains(&format!("line {line}")), "not line {line}: {said}");
    target.client("e1.4").read(0, 1).unwrap();
    for load in [stays, grows] {
        assert_eq!(load.finish().retried, 0, "requests were lost");
    }
}

#[test]
fn a_wrong_configuration_doesnt_start() {
    let mut target = Target::new(1500);
    target.configure(&(target.export("e1.0", MIB, "") + &target.export("e1.0", MIB, "")));
    target.run();
    wait_until("it ends", || !target.is_alive());
    println!("{}", target.log());
    assert!(target.log().contains("e1.0"), "{}", target.log());
}

#[test]
fn a_device_that_fails_fails_alone() {
    let target = Target::start(9000, |t| {
        // Who opens a pipe for reading waits for ever.
        let pipe = t.path("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        t.export("e1.0", 16 * MIB, "")
            + &export_of("e1.1", &pipe, "")
            + &export_of("e1.2", &t.path("later"), "")
            + &t.export("e1.3", 8 * MIB, "")
    });
    target.client("e1.0");
    let load = Verifier::start(&target, "e1.0", 1);
    assert!(!target.answers("e1.1") && !target.answers("e1.2"), "there is nothing behind them");

    // Cut short: what is beyond the end fails at once, what is before goes on.
    let mut short = target.client("e1.3");
    short.write(8 * MIB / 512 - 1, &[7; 512]).unwrap();
    let file = File::options().write(true).open(target.path("e1.3")).unwrap();
    file.set_len(MIB).unwrap();
    let (status, error) = registers(&mut short, 0x24, 1, 8 * MIB / 512 - 1, &[]);
    println!("beyond the end: status {status:#04x} error {error:#04x}");
    assert!(status & 0x21 != 0 && error != 0, "status {status:#04x} error {error:#04x}");
    short.read(0, 1).unwrap();

    // What was missing comes by itself.
    target.file("later", MIB);
    wait_until("what was missing is exported", || target.answers("e1.2"));
    target.client("e1.2").write(0, &[1; 512]).unwrap();
    assert_eq!(load.finish().retried, 0, "the others were disturbed");
}

#[test]
fn a_disk_that_is_pulled_out_fails_alone_and_comes_back() {
    let target = Target::new(9000);
    let Some(mut disk) = LoopDisk::attach(&target.file("disk", 8 * MIB)) else { return };
    let mut target = target;
    target
        .configure(&(target.export("e1.0", 16 * MIB, "") + &export_of("e1.1", disk.device(), "")));
    target.run();
    let mut client = target.client("e1.1");
    client.write(5, &[9; 512]).unwrap();
    let load = Verifier::start(&target, "e1.0", 1);
    pause(200);
    disk.shrink_to_nothing();
    let (status, error) = registers(&mut client, 0x24, 1, 5, &[]);
    println!("pulled out: status {status:#04x} error {error:#04x}");
    assert!(status & 0x21 != 0);
    disk.restore();
    wait_until("it is back", || client.read(5, 1).is_ok_and(|data| data == [9; 512]));
    assert_eq!(load.finish().retried, 0, "the others were disturbed");
    drop(target);
}

#[test]
fn a_full_file_system_fails_single_requests() {
    let mut target = Target::new(9000);
    let small = target.path("small");
    std::fs::create_dir(&small).unwrap();
    // Gone before the directory that it is in.
    let _mounted = Mount::tmpfs(&small, 4);
    let sparse = small.join("sparse");
    File::create(&sparse).unwrap().set_len(64 * MIB).unwrap();
    let more = "io = \"buffered\"";
    target.configure(&(target.export("e1.0", 16 * MIB, "") + &export_of("e1.1", &sparse, more)));
    target.run();
    let mut client = target.client("e1.1");
    let load = Verifier::start(&target, "e1.0", 1);
    let (mut written, mut refused) = (0, 0);
    for block in 0..2000u64 {
        match registers(&mut client, 0x34, 8, block * 8, &[block as u8; 4096]) {
            (0x40, 0) => written += 1,
            (status, error) => {
                assert!(status & 0x01 != 0 && error == 0x04, "{status:#04x} {error:#04x}");
                refused += 1;
            }
        }
    }
    println!("{written} blocks written, {refused} refused for want of space");
    assert!(written > 500 && refused > 500);
    // What was written is there, and can be overwritten.
    assert_eq!(client.read(8, 1).unwrap(), [1; 512]);
    client.write(8, &[0xee; 4096]).unwrap();
    let lines = target.log().lines().filter(|line| line.contains("space")).count();
    assert!(lines < 20, "it complained {lines} times");
    assert_eq!(load.finish().retried, 0, "the others were disturbed");
    target.stop();
}

/// A mount that ends with the test.
struct Mount(std::path::PathBuf);

impl Mount {
    fn tmpfs(at: &std::path::Path, megabytes: u64) -> Mount {
        let size = format!("size={megabytes}m");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(at).status();
        assert!(status.unwrap().success(), "mount");
        Mount(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn windows_of_one_file_are_disks_of_their_own() {
    let target = Target::start(9000, |t| {
        let file = t.file("disk", 8 * MIB);
        std::fs::write(&file, (0..8 * MIB).map(|at| (at / MIB) as u8).collect::<Vec<_>>()).unwrap();
        export_of("e1.0", &file, "length = \"3M\"")
            + &export_of("e1.1", &file, "offset = \"3M\"\nlength = \"63s\"")
            + &export_of("e1.2", &file, "offset = \"4M\"")
    });
    let sizes = [("e1.0", 6144, 0u8), ("e1.1", 63, 3), ("e1.2", 8192, 4)];
    for (address, sectors, first) in sizes {
        let mut client = target.client(address);
        assert_eq!(client.sectors().unwrap(), sectors, "{address}");
        assert_eq!(client.read(0, 1).unwrap(), vec![first; 512], "{address}");
        assert_eq!(registers(&mut client, 0x24, 1, sectors, &[]), (0x41, 0x10), "{address}");
        assert_eq!(registers(&mut client, 0x34, 2, sectors - 1, &[9; 1024]), (0x41, 0x10));
        client.write(sectors - 1, &[0xf0 | first; 512]).unwrap();
    }
    let bytes = std::fs::read(target.path("disk")).unwrap();
    let at = |sector: u64| bytes[sector as usize * 512];
    assert_eq!([at(6143), at(6144), at(6144 + 62), at(6144 + 63)], [0xf0, 3, 0xf3, 3]);
    assert_eq!((at(16383), at(8191)), (0xf4, 3));
}

#[test]
fn lists_say_who_may_do_what() {
    let (reader, stranger) = ("02:00:00:00:00:11", "02:00:00:00:00:12");
    let target = Target::start(1500, |t| {
        let groups = format!("[groups]\nreaders = [\"{reader}\"]\n\n");
        let lists = "[export.access.read]\naccept = [\"readers\", \"02:00:00:00:00:13\"]\n\
            [export.access.write]\naccept = [\"02:00:00:00:00:13\"]\n\
            [export.access.discover]\ndeny = [\"02:00:00:00:00:12\"]\n";
        groups + &t.export("e1.0", MIB, lists)
    });
    let interface = target.wire().client();
    let mut client = target.client("e1.0");
    let refused = (0x41, 0x04);
    let mut tried = |mac: &str, read, write, found: bool| {
        let mac: MacAddr = mac.parse().unwrap();
        client.set_mac(&interface, mac).unwrap();
        assert_eq!(registers(&mut client, 0x24, 1, 0, &[]), read, "read by {mac}");
        assert_eq!(registers(&mut client, 0x34, 1, 0, &[1; 512]), write, "write by {mac}");
        let tag = client.tag();
        let query = config_request(header(BROADCAST, mac, ShelfSlot::ANY, 1, tag));
        assert_eq!(client.ask(&query, 2).unwrap().is_some(), found, "found by {mac}");
    };
    tried(reader, (0x40, 0), refused, true);
    tried("02:00:00:00:00:13", (0x40, 0), (0x40, 0), true);
    tried(stranger, refused, refused, false);
}

/// 200 exports, 64 clients.
#[test]
fn many_exports_and_many_clients() {
    let started = Instant::now();
    let mut target = Target::new(9000);
    let exports: Vec<String> = (0..200)
        .map(|n| target.export(&format!("e{}.{}", 1 + n / 100, n % 100), 4 * MIB, ""))
        .collect();
    target.configure(&exports.concat());
    println!("files: {:.2} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    target.run();
    target.client("e1.0");
    for address in ["e1.99", "e2.0", "e2.99"] {
        target.client(address);
    }
    // Each answers a search.
    let mut client = target.client("e2.50");
    let all = wait_until("all exports answer", || count_answers(&mut client, &target) == 200);
    let start = started.elapsed();
    println!(
        "started in {:.2} s (all found after {:.2} s)",
        start.as_secs_f64(),
        all.as_secs_f64()
    );
    assert!(start < Duration::from_secs(10), "{start:?}");

    let threads: Vec<_> = (0..64u8)
        .map(|n| {
            let (interface, target) = (target.wire().client(), client.target());
            std::thread::spawn(move || one_of_many(&interface, target, n))
        })
        .collect();
    let longest = threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap();
    let memory = target.memory_kib();
    println!("64 clients: longest answer {longest:?}, {} MiB in use", memory >> 10);
    assert!(memory < 200 << 10, "{memory} KiB");
    assert!(target.is_alive());
}

fn count_answers(client: &mut Client, target: &Target) -> usize {
    let interface = target.wire().client();
    let mut socket = os::net::FrameSocket::open(&interface, Some(os::net::Role::Replies)).unwrap();
    let query = config_request(header(BROADCAST, client.mac(), ShelfSlot::ANY, 1, 77));
    socket.send(&[&query]).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    while socket.wait(Duration::from_millis(200)).unwrap() {
        let mut add = |frame: &[u8]| {
            assert!(frame.len() >= 60, "not padded");
            seen.insert(frames::address_of(frame).unwrap());
        };
        socket.receive(&mut add).unwrap();
    }
    seen.len()
}

/// A client with an address of its own, that writes, reads and compares on three exports.
fn one_of_many(interface: &os::net::InterfaceSpec, to: MacAddr, number: u8) -> Duration {
    let own = MacAddr([2, 0, 0, 0, 1, number]);
    let mut socket = os::net::FrameSocket::open(interface, None).unwrap();
    let mut longest = Duration::ZERO;
    let mut ask = |slot: u8, code: u8, lba: u64, data: &[u8], tag: u32| {
        let address = ShelfSlot::new(1 + u16::from(number % 2), slot);
        let mut frame = ata_request(header(to, own, address, 0, tag), code, 1, lba);
        frame.extend(data);
        let start = Instant::now();
        loop {
            socket.send(&[&frame]).unwrap();
            let sent = Instant::now();
            let mut answer = None;
            while answer.is_none() && sent.elapsed() < Duration::from_secs(1) {
                socket.wait(Duration::from_millis(100)).unwrap();
                let mut take = |reply: &[u8]| {
                    if reply[..6] == own.0 && frames::tag_of(reply) == Some(tag) {
                        answer = Some(reply.to_vec());
                    }
                };
                socket.receive(&mut take).unwrap();
            }
            if let Some(answer) = answer {
                longest = longest.max(start.elapsed());
                assert_eq!(answer[27], 0x40, "client {number}");
                return answer[36..].to_vec();
            }
        }
    };
    let mut tag = 0;
    for round in 0..20u8 {
        for slot in [number, number / 2, 99 - number] {
            let lba = u64::from(number) * 16 + u64::from(round % 8);
            let data = [number ^ round ^ slot; 512];
            tag += 2;
            ask(slot, 0x34, lba, &data, tag);
            assert_eq!(ask(slot, 0x24, lba, &[], tag + 1)[..512], data, "client {number}");
        }
    }
    longest
}
