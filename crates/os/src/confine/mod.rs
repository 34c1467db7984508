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
#![allow(unsafe_code)] // seccomp(2) with flags

pub mod calls;

use std::collections::BTreeMap;
use std::io;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
pub use rustix::thread::CapabilitySet;
use rustix::thread::{
    CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    no_new_privs, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::sys;

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
    // While there is the right to.
    failed.extend(refuse_calls(&rights.refused).map_err(ConfineError::Calls).err());
    failed.extend(keep_capabilities(rights.own, rights.of_programs).err());
    failed
}

/// Gives up all capabilities of the calling thread, as far as that is possible.
pub fn give_up_capabilities() -> Result<(), ConfineError> {
    keep_capabilities(CapabilitySet::empty(), CapabilitySet::empty())
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
            refused: vec![
                calls::MACHINE,
                calls::OTHERS,
                calls::MOUNTS,
                calls::NAMESPACES,
                calls::PROGRAMS,
            ],
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
