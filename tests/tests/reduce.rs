//! A volume becomes smaller, and nothing that is on it is cut off.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use blackbox::{Lab, LabOptions, Tree};

const VOLUME: &str = "cluster/hyperspace";

#[test]
fn a_volume_becomes_smaller_with_its_file_system_and_never_without() {
    let lab = Lab::up(&LabOptions { disks: 1, size: "512M", ..LabOptions::default() });
    let files = lab.mount().join("tree");
    std::fs::create_dir(&files).unwrap();
    let tree = Tree::make(&files, 200, 40 << 20, 5);
    let size = || lab.json(&["volume", "show", VOLUME])["size_bytes"].as_u64().unwrap();
    let full = size();
    let less = ["volume", "reduce", VOLUME, "--size", "-64M"];
    let with = |more: &[&'static str]| lab.said(&[&less[..], more].concat());

    let (code, text) = with(&["--yes"]);
    assert!(code == 8 && text.contains(&format!("volume unmount {VOLUME}")), "{code}: {text}");
    let mount = lab.mount();
    lab.cli(&["volume", "serve", VOLUME, "ftp", "--stop"]);
    lab.cli(&["volume", "unmount", VOLUME]);
    // The file system fills the volume.
    for more in [&["--yes"][..], &["--dry-run"], &["--force", "--yes"]] {
        let (code, text) = with(more);
        assert!(code == 4 && text.contains("the smallest size is"), "{code}: {text}");
    }
    let (code, text) = with(&["--resizefs"]);
    assert!(code == 4 && text.contains("--yes"), "{code}: {text}");
    let (code, text) = with(&["--resizefs", "--dry-run"]);
    assert!(code == 0 && text.contains("checked and made smaller first"), "{code}: {text}");
    let tiny = ["volume", "reduce", VOLUME, "--size", "8M", "--resizefs", "--yes"];
    let (code, text) = lab.said(&tiny);
    assert!(code == 4 && text.contains("the smallest size is"), "{code}: {text}");
    let (code, text) = lab.said(&["volume", "reduce", VOLUME, "--size", "-900G", "--yes"]);
    assert!(code == 2 && text.contains("nothing would be left"), "{code}: {text}");
    assert_eq!(size(), full);

    lab.cli(&["volume", "attach", VOLUME]);
    let (code, text) = with(&["--resizefs", "--yes"]);
    assert!(code == 8 && text.contains(&format!("volume detach {VOLUME}")), "{code}: {text}");
    lab.cli(&["volume", "detach", VOLUME]);

    lab.cli(&[&less[..], &["--resizefs", "--yes"]].concat());
    assert_eq!(size(), full - (64 << 20));
    lab.cli(&["volume", "check", VOLUME]);
    // As after a crash in between: the file system is as small already.
    let smaller = (full - (64 << 20)).to_string();
    lab.cli(&["volume", "reduce", VOLUME, "--size", &smaller, "--resizefs", "--yes"]);
    lab.cli(&["volume", "mount", VOLUME, mount.to_str().unwrap()]);
    assert_eq!(Tree::read(&files), tree);

    // What was given up is there for others, and what grows again is there for this one.
    lab.cli(&["volume", "create", "cluster/other", "--size", "32M", "--layout", "mirror:2"]);
    lab.cli(&["volume", "extend", VOLUME, "--size", "+16M", "--resizefs", "--yes"]);
    assert_eq!(Tree::read(&files), tree);
    lab.cli(&["volume", "verify", VOLUME]);
}
