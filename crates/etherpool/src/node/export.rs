//! One export's life: opens the medium when it is there, exports it, notices that it grew, changed
//! or went, and tries again. Nothing here waits for anything of another export.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use aoe_target::FencedDevice;
use aoe_target::{
    Access, AccessPolicy, ExportId, ExportOptions, ExportState, ListEditors, Reach, Remembered,
};
use aoe_target::{AtaPassThrough, ExportDevice, ExportSetup, Memory, TargetDriver};
use aoe_wire::ShelfSlot;
use block::SECTOR_BYTES;
use control::node::{ASKING, ExportPlan, ExportStatus};
use runtime::Notify;

use super::choose::{identity_of, matches};
use super::health::ASK_EVERY;
use super::link::Link;
use super::memory::{ExportMemory, Found, configured};
use super::open_disks::DiskUse;
use super::server::Node;

/// How often disks are looked for, and looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why something is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration names it.
    Named,
    /// It was found.
    Found {
        /// What the disk is remembered by ([`identity_of`]): another one may be where it was.
        key: String,
    },
    /// A program of this machine asked for it, until the process ends.
    Requested,
}

/// An export and how it is.
pub struct Export {
    /// Its address.
    pub address: ShelfSlot,
    /// Why it is there.
    pub origin: Origin,
    plan: RefCell<ExportPlan>,
    /// Plan or interfaces changed since they were last told to the target.
    changed: Cell<bool>,
    state: RefCell<String>,
    device: RefCell<PathBuf>,
    drive: RefCell<Option<PathBuf>>,
    size_bytes: Cell<u64>,
    running: Cell<Option<ExportId>>,
    /// The disk vanished with writes that were answered before they were on stable storage.
    lost: Cell<bool>,
    stop: Cell<bool>,
    wake: Notify,
    ended: Cell<bool>,
    /// Opening it has succeeded or failed at least once.
    tried: Cell<bool>,
}

/// A medium that is being exported.
struct Served {
    id: ExportId,
    disk: DiskUse,
    /// The memory that couldn't be read, and closes the export.
    damaged: Option<ExportMemory>,
    _link: Option<Link>,
}

impl Export {
    /// An export that isn't running yet.
    pub fn new(plan: ExportPlan, origin: Origin) -> Export {
        Export {
            address: plan.address,
            origin,
            plan: RefCell::new(plan),
            changed: Cell::new(false),
            state: RefCell::new("starting".to_owned()),
            device: RefCell::default(),
            drive: RefCell::default(),
            size_bytes: Cell::new(0),
            running: Cell::new(None),
            lost: Cell::new(false),
            stop: Cell::new(false),
            wake: Notify::new(),
            ended: Cell::new(false),
            tried: Cell::new(false),
        }
    }

    /// Ends it soon.
    pub fn end(&self) {
        self.stop.set(true);
        self.wake.notify_all();
    }

    /// Whether it is to end.
    pub fn is_ending(&self) -> bool {
        self.stop.get()
    }

    /// Complete when its medium is closed.
    pub async fn wait_ended(&self) {
        self.wait_for(&self.ended).await;
    }

    /// Complete when it is served, or has failed to be.
    pub async fn wait_tried(&self) {
        self.wait_for(&self.tried).await;
    }

    async fn wait_for(&self, flag: &Cell<bool>) {
        loop {
            let woken = self.wake.notified();
            if flag.get() {
                return;
            }
            woken.await;
        }
    }

    fn note_tried(&self) {
        if !self.tried.replace(true) {
            self.wake.notify_all();
        }
    }

    /// Takes another plan, if the export can go on under it.
    pub fn take_plan(&self, plan: &ExportPlan) -> bool {
        let mut present = self.plan.borrow_mut();
        let stays = present.medium == plan.medium
            && present.config_string == plan.config_string
            && present.link == plan.link
            && present.remember == plan.remember;
        if stays && *present != *plan {
            present.clone_from(plan);
            self.changed.set(true);
            self.wake.notify_all();
        }
        stays
    }

    /// What was exported, as it was configured or found.
    pub fn path(&self) -> String {
        self.plan.borrow().medium.path.clone()
    }

    /// The interfaces are others: patterns may mean others too.
    pub fn ports_changed(&self) {
        if !self.plan.borrow().interfaces.is_empty() {
            self.changed.set(true);
            self.wake.notify_all();
        }
    }

    /// What it exports, once it is open.
    pub fn device(&self) -> PathBuf {
        self.device.borrow().clone()
    }

    /// For the control socket.
    pub fn status(&self, driver: &TargetDriver) -> ExportStatus {
        let answers = self.running.get().and_then(|id| driver.export_state(id));
        let state = match answers {
            Some(ExportState::Conflict { mac }) => {
                format!("silent: {mac} answers for this address")
            }
            Some(ExportState::Probing) => format!("{ASKING} whether the address is free"),
            Some(ExportState::Up) | None => self.state.borrow().clone(),
        };
        ExportStatus {
            address: self.address.to_string(),
            path: self.plan.borrow().medium.path.clone(),
            device: self.device.borrow().display().to_string(),
            size_bytes: self.size_bytes.get(),
            state,
        }
    }

    /// Exports until it is told to end.
    pub async fn run(&self, node: &Node) {
        let mut said = String::new();
        while !self.stop.get() {
            match self.serve_once(node).await {
                Ok(()) => said.clear(),
                Err(error) => {
                    self.complain(&mut said, &error);
                    self.pause(node).await;
                }
            }
        }
        self.tried.set(true);
        self.ended.set(true);
        self.wake.notify_all();
    }

    fn complain(&self, said: &mut String, error: &anyhow::Error) {
        let why = format!("{error:#}");
        // Once per reason: a missing disk may be missing for days.
        if why != *said {
            let path = &self.plan.borrow().medium.path;
            tracing::warn!(event = "not-exported", export = %self.address, path, "not exported: {why}");
            said.clone_from(&why);
        }
        self.size_bytes.set(0);
        self.state.replace(why);
    }

    /// Opens, exports, and watches until the medium is gone or the export is to end.
    async fn serve_once(&self, node: &Node) -> anyhow::Result<()> {
        let served = self.open(node).await;
        self.note_tried();
        let served = served?;
        let mut outcome = Ok(true);
        while matches!(outcome, Ok(true)) && !self.stop.get() {
            if self.changed.replace(false) {
                let options = self.options(node, &served.disk, served.damaged.is_some());
                if let Err(error) = node.driver.set_options(served.id, options) {
                    outcome = Err(error.into());
                    break;
                }
            }
            self.pause(node).await;
            outcome = self.look(node, &served).await;
        }
        self.running.set(None);
        if outcome.is_ok() {
            node.driver.retire_export(served.id).await;
        } else {
            // Its disk is gone, perhaps with writes that were answered early: nobody waits for that.
            self.lost.set(node.driver.owes_flush(served.id));
            node.driver.remove_export(served.id).await;
        }
        self.device.take();
        node.disks.close(served.disk).await;
        outcome.map(drop)
    }

    async fn open(&self, node: &Node) -> anyhow::Result<Served> {
        let plan = self.plan.borrow().clone();
        let disk = node.disks.open(&plan).await?;
        let begun = async {
            self.check_drive(node, &disk).await?;
            self.begin(node, &plan, &disk).await
        };
        match begun.await {
            Ok((id, damaged)) => {
                let link = plan.link.as_deref().zip(node.run_dir.as_ref());
                let link = link.and_then(|(name, run_dir)| Link::make(run_dir, name, disk.path()));
                Ok(Served { id, disk, damaged, _link: link })
            }
            Err(error) => {
                node.disks.close(disk).await;
                Err(error)
            }
        }
    }

    /// Whether an open disk is the one that was found. Another one in its place may carry what nobody is to write to, and
    /// has an address of its own.
    async fn check_drive(&self, node: &Node, disk: &DiskUse) -> anyhow::Result<()> {
        let Origin::Found { key } = &self.origin else { return Ok(()) };
        let disks = node.handle.blocking(os::disks::list).await?;
        let disks = disks.context("cannot list this machine's disks")?;
        let here = disks.iter().find(|here| here.path == disk.path());
        match here.is_some_and(|here| identity_of(here) == *key) {
            true => Ok(()),
            false => anyhow::bail!("another disk is at {} now", disk.path().display()),
        }
    }

    /// Whether it is of the disk that was found so, and that is gone.
    pub fn awaits(&self, found: &Origin) -> bool {
        let is_its = matches!(found, Origin::Found { .. }) && self.origin == *found;
        is_its && self.tried.get() && self.running.get().is_none()
    }

    /// Exports an open disk, closed to clients if its memory is damaged.
    async fn begin(
        &self,
        node: &Node,
        plan: &ExportPlan,
        disk: &DiskUse,
    ) -> anyhow::Result<(ExportId, Option<ExportMemory>)> {
        let medium = FencedDevice::open(disk.device(plan), node.handle.runtime().clone())
            .await
            .context("cannot read whose disk it is")?;
        let memory = node
            .state_dir
            .as_ref()
            .filter(|_| plan.remember)
            .map(|directory| ExportMemory::new(&node.handle, directory, plan));
        let mut damaged = None;
        let mut remembered = configured(plan);
        let mut kept = None;
        if let Some(memory) = memory {
            match memory.load(plan).await {
                Found::Known(known) => {
                    remembered = known;
                    kept = Some(Rc::new(memory) as Rc<dyn Memory>);
                }
                Found::Damaged(why) => {
                    let why = format!(
                        "closed to all clients: {} is damaged ({why}), and may have held a mask list or reservation; repair it, remove it, or set damaged-state = \"discard\"",
                        memory.file().display()
                    );
                    tracing::error!(export = %self.address, "{why}");
                    self.state.replace(why);
                    damaged = Some(memory);
                }
            }
        }
        self.changed.set(false);
        let mut options = self.options(node, disk, damaged.is_some());
        options.remembered = remembered;
        let device = ExportDevice::Fenced(Rc::new(medium));
        let setup = ExportSetup {
            memory: kept,
            ata: self.pass_through(node, plan, disk.path()).await,
            lost: self.lost.get(),
            ..ExportSetup::new(device, options)
        };
        let id = node.driver.add_export(setup).await?;
        node.reset_owner_of(self.address).await;
        self.lost.set(false);
        self.running.set(Some(id));
        self.device.replace(disk.path().to_owned());
        self.drive.replace(disk.drive());
        if damaged.is_none() {
            self.state.replace("online".to_owned());
        }
        let bytes = self.measure(disk, plan);
        let obeys = node.driver.obeyed_by(self.address).map(tracing::field::display);
        tracing::info!(export = %self.address, path = %disk.path().display(), bytes, obeys, "exported");
        Ok((id, damaged))
    }

    /// The way to the disk itself: only for whole ATA disks.
    async fn pass_through(
        &self,
        node: &Node,
        plan: &ExportPlan,
        path: &Path,
    ) -> Option<Rc<dyn AtaPassThrough>> {
        if !plan.medium.window.is_whole() {
            return None;
        }
        node.ata.open_apart(path).await.ok().map(|disk| Rc::new(disk) as Rc<dyn AtaPassThrough>)
    }

    /// Asks how the drive is, whenever another disk is exported and now and then, until the export ends.
    pub async fn watch_health(&self, node: &Node) {
        let runtime = node.handle.runtime();
        let (mut asked, mut due) = (None, runtime.now());
        while !self.ended.get() {
            let running = self.running.get();
            let now = Some((running, node.asker.round()));
            if running.is_some() && (now != asked || runtime.now() >= due) {
                (asked, due) = (now, runtime.now() + ASK_EVERY);
                let drive = self.drive.borrow().clone();
                let Some(drive) = drive else { continue };
                let health = node.asker.ask(&drive).await;
                // One that sleeps, or hangs, is as it said last.
                let is_news = health.is_some() || !node.asker.is_on();
                if let Some(id) = running.filter(|id| is_news && self.running.get() == Some(*id)) {
                    node.driver.set_health(id, health);
                }
            }
            runtime.sleep(LOOK_EVERY).await;
        }
    }

    /// Looks whether the medium is what it was; false if it is to be opened anew.
    async fn look(&self, node: &Node, served: &Served) -> anyhow::Result<bool> {
        let plan = self.plan.borrow().clone();
        if node.disks.look(&served.disk).await? {
            node.driver.refresh(served.id).await;
        }
        let former = self.size_bytes.get();
        let bytes = self.measure(&served.disk, &plan);
        if bytes != former {
            tracing::info!(export = %self.address, bytes, "the size changed");
            // A part of a disk hears of it here only.
            node.driver.refresh(served.id).await;
        }
        match &served.damaged {
            Some(memory) => Ok(matches!(memory.load(&plan).await, Found::Damaged(_))),
            None => Ok(true),
        }
    }

    fn measure(&self, disk: &DiskUse, plan: &ExportPlan) -> u64 {
        let sectors = disk.device(plan).geometry().sectors;
        let bytes = sectors.saturating_mul(SECTOR_BYTES as u64);
        self.size_bytes.set(bytes);
        bytes
    }

    fn options(&self, node: &Node, disk: &DiskUse, closed: bool) -> ExportOptions {
        let plan = self.plan.borrow();
        let name = disk.path().display().to_string();
        let serial = format!("{}.{}:{}", self.address.shelf, self.address.slot, node.name);
        let reach = reach(node, &plan.interfaces);
        let mut options = plan.options(&name, reach, Remembered::default(), &serial);
        options.drive_serial = plan.serial.clone().unwrap_or_else(|| disk.serial().to_owned());
        if closed {
            options.access = AccessPolicy { default: Access::Reject, ..AccessPolicy::default() };
            options.list_editors = ListEditors::Nobody;
            options.announce = false;
        }
        options
    }

    /// Until the next look, or until something is to be done. All exports look at the same time:
    /// one thread can do that for all.
    async fn pause(&self, node: &Node) {
        let runtime = node.handle.runtime();
        let period = LOOK_EVERY.as_nanos();
        let since = u128::from(runtime.now().as_nanos()) % period;
        let rest = u64::try_from(period - since).map_or(LOOK_EVERY, Duration::from_nanos);
        let woken = self.wake.notified();
        if !self.stop.get() && !self.changed.get() {
            let _ = runtime::timeout(runtime, rest, woken).await;
        }
    }
}

/// On which of the present ports an export with these patterns answers.
fn reach(node: &Node, interfaces: &[String]) -> Reach {
    if interfaces.is_empty() {
        return Reach::AllPorts;
    }
    let ports = node.driver.ports().into_iter().map(|(_, name)| name);
    let mut names: BTreeSet<String> =
        ports.filter(|name| interfaces.iter().any(|pattern| matches(pattern, name))).collect();
    // This machine's own engine always reaches its disks.
    if node.has_frame_socket {
        names.insert(node.frame_socket());
    }
    Reach::Ports(names)
}
