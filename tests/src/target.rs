//! A target of the test's own: `etherpool target` behind a cable, with files for disks.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aoe_wire::ShelfSlot;
use os::net::InterfaceSpec;
use tempfile::TempDir;

use crate::frames::Client;
use crate::{etherpool, require_root, wait_until};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Two namespaces with a cable between them, `v0` at both ends; gone when it is dropped.
pub struct Wire {
    names: [String; 2],
}

impl Wire {
    /// A cable for frames of this size.
    pub fn new(mtu: u32) -> Wire {
        require_root();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let names = ["c", "t"].map(|end| format!("ept{}-{number}{end}", std::process::id()));
        let wire = Wire { names };
        let [client, target] = &wire.names;
        ip(&format!("netns add {client}"));
        ip(&format!("netns add {target}"));
        wire.lay("v0", mtu);
        wire
    }

    /// The client's end.
    pub fn client(&self) -> InterfaceSpec {
        InterfaceSpec { name: "v0".to_owned(), netns: Some(self.names[0].clone()) }
    }

    /// The target's end.
    pub fn target(&self) -> InterfaceSpec {
        InterfaceSpec { name: "v0".to_owned(), netns: Some(self.names[1].clone()) }
    }

    /// `ip` in the target's namespace.
    pub fn ip(&self, words: &str) {
        ip(&format!("-n {} {words}", self.names[1]));
    }

    /// Cuts the cable: no interface at either end.
    pub fn unplug(&self) {
        self.ip("link del v0");
    }

    /// Lays it again.
    pub fn plug_in(&self, mtu: u32) {
        self.lay("v0", mtu);
    }

    /// Lays another, with this name at both ends.
    pub fn lay(&self, name: &str, mtu: u32) {
        let [client, target] = &self.names;
        ip(&format!(
            "-n {client} link add {name} mtu {mtu} type veth peer name {name} mtu {mtu} netns {target}"
        ));
        for netns in [client, target] {
            ip(&format!("-n {netns} link set {name} up"));
        }
    }

    /// The client's end of a further cable.
    pub fn client_on(&self, name: &str) -> InterfaceSpec {
        InterfaceSpec { name: name.to_owned(), netns: Some(self.names[0].clone()) }
    }

    /// A command in the client's namespace.
    pub fn client_command(&self, program: &str) -> Command {
        command_in(&self.names[0], program)
    }

    /// A command in the target's namespace, that doesn't outlive the test.
    pub fn target_command(&self, program: &Path) -> Command {
        let mut command = command_in(&self.names[1], "setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn command_in(netns: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns, program]).stdin(Stdio::null());
    command
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().expect("ip (iproute2)");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A target process; killed when it is dropped.
pub struct Target {
    wire: Wire,
    dir: TempDir,
    process: Option<Child>,
}

impl Target {
    /// A target that doesn't run yet, with files in a directory of its own on a disk.
    pub fn new(mtu: u32) -> Target {
        let wire = Wire::new(mtu);
        let dir = tempfile::Builder::new().prefix("etherpool-target").tempdir_in("/var/tmp");
        Target { wire, dir: dir.expect("temporary directory"), process: None }
    }

    /// A running one, with what `exports` says in the configuration.
    pub fn start(mtu: u32, exports: impl FnOnce(&Target) -> String) -> Target {
        let mut target = Target::new(mtu);
        target.configure(&exports(&target));
        target.run();
        target
    }

    /// The cable.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// A path in the target's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A sparse file in the target's directory.
    pub fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).and_then(|file| file.set_len(bytes)).expect("a file");
        path
    }

    /// An `[[export]]` of a new sparse file, with more lines.
    pub fn export(&self, address: &str, bytes: u64, more: &str) -> String {
        export_of(address, &self.file(address, bytes), more)
    }

    /// Writes the configuration; a running target isn't told.
    pub fn configure(&self, exports: &str) {
        let head = format!(
            "name = \"target\"\ninterfaces = [\"v0\"]\nstate-dir = {:?}\nrun-dir = {:?}\n\n",
            self.path("state"),
            self.path("run"),
        );
        std::fs::write(self.path("target.toml"), head + exports).expect("configuration");
    }

    /// Starts the process.
    pub fn run(&mut self) {
        self.run_with(&[], &[]);
    }

    /// Starts it by another program, which becomes it.
    pub fn run_by(&mut self, program: &[&str]) {
        self.run_with(program, &[]);
    }

    fn run_with(&mut self, by: &[&str], options: &[&str]) {
        assert!(self.process.is_none(), "it runs");
        let log = File::options().create(true).append(true).open(self.path("log")).expect("log");
        let etherpool = etherpool();
        let mut words = by.iter().map(OsStr::new).chain([etherpool.get_program()]);
        let mut command = self.wire.target_command(Path::new(words.next().expect("a program")));
        command.args(words);
        command.args(["target", "--config"]).arg(self.path("target.toml")).args(options);
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        self.process = Some(command.spawn().expect("the target"));
    }

    /// Starts another process in its place, while this one runs; returns the former.
    pub fn take_over(&mut self) -> Child {
        let former = self.process.take().expect("it runs");
        self.run_with(&[], &["--replace"]);
        former
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// SIGKILL, and no word.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        assert_eq!(process.try_wait().expect("wait"), None, "it ended by itself: {}", self.log());
        process.kill().expect("kill");
        process.wait().expect("wait");
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().expect("wait").is_none())
    }

    /// SIGHUP.
    pub fn reload(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("SIGHUP");
    }

    /// SIGTERM; waits for the end.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("SIGTERM");
        let status = self.process.take().expect("it runs").wait().expect("wait");
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// A client of an export, once that answers.
    pub fn client(&self, address: &str) -> Client {
        let address: ShelfSlot = address.parse().expect("an address");
        Client::connect(&self.wire.client(), address).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Whether an export answers within a moment.
    pub fn answers(&self, address: &str) -> bool {
        Client::probe(&self.wire.client(), address.parse().expect("an address"))
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until it has logged all of these on one line.
    pub fn wait_for_log(&self, words: &[&str]) -> String {
        let find = || {
            let log = self.log();
            let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
            line.map(str::to_owned)
        };
        wait_until(&format!("the log says {words:?}"), || find().is_some());
        find().expect("it was there")
    }

    /// A line to its control socket; the line that it answers.
    pub fn ask(&self, line: &str) -> std::io::Result<String> {
        let mut socket = UnixStream::connect(self.path("run/node-control.sock"))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        writeln!(socket, "{line}")?;
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer)?;
        Ok(answer)
    }

    /// Memory in use, KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the process's status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the target");
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            lines.iter().skip(lines.len().saturating_sub(60)).for_each(|line| eprintln!("{line}"));
            eprintln!("--- what it counted\n{}", self.ask(r#"{"op":"stats"}"#).unwrap_or_default());
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// An `[[export]]` of a path, with more lines.
pub fn export_of(address: &str, path: &Path, more: &str) -> String {
    format!("[[export]]\naddress = \"{address}\"\npath = {path:?}\n{more}\n")
}

/// Waits for what takes a moment but less than tests have.
pub fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}
