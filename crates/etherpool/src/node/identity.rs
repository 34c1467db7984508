//! What a node must remember: its shelf, and which slot each disk has. A disk keeps its address when
//! the kernel finds it in another order, and a slot isn't given to another disk as long as the
//! former one may come back: initiators would take the new disk for the old one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;
use os::dir::Directory;
use serde::{Deserialize, Serialize};

/// Shelves that follow from nothing but the machine start here, above what people give by hand and
/// what follows from addresses.
const FIRST_CHOSEN_SHELF: u16 = 0x400;
/// Linux refuses shelf 4095 ("dip switches"), and 65535 means all.
const CHOSEN_SHELVES: u16 = 0xfff - FIRST_CHOSEN_SHELF;

/// What it is called in the state directory.
const FILE: &str = "node.json";
/// Larger than any valid one: 255 slots.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The memory, and where it is kept.
pub struct Identity {
    /// None for who only asks: nothing can be stored then.
    state_dir: Option<Directory>,
    stored: Stored,
}

/// A memory that is to be stored before what it says is used.
#[must_use]
pub struct Unstored {
    state_dir: Option<Directory>,
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
    pub fn load(state_dir: &Directory) -> anyhow::Result<Identity> {
        let file = state_dir.path_of(FILE);
        let found = state_dir.read(FILE, FILE_BYTES_MAX);
        let stored = match found.with_context(|| format!("cannot read {}", file.display()))? {
            Some(text) => serde_json::from_slice(&text).with_context(|| {
                format!("{} is damaged; without it disks would get other addresses. Repair it, or remove it if no pool uses this node's automatic addresses", file.display())
            })?,
            None => Stored::default(),
        };
        Ok(Identity { state_dir: Some(state_dir.clone()), stored })
    }

    /// The same for who only asks: of a directory that isn't there nothing is remembered.
    pub fn peek(state_dir: &Path) -> anyhow::Result<Identity> {
        let known = match Directory::open(state_dir) {
            Ok(directory) => Identity::load(&directory)?.stored,
            Err(error) if error.kind() == ErrorKind::NotFound => Stored::default(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", state_dir.display()));
            }
        };
        Ok(Identity { state_dir: None, stored: known })
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
        self.unstored().store()?;
        Ok(shelf)
    }

    /// The slot of a disk; a new one beyond all that were ever given, or the lowest free one when
    /// those are used up. `taken` are slots that the configuration gives by name. A slot that is new
    /// comes with what must be stored before it is used: after a crash the disk must have the same.
    pub fn slot(
        &mut self,
        key: &str,
        taken: impl Fn(u8) -> bool,
    ) -> anyhow::Result<(u8, Option<Unstored>)> {
        if let Some(slot) = self.stored.slots.get(key).copied().filter(|slot| !taken(*slot)) {
            return Ok((slot, None));
        }
        let used =
            |slot: &u8| self.stored.slots.values().any(|given| given == slot) || taken(*slot);
        let slot = (0..255u8).find(|slot| !used(slot)).with_context(|| {
            format!("no slot is left for {key}: 255 disks were given one; take those that are gone for good out of {FILE} in the node's state directory, or out of slots.json at the boot server if the node booted from it")
        })?;
        self.stored.slots.insert(key.to_owned(), slot);
        Ok((slot, Some(self.unstored())))
    }

    /// The slots that were given.
    pub fn slots(&self) -> &BTreeMap<String, u8> {
        &self.stored.slots
    }

    /// Has these disks have these slots from now on, whatever they had. Who had one of those is given another.
    pub fn adopt(&mut self, slots: &BTreeMap<String, u8>) -> anyhow::Result<()> {
        self.stored.slots.retain(|_, had| !slots.values().any(|slot| slot == had));
        self.stored.slots.extend(slots.iter().map(|(key, slot)| (key.clone(), *slot)));
        self.unstored().store()
    }

    /// Takes back a slot that could not be stored: the next question would be answered with it.
    pub fn forget(&mut self, key: &str) {
        self.stored.slots.remove(key);
    }

    fn unstored(&self) -> Unstored {
        Unstored { state_dir: self.state_dir.clone(), stored: self.stored.clone() }
    }
}

impl Unstored {
    /// Makes it last. Blocks.
    pub fn store(&self) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&self.stored)?;
        let state_dir = self.state_dir.as_ref().context("it was only asked for")?;
        state_dir
            .replace(OsStr::new(FILE), text.as_bytes())
            .with_context(|| format!("cannot write {}", state_dir.path_of(FILE).display()))
    }
}

/// The shelf of a machine that nothing better is known of.
pub fn shelf_of(node_id: uuid::Uuid) -> u16 {
    let spread = block::crc32c(node_id.as_bytes()) % u32::from(CHOSEN_SHELVES);
    FIRST_CHOSEN_SHELF + u16::try_from(spread).unwrap_or_default()
}

/// The one beside it, for what is never to meet those on the first.
pub fn shelf_beside(node_id: uuid::Uuid) -> u16 {
    FIRST_CHOSEN_SHELF + (shelf_of(node_id) - FIRST_CHOSEN_SHELF + 1) % CHOSEN_SHELVES
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    fn load(dir: &tempfile::TempDir) -> Identity {
        Identity::load(&Directory::open(dir.path()).unwrap()).unwrap()
    }

    /// As the exporter does it.
    fn slot(identity: &mut Identity, key: &str, taken: impl Fn(u8) -> bool) -> anyhow::Result<u8> {
        let (slot, unstored) = identity.slot(key, taken)?;
        let stored = unstored.map_or(Ok(()), |unstored| unstored.store());
        stored.inspect_err(|_| identity.forget(key))?;
        Ok(slot)
    }

    #[test]
    fn addresses_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = load(&dir);
        let id = uuid::Uuid::from_bytes([7; 16]);
        assert_eq!(identity.known_shelf(None), None);
        let shelf = identity.choose_shelf(None, id).unwrap();
        assert_eq!(slot(&mut identity, "wwn-a", |_| false).unwrap(), 0);
        assert_eq!(slot(&mut identity, "wwn-b", |slot| slot == 1).unwrap(), 2);
        let mut again = load(&dir);
        assert_eq!(again.known_shelf(None), Some(shelf));
        assert_eq!(slot(&mut again, "wwn-b", |_| false).unwrap(), 2);
        assert_eq!(slot(&mut again, "wwn-c", |_| false).unwrap(), 1);
        assert_eq!(again.known_shelf(Some(9)), Some(9));
        assert_eq!(again.choose_shelf(Some(17), id).unwrap(), 17);
        assert!((FIRST_CHOSEN_SHELF..0xfff).contains(&shelf));
    }

    #[test]
    fn the_shelf_beside_is_another_that_can_be_chosen() {
        for id in (0..20_000u128).map(uuid::Uuid::from_u128) {
            let beside = shelf_beside(id);
            assert_ne!(beside, shelf_of(id));
            assert!((FIRST_CHOSEN_SHELF..0xfff).contains(&beside));
        }
    }

    #[test]
    fn what_a_node_is_told_of_slots_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = load(&dir);
        for key in ["wwn-a", "wwn-b", "wwn-c"] {
            slot(&mut identity, key, |_| false).unwrap();
        }
        identity.adopt(&BTreeMap::from([("wwn-b".into(), 0), ("wwn-c".into(), 7)])).unwrap();
        let mut again = load(&dir);
        assert_eq!(slot(&mut again, "wwn-b", |_| false).unwrap(), 0);
        assert_eq!(slot(&mut again, "wwn-c", |_| false).unwrap(), 7);
        assert_eq!(slot(&mut again, "wwn-a", |_| false).unwrap(), 1);
    }

    /// A node that booted from the network has its file in memory, and no shell: what lasts is at the boot server.
    #[test]
    fn who_has_no_slot_left_is_told_both_places_where_they_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let told = slot(&mut load(&dir), "wwn-a", |_| true).unwrap_err().to_string();
        assert!(told.contains("node.json") && told.contains("slots.json"), "{told}");
    }

    #[test]
    fn a_slot_that_is_not_stored_is_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = load(&dir);
        let file = dir.path().join("node.json");
        // Nothing can be renamed to a directory.
        fs::create_dir(&file).unwrap();
        for _ in 0..2 {
            assert!(slot(&mut identity, "wwn-a", |_| false).is_err());
        }
        fs::remove_dir(&file).unwrap();
        assert_eq!(slot(&mut identity, "wwn-a", |_| false).unwrap(), 0);
        assert_eq!(slot(&mut load(&dir), "wwn-a", |_| false).unwrap(), 0);
    }

    #[test]
    fn a_damaged_memory_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.json"), "{ nonsense").unwrap();
        assert!(Identity::load(&Directory::open(dir.path()).unwrap()).is_err());
    }
}
