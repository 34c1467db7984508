//! Open files, one per disk, shared by all exports of parts of it: a disk is opened exclusively, and
//! must not be kept from its own other parts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use anyhow::{Context, bail};
use aoe_wire::ShelfSlot;
use block::{BlockDevice, Window};
use control::node::{ExportPlan, IoMode, MediumPlan, share};
use os::dir::{Spot, is_mount};
use os::{FileDevice, FileOptions, FileReference, ReactorHandle};
use runtime::Semaphore;
use rustix::fs::{FileType, Stat};

use super::looker::{Found, Looker};

/// Device number and inode: what tells one device or file from another under the same name.
pub type SystemIdentity = (u64, u64, u64);

/// All open disks of a process.
pub struct OpenDisks {
    handle: ReactorHandle,
    looker: Rc<Looker>,
    slots: RefCell<BTreeMap<SystemIdentity, Rc<Slot>>>,
}

/// Where a disk is opened, by one export at a time: the others wait and share.
struct Slot {
    turn: Rc<Semaphore>,
    disk: RefCell<Weak<OpenDisk>>,
}

/// An open disk.
struct OpenDisk {
    file: Rc<FileDevice>,
    reference: Arc<FileReference>,
    path: PathBuf,
    serial: String,
    drive: Option<PathBuf>,
    identity: SystemIdentity,
    medium: MediumPlan,
    users: RefCell<BTreeMap<ShelfSlot, ExportPlan>>,
}

/// An export's use of an open disk; the last one closes it.
pub struct DiskUse {
    disk: Rc<OpenDisk>,
    /// Where the name of this export leads.
    place: Arc<Place>,
    address: ShelfSlot,
}

impl OpenDisks {
    /// None yet.
    pub fn new(handle: &ReactorHandle) -> OpenDisks {
        let looker = Looker::new(handle);
        OpenDisks { handle: handle.clone(), looker, slots: RefCell::default() }
    }

    /// Opens the disk of a plan, or shares it with those who have it open.
    ///
    /// # Errors
    /// When it isn't there, in use, too small, or when another export has the same sectors.
    pub async fn open(&self, plan: &ExportPlan) -> anyhow::Result<DiskUse> {
        let Found { path, identity, place, serial, drive } =
            self.looker.find(&plan.medium.path).await?;
        let slot = self.slot(identity);
        let _turn = slot.turn.acquire(1).await;
        let present = slot.disk.borrow().upgrade();
        let disk = match present {
            Some(disk) => disk,
            None => {
                let options = FileOptions {
                    direct: plan.medium.io == IoMode::Direct,
                    read_only: !plan.medium.writable,
                    exclusive: plan.medium.exclusive,
                };
                let file = Rc::new(FileDevice::open_apart(&self.handle, &path, options).await?);
                let disk = Rc::new(OpenDisk {
                    reference: Arc::new(file.reference()?),
                    file,
                    path,
                    serial: serial.unwrap_or_default(),
                    drive,
                    identity,
                    medium: plan.medium.clone(),
                    users: RefCell::default(),
                });
                slot.disk.replace(Rc::downgrade(&disk));
                disk
            }
        };
        disk.take(plan, place)
    }

    /// Looks whether the disk still is what the plan means, and how large it is; true if its size
    /// changed.
    ///
    /// # Errors
    /// When it is gone, or another has taken its place.
    pub async fn look(&self, used: &DiskUse) -> anyhow::Result<bool> {
        let disk = &used.disk;
        let looked =
            self.looker.look(Arc::clone(&used.place), Arc::clone(&disk.reference), disk.identity);
        let bytes = looked.await?;
        Ok(disk.file.note_size(bytes))
    }

    /// Ends a use; the last one closes the disk, on another thread: that may take until what is in
    /// the page cache is written back.
    pub async fn close(&self, used: DiskUse) {
        let last = (Rc::strong_count(&used.disk) == 1).then(|| Arc::clone(&used.disk.reference));
        drop(used);
        if last.is_some()
            && let Err(error) = self.handle.blocking(move || drop(last)).await
        {
            tracing::warn!(%error, "a disk was closed in a hurry");
        }
    }

    fn slot(&self, identity: SystemIdentity) -> Rc<Slot> {
        let mut slots = self.slots.borrow_mut();
        // Somebody who waits for its turn holds its slot.
        slots.retain(|_, slot| slot.disk.borrow().strong_count() > 0 || Rc::strong_count(slot) > 1);
        let made = || Slot { turn: Semaphore::new(1), disk: RefCell::default() };
        Rc::clone(slots.entry(identity).or_insert_with(|| Rc::new(made())))
    }
}

impl OpenDisk {
    fn take(self: Rc<Self>, plan: &ExportPlan, place: Place) -> anyhow::Result<DiskUse> {
        for other in self.users.borrow().values() {
            share(other, plan)?;
        }
        if plan.medium.writable && !self.medium.writable {
            bail!("{} is open without the right to write, for other exports", self.path.display());
        }
        let sectors = self.file.geometry().sectors;
        let window = plan.medium.window;
        let needed = window.start.0.saturating_add(window.sectors.unwrap_or(1));
        if !window.is_whole() && needed > sectors {
            bail!(
                "{} has {sectors} sectors, the export wants those up to {needed}",
                self.path.display()
            );
        }
        self.users.borrow_mut().insert(plan.address, plan.clone());
        Ok(DiskUse { disk: self, place: Arc::new(place), address: plan.address })
    }
}

impl DiskUse {
    /// The export's part of the disk.
    pub fn device(&self, plan: &ExportPlan) -> Rc<dyn BlockDevice> {
        let file = Rc::clone(&self.disk.file) as Rc<dyn BlockDevice>;
        let window = plan.medium.window;
        if window.is_whole() {
            return file;
        }
        Rc::new(Window::new(file, window.start, window.sectors))
    }

    /// The whole disk.
    #[cfg(test)]
    fn file(&self) -> &Rc<FileDevice> {
        &self.disk.file
    }

    /// Its path, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.disk.path
    }

    /// Its drive's serial number; empty where that isn't known.
    pub fn serial(&self) -> &str {
        &self.disk.serial
    }

    /// Where its drive was when it was opened; none of a file.
    pub fn drive(&self) -> Option<PathBuf> {
        self.disk.drive.clone()
    }
}

impl Drop for DiskUse {
    fn drop(&mut self) {
        self.disk.users.borrow_mut().remove(&self.address);
    }
}

/// Where a disk is found again under its name, without resolving a path: what is mounted above it by
/// then may be a volume that needs this very disk.
pub struct Place {
    /// The device or file; `None` if it is itself a mount point, which nobody swaps unnoticed.
    own: Option<Spot>,
    /// The symbolic link by which it is named, if it is, and where that led.
    link: Option<(Spot, PathBuf)>,
}

impl Place {
    /// The place of what was found at `path` under this name. Resolves paths, and blocks.
    fn of(name: &str, path: &Path) -> anyhow::Result<Place> {
        let own = Spot::here(path)?;
        let own = match own.status() {
            Err(error) if is_mount(&error) => None,
            status => status.map(|_| Some(own))?,
        };
        let link = Spot::here(&os::disks::named(name)?)?;
        let link = link.read_link().ok().map(|target| (link, target));
        Ok(Place { own, link })
    }

    /// Looks whether it still is that disk. Blocks.
    ///
    /// # Errors
    /// When it is gone, or another has taken its place.
    pub fn check(&self, identity: SystemIdentity) -> anyhow::Result<()> {
        if let Some((link, target)) = &self.link
            && link.read_link().context("the disk is gone")? != *target
        {
            bail!("another device has taken its place");
        }
        // A disk that was pulled and plugged in again is another device under the same name.
        if let Some(own) = &self.own
            && identity_of(&own.status().context("the disk is gone")?) != identity
        {
            bail!("another device has taken its place");
        }
        Ok(())
    }
}

/// Where the disk is that a name means, which it is, and where it will be looked at. Blocks.
pub fn locate(name: &str) -> anyhow::Result<Found> {
    let (path, identity) = find(name)?;
    let place =
        Place::of(name, &path).with_context(|| format!("{} can't be looked at", path.display()))?;
    let (serial, drive) = (os::disks::serial_of(&path), os::disks::drive_of(&path));
    Ok(Found { path, identity, place, serial, drive })
}

/// Where the disk is that a name means, and which it is. Blocks.
pub fn find(name: &str) -> anyhow::Result<(PathBuf, SystemIdentity)> {
    let path = os::disks::resolve(name)?;
    let identity = identity_on_system(&path)
        .with_context(|| format!("{} can't be looked at", path.display()))?;
    Ok((path, identity))
}

/// Which device or file is at a path now. Blocks.
pub fn identity_on_system(path: &Path) -> std::io::Result<SystemIdentity> {
    Ok(identity_of(&rustix::fs::stat(path)?))
}

fn identity_of(status: &Stat) -> SystemIdentity {
    // Two nodes of one device are one disk.
    if FileType::from_raw_mode(status.st_mode).is_block_device() {
        return (0, 0, status.st_rdev);
    }
    (status.st_dev, status.st_ino, 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use control::node::NodeConfig;
    use os::Reactor;

    fn plans(dir: &Path, exports: &[(&str, &str)]) -> Vec<ExportPlan> {
        let mut text = String::new();
        for (number, (file, settings)) in exports.iter().enumerate() {
            let path = dir.join(file);
            text.push_str(&format!(
                "[[export]]\naddress='e1.{number}'\npath={path:?}\nio='buffered'\n{settings}\n"
            ));
        }
        NodeConfig::parse(&text, dir).unwrap().plans().unwrap()
    }

    #[test]
    fn parts_share_one_file_and_others_are_kept_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("disk"), vec![0; 4096]).unwrap();
        std::fs::hard_link(dir.path().join("disk"), dir.path().join("same")).unwrap();
        let plans = plans(
            dir.path(),
            &[("disk", "length='4s'"), ("disk", "offset='4s'"), ("same", "offset='7s'")],
        );
        let (mut reactor, handle) = Reactor::new().unwrap();
        let path = dir.path().join("disk");
        reactor
            .run_until(async move {
                let disks = OpenDisks::new(&handle);
                let one = disks.open(&plans[0]).await.unwrap();
                let other = disks.open(&plans[1]).await.unwrap();
                assert!(Rc::ptr_eq(one.file(), other.file()));
                assert_eq!(one.device(&plans[0]).geometry().sectors, 4);
                assert_eq!(other.device(&plans[1]).geometry().sectors, 4);
                // The same disk by another name, and sectors that another export has.
                let error = disks.open(&plans[2]).await.err().unwrap().to_string();
                assert!(error.contains("in common"), "{error}");
                assert!(FileDevice::open(&handle, &path, FileOptions::default()).is_err());
                drop(other);
                let third = disks.open(&plans[2]).await.unwrap();
                assert_eq!(third.device(&plans[2]).geometry().sectors, 1);
                drop((one, third));
                FileDevice::open(&handle, &path, FileOptions::default()).unwrap();
            })
            .unwrap();
    }

    #[test]
    fn a_window_beyond_the_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("disk"), vec![0; 4096]).unwrap();
        let plans = plans(
            dir.path(),
            &[("disk", "offset='9s'"), ("disk", "length='9s'\nread-only=true"), ("none", "")],
        );
        let (mut reactor, handle) = Reactor::new().unwrap();
        reactor
            .run_until(async move {
                let disks = OpenDisks::new(&handle);
                for plan in &plans {
                    assert!(disks.open(plan).await.is_err());
                }
            })
            .unwrap();
    }
}
