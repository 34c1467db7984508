//! Operations on a volume's services that take several steps: mkfs, growing, mounting, serving.
//!
//! What is to last is written into the pool first and done by the keeper; when the keeper can't,
//! the former setting is put back, so that a mistake isn't tried for ever.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use control::api::{
    ApiError, CreateVolume, ErrorCode, ExportVolume, ExtendVolume, MakeFs, MountVolume,
    PoolReportExt as _, ServeFtp, UnexportVolume,
};
use control::channel::EngineRequest;
use control::names::VolumeName;
use control::settings::{
    DEVICE_KEY, EXPORTS_KEY, EXPORTS_MAX, ExportSetting, FTP_KEY, FsType, FtpSetting, MOUNT_KEY,
    MountSetting, SettingError, VolumeSettings, property_text,
};
use control::size::SizeSpec;
use frontend::filesystem;
use pool::{PoolReport, Progress, VolumeReport};
use tokio::sync::mpsc::UnboundedSender;

use super::Services;
use super::keeper::Shown;
use super::platform::{Platform, filesystem_trouble, kind_of};

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

fn find<'a>(
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
    async fn settings(&self, name: &VolumeName) -> Result<VolumeSettings, ApiError> {
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
    async fn kept(
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
            Err(_) => Err(ApiError::new(
                ErrorCode::Unavailable,
                format!(
                    "{name}: not done within {} s; it goes on by itself",
                    KEEPER_LIMIT.as_secs()
                ),
            )
            .remedy("see `etherpool status`")),
        }
    }

    fn failures(&self, name: &VolumeName) -> u64 {
        self.keeper.volume(name).watch().borrow().failures
    }

    /// Releases a pool: all that is made of its volumes goes first, and comes back with an import.
    pub async fn release_pool(&self, pool: String) -> Result<(), ApiError> {
        let troubles = self.keeper.hold(&pool).await;
        let released = match troubles.into_iter().next() {
            Some(trouble) => {
                Err(trouble.error.remedy("end what uses it, then try again; the pool stays open"))
            }
            None => self.engine.call(EngineRequest::ReleasePool { pool: pool.clone() }).await,
        };
        if released.is_ok() {
            // The keeper must have seen that the pool is closed before it may mount again.
            if let Ok(pools) = self.fresh_pools().await {
                self.keeper.want(self.engine.generation(), &pools);
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
    async fn serving(&self, name: &VolumeName) -> Result<VolumeReport, ApiError> {
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

    /// Makes a file system.
    pub async fn make_fs(
        &self,
        name: &VolumeName,
        request: MakeFs,
        progress: UnboundedSender<Progress>,
    ) -> Result<(), ApiError> {
        let settings = self.settings(name).await?;
        if let Some(mount) = &settings.mount {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!("{name} is mounted at {}", mount.path.display()),
            )
            .remedy(format!("unmount it first: etherpool volume unmount {name}")));
        }
        if let Some(export) = settings.exports.first() {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!("{name} is exported as aoe:{}: its client may be using it", export.address),
            )
            .remedy(format!("end the export first: etherpool volume unexport {name}")));
        }
        let options = filesystem::MkfsOptions {
            kind: kind_of(request.fstype),
            label: Some(name.volume.chars().take(16).collect()),
            force: request.force,
        };
        let made = self.on_bare_device(name, async |device| {
            let mut reader = ToolProgress::default();
            filesystem::mkfs(device, options, |text| {
                if let Some(news) = reader.read(text) {
                    // Whoever asked may have gone; the file system is made all the same.
                    let _ = progress.send(news);
                }
            })
            .await
            .map_err(|error| filesystem_trouble(error).error)
        });
        made.await.map_err(|error| match error.code {
            ErrorCode::Refused => {
                error.remedy("look at what it carries; overwrite it with --force")
            }
            _ => error,
        })
    }

    /// Checks the file system of a volume that isn't mounted, without changing anything.
    pub async fn check_fs(&self, name: &VolumeName) -> Result<(), ApiError> {
        if let Some(mount) = self.settings(name).await?.mount {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!("{name} is mounted at {}", mount.path.display()),
            )
            .remedy(format!("unmount it first: etherpool volume unmount {name}")));
        }
        let checked = self.on_bare_device(name, async |device| {
            filesystem::check(device, kind_of(FsType::default()))
                .await
                .map_err(|error| filesystem_trouble(error).error)
        });
        checked.await
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

    /// Does something on the block device of a volume that isn't mounted, which is made for the
    /// purpose if there is none.
    async fn on_bare_device<T>(
        &self,
        name: &VolumeName,
        work: impl AsyncFnOnce(PathBuf) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        self.serving(name).await?;
        let volume = self.keeper.volume(name);
        let state = volume.pause().await;
        if state.actual().mount.is_some() {
            return Err(ApiError::new(ErrorCode::Busy, format!("{name} is still being unmounted"))
                .remedy("see `etherpool status`, then try again"));
        }
        if let Some(device) = state.device().cloned() {
            return work(device).await;
        }
        let platform = self.keeper.platform();
        let device = platform.attach(name).await.map_err(|trouble| trouble.error)?;
        let done = work(device).await;
        let detached = platform.detach(name, false).await.map_err(|trouble| trouble.error);
        drop(state);
        done.and_then(|value| detached.map(|()| value))
    }

    /// Grows a volume, and its file system when asked.
    pub async fn extend_volume(
        &self,
        name: &VolumeName,
        request: ExtendVolume,
        progress: UnboundedSender<Progress>,
    ) -> Result<VolumeReport, ApiError> {
        let report = self.grow_volume(name, &request).await?;
        let settings = self.settings(name).await?;
        if !request.resizefs {
            let volume = self.keeper.volume(name);
            let state = volume.pause().await;
            if state.device().is_some() {
                self.keeper.platform().grow_device(name).await.map_err(|trouble| trouble.error)?;
            }
            return Ok(report);
        }
        let grown = match &settings.mount {
            Some(_) if filesystem::can_grow_mounted() => self.grow_mounted(name, &progress).await,
            Some(_) => self.grow_between_mounts(name, &progress).await,
            None => self.grow_unmounted(name, &progress).await,
        };
        grown.map_err(|error| match error.remedy {
            Some(_) => error,
            None => error.remedy(format!(
                "the volume has its new size, the file system has not; try again: \
                 etherpool volume extend {name} --size {} --resizefs",
                report.size_bytes
            )),
        })?;
        Ok(report)
    }

    /// Grows the volume itself; one that has the size already is left as it is, so that growing a
    /// file system can be tried again.
    async fn grow_volume(
        &self,
        name: &VolumeName,
        request: &ExtendVolume,
    ) -> Result<VolumeReport, ApiError> {
        let pools = self.fresh_pools().await?;
        let (_, volume) = find(&pools, name)?;
        if request.resizefs && request.size == SizeSpec::Bytes(volume.size_bytes) {
            return Ok(volume.clone());
        }
        let grow = EngineRequest::ExtendVolume { volume: name.clone(), size: request.size };
        self.engine.call(grow).await
    }

    async fn grow_mounted(
        &self,
        name: &VolumeName,
        progress: &UnboundedSender<Progress>,
    ) -> Result<(), ApiError> {
        let volume = self.keeper.volume(name);
        let state = volume.pause().await;
        let Some(device) = state.device().cloned() else {
            return Err(ApiError::new(
                ErrorCode::Unavailable,
                format!("{name} has grown, but is not mounted now"),
            ));
        };
        self.keeper.platform().grow_device(name).await.map_err(|trouble| trouble.error)?;
        grow_fs(device, progress).await
    }

    /// Without the right to grow a mounted file system: unmounts it for the moment that it takes.
    async fn grow_between_mounts(
        &self,
        name: &VolumeName,
        progress: &UnboundedSender<Progress>,
    ) -> Result<(), ApiError> {
        tracing::warn!(volume = %name, "CAP_SYS_RESOURCE is missing: the file system is unmounted to be grown");
        let held = name.to_string();
        let troubles = self.keeper.hold(&held).await;
        let grown = match troubles.into_iter().next() {
            Some(trouble) => Err(trouble.error.remedy(
                "growing while mounted needs CAP_SYS_RESOURCE; end what uses the mount, or give the \
                 supervisor that capability, then try again",
            )),
            None => self.grow_unmounted(name, progress).await,
        };
        let failures = self.failures(name);
        self.keeper.let_go(&held);
        self.look_now();
        let back = self.kept(name, failures, |shown| shown.actual.mount.is_some()).await;
        grown.and(back)
    }

    async fn grow_unmounted(
        &self,
        name: &VolumeName,
        progress: &UnboundedSender<Progress>,
    ) -> Result<(), ApiError> {
        self.on_bare_device(name, async |device| {
            // A device that was there before has the former size.
            self.keeper.platform().grow_device(name).await.map_err(|trouble| trouble.error)?;
            grow_fs(device, progress).await
        })
        .await
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
        let state = volume.pause().await;
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
            Err(error) => {
                if error.code != ErrorCode::Unavailable {
                    self.set(name, MOUNT_KEY, Some(property_text(&former))).await?;
                }
                Err(error.remedy("end what uses it, then try again; it stays mounted"))
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
    pub async fn export(&self, name: &VolumeName, request: ExportVolume) -> Result<(), ApiError> {
        let setting = ExportSetting {
            address: request.address,
            interfaces: request.interfaces,
            allow: request.allow,
            read_only: request.read_only,
        };
        valid(setting.validate())?;
        let pools = self.fresh_pools().await?;
        let (_, volume) = find(&pools, name)?;
        let settings = VolumeSettings::from_properties(&volume.properties);
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
        let mut exports = settings.exports;
        exports.retain(|export| export.address != setting.address);
        if exports.len() >= EXPORTS_MAX {
            return Err(ApiError::new(
                ErrorCode::Invalid,
                SettingError::TooManyExports.to_string(),
            ));
        }
        let check = EngineRequest::CheckExport { export: setting.clone() };
        let () = self.engine.call(check).await?;
        exports.push(setting);
        self.set(name, EXPORTS_KEY, Some(property_text(&exports))).await
    }

    /// Ends exports, now and from now on.
    pub async fn unexport(
        &self,
        name: &VolumeName,
        request: UnexportVolume,
    ) -> Result<(), ApiError> {
        let mut exports = self.settings(name).await?.exports;
        let before = exports.len();
        exports.retain(|export| request.address.is_some_and(|address| address != export.address));
        if exports.len() == before {
            let what = match request.address {
                Some(address) => format!("{name} is not exported as aoe:{address}"),
                None => format!("{name} is not exported"),
            };
            return Err(ApiError::new(ErrorCode::NotFound, what));
        }
        let value = if exports.is_empty() { None } else { Some(property_text(&exports)) };
        self.set(name, EXPORTS_KEY, value).await
    }
}

/// Grows the file system on a device to its size; ext4 is the one there is.
async fn grow_fs(device: PathBuf, progress: &UnboundedSender<Progress>) -> Result<(), ApiError> {
    let mut reader = ToolProgress::default();
    filesystem::grow(device, kind_of(FsType::default()), |text| {
        if let Some(news) = reader.read(text) {
            let _ = progress.send(news);
        }
    })
    .await
    .map_err(|error| filesystem_trouble(error).error)
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

/// Reads `12/345` out of what mkfs and resize tools say about their progress.
#[derive(Default)]
struct ToolProgress {
    tail: String,
}

impl ToolProgress {
    fn read(&mut self, text: &str) -> Option<Progress> {
        self.tail.push_str(text);
        let found = self.tail.rmatch_indices('/').find_map(|(at, _)| {
            let before = self.tail[..at].trim_end();
            let start = before.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
            let after = self.tail[at + 1..].trim_start();
            let end = after.find(|c: char| !c.is_ascii_digit())?;
            let done_bytes = before[start..].parse().ok()?;
            let total_bytes: u64 = after[..end].parse().ok()?;
            (done_bytes <= total_bytes && total_bytes > 0)
                .then_some(Progress { done_bytes, total_bytes })
        });
        // Only the end can be half of a number.
        let mut keep = self.tail.len().saturating_sub(64);
        while !self.tail.is_char_boundary(keep) {
            keep += 1;
        }
        self.tail.drain(..keep);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_progress_is_read_from_any_pieces() {
        let mut reader = ToolProgress::default();
        let mut seen = Vec::new();
        let said = "Writing inode tables:  0/16\u{8}\u{8} 7/16\u{8}\u{8}16/16 done\n";
        for piece in said.as_bytes().chunks(3) {
            let piece = String::from_utf8_lossy(piece);
            if let Some(news) = reader.read(&piece) {
                seen.push((news.done_bytes, news.total_bytes));
            }
        }
        seen.dedup();
        assert_eq!(seen.last(), Some(&(16, 16)));
        assert!(seen.contains(&(7, 16)), "{seen:?}");
        assert!(ToolProgress::default().read("see /usr/share and 5/x ").is_none());
    }
}
