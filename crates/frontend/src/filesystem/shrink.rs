//! Making file systems smaller, and how much of its device what it carries uses: nothing of that may be cut off.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use block::probe::Signature;
use tokio::process::Command;

use super::make::{TOOL_LIMIT, in_words, repair, signatures};
use super::mount::mounted_anywhere;
use super::tool::run_well;
use super::{FilesystemError, blocking};

/// What a device carries, and how much of it that uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// In words; nothing where nothing was recognised.
    pub found: Option<String>,
    /// From the start of the device, up to which all of it is; none where that isn't known.
    pub bytes: Option<u64>,
    /// How it becomes smaller.
    pub shrinking: Shrinking,
}

/// How what a device carries becomes smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shrinking {
    /// By [`shrink`], while it isn't mounted.
    Offline,
    /// By its own tools, while it is mounted.
    Mounted,
    /// Never.
    Never,
    /// There is nothing, or nobody here knows how.
    Unknown,
}

/// Looks at what a device carries, and how far that goes.
pub async fn extent(device: PathBuf) -> Result<Extent, FilesystemError> {
    blocking(move || {
        let cant_read =
            |error| FilesystemError::system(format!("reading {}", device.display()), error);
        let found = signatures(&device).map_err(|why| cant_read(std::io::Error::other(why)))?;
        let file = File::open(&device).map_err(cant_read)?;
        let mut bytes = Some(0);
        for signature in &found {
            let used = used_by(*signature, &file).map_err(cant_read)?;
            bytes = bytes.zip(used).map(|(most, used)| used.max(most));
        }
        let shrinking = match found.as_slice() {
            [Signature::Ext] => Shrinking::Offline,
            [Signature::Btrfs] => Shrinking::Mounted,
            [Signature::Xfs] => Shrinking::Never,
            _ => Shrinking::Unknown,
        };
        let found = (!found.is_empty()).then(|| in_words(&found));
        Ok(Extent { found, bytes, shrinking })
    })
    .await
}

/// The size to which the unmounted file system on `device` could be made smaller at least.
pub async fn smallest(device: &Path) -> Result<u64, FilesystemError> {
    let mut command = Command::new("resize2fs");
    command.args(["-P", "--"]).arg(device);
    let said = run_well("resize2fs", &mut command, TOOL_LIMIT, |_| {}).await?;
    let blocks = estimate(&said);
    let device = device.to_path_buf();
    let block_bytes = blocking(move || {
        let read = File::open(&device).and_then(|file| read_at(&file, EXT_OFFSET));
        let read =
            read.map_err(|error| FilesystemError::system("reading its superblock", error))?;
        Ok(ext_block_bytes(&read))
    })
    .await?;
    blocks.zip(block_bytes).and_then(|(blocks, bytes)| blocks.checked_mul(bytes)).ok_or_else(|| {
        FilesystemError::Tool { tool: "resize2fs", status: "no size".to_owned(), output: said }
    })
}

/// The blocks in what `resize2fs -P` says, whose version may stand before or behind.
fn estimate(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.rsplit_once(": ")?.1.trim().parse().ok())
}

/// Checks the unmounted file system on `device`, which [`extent`] says can be shrunk offline, and makes it so
/// small. Done when that is durable. Cut short, it is repeated.
pub async fn shrink(
    device: PathBuf,
    bytes: u64,
    progress: impl FnMut(&str),
) -> Result<(), FilesystemError> {
    let looked_at = device.clone();
    if blocking(move || mounted_anywhere(&looked_at)).await?.is_some() {
        let why = std::io::Error::other("it is mounted");
        return Err(FilesystemError::system("making a file system smaller", why));
    }
    repair(&device).await?;
    let smallest_bytes = smallest(&device).await?;
    if bytes < smallest_bytes {
        return Err(FilesystemError::TooFull { device, smallest_bytes });
    }
    let mut command = Command::new("resize2fs");
    command.args(["-p", "--"]).arg(&device).arg(format!("{}K", bytes / 1024));
    run_well("resize2fs", &mut command, TOOL_LIMIT, progress).await?;
    blocking(move || {
        let synced = File::open(&device).and_then(|file| file.sync_all());
        synced.map_err(|error| {
            FilesystemError::system(format!("syncing {}", device.display()), error)
        })
    })
    .await
}

/// Where an ext superblock is.
const EXT_OFFSET: u64 = 1024;
/// Where a btrfs superblock is.
const BTRFS_OFFSET: u64 = 64 << 10;
/// Of any superblock here.
const SUPERBLOCK_BYTES: usize = 1024;

/// A superblock.
type Superblock = [u8; SUPERBLOCK_BYTES];

fn read_at(file: &File, offset: u64) -> std::io::Result<Superblock> {
    let mut superblock = [0; SUPERBLOCK_BYTES];
    file.read_exact_at(&mut superblock, offset).map(|()| superblock)
}

/// Up to which byte a file system is on its device, as its superblock says.
fn used_by(signature: Signature, file: &File) -> std::io::Result<Option<u64>> {
    Ok(match signature {
        Signature::Ext => ext_bytes(&read_at(file, EXT_OFFSET)?),
        Signature::Xfs => xfs_bytes(&read_at(file, 0)?),
        Signature::Btrfs => btrfs_bytes(&read_at(file, BTRFS_OFFSET)?),
        _ => None,
    })
}

fn little<const N: usize>(superblock: &Superblock, at: usize) -> u64 {
    superblock[at..at + N].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn big<const N: usize>(superblock: &Superblock, at: usize) -> u64 {
    superblock[at..at + N].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// `s_log_block_size`.
fn ext_block_bytes(superblock: &Superblock) -> Option<u64> {
    let shift = little::<4>(superblock, 24);
    (shift <= 6).then(|| 1024 << shift)
}

/// `s_blocks_count`, of which the upper half counts with the feature `64bit`.
fn ext_bytes(superblock: &Superblock) -> Option<u64> {
    let is_64_bit = little::<4>(superblock, 96) & 0x80 != 0;
    let high = if is_64_bit { little::<4>(superblock, 0x150) } else { 0 };
    let blocks = high << 32 | little::<4>(superblock, 4);
    blocks.checked_mul(ext_block_bytes(superblock)?)
}

/// `sb_dblocks` and `sb_blocksize`.
fn xfs_bytes(superblock: &Superblock) -> Option<u64> {
    let bytes = big::<4>(superblock, 4);
    let is_size = bytes.is_power_of_two() && (512..=65536).contains(&bytes);
    big::<8>(superblock, 8).checked_mul(bytes).filter(|_| is_size)
}

/// `total_bytes` of the device that the superblock is on, of a file system of this device alone: of another one it
/// isn't known what would be lost.
fn btrfs_bytes(superblock: &Superblock) -> Option<u64> {
    let devices = little::<8>(superblock, 0x88);
    (devices == 1).then(|| little::<8>(superblock, 0xc9 + 8))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::btrfs::run_beside_dead_mounts;
    use super::*;

    const MIB: u64 = 1 << 20;

    /// An image that a tool has made a file system in.
    async fn made(
        tool: &'static str,
        arguments: &[&str],
        bytes: u64,
    ) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(bytes).unwrap();
        run_beside_dead_mounts(tool, arguments, &image, |_| {}).await.unwrap();
        (directory, image)
    }

    #[tokio::test]
    async fn how_far_a_file_system_goes_is_in_its_superblock() {
        for (tool, arguments, shrinking) in [
            ("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "4096"][..], Shrinking::Offline),
            (
                "mke2fs",
                &["-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^64bit"],
                Shrinking::Offline,
            ),
            ("mkfs.xfs", &["-q"], Shrinking::Never),
            ("mkfs.btrfs", &["-q"], Shrinking::Mounted),
        ] {
            let (_directory, image) = made(tool, arguments, 400 * MIB).await;
            File::options().write(true).open(&image).unwrap().set_len(500 * MIB).unwrap();
            let seen = extent(image).await.unwrap();
            assert_eq!((seen.bytes, seen.shrinking), (Some(400 * MIB), shrinking), "{tool}");
        }
    }

    #[tokio::test]
    async fn what_nobody_knows_has_no_extent() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        std::fs::write(&image, vec![0; 4 << 20]).unwrap();
        let blank = Extent { found: None, bytes: Some(0), shrinking: Shrinking::Unknown };
        assert_eq!(extent(image.clone()).await.unwrap(), blank);
        std::fs::write(&image, vec![7; 4 << 20]).unwrap();
        let seen = extent(image).await.unwrap();
        assert!(seen.found.is_some() && seen.bytes.is_none(), "{seen:?}");
    }

    #[tokio::test]
    async fn ext4_is_made_smaller_and_never_too_small() {
        let (_directory, image) =
            made("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "4096"], 64 * MIB).await;
        shrink(image.clone(), 32 * MIB + 8192, |_| {}).await.unwrap();
        let seen = extent(image.clone()).await.unwrap();
        assert!(seen.bytes.is_some_and(|bytes| bytes <= 32 * MIB + 8192), "{seen:?}");
        // Again, as after a crash.
        shrink(image.clone(), 32 * MIB + 8192, |_| {}).await.unwrap();
        let least = smallest(&image).await.unwrap();
        assert!(least > 0 && least < 32 * MIB, "{least}");
        let refused = shrink(image.clone(), least - 4096, |_| {}).await;
        assert!(
            matches!(refused, Err(FilesystemError::TooFull { smallest_bytes, .. }) if smallest_bytes == least)
        );
        super::super::check(image, block::FsType::Ext4).await.unwrap();
    }

    #[test]
    fn the_estimate_of_resize2fs_stands_in_any_line() {
        let (version, size) = (
            "resize2fs 1.47.0 (5-Feb-2023)\n",
            "Estimated minimum size of the filesystem: 18250\n",
        );
        assert_eq!(estimate(&[size, version].concat()), Some(18250));
        assert_eq!(estimate(&[version, size].concat()), Some(18250));
        assert_eq!(estimate(version), None);
    }

    #[test]
    fn superblocks_may_say_anything() {
        let full = [0xff; SUPERBLOCK_BYTES];
        assert_eq!((ext_bytes(&full), xfs_bytes(&full), btrfs_bytes(&full)), (None, None, None));
        let zeros = [0; SUPERBLOCK_BYTES];
        assert_eq!(
            (ext_bytes(&zeros), xfs_bytes(&zeros), btrfs_bytes(&zeros)),
            (Some(0), None, None)
        );
    }
}
