//! Operations on a volume's services that take several steps: mounting, serving, exporting.
//!
//! What is to last is written into the pool first and done by the keeper; when the keeper can't,
//! the former setting is put back, so that a mistake isn't tried for ever.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use control::api::{
    ApiError, CreateVolume, ErrorCode, ExportVolume, MountVolume, PoolReportExt as _, SeenTarget,
    ServeFtp, UnexportVolume,
};
use control::channel::EngineRequest;
use control::names::{ShelfSlot, VolumeName};
use control::settings::{
    DEVICE_KEY, EXPORTS_KEY, EXPORTS_MAX, ExportSetting, ExportState, FTP_KEY, FtpSetting,
    MOUNT_KEY, MountSetting, SettingError, VolumeSettings, property_text,
};
use pool::{PoolReport, VolumeReport};

use super::Services;
use super::kept::Shown;
use super::platform::Platform;

/// How long a mount or unmount may take before the command says that it goes on by itself.
const KEEPER_LIMIT: Duration = Duration::from_secs(60);

/// How long a volume that was just made, or whose pool is being opened, may take to be served.
const SERVING_LIMIT: Duration = Duration::from_secs(15);
/// How often it is looked at meanwhile.
const SERVING_LOOK: Duration = Duration::from_millis(50);

impl From<SettingErrorText> for ApiError {
    fn from(error: SettingErrorText) -> ApiError {
        ApiError::new(ErrorCode::Invalid, error.0.to_string())
    }
}

/// A setting that a request must not have.
pub struct SettingErrorText(SettingError);

fn valid(result: Result<(), SettingError>) -> Result<(), ApiError> {
    result.map_err(|error| SettingErrorText(error).into())
}

/// The pool and volume of this name in the reports.
pub fn find<'a>(
    pools: &'a [PoolReport],
    name: &VolumeName,
) -> Result<(&'a PoolReport, &'a VolumeReport), ApiError> {
    let missing = |what: &str| {
        ApiError::new(ErrorCode::NotFound, what.to_owned()).remedy("see `etherpool volume list`")
    };
    let pool = pools
        .iter()
        .find(|pool| pool.name == name.pool)
        .ok_or_else(|| missing(&format!("pool {} is not in sight", name.pool)))?;
    let volume = pool
        .volumes
        .iter()
        .find(|volume| volume.name == name.volume)
        .ok_or_else(|| missing(&format!("there is no volume {name}")))?;
    Ok((pool, volume))
}

impl Services {
    pub(super) async fn settings(&self, name: &VolumeName) -> Result<VolumeSettings, ApiError> {
        let pools = self.fresh_pools().await?;
        let (_, volume) = find(&pools, name)?;
        Ok(VolumeSettings::from_properties(&volume.properties))
    }

    async fn set(
        &self,
        name: &VolumeName,
        key: &str,
        value: Option<String>,
    ) -> Result<(), ApiError> {
        let request =
            EngineRequest::SetProperty { volume: name.clone(), key: key.to_owned(), value };
        let () = self.engine.call(request).await?;
        self.look_now();
        Ok(())
    }

    /// Waits until the keeper has done it or failed at it.
    pub(super) async fn kept(
        &self,
        name: &VolumeName,
        failures: u64,
        good: impl Fn(&Shown) -> bool,
    ) -> Result<(), ApiError> {
        let volume = self.keeper.volume(name);
        let mut shown = volume.watch();
        let over = shown.wait_for(|shown| good(shown) || shown.failures > failures);
        match tokio::time::timeout(KEEPER_LIMIT, over).await {
            Ok(Ok(shown)) if good(&shown) => Ok(()),
            Ok(Ok(shown)) => Err(shown
                .trouble
                .as_ref()
                .map_or_else(|| ApiError::new(ErrorCode::Io, "it failed"), |t| t.error.clone())),
            Ok(Err(_)) => Err(ApiError::new(ErrorCode::Internal, "nobody keeps the volume")),
            Err(_) => {
                let limit = KEEPER_LIMIT.as_secs();
                let why = volume.waits_for().unwrap_or_else(|| format!("{name} is not served"));
                Err(ApiError::new(
                    ErrorCode::Unavailable,
                    format!("not done within {limit} s: {why}"),
                )
                .remedy("it goes on by itself: see `etherpool status`"))
            }
        }
    }

    pub(super) fn failures(&self, name: &VolumeName) -> u64 {
        self.keeper.volume(name).watch().borrow().failures
    }

    /// Releases a pool: all that is made of its volumes goes first, and comes back with an import.
    pub async fn release_pool(&self, pool: String) -> Result<(), ApiError> {
        let troubles = self.keeper.hold(&pool).await;
        let released = match troubles.into_iter().next() {
            Some(trouble) if trouble.error.code == ErrorCode::Busy => {
                Err(trouble.error.remedy("end what uses it, then try again; the pool stays open"))
            }
            Some(trouble) => Err(trouble.error),
            None => self.engine.call(EngineRequest::ReleasePool { pool: pool.clone() }).await,
        };
        if released.is_ok() {
            // The keeper must have seen that the pool is closed before it may mount again.
            if let Ok((pools, served)) = self.look_at_engine().await {
                self.keeper.want(Some(&served), &pools);
            }
        }
        self.keeper.let_go(&pool);
        self.look_now();
        released
    }

    /// Makes a volume; done when it can be used.
    pub async fn create_volume(
        &self,
        pool: String,
        request: CreateVolume,
    ) -> Result<VolumeReport, ApiError> {
        let name = VolumeName::new(&pool, &request.name);
        let made: VolumeReport =
            self.engine.call(EngineRequest::CreateVolume { pool, request }).await?;
        self.look_now();
        // Its log is being laid out; a pool that loses its quorum now serves it later.
        Ok(self.serving(&name).await.unwrap_or(made))
    }

    /// Waits, for a moment, until a volume is served.
    pub(super) async fn serving(&self, name: &VolumeName) -> Result<VolumeReport, ApiError> {
        let end = tokio::time::Instant::now() + SERVING_LIMIT;
        loop {
            let pools = self.fresh_pools().await?;
            let (pool, volume) = find(&pools, name)?;
            if pool.serves(name) {
                return Ok(volume.clone());
            }
            if tokio::time::Instant::now() >= end {
                let why = volume.suspended.clone().unwrap_or_else(|| "its pool is not open".into());
                return Err(ApiError::new(
                    ErrorCode::Suspended,
                    format!("{name} is not served now: {why}"),
                )
                .remedy(format!("see `etherpool pool show {}`", name.pool)));
            }
            tokio::time::sleep(SERVING_LOOK).await;
        }
    }

    /// Makes a block device, now and from now on; returns its path.
    pub async fn attach(&self, name: &VolumeName) -> Result<PathBuf, ApiError> {
        let failures = self.failures(name);
        self.set(name, DEVICE_KEY, Some(property_text(&true))).await?;
        let done = self.kept(name, failures, |shown| shown.device.is_some()).await;
        if let Err(error) = done {
            if error.code != ErrorCode::Unavailable {
                self.set(name, DEVICE_KEY, None).await?;
            }
            return Err(error);
        }
        Ok(self.config.device_dir.join(&name.pool).join(&name.volume))
    }

    /// Ends a block device that was made by [`Services::attach`].
    pub async fn detach(&self, name: &VolumeName) -> Result<(), ApiError> {
        let settings = self.settings(name).await?;
        if !settings.device {
            return Err(ApiError::new(ErrorCode::NotFound, format!("{name} is not attached")));
        }
        let failures = self.failures(name);
        self.set(name, DEVICE_KEY, None).await?;
        if settings.mount.is_some() {
            return Ok(());
        }
        self.kept(name, failures, |shown| shown.actual.attached.is_none()).await
    }

    /// Removes a volume that nobody uses.
    pub async fn remove_volume(&self, name: &VolumeName) -> Result<(), ApiError> {
        let settings = self.settings(name).await?;
        if settings.mount.is_some() {
            return Err(ApiError::new(ErrorCode::Busy, format!("{name} is mounted"))
                .remedy(format!("unmount it first: etherpool volume unmount {name}")));
        }
        if settings.device {
            return Err(ApiError::new(ErrorCode::Busy, format!("{name} is attached"))
                .remedy(format!("detach it first: etherpool volume detach {name}")));
        }
        if !settings.exports.is_empty() {
            return Err(ApiError::new(ErrorCode::Busy, format!("{name} is exported"))
                .remedy(format!("end the export first: etherpool volume unexport {name}")));
        }
        let volume = self.keeper.volume(name);
        let state = volume.pause().await?;
        if state.device().is_some() {
            return Err(ApiError::new(ErrorCode::Busy, format!("{name} is still being detached"))
                .remedy("see `etherpool status`, then try again"));
        }
        self.engine.call(EngineRequest::RemoveVolume { volume: name.clone() }).await
    }

    /// Mounts, now and from now on.
    pub async fn mount(&self, name: &VolumeName, request: MountVolume) -> Result<(), ApiError> {
        let setting =
            MountSetting { path: request.path, fstype: request.fstype, options: request.options };
        valid(setting.validate())?;
        let pools = self.fresh_pools().await?;
        let (_, volume) = find(&pools, name)?;
        let settings = VolumeSettings::from_properties(&volume.properties);
        if let Some(export) = settings.exports.iter().find(|export| !export.read_only) {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!(
                    "{name} is exported as aoe:{}; a second writer would destroy its file system",
                    export.address
                ),
            )
            .remedy(format!("end the export first: etherpool volume unexport {name}")));
        }
        let former = settings.mount;
        if former.as_ref() == Some(&setting) {
            return Ok(());
        }
        if let Some(other) = user_of_path(&pools, name, &setting) {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!("{} is the mount point of {other}", setting.path.display()),
            )
            .remedy("choose another directory"));
        }
        let failures = self.failures(name);
        self.set(name, MOUNT_KEY, Some(property_text(&setting))).await?;
        let done =
            self.kept(name, failures, |shown| shown.actual.mount.as_ref() == Some(&setting)).await;
        if let Err(error) = &done
            && error.code != ErrorCode::Unavailable
        {
            self.set(name, MOUNT_KEY, former.map(|former| property_text(&former))).await?;
        }
        done.map_err(|error| match (error.code, &error.remedy) {
            (ErrorCode::Io, None) => {
                error.remedy(format!("if it has no file system yet: etherpool volume mkfs {name}"))
            }
            _ => error,
        })
    }

    /// Unmounts, and forgets mount and FTP.
    pub async fn unmount(&self, name: &VolumeName) -> Result<(), ApiError> {
        let settings = self.settings(name).await?;
        let Some(former) = settings.mount else {
            return Err(ApiError::new(ErrorCode::NotFound, format!("{name} is not mounted")));
        };
        let failures = self.failures(name);
        self.set(name, MOUNT_KEY, None).await?;
        match self.kept(name, failures, |shown| shown.actual.attached.is_none()).await {
            Ok(()) => self.set(name, FTP_KEY, None).await,
            // It goes on by itself.
            Err(error) if error.code == ErrorCode::Unavailable => Err(error),
            Err(error) => {
                self.set(name, MOUNT_KEY, Some(property_text(&former))).await?;
                Err(match error.code {
                    ErrorCode::Busy => {
                        error.remedy("end what uses it, then try again; it stays mounted")
                    }
                    _ => error,
                })
            }
        }
    }

    /// Serves a mount by FTP, now and from now on; returns where.
    pub async fn serve_ftp(
        &self,
        name: &VolumeName,
        request: ServeFtp,
    ) -> Result<SocketAddr, ApiError> {
        let settings = self.settings(name).await?;
        if settings.mount.is_none() {
            return Err(ApiError::new(ErrorCode::Invalid, format!("{name} is not mounted"))
                .remedy(format!("mount it first: etherpool volume mount {name} DIRECTORY")));
        }
        let setting = FtpSetting { listen: request.listen };
        let address = self.keeper.platform().ftp_address(&setting);
        if let Some(other) = self.keeper.ftp_user_of(address, name) {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!("{other} is served at {address} already"),
            )
            .remedy("choose another address with --listen"));
        }
        let failures = self.failures(name);
        self.set(name, FTP_KEY, Some(property_text(&setting))).await?;
        let done =
            self.kept(name, failures, |shown| shown.actual.ftp.as_ref() == Some(&setting)).await;
        if let Err(error) = &done
            && error.code != ErrorCode::Unavailable
        {
            self.set(name, FTP_KEY, settings.ftp.map(|ftp| property_text(&ftp))).await?;
        }
        done.map(|()| address)
    }

    /// Ends FTP, now and from now on.
    pub async fn stop_ftp(&self, name: &VolumeName) -> Result<(), ApiError> {
        if self.settings(name).await?.ftp.is_none() {
            return Err(ApiError::new(ErrorCode::NotFound, format!("{name} is not served by FTP")));
        }
        let failures = self.failures(name);
        self.set(name, FTP_KEY, None).await?;
        self.kept(name, failures, |shown| shown.actual.ftp.is_none()).await
    }

    /// Exports by AoE, now and from now on. The engine does it when it sees the property.
    pub async fn export(
        &self,
        name: &VolumeName,
        request: ExportVolume,
    ) -> Result<ShelfSlot, ApiError> {
        let pools = self.fresh_pools().await?;
        let (_, volume) = find(&pools, name)?;
        let settings = VolumeSettings::from_properties(&volume.properties);
        let address = match (request.address, settings.exports.as_slice()) {
            (Some(address), _) => address,
            // The one that there is, with other settings.
            (None, [only]) => only.address,
            (None, _) => self.free_address(&pools).await?,
        };
        let setting = ExportSetting {
            address,
            interfaces: request.interfaces,
            allow: request.allow,
            read_only: request.read_only,
        };
        if settings.mount.is_some() && !setting.read_only {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!("{name} is mounted here; a second writer would destroy its file system"),
            )
            .remedy("unmount it first, or export it with --read-only"));
        }
        if let Some(other) = user_of_address(&pools, name, &setting) {
            return Err(ApiError::new(
                ErrorCode::Exists,
                format!("{} is the address of {other}", setting.address),
            )
            .remedy("choose another address"));
        }
        let is_new = settings.exports.iter().all(|export| export.address != address);
        let mut exports = settings.exports;
        exports.retain(|export| export.address != address);
        if exports.len() >= EXPORTS_MAX {
            return Err(ApiError::new(
                ErrorCode::Invalid,
                SettingError::TooManyExports.to_string(),
            ));
        }
        let check = EngineRequest::CheckExport { export: setting.clone() };
        let () = self.engine.call(check).await?;
        exports.push(setting);
        let state = ExportState::key(address);
        if is_new && volume.properties.contains_key(&state) {
            // Left by an export that ended in the same moment as a client changed it.
            self.set(name, &state, None).await?;
        }
        self.set(name, EXPORTS_KEY, Some(property_text(&exports))).await?;
        Ok(address)
    }

    /// An address that no volume has and nobody in sight answers for.
    async fn free_address(&self, pools: &[PoolReport]) -> Result<ShelfSlot, ApiError> {
        let seen: Vec<SeenTarget> = self.engine.call(EngineRequest::Discover).await?;
        let volumes = pools.iter().flat_map(|pool| &pool.volumes);
        let own = volumes.flat_map(|v| VolumeSettings::from_properties(&v.properties).exports);
        let taken = own.map(|export| export.address).chain(seen.iter().map(|seen| seen.address));
        choose_address(self.owner, &taken.collect()).ok_or_else(|| {
            ApiError::new(ErrorCode::Exists, "all addresses of the supervisor's shelf are taken")
                .remedy("name one: aoe:eSHELF.SLOT")
        })
    }

    /// Ends exports, now and from now on.
    pub async fn unexport(
        &self,
        name: &VolumeName,
        request: UnexportVolume,
    ) -> Result<(), ApiError> {
        let all = self.settings(name).await?.exports;
        let (exports, ended): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|export| request.address.is_some_and(|address| address != export.address));
        if ended.is_empty() {
            let what = match request.address {
                Some(address) => format!("{name} is not exported as aoe:{address}"),
                None => format!("{name} is not exported"),
            };
            return Err(ApiError::new(ErrorCode::NotFound, what));
        }
        let value = if exports.is_empty() { None } else { Some(property_text(&exports)) };
        self.set(name, EXPORTS_KEY, value).await?;
        // What clients left with it goes with it: under another export of the address it would lock
        // out somebody else.
        for export in ended {
            self.set(name, &ExportState::key(export.address), None).await?;
        }
        Ok(())
    }
}

/// Shelves that are chosen by ourselves start here, above what people give by hand.
const FIRST_CHOSEN_SHELF: u16 = 0x400;
/// Linux refuses shelf 4095 ("dip switches"), and 65535 means all.
const CHOSEN_SHELVES: u16 = 0xfff - FIRST_CHOSEN_SHELF;

/// The lowest free address of the shelf that follows from the owner's identity: another supervisor
/// has most likely another. The address is kept with the export, whoever has the pool then.
fn choose_address(owner: uuid::Uuid, taken: &BTreeSet<ShelfSlot>) -> Option<ShelfSlot> {
    let spread = block::crc32c(owner.as_bytes()) % u32::from(CHOSEN_SHELVES);
    let shelf = FIRST_CHOSEN_SHELF + u16::try_from(spread).unwrap_or_default();
    (0..255).map(|slot| ShelfSlot { shelf, slot }).find(|address| !taken.contains(address))
}

fn other_volumes<'a>(
    pools: &'a [PoolReport],
    except: &'a VolumeName,
) -> impl Iterator<Item = (VolumeName, VolumeSettings)> + 'a {
    pools
        .iter()
        .flat_map(|pool| {
            pool.volumes.iter().map(|volume| {
                let settings = VolumeSettings::from_properties(&volume.properties);
                (VolumeName::new(&pool.name, &volume.name), settings)
            })
        })
        .filter(move |(name, _)| name != except)
}

fn user_of_path(
    pools: &[PoolReport],
    name: &VolumeName,
    setting: &MountSetting,
) -> Option<VolumeName> {
    other_volumes(pools, name)
        .find(|(_, other)| other.mount.as_ref().is_some_and(|mount| mount.path == setting.path))
        .map(|(name, _)| name)
}

fn user_of_address(
    pools: &[PoolReport],
    name: &VolumeName,
    setting: &ExportSetting,
) -> Option<VolumeName> {
    other_volumes(pools, name)
        .find(|(_, other)| other.exports.iter().any(|export| export.address == setting.address))
        .map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_chosen_on_one_shelf_and_never_twice() {
        let owner = uuid::Uuid::from_u128(7);
        let mut taken = BTreeSet::new();
        while let Some(address) = choose_address(owner, &taken) {
            assert!((FIRST_CHOSEN_SHELF..0xfff).contains(&address.shelf) && address.slot < 255);
            assert!(taken.insert(address), "{address} twice");
        }
        assert_eq!(taken.len(), 255);
        let shelves: BTreeSet<_> = taken.iter().map(|address| address.shelf).collect();
        assert_eq!(shelves.len(), 1);
        assert_ne!(
            choose_address(uuid::Uuid::from_u128(8), &BTreeSet::new()).map(|a| a.shelf),
            shelves.first().copied()
        );
    }
}
