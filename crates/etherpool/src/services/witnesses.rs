//! The supervisor as a witness: where the machines that vote in a pool are an even number it keeps a vote itself, in
//! a file of its state directory that its third process exports as a node does. Of two machines with data and the
//! supervisor any one may be lost then; of two of which it is one, the other.
//!
//! A file takes its space when it is made, so that a full file system refuses it then and can't take the vote later.
//! One that no pool has (any more) is removed: the engine sees it, no command of ours is about to use it, and it is blank.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aoe_wire::ShelfSlot;
use block::size::Human;
use control::api::{
    ApiError, CreatePool, ErrorCode, ExtendPool, PoolPlan, SeenTarget, Witness, WitnessPlan,
    Witnesses,
};
use control::channel::EngineRequest;
use control::node::{ASKING, NodeReply, NodeRequest, NodeStatus, ONLINE};
use pool::format::{DiskGeometry, LABEL_BYTES, VOTE_BYTES};
use pool::{DiskReport, DiskState, PoolForecast, VotesForecast};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use uuid::Uuid;

use super::Services;
use super::turns::Turn;
use crate::cli::targets_below;
use crate::node::shelf_beside;
use crate::supervisor::WITNESS_LINE;
use crate::witnesses::{file_of, files, note_origin, origin_of};

/// What is left to the supervisor's records of the file system.
const LEFT_FREE_BYTES: u64 = 64 << 20;
/// What is left to all others where nobody asked for a witness: a tenth of the file system, within these bounds. A
/// large disk that is nine tenths full has room enough.
const LEFT_FREE_UNASKED_BYTES_MIN: u64 = 1 << 30;
const LEFT_FREE_UNASKED_BYTES_MAX: u64 = 4 << 30;
/// How long a new file may take to be exported and seen by the engine.
const EXPORT_LIMIT: Duration = Duration::from_secs(20);
/// How long it is asked at most who else has its address; where no interface has a link nobody can be asked.
const ASKING_LIMIT: Duration = Duration::from_secs(1);
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

/// A request that makes or extends a pool. If it has files of the supervisor's none is removed as long as it is held.
pub(super) struct Growth {
    pub(super) request: EngineRequest,
    /// What became of the supervisor's own vote.
    pub(super) witness: Option<WitnessPlan>,
    pub(super) turn: Option<Turn>,
}

/// The supervisor's vote in what is about to be made or extended.
struct OwnVote {
    /// The file, which is ready.
    made: Option<ShelfSlot>,
    witness: Option<WitnessPlan>,
    turn: Option<Turn>,
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

    /// The same for a pool that there is: to what gets no disk nothing is added.
    fn of_extension(request: &ExtendPool) -> Result<Wish, ApiError> {
        let wish = Wish::of(&request.witnesses)?;
        let is_idle = request.disks.is_empty() && wish.own == Own::WhereItHelps;
        Ok(if is_idle { Wish { own: Own::Never, ..wish } } else { wish })
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
        let Wish { named, own } = Wish::of_extension(&request)?;
        let request = request.with_witnesses(named);
        self.plan_with(own, EngineRequest::PlanExtendPool { pool, request }).await
    }

    async fn plan_with(&self, own: Own, plan: EngineRequest) -> Result<PoolPlan, ApiError> {
        let forecast: PoolForecast = self.engine.call(plan).await?;
        let witness = self.plan_witness(own, &forecast.votes).await?;
        Ok(PoolPlan { forecast, witness })
    }

    /// The request to make a pool, with the supervisor's witness if there is to be one, which is ready then.
    pub(super) async fn creation(&self, request: CreatePool) -> Result<Growth, ApiError> {
        let wish = Wish::of(&request.witnesses)?;
        let mut request = request.with_witnesses(wish.named.clone());
        let plan = EngineRequest::PlanCreatePool(request.clone());
        let OwnVote { made, witness, turn } = self.vote_in(&wish, plan).await?;
        request.witnesses.extend(made);
        let request = EngineRequest::CreatePool { request, grant: self.first_grant()? };
        Ok(Growth { request, witness, turn })
    }

    /// The same for one that is extended.
    pub(super) async fn extension(
        &self,
        pool: String,
        request: ExtendPool,
    ) -> Result<Growth, ApiError> {
        let wish = Wish::of_extension(&request)?;
        let mut request = request.with_witnesses(wish.named.clone());
        let plan = EngineRequest::PlanExtendPool { pool: pool.clone(), request: request.clone() };
        let OwnVote { made, witness, turn } = self.vote_in(&wish, plan).await?;
        request.witnesses.extend(made);
        Ok(Growth { request: EngineRequest::ExtendPool { pool, request }, witness, turn })
    }

    async fn vote_in(&self, wish: &Wish, plan: EngineRequest) -> Result<OwnVote, ApiError> {
        let witness = self.plan_with(wish.own, plan).await?.witness;
        let Some(WitnessPlan::Kept { bytes, .. }) = witness else {
            let own = files(&self.config.witness_dir()).unwrap_or_default();
            let turn = match wish.named.iter().any(|named| own.contains_key(named)) {
                true => Some(self.turns.on_witnesses().await?),
                false => None,
            };
            return Ok(OwnVote { made: None, witness, turn });
        };
        let making = async {
            let turn = self.turns.on_witnesses().await?;
            Ok::<_, ApiError>((self.make_witness(bytes).await?, turn))
        };
        match making.await {
            Ok((made, turn)) => Ok(OwnVote { made: Some(made), witness, turn: Some(turn) }),
            // Nobody asked for it.
            Err(error) if wish.own == Own::WhereItHelps => {
                tracing::warn!(%error, "the supervisor is no witness of a pool that it would help");
                let witness = Some(WitnessPlan::Lacking { why: error.message });
                Ok(OwnVote { made: None, witness, turn: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the supervisor would be a witness; nothing where nobody needs one.
    async fn plan_witness(
        &self,
        own: Own,
        votes: &VotesForecast,
    ) -> Result<Option<WitnessPlan>, ApiError> {
        let machine = self.machine().await;
        let is_here = |machine: &Uuid| votes.machines.contains(machine);
        let beside_data = machine.as_ref().is_ok_and(is_here);
        let why = match own {
            Own::Always => match self.why_no_room(own, votes.witness_bytes).await {
                Some(why) => return Err(self.not_made(ErrorCode::NoSpace, &why)),
                None => None,
            },
            _ if !votes.lacks_witness => return Ok(None),
            Own::Never => Some("none is wanted".to_owned()),
            // Beside data it helps an even number of votes, and only these.
            Own::WhereItHelps if beside_data && !votes.votes.is_multiple_of(2) => return Ok(None),
            Own::WhereItHelps => match machine {
                Ok(_) => self.why_no_witness(votes).await,
                Err(error) => Some(format!("{}: {error}", self.config.state_dir.display())),
            },
        };
        Ok(Some(match why {
            Some(why) => WitnessPlan::Lacking { why },
            None => WitnessPlan::Kept {
                host: self.host.clone(),
                directory: self.config.witness_dir(),
                bytes: votes.witness_bytes,
                beside_data,
            },
        }))
    }

    /// Why the supervisor had better not be a witness of a pool with these votes.
    async fn why_no_witness(&self, votes: &VotesForecast) -> Option<String> {
        if self.config.interfaces.is_empty() {
            return Some("no interface is configured on which others could reach it".to_owned());
        }
        self.why_no_room(Own::WhereItHelps, votes.witness_bytes).await
    }

    /// The machine by the identity that its exports, and those of a node beside it, have.
    async fn machine(&self) -> io::Result<Uuid> {
        let stored = self.config.state_dir.join("machine-id");
        let read = tokio::task::spawn_blocking(move || os::process::machine_id(&stored));
        read.await.map_err(io::Error::other).flatten()
    }

    /// Why a file of this size had better not be made where the supervisor's would be.
    async fn why_no_room(&self, own: Own, bytes: u64) -> Option<String> {
        let state_dir = self.config.state_dir.clone();
        let looked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&state_dir));
        let looked = looked.await.map_err(io::Error::other);
        let state_dir = self.config.state_dir.display();
        let space = match looked.and_then(|space| Ok(space?)) {
            Ok(space) => space,
            Err(error) => return Some(format!("{state_dir}: {error}")),
        };
        let [all, free] =
            [space.f_blocks, space.f_bavail].map(|count| count.saturating_mul(space.f_frsize));
        let left = bytes_left_free(own, all);
        (free < bytes.saturating_add(left)).then(|| {
            let [bytes, left, free] = [bytes, left, free].map(Human);
            format!(
                "it takes {bytes} and leaves {left} to others, and the file system of {state_dir} has only {free} free"
            )
        })
    }

    fn not_made(&self, code: ErrorCode, why: &str) -> ApiError {
        let directory = self.config.witness_dir();
        ApiError::new(code, format!("no witness in {}: {why}", directory.display())).remedy(
            "see to the file system of the supervisor's state directory, or do without (--no-witness)",
        )
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
            let code = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::NoSpace,
                _ => ErrorCode::Io,
            };
            self.not_made(code, &format!("{} for it: {error}", Human(bytes)))
        };
        let machine = self.machine().await.map_err(failed)?;
        let mut taken: BTreeSet<ShelfSlot> =
            files(&directory).map_err(failed)?.into_keys().collect();
        taken.extend(refused);
        // One that is missing may come back.
        let disks = pools.iter().flat_map(|pool| &pool.disks);
        taken.extend(disks.filter_map(|disk| disk.name.parse::<ShelfSlot>().ok()));
        // Apart from the exports of volumes: one of them may come back with its pool.
        let address = self.free_address(shelf_beside(self.owner), &pools, &taken).await?;
        let name = directory.join(address.to_string());
        let made = tokio::task::spawn_blocking(move || make(&name, bytes, machine));
        made.await.map_err(io::Error::other).flatten().map_err(failed)?;
        Ok(address)
    }

    /// Waits until a new file is exported, and the engine sees it as a disk that is free.
    async fn see_witness(&self, address: ShelfSlot) -> Result<(), ApiError> {
        println!("{WITNESS_LINE}");
        let begun = tokio::time::Instant::now();
        let name = address.to_string();
        let path = self.config.witness_dir().join(&name);
        let mut asking = None;
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
            if state.starts_with(ASKING) {
                asking.get_or_insert_with(tokio::time::Instant::now);
            }
            let for_good = asking.is_some_and(|since| since.elapsed() >= ASKING_LIMIT);
            let is_served = state == ONLINE || state.starts_with(ASKING) && for_good;
            if is_served && disks.iter().any(|disk| is_free(disk, address, &path)) {
                return Ok(());
            }
            if begun.elapsed() >= EXPORT_LIMIT {
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
            move || {
                std::fs::remove_file(&path)?;
                std::fs::remove_file(origin_of(&path))
            }
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

    /// Removes the files that no pool has.
    async fn sweep_witnesses(&self) -> Result<(), ApiError> {
        // Nobody makes one meanwhile, or has one made a pool's.
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
        let disks: Vec<DiskReport> = self.engine.call(EngineRequest::Disks).await?;
        for (address, path) in known {
            let is_idle = !of_pools.contains(address.to_string().as_str())
                && disks.iter().any(|disk| is_free(disk, address, &path));
            // What the engine knows of it may be some seconds old.
            if is_idle && has_no_label(path).await {
                self.remove_file(address).await;
            }
        }
        Ok(())
    }
}

/// Whether the engine sees the supervisor's file as a disk that nobody has.
fn is_free(disk: &DiskReport, address: ShelfSlot, file: &Path) -> bool {
    let is_it = disk.name == address.to_string() && Path::new(&disk.device_name) == file;
    is_it && disk.state == DiskState::Free
}

/// Whether no pool has this file, by what is in it.
async fn has_no_label(file: PathBuf) -> bool {
    let looked = tokio::task::spawn_blocking(move || is_blank(&file));
    looked.await.map_err(io::Error::other).flatten().unwrap_or_else(|error| {
        tracing::warn!(%error, "whether a witness is a pool's can't be told");
        false
    })
}

/// Whether neither a label nor a vote is in a file. Blocks.
fn is_blank(file: &Path) -> io::Result<bool> {
    let file = File::open(file)?;
    let bytes = DiskGeometry::labelled_bytes_of(file.metadata()?.len());
    let labels = DiskGeometry::label_slots(bytes).map(|slot| (slot, LABEL_BYTES));
    let votes = DiskGeometry::vote_slots().map(|slot| (slot, VOTE_BYTES));
    for (slot, bytes) in labels.into_iter().chain(votes) {
        let mut found = vec![0; bytes];
        file.read_exact_at(&mut found, slot.byte_offset())?;
        if found.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a witness has to leave free of a file system of this size.
fn bytes_left_free(own: Own, all: u64) -> u64 {
    match own {
        Own::Always => LEFT_FREE_BYTES,
        Own::WhereItHelps | Own::Never => {
            (all / 10).clamp(LEFT_FREE_UNASKED_BYTES_MIN, LEFT_FREE_UNASKED_BYTES_MAX)
        }
    }
}

/// Removes the files that no pool has any more: now and then, and when something is over that may have left one.
pub(super) async fn sweep(services: Arc<Services>) {
    loop {
        let soon = services.witness_left.notified();
        // Nobody waits for either.
        let _ = tokio::time::timeout(SWEEP_INTERVAL, soon).await;
        // Without an engine nobody knows; it is looked at again.
        if let Err(error) = services.sweep_witnesses().await {
            tracing::debug!(%error, "whether pools have all witnesses isn't known");
        }
    }
}

/// Makes a file with its space, for good. Nobody sees it under its name before it is whole.
fn make(name: &Path, bytes: u64, machine: Uuid) -> io::Result<()> {
    let directory = name.parent().ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(directory)?;
    // What is there may be a pool's, and so may its origin.
    if name.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory)?;
    file.as_file_mut().set_len(bytes)?;
    allocate(file.as_file(), bytes)?;
    file.as_file().sync_all()?;
    note_origin(name, file.as_file(), machine)?;
    file.persist_noclobber(name).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

/// Removes what a crash left of files that were being made or removed.
fn clear_unfinished(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_new = entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes());
        let is_alone = file_of(&path).is_some_and(|file| !file.exists());
        if is_new || is_alone {
            // It is looked for again.
            let _ = std::fs::remove_file(path);
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
    fn what_gets_no_disk_gets_no_witness_that_nobody_asked_for() {
        let extension = |text: &str| {
            let request: ExtendPool = serde_json::from_str(text).unwrap();
            Wish::of_extension(&request).unwrap().own
        };
        assert_eq!(extension("{}"), Own::Never);
        assert_eq!(extension(r#"{"disks":["e1.0"]}"#), Own::WhereItHelps);
        assert_eq!(extension(r#"{"witnesses":["supervisor"]}"#), Own::Always);
    }

    #[test]
    fn a_witness_that_nobody_asked_for_leaves_much_to_others() {
        assert_eq!(bytes_left_free(Own::Always, 1 << 40), 64 << 20);
        assert_eq!(bytes_left_free(Own::WhereItHelps, 2 << 30), 1 << 30);
        assert_eq!(bytes_left_free(Own::WhereItHelps, 20 << 30), 2 << 30);
        assert_eq!(bytes_left_free(Own::WhereItHelps, 1 << 40), 4 << 30);
    }

    #[test]
    fn a_witness_has_its_space_from_the_first_moment_on() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("deep/witnesses");
        let machine = Uuid::from_u128(1);
        let [one, other] = ["e1030.0", "e1030.1"].map(|name| place.join(name));
        make(&one, 8 << 20, machine).unwrap();
        let made = std::fs::metadata(&one).unwrap();
        assert_eq!(made.len(), 8 << 20);
        // Where the file system can promise it, which is asked apart from how it is made.
        let probe = tempfile::tempfile_in(directory.path()).unwrap();
        if rustix::fs::fallocate(&probe, FallocateFlags::empty(), 0, 4096).is_ok() {
            assert!(made.blocks() * 512 >= 8 << 20);
        }
        assert_eq!(crate::witnesses::why_not_the_made(&one, machine), None);
        // What is there may be a pool's.
        assert!(make(&one, 4 << 20, machine).is_err());
        assert_eq!(crate::witnesses::why_not_the_made(&one, machine), None);
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 2);
        // Larger than any file system: nothing is left of it.
        assert!(make(&other, 1 << 62, machine).is_err());
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 2);
        std::fs::write(place.join(".new-left"), "").unwrap();
        std::fs::write(origin_of(&other), "").unwrap();
        clear_unfinished(&place);
        assert!(one.exists() && std::fs::read_dir(&place).unwrap().count() == 2);
    }

    #[test]
    fn a_file_with_any_label_or_vote_is_not_blank() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("e1030.0");
        let bytes = 4 << 20;
        make(&path, bytes, Uuid::nil()).unwrap();
        assert!(is_blank(&path).unwrap());
        let file = File::options().write(true).open(&path).unwrap();
        let slots = DiskGeometry::label_slots(bytes).into_iter().chain(DiskGeometry::vote_slots());
        for slot in slots {
            file.write_all_at(b"x", slot.byte_offset() + 100).unwrap();
            assert!(!is_blank(&path).unwrap());
            file.write_all_at(&[0], slot.byte_offset() + 100).unwrap();
        }
        assert!(is_blank(&path).unwrap());
    }
}
