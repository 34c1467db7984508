//! One owner: who lost a pool can't use it any more, also after being switched on again.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use blackbox::{Lab, LabOptions, etherpool, wait_until};
use serde_json::Value;

/// A second supervisor on the lab's network; it ends with the test.
struct Rival {
    child: Child,
    socket: PathBuf,
}

impl Rival {
    fn start(lab: &Lab) -> Rival {
        let netns = lab.status()["netns"].as_str().unwrap().to_owned();
        for line in [
            "link add sup1 mtu 9000 type veth peer name psup1 mtu 9000",
            "link set psup1 master br0 up",
            "link set sup1 up",
        ] {
            let args = line.split(' ');
            let status = Command::new("ip").args(["-n", &netns]).args(args).status().unwrap();
            assert!(status.success(), "ip {line}");
        }
        let dir = lab.dir().join("rival");
        std::fs::create_dir_all(&dir).unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "state-dir = {:?}\nrun-dir = {:?}\ndevice-dir = {:?}\n\
             [[interfaces]]\nname = \"sup1\"\nnetns = {netns:?}\n\
             [ftp]\nlisten = \"127.0.0.1:{}\"\n",
            path("state"),
            path("run"),
            path("dev"),
            lab.ftp_port() + 8000,
        );
        let file = dir.join("supervisor.toml");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let child = etherpool()
            .args(["supervisor", "--config", file.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let rival = Rival { child, socket: dir.join("run/api.sock") };
        wait_until("the rival answers", || rival.cli(&["pool", "list", "--json"]).0);
        rival
    }

    fn cli(&self, args: &[&str]) -> (bool, String) {
        let output = etherpool().arg("--socket").arg(&self.socket).args(args).output().unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.success(), text)
    }

    fn pool_state(&self) -> String {
        let (_, text) = self.cli(&["pool", "list", "--json"]);
        let Ok(answer) = serde_json::from_str::<Value>(&text) else { return text };
        let items = answer.as_array().or_else(|| answer["pools"].as_array()).cloned();
        items
            .unwrap_or_default()
            .iter()
            .find(|pool| pool["name"] == "cluster")
            .map_or("absent".into(), |pool| pool["state"]["is"].as_str().unwrap_or("?").to_owned())
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.socket.with_file_name("../log");
            eprintln!("--- log of the rival\n{}", std::fs::read_to_string(log).unwrap_or_default());
        }
    }
}

/// Main job, 10.
#[test]
fn a_deposed_supervisor_can_do_nothing_any_more() {
    let lab = Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() });
    std::fs::write(lab.mount().join("kept"), "kept").unwrap();
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();

    let rival = Rival::start(&lab);
    wait_until("the rival sees whose pool it is", || rival.pool_state() == "foreign");
    let (done, text) = rival.cli(&["pool", "import", "cluster", "--yes"]);
    assert!(done, "{text}");
    wait_until("the rival has the pool", || rival.pool_state() == "online");
    wait_until("the former owner knows that it lost it", || {
        matches!(lab.pool_state().as_str(), "fenced" | "foreign")
    });
    // It can't write, and says why.
    let output =
        lab.cli_output(&["volume", "create", "cluster/x", "--size", "16M", "--layout", "mirror:2"]);
    assert!(!output.status.success());
    println!("{}", String::from_utf8_lossy(&output.stderr));
    wait_until("the former owner serves nothing", || lab.status()["ftp"].is_null());

    // Switched off and on again: it doesn't open what is another's.
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    wait_until("it sees whose pool it is", || lab.pool_state() == "foreign");
    assert_eq!(rival.pool_state(), "online", "the new owner isn't disturbed");
    let (done, text) = rival.cli(&["volume", "verify", "cluster/hyperspace"]);
    assert!(done, "{text}");

    // Back by an explicit import; everything is there.
    drop(rival);
    lab.cli(&["pool", "import", "cluster", "--yes"]);
    lab.wait_served();
    assert_eq!(std::fs::read(lab.mount().join("kept")).unwrap(), b"kept");
}
