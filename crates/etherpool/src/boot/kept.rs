//! What the server has seen, in files of the state directory: written at most once a second, whatever is sent to it.

use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use control::api::{ApiError, ErrorCode};
use os::dir::Directory;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Of the files' form.
const VERSION: u32 = 1;
/// More than any of these tables has.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// What a file is called further that was put aside. The last one is kept.
const ASIDE: &str = ".damaged";

/// A table, and the file that it is kept in.
pub struct Kept<T> {
    name: &'static str,
    table: Mutex<T>,
    is_changed: AtomicBool,
}

#[derive(Serialize, Deserialize)]
struct File<T> {
    version: u32,
    #[serde(flatten)]
    table: T,
}

/// Why nothing can be made of a file that is there.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    /// It may be as good as ever.
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    #[error("its version {0} isn't known to this etherpool")]
    Version(u32),
}

impl<T: Default + Serialize + DeserializeOwned> Kept<T> {
    /// What the file says. **Nothing only where there is none**: what is begun anew takes the place of the file within a
    /// second, so a failure that passes would lose what was decided by it. Blocks.
    pub fn load(directory: &Directory, name: &'static str) -> Result<Kept<T>, ApiError> {
        Ok(Kept::of(name, read_needed(directory, name)?))
    }

    /// The same for what will be seen again: a file that is damaged is put aside, and it begins anew. One that can't be read
    /// is none that is damaged. Blocks.
    pub fn load_seen(directory: &Directory, name: &'static str) -> Result<Kept<T>, ApiError> {
        let error = match read(directory, name) {
            Ok(table) => return Ok(Kept::of(name, table.unwrap_or_default())),
            Err(error @ ReadError::Io(_)) => return Err(refusal(directory, name, &error)),
            Err(error) => error,
        };
        let (path, aside) = (directory.path_of(name), format!("{name}{ASIDE}"));
        directory.rename(OsStr::new(name), OsStr::new(&aside)).map_err(|failed| {
            let message =
                format!("{}: {error}, and it can't be put aside: {failed}", path.display());
            ApiError::new(ErrorCode::Io, message).remedy("take it away, and start the server again")
        })?;
        tracing::error!(
            "{}: {error}; it is put aside as {aside}, and what it said is forgotten",
            path.display()
        );
        Ok(Kept::of(name, T::default()))
    }

    fn of(name: &'static str, table: T) -> Kept<T> {
        Kept { name, table: Mutex::new(table), is_changed: AtomicBool::new(false) }
    }

    /// To be looked at.
    pub fn look(&self) -> MutexGuard<'_, T> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be changed, which is written soon.
    pub fn change(&self) -> MutexGuard<'_, T> {
        let table = self.look();
        self.is_changed.store(true, Ordering::Release);
        table
    }

    /// Writes it, if it has changed. Blocks.
    pub fn write(&self, directory: &Directory) -> anyhow::Result<()> {
        if !self.is_changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let text = serde_json::to_vec(&File { version: VERSION, table: &*self.look() })?;
        let written = directory.replace(OsStr::new(self.name), &text);
        if written.is_err() {
            self.is_changed.store(true, Ordering::Release);
        }
        Ok(written?)
    }
}

/// What a file says of what was seen, for commands; nothing where there is none.
pub fn read_seen<T: Default + DeserializeOwned>(
    directory: &Directory,
    name: &str,
) -> Result<T, ApiError> {
    let read = read(directory, name).map_err(|error| match error {
        ReadError::Io(_) => refusal(directory, name, &error),
        _ => {
            let message = format!("{}: {error}", directory.path_of(name).display());
            ApiError::new(ErrorCode::Refused, message)
                .remedy("start the boot server anew, which puts that file aside")
        }
    });
    Ok(read?.unwrap_or_default())
}

/// What a file says that isn't seen again; nothing where there is none.
pub fn read_needed<T: Default + DeserializeOwned>(
    directory: &Directory,
    name: &str,
) -> Result<T, ApiError> {
    let read = read(directory, name).map_err(|error| refusal(directory, name, &error));
    Ok(read?.unwrap_or_default())
}

fn refusal(directory: &Directory, name: &str, error: &ReadError) -> ApiError {
    let (code, remedy) = match error {
        ReadError::Io(_) => (
            ErrorCode::Io,
            "leave it as it is, and try again: if that lasts, see whether its disk fails (the kernel's log)",
        ),
        ReadError::Version(_) => {
            (ErrorCode::Refused, "use the etherpool that wrote it, or a later one")
        }
        ReadError::Damaged(_) => (
            ErrorCode::Refused,
            "correct it, or bring it back from a backup; else write the slots that pools know \
             (`etherpool boot copies POOL --machine NAME`) into the machines' files, and take it away only then",
        ),
    };
    let message = format!("{}: {error}", directory.path_of(name).display());
    ApiError::new(code, message).remedy(remedy)
}

fn read<T: DeserializeOwned>(directory: &Directory, name: &str) -> Result<Option<T>, ReadError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Some(bytes) = directory.read(name, FILE_BYTES_MAX)? else { return Ok(None) };
    // First of all that: of another version the rest may be anything.
    let Versioned { version } = serde_json::from_slice(&bytes)?;
    if version != VERSION {
        return Err(ReadError::Version(version));
    }
    let file: File<T> = serde_json::from_slice(&bytes)?;
    Ok(Some(file.table))
}

/// Now, in seconds since 1970.
pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Default, Serialize, Deserialize, PartialEq, Debug)]
    struct Table {
        of: BTreeMap<String, u32>,
    }

    const DAMAGED: [&str; 4] = ["", "{", r#"{"version":2,"of":{}}"#, r#"{"version":1}"#];

    #[test]
    fn what_was_seen_is_kept_and_what_is_damaged_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        let load = || Kept::<Table>::load_seen(&directory, "t.json").unwrap();
        let kept = load();
        kept.write(&directory).unwrap();
        assert!(!dir.path().join("t.json").exists(), "nothing has changed");
        kept.change().of.insert("a".into(), 7);
        kept.write(&directory).unwrap();
        assert_eq!(load().look().of["a"], 7);
        for text in DAMAGED {
            std::fs::write(dir.path().join("t.json"), text).unwrap();
            assert!(read_seen::<Table>(&directory, "t.json").is_err());
            assert_eq!(*load().look(), Table::default());
            let aside = std::fs::read_to_string(dir.path().join("t.json.damaged")).unwrap();
            assert_eq!(aside, text);
            assert!(!dir.path().join("t.json").exists());
        }
    }

    /// A file that couldn't be read once was taken for none, and overwritten a second later by what was learned since: nodes
    /// numbered their disks anew, and who used a disk by its address wrote to another. What can't be read, or understood,
    /// stops the start.
    #[test]
    fn what_is_needed_and_can_not_be_read_is_not_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        let path = dir.path().join("t.json");
        let refused = || {
            let told = Kept::<Table>::load(&directory, "t.json").err().unwrap();
            assert_eq!(read_needed::<Table>(&directory, "t.json").unwrap_err(), told);
            told
        };
        assert_eq!(*Kept::<Table>::load(&directory, "t.json").unwrap().look(), Table::default());
        for text in DAMAGED {
            std::fs::write(&path, text).unwrap();
            let told = refused();
            assert!(told.code == ErrorCode::Refused && told.remedy.is_some(), "{told:?}");
            assert!(told.message.contains("t.json"), "{told:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "it is left as it is");
        }
        // It opens, and reading fails.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(refused().code, ErrorCode::Io);
        // Not even what would be seen again is given up by that.
        let seen = Kept::<Table>::load_seen(&directory, "t.json").err().unwrap();
        assert_eq!(seen.code, ErrorCode::Io);
        assert!(path.is_dir());
    }

    #[test]
    fn a_file_of_a_later_version_is_told_from_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("t.json"), r#"{"version":2,"else":[]}"#).unwrap();
        let told = Kept::<Table>::load(&directory, "t.json").err().unwrap();
        assert!(told.message.contains("version 2 isn't known"), "{told:?}");
    }
}
