//! The one translation from Linux's error numbers to what a caller of a device can act on.

use std::io;

use block::{IoError, SectorRange};

/// What `error` means for an operation on `range`.
///
/// Unknown errors count as errors of the medium: another copy may serve, and nothing is concluded
/// about other sectors.
pub(super) fn translate(error: &io::Error, range: SectorRange) -> IoError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => IoError::NoSpace(range),
        Some(
            libc::ENODEV
            | libc::ENXIO
            | libc::ENOMEDIUM
            | libc::ESHUTDOWN
            | libc::ESTALE
            | libc::ECANCELED,
        ) => IoError::Lost,
        Some(libc::EROFS | libc::EPERM | libc::EBADF) => IoError::ReadOnly,
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => IoError::Unsupported,
        // EIO, ENODATA, EREMOTEIO, EILSEQ (integrity), ETIMEDOUT and whatever drivers invent.
        _ => IoError::Medium(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::Lba;

    #[test]
    fn each_error_number_calls_for_its_reaction() {
        let range = SectorRange::new(Lba(8), 8);
        let table = [
            (libc::EIO, IoError::Medium(range)),
            (libc::ENODATA, IoError::Medium(range)),
            (libc::EILSEQ, IoError::Medium(range)),
            (libc::ENOSPC, IoError::NoSpace(range)),
            (libc::EDQUOT, IoError::NoSpace(range)),
            (libc::ENODEV, IoError::Lost),
            (libc::ENXIO, IoError::Lost),
            (libc::EROFS, IoError::ReadOnly),
            (libc::EOPNOTSUPP, IoError::Unsupported),
            (libc::EINVAL, IoError::Medium(range)),
        ];
        for (errno, expected) in table {
            assert_eq!(translate(&io::Error::from_raw_os_error(errno), range), expected, "{errno}");
        }
    }
}
