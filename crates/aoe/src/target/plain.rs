//! Plain AoE: ATA commands of clients that know nothing of sessions.

use block::{Buffer, Durability, IoError, SECTOR_BYTES, SectorRange};

use super::export::{Export, OnRefusal, PortState};
use super::io::{IoOperation, IoResult, IoValue, Start, Work};
use super::queue::Access;
use super::stats::Drop;
use super::{FIRMWARE_TEXT, PortId, Shared};
use crate::wire::{AoeError, AtaCommand, AtaReply, AtaRequest, Header, Identify};

/// An ATA command that waits for its turn or for the device.
pub(super) struct PlainWork {
    port: PortId,
    request: AtaRequest,
    data: Buffer,
}

/// What to do with a command, decided once at the door.
enum Verdict {
    Answer(AtaReply, Buffer),
    Refuse(AoeError),
    Silence,
    Queue(Access),
}

pub(super) fn handle(export: &mut Export, shared: &mut Shared, port: &PortState, frame: &[u8]) {
    let Ok((request, data)) = AtaRequest::parse(frame) else {
        if let Ok(header) = Header::parse(frame) {
            shared.refuse(export, port, &header, AoeError::BadArgument);
        }
        return;
    };
    match judge(export, port, &request, data) {
        Verdict::Answer(reply, data) => {
            export.stats.others += 1;
            shared.send(port.id, reply.emit(data));
        }
        Verdict::Refuse(error) => shared.refuse(export, port, &request.header, error),
        Verdict::Silence => export.stats.dropped(Drop::Denied),
        Verdict::Queue(access) => enqueue(export, port, request, data, access),
    }
}

fn enqueue(
    export: &mut Export,
    port: &PortState,
    request: AtaRequest,
    data: &[u8],
    access: Access,
) {
    let len = usize::from(request.count) * SECTOR_BYTES;
    let bytes = if access == Access::Free { 0 } else { len as u64 };
    if !export.queue.has_room(bytes) {
        export.stats.dropped(Drop::QueueFull);
        return;
    }
    let data = match access {
        Access::Write(_) => data.get(..len).map_or_else(Buffer::empty, Buffer::copy_of),
        _ => Buffer::empty(),
    };
    let work = PlainWork { port: port.id, request, data };
    export.queue.push(access, bytes, Work::Plain(work));
}

fn judge(export: &mut Export, port: &PortState, request: &AtaRequest, data: &[u8]) -> Verdict {
    let header = request.header.answer(port.mac, export.address());
    let reply = AtaReply::to(request, header);
    let aborted = Verdict::Answer(reply.failed(AtaReply::ERROR_ABORTED), Buffer::empty());
    if request.command == AtaCommand::IDENTIFY {
        return match request.count {
            1 => Verdict::Answer(reply, Buffer::copy_of(&identify(export).build())),
            _ => aborted,
        };
    }
    if !export.device.ownership.is_open_to_plain_clients() {
        export.stats.refused += 1;
        return aborted;
    }
    if !export.lists.may_use(request.header.source) {
        export.stats.refused += 1;
        return match export.options.on_refusal {
            OnRefusal::AtaError => aborted,
            OnRefusal::AoeError => Verdict::Refuse(AoeError::Reserved),
            OnRefusal::Silent => Verdict::Silence,
        };
    }
    let range = SectorRange::new(request.lba(), u64::from(request.count));
    let is_write = match request.command {
        AtaCommand::READ | AtaCommand::READ_EXT => false,
        AtaCommand::WRITE | AtaCommand::WRITE_EXT => true,
        AtaCommand::FLUSH_CACHE | AtaCommand::FLUSH_CACHE_EXT => {
            return Verdict::Queue(Access::Free);
        }
        AtaCommand::CHECK_POWER_MODE => {
            return Verdict::Answer(AtaReply { count: 0xff, ..reply }, Buffer::empty());
        }
        _ => {
            export.stats.refused += 1;
            return aborted;
        }
    };
    if request.count > export.plain_sectors_max(port)
        || is_write && (data.len() as u64) < range.len_bytes()
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

fn failure(export: &mut Export, reply: AtaReply, error: IoError, is_write: bool) -> Verdict {
    export.stats.failed(error);
    Verdict::Answer(failed(reply, error, is_write), Buffer::empty())
}

/// A command's turn has come.
pub(super) fn start(export: &mut Export, shared: &mut Shared, work: &mut PlainWork) -> Start {
    let request = &work.request;
    // A claim may have come between arrival and now.
    if !export.device.ownership.is_open_to_plain_clients() {
        let refused = Err(IoError::Refused(block::RefusalReason::AccessDenied));
        finish(export, shared, work, refused);
        return Start::Answered;
    }
    let range = SectorRange::new(request.lba(), u64::from(request.count));
    Start::Io(match request.command {
        AtaCommand::READ | AtaCommand::READ_EXT => IoOperation::Read(range),
        AtaCommand::WRITE | AtaCommand::WRITE_EXT => IoOperation::Write {
            start: range.start,
            data: std::mem::replace(&mut work.data, Buffer::empty()),
            durability: if export.options.write_cache {
                Durability::Volatile
            } else {
                Durability::Durable
            },
        },
        _ if std::mem::take(&mut export.plain_lost) => {
            let lost = Err(IoError::Restarted { now: export.device.instance });
            finish(export, shared, work, lost);
            return Start::Answered;
        }
        _ => {
            export.plain_unflushed = false;
            IoOperation::Flush(export.device.instance)
        }
    })
}

/// The device has answered.
pub(super) fn finish(export: &mut Export, shared: &mut Shared, work: &PlainWork, result: IoResult) {
    let request = &work.request;
    let Some(port) = shared.ports.get(&work.port).cloned() else { return };
    let reply = AtaReply::to(request, request.header.answer(port.mac, export.address()));
    let range = SectorRange::new(request.lba(), u64::from(request.count));
    let is_read = matches!(request.command, AtaCommand::READ | AtaCommand::READ_EXT);
    let is_write = matches!(request.command, AtaCommand::WRITE | AtaCommand::WRITE_EXT);
    let (reply, data) = match result.map(|completion| completion.value) {
        Ok(IoValue::Data(data)) if is_read && data.len() as u64 == range.len_bytes() => {
            export.stats.reads += 1;
            export.stats.read_bytes += range.len_bytes();
            (reply, data)
        }
        Ok(_) if is_read => {
            let short = IoError::Medium(range);
            export.stats.failed(short);
            (failed(reply, short, false), Buffer::empty())
        }
        Ok(_) if is_write => {
            export.stats.writes += 1;
            export.stats.written_bytes += range.len_bytes();
            export.plain_unflushed |= export.options.write_cache;
            (reply, Buffer::empty())
        }
        Ok(_) => {
            export.stats.flushes += 1;
            (reply, Buffer::empty())
        }
        Err(error) => {
            export.stats.failed(error);
            (failed(reply, error, is_write), Buffer::empty())
        }
    };
    shared.send(port.id, reply.emit(data));
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
        write_cache: export.options.write_cache,
        physical_block_bytes: export.device.geometry.physical_block_bytes,
    }
}
