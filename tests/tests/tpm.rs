//! A node with a TPM: its key is sealed, by an emulated TPM, and of use to no other machine.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use blackbox::{alone, etherpool, require_root};
use serde_json::Value;
use tempfile::TempDir;

#[path = "../qemu/vm.rs"]
#[allow(dead_code)]
mod vm;

use vm::Switch;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 55, 0, 1);
const UUID: &str = "5a1e77e5-0000-4000-8000-0000000000e9";
/// From start to end, on the slowest machine that emulates one.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// A boot server, and the segment that it serves.
struct Segment {
    switch: Switch,
    dir: TempDir,
    server: Option<Child>,
    end: Instant,
}

impl Segment {
    fn new() -> Segment {
        let switch = Switch::new("tpm");
        switch.bridge("br0", 1500);
        vm::ip(&["-n", switch.netns(), "addr", "add", &format!("{SERVER}/24"), "dev", "br0"]);
        vm::ip(&["-n", switch.netns(), "tuntap", "add", "tap0", "mode", "tap"]);
        vm::ip(&["-n", switch.netns(), "link", "set", "tap0", "master", "br0", "up"]);
        let dir = tempfile::Builder::new().prefix("etherpool-tpm").tempdir_in("/var/tmp").unwrap();
        let config = "[dhcp]\nrange = [\"10.55.0.100\", \"10.55.0.199\"]\nlease = \"1h\"\n";
        std::fs::write(dir.path().join("boot.toml"), config).unwrap();
        Segment { switch, dir, server: None, end: Instant::now() + LIMIT }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Output {
        alone(words, self.dir.path())
    }

    fn cli(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Of the compressed kernel: the other one, which QEMU starts in its own way, doesn't find the tables here by which a TPM is
    /// known.
    fn build_image(&self) {
        let parts = vm::parts_of_image("vmlinuz-").map(|path| path.display().to_string());
        let [kernel, modules] = &parts;
        let words = ["boot", "image", "build", "--level", "1"];
        self.cli(&[&words[..], &["--kernel-image", kernel, "--modules-dir", modules]].concat());
    }

    fn start_server(&mut self) {
        let log = File::create(self.path("log")).unwrap();
        let mut command = inside(&self.switch);
        command.arg(etherpool().get_program()).args(["boot", "serve", "-i", "br0", "--config"]);
        command.arg(self.path("boot.toml")).arg("--state-dir").arg(self.path("state"));
        self.server = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(Instant::now() < self.end, "it took too long until {what}");
            std::thread::sleep(Duration::from_millis(200));
        }
        println!("{what}: after {:.1} s", begun.elapsed().as_secs_f64());
    }

    /// What the node has said, as long as it waits for somebody.
    fn waiting(&self) -> Option<Value> {
        let all: Value = serde_json::from_str(&self.cli(&["node", "pending", "--json"])).unwrap();
        all.as_array().unwrap().first().cloned()
    }

    /// All that the boot server keeps, but images.
    fn kept(&self) -> Vec<(PathBuf, String)> {
        let state = self.path("state");
        let directories = [state.clone(), state.join("machines")];
        let files = directories.iter().flat_map(|directory| {
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path())
        });
        let files = files.filter(|path| path.is_file());
        files
            .map(|path| {
                (path.clone(), String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned())
            })
            .collect()
    }

    fn switch_on(&self, tpm: &str) -> Machine {
        let tpm = self.path(tpm);
        std::fs::create_dir_all(&tpm).unwrap();
        let socket = tpm.join("socket");
        let _ = std::fs::remove_file(&socket);
        let mut emulator = inside(&self.switch);
        emulator.args(["swtpm", "socket", "--tpm2", "--terminate", "--tpmstate"]);
        emulator.arg(format!("dir={}", tpm.display()));
        emulator.arg("--ctrl").arg(format!("type=unixio,path={}", socket.display()));
        let emulator = Ended(emulator.stdout(Stdio::null()).spawn().unwrap());
        self.until("the TPM is there", || socket.exists());
        let console = self.path("console");
        let _ = std::fs::remove_file(&console);
        let mut command = inside(&self.switch);
        let options = format!(
            "qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu qemu64 -smp 2 -m 512 -nodefaults -display none \
             -no-reboot -device virtio-rng-pci -uuid {UUID} -netdev tap,id=n0,ifname=tap0,script=no,downscript=no \
             -device virtio-net-pci,netdev=n0,mac=52:54:00:e7:55:01,romfile= \
             -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-tis,tpmdev=tpm0"
        );
        command.args(options.split_whitespace());
        command.arg("-chardev").arg(format!("socket,id=tpm,path={}", socket.display()));
        command.arg("-serial").arg(format!("file:{}", console.display()));
        let image = self.path("state/images/node");
        command.arg("-kernel").arg(image.join("vmlinuz"));
        command.arg("-initrd").arg(image.join("initrd.img"));
        command.arg("-append").arg(format!(
            "console=ttyS0 quiet panic=-1 no_timer_check random.trust_cpu=on etherpool.boot=http://{SERVER}:8069"
        ));
        let qemu = Ended(command.stdout(Stdio::null()).spawn().expect("QEMU can be started"));
        Machine { console, _qemu: qemu, _emulator: emulator }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            drop(Ended(server));
        }
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.path("log")).unwrap_or_default());
            eprintln!("--- console\n{}", text(&self.path("console")));
        }
    }
}

/// A machine, and the chip in it. Their power is cut when they are dropped.
struct Machine {
    console: PathBuf,
    _qemu: Ended,
    _emulator: Ended,
}

impl Machine {
    /// Whether its node has begun with that key.
    fn runs_by(&self, key: &str) -> bool {
        text(&self.console).contains(&format!("key={key}"))
    }
}

/// A process, which is ended with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn inside(netns: &Switch) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns.netns(), "setpriv", "--pdeathsig", "KILL"]);
    command.stdin(Stdio::null());
    command
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

#[test]
fn a_key_is_sealed_to_the_machine_that_has_it_and_to_no_other() {
    require_root();
    vm::require_qemu();
    vm::sweep();
    let has_emulator = Command::new("swtpm").arg("--version").output().is_ok();
    assert!(has_emulator, "no swtpm: run scripts/setup-qemu as root");
    let mut segment = Segment::new();
    segment.build_image();
    segment.start_server();

    // It shows what its TPM has sealed, and nothing else. Who accepts it keeps that.
    let machine = segment.switch_on("own");
    let mut shown = Value::Null;
    segment.until("the node shows its key", || {
        shown = segment.waiting().unwrap_or_default()["hello"]["identity"].take();
        !shown.is_null()
    });
    let key = shown["public"].as_str().unwrap();
    assert!(shown["kept"]["tpm"]["private"].is_string(), "{}", text(&segment.path("console")));
    segment
        .cli(&["node", "accept", UUID, "--key", key, "--name", "sealed", "--shelf", "7", "--yes"]);
    segment.until("it is who was accepted", || {
        let told = segment.kept().into_iter().find(|(path, _)| path.ends_with("hellos.json"));
        told.is_some_and(|(_, told)| told.replace(" ", "").contains("\"hostname\":\"sealed\""))
    });
    assert!(machine.runs_by(key));
    drop(machine);
    let kept = segment.kept();
    let file = |kept: &[(PathBuf, String)]| {
        let (_, text) =
            kept.iter().find(|(path, _)| path.ends_with(format!("{UUID}.toml"))).unwrap();
        text.clone()
    };
    let accepted = file(&kept);
    assert!(
        accepted.contains("tpm-public = ") && accepted.contains("tpm-private = "),
        "{accepted}"
    );
    for (path, text) in &kept {
        assert!(!text.contains("secret"), "{}: {text}", path.display());
    }

    // What was kept is of no use with another TPM, and whoever looks is told so.
    let machine = segment.switch_on("other");
    segment.until("it says that it isn't that node", || {
        let said = segment.waiting().unwrap_or_default();
        let message = said["hello"]["message"].as_str().unwrap_or_default();
        said["conflict"] == "other-key" && message.contains("sealed to another TPM")
    });
    let said = segment.waiting().unwrap();
    assert_eq!(said["hello"]["phase"], "failed");
    assert!(said["hello"]["hostname"].is_null(), "{said}");
    let other = said["hello"]["identity"]["public"].as_str().unwrap();
    assert!(machine.runs_by(other) && !machine.runs_by(key));
    // Only people accept that, and by its key.
    assert!(!segment.run(&["node", "accept", UUID, "--yes"]).status.success());
    assert_eq!(file(&segment.kept()), accepted);
    drop(machine);

    // With its own it is who it was, after a power cut, too.
    let machine = segment.switch_on("own");
    segment.until("it is who it was", || machine.runs_by(key) && segment.waiting().is_none());
}
