//! An open session from the client's side: numbers, window, unanswered requests.
//!
//! The link sends what the operations table hands out and takes the answers in. What an answer means
//! for the session as a whole (begin anew, lost) it reports to its owner, which has the right to act
//! on it.

use std::time::Duration;

use block::{
    Buffer, Claim, Durability, Epoch, Holder, Instance, Instant, IoError, Operation, SectorRange,
};

use super::flight::{Flight, Kind};
use super::opening::Opened;
use super::operations::{Operations, Piece, PieceAnswer, PieceLimits};
use super::outlet::{Outlet, Traffic};
use super::paths::PathId;
use super::statistics::Statistics;
use super::window::Window;
use aoe_wire::{
    Command, HolderPayload, Operation as Verb, PortId, SessionId, SessionReply, SessionRequest,
    SessionVersion, Status, WINDOW_MAX,
};

const SESSION_HEADER_BYTES: usize = SessionVersion::One.header_bytes();
/// Sectors of one discard or write-zeroes: as much as one operation of a device may concern.
const BARE_SECTORS: u64 = 2048;
/// Numbers that stay free for probes and renewals. While one request is stuck the floor stands, and
/// each of them uses a number up: four probes a second and some renewals, for as long as a request may
/// be stuck.
const NUMBERS_RESERVE: u64 = 192;
/// So many requests may be on their way beyond the window, if they are urgent.
const URGENT_MAX: usize = 8;
/// After so many transmissions of a request the window starts from small.
const TRIES_COLLAPSE: u32 = 4;
/// After so many transmissions of a large frame it is asked whether large frames pass at all.
const TRIES_LARGE: u32 = 5;

/// A request as it is sent, and sent again.
struct Request {
    verb: Verb,
    /// `None` for requests of the session's own.
    piece: Option<Piece>,
    range: SectorRange,
    durable: bool,
    force: bool,
    epoch: Epoch,
    payload: Buffer,
    /// The target's clock when this was first sent: an answer from before is from before a restart.
    clock_floor: Instant,
}

impl Request {
    fn new(verb: Verb, clock_floor: Instant) -> Request {
        Request {
            verb,
            piece: None,
            range: SectorRange::default(),
            durable: false,
            force: false,
            epoch: Epoch::OBSERVER,
            payload: Buffer::empty(),
            clock_floor,
        }
    }

    /// Bytes of the frame that carries the data, whichever way it goes.
    fn frame_bytes(&self) -> usize {
        let data = match self.verb {
            Verb::Read | Verb::Write => self.range.len_bytes() as usize,
            _ => 0,
        };
        SESSION_HEADER_BYTES + data
    }

    fn kind(&self) -> Kind {
        match self.verb {
            Verb::Read => Kind::Read,
            Verb::Write if self.durable => Kind::Durable,
            Verb::Write => Kind::Write,
            Verb::Status => Kind::Quick,
            _ => Kind::Slow,
        }
    }
}

/// Who holds the medium, as the target told.
#[derive(Clone, Copy)]
pub(crate) struct Told {
    holder: Holder,
    /// The target's clock then, by which answers that overtook each other are told apart.
    clock: Instant,
    at: Instant,
}

impl Told {
    /// An answer of the target's time `clock` said so `now`.
    pub fn new(holder: Holder, clock: Instant, now: Instant) -> Told {
        Told { holder, clock, at: now }
    }

    /// Who that is. When the owner was heard lies back farther the longer nothing was told.
    pub fn holder(&self, now: Instant) -> Holder {
        let heard = self.holder.heard.map(|age| age + now.since(self.at));
        Holder { heard, ..self.holder }
    }

    /// The one of both that was told later.
    pub fn or_newer(self, other: Option<Told>) -> Told {
        other.filter(|other| other.clock > self.clock).unwrap_or(self)
    }
}

/// What an answer means for the session.
pub(crate) enum Verdict {
    /// It belongs to nothing that is still open.
    Late,
    /// It contradicts itself.
    Malformed,
    /// All is well.
    Fine,
    /// A claim succeeded.
    Claimed(Claim),
    /// The session is no more: open anew.
    Reopen,
    /// The target's clock went back: its memory is an old one.
    RolledBack,
    /// The medium behind the target vanished.
    Gone,
}

/// An open session.
pub(crate) struct Link {
    session: SessionId,
    instance: Instance,
    /// What callers see as instance.
    shown_instance: Instance,
    flight: Flight<Request>,
    window: Window,
    numbers: u64,
    next_number: u64,
    message_sectors: u64,
    clock: Instant,
    shrunk: Option<Instant>,
    probe: Option<u64>,
    reclaim: Option<u64>,
    told: Option<Told>,
}

impl Link {
    /// The session that an opening yielded.
    pub fn new(opened: &Opened, shown_instance: Instance, window_max: u32) -> Link {
        let numbers = u64::from(opened.export.window).clamp(1, WINDOW_MAX);
        let mut flight = Flight::new();
        if !opened.round_trip.is_zero() {
            flight.set_opening_round_trip(opened.round_trip);
        }
        Link {
            session: opened.session,
            instance: opened.instance,
            shown_instance,
            flight,
            // Fewer than there are numbers: a lost frame holds the floor, and the others go on.
            window: Window::new(window_max.min(numbers as u32)),
            numbers,
            next_number: 1,
            message_sectors: u64::from(opened.export.message_sectors_max),
            clock: opened.clock,
            shrunk: None,
            probe: None,
            reclaim: None,
            told: None,
        }
    }

    /// The session's number.
    #[cfg(test)]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Whether nothing is unanswered.
    pub fn is_idle(&self) -> bool {
        self.flight.is_empty()
    }

    /// When the longest unanswered request was first sent.
    pub fn oldest(&self) -> Option<Instant> {
        self.flight.oldest()
    }

    /// When a request may count as lost.
    pub fn deadline(&self) -> Option<Instant> {
        self.flight.next_deadline()
    }

    /// Whether the target can be asked if it lives: it isn't being asked, and a number is free.
    pub fn can_probe(&self) -> bool {
        self.probe.is_none() && self.next_number < self.floor() + self.numbers
    }

    /// Present window and usual round trip of reads and writes, for people.
    pub fn describe(&self, statistics: &mut Statistics) {
        statistics.window = self.window.size() as u32;
        let usual = |kind| self.flight.round_trip(kind).smoothed();
        statistics.read_round_trip = usual(Kind::Read).or(statistics.read_round_trip);
        statistics.write_round_trip =
            usual(Kind::Write).or(usual(Kind::Durable)).or(statistics.write_round_trip);
    }

    /// Who holds the medium, if an answer has told since the last call.
    pub fn take_told(&mut self) -> Option<Told> {
        self.told.take()
    }

    /// Brings the claim to a target that doesn't know it (any more), before anything else.
    pub fn reclaim(&mut self, now: Instant, claim: Claim, outlet: &mut Outlet) {
        let request = Request {
            epoch: claim.epoch,
            payload: HolderPayload::emit_claim(claim.owner),
            ..Request::new(Verb::Claim, self.clock)
        };
        self.reclaim = Some(self.next_number);
        self.send(now, request, outlet);
    }

    /// Asks whether the target lives. As an observer: that is never fenced.
    pub fn probe(&mut self, now: Instant, outlet: &mut Outlet) {
        if self.can_probe() {
            self.probe = Some(self.next_number);
            let request = Request::new(Verb::Status, self.clock);
            self.send(now, request, outlet);
        }
    }

    /// Sends what the window admits. `epoch` is that of the claim.
    pub fn fill(&mut self, now: Instant, epoch: Epoch, traffic: &mut Traffic) {
        let Traffic { operations, outlet, statistics, .. } = traffic;
        let sectors = outlet.paths.data_sectors(SESSION_HEADER_BYTES).min(self.message_sectors);
        let limits = PieceLimits { data_sectors: sectors, bare_sectors: BARE_SECTORS };
        let reserve = NUMBERS_RESERVE.min(self.numbers / 2);
        while self.reclaim.is_none() && outlet.paths.active().is_some() {
            // A lease must not run out because a disk is slow: its target answers renewals at once.
            let (in_flight_max, reserve) = match operations.is_next_urgent() {
                true => (self.window.size() + URGENT_MAX, 1.min(reserve)),
                false => (self.window.size(), reserve),
            };
            if self.flight.len() >= in_flight_max
                || self.next_number >= self.floor() + self.numbers - reserve
            {
                return;
            }
            let Some(piece) = operations.take_piece(limits) else { return };
            let Some(operation) = operations.get(piece.operation) else { return };
            match self.request_of(piece, operation, epoch) {
                Ok(request) => {
                    statistics.requests += 1;
                    self.send(now, request, outlet);
                }
                Err(error) => operations.answer(piece, self.shown_instance, Err(error)),
            }
        }
    }

    /// Sends again what counts as lost. True when the session must be opened anew because what is on
    /// its way doesn't fit the path.
    pub fn repeat_lost(&mut self, now: Instant, traffic: &mut Traffic) -> bool {
        let Traffic { outlet, statistics, .. } = traffic;
        for number in self.flight.lost(now) {
            let Some(flying) = self.flight.get(number) else { continue };
            let (path, tries, first_sent) = (flying.path, flying.tries, flying.first_sent);
            let frame_bytes = flying.what.frame_bytes();
            let kind = flying.kind;
            outlet.paths.lost(path);
            self.note_loss(now, kind, tries);
            if tries >= TRIES_LARGE && outlet.paths.swallows_large(path, first_sent, frame_bytes) {
                outlet.paths.limit_to_standard(path);
                return true;
            }
            let Some((path, header)) = outlet.header(Command::Session) else { continue };
            let room = outlet.paths.data_sectors(SESSION_HEADER_BYTES) * 512;
            if frame_bytes > SESSION_HEADER_BYTES + room as usize {
                return true;
            }
            let Some(flying) = self.flight.get(number) else { continue };
            let frame = self.message(number, &flying.what, header);
            statistics.retransmissions += 1;
            self.flight.sent_again(number, header.tag, path, now);
            outlet.push(path, frame);
        }
        false
    }

    /// Takes an answer in.
    pub fn handle_reply(
        &mut self,
        now: Instant,
        path: PathId,
        reply: &SessionReply,
        payload: &[u8],
        traffic: &mut Traffic,
    ) -> Verdict {
        let Traffic { operations, outlet, statistics, .. } = traffic;
        if reply.session != self.session {
            return Verdict::Late;
        }
        if reply.instance != self.instance || reply.status == Status::NoSession {
            return Verdict::Reopen;
        }
        let Some(flying) = self.flight.get(reply.sequence) else { return Verdict::Late };
        let request = &flying.what;
        if request.verb != reply.operation {
            return Verdict::Malformed;
        }
        if reply.clock < request.clock_floor {
            return Verdict::RolledBack;
        }
        match reply.status {
            Status::OutsideWindow => return Verdict::Reopen,
            Status::MediumGone => return Verdict::Gone,
            _ => {}
        }
        let Some(answer) = answer_of(request, reply, payload) else { return Verdict::Malformed };
        outlet.paths.heard(path, now, request.frame_bytes());
        self.clock = self.clock.max(reply.clock);
        let Some(answered) = self.flight.answered(reply.sequence, reply.header.tag, now) else {
            return Verdict::Late;
        };
        statistics.spurious_retransmissions += u64::from(answered.was_spurious);
        if answered.was_spurious {
            self.window.restore();
        } else if answered.was_lost {
            self.window.confirm();
        }
        self.window.grow();
        // A repeated claim may be answered with what it was once answered.
        if let Ok(PieceAnswer::Holder(holder)) = &answer
            && holder.epoch == reply.epoch
        {
            self.told = Some(Told::new(*holder, reply.clock, now));
        }
        let is_own = |number: Option<u64>| number == Some(reply.sequence);
        self.probe = self.probe.filter(|_| !is_own(self.probe));
        self.reclaim = self.reclaim.filter(|_| !is_own(self.reclaim));
        let Some(piece) = answered.what.piece else { return Verdict::Fine };
        let verdict = match (operations.get(piece.operation), &answer) {
            (Some(Operation::Claim(claim)), Ok(_)) => Verdict::Claimed(*claim),
            _ => Verdict::Fine,
        };
        operations.answer(piece, self.shown_instance, answer);
        verdict
    }

    /// Puts everything unanswered back, for another session to send.
    pub fn give_up(mut self, operations: &mut Operations) {
        let pieces: Vec<Piece> =
            self.flight.take_all().into_iter().filter_map(|request| request.piece).collect();
        // Backwards, so that they are in front again in their order.
        pieces.into_iter().rev().for_each(|piece| operations.put_back(piece));
    }

    /// The one message of CLOSE: if it is lost, the target finds the session idle some day.
    pub fn close(mut self, now: Instant, outlet: &mut Outlet) {
        let request = Request::new(Verb::Close, self.clock);
        self.send(now, request, outlet);
    }

    fn floor(&self) -> u64 {
        self.flight.lowest().unwrap_or(self.next_number)
    }

    fn request_of(
        &self,
        piece: Piece,
        operation: &Operation,
        epoch: Epoch,
    ) -> Result<Request, IoError> {
        let base = |verb| Request {
            piece: Some(piece),
            range: piece.range,
            epoch,
            ..Request::new(verb, self.clock)
        };
        Ok(match operation {
            Operation::Read(_) => base(Verb::Read),
            Operation::Write { start, data, durability } => {
                let from = (piece.range.start.0 - start.0) as usize * block::SECTOR_BYTES;
                Request {
                    durable: *durability == Durability::Durable,
                    payload: data.slice(from, from + piece.range.len_bytes() as usize),
                    ..base(Verb::Write)
                }
            }
            Operation::Flush(instance) if *instance != self.shown_instance => {
                return Err(IoError::Restarted { now: self.shown_instance });
            }
            Operation::Flush(_) => base(Verb::Flush),
            Operation::Discard(_) => base(Verb::Discard),
            Operation::WriteZeroes { durability, .. } => {
                Request { durable: *durability == Durability::Durable, ..base(Verb::WriteZeroes) }
            }
            Operation::Claim(claim) => Request {
                epoch: claim.epoch,
                force: claim.force,
                payload: HolderPayload::emit_claim(claim.owner),
                ..base(Verb::Claim)
            },
            Operation::Renew => base(Verb::Status),
        })
    }

    fn send(&mut self, now: Instant, request: Request, outlet: &mut Outlet) {
        let number = self.next_number;
        self.next_number += 1;
        let Some((path, header)) = outlet.header(Command::Session) else {
            // Nothing to send it on. It counts as sent, and is sent when there is a path again.
            let nowhere = PathId { port: PortId(u32::MAX), target: Default::default() };
            self.flight.sent(number, request.kind(), request, 0, nowhere, now);
            return;
        };
        // The floor must already know of this number.
        let kind = request.kind();
        self.flight.sent(number, kind, request, header.tag, path, now);
        if let Some(flying) = self.flight.get(number) {
            let frame = self.message(number, &flying.what, header);
            outlet.push(path, frame);
        }
    }

    fn message(&self, number: u64, request: &Request, header: aoe_wire::Header) -> aoe_wire::Frame {
        SessionRequest {
            durable: request.durable,
            force: request.force,
            session: self.session,
            instance: self.instance,
            epoch: request.epoch,
            sequence: number,
            floor: self.floor(),
            lba: request.range.start,
            sectors: u32::try_from(request.range.count).unwrap_or(u32::MAX),
            ..SessionRequest::new(header, request.verb)
        }
        .emit(request.payload.clone())
    }

    /// At most one step down per round trip: the losses of one burst are one sign.
    fn note_loss(&mut self, now: Instant, kind: Kind, tries: u32) {
        let round_trip = *self.flight.round_trip(kind);
        let pause = round_trip.smoothed().unwrap_or(Duration::from_millis(1));
        if kind == Kind::Slow || self.shrunk.is_some_and(|shrunk| now < shrunk + pause) {
            return;
        }
        self.shrunk = Some(now);
        if tries >= TRIES_COLLAPSE {
            self.window.collapse();
        } else {
            self.window.shrink(&round_trip);
        }
    }
}

/// What a reply says to the request; `None` when it contradicts itself.
fn answer_of<'a>(
    request: &Request,
    reply: &SessionReply,
    payload: &'a [u8],
) -> Option<Result<PieceAnswer<'a>, IoError>> {
    if let Status::Unknown(_) = reply.status {
        // A newer target's reason. It won't get better by asking again.
        return Some(Err(IoError::Unsupported));
    }
    if let Some(error) = reply.status.to_error(reply.detail, request.range, reply.epoch) {
        return Some(Err(error));
    }
    match request.verb {
        Verb::Read => (payload.len() as u64 == request.range.len_bytes())
            .then_some(Ok(PieceAnswer::Data(payload))),
        Verb::Claim | Verb::Status => {
            HolderPayload::parse(payload).ok().map(|holder| Ok(PieceAnswer::Holder(holder)))
        }
        _ => Some(Ok(PieceAnswer::Done)),
    }
}
