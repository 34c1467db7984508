//! Disks that nodes find by themselves: which they take, and when.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../qemu/rack.rs"]
#[allow(dead_code)]
mod rack;

use blackbox::wait_until;
use rack::{Disks, Rack};

#[test]
fn a_disk_that_was_left_alone_is_taken_once_it_is_wiped() {
    let mut rack = Rack::new(&[("one", 1, &[("sdb", 64), ("sdc", 64)])]);
    rack.on(&["one"]);
    let one = rack.machine("one");
    one.must("mkfs.ext4 -q /dev/sdb; mkfs.ext4 -q /dev/sdc");
    one.must("echo 'ETHERPOOL_NODE_OPTIONS=\"-i eth0\"' >/etc/default/etherpool-node");
    one.must("systemctl enable --now etherpool-node");
    let left = |disk: &str, what: &str| {
        let status = one.run("etherpool target status").1;
        let mut lines = status.lines();
        lines.any(|line| line.contains(disk) && line.contains(what))
    };
    wait_until("both are left alone", || {
        left("/dev/sdb", "ext2/3/4") && left("/dev/sdc", "ext2/3/4")
    });
    one.must("dd if=/dev/urandom of=/dev/sdb bs=1M count=4 conv=fsync");
    wait_until("it is left alone for other contents", || {
        left("/dev/sdb", "carries") && !left("/dev/sdb", "ext2/3/4")
    });
    one.must("dd if=/dev/zero of=/dev/sdb bs=1M count=4 conv=fsync");
    wait_until("it is exported", || left("/dev/sdb", "online"));
    assert!(left("/dev/sdc", "ext2/3/4"), "{}", one.must("etherpool target status"));
}

/// Disks without serial numbers have the addresses of their places.
#[test]
fn a_new_disk_at_the_address_of_the_old_one_takes_its_place_by_another_address() {
    let small: Disks = &[("sdb", 512)];
    let mut rack = Rack::new(&[("one", 1, small), ("two", 2, small), ("three", 3, small)]);
    rack.on(&["one", "two", "three"]);
    rack.machine("three").must("rm /sys/block/sdb/device/serial");
    rack.join("one", &["one", "two", "three"]);
    rack.make_pool("e1.0 e2.0 e3.0", &[("files", "200M", "mirror:2")]);
    rack.machine("one").must("etherpool disk offline tank e3.0 --yes");
    let three = rack.machine("three");
    three.must("systemctl stop etherpool-node");
    let _old = three.take("sdb");
    three.put("sdb", 1024);
    three.must("rm /sys/block/sdb/device/serial; systemctl start etherpool-node");
    let listed = |rack: &mut Rack, address: &str, what: &str| {
        let list = rack.machine("one").run("etherpool disk list").1;
        list.lines().any(|line| line.starts_with(address) && line.contains(what))
    };
    wait_until("it is taken for the old one", || {
        listed(&mut rack, "e3.0", "1.00 GiB") && listed(&mut rack, "e3.0", "offline")
    });
    let itself = rack.machine("one").run("etherpool pool replace tank e3.0 e3.0 --yes");
    assert!(itself.0 == 4 && itself.1.contains("its own place"), "{itself:?}");

    let named = r#"printf '[[export]]\naddress = "e3.9"\npath = "/dev/sdb"\n' >/etc/etherpool/node.toml
        echo 'ETHERPOOL_NODE_OPTIONS="-i eth0 --config /etc/etherpool/node.toml"' >/etc/default/etherpool-node
        systemctl restart etherpool-node"#;
    rack.machine("three").must(named);
    wait_until("it is free", || listed(&mut rack, "e3.9", "free"));
    let one = rack.machine("one");
    one.must("etherpool pool replace tank e3.0 e3.9 --wait --yes");
    one.must("etherpool pool remove tank e3.0 --wait --yes");
    wait_until("all is well", || one.run("etherpool status -x") == (0, String::new()));
}
