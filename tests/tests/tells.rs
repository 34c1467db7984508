//! It tells: what happened, who had what done, and what is wrong, to people who didn't ask.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use blackbox::{Lab, LabOptions, LoopDisk, etherpool, free_address, quiet, wait_until};
use serde_json::Value;

/// Where the lab's supervisor posts to; it says yes to everything.
struct Webhook {
    address: SocketAddr,
    messages: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    fn start() -> Webhook {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let messages = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&messages);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let batch = take(stream).unwrap_or_default();
                kept.lock()
                    .unwrap()
                    .extend(batch["messages"].as_array().cloned().unwrap_or_default());
            }
        });
        Webhook { address, messages }
    }

    fn has(&self, step: &str, kind: &str) -> bool {
        let messages = self.messages.lock().unwrap();
        messages.iter().any(|one| one["step"] == step && one["kind"] == kind)
    }
}

fn take(mut stream: TcpStream) -> Option<Value> {
    let mut request = Vec::new();
    let mut some = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && let Ok(batch) = serde_json::from_str(body)
        {
            stream.write_all(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n").ok()?;
            return Some(batch);
        }
        let count = stream.read(&mut some).ok().filter(|count| *count > 0)?;
        request.extend_from_slice(&some[..count]);
    }
}

/// A lab whose supervisor has every way to tell but mail.
struct Told {
    lab: Lab,
    webhook: Webhook,
    file: PathBuf,
    metrics: SocketAddr,
}

impl Told {
    fn up() -> Told {
        let lab = Lab::up(&LabOptions { disks: 1, size: "512M", ..LabOptions::default() });
        let webhook = Webhook::start();
        let file = lab.dir().join("messages");
        let program = lab.dir().join("tell");
        std::fs::write(&program, "#!/bin/sh\ncat >> \"$1\"\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let metrics = free_address();
        let own = format!(
            "metrics = \"{metrics}\"\n[alerts]\nmail = {{ enabled = false }}\nignore = [\"pool-space\"]\n\
             webhook = [{{ url = \"http://{}/hook\" }}]\ncommand = [{{ argv = [{program:?}, {file:?}] }}]\n",
            webhook.address
        );
        lab.configure_supervisor(&own);
        Told { lab, webhook, file, metrics }
    }

    fn history(&self) -> Vec<Value> {
        self.lab.json(&["pool", "history", "cluster"]).as_array().unwrap().clone()
    }

    fn knows(&self, is: impl Fn(&Value) -> bool) -> bool {
        self.history().iter().any(is)
    }

    fn page(&self) -> String {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    }

    /// What status says of such a kind; its code must be the one of something wrong then.
    fn wrong(&self, kind: &str) -> Option<Value> {
        let output = self.lab.cli_output(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        let wrong = status["wrong"].as_array().unwrap();
        assert_eq!(output.status.code() == Some(5), !wrong.is_empty(), "{wrong:#?}");
        wrong.iter().find(|one| one["kind"] == kind).cloned()
    }

    /// Of n1's disk, which is gone: in that order, and before all else.
    fn assert_status_says_what_to_do(&self) {
        let (code, text) = self.lab.said(&["status", "-x"]);
        assert_eq!(code, 5, "{text}");
        let gone = text.find("disk e1.0").expect("the disk is named");
        let since = text[gone..].find("\n  since  ").expect("since when");
        let data = text[gone..]
            .find("\n  data   as far as is known nothing is lost by it")
            .expect("what it means");
        let remedy = text[gone..].find("\n  do     if it won't be back: etherpool pool replace");
        assert!(since < data && data < remedy.expect("what to do"), "{text}");
        let (code, all) = self.lab.said(&["status"]);
        let rest = all.find("\nsupervisor  ").expect("the rest");
        assert!(code == 5 && all.find("disk e1.0").is_some_and(|gone| gone < rest), "{all}");
        let (code, text) = self.lab.said(&["pool", "status", "cluster", "-x"]);
        assert!(code == 5 && text.contains("disk e1.0"), "{code}: {text}");
        assert_eq!(self.lab.said(&["pool", "status", "nope"]).0, 3);
        let rates = self.lab.json(&["pool", "iostat", "cluster"]);
        assert_eq!(rates["volumes"][0]["name"], "hyperspace", "{rates}");
        assert!(rates["disks"].as_array().is_some_and(|disks| disks.len() >= 2), "{rates}");
        let one = self.wrong("disk-gone").expect("it is wrong");
        assert_eq!(one["severity"], "warning");
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        assert!(one["since_secs"].as_u64().is_some_and(|since| since <= now && since + 3600 > now));
        let terminal = format!(
            "{} --socket {} status --watch 1",
            etherpool().get_program().to_string_lossy(),
            self.lab.dir().join("supervisor/run/api.sock").display()
        );
        let args = ["120", "script", "-qefc", &terminal, "/dev/null"];
        let mut watching =
            Command::new("timeout").args(args).stdout(Stdio::piped()).spawn().unwrap();
        let (mut out, mut drawn) = (watching.stdout.take().unwrap(), Vec::new());
        let draws = |drawn: &[u8]| String::from_utf8_lossy(drawn).matches("\x1b[H").count();
        let mut part = [0; 4096];
        while draws(&drawn) < 2 {
            let count = out.read(&mut part).unwrap();
            drawn.extend(&part[..count]);
            assert_ne!(count, 0, "it ended: {:?}", String::from_utf8_lossy(&drawn));
        }
        // By a signal that it hands on: what it runs must not outlive it.
        let pid = watching.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        watching.wait().unwrap();
        assert!(String::from_utf8_lossy(&drawn).contains("wrong"), "{drawn:?}");
        let (code, text) = self.lab.said(&["status", "--watch"]);
        assert!(code == 2 && text.contains("terminal"), "{code}: {text}");
    }

    fn raised(&self) -> Vec<String> {
        let report = self.lab.json(&["alert", "list"]);
        let kinds = report["raised"].as_array().unwrap().iter();
        kinds.map(|alert| alert["kind"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn a_disk_that_goes_is_told_and_known_for_good() {
    let told = Told::up();
    let lab = &told.lab;

    let (code, text) = lab.said(&["alert", "test"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.matches("delivered").count(), 3, "journal, webhook, command: {text}");
    wait_until("the command was told", || {
        std::fs::read_to_string(&told.file).is_ok_and(|text| text.contains("\"step\":\"test\""))
    });
    let (code, text) = lab.said(&["alert", "list"]);
    assert_eq!(code, 0, "{text}");
    let status = lab.show(&["status"]);
    assert!(!status.contains("NOBODY IS TOLD"), "{status}");

    // Who had what done.
    lab.cli(&["pool", "set", "cluster", "scrub-every", "14d"]);
    // What the program itself finds wrong, the supervisor isn't asked to do.
    let again = ["volume", "create", "cluster/hyperspace", "--size", "8M", "--layout", "mirror:2"];
    let (code, text) = lab.said(&again);
    assert_ne!(code, 0, "{text}");
    let command = |what: &str, result: &str| {
        told.knows(|entry| {
            entry["event"] == "command"
                && entry["who"].as_str().is_some_and(|who| who.starts_with("root"))
                && entry["text"].as_str().is_some_and(|text| text.contains(what))
                && entry["result"].as_str().is_some_and(|said| said.starts_with(result))
        })
    };
    wait_until("both commands are known", || {
        command("pool set cluster scrub-every 14d", "done")
            && command("volume create cluster/hyperspace --size 8M", "failed: ")
    });
    assert!(!command("alert test", ""), "it changes no pool");

    let (code, text) = lab.said(&["status", "-x"]);
    assert_eq!((code, text.as_str()), (0, ""), "all is well");
    lab.lab(&["kill", "n1"]);
    wait_until("status says so to whoever asks", || told.wrong("disk-gone").is_some());
    wait_until("it is told that the disk is gone", || {
        told.webhook.has("raised", "disk-gone") && told.webhook.has("raised", "volume-redundancy")
    });
    assert!(told.raised().contains(&"disk-gone".to_owned()));
    let (code, text) = lab.said(&["alert", "list"]);
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("pool replace cluster e1.0 NEW"), "{text}");
    told.assert_status_says_what_to_do();
    let page = told.page();
    for series in [
        "etherpool_pool_state{pool=\"cluster\",state=\"degraded\"} 1",
        "etherpool_pool_disk_state{pool=\"cluster\",disk=\"e1.0\",node=\"n1\",state=\"missing\"} 1",
        "etherpool_alert{kind=\"disk-gone\",pool=\"cluster\",subject=\"e1.0\",severity=\"warning\"} 1",
        "etherpool_target_info{",
        "etherpool_volume_request_duration_seconds_count{",
    ] {
        assert!(page.contains(series), "{series} isn't in {page}");
    }
    let out = |entry: &Value| entry["event"] == "disk-out";
    wait_until("that is history", || told.knows(out));

    // As good as a power cut, for the supervisor; what it knew is on the disks. A state is told right before all
    // that is known is kept.
    wait_until("the state is history, too", || {
        told.knows(|entry| {
            entry["event"] == "pool-state" && entry["text"] == "pool cluster is degraded"
        })
    });
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    lab.lab(&["start", "n1"]);
    lab.wait_clean();
    assert!(told.knows(out) && command("scrub-every 14d", "done"), "{:#?}", told.history());
    wait_until("nothing is wrong any more", || {
        let (code, text) = lab.said(&["status", "-x"]);
        assert_eq!(code == 0, text.is_empty(), "{code}: {text}");
        code == 0
    });
    let (code, text) = lab.said(&["status"]);
    assert!(code == 0 && text.starts_with("all is well\n"), "{code}: {text}");
    wait_until("it is told that this is over", || told.webhook.has("cleared", "disk-gone"));
    let raised = told.webhook.messages.lock().unwrap().clone();
    let raised = raised.iter().filter(|m| m["kind"] == "disk-gone" && m["step"] == "raised");
    assert_eq!(raised.count(), 1, "once, also over a restart");
    wait_until("the command is told, too", || {
        std::fs::read_to_string(&told.file).unwrap().contains("\"step\":\"cleared\"")
    });

    // What goes to another machine takes its history along.
    lab.cli(&["pool", "release", "cluster", "--yes"]);
    lab.cli(&["pool", "import", "cluster", "--yes"]);
    let released = |entry: &Value| {
        entry["event"] == "pool-state" && entry["text"] == "pool cluster is released"
    };
    assert!(told.knows(out) && told.knows(released), "{:#?}", told.history());
    assert!(command("pool release cluster", "begun"), "{:#?}", told.history());
    let text = lab.cli(&["events", "-n", "100"]);
    assert!(
        text.contains("pool import cluster --yes: done") || command("pool import", "done"),
        "{text}"
    );
}

/// A node of the lab's, run with another configuration; ended when it is dropped.
struct OwnNode(Child);

impl Drop for OwnNode {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_drive_that_says_that_it_wears_out_is_told_of_and_can_be_emptied() {
    let told = Told::up();
    let lab = &told.lab;
    lab.lab(&["kill", "n2"]);
    let file = lab.disk_file("n2", 0);
    let Some(disk) = LoopDisk::attach(&file) else { return };
    // Whatever the machine has for a drive, this one has a bad day.
    let (says, smartctl) = (lab.dir().join("smart.json"), lab.dir().join("smartctl"));
    let say = |pending: u32, passed: bool| {
        let said = serde_json::json!({
            "smart_status": { "passed": passed },
            "temperature": { "current": 41 },
            "ata_smart_attributes": { "table": [{
                "id": 197, "name": "Current_Pending_Sector", "when_failed": "", "raw": { "value": pending },
                "flags": { "prefailure": false },
            }] },
        });
        std::fs::write(&says, said.to_string()).unwrap();
    };
    // It is asked what it may be asked, of the right device; its status is that of a drive with trouble.
    let script = format!(
        "#!/bin/sh\n[ \"$*\" = \"--json --all --nocheck=standby {}\" ] || exit 1\ncat {}\nexit 64\n",
        disk.device().display(),
        says.display()
    );
    std::fs::write(&smartctl, script).unwrap();
    std::fs::set_permissions(&smartctl, std::fs::Permissions::from_mode(0o700)).unwrap();
    say(0, true);
    let config = lab.dir().join("n2/node.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace(&file.display().to_string(), &disk.device().display().to_string());
    std::fs::write(&config, format!("smartctl = {smartctl:?}\n{text}")).unwrap();
    let netns = lab.status()["netns"].as_str().unwrap().replace("-sw", "-n2");
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{netns}")).arg(etherpool().get_program());
    command.args(["node", "--config"]).arg(&config);
    let node = OwnNode(quiet(command, &lab.dir().join("log/own-node.log")).spawn().unwrap());
    lab.wait_clean();
    let health = || {
        let disks = lab.json(&["disk", "list"]);
        let disk = disks.as_array().unwrap().iter().find(|disk| disk["name"] == "e2.0").unwrap();
        disk["health"].clone()
    };
    wait_until("the drive says that it is well", || health()["state"] == "good");
    assert_eq!(health()["temperature_celsius"], 41);
    assert!(!told.raised().iter().any(|kind| kind.starts_with("disk-")), "{:?}", told.raised());

    let ask_again = || {
        let pid = node.0.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    };
    say(8, true);
    ask_again();
    wait_until("it is told", || told.webhook.has("raised", "disk-ageing"));
    let text = lab.show(&["pool", "show", "cluster"]);
    assert!(text.contains("The drive of e2.0 is ageing: 8 sectors that it can't read"), "{text}");
    let (_, text) = lab.said(&["alert", "list"]);
    assert!(text.contains("pool evacuate cluster e2.0"), "{text}");
    let page = told.page();
    for series in [
        "etherpool_pool_disk_health{pool=\"cluster\",disk=\"e2.0\",node=\"n2\",health=\"ageing\"} 1",
        "etherpool_pool_disk_unreadable_sectors{pool=\"cluster\",disk=\"e2.0\",node=\"n2\"} 8",
        "etherpool_pool_disk_temperature_celsius{pool=\"cluster\",disk=\"e2.0\",node=\"n2\"} 41",
    ] {
        assert!(page.contains(series), "{series} isn't in {page}");
    }

    say(8, false);
    ask_again();
    wait_until("that it is worse is told, too", || told.webhook.has("raised", "disk-failing"));
    wait_until("it is history", || {
        told.knows(|entry| {
            entry["event"] == "disk-health"
                && entry["text"].as_str().is_some_and(|text| text.contains("is failing"))
        })
    });
    // Pulled, nothing is known of it; what is exported next isn't described by it.
    drop(node);
    wait_until("nobody knows how it is", || {
        let disk =
            lab.pool()["disks"].as_array().unwrap().iter().find(|d| d["name"] == "e2.0").cloned();
        disk.is_some_and(|disk| disk["state"] != "usable" && disk["health"].is_null())
    });
}
