//! Mounting, unmounting and releasing: what ends something that people use is said first and done
//! when the request says that it is meant. A dry run goes through the checks of the operation.

use std::path::Path;

use block::VolumeName;
use control::api::{
    ApiError, ErrorCode, MountVolume, PoolReportExt as _, Preview, ReleasePool, UnmountVolume,
};
use control::channel::EngineRequest;
use control::settings::{
    ExportSetting, FTP_KEY, MOUNT_KEY, MountSetting, VolumeSettings, property_text,
};
use frontend::filesystem::{self, FilesystemError};
use pool::{PoolError, PoolReport, VolumeReport};

use super::Services;
use super::kept::Shown;
use super::operations::{Was, find, find_pool, other_volumes, valid};
use super::platform::Platform;
use super::troubles::{filesystem_trouble, not_so};

/// Options that neither give anybody access nor keep data from the disks.
const OPERATORS_OPTIONS: [&str; 9] = [
    "ro",
    "noatime",
    "relatime",
    "nodiratime",
    "nosuid",
    "nodev",
    "noexec",
    "discard",
    "nodiscard",
];
/// Who writes to a volume elsewhere may put there what makes him root here.
const OPERATORS_MARKS: [&str; 2] = ["nosuid", "nodev"];

/// What is asked for, as somebody may have it who only operates.
pub(super) fn as_operator(mut request: MountVolume) -> Result<MountVolume, ApiError> {
    let options: Vec<&str> = request.options.iter().flat_map(|option| option.split(',')).collect();
    if let Some(other) = options.iter().find(|option| !OPERATORS_OPTIONS.contains(option)) {
        let why = format!("who operates doesn't mount with the option {other}");
        return Err(ApiError::new(ErrorCode::Refused, why).remedy(format!(
            "leave it away (there are {}), or have an administrator mount it",
            OPERATORS_OPTIONS.join(", ")
        )));
    }
    if request.move_from.is_some() {
        // It may be mounted read-only, or without programs, and be served so.
        let why = "who operates doesn't change what is mounted";
        return Err(ApiError::new(ErrorCode::Refused, why)
            .remedy("unmount it first, or have an administrator move it"));
    }
    let missing = OPERATORS_MARKS.iter().filter(|mark| !options.contains(mark));
    let missing: Vec<String> = missing.map(|mark| (*mark).to_owned()).collect();
    request.options.extend(missing);
    Ok(request)
}

impl Services {
    /// Mounts, now and from now on.
    pub async fn mount(
        &self,
        name: &VolumeName,
        request: MountVolume,
    ) -> Result<Option<Preview>, ApiError> {
        let _turn = self.turns.on(name).await?;
        let MountVolume { path, fstype, options, move_from, dry_run } = request;
        let pools = self.fresh_pools().await?;
        let (pool, volume) = find(&pools, name)?;
        check_open(pool)?;
        let settings = VolumeSettings::from_properties(&volume.properties);
        let former = settings.mount.as_ref().map(|mount| mount.fstype);
        let known = fstype.or(former);
        let asked = MountSetting { path, fstype: known.unwrap_or_default(), options }.as_in(pool);
        let mut setting = self.check_mount(name, &asked, &pools).await?;
        check_not_exported(name, &settings.exports)?;
        if known.is_none() {
            setting.fstype = self.kind_on(name).await?;
        }
        let preview = self.mount_preview(name, &settings, &setting, (pool, volume));
        let good = |shown: &Shown| shown.actual.mount.as_ref() == Some(&setting);
        if settings.mount.as_ref() == Some(&setting) {
            if dry_run {
                return Ok(Some(preview));
            }
            // It may have waited since: who hears that it is mounted writes there.
            let failures = self.failures(name);
            if !good(&self.reconciler.volume(name).watch().borrow()) {
                self.serving(name).await?;
            }
            return self.kept(name, failures, good).await.map(|()| None);
        }
        if settings.mount.is_some() {
            self.check_unused(name).await?;
        } else if fstype.is_some() && dry_run && pool.serves(name) {
            self.kind_on(name).await?;
        }
        if settings.mount.is_none() {
            // What it waits for, rather than that it isn't mounted yet.
            self.serving(name).await?;
        }
        if dry_run {
            return Ok(Some(preview));
        }
        if move_from != preview.move_from {
            return Err(not_moved(name, &preview, move_from.as_deref()));
        }
        let was = Was::of(volume, MOUNT_KEY);
        let wanted = (MOUNT_KEY, property_text(&setting));
        self.set_and_wait(name, wanted, &was, good).await?;
        Ok(None)
    }

    /// Judges a mount that is asked for, or that a pool brought; returns it with the path that it
    /// leads to now.
    pub(super) async fn check_mount(
        &self,
        name: &VolumeName,
        asked: &MountSetting,
        pools: &[PoolReport],
    ) -> Result<MountSetting, ApiError> {
        valid(asked.validate())?;
        let device = self.reconciler.volume(name).watch().borrow().device.clone();
        let checked = self.reconciler.platform().check_place(&asked.path, device).await;
        let path = checked.map_err(|trouble| trouble.error)?;
        let setting = MountSetting { path, ..asked.clone() };
        // Judged again with what it leads to: links are no way around.
        valid(setting.validate())?;
        if let Some((other, place)) = user_of_path(pools, name, &setting) {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!(
                    "{} and {}, the mount point of {other}, are one in the other",
                    setting.path.display(),
                    place.display()
                ),
            )
            .remedy("choose another directory"));
        }
        Ok(setting)
    }

    fn mount_preview(
        &self,
        name: &VolumeName,
        settings: &VolumeSettings,
        setting: &MountSetting,
        (pool, volume): (&PoolReport, &VolumeReport),
    ) -> Preview {
        let is_same = settings.mount.as_ref() == Some(setting);
        let former = settings.mount.as_ref().filter(|_| !is_same);
        let mut effects = Vec::new();
        effects.extend(former.map(|former| self.end_of_mount(name, former, settings)));
        let already = if is_same && pool.serves(name) { " already" } else { "" };
        effects.push(format!("{name} is mounted at {}{already}", setting.path.display()));
        if former.is_some() && settings.ftp.is_some() {
            effects.push("FTP begins again on the new mount".to_owned());
        }
        if !pool.serves(name) {
            let why = volume.suspended().unwrap_or("its pool waits");
            effects.push(format!("not now but as soon as the volume is served: {why}"));
        }
        let move_from = former.map(|former| former.path.clone());
        Preview { effects, ends_something: move_from.is_some(), move_from, ..Preview::default() }
    }

    pub(super) fn end_of_mount(
        &self,
        name: &VolumeName,
        mount: &MountSetting,
        settings: &VolumeSettings,
    ) -> String {
        let ftp = settings.ftp.as_ref().map_or_else(String::new, |ftp| {
            let address = self.reconciler.platform().ftp_address(ftp);
            format!("; FTP at {address} ends, and running transfers with it")
        });
        format!("{name} is unmounted from {}{ftp}", mount.path.display())
    }

    /// Unmounts, and forgets mount and FTP.
    pub async fn unmount(
        &self,
        name: &VolumeName,
        request: UnmountVolume,
    ) -> Result<Option<Preview>, ApiError> {
        let _turn = self.turns.on(name).await?;
        let pools = self.fresh_pools().await?;
        let (pool, volume) = find(&pools, name)?;
        let was = Was::of(volume, MOUNT_KEY);
        if was.waits() {
            check_open(pool)?;
            let effect = format!("the mount that came with {name} is forgotten");
            if request.dry_run {
                return Ok(Some(Preview { effects: vec![effect], ..Preview::default() }));
            }
            return self.set(name, MOUNT_KEY, None).await.map(|()| None);
        }
        let settings = VolumeSettings::from_properties(&volume.properties);
        let Some(former) = &settings.mount else {
            return Err(not_so(name, format!("{name} is not mounted")));
        };
        check_open(pool)?;
        self.check_unused(name).await?;
        if request.dry_run {
            let effects = vec![self.end_of_mount(name, former, &settings)];
            let ends_something = settings.ftp.is_some();
            return Ok(Some(Preview { effects, ends_something, ..Preview::default() }));
        }
        let failures = self.failures(name);
        self.set(name, MOUNT_KEY, None).await?;
        match self.kept(name, failures, |shown| shown.actual.mount.is_none()).await {
            Ok(()) => {}
            // It goes on by itself.
            Err(error) if error.code == ErrorCode::Unavailable => return Err(error),
            Err(error) => {
                self.put_back(name, MOUNT_KEY, &was).await?;
                return Err(match error.code {
                    ErrorCode::Busy => {
                        error.remedy("end what uses it, then try again; it stays mounted")
                    }
                    _ => error,
                });
            }
        }
        self.set(name, FTP_KEY, None).await?;
        if !settings.device {
            self.kept(name, failures, |shown| shown.actual.attached.is_none()).await?;
        }
        Ok(None)
    }

    /// Releases a pool: all that is made of its volumes goes first.
    pub async fn release_pool(
        &self,
        pool: String,
        request: ReleasePool,
    ) -> Result<Option<Preview>, ApiError> {
        let _names = self.turns.on_pool(&pool).await?;
        let pools = self.fresh_pools().await?;
        if let Some(lacking) = self.lacking_pool(&pools, &pool)? {
            return self.give_up(lacking, request).await;
        }
        let report = find_pool(&pools, &pool)?;
        check_open(report)?;
        let preview = self.release_preview(report);
        let mut turns = Vec::new();
        for (name, _) in report.named_volumes() {
            // A file system that is being made would be left half made.
            turns.push(self.turns.on(&name).await?);
            self.check_unused(&name).await?;
        }
        if request.dry_run {
            return Ok(Some(preview));
        }
        check_confirmed(&pool, request, &preview)?;
        let troubles = self.reconciler.hold(&pool).await;
        let released = match troubles.into_iter().next() {
            Some(trouble) if trouble.error.code == ErrorCode::Busy => {
                Err(trouble.error.remedy("end what uses it, then try again; the pool stays open"))
            }
            Some(trouble) => Err(trouble.error),
            None => self.engine.call(EngineRequest::ReleasePool { pool: pool.clone() }).await,
        };
        if released.is_ok() {
            // The reconciler must have seen that the pool is closed before it may mount again.
            if let Ok((pools, served)) = self.look_at_engine().await {
                self.reconciler.want(Some(&served), &pools);
            }
        }
        self.reconciler.let_go(&pool);
        self.look_now();
        released.map(|()| None)
    }

    fn release_preview(&self, report: &PoolReport) -> Preview {
        let mut effects = Vec::new();
        for (name, volume) in report.named_volumes() {
            let settings = VolumeSettings::from_properties(&volume.properties);
            effects.extend(
                settings.mount.iter().map(|mount| self.end_of_mount(&name, mount, &settings)),
            );
            let ended = settings.exports.iter().map(|export| export.address);
            effects.extend(
                ended.map(|address| format!("{name} is not exported as aoe:{address} any more")),
            );
            if settings.device {
                effects.push(format!("{name} has no block device here any more"));
            }
        }
        let name = &report.name;
        effects.push(match report.read_only {
            true => format!("pool {name} is not read here any more; it is as it was"),
            false => format!(
                "pool {name} is closed and nobody's, until `etherpool pool import {name}` here or elsewhere"
            ),
        });
        Preview { effects, ends_something: true, ..Preview::default() }
    }

    /// Refuses what would end in "busy", before anything is stopped for it.
    pub(super) async fn check_unused(&self, name: &VolumeName) -> Result<(), ApiError> {
        let mounted = self.reconciler.volume(name).watch().borrow().actual.mount.clone();
        let Some(MountSetting { path: mount_point, .. }) = mounted else { return Ok(()) };
        let target = mount_point.clone();
        let found = tokio::task::spawn_blocking(move || filesystem::holders(&target)).await;
        // A look of ours ends by itself; what FTP has open isn't in this mount, and ends with its server.
        let own = std::process::id();
        let holders: Vec<_> =
            found.unwrap_or_default().into_iter().filter(|holder| holder.pid != own).collect();
        if holders.is_empty() {
            return Ok(());
        }
        let busy = FilesystemError::Busy { target: mount_point, holders };
        Err(filesystem_trouble(busy)
            .error
            .remedy("end what uses it, then try again; it stays mounted"))
    }
}

/// Refuses to release a pool of which nobody was told what that means.
pub(super) fn check_confirmed(
    pool: &str,
    request: ReleasePool,
    preview: &Preview,
) -> Result<(), ApiError> {
    if !request.confirmed {
        let effects = preview.effects.join("; ");
        let text = format!("pool {pool} is not released unasked: {effects}");
        return Err(ApiError::new(ErrorCode::Refused, text)
            .remedy("say that this is meant: --yes, in the API `confirmed`"));
    }
    if request.gives_up != preview.gives_up {
        let now = if preview.gives_up { "can't be opened any more" } else { "is open" };
        return Err(ApiError::new(
            ErrorCode::Busy,
            format!("pool {pool} {now}, which isn't what was shown"),
        )
        .remedy("look at it again: `etherpool pool release` says what it would end"));
    }
    Ok(())
}

fn not_moved(name: &VolumeName, preview: &Preview, asked: Option<&Path>) -> ApiError {
    match (&preview.move_from, asked) {
        (Some(path), None) => ApiError::new(
            ErrorCode::Busy,
            format!("{name} is mounted at {}: {}", path.display(), preview.effects.join("; ")),
        )
        .remedy("say that this is meant: --yes, in the API `move_from`"),
        (Some(path), Some(asked)) => ApiError::new(
            ErrorCode::Busy,
            format!("{name} is mounted at {}, not at {}", path.display(), asked.display()),
        )
        .remedy("look at it again: `etherpool status`"),
        (None, _) => ApiError::new(ErrorCode::Busy, format!("{name} is not mounted any more"))
            .remedy("look at it again: `etherpool status`"),
    }
}

/// Refuses a mount beside an export that clients may write to.
pub(super) fn check_not_exported(
    name: &VolumeName,
    exports: &[ExportSetting],
) -> Result<(), ApiError> {
    let Some(export) = exports.iter().find(|export| !export.read_only) else { return Ok(()) };
    Err(ApiError::new(
        ErrorCode::Busy,
        format!(
            "{name} is exported as aoe:{}; a second writer would destroy its file system",
            export.address
        ),
    )
    .remedy(format!("end the export first: etherpool volume unexport {name}")))
}

/// Whether the pool is open here, by whose settings something could be done.
pub(super) fn check_open(pool: &PoolReport) -> Result<(), ApiError> {
    if pool.is_open() {
        return Ok(());
    }
    let name = &pool.name;
    Err(ApiError::new(ErrorCode::Suspended, format!("pool {name} is not open here"))
        .remedy(format!("see `etherpool pool show {name}`")))
}

/// Refuses what would have to be kept in a pool that was imported read-only.
pub(super) fn check_writable(pool: &PoolReport) -> Result<(), ApiError> {
    match pool.read_only {
        true => Err(PoolError::ReadOnly { pool: pool.name.clone() }.into()),
        false => Ok(()),
    }
}

/// The volume whose mount would be above or below this one, and where that is.
fn user_of_path(
    pools: &[PoolReport],
    name: &VolumeName,
    setting: &MountSetting,
) -> Option<(VolumeName, std::path::PathBuf)> {
    other_volumes(pools, name).find_map(|(other, settings)| {
        let path = settings.mount?.path;
        let related = path.starts_with(&setting.path) || setting.path.starts_with(&path);
        related.then_some((other, path))
    })
}
