//! What is wrong since it happened: no report says so any more.

use std::collections::BTreeMap;

use pool::{PoolEvent, PoolReport, Severity};
use serde::{Deserialize, Serialize};

use super::conditions::{Condition, Kind, typed};
use crate::api::PoolReportExt as _;

/// For how long what happened once is wrong.
const INCIDENT_SECS: u64 = 24 * 3600;
/// Incidents and counters that are remembered.
const INCIDENTS_MAX: usize = 1000;

/// What happened and isn't a state: errors that were repaired, contents that are lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Incidents {
    incidents: BTreeMap<String, Incident>,
    /// Checksum errors of a disk, by pool and disk, as they were last seen.
    errors: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Incident {
    condition: Condition,
    count: u64,
    last_secs: u64,
}

impl Incident {
    fn lasts(&self, now_secs: u64) -> bool {
        now_secs.saturating_sub(self.last_secs) < INCIDENT_SECS
    }
}

impl Incidents {
    /// Takes an event.
    pub fn note_event(&mut self, event: &PoolEvent, now_secs: u64) {
        match event {
            PoolEvent::Unrepairable { pool, volume, offset_bytes, disks, .. } => {
                let text = format!(
                    "volume {pool}/{volume}: contents are lost, at last at byte {offset_bytes}: no right copy on disks {}",
                    disks.join(", ")
                );
                let remedy = format!(
                    "bring back what is gone; else restore what is lost: see `etherpool volume verify {pool}/{volume}`"
                );
                let about = (Kind::LostBlocks, pool, volume);
                self.add(about, Severity::Error, text, &remedy, 1, now_secs);
            }
            PoolEvent::StructureDamaged { pool, disk, .. } => {
                let remedy =
                    format!("replace the drive: etherpool pool replace {pool} {} NEW", typed(disk));
                let about = (Kind::StructureDamaged, pool, disk);
                self.add(about, Severity::Warning, event.to_string(), &remedy, 1, now_secs);
            }
            _ => {}
        }
    }

    /// Takes what the reports count.
    pub fn note_reports(&mut self, pools: &[PoolReport], now_secs: u64) {
        for pool in pools.iter().filter(|pool| pool.is_open()) {
            for disk in &pool.disks {
                let key = format!("{} {}", pool.id, disk.id);
                let known = self.errors.len() < INCIDENTS_MAX || self.errors.contains_key(&key);
                let before = self.errors.get(&key).copied().unwrap_or(0);
                if disk.checksum_errors == before || !known {
                    continue;
                }
                self.errors.insert(key, disk.checksum_errors);
                // They are counted from the opening of the pool on.
                let more = match disk.checksum_errors.checked_sub(before) {
                    Some(more) => more,
                    None => disk.checksum_errors,
                };
                if more == 0 {
                    continue;
                }
                let text = format!(
                    "pool {}: disk {} ({} on {}) gave what doesn't match its checksum",
                    pool.name, disk.name, disk.device_name, disk.node
                );
                let remedy = format!(
                    "what has another copy was repaired; a disk that does it again is one to replace: etherpool pool replace {} {} NEW",
                    pool.name,
                    typed(&disk.name)
                );
                let about = (Kind::DiskErrors, &pool.name, &disk.name);
                self.add(about, Severity::Warning, text, &remedy, more, now_secs);
            }
        }
    }

    fn add(
        &mut self,
        (kind, pool, subject): (Kind, &String, &String),
        severity: Severity,
        text: String,
        remedy: &str,
        count: u64,
        now_secs: u64,
    ) {
        let (pool, subject, remedy) = (Some(pool.clone()), subject.clone(), remedy.to_owned());
        let condition = Condition { kind, pool, subject, severity, text, remedy };
        let key = condition.key();
        let before = self.incidents.get(&key).map(|known| known.count);
        if before.is_some() || self.incidents.len() < INCIDENTS_MAX {
            let count = before.unwrap_or(0).saturating_add(count);
            self.incidents.insert(key, Incident { condition, count, last_secs: now_secs });
        }
    }

    /// Those that aren't long past; the others are forgotten.
    pub fn conditions(&mut self, now_secs: u64) -> Vec<Condition> {
        self.incidents.retain(|_, one| one.lasts(now_secs));
        self.lasting(now_secs)
    }

    /// Those that aren't long past.
    pub fn lasting(&self, now_secs: u64) -> Vec<Condition> {
        let lasting = self.incidents.values().filter(|one| one.lasts(now_secs));
        let told = lasting.map(|one| {
            let text = match one.count {
                1 => one.condition.text.clone(),
                count => format!("{} ({count} times)", one.condition.text),
            };
            Condition { text, ..one.condition.clone() }
        });
        told.collect()
    }
}
