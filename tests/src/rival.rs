//! A second supervisor on a lab's network.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::lab::STOP_VARIABLE;
use crate::{Lab, etherpool, key_of, text_of, wait_until};

/// A second supervisor on the lab's network; it ends with the test.
pub struct Rival {
    child: Child,
    socket: PathBuf,
    mounts: tempfile::TempDir,
}

impl Rival {
    /// Starts it; it has its own identity, state and addresses. Where keys are demanded the lab's pool, if there is one, has
    /// let it in.
    pub fn start(lab: &Lab) -> Rival {
        Rival::begin(lab, None, None).admitted(lab)
    }

    fn admitted(self, lab: &Lab) -> Rival {
        if lab.security() != "none" && lab.cli(&["pool", "list", "--json"]).trim() != "[]" {
            let key = key_of(&lab.dir().join("rival/state"));
            lab.cli(&["pool", "admit", "cluster", &key, "--yes"]);
        }
        self
    }

    /// The same, but nobody has let it in.
    pub fn start_unknown(lab: &Lab) -> Rival {
        Rival::begin(lab, None, None)
    }

    /// One that says to be `owner`, as anybody can who has read that id off a disk.
    pub fn start_as(lab: &Lab, owner: Option<&str>) -> Rival {
        Rival::begin(lab, owner, None)
    }

    /// One whose engine stands still at a named place (docs/engine.md, 21).
    pub fn start_stopping_at(lab: &Lab, place: &str) -> Rival {
        Rival::begin(lab, None, Some(place)).admitted(lab)
    }

    fn begin(lab: &Lab, owner: Option<&str>, stop_at: Option<&str>) -> Rival {
        let netns = lab.plug_in("sup1").netns.unwrap_or_default();
        let dir = lab.dir().join("rival");
        std::fs::create_dir_all(&dir).unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        // Outside of all that the lab's own supervisor mounts on.
        let mounts = tempfile::Builder::new().prefix("etherpool-rival").tempdir().unwrap();
        let config = format!(
            "state-dir = {:?}\nrun-dir = {:?}\ndevice-dir = {:?}\nsecurity = {:?}\n\
             [[interfaces]]\nname = \"sup1\"\nnetns = {netns:?}\n\
             [ftp]\nlisten = \"127.0.0.1:{}\"\n[mount]\nroots = [{:?}]\n",
            path("state"),
            path("run"),
            path("dev"),
            lab.security(),
            lab.ftp_port() + 8000,
            mounts.path(),
        );
        if let Some(owner) = owner {
            std::fs::create_dir_all(dir.join("state")).unwrap();
            std::fs::write(dir.join("state/owner-id"), owner).unwrap();
        }
        let file = dir.join("supervisor.toml");
        std::fs::write(&file, config).unwrap();
        let child = spawn(&dir, stop_at);
        let rival = Rival { child, socket: dir.join("run/api.sock"), mounts };
        wait_until("the rival answers", || rival.cli(&["pool", "list", "--json"]).0);
        rival
    }

    /// Ends it, and starts it again with this line before its configuration.
    pub fn restart_with(&mut self, lab: &Lab, setting: &str) {
        self.stop();
        let dir = lab.dir().join("rival");
        let file = dir.join("supervisor.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{setting}\n{text}")).unwrap();
        self.child = spawn(&dir, None);
        wait_until("the rival answers", || self.cli(&["pool", "list", "--json"]).0);
    }

    fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }

    /// SIGKILL, of it and so of its children.
    pub fn kill(mut self) {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let is_there = |pid: &str| std::path::Path::new("/proc").join(pid).exists();
        wait_until("the rival's children are gone", || {
            !children.split(' ').any(|pid| !pid.is_empty() && is_there(pid))
        });
    }

    /// What it and its children logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.socket.with_file_name("../log")).unwrap_or_default()
    }

    /// `etherpool ARGS` against it, to be run.
    pub fn cli_command(&self, args: &[&str]) -> Command {
        let mut command = etherpool();
        command.arg("--socket").arg(&self.socket).args(args);
        command
    }

    /// The directory below which it mounts; removed with it.
    pub fn mounts(&self) -> &Path {
        self.mounts.path()
    }

    /// `etherpool ARGS` against it: whether it succeeded, and what it said.
    pub fn cli(&self, args: &[&str]) -> (bool, String) {
        let (code, text) = self.code(args);
        (code == 0, text)
    }

    /// What it said to a command that works.
    pub fn must(&self, args: &[&str]) -> String {
        let (done, text) = self.cli(args);
        assert!(done, "{args:?}: {text}");
        text
    }

    /// The same as [`Rival::cli`] with the exit code.
    pub fn code(&self, args: &[&str]) -> (i32, String) {
        let output = self.cli_command(args).stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap_or(-1), text_of(&output))
    }

    /// The name of the state of the lab's pool, as it sees it.
    pub fn pool_state(&self) -> String {
        let (_, text) = self.cli(&["pool", "list", "--json"]);
        let Ok(answer) = serde_json::from_str::<Value>(&text) else { return text };
        let items = answer.as_array().or_else(|| answer["pools"].as_array()).cloned();
        items
            .unwrap_or_default()
            .iter()
            .find(|pool| pool["name"] == "cluster")
            .map_or("absent".into(), |pool| pool["state"].as_str().unwrap_or("?").to_owned())
    }
}

fn spawn(dir: &Path, stop_at: Option<&str>) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    etherpool()
        .args(["supervisor", "--config"])
        .arg(dir.join("supervisor.toml"))
        .envs(stop_at.map(|place| (STOP_VARIABLE, place)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Rival {
    fn drop(&mut self) {
        // One that was killed is nobody by now, or another's.
        if let Ok(None) = self.child.try_wait() {
            self.stop();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the rival\n{}", self.log());
        }
    }
}
