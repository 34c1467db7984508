//! What a daemon asks of the system for itself: memory that stays, a parent's death as its own,
//! signals as futures, locks against a second of its kind, and who it is.
#![allow(unsafe_code)] // prctl, mlock and signalfd

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::mm::{MlockAllFlags, mlock, mlockall};

use crate::dir::Directory;
pub use crate::dir::WriteError;
use crate::reactor::{FdWatch, ReactorHandle};
use crate::sys;

/// `PR_SET_IO_FLUSHER` of <linux/prctl.h> (5.6).
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Keeps memory resident, who serves write-back must not wait for paging: at once what is mapped of files,
/// since the disk that an instruction would be read from may be one of ours, and all else, also what comes
/// later, from its first use on. (Of what is only reserved, by the allocator or for stacks, most is never
/// used.)
pub fn lock_memory() -> io::Result<()> {
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut outcome = Ok(());
    for mapped in mapped_of_files(&maps) {
        // SAFETY: whatever is there by now, locking it changes no contents.
        let locked = unsafe { mlock(mapped.start as *mut _, mapped.len()) };
        // As much as can be, also where something can't.
        outcome = outcome.and(locked);
    }
    Ok(outcome?)
}

/// Where files can be read in memory, by the lines of /proc/PID/maps (proc_pid_maps(5)).
fn mapped_of_files(maps: &str) -> impl Iterator<Item = Range<usize>> {
    maps.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (addresses, rights, path) = (words.next()?, words.next()?, words.nth(3)?);
        let (start, end) = addresses.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let is_file = rights.starts_with('r') && path.starts_with('/');
        is_file.then_some(address(start)?..address(end)?)
    })
}

/// Tells the kernel that this process serves write-back, so that its allocations never wait for
/// write-back. Needs CAP_SYS_RESOURCE. Holds for the calling thread and those it makes later.
pub fn set_io_flusher() -> io::Result<()> {
    // SAFETY: no memory is involved.
    sys::check(unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) }).map(drop)
}

/// Lets this process get `signal` when the thread that made it ends; false when its parent (whose
/// id the caller noted before) is gone already, in which case no signal comes.
pub fn die_with_parent(signal: Signal, parent: u32) -> io::Result<bool> {
    // SAFETY: no memory is involved.
    sys::check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal.number(), 0, 0, 0) })?;
    Ok(std::os::unix::process::parent_id() == parent)
}

/// Goes on in the background, away from its terminal, as another process; what it says is for nobody. The working directory
/// stays. No thread but the caller's goes along.
pub fn detach() -> io::Result<()> {
    // SAFETY: no memory is involved.
    sys::check(unsafe { libc::daemon(1, 0) }).map(drop)
}

/// A number that is new with each start of the machine.
pub fn boot_id() -> io::Result<uuid::Uuid> {
    read_uuid(Path::new("/proc/sys/kernel/random/boot_id"))
}

/// The lasting identity of this machine: systemd's where there is one, else made once and kept at
/// `stored`.
pub fn machine_id(stored: &Path) -> io::Result<uuid::Uuid> {
    if let Some(id) = known_machine_id(stored)? {
        return Ok(id);
    }
    let id = uuid::Builder::from_random_bytes(sys::random_bytes()?).into_uuid();
    write_durably(stored, format!("{id}\n").as_bytes())?;
    Ok(id)
}

/// The same, unless it is still to be made.
pub fn known_machine_id(stored: &Path) -> io::Result<Option<uuid::Uuid>> {
    if let Ok(id) = read_uuid(Path::new("/etc/machine-id")) {
        return Ok(Some(id));
    }
    match read_uuid(stored) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // A damaged file isn't replaced: the disks of this machine know it by the former number.
        read => read.map(Some),
    }
}

/// Asks a process to stop.
pub fn terminate(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
}

/// The memory of this machine.
pub fn machine_memory_bytes() -> u64 {
    let system = rustix::system::sysinfo();
    system.totalram.saturating_mul(system.mem_unit.into())
}

/// The name of this machine.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Replaces the file at `path` as a whole, and makes it last. Resolves the path: who serves has the
/// [`Directory`] open.
pub fn write_durably(path: &Path, contents: &[u8]) -> Result<(), WriteError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = Directory::open(directory).map_err(WriteError::Unchanged)?;
    directory.replace(path.file_name().unwrap_or_default(), contents)
}

fn read_uuid(path: &Path) -> io::Result<uuid::Uuid> {
    let text = fs::read_to_string(path)?;
    let id = uuid::Uuid::try_parse(text.trim());
    id.ok().filter(|id| !id.is_nil()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} holds no id", path.display()))
    })
}

/// The signals that a daemon acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Stop.
    Terminate,
    /// Stop, from the keyboard.
    Interrupt,
    /// Read the configuration again.
    HangUp,
    /// A child ended.
    Child,
    /// At once, without a word. Can't be waited for.
    Kill,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Signal::Terminate => libc::SIGTERM,
            Signal::Interrupt => libc::SIGINT,
            Signal::HangUp => libc::SIGHUP,
            Signal::Child => libc::SIGCHLD,
            Signal::Kill => libc::SIGKILL,
        }
    }

    fn from_number(number: u32) -> Option<Signal> {
        [Signal::Terminate, Signal::Interrupt, Signal::HangUp, Signal::Child]
            .into_iter()
            .find(|signal| signal.number().unsigned_abs() == number)
    }
}

/// Signals as a queue.
pub struct Signals {
    watch: FdWatch,
}

/// Takes `wanted` out of the way of their default actions. Call it before other threads start:
/// they inherit the mask.
pub fn signals(handle: &ReactorHandle, wanted: &[Signal]) -> io::Result<Signals> {
    // SAFETY: a signal set of zeros is emptied properly by the next call; all calls get pointers to
    // sets that outlive them.
    let socket = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in wanted {
            libc::sigaddset(&mut set, signal.number());
        }
        let refusal = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        if refusal != 0 {
            return Err(io::Error::from_raw_os_error(refusal));
        }
        sys::check_fd(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?
    };
    Ok(Signals { watch: handle.watch(socket) })
}

impl Signals {
    /// The next signal. Several of a kind may arrive as one.
    pub async fn next(&self) -> Signal {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        loop {
            // The signal's number is the first field.
            if let Ok(len) = rustix::io::read(self.watch.fd(), &mut info)
                && len == info.len()
                && let Some(signal) =
                    info.first_chunk().and_then(|n| Signal::from_number(u32::from_ne_bytes(*n)))
            {
                return signal;
            }
            self.watch.readable().await;
        }
    }
}

/// A lock that this process holds until it ends or drops it. A name per thing that only one process
/// may serve (a pool's UUID).
#[derive(Debug)]
pub struct ProcessLock {
    _file: File,
}

/// A lock isn't to be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{path} is held by process {pid}")]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// Who; 0 when it didn't say.
        pid: u32,
    },
    /// The system refuses.
    #[error("can't lock {path}: {error}")]
    System {
        /// The lock's file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

impl ProcessLock {
    /// Takes the lock `directory/name.lock`. The file stays behind: removing it would let two
    /// processes lock two files of one name.
    pub fn acquire(directory: &Path, name: &str) -> Result<ProcessLock, LockError> {
        let path = directory.join(format!("{name}.lock"));
        let system = |error| LockError::System { path: path.clone(), error };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(system)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Only for the message.
                let _ = (&file).take(16).read_to_string(&mut text);
                return Err(LockError::Held { pid: text.trim().parse().unwrap_or(0), path });
            }
            Err(error) => return Err(system(error.into())),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(system)?;
        Ok(ProcessLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Reactor;

    #[test]
    fn signals_arrive_as_values() {
        let (mut reactor, handle) = Reactor::new().unwrap();
        let signals = signals(&handle, &[Signal::HangUp, Signal::Terminate]).unwrap();
        // To this thread only: the others of the test's process don't block it.
        for signal in [Signal::HangUp, Signal::Terminate] {
            // SAFETY: the thread is this one.
            assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), signal.number()) }, 0);
        }
        let seen = reactor.run_until(async move { [signals.next().await, signals.next().await] });
        // The kernel hands out the lowest number first.
        assert_eq!(seen.unwrap(), [Signal::HangUp, Signal::Terminate]);
    }

    #[test]
    fn mappings_of_files_are_told_from_others() {
        let maps = "\
55d0c8a00000-55d0c8a9c000 r--p 00000000 fe:00 12345    /usr/bin/a program
55d0c8a9c000-55d0c8aa0000 ---p 0009c000 fe:00 12345    /usr/bin/a program
7f52c0000000-7f52c0021000 rw-p 00000000 00:00 0
7ffc5a3f1000-7ffc5a412000 rw-p 00000000 00:00 0        [stack]
7f52c4000000-7f52c4001000 r-xp 00001000 fe:00 99       /lib/libc.so.6
";
        let found: Vec<_> = mapped_of_files(maps).collect();
        let expected = [0x55d0_c8a0_0000..0x55d0_c8a9_c000, 0x7f52_c400_0000..0x7f52_c400_1000];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_lock_has_one_holder_and_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let lock = ProcessLock::acquire(dir.path(), "pool").unwrap();
        match ProcessLock::acquire(dir.path(), "pool") {
            Err(LockError::Held { pid, .. }) => assert_eq!(pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        ProcessLock::acquire(dir.path(), "other").unwrap();
        drop(lock);
        ProcessLock::acquire(dir.path(), "pool").unwrap();
    }

    #[test]
    fn identities_last() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert!(!hostname().is_empty());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        assert_eq!(machine_id(&path).unwrap(), machine_id(&path).unwrap());
        write_durably(&path, b"no id").unwrap();
        assert!(read_uuid(&path).is_err());
        write_durably(&path, b"3d1219c7c4c5404aaa1f6d2a48adfda4\n").unwrap();
        assert!(read_uuid(&path).is_ok());
    }
}
