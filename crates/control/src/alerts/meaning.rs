//! What something wrong means for data, and since when it is so as far as reports know that: who is woken at night
//! asks this before all else. Nothing here says that data is safe without saying what that hangs on.

use pool::{PoolReport, PoolState, VolumeReport};

use super::conditions::{Condition, Kind, failures};
use crate::api::PoolReportExt as _;

/// What it means for data, by how much the pool or volume still survives; `is_any_lost`: something of the pool is known
/// to have no right copy.
pub fn for_data(condition: &Condition, pools: &[PoolReport], is_any_lost: bool) -> String {
    let pool = pool_of(condition, pools);
    let volume = pool
        .and_then(|pool| pool.volumes.iter().find(|volume| volume.name == condition.subject))
        .filter(|_| !condition.subject.is_empty());
    let stands = || pool.map_or_else(|| NOT_KNOWN.to_owned(), |pool| standing(pool, is_any_lost));
    let with = |text: &str| format!("{text}; {}", stands());
    match condition.kind {
        Kind::EngineDown if !condition.subject.is_empty() => NOT_KNOWN.to_owned(),
        Kind::EngineDown => {
            "nothing is lost by it: what was acknowledged is on the disks, and requests wait until it is back"
                .to_owned()
        }
        Kind::PoolNotOpen if pool.is_some_and(|pool| pool.read_only) => {
            "it can be read here, and not written; what is on its disks stays as it is".to_owned()
        }
        Kind::PoolNotOpen => {
            "nothing of it can be read or written here until then; what is on its disks stays as it is"
                .to_owned()
        }
        Kind::PoolTaken => {
            "nothing of it is served here any more; what was acknowledged here is on its disks, and is the other's to serve"
                .to_owned()
        }
        // As its reports say from when on: local mounts may have old pages of what another writes by now.
        Kind::PoolSuspended if pool.is_some_and(|pool| !pool.lease_ok) => {
            "whether another supervisor has it by now can't be known here, so what of it was mounted or attached on this \
             machine has ended with errors, and what wasn't synced there is lost, as at a power cut; clients by AoE wait. What \
             was acknowledged is there again, and mounted again, once enough votes answer; where a log is damaged, some of it \
             may be lost"
                .to_owned()
        }
        Kind::PoolSuspended if pool.is_some_and(serves_partly) => {
            "requests of what is named wait, and none of them fails; the other volumes serve. What was acknowledged is there \
             again with the disks; a volume that won't have them back may be removed (etherpool volume remove)"
                .to_owned()
        }
        Kind::PoolSuspended => {
            "requests wait, and none of them fails. Where disks are waited for, what was acknowledged is there again with \
             them; where a log is damaged, some of it may be lost"
                .to_owned()
        }
        Kind::PoolDegraded | Kind::DiskGone | Kind::DiskOffline | Kind::DiskRefused => stands(),
        Kind::VolumeRedundancy => match (volume, pool) {
            (Some(volume), Some(pool)) => of_volume(volume, pool, is_any_lost),
            _ => stands(),
        },
        Kind::VolumeTogether => {
            "nothing is lost by it; what is lost with that one failure domain has no other copy"
                .to_owned()
        }
        Kind::PoolVotes => pool.map_or_else(|| NOT_KNOWN.to_owned(), of_votes),
        Kind::PoolSpace => {
            "nothing is lost by it: volumes have their space, and may take what is free; what a dead disk had may find \
             no place then"
                .to_owned()
        }
        Kind::PoolSpare => {
            with("what the next loss takes may find no place, and has a copy less then until there is some")
        }
        Kind::LogSpace => "nothing is lost by it: writers wait until there is room".to_owned(),
        Kind::DiskRolledBack => with("what it lost is copied to it from others"),
        Kind::DiskErrors => {
            with("what had another copy was given right, and repaired; what had none was an error to its reader")
        }
        Kind::DiskSlow => {
            "nothing is lost by it: the volumes on it are as slow as it is".to_owned()
        }
        Kind::DiskAgeing => with("it can be read"),
        Kind::DiskFailing => with("it can be read for now"),
        Kind::RebuildWaits => with("what it had has a copy less until then"),
        Kind::JobWaits => with("nothing of it goes on until then"),
        Kind::LostBlocks => {
            "LOST, unless a disk that is away has it: to read it is an error; the rest of the volume can be read"
                .to_owned()
        }
        Kind::StructureDamaged => with("the other disks have the same again"),
        Kind::ScrubOverdue => {
            "nothing is known to be wrong; what rots meanwhile isn't found until it is read".to_owned()
        }
        Kind::ScrubDamage => {
            "some of it may be LOST: to read what has no right copy is an error; the rest can be read"
                .to_owned()
        }
        Kind::ServiceFailed => {
            "what is in the pool stays as it is; who uses this doesn't reach it".to_owned()
        }
        Kind::InterfaceDown => {
            "nothing, while another interface reaches the disks; what is out of reach is told beside this"
                .to_owned()
        }
        Kind::SupervisorTrouble => {
            "volumes are served as before; what is changed now may not be known after a restart"
                .to_owned()
        }
    }
}

const NOT_KNOWN: &str = "what that means isn't known while nothing is heard of the pool";

/// The pool of that name: ours, where a stranger's has the same.
fn pool_of<'a>(condition: &Condition, pools: &'a [PoolReport]) -> Option<&'a PoolReport> {
    let named = pools.iter().filter(|pool| Some(&pool.name) == condition.pool.as_ref());
    named.max_by_key(|pool| pool.is_ours())
}

/// Whether only some volumes wait of a pool that counts as suspended.
fn serves_partly(pool: &PoolReport) -> bool {
    let waits = pool.volumes.iter().filter(|volume| volume.suspended().is_some()).count();
    pool.lease_ok && (1..pool.volumes.len()).contains(&waits)
}

/// What a pool is of which requests wait.
pub(super) fn how_suspended(pool: &PoolReport) -> &'static str {
    match serves_partly(pool) {
        true => "doesn't serve all of its volumes",
        false => "is suspended, its requests wait",
    }
}

/// How a pool stands with what it lacks now.
fn standing(pool: &PoolReport, is_any_lost: bool) -> String {
    if matches!(pool.state, PoolState::Suspended { .. }) && !serves_partly(pool) {
        return "requests of its pool wait until disks are back".to_owned();
    }
    if !pool.is_open() {
        return NOT_KNOWN.to_owned();
    }
    if let Some(volume) = pool.volumes.iter().find(|volume| volume.unserved().is_some()) {
        return format!("not all of volume {}/{} is in reach", pool.name, volume.name);
    }
    let so_far = match is_any_lost {
        true => "some of it is lost",
        false => "as far as is known nothing is lost by it",
    };
    match pool.survives {
        0 => format!(
            "{so_far}; the pool survives no further failure: the next one may stop it, or lose data"
        ),
        more => format!("{so_far}; the pool survives {}", failures(more)),
    }
}

fn of_volume(volume: &VolumeReport, pool: &PoolReport, is_any_lost: bool) -> String {
    let waits = matches!(pool.state, PoolState::Suspended { .. }) || !pool.is_open();
    if waits || is_any_lost || volume.unserved().is_some() {
        return standing(pool, is_any_lost);
    }
    match (volume.survives_disks, volume.survives_nodes) {
        (0, _) => "all of it can be read; with one more disk some of it would be LOST".to_owned(),
        (disks, 0) => format!(
            "all of it can be read, also without {disks} more of its disks; with one more machine some of it would be \
             out of reach"
        ),
        (disks, nodes) => format!(
            "all of it can be read, also without {disks} more of its disks, or {nodes} of its machines"
        ),
    }
}

fn of_votes(pool: &PoolReport) -> String {
    let (needed, present) = (pool.votes.total / 2 + 1, pool.votes.present);
    match present.checked_sub(needed) {
        None => format!("the pool waits until {} more are in reach", needed - present),
        Some(0) => {
            "nothing is lost by it; with one more out of reach the pool waits until one is back"
                .to_owned()
        }
        Some(more) => {
            format!("nothing is lost by it; {more} more may be out of reach before the pool waits")
        }
    }
}

/// Since when it is so, where a report knows that better than who looked: the disk was gone before we began.
pub fn known_since(condition: &Condition, pools: &[PoolReport]) -> Option<u64> {
    let pool = pool_of(condition, pools)?;
    let disk = pool.disks.iter().find(|disk| disk.name == condition.subject);
    let known = match condition.kind {
        Kind::DiskGone => disk?.last_seen_secs,
        Kind::DiskOffline => disk?.offline.as_ref().map(|offline| offline.since_secs),
        Kind::ScrubOverdue => pool.scrub.as_ref()?.next_secs,
        Kind::ScrubDamage => pool.scrub.as_ref()?.ended_secs,
        _ => None,
    };
    known.filter(|since| *since > 0)
}
