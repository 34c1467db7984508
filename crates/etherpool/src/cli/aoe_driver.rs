//! What aoetools does on a client whose disks are Linux's own driver's: where these come from, and having it look again.
//! Also under the names that aoetools has (`aoe-stat`), with its arguments and its lines, as scripts know them.
//!
//! The driver's files are those of drivers/block/aoe (aoechr.c: what is written to /dev/etherd; aoeblk.c: attributes in
//! sysfs).

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use aoe_wire::ShelfSlot;
use clap::{Args, Subcommand};
use control::exit::Exit;
use serde::Serialize;

use super::{Failure, output};

/// Names of aoetools, and the commands that they are.
const TOOLS: [(&str, &str); 6] = [
    ("aoe-stat", "stat"),
    ("aoe-discover", "rediscover"),
    ("aoe-interfaces", "interfaces"),
    ("aoe-revalidate", "revalidate"),
    ("aoe-flush", "flush"),
    ("aoe-version", "version"),
];

/// Linux's own AoE driver on this machine.
#[derive(Debug, Subcommand)]
pub enum DriverCommand {
    /// List the disks that Linux's own driver has on this machine
    Stat {
        /// Only those whose line has this in it
        part: Option<String>,
    },
    /// Have Linux's own driver look for disks now
    Rediscover,
    /// Show or say on which interfaces Linux's own driver looks for disks
    Interfaces(InterfacesArgs),
    /// Have Linux's own driver ask disks anew for their sizes
    Revalidate {
        /// The disks
        #[arg(value_name = "eS.L", required = true)]
        disks: Vec<ShelfSlot>,
    },
    /// Have Linux's own driver forget disks that don't answer
    Flush(FlushArgs),
    /// Which version of Linux's own driver runs
    Version,
}

/// Arguments of `aoe interfaces`.
#[derive(Debug, Args)]
pub struct InterfacesArgs {
    /// On all
    #[arg(short = 'c', long, conflicts_with = "interfaces")]
    clear: bool,

    /// On these alone; without any those are shown that were said
    interfaces: Vec<String>,
}

/// Arguments of `aoe flush`.
#[derive(Debug, Args)]
pub struct FlushArgs {
    /// All that nobody has open, also those that answer
    #[arg(short = 'a', long, conflicts_with = "disks")]
    all: bool,

    /// Only these
    #[arg(value_name = "eS.L")]
    disks: Vec<ShelfSlot>,
}

/// The command line that is meant where the program was called by a name of aoetools (a symbolic link).
pub fn meant(words: Vec<OsString>) -> Vec<OsString> {
    let called = words.first().and_then(|called| Path::new(called).file_name()?.to_str());
    let tool = TOOLS.iter().find(|(name, _)| Some(*name) == called);
    let Some((_, command)) = tool else { return words };
    let begin = ["etherpool", "aoe", command].map(OsString::from);
    begin.into_iter().chain(words.into_iter().skip(1)).collect()
}

/// Runs it.
pub fn run(command: &DriverCommand, json: bool) -> Result<Exit, Failure> {
    // As aoe-stat has it.
    let sysfs = std::env::var_os("sysfs_dir").filter(|dir| !dir.is_empty());
    let sysfs = sysfs.map_or_else(|| "/sys".into(), PathBuf::from);
    Driver { sysfs, devices: "/dev/etherd".into() }.run(command, json)
}

/// Where its files are.
struct Driver {
    sysfs: PathBuf,
    devices: PathBuf,
}

/// A disk of the driver.
#[derive(Debug, PartialEq, Serialize)]
struct DriverDisk {
    device: String,
    /// None while the driver doesn't know it, as of the other two.
    size_bytes: Option<u64>,
    interfaces: Option<String>,
    payload_bytes: Option<String>,
    /// `up`, `down` or `down,closewait`.
    state: Option<String>,
}

impl DriverDisk {
    /// As aoe-stat prints it.
    fn line(&self) -> String {
        const UNKNOWN: &str = "(NA)";
        let size = self.size_bytes.map_or_else(
            || UNKNOWN.to_owned(),
            |bytes| {
                let megabytes = bytes / 1_000_000;
                format!("{}.{:03}GB", megabytes / 1000, megabytes % 1000)
            },
        );
        let of = |value: &Option<String>| value.clone().unwrap_or_else(|| UNKNOWN.to_owned());
        let (interfaces, state) = (of(&self.interfaces), of(&self.state));
        let payload = of(&self.payload_bytes);
        format!("{:>10} {size:>15} {interfaces:>10} {payload:<5} {state:<14}\n", self.device)
    }
}

impl Driver {
    fn run(&self, command: &DriverCommand, json: bool) -> Result<Exit, Failure> {
        match command {
            DriverCommand::Stat { part } => {
                let mut disks = self.disks()?;
                disks.retain(|disk| part.as_ref().is_none_or(|part| disk.line().contains(part)));
                let text = || disks.iter().map(DriverDisk::line).collect();
                output::show(json, &disks, text)?;
            }
            DriverCommand::Rediscover => self.tell("discover", "\n")?,
            // Where nothing but blanks stands the driver takes no interface at all.
            DriverCommand::Interfaces(args) if args.clear => self.tell("interfaces", "\0")?,
            DriverCommand::Interfaces(args) if args.interfaces.is_empty() => {
                let list = self.read("module/aoe/parameters/aoe_iflist").unwrap_or_default();
                let names: Vec<&str> = list.split_whitespace().collect();
                output::show(json, &names, || names.join(" ") + "\n")?;
            }
            DriverCommand::Interfaces(args) => {
                self.tell("interfaces", &(args.interfaces.join(" ") + "\n"))?;
            }
            DriverCommand::Revalidate { disks } => self.tell_of("revalidate", disks)?,
            DriverCommand::Flush(args) if args.all => self.tell("flush", "all\n")?,
            DriverCommand::Flush(args) if args.disks.is_empty() => self.tell("flush", "\n")?,
            DriverCommand::Flush(args) => self.tell_of("flush", &args.disks)?,
            DriverCommand::Version => {
                let runs = self.read("module/aoe/version");
                let running = runs.as_deref().unwrap_or("(none)");
                let own = env!("CARGO_PKG_VERSION");
                let value = serde_json::json!({ "etherpool": own, "running": runs });
                output::show(json, &value, || {
                    let lines = [("etherpool", own), ("running aoe driver", running)];
                    lines.iter().map(|(what, of)| format!("{what:>22}:\t{of}\n")).collect()
                })?;
            }
        }
        Ok(Exit::Ok)
    }

    /// Its disks, without partitions, in order.
    fn disks(&self) -> Result<Vec<DriverDisk>, Failure> {
        let blocks = self.sysfs.join("block");
        let failed = |error: &io::Error| {
            Failure::of_file(format!("{} can't be read: {error}", blocks.display()), error)
        };
        let mut disks = Vec::new();
        for entry in std::fs::read_dir(&blocks).map_err(|error| failed(&error))? {
            let name = entry.map_err(|error| failed(&error))?.file_name();
            let name = name.to_string_lossy().into_owned();
            let address = name.strip_prefix("etherd!").map(str::parse::<ShelfSlot>);
            let Some(Ok(address)) = address else { continue };
            let of = |attribute: &str| self.read(&format!("block/{name}/{attribute}"));
            let sectors = of("size").and_then(|text| text.parse::<u64>().ok());
            let disk = DriverDisk {
                device: address.to_string(),
                size_bytes: sectors.map(|sectors| sectors.saturating_mul(512)),
                interfaces: of("netif"),
                payload_bytes: of("payload"),
                state: of("state"),
            };
            disks.push((address, disk));
        }
        disks.sort_by_key(|(address, _)| *address);
        Ok(disks.into_iter().map(|(_, disk)| disk).collect())
    }

    fn read(&self, file: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.sysfs.join(file)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// One after the other, as the driver reads one at a time.
    fn tell_of(&self, file: &str, disks: &[ShelfSlot]) -> Result<(), Failure> {
        disks.iter().try_for_each(|disk| self.tell(file, &disk.to_string()))
    }

    /// Written at once: each write is an order of its own.
    fn tell(&self, file: &str, order: &str) -> Result<(), Failure> {
        let path = self.devices.join(file);
        let written = std::fs::OpenOptions::new().write(true).open(&path);
        let written =
            written.and_then(|mut file| io::Write::write_all(&mut file, order.as_bytes()));
        written.map_err(|error| {
            let message = format!("Linux's AoE driver can't be told ({}): {error}", path.display());
            match error.kind() {
                io::ErrorKind::NotFound => Failure::not_found(message, "load it: modprobe aoe"),
                _ => Failure::of_file(message, &error),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser as _;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn names_of_aoetools_are_commands() {
        assert_eq!(meant(words("/usr/sbin/aoe-stat e1")), words("etherpool aoe stat e1"));
        assert_eq!(meant(words("aoe-flush -a")), words("etherpool aoe flush -a"));
        for line in ["etherpool aoe stat", "/usr/bin/aoe", "aoe-sancheck eth0"] {
            assert_eq!(meant(words(line)), words(line));
        }
        for (name, _) in TOOLS {
            let more = if name == "aoe-revalidate" { " e1.0" } else { "" };
            let found = super::super::Cli::try_parse_from(meant(words(&format!("{name}{more}"))));
            assert!(found.is_ok(), "{name}: {found:?}");
        }
    }

    /// A driver with such disks.
    fn driver(dir: &Path, disks: &[(&str, &[(&str, &str)])]) -> Driver {
        let driver = Driver { sysfs: dir.join("sys"), devices: dir.join("etherd") };
        std::fs::create_dir_all(&driver.devices).unwrap();
        std::fs::create_dir_all(driver.sysfs.join("block")).unwrap();
        for (disk, attributes) in disks {
            let place = driver.sysfs.join("block").join(disk);
            std::fs::create_dir(&place).unwrap();
            for (name, value) in *attributes {
                std::fs::write(place.join(name), format!("{value}\n")).unwrap();
            }
        }
        driver
    }

    #[test]
    fn disks_are_told_as_aoe_stat_does() {
        let dir = tempfile::tempdir().unwrap();
        let up: &[_] =
            &[("size", "4294967"), ("netif", "eth0,eth1"), ("payload", "8192"), ("state", "up")];
        let known = [
            ("etherd!e10.0", &[][..]),
            ("etherd!e2.1", up),
            ("etherd!e2.0", &[("size", "203125"), ("state", "down,closewait")]),
            ("etherd!e2.1p1", &[]),
            ("sda", &[]),
        ];
        let disks = driver(dir.path(), &known).disks().unwrap();
        let text: String = disks.iter().map(DriverDisk::line).collect();
        let expected = "      \
      e2.0         0.104GB       (NA) (NA)  down,closewait
      e2.1         2.199GB  eth0,eth1 8192  up            
     e10.0            (NA)       (NA) (NA)  (NA)          
";
        assert_eq!(text, expected);
    }

    #[test]
    fn orders_are_what_the_driver_reads() {
        let dir = tempfile::tempdir().unwrap();
        let driver = driver(dir.path(), &[]);
        let run = |command| driver.run(&command, false);
        let failure = run(DriverCommand::Rediscover).unwrap_err();
        assert!(failure.text(false).contains("modprobe aoe"), "{failure:?}");
        let told = |file: &str, command| {
            let file = driver.devices.join(file);
            std::fs::write(&file, "").unwrap();
            run(command).unwrap();
            std::fs::read_to_string(file).unwrap()
        };
        let on = |clear, interfaces: &[&str]| {
            let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
            DriverCommand::Interfaces(InterfacesArgs { clear, interfaces })
        };
        let flush = |all, disks| DriverCommand::Flush(FlushArgs { all, disks });
        let disk = ShelfSlot::new(1, 0);
        assert_eq!(told("discover", DriverCommand::Rediscover), "\n");
        assert_eq!(told("interfaces", on(false, &["eth0", "eth1"])), "eth0 eth1\n");
        assert_eq!(told("interfaces", on(true, &[])), "\0");
        assert_eq!(told("revalidate", DriverCommand::Revalidate { disks: vec![disk] }), "e1.0");
        assert_eq!(told("flush", flush(false, vec![disk])), "e1.0");
        assert_eq!(told("flush", flush(true, vec![])), "all\n");
        assert_eq!(told("flush", flush(false, vec![])), "\n");
    }
}
