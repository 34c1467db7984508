//! The protocol, byte by byte, on a directory of this machine: what needs no volume.

#![allow(clippy::unwrap_used)]

mod mapped;
mod tls;
mod transfers;

use std::net::{SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::rustls::ServerConfig;

use super::command::LINE_BYTES_MAX;
use super::{Files, FtpConfig, FtpServer, Outside, hash_password, listen};
use ::tls::KeyFiles;

const LONG: Duration = Duration::from_secs(60);
static HASH: LazyLock<String> = LazyLock::new(|| hash_password("pass word").unwrap());

struct Server {
    server: FtpServer,
    directory: tempfile::TempDir,
}

/// How a test has a server.
struct Setup {
    config: FtpConfig,
    listen: SocketAddr,
    /// Lines of the file of users.
    users: String,
    keys: Option<KeyFiles>,
    may: Box<dyn Fn() -> bool + Send + Sync>,
}

/// What it asks for, out of files.
struct Asked {
    files: Files,
    may: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Outside for Asked {
    fn may_serve(&self) -> BoxFuture<'static, bool> {
        futures::future::ready((self.may)()).boxed()
    }

    fn users(&self) -> BoxFuture<'static, Result<String, String>> {
        Outside::users(&self.files)
    }

    fn certificate(&self) -> BoxFuture<'static, Result<ServerConfig, String>> {
        self.files.certificate()
    }
}

impl Server {
    async fn new(idle: Duration) -> Server {
        Server::with(|setup| setup.config.idle = idle).await.unwrap()
    }

    async fn with(change: impl FnOnce(&mut Setup)) -> Option<Server> {
        assert!(rustix::process::geteuid().is_root(), "files are used as others: needs root");
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("root")).unwrap();
        let mut setup = Setup {
            config: FtpConfig::default(),
            listen: "127.0.0.1:0".parse().unwrap(),
            users: format!("alice:{}\n", *HASH),
            keys: None,
            may: Box::new(|| true),
        };
        change(&mut setup);
        let Setup { config, listen: address, users, keys, may } = setup;
        let users_file = directory.path().join("users");
        std::fs::write(&users_file, users).unwrap();
        let outside = Asked { files: Files::new(Some(users_file), keys), may };
        let root = std::fs::File::open(directory.path().join("root")).unwrap().into();
        let listener = listen(address).await.ok()?;
        let server = FtpServer::start(config, Arc::new(outside), root, listener).unwrap();
        Some(Server { server, directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("root").join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.server.address()).await.unwrap();
        let mut client = Client(BufReader::new(stream));
        client.expect(220..=220).await;
        client
    }

    async fn log_in(&self, user: &str) -> Client {
        let mut client = self.connect().await;
        client.say(&format!("USER {user}"), 331).await;
        client.say("PASS pass word", 230).await;
        client
    }

    /// Waits until no session is left, and stops.
    async fn end(self) {
        wait_for("the end of the sessions", || self.server.sessions() == 0).await;
        assert!(self.server.stop().await);
    }
}

async fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LONG / 2, "{what} is awaited for too long");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An address that is one only together with its interface, if this machine has any.
fn link_local() -> Option<SocketAddr> {
    let addresses = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    let line = addresses.lines().find(|line| line.starts_with("fe80"))?;
    let mut fields = line.split(' ').map(|field| u128::from_str_radix(field, 16).unwrap_or(0));
    let (address, scope) = (fields.next()?, fields.next()?);
    Some(SocketAddrV6::new(address.into(), 0, 0, scope as u32).into())
}

/// A client that says exactly what it is told, and waits for nothing for ever.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).await.unwrap();
    }

    /// A line; empty at the end.
    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        tokio::time::timeout(LONG, self.0.read_until(b'\n', &mut line)).await.unwrap().unwrap();
        String::from_utf8_lossy(&line).into_owned()
    }

    /// A whole answer.
    async fn answer(&mut self) -> String {
        let mut answer = self.line().await;
        if answer.as_bytes().get(3) == Some(&b'-') {
            let last = format!("{} ", &answer[..3]);
            loop {
                let line = self.line().await;
                assert!(!line.is_empty(), "{answer}");
                answer += &line;
                if line.starts_with(&last) {
                    break;
                }
            }
        }
        answer
    }

    async fn expect(&mut self, codes: RangeInclusive<u16>) -> String {
        let answer = self.answer().await;
        let code = answer.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
        assert!(codes.contains(&code) && answer.ends_with("\r\n"), "{codes:?}: {answer:?}");
        answer
    }

    async fn say(&mut self, command: &str, code: u16) -> String {
        self.send(format!("{command}\r\n")).await;
        self.expect(code..=code).await
    }

    async fn expect_end(&mut self) {
        assert_eq!(self.line().await, "");
    }

    async fn port(&mut self) -> SocketAddr {
        let answer = self.say("EPSV", 229).await;
        let mut address = self.0.get_ref().peer_addr().unwrap();
        address.set_port(answer.split('|').nth(3).unwrap().parse().unwrap());
        address
    }

    async fn data(&mut self) -> TcpStream {
        TcpStream::connect(self.port().await).await.unwrap()
    }

    async fn download(&mut self, command: &str) -> Vec<u8> {
        let mut data = self.data().await;
        self.say(command, 150).await;
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).await.unwrap();
        self.expect(226..=226).await;
        bytes
    }

    async fn upload(&mut self, command: &str, bytes: &[u8]) {
        let mut data = self.data().await;
        self.say(command, 150).await;
        data.write_all(bytes).await.unwrap();
        drop(data);
        self.expect(226..=226).await;
    }
}

/// Whether the data ends as if it were not complete.
async fn is_reset(data: &mut TcpStream) -> bool {
    let mut bytes = vec![0; 1 << 20];
    loop {
        match tokio::time::timeout(LONG, data.read(&mut bytes)).await.unwrap() {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[tokio::test]
async fn commands_sent_ahead_are_served_in_order() {
    let server = Server::new(LONG).await;
    let said = "USER alice\r\nPASS pass word\r\nMKD d\r\nCWD d\r\nPWD\r\nSIZE x\r\nRNFR /d\r\n\
                RNTO /e\r\nCWD /e\r\nNOOP\r\nQUIT\r\n";
    let codes = [220, 331, 230, 257, 250, 257, 550, 350, 250, 250, 200, 221];
    let mut client =
        Client(BufReader::new(TcpStream::connect(server.server.address()).await.unwrap()));
    // Before the greeting is read, all at once.
    client.send(said).await;
    for code in codes {
        client.expect(code..=code).await;
    }
    client.expect_end().await;
    assert!(server.path("e").is_dir());

    // A byte at a time, the next login fails in the middle: what follows isn't served as anybody.
    let mut client = server.connect().await;
    for byte in "USER alice\r\nPASS wrong\r\nMKD f\r\nPASS pass word\r\nMKD f\r\nQUIT\r\n".bytes() {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    for code in [331, 530, 530, 503, 530, 221] {
        client.expect(code..=code).await;
    }
    assert!(!server.path("f").exists());

    // Behind a transfer, too.
    std::fs::write(server.path("file"), "contents").unwrap();
    let mut client = server.log_in("anonymous").await;
    let mut data = client.data().await;
    client.send("RETR file\r\nSIZE file\r\nPWD\r\nQUIT\r\n").await;
    let mut bytes = String::new();
    data.read_to_string(&mut bytes).await.unwrap();
    assert_eq!(bytes, "contents");
    for code in [150, 226, 213, 257, 221] {
        client.expect(code..=code).await;
    }
    server.end().await;
}

#[tokio::test]
async fn nothing_but_the_login_is_for_everybody() {
    let server = Server::new(LONG).await;
    let mut client = server.connect().await;
    for command in [
        "PWD", "CWD /", "SIZE a", "MDTM a", "MLST", "LIST", "RETR a", "STOR a", "APPE a", "DELE a",
        "MKD a", "RMD a", "RNFR a", "RNTO a", "PASV", "EPSV", "REST 1", "ABOR", "STAT",
    ] {
        client.say(command, 530).await;
    }
    assert!(client.say("FEAT", 211).await.contains(" REST STREAM\r\n"));
    client.say("PASS x", 503).await;
    drop(client);

    std::fs::write(server.path("a"), "a").unwrap();
    let mut client = server.log_in("anonymous").await;
    client.say("USER alice", 503).await;
    for command in ["STOR a", "APPE a", "DELE a", "MKD b", "RMD b"] {
        client.port().await;
        client.say(command, 550).await;
    }
    client.say("RNFR a", 350).await;
    client.say("RNTO b", 550).await;
    client.say("RNTO b", 503).await;
    assert_eq!(client.download("RETR a").await, b"a");
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn who_is_locked_out_is_told_so() {
    let server = Server::new(LONG).await;
    let try_again = async |password: &str| {
        let mut client = server.connect().await;
        client.say("USER alice", 331).await;
        client.say(&format!("PASS {password}"), 530).await
    };
    for _ in 0..10 {
        let reply = try_again("wrong").await;
        assert!(reply.contains("Wrong name or password"), "{reply}");
    }
    // It isn't called wrong, which it isn't.
    let reply = try_again("pass word").await;
    assert!(reply.contains("Too many wrong passwords") && reply.contains(" min."), "{reply}");
}

/// Each line of anybody, nonsense too, was a question to the engine.
#[tokio::test]
async fn the_lease_is_asked_for_by_what_needs_the_volume() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let may = move || counter.fetch_add(1, Ordering::SeqCst) < 3;
    let server = Server::with(|setup| setup.may = Box::new(may)).await.unwrap();
    let mut client = server.connect().await;
    for (command, code) in [("NOOP", 200), ("SIZE a", 530), ("RETR", 501), ("x", 500)] {
        client.say(command, code).await;
    }
    client.say("USER anonymous", 331).await;
    client.say("PASS x", 230).await;
    for (command, code) in [("NOOP", 200), ("TYPE I", 200), ("FEAT", 211), ("x", 500), ("PWD", 257)]
    {
        client.say(command, code).await;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    client.say("SIZE a", 550).await;
    client.say("CWD /", 250).await;
    client.download("LIST").await;
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    client.say("SIZE a", 421).await;
    client.expect_end().await;
    server.end().await;
}

#[tokio::test]
async fn a_line_that_is_too_long_ends_the_session() {
    let server = Server::new(LONG).await;
    let mut client = server.log_in("anonymous").await;
    let longest = "x".repeat(LINE_BYTES_MAX - "CWD \r\n".len());
    client.say(&format!("CWD {longest}"), 553).await;
    // What came before is served, what comes behind it isn't.
    client.send(format!("NOOP\r\nCWD x{longest}\r\nNOOP\r\n")).await;
    client.expect(200..=200).await;
    client.expect(500..=500).await;
    client.expect_end().await;

    // One without end is cut off, not collected, even before the login and within a transfer.
    let mut client = server.connect().await;
    client.send(vec![b'x'; 10 * LINE_BYTES_MAX]).await;
    client.expect(500..=500).await;
    client.expect_end().await;
    let mut client = server.log_in("alice").await;
    let mut data = client.data().await;
    client.say("STOR file", 150).await;
    client.send(vec![b'x'; 3 * LINE_BYTES_MAX]).await;
    data.write_all(b"data").await.unwrap();
    drop(data);
    client.expect(226..=226).await;
    client.expect(500..=500).await;
    assert_eq!(server.read("file"), b"data");
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn data_is_of_the_clients_own_address() {
    let server = Server::new(LONG).await;
    std::fs::write(server.path("file"), "secret").unwrap();
    let mut client = server.log_in("anonymous").await;
    for command in ["PORT 127,0,0,1,10,10", "EPRT |1|127.0.0.1|2570|"] {
        client.say(command, 502).await;
    }
    client.say("RETR file", 425).await;
    let port = client.port().await;
    // More strangers than the port's queue is long, and before the client itself.
    for _ in 0..20 {
        let stranger = TcpSocket::new_v4().unwrap();
        stranger.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stranger = stranger.connect(port).await.unwrap();
        let mut bytes = Vec::new();
        let _ = stranger.read_to_end(&mut bytes).await;
        assert!(bytes.is_empty());
    }
    let mut data = TcpStream::connect(port).await.unwrap();
    client.say("RETR file", 150).await;
    let mut bytes = String::new();
    data.read_to_string(&mut bytes).await.unwrap();
    assert_eq!(bytes, "secret");
    client.expect(226..=226).await;
    // The port was for one.
    assert!(TcpStream::connect(port).await.is_err());
    client.say("RETR file", 425).await;

    client.say("EPSV 2", 522).await;
    let answer = client.say("PASV", 227).await;
    assert!(answer.contains("(127,0,0,1,"), "{answer}");
    client.say("EPSV ALL", 200).await;
    client.say("PASV", 503).await;
    assert_eq!(client.download("RETR file").await, b"secret");
    drop(client);
    server.end().await;

    let six = ["[::1]:0".parse().unwrap()];
    for listen in six.into_iter().chain(link_local()) {
        let server = Server::with(|setup| setup.listen = listen).await;
        let Some(server) = server else { continue };
        std::fs::write(server.path("file"), "six").unwrap();
        let mut client = server.log_in("anonymous").await;
        client.say("PASV", 425).await;
        client.say("EPSV 1", 522).await;
        assert_eq!(client.download("RETR file").await, b"six");
        drop(client);
        server.end().await;
    }
}

#[tokio::test]
async fn abor_breaks_a_transfer_off_and_the_session_goes_on() {
    let server = Server::new(LONG).await;
    // More than what the connection's buffers hold.
    std::fs::File::create(server.path("large")).unwrap().set_len(1 << 30).unwrap();
    let mut client = server.log_in("alice").await;
    client.say("ABOR", 226).await;

    let mut data = client.data().await;
    client.say("RETR large", 150).await;
    client.send(b"\xff\xf4\xff\xf2ABOR\r\n").await;
    client.expect(426..=426).await;
    client.expect(226..=226).await;
    assert!(is_reset(&mut data).await, "it looks complete");

    // What came is there, to go on from.
    let mut data = client.data().await;
    client.say("STOR part", 150).await;
    data.write_all(b"0123").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.send("ABOR\r\nSIZE part\r\n").await;
    client.expect(426..=426).await;
    client.expect(226..=226).await;
    assert_eq!(client.expect(213..=213).await, "213 4\r\n");
    client.say("REST 4", 350).await;
    client.upload("STOR part", b"4567").await;
    assert_eq!(server.read("part"), b"01234567");

    // Before the client has connected: nothing is cut.
    client.port().await;
    client.say("STOR part", 150).await;
    client.say("ABOR", 426).await;
    client.expect(226..=226).await;
    assert_eq!(server.read("part"), b"01234567");

    // Only as the next thing that is said: what was said before it comes first.
    let mut data = client.data().await;
    client.say("STOR other", 150).await;
    client.send("NOOP\r\nABOR\r\n").await;
    data.write_all(b"all").await.unwrap();
    drop(data);
    for code in [226, 200, 226] {
        client.expect(code..=code).await;
    }
    assert_eq!(server.read("other"), b"all");
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn transfers_start_where_they_are_told() {
    let server = Server::new(LONG).await;
    let mut client = server.log_in("alice").await;
    client.upload("STOR a", b"0123456789").await;
    client.say("REST 7", 350).await;
    assert_eq!(client.download("RETR a").await, b"789");
    assert_eq!(client.download("RETR a").await, b"0123456789");
    client.say("REST 10", 350).await;
    assert_eq!(client.download("RETR a").await, b"");
    client.say("REST 11", 350).await;
    client.data().await;
    client.say("RETR a", 550).await;
    client.say("REST 3", 350).await;
    client.upload("STOR a", b"abc").await;
    assert_eq!(server.read("a"), b"012abc");
    client.say("REST 1", 350).await;
    client.upload("APPE a", b"d").await;
    assert_eq!(server.read("a"), b"012abcd");
    client.upload("STOR a", b"new").await;
    assert_eq!(server.read("a"), b"new");
    client.upload("APPE b", b"new").await;
    assert_eq!(server.read("b"), b"new");
    client.say("REST -1", 501).await;
    client.say("REST x", 501).await;
    drop(client);
    server.end().await;
}

/// A transfer's pieces, their edges, and empty files.
#[tokio::test]
async fn files_arrive_as_they_were() {
    let server = Server::new(LONG).await;
    let mut client = server.log_in("alice").await;
    for size in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 9_000_001] {
        let bytes: Vec<u8> =
            (0..size).map(|at: u32| (at.wrapping_mul(2654435761) >> 24) as u8).collect();
        client.upload("STOR file", &bytes).await;
        assert!(server.read("file") == bytes, "{size} up");
        assert!(client.download("RETR file").await == bytes, "{size} down");
    }
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn names_are_bytes_and_paths_stay_at_home() {
    let server = Server::new(LONG).await;
    let mut client = server.log_in("alice").await;
    client.send(b"MKD q\"\xe9\r\n").await;
    assert!(client.expect(257..=257).await.starts_with("257 \"/q\"\""));
    client.send(b"CWD q\"\xe9\r\n").await;
    client.expect(250..=250).await;
    client.upload("STOR  space ", b"x").await;
    assert_eq!(client.download("NLST -a").await, b" space \r\n");
    let long = String::from_utf8(client.download("LIST -la").await).unwrap();
    assert!(long.starts_with("-rw-r--r-- ") && long.ends_with("  space \r\n"), "{long:?}");
    let facts = String::from_utf8(client.download("MLSD").await).unwrap();
    assert!(facts.starts_with("type=file;size=1;modify=2") && facts.ends_with(";  space \r\n"));
    assert!(client.say("MLST  space ", 250).await.contains("size=1;"));
    client.say("CDUP", 250).await;
    assert_eq!(client.download("NLST").await, b"q\"\xe9\r\n");
    client.say("CWD ../../..", 250).await;
    assert!(client.say("PWD", 257).await.starts_with("257 \"/\""));
    client.say("CWD /etc", 550).await;
    client.say("SIZE /", 550).await;
    client.say("MKD a\u{7}b", 501).await;
    client.data().await;
    client.say("LIST missing", 550).await;
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn clients_that_stall_are_given_up() {
    let server = Server::new(Duration::from_millis(700)).await;
    std::fs::File::create(server.path("large")).unwrap().set_len(1 << 30).unwrap();
    let silent = async {
        let mut client = server.connect().await;
        client.expect(421..=421).await;
        client.expect_end().await;
        // Within a line, however often a byte comes.
        let mut client = server.connect().await;
        let start = Instant::now();
        while start.elapsed() < LONG {
            if client.0.get_mut().write_all(b"x").await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(start.elapsed() < LONG);
    };
    let downloading = async {
        let mut client = server.log_in("anonymous").await;
        let mut data = client.data().await;
        client.say("RETR large", 150).await;
        client.expect(426..=426).await;
        assert!(is_reset(&mut data).await, "it looks complete");
        client.say("NOOP", 200).await;
    };
    let uploading = async {
        let mut client = server.log_in("alice").await;
        let mut data = client.data().await;
        client.say("STOR part", 150).await;
        data.write_all(b"part").await.unwrap();
        client.expect(426..=426).await;
        assert_eq!(server.read("part"), b"part");
    };
    // One that asks and never reads the answers.
    let deaf = async {
        let mut client = server.log_in("anonymous").await;
        let start = Instant::now();
        let feats = b"FEAT\r\n".repeat(1000);
        while client.0.get_mut().write_all(&feats).await.is_ok() {
            assert!(start.elapsed() < LONG, "it is answered for ever");
        }
    };
    let all = futures::future::join4(silent, downloading, uploading, deaf);
    tokio::time::timeout(LONG, all).await.unwrap();
    server.end().await;
}

#[tokio::test]
async fn who_doesnt_log_in_makes_room() {
    let login = Duration::from_millis(300);
    let server = Server::with(|setup| setup.config.login = login).await.unwrap();
    let mut named = server.log_in("anonymous").await;
    let talking = async {
        let mut client = server.connect().await;
        // Whatever is said meanwhile.
        client.say("NOOP", 200).await;
        client.expect(421..=421).await;
        client.expect_end().await;
    };
    tokio::time::timeout(LONG, talking).await.unwrap();
    named.say("NOOP", 200).await;
    drop(named);
    server.end().await;
}

#[tokio::test]
async fn who_doesnt_log_in_keeps_no_other_machine_out() {
    assert_eq!(FtpConfig::default().login, Duration::from_secs(60));
    let server = Server::new(LONG).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(server.connect().await);
    }
    let more = TcpStream::connect(server.server.address()).await.unwrap();
    Client(BufReader::new(more)).expect(421..=421).await;
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = other.connect(server.server.address()).await.unwrap();
    Client(BufReader::new(other)).expect(220..=220).await;
    // Who has logged in is no stranger.
    let mut known = silent.pop().unwrap();
    known.say("USER anonymous", 331).await;
    known.say("PASS me", 230).await;
    silent.push(server.connect().await);
    drop((known, silent));
    server.end().await;
}

#[tokio::test]
async fn a_transfer_ends_with_its_session() {
    let server = Server::new(LONG).await;
    std::fs::File::create(server.path("large")).unwrap().set_len(1 << 30).unwrap();
    let mut client = server.log_in("anonymous").await;
    let mut data = client.data().await;
    client.say("RETR large", 150).await;
    drop(client);
    assert!(is_reset(&mut data).await, "it looks complete");

    let mut client = server.log_in("anonymous").await;
    let mut data = client.data().await;
    client.say("RETR large", 150).await;
    // Its file is closed as well: whoever stops it unmounts the volume next.
    let large = server.path("large");
    assert!(server.server.stop().await);
    assert!(!is_open(&large));
    client.expect(421..=421).await;
    assert!(is_reset(&mut data).await, "it looks complete");
}

/// Whether this process has the file open.
fn is_open(path: &Path) -> bool {
    let mut descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    descriptors
        .any(|one| std::fs::read_link(one.unwrap().path()).is_ok_and(|target| target == *path))
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    let verbs = "(USER anonymous|PASS x|REST [0-9]{1,20}|(CWD|RETR|STOR|\
                 APPE|LIST|NLST|MLSD|MLST|SIZE|MDTM|DELE|MKD|RMD|RNFR|RNTO)( [a-c./]{0,6})?|ABOR|PWD|\
                 STAT|FEAT|HELP|OPTS [A-Z0-9 ]{0,8}|TYPE [A-Z]|[A-Z]{1,5})";
    let bytes =
        proptest::collection::vec(any::<u8>().prop_filter("one line", |b| *b != b'\n'), 0..40);
    prop_oneof![9 => verbs.prop_map(String::into_bytes), 1 => bytes].prop_filter(
        "not the last, and no transfers: with nobody at its port one would wait for its limit",
        |line| {
            let line = String::from_utf8_lossy(line).to_ascii_uppercase();
            !["QUIT", "PASV", "EPSV"].iter().any(|verb| line.contains(verb))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is said, each line is answered once, in its turn, and nothing changes the volume of
    /// those who only read.
    #[test]
    fn each_line_has_its_answer(said in proptest::collection::vec(anything(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::new(LONG).await;
            std::fs::write(server.path("a"), "contents").unwrap();
            let mut client = server.log_in("anonymous").await;
            client.send([said.join(&b"\r\n"[..]).as_slice(), b"\r\nNOOP\r\nQUIT\r\n"].concat()).await;
            for _ in &said {
                client.expect(200..=599).await;
            }
            client.expect(200..=200).await;
            client.expect(221..=221).await;
            assert_eq!(server.read("a"), b"contents");
            assert_eq!(std::fs::read_dir(server.path("")).unwrap().count(), 1);
            server.end().await;
        });
    }
}
