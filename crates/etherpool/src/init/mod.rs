//! The first process of a node that was booted from the network: `etherpool init`, which the kernel starts as `/init` of
//! the image that `etherpool boot image build` made.
//!
//! It loads drivers as devices appear, switches every wired interface on and asks for addresses, says hello to the boot
//! server until that says who the node is, and keeps `etherpool node` running. Everything is in memory: **nothing is
//! mounted from anywhere, nothing but that node process ever opens a disk**, and what is gone (the boot server, a lease) takes nothing with
//! it. What is decided is in `plan`, `course`, `patience`,
//! `hello` and `options`, which are tested; the rest does it.

mod button;
mod course;
mod drivers;
mod hello;
mod identity;
mod lease;
mod log;
mod machine;
mod memory;
mod network;
mod node;
mod options;
mod patience;
mod plan;
mod start;
mod tpm;
mod watchdog;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use control::exit::Exit;
use os::machine::End;

#[cfg(test)]
pub use memory::Memory;

/// What the console says when the node serves.
pub const READY: &str = "the node is ready";
/// What it says of its memory a little later.
pub const AT_REST: &str = "memory at rest:";

/// How long a machine whose first process failed shows why, before it starts anew.
const FAILED_PAUSE: Duration = Duration::from_secs(10);

/// The first process of a node's image.
#[derive(Args, Debug)]
pub struct InitArgs {}

/// Runs as what the program is called by: `init`, as the kernel starts it, or `modprobe`, as the kernel asks it for a
/// module.
pub fn called_as_init() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    let called = words.next()?;
    match Path::new(&called).file_name()?.to_str()? {
        "init" if std::process::id() == 1 => Some(first_process()),
        "modprobe" => Some(modprobe(words)),
        _ => None,
    }
}

/// Runs as `etherpool init`.
pub fn run(_: InitArgs) -> ExitCode {
    if std::process::id() == 1 {
        return first_process();
    }
    eprintln!("etherpool: init is the first process of a node's image, and this machine has one");
    ExitCode::from(Exit::Usage.code())
}

/// `modprobe [-q] [--] NAME`.
fn modprobe(words: impl Iterator<Item = OsString>) -> ExitCode {
    let name = words.last().and_then(|name| name.into_string().ok());
    let loaded = name.is_some_and(|name| drivers::load_by_name(&name));
    if loaded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Never returns: the kernel would take that for its own end.
fn first_process() -> ExitCode {
    // On a thread of its own, whose panic isn't the end of the process.
    let lived = std::thread::Builder::new().name("machine".to_owned()).spawn(machine::live);
    let how = match lived.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(how))) => how,
        failed => {
            let why = match failed {
                Ok(Ok(Err(error))) => format!("{error:#}"),
                Ok(_) => "it ended by a fault of its own".to_owned(),
                Err(error) => error.to_string(),
            };
            say(&format!("the first process fails, and the machine starts anew: {why}"));
            crate::logging::finish();
            machine::write_out_in_time();
            std::thread::sleep(FAILED_PAUSE);
            End::Restart
        }
    };
    loop {
        if let Err(error) = os::machine::end_machine(how) {
            say(&format!("the machine can't be ended: {error}"));
        }
        std::thread::sleep(FAILED_PAUSE);
    }
}

/// For the console, also before and after there is a log: standard error is the one or the other.
fn say(text: &str) {
    // A console that isn't there leaves nothing to do.
    let _ = writeln!(std::io::stderr(), "etherpool: ERROR {text}");
}
