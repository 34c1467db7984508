//! Directories and names that a process reaches without resolving a path.
//!
//! Who serves a volume must never resolve a path while it serves: what is mounted over a directory
//! above the path may be that very volume, and its file system waits for the one who looks there. So
//! a daemon opens the directories that it needs before it serves ([`Directory`], [`Spot`]), and
//! reaches what is in them through the descriptors. Such a look-up begins at the directory itself,
//! whatever is mounted above it by then, and never enters what is mounted below it.
//!
//! Linux has no `connectat`: a socket is found so too, and connected to as `/proc/self/fd/N`. That is
//! the one path that is resolved, in a file system that the kernel answers for without waiting for
//! anybody.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use rustix::fs::Stat;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::net::SocketAddrUnix;

/// Why a file wasn't replaced.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It is as it was: whoever reads it finds the former contents.
    #[error(transparent)]
    Unchanged(io::Error),
    /// The new contents are in their place, but may not last, and the former can't be put back: a power
    /// cut decides. Writing it once more, either contents, does too.
    #[error("{0}; it may be read either way")]
    Uncertain(io::Error),
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> io::Error {
        match error {
            WriteError::Unchanged(error) | WriteError::Uncertain(error) => error,
        }
    }
}

/// What may be done by a copy of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// What is there is read.
    Read,
    /// All that its user may.
    Write,
}

/// An open directory; names given to it are of its own entries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Directory {
    fd: Arc<OwnedFd>,
    path: PathBuf,
}

impl Directory {
    /// Opens a directory by its path: before anything is served.
    pub fn open(path: &Path) -> io::Result<Directory> {
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        Ok(Directory { fd: Arc::new(fd), path: path.to_owned() })
    }

    /// The same, made with those above it if it isn't there.
    pub fn create(path: &Path) -> io::Result<Directory> {
        std::fs::create_dir_all(path)?;
        Directory::open(path)
    }

    /// The same by a copy of the mount that has nothing above it: from the other descriptor `..` leads out, for who
    /// runs code in this process, even where no path does. What is mounted below isn't in it. It takes CAP_SYS_ADMIN.
    pub fn alone(&self, access: Access) -> io::Result<Directory> {
        let how = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let fd = rustix::mount::open_tree(&self.fd, "", how)?;
        if access == Access::Read {
            crate::sys::forbid_writes(fd.as_fd())?;
        }
        Ok(Directory { fd: Arc::new(fd), path: self.path.clone() })
    }

    /// Where it was when it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same of one of its entries.
    pub fn path_of(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// A directory in it, made if it isn't there. It lasts when this returns.
    pub fn subdirectory(&self, name: &str) -> io::Result<Directory> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                if let Err(error) = self.sync() {
                    // The next attempt is to sync it again.
                    let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR);
                    return Err(error);
                }
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.present(name)
    }

    /// A directory in it that is there.
    pub fn present(&self, name: &str) -> io::Result<Directory> {
        let fd = open_below(self.fd.as_fd(), Path::new(name), DIRECTORY)?;
        Ok(Directory { fd: Arc::new(fd), path: self.path.join(name) })
    }

    /// The contents of a file, as far as the limit; `None` if there is none.
    pub fn read(&self, name: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = match open_below(self.fd.as_fd(), Path::new(name), flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => File::from(file?),
        };
        let mut contents = Vec::new();
        file.take(bytes_max).read_to_end(&mut contents)?;
        Ok(Some(contents))
    }

    /// A file in it, or in a directory below it, to be read. What is no file is refused, and not waited for.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(open_below(self.fd.as_fd(), path, flags)?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"))
        }
    }

    /// Replaces a file as a whole by one that only its owner reads, and makes it last.
    pub fn replace(&self, name: &OsStr, contents: &[u8]) -> Result<(), WriteError> {
        self.replace_with(name, contents, &mut |directory| directory.sync())
    }

    /// Makes a file that only its owner reads, and makes it last. One that is there stays: two that begin at once
    /// don't get a file each.
    pub fn create_private(&self, name: &OsStr, contents: &[u8]) -> io::Result<()> {
        // A random name: processes of two containers may have the same number.
        let mut made = OsString::from(".");
        made.push(name);
        made.push(format!(".{:016x}", crate::random_u64()?));
        let written = self.write_as(&made, contents, PRIVATE, OFlags::EXCL);
        let flags = RenameFlags::NOREPLACE;
        let placed = written
            .and_then(|()| Ok(rustix::fs::renameat_with(&self.fd, &made, &self.fd, name, flags)?));
        if let Err(error) = placed {
            let _ = self.remove(&made);
            return Err(error);
        }
        self.sync()
    }

    fn replace_with(
        &self,
        name: &OsStr,
        contents: &[u8],
        sync: &mut dyn FnMut(&Directory) -> io::Result<()>,
    ) -> Result<(), WriteError> {
        let beside = |what: &str| {
            let mut beside = OsString::from(".");
            beside.push(name);
            beside.push(format!(".{}{what}", std::process::id()));
            beside
        };
        let (made, kept) = (beside(""), beside(".former"));
        let placed = self
            .write_new(&made, contents)
            .and_then(|()| self.keep_former(name, &kept))
            .and_then(|is_kept| self.rename(&made, name).map(|()| is_kept));
        let is_kept = match placed {
            Ok(is_kept) => is_kept,
            Err(error) => {
                let _ = self.remove(&made);
                let _ = self.remove(&kept);
                return Err(WriteError::Unchanged(error));
            }
        };
        let Err(error) = sync(self) else {
            let _ = self.remove(&kept);
            return Ok(());
        };
        // Else the next start would read what was told to have failed.
        let back = if is_kept { self.rename(&kept, name) } else { self.remove(name) };
        match back {
            Ok(()) => {
                let _ = sync(self);
                Err(WriteError::Unchanged(error))
            }
            Err(_) => Err(WriteError::Uncertain(error)),
        }
    }

    fn write_new(&self, name: &OsStr, contents: &[u8]) -> io::Result<()> {
        self.write_as(name, contents, PRIVATE, OFlags::TRUNC)
    }

    fn write_as(&self, name: &OsStr, contents: &[u8], mode: Mode, how: OFlags) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | how;
        let mut file = File::from(rustix::fs::openat(&self.fd, name, flags, mode)?);
        file.write_all(contents)?;
        file.sync_all()
    }

    /// Gives what has this name a second one; false if there is nothing.
    fn keep_former(&self, name: &OsStr, kept: &OsStr) -> io::Result<bool> {
        match self.remove(kept) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match rustix::fs::linkat(&self.fd, name, &self.fd, kept, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            // A file system without such names.
            Err(_) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let mut former = File::from(open_below(self.fd.as_fd(), Path::new(name), flags)?);
                let mut contents = Vec::new();
                former.read_to_end(&mut contents)?;
                self.write_new(kept, &contents).map(|()| true)
            }
        }
    }

    /// Gives an entry another name, in place of what had that.
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Removes an entry that isn't a directory.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, target: &Path, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.fd, name)?)
    }

    /// Where a symbolic link leads.
    pub fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        read_link(self.fd.as_fd(), name)
    }

    /// What an entry is; of a symbolic link, the link itself.
    pub fn status(&self, name: &OsStr) -> io::Result<Stat> {
        status(self.fd.as_fd(), name)
    }

    /// What it is itself.
    pub fn own_status(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.fd)?)
    }

    /// The names of its entries.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let listed = rustix::fs::openat(&self.fd, ".", LISTED, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&listed)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Makes its entries last.
    pub fn sync(&self) -> io::Result<()> {
        // A descriptor that only stands for a directory can't be synced itself.
        let listed = rustix::fs::openat(&self.fd, ".", LISTED, Mode::empty())?;
        Ok(rustix::fs::fsync(listed)?)
    }
}

/// The place of a file or socket that others make, and whose directory they may make anew: a service
/// manager does that with the run directory of a service that it starts again. The directory is found
/// by its name in the one above it, which was opened before.
#[derive(Debug)]
pub struct Spot {
    /// Where the way begins: the directory above, or the nearest that there was.
    above: OwnedFd,
    /// From there to the directory; empty if that is the beginning itself.
    way: PathBuf,
    name: OsString,
    path: PathBuf,
    /// The directory as it was last found: for when something is mounted over it.
    last: Mutex<Option<Arc<OwnedFd>>>,
}

impl Spot {
    /// The place at a path: before anything is served. Directories on the way that aren't there yet
    /// are found when they are made, but not if they are mounted.
    pub fn of(path: &Path) -> io::Result<Spot> {
        let path = std::path::absolute(path)?;
        // A symbolic link may lead to another directory: that one is held.
        let place = path.canonicalize().unwrap_or_else(|_| path.clone());
        let (Some(directory), Some(name)) = (place.parent(), place.file_name()) else {
            return Err(names_no_file(&path));
        };
        let spot = |above, way, last: Option<OwnedFd>| Spot {
            above,
            way,
            name: name.to_owned(),
            path: path.clone(),
            last: Mutex::new(last.map(Arc::new)),
        };
        let mut present = directory;
        let found = loop {
            match (present.canonicalize(), present.parent()) {
                (Err(error), Some(above)) if error.kind() == io::ErrorKind::NotFound => {
                    present = above;
                }
                (found, _) => break found?,
            }
        };
        let missing = directory.strip_prefix(present).unwrap_or(Path::new(""));
        if !missing.as_os_str().is_empty() {
            let above = rustix::fs::open(&found, DIRECTORY, Mode::empty())?;
            return Ok(spot(above, missing.to_owned(), None));
        }
        let own = rustix::fs::open(&found, DIRECTORY, Mode::empty())?;
        let (Some(above), Some(way)) = (found.parent(), found.file_name()) else {
            return Ok(spot(own, PathBuf::new(), None));
        };
        let above = rustix::fs::open(above, DIRECTORY, Mode::empty())?;
        match open_below(above.as_fd(), Path::new(way), DIRECTORY) {
            Ok(_) => Ok(spot(above, way.into(), Some(own))),
            // Something is mounted there. Nobody removes and makes such a directory anew.
            Err(error) if is_mount(&error) => Ok(spot(own, PathBuf::new(), None)),
            Err(error) => Err(error),
        }
    }

    /// The place at a path whose directory stays the one that it is now.
    pub fn here(path: &Path) -> io::Result<Spot> {
        let path = std::path::absolute(path)?;
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(names_no_file(&path));
        };
        let above = rustix::fs::open(directory, DIRECTORY, Mode::empty())?;
        let name = name.to_owned();
        Ok(Spot { above, way: PathBuf::new(), name, path, last: Mutex::default() })
    }

    /// Where it was when it was first looked for, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is there now; of a symbolic link, the link itself.
    pub fn status(&self) -> io::Result<Stat> {
        self.in_directory(|directory| status(directory, &self.name))
    }

    /// Where the symbolic link leads that is there now.
    pub fn read_link(&self) -> io::Result<PathBuf> {
        self.in_directory(|directory| read_link(directory, &self.name))
    }

    /// Connects a socket to the one that is there now.
    pub fn connect(&self, socket: impl AsFd) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found =
            self.in_directory(|directory| open_below(directory, Path::new(&self.name), flags))?;
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
        Ok(rustix::net::connect(socket, &address)?)
    }

    fn in_directory<T>(&self, look: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        if self.way.as_os_str().is_empty() {
            return look(self.above.as_fd());
        }
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = match open_below(self.above.as_fd(), &self.way, DIRECTORY) {
            Ok(found) => {
                let found = Arc::new(found);
                *last() = Some(Arc::clone(&found));
                found
            }
            Err(error) if is_mount(&error) => last().clone().ok_or(error)?,
            Err(error) => return Err(error),
        };
        look(directory.as_fd())
    }
}

/// What is kept here is for nobody else to read.
const PRIVATE: Mode = Mode::from_raw_mode(0o600);
/// A directory that names are looked up in, which needs no right to read it.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// A directory that is read or synced.
const LISTED: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

/// The kernel has a look-up repeated when something is renamed or mounted anywhere meanwhile.
const ATTEMPTS_MAX: usize = 100;

/// Opens what has a name below a directory, without leaving it, and without entering what is mounted
/// there.
fn open_below(directory: BorrowedFd<'_>, name: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    if name.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let mut attempts = ATTEMPTS_MAX;
    loop {
        attempts -= 1;
        match rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if attempts > 0 => {}
            opened => return Ok(opened?),
        }
    }
}

fn names_no_file(path: &Path) -> io::Error {
    let message = format!("{} names no file", path.display());
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Whether a look-up ended because it would have entered what is mounted there.
pub fn is_mount(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EXDEV)
}

fn status(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Stat> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = open_below(directory, Path::new(name), flags)?;
    Ok(rustix::fs::fstat(found)?)
}

fn read_link(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<PathBuf> {
    let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
    Ok(PathBuf::from(OsStr::from_bytes(target.to_bytes())))
}

#[cfg(test)]
#[path = "dir_tests.rs"]
mod tests;
