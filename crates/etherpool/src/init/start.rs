//! What programs expect of a running system, made at the very beginning.

use std::path::Path;

use anyhow::Context;

/// The kernel's file systems, and what keeps files in memory.
const MOUNTS: [(&str, &str, &str); 5] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=0755"),
    ("tmpfs", "/run", "mode=0755"),
    ("tmpfs", "/tmp", "mode=1777"),
];
/// What programs find by the names that descriptors have.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];
/// Settings of the kernel. A machine whose kernel gives up starts anew: nobody stands beside it.
const SETTINGS: [(&str, &str); 2] =
    [("/proc/sys/kernel/panic", "10"), ("/proc/sys/kernel/panic_on_oops", "1")];
/// Where programs are.
const PATH: &str = "/usr/bin";

/// Mounts what there is to be, and sets the kernel. Without the file systems nothing else works.
pub fn prepare() -> anyhow::Result<()> {
    for (kind, target, options) in MOUNTS {
        let target = Path::new(target);
        std::fs::create_dir_all(target).with_context(|| format!("{}", target.display()))?;
        match os::machine::mount(kind, target, options) {
            // The kernel may have done so.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            mounted => {
                mounted.with_context(|| format!("{kind} at {}", target.display()))?;
            }
        }
    }
    for (target, link) in LINKS {
        // One that is there already is as good.
        let _ = std::os::unix::fs::symlink(target, link);
    }
    Ok(())
}

/// Sets the kernel; what it doesn't take, it does without.
pub fn set_kernel() {
    for (file, value) in SETTINGS {
        if let Err(error) = std::fs::write(file, value) {
            tracing::warn!(%error, file, "the kernel doesn't take {value}");
        }
    }
    if let Err(error) = os::machine::take_ctrl_alt_del() {
        tracing::warn!(%error, "Ctrl-Alt-Del ends this machine at once");
    }
}

/// The search path for programs that this one starts.
pub fn environment() -> [(&'static str, &'static str); 2] {
    [("PATH", PATH), ("HOME", "/root")]
}
