//! Where a volume may be mounted, what the settings of a pool from elsewhere may do, and that nothing
//! people use is moved or ended without a word.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use blackbox::{Lab, LabOptions, VOLUME, etherpool, text_of, wait_until};
use serde_json::Value;

fn small() -> Lab {
    Lab::up(&LabOptions { nodes: 2, disks: 1, size: "512M", ..LabOptions::default() })
}

/// A lab with a pool and a small volume that carries a file system, mounted nowhere.
fn bare() -> Lab {
    let lab = Lab::up(&LabOptions {
        nodes: 2,
        disks: 1,
        size: "512M",
        bare: true,
        ..LabOptions::default()
    });
    lab.wait_for_disks(2);
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "--yes"]);
    lab.cli(&["volume", "create", "cluster/v", "--size", "64M", "--layout", "mirror:2"]);
    lab
}

/// Runs a command that must be refused; returns what it says.
#[track_caller]
fn refused(lab: &Lab, args: &[&str]) -> String {
    let output = lab.cli_output(args);
    let said = text_of(&output);
    assert!(!output.status.success(), "{args:?} was done: {said}");
    println!("{args:?}: {said}");
    said
}

fn is_mounted(path: &Path) -> bool {
    let path = path.display().to_string();
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().any(|line| line.split(' ').nth(1) == Some(path.as_str()))
}

/// `etherpool status`: its exit code and what it says.
fn status(lab: &Lab) -> (i32, String) {
    lab.said(&["status"])
}

/// A request to the API itself.
fn api(lab: &Lab, route: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(lab.dir().join("supervisor/run/api.sock")).unwrap();
    write!(
        stream,
        "POST {route} HTTP/1.1\r\nhost: etherpool\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer)
}

fn registry(lab: &Lab) -> PathBuf {
    lab.dir().join("supervisor/state/pools.json")
}

/// Main points 1 and 5 (5.1, 5.13): what came with an import waits, also over a restart, until it is
/// confirmed or set anew; a release asks.
#[test]
fn settings_that_come_with_a_pool_wait_for_a_word() {
    let lab = small();
    std::fs::write(lab.mount().join("kept"), "kept").unwrap();
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();
    let known: Value =
        serde_json::from_str(&std::fs::read_to_string(registry(&lab)).unwrap()).unwrap();
    assert_eq!(known["pools"][0]["name"], "cluster");
    assert_eq!(known["pools"][0]["disks"].as_array().unwrap().len(), 3, "with the witness");
    assert_eq!(known["pools"][0]["held"], serde_json::json!([]), "made here");

    let said = refused(&lab, &["pool", "release", "cluster"]);
    let mount = lab.mount().display().to_string();
    assert!(said.contains(&mount) && said.contains("FTP") && said.contains("--yes"), "{said}");
    let (code, answer) = api(&lab, "/v2/pools/cluster/release", "{}");
    assert_eq!(code, 403, "{answer}");
    let preview = lab.cli(&["pool", "release", "cluster", "--dry-run"]);
    assert!(preview.contains(&mount), "{preview}");
    lab.wait_served();
    lab.cli(&["pool", "release", "cluster", "--yes"]);
    assert!(!is_mounted(&lab.mount()));
    wait_until("the pool is forgotten", || {
        !std::fs::read_to_string(registry(&lab)).unwrap().contains("cluster")
    });

    let output = lab.cli_output(&["pool", "import", "cluster"]);
    let said = text_of(&output);
    assert!(output.status.success(), "{said}");
    for part in [&*mount, "mount at", "FTP", "--yes"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let waits = |lab: &Lab| {
        wait_until("the pool is open", || lab.pool_state() == "online");
        let (code, said) = status(lab);
        assert!(said.contains("waits for confirmation") && said.contains(&mount), "{said}");
        assert_eq!(code, 0, "a remark, no failure: {said}");
        assert!(!is_mounted(&lab.mount()));
        assert!(lab.cli(&["pool", "show", "cluster"]).contains("waits for confirmation"));
    };
    waits(&lab);
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    waits(&lab);

    // One setting is replaced here; the other still waits.
    let other = lab.dir().join("other");
    lab.cli(&["volume", "mount", VOLUME, other.to_str().unwrap()]);
    assert_eq!(std::fs::read(other.join("kept")).unwrap(), b"kept");
    assert!(lab.status()["ftp"].is_null(), "FTP was not confirmed");
    let (_, said) = status(&lab);
    assert!(said.contains("waits for confirmation") && !said.contains("mount at"), "{said}");
    let said = lab.cli_output(&["pool", "import", "cluster", "--yes"]);
    assert!(said.status.success(), "{}", text_of(&said));
    wait_until("FTP runs", || !lab.status()["ftp"].is_null());
    assert!(!status(&lab).1.contains("waits for confirmation"));
    // What was confirmed is known after a restart.
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    wait_until("mounted and served again", || is_mounted(&other) && !lab.status()["ftp"].is_null());
}

/// Exports are the engine's: it decides by itself, before anybody can tell it.
#[test]
fn an_export_that_came_with_a_pool_is_not_made() {
    let lab = bare();
    lab.cli(&["volume", "export", "cluster/v", "aoe:e77.1", "--yes"]);
    let run_dir = lab.dir().join("supervisor/run/target-volumes");
    let exported = || {
        let asked =
            lab.cli_output(&["target", "status", "--json", "--socket", run_dir.to_str().unwrap()]);
        text_of(&asked).contains("e77.1")
    };
    wait_until("it is exported", exported);
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    wait_until("a pool of our own is exported again", exported);
    lab.cli(&["pool", "release", "cluster", "--yes"]);
    let said = text_of(&lab.cli_output(&["pool", "import", "cluster"]));
    assert!(said.contains("export as aoe:e77.1") && said.contains("ANY client"), "{said}");
    for who in ["engine", "services"] {
        assert!(!exported(), "before {who} is killed");
        lab.lab(&["kill", who]);
        wait_until("the pool is open again", || lab.pool_state() == "online");
    }
    assert!(!exported());
    lab.cli(&["pool", "import", "cluster", "--yes"]);
    wait_until("it is exported", exported);
    lab.lab(&["kill", "engine"]);
    wait_until("it is exported again", exported);
}

/// Two writers destroy a file system: what is exported for writing isn't mounted, also where one of both
/// came with the pool, and where two commands look at the same moment.
#[test]
fn a_mount_and_an_export_are_not_both_made() {
    let lab = bare();
    let mount_point = lab.dir().join("v").display().to_string();
    lab.cli(&["volume", "mkfs", "cluster/v", "--yes"]);
    // Whether somebody answers for the address is asked for some time before the export is made.
    for pause in [100, 500, 1000] {
        let export = ["volume", "export", "cluster/v", "aoe:e77.1", "--yes"];
        let (exported, mounted) = std::thread::scope(|scope| {
            let exporting = scope.spawn(|| lab.said(&export));
            std::thread::sleep(Duration::from_millis(pause));
            let mounted = lab.said(&["volume", "mount", "cluster/v", &mount_point]);
            (exporting.join().unwrap(), mounted)
        });
        let done = [&exported, &mounted].iter().filter(|(code, _)| *code == 0).count();
        assert_eq!(done, 1, "{exported:?} {mounted:?}");
        let other = if exported.0 == 0 { &mounted } else { &exported };
        assert!(other.0 == 8 && other.1.contains("second writer"), "{other:?}");
        let end = if exported.0 == 0 { "unexport" } else { "unmount" };
        lab.cli(&["volume", end, "cluster/v"]);
    }

    lab.cli(&["volume", "export", "cluster/v", "aoe:e77.1", "--yes"]);
    lab.cli(&["pool", "release", "cluster", "--yes"]);
    lab.cli(&["pool", "import", "cluster"]);
    lab.cli(&["volume", "mount", "cluster/v", &mount_point]);
    let (code, said) = lab.said(&["pool", "import", "cluster", "--yes"]);
    assert!(code == 0 && said.contains("stays out") && said.contains("second writer"), "{said}");
    let exports = |lab: &Lab| lab.json(&["status"])["services"][0]["exports"].to_string();
    assert_eq!(exports(&lab), "[]", "{said}");
    lab.cli(&["volume", "unmount", "cluster/v"]);
    lab.cli(&["pool", "import", "cluster", "--yes"]);
    wait_until("it is exported", || exports(&lab).contains("e77.1"));
}

/// What can't be read is kept, told of, and replaced by the next import.
#[test]
fn a_damaged_list_of_pools_is_kept_aside() {
    let lab = bare();
    lab.lab(&["kill", "supervisor"]);
    std::fs::write(registry(&lab), "{ no registry").unwrap();
    lab.lab(&["start", "supervisor"]);
    wait_until("status tells of it", || status(&lab).1.contains("pools.json"));
    wait_until("the pool can be imported", || {
        lab.cli_output(&["pool", "import", "cluster", "--yes"]).status.success()
    });
    let kept = registry(&lab).with_file_name("pools.json.damaged-1");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "{ no registry");
    assert!(std::fs::read_to_string(registry(&lab)).unwrap().contains("cluster"));
    assert!(status(&lab).1.contains("damaged-1"));
}

/// Main points 1 and 6 (5.7, 1.15).
#[test]
fn mount_points_are_judged_by_where_they_lead() {
    let lab = bare();
    lab.cli(&["volume", "mkfs", "cluster/v", "--yes"]);
    let rival = Rival::start(&lab);
    let elsewhere = tempfile::tempdir().unwrap();
    let dir = lab.dir().to_owned();
    std::fs::create_dir_all(dir.join("full/x")).unwrap();
    std::fs::write(dir.join("file"), "").unwrap();
    symlink(elsewhere.path(), dir.join("out")).unwrap();
    symlink("/etc", dir.join("etc")).unwrap();
    symlink(&dir, elsewhere.path().join("in")).unwrap();
    let rivals = rival.dir.join("state");
    std::fs::create_dir_all(rivals.join("empty")).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    let into = format!("{}/hidden", elsewhere.path().display());
    for (place, why) in [
        (into.as_str(), "below the directories"),
        ("/var/lib", "below the directories"),
        ("/etc/cron.new", "below the directories"),
        ("/mnt", "below the directories"),
        ("/srv/../etc/x", "'..'"),
        (&path("out"), "leads to"),
        (&path("out/x"), "leads to"),
        (&path("etc/new"), "leads to"),
        (&path("full"), "not empty"),
        (&path("file"), "not a directory"),
        (&path("supervisor"), "this supervisor needs"),
        (&path("supervisor/run/x"), "this supervisor needs"),
        (&path("n1"), "the node"),
        (&path("n2/state/x"), "the node"),
        (&rivals.join("empty").display().to_string(), "the supervisor"),
    ] {
        for dry_run in [false, true] {
            let mut args = vec!["volume", "mount", "cluster/v", place];
            args.extend(dry_run.then_some("--dry-run"));
            let said = refused(&lab, &args);
            assert!(said.contains(why) && said.contains("to do:"), "{place}: {said}");
        }
    }
    assert!(!Path::new(&into).exists() && !dir.join("n2/state/x").exists());
    // It isn't tried for ever.
    assert!(!lab.cli(&["volume", "show", "cluster/v"]).contains("mount"));
    drop(rival);
    lab.cli(&["volume", "mount", "cluster/v", &rivals.join("empty").display().to_string()]);
    lab.cli(&["volume", "unmount", "cluster/v"]);

    // By a link from elsewhere into a place that is allowed.
    let by_link = elsewhere.path().join("in/new/deep");
    lab.cli(&["volume", "mount", "cluster/v", by_link.to_str().unwrap()]);
    let place = dir.join("new/deep");
    assert!(is_mounted(&place));

    // Another volume neither over it, nor above, nor in it.
    lab.cli(&["volume", "create", "cluster/w", "--size", "64M", "--layout", "mirror:2"]);
    lab.cli(&["volume", "mkfs", "cluster/w", "--yes"]);
    for wrong in ["new/deep", "new", "new/deep/er"] {
        refused(&lab, &["volume", "mount", "cluster/w", &path(wrong)]);
    }

    // A mount that is made again finds files of somebody else: they aren't hidden.
    lab.lab(&["kill", "supervisor"]);
    wait_until("nothing is mounted", || {
        // What the killed supervisor left is dead, and taken away by its successor.
        let _ = Command::new("umount").args(["-l", place.to_str().unwrap()]).output();
        !is_mounted(&place)
    });
    std::fs::write(place.join("somebody's"), "precious").unwrap();
    lab.lab(&["start", "supervisor"]);
    wait_until("status says why it isn't mounted", || {
        let (code, said) = status(&lab);
        code == 5 && said.contains("not empty")
    });
    assert_eq!(std::fs::read(place.join("somebody's")).unwrap(), b"precious");
    std::fs::remove_file(place.join("somebody's")).unwrap();
    wait_until("it is mounted again", || is_mounted(&place) && status(&lab).0 == 0);
    let again = |lab: &Lab| {
        wait_until("it is mounted again", || {
            is_mounted(&place) && status(lab).0 == 0 && std::fs::read_dir(&place).is_ok()
        });
    };
    for who in ["engine", "services"] {
        lab.lab(&["kill", who]);
        again(&lab);
    }
    // An engine that ends in good order closes its pools, and they stay ours.
    let engine = || lab.status()["supervisor"]["engine"].as_i64();
    let before = engine().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(before).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    wait_until("another engine runs", || engine().is_some_and(|now| now != before));
    again(&lab);
    assert!(!status(&lab).1.contains("waits for confirmation"));

    // Mounted by an earlier version, where this one's configuration doesn't allow it.
    lab.lab(&["kill", "supervisor"]);
    wait_until("nothing is mounted", || {
        let _ = Command::new("umount").args(["-l", place.to_str().unwrap()]).output();
        !is_mounted(&place)
    });
    let config = std::fs::read_to_string(dir.join("supervisor/supervisor.toml")).unwrap();
    let (config, _) = config.split_once("[mount]").unwrap();
    let file = dir.join("narrow.toml");
    std::fs::write(&file, format!("{config}\n[mount]\nroots = [\"/srv\"]\n")).unwrap();
    let narrow = Supervisor::start(&file, &dir.join("supervisor/run"));
    wait_until("status says why it isn't mounted and how to allow it", || {
        let (code, said) = status(&lab);
        code == 5 && said.contains("mounts go below") && said.contains("`roots` in [mount]")
    });
    drop(narrow);
    lab.lab(&["start", "supervisor"]);
    again(&lab);
}

/// Main point 4 (5.8): mkfs is proposed for a blank volume and never otherwise.
#[test]
fn remedies_for_a_failed_mount_are_safe() {
    let lab = bare();
    let at = lab.dir().join("at").display().to_string();
    let proposes = |said: &str| ["mkfs", "force", "reset"].iter().any(|word| said.contains(word));
    for args in [
        &["volume", "mount", "cluster/v", &at][..],
        &["volume", "mount", "cluster/v", &at, "--dry-run"],
    ] {
        let said = refused(&lab, args);
        assert!(said.contains("blank") && said.contains("volume mkfs cluster/v"), "{said}");
    }
    let device =
        lab.json(&["volume", "attach", "cluster/v"])["device"].as_str().unwrap().to_owned();
    assert!(Command::new("mkswap").arg(&device).stdout(Stdio::null()).status().unwrap().success());
    let said = refused(&lab, &["volume", "mount", "cluster/v", &at]);
    assert!(said.contains("swap space") && !proposes(&said), "{said}");
    let said = refused(&lab, &["volume", "mkfs", "cluster/v", "--yes"]);
    assert!(said.contains("swap space") && !proposes(&said.replace("volume mkfs", "")), "{said}");
    // What it carries can't be told when it can't be read.
    lab.cli(&["volume", "detach", "cluster/v"]);
    lab.cli(&["volume", "mkfs", "cluster/v", "--yes", "--force"]);
    let said = refused(&lab, &["volume", "mount", "cluster/v", &at, "--option", "no-such-option"]);
    assert!(said.contains("ext2/3/4") && !proposes(&said), "{said}");
    std::fs::write(lab.dir().join("file"), "").unwrap();
    let file = lab.dir().join("file").display().to_string();
    let said = refused(&lab, &["volume", "mount", "cluster/v", &file]);
    assert!(!proposes(&said), "{said}");
    lab.cli(&["volume", "mount", "cluster/v", &at]);
}

/// Main point 5 (5.13).
#[test]
fn nothing_that_is_used_moves_silently() {
    let lab = small();
    let (here, there) = (lab.mount(), lab.dir().join("there"));
    let other = there.display().to_string();
    let said = refused(&lab, &["volume", "mount", VOLUME, &other]);
    assert!(said.contains(&here.display().to_string()) && said.contains("FTP"), "{said}");
    let preview = lab.cli(&["volume", "mount", VOLUME, &other, "--dry-run"]);
    assert!(preview.contains("FTP") && preview.contains(&other), "{preview}");
    let route = format!("/v2/pools/cluster/volumes/{}/mount", &VOLUME["cluster/".len()..]);
    for body in [
        format!("{{\"path\":{other:?}}}"),
        format!("{{\"path\":{other:?},\"move_from\":\"/srv/x\"}}"),
    ] {
        let (code, answer) = api(&lab, &route, &body);
        assert_eq!(code, 409, "{answer}");
    }
    let preview = lab.cli(&["volume", "unmount", VOLUME, "--dry-run"]);
    assert!(preview.contains("FTP"), "{preview}");
    assert!(is_mounted(&here) && !is_mounted(&there));

    // Who uses it is named, before FTP is ended for nothing.
    let mut user =
        Command::new("sleep").arg("1000").current_dir(&here).stdin(Stdio::null()).spawn().unwrap();
    for args in [
        &["volume", "mount", VOLUME, &other, "--yes"][..],
        &["volume", "mount", VOLUME, &other, "--dry-run"],
        &["volume", "unmount", VOLUME],
        &["volume", "unmount", VOLUME, "--dry-run"],
        &["pool", "release", "cluster", "--yes"],
        &["pool", "release", "cluster", "--dry-run"],
    ] {
        let said = refused(&lab, args);
        assert!(said.contains("sleep"), "{args:?}: {said}");
    }
    user.kill().unwrap();
    user.wait().unwrap();
    assert!(lab.status()["ftp"].is_string());

    // Where Linux doesn't let a mounted file system grow, it isn't unmounted for that unasked.
    if !may_grow_mounted() {
        lab.lab(&["add-node"]);
        lab.lab(&["add-node"]);
        lab.cli(&["pool", "extend", "cluster", "e3.0", "e4.0", "--yes"]);
        let before = lab.volume()["size_bytes"].clone();
        let grow = ["volume", "extend", VOLUME, "--size", "100%FREE", "--resizefs"];
        let said = refused(&lab, &grow);
        assert!(said.contains("unmounted") && said.contains("CAP_SYS_RESOURCE"), "{said}");
        let preview = lab.cli(&[&grow[..], &["--dry-run"]].concat());
        assert!(preview.contains("unmounted"), "{preview}");
        assert_eq!(lab.volume()["size_bytes"], before, "nothing has grown");
        lab.cli(&[&grow[..], &["--yes"]].concat());
        assert_ne!(lab.volume()["size_bytes"], before);
        lab.wait_served();
    }

    lab.cli(&["volume", "mount", VOLUME, &other, "--yes"]);
    assert!(is_mounted(&there) && !is_mounted(&here));
    wait_until("FTP runs on the new mount", || lab.status()["ftp"].is_string());
    let output = lab.cli_output(&["volume", "unmount", VOLUME]);
    assert!(output.status.success() && text_of(&output).contains("FTP"), "{}", text_of(&output));
    assert!(!is_mounted(&there));
}

fn may_grow_mounted() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() >> CAP_SYS_RESOURCE & 1 == 1
}

/// A supervisor that ends with the test.
struct Supervisor {
    child: Child,
}

impl Supervisor {
    fn start(config: &Path, run_dir: &Path) -> Supervisor {
        let log = std::fs::File::create(config.with_extension("log")).unwrap();
        let child = etherpool()
            .args(["supervisor", "--config", config.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let supervisor = Supervisor { child };
        wait_until("the supervisor answers", || {
            UnixStream::connect(run_dir.join("api.sock")).is_ok()
        });
        supervisor
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// A second supervisor of this machine, without interfaces.
struct Rival {
    dir: PathBuf,
    _supervisor: Supervisor,
}

impl Rival {
    fn start(lab: &Lab) -> Rival {
        let dir = lab.dir().join("rival");
        std::fs::create_dir_all(&dir).unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "state-dir = {:?}\nrun-dir = {:?}\ndevice-dir = {:?}\n",
            path("state"),
            path("run"),
            path("dev")
        );
        let file = dir.join("supervisor.toml");
        std::fs::write(&file, config).unwrap();
        let supervisor = Supervisor::start(&file, &dir.join("run"));
        Rival { dir, _supervisor: supervisor }
    }
}
