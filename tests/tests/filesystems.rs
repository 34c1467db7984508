//! XFS and btrfs on volumes, by the commands that people use, with this machine's own kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use blackbox::{Lab, LabOptions, wait_until};

/// Those of the two that this kernel has or gets; says loudly what is missing. (A stock kernel has both:
/// `local_volumes`.)
fn kinds(test: &str) -> Vec<&'static str> {
    let known = |kind: &str| {
        let list = std::fs::read_to_string("/proc/filesystems").unwrap();
        list.lines().any(|line| line.split_whitespace().last() == Some(kind))
    };
    let there = |kind: &&str| {
        let found = known(kind) || {
            let _ = Command::new("modprobe").arg(kind).status();
            known(kind)
        };
        if !found {
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: this kernel has no {kind}");
        }
        found
    };
    ["xfs", "btrfs"].into_iter().filter(there).collect()
}

struct Volume {
    name: String,
    at: PathBuf,
}

/// A pool of two disks, and a volume for each kind, with its file system, mounted.
fn up(kinds: &[&str]) -> (Lab, Vec<Volume>) {
    let options =
        LabOptions { nodes: 2, disks: 1, size: "2G", bare: true, ..LabOptions::default() };
    let lab = Lab::up(&options);
    lab.wait_for_disks(2);
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "--yes"]);
    let volumes = kinds.iter().map(|kind| {
        let volume = Volume { name: format!("cluster/{kind}"), at: lab.dir().join(kind) };
        lab.cli(&["volume", "create", &volume.name, "--size", "320M", "--layout", "mirror:2"]);
        lab.cli(&["volume", "mkfs", &volume.name, "--type", kind, "--yes"]);
        let at = volume.at.to_str().unwrap();
        // What it carries is found out.
        lab.cli(&["volume", "mount", &volume.name, at]);
        assert_eq!(kind_at(&volume.at).as_deref(), Some(*kind));
        volume
    });
    let volumes = volumes.collect();
    (lab, volumes)
}

fn kind_at(path: &Path) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let path = path.to_str().unwrap();
    let line = table.lines().rfind(|line| line.split(' ').nth(1) == Some(path))?;
    line.split(' ').nth(2).map(str::to_owned)
}

fn space(at: &Path) -> u64 {
    let stat = rustix::fs::statvfs(at).unwrap();
    stat.f_blocks * stat.f_frsize
}

/// Grown while it is mounted and while it isn't, checked, and back at its place after the engine's death,
/// though a program holds a file of what was there.
#[test]
fn they_are_mounted_grown_checked_and_come_back() {
    let kinds = kinds("they_are_mounted_grown_checked_and_come_back");
    let (lab, volumes) = up(&kinds);
    for volume in &volumes {
        let (name, at) = (volume.name.as_str(), &volume.at);
        std::fs::write(at.join("file"), "contents").unwrap();
        rustix::fs::syncfs(File::open(at).unwrap()).unwrap();
        let (code, said) = lab.said(&["volume", "mkfs", name, "--type", "ext4", "--yes"]);
        assert!(code != 0 && said.contains("is mounted at"), "{said}");
        let small = space(at);
        lab.cli(&["volume", "extend", name, "--size", "400M", "--resizefs"]);
        assert!(space(at) > small + (70 << 20), "{name}: {} after {small}", space(at));
    }

    let held: Vec<File> =
        volumes.iter().map(|volume| File::create(volume.at.join("held")).unwrap()).collect();
    let engine = || lab.status()["supervisor"]["engine"].as_i64();
    let before = engine().unwrap();
    lab.lab(&["kill", "engine"]);
    wait_until("another engine runs", || engine().is_some_and(|now| now != before));
    let is_back = |volume: &Volume| {
        let durable = |path: PathBuf| File::create(path).and_then(|file| file.sync_all());
        std::fs::read(volume.at.join("file")).is_ok_and(|bytes| bytes == b"contents")
            && durable(volume.at.join("new")).is_ok()
    };
    let waits = |volume: &Volume| {
        // Before Linux 6.7.
        volume.name.ends_with("btrfs") && lab.said(&["status"]).1.contains("same UUID")
    };
    for volume in &volumes {
        wait_until("it is mounted again, or says what it waits for", || {
            is_back(volume) || waits(volume)
        });
    }
    drop(held);

    for volume in &volumes {
        wait_until("it is mounted again", || is_back(volume));
        let (name, at) = (volume.name.as_str(), volume.at.to_str().unwrap());
        let large = space(&volume.at);
        lab.cli(&["volume", "unmount", name]);
        lab.cli(&["volume", "check", name]);
        let (code, said) = lab.said(&["volume", "mkfs", name, "--yes"]);
        assert!(code == 4 && said.contains("already carries"), "{said}");
        lab.cli(&["volume", "extend", name, "--size", "480M", "--resizefs"]);
        assert_eq!(kind_at(&volume.at), None);
        lab.cli(&["volume", "mount", name, at, "--dry-run"]);
        lab.cli(&["volume", "mount", name, at]);
        assert!(space(&volume.at) > large + (70 << 20), "{name}");
        assert!(is_back(volume));
        lab.cli(&["volume", "unmount", name]);
        lab.cli(&["volume", "check", name]);
        lab.cli(&["volume", "verify", name]);
    }
}

/// A copy of a volume beside it; one that has shut itself down; what is too small; what isn't there.
#[test]
fn what_cannot_be_mounted_or_has_stopped_says_what_to_do() {
    let kinds = kinds("what_cannot_be_mounted_or_has_stopped_says_what_to_do");
    if kinds.first() != Some(&"xfs") {
        return;
    }
    let (lab, volumes) = up(&kinds[..1]);
    let volume = &volumes[0];
    let (name, at) = (volume.name.as_str(), volume.at.to_str().unwrap());

    lab.cli(&["volume", "create", "cluster/small", "--size", "64M", "--layout", "mirror:2"]);
    for (kind, size) in [("xfs", "300 MiB"), ("btrfs", "109 MiB")] {
        let (code, said) = lab.said(&["volume", "mkfs", "cluster/small", "--type", kind, "--yes"]);
        assert!(code == 2 && said.contains("too small") && said.contains(size), "{code}: {said}");
    }
    let (code, said) = lab.said(&["volume", "check", "cluster/small"]);
    assert!(code == 1 && said.contains("it is blank") && said.contains("volume mkfs"), "{said}");
    let (code, said) = lab.said(&["volume", "mount", "cluster/small", "/srv/small"]);
    assert!(code == 1 && said.contains("it is blank") && said.contains("volume mkfs"), "{said}");

    std::fs::write(volume.at.join("file"), "contents").unwrap();
    lab.cli(&["volume", "unmount", name]);
    lab.cli(&["volume", "create", "cluster/copy", "--size", "320M", "--layout", "mirror:2"]);
    let device = |name: &str| {
        lab.cli(&["volume", "attach", name]);
        lab.dir().join("supervisor/dev").join(name)
    };
    let (source, target) = (device(name), device("cluster/copy"));
    let (mut source, mut target) =
        (File::open(source).unwrap(), File::options().write(true).open(target).unwrap());
    std::io::copy(&mut source, &mut target).unwrap();
    target.sync_all().unwrap();
    drop((source, target));
    lab.cli(&["volume", "detach", "cluster/copy"]);
    lab.cli(&["volume", "detach", name]);
    lab.cli(&["volume", "mount", name, at]);
    let copy_at = lab.dir().join("copy");
    let mount_copy = ["volume", "mount", "cluster/copy", copy_at.to_str().unwrap()];
    let (code, said) = lab.said(&mount_copy);
    assert!(code == 8 && said.contains(at) && said.contains("-o nouuid"), "{code}: {said}");
    assert_eq!(kind_at(&copy_at), None);
    lab.cli(&[&mount_copy[..], &["-o", "nouuid"]].concat());
    assert_eq!(std::fs::read(copy_at.join("file")).unwrap(), b"contents");
    lab.cli(&["volume", "unmount", "cluster/copy"]);

    std::fs::write(volume.at.join("late"), "only the log has it").unwrap();
    // Its device has answered everything: it isn't mounted again and again.
    let stopped = Command::new("xfs_io").args(["-x", "-c", "shutdown -f"]).arg(&volume.at).output();
    assert!(stopped.as_ref().is_ok_and(|output| output.status.success()), "{stopped:?}");
    wait_until("status tells of it", || {
        let (code, said) = lab.said(&["status"]);
        code == 5 && said.contains("damaged") && said.contains("volume check")
    });
    assert!(std::fs::read_dir(&volume.at).is_err(), "it is left as it is");
    lab.cli(&["volume", "unmount", name]);
    let (code, said) = lab.said(&["volume", "check", name]);
    assert!(code == 4 && said.contains("mount it once"), "{code}: {said}");
    lab.cli(&["volume", "mount", name, at]);
    assert_eq!(std::fs::read(volume.at.join("file")).unwrap(), b"contents");
    lab.cli(&["volume", "unmount", name]);
    lab.cli(&["volume", "check", name]);
}
