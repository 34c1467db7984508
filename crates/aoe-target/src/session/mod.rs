//! The server's end of sequenced sessions (docs/session.md): opening them, and what is remembered
//! of each so that no write runs twice.

pub(crate) mod assembly;
pub(crate) mod command;
pub(crate) mod greeting;
mod judge;
pub(crate) mod keyed;
pub(crate) mod observer;

use std::collections::BTreeMap;
use std::rc::Rc;

use block::{Access, Buffer, Holder, Instance, Instant, IoError, RefusalReason};
use seal::{Grant, Identity, PublicKey, Seal, Security};

use crate::Shared;
use crate::export::{Export, PortState};
use crate::io::{IoOperation, IoResult, Start, Work};
use crate::meter::Origin;
use crate::policy::AccessOperation;
use crate::session::assembly::{Assembly, Budget, SESSION_BYTES_MAX};
use crate::session::greeting::At;
use crate::session::keyed::{Admission, Handshake, Message, SessionKeys};
use crate::stats::Counter;
use aoe_wire::PortId;
use aoe_wire::{
    ExportInfo, Incarnation, OpenPayload, Operation, Sealing, SessionId, SessionReply,
    SessionRequest, SessionVersion, Status, WANTS_OFFER, WINDOW_MAX, session_sectors_max,
};

pub(crate) use crate::session::command::SessionWork;

/// Sessions per export.
pub(crate) const SESSIONS_MAX: usize = 32;

/// The sessions of an export.
#[derive(Default)]
pub(crate) struct Sessions {
    open: BTreeMap<SessionId, Session>,
    /// Openings that wait until the commands before them have completed.
    opening: BTreeMap<SessionId, Opener>,
    /// Something was carried out for a session that has ended, and perhaps not heard of, nor is the
    /// medium flushed since.
    pub(crate) unheard: bool,
}

/// Whose session it is.
#[derive(Clone, PartialEq, Eq)]
struct Opener {
    incarnation: Incarnation,
    /// Nobody's where it has no keys.
    key: Option<PublicKey>,
    security: Security,
    /// It is a program of this machine, and needs no keys.
    is_local: bool,
    /// It is the target's own, or the medium obeys it.
    belongs: bool,
    /// The first message of its handshake, by which its OPEN is known from another one's.
    ask: Option<Rc<[u8]>>,
}

impl Opener {
    /// Whether an opening of this one ends a session of the `former`: they have an incarnation in common, and none
    /// ends those of somebody else's key.
    fn replaces(&self, former: &Opener) -> bool {
        self.incarnation == former.incarnation
            && (self.is_local || former.key.is_none() || former.key == self.key)
    }
}

/// A session.
pub(crate) struct Session {
    opener: Opener,
    keys: Option<SessionKeys>,
    /// Every lower number is answered.
    floor: u64,
    /// Commands that run at most once, from the floor on.
    slots: BTreeMap<u64, Slot>,
    /// Highest number executed.
    executed: u64,
    /// Commands in the queue.
    running: usize,
    /// What its incomplete commands may hold.
    budget: Rc<Budget>,
    /// The grant that its client has shown, to look at a medium that doesn't obey him.
    pub(crate) shown: Option<Rc<Grant>>,
    last_used: Instant,
}

/// A command that runs at most once.
pub(crate) enum Slot {
    /// Not all of its data is here.
    Assembling(Box<Assembly>),
    /// It is in the queue.
    Running(Operation),
    /// It was answered so.
    Done(Cached),
}

/// A reply that is kept.
#[derive(Clone, Copy)]
pub(crate) struct Cached {
    pub operation: Operation,
    pub status: Status,
    pub detail: u64,
    /// What the answers to CLAIM carry.
    pub holder: Option<Holder>,
}

/// An opening that waits for the end of the commands before it.
pub(crate) struct OpenWork {
    port: PortId,
    pub origin: Origin,
    request: SessionRequest,
    handshake: Option<Box<Handshake>>,
}

impl Sessions {
    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.open.get_mut(&id)
    }

    /// Ends a session. What its client hasn't heard of it reads in its next one, and relies on that.
    pub(crate) fn close(&mut self, id: SessionId) {
        let Some(session) = self.open.remove(&id) else { return };
        let has_begun = |slot: &Slot| !matches!(slot, Slot::Assembling(_));
        self.unheard |= session.slots.values().any(has_begun);
    }

    /// Ends the sessions of those with whom somebody like that doesn't speak.
    pub(crate) fn end_unfit(&mut self, former: Security, identity: &Identity) {
        let is_unfit = |opener: &Opener| {
            // A token that has come is proved at openings only, and either end may have to learn of the other.
            let is_stranger =
                opener.key.is_some_and(|key| !identity.admits(&key) || identity.has_tokens());
            // One with keys doesn't outlast the demand for them: its client may open one without beside it.
            let has_more = opener.security <= former && opener.security > identity.least();
            is_stranger || has_more || !opener.is_local && opener.security < identity.least()
        };
        let unfit = self.open.iter().filter(|(_, session)| is_unfit(&session.opener));
        let unfit: Vec<SessionId> = unfit.map(|(id, _)| *id).collect();
        unfit.into_iter().for_each(|id| self.close(id));
        self.opening.retain(|_, opener| !is_unfit(opener));
    }

    /// Memory is wanted: incomplete commands of which nothing comes any more give theirs back.
    pub(crate) fn drop_stale(&mut self, now: Instant) {
        let is_stale = |slot: &Slot| matches!(slot, Slot::Assembling(some) if some.is_stale(now));
        for session in self.open.values_mut() {
            session.slots.retain(|_, slot| !is_stale(slot));
        }
    }

    pub(crate) fn end_all(&mut self) {
        *self = Sessions::default();
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len() + self.opening.len()
    }

    /// Makes room for one more; false when all are busy. Those without keys go first, then strangers', then its own, and none
    /// with keys for one without, nor one that belongs for a stranger's.
    fn make_room(&mut self, opener: &Opener) -> bool {
        if self.len() < SESSIONS_MAX {
            return true;
        }
        let may_go = |session: &Session| {
            let is_lesser = session.opener.key.is_none() || opener.key.is_some();
            let is_lesser = is_lesser && (opener.belongs || !session.opener.belongs);
            session.running == 0 && (opener.is_local || is_lesser)
        };
        let idle = self.open.iter().filter(|(_, session)| may_go(session));
        let first = idle.min_by_key(|(_, session)| {
            let is_others = session.opener.key != opener.key;
            (session.opener.key.is_some(), session.opener.belongs, is_others, session.last_used)
        });
        let first = first.map(|(id, _)| *id);
        first.inspect(|id| self.close(*id)).is_some()
    }

    /// Whose session that is, or will be.
    fn opener(&self, id: SessionId) -> Option<&Opener> {
        self.opening.get(&id).or_else(|| self.open.get(&id).map(|session| &session.opener))
    }

    /// Whether it is open, and its client may not know that.
    fn owes_answer(&self, id: SessionId) -> bool {
        let owes = |keys: &SessionKeys| keys.answer.is_some();
        self.open.get(&id).is_some_and(|session| session.keys.as_ref().is_none_or(owes))
    }

    /// Ends what this client had; whether there was anything.
    fn end_former(&mut self, opener: &Opener) -> bool {
        let before = self.len();
        self.open.retain(|_, session| !opener.replaces(&session.opener));
        self.opening.retain(|_, former| !opener.replaces(former));
        self.len() < before
    }
}

impl Session {
    fn new(opener: Opener, keys: Option<SessionKeys>, now: Instant) -> Session {
        Session {
            opener,
            keys,
            floor: 0,
            slots: BTreeMap::new(),
            executed: 0,
            running: 0,
            budget: Budget::new(SESSION_BYTES_MAX),
            shown: None,
            last_used: now,
        }
    }

    /// The key that its client has proved to have.
    pub(crate) fn peer(&self) -> Option<PublicKey> {
        self.opener.key
    }

    /// Takes note of a request: whether its number lies in the window.
    pub(crate) fn admit(&mut self, request: &SessionRequest, now: Instant) -> bool {
        self.last_used = now;
        if request.floor > self.floor {
            self.floor = request.floor;
            self.slots = self.slots.split_off(&self.floor);
        }
        let top = self.floor.saturating_add(WINDOW_MAX);
        (self.floor..top).contains(&request.sequence)
    }

    pub(crate) fn slot(&self, sequence: u64) -> Option<&Slot> {
        self.slots.get(&sequence)
    }

    /// The incomplete command that a fragment belongs to, begun with it if it is the first; `None` where
    /// there is no memory for that.
    pub(crate) fn assembly(
        &mut self,
        fragment: &SessionRequest,
        target: &Rc<Budget>,
        now: Instant,
    ) -> Option<&mut Assembly> {
        let sequence = fragment.sequence;
        if !self.slots.contains_key(&sequence) {
            let assembly = Assembly::begin(*fragment, now, [&self.budget, target])?;
            self.slots.insert(sequence, Slot::Assembling(assembly));
        }
        match self.slots.get_mut(&sequence)? {
            Slot::Assembling(assembly) => Some(assembly),
            Slot::Running(_) | Slot::Done(_) => None,
        }
    }

    /// The data of a command that was incomplete until now. To be begun at once.
    pub(crate) fn assembled(&mut self, sequence: u64) -> Option<Buffer> {
        match self.slots.remove(&sequence)? {
            Slot::Assembling(assembly) => Some(assembly.into_data()),
            Slot::Running(_) | Slot::Done(_) => None,
        }
    }

    pub(crate) fn begin(&mut self, sequence: u64, operation: Operation) {
        self.running += 1;
        if operation.is_once() {
            self.slots.insert(sequence, Slot::Running(operation));
        }
    }

    /// A command in the queue is done.
    pub(crate) fn end(&mut self, sequence: u64, cached: Cached) {
        self.running = self.running.saturating_sub(1);
        self.remember(sequence, cached);
    }

    /// A number was answered. The slot is kept unless the floor passed meanwhile.
    pub(crate) fn remember(&mut self, sequence: u64, cached: Cached) {
        self.executed = self.executed.max(sequence);
        if cached.operation.is_once() && sequence >= self.floor {
            self.slots.insert(sequence, Slot::Done(cached));
        }
    }
}

/// A message of command 0xF0 has arrived.
pub(crate) fn handle(export: &mut Export, shared: &mut Shared, port: &PortState, frame: &[u8]) {
    let parsed = SessionRequest::parse(frame).ok();
    let Some((request, payload)) = parsed.filter(|(asked, _)| asked.version <= shared.newest)
    else {
        return export.meter.count(Counter::Malformed);
    };
    let client = request.header.source;
    if !export.hears(port.trusted, client)
        || !export.permits(port.trusted, AccessOperation::Read, client)
    {
        return export.meter.count(Counter::Denied);
    }
    match request.operation {
        Operation::Hello => hello(export, shared, port, &request, payload),
        Operation::Open => open(export, shared, port, &request, payload),
        _ => command::handle(export, shared, port, request, Message { frame, payload }),
    }
}

fn hello(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    request: &SessionRequest,
    payload: &[u8],
) {
    let Ok((client, incarnation)) = OpenPayload::parse_hello(payload) else { return };
    let at = at(export);
    let target = shared.greeting.nonce(client, incarnation, at, shared.now);
    let opening = OpenPayload { client, target, incarnation };
    let session = SessionId::derive(&opening, at.instance, at.address);
    let wants_offer = request.lba == WANTS_OFFER;
    let offer = shared.identity.as_deref().filter(|_| wants_offer).map(keyed::offer);
    let answered = reply(export, shared, port, request, Status::Ok);
    let answered = SessionReply { session, detail: shared.newest.offer(), ..answered };
    let payload = OpenPayload::emit_hello_reply(target, offer.as_ref());
    shared.send(port.id, answered.emit(payload));
}

fn at(export: &Export) -> At {
    At { address: export.address(), instance: export.device.instance }
}

fn open(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    request: &SessionRequest,
    payload: &[u8],
) {
    let Ok(opening) = OpenPayload::parse(payload) else { return };
    let (id, at) = (request.session, at(export));
    let ask = OpenPayload::ask_of(payload);
    if request.instance == at.instance
        && let Some(opener) = export.sessions.opener(id)
    {
        // Somebody was first with what this one was given, who heard it: another opening is needed.
        if opener.ask.as_deref() != ask {
            return no_session(export, shared, port, request);
        }
        // The answer got lost, or this is a replay: it changes nothing either way.
        return match export.sessions.owes_answer(id) {
            true => welcome(export, shared, port, request),
            false => export.meter.count(Counter::Repeated),
        };
    }
    let derived = SessionId::derive(&opening, request.instance, at.address);
    if request.instance != at.instance
        || derived != id
        || !shared.greeting.knows(&opening, at, shared.now)
    {
        return no_session(export, shared, port, request);
    }
    if !export.has_room(0, shared.now) {
        return export.meter.count(Counter::QueueFull);
    }
    let handshake = match keyed::admit(shared, export, port, request, &opening, ask) {
        Admission::Without => None,
        Admission::With(handshake) => Some(handshake),
        Admission::Refused(handshake) => {
            export.meter.count(Counter::Denied);
            let refused = IoError::Refused(RefusalReason::AccessDenied);
            return turn_away(export, shared, port, request, handshake, refused);
        }
        Admission::Dropped(why) => return export.meter.count(why),
    };
    let key = handshake.as_ref().map(|handshake| handshake.peer());
    let is_own = keyed::is_own(shared, key.as_ref());
    let grant = export.device.grant.as_deref();
    let is_named = key.as_ref().is_some_and(|key| grant.is_some_and(|grant| grant.names(key)));
    let is_let_in = if grant.is_some() { is_named } else { is_own };
    let is_barred = !port.trusted && !is_let_in;
    let opener = Opener {
        incarnation: opening.incarnation,
        belongs: is_own || is_named,
        key,
        security: handshake.as_ref().map_or(Security::None, |handshake| handshake.security()),
        is_local: port.trusted && handshake.is_none(),
        ask: ask.map(Rc::from),
    };
    export.sessions.unheard |= export.sessions.end_former(&opener);
    if !export.sessions.make_room(&opener) {
        return export.meter.count(Counter::SessionLimit);
    }
    let secret = shared.draw();
    shared.greeting.used(id, shared.now, secret);
    // Commands of this client's earlier sessions may be in the queue even if those have ended. Who isn't obeyed has none
    // there that would be carried out, and holds nobody up, as anybody can make a key: before anything of his is carried
    // out there is a claim that lets him in, and that waits for all.
    if !is_barred && (export.sessions.unheard || export.queue.len() > 0) {
        export.sessions.opening.insert(id, opener);
        let origin = export.meter.origin(shared.now);
        let work = OpenWork { port: port.id, origin, request: *request, handshake };
        export.enqueue(Access::Barrier, 0, Work::Open(work));
        return;
    }
    establish(export, shared, port, request, opener, handshake);
}

/// The session is open, and its client hears of it.
fn establish(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    request: &SessionRequest,
    opener: Opener,
    handshake: Option<Box<Handshake>>,
) {
    let keys = match handshake {
        None => None,
        Some(handshake) => {
            let info = export_info(export, shared, port, request);
            let said = handshake.with_proof(&info.emit());
            match handshake.answer(&said) {
                None => return export.meter.count(Counter::Malformed),
                keys => keys,
            }
        }
    };
    export.meter.count(Counter::SessionsOpened);
    let session = Session::new(opener, keys, shared.now);
    export.sessions.open.insert(request.session, session);
    welcome(export, shared, port, request);
}

/// There is no session; why, its client hears by the keys that it would have had, so that nobody says so in the
/// target's name.
fn turn_away(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    request: &SessionRequest,
    handshake: Option<Box<Handshake>>,
    error: IoError,
) {
    let (status, detail) = Status::of(error);
    let answer = SessionReply { detail, ..reply(export, shared, port, request, status) };
    let frame = match handshake.and_then(|handshake| handshake.answer(&[])) {
        Some(mut known) => {
            let (sealer, now) = (&mut known.keys.sealer, shared.now);
            let payload = known.answer.unwrap_or_else(Buffer::empty);
            answer.emit_sealed(payload, Some(Sealing { sealer, now }))
        }
        None => answer.emit(Buffer::empty()),
    };
    shared.send(port.id, frame);
}

/// All commands before an opening have completed: now the medium. Not for an opening that a newer one
/// has made void: the openings of a client that waited for a disk that hung would each cost a flush,
/// and while those last the client gives up on the newest too.
pub(crate) fn start_open(export: &mut Export, shared: &mut Shared, work: &OpenWork) -> Start {
    let is_wanted = export.sessions.opening.contains_key(&work.request.session);
    if work.request.instance != export.device.instance || !is_wanted {
        if let Some(port) = shared.ports.get(&work.port).cloned() {
            no_session(export, shared, &port, &work.request);
        }
        return Start::Answered;
    }
    export.sessions.unheard = false;
    Start::Io(IoOperation::Device(block::Operation::Flush(export.device.instance)))
}

/// The medium is flushed: the client hears of its session.
pub(crate) fn finish_open(
    export: &mut Export,
    shared: &mut Shared,
    work: &mut OpenWork,
    result: IoResult,
) {
    let request = &work.request;
    // Of a disk that was away for a moment a flush is wanted still. One that failed isn't tried again, as
    // clients hear by their own.
    export.sessions.unheard |= matches!(result, Err(error) if error != IoError::FlushFailed);
    // A still newer opening of the same client, or a restart, has made this one void.
    let wanted = export.sessions.opening.remove(&request.session);
    let Some(port) = shared.ports.get(&work.port).cloned() else { return };
    let Some(opener) = wanted else { return no_session(export, shared, &port, request) };
    let handshake = work.handshake.take();
    match result {
        Ok(_) => establish(export, shared, &port, request, opener, handshake),
        Err(error) => {
            export.meter.count(Counter::of_error(error));
            turn_away(export, shared, &port, request, handshake, error);
        }
    }
}

fn export_info(
    export: &Export,
    shared: &Shared,
    port: &PortState,
    request: &SessionRequest,
) -> ExportInfo {
    ExportInfo {
        sectors: export.device.geometry.sectors,
        physical_block_bytes: export.device.geometry.physical_block_bytes,
        message_sectors_max: export.session_sectors_max(port, request.version),
        read_only: export.is_read_only(),
        window: WINDOW_MAX as u32,
        holder: export.holder(shared.now),
        node_id: shared.node.id,
        node_name: shared.node.name.clone(),
        node_version: env!("CARGO_PKG_VERSION").to_owned(),
        export_name: export.options.name.clone(),
        drive_serial: export.options.drive_serial.clone(),
    }
}

fn welcome(export: &mut Export, shared: &mut Shared, port: &PortState, request: &SessionRequest) {
    let keys = export.sessions.open.get(&request.session).and_then(|open| open.keys.as_ref());
    let payload = match keys {
        Some(keys) => keys.answer.clone().unwrap_or_else(Buffer::empty),
        None => export_info(export, shared, port, request).emit(),
    };
    let answer = reply(export, shared, port, request, Status::Ok);
    keyed::send(export, shared, port, &answer, payload, 0);
}

/// The session or the instance isn't known: the client opens anew.
pub(crate) fn no_session(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    request: &SessionRequest,
) {
    let answer = reply(export, shared, port, request, Status::NoSession);
    shared.send(port.id, answer.emit(Buffer::empty()));
}

/// The answer to a request, with what every answer carries.
pub(crate) fn reply(
    export: &Export,
    shared: &Shared,
    port: &PortState,
    request: &SessionRequest,
    status: Status,
) -> SessionReply {
    let takes = match request.version {
        SessionVersion::One => 0,
        _ => session_sectors_max(port.mtu_bytes, request.version),
    };
    let executed = export.sessions.open.get(&request.session).map_or(0, |session| session.executed);
    SessionReply {
        header: request.header.answer(port.mac, export.address()),
        version: request.version,
        operation: request.operation,
        status,
        detail: 0,
        session: request.session,
        instance: export.device.instance,
        epoch: export.device.ownership.holder().epoch,
        sequence: request.sequence,
        executed,
        clock: shared.now,
        sectors: request.sectors,
        first: 0,
        takes: u16::try_from(takes).unwrap_or(u16::MAX),
        seal: Seal::default(),
    }
}

/// What an export's present instance has to be for a request to be executed.
pub(crate) fn is_present(export: &Export, instance: Instance) -> bool {
    export.device.instance == instance
}
