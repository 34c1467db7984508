//! What a supervisor remembers of pools, in `pools.json` of its state directory.
//!
//! A pool names its owner by an id that everybody on the segment can read. So a pool isn't opened
//! because it says so: it is opened because this file has it, and it comes into this file by `pool
//! create` and `pool import` alone. Beside that the file has what is known of a pool's disks, to name
//! one that is missing, and which settings came with an import and wait for a person's word.
//!
//! Losing the file loses no data: the pools are imported again.

use std::collections::{BTreeMap, BTreeSet};

use pool::{DiskState, PoolDisk, PoolReport, PoolState};
use seal::{Grant, PublicKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::api::PoolReportExt as _;
use crate::settings::{ACTED_ON, HELD_PREFIX};

/// Name of the file in the state directory.
pub const REGISTRY_FILE: &str = "pools.json";

const VERSION: u32 = 1;

/// The pools of a supervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    /// In the order of their ids.
    pub pools: Vec<KnownPool>,
    /// Those that were destroyed here, the last ones.
    pub destroyed: Vec<DestroyedPool>,
    /// By which grants pools were open here last, also those that aren't known any more: who is to be believed when
    /// they are imported again.
    pub grants: BTreeMap<Uuid, Grant>,
}

/// A pool that is no more. A disk of it that was away may come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestroyedPool {
    /// Its identity.
    pub id: Uuid,
    /// Its name.
    pub name: String,
}

/// Destroyed pools that are remembered, at most.
const DESTROYED_MAX: usize = 1000;

/// A pool that was made or imported here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPool {
    /// Its identity.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its disks, as they were last present.
    #[serde(default)]
    pub disks: Vec<KnownDisk>,
    /// Settings that came with an import; nothing is done by them until they are confirmed.
    #[serde(default)]
    pub held: BTreeSet<HeldSetting>,
}

/// A disk of a pool, as it was last present.
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
    /// Its drive's serial number; empty where that isn't known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Its machine's key, where machines prove who they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_key: Option<PublicKey>,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    destroyed: Vec<DestroyedPool>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    grants: BTreeMap<Uuid, Grant>,
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
        let File { version, mut pools, destroyed, grants } = serde_json::from_str(text)?;
        if version != VERSION {
            return Err(RegistryError::Version(version));
        }
        pools.sort_by_key(|pool| pool.id);
        pools.dedup_by_key(|pool| pool.id);
        Ok(Registry { pools, destroyed, grants })
    }

    /// The file's text.
    pub fn to_text(&self) -> Result<String, RegistryError> {
        let Registry { pools, destroyed, grants } = self.clone();
        let file = File { version: VERSION, pools, destroyed, grants };
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

    /// Takes note of a pool that was destroyed.
    pub fn note_destroyed(&mut self, id: Uuid, name: &str) {
        self.forget(id);
        self.grants.remove(&id);
        self.destroyed.retain(|pool| pool.id != id);
        self.destroyed.push(DestroyedPool { id, name: name.to_owned() });
        let too_many = self.destroyed.len().saturating_sub(DESTROYED_MAX);
        self.destroyed.drain(..too_many);
    }

    /// Takes note of what the engine tells. A pool that is open is remembered; the settings of one
    /// that wasn't known came with it and wait. One that is another's or nobody's is forgotten, so
    /// that it counts as unknown when it comes back: others may have written its settings meanwhile.
    /// What is only absent, or is being opened, stays as it is.
    pub fn take_note(&mut self, pools: &[PoolReport]) {
        // Who only reads a pool isn't to have it after a restart.
        for report in pools.iter().filter(|report| !report.read_only) {
            let Ok(id) = report.id.parse::<Uuid>() else { continue };
            match report.state {
                // Not what couldn't be opened: nothing is told of its volumes, so all of its settings
                // would count as set here once it is open.
                _ if report.may_stay() => self.note_open(id, report),
                PoolState::Foreign | PoolState::Fenced | PoolState::Released => {
                    self.forget(id);
                }
                _ => {}
            }
        }
    }

    fn note_open(&mut self, id: Uuid, report: &PoolReport) {
        // It was brought back from copies of its disks.
        self.destroyed.retain(|pool| pool.id != id);
        match &report.grant {
            Some(grant) => self.grants.insert(id, grant.clone()),
            None => self.grants.remove(&id),
        };
        let is_new = self.pool(id).is_none();
        let known = self.pool_mut(id, &report.name);
        known.name.clone_from(&report.name);
        known.disks = report
            .disks
            .iter()
            .filter_map(|disk| {
                let id = disk.id.parse().ok()?;
                let before = known.disks.iter().find(|before| before.id == id);
                known_disk(id, disk, before)
            })
            .collect();
        let has = |volume: &str, key: &str| {
            let volume = report.volumes.iter().find(|one| one.name == volume);
            volume.is_some_and(|volume| volume.properties.contains_key(key))
        };
        if is_new {
            let came = report.volumes.iter().flat_map(|volume| {
                let of_volume = ACTED_ON.iter().filter(|key| has(&volume.name, key));
                of_volume.map(|key| held(&volume.name, key))
            });
            known.held = came.collect();
        }
        // A volume that is made anew under the name of one that is gone has brought nothing.
        known.held.retain(|one| has(&one.volume, &one.key));
    }

    /// The properties of open pools under the keys by which they are acted on, those that wait under
    /// others: nobody who reads such a report acts on them by mistake.
    pub fn set_apart(&self, pools: &mut [PoolReport]) {
        for report in pools {
            let known = report.id.parse().ok().and_then(|id| self.pool(id));
            // The engine hears of those that became another's later than this.
            report.ours = known.is_some();
            // Of one that is only read nothing came along: what it has was set here.
            let known = known.filter(|_| !report.read_only);
            for volume in &mut report.volumes {
                // Only we say what waits, whatever the pool has under such a key.
                volume.properties.retain(|key, _| !key.starts_with(HELD_PREFIX));
                for key in ACTED_ON {
                    let waits =
                        known.is_some_and(|known| known.held.contains(&held(&volume.name, key)));
                    if waits && let Some(value) = volume.properties.remove(key) {
                        volume.properties.insert(format!("{HELD_PREFIX}{key}"), value);
                    }
                }
            }
        }
    }

    /// The pool of a name that is meant by whoever names one: that which is open, by the ids of those that
    /// are. Another of its name may be known, and what waits of that is none of theirs.
    pub fn open_pool(&mut self, name: &str, open: &BTreeSet<Uuid>) -> Option<&mut KnownPool> {
        self.pools.iter_mut().find(|pool| pool.name == name && open.contains(&pool.id))
    }
}

/// A property of a volume.
pub fn held(volume: &str, key: &str) -> HeldSetting {
    HeldSetting { volume: volume.to_owned(), key: key.to_owned() }
}

/// What is to be remembered of a disk. One that is missing keeps what was known when it was present.
fn known_disk(id: Uuid, disk: &PoolDisk, before: Option<&KnownDisk>) -> Option<KnownDisk> {
    let is_away = matches!(disk.state, DiskState::Offline | DiskState::Missing);
    if let Some(before) = before.filter(|_| is_away) {
        return Some(KnownDisk { node_key: disk.node_key, ..before.clone() });
    }
    if disk.state == DiskState::Missing && disk.node_key.is_none() {
        return None;
    }
    Some(KnownDisk {
        id,
        name: disk.name.clone(),
        node: disk.node.clone(),
        device_name: disk.device_name.clone(),
        serial: disk.serial.clone(),
        node_key: disk.node_key,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::settings::{FTP_KEY, MOUNT_KEY};
    use pool::{Replayed, VolumeReport, VolumeState, VotesReport};

    fn report(state: PoolState, properties: &[&str]) -> PoolReport {
        let properties = properties.iter().map(|key| ((*key).to_owned(), "{}".to_owned()));
        PoolReport {
            read_only: false,
            stale_secs: None,
            name: "tank".into(),
            id: Uuid::from_u128(1).to_string(),
            state,
            owner: "host".into(),
            epoch: 1,
            capacity_bytes: 0,
            free_bytes: 0,
            survives: 0,
            disks: Vec::new(),
            votes: VotesReport::default(),
            lease_ok: true,
            ours: true,
            jobs: Vec::new(),
            scrub: None,
            spare: None,
            grant: None,
            volumes: vec![VolumeReport {
                name: "files".into(),
                id: "1".into(),
                layout: "mirror:2".into(),
                converting_to: None,
                size_bytes: 1,
                properties: properties.collect(),
                state: VolumeState::Online,
                degraded: false,
                dirty_bytes: 0,
                resynced_bytes: 0,
                read_bytes: 0,
                written_bytes: 0,
                repaired_blocks: 0,
                log_bytes: 0,
                log_capacity_bytes: 1 << 20,
                survives_disks: 1,
                survives_nodes: 1,
                survives_labels: Default::default(),
                shared_groups: 0,
                replayed: Replayed::default(),
                replaying: None,
            }],
        }
    }

    fn disk(name: &str, state: DiskState) -> PoolDisk {
        PoolDisk {
            device_name: "/dev/sda".into(),
            name: name.into(),
            id: Uuid::from_u128(7).to_string(),
            node: "n1".into(),
            node_key: None,
            size_bytes: 1,
            free_bytes: 1,
            state,
            dirty_bytes: 0,
            checksum_errors: 0,
            holds_vote: true,
            is_witness: false,
            rebuild_waits: None,
            offline: None,
            labels: Default::default(),
            serial: String::new(),
            last_seen_secs: None,
            health: None,
        }
    }

    #[test]
    fn what_came_with_a_pool_waits_and_what_is_set_here_does_not() {
        let holds = |registry: &Registry, key: &str| {
            registry.pools.iter().any(|pool| pool.held.contains(&held("files", key)))
        };
        let mut registry = Registry::default();
        registry.take_note(&[report(PoolState::Opening, &[MOUNT_KEY])]);
        assert_eq!(registry, Registry::default(), "it isn't open yet");
        let mut failed = report(PoolState::Suspended { why: "not opened".into() }, &[]);
        failed.lease_ok = false;
        failed.volumes.clear();
        registry.take_note(&[failed]);
        assert_eq!(registry, Registry::default(), "it couldn't be opened");
        registry.take_note(&[report(PoolState::Degraded, &[MOUNT_KEY, "other"])]);
        assert!(holds(&registry, MOUNT_KEY) && !holds(&registry, "other"));

        // Set here after that.
        let now = report(PoolState::Online, &[MOUNT_KEY, FTP_KEY, "held.device"]);
        registry.take_note(std::slice::from_ref(&now));
        assert!(holds(&registry, MOUNT_KEY) && !holds(&registry, FTP_KEY));
        let mut shown = [now.clone()];
        registry.set_apart(&mut shown);
        let keys: Vec<&String> = shown[0].volumes[0].properties.keys().collect();
        assert_eq!(keys, [FTP_KEY, "held.mount"]);

        registry.take_note(&[report(PoolState::Online, &[FTP_KEY])]);
        registry.take_note(&[now]);
        assert!(!holds(&registry, MOUNT_KEY), "what waited is gone, this is another");

        // Another had it: what it brings waits again.
        for away in [PoolState::Fenced, PoolState::Released] {
            registry.take_note(&[report(away, &[FTP_KEY])]);
            assert_eq!(registry, Registry::default());
        }
        registry.take_note(&[report(PoolState::Online, &[FTP_KEY])]);
        assert!(holds(&registry, FTP_KEY));
    }

    #[test]
    fn a_disk_that_is_away_is_remembered_as_it_was() {
        let mut registry = Registry::default();
        let mut now = report(PoolState::Online, &[]);
        now.disks = vec![disk("e1.0", DiskState::Usable)];
        registry.take_note(std::slice::from_ref(&now));
        let known = registry.clone();
        now.disks = vec![disk("some-uuid", DiskState::Missing)];
        registry.take_note(std::slice::from_ref(&now));
        assert_eq!(registry, known);
        now.disks = vec![disk("e2.0", DiskState::Usable)];
        registry.take_note(std::slice::from_ref(&now));
        assert_eq!(registry.pools[0].disks[0].name, "e2.0");
        now.disks = vec![disk("e2.0", DiskState::Usable)];
        now.state = PoolState::Incomplete { why: "e1.0".into() };
        now.disks.clear();
        registry.take_note(std::slice::from_ref(&now));
        assert_eq!(registry.pools[0].disks.len(), 1, "absent isn't gone");
    }

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
            serial: "WD-1".into(),
            node_key: Some(PublicKey([7; 32])),
        });
        let read = Registry::parse(&registry.to_text().unwrap()).unwrap();
        assert_eq!(read, registry);
        assert!(read.pool(high).unwrap().held.contains(&held("files", "mount")));
        assert!(read.pool(low).unwrap().held.is_empty());
        registry.note_destroyed(high, "tank");
        let again = Registry::parse(&registry.to_text().unwrap()).unwrap();
        assert_eq!(again.destroyed[0].id, high);
        assert_eq!(registry.pools.len(), 1);
        assert_eq!(registry.pool(low).unwrap().name, "other");
    }

    #[test]
    fn of_pools_of_one_name_the_open_one_is_meant() {
        let mut registry = Registry::default();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for id in [one, other] {
            registry.pool_mut(id, "tank").held.insert(held("files", MOUNT_KEY));
        }
        assert_eq!(registry.open_pool("tank", &BTreeSet::new()), None);
        registry.open_pool("tank", &BTreeSet::from([other])).unwrap().held.clear();
        assert!(!registry.pool(one).unwrap().held.is_empty());
        assert!(registry.pool(other).unwrap().held.is_empty());
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
