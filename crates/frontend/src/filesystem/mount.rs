//! Mounting and its undoing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use block::FsType;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::holders::{Holder, holders};
use super::make::recognise;
use super::place::{Place, check_now};
use super::twins::{Twin, mounted_twin, uuid_of};
use super::{FilesystemError, PlaceRules, blocking};
use crate::kernel;

/// How often, and how far apart, an unmount is tried that finds somebody who may just be letting go.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(25);

/// What a call of [`mount`] found or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounted {
    /// It was not mounted and is now.
    Now,
    /// It was mounted there already.
    Before,
}

/// Mounts `device` at `target`, which is made if need be; the kernel replays the journal first.
/// `options` are as in fstab: `noatime,nodev,discard`. Programs and devices on the file system have
/// no power here unless `suid`, `dev` are among them.
pub async fn mount(
    device: PathBuf,
    target: PathBuf,
    fstype: FsType,
    options: String,
    rules: PlaceRules,
) -> Result<Mounted, FilesystemError> {
    blocking(move || mount_now(&device, &target, fstype, &options, &rules)).await
}

/// Judges a mount point without mounting, and returns where it leads. `device` may be mounted there
/// already.
pub async fn check_place(
    target: PathBuf,
    rules: PlaceRules,
    device: Option<PathBuf>,
) -> Result<PathBuf, FilesystemError> {
    blocking(move || {
        let device = device.as_deref().and_then(|device| device_number(device).ok());
        check_now(&target, &rules, device)
    })
    .await
}

fn mount_now(
    device: &Path,
    target: &Path,
    fstype: FsType,
    options: &str,
    rules: &PlaceRules,
) -> Result<Mounted, FilesystemError> {
    let expected = device_number(device)?;
    // A mount point whose file system is dead answers nothing: look at the table first.
    if let Some(entry) = mount_entry(target)? {
        if entry.is_of(expected) && entry.kind == fstype.name() {
            return Ok(Mounted::Before);
        }
        let (target, source_name) = (entry.target, entry.source);
        return Err(FilesystemError::OtherMount { target, source_name });
    }
    let place = Place::prepare(target, rules)?;
    if real(target) != place.path {
        // By this path nobody would find the mount again to take it away.
        let reason = format!("it is a link to {}", place.path.display());
        let remedy = "name the directory itself".to_owned();
        return Err(FilesystemError::MountPoint { path: target.to_owned(), reason, remedy });
    }
    let what = MountCall { device, on: &place.handle(), fstype, options };
    let mounted = match what.perform() {
        // What refuses is the one that this one replaces: it was shut down and its device taken away, but
        // programs hold files of it. A copy that is in use would be in sight.
        Err(Errno::INVAL) if fstype == FsType::Xfs && rules.comes_back && !has_twin(&what)? => {
            MountCall { options: &format!("{options},nouuid"), ..what }.perform()
        }
        done => done,
    };
    mounted.map_err(|error| what.refused(target, error))?;
    // Where whoever unmounts it will look.
    match mount_entry(target)? {
        Some(entry) if entry.is_of(expected) && entry.kind == fstype.name() => Ok(Mounted::Now),
        _ => {
            unmount_everywhere(expected)?;
            Err(FilesystemError::NotMounted(target.to_owned()))
        }
    }
}

/// Mounts `device` at `target`, a directory of this process's own, for as long as it takes to grow. That is no
/// place to mistake a copy for its original, nor for one whose device was lost and which the kernel still ends.
pub(super) async fn mount_for_growth(
    device: PathBuf,
    target: PathBuf,
    fstype: FsType,
) -> Result<(), FilesystemError> {
    blocking(move || {
        std::fs::create_dir_all(&target).map_err(|error| {
            FilesystemError::system(format!("creating {}", target.display()), error)
        })?;
        let options = if fstype == FsType::Xfs { "noexec,nouuid" } else { "noexec" };
        let what = MountCall { device: &device, on: &target, fstype, options };
        what.perform().map_err(|error| what.refused(&target, error))
    })
    .await
}

/// A call to the kernel.
#[derive(Clone, Copy)]
struct MountCall<'a> {
    device: &'a Path,
    /// A path that leads to the mount point.
    on: &'a Path,
    fstype: FsType,
    options: &'a str,
}

impl MountCall<'_> {
    fn perform(&self) -> Result<(), Errno> {
        let (flags, data) = parse_options(self.options);
        let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
        rustix::mount::mount(self.device, self.on, self.fstype.name(), flags, data.as_c_str())
    }

    /// What the kernel's refusal means.
    fn refused(&self, target: &Path, error: Errno) -> FilesystemError {
        let (device, target, fstype) = (self.device.to_owned(), target.to_owned(), self.fstype);
        if error == Errno::NODEV {
            return FilesystemError::NoDriver { device, target, fstype };
        }
        // btrfs says so, XFS says that something is wrong.
        let expected = [(FsType::Btrfs, Errno::EXIST), (FsType::Xfs, Errno::INVAL)];
        let twin = expected.contains(&(fstype, error)).then(|| {
            let uuid = uuid_of(&device, fstype)?;
            let mounted = mounted_twin(device_number(&device).ok()?, fstype, &uuid).ok()?;
            let whose = mounted.map(Twin::MountedAt);
            Some((uuid, whose.or((error == Errno::EXIST).then_some(Twin::Held))?))
        });
        if let Some((uuid, whose)) = twin.flatten() {
            return FilesystemError::SameUuid { device, target, fstype, uuid, whose };
        }
        let contents = recognise(&device);
        FilesystemError::NotMountable { device, target, source: error.into(), contents }
    }
}

/// Whether a file system of the same UUID is mounted in sight.
fn has_twin(what: &MountCall<'_>) -> Result<bool, FilesystemError> {
    let Some(uuid) = uuid_of(what.device, what.fstype) else { return Ok(false) };
    Ok(mounted_twin(device_number(what.device)?, what.fstype, &uuid)?.is_some())
}

/// Takes back a mount whose directory was moved while it was made.
fn unmount_everywhere(device: (u32, u32)) -> Result<(), FilesystemError> {
    let mounts = kernel::mounts()
        .map_err(|error| FilesystemError::system("reading the mount table", error))?;
    for entry in mounts.iter().rev().filter(|entry| entry.is_of(device)) {
        rustix::mount::unmount(&entry.target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|error| failed(&entry.target, error))?;
    }
    Ok(())
}

/// Whether `device` is what is mounted at `target`.
pub fn is_mounted(device: &Path, target: &Path) -> Result<bool, FilesystemError> {
    let expected = device_number(device)?;
    Ok(mount_entry(target)?.is_some_and(|entry| entry.is_of(expected)))
}

/// Whether what was opened is on the file system of `device`.
pub(crate) fn is_on(opened: BorrowedFd<'_>, device: &Path) -> Result<bool, FilesystemError> {
    let expected = device_number(device)?;
    let entry = kernel::mount_of(opened)
        .map_err(|error| FilesystemError::system("reading the mount table", error))?;
    Ok(entry.is_some_and(|entry| entry.is_of(expected)))
}

/// Where `device` is mounted, as far as this process can see.
pub(super) fn mounted_anywhere(device: &Path) -> Result<Option<PathBuf>, FilesystemError> {
    let expected = device_number(device)?;
    let mounts = kernel::mounts()
        .map_err(|error| FilesystemError::system("reading the mount table", error))?;
    Ok(mounts.into_iter().find(|entry| entry.is_of(expected)).map(|entry| entry.target))
}

/// Unmounts `device` from `target`, which writes everything back. Refused with the names of those who
/// hold files there. What else may be mounted there isn't touched.
pub async fn unmount(device: PathBuf, target: PathBuf) -> Result<(), FilesystemError> {
    blocking(move || {
        if !is_mounted(&device, &target)? {
            return Err(FilesystemError::NotMounted(target));
        }
        // The last unmount writes everything back; another namespace may have a copy of this mount.
        let synced = File::open(&target).and_then(|root| Ok(rustix::fs::syncfs(root)?));
        if let Err(error) = synced {
            tracing::warn!(target = %target.display(), %error, "can't be synchronised");
        }
        unmount_now(target)
    })
    .await
}

fn unmount_now(target: PathBuf) -> Result<(), FilesystemError> {
    let attempt = || rustix::mount::unmount(real(&target), UnmountFlags::NOFOLLOW);
    let mut outcome = attempt();
    // A program that one of our threads is starting has copies of our descriptors until it runs.
    for _ in 0..BUSY_TRIES {
        if outcome != Err(Errno::BUSY) {
            break;
        }
        std::thread::sleep(BUSY_PAUSE);
        outcome = attempt();
    }
    match outcome {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::NOENT) => Err(FilesystemError::NotMounted(target)),
        Err(Errno::BUSY) => {
            let holders = holders(&real(&target));
            Err(FilesystemError::Busy { target, holders })
        }
        Err(error) => {
            Err(FilesystemError::system(format!("unmounting {}", target.display()), error))
        }
    }
}

/// Takes the file system of `device` away from `target` when the device is lost or no longer ours: from now on it refuses
/// everything and writes nothing, and its mount point is free. Returns who still holds files of it;
/// they get errors, and the device is free when they let go. Nothing of it mounted is fine, and what
/// else may be mounted there isn't touched.
pub async fn shutdown(device: PathBuf, target: PathBuf) -> Result<Vec<Holder>, FilesystemError> {
    blocking(move || {
        let mut remaining = Vec::new();
        let ours = device_number(&device)?;
        while let Some(entry) = mount_entry(&target)?.filter(|entry| entry.is_of(ours)) {
            let target = entry.target;
            // Opening the root of a mounted file system needs no I/O. It fails on one that has
            // stopped by itself, which is as good.
            // btrfs can't be, before Linux 6.19; its device, which is dead, keeps it from writing.
            if let Ok(root) = File::open(&target)
                && let Err(error) = os::ioctl::shutdown_filesystem(root.as_fd())
                && !(entry.kind == FsType::Btrfs.name() && is_unknown_call(&error))
            {
                tracing::warn!(target = %target.display(), %error, "the file system can't be shut down");
            }
            match rustix::mount::unmount(&target, UnmountFlags::NOFOLLOW) {
                Ok(()) | Err(Errno::INVAL) => {}
                Err(Errno::BUSY) => {
                    remaining.extend(holders(&target));
                    let how = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                    rustix::mount::unmount(&target, how).map_err(|error| failed(&target, error))?;
                }
                Err(error) => return Err(failed(&target, error)),
            }
        }
        Ok(remaining)
    })
    .await
}

fn is_unknown_call(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| matches!(errno, Errno::NOTTY | Errno::OPNOTSUPP))
}

fn failed(target: &Path, error: Errno) -> FilesystemError {
    FilesystemError::system(format!("unmounting {}", target.display()), error)
}

pub(super) fn mount_entry(target: &Path) -> Result<Option<kernel::MountEntry>, FilesystemError> {
    kernel::mount_at(&real(target))
        .map_err(|error| FilesystemError::system("reading the mount table", error))
}

/// The path as the kernel writes it. The last part is not looked at: it may be dead.
fn real(target: &Path) -> PathBuf {
    match (target.parent().and_then(|parent| parent.canonicalize().ok()), target.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => target.to_owned(),
    }
}

/// Major and minor number of a block device.
pub(super) fn device_number(device: &Path) -> Result<(u32, u32), FilesystemError> {
    kernel::device_number(device)
        .map_err(|error| FilesystemError::system(format!("{}", device.display()), error))
}

/// What of `options` is the kernel's own, and what the file system's.
fn parse_options(options: &str) -> (MountFlags, String) {
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    let mut data = Vec::new();
    for option in options.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        match option {
            "defaults" | "rw" | "auto" | "noauto" | "_netdev" => {}
            "ro" => flags |= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "suid" => flags &= !MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "dev" => flags &= !MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "exec" => flags &= !MountFlags::NOEXEC,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "lazytime" => flags |= MountFlags::LAZYTIME,
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_to_those_who_know_them() {
        let (flags, data) = parse_options("rw, noatime,data=ordered,dev,errors=remount-ro");
        assert_eq!(flags, MountFlags::NOSUID | MountFlags::NOATIME);
        assert_eq!(data, "data=ordered,errors=remount-ro");
        assert_eq!(parse_options("").0, MountFlags::NOSUID | MountFlags::NODEV);
    }
}
