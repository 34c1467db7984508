//! Machines boot from `etherpool boot serve`: firmware of PCs and of UEFI, iPXE, nodes, and those who mean it no good.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind::ReadOnlyFilesystem;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use blackbox::dhcp::DhcpServer;
use blackbox::{Lab, LabOptions, Rival, VOLUME, alone, etherpool, require_root, wait_until};
use boot::dhcp::Given;
use rustix::net::{AddressFamily, SocketType};
use seal::{KeyPair, SecretKey};
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "../qemu/vm.rs"]
#[allow(dead_code)]
mod vm;

use vm::Switch;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 1);
const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";
/// As SMBIOS has it: the first three fields the other way round.
const UUID_BYTES: [u8; 16] = [
    0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
];
/// What ends a test that hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A server in a namespace of its own, and a segment.
struct Booting {
    switch: Switch,
    machine: Switch,
    dir: TempDir,
    server: Option<Child>,
    words: Vec<String>,
}

impl Booting {
    fn new(name: &str) -> Booting {
        require_root();
        vm::sweep();
        let (switch, machine) =
            (Switch::new(&format!("{name}-s")), Switch::new(&format!("{name}-b")));
        switch.bridge("br0", 1500);
        switch.cable("br0", &machine, "eth0", 1500);
        vm::ip(&["-n", machine.netns(), "addr", "add", "10.9.9.1/24", "dev", "eth0"]);
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for directory in ["ipxe", "state/images/node"] {
            std::fs::create_dir_all(path(directory)).unwrap();
        }
        let file = |name: &str, len: usize| {
            let contents: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
            std::fs::write(path(name), contents).unwrap();
        };
        file("ipxe/undionly.kpxe", 70_001);
        file("ipxe/snponly.efi", 170_000);
        file("state/images/node/vmlinuz", 300_000);
        file("state/images/node/initrd.img", 5_000_000);
        let ipxe = path("ipxe").display().to_string();
        std::fs::write(path("boot.toml"), format!("[ipxe]\ndirectory = '{ipxe}'\n")).unwrap();
        Booting { switch, machine, dir, server: None, words: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, more: &str) {
        let mut file = File::options().append(true).open(self.path("boot.toml")).unwrap();
        file.write_all(more.as_bytes()).unwrap();
    }

    fn start(&mut self) {
        let state = self.path("state").display().to_string();
        self.start_in(&state);
    }

    fn command(&self, state: &str) -> Command {
        let mut command = inside(&self.machine);
        command
            .arg(etherpool().get_program())
            .args(["boot", "serve", "-i", "eth0", "--config"])
            .arg(self.path("boot.toml"))
            .args(["--state-dir", state])
            .args(&self.words);
        command
    }

    fn start_in(&mut self, state: &str) {
        let begun = self.log().matches("serving machines").count();
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = self.command(state);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.server = Some(child.unwrap());
        let server = self.server.as_mut().unwrap();
        let log = self.dir.path().join("log");
        wait_until("the server serves", || {
            let text = std::fs::read_to_string(&log).unwrap();
            assert!(server.try_wait().unwrap().is_none(), "{text}");
            text.matches("serving machines").count() > begun
        });
    }

    /// As a service manager does; it ends well.
    fn stop(&mut self) {
        let mut server = self.server.take().unwrap();
        let pid = server.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(server.wait().unwrap().success(), "{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn run(&self, words: &[&str]) -> Output {
        alone(words, self.dir.path())
    }

    fn cli(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(!output.status.success(), "{words:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        let text = self.cli(&[words, &["--json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// What `boot list` says of an address, once `is_so` of it.
    fn listed(&self, mac: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut found = Value::Null;
        wait_until("it is listed", || {
            let all = self.json(&["boot", "list"]);
            let one = all.as_array().unwrap().iter().find(|one| one["mac"] == mac);
            found = one.cloned().unwrap_or_default();
            is_so(&found)
        });
        found
    }

    /// Another machine of the segment.
    fn client(&self, number: u8) -> Client {
        let netns = Switch::new(&format!("c{number}{}", self.machine.netns().len()));
        let name = format!("c{number}");
        self.switch.cable("br0", &netns, &name, 1500);
        let address = Ipv4Addr::new(10, 9, 9, 100 + number);
        let client = Client { netns, name, address };
        client.has(address);
        let Client { netns, name, .. } = &client;
        // So that what is sent to all has somewhere to go.
        vm::ip(&["-n", netns.netns(), "route", "add", "default", "dev", name]);
        client
    }
}

impl Drop for Booting {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

fn inside(netns: &Switch) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns.netns(), "setpriv", "--pdeathsig", "KILL"]);
    command.stdin(Stdio::null());
    command
}

struct Client {
    netns: Switch,
    /// Of its interface.
    name: String,
    address: Ipv4Addr,
}

impl Client {
    /// It has this address, too.
    fn has(&self, address: Ipv4Addr) {
        let address = format!("{address}/24");
        vm::ip(&["-n", self.netns.netns(), "addr", "add", &address, "dev", &self.name]);
    }

    /// Does something in its namespace: sockets that are made there stay there.
    fn there<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(self.netns.netns());
        std::thread::scope(|scope| {
            let done = scope.spawn(move || {
                let netns = File::open(path).unwrap();
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(netns.as_fd(), kind).unwrap();
                act()
            });
            done.join().unwrap()
        })
    }

    fn udp(&self, port: u16) -> UdpSocket {
        let socket = self.there(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
        socket.set_broadcast(true).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    }

    /// From one of its addresses.
    fn connect_from(&self, source: Ipv4Addr) -> std::io::Result<TcpStream> {
        let stream = self.there(|| -> std::io::Result<TcpStream> {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            rustix::net::bind(&socket, &SocketAddrV4::new(source, 0))?;
            rustix::net::connect(&socket, &SocketAddrV4::new(SERVER, 8069))?;
            Ok(socket.into())
        })?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        self.connect_from(self.address)
    }

    /// Status and body.
    fn http(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        self.http_from(self.address, method, path, body)
    }

    fn http_from(&self, source: Ipv4Addr, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = self.connect_from(source).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refuses doesn't read on.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("{method} {path}: {read:?}"));
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_off(end + 4))
    }

    fn get(&self, path: &str) -> (u16, Vec<u8>) {
        self.http("GET", path, b"")
    }

    fn hello(&self, hello: &Value) -> Value {
        let (status, body) = self.http("POST", "/node/hello", hello.to_string().as_bytes());
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// A file as a ROM fetches it, or the message that it gets instead.
    fn tftp(&self, name: &[u8], options: &[(&str, &str)]) -> Result<Vec<u8>, String> {
        self.tftp_from(self.address, name, options)
    }

    fn tftp_from(
        &self,
        source: Ipv4Addr,
        name: &[u8],
        options: &[(&str, &str)],
    ) -> Result<Vec<u8>, String> {
        let socket = self.there(|| UdpSocket::bind((source, 0)).unwrap());
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let mut request = [b"\0\x01", name, b"\0octet\0"].concat();
        for (name, value) in options {
            request.extend(format!("{name}\0{value}\0").as_bytes());
        }
        socket.send_to(&request, (SERVER, 69)).unwrap();
        let (mut file, mut next, mut packet) = (Vec::new(), 1_u16, vec![0; 65536]);
        let (mut blksize, mut window, mut since) = (512, 1, 0);
        loop {
            let (len, from) = socket.recv_from(&mut packet).unwrap();
            let packet = &packet[..len];
            let ack = |block: u16| [&[0, 4], &block.to_be_bytes()[..]].concat();
            match packet[1] {
                3 => {
                    if packet[2..4] != next.to_be_bytes() {
                        continue;
                    }
                    file.extend(&packet[4..]);
                    since += 1;
                    let is_last = len - 4 < blksize;
                    if is_last || since == window {
                        socket.send_to(&ack(next), from).unwrap();
                        since = 0;
                    }
                    if is_last {
                        return Ok(file);
                    }
                    next = next.wrapping_add(1);
                }
                6 => {
                    let words: Vec<&[u8]> = packet[2..].split(|byte| *byte == 0).collect();
                    for pair in words.chunks_exact(2) {
                        let value = || String::from_utf8_lossy(pair[1]).parse().unwrap();
                        match pair[0] {
                            b"blksize" => blksize = value(),
                            b"windowsize" => window = value(),
                            _ => {}
                        }
                    }
                    // Whatever was asked for, in one frame.
                    assert!(blksize <= 1468 && window <= 64, "{blksize} {window}");
                    socket.send_to(&ack(0), from).unwrap();
                }
                _ => return Err(String::from_utf8_lossy(&packet[4..]).into_owned()),
            }
        }
    }
}

/// A DHCP message of a client.
struct Asks(Vec<u8>);

impl Asks {
    /// Of `kind`, from the machine with the last byte of its address `mac`.
    fn new(kind: u8, mac: u8, transaction: u8) -> Asks {
        let mut bytes = vec![0; 240];
        bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
        bytes[7] = transaction;
        bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, mac]);
        bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
        bytes.extend([53, 1, kind]);
        Asks(bytes)
    }

    fn with(mut self, option: u8, data: &[u8]) -> Asks {
        self.0.extend([option, data.len() as u8]);
        self.0.extend(data);
        self
    }

    /// As the ROMs of PCs (0) and UEFI (7) ask.
    fn pxe(self, architecture: u8) -> Asks {
        let class = format!("PXEClient:Arch:{architecture:05}:UNDI:003016");
        self.with(60, class.as_bytes()).with(93, &[0, architecture]).with(94, &[1, 3, 16]).uuid()
    }

    fn ipxe(self) -> Asks {
        self.pxe(0).with(77, b"iPXE")
    }

    fn uuid(self) -> Asks {
        self.with(97, &[&[0], &UUID_BYTES[..]].concat())
    }

    fn from(mut self, address: Ipv4Addr) -> Asks {
        self.0[12..16].copy_from_slice(&address.octets());
        self
    }

    fn send(mut self, socket: &UdpSocket, to: (Ipv4Addr, u16)) {
        self.0.push(255);
        socket.send_to(&self.0, to).unwrap();
    }

    fn broadcast(self, socket: &UdpSocket) {
        self.send(socket, (Ipv4Addr::BROADCAST, 67));
    }
}

struct Told(Vec<u8>);

impl Told {
    /// The next answer.
    fn hear(socket: &UdpSocket) -> Told {
        let (from, told) = Told::hear_any(socket);
        assert_eq!(from, SERVER);
        told
    }

    /// The next of whoever answers.
    fn hear_any(socket: &UdpSocket) -> (IpAddr, Told) {
        let mut bytes = vec![0; 2000];
        let (len, from) = socket.recv_from(&mut bytes).unwrap();
        bytes.truncate(len);
        (from.ip(), Told(bytes))
    }

    fn transaction(&self) -> u8 {
        self.0[7]
    }

    fn gives(&self) -> Ipv4Addr {
        Ipv4Addr::from(<[u8; 4]>::try_from(&self.0[16..20]).unwrap())
    }

    fn option(&self, kind: u8) -> Option<&[u8]> {
        let mut rest = &self.0[240..];
        while let [is, len, data @ ..] = rest {
            match *is {
                255 => return None,
                0 => rest = &rest[1..],
                is if is == kind => return Some(&data[..usize::from(*len)]),
                _ => rest = &data[usize::from(*len)..],
            }
        }
        None
    }

    fn file(&self) -> String {
        String::from_utf8(self.option(67).unwrap_or_default().to_vec()).unwrap()
    }
}

fn mac(last: u8) -> String {
    format!("02:00:00:00:00:{last:02x}")
}

#[test]
fn a_machine_gets_what_it_is_assigned_and_nothing_before() {
    let mut booting = Booting::new("assigned");
    booting.start();
    let client = booting.client(1);
    let socket = client.udp(68);
    let proxy = client.udp(4011);
    // Nobody has named it: an answer to the second question shows that there is none to the first.
    Asks::new(1, 7, 1).pxe(0).broadcast(&socket);
    let seen = booting.listed(&mac(7), |one| one["given"] == "nothing");
    assert_eq!((&seen["uuid"], &seen["architecture"]), (&json!(UUID), &json!("bios")));
    assert_eq!(client.get(&format!("/boot.ipxe?mac={}", mac(7))).0, 404);
    booting.cli(&["boot", "assign", &mac(7), "node", "--append", "quiet x=1", "--name", "pc7"]);
    Asks::new(1, 7, 2).pxe(0).broadcast(&socket);
    let told = Told::hear(&socket);
    assert_eq!((told.transaction(), told.gives()), (2, Ipv4Addr::UNSPECIFIED));
    assert_eq!((told.file().as_str(), told.option(60)), ("undionly.kpxe", Some(&b"PXEClient"[..])));
    // By the port of proxies, when it has an address.
    Asks::new(3, 7, 3).pxe(7).from(client.address).send(&proxy, (SERVER, 4011));
    let told = Told::hear(&proxy);
    assert_eq!((told.transaction(), told.file().as_str()), (3, "snponly.efi"));
    for (name, options) in [
        (&b"undionly.kpxe"[..], &[("tsize", "0"), ("blksize", "1456")][..]),
        (b"/undionly.kpxe", &[]),
        (b"\\undionly.kpxe", &[("blksize", "1432"), ("windowsize", "4")]),
    ] {
        let file = client.tftp(name, options).unwrap();
        assert!(file == std::fs::read(booting.path("ipxe/undionly.kpxe")).unwrap());
    }
    // UEFI fetches by HTTP where it can.
    let http = Asks::new(1, 7, 4).with(60, b"HTTPClient:Arch:00016:UNDI:003001").with(93, &[0, 16]);
    http.broadcast(&socket);
    let told = Told::hear(&socket);
    assert_eq!(told.file(), format!("http://{SERVER}:8069/ipxe/snponly.efi"));
    let (status, file) = client.get("/ipxe/snponly.efi");
    assert!(status == 200 && file == std::fs::read(booting.path("ipxe/snponly.efi")).unwrap());
    // What was loaded asks once more, and runs a script.
    Asks::new(1, 7, 5).ipxe().broadcast(&socket);
    let url = Told::hear(&socket).file();
    let path = url.strip_prefix(&format!("http://{SERVER}:8069")).unwrap();
    let (status, script) = client.get(path);
    let script = String::from_utf8(script).unwrap();
    assert_eq!(status, 200, "{script}");
    let words = format!(
        "etherpool.boot=http://{SERVER}:8069 BOOTIF=01-02-00-00-00-00-07 console=ttyS0 console=tty0 panic=10 quiet x=1"
    );
    assert!(script.contains(&words), "{script}");
    for (line, file) in [("kernel ", "vmlinuz"), ("initrd ", "initrd.img")] {
        let line = script.lines().find(|one| one.starts_with(line)).unwrap();
        let url = line.split(' ').find_map(|word| word.strip_prefix("http://")).unwrap();
        let (status, contents) = client.get(&url[url.find('/').unwrap()..]);
        let whole = std::fs::read(booting.path("state/images/node").join(file)).unwrap();
        assert!(status == 200 && contents == whole, "{file}");
    }
    let seen = booting.listed(&mac(7), |one| one["result"] == "fetches node/initrd.img");
    assert_eq!((&seen["name"], &seen["assigned"]), (&json!("pc7"), &json!("node")));
    let shown = booting.cli(&["boot", "list"]);
    assert!(shown.contains("pc7") && shown.contains("fetches node/initrd.img"), "{shown}");
    // To another end; and what all others boot counts for others.
    booting.cli(&["boot", "assign", "default", "node", "--yes"]);
    for (what, boots) in [("local", "sanboot --no-describe --drive 0x80"), ("node", "imgfree")] {
        booting.cli(&["boot", "assign", "pc7", what]);
        let (status, script) = client.get(path);
        assert!(status == 200 && String::from_utf8(script).unwrap().contains(boots), "{what}");
    }
    booting.cli(&["boot", "assign", UUID, "none"]);
    assert_eq!(client.get(path).0, 404, "what is said of its UUID goes before");
    booting.cli(&["boot", "assign", UUID, "default"]);
    assert_eq!(client.get(path).0, 200, "and then what is said of its address");
    booting.cli(&["boot", "assign", "pc7", "none"]);
    assert_eq!(client.get(&format!("/boot.ipxe?mac={}", mac(7))).0, 404);
    // Who waits for what he was told before goes on with it as long as he isn't told otherwise.
    let (status, script) = client.get(&format!("/boot.ipxe?mac={}&again=1", mac(7)));
    assert_eq!((status, &script[..]), (200, &b"#!ipxe\nexit 1\n"[..]));
    assert_eq!(client.get(&format!("/boot.ipxe?mac={}", mac(8))).0, 200);
    booting.stop();
}

#[test]
fn the_server_has_no_right_and_sees_no_file() {
    let mut booting = Booting::new("rights");
    booting.start();
    let process = PathBuf::from(format!("/proc/{}", pid_of(&booting)));
    let tasks: Vec<_> = std::fs::read_dir(process.join("task")).unwrap().flatten().collect();
    assert!(tasks.len() > 4, "{}", tasks.len());
    for task in tasks {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name}: {status}")).trim().to_owned()
        };
        for name in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
            assert_eq!(u64::from_str_radix(&line(name), 16), Ok(0), "{status}");
        }
        assert_eq!((line("NoNewPrivs:").as_str(), line("Seccomp:").as_str()), ("1", "2"));
        if line("Name:") != "log" {
            assert_eq!(std::fs::read_dir(task.path().join("root")).unwrap().count(), 0);
            let mounts = std::fs::read_to_string(task.path().join("mountinfo")).unwrap();
            assert_eq!(mounts.lines().count(), 1, "{mounts}");
        }
    }
    // Nor by what it holds: from each directory no way leads up, and of those that it only reads none is written to.
    let (mut held, mut read_only) = (0, 0);
    for entry in std::fs::read_dir(process.join("fd")).unwrap().flatten() {
        let Ok(own) = std::fs::metadata(entry.path().join(".")) else { continue };
        held += 1;
        for above in ["..", "../.."] {
            let above = std::fs::metadata(entry.path().join(above)).unwrap();
            assert_eq!((above.dev(), above.ino()), (own.dev(), own.ino()), "{entry:?}");
        }
        let made = std::fs::write(entry.path().join("made"), "x");
        read_only += usize::from(made.is_err_and(|error| error.kind() == ReadOnlyFilesystem));
    }
    assert_eq!((held, read_only), (4, 3), "state, and to be read: machines, images, iPXE");
    booting.stop();
}

#[test]
fn a_machine_is_told_nothing_wrong_by_a_file_that_is_wrong() {
    let mut booting = Booting::new("wrong");
    booting.start();
    let client = booting.client(10);
    let own = key(&booting, "own");
    let said = hello(UUID, &mac(7), Some(&own));
    client.hello(&said);
    wait_until("it is pending", || booting.cli(&["node", "pending"]).contains(UUID));
    let public = own["public"].as_str().unwrap();
    let text = booting.cli(&["node", "pending"]);
    assert!(text.contains(&format!("etherpool node accept {UUID} --key {public}")), "{text}");
    booting.cli(&["node", "accept", UUID, "--yes", "--key", public, "--shelf", "1"]);
    assert_eq!(client.hello(&said)["state"], "accepted");
    let file = booting.path(&format!("state/machines/{UUID}.toml"));
    let good = std::fs::read(&file).unwrap();
    let status = |hello: &Value| client.http("POST", "/node/hello", hello.to_string().as_bytes()).0;
    std::fs::write(&file, "nonsense").unwrap();
    wait_until("the file is read again", || status(&said) == 503);
    assert_eq!(client.get(&format!("/boot.ipxe?mac={}&uuid={UUID}", mac(7))).0, 503);
    // Two files for one machine are no better.
    std::fs::write(&file, &good).unwrap();
    std::fs::write(booting.path("state/machines/copy.toml"), &good).unwrap();
    wait_until("both files are read", || status(&said) == 503);
    std::fs::remove_file(booting.path("state/machines/copy.toml")).unwrap();
    wait_until("all is well", || status(&said) == 200);
    assert_eq!(client.hello(&said)["identity"], own);
    // Of a file that names nobody all may be meant who aren't known.
    let stranger = hello("00112233-4455-6677-8899-aabbccddee00", &mac(8), None);
    assert_eq!(status(&stranger), 200);
    std::fs::write(booting.path("state/machines/rack.toml"), "nonsense").unwrap();
    wait_until("the file is read", || status(&stranger) == 503);
    assert_eq!(client.hello(&said)["state"], "accepted");
    std::fs::remove_file(booting.path("state/machines/rack.toml")).unwrap();
    // A default that is wrong is said, and is a failure.
    std::fs::write(booting.path("state/default"), "nonsense").unwrap();
    assert!(booting.refused(&["boot", "list"]).contains("default: line 1"));
    booting.stop();
}

/// A disk with another's slot is written to in its place.
#[test]
fn slots_that_are_damaged_are_never_begun_anew() {
    let mut booting = Booting::new("slots");
    let (state, file) =
        (booting.path("state").display().to_string(), booting.path("state/slots.json"));
    booting.start();
    booting.stop();
    std::fs::write(&file, "{ nonsense").unwrap();
    for check in [&["--check"][..], &[]] {
        let output = booting.command(&state).args(check).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("slots.json"), "{check:?}: {said}");
        assert!(said.contains("bring it back from a backup"), "{check:?}: {said}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "{ nonsense", "{check:?}");
    }
    std::fs::remove_file(&file).unwrap();
    let output = booting.command(&state).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    booting.start();
    booting.stop();
}

/// Its sockets are bound to the one that was there: it would look like a server, and hear nobody.
#[test]
fn an_interface_that_is_made_anew_ends_the_server() {
    let mut booting = Booting::new("anew");
    booting.start();
    let netns = booting.machine.netns().to_owned();
    vm::ip(&["-n", &netns, "link", "del", "eth0"]);
    booting.switch.cable("br0", &booting.machine, "eth0", 1500);
    vm::ip(&["-n", &netns, "addr", "add", "10.9.9.1/24", "dev", "eth0"]);
    let mut status = None;
    wait_until("the server ends", || {
        status = booting.server.as_mut().unwrap().try_wait().unwrap();
        status.is_some()
    });
    let log = booting.log();
    assert!(!status.unwrap().success(), "{log}");
    // It may have looked in the moment in which there was none, or none with an address.
    let whys = ["was removed and made anew", "there is no interface eth0", "has no IPv4 address"];
    assert!(whys.iter().any(|why| log.contains(why)), "{log}");
    // As its unit does.
    booting.start();
    let client = booting.client(10);
    assert_eq!(client.get("/boot.ipxe").0, 200);
    booting.stop();
}

#[test]
fn who_says_the_uuid_of_another_is_told_nothing() {
    let mut booting = Booting::new("stranger");
    booting.start();
    let client = booting.client(11);
    let [own, other] = ["own", "other"].map(|name| key(&booting, name));
    let said = hello(UUID, &mac(7), Some(&own));
    client.hello(&said);
    // The public key of another isn't one's own.
    let mut forged = other.clone();
    forged["public"] = own["public"].clone();
    let forged = hello(UUID, &mac(7), Some(&forged)).to_string();
    assert_eq!(client.http("POST", "/node/hello", forged.as_bytes()).0, 400);
    wait_until("it is pending", || booting.cli(&["node", "pending"]).contains(UUID));
    // By --yes alone nobody is accepted.
    let told = booting.refused(&["node", "accept", UUID, "--yes"]);
    let public = own["public"].as_str().unwrap();
    assert!(told.contains(&format!("--key {public}")), "{told}");
    booting.cli(&["node", "accept", UUID, "--yes", "--key", public, "--shelf", "1"]);
    for identity in [Some(&other), Some(&own), None] {
        let mut strange = hello(UUID, &mac(9), identity);
        strange["phase"] = "started".into();
        let told = client.hello(&strange);
        assert_eq!(told["state"], "pending", "{told}");
        for secret in ["identity", "shelf", "configuration"] {
            assert_eq!(told[secret], Value::Null, "{told}");
        }
    }
    wait_until("the conflict is shown", || {
        booting.cli(&["node", "pending"]).contains("none of its addresses")
    });
    assert!(!booting.log().contains("is handed its key"), "{}", booting.log());
    // The machine itself has its key by its first answer, and not by each.
    assert_eq!(client.hello(&said)["identity"], own);
    let served = hello(UUID, &mac(7), None);
    let told = client.hello(&served);
    assert_eq!((&told["state"], &told["identity"]), (&json!("accepted"), &Value::Null));
    let mut started = served;
    started["phase"] = "started".into();
    assert_eq!(client.hello(&started)["identity"], own);
    let handed = || {
        let log = booting.log();
        let lines = log.lines().filter(|line| line.contains("is handed its key"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    // Answers don't wait for the log.
    wait_until("both are in the log", || handed().len() >= 2);
    let handed = handed();
    let peer = client.address.to_string();
    assert!(handed.len() == 2 && handed.iter().all(|line| line.contains(&peer)), "{handed:?}");
    // Given again it is about the key that is kept, whoever has said hello meanwhile.
    let output = booting.run(&["node", "accept", "disks", "--yes"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("no member yet"), "{told}");
    assert_eq!(client.hello(&started)["identity"], own);
    booting.stop();
}

#[test]
fn commands_say_what_is_to_be_done() {
    let booting = Booting::new("commands");
    for (words, said) in [
        (&["boot", "assign", "nobody", "node"][..], "etherpool boot list"),
        (&["boot", "assign", "default", "node"], "give --yes"),
        (&["boot", "assign", "default", "volume", "p/v"], "name that machine"),
        (&["boot", "assign", "02:00:00:00:00:07", "kernel", "/etc/passwd"], "copy it there"),
        (&["boot", "assign", "02:00:00:00:00:07", "node", "--append", "a;b"], "something else"),
        (&["boot", "assign", "02:00:00:00:00:07", "volume", "p/v"], "supervisor"),
        (&["node", "accept", "02:00:00:00:00:07"], "etherpool node pending"),
        (&["node", "config", "nobody"], "etherpool node accept"),
    ] {
        let told = booting.refused(words);
        assert!(told.contains(said), "{words:?}: {told}");
    }
    // Where the supervisor is elsewhere, whoever says the address is believed.
    booting.cli(&[
        "boot",
        "assign",
        &mac(7),
        "volume",
        "p/v",
        "--address",
        "e7.1",
        "--name",
        "pc7",
    ]);
    let told = booting.refused(&["boot", "assign", &mac(8), "volume", "p/v", "--address", "e7.1"]);
    assert!(told.contains("etherpool boot assign pc7 none"), "{told}");
    let told = booting.refused(&["boot", "assign", &mac(8), "local", "--name", "pc7"]);
    assert!(told.contains("choose another name"), "{told}");
    // One wrong file is one machine's trouble.
    let file = booting.path("state/machines/02-00-00-00-00-09.toml");
    std::fs::write(&file, "version = 1\nmacs = ['02:00:00:00:00:09']\nshelf = 'x'\n").unwrap();
    let output = booting.run(&["boot", "list"]);
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(warning.contains("02-00-00-00-00-09.toml: line 3"), "{warning}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("pc7"));
}

/// A key as a node makes it.
fn key(booting: &Booting, name: &str) -> Value {
    let dir = booting.path(name);
    let dir = dir.to_str().unwrap();
    let output = etherpool().args(["key", "show", "--state-dir", dir]).output().unwrap();
    let public = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let secret = std::fs::read_to_string(booting.path(name).join("identity.key")).unwrap();
    json!({ "public": public, "kept": { "plain": { "secret": secret.trim() } } })
}

fn hello(uuid: &str, mac: &str, identity: Option<&Value>) -> Value {
    json!({
        "version": 1,
        "uuid": uuid,
        "macs": [mac],
        "hostname": "disks",
        "program_version": "0.1.0",
        "kernel": "6.1.0",
        "phase": "serving",
        "disks": [{ "path": "/dev/vda", "size_bytes": 1 << 30, "contents": "ext4\u{1b}[2J" }],
        "identity": identity,
    })
}

/// A hello that says the slot of a disk, signed by a key.
fn with_slots(mut said: Value, disk: &str, slot: u8, signs: &Value) -> Value {
    let secret = signs["kept"]["plain"]["secret"].as_str().unwrap();
    let key = KeyPair::of(SecretKey::parse(secret).unwrap()).unwrap();
    let signed = format!("{slot} {disk}\n");
    said["slots"] = json!({ disk: slot });
    said["slots_signature"] =
        json!(key.sign("etherpool slots of a node", signed.as_bytes()).to_string());
    said
}

/// What is kept of a node's slots is what the node itself said: with a TPM nobody else can.
#[test]
fn slots_that_the_node_did_not_sign_are_not_kept() {
    let mut booting = Booting::new("signed-slots");
    booting.start();
    let client = booting.client(2);
    let [own, other] = ["own", "other"].map(|name| key(&booting, name));
    client.hello(&hello(UUID, &mac(7), Some(&own)));
    wait_until("it is pending", || booting.cli(&["node", "pending"]).contains(UUID));
    let public = own["public"].as_str().unwrap();
    booting.cli(&["node", "accept", UUID, "--yes", "--key", public, "--shelf", "7"]);
    let says = hello(UUID, &mac(7), None);
    let slots = |said: &Value| client.hello(said)["slots"].take();
    let mut unsigned = with_slots(says.clone(), "a", 0, &own);
    unsigned.as_object_mut().unwrap().remove("slots_signature");
    let mut altered = with_slots(says.clone(), "a", 0, &own);
    altered["slots"] = json!({ "a": 1 });
    for said in [unsigned, altered, with_slots(says.clone(), "a", 0, &other)] {
        assert_eq!(slots(&said), json!({}), "{said}");
    }
    wait_until("it is shown, with its disks", || {
        let all = booting.cli(&["node", "pending", "--all"]);
        all.contains("another key signed them") && all.contains("/dev/vda")
    });
    assert!(booting.cli(&["node", "pending"]).contains("No node waits"));
    assert_eq!(slots(&with_slots(says.clone(), "b", 2, &own)), json!({ "b": 2 }));
    assert_eq!(slots(&says), json!({ "b": 2 }));
    booting.stop();
}

#[test]
fn a_node_is_accepted_once_and_is_handed_its_key_from_then_on() {
    let mut booting = Booting::new("accepted");
    booting.start();
    let client = booting.client(2);
    let [own, other, next] = ["own", "other", "next"].map(|name| key(&booting, name));
    let said = hello(UUID, &mac(7), Some(&own));
    let told = client.hello(&said);
    assert_eq!((&told["state"], &told["identity"]), (&json!("pending"), &Value::Null));
    wait_until("it is pending", || {
        !booting.json(&["node", "pending"]).as_array().unwrap().is_empty()
    });
    let waiting = booting.json(&["node", "pending"]).to_string();
    let secret = own["kept"]["plain"]["secret"].as_str().unwrap();
    assert!(waiting.contains(own["public"].as_str().unwrap()) && !waiting.contains(secret));
    let shown = booting.cli(&["node", "pending"]);
    assert!(shown.contains("ext4[2J") && shown.contains("no TPM"), "{shown}");
    // Nothing is accepted unasked, and nothing else than what is meant.
    booting.refused(&["node", "accept", UUID, "--shelf", "1"]);
    let wrong = other["public"].as_str().unwrap();
    booting.refused(&["node", "accept", UUID, "--yes", "--key", wrong]);
    // Without a supervisor nobody knows which shelves are in use.
    let accept = ["node", "accept", UUID, "--yes", "--key", own["public"].as_str().unwrap()];
    let told = booting.refused(&accept);
    assert!(told.contains("--shelf N"), "{told}");
    booting.cli(&[&accept[..], &["--shelf", "1"]].concat());
    assert!(booting.cli(&["node", "pending"]).contains("No node waits"));
    let told = client.hello(&said);
    assert_eq!((&told["state"], &told["name"]), (&json!("accepted"), &json!("disks")));
    assert_eq!((&told["identity"], &told["shelf"]), (&own, &json!(1)));
    // It boots again: a key of its own at first, then the one that is handed to it.
    let again = hello(UUID, &mac(7), Some(&next));
    assert_eq!(client.hello(&again)["identity"], own);
    client.hello(&hello(UUID, &mac(7), None));
    assert!(booting.cli(&["node", "pending"]).contains("No node waits"));
    // One that goes on with another key is shown, and isn't accepted by --yes alone.
    client.hello(&again);
    client.hello(&again);
    wait_until("the conflict is shown", || {
        booting.cli(&["node", "pending"]).contains("another key")
    });
    let told = booting.refused(&["node", "accept", "disks", "--yes"]);
    assert!(told.contains("--key"), "{told}");
    assert_eq!(client.hello(&again)["identity"], own);
    // Its configuration goes with it; what is none isn't kept.
    std::fs::write(booting.path("node.toml"), "# mine\nautomatic = true\n").unwrap();
    std::fs::write(booting.path("wrong.toml"), "autmatic = true\n").unwrap();
    let file = |name: &str| booting.path(name).display().to_string();
    let told = booting.refused(&["node", "config", "disks", "--file", &file("wrong.toml")]);
    assert!(told.contains("line 1"), "{told}");
    booting.cli(&["node", "config", "disks", "--file", &file("node.toml")]);
    assert_eq!(booting.cli(&["node", "config", "disks"]), "# mine\nautomatic = true\n");
    assert_eq!(client.hello(&again)["configuration"], "# mine\nautomatic = true\n");
    let old = "disks-5 start exec true\ndisks-5 start ataoe /dev/md0 3\ndisks-5 stop exec false\n";
    std::fs::write(booting.path("etherpopulate.conf"), old).unwrap();
    let conf = file("etherpopulate.conf");
    booting.cli(&["node", "config", "disks", "--etherpopulate", &conf, "--called", "disks-5"]);
    let text = booting.cli(&["node", "config", "disks"]);
    assert!(
        text.contains("e5.3") && text.contains("/dev/md0") && text.contains("before-start"),
        "{text}"
    );
    // Another machine that calls itself the same is another one.
    let second = "00112233-4455-6677-8899-aabbccddee00";
    client.hello(&hello(second, &mac(8), Some(&other)));
    wait_until("it is pending", || booting.cli(&["node", "pending"]).contains(second));
    let wrong = ["--yes", "--key", wrong];
    let accept = [&["node", "accept", second, "--shelf", "2"], &wrong[..]].concat();
    let told = booting.refused(&[&accept[..], &["--name", "disks"]].concat());
    assert!(told.contains("choose another name"), "{told}");
    booting.cli(&accept);
    let told = client.hello(&hello(second, &mac(8), Some(&other)));
    assert_eq!((&told["name"], &told["shelf"]), (&json!("node-2"), &json!(2)));
    // All of it is in files that only root reads, and outlasts the server.
    booting.stop();
    booting.start();
    assert_eq!(client.hello(&again)["identity"], own);
    let machine = booting.path(&format!("state/machines/{UUID}.toml"));
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(machine).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    booting.stop();
}

#[test]
fn a_sealed_key_gives_way_to_no_other_unseen() {
    let mut booting = Booting::new("sealed");
    booting.start();
    let client = booting.client(2);
    let [mut own, next] = ["own", "next"].map(|name| key(&booting, name));
    own["kept"] = json!({ "tpm": { "public": "AA==", "private": "AB==" } });
    client.hello(&hello(UUID, &mac(7), Some(&own)));
    wait_until("it is pending", || booting.cli(&["node", "pending"]).contains("sealed to its TPM"));
    let public = own["public"].as_str().unwrap();
    booting.cli(&["node", "accept", UUID, "--yes", "--key", public, "--shelf", "1"]);
    let machine = booting.path(&format!("state/machines/{UUID}.toml"));
    let text = std::fs::read_to_string(machine).unwrap();
    assert!(text.contains("tpm-private = \"AB==\"") && !text.contains("secret"), "{text}");
    // Its board has another TPM, or none: it shows a key of its own, and goes on to do so.
    let again = hello(UUID, &mac(7), Some(&next));
    for _ in 0..2 {
        assert_eq!(client.hello(&again)["identity"], own);
    }
    wait_until("the conflict is shown", || {
        booting.cli(&["node", "pending"]).contains("another key")
    });
    let told = booting.refused(&["node", "accept", UUID, "--yes"]);
    assert!(told.contains("sealed to a TPM: this one isn't"), "{told}");
    booting.cli(&["node", "accept", UUID, "--yes", "--key", next["public"].as_str().unwrap()]);
    assert_eq!(client.hello(&again)["identity"], next);
    booting.stop();
}

#[test]
fn addresses_are_given_out_where_nobody_else_does() {
    let mut booting = Booting::new("addresses");
    booting.configure(
        "[dhcp]\nrange = ['10.9.9.20', '10.9.9.29']\nrouter = '10.9.9.1'\ndomain = 'lan'\n\
         [[static]]\nmac = '02:00:00:00:00:08'\naddress = '10.9.9.200'\nname = 'eight'\n",
    );
    booting.start();
    let client = booting.client(3);
    let socket = client.udp(68);
    Asks::new(1, 7, 1).pxe(0).broadcast(&socket);
    let offer = Told::hear(&socket);
    let address = offer.gives();
    assert!((20..30).contains(&address.octets()[3]) && offer.option(67).is_none(), "{address}");
    let takes = |transaction| {
        Asks::new(3, 7, transaction).pxe(0).with(54, &SERVER.octets()).with(50, &address.octets())
    };
    takes(2).broadcast(&socket);
    let ack = Told::hear(&socket);
    assert_eq!((ack.gives(), ack.option(53)), (address, Some(&[5][..])));
    assert_eq!(ack.option(1), Some(&[255, 255, 255, 0][..]));
    Asks::new(1, 8, 3).broadcast(&socket);
    let fixed = Told::hear(&socket);
    assert_eq!(fixed.gives(), Ipv4Addr::new(10, 9, 9, 200));
    assert_eq!(fixed.option(12), Some(&b"eight"[..]));
    // A restart forgets nothing: somebody else can't have it.
    booting.stop();
    booting.start();
    Asks::new(3, 9, 4).with(50, &address.octets()).broadcast(&socket);
    assert_eq!(Told::hear(&socket).option(53), Some(&[6][..]));
    Asks::new(3, 7, 5).with(50, &address.octets()).broadcast(&socket);
    assert_eq!(Told::hear(&socket).option(53), Some(&[5][..]));
    // A rogue server of the segment answers, too. Who takes our offer has it, whatever that one says.
    let rogue = booting.client(4);
    let _ = DhcpServer {
        address: rogue.address,
        range: [60, 70].map(|last| Ipv4Addr::new(10, 9, 9, last)),
        lease: Duration::from_secs(3600),
        given: Some(Given("evil".to_owned())),
    }
    .start(rogue.netns.netns());
    let offers = |of, transaction| -> BTreeMap<IpAddr, Ipv4Addr> {
        Asks::new(1, of, transaction).pxe(0).broadcast(&socket);
        (0..2)
            .map(|_| Told::hear_any(&socket))
            .map(|(from, told)| {
                assert_eq!(told.transaction(), transaction);
                (from, told.gives())
            })
            .collect()
    };
    let (ours, theirs) = (IpAddr::V4(SERVER), IpAddr::V4(rogue.address));
    let offered = offers(6, 6);
    let takes = |of, transaction, server: Ipv4Addr, address: Ipv4Addr| {
        let asks = Asks::new(3, of, transaction).pxe(0).with(54, &server.octets());
        asks.with(50, &address.octets()).broadcast(&socket);
        Told::hear_any(&socket)
    };
    let (from, ack) = takes(6, 7, SERVER, offered[&ours]);
    assert_eq!((from, ack.gives(), ack.option(53)), (ours, offered[&ours], Some(&[5][..])));
    assert!(!booting.log().contains("another DHCP server"));
    // Who takes the rogue's is told of.
    let offered = offers(5, 8);
    let (from, _) = takes(5, 9, rogue.address, offered[&theirs]);
    assert_eq!(from, theirs);
    wait_until("the other server is told of", || booting.log().contains("another DHCP server"));
    booting.stop();
}

#[test]
fn a_supervisor_has_a_boot_server_that_ends_with_it() {
    let booting = Booting::new("child");
    booting.cli(&["boot", "assign", "default", "node", "--yes"]);
    let state = booting.path("state").display().to_string();
    let more = format!("interface = 'eth0'\nstate-dir = '{state}'\n");
    let own = std::fs::read_to_string(booting.path("boot.toml")).unwrap();
    std::fs::write(booting.path("boot.toml"), more + &own).unwrap();
    let path = |name: &str| booting.path(name).display().to_string();
    let text = format!(
        "state-dir = '{}'\nrun-dir = '{}'\ndevice-dir = '{}'\nboot = '{}'\n",
        path("supervisor"),
        path("run"),
        path("devices"),
        path("boot.toml")
    );
    std::fs::write(booting.path("supervisor.toml"), text).unwrap();
    let log = File::create(booting.path("log")).unwrap();
    let mut supervisor = inside(&booting.machine)
        .arg(etherpool().get_program())
        .args(["supervisor", "--config", &path("supervisor.toml")])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let client = booting.client(8);
    wait_until("the child serves", || booting.log().contains("serving machines"));
    assert_eq!(client.get(&format!("/boot.ipxe?mac={}", mac(7))).0, 200);
    // However the supervisor ends.
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    wait_until("the child is gone", || client.connect().is_err());
    // Also the one that is another user, to whom its supervisor may send no signal.
    let config = path("supervisor.toml");
    let is_of_it = |process: std::fs::DirEntry| {
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&config)
    };
    wait_until("all are gone", || !std::fs::read_dir("/proc").unwrap().flatten().any(is_of_it));
}

#[test]
fn a_supervisor_of_the_machine_is_asked_and_told() {
    let options =
        LabOptions { nodes: 2, disks: 1, size: "512M", bare: true, ..LabOptions::default() };
    let lab = Lab::up(&options);
    lab.wait_for_disks(2);
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "--no-witness", "--yes"]);
    lab.cli(&["volume", "create", VOLUME, "--size", "16M", "--layout", "mirror:2"]);
    let mut booting = Booting::new("lab");
    booting.start();
    let client = booting.client(9);
    let own = key(&booting, "own");
    client.hello(&hello(UUID, &mac(7), Some(&own)));
    wait_until("it is pending", || booting.cli(&["node", "pending"]).contains(UUID));
    let state = booting.path("state").display().to_string();
    let with = |words: &[&str]| lab.cli(&[words, &["--state-dir", &state]].concat());
    let public = own["public"].as_str().unwrap();
    with(&["node", "accept", UUID, "--yes", "--key", public, "--name", "new"]);
    assert!(lab.cli(&["key", "list"]).contains(public));
    // Accepted where no supervisor runs, and once more where one does: with the key that was kept.
    let (second, late) = ("00112233-4455-6677-8899-aabbccddee00", key(&booting, "late"));
    client.hello(&hello(second, &mac(8), Some(&late)));
    wait_until("it is pending", || booting.cli(&["node", "pending"]).contains(second));
    let public_late = late["public"].as_str().unwrap();
    let more = ["--key", public_late, "--name", "late", "--shelf", "77"];
    booting.cli(&[&["node", "accept", second, "--yes"], &more[..]].concat());
    assert!(!lab.cli(&["key", "list"]).contains(public_late));
    client.hello(&hello(second, &mac(8), None));
    with(&["node", "accept", "late", "--yes"]);
    assert!(lab.cli(&["key", "list"]).contains(public_late));
    let told = client.hello(&hello(second, &mac(8), None));
    assert_eq!(told["supervisors"].as_array().unwrap().len(), 1, "{told}");
    // Another key in place of that: the former is a member no more.
    let next = key(&booting, "next");
    let shows_next = hello(UUID, &mac(7), Some(&next));
    client.hello(&shows_next);
    client.hello(&shows_next);
    let public_next = next["public"].as_str().unwrap();
    wait_until("the conflict is shown", || booting.cli(&["node", "pending"]).contains(public_next));
    with(&["node", "accept", "new", "--yes", "--key", public_next]);
    let members = lab.cli(&["key", "list"]);
    assert!(members.contains(public_next) && !members.contains(public), "{members}");
    let own = next;
    let told = client.hello(&hello(UUID, &mac(7), Some(&own)));
    let supervisors = told["supervisors"].as_array().unwrap();
    assert_eq!(supervisors.len(), 1, "{told}");
    // Its shelf is none of the lab's own.
    let discovered = lab.json(&["aoe", "discover"]).to_string();
    assert!(!discovered.contains(&format!("\"e{}.", told["shelf"])), "{told}: {discovered}");
    // A volume is booted where it is exported to the machine, and nowhere else.
    let assign = ["boot", "assign", "new", "volume", VOLUME, "--state-dir", &state];
    let refused = |said: &str| {
        let (code, told) = lab.said(&assign);
        assert!(code == 4 && told.contains(said), "{code}: {told}");
    };
    refused(&format!("etherpool volume export {VOLUME} aoe --allow {}", mac(7)));
    lab.cli(&["volume", "export", VOLUME, "aoe:e77.1", "--allow", &mac(8)]);
    refused("not to this machine");
    lab.cli(&["volume", "unexport", VOLUME]);
    lab.cli(&["volume", "export", VOLUME, "aoe:e77.1", "--allow", &mac(7)]);
    lab.cli(&assign);
    let (_, script) = client.get(&format!("/boot.ipxe?mac={}&uuid={UUID}", mac(7)));
    assert!(String::from_utf8(script).unwrap().contains("sanboot aoe:e77.1"));
    booting.stop();
}

/// The supervisor's machine is lost with its disk; the pool is imported elsewhere, and there are the same nodes.
#[test]
fn who_loses_the_supervisors_machine_has_the_same_nodes_again() {
    const CONFIGURATION: &str = "before-start = [\"true\"]\nautomatic = true\n";
    const SEALED: &str = "00112233-4455-6677-8899-aabbccddee00";
    let lab = Lab::up(&LabOptions { nodes: 2, disks: 1, size: "512M", ..LabOptions::default() });
    let mut booting = Booting::new("copies");
    // As by default: below the supervisor's own directory.
    let state = booting.path("state").display().to_string();
    let supervisor = lab.dir().join("supervisor/state");
    std::os::unix::fs::symlink(&state, supervisor.join("boot")).unwrap();
    booting.start();
    let client = booting.client(12);
    let (plain, sealed) = (key(&booting, "plain"), key(&booting, "sealed"));
    let mut shown_sealed = sealed.clone();
    shown_sealed["kept"] = json!({ "tpm": { "public": "AA==", "private": "BB==" } });
    let says = |identity| with_slots(hello(UUID, &mac(7), identity), "wwn-0x5000", 3, &plain);
    let says_sealed =
        |identity| with_slots(hello(SEALED, &mac(8), identity), "wwn-0x5000", 3, &sealed);
    for (said, own, name, shelf) in [
        (says(Some(&plain)), &plain, "seven", "71"),
        (says_sealed(Some(&shown_sealed)), &sealed, "eight", "72"),
    ] {
        client.hello(&said);
        let (uuid, public) = (said["uuid"].as_str().unwrap(), own["public"].as_str().unwrap());
        wait_until("it is pending", || booting.cli(&["node", "pending"]).contains(uuid));
        let accept = ["node", "accept", uuid, "--yes", "--key", public, "--name", name];
        lab.cli(&[&accept[..], &["--shelf", shelf, "--state-dir", &state]].concat());
        client.hello(&said);
    }
    std::fs::write(booting.path("node.toml"), CONFIGURATION).unwrap();
    booting.cli(&[
        "node",
        "config",
        "seven",
        "--file",
        booting.path("node.toml").to_str().unwrap(),
    ]);
    booting.cli(&["boot", "assign", "seven", "node"]);
    let asked = |said: &Value| {
        let mut told = client.hello(said);
        (
            told["name"].take(),
            told["shelf"].take(),
            told["configuration"].take(),
            told["slots"].take(),
        )
    };
    let [before, before_sealed] = [asked(&says(None)), asked(&says_sealed(None))];
    assert_eq!(
        before,
        (json!("seven"), json!(71), json!(CONFIGURATION), json!({ "wwn-0x5000": 3 }))
    );

    let machine_of = |copies: &Value, uuid: &str| -> String {
        let file = copies[0]["notes"][format!("{uuid}.toml")].as_str();
        file.unwrap_or_default().to_owned()
    };
    let copies = || lab.show(&["boot", "copies", "cluster", "--json"]);
    let copies = || -> Value { serde_json::from_str(&copies()).unwrap() };
    wait_until("the pool has a copy", || {
        let (copies, secret) = (copies(), plain["kept"]["plain"]["secret"].as_str().unwrap());
        assert!(!copies.to_string().contains(secret), "{copies}");
        let [seven, eight] = [UUID, SEALED].map(|uuid| machine_of(&copies, uuid));
        seven.contains("before-start")
            && seven.contains("wwn-0x5000")
            && seven.contains("is = \"node\"")
            && eight.contains("wwn-0x5000")
            && eight.contains("tpm-private")
    });
    // Without a change there is none: nothing is told of a further copy.
    let told = |lab: &Lab| lab.log("supervisor").matches("is copied there").count();
    let (count, was) = (told(&lab), copies());
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!((told(&lab), copies()), (count, was.clone()));
    let dumped = lab.cli(&["pool", "show", "cluster"]);
    assert!(!dumped.contains("before-start") && dumped.lines().count() < 60, "{dumped}");
    // A machine that is no more is taken out.
    booting.cli(&["boot", "assign", &mac(9), "local"]);
    let gone = format!("machines/{}.toml", mac(9).replace(':', "-"));
    wait_until("it is copied, too", || copies().to_string().contains(&mac(9)));
    std::fs::remove_file(booting.path("state").join(gone)).unwrap();
    wait_until("it is gone", || !copies().to_string().contains(&mac(9)));

    // All is lost, but for the pool.
    let rival = Rival::start(&lab);
    booting.stop();
    lab.lab(&["kill", "supervisor"]);
    std::fs::remove_dir_all(&supervisor).unwrap();
    std::fs::remove_dir_all(&state).unwrap();
    rival.must(&["pool", "import", "cluster", "--yes", "--force"]);
    // Who imports it has machines of his own.
    let rivals = lab.dir().join("rival/state/boot").display().to_string();
    rival.must(&["boot", "assign", &mac(10), "local", "--name", "own", "--state-dir", &rivals]);
    wait_until("the pool has both copies", || {
        let text = rival.must(&["boot", "copies", "cluster", "--state-dir", &rivals]);
        text.contains("own") && text.contains("of this machine,") && text.contains("seven")
    });
    let restore = ["boot", "restore", "cluster", "--state-dir", &rivals];
    let dry = rival.must(&[&restore[..], &["--dry-run"]].concat());
    assert!(dry.contains("seven is not known here") && dry.contains("runs as root: true"), "{dry}");
    let (code, said) = rival.code(&restore);
    assert!(code == 4 && said.contains("--yes"), "{code}: {said}");
    assert!(!std::path::Path::new(&rivals).join(format!("machines/{UUID}.toml")).exists());
    let done = rival.must(&[&restore[..], &["--yes"]].concat());
    assert!(done.contains("Restored: ") && done.contains("node accept"), "{done}");
    let again = rival.must(&[&restore[..], &["--yes"]].concat());
    assert!(again.contains("As they are here: eight, seven"), "{again}");
    // What is there is overwritten by nobody who doesn't say so.
    std::fs::write(booting.path("other.toml"), "automatic = false\n").unwrap();
    let other = booting.path("other.toml").display().to_string();
    let config = ["node", "config", "seven", "--state-dir", &rivals];
    rival.must(&[&config[..], &["--file", &other]].concat());
    let left = rival.must(&[&restore[..], &["--yes"]].concat());
    assert!(left.contains("differs here") && left.contains("+ automatic = true"), "{left}");
    assert_eq!(rival.must(&config), "automatic = false\n");
    let from = was[0]["keeper"].as_str().unwrap();
    rival.must(&[&restore[..], &["--yes", "--replace", "--from", from]].concat());
    assert_eq!(rival.must(&config), CONFIGURATION);

    // It is the boot server from now on. The sealed key is at once what it was; the other node is accepted by a new one.
    std::fs::create_dir_all(std::path::Path::new(&rivals).join("images")).unwrap();
    booting.start_in(&rivals);
    rival.must(&["node", "accept", "eight", "--yes", "--state-dir", &rivals]);
    let mut started = says_sealed(None);
    started["phase"] = "started".into();
    let told = client.hello(&started);
    assert_eq!(
        (&told["identity"], told["supervisors"].as_array().unwrap().len()),
        (&shown_sealed, 1)
    );
    assert_eq!(asked(&started), before_sealed);
    let new = key(&booting, "new");
    assert_eq!(client.hello(&says(Some(&new)))["state"], "pending");
    let public = new["public"].as_str().unwrap();
    wait_until("it is pending", || {
        rival.must(&["node", "pending", "--state-dir", &rivals]).contains(public)
    });
    rival.must(&["node", "accept", UUID, "--yes", "--key", public, "--state-dir", &rivals]);
    assert_eq!(asked(&says(None)), before);
    // And of the former one nothing is needed any more; who gives up his own has another one.
    let own = |text: &str| text.contains("of this machine,") && text.contains("seven");
    let forget = ["boot", "forget-copy", "cluster", "--state-dir", &rivals];
    let lineage = std::path::Path::new(&rivals).join("machines/.copies.json");
    let lineage: Value = serde_json::from_slice(&std::fs::read(lineage).unwrap()).unwrap();
    let id = lineage["id"].as_str().unwrap();
    rival.must(&[&forget[..], &[id, "--yes"]].concat());
    rival.must(&[&forget[..], &[from, "--yes"]].concat());
    wait_until("its own copy has all", || {
        let text = rival.must(&["boot", "copies", "cluster", "--state-dir", &rivals]);
        !text.contains(from) && own(&text)
    });

    // Who brings a backup back doesn't overwrite what the pool has of later.
    let backup = booting.path("backup").display().to_string();
    let copy = |from: &str, to: &str| {
        let done = Command::new("cp").args(["-a", "--no-target-directory", from, to]).status();
        assert!(done.unwrap().success());
    };
    copy(&format!("{rivals}/machines"), &backup);
    rival.must(&[&config[..], &["--file", &other]].concat());
    let shows = ["boot", "copies", "cluster", "--machine", "seven", "--state-dir", &rivals];
    wait_until("the pool has it", || rival.must(&shows).contains("automatic = false"));
    copy(&backup, &format!("{rivals}/machines"));
    assert_eq!(rival.must(&config), CONFIGURATION);
    let is_told = || rival.cli(&["status"]).1.contains("never had");
    wait_until("it is told of", is_told);
    assert!(rival.must(&shows).contains("automatic = false"));
    rival.must(&[&restore[..], &["--yes", "--replace"]].concat());
    assert_eq!(rival.must(&config), "automatic = false\n");
    // And goes on from there.
    rival.must(&["boot", "assign", &mac(11), "local", "--state-dir", &rivals]);
    let all = ["boot", "copies", "cluster", "--json", "--state-dir", &rivals];
    wait_until("what changes is copied again", || rival.must(&all).contains(&mac(11)));
    wait_until("nothing is wrong any more", || !is_told());
    booting.stop();
}

#[test]
fn fifty_machines_boot_at_once() {
    let mut booting = Booting::new("fifty");
    booting.cli(&["boot", "assign", "default", "node", "--yes"]);
    booting.start();
    let client = booting.client(6);
    let addresses: Vec<Ipv4Addr> = (150..200).map(|last| Ipv4Addr::new(10, 9, 9, last)).collect();
    addresses.iter().for_each(|address| client.has(*address));
    let whole = std::fs::read(booting.path("state/images/node/initrd.img")).unwrap();
    let rom = std::fs::read(booting.path("ipxe/undionly.kpxe")).unwrap();
    // Their firmware asks, all of it before the first has its answer; then it fetches iPXE, which asks for itself.
    let everybody = client.udp(68);
    for address in &addresses {
        let last = address.octets()[3];
        Asks::new(1, last, last).pxe(0).broadcast(&everybody);
    }
    let told: BTreeMap<u8, String> = (0..addresses.len())
        .map(|_| Told::hear(&everybody))
        .map(|told| (told.transaction(), told.file()))
        .collect();
    assert!(addresses.iter().all(|address| told.contains_key(&address.octets()[3])));
    std::thread::scope(|scope| {
        for source in addresses {
            let (client, whole, rom, told) = (&client, &whole, &rom, &told);
            scope.spawn(move || {
                let last = source.octets()[3];
                let fetched = client.tftp_from(source, told[&last].as_bytes(), &[("tsize", "0")]);
                assert!(fetched.is_ok_and(|fetched| fetched == *rom), "{source}");
                let socket = client.there(|| UdpSocket::bind((source, 0)).unwrap());
                socket.set_read_timeout(Some(LIMIT)).unwrap();
                Asks::new(3, last, last).ipxe().from(source).send(&socket, (SERVER, 4011));
                let url = Told::hear(&socket).file();
                let get = |path: &str| client.http_from(source, "GET", path, b"");
                let path = url.strip_prefix(&format!("http://{SERVER}:8069")).unwrap();
                let (status, script) = get(path);
                assert_eq!(status, 200, "{}", String::from_utf8_lossy(&script));
                assert_eq!(get("/images/node/vmlinuz").1.len(), 300_000);
                let (status, initrd) = get(&format!("/images/node/initrd.img?mac={}", mac(last)));
                assert!(status == 200 && initrd == *whole, "{source}: {status}");
            });
        }
    });
    wait_until("all are listed", || {
        let listed = booting.json(&["boot", "list"]);
        let done = |one: &&Value| one["result"] == "fetches node/initrd.img";
        listed.as_array().unwrap().iter().filter(done).count() == 50
    });
    booting.stop();
}

/// Resident memory of a process, in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn strangers_get_nothing_and_real_machines_are_served_all_the_same() {
    let mut booting = Booting::new("hostile");
    let secret = booting.path("secret");
    std::fs::write(&secret, "the secret").unwrap();
    let images = booting.path("state/images");
    std::os::unix::fs::symlink(&secret, images.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../secret", images.join("out")).unwrap();
    std::os::unix::fs::symlink("../machines", images.join("machines")).unwrap();
    booting.cli(&["boot", "assign", &mac(7), "node"]);
    booting.start();
    let (client, attacker) = (booting.client(4), booting.client(5));
    for name in [
        "../secret",
        "images/../../secret",
        "images\\..\\..\\secret",
        "/etc/passwd",
        "images/absolute",
        "images/out",
        "images/machines/02-00-00-00-00-07.toml",
        "machines/02-00-00-00-00-07.toml",
        "default",
        "sightings.json",
    ] {
        let refused = attacker.tftp(name.as_bytes(), &[]);
        assert!(refused.is_err(), "{name}: {refused:?}");
        let encoded = name.replace('.', "%2e");
        for path in [format!("/{name}"), format!("/{encoded}"), format!("/images/{name}")] {
            let (status, body) = attacker.get(&path.replace('\\', "%5c"));
            assert!(matches!(status, 400 | 404), "{path}: {status} {body:?}");
        }
    }
    let huge = [("blksize", "65464"), ("windowsize", "65535"), ("tsize", "0")];
    let file = attacker.tftp(b"images/node/vmlinuz", &huge).unwrap();
    assert!(file == std::fs::read(images.join("node/vmlinuz")).unwrap());
    let before = resident_kib(pid_of(&booting));
    // Requests that nobody goes on with, messages of any kind, connections that say nothing.
    let sources: Vec<Ipv4Addr> = (130..194).map(|last| Ipv4Addr::new(10, 9, 9, last)).collect();
    for source in &sources {
        attacker.has(*source);
    }
    let flood = attacker.udp(0);
    for number in 0..1000_u32 {
        let request = b"\0\x01images/node/initrd.img\0octet\0blksize\x001468\0windowsize\x0064\0";
        let source = sources[number as usize % sources.len()];
        let each = match number % 8 {
            0 => attacker.there(|| UdpSocket::bind((source, 0)).unwrap()),
            _ => flood.try_clone().unwrap(),
        };
        each.send_to(request, (SERVER, 69)).unwrap();
        let noise: Vec<u8> = (0..number % 700).map(|at| (at * number) as u8).collect();
        for port in [67, 69, 4011] {
            flood.send_to(&noise, (SERVER, port)).unwrap();
        }
        let [_, _, high, low] = number.to_be_bytes();
        let mut asks = Asks::new(1, low, low).pxe(0);
        asks.0[30] = high;
        asks.broadcast(&flood);
    }
    // From many addresses: all places are his, eight for each, and who comes has one all the same, also where the end of
    // its connection before wasn't noticed yet.
    let silent: Vec<Option<TcpStream>> =
        (0..1000).map(|number| attacker.connect_from(sources[number % 32]).ok()).collect();
    let (status, _) = client.get(&format!("/boot.ipxe?mac={}", mac(7)));
    assert_eq!(status, 200);
    let (status, body) = client.get("/images/node/initrd.img");
    assert!(status == 200 && body.len() == 5_000_000);
    let file = client.tftp(b"undionly.kpxe", &[("blksize", "1468")]).unwrap();
    assert_eq!(file.len(), 70_001);
    drop(silent);
    let long = vec![b' '; 300 << 10];
    assert_eq!(client.http("POST", "/node/hello", &long).0, 413);
    assert_eq!(client.http("POST", "/node/hello", b"{}").0, 400);
    assert_eq!(client.http("PUT", "/images/node/vmlinuz", b"x").0, 405);
    let many: Vec<Value> = vec![hello(UUID, &mac(7), None)["disks"][0].clone(); 1025];
    let mut said = hello(UUID, &mac(7), None);
    said["disks"] = many.into();
    assert_eq!(client.http("POST", "/node/hello", said.to_string().as_bytes()).0, 400);
    // Two thousand nodes that nobody has.
    for number in 0..2000 {
        let uuid = format!("00112233-4455-6677-8899-{number:012x}");
        let (status, _) =
            client.http("POST", "/node/hello", hello(&uuid, &mac(7), None).to_string().as_bytes());
        assert_eq!(status, 200);
    }
    let after = resident_kib(pid_of(&booting));
    println!("resident: {before} KiB before, {after} KiB after");
    assert!(after < before + (64 << 10), "{before} KiB, then {after} KiB");
    let seen = booting.json(&["boot", "list"]);
    assert!(seen.as_array().unwrap().len() <= 1025, "{}", seen.as_array().unwrap().len());
    booting.stop();
}

/// The server itself, as the child is `ip`, which becomes it.
fn pid_of(booting: &Booting) -> u32 {
    booting.server.as_ref().unwrap().id()
}

/// A kernel that looks at nothing but the length of its initrd, and ends QEMU with status 33 if it is as long as it
/// should be. Its head is that of the protocol of Linux (Documentation/arch/x86/boot.rst), 2.03.
fn kernel(initrd_bytes: u32) -> Vec<u8> {
    let mut kernel = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| kernel[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // One sector behind the first belongs to the setup.
    put(0x1f4, &(3072_u32 / 16).to_le_bytes());
    put(0x1fe, &[0x55, 0xaa]);
    put(0x200, &[0xeb, 0x7e]); // jmp 0x280
    put(0x202, b"HdrS\x03\x02");
    put(0x211, &[1]); // Loaded high.
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x22c, &0x37ff_ffff_u32.to_le_bytes());
    let code = [
        &[0x66, 0x81, 0x3e, 0x1c, 0x02][..], //     cmp  dword [0x21c], initrd_bytes
        &initrd_bytes.to_le_bytes(),
        &[0xb0, 0x10],       //                           mov  al, 0x10
        &[0x74, 0x02],       //                           je   done
        &[0xb0, 0x01],       //                           mov  al, 0x01
        &[0xe6, 0xf4],       //                   done:   out  0xf4, al
        &[0xf4, 0xeb, 0xfd], //                     hlt, and again
    ];
    put(0x280, &code.concat());
    kernel
}
const AS_LONG_AS_IT_SHOULD_BE: i32 = 0x10 << 1 | 1;

/// dnsmasq, on the same segment.
struct OtherServer {
    _netns: Switch,
    process: Child,
    leases: PathBuf,
}

impl OtherServer {
    fn start(booting: &Booting, name: &str) -> OtherServer {
        let places = ["/usr/sbin/dnsmasq", "/usr/bin/dnsmasq"];
        let dnsmasq = places.into_iter().find(|path| Path::new(path).exists());
        let dnsmasq = dnsmasq.expect("no dnsmasq: run scripts/setup-qemu as root");
        let netns = Switch::new(&format!("{name}-d"));
        booting.switch.cable("br0", &netns, "dhcp0", 1500);
        vm::ip(&["-n", netns.netns(), "addr", "add", "10.9.9.2/24", "dev", "dhcp0"]);
        let leases = booting.path("dnsmasq.leases");
        let process = inside(&netns)
            .arg(dnsmasq)
            .args(["--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--user=root"])
            .args(["--dhcp-range=10.9.9.150,10.9.9.199", "--interface=dhcp0"])
            .arg("--dhcp-authoritative")
            .arg(format!("--dhcp-leasefile={}", leases.display()))
            .arg("--pid-file=")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        OtherServer { _netns: netns, process, leases }
    }
}

impl Drop for OtherServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A PC on the segment, with what its firmware takes; killed when it is dropped.
struct Pc(Child);

impl Pc {
    fn switch_on(booting: &Booting, words: &str) -> Pc {
        vm::ip(&["-n", booting.switch.netns(), "tuntap", "add", "tap0", "mode", "tap"]);
        vm::ip(&["-n", booting.switch.netns(), "link", "set", "tap0", "master", "br0", "up"]);
        let options = format!(
            "-M q35 -accel tcg -cpu qemu64 -m 512 -nodefaults -display none -no-reboot -uuid {UUID} \
             -netdev tap,id=n0,ifname=tap0,script=no,downscript=no {words}"
        );
        let mut qemu = inside(&booting.switch);
        qemu.arg("qemu-system-x86_64").args(options.split_whitespace());
        Pc(qemu.spawn().unwrap())
    }
}

impl Drop for Pc {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn real_firmware_boots_a_kernel_beside_a_real_dhcp_server() {
    vm::require_qemu();
    let rom = Path::new("/usr/lib/ipxe/qemu/pxe-virtio.rom");
    assert!(rom.exists(), "no {}: run scripts/setup-qemu as root", rom.display());
    let mut booting = Booting::new("firmware");
    let initrd = 3 << 20;
    std::fs::write(booting.path("state/images/node/vmlinuz"), kernel(initrd)).unwrap();
    std::fs::write(booting.path("state/images/node/initrd.img"), vec![7; initrd as usize]).unwrap();
    // What nobody exports: it waits, and is told something else meanwhile.
    booting.cli(&["boot", "assign", UUID, "volume", "tank/pc7", "--address", "e7.1"]);
    booting.start();
    let other = OtherServer::start(&booting, "firmware");
    let mut pc = Pc::switch_on(
        &booting,
        "-device isa-debug-exit,iobase=0xf4,iosize=1 \
         -device virtio-net-pci,netdev=n0,bootindex=1,mac=52:54:00:e7:00:01",
    );
    let volume = "volume tank/pc7 at e7.1";
    booting
        .listed("52:54:00:e7:00:01", |one| one["result"] == format!("has the script ({volume})"));
    booting.cli(&["boot", "assign", UUID, "node"]);
    wait_until("the kernel has run", || pc.0.try_wait().unwrap().is_some());
    let status = pc.0.wait().unwrap();
    assert_eq!(status.code(), Some(AS_LONG_AS_IT_SHOULD_BE), "{}", booting.log());
    let leases = std::fs::read_to_string(&other.leases).unwrap();
    assert!(leases.contains("52:54:00:e7:00:01"), "its address is of the other server: {leases}");
    let seen =
        booting.listed("52:54:00:e7:00:01", |one| one["result"] == "fetches node/initrd.img");
    assert_eq!(
        (&seen["uuid"], &seen["given"]),
        (&json!(UUID), &json!(format!("script ({volume})")))
    );
    booting.stop();
}

/// Its own PXE, without a ROM: the program by TFTP, and that runs the script.
#[test]
fn real_uefi_firmware_is_led_to_its_script() {
    vm::require_qemu();
    let (code, variables) = ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd");
    let program = "/usr/lib/ipxe/snponly.efi";
    for file in [code, variables, program] {
        assert!(Path::new(file).exists(), "no {file}: run scripts/setup-qemu as root");
    }
    let mut booting = Booting::new("uefi");
    std::fs::copy(program, booting.path("ipxe/snponly.efi")).unwrap();
    let own = booting.path("variables").display().to_string();
    std::fs::copy(variables, &own).unwrap();
    booting.cli(&["boot", "assign", UUID, "node"]);
    booting.start();
    let _other = OtherServer::start(&booting, "uefi");
    let _pc = Pc::switch_on(
        &booting,
        &format!(
            "-drive if=pflash,format=raw,readonly=on,file={code} \
             -drive if=pflash,format=raw,file={own} -device virtio-rng-pci \
             -device virtio-net-pci,netdev=n0,bootindex=1,mac=52:54:00:e7:00:02,romfile="
        ),
    );
    let seen = booting.listed("52:54:00:e7:00:02", |one| one["result"] == "fetches node/vmlinuz");
    assert_eq!((&seen["architecture"], &seen["uuid"]), (&json!("efi-x64"), &json!(UUID)));
    assert!(booting.log().contains("file=snponly.efi"), "{}", booting.log());
    booting.stop();
}
