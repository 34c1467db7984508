//! What outlives a supervisor's process: which pools are its own, and by whose word.

use pool::KnownPool;
use pool::engine::Engine;
use seal::Grant;
use uuid::Uuid;

/// What a supervisor's own files say.
#[derive(Clone, Default)]
pub struct Records {
    pub(super) pools: Vec<KnownPool>,
    pub(super) grants: Vec<(Uuid, Grant)>,
}

impl Records {
    pub(super) fn of(engine: &Engine) -> Records {
        Records { pools: engine.known_pools(), grants: engine.known_grants() }
    }

    /// The identity of the disk that was last present at `address`.
    pub(super) fn identity_of(&self, address: &str) -> Option<String> {
        let mut disks = self.pools.iter().flat_map(|pool| &pool.disks);
        disks.find(|disk| disk.place.name == address).map(|disk| disk.id.to_string())
    }
}
