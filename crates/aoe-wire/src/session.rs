//! Vendor command 0xF0: sequenced sessions between our own ends. The byte map is docs/session.md.

use std::time::Duration;

use block::{Buffer, Crc32c, Epoch, Holder, Instance, Instant, Lba, OwnerId, SECTOR_BYTES};
use block::{SectorRange, crc64_nvme};

use super::{
    Command, HEADER_BYTES, Head, Header, ParseError, ShelfSlot, Status, bytes_at, frame, put,
    u8_at, u32_at, u64_at,
};
use crate::Frame;

const VERSION: usize = HEADER_BYTES;
const OPERATION: usize = VERSION + 1;
const FLAGS: usize = OPERATION + 1;
const STATUS: usize = FLAGS + 1;
const CRC: usize = STATUS + 1;
const SESSION: usize = CRC + 4;
const INSTANCE: usize = SESSION + 8;
const EPOCH: usize = INSTANCE + 8;
const SEQUENCE: usize = EPOCH + 8;
const FLOOR_EXECUTED: usize = SEQUENCE + 8;
const LBA_CLOCK: usize = FLOOR_EXECUTED + 8;
const SECTORS: usize = LBA_CLOCK + 8;
const PAYLOAD_LEN: usize = SECTORS + 4;
const DETAIL: usize = PAYLOAD_LEN + 4;
/// Bytes of a message before its payload, from the first of the Ethernet header on.
pub const SESSION_HEADER_BYTES: usize = DETAIL + 8;
const _: () = assert!(SESSION_HEADER_BYTES == 96);

const SESSION_VERSION: u8 = 1;
const FLAG_REPLY: u8 = 0x01;
const FLAG_DURABLE: u8 = 0x02;
const FLAG_FORCE: u8 = 0x04;
const ETHERNET_BYTES: usize = 14;

/// Most sequence numbers between floor and top.
pub const WINDOW_MAX: u64 = 1024;

/// Sectors that one message carries at an MTU: whole 4 KiB blocks where they fit.
pub fn session_sectors_max(mtu_bytes: usize) -> u32 {
    let room = mtu_bytes.saturating_sub(SESSION_HEADER_BYTES - ETHERNET_BYTES) / SECTOR_BYTES;
    let sectors = u32::try_from(room).unwrap_or(u32::MAX);
    if sectors >= 8 { sectors & !7 } else { sectors }
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
});

/// A random number used once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub [u8; 16]);

/// The identity of a client process, made anew at each of its starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub [u8; 16]);

/// The number of a session. Both ends derive it; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl SessionId {
    /// No session yet.
    pub const NONE: SessionId = SessionId(0);

    /// The session that this opening yields at this export.
    pub fn derive(opening: &OpenPayload, instance: Instance, address: ShelfSlot) -> SessionId {
        let mut bytes = [0; 59];
        bytes[..48].copy_from_slice(&opening.bytes());
        bytes[48..56].copy_from_slice(&instance.0.to_be_bytes());
        bytes[56..58].copy_from_slice(&address.shelf.to_be_bytes());
        bytes[58] = address.slot;
        SessionId(crc64_nvme(&bytes).max(1))
    }
}

/// A request; its payload travels behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// Ethernet and AoE header.
    pub header: Header,
    /// What to do.
    pub operation: Operation,
    /// WRITE, WRITE_ZEROES: answer when it is on stable storage.
    pub durable: bool,
    /// CLAIM: whatever the medium carries.
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
    /// First sector.
    pub lba: Lba,
    /// Sectors.
    pub sectors: u32,
}

impl SessionRequest {
    /// A request of `operation` that names nothing else.
    pub fn new(header: Header, operation: Operation) -> SessionRequest {
        SessionRequest {
            header,
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
        let writes = matches!(raw.operation, Operation::Write | Operation::WriteZeroes);
        if durable && !writes
            || force && raw.operation != Operation::Claim
            || raw.status != 0
            || raw.detail != 0
        {
            return Err(ParseError::Reserved);
        }
        if !has_payload(raw.operation, raw.sectors, payload.len()) {
            return Err(ParseError::Length);
        }
        let request = SessionRequest {
            header: raw.header,
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
        };
        Ok((request, payload))
    }

    /// The frame with its checksum.
    pub fn emit(&self, payload: Buffer) -> Frame {
        let raw = Raw {
            header: self.header,
            operation: self.operation,
            flags: if self.durable { FLAG_DURABLE } else { 0 }
                | if self.force { FLAG_FORCE } else { 0 },
            status: 0,
            session: self.session,
            instance: self.instance,
            epoch: self.epoch,
            sequence: self.sequence,
            floor_or_executed: self.floor,
            lba_or_clock: self.lba.0,
            sectors: self.sectors,
            detail: 0,
        };
        raw.emit(payload)
    }
}

/// The answer to a request; its payload travels behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionReply {
    /// Ethernet and AoE header.
    pub header: Header,
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
}

impl SessionReply {
    /// A reply and its payload; to be dropped if anything is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<(SessionReply, &[u8]), ParseError> {
        let (raw, payload) = Raw::parse(bytes)?;
        if !raw.header.response {
            return Err(ParseError::WrongKind);
        }
        if raw.flags != 0 {
            return Err(ParseError::Reserved);
        }
        let reply = SessionReply {
            header: raw.header,
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
        };
        Ok((reply, payload))
    }

    /// The frame with its checksum.
    pub fn emit(&self, payload: Buffer) -> Frame {
        let raw = Raw {
            header: self.header,
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
        };
        raw.emit(payload)
    }
}

/// The payload of OPEN; HELLO carries its first and last part, HELLO's answer the middle one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenPayload {
    /// The client's nonce.
    pub client: Nonce,
    /// The target's.
    pub target: Nonce,
    /// Who opens.
    pub incarnation: Incarnation,
}

impl OpenPayload {
    /// Reads the payload of OPEN.
    pub fn parse(payload: &[u8]) -> Result<OpenPayload, ParseError> {
        Ok(OpenPayload {
            client: Nonce(bytes_at(payload, 0)?),
            target: Nonce(bytes_at(payload, 16)?),
            incarnation: Incarnation(bytes_at(payload, 32)?),
        })
    }

    /// Reads the payload of HELLO; the target's nonce is its reader's to choose.
    pub fn parse_hello(payload: &[u8]) -> Result<(Nonce, Incarnation), ParseError> {
        Ok((Nonce(bytes_at(payload, 0)?), Incarnation(bytes_at(payload, 16)?)))
    }

    /// Reads the payload of HELLO's answer.
    pub fn parse_hello_reply(payload: &[u8]) -> Result<Nonce, ParseError> {
        if payload.len() == 16 { Ok(Nonce(bytes_at(payload, 0)?)) } else { Err(ParseError::Length) }
    }

    /// The payload of HELLO.
    pub fn emit_hello(client: Nonce, incarnation: Incarnation) -> Buffer {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&client.0);
        bytes[16..].copy_from_slice(&incarnation.0);
        Buffer::copy_of(&bytes)
    }

    /// The payload of HELLO's answer.
    pub fn emit_hello_reply(target: Nonce) -> Buffer {
        Buffer::copy_of(&target.0)
    }

    /// The payload of OPEN.
    pub fn emit(&self) -> Buffer {
        Buffer::copy_of(&self.bytes())
    }

    fn bytes(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(&self.client.0);
        bytes[16..32].copy_from_slice(&self.target.0);
        bytes[32..].copy_from_slice(&self.incarnation.0);
        bytes
    }
}

/// Payloads about ownership: CLAIM's request, and the answers to CLAIM and STATUS.
pub struct HolderPayload;

impl HolderPayload {
    /// Reads the payload of CLAIM.
    pub fn parse_claim(payload: &[u8]) -> Result<OwnerId, ParseError> {
        Ok(OwnerId(uuid::Uuid::from_bytes(bytes_at(payload, 0)?)))
    }

    /// The payload of CLAIM.
    pub fn emit_claim(owner: OwnerId) -> Buffer {
        Buffer::copy_of(owner.0.as_bytes())
    }

    /// Reads the payload of an answer to CLAIM or STATUS.
    pub fn parse(payload: &[u8]) -> Result<Holder, ParseError> {
        if payload.len() != HOLDER_BYTES {
            return Err(ParseError::Length);
        }
        Ok(Holder {
            epoch: Epoch(u64_at(payload, 0)?),
            owner: OwnerId(uuid::Uuid::from_bytes(bytes_at(payload, 8)?)),
            heard: parse_heard(u64_at(payload, 24)?),
        })
    }

    /// The payload of an answer to CLAIM or STATUS.
    pub fn emit(holder: Holder) -> Buffer {
        let mut bytes = [0; HOLDER_BYTES];
        bytes[..8].copy_from_slice(&holder.epoch.0.to_be_bytes());
        bytes[8..24].copy_from_slice(holder.owner.0.as_bytes());
        bytes[24..].copy_from_slice(&emit_heard(holder.heard).to_be_bytes());
        Buffer::copy_of(&bytes)
    }
}

const HOLDER_BYTES: usize = 32;
const NEVER_HEARD: u64 = u64::MAX;

/// How long ago an owner was heard, from its field.
pub(crate) fn parse_heard(millis: u64) -> Option<Duration> {
    (millis != NEVER_HEARD).then(|| Duration::from_millis(millis))
}

/// The field of how long ago an owner was heard, in whole milliseconds.
pub(crate) fn emit_heard(heard: Option<Duration>) -> u64 {
    heard.map_or(NEVER_HEARD, |age| {
        u64::try_from(age.as_millis()).unwrap_or(NEVER_HEARD).min(NEVER_HEARD - 1)
    })
}

/// Whether a request has the payload that its operation asks for. Unknown operations may carry
/// anything: they are answered, so that a newer client learns where it is.
fn has_payload(operation: Operation, sectors: u32, len: usize) -> bool {
    match operation {
        Operation::Hello => len == 32,
        Operation::Open => len == 48,
        Operation::Claim => len == 16,
        Operation::Write => len as u64 == u64::from(sectors) * SECTOR_BYTES as u64,
        Operation::Read
        | Operation::Flush
        | Operation::Discard
        | Operation::WriteZeroes
        | Operation::Status
        | Operation::Close => len == 0,
        Operation::Unknown(_) => true,
    }
}

/// The fields that requests and replies share, before they get their meaning.
struct Raw {
    header: Header,
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
}

impl Raw {
    fn parse(bytes: &[u8]) -> Result<(Raw, &[u8]), ParseError> {
        let header = Header::parse(bytes)?;
        if header.command != Command::Session {
            return Err(ParseError::WrongKind);
        }
        if !header.is_our_version() || u8_at(bytes, VERSION)? != SESSION_VERSION {
            return Err(ParseError::Version);
        }
        let payload_len = usize::try_from(u32_at(bytes, PAYLOAD_LEN)?).unwrap_or(usize::MAX);
        let end = SESSION_HEADER_BYTES.checked_add(payload_len).ok_or(ParseError::Length)?;
        if bytes.len() < SESSION_HEADER_BYTES {
            return Err(ParseError::Truncated);
        }
        let message = bytes.get(..end).ok_or(ParseError::Length)?;
        let (head, payload) = message.split_at(SESSION_HEADER_BYTES);
        let operation = Operation::from(u8_at(head, OPERATION)?);
        let session = SessionId(u64_at(head, SESSION)?);
        if u32_at(head, CRC)? != checksum(operation, session, head, payload) {
            return Err(ParseError::Checksum);
        }
        let flags = u8_at(head, FLAGS)?;
        let reserved = !(FLAG_REPLY | FLAG_DURABLE | FLAG_FORCE);
        let says_reply = flags & FLAG_REPLY != 0;
        if flags & reserved != 0 || says_reply != header.response || header.error.is_some() {
            return Err(ParseError::Reserved);
        }
        let raw = Raw {
            header,
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
        };
        Ok((raw, payload))
    }

    fn emit(&self, payload: Buffer) -> Frame {
        debug_assert_eq!(self.header.command, Command::Session);
        let flags = self.flags | if self.header.response { FLAG_REPLY } else { 0 };
        let mut head = Head::new();
        self.header.emit(&mut head);
        put(&mut head, &[SESSION_VERSION, self.operation.into(), flags, self.status]);
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
        let crc = checksum(self.operation, self.session, &head, &payload);
        head[CRC..SESSION].copy_from_slice(&crc.to_be_bytes());
        frame(head, payload)
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
