//! The same as `pages.rs`, of pages with machines that need a kernel of their own: they are emulated.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../qemu/rack.rs"]
#[allow(dead_code)]
mod rack;

use rack::Rack;
use rack::vm::twice_if_driver_hangs;

const MOVING: &str = include_str!("../../docs/moving.md");
/// Where the part of it begins that has a test of its own.
const FROM_DRBD: &str = "\n## From DRBD\n";

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
    rack.follow("docs/five-machines.md", include_str!("../../docs/five-machines.md")).unwrap();
}

#[test]
fn moving_from_vblade_md_and_lvm() {
    let mut rack = Rack::new(&[
        ("one", 1, &[("sdb", 256)]),
        ("two", 2, &[("sdb", 512)]),
        ("three", 3, &[("sdb", 512)]),
    ]);
    rack.on(&["one", "two", "three"]);
    rack.join("one", &["two", "three"]);
    rack.machine("one").must("mkfs.ext4 -q /dev/sdb");
    // What Debian's units come to.
    let unit = "mkdir -p /etc/systemd/system
        printf '[Service]\nExecStart=/usr/sbin/vblade 7 1 eth0 /dev/sdb\n' >/etc/systemd/system/vblade.service
        systemctl enable --now vblade";
    rack.machine("one").must(unit);
    rack.set_desk();
    let desk = rack.emulated.get_mut("desk").unwrap();
    let use_it = "modprobe aoe; until [ -b /dev/etherd/e7.1 ]; do sleep 0.2; done
        mount /dev/etherd/e7.1 /mnt && echo dear >/mnt/letter && sync";
    let (status, printed) = desk.run(use_it).unwrap();
    assert_eq!(status, 0, "{printed}");
    let dir = tempfile::tempdir().unwrap();
    rack.set_alone(dir.path());
    rack.follow("docs/moving.md", MOVING.split_once(FROM_DRBD).unwrap().0).unwrap();
}

#[test]
#[ignore = "takes long, and needs scripts/setup-qemu cluster: make test-long"]
fn moving_from_drbd() {
    let mut rack = Rack::new(&[]);
    rack.set_debians(&[("left", 21), ("right", 22)], "");
    let resource = "modprobe drbd
        cat >/etc/drbd.d/files.res <<END
resource files {
    device /dev/drbd0;
    disk /dev/vda;
    meta-disk internal;
    on left { address 192.168.7.21:7789; }
    on right { address 192.168.7.22:7789; }
}
END
        drbdadm create-md --force files && drbdadm up files && apt install ./etherpool_*.deb";
    for name in ["left", "right"] {
        rack.must(name, resource);
    }
    rack.must(
        "left",
        "until grep -q cs:Connected /proc/drbd; do sleep 1; done
        drbdadm new-current-uuid --clear-bitmap files/0 && drbdadm primary files && mkfs.ext4 -q /dev/drbd0 && mkdir -p /srv/old
        mount /dev/drbd0 /srv/old && echo dear >/srv/old/letter && sync
        until grep -q UpToDate/UpToDate /proc/drbd; do sleep 1; done",
    );
    rack.follow("docs/moving.md", MOVING.split_once(FROM_DRBD).unwrap().1).unwrap();
}

#[test]
#[ignore = "takes long, and needs scripts/setup-qemu cluster: make test-long"]
fn one_volume_on_several_machines() {
    twice_if_driver_hangs(|| {
        let mut rack = Rack::new(&[
            ("one", 1, &[("sdb", 1024)]),
            ("two", 2, &[("sdb", 1024)]),
            ("three", 3, &[("sdb", 1024)]),
        ]);
        rack.set_up(&["one", "two", "three"]);
        rack.make_pool("e1.0 e2.0 e3.0", &[]);
        rack.set_debians(&[("red", 11), ("blue", 12)], "e60.0");
        rack.follow("docs/sharing.md", include_str!("../../docs/sharing.md"))
    });
}
