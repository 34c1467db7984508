//! A real target, asked as administrators and Prometheus ask it, while a client reads from it by
//! frames through the socket for programs of this machine.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};

const PROGRAM: &str = env!("CARGO_BIN_EXE_etherpool");
/// Far more than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(60);
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 7];

struct Target {
    process: Child,
    directory: tempfile::TempDir,
    metrics: u16,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Target {
    /// `None` where there is no io_uring.
    fn start() -> Option<Target> {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::File::create(at("disk")).unwrap().set_len(1 << 20).unwrap();
        // Free a moment ago; nobody else takes ports of the system's choice in that time.
        let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "node-id = '00000000-0000-0000-0000-000000000002'\nstate-dir = {:?}\nrun-dir = {:?}\n\
             frame-socket = true\nmetrics = '127.0.0.1:{metrics}'\n\
             interfaces = ['none-of-this-name']\n\
             [[export]]\naddress = 'e9.1'\npath = {:?}\nio = 'buffered'\n\
             [[export]]\naddress = 'e9.2'\npath = {:?}\n",
            at("state"),
            at("run"),
            at("disk"),
            at("missing"),
        );
        std::fs::write(at("target.toml"), config).unwrap();
        let process = Command::new(PROGRAM)
            .args(["target", "--config"])
            .arg(at("target.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        let mut target = Target { process, directory, metrics };
        let end = Instant::now() + TIMEOUT;
        loop {
            let status = target.ask(&["status", "e9.1", "--json"]);
            if String::from_utf8_lossy(&status.stdout).contains("\"online\"") {
                return Some(target);
            }
            if target.process.try_wait().unwrap().is_some() && target.log().contains("io_uring") {
                eprintln!("SKIPPED: no io_uring here: {}", target.log());
                return None;
            }
            assert!(Instant::now() < end, "{status:?} {}", target.log());
            std::thread::yield_now();
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("target").args(arguments).arg("--socket").arg(self.at("run"));
        command
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// A client's way to the target.
    fn connect(&self) -> OwnedFd {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let address = SocketAddrUnix::new(self.at("run").join("node.sock")).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        socket
    }
}

/// READ SECTORS EXT of one sector, and its answer's status register.
fn read_sector(socket: &OwnedFd, tag: u32, lba: u8) -> u8 {
    let mut frame = vec![0xff; 6];
    frame.extend(CLIENT);
    frame.extend([0x88, 0xa2, 0x10, 0, 0, 9, 1, 0]);
    frame.extend(tag.to_be_bytes());
    frame.extend([0x40, 0, 1, 0x24, lba, 0, 0, 0, 0, 0, 0, 0]);
    frame.resize(60, 0);
    rustix::net::send(socket, &frame, SendFlags::empty()).unwrap();
    loop {
        let mut answer = [0; 2048];
        let (len, _) = rustix::net::recv(socket, &mut answer, RecvFlags::empty()).unwrap();
        assert!(len >= 36, "the target closed the connection");
        // Others are announcements.
        if answer[20..24] == tag.to_be_bytes() && answer[19] == 0 {
            assert_eq!(len, 36 + 512);
            return answer[27];
        }
    }
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_target_is_observed() {
    let Some(target) = Target::start() else { return };
    let socket = target.connect();
    for tag in 1..=5 {
        assert_eq!(read_sector(&socket, tag, 0) & 0x21, 0);
    }

    // Status: one export is missing, so all isn't well.
    let status = target.ask(&["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("e9.1") && text.contains("online") && text.contains("e9.2"), "{text}");
    assert_eq!(status.status.code(), Some(5), "{text}");
    assert_eq!(target.ask(&["status", "e9.1"]).status.code(), Some(0));
    assert_eq!(target.ask(&["status", "e9.9"]).status.code(), Some(3));

    // Counters, by export and client.
    let all = json(&target.ask(&["stats", "--json"]));
    let export = &all[0]["exports"][0];
    assert_eq!(export["address"], "e9.1");
    assert_eq!(export["requests"]["read"], 5);
    assert_eq!(export["read_bytes"], 5 * 512);
    assert_eq!(export["latency"]["read"]["count"], 5);
    assert_eq!(export["clients"][0]["mac"], "02:00:00:00:00:07");
    assert_eq!(export["clients"][0]["requests"]["read"], 5);
    let table = target.ask(&["stats", "e9.1"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("02:00:00:00:00:07  5"), "{table}");

    // Metrics, in the form that Prometheus reads.
    let mut stream = TcpStream::connect(("127.0.0.1", target.metrics)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK"), "{page}");
    for line in [
        "etherpool_target_requests_total{export=\"e9.1\",kind=\"read\"} 5",
        "etherpool_target_request_duration_seconds_count{export=\"e9.1\",kind=\"read\"} 5",
        "etherpool_target_export_online{export=\"e9.1\"",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
}

#[test]
fn requests_are_traced_as_they_are_answered() {
    let Some(target) = Target::start() else { return };
    let socket = target.connect();
    assert_eq!(target.ask(&["trace", "e9.9", "--count", "1"]).status.code(), Some(3));
    for form in [&["--json"][..], &[]] {
        let mut tracer = target
            .command(&["trace", "e9.1", "--count", "3"])
            .args(form)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(tracer.stdout.take().unwrap()).lines();
        // Requests until it has seen enough: it hears those only that come after it.
        let reading = std::thread::spawn(|| lines.map(Result::unwrap).collect::<Vec<String>>());
        let mut tag = 100;
        while tracer.try_wait().unwrap().is_none() {
            tag += 1;
            assert_eq!(read_sector(&socket, tag, 8) & 0x21, 0);
        }
        let lines = reading.join().unwrap();
        assert_eq!(lines.len(), 3, "{lines:?}");
        for line in lines {
            let parts: &[&str] = if form.is_empty() {
                &["e9.1 02:00:00:00:00:07", "8+1 done"]
            } else {
                &["\"request\"", "\"e9.1\"", "\"02:00:00:00:00:07\"", "\"lba\":8", "\"done\""]
            };
            assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        }
    }
}

#[test]
fn without_a_target_the_code_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(PROGRAM)
        .args(["target", "stats", "--socket"])
        .arg(directory.path().join("none"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
}
