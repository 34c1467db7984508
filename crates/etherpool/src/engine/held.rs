//! Which exports wait: those that came with a pool, until services say what a person confirmed. The
//! engine decides so by itself, because it exports before anybody could tell it.

use std::collections::{BTreeMap, BTreeSet};

use control::api::PoolReportExt as _;
use control::registry::Registry;
use control::settings::EXPORTS_KEY;
use pool::{PoolReport, PoolState};

/// The pools that are known here, by identity, each with the volumes whose exports wait.
#[derive(Debug, Default)]
pub struct HeldExports {
    pools: BTreeMap<String, BTreeSet<String>>,
    /// Those that are being imported: they count as unknown when they are open.
    importing: BTreeSet<String>,
}

impl HeldExports {
    /// As the registry has it.
    pub fn new(registry: &Registry) -> HeldExports {
        let of_pool = |pool: &control::registry::KnownPool| {
            let held = pool.held.iter().filter(|held| held.key == EXPORTS_KEY);
            (pool.id.to_string(), held.map(|held| held.volume.clone()).collect())
        };
        let pools = registry.pools.iter().map(of_pool).collect();
        HeldExports { pools, importing: BTreeSet::new() }
    }

    /// An import of those begins that aren't open.
    pub fn import_begins(&mut self, pools: &[PoolReport]) {
        let closed = pools.iter().filter(|pool| !pool.is_open());
        self.importing.extend(closed.map(|pool| pool.id.clone()));
    }

    /// It is over.
    pub fn import_ends(&mut self, pools: &[PoolReport]) {
        for pool in pools {
            self.importing.remove(&pool.id);
        }
    }

    /// Takes note of pools that are open: of one that wasn't known every export waits. One that is
    /// another's or nobody's isn't known any more.
    pub fn take_note(&mut self, pools: &[PoolReport]) {
        for pool in pools.iter().filter(|pool| !pool.read_only) {
            match pool.state {
                _ if pool.may_stay() => {
                    if self.importing.remove(&pool.id) {
                        self.pools.remove(&pool.id);
                    }
                    let exported = || {
                        let exports = |volume: &&pool::VolumeReport| {
                            volume.properties.contains_key(EXPORTS_KEY)
                        };
                        pool.volumes
                            .iter()
                            .filter(exports)
                            .map(|volume| volume.name.clone())
                            .collect()
                    };
                    self.pools.entry(pool.id.clone()).or_insert_with(exported);
                }
                PoolState::Foreign | PoolState::Fenced | PoolState::Released => {
                    self.pools.remove(&pool.id);
                }
                _ => {}
            }
        }
    }

    /// What services say.
    pub fn set(&mut self, pool: String, volumes: BTreeSet<String>) {
        self.pools.insert(pool, volumes);
    }

    /// Whether a volume's exports wait. Those of a pool that isn't known do.
    pub fn waits(&self, pool: &PoolReport, volume: &str) -> bool {
        // Of one that is only read nothing came along: what it has was set here.
        !pool.read_only && self.pools.get(&pool.id).is_none_or(|volumes| volumes.contains(volume))
    }
}
