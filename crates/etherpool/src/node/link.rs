//! Symbolic links to exported paths, for people and scripts; gone with their exports. Each has a record
//! beside the directory that they are in: what others have put there is none of ours.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use os::dir::Directory;
use rustix::fs::FileType;

/// Where the links are, in the run directory.
const LINKS: &str = "exports";
/// Where a link of the same name and target says that we made the other.
const RECORDS: &str = "exports.made";

/// A link, until it is dropped.
pub struct Link {
    _link: Made,
    _record: Made,
}

impl Link {
    /// Links to `path` under this name.
    pub fn make(run_dir: &Directory, name: &str, path: &Path) -> Option<Link> {
        // The record first: a link without one would stay for ever.
        let made = Made::make(run_dir, RECORDS, name, path).and_then(|record| {
            Ok(Link { _link: Made::make(run_dir, LINKS, name, path)?, _record: record })
        });
        match made {
            Ok(link) => Some(link),
            Err(error) => {
                let link = run_dir.path_of(LINKS).join(name);
                tracing::warn!("{} can't be made: {error}", link.display());
                None
            }
        }
    }
}

/// Takes away what a process left that was given no time for it. Before anything is exported.
pub fn clear(run_dir: &Directory) {
    let Ok(records) = run_dir.present(RECORDS) else { return };
    let links = run_dir.present(LINKS);
    for name in records.names().unwrap_or_default() {
        // Not a link: not ours.
        let Ok(target) = records.read_link(&name) else { continue };
        let cleared = match &links {
            Ok(links) if links.read_link(&name).is_ok_and(|found| found == target) => {
                links.remove(&name)
            }
            _ => Ok(()),
        };
        if let Err(error) = cleared.and_then(|()| records.remove(&name)) {
            let link = run_dir.path_of(LINKS).join(&name);
            tracing::warn!("{} of an earlier run can't be removed: {error}", link.display());
        }
    }
}

/// A symbolic link of ours in the file system.
struct Made {
    directory: Directory,
    name: String,
    /// A successor may have put its own there while our disk hung.
    identity: Identity,
}

/// Device, inode, when it was made, and where it leads: inodes are used again.
type Identity = (u64, u64, i64, u64, PathBuf);

impl Made {
    fn make(run_dir: &Directory, place: &str, name: &str, target: &Path) -> io::Result<Made> {
        let directory = run_dir.subdirectory(place)?;
        let file = OsStr::new(name);
        // What an earlier run left; nothing but a link is ever taken away.
        if directory
            .status(file)
            .is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_symlink())
        {
            directory.remove(file)?;
        }
        directory.symlink(target, file)?;
        let identity = identity_of(&directory, file)?;
        Ok(Made { directory, name: name.to_owned(), identity })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let file = OsStr::new(&self.name);
        if identity_of(&self.directory, file).is_ok_and(|found| found == self.identity) {
            let _ = self.directory.remove(file);
        }
    }
}

fn identity_of(directory: &Directory, name: &OsStr) -> io::Result<Identity> {
    let found = directory.status(name)?;
    let target = directory.read_link(name)?;
    Ok((found.st_dev, found.st_ino, found.st_ctime, found.st_ctime_nsec, target))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (run_dir, disk) = (&Directory::open(dir.path()).unwrap(), dir.path().join("disk"));
        let exports = run_dir.path_of("exports");
        let is_there = |name: &str| exports.join(name).symlink_metadata().is_ok();
        clear(run_dir);
        for name in ["stale", "replaced", "gone", "file"] {
            // As if killed.
            std::mem::forget(Link::make(run_dir, name, &disk).unwrap());
        }
        symlink(&disk, exports.join("foreign")).unwrap();
        std::fs::remove_file(exports.join("replaced")).unwrap();
        symlink("/elsewhere", exports.join("replaced")).unwrap();
        std::fs::remove_file(exports.join("gone")).unwrap();
        std::fs::remove_file(exports.join("file")).unwrap();
        std::fs::write(exports.join("file"), "somebody's").unwrap();
        clear(run_dir);
        assert_eq!(
            ["stale", "foreign", "replaced", "gone", "file"].map(is_there),
            [false, true, true, false, true]
        );
        assert_eq!(std::fs::read_dir(run_dir.path_of(RECORDS)).unwrap().count(), 0);
    }

    #[test]
    fn a_link_goes_with_its_export_but_not_with_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("exports/x");
        let run_dir = Directory::open(dir.path()).unwrap();
        let first = Link::make(&run_dir, "x", Path::new("/a")).unwrap();
        let second = Link::make(&run_dir, "x", Path::new("/b")).unwrap();
        drop(first);
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("/b"));
        drop(second);
        assert!(link.symlink_metadata().is_err());
        assert_eq!(std::fs::read_dir(dir.path().join(RECORDS)).unwrap().count(), 0);
        std::fs::write(&link, "somebody's").unwrap();
        assert!(Link::make(&run_dir, "x", Path::new("/a")).is_none());
        assert_eq!(std::fs::read_dir(dir.path().join(RECORDS)).unwrap().count(), 0);
    }
}
