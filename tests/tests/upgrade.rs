//! A cluster with keys is upgraded one machine at a time, and taken back, between the former version and this one, while
//! its volumes are written and read. Clients see a pause and no error, and both versions find everything whole.
//!
//! `UPGRADE_MIX_SECS` says how long both versions work together on the way up, in each order: `make test-upgrade`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use blackbox::{
    Lab, LabOptions, Load, LoadReport, VOLUME, Verifier, former_program, program, text_of,
    wait_until,
};
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const SUPERVISOR: &str = "supervisor";
/// The volume that another machine has as an AoE disk.
const EXPORTED: &str = "cluster/exported";
const BLOCKS: u64 = 1024;
/// How long a client of plain AoE waits for an answer before it asks again.
const RETRY: Duration = Duration::from_secs(1);
const BRIEF: Duration = Duration::from_secs(2);

/// A cluster with load on it.
struct Cluster {
    lab: Lab,
    /// The program of the supervisor: what people type is of its version.
    supervisor: PathBuf,
    /// That of the nodes.
    nodes: PathBuf,
    exported: Verifier,
    /// None while the supervisor is replaced.
    mounted: Option<Load>,
    /// Volumes that were made meanwhile.
    made: Vec<String>,
}

impl Cluster {
    fn up(program: &Path) -> Cluster {
        let options = LabOptions { disks: 1, size: "512M", bare: true, ..LabOptions::default() };
        let lab = Lab::up_by(program, &options);
        lab.wait_for_disks(NODES.len());
        lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "e3.0", "--yes"]);
        lab.mount_volume();
        lab.cli(&["volume", "create", EXPORTED, "--size", "16M", "--layout", "mirror:2"]);
        let cable = lab.plug_in("cl0");
        let answer = lab.json(&["volume", "export", EXPORTED, "aoe", "--yes"]);
        let exported = Verifier::on(cable, answer["address"].as_str().unwrap(), 1, RETRY);
        let mounted = Some(write(&lab));
        let made = Vec::new();
        let (supervisor, nodes) = (program.to_owned(), program.to_owned());
        Cluster { lab, supervisor, nodes, exported, mounted, made }
    }

    /// Each node by itself, as people are told to: the next one once everything is whole again.
    fn nodes_become(&mut self, program: &Path) {
        for node in NODES {
            self.becomes(node, program);
            self.lab.go_on_by(&self.supervisor);
            self.wait_for_writes();
            self.wait_whole();
        }
        self.nodes = program.to_owned();
        self.wait_told_apart();
    }

    /// What it has mounted is unmounted, and mounted again; who has a volume as a disk waits.
    fn supervisor_becomes(&mut self, program: &Path) {
        let written = self.stop_writing();
        self.becomes(SUPERVISOR, program);
        self.supervisor = program.to_owned();
        wait_until("it is mounted again", || self.lab.is_mounted());
        written.verify();
        self.mounted = Some(write(&self.lab));
        self.wait_whole();
        self.wait_told_apart();
    }

    fn becomes(&mut self, who: &str, program: &Path) {
        self.lab.stop(who);
        self.lab.go_on_by(program);
        self.lab.lab(&["start", who]);
        let runs = || std::fs::read_link(format!("/proc/{}/exe", self.lab.pid(who)));
        // The lab's processes begin as setsid(1).
        wait_until(&format!("{who} is {}", program.display()), || {
            runs().is_ok_and(|runs| runs == program)
        });
    }

    /// Both versions at once, for a while; also what people do meanwhile.
    fn work_together(&mut self, duration: Duration) {
        let name = format!("cluster/made{}", self.made.len());
        self.lab.cli(&["volume", "create", &name, "--size", "4M", "--layout", "mirror:2"]);
        self.lab.cli(&["token", "create", "--valid", "1h"]);
        self.made.push(name);
        std::thread::sleep(duration);
        self.wait_for_writes();
        self.wait_whole();
    }

    /// The newer program's command tells who runs what, also where the supervisor is of before.
    fn wait_told_apart(&mut self) {
        let asks = program().canonicalize().unwrap();
        self.lab.go_on_by(&asks);
        let does_know = tells_versions(&self.supervisor);
        let of_nodes = Some(version_of(&self.nodes)).filter(|_| tells_versions(&self.nodes));
        let is_mixed = self.nodes != self.supervisor;
        wait_until("it is told who runs what", || {
            let told = self.lab.json(&["version", "--cluster"]);
            let nodes = told["nodes"].as_array().unwrap();
            let is_right = |name: &&str| {
                let node = nodes.iter().find(|node| node["name"] == *name);
                node.is_some_and(|node| node["version"].as_str() == of_nodes.as_deref())
            };
            told["version"] == version_of(&asks)
                && told["supervisor"]["version"] == version_of(&self.supervisor)
                && (!does_know || NODES.iter().all(is_right))
                && told["remarks"].as_array().unwrap().is_empty() == (does_know && !is_mixed)
        });
        self.lab.go_on_by(&self.supervisor);
    }

    fn wait_for_writes(&self) {
        self.mounted.as_ref().unwrap().wait_for_promises();
    }

    fn stop_writing(&mut self) -> LoadReport {
        let written = self.mounted.take().unwrap().stop();
        assert!(written.error.is_none(), "{:?}", written.error);
        written
    }

    fn wait_whole(&self) {
        wait_until("everything is whole", || {
            let pool = self.lab.json(&["pool", "show", "cluster"]);
            let volumes = pool["volumes"].as_array().unwrap();
            self.lab.pool_state() == "online"
                && pool["survives"] == 1
                && volumes.iter().all(|one| one["degraded"] == false && one["dirty_bytes"] == 0)
        });
    }

    /// All is as it was promised: to clients, by the supervisor's word, and by what either version reads off the disks.
    fn end(mut self, programs: [&Path; 2]) {
        let written = self.stop_writing();
        let Cluster { lab, exported, made, .. } = self;
        exported.finish();
        lab.cli(&["volume", "unmount", VOLUME]);
        lab.cli(&["volume", "check", VOLUME]);
        lab.cli(&["volume", "mount", VOLUME, lab.mount().to_str().unwrap()]);
        written.verify();
        for volume in [VOLUME, EXPORTED].into_iter().chain(made.iter().map(String::as_str)) {
            let found = lab.json(&["volume", "verify", volume]);
            assert_eq!((&found["bad"], &found["lost"]), (&Value::Array(vec![]), &0.into()));
        }
        lab.lab(&["down"]);
        for program in programs {
            let mut command = Command::new(program);
            command.args(["pool", "check", "--data"]);
            command.args(NODES.map(|node| lab.disk_file(node, 0)));
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}: {}", program.display(), text_of(&output));
        }
    }
}

fn write(lab: &Lab) -> Load {
    let load = Load::paced(&lab.mount().join("load"), BLOCKS, 7, Duration::from_millis(2));
    load.wait_for_promises();
    load
}

fn mix() -> Duration {
    let seconds = std::env::var("UPGRADE_MIX_SECS");
    seconds.map_or(BRIEF, |seconds| Duration::from_secs(seconds.parse().unwrap()))
}

fn version_of(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output().unwrap();
    text_of(&output).trim().trim_start_matches("etherpool ").to_owned()
}

/// Whether it is of a version that tells others which one it is.
fn tells_versions(program: &Path) -> bool {
    Command::new(program).args(["help", "version"]).output().unwrap().status.success()
}

/// The former program and this one; none where the former one wasn't built.
fn versions() -> Option<(PathBuf, PathBuf)> {
    let Some(former) = former_program() else {
        eprintln!(
            "*** SKIPPED: the former version isn't here (ETHERPOOL_FORMER_BIN, scripts/build-former)"
        );
        return None;
    };
    let path = |program: PathBuf| program.canonicalize().unwrap();
    let (former, new) = (path(former), path(program()));
    println!("from {} to {}", version_of(&former), version_of(&new));
    assert_ne!(version_of(&former), version_of(&new), "the test shows nothing");
    Some((former, new))
}

#[test]
fn nodes_are_upgraded_first_then_their_supervisor_and_all_go_back() {
    let Some((former, new)) = versions() else { return };
    let mut cluster = Cluster::up(&former);
    cluster.nodes_become(&new);
    cluster.work_together(mix());
    cluster.supervisor_becomes(&new);
    cluster.work_together(BRIEF);
    cluster.nodes_become(&former);
    cluster.work_together(BRIEF);
    cluster.supervisor_becomes(&former);
    cluster.end([&former, &new]);
}

#[test]
fn the_supervisor_is_upgraded_first_then_its_nodes_and_all_go_back() {
    let Some((former, new)) = versions() else { return };
    let mut cluster = Cluster::up(&former);
    cluster.supervisor_becomes(&new);
    cluster.work_together(mix());
    cluster.nodes_become(&new);
    cluster.work_together(BRIEF);
    cluster.supervisor_becomes(&former);
    cluster.work_together(BRIEF);
    cluster.nodes_become(&former);
    cluster.end([&former, &new]);
}
