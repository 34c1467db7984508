//! Which supervisors and nodes run on this machine, and which directories they need.
//!
//! A file system that is mounted over such a directory, or above it, hides sockets and state from the
//! very processes that serve it, and then nothing ends the wait. So each process says where its
//! directories are, in a file of its own that it holds locked: the lock goes with the process, however
//! that ends, and a file without one counts for nothing.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};

/// Where the files are.
const DIRECTORY: &str = "/run/etherpool-running";
/// A file that is being made there.
const FRESH: &str = ".new";
/// Files of one process number: those of other process namespaces share the directory.
const NAMESAKES_MAX: u32 = 64;
/// A file that is longer isn't one of ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A process that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its number.
    pub pid: u32,
    /// What it is: `supervisor`, `node`, `target`.
    pub role: String,
    /// What it needs; absolute, not resolved.
    pub directories: Vec<PathBuf>,
}

/// The process is known as running as long as this exists.
pub struct Registration {
    place: PathBuf,
    path: PathBuf,
    file: File,
}

/// Makes this process known. One that can't be is logged: it is a protection of others, nothing that
/// this process can't do without.
pub fn register(role: &str, directories: Vec<PathBuf>) -> Option<Registration> {
    match register_in(Path::new(DIRECTORY), role, directories) {
        Ok(registration) => Some(registration),
        Err(error) => {
            tracing::warn!(
                "{DIRECTORY}: {error}: a supervisor can't know that this {role} needs its \
                 directories, and may mount something over them"
            );
            None
        }
    }
}

/// All that run.
pub fn running() -> io::Result<Vec<Running>> {
    running_in(Path::new(DIRECTORY))
}

fn register_in(place: &Path, role: &str, directories: Vec<PathBuf>) -> io::Result<Registration> {
    let directories =
        directories.iter().map(std::path::absolute).collect::<io::Result<Vec<PathBuf>>>()?;
    let pid = std::process::id();
    let text = serde_json::to_vec(&Running { pid, role: role.to_owned(), directories })?;
    let _turn = turn(place)?;
    remove_dead(place)?;
    let name = |number: u32| match number {
        0 => pid.to_string(),
        number => format!("{pid}.{number}"),
    };
    let path = (0..NAMESAKES_MAX)
        .map(|number| place.join(name(number)))
        .find(|path| path.symlink_metadata().is_err())
        .ok_or_else(|| io::Error::other("too many processes of one number"))?;
    // Under its own name only when it is complete and locked: whoever looks needs no turn.
    let fresh = place.join(FRESH);
    let _ = std::fs::remove_file(&fresh);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&fresh)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    file.write_all(&text)?;
    std::fs::rename(&fresh, &path)?;
    Ok(Registration { place: place.to_owned(), path, file })
}

impl Drop for Registration {
    fn drop(&mut self) {
        // What can't be removed is without a lock in a moment.
        let Ok(_turn) = turn(&self.place) else { return };
        let is_ours = |found: std::fs::Metadata| {
            self.file
                .metadata()
                .is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
        };
        if self.path.symlink_metadata().is_ok_and(is_ours) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The directory, made if need be and locked: one process at a time adds and removes.
fn turn(place: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let directory = File::options().read(true).custom_flags(flags.bits() as i32).open(place)?;
    if directory.metadata()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    flock(&directory, FlockOperation::LockExclusive)?;
    Ok(directory)
}

fn running_in(place: &Path) -> io::Result<Vec<Running>> {
    let entries = match std::fs::read_dir(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // Nobody's yet: to look whether it is held would be in the way of who is about to hold it.
        if path.ends_with(FRESH) {
            continue;
        }
        if let Some(file) = open_held(&path)?
            && let Ok(one) = serde_json::from_reader(io::Read::take(&file, FILE_BYTES_MAX))
        {
            found.push(one);
        }
    }
    Ok(found)
}

/// The file, if a process holds it.
fn open_held(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    // Shared: others that look at the same moment don't make it look held.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(file)),
        Err(error) => Err(error.into()),
    }
}

fn remove_dead(place: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(place)? {
        let path = entry?.path();
        if open_held(&path)?.is_none() {
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_is_known_as_long_as_it_holds_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("running");
        assert_eq!(running_in(&place).unwrap(), []);
        let node = register_in(&place, "node", vec!["/var/lib/x".into()]).unwrap();
        let supervisor = register_in(&place, "supervisor", vec!["/run/y".into()]).unwrap();
        let mut roles: Vec<_> =
            running_in(&place).unwrap().into_iter().map(|one| one.role).collect();
        roles.sort();
        assert_eq!(roles, ["node", "supervisor"]);
        drop(supervisor);
        let left = running_in(&place).unwrap();
        assert_eq!(left[0].directories, [Path::new("/var/lib/x")]);
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 1);
        assert_eq!(std::fs::metadata(&node.path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&place).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_a_killed_process_left_counts_for_nothing_and_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("running");
        drop(register_in(&place, "node", Vec::new()).unwrap());
        std::fs::write(place.join("77"), r#"{"pid":77,"role":"node","directories":["/x"]}"#)
            .unwrap();
        assert_eq!(running_in(&place).unwrap(), []);
        let _node = register_in(&place, "node", Vec::new()).unwrap();
        assert!(!place.join("77").exists());
        assert_eq!(running_in(&place).unwrap().len(), 1);
    }

    /// Who looked at the moment when a process made itself known kept it from holding its file: it was
    /// unknown from then on.
    #[test]
    fn a_file_that_is_being_made_is_not_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("running");
        let _node = register_in(&place, "node", Vec::new()).unwrap();
        let fresh = place.join(FRESH);
        std::fs::write(&fresh, r#"{"pid":77,"role":"target","directories":["/x"]}"#).unwrap();
        let file = File::open(&fresh).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let roles: Vec<_> = running_in(&place).unwrap().into_iter().map(|one| one.role).collect();
        assert_eq!(roles, ["node"]);
    }

    #[test]
    fn a_link_in_the_directorys_place_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("running");
        std::os::unix::fs::symlink(directory.path(), &place).unwrap();
        assert!(register_in(&place, "node", Vec::new()).is_err());
    }
}
