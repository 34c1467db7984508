//! A remote disk as a [`BlockDevice`]: connects a client's state machine to the ports and to the
//! tasks that wait for operations.
//!
//! One task per disk lets out what the state machine has to say and wakes it at its deadlines. It
//! holds the disk weakly: when the last user lets go, the session is closed and the task ends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use block::{BlockDevice, DeviceEvent, Done, Geometry, Operation};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use runtime::{EventQueue, Handle, Notify};
use seal::PublicKey;

use super::drive;
use crate::client::Client;
use crate::operations::OperationId;
use crate::outlet::Transmit;
use crate::paths::{LocalPort, PathId};
use crate::statistics::Statistics;
use aoe_wire::Port;
use aoe_wire::{ExportInfo, Frame, PortId, ShelfSlot};

/// Hints that nobody fetched; older ones are lost, which hints may be.
const EVENTS_MAX: usize = 16;

/// The ports in use, shared by discovery and all disks.
#[derive(Default)]
pub(crate) struct PortTable {
    ports: RefCell<BTreeMap<PortId, Rc<dyn Port>>>,
    /// Frames on their way to each port; kept for their memory.
    scratch: RefCell<BTreeMap<PortId, Vec<Frame>>>,
    number: Cell<u32>,
}

impl PortTable {
    pub fn add(&self, port: Rc<dyn Port>) -> PortId {
        let id = PortId(self.number.get());
        self.number.set(id.0 + 1);
        self.ports.borrow_mut().insert(id, port);
        id
    }

    pub fn remove(&self, id: PortId) {
        self.ports.borrow_mut().remove(&id);
        self.scratch.borrow_mut().remove(&id);
    }

    /// All ports as they are now.
    pub fn local_ports(&self) -> Vec<LocalPort> {
        let ports = self.ports.borrow();
        let describe = |(id, port): (&PortId, &Rc<dyn Port>)| LocalPort {
            id: *id,
            mac: port.mac(),
            mtu_bytes: port.mtu_bytes(),
            trusted: port.is_trusted(),
        };
        ports.iter().map(describe).collect()
    }

    pub fn name(&self, id: PortId) -> Option<String> {
        self.ports.borrow().get(&id).map(|port| port.name())
    }

    /// Sends everything that `poll` yields, in one batch per port.
    pub fn transmit(&self, mut poll: impl FnMut() -> Option<Transmit>) {
        let mut scratch = self.scratch.borrow_mut();
        while let Some(Transmit { port, frame }) = poll() {
            scratch.entry(port).or_default().push(frame);
        }
        for (id, frames) in scratch.iter_mut().filter(|(_, frames)| !frames.is_empty()) {
            match self.ports.borrow().get(id) {
                Some(port) => {
                    aoe_wire::join(frames);
                    port.transmit(frames);
                }
                None => frames.clear(),
            }
        }
    }
}

/// Called with each hint, besides the disk's own listener.
pub(crate) type HintHook = Box<dyn Fn(DeviceEvent)>;

/// A disk behind a client's state machine.
pub struct RemoteDisk {
    address: ShelfSlot,
    handle: Handle,
    ports: Rc<PortTable>,
    client: RefCell<Box<dyn Client>>,
    waiting: RefCell<BTreeMap<OperationId, Done>>,
    hints: Rc<EventQueue<DeviceEvent, EVENTS_MAX>>,
    hook: HintHook,
    wake: Rc<Notify>,
}

impl RemoteDisk {
    /// A disk and the task that drives it.
    pub(crate) fn new(
        address: ShelfSlot,
        handle: Handle,
        ports: Rc<PortTable>,
        client: Box<dyn Client>,
        hook: HintHook,
    ) -> Rc<RemoteDisk> {
        let disk = Rc::new(RemoteDisk {
            address,
            handle: handle.clone(),
            ports,
            client: RefCell::new(client),
            waiting: RefCell::default(),
            hints: Rc::default(),
            hook,
            wake: Rc::new(Notify::new()),
        });
        for port in disk.ports.local_ports() {
            disk.set_port(port);
        }
        let wake = Rc::clone(&disk.wake);
        handle.spawn(drive(Rc::downgrade(&disk), RemoteDisk::turn, wake, handle.clone()));
        disk
    }

    /// The disk's address.
    pub fn address(&self) -> ShelfSlot {
        self.address
    }

    /// What was counted.
    pub fn statistics(&self) -> Statistics {
        self.client.borrow().statistics()
    }

    /// The ways to the disk.
    pub fn paths(&self) -> Vec<PathId> {
        self.client.borrow_mut().traffic().outlet.paths.ids()
    }

    /// Whether it is reached by sequenced sessions; else it speaks plain AoE only.
    pub fn has_sessions(&self) -> bool {
        self.client.borrow().has_sessions()
    }

    /// Whether it has ever answered, so that its geometry is known.
    pub fn is_known(&self) -> bool {
        self.client.borrow().is_known()
    }

    /// The key of the machine that has it, if it proved one; what it says of a program of this machine. It is the same for good.
    pub fn node_key(&self) -> Option<PublicKey> {
        self.client.borrow().node_key()
    }

    /// Whether a program of this machine has it, and is spoken with by its socket only.
    pub fn is_confined(&self) -> bool {
        self.client.borrow().is_confined()
    }

    /// Whether it is claimed from here: nobody takes its place.
    pub(crate) fn is_claimed(&self) -> bool {
        self.client.borrow().is_claimed()
    }

    /// Whether it is there, so that whoever else answers on this path is an intruder.
    pub(crate) fn defends_against(&self, path: PathId) -> bool {
        self.client.borrow().defends_against(path)
    }

    /// Whether another disk opened at its address.
    pub(crate) fn met_another(&self) -> bool {
        self.client.borrow().met_another()
    }

    /// What it told last.
    pub(crate) fn export(&self) -> Option<ExportInfo> {
        self.client.borrow().export(self.handle.now())
    }

    pub(crate) fn set_port(&self, port: LocalPort) {
        self.act(|client, now| client.set_port(now, port));
    }

    pub(crate) fn remove_port(&self, port: PortId) {
        self.act(|client, now| client.remove_port(now, port));
    }

    pub(crate) fn add_path(&self, path: PathId) {
        self.act(|client, now| client.add_path(now, path));
    }

    pub(crate) fn handle_frame(&self, port: PortId, frame: &[u8]) {
        self.act(|client, now| client.handle_frame(now, port, frame));
    }

    fn act<T>(&self, act: impl FnOnce(&mut dyn Client, block::Instant) -> T) -> T {
        let result = act(self.client.borrow_mut().as_mut(), self.handle.now());
        self.wake.notify_all();
        result
    }

    /// One turn of the disk's task; returns when the next is due without a cause.
    fn turn(self: &Rc<Self>) -> Option<block::Instant> {
        let now = self.handle.now();
        let mut client = self.client.borrow_mut();
        if client.poll_timeout().is_some_and(|at| at <= now) {
            client.advance(now);
        }
        self.ports.transmit(|| client.poll_transmit());
        drop(client);
        // Who is told may submit the next operation at once.
        let next_outcome = || self.client.borrow_mut().poll_outcome();
        while let Some((id, outcome)) = next_outcome() {
            let done = self.waiting.borrow_mut().remove(&id);
            if let Some(done) = done {
                done(outcome);
            }
        }
        let next_event = || self.client.borrow_mut().poll_event();
        while let Some(event) = next_event() {
            (self.hook)(event);
            self.hints.push(event);
        }
        self.client.borrow().poll_timeout()
    }
}

impl Drop for RemoteDisk {
    fn drop(&mut self) {
        let client = self.client.get_mut();
        client.close(self.handle.now());
        self.ports.transmit(|| client.poll_transmit());
        self.wake.notify_all();
    }
}

impl BlockDevice for RemoteDisk {
    fn geometry(&self) -> Geometry {
        self.client.borrow().geometry()
    }

    fn submit(&self, operation: Operation, done: Done) {
        let id = self.act(|client, now| client.submit(now, operation));
        self.waiting.borrow_mut().insert(id, done);
    }

    fn disown(&self) {
        self.act(|client, now| client.disown(now));
    }

    fn look_inside(&self, looks: bool) {
        self.act(|client, _| client.look_inside(looks));
    }

    fn next_event(&self) -> LocalBoxFuture<'static, DeviceEvent> {
        let hints = Rc::clone(&self.hints);
        async move { hints.next().await }.boxed_local()
    }
}
