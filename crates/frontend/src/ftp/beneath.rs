//! Files beneath a directory that no path can leave: `..` is resolved in the text, everything else,
//! symbolic links included, by the kernel under `RESOLVE_BENEATH`.
//!
//! Whatever changes a directory is followed by an fsync of that directory before it returns.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, DirEntry, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Entries of a directory that are in memory, and put in order, at a time.
const ENTRIES_MAX: usize = 4096;
/// Longest path, the kernel's own limit; also what keeps a session's working directory bounded.
const PATH_BYTES_MAX: usize = 4096;

/// An entry of a directory.
pub(super) struct Entry {
    pub(super) name: OsString,
    pub(super) stat: Stat,
}

/// A directory that is the root of all paths.
pub(super) struct Beneath {
    root: OwnedFd,
}

impl Beneath {
    /// The directory `home` beneath `root`.
    pub(super) fn new(root: &OwnedFd, home: &Path) -> io::Result<Beneath> {
        let home = if home.as_os_str().is_empty() { Path::new(".") } else { home };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Beneath { root: open_beneath(root, home, flags, Mode::empty())? })
    }

    pub(super) fn stat(&self, path: &Path) -> io::Result<Stat> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = open_beneath(&self.root, &relative(path)?, flags, Mode::empty())?;
        Ok(rustix::fs::fstat(file)?)
    }

    /// Opens a regular file to be read from `start` on, which isn't behind its end.
    pub(super) fn read(&self, path: &Path, start: u64) -> io::Result<File> {
        let mut file = self.open_regular(path, OFlags::RDONLY)?;
        not_behind_the_end(&file, start)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file)
    }

    /// Opens a regular file to be written from `start` on, cut there, made if it doesn't exist. A
    /// start behind its end is refused: the gap would read as zeros that nobody sent.
    pub(super) fn write(&self, path: &Path, start: u64) -> io::Result<File> {
        let mut file = self.open_regular(path, OFlags::WRONLY | OFlags::CREATE)?;
        not_behind_the_end(&file, start)?;
        file.set_len(start)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file)
    }

    /// Opens a regular file to be written at its end, made if it doesn't exist.
    pub(super) fn append(&self, path: &Path) -> io::Result<File> {
        self.open_regular(path, OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND)
    }

    pub(super) fn sync_parent(&self, path: &Path) -> io::Result<()> {
        let (parent, _) = self.parent(path)?;
        Ok(rustix::fs::fsync(parent)?)
    }

    pub(super) fn make_directory(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755))?;
        Ok(rustix::fs::fsync(parent)?)
    }

    pub(super) fn remove(&self, path: &Path, what: AtFlags) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        rustix::fs::unlinkat(&parent, &name, what)?;
        Ok(rustix::fs::fsync(parent)?)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_parent, from_name) = self.parent(from)?;
        let (to_parent, to_name) = self.parent(to)?;
        let flags = RenameFlags::empty();
        rustix::fs::renameat_with(&from_parent, &from_name, &to_parent, &to_name, flags)?;
        // The target first: a crash between the two leaves both names rather than none.
        rustix::fs::fsync(to_parent)?;
        Ok(rustix::fs::fsync(from_parent)?)
    }

    /// Opens a directory to be listed.
    pub(super) fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open_beneath(&self.root, &relative(path)?, flags, Mode::empty())
    }

    fn open_regular(&self, path: &Path, flags: OFlags) -> io::Result<File> {
        // Without blocking: a FIFO would wait for its other end.
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mode =
            if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o644) } else { Mode::empty() };
        let file = open_beneath(&self.root, &relative(path)?, flags, mode)?;
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(File::from(file)),
            FileType::Directory => Err(Errno::ISDIR.into()),
            _ => Err(Errno::ACCESS.into()),
        }
    }

    fn parent(&self, path: &Path) -> io::Result<(OwnedFd, OsString)> {
        let path = relative(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            // The root itself.
            return Err(Errno::ACCESS.into());
        };
        Ok((self.directory(parent)?, name.to_owned()))
    }
}

/// Hands over what is in `directory`, some [`ENTRIES_MAX`] entries at a time, each time in order.
pub(super) fn list(
    directory: &OwnedFd,
    mut each: impl FnMut(&[Entry]) -> io::Result<()>,
) -> io::Result<()> {
    let mut found = Dir::read_from(directory)?;
    loop {
        let mut entries = Vec::new();
        for entry in found.by_ref() {
            entries.extend(look_at(directory, &entry?)?);
            if entries.len() == ENTRIES_MAX {
                break;
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        entries.sort_unstable_by(|a: &Entry, b: &Entry| a.name.cmp(&b.name));
        each(&entries)?;
    }
}

/// Nothing if it isn't listed, or is there no more.
fn look_at(directory: &OwnedFd, entry: &DirEntry) -> io::Result<Option<Entry>> {
    let name = entry.file_name();
    let bytes = name.to_bytes();
    // A line feed in a name would be a line of its own in a listing.
    if matches!(bytes, b"." | b"..") || bytes.iter().any(u8::is_ascii_control) {
        return Ok(None);
    }
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Entry { name: OsStr::from_bytes(bytes).to_owned(), stat })),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn not_behind_the_end(file: &File, start: u64) -> io::Result<()> {
    if start > file.metadata()?.len() {
        let what = "restart behind the end of the file";
        return Err(io::Error::new(io::ErrorKind::NotFound, what));
    }
    Ok(())
}

/// The path from the root on, without `..`, which stops at the root as in any FTP server.
pub(super) fn relative(path: &Path) -> io::Result<PathBuf> {
    if path.as_os_str().len() > PATH_BYTES_MAX {
        return Err(Errno::NAMETOOLONG.into());
    }
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean.as_os_str().is_empty() {
        clean.push(".");
    }
    Ok(clean)
}

fn open_beneath(root: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    // The kernel gives up with EAGAIN when something is renamed on the way.
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(&root, path, flags, mode, how) {
            Err(Errno::AGAIN | Errno::INTR) if tries < 100 => tries += 1,
            Err(Errno::XDEV | Errno::LOOP) => {
                return Err(io::Error::new(io::ErrorKind::NotFound, "leads out of the volume"));
            }
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    fn root_of(directory: &Path) -> OwnedFd {
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn no_path_and_no_link_leads_out() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        std::fs::create_dir_all(root.join("home/sub")).unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        std::fs::write(root.join("top"), "t").unwrap();
        std::os::unix::fs::symlink("../../secret", root.join("home/out")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("home/absolute")).unwrap();
        std::os::unix::fs::symlink("sub", root.join("home/in")).unwrap();
        std::os::unix::fs::symlink("../top", root.join("home/up")).unwrap();

        let whole = Beneath::new(&root_of(&root), Path::new("")).unwrap();
        assert!(whole.read(Path::new("../../../top"), 0).is_ok());
        assert!(whole.read(Path::new("/home/../top"), 0).is_ok());
        assert!(whole.read(Path::new("home/up"), 0).is_ok());
        for path in ["home/out", "home/absolute/secret", "/secret", "../secret"] {
            assert!(whole.read(Path::new(path), 0).is_err(), "{path}");
            assert!(whole.stat(Path::new(path)).is_err(), "{path}");
        }
        assert!(whole.write(Path::new("home/out"), 0).is_err());
        assert!(whole.rename(Path::new("top"), Path::new("home/absolute/top")).is_err());
        assert!(whole.make_directory(Path::new("home/absolute/made")).is_err());
        assert!(whole.remove(Path::new("/"), AtFlags::REMOVEDIR).is_err());

        let home = Beneath::new(&root_of(&root), Path::new("home")).unwrap();
        assert!(home.directory(Path::new("/in")).is_ok());
        assert!(home.read(Path::new("up"), 0).is_err(), "out of the home");
        assert!(home.read(Path::new("/../top"), 0).is_err());
        assert!(Beneath::new(&root_of(&root), Path::new("home/absolute")).is_err());
        assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"s");
        assert!(home.stat(Path::new(&"a/".repeat(3000))).is_err());
    }

    #[test]
    fn writing_starts_where_it_is_told_and_never_behind_the_end() {
        let root = tempfile::tempdir().unwrap();
        let beneath = Beneath::new(&root_of(root.path()), Path::new("")).unwrap();
        let path = Path::new("/file");
        let count = |path: &str| {
            let (directory, mut count) = (beneath.directory(Path::new(path)).unwrap(), 0);
            list(&directory, |entries| {
                count += entries.len();
                Ok(())
            })
            .unwrap();
            count
        };
        beneath.write(path, 0).unwrap().write_all(b"0123456789").unwrap();
        let file = beneath.write(path, 4).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4);
        beneath.append(path).unwrap().write_all(b"x").unwrap();
        beneath.write(path, 5).unwrap();
        assert!(beneath.write(path, 6).is_err());
        assert!(beneath.read(path, 5).is_ok() && beneath.read(path, 6).is_err());
        beneath.sync_parent(path).unwrap();
        beneath.make_directory(Path::new("d")).unwrap();
        beneath.rename(path, Path::new("d/moved")).unwrap();
        assert_eq!(count("d"), 1);
        assert!(beneath.read(Path::new("d"), 0).is_err());
        beneath.remove(Path::new("d/moved"), AtFlags::empty()).unwrap();
        beneath.remove(Path::new("d"), AtFlags::REMOVEDIR).unwrap();
        assert_eq!(count(""), 0);
        rustix::fs::mknodat(root_of(root.path()), "fifo", FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(beneath.read(Path::new("fifo"), 0).is_err());
    }
}
