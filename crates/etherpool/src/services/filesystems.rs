//! File systems on volumes: made, checked and grown, with the tools' progress.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use block::FsType;
use block::VolumeName;
use block::size::{Human, VolumeSize};
use control::api::{ApiError, ErrorCode, ExtendVolume, MakeFs, Preview};
use control::channel::EngineRequest;
use control::settings::VolumeSettings;
use frontend::filesystem;
use pool::{Progress, VolumeForecast, VolumeReport};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::Services;
use super::kept::Paused;
use super::mounts::{check_open, check_writable};
use super::operations::find;
use super::platform::{Linux, Platform};
use super::troubles::{filesystem_trouble, not_mountable};

/// How long a block device may take to be made, resized or given back: all of it is a few questions to
/// an engine that was seen to serve the volume a moment ago.
const DEVICE_LIMIT: Duration = Duration::from_secs(60);

impl Services {
    /// Makes a file system.
    pub async fn make_fs(
        &self,
        name: &VolumeName,
        request: MakeFs,
        progress: UnboundedSender<Progress>,
    ) -> Result<(), ApiError> {
        let _turn = self.turns.on(name).await?;
        let pools = self.fresh_pools().await?;
        let (pool, volume) = find(&pools, name)?;
        let told = Told { progress: &progress, bytes: volume.size_bytes };
        let settings = VolumeSettings::from_properties(&volume.properties);
        check_not_mounted(name, &settings)?;
        check_writable(pool)?;
        if let Some(export) = settings.exports.first() {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!("{name} is exported as aoe:{}: its client may be using it", export.address),
            )
            .remedy(format!("end the export first: etherpool volume unexport {name}")));
        }
        let options = filesystem::MkfsOptions {
            fstype: request.fstype,
            label: Some(name.volume().to_owned()),
            force: request.force,
        };
        let (force, dry_run) = (request.force, request.dry_run);
        let made = self.on_bare_device(name, async |device| {
            if dry_run {
                let checked = filesystem::check_mkfs(device, force).await;
                return checked.map_err(|error| filesystem_trouble(error).error);
            }
            filesystem::mkfs(device, options, told.reader())
                .await
                .map_err(|error| filesystem_trouble(error).error)
        });
        made.await.map_err(|error| match error.code {
            ErrorCode::Refused => error.remedy(format!(
                "nothing was changed; look at what it carries: mount it, or use other programs on \
                 the block device that `etherpool volume attach {name}` makes"
            )),
            _ => error,
        })
    }

    /// Checks the file system of a volume that isn't mounted, without changing anything.
    pub async fn check_fs(&self, name: &VolumeName) -> Result<(), ApiError> {
        let _turn = self.turns.on(name).await?;
        check_not_mounted(name, &self.settings(name).await?)?;
        let checked = self.on_bare_device(name, async |device| {
            let fstype = known_kind(name, &device).await?;
            filesystem::check(device, fstype).await.map_err(|error| filesystem_trouble(error).error)
        });
        checked.await
    }

    /// Grows a volume, and its file system when asked.
    pub async fn extend_volume(
        &self,
        name: &VolumeName,
        request: ExtendVolume,
        progress: UnboundedSender<Progress>,
    ) -> Result<VolumeReport, ApiError> {
        let _turn = self.turns.on(name).await?;
        let preview = self.extend_preview(name, &request).await?;
        if preview.ends_something && !request.may_unmount {
            return Err(ApiError::new(
                ErrorCode::Refused,
                format!("{name} is left as it is: {}", preview.effects.join("; ")),
            )
            .remedy(
                "say that this is meant: --yes, in the API `may_unmount`; or give the supervisor \
                 CAP_SYS_RESOURCE, then nothing is unmounted",
            ));
        }
        let report = self.grow_volume(name, &request).await?;
        let settings = self.settings(name).await?;
        if !request.resizefs {
            let paused = self.reconciler.volume(name).pause().await?;
            if paused.device().is_some() {
                self.grow_device(name, paused).await?;
            }
            return Ok(report);
        }
        let told = Told { progress: &progress, bytes: report.size_bytes };
        let grown = match &settings.mount {
            Some(mount) if filesystem::can_grow_mounted(mount.fstype) => {
                self.grow_mounted(name, mount.fstype, told).await
            }
            Some(_) => self.grow_between_mounts(name, told).await,
            None => self.grow_unmounted(name, told).await,
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

    /// What growing would do, after the checks that can be made before it.
    pub async fn extend_preview(
        &self,
        name: &VolumeName,
        request: &ExtendVolume,
    ) -> Result<Preview, ApiError> {
        let pools = self.fresh_pools().await?;
        let (pool, volume) = find(&pools, name)?;
        check_open(pool)?;
        check_writable(pool)?;
        let settings = VolumeSettings::from_properties(&volume.properties);
        let mut effects = Vec::new();
        if request.resizefs && request.size == VolumeSize::Bytes(volume.size_bytes) {
            effects.push(format!("{name} keeps its size"));
        } else {
            let plan = EngineRequest::PlanGrowth { volume: name.clone(), size: request.size };
            let forecast: VolumeForecast = self.engine.call(plan).await?;
            effects.push(format!(
                "{name} grows from {} to {}; another volume of its layout could have {} then",
                Human(volume.size_bytes),
                Human(forecast.size_bytes),
                Human(forecast.left_bytes)
            ));
        }
        let unmounts = settings
            .mount
            .as_ref()
            .filter(|mount| request.resizefs && !filesystem::can_grow_mounted(mount.fstype));
        if request.resizefs {
            effects.push("its file system grows with it".to_owned());
        }
        if let Some(mount) = unmounts {
            self.check_unused(name).await?;
            effects.push(
                "for that it has to be unmounted for a moment: the supervisor lacks \
                 CAP_SYS_RESOURCE, without which a mounted file system can't grow"
                    .to_owned(),
            );
            effects.push(self.end_of_mount(name, mount, &settings));
            effects.push("then all that is as before".to_owned());
        }
        Ok(Preview { effects, ends_something: unmounts.is_some(), ..Preview::default() })
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
        if request.resizefs && request.size == VolumeSize::Bytes(volume.size_bytes) {
            return Ok(volume.clone());
        }
        let grow = EngineRequest::ExtendVolume { volume: name.clone(), size: request.size };
        self.engine.call(grow).await
    }

    async fn grow_mounted(
        &self,
        name: &VolumeName,
        fstype: FsType,
        told: Told<'_>,
    ) -> Result<(), ApiError> {
        let paused = self.reconciler.volume(name).pause().await?;
        let Some(device) = paused.device().cloned() else {
            return Err(ApiError::new(
                ErrorCode::Unavailable,
                format!("{name} has grown, but is not mounted now"),
            ));
        };
        let _paused = self.grow_device(name, paused).await?;
        self.grow_fs(device, fstype, told).await
    }

    /// Lets the device of a paused volume see its size.
    async fn grow_device(
        &self,
        name: &VolumeName,
        paused: Paused<Linux>,
    ) -> Result<Paused<Linux>, ApiError> {
        let (platform, volume) = (Arc::clone(self.reconciler.platform()), name.clone());
        let work = async move {
            let grown = platform.grow_device(&volume).await;
            grown.map(|_| paused).map_err(|trouble| trouble.error)
        };
        within(&format!("showing the size of {name} to its block device"), work).await
    }

    /// Without the right to grow a mounted file system: unmounts it for the moment that it takes.
    async fn grow_between_mounts(&self, name: &VolumeName, told: Told<'_>) -> Result<(), ApiError> {
        tracing::warn!(volume = %name, "CAP_SYS_RESOURCE is missing: the file system is unmounted to be grown");
        let held = name.to_string();
        let troubles = self.reconciler.hold(&held).await;
        let grown = match troubles.into_iter().next() {
            Some(trouble) => Err(trouble.error.remedy(
                "growing while mounted needs CAP_SYS_RESOURCE; end what uses the mount, or give the \
                 supervisor that capability, then try again",
            )),
            None => self.grow_unmounted(name, told).await,
        };
        let failures = self.failures(name);
        self.reconciler.let_go(&held);
        self.look_now();
        let back = self.kept(name, failures, |shown| shown.actual.mount.is_some()).await;
        grown.and(back)
    }

    async fn grow_unmounted(&self, name: &VolumeName, told: Told<'_>) -> Result<(), ApiError> {
        // A device that was there before has the former size.
        let paused = self.reconciler.volume(name).pause().await?;
        if paused.device().is_some() {
            drop(self.grow_device(name, paused).await?);
        } else {
            drop(paused);
        }
        self.on_bare_device(name, async |device| {
            let fstype = known_kind(name, &device).await?;
            self.grow_fs(device, fstype, told).await
        })
        .await
    }

    /// Grows the file system on a device to its size.
    async fn grow_fs(
        &self,
        device: PathBuf,
        fstype: FsType,
        told: Told<'_>,
    ) -> Result<(), ApiError> {
        let scratch = self.reconciler.platform().scratch_of(&device);
        filesystem::grow(device, fstype, &scratch, told.reader())
            .await
            .map_err(|error| filesystem_trouble(error).error)
    }

    /// The kind of file system that a volume carries which isn't mounted.
    pub(super) async fn kind_on(&self, name: &VolumeName) -> Result<FsType, ApiError> {
        self.on_bare_device(name, async |device| known_kind(name, &device).await).await
    }

    /// Does something on the block device of a volume that isn't mounted, which is made for the
    /// purpose if there is none.
    pub(super) async fn on_bare_device<T>(
        &self,
        name: &VolumeName,
        work: impl AsyncFnOnce(PathBuf) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        self.serving(name).await?;
        let paused = self.reconciler.volume(name).pause().await?;
        if paused.actual().mount.is_some() {
            return Err(ApiError::new(ErrorCode::Busy, format!("{name} is still being unmounted"))
                .remedy("see `etherpool status`, then try again"));
        }
        if let Some(device) = paused.device().cloned() {
            return work(device).await;
        }
        let (platform, volume) = (Arc::clone(self.reconciler.platform()), name.clone());
        let (wanted, waiter) = oneshot::channel::<Infallible>();
        let attach = async move {
            let made = platform.attach(&volume).await;
            // Who waited for it has given up.
            if made.is_ok() && wanted.is_closed() {
                let _ = platform.detach(&volume, false).await;
            }
            made.map(|made| (paused, made.device)).map_err(|trouble| trouble.error)
        };
        let (paused, device) = within(&format!("making a block device of {name}"), attach).await?;
        drop(waiter);
        let done = work(device).await;
        let (platform, volume) = (Arc::clone(self.reconciler.platform()), name.clone());
        let detach = async move {
            let detached = platform.detach(&volume, false).await;
            drop(paused);
            detached.map_err(|trouble| trouble.error)
        };
        let detached = within(&format!("giving the block device of {name} back"), detach).await;
        done.and_then(|value| detached.map(|()| value))
    }
}

fn check_not_mounted(name: &VolumeName, settings: &VolumeSettings) -> Result<(), ApiError> {
    let Some(mount) = &settings.mount else { return Ok(()) };
    Err(ApiError::new(ErrorCode::Busy, format!("{name} is mounted at {}", mount.path.display()))
        .remedy(format!("unmount it first: etherpool volume unmount {name}")))
}

/// Waits for what may hang in the kernel as long as its engine doesn't answer. It can't be cancelled,
/// so it goes on by itself.
async fn within<T: Send + 'static>(
    doing: &str,
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::time::timeout(DEVICE_LIMIT, tokio::spawn(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(lost)) => Err(ApiError::new(ErrorCode::Internal, format!("{doing}: {lost}"))),
        Err(_) => Err(ApiError::new(
            ErrorCode::Unavailable,
            format!("{doing} has not ended within {} s", DEVICE_LIMIT.as_secs()),
        )
        .remedy("it goes on by itself: see `etherpool status`, then try again")),
    }
}

async fn known_kind(name: &VolumeName, device: &Path) -> Result<FsType, ApiError> {
    let found = filesystem::kind_of(device.to_owned()).await;
    found.map_err(|error| not_mountable(error, &name.to_string()))
}

/// Whom a tool's progress is told to, and how large what it works on is.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub progress: &'a UnboundedSender<Progress>,
    pub bytes: u64,
}

impl Told<'_> {
    /// Takes what a tool says about its progress.
    pub fn reader(self) -> impl FnMut(&str) {
        let mut reader = ToolProgress { bytes: self.bytes, tail: String::new() };
        move |text: &str| {
            if let Some(news) = reader.read(text) {
                // Whoever asked may have gone; the tool goes on all the same.
                let _ = self.progress.send(news);
            }
        }
    }
}

/// Reads `12/345` out of what mkfs and resize tools say about their progress. They count block groups, or whatever they go
/// through, and people are shown a rate: it is the same share of the bytes.
struct ToolProgress {
    bytes: u64,
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
            let done: u64 = before[start..].parse().ok()?;
            let total: u64 = after[..end].parse().ok().filter(|total| *total > 0)?;
            let share = u128::from(self.bytes) * u128::from(done) / u128::from(total);
            let done_bytes = u64::try_from(share).ok().filter(|_| done <= total)?;
            Some(Progress { done_bytes, total_bytes: self.bytes })
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
        const BYTES: u64 = 16 << 30;
        let reader = || ToolProgress { bytes: BYTES, tail: String::new() };
        let (mut reader, mut other) = (reader(), reader());
        let mut seen = Vec::new();
        let said = "Writing inode tables:  0/16\u{8}\u{8} 7/16\u{8}\u{8}16/16 done\n";
        for piece in said.as_bytes().chunks(3) {
            let piece = String::from_utf8_lossy(piece);
            if let Some(news) = reader.read(&piece) {
                seen.push((news.done_bytes, news.total_bytes));
            }
        }
        seen.dedup();
        // Bytes, not the block groups that the tool counts.
        assert_eq!(seen.last(), Some(&(BYTES, BYTES)));
        assert!(seen.contains(&(7 << 30, BYTES)), "{seen:?}");
        for nothing in ["see /usr/share and 5/x ", "3/0 ", "17/16 "] {
            assert!(other.read(nothing).is_none(), "{nothing}");
        }
    }
}
