//! `etherpool boot image verify`: boots an image in an emulated machine, with empty disks and an Ethernet on which nobody
//! is, and says how long its node took and how much memory it needs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use control::exit::Exit;
use image::kept::{DEFAULT_NAME, Kept};
use serde::Serialize;
use terminal::Slow;

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
/// Time for QEMU to be there, and for the machine to switch itself off.
const MONITOR_LIMIT: Duration = Duration::from_secs(10);
const OFF_LIMIT: Duration = Duration::from_secs(60);

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
    /// What it says of its memory ten seconds later.
    memory: String,
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
        format!(
            "The node is ready after {} s; memory at rest: {}; {off}\n",
            seen.ready_seconds, seen.memory
        )
    })?;
    Ok(Exit::of_health(seen.switched_off))
}

/// An emulated machine; ended when it is dropped.
struct Emulated {
    qemu: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
    monitor: PathBuf,
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
    let memory = line.split_once(AT_REST).map_or("", |(_, rest)| rest);
    let memory = memory.split(';').next().unwrap_or_default().trim().to_owned();
    let switched_off = machine.press_button().context("QEMU's monitor")?;
    Ok(Verified { ready_seconds, memory, switched_off })
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
        command.arg("-monitor").arg(format!("unix:{},server,nowait", monitor.display()));
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
        command.args(["-append", "console=ttyS0 quiet panic=-1 etherpool.boot=none"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut qemu = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::not_found(
                format!("there is no {QEMU} here, in which images are booted"),
                "install QEMU (Debian: apt install qemu-system-x86)",
            ),
            _ => anyhow::anyhow!("{QEMU} can't be started: {error}").into(),
        })?;
        let (sender, lines) = channel();
        let outputs: [Option<Box<dyn std::io::Read + Send>>; 2] = [
            qemu.stdout.take().map(|output| Box::new(output) as _),
            qemu.stderr.take().map(|output| Box::new(output) as _),
        ];
        for output in outputs.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Emulated { qemu, lines, heard: Vec::new(), monitor })
    }

    /// The line of the console with that in it.
    fn wait_for(&mut self, text: &str, end: Instant) -> anyhow::Result<String> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let why = match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(line) => {
                    self.heard.push(line);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => "it takes too long",
                Err(RecvTimeoutError::Disconnected) => "the machine ended",
            };
            let from = self.heard.len().saturating_sub(LAST_LINES);
            let last = self.heard[from..].join("\n");
            bail!("the image doesn't come to \"{text}\": {why}. Its console:\n{last}");
        }
    }

    /// Presses the power button, and says whether the machine went off by that.
    fn press_button(&mut self) -> anyhow::Result<bool> {
        let mut monitor = UnixStream::connect(&self.monitor)?;
        monitor.set_write_timeout(Some(MONITOR_LIMIT))?;
        monitor.write_all(b"system_powerdown\n")?;
        let begun = Instant::now();
        while begun.elapsed() < OFF_LIMIT {
            if let Some(status) = self.qemu.try_wait()? {
                return Ok(status.success());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(false)
    }
}
