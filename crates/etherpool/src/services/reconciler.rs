//! Keeps what each volume should be: attached, mounted, served, by the word of the pool; through
//! the death of the engine, the loss of a lease and its return, with nobody's help.
//!
//! One task per volume ([`super::kept`]), because a step may take long (a journal replay, an unmount)
//! and must not hold another volume up. Each decides by [`control::reconcile::next_step`]; a failed step is
//! tried again after a pause, and shown in status until it works.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use block::VolumeName;
use control::api::{ApiError, ErrorCode, PoolReportExt as _, VolumeServices};
use control::reconcile::{Actual, Attachment, Attachments, EngineInstance, Wanted, next_step};
use control::settings::{MountSetting, VolumeSettings};
use pool::{PoolReport, VolumeReport};

use super::kept::{Kept, Places};
use super::platform::{Platform, Trouble};

/// Failed steps after which the end of the process leaves a volume as it is.
const STOP_ATTEMPTS: u64 = 3;
/// How long taking volumes down may take: what has to be written back is written in that time, or
/// somebody has to know what it waits for. Less than the supervisor waits for the end of services.
const TAKE_DOWN_LIMIT: Duration = Duration::from_secs(60);
/// How long status waits for looks at the volumes. Those that aren't done then have found nothing.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// All volumes' reconcilers.
pub struct Reconciler<P: Platform> {
    platform: Arc<P>,
    volumes: Mutex<BTreeMap<VolumeName, Arc<Kept<P>>>>,
    /// Pools, and volumes as `POOL/VOLUME`, whose services are down for an operation; their
    /// settings stay.
    held: Mutex<BTreeSet<String>>,
    places: Arc<Places>,
}

impl<P: Platform> Reconciler<P> {
    /// Nothing is kept yet.
    pub fn new(platform: P) -> Arc<Reconciler<P>> {
        Arc::new(Reconciler {
            platform: Arc::new(platform),
            volumes: Mutex::default(),
            held: Mutex::default(),
            places: Arc::default(),
        })
    }

    /// The doing, for operations that no reconciler does.
    pub fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    /// Takes over what an earlier services process left. What the present engine still serves is
    /// gone on with; the rest is torn down first.
    pub async fn adopt(self: &Arc<Self>, engine: Option<&Attachments>, pools: &[PoolReport]) {
        let leftovers = match self.platform.leftovers().await {
            Ok(leftovers) => leftovers,
            Err(trouble) => {
                tracing::error!(error = %trouble.error, "what was left can't be found");
                return;
            }
        };
        let mut wishes = self.wishes(engine, pools);
        for left in leftovers {
            let service = engine.map(|engine| engine.service_of(&left.volume));
            let alive = service.filter(|_| left.device.is_some()).and_then(|service| {
                let number = service.attachment?;
                Some(Attachment { engine: service.engine, number })
            });
            tracing::info!(volume = %left.volume, alive = alive.is_some(), "left by an earlier process");
            let wish = wishes.remove(&left.volume).unwrap_or_default();
            // The options of a mount aren't read back: the setting's own are taken for them.
            let mount = left.mounted_at.map(|path| match &wish.mount {
                Some(setting) if setting.path == path => setting.clone(),
                _ => MountSetting { path, fstype: Default::default(), options: Vec::new() },
            });
            let attached = Some(alive.unwrap_or(Attachment::DEAD));
            let actual = Actual { attached, mount, ..Actual::default() };
            let kept = Kept::begin(
                (&self.platform, &self.places),
                left.volume.clone(),
                wish,
                (actual, left.device),
            );
            self.volumes().insert(left.volume, kept);
        }
    }

    /// What the pools want, by the word of this engine.
    fn wishes(
        &self,
        engine: Option<&Attachments>,
        pools: &[PoolReport],
    ) -> BTreeMap<VolumeName, Wanted> {
        let mut wishes: BTreeMap<VolumeName, Wanted> = BTreeMap::new();
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for pool in pools {
            for (name, volume) in pool.named_volumes() {
                let mut wish = self.wanted(engine, pool, &name, volume);
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
        engine: Option<&Attachments>,
        pool: &PoolReport,
        name: &VolumeName,
        volume: &VolumeReport,
    ) -> Wanted {
        let attached = self.volumes().get(name).and_then(|kept| kept.attached());
        let service = engine.map(|engine| engine.service_of(name));
        let alive = attached.zip(service).is_some_and(|(device, service)| service.keeps(device));
        let stays = alive && pool.keeps(name);
        let settings = VolumeSettings::from_properties(&volume.properties);
        Wanted {
            served_by: service.filter(|_| stays || pool.serves(name)),
            ftp: settings.ftp.filter(|_| settings.mount.is_some()),
            device: settings.device,
            mount: settings.mount.map(|mount| mount.as_in(pool)),
        }
    }

    /// Takes the pools' word for what should be, and that of the engine that gave it for what it serves.
    pub fn want(&self, engine: Option<&Attachments>, pools: &[PoolReport]) {
        let mut wishes = self.wishes(engine, pools);
        let mut volumes = self.volumes();
        for (name, kept) in volumes.iter() {
            kept.want(wishes.remove(name).unwrap_or_default());
        }
        for (name, wish) in wishes {
            if wish.device || wish.mount.is_some() {
                let kept = Kept::begin(
                    (&self.platform, &self.places),
                    name.clone(),
                    wish,
                    Default::default(),
                );
                volumes.insert(name, kept);
            }
        }
        // A volume that neither has nor wants anything needs no reconciler.
        volumes.retain(|_, kept| {
            let shown = kept.watch();
            let (shown, wanted) = (shown.borrow(), kept.wanted());
            let is_held = || shown.lingering.iter().any(|one| self.platform.is_running(one.pid));
            let needed = wanted.mount.is_some()
                || wanted.device
                || shown.actual != Actual::default()
                || is_held();
            // Another holder than this map is an operation or a step under way.
            needed || Arc::strong_count(kept) > 1
        });
    }

    /// Takes the engine's word for what it serves, and has everything looked at, for a moment: what is
    /// known to be well then is well now.
    pub async fn look_now(&self, engine: Option<&Attachments>) {
        let all: Vec<Arc<Kept<P>>> = self.volumes().values().cloned().collect();
        if let Some(engine) = engine {
            all.iter().for_each(|kept| kept.hear(engine));
        }
        let looks = futures::future::join_all(all.iter().map(|kept| kept.look_now()));
        // What hasn't answered yet is shown as such when it lasts.
        let _ = tokio::time::timeout(LOOK_LIMIT, looks).await;
    }

    /// Takes everything down in order, for the end of the process: nothing is wanted any more.
    pub async fn stop(&self) {
        self.take_down(|_| true).await;
    }

    /// Takes everything of a pool or volume down and keeps it so, until [`Reconciler::let_go`].
    pub async fn hold(&self, what: &str) -> Vec<Trouble> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned());
        self.take_down(|name| name.pool() == what || name.to_string() == what).await
    }

    /// Keeps it again, by the next [`Reconciler::want`].
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
        let end = tokio::time::Instant::now() + TAKE_DOWN_LIMIT;
        for kept in &all {
            kept.want_nothing();
        }
        let mut troubles = Vec::new();
        for kept in all {
            let mut shown = kept.watch();
            let enough = shown.borrow().failures + STOP_ATTEMPTS;
            let over = shown
                .wait_for(|shown| shown.actual == Actual::default() || shown.failures >= enough);
            let trouble = match tokio::time::timeout_at(end, over).await {
                Ok(Ok(shown)) if shown.actual == Actual::default() => continue,
                Ok(Ok(shown)) => shown.trouble.clone(),
                Ok(Err(_)) => continue,
                Err(_) => None,
            };
            let trouble = trouble.unwrap_or_else(|| {
                let waits = kept.waits_for();
                let why = waits.unwrap_or_else(|| format!("{} is still in use", kept.name()));
                let remedy = "it goes on by itself: see `etherpool status`, then try again";
                ApiError::new(ErrorCode::Unavailable, why).remedy(remedy).into()
            });
            tracing::error!(volume = %kept.name(), error = %trouble.error, "could not be taken down");
            troubles.push(trouble);
        }
        troubles
    }

    /// The volume's reconciler; made when there is none.
    pub fn volume(&self, name: &VolumeName) -> Arc<Kept<P>> {
        let mut volumes = self.volumes();
        let begin = || {
            Kept::begin(
                (&self.platform, &self.places),
                name.clone(),
                Wanted::default(),
                Default::default(),
            )
        };
        Arc::clone(volumes.entry(name.clone()).or_insert_with(begin))
    }

    /// Whether everything that is wanted and can be had is there.
    pub fn is_up_to_date(&self) -> bool {
        self.volumes().values().all(|kept| {
            let shown = kept.watch();
            let (wanted, shown) = (kept.wanted(), shown.borrow());
            wanted.served_by.is_none() || next_step(&wanted, &shown.actual).is_none()
        })
    }

    /// For status, where `engine` is the one that runs.
    pub fn report(&self, engine: Option<EngineInstance>) -> Vec<VolumeServices> {
        self.volumes().values().filter_map(|kept| kept.report(engine, &*self.platform)).collect()
    }

    /// Who listens on `address`, other than `except`.
    pub fn ftp_user_of(&self, address: SocketAddr, except: &VolumeName) -> Option<VolumeName> {
        let volumes = self.volumes();
        let user = volumes.iter().find(|(name, kept)| {
            *name != except
                && kept.wanted().ftp.as_ref().map(|ftp| self.platform.ftp_address(ftp))
                    == Some(address)
        });
        user.map(|(name, _)| name.clone())
    }

    fn volumes(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Arc<Kept<P>>>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "reconciler_tests.rs"]
mod tests;
