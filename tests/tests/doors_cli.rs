//! Every command ends, says what it waited for, and says by its code whether all is well.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use blackbox::{Lab, LabOptions, etherpool, require_root, wait_until};
use rustix::process::{Pid, Signal, kill_process};

fn small(nodes: u16) -> Lab {
    Lab::up(&LabOptions { nodes, disks: 1, size: "512M", ..LabOptions::default() })
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A process of a lab that is stopped, until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: &serde_json::Value) -> Stopped {
        let pid = Pid::from_raw(i32::try_from(pid.as_i64().unwrap()).unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[test]
fn a_command_that_nobody_answers_ends_and_says_what_it_waited_for() {
    let lab = small(2);
    let status = lab.status();
    let services = Stopped::new(&status["supervisor"]["services"]);
    for (args, what) in [
        (&["pool", "list", "--timeout", "1"][..], "look at pools"),
        (&["volume", "show", "cluster/hyperspace", "--timeout", "1"], "volume cluster/hyperspace"),
        (&["volume", "unmount", "cluster/hyperspace", "--timeout", "1"], "may still go on"),
        (&["volume", "verify", "cluster/hyperspace", "--timeout", "1"], "verify volume"),
        // The limit of a look by itself.
        (&["disk", "list"], "within 15 s"),
    ] {
        let output = lab.cli_output(args);
        assert_eq!(code(&output), 8, "{args:?}: {}", error(&output));
        let error = error(&output);
        assert!(error.contains(what) && error.contains("api.sock"), "{args:?}: {error}");
        assert!(error.contains("to do: "), "{args:?}: {error}");
    }
    // Whoever sits there sees it.
    let socket = lab.dir().join("supervisor/run/api.sock");
    let program = etherpool().get_program().to_owned();
    let line = format!(
        "{} --socket {} pool list --timeout 4",
        program.to_string_lossy(),
        socket.display()
    );
    let terminal = Command::new("script").args(["-qefc", &line, "/dev/null"]).output().unwrap();
    let seen = String::from_utf8_lossy(&terminal.stdout).into_owned();
    assert!(seen.contains("waiting for the supervisor: look at pools ("), "{seen}");
    assert_eq!(code(&terminal), 8, "{seen}");
    drop(services);
    wait_until("the services answer again", || lab.cli_output(&["status"]).status.success());
    // What was asked for while they were stopped has been done since, or not; it is as before.
    lab.cli_output(&["volume", "mount", "cluster/hyperspace", &lab.mount().display().to_string()]);

    let node = Stopped::new(&status["nodes"][0]["pid"]);
    let socket = lab.dir().join("n1/run").display().to_string();
    for ask in ["status", "stats"] {
        let output = etherpool()
            .args(["target", ask, "--socket", &socket, "--timeout", "1"])
            .output()
            .unwrap();
        assert_eq!(code(&output), 8, "{}", error(&output));
        assert!(error(&output).contains("within 1 s"), "{}", error(&output));
    }
    drop(node);
}

/// An operation that takes as long as it takes isn't given up while somebody is at it.
#[test]
fn a_long_operation_says_what_it_waits_for() {
    let lab = small(3);
    for node in ["n1", "n2"] {
        lab.lab(&["kill", node]);
    }
    wait_until("the pool is suspended", || lab.pool_state() == "suspended");
    let socket = lab.dir().join("supervisor/run/api.sock");
    let mut command = Command::new("curl");
    command.args(["-sSN", "-X", "POST", "--unix-socket"]).arg(&socket);
    command.arg("http://localhost/v2/pools/cluster/volumes/hyperspace/verify");
    let mut asked = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(asked.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.starts_with("{\"waiting\":\"cluster/hyperspace is suspended: "), "{line}");
    }
    let mut verify = etherpool();
    verify.arg("--socket").arg(&socket);
    verify.args(["volume", "verify", "cluster/hyperspace", "--timeout", "5"]);
    let mut verify = verify.stdout(Stdio::null()).spawn().unwrap();
    for _ in 0..4 {
        lines.next().unwrap().unwrap();
        assert!(verify.try_wait().unwrap().is_none(), "it is being waited for");
    }
    for node in ["n1", "n2"] {
        lab.lab(&["start", node]);
    }
    let mut ended = None;
    wait_until("the volume is verified", || {
        ended = verify.try_wait().unwrap();
        ended.is_some()
    });
    assert!(ended.unwrap().success());
    let last = lines.map(Result::unwrap).last().unwrap();
    assert!(last.starts_with("{\"result\":"), "{last}");
    assert!(asked.wait().unwrap().success());
}

#[test]
fn the_exit_code_says_whether_what_is_listed_is_healthy() {
    let lab = small(3);
    let lists: [&[&str]; 3] = [&["disk", "list"], &["volume", "list"], &["pool", "list"]];
    let codes = |expected: i32| {
        lists.iter().all(|list| code(&lab.cli_output(list)) == expected)
            && code(&lab.lab_output(&["status"])) == expected
    };
    assert!(codes(0));
    // For scripts: what was asked for, and nothing else.
    let cut =
        lab.show(&["disk", "list", "-H", "-o", "disk,size", "--units", "bytes", "-s", "-disk"]);
    let size = lab.json(&["disk", "list"])[0]["size_bytes"].to_string();
    assert_eq!(cut, format!("e3.0\t{size}\ne2.0\t{size}\ne1.0\t{size}\n"));
    let (code_of_other, text) = lab.said(&["volume", "list", "-o", "colour"]);
    assert!(code_of_other == 2 && text.contains("to-catch-up"), "{code_of_other}: {text}");
    lab.lab(&["kill", "n2"]);
    assert_eq!(code(&lab.lab_output(&["status"])), 5, "a dead node");
    wait_until("all lists say that something is missing", || codes(5));
    lab.lab(&["start", "n2"]);
    wait_until("all lists are well again", || codes(0));

    let output = lab.lab_output(&["kill", "n9"]);
    assert_eq!(code(&output), 3);
    let error = error(&output);
    assert!(["n9", "n1, n2, n3", "supervisor"].iter().all(|text| error.contains(text)), "{error}");
    assert_eq!(code(&lab.lab_output(&["start", "n9"])), 3);
    assert_eq!(code(&lab.lab_output(&["add-node", "--size", "1"])), 2);
}

#[test]
fn wrong_arguments_of_a_lab_are_told_before_anything_is_started() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    for (args, expected, reason) in [
        (&["up", "--size", "1"][..], 2, "is 1G meant"),
        (&["up", "--size", "1G,2G"], 2, "each of the 3 nodes"),
        (&["kill", "n1"], 3, "no lab"),
    ] {
        let output = etherpool().arg("lab").arg("--dir").arg(dir.path()).args(args).output();
        let output = output.unwrap();
        assert_eq!(code(&output), expected, "{args:?}: {}", error(&output));
        assert!(error(&output).contains(reason), "{args:?}: {}", error(&output));
    }
    let made: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert!(made.iter().all(|entry| entry.file_name() == "lock"), "{made:?}");
}

/// `lab down --wipe --dir /var` removed `/var/log`, and unmounted what was mounted below.
#[test]
fn a_directory_without_a_lab_is_left_alone() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    for name in ["log", "disks", "supervisor", "pid", "mounted"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("kept"), "kept").unwrap();
    }
    fs::write(dir.path().join("lock"), "kept").unwrap();
    let mounted = dir.path().join("mounted");
    let mount = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&mounted).status();
    assert!(mount.unwrap().success());
    fs::write(mounted.join("kept"), "kept").unwrap();
    let run = |dir: &std::path::Path, args: &[&str]| {
        etherpool().arg("lab").arg("--dir").arg(dir).args(args).output().unwrap()
    };
    for args in [&["down"][..], &["down", "--wipe"], &["status"], &["kill", "n1"]] {
        let output = run(dir.path(), args);
        assert_eq!(code(&output), 3, "{args:?}: {}", error(&output));
        assert!(error(&output).contains("no lab"), "{args:?}: {}", error(&output));
    }
    for name in ["log/kept", "disks/kept", "supervisor/kept", "pid/kept", "mounted/kept", "lock"] {
        let kept = fs::read_to_string(dir.path().join(name));
        assert_eq!(kept.ok().as_deref(), Some("kept"), "{name}");
    }
    assert!(Command::new("umount").arg(&mounted).status().unwrap().success());
    assert_eq!(code(&run(&dir.path().join("mistyped"), &["status"])), 3);
    assert!(!dir.path().join("mistyped").exists());
}

#[test]
fn sizes_are_understood_as_they_are_printed() {
    let lab = Lab::up(&LabOptions { nodes: 1, bare: true, ..LabOptions::default() });
    wait_until("the disks are present", || {
        let disks = lab.json(&["disk", "list"]).to_string();
        disks.contains("e1.0") && disks.contains("e1.1")
    });
    lab.cli(&["pool", "create", "cluster", "e1.0", "e1.1", "--failure-domain", "disk", "--yes"]);
    let create = |size: &str| {
        let args = ["volume", "create", "cluster/hyperspace", "--size", size, "--layout", "raid0"];
        lab.cli_output(&args)
    };
    let refused = create("1");
    assert_eq!(code(&refused), 2);
    assert!(error(&refused).contains("is 1G meant, 1M, or really 1B?"), "{}", error(&refused));
    assert!(create("64M").status.success());
    lab.cli(&["volume", "extend", "cluster/hyperspace", "--size", "+16M"]);
    let size = || lab.volume()["size_bytes"].as_u64().unwrap();
    assert_eq!(size(), 80 << 20);
    // A decimal as it is printed, and by the word that LVM's users look for.
    lab.cli(&["volume", "resize", "cluster/hyperspace", "--size", "0.479GiB"]);
    let bytes = 0.479 * f64::from(1 << 30);
    let (least, most) = (bytes as u64 - 4096, bytes as u64);
    assert!((least..=most).contains(&size()) && size().is_multiple_of(4096), "{}", size());
}

/// Finding 5.5: `lab up` hung for over 40 s without a word.
#[test]
fn lab_up_says_what_it_waits_for() {
    let lab = small(3);
    lab.lab(&["down"]);
    for node in ["n1", "n2"] {
        let file = lab.disk_file(node, 0);
        fs::rename(&file, file.with_extension("away")).unwrap();
    }
    let mut command = etherpool();
    command.arg("lab").arg("--dir").arg(lab.dir()).arg("up");
    let mut up = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(up.stderr.take().unwrap()).lines().map(Result::unwrap);
    let said = lines.find(|line| line.contains("pool cluster is ")).expect("a line with the state");
    println!("{said}");
    assert!(said.contains("waiting for the pool to be open since "), "{said}");
    assert!(said.contains("incomplete") || said.contains("bring back"), "{said}");
    let last = lines.last().unwrap_or(said);
    assert!(!up.wait().unwrap().success());
    println!("{last}");
}

#[test]
fn stats_show_what_requests_wait_for() {
    let lab = small(2);
    let write = |name: &str| {
        fs::write(lab.mount().join(name), vec![7; 4 << 20]).unwrap();
        rustix::fs::syncfs(fs::File::open(lab.mount()).unwrap()).unwrap();
    };
    write("before");
    let ask = ["volume", "stats", "cluster/hyperspace"];
    let count = |times: &serde_json::Value| times["count"].as_u64().unwrap();
    let stages = ["room", "queue", "log"];
    let mut seen = serde_json::Value::Null;
    wait_until(
        "the file is in place, no write is under way, and both disks were asked whose they are",
        || {
            seen = lab.json(&ask);
            let disks = seen["disks"].as_array().unwrap();
            let is_asked = |disk: &serde_json::Value| count(&disk["network"]["total"]) > 0;
            // A write has been in a stage before all of it is over.
            let write = &seen["write"];
            let is_over = |stage: &&str| count(&write[*stage]) <= count(&write["total"]);
            disks.iter().all(is_asked)
                && stages.iter().all(is_over)
                && seen["destage"]["bytes"].as_u64().unwrap() >= 4 << 20
        },
    );
    assert!(seen["write"]["bytes"].as_u64().unwrap() >= 4 << 20, "{seen:#}");
    let total = &seen["write"]["total"];
    for stage in stages {
        let stage = &seen["write"][stage];
        assert!(count(stage) > 0, "{seen:#}");
        assert!(stage["sum_us"].as_u64() <= total["sum_us"].as_u64(), "{seen:#}");
    }
    assert!(seen["write"]["log"]["p50_us"].as_u64() > Some(1), "{seen:#}");
    let disks = seen["disks"].as_array().unwrap();
    assert_eq!(disks.len(), 2, "{seen:#}");
    for disk in disks {
        assert!(disk["log"]["bytes"].as_u64().unwrap() >= 4 << 20, "{seen:#}");
        assert!(count(&disk["flush"]["total"]) > 0, "{seen:#}");
    }
    let text = lab.cli(&ask);
    for head in ["REQUEST  STAGE", "write    log", "DESTAGES", "DISK", "network"] {
        assert!(text.contains(head), "{head}: {text}");
    }

    // Every second what was done in it, for programs a line each.
    let socket = lab.dir().join("supervisor/run/api.sock");
    let mut watch = etherpool();
    watch.arg("--socket").arg(&socket).args(ask);
    watch.args(["--interval", "1", "--count", "3", "--json"]);
    let watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    write("meanwhile");
    let output = watch.wait_with_output().unwrap();
    assert_eq!(code(&output), 0);
    let lines: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    let written: u64 = lines.iter().map(|line| line["write"]["bytes"].as_u64().unwrap()).sum();
    // ext4 may be writing its inode tables meanwhile.
    assert!(written >= 4 << 20, "{written} bytes in three intervals");
    for pair in lines.windows(2) {
        assert_eq!(pair[0]["now_ms"], pair[1]["began_ms"]);
    }
    // The page for Prometheus is made of the same.
    let socket = lab.dir().join("supervisor/run/target-volumes").display().to_string();
    let report = lab.json(&["target", "stats", "--socket", &socket]);
    let volume = &report[0]["volumes"]["cluster/hyperspace"];
    assert!(volume["write"]["bytes"].as_u64() >= seen["write"]["bytes"].as_u64(), "{report:#}");

    assert_eq!(lab.said(&["volume", "stats", "cluster/nothing"]).0, 3);
    assert_eq!(lab.said(&["volume", "stats", "cluster/hyperspace", "--count", "3"]).0, 2);
}
