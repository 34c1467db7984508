//! What the kernel says about mounts.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A line of `/proc/self/mountinfo`, as far as it is of use here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The mount's number, by which the kernel tells it from all others.
    pub id: u64,
    /// Major and minor number of the device; of btrfs, numbers that are no device's.
    pub device: (u32, u32),
    /// The part of the file system that is mounted; `/` for all of it.
    pub root: PathBuf,
    /// Where it is.
    pub target: PathBuf,
    /// Of this mount.
    pub options: String,
    /// The type of the file system.
    pub kind: String,
    /// What is mounted, as whoever mounted it named it.
    pub source: String,
    /// Of the file system, whatever its mounts say.
    pub super_options: String,
}

impl MountEntry {
    /// Whether the file system of the block device with these numbers is what is mounted. btrfs, which may
    /// have several devices, names one of them as its source and has no device's numbers.
    pub fn is_of(&self, device: (u32, u32)) -> bool {
        self.device == device
            || (self.kind == "btrfs" && device_number(self.source.as_ref()).ok() == Some(device))
    }
}

/// Major and minor number of a block device.
pub fn device_number(device: &Path) -> io::Result<(u32, u32)> {
    let number = std::fs::metadata(device)?.rdev();
    Ok((rustix::fs::major(number), rustix::fs::minor(number)))
}

/// The mount that an open file or directory was reached by.
pub fn mount_of(opened: BorrowedFd<'_>) -> io::Result<Option<MountEntry>> {
    let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", opened.as_raw_fd()))?;
    let id = told.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    Ok(mounts()?.into_iter().find(|entry| Some(entry.id) == id))
}

/// All mounts, in order of mounting.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// The mount at `target` that is on top, if something is mounted exactly there.
pub fn mount_at(target: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rev().find(|entry| entry.target == target))
}

fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = std::str::from_utf8(fields.by_ref().nth(1)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let root = PathBuf::from(unescape(fields.next()?));
    let target = PathBuf::from(unescape(fields.next()?));
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = unescape(rest.next()?).to_string_lossy().into_owned();
    let super_options = String::from_utf8_lossy(rest.next().unwrap_or_default()).into_owned();
    let device = (major.parse().ok()?, minor.parse().ok()?);
    Some(MountEntry { id, device, root, target, options, kind, source, super_options })
}

/// Blanks, tabs, line feeds and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_mount_table() {
        let line =
            br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext4 /dev/ro\134ot rw,shutdown";
        let entry = parse(line);
        assert_eq!(
            entry,
            Some(MountEntry {
                id: 36,
                device: (98, 0),
                root: "/mnt1".into(),
                target: "/mnt 2".into(),
                options: "rw,noatime".into(),
                kind: "ext4".into(),
                source: r"/dev/ro\ot".into(),
                super_options: "rw,shutdown".into(),
            })
        );
        for bad in [
            "",
            "36 35 98:0 /",
            "36 35 98 / / rw - ext4 a",
            "1 2 3:4 / /x rw",
            "x 2 3:4 / /x rw - a b c",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(unescape(br"a\9zz\"), r"a\9zz\");
    }
}
