//! A request of a session as it is sent, and sent again: in one frame or in many, and what of its data has
//! arrived, at the target or here.

use std::ops::Range;

use block::{Buffer, Epoch, Instant, IoError, Lba, SECTOR_BYTES, SectorRange};

use super::flight::Kind;
use super::operations::{Operations, Piece, PieceAnswer};
use aoe_wire::{
    HealthPayload, HolderPayload, Operation as Verb, SectorMap, SessionReply, SessionRequest,
    SessionVersion, Status,
};

/// As whom is asked.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    /// That of the claim.
    pub epoch: Epoch,
    /// An observer wants all that is on a medium whose owner is silent.
    pub looks_inside: bool,
}

/// A request.
pub(crate) struct Request {
    pub verb: Verb,
    /// `None` for requests of the session's own.
    pub piece: Option<Piece>,
    pub range: SectorRange,
    pub durable: bool,
    pub force: bool,
    pub epoch: Epoch,
    pub payload: Buffer,
    /// The target's clock when this was first sent: an answer from before is from before a restart.
    pub clock_floor: Instant,
    /// Frames that it takes, in one direction or the other.
    pub frames: usize,
    /// The longest one of the last transmission.
    pub frame_bytes: usize,
    /// Whether the last transmission may have shared its frame with others; a repeated one goes alone.
    pub together: bool,
    /// Whose data hasn't arrived: at the target that of a WRITE, here that of a READ. `None` for all.
    pub missing: Option<Box<SectorMap>>,
    /// The last transmission was of what was missing before this sector.
    pub sent_end: u32,
}

/// What is sent of a request at once.
pub(crate) struct Portion {
    /// Of a READ or WRITE.
    sectors: SectorMap,
    /// What one frame carries of it on this path.
    pub fragment_sectors: u32,
    /// How many frames that is, in one direction or the other.
    pub frames: usize,
}

/// What came of the data of a READ.
pub(crate) enum Came {
    /// Something, or nothing new.
    Part,
    /// All that was missing.
    Rest,
}

impl Request {
    pub fn new(verb: Verb, clock_floor: Instant) -> Request {
        Request {
            verb,
            piece: None,
            range: SectorRange::default(),
            durable: false,
            force: false,
            epoch: Epoch::OBSERVER,
            payload: Buffer::empty(),
            clock_floor,
            frames: 1,
            frame_bytes: 0,
            together: false,
            missing: None,
            sent_end: 0,
        }
    }

    /// Sectors whose data it moves.
    pub fn data_sectors(&self) -> u32 {
        match self.verb {
            Verb::Read | Verb::Write => u32::try_from(self.range.count).unwrap_or(u32::MAX),
            _ => 0,
        }
    }

    pub fn kind(&self) -> Kind {
        match self.verb {
            Verb::Read => Kind::Read,
            Verb::Write if self.durable => Kind::Durable,
            Verb::Write => Kind::Write,
            Verb::Status | Verb::Health => Kind::Quick,
            _ => Kind::Slow,
        }
    }

    /// What is missing, as far as it fits into so many frames.
    pub fn portion(
        &mut self,
        version: SessionVersion,
        fragment_sectors: u32,
        frames_max: usize,
    ) -> Portion {
        let sectors = self.missing();
        self.portion_of(sectors, version, fragment_sectors, frames_max)
    }

    /// As little of what is missing as makes the target say what is missing. Of a READ we know.
    pub fn question(
        &mut self,
        version: SessionVersion,
        fragment_sectors: u32,
        frames_max: usize,
    ) -> Portion {
        let mut sectors = self.missing();
        if self.verb == Verb::Write {
            let end = sectors.hull().end;
            sectors.remove(0..end.saturating_sub(fragment_sectors));
        }
        self.portion_of(sectors, version, fragment_sectors, frames_max)
    }

    fn missing(&self) -> SectorMap {
        match &self.missing {
            Some(missing) => (**missing).clone(),
            None => SectorMap::full(self.data_sectors()),
        }
    }

    fn portion_of(
        &mut self,
        mut sectors: SectorMap,
        version: SessionVersion,
        fragment_sectors: u32,
        frames_max: usize,
    ) -> Portion {
        let (mut frames, mut end, mut longest) = (0, 0, 0);
        for part in sectors.fragments(fragment_sectors).take(frames_max.max(1)) {
            frames += 1;
            end = part.end;
            longest = longest.max(part.end - part.start);
        }
        sectors.remove(end..u32::MAX);
        self.sent_end = end;
        self.frame_bytes = version.header_bytes() + longest as usize * SECTOR_BYTES;
        Portion { sectors, fragment_sectors, frames: frames.max(1) }
    }

    /// The messages of a portion: `message` as all of them have it, and the payload of each.
    pub fn messages<'a>(
        &'a self,
        message: SessionRequest,
        portion: &'a Portion,
    ) -> impl Iterator<Item = (SessionRequest, Buffer)> + 'a {
        let in_fragments = self.verb == Verb::Write;
        let parts =
            portion.sectors.fragments(portion.fragment_sectors).filter(move |_| in_fragments);
        let fragments = parts.map(move |part: Range<u32>| {
            let [start, end] = [part.start, part.end].map(|sector| sector as usize * SECTOR_BYTES);
            let last = part.end == self.sent_end;
            let fragment = SessionRequest { first: part.start as u16, last, ..message };
            (fragment, self.payload.slice(start, end))
        });
        let other = (!in_fragments).then(|| {
            let wants_part = portion.sectors.len() < self.data_sectors();
            let payload = if wants_part { portion.sectors.emit() } else { self.payload.clone() };
            (message, payload)
        });
        fragments.chain(other)
    }

    /// Takes in what came of the data of a READ; `None` when that contradicts the request.
    pub fn take_data(
        &mut self,
        reply: &SessionReply,
        payload: &[u8],
        operations: &mut Operations,
    ) -> Option<Came> {
        let (first, count) = (u32::from(reply.first), payload.len() / SECTOR_BYTES);
        let end = first.checked_add(u32::try_from(count).ok()?)?;
        let all = self.data_sectors();
        let is_whole = count as u64 == u64::from(all);
        let fits = payload.len().is_multiple_of(SECTOR_BYTES)
            && (first < end && end <= all && reply.sectors == all);
        if !fits || reply.version == SessionVersion::One && !is_whole {
            return None;
        }
        if !is_whole {
            let missing = self.missing.get_or_insert_with(|| Box::new(SectorMap::full(all)));
            if missing.remove(first..end) == 0 {
                return Some(Came::Part);
            }
        }
        let start = Lba(self.range.start.0 + u64::from(first));
        operations.take_data(self.piece?, SectorRange::new(start, count as u64), payload);
        let is_rest = is_whole || self.missing.as_ref().is_some_and(|missing| missing.is_empty());
        Some(if is_rest { Came::Rest } else { Came::Part })
    }

    /// Whether the answer to a READ has come to the end of what was asked for.
    pub fn is_end(&self, reply: &SessionReply, payload: &[u8]) -> bool {
        reply.first as usize + payload.len() / SECTOR_BYTES == self.sent_end as usize
    }

    /// Whether something is missing that was in the last transmission or before it.
    pub fn lacks_what_was_sent(&self) -> bool {
        self.missing.as_ref().is_none_or(|missing| missing.hull().start < self.sent_end)
    }

    /// The target says what it lacks of a WRITE: whether that is less than it was. `None` when it
    /// contradicts the request.
    pub fn note_missing(&mut self, payload: &[u8]) -> Option<bool> {
        if self.verb != Verb::Write {
            return None;
        }
        let missing = SectorMap::parse(payload, self.data_sectors()).ok()?;
        if missing.is_empty() {
            return None;
        }
        let before = self.missing().len();
        let is_less = missing.len() < before;
        match &mut self.missing {
            Some(known) => **known = missing,
            None => self.missing = Some(Box::new(missing)),
        }
        Some(is_less)
    }

    /// What a reply without data says; `None` when it contradicts itself.
    pub fn answer(
        &self,
        reply: &SessionReply,
        payload: &[u8],
    ) -> Option<Result<PieceAnswer, IoError>> {
        if let Status::Unknown(_) = reply.status {
            // A newer target's reason. It won't get better by asking again.
            return Some(Err(IoError::Unsupported));
        }
        if let Some(error) = reply.status.to_error(reply.detail, self.range, reply.epoch) {
            return Some(Err(error));
        }
        match self.verb {
            Verb::Claim | Verb::Status => {
                HolderPayload::parse(payload).ok().map(|holder| Ok(PieceAnswer::Holder(holder)))
            }
            Verb::Health => HealthPayload::parse(payload).ok().map(|health| {
                // The target knows nothing, or has a word for it that isn't known here.
                health
                    .map(|health| PieceAnswer::Health(Box::new(health)))
                    .ok_or(IoError::Unsupported)
            }),
            _ => Some(Ok(PieceAnswer::Done)),
        }
    }
}
