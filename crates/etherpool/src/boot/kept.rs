//! What the server has seen, in files of the state directory: written at most once a second, whatever is sent to it.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use os::dir::Directory;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Of the files' form.
const VERSION: u32 = 1;
/// More than any of these tables has.
const FILE_BYTES_MAX: u64 = 64 << 20;

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

impl<T: Default + Serialize + DeserializeOwned> Kept<T> {
    /// What the file says; nothing where it is damaged: it is what was seen, and not what was decided. Blocks.
    pub fn load(directory: &Directory, name: &'static str) -> Kept<T> {
        let table = read(directory, name).unwrap_or_else(|error| {
            tracing::warn!("{}: {error:#}; it begins anew", directory.path_of(name).display());
            None
        });
        let table = Mutex::new(table.unwrap_or_default());
        Kept { name, table, is_changed: AtomicBool::new(false) }
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

/// What a file says, for commands; nothing where there is none.
pub fn read_seen<T: Default + DeserializeOwned>(
    directory: &Directory,
    name: &str,
) -> anyhow::Result<T> {
    let read = read(directory, name).with_context(|| {
        let path = directory.path_of(name);
        format!("{} can't be read; take it away, and it begins anew", path.display())
    });
    Ok(read?.unwrap_or_default())
}

fn read<T: DeserializeOwned>(directory: &Directory, name: &str) -> anyhow::Result<Option<T>> {
    let Some(bytes) = directory.read(name, FILE_BYTES_MAX)? else { return Ok(None) };
    let file: File<T> = serde_json::from_slice(&bytes)?;
    if file.version != VERSION {
        anyhow::bail!("version {} isn't known to this etherpool", file.version);
    }
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

    #[test]
    fn what_was_seen_is_kept_and_what_is_damaged_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        let kept = Kept::<Table>::load(&directory, "t.json");
        kept.write(&directory).unwrap();
        assert!(!dir.path().join("t.json").exists(), "nothing has changed");
        kept.change().of.insert("a".into(), 7);
        kept.write(&directory).unwrap();
        assert_eq!(Kept::<Table>::load(&directory, "t.json").look().of["a"], 7);
        for text in ["", "{", r#"{"version":2,"of":{}}"#, r#"{"version":1}"#] {
            std::fs::write(dir.path().join("t.json"), text).unwrap();
            assert_eq!(*Kept::<Table>::load(&directory, "t.json").look(), Table::default());
            assert!(read::<Table>(&directory, "t.json").is_err());
        }
    }
}
