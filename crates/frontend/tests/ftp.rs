//! FTP on a mounted volume, with stock clients and by hand.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::rustls::ServerConfig;

use block::FsType;
use frontend::attach::Detach;
use frontend::filesystem::{self, MkfsOptions};
use frontend::ftp::{
    Files, FtpConfig, FtpError, FtpServer, Outside, hash_password, listen, open_root,
};
use support::{TestVolume, noise, possible};

/// What a server asks for.
struct Asked {
    files: Files,
    may: Arc<AtomicBool>,
}

impl Outside for Asked {
    fn may_serve(&self) -> BoxFuture<'static, bool> {
        futures::future::ready(self.may.load(Ordering::SeqCst)).boxed()
    }

    fn users(&self) -> BoxFuture<'static, Result<String, String>> {
        Outside::users(&self.files)
    }

    fn certificate(&self) -> BoxFuture<'static, Result<ServerConfig, String>> {
        self.files.certificate()
    }
}

struct Service {
    volume: TestVolume,
    server: Option<FtpServer>,
    may: Arc<AtomicBool>,
}

impl Service {
    async fn new(sessions_max: usize) -> Service {
        let volume = TestVolume::new(64 * 2048);
        let options = MkfsOptions { fstype: FsType::Ext4, label: None, force: false };
        filesystem::mkfs(volume.device.clone(), options, |_| {}).await.unwrap();
        let (device, target) = (volume.device.clone(), volume.mount_point());
        let rules = volume.place_rules();
        filesystem::mount(device, target, FsType::Ext4, String::new(), rules).await.unwrap();
        let users = volume.root.path().join("users");
        let hash = hash_password("pass word").unwrap();
        std::fs::write(&users, format!("alice:{hash}\nbob:{hash}:home\n")).unwrap();
        let may = Arc::new(AtomicBool::new(true));
        let asked = Asked { files: Files::new(Some(users), None), may: Arc::clone(&may) };
        let root = open_root(&volume.mount_point(), &volume.device).unwrap();
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let config = FtpConfig { sessions_max, ..FtpConfig::default() };
        let server = FtpServer::start(config, Arc::new(asked), root, listener).unwrap();
        Service { volume, server: Some(server), may }
    }

    fn url(&self, path: &str) -> String {
        format!("ftp://{}/{path}", self.server.as_ref().unwrap().address())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.volume.mount_point().join(path)
    }

    async fn curl(&self, arguments: &[&str]) -> Output {
        curl(arguments).output().await.unwrap()
    }

    async fn client(&self) -> Client {
        let stream = TcpStream::connect(self.server.as_ref().unwrap().address()).await.unwrap();
        let mut client = Client(BufReader::new(stream));
        assert!(client.reply().await.starts_with("220 "));
        client
    }

    /// Ends everything; nothing is left behind.
    async fn end(mut self) {
        assert!(self.server.take().unwrap().stop().await);
        filesystem::unmount(self.volume.device.clone(), self.volume.mount_point()).await.unwrap();
        filesystem::check(self.volume.device.clone(), FsType::Ext4).await.unwrap();
        self.volume.detach(Detach::Clean);
    }
}

fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "120"]).args(arguments).kill_on_drop(true);
    command
}

/// A client that says exactly what it is told.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn reply(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        line
    }

    async fn say(&mut self, command: &str) -> String {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        self.reply().await
    }

    async fn log_in(&mut self, user: &str) {
        assert!(self.say(&format!("USER {user}")).await.starts_with("331"));
        assert!(self.say("PASS pass word").await.starts_with("230"));
    }

    async fn data(&mut self) -> TcpStream {
        let reply = self.say("EPSV").await;
        let port: u16 =
            reply.split('|').nth(3).unwrap_or_else(|| panic!("{reply}")).parse().unwrap();
        let address = self.0.get_ref().peer_addr().unwrap().ip();
        TcpStream::connect((address, port)).await.unwrap()
    }

    async fn upload(&mut self, name: &str, bytes: &[u8]) {
        let mut data = self.data().await;
        assert!(self.say(&format!("STOR {name}")).await.starts_with("150"));
        data.write_all(bytes).await.unwrap();
        drop(data);
        assert!(self.reply().await.starts_with("226"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_clients_read_write_and_resume_within_the_volume() {
    if !possible("stock_clients_read_write_and_resume_within_the_volume") {
        return;
    }
    let service = Service::new(8).await;
    let alice = ["-u", "alice:pass word"];
    let bytes = noise(3, 5_000_001);
    let local = service.volume.root.path().join("local");
    let local = local.to_str().unwrap();
    std::fs::write(local, &bytes).unwrap();

    let denied = service.curl(&["-T", local, &service.url("file")]).await;
    assert!(!denied.status.success() && !service.path("file").exists(), "{denied:?}");
    let denied = service.curl(&["-u", "alice:wrong", &service.url("")]).await;
    assert_eq!(denied.status.code(), Some(67), "{denied:?}");
    let stored = service.curl(&[&alice[..], &["-T", local, &service.url("file")]].concat()).await;
    assert!(stored.status.success(), "{stored:?}");
    assert!(std::fs::read(service.path("file")).unwrap() == bytes);
    let passive = ["--disable-epsv", &service.url("file")];
    assert!(service.curl(&passive).await.stdout == bytes);

    // An upload that was broken off, and a download that was.
    std::fs::write(service.path("half"), &bytes[..2_345_678]).unwrap();
    let half = service.url("half");
    let resume = [&alice[..], &["-C", "-", "-T", local, &half]].concat();
    let resumed = service.curl(&resume).await;
    assert!(resumed.status.success(), "{resumed:?}");
    assert!(std::fs::read(service.path("half")).unwrap() == bytes);
    let part = service.volume.root.path().join("part");
    std::fs::write(&part, &bytes[..1_000_000]).unwrap();
    let part = part.to_str().unwrap();
    assert!(service.curl(&["-C", "-", "-o", part, &service.url("half")]).await.status.success());
    assert!(std::fs::read(part).unwrap() == bytes);

    // Ways out.
    std::fs::write(service.volume.root.path().join("outside"), "secret").unwrap();
    std::os::unix::fs::symlink("../outside", service.path("relative")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", service.path("absolute")).unwrap();
    for path in ["../outside", "../../../../etc/passwd", "%2fetc/passwd", "relative", "absolute"] {
        let output = service.curl(&["--path-as-is", &service.url(path)]).await;
        assert!(!output.status.success() && output.stdout.is_empty(), "{path}: {output:?}");
    }
    let link = service.url("relative");
    let through = [&alice[..], &["-T", local, &link]].concat();
    assert!(!service.curl(&through).await.status.success());
    assert_eq!(std::fs::read(service.volume.root.path().join("outside")).unwrap(), b"secret");

    // Names: made, moved, removed; a home is all that its user sees.
    let quotes = ["-Q", "MKD home", "-Q", "RNFR half", "-Q", "RNTO home/moved", "-Q", "DELE file"];
    let done = service.curl(&[&alice[..], &quotes, &[&service.url("")]].concat()).await;
    assert!(done.status.success(), "{done:?}");
    assert!(!service.path("file").exists() && service.path("home/moved").exists());
    let listing = service.curl(&["-l", "-u", "bob:pass word", &service.url("")]).await;
    assert_eq!(String::from_utf8_lossy(&listing.stdout).trim(), "moved");
    let mut client = service.client().await;
    client.log_in("bob").await;
    assert_eq!(client.say("SIZE moved").await.trim(), "213 5000001");
    assert!(client.say("MDTM moved").await.starts_with("213 20"));
    assert!(client.say("CWD ../home").await.starts_with("550"));
    assert!(client.say("RMD missing").await.starts_with("550"));
    drop(client);
    if Command::new("lftp").arg("--version").stdout(Stdio::null()).status().await.is_ok() {
        let mirror = service.volume.root.path().join("mirror");
        let script = format!(
            "set net:max-retries 1; set net:timeout 20; open -u 'alice,pass word' {}; \
             mirror --parallel=4 home {}; put -O home {local} -o again; quit",
            service.url(""),
            mirror.display()
        );
        let lftp = Command::new("lftp").args(["-c", &script]).output().await.unwrap();
        assert!(lftp.status.success(), "{lftp:?}");
        assert!(std::fs::read(mirror.join("moved")).unwrap() == bytes);
        assert!(std::fs::read(service.path("home/again")).unwrap() == bytes);
    }
    service.end().await;
}

/// 226 says that the file is on the volume: while the volume withholds writes, it isn't sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_answered_when_it_is_on_the_volume() {
    if !possible("an_upload_is_answered_when_it_is_on_the_volume") {
        return;
    }
    let service = Service::new(8).await;
    let control = Arc::clone(&service.volume.control);
    let mut client = service.client().await;
    client.log_in("alice").await;
    let mut data = client.data().await;
    assert!(client.say("STOR file").await.starts_with("150"));
    control.change(|state| state.hold_writes = true);
    data.write_all(&noise(9, 1_000_000)).await.unwrap();
    drop(data);
    let waiting = Arc::clone(&control);
    tokio::task::spawn_blocking(move || waiting.wait_for("a write", |state| state.held > 0))
        .await
        .unwrap();
    let mut early = [0; 1];
    assert!(client.0.read(&mut early).now_or_never().is_none(), "answered before that");
    control.change(|state| state.hold_writes = false);
    assert!(client.reply().await.starts_with("226"));
    assert!(control.get().writes > 0);
    service.end().await;
}

/// On a volume that hangs, each client that came, began a transfer and went left a thread and an open
/// file, without limit. What a session has begun counts as the session until it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_began_takes_its_place_until_it_ends() {
    if !possible("what_a_session_began_takes_its_place_until_it_ends") {
        return;
    }
    let service = Service::new(1).await;
    let server = service.server.as_ref().unwrap();
    let control = Arc::clone(&service.volume.control);
    let mut client = service.client().await;
    client.log_in("alice").await;
    let mut data = client.data().await;
    assert!(client.say("STOR file").await.starts_with("150"));
    control.change(|state| state.hold_writes = true);
    data.write_all(b"contents").await.unwrap();
    drop(data);
    let waiting = Arc::clone(&control);
    tokio::task::spawn_blocking(move || waiting.wait_for("a write", |state| state.held > 0))
        .await
        .unwrap();
    drop(client);
    for _ in 0..10 {
        let mut early = Client(BufReader::new(TcpStream::connect(server.address()).await.unwrap()));
        let answer = early.reply().await;
        assert!(answer.starts_with("421"), "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    control.change(|state| state.hold_writes = false);
    let ended = async {
        while server.sessions() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap();
    drop(service.client().await);
    service.end().await;
}

/// An upload that followed a resumed download lost its beginning when a REST counted for both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rest_counts_for_one_transfer() {
    if !possible("rest_counts_for_one_transfer") {
        return;
    }
    let service = Service::new(8).await;
    let mut client = service.client().await;
    client.log_in("alice").await;
    client.upload("a", b"0123456789").await;
    let mut data = client.data().await;
    assert!(client.say("REST 7").await.starts_with("350"));
    assert!(client.say("RETR a").await.starts_with("150"));
    let mut rest = Vec::new();
    data.read_to_end(&mut rest).await.unwrap();
    assert!(client.reply().await.starts_with("226"));
    assert_eq!(rest, b"789");
    client.upload("a", b"new").await;
    assert_eq!(std::fs::read(service.path("a")).unwrap(), b"new");
    // Behind the end: refused, and the file is as it was.
    let data = client.data().await;
    assert!(client.say("REST 4").await.starts_with("350"));
    assert!(client.say("STOR a").await.starts_with("150"));
    assert!(client.reply().await.starts_with("550"));
    drop(data);
    assert_eq!(std::fs::read(service.path("a")).unwrap(), b"new");
    let mut data = client.data().await;
    assert!(client.say("APPE a").await.starts_with("150"));
    data.write_all(b"er").await.unwrap();
    drop(data);
    assert!(client.reply().await.starts_with("226"));
    assert_eq!(std::fs::read(service.path("a")).unwrap(), b"newer");
    drop(client);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_limited_and_end_with_the_lease() {
    if !possible("sessions_are_limited_and_end_with_the_lease") {
        return;
    }
    let service = Service::new(2).await;
    let mut first = service.client().await;
    let mut second = service.client().await;
    let address = service.server.as_ref().unwrap().address();
    let mut third = Client(BufReader::new(TcpStream::connect(address).await.unwrap()));
    assert!(third.reply().await.starts_with("421"));
    assert_eq!(service.server.as_ref().unwrap().sessions(), 2);

    // A line without end is cut off, not collected.
    let endless = vec![b'x'; 100_000];
    let _ = second.0.get_mut().write_all(&endless).await;
    let mut said = Vec::new();
    let _ = second.0.read_to_end(&mut said).await;
    assert!(said.is_empty() || said.starts_with(b"500"), "{said:?}");

    first.log_in("alice").await;
    assert!(first.say("PORT 127,0,0,1,10,10").await.starts_with("5"));
    service.may.store(false, Ordering::SeqCst);
    assert!(first.say("NOOP").await.starts_with("200"));
    assert!(first.say("SIZE file").await.starts_with("421"));
    assert_eq!(first.reply().await, "", "closed");
    service.may.store(true, Ordering::SeqCst);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves_only_the_mounted_volume_and_stops_within_a_transfer() {
    if !possible("it_serves_only_the_mounted_volume_and_stops_within_a_transfer") {
        return;
    }
    let mut service = Service::new(8).await;
    let mut client = service.client().await;
    client.log_in("alice").await;
    let mut data = client.data().await;
    assert!(client.say("STOR file").await.starts_with("150"));
    data.write_all(&noise(1, 3_000_000)).await.unwrap();
    // Neither the open upload nor the session keeps the mount.
    assert!(service.server.take().unwrap().stop().await);
    let farewell = client.reply().await;
    assert!(farewell.starts_with("421") || farewell.starts_with("4"), "{farewell}");
    filesystem::unmount(service.volume.device.clone(), service.volume.mount_point()).await.unwrap();

    // Nor is anything else the volume, at its place or another.
    let places = [service.volume.mount_point(), service.volume.root.path().into(), "/proc".into()];
    for place in places {
        let refused = open_root(&place, &service.volume.device);
        assert!(matches!(refused, Err(FtpError::NotMounted { .. })), "{refused:?}");
    }
    filesystem::check(service.volume.device.clone(), FsType::Ext4).await.unwrap();
    service.volume.detach(Detach::Clean);
}
