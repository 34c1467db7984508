//! What goes out on the Ethernet must have been named: interfaces, clients, and an address that is
//! nobody else's.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use aoe_wire::{Command as AoeCommand, ConfigCommand, ConfigMessage, Header, MacAddr, ShelfSlot};
use blackbox::frames::Client;
use blackbox::{
    Lab, LabOptions, LoopDisk, Wire, etherpool, export_of, require_root, text_of, wait_until,
};
use os::net::{FrameSocket, InterfaceSpec};

const MIB: u64 = 1 << 20;
const VOLUME: &str = "cluster/two";
/// What the commands document (`control::exit`).
const FAILURE: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);
const REFUSED: Option<i32> = Some(4);
const EXISTS: Option<i32> = Some(7);

/// A machine with one cable, and a directory for its configuration.
struct Machine {
    wire: Wire,
    dir: tempfile::TempDir,
}

/// A server in it; killed when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine {
    fn new() -> Machine {
        let dir =
            tempfile::Builder::new().prefix("etherpool-doors").tempdir_in("/var/tmp").unwrap();
        Machine { wire: Wire::new(1500), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn disk(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::File::create(&path).unwrap().set_len(MIB).unwrap();
        path
    }

    /// A configuration with directories of its own.
    fn config(&self, more: &str) -> String {
        let text = format!(
            "name = 'doors'\nshelf = 7\nio = 'buffered'\nstate-dir = {:?}\nrun-dir = {:?}\n{more}",
            self.path("state"),
            self.path("run"),
        );
        let file = self.path("node.toml");
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    }

    /// Runs the program on this machine until it ends; what goes on instead is ended, and is no answer.
    fn run(&self, args: &[&str]) -> Output {
        let mut command = self.wire.target_command(Path::new("timeout"));
        command.args(["30"]).arg(etherpool().get_program()).args(args);
        let output = command.output().unwrap();
        assert_ne!(output.status.code(), Some(124), "{args:?} went on: {}", text_of(&output));
        output
    }

    fn start(&self, args: &[&str]) -> Server {
        let mut command = self.wire.target_command(Path::new(etherpool().get_program()));
        let log = std::fs::File::create(self.path("log")).unwrap();
        command.args(args).stdout(Stdio::null()).stderr(log);
        Server(command.spawn().unwrap())
    }

    fn mac(&self) -> String {
        FrameSocket::open(&self.wire.target(), None).unwrap().mac().to_string()
    }

    fn wait_answers(&self, interface: &InterfaceSpec, address: &str) {
        let address: ShelfSlot = address.parse().unwrap();
        wait_until("the export answers", || {
            // The interface itself may be new.
            FrameSocket::open(interface, None).is_ok() && Client::probe(interface, address)
        });
    }
}

/// A node exports disks that nobody named: on which segment must be said.
#[test]
fn a_node_exports_where_it_is_told_to() {
    let machine = Machine::new();
    let disk = export_of("e7.0", &machine.disk("disk"), "");
    let etherpopulate = machine.path("etherpopulate.conf");
    let line = format!("node-7 start ataoe {} 0\n", machine.path("disk").display());
    std::fs::write(&etherpopulate, line).unwrap();
    let etherpopulate = etherpopulate.display().to_string();
    let old = ["node", "--etherpopulate", &etherpopulate, "--name", "node-7"];

    let config = machine.config(&disk);
    let found = machine.config("automatic = true\n");
    for args in [&["node", "--config", &found][..], &["node", "--config", &found, "--check"], &old]
    {
        let output = machine.run(args);
        let text = text_of(&output);
        assert_eq!(output.status.code(), USAGE, "{args:?}: {text}");
        for word in ["v0", &machine.mac(), "1500", "up", "-i ", "interfaces = ["] {
            assert!(text.contains(word), "{args:?} doesn't say {word:?}: {text}");
        }
    }
    machine.config(&disk);
    let output = machine.run(&["node", "--config", &config]);
    assert_eq!(output.status.code(), USAGE, "a disk that is named: {}", text_of(&output));
    // One that says so itself doesn't make the others go everywhere.
    machine.config(&format!("interfaces = ['v0']\n{disk}interfaces = []\n"));
    let output = machine.run(&["node", "--config", &config]);
    assert_eq!(output.status.code(), USAGE, "{}", text_of(&output));
    assert!(text_of(&output).contains("e7.0"), "{}", text_of(&output));

    // By option, by pattern, and by the file.
    machine.config(&disk);
    for option in ["v0", "x9,v*"] {
        let _node = machine.start(&["node", "--config", &config, "-i", option]);
        machine.wait_answers(&machine.wire.client(), "e7.0");
    }
    machine.config(&format!("interfaces = ['v*']\n{disk}"));
    {
        let _node = machine.start(&["node", "--config", &config]);
        machine.wait_answers(&machine.wire.client(), "e7.0");
    }
    // An interface that comes later; and no other.
    machine.config(&disk);
    let _node = machine.start(&["node", "--config", &config, "-i", "late0"]);
    wait_until("the node waits for its interface", || {
        std::fs::read_to_string(machine.path("log")).unwrap().contains("no such interface now")
    });
    machine.wire.lay("late0", 1500);
    machine.wait_answers(&machine.wire.client_on("late0"), "e7.0");
    assert!(!Client::probe(&machine.wire.client(), "e7.0".parse().unwrap()), "on v0 too");
}

/// What a reload must not do either.
#[test]
fn a_node_goes_on_where_it_was_when_its_interfaces_are_taken_out_of_the_file() {
    let machine = Machine::new();
    let disk = export_of("e7.0", &machine.disk("disk"), "");
    let config = machine.config(&format!("interfaces = ['v0']\n{disk}"));
    machine.wire.lay("other0", 1500);
    let node = machine.start(&["node", "--config", &config]);
    machine.wait_answers(&machine.wire.client(), "e7.0");
    machine.config(&disk);
    let pid = rustix::process::Pid::from_child(&node.0);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    wait_until("the file is refused", || {
        std::fs::read_to_string(machine.path("log")).unwrap().contains("no interface is named")
    });
    machine.wait_answers(&machine.wire.client(), "e7.0");
    let other = machine.wire.client_on("other0");
    assert!(!Client::probe(&other, "e7.0".parse().unwrap()), "it answers everywhere");
}

/// Who looks before the node runs sees each disk: its address, its size, or why it is left alone.
#[test]
fn check_says_what_becomes_of_each_disk() {
    require_root();
    let machine = Machine::new();
    let blank = machine.disk("blank");
    let other = machine.disk("other");
    let mkfs = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-O", "^has_journal"])
        .arg(&other)
        .status()
        .unwrap();
    assert!(mkfs.success());
    let (Some(blank), Some(other)) = (LoopDisk::attach(&blank), LoopDisk::attach(&other)) else {
        return;
    };
    let names = [&blank, &other]
        .map(|disk| disk.device().file_name().unwrap().to_str().unwrap().to_owned());
    let export = export_of("e7.9", &machine.disk("named"), "");
    let head = format!("automatic = true\nscan = {names:?}\ninterfaces = ['v0', 'late0']\n");
    let config = machine.config(&(head + &export));
    let check = || {
        let output = machine.run(&["node", "--config", &config, "--check"]);
        assert!(output.status.success(), "{}", text_of(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let line = |text: &str, word: &str| {
        let found = text.lines().find(|line| line.contains(word));
        found.unwrap_or_else(|| panic!("no {word:?} in {text}")).to_owned()
    };
    let (blank, other) = (blank.device().to_str().unwrap(), other.device().to_str().unwrap());
    let text = check();
    println!("{text}");
    let exported = line(&text, blank);
    assert!(exported.contains("e7.0") && exported.contains("1.00 MiB"), "{exported}");
    assert!(exported.contains("v0, late0"), "{exported}");
    assert!(line(&text, "named").contains("e7.9"));
    assert!(text.find("Left alone").unwrap() < text.find(other).unwrap(), "{text}");
    assert!(line(&text, other).contains("ext2/3/4 file system"), "{text}");
    assert!(line(&text, &machine.mac()).contains("v0"));
    assert!(line(&text, "waited for").contains("late0"));
    assert!(!machine.path("state").exists(), "something was written");

    // Beside the node itself, whose disks are in use by it.
    let _node = machine.start(&["node", "--config", &config]);
    machine.wait_answers(&machine.wire.client(), "e7.0");
    assert_eq!(line(&check(), blank), exported);

    machine.config("interfaces = ['v0']\nscna = ['sd*']\n");
    let output = machine.run(&["node", "--config", &config, "--check"]);
    assert_eq!(output.status.code(), USAGE, "{}", text_of(&output));
}

#[test]
fn wrong_configurations_end_as_documented() {
    let machine = Machine::new();
    let disk = machine.disk("disk");
    let named = format!("e7.0={}", disk.display());
    let directory = format!("e7.0={}", machine.dir.path().display());
    let missing = machine.path("none.toml").display().to_string();
    for args in [
        &["target"][..],
        &["target", &directory, "-i", "v0"],
        &["target", &named, "-i", "v0", "--allow", "nobody"],
        &["target", &named, "-i", "v0", "--queue-length", "1"],
        &["target", "--config", &missing],
        &["node", "-i", "v0", "--config", &missing],
        &["node", "-i", ""],
    ] {
        let output = machine.run(args);
        assert_eq!(output.status.code(), USAGE, "{args:?}: {}", text_of(&output));
    }
    for wrong in ["shelf = 'x'", "[[export]]\naddress = 'e7'\npath = '/x'", "paht = 3"] {
        let config = machine.config(&format!("interfaces = ['v0']\n{wrong}\n"));
        for role in ["target", "node"] {
            let output = machine.run(&[role, "--config", &config]);
            let text = text_of(&output);
            assert_eq!(output.status.code(), USAGE, "{role}, {wrong}: {text}");
            assert!(text.contains("node.toml: line "), "{text}");
        }
    }
}

/// A list of clients names clients: a group address would look like "all", and mean nobody.
#[test]
fn access_lists_name_single_machines() {
    let machine = Machine::new();
    let disk = machine.disk("disk");
    let named = format!("e7.0={}", disk.display());
    let path = disk.to_str().unwrap();
    for mac in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
        let refused = |args: &[&str], code: Option<i32>| {
            let output = machine.run(args);
            let text = text_of(&output);
            assert_eq!(output.status.code(), code, "{args:?}: {text}");
            assert!(text.contains(mac) && text.contains("address"), "{args:?}: {text}");
        };
        let target = ["target", &named, "-i", "v0", "--io", "buffered"];
        let rule = format!("write={mac}");
        for option in [["--allow", mac], ["--accept", &rule], ["--deny", &rule]] {
            refused(&[&target[..], &option].concat(), USAGE);
        }
        refused(&[&target[..], &["--list-editors", mac]].concat(), USAGE);
        let export = export_of("e7.0", &disk, "access.read.deny = ['web']\n");
        let head = format!("interfaces = ['v0']\n[groups]\nweb = ['{mac}']\n");
        let config = machine.config(&(head + &export));
        refused(&["node", "--config", &config], USAGE);
        refused(&["vblade", "-m", mac, "7", "0", "v0", path], FAILURE);
    }
}

/// A lab with a pool over two nodes, and a volume.
fn lab_with_volume() -> Lab {
    let lab = Lab::up(&LabOptions {
        nodes: 2,
        disks: 1,
        size: "512M",
        bare: true,
        ..LabOptions::default()
    });
    lab.wait_for_disks(2);
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "--yes"]);
    lab.cli(&["volume", "create", VOLUME, "--size", "16M", "--layout", "mirror:2"]);
    lab
}

/// The addresses at which the volume is exported.
fn exports(lab: &Lab) -> String {
    let report = lab.json(&["volume", "show", VOLUME]);
    let exports = &report["properties"]["exports"];
    if exports.is_null() { String::new() } else { exports.to_string() }
}

#[test]
fn an_export_to_all_is_asked_about() {
    let lab = lab_with_volume();
    let export = |options: &[&str]| {
        lab.cli_output(&[&["volume", "export", VOLUME, "aoe:e7.1"], options].concat())
    };
    let output = export(&[]);
    let text = text_of(&output);
    assert_eq!(output.status.code(), REFUSED, "{text}");
    for word in ["very machine", "read and write", "sup0", "--allow", "--yes", VOLUME] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    let reading = text_of(&export(&["--read-only"]));
    assert!(reading.contains("could read it"), "{reading}");
    let shown = export(&["--dry-run"]);
    assert!(shown.status.success() && text_of(&shown).contains("very machine"), "{shown:?}");
    assert!(export(&["--dry-run", "--allow", "02:00:00:00:00:01"]).status.success());
    // As the command would.
    let taken = lab.cli_output(&["volume", "export", VOLUME, "aoe:e1.0", "--dry-run"]);
    assert_eq!(taken.status.code(), EXISTS, "{}", text_of(&taken));
    assert_eq!(exports(&lab), "", "something was exported");

    let named = export(&["--allow", "02:00:00:00:00:01"]);
    assert!(named.status.success(), "{}", text_of(&named));
    assert!(exports(&lab).contains("e7.1"));
    let open = export(&[]);
    assert_eq!(open.status.code(), REFUSED, "to drop the list is to open it: {}", text_of(&open));
    let open = export(&["--yes"]);
    assert!(open.status.success(), "{}", text_of(&open));
    assert!(!exports(&lab).contains("02:00:00:00:00:01"));
}

/// Somebody who answers for one address, and to nothing but a question for that: discovery doesn't see
/// it. The first questions for an address are lost on the way.
struct Loner {
    address: Arc<AtomicU32>,
    heard: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    answering: Option<JoinHandle<()>>,
    mac: MacAddr,
}

impl Loner {
    fn start(cable: &InterfaceSpec) -> Loner {
        let mut socket = FrameSocket::open(cable, None).unwrap();
        let mac = socket.mac();
        let (address, heard) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let (own, count, end) = (Arc::clone(&address), Arc::clone(&heard), Arc::clone(&stop));
        let answering = std::thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                socket.wait(Duration::from_millis(20)).unwrap();
                let mut answers = Vec::new();
                let mut look = |frame: &[u8]| {
                    let own = own.load(Ordering::SeqCst);
                    let own = ShelfSlot::new((own >> 8) as u16, own as u8);
                    if let Ok(asked) = Header::parse(frame)
                        && !asked.response
                        && asked.command == AoeCommand::Config
                        && asked.address == own
                        && count.fetch_add(1, Ordering::SeqCst) > 0
                    {
                        let header = asked.answer(mac, own);
                        let answer = ConfigMessage::request(header, ConfigCommand::Read).emit(&[]);
                        let mut bytes = [answer.head.as_slice(), &answer.payload].concat();
                        bytes.resize(bytes.len().max(60), 0);
                        answers.push(bytes);
                    }
                };
                socket.receive(&mut look).unwrap();
                for answer in answers {
                    socket.send(&[&answer]).unwrap();
                }
            }
        });
        Loner { address, heard, stop, answering: Some(answering), mac }
    }

    fn take(&self, address: &str) {
        let address: ShelfSlot = address.parse().unwrap();
        self.heard.store(0, Ordering::SeqCst);
        let number = u32::from(address.shelf) << 8 | u32::from(address.slot);
        self.address.store(number, Ordering::SeqCst);
    }
}

impl Drop for Loner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.answering.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

#[test]
fn an_address_that_is_somebodys_is_refused() {
    let lab = lab_with_volume();
    let export = |address: &str, more: &[&str]| {
        let target = format!("aoe:{address}");
        lab.cli_output(&[&["volume", "export", VOLUME, &target, "--yes"], more].concat())
    };
    let refused = |address: &str, words: &[&str]| {
        let output = export(address, &[]);
        let text = text_of(&output);
        assert_eq!(output.status.code(), EXISTS, "{address}: {text}");
        for word in words.iter().chain(&[address, "choose another address"]) {
            assert!(text.contains(word), "no {word:?} in {text}");
        }
        assert_eq!(exports(&lab), "", "it was exported");
    };
    // The pool's own disks, and one that is silent.
    refused("e1.0", &["cluster", "n1"]);
    lab.lab(&["kill", "n2"]);
    refused("e2.0", &["cluster", "n2"]);
    lab.lab(&["start", "n2"]);

    // A disk that is no pool's, which discovery knows.
    lab.lab(&["add-node"]);
    wait_until("the disk is present", || {
        let disks = lab.json(&["disk", "list"]);
        disks.as_array().unwrap().iter().any(|disk| disk["name"] == "e3.0")
    });
    let mac = lab.json(&["aoe", "discover"]);
    let seen = mac.as_array().unwrap().iter().find(|seen| seen["address"] == "e3.0").unwrap();
    refused("e3.0", &["n3", seen["mac"].as_str().unwrap(), "sup0"]);

    // Somebody who hears but one question.
    let loner = Loner::start(&lab.plug_in("cl0"));
    loner.take("e9.9");
    refused("e9.9", &[&loner.mac.to_string(), "sup0"]);
    // Nor is such an address chosen.
    let choose = |options: &[&str]| {
        let command = [&["volume", "export", VOLUME, "aoe"], options].concat();
        lab.cli(&command)
    };
    let text = choose(&["--dry-run"]);
    let words = text.split_whitespace().find_map(|word| word.strip_prefix("aoe:"));
    let chosen = words.unwrap_or_else(|| panic!("no address in {text}")).to_owned();
    loner.take(&chosen);
    let answer = choose(&["--yes", "--json"]);
    assert!(answer.contains("\"e") && !answer.contains(&format!("\"{chosen}\"")), "{answer}");
    lab.cli(&["volume", "unexport", VOLUME]);

    // A target of the same machine on the same interface, which frames don't show.
    let netns = lab.status()["netns"].as_str().unwrap().to_owned();
    let disk = lab.dir().join("beside");
    std::fs::File::create(&disk).unwrap().set_len(MIB).unwrap();
    let run_dir = lab.dir().join("supervisor/run/target-beside");
    let mut beside = Command::new("ip");
    beside.args(["netns", "exec", &netns, "setpriv", "--pdeathsig", "KILL"]);
    beside.arg(etherpool().get_program()).args(["target", "-i", "sup0", "--io", "buffered"]);
    beside.arg(format!("e9.7={}", disk.display())).arg("--run-dir").arg(&run_dir);
    beside.arg("--state-dir").arg(lab.dir().join("beside-state"));
    let beside = Server(beside.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let asked = ["target", "status", "--socket", run_dir.to_str().unwrap()];
    wait_until("the target runs", || lab.cli_output(&asked).status.success());
    refused("e9.7", &["target-beside", "sup0", disk.to_str().unwrap()]);
    drop(beside);

    // One that is free; then the same export with other settings, as often as one likes.
    assert!(export("e9.8", &[]).status.success());
    for more in [&["--read-only"][..], &["-i", "sup0"], &["--allow", "02:00:00:00:00:01"], &[]] {
        let output = export("e9.8", more);
        assert!(output.status.success(), "{more:?}: {}", text_of(&output));
        assert!(exports(&lab).contains("e9.8"));
    }
    // Ended and made again: what was ours isn't somebody else's.
    lab.cli(&["volume", "unexport", VOLUME]);
    let again = export("e9.8", &[]);
    assert!(again.status.success(), "{}", text_of(&again));
    // Whoever comes later doesn't keep the owner from changing its settings.
    loner.take("e9.8");
    assert!(export("e9.8", &["--read-only"]).status.success());
}

/// Settings come with pools from elsewhere, perhaps made by a version that took anything.
#[test]
fn a_list_that_makes_no_sense_is_reported_and_not_acted_on() {
    let lab = lab_with_volume();
    let cable = lab.plug_in("cl0");
    for mac in ["ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
        let refused = lab.cli_output(&["volume", "export", VOLUME, "aoe:e7.1", "--allow", mac]);
        assert_eq!(refused.status.code(), USAGE, "{}", text_of(&refused));
        assert!(text_of(&refused).contains("address"), "{}", text_of(&refused));
    }
    let setting = r#"[{"address":"e7.1","interfaces":[],"allow":["ff:ff:ff:ff:ff:ff"]}]"#;
    let request = serde_json::json!({ "id": 1, "request": {
        "op": "set-property", "volume": VOLUME, "key": "exports", "value": setting,
    } });
    let socket = UnixStream::connect(lab.dir().join("supervisor/run/engine.sock")).unwrap();
    writeln!(&socket, "{request}").unwrap();
    let answered = BufReader::new(&socket).lines().map(Result::unwrap).find(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line.get("error").is_none(), "{line}");
        line["result"]["id"] == 1
    });
    assert!(answered.is_some());
    wait_until("status tells of it", || {
        let status = text_of(&lab.cli_output(&["status"]));
        status.contains("'exports' can't be read") && status.contains("ff:ff:ff:ff:ff:ff")
    });
    assert!(!Client::probe(&cable, "e7.1".parse().unwrap()), "it is exported");
    // Set anew, it is right again.
    let allow = ["--allow", "02:fe:00:00:00:01"];
    lab.cli(&[&["volume", "export", VOLUME, "aoe:e7.1"], &allow[..]].concat());
    wait_until("the client is answered", || {
        let friend = MacAddr([2, 0xfe, 0, 0, 0, 1]);
        Client::connect_as(&cable, friend, "e7.1".parse().unwrap()).is_ok()
    });
}
