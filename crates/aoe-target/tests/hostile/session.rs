//! Sessions from docs/session.md once more: a client that makes valid messages, and the marks by which
//! a message counts.

use crate::corpus::{CLIENTS, header};
use crate::script::Choices;

/// Of version 1, which is the shorter one.
pub const HEADER_BYTES: usize = 96;
/// Of versions 2 and 3.
const LONG_HEADER_BYTES: usize = 128;
/// The export that belongs to a pool.
pub const SHELF: u16 = 4;
pub const SLOT: u8 = 1;
/// Its owner's epoch.
pub const EPOCH: u64 = 5;
/// Its sectors: whole blocks, so that this is the labelled size as well.
pub const SECTORS: u64 = 4128;
/// What is shown to who isn't the owner, from which sector to which.
const SHOWN: [(u64, u64); 2] = [(0, 96), (SECTORS - 2048, SECTORS - 2048 + 32)];
/// Where messages begin to count sectors: at the borders of what is shown, at the end, and between.
const PLACES: [u64; 8] = [0, 0, 0, 1000, 80, SECTORS - 2064, SECTORS - 2032, SECTORS - 32];

pub const OPEN: u8 = 0x02;
pub const READ: u8 = 0x10;
pub const WRITE: u8 = 0x11;
pub const DISCARD: u8 = 0x13;
pub const ZEROES: u8 = 0x14;
pub const CLAIM: u8 = 0x15;
pub const STATUS: u8 = 0x16;
/// The status of a command of which fragments are missing.
pub const INCOMPLETE: u8 = 12;
/// No other fragment follows at once.
const LAST: u8 = 0x08;
const FORCE: u8 = 0x04;
/// It and its answer may go with others.
const TOGETHER: u8 = 0x10;
const OPERATIONS: [u8; 9] = [WRITE, WRITE, WRITE, READ, 0x12, DISCARD, ZEROES, STATUS, CLAIM];

/// CRC32C, bit by bit.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut crc = !0u32;
    for byte in parts.iter().flat_map(|part| part.iter()) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

pub fn be64(frame: &[u8], at: usize) -> u64 {
    frame
        .get(at..at + 8)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |b| u64::from_be_bytes(*b))
}

pub fn be16(frame: &[u8], at: usize) -> u16 {
    frame.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

pub fn be32(frame: &[u8], at: usize) -> u32 {
    frame
        .get(at..at + 4)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |b| u32::from_be_bytes(*b))
}

/// Whether a message is of version 2 or 3.
pub fn has_fragments(frame: &[u8]) -> bool {
    matches!(frame.get(24), Some(2 | 3))
}

/// The messages of a frame: behind one of version 3 there may be others, whole, that go the same way.
pub fn messages(frame: &[u8]) -> Vec<&[u8]> {
    let end_of = |bytes: &[u8]| {
        let is_third = bytes.len() >= LONG_HEADER_BYTES && bytes[19] == 0xf0 && bytes[24] == 3;
        let end = LONG_HEADER_BYTES + be32(bytes, 84) as usize;
        (is_third && end <= bytes.len()).then_some(end)
    };
    let (mut found, mut rest) = (Vec::new(), frame);
    while let Some((message, behind)) = end_of(rest).map(|end| rest.split_at(end))
        && end_of(behind).is_some()
        && behind[..14] == frame[..14]
    {
        found.push(message);
        rest = behind;
    }
    found.push(rest);
    found
}

/// Where a message's payload begins.
pub fn header_bytes(frame: &[u8]) -> usize {
    if has_fragments(frame) { LONG_HEADER_BYTES } else { HEADER_BYTES }
}

/// The first sector of its command that a fragment has, and how many it has.
pub fn part(frame: &[u8]) -> (usize, usize) {
    let first = if has_fragments(frame) { be16(frame, 96) } else { 0 };
    (usize::from(first), be32(frame, 84) as usize / 512)
}

/// The data of a fragment for a sector of its command, if it has it.
pub fn sector(frame: &[u8], sector: usize) -> Option<&[u8]> {
    let (first, count) = part(frame);
    let index = sector.checked_sub(first).filter(|index| *index < count)?;
    frame.get(header_bytes(frame) + index * 512..)?.get(..512)
}

/// Whether two fragments say the same of their command: all but path, floor, part and payload.
pub fn agree(one: &[u8], other: &[u8]) -> bool {
    let flags = [one, other].map(|frame| frame[26] & !(LAST | TOGETHER));
    one[24..26] == other[24..26]
        && flags[0] == flags[1]
        && one[32..64] == other[32..64]
        && one[72..84] == other[72..84]
}

/// The checksum that a message must carry; HELLO's doesn't know the session yet.
fn checksum_of(frame: &[u8]) -> Option<u32> {
    let end = header_bytes(frame) + be32(frame, 84) as usize;
    let message = frame.get(..end)?;
    let id = if message[25] == 0x01 { [0; 8] } else { message[32..40].try_into().ok()? };
    Some(crc32c(&[&id, &message[..28], &[0; 4], &message[32..]]))
}

/// Gives a message the checksum that fits what it says.
pub fn seal(frame: &mut [u8]) {
    if let Some(crc) = checksum_of(frame) {
        frame[28..32].copy_from_slice(&crc.to_be_bytes());
    }
}

/// Whether a frame is a session's message that counts, as far as its bytes tell.
pub fn is_sound(frame: &[u8]) -> bool {
    frame.len() >= header_bytes(frame)
        && frame[19] == 0xf0
        && checksum_of(frame).is_some_and(|crc| be32(frame, 28) == crc)
}

/// The epoch of a message; zero is an observer's.
pub fn epoch_of(frame: &[u8]) -> u64 {
    be64(frame, 48)
}

/// Whether a READ is of sectors that the disk shows to who asks.
pub fn is_shown(read: &[u8]) -> bool {
    let (from, count) = (be64(read, 72), u64::from(be32(read, 80)));
    let within = |(first, end): &(u64, u64)| from >= *first && from.saturating_add(count) <= *end;
    epoch_of(read) != 0 || SHOWN.iter().any(within)
}

/// Whether a READ asks for all that is on a disk whose owner is silent.
pub fn is_forced(read: &[u8]) -> bool {
    epoch_of(read) == 0 && read[26] & FORCE != 0
}

/// Where an answer says how long the owner wasn't heard.
pub fn heard_at(reply: &[u8]) -> Option<usize> {
    match reply[25] {
        OPEN => Some(header_bytes(reply) + 192),
        CLAIM | STATUS => Some(header_bytes(reply) + 24),
        _ => None,
    }
}

/// A write that goes out in fragments.
struct Long {
    sequence: u64,
    lba: u64,
    sectors: u32,
    fill: u8,
    /// Behind the fragment that went before.
    next: u32,
}

/// The owner's client.
pub struct Owner {
    id: u64,
    instance: u64,
    sequence: u64,
    /// A number for each new incarnation.
    incarnation: u8,
    opening: Vec<u8>,
    long: Option<Long>,
}

impl Owner {
    pub fn new() -> Owner {
        Owner { id: 0, instance: 0, sequence: 1, incarnation: 0, opening: Vec::new(), long: None }
    }

    /// The next message, of this version: an opening first, then commands.
    pub fn message(&mut self, version: u8, choices: &mut Choices<'_>) -> Vec<u8> {
        if !self.opening.is_empty() {
            let payload = std::mem::take(&mut self.opening);
            return self.frame(version, OPEN, 0, 0, &payload, 0);
        }
        if self.id == 0 || choices.often(8) {
            self.incarnation = self.incarnation.wrapping_add(1);
            let (id, sequence) = (std::mem::take(&mut self.id), 0);
            let payload = [[0x0c; 16], [self.incarnation; 16]].concat();
            let hello = self.frame(1, 0x01, 0, 0, &payload, sequence);
            self.id = id;
            return hello;
        }
        let operation = choices.pick(&OPERATIONS);
        let goes_on = version >= 2 && self.long.is_some() && choices.often(160);
        if version >= 2 && operation == WRITE || goes_on {
            return self.fragment(version, choices);
        }
        let (place, count) = (choices.byte(), choices.byte());
        let lba = PLACES[usize::from(place / 34)] + u64::from(place % 34);
        let sectors = u32::from(count % 4);
        // A client may look on for once.
        let looks_on = count >= 192 || operation == READ && count >= 64;
        let epoch = if looks_on { 0 } else { EPOCH };
        let repeated = choices.often(40);
        if !repeated {
            self.sequence += 1;
        }
        let payload = match operation {
            WRITE => vec![choices.byte(); sectors as usize * 512],
            CLAIM => vec![7; 16],
            READ if version >= 2 && sectors > 0 && choices.often(64) => {
                vec![choices.byte() & !(0xff >> sectors)]
            }
            _ => Vec::new(),
        };
        let mut frame = self.frame(version, operation, lba, sectors, &payload, self.sequence);
        frame[48..56].copy_from_slice(&epoch.to_be_bytes());
        if looks_on && operation == READ && choices.often(96) {
            frame[26] |= FORCE;
        }
        seal(&mut frame);
        frame
    }

    /// A part of a write, mostly of the one that went before.
    fn fragment(&mut self, version: u8, choices: &mut Choices<'_>) -> Vec<u8> {
        let goes_on = choices.often(210);
        let mut long = match self.long.take() {
            Some(long) if goes_on => long,
            _ => {
                self.sequence += 1;
                let lba = 1000 + u64::from(choices.byte() % 34);
                let sectors = 2 + u32::from(choices.byte() % 4);
                Long { sequence: self.sequence, lba, sectors, fill: choices.byte(), next: 0 }
            }
        };
        let is_astray = choices.often(48);
        let first = if is_astray { choices.byte().into() } else { long.next } % long.sectors;
        let count = (1 + u32::from(choices.byte() % 2)).min(long.sectors - first);
        long.next = first + count;
        let data = (first..first + count).flat_map(|sector| [long.fill ^ sector as u8; 512]);
        let payload: Vec<u8> = data.collect();
        // One that contradicts the others now and then.
        let lba = long.lba + u64::from(choices.often(12));
        let mut frame = self.frame(version, WRITE, lba, long.sectors, &payload, long.sequence);
        frame[97] = first as u8;
        frame[26] |= if choices.often(128) { LAST } else { 0 };
        seal(&mut frame);
        self.long = Some(long);
        frame
    }

    fn frame(
        &self,
        version: u8,
        operation: u8,
        lba: u64,
        sectors: u32,
        payload: &[u8],
        sequence: u64,
    ) -> Vec<u8> {
        let mut frame = header(CLIENTS[0], SHELF, SLOT, 0xf0, sequence as u32);
        let flags = if version == 3 && sequence.is_multiple_of(2) { TOGETHER } else { 0 };
        frame.extend([version, operation, flags, 0, 0, 0, 0, 0]);
        let opening = matches!(operation, 0x01 | OPEN);
        let epoch = if opening { 0 } else { EPOCH };
        let floor = if opening { 0 } else { sequence.saturating_sub(100) };
        for number in [self.id, self.instance, epoch, sequence, floor, lba] {
            frame.extend(number.to_be_bytes());
        }
        frame.extend(sectors.to_be_bytes());
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend([0; 8]);
        frame.resize(header_bytes(&frame), 0);
        frame.extend(payload);
        seal(&mut frame);
        frame
    }

    /// Takes note of an answer: that to HELLO has what OPEN must repeat.
    pub fn hear(&mut self, reply: &[u8]) {
        if reply.len() >= HEADER_BYTES + 16 && reply[25] == 0x01 && reply[27] == 0 {
            self.id = be64(reply, 32);
            self.instance = be64(reply, 40);
            (self.sequence, self.long) = (1, None);
            let target = &reply[HEADER_BYTES..HEADER_BYTES + 16];
            self.opening = [&[0x0c; 16], target, &[self.incarnation; 16]].concat();
        }
        // no-session: begin anew.
        if reply.len() >= HEADER_BYTES && reply[27] == 8 {
            self.id = 0;
        }
    }
}
