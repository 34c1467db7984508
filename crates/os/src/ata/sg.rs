//! The one system call: `SG_IO`, which takes a SCSI command to a disk and brings its answer back.
#![allow(unsafe_code)] // an ioctl with a structure of pointers

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::command::{AtaCommand, SECTOR_BYTES, Transfer};

const SG_IO: libc::c_ulong = 0x2285;
const DXFER_NONE: i32 = -1;
const DXFER_TO_DEV: i32 = -2;
const DXFER_FROM_DEV: i32 = -3;
/// As much as the kernel hands out.
const SENSE_BYTES: usize = 96;

/// `struct sg_io_hdr` of scsi/sg.h.
#[repr(C)]
struct SgIoHdr {
    interface_id: i32,
    dxfer_direction: i32,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut libc::c_void,
    cmdp: *mut u8,
    sbp: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: i32,
    usr_ptr: *mut libc::c_void,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: i32,
    duration: u32,
    info: u32,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<SgIoHdr>() == 88);

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiAnswer {
    /// SCSI status: 0 is good, 2 comes with sense data.
    pub status: u8,
    /// What the host adapter's driver says; 0 is good, 3 a time-out.
    pub host_status: u16,
    /// What the kernel's driver says, in its lower four bits: 6 is a time-out.
    pub driver_status: u16,
    /// Sense data.
    pub sense: Vec<u8>,
    /// Data from the disk: what it has sent of what was asked for.
    pub data: Vec<u8>,
}

/// Sends a command and waits for its answer; the kernel gives it up after `limit`, but may then try
/// for much longer to bring the disk back to its senses.
pub fn pass_through(
    disk: BorrowedFd<'_>,
    command: &AtaCommand,
    limit: Duration,
) -> io::Result<ScsiAnswer> {
    let mut cdb = command.cdb();
    let mut sense = [0u8; SENSE_BYTES];
    let (direction, mut data) = match &command.transfer {
        Transfer::None => (DXFER_NONE, Vec::new()),
        Transfer::In { sectors } => (DXFER_FROM_DEV, vec![0; usize::from(*sectors) * SECTOR_BYTES]),
        Transfer::Out(data) => (DXFER_TO_DEV, data.clone()),
    };
    let len =
        u32::try_from(data.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut header = SgIoHdr {
        interface_id: i32::from(b'S'),
        dxfer_direction: direction,
        cmd_len: cdb.len() as u8,
        mx_sb_len: SENSE_BYTES as u8,
        iovec_count: 0,
        dxfer_len: len,
        dxferp: data.as_mut_ptr().cast(),
        cmdp: cdb.as_mut_ptr(),
        sbp: sense.as_mut_ptr(),
        timeout_ms: u32::try_from(limit.as_millis()).unwrap_or(u32::MAX),
        flags: 0,
        pack_id: 0,
        usr_ptr: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        msg_status: 0,
        sb_len_wr: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: the header has the kernel's layout; its pointers are to memory of the lengths that
    // stand beside them, and all of it outlives the call, which waits until the kernel is done.
    let result = unsafe { libc::ioctl(disk.as_raw_fd(), SG_IO, &raw mut header) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let missing = usize::try_from(header.resid).unwrap_or(0).min(data.len());
    if direction == DXFER_FROM_DEV {
        data.truncate(data.len() - missing);
    } else {
        data.clear();
    }
    Ok(ScsiAnswer {
        status: header.status,
        host_status: header.host_status,
        driver_status: header.driver_status,
        sense: sense[..usize::from(header.sb_len_wr).min(SENSE_BYTES)].to_vec(),
        data,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::fd::AsFd;

    /// A wrong number or layout would answer something else than "not of this kind".
    #[test]
    fn what_is_no_disk_is_refused_by_the_kernel() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let limit = Duration::from_secs(1);
        let refused = pass_through(file.as_fd(), &AtaCommand::identify(), limit).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOTTY));
    }
}
