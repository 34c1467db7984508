//! The units: systemd understands them, and what they start understands its arguments.
#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const UNITS: [&str; 4] = [
    "etherpool-target.service",
    "etherpool-node.service",
    "etherpool-supervisor.service",
    "etherpool-boot.service",
];
const PROGRAM: &str = env!("CARGO_BIN_EXE_etherpool");

fn unit(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
    std::fs::read_to_string(directory.join(name)).unwrap()
}

#[test]
fn systemd_understands_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: systemd-analyze is not installed; the units are NOT verified");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for name in UNITS {
        let text = unit(name);
        assert!(text.contains("/usr/bin/etherpool "), "{name}");
        // It looks whether the program is there.
        let text = text.replace("/usr/bin/etherpool", PROGRAM);
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    // No manual page is installed here, and the order among our own units is looked up.
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(UNITS.map(|name| directory.path().join(name)))
        .env("SYSTEMD_UNIT_PATH", format!("{}:", directory.path().display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("etherpool")).collect();
    assert!(output.status.success() && about_ours.is_empty(), "{said}");
}

/// systemd answers every openat2 with ENOSYS under `RestrictSUIDSGID` (seccomp_restrict_sxid), as it can't look into what that
/// points to; nothing here opens files below a directory without it. It isn't seen by a rating, nor by a list of calls.
#[test]
fn no_unit_forbids_to_open_files_beneath_directories() {
    for name in UNITS {
        assert!(!unit(name).contains("RestrictSUIDSGID"), "{name}");
    }
}

/// What systemd makes of how little a unit may: 0 is nothing, 100 all. A supervisor's mounts are for everybody, which
/// leaves it more.
#[test]
fn the_units_may_little() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: systemd-analyze is not installed; the units are NOT rated");
        return;
    }
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
    for (name, threshold) in UNITS.into_iter().zip([39, 39, 65, 39]) {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(format!("--threshold={threshold}"))
            .arg(packaging.join(name))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{}", said.lines().last().unwrap_or_default());
        assert!(output.status.success(), "{name}: {said}{told}");
    }
}

/// A unit with mounts of its own would mount for nobody.
#[test]
fn what_a_supervisor_mounts_is_seen_by_all() {
    let text = unit(UNITS[2]);
    let keys = text.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key);
    let own = [
        "BindPaths",
        "BindReadOnlyPaths",
        "ExecPaths",
        "InaccessiblePaths",
        "MountFlags",
        "NoExecPaths",
        "PrivateDevices",
        "PrivateMounts",
        "PrivateTmp",
        "PrivateUsers",
        "ProcSubset",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "RootDirectory",
        "TemporaryFileSystem",
    ];
    let found: Vec<&str> = keys.filter(|key| own.contains(key)).collect();
    assert!(found.is_empty(), "{found:?} give it mounts of its own");
}

/// A machine that isn't configured fails visibly, once, with what is to be done: it isn't started for
/// ever.
#[test]
fn a_unit_without_configuration_fails_and_says_why() {
    for name in [UNITS[0], UNITS[1], UNITS[3]] {
        let text = unit(name);
        assert!(text.lines().any(|line| line == "RestartPreventExitStatus=2"), "{name}");
    }
    for name in [UNITS[1], UNITS[3]] {
        let line = unit(name)
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/etherpool ").map(str::to_owned));
        let line = line.unwrap();
        // What systemd makes of a variable that isn't set.
        let words = line.split(' ').filter(|word| !word.starts_with('$'));
        let output = Command::new(PROGRAM).args(words).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("no interface is named") && said.contains("-i "), "{said}");
    }
}

/// A daemon that is killed with its test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Manager {
    fn new() -> Manager {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Manager { socket, path, _directory: directory }
    }

    /// Waits for a message that begins so; `None` when the daemon says nothing for a minute.
    fn hears(&self, wanted: &str) -> Option<String> {
        let mut bytes = [0; 1024];
        loop {
            let len = self.socket.recv(&mut bytes).ok()?;
            let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
            if text.starts_with(wanted) {
                return Some(text);
            }
        }
    }
}

/// A real node, as the unit starts it, under a manager that listens.
#[test]
fn a_node_tells_its_manager() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::File::create(at("disk")).unwrap().set_len(1 << 20).unwrap();
    let config = format!(
        "node-id = '00000000-0000-0000-0000-000000000001'\nstate-dir = {:?}\nrun-dir = {:?}\n\
         interfaces = ['none-of-this-name']\n\
         [[export]]\naddress = 'e9.1'\npath = {:?}\nio = 'buffered'\n",
        at("state"),
        at("run"),
        at("disk")
    );
    std::fs::write(at("node.toml"), config).unwrap();
    let manager = Manager::new();
    let log = std::fs::File::create(at("log")).unwrap();
    let node = Command::new(PROGRAM)
        .args(["node", "--config"])
        .arg(at("node.toml"))
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "20000")
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut node = Daemon(node);
    let pid = rustix_pid(&node.0);
    let log = || std::fs::read_to_string(at("log")).unwrap_or_default();
    if manager.hears("READY=1").is_none() {
        let text = log();
        if text.contains("io_uring") {
            eprintln!("SKIPPED: no io_uring here: {text}");
            return;
        }
        panic!("no word of readiness: {text}");
    }
    assert!(manager.hears("WATCHDOG=1").is_some(), "{}", log());
    assert!(manager.hears("STATUS=1 export online").is_some(), "{}", log());
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    let reloading = manager.hears("RELOADING=1").unwrap();
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    assert!(manager.hears("READY=1").is_some(), "{}", log());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(manager.hears("STOPPING=1").is_some(), "{}", log());
    assert!(node.0.wait().unwrap().success(), "{}", log());
}

fn rustix_pid(child: &Child) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()
}
