//! What is dead is never called well: processes that are stopped and go on in any order, file systems
//! and devices that are taken away beneath their users. It is mended by itself, and status says so
//! until it is.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use blackbox::{Lab, LabOptions, VOLUME, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// Longer than the lease of a pool.
const LONG: Duration = Duration::from_secs(9);
const SHORT: Duration = Duration::from_secs(1);
/// Between two that go on one after the other.
const APART: Duration = Duration::from_secs(3);

fn small() -> Lab {
    Lab::up(&LabOptions { nodes: 1, disks: 2, size: "512M", ..LabOptions::default() })
}

/// A process that is stopped; it goes on at the latest when this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn stop(lab: &Lab, who: &str) -> Stopped {
        let pid = lab.status()["supervisor"][who].as_i64().unwrap();
        let pid = Pid::from_raw(pid as i32).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Ends what goes on until then, also when the test fails: a scope waits for its threads.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Stops them in this order, and lets them go on in that.
fn pause(lab: &Lab, who: &[&str], length: Duration, resumed: &[&[&str]]) {
    let pids: Vec<(&str, i64)> =
        who.iter().map(|who| (*who, lab.status()["supervisor"][who].as_i64().unwrap())).collect();
    let pid = |who: &str| {
        let found = pids.iter().find(|(name, _)| *name == who).unwrap();
        Pid::from_raw(found.1 as i32).unwrap()
    };
    let mut stopped: Vec<(&str, Stopped)> = Vec::new();
    for who in who {
        kill_process(pid(who), Signal::STOP).unwrap();
        stopped.push((who, Stopped(pid(who))));
    }
    std::thread::sleep(length);
    for (turn, who) in resumed.iter().enumerate() {
        if turn > 0 {
            std::thread::sleep(APART);
        }
        stopped.retain(|(name, _)| !who.contains(name));
    }
    assert!(stopped.is_empty());
}

/// Does something that may hang, and fails the test when it does.
fn ends<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, over) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    over.recv_timeout(Duration::from_secs(120)).unwrap_or_else(|_| panic!("{what} hangs"))
}

fn write_durably(directory: &Path) -> std::io::Result<()> {
    let file = directory.join("probe");
    ends("a write", move || {
        let mut file = File::create(file)?;
        file.write_all(&[7; 10_000])?;
        file.sync_all()
    })
}

fn status_code(lab: &Lab) -> Option<i32> {
    lab.cli_output(&["status"]).status.code()
}

fn remarks(lab: &Lab) -> String {
    let output = lab.cli_output(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let texts = status["services"].as_array().unwrap().iter();
    texts.filter_map(|service| service["trouble"].as_str()).collect::<Vec<_>>().join("; ")
}

fn ftp(lab: &Lab, args: &[&str], path: &str) -> Output {
    let url = format!("ftp://127.0.0.1:{}/{path}", lab.ftp_port());
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "20", "--user", "lab:lab"]).args(args).arg(url);
    command.output().unwrap()
}

/// Where the mount is, and nothing but the directory beneath while it isn't.
fn is_mounted(lab: &Lab) -> bool {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    table.contains(&format!(" {} ", lab.mount().display()))
}

/// Waits until all is as before, through the mount and by FTP. Meanwhile status never says that all is
/// well while the mount gives errors.
fn wait_alive(lab: &Lab, what: &str) {
    let mut mistaken = 0;
    wait_until(what, || {
        if !is_mounted(lab) || write_durably(&lab.mount()).is_err() {
            // Mended since the write: then the next one works.
            let called_well = status_code(lab) == Some(0);
            mistaken = if called_well { mistaken + 1 } else { 0 };
            assert!(
                mistaken < 2 || write_durably(&lab.mount()).is_ok(),
                "called well while it is dead: {what}"
            );
            return false;
        }
        mistaken = 0;
        let up = ftp(lab, &["-T", "/dev/null"], "upload");
        let down = ftp(lab, &[], "kept");
        up.status.success() && down.stdout == b"kept" && status_code(lab) == Some(0)
    });
    assert_eq!(std::fs::read(lab.mount().join("kept")).unwrap(), b"kept");
}

fn keep_a_file(lab: &Lab) {
    std::fs::write(lab.mount().join("kept"), "kept").unwrap();
    rustix::fs::syncfs(File::open(lab.mount()).unwrap()).unwrap();
    wait_alive(lab, "the volume works");
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

fn device_of(lab: &Lab) -> PathBuf {
    std::fs::read_link(lab.dir().join("supervisor/dev").join(VOLUME)).unwrap()
}

/// 5.6: any of them, for any time, in any order.
#[test]
fn processes_that_are_stopped_and_go_on_leave_no_healthy_corpse() {
    let lab = small();
    keep_a_file(&lab);
    let orders: [(&[&str], &[&[&str]]); 7] = [
        (&["engine"], &[&["engine"]]),
        (&["services"], &[&["services"]]),
        (&["services", "engine"], &[&["engine"], &["services"]]),
        (&["services", "engine"], &[&["services"], &["engine"]]),
        (&["services", "engine"], &[&["engine", "services"]]),
        (&["services", "engine", "pid"], &[&["engine"], &["services"], &["pid"]]),
        (&["engine", "services", "pid"], &[&["pid"], &["services"], &["engine"]]),
    ];
    for length in [SHORT, LONG] {
        for (who, resumed) in orders {
            let what = format!("alive after {who:?} stood {length:?} and went on as {resumed:?}");
            pause(&lab, who, length, resumed);
            wait_alive(&lab, &what);
        }
    }
    lab.cli(&["volume", "unmount", VOLUME]);
    lab.cli(&["volume", "check", VOLUME]);
}

#[test]
fn what_is_taken_away_by_hand_comes_back() {
    let lab = small();
    keep_a_file(&lab);
    let target = lab.mount();

    // Where FTP has the mount open, only this way works.
    let mut session = TcpStream::connect(("127.0.0.1", lab.ftp_port())).unwrap();
    run("umount", &["-l", target.to_str().unwrap()]);
    wait_alive(&lab, "alive after it was unmounted by hand");
    session.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut said = String::new();
    session.read_to_string(&mut said).unwrap();
    assert!(said.contains("421"), "the session on the former mount ended: {said}");
    assert!(lab.log("supervisor").contains("is no longer mounted"));

    // Whoever goes on writing there meanwhile doesn't keep it out. It is away for some milliseconds only,
    // which nobody who looks now and then need see.
    let mounts = || lab.log("supervisor").matches("step=Mount").count();
    let before = mounts();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = Raise(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Into the volume, or into the directory beneath.
                let _ = std::fs::write(target.join("stray"), "");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        lab.lab(&["kill", "engine"]);
        wait_until("it is mounted again", || mounts() > before);
        std::thread::sleep(SHORT);
    });
    wait_alive(&lab, "alive after its engine was killed under those who write");
    println!("hidden: {}", lab.log("supervisor").contains("the mount hides it"));

    os::ioctl::shutdown_filesystem(File::open(&target).unwrap().as_fd()).unwrap();
    wait_until("it is found dead", || lab.log("supervisor").contains("file system was shut down"));
    wait_alive(&lab, "alive after its file system was shut down");

    // The kernel keeps the device for those who use it; then it would be gone.
    let device = device_of(&lab);
    run("losetup", &["-d", device.to_str().unwrap()]);
    wait_until("the device is kept", || lab.log("supervisor").contains("it is kept"));
    wait_alive(&lab, "alive after its device was detached by hand");
    assert_eq!(device_of(&lab), device);

    // Something of somebody else's over it is told of, and not touched.
    run("mount", &["-t", "tmpfs", "other", target.to_str().unwrap()]);
    std::fs::write(target.join("theirs"), "theirs").unwrap();
    wait_until("status names it", || {
        remarks(&lab).contains("other") && status_code(&lab) == Some(5)
    });
    assert_eq!(std::fs::read(target.join("theirs")).unwrap(), b"theirs");
    run("umount", &[target.to_str().unwrap()]);
    wait_alive(&lab, "alive after the other mount went");

    // Its FTP server and a mount aren't wanted here: a device alone.
    lab.cli(&["volume", "unmount", VOLUME]);
    lab.cli(&["volume", "attach", VOLUME]);
    let device = device_of(&lab);
    run("losetup", &["-d", device.to_str().unwrap()]);
    wait_until("there is a device again", || {
        let link = lab.dir().join("supervisor/dev").join(VOLUME);
        let block =
            std::fs::read_link(&link).ok().and_then(|path| path.file_name().map(Into::into));
        let size = |name: PathBuf| {
            std::fs::read_to_string(Path::new("/sys/block").join(name).join("size"))
        };
        let there = block.and_then(|name| size(name).ok()).is_some_and(|size| size.trim() != "0");
        there && status_code(&lab) == Some(0)
    });
}

/// Damage isn't mended by mounting it again, and read-only by somebody's wish stays so.
#[test]
fn a_mount_that_takes_no_writes_is_told_of() {
    let lab = small();
    keep_a_file(&lab);
    let target = lab.mount();
    let path = target.to_str().unwrap();
    run("mount", &["-o", "remount,ro", path]);
    assert!(write_durably(&target).is_err());
    wait_until("status says so", || {
        status_code(&lab) == Some(5) && remarks(&lab).contains("read-only")
    });
    run("mount", &["-o", "remount,rw", path]);
    wait_alive(&lab, "alive after it may be written again");

    lab.cli(&["volume", "unmount", VOLUME]);
    lab.cli(&["volume", "mount", VOLUME, path, "-o", "errors=remount-ro"]);
    wait_until("it is mounted", || is_mounted(&lab));
    let device = device_of(&lab);
    let name = device.file_name().unwrap().to_str().unwrap();
    std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "test").unwrap();
    wait_until("status says that it is damaged", || {
        status_code(&lab) == Some(5) && remarks(&lab).contains("damaged")
    });
    std::thread::sleep(Duration::from_secs(5));
    assert!(remarks(&lab).contains("damaged"), "it isn't mounted again by itself");
}

/// 5.18: a service that couldn't be started and isn't wanted any more.
#[test]
fn a_remark_ends_with_its_cause() {
    let lab = small();
    keep_a_file(&lab);
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let serve =
        |listen: &str| lab.cli_output(&["volume", "serve", VOLUME, "ftp", "--listen", listen]);
    for with_ftp in [true, false] {
        if !with_ftp {
            lab.cli(&["volume", "serve", VOLUME, "ftp", "--stop"]);
        }
        assert!(!serve(&taken).status.success());
        wait_until("nothing is left of it", || status_code(&lab) == Some(0));
        assert_eq!(remarks(&lab), "");
    }
    drop(other);
    assert!(serve(&taken).status.success());
    assert_eq!(status_code(&lab), Some(0));
}

/// Nothing hangs silently: an engine that doesn't answer is named within the time that its answer may
/// take, and everything goes on when it does.
#[test]
fn commands_end_while_the_engine_stands() {
    let lab = small();
    keep_a_file(&lab);
    {
        let _engine = Stopped::stop(&lab, "engine");
        let target = lab.mount();
        let commands: [&[&str]; 6] = [
            &["pool", "list"],
            &["pool", "show", "cluster"],
            &["volume", "list"],
            &["volume", "unmount", VOLUME],
            &["volume", "mount", VOLUME, target.to_str().unwrap()],
            &["volume", "check", VOLUME],
        ];
        for command in commands {
            let begun = Instant::now();
            let output = lab.cli_output(command);
            assert!(!output.status.success(), "{command:?}");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("the engine was asked"), "{command:?}: {said}");
            assert!(begun.elapsed() < Duration::from_secs(60), "{command:?}");
        }
        assert_eq!(status_code(&lab), Some(5));
    }
    wait_alive(&lab, "alive after the engine went on");
}

/// What is begun is done to its end, also when whoever asked has gone: a release that stopped half-way
/// would leave a pool that is open and isn't served.
#[test]
fn a_release_that_nobody_waits_for_is_done() {
    let lab = small();
    keep_a_file(&lab);
    let mut asker = Command::new("curl")
        .args(["-sS", "-X", "POST", "-d", r#"{"confirmed":true}"#, "--unix-socket"])
        .arg(lab.dir().join("supervisor/run/api.sock"))
        .arg("http://etherpool/v2/pools/cluster/release")
        .spawn()
        .unwrap();
    wait_until("it is under way", || {
        ftp(&lab, &[], "kept").status.code() != Some(0) || asker.try_wait().unwrap().is_some()
    });
    // It may have its answer already.
    let _ = asker.kill();
    asker.wait().unwrap();
    wait_until("the pool is released", || lab.pool_state() == "released");
    assert!(!is_mounted(&lab));
    lab.cli(&["pool", "import", "cluster", "--yes"]);
    wait_alive(&lab, "alive after it was imported again");
}
