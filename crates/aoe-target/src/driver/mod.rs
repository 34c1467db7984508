//! Drives a [`Target`]: frames from ports in, requests to devices out, answers back, all on one
//! runtime handle. Exports and ports come and go while it runs.

mod perform;
mod setup;
mod trace;
mod trust;

pub use setup::{AtaPassThrough, ExportSetup, Memory};
pub use trace::TraceStream;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use block::{
    Answer, BlockDevice, Done, DriveHealth, Instance, Instant, IoError, Operation, Outcome,
};
use futures::FutureExt;
use futures::future::{Either, select};
use runtime::{EventQueue, Handle, Notify};
use seal::{Grant, Identity};

use crate::fenced::{FencedDevice, Ownership};
use crate::{
    Abilities, AddExportError, ClientStatus, DeviceState, ExportId, ExportOptions, ExportState,
    ExportStatus, IoId, IoOperation, IoRequest, IoResult, IoValue, NodeIdentity, SetOptionsError,
    Target, TargetEvent, TargetStats,
};
use aoe_wire::{Frame, PortId, SessionVersion, ShelfSlot};
use aoe_wire::{Port, PortStatus};
use perform::{Beside, in_parts, part_sectors};
use trace::Listeners;

/// What is exported.
#[derive(Clone)]
pub enum ExportDevice {
    /// A disk that can be owned.
    Fenced(Rc<FencedDevice>),
    /// Any other device, a volume for example: plain clients only, nobody claims it.
    Device(Rc<dyn BlockDevice>),
}

impl ExportDevice {
    pub(super) fn device(&self) -> Rc<dyn BlockDevice> {
        match self {
            ExportDevice::Fenced(medium) => Rc::clone(medium) as Rc<dyn BlockDevice>,
            ExportDevice::Device(device) => Rc::clone(device),
        }
    }

    /// Submits an operation to the device.
    fn submit(&self, handle: &Handle, operation: Operation, done: Done) {
        let on = self.device();
        match (&operation, self) {
            // What its device might do with a claim is between its owner and the device.
            (Operation::Claim(_), ExportDevice::Device(_)) => done(Err(IoError::Unsupported)),
            (Operation::Discard(_) | Operation::WriteZeroes { .. }, _) => {
                let step = part_sectors(&on.geometry());
                if operation.range().count <= step {
                    return on.submit(operation, done);
                }
                handle.spawn(in_parts(on, operation, step).map(done));
            }
            _ => on.submit(operation, done),
        }
    }

    async fn state(&self) -> DeviceState {
        let (instance, ownership) = match self {
            ExportDevice::Fenced(medium) => (medium.instance(), medium.ownership()),
            ExportDevice::Device(device) => {
                // A flush for an instance that isn't names the one that is.
                let instance = match device.flush(Instance::default()).await {
                    Err(IoError::Restarted { now }) => now,
                    Ok(completion) => completion.instance,
                    Err(_) => Instance::default(),
                };
                (instance, Ownership::Unclaimed { labelled: false })
            }
        };
        let (geometry, labelled) = (self.device().geometry(), self.labelled());
        DeviceState { geometry, instance, ownership, labelled, grant: self.grant() }
    }

    fn grant(&self) -> Option<Rc<Grant>> {
        match self {
            ExportDevice::Fenced(medium) => medium.grant(),
            ExportDevice::Device(_) => None,
        }
    }

    fn labelled(&self) -> [Option<u64>; 2] {
        match self {
            ExportDevice::Fenced(medium) => medium.labelled(),
            ExportDevice::Device(_) => [None; 2],
        }
    }
}

/// Between two lines of a log about failures of one disk.
const FAILURES_APART: Duration = Duration::from_secs(60);
/// Events that wait for somebody to listen; the oldest go first.
const EVENTS_MAX: usize = 64;

/// A running target. Cheap to clone.
#[derive(Clone)]
pub struct TargetDriver {
    inner: Rc<Inner>,
}

struct Inner {
    handle: Handle,
    target: RefCell<Target>,
    ports: RefCell<BTreeMap<PortId, PortEntry>>,
    exports: RefCell<BTreeMap<ExportId, Rc<ExportEntry>>>,
    next_port: Cell<u32>,
    listeners: RefCell<Listeners>,
    events: EventQueue<TargetEvent, EVENTS_MAX>,
    /// Wakes the task that takes away what the target has to say.
    work: Notify,
    /// When the timer's task will look at the target.
    timer: Cell<Option<Instant>>,
    timer_set: Notify,
}

struct PortEntry {
    port: Rc<dyn Port>,
    stop: Rc<Stop>,
    /// Frames for it, kept for their memory.
    batch: Vec<Frame>,
}

struct ExportEntry {
    device: ExportDevice,
    address: ShelfSlot,
    beside: Beside,
    stop: Rc<Stop>,
    in_flight: Cell<u64>,
    idle: Notify,
    /// What the target knows of the disk's labels.
    labelled: Cell<[Option<u64>; 2]>,
    /// When a failure was last told to people.
    failure_told: Cell<Option<Instant>>,
}

impl ExportEntry {
    /// Failures come in crowds: one is told, the rest is counted.
    fn tell_failure(&self, now: Instant, error: &IoError) {
        let told = self.failure_told.get();
        if told.is_some_and(|at| now.since(at) < FAILURES_APART) {
            return;
        }
        self.failure_told.set(Some(now));
        tracing::error!(
            export = %self.address, %error,
            "the disk fails a request; more within a minute are counted only"
        );
    }
}

/// Tells a task to end.
#[derive(Default)]
struct Stop {
    stopped: Cell<bool>,
    notify: Notify,
}

impl Stop {
    fn stop(&self) {
        self.stopped.set(true);
        self.notify.notify_all();
    }

    /// The future's output, unless it is time to stop.
    async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let stopped = self.notify.notified();
        if self.stopped.get() {
            return None;
        }
        match select(pin!(stopped), pin!(future)).await {
            Either::Left(_) => None,
            Either::Right((output, _)) => Some(output),
        }
    }
}

impl TargetDriver {
    /// Starts a target without exports and ports.
    pub fn new(handle: Handle, node: NodeIdentity) -> TargetDriver {
        let target = Target::new(node, handle.random_u64());
        let inner = Rc::new(Inner {
            handle: handle.clone(),
            target: RefCell::new(target),
            ports: RefCell::default(),
            exports: RefCell::default(),
            next_port: Cell::new(0),
            listeners: RefCell::default(),
            events: EventQueue::default(),
            work: Notify::new(),
            timer: Cell::new(None),
            timer_set: Notify::new(),
        });
        let driver = TargetDriver { inner: Rc::clone(&inner) };
        handle.spawn(Rc::clone(&inner).run_timer());
        handle.spawn(async move {
            loop {
                let work = inner.work.notified();
                inner.drain();
                work.await;
            }
        });
        driver
    }

    /// Has a key from now on, and demands of clients what that says: sessions that it wouldn't open end.
    pub fn set_identity(&self, identity: Rc<Identity>) {
        self.inner.target.borrow_mut().set_identity(identity);
    }

    /// Speaks nothing newer than this with clients of sessions.
    pub fn set_newest(&self, newest: SessionVersion) {
        self.inner.target.borrow_mut().set_newest(newest);
    }

    /// Adds an interface; exports are announced on it.
    pub fn add_port(&self, port: Rc<dyn Port>) -> PortId {
        let inner = Rc::clone(&self.inner);
        let id = PortId(inner.next_port.get());
        inner.next_port.set(id.0 + 1);
        let stop = Rc::new(Stop::default());
        let entry = PortEntry { port: Rc::clone(&port), stop: Rc::clone(&stop), batch: Vec::new() };
        inner.ports.borrow_mut().insert(id, entry);
        if port.is_trusted() {
            inner.target.borrow_mut().trust_port(id);
        }
        inner.look_at_port(id, &*port);
        inner.work.notify_all();
        self.inner.handle.spawn(async move { inner.serve_port(id, port, stop).await });
        id
    }

    /// Takes an interface away.
    pub fn remove_port(&self, id: PortId) {
        self.inner.target.borrow_mut().remove_port(id);
        let entry = self.inner.ports.borrow_mut().remove(&id);
        if let Some(entry) = entry {
            entry.stop.stop();
        }
    }

    /// Exports a device, and announces it.
    pub async fn add_export(&self, setup: ExportSetup) -> Result<ExportId, AddExportError> {
        let ExportSetup { device, options, memory, ata, lost } = setup;
        let state = device.state().await;
        let labelled = Cell::new(state.labelled);
        let inner = Rc::clone(&self.inner);
        let address = options.address;
        let abilities = Abilities { remembers: memory.is_some(), smart: ata.is_some() };
        let id = inner.target.borrow_mut().add_export(options, state, abilities)?;
        inner.target.borrow_mut().set_nowait(id, device.device());
        if lost {
            inner.target.borrow_mut().note_lost(id);
        }
        let entry = Rc::new(ExportEntry {
            device,
            address,
            beside: Beside { address, memory, ata },
            stop: Rc::default(),
            in_flight: Cell::new(0),
            idle: Notify::new(),
            labelled,
            failure_told: Cell::new(None),
        });
        inner.exports.borrow_mut().insert(id, Rc::clone(&entry));
        inner.work.notify_all();
        self.inner.handle.spawn(async move { inner.watch_device(id, entry).await });
        Ok(id)
    }

    /// Changes how a running export behaves; no request is lost. Its address and what clients left
    /// with it stay.
    pub fn set_options(&self, id: ExportId, options: ExportOptions) -> Result<(), SetOptionsError> {
        let done = self.inner.target.borrow_mut().set_options(id, options);
        self.inner.work.notify_all();
        done
    }

    /// Notes how an export's drive is; whoever has a session may ask for it.
    pub fn set_health(&self, id: ExportId, health: Option<DriveHealth>) {
        self.inner.target.borrow_mut().set_health(id, health);
    }

    /// Whether writes were answered before they were on stable storage, and not flushed since. If the
    /// disk vanishes then, its next export has to tell.
    pub fn owes_flush(&self, id: ExportId) -> bool {
        self.inner.target.borrow().owes_flush(id)
    }

    /// Takes an export away; complete when its device has nothing to do for it any more.
    pub async fn remove_export(&self, id: ExportId) {
        self.inner.target.borrow_mut().remove_export(id);
        let entry = self.inner.exports.borrow_mut().remove(&id);
        let Some(entry) = entry else { return };
        entry.stop.stop();
        loop {
            let idle = entry.idle.notified();
            if entry.in_flight.get() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Takes no more frames, and completes when the devices have done all that was begun and its
    /// answers are sent: before the end of a process. What waits still is the clients' to repeat.
    pub async fn finish(&self) {
        for entry in self.inner.ports.borrow().values() {
            entry.stop.stop();
        }
        let entries: Vec<_> = self.inner.exports.borrow().values().cloned().collect();
        self.inner.drain_devices(&entries).await;
    }

    /// Takes an export away as its clients would have it: it hears nothing more, answers what it has
    /// begun, and goes.
    pub async fn retire_export(&self, id: ExportId) {
        self.inner.target.borrow_mut().close_export(id);
        let entry = self.inner.exports.borrow().get(&id).cloned();
        self.inner.drain_devices(entry.as_slice()).await;
        self.remove_export(id).await;
    }

    /// Takes note of a change behind an export: its size, or that its medium was reopened.
    pub async fn refresh(&self, id: ExportId) {
        self.inner.refresh(id).await;
    }

    /// Announces an export again.
    pub fn announce(&self, id: ExportId) {
        self.inner.target.borrow_mut().announce(id);
        self.inner.work.notify_all();
    }

    /// How all exports are doing, in order of their addresses.
    pub fn exports(&self) -> Vec<ExportStatus> {
        self.inner.target.borrow().exports()
    }

    /// Whether an export answers.
    pub fn export_state(&self, id: ExportId) -> Option<ExportState> {
        self.inner.target.borrow().export_state(id)
    }

    /// The clients of an export.
    pub fn clients(&self, id: ExportId) -> Vec<ClientStatus> {
        self.inner.target.borrow().clients(id)
    }

    /// Listens to the log of requests, of one export or of all, for as long as the stream is kept.
    pub fn subscribe_trace(&self, export: Option<ExportId>) -> TraceStream {
        self.inner.target.borrow_mut().set_tracing(true);
        self.inner.listeners.borrow_mut().add(export)
    }

    /// The next thing that the target tells unasked. One listener at a time.
    pub async fn next_event(&self) -> TargetEvent {
        self.inner.events.next().await
    }

    /// Names of all ports.
    pub fn ports(&self) -> Vec<(PortId, String)> {
        self.inner.ports.borrow().iter().map(|(id, entry)| (*id, entry.port.name())).collect()
    }

    /// How all ports are doing.
    pub fn port_status(&self) -> Vec<PortStatus> {
        let ports = self.inner.ports.borrow();
        let status = |(id, entry): (&PortId, &PortEntry)| PortStatus {
            id: *id,
            name: entry.port.name(),
            mac: entry.port.mac(),
            mtu_bytes: entry.port.mtu_bytes(),
            counters: entry.port.counters(),
        };
        ports.iter().map(status).collect()
    }

    /// Counters about frames that belong to no export.
    pub fn stats(&self) -> TargetStats {
        self.inner.target.borrow().stats()
    }
}

impl Inner {
    fn look_at_port(&self, id: PortId, port: &dyn Port) {
        let mut target = self.target.borrow_mut();
        target.set_link(id, port.is_up());
        target.set_port(id, port.name(), port.mac(), port.mtu_bytes());
    }

    async fn serve_port(self: Rc<Inner>, id: PortId, port: Rc<dyn Port>, stop: Rc<Stop>) {
        let look = |port: &dyn Port| (port.mac(), port.mtu_bytes(), port.is_up());
        let mut seen = look(&*port);
        while !stop.stopped.get() {
            let present = look(&*port);
            if present != seen {
                seen = present;
                self.look_at_port(id, &*port);
            }
            let received = port.receive(&mut |frame| {
                let mut target = self.target.borrow_mut();
                target.note_arrival(self.handle.look_at_clock());
                target.handle_frame(self.handle.now(), id, frame);
            });
            self.drain();
            if received == 0 && stop.unless_stopped(port.readable()).await.is_none() {
                return;
            }
            // Also after waiting: a port that is always readable must not starve the others.
            self.handle.yield_now().await;
        }
    }

    /// Completes when these exports' devices have nothing to do and all answers are sent.
    async fn drain_devices(self: &Rc<Inner>, entries: &[Rc<ExportEntry>]) {
        loop {
            // An answer may have let another command begin.
            self.drain();
            let Some(busy) = entries.iter().find(|entry| entry.in_flight.get() > 0) else { return };
            let idle = busy.idle.notified();
            if busy.in_flight.get() > 0 {
                idle.await;
            }
        }
    }

    async fn watch_device(self: Rc<Inner>, id: ExportId, entry: Rc<ExportEntry>) {
        while entry.stop.unless_stopped(entry.device.device().next_event()).await.is_some() {
            self.refresh(id).await;
        }
    }

    async fn refresh(&self, id: ExportId) {
        let entry = self.exports.borrow().get(&id).cloned();
        let Some(entry) = entry else { return };
        let state = entry.device.state().await;
        entry.labelled.set(state.labelled);
        self.target.borrow_mut().set_device(id, state);
        self.work.notify_all();
    }

    /// Takes away what the target has to say, until it has no more.
    fn drain(self: &Rc<Inner>) {
        loop {
            let request = self.target.borrow_mut().poll_io();
            let Some(request) = request else { break };
            self.start(request);
        }
        let mut ports = self.ports.borrow_mut();
        loop {
            let frame = self.target.borrow_mut().poll_transmit();
            let Some((id, frame)) = frame else { break };
            if let Some(entry) = ports.get_mut(&id) {
                entry.batch.push(frame);
            }
        }
        for entry in ports.values_mut().filter(|entry| !entry.batch.is_empty()) {
            aoe_wire::join(&mut entry.batch);
            entry.port.transmit(&mut entry.batch);
            entry.batch.clear();
        }
        drop(ports);
        self.hand_out_trace();
        self.hand_out_events();
        self.arm_timer();
    }

    fn hand_out_events(&self) {
        while let Some(event) = self.target.borrow_mut().poll_event() {
            self.events.push(event);
        }
    }

    fn hand_out_trace(&self) {
        let mut target = self.target.borrow_mut();
        let Some(mut next) = target.poll_trace() else { return };
        let mut listeners = self.listeners.borrow_mut();
        target.set_tracing(listeners.any());
        loop {
            let (record, lost) = next;
            listeners.hand_out(record, lost);
            if record.wanted {
                tracing::info!(target: "requests", lost, "{record}");
            }
            let Some(another) = target.poll_trace() else { return };
            next = another;
        }
    }

    fn start(self: &Rc<Inner>, request: IoRequest) {
        let id = request.id;
        let entry = self.exports.borrow().get(&id.export).cloned();
        let Some(entry) = entry else { return };
        entry.in_flight.set(entry.in_flight.get() + 1);
        let (inner, of) = (Rc::clone(self), Rc::clone(&entry));
        let finish = move |result| inner.finish(&of, id, result);
        let aside = match request.operation {
            IoOperation::Device(operation) => {
                let done =
                    move |outcome: Outcome| finish(outcome.map(|done| done.map(IoValue::Device)));
                return entry.device.submit(&self.handle, operation, Box::new(done));
            }
            IoOperation::Smart(command) => entry.beside.smart(command),
            IoOperation::Remember(state) => entry.beside.remember(state),
        };
        self.handle.spawn(aside.map(finish));
    }

    fn finish(&self, entry: &ExportEntry, id: IoId, result: IoResult) {
        if let Err(
            error @ (IoError::Medium(_)
            | IoError::NoSpace(_)
            | IoError::FlushFailed
            | IoError::Lost),
        ) = &result
        {
            entry.tell_failure(self.handle.now(), error);
        }
        let value = result.as_ref().map(|completion| &completion.value);
        let is_claim = matches!(value, Ok(IoValue::Device(Answer::Holder(_))));
        let labelled = entry.device.labelled();
        if entry.labelled.replace(labelled) != labelled || is_claim {
            // Before the answer: who hears that a label was written may look for the others, and after a claim
            // others are obeyed.
            self.target.borrow_mut().set_said(id.export, labelled, entry.device.grant());
        }
        self.target.borrow_mut().handle_io_done(self.handle.now(), id, result);
        self.work.notify_all();
        entry.in_flight.set(entry.in_flight.get() - 1);
        if entry.in_flight.get() == 0 {
            entry.idle.notify_all();
        }
    }

    /// Tells the timer's task when the target wants to be looked at.
    fn arm_timer(&self) {
        let deadline = self.target.borrow().poll_timeout();
        if self.timer.replace(deadline) != deadline {
            self.timer_set.notify_all();
        }
    }

    /// One task for all times: one for each would outlive what it was to wait for.
    async fn run_timer(self: Rc<Inner>) {
        loop {
            let set = self.timer_set.notified();
            let Some(deadline) = self.timer.get() else {
                set.await;
                continue;
            };
            let sleep = self.handle.sleep_until(deadline);
            if let Either::Right(_) = select(pin!(set), pin!(sleep)).await {
                self.timer.set(None);
                self.target.borrow_mut().handle_timeout(self.handle.now());
                self.work.notify_all();
            }
        }
    }
}
