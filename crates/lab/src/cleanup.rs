//! Removing what the lab attached to the kernel when nobody is left to do it in order: FUSE
//! connections, mounts, loop devices. All are found by the lab's paths, never by guess.

use std::fs;
use std::path::{Path, PathBuf};

use frontend::kernel::{self, MountEntry};

use crate::command::try_run;
use crate::place::Place;

/// Unmounts the lab's file systems, detaches its loop devices, aborts its FUSE connections.
pub fn detach_all(place: &Place) {
    if mounts(place).is_empty() && loops(place).is_empty() {
        return;
    }
    // File systems first, while their device may still answer; then the device is taken away, and
    // what is left is unmounted lazily.
    for mount in mounts(place).iter().rev().filter(|mount| !is_fuse(mount)) {
        try_run("timeout", ["10".as_ref(), "umount".as_ref(), mount.target.as_os_str()]);
    }
    for device in loops(place) {
        try_run("losetup", ["-d".as_ref(), device.as_os_str()]);
    }
    abort_connections(place);
    for mount in mounts(place).iter().rev() {
        try_run("umount", ["-l".as_ref(), mount.target.as_os_str()]);
    }
    for device in loops(place) {
        try_run("losetup", ["-d".as_ref(), device.as_os_str()]);
    }
}

/// Makes everything that waits for the lab's volume fail, so that it can be killed.
pub fn abort_connections(place: &Place) {
    for mount in mounts(place).iter().filter(|mount| is_fuse(mount)) {
        let abort =
            Path::new("/sys/fs/fuse/connections").join(mount.device.1.to_string()).join("abort");
        let _ = fs::write(abort, "1");
    }
}

/// What is still there after all of that, for people.
pub fn leftovers(place: &Place) -> Vec<String> {
    let mounts = mounts(place)
        .into_iter()
        .map(|mount| format!("{} is still mounted", mount.target.display()));
    let loops =
        loops(place).into_iter().map(|device| format!("{} is still attached", device.display()));
    mounts.chain(loops).collect()
}

fn is_fuse(mount: &MountEntry) -> bool {
    mount.kind.starts_with("fuse")
}

fn mounts(place: &Place) -> Vec<MountEntry> {
    let mut mounts = kernel::mounts().unwrap_or_default();
    mounts.retain(|mount| mount.target.starts_with(place.dir()));
    mounts
}

/// Loop devices whose file lies in the lab; also after it was unmounted lazily.
fn loops(place: &Place) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| {
            fs::read_to_string(entry.path().join("loop/backing_file"))
                .is_ok_and(|file| Path::new(file.trim()).starts_with(place.dir()))
        })
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect()
}
