//! The API by TLS: each role with curl and etherpool's own command, who isn't let in, a flood, and a supervisor that is
//! killed meanwhile. Certificates are made as docs/operations.md says.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use blackbox::{Lab, LabOptions, VOLUME, etherpool, free_address, text_of, wait_until};

/// What etherpool ends with.
const REFUSED: i32 = 4;
const NOT_RUNNING: i32 = 6;

struct Api {
    lab: Lab,
    address: SocketAddr,
}

impl Api {
    fn up() -> Api {
        let lab = Lab::up(&LabOptions { disks: 1, size: "512M", ..LabOptions::default() });
        let address = free_address();
        let api = Api { lab, address };
        let ca = "req -x509 -newkey ed25519 -nodes -days 3650 -subj /CN=etherpool-clients -keyout ca.key -out ca.pem";
        api.openssl(ca);
        let signed = "req -x509 -newkey ed25519 -nodes -days 365 -CA ca.pem -CAkey ca.key";
        let server = "-subj /CN=storage -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1";
        api.openssl(&format!("{signed} {server} -keyout server.key -out server.pem"));
        for name in ["ann", "olaf", "rita", "mallory"] {
            let client = format!("-subj /CN={name} -addext basicConstraints=critical,CA:FALSE");
            api.openssl(&format!("{signed} {client} -keyout {name}.key -out {name}.pem"));
        }
        let file = |name| api.file(name);
        let own = format!(
            "[api]\nlisten = '{address}'\ncertificate = {:?}\nkey = {:?}\nclient-ca = {:?}\n\
             clients = [{{ name = 'ann', role = 'administer' }}, {{ name = 'olaf', role = 'operate' }}, \
             {{ name = 'rita', role = 'read' }}]\n",
            file("server.pem"),
            file("server.key"),
            file("ca.pem"),
        );
        api.lab.configure_supervisor(&own);
        wait_until("the API is served by TLS", || api.by("rita", &["pool", "list"]).0 == 0);
        api
    }

    fn file(&self, name: &str) -> PathBuf {
        self.lab.dir().join(name)
    }

    fn openssl(&self, args: &str) {
        let mut command = Command::new("openssl");
        command.args(args.split(' ')).current_dir(self.lab.dir()).stdin(Stdio::null());
        let output = command.output().expect("openssl, which this test makes certificates with");
        assert!(output.status.success(), "openssl {args}: {}", text_of(&output));
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// `etherpool ARGS` with nothing of the environment by which a supervisor is found.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = etherpool();
        command.env_remove("ETHERPOOL_SOCKET").env("XDG_CONFIG_HOME", self.lab.dir()).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// Exit code of `etherpool ARGS` at a URL, with the certificate of somebody, and what it says.
    fn at(&self, url: &str, name: &str, args: &[&str]) -> (i32, String) {
        let mut command = self.command(args);
        command.args(["--api", url, "--ca"]).arg(self.file("ca.pem"));
        command.arg("--certificate").arg(self.file(&format!("{name}.pem")));
        command.arg("--certificate-key").arg(self.file(&format!("{name}.key")));
        coded(command.output().unwrap())
    }

    fn by(&self, name: &str, args: &[&str]) -> (i32, String) {
        self.at(&self.url(), name, args)
    }

    /// The HTTP status that curl gets, 0 for none, and the answer.
    fn curl(&self, name: Option<&str>, args: &[&str], path: &str) -> (u16, String) {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "60", "-w", "\n%{http_code}", "--cacert"]);
        command.arg(self.file("ca.pem"));
        if let Some(name) = name {
            command.arg("--cert").arg(self.file(&format!("{name}.pem")));
            command.arg("--key").arg(self.file(&format!("{name}.key")));
        }
        let output = command.args(args).arg(format!("{}{path}", self.url())).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), answer.to_owned())
    }

    /// Has the user's own file name this API, and somebody's certificate.
    fn write_own(&self, name: &str) {
        let own = format!(
            "api = '{}'\ncertificate = '../{name}.pem'\nkey = '../{name}.key'\nca = '../ca.pem'\n",
            self.url()
        );
        std::fs::create_dir_all(self.lab.dir().join("etherpool")).unwrap();
        std::fs::write(self.lab.dir().join("etherpool/client.toml"), own).unwrap();
    }

    fn mount_options(&self) -> Option<String> {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let place = self.lab.mount().display().to_string();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(&place))?;
        line.split(' ').nth(3).map(str::to_owned)
    }
}

fn coded(output: Output) -> (i32, String) {
    (output.status.code().unwrap_or(-1), text_of(&output))
}

fn assert_said((code, text): (i32, String), expected: i32, words: &str) {
    assert!(code == expected && text.contains(words), "{expected}, {words}: {code}: {text}");
}

#[test]
fn each_role_does_what_is_its_own_and_all_that_is_done_is_known() {
    let api = Api::up();
    let lab = &api.lab;

    // Who reads.
    for args in [&["pool", "list"][..], &["disk", "list"], &["alert", "list"], &["volume", "list"]]
    {
        assert_said(api.by("rita", args), 0, "");
    }
    let (status, page) = api.curl(Some("rita"), &[], "/metrics");
    assert!(status == 200 && page.contains("\netherpool_engine_up 1\n"), "{status}: {page}");
    assert_said(api.by("rita", &["pool", "scrub", "cluster"]), REFUSED, "has the role read here");
    let (status, answer) = api.curl(Some("rita"), &["-X", "POST"], "/v2/pools/cluster/scrub");
    assert!(status == 403 && answer.contains("this takes operate"), "{status}: {answer}");

    // A browser has the page by the certificate that docs/page.md has made, as it imports it; nobody without one. Other
    // people's pages change nothing by it.
    let (status, page) = api.curl(Some("rita"), &["-i"], "/");
    assert!(status == 200 && page.contains("<h1 id=\"headline\""), "{status}: {page}");
    assert!(page.contains("content-security-policy: default-src 'none'"), "{page}");
    assert_eq!(api.curl(None, &[], "/").0, 0);
    let curve =
        "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -CA ca.pem -CAkey ca.key";
    let subject =
        "-subj /CN=rita -keyout web.key -out web.pem -addext basicConstraints=critical,CA:FALSE";
    api.openssl(&format!("req -x509 {curve} {subject}"));
    api.openssl(
        "pkcs12 -export -in web.pem -inkey web.key -name rita -out web.p12 -passout pass:x",
    );
    let web = format!("{}:x", api.file("web.p12").display());
    let (status, script) = api.curl(None, &["--cert-type", "P12", "--cert", &web], "/page/page.js");
    assert!(status == 200 && script.contains("/v2/status"), "{status}: {script}");
    let by_a_page =
        ["-H", "Origin: https://evil.example", "-H", "Content-Type: text/plain", "-d", "{}"];
    let (status, answer) = api.curl(Some("ann"), &by_a_page, "/v2/pools/cluster/scrub");
    assert!(status == 403 && answer.contains("a page in a browser"), "{status}: {answer}");

    // Who operates.
    assert_said(api.by("olaf", &["pool", "scrub", "cluster"]), 0, "");
    let mount = lab.mount().display().to_string();
    assert_said(api.by("olaf", &["volume", "unmount", VOLUME]), 0, "");
    assert_eq!(api.mount_options(), None);
    let more = ["volume", "mount", VOLUME, &mount, "--option", "suid"];
    assert_said(api.by("olaf", &more), REFUSED, "doesn't mount with the option suid");
    assert_said(api.by("olaf", &["volume", "mount", VOLUME, &mount]), 0, "");
    let options = api.mount_options().unwrap();
    assert!(options.contains("nosuid") && options.contains("nodev"), "{options}");
    let create = ["volume", "create", "cluster/more", "--size", "16M", "--layout", "mirror:2"];
    assert_said(api.by("olaf", &create), REFUSED, "takes administer");
    assert_said(api.by("olaf", &["token", "create"]), REFUSED, "takes administer");
    assert_said(api.by("olaf", &["pool", "scrub", "cluster", "--every", "90d"]), REFUSED, "");

    // Who administers.
    let set = ["pool", "set", "cluster", "rebuild-delay", "10min"];
    assert_said(api.by("olaf", &set), REFUSED, "takes administer");
    assert_said(api.by("ann", &set), 0, "");
    let (status, answer) =
        api.curl(Some("ann"), &["-d", "{\"trim\":false}"], "/v2/pools/cluster/set");
    assert_eq!(status, 200, "{answer}");
    assert_said(api.by("ann", &["alert", "test"]), 0, "");

    // What was done is in the pool's history by the API's own words, and in the log; what was refused is in the log.
    wait_until("all is known", || {
        let history = lab.json(&["pool", "history", "cluster"]);
        let done = |who: &str, what: &str| {
            let text =
                |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap_or("").to_owned();
            history
                .as_array()
                .unwrap()
                .iter()
                .any(|entry| text(entry, "who").contains(who) && text(entry, "text").contains(what))
        };
        done("olaf (operate), from 127.0.0.1", "scrub pool cluster")
            && done("olaf (operate), from 127.0.0.1", "mount volume")
            && done("ann (administer), from 127.0.0.1", "set pool cluster {\"trim\":false}")
    });
    let log = lab.log("supervisor");
    let line =
        |words: &[&str]| log.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(line(&["olaf (operate), from 127.0.0.1: scrub pool cluster: done"]), "{log}");
    assert!(line(&["command", "ann (administer), from 127.0.0.1", "alerts test"]), "{log}");
    assert!(line(&["refused", "rita (read), from 127.0.0.1", "scrub pool cluster"]), "{log}");
}

#[test]
fn nobody_else_is_let_in_and_a_flood_leaves_the_socket_served() {
    let api = Api::up();
    let lab = &api.lab;
    assert_said(api.by("mallory", &["pool", "list"]), REFUSED, "is no client's here");
    assert_eq!(api.curl(Some("mallory"), &[], "/metrics").0, 403);
    assert_eq!(api.curl(None, &[], "/v2/status").0, 0);
    // Somebody with the same name, whom somebody else calls so.
    let forged = "req -x509 -newkey ed25519 -nodes -days 365 -subj /CN=ann -keyout forged.key -out forged.pem";
    api.openssl(forged);
    assert_said(api.by("forged", &["pool", "list"]), REFUSED, "doesn't take the certificate");
    // A server that isn't the one that is meant.
    let elsewhere = format!("https://localhost:{}", api.address.port());
    let (code, text) = api.at(&elsewhere, "ann", &["pool", "list"]);
    assert!(code == NOT_RUNNING && text.contains("no supervisor that is to be trusted"), "{text}");
    assert_said(
        api.by("ann", &["join", "--file", "/x"]),
        2,
        "`etherpool join` works on the machine",
    );

    let mut kept = Vec::new();
    for _ in 0..2000 {
        let mut stream = TcpStream::connect(api.address).unwrap();
        // It may have been ended already.
        let _ = stream.write_all(b"GET /v2/status HTTP/1.1\r\nhost: x\r\n\r\n");
        if kept.len() < 300 {
            kept.push(stream);
        }
    }
    let served = lab.cli(&["pool", "list"]);
    assert!(served.contains("cluster"), "{served}");
    let refused = lab.log("supervisor").lines().filter(|line| line.contains("refused")).count();
    assert!((1..200).contains(&refused), "{refused} lines of 2000");
    drop(kept);
    wait_until("clients are let in again", || api.by("rita", &["pool", "list"]).0 == 0);
}

/// A program of somebody's own, `crates/client/examples/watch.rs`.
struct Watcher {
    process: Child,
    said: BufReader<ChildStdout>,
}

impl Watcher {
    fn begin(api: &Api, socket: Option<PathBuf>) -> Watcher {
        let mut command = Command::new(env!("CARGO_BIN_EXE_watch"));
        command.args(socket).env("XDG_CONFIG_HOME", api.lab.dir()).stdin(Stdio::null());
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        Watcher { process, said }
    }

    /// The next line that it says of which this is a part.
    fn line(&mut self, part: &str) -> String {
        let mut before = String::new();
        loop {
            let mut line = String::new();
            assert!(
                self.said.read_line(&mut line).unwrap() > 0,
                "{part} was not said, but {before}"
            );
            if line.contains(part) {
                return line;
            }
            before.push_str(&line);
        }
    }

    /// That it failed, and why.
    fn end(mut self) -> String {
        let (mut said, mut text) = (String::new(), String::new());
        self.said.read_to_string(&mut said).unwrap();
        self.process.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(self.process.wait().unwrap().code(), Some(1), "{said}{text}");
        text
    }
}

#[test]
fn somebodys_own_program_asks_as_commands_do() {
    let api = Api::up();
    let lab = &api.lab;
    api.write_own("rita");
    let mut watchers = [Some(lab.dir().join("supervisor/run/api.sock")), None]
        .map(|socket| Watcher::begin(&api, socket));
    for watcher in &mut watchers {
        let version = watcher.line("version");
        assert_eq!(
            version.trim_end(),
            format!("the supervisor is of version {}", program_version())
        );
        let pool = watcher.line("pool cluster");
        assert_eq!(pool.trim_end(), "pool cluster is online, with 1 volumes");
    }
    lab.cli(&["pool", "scrub", "cluster"]);
    for watcher in &mut watchers {
        let line = watcher.line("scrub");
        assert!(line.starts_with("info: "), "{line}");
    }
    lab.lab(&["kill", "supervisor"]);
    for why in watchers.map(Watcher::end) {
        assert!(why.contains("look at events: the supervisor on"), "{why}");
        assert!(why.contains("went away in the middle of it"), "{why}");
    }
    let why = Watcher::begin(&api, Some("/nonexistent/api.sock".into())).end();
    assert!(why.contains("no supervisor answers on /nonexistent/api.sock"), "{why}");
    lab.lab(&["start", "supervisor"]);
    wait_until("the supervisor is reached again", || api.by("rita", &["pool", "list"]).0 == 0);
    // What is refused is the supervisor's own word, with what to do.
    api.write_own("mallory");
    let why = Watcher::begin(&api, None).end();
    assert!(why.contains("is no client's here") && why.contains("[[api.clients]]"), "{why}");
    let forged = "req -x509 -newkey ed25519 -nodes -days 365 -subj /CN=ann -keyout forged.key -out forged.pem";
    api.openssl(forged);
    api.write_own("forged");
    let why = Watcher::begin(&api, None).end();
    assert!(why.contains("doesn't take the certificate") && why.contains("forged.pem"), "{why}");
}

fn program_version() -> String {
    let said = text_of(&etherpool().arg("--version").output().unwrap());
    said.trim_end().rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn a_supervisor_that_was_killed_is_reached_again_and_its_files_are_checked() {
    let api = Api::up();
    let lab = &api.lab;
    // By the user's own file.
    api.write_own("ann");
    let list = || coded(api.command(&["pool", "list"]).output().unwrap());
    assert_said(list(), 0, "cluster");
    let mut follower = api.command(&["events", "--follow"]).stdout(Stdio::null()).spawn().unwrap();
    lab.lab(&["kill", "supervisor"]);
    assert!(
        !follower.wait().unwrap().success(),
        "it says that there is nothing to follow any more"
    );
    assert_said(list(), NOT_RUNNING, "no supervisor that is to be trusted");
    lab.lab(&["start", "supervisor"]);
    wait_until("the supervisor is reached again", || list().0 == 0);

    let config = lab.dir().join("supervisor/supervisor.toml");
    let check = || {
        let mut command = etherpool();
        coded(command.args(["supervisor", "--check", "--config"]).arg(&config).output().unwrap())
    };
    assert_said(check(), 0, "can be used");
    Command::new("chmod").arg("644").arg(api.file("server.key")).status().unwrap();
    assert_said(check(), 2, "server.key is a secret key");
    Command::new("chmod").arg("600").arg(api.file("server.key")).status().unwrap();
    std::fs::rename(api.file("ca.pem"), api.file("gone.pem")).unwrap();
    assert_said(check(), 2, "ca.pem");
    // Those that serve go on with what they had, and say so.
    std::fs::write(api.file("ca.pem"), "").unwrap();
    wait_until("status says what is wrong", || {
        TcpStream::connect(api.address).unwrap();
        lab.show(&["status"]).contains("ca.pem holds no certificate")
    });
    std::fs::rename(api.file("gone.pem"), api.file("ca.pem")).unwrap();
    assert_said(list(), 0, "cluster");
}
