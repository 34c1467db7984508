//! Keeps what each volume should be: attached, mounted, served, by the word of the pool; through
//! the death of the engine, the loss of a lease and its return, with nobody's help.
//!
//! One task per volume, because a step may take long (a journal replay, an unmount) and must not
//! hold another volume up. Each decides by [`control::keeper::next_step`]; a failed step is tried
//! again after a pause, and shown in status until it works.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::api::{PoolReportExt as _, ServiceState, VolumeServices};
use control::keeper::{Actual, EngineGeneration, Step, Wanted, after, next_step};
use control::names::VolumeName;
use control::settings::{FtpSetting, MountSetting, VolumeSettings};
use pool::{PoolReport, VolumeReport};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, watch};

use super::platform::{Holding, Platform, Trouble};

/// Pause after a step that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Failed steps after which the end of the process leaves a volume as it is.
const STOP_ATTEMPTS: u64 = 3;
/// The generation of a device that an earlier services process left and no engine serves.
const DEAD: EngineGeneration = EngineGeneration(0);

/// All volumes' keepers.
pub struct Keeper<P: Platform> {
    platform: Arc<P>,
    volumes: Mutex<BTreeMap<VolumeName, Arc<Kept<P>>>>,
    /// Pools, and volumes as `POOL/VOLUME`, whose services are down for an operation; their
    /// settings stay.
    held: Mutex<BTreeSet<String>>,
}

/// One volume's.
pub struct Kept<P: Platform> {
    name: VolumeName,
    wanted: watch::Sender<Wanted>,
    shown: watch::Sender<Shown>,
    state: AsyncMutex<State<P>>,
}

/// What is, with the things themselves. Held locked during each step.
pub struct State<P: Platform> {
    actual: Actual,
    device: Option<PathBuf>,
    ftp: Option<P::Ftp>,
}

/// What others see of a volume at any time, without waiting for a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// What is.
    pub actual: Actual,
    /// The block device.
    pub device: Option<PathBuf>,
    /// The last failure, until something works.
    pub trouble: Option<Trouble>,
    /// Who held files of a file system that was shut down, when it was.
    pub lingering: Vec<Holding>,
    /// How many steps failed, so that a new failure is told from an old one.
    pub failures: u64,
}

impl<P: Platform> Keeper<P> {
    /// Nothing is kept yet.
    pub fn new(platform: P) -> Arc<Keeper<P>> {
        Arc::new(Keeper {
            platform: Arc::new(platform),
            volumes: Mutex::default(),
            held: Mutex::default(),
        })
    }

    /// The doing, for operations that no keeper does.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// Takes over what an earlier services process left. What the present engine still serves is
    /// gone on with; the rest is torn down first.
    pub async fn adopt(
        self: &Arc<Self>,
        generation: Option<EngineGeneration>,
        served: &BTreeSet<VolumeName>,
        pools: &[PoolReport],
    ) {
        let leftovers = match self.platform.leftovers().await {
            Ok(leftovers) => leftovers,
            Err(trouble) => {
                tracing::error!(error = %trouble.error, "what was left can't be found");
                return;
            }
        };
        let mut wishes = self.wishes(generation, pools);
        for left in leftovers {
            let alive =
                generation.filter(|_| served.contains(&left.volume) && left.device.is_some());
            tracing::info!(volume = %left.volume, alive = alive.is_some(), "left by an earlier process");
            let wish = wishes.remove(&left.volume).unwrap_or_default();
            // The options of a mount aren't read back: the setting's own are taken for them.
            let mount = left.mounted_at.map(|path| match &wish.mount {
                Some(setting) if setting.path == path => setting.clone(),
                _ => MountSetting { path, fstype: Default::default(), options: Vec::new() },
            });
            let actual = Actual { attached: Some(alive.unwrap_or(DEAD)), mount, ftp: None };
            let kept =
                Kept::begin(&self.platform, left.volume.clone(), wish, (actual, left.device));
            self.volumes().insert(left.volume, kept);
        }
    }

    /// What the pools want, by the word of this engine.
    fn wishes(
        &self,
        generation: Option<EngineGeneration>,
        pools: &[PoolReport],
    ) -> BTreeMap<VolumeName, Wanted> {
        let mut wishes: BTreeMap<VolumeName, Wanted> = BTreeMap::new();
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for pool in pools {
            for volume in &pool.volumes {
                let name = VolumeName::new(&pool.name, &volume.name);
                let mut wish = self.wanted(generation, pool, volume);
                if held.contains(&pool.name) || held.contains(&name.to_string()) {
                    (wish.device, wish.mount, wish.ftp) = (false, None, None);
                }
                wishes.insert(name, wish);
            }
        }
        wishes
    }

    /// What a pool wants for one of its volumes. A device begins when the volume answers, and stays
    /// as long as the lease runs: a short wait for disks costs nobody their open files.
    fn wanted(
        &self,
        generation: Option<EngineGeneration>,
        pool: &PoolReport,
        volume: &VolumeReport,
    ) -> Wanted {
        let name = VolumeName::new(&pool.name, &volume.name);
        let attached = self.volumes().get(&name).and_then(|kept| kept.attached());
        let stays = attached.is_some() && attached == generation && pool.keeps(&name);
        let settings = VolumeSettings::from_properties(&volume.properties);
        Wanted {
            served_by: generation.filter(|_| stays || pool.serves(&name)),
            ftp: settings.ftp.filter(|_| settings.mount.is_some()),
            device: settings.device,
            mount: settings.mount,
        }
    }

    /// Takes the pools' word for what should be. `generation` is the engine that gave it.
    pub fn want(&self, generation: Option<EngineGeneration>, pools: &[PoolReport]) {
        let mut wishes = self.wishes(generation, pools);
        let mut volumes = self.volumes();
        for (name, kept) in volumes.iter() {
            let wish = wishes.remove(name).unwrap_or_default();
            kept.wanted.send_if_modified(|wanted| {
                let changed = *wanted != wish;
                *wanted = wish;
                changed
            });
        }
        for (name, wish) in wishes {
            if wish.device || wish.mount.is_some() {
                let kept = Kept::begin(&self.platform, name.clone(), wish, Default::default());
                volumes.insert(name, kept);
            }
        }
        // A volume that neither has nor wants anything needs no keeper.
        volumes.retain(|_, kept| {
            let shown = kept.shown.borrow();
            let is_held = || shown.lingering.iter().any(|one| self.platform.is_running(one.pid));
            let needed = kept.wanted.borrow().mount.is_some()
                || kept.wanted.borrow().device
                || shown.actual != Actual::default()
                || is_held();
            // Another holder than this map is an operation or a step under way.
            needed || Arc::strong_count(kept) > 1
        });
    }

    /// Takes everything down in order, for the end of the process: nothing is wanted any more.
    pub async fn stop(&self) {
        self.take_down(|_| true).await;
    }

    /// Takes everything of a pool or volume down and keeps it so, until [`Keeper::let_go`].
    pub async fn hold(&self, what: &str) -> Vec<Trouble> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned());
        self.take_down(|name| name.pool == what || name.to_string() == what).await
    }

    /// Keeps it again, by the next [`Keeper::want`].
    pub fn let_go(&self, what: &str) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
    }

    async fn take_down(&self, which: impl Fn(&VolumeName) -> bool) -> Vec<Trouble> {
        let all: Vec<Arc<Kept<P>>> = {
            let volumes = self.volumes();
            volumes
                .iter()
                .filter(|(name, _)| which(name))
                .map(|(_, kept)| Arc::clone(kept))
                .collect()
        };
        let mut troubles = Vec::new();
        for kept in &all {
            kept.wanted.send_modify(|wanted| {
                (wanted.device, wanted.mount, wanted.ftp) = (false, None, None);
            });
        }
        for kept in all {
            let mut shown = kept.shown.subscribe();
            let enough = shown.borrow().failures + STOP_ATTEMPTS;
            let down = shown
                .wait_for(|shown| shown.actual == Actual::default() || shown.failures >= enough);
            if let Ok(shown) = down.await
                && shown.actual != Actual::default()
                && let Some(trouble) = &shown.trouble
            {
                tracing::error!(volume = %kept.name, error = %trouble.error, "could not be taken down");
                troubles.push(trouble.clone());
            }
        }
        troubles
    }

    /// The volume's keeper; made when there is none.
    pub fn volume(&self, name: &VolumeName) -> Arc<Kept<P>> {
        let mut volumes = self.volumes();
        let begin =
            || Kept::begin(&self.platform, name.clone(), Wanted::default(), Default::default());
        Arc::clone(volumes.entry(name.clone()).or_insert_with(begin))
    }

    /// Whether everything that is wanted and can be had is there.
    pub fn is_settled(&self) -> bool {
        self.volumes().values().all(|kept| {
            let (wanted, shown) = (kept.wanted.borrow(), kept.shown.borrow());
            wanted.served_by.is_none() || next_step(&wanted, &shown.actual).is_none()
        })
    }

    /// For status.
    pub fn report(&self) -> Vec<VolumeServices> {
        self.volumes().values().filter_map(|kept| kept.report(&*self.platform)).collect()
    }

    /// Who listens on `address`, other than `except`.
    pub fn ftp_user_of(&self, address: SocketAddr, except: &VolumeName) -> Option<VolumeName> {
        let volumes = self.volumes();
        let user = volumes.iter().find(|(name, kept)| {
            *name != except
                && kept.wanted.borrow().ftp.as_ref().map(|ftp| self.platform.ftp_address(ftp))
                    == Some(address)
        });
        user.map(|(name, _)| name.clone())
    }

    fn volumes(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Arc<Kept<P>>>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Platform> Kept<P> {
    fn begin(
        platform: &Arc<P>,
        name: VolumeName,
        wish: Wanted,
        was: (Actual, Option<PathBuf>),
    ) -> Arc<Kept<P>> {
        let (actual, device) = was;
        let shown = Shown { actual: actual.clone(), device: device.clone(), ..Shown::default() };
        let kept = Arc::new(Kept {
            name,
            wanted: watch::Sender::new(wish),
            shown: watch::Sender::new(shown),
            state: AsyncMutex::new(State { actual, device, ftp: None }),
        });
        // The task holds its volume weakly between steps, so that forgetting the volume ends it.
        let changes = kept.wanted.subscribe();
        tokio::spawn(keep(Arc::clone(platform), Arc::downgrade(&kept), changes));
        kept
    }

    /// The engine under which there is a device.
    fn attached(&self) -> Option<EngineGeneration> {
        self.shown.borrow().actual.attached
    }

    /// What is, as it changes.
    pub fn watch(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    /// Keeps the keeper from doing anything, for an operation on the bare device. Waits for the
    /// step that is under way.
    pub async fn pause(&self) -> AsyncMutexGuard<'_, State<P>> {
        self.state.lock().await
    }

    /// One step, if one is to be done; true when there may be more.
    async fn step(&self, platform: &P) -> Result<bool, Trouble> {
        let mut state = self.state.lock().await;
        let wanted = self.wanted.borrow().clone();
        let Some(step) = next_step(&wanted, &state.actual) else { return Ok(false) };
        let done = self.perform(platform, step, &wanted, &mut state).await;
        match &done {
            Ok(()) => {
                tracing::info!(volume = %self.name, ?step, "done");
                state.actual = after(step, &wanted, &state.actual);
            }
            Err(trouble) => {
                tracing::warn!(volume = %self.name, ?step, error = %trouble.error, "failed; tried again");
            }
        }
        self.shown.send_modify(|shown| {
            shown.actual = state.actual.clone();
            shown.device = state.device.clone();
            if let Err(trouble) = &done {
                shown.trouble = Some(trouble.clone());
                shown.failures += 1;
            } else if next_step(&wanted, &state.actual).is_none() {
                shown.trouble = None;
            }
        });
        done.map(|()| true)
    }

    async fn perform(
        &self,
        platform: &P,
        step: Step,
        wanted: &Wanted,
        state: &mut State<P>,
    ) -> Result<(), Trouble> {
        match step {
            Step::StopFtp => {
                if let Some(server) = state.ftp.take() {
                    platform.stop_ftp(server).await;
                }
            }
            Step::ShutDownFs => {
                if let Some(mount) = &state.actual.mount {
                    let holders = platform.shut_down(&mount.path).await?;
                    if !holders.is_empty() {
                        tracing::warn!(volume = %self.name, ?holders, "files of the lost file system are still held");
                    }
                    self.shown.send_modify(|shown| {
                        shown.lingering.retain(|holding| platform.is_running(holding.pid));
                        shown.lingering.extend(holders);
                    });
                }
            }
            Step::Unmount => {
                if let Some(mount) = &state.actual.mount {
                    platform.unmount(&mount.path).await?;
                }
            }
            Step::Detach | Step::Abort => {
                platform.detach(&self.name, step == Step::Abort).await?;
                state.device = None;
            }
            Step::Attach => state.device = Some(platform.attach(&self.name).await?),
            Step::Mount => {
                if let (Some(device), Some(mount)) = (&state.device, &wanted.mount) {
                    platform.mount(device, mount).await?;
                }
            }
            Step::StartFtp => {
                if let (Some(device), Some(mount), Some(ftp)) =
                    (&state.device, &wanted.mount, &wanted.ftp)
                {
                    state.ftp = Some(platform.start_ftp(&self.name, device, mount, ftp).await?);
                }
            }
        }
        Ok(())
    }

    fn report(&self, platform: &P) -> Option<VolumeServices> {
        let (wanted, shown) = (self.wanted.borrow().clone(), self.shown.borrow().clone());
        let idle = !wanted.device && wanted.mount.is_none();
        if idle && shown.actual == Actual::default() && shown.lingering.is_empty() {
            return None;
        }
        let mount = wanted.mount.as_ref().or(shown.actual.mount.as_ref());
        let ftp: Option<&FtpSetting> = wanted.ftp.as_ref().or(shown.actual.ftp.as_ref());
        let state = |wanted: bool, there: bool| match (wanted, there) {
            (_, true) => ServiceState::On,
            (true, false) => ServiceState::Waiting,
            (false, false) => ServiceState::Off,
        };
        Some(VolumeServices {
            volume: self.name.clone(),
            device: shown.device,
            mount: state(wanted.mount.is_some(), shown.actual.mount.is_some()),
            mount_path: mount.map(|mount| mount.path.clone()),
            ftp: state(wanted.ftp.is_some(), shown.actual.ftp.is_some()),
            ftp_listen: ftp.map(|ftp| platform.ftp_address(ftp)),
            exports: Vec::new(),
            busy_processes: shown
                .lingering
                .into_iter()
                .filter(|holding| platform.is_running(holding.pid))
                .map(|holding| holding.text)
                .chain(shown.trouble.iter().flat_map(|trouble| trouble.holders.clone()))
                .collect(),
            trouble: shown.trouble.map(|trouble| trouble.error.to_string()),
        })
    }
}

impl<P: Platform> State<P> {
    /// Whether the volume has a block device now.
    pub fn device(&self) -> Option<&PathBuf> {
        self.device.as_ref()
    }

    /// What is.
    pub fn actual(&self) -> &Actual {
        &self.actual
    }
}

/// A volume's task.
async fn keep<P: Platform>(
    platform: Arc<P>,
    volume: std::sync::Weak<Kept<P>>,
    mut changes: watch::Receiver<Wanted>,
) {
    loop {
        changes.borrow_and_update();
        let failed = {
            let Some(kept) = volume.upgrade() else { return };
            loop {
                match kept.step(&platform).await {
                    Ok(true) => {}
                    Ok(false) => break false,
                    Err(_) => break true,
                }
            }
        };
        let changed = if failed {
            tokio::time::timeout(RETRY_PAUSE, changes.changed()).await.unwrap_or(Ok(()))
        } else {
            changes.changed().await
        };
        if changed.is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
