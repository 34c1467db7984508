//! The target and programs that other people wrote: aoetools, vblade's users, and the firmware and
//! drivers whose frames are in `scripts/`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use aoe_wire::MacAddr;
use blackbox::frames::Client;
use blackbox::{Target, Wire, etherpool, export_of, pause, wait_until};
use os::net::FrameSocket;

const MIB: u64 = 1 << 20;

/// A program of aoetools in the client's namespace.
fn tool(target: &Target, words: &str) -> Output {
    let mut words = words.split(' ');
    let mut command = target.wire().client_command("timeout");
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = command.arg("10").args(words.by_ref()).env("PATH", path).output().unwrap();
    assert_ne!(output.status.code(), Some(127), "no aoetools here: run scripts/setup");
    output
}

fn says(target: &Target, words: &str) -> String {
    let output = tool(target, words);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{words}: {}", text.trim_end());
    assert!(output.status.success(), "{words}: {output:?}");
    text
}

#[test]
fn aoetools_work() {
    for mtu in [1500, 9000] {
        let target = Target::start(mtu, |t| t.export("e1.0", MIB, "") + &t.export("e7.3", MIB, ""));
        ["e1.0", "e7.3"].iter().for_each(|address| drop(target.client(address)));
        says(&target, "aoeping -s 3 1 0 v0");
        says(&target, "aoeping -s 3 -v 7 3 v0");
        let identified = says(&target, "aoeping -s 3 -I 7 3 v0");
        assert!(identified.contains("model: etherpool"), "{identified}");
        assert!(identified.contains("serial_number: 7.3"), "{identified}");
        let smart = tool(&target, "aoeping -s 3 -S read_data 1 0 v0");
        assert!(!smart.status.success(), "a file has no SMART");
        assert!(String::from_utf8_lossy(&smart.stderr).contains("SMART"), "{smart:?}");
        let nobody = tool(&target, "aoeping -s 1 9 9 v0");
        assert!(!nobody.status.success());

        assert_eq!(says(&target, "aoecfg -t 1 -c read 1 0 v0").trim(), "");
        assert_eq!(says(&target, "aoecfg -t 1 -c set -s hello 1 0 v0").trim(), "hello");
        assert!(says(&target, "aoecfg -t 1 -c set -s other 1 0 v0").contains("badcfg"));
        assert_eq!(says(&target, "aoecfg -t 1 -c prefix -s he 1 0 v0").trim(), "hello");
        assert_eq!(says(&target, "aoecfg -t 1 -c test -s hell 1 0 v0").trim(), "");
        assert_eq!(says(&target, "aoecfg -t 1 -c fset -s forced 1 0 v0").trim(), "forced");
        let all = says(&target, "aoecfg -t 1 65535 255 v0");
        assert!(all.contains("1.0\tforced") && all.contains("7.3\t"), "{all}");

        let checked = says(&target, "aoe-sancheck -v");
        let payload = if mtu == 1500 { "1024" } else { "8192" };
        for device in ["e1.0", "e7.3"] {
            let line = checked.lines().find(|line| line.starts_with(device)).unwrap();
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(words[1..], ["1", payload, "v0"], "{checked}");
        }
        assert!(!checked.contains("frames"), "it complains: {checked}");
    }
}

/// vblade, or what is called so.
struct Blade {
    wire: Wire,
    process: Child,
    dir: tempfile::TempDir,
}

impl Blade {
    /// Runs `program` with these arguments; `FILE` is a file of 4 MiB with each sector's number in it.
    fn start(program: &Path, words: &str) -> Blade {
        let wire = Wire::new(1500);
        let dir =
            tempfile::Builder::new().prefix("etherpool-blade").tempdir_in("/var/tmp").unwrap();
        let file = dir.path().join("disk");
        let sectors = (0..4 * MIB / 512).flat_map(|lba| [lba.to_le_bytes(); 64]);
        std::fs::write(&file, sectors.flatten().collect::<Vec<u8>>()).unwrap();
        let output = std::fs::File::create(dir.path().join("out")).unwrap();
        let words = words.split(' ').map(|word| match word {
            "FILE" => file.to_str().unwrap(),
            word => word,
        });
        let mut command = wire.target_command(program);
        command.args(words).stdout(output).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        Blade { wire, process, dir }
    }

    /// The first line, without the process's number.
    fn first_line(&mut self) -> String {
        let out = self.dir.path().join("out");
        let read = || std::fs::read_to_string(&out).unwrap();
        let own = &mut self.process;
        wait_until("it says something", || {
            read().contains('\n') || own.try_wait().unwrap().is_some()
        });
        let text = read();
        let line = text.lines().next().unwrap_or_default();
        let (pid, rest) = line.split_once(": ").unwrap();
        assert_eq!(pid, format!("pid {}", self.process.id()));
        rest.to_owned()
    }

    /// It has said something before it serves, and the machine may be busy.
    fn client(&self, address: &str) -> Client {
        let mut client = None;
        wait_until("it serves", || {
            client = Client::connect(&self.wire.client(), address.parse().unwrap()).ok();
            client.is_some()
        });
        client.unwrap()
    }

    fn disk(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("disk")).unwrap()
    }
}

impl Drop for Blade {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn vblade() -> PathBuf {
    let path = ["/usr/sbin/vblade", "/usr/bin/vblade"].map(PathBuf::from);
    path.into_iter().find(|path| path.exists()).expect("vblade is installed: run scripts/setup")
}

/// A link to the program, under the name by which it knows what to be.
fn replacement(dir: &Path) -> PathBuf {
    let link = dir.join("vblade");
    std::os::unix::fs::symlink(etherpool().get_program(), &link).unwrap();
    link
}

#[test]
fn vblades_users_find_what_they_know() {
    let dir = tempfile::tempdir().unwrap();
    let ours = replacement(dir.path());
    for words in [
        "1 0 v0 FILE",
        "-b 32 -o 8 -l 1000 1 0 v0 FILE",
        "-s 1 0 v0 FILE",
        "-ds -o 0x10 1 0 v0 FILE",
        "-r 1 0 v0 FILE",
        "1 0 v0 FILE -b 64",
    ] {
        let both = [vblade(), ours.clone()].map(|program| {
            let mut blade = Blade::start(&program, words);
            let line = blade.first_line();
            let mut client = blade.client("e1.0");
            let told = client.discover().unwrap();
            let sectors = client.sectors().unwrap();
            let mut seen = client.read(0, 2).unwrap();
            seen.extend(client.read(sectors - 1, 1).unwrap());
            let written = client.write(3, &[0xab; 1024]).is_ok();
            client.flush().ok();
            seen.extend(client.read(2, 2).unwrap());
            (line, told.buffers, sectors, seen, written, blade.disk())
        });
        let [theirs, ours] = both;
        println!("{words}: {}", theirs.0);
        assert_eq!(ours.0, theirs.0, "the first line, {words}");
        assert_eq!((ours.1, ours.2, ours.4), (theirs.1, theirs.2, theirs.4), "{words}");
        assert!(ours.3 == theirs.3 && ours.5 == theirs.5, "other data, {words}");
    }
}

#[test]
fn vblades_mask_lets_in_whom_it_names() {
    let dir = tempfile::tempdir().unwrap();
    for program in [vblade(), replacement(dir.path())] {
        let words = "-m 020000000001,02:00:00:00:00:02 1 0 v0 FILE";
        let mut blade = Blade::start(&program, words);
        blade.first_line();
        let interface = blade.wire.client();
        let mut socket = FrameSocket::open(&interface, None).unwrap();
        let mut hears = |mac: [u8; 6], seconds| {
            let query = blackbox::frames::config_request(blackbox::frames::header(
                blackbox::frames::BROADCAST,
                MacAddr(mac),
                "e1.0".parse().unwrap(),
                1,
                7,
            ));
            let begun = Instant::now();
            let mut heard = false;
            // vblade may not be at its socket yet.
            while !heard && begun.elapsed() < Duration::from_secs(seconds) {
                socket.send(&[&query]).unwrap();
                socket.wait(Duration::from_millis(100)).unwrap();
                socket
                    .receive(&mut |reply| heard |= reply[..6] == mac && reply[14] == 0x18)
                    .unwrap();
            }
            heard
        };
        let named = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
        assert!(named.into_iter().all(|mac| hears(mac, 20)), "{}", program.display());
        assert!(!hears([2, 0, 0, 0, 0, 3], 1), "{}", program.display());
    }
}

#[test]
fn vblades_complaints_are_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let ours = replacement(dir.path());
    let file = dir.path().join("small");
    std::fs::write(&file, vec![0; 4096]).unwrap();
    let file = file.to_str().unwrap();
    for words in [
        "",
        "1 0 v0",
        "-x 1 0 v0 FILE",
        "-b 0 1 0 v0 FILE",
        "1 0 v0 /nonexistent",
        "-o 8 1 0 v0 FILE",
        "-l 9 1 0 v0 FILE",
        "1 0 nowhere0 FILE",
    ] {
        let words: Vec<&str> = words
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(|word| if word == "FILE" { file } else { word })
            .collect();
        let wire = Wire::new(1500);
        let both = [vblade(), ours.clone()].map(|program| {
            // By one name: it is in the messages.
            let mut command = wire.target_command(Path::new("bash"));
            command.args(["-c", "exec -a vblade \"$0\" \"$@\""]).arg(program).args(&words);
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        });
        println!("{words:?}: {}", both[0].1.trim_end());
        assert_eq!(both[0], both[1], "{words:?}");
    }
}

#[test]
fn ipxe_boots() {
    for mtu in [1500, 9000] {
        play("ipxe.txt", mtu, "");
    }
}

#[test]
fn winaoe_finds_and_uses_its_disk() {
    play("winaoe.txt", 9000, "on-refusal = \"silent\"");
}

/// Plays a script of frames against a target.
fn play(script: &str, mtu: u32, more: &str) {
    let target = Target::start(mtu, |t| {
        let file = t.path("disk");
        std::fs::write(&file, (0..MIB).map(|at| (at / 512) as u8).collect::<Vec<_>>()).unwrap();
        export_of("e1.0", &file, more)
    });
    let found = target.client("e1.0");
    let mut socket = FrameSocket::open(&target.wire().client(), None).unwrap();
    let (own, other) = (socket.mac(), found.target());
    // Announcements are over.
    pause(100);
    socket.receive(&mut |_| {}).unwrap();
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
    let text = std::fs::read_to_string(text).unwrap();
    let steps = steps(&text, own, other);
    assert!(steps.len() > 10, "{script} is empty");
    for (line, step) in steps {
        let at = format!("{script}:{line}");
        match step {
            Step::Send(frame) => {
                let frame: Vec<u8> = frame.into_iter().map(|byte| byte.expect("a byte")).collect();
                socket.send(&[&frame]).unwrap();
            }
            Step::Want(pattern) => {
                let reply = next(&mut socket, Duration::from_secs(5));
                let reply = reply.unwrap_or_else(|| panic!("{at}: no answer"));
                let wrong = pattern
                    .iter()
                    .zip(&reply)
                    .position(|(want, is)| want.is_some_and(|want| want != *is));
                assert_eq!(reply.len(), pattern.len(), "{at}: length; {reply:02x?}");
                assert_eq!(wrong, None, "{at}: a byte; {:02x?}", &reply[..reply.len().min(80)]);
            }
            Step::Quiet => {
                assert_eq!(next(&mut socket, Duration::from_millis(300)), None, "{at}: an answer");
            }
        }
    }
}

/// The next frame for us.
fn next(socket: &mut FrameSocket, limit: Duration) -> Option<Vec<u8>> {
    let own = socket.mac();
    let begun = Instant::now();
    let mut frame = None;
    while frame.is_none() && begun.elapsed() < limit {
        socket.wait(limit.saturating_sub(begun.elapsed())).unwrap();
        // The target also looks whether others answer for its address.
        socket
            .receive(&mut |bytes| {
                if bytes[..6] == own.0 {
                    // One question, one answer: more than one would be wrong too.
                    assert!(frame.is_none(), "two answers");
                    frame = Some(bytes.to_vec());
                }
            })
            .unwrap();
    }
    frame
}

enum Step {
    Send(Vec<Option<u8>>),
    Want(Vec<Option<u8>>),
    Quiet,
}

/// Reads a script; each step with its line.
fn steps(text: &str, own: MacAddr, target: MacAddr) -> Vec<(usize, Step)> {
    let mut steps: Vec<(usize, Step)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap();
        let indented = line.starts_with(' ');
        let mut words = line.split_whitespace();
        if !indented {
            match words.next() {
                Some("send") => steps.push((number + 1, Step::Send(Vec::new()))),
                Some("want") => steps.push((number + 1, Step::Want(Vec::new()))),
                Some("quiet") => steps.push((number + 1, Step::Quiet)),
                Some(word) => panic!("line {}: {word}?", number + 1),
                None => continue,
            }
        }
        let Some((_, Step::Send(bytes) | Step::Want(bytes))) = steps.last_mut() else { continue };
        words.for_each(|word| read_word(word, own, target, bytes));
    }
    steps
}

fn read_word(word: &str, own: MacAddr, target: MacAddr, bytes: &mut Vec<Option<u8>>) {
    let mut address = |mac: MacAddr| bytes.extend(mac.0.map(Some));
    match word {
        "client" => return address(own),
        "target" => return address(target),
        "all" => return address(MacAddr::BROADCAST),
        "pad" => return bytes.resize(bytes.len().max(60), Some(0)),
        _ => {}
    }
    let (word, times) = match word.split_once('x') {
        Some((word, times)) => (word, times.parse().unwrap()),
        None => (word, 1),
    };
    let once: Vec<Option<u8>> = word
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            b"??" => None,
            pair => Some(u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()),
        })
        .collect();
    (0..times).for_each(|_| bytes.extend(&once));
}

#[test]
fn a_script_reads_as_it_says() {
    let text = "send all 0102 5ax3 # remark\n     ?? 04\nquiet\nwant client pad\n";
    let steps = steps(text, MacAddr([7; 6]), MacAddr([8; 6]));
    let [(1, Step::Send(sent)), (3, Step::Quiet), (4, Step::Want(wanted))] = &steps[..] else {
        panic!("{}", steps.len())
    };
    let expected = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 0x5a, 0x5a, 0x5a];
    assert_eq!(sent[..11], expected.map(Some));
    assert_eq!(sent[11..], [None, Some(4)]);
    assert_eq!((wanted.len(), wanted[5], wanted[6]), (60, Some(7), Some(0)));
}
