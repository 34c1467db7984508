//! vblade's and vbladed's replacement: their arguments, their words, their meaning. Under it is the
//! same server as everywhere, for one export, without anything that others see of it but frames: no
//! lock on the file, no state, no socket.

use std::ffi::OsString;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use aoe_target::Probe;
use aoe_wire::MacAddr;
use clap::Args;
use control::client::check_client;
use control::node::{ExportConfig, ExportPlan, IoMode, NodeConfig, Sectors, WriteCache};

use super::getopt::{atoi, getopt, strtoll};
use crate::node::{Source, Spec, run_server};

/// Arguments of `vblade` and `vbladed`: not clap's, but getopt's.
#[derive(Args, Debug)]
pub struct VbladeArgs {
    /// As vblade 25 takes them: [-b bufcnt] [-o offset] [-l length] [-d] [-s] [-r] [-m mac[,mac...]]
    /// shelf slot netif filename
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

/// As what the program was called.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Vblade(String),
    Vbladed,
}

/// What vblade was told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    buffers: u16,
    offset: u64,
    length: Option<u64>,
    direct: bool,
    sync: bool,
    read_only: bool,
    macs: Vec<MacAddr>,
    shelf: i64,
    slot: i64,
    interface: String,
    file: String,
}

/// vblade's own default.
const BUFFERS_DEFAULT: i64 = 16;

/// Runs as vblade if the program was called by that name (a symbolic link).
pub fn called_as_vblade() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    let called = words.next()?;
    let name = match Path::new(&called).file_name()?.to_str()? {
        "vblade" => Name::Vblade(called.to_string_lossy().into_owned()),
        "vbladed" => Name::Vbladed,
        _ => return None,
    };
    Some(start(&name, &words.map(lossy).collect::<Vec<_>>()))
}

/// Runs as `etherpool vblade` or `etherpool vbladed`.
pub fn run(args: &VbladeArgs, daemon: bool) -> ExitCode {
    let name = if daemon { Name::Vbladed } else { Name::Vblade("vblade".to_owned()) };
    start(&name, &args.arguments)
}

fn lossy(word: OsString) -> String {
    word.to_string_lossy().into_owned()
}

fn start(name: &Name, words: &[String]) -> ExitCode {
    if *name == Name::Vbladed {
        if words.len() < 4 {
            eprintln!("usage: ./vblade <shelf> <slot> <ethn> <device>");
            return ExitCode::FAILURE;
        }
        // Detached from the terminal: all that follows is for syslog.
        crate::logging::to_syslog("vbladed");
        if let Err(error) = os::process::detach() {
            crate::logging::say(&format!("daemon: {}", reason(&error)));
            return ExitCode::FAILURE;
        }
    }
    match begin(name, words) {
        Ok(plan) => serve(plan),
        Err(lines) => {
            lines.iter().for_each(|line| crate::logging::say(line));
            ExitCode::FAILURE
        }
    }
}

/// All that vblade does before it serves. What it says on failure is the error.
fn begin(name: &Name, words: &[String]) -> Result<ExportPlan, Vec<String>> {
    let called = match name {
        Name::Vblade(called) => called,
        Name::Vbladed => "vblade",
    };
    let mut warnings = Vec::new();
    let order = parse(words, called, &mut warnings);
    warnings.iter().for_each(|line| crate::logging::say(line));
    let order = order?;
    let sectors = sectors_of(&order).map_err(|line| vec![line])?;
    if !Path::new("/sys/class/net").join(&order.interface).exists() {
        return Err(vec![format!("{}: No such device", order.interface)]);
    }
    let plan = plan_of(&order).map_err(|line| vec![format!("{called}: {line}")])?;
    let line = format!(
        "pid {}: e{}.{}, {sectors} sectors {}",
        std::process::id(),
        order.shelf,
        order.slot,
        if order.read_only { "O_RDONLY" } else { "O_RDWR" },
    );
    match name {
        Name::Vblade(_) => {
            // Whoever closed standard output doesn't want it.
            let mut out = std::io::stdout();
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
        Name::Vbladed => crate::logging::say(&line),
    }
    if !order.sync && !order.direct && !order.read_only {
        crate::logging::say(&format!(
            "{called}: warning: writes are acknowledged from memory and lost in a crash; use -s, or `etherpool target`, which acknowledges what is on the disk"
        ));
    }
    Ok(plan)
}

fn serve(plan: ExportPlan) -> ExitCode {
    let spec =
        Spec { source: Source::Fixed(Box::new(plan)), replace: false, log_level: "warn".into() };
    let outcome = run_server(spec);
    crate::logging::finish();
    outcome.unwrap_or_else(|error| {
        crate::logging::say(&format!("vblade: {error:#}"));
        ExitCode::FAILURE
    })
}

fn parse(words: &[String], called: &str, warnings: &mut Vec<String>) -> Result<Order, Vec<String>> {
    let usage = || {
        vec![format!(
            "usage: {called} [-b bufcnt] [-o offset] [-l length] [-d ] [-s] [-r] [ -m mac[,mac...] ] shelf slot netif filename"
        )]
    };
    let found = getopt(words, "b:dsrm:o:l:").map_err(|error| {
        let mut lines = vec![format!("{called}: {error}")];
        lines.extend(usage());
        lines
    })?;
    let mut buffers = BUFFERS_DEFAULT;
    let (mut offset, mut length) = (0, None);
    let (mut direct, mut sync, mut read_only) = (false, false, false);
    let mut macs = Vec::new();
    for (letter, value) in &found.options {
        match letter {
            'b' => buffers = atoi(value),
            'd' => direct = true,
            's' => sync = true,
            'r' => read_only = true,
            'm' => masks(value, &mut macs, warnings),
            'o' => offset = number(value, 0).ok_or_else(usage)?,
            _ => length = Some(number(value, 1).ok_or_else(usage)?),
        }
    }
    let [shelf, slot, interface, file] = &found.operands[..] else { return Err(usage()) };
    if buffers <= 0 {
        return Err(usage());
    }
    Ok(Order {
        buffers: u16::try_from(buffers).unwrap_or(u16::MAX),
        offset,
        length,
        direct,
        sync,
        read_only,
        macs,
        shelf: atoi(shelf),
        slot: atoi(slot),
        interface: interface.clone(),
        file: file.clone(),
    })
}

fn number(text: &str, least: i64) -> Option<u64> {
    let number = strtoll(text).filter(|number| *number >= least)?;
    u64::try_from(number).ok()
}

fn masks(list: &str, macs: &mut Vec<MacAddr>, warnings: &mut Vec<String>) {
    for text in list.split(',') {
        match parse_ether(text) {
            Some(mac) => macs.push(mac),
            None => warnings.push(format!("ignoring mask {text}, parseether failure")),
        }
    }
}

/// Six pairs of digits, with or without a colon between them. What isn't a digit counts as zero, as
/// with vblade: a mistake must not open the export to all.
fn parse_ether(text: &str) -> Option<MacAddr> {
    let mut bytes = text.bytes().peekable();
    let mut mac = [0; 6];
    for byte in &mut mac {
        let pair = [bytes.next()?, bytes.next()?];
        let mut value = 0;
        for digit in pair {
            match char::from(digit).to_digit(16) {
                Some(digit) => value = value * 16 + digit,
                None => break,
            }
        }
        *byte = u8::try_from(value).unwrap_or(0);
        bytes.next_if_eq(&b':');
    }
    Some(MacAddr(mac))
}

/// Opens the file as vblade would, and says how many sectors it exports.
fn sectors_of(order: &Order) -> Result<u64, String> {
    let direct = if order.direct { libc::O_DIRECT } else { 0 };
    let sync = if order.sync { libc::O_SYNC } else { 0 };
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(!order.read_only)
        .custom_flags(direct | sync)
        .open(&order.file);
    let mut file = opened.map_err(|error| format!("open: {}", reason(&error)))?;
    let bytes =
        file.seek(SeekFrom::End(0)).map_err(|error| format!("getsize: {}", reason(&error)))?;
    let size = bytes / block::SECTOR_BYTES as u64;
    if size == 0 {
        return Err("0-sector file size is too small".to_owned());
    }
    if size <= order.offset {
        return Err(format!("Offset {} too large for {size}-sector export", order.offset));
    }
    let rest = size - order.offset;
    match order.length {
        // vblade names the offset here.
        Some(length) if length > rest => {
            Err(format!("Length {} too big - exceeds size of file!", order.offset))
        }
        Some(length) => Ok(length),
        None => Ok(rest),
    }
}

/// As the C library says it, without the number that Rust adds.
fn reason(error: &std::io::Error) -> String {
    let said = error.to_string();
    said.split_once(" (os error").map_or(said.clone(), |(reason, _)| reason.to_owned())
}

fn plan_of(order: &Order) -> Result<ExportPlan, String> {
    let config = NodeConfig {
        export: vec![ExportConfig {
            address: format!("e{}.{}", order.shelf, order.slot),
            path: order.file.clone(),
            offset: Sectors(order.offset),
            length: order.length.map(Sectors),
            ..ExportConfig::default()
        }],
        ..NodeConfig::default()
    };
    let plans = config.plans().map_err(|error| error.to_string())?;
    let Some(mut plan) = plans.into_iter().next() else { return Err("nothing to do".to_owned()) };
    plan.interfaces = vec![order.interface.clone()];
    plan.read_only = order.read_only;
    plan.medium.writable = !order.read_only;
    plan.medium.io = if order.direct { IoMode::Direct } else { IoMode::Buffered };
    // O_DIRECT alone leaves data in the disk's own cache: that isn't stable either.
    plan.write_cache = if order.sync { WriteCache::Off } else { WriteCache::On };
    // Two processes for two interfaces, or a program that writes the file meanwhile, have always
    // been possible.
    plan.medium.exclusive = false;
    plan.probe = Probe::Off;
    plan.remember = false;
    plan.buffers = Some(order.buffers);
    let macs = order.macs.iter().map(|mac| check_client(*mac));
    plan.mask = macs.collect::<Result<_, _>>().map_err(|error| format!("-m: {error}"))?;
    Ok(plan)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn order(line: &str) -> Result<Order, Vec<String>> {
        parse(&words(line), "vblade", &mut Vec::new())
    }

    #[test]
    fn options_have_vblades_meaning() {
        let plan = plan_of(&order("1 2 eth0 /f").unwrap()).unwrap();
        assert_eq!((plan.address.shelf, plan.address.slot), (1, 2));
        assert_eq!((plan.write_cache, plan.medium.io), (WriteCache::On, IoMode::Buffered));
        assert!(plan.medium.writable && !plan.medium.exclusive && !plan.remember);
        assert_eq!(plan.buffers, Some(16));
        let plan = plan_of(&order("-d 1 2 eth0 /f").unwrap()).unwrap();
        assert_eq!((plan.write_cache, plan.medium.io), (WriteCache::On, IoMode::Direct));
        let plan = plan_of(&order("-s 1 2 eth0 /f").unwrap()).unwrap();
        assert_eq!((plan.write_cache, plan.medium.io), (WriteCache::Off, IoMode::Buffered));
        let line = "-dsr -b 64 -o 63 -l 0x100 -m 020000000001,02:00:00:00:00:02 1 2 eth0 /f";
        let plan = plan_of(&order(line).unwrap()).unwrap();
        assert_eq!((plan.write_cache, plan.medium.io), (WriteCache::Off, IoMode::Direct));
        assert!(plan.read_only && !plan.medium.writable);
        assert_eq!(plan.medium.window.start.0, 63);
        assert_eq!(plan.medium.window.sectors, Some(256));
        assert_eq!(plan.buffers, Some(64));
        let macs = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];
        assert_eq!(plan.mask, macs);
    }

    #[test]
    fn mistakes_get_vblades_words() {
        let usage = "usage: vblade [-b bufcnt] [-o offset] [-l length] [-d ] [-s] [-r] [ -m mac[,mac...] ] shelf slot netif filename";
        for line in [
            "",
            "1 2 eth0",
            "1 2 eth0 f g",
            "-b 0 1 2 eth0 f",
            "-o -1 1 2 eth0 f",
            "-l 0 1 2 eth0 f",
            "-l x 1 2 eth0 f",
        ] {
            assert_eq!(order(line).unwrap_err(), [usage], "{line}");
        }
        assert_eq!(order("-x").unwrap_err(), ["vblade: invalid option -- 'x'", usage]);
        let mut warnings = Vec::new();
        parse(&words("-m zz 1 2 eth0 f"), "vblade", &mut warnings).unwrap();
        assert_eq!(warnings, ["ignoring mask zz, parseether failure"]);
        // What no client could use is refused rather than left to itself.
        assert!(plan_of(&order("1 300 eth0 f").unwrap()).is_err());
        assert!(plan_of(&order("70000 1 eth0 f").unwrap()).is_err());
    }

    #[test]
    fn a_mask_of_nonsense_opens_nothing() {
        for mac in ["ff:ff:ff:ff:ff:ff", "01005e000001", "zzzzzzzzzzzz"] {
            let refused = plan_of(&order(&format!("-m {mac} 1 2 eth0 f")).unwrap());
            assert!(refused.unwrap_err().starts_with("-m: "), "{mac}");
        }
        assert_eq!(parse_ether("zzzzzzzzzzzz"), Some(MacAddr([0; 6])));
        assert_eq!(parse_ether("02:00:00:00:00:0"), None);
        assert_eq!(parse_ether("020000:000001"), Some(MacAddr([2, 0, 0, 0, 0, 1])));
        assert_eq!(
            parse_ether("AB:cd:ef:01:23:45 "),
            Some(MacAddr([0xab, 0xcd, 0xef, 1, 0x23, 0x45]))
        );
    }

    #[test]
    fn the_files_size_is_looked_at_as_vblade_does() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, vec![0; 2048 * 512 + 100]).unwrap();
        let sectors = |options: &str| {
            let line = format!("{options} 1 2 eth0 {}", file.display());
            sectors_of(&order(&line).unwrap())
        };
        assert_eq!(sectors(""), Ok(2048));
        assert_eq!(sectors("-o 48"), Ok(2000));
        assert_eq!(sectors("-o 48 -l 8"), Ok(8));
        assert_eq!(
            sectors("-o 2048"),
            Err("Offset 2048 too large for 2048-sector export".to_owned())
        );
        assert_eq!(
            sectors("-o 2047 -l 2"),
            Err("Length 2047 too big - exceeds size of file!".to_owned())
        );
        std::fs::write(&file, b"short").unwrap();
        assert_eq!(sectors(""), Err("0-sector file size is too small".to_owned()));
        let missing = sectors_of(&order("1 2 eth0 /nonexistent/f").unwrap());
        assert_eq!(missing, Err("open: No such file or directory".to_owned()));
    }
}
