//! System calls that can be refused, sorted by who never makes them.

use libc::c_long;

/// Calls that change the machine or look into other processes: nothing that has to do with storage makes them, file
/// systems' tools and people's own commands included.
pub const MACHINE: &[i64] = &[
    // Another kernel, its modules and its programs.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_lookup_dcookie,
    // Other processes, and what helps against the kernel.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_userfaultfd,
    // The machine's state.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    // Files past all directories.
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_nfsservctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
];

/// Calls that mailers and people's own commands may make, and daemons don't.
pub const OTHERS: &[i64] = &[
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    libc::SYS_name_to_handle_at,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
];

/// Calls by which file systems are mounted and directories put in the place of others.
pub const MOUNTS: &[i64] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
];

/// The call by which a thread goes to another namespace.
pub const NAMESPACES: &[i64] = &[libc::SYS_setns];

/// Calls by which a process becomes another program.
pub const PROGRAMS: &[i64] = &[libc::SYS_execve, libc::SYS_execveat];

/// All of these, for who does nothing but serve.
pub const ALL: [&[i64]; 6] = [MACHINE, OTHERS, MOUNTS, NAMESPACES, PROGRAMS, USERS];

/// Calls by which a process becomes another user. That of a thread for files stays ([`crate::FileUser`]).
pub const USERS: &[i64] = &[
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
];

/// Numbers by which a call is made: some kernels for x86-64 know another one for each, by which a list of refusals
/// would be got round.
pub(super) fn all_numbers(call: c_long) -> impl Iterator<Item = i64> {
    const X32: i64 = 0x4000_0000;
    // Those that have another number there beside that bit (arch/x86/entry/syscalls/syscall_64.tbl).
    const RENUMBERED: [(i64, i64); 6] = [
        (libc::SYS_execve, 520),
        (libc::SYS_ptrace, 521),
        (libc::SYS_kexec_load, 528),
        (libc::SYS_process_vm_readv, 539),
        (libc::SYS_process_vm_writev, 540),
        (libc::SYS_execveat, 545),
    ];
    let is_x86 = cfg!(target_arch = "x86_64");
    let renumbered = RENUMBERED.into_iter().filter(move |(of, _)| is_x86 && *of == call);
    let other = is_x86.then_some(call | X32);
    let renumbered = renumbered.flat_map(|(_, number)| [number, number | X32]);
    std::iter::once(call).chain(other).chain(renumbered)
}
