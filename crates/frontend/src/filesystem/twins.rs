//! Two file systems of the same UUID: a volume and a copy of it, or what programs still hold open of one whose
//! device was lost, and the same on a new device. ext4 doesn't mind; XFS and btrfs keep the second out.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use block::FsType;

use super::FilesystemError;
use crate::kernel;

/// Where the other one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Twin {
    /// Mounted there.
    MountedAt(PathBuf),
    /// Out of sight: programs hold files of it, or it is mounted in another mount namespace.
    Held,
}

impl fmt::Display for Twin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Twin::MountedAt(path) => write!(f, "is mounted at {}", path.display()),
            Twin::Held => f.write_str("is in use already, though mounted nowhere in sight"),
        }
    }
}

/// Where another file system is mounted that has this UUID, if it is in sight. Reads the devices of other
/// mounts, so only where a mount was refused.
pub(super) fn mounted_twin(
    device: (u32, u32),
    fstype: FsType,
    uuid: &str,
) -> Result<Option<PathBuf>, FilesystemError> {
    let mounts = kernel::mounts()
        .map_err(|error| FilesystemError::system("reading the mount table", error))?;
    let twin = mounts.into_iter().find(|entry| {
        entry.kind == fstype.name()
            && !entry.is_of(device)
            && uuid_of(entry.source.as_ref(), fstype).as_deref() == Some(uuid)
    });
    Ok(twin.map(|entry| entry.target))
}

/// The UUID by which the kernel tells file systems of a kind apart, if the device carries one.
pub(super) fn uuid_of(device: &Path, fstype: FsType) -> Option<String> {
    let (magic_at, magic, uuid_at): (u64, &[u8], u64) = match fstype {
        FsType::Ext4 => (0x438, &[0x53, 0xef], 0x468),
        FsType::Xfs => (0, b"XFSB", 32),
        FsType::Btrfs => (0x10040, b"_BHRfS_M", 0x10020),
    };
    let device = File::open(device).ok()?;
    let (mut found, mut uuid) = ([0; 8], [0; 16]);
    let found = &mut found[..magic.len()];
    device.read_exact_at(found, magic_at).ok()?;
    device.read_exact_at(&mut uuid, uuid_at).ok()?;
    (*found == *magic).then(|| in_words(&uuid))
}

fn in_words(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    #[test]
    fn a_uuid_is_read_where_its_magic_stands() {
        let uuid = "00010203-0405-0607-0809-0a0b0c0d0e0f";
        let (mut xfs, mut btrfs) = (vec![0u8; 4096], vec![0u8; 0x11000]);
        xfs[..4].copy_from_slice(b"XFSB");
        btrfs[0x10040..0x10048].copy_from_slice(b"_BHRfS_M");
        for at in 0..16u8 {
            xfs[32 + usize::from(at)] = at;
            btrfs[0x10020 + usize::from(at)] = at;
        }
        let read = |bytes: &[u8], fstype| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(bytes).unwrap();
            uuid_of(file.path(), fstype)
        };
        assert_eq!(read(&xfs, FsType::Xfs).as_deref(), Some(uuid));
        assert_eq!(read(&btrfs, FsType::Btrfs).as_deref(), Some(uuid));
        assert_eq!(read(&xfs, FsType::Btrfs), None);
        assert_eq!(read(&btrfs, FsType::Xfs), None);
        assert_eq!(read(b"XFSB", FsType::Xfs), None, "cut off");
    }
}
