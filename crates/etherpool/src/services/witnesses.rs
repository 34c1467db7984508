//! The supervisor as a witness: where the machines that vote in a pool are an even number it keeps a vote itself, in
//! a file of its state directory that its third process exports as a node does. Of two machines with data and the
//! supervisor any one may be lost then.
//!
//! A file takes its space when it is made, so that a full file system refuses it then and can't take the vote later.
//! One that no pool has (any more) is blank by the engine's word, and removed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aoe_wire::ShelfSlot;
use block::size::Human;
use control::api::{
    ApiError, CreatePool, ErrorCode, ExtendPool, PoolPlan, SeenTarget, Witness, WitnessPlan,
    Witnesses,
};
use control::channel::EngineRequest;
use control::node::{NodeReply, NodeRequest, NodeStatus};
use pool::{DiskReport, DiskState, PoolForecast, VotesForecast};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::Services;
use super::turns::Turn;
use crate::cli::targets_below;
use crate::node::shelf_beside;
use crate::supervisor::WITNESS_LINE;
use crate::witnesses::files;

/// What is left to others of the file system, the supervisor's records among them.
const LEFT_FREE_BYTES: u64 = 64 << 20;
/// How long a new file may take to be exported and seen by the engine.
const EXPORT_LIMIT: Duration = Duration::from_secs(20);
/// How often it is looked at meanwhile.
const EXPORT_LOOK: Duration = Duration::from_millis(200);
/// How long the process that exports may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Addresses that are tried for a file.
const ADDRESSES_MAX: usize = 4;
/// How the name of a file begins that isn't whole.
const UNFINISHED: &str = ".new-";
/// How often files that no pool has are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// What is asked for.
struct Wish {
    /// Disks that are witnesses.
    named: Vec<ShelfSlot>,
    own: Own,
}

/// Whether the supervisor is to be a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    WhereItHelps,
    Always,
    Never,
}

/// A witness that was made for a pool. As long as it is held no file is removed.
pub(super) struct Made {
    address: ShelfSlot,
    _turn: Turn,
}

impl Wish {
    fn of(witnesses: &Witnesses) -> Result<Wish, ApiError> {
        let Some(all) = witnesses else {
            return Ok(Wish { named: Vec::new(), own: Own::WhereItHelps });
        };
        let disk = |witness: &Witness| match witness {
            Witness::Disk(disk) => Some(*disk),
            Witness::Supervisor => None,
        };
        let named: Vec<ShelfSlot> = all.iter().filter_map(disk).collect();
        let own = match all.len() - named.len() {
            0 => Own::Never,
            1 => Own::Always,
            _ => {
                return Err(ApiError::new(
                    ErrorCode::Invalid,
                    "the supervisor is named twice as a witness",
                )
                .remedy("name it once"));
            }
        };
        Ok(Wish { named, own })
    }
}

impl Services {
    /// What making a pool would do.
    pub(super) async fn plan_pool(&self, request: CreatePool) -> Result<PoolPlan, ApiError> {
        let Wish { named, own } = Wish::of(&request.witnesses)?;
        self.plan_with(own, EngineRequest::PlanCreatePool(request.with_witnesses(named))).await
    }

    /// What extending one would do.
    pub(super) async fn plan_extension(
        &self,
        pool: String,
        request: ExtendPool,
    ) -> Result<PoolPlan, ApiError> {
        let Wish { named, own } = Wish::of(&request.witnesses)?;
        let request = request.with_witnesses(named);
        self.plan_with(own, EngineRequest::PlanExtendPool { pool, request }).await
    }

    async fn plan_with(&self, own: Own, plan: EngineRequest) -> Result<PoolPlan, ApiError> {
        let forecast: PoolForecast = self.engine.call(plan).await?;
        let witness = self.plan_witness(own, &forecast.votes).await;
        Ok(PoolPlan { forecast, witness })
    }

    /// The request to make a pool, with the supervisor's witness if there is to be one, which is ready then.
    pub(super) async fn creation(
        &self,
        request: CreatePool,
    ) -> Result<(EngineRequest, Option<Made>), ApiError> {
        let Wish { named, own } = Wish::of(&request.witnesses)?;
        let mut request = request.with_witnesses(named);
        let made = self.make_if_wanted(own, EngineRequest::PlanCreatePool(request.clone())).await?;
        request.witnesses.extend(made.iter().map(|made| made.address));
        Ok((EngineRequest::CreatePool(request), made))
    }

    /// The same for one that is extended.
    pub(super) async fn extension(
        &self,
        pool: String,
        request: ExtendPool,
    ) -> Result<(EngineRequest, Option<Made>), ApiError> {
        let Wish { named, own } = Wish::of(&request.witnesses)?;
        let mut request = request.with_witnesses(named);
        let plan = EngineRequest::PlanExtendPool { pool: pool.clone(), request: request.clone() };
        let made = self.make_if_wanted(own, plan).await?;
        request.witnesses.extend(made.iter().map(|made| made.address));
        Ok((EngineRequest::ExtendPool { pool, request }, made))
    }

    /// Ends what was begun with a witness for a pool. One that the pool doesn't have after all is removed.
    pub(super) async fn settle(&self, witness: Option<Made>, is_used: bool) {
        let Some(made) = witness else { return };
        drop(made);
        if !is_used && let Err(error) = self.sweep_witnesses().await {
            tracing::warn!(%error, "a witness that was made in vain is removed later");
        }
    }

    async fn make_if_wanted(
        &self,
        own: Own,
        plan: EngineRequest,
    ) -> Result<Option<Made>, ApiError> {
        let plan = self.plan_with(own, plan).await?;
        let Some(WitnessPlan::Kept { bytes, .. }) = plan.witness else { return Ok(None) };
        let turn = self.turns.on_witnesses().await?;
        let address = self.make_witness(bytes).await?;
        Ok(Some(Made { address, _turn: turn }))
    }

    /// Whether the supervisor would be a witness; nothing where nobody needs one.
    async fn plan_witness(&self, own: Own, votes: &VotesForecast) -> Option<WitnessPlan> {
        let why = match own {
            Own::Always => None,
            _ if !votes.lacks_witness => return None,
            Own::Never => Some("none is wanted".to_owned()),
            Own::WhereItHelps => self.why_no_witness(votes).await,
        };
        Some(match why {
            Some(why) => WitnessPlan::Lacking { why },
            None => WitnessPlan::Kept {
                host: self.host.clone(),
                directory: self.config.witness_dir(),
                bytes: votes.witness_bytes,
            },
        })
    }

    /// Why the supervisor had better not be a witness of a pool with these votes.
    async fn why_no_witness(&self, votes: &VotesForecast) -> Option<String> {
        if self.config.interfaces.is_empty() {
            return Some("no interface is configured on which others could reach it".to_owned());
        }
        let state_dir = self.config.state_dir.clone();
        let looked = tokio::task::spawn_blocking(move || {
            // The same that its exports, and those of a node beside it, have.
            let machine = os::process::machine_id(&state_dir.join("machine-id"))?;
            let space = rustix::fs::statvfs(&state_dir)?;
            Ok::<_, io::Error>((machine, space.f_bavail.saturating_mul(space.f_frsize)))
        });
        let state_dir = self.config.state_dir.display();
        match looked.await.map_err(io::Error::other).flatten() {
            Ok((machine, _)) if votes.machines.contains(&machine) => {
                Some("its machine has disks of the pool, which would be lost with it".to_owned())
            }
            Ok((_, free)) if free < votes.witness_bytes.saturating_add(LEFT_FREE_BYTES) => {
                let (free, bytes) = (Human(free), Human(votes.witness_bytes));
                Some(format!(
                    "it takes {bytes}, and the file system of {state_dir} has only {free} free"
                ))
            }
            Ok(_) => None,
            Err(error) => Some(format!("{state_dir}: {error}")),
        }
    }

    /// Makes a file, and has it exported until the engine sees it.
    async fn make_witness(&self, bytes: u64) -> Result<ShelfSlot, ApiError> {
        let mut refused = BTreeSet::new();
        loop {
            let address = self.make_file(&refused, bytes).await?;
            let Err(error) = self.see_witness(address).await else { return Ok(address) };
            self.remove_file(address).await;
            // Somebody else may answer for the address.
            refused.insert(address);
            if refused.len() >= ADDRESSES_MAX || error.code != ErrorCode::Exists {
                return Err(error);
            }
        }
    }

    async fn make_file(
        &self,
        refused: &BTreeSet<ShelfSlot>,
        bytes: u64,
    ) -> Result<ShelfSlot, ApiError> {
        let (pools, directory) = (self.fresh_pools().await?, self.config.witness_dir());
        let failed = |error: io::Error| {
            let place = self.config.witness_dir();
            let what = format!("no witness of {} in {}: {error}", Human(bytes), place.display());
            let code = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::NoSpace,
                _ => ErrorCode::Io,
            };
            ApiError::new(code, what).remedy(
                "see to the file system of the supervisor's state directory, or do without (--no-witness)",
            )
        };
        let mut taken: BTreeSet<ShelfSlot> =
            files(&directory).map_err(failed)?.into_keys().collect();
        taken.extend(refused);
        // One that is missing may come back.
        let disks = pools.iter().flat_map(|pool| &pool.disks);
        taken.extend(disks.filter_map(|disk| disk.name.parse::<ShelfSlot>().ok()));
        // Apart from the exports of volumes: one of them may come back with its pool.
        let address = self.free_address(shelf_beside(self.owner), &pools, &taken).await?;
        let made =
            tokio::task::spawn_blocking(move || make(&directory, &address.to_string(), bytes));
        made.await.map_err(io::Error::other).flatten().map_err(failed)?;
        Ok(address)
    }

    /// Waits until the engine sees a new file as a disk that is free.
    async fn see_witness(&self, address: ShelfSlot) -> Result<(), ApiError> {
        println!("{WITNESS_LINE}");
        let end = tokio::time::Instant::now() + EXPORT_LIMIT;
        let name = address.to_string();
        let (mut asked, mut state) = (false, "its process doesn't answer".to_owned());
        loop {
            // It is told of the file once, and has read of it if it was started after that.
            let request = if asked { NodeRequest::Status } else { NodeRequest::Reload };
            if let Some(status) = self.ask_witnesses(request).await {
                asked = true;
                let export = status.exports.into_iter().find(|export| export.address == name);
                state = export.map_or_else(|| "it is not exported".to_owned(), |one| one.state);
                if state.starts_with("silent") {
                    return Err(ApiError::new(
                        ErrorCode::Exists,
                        format!("the supervisor's witness is not exported as {name}: {state}"),
                    )
                    .remedy("find out who has the address of the supervisor's shelf"));
                }
            }
            let _: Vec<SeenTarget> = self.engine.call(EngineRequest::Discover).await?;
            let disks: Vec<DiskReport> = self.engine.call(EngineRequest::Disks).await?;
            if disks.iter().any(|disk| disk.name == name && disk.state == DiskState::Free) {
                return Ok(());
            }
            if tokio::time::Instant::now() >= end {
                return Err(ApiError::new(
                    ErrorCode::Unavailable,
                    format!("the supervisor's witness {name} can't be used: {state}"),
                )
                .remedy("see what the supervisor's log says of its witnesses, or do without (--no-witness)"));
            }
            tokio::time::sleep(EXPORT_LOOK).await;
        }
    }

    async fn ask_witnesses(&self, request: NodeRequest) -> Option<NodeStatus> {
        let run_dir = self.config.witness_run_dir();
        let asking = tokio::task::spawn_blocking(move || {
            let mut all = targets_below(&run_dir, ANSWER_LIMIT).ok()?;
            match all.first_mut()?.ask(&request).ok()? {
                NodeReply::Status(status) => Some(status),
                _ => None,
            }
        });
        asking.await.ok().flatten()
    }

    /// Removes a file that no pool has, and what is left of it elsewhere.
    async fn remove_file(&self, address: ShelfSlot) {
        let path = self.config.witness_dir().join(address.to_string());
        let removed = tokio::task::spawn_blocking({
            let path = path.clone();
            move || std::fs::remove_file(path)
        });
        match removed.await.map_err(io::Error::other).flatten() {
            Ok(()) => tracing::info!(witness = %path.display(), "removed: no pool has it"),
            Err(error) => tracing::warn!(witness = %path.display(), %error, "can't be removed"),
        }
        self.ask_witnesses(NodeRequest::Reload).await;
        let forgotten = self.engine.call::<()>(EngineRequest::ForgetDisk { disk: address }).await;
        if let Err(error) = forgotten {
            tracing::debug!(%error, "the engine doesn't know yet that a witness is removed");
        }
    }

    /// Removes the files that no pool has, by the word of the engine: it sees them, and they are blank.
    pub(super) async fn sweep_witnesses(&self) -> Result<(), ApiError> {
        // Nobody makes one meanwhile.
        let _turn = self.turns.on_witnesses().await?;
        let directory = self.config.witness_dir();
        clear_unfinished(&directory);
        let known = files(&directory).unwrap_or_default();
        if known.is_empty() {
            return Ok(());
        }
        let pools = self.fresh_pools().await?;
        let of_pools: BTreeSet<&str> =
            pools.iter().flat_map(|pool| &pool.disks).map(|disk| disk.name.as_str()).collect();
        let idle: Vec<_> = known
            .into_iter()
            .filter(|(address, _)| !of_pools.contains(address.to_string().as_str()))
            .collect();
        if idle.is_empty() {
            return Ok(());
        }
        let disks: Vec<DiskReport> = self.engine.call(EngineRequest::Disks).await?;
        for (address, path) in idle {
            let is_it = |disk: &&DiskReport| {
                disk.name == address.to_string() && Path::new(&disk.device_name) == path
            };
            if disks.iter().find(is_it).is_some_and(|disk| disk.state == DiskState::Free) {
                self.remove_file(address).await;
            }
        }
        Ok(())
    }
}

/// Removes, now and then, the files that no pool has any more.
pub(super) async fn sweep(services: Arc<Services>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        // Without an engine nobody knows; it is looked at again.
        if let Err(error) = services.sweep_witnesses().await {
            tracing::debug!(%error, "whether pools have all witnesses isn't known");
        }
    }
}

/// Makes a file with its space, for good. Nobody sees it under its name before it is whole.
fn make(directory: &Path, name: &str, bytes: u64) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory)?;
    file.as_file_mut().set_len(bytes)?;
    allocate(file.as_file(), bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(directory.join(name)).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

/// Removes what a crash left of files that were being made.
fn clear_unfinished(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            // It is looked for again.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Takes the space of a file. Where the file system can't promise it, it is taken as it is written.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        allocated => Ok(allocated?),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_names_no_witness_leaves_it_to_the_supervisor() {
        let disk = ShelfSlot { shelf: 9, slot: 0 };
        let cases: [(Option<Vec<Witness>>, Own, Vec<ShelfSlot>); 5] = [
            (None, Own::WhereItHelps, vec![]),
            (Some(vec![]), Own::Never, vec![]),
            (Some(vec![Witness::Disk(disk)]), Own::Never, vec![disk]),
            (Some(vec![Witness::Supervisor]), Own::Always, vec![]),
            (Some(vec![Witness::Supervisor, Witness::Disk(disk)]), Own::Always, vec![disk]),
        ];
        for (witnesses, own, named) in cases {
            let wish = Wish::of(&witnesses).unwrap();
            assert_eq!((wish.own, wish.named), (own, named), "{witnesses:?}");
        }
        assert!(Wish::of(&Some(vec![Witness::Supervisor; 2])).is_err());
    }

    #[test]
    fn a_witness_has_its_space_from_the_first_moment_on() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("deep/witnesses");
        make(&place, "e1030.0", 8 << 20).unwrap();
        let made = std::fs::metadata(place.join("e1030.0")).unwrap();
        assert_eq!(made.len(), 8 << 20);
        assert!(made.blocks() * 512 >= 8 << 20);
        // What is there may be a pool's.
        assert!(make(&place, "e1030.0", 4 << 20).is_err());
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 1);
        // Larger than any file system: nothing is left of it.
        assert!(make(&place, "e1030.1", 1 << 62).is_err());
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 1);
        std::fs::write(place.join(".new-left"), "").unwrap();
        clear_unfinished(&place);
        assert!(place.join("e1030.0").exists() && !place.join(".new-left").exists());
    }
}
