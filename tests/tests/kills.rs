//! The supervisor is killed with its children at a named place of evacuation, replacement, rebuild or import, while
//! a mounted volume is written: what was promised is there, and the work goes on to its end (docs/engine.md, 21).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use blackbox::{Lab, LabOptions, Load, LoadReport, Rival, VOLUME, wait_until};

const BLOCKS: u64 = 512;
const DISKS: [&str; 4] = ["e1.0", "e2.0", "e3.0", "e4.0"];
/// The machine whose disk is emptied or lost, and another disk of it.
const LEAVES: [&str; 3] = ["n1", "e1.0", "e1.1"];

#[derive(Clone, Copy, Debug)]
enum Work {
    Evacuate,
    Replace,
    Rebuild,
}

/// A lab with a pool of a disk of each of four machines, and a mounted volume with something on all of them.
fn filled() -> Lab {
    let options =
        LabOptions { nodes: 4, disks: 2, size: "512M", bare: true, ..LabOptions::default() };
    let lab = Lab::up(&options);
    lab.wait_for_disks(8);
    lab.cli(&[&["pool", "create", "cluster"], &DISKS[..], &["--yes"]].concat());
    lab.mount_volume();
    std::fs::write(lab.mount().join("kept"), vec![7; 64 << 20]).unwrap();
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();
    lab
}

fn load(lab: &Lab, file: &str) -> Load {
    let load = Load::paced(&lab.mount().join(file), BLOCKS, 5, Duration::from_millis(5));
    load.wait_for_promises();
    load
}

/// Begins a command that may never be answered.
fn begin(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn wait_until_stopped(place: &str, log: impl Fn() -> String) {
    wait_until(place, || log().contains(&format!("stopped at {place}")));
}

/// From the disks, past the page cache.
fn verify(lab: &Lab, reports: &[&LoadReport]) {
    lab.wait_clean();
    lab.cli(&["volume", "unmount", VOLUME]);
    lab.cli(&["volume", "mount", VOLUME, lab.mount().to_str().unwrap()]);
    reports.iter().for_each(|report| report.verify());
    assert!(std::fs::read(lab.mount().join("kept")).unwrap() == vec![7; 64 << 20]);
    lab.cli(&["volume", "verify", VOLUME]);
}

/// Kills the supervisor at `place` of the work.
fn killed_at(place: &'static str, work: Work) {
    println!("{work:?}, {place}");
    let lab = filled();
    // Only now: a disk that was slow for a moment while that was filled would be copied to, and whoever wrote there
    // would wait for an engine that nobody ends.
    lab.wait_clean();
    lab.lab(&["kill", "supervisor"]);
    lab.start_supervisor_stopping_at(place);
    wait_until("it is mounted before the work", || lab.is_mounted());
    let [node, disk, other] = LEAVES;
    if let Work::Rebuild = work {
        lab.cli(&["pool", "set", "cluster", "rebuild-delay", "2s"]);
    }
    let before = load(&lab, "before");
    let command = match work {
        Work::Evacuate => Some(vec!["pool", "evacuate", "cluster", disk, "--yes"]),
        Work::Replace => Some(vec!["pool", "replace", "cluster", disk, other, "--yes"]),
        Work::Rebuild => None,
    };
    let mut asked = command.map(|args| begin(lab.cli_command(&args)));
    if asked.is_none() {
        lab.lab(&["kill", node]);
    }
    wait_until_stopped(place, || lab.log("supervisor"));
    lab.lab(&["kill", "supervisor"]);
    if let Some(asked) = &mut asked {
        asked.wait().unwrap();
    }
    let before = before.stop();

    lab.lab(&["start", "supervisor"]);
    wait_until("it is mounted again", || lab.is_mounted());
    let after = load(&lab, "after");
    wait_until("the work is done", || {
        let pool = lab.json(&["pool", "show", "cluster"]);
        let jobs = pool["jobs"].as_array().unwrap();
        match work {
            Work::Rebuild => {
                jobs.is_empty()
                    && pool["survives"] == 1
                    && pool["volumes"][0]["degraded"] == false
                    && pool["volumes"][0]["dirty_bytes"] == 0
            }
            Work::Evacuate | Work::Replace => {
                !jobs.is_empty() && jobs.iter().all(|job| job["state"] == "done")
            }
        }
    });
    let after = after.stop();
    assert!(after.error.is_none(), "{:?}", after.error);
    if let Work::Evacuate = work {
        // Nothing is missed of a machine on which nothing is.
        lab.lab(&["kill", node]);
        [&before, &after].iter().for_each(|report| report.verify());
        assert_eq!(lab.volume()["dirty_bytes"], 0, "{}", lab.volume());
    }
    lab.lab(&["start", node]);
    verify(&lab, &[&before, &after]);
}

/// Another supervisor is killed at `place` of its import; the former owner takes the pool back.
fn import_killed_at(place: &'static str) {
    println!("import, {place}");
    let lab = filled();
    let before = load(&lab, "before");
    let rival = Rival::start_stopping_at(&lab, place);
    wait_until("the rival sees whose pool it is", || rival.pool_state() == "foreign");
    lab.lab(&["kill", "supervisor"]);
    let before = before.stop();
    let mut asked = begin(rival.cli_command(&["pool", "import", "cluster", "--yes", "--force"]));
    wait_until_stopped(place, || rival.log());
    rival.kill();
    asked.wait().unwrap();

    lab.lab(&["start", "supervisor"]);
    wait_until("the former owner serves it", || {
        // By itself where the other one wasn't the owner yet.
        lab.is_mounted()
            || lab.said(&["pool", "import", "cluster", "--yes", "--force"]).0 == 0
                && lab.is_mounted()
    });
    let after = load(&lab, "after").stop();
    assert!(after.error.is_none(), "{:?}", after.error);
    verify(&lab, &[&before, &after]);
}

#[test]
fn evacuation_goes_on_after_a_kill_while_two_lists_of_voters_count() {
    killed_at("votes.both", Work::Evacuate);
}

#[test]
fn replacement_goes_on_after_a_kill_when_groups_have_just_moved() {
    killed_at("move.switched", Work::Replace);
}

#[test]
fn a_rebuild_goes_on_after_a_kill_when_copies_have_just_been_credited() {
    killed_at("copy.credited", Work::Rebuild);
}

#[test]
fn a_pool_is_taken_back_after_a_kill_in_an_import_that_has_bounded_its_log() {
    import_killed_at("log.bounded");
}

/// All that the work passes but what is tried every day.
#[test]
#[ignore = "takes long: make test-long"]
fn all_work_goes_on_after_a_kill_at_any_place() {
    let moves = [
        "job.recorded",
        "move.begun",
        "copy.written",
        "copy.flushed",
        "copy.applied",
        "copy.credited",
        "move.switched",
    ];
    for work in [Work::Evacuate, Work::Replace, Work::Rebuild] {
        moves.iter().for_each(|place| killed_at(place, work));
    }
    // Of a machine that is gone the vote stays where no other machine could have it.
    for work in [Work::Evacuate, Work::Replace] {
        killed_at("votes.both", work);
        killed_at("votes.moved", work);
    }
    // The machine's vote goes to its other disk.
    killed_at("area.begun", Work::Replace);
    killed_at("area.labelled", Work::Replace);
    killed_at("job.ended", Work::Rebuild);
    for place in [
        "open.claimed",
        "open.configured",
        "open.checkpointed",
        "open.done",
        "log.repeated",
        "log.replayed",
    ] {
        import_killed_at(place);
    }
}
