//! Whatever is mounted over the directories of engine and node: they serve.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use blackbox::{Lab, LabOptions, Load, etherpool, quiet, require_root, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A node of this machine and a supervisor that reaches its disk by its socket only. The supervisor
/// has a mount namespace of its own: what a test mounts there is gone with it, and hides nothing from
/// the node.
struct Machine {
    dir: TempDir,
    node: Option<Child>,
    supervisor: Child,
}

impl Machine {
    fn start() -> Machine {
        require_root();
        let dir = tempfile::Builder::new().prefix("etherpool-doors").tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::create_dir_all(dir.path().join("top")).unwrap();
        File::create(dir.path().join("disk")).unwrap().set_len(512 << 20).unwrap();
        let node = format!(
            "name = 'here'\nstate-dir = {:?}\nrun-dir = {:?}\ninterfaces = ['none0']\n\
             [[export]]\naddress = 'e91.0'\npath = {:?}\n",
            at("node-state"),
            at("top/run"),
            at("disk"),
        );
        fs::write(dir.path().join("node.toml"), node).unwrap();
        let supervisor = format!(
            "state-dir = {:?}\nrun-dir = {:?}\ndevice-dir = {:?}\nnode-socket = {:?}\n\
             [ftp]\nlisten = '127.0.0.1:{}'\n",
            at("supervisor-state"),
            at("supervisor-run"),
            at("supervisor-dev"),
            at("top/run/node.sock"),
            23000 + std::process::id() % 500,
        );
        let config = dir.path().join("supervisor.toml");
        fs::write(&config, supervisor).unwrap();
        let node = start_node(dir.path());
        let program = etherpool().get_program().to_owned();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--"]).arg(program);
        command.args(["supervisor", "--config"]).arg(config);
        let supervisor = quiet(command, &dir.path().join("supervisor.log")).spawn().unwrap();
        let machine = Machine { dir, node: Some(node), supervisor };
        wait_until("the supervisor sees the disk", || {
            let disks = machine.cli_output(&["disk", "list", "--json"]);
            String::from_utf8_lossy(&disks.stdout).contains("\"e91.0\"")
        });
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn cli_output(&self, args: &[&str]) -> Output {
        let socket = self.path("supervisor-run/api.sock");
        etherpool().arg("--socket").arg(socket).args(args).stdin(Stdio::null()).output().unwrap()
    }

    fn cli(&self, args: &[&str]) -> String {
        let output = self.cli_output(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etherpool {args:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A volume as a block device.
    fn volume(&self) -> PathBuf {
        self.cli(&["pool", "create", "p", "e91.0", "--failure-domain", "disk", "--yes"]);
        self.cli(&["volume", "create", "p/v", "--size", "64M", "--layout", "raid0"]);
        self.cli(&["volume", "attach", "p/v"]);
        fs::canonicalize(self.path("supervisor-dev/p/v")).unwrap()
    }

    /// Runs a program where the supervisor is.
    fn inside(&self, words: &[&str], stdin: Stdio) {
        let pid = self.supervisor.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &pid, "--"]).args(words).stdin(stdin);
        let status = patiently(command);
        assert!(status.success(), "{words:?}: {status}");
    }

    /// The node dies without a word, and another listens in its place.
    fn restart_node(&mut self) {
        end(self.node.take(), Signal::KILL);
        self.node = Some(start_node(self.dir.path()));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["supervisor.log", "node.log"] {
                let text = fs::read_to_string(self.path(log)).unwrap_or_default();
                let tail: Vec<_> = text.lines().rev().take(40).collect();
                eprintln!("--- {log}");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
        let children: Vec<i32> = children(self.supervisor.id());
        if std::thread::panicking() {
            // What waits for a volume gets errors when its engine is gone for good.
            let _ = self.supervisor.kill();
        }
        let pid = Pid::from_child(&self.supervisor);
        let _ = kill_process(pid, Signal::TERM);
        for _ in 0..200 {
            if self.supervisor.try_wait().ok().flatten().is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let _ = self.supervisor.kill();
        for child in children.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(child, Signal::KILL);
        }
        let _ = self.supervisor.wait();
        end(self.node.take(), Signal::TERM);
    }
}

fn children(pid: u32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn start_node(dir: &Path) -> Child {
    let mut command = etherpool();
    command.args(["node", "--config"]).arg(dir.join("node.toml"));
    quiet(command, &dir.join("node.log")).spawn().unwrap()
}

fn end(child: Option<Child>, signal: Signal) {
    let Some(mut child) = child else { return };
    let _ = kill_process(Pid::from_child(&child), signal);
    let _ = child.wait();
}

/// Writes past the page cache, at once or when the volume is served again. A program of its own,
/// because nobody can stop a write that waits.
fn write(device: &Path, block: u64) {
    let target = format!("of={}", device.display());
    let seek = format!("seek={block}");
    let words =
        ["if=/dev/zero", &target, "bs=4096", "count=1", &seek, "oflag=direct", "conv=notrunc"];
    let mut command = Command::new("dd");
    command.args(words).stderr(Stdio::null());
    assert!(patiently(command).success(), "the write failed");
}

/// Runs a program that may hang for ever in a file system that does.
fn patiently(mut command: Command) -> ExitStatus {
    let mut child = command.spawn().unwrap();
    let mut status = None;
    let what = format!("{} ends", command.get_program().to_string_lossy());
    wait_until(&what, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// Finding 1.15: the engine looked the socket's path up again and again, and one look into a file
/// system that doesn't answer stopped it for ever.
#[test]
fn an_engine_serves_though_what_is_above_the_nodes_socket_is_covered_by_a_mount_that_hangs() {
    let mut machine = Machine::start();
    let device = machine.volume();
    write(&device, 1);
    // A file system whose server never answers; it ends when this is closed.
    let server = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let top = machine.path("top").display().to_string();
    let options = "fd=0,rootmode=40000,user_id=0,group_id=0";
    let mount = ["mount", "-i", "-t", "fuse", "-o", options, "silent", &top];
    machine.inside(&mount, server.try_clone().unwrap().into());
    write(&device, 2);
    machine.restart_node();
    write(&device, 3);
    machine.cli(&["pool", "show", "p"]);
    machine.cli(&["volume", "detach", "p/v"]);
    drop(server);
}

#[test]
fn an_engine_serves_though_its_own_volume_is_mounted_above_the_nodes_socket() {
    let mut machine = Machine::start();
    let device = machine.volume();
    let (name, top) = (device.display().to_string(), machine.path("top").display().to_string());
    machine.inside(&["mkfs.ext4", "-q", &name], Stdio::null());
    machine.inside(&["mount", &name, &top], Stdio::null());
    machine.restart_node();
    // What is in the way now is no run directory; a look at it would have to be answered by itself.
    machine
        .inside(&["sh", "-c", &format!("echo 1 > {top}/file && sync {top}/file")], Stdio::null());
    machine.inside(&["umount", &top], Stdio::null());
    machine.cli(&["volume", "detach", "p/v"]);
}

/// A service manager removes a run directory with its service, and makes it anew.
#[test]
fn an_engine_finds_the_node_in_a_run_directory_that_was_made_anew() {
    let mut machine = Machine::start();
    let device = machine.volume();
    end(machine.node.take(), Signal::KILL);
    fs::remove_dir_all(machine.path("top/run")).unwrap();
    machine.node = Some(start_node(machine.dir.path()));
    write(&device, 1);
    machine.cli(&["volume", "detach", "p/v"]);
}

/// What a served disk is looked at by must not need its path either.
#[test]
fn a_node_serves_though_what_is_above_its_disks_is_covered_by_a_mount_that_hangs() {
    let lab = Lab::up(&LabOptions { nodes: 2, disks: 1, size: "300M", ..LabOptions::default() });
    // The lab's nodes share the machine's mounts: this one gets its own.
    lab.lab(&["kill", "n2"]);
    let config = lab.dir().join("n2/node.toml");
    let netns = lab.status()["netns"].as_str().unwrap().replace("-sw", "-n2");
    let program = etherpool().get_program().to_owned();
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{netns}"));
    command.args(["unshare", "--mount", "--propagation", "private", "--"]).arg(program);
    command.args(["node", "--config"]).arg(&config);
    let mut node = quiet(command, &lab.dir().join("log/own-node.log")).spawn().unwrap();
    let socket = lab.dir().join("n2/run");
    let is_online = || {
        let status = etherpool().args(["target", "status", "--socket"]).arg(&socket).output();
        let status = status.unwrap();
        status.status.success() && String::from_utf8_lossy(&status.stdout).contains("online")
    };
    wait_until("the node serves its disk", is_online);
    lab.wait_clean();
    let server = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let (pid, disks) = (node.id().to_string(), lab.dir().join("disks"));
    let mounted = Command::new("nsenter")
        .args(["--mount", "--target", &pid, "--", "mount", "-i", "-t", "fuse", "-o"])
        .args(["fd=0,rootmode=40000,user_id=0,group_id=0", "silent"])
        .arg(&disks)
        .stdin(Stdio::from(server.try_clone().unwrap()))
        .status();
    assert!(mounted.unwrap().success());
    // Some looks later.
    for _ in 0..6 {
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert!(is_online());
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let waiting: Vec<_> = threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("wchan")).ok())
        .filter(|wait| wait.contains("fuse"))
        .collect();
    assert!(waiting.is_empty(), "threads wait for what covers the disks: {waiting:?}");
    let mut file = File::create(lab.mount().join("more")).unwrap();
    file.write_all(&[7; 1 << 20]).unwrap();
    file.sync_all().unwrap();
    assert_eq!(lab.pool_state(), "online");
    drop((file, server));
    // The lab ends it after the supervisor.
    drop(lab);
    node.wait().unwrap();
}

/// What the kernel is asked for by path, in full: nothing but descriptors by their number.
#[test]
fn engine_and_node_resolve_no_path_while_they_serve() {
    if Command::new("strace").arg("--version").output().is_err() {
        eprintln!("SKIPPED, and nothing was checked: strace is not installed (scripts/setup)");
        return;
    }
    let lab = Lab::up(&LabOptions { nodes: 3, disks: 1, size: "400M", ..LabOptions::default() });
    let status = lab.status();
    let engine = status["supervisor"]["engine"].as_i64().unwrap();
    let node = status["nodes"][0]["pid"].as_i64().unwrap();
    let traces: Vec<_> = [("engine", engine), ("node", node)]
        .into_iter()
        .map(|(who, pid)| Trace::start(who, pid, &lab.dir().join(format!("log/{who}.strace"))))
        .collect();
    let load = Load::start(&lab.mount().join("load"), 512, 7);
    load.wait_for_promises();
    lab.lab(&["kill", "n3"]);
    wait_until("the pool says that it is degraded", || lab.pool_state() == "degraded");
    load.wait_for_promises();
    lab.lab(&["start", "n3"]);
    lab.wait_clean();
    lab.lab(&["cut", "n1"]);
    wait_until("the pool says that it is degraded", || lab.pool_state() == "degraded");
    lab.lab(&["join", "n1"]);
    lab.wait_clean();
    wait_until("status says that all is well", || {
        lab.cli_output(&["status", "-x"]).status.success()
    });
    load.stop().verify();
    for trace in traces {
        trace.check();
    }
}

struct Trace {
    who: &'static str,
    strace: Child,
    file: PathBuf,
}

impl Trace {
    fn start(who: &'static str, pid: i64, file: &Path) -> Trace {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "trace=%file,connect,bind,sendto,sendmsg"]);
        // Long enough for any path here.
        command.args(["-s", "256", "-e", "signal=none", "-o"]).arg(file);
        let strace = command.args(["-p", &pid.to_string()]).spawn().unwrap();
        wait_until("strace has attached", || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.lines().any(|line| {
                line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0")
            })
        });
        Trace { who, strace, file: file.to_owned() }
    }

    fn check(mut self) {
        kill_process(Pid::from_child(&self.strace), Signal::INT).unwrap();
        self.strace.wait().unwrap();
        let trace = fs::read_to_string(&self.file).unwrap();
        let resolved: Vec<_> = trace.lines().filter(|line| resolves_a_path(line)).collect();
        assert!(resolved.is_empty(), "the {} resolves paths:\n{}", self.who, resolved.join("\n"));
    }
}

/// Whether a line of strace's has a path that is looked up from the root or the working directory.
/// Allowed are: `/proc/self/fd/N`, which stands for an open descriptor and waits for nobody, and the
/// contents of the node's own symbolic links, which are only written down.
fn resolves_a_path(line: &str) -> bool {
    let call = line.split_once(' ').map_or(line, |(_pid, call)| call.trim_start());
    if call.starts_with("symlinkat(") {
        return false;
    }
    // Of what is sent only the address is resolved; a report that is sent names paths too.
    let call = match call.starts_with("send") {
        true => call.rfind("sun_path=").map_or("", |at| &call[at..]),
        false => call,
    };
    let absolute =
        call.match_indices("\"/").any(|(at, _)| !call[at + 1..].starts_with("/proc/self/fd/"));
    // An empty path stands for the descriptor before it.
    let relative = call.contains("AT_FDCWD") && !call.contains("AT_FDCWD, \"/proc/self/fd/");
    absolute || relative
}

#[test]
fn resolved_paths_are_told_from_descriptors() {
    for line in [
        "12 openat(AT_FDCWD, \"/run/netns/x\", O_RDONLY) = 3",
        "12 statx(AT_FDCWD, \"file\", 0) = 0",
        "12 connect(3, {sa_family=AF_UNIX, sun_path=\"/run/node.sock\"}, 16) = 0",
        "12 readlink(\"/tmp\", 0x1, 1023) = -1 EINVAL",
        "12 sendto(3, \"READY=1\", 7, 0, {sa_family=AF_UNIX, sun_path=\"/run/x\"}, 16) = 7",
    ] {
        assert!(resolves_a_path(line), "{line}");
    }
    for line in [
        "12 openat2(4, \"run\", {flags=O_PATH, resolve=RESOLVE_NO_XDEV}, 24) = 5",
        "12 connect(3, {sa_family=AF_UNIX, sun_path=\"/proc/self/fd/5\"}, 18) = 0",
        "12 symlinkat(\"/dev/sdb\", 7, \"disk\") = 0",
        "12 statx(5, \"\", AT_EMPTY_PATH, STATX_ALL, {}) = 0",
        "12 sendto(3, \"{\"device\":\"/dev/sda\"}\"..., 1452, MSG_NOSIGNAL, NULL, 0) = 1452",
    ] {
        assert!(!resolves_a_path(line), "{line}");
    }
}
