//! Disks that nodes find by themselves: which they take, and when.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../qemu/rack.rs"]
#[allow(dead_code)]
mod rack;

use blackbox::{Machine, wait_until};
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

/// What is in a disk's place is another disk, with an address of its own if it may have one; and the disk keeps its address
/// wherever it is.
#[test]
fn a_disk_is_what_it_is_wherever_it_is() {
    let mut rack = Rack::new(&[("one", 1, &[("sdb", 64)])]);
    rack.on(&["one"]);
    let one = rack.machine("one");
    one.must("echo 'ETHERPOOL_NODE_OPTIONS=\"-i eth0\"' >/etc/default/etherpool-node");
    one.must("systemctl enable --now etherpool-node");
    let is = |one: &Machine, words: &[&str]| {
        let status = one.run("etherpool target status").1;
        status.lines().any(|line| words.iter().all(|word| line.contains(word)))
    };
    wait_until("it is exported", || is(one, &["e1.0", "/dev/sdb", "online"]));
    let first = one.take("sdb");
    wait_until("it is gone", || !is(one, &["online"]));
    // So that what is to be in its place is there as a whole when the node looks.
    let signal = |one: &Machine, signal: &str| {
        one.must(&format!("kill -{signal} $(cat /run/stand-in/etherpool-node.pid)"));
    };
    signal(one, "STOP");
    one.put("sdb", 64);
    one.must("mkfs.ext4 -q /dev/sdb");
    signal(one, "CONT");
    wait_until("it is left alone", || is(one, &["/dev/sdb", "ext2/3/4"]));
    // Longer than between two looks of an export.
    for _ in 0..30 {
        assert!(!is(one, &["online"]), "{}", one.must("etherpool target status"));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    one.put_back("sdc", first);
    wait_until("the first one has its address again", || is(one, &["e1.0", "/dev/sdc", "online"]));
    assert!(is(one, &["/dev/sdb", "ext2/3/4"]), "{}", one.must("etherpool target status"));
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
