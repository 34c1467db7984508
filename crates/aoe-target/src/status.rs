//! What a target tells its administrator: how exports are doing, and why one can't be as wanted.

use crate::export::{DeviceState, ExportOptions};
use crate::plain::remembered::Remembered;
use crate::probe::ExportState;
use crate::stats::{ExportStats, Latencies, TargetStats};
use crate::target::Target;
use crate::{ClientStatus, ExportId};
use aoe_wire::ShelfSlot;
use block::Holder;

/// Why an export can't be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddExportError {
    /// Something else is exported there.
    #[error("{0} is exported already")]
    AddressInUse(ShelfSlot),
    /// A wildcard is no address.
    #[error("{0} is not an address of an export")]
    InvalidAddress(ShelfSlot),
}

/// Why the settings of an export can't be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetOptionsError {
    /// It isn't there any more.
    #[error("there is no such export")]
    NoSuchExport,
    /// Another address is another export: its clients would get answers from somebody else.
    #[error("the address of an export can't be changed")]
    OtherAddress,
}

/// What is to be known about an export from outside.
#[derive(Clone, Debug)]
pub struct ExportStatus {
    /// Its number.
    pub id: ExportId,
    /// How it was set up.
    pub options: ExportOptions,
    /// Whether it answers.
    pub state: ExportState,
    /// Its device.
    pub device: DeviceState,
    /// What clients left with it, as it is now.
    pub remembered: Remembered,
    /// Whether plain writes are answered early, at present.
    pub write_cache: bool,
    /// Open sessions.
    pub sessions: usize,
    /// Commands in the queue.
    pub queued: usize,
    /// Bytes that those hold or ask for.
    pub queued_bytes: u64,
    /// Commands that were in the queue at once, at most.
    pub queued_max: usize,
    /// Counters.
    pub stats: ExportStats,
    /// How long commands took.
    pub latencies: Latencies,
}

impl Target {
    /// Whether an export answers.
    pub fn export_state(&self, id: ExportId) -> Option<ExportState> {
        self.exports.get(&id).map(|export| export.prober.state())
    }

    /// How an export is doing.
    pub fn export_status(&self, id: ExportId) -> Option<ExportStatus> {
        self.exports.get(&id).map(|export| ExportStatus {
            id,
            options: export.options.clone(),
            state: export.prober.state(),
            device: export.device.clone(),
            remembered: export.remembered.clone(),
            write_cache: export.write_cache,
            sessions: export.sessions.len(),
            queued: export.queue.len(),
            queued_bytes: export.queue.bytes(),
            queued_max: export.meter.queued_max,
            stats: export.meter.total,
            latencies: export.meter.latencies,
        })
    }

    /// The clients of an export.
    pub fn clients(&self, id: ExportId) -> Vec<ClientStatus> {
        self.exports.get(&id).map(|export| export.meter.clients()).unwrap_or_default()
    }

    /// All exports, in order of their addresses.
    pub fn exports(&self) -> Vec<ExportStatus> {
        self.addresses.values().filter_map(|id| self.export_status(*id)).collect()
    }

    /// Who holds the device of an export, and how long that wasn't heard when anything was last.
    pub fn holder(&self, id: ExportId) -> Option<Holder> {
        self.exports.get(&id).map(|export| export.holder(self.shared.now))
    }

    /// Counters about frames that belong to no export.
    pub fn stats(&self) -> TargetStats {
        self.shared.stats
    }
}
