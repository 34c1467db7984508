//! The client of a plain AoE target: any machine's disk that speaks ATA over Ethernet.
//!
//! Plain AoE has no sequence numbers: a write that was sent twice, or doubled by the network, can be
//! executed after a later one and undo it. So each frame has a tag of its own, copies of a request
//! stay on the path of the first, and a range that was written is released for the next operation
//! only when every copy was answered or is older than the lifetime of a frame. What the network
//! itself doubles stays a risk; it is part of the class of such disks.
//!
//! Nor does it tell of a restart: whoever comes back after being lost counts as another instance.

use std::collections::BTreeMap;
use std::time::Duration;

use arrayvec::ArrayVec;
use block::{
    Answer, Buffer, Completion, DeviceEvent, DurabilityClass, Geometry, Instance, Instant, IoError,
    Lba, Operation, Outcome, RefusalReason, SECTOR_BYTES, SectorRange,
};

use super::client::{Client, Random, TRANSFER_BYTES_MAX, outcome_by_range};
use super::flight::{Flight, Kind, Transmission};
use super::operations::{Piece, PieceAnswer, PieceLimits};
use super::outlet::Traffic;
use super::paths::PathId;
use super::statistics::Statistics;
use super::window::Window;
use aoe_wire::{
    ATA_HEADER_BYTES, AoeError, AtaCommand, AtaReply, AtaRequest, Command, ExportInfo, Header,
    Identify, PortId, ShelfSlot,
};

/// Sectors per frame of a target that doesn't say: two, as old servers.
const SECTORS_DEFAULT: u64 = 2;
/// How often a lost target is asked whether it is back.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Copies of one request: enough for any patience, and a bound.
const COPIES_MAX: usize = 16;

/// How a plain client behaves.
#[derive(Clone, Debug)]
pub struct PlainOptions {
    /// The target's address.
    pub address: ShelfSlot,
    /// What the operator says about its acknowledgements.
    pub class: DurabilityClass,
    /// A request that isn't answered for so long means a lost disk.
    pub dead_after: Duration,
    /// No frame arrives later than this after it was sent.
    pub frame_lifetime: Duration,
    /// Most unanswered requests from our side.
    pub window_max: u32,
    /// Requests that the target queues, as it announced.
    pub buffer_count: u16,
    /// Sectors per request, as it announced; 0 when it didn't.
    pub sectors_max: u8,
}

impl PlainOptions {
    /// The usual ones.
    pub fn new(address: ShelfSlot, buffer_count: u16, sectors_max: u8) -> PlainOptions {
        PlainOptions {
            address,
            class: DurabilityClass::Unknown,
            dead_after: Duration::from_secs(10),
            frame_lifetime: Duration::from_secs(2),
            window_max: 64,
            buffer_count,
            sectors_max,
        }
    }
}

struct Request {
    command: AtaCommand,
    piece: Piece,
    range: SectorRange,
    payload: Buffer,
    /// Tags of copies that weren't answered.
    copies: ArrayVec<u32, COPIES_MAX>,
}

/// A written range of which copies may still be on their way.
struct Held {
    piece: Piece,
    copies: ArrayVec<u32, COPIES_MAX>,
}

/// The client's side of a plain disk. See [`Client`] for how to drive it.
pub struct Plain {
    options: PlainOptions,
    random: Random,
    identify: Identify,
    instance: Instance,
    traffic: Traffic,
    flight: Flight<Request>,
    window: Window,
    next_number: u64,
    /// Which request, or held range, a tag belongs to.
    tags: BTreeMap<u32, u64>,
    held: BTreeMap<u64, Held>,
    /// When what is held may be released.
    held_until: BTreeMap<(Instant, u64), ()>,
    last_sent: Instant,
    /// While lost: when to ask next.
    ask_at: Option<Instant>,
    ask_tag: Option<u32>,
    is_closed: bool,
    /// A flush failed under this instance: all later ones do.
    flush_failed: bool,
}

impl Plain {
    /// A disk that answered IDENTIFY like this.
    pub fn new(
        now: Instant,
        options: PlainOptions,
        identify: Identify,
        mut random: Random,
    ) -> Plain {
        // A tag that begins at random doesn't meet the late replies of a former process.
        let first_tag = random() as u32;
        let instance = Instance(random());
        let limit = options.window_max.min(u32::from(options.buffer_count).max(1));
        let mut traffic = Traffic::new(options.address, first_tag);
        traffic.events.push_back(DeviceEvent::Back(instance));
        Plain {
            traffic,
            window: Window::new(limit),
            options,
            random,
            identify,
            instance,
            flight: Flight::new(),
            next_number: 1,
            tags: BTreeMap::new(),
            held: BTreeMap::new(),
            held_until: BTreeMap::new(),
            last_sent: now,
            ask_at: None,
            ask_tag: None,
            is_closed: false,
            flush_failed: false,
        }
    }

    /// Whether the target doesn't answer.
    fn is_lost(&self) -> bool {
        self.ask_at.is_some() || self.is_closed
    }

    fn fill(&mut self, now: Instant) {
        let announced = match self.options.sectors_max {
            0 => SECTORS_DEFAULT,
            sectors => u64::from(sectors),
        };
        while !self.is_lost()
            && self.flight.frames() < self.window.size()
            && self.traffic.outlet.paths.active().is_some()
        {
            // As vblade and Linux count: the Ethernet header goes off the MTU too.
            let sectors =
                self.traffic.outlet.paths.data_sectors(ATA_HEADER_BYTES + 14).min(announced);
            let limits = PieceLimits { data_sectors: sectors, bare_sectors: sectors };
            let Some(piece) = self.traffic.operations.take_piece(limits) else { return };
            let Some(operation) = self.traffic.operations.get(piece.operation) else { return };
            let (command, payload) = self.command_of(piece.range, operation);
            let request =
                Request { command, piece, range: piece.range, payload, copies: ArrayVec::new() };
            self.traffic.statistics.requests += 1;
            self.send_first(now, request);
        }
    }

    fn command_of(&self, range: SectorRange, operation: &Operation) -> (AtaCommand, Buffer) {
        let pick = |long, short| if self.identify.lba48 { long } else { short };
        let write = pick(AtaCommand::WRITE_EXT, AtaCommand::WRITE);
        match operation {
            Operation::Write { start, data, .. } => {
                let from = (range.start.0 - start.0) as usize * SECTOR_BYTES;
                (write, data.slice(from, from + range.len_bytes() as usize))
            }
            Operation::WriteZeroes { .. } => (write, Buffer::zeroed(range.len_bytes() as usize)),
            Operation::Flush(_) => {
                (pick(AtaCommand::FLUSH_CACHE_EXT, AtaCommand::FLUSH_CACHE), Buffer::empty())
            }
            _ => (pick(AtaCommand::READ_EXT, AtaCommand::READ), Buffer::empty()),
        }
    }

    fn send_first(&mut self, now: Instant, mut request: Request) {
        let Some((path, header)) = self.traffic.outlet.header(Command::Ata) else {
            self.traffic.operations.put_back(request.piece);
            return;
        };
        let number = self.next_number;
        self.next_number += 1;
        request.copies.push(header.tag);
        self.tags.insert(header.tag, number);
        self.traffic.outlet.push(path, frame_of(&request, header));
        self.last_sent = now;
        // Copies of reads are harmless; a write is sent again only when time is really up.
        let kind = match request.command {
            AtaCommand::READ | AtaCommand::READ_EXT => Kind::Read,
            _ => Kind::Slow,
        };
        let transmission = Transmission { tag: header.tag, path, frames: 1, at: now };
        self.flight.sent(number, kind, request, transmission);
    }

    fn repeat_lost(&mut self, now: Instant) {
        for number in self.flight.lost(now) {
            let Some(flying) = self.flight.get(number) else { continue };
            let (path, kind) = (flying.path, flying.kind);
            let is_full = flying.what.copies.is_full();
            self.traffic.outlet.paths.lost(path);
            let round_trip = *self.flight.round_trip(kind);
            self.window.shrink(&round_trip, 0);
            let header = self.traffic.outlet.header_on(path, Command::Ata).filter(|_| !is_full);
            let tag = header.map_or(0, |header| header.tag);
            self.flight.sent_again(number, Transmission { tag, path, frames: 1, at: now });
            let Some(header) = header else { continue };
            self.tags.insert(header.tag, number);
            if let Some(flying) = self.flight.get_mut(number) {
                flying.what.copies.push(header.tag);
                self.traffic.outlet.push(path, frame_of(&flying.what, header));
                self.traffic.statistics.retransmissions += 1;
                self.last_sent = now;
            }
        }
    }

    fn handle_reply(&mut self, now: Instant, path: PathId, reply: &AtaReply, data: &[u8]) {
        let tag = reply.header.tag;
        if self.ask_tag == Some(tag) {
            self.handle_return(now, reply, data);
            return;
        }
        let Some(number) = self.tags.remove(&tag) else {
            self.traffic.statistics.late_replies += 1;
            return;
        };
        if self.handle_copy(number, tag) {
            return;
        }
        let Some(flying) = self.flight.get(number) else { return };
        let wanted = match flying.kind {
            Kind::Read => flying.what.range.len_bytes() as usize,
            _ => 0,
        };
        let error = error_of(reply, flying.what.command, flying.what.range);
        let answer = match (error, data.get(..wanted)) {
            (Some(error), _) => Err(error),
            (None, Some(data)) => {
                if flying.kind == Kind::Read {
                    let Request { piece, range, .. } = flying.what;
                    self.traffic.operations.take_data(piece, range, data);
                }
                Ok(PieceAnswer::Done)
            }
            (None, None) => {
                self.traffic.statistics.malformed_replies += 1;
                return;
            }
        };
        self.flush_failed |= answer.as_ref().is_err_and(|error| *error == IoError::FlushFailed);
        self.traffic.outlet.paths.heard(path, now, wanted);
        let tries = flying.tries;
        let Some(answered) = self.flight.answered(number, tag, now) else { return };
        self.traffic.statistics.spurious_retransmissions += u64::from(answered.was_spurious);
        if answered.was_spurious {
            self.window.restore();
        } else if answered.was_lost {
            self.window.confirm();
        }
        self.window.grow(1);
        let mut request = answered.what;
        request.copies.retain(|copy| *copy != tag);
        let writes = matches!(request.command, AtaCommand::WRITE | AtaCommand::WRITE_EXT);
        if writes && tries > 1 && !request.copies.is_empty() {
            self.traffic.operations.answer_and_hold(request.piece, self.instance, answer);
            self.held_until.insert((self.last_sent + self.options.frame_lifetime, number), ());
            self.held.insert(number, Held { piece: request.piece, copies: request.copies });
        } else {
            request.copies.iter().for_each(|copy| {
                self.tags.remove(copy);
            });
            self.traffic.operations.answer(request.piece, self.instance, answer);
        }
    }

    /// Whether the reply answered a further copy of something held.
    fn handle_copy(&mut self, number: u64, tag: u32) -> bool {
        let Some(held) = self.held.get_mut(&number) else { return false };
        held.copies.retain(|copy| *copy != tag);
        if held.copies.is_empty() {
            self.release(number);
        }
        true
    }

    fn release(&mut self, number: u64) {
        let Some(held) = self.held.remove(&number) else { return };
        self.held_until.retain(|(_, other), ()| *other != number);
        held.copies.iter().for_each(|copy| {
            self.tags.remove(copy);
        });
        self.traffic.operations.release(held.piece);
    }

    /// A lost disk answered IDENTIFY.
    fn handle_return(&mut self, now: Instant, reply: &AtaReply, data: &[u8]) {
        let Ok(identify) = Identify::parse(data) else { return };
        if reply.is_failure() || reply.header.error.is_some() {
            return;
        }
        if identify.serial != self.identify.serial || identify.model != self.identify.model {
            self.traffic.statistics.identity_conflicts += 1;
            return;
        }
        // Late frames of what failed may still be executed until then.
        let quiet_at = self.last_sent + self.options.frame_lifetime;
        if now < quiet_at {
            self.ask_at = Some(quiet_at);
            return;
        }
        if identify.sectors != self.identify.sectors {
            self.traffic.events.push_back(DeviceEvent::Resized);
        }
        self.identify = identify;
        self.instance = Instance((self.random)());
        self.flush_failed = false;
        self.ask_at = None;
        self.ask_tag = None;
        self.traffic.events.push_back(DeviceEvent::Back(self.instance));
    }

    fn lose(&mut self, now: Instant) {
        self.traffic.statistics.losses += 1;
        self.flight.take_all();
        self.tags.clear();
        self.held.clear();
        self.held_until.clear();
        self.traffic.operations.fail_all(IoError::Lost);
        self.ask_at = Some(now + ASK_INTERVAL);
        self.traffic.events.push_back(DeviceEvent::Lost);
    }

    fn ask(&mut self, now: Instant) {
        self.ask_at = Some(now + ASK_INTERVAL);
        self.traffic.outlet.paths.rotate();
        if let Some((path, header)) = self.traffic.outlet.header(Command::Ata) {
            self.ask_tag = Some(header.tag);
            let request = AtaRequest::new(header, AtaCommand::IDENTIFY, Lba(0), 1);
            self.traffic.outlet.push(path, request.emit(Buffer::empty()));
        }
    }

    fn dead_at(&self) -> Option<Instant> {
        self.flight.oldest().map(|oldest| oldest + self.options.dead_after)
    }
}

fn frame_of(request: &Request, header: Header) -> aoe_wire::Frame {
    let count = u8::try_from(request.range.count).unwrap_or(u8::MAX);
    AtaRequest::new(header, request.command, request.range.start, count)
        .emit(request.payload.clone())
}

/// What a reply's error flag and ATA registers mean to a caller; `None` for success.
fn error_of(reply: &AtaReply, command: AtaCommand, range: SectorRange) -> Option<IoError> {
    if let Some(error) = reply.header.error {
        return Some(match error {
            AoeError::Reserved => IoError::Refused(RefusalReason::AccessDenied),
            AoeError::DeviceUnavailable => IoError::Lost,
            AoeError::UnrecognisedCommand
            | AoeError::BadArgument
            | AoeError::ConfigStringPresent
            | AoeError::UnsupportedVersion
            | AoeError::Unknown(_) => IoError::Unsupported,
        });
    }
    if !reply.is_failure() {
        return None;
    }
    let is_flush = matches!(command, AtaCommand::FLUSH_CACHE | AtaCommand::FLUSH_CACHE_EXT);
    Some(match reply.error {
        error if error & AtaReply::ERROR_NOT_FOUND != 0 => IoError::OutOfRange(range),
        error if error & AtaReply::ERROR_UNCORRECTABLE != 0 => IoError::Medium(range),
        error if error & AtaReply::ERROR_ABORTED != 0 && is_flush => IoError::Unsupported,
        error if error & AtaReply::ERROR_ABORTED != 0 => {
            IoError::Refused(RefusalReason::AccessDenied)
        }
        _ if is_flush => IoError::FlushFailed,
        _ => IoError::Medium(range),
    })
}

impl Client for Plain {
    fn has_sessions(&self) -> bool {
        false
    }

    fn is_known(&self) -> bool {
        true
    }

    /// One that has learnt to open sessions says so on a path of its own.
    fn defends_against(&self, path: PathId) -> bool {
        !self.is_lost() && !self.traffic.outlet.paths.contains(path)
    }

    /// That is asked anew now and then.
    fn met_another(&self) -> bool {
        false
    }

    fn export(&self, _: Instant) -> Option<ExportInfo> {
        None
    }

    fn traffic(&mut self) -> &mut Traffic {
        &mut self.traffic
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.identify.sectors,
            physical_block_bytes: self.identify.physical_block_bytes,
            max_transfer_bytes: TRANSFER_BYTES_MAX,
            read_only: false,
            class: self.options.class,
        }
    }

    fn immediate_outcome(&self, operation: &Operation) -> Option<Outcome> {
        if self.is_lost() {
            return Some(Err(IoError::Lost));
        }
        let by_range =
            outcome_by_range(operation, Some(self.identify.sectors), Some(self.instance));
        let done = Ok(Completion::new(self.instance, Answer::Done));
        by_range.or_else(|| match operation {
            // What is read after a discard is undefined: what was there will do.
            Operation::Discard(_) => Some(done),
            Operation::Flush(instance) if *instance != self.instance => {
                Some(Err(IoError::Restarted { now: self.instance }))
            }
            Operation::Flush(_) if self.flush_failed => Some(Err(IoError::FlushFailed)),
            Operation::Flush(_) if self.identify.flush => None,
            // A declared disk acknowledges only what is stable; many of those have no flush.
            Operation::Flush(_) if self.options.class != DurabilityClass::Unknown => Some(done),
            Operation::Flush(_) => Some(Err(IoError::Unsupported)),
            operation if operation.is_of_server() => Some(Err(IoError::Unsupported)),
            _ => None,
        })
    }

    fn add_path(&mut self, now: Instant, path: PathId) {
        self.traffic.outlet.paths.add(path);
        self.advance(now);
    }

    fn close(&mut self, _: Instant) {
        self.is_closed = true;
        self.flight.take_all();
        self.traffic.operations.fail_all(IoError::Lost);
    }

    fn handle_frame(&mut self, now: Instant, port: PortId, frame: &[u8]) {
        if let Ok((reply, data)) = AtaReply::parse(frame)
            && let Some(path) = self.traffic.path_of(port, &reply.header)
        {
            self.handle_reply(now, path, &reply, data);
        }
        self.advance(now);
    }

    fn advance(&mut self, now: Instant) {
        if self.is_closed {
            return;
        }
        while let Some((&(at, number), ())) = self.held_until.first_key_value()
            && at <= now
        {
            self.release(number);
        }
        if self.dead_at().is_some_and(|at| at <= now) {
            self.lose(now);
        }
        if self.ask_at.is_some_and(|at| at <= now) {
            self.ask(now);
        }
        self.repeat_lost(now);
        self.fill(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.is_closed {
            return None;
        }
        let held = self.held_until.first_key_value().map(|((at, _), ())| *at);
        [held, self.dead_at(), self.ask_at, self.flight.next_deadline()].into_iter().flatten().min()
    }

    fn statistics(&self) -> Statistics {
        let mut statistics = self.traffic.statistics;
        statistics.window = self.window.size() as u32;
        statistics.read_round_trip = self.flight.round_trip(Kind::Read).smoothed();
        statistics.write_round_trip = self.flight.round_trip(Kind::Slow).smoothed();
        statistics
    }
}

#[cfg(test)]
#[path = "plain_tests.rs"]
mod tests;
