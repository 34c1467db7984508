//! Events and states as sentences for people, as they stand in the log.

use std::fmt;

use block::HealthState;
use block::size::Human;

use crate::report::{PoolEvent, PoolState, ScrubReport};

impl fmt::Display for PoolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolState::Online => f.write_str("online"),
            PoolState::Degraded => f.write_str("degraded"),
            PoolState::Suspended { why } => write!(f, "suspended: {why}"),
            PoolState::Foreign => f.write_str("owned by another supervisor"),
            PoolState::Fenced => f.write_str("fenced: another supervisor took it over"),
            PoolState::Incomplete { why } => write!(f, "incomplete: {why}"),
            PoolState::Opening => f.write_str("opening"),
            PoolState::Destroyed => f.write_str("destroyed"),
            PoolState::Released => f.write_str("released"),
        }
    }
}

impl PoolState {
    /// Its name, as programs are told it.
    pub fn word(&self) -> &'static str {
        match self {
            PoolState::Online => "online",
            PoolState::Degraded => "degraded",
            PoolState::Suspended { .. } => "suspended",
            PoolState::Foreign => "foreign",
            PoolState::Fenced => "fenced",
            PoolState::Incomplete { .. } => "incomplete",
            PoolState::Opening => "opening",
            PoolState::Destroyed => "destroyed",
            PoolState::Released => "released",
        }
    }
}

impl fmt::Display for PoolEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolEvent::PoolState { pool, state } => write!(f, "pool {pool} is {state}"),
            PoolEvent::Owned { pool, owner, epoch, before } => {
                write!(f, "pool {pool} is opened by {owner} (epoch {epoch})")?;
                match before.as_str() {
                    "" => f.write_str("; nobody owned it"),
                    before if before == owner => Ok(()),
                    before => write!(f, "; it was {before}'s"),
                }
            }
            PoolEvent::Command { pool, who, what, result } => {
                write!(f, "pool {pool}: {who}: {what}: {result}")
            }
            PoolEvent::DiskOut { pool, disk, why } => {
                write!(f, "pool {pool} goes on without disk {disk}: {why}")
            }
            PoolEvent::DiskIn { pool, disk, dirty_bytes } => {
                let dirty = Human(*dirty_bytes);
                write!(f, "pool {pool} takes disk {disk} in again, {dirty} to resync")
            }
            PoolEvent::DiskOffline { pool, disk } => {
                write!(
                    f,
                    "pool {pool}: disk {disk} is offline, as somebody wants, until disk online"
                )
            }
            PoolEvent::DiskOnline { pool, disk } => {
                write!(f, "pool {pool}: disk {disk} is to take part again")
            }
            PoolEvent::JobBegun { pool, kind, .. } if kind == "rebalance" => {
                write!(f, "pool {pool}: rebalance begins: groups move to where there is more space")
            }
            PoolEvent::JobBegun { pool, kind, disk } => {
                write!(f, "pool {pool}: {kind} of disk {disk} begins")
            }
            PoolEvent::VotesMoved { pool, from, to } => {
                let names = |disks: &[String]| match disks.is_empty() {
                    true => "none".to_owned(),
                    false => disks.join(", "),
                };
                let (from, to) = (names(from), names(to));
                write!(f, "pool {pool}: votes and metadata copies that moved: {from} to {to}")
            }
            PoolEvent::JobDone { pool, kind, disk } if kind == "remove" => {
                write!(f, "pool {pool}: disk {disk} belongs to it no more")
            }
            PoolEvent::JobDone { pool, kind, .. } if kind == "rebalance" => {
                write!(f, "pool {pool}: rebalance is done")
            }
            PoolEvent::JobDone { pool, kind, disk } => {
                write!(
                    f,
                    "pool {pool}: {kind} of disk {disk} is done, nothing of the pool's data is on it"
                )
            }
            PoolEvent::ConversionBegun { pool, volume, to } => {
                write!(f, "volume {pool}/{volume} is converted to {to} from now on")
            }
            PoolEvent::ConversionDone { pool, volume, to, is_back: true } => {
                write!(
                    f,
                    "volume {pool}/{volume}: its conversion was taken back, all of it is {to}"
                )
            }
            PoolEvent::ConversionDone { pool, volume, to, is_back: false } => {
                write!(f, "volume {pool}/{volume}: all of it is {to} now")
            }
            PoolEvent::ScrubBegun { pool } => {
                write!(f, "pool {pool}: scrub: everything is read and compared")
            }
            PoolEvent::ScrubDone { pool, report } => {
                let ScrubReport { blocks, bad_blocks, repaired_blocks, unread_blocks, .. } = report;
                write!(
                    f,
                    "pool {pool}: scrub is done: {blocks} blocks read, {bad_blocks} of them bad, \
                     {repaired_blocks} of these repaired; {unread_blocks} not compared"
                )
            }
            PoolEvent::RebuildWaits { pool, disk, why } => {
                write!(f, "pool {pool}: what disk {disk} had is not rebuilt: {why}")
            }
            PoolEvent::Resynced { pool, disk, copied_bytes } => {
                let copied = Human(*copied_bytes);
                write!(f, "pool {pool}: disk {disk} has everything again, {copied} copied")
            }
            PoolEvent::DiskMoved { pool, disk, from, to } => {
                write!(f, "pool {pool}: disk {disk} was on {from} and is on {to} now")
            }
            PoolEvent::DiskHealth { pool, disk, health: HealthState::Good, .. } => {
                write!(f, "pool {pool}: the drive of disk {disk} is well")
            }
            PoolEvent::DiskHealth { pool, disk, health, reason } => {
                write!(f, "pool {pool}: the drive of disk {disk} is {health}: {reason}")
            }
            PoolEvent::DomainsJoined { pool, shared } => write!(
                f,
                "pool {pool}: {shared} in one failure domain now, and one failure takes both: move them apart \
                 (pool rebalance), or put back what was changed, a disk or a label"
            ),
            PoolEvent::DiskRefused { pool, disk, why } => match pool {
                Some(pool) => write!(f, "pool {pool} does not use disk {disk}: {why}"),
                None => write!(f, "disk {disk} is not used: {why}"),
            },
            PoolEvent::RolledBack { pool, disk } => {
                write!(
                    f,
                    "pool {pool}: disk {disk} came back with older contents than it had; all of it is resynced"
                )
            }
            PoolEvent::Repaired { pool, volume, disk, disk_offset_bytes } => write!(
                f,
                "volume {pool}/{volume}: repaired a block on disk {disk} at byte {disk_offset_bytes}"
            ),
            PoolEvent::StructureRepaired { pool, disk, what, disk_offset_bytes } => {
                write!(
                    f,
                    "pool {pool}: repaired a {what} on disk {disk} at byte {disk_offset_bytes}"
                )
            }
            PoolEvent::StructureDamaged { pool, disk, what } => write!(
                f,
                "pool {pool}: the {what} of disk {disk} isn't as it was written, and stays so; see whether its drive or cable fails"
            ),
            PoolEvent::Unrepairable { pool, volume, offset_bytes, length_bytes, disks } => write!(
                f,
                "volume {pool}/{volume}: {length_bytes} bytes at byte {offset_bytes} are lost: no right copy on disks {}",
                disks.join(", ")
            ),
            PoolEvent::VolumeSuspended { pool, volume, reason } => {
                write!(f, "volume {pool}/{volume} waits: {reason}")
            }
            PoolEvent::VolumeServing { pool, volume, replayed } => write!(
                f,
                "volume {pool}/{volume} serves; {} log records were replayed, {} blocks compared",
                replayed.records, replayed.blocks
            ),
        }
    }
}
