//! What people mistype: every line ends with its code, names what and why, says what to do, and changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use blackbox::{Lab, LabOptions, etherpool, wait_until};
use serde_json::Value;

/// A line as it is typed (`LAB` and `BAD` are directories), the code that it ends with, and words of its message.
type Line = (&'static str, i32, &'static [&'static str]);

const POOLS: &[Line] = &[
    ("pool show nowhere", 3, &["pool nowhere", "pool list"]),
    ("pool shwo cluster", 2, &["shwo", "similar", "show"]),
    ("pool destroy nowhere --yes", 3, &["nowhere", "pool list"]),
    ("pool destroy other", 4, &["e1.1", "--yes"]),
    ("pool rename nowhere elsewhere", 3, &["pool nowhere", "pool list"]),
    ("pool rename other cluster", 7, &["cluster", "exists already", "another name"]),
    ("pool rename cluster bad/name", 2, &["bad/name", "letters, digits"]),
    ("pool import nowhere --yes", 3, &["nowhere", "pool list"]),
    ("pool create third e9.9 --yes", 3, &["e9.9", "not found", "disk list"]),
    ("pool create third e1.0 --yes", 4, &["e1.0", "disk of pool cluster", "another one"]),
    ("pool create third e3.1 e3.1 --yes", 2, &["e3.1", "named twice", "once"]),
    ("pool create third e3.1 --witness e3.1 --yes", 2, &["e3.1", "named twice", "once"]),
    ("pool create cluster e3.1 --yes", 7, &["cluster", "exists already", "another name"]),
    ("pool create third BAD/file --yes", 3, &["BAD/file", "not exported", "etherpool node"]),
    ("pool create third BAD/none --yes", 3, &["BAD/none", "No such file", "disk list"]),
    ("pool create third e3.1 --extent-size 3M --yes", 2, &["3.00 MiB", "power of two"]),
    ("pool create third e3.1 --spare most --yes", 2, &["most", "disk, node or a size"]),
    ("pool create third e3.1 --failure-domain rack --yes", 2, &["rack", "node or disk"]),
    ("pool create third e3.1 --domain rack=A:n9 --yes", 2, &["n9", "name disks"]),
    ("pool extend nowhere e3.1 --yes", 3, &["nowhere", "pool list"]),
    ("pool extend cluster e1.1 --yes", 4, &["e1.1", "pool other", "another one"]),
    ("pool extend cluster e1.0 --yes", 4, &["e1.0", "pool cluster already", "another one"]),
    ("pool remove cluster e1.1 --yes", 3, &["e1.1", "of pool cluster", "pool show cluster"]),
    ("pool evacuate cluster n9 --yes", 3, &["n9", "of pool cluster", "pool show cluster"]),
    ("pool replace cluster e1.0 e1.1 --yes", 4, &["e1.1", "pool other", "another one"]),
    ("pool replace cluster e1.0 e1.0 --yes", 4, &["e1.0", "its own place", "name the disk"]),
    ("pool cancel cluster 99 --yes", 3, &["job 99", "cluster", "pool jobs"]),
    ("pool cancel cluster first --yes", 2, &["first", "number", "pool jobs"]),
    ("pool set cluster colour red", 2, &["colour", "--help"]),
    ("pool set cluster rebuild-rate fast", 2, &["fast", "KiB"]),
    ("pool set cluster scrub-every never", 2, &["never", "1h30min or off"]),
    ("pool set cluster trim maybe", 2, &["maybe", "on or off"]),
    ("pool set nowhere trim on", 3, &["nowhere", "pool list"]),
    ("pool label cluster colour=red", 2, &["colour=red", "KIND=VALUE:DISK"]),
    ("pool scrub nowhere", 3, &["nowhere", "pool list"]),
    ("pool accept cluster e1.0 --yes", 3, &["e1.0", "another machine", "--dry-run"]),
    ("pool admit cluster nonsense --yes", 2, &["nonsense", "44 letters"]),
    ("pool key export cluster BAD/file", 7, &["BAD/file", "exists", "isn't there yet"]),
    ("pool key export cluster BAD/no/dir", 3, &["BAD/no/dir", "No such file", "may write"]),
    ("pool key export nowhere BAD/key", 3, &["nowhere", "pool list"]),
    ("pool key import cluster BAD/none", 3, &["BAD/none", "No such file", "key export"]),
    ("pool key import cluster BAD/file", 4, &["key of pool cluster", "newest copy"]),
    ("pool check BAD/none", 3, &["BAD/none", "no file or device", "paths"]),
    ("pool list -s colour", 2, &["colour", "no column", "survives"]),
    ("pool list --units furlongs", 2, &["furlongs", "bytes"]),
    ("disk online cluster e1.0", 2, &["e1.0 is not offline", "pool show cluster"]),
    ("disk offline cluster e9.9 --yes", 3, &["e9.9", "of pool cluster", "pool show cluster"]),
    ("disk wipe e1.0 --yes", 4, &["e1.0", "pool cluster", "another one"]),
    ("disk wipe e9.9 --yes", 3, &["e9.9", "disk list"]),
    ("disk wipe sda --yes", 2, &["sda", "eSHELF.SLOT"]),
];

const VOLUMES: &[Line] = &[
    (
        "volume create cluster/big --size 100T --layout mirror:2",
        1,
        &["100 TiB", "can be had", "pool extend"],
    ),
    (
        "volume create cluster/wide --size 16M --layout mirror:4",
        1,
        &["mirror:4", "4 machines", "pool extend"],
    ),
    ("volume create cluster/wide --size 16M --layout mirror:1", 2, &["mirror:1", "2 to 4 copies"]),
    ("volume create cluster/zero --size 0M --layout mirror:2", 2, &["0M", "zero"]),
    (
        "volume create cluster/odd --size 1000000 --layout mirror:2",
        2,
        &["1000000 bytes", "1000000M"],
    ),
    ("volume create cluster/share --size 200%FREE --layout mirror:2", 2, &["200%FREE", "100 %"]),
    (
        "volume create cluster/hyperspace --size 16M --layout mirror:2",
        7,
        &["cluster/hyperspace", "exists already", "another name"],
    ),
    ("volume create nowhere/new --size 16M --layout mirror:2", 3, &["nowhere", "pool list"]),
    (
        "volume create cluster/.. --size 16M --layout mirror:2",
        2,
        &["'..' is not a name", "letters, digits"],
    ),
    ("volume extend cluster/hyperspace --size 1M", 2, &["1.00 MiB is less", "volume reduce"]),
    ("volume extend cluster/hyperspace --size +100T", 1, &["100 TiB", "can be had", "pool extend"]),
    ("volume extend cluster/nothing --size +1G", 3, &["cluster/nothing", "volume list"]),
    (
        "volume reduce cluster/hyperspace --size 32M --yes",
        8,
        &["cluster/hyperspace is mounted", "volume unmount"],
    ),
    ("volume reduce cluster/second --size 1G --yes", 2, &["volume second has", "volume extend"]),
    (
        "volume reduce cluster/second --size -1G --yes",
        2,
        &["cluster/second", "nothing would be left"],
    ),
    ("volume show hyperspace", 2, &["hyperspace", "POOL/VOLUME"]),
    ("volume show cluster/nothing", 3, &["cluster/nothing", "volume list"]),
    (
        "volume rename cluster/second cluster/live",
        7,
        &["cluster/live", "exists already", "another name"],
    ),
    (
        "volume rename cluster/hyperspace other/hyperspace",
        4,
        &["other/hyperspace", "pool other", "stays in its pool"],
    ),
    (
        "volume remove cluster/hyperspace --yes",
        8,
        &["cluster/hyperspace is mounted", "volume unmount"],
    ),
    ("volume remove cluster/live --yes", 8, &["cluster/live is exported", "volume unexport"]),
    (
        "volume mkfs cluster/hyperspace --yes",
        8,
        &["cluster/hyperspace is mounted", "volume unmount"],
    ),
    ("volume mkfs cluster/live --yes", 8, &["cluster/live is exported", "volume unexport"]),
    ("volume check cluster/hyperspace", 8, &["cluster/hyperspace is mounted", "volume unmount"]),
    (
        "volume check cluster/second",
        1,
        &["cluster/second has no file system", "blank", "volume mkfs cluster/second"],
    ),
    (
        "volume accept-loss cluster/hyperspace --yes",
        2,
        &["log of cluster/hyperspace", "not damaged", "volume list"],
    ),
    ("volume attach cluster/nothing", 3, &["cluster/nothing", "volume list"]),
    (
        "volume detach cluster/second",
        3,
        &["cluster/second is not attached", "volume show cluster/second"],
    ),
    ("volume mount cluster/second LAB/busy", 4, &["LAB/busy", "not empty", "another directory"]),
    ("volume mount cluster/second LAB/busy/kept", 4, &["LAB/busy/kept", "not a directory"]),
    ("volume mount cluster/second BAD", 4, &["BAD", "go below", "roots"]),
    ("volume mount cluster/second /etc", 2, &["/etc", "belongs to the system", "/srv/NAME"]),
    (
        "volume mount cluster/second LAB/supervisor",
        4,
        &["LAB/supervisor", "would hide", "apart from it"],
    ),
    (
        "volume mount cluster/second LAB/hyperspace",
        8,
        &["LAB/hyperspace", "mounted already", "another directory"],
    ),
    (
        "volume mount cluster/second LAB/empty -o exec,,",
        2,
        &["mount option ''", "plain word", "leave the option out"],
    ),
    (
        "volume mount cluster/second LAB/empty",
        1,
        &["cluster/second has no file system", "blank", "volume mkfs"],
    ),
    (
        "volume mount cluster/live LAB/empty",
        8,
        &["cluster/live is exported as aoe:e77.7", "volume unexport"],
    ),
    (
        "volume unmount cluster/second",
        3,
        &["cluster/second is not mounted", "volume show cluster/second"],
    ),
    ("volume serve cluster/second ftp", 2, &["cluster/second is not mounted", "volume mount"]),
    ("volume serve cluster/hyperspace smb", 2, &["'smb' is neither", "POOL/VOLUME ftp"]),
    ("volume serve cluster/hyperspace ftp --listen 127.0.0.1", 2, &["127.0.0.1", "ADDRESS:PORT"]),
    (
        "volume serve cluster/hyperspace ftp --stop",
        3,
        &["cluster/hyperspace is not served", "volume show"],
    ),
    (
        "volume export cluster/second aoe:e1.0 --yes",
        7,
        &["e1.0", "disk of pool cluster", "another address"],
    ),
    (
        "volume export cluster/second aoe:e77.7 --yes",
        7,
        &["e77.7", "cluster/live", "another address"],
    ),
    ("volume export cluster/second aoe:e65535.255 --yes", 2, &["e65535.255", "shelf below 65535"]),
    (
        "volume export cluster/second aoe:e70.0 -i nosuch0 --yes",
        3,
        &["interface nosuch0", "ip link"],
    ),
    (
        "volume export cluster/second aoe:e70.0 --allow 02:00:00:00:00 --yes",
        2,
        &["02:00:00:00:00", "Ethernet address"],
    ),
    (
        "volume export cluster/hyperspace aoe:e70.0 --yes",
        8,
        &["cluster/hyperspace is mounted", "--read-only"],
    ),
    (
        "volume unexport cluster/second",
        3,
        &["cluster/second is not exported", "volume show cluster/second"],
    ),
    (
        "volume unexport cluster/live aoe:e70.0",
        3,
        &["cluster/live", "aoe:e70.0", "volume show cluster/live"],
    ),
    ("volume stats cluster/hyperspace --count 3", 2, &["--interval"]),
];

const OTHERS: &[Line] = &[
    ("token create --valid 0s", 2, &["a minute to 90 days", "24h"]),
    ("token create --valid tomorrow", 2, &["tomorrow", "span of time"]),
    ("token revoke nonsense", 2, &["nonsense", "token list"]),
    ("token revoke 01234567", 3, &["01234567", "token list"]),
    (
        "join --file BAD/file --node LAB/n1/run",
        2,
        &["BAD/file is no token", "epj1-", "token create"],
    ),
    ("join --file BAD/none --node LAB/n1/run", 2, &["BAD/none", "No such file", "--file"]),
    ("join --file BAD/binary --node LAB/n1/run", 2, &["BAD/binary", "UTF-8", "--file"]),
    ("key list --node BAD/file", 6, &["BAD/file", "run directory"]),
    ("key show --state-dir BAD/file", 2, &["BAD/file", "File exists", "directory"]),
    ("user list BAD/users", 2, &["BAD/users, line 2", "argon2", "user hash"]),
    ("user list BAD/none", 2, &["BAD/none", "No such file", "user hash"]),
    ("man BAD/file", 2, &["BAD/file", "File exists", "directory"]),
    ("aoe discover -i nosuch0", 3, &["interface nosuch0", "not there", "ip link"]),
    ("node --check --config BAD/unknown.toml", 2, &["unknown.toml: line 2", "`colour`", "correct"]),
    ("node --check --config BAD/type.toml", 2, &["type.toml: line 2", "\"one\"", "correct"]),
    (
        "node --check --config BAD/twice.toml",
        2,
        &["twice.toml: line 6", "e1.0 is exported twice", "correct"],
    ),
    ("node --check --config BAD/none", 2, &["BAD/none", "No such file", "correct"]),
    ("node --check --config BAD", 2, &["BAD", "Is a directory", "correct"]),
    ("node -i lo --etherpopulate BAD/none", 2, &["BAD/none", "No such file", "correct"]),
    (
        "target --check --config BAD/twice.toml",
        2,
        &["twice.toml: line 6", "e1.0 is exported twice", "correct"],
    ),
    ("target --check --config BAD/binary", 2, &["BAD/binary", "UTF-8", "correct"]),
    ("target --check e7.0=BAD", 2, &["BAD is a directory", "correct"]),
    ("target status --socket BAD/none", 6, &["BAD/none", "No such file", "run directory"]),
    (
        "supervisor --config BAD/colour.toml",
        2,
        &["colour.toml: line 1", "`colour`", "correct the file"],
    ),
    (
        "supervisor --config BAD/security.toml",
        2,
        &["security.toml: line 1", "strong", "encrypt", "correct the file"],
    ),
    (
        "supervisor --check --config BAD/roots.toml",
        2,
        &["roots.toml: line 2", "srv", "absolute", "correct the file"],
    ),
    ("supervisor --check --config BAD/ftp.toml", 2, &["BAD/users, line 2", "argon2", "user hash"]),
    ("supervisor --config BAD/none", 2, &["BAD/none", "No such file", "--config"]),
    (
        "boot serve --config BAD/colour.toml",
        2,
        &["colour.toml: line 1", "`colour`", "correct the file"],
    ),
    ("boot serve --config BAD/none", 2, &["BAD/none", "No such file", "--config"]),
    (
        "boot assign nobody node --state-dir BAD/boot --yes",
        3,
        &["nobody", "MAC or UUID", "boot list"],
    ),
    (
        "boot assign 02:00:00:00:00:01 volume --state-dir BAD/boot --yes",
        2,
        &["no volume is named", "behind"],
    ),
    (
        "boot assign 02:00:00:00:00:01 volume cluster/nothing --state-dir BAD/boot --yes",
        3,
        &["cluster/nothing", "volume list"],
    ),
    ("node accept nobody --state-dir BAD/boot --yes", 3, &["nobody", "node pending"]),
    ("node config nobody --state-dir BAD/boot", 3, &["nobody", "node accept"]),
    (
        "boot image verify nothing --state-dir BAD/boot",
        3,
        &["nothing", "BAD/boot", "boot image build"],
    ),
    ("lab --dir LAB kill n9", 3, &["n9", "n1, n2, n3"]),
    ("lab --dir LAB add-node --disks 0", 2, &["0", "1..=32"]),
    ("lab --dir BAD status", 3, &["no lab in BAD", "lab up"]),
    ("pool list --socket BAD/none", 6, &["BAD/none", "no supervisor answers", "--socket"]),
    ("pool list --socket BAD/file", 6, &["BAD/file", "no supervisor answers", "--socket"]),
    (
        "pool list --socket LAB/n1/run/node-control.sock",
        6,
        &["node-control.sock", "is no supervisor", "--socket"],
    ),
    ("pool list --api http://127.0.0.1:1", 2, &["http://127.0.0.1:1", "https://HOST:PORT"]),
    (
        "pool list --api https://127.0.0.1:1",
        2,
        &["https://127.0.0.1:1", "certificate", "--certificate-key"],
    ),
];

/// Files that aren't what they are given for.
fn write_files(bad: &Path) {
    let write = |name: &str, text: String| fs::write(bad.join(name), text).unwrap();
    write("file", "neither a token nor a key\n".into());
    fs::write(bad.join("binary"), [0xff, 0xfe, 0, 0x80]).unwrap();
    write("users", "# who may write\nlab:password\n".into());
    write("unknown.toml", "interfaces = ['lo']\ncolour = 'red'\n".into());
    write("type.toml", "interfaces = ['lo']\nshelf = 'one'\n".into());
    let export = format!("[[export]]\naddress = 'e1.0'\npath = '{}'\n", bad.join("file").display());
    write("twice.toml", format!("interfaces = ['lo']\nshelf = 1\n{export}{export}"));
    write("colour.toml", "colour = 'red'\n".into());
    write("security.toml", "security = 'strong'\n".into());
    write("roots.toml", "[mount]\nroots = ['srv']\n".into());
    // A boot server's, who has been here before.
    for name in ["machines", "images"] {
        fs::create_dir_all(bad.join("boot").join(name)).unwrap();
    }
    write("ftp.toml", format!("[ftp]\nusers-file = '{}'\n", bad.join("users").display()));
}

/// All files below a directory, with what is in them; of sockets and directories the names.
fn tree(root: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(root).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let contents = if kind.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        all.insert(path.display().to_string(), contents);
        if kind.is_dir() {
            tree(&path, all);
        }
    }
}

/// Without what goes on by itself.
fn still(report: &mut Value) {
    const GOES_ON: [&str; 5] =
        ["last_seen_secs", "heard_secs", "health", "log_bytes", "read_bytes"];
    match report {
        Value::Object(fields) => {
            // The file system that is mounted writes when it likes; nobody else writes anything.
            let is_mounted = fields.get("name").is_some_and(|name| name == "hyperspace");
            fields.retain(|name, _| !GOES_ON.contains(&name.as_str()));
            if is_mounted {
                fields.remove("written_bytes");
            }
            fields.values_mut().for_each(still);
        }
        Value::Array(all) => {
            // The history has refused commands as well, with why.
            all.retain(|one| one["result"].is_null() || one["result"] == "done");
            all.iter_mut().for_each(still);
        }
        _ => {}
    }
}

/// All that a mistyped line might have changed.
fn state(lab: &Lab, bad: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for args in [
        &["pool", "show", "cluster"][..],
        &["pool", "show", "other"],
        &["pool", "jobs"],
        &["pool", "history", "cluster"],
        &["volume", "list"],
        &["disk", "list"],
        &["token", "list"],
        &["aoe", "discover"],
    ] {
        let mut report = lab.json(args);
        still(&mut report);
        all.insert(args.join(" "), format!("{report:#}").into_bytes());
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let ours =
        |line: &&str| [lab.dir(), bad].iter().any(|dir| line.contains(dir.to_str().unwrap()));
    all.insert("mounts".into(), mounts.lines().filter(ours).collect::<String>().into_bytes());
    for name in ["supervisor/state", "n1/state", "n2/state", "n3/state", "busy", "empty"] {
        tree(&lab.dir().join(name), &mut all);
    }
    tree(bad, &mut all);
    // Who is told of what lasts is no matter of what is typed.
    all.retain(|name, _| !name.ends_with("/alerts.json"));
    all
}

fn what_is_wrong(lab: &Lab, bad: &Path, (line, code, words): Line) -> Vec<String> {
    let (lab_dir, bad_dir) = (lab.dir().to_str().unwrap(), bad.to_str().unwrap());
    let placed = |text: &str| text.replace("LAB", lab_dir).replace("BAD", bad_dir);
    let mut command = etherpool();
    command.env("ETHERPOOL_SOCKET", lab.dir().join("supervisor/run/api.sock"));
    command.args(placed(line).split(' '));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut wrong = Vec::new();
    let mut ask = |is_so: bool, what: String| {
        if !is_so {
            wrong.push(format!("{line}: {what}: {said}"));
        }
    };
    ask(output.status.code() == Some(code), format!("{:?}, not {code}", output.status.code()));
    // Where the grammar refuses, its message says what is wanted.
    let leads_on = said.contains("to do: ") || (code == 2 && said.contains("--help"));
    ask(leads_on, "it doesn't say what to do".into());
    ask(output.stdout.is_empty(), "standard output has something".into());
    for word in words.iter().map(|word| placed(word)).filter(|word| !said.contains(word.as_str())) {
        ask(false, format!("it lacks {word:?}"));
    }
    wrong
}

#[test]
fn what_is_mistyped_ends_as_documented_and_changes_nothing() {
    let lab = Lab::up(&LabOptions { size: "256M", bare: true, ..LabOptions::default() });
    let bad = tempfile::Builder::new().prefix("etherpool-bad").tempdir().unwrap();
    write_files(bad.path());
    lab.wait_for_disks(6);
    let mount = lab.mount().display().to_string();
    for name in ["busy", "empty", "hyperspace"] {
        fs::create_dir_all(lab.dir().join(name)).unwrap();
    }
    fs::write(lab.dir().join("busy/kept"), "kept").unwrap();
    for line in [
        "pool create cluster e1.0 e2.0 e3.0 --yes",
        "pool create other e1.1 e2.1 --no-witness --yes",
        "volume create cluster/hyperspace --size 64M --layout mirror:2",
        "volume mkfs cluster/hyperspace --yes",
        &format!("volume mount cluster/hyperspace {mount}"),
        "volume create cluster/second --size 16M --layout mirror:2",
        "volume create cluster/live --size 16M --layout mirror:2",
        "volume export cluster/live aoe:e77.7 --yes",
    ] {
        lab.cli(&line.split(' ').collect::<Vec<_>>());
    }
    // Until what was begun is done by itself.
    let mut before = state(&lab, bad.path());
    wait_until("nothing changes any more", || {
        std::thread::sleep(std::time::Duration::from_secs(2));
        let now = state(&lab, bad.path());
        // How a pool is is told once it was so at two looks, ten seconds apart.
        let is_told = lab.show(&["pool", "history", "cluster"]).contains("is online");
        std::mem::replace(&mut before, now) == before && is_told
    });

    let lines: Vec<Line> = [POOLS, VOLUMES, OTHERS].concat();
    let wrong: Vec<String> =
        lines.iter().flat_map(|line| what_is_wrong(&lab, bad.path(), *line)).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), lines.len(), wrong.join("\n"));

    let after = state(&lab, bad.path());
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let text = |state: &BTreeMap<String, Vec<u8>>, name: &String| {
        state.get(name).map(|contents| String::from_utf8_lossy(contents).into_owned())
    };
    for name in names {
        assert_eq!(text(&before, name), text(&after, name), "{name} has changed");
    }
}
