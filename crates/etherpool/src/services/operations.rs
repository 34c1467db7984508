//! Operations on a volume's services that take several steps: mounting, serving, exporting.
//!
//! What is to last is written into the pool first and done by the reconciler; when the reconciler can't,
//! the former setting is put back, so that a mistake isn't tried for ever.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use block::VolumeName;
use control::api::{
    AcceptLoss, ApiError, CreateVolume, ErrorCode, ExportVolume, PoolReportExt as _, RemoveVolume,
    RenameVolume, SeenTarget, ServeFtp, UnexportVolume,
};
use control::channel::EngineRequest;
use control::settings::{
    DEVICE_KEY, EXPORTS_KEY, EXPORTS_MAX, ExportSetting, ExportState, FTP_KEY, FtpSetting,
    HELD_PREFIX, SettingError, VolumeSettings, property_text,
};
use pool::{PoolReport, VolumeReport};

use super::Services;
use super::kept::Shown;
use super::mounts::check_open;
use super::platform::Platform;
use super::troubles::not_so;
use crate::node::shelf_of;
use aoe_wire::ShelfSlot;

/// How long a mount or unmount may take before the command says that it goes on by itself.
const KEEPER_LIMIT: Duration = Duration::from_secs(60);

/// How long a volume that was just made, or whose pool is being opened, may take to be served.
const SERVING_LIMIT: Duration = Duration::from_secs(15);
/// How often it is looked at meanwhile.
const SERVING_LOOK: Duration = Duration::from_millis(50);

impl From<SettingErrorText> for ApiError {
    fn from(error: SettingErrorText) -> ApiError {
        let remedy = match &error.0 {
            SettingError::MountPoint { .. } => "name a plain absolute path, such as /srv/NAME",
            SettingError::MountOption(..) => "leave the option out",
            _ => "correct the request",
        };
        ApiError::new(ErrorCode::Invalid, error.0.to_string()).remedy(remedy)
    }
}

/// A setting that a request must not have.
pub struct SettingErrorText(SettingError);

pub(super) fn valid(result: Result<(), SettingError>) -> Result<(), ApiError> {
    result.map_err(|error| SettingErrorText(error).into())
}

/// The pool of this name in the reports. Anybody can give a pool any name: of several the one that is
/// open here is meant.
pub fn find_pool<'a>(pools: &'a [PoolReport], name: &str) -> Result<&'a PoolReport, ApiError> {
    let named = pools.iter().filter(|pool| pool.name == name);
    named.max_by_key(|pool| pool.is_open()).ok_or_else(|| {
        ApiError::new(ErrorCode::NotFound, format!("pool {name} was not found"))
            .remedy("see `etherpool pool list`")
    })
}

/// The pool and volume of this name in the reports.
pub fn find<'a>(
    pools: &'a [PoolReport],
    name: &VolumeName,
) -> Result<(&'a PoolReport, &'a VolumeReport), ApiError> {
    let pool = find_pool(pools, name.pool())?;
    let Some(volume) = pool.volumes.iter().find(|volume| volume.name == name.volume()) else {
        // Of one that isn't open it isn't known.
        check_open(pool)?;
        return Err(ApiError::new(ErrorCode::NotFound, format!("there is no volume {name}"))
            .remedy("see `etherpool volume list`"));
    };
    Ok((pool, volume))
}

/// A property before it was changed.
pub struct Was {
    value: Option<String>,
    /// Whether it came with the pool and isn't acted on.
    waits: bool,
}

impl Was {
    /// As it is in a report.
    pub fn of(volume: &VolumeReport, key: &str) -> Was {
        let held = volume.properties.get(&format!("{HELD_PREFIX}{key}"));
        let value = held.or_else(|| volume.properties.get(key)).cloned();
        Was { value, waits: held.is_some() }
    }

    /// Whether it is a setting that waits.
    pub fn waits(&self) -> bool {
        self.waits
    }
}

impl Services {
    pub(super) async fn settings(&self, name: &VolumeName) -> Result<VolumeSettings, ApiError> {
        let pools = self.fresh_pools().await?;
        let (_, volume) = find(&pools, name)?;
        Ok(VolumeSettings::from_properties(&volume.properties))
    }

    /// Sets a property here: whatever came with the pool in its place is replaced.
    pub(super) async fn set(
        &self,
        name: &VolumeName,
        key: &str,
        value: Option<String>,
    ) -> Result<(), ApiError> {
        let request =
            EngineRequest::SetProperty { volume: name.clone(), key: key.to_owned(), value };
        let () = self.engine.call(request).await?;
        self.registry.set_waits(name, key, false).await;
        self.look_now();
        Ok(())
    }

    /// Puts a property back as it was before a change that failed. What waited, waits again.
    pub(super) async fn put_back(
        &self,
        name: &VolumeName,
        key: &str,
        was: &Was,
    ) -> Result<(), ApiError> {
        if was.waits {
            self.registry.set_waits(name, key, true).await;
        }
        let (key, value) = (key.to_owned(), was.value.clone());
        let request = EngineRequest::SetProperty { volume: name.clone(), key, value };
        let () = self.engine.call(request).await?;
        self.look_now();
        Ok(())
    }

    /// Sets a property and waits until that is done; when it can't be, puts it back as it was. What
    /// isn't done in time goes on by itself.
    pub(super) async fn set_and_wait(
        &self,
        name: &VolumeName,
        (key, value): (&str, String),
        was: &Was,
        good: impl Fn(&Shown) -> bool,
    ) -> Result<(), ApiError> {
        let failures = self.failures(name);
        self.set(name, key, Some(value)).await?;
        let done = self.kept(name, failures, good).await;
        if let Err(error) = &done
            && error.code != ErrorCode::Unavailable
        {
            self.put_back(name, key, was).await?;
        }
        done
    }

    /// Waits until the reconciler has done it or failed at it.
    pub(super) async fn kept(
        &self,
        name: &VolumeName,
        failures: u64,
        good: impl Fn(&Shown) -> bool,
    ) -> Result<(), ApiError> {
        let volume = self.reconciler.volume(name);
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
        self.reconciler.volume(name).watch().borrow().failures
    }

    /// Makes a volume; done when it can be used.
    pub async fn create_volume(
        &self,
        pool: String,
        request: CreateVolume,
    ) -> Result<VolumeReport, ApiError> {
        let name = VolumeName::new(&pool, &request.name)?;
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
                let why = volume
                    .suspended()
                    .map(str::to_owned)
                    .unwrap_or_else(|| "its pool is not open".into());
                return Err(ApiError::new(
                    ErrorCode::Suspended,
                    format!("{name} is not served now: {why}"),
                )
                .remedy(format!("see `etherpool pool show {}`", name.pool())));
            }
            tokio::time::sleep(SERVING_LOOK).await;
        }
    }

    /// Makes a block device, now and from now on; returns its path.
    pub async fn attach(&self, name: &VolumeName) -> Result<PathBuf, ApiError> {
        let _turn = self.turns.on(name).await?;
        let pools = self.fresh_pools().await?;
        let was = Was::of(find(&pools, name)?.1, DEVICE_KEY);
        let wanted = (DEVICE_KEY, property_text(&true));
        self.set_and_wait(name, wanted, &was, |shown| shown.device.is_some()).await?;
        Ok(self.config.device_dir.join(name.pool()).join(name.volume()))
    }

    /// Ends a block device that was made by [`Services::attach`].
    pub async fn detach(&self, name: &VolumeName) -> Result<(), ApiError> {
        let _turn = self.turns.on(name).await?;
        let pools = self.fresh_pools().await?;
        let (_, volume) = find(&pools, name)?;
        if Was::of(volume, DEVICE_KEY).waits() {
            return self.set(name, DEVICE_KEY, None).await;
        }
        let settings = VolumeSettings::from_properties(&volume.properties);
        if !settings.device {
            return Err(not_so(name, format!("{name} is not attached")));
        }
        let failures = self.failures(name);
        self.set(name, DEVICE_KEY, None).await?;
        if settings.mount.is_some() {
            return Ok(());
        }
        self.kept(name, failures, |shown| shown.actual.attached.is_none()).await
    }

    /// Gives a volume another name, which is in the paths of its block device and of whoever mounts it: so while
    /// this machine uses it, it isn't renamed. Exports stay, with their addresses.
    pub async fn rename_volume(
        &self,
        name: &VolumeName,
        request: RenameVolume,
    ) -> Result<VolumeReport, ApiError> {
        let new = VolumeName::new(name.pool(), &request.name)?;
        let _names = self.turns.on_pool(name.pool()).await?;
        let _turn = self.turns.on_both(name, &new).await?;
        let settings = self.settings(name).await?;
        check_not_used_here(name, &settings)?;
        let pools = self.fresh_pools().await?;
        let (_, volume) = find(&pools, name)?;
        if volume.properties.keys().any(|key| key.starts_with(HELD_PREFIX)) {
            // What waits is noted by the volume's name.
            return Err(ApiError::new(ErrorCode::Busy, format!("settings of {name} wait"))
                .remedy(format!("agree to them first: etherpool pool import {}", name.pool())));
        }
        let kept = self.reconciler.volume(name);
        let state = kept.pause().await?;
        check_detached(name, state.device().is_some())?;
        let rename = EngineRequest::RenameVolume { volume: name.clone(), name: request.name };
        let renamed = self.engine.call(rename).await?;
        self.look_now();
        Ok(renamed)
    }

    /// Removes a volume that nobody uses.
    pub async fn remove_volume(
        &self,
        name: &VolumeName,
        request: RemoveVolume,
    ) -> Result<(), ApiError> {
        let _turn = self.turns.on(name).await?;
        let settings = self.settings(name).await?;
        check_not_used_here(name, &settings)?;
        if !settings.exports.is_empty() {
            return Err(ApiError::new(ErrorCode::Busy, format!("{name} is exported"))
                .remedy(format!("end the export first: etherpool volume unexport {name}")));
        }
        let volume = self.reconciler.volume(name);
        let state = volume.pause().await?;
        check_detached(name, state.device().is_some())?;
        if request.dry_run {
            let pools = self.fresh_pools().await?;
            return check_open(find(&pools, name)?.0);
        }
        self.engine.call(EngineRequest::RemoveVolume { volume: name.clone() }).await
    }

    /// Serves a volume without the acknowledged records that no disk has any more; tells which.
    pub async fn accept_loss(
        &self,
        name: &VolumeName,
        request: AcceptLoss,
    ) -> Result<String, ApiError> {
        let _turn = self.turns.on(name).await?;
        let dry_run = request.dry_run;
        self.engine.call(EngineRequest::AcceptLoss { volume: name.clone(), dry_run }).await
    }

    /// Serves a mount by FTP, now and from now on; returns where.
    pub async fn serve_ftp(
        &self,
        name: &VolumeName,
        request: ServeFtp,
    ) -> Result<SocketAddr, ApiError> {
        let _turn = self.turns.on(name).await?;
        let pools = self.fresh_pools().await?;
        let (_, volume) = find(&pools, name)?;
        let was = Was::of(volume, FTP_KEY);
        let settings = VolumeSettings::from_properties(&volume.properties);
        if settings.mount.is_none() {
            return Err(ApiError::new(ErrorCode::Invalid, format!("{name} is not mounted"))
                .remedy(format!("mount it first: etherpool volume mount {name} DIRECTORY")));
        }
        let setting = FtpSetting { listen: request.listen };
        let address = self.reconciler.platform().ftp_address(&setting);
        if let Some(other) = self.reconciler.ftp_user_of(address, name) {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!("{other} is served at {address} already"),
            )
            .remedy("choose another address with --listen"));
        }
        let wanted = (FTP_KEY, property_text(&setting));
        let good = |shown: &Shown| shown.actual.ftp.as_ref() == Some(&setting);
        self.set_and_wait(name, wanted, &was, good).await?;
        Ok(address)
    }

    /// Ends FTP, now and from now on.
    pub async fn stop_ftp(&self, name: &VolumeName) -> Result<(), ApiError> {
        let _turn = self.turns.on(name).await?;
        let pools = self.fresh_pools().await?;
        let (_, volume) = find(&pools, name)?;
        if Was::of(volume, FTP_KEY).waits() {
            return self.set(name, FTP_KEY, None).await;
        }
        if VolumeSettings::from_properties(&volume.properties).ftp.is_none() {
            return Err(not_so(name, format!("{name} is not served by FTP")));
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
        if request.everybody != request.allow.is_empty() {
            let what = "an export is for the clients that are named, or for everybody";
            return Err(ApiError::new(ErrorCode::Invalid, what).remedy(
                "name clients (allow), or say that it is for everybody (everybody: true)",
            ));
        }
        let _turn = self.turns.on(name).await?;
        let _addresses = self.turns.on_exports().await?;
        let pools = self.fresh_pools().await?;
        let (_, volume) = find(&pools, name)?;
        let settings = VolumeSettings::from_properties(&volume.properties);
        let (address, is_chosen) = match (request.address, settings.exports.as_slice()) {
            (Some(address), _) => (address, false),
            // The one that there is, with other settings.
            (None, [only]) => (only.address, false),
            (None, _) => {
                (self.free_address(shelf_of(self.owner), &pools, &BTreeSet::new()).await?, true)
            }
        };
        let mut setting = ExportSetting {
            address,
            interfaces: request.interfaces,
            allow: request.allow,
            read_only: request.read_only,
        };
        check_writers(name, settings.mount.is_some(), &setting)?;
        check_free(&pools, name, &setting)?;
        let is_new = settings.exports.iter().all(|export| export.address != address);
        self.check_export(&mut setting, is_chosen, is_new, &pools).await?;
        let address = setting.address;
        let mut exports = settings.exports;
        exports.retain(|export| export.address != address);
        if exports.len() >= EXPORTS_MAX {
            return Err(ApiError::new(
                ErrorCode::Invalid,
                SettingError::TooManyExports.to_string(),
            ));
        }
        if request.dry_run {
            return Ok(address);
        }
        exports.push(setting);
        let state = ExportState::key(address);
        if is_new && volume.properties.contains_key(&state) {
            // Left by an export that ended in the same moment as a client changed it.
            self.set(name, &state, None).await?;
        }
        self.set(name, EXPORTS_KEY, Some(property_text(&exports))).await?;
        Ok(address)
    }

    /// Whether the engine can make the export. An address that we chose is changed until nobody
    /// answers for it.
    async fn check_export(
        &self,
        setting: &mut ExportSetting,
        is_chosen: bool,
        is_new: bool,
        pools: &[PoolReport],
    ) -> Result<(), ApiError> {
        let mut refused = BTreeSet::new();
        loop {
            match self.check_address(setting, is_new).await {
                Err(error)
                    if error.code == ErrorCode::Exists
                        && is_chosen
                        && refused.len() < CHOICES_MAX =>
                {
                    refused.insert(setting.address);
                    setting.address =
                        self.free_address(shelf_of(self.owner), pools, &refused).await?;
                }
                checked => return checked,
            }
        }
    }

    async fn check_address(&self, setting: &ExportSetting, is_new: bool) -> Result<(), ApiError> {
        if is_new {
            self.check_local(setting).await?;
        }
        self.engine.call(EngineRequest::CheckExport { export: setting.clone() }).await
    }

    /// An address of a shelf that no volume has and nobody present answers for.
    pub(super) async fn free_address(
        &self,
        shelf: u16,
        pools: &[PoolReport],
        refused: &BTreeSet<ShelfSlot>,
    ) -> Result<ShelfSlot, ApiError> {
        let seen: Vec<SeenTarget> = self.engine.call(EngineRequest::Discover).await?;
        let volumes = pools.iter().flat_map(|pool| &pool.volumes);
        let own = volumes.flat_map(|v| VolumeSettings::from_properties(&v.properties).exports);
        let taken = own.map(|export| export.address).chain(seen.iter().map(|seen| seen.address));
        let taken = taken.chain(refused.iter().copied());
        choose_address(shelf, &taken.collect()).ok_or_else(|| {
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
        let _turn = self.turns.on(name).await?;
        let pools = self.fresh_pools().await?;
        let (_, volume) = find(&pools, name)?;
        if request.address.is_none() && Was::of(volume, EXPORTS_KEY).waits() {
            return self.set(name, EXPORTS_KEY, None).await;
        }
        let all = VolumeSettings::from_properties(&volume.properties).exports;
        let (exports, ended): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|export| request.address.is_some_and(|address| address != export.address));
        if ended.is_empty() {
            let what = match request.address {
                Some(address) => format!("{name} is not exported as aoe:{address}"),
                None => format!("{name} is not exported"),
            };
            return Err(not_so(name, what));
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

/// Addresses that are tried; each that somebody has costs the time of a question.
const CHOICES_MAX: usize = 8;

/// The lowest free address of a shelf. Exports are on the one that follows from the owner's identity: another supervisor
/// has most likely another. The address is kept with the export, whoever has the pool then.
fn choose_address(shelf: u16, taken: &BTreeSet<ShelfSlot>) -> Option<ShelfSlot> {
    (0..255).map(|slot| ShelfSlot { shelf, slot }).find(|address| !taken.contains(address))
}

pub(super) fn other_volumes<'a>(
    pools: &'a [PoolReport],
    except: &'a VolumeName,
) -> impl Iterator<Item = (VolumeName, VolumeSettings)> + 'a {
    pools
        .iter()
        .flat_map(PoolReport::named_volumes)
        .filter(move |(name, _)| name != except)
        .map(|(name, volume)| (name, VolumeSettings::from_properties(&volume.properties)))
}

/// Refuses what isn't done to a volume that this machine uses.
pub(super) fn check_not_used_here(
    name: &VolumeName,
    settings: &VolumeSettings,
) -> Result<(), ApiError> {
    if settings.mount.is_some() {
        return Err(ApiError::new(ErrorCode::Busy, format!("{name} is mounted"))
            .remedy(format!("unmount it first: etherpool volume unmount {name}")));
    }
    if settings.device {
        return Err(ApiError::new(ErrorCode::Busy, format!("{name} is attached"))
            .remedy(format!("detach it first: etherpool volume detach {name}")));
    }
    Ok(())
}

/// Refuses it as long as there is still a device.
pub(super) fn check_detached(name: &VolumeName, has_device: bool) -> Result<(), ApiError> {
    if !has_device {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Busy, format!("{name} is still being detached"))
        .remedy("see `etherpool status`, then try again"))
}

/// Refuses an export that clients could write to beside a mount.
pub(super) fn check_writers(
    name: &VolumeName,
    is_mounted: bool,
    setting: &ExportSetting,
) -> Result<(), ApiError> {
    if !is_mounted || setting.read_only {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::Busy,
        format!("{name} is mounted here; a second writer would destroy its file system"),
    )
    .remedy("unmount it first, or export it with --read-only"))
}

/// Refuses the address of another volume.
pub(super) fn check_free(
    pools: &[PoolReport],
    name: &VolumeName,
    setting: &ExportSetting,
) -> Result<(), ApiError> {
    let has = |other: &VolumeSettings| {
        other.exports.iter().any(|export| export.address == setting.address)
    };
    match other_volumes(pools, name).find(|(_, other)| has(other)) {
        None => Ok(()),
        Some((other, _)) => Err(ApiError::new(
            ErrorCode::Exists,
            format!("{} is the address of {other}", setting.address),
        )
        .remedy("choose another address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_chosen_on_one_shelf_and_never_twice() {
        let owner = uuid::Uuid::from_u128(7);
        let mut taken = BTreeSet::new();
        while let Some(address) = choose_address(shelf_of(owner), &taken) {
            assert!((0x400..0xfff).contains(&address.shelf) && address.slot < 255);
            assert!(taken.insert(address), "{address} twice");
        }
        assert_eq!(taken.len(), 255);
        let shelves: BTreeSet<_> = taken.iter().map(|address| address.shelf).collect();
        assert_eq!(shelves.len(), 1);
        assert_ne!(
            choose_address(shelf_of(uuid::Uuid::from_u128(8)), &BTreeSet::new()).map(|a| a.shelf),
            shelves.first().copied()
        );
    }
}
