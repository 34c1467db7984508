//! Whether a mounted file system still works: a mount whose device is dead looks like any other to
//! whoever only reads the mount table.

use std::io;
use std::path::Path;

use block::{BLOCK_BYTES, BufferMut, FsType};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::FilesystemError;
use super::mount::{device_number, mount_entry};
use crate::kernel::MountEntry;

/// How a mount is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It takes writes, or reads where no more is wanted.
    Well,
    /// The device isn't mounted there; this is, if anything.
    NotMounted(Option<String>),
    /// It gives errors for ever: mounting it anew is all that helps.
    Dead(String),
    /// The file system found damage in itself and refuses writes; mounting it anew would only spread
    /// that.
    Damaged(String),
    /// It has stopped for ever, and doesn't say why: errors of its device, then it is dead, or damage.
    Stopped(String),
    /// Somebody made it read-only.
    ReadOnly,
}

/// Of ext4's `last_error_errcode` (fs/ext4/ext4.h): a checksum that is wrong, and contents that are.
const DAMAGE_CODES: [u32; 2] = [4, 5];
/// Somebody met a file system that had become read-only: what had made it so is the first error.
const READ_ONLY_CODE: u32 = 8;

/// Looks at the mount of `device` at `target`: by what the kernel says of it, which costs nothing. If
/// `thorough`, something is written too, which blocks until the device answers: a journal that has
/// given up because of an error says so only to the next who writes.
pub fn probe(
    device: &Path,
    target: &Path,
    read_only: bool,
    thorough: bool,
) -> Result<Condition, FilesystemError> {
    let expected = device_number(device)?;
    let look = || mount_entry(target);
    let ours = |entry: &MountEntry| entry.is_of(expected);
    let mut entry = look()?;
    if !entry.as_ref().is_some_and(ours) {
        // The table is read in pieces: one that changes meanwhile may hide a line.
        entry = look()?;
    }
    let entry = match entry {
        Some(entry) if ours(&entry) => entry,
        other => return Ok(Condition::NotMounted(other.map(|entry| entry.source))),
    };
    let by_itself = |entry: &MountEntry| {
        by_options(entry, read_only, || damage_of(device)).or_else(|| shut_down_by_itself(entry))
    };
    if let Some(condition) = by_itself(&entry) {
        return Ok(condition);
    }
    if read_only || !thorough {
        return Ok(Condition::Well);
    }
    match write(&entry, device) {
        Ok(()) => Ok(Condition::Well),
        Err(error) if is_fatal(error) => {
            // A file system that has just stopped by itself says more in the table than by its errors.
            let now = look()?.filter(ours);
            let told = now.as_ref().and_then(by_itself);
            Ok(told.unwrap_or_else(|| Condition::Dead(io::Error::from(error).to_string())))
        }
        Err(error) => {
            Err(FilesystemError::system(format!("looking at {}", target.display()), error))
        }
    }
}

/// What the kernel says of the file system by itself.
fn by_options(
    entry: &MountEntry,
    read_only: bool,
    damage: impl FnOnce() -> Option<String>,
) -> Option<Condition> {
    let has = |options: &str, name: &str| options.split(',').any(|option| option == name);
    let stopped = has(&entry.super_options, "emergency_ro")
        // Kernels before 6.15 make the file system read-only, and leave its mount as it was.
        || (!read_only && has(&entry.super_options, "ro") && !has(&entry.options, "ro"));
    if has(&entry.super_options, "shutdown") {
        Some(Condition::Dead("the file system was shut down".to_owned()))
    } else if stopped {
        Some(match damage() {
            _ if entry.kind != FsType::Ext4.name() => {
                Condition::Stopped(format!("{} made itself read-only", entry.kind))
            }
            Some(damage) => Condition::Damaged(damage),
            None => Condition::Dead("errors of the device made it read-only".to_owned()),
        })
    } else if !read_only && has(&entry.options, "ro") {
        Some(Condition::ReadOnly)
    } else {
        None
    }
}

/// An XFS that has shut itself down says so to whoever asks for one of its inodes, for which it needs no
/// device, and nowhere else.
fn shut_down_by_itself(entry: &MountEntry) -> Option<Condition> {
    let is_shut_down = entry.kind == FsType::Xfs.name()
        && rustix::fs::stat(&entry.target).err() == Some(Errno::IO);
    is_shut_down.then(|| Condition::Stopped("xfs has shut itself down".to_owned()))
}

/// Why an ext4 that made itself read-only did so, when it wasn't for errors of its device. Where that
/// isn't told, damage is the safe guess.
fn damage_of(device: &Path) -> Option<String> {
    let directory = Path::new("/sys/fs/ext4").join(device.file_name()?);
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
    let place = || {
        let (function, line) = (read("last_error_func")?, read("last_error_line")?);
        Some(format!("ext4 found an error in {}, line {}", function.trim(), line.trim()))
    };
    let code = |name: &str| read(name)?.trim().parse().ok();
    let last = code("last_error_errcode").filter(|last| *last != READ_ONLY_CODE);
    match last.or_else(|| code("first_error_errcode")) {
        Some(code) if !DAMAGE_CODES.contains(&code) => None,
        _ => Some(place().unwrap_or_else(|| "ext4 made itself read-only".to_owned())),
    }
}

/// Writes a file without a name: nobody sees it, and it goes with its descriptor.
fn write(entry: &MountEntry, device: &Path) -> Result<(), Errno> {
    let root = &entry.target;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(root, flags, Mode::RUSR | Mode::WUSR) {
        // It spares itself the writing of a file that nothing leads to.
        Ok(file) if entry.kind == FsType::Btrfs.name() => rustix::fs::syncfs(file),
        Ok(file) => rustix::fs::fsync(file),
        // Full is not dead, though a dead one may call itself full: it can't be written back. Where there
        // is nothing to write back, or not yet, it can't be read.
        Err(Errno::NOSPC | Errno::DQUOT | Errno::OPNOTSUPP) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::syncfs(rustix::fs::open(root, flags, Mode::empty())?)?;
            read(device)
        }
        Err(error) => Err(error),
    }
}

/// Reads a block of the device itself, past the page cache.
fn read(device: &Path) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let device = rustix::fs::open(device, flags, Mode::empty())?;
    rustix::io::pread(device, &mut *BufferMut::zeroed(BLOCK_BYTES), 0).map(drop)
}

/// Whether an error says that the file system or device is dead, not that this process is short of
/// something.
pub(crate) fn is_fatal(error: Errno) -> bool {
    !matches!(error, Errno::NOMEM | Errno::NFILE | Errno::MFILE | Errno::INTR | Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(options: &str, super_options: &str, read_only: bool) -> Option<Condition> {
        told_of("ext4", options, super_options, read_only)
    }

    fn told_of(
        kind: &str,
        options: &str,
        super_options: &str,
        read_only: bool,
    ) -> Option<Condition> {
        let entry = MountEntry {
            id: 1,
            device: (7, 0),
            root: "/".into(),
            target: "/srv/v".into(),
            options: options.into(),
            kind: kind.into(),
            source: "/dev/loop0".into(),
            super_options: super_options.into(),
        };
        by_options(&entry, read_only, || Some("damage".to_owned()))
    }

    #[test]
    fn the_mount_table_tells_the_living_from_the_dead() {
        let damaged = || Some(Condition::Damaged("damage".to_owned()));
        assert_eq!(told("rw,noatime", "rw", false), None);
        assert_eq!(told("ro,noatime", "ro", true), None);
        assert_eq!(told("rw", "rw,errors=remount-ro", false), None);
        assert_eq!(told("ro", "ro", false), Some(Condition::ReadOnly));
        assert_eq!(told("ro", "rw", false), Some(Condition::ReadOnly));
        assert_eq!(told("rw", "ro", false), damaged());
        assert_eq!(told("rw", "rw,emergency_ro", false), damaged());
        assert_eq!(told("ro", "ro,emergency_ro", true), damaged());
        let btrfs = |options, super_options| told_of("btrfs", options, super_options, false);
        assert!(matches!(btrfs("rw,noatime", "ro,subvol=/"), Some(Condition::Stopped(_))));
        assert_eq!(btrfs("ro", "ro,subvol=/"), Some(Condition::ReadOnly));
        for dead in ["rw,shutdown", "rw,emergency_ro,shutdown"] {
            assert!(matches!(told("rw", dead, false), Some(Condition::Dead(_))), "{dead}");
        }
    }
}
