//! Opening: exclusively, directly where the file system can, and with the sizes that the medium
//! wants.
#![allow(unsafe_code)] // ioctls and flock

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use block::{BufferMut, SECTOR_BYTES};

use super::here::Place;
use crate::sys;

/// `_IO(0x12, n)` and relatives of <linux/fs.h>, which libc leaves out.
const BLKROGET: libc::c_ulong = 0x125e;
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
const BLKSSZGET: libc::c_ulong = 0x1268;
const BLKPBSZGET: libc::c_ulong = 0x127b;
const BLKDISCARD: libc::c_ulong = 0x1277;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// Past the page cache (O_DIRECT) where the file system can; the default.
    pub direct: bool,
    /// Without the right to write.
    pub read_only: bool,
    /// Refuse to share it with any other program, and keep others out as far as they ask. The
    /// default; without it two programs may destroy each other's data.
    pub exclusive: bool,
}

impl Default for FileOptions {
    fn default() -> FileOptions {
        FileOptions { direct: true, read_only: false, exclusive: true }
    }
}

/// Why a file or block device can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it.
    #[error("{path} is in use by {holder}")]
    InUse {
        /// What was to be opened.
        path: PathBuf,
        /// Who has it, as far as can be told.
        holder: String,
    },
    /// Neither a regular file nor a block device.
    #[error("{0} is neither a file nor a block device")]
    NotADisk(PathBuf),
    /// The system refuses.
    #[error("can't open {path}: {error}")]
    System {
        /// What was to be opened.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// An open medium and its block limits.
pub(super) struct Medium {
    pub(super) file: File,
    pub(super) is_block_device: bool,
    /// Whether requests go past the page cache.
    pub(super) direct: bool,
    /// What offsets, lengths and memory must be multiples of.
    pub(super) alignment_bytes: u32,
    pub(super) physical_block_bytes: u32,
    pub(super) read_only: bool,
    /// What it lies on.
    pub(super) place: Place,
}

pub(super) fn open(path: &Path, options: FileOptions) -> Result<Medium, OpenError> {
    let system = |error| OpenError::System { path: path.to_owned(), error };
    let kind = std::fs::metadata(path).map_err(system)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(OpenError::NotADisk(path.to_owned()));
    }
    let is_block_device = kind.is_block_device();
    let exclusive = if is_block_device && options.exclusive { libc::O_EXCL } else { 0 };
    let (file, direct) =
        open_direct_if_possible(path, options, exclusive).map_err(|error| in_use(path, error))?;
    if !is_block_device && options.exclusive {
        lock(path, &file)?;
    }
    let fd = file.as_fd();
    let (alignment_bytes, physical_block_bytes, device_read_only) = if is_block_device {
        let logical = get_int(fd, BLKSSZGET).map_err(system)?;
        let physical = get_int(fd, BLKPBSZGET).map_err(system)?;
        (logical, physical.max(logical), get_int(fd, BLKROGET).map_err(system)? != 0)
    } else {
        let alignment = if direct { probe_alignment(&file).map_err(system)? } else { 1 };
        (alignment, 4096, false)
    };
    Ok(Medium {
        is_block_device,
        direct,
        alignment_bytes: if direct { alignment_bytes.max(SECTOR_BYTES as u32) } else { 1 },
        physical_block_bytes,
        read_only: options.read_only || device_read_only,
        place: place_of(&file, is_block_device).map_err(system)?,
        file,
    })
}

fn open_direct_if_possible(
    path: &Path,
    options: FileOptions,
    exclusive: i32,
) -> io::Result<(File, bool)> {
    let open = |flags: i32| {
        OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .custom_flags(flags | exclusive)
            .open(path)
    };
    if options.direct {
        match open(libc::O_DIRECT) {
            Ok(file) => return Ok((file, true)),
            Err(error) if sys::is_errno(&error, libc::EINVAL) => {
                tracing::info!(path = %path.display(), "no direct I/O here; going through the page cache");
            }
            Err(error) => return Err(error),
        }
    }
    Ok((open(0)?, false))
}

fn in_use(path: &Path, error: io::Error) -> OpenError {
    if sys::is_errno(&error, libc::EBUSY) {
        let holder = crate::disks::usage_of(path)
            .map_or_else(|| "another program".to_owned(), |usage| usage.to_string());
        return OpenError::InUse { path: path.to_owned(), holder };
    }
    OpenError::System { path: path.to_owned(), error }
}

fn lock(path: &Path, file: &File) -> Result<(), OpenError> {
    // SAFETY: no memory is involved.
    match sys::check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(()),
        Err(error) if sys::is_errno(&error, libc::EWOULDBLOCK) => {
            let holder = lock_holder(file)
                .unwrap_or_else(|| "another process, which holds a lock on it".to_owned());
            Err(OpenError::InUse { path: path.to_owned(), holder })
        }
        Err(error) => Err(OpenError::System { path: path.to_owned(), error }),
    }
}

/// Looks the file up in /proc/locks: `1: FLOCK ADVISORY WRITE 1234 08:02:5678 0 EOF`.
fn lock_holder(file: &File) -> Option<String> {
    let inode = format!(":{}", file.metadata().ok()?.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next() == Some("FLOCK")).then_some(())?;
        let pid = words.nth(2)?;
        words.next()?.ends_with(&inode).then_some(pid)
    })?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim_end()))
}

/// The smallest aligned read that the file system takes; 512 when the file is empty.
fn probe_alignment(file: &File) -> io::Result<u32> {
    let mut buffer = BufferMut::zeroed(4096);
    for alignment in [512u32, 1024, 2048] {
        match rustix::io::pread(file, &mut buffer[..alignment as usize], u64::from(alignment)) {
            Ok(_) => return Ok(alignment),
            Err(rustix::io::Errno::INVAL) => {}
            // A bad sector says nothing about alignment.
            Err(rustix::io::Errno::IO) => return Ok(4096),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(4096)
}

fn place_of(file: &File, is_block_device: bool) -> io::Result<Place> {
    /// TMPFS_MAGIC and FUSE_SUPER_MAGIC of <linux/magic.h>.
    const TMPFS: u64 = 0x0102_1994;
    const FUSE: u64 = 0x6573_5546;
    /// Major numbers (devices.txt of the kernel) of what has no device: of file systems on none, and
    /// of loop, nbd and AoE devices.
    const SERVED: [u32; 4] = [0, 7, 43, 152];
    let metadata = file.metadata()?;
    let (number, kind) = match is_block_device {
        true => (metadata.rdev(), None),
        false => (metadata.dev(), Some(rustix::fs::fstatfs(file)?.f_type as u64)),
    };
    if kind == Some(TMPFS) {
        return Ok(Place::Memory);
    }
    let is_served = kind == Some(FUSE) || SERVED.contains(&rustix::fs::major(number));
    Ok(if is_served { Place::Other(number) } else { Place::BlockDevice(number) })
}

/// The present size in bytes.
pub(super) fn size_bytes(file: &File, is_block_device: bool) -> io::Result<u64> {
    if !is_block_device {
        return Ok(file.metadata()?.len());
    }
    let mut bytes = 0u64;
    // SAFETY: BLKGETSIZE64 writes eight bytes.
    sys::check(unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64 as _, &raw mut bytes) })?;
    Ok(bytes)
}

/// Tells a block device that a range isn't needed. Blocks.
pub(super) fn discard_blocking(
    fd: BorrowedFd<'_>,
    start_bytes: u64,
    len_bytes: u64,
) -> io::Result<()> {
    let range = [start_bytes, len_bytes];
    // SAFETY: BLKDISCARD reads two 64-bit numbers.
    sys::check(unsafe { libc::ioctl(fd.as_raw_fd(), BLKDISCARD as _, range.as_ptr()) }).map(drop)
}

fn get_int(fd: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<u32> {
    let mut value: libc::c_int = 0;
    // SAFETY: these ioctls write one int.
    sys::check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &raw mut value) })?;
    Ok(u32::try_from(value).unwrap_or(0))
}
