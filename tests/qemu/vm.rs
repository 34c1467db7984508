//! A machine with a stock Debian kernel, emulated by QEMU without the help of KVM, and the Ethernet
//! that connects it with what runs outside.
//!
//! The machine runs one script out of `guest/`. Script and test talk over a serial line, a line at a
//! time: the script says what it has reached (`mark`), the test says when it may go on (`hear`).

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tempfile::TempDir;

const NETNS_PREFIX: &str = "epvm";

/// A network namespace with bridges in it; removed when it is dropped.
pub struct Switch {
    netns: String,
}

/// One of a VM's interfaces: a tap on a bridge.
pub struct Nic<'a> {
    pub bridge: &'a str,
    pub mtu: u32,
}

/// What a VM is made of.
pub struct VmOptions<'a> {
    pub name: &'a str,
    /// The namespace with the bridges.
    pub netns: &'a str,
    pub nics: &'a [Nic<'a>],
    /// File name in `guest/`.
    pub script: &'a str,
    /// More programs for it.
    pub programs: &'a [PathBuf],
    /// `VM_...` variables of the script.
    pub variables: &'a [(&'a str, &'a str)],
    pub memory_mb: u32,
    /// Size of an empty disk, `/dev/vda`.
    pub disk_mb: Option<u64>,
    /// From start to end.
    pub limit: Duration,
}

/// What a machine without disks is made of: its network card has a ROM by which it boots.
pub struct DisklessOptions<'a> {
    pub name: &'a str,
    /// The namespace with the bridge.
    pub netns: &'a str,
    pub nic: Nic<'a>,
    pub mac: &'a str,
    pub memory_mb: u32,
    /// From start to end.
    pub limit: Duration,
}

/// A running VM; killed when it is dropped.
pub struct Vm {
    machine: Machine,
    lines: BufReader<UnixStream>,
    started: Instant,
    end: Instant,
}

/// The client's AoE driver has forgotten a request, a fault of Linux: what hangs then is not what is
/// tested.
#[derive(Debug)]
pub struct DriverHung;

/// What must be undone whenever a VM ends, be it while it starts.
struct Machine {
    name: String,
    netns: String,
    taps: Vec<String>,
    dir: TempDir,
    qemu: Option<Child>,
}

/// A test once more, if it was the client's driver that hung.
pub fn twice_if_driver_hangs(test: impl Fn() -> Result<(), DriverHung>) {
    if test().is_err() {
        println!("the client's AoE driver forgot a request, a fault of Linux: once more");
        test().expect("the driver hung twice");
    }
}

impl Switch {
    /// Makes a namespace, whose name says which process made it.
    pub fn new(name: &str) -> Switch {
        let netns = format!("{NETNS_PREFIX}{}-{name}", std::process::id());
        ip(&["netns", "add", &netns]);
        let switch = Switch { netns };
        ip(&["-n", &switch.netns, "link", "set", "lo", "up"]);
        switch
    }

    /// Its name.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// Makes a bridge in it.
    pub fn bridge(&self, bridge: &str, mtu: u32) {
        let mtu = mtu.to_string();
        let kind = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
        let mut args = vec!["-n", &self.netns, "link", "add", bridge, "mtu", &mtu];
        args.extend(kind.split(' '));
        ip(&args);
        ip(&["-n", &self.netns, "link", "set", bridge, "up"]);
    }

    /// Lays a cable from a bridge to another namespace, where its end gets a name.
    pub fn cable(&self, bridge: &str, to: &Switch, name: &str, mtu: u32) {
        let (port, mtu) = (format!("to-{name}"), mtu.to_string());
        let mut args = vec!["-n", &self.netns, "link", "add", &port, "mtu", &mtu, "type", "veth"];
        args.extend(["peer", "name", name, "mtu", &mtu, "netns", &to.netns]);
        ip(&args);
        ip(&["-n", &self.netns, "link", "set", &port, "master", bridge, "up"]);
        ip(&["-n", &to.netns, "link", "set", name, "up"]);
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
    }
}

/// Removes the namespaces of tests that were killed.
pub fn sweep() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix(NETNS_PREFIX).and_then(|rest| rest.split_once('-'));
        if let Some((pid, _)) = maker
            && pid.parse::<u32>().is_ok()
            && !Path::new("/proc").join(pid).exists()
        {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

/// Says loudly what is missing, instead of passing quietly.
pub fn require_qemu() {
    let kernel = std::fs::read_dir(kernel_dir()).is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|e| e.file_name().as_encoded_bytes().starts_with(b"vmlinux-"))
        })
    });
    let found = |program: &str| {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        path.split(':').any(|dir| Path::new(dir).join(program).exists())
    };
    let missing: Vec<_> = ["qemu-system-x86_64", "busybox", "cpio", "depmod", "setpriv"]
        .into_iter()
        .filter(|program| !found(program))
        .collect();
    assert!(
        kernel && missing.is_empty() && Path::new("/dev/net/tun").exists(),
        "tests with stock kernels need QEMU, a kernel in {} and /dev/net/tun (missing programs: {missing:?}): run scripts/setup-qemu as root",
        kernel_dir().display(),
    );
}

impl Vm {
    /// Packs and boots it.
    pub fn start(options: &VmOptions) -> Vm {
        Vm::start_with(options, &[])
    }

    /// The same, with more words for QEMU.
    pub fn start_with(options: &VmOptions, more: &[String]) -> Vm {
        Vm::start_by(options, more, &[])
    }

    /// A machine with a whole Debian, whose systemd runs the script. It has `disk_mb`, and a third disk that is `given`.
    pub fn start_debian(options: &VmOptions, given: &Path) -> Vm {
        let base = beginning(&vm_dir(), "debian-");
        // What is written is QEMU's alone, and gone with it.
        Vm::start_root(options, &drive(&base, "snapshot=on"), given, "aoe")
    }

    /// The same with what GFS2 and DRBD need, and a root of its own, which keeps what is written: it is made where it isn't yet.
    pub fn start_cluster(options: &VmOptions, root: &Path, given: &Path) -> Vm {
        if !root.exists() {
            let mut copy = Command::new("cp");
            copy.arg("--sparse=always").arg(beginning(&vm_dir(), "cluster-")).arg(root);
            assert!(copy.status().expect("cp can be run").success(), "a copy of the Debian");
        }
        Vm::start_root(options, &drive(root, "snapshot=off"), given, "aoe gfs2 dlm drbd")
    }

    fn start_root(options: &VmOptions, root: &[String], given: &Path, modules: &str) -> Vm {
        let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/init-debian");
        let modules = format!(
            "virtio_pci virtio_net virtio_blk virtio_rng crc32c_generic ext4 loop fuse {modules}"
        );
        let variables = [
            ("VM_INIT", init.as_os_str()),
            ("VM_MODULES", modules.as_ref()),
            ("VM_PROGRAMS", "kmod".as_ref()),
        ];
        Vm::start_by(options, &[root, &drive(given, "snapshot=on")].concat(), &variables)
    }

    fn start_by(options: &VmOptions, more: &[String], variables: &[(&str, &OsStr)]) -> Vm {
        let mut machine = Machine::new(options.name, options.netns);
        pack(options, &machine.dir.path().join("initramfs"), variables);
        for (number, nic) in options.nics.iter().enumerate() {
            machine.plug_in(number, nic);
        }
        let mut command = machine.qemu(options);
        command.args(more);
        Vm::spawn(machine, command, options.limit)
    }

    /// Switches on a machine without disks. It goes on when it starts itself anew.
    pub fn switch_on(options: &DisklessOptions) -> Vm {
        let mut machine = Machine::new(options.name, options.netns);
        machine.plug_in(0, &options.nic);
        let mut command = machine.bare(options.memory_mb);
        let (tap, mtu, mac) = (&machine.taps[0], options.nic.mtu, options.mac);
        command.arg("-netdev").arg(format!("tap,id=n0,ifname={tap},script=no,downscript=no"));
        command
            .arg("-device")
            .arg(format!("virtio-net-pci,netdev=n0,mac={mac},host_mtu={mtu},bootindex=1"));
        Vm::spawn(machine, command, options.limit)
    }

    fn spawn(mut machine: Machine, mut command: Command, limit: Duration) -> Vm {
        let started = Instant::now();
        let end = started + limit;
        machine.qemu = Some(command.spawn().expect("QEMU can be started"));
        let lines = BufReader::new(machine.connect(end));
        Vm { machine, lines, started, end }
    }

    /// Waits until the script has reached `word`; what it says until then is printed.
    pub fn wait_for(&mut self, word: &str) -> Result<String, DriverHung> {
        loop {
            let line = self.line(word);
            self.say(&line);
            let (first, rest) = line.split_once(' ').unwrap_or((&line, ""));
            if first == word {
                return Ok(rest.to_owned());
            }
            if first == "DRIVER-HUNG" {
                self.machine.show_output();
                return Err(DriverHung);
            }
            assert!(
                first != "FAIL" && first != "END",
                "{}: {line} before {word}",
                self.machine.name
            );
        }
    }

    /// Types something where the script does what is typed; how that ended, and what it printed.
    pub fn run(&mut self, typed: &str) -> Result<(i32, String), DriverHung> {
        self.tell(&BASE64.encode(typed));
        let did = self.wait_for("DID")?;
        let (status, printed) = did.split_once(' ').unwrap_or((&did, ""));
        let printed = String::from_utf8_lossy(&BASE64.decode(printed).unwrap()).into_owned();
        Ok((status.parse().unwrap(), printed))
    }

    /// Lets the script go on that waits for `word`.
    pub fn tell(&mut self, word: &str) {
        let line = self.lines.get_mut();
        writeln!(line, "{word}").unwrap_or_else(|error| panic!("{}: {error}", self.machine.name));
    }

    /// Waits until the script has ended well, and the machine with it.
    pub fn finish(mut self) -> Result<(), DriverHung> {
        let status = self.wait_for("END")?;
        assert_eq!(status, "0", "{}: its script ended with {status}", self.machine.name);
        Ok(())
    }

    fn line(&mut self, awaited: &str) -> String {
        let left = self.end.saturating_duration_since(Instant::now());
        assert!(
            !left.is_zero(),
            "{} took too long; it hasn't reached {awaited}",
            self.machine.name
        );
        self.lines.get_ref().set_read_timeout(Some(left)).expect("a read timeout");
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => panic!("{} died before it reached {awaited}", self.machine.name),
            Ok(_) => line.trim_end().to_owned(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("{} took too long; it hasn't reached {awaited}", self.machine.name)
            }
            Err(error) => panic!("{}: {error}", self.machine.name),
        }
    }

    fn say(&self, line: &str) {
        println!("[{:6.2} s] {}: {line}", self.started.elapsed().as_secs_f64(), self.machine.name);
    }
}

impl Machine {
    fn new(name: &str, netns: &str) -> Machine {
        let dir = tempfile::Builder::new().prefix("etherpool-vm").tempdir().expect("tempdir");
        Machine {
            name: name.to_owned(),
            netns: netns.to_owned(),
            taps: Vec::new(),
            dir,
            qemu: None,
        }
    }

    fn plug_in(&mut self, number: usize, nic: &Nic) {
        let (tap, mtu) = (format!("tap-{}{number}", self.name), nic.mtu.to_string());
        ip(&["-n", &self.netns, "tuntap", "add", &tap, "mode", "tap"]);
        self.taps.push(tap.clone());
        ip(&["-n", &self.netns, "link", "set", &tap, "mtu", &mtu, "master", nic.bridge, "up"]);
    }

    /// A machine with its two serial lines, and nothing else.
    fn bare(&self, memory_mb: u32) -> Command {
        let dir = self.dir.path();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns]);
        // Should the test be killed, its machines die with it.
        command.args(["setpriv", "--pdeathsig", "KILL"]);
        command.args(["qemu-system-x86_64", "-name", &self.name]);
        // No KVM: it is missing where tests run, or hangs. This kind of machine switches itself off well.
        let machine = "-M q35 -accel tcg,thread=multi -cpu qemu64 -smp 2 -nodefaults -display none -device virtio-rng-pci";
        command.args(machine.split(' ')).args(["-m", &memory_mb.to_string()]);
        command.arg("-serial").arg(format!("file:{}", dir.join("console").display()));
        command
            .arg("-chardev")
            .arg(format!("socket,id=line,path={},server=on,wait=on", dir.join("line").display()));
        command.args(["-serial", "chardev:line"]);
        let output = std::fs::File::create(dir.join("qemu.log")).expect("QEMU's log");
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a descriptor"))
            .stderr(output);
        command
    }

    fn qemu(&self, options: &VmOptions) -> Command {
        let dir = self.dir.path();
        let mut command = self.bare(options.memory_mb);
        command.arg("-no-reboot");
        command.arg("-kernel").arg(kernel()).arg("-initrd").arg(dir.join("initramfs"));
        let mut words = vec![
            "console=ttyS0 panic=-1 quiet no_timer_check net.ifnames=0 random.trust_cpu=on"
                .to_owned(),
            format!("VM_NAME={}", options.name),
        ];
        let mtus: Vec<_> = options.nics.iter().map(|nic| nic.mtu.to_string()).collect();
        words.push(format!("VM_MTUS={}", mtus.join(",")));
        // Leaves it time to boot before and to complain after.
        words.push(format!("VM_SECONDS={}", options.limit.as_secs().saturating_sub(20)));
        words.extend(options.variables.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg("-append").arg(words.join(" "));
        // Of each name its own: machines may be on one switch.
        let of =
            options.name.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        for (number, (tap, nic)) in self.taps.iter().zip(options.nics).enumerate() {
            command
                .arg("-netdev")
                .arg(format!("tap,id=n{number},ifname={tap},script=no,downscript=no"));
            command.arg("-device").arg(format!(
                "virtio-net-pci,netdev=n{number},mac=52:54:00:e7:{of:02x}:{number:02x},host_mtu={},romfile=",
                nic.mtu
            ));
        }
        if let Some(megabytes) = options.disk_mb {
            let image = dir.join("disk");
            std::fs::File::create(&image)
                .and_then(|file| file.set_len(megabytes << 20))
                .expect("disk");
            // What the VM's disk holds is of no interest once the VM is gone.
            let drive = format!("file={},format=raw,if=virtio,cache=unsafe", image.display());
            command.arg("-drive").arg(drive);
        }
        command
    }

    /// QEMU waits with the boot until the test listens, so that no line is lost.
    fn connect(&mut self, end: Instant) -> UnixStream {
        loop {
            if let Ok(stream) = UnixStream::connect(self.dir.path().join("line")) {
                return stream;
            }
            let ended = self.qemu.as_mut().and_then(|qemu| qemu.try_wait().expect("wait"));
            assert!(ended.is_none() && Instant::now() < end, "QEMU doesn't start: {ended:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn show_output(&self) {
        for file in ["qemu.log", "console"] {
            let text = std::fs::read(self.dir.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<_> = text.lines().collect();
            eprintln!("--- {file} of {}, its end", self.name);
            lines.iter().skip(lines.len().saturating_sub(150)).for_each(|line| eprintln!("{line}"));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut qemu) = self.qemu.take() {
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
        for tap in &self.taps {
            let mut command = Command::new("ip");
            command.args(["-n", &self.netns, "link", "del", tap]).stderr(Stdio::null());
            let _ = command.status();
        }
        if std::thread::panicking() {
            self.show_output();
        }
    }
}

fn drive(path: &Path, more: &str) -> [String; 2] {
    let drive = format!("file={},format=raw,if=virtio,cache=unsafe,{more}", path.display());
    ["-drive".to_owned(), drive]
}

/// What machines are given to install, in `dir`: a tar file with the package.
pub fn given_package(dir: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/deb");
    let mut make = Command::new(script);
    // Emulated instructions would unpack it.
    make.arg(blackbox::program()).arg(dir).env("DEB_COMPRESSION", "none");
    let made = make.output().expect("scripts/deb can be run");
    assert!(made.status.success(), "scripts/deb: {}", String::from_utf8_lossy(&made.stderr));
    let package = String::from_utf8(made.stdout).expect("a path");
    let package = Path::new(package.trim_end()).file_name().expect("a file").to_owned();
    let given = dir.join("given");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(dir).arg("-cf").arg(&given).arg(package);
    assert!(pack.status().expect("tar can be run").success());
    given
}

fn pack(options: &VmOptions, out: &Path, variables: &[(&str, &OsStr)]) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu");
    let status = Command::new(here.join("mkinitramfs"))
        .arg(out)
        .arg(here.join("guest").join(options.script))
        .args(options.programs)
        .envs(variables.iter().copied())
        .env("ETHERPOOL_VM_DIR", vm_dir())
        .status()
        .expect("mkinitramfs can be run");
    assert!(status.success(), "mkinitramfs: {status}");
}

fn vm_dir() -> PathBuf {
    std::env::var_os("ETHERPOOL_VM_DIR").unwrap_or("/var/cache/etherpool-vm".into()).into()
}

fn kernel_dir() -> PathBuf {
    vm_dir().join("kernel")
}

/// A file of the stock kernel that begins so, and its modules: what an image of a node is built of.
pub fn parts_of_image(begin: &str) -> [PathBuf; 2] {
    [beginning(&kernel_dir(), begin), beginning(&kernel_dir().join("lib/modules"), "")]
}

fn kernel() -> PathBuf {
    beginning(&kernel_dir(), "vmlinux-")
}

fn beginning(directory: &Path, begin: &str) -> PathBuf {
    let names = std::fs::read_dir(directory).expect("the kernel's directory").flatten();
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(begin.as_bytes()))
    };
    names.map(|entry| entry.path()).find(is_it).unwrap_or_else(|| {
        panic!("no {begin} in {}: run scripts/setup-qemu as root", directory.display())
    })
}

/// Runs `ip`; fails the test if it fails.
pub fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip is installed (iproute2)");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
