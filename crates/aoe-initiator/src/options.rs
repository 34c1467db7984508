//! How a client of a session behaves.

use std::time::Duration;

use aoe_wire::{Incarnation, SessionVersion, ShelfSlot};

/// How it behaves.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// The export.
    pub address: ShelfSlot,
    /// Who we are; anew at each start of the process.
    pub incarnation: Incarnation,
    /// A target that answers nothing for so long is lost.
    pub lost_after: Duration,
    /// A target of which nothing is wanted is asked so often whether it lives.
    pub keepalive_after: Duration,
    /// A request that isn't answered for so long means a lost disk, though the target lives.
    pub stuck_after: Duration,
    /// Most frames on their way.
    pub window_max: u32,
    /// The newest version of the session that is spoken.
    pub newest: SessionVersion,
}

impl SessionOptions {
    /// The usual ones.
    pub fn new(address: ShelfSlot, incarnation: Incarnation) -> SessionOptions {
        SessionOptions {
            address,
            incarnation,
            lost_after: Duration::from_secs(1),
            keepalive_after: Duration::from_secs(2),
            stuck_after: Duration::from_secs(30),
            window_max: 256,
            newest: SessionVersion::NEWEST,
        }
    }
}
