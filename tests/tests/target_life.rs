//! The target through what happens to machines: interfaces that come, change and go, a disk that hangs,
//! an upgrade.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use blackbox::frames::Client;
use blackbox::{Target, Verifier, export_of, frames, pause, wait_until};

const MIB: u64 = 1 << 20;

#[test]
fn an_upgrade_costs_a_pause_and_no_error() {
    let mut target = Target::start(9000, |t| t.export("e1.0", 16 * MIB, ""));
    target.client("e1.0");
    let load = Verifier::with_patience(&target, "e1.0", 1, frames::RETRY);
    pause(500);
    for _ in 0..3 {
        let mut former = target.take_over();
        wait_until("the former has ended", || former.try_wait().unwrap().is_some());
        assert!(former.wait().unwrap().success());
        wait_until("the new one answers", || target.answers("e1.0"));
        pause(300);
    }
    load.finish();
}

#[test]
fn interfaces_are_followed() {
    let target = Target::start(9000, |t| t.export("e1.0", 16 * MIB, ""));
    let sectors = |target: &Target| target.client("e1.0").discover().unwrap().sectors;
    assert_eq!(sectors(&target), 16);
    target.wire().ip("link set v0 mtu 1500");
    wait_until("the smaller MTU is advertised", || sectors(&target) == 2);
    target.wire().ip("link set v0 mtu 9000");
    wait_until("the larger one is again", || sectors(&target) == 16);
    let mut client = target.client("e1.0");
    client.write(7, &[7; 512]).unwrap();
    target.wire().ip("link set v0 address 02:00:00:00:00:55");
    wait_until("the new address answers", || {
        target.client("e1.0").target().to_string() == "02:00:00:00:00:55"
    });
    target.wire().ip("link set v0 down");
    assert!(!target.answers("e1.0"));
    target.wire().ip("link set v0 up");
    wait_until("it answers again", || target.answers("e1.0"));
    for mtu in [9000, 1500] {
        target.wire().unplug();
        pause(300);
        target.wire().plug_in(mtu);
        wait_until("another card under the same name is used", || target.answers("e1.0"));
        wait_until("with its own MTU", || sectors(&target) == if mtu == 1500 { 2 } else { 16 });
        assert_eq!(target.client("e1.0").read(7, 1).unwrap(), [7; 512]);
    }
}

#[test]
fn interfaces_are_found_by_pattern_as_they_come() {
    let target = Target::start(9000, |t| t.export("e1.0", MIB, "interfaces = [\"v*\"]"));
    target.client("e1.0").write(1, &[1; 512]).unwrap();
    let answers =
        |name: &str| Client::probe(&target.wire().client_on(name), "e1.0".parse().unwrap());
    target.wire().lay("v1", 1500);
    wait_until("a new interface is answered on", || answers("v1"));
    let mut second =
        Client::connect(&target.wire().client_on("v1"), "e1.0".parse().unwrap()).unwrap();
    // The same disk, by the second path.
    assert_eq!(second.read(1, 1).unwrap(), [1; 512]);
    assert_eq!(
        (second.discover().unwrap().sectors, target.client("e1.0").discover().unwrap().sectors),
        (2, 16)
    );
    second.write(1, &[2; 512]).unwrap();
    assert_eq!(target.client("e1.0").read(1, 1).unwrap(), [2; 512]);
    // What the pattern doesn't mean isn't touched.
    target.wire().lay("w1", 1500);
    pause(500);
    assert!(!answers("w1") && answers("v0"));
}

/// A file system on a loop device, which can be made to hang.
struct Freezer(PathBuf);

impl Freezer {
    fn mount(at: &Path, image: &Path) -> Option<Freezer> {
        let done = |command: &mut Command| {
            command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        std::fs::create_dir(at).unwrap();
        let made = done(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image))
            && done(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at));
        if !made {
            println!("SKIPPED: no loop mounts here");
        }
        made.then(|| Freezer(at.to_owned()))
    }

    fn set(&self, frozen: bool) -> bool {
        let option = if frozen { "--freeze" } else { "--unfreeze" };
        let status =
            Command::new("fsfreeze").arg(option).arg(&self.0).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.set(false);
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_hangs_hangs_alone() {
    let mut target = Target::new(9000);
    let (image, at) = (target.file("image", 64 * MIB), target.path("mounted"));
    let Some(freezer) = Freezer::mount(&at, &image) else { return };
    let file = at.join("disk");
    std::fs::write(&file, vec![0; 8 * MIB as usize]).unwrap();
    for (io, cache) in [("direct", "off"), ("buffered", "on"), ("buffered", "off")] {
        let more = format!("io = \"{io}\"\nwrite-cache = \"{cache}\"");
        target.configure(&(target.export("e1.0", 16 * MIB, "") + &export_of("e1.1", &file, &more)));
        target.run();
        let mut hangs = target.client("e1.1");
        hangs.write(0, &[1; 512]).unwrap();
        let load = Verifier::start(&target, "e1.0", 1);
        pause(200);
        if !freezer.set(true) {
            println!("SKIPPED: no file system can be frozen here");
            load.finish();
            return;
        }
        let tag = hangs.tag();
        let head = frames::header(hangs.target(), hangs.mac(), hangs.address(), 0, tag);
        let mut write = frames::ata_request(head, 0x34, 1, 100);
        write.extend([9; 512]);
        assert_eq!(hangs.ask(&write, 5).unwrap(), None, "{io}, {cache}: it doesn't hang");
        assert!(target.is_alive());
        // Discovery needs no disk.
        assert_eq!(hangs.discover().unwrap().sectors, 16, "{io}, {cache}");
        assert!(freezer.set(false));
        wait_until("what hung is done", || hangs.read(100, 1).is_ok_and(|data| data == [9; 512]));
        assert_eq!(load.finish().retried, 0, "{io}, {cache}: the others were disturbed");
        target.stop();
    }
}
