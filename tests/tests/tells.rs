//! It tells: what happened, who had what done, and what is wrong, to people who didn't ask.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use blackbox::{Lab, LabOptions, wait_until};
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
        // Free a moment ago, and nobody else in this test wants one.
        let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let own = format!(
            "metrics = \"{metrics}\"\n[alerts]\nmail = {{ enabled = false }}\nignore = [\"pool-space\"]\n\
             webhook = [{{ url = \"http://{}/hook\" }}]\ncommand = [{{ argv = [{program:?}, {file:?}] }}]\n",
            webhook.address
        );
        std::fs::write(lab.dir().join("supervisor/own.toml"), own).unwrap();
        lab.lab(&["kill", "supervisor"]);
        lab.lab(&["start", "supervisor"]);
        lab.wait_served();
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

    lab.lab(&["kill", "n1"]);
    wait_until("it is told that the disk is gone", || {
        told.webhook.has("raised", "disk-gone") && told.webhook.has("raised", "volume-redundancy")
    });
    assert!(told.raised().contains(&"disk-gone".to_owned()));
    let (code, text) = lab.said(&["alert", "list"]);
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("pool replace cluster e1.0 NEW"), "{text}");
    assert!(lab.show(&["status"]).contains("etherpool alert list"));
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
    wait_until("it is told that this is over", || told.webhook.has("cleared", "disk-gone"));
    let raised = told.webhook.messages.lock().unwrap().clone();
    let raised = raised.iter().filter(|m| m["kind"] == "disk-gone" && m["step"] == "raised");
    assert_eq!(raised.count(), 1, "once, also over a restart");
    let messages = std::fs::read_to_string(&told.file).unwrap();
    assert!(messages.contains("\"step\":\"cleared\""), "{messages}");

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
