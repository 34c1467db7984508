//! What a supervisor remembers of pools, in `pools.json` of its state directory.
//!
//! A pool names its owner by an id that everybody on the segment can read. So a pool isn't opened
//! because it says so: it is opened because this file has it, and it comes into this file by `pool
//! create` and `pool import` alone. Beside that the file has what is known of a pool's disks, to name
//! one that is missing, and which settings came with an import and wait for a person's word.
//!
//! Losing the file loses no data: the pools are imported again.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::names::VolumeName;

/// Name of the file in the state directory.
pub const REGISTRY_FILE: &str = "pools.json";

const VERSION: u32 = 1;

/// The pools of a supervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    /// In the order of their ids.
    pub pools: Vec<KnownPool>,
}

/// A pool that was made or imported here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPool {
    /// Its identity.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its disks, as they were last in sight.
    #[serde(default)]
    pub disks: Vec<KnownDisk>,
    /// Settings that came with an import; nothing is done by them until they are confirmed.
    #[serde(default)]
    pub held: BTreeSet<HeldSetting>,
}

/// A disk of a pool, as it was last in sight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownDisk {
    /// Its identity in the pool.
    pub id: Uuid,
    /// Its address.
    pub name: String,
    /// Its machine's name.
    pub node: String,
    /// Its path on that machine.
    pub device_name: String,
}

/// A property of a volume that isn't acted on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldSetting {
    /// The volume's name in its pool.
    pub volume: String,
    /// The property's key (`mount`, `ftp`, `exports`, `device`).
    pub key: String,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    pools: Vec<KnownPool>,
}

/// Why a file isn't a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Not the JSON that is written here.
    #[error("it can't be read: {0}")]
    Damaged(#[from] serde_json::Error),
    /// Of a later program.
    #[error("it has version {0}, this program knows version {VERSION}")]
    Version(u32),
}

impl Registry {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Registry, RegistryError> {
        let File { version, mut pools } = serde_json::from_str(text)?;
        if version != VERSION {
            return Err(RegistryError::Version(version));
        }
        pools.sort_by_key(|pool| pool.id);
        pools.dedup_by_key(|pool| pool.id);
        Ok(Registry { pools })
    }

    /// The file's text.
    pub fn to_text(&self) -> Result<String, RegistryError> {
        let file = File { version: VERSION, pools: self.pools.clone() };
        Ok(serde_json::to_string_pretty(&file)? + "\n")
    }

    /// The pool with this id.
    pub fn pool(&self, id: Uuid) -> Option<&KnownPool> {
        self.pools.iter().find(|pool| pool.id == id)
    }

    /// The pool with this id; made with nothing known if there is none.
    pub fn pool_mut(&mut self, id: Uuid, name: &str) -> &mut KnownPool {
        let at = match self.pools.binary_search_by_key(&id, |pool| pool.id) {
            Ok(at) => at,
            Err(at) => {
                let (disks, held) = (Vec::new(), BTreeSet::new());
                self.pools.insert(at, KnownPool { id, name: name.to_owned(), disks, held });
                at
            }
        };
        &mut self.pools[at]
    }

    /// Forgets a pool; it is another's or nobody's now.
    pub fn forget(&mut self, id: Uuid) {
        self.pools.retain(|pool| pool.id != id);
    }

    /// Whether a property of a volume waits to be confirmed.
    pub fn holds(&self, volume: &VolumeName, key: &str) -> bool {
        let is_it = |held: &HeldSetting| held.volume == volume.volume && held.key == key;
        self.pools.iter().any(|pool| pool.name == volume.pool && pool.held.iter().any(is_it))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_remembered_survives_the_file() {
        let mut registry = Registry::default();
        let (high, low) = (Uuid::from_u128(9), Uuid::from_u128(3));
        registry
            .pool_mut(high, "tank")
            .held
            .insert(HeldSetting { volume: "files".into(), key: "mount".into() });
        registry.pool_mut(low, "other").disks.push(KnownDisk {
            id: Uuid::from_u128(5),
            name: "e7.0".into(),
            node: "node-7".into(),
            device_name: "/dev/sda".into(),
        });
        let read = Registry::parse(&registry.to_text().unwrap()).unwrap();
        assert_eq!(read, registry);
        assert!(read.holds(&VolumeName::new("tank", "files"), "mount"));
        assert!(!read.holds(&VolumeName::new("tank", "files"), "ftp"));
        assert!(!read.holds(&VolumeName::new("other", "files"), "mount"));
        registry.forget(high);
        assert_eq!(registry.pools.len(), 1);
        assert_eq!(registry.pool(low).unwrap().name, "other");
    }

    #[test]
    fn a_later_or_damaged_file_is_refused() {
        assert!(matches!(
            Registry::parse(r#"{"version":2,"pools":[]}"#),
            Err(RegistryError::Version(2))
        ));
        assert!(matches!(Registry::parse("{}"), Err(RegistryError::Damaged(_))));
    }
}
