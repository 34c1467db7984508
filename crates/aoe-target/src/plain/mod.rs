//! Plain AoE: ATA commands of clients that know nothing of sessions.

pub(crate) mod change;
pub(crate) mod features;
pub(crate) mod rate;
pub(crate) mod recent;
pub(crate) mod remembered;
pub(crate) mod smart;

use block::{
    Access, Answer, Buffer, Completion, Durability, IoError, Operation, SECTOR_BYTES, SectorRange,
};

use crate::export::{Export, OnRefusal, PortState};
use crate::fenced::would_pass_for_ours;
use crate::io::{IoOperation, IoResult, IoValue, Start, Work};
use crate::merge::{BlockLimits, Kind};
use crate::meter::Origin;
use crate::plain::recent::{Print, Verdict as Repeated};
use crate::policy::AccessOperation;
use crate::stats::{Counter, Moved};
use crate::trace::{Traced, TracedStatus};
use crate::{FIRMWARE_TEXT, Shared};
use aoe_wire::PortId;
use aoe_wire::{AoeError, AtaCommand, AtaReply, AtaRequest, Header, Identify, MacAddr};
use seal::Security;

/// An ATA command that waits for its turn or for the device.
pub(crate) struct PlainWork {
    port: PortId,
    /// It came from a program of this machine.
    trusted: bool,
    pub origin: Origin,
    request: AtaRequest,
    data: Buffer,
    /// A write that may be answered before it is on stable storage.
    volatile: bool,
    /// It is with the device.
    pub begun: bool,
}

impl PlainWork {
    /// Bytes that count for its client's rate.
    pub(crate) fn cost(&self) -> Option<u64> {
        match self.request.command {
            AtaCommand::SET_FEATURES => None,
            AtaCommand::FLUSH_CACHE | AtaCommand::FLUSH_CACHE_EXT | AtaCommand::SMART => Some(0),
            _ => Some(u64::from(self.request.count) * SECTOR_BYTES as u64),
        }
    }

    /// Whether it is nothing but sectors that are moved, and which way.
    pub(crate) fn transfers(&self) -> Option<Kind> {
        match self.request.command {
            AtaCommand::READ | AtaCommand::READ_EXT => Some(Kind::Read),
            AtaCommand::WRITE | AtaCommand::WRITE_EXT => Some(Kind::Write),
            _ => None,
        }
    }

    /// Whose write is with the device; nobody's whom no list binds.
    pub(crate) fn begun_by(&self) -> Option<MacAddr> {
        let shown = self.begun && !self.trusted && self.transfers() == Some(Kind::Write);
        shown.then_some(self.request.header.source)
    }

    /// Whether it is for the disk itself.
    pub(crate) fn is_smart(&self) -> bool {
        self.request.command == AtaCommand::SMART
    }
}

/// Questions to the disk itself that may wait: each may take a disk seconds, and clients repeat.
const QUESTIONS_MAX: usize = 8;

/// What to do with a command, decided once at the door.
enum Verdict {
    Answer(AtaReply, Buffer),
    Refuse(AoeError),
    Silence,
    Queue(Access),
    /// The disk itself is asked, with this to be written.
    Ask(Buffer),
}

pub(crate) fn handle(export: &mut Export, shared: &mut Shared, port: &PortState, frame: &[u8]) {
    let Ok((request, data)) = AtaRequest::parse(frame) else {
        let known = |header: &Header| port.trusted || export.options.access.knows(header.source);
        if let Some(header) = Header::parse(frame).ok().filter(known) {
            shared.refuse(export, port, &header, AoeError::BadArgument);
        }
        return;
    };
    let verdict = judge(export, port, shared.least(), &request, data);
    if !matches!(verdict, Verdict::Queue(Access::Write(_))) {
        note_tag(export, shared, &request);
    }
    match verdict {
        Verdict::Answer(reply, data) => {
            export.meter.count(Counter::Others);
            answer(export, shared, port.id, &request, reply, data);
        }
        Verdict::Refuse(error) => shared.refuse(export, port, &request.header, error),
        Verdict::Silence => shared.drop(export, Traced::ata(port.id, &request), Counter::Denied),
        Verdict::Queue(access) => {
            let data = match access {
                Access::Write(range) => data.get(..range.len_bytes() as usize).unwrap_or_default(),
                _ => &[],
            };
            enqueue(export, shared, port, request, data, access);
        }
        Verdict::Ask(_) if export.questions >= QUESTIONS_MAX => {
            shared.drop(export, Traced::ata(port.id, &request), Counter::QueueFull);
        }
        Verdict::Ask(data) => enqueue(export, shared, port, request, &data, Access::Free),
    }
}

/// A command that writes no sectors tells something about its client's tags too.
fn note_tag(export: &mut Export, shared: &Shared, request: &AtaRequest) {
    let client = export.meter.origin(shared.now).client;
    let Some(recent) = export.meter.recent(client) else { return };
    match request.command {
        // Asked by one that begins.
        AtaCommand::IDENTIFY => recent.forget(),
        _ => recent.other(request.header.tag),
    }
}

/// Does what needs no waiting, if no earlier command must come first: reads what is in memory, writes
/// what may be volatile.
fn do_at_once(export: &mut Export, access: Access, data: &[u8]) -> Option<Completion<Answer>> {
    let device = export.nowait.as_ref()?;
    if !export.throttle.is_off() || export.queue.holds_up(access) {
        return None;
    }
    match access {
        Access::Read(range) => {
            let read = device.try_submit(Operation::Read(range))?;
            (read.instance == export.device.instance).then_some(read)
        }
        Access::Write(range) if export.write_cache => {
            if !export.merger.let_pass(range, BlockLimits::of(&export.device.geometry)) {
                return None;
            }
            let durability = Durability::Volatile;
            let write = Operation::Write { start: range.start, data, durability };
            let written = device.try_submit(write)?;
            export.set_instance(written.instance);
            Some(written)
        }
        _ => None,
    }
}

fn enqueue(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    request: AtaRequest,
    data: &[u8],
    access: Access,
) {
    let bytes = match access {
        Access::Read(range) | Access::Write(range) => range.len_bytes(),
        _ => 0,
    };
    if !export.has_room(bytes, shared.now) {
        return shared.drop(export, Traced::ata(port.id, &request), Counter::QueueFull);
    }
    let origin = export.meter.origin(shared.now);
    if let Access::Write(range) = access
        && answer_repetition(export, shared, port, &request, range, data)
    {
        return;
    }
    export.questions += usize::from(request.command == AtaCommand::SMART);
    let mut work = PlainWork {
        port: port.id,
        trusted: port.trusted,
        origin,
        request,
        data: Buffer::empty(),
        volatile: false,
        begun: false,
    };
    if let Some(done) = do_at_once(export, access, data) {
        work.volatile = matches!(access, Access::Write(_));
        return finish(export, shared, &work, Ok(done.map(IoValue::Device)));
    }
    if !data.is_empty() {
        work.data = Buffer::copy_of(data);
    }
    export.enqueue(access, bytes, Work::Plain(work));
}

/// Whether a write is a late duplicate of another. Then it has got what it gets.
fn answer_repetition(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    request: &AtaRequest,
    range: SectorRange,
    data: &[u8],
) -> bool {
    let client = export.meter.origin(shared.now).client;
    let print = Print { tag: request.header.tag, range, crc: block::crc32c(data) };
    let Some(recent) = export.meter.recent_of_writer(client) else { return false };
    match recent.write(print, shared.now) {
        Repeated::New => return false,
        Repeated::Waits => shared.drop(export, Traced::ata(port.id, request), Counter::Repeated),
        Repeated::Done => {
            export.meter.count(Counter::Replayed);
            let reply = AtaReply::to(request, request.header.answer(port.mac, export.address()));
            answer(export, shared, port.id, request, reply, Buffer::empty());
        }
    }
    true
}

fn judge(
    export: &mut Export,
    port: &PortState,
    least: Security,
    request: &AtaRequest,
    data: &[u8],
) -> Verdict {
    let header = request.header.answer(port.mac, export.address());
    let reply = AtaReply::to(request, header);
    let aborted = Verdict::Answer(reply.failed(AtaReply::ERROR_ABORTED), Buffer::empty());
    if !export.permits(port.trusted, needed(request), request.header.source) {
        // An error told to a search would be taken for a disk.
        let named = request.header.address.is_concrete();
        return if named { refusal(export, aborted) } else { Verdict::Silence };
    }
    if request.command == AtaCommand::IDENTIFY {
        return match request.count {
            1 => Verdict::Answer(reply, Buffer::copy_of(&identify(export).build())),
            _ => aborted,
        };
    }
    if !export.device.ownership.is_open_to_plain_clients() {
        export.meter.count(Counter::Refused);
        return aborted;
    }
    if !export.admits(port.trusted, request.header.source) {
        return refusal(export, aborted);
    }
    match request.command {
        AtaCommand::READ | AtaCommand::READ_EXT => {
            judge_transfer(export, port, request, reply, None)
        }
        AtaCommand::WRITE | AtaCommand::WRITE_EXT => {
            let range = SectorRange::new(request.lba(), u64::from(request.count));
            let demands_keys = least > Security::None && !port.trusted;
            // What a disk says of itself is for those to write who prove who they are.
            if demands_keys && would_pass_for_ours(range, data, export.device.geometry.sectors) {
                export.meter.count(Counter::Refused);
                return aborted;
            }
            judge_transfer(export, port, request, reply, Some(data))
        }
        AtaCommand::FLUSH_CACHE | AtaCommand::FLUSH_CACHE_EXT => Verdict::Queue(Access::Free),
        AtaCommand::CHECK_POWER_MODE => {
            Verdict::Answer(AtaReply { count: 0xff, ..reply }, Buffer::empty())
        }
        AtaCommand::SET_FEATURES => match features::switch(export, request) {
            Some(access) => Verdict::Queue(access),
            None => unsupported(export, aborted),
        },
        AtaCommand::SMART => match features::smart(export, port, request, data) {
            Some(command) => Verdict::Ask(command.data),
            None => unsupported(export, aborted),
        },
        _ => unsupported(export, aborted),
    }
}

fn needed(request: &AtaRequest) -> AccessOperation {
    match request.command {
        AtaCommand::WRITE | AtaCommand::WRITE_EXT => AccessOperation::Write,
        _ if features::is_change(request) => AccessOperation::Write,
        _ => AccessOperation::Read,
    }
}

/// Of reads, and of writes with the data that came with them.
fn judge_transfer(
    export: &mut Export,
    port: &PortState,
    request: &AtaRequest,
    reply: AtaReply,
    data: Option<&[u8]>,
) -> Verdict {
    let range = SectorRange::new(request.lba(), u64::from(request.count));
    let is_write = data.is_some();
    if request.count > export.plain_sectors_max(port)
        || data.is_some_and(|data| (data.len() as u64) < range.len_bytes())
    {
        return Verdict::Refuse(AoeError::BadArgument);
    }
    if !range.fits(export.device.geometry.sectors) {
        return failure(export, reply, IoError::OutOfRange(range), is_write);
    }
    if is_write && export.is_read_only() {
        return failure(export, reply, IoError::ReadOnly, true);
    }
    if request.count == 0 {
        return Verdict::Answer(reply, Buffer::empty());
    }
    Verdict::Queue(if is_write { Access::Write(range) } else { Access::Read(range) })
}

fn unsupported(export: &mut Export, aborted: Verdict) -> Verdict {
    export.meter.count(Counter::Refused);
    aborted
}

/// How a client hears that it isn't one of those who may.
fn refusal(export: &mut Export, aborted: Verdict) -> Verdict {
    match export.options.on_refusal {
        OnRefusal::AtaError => {
            export.meter.count(Counter::Refused);
            aborted
        }
        OnRefusal::AoeError => Verdict::Refuse(AoeError::Reserved),
        OnRefusal::Silent => Verdict::Silence,
    }
}

fn failure(export: &mut Export, reply: AtaReply, error: IoError, is_write: bool) -> Verdict {
    export.meter.count(Counter::of_error(error));
    Verdict::Answer(failed(reply, error, is_write), Buffer::empty())
}

/// A command's turn has come.
pub(crate) fn start(export: &mut Export, shared: &mut Shared, work: &mut PlainWork) -> Start {
    let request = &work.request;
    // A claim may have come between arrival and now.
    if !export.device.ownership.is_open_to_plain_clients() {
        let refused = Err(IoError::Refused(block::RefusalReason::AccessDenied));
        finish(export, shared, work, refused);
        return Start::Answered;
    }
    // And so may a mask list or a reservation: who was shut out has no turn any more.
    let client = request.header.source;
    if !export.hears(work.trusted, client) {
        ended(export, work, false);
        shared.drop(export, Traced::ata(work.port, &work.request), Counter::Denied);
        return Start::Answered;
    }
    // And so may other rules of the administrator.
    let permitted = export.permits(work.trusted, needed(request), client);
    if !permitted || !export.admits(work.trusted, client) {
        refuse_late(export, shared, work);
        return Start::Answered;
    }
    if work.transfers() == Some(Kind::Write) && export.is_read_only() {
        finish(export, shared, work, Err(IoError::ReadOnly));
        return Start::Answered;
    }
    let range = SectorRange::new(request.lba(), u64::from(request.count));
    Start::Io(match request.command {
        AtaCommand::READ | AtaCommand::READ_EXT => IoOperation::Device(Operation::Read(range)),
        AtaCommand::WRITE | AtaCommand::WRITE_EXT => {
            work.volatile = export.write_cache;
            let durability = if work.volatile { Durability::Volatile } else { Durability::Durable };
            // Kept: when writing together with others fails, it is written once more alone.
            let data = work.data.clone();
            IoOperation::Device(Operation::Write { start: range.start, data, durability })
        }
        AtaCommand::SMART => {
            let data = std::mem::replace(&mut work.data, Buffer::empty());
            match features::start_smart(request, data) {
                Some(operation) => operation,
                None => {
                    finish(export, shared, work, Err(IoError::Unsupported));
                    return Start::Answered;
                }
            }
        }
        AtaCommand::SET_FEATURES if request.feature == features::CACHE_ON => {
            export.write_cache = true;
            answer_switch(export, shared, work);
            return Start::Answered;
        }
        _ if export.flush_failed => {
            finish(export, shared, work, Err(IoError::FlushFailed));
            return Start::Answered;
        }
        _ if std::mem::take(&mut export.plain_lost) => {
            let lost = Err(IoError::Restarted { now: export.device.instance });
            finish(export, shared, work, lost);
            return Start::Answered;
        }
        _ => {
            if request.command == AtaCommand::SET_FEATURES {
                export.write_cache = false;
                // No rate holds a switch up, since it would hold up everybody. So it must cost nothing
                // but what writes, which have their rate, have left to do.
                if !export.plain_unflushed && export.plain_flushed == Some(export.device.instance) {
                    answer_switch(export, shared, work);
                    return Start::Answered;
                }
            }
            export.plain_unflushed = false;
            IoOperation::Device(Operation::Flush(export.device.instance))
        }
    })
}

/// The write cache is switched, and the device has nothing to do for it.
fn answer_switch(export: &mut Export, shared: &mut Shared, work: &PlainWork) {
    export.meter.count(Counter::Others);
    let Some(port) = shared.ports.get(&work.port).cloned() else { return };
    let header = work.request.header.answer(port.mac, export.address());
    let reply = AtaReply::to(&work.request, header);
    answer(export, shared, port.id, &work.request, reply, Buffer::empty());
}

/// As [`refusal`], for a command that was taken before its client was shut out.
fn refuse_late(export: &mut Export, shared: &mut Shared, work: &mut PlainWork) {
    if export.options.on_refusal != OnRefusal::AtaError {
        ended(export, work, false);
    }
    match export.options.on_refusal {
        OnRefusal::AtaError => {
            let refused = Err(IoError::Refused(block::RefusalReason::AccessDenied));
            finish(export, shared, work, refused);
        }
        OnRefusal::AoeError => {
            if let Some(port) = shared.ports.get(&work.port).cloned() {
                shared.refuse(export, &port, &work.request.header, AoeError::Reserved);
            }
        }
        OnRefusal::Silent => {
            shared.drop(export, Traced::ata(work.port, &work.request), Counter::Denied);
        }
    }
}

/// A command is no longer counted among those that wait.
fn ended(export: &mut Export, work: &PlainWork, succeeded: bool) {
    export.questions -= usize::from(work.is_smart()).min(export.questions);
    if work.transfers() == Some(Kind::Write)
        && let Some(recent) = export.meter.recent(work.origin.client)
    {
        recent.finished(work.request.header.tag, work.origin.arrived, succeeded);
    }
}

/// The device has answered.
pub(crate) fn finish(export: &mut Export, shared: &mut Shared, work: &PlainWork, result: IoResult) {
    ended(export, work, result.is_ok());
    let request = &work.request;
    // What was done counts also if the port is gone and nobody hears of it.
    let port = shared.ports.get(&work.port).cloned();
    let mac = port.as_ref().map_or_else(MacAddr::default, |port| port.mac);
    let reply = AtaReply::to(request, request.header.answer(mac, export.address()));
    let range = SectorRange::new(request.lba(), u64::from(request.count));
    let moves = work.transfers();
    let (is_read, is_write) = (moves == Some(Kind::Read), moves == Some(Kind::Write));
    let (reply, data) = match result.map(|completion| completion.value) {
        Ok(IoValue::Device(Answer::Data(data)))
            if is_read && data.len() as u64 == range.len_bytes() =>
        {
            export.meter.moved(Moved::Read, range.len_bytes(), shared.now);
            (reply, data)
        }
        Ok(_) if is_read => told(export, reply, IoError::Medium(range), false),
        Ok(_) if is_write => {
            export.meter.moved(Moved::Write, range.len_bytes(), shared.now);
            export.plain_unflushed |= work.volatile;
            (reply, Buffer::empty())
        }
        Ok(IoValue::Smart(said)) => match features::finish_smart(export, request, reply, said) {
            Ok(answer) => answer,
            Err(error) => told(export, reply, error, false),
        },
        Ok(_) => {
            export.plain_flushed = Some(export.device.instance);
            export.meter.moved(Moved::Flush, 0, shared.now);
            (reply, Buffer::empty())
        }
        Err(error) => {
            // What the flush was to make durable still isn't.
            export.plain_unflushed |= !is_read && !is_write && !work.is_smart();
            told(export, reply, error, is_write)
        }
    };
    if let Some(port) = port {
        answer(export, shared, port.id, request, reply, data);
    }
}

fn answer(
    export: &mut Export,
    shared: &mut Shared,
    port: PortId,
    request: &AtaRequest,
    reply: AtaReply,
    data: Buffer,
) {
    let status = TracedStatus::ata(&reply);
    shared.trace.note(shared.now, export, Traced::ata(port, request), status);
    // Without a sector of data, aoeping takes any answer to SMART for none, refusals included.
    let bare_smart =
        request.command == AtaCommand::SMART && export.abilities.smart && data.is_empty();
    let data = if bare_smart { Buffer::zeroed(SECTOR_BYTES) } else { data };
    shared.send(port, reply.emit(data));
}

fn told(
    export: &mut Export,
    reply: AtaReply,
    error: IoError,
    is_write: bool,
) -> (AtaReply, Buffer) {
    export.meter.count(Counter::of_error(error));
    (failed(reply, error, is_write), Buffer::empty())
}

/// The flush after the administrator has switched the write cache off.
pub(crate) fn start_cache_flush(export: &mut Export) -> Start {
    if !export.plain_unflushed {
        return Start::Answered;
    }
    export.plain_unflushed = false;
    Start::Io(IoOperation::Device(Operation::Flush(export.device.instance)))
}

/// The end of that flush. Nobody asked for it: a failure is told at the next flush.
pub(crate) fn finish_cache_flush(export: &mut Export, result: IoResult) {
    if let Err(error) = result {
        export.meter.count(Counter::of_error(error));
        export.plain_unflushed = true;
    }
}

/// How a failure is told in ATA's registers: each so that Linux fails this request and no other.
fn failed(reply: AtaReply, error: IoError, is_write: bool) -> AtaReply {
    let fault = |reply: AtaReply| {
        let failed = reply.failed(AtaReply::ERROR_ABORTED);
        AtaReply { status: failed.status | AtaReply::STATUS_FAULT, ..failed }
    };
    match error {
        IoError::Medium(_) if is_write => fault(reply),
        IoError::Medium(range) => AtaReply {
            lba_raw: range.start.0 & 0xffff_ffff_ffff,
            ..reply.failed(AtaReply::ERROR_UNCORRECTABLE)
        },
        IoError::OutOfRange(_) => reply.failed(AtaReply::ERROR_NOT_FOUND),
        IoError::NoSpace(_) | IoError::FlushFailed | IoError::Lost => fault(reply),
        IoError::ReadOnly
        | IoError::Restarted { .. }
        | IoError::Fenced { .. }
        | IoError::Refused(_)
        | IoError::Unsupported => reply.failed(AtaReply::ERROR_ABORTED),
    }
}

fn identify(export: &Export) -> Identify {
    Identify {
        sectors: export.device.geometry.sectors,
        serial: export.options.serial.clone(),
        firmware: FIRMWARE_TEXT.to_owned(),
        model: "etherpool".to_owned(),
        lba48: true,
        flush: true,
        write_cache: export.write_cache,
        smart: export.abilities.smart.then_some(export.smart_enabled),
        physical_block_bytes: export.device.geometry.physical_block_bytes,
    }
}
