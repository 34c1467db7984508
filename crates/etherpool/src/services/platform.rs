//! What the keeper has done: devices, mounts and FTP of one volume, by the `frontend` crate.
//!
//! Behind a trait, so that the keeper's handling of failures and restarts is tested without root.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use control::api::{ApiError, ErrorCode};
use control::channel::EngineRequest;
use control::config::SupervisorConfig;
use control::names::VolumeName;
use control::settings::{FsType, FtpSetting, MountSetting};
use frontend::attach::{self, AttachError, Detach, Places};
use frontend::filesystem::{self, FilesystemError};

use super::engine_client::EngineClient;
use super::ftp::{FtpHandle, FtpServers};

/// What an earlier services process left of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The volume.
    pub volume: VolumeName,
    /// Its block device.
    pub device: Option<PathBuf>,
    /// Where it is mounted.
    pub mounted_at: Option<PathBuf>,
}

/// A process that holds files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The process.
    pub pid: u32,
    /// Its name and one of the files, for people.
    pub text: String,
}

/// Why a step wasn't done, and who is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What and why.
    pub error: ApiError,
    /// Processes that hold files.
    pub holders: Vec<String>,
}

impl From<ApiError> for Trouble {
    fn from(error: ApiError) -> Trouble {
        Trouble { error, holders: Vec::new() }
    }
}

/// The doing.
pub trait Platform: Send + Sync + 'static {
    /// A running FTP server; ends when stopped, at the latest when dropped.
    type Ftp: Send + Sync + 'static;

    /// Makes the volume's block device.
    fn attach(&self, volume: &VolumeName) -> impl Future<Output = Result<PathBuf, Trouble>> + Send;

    /// Gives it back; `abort` when its engine is gone.
    fn detach(
        &self,
        volume: &VolumeName,
        abort: bool,
    ) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Mounts.
    fn mount(
        &self,
        device: &Path,
        setting: &MountSetting,
    ) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Unmounts in order.
    fn unmount(&self, path: &Path) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Takes a file system away whose device is gone; returns who still holds files of it.
    fn shut_down(&self, path: &Path) -> impl Future<Output = Result<Vec<Holding>, Trouble>> + Send;

    /// Whether a process still runs.
    fn is_running(&self, pid: u32) -> bool;

    /// Serves a mount.
    fn start_ftp(
        &self,
        volume: &VolumeName,
        device: &Path,
        mount: &MountSetting,
        setting: &FtpSetting,
    ) -> impl Future<Output = Result<Self::Ftp, Trouble>> + Send;

    /// Ends a server: no command begins any more, running transfers are cut off.
    fn stop_ftp(&self, server: Self::Ftp) -> impl Future<Output = ()> + Send;

    /// Where a setting listens.
    fn ftp_address(&self, setting: &FtpSetting) -> SocketAddr;

    /// What is there already.
    fn leftovers(&self) -> impl Future<Output = Result<Vec<Leftover>, Trouble>> + Send;
}

/// The real thing.
pub struct Linux {
    engine: EngineClient,
    places: Places,
    options: Vec<String>,
    ftp: FtpServers,
}

impl Linux {
    /// By this configuration.
    pub fn new(config: &SupervisorConfig, engine: EngineClient) -> Linux {
        let places =
            Places { run: config.run_dir.join("volumes"), links: config.device_dir.clone() };
        let ftp = FtpServers::new(config.ftp.clone(), engine.clone());
        Linux { engine, places, options: config.mount.options.clone(), ftp }
    }

    /// The name in the front end's own type.
    fn name(volume: &VolumeName) -> Result<frontend::VolumeName, Trouble> {
        frontend::VolumeName::new(&volume.pool, &volume.volume)
            .map_err(|error| ApiError::new(ErrorCode::Invalid, error.to_string()).into())
    }

    /// Lets the volume's device and file system see its new size.
    pub async fn grow_device(&self, volume: &VolumeName) -> Result<u64, Trouble> {
        let (places, name) = (self.places.clone(), Linux::name(volume)?);
        blocking(move || attach::resize(&places, &name).map_err(attach_trouble)).await
    }
}

impl Platform for Linux {
    type Ftp = FtpHandle;

    async fn attach(&self, volume: &VolumeName) -> Result<PathBuf, Trouble> {
        let (places, name) = (self.places.clone(), Linux::name(volume)?);
        let fuse = {
            let (places, name) = (places.clone(), name.clone());
            blocking(move || attach::mount(&places, &name).map_err(attach_trouble)).await?
        };
        let request = EngineRequest::AttachVolume { volume: volume.clone() };
        let served = self.engine.call_with_descriptor::<()>(request, fuse).await;
        let attached = match served {
            Ok(()) => {
                let (places, name) = (places.clone(), name.clone());
                blocking(move || attach::attach(&places, &name, false).map_err(attach_trouble))
                    .await
            }
            Err(error) => Err(error.into()),
        };
        if attached.is_err() {
            // Half a device is none: the next attempt begins from nothing.
            let cleared = blocking(move || {
                attach::detach(&places, &name, Detach::Abort).map_err(attach_trouble)
            });
            if let Err(trouble) = cleared.await {
                tracing::warn!(%volume, error = %trouble.error, "a half-made device stays");
            }
        }
        attached
    }

    async fn detach(&self, volume: &VolumeName, abort: bool) -> Result<(), Trouble> {
        let (places, name) = (self.places.clone(), Linux::name(volume)?);
        if abort {
            let detach = move || attach::detach(&places, &name, Detach::Abort);
            return blocking(move || detach().map_err(attach_trouble)).await;
        }
        blocking(move || match attach::detach(&places, &name, Detach::Clean) {
            // Another mount namespace (a container, `ip netns exec`) has a copy of a mount that is
            // over here. What was written there through it has been synchronised at the unmount.
            Err(AttachError::Busy { path }) if !is_open(&path) => {
                tracing::warn!(volume = %name, device = %path.display(), "still mounted in another namespace; taken away from there");
                attach::detach(&places, &name, Detach::Abort).map_err(attach_trouble)
            }
            result => result.map_err(attach_trouble),
        })
        .await
    }

    async fn mount(&self, device: &Path, setting: &MountSetting) -> Result<(), Trouble> {
        let options: Vec<&str> =
            self.options.iter().chain(&setting.options).map(String::as_str).collect();
        filesystem::mount(
            device.to_owned(),
            setting.path.clone(),
            kind_of(setting.fstype),
            options.join(","),
        )
        .await
        .map(|_| ())
        .map_err(filesystem_trouble)
    }

    async fn unmount(&self, path: &Path) -> Result<(), Trouble> {
        let root = path.to_owned();
        blocking(move || {
            // The last unmount writes everything back; this may not be the last, see `detach`.
            let synced = std::fs::File::open(&root).and_then(|root| Ok(rustix::fs::syncfs(root)?));
            if let Err(error) = synced {
                tracing::warn!(path = %root.display(), %error, "can't be synchronised");
            }
            Ok(())
        })
        .await?;
        match filesystem::unmount(path.to_owned()).await {
            Ok(()) | Err(FilesystemError::NotMounted(_)) => Ok(()),
            Err(error) => Err(filesystem_trouble(error)),
        }
    }

    async fn shut_down(&self, path: &Path) -> Result<Vec<Holding>, Trouble> {
        let holders = filesystem::shutdown(path.to_owned()).await.map_err(filesystem_trouble)?;
        Ok(holders
            .iter()
            .map(|holder| Holding { pid: holder.pid, text: holder.to_string() })
            .collect())
    }

    fn is_running(&self, pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    async fn start_ftp(
        &self,
        volume: &VolumeName,
        device: &Path,
        mount: &MountSetting,
        setting: &FtpSetting,
    ) -> Result<FtpHandle, Trouble> {
        let address = self.ftp_address(setting);
        self.ftp.start(volume, device, &mount.path, address).await.map_err(Trouble::from)
    }

    async fn stop_ftp(&self, server: FtpHandle) {
        self.ftp.stop(server).await;
    }

    fn ftp_address(&self, setting: &FtpSetting) -> SocketAddr {
        setting.listen.unwrap_or(self.ftp.default_address())
    }

    async fn leftovers(&self) -> Result<Vec<Leftover>, Trouble> {
        let places = self.places.clone();
        blocking(move || {
            let attached = attach::list(&places).map_err(attach_trouble)?;
            let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(|error| {
                ApiError::new(ErrorCode::Io, format!("the mount table can't be read: {error}"))
            })?;
            Ok(attached
                .into_iter()
                .map(|left| Leftover {
                    volume: VolumeName::new(left.name.pool(), left.name.volume()),
                    mounted_at: left
                        .device
                        .as_deref()
                        .and_then(|device| mounted_at(&mounts, device)),
                    device: left.device,
                })
                .collect())
        })
        .await
    }
}

/// Whether some process has the device itself open.
fn is_open(device: &Path) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    let descriptors = processes.filter_map(|process| {
        let process = process.ok()?;
        process.file_name().to_str()?.parse::<u32>().ok()?;
        std::fs::read_dir(process.path().join("fd")).ok()
    });
    descriptors
        .flatten()
        .filter_map(|descriptor| std::fs::read_link(descriptor.ok()?.path()).ok())
        .any(|target| target == device)
}

/// Where `device` is mounted, by the kernel's table.
fn mounted_at(mounts: &str, device: &Path) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (source, target) = (fields.next()?, fields.next()?);
        (Path::new(source) == device).then(|| unescape(target).into())
    })
}

/// The kernel writes blanks and backslashes in paths as `\040`.
fn unescape(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('\\') {
        let code = rest.get(at + 1..at + 4).and_then(|code| u8::from_str_radix(code, 8).ok());
        text.push_str(&rest[..at]);
        match code {
            Some(code) => {
                text.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                text.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    text.push_str(rest);
    text
}

/// The front end's word for a file system.
pub fn kind_of(fstype: FsType) -> filesystem::Kind {
    match fstype {
        FsType::Ext4 => filesystem::Kind::Ext4,
    }
}

/// A failed attachment in the API's words.
fn attach_trouble(error: AttachError) -> Trouble {
    let code = match &error {
        AttachError::AlreadyMounted(_) | AttachError::Busy { .. } => ErrorCode::Busy,
        AttachError::NotAttached(_) => ErrorCode::NotFound,
        AttachError::NoFreeLoop => ErrorCode::Unavailable,
        AttachError::Name(_) => ErrorCode::Invalid,
        AttachError::System { .. } => ErrorCode::Io,
    };
    ApiError::new(code, error.to_string()).into()
}

/// A failed operation on a file system in the API's words.
pub fn filesystem_trouble(error: FilesystemError) -> Trouble {
    let (code, holders) = match &error {
        FilesystemError::NotBlank { .. } => (ErrorCode::Refused, Vec::new()),
        FilesystemError::OtherMount { .. } => (ErrorCode::Busy, Vec::new()),
        FilesystemError::NotMounted(_) => (ErrorCode::NotFound, Vec::new()),
        FilesystemError::Busy { holders, .. } => {
            (ErrorCode::Busy, holders.iter().map(ToString::to_string).collect())
        }
        FilesystemError::MissingCapability { .. }
        | FilesystemError::NoTool(_)
        | FilesystemError::Tool { .. }
        | FilesystemError::Timeout { .. }
        | FilesystemError::System { .. } => (ErrorCode::Io, Vec::new()),
    };
    Trouble { error: ApiError::new(code, error.to_string()), holders }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::new(
            ErrorCode::Internal,
            format!("a call to the system was lost: {error}"),
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read_with_its_escapes() {
        let table = "\
/dev/loop1 /srv/other ext4 rw 0 0
/dev/loop0 /srv/a\\040b\\134c ext4 rw,noatime 0 0
";
        assert_eq!(mounted_at(table, Path::new("/dev/loop0")), Some("/srv/a b\\c".into()));
        assert_eq!(mounted_at(table, Path::new("/dev/loop")), None);
        assert_eq!(unescape("a\\9zz\\"), "a\\9zz\\");
    }
}
