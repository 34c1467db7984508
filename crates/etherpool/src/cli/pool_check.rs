//! `etherpool pool check`: a pool's disks as they lie there, without a supervisor and without a change.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use block::check_name;
use clap::Args;
use control::exit::Exit;
use pool::check::{
    CheckOptions, CheckReport, DiskImage, Finding, Kind, Severity, Unreadable, check,
};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::Failure;
use super::output;

/// Arguments of `pool check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The pool's disks: paths of images or block devices on this machine, all of them if possible.
    /// With the name or id of a pool among them, only that pool is checked
    #[arg(required = true, value_name = "POOL|DISK")]
    disks: Vec<String>,

    /// Read every written block of every copy, too, and compare it with its checksum
    #[arg(long)]
    data: bool,
}

/// Runs it.
pub fn run(args: &CheckArgs, json: bool) -> Result<Exit, Failure> {
    let (paths, pool) = sort_out(&args.disks)?;
    let disks = open_all(&paths)?;
    let images: Vec<DiskImage<'_>> = disks.iter().map(Disk::image).collect();
    let mut report = check(&images, &CheckOptions { data: args.data, pool: pool.clone() });
    if let Some(pool) = pool.filter(|_| report.pools.is_empty()) {
        return Err(no_such_pool(&pool));
    }
    for disk in disks.iter().filter(|disk| disk.in_use) {
        tell_in_use(&mut report, &disk.name);
    }
    output::show(json, &report, || output::pool_check(&report))?;
    Ok(Exit::of_health(report.is_well()))
}

pub(super) fn no_such_pool(pool: &str) -> Failure {
    Failure::not_found(
        format!("none of these disks belongs to a pool '{pool}'"),
        "give the paths of its disks; without a name every pool on them is read",
    )
}

/// Which arguments are paths, and which one names a pool: what exists or has a slash is a path.
pub(super) fn sort_out(arguments: &[String]) -> Result<(Vec<PathBuf>, Option<String>), Failure> {
    let (mut paths, mut pool): (Vec<PathBuf>, Option<String>) = (Vec::new(), None);
    for argument in arguments {
        let path = Path::new(argument);
        if argument.contains('/') || path.exists() {
            paths.push(path.to_owned());
            continue;
        }
        check_name(argument).map_err(|_| missing(path))?;
        if let Some(other) = pool.replace(argument.clone()) {
            return Err(Failure::not_found(
                format!(
                    "there is no file '{other}' or '{argument}', and only one pool can be named"
                ),
                "give the paths of the pool's disks",
            ));
        }
    }
    if paths.is_empty() {
        return Err(Failure::usage(
            "no disk is named: no supervisor is asked where a pool's disks are; give their paths \
             (images or block devices on this machine)",
        ));
    }
    Ok((paths, pool))
}

fn missing(path: &Path) -> Failure {
    Failure::not_found(
        format!("there is no file or device {}", path.display()),
        "give the paths of the pool's disks on this machine",
    )
}

/// A file that is only read.
pub(super) struct Disk {
    pub(super) name: String,
    file: File,
    bytes: u64,
    pub(super) in_use: bool,
}

impl Disk {
    pub(super) fn image(&self) -> DiskImage<'_> {
        let read = |offset: u64, into: &mut [u8]| {
            self.file.read_exact_at(into, offset).map_err(|_| Unreadable)
        };
        DiskImage { name: self.name.clone(), bytes: self.bytes, read: Box::new(read) }
    }
}

/// Opens each file once, whatever names it has.
pub(super) fn open_all(paths: &[PathBuf]) -> Result<Vec<Disk>, Failure> {
    let mut disks = Vec::new();
    let mut seen = Vec::new();
    for path in paths {
        let kind = match std::fs::metadata(path) {
            Ok(kind) => kind,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(missing(path));
            }
            Err(error) => return Err(failed(path, &error)),
        };
        let is_device = kind.file_type().is_block_device();
        if !is_device && !kind.is_file() {
            return Err(Failure::usage(format!(
                "{} is neither a file nor a block device",
                path.display()
            )));
        }
        let identity =
            if is_device { (true, kind.rdev(), 0) } else { (false, kind.dev(), kind.ino()) };
        if seen.contains(&identity) {
            continue;
        }
        seen.push(identity);
        disks.push(open(path, is_device)?);
    }
    Ok(disks)
}

fn open(path: &Path, is_device: bool) -> Result<Disk, Failure> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::open(path, flags, Mode::empty());
    // Not even the time of the last access is to change; only the file's owner may ask for that.
    let opened = match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        opened => opened,
    };
    let fd = opened.map_err(|error| failed(path, &error.into()))?;
    let in_use = is_in_use(path, &fd, is_device);
    let mut file = File::from(fd);
    let bytes = file.seek(SeekFrom::End(0)).map_err(|error| failed(path, &error))?;
    Ok(Disk { name: path.display().to_string(), file, bytes, in_use })
}

/// Whether somebody holds it as a node or target does: a file by its lock, a device exclusively. What is
/// tried is given back at once, so nobody who begins now is kept out.
fn is_in_use(path: &Path, fd: &OwnedFd, is_device: bool) -> bool {
    if is_device {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::EXCL;
        return rustix::fs::open(path, flags, Mode::empty()).err() == Some(Errno::BUSY);
    }
    match flock(fd.as_fd(), FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            // Closing the file would do it too.
            let _ = flock(fd.as_fd(), FlockOperation::Unlock);
            false
        }
        Err(error) => error == Errno::WOULDBLOCK,
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    anyhow::anyhow!("{} cannot be read: {error}", path.display()).into()
}

fn tell_in_use(report: &mut CheckReport, name: &str) {
    let found = Finding {
        severity: Severity::Note,
        kind: Kind::InUse,
        what: "a process of this machine uses it".into(),
        means: "its pool's owner may be at work: what was read at different moments may not go together"
            .into(),
        disk: Some(name.to_owned()),
        disk_offset_bytes: None,
        bytes: None,
        volume: None,
        volume_offset_bytes: None,
    };
    let has = |disk: &pool::check::DiskCheck| disk.name.as_deref() == Some(name);
    match report.pools.iter_mut().find(|pool| pool.disks.iter().any(has)) {
        Some(pool) => {
            pool.counts.notes += 1;
            pool.findings.push(found);
        }
        None => report.findings.push(found),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(arguments: &[&str]) -> Vec<String> {
        arguments.iter().map(|argument| (*argument).to_owned()).collect()
    }

    #[test]
    fn paths_and_a_pools_name_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("d0.img");
        std::fs::write(&disk, [0; 4096]).unwrap();
        let disk = disk.to_str().unwrap();
        let (paths, pool) = sort_out(&text(&["cluster", disk, "/dev/not-there"])).unwrap();
        assert_eq!((paths.len(), pool.as_deref()), (2, Some("cluster")));
        assert_eq!(sort_out(&text(&["cluster"])).unwrap_err().exit, Exit::Usage);
        assert_eq!(sort_out(&text(&["a", "b", disk])).unwrap_err().exit, Exit::NotFound);
        let error = open_all(&[PathBuf::from("/dev/not-there")]).err().unwrap();
        assert_eq!(error.exit, Exit::NotFound);
        let error = open_all(&[directory.path().to_owned()]).err().unwrap();
        assert_eq!(error.exit, Exit::Usage);
    }

    #[test]
    fn a_locked_file_is_in_use_and_a_second_name_is_the_same_disk() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, link) = (directory.path().join("d0.img"), directory.path().join("link"));
        std::fs::write(&disk, [0; 8192]).unwrap();
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        let holder = File::open(&disk).unwrap();
        flock(&holder, FlockOperation::NonBlockingLockExclusive).unwrap();
        let disks = open_all(&[disk.clone(), link]).unwrap();
        assert_eq!((disks.len(), disks[0].bytes, disks[0].in_use), (1, 8192, true));
        drop(holder);
        assert!(!open_all(std::slice::from_ref(&disk)).unwrap()[0].in_use);
        // Nothing is kept: whoever comes next may lock it while a check reads.
        let _checking = open_all(std::slice::from_ref(&disk)).unwrap();
        let next = File::open(&disk).unwrap();
        flock(&next, FlockOperation::NonBlockingLockExclusive).unwrap();
    }
}
