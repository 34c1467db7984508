//! What the first process of a machine asks of the kernel: file systems, modules, news of devices, ends of processes, and
//! the end of all.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{MountFlags, mount as mount_now};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink};
use rustix::process::{WaitOptions, WaitStatus, wait};
use rustix::system::{RebootCommand, finit_module, reboot};

/// Of the kernel's own news; udev's are another group.
const KERNEL_NEWS: u32 = 1;
/// Larger than any of its news: lib/kobject_uevent.c has 2048 for the variables.
const NEWS_BYTES_MAX: usize = 8192;
/// Thousands may come at once while a machine starts.
const NEWS_BUFFER_BYTES: i32 = 4 << 20;

/// Mounts one of the kernel's file systems, from which nothing is executed.
pub fn mount(kind: &str, target: &Path, options: &str) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let options = CString::new(options)?;
    Ok(mount_now(kind, target, kind, flags, Some(options.as_c_str()))?)
}

/// Loads a module of the kernel. One that is there already is no error.
pub fn load_module(path: &Path, parameters: &str) -> io::Result<()> {
    let file = File::open(path)?;
    let parameters = CString::new(parameters)?;
    match finit_module(&file, &parameters, 0) {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        loaded => Ok(loaded?),
    }
}

/// Gives the machine its name.
pub fn set_hostname(name: &str) -> io::Result<()> {
    Ok(rustix::system::sethostname(name.as_bytes())?)
}

/// The release of the kernel that runs: `uname -r`.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// What the kernel tells of devices that come and go.
pub struct DeviceNews {
    socket: OwnedFd,
}

impl DeviceNews {
    /// From now on.
    pub fn open() -> io::Result<DeviceNews> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::KOBJECT_UEVENT),
        )?;
        rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, KERNEL_NEWS))?;
        crate::sys::enlarge_buffers(socket.as_fd(), NEWS_BUFFER_BYTES, 0);
        Ok(DeviceNews { socket })
    }

    /// The next: lines with zeros between them. `None`: some were lost. Blocks.
    pub fn next(&self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; NEWS_BYTES_MAX];
        loop {
            match rustix::net::recvfrom(&self.socket, bytes.as_mut_slice(), RecvFlags::empty()) {
                // Whoever else may send to this group says nothing of devices.
                Ok((_, len, from)) if is_kernel(from.as_ref()) => {
                    bytes.truncate(len);
                    return Ok(Some(bytes));
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::NOBUFS) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_kernel(from: Option<&rustix::net::SocketAddrAny>) -> bool {
    let from = from.and_then(|from| netlink::SocketAddrNetlink::try_from(from.clone()).ok());
    from.is_some_and(|from| from.pid() == 0)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub pid: u32,
    /// What happened.
    pub status: EndStatus,
}

/// What ended a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndStatus {
    /// It ended by itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl std::fmt::Display for EndStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EndStatus::Exited(code) => write!(f, "code {code}"),
            EndStatus::Killed(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Takes note of a child that has ended, if there is one, so that nothing of it remains.
pub fn reap() -> Option<Ended> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let pid = pid.as_raw_nonzero().get().unsigned_abs();
                return Some(Ended { pid, status: status_of(status) });
            }
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Whether any process is a child of this one.
pub fn has_children() -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::All, options).err() != Some(rustix::io::Errno::CHILD)
}

fn status_of(status: WaitStatus) -> EndStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => EndStatus::Exited(code),
        (None, signal) => EndStatus::Killed(signal.unwrap_or(0)),
    }
}

/// Sends a signal to a process, or with `None` to all but this one: SIGTERM, or SIGKILL by `hard`.
pub fn end(pid: Option<u32>, hard: bool) -> io::Result<()> {
    use rustix::process::{Pid, Signal, kill_process, test_kill_process};
    let signal = if hard { Signal::KILL } else { Signal::TERM };
    match pid {
        Some(pid) => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            Ok(kill_process(pid.ok_or(io::ErrorKind::InvalidInput)?, signal)?)
        }
        None => {
            let own = std::process::id();
            for entry in std::fs::read_dir("/proc")?.flatten() {
                let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
                let pid = pid.filter(|pid| pid.unsigned_abs() != own).and_then(Pid::from_raw);
                if let Some(pid) = pid
                    && test_kill_process(pid).is_ok()
                {
                    // It may have ended by itself, and the kernel's own take none.
                    let _ = kill_process(pid, signal);
                }
            }
            Ok(())
        }
    }
}

/// Ends all processes of a group at once (SIGKILL), by who leads it or led it.
pub fn end_group(leader: u32) -> io::Result<()> {
    use rustix::process::{Pid, Signal, kill_process_group};
    // To the kernel the group of the first process is everybody.
    let leader = i32::try_from(leader).ok().filter(|leader| *leader > 1).and_then(Pid::from_raw);
    Ok(kill_process_group(leader.ok_or(io::ErrorKind::InvalidInput)?, Signal::KILL)?)
}

/// Has a process read its configuration again.
pub fn hang_up(pid: u32) -> io::Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(kill_process(pid.ok_or(io::ErrorKind::InvalidInput)?, Signal::HUP)?)
}

/// From now on Ctrl-Alt-Del is a signal (SIGINT) to the first process, not the end of all.
pub fn take_ctrl_alt_del() -> io::Result<()> {
    Ok(reboot(RebootCommand::CadOff)?)
}

/// How a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It starts anew.
    Restart,
    /// It switches itself off.
    PowerOff,
}

/// Ends the machine at once; what is to be written was written before.
pub fn end_machine(how: End) -> io::Result<()> {
    let command = match how {
        End::Restart => RebootCommand::Restart,
        End::PowerOff => RebootCommand::PowerOff,
    };
    Ok(reboot(command)?)
}

/// Writes out what waits for being written.
pub fn sync() {
    rustix::fs::sync();
}

/// Whether something can be read within this time.
pub fn wait_readable(fd: BorrowedFd<'_>, limit: std::time::Duration) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_no_module_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(load_module(file.path(), "").is_err());
        assert!(load_module(Path::new("/nonexistent"), "").is_err());
        assert!(load_module(file.path(), "a\0b").is_err());
    }

    #[test]
    fn news_of_devices_can_be_listened_to() {
        let Ok(news) = DeviceNews::open() else {
            eprintln!("SKIPPED: no news of devices here");
            return;
        };
        let is_there = wait_readable(news.socket.as_fd(), std::time::Duration::ZERO);
        assert!(is_there.is_ok());
    }

    #[test]
    fn the_end_of_processes_is_told() {
        assert_eq!(EndStatus::Exited(3).to_string(), "code 3");
        assert_eq!(EndStatus::Killed(9).to_string(), "signal 9");
        assert!(end(Some(u32::MAX), false).is_err() && hang_up(u32::MAX).is_err());
        assert!(end_group(u32::MAX).is_err() && end_group(0).is_err());
        assert!(!kernel_release().is_empty());
    }
}
