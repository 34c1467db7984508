//! The Debian package: what Debian's own checker says of it, and what becomes of it on a machine: a Debian with systemd, emulated.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use blackbox::{former_program, program, require_root};

#[path = "../qemu/vm.rs"]
#[allow(dead_code)]
mod vm;

use vm::{Nic, Switch, Vm, VmOptions, require_qemu};

/// Lower than any of the program's own.
const FORMER: &str = "0.0.1";

/// Packages a program, under its own version or another one.
fn package(program: &Path, directory: &Path, compression: &str, version: Option<&str>) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/deb");
    let mut command = Command::new(script);
    command.arg(program).arg(directory).args(version).env("DEB_COMPRESSION", compression);
    let output = command.output().expect("scripts/deb can be run");
    assert!(output.status.success(), "scripts/deb: {}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
}

#[test]
fn debians_checker_has_nothing_against_it() {
    let dir = tempfile::tempdir().unwrap();
    let package = package(&program(), dir.path(), "gzip", None);
    let mut command = Command::new("lintian");
    // Root runs tests, and nobody has uploaded the package to Debian.
    command
        .args([
            "--allow-root",
            "--fail-on",
            "error,warning",
            "--suppress-tags",
            "initial-upload-closes-no-bugs",
        ])
        .arg(&package);
    let output = command.output().expect("lintian is installed (scripts/setup)");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// What the page on operation promises of installation, upgrade, removal and purge.
#[test]
fn it_is_installed_started_upgraded_and_purged() {
    require_root();
    require_qemu();
    vm::sweep();
    let dir = tempfile::tempdir().unwrap();
    let new = program();
    // A former program where one is given; else the same, called a former one.
    let former = match former_program() {
        Some(program) => (program, None),
        None => (new.clone(), Some(FORMER)),
    };
    for ((program, version), name) in [(former, "former.deb"), ((new, None), "new.deb")] {
        // Emulated instructions would unpack it.
        let made = package(&program, dir.path(), "none", version);
        std::fs::rename(made, dir.path().join(name)).unwrap();
    }
    let packages = dir.path().join("packages");
    let mut command = Command::new("tar");
    command.arg("-C").arg(dir.path()).arg("-cf").arg(&packages).args(["former.deb", "new.deb"]);
    assert!(command.status().expect("tar can be run").success());

    let switch = Switch::new("sw");
    switch.bridge("br0", 1500);
    let options = VmOptions {
        name: "debian",
        netns: switch.netns(),
        nics: &[Nic { bridge: "br0", mtu: 1500 }],
        script: "package.sh",
        programs: &[],
        variables: &[],
        memory_mb: 1024,
        disk_mb: Some(512),
        limit: Duration::from_secs(600),
    };
    let mut machine = Vm::start_debian(&options, &packages);
    for word in ["BOOTED", "INSTALLED", "STARTED", "UPGRADED", "HELD", "PURGED"] {
        machine.wait_for(word).unwrap();
    }
    machine.finish().unwrap();
}
