//! A lab of the test's own.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use os::net::InterfaceSpec;
use serde_json::Value;
use tempfile::TempDir;

/// What an engine's environment names the place by where it stands still.
pub(crate) const STOP_VARIABLE: &str = "ETHERPOOL_STOP_AT";

/// The pool and volume that `lab up` makes.
pub const VOLUME: &str = "cluster/hyperspace";

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// What differs from `lab up`'s defaults.
pub struct LabOptions {
    /// Machines.
    pub nodes: u16,
    /// Disks of each.
    pub disks: u8,
    /// Size of each disk, or of each node's disks.
    pub size: &'static str,
    /// Largest Ethernet payload.
    pub mtu: u32,
    /// What machines and supervisor demand of each other.
    pub security: &'static str,
    /// No pool.
    pub bare: bool,
}

impl Default for LabOptions {
    fn default() -> LabOptions {
        LabOptions { nodes: 3, disks: 2, size: "1G", mtu: 9000, security: "encrypt", bare: false }
    }
}

/// A running lab; everything of it is removed when it is dropped.
pub struct Lab {
    dir: TempDir,
    ftp_port: u16,
    security: &'static str,
    /// What its commands are, and the processes that they start.
    program: PathBuf,
}

/// Says loudly why a black-box test can't run here, instead of passing quietly.
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "black-box tests make network namespaces, mounts and loop devices: run them as root (sudo make test)"
    );
}

/// A port that nobody listens on. Tests of one run follow each other, and a port may linger in TIME_WAIT; those of a process
/// that runs beside them, with a number that is so many times 500 away, have the same ones.
fn free_port() -> u16 {
    let mut ports = (0..500 * 16).map(|_| {
        let offset = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        22000 + ((std::process::id() % 500) as u16 * 16 + offset) % (500 * 16)
    });
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    ports.find(is_free).expect("a free port")
}

impl Lab {
    /// `lab up` with these options.
    pub fn up(options: &LabOptions) -> Lab {
        Lab::up_by(&program(), options)
    }

    /// The same by another program than the one under test.
    pub fn up_by(program: &Path, options: &LabOptions) -> Lab {
        require_root();
        let ftp_port = free_port();
        let dir = tempfile::Builder::new()
            .prefix("etherpool-lab")
            .tempdir()
            .expect("temporary directory");
        let lab = Lab { dir, ftp_port, security: options.security, program: program.to_owned() };
        let (nodes, disks, mtu, port) = (
            options.nodes.to_string(),
            options.disks.to_string(),
            options.mtu.to_string(),
            ftp_port.to_string(),
        );
        let mut args = vec![
            "up",
            "--nodes",
            &nodes,
            "--disks",
            &disks,
            "--size",
            options.size,
            "--mtu",
            &mtu,
            "--ftp-port",
            &port,
            "--security",
            options.security,
        ];
        if options.bare {
            args.push("--bare");
        }
        success(&args, run(lab.lab_command(&args)));
        lab
    }

    /// From now on its commands are this program, and so are the processes that they start.
    pub fn go_on_by(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// `etherpool lab ARGS`; fails the test if the command fails.
    pub fn lab(&self, args: &[&str]) -> String {
        success(args, self.lab_output(args))
    }

    /// What machines and supervisor demand of each other.
    pub fn security(&self) -> &'static str {
        self.security
    }

    /// Lets a node read its configuration again, by which only those with these keys, and who joined, may open sessions.
    pub fn let_in(&self, node: &str, keys: &[&str]) {
        let file = self.dir().join(node).join("node.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("supervisors = "));
        // Above what belongs to exports.
        let lines = lines.map(|line| match line.starts_with("security = ") {
            true => format!("{line}\nsupervisors = {keys:?}\n"),
            false => format!("{line}\n"),
        });
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        self.reload(node);
    }

    /// Has a node read its configuration again.
    pub fn reload(&self, node: &str) {
        self.signal(node, "-HUP");
    }

    /// Stops a node or the supervisor as systemd does, and waits until it is gone.
    pub fn stop(&self, who: &str) {
        let pid = self.signal(who, "-TERM");
        let is_there = || std::fs::exists(Path::new("/proc").join(&pid)).unwrap();
        crate::wait_until(&format!("{who} has ended"), || !is_there());
    }

    /// The process of a node or of the supervisor.
    pub fn pid(&self, who: &str) -> String {
        let status = self.status();
        let mut nodes = status["nodes"].as_array().unwrap().iter();
        let one = match who {
            "supervisor" => &status["supervisor"],
            _ => nodes.find(|one| one["name"] == who).unwrap(),
        };
        one["pid"].to_string()
    }

    fn signal(&self, who: &str, signal: &str) -> String {
        let pid = self.pid(who);
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        pid
    }

    /// `etherpool lab ARGS`, however it ends.
    pub fn lab_output(&self, args: &[&str]) -> Output {
        run(self.lab_command(args))
    }

    fn lab_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("lab").arg("--dir").arg(self.dir.path()).args(args);
        command
    }

    /// Starts the supervisor with an engine that stands still at a named place (docs/engine.md, 21), until it is started
    /// again without.
    pub fn start_supervisor_stopping_at(&self, place: &str) {
        let args = ["start", "supervisor"];
        let mut command = self.lab_command(&args);
        command.env(STOP_VARIABLE, place);
        success(&args, run(command));
    }

    /// `etherpool ARGS` against the lab's supervisor; fails the test if the command fails.
    pub fn cli(&self, args: &[&str]) -> String {
        success(args, self.cli_output(args))
    }

    /// `etherpool ARGS`, however it ends.
    pub fn cli_output(&self, args: &[&str]) -> Output {
        run(self.cli_command(args))
    }

    /// `etherpool ARGS`, to be run.
    pub fn cli_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--socket").arg(self.dir.path().join("supervisor/run/api.sock")).args(args);
        command
    }

    /// Exit code of `etherpool ARGS`, and all that it says.
    pub fn said(&self, args: &[&str]) -> (i32, String) {
        let output = self.cli_output(args);
        (output.status.code().unwrap_or(-1), text_of(&output))
    }

    /// The same for a command that only shows: what it shows needn't be healthy.
    pub fn show(&self, args: &[&str]) -> String {
        shown(args, self.cli_output(args))
    }

    /// The answer of a `--json` command.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        let text = self.show(&args);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// `lab status --json`.
    pub fn status(&self) -> Value {
        let args = ["status", "--json"];
        let text = shown(&args, self.lab_output(&args));
        serde_json::from_str(&text).expect("lab status is JSON")
    }

    /// A further machine's cable to the lab's switch, by the name of its interface.
    pub fn plug_in(&self, name: &str) -> InterfaceSpec {
        let netns = self.status()["netns"].as_str().unwrap().to_owned();
        ip(&netns, &format!("link add {name} mtu 9000 type veth peer name p{name} mtu 9000"));
        ip(&netns, &format!("link set p{name} master br0 up"));
        ip(&netns, &format!("link set {name} up"));
        InterfaceSpec { name: name.to_owned(), netns: Some(netns) }
    }

    /// Has the supervisor begin anew with this besides in its configuration, and waits until it serves.
    pub fn configure_supervisor(&self, own: &str) {
        std::fs::write(self.dir().join("supervisor/own.toml"), own).unwrap();
        self.lab(&["kill", "supervisor"]);
        self.lab(&["start", "supervisor"]);
        self.wait_served();
    }

    /// The pool's report.
    pub fn pool(&self) -> Value {
        self.find("pool", "pools", "cluster")
    }

    /// The volume's report.
    pub fn volume(&self) -> Value {
        self.find("volume", "volumes", "hyperspace")
    }

    fn find(&self, what: &str, list: &str, name: &str) -> Value {
        let answer = self.json(&[what, "list"]);
        let items = answer
            .as_array()
            .cloned()
            .or_else(|| answer[list].as_array().cloned())
            .unwrap_or_default();
        items
            .into_iter()
            .find(|item| item["name"] == name)
            .unwrap_or_else(|| panic!("no {what} {name} in {answer}"))
    }

    /// The name of the pool's state; `unreachable` while there is no answer.
    pub fn pool_state(&self) -> String {
        let output = self.cli_output(&["pool", "list", "--json"]);
        let Ok(answer) = serde_json::from_slice::<Value>(&output.stdout) else {
            return "unreachable".into();
        };
        let items =
            answer.as_array().or_else(|| answer["pools"].as_array()).cloned().unwrap_or_default();
        items
            .iter()
            .find(|item| item["name"] == "cluster")
            .map_or("absent".into(), |item| state_name(&item["state"]))
    }

    /// Waits until so many disks are present.
    pub fn wait_for_disks(&self, count: usize) {
        crate::wait_until("the disks are present", || {
            self.json(&["disk", "list"]).as_array().map_or(0, Vec::len) == count
        });
    }

    /// Makes the volume, with two copies, and mounts it.
    pub fn mount_volume(&self) {
        self.cli(&["volume", "create", VOLUME, "--size", "128M", "--layout", "mirror:2"]);
        self.cli(&["volume", "mkfs", VOLUME, "--yes"]);
        std::fs::create_dir_all(self.mount()).unwrap();
        self.cli(&["volume", "mount", VOLUME, self.mount().to_str().unwrap()]);
    }

    /// Whether it is mounted, by the supervisor's word, which may not answer yet: what a dead engine left mounted is
    /// there for a moment more.
    pub fn is_mounted(&self) -> bool {
        self.service_is(|one| state_name(&one["mount"]) == "on")
    }

    fn service_is(&self, so: impl Fn(&Value) -> bool) -> bool {
        let output = self.cli_output(&["status", "--json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let mut services = answer["services"].as_array().into_iter().flatten();
        services.any(|one| one["volume"] == VOLUME && so(one))
    }

    /// Waits until the pool has so many votes, all is whole, and any one failure may come.
    pub fn wait_until_one_may_go(&self, votes: u64) {
        crate::wait_until("one may go", || {
            let pool = self.json(&["pool", "show", "cluster"]);
            let volume = &pool["volumes"][0];
            crate::votes(&pool) == (votes, votes)
                && pool["survives"] == 1
                && pool["jobs"].as_array().is_some_and(Vec::is_empty)
                && volume["degraded"] == false
                && volume["dirty_bytes"] == 0
        });
    }

    /// Waits until every copy of everything is right again.
    pub fn wait_clean(&self) {
        crate::wait_until("the pool is clean again", || {
            self.pool_state() == "online" && self.volume()["dirty_bytes"] == 0
        });
    }

    /// Waits until the file system is mounted and FTP greets.
    pub fn wait_served(&self) {
        crate::wait_until("the file system is served", || {
            let is_on =
                |one: &Value| ["mount", "ftp"].iter().all(|way| state_name(&one[way]) == "on");
            let is_on = self.service_is(is_on);
            let lab = self.status();
            is_on && lab["mount"].is_string() && lab["ftp"].is_string()
        });
    }

    /// Where the volume is mounted.
    pub fn mount(&self) -> PathBuf {
        self.dir.path().join("hyperspace")
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The file under a disk.
    pub fn disk_file(&self, node: &str, disk: usize) -> PathBuf {
        self.dir.path().join("disks").join(format!("{node}d{disk}.img"))
    }

    /// Port of the FTP server on 127.0.0.1.
    pub fn ftp_port(&self) -> u16 {
        self.ftp_port
    }

    /// The log of a node or the supervisor so far.
    pub fn log(&self, who: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("log").join(format!("{who}.log")))
            .unwrap_or_default()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for who in ["supervisor", "n1", "n2", "n3"] {
                let log = self.log(who);
                let tail: Vec<_> = log.lines().rev().take(40).collect();
                eprintln!("--- log of {who}");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
        let output = self.lab_output(&["down", "--wipe"]);
        if !output.status.success() {
            let message = format!("lab down: {}", String::from_utf8_lossy(&output.stderr));
            assert!(std::thread::panicking(), "{message}");
            eprintln!("{message}");
        }
    }
}

/// The name of a state, also as the former version says it.
fn state_name(state: &Value) -> String {
    match state {
        Value::String(name) => name.clone(),
        Value::Object(fields) => fields
            .get("is")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .or_else(|| fields.keys().next().cloned())
            .unwrap_or_default(),
        other => other.to_string(),
    }
}

/// All that a command said.
pub fn text_of(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

/// The key of the machine with this state directory, as people ask for it.
pub fn key_of(state_dir: &Path) -> String {
    let output = etherpool().args(["key", "show", "--state-dir"]).arg(state_dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// `ip` in a namespace.
pub(crate) fn ip(netns: &str, words: &str) {
    let output = Command::new("ip").args(["-n", netns]).args(words.split(' ')).output();
    let output = output.expect("ip (iproute2)");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `etherpool ARGS --state-dir` of a boot server whose files are in `dir`, on a machine without a supervisor.
pub fn alone(args: &[&str], dir: &Path) -> Output {
    let mut command = etherpool();
    command.arg("--socket").arg(dir.join("none.sock"));
    command.args(args).arg("--state-dir").arg(dir.join("state"));
    run(command)
}

/// The program under test.
pub fn etherpool() -> Command {
    Command::new(program())
}

/// Where the program under test is.
pub fn program() -> PathBuf {
    let program = std::env::var_os("ETHERPOOL_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/etherpool"),
        PathBuf::from,
    );
    assert!(program.exists(), "no program at {}: `make build` first", program.display());
    program
}

/// The program of the former version, if there is one (scripts/build-former).
pub fn former_program() -> Option<PathBuf> {
    let program = std::env::var_os("ETHERPOOL_FORMER_BIN").filter(|path| !path.is_empty());
    let program = PathBuf::from(program?);
    assert!(program.exists(), "no former program at {}", program.display());
    Some(program)
}

/// A command that asks nobody, and says what it says in a log.
pub fn quiet(mut command: Command, log: &Path) -> Command {
    let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
    command
}

fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the program can be run")
}

/// The output of a command that works; what it shows needn't be healthy (5).
fn shown(args: &[&str], output: Output) -> String {
    match output.status.code() {
        Some(5) => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => success(args, output),
    }
}

fn success(args: &[&str], output: Output) -> String {
    let status = output.status;
    assert!(status.success(), "etherpool {args:?} ended with {status}:\n{}", text_of(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
