//! Commands whose turn has come, on their way to the device and back: transfers alone or joined with
//! their neighbours ([`crate::merge`]), everything else one by one.

use block::{Access, Answer, Buffer, BufferMut, Durability, IoError, SectorRange};

use crate::Shared;
use crate::export::Export;
use crate::fenced::Ownership;
use crate::io::{IoId, IoOperation, IoRequest, IoResult, IoValue, Start, Work};
use crate::merge::{BlockLimits, Joined, Kind};
use crate::plain;
use crate::plain::change;
use crate::queue::Ticket;
use crate::session;
use crate::session::command;

/// A transfer that is with the device, for one command or several neighbours.
pub(crate) struct Flight {
    kind: Kind,
    range: SectorRange,
    commands: Joined,
}

/// Neighbours that may become one operation.
struct Stretch {
    kind: Kind,
    durability: Durability,
    commands: Joined,
    data: Vec<Buffer>,
}

/// Starts every command whose turn has come.
pub(crate) fn pump(export: &mut Export, shared: &mut Shared) {
    let limits = BlockLimits::of(&export.device.geometry);
    loop {
        take_turns(export, shared, limits);
        let Some((kind, commands)) = export.merger.poll_ready(shared.now, limits) else { break };
        start_joined(export, shared, kind, commands);
    }
    change::release(export, shared);
    if export.deadline().is_some() {
        shared.follow(export);
    }
}

/// The device has answered what `ticket` began.
pub(crate) fn finish(export: &mut Export, shared: &mut Shared, ticket: Ticket, result: IoResult) {
    let Some(flight) = export.flights.remove(&ticket) else {
        return finish_command(export, shared, ticket, result);
    };
    export.merger.finished(flight.kind, ticket, flight.range);
    match result {
        // Whose sectors it is about is found out by asking for each alone.
        Err(
            IoError::Medium(_) | IoError::NoSpace(_) | IoError::OutOfRange(_) | IoError::Refused(_),
        ) if flight.commands.len() > 1 => {
            for command in flight.commands {
                start_joined(export, shared, flight.kind, vec![command]);
            }
        }
        result if flight.commands.len() == 1 => finish_command(export, shared, ticket, result),
        result => {
            for (ticket, range) in &flight.commands {
                let part = part_of(&result, flight.range, *range);
                finish_command(export, shared, *ticket, part);
            }
        }
    }
}

fn take_turns(export: &mut Export, shared: &mut Shared, limits: BlockLimits) {
    while let Some(ticket) = export.next_turn(shared.now) {
        let Some((access, work)) = export.queue.get(ticket) else { continue };
        match (work.transfers(), access) {
            (Some(kind), Access::Read(range) | Access::Write(range)) => {
                if !export.merger.offer(shared.now, kind, ticket, range, limits) {
                    start_joined(export, shared, kind, vec![(ticket, range)]);
                }
            }
            _ => {
                if let Some(operation) = start(export, shared, ticket) {
                    request(export, shared, ticket, operation);
                }
            }
        }
    }
}

/// Each command is asked once more whether it may; what remains becomes as few operations as
/// possible.
fn start_joined(export: &mut Export, shared: &mut Shared, kind: Kind, commands: Joined) {
    let mut stretch: Option<Stretch> = None;
    for (ticket, range) in commands {
        let (durability, data) = match start(export, shared, ticket) {
            Some(IoOperation::Device(block::Operation::Write { data, durability, .. })) => {
                (durability, data)
            }
            Some(_) => (Durability::Volatile, Buffer::empty()),
            None => {
                begin(export, shared, stretch.take());
                continue;
            }
        };
        match &mut stretch {
            Some(open) if open.durability == durability => {
                open.commands.push((ticket, range));
                open.data.push(data);
            }
            other => {
                let commands = vec![(ticket, range)];
                let next = Stretch { kind, durability, commands, data: vec![data] };
                let former = other.replace(next);
                begin(export, shared, former);
            }
        }
    }
    begin(export, shared, stretch);
}

fn begin(export: &mut Export, shared: &mut Shared, stretch: Option<Stretch>) {
    let Some(Stretch { kind, durability, commands, data }) = stretch else { return };
    let (Some((ticket, first)), Some((_, last))) = (commands.first(), commands.last()) else {
        return;
    };
    let (ticket, start) = (*ticket, first.start);
    let range = SectorRange::new(start, last.end().0 - start.0);
    let operation = match kind {
        Kind::Read => IoOperation::Device(block::Operation::Read(range)),
        Kind::Write => {
            IoOperation::Device(block::Operation::Write { start, data: gathered(data), durability })
        }
    };
    export.merger.started(kind, ticket, range);
    export.flights.insert(ticket, Flight { kind, range, commands });
    request(export, shared, ticket, operation);
}

/// The data of neighbours as one buffer.
fn gathered(mut data: Vec<Buffer>) -> Buffer {
    if data.len() == 1
        && let Some(alone) = data.pop()
    {
        return alone;
    }
    let mut whole = BufferMut::for_overwriting(data.iter().map(|part| part.len()).sum());
    let mut at = 0;
    for part in data {
        whole[at..at + part.len()].copy_from_slice(&part);
        at += part.len();
    }
    whole.freeze()
}

/// One command's part of the answer to a joined operation.
fn part_of(result: &IoResult, whole: SectorRange, part: SectorRange) -> IoResult {
    let mut answer = result.clone()?;
    if let IoValue::Device(Answer::Data(data)) = &answer.value {
        if data.len() as u64 != whole.len_bytes() {
            return Err(IoError::Medium(part));
        }
        let skip = (part.start.byte_offset() - whole.start.byte_offset()) as usize;
        answer.value =
            IoValue::Device(Answer::Data(data.slice(skip, skip + part.len_bytes() as usize)));
    }
    Ok(answer)
}

/// What a command wants of the device; `None` when it has been answered without.
fn start(export: &mut Export, shared: &mut Shared, ticket: Ticket) -> Option<IoOperation> {
    // Taken out while it starts: what is decided about it looks at the whole export.
    let mut work = std::mem::replace(export.queue.get_mut(ticket)?, Work::Started);
    let origin = work.origin();
    if let Some(origin) = origin {
        export.meter.resumes(origin);
    }
    let start = match &mut work {
        Work::Plain(work) => plain::start(export, shared, work),
        Work::Session(work) => command::start(export, shared, work),
        Work::Open(work) => session::start_open(export, shared, work),
        Work::Change(work) => change::start(export, shared, work),
        Work::FlushCache => plain::start_cache_flush(export),
        Work::Started => Start::Answered,
    };
    match start {
        Start::Io(operation) => {
            work.begin();
            *export.queue.get_mut(ticket)? = work;
            Some(operation)
        }
        Start::Answered => {
            let finished = export.queue.finish(ticket);
            if let (Some(origin), Some((_, bytes))) = (origin, finished) {
                export.meter.leaves(origin, bytes);
            }
            None
        }
    }
}

fn request(export: &Export, shared: &mut Shared, ticket: Ticket, operation: IoOperation) {
    let id = IoId { export: export.id, ticket };
    shared.requests.push_back(IoRequest { id, operation });
}

fn finish_command(export: &mut Export, shared: &mut Shared, ticket: Ticket, mut result: IoResult) {
    let Some((mut work, bytes)) = export.queue.finish(ticket) else { return };
    match &mut result {
        _ if !work.is_of_device() => {}
        Ok(completion) => {
            export.set_instance(completion.instance);
            if let IoValue::Device(Answer::Holder(holder)) = &mut completion.value {
                // Whoever held the medium may live, and renews no lease here any more.
                let heard = export.owner_heard.map(|at| shared.now.since(at));
                export.set_ownership(Ownership::Held(*holder));
                export.owner_heard = Some(shared.now);
                holder.heard = heard;
            }
        }
        Err(IoError::Restarted { now }) => export.set_instance(*now),
        Err(IoError::FlushFailed) => export.flush_failed = true,
        Err(_) => {}
    }
    if let Some(origin) = work.origin() {
        export.meter.resumes(origin);
        export.meter.leaves(origin, bytes);
    }
    match &mut work {
        Work::Plain(work) => plain::finish(export, shared, work, result),
        Work::Session(work) => command::finish(export, shared, work, result),
        Work::Open(work) => session::finish_open(export, shared, work, result),
        Work::Change(work) => change::finish(export, shared, work, result),
        Work::FlushCache => plain::finish_cache_flush(export, result),
        Work::Started => {}
    }
}
