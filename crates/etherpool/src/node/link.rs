//! Symbolic links to exported paths, for people and scripts; gone with their exports. Each has a record
//! beside the directory that they are in: what others have put there is none of ours.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
    pub fn make(run_dir: &Path, name: &str, path: &Path) -> Option<Link> {
        // The record first: a link without one would stay for ever.
        let made = Made::make(&run_dir.join(RECORDS), name, path).and_then(|record| {
            Ok(Link { _link: Made::make(&run_dir.join(LINKS), name, path)?, _record: record })
        });
        match made {
            Ok(link) => Some(link),
            Err(error) => {
                let link = run_dir.join(LINKS).join(name);
                tracing::warn!("{} can't be made: {error}", link.display());
                None
            }
        }
    }
}

/// Takes away what a process left that was given no time for it. Before anything is exported.
pub fn clear(run_dir: &Path) {
    let Ok(records) = std::fs::read_dir(run_dir.join(RECORDS)) else { return };
    for record in records.flatten() {
        // Not a link: not ours.
        let Ok(target) = std::fs::read_link(record.path()) else { continue };
        let link = run_dir.join(LINKS).join(record.file_name());
        let is_ours = std::fs::read_link(&link).is_ok_and(|found| found == target);
        let cleared = if is_ours { std::fs::remove_file(&link) } else { Ok(()) };
        if let Err(error) = cleared.and_then(|()| std::fs::remove_file(record.path())) {
            tracing::warn!("{} of an earlier run can't be removed: {error}", link.display());
        }
    }
}

/// A symbolic link of ours in the file system.
struct Made {
    path: PathBuf,
    /// A successor may have put its own there while our disk hung.
    identity: Identity,
}

/// Device, inode, when it was made, and where it leads: inodes are used again.
type Identity = (u64, u64, i64, i64, PathBuf);

impl Made {
    fn make(directory: &Path, name: &str, target: &Path) -> io::Result<Made> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join(name);
        // What an earlier run left; nothing but a link is ever taken away.
        if path.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
            std::fs::remove_file(&path)?;
        }
        std::os::unix::fs::symlink(target, &path)?;
        let identity = identity_of(&path)?;
        Ok(Made { path, identity })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if identity_of(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity_of(path: &Path) -> io::Result<Identity> {
    let found = path.symlink_metadata()?;
    let target = std::fs::read_link(path)?;
    Ok((found.dev(), found.ino(), found.ctime(), found.ctime_nsec(), target))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (run_dir, disk) = (dir.path(), dir.path().join("disk"));
        let exports = run_dir.join("exports");
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
        assert_eq!(std::fs::read_dir(run_dir.join(RECORDS)).unwrap().count(), 0);
    }

    #[test]
    fn a_link_goes_with_its_export_but_not_with_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("exports/x");
        let first = Link::make(dir.path(), "x", Path::new("/a")).unwrap();
        let second = Link::make(dir.path(), "x", Path::new("/b")).unwrap();
        drop(first);
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("/b"));
        drop(second);
        assert!(link.symlink_metadata().is_err());
        assert_eq!(std::fs::read_dir(dir.path().join(RECORDS)).unwrap().count(), 0);
        std::fs::write(&link, "somebody's").unwrap();
        assert!(Link::make(dir.path(), "x", Path::new("/a")).is_none());
        assert_eq!(std::fs::read_dir(dir.path().join(RECORDS)).unwrap().count(), 0);
    }
}
