//! `etherpool boot image verify`: boots an image in an emulated machine, with empty disks and an Ethernet on which nobody
//! is, and says how long its node took and how much memory it needs.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use control::exit::Exit;
use image::kept::{DEFAULT_NAME, Kept};
use serde::Serialize;
use terminal::Slow;
use tokio::signal::unix::{SignalKind, signal};

use super::boot_image::told;
use super::{Failure, output};
use crate::boot::state::DIRECTORY;
use crate::init::{AT_REST, READY};

const QEMU: &str = "qemu-system-x86_64";
/// Blank ones, of which a node that nobody has accepted exports none.
const DISKS: usize = 2;
const DISK_BYTES: u64 = 64 << 20;
/// Of the console, for who has to find out what went wrong.
const LAST_LINES: usize = 40;
/// Longer ones are cut in pieces: a guest may write what it likes.
const LINE_BYTES_MAX: u64 = 4096;
/// Lines that nobody has read yet; then the guest waits.
const LINES_WAITING: usize = 1024;
/// How often is looked whether somebody wants the machine to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time for QEMU to be there, and for the machine to switch itself off.
const MONITOR_LIMIT: Duration = Duration::from_secs(10);
const OFF_LIMIT: Duration = Duration::from_secs(60);
/// Machines with less than twice that are to be nodes, too.
const MEMORY_MIB_MAX: u64 = 300;
/// Of the monitor, without an end of a line.
const MONITOR_BYTES_MAX: usize = 1 << 20;

/// Arguments of `boot image verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// What the image is called
    #[arg(value_name = "NAME", default_value = DEFAULT_NAME)]
    name: String,

    /// Where the boot server keeps what it serves
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    state_dir: PathBuf,

    /// Memory of the emulated machine, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(128..=65_536))]
    memory: u32,

    /// How long it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    within: u64,

    /// Emulate the processor, also where the machine could lend its own (KVM)
    #[arg(long)]
    emulate: bool,
}

/// What was seen.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Verified {
    /// From switching it on to its node serving, in seconds of ours.
    ready_seconds: u64,
    /// What of its memory it needs ten seconds later, as it says.
    memory_mib: u64,
    /// Whether it switched itself off when its button was pressed.
    switched_off: bool,
}

/// Runs it.
pub fn verify(args: &VerifyArgs, json: bool) -> Result<Exit, Failure> {
    let kept = Kept::of(&args.state_dir, &args.name).map_err(told)?;
    if !kept.kernel().is_file() || !kept.initramfs().is_file() {
        return Err(Failure::not_found(
            format!("there is no image {} in {}", args.name, args.state_dir.display()),
            "etherpool boot image build makes one",
        ));
    }
    let seen = boot(args, &kept)?;
    output::show(json, &seen, || {
        let off = match seen.switched_off {
            true => "it switched itself off by its button",
            false => "it did NOT switch itself off by its button",
        };
        let Verified { ready_seconds, memory_mib, .. } = seen;
        let more = if memory_mib < MEMORY_MIB_MAX { "" } else { " (it should be less than 300)" };
        format!(
            "The node is ready after {ready_seconds} s; memory at rest: {memory_mib} MiB{more}; {off}\n"
        )
    })?;
    Ok(Exit::of_health(seen.switched_off && seen.memory_mib < MEMORY_MIB_MAX))
}

/// An emulated machine; ended when it is dropped.
struct Emulated {
    qemu: Child,
    heard: Receiver<Heard>,
    /// The last lines of its console.
    last: VecDeque<String>,
    monitor: PathBuf,
}

/// What is heard while it runs.
enum Heard {
    /// Of its console, or of QEMU.
    Line(String),
    /// This program is to end, and the machine with it.
    Stop,
}

impl Drop for Emulated {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn boot(args: &VerifyArgs, kept: &Kept) -> Result<Verified, Failure> {
    let dir = tempfile::Builder::new().prefix("etherpool-verify").tempdir();
    let dir = dir.context("a temporary directory")?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs(args.within);
    let mut machine = Emulated::start(args, kept, dir.path())?;
    let waiting = Slow::begin(format!("the image {} boots", args.name), false);
    machine.wait_for(READY, end)?;
    let ready_seconds = begun.elapsed().as_secs();
    let line = machine.wait_for(AT_REST, end)?;
    drop(waiting);
    let memory_mib = memory_mib(&line).with_context(|| format!("no size is in '{line}'"))?;
    let switched_off = machine.press_button().context("QEMU's monitor")?;
    Ok(Verified { ready_seconds, memory_mib, switched_off })
}

/// What is said in such a line: `memory at rest: 153 MiB of 488 MiB; ...`.
fn memory_mib(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(AT_REST)?;
    rest.split_once(" MiB")?.0.trim().parse().ok()
}

impl Emulated {
    fn start(args: &VerifyArgs, kept: &Kept, dir: &Path) -> Result<Emulated, Failure> {
        let monitor = dir.join("monitor");
        // A device that is there may be refused, or be none: QEMU tries, and emulates.
        let accelerators: &[&str] = if args.emulate { &["tcg"] } else { &["kvm", "tcg"] };
        let mut command = Command::new(QEMU);
        command.args(["-M", "q35", "-smp", "2", "-nodefaults", "-display", "none", "-no-reboot"]);
        for accelerator in accelerators {
            command.args(["-accel", accelerator]);
        }
        command.args(["-cpu", if args.emulate { "qemu64" } else { "max" }]);
        command.args(["-m", &args.memory.to_string(), "-serial", "stdio"]);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", monitor.display()));
        command.args(["-netdev", "hubport,id=n0,hubid=0"]);
        command.args(["-device", "virtio-net-pci,netdev=n0,romfile="]);
        command.args(["-device", "i6300esb", "-device", "virtio-rng-pci"]);
        for number in 0..DISKS {
            let disk = dir.join(format!("disk{number}"));
            let made = std::fs::File::create(&disk).and_then(|file| file.set_len(DISK_BYTES));
            made.with_context(|| format!("cannot make {}", disk.display()))?;
            let drive = format!("file={},format=raw,if=virtio,cache=unsafe", disk.display());
            command.args(["-drive", &drive]);
        }
        command.arg("-kernel").arg(kept.kernel()).arg("-initrd").arg(kept.initramfs());
        // An emulated machine's timer may come too late where much else runs, which a kernel takes for a broken one.
        command
            .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check etherpool.boot=none"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut qemu = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::not_found(
                format!("there is no {QEMU} here, in which images are booted"),
                "install QEMU (Debian: apt install qemu-system-x86)",
            ),
            _ => anyhow::anyhow!("{QEMU} can't be started: {error}").into(),
        })?;
        let (sender, heard) = sync_channel(LINES_WAITING);
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            qemu.stdout.take().map(|output| Box::new(output) as _),
            qemu.stderr.take().map(|output| Box::new(output) as _),
        ];
        let machine = Emulated { qemu, heard, last: VecDeque::new(), monitor };
        for output in outputs.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || read_lines(BufReader::new(output), &sender));
        }
        hear_signals(sender).context("signals")?;
        Ok(machine)
    }

    /// The line of the console with that in it.
    fn wait_for(&mut self, text: &str, end: Instant) -> anyhow::Result<String> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let why = match self.heard.recv_timeout(left.min(LOOK_EVERY)) {
                Ok(Heard::Line(line)) if line.contains(text) => return Ok(line),
                Ok(Heard::Line(line)) => {
                    keep(&mut self.last, line);
                    continue;
                }
                Ok(Heard::Stop) => bail!("told to end, and the machine with it"),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => "it takes too long",
                // Whoever listens for signals holds the channel open; all lines were heard before.
                Err(RecvTimeoutError::Timeout) if self.qemu.try_wait()?.is_none() => continue,
                Err(_) => "the machine ended",
            };
            let last: Vec<&str> = self.last.iter().map(String::as_str).collect();
            let last = last.join("\n");
            bail!("the image doesn't come to \"{text}\": {why}. Its console:\n{last}");
        }
    }

    /// Presses the power button, and says whether the machine switched itself off by that.
    fn press_button(&mut self) -> anyhow::Result<bool> {
        let mut monitor = UnixStream::connect(&self.monitor)?;
        monitor.set_write_timeout(Some(MONITOR_LIMIT))?;
        monitor.set_read_timeout(Some(LOOK_EVERY))?;
        for command in ["qmp_capabilities", "system_powerdown"] {
            writeln!(monitor, "{{\"execute\":\"{command}\"}}")?;
        }
        let (end, mut said) = (Instant::now() + OFF_LIMIT, Vec::new());
        let mut bytes = [0; 4096];
        while Instant::now() < end {
            // The guest waits for nobody who would hear its last lines.
            while let Ok(heard) = self.heard.try_recv() {
                match heard {
                    Heard::Line(line) => keep(&mut self.last, line),
                    Heard::Stop => bail!("told to end, and the machine with it"),
                }
            }
            match monitor.read(&mut bytes) {
                // It says why before it ends.
                Ok(0) => return Ok(false),
                Ok(len) => said.extend(&bytes[..len]),
                Err(error) if is_silence(&error) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            while let Some(at) = said.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = said.drain(..=at).collect();
                if let Some(is_off) = switched_off(&line) {
                    return Ok(is_off);
                }
            }
            anyhow::ensure!(said.len() <= MONITOR_BYTES_MAX, "a line without an end");
        }
        Ok(false)
    }
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Whether a line of QEMU's monitor says that the machine ended, and then whether it switched itself off: a crash or a
/// watchdog resets it, which ends QEMU just the same (qapi/run-state.json).
fn switched_off(line: &[u8]) -> Option<bool> {
    let event: serde_json::Value = serde_json::from_slice(line).ok()?;
    (event["event"] == "SHUTDOWN").then(|| event["data"]["reason"] == "guest-shutdown")
}

fn keep(last: &mut VecDeque<String>, line: String) {
    if last.len() == LAST_LINES {
        last.pop_front();
    }
    last.push_back(line);
}

fn read_lines(mut output: impl BufRead, to: &SyncSender<Heard>) {
    let mut line = Vec::new();
    loop {
        line.clear();
        match output.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if to.send(Heard::Line(text)).is_err() {
            return;
        }
    }
}

/// A signal ends the machine and its directory before it ends this program.
fn hear_signals(to: SyncSender<Heard>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let inside = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(inside);
    let listen = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        // Nobody listens any more when the machine has ended.
        let _ = to.send(Heard::Stop);
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::init::Memory;

    #[test]
    fn the_memory_is_what_a_node_says_of_it() {
        let memory = Memory { total_kib: 499_712, used_kib: 156_712 };
        let line = format!("INFO {AT_REST} {memory}; 2 exports online");
        assert_eq!(memory_mib(&line), Some(153));
        assert_eq!(memory_mib("INFO memory at rest: x MiB"), None);
    }

    #[test]
    fn only_who_switches_himself_off_is_off() {
        let event = |reason: &str| {
            let guest = reason.starts_with("guest");
            format!(
                "{{\"event\":\"SHUTDOWN\",\"data\":{{\"guest\":{guest},\"reason\":\"{reason}\"}}}}\r\n"
            )
        };
        assert_eq!(switched_off(event("guest-shutdown").as_bytes()), Some(true));
        for reason in ["guest-reset", "guest-panic", "host-signal", "subsystem-reset"] {
            assert_eq!(switched_off(event(reason).as_bytes()), Some(false), "{reason}");
        }
        for line in ["{\"return\": {}}", "{\"event\":\"POWERDOWN\"}", "", "{", "[]"] {
            assert_eq!(switched_off(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn a_guest_that_writes_without_end_is_heard_in_pieces() {
        let (sender, heard) = sync_channel(LINES_WAITING);
        let text = format!("{}\nend\n", "x".repeat(3 * LINE_BYTES_MAX as usize));
        read_lines(text.as_bytes(), &sender);
        drop(sender);
        let mut last = VecDeque::new();
        let mut count = 0;
        for one in heard {
            let Heard::Line(line) = one else { panic!("nobody sent a signal") };
            assert!(line.len() <= LINE_BYTES_MAX as usize);
            (0..LAST_LINES).for_each(|_| keep(&mut last, line.clone()));
            count += 1;
        }
        assert_eq!((count, last.len(), last.back().unwrap().as_str()), (5, LAST_LINES, "end"));
    }
}
