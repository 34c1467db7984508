//! The same as `pages.rs`, of pages with machines that need a kernel of their own: they are emulated.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../qemu/rack.rs"]
#[allow(dead_code)]
mod rack;

use rack::Rack;

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
    let (status, printed) = desk.run(use_it);
    assert_eq!(status, 0, "{printed}");
    let dir = tempfile::tempdir().unwrap();
    rack.set_alone(dir.path());
    rack.follow("docs/moving.md", include_str!("../../docs/moving.md"));
}
