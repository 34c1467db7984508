//! Commands within a session, each at most once.

use std::rc::Rc;

use block::{
    Access, Answer, Buffer, Claim, Durability, IoError, Lba, OwnerId, RefusalReason, SECTOR_BYTES,
    SectorRange, Trust,
};

use seal::{Grant, Seal};

use crate::Shared;
use crate::export::{Asker, Export, PortState};
use crate::io::{IoOperation, IoResult, IoValue, Start, Work};
use crate::merge::Kind;
use crate::meter::Origin;
use crate::session::judge::{Claimed, Verdict, changes, is_owners, is_showing, judge, permit};
use crate::session::keyed::{self, Message};
use crate::session::{Cached, Slot, is_present, no_session, reply};
use crate::stats::{Counter, Moved};
use crate::trace::{Traced, TracedStatus};
use aoe_wire::PortId;
use aoe_wire::{
    HolderPayload, MacAddr, Operation, ParseError, SectorMap, SessionReply, SessionRequest,
    SessionVersion, Status,
};

/// A session's command that waits for its turn or for the device.
pub(crate) struct SessionWork {
    port: PortId,
    pub origin: Origin,
    request: SessionRequest,
    /// What the device is asked about.
    range: SectorRange,
    /// READ: the sectors that the client lacks, if that isn't all.
    wanted: Option<Box<SectorMap>>,
    data: Buffer,
    claimed: Claimed,
    asker: Asker,
    /// It is with the device.
    pub begun: bool,
}

impl SessionWork {
    /// Bytes that count for its client's rate.
    pub(crate) fn cost(&self) -> Option<u64> {
        match self.request.operation {
            Operation::Claim => None,
            Operation::Read | Operation::Write => Some(self.range.len_bytes()),
            _ => Some(0),
        }
    }

    /// Whose change of the disk is with the device; nobody's whom no list binds.
    pub(crate) fn begun_by(&self) -> Option<MacAddr> {
        let shown = self.begun && !self.asker.trusted && changes(&self.request);
        shown.then_some(self.request.header.source)
    }

    /// Whether it is nothing but sectors that are moved, and which way.
    pub(crate) fn transfers(&self) -> Option<Kind> {
        match self.request.operation {
            Operation::Read => Some(Kind::Read),
            Operation::Write => Some(Kind::Write),
            _ => None,
        }
    }
}

pub(crate) fn handle(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    request: SessionRequest,
    message: Message<'_>,
) {
    let mut opened = std::mem::take(&mut shared.opened);
    execute(export, shared, port, request, message, &mut opened);
    shared.opened = opened;
}

fn execute<'a>(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    request: SessionRequest,
    message: Message<'a>,
    opened: &'a mut Vec<u8>,
) {
    let now = shared.now;
    let least = shared.least();
    let (present, version) = (is_present(export, request.instance), request.version);
    let Some(session) = export.sessions.get_mut(request.session).filter(|_| present) else {
        if request.last {
            no_session(export, shared, port, &request);
        }
        return;
    };
    let payload = match keyed::open(session, least, port, &request, message, opened) {
        Ok(payload) => payload,
        Err(why) => return shared.drop(export, Traced::session(port.id, &request), why),
    };
    // Each fragment of a command, and each repetition, has another one.
    let request = SessionRequest { seal: Seal::default(), ..request };
    let (key, shown) = (session.peer(), session.shown.clone());
    let asker = keyed::asker(export, shared, port.trusted, key);
    let claimed = match request.operation {
        Operation::Claim => HolderPayload::parse_claim(payload),
        _ => Ok((OwnerId::NONE, Trust::Unchanged)),
    };
    let Ok((owner, trust)) = claimed else { return export.meter.count(Counter::Malformed) };
    // Who has no key can't have a disk obey one.
    let has_key = asker.trusted || asker.key.is_some();
    let trust = if has_key { trust } else { Trust::Unchanged };
    let shown = match &trust {
        Trust::Follow(grant) if is_showing(&request) => Grant::parse(grant).map(Rc::new),
        _ => shown,
    };
    let claimed = Claimed { owner, trust, shown };
    let is_owners = is_owners(export, &request, asker, &claimed);
    let Some(session) = export.sessions.get_mut(request.session) else { return };
    if !session.admit(&request, now) {
        if !request.last {
            return shared.drop(export, Traced::session(port.id, &request), Counter::Repeated);
        }
        return answer(export, shared, port, &request, Status::OutsideWindow, 0, Buffer::empty());
    }
    if is_owners {
        export.owner_heard = Some(shared.arrived);
    }
    if request.operation == Operation::Close {
        answer(export, shared, port, &request, Status::Ok, 0, Buffer::empty());
        return export.sessions.close(request.session);
    }
    if request.operation.is_once() {
        match session.slot(request.sequence) {
            Some(Slot::Done(cached)) if cached.operation == request.operation && request.last => {
                let cached = *cached;
                export.meter.count(Counter::Replayed);
                let Cached { status, detail, holder, .. } = cached;
                let payload = holder.map_or_else(Buffer::empty, HolderPayload::emit);
                return answer(export, shared, port, &request, status, detail, payload);
            }
            // It runs still, or is answered: of all the fragments of a command only one is.
            Some(Slot::Running(operation) | Slot::Done(Cached { operation, .. }))
                if *operation == request.operation =>
            {
                let traced = Traced::session(port.id, &request);
                return shared.drop(export, traced, Counter::Repeated);
            }
            Some(Slot::Assembling(assembly)) if assembly.agrees(&request) => {}
            // One number, two commands: the client contradicts itself.
            Some(_) => return export.meter.count(Counter::Malformed),
            None => {}
        }
    }
    let judged = permit(export, port.trusted, &request).and_then(|()| {
        judge(export, now, export.session_sectors_max(port, version), &request, asker, &claimed)
    });
    match judged {
        Ok(Verdict::Queue(access)) => {
            enqueue(export, shared, port, request, payload, (asker, claimed), access);
        }
        Ok(Verdict::Holder) => {
            if let Some(session) = export.sessions.get_mut(request.session) {
                session.shown = claimed.shown;
            }
            let payload = HolderPayload::emit(export.holder(shared.now));
            export.meter.count(Counter::Others);
            conclude(export, shared, port, &request, Status::Ok, 0, payload);
        }
        Ok(Verdict::Health(payload)) => {
            export.meter.count(Counter::Others);
            conclude(export, shared, port, &request, Status::Ok, 0, payload);
        }
        Err(error) => {
            export.meter.count(Counter::of_error(error));
            let (status, detail) = Status::of(error);
            conclude(export, shared, port, &request, status, detail, Buffer::empty());
        }
    }
}

fn enqueue(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    request: SessionRequest,
    payload: &[u8],
    (asker, claimed): (Asker, Claimed),
    access: Access,
) {
    let Ok(wanted) = wanted_of(&request, payload) else {
        return export.meter.count(Counter::Malformed);
    };
    let (range, access) = match &wanted {
        Some(wanted) => {
            let hull = wanted.hull();
            let start = Lba(request.lba.0 + u64::from(hull.start));
            let range = SectorRange::new(start, u64::from(hull.end - hull.start));
            (range, Access::Read(range))
        }
        None => (request.range(), access),
    };
    let bytes = match request.operation {
        Operation::Read | Operation::Write => range.len_bytes(),
        _ => 0,
    };
    // Also for a fragment that completes nothing: it would be in vain.
    if !export.has_room(bytes, shared.now) {
        return shared.drop(export, Traced::session(port.id, &request), Counter::QueueFull);
    }
    let data = match request.operation {
        Operation::Write => match gather(export, shared, port, &request, payload) {
            Some(data) => data,
            None => return,
        },
        _ => Buffer::empty(),
    };
    let Some(session) = export.sessions.get_mut(request.session) else { return };
    session.begin(request.sequence, request.operation);
    let work = SessionWork {
        port: port.id,
        origin: export.meter.origin(shared.now),
        request,
        range,
        wanted,
        data,
        claimed,
        asker,
        begun: false,
    };
    export.enqueue(access, bytes, Work::Session(work));
}

/// Which sectors a READ wants, if it doesn't want all.
fn wanted_of(
    request: &SessionRequest,
    payload: &[u8],
) -> Result<Option<Box<SectorMap>>, ParseError> {
    if request.operation != Operation::Read || payload.is_empty() {
        return Ok(None);
    }
    let wanted = SectorMap::parse(payload, request.sectors)?;
    if wanted.is_empty() { Err(ParseError::Length) } else { Ok(Some(Box::new(wanted))) }
}

/// All of the data of a write, if nothing of it is missing any more: the command has arrived. Else the
/// client, if it waits, hears what is missing.
fn gather(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    request: &SessionRequest,
    payload: &[u8],
) -> Option<Buffer> {
    if payload.len() as u64 == request.range().len_bytes() {
        return Some(Buffer::copy_of(payload));
    }
    let session = export.sessions.get_mut(request.session)?;
    let Some(assembly) = session.assembly(request, &shared.assembling, shared.now) else {
        shared.lacks_memory = true;
        shared.drop(export, Traced::session(port.id, request), Counter::QueueFull);
        return None;
    };
    let is_new = assembly.add(request.first, payload, shared.now);
    let missing = assembly.missing();
    if missing.is_empty() {
        return session.assembled(request.sequence);
    }
    let missing = request.last.then(|| missing.emit());
    if !is_new {
        export.meter.count(Counter::Repeated);
    }
    if let Some(missing) = missing {
        answer(export, shared, port, request, Status::Incomplete, 0, missing);
    }
    None
}

/// A command's turn has come.
pub(crate) fn start(export: &mut Export, shared: &mut Shared, work: &mut SessionWork) -> Start {
    let request = work.request;
    if !is_present(export, request.instance) {
        if let Some(port) = shared.ports.get(&work.port).cloned() {
            no_session(export, shared, &port, &request);
        }
        return Start::Answered;
    }
    if !export.hears(work.asker.trusted, request.header.source) {
        forget(export, shared, work);
        return Start::Answered;
    }
    // What fits into a message was judged at arrival.
    let asker = keyed::asker(export, shared, work.asker.trusted, work.asker.key);
    let judged = permit(export, asker.trusted, &request)
        .and_then(|()| judge(export, shared.now, u32::MAX, &request, asker, &work.claimed));
    match judged {
        Ok(Verdict::Queue(_)) => {}
        // It never is in the queue.
        Ok(Verdict::Health(_)) => {
            finish(export, shared, work, Err(IoError::Unsupported));
            return Start::Answered;
        }
        Ok(Verdict::Holder) => {
            let held = IoValue::Device(Answer::Holder(export.holder(shared.now)));
            let done = Ok(block::Completion::new(export.device.instance, held));
            finish(export, shared, work, done);
            return Start::Answered;
        }
        Err(error) => {
            finish(export, shared, work, Err(error));
            return Start::Answered;
        }
    }
    let durability = if request.durable { Durability::Durable } else { Durability::Volatile };
    Start::Io(match request.operation {
        Operation::Read => IoOperation::Device(block::Operation::Read(work.range)),
        Operation::Write => IoOperation::Device(block::Operation::Write {
            start: request.lba,
            // Kept: when writing together with others fails, it is written once more alone.
            data: work.data.clone(),
            durability,
        }),
        Operation::Discard => IoOperation::Device(block::Operation::Discard(request.range())),
        Operation::WriteZeroes => IoOperation::Device(block::Operation::WriteZeroes {
            range: request.range(),
            durability,
        }),
        Operation::Claim => IoOperation::Device(block::Operation::Claim(Claim {
            epoch: request.epoch,
            owner: work.claimed.owner,
            force: request.force,
            trust: work.claimed.trust.clone(),
        })),
        _ => IoOperation::Device(block::Operation::Flush(request.instance)),
    })
}

/// To who was taken off the mask list meanwhile, nothing is there any more. The number counts as refused
/// nevertheless: should the client be heard again, its repetition must not run.
fn forget(export: &mut Export, shared: &mut Shared, work: &SessionWork) {
    let request = &work.request;
    let (status, detail) = Status::of(IoError::Refused(RefusalReason::AccessDenied));
    if let Some(session) = export.sessions.get_mut(request.session) {
        let cached = Cached { operation: request.operation, status, detail, holder: None };
        session.end(request.sequence, cached);
    }
    shared.drop(export, Traced::session(work.port, request), Counter::Denied);
}

/// The device has answered.
pub(crate) fn finish(
    export: &mut Export,
    shared: &mut Shared,
    work: &SessionWork,
    result: IoResult,
) {
    let (request, range) = (&work.request, work.range);
    let (status, detail, payload) = match result.map(|completion| completion.value) {
        Ok(IoValue::Device(Answer::Data(data))) if data.len() as u64 == range.len_bytes() => {
            export.meter.moved(Moved::Read, range.len_bytes(), shared.now);
            (Status::Ok, 0, data)
        }
        Ok(IoValue::Device(Answer::Data(_))) => failure(export, IoError::Medium(range)),
        // No device is asked for that.
        Ok(IoValue::Device(Answer::Health(_))) => failure(export, IoError::Unsupported),
        Ok(IoValue::Device(Answer::Holder(holder))) => {
            export.meter.count(Counter::Others);
            (Status::Ok, 0, HolderPayload::emit(holder))
        }
        Ok(IoValue::Device(Answer::Done) | IoValue::Smart(_)) => {
            match request.operation {
                Operation::Write => {
                    export.meter.moved(Moved::Write, range.len_bytes(), shared.now);
                }
                Operation::Flush => export.meter.moved(Moved::Flush, 0, shared.now),
                _ => export.meter.count(Counter::Others),
            }
            (Status::Ok, 0, Buffer::empty())
        }
        Err(error) => failure(export, error),
    };
    let Some(session) = export.sessions.get_mut(request.session) else {
        export.sessions.unheard |= request.operation.is_once();
        return;
    };
    let holder = HolderPayload::parse(&payload).ok();
    let cached = Cached { operation: request.operation, status, detail, holder };
    session.end(request.sequence, cached);
    let Some(port) = shared.ports.get(&work.port).cloned() else { return };
    match (request.operation, status) {
        (Operation::Read, Status::Ok) => answer_read(export, shared, &port, work, &payload),
        _ => answer(export, shared, &port, request, status, detail, payload),
    }
}

/// Sends what was read, in as many frames as that takes on this path.
fn answer_read(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    work: &SessionWork,
    data: &Buffer,
) {
    let request = &work.request;
    let traced = Traced::session(port.id, request);
    shared.trace.note(shared.now, export, traced, TracedStatus::Session(Status::Ok));
    let answer = reply(export, shared, port, request, Status::Ok);
    let sectors = match (request.version, request.takes) {
        (SessionVersion::One, _) => request.sectors,
        (_, 0) => u32::from(answer.takes),
        (_, takes) => u32::from(takes.min(answer.takes)),
    };
    let all = SectorMap::full(request.sectors);
    let skipped = (work.range.start.0 - request.lba.0) as usize;
    for part in work.wanted.as_deref().unwrap_or(&all).fragments(sectors) {
        let [start, end] =
            [part.start, part.end].map(|sector| (sector as usize - skipped) * SECTOR_BYTES);
        let fragment = SessionReply { first: part.start as u16, ..answer };
        let together_bytes = together_bytes(request, &answer);
        keyed::send(export, shared, port, &fragment, data.slice(start, end), together_bytes);
    }
}

fn failure(export: &mut Export, error: IoError) -> (Status, u64, Buffer) {
    export.meter.count(Counter::of_error(error));
    let (status, detail) = Status::of(error);
    (status, detail, Buffer::empty())
}

/// Answers a command that never was in the queue, and remembers the answer.
fn conclude(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    request: &SessionRequest,
    status: Status,
    detail: u64,
    payload: Buffer,
) {
    let holder = HolderPayload::parse(&payload).ok();
    let cached = Cached { operation: request.operation, status, detail, holder };
    if let Some(session) = export.sessions.get_mut(request.session) {
        session.remember(request.sequence, cached);
    }
    answer(export, shared, port, request, status, detail, payload);
}

fn answer(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    request: &SessionRequest,
    status: Status,
    detail: u64,
    payload: Buffer,
) {
    let traced = Traced::session(port.id, request);
    shared.trace.note(shared.now, export, traced, TracedStatus::Session(status));
    let reply = SessionReply { detail, ..reply(export, shared, port, request, status) };
    keyed::send(export, shared, port, &reply, payload, together_bytes(request, &reply));
}

/// How long a frame may be that carries an answer among others: what both ends take.
fn together_bytes(request: &SessionRequest, reply: &SessionReply) -> usize {
    request.together_bytes(request.takes.min(reply.takes))
}
