//! Vendor command 0xF0: sequenced sessions between our own ends, in all of its versions. The byte map is
//! docs/session.md.

use block::{Buffer, Crc32c, Epoch, Instance, Instant, Lba, SECTOR_BYTES, SectorRange};

use seal::{SEAL_BYTES, Seal};

use super::sealed::{self, Sealing};
use super::{
    COMMAND_SECTORS_MAX, Command, HEADER_BYTES, Head, Header, ParseError, SectorMap, SessionId,
    Status, put, u8_at, u16_at, u32_at, u64_at,
};
use crate::{Frame, HEAD_BYTES_MAX};

pub(super) const VERSION: usize = HEADER_BYTES;
const OPERATION: usize = VERSION + 1;
const FLAGS: usize = OPERATION + 1;
const STATUS: usize = FLAGS + 1;
pub(super) const CRC: usize = STATUS + 1;
pub(super) const SESSION: usize = CRC + 4;
const INSTANCE: usize = SESSION + 8;
const EPOCH: usize = INSTANCE + 8;
const SEQUENCE: usize = EPOCH + 8;
const FLOOR_EXECUTED: usize = SEQUENCE + 8;
const LBA_CLOCK: usize = FLOOR_EXECUTED + 8;
const SECTORS: usize = LBA_CLOCK + 8;
pub(super) const PAYLOAD_LEN: usize = SECTORS + 4;
const DETAIL: usize = PAYLOAD_LEN + 4;
const END_ONE: usize = DETAIL + 8;
const _: () = assert!(END_ONE == 96);
// What version 2 has more.
const FIRST: usize = END_ONE;
const TAKES: usize = FIRST + 2;
/// Key, counter and tag: zeros where the session has no keys.
pub(super) const SEAL: usize = TAKES + 2;
const END_TWO: usize = SEAL + SEAL_BYTES;
const _: () = assert!(END_TWO == 128 && END_TWO <= HEAD_BYTES_MAX);

const FLAG_REPLY: u8 = 0x01;
const FLAG_DURABLE: u8 = 0x02;
const FLAG_FORCE: u8 = 0x04;
const FLAG_LAST: u8 = 0x08;
const FLAG_TOGETHER: u8 = 0x10;
pub(super) const ETHERNET_BYTES: usize = 14;

/// Most sequence numbers between floor and top.
pub const WINDOW_MAX: u64 = 1024;

/// Which form a message has. All are understood, and an answer has that of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionVersion {
    /// A command and its data fit into one frame.
    #[default]
    One,
    /// The data of a command travels in fragments, as many as it takes.
    Two,
    /// And messages travel together where a frame has room.
    Three,
}

impl SessionVersion {
    /// The newest one.
    pub const NEWEST: SessionVersion = SessionVersion::Three;

    /// Bytes of a message before its payload, from the first of the Ethernet header on.
    pub const fn header_bytes(self) -> usize {
        match self {
            SessionVersion::One => END_ONE,
            SessionVersion::Two | SessionVersion::Three => END_TWO,
        }
    }

    /// Whether the data of a command may be in several frames.
    pub fn has_fragments(self) -> bool {
        self >= SessionVersion::Two
    }

    /// The newest version that both ends know, where the answer to HELLO has this in its detail. Who
    /// knows the first one only has nothing there.
    pub fn of_offer(detail: u64) -> SessionVersion {
        match detail {
            0 | 1 => SessionVersion::One,
            2 => SessionVersion::Two,
            _ => SessionVersion::Three,
        }
    }

    /// What the answer to HELLO has in its detail where this is the newest version.
    pub fn offer(self) -> u64 {
        match self {
            SessionVersion::One => 0,
            SessionVersion::Two | SessionVersion::Three => self.number().into(),
        }
    }

    fn parse(raw: u8) -> Result<SessionVersion, ParseError> {
        match raw {
            1 => Ok(SessionVersion::One),
            2 => Ok(SessionVersion::Two),
            3 => Ok(SessionVersion::Three),
            _ => Err(ParseError::Version),
        }
    }

    pub(super) fn number(self) -> u8 {
        match self {
            SessionVersion::One => 1,
            SessionVersion::Two => 2,
            SessionVersion::Three => 3,
        }
    }
}

/// Sectors that one frame carries at an MTU. Where they are all that a command can have, whole 4 KiB
/// blocks if they fit.
pub fn session_sectors_max(mtu_bytes: usize, version: SessionVersion) -> u32 {
    let room = mtu_bytes.saturating_sub(version.header_bytes() - ETHERNET_BYTES) / SECTOR_BYTES;
    let sectors = u32::try_from(room).unwrap_or(u32::MAX);
    match version {
        SessionVersion::One if sectors >= 8 => sectors & !7,
        SessionVersion::One => sectors,
        SessionVersion::Two | SessionVersion::Three => sectors.min(COMMAND_SECTORS_MAX),
    }
}

/// What a message asks for or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// First step of opening: asks for the target's nonce.
    Hello,
    /// Second step of opening.
    Open,
    /// Reads sectors.
    Read,
    /// Writes sectors.
    Write,
    /// Makes durable what was answered before.
    Flush,
    /// Contents don't matter any more.
    Discard,
    /// Makes sectors read as zeros.
    WriteZeroes,
    /// Raises the medium's epoch.
    Claim,
    /// Asks who holds the medium.
    Status,
    /// Ends the session.
    Close,
    /// Asks how the drive is.
    Health,
    /// Any other.
    Unknown(u8),
}

impl Operation {
    /// Whether the server executes it at most once per sequence number.
    pub fn is_once(self) -> bool {
        matches!(
            self,
            Operation::Write
                | Operation::Flush
                | Operation::Discard
                | Operation::WriteZeroes
                | Operation::Claim
        )
    }
}

codes!(Operation {
    Hello = 0x01,
    Open = 0x02,
    Read = 0x10,
    Write = 0x11,
    Flush = 0x12,
    Discard = 0x13,
    WriteZeroes = 0x14,
    Claim = 0x15,
    Status = 0x16,
    Close = 0x17,
    Health = 0x18,
});

/// A request, or a fragment of one; its payload travels behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// Ethernet and AoE header.
    pub header: Header,
    /// Its form. The last four fields are of version 2 on, the last one of version 3.
    pub version: SessionVersion,
    /// What to do.
    pub operation: Operation,
    /// WRITE, WRITE_ZEROES: answer when it is on stable storage.
    pub durable: bool,
    /// CLAIM: whatever the medium carries. READ of an observer: whatever has an owner, as long as that is silent.
    pub force: bool,
    /// The session; none in HELLO.
    pub session: SessionId,
    /// The instance that the client means; 0 in HELLO.
    pub instance: Instance,
    /// The client's epoch; for CLAIM the one claimed.
    pub epoch: Epoch,
    /// Its number; 0 in the opening.
    pub sequence: u64,
    /// Every lower number is answered and won't be repeated.
    pub floor: u64,
    /// First sector of the command.
    pub lba: Lba,
    /// Sectors of the command.
    pub sectors: u32,
    /// WRITE: of these the first whose data is in this fragment.
    pub first: u16,
    /// Most sectors of data that its sender takes in a frame on this path; 0 doesn't say.
    pub takes: u16,
    /// Whether an answer is waited for. Unset where more fragments of a WRITE follow at once.
    pub last: bool,
    /// Whether it and its answer may go with others in frames as long as `takes` says.
    pub together: bool,
    /// What it was sealed by; what is sent gets it as it is emitted.
    pub seal: Seal,
}

impl SessionRequest {
    /// A request of `operation` that names nothing else.
    pub fn new(header: Header, operation: Operation) -> SessionRequest {
        SessionRequest {
            header,
            version: SessionVersion::One,
            operation,
            durable: false,
            force: false,
            session: SessionId::NONE,
            instance: Instance::default(),
            epoch: Epoch::OBSERVER,
            sequence: 0,
            floor: 0,
            lba: Lba(0),
            sectors: 0,
            first: 0,
            takes: 0,
            last: true,
            together: false,
            seal: Seal::default(),
        }
    }

    /// How long a frame may be in which it, or its answer, goes with others to who takes so much; 0 for alone.
    pub fn together_bytes(&self, takes: u16) -> usize {
        match self.together {
            true => self.version.header_bytes() + usize::from(takes) * SECTOR_BYTES,
            false => 0,
        }
    }

    /// The sectors it is about.
    pub fn range(&self) -> SectorRange {
        SectorRange::new(self.lba, u64::from(self.sectors))
    }

    /// A request and its payload. Whatever is wrong with it, it must be dropped: the checksum that
    /// would tell who sent it is among the things that may be wrong.
    pub fn parse(bytes: &[u8]) -> Result<(SessionRequest, &[u8]), ParseError> {
        let (raw, payload) = Raw::parse(bytes)?;
        if raw.header.response {
            return Err(ParseError::WrongKind);
        }
        let durable = raw.flags & FLAG_DURABLE != 0;
        let force = raw.flags & FLAG_FORCE != 0;
        let last = raw.flags & FLAG_LAST != 0;
        let together = raw.flags & FLAG_TOGETHER != 0;
        let writes = matches!(raw.operation, Operation::Write | Operation::WriteZeroes);
        let in_fragments = raw.version.has_fragments() && raw.operation == Operation::Write;
        if durable && !writes
            || force && !may_force(raw.operation, raw.epoch)
            || together && raw.version < SessionVersion::Three
            || (last || raw.first != 0) && !in_fragments
            || raw.status != 0
            || raw.detail != 0
        {
            return Err(ParseError::Reserved);
        }
        if !raw.has_payload(payload.len()) {
            return Err(ParseError::Length);
        }
        let request = SessionRequest {
            header: raw.header,
            version: raw.version,
            operation: raw.operation,
            durable,
            force,
            session: raw.session,
            instance: raw.instance,
            epoch: raw.epoch,
            sequence: raw.sequence,
            floor: raw.floor_or_executed,
            lba: Lba(raw.lba_or_clock),
            sectors: raw.sectors,
            first: raw.first,
            takes: raw.takes,
            last: last || !in_fragments,
            together,
            seal: raw.seal,
        };
        Ok((request, payload))
    }

    /// The frame with its checksum.
    pub fn emit(&self, payload: Buffer) -> Frame {
        self.emit_sealed(payload, None)
    }

    /// The same, sealed where the session has keys.
    pub fn emit_sealed(&self, payload: Buffer, sealing: Option<Sealing<'_>>) -> Frame {
        let in_fragments = self.version.has_fragments() && self.operation == Operation::Write;
        let raw = Raw {
            header: self.header,
            version: self.version,
            operation: self.operation,
            flags: if self.durable { FLAG_DURABLE } else { 0 }
                | if self.force { FLAG_FORCE } else { 0 }
                | if self.last && in_fragments { FLAG_LAST } else { 0 }
                | if self.together { FLAG_TOGETHER } else { 0 },
            status: 0,
            session: self.session,
            instance: self.instance,
            epoch: self.epoch,
            sequence: self.sequence,
            floor_or_executed: self.floor,
            lba_or_clock: self.lba.0,
            sectors: self.sectors,
            detail: 0,
            first: self.first,
            takes: self.takes,
            seal: Seal::default(),
        };
        raw.emit(payload, sealing).together(self.together_bytes(self.takes))
    }
}

/// The answer to a request, or a fragment of it; its payload travels behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionReply {
    /// Ethernet and AoE header.
    pub header: Header,
    /// The form of the request. The last two fields are of version 2 on.
    pub version: SessionVersion,
    /// The request's operation.
    pub operation: Operation,
    /// How it went.
    pub status: Status,
    /// What the status is about.
    pub detail: u64,
    /// The session; in HELLO's answer the one that will be.
    pub session: SessionId,
    /// The export's present instance.
    pub instance: Instance,
    /// The highest epoch that the medium has accepted.
    pub epoch: Epoch,
    /// The request's number.
    pub sequence: u64,
    /// The highest number executed so far.
    pub executed: u64,
    /// The target's boot-time clock. If it goes backwards the target has restarted.
    pub clock: Instant,
    /// The request's sectors.
    pub sectors: u32,
    /// READ: of these the first whose data is in this fragment.
    pub first: u16,
    /// Most sectors of data that its sender takes in a frame on this path; 0 doesn't say.
    pub takes: u16,
    /// What it was sealed by; what is sent gets it as it is emitted.
    pub seal: Seal,
}

impl SessionReply {
    /// A reply and its payload; to be dropped if anything is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<(SessionReply, &[u8]), ParseError> {
        let (raw, payload) = Raw::parse(bytes)?;
        if !raw.header.response {
            return Err(ParseError::WrongKind);
        }
        if raw.flags != 0 || raw.first != 0 && raw.operation != Operation::Read {
            return Err(ParseError::Reserved);
        }
        let reply = SessionReply {
            header: raw.header,
            version: raw.version,
            operation: raw.operation,
            status: Status::from(raw.status),
            detail: raw.detail,
            session: raw.session,
            instance: raw.instance,
            epoch: raw.epoch,
            sequence: raw.sequence,
            executed: raw.floor_or_executed,
            clock: Instant::from_nanos(raw.lba_or_clock),
            sectors: raw.sectors,
            first: raw.first,
            takes: raw.takes,
            seal: raw.seal,
        };
        Ok((reply, payload))
    }

    /// The frame with its checksum.
    pub fn emit(&self, payload: Buffer) -> Frame {
        self.emit_sealed(payload, None)
    }

    /// The same, sealed where the session has keys.
    pub fn emit_sealed(&self, payload: Buffer, sealing: Option<Sealing<'_>>) -> Frame {
        let raw = Raw {
            header: self.header,
            version: self.version,
            operation: self.operation,
            flags: 0,
            status: self.status.into(),
            session: self.session,
            instance: self.instance,
            epoch: self.epoch,
            sequence: self.sequence,
            floor_or_executed: self.executed,
            lba_or_clock: self.clock.as_nanos(),
            sectors: self.sectors,
            detail: self.detail,
            first: self.first,
            takes: self.takes,
            seal: Seal::default(),
        };
        raw.emit(payload, sealing)
    }
}

/// The fields that requests and replies share, before they get their meaning.
struct Raw {
    header: Header,
    version: SessionVersion,
    operation: Operation,
    /// Without [`FLAG_REPLY`], which the header says too.
    flags: u8,
    status: u8,
    session: SessionId,
    instance: Instance,
    epoch: Epoch,
    sequence: u64,
    floor_or_executed: u64,
    lba_or_clock: u64,
    sectors: u32,
    detail: u64,
    first: u16,
    takes: u16,
    seal: Seal,
}

impl Raw {
    fn parse(bytes: &[u8]) -> Result<(Raw, &[u8]), ParseError> {
        let header = Header::parse(bytes)?;
        if header.command != Command::Session {
            return Err(ParseError::WrongKind);
        }
        if !header.is_our_version() {
            return Err(ParseError::Version);
        }
        let version = SessionVersion::parse(u8_at(bytes, VERSION)?)?;
        let payload_len = usize::try_from(u32_at(bytes, PAYLOAD_LEN)?).unwrap_or(usize::MAX);
        let end = version.header_bytes().checked_add(payload_len).ok_or(ParseError::Length)?;
        if bytes.len() < version.header_bytes() {
            return Err(ParseError::Truncated);
        }
        let message = bytes.get(..end).ok_or(ParseError::Length)?;
        let (head, payload) = message.split_at(version.header_bytes());
        let operation = Operation::from(u8_at(head, OPERATION)?);
        let session = SessionId(u64_at(head, SESSION)?);
        if u32_at(head, CRC)? != checksum(operation, session, head, payload) {
            return Err(ParseError::Checksum);
        }
        let flags = u8_at(head, FLAGS)?;
        let reserved = !(FLAG_REPLY | FLAG_DURABLE | FLAG_FORCE | FLAG_LAST | FLAG_TOGETHER);
        let says_reply = flags & FLAG_REPLY != 0;
        if flags & reserved != 0 || says_reply != header.response || header.error.is_some() {
            return Err(ParseError::Reserved);
        }
        let (first, takes, seal) = match version {
            SessionVersion::One => (0, 0, Seal::default()),
            SessionVersion::Two | SessionVersion::Three => {
                (u16_at(head, FIRST)?, u16_at(head, TAKES)?, sealed::parse(head)?)
            }
        };
        let raw = Raw {
            header,
            version,
            operation,
            flags: flags & !FLAG_REPLY,
            status: u8_at(head, STATUS)?,
            session,
            instance: Instance(u64_at(head, INSTANCE)?),
            epoch: Epoch(u64_at(head, EPOCH)?),
            sequence: u64_at(head, SEQUENCE)?,
            floor_or_executed: u64_at(head, FLOOR_EXECUTED)?,
            lba_or_clock: u64_at(head, LBA_CLOCK)?,
            sectors: u32_at(head, SECTORS)?,
            detail: u64_at(head, DETAIL)?,
            first,
            takes,
            seal,
        };
        Ok((raw, payload))
    }

    /// Whether a request has the payload that its operation asks for. Unknown operations may carry
    /// anything: they are answered, so that a newer client learns where it is.
    fn has_payload(&self, len: usize) -> bool {
        match self.operation {
            Operation::Hello => len == 32,
            Operation::Open => crate::OpenPayload::is_open(len, self.version),
            Operation::Claim => crate::HolderPayload::is_claim(len),
            Operation::Write => self.is_part(len),
            Operation::Read => len == 0 || self.version.has_fragments() && self.is_map(len),
            Operation::Flush
            | Operation::Discard
            | Operation::WriteZeroes
            | Operation::Status
            | Operation::Health
            | Operation::Close => len == 0,
            Operation::Unknown(_) => true,
        }
    }

    /// Whether these bytes are data of the command, which in version 1 is all of it.
    fn is_part(&self, len: usize) -> bool {
        let (all, part) = (u64::from(self.sectors), (len / SECTOR_BYTES) as u64);
        len.is_multiple_of(SECTOR_BYTES)
            && match self.version {
                SessionVersion::One => part == all,
                _ if all == 0 => part == 0 && self.first == 0,
                _ => part > 0 && u64::from(self.first) + part <= all,
            }
    }

    fn is_map(&self, len: usize) -> bool {
        self.sectors <= COMMAND_SECTORS_MAX && len == SectorMap::len_bytes(self.sectors)
    }

    fn emit(&self, payload: Buffer, sealing: Option<Sealing<'_>>) -> Frame {
        debug_assert_eq!(self.header.command, Command::Session);
        let flags = self.flags | if self.header.response { FLAG_REPLY } else { 0 };
        let mut head = Head::new();
        self.header.emit(&mut head);
        put(&mut head, &[self.version.number(), self.operation.into(), flags, self.status]);
        put(&mut head, &[0; 4]);
        put(&mut head, &self.session.0.to_be_bytes());
        put(&mut head, &self.instance.0.to_be_bytes());
        put(&mut head, &self.epoch.0.to_be_bytes());
        put(&mut head, &self.sequence.to_be_bytes());
        put(&mut head, &self.floor_or_executed.to_be_bytes());
        put(&mut head, &self.lba_or_clock.to_be_bytes());
        put(&mut head, &self.sectors.to_be_bytes());
        put(&mut head, &(payload.len() as u32).to_be_bytes());
        put(&mut head, &self.detail.to_be_bytes());
        if self.version.has_fragments() {
            put(&mut head, &self.first.to_be_bytes());
            put(&mut head, &self.takes.to_be_bytes());
            put(&mut head, &[0; SEAL_BYTES]);
        }
        let payload = match sealing.filter(|_| self.version.has_fragments()) {
            Some(sealing) => sealing.seal(&mut head, payload, self.operation),
            None => payload,
        };
        let crc = checksum(self.operation, self.session, &head, &payload);
        head[CRC..SESSION].copy_from_slice(&crc.to_be_bytes());
        Frame::alone(head, payload)
    }
}

/// Whose payload stays readable in a sealed message: what the keys are made of.
pub(super) fn is_clear(operation: Operation) -> bool {
    operation == Operation::Open
}

/// Where force means something.
fn may_force(operation: Operation, epoch: Epoch) -> bool {
    match operation {
        Operation::Claim => true,
        Operation::Read => epoch == Epoch::OBSERVER,
        _ => false,
    }
}

/// HELLO and its answer are sealed without a session: the one who reads them doesn't know it yet.
fn checksum(operation: Operation, session: SessionId, head: &[u8], payload: &[u8]) -> u32 {
    let seed = if operation == Operation::Hello { SessionId::NONE } else { session };
    Crc32c::new()
        .update(&seed.0.to_be_bytes())
        .update(&head[..CRC])
        .update(&[0; 4])
        .update(&head[SESSION..])
        .update(payload)
        .finish()
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
