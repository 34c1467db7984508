//! What the kernel is told about a failed operation: the one place where that is decided.

use block::IoError;

/// The error number for `error`.
///
/// The loop device tells its users of no-space, read-only and not-supported; all else becomes an
/// I/O error there, so nothing finer is of use.
pub fn errno_of(error: IoError) -> i32 {
    match error {
        IoError::Medium(_) => libc::EIO,
        IoError::NoSpace(_) => libc::ENOSPC,
        IoError::OutOfRange(_) => libc::EINVAL,
        IoError::ReadOnly => libc::EROFS,
        // A volume repeats what its disks forgot; one that passes this on has given up.
        IoError::Restarted { .. } => libc::EIO,
        IoError::FlushFailed => libc::EIO,
        IoError::Lost => libc::EIO,
        IoError::Fenced { .. } => libc::EIO,
        IoError::Refused(_) => libc::EIO,
        IoError::Unsupported => libc::EOPNOTSUPP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{Epoch, Instance, RefusalReason, SectorRange};

    #[test]
    fn each_error_has_its_number() {
        let range = SectorRange::default();
        for (error, expected) in [
            (IoError::Medium(range), libc::EIO),
            (IoError::NoSpace(range), libc::ENOSPC),
            (IoError::OutOfRange(range), libc::EINVAL),
            (IoError::ReadOnly, libc::EROFS),
            (IoError::Restarted { now: Instance(2) }, libc::EIO),
            (IoError::FlushFailed, libc::EIO),
            (IoError::Lost, libc::EIO),
            (IoError::Fenced { highest: Epoch(3) }, libc::EIO),
            (IoError::Refused(RefusalReason::AccessDenied), libc::EIO),
            (IoError::Unsupported, libc::EOPNOTSUPP),
        ] {
            assert_eq!(errno_of(error), expected, "{error}");
        }
    }
}
