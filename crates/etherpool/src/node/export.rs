//! Keeps each export alive on its own: opens the medium when it is there, exports it, notices that
//! it grew or went, and tries again. Nothing here waits for anything of another export.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use aoe::driver::{AtaPassThrough, ExportDevice, ExportSetup};
use aoe::medium::Medium;
use aoe::target::{ExportOptions, Reach};
use aoe::wire::ShelfSlot;
use block::BlockDevice;
use control::node::{ExportConfig, ExportStatus, IoMode, NodeConfig, NodeStatus, NotExported};
use os::disks::Disk;
use os::{FileDevice, FileOptions};
use runtime::Notify;

use super::Node;
use super::choose::{Choice, identity_of, judge_contents, judge_use};
use super::identity::Identity;

/// How often disks are looked for, and looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// All exports of the node.
pub struct Exporter {
    node: Rc<Node>,
    identity: RefCell<Identity>,
    shelf: u16,
    config: RefCell<NodeConfig>,
    exports: RefCell<BTreeMap<ShelfSlot, Rc<Export>>>,
    not_exported: RefCell<BTreeMap<PathBuf, String>>,
    /// What was found on disks, so that each is opened for that once and its user isn't disturbed.
    judged: RefCell<BTreeMap<PathBuf, (SystemIdentity, Choice)>>,
    stopping: Cell<bool>,
}

/// One export and its task.
struct Export {
    config: ExportConfig,
    address: ShelfSlot,
    state: RefCell<String>,
    device: RefCell<PathBuf>,
    size_bytes: Cell<u64>,
    stop: Cell<bool>,
    wake: Notify,
    ended: Cell<bool>,
}

impl Exporter {
    /// Starts to export what the configuration names, and to look for more if it says so.
    pub fn start(
        node: &Rc<Node>,
        identity: Identity,
        shelf: u16,
        config: &NodeConfig,
    ) -> Rc<Exporter> {
        let exporter = Rc::new(Exporter {
            node: Rc::clone(node),
            identity: RefCell::new(identity),
            shelf,
            config: RefCell::new(config.clone()),
            exports: RefCell::default(),
            not_exported: RefCell::default(),
            judged: RefCell::default(),
            stopping: Cell::new(false),
        });
        exporter.start_named();
        let looking = Rc::clone(&exporter);
        node.handle.runtime().spawn(async move {
            while !looking.stopping.get() {
                if looking.config.borrow().is_automatic() {
                    looking.look_for_disks().await;
                }
                looking.node.handle.runtime().sleep(LOOK_EVERY).await;
            }
        });
        exporter
    }

    /// Takes a new configuration: exports that it names otherwise are ended and begun anew, those
    /// that it no longer names are ended, all others go on untouched.
    pub fn reload(self: &Rc<Self>, config: &NodeConfig) {
        self.node.drives.reload(&config.drive);
        *self.config.borrow_mut() = config.clone();
        self.judged.borrow_mut().clear();
        let automatic = config.is_automatic();
        for (address, export) in self.exports.borrow().iter() {
            let same = config
                .export
                .iter()
                .any(|named| named == &export.config && named.shelf_slot().ok() == Some(*address));
            let found = export.config.address.is_empty();
            let wanted = same || (found && automatic);
            if !wanted {
                export.end();
            }
        }
        self.start_named();
    }

    /// Exports a disk on request until the node stops; only what the automatic search would take.
    pub async fn export_path(self: &Rc<Self>, path: &str) -> anyhow::Result<()> {
        let device = os::disks::resolve(path)?;
        if self.exports.borrow().values().any(|export| *export.device.borrow() == device) {
            return Ok(());
        }
        if let Some(usage) = os::disks::usage_of(&device) {
            anyhow::bail!("{path} is in use by {usage}");
        }
        match self.judge(&device).await {
            Choice::Export => {}
            Choice::Skip => anyhow::bail!("{path} has no size"),
            Choice::Refuse(why) => anyhow::bail!("{path} {why}"),
        }
        let key = device.display().to_string();
        self.start_found(&key, &device)
    }

    /// Ends all exports; complete when their media are closed.
    pub async fn stop(&self) {
        self.stopping.set(true);
        self.node.drives.stop();
        let exports: Vec<_> = self.exports.borrow().values().cloned().collect();
        for export in &exports {
            export.end();
        }
        for export in exports {
            while !export.ended.get() {
                let woken = export.wake.notified();
                if export.ended.get() {
                    break;
                }
                woken.await;
            }
        }
    }

    /// For `node-control.sock`.
    pub fn status(&self) -> NodeStatus {
        let exports = self.exports.borrow();
        let not_exported = self.not_exported.borrow();
        NodeStatus {
            name: self.node.name.clone(),
            node_id: self.node.node_id.to_string(),
            frame_socket: super::local::frame_socket(&self.node.run_dir).display().to_string(),
            interfaces: self.node.driver.ports().into_iter().map(|(_, name)| name).collect(),
            exports: exports
                .values()
                .map(|export| ExportStatus {
                    address: export.address.to_string(),
                    path: export.config.path.clone(),
                    device: export.device.borrow().display().to_string(),
                    size_bytes: export.size_bytes.get(),
                    state: export.state.borrow().clone(),
                })
                .collect(),
            not_exported: not_exported
                .iter()
                .map(|(path, why)| NotExported {
                    path: path.display().to_string(),
                    why: why.clone(),
                })
                .collect(),
            drives: self.node.drives.status(),
        }
    }

    fn start_named(self: &Rc<Self>) {
        let named = self.config.borrow().export.clone();
        for config in named {
            let Ok(address) = config.shelf_slot() else { continue };
            self.start_export(address, config);
        }
    }

    fn start_export(self: &Rc<Self>, address: ShelfSlot, config: ExportConfig) {
        if let Some(running) = self.exports.borrow().get(&address)
            && !running.stop.get()
        {
            return;
        }
        let predecessor = self.exports.borrow_mut().remove(&address);
        let export = Rc::new(Export {
            config,
            address,
            state: RefCell::new("starting".to_owned()),
            device: RefCell::default(),
            size_bytes: Cell::new(0),
            stop: Cell::new(false),
            wake: Notify::new(),
            ended: Cell::new(false),
        });
        self.exports.borrow_mut().insert(address, Rc::clone(&export));
        let (node, exporter) = (Rc::clone(&self.node), Rc::clone(self));
        self.node.handle.runtime().spawn(async move {
            // One address, one medium at a time: the former lets go of its disk first.
            if let Some(former) = predecessor {
                former.wait_ended().await;
            }
            export.run(&node).await;
            export.ended.set(true);
            export.wake.notify_all();
            let mut exports = exporter.exports.borrow_mut();
            if exports.get(&address).is_some_and(|present| Rc::ptr_eq(present, &export)) {
                exports.remove(&address);
            }
        });
    }

    async fn look_for_disks(self: &Rc<Self>) {
        let disks = match self.node.handle.blocking(os::disks::list).await {
            Ok(Ok(disks)) => disks,
            Ok(Err(error)) | Err(error) => {
                tracing::warn!(%error, "cannot list this machine's disks");
                return;
            }
        };
        let scan = self.config.borrow().scan.clone();
        let ours: BTreeSet<_> =
            self.exports.borrow().values().map(|export| export.device.borrow().clone()).collect();
        let mut refused = BTreeMap::new();
        for disk in disks.iter().filter(|disk| !ours.contains(&disk.path)) {
            let mut choice = judge_use(disk, &scan);
            if choice == Choice::Export {
                choice = self.judge_once(&disk.path).await;
            }
            if choice == Choice::Export
                && let Err(error) = self.start_disk(disk)
            {
                choice = Choice::Refuse(format!("{error:#}"));
            }
            if let Choice::Refuse(why) = choice {
                refused.insert(disk.path.clone(), why);
            }
        }
        for (path, why) in &refused {
            if self.not_exported.borrow().get(path) != Some(why) {
                tracing::info!(disk = %path.display(), "not exported: {why}");
            }
        }
        *self.not_exported.borrow_mut() = refused;
    }

    async fn judge_once(&self, path: &Path) -> Choice {
        let identity = identity_on_system(path);
        if let Some((judged, choice)) = self.judged.borrow().get(path)
            && *judged == identity
        {
            return choice.clone();
        }
        let choice = self.judge(path).await;
        self.judged.borrow_mut().insert(path.to_owned(), (identity, choice.clone()));
        choice
    }

    /// Looks at what is on a disk, without the right to write.
    async fn judge(&self, path: &Path) -> Choice {
        let options = FileOptions { read_only: true, ..FileOptions::default() };
        match FileDevice::open(&self.node.handle, path, options) {
            Ok(device) => judge_contents(&device).await,
            Err(error) => Choice::Refuse(error.to_string()),
        }
    }

    fn start_disk(self: &Rc<Self>, disk: &Disk) -> anyhow::Result<()> {
        self.start_found(&identity_of(disk), &disk.path)
    }

    fn start_found(self: &Rc<Self>, key: &str, path: &Path) -> anyhow::Result<()> {
        let shelf = self.shelf;
        let taken = |slot: u8| {
            let address = ShelfSlot::new(shelf, slot);
            let named =
                self.config.borrow().export.iter().any(|e| e.shelf_slot().ok() == Some(address));
            named || self.exports.borrow().contains_key(&address)
        };
        let slot = self.identity.borrow_mut().slot(key, taken).context("no address for it")?;
        let config = ExportConfig {
            // Found, not named: see `reload`.
            address: String::new(),
            path: path.display().to_string(),
            interfaces: Vec::new(),
            read_only: false,
            io: IoMode::Direct,
            write_cache: false,
        };
        self.start_export(ShelfSlot::new(shelf, slot), config);
        Ok(())
    }
}

impl Export {
    /// Ends it soon.
    fn end(&self) {
        self.stop.set(true);
        self.wake.notify_all();
    }

    async fn wait_ended(&self) {
        loop {
            let woken = self.wake.notified();
            if self.ended.get() {
                return;
            }
            woken.await;
        }
    }

    async fn run(&self, node: &Node) {
        let mut said = String::new();
        while !self.stop.get() {
            if let Err(error) = self.serve_once(node).await {
                let why = format!("{error:#}");
                // Once per reason: a missing disk may be missing for days.
                if why != said {
                    tracing::warn!(export = %self.address, path = self.config.path, "not exported: {why}");
                    said.clone_from(&why);
                }
                *self.state.borrow_mut() = why;
                self.size_bytes.set(0);
            } else {
                said.clear();
            }
            self.pause(node).await;
        }
    }

    /// Opens, exports, and watches until the medium is gone or the export is to end.
    async fn serve_once(&self, node: &Node) -> anyhow::Result<()> {
        let path = os::disks::resolve(&self.config.path)?;
        let options = FileOptions {
            direct: self.config.io == IoMode::Direct,
            read_only: self.config.read_only,
            ..FileOptions::default()
        };
        let file = Rc::new(FileDevice::open(&node.handle, &path, options)?);
        let opened = identity_on_system(&path);
        let medium =
            Medium::open(Rc::clone(&file) as Rc<dyn BlockDevice>, node.handle.runtime().clone())
                .await
                .context("cannot read whose disk it is")?;
        let device = ExportDevice::Medium(Rc::new(medium));
        let setup = ExportSetup {
            // Only for disks that it makes sense for; others say so to whoever asks.
            ata: node.ata.open(&path).ok().map(|disk| Rc::new(disk) as Rc<dyn AtaPassThrough>),
            ..ExportSetup::new(device, self.options(node, &path))
        };
        let id = node.driver.add_export(setup).await?;
        self.device.replace(path.clone());
        *self.state.borrow_mut() = "online".to_owned();
        self.size_bytes.set(file.geometry().sectors.saturating_mul(block::SECTOR_BYTES as u64));
        tracing::info!(export = %self.address, path = %path.display(), bytes = self.size_bytes.get(), "exported");

        let mut gone = None;
        while gone.is_none() && !self.stop.get() {
            self.pause(node).await;
            match file.refresh() {
                Ok(true) => {
                    let bytes = file.geometry().sectors.saturating_mul(block::SECTOR_BYTES as u64);
                    tracing::info!(export = %self.address, bytes, "the size changed");
                    self.size_bytes.set(bytes);
                    node.driver.refresh(id).await;
                }
                Ok(false) => {}
                Err(error) => gone = Some(anyhow::Error::from(error).context("the disk is gone")),
            }
            // A disk that was pulled and plugged in again is another device under the same name.
            if gone.is_none() && identity_on_system(&path) != opened {
                gone = Some(anyhow::anyhow!("another device has taken its place"));
            }
        }
        node.driver.remove_export(id).await;
        self.device.take();
        gone.map_or(Ok(()), Err)
    }

    fn options(&self, node: &Node, path: &Path) -> ExportOptions {
        let reach = if self.config.interfaces.is_empty() {
            Reach::AllPorts
        } else {
            let mut names: BTreeSet<String> = self.config.interfaces.iter().cloned().collect();
            // This machine's own engine always reaches its disks.
            names.insert(super::local::frame_socket(&node.run_dir).display().to_string());
            Reach::Ports(names)
        };
        ExportOptions {
            read_only: self.config.read_only,
            write_cache: self.config.write_cache,
            reach,
            ..ExportOptions::new(self.address, path.display().to_string())
        }
    }

    /// Until the next look, or until it is to end.
    async fn pause(&self, node: &Node) {
        let woken = self.wake.notified();
        if !self.stop.get() {
            let _ = runtime::timeout(node.handle.runtime(), LOOK_EVERY, woken).await;
        }
    }
}

/// Device number and inode: what tells one device or file from another under the same name.
type SystemIdentity = Option<(u64, u64, u64)>;

fn identity_on_system(path: &Path) -> SystemIdentity {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.rdev()))
}
