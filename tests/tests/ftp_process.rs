//! The process that serves FTP: what it is, what is read by it, and that nobody waits for it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use blackbox::{Lab, LabOptions, wait_until};

/// The FTP process of a lab's supervisor.
fn process_of(lab: &Lab) -> Option<u32> {
    let dir = lab.dir().to_str().unwrap();
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (line.contains(" ftp ") && line.contains(dir)).then_some(pid)
    })
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// What curl gets, if it gets it.
fn get(port: u16, path: &str) -> Option<Vec<u8>> {
    let url = format!("ftp://127.0.0.1:{port}/{path}");
    let output = Command::new("curl").args(["-sS", "--max-time", "20", &url]).output().unwrap();
    output.status.success().then_some(output.stdout)
}

fn put(port: u16, file: &Path, path: &str) -> bool {
    let url = format!("ftp://127.0.0.1:{port}/{path}");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "--user", "lab:lab", "-T"]).arg(file).arg(url);
    curl.status().unwrap().success()
}

#[test]
fn it_is_nobody_sees_no_file_and_reads_what_everybody_may() {
    let lab = Lab::up(&LabOptions { nodes: 2, disks: 1, size: "512M", ..LabOptions::default() });
    let pid = process_of(&lab).expect("an FTP process");
    let process = PathBuf::from(format!("/proc/{pid}"));
    for task in std::fs::read_dir(process.join("task")).unwrap().flatten() {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name}: {status}")).trim().to_owned()
        };
        for name in ["Uid:", "Gid:"] {
            assert_eq!(line(name), "65534\t65534\t65534\t65534");
        }
        assert_eq!(line("Groups:"), "");
        // CAP_SETGID and CAP_SETUID; the thread of the log has none.
        let own = u64::from_str_radix(&line("CapPrm:"), 16).unwrap();
        assert!(own == 1 << 6 | 1 << 7 || (line("Name:") == "log" && own == 0), "{status}");
        assert_eq!((line("NoNewPrivs:").as_str(), line("Seccomp:").as_str()), ("1", "2"));
        // Each thread: none stays behind with all files.
        let root = task.path().join("root");
        assert_eq!(std::fs::read_dir(root).unwrap().count(), 0);
        let mounts = std::fs::read_to_string(task.path().join("mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
    }
    let limits = std::fs::read_to_string(process.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("1"), "{core}");

    let (mount, port) = (lab.mount(), lab.ftp_port());
    let make = |name: &str, owner: u32, mode: u32| {
        let path = mount.join(name);
        std::fs::write(&path, name).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    };
    make("open", 0, 0o644);
    make("roots", 0, 0o600);
    make("another's", 1000, 0o600);
    assert_eq!(get(port, "open").as_deref(), Some(&b"open"[..]));
    assert_eq!(get(port, "roots"), None);
    let local = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(local.path(), "new").unwrap();
    assert!(put(port, local.path(), "new"), "who is in the users-file is the volume's owner");
    assert_eq!(mount.join("new").metadata().unwrap().uid(), 0);
    assert!(!put(port, local.path(), "another%27s"), "and has no right to all of it");
    assert_eq!(std::fs::read(mount.join("another's")).unwrap(), b"another's");
    // As somebody else from the next login on.
    let users = lab.dir().join("supervisor/ftp-users");
    let line = std::fs::read_to_string(&users).unwrap();
    std::fs::write(&users, format!("{}:uid=1000:gid=1000\n", line.trim())).unwrap();
    assert!(put(port, local.path(), "another%27s"));
    assert!(!put(port, local.path(), "roots"));
    assert_eq!(std::fs::read(mount.join("another's")).unwrap(), b"new");
    assert!(!lab.log("supervisor").contains("confined"), "{}", lab.log("supervisor"));
}

/// It can't read the files: services do, each time that they are needed.
#[test]
fn a_renewed_certificate_is_used_and_its_key_is_told_to_nobody() {
    let lab = Lab::up(&LabOptions { nodes: 2, disks: 1, size: "512M", ..LabOptions::default() });
    let (certificate, key) = (lab.dir().join("ftp.pem"), lab.dir().join("ftp.key"));
    let renew = || {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2"]);
        openssl.args(["-subj", "/CN=ftp", "-addext", "subjectAltName=IP:127.0.0.1"]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        let made = openssl.output().expect("openssl, which this test makes certificates with");
        assert!(made.status.success(), "{made:?}");
        let text = std::fs::read_to_string(&key).unwrap();
        text.lines().nth(1).unwrap().to_owned()
    };
    let mut secrets = vec![renew()];
    let users = lab.dir().join("supervisor/ftp-users");
    let own = format!(
        "[ftp]\nlisten = \"127.0.0.1:{}\"\nusers-file = {users:?}\ncertificate = {certificate:?}\nkey = {key:?}\n",
        lab.ftp_port()
    );
    std::fs::write(lab.dir().join("supervisor/own.toml"), own).unwrap();
    lab.lab(&["kill", "supervisor"]);
    wait_until("its process dies with the supervisor", || process_of(&lab).is_none());
    lab.lab(&["start", "supervisor"]);
    lab.wait_served();
    std::fs::write(lab.mount().join("file"), "contents").unwrap();
    let get = |tls: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", "--user", "lab:lab", "--cacert"]).arg(&certificate);
        curl.args(tls).arg(format!("ftp://127.0.0.1:{}/file", lab.ftp_port()));
        curl.output().unwrap().stdout == b"contents"
    };
    wait_until("it is served by TLS", || get(&["--ssl-reqd"]));
    assert!(!get(&[]), "a password in clear");
    let pid = process_of(&lab);
    secrets.push(renew());
    assert!(get(&["--ssl-reqd"]), "the new one is all that is trusted");
    assert_eq!(process_of(&lab), pid);
    let log = lab.log("supervisor");
    let environment = std::fs::read(format!("/proc/{}/environ", pid.unwrap())).unwrap();
    for secret in secrets {
        assert!(!log.contains(&secret));
        assert!(!String::from_utf8_lossy(&environment).contains(&secret));
    }
}

/// A lab with two volumes that are served; their ports.
fn two_volumes() -> (Lab, [u16; 2]) {
    let options =
        LabOptions { nodes: 2, disks: 1, size: "1G", bare: true, ..LabOptions::default() };
    let lab = Lab::up(&options);
    lab.wait_for_disks(2);
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "--yes"]);
    let ports = ["a", "b"].map(|name| {
        let (volume, at) = (format!("cluster/{name}"), lab.dir().join(name));
        lab.cli(&["volume", "create", &volume, "--size", "200M", "--layout", "mirror:2"]);
        lab.cli(&["volume", "mkfs", &volume, "--type", "ext4", "--yes"]);
        lab.cli(&["volume", "mount", &volume, at.to_str().unwrap()]);
        std::fs::write(at.join("file"), vec![7; 64 << 20]).unwrap();
        std::fs::write(at.join("small"), "small").unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        lab.cli(&["volume", "serve", &volume, "ftp", "--listen", &free.to_string()]);
        free.port()
    });
    for port in ports {
        assert_eq!(get(port, "small").as_deref(), Some(&b"small"[..]));
    }
    (lab, ports)
}

/// A download that takes a while.
fn slow_download(port: u16, to: &Path) -> Child {
    let url = format!("ftp://127.0.0.1:{port}/file");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--limit-rate", "1M", "-o"]).arg(to).arg(url);
    let child = curl.stdout(Stdio::null()).spawn().unwrap();
    wait_until("the download runs", || to.metadata().is_ok_and(|found| found.len() > 0));
    child
}

fn unmounts_in_time(lab: &Lab, volume: &str) {
    let begun = Instant::now();
    lab.cli(&["volume", "unmount", volume]);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    println!("unmounted in {:.1} s", begun.elapsed().as_secs_f64());
    // Nothing keeps it: what is looked at is the bare device.
    lab.cli(&["volume", "check", volume]);
}

fn is_served_again(lab: &Lab, former: u32, ports: &[u16]) {
    wait_until("another process serves", || {
        process_of(lab).is_some_and(|pid| pid != former)
            && ports.iter().all(|port| get(*port, "small").is_some())
    });
}

#[test]
fn one_that_is_killed_breaks_transfers_off_and_comes_back() {
    let (lab, ports) = two_volumes();
    let local = tempfile::tempdir().unwrap();
    let pid = process_of(&lab).unwrap();
    let to = local.path().join("file");
    let mut download = slow_download(ports[0], &to);
    signal(pid, "-KILL");
    let begun = Instant::now();
    assert!(!download.wait().unwrap().success(), "an error, not a part that passes for the whole");
    assert!(begun.elapsed() < Duration::from_secs(10));
    is_served_again(&lab, pid, &ports);

    // Killed, and unmounted at once.
    let pid = process_of(&lab).unwrap();
    signal(pid, "-KILL");
    unmounts_in_time(&lab, "cluster/a");
    is_served_again(&lab, pid, &ports[1..]);
    unmounts_in_time(&lab, "cluster/b");
}

#[test]
fn one_that_hangs_keeps_no_volume() {
    let (lab, ports) = two_volumes();
    let local = tempfile::tempdir().unwrap();
    let pid = process_of(&lab).unwrap();
    let mut download = slow_download(ports[0], &local.path().join("file"));
    // It lets go of one that it serves while it can.
    unmounts_in_time(&lab, "cluster/a");
    assert!(!download.wait().unwrap().success());
    assert_eq!(process_of(&lab), Some(pid), "for that nobody else is disturbed");
    assert!(get(ports[1], "small").is_some());
    lab.cli(&["volume", "mount", "cluster/a", lab.dir().join("a").to_str().unwrap()]);
    lab.cli(&[
        "volume",
        "serve",
        "cluster/a",
        "ftp",
        "--listen",
        &format!("127.0.0.1:{}", ports[0]),
    ]);

    signal(pid, "-STOP");
    unmounts_in_time(&lab, "cluster/a");
    is_served_again(&lab, pid, &ports[1..]);

    // Also where nobody has anything to do with it.
    let pid = process_of(&lab).unwrap();
    signal(pid, "-STOP");
    is_served_again(&lab, pid, &ports[1..]);

    // Services that begin anew find one that hangs, and end it before they take over what is mounted.
    let pid = process_of(&lab).unwrap();
    signal(pid, "-STOP");
    let status: serde_json::Value = lab.json(&["status"]);
    let services = status["services_pid"].as_u64().unwrap();
    signal(services.try_into().unwrap(), "-KILL");
    is_served_again(&lab, pid, &ports[1..]);
    unmounts_in_time(&lab, "cluster/b");
}
