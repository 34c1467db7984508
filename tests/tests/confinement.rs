//! What the processes may: as docs/security.md says, on each of their threads; and by their units nothing less than
//! what they do.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use blackbox::{Lab, LabOptions, Target, VOLUME, etherpool, quiet, require_root, wait_until};
use rustix::thread::CapabilitySet;

const SUPERVISOR: &str = "etherpool-supervisor.service";

/// The lines of a file in the repository.
fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// What a table's row says of a process.
struct Row {
    own: CapabilitySet,
    of_programs: CapabilitySet,
    programs_gain: bool,
}

fn documented(process: &str) -> Row {
    let text = read("docs/security.md");
    let name = format!("`{process}`");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let mut rows = rows.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let cells = rows.find(|cells| cells.len() == 7 && cells[1].contains(&name)).expect(process);
    let named = |cell: &str| {
        let words = cell.split('`').skip(1).step_by(2);
        words.map(|word| CapabilitySet::from_name(word).expect(word)).collect::<CapabilitySet>()
    };
    let (own, of_programs) = (named(cells[2]), named(cells[3]));
    Row { own, of_programs, programs_gain: cells[4] == "yes" }
}

/// `/proc/PID/task/TID/status`, by its lines' names.
fn status_of(path: &Path) -> Option<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path.join("status")).ok()?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    Some(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

fn set(status: &BTreeMap<String, String>, name: &str) -> CapabilitySet {
    CapabilitySet::from_bits_retain(u64::from_str_radix(&status[name], 16).unwrap())
}

/// All threads of all processes whose command line has these words: process, command and thread.
fn threads(words: &[&str]) -> Vec<(u32, String, BTreeMap<String, String>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if !words.iter().all(|word| line.contains(word)) {
            continue;
        }
        let tasks = std::fs::read_dir(entry.path().join("task")).into_iter().flatten().flatten();
        found.extend(tasks.filter_map(|task| Some((pid, line.clone(), status_of(&task.path())?))));
    }
    found
}

/// Holds the threads of a process against its row; returns how many there were.
fn check(process: &str, words: &[&str]) -> usize {
    let mut row = documented(process);
    if process == "ftp" {
        // Its ports are none that take it.
        row.own -= CapabilitySet::NET_BIND_SERVICE;
    }
    let mine = status_of(Path::new("/proc/self")).unwrap();
    let there = set(&mine, "CapPrm");
    let found = threads(words);
    let mut have_all = 0;
    for (pid, line, status) in &found {
        let own = row.own & there;
        let kept = (row.own | row.of_programs) & there;
        let said = format!("{process} {pid} ({line}): {status:?}");
        assert_eq!(set(status, "CapEff") - own, CapabilitySet::empty(), "{said}");
        assert_eq!(set(status, "CapPrm") - kept, CapabilitySet::empty(), "{said}");
        for name in ["CapInh", "CapAmb"] {
            assert!(set(status, name).is_empty(), "{said}");
        }
        // The log's keeps nothing, and runs nothing.
        if status["Name"] != "log" {
            assert_eq!(set(status, "CapBnd") - kept, CapabilitySet::empty(), "{said}");
            assert_eq!(set(status, "CapEff"), own, "{said}");
            have_all += 1;
        } else {
            assert!(set(status, "CapPrm").is_empty(), "{said}");
        }
        assert_eq!(status["NoNewPrivs"], if row.programs_gain { "0" } else { "1" }, "{said}");
        assert_eq!(status["Seccomp"], "2", "{said}");
    }
    assert!(have_all > 0, "no {process}");
    found.len()
}

#[test]
fn each_process_may_what_is_documented() {
    // Two nodes, so that the supervisor has a vote, and a process for it.
    let lab = Lab::up(&LabOptions { nodes: 2, disks: 1, size: "512M", ..LabOptions::default() });
    let dir = lab.dir().to_str().unwrap();
    wait_until("all processes run", || {
        ["engine", "services", "ftp", "witnesses", "supervisor"]
            .iter()
            .all(|name| !threads(&[dir, &format!(" {name} ")]).is_empty())
    });
    // With what they do at work: threads that come for a call.
    std::fs::write(lab.mount().join("words"), vec![7; 8 << 20]).unwrap();
    lab.cli(&["volume", "verify", VOLUME]);
    for process in ["supervisor", "engine", "services", "ftp", "witnesses", "node"] {
        let threads = check(process, &[dir, &format!(" {process} ")]);
        println!("{process}: {threads} threads are as documented");
    }
    for who in ["supervisor", "n1", "n2"] {
        assert!(!lab.log(who).contains("confined"), "{}", lab.log(who));
    }
}

/// All files below a directory.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let below = |entry: std::fs::DirEntry| match entry.file_type().unwrap() {
        kind if kind.is_dir() => files_below(&entry.path()),
        kind if kind.is_file() => vec![entry.path()],
        _ => Vec::new(),
    };
    entries.flat_map(below).collect()
}

#[test]
fn secrets_are_in_files_that_only_root_reads_and_nowhere_else() {
    let lab = Lab::up(&LabOptions { nodes: 2, disks: 1, size: "512M", ..LabOptions::default() });
    lab.cli(&["volume", "verify", VOLUME]);
    let made = lab.dir().join("made.token");
    std::fs::write(&made, lab.show(&["token", "create"])).unwrap();
    lab.cli(&["pool", "key", "rotate", "cluster", "--yes"]);
    let dirs = ["n1/state", "n2/state", "supervisor/state"].map(|name| lab.dir().join(name));
    let mut secrets = vec![lab.dir().join("supervisor/token"), made];
    for file in dirs.iter().flat_map(|dir| files_below(dir)) {
        let mode = file.metadata().unwrap().mode() & 0o777;
        // The lock holds a process's number.
        let is_lock = file.file_name().is_some_and(|name| name == "lock");
        assert!(mode == 0o600 || is_lock, "{}: {mode:o}", file.display());
        if file.extension().is_some_and(|end| end == "key") {
            secrets.push(file);
        }
    }
    assert!(
        secrets.len() >= 6,
        "the keys of three machines and a pool, and two tokens: {secrets:?}"
    );
    let mut said: Vec<(String, String)> = files_below(&lab.dir().join("log"))
        .into_iter()
        .map(|log| (log.display().to_string(), std::fs::read_to_string(log).unwrap()))
        .collect();
    let pids: BTreeSet<u32> =
        threads(&[lab.dir().to_str().unwrap()]).into_iter().map(|(pid, ..)| pid).collect();
    assert!(pids.len() >= 6, "{pids:?}");
    for pid in pids {
        for name in ["cmdline", "environ"] {
            let path = format!("/proc/{pid}/{name}");
            let bytes = std::fs::read(&path).unwrap_or_default();
            said.push((path, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    for file in secrets {
        let secret = std::fs::read_to_string(&file).unwrap();
        let secret = secret.trim();
        assert!(secret.len() >= 16, "{}", file.display());
        for (place, text) in &said {
            assert!(!text.contains(secret), "{} is in {place}", file.display());
        }
    }
}

#[test]
fn a_target_may_what_is_documented() {
    let target = Target::start(1500, |target| target.export("e7.1", 1 << 20, ""));
    assert!(target.client("e7.1").sectors().is_ok(), "it serves");
    let config = target.path("target.toml");
    check("target", &[" target ", config.to_str().unwrap()]);
}

#[test]
fn last_commands_have_all_rights_and_their_target_has_not() {
    let mut target = Target::new(1500);
    let said = target.path("said");
    let exports = target.export("e7.1", 1 << 20, "");
    let command = format!("cat /proc/self/status > {}", said.display());
    target.configure(&format!("after-stop = [{command:?}]\n{exports}"));
    target.run();
    assert!(target.client("e7.1").sectors().is_ok(), "it serves");
    let own = documented("target").own;
    let mine = status_of(Path::new("/proc/self")).unwrap();
    let config = target.path("target.toml");
    for (.., status) in threads(&[" target ", config.to_str().unwrap()]) {
        assert!(own.contains(set(&status, "CapEff")) && status["Seccomp"] == "2", "{status:?}");
    }
    target.stop();
    let text = std::fs::read_to_string(said).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    assert_eq!(line.trim(), mine["CapEff"], "as the target was started with");
}

/// A node whose commands may have all takes nothing from them where it hasn't the right to, and says so.
#[test]
fn what_cant_be_given_up_is_told_and_it_serves_all_the_same() {
    let mut target = Target::new(1500);
    let exports = target.export("e7.1", 1 << 20, "");
    target.configure(&format!("after-stop = ['true']\n{exports}"));
    for (by, said) in [
        (&["setpriv", "--bounding-set=-setpcap"][..], "not fully confined: it keeps capabilities"),
        (&["env", "ETHERPOOL_CONFINEMENT=off"], "not confined"),
    ] {
        target.run_by(by);
        assert!(target.client("e7.1").sectors().is_ok(), "it serves");
        assert!(target.log().contains(said), "{by:?}: {}", target.log());
        target.stop();
    }
    // Of the engine it is what `status` warns of.
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let config = format!(
        "state-dir = {:?}\nrun-dir = {:?}\ndevice-dir = {:?}\n",
        at("state"),
        at("run"),
        at("dev")
    );
    std::fs::write(at("supervisor.toml"), config).unwrap();
    let mut supervisor = etherpool();
    supervisor.args(["supervisor", "--config", &at("supervisor.toml")]);
    supervisor.env("ETHERPOOL_CONFINEMENT", "off");
    let mut supervisor = quiet(supervisor, &dir.path().join("log")).spawn().unwrap();
    wait_until("status warns of it", || {
        let mut status = etherpool();
        let output = status.args(["--socket", &at("run/api.sock"), "status"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("not confined")
    });
    let pid = supervisor.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    supervisor.wait().unwrap();
}

/// A process that was told to leave a core file.
fn leaves_core(mut program: Command) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let shell = format!("ulimit -c unlimited && exec {:?} \"$@\"", program.get_program());
    let words: Vec<_> = program.get_args().map(ToOwned::to_owned).collect();
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", &shell, "sh"]).args(words).current_dir(dir.path());
    program = command;
    let mut process = program.stdout(std::process::Stdio::null()).spawn().unwrap();
    // It is itself by then, not the shell.
    let comm = format!("/proc/{}/comm", process.id());
    wait_until("the program runs", || std::fs::read_to_string(&comm).unwrap() != "sh\n");
    std::thread::sleep(std::time::Duration::from_millis(200));
    let pid = process.id().to_string();
    assert!(Command::new("kill").args(["-ABRT", &pid]).status().unwrap().success());
    process.wait().unwrap().core_dumped()
}

#[test]
fn no_core_file_has_keys_in_it() {
    require_root();
    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    if !leaves_core(sleep) {
        eprintln!("SKIPPED: no core files are written here (kernel.core_pattern)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::File::create(at("disk")).unwrap().set_len(1 << 20).unwrap();
    let target = || {
        let mut target = etherpool();
        target.args(["target", &format!("e7.1={}", at("disk")), "-i", "none-of-this-name"]);
        target.args(["--run-dir", &at("run"), "--state-dir", &at("state")]);
        target
    };
    assert!(!leaves_core(target()));
    let mut unconfined = Command::new("env");
    unconfined.arg("ETHERPOOL_CONFINEMENT=off").arg(target().get_program());
    unconfined.args(target().get_args());
    assert!(leaves_core(unconfined), "whoever wants one for a diagnosis gets one");
}

/// The system calls of a set that systemd has a name for.
fn calls_of(set: &str) -> BTreeSet<String> {
    let output = Command::new("systemd-analyze").args(["syscall-filter", set]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#') && *line != set);
    lines
        .filter(|line| !line.is_empty())
        .flat_map(|line| match line.starts_with('@') {
            true => calls_of(line),
            false => BTreeSet::from([line.to_owned()]),
        })
        .collect()
}

/// The system calls that a unit allows.
fn allowed_by(unit: &str) -> BTreeSet<String> {
    let text = read(&format!("packaging/{unit}"));
    let lines = text.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
    let words = lines.flat_map(|line| line.split(' ')).map(str::to_owned);
    words
        .flat_map(|word| match word.starts_with('@') {
            true => calls_of(&word),
            false => BTreeSet::from([word]),
        })
        .collect()
}

/// The calls in a log of strace's, with what was answered.
fn made(log: &str) -> BTreeMap<String, String> {
    let calls = log.lines().filter_map(|line| {
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let (name, _) = call.split_once('(')?;
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        name.chars().all(is_name).then(|| (name.to_owned(), line.to_owned()))
    });
    calls.collect()
}

/// Each process that gives up calls has neither taken a connection nor a way for frames to come in before.
fn hears_nobody_before(log: &str) {
    let of = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let hears = |line: &&str| line.contains(" accept4(") || line.contains("socket(AF_PACKET");
    let confined: Vec<_> =
        log.lines().enumerate().filter(|(_, line)| line.contains("seccomp(")).collect();
    assert!(!confined.is_empty(), "nobody is confined");
    for (at, line) in confined {
        let before = log.lines().take(at).filter(|one| of(one) == of(line)).find(hears);
        assert_eq!(before, None, "before {line}");
    }
    assert!(log.lines().any(|line| hears(&line)), "nobody is heard");
}

fn can_trace() -> bool {
    let can = ["strace", "systemd-analyze"]
        .iter()
        .all(|tool| Command::new(tool).arg("--version").output().is_ok());
    if !can {
        eprintln!("SKIPPED: strace or systemd is not installed; units are NOT held against calls");
    }
    can
}

/// The words by which a program is started that may have the capabilities of a unit, and is traced; the process that
/// was started becomes it.
fn as_by(unit: &str, log: &Path) -> Vec<String> {
    let text = read(&format!("packaging/{unit}"));
    let line = text.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=CAP_"));
    let kept: Vec<&str> = line.unwrap().split(" CAP_").collect();
    let others = CapabilitySet::all().iter_names().filter(|(name, _)| !kept.contains(name));
    let others: Vec<String> = others.map(|(name, _)| format!("-{}", name.to_lowercase())).collect();
    let bound = format!("--bounding-set={}", others.join(","));
    let log = log.to_str().unwrap();
    let words = ["strace", "--daemonize", "--follow-forks", "--output", log, "setpriv", &bound];
    words.map(str::to_owned).to_vec()
}

/// What was traced, once it is at its end.
fn traced(log: &Path, pid: u32) -> String {
    let read = || std::fs::read_to_string(log).unwrap();
    let ended = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some(&pid.to_string()) && line.contains("+++ exited with 0 +++")
    };
    wait_until("the trace ends", || read().lines().any(ended));
    read()
}

#[test]
fn a_supervisors_unit_allows_what_its_processes_do() {
    require_root();
    if !can_trace() {
        return;
    }
    let options =
        LabOptions { nodes: 2, disks: 1, size: "2G", bare: true, ..LabOptions::default() };
    let lab = Lab::up(&options);
    let dir = lab.dir().to_str().unwrap();
    let supervisor = || threads(&[" supervisor --config ", dir]).first().map(|(pid, ..)| *pid);
    lab.lab(&["kill", "supervisor"]);
    let log = lab.dir().join("calls");
    let words = as_by(SUPERVISOR, &log);
    let mut start = Command::new(&words[0]);
    start.args(&words[1..]).arg(etherpool().get_program()).arg("lab").arg("--dir").arg(lab.dir());
    // They have its output for as long as they run.
    let mut start = quiet(start, &lab.dir().join("start"));
    assert!(start.args(["start", "supervisor"]).status().unwrap().success());
    wait_until("it answers", || lab.cli_output(&["disk", "list"]).status.success());
    lab.wait_for_disks(2);
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "--yes"]);
    for (kind, tool) in [("ext4", "mke2fs"), ("xfs", "mkfs.xfs"), ("btrfs", "mkfs.btrfs")] {
        if Command::new(tool).arg("-V").output().is_err() {
            eprintln!("SKIPPED: {tool} is not installed");
            continue;
        }
        let (volume, at) = (format!("cluster/{kind}"), lab.dir().join(kind));
        lab.cli(&["volume", "create", &volume, "--size", "320M", "--layout", "mirror:2"]);
        lab.cli(&["volume", "mkfs", &volume, "--type", kind, "--yes"]);
        lab.cli(&["volume", "mount", &volume, at.to_str().unwrap()]);
        std::fs::write(at.join("words"), vec![7; 1 << 20]).unwrap();
        lab.cli(&["volume", "extend", &volume, "--size", "+16M", "--resizefs", "--yes"]);
        lab.cli(&["volume", "unmount", &volume]);
        lab.cli(&["volume", "check", &volume]);
    }
    lab.lab(&["kill", "n1"]);
    lab.lab(&["start", "n1"]);
    wait_until("the pool is clean again", || lab.pool_state() == "online");
    let pid = supervisor().unwrap();
    let asked = Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap();
    assert!(asked.success());
    check_calls(SUPERVISOR, &traced(&log, pid));
}

#[test]
fn a_targets_unit_allows_what_it_does() {
    if !can_trace() {
        return;
    }
    let mut target = Target::new(1500);
    let exports = target.export("e7.1", 1 << 20, "");
    target.configure(&exports);
    let log = target.path("calls");
    let words = as_by("etherpool-target.service", &log);
    target.run_by(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let mut client = target.client("e7.1");
    client.write(0, &[7; 512]).unwrap();
    assert_eq!(client.read(0, 1).unwrap(), [7; 512]);
    client.flush().unwrap();
    target.configure(&(exports + &target.export("e7.2", 1 << 20, "")));
    target.reload();
    wait_until("the other export answers", || target.answers("e7.2"));
    let pid = target.pid();
    target.stop();
    let calls = traced(&log, pid);
    for unit in ["etherpool-target.service", "etherpool-node.service"] {
        check_calls(unit, &calls);
    }
}

fn check_calls(unit: &str, log: &str) {
    let (allowed, made) = (allowed_by(unit), made(log));
    assert!(made.len() > 40, "{unit}: only {} calls were seen", made.len());
    hears_nobody_before(log);
    let missing: Vec<_> = made.iter().filter(|(name, _)| !allowed.contains(*name)).collect();
    assert!(missing.is_empty(), "{unit} refuses calls: {missing:#?}");
    println!("{unit}: allows the {} calls that were made", made.len());
}
