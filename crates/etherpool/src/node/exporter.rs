//! All exports of a process: those that are named, and those of disks that are found; started,
//! changed and ended as the configuration and the disks say.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Context;
use aoe_wire::ShelfSlot;
use control::node::{ExportPlan, NodeStatus, NotExported, plan_found};
use os::disks::Disk;
use runtime::Semaphore;

use super::choose::{Choice, identity_of, judge, judge_contents, judge_holder, judge_use};
use super::export::{Export, LOOK_EVERY, Origin};
use super::identity::Identity;
use super::open_disks::{SystemIdentity, identity_on_system};
use super::server::Node;
use super::source::Wanted;

/// It takes this shelf for one whose switches are not set.
const LINUX_REFUSES: u16 = 0xfff;

/// All exports.
pub struct Exporter {
    node: Rc<Node>,
    /// Addresses of disks that are found; without it none are looked for.
    automatic: Option<Automatic>,
    wanted: RefCell<Wanted>,
    exports: RefCell<BTreeMap<ShelfSlot, Rc<Export>>>,
    not_exported: RefCell<BTreeMap<PathBuf, String>>,
    /// What was found on disks, so that none is opened for that without need, and its user isn't disturbed.
    judged: RefCell<BTreeMap<PathBuf, Judged>>,
    stopping: Cell<bool>,
}

/// What was found on a disk. It holds until there is another one, or this one is written.
struct Judged {
    identity: SystemIdentity,
    /// How many there were before it was looked at.
    writes: Option<u64>,
    choice: Choice,
}

/// Where found disks get their addresses.
pub struct Automatic {
    /// The memory of slots.
    identity: RefCell<Identity>,
    /// The shelf of all of them.
    shelf: u16,
    /// One new slot at a time: each is stored before the next is chosen.
    choosing: Rc<Semaphore>,
}

impl Automatic {
    /// Slots from a memory, on this shelf.
    pub fn new(identity: Identity, shelf: u16) -> Automatic {
        Automatic { identity: RefCell::new(identity), shelf, choosing: Semaphore::new(1) }
    }
}

impl Exporter {
    /// Starts to export what the configuration names, and to look for more if it says so.
    pub fn start(node: &Rc<Node>, automatic: Option<Automatic>, wanted: Wanted) -> Rc<Exporter> {
        let exporter = Rc::new(Exporter {
            node: Rc::clone(node),
            automatic,
            wanted: RefCell::new(wanted),
            exports: RefCell::default(),
            not_exported: RefCell::default(),
            judged: RefCell::default(),
            stopping: Cell::new(false),
        });
        exporter.start_named();
        if exporter.automatic.is_some() {
            let looking = Rc::clone(&exporter);
            node.handle.runtime().spawn(async move {
                while !looking.stopping.get() {
                    if looking.wanted.borrow().automatic {
                        looking.look_for_disks().await;
                    }
                    looking.node.handle.runtime().sleep(LOOK_EVERY).await;
                }
            });
        }
        let following = Rc::clone(&exporter);
        node.handle.runtime().spawn(async move {
            while !following.stopping.get() {
                let changed = following.node.ports_changed.notified();
                changed.await;
                following.exports.borrow().values().for_each(|export| export.ports_changed());
            }
        });
        exporter
    }

    /// Takes a new configuration: exports that it no longer names are ended, those that it names
    /// with other settings go on with these, or are begun anew where that can't be; all others go on
    /// untouched. So do blank disks that were found, also if those aren't to be taken any more: somebody
    /// may have begun to use them, and nothing tells that from here.
    pub fn reload(self: &Rc<Self>, wanted: Wanted) {
        self.node.drives.reload(&wanted.config.drive);
        self.node.asker.reload(wanted.config.smartctl.as_deref());
        self.judged.borrow_mut().clear();
        let plans: BTreeMap<ShelfSlot, &ExportPlan> =
            wanted.plans.iter().map(|plan| (plan.address, plan)).collect();
        let mut anew = Vec::new();
        for (address, export) in self.exports.borrow().iter() {
            let found = |export: &Export| {
                let (defaults, groups) = (&wanted.config.defaults, &wanted.config.groups);
                plan_found(*address, &export.path(), defaults, groups).ok()
            };
            let plan = match (plans.get(address), &export.origin) {
                (Some(plan), Origin::Named) => Some((*plan).clone()),
                (None, Origin::Found { .. }) if wanted.automatic => found(export),
                (None, Origin::Requested) => found(export),
                _ => None,
            };
            if !plan.as_ref().is_some_and(|plan| export.take_plan(plan)) {
                export.end();
                anew.extend(plan.map(|plan| (plan, export.origin.clone())));
            }
        }
        self.node.reset_owner.replace(wanted.config.reset_owner.clone());
        self.wanted.replace(wanted);
        for (plan, origin) in anew {
            self.start_export(plan, origin);
        }
        self.start_named();
        let addresses: Vec<ShelfSlot> = self.exports.borrow().keys().copied().collect();
        let node = Rc::clone(&self.node);
        self.node.handle.runtime().spawn(async move {
            for address in addresses {
                node.reset_owner_of(address).await;
            }
        });
    }

    /// Whether it could look for disks if it is told to.
    pub fn can_look(&self) -> bool {
        self.automatic.is_some()
    }

    /// Exports a disk on request until the node stops; only what the automatic search would take.
    pub async fn export_path(self: &Rc<Self>, path: &str) -> anyhow::Result<()> {
        let name = path.to_owned();
        let looked = self.node.handle.blocking(move || -> anyhow::Result<_> {
            let device = os::disks::resolve(&name)?;
            let usage = os::disks::usage_of(&device);
            Ok((device, usage))
        });
        let (device, usage) = looked.await??;
        if self.exports.borrow().values().any(|export| export.device() == device) {
            return Ok(());
        }
        if let Some(usage) = usage {
            anyhow::bail!("{path} is in use by {usage}");
        }
        let takes_blank = self.takes_blank();
        match judge(&self.node.handle, &device, takes_blank).await {
            Choice::Export => {}
            Choice::Skip => anyhow::bail!("{path} has no size"),
            Choice::Refuse(why) => anyhow::bail!("{path} {why}"),
        }
        let key = device.display().to_string();
        self.start_found(&key, &device, Origin::Requested).await
    }

    /// Completes when each export that there is now is served, or has failed to be.
    pub async fn all_tried(&self) {
        let exports: Vec<_> = self.exports.borrow().values().cloned().collect();
        for export in exports {
            export.wait_tried().await;
        }
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
            export.wait_ended().await;
        }
    }

    /// For the control socket.
    pub fn status(&self) -> NodeStatus {
        let exports = self.exports.borrow();
        let not_exported = self.not_exported.borrow();
        NodeStatus {
            name: self.node.name.clone(),
            node_id: self.node.node_id.to_string(),
            frame_socket: self.node.frame_socket(),
            interfaces: self.node.driver.ports().into_iter().map(|(_, name)| name).collect(),
            exports: exports.values().map(|export| export.status(&self.node.driver)).collect(),
            not_exported: not_exported
                .iter()
                .map(|(path, why)| NotExported {
                    path: path.display().to_string(),
                    why: why.clone(),
                })
                .chain(self.wanted.borrow().refused.iter().cloned())
                .collect(),
            drives: self.node.drives.status(),
            ..NodeStatus::default()
        }
    }

    fn start_named(self: &Rc<Self>) {
        let (named, refused) = {
            let wanted = self.wanted.borrow();
            (wanted.plans.clone(), wanted.refused.clone())
        };
        for NotExported { path, why } in refused {
            tracing::error!(event = "not-exported", "{path} is not exported: {why}");
        }
        for plan in named {
            self.start_export(plan, Origin::Named);
        }
    }

    fn start_export(self: &Rc<Self>, plan: ExportPlan, origin: Origin) {
        let address = plan.address;
        if let Some(running) = self.exports.borrow().get(&address)
            && !running.is_ending()
        {
            let is_back_elsewhere = running.awaits(&origin) && running.path() != plan.medium.path;
            if !is_back_elsewhere {
                return;
            }
            running.end();
        }
        if address.shelf == LINUX_REFUSES {
            tracing::warn!(export = %address, "Linux takes no disks from shelf 4095");
        }
        let predecessor = self.exports.borrow_mut().remove(&address);
        let export = Rc::new(Export::new(plan, origin));
        self.exports.borrow_mut().insert(address, Rc::clone(&export));
        let (watched, watching) = (Rc::clone(&export), Rc::clone(&self.node));
        let watch = async move { watched.watch_health(&watching).await };
        self.node.handle.runtime().spawn(watch);
        let (node, exporter) = (Rc::clone(&self.node), Rc::clone(self));
        self.node.handle.runtime().spawn(async move {
            // One address, one medium at a time: the former lets go of its disk first.
            if let Some(former) = predecessor {
                former.wait_ended().await;
            }
            export.run(&node).await;
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
        let scan = self.wanted.borrow().config.scan.clone();
        let ours: BTreeSet<_> =
            self.exports.borrow().values().map(|export| export.device()).collect();
        let mut refused = BTreeMap::new();
        for disk in disks.iter().filter(|disk| !ours.contains(&disk.path)) {
            let mut choice = judge_use(disk, &scan);
            if choice == Choice::Export {
                choice = self.judge_once(disk).await;
            }
            if choice == Choice::Export {
                choice = judge_holder(&self.node.handle, &disk.path).await;
            }
            if choice == Choice::Export
                && let Err(error) = self.start_disk(disk).await
            {
                choice = Choice::Refuse(format!("{error:#}"));
            }
            if let Choice::Refuse(why) = choice {
                refused.insert(disk.path.clone(), why);
            }
        }
        for (path, why) in &refused {
            if self.not_exported.borrow().get(path) != Some(why) {
                tracing::info!(event = "not-exported", path = %path.display(), "not exported: {why}");
            }
        }
        *self.not_exported.borrow_mut() = refused;
    }

    fn takes_blank(&self) -> bool {
        self.wanted.borrow().config.export_blank.unwrap_or(true)
    }

    async fn judge_once(&self, disk: &Disk) -> Choice {
        let (path, writes) = (&disk.path, disk.writes);
        let name = path.clone();
        let looked = self.node.handle.blocking(move || identity_on_system(&name)).await;
        let identity = match looked {
            Ok(Ok(identity)) => identity,
            Ok(Err(error)) | Err(error) => return Choice::Refuse(error.to_string()),
        };
        if let Some(judged) = self.judged.borrow().get(path)
            && (judged.identity, judged.writes) == (identity, writes)
        {
            return judged.choice.clone();
        }
        let choice = judge_contents(&self.node.handle, path, self.takes_blank()).await;
        let judged = Judged { identity, writes, choice: choice.clone() };
        self.judged.borrow_mut().insert(path.clone(), judged);
        choice
    }

    async fn start_disk(self: &Rc<Self>, disk: &Disk) -> anyhow::Result<()> {
        let key = identity_of(disk);
        self.start_found(&key.clone(), &disk.path, Origin::Found { key }).await
    }

    async fn start_found(
        self: &Rc<Self>,
        key: &str,
        path: &Path,
        origin: Origin,
    ) -> anyhow::Result<()> {
        let automatic = self.automatic.as_ref().context("this target exports named disks only")?;
        let shelf = automatic.shelf;
        let taken = |slot: u8| {
            let address = ShelfSlot::new(shelf, slot);
            let named = self.wanted.borrow().plans.iter().any(|plan| plan.address == address);
            let exports = self.exports.borrow();
            named || exports.get(&address).is_some_and(|export| !export.awaits(&origin))
        };
        let _turn = automatic.choosing.acquire(1).await;
        let chosen = automatic.identity.borrow_mut().slot(key, taken);
        let (slot, unstored) = chosen.context("no address for it")?;
        if let Some(unstored) = unstored {
            let stored = self.node.handle.blocking(move || unstored.store()).await;
            if let Err(error) = stored.map_err(anyhow::Error::from).flatten() {
                automatic.identity.borrow_mut().forget(key);
                return Err(error.context("no address for it"));
            }
        }
        let address = ShelfSlot::new(shelf, slot);
        let plan = {
            let wanted = self.wanted.borrow();
            let path = path.display().to_string();
            plan_found(address, &path, &wanted.config.defaults, &wanted.config.groups)?
        };
        self.start_export(plan, origin);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::node::link::Link;
    use crate::node::server::prepare;
    use crate::node::source::{Source, TargetSource};
    use aoe_target::ExportId;
    use os::Reactor;

    /// A directory with disks, and a configuration in it.
    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            let dir = tempfile::tempdir().unwrap();
            for disk in ["a", "b", "c"] {
                std::fs::write(dir.path().join(disk), vec![0; 8192]).unwrap();
            }
            Place { dir }
        }

        /// Exports with these addresses, disks and settings.
        fn wanted(&self, exports: &[(&str, &str, &str)]) -> Wanted {
            let mut text = "io = 'buffered'\n".to_owned();
            for (address, disk, settings) in exports {
                let path = self.dir.path().join(disk);
                text.push_str(&format!(
                    "[[export]]\naddress = '{address}'\npath = {path:?}\n{settings}\n"
                ));
            }
            let file = self.dir.path().join("target.toml");
            std::fs::write(&file, text).unwrap();
            let source = TargetSource {
                config: Some(file),
                run_dir: Some(self.dir.path().join("run")),
                state_dir: Some(self.dir.path().join("state")),
                ..TargetSource::default()
            };
            Source::Target(Box::new(source)).read().unwrap()
        }
    }

    /// Addresses, numbers and advertised buffers of what the target exports.
    fn exported(node: &Node) -> Vec<(String, ExportId, u16)> {
        let exports = node.driver.exports();
        exports
            .into_iter()
            .map(|one| (one.options.address.to_string(), one.id, one.options.buffer_count))
            .collect()
    }

    /// Lets everything go on until the target exports this.
    async fn until(node: &Node, expected: impl Fn(&[(String, ExportId, u16)]) -> bool) {
        while !expected(&exported(node)) {
            node.handle.runtime().yield_now().await;
        }
    }

    fn id_of(node: &Node, address: &str) -> ExportId {
        exported(node).into_iter().find(|(known, _, _)| known == address).unwrap().1
    }

    #[test]
    fn a_reload_touches_only_what_changed() {
        let place = Place::new();
        let (mut reactor, handle) = Reactor::new().unwrap();
        let first = place.wanted(&[("e1.0", "a", ""), ("e1.1", "b", "length = '8s'")]);
        let node = prepare(&first, &handle).unwrap();
        reactor
            .run_until(async move {
                let exporter = Exporter::start(&node, None, first);
                until(&node, |exports| exports.len() == 2).await;
                let ids = [id_of(&node, "e1.0"), id_of(&node, "e1.1")];

                // Another setting, another export, and one that stays as it is.
                exporter.reload(place.wanted(&[
                    ("e1.0", "a", ""),
                    ("e1.1", "b", "length = '8s'\nbuffers = 9"),
                    ("e1.2", "b", "offset = '8s'"),
                ]));
                until(&node, |exports| exports.len() == 3 && exports[1].2 == 9).await;
                assert_eq!([id_of(&node, "e1.0"), id_of(&node, "e1.1")], ids);

                // Another disk under the same address, and one export less.
                exporter.reload(place.wanted(&[("e1.0", "c", ""), ("e1.2", "b", "offset = '8s'")]));
                // One goes and the other comes in any order.
                until(&node, |exports| {
                    let addresses: Vec<&str> = exports.iter().map(|one| &*one.0).collect();
                    addresses == ["e1.0", "e1.2"] && exports[0].1 != ids[0]
                })
                .await;
                exporter.stop().await;
                assert!(exported(&node).is_empty());
            })
            .unwrap();
    }

    #[test]
    fn a_disk_that_appears_later_is_exported_then() {
        let place = Place::new();
        let (mut reactor, handle) = Reactor::new().unwrap();
        let missing = place.dir.path().join("d");
        let wanted = place.wanted(&[("e1.0", "a", ""), ("e1.1", "d", "name = 'late'")]);
        let run_dir = place.dir.path().join("run");
        // As if killed.
        let directory = os::dir::Directory::create(&run_dir).unwrap();
        std::mem::forget(Link::make(&directory, "late", &missing).unwrap());
        let node = prepare(&wanted, &handle).unwrap();
        assert!(run_dir.join("exports/late").symlink_metadata().is_err(), "of no export now");
        reactor
            .run_until(async move {
                let exporter = Exporter::start(&node, None, wanted);
                exporter.all_tried().await;
                assert_eq!(exported(&node).len(), 1);
                std::fs::write(&missing, vec![0; 8192]).unwrap();
                until(&node, |exports| exports.len() == 2).await;
                let link = place.dir.path().join("run/exports/late");
                assert_eq!(std::fs::read_link(&link).unwrap(), missing.canonicalize().unwrap());
                exporter.stop().await;
                assert!(link.symlink_metadata().is_err());
            })
            .unwrap();
    }
}
