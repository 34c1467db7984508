//! The state machine: what has arrived goes to the exports that it is for, what they have to say and to
//! do is handed out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use aoe_wire::{
    AoeError, AtaReply, Command, Frame, Header, MacAddr, PortId, SessionVersion, ShelfSlot,
};
use block::{BlockDevice, DriveHealth, Instant};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use runtime::EventQueue;
use seal::{Grant, Identity, Security};

use crate::export::{Abilities, DeviceState, Export, ExportOptions, PortState, Reach};
use crate::io::{IoId, IoRequest, IoResult, Work};
use crate::policy::AccessOperation;
use crate::probe::TargetEvent;
use crate::session::assembly::{Budget, TARGET_BYTES_MAX};
use crate::session::greeting::Greeting;
use crate::session::keyed::Allowance;
use crate::stats::{Counter, TargetStats};
use crate::status::{AddExportError, SetOptionsError};
use crate::trace::{Trace, TraceRecord, Traced, TracedStatus};
use crate::{discover, export, plain, probe, pump, session};

/// Frames that may wait to be taken away. A batch of requests is answered by fewer.
const TRANSMIT_MAX: usize = 16 * 1024;
/// Looking for commands that were given up costs: not for each frame of a flood.
const SWEEPS_APART: Duration = Duration::from_millis(100);
/// What plain clients hear as firmware version.
pub(crate) const FIRMWARE_VERSION: u16 = 1;
pub(crate) const FIRMWARE_TEXT: &str = "0.1";

/// An export; never the same number twice in a target's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExportId(pub(crate) u64);

/// The machine that the target runs on.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    /// Its lasting identity.
    pub id: uuid::Uuid,
    /// Its name, for people.
    pub name: String,
}

/// The state machine.
pub struct Target {
    pub(crate) shared: Shared,
    pub(crate) exports: BTreeMap<ExportId, Export>,
    pub(crate) addresses: BTreeMap<ShelfSlot, ExportId>,
    next_export: u64,
    /// When commands that were given up were looked for.
    swept: Option<Instant>,
}

/// What all exports share.
pub(crate) struct Shared {
    pub(crate) node: NodeIdentity,
    pub(crate) now: Instant,
    /// When the last frame had certainly arrived, by a clock that was read after that.
    pub(crate) arrived: Instant,
    pub(crate) ports: BTreeMap<PortId, Rc<PortState>>,
    /// Those that lead to programs of this machine.
    pub(crate) trusted: BTreeSet<PortId>,
    /// Those without a link.
    pub(crate) down: BTreeSet<PortId>,
    pub(crate) random: SmallRng,
    /// The newest version of the session that is spoken.
    pub(crate) newest: SessionVersion,
    /// Answers that the driver hasn't taken yet.
    pub(crate) frames: VecDeque<(PortId, Frame)>,
    /// What it hasn't asked devices for yet.
    pub(crate) requests: VecDeque<IoRequest>,
    pub(crate) stats: TargetStats,
    pub(crate) trace: Trace,
    pub(crate) events: EventQueue<TargetEvent, { probe::EVENTS_MAX }>,
    /// Exports where something is to happen at a time of its own.
    pub(crate) waiting: BTreeSet<ExportId>,
    /// What incomplete commands of all sessions may hold.
    pub(crate) assembling: Rc<Budget>,
    /// Some of it was wanted and there was none.
    pub(crate) lacks_memory: bool,
    /// Who this machine is, where it has a key.
    pub(crate) identity: Option<Rc<Identity>>,
    /// Nonces for those who open sessions.
    pub(crate) greeting: Greeting,
    /// Handshakes that may be worked on.
    pub(crate) handshakes: Allowance,
    /// Room for what a sealed message says.
    pub(crate) opened: Vec<u8>,
    /// Exports where commands arrived or ended since [`pump`] was last called for them.
    pub(crate) woken: Vec<ExportId>,
}

impl Shared {
    /// Something arrived or ended there: commands may start.
    pub(crate) fn wake(&mut self, export: &mut Export) {
        if !std::mem::replace(&mut export.woken, true) {
            self.woken.push(export.id);
        }
    }

    pub(crate) fn send(&mut self, port: PortId, frame: Frame) {
        if self.frames.len() < TRANSMIT_MAX {
            self.frames.push_back((port, frame));
        } else {
            self.stats.transmit_full += 1;
        }
    }

    /// What is demanded of sessions at least.
    pub(crate) fn least(&self) -> Security {
        seal::least_of(self.identity.as_deref())
    }

    /// A secret that nobody foretells who hasn't the machine's own.
    pub(crate) fn draw(&mut self) -> [u8; 16] {
        self.identity
            .as_ref()
            .map_or_else(|| self.random.random(), |identity| half(identity.draw()))
    }

    /// Something is to be told that nobody asked for.
    pub(crate) fn event(&mut self, event: TargetEvent) {
        self.events.push(event);
    }

    /// Takes note of whether an export waits for a time.
    pub(crate) fn follow(&mut self, export: &Export) {
        match export.deadline() {
            Some(_) => self.waiting.insert(export.id),
            None => self.waiting.remove(&export.id),
        };
    }

    /// A request gets no answer.
    pub(crate) fn drop(&mut self, export: &mut Export, what: Traced, why: Counter) {
        export.meter.count(why);
        self.trace.note(self.now, export, what, TracedStatus::Dropped(why));
    }

    /// Tells a plain client that its request makes no sense. The answer ends behind the header that
    /// its command has, with all else zero: nothing of the request is sent back.
    pub(crate) fn refuse(
        &mut self,
        export: &mut Export,
        port: &PortState,
        asked: &Header,
        error: AoeError,
    ) {
        export.meter.count(Counter::Refused);
        let traced = Traced::other(port.id, asked);
        self.trace.note(self.now, export, traced, TracedStatus::Aoe(error));
        let answer = asked.answer(port.mac, export.address());
        let header = Header { error: Some(error), ..answer };
        let frame = AtaReply { header, flags: 0, error: 0, count: 0, status: 0, lba_raw: 0 };
        self.send(port.id, frame.emit(block::Buffer::empty()));
    }
}

fn half(bytes: [u8; 32]) -> [u8; 16] {
    std::array::from_fn(|at| bytes[at])
}

impl Target {
    /// A target without exports and ports. Nonces follow from `seed`.
    pub fn new(node: NodeIdentity, seed: u64) -> Target {
        let mut random = SmallRng::seed_from_u64(seed);
        let greeting = Greeting::new(random.random());
        let shared = Shared {
            node,
            now: Instant::default(),
            arrived: Instant::default(),
            ports: BTreeMap::new(),
            trusted: BTreeSet::new(),
            down: BTreeSet::new(),
            random,
            newest: SessionVersion::NEWEST,
            frames: VecDeque::new(),
            requests: VecDeque::new(),
            stats: TargetStats::default(),
            trace: Trace::default(),
            events: EventQueue::default(),
            waiting: BTreeSet::new(),
            assembling: Budget::new(TARGET_BYTES_MAX),
            lacks_memory: false,
            identity: None,
            greeting,
            handshakes: Allowance::default(),
            opened: Vec::new(),
            woken: Vec::new(),
        };
        Target {
            swept: None,
            shared,
            exports: BTreeMap::new(),
            addresses: BTreeMap::new(),
            next_export: 0,
        }
    }

    /// Has a key from now on, and demands of clients what that says: sessions that it wouldn't open end.
    pub fn set_identity(&mut self, identity: Rc<Identity>) {
        self.shared.greeting = Greeting::new(half(identity.draw()));
        let former = self.shared.least();
        self.exports.values_mut().for_each(|export| export.sessions.end_unfit(former, &identity));
        self.shared.identity = Some(identity);
    }

    /// Speaks nothing newer than this with clients of sessions.
    pub fn set_newest(&mut self, newest: SessionVersion) {
        self.shared.newest = newest;
    }

    /// A frame has arrived.
    pub fn handle_frame(&mut self, now: Instant, port: PortId, frame: &[u8]) {
        self.note_arrival(now);
        self.shared.now = now;
        self.shared.stats.frames += 1;
        aoe_wire::messages(frame).for_each(|message| self.handle_message(port, message));
    }

    /// What is handled next has arrived before this moment. A process that was stopped in its turn takes the time for
    /// what it was when the turn began, and whoever takes a pool over relies on nobody having been heard later than
    /// the target says.
    pub fn note_arrival(&mut self, before: Instant) {
        self.shared.arrived = self.shared.arrived.max(before);
    }

    fn handle_message(&mut self, port: PortId, frame: &[u8]) {
        let header = match Header::parse(frame) {
            Ok(header) if !header.source.is_group() => header,
            // An answer to a group would ask others to answer.
            _ => return self.shared.stats.malformed += 1,
        };
        let Some(port) = self.shared.ports.get(&port).cloned() else { return };
        if header.response {
            return self.handle_response(&port, &header);
        }
        if header.address.is_concrete() {
            let id = self.addresses.get(&header.address).copied();
            let reached = id.is_some_and(|id| self.handle_request(id, &port, &header, frame));
            if !reached {
                self.shared.stats.not_ours += 1;
            }
            if std::mem::take(&mut self.shared.lacks_memory) {
                self.drop_stale();
            }
            return;
        }
        // A session has one end: nobody opens it with whoever is there.
        if header.command == Command::Session {
            return self.shared.stats.not_ours += 1;
        }
        let matching = self.addresses.iter().filter(|(own, _)| header.address.matches(**own));
        let matching: Vec<ExportId> = matching.map(|(_, id)| *id).collect();
        for id in matching {
            self.handle_request(id, &port, &header, frame);
        }
    }

    /// Incomplete commands that were given up give their memory back, whichever export they are of. Who
    /// wanted it asks again.
    fn drop_stale(&mut self) {
        let now = self.shared.now;
        if self.swept.is_some_and(|swept| now.since(swept) < SWEEPS_APART) {
            return;
        }
        self.swept = Some(now);
        self.exports.values_mut().for_each(|export| export.sessions.drop_stale(now));
    }

    /// A device has answered.
    pub fn handle_io_done(&mut self, now: Instant, id: IoId, result: IoResult) {
        self.shared.now = now;
        let Some(export) = self.exports.get_mut(&id.export) else { return };
        pump::finish(export, &mut self.shared, id.ticket, result);
        self.shared.wake(export);
    }

    /// The time that `poll_timeout` named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.shared.now = now;
        for id in self.shared.waiting.clone() {
            let Some(export) = self.exports.get_mut(&id) else { continue };
            if probe::step(export, &mut self.shared) {
                probe::announce(export, &mut self.shared);
            }
            self.shared.wake(export);
            self.shared.follow(export);
        }
    }

    /// The next frame to send, and where.
    pub fn poll_transmit(&mut self) -> Option<(PortId, Frame)> {
        self.run_woken();
        self.shared.frames.pop_front()
    }

    /// The next request to a device.
    pub fn poll_io(&mut self) -> Option<IoRequest> {
        self.run_woken();
        self.shared.requests.pop_front()
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.shared.waiting.iter().filter_map(|id| self.exports.get(id));
        waiting.filter_map(Export::deadline).min()
    }

    /// Adds an export, and announces it; after it has looked for others, if it defends its address.
    pub fn add_export(
        &mut self,
        options: ExportOptions,
        device: DeviceState,
        abilities: Abilities,
    ) -> Result<ExportId, AddExportError> {
        let address = options.address;
        if !address.is_concrete() {
            return Err(AddExportError::InvalidAddress(address));
        }
        if self.addresses.contains_key(&address) {
            return Err(AddExportError::AddressInUse(address));
        }
        let id = ExportId(self.next_export);
        self.next_export += 1;
        self.addresses.insert(address, id);
        let probe = options.probe;
        let mut export = Export::new(id, options, device, abilities);
        export.prober.begin(probe, self.shared.now);
        self.shared.follow(&export);
        probe::announce(&export, &mut self.shared);
        self.exports.insert(id, export);
        Ok(id)
    }

    /// Lets an export hear nothing more; what it has begun is answered.
    pub fn close_export(&mut self, id: ExportId) {
        if let Some(export) = self.exports.get_mut(&id) {
            export.options.reach = Reach::Ports(std::collections::BTreeSet::new());
        }
    }

    /// Takes an export away. Answers of its device are ignored from now on, its sessions get none.
    pub fn remove_export(&mut self, id: ExportId) -> bool {
        let Some(export) = self.exports.remove(&id) else { return false };
        self.addresses.remove(&export.address());
        self.shared.waiting.remove(&id);
        true
    }

    /// Whether clients were answered before it was on stable storage, and none has flushed since.
    pub fn owes_flush(&self, id: ExportId) -> bool {
        self.exports.get(&id).is_some_and(|export| export.plain_unflushed || export.plain_lost)
    }

    /// What a former export of the same disk owed may be gone with it: the next flush says so.
    pub fn note_lost(&mut self, id: ExportId) {
        if let Some(export) = self.exports.get_mut(&id) {
            export.plain_lost = true;
        }
    }

    /// Notes how an export's drive is, for who asks.
    pub fn set_health(&mut self, id: ExportId, health: Option<DriveHealth>) {
        self.exports.entry(id).and_modify(|export| export.health = health);
    }

    /// Changes how a running export behaves; nothing that waits is lost. The address stays, and so
    /// does what clients left with it.
    pub fn set_options(
        &mut self,
        id: ExportId,
        options: ExportOptions,
    ) -> Result<(), SetOptionsError> {
        let export = self.exports.get_mut(&id).ok_or(SetOptionsError::NoSuchExport)?;
        if options.address != export.address() {
            return Err(SetOptionsError::OtherAddress);
        }
        let told = |options: &ExportOptions| {
            let options = options.clone();
            (options.buffer_count, options.sectors_max, options.reach, options.announce)
        };
        let is_news = told(&options) != told(&export.options)
            || options.access != export.options.access
            || export.prober.is_silent();
        // What a client has switched stays, as long as clients may and the setting is the same.
        let stays =
            options.write_cache_switchable && options.write_cache == export.options.write_cache;
        if !stays && export.write_cache != options.write_cache {
            export.write_cache = options.write_cache;
            if !export.write_cache {
                export.queue.push(block::Access::Barrier, 0, Work::FlushCache);
            }
        }
        export.prober.set(options.probe, self.shared.now);
        export.throttle.set(options.limits);
        export.queue.set_limits(export::queue_limits(options.queue_length));
        if options.reach != export.options.reach && !export.prober.is_silent() {
            // Where nobody has been asked.
            export.prober.set(options.probe, self.shared.now);
        }
        export.options = options;
        self.shared.wake(export);
        self.shared.follow(export);
        if is_news {
            self.announce(id);
        }
        Ok(())
    }

    /// What arrives at this port comes from programs of this machine: no list of clients applies.
    pub fn trust_port(&mut self, id: PortId) {
        self.shared.trusted.insert(id);
        if let Some(port) = self.shared.ports.get_mut(&id) {
            *port = Rc::new(PortState { trusted: true, ..PortState::clone(port) });
        }
    }

    /// Whether a port has a link from the next [`Target::set_port`] on, which is to follow.
    pub fn set_link(&mut self, id: PortId, up: bool) {
        match up {
            true => self.shared.down.remove(&id),
            false => self.shared.down.insert(id),
        };
    }

    /// Adds an interface, or takes note of its present address and MTU; exports are announced there
    /// if it has a link.
    pub fn set_port(&mut self, id: PortId, name: String, mac: MacAddr, mtu_bytes: usize) {
        let trusted = self.shared.trusted.contains(&id);
        let up = !self.shared.down.contains(&id);
        let port = Rc::new(PortState { id, name, mac, mtu_bytes, trusted, up });
        let former = self.shared.ports.insert(id, Rc::clone(&port));
        if !up {
            return;
        }
        let is_news = former.is_none_or(|former| !former.up);
        for export in self.exports.values_mut().filter(|export| export.answers_on(&port)) {
            if is_news && !trusted {
                probe::port_came(export, self.shared.now);
                self.shared.follow(export);
            }
            if export.options.announce && !export.prober.is_silent() {
                discover::announce(export, &mut self.shared, &port);
            }
        }
    }

    /// Takes an interface away.
    pub fn remove_port(&mut self, id: PortId) {
        self.shared.ports.remove(&id);
        self.shared.trusted.remove(&id);
        self.shared.down.remove(&id);
    }

    /// Takes note of how the device behind an export is now: grown, reopened, claimed otherwise.
    /// A change of size is announced.
    pub fn set_device(&mut self, id: ExportId, device: DeviceState) {
        let Some(export) = self.exports.get_mut(&id) else { return };
        let resized = export.device.geometry.sectors != device.geometry.sectors;
        export.set_instance(device.instance);
        export.set_ownership(device.ownership);
        export.device = device;
        if resized {
            self.announce(id);
        }
    }

    /// Takes note of what the disk says of itself, once that has changed: its size by its labels, and whom it obeys.
    pub fn set_said(&mut self, id: ExportId, labelled: [Option<u64>; 2], grant: Option<Rc<Grant>>) {
        if let Some(export) = self.exports.get_mut(&id) {
            export.device = DeviceState { labelled, grant, ..export.device.clone() };
        }
    }

    /// Announces an export on all its ports, if it is one to be announced.
    pub fn announce(&mut self, id: ExportId) {
        if let Some(export) = self.exports.get(&id) {
            probe::announce(export, &mut self.shared);
        }
    }

    /// Whether all requests are to be recorded, also those of exports that don't ask for it.
    pub fn set_tracing(&mut self, on: bool) {
        self.shared.trace.subscribed = on;
    }

    /// The next thing to be told that nobody asked for.
    pub fn poll_event(&mut self) -> Option<TargetEvent> {
        self.shared.events.pop()
    }

    /// The next record of a request, and how many were lost before it.
    pub fn poll_trace(&mut self) -> Option<(TraceRecord, u64)> {
        let record = self.shared.trace.records.pop()?;
        Some((record, self.shared.trace.records.take_lost()))
    }

    /// What a target says; if it isn't us, and about an address of ours, then there are two.
    fn handle_response(&mut self, port: &PortState, header: &Header) {
        let is_target = matches!(header.command, Command::Config | Command::Ata);
        let ours = self.shared.ports.values().any(|port| port.mac == header.source);
        if !is_target || ours || port.trusted {
            return;
        }
        let id = self.addresses.get(&header.address);
        let Some(export) = id.and_then(|id| self.exports.get_mut(id)) else { return };
        if export.answers_on(port) {
            probe::foreign_answer(export, &mut self.shared, port, header.source);
            self.shared.follow(export);
        }
    }

    /// Reads and writes of this export that need no waiting are done by `device`, in the call that
    /// brings the frame.
    pub fn set_nowait(&mut self, id: ExportId, device: Rc<dyn BlockDevice>) {
        if let Some(export) = self.exports.get_mut(&id) {
            export.nowait = Some(device);
        }
    }

    /// Starts what may start: once for all that has arrived together, so that neighbours meet.
    fn run_woken(&mut self) {
        while let Some(id) = self.shared.woken.pop() {
            if let Some(export) = self.exports.get_mut(&id) {
                export.woken = false;
                pump::pump(export, &mut self.shared);
            }
        }
    }

    /// A request for an export; false if it doesn't answer on that port.
    fn handle_request(
        &mut self,
        id: ExportId,
        port: &PortState,
        header: &Header,
        frame: &[u8],
    ) -> bool {
        let Some(export) = self.exports.get_mut(&id) else { return false };
        let shared = &mut self.shared;
        if !export.answers_on(port) {
            return false;
        }
        if export.prober.is_silent() && !port.trusted {
            probe::rival_query(export, shared, port, header, frame);
            shared.follow(export);
            return false;
        }
        export.meter.arrives(header.source, shared.now);
        if header.command == Command::Session {
            session::handle(export, shared, port, frame);
            shared.wake(export);
            return true;
        }
        if !is_heard(export, port, header) {
            shared.drop(export, Traced::read(port.id, header, frame), Counter::Denied);
            return true;
        }
        match header.command {
            _ if !header.is_our_version() => {
                shared.refuse(export, port, header, AoeError::UnsupportedVersion);
            }
            Command::Ata => plain::handle(export, shared, port, frame),
            Command::Config => discover::config(export, shared, port, frame),
            Command::Mask => discover::mask(export, shared, port, frame),
            Command::Reserve => discover::reserve(export, shared, port, frame),
            Command::Session | Command::Unknown(_) => {
                shared.refuse(export, port, header, AoeError::UnrecognisedCommand);
            }
        }
        shared.wake(export);
        true
    }
}

/// Whether a plain request is looked at. To who may do nothing the export isn't there; only refusals
/// of reads and writes are told to those who know its address, so that they needn't wait.
fn is_heard(export: &Export, port: &PortState, header: &Header) -> bool {
    let client = header.source;
    let listed = export.hears(port.trusted, client);
    let known = port.trusted
        || match header.command {
            Command::Ata if header.is_our_version() => true,
            Command::Mask | Command::Reserve if export.options.list_editors.names(client) => true,
            _ => export.options.access.knows(client),
        };
    let search = discover::is_search(header);
    listed && known && (!search || export.permits(port.trusted, AccessOperation::Discover, client))
}
