//! What commands about ownership carry, and when an owner was heard.

use std::time::Duration;

use block::{Buffer, Epoch, Holder, OwnerId, Trust};
use seal::{GRANT_BYTES_MAX, GRANT_BYTES_MIN};

use super::{ParseError, bytes_at, u64_at};

/// Payloads about ownership: CLAIM's request, and the answers to CLAIM and STATUS.
pub struct HolderPayload;

impl HolderPayload {
    /// Reads the payload of CLAIM.
    pub fn parse_claim(payload: &[u8]) -> Result<(OwnerId, Trust), ParseError> {
        let owner = OwnerId(uuid::Uuid::from_bytes(bytes_at(payload, 0)?));
        let Some((kind, grant)) = payload[OWNER_BYTES..].split_first_chunk::<TRUST_BYTES>() else {
            return Ok((owner, Trust::Unchanged));
        };
        let trust = match (kind, grant.len()) {
            ([1, 0, 0, 0, 0, 0, 0, 0], 1..) => Trust::Follow(Buffer::copy_of(grant)),
            ([2, 0, 0, 0, 0, 0, 0, 0], 1..) => Trust::Replace(Buffer::copy_of(grant)),
            ([3, 0, 0, 0, 0, 0, 0, 0], 0) => Trust::Forget,
            _ => return Err(ParseError::Reserved),
        };
        Ok((owner, trust))
    }

    /// The payload of CLAIM.
    pub fn emit_claim(owner: OwnerId, trust: &Trust) -> Buffer {
        let (kind, grant): (u8, &[u8]) = match trust {
            Trust::Unchanged => return Buffer::copy_of(owner.0.as_bytes()),
            Trust::Follow(grant) => (1, grant),
            Trust::Replace(grant) => (2, grant),
            Trust::Forget => (3, &[]),
        };
        let kind = [kind, 0, 0, 0, 0, 0, 0, 0];
        Buffer::copy_of(&[owner.0.as_bytes().as_slice(), &kind, grant].concat())
    }

    /// Whether a CLAIM may have a payload that long.
    pub(crate) fn is_claim(len: usize) -> bool {
        let grant = len.checked_sub(OWNER_BYTES + TRUST_BYTES);
        len == OWNER_BYTES
            || grant
                .is_some_and(|len| len == 0 || (GRANT_BYTES_MIN..=GRANT_BYTES_MAX).contains(&len))
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

const OWNER_BYTES: usize = 16;
const TRUST_BYTES: usize = 8;
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
