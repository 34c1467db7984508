//! Machines that are namespaces of this one, for commands that are typed as they stand in the manual: each has its own
//! name, network, processes, `/etc`, `/var/lib`, `/run` and `/srv`, disks of its own, and no other disk. The kernel is this
//! one's: what needs one of its own is emulated (`qemu/vm.rs`).

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::LoopDisk;

/// How long a machine may take to go off; far more than it does.
const LIMIT: Duration = Duration::from_secs(60);

/// What becomes a machine's own: `/etc` is a copy, the others begin empty.
const PLACES: [&str; 6] = ["/etc", "/var/lib", "/usr/local/sbin", "/srv", "/mnt", "/media"];

/// What makes namespaces a machine, whose first process ends with the test.
const START: &str = r#"
set -e
read -r pid rest </proc/self/stat
mount --make-rprivate /
for place in $PLACES; do mount --bind "$DIR$place" "$place"; done
mount -t tmpfs run /run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs block /sys/block
mount -t tmpfs numbers /sys/dev/block
mount --bind /dev/pts /media
mount -t tmpfs -o mode=755 dev /dev
mkdir /dev/pts /dev/shm
mount --move /media /dev/pts
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/zero c 1 5
mknod -m 666 /dev/full c 1 7
mknod -m 666 /dev/random c 1 8
mknod -m 666 /dev/urandom c 1 9
mknod -m 666 /dev/tty c 5 0
mknod -m 666 /dev/fuse c 10 229
mknod -m 600 /dev/loop-control c 10 237
ln -s /proc/self/fd /dev/fd
ln -s pts/ptmx /dev/ptmx
number=0
while [ $number -lt 64 ]; do
    mknod -m 600 /dev/loop$number b 7 $number
    ln -s /sys/devices/virtual/block/loop$number /sys/block/loop$number
    ln -s /sys/devices/virtual/block/loop$number /sys/dev/block/7:$number
    number=$((number + 1))
done
hostname "$NAME"
ip link set lo up
echo "$pid"
exec cat
"#;

/// A machine, which may be off.
pub struct Machine {
    name: String,
    netns: String,
    address: String,
    dir: TempDir,
    disks: Vec<(String, MachineDisk)>,
    /// How many were made for it.
    made: usize,
    running: Option<Running>,
}

/// A disk, in a machine or out of it.
pub struct MachineDisk {
    device: LoopDisk,
    serial: String,
}

struct Running {
    process: Child,
    /// The machine ends with it.
    _life: ChildStdin,
    pid: String,
    /// Its mounts outlive its processes: were a file system unmounted by the end of the process that serves its disk,
    /// the kernel would wait for itself.
    mounts: fs::File,
}

impl Machine {
    /// A machine that is off, whose `eth0` will be at the bridge `br0` of the namespace `netns`, with this address.
    pub fn new(name: &str, netns: &str, address: &str, systemctl: &Path) -> Machine {
        crate::require_root();
        let dir = tempfile::Builder::new().prefix("etherpool-machine").tempdir().unwrap();
        let own = |place: &str| dir.path().join(place.trim_start_matches('/'));
        PLACES[1..].iter().for_each(|place| fs::create_dir_all(own(place)).unwrap());
        let copy = Command::new("cp").arg("-a").arg("/etc").arg(own("/etc")).status();
        assert!(copy.unwrap().success(), "a copy of /etc");
        let _ = fs::remove_dir_all(own("/etc/etherpool"));
        fs::create_dir_all(own("/etc/etherpool")).unwrap();
        fs::create_dir_all(own("/etc/default")).unwrap();
        fs::create_dir(own("/root")).unwrap();
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().replace('-', "");
        fs::write(own("/etc/machine-id"), id).unwrap();
        fs::write(own("/etc/hostname"), format!("{name}\n")).unwrap();
        let link = |to: &Path, name: &str| {
            std::os::unix::fs::symlink(fs::canonicalize(to).unwrap(), own(name)).unwrap();
        };
        link(&crate::program(), "/usr/local/sbin/etherpool");
        link(systemctl, "/usr/local/sbin/systemctl");
        let (name, netns, address) = (name.to_owned(), netns.to_owned(), address.to_owned());
        Machine { name, netns, address, dir, disks: Vec::new(), made: 0, running: None }
    }

    /// Switches it on.
    pub fn on(&mut self) {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]);
        command.args(["sh", "-c", START]).env("DIR", self.dir.path()).env("NAME", &self.name);
        command.env("PLACES", PLACES.join(" "));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (life, said) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut pid = String::new();
        BufReader::new(said).read_line(&mut pid).unwrap();
        assert!(!pid.is_empty(), "{} can't be made of namespaces", self.name);
        let pid = pid.trim().to_owned();
        let (port, netns) = (format!("to-{}", self.name), &self.netns);
        crate::lab::ip(netns, &format!("link add {port} type veth peer name eth0 netns {pid}"));
        crate::lab::ip(netns, &format!("link set {port} master br0 up"));
        let mounts = fs::File::open(format!("/proc/{pid}/ns/mnt")).unwrap();
        self.running = Some(Running { process, _life: life, pid, mounts });
        self.must("ip link set eth0 up");
        self.must(&format!("ip address add {} dev eth0", self.address));
        self.disks.iter().for_each(|(name, disk)| self.show(name, disk));
        self.must("systemctl boot");
    }

    /// Pulls its plug.
    pub fn off(&mut self) {
        assert!(self.running.is_some(), "{} is off", self.name);
        assert!(self.unplug(), "{} doesn't go off", self.name);
    }

    /// The same, as far as it can be done: whether it is off then.
    fn unplug(&mut self) -> bool {
        let attached = self.try_run("find /dev/etherpool -type l -exec readlink -f {} +");
        let attached = attached.map(|(_, printed)| printed).unwrap_or_default();
        let Some(mut running) = self.running.take() else { return true };
        // All of its processes go with the first one, and that one with unshare.
        let _ = running.process.kill();
        let _ = running.process.wait();
        let first = Path::new("/proc").join(&running.pid);
        let start = Instant::now();
        while first.exists() && start.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(20));
        }
        let is_off = !first.exists();
        // What a machine without power has mounted is gone with it, loop devices too.
        drop(running.mounts);
        for device in attached.lines().filter(|line| line.starts_with("/dev/loop")) {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
        is_off
    }

    /// Puts a disk of that many MiB into it, as /dev/NAME.
    pub fn put(&mut self, name: &str, mebibytes: u64) {
        self.made += 1;
        let file = self.dir.path().join(format!("disk-{}", self.made));
        fs::File::create(&file).unwrap().set_len(mebibytes << 20).unwrap();
        let device = LoopDisk::attach(&file).expect("loop devices");
        let serial = format!("{}-{}", self.name.to_uppercase(), self.made);
        self.put_back(name, MachineDisk { device, serial });
    }

    /// Puts a disk into it that was elsewhere.
    pub fn put_back(&mut self, name: &str, disk: MachineDisk) {
        if self.running.is_some() {
            self.show(name, &disk);
        }
        self.disks.push((name.to_owned(), disk));
    }

    /// Takes a disk out.
    pub fn take(&mut self, name: &str) -> MachineDisk {
        let at = self.disks.iter().position(|(own, _)| own == name).expect("it has that disk");
        let disk = self.disks.remove(at).1;
        if self.running.is_some() {
            let number = number_of(&disk);
            // The number may be another's later.
            self.must(&format!(
                "rm -r /dev/{name} /sys/block/{name} /sys/dev/block/7:{number}
                mknod -m 600 /dev/loop{number} b 7 {number}
                ln -s /sys/devices/virtual/block/loop{number} /sys/block/loop{number}
                ln -s /sys/devices/virtual/block/loop{number} /sys/dev/block/7:{number}"
            ));
        }
        disk
    }

    /// Types something; how it ended and what it printed.
    pub fn run(&self, typed: &str) -> (i32, String) {
        assert!(self.running.is_some(), "{} is off", self.name);
        self.try_run(typed).expect("nsenter (util-linux)")
    }

    fn try_run(&self, typed: &str) -> std::io::Result<(i32, String)> {
        let Some(running) = &self.running else { return Ok((-1, String::new())) };
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
        let home = self.dir.path().join("root");
        let mut command = Command::new("nsenter");
        command.args(["--target", &running.pid, "--mount", "--net", "--uts", "--ipc", "--pid"]);
        command.arg(format!("--wd={}", home.display()));
        command.args(["sh", "-c", &format!("exec 2>&1\n{typed}")]).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", &home);
        command.env("UNITS", units).env("TERM", "dumb").env("LC_ALL", "C.UTF-8");
        let output = command.stdin(Stdio::null()).output()?;
        Ok((output.status.code().unwrap_or(-1), crate::text_of(&output)))
    }

    /// The same; fails the test where the command fails.
    pub fn must(&self, typed: &str) -> String {
        let (status, printed) = self.run(typed);
        assert_eq!(status, 0, "{}# {typed}\n{printed}", self.name);
        printed
    }

    /// Where root is at home, seen from outside.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Lets the machine see a disk as its kernel would show it.
    fn show(&self, name: &str, disk: &MachineDisk) {
        let number = number_of(disk);
        let serial = &disk.serial;
        self.must(&format!(
            "rm -f /dev/loop{number} /sys/block/loop{number} /sys/dev/block/7:{number}
            mknod -m 600 /dev/{name} b 7 {number}
            mkdir -p /sys/block/{name}/device /sys/block/{name}/queue
            echo {serial} >/sys/block/{name}/device/serial
            echo 7:{number} >/sys/block/{name}/dev
            echo 1 >/sys/block/{name}/queue/rotational
            cat /sys/devices/virtual/block/loop{number}/size >/sys/block/{name}/size
            ln -s /sys/devices/virtual/block/loop{number}/stat /sys/block/{name}/stat
            ln -s /sys/block/{name} /sys/dev/block/7:{number}"
        ));
    }
}

fn number_of(disk: &MachineDisk) -> String {
    let device = disk.device.device().to_str().expect("a plain name");
    device.trim_start_matches("/dev/loop").to_owned()
}

/// Nothing here may panic: a second one would leave all of it behind.
impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking()
            && self.running.is_some()
            && let Ok((_, log)) = self.try_run("tail -n 40 /run/stand-in/*.log")
        {
            eprintln!("--- logs of {}\n{log}", self.name);
        }
        if !self.unplug() {
            eprintln!("{} doesn't go off", self.name);
        }
    }
}
