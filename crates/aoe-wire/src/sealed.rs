//! Messages of sessions with keys (docs/session.md): the tag in the header is over all of the message, its
//! Ethernet header included, but for the checksum, which is made last and is there for damage, not malice.

use block::{Buffer, BufferMut, Instant};
use seal::{Opener, Rejected, SEAL_BYTES, Seal, Sealer, TAG_BYTES};

use super::session::{CRC, SEAL, SESSION, is_clear};
use super::{Head, Operation, ParseError, bytes_at, u32_at, u64_at};

const COUNTER: usize = SEAL + 4;
const TAG: usize = COUNTER + 8;
const _: () = assert!(TAG + TAG_BYTES == SEAL + SEAL_BYTES);

/// By what a message is sealed as it is emitted.
pub struct Sealing<'a> {
    /// The session's, of this end.
    pub sealer: &'a mut Sealer,
    /// Keys have a time.
    pub now: Instant,
}

impl Sealing<'_> {
    /// Seals a message whose header is complete but for the seal and the checksum.
    pub(super) fn seal(self, head: &mut Head, payload: Buffer, operation: Operation) -> Buffer {
        let stamp = self.sealer.stamp(self.now);
        let seal = stamp.seal();
        head[SEAL..COUNTER].copy_from_slice(&seal.key.to_be_bytes());
        head[COUNTER..TAG].copy_from_slice(&seal.counter.to_be_bytes());
        let (tag, payload) = if is_readable(operation, &payload, self.sealer.encrypts()) {
            (self.sealer.seal_clear(stamp, &head[..TAG], &payload), payload)
        } else {
            let mut sealed = BufferMut::for_overwriting(payload.len());
            let tag = self.sealer.seal(stamp, &head[..TAG], &payload, &mut sealed);
            (tag, sealed.freeze())
        };
        head[TAG..TAG + TAG_BYTES].copy_from_slice(&tag);
        payload
    }
}

/// Opens a message that has come: `frame` is all of it as it came, `payload` what was parsed of it. What it says is in
/// `opened` then.
pub fn open_sealed<'a>(
    frame: &[u8],
    operation: Operation,
    seal: &Seal,
    payload: &'a [u8],
    opener: &mut Opener,
    opened: &'a mut Vec<u8>,
) -> Result<&'a [u8], Rejected> {
    let mut head: [u8; TAG] = bytes_at(frame, 0).map_err(|_| Rejected::Forged)?;
    head[CRC..SESSION].fill(0);
    if is_readable(operation, payload, opener.encrypts()) {
        return opener.open_clear(seal, &head, payload).map(|()| payload);
    }
    opened.resize(payload.len(), 0);
    opener.open(seal, &head, payload, opened)?;
    Ok(opened)
}

/// Whether a payload goes as it is, under the tag alone: both ends have to say the same of it.
fn is_readable(operation: Operation, payload: &[u8], encrypts: bool) -> bool {
    is_clear(operation) || payload.is_empty() || !encrypts
}

pub(super) fn parse(head: &[u8]) -> Result<Seal, ParseError> {
    Ok(Seal {
        key: u32_at(head, SEAL)?,
        counter: u64_at(head, COUNTER)?,
        tag: bytes_at(head, TAG)?,
    })
}
