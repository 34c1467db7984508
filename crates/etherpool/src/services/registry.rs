//! The one reconciler of `pools.json`: what the engine tells of pools is written there before anybody is
//! told that a pool was made or imported, and the engine hears which settings wait.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use block::VolumeName;
use control::api::{ApiError, ErrorCode, PoolReportExt as _};
use control::channel::EngineRequest;
use control::reconcile::EngineInstance;
use control::registry::{HeldSetting, REGISTRY_FILE, Registry, held};
use control::settings::EXPORTS_KEY;
use pool::PoolReport;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};
use uuid::Uuid;

use super::channel_client::EngineClient;

/// Files that couldn't be read and are kept aside, at most.
const DAMAGED_MAX: u32 = 1000;

/// Reads the registry in a state directory; empty if there is none yet.
pub fn read(state_dir: &Path) -> anyhow::Result<Registry> {
    let file = state_dir.join(REGISTRY_FILE);
    match std::fs::read_to_string(&file) {
        Ok(text) => Registry::parse(&text).with_context(|| file.display().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Registry::default()),
        Err(error) => Err(error).with_context(|| file.display().to_string()),
    }
}

/// The registry and its file.
pub struct PoolRegistry {
    state_dir: PathBuf,
    engine: EngineClient,
    /// Looks and changes come one after the other: what was asked earlier isn't written later.
    turn: AsyncMutex<()>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    registry: Registry,
    /// There is a file that couldn't be read; it is kept when another is written.
    in_the_way: bool,
    /// The file has something else.
    unsaved: bool,
    warnings: Vec<String>,
    trouble: Option<String>,
    /// Pools that are being imported: what they have when they are open came with them, also if they
    /// are known from before.
    importing: BTreeSet<Uuid>,
    /// Those that are open.
    open: BTreeSet<Uuid>,
    /// What the engine was told to hold, by pool.
    told: BTreeMap<Uuid, (EngineInstance, BTreeSet<String>)>,
}

/// Held while the engine is asked and what it says is noted.
pub struct Turn<'a> {
    registry: &'a Arc<PoolRegistry>,
    _alone: AsyncMutexGuard<'a, ()>,
}

impl PoolRegistry {
    /// Reads the file. One that can't be read counts as empty: no data depends on it.
    pub fn open(state_dir: &Path, engine: EngineClient) -> Arc<PoolRegistry> {
        let mut inner = Inner::default();
        match read(state_dir) {
            Ok(registry) => inner.registry = registry,
            Err(error) => {
                let warning = format!(
                    "which pools are this supervisor's can't be told: {error:#}; bring back a copy \
                     of that file and restart, or import the pools anew (`etherpool pool import \
                     POOL`): the file is then kept beside it as {REGISTRY_FILE}.damaged-N"
                );
                tracing::error!("{warning}");
                inner.warnings.push(warning);
                inner.in_the_way = true;
            }
        }
        let (state_dir, inner) = (state_dir.to_owned(), Mutex::new(inner));
        Arc::new(PoolRegistry { state_dir, engine, turn: AsyncMutex::default(), inner })
    }

    /// Waits until nobody else looks or changes.
    pub async fn turn(self: &Arc<Self>) -> Turn<'_> {
        Turn { registry: self, _alone: self.turn.lock().await }
    }

    /// Identities and names of the pools that are this supervisor's.
    pub fn known(&self) -> Vec<(String, String)> {
        let inner = self.inner();
        inner.registry.pools.iter().map(|pool| (pool.id.to_string(), pool.name.clone())).collect()
    }

    /// Shows the settings that wait under keys that nobody acts on.
    pub fn set_apart(&self, pools: &mut [PoolReport]) {
        self.inner().registry.set_apart(pools);
    }

    /// What waits of a pool.
    pub fn held(&self, pool: &PoolReport) -> BTreeSet<HeldSetting> {
        let id = pool.id.parse().ok();
        let inner = self.inner();
        id.and_then(|id| inner.registry.pool(id)).map(|pool| pool.held.clone()).unwrap_or_default()
    }

    /// Has a setting wait again, or no longer: whatever waited was replaced here. What can't be
    /// written down is shown by [`PoolRegistry::trouble`]: after a restart it may wait again.
    pub async fn set_waits(self: &Arc<Self>, name: &VolumeName, key: &str, waits: bool) {
        let one = held(name.volume(), key);
        let open = self.inner().open.clone();
        {
            let mut inner = self.inner();
            let known = inner.registry.open_pool(name.pool(), &open);
            if known.is_none_or(|known| known.held.contains(&one) == waits) {
                return;
            }
        }
        let _turn = self.turn().await;
        let change = |registry: &mut Registry| {
            let Some(known) = registry.open_pool(name.pool(), &open) else { return };
            if waits {
                known.held.insert(one);
            } else {
                known.held.remove(&one);
            }
        };
        // Told as trouble.
        let _ = self.change(change).await;
    }

    /// Takes note of a pool that was destroyed here. What can't be written down is shown by
    /// [`PoolRegistry::trouble`].
    pub async fn note_destroyed(self: &Arc<Self>, id: Uuid, name: &str) {
        let _turn = self.turn().await;
        // Told as trouble.
        let _ = self.change(|registry: &mut Registry| registry.note_destroyed(id, name)).await;
    }

    /// A pool isn't this supervisor's any more. What can't be written down is shown by [`PoolRegistry::trouble`].
    pub async fn forget(self: &Arc<Self>, id: Uuid) {
        let _turn = self.turn().await;
        // Told as trouble.
        let _ = self.change(|registry: &mut Registry| registry.forget(id)).await;
    }

    /// An import of these pools begins.
    pub fn import_begins(&self, pools: &[PoolReport]) {
        let ids = pools.iter().filter_map(|pool| pool.id.parse::<Uuid>().ok());
        self.inner().importing.extend(ids);
    }

    /// It is over: those that aren't open stay known as they were.
    pub fn import_ends(&self, pools: &[PoolReport]) {
        let ids: BTreeSet<Uuid> = pools.iter().filter_map(|pool| pool.id.parse().ok()).collect();
        self.inner().importing.retain(|id| !ids.contains(id));
    }

    /// What is known of damage, for status.
    pub fn warnings(&self) -> Vec<String> {
        self.inner().warnings.clone()
    }

    /// Why the file isn't what it should be now.
    pub fn trouble(&self) -> Option<String> {
        self.inner().trouble.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it, durably. What couldn't be written counts all the same, and is tried again with the
    /// next change or look.
    async fn change(self: &Arc<Self>, change: impl FnOnce(&mut Registry)) -> Result<(), ApiError> {
        let (changed, in_the_way) = {
            let mut inner = self.inner();
            let mut changed = inner.registry.clone();
            change(&mut changed);
            if changed == inner.registry && !inner.unsaved {
                return Ok(());
            }
            inner.registry = changed.clone();
            inner.unsaved = true;
            (changed, inner.in_the_way)
        };
        let state_dir = self.state_dir.clone();
        let stored = tokio::task::spawn_blocking(move || store(&state_dir, &changed, in_the_way));
        let stored = match stored.await {
            Ok(stored) => stored,
            Err(error) => Err(error.into()),
        };
        let mut inner = self.inner();
        match stored {
            Ok(kept) => {
                if let Some(kept) = kept {
                    let note = format!(
                        "{} could not be read at the start and is kept as {}",
                        self.state_dir.join(REGISTRY_FILE).display(),
                        kept.display()
                    );
                    tracing::warn!("{note}");
                    inner.warnings = vec![note];
                }
                inner.in_the_way = false;
                inner.unsaved = false;
                inner.trouble = None;
                Ok(())
            }
            Err(error) => {
                let trouble = format!(
                    "which pools are this supervisor's can't be written down: {error:#}; after a \
                     restart it would not open the latest of them by itself; make room or the \
                     directory writable, it is tried again"
                );
                if inner.trouble.as_ref() != Some(&trouble) {
                    tracing::error!("{trouble}");
                }
                inner.trouble = Some(trouble.clone());
                Err(ApiError::new(ErrorCode::Io, trouble))
            }
        }
    }

    /// Tells the engine which exports wait, wherever it doesn't know yet. It may be a new one.
    async fn tell_engine(&self, pools: &[PoolReport]) {
        let Some(instance) = self.engine.instance() else { return };
        // What isn't open may be another's by the time that the engine hears of it.
        for report in pools.iter().filter(|report| report.may_stay() && !report.read_only) {
            let Ok(id) = report.id.parse::<Uuid>() else { continue };
            let volumes: BTreeSet<String> = {
                let inner = self.inner();
                let Some(known) = inner.registry.pool(id) else { continue };
                let exports = known.held.iter().filter(|held| held.key == EXPORTS_KEY);
                let told = (instance, exports.map(|held| held.volume.clone()).collect());
                if inner.told.get(&id) == Some(&told) {
                    continue;
                }
                told.1
            };
            let request =
                EngineRequest::HeldExports { pool: report.id.clone(), volumes: volumes.clone() };
            match self.engine.call::<()>(request).await {
                Ok(()) => {
                    self.inner().told.insert(id, (instance, volumes));
                }
                Err(error) => {
                    tracing::warn!(pool = report.name, %error, "the engine can't be told which exports wait; tried again");
                }
            }
        }
    }
}

impl Turn<'_> {
    /// Takes note of what the engine told since this turn began.
    pub async fn take_note(&self, pools: &[PoolReport]) -> Result<(), ApiError> {
        let open = pools.iter().filter(|pool| pool.may_stay() && !pool.read_only);
        let imported: Vec<Uuid> = {
            let mut inner = self.registry.inner();
            // What is set in one that is only read says nothing of what waits.
            let are_open = pools.iter().filter(|pool| pool.is_open() && !pool.read_only);
            inner.open = are_open.filter_map(|pool| pool.id.parse().ok()).collect();
            let ids = open.filter_map(|pool| pool.id.parse().ok());
            ids.filter(|id| inner.importing.remove(id)).collect()
        };
        let note = |registry: &mut Registry| {
            for id in imported {
                registry.forget(id);
            }
            registry.take_note(pools);
        };
        let noted = self.registry.change(note).await;
        {
            // A pool that went may come back to the same engine.
            let mut inner = self.registry.inner();
            let Inner { registry, told, .. } = &mut *inner;
            told.retain(|id, _| registry.pool(*id).is_some());
        }
        self.registry.tell_engine(pools).await;
        noted
    }

    /// Lets settings that waited be acted on.
    pub async fn confirm(&self, pool: &str, which: &BTreeSet<HeldSetting>) -> Result<(), ApiError> {
        let open = self.registry.inner().open.clone();
        let confirm = |registry: &mut Registry| {
            if let Some(known) = registry.open_pool(pool, &open) {
                known.held.retain(|one| !which.contains(one));
            }
        };
        self.registry.change(confirm).await
    }
}

/// Writes the file so that a power cut leaves the old one or the new one. Returns where the old one
/// is kept, if it was in the way.
fn store(
    state_dir: &Path,
    registry: &Registry,
    in_the_way: bool,
) -> anyhow::Result<Option<PathBuf>> {
    let file = state_dir.join(REGISTRY_FILE);
    let mut kept = None;
    let mut fresh = tempfile::NamedTempFile::new_in(state_dir)
        .with_context(|| format!("{} can't be written", state_dir.display()))?;
    let written = fresh.write_all(registry.to_text()?.as_bytes());
    written
        .and_then(|()| fresh.as_file().sync_all())
        .with_context(|| format!("{} can't be written", fresh.path().display()))?;
    if in_the_way {
        kept = keep_aside(&file)?;
    }
    fresh.persist(&file).with_context(|| format!("{} can't be replaced", file.display()))?;
    std::fs::File::open(state_dir)?.sync_all()?;
    Ok(kept)
}

fn keep_aside(file: &Path) -> anyhow::Result<Option<PathBuf>> {
    for number in 1..=DAMAGED_MAX {
        let kept = file.with_file_name(format!("{REGISTRY_FILE}.damaged-{number}"));
        if kept.symlink_metadata().is_ok() {
            continue;
        }
        return match std::fs::rename(file, &kept) {
            Ok(()) => Ok(Some(kept)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error)
                .with_context(|| format!("{} can't be kept as {}", file.display(), kept.display())),
        };
    }
    anyhow::bail!("{}: too many damaged files beside it", file.display())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn registry(state_dir: &Path) -> Arc<PoolRegistry> {
        PoolRegistry::open(state_dir, EngineClient::start(state_dir.join("no-engine")))
    }

    async fn know(registry: &Arc<PoolRegistry>, id: u128) -> Result<(), ApiError> {
        let know = |known: &mut Registry| {
            known.pool_mut(Uuid::from_u128(id), "tank");
        };
        registry.change(know).await
    }

    #[tokio::test]
    async fn what_is_known_is_there_after_a_restart_and_written_only_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(REGISTRY_FILE);
        let first = registry(directory.path());
        assert!(!file.exists() && first.warnings().is_empty());
        know(&first, 1).await.unwrap();
        let before = std::fs::metadata(&file).unwrap();
        know(&first, 1).await.unwrap();
        let after = std::fs::metadata(&file).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!(before.ino(), after.ino(), "nothing changed, so nothing was written");
        assert_eq!(read(directory.path()).unwrap(), registry(directory.path()).inner().registry);
        assert_eq!(read(directory.path()).unwrap().pools.len(), 1);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_told_of_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(REGISTRY_FILE);
        for (number, text) in [(1, "{ damaged"), (2, r#"{"version":99,"pools":[]}"#)] {
            std::fs::write(&file, text).unwrap();
            let found = registry(directory.path());
            assert!(found.warnings()[0].contains("pools.json"), "{:?}", found.warnings());
            // Nothing to remember yet: nothing is touched.
            found.change(|_| {}).await.unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
            know(&found, number).await.unwrap();
            let kept = directory.path().join(format!("pools.json.damaged-{number}"));
            assert_eq!(std::fs::read_to_string(&kept).unwrap(), text);
            assert!(found.warnings()[0].contains("is kept as"), "{:?}", found.warnings());
            assert_eq!(read(directory.path()).unwrap().pools.len(), 1);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_trouble_until_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let found = registry(&state);
        assert!(know(&found, 1).await.is_err());
        assert!(found.trouble().unwrap().contains("can't be written"), "{:?}", found.trouble());
        std::fs::create_dir(&state).unwrap();
        found.change(|_| {}).await.unwrap();
        assert_eq!(found.trouble(), None);
        assert_eq!(read(&state).unwrap().pools.len(), 1);
    }
}
