//! What the boot server of this machine knows of machines is copied into each pool that is open here, and brought back by
//! `etherpool boot restore`. A pool keeps the copies of several boot servers, each under its own id: who imports a pool
//! overwrites none but his own, and none by nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use control::api::{ApiError, ErrorCode};
use control::channel::EngineRequest;
use control::reconcile::EngineInstance;
use pool::{
    KeepNotes, KeptNotes, NOTE_BYTES_MAX, NOTES_BYTES_MAX, NotAKeeper, NotesKept, PoolReport,
    PoolState,
};

use super::Services;
use super::api::{Answer, App};
use super::described::Path;
use crate::boot::copied::{Looker, ToCopy};

/// How often it is looked whether something has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What is wrong with none of the pools is with that.
const DIRECTORY: &str = "";

/// What pools are known to have.
#[derive(Default)]
struct Told {
    /// By the pools' identities; with the engine that said so: another one may have taken them over since.
    pools: BTreeMap<String, (EngineInstance, Arc<ToCopy>)>,
}

impl Told {
    /// The pools that haven't got it, as far as is known.
    fn lacking<'p>(
        &mut self,
        engine: EngineInstance,
        pools: &'p [PoolReport],
        wanted: &Arc<ToCopy>,
    ) -> Vec<&'p PoolReport> {
        let open: Vec<&PoolReport> = pools.iter().filter(|pool| takes_copies(pool)).collect();
        // What isn't open any more may be changed elsewhere.
        self.pools.retain(|id, _| open.iter().any(|pool| pool.id == *id));
        let has = |pool: &&PoolReport| match self.pools.get(&pool.id) {
            Some((told, what)) => *told == engine && what == wanted,
            None => false,
        };
        open.into_iter().filter(|pool| !has(pool)).collect()
    }
}

/// Whether a pool is open here, to be written to.
fn takes_copies(pool: &PoolReport) -> bool {
    !pool.read_only && matches!(pool.state, PoolState::Online | PoolState::Degraded)
}

/// What there wasn't room for, and what is to be done.
fn left_out(pool: &str, kept: &NotesKept) -> Option<String> {
    if kept.left_out.is_empty() {
        return None;
    }
    let remedy = format!(
        "copy the boot server's directory elsewhere, or see whether copies of others can go: `etherpool boot copies {pool}`"
    );
    Some(format!(
        "pool {pool} hasn't room for what is known of all machines that boot ({} KiB, with {} KiB for each): these are not copied there as they are: {}; {remedy}",
        NOTES_BYTES_MAX >> 10,
        NOTE_BYTES_MAX >> 10,
        kept.left_out.join(", ")
    ))
}

/// What is there isn't ours to overwrite, and what is to be done.
fn unknown(pool: &str, wanted: &ToCopy) -> String {
    let id = wanted.id;
    let remedy = format!(
        "bring back what is there, if it is newer: `etherpool boot restore {pool} --from {id}`; or give it up: `etherpool boot forget-copy {pool} {id}`"
    );
    format!(
        "pool {pool} has a copy of what this boot server knows that its directory here never had, as after a backup was brought back; it stays, and nothing is copied there; {remedy}"
    )
}

/// Copies what has changed, as long as the services run.
pub(super) async fn run(services: Arc<Services>) {
    let config = &services.config;
    let mut looker = Looker::new(&config.state_dir, config.boot.clone());
    let mut told = Told::default();
    loop {
        let looked = tokio::task::spawn_blocking(move || {
            let found = looker.look();
            (looker, found)
        });
        let (back, found) = match looked.await {
            Ok(looked) => looked,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(
                        "nothing more of the boot server is copied into pools until the supervisor starts anew: looking at its directory ended by a fault"
                    );
                }
                return;
            }
        };
        looker = back;
        let trouble = found.as_ref().err();
        let trouble = trouble.map(|error| {
            format!("what is known of machines that boot isn't copied into pools: {error:#}")
        });
        services.copy_troubles.set(DIRECTORY, trouble);
        if services.copy_forgotten.swap(false, Ordering::AcqRel) {
            told.pools.clear();
        }
        let pools = services.pools.borrow().clone();
        let is_open = |id: &str| pools.iter().any(|pool| pool.id == id && takes_copies(pool));
        services.copy_troubles.keep(|what| what == DIRECTORY || is_open(what));
        if let Ok(Some(wanted)) = found {
            services.copy(&mut told, &pools, &wanted).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Services {
    async fn copy(&self, told: &mut Told, pools: &[PoolReport], wanted: &Arc<ToCopy>) {
        let Some(engine) = self.engine.instance() else { return };
        for PoolReport { id, name, .. } in told.lacking(engine, pools, wanted) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let want = KeepNotes {
                keeper: wanted.id,
                host: self.host.clone(),
                at_secs: now.as_secs(),
                mark: wanted.mark,
                known: wanted.known.clone(),
                are_all: wanted.are_all,
                notes: wanted.files.0.clone(),
            };
            let request = EngineRequest::KeepNotes { pool: id.clone(), want };
            let trouble = match self.engine.call::<NotesKept>(request).await {
                Ok(NotesKept { is_unknown: true, .. }) => Some(unknown(name, wanted)),
                Ok(kept) => {
                    if kept.changed {
                        tracing::info!(
                            pool = name,
                            "what is known of machines that boot is copied there"
                        );
                    }
                    told.pools.insert(id.clone(), (engine, Arc::clone(wanted)));
                    left_out(name, &kept)
                }
                // It is tried again.
                Err(error) => Some(format!(
                    "what is known of machines that boot can't be copied into pool {name}: {error}"
                )),
            };
            self.copy_troubles.set(id, trouble);
        }
    }
}

pub(super) async fn show(State(services): App, Path(pool): Path<String>) -> Answer<Vec<KeptNotes>> {
    services.ask(EngineRequest::Notes { pool }).await
}

pub(super) async fn forget(
    State(services): App,
    Path((pool, keeper)): Path<(String, String)>,
) -> Answer<()> {
    let keeper = keeper.parse().map_err(|error: NotAKeeper| {
        ApiError::new(ErrorCode::Invalid, format!("{keeper}: {error}"))
            .remedy(format!("see `etherpool boot copies {pool}`"))
    })?;
    let answer = services.ask(EngineRequest::ForgetNotes { pool, keeper }).await;
    // Also one that is to be there: it is copied anew.
    services.copy_forgotten.store(true, Ordering::Release);
    answer
}

#[cfg(test)]
mod tests {
    use control::boot::CopiedFiles;
    use pool::KeeperId;

    use super::*;
    use crate::cli::samples;

    fn wanted(text: &str) -> Arc<ToCopy> {
        let files = CopiedFiles([("default".to_owned(), text.to_owned())].into());
        Arc::new(ToCopy { id: KeeperId(7), mark: 7, known: [7].into(), files, are_all: true })
    }

    #[test]
    fn each_open_pool_is_told_once_until_something_changes() {
        let mut told = Told::default();
        let online = samples::pool();
        let suspended = PoolState::Suspended { why: "x".to_owned() };
        let closed = PoolReport { state: suspended, id: "b".to_owned(), ..online.clone() };
        let read_only = PoolReport { read_only: true, id: "c".to_owned(), ..online.clone() };
        let pools = [PoolReport { state: PoolState::Online, ..online }, closed, read_only];
        let (one, other) = (EngineInstance(1), EngineInstance(2));
        let lacking = |told: &mut Told, engine, pools: &[PoolReport], what: &str| {
            let wanted = wanted(what);
            let lacking = told.lacking(engine, pools, &wanted).len();
            let open = pools.iter().filter(|pool| takes_copies(pool));
            told.pools.extend(open.map(|pool| (pool.id.clone(), (engine, Arc::clone(&wanted)))));
            lacking
        };
        assert_eq!(lacking(&mut told, one, &pools, "a"), 1);
        assert_eq!(lacking(&mut told, one, &pools, "a"), 0);
        assert_eq!(lacking(&mut told, one, &pools, "b"), 1);
        assert_eq!(lacking(&mut told, other, &pools, "b"), 1, "another engine");
        assert_eq!(lacking(&mut told, other, &[], "b"), 0);
        assert_eq!(lacking(&mut told, other, &pools, "b"), 1, "it was closed meanwhile");
    }
}
