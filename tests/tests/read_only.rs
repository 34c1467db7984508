//! A pool whose supervisor died is read by another one, and nothing of it changes: with all that there is, and with so
//! little that nobody could open it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::hash::{DefaultHasher, Hasher};
use std::io::Read;

use blackbox::{Lab, LabOptions, Rival, wait_until};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// Checksums of the nodes' disks.
fn digests(lab: &Lab) -> Vec<u64> {
    let digest = |node: &&str| {
        let mut file = std::fs::File::open(lab.disk_file(node, 0)).unwrap();
        let (mut digest, mut piece) = (DefaultHasher::new(), vec![0; 4 << 20]);
        loop {
            match file.read(&mut piece).unwrap() {
                0 => return digest.finish(),
                len => digest.write(&piece[..len]),
            }
        }
    };
    NODES.iter().map(digest).collect()
}

/// The same once nobody writes any more: what a supervisor that was killed had sent before is still done.
fn settled(lab: &Lab) -> Vec<u64> {
    let mut last = digests(lab);
    wait_until("nothing is written any more", || {
        let now = digests(lab);
        std::mem::replace(&mut last, now.clone()) == now
    });
    last
}

/// What a file is that was written with version `version`.
fn contents(version: u8) -> Vec<u8> {
    (0..3 << 20).map(|at: u32| (at / 4096) as u8 ^ version).collect()
}

fn write(lab: &Lab, name: &str, version: u8) {
    let file = std::fs::File::create(lab.mount().join(name)).unwrap();
    std::io::Write::write_all(&mut &file, &contents(version)).unwrap();
    // In the journal of the file system, and nowhere else as far as that is concerned.
    file.sync_all().unwrap();
}

fn import_read_only(rival: &Rival) -> String {
    let mut said = String::new();
    wait_until("the owner is silent for long enough", || {
        let (done, text) = rival.cli(&["pool", "import", "cluster", "--read-only", "--yes"]);
        said = text;
        done
    });
    said
}

fn state(rival: &Rival) -> String {
    // It is degraded, and that is in the exit code.
    let (_, text) = rival.cli(&["pool", "show", "cluster"]);
    let row = text.lines().find(|line| line.starts_with("state")).unwrap_or_default();
    row.to_owned()
}

#[test]
fn what_a_dead_supervisor_has_left_is_read_and_nothing_changes() {
    let lab = Lab::up(&LabOptions { size: "256M", disks: 1, ..LabOptions::default() });
    write(&lab, "first", 1);
    lab.wait_clean();
    let rival = Rival::start(&lab);
    wait_until("the rival sees whose pool it is", || rival.pool_state() == "foreign");
    let (code, text) = rival.code(&["pool", "import", "cluster", "--read-only", "--yes"]);
    assert!(code != 0 && text.contains("in use"), "{code}: {text}");

    write(&lab, "second", 2);
    lab.lab(&["kill", "supervisor"]);
    let before = settled(&lab);
    import_read_only(&rival);
    assert!(state(&rival).contains("read-only"), "{}", state(&rival));

    // Where its own supervisor had it mounted isn't this machine's to decide; and its journal is replayed.
    let at = rival.mounts().join("at");
    std::fs::create_dir(&at).unwrap();
    rival.must(&["volume", "mount", "cluster/hyperspace", at.to_str().unwrap()]);
    assert_eq!(std::fs::read(at.join("first")).unwrap(), contents(1));
    assert_eq!(std::fs::read(at.join("second")).unwrap(), contents(2));
    let refused = std::fs::write(at.join("third"), "third").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    for change in [
        &["volume", "create", "cluster/x", "--size", "16M"][..],
        &["pool", "extend", "cluster", "e9.9", "--yes"],
        &["pool", "set", "cluster", "trim", "off"],
        &["pool", "scrub", "cluster"],
        &["pool", "destroy", "cluster", "--yes"],
        &["volume", "mkfs", "cluster/hyperspace", "--yes"],
    ] {
        let (code, text) = rival.code(change);
        assert!(code != 0 && !text.contains("panicked"), "{change:?}: {text}");
    }
    let verified = rival.must(&["volume", "verify", "cluster/hyperspace"]);
    println!("{verified}");
    assert!(digests(&lab) == before, "something was written");

    // Its owner is back, while it is read.
    lab.lab(&["start", "supervisor"]);
    lab.wait_served();
    wait_until("the rival knows that it is over", || rival.pool_state() == "foreign");
    wait_until("the rival's mount is gone", || !at.join("first").exists());
    assert_eq!(std::fs::read(lab.mount().join("second")).unwrap(), contents(2));
    write(&lab, "third", 3);
}

#[test]
fn the_rest_of_a_pool_is_read_where_nobody_can_open_it() {
    let lab = Lab::up(&LabOptions { size: "256M", disks: 1, ..LabOptions::default() });
    write(&lab, "first", 1);
    lab.wait_clean();
    let rival = Rival::start(&lab);
    lab.lab(&["kill", "supervisor"]);
    let before = settled(&lab);
    lab.lab(&["kill", "n2"]);
    lab.lab(&["kill", "n3"]);
    wait_until("the rival sees what is left", || rival.pool_state() == "incomplete");
    // At first the owner was heard a moment ago.
    wait_until("the usual import says what else can be done", || {
        let (done, text) = rival.cli(&["pool", "import", "cluster", "--yes"]);
        assert!(!done, "{text}");
        text.contains("--read-only")
    });
    let (_, plan) = rival.cli(&["pool", "import", "cluster", "--read-only", "--dry-run"]);
    assert!(plan.contains("may be older"), "{plan}");
    import_read_only(&rival);
    let (_, shown) = rival.cli(&["volume", "show", "cluster/hyperspace"]);
    println!("{}\n{shown}", rival.cli(&["pool", "show", "cluster"]).1);
    // Every third group has no copy here; a log may have been there alone as well.
    if shown.contains("accept-loss") {
        rival.must(&["volume", "accept-loss", "cluster/hyperspace", "--yes"]);
    }
    let device = {
        wait_until("it is served", || rival.cli(&["volume", "attach", "cluster/hyperspace"]).0);
        let (_, text) = rival.cli(&["volume", "show", "cluster/hyperspace"]);
        assert!(text.contains("incomplete"), "{text}");
        std::fs::read_dir(lab.dir().join("rival/dev/cluster")).unwrap().next().unwrap().unwrap()
    };
    let mut file = std::fs::File::open(device.path()).unwrap();
    let (mut piece, mut read, mut failed) = (vec![0; 64 << 10], 0, 0);
    let size = std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
    for at in (0..size).step_by(1 << 20) {
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at)).unwrap();
        match file.read_exact(&mut piece) {
            Ok(()) => read += 1,
            Err(_) => failed += 1,
        }
    }
    println!("{read} places read, {failed} can't be");
    assert!(read > 0);
    drop(file);
    rival.must(&["volume", "detach", "cluster/hyperspace"]);
    rival.must(&["pool", "release", "cluster", "--yes"]);
    assert!(digests(&lab) == before, "something was written");

    lab.lab(&["start", "n2"]);
    lab.lab(&["start", "n3"]);
    lab.lab(&["start", "supervisor"]);
    lab.wait_served();
    assert_eq!(std::fs::read(lab.mount().join("first")).unwrap(), contents(1));
}
