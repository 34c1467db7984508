//! The kernel's control of FUSE connections, by which one can be ended whoever has its descriptor. It is
//! mounted in no place for this: whether it is mounted elsewhere doesn't matter.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// What ends the connection of a FUSE mount when it is written to; the mount's device number names it.
pub(super) fn abort_of((major, minor): (u32, u32)) -> io::Result<OwnedFd> {
    if major != 0 {
        return Err(io::Error::other("a FUSE mount on a device"));
    }
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    let path = format!("{minor}/abort");
    Ok(rustix::fs::openat(&mount, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?)
}
