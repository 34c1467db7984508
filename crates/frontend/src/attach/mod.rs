//! The services' side of a volume's local block device: mounts the directory that the engine
//! serves ([`crate::fuse`]), puts a loop device on its file, and takes both away again.
//!
//! Nothing is remembered between calls. What is attached is read from the kernel each time, so
//! that a services process finds and clears away what a dead predecessor left.
//!
//! All functions block, [`attach`] and [`resize`] until the engine answers: call them where that
//! harms nobody, never in the engine.

mod control;
mod leftovers;
mod loops;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use block::VolumeName;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::fuse::{self, Connection, FILE_NAME, Switch, TRANSFER_BYTES_MAX};
use crate::wait::wait_until;
use crate::{filesystem, kernel};

pub use leftovers::{Attached, list};

/// The type by which our mounts are known in the mount table.
pub(crate) const MOUNT_KIND: &str = "fuse.etherpool";
/// How long the kernel may take to let go of a device or mount that nobody uses.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);
/// How long a device may go on showing an older size, beside writes.
const RESIZE_LIMIT: Duration = Duration::from_secs(10);
/// More mounts than this on top of each other aren't ours to dig through.
const STACKED_MOUNTS_MAX: usize = 16;

/// Where things appear.
#[derive(Clone, Debug)]
pub struct Places {
    /// Holds a private directory for each volume, with the file that the engine serves.
    pub run: PathBuf,
    /// Holds the links `POOL/VOL` to the block devices.
    pub links: PathBuf,
}

impl Default for Places {
    fn default() -> Places {
        Places { run: "/run/etherpool/volumes".into(), links: "/dev/etherpool".into() }
    }
}

impl Places {
    /// The path of the block device that stays the same whatever loop device serves it.
    pub fn link(&self, name: &VolumeName) -> PathBuf {
        self.links.join(name.pool()).join(name.volume())
    }

    /// As the kernel writes it: without links. Only `run` itself is looked at, because looking at
    /// a directory that a dead engine served may fail or hang.
    fn directory(&self, name: &VolumeName) -> Result<PathBuf, AttachError> {
        Ok(self.real_run()?.join(name.pool()).join(name.volume()))
    }

    fn real_run(&self) -> Result<PathBuf, AttachError> {
        match self.run.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(self.run.clone()),
            result => result.map_err(|error| AttachError::system("finding the directory", error)),
        }
    }
}

/// Why a volume could not be attached, resized or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Something is mounted there already; detach first.
    #[error("{0} is mounted already; detach the volume first")]
    AlreadyMounted(PathBuf),
    /// The volume has no mounted file or no loop device.
    #[error("{0} is not attached")]
    NotAttached(VolumeName),
    /// Somebody else was faster with each loop device that was free.
    #[error("no free loop device")]
    NoFreeLoop,
    /// Still open, mounted or used by another driver.
    #[error("{path} is still in use; unmount what is on it and close what has it open")]
    Busy {
        /// What is in use.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Its answer.
        source: io::Error,
    },
}

impl AttachError {
    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> AttachError {
        AttachError::System { what: what.into(), source: source.into() }
    }
}

/// How a volume is detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detach {
    /// In order, with an engine that answers; refused while in use.
    Clean,
    /// The engine is gone or may not be used any more: everything under way fails first.
    Abort,
}

/// Mounts the directory of a volume's file and returns the connection for the engine to serve.
/// The caller keeps no copy of it: the kernel fails the volume's I/O when the last one goes.
pub fn mount(places: &Places, name: &VolumeName) -> Result<Connection, AttachError> {
    create_private(&places.run)?;
    let directory = places.directory(name)?;
    if mounted_at(&directory)? {
        return Err(AttachError::AlreadyMounted(directory));
    }
    create_private(&directory)?;
    let descriptor = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| AttachError::system("opening /dev/fuse", error))?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read={}",
        std::os::fd::AsRawFd::as_raw_fd(&descriptor),
        TRANSFER_BYTES_MAX
    );
    let options = std::ffi::CString::new(options)
        .map_err(|error| AttachError::system("mount options", io::Error::other(error)))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    rustix::mount::mount(name.to_string(), &directory, MOUNT_KIND, flags, options.as_c_str())
        .map_err(|error| {
            AttachError::system(format!("mounting on {}", directory.display()), error)
        })?;
    let abort = (fuse::switch() == Switch::On).then(|| abort_of(&directory)).and_then(|abort| {
        let told = |error: &io::Error| {
            tracing::warn!(volume = %name, %error, "served by a thread, not by io_uring: its connection can't be controlled");
        };
        abort.inspect_err(told).ok()
    });
    Ok(Connection { fuse: descriptor, abort })
}

fn abort_of(directory: &Path) -> io::Result<OwnedFd> {
    // The kernel's table has the number without asking the server, who isn't there yet.
    let entry = kernel::mount_at(directory)?.filter(|entry| entry.kind == MOUNT_KIND);
    control::abort_of(entry.ok_or(io::ErrorKind::NotFound)?.device)
}

/// Puts a loop device with direct I/O on the volume's file and the stable link on that. The engine
/// must serve the file. A volume that has its device keeps it.
pub fn attach(places: &Places, name: &VolumeName, read_only: bool) -> Result<PathBuf, AttachError> {
    let directory = places.directory(name)?;
    if !mounted_at(&directory)? {
        return Err(AttachError::NotAttached(name.clone()));
    }
    let file = directory.join(FILE_NAME);
    let number = match loops::find(&file)?.first() {
        Some(number) => *number,
        None => loops::set_up(&file, &name.to_string(), read_only)?,
    };
    let device = loops::device_path(number);
    if !loops::has_direct_io(number) {
        tracing::warn!(volume = %name, device = %device.display(), "no direct I/O: memory is used twice");
    }
    set_link(&places.link(name), &device)?;
    Ok(device)
}

/// Whether the volume's loop device works: why not, if it doesn't. One that somebody has detached while
/// it is in use, so that it would go with its last user, is kept. Costs a question to the engine that
/// needs no disk, and blocks until that is answered.
pub fn check(
    places: &Places,
    name: &VolumeName,
    device: &Path,
) -> Result<Option<String>, AttachError> {
    let directory = places.directory(name)?;
    if !mounted_at(&directory)? {
        return Ok(Some(format!("{} is no longer mounted", directory.display())));
    }
    let file = directory.join(FILE_NAME);
    let Some(number) = loops::number_of(device).filter(|number| loops::is_on(*number, &file))
    else {
        return Ok(Some(format!("{} was detached", device.display())));
    };
    if loops::is_leaving(number) {
        loops::stay(number, &file, &name.to_string())?;
        tracing::warn!(volume = %name, device = %device.display(), "somebody detached it while it is in use; it is kept");
    }
    match rustix::fs::statfs(&directory) {
        Ok(_) => Ok(None),
        Err(error) if filesystem::is_fatal(error) => {
            let why = io::Error::from(error);
            Ok(Some(format!("the engine doesn't serve {} any more: {why}", device.display())))
        }
        Err(error) => Err(AttachError::system(format!("looking at {}", device.display()), error)),
    }
}

/// Lets the loop device see the size that the engine gives the file now; returns it in bytes.
pub fn resize(places: &Places, name: &VolumeName) -> Result<u64, AttachError> {
    let not_attached = || AttachError::NotAttached(name.clone());
    let file = places.directory(name)?.join(FILE_NAME);
    let number = *loops::find(&file)?.first().ok_or_else(not_attached)?;
    let show = || {
        // Before 6.16 the loop driver believes the cached size, which this renews ...
        let size_bytes = std::fs::metadata(&file)
            .map_err(|error| AttachError::system(format!("{}", file.display()), error))?
            .len();
        loops::set_capacity(number)?;
        Ok((size_bytes, loops::size_bytes(number)?))
    };
    // ... unless a write was answered meanwhile: the kernel takes what it was told of the file for older than
    // that then (`fuse_change_attributes`: the version of attributes).
    let mut shown = Ok((0, 0));
    let is_over = wait_until(RESIZE_LIMIT, || {
        shown = show();
        !matches!(&shown, Ok((file, device)) if file != device)
    });
    let (size_bytes, device_bytes) = shown?;
    if !is_over {
        let device = loops::device_path(number);
        let what = format!("{} still shows {device_bytes} of {size_bytes} bytes", device.display());
        return Err(AttachError::system(what, io::ErrorKind::TimedOut));
    }
    Ok(size_bytes)
}

/// Takes the volume's loop device, mount, link and directory away, as far as they exist, in
/// whatever state they are. The file system on the device is unmounted before.
pub fn detach(places: &Places, name: &VolumeName, how: Detach) -> Result<(), AttachError> {
    let directory = places.directory(name)?;
    let file = directory.join(FILE_NAME);
    let loops = loops::find(&file)?;
    if how == Detach::Abort {
        // Fails everything under way. The mount itself goes last: while it is there, its loop
        // device can be told by its path, whoever looks next.
        match unmount(&directory, UnmountFlags::FORCE) {
            Ok(()) | Err(AttachError::Busy { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    for number in &loops {
        loops::clear(*number, &file)?;
    }
    for number in loops {
        // Whoever holds files of a dead file system keeps its device, but not the volume: the
        // file behind is gone already, and the next attachment takes another device.
        let gone =
            || !loops::is_on(number, &file) || (how == Detach::Abort && loops::is_leaving(number));
        if !wait_until(RELEASE_LIMIT, gone) {
            return Err(AttachError::Busy { path: loops::device_path(number) });
        }
    }
    if how == Detach::Abort {
        unmount(&directory, UnmountFlags::FORCE | UnmountFlags::DETACH)?;
    } else {
        let free = wait_until(RELEASE_LIMIT, || {
            !matches!(unmount(&directory, UnmountFlags::NOFOLLOW), Err(AttachError::Busy { .. }))
        });
        if !free {
            return Err(AttachError::Busy { path: directory });
        }
    }
    if mounted_at(&directory)? {
        return Err(AttachError::Busy { path: directory });
    }
    remove_traces(places, name, &directory);
    Ok(())
}

fn unmount(directory: &Path, flags: UnmountFlags) -> Result<(), AttachError> {
    for _ in 0..STACKED_MOUNTS_MAX {
        if !mounted_at(directory)? {
            break;
        }
        match rustix::mount::unmount(directory, flags) {
            Ok(()) => {}
            Err(rustix::io::Errno::BUSY) => {
                return Err(AttachError::Busy { path: directory.to_owned() });
            }
            // Unmounted by somebody else since the look at the table.
            Err(rustix::io::Errno::INVAL) => {}
            Err(error) => {
                let what = format!("unmounting {}", directory.display());
                return Err(AttachError::system(what, error));
            }
        }
    }
    Ok(())
}

/// Whether one of our mounts is at `directory`.
fn mounted_at(directory: &Path) -> Result<bool, AttachError> {
    let entry = kernel::mount_at(directory)
        .map_err(|error| AttachError::system("reading the mount table", error))?;
    Ok(entry.is_some_and(|entry| entry.kind == MOUNT_KIND))
}

fn create_private(directory: &Path) -> Result<(), AttachError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| AttachError::system(format!("creating {}", directory.display()), error))
}

/// Replaces the link in one step, so that its readers never find nothing.
fn set_link(link: &Path, device: &Path) -> Result<(), AttachError> {
    let failed = |error| AttachError::system(format!("linking {}", link.display()), error);
    if std::fs::read_link(link).is_ok_and(|present| present == device) {
        return Ok(());
    }
    if let Some(parent) = link.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    // No volume's name begins with a dot.
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    let fresh = link.with_file_name(format!(".{name}.new"));
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    std::os::unix::fs::symlink(device, &fresh).map_err(failed)?;
    std::fs::rename(&fresh, link).map_err(failed)
}

/// Links and directories are conveniences: what can't be removed harms nobody.
fn remove_traces(places: &Places, name: &VolumeName, directory: &Path) {
    let link = places.link(name);
    let _ = std::fs::remove_file(&link);
    let _ = link.parent().map(std::fs::remove_dir);
    let _ = std::fs::remove_dir(directory);
    let _ = directory.parent().map(std::fs::remove_dir);
}
