//! Loop devices and the emergency stop of a file system: ioctls that no crate wraps safely.
//!
//! Thin on purpose: what a volume's loop device should look like is decided in `frontend::attach`.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_SET_STATUS64: libc::c_ulong = 0x4C04;
const LOOP_SET_CAPACITY: libc::c_ulong = 0x4C07;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// `_IOR('X', 125, __u32)`; ext4 and f2fs took over the number from xfs.
const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
/// Without writing the journal out first.
const SHUTDOWN_WITHOUT_LOG_FLUSH: u32 = 2;

/// Longest name that a loop device remembers, in bytes.
pub const LOOP_NAME_MAX: usize = 63;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; LOOP_NAME_MAX + 1],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const EMPTY: LoopInfo = LoopInfo {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; LOOP_NAME_MAX + 1],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

/// What a loop device is made of.
#[derive(Clone, Copy, Debug)]
pub struct LoopSetup<'a> {
    /// The file under it.
    pub backing: BorrowedFd<'a>,
    /// Logical block size in bytes.
    pub block_bytes: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// For people who look with `losetup`; cut at [`LOOP_NAME_MAX`] bytes.
    pub name: &'a str,
}

/// The number of a loop device that is free at this moment; `control` is `/dev/loop-control`.
pub fn loop_get_free(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: takes no argument.
    let number = checked(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })?;
    u32::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))
}

/// Puts a free loop device on a file, with direct I/O, in one step. `EBUSY`: somebody else was
/// faster.
pub fn loop_configure(device: BorrowedFd<'_>, setup: &LoopSetup<'_>) -> io::Result<()> {
    let mut info = LoopInfo { flags: LO_FLAGS_DIRECT_IO, ..EMPTY };
    if setup.read_only {
        info.flags |= LO_FLAGS_READ_ONLY;
    }
    set_name(&mut info, setup.name);
    let fd = u32::try_from(setup.backing.as_raw_fd())
        .map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    let config = LoopConfig { fd, block_size: setup.block_bytes, info, reserved: [0; 8] };
    // SAFETY: the kernel reads one `loop_config`, whose layout is asserted above.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) })?;
    Ok(())
}

/// Makes the device look at its file's size again.
pub fn loop_set_capacity(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no argument.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_CAPACITY, 0) })?;
    Ok(())
}

/// Undoes a [`loop_clear`] that waits for the last who has the device open: it stays when they let go.
/// `name` is what it was set up with.
pub fn loop_stay(device: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    // Of the flags, this call changes the one that is meant here, and partition scanning, alone.
    let mut info = EMPTY;
    set_name(&mut info, name);
    // SAFETY: the kernel reads one `loop_info64`, whose layout is asserted above.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_STATUS64, &raw const info) })?;
    Ok(())
}

/// Takes the file away from the device; it is free when the last who has it open closes it.
pub fn loop_clear(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no argument.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD, 0) })?;
    Ok(())
}

/// Makes the file system that `file` is on refuse everything from now on, without writing anything
/// more to its device: for a device that is lost or no longer ours.
pub fn shutdown_filesystem(file: BorrowedFd<'_>) -> io::Result<()> {
    let how = SHUTDOWN_WITHOUT_LOG_FLUSH;
    // SAFETY: the kernel reads one u32.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_SHUTDOWN, &raw const how) })?;
    Ok(())
}

fn set_name(info: &mut LoopInfo, name: &str) {
    let len = name.len().min(LOOP_NAME_MAX);
    info.file_name[..len].copy_from_slice(&name.as_bytes()[..len]);
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// A wrong number or layout would answer something else than "not of this kind".
    #[test]
    fn files_that_are_no_loop_devices_are_refused() {
        let Ok(file) = std::fs::File::open("/dev/null") else { return };
        let errors = [
            loop_set_capacity(file.as_fd()).err(),
            loop_clear(file.as_fd()).err(),
            loop_stay(file.as_fd(), "p/v").err(),
        ];
        for error in errors {
            assert_eq!(error.and_then(|error| error.raw_os_error()), Some(libc::ENOTTY));
        }
    }
}
