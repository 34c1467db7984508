//! Files in by FTP, out by FTP and through the mount; diskfuls of different sizes; what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use blackbox::{Lab, LabOptions, Tree};

/// Main job, 1.
#[test]
fn a_tree_of_files_goes_in_and_comes_out_the_same() {
    let lab = Lab::up(&LabOptions { size: "1G", ..LabOptions::default() });
    let local = tempfile::tempdir().unwrap();
    let (source, back) = (local.path().join("in"), local.path().join("out"));
    std::fs::create_dir(&source).unwrap();
    let tree = Tree::make(&source, 2000, 500 << 20, 1);
    println!("{} files, {} bytes", tree.len(), tree.bytes());

    let start = Instant::now();
    lftp(&lab, "lab,lab", &format!("mirror -R --parallel=4 {} /tree", source.display()));
    println!("in by FTP: {:.1} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    lftp(&lab, "anonymous,x", &format!("mirror --parallel=4 /tree {}", back.display()));
    println!("out by FTP: {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(Tree::read(&back), tree, "read back by FTP");
    assert_eq!(Tree::read(&lab.mount().join("tree")), tree, "read through the mount");

    // Past every cache: stopped, started, read again.
    lab.lab(&["down"]);
    assert!(!lab.mount().join("tree").exists(), "unmounted by lab down");
    lab.lab(&["up"]);
    lab.wait_served();
    assert_eq!(Tree::read(&lab.mount().join("tree")), tree, "after lab down and lab up");
    lab.cli(&["volume", "verify", "cluster/hyperspace"]);
}

/// Anonymous clients read only; nobody leaves the mount; a broken upload is resumed.
#[test]
fn ftp_is_confined_and_resumes() {
    let lab = Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() });
    let local = tempfile::tempdir().unwrap();
    let file = local.path().join("f");
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(&file, &bytes).unwrap();
    let url = |path: &str| format!("ftp://127.0.0.1:{}/{path}", lab.ftp_port());

    assert!(!curl(&["-T", file.to_str().unwrap(), &url("f")]), "anonymous upload must fail");
    assert!(curl(&["--user", "lab:lab", "-T", file.to_str().unwrap(), &url("f")]));
    assert!(!curl(&["--user", "lab:wrong", "-T", file.to_str().unwrap(), &url("g")]));
    assert_eq!(std::fs::read(lab.mount().join("f")).unwrap(), bytes);

    std::fs::write(lab.mount().join("part"), &bytes[..1_000_001]).unwrap();
    assert!(curl(&["--user", "lab:lab", "-C", "-", "-T", file.to_str().unwrap(), &url("part")]));
    assert_eq!(std::fs::read(lab.mount().join("part")).unwrap(), bytes, "resumed upload");
    let down = local.path().join("down");
    std::fs::write(&down, &bytes[..77]).unwrap();
    assert!(curl(&["-C", "-", "-o", down.to_str().unwrap(), &url("f")]));
    assert_eq!(std::fs::read(&down).unwrap(), bytes, "resumed download");

    std::os::unix::fs::symlink("/etc", lab.mount().join("link")).unwrap();
    let out = local.path().join("leak");
    for path in ["link/passwd", "../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "/%2fetc/passwd"] {
        curl(&["--path-as-is", "-o", out.to_str().unwrap(), &url(path)]);
        let leaked = std::fs::read(&out).unwrap_or_default();
        assert!(!leaked.starts_with(b"root:"), "{path} leaked");
    }
}

/// Main job, 6: disks of different sizes.
#[test]
fn different_disks_are_used_almost_whole() {
    let lab = Lab::up(&LabOptions { disks: 1, size: "1G,2G,3G", ..LabOptions::default() });
    let usable = lab.volume()["size_bytes"].as_u64().unwrap();
    // Two copies on different nodes of 1, 2 and 3 GiB: every byte of the third has its twin.
    let ideal = 3u64 << 30;
    println!("{usable} of {ideal} bytes: {:.2} %", usable as f64 * 100.0 / ideal as f64);
    assert!(usable as f64 >= ideal as f64 * 0.95);
}

/// `lab up` twice, `lab down` in any state.
#[test]
fn the_lab_starts_twice_and_leaves_nothing() {
    let lab = Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() });
    // Its network is none that this machine has.
    let status = lab.json(&["status"]);
    let names: Vec<_> =
        status["engine"]["interfaces"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert!(!names.is_empty(), "{status}");
    let is_here = |name: &&serde_json::Value| {
        Path::new("/sys/class/net").join(name.as_str().unwrap()).exists()
    };
    assert_eq!(names.into_iter().find(is_here), None);
    assert_others_see_nothing(lab.dir());
    let before = lab.status();
    lab.lab(&["up"]);
    let after = lab.status();
    assert_eq!(before["supervisor"]["pid"], after["supervisor"]["pid"]);
    std::fs::write(lab.mount().join("kept"), "kept").unwrap();
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();
    lab.lab(&["kill", "n2"]);
    lab.lab(&["up"]);
    assert_eq!(lab.status()["nodes"][1]["state"], "running");

    lab.lab(&["kill", "engine"]);
    lab.lab(&["pause", "n1"]);
    lab.lab(&["down"]);
    let dir = lab.dir().display().to_string();
    for table in ["/proc/self/mountinfo", "/proc/mounts"] {
        assert!(!std::fs::read_to_string(table).unwrap().contains(&dir), "{table} names the lab");
    }
    for entry in std::fs::read_dir("/sys/block").unwrap().flatten() {
        let file =
            std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        assert!(!file.contains(&dir), "{:?} is attached", entry.file_name());
    }
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(!line.contains(&dir), "a process is left: {line}");
    }
    lab.lab(&["up"]);
    lab.wait_served();
    assert_eq!(std::fs::read(lab.mount().join("kept")).unwrap(), b"kept");
}

/// Disks, hashes of passwords and configurations are root's alone, whatever its umask is.
fn assert_others_see_nothing(lab: &Path) {
    let mode = |name: &str| {
        std::fs::metadata(lab.join(name)).unwrap_or_else(|error| panic!("{name}: {error}")).mode()
    };
    for file in [
        "disks/n1d0.img",
        "n1/node.toml",
        "supervisor/supervisor.toml",
        "supervisor/ftp-users",
        "supervisor/token",
        "lab.json",
    ] {
        assert_eq!(mode(file) & 0o777, 0o600, "{file}");
    }
    for directory in ["disks", "n1", "log", "pid"] {
        assert_eq!(mode(directory) & 0o777, 0o700, "{directory}");
    }
}

fn lftp(lab: &Lab, user: &str, command: &str) {
    let script = format!(
        "set net:max-retries 1; set cmd:fail-exit yes; open -u {user} ftp://127.0.0.1:{}; {command}",
        lab.ftp_port()
    );
    let output = Command::new("lftp").arg("-c").arg(script).output().expect("lftp is installed");
    assert!(output.status.success(), "lftp: {}", String::from_utf8_lossy(&output.stderr));
}

fn curl(args: &[&str]) -> bool {
    let null = Path::new("/dev/null");
    let quiet =
        if args.contains(&"-o") { vec!["-sS"] } else { vec!["-sS", "-o", null.to_str().unwrap()] };
    let output = Command::new("curl").args(quiet).args(args).output().expect("curl is installed");
    if !output.status.success() {
        println!("curl {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    output.status.success()
}
