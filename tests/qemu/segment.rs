//! A lab's segment with a boot server beside the supervisor, for tests in which machines boot.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use blackbox::{Lab, LabOptions, etherpool};
use tempfile::TempDir;

use super::vm::{self, Switch};

pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// What ends a test that hangs: emulated machines are slow, three beside other tests more so.
const LIMIT: Duration = Duration::from_secs(1800);

/// The lab, and the boot server's machine.
pub struct Segment {
    pub machine: Switch,
    pub lab: Lab,
    /// The namespace with the lab's bridge, `br0`.
    pub lab_netns: String,
    dir: TempDir,
    server: Option<Child>,
    end: Instant,
}

impl Segment {
    /// With a boot server that gives out addresses, and isn't started yet.
    pub fn new(options: &LabOptions) -> Segment {
        let lab = Lab::up(options);
        vm::require_qemu();
        vm::sweep();
        let lab_netns = lab.status()["netns"].as_str().unwrap().to_owned();
        let machine = Switch::new("netboot");
        let cable = ["link", "add", "pboot0", "type", "veth", "peer", "name", "boot0", "netns"];
        vm::ip(&[&["-n", &lab_netns][..], &cable, &[machine.netns()]].concat());
        vm::ip(&["-n", &lab_netns, "link", "set", "pboot0", "master", "br0", "up"]);
        vm::ip(&["-n", machine.netns(), "addr", "add", &format!("{SERVER}/24"), "dev", "boot0"]);
        vm::ip(&["-n", machine.netns(), "link", "set", "boot0", "up"]);
        let dir =
            tempfile::Builder::new().prefix("etherpool-netboot").tempdir_in("/var/tmp").unwrap();
        let config = "[dhcp]\nrange = [\"10.0.0.100\", \"10.0.0.199\"]\nlease = \"1h\"\n\n\
            [[static]]\nmac = \"02:00:00:00:00:07\"\naddress = \"10.0.0.7\"\nname = \"pc7\"\n";
        std::fs::write(dir.path().join("boot.toml"), config).unwrap();
        Segment { machine, lab, lab_netns, dir, server: None, end: Instant::now() + LIMIT }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `etherpool ARGS --state-dir`, of the machine with the supervisor.
    pub fn cli(&self, words: &[&str]) -> String {
        let state = self.path("state").display().to_string();
        self.lab.cli(&[words, &["--state-dir", &state]].concat())
    }

    pub fn start_server(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = inside(self.machine.netns());
        command.arg(etherpool().get_program()).args(["boot", "serve", "-i", "boot0", "--config"]);
        command.arg(self.path("boot.toml")).arg("--state-dir").arg(self.path("state"));
        let begun = self.log().matches("serving machines").count();
        self.server = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        self.until("the boot server serves", |all| {
            all.log().matches("serving machines").count() > begun
        });
    }

    /// Without goodbye.
    pub fn kill_server(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn until(&self, what: &str, mut done: impl FnMut(&Segment) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(Instant::now() < self.end, "it took too long until {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
        println!("{what}: after {:.1} s", begun.elapsed().as_secs_f64());
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- boot server\n{}", self.log());
        }
    }
}

/// A command in a namespace, which dies with the test.
pub fn inside(netns: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns, "setpriv", "--pdeathsig", "KILL"]);
    command.stdin(Stdio::null());
    command
}
