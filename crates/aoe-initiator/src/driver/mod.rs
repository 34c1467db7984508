//! The initiator: ports in, disks out.
//!
//! One hub task per port hands replies to discovery and to the disk that they are for; requests are
//! somebody else's. One task runs discovery. Disks appear by themselves, each with a task of its own.

mod disk;

pub use disk::RemoteDisk;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use block::{DeviceEvent, DurabilityClass, Instance};
use futures::FutureExt;
use futures::future::{LocalBoxFuture, select};
use runtime::{EventQueue, Handle, Notify};
use seal::Identity;

use crate::client::{Client, Random};
use crate::discovery::{Discovery, DiscoveryEvent, TargetInfo};
use crate::discovery::{TARGETS_MAX, gives_way, is_same_disk};
use crate::options::SessionOptions;
use crate::paths::LocalPort;
use crate::plain::{Plain, PlainOptions};
use crate::probe::TargetKind;
use crate::session::Session;
use aoe_wire::Port;
use aoe_wire::{Command, ExportInfo, Header, Incarnation, PortId, SessionVersion, ShelfSlot};
use disk::{HintHook, PortTable};

/// Events that nobody fetched; older ones are dropped.
const EVENTS_MAX: usize = 1024;

/// How an initiator behaves.
#[derive(Clone, Debug)]
pub struct InitiatorOptions {
    /// Who we are: random, made anew at each start of the process.
    pub incarnation: Incarnation,
    /// A session target that answers nothing for so long is lost.
    pub lost_after: Duration,
    /// Most frames on their way to and from a disk.
    pub window_max: u32,
    /// The newest version of the session that is spoken.
    pub newest: SessionVersion,
    /// Whether disks are opened as they are found; else they are only listed.
    pub connect: bool,
    /// Who this machine is, where it has a key, and whom it speaks with.
    pub identity: Option<Rc<Identity>>,
    /// Plain disks of which the operator states that they acknowledge only what is stable.
    pub declared: Vec<ShelfSlot>,
}

impl InitiatorOptions {
    /// The usual ones.
    pub fn new(incarnation: Incarnation) -> InitiatorOptions {
        let usual = SessionOptions::new(ShelfSlot::default(), incarnation);
        InitiatorOptions {
            incarnation,
            lost_after: usual.lost_after,
            window_max: usual.window_max,
            newest: usual.newest,
            connect: true,
            identity: None,
            declared: Vec::new(),
        }
    }
}

/// Something about disks changed. A hint: what counts is what [`Initiator::disks`] and the disks'
/// completions say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskEvent {
    /// A disk answered for the first time.
    Appeared(ShelfSlot),
    /// A disk doesn't answer.
    Lost(ShelfSlot),
    /// A disk answers again, or as another instance.
    Back(ShelfSlot, Instance),
    /// A disk's size changed.
    Resized(ShelfSlot),
    /// A second target answers for an address. It isn't used.
    Conflict(Box<TargetInfo>),
}

/// Finds disks on its ports and drives them.
pub struct Initiator {
    inner: Rc<Inner>,
}

struct Inner {
    handle: Handle,
    options: InitiatorOptions,
    ports: Rc<PortTable>,
    /// As they were when everybody was told last.
    told_ports: RefCell<BTreeMap<PortId, LocalPort>>,
    hubs: RefCell<BTreeMap<PortId, Rc<Hub>>>,
    discovery: RefCell<Discovery>,
    disks: RefCell<BTreeMap<ShelfSlot, Known>>,
    wake: Rc<Notify>,
    events: Rc<EventQueue<DiskEvent, EVENTS_MAX>>,
}

struct Known {
    disk: Rc<RemoteDisk>,
    kind: TargetKind,
}

/// Ends the hub task of a port.
#[derive(Default)]
struct Hub {
    is_stopped: Cell<bool>,
    stop: Notify,
}

impl Initiator {
    /// An initiator without ports.
    pub fn new(handle: Handle, options: InitiatorOptions) -> Initiator {
        let discovery = Discovery::new(handle.now(), random_of(&handle), options.identity.clone());
        let inner = Rc::new(Inner {
            handle: handle.clone(),
            options,
            ports: Rc::default(),
            told_ports: RefCell::default(),
            hubs: RefCell::default(),
            discovery: RefCell::new(discovery),
            disks: RefCell::default(),
            wake: Rc::new(Notify::new()),
            events: Rc::default(),
        });
        let wake = Rc::clone(&inner.wake);
        handle.spawn(drive(Rc::downgrade(&inner), Inner::turn, wake, handle.clone()));
        Initiator { inner }
    }

    /// Starts to use a port.
    pub fn add_port(&self, port: Rc<dyn Port>) -> PortId {
        let id = self.inner.ports.add(Rc::clone(&port));
        let hub = Rc::new(Hub::default());
        self.inner.hubs.borrow_mut().insert(id, Rc::clone(&hub));
        self.inner.tell_ports();
        let inner = Rc::downgrade(&self.inner);
        self.inner.handle.spawn(listen(inner, id, port, hub, self.inner.handle.clone()));
        self.inner.wake.notify_all();
        id
    }

    /// Stops using a port. Disks that have no other are lost after the usual time.
    pub fn remove_port(&self, id: PortId) {
        self.inner.remove_port(id);
    }

    /// The name of a port.
    pub fn port_name(&self, id: PortId) -> Option<String> {
        self.inner.ports.name(id)
    }

    /// Asks all targets now, instead of at the next interval.
    pub fn ask(&self) {
        let now = self.inner.handle.now();
        self.inner.discovery.borrow_mut().ask(now);
        self.inner.wake.notify_all();
    }

    /// Everybody who answered a query, on each path. What a disk is, and who holds it, is told as its own client heard
    /// last; of a disk that isn't used, as it was when it was asked.
    pub fn targets(&self) -> Vec<TargetInfo> {
        let mut targets = self.inner.discovery.borrow().targets();
        for info in targets.iter_mut().filter(|info| !info.is_conflict) {
            if let Some(newest) = self.inner.export(info)
                && let Some(TargetKind::Session { export, .. }) = &mut info.kind
            {
                *export = newest;
            }
        }
        targets
    }

    /// The disks that have answered, by address; lost ones too.
    pub fn disks(&self) -> Vec<Rc<RemoteDisk>> {
        let disks = self.inner.disks.borrow();
        disks.values().map(|known| &known.disk).filter(|disk| disk.is_known()).cloned().collect()
    }

    /// The disk at an address, if it has ever answered.
    pub fn disk(&self, address: ShelfSlot) -> Option<Rc<RemoteDisk>> {
        let disks = self.inner.disks.borrow();
        disks.get(&address).map(|known| &known.disk).filter(|disk| disk.is_known()).cloned()
    }

    /// Lets a disk go. It is closed when its last user does so too, and appears again when it
    /// answers a query.
    pub fn forget(&self, address: ShelfSlot) {
        let known = self.inner.disks.borrow_mut().remove(&address);
        drop(known);
    }

    /// The next change. One listener at a time.
    pub fn next_disk_event(&self) -> LocalBoxFuture<'static, DiskEvent> {
        let events = Rc::clone(&self.inner.events);
        async move { events.next().await }.boxed_local()
    }
}

impl Drop for Initiator {
    fn drop(&mut self) {
        let hubs = std::mem::take(&mut *self.inner.hubs.borrow_mut());
        hubs.into_values().for_each(|hub| hub.stop());
        self.inner.wake.notify_all();
    }
}

impl Hub {
    fn stop(&self) {
        self.is_stopped.set(true);
        self.stop.notify_all();
    }
}

impl Inner {
    fn remove_port(&self, id: PortId) {
        if let Some(hub) = self.hubs.borrow_mut().remove(&id) {
            hub.stop();
        }
        self.ports.remove(id);
        self.told_ports.borrow_mut().remove(&id);
        self.discovery.borrow_mut().remove_port(id);
        self.disks.borrow().values().for_each(|known| known.disk.remove_port(id));
    }

    /// Tells everybody about ports that are new or have another address or MTU than before.
    fn tell_ports(&self) {
        let now = self.handle.now();
        for port in self.ports.local_ports() {
            if self.told_ports.borrow_mut().insert(port.id, port) == Some(port) {
                continue;
            }
            self.discovery.borrow_mut().set_port(now, port);
            self.disks.borrow().values().for_each(|known| known.disk.set_port(port));
        }
    }

    /// A disk as its client knows it.
    fn export(&self, info: &TargetInfo) -> Option<ExportInfo> {
        let disks = self.disks.borrow();
        let known = disks.get(&info.address)?;
        if !is_same_disk(&known.kind, info.kind.as_ref()?) {
            return None;
        }
        known.disk.export()
    }

    fn handle_frame(&self, port: PortId, frame: &[u8]) {
        aoe_wire::messages(frame).for_each(|message| self.handle_message(port, message));
    }

    fn handle_message(&self, port: PortId, frame: &[u8]) {
        let Ok(header) = Header::parse(frame) else { return };
        if !header.response || !header.is_our_version() {
            return;
        }
        let is_data = matches!(header.command, Command::Session | Command::Ata);
        if !is_data && header.command != Command::Config {
            return;
        }
        let now = self.handle.now();
        if self.discovery.borrow_mut().handle_frame(now, port, &header, frame) {
            self.wake.notify_all();
        } else if let Some(known) = self.disks.borrow().get(&header.address) {
            known.disk.handle_frame(port, frame);
        }
    }

    /// One turn of discovery; returns when the next is due without a cause.
    fn turn(self: &Rc<Self>) -> Option<block::Instant> {
        self.tell_ports();
        let now = self.handle.now();
        let mut discovery = self.discovery.borrow_mut();
        if discovery.poll_timeout().is_some_and(|at| at <= now) {
            discovery.handle_timeout(now);
        }
        self.ports.transmit(|| discovery.poll_transmit());
        while let Some(event) = discovery.poll_event() {
            match event {
                DiscoveryEvent::Found(info) => self.found(&mut discovery, *info),
                DiscoveryEvent::Seen(address, path) => {
                    let disks = self.disks.borrow();
                    let Some(known) = disks.get(&address) else { continue };
                    known.disk.add_path(path);
                    if known.disk.met_another() {
                        discovery.doubt(now, address);
                    }
                }
                DiscoveryEvent::Conflict(info) => {
                    tracing::warn!(
                        "{} at {} is not the disk that has this address already; ignored",
                        info.address,
                        info.path.target
                    );
                    self.events.push(DiskEvent::Conflict(info));
                }
            }
        }
        discovery.poll_timeout()
    }

    fn found(self: &Rc<Self>, discovery: &mut Discovery, info: TargetInfo) {
        let Some(kind) = info.kind.clone() else { return };
        if !self.options.connect || matches!(kind, TargetKind::Refused(_) | TargetKind::Unfit(_)) {
            return;
        }
        let own = self.options.identity.as_deref();
        let mut disks = self.disks.borrow_mut();
        match disks.get(&info.address) {
            Some(known) if is_same_disk(&known.kind, &kind) => known.disk.add_path(info.path),
            Some(known)
                if known.disk.defends_against(info.path)
                    && (known.disk.is_claimed() || !gives_way(own, &known.kind, &kind)) =>
            {
                self.events.push(DiskEvent::Conflict(Box::new(info)));
            }
            None if disks.len() >= TARGETS_MAX => {}
            // New, or another disk at the address of one that is gone.
            before => {
                if before.is_some() {
                    tracing::warn!("{} is another disk now", info.address);
                    discovery.retire_others(info.address, &kind);
                }
                let disk = self.connect(&info, &kind);
                disk.add_path(info.path);
                disks.insert(info.address, Known { disk, kind });
            }
        }
    }

    fn connect(self: &Rc<Self>, info: &TargetInfo, kind: &TargetKind) -> Rc<RemoteDisk> {
        let (now, random) = (self.handle.now(), random_of(&self.handle));
        let client: Box<dyn Client> = if let TargetKind::Plain(identify) = kind {
            let config = &info.config;
            let mut options =
                PlainOptions::new(info.address, config.buffer_count, config.sectors_max);
            if self.options.declared.contains(&info.address) {
                options.class = DurabilityClass::Declared;
            }
            Box::new(Plain::new(now, options, identify.clone(), random))
        } else {
            let options = SessionOptions {
                lost_after: self.options.lost_after,
                window_max: self.options.window_max,
                newest: self.options.newest,
                ..SessionOptions::new(info.address, self.options.incarnation)
            };
            Box::new(Session::new(now, options, random, self.options.identity.clone()))
        };
        let (handle, ports) = (self.handle.clone(), Rc::clone(&self.ports));
        RemoteDisk::new(info.address, handle, ports, client, self.hook(info.address))
    }

    /// Turns a disk's hints into the initiator's.
    fn hook(&self, address: ShelfSlot) -> HintHook {
        let events = Rc::clone(&self.events);
        let has_appeared = Cell::new(false);
        Box::new(move |event| {
            events.push(match event {
                DeviceEvent::Back(_) if !has_appeared.replace(true) => DiskEvent::Appeared(address),
                DeviceEvent::Back(instance) => DiskEvent::Back(address, instance),
                DeviceEvent::Lost => DiskEvent::Lost(address),
                DeviceEvent::Resized => DiskEvent::Resized(address),
            });
        })
    }
}

fn random_of(handle: &Handle) -> Random {
    let handle = handle.clone();
    Box::new(move || handle.random_u64())
}

/// Gives something its turns, when it is woken and when it wants one, for as long as somebody has it.
async fn drive<T>(
    driven: Weak<T>,
    turn: impl Fn(&Rc<T>) -> Option<block::Instant>,
    wake: Rc<Notify>,
    handle: Handle,
) {
    loop {
        let woken = wake.notified();
        let deadline = match driven.upgrade() {
            Some(driven) => turn(&driven),
            None => return,
        };
        match deadline {
            Some(deadline) => {
                select(pin!(woken), pin!(handle.sleep_until(deadline))).await;
            }
            None => woken.await,
        }
    }
}

async fn listen(inner: Weak<Inner>, id: PortId, port: Rc<dyn Port>, hub: Rc<Hub>, handle: Handle) {
    let mut seen = (port.mac(), port.mtu_bytes());
    loop {
        let stopped = hub.stop.notified();
        if hub.is_stopped.get() {
            return;
        }
        let received = match inner.upgrade() {
            Some(inner) => {
                let present = (port.mac(), port.mtu_bytes());
                if std::mem::replace(&mut seen, present) != present {
                    // Another card, or another MTU: whoever was reached the old way is asked now.
                    inner.tell_ports();
                    inner.wake.notify_all();
                }
                port.receive(&mut |frame| inner.handle_frame(id, frame))
            }
            None => return,
        };
        if received == 0 {
            select(pin!(stopped), port.readable()).await;
        } else {
            // Let the disks' tasks act on what arrived before more is taken.
            handle.yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests;
