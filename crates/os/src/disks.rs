//! What Linux knows about the disks of this machine, so that a node offers by default only whole
//! disks that nobody uses. What is *on* a disk is another question; `block` answers it.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use block::SECTOR_BYTES;

mod drives;

pub use drives::{DriveSeen, drive_of, drives, serial_of};

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's name: `sda`.
    pub name: String,
    /// Where to open it: `/dev/sda`.
    pub path: PathBuf,
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Whether it takes no writes.
    pub read_only: bool,
    /// Whether it is a spinning disk.
    pub rotational: bool,
    /// Whether a driver of hardware (or of a virtual machine's) stands behind it, unlike loop,
    /// device mapper, md and RAM devices.
    pub hardware: bool,
    /// Vendor's words, if any.
    pub model: Option<String>,
    /// Serial number, if known.
    pub serial: Option<String>,
    /// World-wide name, if known.
    pub wwn: Option<String>,
    /// Stable names (`/dev/disk/by-id/…`, `by-uuid`, `by-path`).
    pub links: Vec<PathBuf>,
    /// Partitions, by name.
    pub partitions: Vec<String>,
    /// Who uses it or one of its partitions.
    pub usage: Option<Usage>,
    /// How many writes and discards it has done since the kernel found it, if the kernel counts them.
    pub writes: Option<u64>,
}

impl Disk {
    /// Whether a node may offer it without being told to: nobody uses it, and it is whole, real and
    /// writable. Says nothing about its contents.
    pub fn is_free(&self) -> bool {
        self.hardware
            && !self.read_only
            && self.sectors > 0
            && self.partitions.is_empty()
            && self.usage.is_none()
    }
}

/// What a disk is used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A file system on it is mounted there.
    Mounted(String),
    /// Swap space.
    Swap,
    /// Another block device is built on it (md, device mapper, bcache).
    Holder(String),
    /// Opened exclusively by somebody who can't be told.
    Busy,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Usage::Mounted(at) => write!(f, "a file system mounted on {at}"),
            Usage::Swap => f.write_str("swap"),
            Usage::Holder(name) => write!(f, "the block device {name}"),
            Usage::Busy => f.write_str("another program, which opened it exclusively"),
        }
    }
}

/// The whole disks of this machine, by name; empty drives and unused loop devices left out. None is opened: one that hangs
/// holds nobody up.
pub fn list() -> io::Result<Vec<Disk>> {
    list_in(&Places::default())
}

/// Who uses the block device at `path`, also if it can't be told from outside: it is opened exclusively for a moment, in
/// which others that want it for themselves (`pvremove`, `mkfs`, `mdadm`) fail. So this is asked only of what the
/// caller would hold anyway.
pub fn tried_usage_of(path: &Path) -> Option<Usage> {
    usage_of(path).or_else(|| busy(path))
}

/// Who uses the block device (or the disk of the partition) at `path`.
pub fn usage_of(path: &Path) -> Option<Usage> {
    let places = Places::default();
    let number = device_number(&fs::metadata(path).ok()?);
    let own = places.sys.join("dev/block").join(&number);
    usage(&places, &fs::canonicalize(own).ok()?)
}

/// A whole disk behind a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeDisk {
    /// The kernel's name: `sda`.
    pub name: String,
    /// Where to open it.
    pub path: PathBuf,
    /// Its directory in `/sys`.
    pub directory: PathBuf,
    /// Whether the device asked about is a partition of it.
    pub is_partition: bool,
    /// Whether SCSI's drivers call it an ATA disk, or hand out its ATA page.
    pub may_be_ata: bool,
}

/// The disk that a block device is, or is a partition of; `None` for anything else.
pub fn whole_disk_of(path: &Path) -> io::Result<Option<WholeDisk>> {
    let data = fs::metadata(path)?;
    if data.mode() & libc::S_IFMT != libc::S_IFBLK {
        return Ok(None);
    }
    whole_disk_in(&Places::default(), &device_number(&data))
}

fn whole_disk_in(places: &Places, number: &str) -> io::Result<Option<WholeDisk>> {
    let own = fs::canonicalize(places.sys.join("dev/block").join(number))?;
    let is_partition = own.join("partition").exists();
    let parent = if is_partition { own.parent() } else { Some(own.as_path()) };
    let Some(directory) = parent.filter(|directory| directory.join("size").exists()) else {
        return Ok(None);
    };
    let Some(name) = directory.file_name().and_then(|name| name.to_str()) else { return Ok(None) };
    let vendor = read_text(&directory.join("device/vendor"));
    let may_be_ata = vendor.as_deref() == Some("ATA") || directory.join("device/vpd_pg89").exists();
    Ok(Some(WholeDisk {
        name: name.to_owned(),
        path: places.dev.join(name.replace('!', "/")),
        directory: directory.to_owned(),
        is_partition,
        may_be_ata,
    }))
}

/// The device or file that a user means: a path, or `UUID=`, `PARTUUID=`, `LABEL=` or `ID=` and a
/// name below `/dev/disk/by-…`.
pub fn resolve(name: &str) -> io::Result<PathBuf> {
    resolve_in(&Places::default(), name)
}

/// The same as a path, which may be a symbolic link that changes with the device.
pub fn named(name: &str) -> io::Result<PathBuf> {
    named_in(&Places::default(), name)
}

/// Where to look; tests bring their own.
struct Places {
    sys: PathBuf,
    dev: PathBuf,
    proc: PathBuf,
}

impl Default for Places {
    fn default() -> Places {
        Places { sys: "/sys".into(), dev: "/dev".into(), proc: "/proc".into() }
    }
}

fn resolve_in(places: &Places, name: &str) -> io::Result<PathBuf> {
    let path = named_in(places, name)?;
    let failed =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    fs::canonicalize(&path).map_err(failed)
}

fn named_in(places: &Places, name: &str) -> io::Result<PathBuf> {
    for (prefix, directory) in [
        ("UUID=", "by-uuid"),
        ("PARTUUID=", "by-partuuid"),
        ("LABEL=", "by-label"),
        ("ID=", "by-id"),
    ] {
        let Some(key) = name.strip_prefix(prefix) else { continue };
        let key = key.trim_matches('"');
        if key.is_empty() || key.contains('/') || key == ".." {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name} names no disk"),
            ));
        }
        return Ok(places.dev.join("disk").join(directory).join(key));
    }
    Ok(PathBuf::from(name))
}

fn list_in(places: &Places) -> io::Result<Vec<Disk>> {
    let links = stable_names(places);
    let mut disks = Vec::new();
    for entry in fs::read_dir(places.sys.join("block"))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(directory) = fs::canonicalize(entry.path()) else { continue };
        let sectors = read_number(&directory.join("size"));
        if sectors == 0 {
            continue;
        }
        // A slash in a device's name is an exclamation mark in /sys.
        let path = places.dev.join(name.replace('!', "/"));
        let links =
            links.iter().filter(|(target, _)| *target == path).map(|(_, link)| link.clone());
        let usage = usage(places, &directory);
        disks.push(Disk {
            sectors,
            read_only: read_number(&directory.join("ro")) != 0,
            rotational: read_number(&directory.join("queue/rotational")) != 0,
            hardware: directory.join("device").exists(),
            model: read_first(&directory, &["device/model"]),
            serial: read_first(&directory, &["device/serial", "serial"]),
            wwn: read_first(&directory, &["device/wwid", "wwid"]),
            links: links.collect(),
            partitions: partitions(&directory),
            usage,
            writes: read_text(&directory.join("stat")).and_then(|text| writes_of(&text)),
            name,
            path,
        });
    }
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(disks)
}

/// The kernel's numbers of a block device: the fifth are its writes, the twelfth its discards, where it has those.
fn writes_of(stat: &str) -> Option<u64> {
    let mut numbers = stat.split_whitespace().map(|word| word.parse::<u64>().ok());
    let writes = numbers.nth(4)??;
    Some(writes.saturating_add(numbers.nth(6).flatten().unwrap_or(0)))
}

/// Use of the device at `directory` in /sys, or of one of its partitions.
fn usage(places: &Places, directory: &Path) -> Option<Usage> {
    let own = [directory.to_owned()];
    let parts = partitions(directory).into_iter().map(|name| directory.join(name));
    own.into_iter().chain(parts).find_map(|device| {
        let number = read_text(&device.join("dev"))?;
        mounted(places, &number).or_else(|| swap(places, &number)).or_else(|| holder(&device))
    })
}

fn partitions(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().join("partition").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// `36 35 98:0 /root /mount/point options … - ext4 /dev/sda source`: the number tells, but for
/// file systems over several devices, whose source does.
fn mounted(places: &Places, number: &str) -> Option<Usage> {
    let mounts = fs::read_to_string(places.proc.join("self/mountinfo")).ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let device = words.nth(2)?;
        let at = words.nth(1)?;
        let source = line.split_once(" - ")?.1.split(' ').nth(1)?;
        // What isn't there may be anywhere, in a file system that hangs too.
        let same = device == number
            || (Path::new(source).starts_with(&places.dev)
                && fs::metadata(source).is_ok_and(|data| is_device(&data, number)));
        same.then(|| Usage::Mounted(at.replace("\\040", " ")))
    })
}

fn swap(places: &Places, number: &str) -> Option<Usage> {
    let swaps = fs::read_to_string(places.proc.join("swaps")).ok()?;
    let paths = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    paths
        .into_iter()
        .filter(|path| Path::new(path).starts_with(&places.dev))
        .any(|path| fs::metadata(path).is_ok_and(|data| is_device(&data, number)))
        .then_some(Usage::Swap)
}

fn holder(device: &Path) -> Option<Usage> {
    let first = fs::read_dir(device.join("holders")).ok()?.flatten().next()?;
    Some(Usage::Holder(first.file_name().to_string_lossy().into_owned()))
}

/// Whether somebody holds it exclusively. Opened for reading: no `change` event on closing.
fn busy(path: &Path) -> Option<Usage> {
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let error = opened.err()?;
    (error.raw_os_error() == Some(libc::EBUSY)).then_some(Usage::Busy)
}

fn is_device(data: &fs::Metadata, number: &str) -> bool {
    data.mode() & libc::S_IFMT == libc::S_IFBLK && device_number(data) == number
}

fn device_number(data: &fs::Metadata) -> String {
    format!("{}:{}", rustix::fs::major(data.rdev()), rustix::fs::minor(data.rdev()))
}

/// Pairs of device and link.
fn stable_names(places: &Places) -> Vec<(PathBuf, PathBuf)> {
    let mut names = Vec::new();
    for directory in ["by-id", "by-uuid", "by-path", "by-label"] {
        let Ok(entries) = fs::read_dir(places.dev.join("disk").join(directory)) else { continue };
        for entry in entries.flatten() {
            if let Ok(target) = fs::canonicalize(entry.path()) {
                names.push((target, entry.path()));
            }
        }
    }
    names.sort();
    names
}

fn read_text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn read_number(path: &Path) -> u64 {
    read_text(path).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn read_first(directory: &Path, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| read_text(&directory.join(name)))
}

/// Sectors as bytes, for people.
pub fn size_bytes(disk: &Disk) -> u64 {
    disk.sectors.saturating_mul(SECTOR_BYTES as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn machine() -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (name, size) in [("sda", "2048\n"), ("sdb", "4096\n"), ("sdc", "100\n"), ("sr0", "0\n")]
        {
            put(root, &format!("sys/block/{name}/size"), size);
            put(root, &format!("sys/block/{name}/dev"), &format!("8:{}\n", name.as_bytes()[2]));
            put(root, &format!("sys/block/{name}/device/model"), "ACME   \n");
            put(root, &format!("dev/{name}"), "");
        }
        put(root, "sys/block/sda/sda1/partition", "1\n");
        put(root, "sys/block/sda/sda1/dev", "8:1\n");
        put(root, "sys/block/sdc/holders/md0/x", "");
        put(root, "proc/self/mountinfo", "1 0 8:1 / /mnt/a\\040b rw - ext4 /dev/none rw\n");
        put(root, "proc/swaps", "Filename Type\n");
        fs::create_dir_all(root.join("dev/disk/by-uuid")).unwrap();
        std::os::unix::fs::symlink("../../sdb", root.join("dev/disk/by-uuid/AB-CD")).unwrap();
        let root = fs::canonicalize(root).unwrap();
        let places =
            Places { sys: root.join("sys"), dev: root.join("dev"), proc: root.join("proc") };
        (dir, places)
    }

    #[test]
    fn used_disks_are_told_from_free_ones() {
        let (_dir, places) = machine();
        let disks = list_in(&places).unwrap();
        let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["sda", "sdb", "sdc"]);
        assert_eq!(disks[0].usage, Some(Usage::Mounted("/mnt/a b".to_owned())));
        assert_eq!(disks[0].partitions, ["sda1"]);
        assert_eq!(disks[2].usage, Some(Usage::Holder("md0".to_owned())));
        assert!(!disks[0].is_free() && !disks[2].is_free());
        assert!(disks[1].is_free(), "{:?}", disks[1]);
        assert_eq!(disks[1].model.as_deref(), Some("ACME"));
        assert_eq!(disks[1].links, [places.dev.join("disk/by-uuid/AB-CD")]);
    }

    #[test]
    fn writes_and_discards_are_counted() {
        let (_dir, places) = machine();
        put(
            &places.sys,
            "block/sda/stat",
            "  1  2  3  4  50  6  7  8  9  10  11  600  13  14  15  16  17\n",
        );
        put(&places.sys, "block/sdb/stat", "1 2 3 4 50 6 7 8 9 10 11\n");
        let writes: Vec<_> = list_in(&places).unwrap().iter().map(|disk| disk.writes).collect();
        assert_eq!(writes, [Some(650), Some(50), None]);
    }

    #[test]
    fn partitions_lead_to_their_disk() {
        let (_dir, places) = machine();
        put(&places.sys, "block/sda/device/vendor", "ATA     \n");
        put(&places.sys, "block/sdb/device/vendor", "SEAGATE \n");
        put(&places.sys, "block/sdc/device/vendor", "JMicron \n");
        put(&places.sys, "block/sdc/device/vpd_pg89", "");
        fs::create_dir_all(places.sys.join("dev/block")).unwrap();
        let numbers =
            [("8:97", "sda"), ("8:1", "sda/sda1"), ("8:98", "sdb"), ("8:99", "sdc"), ("1:1", "..")];
        for (number, place) in numbers {
            let link = places.sys.join("dev/block").join(number);
            std::os::unix::fs::symlink(format!("../../block/{place}"), link).unwrap();
        }
        let of = |number| whole_disk_in(&places, number).unwrap();
        let disk = of("8:97").unwrap();
        assert_eq!((disk.name.as_str(), disk.is_partition), ("sda", false));
        assert_eq!(disk.path, places.dev.join("sda"));
        assert_eq!(of("8:1"), Some(WholeDisk { is_partition: true, ..disk.clone() }));
        assert!(disk.may_be_ata && of("8:99").unwrap().may_be_ata);
        assert!(!of("8:98").unwrap().may_be_ata);
        assert_eq!(of("1:1"), None);
        assert!(whole_disk_in(&places, "9:9").is_err());
    }

    #[test]
    fn names_are_resolved_and_escapes_refused() {
        let (_dir, places) = machine();
        assert_eq!(resolve_in(&places, "UUID=AB-CD").unwrap(), places.dev.join("sdb"));
        assert!(resolve_in(&places, "UUID=EF").is_err());
        let escape = resolve_in(&places, "UUID=../../sda").unwrap_err();
        assert_eq!(escape.kind(), io::ErrorKind::InvalidInput);
        let plain = places.dev.join("sda");
        assert_eq!(resolve_in(&places, plain.to_str().unwrap()).unwrap(), plain);
    }

    #[test]
    fn this_machine_can_be_listed() {
        if !Path::new("/sys/block").exists() {
            eprintln!("SKIPPED: no /sys/block here");
            return;
        }
        for disk in list().unwrap() {
            assert!(disk.sectors > 0);
            if matches!(disk.usage, Some(Usage::Mounted(_))) {
                assert!(!disk.is_free());
            }
        }
    }
}
