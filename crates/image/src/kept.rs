//! Images as they are kept: a directory each, with the kernel, the initramfs, and what is to be known of them. One that is
//! made anew takes the place of the former as a whole: a machine that boots sees the one or the other. The former stays
//! beside it, for those that have got its kernel and fetch its initramfs next.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::Error;

/// The kernel.
pub const KERNEL: &str = "vmlinuz";
/// The initramfs.
pub const INITRAMFS: &str = "initrd.img";
/// What is to be known.
pub const ABOUT: &str = "image.json";
/// Where images are, in the boot server's state directory.
pub const DIRECTORY: &str = "images";
/// What an image is called that nobody gave a name.
pub const DEFAULT_NAME: &str = "node";
/// The version of [`About`].
const VERSION: u32 = 1;
/// Longer than it ever is.
const ABOUT_BYTES_MAX: u64 = 1 << 16;

/// What is to be known of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Of this form.
    pub version: u32,
    /// The kernel's version.
    pub kernel: String,
    /// When it was made, in seconds since 1970.
    pub built_at_seconds: u64,
    /// Which version of etherpool is in it.
    pub program_version: String,
    /// Size of the kernel.
    pub vmlinuz_bytes: u64,
    /// Size of the initramfs, packed.
    pub initrd_bytes: u64,
    /// Its check sum, in hexadecimal digits.
    pub vmlinuz_sha256: String,
    /// Its check sum.
    pub initrd_sha256: String,
}

/// The names and places of an image's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    directory: PathBuf,
}

/// How the names of images begin that are being made.
const UNFINISHED: &str = ".new-";

/// An image that is being made, beside the place that it will have; removed if it is given up.
pub struct Unfinished {
    directory: TempDir,
    kept: Kept,
    /// Held as long as somebody makes it: what nobody holds was left by one who was killed.
    _lock: File,
}

/// Whether a name leads nowhere else.
pub fn check_name(name: &str) -> Result<(), Error> {
    let is_fine = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    match !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('.')
        && name.chars().all(is_fine)
    {
        true => Ok(()),
        false => Err(Error::Name(name.to_owned())),
    }
}

impl Kept {
    /// The image of that name in the boot server's state directory, which may not be there.
    pub fn of(state_dir: &Path, name: &str) -> Result<Kept, Error> {
        check_name(name)?;
        Ok(Kept { directory: state_dir.join(DIRECTORY).join(name) })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the image is that it took the place of.
    pub fn former(&self) -> PathBuf {
        let name = self.directory.file_name().unwrap_or_default().to_string_lossy();
        self.directory.with_file_name(format!(".{name}.former"))
    }

    /// The kernel's file.
    pub fn kernel(&self) -> PathBuf {
        self.directory.join(KERNEL)
    }

    /// The initramfs' file.
    pub fn initramfs(&self) -> PathBuf {
        self.directory.join(INITRAMFS)
    }

    /// What is to be known of it.
    pub fn about(&self) -> Result<About, Error> {
        let path = self.directory.join(ABOUT);
        let file = File::open(&path).map_err(Error::file("cannot read", &path))?;
        let mut text = Vec::new();
        let read = file.take(ABOUT_BYTES_MAX).read_to_end(&mut text);
        read.map_err(Error::file("cannot read", &path))?;
        let form = |what: String| Error::Form { path: path.clone(), what };
        let about: About =
            serde_json::from_slice(&text).map_err(|error| form(error.to_string()))?;
        match about.version {
            VERSION => Ok(about),
            other => Err(form(format!("version {other} isn't known here"))),
        }
    }
}

impl Unfinished {
    /// One that is to be the image of that name.
    pub fn begin(state_dir: &Path, name: &str) -> Result<Unfinished, Error> {
        let kept = Kept::of(state_dir, name)?;
        let above = state_dir.join(DIRECTORY);
        fs::create_dir_all(&above).map_err(Error::file("cannot make", &above))?;
        let begun = (|| {
            // Nobody takes one for left that has been made and isn't held yet.
            let alone = File::open(&above)?;
            flock(&alone, FlockOperation::LockExclusive)?;
            sweep(&above)?;
            let directory = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&above)?;
            let lock = File::open(directory.path())?;
            flock(&lock, FlockOperation::LockExclusive)?;
            Ok((directory, lock))
        })();
        let (directory, lock) = begun.map_err(Error::file("cannot make a directory in", &above))?;
        Ok(Unfinished { directory, kept, _lock: lock })
    }

    /// Where the file is to be written.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Measures what was written, and puts it in its place, for good.
    pub fn finish(
        self,
        kernel: String,
        program_version: String,
        built_at_seconds: u64,
    ) -> Result<About, Error> {
        let (vmlinuz_bytes, vmlinuz_sha256) = measured(&self.path(KERNEL))?;
        let (initrd_bytes, initrd_sha256) = measured(&self.path(INITRAMFS))?;
        let about = About {
            version: VERSION,
            kernel,
            built_at_seconds,
            program_version,
            vmlinuz_bytes,
            initrd_bytes,
            vmlinuz_sha256,
            initrd_sha256,
        };
        let path = self.path(ABOUT);
        let text = serde_json::to_string(&about).map_err(io::Error::from);
        let written = text.and_then(|text| {
            let mut file = File::create(&path)?;
            writeln!(file, "{text}")?;
            file.sync_all()
        });
        written.map_err(Error::file("cannot write", &path))?;
        for file in [KERNEL, INITRAMFS, ABOUT] {
            // Whoever serves it needn't be who made it, whatever the kernel of this machine is to others.
            let path = self.path(file);
            let opened = fs::set_permissions(&path, fs::Permissions::from_mode(0o644));
            opened.map_err(Error::file("cannot open to readers", &path))?;
        }
        self.put_in_place()?;
        Ok(about)
    }

    fn put_in_place(self) -> Result<(), Error> {
        let Unfinished { directory, kept, _lock } = self;
        let place = kept.directory();
        let failed = Error::file("cannot put the image in its place", place);
        let put = (|| {
            let fresh = directory.path();
            fs::set_permissions(fresh, fs::Permissions::from_mode(0o755))?;
            File::open(fresh)?.sync_all()?;
            let is_another_there = place.symlink_metadata().is_ok();
            exchange(fresh, place)?;
            // That is in the temporary directory now. It stays, and the one before it goes with that directory.
            if is_another_there && let Err(error) = exchange(fresh, &kept.former()) {
                // Who hears that it failed has what he had.
                if exchange(fresh, place).is_err() {
                    let _ = directory.keep();
                }
                return Err(error);
            }
            sync_parent(place)
        })();
        put.map_err(failed)
    }
}

/// Has each have the other's place; or one the other's, if that has none.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    match other.symlink_metadata() {
        Ok(_) => Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?),
        Err(_) => fs::rename(one, other),
    }
}

fn sync_parent(place: &Path) -> io::Result<()> {
    File::open(place.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Removes what builds left that were killed.
fn sweep(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            continue;
        }
        // One that is gone by now, or isn't ours, is nobody's trouble.
        let Ok(lock) = File::open(entry.path()) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Size and check sum of a file, which is on its disk then.
fn measured(path: &Path) -> Result<(u64, String), Error> {
    let measure = || {
        let mut file = File::open(path)?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut size = 0;
        loop {
            let len = file.read(&mut buffer)?;
            if len == 0 {
                break;
            }
            digest.update(&buffer[..len]);
            size += len as u64;
        }
        file.sync_all()?;
        let sum = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((size, sum))
    };
    measure().map_err(Error::file("cannot read", path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir.join(DIRECTORY)).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_image_takes_the_place_of_the_former_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::of(dir.path(), "node").unwrap();
        let mut former: Option<&str> = None;
        for (contents, time) in [("one", 1), ("two", 2), ("three", 3)] {
            let unfinished = Unfinished::begin(dir.path(), "node").unwrap();
            fs::write(unfinished.path(KERNEL), contents).unwrap();
            // As some distributions have it.
            let closed = fs::Permissions::from_mode(0o600);
            fs::set_permissions(unfinished.path(KERNEL), closed).unwrap();
            fs::write(unfinished.path(INITRAMFS), "abc").unwrap();
            unfinished.finish("6.1".into(), "0.1".into(), time).unwrap();
            assert_eq!(fs::read_to_string(kept.kernel()).unwrap(), contents);
            let about = kept.about().unwrap();
            assert_eq!((about.built_at_seconds, about.initrd_bytes), (time, 3));
            assert_eq!(
                about.initrd_sha256,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            );
            for file in [KERNEL, INITRAMFS, ABOUT] {
                let found = fs::metadata(kept.directory().join(file)).unwrap();
                assert_eq!(found.permissions().mode() & 0o777, 0o644, "{file}");
            }
            // Whoever has its kernel finds its initramfs.
            let beside = fs::read_to_string(kept.former().join(KERNEL)).ok();
            assert_eq!(beside.as_deref(), former);
            former = Some(contents);
        }
        assert_eq!(names(dir.path()), [".node.former", "node"]);
        drop(Unfinished::begin(dir.path(), "node").unwrap());
        assert_eq!(names(dir.path()), [".node.former", "node"]);
    }

    /// What is in the way of the former image keeps the new one out, too, and takes nothing from who boots.
    #[test]
    fn an_image_that_cannot_take_its_place_leaves_the_one_that_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::of(dir.path(), "node").unwrap();
        let build = |contents: &str| {
            let unfinished = Unfinished::begin(dir.path(), "node").unwrap();
            fs::write(unfinished.path(KERNEL), contents).unwrap();
            fs::write(unfinished.path(INITRAMFS), "abc").unwrap();
            unfinished.finish("6.1".into(), "0.1".into(), 1)
        };
        build("one").unwrap();
        let mount = |words: &[&str]| {
            let done = std::process::Command::new(words[0]).args(&words[1..]).status();
            done.unwrap().success()
        };
        // Nobody removes a directory that something is mounted on.
        let former = kept.former();
        fs::create_dir(&former).unwrap();
        let at = former.to_str().unwrap();
        assert!(mount(&["mount", "-t", "tmpfs", "none", at]), "tests are run by root");
        let built = build("two");
        assert!(mount(&["umount", at]));
        assert!(matches!(built, Err(Error::File { .. })), "{built:?}");
        assert_eq!(fs::read_to_string(kept.kernel()).unwrap(), "one");
        build("three").unwrap();
        assert_eq!(fs::read_to_string(kept.former().join(KERNEL)).unwrap(), "one");
    }

    #[test]
    fn what_killed_builds_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(DIRECTORY).join(".new-left");
        fs::create_dir_all(left.join("more")).unwrap();
        fs::create_dir_all(dir.path().join(DIRECTORY).join(".other")).unwrap();
        let one = Unfinished::begin(dir.path(), "a").unwrap();
        assert!(!left.exists());
        // What somebody makes at the same time isn't left.
        let other = Unfinished::begin(dir.path(), "b").unwrap();
        assert!(one.directory.path().is_dir() && other.directory.path().is_dir());
        drop((one, other));
        assert_eq!(names(dir.path()), [".other"]);
    }

    #[test]
    fn no_name_leads_elsewhere() {
        for name in ["node", "a-1_b.2"] {
            assert!(check_name(name).is_ok());
        }
        for name in ["", ".", "..", ".new", "a/b", "a b", "é", &"a".repeat(65)] {
            assert!(Kept::of(Path::new("/x"), name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_is_damaged_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::of(dir.path(), "node").unwrap();
        assert!(kept.about().unwrap_err().to_string().contains("cannot read"));
        fs::create_dir_all(kept.directory()).unwrap();
        for text in ["", "{}", "{\"version\":1}"] {
            fs::write(kept.directory().join(ABOUT), text).unwrap();
            assert!(matches!(kept.about(), Err(Error::Form { .. })), "{text}");
        }
    }
}
