//! What a process gives up before it meets the world, so that whoever makes it do what he likes gets little by it:
//! capabilities, privileges that lie in a program's file, system calls, and core files of a memory with keys in it.
//! Who gives up what is decided by the program, not here.
//!
//! **System calls are refused by a list of those that no storage daemon makes**, not allowed by a list of those that
//! it makes. The latter is stronger, and breaks with the next libc, allocator or kernel, at a call that only some path
//! makes: here a disk that isn't served. The units for systemd have such a list (`@system-service`), which is kept by
//! those who know, and can be changed where it is wrong. A call that is refused says EPERM, as for want of a
//! capability, and what the kernel audits has a line about it; a process that is killed for one would be a way to
//! stop it.
//!
//! **Filters don't see what io_uring does.** Among that is nothing that is refused here: no mount, module, trace or
//! program. Capabilities bind it like any call.
//!
//! All of this is inherited by the programs that a process starts, but for the core files: a new program has its own.
#![allow(unsafe_code)] // seccomp(2) with flags, and unshare(2)

pub mod calls;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, chdir, pivot_root, set_dumpable_behavior, setrlimit,
};
pub use rustix::thread::CapabilitySet;
use rustix::thread::{
    CapabilitySets, UnshareFlags, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, no_new_privs, remove_capability_from_bounding_set,
    set_capabilities, set_keep_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::{FileUser, sys};

/// What a process keeps.
#[derive(Clone, Debug)]
pub struct Rights {
    /// Capabilities that it has.
    pub own: CapabilitySet,
    /// Those that programs have which it starts as root, beside its own. It can take them for itself; what it does by
    /// mistake, or for somebody else, doesn't have them.
    pub of_programs: CapabilitySet,
    /// Whether such a program may get further ones by its file, or another user (setuid).
    pub programs_gain: bool,
    /// System calls that are refused, as lists of [`calls`].
    pub refused: Vec<&'static [i64]>,
    /// It sees no file but what it has open, and what is below directories that it has open: its directory of all is an
    /// empty one, for which this directory, whichever, is hidden from it first.
    pub alone_at: Option<PathBuf>,
    /// It becomes nobody ([`FileUser::NOBODY`]).
    pub is_nobody: bool,
}

/// What could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// `PR_SET_NO_NEW_PRIVS`.
    #[error("programs that it starts may gain privileges ({0}); Linux before 3.5?")]
    Gaining(io::Error),
    /// Nothing refuses system calls.
    #[error(
        "no system call is refused ({0}); it takes a Linux with CONFIG_SECCOMP_FILTER, and CAP_SYS_ADMIN"
    )]
    Calls(io::Error),
    /// The tree of files.
    #[error(
        "the files of this machine stay in its sight ({0}); it takes CAP_SYS_ADMIN, and a root directory that is a mount of its own"
    )]
    Files(io::Error),
    /// Its user.
    #[error("it stays the user that it was ({0})")]
    User(io::Error),
    /// Capabilities.
    #[error("it keeps capabilities that it doesn't need ({0})")]
    Capabilities(io::Error),
}

/// Sees to it that no core file of this process is written, and that nobody without CAP_SYS_PTRACE reads its memory.
/// Files in `/proc` that belonged to its user are root's then.
pub fn forbid_core_files() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Gives up everything else: what can't be is returned, and the rest is given up all the same. Capabilities are those
/// of the calling thread, and of threads that it begins from now on: call it before there are others, or after these
/// have called [`give_up_capabilities`]. The rest holds for all threads.
pub fn confine(rights: &Rights) -> Vec<ConfineError> {
    let mut failed = Vec::new();
    if !rights.programs_gain {
        failed.extend(set_no_new_privs(true).map_err(|e| ConfineError::Gaining(e.into())).err());
    }
    if let Some(directory) = &rights.alone_at {
        failed.extend(leave_files(directory).map_err(|e| ConfineError::Files(e.into())).err());
    }
    if rights.is_nobody {
        failed.extend(become_nobody().map_err(|e| ConfineError::User(e.into())).err());
    }
    // While there is the right to.
    failed.extend(refuse_calls(&rights.refused).map_err(ConfineError::Calls).err());
    failed.extend(keep_capabilities(rights.own, rights.of_programs).err());
    failed
}

/// Gives up all capabilities of the calling thread, as far as that is possible.
pub fn give_up_capabilities() -> Result<(), ConfineError> {
    keep_capabilities(CapabilitySet::empty(), CapabilitySet::empty())
}

/// Leaves all files for an empty directory that can't be written to. Only the calling thread does.
fn leave_files(directory: &Path) -> rustix::io::Result<()> {
    // SAFETY: descriptors stay shared; what threads have in common of root and working directory is undone for this
    // one alone, and no other relies on it.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    // First: what is unmounted below isn't for anybody else.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", directory, "tmpfs", flags, c"size=4k,nr_inodes=2,mode=0555")?;
    chdir(directory)?;
    // The former lies over the new one, until it is taken off (pivot_root(2)).
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

/// The capabilities stay, until they are given up.
fn become_nobody() -> rustix::io::Result<()> {
    let FileUser { uid, gid, .. } = FileUser::NOBODY;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_keep_capabilities(true)?;
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    set_keep_capabilities(false)?;
    let has = capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: has.permitted, ..has })?;
    // Each change of a thread's user lets the process leave core files again, where the system has it so
    // (fs.suid_dumpable). By this limit none are written, to programs neither (core(5)).
    setrlimit(Resource::Core, Rlimit { current: Some(1), maximum: Some(1) })
}

fn keep_capabilities(own: CapabilitySet, of_programs: CapabilitySet) -> Result<(), ConfineError> {
    let keep = || -> rustix::io::Result<()> {
        let kept = own | of_programs;
        let had = capabilities(None)?;
        // One that fails is no reason to keep the rest.
        let bounded = clear_ambient_capability_set().and_then(|()| bound_by(kept, had));
        let permitted = had.permitted & kept;
        let (effective, inheritable) = (permitted & own, CapabilitySet::empty());
        set_capabilities(None, CapabilitySets { effective, permitted, inheritable })?;
        bounded
    };
    keep().map_err(|error| ConfineError::Capabilities(error.into()))
}

/// Takes all but `kept` out of the bounding set. Without the right to, that matters only where a program's file may
/// give it what the process hasn't.
fn bound_by(kept: CapabilitySet, had: CapabilitySets) -> rustix::io::Result<()> {
    if !had.effective.contains(CapabilitySet::SETPCAP) {
        return if no_new_privs()? || had.permitted.is_empty() { Ok(()) } else { Err(Errno::PERM) };
    }
    let of_number = |number: u32| CapabilitySet::from_bits_retain(1 << number);
    for one in (0..u64::BITS).map(of_number) {
        match capability_is_in_bounding_set(one) {
            Ok(true) if !kept.contains(one) => remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            // Numbers end here.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn refuse_calls(refused: &[&'static [i64]]) -> io::Result<()> {
    let numbers = refused.iter().copied().flatten().copied();
    let rules = numbers.flat_map(calls::all_numbers).map(|number| (number, Vec::new()));
    let program = compile(rules.collect())?;
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC
        | libc::SECCOMP_FILTER_FLAG_LOG
        // No foreign code runs here: kernels before 5.16 would slow all of it down for its sake.
        | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the kernel copies a program of `len` instructions, which outlives the call; seccompiler's instruction
    // and the kernel's are laid out alike (`repr(C)`; u16, u8, u8, u32).
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    match sys::check_len(answer as isize)? {
        0 => Ok(()),
        thread => Err(io::Error::other(format!("thread {thread} has filters of its own"))),
    }
}

fn compile(rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>>) -> io::Result<BpfProgram> {
    let unknown = |error| io::Error::new(io::ErrorKind::Unsupported, format!("{error}"));
    let machine = std::env::consts::ARCH.try_into().map_err(unknown)?;
    let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, machine);
    filter.and_then(BpfProgram::try_from).map_err(unknown)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;

    /// Set in a process that is there to be confined.
    const INSIDE: &str = "ETHERPOOL_TEST_CONFINED";

    /// The error of a call with arguments that no call takes.
    fn error_of(number: i64) -> i32 {
        // SAFETY: all arguments are invalid: as addresses, descriptors, numbers and flags.
        let answer = unsafe { libc::syscall(number, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64) };
        if answer < 0 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
    }

    /// Runs a test of this file in a process of its own; what is given up is given up for good.
    fn inside(test: &str, check: fn()) {
        if std::env::var_os(INSIDE).is_some() {
            return check();
        }
        let program = std::env::current_exe().unwrap();
        let name = format!("confine::tests::{test}");
        let output = Command::new(program)
            .args(["--exact", &name, "--test-threads=1", "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn rights() -> Rights {
        Rights {
            own: CapabilitySet::NET_RAW,
            of_programs: CapabilitySet::SYS_ADMIN,
            programs_gain: false,
            refused: calls::ALL.to_vec(),
            alone_at: None,
            is_nobody: false,
        }
    }

    fn refused_calls() {
        // What they say where they aren't refused, whoever asks.
        assert_eq!(error_of(libc::SYS_setns), libc::EBADF);
        assert_eq!(error_of(libc::SYS_execve), libc::EFAULT);
        assert_ne!(error_of(libc::SYS_ptrace), libc::EPERM);
        let (begin, begun) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            begun.recv().unwrap();
            error_of(libc::SYS_setns)
        });
        let failed = confine(&rights());
        assert!(failed.is_empty(), "{failed:?}");
        for number in rights().refused.into_iter().flatten() {
            for number in calls::all_numbers(*number) {
                assert_eq!(error_of(number), libc::EPERM, "system call {number}");
            }
        }
        begin.send(()).unwrap();
        assert_eq!(other.join().unwrap(), libc::EPERM, "a thread that was there before");
        assert_eq!(std::thread::spawn(|| error_of(libc::SYS_setns)).join().unwrap(), libc::EPERM);
        let program = Command::new("true").status();
        assert_eq!(program.unwrap_err().raw_os_error(), Some(libc::EPERM));
        // And what it lives by.
        assert!(std::fs::read("/proc/self/status").unwrap().len() > 100);
        assert!(crate::Reactor::new().is_ok(), "io_uring");
        assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_ok());
    }

    #[test]
    fn refused_calls_are_refused_on_all_threads_and_others_made() {
        inside("refused_calls_are_refused_on_all_threads_and_others_made", refused_calls);
    }

    /// A call by the numbers of 32 bits, which mean others.
    #[cfg(target_arch = "x86_64")]
    fn other_architecture() {
        let failed = confine(&rights());
        assert!(failed.is_empty(), "{failed:?}");
        const GETPID: u64 = 20;
        let answer: u64;
        // SAFETY: getpid takes nothing; the kernel preserves all registers but that of the answer.
        unsafe { std::arch::asm!("int 0x80", inout("rax") GETPID => answer) };
        panic!("it is answered: {answer}");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_call_of_another_architecture_ends_the_process() {
        use std::os::unix::process::ExitStatusExt;
        if std::env::var_os(INSIDE).is_some() {
            return other_architecture();
        }
        let test = "confine::tests::a_call_of_another_architecture_ends_the_process";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--test-threads=1", "--nocapture"]).env(INSIDE, "1");
        let output = command.output().unwrap();
        match output.status.signal() {
            Some(libc::SIGSEGV) => eprintln!("SKIPPED: this kernel runs no programs of 32 bits"),
            signal => assert_eq!(signal, Some(libc::SIGSYS), "{output:?}"),
        }
    }

    fn not_all() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: needs root");
        }
        let had = capabilities(None).unwrap().permitted - CapabilitySet::SYS_ADMIN;
        assert!(keep_capabilities(had, CapabilitySet::empty()).is_ok());
        let alone_at = Some(std::env::temp_dir());
        let failed = confine(&Rights { alone_at, ..rights() });
        assert!(matches!(failed[..], [ConfineError::Files(_)]), "{failed:?}");
        assert!(failed[0].to_string().contains("CAP_SYS_ADMIN"), "{}", failed[0]);
        assert_eq!(error_of(libc::SYS_setns), libc::EPERM);
        assert_eq!(capabilities(None).unwrap().permitted, had & CapabilitySet::NET_RAW);
    }

    #[test]
    fn what_cant_be_given_up_is_told_and_the_rest_is_given_up() {
        inside("what_cant_be_given_up_is_told_and_the_rest_is_given_up", not_all);
    }

    fn kept_capabilities() {
        let had = capabilities(None).unwrap().permitted;
        let refused = vec![calls::MACHINE];
        assert!(confine(&Rights { refused, ..rights() }).is_empty());
        let has = capabilities(None).unwrap();
        let (own, kept) = (CapabilitySet::NET_RAW, rights().own | rights().of_programs);
        assert_eq!(has.effective, had & own);
        assert_eq!(has.permitted, had & kept);
        assert!(has.inheritable.is_empty());
        let output = Command::new("cat").arg("/proc/self/status").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let number = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
        };
        // A program of root's has what it may have.
        let is_root = rustix::process::geteuid().is_root();
        let expected = if is_root { had & kept } else { CapabilitySet::empty() };
        assert_eq!(number("CapPrm"), expected.bits(), "{said}");
        assert_eq!(number("NoNewPrivs"), 1);
        if had.contains(CapabilitySet::SETPCAP) {
            assert_eq!(number("CapBnd") & !kept.bits(), 0, "{said}");
        }
        give_up_capabilities().unwrap();
        assert!(capabilities(None).unwrap().permitted.is_empty());
    }

    #[test]
    fn capabilities_are_kept_as_said_and_programs_get_no_others() {
        inside("capabilities_are_kept_as_said_and_programs_get_no_others", kept_capabilities);
    }

    fn alone() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: needs root");
        }
        let held = tempfile::tempdir().unwrap();
        std::fs::write(held.path().join("file"), "held").unwrap();
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(held.path(), closed).unwrap();
        let tree =
            rustix::fs::open(held.path(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
        let status = std::fs::File::open("/proc/thread-self/status").unwrap();
        let own = CapabilitySet::SETUID | CapabilitySet::SETGID;
        let alone_at = Some(std::env::temp_dir());
        let failed = confine(&Rights {
            own,
            alone_at,
            is_nobody: true,
            of_programs: CapabilitySet::empty(),
            ..rights()
        });
        assert!(failed.is_empty(), "{failed:?}");
        let names: Vec<_> = std::fs::read_dir("/").unwrap().collect();
        assert!(names.is_empty() && std::fs::read_dir("/..").unwrap().next().is_none());
        assert!(std::fs::metadata(held.path()).is_err());
        assert!(std::fs::write("/file", "").is_err(), "nothing can be put there");
        let status = std::io::read_to_string(status).unwrap();
        for line in ["Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534"] {
            assert!(status.lines().any(|one| one == line), "{status}");
        }
        assert_eq!(capabilities(None).unwrap().permitted, own);
        // What it was given it has, as whom it is.
        let tree = tree.unwrap();
        let read = || {
            let flags = rustix::fs::OFlags::RDONLY;
            let file = rustix::fs::openat(&tree, "file", flags, rustix::fs::Mode::empty())?;
            std::io::read_to_string(std::fs::File::from(file))
        };
        let root = FileUser { uid: 0, gid: 0, groups: Vec::new() };
        assert_eq!(root.act(read).unwrap(), "held");
        assert!(FileUser::NOBODY.act(read).is_err(), "a directory of root's");
        assert!(read().is_err(), "nobody again");
        for call in calls::USERS {
            assert_eq!(error_of(*call), libc::EPERM);
        }
    }

    #[test]
    fn who_is_alone_sees_no_file_but_what_it_has_open() {
        inside("who_is_alone_sees_no_file_but_what_it_has_open", alone);
    }

    fn no_core_file() {
        forbid_core_files().unwrap();
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        // What is looked at here stays readable for the process itself.
        assert!(std::fs::read_link("/proc/self/fd/1").is_ok());
        assert!(!std::fs::read("/proc/self/maps").unwrap().is_empty());
        assert!(std::fs::read("/proc/self/fdinfo/1").is_ok());
    }

    #[test]
    fn a_process_without_core_files_sees_itself() {
        inside("a_process_without_core_files_sees_itself", no_core_file);
    }
}
