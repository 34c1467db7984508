//! The seam to libc: turns the return codes of system calls into results, and wraps the few calls
//! that several modules need. Everything here is one system call and its error.
#![allow(unsafe_code)] // system calls without a safe wrapper; each block gives its reason

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use block::Instant;

/// The error that a negative return code announces.
pub(crate) fn check(code: libc::c_int) -> io::Result<libc::c_int> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(code) }
}

/// The same for calls that return a length.
pub(crate) fn check_len(code: isize) -> io::Result<usize> {
    usize::try_from(code).map_err(|_| io::Error::last_os_error())
}

/// Takes a descriptor that a system call has just returned.
pub(crate) fn check_fd(code: libc::c_int) -> io::Result<OwnedFd> {
    let fd: RawFd = check(code)?;
    // SAFETY: the callers pass what open, socket, eventfd and their like returned: a new descriptor
    // that nobody else knows yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether `error` is the given error number.
pub(crate) fn is_errno(error: &io::Error, errno: libc::c_int) -> bool {
    error.raw_os_error() == Some(errno)
}

/// Reads with `RWF_*` flags; returns how much that was.
pub(crate) fn read_with(
    fd: BorrowedFd<'_>,
    into: &mut [u8],
    offset_bytes: u64,
    flags: libc::c_int,
) -> io::Result<usize> {
    let part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let offset = libc::off_t::try_from(offset_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: one part, which describes `into`; both outlive the call.
    check_len(unsafe { libc::preadv2(fd.as_raw_fd(), &part, 1, offset, flags) })
}

/// Nanoseconds since the machine started, sleep included.
pub fn boot_time() -> Instant {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Random bytes from the kernel, good for secrets and identities.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // SAFETY: pointer and length describe the unfilled rest of `bytes`.
        let got = check_len(unsafe {
            libc::getrandom(bytes[filled..].as_mut_ptr().cast(), N - filled, 0)
        });
        match got {
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// A random number from the kernel.
pub fn random_u64() -> io::Result<u64> {
    random_bytes().map(u64::from_ne_bytes)
}

/// Processors of this machine that run, whoever may use them.
pub(crate) fn online_cores() -> usize {
    // SAFETY: no memory is involved.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1)
}

/// The numbers in a list of the kernel's, as in `0-3,8`.
pub(crate) fn parse_list(list: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last > u32::from(u16::MAX) {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// A new event counter that blocks nobody.
pub(crate) fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    check_fd(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// Sets a socket option whose value is an `int`.
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads four bytes from `value`, which lives until the call returns.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Makes the buffers of a socket as large as allowed: beyond the system's limit with the right to,
/// else up to it. A refusal only costs throughput, so it isn't an error.
pub(crate) fn enlarge_buffers(fd: BorrowedFd<'_>, receive_bytes: i32, send_bytes: i32) {
    enlarge(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, receive_bytes);
    enlarge_send_buffer(fd, send_bytes);
}

/// The same for a socket that doesn't receive through its buffer.
pub(crate) fn enlarge_send_buffer(fd: BorrowedFd<'_>, bytes: i32) {
    enlarge(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, bytes);
}

fn enlarge(fd: BorrowedFd<'_>, force: libc::c_int, ordinary: libc::c_int, bytes: i32) {
    if set_option(fd, libc::SOL_SOCKET, force, bytes).is_err()
        && let Err(error) = set_option(fd, libc::SOL_SOCKET, ordinary, bytes)
    {
        tracing::debug!(%error, bytes, "socket buffer stays small");
    }
}

/// Takes the pending error of a socket, which is told once.
pub(crate) fn clear_error(fd: BorrowedFd<'_>) {
    let mut error: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `error`. Nothing to take is as good.
    unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut error).cast(),
            &raw mut len,
        )
    };
}

/// From now on nothing is written by way of this copy of a mount.
pub(crate) fn forbid_writes(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the descriptor is open, the path ends with a zero, and the kernel reads as many bytes of the attributes
    // as they have.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel() {
        assert_eq!(parse_list("0\n"), Some(vec![0]));
        assert_eq!(parse_list("0-2,5,7-8\n"), Some(vec![0, 1, 2, 5, 7, 8]));
        for bad in ["", "a", "3-1", "0-4294967295", "0,"] {
            assert_eq!(parse_list(bad), None, "{bad}");
        }
    }
}
