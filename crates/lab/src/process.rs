//! The lab's processes: started detached from the shell that typed `lab up`, found again by pid.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::command::own_program;
use crate::place::{Place, make_private_dir};

/// Starts `etherpool ARGS` with its output in the log of `who`; in a network namespace if one is
/// named. Returns its pid.
pub fn start(place: &Place, who: &str, netns: Option<&str>, args: &[&str]) -> anyhow::Result<i32> {
    let log_file = place.log_file(who);
    for file in [&log_file, &place.pid_file(who)] {
        if let Some(parent) = file.parent() {
            make_private_dir(parent)?;
        }
    }
    let log = File::options().create(true).append(true).open(&log_file)?;
    let program = own_program()?;
    // setsid(1) and nsenter(1) replace themselves by what they are to run: the pid stays.
    let mut command = Command::new("setsid");
    if let Some(netns) = netns {
        // Not `ip netns exec`: that makes a mount namespace too, whose copies of our mounts keep
        // file systems alive after they were unmounted here.
        command.args(["nsenter", &format!("--net=/run/netns/{netns}"), "--"]);
    }
    command.arg(program).args(args);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.current_dir("/");
    let child = command.spawn().context("cannot run setsid (package util-linux)")?;
    let pid = i32::try_from(child.id())?;
    let started = start_time(pid).context("the process died at once")?;
    fs::write(place.pid_file(who), format!("{pid} {started}\n"))?;
    Ok(pid)
}

/// The pid of `who`, if it runs. The start time protects against a pid that is somebody else's now.
pub fn running(place: &Place, who: &str) -> Option<i32> {
    let text = fs::read_to_string(place.pid_file(who)).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let pid: i32 = pid.parse().ok()?;
    (start_time(pid)? == started.parse::<u64>().ok()? && !is_zombie(pid)).then_some(pid)
}

/// What children a supervisor has.
pub const CHILDREN: [&str; 3] = ["engine", "services", "witnesses"];

/// The running child of `parent` that was started as `etherpool NAME`.
pub fn child(parent: i32, name: &str) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).nth(1) == Some(name.as_bytes()))
    })
}

/// Sends a signal to one process.
pub fn signal(pid: i32, signal: Signal) -> anyhow::Result<()> {
    let target = Pid::from_raw(pid).context("not a pid")?;
    kill_process(target, signal).with_context(|| format!("cannot signal process {pid}"))
}

/// Waits until a process is gone, at most `limit`; says whether it is.
pub fn wait_gone(pid: i32, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while is_alive(pid) {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// All processes in a network namespace.
pub fn in_netns(netns: &str) -> Vec<i32> {
    crate::command::run("ip", ["netns", "pids", netns])
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && !is_zombie(pid)
}

/// Whether nothing is left of it but its exit status. While other threads of it are still dying it holds its files, and their
/// locks.
fn is_zombie(pid: i32) -> bool {
    let Some(fields) = stat_fields(pid) else { return false };
    let threads = fields.get(17).and_then(|threads| threads.parse().ok()).unwrap_or(1);
    fields.first().is_some_and(|state| state == "Z") && threads <= 1
}

/// Clock ticks after boot at which the process started.
fn start_time(pid: i32) -> Option<u64> {
    stat_fields(pid)?.get(19)?.parse().ok()
}

/// The fields of /proc/PID/stat behind the name, which may itself contain anything.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}
