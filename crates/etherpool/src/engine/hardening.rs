//! What keeps the engine from waiting for memory that only it can free: everything it has stays in
//! memory, and the kernel knows that it must not be made to write back first. Then it is confined. Missing rights are
//! a warning in status, not a failure: a test machine is allowed to be less safe.

use control::config::SupervisorConfig;
use os::process::{lock_memory, set_io_flusher};

use crate::confinement::{Process, confine};

/// What worked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardening {
    /// Memory is locked.
    pub memory_locked: bool,
    /// PR_SET_IO_FLUSHER is set on the main thread, and so on those that descend from it.
    pub io_flusher: bool,
    /// What didn't work, and what that means.
    pub warnings: Vec<String>,
}

/// Locks memory, marks this thread and gives up what isn't needed any more. Called before other threads begin: they
/// inherit all of it.
pub fn apply(config: &SupervisorConfig) -> Hardening {
    let mut warnings = Vec::new();
    let memory_locked = match lock_memory() {
        Ok(()) => true,
        Err(error) => {
            warnings.push(format!(
                "the engine's memory is not locked ({error}): under memory pressure local mounts can hang; give it CAP_IPC_LOCK"
            ));
            false
        }
    };
    let io_flusher = match set_io_flusher() {
        Ok(()) => true,
        Err(error) => {
            warnings.push(format!(
                "PR_SET_IO_FLUSHER is not set ({error}): under memory pressure local mounts can hang; give the engine CAP_SYS_RESOURCE"
            ));
            false
        }
    };
    warnings.extend(confine(Process::Engine(config)));
    Hardening { memory_locked, io_flusher, warnings }
}

impl Hardening {
    /// Says what is missing, once there is a log.
    pub fn tell(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }
}
