//! Two machines with data and a third with a witness: any one of them is destroyed with its disks. The pool goes
//! on, a new machine takes its place, and then another one may go. Where nobody names a third machine it is the
//! supervisor's.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aoe_wire::{SessionVersion, ShelfSlot, Status};
use blackbox::attacker::{Attacker, Stranger, any_key};
use blackbox::frames::{BROADCAST, address_of, config_request, header};
use blackbox::{Lab, LabOptions, Load, Rival, VOLUME, etherpool, votes, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const BLOCKS: u64 = 512;

fn pool(lab: &Lab) -> Value {
    lab.json(&["pool", "show", "cluster"])
}

/// A pool of three machines, one of which only votes, with a mounted volume. What is lost is made anew at once.
fn two_and_a_witness() -> Lab {
    let lab = machines(3, "512M,512M,64M");
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "--witness", "e3.0", "--yes"]);
    mount_volume(&lab);
    lab
}

/// The same of two machines, of which nobody said that it needs a witness.
fn two_machines() -> Lab {
    with_pool(machines(2, "512M"))
}

fn with_pool(lab: Lab) -> Lab {
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "--yes"]);
    mount_volume(&lab);
    lab
}

/// So many, with a disk each, and no pool.
fn machines(nodes: u16, size: &'static str) -> Lab {
    machines_with(LabOptions { nodes, size, ..LabOptions::default() })
}

fn machines_with(options: LabOptions) -> Lab {
    let lab = Lab::up(&LabOptions { disks: 1, bare: true, ..options });
    lab.wait_for_disks(usize::from(options.nodes));
    lab
}

/// The supervisor's state is put elsewhere, where it knows nobody, or another supervisor uses its vote without being named.
fn two_without_keys(size: &'static str) -> Lab {
    machines_with(LabOptions { nodes: 2, size, security: "none", ..LabOptions::default() })
}

fn mount_volume(lab: &Lab) {
    lab.cli(&["pool", "set", "cluster", "rebuild-delay", "2s"]);
    lab.mount_volume();
}

/// `lost` is destroyed under load, a new machine takes its place; then `next` is destroyed.
fn any_may_go(lost: usize, next: &str) {
    let lab = two_and_a_witness();
    lab.wait_until_one_may_go(3);
    let load = Load::start(&lab.mount().join("load"), BLOCKS, lost as u64);
    load.wait_for_promises();
    lab.lab(&["destroy", &format!("n{lost}")]);
    load.wait_for_promises();
    assert!(!lab.disk_file(&format!("n{lost}"), 0).exists());
    let is_witness = lost == 3;
    // The supervisor alone finds what is left of the pool, too.
    lab.lab(&["kill", "supervisor"]);
    let before = load.stop();
    lab.lab(&["start", "supervisor"]);
    wait_until("the volume is mounted again", || lab.is_mounted());
    let load = Load::start(&lab.mount().join("load2"), BLOCKS, lost as u64 + 7);
    load.wait_for_promises();

    lab.lab(&["add-node", "--disks", "1", "--size", if is_witness { "64M" } else { "512M" }]);
    match is_witness {
        true => lab.cli(&["pool", "extend", "cluster", "--witness", "e4.0", "--yes"]),
        false => lab.cli(&["pool", "extend", "cluster", "e4.0", "--yes"]),
    };
    // Nobody has to say that what was lost is made anew, and who votes instead.
    lab.wait_until_one_may_go(3);
    let gone = format!("e{lost}.0");
    lab.cli(&["pool", "remove", "cluster", &gone, "--yes", "--wait"]);
    lab.wait_until_one_may_go(3);
    let disks = pool(&lab)["disks"].as_array().unwrap().len();
    assert_eq!(disks, 3, "{}", pool(&lab));
    lab.cli(&["volume", "verify", VOLUME]);
    load.wait_for_promises();

    lab.lab(&["destroy", next]);
    load.wait_for_promises();
    let report = load.stop();
    // From the disks that are left, past the page cache.
    lab.cli(&["volume", "unmount", VOLUME]);
    lab.cli(&["volume", "mount", VOLUME, lab.mount().to_str().unwrap()]);
    before.verify();
    report.verify();
    wait_until("the loss is told", || lab.pool_state() == "degraded");
}

#[test]
fn the_first_machine_is_destroyed_then_the_second() {
    any_may_go(1, "n2");
}

#[test]
fn the_second_machine_is_destroyed_then_the_witness() {
    any_may_go(2, "n3");
}

#[test]
fn the_witness_is_destroyed_then_a_machine_with_data() {
    any_may_go(3, "n1");
}

/// The files by which a supervisor with this state directory votes.
fn files_in(state_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(state_dir.join("witnesses")).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| name.starts_with('e') && !name.ends_with(".origin"));
    names.map(|name| state_dir.join("witnesses").join(name)).collect()
}

fn files_of(lab: &Lab) -> Vec<PathBuf> {
    files_in(&lab.dir().join("supervisor/state"))
}

/// One of two machines is destroyed under load: the other and the supervisor go on, also after the supervisor was
/// started again. A new machine takes its place, and then the first one's partner may go.
fn of_two_machines_one_goes(lost: usize) {
    let lab = two_machines();
    lab.wait_until_one_may_go(3);
    assert_eq!(files_of(&lab).len(), 1);
    let load = Load::start(&lab.mount().join("load"), BLOCKS, lost as u64);
    load.wait_for_promises();
    lab.lab(&["destroy", &format!("n{lost}")]);
    load.wait_for_promises();
    lab.lab(&["kill", "supervisor"]);
    let before = load.stop();
    println!("a write took {} ms at most", before.longest.as_millis());
    lab.lab(&["start", "supervisor"]);
    wait_until("the volume is mounted again", || lab.is_mounted());
    before.verify();

    lab.lab(&["add-node", "--disks", "1", "--size", "512M"]);
    let load = Load::start(&lab.mount().join("load2"), BLOCKS, lost as u64 + 7);
    lab.cli(&["pool", "extend", "cluster", "e3.0", "--yes"]);
    lab.wait_until_one_may_go(3);
    lab.cli(&["pool", "remove", "cluster", &format!("e{lost}.0"), "--yes", "--wait"]);
    lab.wait_until_one_may_go(3);
    assert_eq!(files_of(&lab).len(), 1, "it needs no second one");
    load.wait_for_promises();
    lab.lab(&["destroy", &format!("n{}", 3 - lost)]);
    load.wait_for_promises();
    let report = load.stop();
    lab.cli(&["volume", "unmount", VOLUME]);
    lab.cli(&["volume", "mount", VOLUME, lab.mount().to_str().unwrap()]);
    before.verify();
    report.verify();
}

#[test]
fn the_first_of_two_machines_is_destroyed() {
    of_two_machines_one_goes(1);
}

#[test]
fn the_second_of_two_machines_is_destroyed() {
    of_two_machines_one_goes(2);
}

/// The supervisor is destroyed under load, with its state: another one opens the pool with the votes of the two
/// machines, votes itself when it is told to, and then a machine may go.
#[test]
fn the_supervisor_of_two_machines_is_destroyed() {
    let lab = two_machines();
    lab.wait_until_one_may_go(3);
    let load = Load::start(&lab.mount().join("load"), BLOCKS, 3);
    load.wait_for_promises();
    let rival = Rival::start(&lab);
    assert_eq!(files_of(&lab).len(), 1);
    lab.lab(&["kill", "supervisor"]);
    std::fs::remove_dir_all(lab.dir().join("supervisor/state")).unwrap();
    let report = load.stop();

    wait_until("another supervisor has the pool", || {
        rival.cli(&["pool", "import", "cluster", "--yes"]);
        rival.pool_state() == "degraded"
    });
    let place = rival.mounts().join("v");
    rival.must(&["volume", "mount", VOLUME, place.to_str().unwrap()]);
    report.verify_at(&place.join("load"));
    let load = Load::start(&place.join("load2"), BLOCKS, 4);
    load.wait_for_promises();

    let show = || -> Value {
        serde_json::from_str(&rival.code(&["pool", "show", "cluster", "--json"]).1).unwrap()
    };
    let shown = show();
    assert_eq!(votes(&shown), (3, 2));
    let former = shown["disks"].as_array().unwrap().iter().find(|one| one["is_witness"] == true);
    let former = former.unwrap()["id"].as_str().unwrap();
    rival.must(&["pool", "extend", "cluster", "--witness", "supervisor", "--yes"]);
    assert_eq!(files_in(&lab.dir().join("rival/state")).len(), 1);
    rival.must(&["pool", "remove", "cluster", former, "--yes", "--wait"]);
    wait_until("any machine may go again", || votes(&show()) == (3, 3) && show()["survives"] == 1);
    lab.lab(&["destroy", "n1"]);
    load.wait_for_promises();
    let after = load.stop();
    rival.must(&["volume", "unmount", VOLUME]);
    rival.must(&["volume", "mount", VOLUME, place.to_str().unwrap()]);
    report.verify_at(&place.join("load"));
    after.verify();
    rival.must(&["volume", "unmount", VOLUME]);
}

/// The pool goes to another supervisor while the first one runs on: its witness votes there too, by the network, and one
/// of the machines may go.
#[test]
fn another_supervisor_counts_the_vote_of_the_first() {
    let lab = with_pool(two_without_keys("512M"));
    lab.wait_until_one_may_go(3);
    lab.cli(&["volume", "unmount", VOLUME]);
    lab.cli(&["pool", "release", "cluster", "--yes"]);
    let rival = Rival::start(&lab);
    wait_until("another supervisor has the pool", || {
        rival.cli(&["pool", "import", "cluster", "--yes"]);
        rival.pool_state() == "online"
    });
    let shown = rival.must(&["pool", "show", "cluster", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(votes(&shown), (3, 3));
    let place = rival.mounts().join("v");
    rival.must(&["volume", "mount", VOLUME, place.to_str().unwrap()]);
    let load = Load::start(&place.join("load"), BLOCKS, 5);
    load.wait_for_promises();
    lab.lab(&["destroy", "n1"]);
    load.wait_for_promises();
    let report = load.stop();
    rival.must(&["volume", "unmount", VOLUME]);
    rival.must(&["volume", "mount", VOLUME, place.to_str().unwrap()]);
    report.verify();
    rival.must(&["volume", "unmount", VOLUME]);
    assert_eq!(files_of(&lab).len(), 1);
}

/// The process that exports the witness is killed under load, again and again: the vote comes back each time, and is
/// as good as before.
/// Somebody who has made himself a key finds the file by which the supervisor votes, and opens no session with it.
#[test]
fn a_vote_is_for_supervisors_that_are_named() {
    let lab = machines(2, "512M");
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "--yes"]);
    let attacker = Attacker::plug_in(&lab);
    let mut found = None;
    wait_until("the supervisor's vote is found", || {
        found = find_vote(&attacker);
        found.is_some()
    });
    let address = found.unwrap();
    let opens = |address: &str, own: Option<&seal::KeyPair>| {
        Stranger::open(attacker.interface(), address, own, SessionVersion::NEWEST).map(drop)
    };
    for own in [Some(&any_key()), None] {
        assert_eq!(opens(&address, own), Err(Some(Status::Refused)), "{address}");
    }
    // Nodes of the lab speak with everybody who has a key.
    assert_eq!(opens("e1.0", Some(&any_key())), Ok(()));
}

/// Who answers a search of all on no node's shelf.
fn find_vote(attacker: &Attacker) -> Option<String> {
    let mut socket = attacker.socket();
    let all = ShelfSlot::new(0xffff, 0xff);
    let search = config_request(header(BROADCAST, socket.mac(), all, 1, 0x5000_0000));
    socket.send(&[&search]).unwrap();
    let mut found = None;
    while socket.wait(Duration::from_millis(300)).unwrap() {
        let mut hear = |frame: &[u8]| {
            let address = address_of(frame).filter(|_| frame[14] & 0x08 != 0 && frame[19] == 1);
            found = found.or(address.filter(|address| address.shelf > 2));
        };
        while socket.receive(&mut hear).unwrap() > 0 {}
    }
    found.map(|address| address.to_string())
}

#[test]
fn the_process_of_the_witness_is_killed() {
    let lab = two_machines();
    lab.wait_until_one_may_go(3);
    let load = Load::start(&lab.mount().join("load"), BLOCKS, 6);
    load.wait_for_promises();
    let exports = || lab.log("supervisor").matches("exported export=").count();
    for _ in 0..3 {
        let before = exports();
        lab.lab(&["kill", "witnesses"]);
        load.wait_for_promises();
        wait_until("it votes again", || {
            let pool = pool(&lab);
            exports() > before && votes(&pool) == (3, 3) && pool["survives"] == 1
        });
    }
    lab.lab(&["destroy", "n2"]);
    load.wait_for_promises();
    let report = load.stop();
    lab.cli(&["volume", "unmount", VOLUME]);
    lab.cli(&["volume", "mount", VOLUME, lab.mount().to_str().unwrap()]);
    report.verify();
}

/// A file that comes out of a backup says what was true then: it has no vote, and it is said why, and what to do.
#[test]
fn a_witness_that_was_restored_has_no_vote() {
    let lab = two_machines();
    lab.wait_until_one_may_go(3);
    lab.lab(&["kill", "supervisor"]);
    let file = files_of(&lab).remove(0);
    let kept = lab.dir().join("kept");
    std::fs::copy(&file, &kept).unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::copy(&kept, &file).unwrap();
    lab.lab(&["start", "supervisor"]);
    wait_until("the volume is mounted again", || lab.is_mounted());
    assert_eq!(votes(&pool(&lab)), (3, 2));
    let log = lab.log("supervisor");
    assert!(log.contains("is not exported") && log.contains("pool extend POOL"), "{log}");

    std::fs::remove_file(&file).unwrap();
    lab.cli(&["pool", "extend", "cluster", "--witness", "supervisor", "--yes"]);
    let former = file.file_name().unwrap().to_str().unwrap();
    lab.cli(&["pool", "remove", "cluster", former, "--yes", "--wait"]);
    lab.wait_until_one_may_go(3);
}

/// Whoever asked for a pool is gone before its witness can be used: it is made all the same, with that.
#[test]
fn a_pool_is_made_without_its_client() {
    let lab = machines(4, "128M");
    lab.cli(&["pool", "create", "one", "e3.0", "e4.0", "--yes"]);
    let log = lab.log("supervisor");
    let (_, started) = log.rsplit_once("process=\"witnesses\" pid=").unwrap();
    let pid = started.lines().next().unwrap().trim().parse().ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let mut client = etherpool()
        .arg("--socket")
        .arg(lab.dir().join("supervisor/run/api.sock"))
        .args(["pool", "create", "cluster", "e1.0", "e2.0", "--yes"])
        .spawn()
        .unwrap();
    wait_until("its witness is made", || files_of(&lab).len() == 2);
    client.kill().unwrap();
    let status = client.wait().unwrap();
    assert!(!status.success(), "it was too late");
    // The supervisor answers others, and knows by then that this one is gone.
    lab.cli(&["pool", "list"]);
    kill_process(pid, Signal::CONT).unwrap();
    wait_until("the pool is made", || {
        let output = lab.cli_output(&["pool", "show", "cluster", "--json"]);
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        votes(&shown) == (3, 3)
    });
    assert_eq!(files_of(&lab).len(), 2);
}

/// What nobody asked for takes nothing with it when it fails.
#[test]
fn a_pool_is_made_where_the_witness_fails_that_nobody_asked_for() {
    let lab = machines(2, "128M");
    std::fs::write(lab.dir().join("supervisor/state/witnesses"), "in its way").unwrap();
    let create = ["pool", "create", "cluster", "e1.0", "e2.0", "--yes"];
    let (code, said) = lab.said(&[&create[..], &["--witness", "supervisor"]].concat());
    assert!(code != 0 && said.contains("--no-witness"), "{code}: {said}");
    let said = lab.cli(&create);
    assert!(said.contains("This supervisor is no witness of it: no witness in "), "{said}");
    assert_eq!(votes(&pool(&lab)), (2, 2));
}

/// Each pool has a file of its own, which goes with it, and none where the machines that vote are an odd number or
/// nobody wants it.
#[test]
fn a_witness_comes_where_it_helps_and_goes_with_its_pool() {
    let lab = machines(5, "128M");
    let plan = lab.cli(&["pool", "create", "one", "e1.0", "e2.0", "--dry-run"]);
    assert!(plan.contains("would be a witness"), "{plan}");
    assert!(files_of(&lab).is_empty());
    let plan = lab.json(&["pool", "create", "one", "e1.0", "e2.0", "--no-witness", "--dry-run"]);
    assert_eq!(plan["witness"], json!({"state": "lacking", "why": "none is wanted"}));

    let votes = |pool: &str| {
        let shown = lab.json(&["pool", "show", pool]);
        let witnesses = shown["disks"].as_array().unwrap().iter();
        let witnesses = witnesses.filter(|disk| disk["is_witness"] == true).count();
        (shown["votes"]["total"].as_u64().unwrap(), witnesses)
    };
    lab.cli(&["pool", "create", "one", "e1.0", "e2.0", "--no-witness", "--yes"]);
    assert_eq!(votes("one"), (2, 0));
    assert!(lab.show(&["pool", "show", "one"]).contains("pool extend one --witness supervisor"));
    lab.cli(&["pool", "create", "two", "e3.0", "--yes"]);
    assert_eq!(votes("two"), (1, 0));
    assert!(files_of(&lab).is_empty());

    // A pool that there is gets one when it is asked for, or when it comes to an even number.
    lab.cli(&["pool", "extend", "one", "--witness", "supervisor", "--yes"]);
    lab.cli(&["pool", "extend", "two", "e4.0", "--yes"]);
    wait_until("both vote by three", || (votes("one"), votes("two")) == ((3, 1), (3, 1)));
    assert_eq!(files_of(&lab).len(), 2);
    lab.cli(&["pool", "destroy", "two", "--yes"]);
    wait_until("its witness goes with it", || files_of(&lab).len() == 1);
    lab.cli(&["pool", "extend", "one", "e5.0", "--yes"]);
    assert_eq!(votes("one").1, 1, "an odd number needs no more");
    wait_until("three machines vote", || {
        let shown = lab.json(&["pool", "show", "one"]);
        let of_witness = shown["disks"].as_array().unwrap().iter();
        shown["votes"]["total"] == 3
            && of_witness
                .filter(|one| one["is_witness"] == true)
                .all(|one| one["holds_vote"] == false)
    });
    let witness = files_of(&lab)[0].file_name().unwrap().to_str().unwrap().to_owned();
    lab.cli(&["pool", "remove", "one", &witness, "--yes", "--wait"]);
    wait_until("its file is removed", || files_of(&lab).is_empty());
    // Nothing is left of them.
    lab.wait_for_disks(5);
}

/// A file system of so many bytes, that of the lab's supervisor's state.
struct SmallState<'a> {
    lab: &'a Lab,
    place: PathBuf,
}

impl SmallState<'_> {
    fn mount<'a>(lab: &'a Lab, size: &str) -> SmallState<'a> {
        lab.lab(&["kill", "supervisor"]);
        let place = lab.dir().join("small");
        std::fs::create_dir_all(&place).unwrap();
        let options = format!("size={size}");
        let path = place.to_str().unwrap();
        let args = ["-t", "tmpfs", "-o", &options, "none", path];
        assert!(Command::new("mount").args(args).status().unwrap().success());
        let own = lab.dir().join("supervisor/own.toml");
        std::fs::write(own, format!("state-dir = {path:?}\n")).unwrap();
        lab.lab(&["start", "supervisor"]);
        wait_until("the supervisor answers", || lab.cli_output(&["status"]).status.success());
        SmallState { lab, place }
    }
}

impl Drop for SmallState<'_> {
    fn drop(&mut self) {
        let _ = self.lab.lab_output(&["kill", "supervisor"]);
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

/// Why a pool of both machines would be made without the supervisor's vote.
fn why_no_witness(lab: &Lab) -> String {
    let plan = lab.json(&["pool", "create", "cluster", "e1.0", "e2.0", "--dry-run"]);
    plan["witness"]["why"].as_str().unwrap_or_else(|| panic!("{plan}")).to_owned()
}

/// Where there is no space for a witness the pool is made without, and says so; who insists is told why it isn't.
#[test]
fn a_witness_that_has_no_room_is_not_begun() {
    let lab = two_without_keys("128M");
    let small = SmallState::mount(&lab, "8M");
    lab.wait_for_disks(2);
    let why = why_no_witness(&lab);
    assert!(why.contains("free"), "{why}");
    let create = ["pool", "create", "cluster", "e1.0", "e2.0", "--yes"];
    let (code, said) = lab.said(&[&create[..], &["--witness", "supervisor"]].concat());
    assert!(code != 0 && said.contains("--no-witness"), "{code}: {said}");
    assert!(files_in(&small.place).is_empty());
    assert!(lab.json(&["pool", "list"]).as_array().unwrap().is_empty());
    lab.cli(&create);
    assert_eq!(votes(&pool(&lab)), (2, 2));
}

/// A file system that gets full later doesn't take the vote. (That the space is asked for before it is written is seen
/// where files are made: what is written when a pool is made takes it, too.)
#[test]
fn a_witness_keeps_its_room() {
    let lab = two_without_keys("128M");
    let small = SmallState::mount(&lab, "160M");
    lab.wait_for_disks(2);
    // Nobody asked for it: more would have to be left to others.
    let why = why_no_witness(&lab);
    assert!(why.contains("leaves 1.00 GiB to others"), "{why}");
    let create = ["pool", "create", "cluster", "e1.0", "e2.0", "--witness", "supervisor", "--yes"];
    lab.cli(&create);
    assert_eq!(files_in(&small.place).len(), 1);
    let filled = std::fs::write(small.place.join("filler"), vec![7; 200 << 20]);
    assert!(filled.is_err(), "it is full");
    for _ in 0..8 {
        lab.cli(&["volume", "create", VOLUME, "--size", "16M", "--layout", "mirror:2"]);
        lab.cli(&["volume", "remove", VOLUME, "--yes"]);
    }
    let shown = pool(&lab);
    assert_eq!(votes(&shown), (3, 3));
    let disks = shown["disks"].as_array().unwrap();
    assert!(disks.iter().all(|disk| disk["state"] == "usable"), "{shown}");
}

/// Of two machines the supervisor's can't be lost, and the other can: it votes for both.
#[test]
fn a_supervisor_beside_its_own_disks_lets_the_other_machine_be_lost() {
    let lab = machines(2, "128M");
    let own = std::fs::read_to_string("/etc/machine-id")
        .unwrap_or_else(|_| panic!("this test needs a machine with an identity"));
    let plan = lab.dir().join("lab.json");
    let mut nodes: Value = serde_json::from_slice(&std::fs::read(&plan).unwrap()).unwrap();
    nodes["nodes"][0]["node_id"] = json!(own.trim());
    std::fs::write(&plan, nodes.to_string()).unwrap();
    for who in ["n1", "supervisor"] {
        lab.lab(&["kill", who]);
        lab.lab(&["start", who]);
    }
    wait_until("n1 is this machine", || {
        let create = ["pool", "create", "cluster", "e1.0", "e2.0", "--dry-run", "--json"];
        let output = lab.cli_output(&create);
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        plan["witness"]["beside_data"] == true
    });
    let plan = lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "--dry-run"]);
    assert!(plan.contains("without the other machine the pool goes on"), "{plan}");
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "--yes"]);
    assert_eq!(votes(&pool(&lab)), (3, 3));
    lab.cli(&["volume", "create", VOLUME, "--size", "16M", "--layout", "mirror:2"]);
    lab.lab(&["kill", "n2"]);
    wait_until("the pool goes on", || lab.pool_state() == "degraded");
    lab.cli(&["volume", "create", "cluster/more", "--size", "8M", "--layout", "raid0"]);
    lab.lab(&["start", "n2"]);
    wait_until("all is well", || lab.pool_state() == "online");
    // A file is made once.
    assert_eq!(files_of(&lab).len(), 1);
    lab.lab(&["kill", "n1"]);
    wait_until(
        "without the supervisor's machine's disk one vote of three is left beside its own",
        || votes(&pool(&lab)) == (3, 2),
    );
}
