//! What a node must remember: its shelf, and which slot each disk has. A disk keeps its address when
//! the kernel finds it in another order, and a slot isn't given to another disk as long as the
//! former one may come back: initiators would take the new disk for the old one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Shelves that follow from nothing but the machine start here, above what people give by hand and
/// what follows from addresses.
const FIRST_CHOSEN_SHELF: u16 = 0x400;
/// Linux refuses shelf 4095 ("dip switches"), and 65535 means all.
const CHOSEN_SHELVES: u16 = 0xfff - FIRST_CHOSEN_SHELF;

/// The memory, and where it is kept.
pub struct Identity {
    file: PathBuf,
    stored: Stored,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    shelf: Option<u16>,
    /// By WWN, serial number or, where a disk has neither, by path.
    slots: BTreeMap<String, u8>,
}

impl Identity {
    /// What is kept in `state_dir`; nothing yet on a new machine.
    pub fn load(state_dir: &Path) -> anyhow::Result<Identity> {
        fs::create_dir_all(state_dir)
            .with_context(|| format!("cannot make the state directory {}", state_dir.display()))?;
        Identity::peek(state_dir)
    }

    /// The same without making the directory, for who only asks.
    pub fn peek(state_dir: &Path) -> anyhow::Result<Identity> {
        let file = state_dir.join("node.json");
        let stored = match fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).with_context(|| {
                format!("{} is damaged; without it disks would get other addresses. Repair it, or remove it if no pool uses this node's automatic addresses", file.display())
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Stored::default(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        Ok(Identity { file, stored })
    }

    /// The shelf of automatic exports, if it is configured or was chosen before.
    pub fn known_shelf(&self, configured: Option<u16>) -> Option<u16> {
        configured.or(self.stored.shelf)
    }

    /// Chooses the shelf for good: the preferred one, or one that follows from the machine's
    /// identity.
    pub fn choose_shelf(
        &mut self,
        preferred: Option<u16>,
        node_id: uuid::Uuid,
    ) -> anyhow::Result<u16> {
        let shelf = preferred.unwrap_or_else(|| shelf_of(node_id));
        self.stored.shelf = Some(shelf);
        self.store()?;
        Ok(shelf)
    }

    /// The slot of a disk; a new one beyond all that were ever given, or the lowest free one when
    /// those are used up. `taken` are slots that the configuration gives by name.
    pub fn slot(&mut self, key: &str, taken: impl Fn(u8) -> bool) -> anyhow::Result<u8> {
        let known = self.stored.slots.get(key).copied();
        let slot = self.forecast(key, taken)?;
        if known != Some(slot)
            && let Err(error) = self.store()
        {
            // Else the next question would be answered with what isn't stored.
            self.stored.slots.remove(key);
            return Err(error);
        }
        Ok(slot)
    }

    /// The slot that a disk would get, remembered only until this is dropped.
    pub fn forecast(&mut self, key: &str, taken: impl Fn(u8) -> bool) -> anyhow::Result<u8> {
        if let Some(slot) = self.stored.slots.get(key).copied().filter(|slot| !taken(*slot)) {
            return Ok(slot);
        }
        let used =
            |slot: &u8| self.stored.slots.values().any(|given| given == slot) || taken(*slot);
        let slot = (0..255u8).find(|slot| !used(slot)).with_context(|| {
            format!("no slot is left for {key}: 255 disks were given one; remove those that are gone for good from {}", self.file.display())
        })?;
        self.stored.slots.insert(key.to_owned(), slot);
        Ok(slot)
    }

    /// Durable before an address is used: after a crash the disk must have the same.
    fn store(&self) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&self.stored)?;
        os::process::write_durably(&self.file, text.as_bytes())
            .with_context(|| format!("cannot write {}", self.file.display()))
    }
}

/// The shelf of a machine that nothing better is known of.
pub fn shelf_of(node_id: uuid::Uuid) -> u16 {
    let spread = block::crc32c(node_id.as_bytes()) % u32::from(CHOSEN_SHELVES);
    FIRST_CHOSEN_SHELF + u16::try_from(spread).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = Identity::load(dir.path()).unwrap();
        let id = uuid::Uuid::from_bytes([7; 16]);
        assert_eq!(identity.known_shelf(None), None);
        let shelf = identity.choose_shelf(None, id).unwrap();
        assert_eq!(identity.slot("wwn-a", |_| false).unwrap(), 0);
        assert_eq!(identity.slot("wwn-b", |slot| slot == 1).unwrap(), 2);
        let mut again = Identity::load(dir.path()).unwrap();
        assert_eq!(again.known_shelf(None), Some(shelf));
        assert_eq!(again.slot("wwn-b", |_| false).unwrap(), 2);
        assert_eq!(again.slot("wwn-c", |_| false).unwrap(), 1);
        assert_eq!(again.known_shelf(Some(9)), Some(9));
        assert_eq!(again.choose_shelf(Some(17), id).unwrap(), 17);
        assert!((FIRST_CHOSEN_SHELF..0xfff).contains(&shelf));
    }

    #[test]
    fn a_slot_that_is_not_stored_is_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = Identity::load(dir.path()).unwrap();
        let file = dir.path().join("node.json");
        // Nothing can be renamed to a directory.
        fs::create_dir(&file).unwrap();
        for _ in 0..2 {
            assert!(identity.slot("wwn-a", |_| false).is_err());
        }
        fs::remove_dir(&file).unwrap();
        assert_eq!(identity.slot("wwn-a", |_| false).unwrap(), 0);
        assert_eq!(Identity::load(dir.path()).unwrap().slot("wwn-a", |_| false).unwrap(), 0);
    }

    #[test]
    fn a_damaged_memory_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.json"), "{ nonsense").unwrap();
        assert!(Identity::load(dir.path()).is_err());
    }
}
