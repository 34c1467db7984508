//! Who may look through the API's socket, and who may do something.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use blackbox::{etherpool, quiet, require_root, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// Of no group that anybody has heard of, and of that of readers.
const STRANGER: [&str; 3] = ["--reuid=65533", "--regid=65533", "--clear-groups"];
const READER: [&str; 3] = ["--reuid=65533", "--regid=65533", "--groups=65534"];

struct Supervisor {
    child: Child,
    dir: tempfile::TempDir,
}

impl Supervisor {
    /// Without interfaces, and with this group of readers.
    fn start(readers: &str) -> Supervisor {
        require_root();
        let dir = tempfile::Builder::new().prefix("etherpool-readers").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        // Wherever the program is, it may be where nobody else looks.
        std::fs::copy(etherpool().get_program(), dir.path().join("etherpool")).unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "state-dir = {:?}\nrun-dir = {:?}\ndevice-dir = {:?}\nreaders = {readers:?}\n\
             [ftp]\nlisten = '127.0.0.1:{}'\n",
            at("state"),
            at("run"),
            at("dev"),
            24000 + std::process::id() % 500,
        );
        std::fs::write(dir.path().join("supervisor.toml"), config).unwrap();
        let mut command = etherpool();
        command.args(["supervisor", "--config"]).arg(dir.path().join("supervisor.toml"));
        let child = quiet(command, &dir.path().join("log")).spawn().unwrap();
        let supervisor = Supervisor { child, dir };
        wait_until("the supervisor answers", || supervisor.as_user(&[], &["pool", "list"]).0 == 0);
        supervisor
    }

    fn socket(&self) -> String {
        self.dir.path().join("run/api.sock").display().to_string()
    }

    /// The exit code of a command by such a user, root without any, and what it said.
    fn as_user(&self, user: &[&str], args: &[&str]) -> (i32, String) {
        let program = self.dir.path().join("etherpool");
        let mut command = match user.is_empty() {
            true => Command::new(&program),
            false => {
                let mut command = Command::new("setpriv");
                command.args(user).arg(&program);
                command
            }
        };
        let command = command.args(["--socket", &self.socket()]).args(args).stdin(Stdio::null());
        let output = command.current_dir(Path::new("/")).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

#[test]
fn readers_look_and_root_administers() {
    let supervisor = Supervisor::start("nogroup");
    let mode = std::fs::metadata(supervisor.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    for args in [&["pool", "list"][..], &["disk", "list"], &["alert", "list"]] {
        let (code, text) = supervisor.as_user(&READER, args);
        assert_eq!(code, 0, "{args:?}: {text}");
    }
    let (code, text) = supervisor.as_user(&READER, &["alert", "test"]);
    assert!(code == 4 && text.contains("change nothing"), "{code}: {text}");
    let (code, text) = supervisor.as_user(&STRANGER, &["pool", "list"]);
    assert!(code != 0 && text.contains("no permission to use"), "{text}");
    // What was refused and what was done are known, also where no pool has a history.
    let (code, text) = supervisor.as_user(&[], &["alert", "test"]);
    assert_eq!(code, 0, "{text}");
    wait_until("both are in the log", || {
        let log = supervisor.log();
        log.lines().any(|line| line.contains("refused") && line.contains("uid 65533"))
            && log.lines().any(|line| line.contains("who=\"root\"") && line.contains("alert test"))
    });
}

#[test]
fn without_a_group_only_root_may() {
    for readers in ["", "no-such-group-of-etherpool"] {
        let supervisor = Supervisor::start(readers);
        let mode = std::fs::metadata(supervisor.socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (code, text) = supervisor.as_user(&READER, &["pool", "list"]);
        assert!(code != 0 && text.contains("no permission to use"), "{text}");
    }
}
