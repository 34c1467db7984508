//! An open session from the client's side: numbers, window, unanswered requests.
//!
//! The window counts frames, requests and data in either direction, whatever their commands are: so none of
//! these is longer than half of it, and none shorter than a quarter only because others are on their way.
//! What a command lacks is sent or asked for again as soon as it shows;
//! where nothing shows, one frame asks.
//!
//! The link sends what the operations table hands out and takes the answers in. What an answer means
//! for the session as a whole (begin anew, lost) it reports to its owner, which has the right to act
//! on it.

use std::time::Duration;

use block::{Claim, Durability, Epoch, Holder, Instance, Instant, IoError, Operation};

use super::flight::{Flight, Kind, Transmission};
use super::opening::{Message, Opened};
use super::operations::{Operations, Piece, PieceAnswer, PieceLimits};
use super::outlet::{Outlet, Traffic};
use super::paths::{PathId, Paths};
use super::request::{Caller, Came, Portion, Request};
use super::sealed::Seals;
use super::statistics::Statistics;
use super::told::Told;
use super::window::Window;
use aoe_wire::{
    COMMAND_SECTORS_MAX, Command, Header, HolderPayload, Operation as Verb, PortId, SessionId,
    SessionReply, SessionRequest, SessionVersion, Status, WINDOW_MAX,
};

/// Sectors of one discard or write-zeroes: as much as one operation of a device may concern.
const BARE_SECTORS: u64 = 2048;
/// Numbers that stay free for probes and renewals. While one request is stuck the floor stands, and
/// each of them uses a number up: four probes a second and some renewals, for as long as a request may
/// be stuck.
const NUMBERS_RESERVE: u64 = 192;
/// So many frames may be on their way beyond the window, if they are urgent.
const URGENT_MAX: usize = 8;
/// What isn't answered may be so many of the largest windows: what has arrived of it is on its way no more, and
/// waits at the target, which has bounds too.
const HELD_WINDOWS: usize = 2;
/// After so many transmissions of a request the window starts from small.
const TRIES_COLLAPSE: u32 = 4;
/// After so many transmissions of a large frame it is asked whether large frames pass at all.
const TRIES_LARGE: u32 = 5;

/// What an answer means for the session.
pub(crate) enum Verdict {
    /// It belongs to nothing that is still open.
    Late,
    /// It contradicts itself.
    Malformed,
    /// The target didn't seal it.
    Forged,
    /// All is well.
    Fine,
    /// All is well, and there is nothing to be done: more of the answer is to come.
    Part,
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
    version: SessionVersion,
    session: SessionId,
    instance: Instance,
    /// What callers see as instance.
    shown_instance: Instance,
    flight: Flight<Request>,
    window: Window,
    numbers: u64,
    next_number: u64,
    /// Most sectors of a READ or WRITE.
    command_sectors: u32,
    clock: Instant,
    shrunk: Option<Instant>,
    probe: Option<u64>,
    reclaim: Option<u64>,
    told: Option<Told>,
    seals: Seals,
}

impl Link {
    /// The session that an opening yielded.
    pub fn new(opened: Opened, shown_instance: Instance, window_max: u32) -> Link {
        let numbers = u64::from(opened.export.window).clamp(1, WINDOW_MAX);
        let mut flight = Flight::new();
        if !opened.round_trip.is_zero() {
            flight.set_opening_round_trip(opened.round_trip);
        }
        Link {
            version: opened.version,
            session: opened.session,
            instance: opened.instance,
            shown_instance,
            flight,
            // No more than there are numbers: a lost frame holds the floor, and the others go on.
            window: Window::new(window_max.min(numbers as u32)),
            numbers,
            next_number: 1,
            command_sectors: opened.export.message_sectors_max.clamp(1, COMMAND_SECTORS_MAX),
            clock: opened.clock,
            shrunk: None,
            probe: None,
            reclaim: None,
            told: None,
            seals: Seals(opened.keys),
        }
    }

    /// The latest that the target's clock is known to be.
    pub fn clock(&self) -> Instant {
        self.clock
    }

    /// Whether its messages are sealed.
    pub fn is_sealed(&self) -> bool {
        self.seals.are_in_use()
    }

    /// Whether an answer names this session.
    pub fn is_about(&self, reply: &SessionReply) -> bool {
        reply.session == self.session
    }

    /// What an answer says, if it is the target's.
    pub fn open<'a>(
        &mut self,
        reply: &SessionReply,
        message: Message<'a>,
        opened: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Verdict> {
        match self.is_about(reply) {
            true => self.seals.open(reply, message, opened),
            false => Err(Verdict::Late),
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
            payload: HolderPayload::emit_claim(claim.owner, &claim.trust),
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

    /// Sends what the window admits.
    pub fn fill(&mut self, now: Instant, caller: Caller, traffic: &mut Traffic) {
        let Traffic { operations, outlet, statistics, .. } = traffic;
        let fragment = self.fragment_sectors(&outlet.paths);
        let reserve = NUMBERS_RESERVE.min(self.numbers / 2);
        while self.reclaim.is_none() && outlet.paths.active().is_some() {
            // A lease must not run out because a disk is slow: its target answers renewals at once.
            let (in_flight_max, reserve) = match operations.is_next_urgent() {
                true => (self.window.size() + URGENT_MAX, 1.min(reserve)),
                false => (self.window.size(), reserve),
            };
            let free = in_flight_max.saturating_sub(self.flight.frames());
            let limits = PieceLimits {
                data_sectors: self.piece_sectors(fragment, free),
                bare_sectors: BARE_SECTORS,
            };
            let Some(next) = operations.next_piece(limits) else { return };
            let frames = match operations.get(next.operation) {
                Some(Operation::Read(_) | Operation::Write { .. }) => {
                    next.range.count.div_ceil(u64::from(fragment)) as usize
                }
                _ => 1,
            };
            let beyond = in_flight_max - self.window.size();
            let is_much = self.flight.held() + frames > self.window.limit() * HELD_WINDOWS + beyond;
            if frames > free || is_much || self.next_number >= self.floor() + self.numbers - reserve
            {
                return;
            }
            let Some(piece) = operations.take_piece(limits) else { return };
            let Some(operation) = operations.get(piece.operation) else { return };
            match self.request_of(piece, operation, caller) {
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
        // What went together was one frame, perhaps, and tells of one loss.
        let mut told_of = None;
        for number in self.flight.lost(now) {
            let Some(flying) = self.flight.get(number) else { continue };
            let (path, tries, first_sent) = (flying.path, flying.tries, flying.first_sent);
            let (frame_bytes, data_sectors) = (flying.what.frame_bytes, flying.what.data_sectors());
            if !flying.what.together || told_of.replace(path) != Some(path) {
                outlet.paths.lost(path);
            }
            self.note_loss(now, number);
            if tries >= TRIES_LARGE && outlet.paths.swallows_large(path, first_sent, frame_bytes) {
                outlet.paths.limit_to_standard(path);
            }
            if outlet.paths.active().is_none() {
                continue;
            }
            if self.version == SessionVersion::One
                && data_sectors > self.fragment_sectors(&outlet.paths)
            {
                return true;
            }
            statistics.retransmissions += 1;
            self.send_again(now, number, true, outlet);
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
        let (number, tag) = (reply.sequence, reply.header.tag);
        let Some(flying) = self.flight.get_mut(number) else { return Verdict::Late };
        let request = &mut flying.what;
        if request.verb != reply.operation {
            return Verdict::Malformed;
        }
        if reply.clock < request.clock_floor {
            return Verdict::RolledBack;
        }
        match reply.status {
            Status::OutsideWindow => return Verdict::Reopen,
            Status::MediumGone => return Verdict::Gone,
            Status::Incomplete => {
                return self.handle_incomplete(now, path, reply, payload, traffic);
            }
            _ => {}
        }
        // An error instead of data says nothing of how long a frame may be.
        let mut frame_bytes = if request.verb == Verb::Read { 0 } else { request.frame_bytes };
        let answer = match (request.verb, reply.status) {
            (Verb::Read, Status::Ok) => {
                frame_bytes = self.version.header_bytes() + payload.len();
                match request.take_data(reply, payload, operations) {
                    None => return Verdict::Malformed,
                    Some(Came::Rest) => Some(Ok(PieceAnswer::Done)),
                    Some(Came::Part) => None,
                }
            }
            _ => match request.answer(reply, payload) {
                None => return Verdict::Malformed,
                answer => answer,
            },
        };
        outlet.paths.heard(path, now, frame_bytes);
        outlet.paths.told(path, reply.takes);
        self.clock = self.clock.max(reply.clock);
        let Some(answer) = answer else {
            self.handle_part(now, reply, payload, outlet, statistics);
            return Verdict::Part;
        };
        let Some(answered) = self.flight.answered(number, tag, now) else { return Verdict::Late };
        statistics.spurious_retransmissions += u64::from(answered.was_spurious);
        if answered.was_spurious {
            self.window.restore();
        } else if answered.was_lost {
            self.window.confirm();
        }
        self.window.grow(answered.what.frames);
        // Of a claim an answer tells when the former holder was heard; and a repeated one may be answered with what
        // it was once answered.
        if let Ok(PieceAnswer::Holder(holder)) = &answer
            && holder.epoch == reply.epoch
        {
            let is_claim = reply.operation == Verb::Claim;
            let heard = if is_claim { Some(Duration::ZERO) } else { holder.heard };
            self.told = Some(Told::new(Holder { heard, ..*holder }, reply.clock, now));
        }
        let is_own = |own: Option<u64>| own == Some(number);
        self.probe = self.probe.filter(|_| !is_own(self.probe));
        self.reclaim = self.reclaim.filter(|_| !is_own(self.reclaim));
        let Some(piece) = answered.what.piece else { return Verdict::Fine };
        let verdict = match (operations.get(piece.operation), &answer) {
            (Some(Operation::Claim(claim)), Ok(_)) => Verdict::Claimed(claim.clone()),
            _ => Verdict::Fine,
        };
        operations.answer(piece, self.shown_instance, answer);
        verdict
    }

    /// More of an answer is to come. Where it has come to its end nevertheless, the rest was lost or is to
    /// be asked for still.
    fn handle_part(
        &mut self,
        now: Instant,
        reply: &SessionReply,
        payload: &[u8],
        outlet: &mut Outlet,
        statistics: &mut Statistics,
    ) {
        let (number, tag) = (reply.sequence, reply.header.tag);
        self.flight.part_came(number, tag, now);
        let Some(flying) = self.flight.get(number) else { return };
        if !flying.what.is_end(reply, payload) || !self.flight.is_latest(number, tag) {
            return;
        }
        if flying.what.lacks_what_was_sent() {
            // Where frames overtake each other it may yet come. The timers know for how long.
            if !self.flight.round_trip(flying.kind).is_steady() {
                return;
            }
            self.note_loss(now, number);
            statistics.retransmissions += 1;
        }
        self.send_again(now, number, false, outlet);
    }

    /// The target lacks a part of a command.
    fn handle_incomplete(
        &mut self,
        now: Instant,
        path: PathId,
        reply: &SessionReply,
        payload: &[u8],
        traffic: &mut Traffic,
    ) -> Verdict {
        let (number, tag) = (reply.sequence, reply.header.tag);
        // What was said to an earlier transmission may be true no more, and copies of it mustn't each
        // bring copies of the command.
        let is_latest = self.flight.is_latest(number, tag);
        let Traffic { outlet, statistics, .. } = traffic;
        outlet.paths.heard(path, now, 0);
        outlet.paths.told(path, reply.takes);
        self.clock = self.clock.max(reply.clock);
        if !is_latest {
            return Verdict::Fine;
        }
        let Some(flying) = self.flight.get_mut(number) else { return Verdict::Late };
        let is_progress = match flying.what.note_missing(payload) {
            None => return Verdict::Malformed,
            Some(is_less) => is_less,
        };
        let is_loss = flying.what.lacks_what_was_sent();
        if is_loss {
            self.note_loss(now, number);
            statistics.retransmissions += 1;
        }
        if is_progress {
            self.flight.progressed(number);
        }
        self.send_again(now, number, false, outlet);
        Verdict::Fine
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
        caller: Caller,
    ) -> Result<Request, IoError> {
        let base = |verb| Request {
            piece: Some(piece),
            range: piece.range,
            epoch: caller.epoch,
            ..Request::new(verb, self.clock)
        };
        Ok(match operation {
            Operation::Read(_) => {
                let force = caller.looks_inside && caller.epoch == Epoch::OBSERVER;
                Request { force, ..base(Verb::Read) }
            }
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
                payload: HolderPayload::emit_claim(claim.owner, &claim.trust),
                ..base(Verb::Claim)
            },
            Operation::Renew => base(Verb::Status),
            Operation::AskHealth => base(Verb::Health),
        })
    }

    /// Sectors of a READ or WRITE that fit into so much of the window.
    fn piece_sectors(&self, fragment: u32, free_frames: usize) -> u64 {
        let size = self.window.size();
        let frames = free_frames.clamp((size / 4).max(1), (size / 2).max(1)) as u64;
        match self.version {
            SessionVersion::One => u64::from(fragment),
            SessionVersion::Two | SessionVersion::Three => {
                u64::from(self.command_sectors).min(frames * u64::from(fragment))
            }
        }
    }

    /// Sectors whose data fits into a frame on the active path.
    fn fragment_sectors(&self, paths: &Paths) -> u32 {
        match self.version {
            SessionVersion::One => {
                let room = paths.data_sectors(self.version.header_bytes());
                u32::try_from(room).unwrap_or(u32::MAX).clamp(1, self.command_sectors)
            }
            SessionVersion::Two | SessionVersion::Three => paths.fragment_sectors(),
        }
    }

    fn send(&mut self, now: Instant, mut request: Request, outlet: &mut Outlet) {
        let (number, kind) = (self.next_number, request.kind());
        self.next_number += 1;
        let Some((path, header)) = outlet.header(Command::Session) else {
            // Nothing to send it on. It counts as sent, and is sent when there is a path again.
            let path = PathId { port: PortId(u32::MAX), target: Default::default() };
            let nowhere = Transmission { tag: 0, path, frames: 1, at: now };
            self.flight.sent(number, kind, request, nowhere);
            return;
        };
        let fragment = self.fragment_sectors(&outlet.paths);
        let portion = request.portion(self.version, fragment, usize::MAX);
        request.frames = portion.frames;
        // Where a switch swallows long frames nobody would guess from short messages why they are lost.
        let longest_bytes = self.version.header_bytes() + fragment as usize * block::SECTOR_BYTES;
        request.together =
            self.version >= SessionVersion::Three && outlet.paths.carries(path, longest_bytes);
        // The floor must already know of this number.
        let transmission = Transmission { tag: header.tag, path, frames: portion.frames, at: now };
        self.flight.sent(number, kind, request, transmission);
        self.transmit(now, number, &portion, path, header, outlet);
    }

    /// Sends what is missing of a request, or a question for it, as far as the window has room.
    fn send_again(&mut self, now: Instant, number: u64, is_question: bool, outlet: &mut Outlet) {
        let Some((path, header)) = outlet.header(Command::Session) else { return };
        let (version, fragment) = (self.version, self.fragment_sectors(&outlet.paths));
        let (size, in_flight) = (self.window.size(), self.flight.frames());
        let Some(flying) = self.flight.get_mut(number) else { return };
        let free = size.saturating_sub(in_flight - flying.frames);
        let frames_max = free.clamp(1, (size / 2).max(1));
        flying.what.together = false;
        let portion = match is_question {
            true => flying.what.question(version, fragment, frames_max),
            false => flying.what.portion(version, fragment, frames_max),
        };
        let transmission = Transmission { tag: header.tag, path, frames: portion.frames, at: now };
        self.flight.sent_again(number, transmission);
        self.transmit(now, number, &portion, path, header, outlet);
    }

    fn transmit(
        &mut self,
        now: Instant,
        number: u64,
        portion: &Portion,
        path: PathId,
        header: Header,
        outlet: &mut Outlet,
    ) {
        let Some(flying) = self.flight.get(number) else { return };
        let request = &flying.what;
        let message = SessionRequest {
            version: self.version,
            durable: request.durable,
            force: request.force,
            session: self.session,
            instance: self.instance,
            epoch: request.epoch,
            sequence: number,
            floor: self.floor(),
            lba: request.range.start,
            sectors: u32::try_from(request.range.count).unwrap_or(u32::MAX),
            takes: u16::try_from(portion.fragment_sectors).unwrap_or(u16::MAX),
            together: request.together,
            ..SessionRequest::new(header, request.verb)
        };
        for (message, payload) in request.messages(message, portion) {
            outlet.push(path, message.emit_sealed(payload, self.seals.sealing(now)));
        }
    }

    /// At most one step down per round trip: the losses of one burst are one sign.
    fn note_loss(&mut self, now: Instant, number: u64) {
        let Some(flying) = self.flight.get(number) else { return };
        let (kind, tries) = (flying.kind, flying.tries);
        let own_frames = flying.what.frames;
        let round_trip = *self.flight.round_trip(kind);
        let pause = round_trip.smoothed().unwrap_or(Duration::from_millis(1));
        if kind == Kind::Slow || self.shrunk.is_some_and(|shrunk| now < shrunk + pause) {
            return;
        }
        self.shrunk = Some(now);
        if tries >= TRIES_COLLAPSE {
            self.window.collapse();
        } else {
            self.window.shrink(&round_trip, own_frames);
        }
    }
}
