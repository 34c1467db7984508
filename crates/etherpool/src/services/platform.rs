//! What the reconciler has done: devices, mounts and FTP of one volume, by the `frontend` crate.
//!
//! Behind a trait, so that the reconciler's handling of failures and restarts is tested without root.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use block::VolumeName;
use control::api::{ApiError, ErrorCode};
use control::channel::EngineRequest;
use control::config::SupervisorConfig;
use control::reconcile::{Attachment, Attachments, Fault};
use control::settings::{FtpSetting, MountSetting};
use frontend::attach::{self, AttachError, Detach, Places};
use frontend::filesystem::{self, Condition, FilesystemError, NeededDirectory, PlaceRules};
use frontend::fuse::Connection;
use frontend::kernel::{self, MountEntry};

use super::channel_client::EngineClient;
use super::ftp::{FtpHandle, FtpServers};
use super::troubles::{attach_trouble, dead, filesystem_trouble, judge, not_mountable};
use crate::running::running;
use lab::LAB_DIR;

/// How long a mount point may take to be looked at; it may lie on a file system that doesn't answer.
const PLACE_LIMIT: Duration = Duration::from_secs(10);

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

/// What a look at a volume found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// All is alive.
    Well,
    /// This is dead and is to be made anew.
    Fault(Fault, Trouble),
    /// Not as it should be, and for people to mend.
    Remark(Trouble),
}

/// A block device that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The device.
    pub device: PathBuf,
    /// The engine's end of it.
    pub attachment: Attachment,
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
    fn attach(&self, volume: &VolumeName) -> impl Future<Output = Result<Made, Trouble>> + Send;

    /// Gives it back; `abort` when its engine is gone.
    fn detach(
        &self,
        volume: &VolumeName,
        abort: bool,
    ) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Mounts; `comes_back` where it was taken away a moment ago, see [`PlaceRules`].
    fn mount(
        &self,
        device: &Path,
        setting: &MountSetting,
        comes_back: bool,
    ) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Unmounts a device in order; what else may be mounted there isn't touched.
    fn unmount(
        &self,
        device: &Path,
        path: &Path,
    ) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Takes the file system of a device away that is gone; returns who still holds files of it.
    fn shut_down(
        &self,
        device: &Path,
        path: &Path,
    ) -> impl Future<Output = Result<Vec<Holding>, Trouble>> + Send;

    /// Looks whether a device and its mount are alive; `thorough` by writing to it too. May take as
    /// long as the volume doesn't answer.
    fn check(
        &self,
        volume: &VolumeName,
        device: &Path,
        mount: Option<&MountSetting>,
        thorough: bool,
    ) -> impl Future<Output = Finding> + Send;

    /// Whether a process still runs.
    fn is_running(&self, pid: u32) -> bool;

    /// Serves a mount, as long as that attachment of the volume is alive.
    fn start_ftp(
        &self,
        served: (&VolumeName, Attachment),
        device: &Path,
        mount: &MountSetting,
        setting: &FtpSetting,
    ) -> impl Future<Output = Result<Self::Ftp, Trouble>> + Send;

    /// Whether a server still lets clients in.
    fn ftp_runs(&self, server: &Self::Ftp) -> bool;

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
    roots: Vec<PathBuf>,
    /// Directories of this supervisor, also where it couldn't make itself known.
    own: Vec<PathBuf>,
    ftp: FtpServers,
}

impl Linux {
    /// By this configuration.
    pub fn new(config: &SupervisorConfig, engine: EngineClient) -> Linux {
        let places =
            Places { run: config.run_dir.join("volumes"), links: config.device_dir.clone() };
        let ftp = FtpServers::new(config, engine.clone());
        let (options, roots) = (config.mount.options.clone(), config.mount.roots.clone());
        Linux { engine, places, options, roots, own: config.needed_paths(), ftp }
    }

    /// Judges a mount point, on which `device` may be mounted already; returns where it leads.
    pub async fn check_place(
        &self,
        path: &Path,
        device: Option<PathBuf>,
    ) -> Result<PathBuf, Trouble> {
        let rules = self.place_rules().await?;
        let checked = filesystem::check_place(path.to_owned(), rules, device);
        match tokio::time::timeout(PLACE_LIMIT, checked).await {
            Ok(checked) => checked.map_err(filesystem_trouble),
            Err(_) => Err(ApiError::new(
                ErrorCode::Unavailable,
                format!("{} can't be looked at: its file system does not answer", path.display()),
            )
            .into()),
        }
    }

    /// Where mounts may be, with all that runs here now.
    async fn place_rules(&self) -> Result<PlaceRules, Trouble> {
        let (roots, own) = (self.roots.clone(), self.own.clone());
        blocking(move || {
            let running = running().map_err(|error| {
                ApiError::new(
                    ErrorCode::Io,
                    format!("which directories supervisors and nodes of this machine need can't be told: {error}"),
                )
            })?;
            let of_others = running.into_iter().flat_map(|one| {
                let whose = format!("the {} (process {})", one.role, one.pid);
                one.directories.into_iter().map(move |path| (path, whose.clone()))
            });
            let own = own.into_iter().map(|path| (path, "this supervisor".to_owned()));
            let needed = own.chain(of_others).map(|(path, whose)| {
                // The lab's place is in the state directory of the machine's own supervisor, which
                // makes no use of it.
                let except = Path::new(LAB_DIR);
                let holds_lab = except.starts_with(&path) && except != path;
                NeededDirectory { path, whose, except: holds_lab.then(|| except.to_owned()) }
            });
            Ok(PlaceRules { roots, needed: needed.collect(), comes_back: false })
        })
        .await
    }

    /// Where the file system of a device may be mounted for a moment: nobody else goes there.
    pub fn scratch_of(&self, device: &Path) -> PathBuf {
        let name = device.file_name().unwrap_or_default();
        self.places.run.with_file_name("growing").join(name)
    }

    /// The volume that has a device, for messages.
    async fn name_of(&self, device: &Path) -> String {
        let (places, device) = (self.places.clone(), device.to_owned());
        let listed = blocking(move || attach::list(&places).map_err(attach_trouble)).await;
        let found = listed.ok().and_then(|all| {
            all.into_iter().find(|one| one.device.as_deref() == Some(device.as_path()))
        });
        found.map_or_else(|| "POOL/VOLUME".to_owned(), |one| one.name.to_string())
    }

    /// Why a file system that doesn't say it has stopped: the engine knows whether its device gave errors.
    async fn cause_of(
        &self,
        volume: &VolumeName,
        condition: Condition,
    ) -> Result<Condition, Trouble> {
        let Condition::Stopped(how) = condition else { return Ok(condition) };
        let served = self.engine.call::<Attachments>(EngineRequest::AttachedVolumes).await?;
        Ok(match served.service_of(volume).errors {
            0 => Condition::Damaged(format!("{how}, and its device has given no error")),
            _ => Condition::Dead(format!("{how} after errors of its device")),
        })
    }

    /// Lets the volume's device and file system see its new size.
    pub async fn grow_device(&self, volume: &VolumeName) -> Result<u64, Trouble> {
        let (places, name) = (self.places.clone(), volume.clone());
        blocking(move || attach::resize(&places, &name).map_err(attach_trouble)).await
    }
}

impl Platform for Linux {
    type Ftp = FtpHandle;

    async fn attach(&self, volume: &VolumeName) -> Result<Made, Trouble> {
        let (places, name) = (self.places.clone(), volume.clone());
        let connection = {
            let (places, name) = (places.clone(), name.clone());
            blocking(move || {
                let mounted = attach::mount(&places, &name);
                if let Err(AttachError::AlreadyMounted(directory)) = &mounted {
                    // Nobody has a device of the volume: this is a half-made one, of which an
                    // operation that was given up, or a predecessor, didn't tell.
                    tracing::warn!(volume = %name, directory = %directory.display(), "cleared away: left half-made");
                    attach::detach(&places, &name, Detach::Abort).map_err(attach_trouble)?;
                    return attach::mount(&places, &name).map_err(attach_trouble);
                }
                mounted.map_err(attach_trouble)
            })
            .await?
        };
        let Connection { fuse, abort } = connection;
        let controlled = abort.is_some();
        let request = EngineRequest::AttachVolume { volume: volume.clone(), controlled };
        let descriptors = std::iter::once(fuse).chain(abort).collect();
        let served = self.engine.call_with_descriptors::<Attachment>(request, descriptors).await;
        let attached = match served {
            Ok(attachment) => {
                let (places, name) = (places.clone(), name.clone());
                blocking(move || attach::attach(&places, &name, false).map_err(attach_trouble))
                    .await
                    .map(|device| Made { device, attachment })
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
        let (places, name) = (self.places.clone(), volume.clone());
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

    async fn mount(
        &self,
        device: &Path,
        setting: &MountSetting,
        comes_back: bool,
    ) -> Result<(), Trouble> {
        let rules = PlaceRules { comes_back, ..self.place_rules().await? };
        let mounted = filesystem::mount(
            device.to_owned(),
            setting.path.clone(),
            setting.fstype,
            mount_options(&self.options, setting).join(","),
            rules,
        );
        match mounted.await {
            Ok(_) => Ok(()),
            Err(
                error @ (FilesystemError::NotMountable { .. } | FilesystemError::SameUuid { .. }),
            ) => {
                let name = self.name_of(device).await;
                Err(not_mountable(error, &name).into())
            }
            Err(error) => Err(filesystem_trouble(error)),
        }
    }

    async fn unmount(&self, device: &Path, path: &Path) -> Result<(), Trouble> {
        match filesystem::unmount(device.to_owned(), path.to_owned()).await {
            Ok(()) | Err(FilesystemError::NotMounted(_)) => Ok(()),
            Err(error) => Err(filesystem_trouble(error)),
        }
    }

    async fn shut_down(&self, device: &Path, path: &Path) -> Result<Vec<Holding>, Trouble> {
        let holders = filesystem::shutdown(device.to_owned(), path.to_owned())
            .await
            .map_err(filesystem_trouble)?;
        Ok(holders
            .iter()
            .map(|holder| Holding { pid: holder.pid, text: holder.to_string() })
            .collect())
    }

    async fn check(
        &self,
        volume: &VolumeName,
        device: &Path,
        mount: Option<&MountSetting>,
        thorough: bool,
    ) -> Finding {
        let (places, name, device) = (self.places.clone(), volume.clone(), device.to_owned());
        let mount = mount.map(|mount| {
            let read_only = mount_options(&self.options, mount).contains(&"ro");
            (mount.path.clone(), read_only)
        });
        let found = blocking(move || {
            if let Some(why) = attach::check(&places, &name, &device).map_err(attach_trouble)? {
                return Ok(Err(dead(&name, &why)));
            }
            let Some((path, read_only)) = mount else { return Ok(Err(Finding::Well)) };
            let condition = filesystem::probe(&device, &path, read_only, thorough);
            let condition = condition.map_err(filesystem_trouble)?;
            Ok(Ok((path, condition)))
        });
        let found = match found.await {
            Ok(Ok((path, condition))) => self
                .cause_of(volume, condition)
                .await
                .map(|condition| judge(volume, &path, condition)),
            Ok(Err(finding)) => Ok(finding),
            Err(trouble) => Err(trouble),
        };
        found.unwrap_or_else(Finding::Remark)
    }

    fn is_running(&self, pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    async fn start_ftp(
        &self,
        served: (&VolumeName, Attachment),
        device: &Path,
        mount: &MountSetting,
        setting: &FtpSetting,
    ) -> Result<FtpHandle, Trouble> {
        let address = self.ftp_address(setting);
        self.ftp.start(served, device, &mount.path, address).await.map_err(Trouble::from)
    }

    fn ftp_runs(&self, server: &FtpHandle) -> bool {
        self.ftp.is_running(server)
    }

    async fn stop_ftp(&self, server: FtpHandle) {
        self.ftp.stop(server).await;
    }

    fn ftp_address(&self, setting: &FtpSetting) -> SocketAddr {
        setting.listen.unwrap_or(self.ftp.default_address())
    }

    async fn leftovers(&self) -> Result<Vec<Leftover>, Trouble> {
        // What is unmounted is to be unmounted everywhere.
        self.ftp.fresh().await;
        let places = self.places.clone();
        blocking(move || {
            let attached = attach::list(&places).map_err(attach_trouble)?;
            let mounts = kernel::mounts().map_err(|error| {
                ApiError::new(ErrorCode::Io, format!("the mount table can't be read: {error}"))
            })?;
            Ok(attached
                .into_iter()
                .map(|left| {
                    let of_it =
                        |mount: &&MountEntry| left.device.as_deref() == Some(mount.source.as_ref());
                    Leftover {
                        volume: left.name,
                        mounted_at: mounts.iter().find(of_it).map(|mount| mount.target.clone()),
                        device: left.device,
                    }
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

/// The options of a mount: the machine's own, and those of the setting, which is the pool's and may be a
/// stranger's: it lifts nothing that the machine forbids.
fn mount_options<'a>(machine: &'a [String], setting: &'a MountSetting) -> Vec<&'a str> {
    let machine = machine.iter().flat_map(|options| options.split(',')).map(str::trim);
    let mut options: Vec<&str> = machine.filter(|option| !option.is_empty()).collect();
    let forbidden = |option: &str| options.iter().any(|own| own.strip_prefix("no") == Some(option));
    let more: Vec<&str> =
        setting.options.iter().map(String::as_str).filter(|option| !forbidden(option)).collect();
    options.extend(more);
    options
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
    use block::FsType;

    use super::*;

    #[test]
    fn a_setting_lifts_nothing_that_the_machine_forbids() {
        let options = |machine: &[&str], setting: &[&str]| {
            let machine: Vec<String> = machine.iter().map(|one| (*one).to_owned()).collect();
            let setting = MountSetting {
                path: "/srv/v".into(),
                fstype: FsType::Ext4,
                options: setting.iter().map(|one| (*one).to_owned()).collect(),
            };
            mount_options(&machine, &setting).join(",")
        };
        assert_eq!(options(&["nosuid", "nodev"], &["suid", "dev"]), "nosuid,nodev");
        assert_eq!(options(&["nosuid, noexec"], &["exec", "dev"]), "nosuid,noexec,dev");
        assert_eq!(options(&["noatime"], &["nosuid", "suid"]), "noatime,nosuid,suid");
        assert_eq!(options(&[], &["dev"]), "dev");
    }
}
