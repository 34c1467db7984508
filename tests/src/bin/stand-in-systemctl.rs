//! What machines that are namespaces have for `systemctl`, as systemd can't be there twice: it starts what our units say
//! and waits until that is ready, starts it again when it ends, and stops it. What units confine isn't done.
//!
//! `UNITS` is the directory with our units.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

const STATE: &str = "/run/stand-in";
/// What is started with the machine.
const ENABLED: &str = "/etc/stand-in";
const OWN_UNITS: &str = "/etc/systemd/system";
/// The program's code for wrong arguments or a wrong configuration: a unit isn't started again then.
const NOT_AGAIN: i32 = 2;

fn main() -> ExitCode {
    fs::create_dir_all(STATE).unwrap();
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--now").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["enable", unit] => {
            fs::create_dir_all(ENABLED).unwrap();
            fs::write(Path::new(ENABLED).join(unit), "").unwrap();
            start(unit)
        }
        ["start", unit] => start(unit),
        ["boot"] => boot(),
        ["restart", unit] => stop(unit) && start(unit),
        ["disable", unit] => {
            let _ = fs::remove_file(Path::new(ENABLED).join(unit));
            stop(unit)
        }
        ["stop", unit] => stop(unit),
        ["reload", unit] => signal(unit, "-HUP"),
        ["is-active", unit] => pid(unit).is_some(),
        ["watch", unit] => watch(unit),
        _ => panic!("the stand-in for systemctl knows no {words:?}"),
    };
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Starts what is enabled, and waits for none of it: all of it outlives this process.
#[allow(clippy::zombie_processes)]
fn boot() -> bool {
    for unit in fs::read_dir(ENABLED).into_iter().flatten().flatten() {
        spawn_watcher(unit.file_name().to_str().unwrap());
    }
    true
}

fn of(unit: &str, what: &str) -> PathBuf {
    Path::new(STATE).join(format!("{}.{what}", unit.trim_end_matches(".service")))
}

fn pid(unit: &str) -> Option<String> {
    fs::read_to_string(of(unit, "pid")).ok()
}

fn signal(unit: &str, signal: &str) -> bool {
    let pid = pid(unit).expect("it runs");
    Command::new("kill").args([signal, &pid]).status().unwrap().success()
}

fn wait(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn spawn_watcher(unit: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["watch", unit]).process_group(0);
    let log = fs::File::options().create(true).append(true).open(of(unit, "log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}

fn start(unit: &str) -> bool {
    let _ = fs::remove_file(of(unit, "stop"));
    let mut watcher = spawn_watcher(unit);
    wait(|| of(unit, "ready").exists() || watcher.try_wait().unwrap().is_some());
    if of(unit, "ready").exists() {
        return true;
    }
    eprint!("{}", fs::read_to_string(of(unit, "log")).unwrap());
    false
}

fn stop(unit: &str) -> bool {
    fs::write(of(unit, "stop"), "").unwrap();
    if pid(unit).is_some() {
        signal(unit, "-TERM");
        wait(|| pid(unit).is_none());
    }
    true
}

/// Has the unit's program run until it is to stop.
fn watch(unit: &str) -> bool {
    loop {
        let socket = of(unit, "notify");
        let _ = fs::remove_file(&socket);
        let news = UnixDatagram::bind(&socket).unwrap();
        news.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let text = text_of(unit);
        let mut program = program(&text).env("NOTIFY_SOCKET", &socket).spawn().unwrap();
        fs::write(of(unit, "pid"), program.id().to_string()).unwrap();
        if !text.contains("Type=notify") {
            fs::write(of(unit, "ready"), "").unwrap();
        }
        let ended = loop {
            let mut text = [0; 4096];
            let len = news.recv(&mut text).unwrap_or(0);
            if text[..len].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                fs::write(of(unit, "ready"), "").unwrap();
            }
            if let Some(ended) = program.try_wait().unwrap() {
                break ended;
            }
        };
        let _ = fs::remove_file(of(unit, "ready"));
        fs::remove_file(of(unit, "pid")).unwrap();
        if of(unit, "stop").exists() || ended.code() == Some(NOT_AGAIN) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A unit of ours, or of the machine's own.
fn text_of(unit: &str) -> String {
    let name = format!("{}.service", unit.trim_end_matches(".service"));
    let units = std::env::var_os("UNITS").expect("UNITS says where the units are");
    let found =
        [Path::new(&units), Path::new(OWN_UNITS)].map(|dir| fs::read_to_string(dir.join(&name)));
    found.into_iter().find_map(Result::ok).expect("the unit")
}

/// What a unit starts, as a shell that has read its environment file understands it.
fn program(text: &str) -> Command {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let file = value("EnvironmentFile=-").unwrap_or("/dev/null");
    // Ours is elsewhere on these machines.
    let start = value("ExecStart=").expect("it starts a program").trim_start_matches("/usr/bin/");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("[ ! -e {file} ] || . {file}; exec {start}"));
    command
}
