//! The image of a node: built of a stock kernel and the program under test, booted in an emulated machine, and seen by
//! frames and hellos from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aoe_wire::ShelfSlot;
use blackbox::dhcp::DhcpServer;
use blackbox::frames::Client;
use blackbox::{etherpool, require_root};
use block::probe::LABEL_MAGIC;
use boot::node::{Answer, Disk, Hello, Identity, Kept, Phase, State, VERSION};
use os::net::InterfaceSpec;
use os::net::netns::run_in;
use seal::{KeyPair, SecretKey};

#[path = "../qemu/vm.rs"]
#[allow(dead_code)]
mod vm;

use vm::Switch;

/// Of the boot server, and of the node: the last number is its shelf until somebody gives it another.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);
const UUID: &str = "5a1e77e5-0000-4000-8000-00000000e7e7";
const MIB: usize = 1 << 20;
/// Of its address: it ends while the test goes on.
const LEASE: Duration = Duration::from_secs(60);
/// By their sizes, in MiB, disks are told apart.
const LABELLED: usize = 96;
const BLANK: usize = 64;
const EXT4: usize = 80;
/// Two of an array.
const HALF: usize = 48;
/// Its disks may have any names, and it may be there already, after the end of a node that nobody stopped.
const ARRAY: &str = r#"
write-cache = "off"
automatic = true
before-start = ["""
    # It is killed, once.
    [ -e /run/killed ] || { : >/run/killed; (sleep 30; kill -9 $PPID) & }
""", """
    [ -b /dev/md0 ] || mdadm --assemble /dev/md0 --uuid=11111111:22222222:33333333:44444444 ||
    mdadm --create /dev/md0 --run --uuid=11111111:22222222:33333333:44444444 --level=1 --raid-devices=2 /dev/vdd /dev/vde
"""]
after-stop = ["mdadm --stop /dev/md0"]

[[export]]
address = "e7.9"
path = "/dev/md0"
"#;
/// From start to end, on the slowest machine that emulates one.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// What hellos are answered with.
enum Says {
    This(Box<Answer>),
    /// No answer that anybody understands.
    Nonsense,
    /// It hangs up, as one that has died.
    Nothing,
}

/// Answers hellos as it is told to, and remembers them.
#[derive(Clone)]
struct BootServer {
    says: Arc<Mutex<Says>>,
    heard: Arc<Mutex<Vec<Hello>>>,
}

impl BootServer {
    fn start(netns: &str) -> BootServer {
        let server = BootServer {
            says: Arc::new(Mutex::new(Says::This(Box::new(answer(State::Pending))))),
            heard: Arc::default(),
        };
        let listening = run_in(Some(netns), || TcpListener::bind((SERVER, 8069))).unwrap();
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listening.incoming() {
                // One that goes away in the middle says hello again.
                let _ = serving.serve(stream.unwrap());
            }
        });
        server
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        let mut first = String::new();
        reader.read_line(&mut first)?;
        if !first.ends_with('\n') {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        assert_eq!(first.trim(), "POST /node/hello HTTP/1.1");
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        self.heard.lock().unwrap().push(Hello::parse(&body).unwrap());
        let answer = match &*self.says.lock().unwrap() {
            Says::This(answer) => serde_json::to_vec(answer).unwrap(),
            Says::Nonsense => b"{\"version\":1,\"state\":\"acc".to_vec(),
            Says::Nothing => return Ok(()),
        };
        let stream = reader.get_mut();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len())?;
        stream.write_all(&answer)
    }

    fn last(&self) -> Option<Hello> {
        self.heard.lock().unwrap().last().cloned()
    }

    fn count(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    fn say(&self, answer: Answer) {
        *self.says.lock().unwrap() = Says::This(Box::new(answer));
    }
}

fn answer(state: State) -> Answer {
    Answer {
        version: VERSION,
        state,
        name: None,
        shelf: None,
        configuration: None,
        supervisors: Vec::new(),
        slots: Default::default(),
        identity: None,
    }
}

/// The emulated machine; killed when it is dropped.
struct Machine {
    qemu: Child,
    console: PathBuf,
    monitor: PathBuf,
    end: Instant,
}

impl Machine {
    fn start(switch: &Switch, image: &Path, dir: &Path, disks: &[PathBuf]) -> Machine {
        let (console, monitor) = (dir.join("console"), dir.join("monitor"));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", switch.netns(), "setpriv", "--pdeathsig", "KILL"]);
        let options = "qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu qemu64 -smp 2 -m 512 -nodefaults \
            -display none -no-reboot -device virtio-rng-pci -device i6300esb \
            -netdev tap,id=n0,ifname=tap0,script=no,downscript=no \
            -device virtio-net-pci,netdev=n0,mac=52:54:00:e7:00:77,romfile=";
        command.args(options.split_whitespace()).args(["-uuid", UUID]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.arg("-monitor").arg(format!("unix:{},server,nowait", monitor.display()));
        for disk in disks {
            let drive = format!("file={},format=raw,if=virtio,cache=unsafe", disk.display());
            command.args(["-drive", &drive]);
        }
        command.arg("-kernel").arg(image.join("vmlinuz"));
        command.arg("-initrd").arg(image.join("initrd.img"));
        let words = format!(
            "console=ttyS0 quiet panic=-1 no_timer_check random.trust_cpu=on BOOTIF=01-52-54-00-e7-00-77 etherpool.boot=http://{SERVER}:8069 etherpool.syslog=boot"
        );
        command.args(["-append", &words]);
        let log = File::create(dir.join("qemu.log")).unwrap();
        let qemu = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("QEMU can be started");
        Machine { qemu, console, monitor, end: Instant::now() + LIMIT }
    }

    /// The machine has its own time, and the test looks again and again.
    fn wait_until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        while !done() {
            let ended = self.qemu.try_wait().unwrap();
            assert!(ended.is_none(), "the machine ended ({ended:?}) before {what}");
            assert!(Instant::now() < self.end, "it took too long until {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
        println!("{what}: {:.1} s", (LIMIT - (self.end - Instant::now())).as_secs_f64());
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    fn press_button(&mut self) {
        self.ends_by(b"system_powerdown\n");
    }

    /// By its keyboard. QEMU ends then, as it is told not to start it again.
    fn restart(&mut self) {
        self.ends_by(b"sendkey ctrl-alt-delete\n");
    }

    fn ends_by(&mut self, command: &[u8]) {
        let mut monitor = UnixStream::connect(&self.monitor).unwrap();
        monitor.write_all(command).unwrap();
        let end = self.end;
        let ended = std::iter::repeat_with(|| self.qemu.try_wait().unwrap()).find(|ended| {
            std::thread::sleep(Duration::from_millis(100));
            assert!(Instant::now() < end, "the machine doesn't switch itself off");
            ended.is_some()
        });
        assert!(ended.flatten().is_some_and(|status| status.success()));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if std::thread::panicking() {
            eprintln!("--- console\n{}", self.console());
        }
    }
}

fn file(path: PathBuf, mebibytes: usize) -> PathBuf {
    File::create(&path).unwrap().set_len((mebibytes * MIB) as u64).unwrap();
    path
}

fn build(dir: &Path) -> PathBuf {
    let [kernel, modules] = vm::parts_of_image("vmlinux-");
    let built = etherpool()
        .args([
            "boot",
            "image",
            "build",
            "--name",
            "tried",
            "--level",
            "1",
            "--with",
            "mdadm,sh,sleep",
            "--json",
            "--state-dir",
        ])
        .arg(dir)
        .arg("--kernel-image")
        .arg(kernel)
        .arg("--modules-dir")
        .arg(modules)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let about: serde_json::Value = serde_json::from_slice(&built.stdout).unwrap();
    println!("initramfs: {} bytes, {} modules", about["initrd_bytes"], about["modules"]);
    assert!(about["modules"].as_u64().unwrap() > 300);
    // As people try it.
    let tried = etherpool()
        .args(["boot", "image", "verify", "tried", "--emulate", "--json", "--state-dir"])
        .arg(dir)
        .output()
        .unwrap();
    assert!(tried.status.success(), "{}", String::from_utf8_lossy(&tried.stderr));
    let seen: serde_json::Value = serde_json::from_slice(&tried.stdout).unwrap();
    println!("verified: {seen}");
    let mib = seen["memory_mib"].as_u64().unwrap();
    assert!(seen["switched_off"] == true && (1..300).contains(&mib), "{seen}");
    dir.join("images/tried")
}

/// The size of the export at an address, in MiB; none where nobody answers.
fn size_at(interface: &InterfaceSpec, address: &str) -> Option<usize> {
    let address: ShelfSlot = address.parse().unwrap();
    if !Client::probe(interface, address) {
        return None;
    }
    let sectors = Client::connect(interface, address).ok()?.sectors().ok()?;
    Some(sectors as usize * 512 / MIB)
}

/// Those of the first slots of a shelf.
fn sizes_on(interface: &InterfaceSpec, shelf: u16) -> Vec<usize> {
    let slots = (0..4).filter_map(|slot| size_at(interface, &format!("e{shelf}.{slot}")));
    let mut sizes: Vec<usize> = slots.collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn a_booted_node_exports_what_is_labelled_until_it_is_accepted() {
    require_root();
    vm::require_qemu();
    vm::sweep();
    let dir = tempfile::Builder::new().prefix("etherpool-image").tempdir_in("/var/tmp").unwrap();
    let image = build(dir.path());
    let switch = Switch::new("image");
    switch.bridge("br0", 1500);
    vm::ip(&["-n", switch.netns(), "addr", "add", &format!("{SERVER}/24"), "dev", "br0"]);
    vm::ip(&["-n", switch.netns(), "route", "add", "255.255.255.255", "dev", "br0"]);
    vm::ip(&["-n", switch.netns(), "tuntap", "add", "tap0", "mode", "tap"]);
    vm::ip(&["-n", switch.netns(), "link", "set", "tap0", "master", "br0", "up"]);
    let server = BootServer::start(switch.netns());
    let dhcp = DhcpServer { address: SERVER, range: [NODE, NODE], lease: LEASE, given: None };
    let is_silent = dhcp.start(switch.netns());
    let logs = run_in(Some(switch.netns()), || UdpSocket::bind((SERVER, 514))).unwrap();
    logs.set_read_timeout(Some(LIMIT)).unwrap();

    let blank = file(dir.path().join("blank"), BLANK);
    let ext4 = file(dir.path().join("ext4"), EXT4);
    let made = Command::new("mkfs.ext4").arg("-q").arg(&ext4).status().unwrap();
    assert!(made.success());
    let labelled = file(dir.path().join("labelled"), LABELLED);
    let mut label = File::options().write(true).open(&labelled).unwrap();
    label.seek(SeekFrom::Start(4096)).unwrap();
    label.write_all(&LABEL_MAGIC).unwrap();
    let all = [&blank, &ext4, &labelled].map(Clone::clone);
    let contents = || all.each_ref().map(|disk| std::fs::read(disk).unwrap());
    let untouched = contents();

    let disks = [blank.clone(), ext4.clone(), labelled];
    let mut machine = Machine::start(&switch, &image, dir.path(), &disks);
    let interface = InterfaceSpec { name: "br0".into(), netns: Some(switch.netns().into()) };
    let heard = server.clone();
    machine.wait_until("its node serves", || {
        heard.last().is_some_and(|hello| hello.phase == Phase::Serving)
    });
    machine.wait_until("the labelled disk is exported", || sizes_on(&interface, 50) == [LABELLED]);
    // All have been looked at when it says why the others aren't exported.
    machine.wait_until("the boot server knows of all disks", || {
        let hello = heard.last().unwrap();
        let is_looked_at = |disk: &Disk| disk.contents.as_deref() != Some("not looked at yet");
        hello.disks.len() == 3
            && hello.disks.iter().any(|disk| disk.exported)
            && hello.disks.iter().all(is_looked_at)
    });
    let hello = server.last().unwrap();
    assert_eq!(hello.uuid.unwrap().to_string(), UUID);
    assert_eq!(hello.macs[0].to_string(), "52:54:00:e7:00:77");
    let mut seen: Vec<_> = hello
        .disks
        .iter()
        .map(|disk| (disk.size_bytes as usize / MIB, disk.exported, disk.contents.clone()))
        .collect();
    seen.sort();
    let file_system = Some("ext2/3/4 file system".to_owned());
    let expected = [(BLANK, false, None), (EXT4, false, file_system), (LABELLED, true, None)];
    assert_eq!(seen, expected);
    let own = hello.identity.expect("the key that it made");
    let Kept::Plain { secret } = &own.kept else { panic!("it has no TPM") };
    let pair = KeyPair::of(SecretKey::parse(secret).unwrap()).unwrap();
    assert_eq!(pair.public().to_string(), own.public);
    assert_eq!(sizes_on(&interface, 50), [LABELLED]);

    assert!(contents() == untouched, "something was written to a disk before anybody accepted it");

    // Somebody accepts it, and hands it the key that he kept of it in another boot.
    let kept = KeyPair::of(SecretKey::new([7; 32])).unwrap();
    let secret = kept.secret().to_text().to_string();
    let identity = Identity { public: kept.public().to_string(), kept: Kept::Plain { secret } };
    let accepted = Answer {
        name: Some("node-7".into()),
        shelf: Some(7),
        identity: Some(identity),
        configuration: Some("write-cache = \"off\"\n".into()),
        ..answer(State::Accepted)
    };
    server.say(accepted.clone());
    machine.wait_until("the blank disk is exported, too, on the shelf that it was given", || {
        sizes_on(&interface, 7) == [BLANK, LABELLED]
    });
    assert_eq!(sizes_on(&interface, 50), Vec::<usize>::new());
    machine.wait_until("it is who it was told to be", || {
        let hello = heard.last().unwrap();
        hello.identity.is_none() && hello.hostname.as_deref() == Some("node-7")
    });
    let key = format!("key={}", kept.public());
    assert!(machine.console().contains(&key), "its node has another key");
    let slots =
        || (0..4).map(|slot| size_at(&interface, &format!("e7.{slot}"))).collect::<Vec<_>>();
    let exported = slots();

    let console = machine.console.clone();
    // Whatever becomes of the boot server, its disks stay where they are, and its node isn't even disturbed.
    let starts = |machine: &Machine| machine.console().matches(&key).count();
    let started = starts(&machine);
    assert!(started > 0, "its node says with which key it runs");
    let wrong = Answer { configuration: Some("bufers = 1\n".into()), ..accepted.clone() };
    let regressions = [
        Says::This(Box::new(answer(State::Pending))),
        Says::This(Box::new(wrong)),
        Says::Nonsense,
        Says::Nothing,
    ];
    for says in regressions {
        // What is wrong is told with the next hello after it was heard.
        let message = match &says {
            Says::This(answer) if answer.state == State::Pending => Some("no more that this node"),
            Says::This(_) => Some("bufers"),
            Says::Nonsense | Says::Nothing => None,
        };
        let before = server.count();
        *server.says.lock().unwrap() = says;
        machine.wait_until("it has heard that, and says hello again", || {
            let last = heard.last().unwrap().message.unwrap_or_default();
            heard.count() >= before + 2 && message.is_none_or(|message| last.contains(message))
        });
        let hello = server.last().unwrap();
        assert_eq!((hello.phase, hello.hostname.as_deref()), (Phase::Serving, Some("node-7")));
        assert!(hello.identity.is_none(), "it is a stranger again");
        assert_eq!(slots(), exported);
    }
    assert_eq!(starts(&machine), started, "its node was started anew");

    // Nor when its address is nobody's any more; by that it has told its log.
    is_silent.store(true, Ordering::Relaxed);
    machine.wait_until("its lease is over", || {
        String::from_utf8_lossy(&std::fs::read(&console).unwrap()).contains("the lease is over")
    });
    assert_eq!(slots(), exported);
    assert_eq!(starts(&machine), started, "its node was started anew");
    let mut told = [0; 2048];
    let (len, from) = logs.recv_from(&mut told).unwrap();
    assert_eq!(from.ip(), NODE);
    assert!(String::from_utf8_lossy(&told[..len]).contains("etherpool"));
    is_silent.store(false, Ordering::Relaxed);

    // After another boot it is the same. Its found disks have slots in the order in which it found them, which is another
    // one for a node that is accepted at once (docs/boot-image.md).
    machine.press_button();
    let console = machine.console();
    assert!(console.contains("switches itself off"), "{console}");
    // Two more disks are an array, by its configuration.
    let halves = ["left", "right"].map(|name| file(dir.path().join(name), HALF));
    let disks = [disks.as_slice(), halves.as_slice()].concat();
    server.say(Answer { configuration: Some(ARRAY.into()), ..accepted });
    let array = || Client::connect(&interface, "e7.9".parse().unwrap()).unwrap();
    let written = [0xA7; 1024];
    for boot in 1..=2 {
        let before = server.count();
        let mut machine = Machine::start(&switch, &image, dir.path(), &disks);
        machine.wait_until("it is who it was, and has its disks on its shelf", || {
            let again = heard.count() > before && heard.last().unwrap().identity.is_none();
            again && sizes_on(&interface, 7) == [BLANK, LABELLED]
        });
        assert!(machine.console().contains(&key), "its node has another key");
        let size = size_at(&interface, "e7.9").expect("its array is exported");
        assert!((HALF / 2..HALF).contains(&size), "{size} MiB");
        match boot {
            1 => array().write(2048, &written).unwrap(),
            _ => assert_eq!(array().read(2048, 2).unwrap(), written),
        }
        let console = machine.console.clone();
        machine.wait_until("its node is killed, and starts again", || {
            let console = String::from_utf8_lossy(&std::fs::read(&console).unwrap()).into_owned();
            let again = console.matches("the node is ready").count() >= 2;
            again && Client::probe(&interface, "e7.9".parse().unwrap())
        });
        let says = match boot {
            1 => {
                machine.press_button();
                "switches itself off"
            }
            _ => {
                machine.restart();
                "this machine starts anew"
            }
        };
        let console = machine.console();
        let killed = "the node ended with signal 9";
        let errors = console.lines().filter(|line| line.contains(" ERROR "));
        let others: Vec<&str> = errors.filter(|line| !line.contains(killed)).collect();
        assert!(console.contains(says) && console.contains(killed), "{console}");
        assert!(others.is_empty(), "{others:?}");
        assert!(console.contains("the watchdog runs"), "{console}");
    }
    assert!(
        contents()[..2] == untouched[..2],
        "something was written to a disk that nobody told it to write to"
    );
    for half in halves {
        let image = std::fs::read(half).unwrap();
        assert!(image.windows(1024).any(|bytes| bytes == written), "the array has one copy");
    }
}
