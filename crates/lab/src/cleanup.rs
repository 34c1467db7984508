//! Removing what the lab attached to the kernel when nobody is left to do it in order: FUSE
//! connections, mounts, loop devices. All are found by the lab's paths, never by guess.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::try_run;
use crate::place::Place;

/// A line of /proc/self/mountinfo.
struct Mount {
    device_minor: String,
    point: PathBuf,
    source: String,
}

/// Unmounts the lab's file systems, detaches its loop devices, aborts its FUSE connections.
pub fn detach_all(place: &Place) {
    if mounts(place).is_empty() && loops(place).is_empty() {
        return;
    }
    // File systems first, while their device may still answer; then the device is taken away, and
    // what is left is unmounted lazily.
    for mount in mounts(place).iter().rev().filter(|mount| !is_fuse(mount)) {
        try_run("timeout", ["10".as_ref(), "umount".as_ref(), mount.point.as_os_str()]);
    }
    for device in loops(place) {
        try_run("losetup", ["-d".as_ref(), device.as_os_str()]);
    }
    abort_connections(place);
    for mount in mounts(place).iter().rev() {
        try_run("umount", ["-l".as_ref(), mount.point.as_os_str()]);
    }
    for device in loops(place) {
        try_run("losetup", ["-d".as_ref(), device.as_os_str()]);
    }
}

/// Makes everything that waits for the lab's volume fail, so that it can be killed.
pub fn abort_connections(place: &Place) {
    for mount in mounts(place).iter().filter(|mount| is_fuse(mount)) {
        let abort = Path::new("/sys/fs/fuse/connections").join(&mount.device_minor).join("abort");
        let _ = fs::write(abort, "1");
    }
}

/// What is still there after all of that, for people.
pub fn leftovers(place: &Place) -> Vec<String> {
    let mounts = mounts(place)
        .into_iter()
        .map(|mount| format!("{} is still mounted", mount.point.display()));
    let loops =
        loops(place).into_iter().map(|device| format!("{} is still attached", device.display()));
    mounts.chain(loops).collect()
}

fn is_fuse(mount: &Mount) -> bool {
    mount.source.contains("fuse") || mount.source == "etherpool"
}

fn mounts(place: &Place) -> Vec<Mount> {
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else { return Vec::new() };
    table
        .lines()
        .filter_map(|line| {
            let (fields, kind) = line.split_once(" - ")?;
            let mut fields = fields.split(' ').skip(2);
            let (_, minor) = fields.next()?.split_once(':')?;
            let point = PathBuf::from(unescape(fields.nth(1)?));
            let kind_and_source: Vec<_> = kind.split(' ').take(2).collect();
            point.starts_with(place.dir()).then(|| Mount {
                device_minor: minor.to_owned(),
                point,
                source: kind_and_source.join(" "),
            })
        })
        .collect()
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

/// mountinfo writes blanks and the like as octal escapes.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('\\') {
        plain.push_str(before);
        match behind.get(..3).and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(code) => {
                plain.push(char::from(code));
                rest = &behind[3..];
            }
            None => {
                plain.push('\\');
                rest = behind;
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn mountinfo_escapes() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/plain"), "/plain");
        assert_eq!(unescape("/odd\\9"), "/odd\\9");
    }
}
