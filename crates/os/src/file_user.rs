//! Doing something with files as another user, on one thread for as long as that takes: what decides about files is
//! what the kernel knows of the thread that asks, not of its process. A thread that serves several users is nobody's
//! between them.
#![allow(unsafe_code)] // setfsuid(2) and setfsgid(2)

use std::io;

use rustix::fs::Gid;
use rustix::process::getgroups;
use rustix::thread::set_thread_groups;

/// By these numbers the kernel is asked, and no user or group has them.
const NO_ID: u32 = u32::MAX;

/// As whom files are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileUser {
    /// The user, to whom files belong that are made.
    pub uid: u32,
    /// The group, likewise.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

impl FileUser {
    /// Nobody, of no group but nobody's: has what everybody has.
    pub const NOBODY: FileUser = FileUser { uid: 65_534, gid: 65_534, groups: Vec::new() };

    /// Whether there can be such a user.
    pub fn is_valid(&self) -> bool {
        self.uid != NO_ID && self.gid != NO_ID && !self.groups.contains(&NO_ID)
    }

    /// Does `work` on this thread as this user, if the process may (`CAP_SETUID`, `CAP_SETGID`); else it isn't done.
    /// The rights that root has to files of others are set aside meanwhile, unless the user is root: then they are as
    /// the process has them.
    pub fn act<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if !self.is_valid() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let former = FileUser {
            uid: set_uid(NO_ID),
            gid: set_gid(NO_ID),
            groups: getgroups()?.into_iter().map(Gid::as_raw).collect(),
        };
        // It is put back when all is done, also in part or by a panic.
        let _back = Back(former);
        self.become_it()?;
        work()
    }

    fn become_it(&self) -> io::Result<()> {
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        // Of this thread alone: the C library's function of this name has all threads do it.
        set_thread_groups(&groups)?;
        set_gid(self.gid);
        set_uid(self.uid);
        // These two don't say whether they did it.
        if (set_uid(NO_ID), set_gid(NO_ID)) == (self.uid, self.gid) {
            Ok(())
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
}

/// As whom a thread goes on.
struct Back(FileUser);

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(error) = self.0.become_it() {
            // The next user would be served with the rights of this one.
            tracing::error!(%error, "a thread stays another user's; the process ends");
            std::process::abort();
        }
    }
}

/// Sets the thread's user for files, and returns the former; with [`NO_ID`] only that.
fn set_uid(uid: u32) -> u32 {
    // SAFETY: no memory is involved, and only the calling thread is changed.
    unsafe { libc::setfsuid(uid) }.cast_unsigned()
}

/// The same of its group.
fn set_gid(gid: u32) -> u32 {
    // SAFETY: as above.
    unsafe { libc::setfsgid(gid) }.cast_unsigned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    use super::*;

    fn is_root() -> bool {
        let is = rustix::process::geteuid().is_root();
        if !is {
            eprintln!("SKIPPED: needs root");
        }
        is
    }

    #[test]
    fn files_are_used_as_the_user_and_afterwards_as_before() {
        if !is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let closed = |name: &str, owner: u32, group: u32, mode: u32| {
            let path = directory.path().join(name);
            std::fs::write(&path, name).unwrap();
            chown(&path, Some(owner), Some(group)).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            path
        };
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let roots = closed("root", 0, 0, 0o600);
        let own = closed("own", 1000, 1000, 0o600);
        let shared = closed("shared", 0, 77, 0o640);
        let user = FileUser { uid: 1000, gid: 1000, groups: vec![77] };
        let read = |user: &FileUser, path| user.act(|| std::fs::read(path)).is_ok();
        assert!(read(&user, &own) && read(&user, &shared) && !read(&user, &roots));
        let alone = FileUser { groups: Vec::new(), ..user.clone() };
        assert!(!read(&alone, &shared), "root's own groups are set aside, too");
        assert!(!read(&FileUser::NOBODY, &own));
        let made = directory.path().join("made");
        user.act(|| std::fs::write(&made, "")).unwrap();
        let found = made.metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (1000, 1000));
        // As before, also after a panic within.
        let groups = getgroups().unwrap();
        let broken = std::panic::catch_unwind(|| user.act(|| -> io::Result<()> { panic!("no") }));
        assert!(broken.is_err());
        assert_eq!((set_uid(NO_ID), set_gid(NO_ID)), (0, 0));
        assert_eq!(getgroups().unwrap(), groups);
        std::fs::read(&roots).unwrap();
    }

    #[test]
    fn a_thread_is_another_user_and_its_neighbours_are_not() {
        if !is_root() {
            return;
        }
        let user = FileUser { uid: 1000, gid: 1000, groups: vec![77] };
        user.act(|| {
            let other = std::thread::scope(|scope| {
                // It is begun with the rights of this one, and is one of its own from then on.
                scope.spawn(|| FileUser::NOBODY.act(|| Ok(set_uid(NO_ID)))).join()
            });
            assert_eq!(other.unwrap()?, 65_534);
            assert_eq!((set_uid(NO_ID), set_gid(NO_ID)), (1000, 1000));
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn the_number_that_is_no_user_is_refused() {
        for (uid, gid, groups) in [(NO_ID, 0, vec![]), (0, NO_ID, vec![]), (0, 0, vec![1, NO_ID])] {
            let error = FileUser { uid, gid, groups }.act(|| Ok(())).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
